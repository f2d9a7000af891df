// SPDX-License-Identifier: GPL-2.0
//
// Event queues, completion queues with arming and moderation, interrupts, and fault injection.
#include "mini_driver.h"
#include "packets.h"

#include <core.h>
#include <gtest/gtest.h>

namespace connectx::test {
namespace {

class Events : public testing::Test {
  protected:
    void SetUp() override { d.open(); }

    void nop(TestSq &sq) { d.post(sq, MLX5_OPCODE_NOP, {}); }
    unsigned completions(TestCq &cq) {
        unsigned n = 0;
        while (d.poll(cq) != nullptr)
            ++n;
        return n;
    }
    /// The CQ numbers that the completion EQ has announced.
    std::vector<std::uint32_t> announced() {
        std::vector<std::uint32_t> cqns;
        while (const mlx5_eqe *eqe = d.poll(d.comp_eq))
            cqns.push_back(be32_to_cpu(eqe->data.comp.cqn));
        return cqns;
    }
    void fault(const std::string &spec) {
        std::string error;
        EXPECT_TRUE(d.dev.inject_fault(spec, error)) << spec << ": " << error;
    }

    MiniDriver d;
};

TEST_F(Events, ArmedCqAnnouncesOnce) {
    TestCq cq = d.create_cq(6);
    TestSq sq = d.create_sq(cq);
    d.host.interrupts.clear();
    nop(sq);
    EXPECT_TRUE(announced().empty()) << "not armed";
    d.arm(cq);
    EXPECT_EQ(announced(), std::vector<std::uint32_t>{cq.id}) << "armed behind what is there";
    EXPECT_EQ(d.host.interrupts, std::vector<unsigned>{1});
    completions(cq);
    nop(sq);
    EXPECT_TRUE(announced().empty()) << "has fired";
    completions(cq);
    d.arm(cq);
    d.arm(d.comp_eq);
    EXPECT_TRUE(announced().empty());
    nop(sq);
    nop(sq);
    EXPECT_EQ(announced(), std::vector<std::uint32_t>{cq.id});
    EXPECT_EQ(d.host.interrupts.size(), 2U);
}

/// A process that has mapped one UAR rings for what is on it, and for nothing else.
TEST_F(Events, DoorbellsOnAnotherUarAreIgnored) {
    const Message out = d.must(REQUEST(alloc_uar, ALLOC_UAR), IFC_BYTES(alloc_uar_out));
    const std::uint64_t other = std::uint64_t{IFC_GET(alloc_uar_out, ConstBytes(out), uar)} << 12;
    TestCq cq = d.create_cq(6);
    TestSq sq = d.create_sq(cq);
    d.host.interrupts.clear();
    d.write64(other + 0x20, cq.id);
    nop(sq);
    EXPECT_TRUE(announced().empty()) << "the CQ is not armed";
    d.arm(cq);
    EXPECT_EQ(announced().size(), 1U);
    EXPECT_EQ(d.host.interrupts.size(), 1U);
    d.write32(other + 0x40, d.comp_eq.id << 24);
    EXPECT_EQ(d.host.interrupts.size(), 1U) << "nor the EQ";
    d.write32(other + 0x48, d.comp_eq.id << 24 | 77);
    EXPECT_EQ(d.dev.core().eqs.find(d.comp_eq.id)->ci, 0U) << "nor its consumer index moved";
    d.write32((static_cast<std::uint64_t>(d.uar) << 12) + 0x40, d.comp_eq.id << 24);
    EXPECT_EQ(d.host.interrupts.size(), 2U);
}

TEST_F(Events, EqInterruptsOnlyWhenArmed) {
    TestCq cq = d.create_cq(6);
    TestSq sq = d.create_sq(cq);
    const auto use = [&] {
        d.arm(cq);
        nop(sq);
        completions(cq);
    };
    d.host.interrupts.clear();
    use();
    use();
    EXPECT_EQ(d.host.interrupts.size(), 1U);
    // Consumer index without arming, then arming behind events that are there.
    d.poll(d.comp_eq);
    d.write32((static_cast<std::uint64_t>(d.uar) << 12) + 0x48, d.comp_eq.id << 24 | d.comp_eq.ci);
    EXPECT_EQ(d.host.interrupts.size(), 1U);
    d.arm(d.comp_eq);
    EXPECT_EQ(d.host.interrupts.size(), 2U) << "one event was left";
    // Doorbells of nobody.
    d.write32((static_cast<std::uint64_t>(d.uar) << 12) + 0x40, 200U << 24);
    d.write64((static_cast<std::uint64_t>(d.uar) << 12) + 0x20, 0xffffff);
}

TEST_F(Events, ModerationByCount) {
    TestCq cq = d.create_cq(8, 1000, 10);
    TestSq sq = d.create_sq(cq, 7);
    d.arm(cq);
    nop(sq); // the first after a long time is announced at once
    EXPECT_EQ(announced().size(), 1U);
    completions(cq);
    d.arm(cq);
    for (unsigned i = 0; i < 9; ++i)
        nop(sq);
    EXPECT_TRUE(announced().empty());
    nop(sq);
    EXPECT_EQ(announced().size(), 1U);
}

TEST_F(Events, ModerationByTime) {
    for (unsigned mode : {0U, 1U}) {
        SCOPED_TRACE(mode);
        TestCq cq = d.create_cq(8, 1000, 100);
        auto modify = REQUEST(modify_cq, MODIFY_CQ);
        IFC_SET(modify_cq_in, Bytes(modify), cqn, cq.id);
        store_be<std::uint32_t>(
            IFC_AT(modify_cq_in, Bytes(modify), modify_field_select_resize_field_select).data(),
            MLX5_CQ_MODIFY_PERIOD_MODE);
        IFC_SET(modify_cq_in, Bytes(modify), cq_context.cq_period_mode, mode);
        d.must(modify, 16);
        TestSq sq = d.create_sq(cq, 7);
        d.advance(10'000'000);
        d.arm(cq);
        announced();
        if (mode == 0) {
            // Long since the last event: at once.
            nop(sq);
            EXPECT_EQ(announced().size(), 1U);
            completions(cq);
            d.arm(cq);
        }
        nop(sq);
        d.advance(600'000);
        EXPECT_TRUE(announced().empty());
        nop(sq); // in mode 1 the period starts anew
        d.advance(600'000);
        EXPECT_EQ(announced().size(), mode == 0 ? 1U : 0U);
        d.advance(600'000);
        EXPECT_EQ(announced().size(), mode == 0 ? 0U : 1U);
        completions(cq);
        d.arm(d.comp_eq);
    }
}

TEST_F(Events, CqWrapsRoundAndOverruns) {
    TestCq cq = d.create_cq(2);
    TestSq sq = d.create_sq(cq, 7);
    for (unsigned i = 0; i < 20; ++i) {
        nop(sq);
        EXPECT_EQ(completions(cq), 1U) << i;
    }
    for (unsigned i = 0; i < 5; ++i)
        nop(sq);
    EXPECT_EQ(completions(cq), 4U);
    nop(sq);
    EXPECT_EQ(completions(cq), 0U) << "a CQ in error stays so";
    d.arm(cq);
}

TEST_F(Events, EqOverrunLosesEventsAndNothingElse) {
    TestEq small = d.create_eq(0, 1ULL << MLX5_EVENT_TYPE_PORT_CHANGE, 2);
    for (unsigned i = 0; i < 10; ++i)
        d.dev.set_link(i % 2 != 0);
    unsigned seen = 0;
    while (d.poll(small) != nullptr)
        ++seen;
    EXPECT_EQ(seen, 4U);
    EXPECT_FALSE(d.host.logs.empty());
    d.arm(small);
    d.dev.set_link(false);
    EXPECT_NE(d.poll(small), nullptr);
}

TEST_F(Events, LateInterruptKeepsItsTime) {
    TestCq cq = d.create_cq(6);
    TestSq sq = d.create_sq(cq);
    fault("interrupt-late,vector=1,ms=5");
    d.arm(cq);
    d.host.interrupts.clear();
    nop(sq);
    d.advance(4'900'000);
    EXPECT_TRUE(d.host.interrupts.empty());
    d.advance(200'000);
    EXPECT_EQ(d.host.interrupts, std::vector<unsigned>{1});
}

TEST_F(Events, LostInterruptLeavesTheEvent) {
    TestCq cq = d.create_cq(6);
    TestSq sq = d.create_sq(cq);
    fault("interrupt-lost,vector=1,count=1");
    d.arm(cq);
    d.host.interrupts.clear();
    nop(sq);
    d.advance(1'000'000'000);
    EXPECT_TRUE(d.host.interrupts.empty());
    EXPECT_EQ(announced().size(), 1U);
    completions(cq);
    d.arm(cq);
    d.arm(d.comp_eq);
    nop(sq);
    EXPECT_EQ(d.host.interrupts.size(), 1U);
}

TEST_F(Events, CommandFaults) {
    fault("command-fail,opcode=0x80,count=2,status=8,syndrome=0x123"); // hex as the header has it
    EXPECT_TRUE(d.command(REQUEST(nop, NOP), 16).ok());
    const auto pd = REQUEST(alloc_pd, ALLOC_PD);
    EXPECT_TRUE(d.command(pd, 16).ok());
    fault("command-fail,opcode=0x800,count=2,status=8,syndrome=0x123");
    for (unsigned i = 0; i < 2; ++i) {
        const Reply r = d.command(pd, 16);
        EXPECT_EQ(r.status, 8);
        EXPECT_EQ(r.syndrome, 0x123U);
    }
    EXPECT_TRUE(d.command(pd, 16).ok());
    fault("command-timeout,opcode=2048");
    EXPECT_EQ(d.command(pd, 16).delivery, ~0U);
    EXPECT_TRUE(d.command(pd, 16).ok());
    fault("command-timeout,ms=10");
    EXPECT_EQ(d.command(pd, 16).delivery, ~0U);
    TestEq eq = d.create_eq(0, 1ULL << MLX5_EVENT_TYPE_CMD);
    d.advance(9'000'000);
    EXPECT_EQ(d.poll(eq), nullptr);
    d.advance(2'000'000);
    EXPECT_NE(d.poll(eq), nullptr);
    fault("command-fail");
    fault("none");
    EXPECT_TRUE(d.command(pd, 16).ok());
}

TEST_F(Events, QueueFaults) {
    TestCq cq = d.create_cq(6);
    TestSq sq = d.create_sq(cq);
    fault("send-error,queue=1,syndrome=0x12"); // somebody else's
    nop(sq);
    EXPECT_EQ(d.poll(cq)->op_own >> 4, MLX5_CQE_REQ);
    fault("send-error,syndrome=0x12");
    nop(sq);
    const mlx5_cqe64 *cqe = d.poll(cq);
    ASSERT_NE(cqe, nullptr);
    EXPECT_EQ(cqe->op_own >> 4, MLX5_CQE_REQ_ERR);
    EXPECT_EQ(reinterpret_cast<const mlx5_err_cqe *>(cqe)->syndrome, 0x12);
    TestCq rcq = d.create_cq(6);
    TestRq rq = d.create_rq(rcq, {});
    d.post(rq, 4);
    d.steer_all_to(d.create_tir(rq.id));
    fault("receive-error,queue=" + std::to_string(rq.id) + ",syndrome=0x13");
    d.dev.wire_rx(make_frame({}, pattern(100)));
    d.settle();
    cqe = d.poll(rcq);
    ASSERT_NE(cqe, nullptr);
    EXPECT_EQ(reinterpret_cast<const mlx5_err_cqe *>(cqe)->syndrome, 0x13);
}

TEST_F(Events, LinkFaults) {
    const auto up = [&] {
        return IFC_GET(query_vport_state_out,
                       ConstBytes(d.must(REQUEST(query_vport_state, QUERY_VPORT_STATE),
                                         IFC_BYTES(query_vport_state_out))),
                       state) == VPORT_STATE_UP;
    };
    fault("link-flap,ms=10");
    EXPECT_FALSE(up());
    d.advance(9'000'000);
    EXPECT_FALSE(up());
    d.advance(2'000'000);
    EXPECT_TRUE(up());
    fault("link-down");
    EXPECT_FALSE(up());
    fault("link-up");
    EXPECT_TRUE(up());
}

TEST_F(Events, HealthFaults) {
    constexpr auto kHealth = offsetof(mlx5_init_seg, health);
    const auto synd = [&] {
        return d.read32(kHealth + offsetof(health_buffer, irisc_index)) >> 16;
    };
    const auto counter = [&] { return d.read32(offsetof(mlx5_init_seg, health_counter)); };
    EXPECT_EQ(synd() & 0xff, 0U);
    fault("health,syndrome=0x7,rfr=1,severity=2");
    EXPECT_EQ(synd() & 0xff, 7U);
    EXPECT_EQ(d.read32(kHealth + offsetof(health_buffer, rfr_severity)) >> 31, 1U);
    fault("none");
    EXPECT_EQ(synd() & 0xff, 0U);
    fault("health-stuck");
    const auto before = counter();
    d.host.now_ns += 5'000'000'000;
    EXPECT_EQ(counter(), before);
    fault("none");
    EXPECT_NE(counter(), before);
    EXPECT_NE(d.read32(kHealth + offsetof(health_buffer, time)), 0U);
    EXPECT_EQ(d.read32(kHealth + offsetof(health_buffer, hw_id)), 0x218U);
    EXPECT_NE(d.read32(offsetof(mlx5_init_seg, real_time_h)), 0U);
    EXPECT_LT(d.read32(offsetof(mlx5_init_seg, real_time_l)), 1'000'000'000U);
    EXPECT_EQ(d.read32(offsetof(mlx5_init_seg, internal_timer_h)),
              static_cast<std::uint32_t>(d.host.now_ns >> 32));
    fault("reset");
    EXPECT_EQ(d.read32(offsetof(mlx5_init_seg, cmdq_addr_l_sz)) >> 8 & 7, 1U);
}

TEST_F(Events, FaultsAreChecked) {
    const auto refused = [&](const std::string &spec) {
        std::string error;
        EXPECT_FALSE(d.dev.inject_fault(spec, error)) << spec;
        return error;
    };
    EXPECT_EQ(refused("nonsense"), "unknown fault 'nonsense'");
    EXPECT_EQ(refused(""), "unknown fault ''");
    EXPECT_EQ(refused("link-flap,speed=1"), "unknown key 'speed'");
    EXPECT_EQ(refused("link-flap,ms"), "'ms' wants a number");
    EXPECT_EQ(refused("link-flap,ms=1x"), "'ms' wants a number");
    EXPECT_EQ(refused("link-flap,ms=0x"), "'ms' wants a number");
    EXPECT_EQ(refused("link-flap,ms=99999999999999999999999"), "'ms' wants a number");
    EXPECT_EQ(refused("link-flap,ms=3600001"), "'ms' is more than an hour");
}

TEST(Trace, NamesCommandsRegistersAndWqes) {
    MiniDriver d({.trace = true});
    d.open();
    TestCq cq = d.create_cq();
    TestSq sq = d.create_sq(cq);
    d.post(sq, MLX5_OPCODE_NOP, {});
    d.command(REQUEST(dealloc_pd, DEALLOC_PD), 16);
    d.write64((9999ULL << 12) + 0x800, 0);
    std::string all;
    for (const auto &line : d.host.logs)
        all += line + "\n";
    for (const char *text :
         {"command CREATE_SQ op_mod 0 in", ": ok syndrome 0", "register PAOS",
          "WQE 0 opcode 0 ds 1", "command DEALLOC_PD", "bad index", "unassigned UAR"})
        EXPECT_NE(all.find(text), std::string::npos) << text << "\n" << all;
}

} // namespace
} // namespace connectx::test
