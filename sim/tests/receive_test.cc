// SPDX-License-Identifier: GPL-2.0
//
// Receive queues of every kind: where a frame's bytes go, what its CQE says, and what happens
// without a buffer or with a wrong one.
#include "mini_driver.h"
#include "packets.h"

#include <gtest/gtest.h>

namespace connectx::test {
namespace {

class Receive : public testing::Test {
  protected:
    void SetUp() override {
        d.open();
        cq = d.create_cq(7);
    }

    /// One RQ that gets everything, with all its buffers posted.
    TestRq &open_rq(const MiniDriver::RqOptions &o = {}) {
        rq = d.create_rq(cq, o);
        d.post(rq, 1U << o.log_size);
        d.steer_all_to(d.create_tir(rq.id));
        return rq;
    }

    const mlx5_cqe64 *receive(const Frame &f) {
        d.dev.wire_rx(f);
        d.settle();
        return d.poll(cq);
    }

    Message counters(std::uint32_t set) {
        auto in = REQUEST(query_q_counter, QUERY_Q_COUNTER);
        IFC_SET(query_q_counter_in, Bytes(in), counter_set_id, set);
        return d.must(in, IFC_BYTES(query_q_counter_out));
    }
    std::uint32_t out_of_buffer(std::uint32_t set) {
        return IFC_GET(query_q_counter_out, ConstBytes(counters(set)), out_of_buffer);
    }
    std::uint32_t alloc_counters() {
        return IFC_GET(alloc_q_counter_out,
                       ConstBytes(d.must(REQUEST(alloc_q_counter, ALLOC_Q_COUNTER),
                                         IFC_BYTES(alloc_q_counter_out))),
                       counter_set_id);
    }

    Message query_rq() {
        auto in = REQUEST(query_rq, QUERY_RQ);
        IFC_SET(query_rq_in, Bytes(in), rqn, rq.id);
        return d.must(in, IFC_BYTES(query_rq_out));
    }
    unsigned rq_state() {
        const Message out = query_rq();
        return IFC_GET(query_rq_out, ConstBytes(out), rq_context.state);
    }

    static Syndrome syndrome_of(const mlx5_cqe64 *cqe) {
        if (cqe == nullptr || cqe->op_own >> 4 != MLX5_CQE_RESP_ERR)
            return Syndrome::kOk;
        return static_cast<Syndrome>(reinterpret_cast<const mlx5_err_cqe *>(cqe)->syndrome);
    }

    Message buffer(unsigned index, std::size_t size, std::size_t at = 0) {
        const std::uint8_t *p = d.host.at(rq.buffers[index] + at);
        return {p, p + size};
    }

    static Frame good_frame(const Flow &flow, std::size_t payload, unsigned seed = 1) {
        Frame f = make_frame(flow, pattern(payload, seed));
        add_checksums(f, flow);
        return f;
    }

    MiniDriver d;
    TestCq cq;
    TestRq rq;
};

constexpr unsigned kL4Shift = 4;

TEST_F(Receive, CqeDescribesTheFrame) {
    open_rq({.log_size = 6});
    struct Case {
        Flow flow;
        std::size_t payload;
        unsigned l4;
    };
    const std::vector<Case> cases{
        {{}, 100, CQE_L4_HDR_TYPE_UDP},
        {{.v6 = true}, 101, CQE_L4_HDR_TYPE_UDP},
        {{.tcp = true}, 500, CQE_L4_HDR_TYPE_TCP_ACK_AND_DATA},
        {{.tcp = true}, 0, CQE_L4_HDR_TYPE_TCP_ACK_NO_DATA},
        {{.v6 = true, .tcp = true, .tcp_flags = 0x02}, 0, CQE_L4_HDR_TYPE_TCP_NO_ACK},
    };
    unsigned index = 0;
    for (const Case &c : cases) {
        SCOPED_TRACE(index);
        const Frame f = good_frame(c.flow, c.payload, index);
        const mlx5_cqe64 *cqe = receive(f);
        ASSERT_NE(cqe, nullptr);
        const std::size_t size = std::max<std::size_t>(f.size(), 60);
        EXPECT_EQ(cqe->op_own >> 4, MLX5_CQE_RESP_SEND);
        EXPECT_EQ(be32_to_cpu(cqe->byte_cnt), size);
        EXPECT_EQ(be16_to_cpu(cqe->wqe_counter), index);
        EXPECT_EQ(be32_to_cpu(cqe->flags_rqpn) & 0xffffff, rq.id);
        EXPECT_EQ(cqe->hds_ip_ext & (CQE_L2_OK | CQE_L3_OK | CQE_L4_OK),
                  CQE_L2_OK | CQE_L3_OK | CQE_L4_OK);
        EXPECT_EQ(cqe->l4_l3_hdr_type >> kL4Shift, c.l4);
        EXPECT_EQ(cqe->l4_l3_hdr_type >> 2 & 3, c.flow.v6 ? 1 : 2);
        EXPECT_EQ(cqe->l4_l3_hdr_type & 1, 0);
        // CHECKSUM_COMPLETE: the IP packet without what pads the frame.
        EXPECT_EQ(be16_to_cpu(cqe->check_sum), internet_sum(f, 14, f.size()));
        Message expected(f.begin(), f.end());
        expected.resize(size);
        EXPECT_EQ(buffer(index, size), expected);
        ++index;
    }
}

TEST_F(Receive, WrongChecksumsAreReportedAndDelivered) {
    open_rq();
    Frame f = good_frame({}, 100);
    f[f.size() - 1] ^= 1;
    const mlx5_cqe64 *cqe = receive(f);
    ASSERT_NE(cqe, nullptr);
    EXPECT_EQ(cqe->hds_ip_ext & (CQE_L3_OK | CQE_L4_OK), CQE_L3_OK);
    f = good_frame({}, 100);
    f[24] ^= 1;
    cqe = receive(f);
    ASSERT_NE(cqe, nullptr);
    EXPECT_EQ(cqe->hds_ip_ext & (CQE_L3_OK | CQE_L4_OK), CQE_L4_OK);
    // No checksum at all: right for IPv4, wrong for IPv6 (RFC 8200, 8.1).
    f = good_frame({}, 100);
    put16(f, 40, 0);
    cqe = receive(f);
    ASSERT_NE(cqe, nullptr);
    EXPECT_NE(cqe->hds_ip_ext & CQE_L4_OK, 0);
    f = good_frame({.v6 = true}, 100);
    put16(f, 60, 0);
    cqe = receive(f);
    ASSERT_NE(cqe, nullptr);
    EXPECT_EQ(cqe->hds_ip_ext & CQE_L4_OK, 0);
    // Neither IP nor anything else.
    cqe = receive(Frame(100, 0xee));
    ASSERT_NE(cqe, nullptr);
    EXPECT_EQ(cqe->hds_ip_ext & (CQE_L3_OK | CQE_L4_OK), 0);
    EXPECT_EQ(cqe->l4_l3_hdr_type, 0);
    EXPECT_EQ(cqe->check_sum, 0);
}

TEST_F(Receive, FragmentsHaveNoLayer4) {
    open_rq();
    Frame f = good_frame({}, 100);
    put16(f, 20, 0x2000); // more fragments
    put16(f, 24, 0);
    put16(f, 24, ~internet_sum(f, 14, 34) & 0xffff);
    const mlx5_cqe64 *cqe = receive(f);
    ASSERT_NE(cqe, nullptr);
    EXPECT_EQ(cqe->hds_ip_ext & (CQE_L3_OK | CQE_L4_OK), CQE_L3_OK);
    EXPECT_EQ(cqe->l4_l3_hdr_type >> kL4Shift, CQE_L4_HDR_TYPE_NONE);
}

TEST_F(Receive, VlanIsStripped) {
    open_rq();
    const Flow flow{.vlan = 0x6123 & 0xfff};
    const Frame f = good_frame(flow, 300);
    const mlx5_cqe64 *cqe = receive(f);
    ASSERT_NE(cqe, nullptr);
    EXPECT_EQ(cqe->l4_l3_hdr_type & 1, 1);
    EXPECT_EQ(be16_to_cpu(cqe->vlan_info), 0x123);
    Message expected(f.begin(), f.begin() + 12);
    expected.insert(expected.end(), f.begin() + 16, f.end());
    EXPECT_EQ(be32_to_cpu(cqe->byte_cnt), expected.size());
    EXPECT_EQ(buffer(0, expected.size()), expected);
    // The sum does not know of the tag.
    EXPECT_EQ(be16_to_cpu(cqe->check_sum), internet_sum(f, 18, f.size()));
}

TEST_F(Receive, VlanStrippingCanBeOff) {
    open_rq({.vsd = true});
    const Frame f = good_frame({.vlan = 7}, 300);
    const mlx5_cqe64 *cqe = receive(f);
    ASSERT_NE(cqe, nullptr);
    EXPECT_EQ(cqe->l4_l3_hdr_type & 1, 0);
    EXPECT_EQ(buffer(0, f.size()), f);
    // Switched while the queue runs.
    auto in = REQUEST(modify_rq, MODIFY_RQ);
    IFC_SET(modify_rq_in, Bytes(in), rqn, rq.id);
    IFC_SET(modify_rq_in, Bytes(in), rq_state, 1);
    IFC_SET(modify_rq_in, Bytes(in), ctx.state, 1);
    IFC_SET64(modify_rq_in, Bytes(in), modify_bitmask, MLX5_MODIFY_RQ_IN_MODIFY_BITMASK_VSD);
    d.must(in, IFC_BYTES(modify_rq_out));
    cqe = receive(f);
    ASSERT_NE(cqe, nullptr);
    EXPECT_EQ(cqe->l4_l3_hdr_type & 1, 1);
    // 802.1ad stays in the frame.
    Frame svlan = f;
    put16(svlan, 12, 0x88a8);
    cqe = receive(svlan);
    ASSERT_NE(cqe, nullptr);
    EXPECT_EQ(cqe->l4_l3_hdr_type & 1, 0);
    EXPECT_EQ(be32_to_cpu(cqe->byte_cnt), svlan.size());
}

TEST_F(Receive, CyclicQueueWrapsRound) {
    open_rq({.log_size = 2});
    for (unsigned i = 0; i < 50; ++i) {
        const Frame f = good_frame({}, 100 + i, i);
        const mlx5_cqe64 *cqe = receive(f);
        ASSERT_NE(cqe, nullptr) << i;
        EXPECT_EQ(be16_to_cpu(cqe->wqe_counter), i);
        EXPECT_EQ(buffer(i % 4, f.size()), f);
        d.post(rq, 1);
    }
}

TEST_F(Receive, ScatterListOfManySegments) {
    rq = d.create_rq(cq, {.log_size = 2, .log_wqe = 6});
    // Four segments of odd sizes in each WQE; the last is the end of the list.
    const std::uint64_t base = d.host.alloc(4096);
    for (std::uint32_t i = 0; i < 4; ++i) {
        std::uint8_t *wqe = d.host.at(rq.ring.entry(i));
        std::uint64_t at = base;
        for (std::uint32_t size : {17U, 100U, 1000U}) {
            store_be<std::uint32_t>(wqe, size);
            store_be<std::uint32_t>(wqe + 4, d.lkey);
            store_be<std::uint64_t>(wqe + 8, at);
            at += size + 3;
            wqe += 16;
        }
        store_be<std::uint32_t>(wqe, 0);
        store_be<std::uint32_t>(wqe + 4, 0x100);
    }
    d.post(rq, 4);
    d.steer_all_to(d.create_tir(rq.id));
    const Frame f = good_frame({}, 900);
    const mlx5_cqe64 *cqe = receive(f);
    ASSERT_NE(cqe, nullptr);
    EXPECT_EQ(cqe->op_own >> 4, MLX5_CQE_RESP_SEND);
    Message got;
    std::uint64_t at = base;
    for (std::size_t size : {17UL, 100UL, 1000UL}) {
        const std::size_t n = std::min(size, f.size() - got.size());
        got.insert(got.end(), d.host.at(at), d.host.at(at) + n);
        at += size + 3;
    }
    EXPECT_EQ(got, f);
    // One byte more than all segments hold.
    const Frame big = good_frame({}, 17 + 100 + 1000 + 1 - 42);
    EXPECT_EQ(syndrome_of(receive(big)), Syndrome::kLocalLength);
    EXPECT_EQ(rq_state(), 3U);
}

TEST_F(Receive, StridingQueueOfEveryType) {
    for (unsigned type : {MLX5_WQ_TYPE_LINKED_LIST_STRIDING_RQ, MLX5_WQ_TYPE_CYCLIC_STRIDING_RQ}) {
        SCOPED_TRACE(type);
        MiniDriver other;
        other.open();
        TestCq c = other.create_cq(9);
        TestRq q = other.create_rq(
            c, {.type = type, .log_size = 2, .log_stride_size = 8, .log_num_strides = 4});
        other.post(q, 4);
        other.steer_all_to(other.create_tir(q.id));
        unsigned used = 0; // strides, counted as the device should
        unsigned wqe = 0;
        for (unsigned i = 0; i < 60; ++i) {
            const Frame f = good_frame({}, 20 + i * 24, i);
            const auto strides =
                static_cast<unsigned>((std::max<std::size_t>(f.size(), 60) + 255) / 256);
            other.dev.wire_rx(f);
            other.settle();
            const mlx5_cqe64 *cqe = other.poll(c);
            ASSERT_NE(cqe, nullptr) << i;
            if (used + strides > 16) {
                const std::uint32_t filler = be32_to_cpu(cqe->byte_cnt);
                EXPECT_EQ(filler >> 31, 1U);
                EXPECT_EQ(filler >> 16 & 0x7fff, 16 - used);
                EXPECT_EQ(be16_to_cpu(cqe->wqe_id), wqe % 4);
                used = 0;
                ++wqe;
                other.post(q, 1);
                cqe = other.poll(c);
                ASSERT_NE(cqe, nullptr) << i;
            }
            EXPECT_EQ(be32_to_cpu(cqe->byte_cnt) & 0xffff, std::max<std::size_t>(f.size(), 60));
            EXPECT_EQ(be32_to_cpu(cqe->byte_cnt) >> 16, strides);
            EXPECT_EQ(be16_to_cpu(cqe->wqe_id), wqe % 4);
            EXPECT_EQ(be16_to_cpu(cqe->wqe_counter), used);
            const std::uint8_t *p = other.host.at(q.buffers[wqe % 4] + used * 256UL);
            EXPECT_TRUE(std::equal(f.begin(), f.end(), p)) << i;
            used += strides;
            if (used == 16) {
                used = 0;
                ++wqe;
                other.post(q, 1);
            }
        }
    }
}

TEST_F(Receive, FrameLargerThanAStridingWqe) {
    open_rq({.type = MLX5_WQ_TYPE_LINKED_LIST_STRIDING_RQ,
             .log_size = 2,
             .log_stride_size = 6,
             .log_num_strides = 3});
    EXPECT_NE(receive(good_frame({}, 512 - 42)), nullptr);
    EXPECT_EQ(syndrome_of(receive(good_frame({}, 513 - 42))), Syndrome::kLocalLength);
}

TEST_F(Receive, LinkedListFollowsTheList) {
    rq = d.create_rq(cq, {.type = MLX5_WQ_TYPE_LINKED_LIST, .log_size = 2, .log_wqe = 5});
    // 0 -> 2 -> 1 -> 3
    const std::array<std::uint16_t, 4> next{2, 3, 1, 0};
    for (std::uint32_t i = 0; i < 4; ++i)
        store_be<std::uint16_t>(d.host.at(rq.ring.entry(i)) + 2, next[i]);
    d.post(rq, 4);
    d.steer_all_to(d.create_tir(rq.id));
    for (unsigned expected : {0U, 2U, 1U, 3U}) {
        const Frame f = good_frame({}, 100, expected);
        const mlx5_cqe64 *cqe = receive(f);
        ASSERT_NE(cqe, nullptr);
        EXPECT_EQ(be16_to_cpu(cqe->wqe_counter), expected);
        EXPECT_EQ(buffer(expected, f.size()), f);
    }
}

TEST_F(Receive, WithoutBufferTheFrameIsDroppedAndCounted) {
    const std::uint32_t set = alloc_counters();
    open_rq({.log_size = 1, .counter_set = set});
    EXPECT_NE(receive(good_frame({}, 100)), nullptr);
    EXPECT_NE(receive(good_frame({}, 100)), nullptr);
    for (unsigned i = 0; i < 3; ++i)
        EXPECT_EQ(receive(good_frame({}, 100)), nullptr);
    EXPECT_TRUE(d.dev.can_receive());
    EXPECT_EQ(out_of_buffer(set), 3U);
    EXPECT_EQ(d.dev.stats().rx_dropped, 3U);
    // The counter belongs to the RQ now; cleared on read when asked.
    auto dealloc = REQUEST(dealloc_q_counter, DEALLOC_Q_COUNTER);
    IFC_SET(dealloc_q_counter_in, Bytes(dealloc), counter_set_id, set);
    EXPECT_EQ(d.command(dealloc, IFC_BYTES(dealloc_q_counter_out)).status, MLX5_CMD_STAT_RES_BUSY);
    auto clear = REQUEST(query_q_counter, QUERY_Q_COUNTER);
    IFC_SET(query_q_counter_in, Bytes(clear), counter_set_id, set);
    IFC_SET(query_q_counter_in, Bytes(clear), clear, 1);
    d.must(clear, IFC_BYTES(query_q_counter_out));
    EXPECT_EQ(out_of_buffer(set), 0U);
    d.post(rq, 1);
    EXPECT_NE(receive(good_frame({}, 100)), nullptr);
}

/// Each queue has its own buffers and its own count: one that has none is no other's trouble.
TEST_F(Receive, AnEmptyQueueStopsNoOther) {
    const std::uint32_t empty_set = alloc_counters();
    const std::uint32_t set = alloc_counters();
    TestCq other_cq = d.create_cq(6);
    const TestRq empty = d.create_rq(other_cq, {.log_size = 1, .counter_set = empty_set});
    rq = d.create_rq(cq, {.log_size = 6, .counter_set = set});
    d.post(rq, 64);
    const auto table = d.create_table(1, 4);
    const auto group = d.create_group(table, 0, 1, [](Bytes m) {
        IFC_SET(fte_match_set_lyr_2_4, IFC_AT(fte_match_param, m, outer_headers), udp_dport,
                0xffff);
    });
    unsigned index = 0;
    for (const auto &[port, rqn] : {std::pair{1U, empty.id}, {2U, rq.id}})
        d.must(d.fte_request(
                   table, group, index++, {{MLX5_IFC_FLOW_DESTINATION_TYPE_TIR, d.create_tir(rqn)}},
                   [port = port](Bytes m) {
                       IFC_SET(fte_match_set_lyr_2_4, IFC_AT(fte_match_param, m, outer_headers),
                               udp_dport, port);
                   }),
               IFC_BYTES(set_fte_out));
    d.set_root(table);
    for (unsigned i = 0; i < 20; ++i) {
        EXPECT_EQ(receive(good_frame({.dport = 1}, 100)), nullptr);
        EXPECT_TRUE(d.dev.can_receive());
        EXPECT_NE(receive(good_frame({.dport = 2}, 100)), nullptr) << i;
    }
    EXPECT_EQ(d.poll(other_cq), nullptr);
    EXPECT_EQ(out_of_buffer(empty_set), 20U);
    EXPECT_EQ(out_of_buffer(set), 0U);
}

TEST_F(Receive, OnlyWhenTheLinkIsUpAndTheFrameFits) {
    open_rq();
    EXPECT_EQ(receive(Frame(10)), nullptr);
    EXPECT_EQ(receive(good_frame({}, 1600)), nullptr); // more than the port's MTU
    EXPECT_EQ(d.dev.stats().rx_dropped, 1U);
    d.dev.set_link(false);
    EXPECT_EQ(receive(good_frame({}, 100)), nullptr);
    d.dev.set_link(true);
    EXPECT_NE(receive(good_frame({}, 100)), nullptr);
    d.set_admin(false);
    EXPECT_EQ(receive(good_frame({}, 100)), nullptr);
}

TEST_F(Receive, JumboFrameInOneBuffer) {
    Message pmtu(IFC_BYTES(pmtu_reg));
    IFC_SET(pmtu_reg, Bytes(pmtu), local_port, 1);
    IFC_SET(pmtu_reg, Bytes(pmtu), admin_mtu, 9022);
    d.access_register(MLX5_REG_PMTU, pmtu, true);
    open_rq({.log_size = 2, .buffer_size = 9022});
    const Frame f = good_frame({.v6 = true, .tcp = true}, 8900);
    const mlx5_cqe64 *cqe = receive(f);
    ASSERT_NE(cqe, nullptr);
    EXPECT_EQ(be32_to_cpu(cqe->byte_cnt), f.size());
    EXPECT_EQ(buffer(0, f.size()), f);
}

TEST_F(Receive, WrongReceiveWqesGetAnErrorCompletion) {
    struct Case {
        const char *what;
        std::function<void(std::uint8_t *wqe)> spoil;
        Syndrome expected;
    };
    const std::vector<Case> cases{
        {"unknown key", [](std::uint8_t *w) { store_be<std::uint32_t>(w + 4, 0xdead00); },
         Syndrome::kLocalProt},
        {"not memory", [](std::uint8_t *w) { store_be<std::uint64_t>(w + 8, 0x1000); },
         Syndrome::kLocalProt},
        {"wraps round", [](std::uint8_t *w) { store_be<std::uint64_t>(w + 8, ~0ULL - 10); },
         Syndrome::kLocalProt},
        {"too small", [](std::uint8_t *w) { store_be<std::uint32_t>(w, 50); },
         Syndrome::kLocalLength},
        {"end of list", [](std::uint8_t *w) { store_be<std::uint32_t>(w + 4, 0x100); },
         Syndrome::kLocalLength},
    };
    const Frame f = good_frame({}, 200);
    for (unsigned type : {MLX5_WQ_TYPE_CYCLIC, MLX5_WQ_TYPE_LINKED_LIST_STRIDING_RQ})
        for (const Case &c : cases) {
            SCOPED_TRACE(std::string(c.what) + " type " + std::to_string(type));
            const bool striding = type == MLX5_WQ_TYPE_LINKED_LIST_STRIDING_RQ;
            if (striding && c.expected == Syndrome::kLocalLength && c.what[0] == 'e')
                continue; // a striding WQE is no list
            MiniDriver m; // a fresh device for each
            m.open();
            TestCq c2 = m.create_cq(6);
            TestRq q = m.create_rq(c2, {.type = type, .log_size = 2});
            m.post(q, 4);
            m.steer_all_to(m.create_tir(q.id));
            c.spoil(m.host.at(q.ring.entry(0)) + (striding ? 16 : 0));
            m.dev.wire_rx(f);
            m.settle();
            EXPECT_EQ(syndrome_of(m.poll(c2)), c.expected);
            // What else is posted is flushed; later frames go nowhere.
            for (unsigned i = 1; i < 4; ++i)
                EXPECT_EQ(syndrome_of(m.poll(c2)), Syndrome::kFlush) << i;
            EXPECT_EQ(m.poll(c2), nullptr);
            m.dev.wire_rx(f);
            m.settle();
            EXPECT_EQ(m.poll(c2), nullptr);
            // The driver's way back: reset, new buffers, ready.
            EXPECT_TRUE(m.modify_rq(q, 3, 0).ok());
            std::uint8_t *wqe = m.host.at(q.ring.entry(0)) + (striding ? 16 : 0);
            store_be<std::uint32_t>(wqe, static_cast<std::uint32_t>(q.buffer_size));
            store_be<std::uint32_t>(wqe + 4, m.lkey);
            store_be<std::uint64_t>(wqe + 8, q.buffers[0]);
            q.posted = 0;
            m.post(q, 4);
            EXPECT_TRUE(m.modify_rq(q, 0, 1).ok());
            m.dev.wire_rx(f);
            m.settle();
            const mlx5_cqe64 *cqe = m.poll(c2);
            ASSERT_NE(cqe, nullptr);
            EXPECT_EQ(cqe->op_own >> 4, MLX5_CQE_RESP_SEND);
        }
}

TEST_F(Receive, ErrorCompletionsAreCounted) {
    const std::uint32_t set = alloc_counters();
    open_rq({.log_size = 2, .counter_set = set});
    store_be<std::uint32_t>(d.host.at(rq.ring.entry(1)) + 4, 0xdead00);
    EXPECT_EQ(syndrome_of(receive(good_frame({}, 200))), Syndrome::kOk);
    EXPECT_EQ(syndrome_of(receive(good_frame({}, 200))), Syndrome::kLocalProt);
    const Message out = counters(set);
    EXPECT_EQ(IFC_GET(query_q_counter_out, ConstBytes(out), resp_cqe_error), 1U);
    EXPECT_EQ(IFC_GET(query_q_counter_out, ConstBytes(out), resp_cqe_flush_error), 2U);
}

TEST_F(Receive, ProducerCounterBeyondTheRing) {
    open_rq({.log_size = 2});
    d.host.put<std::uint32_t>(rq.dbr, 1000);
    EXPECT_EQ(syndrome_of(receive(good_frame({}, 100))), Syndrome::kLocalQpOp);
    EXPECT_EQ(rq_state(), 3U);
}

TEST_F(Receive, ModifyToErrorFlushesWhatIsPosted) {
    open_rq({.log_size = 3});
    EXPECT_TRUE(d.modify_rq(rq, 1, 3).ok());
    for (unsigned i = 0; i < 8; ++i)
        EXPECT_EQ(syndrome_of(d.poll(cq)), Syndrome::kFlush) << i;
    EXPECT_EQ(d.poll(cq), nullptr);
    EXPECT_EQ(d.modify_rq(rq, 3, 1).status, MLX5_CMD_STAT_BAD_RES_STATE_ERR);
    EXPECT_EQ(d.modify_rq(rq, 1, 0).status, MLX5_CMD_STAT_BAD_RES_STATE_ERR);
    EXPECT_EQ(d.modify_rq(rq, 3, 6).status, MLX5_CMD_STAT_BAD_PARAM_ERR);
}

TEST_F(Receive, CompletionQueueOverrunStopsTheQueue) {
    TestCq small = d.create_cq(2);
    rq = d.create_rq(small, {.log_size = 4});
    d.post(rq, 16);
    d.steer_all_to(d.create_tir(rq.id));
    for (unsigned i = 0; i < 5; ++i) // nobody takes the completions
        d.dev.wire_rx(good_frame({}, 100));
    d.settle();
    bool reported = false;
    while (const mlx5_eqe *eqe = d.poll(d.async_eq))
        if (eqe->type == MLX5_EVENT_TYPE_CQ_ERROR) {
            reported = true;
            EXPECT_EQ(be32_to_cpu(eqe->data.cq_err.cqn) & 0xffffff, small.id);
            EXPECT_EQ(eqe->data.cq_err.syndrome, 1);
        }
    EXPECT_TRUE(reported);
    EXPECT_EQ(rq_state(), 3U);
    auto in = REQUEST(query_cq, QUERY_CQ);
    IFC_SET(query_cq_in, Bytes(in), cqn, small.id);
    EXPECT_EQ(
        IFC_GET(query_cq_out, ConstBytes(d.must(in, IFC_BYTES(query_cq_out))), cq_context.status),
        9U);
}

TEST_F(Receive, LoopbackToTheOwnAddress) {
    TestCq scq = d.create_cq();
    TestSq sq = d.create_sq(scq);
    const Flow flow{.dmac = {0x52, 0x54, 0x00, 0x12, 0x34, 0x56}};
    const Frame f = good_frame(flow, 100);
    // The TIR does not want its own frames.
    rq = d.create_rq(cq, {});
    d.post(rq, 16);
    d.steer_all_to(d.create_tir(rq.id));
    d.post(sq, MLX5_OPCODE_SEND, d.eth_segments({}, {f}));
    EXPECT_EQ(d.poll(cq), nullptr);
    EXPECT_TRUE(d.host.wire.empty());
    EXPECT_EQ(d.dev.stats().loopback_frames, 1U);
    // It does.
    d.steer_all_to(d.create_tir(rq.id, MLX5_TIRC_SELF_LB_BLOCK_BLOCK_UNICAST));
    d.post(sq, MLX5_OPCODE_SEND, d.eth_segments({}, {f}));
    ASSERT_NE(d.poll(cq), nullptr);
    EXPECT_EQ(buffer(0, f.size()), f);
    EXPECT_TRUE(d.host.wire.empty());
    // Multicast goes both ways.
    d.steer_all_to(d.create_tir(rq.id, MLX5_TIRC_SELF_LB_BLOCK_BLOCK_MULTICAST));
    const Frame m = good_frame({.dmac = {0x01, 0, 0x5e, 1, 2, 3}}, 100);
    d.post(sq, MLX5_OPCODE_SEND, d.eth_segments({}, {m}));
    ASSERT_NE(d.poll(cq), nullptr);
    EXPECT_EQ(d.host.wire.size(), 1U);
}

} // namespace
} // namespace connectx::test
