// SPDX-License-Identifier: GPL-2.0
//
// What a hostile guest must not be able to do to the host: make it spend memory or time without
// bound, or have the device pull the rug from under itself.
#include "mini_driver.h"
#include "packets.h"

#include <core.h>
#include <gtest/gtest.h>

namespace connectx::test {
namespace {

constexpr std::uint64_t kBar = 0xe000'0000; ///< where BAR0 is in the guest's address space

class Hardening : public testing::Test {
  protected:
    void SetUp() override {
        d.open();
        cq = d.create_cq(8);
        sq = d.create_sq(cq, 7);
    }
    Message mkey_request(std::size_t octwords) {
        auto in = REQUEST(create_mkey, CREATE_MKEY);
        const Bytes mkc = IFC_AT(create_mkey_in, Bytes(in), memory_key_mkey_entry);
        IFC_SET(mkc, mkc, access_mode_1_0, MLX5_MKC_ACCESS_MODE_MTT);
        IFC_SET(mkc, mkc, pd, d.pd);
        IFC_SET(mkc, mkc, log_page_size, 12);
        IFC_SET(mkc, mkc, translations_octword_size, octwords);
        return in;
    }
    /// All of the device's registers become reachable by its own DMA, as a guest can arrange.
    void map_registers_into_memory() {
        d.host.on_dma = [this](GuestAddr addr, std::span<const std::uint8_t> data) {
            if (addr.value >= kBar && addr.value < kBar + kBarSize) {
                d.dev.mmio_write(addr.value - kBar, data);
                ++hits;
            }
        };
    }
    void disable_by_register() {
        std::array<std::uint8_t, 4> disabled{};
        store_be<std::uint32_t>(disabled.data(), static_cast<std::uint32_t>(NicInterface::kDisabled)
                                                     << MLX5_NIC_IFC_OFFSET);
        d.dev.mmio_write(offsetof(mlx5_init_seg, cmdq_addr_l_sz), disabled);
    }
    void expect_sends() {
        d.host.wire.clear();
        d.post(sq, MLX5_OPCODE_SEND, d.eth_segments({}, {make_frame({}, Message(100))}));
        EXPECT_EQ(d.host.wire.size(), 1U);
    }

    MiniDriver d{{}, 16U << 20};
    TestCq cq;
    TestSq sq;
    unsigned hits = 0;
};

TEST_F(Hardening, TranslationsAreBounded) {
    const auto request =
        mkey_request(1U << 18); // 4 MiB of translations, for a message of 300 bytes
    std::vector<std::uint32_t> keys;
    for (unsigned i = 0; i < 1000; ++i) {
        const Reply r = d.command(request, IFC_BYTES(create_mkey_out));
        if (!r.ok()) {
            EXPECT_EQ(r.status, MLX5_CMD_STAT_NO_RES_ERR);
            break;
        }
        keys.push_back(IFC_GET(create_mkey_out, ConstBytes(r.out), mkey_index));
    }
    EXPECT_GE(keys.size(), 32U); // what a driver with many large queues has
    EXPECT_LE(keys.size() * (4U << 20), MemoryBudget::kLimit);
    // What is given back can be had again; what was never taken is not given back.
    for (unsigned round = 0; round < 3; ++round) {
        auto in = REQUEST(destroy_mkey, DESTROY_MKEY);
        IFC_SET(destroy_mkey_in, Bytes(in), mkey_index, keys.back());
        d.must(in, IFC_BYTES(destroy_mkey_out));
        keys.back() = IFC_GET(create_mkey_out,
                              ConstBytes(d.must(request, IFC_BYTES(create_mkey_out))), mkey_index);
        EXPECT_EQ(d.command(request, IFC_BYTES(create_mkey_out)).status, MLX5_CMD_STAT_NO_RES_ERR);
    }
    expect_sends();
}

TEST_F(Hardening, BudgetIsBackWhereItWas) {
    const std::size_t before = d.dev.core().budget.used();
    TestCq more = d.create_cq(10);
    TestSq queue = d.create_sq(more, 8);
    EXPECT_GT(d.dev.core().budget.used(), before);
    for (const auto &[op, id] :
         {std::pair<unsigned, std::uint32_t>{MLX5_CMD_OP_DESTROY_SQ, queue.id},
          {MLX5_CMD_OP_DESTROY_CQ, more.id}}) {
        auto in = request(op, 16);
        store_be<std::uint32_t>(in.data() + 8, id);
        d.must(in, 16);
    }
    const auto table = d.create_table(0, 4);
    const auto group = d.create_group(table, 0, 3);
    const std::size_t with_group = d.dev.core().budget.used();
    const TestRq rq = d.create_rq(cq, {});
    const std::size_t with_rq = d.dev.core().budget.used();
    const auto tir = d.create_tir(rq.id);
    for (unsigned i = 0; i < 3; ++i) // the second replaces the first
        d.must(d.fte_request(table, group, 0, {{MLX5_IFC_FLOW_DESTINATION_TYPE_TIR, tir}}),
               IFC_BYTES(set_fte_out));
    EXPECT_GT(d.dev.core().budget.used(), with_rq);
    auto gone = REQUEST(delete_fte, DELETE_FLOW_TABLE_ENTRY);
    IFC_SET(delete_fte_in, Bytes(gone), table_id, table);
    d.must(gone, IFC_BYTES(delete_fte_out));
    EXPECT_EQ(d.dev.core().budget.used(), with_rq);
    auto no_group = REQUEST(destroy_flow_group, DESTROY_FLOW_GROUP);
    IFC_SET(destroy_flow_group_in, Bytes(no_group), table_id, table);
    IFC_SET(destroy_flow_group_in, Bytes(no_group), group_id, group);
    d.must(no_group, IFC_BYTES(destroy_flow_group_out));
    EXPECT_EQ(d.dev.core().budget.used() - before, with_rq - with_group);
}

TEST_F(Hardening, DestinationsAreBounded) {
    const auto table = d.create_table(0, 4);
    const auto group = d.create_group(table, 0, 0);
    const TestRq rq = d.create_rq(cq, {});
    const std::pair<unsigned, std::uint32_t> tir{MLX5_IFC_FLOW_DESTINATION_TYPE_TIR,
                                                 d.create_tir(rq.id)};
    const auto with = [&](std::size_t n) {
        return d.command(d.fte_request(table, group, 0, {n, tir}), IFC_BYTES(set_fte_out)).status;
    };
    EXPECT_EQ(with(64), MLX5_CMD_STAT_OK); // log_max_destination
    EXPECT_EQ(with(65), MLX5_CMD_STAT_LIM_ERR);
    EXPECT_EQ(with(100000), MLX5_CMD_STAT_LIM_ERR);
}

TEST_F(Hardening, PagesAreBounded) {
    auto in = request(MLX5_CMD_OP_MANAGE_PAGES, IFC_BYTES(manage_pages_in) + (1U << 16) * 8, 1);
    IFC_SET(manage_pages_in, Bytes(in), input_num_entries, 1U << 16);
    std::uint64_t page = 0x100'0000'0000;
    unsigned given = 0;
    Reply r;
    do {
        for (std::size_t i = 0; i < 1U << 16; ++i, page += 4096)
            store_be<std::uint64_t>(in.data() + IFC_BYTES(manage_pages_in) + i * 8, page);
        Message out(16);
        r.status = d.dev.core().commands.execute(in, out).status;
        ++given;
    } while (r.status == MLX5_CMD_STAT_OK && given < 64);
    EXPECT_EQ(r.status, MLX5_CMD_STAT_LIM_ERR);
    EXPECT_LE(d.dev.stats().pages_held, PageSupply::kMaxPages);
}

TEST_F(Hardening, SemaphoresThatAreReadTakeNoMemory) {
    constexpr unsigned kControl = 0x4;
    constexpr unsigned kAddress = 0x10;
    constexpr unsigned kData = 0x14;
    constexpr std::uint32_t kSemaphoreSpace = 0xa;
    constexpr std::uint32_t kWrite = 1U << 31;
    d.dev.vsc_write(kControl, kSemaphoreSpace);
    for (std::uint32_t addr = 0; addr < 10000; ++addr)
        d.dev.vsc_write(kAddress, addr);
    // There is still room for one to be taken.
    d.dev.vsc_write(kData, 77);
    d.dev.vsc_write(kAddress, 0xf3c | kWrite);
    d.dev.vsc_write(kData, 0);
    d.dev.vsc_write(kAddress, 0xf3c);
    EXPECT_EQ(d.dev.vsc_read(kData), 77U);
}

TEST_F(Hardening, OneWqeMakesNoFloodOfFrames) {
    MiniDriver::EthOptions o;
    o.inline_header = make_frame({}, {});
    o.mss = 1;
    const Message data(200'000);
    d.post(sq, MLX5_OPCODE_LSO, d.eth_segments(o, {data}));
    EXPECT_EQ(d.host.wire.size(), 0U);
    const mlx5_cqe64 *cqe = d.poll(cq);
    ASSERT_NE(cqe, nullptr);
    EXPECT_EQ(cqe->op_own >> 4, MLX5_CQE_REQ_ERR);
}

TEST_F(Hardening, ARunEndsAlthoughThereIsMoreToSend) {
    MiniDriver::EthOptions o;
    o.inline_header = make_frame({}, {});
    o.mss = 1;
    const Message data(16'000);
    const Message seg = d.eth_segments(o, {data});
    constexpr unsigned kWqes = 20;
    const std::uint16_t first = sq.pc;
    for (unsigned i = 0; i < kWqes; ++i)
        d.post(sq, MLX5_OPCODE_LSO, seg, false, false);
    std::size_t frames = 0;
    d.host.on_wire_tx = [&](std::span<const std::uint8_t>) { d.host.wire.clear(), ++frames; };
    d.host.put<std::uint32_t>(sq.dbr + 4, sq.pc);
    d.write64((static_cast<std::uint64_t>(d.uar) << 12) + 0x800,
              d.host.get<std::uint64_t>(sq.ring.entry(first)));
    d.host.work_pending = false;
    d.dev.run();
    EXPECT_LE(frames, 96U * 1024);
    EXPECT_TRUE(d.host.work_pending);
    d.settle();
    EXPECT_EQ(frames, kWqes * data.size());
}

// A CQ whose buffer is where the registers are: the completion that is written there would disable
// the device under the queue that is completing.
TEST_F(Hardening, OwnDmaDoesNotReachTheRegisters) {
    auto in = request(MLX5_CMD_OP_CREATE_CQ, IFC_BYTES(create_cq_in) + 8);
    const Bytes cqc = IFC_AT(create_cq_in, Bytes(in), cq_context);
    IFC_SET(cqc, cqc, log_cq_size, 6);
    IFC_SET(cqc, cqc, uar_page, d.uar);
    IFC_SET(cqc, cqc, c_eqn_or_apu_element, d.comp_eq.id);
    IFC_SET64(cqc, cqc, dbr_addr, d.host.alloc(64, 64));
    store_be<std::uint64_t>(IFC_AT(create_cq_in, Bytes(in), pas).data(), kBar);
    TestCq trap;
    trap.id = IFC_GET(create_cq_out, ConstBytes(d.must(in, IFC_BYTES(create_cq_out))), cqn);
    TestSq victim = d.create_sq(trap, 6);
    map_registers_into_memory();
    d.host.on_dma = [this, inner = d.host.on_dma](GuestAddr addr,
                                                  std::span<const std::uint8_t> data) {
        if (addr.value >= kBar && addr.value < kBar + kBarSize)
            disable_by_register();
        inner(addr, data);
    };
    d.post(victim, MLX5_OPCODE_NOP, Message(16), true);
    EXPECT_GT(hits, 0U);
    d.host.on_dma = nullptr;
    EXPECT_TRUE(d.dev.core().hca_initialized);
    expect_sends();
}

TEST_F(Hardening, OwnInterruptsDoNotReachTheRegisters) {
    d.host.on_interrupt = [this] {
        ++hits;
        disable_by_register();
    };
    d.dev.set_link(false);
    d.settle();
    EXPECT_GT(hits, 0U);
    d.host.on_interrupt = nullptr;
    EXPECT_TRUE(d.dev.core().hca_initialized);
    d.dev.set_link(true);
    d.settle();
    expect_sends();
}

// Two models wired together in one guest: what the peer does while it takes the frame.
TEST_F(Hardening, ThePeerOnTheWireDoesNotReachTheRegisters) {
    d.host.on_wire_tx = [this](std::span<const std::uint8_t>) {
        ++hits;
        disable_by_register();
    };
    expect_sends();
    EXPECT_EQ(hits, 1U);
    d.host.on_wire_tx = nullptr;
    EXPECT_TRUE(d.dev.core().hca_initialized);
    expect_sends();
}

} // namespace
} // namespace connectx::test
