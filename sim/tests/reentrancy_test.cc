// SPDX-License-Identifier: GPL-2.0
//
// What the host does for the device may lead back into it: a guest aims DMA, interrupt messages and
// a second adapter's frames wherever it likes. Objects, buffers and the order of frames are then
// what they would be without.
#include "mini_driver.h"
#include "packets.h"

#include <core.h>
#include <gtest/gtest.h>

namespace connectx::test {
namespace {

class Reentrancy : public testing::Test {
  protected:
    void SetUp() override {
        d.open();
        Message pmtu(IFC_BYTES(pmtu_reg));
        IFC_SET(pmtu_reg, Bytes(pmtu), local_port, 1);
        IFC_SET(pmtu_reg, Bytes(pmtu), admin_mtu, Port::kMaxMtu);
        d.access_register(MLX5_REG_PMTU, pmtu, true);
        scq = d.create_cq(7);
        sq = d.create_sq(scq, 7);
        cq = d.create_cq(11);
    }
    void open_striding(unsigned log_size) {
        rq = d.create_rq(cq, {.type = MLX5_WQ_TYPE_CYCLIC_STRIDING_RQ,
                              .log_size = log_size,
                              .log_stride_size = 10,
                              .log_num_strides = 4});
        d.post(rq, 1U << log_size);
        d.steer_all_to(d.create_tir(rq.id, MLX5_TIRC_SELF_LB_BLOCK_BLOCK_UNICAST));
    }
    void send_to_oneself(const Frame &f) { d.post(sq, MLX5_OPCODE_SEND, d.eth_segments({}, {f})); }

    /// The frames that the queue got, in order.
    std::vector<Frame> received() {
        std::vector<Frame> frames;
        while (const mlx5_cqe64 *cqe = d.poll(cq)) {
            const std::uint32_t count = be32_to_cpu(cqe->byte_cnt);
            if (count >> 31 != 0)
                continue; // filler
            const std::uint8_t *p = d.host.at(rq.buffers[be16_to_cpu(cqe->wqe_id)] +
                                              std::uint64_t{be16_to_cpu(cqe->wqe_counter)} * 1024);
            frames.emplace_back(p, p + (count & 0xffff));
        }
        return frames;
    }
    static Frame frame(std::size_t payload, std::uint8_t fill) {
        return make_frame({}, Message(payload, fill));
    }
    static Frame to_oneself(std::size_t payload, std::uint8_t fill) {
        return make_frame({.dmac = {0x52, 0x54, 0x00, 0x12, 0x34, 0x56}}, Message(payload, fill));
    }

    MiniDriver d{{}, 64U << 20};
    TestCq scq;
    TestCq cq;
    TestSq sq;
    TestRq rq;
};

/// The completion of a filler raises an interrupt, by which a longer frame comes back before the
/// one that needed the filler has been written.
TEST_F(Reentrancy, FrameDuringADelivery) {
    open_striding(3);
    const Frame first = to_oneself(9 * 1024, 0x11);
    const Frame second = to_oneself(8 * 1024, 0x22);
    const Frame third = frame(10000, 0xee);
    send_to_oneself(first); // 10 of 16 strides
    EXPECT_EQ(received(), std::vector<Frame>{first});
    d.arm(cq);
    bool once = false;
    d.host.on_interrupt = [&] {
        if (!std::exchange(once, true))
            EXPECT_TRUE(d.dev.wire_rx(third));
    };
    send_to_oneself(second); // wants 9
    EXPECT_TRUE(once);
    EXPECT_EQ(received(), (std::vector<Frame>{second, third}));
}

/// From inside each call of the host, everything that can be asked of the device.
TEST_F(Reentrancy, EveryCallOfTheHostMayLeadBack) {
    open_striding(8);
    const Frame intruder = frame(3000, 0xee);
    unsigned intruders = 0;
    std::array<std::uint8_t, 4> disabled{};
    store_be<std::uint32_t>(disabled.data(), static_cast<std::uint32_t>(NicInterface::kDisabled)
                                                 << MLX5_NIC_IFC_OFFSET);
    const std::uint64_t uar = static_cast<std::uint64_t>(d.uar) << 12;
    d.host.on_call = [&] {
        d.dev.mmio_write(offsetof(mlx5_init_seg, cmdq_addr_l_sz), disabled);
        EXPECT_EQ(d.read32(offsetof(mlx5_init_seg, fw_rev)), 0U);
        d.dev.vsc_write(0x4, 0x7);
        EXPECT_EQ(d.dev.vsc_read(0x4), 0U);
        d.write32(uar + 0x40, d.comp_eq.id << 24);
        d.write64(uar + 0x20, cq.id);
        d.write64(uar + 0x800, d.host.get<std::uint64_t>(sq.ring.entry(0)));
        d.dev.run();
        d.dev.set_link(true);
        std::string error;
        EXPECT_FALSE(d.dev.inject_fault("reset", error));
        if (intruders < 300 && d.dev.wire_rx(intruder))
            ++intruders;
    };
    std::vector<Frame> expected;
    for (unsigned i = 0; i < 20; ++i) {
        d.arm(cq);
        d.arm(d.comp_eq);
        expected.push_back(to_oneself(100 + i * 450, static_cast<std::uint8_t>(i)));
        d.post(sq, MLX5_OPCODE_SEND, d.eth_segments({}, {expected.back()}));
        d.must(REQUEST(nop, NOP), 16); // commands and their completions
        d.dev.wire_rx(frame(2000, 0x77));
        d.settle();
    }
    d.host.on_call = nullptr;
    d.settle();
    EXPECT_TRUE(d.dev.core().hca_initialized);
    EXPECT_GT(intruders, 100U);
    unsigned others = 0;
    std::vector<Frame> own;
    for (const Frame &f : received()) {
        if (f == intruder)
            --intruders;
        else if (f == frame(2000, 0x77))
            ++others;
        else
            own.push_back(f);
    }
    EXPECT_EQ(intruders, 0U) << "lost or changed";
    EXPECT_EQ(others, 20U);
    EXPECT_EQ(own, expected);
}

TEST_F(Reentrancy, WaitingFramesAreBounded) {
    open_striding(8);
    std::size_t taken = 0;
    d.host.on_wire_tx = [&](auto) {
        while (taken < 10'000 && d.dev.can_receive()) {
            EXPECT_TRUE(d.dev.wire_rx(frame(100, 1)));
            ++taken;
        }
        for (unsigned i = 0; i < 5; ++i)
            EXPECT_FALSE(d.dev.wire_rx(frame(100, 2)));
    };
    d.post(sq, MLX5_OPCODE_SEND, d.eth_segments({}, {frame(100, 0)}));
    d.settle();
    EXPECT_EQ(taken, RxEngine::kMaxArrivals);
    EXPECT_EQ(d.dev.stats().rx_dropped, 5U);
    EXPECT_EQ(received().size(), taken);
    EXPECT_TRUE(d.dev.can_receive());
    EXPECT_EQ(d.host.rx_ready_calls, 2U) << "when the link came up, and when there was room again";
}

/// The link going down takes along what waits.
TEST_F(Reentrancy, WaitingFramesGoWithTheLink) {
    open_striding(3);
    d.host.on_wire_tx = [&](auto) {
        EXPECT_TRUE(d.dev.wire_rx(frame(100, 1)));
        d.dev.set_link(false);
    };
    d.post(sq, MLX5_OPCODE_SEND, d.eth_segments({}, {frame(100, 0)}));
    d.settle();
    EXPECT_TRUE(received().empty());
    EXPECT_EQ(d.dev.stats().rx_dropped, 1U);
}

/// A function-level reset, as a message to the configuration space asks for it, while a queue is at
/// work.
TEST_F(Reentrancy, ResetWaitsForTheCall) {
    unsigned sent = 0;
    d.host.on_wire_tx = [&](auto) {
        if (++sent == 1)
            d.dev.reset();
        EXPECT_TRUE(d.dev.core().hca_initialized);
    };
    const Message wqe = d.eth_segments({}, {frame(100, 0)});
    d.post(sq, MLX5_OPCODE_SEND, wqe, true, false);
    d.post(sq, MLX5_OPCODE_SEND, wqe);
    EXPECT_EQ(sent, 2U);
    EXPECT_FALSE(d.dev.core().hca_initialized);
    EXPECT_EQ(d.dev.core().sqs.size(), 0U);
}

} // namespace
} // namespace connectx::test
