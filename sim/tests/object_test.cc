// SPDX-License-Identifier: GPL-2.0
//
// Objects behind the data path: creation, use counts, destruction, and every check on the way.
#include "mini_driver.h"
#include "packets.h"

#include <gtest/gtest.h>

namespace connectx::test {
namespace {

class Objects : public testing::Test {
  protected:
    void SetUp() override { d.open(); }

    std::uint8_t status(const Message &in, std::size_t out) { return d.command(in, out).status; }
    /// A destroy command: opcode with the number in the dword behind the header, 24 bits.
    std::uint8_t destroy(unsigned opcode, std::uint32_t id) {
        auto in = request(opcode, 16);
        store_be<std::uint32_t>(in.data() + 8, id);
        return status(in, 16);
    }

    MiniDriver d;
};

TEST_F(Objects, DestroyingWhatIsNotThere) {
    for (unsigned op :
         {MLX5_CMD_OP_DEALLOC_PD, MLX5_CMD_OP_DEALLOC_UAR, MLX5_CMD_OP_DEALLOC_TRANSPORT_DOMAIN,
          MLX5_CMD_OP_DESTROY_MKEY, MLX5_CMD_OP_DESTROY_EQ, MLX5_CMD_OP_DESTROY_CQ,
          MLX5_CMD_OP_DESTROY_SQ, MLX5_CMD_OP_DESTROY_RQ, MLX5_CMD_OP_DESTROY_TIS,
          MLX5_CMD_OP_DESTROY_TIR, MLX5_CMD_OP_DESTROY_RQT, MLX5_CMD_OP_DEALLOC_Q_COUNTER})
        EXPECT_EQ(destroy(op, 0xf0f0f0), MLX5_CMD_STAT_IX_ERR) << std::hex << op;
}

TEST_F(Objects, QueryingAndModifyingWhatIsNotThere) {
    for (unsigned op : {MLX5_CMD_OP_QUERY_MKEY, MLX5_CMD_OP_QUERY_EQ, MLX5_CMD_OP_QUERY_CQ,
                        MLX5_CMD_OP_QUERY_SQ, MLX5_CMD_OP_QUERY_RQ, MLX5_CMD_OP_QUERY_TIS,
                        MLX5_CMD_OP_QUERY_TIR, MLX5_CMD_OP_QUERY_Q_COUNTER, MLX5_CMD_OP_MODIFY_CQ,
                        MLX5_CMD_OP_MODIFY_SQ, MLX5_CMD_OP_MODIFY_RQ, MLX5_CMD_OP_MODIFY_TIS,
                        MLX5_CMD_OP_MODIFY_TIR, MLX5_CMD_OP_MODIFY_RQT}) {
        auto in = request(op, 1024);
        store_be<std::uint32_t>(in.data() + 8, 0xf0f0f0);
        EXPECT_EQ(status(in, 1024), MLX5_CMD_STAT_IX_ERR) << std::hex << op;
    }
}

TEST_F(Objects, WhatIsInUseStays) {
    TestCq cq = d.create_cq();
    TestSq sq = d.create_sq(cq);
    TestRq rq = d.create_rq(cq, {});
    const auto rqt = d.create_rqt({rq.id});
    auto tir_in = REQUEST(create_tir, CREATE_TIR);
    IFC_SET(create_tir_in, Bytes(tir_in), ctx.transport_domain, d.td);
    IFC_SET(create_tir_in, Bytes(tir_in), ctx.disp_type, 1);
    IFC_SET(create_tir_in, Bytes(tir_in), ctx.indirect_table, rqt);
    const auto tirn =
        IFC_GET(create_tir_out, ConstBytes(d.must(tir_in, IFC_BYTES(create_tir_out))), tirn);
    EXPECT_EQ(destroy(MLX5_CMD_OP_DESTROY_RQT, rqt), MLX5_CMD_STAT_RES_BUSY);
    EXPECT_EQ(destroy(MLX5_CMD_OP_DESTROY_RQ, rq.id), MLX5_CMD_STAT_RES_BUSY);
    EXPECT_EQ(destroy(MLX5_CMD_OP_DESTROY_CQ, cq.id), MLX5_CMD_STAT_RES_BUSY);
    EXPECT_EQ(destroy(MLX5_CMD_OP_DESTROY_EQ, d.comp_eq.id), MLX5_CMD_STAT_RES_BUSY);
    EXPECT_EQ(destroy(MLX5_CMD_OP_DEALLOC_PD, d.pd), MLX5_CMD_STAT_RES_BUSY);
    EXPECT_EQ(destroy(MLX5_CMD_OP_DEALLOC_UAR, d.uar), MLX5_CMD_STAT_RES_BUSY);
    EXPECT_EQ(destroy(MLX5_CMD_OP_DEALLOC_TRANSPORT_DOMAIN, d.td), MLX5_CMD_STAT_RES_BUSY);
    const auto tis = d.create_tis();
    EXPECT_EQ(destroy(MLX5_CMD_OP_DESTROY_TIS, tis), MLX5_CMD_STAT_OK);
    // In the order of a driver's teardown everything goes.
    EXPECT_EQ(destroy(MLX5_CMD_OP_DESTROY_TIR, tirn), MLX5_CMD_STAT_OK);
    EXPECT_EQ(destroy(MLX5_CMD_OP_DESTROY_RQT, rqt), MLX5_CMD_STAT_OK);
    EXPECT_EQ(destroy(MLX5_CMD_OP_DESTROY_RQ, rq.id), MLX5_CMD_STAT_OK);
    EXPECT_EQ(destroy(MLX5_CMD_OP_DESTROY_SQ, sq.id), MLX5_CMD_STAT_OK);
    EXPECT_EQ(destroy(MLX5_CMD_OP_DESTROY_CQ, cq.id), MLX5_CMD_STAT_OK);
    EXPECT_EQ(destroy(MLX5_CMD_OP_DESTROY_MKEY, d.lkey >> 8), MLX5_CMD_STAT_OK);
    EXPECT_EQ(destroy(MLX5_CMD_OP_DESTROY_EQ, d.comp_eq.id), MLX5_CMD_STAT_OK);
    EXPECT_EQ(destroy(MLX5_CMD_OP_DESTROY_EQ, d.async_eq.id), MLX5_CMD_STAT_OK);
    EXPECT_EQ(destroy(MLX5_CMD_OP_DEALLOC_PD, d.pd), MLX5_CMD_STAT_OK);
    EXPECT_EQ(destroy(MLX5_CMD_OP_DEALLOC_UAR, d.uar), MLX5_CMD_STAT_OK);
}

TEST_F(Objects, SqIsChecked) {
    TestCq cq = d.create_cq();
    TestSq sq = d.create_sq(cq); // makes the TIS too
    const auto create = [&](const std::function<void(Bytes)> &change) {
        Message in = d.sq_request(sq, 6);
        change(IFC_AT(create_sq_in, Bytes(in), ctx));
        return status(in, IFC_BYTES(create_sq_out));
    };
#define CHANGE(field, value) [](Bytes c) { IFC_SET(sqc, c, field, value); }
    EXPECT_EQ(create(CHANGE(state, 1)), MLX5_CMD_STAT_BAD_PARAM_ERR);
    EXPECT_EQ(create(CHANGE(hairpin, 1)), MLX5_CMD_STAT_BAD_PARAM_ERR);
    EXPECT_EQ(create(CHANGE(packet_pacing_rate_limit_index, 3)), MLX5_CMD_STAT_BAD_PARAM_ERR);
    EXPECT_EQ(create(CHANGE(tis_lst_sz, 2)), MLX5_CMD_STAT_LIM_ERR);
    EXPECT_EQ(create(CHANGE(tis_num_0, 0xfffff)), MLX5_CMD_STAT_BAD_RES_ERR);
    EXPECT_EQ(create(CHANGE(cqn, 0xfffff)), MLX5_CMD_STAT_BAD_RES_ERR);
    EXPECT_EQ(create(CHANGE(wq.pd, 0xfffff)), MLX5_CMD_STAT_BAD_RES_ERR);
    EXPECT_EQ(create(CHANGE(wq.uar_page, 0xfffff)), MLX5_CMD_STAT_BAD_RES_ERR);
    EXPECT_EQ(create(CHANGE(wq.wq_type, MLX5_WQ_TYPE_LINKED_LIST)), MLX5_CMD_STAT_BAD_PARAM_ERR);
    EXPECT_EQ(create(CHANGE(wq.log_wq_stride, 7)), MLX5_CMD_STAT_BAD_INP_LEN_ERR);
    EXPECT_EQ(create(CHANGE(wq.log_wq_sz, 20)), MLX5_CMD_STAT_LIM_ERR);
    EXPECT_EQ(create(CHANGE(wq.log_wq_sz, 12)), MLX5_CMD_STAT_BAD_INP_LEN_ERR);
    EXPECT_EQ(create(CHANGE(wq.page_offset, 1)), MLX5_CMD_STAT_BAD_PARAM_ERR);
    EXPECT_EQ(create(CHANGE(wq.wq_signature, 1)), MLX5_CMD_STAT_BAD_PARAM_ERR);
    EXPECT_EQ(create(CHANGE(wq.log_wq_pg_sz, 25)), MLX5_CMD_STAT_BAD_PARAM_ERR);
#undef CHANGE
    EXPECT_EQ(create([](Bytes c) { IFC_SET64(sqc, c, wq.dbr_addr, 0x1001); }),
              MLX5_CMD_STAT_BAD_PARAM_ERR);
    EXPECT_EQ(
        create([](Bytes c) { store_be<std::uint64_t>(IFC_AT(sqc, c, wq.pas).data(), 0x1234); }),
        MLX5_CMD_STAT_BAD_PARAM_ERR);
    EXPECT_EQ(create([](Bytes) {}), MLX5_CMD_STAT_OK);
}

TEST_F(Objects, RqIsChecked) {
    TestCq cq = d.create_cq();
    const auto create = [&](const std::function<void(Bytes)> &change) {
        auto in = request(MLX5_CMD_OP_CREATE_RQ, IFC_BYTES(create_rq_in) + 8);
        const Bytes c = IFC_AT(create_rq_in, Bytes(in), ctx);
        IFC_SET(rqc, c, cqn, cq.id);
        IFC_SET(rqc, c, wq.wq_type, MLX5_WQ_TYPE_CYCLIC);
        IFC_SET(rqc, c, wq.log_wq_stride, 4);
        IFC_SET(rqc, c, wq.log_wq_sz, 4);
        IFC_SET(rqc, c, wq.pd, d.pd);
        store_be<std::uint64_t>(IFC_AT(rqc, c, wq.pas).data(), FakeHost::kBase + 4096);
        change(c);
        return status(in, IFC_BYTES(create_rq_out));
    };
#define CHANGE(field, value) [](Bytes c) { IFC_SET(rqc, c, field, value); }
    EXPECT_EQ(create([](Bytes) {}), MLX5_CMD_STAT_OK);
    EXPECT_EQ(create(CHANGE(wq.pd, 0)), MLX5_CMD_STAT_OK) << "nobody's: the drop queue";
    EXPECT_EQ(create(CHANGE(wq.pd, 0xfffff)), MLX5_CMD_STAT_BAD_RES_ERR);
    EXPECT_EQ(create(CHANGE(cqn, 0xfffff)), MLX5_CMD_STAT_BAD_RES_ERR);
    EXPECT_EQ(create(CHANGE(counter_set_id, 77)), MLX5_CMD_STAT_BAD_RES_ERR);
    EXPECT_EQ(create(CHANGE(hairpin, 1)), MLX5_CMD_STAT_BAD_PARAM_ERR);
    EXPECT_EQ(create(CHANGE(delay_drop_en, 1)), MLX5_CMD_STAT_BAD_PARAM_ERR);
    EXPECT_EQ(create(CHANGE(scatter_fcs, 1)), MLX5_CMD_STAT_BAD_PARAM_ERR);
    EXPECT_EQ(create(CHANGE(mem_rq_type, 1)), MLX5_CMD_STAT_BAD_PARAM_ERR);
    EXPECT_EQ(create(CHANGE(state, 1)), MLX5_CMD_STAT_BAD_PARAM_ERR);
    EXPECT_EQ(create(CHANGE(wq.wq_type, 9)), MLX5_CMD_STAT_BAD_PARAM_ERR);
    EXPECT_EQ(create(CHANGE(wq.log_wq_stride, 3)), MLX5_CMD_STAT_BAD_PARAM_ERR);
    EXPECT_EQ(create(CHANGE(wq.shampo_enable, 1)), MLX5_CMD_STAT_BAD_PARAM_ERR);
    const auto striding = [&](unsigned strides, unsigned size) {
        return create([=](Bytes c) {
            IFC_SET(rqc, c, wq.wq_type, MLX5_WQ_TYPE_CYCLIC_STRIDING_RQ);
            IFC_SET(rqc, c, wq.log_wqe_num_of_strides, strides);
            IFC_SET(rqc, c, wq.log_wqe_stride_size, size);
        });
    };
    EXPECT_EQ(striding(0, 0), MLX5_CMD_STAT_OK);
    EXPECT_EQ(striding(0, 7), MLX5_CMD_STAT_OK);
    EXPECT_EQ(striding(8, 0), MLX5_CMD_STAT_BAD_PARAM_ERR) << "2^1 strides";
    EXPECT_EQ(striding(0xa, 0), MLX5_CMD_STAT_OK) << "2^3 strides";
    EXPECT_EQ(striding(7, 0), MLX5_CMD_STAT_OK) << "2^16 strides";
#undef CHANGE
}

TEST_F(Objects, RqStateAndCounterCanChange) {
    TestCq cq = d.create_cq();
    TestRq rq = d.create_rq(cq, {});
    auto in = REQUEST(modify_rq, MODIFY_RQ);
    IFC_SET(modify_rq_in, Bytes(in), rqn, rq.id);
    IFC_SET(modify_rq_in, Bytes(in), rq_state, 1);
    IFC_SET(modify_rq_in, Bytes(in), ctx.state, 1);
    IFC_SET64(modify_rq_in, Bytes(in), modify_bitmask,
              MLX5_MODIFY_RQ_IN_MODIFY_BITMASK_RQ_COUNTER_SET_ID);
    IFC_SET(modify_rq_in, Bytes(in), ctx.counter_set_id, 9);
    EXPECT_EQ(status(in, 16), MLX5_CMD_STAT_BAD_RES_ERR);
    const std::uint32_t set = IFC_GET(alloc_q_counter_out,
                                      ConstBytes(d.must(REQUEST(alloc_q_counter, ALLOC_Q_COUNTER),
                                                        IFC_BYTES(alloc_q_counter_out))),
                                      counter_set_id);
    IFC_SET(modify_rq_in, Bytes(in), ctx.counter_set_id, set);
    EXPECT_EQ(status(in, 16), MLX5_CMD_STAT_OK);
    EXPECT_EQ(destroy(MLX5_CMD_OP_DEALLOC_Q_COUNTER, set), MLX5_CMD_STAT_RES_BUSY);
    IFC_SET(modify_rq_in, Bytes(in), ctx.counter_set_id, 0);
    EXPECT_EQ(status(in, 16), MLX5_CMD_STAT_OK);
    EXPECT_EQ(destroy(MLX5_CMD_OP_DEALLOC_Q_COUNTER, set), MLX5_CMD_STAT_OK);
    IFC_SET64(modify_rq_in, Bytes(in), modify_bitmask, 1ULL << 60);
    EXPECT_EQ(status(in, 16), MLX5_CMD_STAT_BAD_PARAM_ERR);
}

TEST_F(Objects, TisTirAndRqtAreChecked) {
    auto tis = REQUEST(create_tis, CREATE_TIS);
    EXPECT_EQ(status(tis, 16), MLX5_CMD_STAT_BAD_RES_ERR);
    IFC_SET(create_tis_in, Bytes(tis), ctx.transport_domain, d.td);
    IFC_SET(create_tis_in, Bytes(tis), ctx.tls_en, 1);
    EXPECT_EQ(status(tis, 16), MLX5_CMD_STAT_BAD_PARAM_ERR);
    const auto tisn = d.create_tis();
    auto modify_tis = REQUEST(modify_tis, MODIFY_TIS);
    IFC_SET(modify_tis_in, Bytes(modify_tis), tisn, tisn);
    IFC_SET(modify_tis_in, Bytes(modify_tis), bitmask.prio, 1);
    IFC_SET(modify_tis_in, Bytes(modify_tis), ctx.prio, 6);
    d.must(modify_tis, 16);
    auto query_tis = REQUEST(query_tis, QUERY_TIS);
    IFC_SET(query_tis_in, Bytes(query_tis), tisn, tisn);
    EXPECT_EQ(IFC_GET(query_tis_out, ConstBytes(d.must(query_tis, IFC_BYTES(query_tis_out))),
                      tis_context.prio),
              6U);

    TestCq cq = d.create_cq();
    TestRq rq = d.create_rq(cq, {});
    const auto tir = [&](const std::function<void(Bytes)> &change) {
        auto in = REQUEST(create_tir, CREATE_TIR);
        const Bytes c = IFC_AT(create_tir_in, Bytes(in), ctx);
        IFC_SET(tirc, c, transport_domain, d.td);
        IFC_SET(tirc, c, inline_rqn, rq.id);
        change(c);
        return status(in, IFC_BYTES(create_tir_out));
    };
#define CHANGE(field, value) [](Bytes c) { IFC_SET(tirc, c, field, value); }
    EXPECT_EQ(tir(CHANGE(disp_type, 2)), MLX5_CMD_STAT_BAD_PARAM_ERR);
    EXPECT_EQ(tir(CHANGE(disp_type, 1)), MLX5_CMD_STAT_BAD_RES_ERR);
    EXPECT_EQ(tir(CHANGE(rx_hash_fn, 3)), MLX5_CMD_STAT_BAD_PARAM_ERR);
    EXPECT_EQ(tir(CHANGE(tls_en, 1)), MLX5_CMD_STAT_BAD_PARAM_ERR);
    EXPECT_EQ(tir(CHANGE(packet_merge_mask, 1)), MLX5_CMD_STAT_BAD_PARAM_ERR);
    EXPECT_EQ(tir(CHANGE(inline_rqn, 5)), MLX5_CMD_STAT_BAD_RES_ERR);
    EXPECT_EQ(tir(CHANGE(transport_domain, 0xffff)), MLX5_CMD_STAT_BAD_RES_ERR);
#undef CHANGE
    const auto tirn = d.create_tir(rq.id);
    auto modify_tir = REQUEST(modify_tir, MODIFY_TIR);
    IFC_SET(modify_tir_in, Bytes(modify_tir), tirn, tirn);
    IFC_SET(modify_tir_in, Bytes(modify_tir), bitmask.hash, 1);
    IFC_SET(modify_tir_in, Bytes(modify_tir), bitmask.self_lb_en, 1);
    EXPECT_EQ(status(modify_tir, 16), MLX5_CMD_STAT_OK);
    IFC_SET(modify_tir_in, Bytes(modify_tir), ctx.rx_hash_fn, 5);
    EXPECT_EQ(status(modify_tir, 16), MLX5_CMD_STAT_BAD_PARAM_ERR);
    IFC_SET(modify_tir_in, Bytes(modify_tir), bitmask.packet_merge, 1);
    IFC_SET(modify_tir_in, Bytes(modify_tir), ctx.packet_merge_mask, 1);
    EXPECT_EQ(status(modify_tir, 16), MLX5_CMD_STAT_BAD_PARAM_ERR);
    auto query_tir = REQUEST(query_tir, QUERY_TIR);
    IFC_SET(query_tir_in, Bytes(query_tir), tirn, tirn);
    EXPECT_EQ(IFC_GET(query_tir_out, ConstBytes(d.must(query_tir, IFC_BYTES(query_tir_out))),
                      tir_context.inline_rqn),
              rq.id);

    const auto rqt = [&](unsigned max, unsigned count, std::size_t sent, std::uint32_t rqn) {
        auto in = request(MLX5_CMD_OP_CREATE_RQT, IFC_BYTES(create_rqt_in) + sent * 4);
        const Bytes c = IFC_AT(create_rqt_in, Bytes(in), rqt_context);
        IFC_SET(rqtc, c, rqt_max_size, max);
        IFC_SET(rqtc, c, rqt_actual_size, count);
        for (std::size_t i = 0; i < sent; ++i)
            store_be<std::uint32_t>(IFC_AT(rqtc, c, rq_num).data() + i * 4, rqn);
        return status(in, IFC_BYTES(create_rqt_out));
    };
    EXPECT_EQ(rqt(4, 4, 4, rq.id), MLX5_CMD_STAT_OK);
    EXPECT_EQ(rqt(4, 4, 3, rq.id), MLX5_CMD_STAT_BAD_INP_LEN_ERR);
    EXPECT_EQ(rqt(4, 5, 5, rq.id), MLX5_CMD_STAT_BAD_PARAM_ERR);
    EXPECT_EQ(rqt(4, 0, 0, rq.id), MLX5_CMD_STAT_BAD_PARAM_ERR);
    EXPECT_EQ(rqt(0xffff, 1, 1, rq.id), MLX5_CMD_STAT_LIM_ERR);
    EXPECT_EQ(rqt(4, 1, 1, 3), MLX5_CMD_STAT_BAD_RES_ERR);
    const auto rqtn = d.create_rqt({rq.id});
    auto modify_rqt = request(MLX5_CMD_OP_MODIFY_RQT, IFC_BYTES(modify_rqt_in) + 8);
    IFC_SET(modify_rqt_in, Bytes(modify_rqt), rqtn, rqtn);
    EXPECT_EQ(status(modify_rqt, 16), MLX5_CMD_STAT_OK) << "nothing selected";
    IFC_SET(modify_rqt_in, Bytes(modify_rqt), bitmask.rqn_list, 1);
    EXPECT_EQ(status(modify_rqt, 16), MLX5_CMD_STAT_BAD_PARAM_ERR);
    const Bytes c = IFC_AT(modify_rqt_in, Bytes(modify_rqt), ctx);
    IFC_SET(rqtc, c, rqt_actual_size, 2);
    store_be<std::uint32_t>(IFC_AT(rqtc, c, rq_num).data(), rq.id);
    store_be<std::uint32_t>(IFC_AT(rqtc, c, rq_num).data() + 4, rq.id);
    EXPECT_EQ(status(modify_rqt, 16), MLX5_CMD_STAT_BAD_PARAM_ERR) << "larger than the table";
}

TEST_F(Objects, MkeysAreChecked) {
    const auto create = [&](const std::function<void(Bytes, Bytes)> &change,
                            std::size_t extra = 0) {
        auto in = request(MLX5_CMD_OP_CREATE_MKEY, IFC_BYTES(create_mkey_in) + extra);
        const Bytes mkc = IFC_AT(create_mkey_in, Bytes(in), memory_key_mkey_entry);
        IFC_SET(mkc, mkc, pd, d.pd);
        IFC_SET(mkc, mkc, access_mode_1_0, MLX5_MKC_ACCESS_MODE_MTT);
        IFC_SET(mkc, mkc, log_page_size, 12);
        IFC_SET(mkc, mkc, translations_octword_size, 1);
        change(in, mkc);
        return status(in, IFC_BYTES(create_mkey_out));
    };
#define CHANGE(field, value) [](Bytes, Bytes m) { IFC_SET(mkc, m, field, value); }
    EXPECT_EQ(create([](Bytes, Bytes) {}), MLX5_CMD_STAT_OK);
    EXPECT_EQ(create(CHANGE(access_mode_1_0, MLX5_MKC_ACCESS_MODE_KLMS)),
              MLX5_CMD_STAT_BAD_PARAM_ERR);
    EXPECT_EQ(create(CHANGE(bsf_en, 1)), MLX5_CMD_STAT_BAD_PARAM_ERR);
    EXPECT_EQ(create(CHANGE(pd, 0xfffff)), MLX5_CMD_STAT_BAD_RES_ERR);
    EXPECT_EQ(create(CHANGE(translations_octword_size, 0xfffffff)), MLX5_CMD_STAT_LIM_ERR);
    EXPECT_EQ(create(CHANGE(log_page_size, 5)), MLX5_CMD_STAT_BAD_PARAM_ERR);
#undef CHANGE
    EXPECT_EQ(create([](Bytes in, Bytes) {
                  IFC_SET(create_mkey_in, in, translations_octword_actual_size, 1);
              }),
              MLX5_CMD_STAT_BAD_INP_LEN_ERR);
    EXPECT_EQ(create([](Bytes in, Bytes) { IFC_SET(create_mkey_in, in, mkey_umem_valid, 1); }),
              MLX5_CMD_STAT_BAD_PARAM_ERR);
    EXPECT_EQ(
        create([](Bytes in,
                  Bytes) { IFC_SET(create_mkey_in, in, translations_octword_actual_size, 1); },
               16),
        MLX5_CMD_STAT_OK);
    auto query = REQUEST(query_mkey, QUERY_MKEY);
    IFC_SET(query_mkey_in, Bytes(query), mkey_index, d.lkey >> 8);
    const Message out = d.must(query, IFC_BYTES(query_mkey_out));
    EXPECT_EQ(IFC_GET(query_mkey_out, ConstBytes(out), memory_key_mkey_entry.length64), 1U);
    EXPECT_EQ(IFC_GET(query_mkey_out, ConstBytes(out), memory_key_mkey_entry.mkey_7_0), 0x42U);
}

/// A key with a translation table bounds every access, byte for byte.
TEST_F(Objects, TranslatedKeyBoundsAccess) {
    TestCq cq = d.create_cq();
    TestSq sq = d.create_sq(cq);
    const std::uint64_t pages = d.host.alloc(3 * 4096);
    auto in = request(MLX5_CMD_OP_CREATE_MKEY, IFC_BYTES(create_mkey_in) + 32);
    const Bytes mkc = IFC_AT(create_mkey_in, Bytes(in), memory_key_mkey_entry);
    IFC_SET(mkc, mkc, pd, d.pd);
    IFC_SET(mkc, mkc, lr, 1);
    IFC_SET(mkc, mkc, access_mode_1_0, MLX5_MKC_ACCESS_MODE_MTT);
    IFC_SET(mkc, mkc, log_page_size, 12);
    IFC_SET(mkc, mkc, translations_octword_size, 2);
    IFC_SET(create_mkey_in, Bytes(in), translations_octword_actual_size, 2);
    IFC_SET64(mkc, mkc, start_addr, 0x5000);
    IFC_SET64(mkc, mkc, len, 3 * 4096 - 100);
    for (unsigned i : {0U, 1U, 2U}) // page order reversed
        store_be<std::uint64_t>(IFC_AT(create_mkey_in, Bytes(in), klm_pas_mtt).data() + i * 8,
                                (pages + (2 - i) * 4096) | 3);
    const std::uint32_t key =
        IFC_GET(create_mkey_out, ConstBytes(d.must(in, IFC_BYTES(create_mkey_out))), mkey_index)
        << 8;
    const Frame f = make_frame({}, pattern(8000));
    for (std::size_t i = 0; i < f.size(); ++i)
        *d.host.at(pages + (2 - (i + 500) / 4096) * 4096 + (i + 500) % 4096) = f[i];
    const auto send = [&](std::uint64_t addr, std::uint32_t size) {
        Message seg = d.eth_segments({}, {});
        Message s(16);
        store_be<std::uint32_t>(s.data(), size);
        store_be<std::uint32_t>(s.data() + 4, key);
        store_be<std::uint64_t>(s.data() + 8, addr);
        seg.insert(seg.end(), s.begin(), s.end());
        d.post(sq, MLX5_OPCODE_SEND, seg);
        const mlx5_cqe64 *cqe = d.poll(cq);
        const bool ok = cqe != nullptr && cqe->op_own >> 4 == MLX5_CQE_REQ;
        if (!ok) {
            d.modify_sq(sq, 3, 0);
            d.modify_sq(sq, 0, 1);
            sq.pc = 0;
        }
        return ok;
    };
    EXPECT_TRUE(send(0x5000 + 500, static_cast<std::uint32_t>(f.size())));
    ASSERT_EQ(d.host.wire.size(), 1U);
    EXPECT_EQ(d.host.wire[0], f);
    EXPECT_TRUE(send(0x5000 + 3 * 4096 - 100 - 60, 60)) << "up to the end";
    EXPECT_FALSE(send(0x5000 + 3 * 4096 - 100 - 59, 60)) << "one past the end";
    EXPECT_FALSE(send(0x4fff, 60)) << "one before the start";
}

TEST_F(Objects, NumbersRunOut) {
    MiniDriver small({.msix_vectors = 2, .max_queues = 16});
    small.open();
    TestCq cq = small.create_cq();
    std::vector<TestSq> sqs;
    for (unsigned i = 0; i < 16; ++i)
        sqs.push_back(small.create_sq(cq));
    EXPECT_EQ(small.command(small.sq_request(sqs[0], 6), IFC_BYTES(create_sq_out)).status,
              MLX5_CMD_STAT_NO_RES_ERR);
    unsigned counters = 0;
    while (small.command(REQUEST(alloc_q_counter, ALLOC_Q_COUNTER), IFC_BYTES(alloc_q_counter_out))
               .ok())
        ++counters;
    EXPECT_EQ(counters, 255U);
    unsigned uars = 1;
    Reply r;
    while ((r = small.command(REQUEST(alloc_uar, ALLOC_UAR), IFC_BYTES(alloc_uar_out))).ok())
        ++uars;
    EXPECT_EQ(r.status, MLX5_CMD_STAT_NO_RES_ERR);
    EXPECT_LE(uars, kBarSize / 4096);
    EXPECT_NE(small.command(request(MLX5_CMD_OP_CREATE_EQ, IFC_BYTES(create_eq_in)), 16).status,
              MLX5_CMD_STAT_OK);
}

TEST_F(Objects, EqIsChecked) {
    const auto create = [&](const std::function<void(Bytes)> &change, std::size_t pages = 1) {
        auto in = request(MLX5_CMD_OP_CREATE_EQ, IFC_BYTES(create_eq_in) + pages * 8);
        const Bytes eqc = IFC_AT(create_eq_in, Bytes(in), eq_context_entry);
        IFC_SET(eqc, eqc, uar_page, d.uar);
        IFC_SET(eqc, eqc, log_eq_size, 6);
        change(eqc);
        return status(in, IFC_BYTES(create_eq_out));
    };
    EXPECT_EQ(create([](Bytes) {}), MLX5_CMD_STAT_OK);
    EXPECT_EQ(create([](Bytes c) { IFC_SET(eqc, c, intr, 33); }), MLX5_CMD_STAT_BAD_PARAM_ERR);
    EXPECT_EQ(create([](Bytes c) { IFC_SET(eqc, c, page_offset, 1); }),
              MLX5_CMD_STAT_BAD_PARAM_ERR);
    EXPECT_EQ(create([](Bytes c) { IFC_SET(eqc, c, uar_page, 0xffff); }),
              MLX5_CMD_STAT_BAD_RES_ERR);
    EXPECT_EQ(create([](Bytes c) { IFC_SET(eqc, c, log_eq_size, 25); }), MLX5_CMD_STAT_LIM_ERR);
    EXPECT_EQ(create([](Bytes c) { IFC_SET(eqc, c, log_eq_size, 8); }),
              MLX5_CMD_STAT_BAD_INP_LEN_ERR);
    auto query = REQUEST(query_eq, QUERY_EQ);
    IFC_SET(query_eq_in, Bytes(query), eq_number, d.comp_eq.id);
    const Message out = d.must(query, IFC_BYTES(query_eq_out));
    EXPECT_EQ(IFC_GET(query_eq_out, ConstBytes(out), eq_context_entry.intr), 1U);
    EXPECT_EQ(IFC_GET(query_eq_out, ConstBytes(out), eq_context_entry.st), 9U);
}

TEST_F(Objects, CqIsChecked) {
    const auto create = [&](const std::function<void(Bytes)> &change) {
        auto in = request(MLX5_CMD_OP_CREATE_CQ, IFC_BYTES(create_cq_in) + 8);
        const Bytes cqc = IFC_AT(create_cq_in, Bytes(in), cq_context);
        IFC_SET(cqc, cqc, uar_page, d.uar);
        IFC_SET(cqc, cqc, c_eqn_or_apu_element, d.comp_eq.id);
        IFC_SET(cqc, cqc, log_cq_size, 5);
        change(cqc);
        return status(in, IFC_BYTES(create_cq_out));
    };
#define CHANGE(field, value) [](Bytes c) { IFC_SET(cqc, c, field, value); }
    EXPECT_EQ(create(CHANGE(cqe_sz, CQE_STRIDE_128)), MLX5_CMD_STAT_OK);
    EXPECT_EQ(create(CHANGE(cqe_sz, 5)), MLX5_CMD_STAT_BAD_PARAM_ERR);
    EXPECT_EQ(create(CHANGE(cqe_comp_en, 1)), MLX5_CMD_STAT_BAD_PARAM_ERR);
    EXPECT_EQ(create(CHANGE(page_offset, 1)), MLX5_CMD_STAT_BAD_PARAM_ERR);
    EXPECT_EQ(create(CHANGE(c_eqn_or_apu_element, 99)), MLX5_CMD_STAT_BAD_RES_ERR);
    EXPECT_EQ(create(CHANGE(uar_page, 0xffff)), MLX5_CMD_STAT_BAD_RES_ERR);
    EXPECT_EQ(create(CHANGE(log_cq_size, 24)), MLX5_CMD_STAT_LIM_ERR);
    EXPECT_EQ(create(CHANGE(log_cq_size, 10)), MLX5_CMD_STAT_BAD_INP_LEN_ERR);
#undef CHANGE
    EXPECT_EQ(create([](Bytes c) { IFC_SET64(cqc, c, dbr_addr, 4); }), MLX5_CMD_STAT_BAD_PARAM_ERR);
    TestCq cq = d.create_cq(6, 10, 20);
    auto modify = REQUEST(modify_cq, MODIFY_CQ);
    IFC_SET(modify_cq_in, Bytes(modify), cqn, cq.id);
    const auto select = [&](std::uint32_t bits) {
        store_be<std::uint32_t>(
            IFC_AT(modify_cq_in, Bytes(modify), modify_field_select_resize_field_select).data(),
            bits);
    };
    select(MLX5_CQ_MODIFY_PERIOD | MLX5_CQ_MODIFY_COUNT | MLX5_CQ_MODIFY_OVERRUN |
           MLX5_CQ_MODIFY_PERIOD_MODE);
    IFC_SET(modify_cq_in, Bytes(modify), cq_context.cq_period, 77);
    IFC_SET(modify_cq_in, Bytes(modify), cq_context.cq_max_count, 88);
    IFC_SET(modify_cq_in, Bytes(modify), cq_context.oi, 1);
    IFC_SET(modify_cq_in, Bytes(modify), cq_context.cq_period_mode, 1);
    d.must(modify, 16);
    auto query = REQUEST(query_cq, QUERY_CQ);
    IFC_SET(query_cq_in, Bytes(query), cqn, cq.id);
    const Message out = d.must(query, IFC_BYTES(query_cq_out));
    EXPECT_EQ(IFC_GET(query_cq_out, ConstBytes(out), cq_context.cq_period), 77U);
    EXPECT_EQ(IFC_GET(query_cq_out, ConstBytes(out), cq_context.cq_max_count), 88U);
    EXPECT_EQ(IFC_GET(query_cq_out, ConstBytes(out), cq_context.oi), 1U);
    select(1U << 20);
    EXPECT_EQ(status(modify, 16), MLX5_CMD_STAT_BAD_PARAM_ERR);
    IFC_SET(modify_cq_in, Bytes(modify), op_mod, 1); // resize
    EXPECT_EQ(status(modify, 16), MLX5_CMD_STAT_BAD_PARAM_ERR);
}

} // namespace
} // namespace connectx::test
