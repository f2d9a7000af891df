// SPDX-License-Identifier: GPL-2.0
//
// A whole guest: its memory, and what it writes to the device's registers, are the input's.
// Commands, rings, doorbell records and mailboxes are whatever happens to be where the device
// looks. DMA may even lead back to the device's own registers.
#include "target.h"

namespace connectx::fuzz {

namespace {

constexpr std::size_t kMemory = 256U << 10;
constexpr std::uint64_t kBase = test::FakeHost::kBase;
constexpr std::uint64_t kQueue = kBase + 0x1000;
/// Where BAR0 would be in such a guest.
constexpr std::uint64_t kBar = 0xe000'0000;

/// A command in a slot of the queue, signed, its longer part in mailboxes behind it.
void put_command(Input &in, MiniDriver &d) {
    static const std::vector<std::uint16_t> opcodes = [] {
        std::vector<std::uint16_t> all;
        for (const auto &[op, spec] : command_table())
            all.push_back(op);
        std::sort(all.begin(), all.end());
        return all;
    }();
    const std::uint16_t op = opcodes[in.below(static_cast<std::uint32_t>(opcodes.size()))];
    const unsigned slot = in.below(32);
    mlx5_cmd_layout l{};
    l.type = MLX5_PCI_CMD_XPORT;
    store_be<std::uint16_t>(reinterpret_cast<std::uint8_t *>(l.in), op);
    const auto head = in.bytes(14);
    std::copy(head.begin(), head.end(), reinterpret_cast<std::uint8_t *>(l.in) + 2);
    const std::size_t blocks = in.u8() % 4;
    l.inlen = cpu_to_be32(static_cast<std::uint32_t>(16 + blocks * 512));
    l.outlen = cpu_to_be32(static_cast<std::uint32_t>(16 + in.u8() % 4 * 512));
    l.token = 1;
    constexpr std::uint64_t kMailboxes = kBase + 0x2000;
    l.in_ptr = cpu_to_be64(blocks != 0 ? kMailboxes : 0);
    l.out_ptr = cpu_to_be64(kMailboxes);
    for (std::size_t i = 0; i < 4; ++i) {
        mlx5_cmd_prot_block b{};
        if (i < blocks) {
            const auto data = in.bytes(in.u8());
            std::copy(data.begin(), data.end(), b.data);
        }
        b.next = cpu_to_be64(i < 3 ? kMailboxes + (i + 1) * 1024 : 0);
        b.block_num = cpu_to_be32(static_cast<std::uint32_t>(i));
        b.token = 1;
        auto *raw = reinterpret_cast<std::uint8_t *>(&b);
        b.ctrl_sig = ~MiniDriver::xor8({raw + 512, offsetof(mlx5_cmd_prot_block, ctrl_sig) - 512});
        b.sig = ~MiniDriver::xor8({raw, sizeof(b) - 1});
        std::memcpy(d.host.at(kMailboxes + i * 1024), &b, sizeof(b));
    }
    l.status_own = 1;
    l.sig = ~MiniDriver::xor8({reinterpret_cast<std::uint8_t *>(&l), sizeof(l)});
    std::memcpy(d.host.at(kQueue + slot * sizeof(l)), &l, sizeof(l));
    d.write32(offsetof(mlx5_init_seg, cmd_dbell), 1U << slot);
}

} // namespace

void run(Input in) {
    MiniDriver d({}, kMemory);
    d.host.on_dma = [&d](GuestAddr addr, std::span<const std::uint8_t> data) {
        if (addr.value >= kBar && addr.value - kBar < kBarSize && data.size() <= 8)
            d.dev.mmio_write(addr.value - kBar, data);
    };
    // The memory before anything happens: a pattern of the input's, over and over.
    const auto pattern = in.bytes(in.u8());
    for (std::size_t i = 0; i < kMemory && !pattern.empty(); ++i)
        *d.host.at(kBase + i) = pattern[i % pattern.size()];
    // Half of the guests have come so far that the device is initialized.
    if (in.flag()) {
        MiniDriver::Mangle none;
        d.write32(offsetof(mlx5_init_seg, cmdq_addr_h), static_cast<std::uint32_t>(kQueue >> 32));
        d.write32(offsetof(mlx5_init_seg, cmdq_addr_l_sz), static_cast<std::uint32_t>(kQueue));
        d.dev.core().hca_enabled = true;
        d.dev.core().hca_initialized = true;
    }
    for (unsigned steps = 0; !in.empty() && steps < 256; ++steps) {
        switch (in.u8() % 8) {
        case 0:
        case 1:
            put_command(in, d);
            break;
        case 2: {
            const auto data = in.bytes(in.u8());
            const std::uint64_t at = kBase + in.u32() % (kMemory - 256);
            std::copy(data.begin(), data.end(), d.host.at(at));
            break;
        }
        case 3:
            d.dev.mmio_write(in.u32() % (kBarSize - 8), in.bytes(1 + in.u8() % 8));
            break;
        case 4: {
            // The pages that are UARs, and the offsets in them that mean something.
            constexpr std::array<unsigned, 6> kOffsets{0x20, 0x24, 0x40, 0x48, 0x800, 0x900};
            const std::uint64_t page = 16 + in.u8() % 4;
            d.dev.mmio_write((page << 12) + kOffsets[in.below(kOffsets.size())],
                             in.bytes(in.flag() ? 64 : 8));
            break;
        }
        case 5:
            d.dev.wire_rx(in.bytes(in.u16() % 1600));
            break;
        case 6:
            d.dev.vsc_write(in.u8() % 0x18, in.u32());
            std::ignore = d.dev.vsc_read(in.u8() % 0x18);
            break;
        default:
            d.advance(in.u16() * 1000ULL);
        }
        d.settle();
        d.host.logs.clear();
        d.host.interrupts.clear();
        d.host.wire.clear();
    }
    std::ignore = d.dev.describe();
}

std::vector<std::vector<std::uint8_t>> seeds() {
    // An initialized device and one command of each kind.
    std::vector<std::vector<std::uint8_t>> all;
    for (std::size_t i = 0; i < command_table().size(); ++i) {
        std::vector<std::uint8_t> s{0, 1, 0, static_cast<std::uint8_t>(i), 0};
        s.insert(s.end(), 14, 0);
        s.insert(s.end(), {1, 1, 0});
        all.push_back(std::move(s));
    }
    return all;
}

} // namespace connectx::fuzz
