// SPDX-License-Identifier: GPL-2.0
//
// What a guest cannot use up: the host's memory and the time of its main loop. Each limit is far
// above what a driver asks for, and has an answer of its own.
#include "mini_driver.h"
#include "packets.h"

#include <core.h>
#include <gtest/gtest.h>

namespace connectx::test {
namespace {

class Limits : public testing::Test {
  protected:
    void SetUp() override { d.open(); }

    /// Without mailboxes: some of this takes very many or very long commands.
    CommandStatus execute(const Message &in, std::size_t out_size = 0x100) {
        out.assign(out_size, 0);
        return d.dev.core().commands.execute(in, out);
    }

    Message mkey_request(std::size_t octwords) const {
        auto in = REQUEST(create_mkey, CREATE_MKEY);
        const Bytes mkc = IFC_AT(create_mkey_in, Bytes(in), memory_key_mkey_entry);
        IFC_SET(mkc, mkc, pd, d.pd);
        IFC_SET(mkc, mkc, access_mode_1_0, MLX5_MKC_ACCESS_MODE_MTT);
        IFC_SET(mkc, mkc, log_page_size, 12);
        IFC_SET(mkc, mkc, translations_octword_size, octwords);
        return in;
    }

    void destroy(std::uint32_t mkey_index) {
        auto in = REQUEST(destroy_mkey, DESTROY_MKEY);
        IFC_SET(destroy_mkey_in, Bytes(in), mkey_index, mkey_index);
        EXPECT_TRUE(execute(in).ok());
    }

    /// Creates memory keys until there is not an octword left; gives back the largest of them.
    std::vector<std::uint32_t> use_up_memory() {
        constexpr std::size_t kLargest = 1U << 18;
        std::vector<std::uint32_t> keys;
        CommandStatus st;
        for (std::size_t octwords = kLargest; octwords > 0; octwords /= 2)
            while ((st = execute(mkey_request(octwords))).ok())
                if (octwords == kLargest)
                    keys.push_back(IFC_GET(create_mkey_out, ConstBytes(out), mkey_index));
        EXPECT_EQ(st.status, MLX5_CMD_STAT_NO_RES_ERR);
        return keys;
    }

    MiniDriver d{{}, 16U << 20};
    Message out;
};

TEST_F(Limits, PageAddressesOfAllObjects) {
    const auto keys = use_up_memory();
    EXPECT_GE(keys.size(), 16U);
    EXPECT_LT(keys.size(), 100U);
    // Rings draw on the same.
    auto cq_in = request(MLX5_CMD_OP_CREATE_CQ, IFC_BYTES(create_cq_in) + 64 * 8);
    const Bytes cqc = IFC_AT(create_cq_in, Bytes(cq_in), cq_context);
    IFC_SET(cqc, cqc, log_cq_size, 12);
    IFC_SET(cqc, cqc, uar_page, d.uar);
    IFC_SET(cqc, cqc, c_eqn_or_apu_element, d.comp_eq.id);
    EXPECT_EQ(execute(cq_in).status, MLX5_CMD_STAT_NO_RES_ERR);
    // What an object had is there again when it is gone, also when a command failed half-way.
    destroy(keys.front());
    store_be<std::uint64_t>(IFC_AT(create_cq_in, Bytes(cq_in), pas).data(), 0x123);
    for (unsigned i = 0; i < 9000; ++i)
        ASSERT_EQ(execute(cq_in).status, MLX5_CMD_STAT_BAD_PARAM_ERR);
    const Message largest = mkey_request(1U << 18);
    EXPECT_TRUE(execute(largest).ok());
    EXPECT_EQ(execute(largest).status, MLX5_CMD_STAT_NO_RES_ERR);
    // And after a teardown all of it.
    EXPECT_TRUE(execute(REQUEST(teardown_hca, TEARDOWN_HCA)).ok());
    EXPECT_TRUE(execute(REQUEST(init_hca, INIT_HCA)).ok());
    EXPECT_TRUE(execute(REQUEST(alloc_pd, ALLOC_PD)).ok());
    d.pd = IFC_GET(alloc_pd_out, ConstBytes(out), pd);
    EXPECT_GE(use_up_memory().size(), keys.size()); // what the queues of open() had is free too
}

/// A page address is that of a whole page: with what is below the page size it would lead past the
/// end of the page that the driver meant.
TEST_F(Limits, PagesAreAligned) {
    auto in = request(MLX5_CMD_OP_CREATE_CQ, IFC_BYTES(create_cq_in) + 8);
    const Bytes cqc = IFC_AT(create_cq_in, Bytes(in), cq_context);
    IFC_SET(cqc, cqc, log_cq_size, 8);
    IFC_SET(cqc, cqc, uar_page, d.uar);
    IFC_SET(cqc, cqc, c_eqn_or_apu_element, d.comp_eq.id);
    IFC_SET(cqc, cqc, log_page_size, 2);
    const Bytes pas = IFC_AT(create_cq_in, Bytes(in), pas);
    store_be<std::uint64_t>(pas.data(), 0x1'0000'1000);
    EXPECT_EQ(execute(in).status, MLX5_CMD_STAT_BAD_PARAM_ERR);
    store_be<std::uint64_t>(pas.data(), ~0xfffULL);
    EXPECT_EQ(execute(in).status, MLX5_CMD_STAT_BAD_PARAM_ERR);
    store_be<std::uint64_t>(pas.data(), 0x1'0000'4000);
    EXPECT_EQ(execute(in).status, MLX5_CMD_STAT_OK);
}

TEST_F(Limits, HalvesOfDoorbells) {
    TestCq cq = d.create_cq(6);
    TestSq sq = d.create_sq(cq, 6);
    std::vector<std::uint32_t> uars;
    for (unsigned i = 0; i < 40; ++i) {
        ASSERT_TRUE(execute(REQUEST(alloc_uar, ALLOC_UAR)).ok());
        uars.push_back(IFC_GET(alloc_uar_out, ConstBytes(out), uar));
    }
    for (auto uar : uars)
        for (unsigned at = 0x800; at < 0x1000; at += 8)
            d.write32((static_cast<std::uint64_t>(uar) << 12) + at, 0xffffffff);
    // Doorbells in one piece do not mind.
    d.post(sq, MLX5_OPCODE_SEND, d.eth_segments({}, {make_frame({}, pattern(100))}));
    EXPECT_EQ(d.host.wire.size(), 1U);
}

TEST_F(Limits, FlowGroupsAndEntries) {
    const auto table = d.create_table(1, 16);
    const auto by_port = [](Bytes m) {
        IFC_SET(fte_match_set_lyr_2_4, IFC_AT(fte_match_param, m, outer_headers), udp_sport,
                0xffff);
    };
    const auto keys = use_up_memory();
    EXPECT_EQ(execute(d.group_request(table, 0, 0xffff, by_port)).status, MLX5_CMD_STAT_NO_RES_ERR);
    destroy(keys.front());
    ASSERT_TRUE(execute(d.group_request(table, 0, 0xffff, by_port)).ok());
    const std::uint32_t group = IFC_GET(create_flow_group_out, ConstBytes(out), group_id);
    const auto entry = [&](unsigned index) {
        return execute(d.fte_request(
                           table, group, index, {},
                           [index](Bytes m) {
                               IFC_SET(fte_match_set_lyr_2_4,
                                       IFC_AT(fte_match_param, m, outer_headers), udp_sport, index);
                           },
                           MLX5_FLOW_CONTEXT_ACTION_DROP))
            .status;
    };
    const auto remove = [&](unsigned index) {
        auto in = REQUEST(delete_fte, DELETE_FLOW_TABLE_ENTRY);
        IFC_SET(delete_fte_in, Bytes(in), table_id, table);
        IFC_SET(delete_fte_in, Bytes(in), flow_index, index);
        EXPECT_TRUE(execute(in).ok());
    };
    unsigned entries = 0;
    while (entries < 1U << 16 && entry(entries) == MLX5_CMD_STAT_OK)
        ++entries;
    EXPECT_GT(entries, 1000U);
    EXPECT_LT(entries, 10'000U) << "of 4 MiB";
    EXPECT_EQ(entry(entries), MLX5_CMD_STAT_NO_RES_ERR);
    remove(7);
    EXPECT_EQ(entry(7), MLX5_CMD_STAT_OK);
    EXPECT_EQ(entry(entries), MLX5_CMD_STAT_NO_RES_ERR);
    for (unsigned i = 0; i < entries; ++i)
        remove(i);
    auto in = REQUEST(destroy_flow_group, DESTROY_FLOW_GROUP);
    IFC_SET(destroy_flow_group_in, Bytes(in), table_id, table);
    IFC_SET(destroy_flow_group_in, Bytes(in), group_id, group);
    EXPECT_TRUE(execute(in).ok());
    EXPECT_TRUE(execute(mkey_request(1U << 18)).ok()) << "all that they had is back";
}

/// However a long message goes on, an entry keeps what belongs to it.
TEST_F(Limits, LongMessages) {
    const auto keys = use_up_memory();
    destroy(keys.front());
    const auto table = d.create_table(1, 4);
    ASSERT_TRUE(execute(d.group_request(table, 0, 3, {})).ok());
    const std::uint32_t group = IFC_GET(create_flow_group_out, ConstBytes(out), group_id);
    auto in = d.fte_request(table, group, 0, {}, {}, MLX5_FLOW_CONTEXT_ACTION_DROP);
    in.resize(CommandInterface::kMaxMessage);
    for (unsigned i = 0; i < 4; ++i)
        EXPECT_TRUE(execute(in).ok());
}

/// Miss tables that lead to each other, each with very many groups: the frame is given up.
TEST_F(Limits, WorkForOneFrame) {
    constexpr unsigned kGroups = 20'000;
    const auto first = d.create_table(1, 16);
    const auto second = d.create_table(1, 16, first);
    for (auto table : {first, second})
        for (unsigned i = 0; i < kGroups; ++i)
            ASSERT_TRUE(execute(d.group_request(table, i, i, {})).ok());
    auto in = REQUEST(modify_flow_table, MODIFY_FLOW_TABLE);
    IFC_SET(modify_flow_table_in, Bytes(in), table_id, first);
    IFC_SET(modify_flow_table_in, Bytes(in), modify_field_select, 1);
    IFC_SET(modify_flow_table_in, Bytes(in), flow_table_context.table_miss_action, 1);
    IFC_SET(modify_flow_table_in, Bytes(in), flow_table_context.table_miss_id, second);
    ASSERT_TRUE(execute(in).ok());
    d.set_root(first);
    const Frame f = make_frame({}, pattern(100));
    for (unsigned i = 0; i < 100; ++i)
        d.dev.wire_rx(f);
    EXPECT_EQ(d.dev.stats().rx_dropped, 100U);
}

TEST_F(Limits, CopiesOfOneFrame) {
    TestCq cq = d.create_cq(12);
    TestRq rq = d.create_rq(cq, {.log_size = 9, .buffer_size = 256});
    d.post(rq, 512);
    const auto tir = d.create_tir(rq.id);
    // Tables that fork: each sends the frame to two others of the next level.
    std::uint32_t below[2] = {};
    for (unsigned level = 20; level > 0; --level) {
        std::uint32_t tables[2];
        for (auto &table : tables) {
            table = d.create_table(level, 1);
            const auto group = d.create_group(table, 0, 0);
            const std::pair<unsigned, std::uint32_t> to_tir{MLX5_IFC_FLOW_DESTINATION_TYPE_TIR,
                                                            tir};
            const auto to = [&](unsigned i) {
                return below[0] == 0 ? to_tir
                                     : std::pair<unsigned, std::uint32_t>{
                                           MLX5_IFC_FLOW_DESTINATION_TYPE_FLOW_TABLE, below[i]};
            };
            d.must(d.fte_request(table, group, 0, {to(0), to(1)}), IFC_BYTES(set_fte_out));
        }
        below[0] = tables[0];
        below[1] = tables[1];
    }
    d.set_root(below[0]);
    Frame f = make_frame({}, pattern(100));
    d.dev.wire_rx(f);
    d.settle();
    unsigned copies = 0;
    while (d.poll(cq) != nullptr)
        ++copies;
    EXPECT_GT(copies, 2U);
    EXPECT_LE(copies, 64U);
}

class SendLimits : public Limits {
  protected:
    void SetUp() override {
        Limits::SetUp();
        cq = d.create_cq(6);
        sq = d.create_sq(cq, 6);
    }
    /// An LSO WQE with segments of one byte.
    Message bytes(std::size_t count) {
        const Frame header = make_frame({.tcp = true}, {});
        return d.eth_segments({.mss = 1, .inline_header = header}, {Message(count)});
    }
    TestCq cq;
    TestSq sq;
};

TEST_F(SendLimits, FramesOfOneWqe) {
    d.post(sq, MLX5_OPCODE_LSO, bytes(65535));
    EXPECT_EQ(d.host.wire.size(), 65535U);
    const mlx5_cqe64 *cqe = d.poll(cq);
    ASSERT_NE(cqe, nullptr);
    EXPECT_EQ(cqe->op_own >> 4, MLX5_CQE_REQ);
    d.host.wire.clear();
    d.post(sq, MLX5_OPCODE_LSO, bytes(65536));
    EXPECT_TRUE(d.host.wire.empty());
    cqe = d.poll(cq);
    ASSERT_NE(cqe, nullptr);
    EXPECT_EQ(cqe->op_own >> 4, MLX5_CQE_REQ_ERR);
    EXPECT_EQ(reinterpret_cast<const mlx5_err_cqe *>(cqe)->syndrome,
              static_cast<std::uint8_t>(Syndrome::kLocalLength));
}

/// The host's loop gets control back though there is more to send, and the WQE goes on later.
TEST_F(SendLimits, FramesOfOneTurn) {
    for (unsigned i = 0; i < 4; ++i)
        d.post(sq, MLX5_OPCODE_LSO, bytes(5000), true, false);
    d.host.put<std::uint32_t>(sq.dbr + 4, sq.pc);
    d.write64((static_cast<std::uint64_t>(d.uar) << 12) + 0x800,
              d.host.get<std::uint64_t>(sq.ring.entry(0)));
    d.host.work_pending = false;
    d.dev.run();
    EXPECT_GT(d.host.wire.size(), 500U);
    EXPECT_LT(d.host.wire.size(), 5000U);
    EXPECT_TRUE(d.host.work_pending);
    d.settle();
    EXPECT_EQ(d.host.wire.size(), 20000U);
}

/// A host that runs out of memory in the middle of something.
TEST_F(SendLimits, AfterAnExceptionTheDeviceGoesOn) {
    const Message wqe = d.eth_segments({}, {make_frame({}, pattern(100))});
    d.host.on_wire_tx = [](auto) { throw std::bad_alloc(); };
    EXPECT_THROW(d.post(sq, MLX5_OPCODE_SEND, wqe), std::bad_alloc);
    d.host.on_wire_tx = nullptr;
    d.host.wire.clear();
    d.post(sq, MLX5_OPCODE_SEND, wqe);
    EXPECT_EQ(d.host.wire.size(), 2U) << "the one that was interrupted is sent again";
}

} // namespace
} // namespace connectx::test
