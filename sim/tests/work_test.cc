// SPDX-License-Identifier: GPL-2.0
//
// No call of the device lasts, whatever a guest has arranged: what it does is counted (WorkMeter),
// so that these tests measure no time. docs/connectx-model.md says what a unit takes.
#include "mini_driver.h"
#include "packets.h"

#include <core.h>
#include <gtest/gtest.h>

#include <ctime>

namespace connectx::test {
namespace {

/// Calls of the host within one call of the device: a bound of its own, as each costs an emulator
/// something.
constexpr std::uint64_t kMaxHostCalls = 60'000;

class Work : public testing::Test {
  protected:
    void SetUp() override { d.open(); }
    void TearDown() override {
        EXPECT_LE(most(), WorkMeter::kLimit);
        // For docs/connectx-model.md (--gtest_output=xml): no time decides a test.
        RecordProperty("most_units", static_cast<int>(most()));
        RecordProperty("longest_call_us", static_cast<int>(longest_ns_ / 1000));
    }

    std::size_t most() { return d.dev.core().work.most(); }
    /// One call of the device.
    template <typename Call> void timed(Call call) {
        const auto now = [] {
            timespec t{};
            clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
            return t.tv_sec * 1'000'000'000L + t.tv_nsec;
        };
        const long before = now();
        call();
        longest_ns_ = std::max(longest_ns_, now() - before);
    }
    /// As MiniDriver::settle(), but each step is looked at. Returns how many there were.
    unsigned settle() {
        unsigned steps = 0;
        while (d.host.work_pending && steps < 100'000) {
            d.host.work_pending = false;
            const auto before = d.host.calls;
            timed([this] { d.dev.run(); });
            EXPECT_LE(d.host.calls - before, kMaxHostCalls);
            ++steps;
        }
        EXPECT_FALSE(d.host.work_pending) << "no end";
        return steps;
    }
    /// Without mailboxes: some of this takes very many commands.
    CommandStatus execute(const Message &in, std::size_t out_size = 0x100) {
        out.assign(out_size, 0);
        return d.dev.core().commands.execute(in, out);
    }
    /// Rings a send queue's doorbell without letting the device work.
    void ring(TestSq &sq) {
        d.host.put<std::uint32_t>(sq.dbr + 4, sq.pc);
        std::array<std::uint8_t, 8> head{};
        store_be<std::uint32_t>(head.data() + 4, sq.id << 8);
        d.dev.mmio_write((static_cast<std::uint64_t>(d.uar) << 12) + 0x800, head);
    }
    static void match_port(Bytes m, unsigned port) {
        IFC_SET(fte_match_set_lyr_2_4, IFC_AT(fte_match_param, m, outer_headers), udp_dport, port);
    }

    MiniDriver d{{}, 64U << 20};
    Message out;

  private:
    long longest_ns_ = 0;
};

TEST_F(Work, OneWqeOfVeryManyFrames) {
    constexpr std::size_t kFrames = 65535;
    TestCq cq = d.create_cq(6);
    TestSq sq = d.create_sq(cq, 6);
    TestSq other = d.create_sq(cq, 6);
    std::size_t frames = 0;
    std::size_t others_turn = 0;
    bool in_order = true;
    const Frame header = make_frame({.tcp = true}, {});
    d.host.keep_frames = false;
    d.host.on_wire_tx = [&](std::span<const std::uint8_t> f) {
        if (f[23] == 17) {
            others_turn = frames;
            return;
        }
        in_order &= load_be<std::uint32_t>(&f[38]) == 0x11223344U + frames &&
                    f[54] == static_cast<std::uint8_t>(frames * 7 + (frames >> 8) + 31);
        ++frames;
    };
    d.post(sq, MLX5_OPCODE_LSO,
           d.eth_segments({.mss = 1, .inline_header = header}, {pattern(kFrames)}), true, false);
    d.post(other, MLX5_OPCODE_SEND, d.eth_segments({}, {make_frame({}, pattern(100))}), true,
           false);
    ring(sq);
    ring(other);
    EXPECT_GT(settle(), 5U);
    EXPECT_EQ(frames, kFrames);
    EXPECT_TRUE(in_order);
    EXPECT_GT(others_turn, 0U);
    EXPECT_LT(others_turn, 1000U) << "of another queue, that must not wait for all of it";
    unsigned completions = 0;
    while (const mlx5_cqe64 *cqe = d.poll(cq)) {
        EXPECT_EQ(cqe->op_own >> 4, MLX5_CQE_REQ);
        ++completions;
    }
    EXPECT_EQ(completions, 2U);
}

/// What a WQE needs may go while it is at work.
TEST_F(Work, AQueueThatIsStoppedWithinAWqe) {
    TestCq cq = d.create_cq(6);
    TestSq sq = d.create_sq(cq, 6);
    d.host.keep_frames = false;
    const Message wqe = d.eth_segments({.mss = 1, .inline_header = make_frame({.tcp = true}, {})},
                                       {pattern(60'000)});
    for (const bool reset : {false, true}) {
        d.post(sq, MLX5_OPCODE_LSO, wqe, true, false);
        ring(sq);
        d.dev.run();
        ASSERT_TRUE(d.host.work_pending);
        EXPECT_EQ(d.poll(cq), nullptr);
        auto in = REQUEST(modify_sq, MODIFY_SQ);
        IFC_SET(modify_sq_in, Bytes(in), sqn, sq.id);
        IFC_SET(modify_sq_in, Bytes(in), sq_state, 1);
        IFC_SET(modify_sq_in, Bytes(in), ctx.state, reset ? 0 : 3);
        ASSERT_TRUE(execute(in).ok());
        settle();
        const mlx5_cqe64 *cqe = d.poll(cq);
        if (reset) {
            EXPECT_EQ(cqe, nullptr);
        } else {
            ASSERT_NE(cqe, nullptr);
            EXPECT_EQ(reinterpret_cast<const mlx5_err_cqe *>(cqe)->syndrome,
                      static_cast<std::uint8_t>(Syndrome::kFlush));
            EXPECT_TRUE(d.modify_sq(sq, 3, 0).ok());
        }
        EXPECT_TRUE(d.modify_sq(sq, 0, 1).ok());
        sq.pc = 0;
        d.host.put<std::uint32_t>(sq.dbr + 4, 0);
    }
}

/// One group, one mask, one entry each: what counts is how many masks there are.
TEST_F(Work, VeryManyFlowGroupsOfOneEntry) {
    constexpr unsigned kGroups = 65536;
    TestCq cq = d.create_cq(6);
    TestRq rq = d.create_rq(cq, {});
    d.post(rq, 16);
    const auto tir = d.create_tir(rq.id);
    const auto table = d.create_table(1, 16);
    auto group = d.group_request(table, 0, 0, [](Bytes m) { match_port(m, 0xffff); });
    auto entry = d.fte_request(table, 0, 0, {{MLX5_IFC_FLOW_DESTINATION_TYPE_TIR, tir}});
    for (unsigned i = 0; i < kGroups; ++i) {
        IFC_SET(create_flow_group_in, Bytes(group), start_flow_index, i);
        IFC_SET(create_flow_group_in, Bytes(group), end_flow_index, i);
        ASSERT_TRUE(execute(group).ok());
        const auto id = IFC_GET(create_flow_group_out, ConstBytes(out), group_id);
        IFC_SET(set_fte_in, Bytes(entry), flow_index, i);
        IFC_SET(set_fte_in, Bytes(entry), flow_context.group_id, id);
        match_port(IFC_AT(set_fte_in, Bytes(entry), flow_context.match_value), i);
        ASSERT_TRUE(execute(entry).ok()) << i;
    }
    d.set_root(table);
    const std::size_t before = most();
    const Frame frame = make_frame({.dport = kGroups - 1}, pattern(100));
    timed([&] { d.dev.wire_rx(frame); });
    EXPECT_NE(d.poll(cq), nullptr) << "the last of them";
    EXPECT_LE(d.dev.core().work.done(), 200U) << "for one frame";
    EXPECT_EQ(most(), before);
}

/// The most different masks that there may be, in table behind table: the frame is given up.
TEST_F(Work, VeryManyMasks) {
    const auto status = [&](std::uint32_t table, unsigned i) {
        return execute(d.group_request(table, i, i,
                                       [i](Bytes m) {
                                           IFC_SET(fte_match_set_lyr_2_4,
                                                   IFC_AT(fte_match_param, m, outer_headers),
                                                   smac_47_16, i);
                                       }))
            .status;
    };
    std::uint32_t next = 0;
    std::vector<std::uint32_t> tables;
    for (unsigned level = 8; level > 0; --level) {
        const auto table = next = d.create_table(level, 16, next);
        unsigned i = 0;
        while (i < 65536 && status(table, i) == MLX5_CMD_STAT_OK)
            ++i;
        EXPECT_EQ(i, 4096U);
        EXPECT_EQ(status(table, i), MLX5_CMD_STAT_NO_RES_ERR);
        tables.push_back(table);
    }
    auto in = REQUEST(modify_flow_table, MODIFY_FLOW_TABLE); // round in circles
    IFC_SET(modify_flow_table_in, Bytes(in), table_id, tables.front());
    IFC_SET(modify_flow_table_in, Bytes(in), modify_field_select, 1);
    IFC_SET(modify_flow_table_in, Bytes(in), flow_table_context.table_miss_action, 1);
    IFC_SET(modify_flow_table_in, Bytes(in), flow_table_context.table_miss_id, tables.back());
    ASSERT_TRUE(execute(in).ok());
    d.set_root(tables.back());
    const Frame frame = make_frame({}, pattern(100));
    timed([&] { d.dev.wire_rx(frame); });
    EXPECT_EQ(d.dev.stats().rx_dropped, 1U);
    EXPECT_GT(d.dev.core().work.done(), 16384U);
    // Frames to oneself, each as dear: what sends them gives back control between two.
    TestCq cq = d.create_cq(6);
    TestSq sq = d.create_sq(cq, 6);
    const Frame own = make_frame({.dmac = {0x52, 0x54, 0x00, 0x12, 0x34, 0x56}}, pattern(100));
    d.post(sq, MLX5_OPCODE_ENHANCED_MPSW, d.eth_segments({}, std::vector<Message>(50, own)), true,
           false);
    ring(sq);
    EXPECT_GT(settle(), 10U);
    EXPECT_EQ(d.dev.stats().loopback_frames, 50U);
    EXPECT_NE(d.poll(cq), nullptr);
}

/// 32 commands at once, each with the longest messages.
TEST_F(Work, LongCommands) {
    constexpr std::size_t kLongest = CommandInterface::kMaxMessage;
    constexpr std::size_t kBlocks = (kLongest - 16 + 511) / 512;
    const std::uint64_t queue = d.dev.core().commands.queue_address().value;
    const std::uint64_t blocks = d.host.alloc(kBlocks * 1024, 1024);
    for (std::size_t i = 0; i < kBlocks; ++i) {
        mlx5_cmd_prot_block b{};
        b.next = cpu_to_be64(i + 1 < kBlocks ? blocks + (i + 1) * 1024 : 0);
        b.block_num = cpu_to_be32(static_cast<std::uint32_t>(i));
        std::memcpy(d.host.at(blocks + i * 1024), &b, sizeof(b));
    }
    for (unsigned slot = 0; slot < 32; ++slot) {
        mlx5_cmd_layout lay{};
        lay.type = MLX5_PCI_CMD_XPORT;
        lay.inlen = lay.outlen = cpu_to_be32(static_cast<std::uint32_t>(kLongest));
        lay.in_ptr = lay.out_ptr = cpu_to_be64(blocks);
        lay.status_own = 1;
        const auto nop = REQUEST(nop, NOP);
        std::memcpy(lay.in, nop.data(), sizeof(lay.in));
        lay.sig = ~MiniDriver::xor8({reinterpret_cast<std::uint8_t *>(&lay), sizeof(lay)});
        std::memcpy(d.host.at(queue + slot * sizeof(lay)), &lay, sizeof(lay));
    }
    d.write32(offsetof(mlx5_init_seg, cmd_dbell), ~0U);
    EXPECT_GT(settle(), 32U);
    for (unsigned slot = 0; slot < 32; ++slot) {
        mlx5_cmd_layout lay;
        std::memcpy(&lay, d.host.at(queue + slot * sizeof(lay)), sizeof(lay));
        EXPECT_EQ(lay.status_own, 0) << slot;
        EXPECT_EQ(lay.out[0], 0) << slot;
    }
}

/// A command that is half read when the interface goes, or when its queue moves.
TEST_F(Work, ALongCommandIsForgottenWithItsQueue) {
    const std::uint64_t queue = d.dev.core().commands.queue_address().value;
    auto in = request(MLX5_CMD_OP_NOP, CommandInterface::kMaxMessage);
    const auto begin = [&] {
        d.command(in, 16); // leaves descriptor and mailboxes where they are
        mlx5_cmd_layout lay;
        std::memcpy(&lay, d.host.at(queue + MiniDriver::kSlot * sizeof(lay)), sizeof(lay));
        EXPECT_EQ(lay.status_own, 0);
        lay.status_own = 1;
        std::memset(lay.out, 0, sizeof(lay.out));
        lay.sig = 0;
        lay.sig = ~MiniDriver::xor8({reinterpret_cast<std::uint8_t *>(&lay), sizeof(lay)});
        std::memcpy(d.host.at(queue + MiniDriver::kSlot * sizeof(lay)), &lay, sizeof(lay));
        d.write32(offsetof(mlx5_init_seg, cmd_dbell), 1U << MiniDriver::kSlot);
        d.host.work_pending = false;
        d.dev.run();
        ASSERT_TRUE(d.dev.core().commands.pending()) << "still at it";
    };
    const auto owned_by_device = [&] {
        return (d.host.at(queue + MiniDriver::kSlot * 64)[63] & 1) != 0;
    };
    begin();
    d.set_queue_address();
    settle();
    EXPECT_FALSE(d.dev.core().commands.pending());
    EXPECT_TRUE(owned_by_device());
    begin();
    d.dev.reset();
    settle();
    EXPECT_FALSE(d.dev.core().commands.pending());
    EXPECT_TRUE(owned_by_device());
}

TEST_F(Work, QueuesInErrorAreFlushedBitByBit) {
    constexpr unsigned kLog = 15;
    TestCq cq = d.create_cq(17);
    TestSq sq = d.create_sq(cq, kLog);
    const auto count = [&] {
        unsigned n = 0;
        while (const mlx5_cqe64 *cqe = d.poll(cq))
            n += reinterpret_cast<const mlx5_err_cqe *>(cqe)->syndrome ==
                 static_cast<std::uint8_t>(Syndrome::kFlush);
        return n;
    };
    for (unsigned i = 0; i < 1U << kLog; ++i)
        d.post(sq, 0x77, {}, true, false); // no such opcode
    ring(sq);
    EXPECT_GT(settle(), 2U);
    EXPECT_EQ(count(), (1U << kLog) - 1);

    MiniDriver::RqOptions options{.log_size = kLog, .buffer_size = 64};
    std::vector<TestRq> queues;
    for (unsigned i = 0; i < 2; ++i) {
        queues.push_back(d.create_rq(cq, options));
        d.post(queues.back(), 1U << kLog);
    }
    for (const TestRq &rq : queues) {
        auto in = REQUEST(modify_rq, MODIFY_RQ);
        IFC_SET(modify_rq_in, Bytes(in), rqn, rq.id);
        IFC_SET(modify_rq_in, Bytes(in), rq_state, 1);
        IFC_SET(modify_rq_in, Bytes(in), ctx.state, 3);
        ASSERT_TRUE(execute(in).ok());
    }
    EXPECT_GT(settle(), 4U);
    EXPECT_EQ(count(), 2U << kLog);
}

/// CQs without number whose time is up at the same time.
TEST_F(Work, ModerationOfVeryManyQueues) {
    constexpr unsigned kQueues = 8000;
    const std::uint64_t ring_of_all = d.host.alloc(4096);
    const std::uint64_t dbr = d.host.alloc(64, 64);
    auto in = request(MLX5_CMD_OP_CREATE_CQ, IFC_BYTES(create_cq_in) + 8);
    const Bytes cqc = IFC_AT(create_cq_in, Bytes(in), cq_context);
    IFC_SET(cqc, cqc, uar_page, d.uar);
    IFC_SET(cqc, cqc, c_eqn_or_apu_element, d.comp_eq.id);
    IFC_SET(cqc, cqc, cq_period, 1000);
    IFC_SET(cqc, cqc, cq_max_count, 100);
    IFC_SET(cqc, cqc, cq_period_mode, 1);
    IFC_SET64(cqc, cqc, dbr_addr, dbr);
    store_be<std::uint64_t>(IFC_AT(create_cq_in, Bytes(in), pas).data(), ring_of_all);
    Core &core = d.dev.core();
    for (unsigned i = 0; i < kQueues; ++i) {
        ASSERT_TRUE(execute(in).ok());
        const auto id = IFC_GET(create_cq_out, ConstBytes(out), cqn);
        d.write64((static_cast<std::uint64_t>(d.uar) << 12) + 0x20, id);
        mlx5_cqe64 cqe{};
        ASSERT_TRUE(core.completions.complete(*core.cqs.find(id), cqe));
    }
    d.host.now_ns += 2'000'000;
    unsigned runs = 0;
    while (core.completions.next_deadline() <= d.host.now_ns && runs < 100) {
        timed([this] { d.dev.run(); });
        ++runs;
    }
    EXPECT_GT(runs, 1U);
    EXPECT_LT(runs, 100U);
}

/// All that a guest may pile up, gone with one register write.
TEST_F(Work, TeardownOfEverything) {
    Core &core = d.dev.core();
    const auto table = d.create_table(1, 16);
    const auto group = d.create_group(table, 0, 0xffff, [](Bytes m) { match_port(m, 0xffff); });
    auto entry = d.fte_request(table, group, 0, {}, {}, MLX5_FLOW_CONTEXT_ACTION_DROP);
    for (unsigned i = 0; i < 30'000; ++i) {
        IFC_SET(set_fte_in, Bytes(entry), flow_index, i);
        match_port(IFC_AT(set_fte_in, Bytes(entry), flow_context.match_value), i);
        ASSERT_TRUE(execute(entry).ok());
    }
    auto mkey = REQUEST(create_mkey, CREATE_MKEY);
    IFC_SET(create_mkey_in, Bytes(mkey), memory_key_mkey_entry.pd, d.pd);
    std::uint32_t last = 0;
    for (unsigned i = 0; i < (1U << 18) - 1; ++i) {
        ASSERT_TRUE(execute(mkey).ok()) << i;
        last = IFC_GET(create_mkey_out, ConstBytes(out), mkey_index);
    }
    // Each number is in use but that of the one that goes, which is the one that comes.
    EXPECT_EQ(execute(mkey).status, MLX5_CMD_STAT_NO_RES_ERR);
    for (unsigned i = 0; i < 100; ++i) {
        auto in = REQUEST(destroy_mkey, DESTROY_MKEY);
        IFC_SET(destroy_mkey_in, Bytes(in), mkey_index, last - 1000 * i);
        ASSERT_TRUE(execute(in).ok());
        ASSERT_TRUE(execute(mkey).ok());
        EXPECT_EQ(IFC_GET(create_mkey_out, ConstBytes(out), mkey_index), last - 1000 * i);
    }
    auto sa = REQUEST(create_quic_sa, CREATE_GENERAL_OBJECT);
    IFC_SET(general_obj_in_cmd_hdr, Bytes(sa), obj_type, MLX5_GENERAL_OBJECT_TYPES_QUIC_SA);
    const Bytes obj = IFC_AT(create_quic_sa_in, Bytes(sa), quic_sa_object);
    IFC_SET(quic_sa_obj, obj, cipher, MLX5_QUIC_CIPHER_AES_128_GCM);
    IFC_SET(quic_sa_obj, obj, pd, d.pd);
    for (unsigned i = 0; i < 65'536; ++i)
        ASSERT_TRUE(execute(sa).ok());
    EXPECT_GT(core.budget.used(), 0U);

    d.host.work_pending = false;
    timed([this] {
        d.write32(offsetof(mlx5_init_seg, cmdq_addr_l_sz),
                  static_cast<std::uint32_t>(NicInterface::kDisabled) << MLX5_NIC_IFC_OFFSET);
    });
    EXPECT_EQ(core.mkeys.size(), 0U);
    EXPECT_FALSE(core.graveyard.empty());
    EXPECT_GT(settle(), 5U);
    EXPECT_TRUE(core.graveyard.empty());
    EXPECT_EQ(core.budget.used(), 0U);
}

/// A list that is too long is refused before it is gone through.
TEST_F(Work, LongListsAreRefused) {
    TestCq cq = d.create_cq(6);
    const TestRq rq = d.create_rq(cq, {});
    auto in = request(MLX5_CMD_OP_CREATE_RQT, IFC_BYTES(create_rqt_in) + 65535 * 4);
    const Bytes ctx = IFC_AT(create_rqt_in, Bytes(in), rqt_context);
    IFC_SET(rqtc, ctx, rqt_max_size, 16);
    IFC_SET(rqtc, ctx, rqt_actual_size, 65535);
    for (std::size_t i = 0; i < 65535; ++i)
        store_be<std::uint32_t>(IFC_AT(rqtc, ctx, rq_num).data() + i * 4, rq.id);
    const std::size_t before = d.dev.core().work.done();
    EXPECT_EQ(execute(in).status, MLX5_CMD_STAT_BAD_PARAM_ERR);
    EXPECT_LE(d.dev.core().work.done() - before, 100U);
}

} // namespace
} // namespace connectx::test
