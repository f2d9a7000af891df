// SPDX-License-Identifier: GPL-2.0
//
// Frames of any content into receive queues of all four kinds, whose WQEs and counters may be
// spoilt.
#include "target.h"

namespace connectx::fuzz {

void run(Input in) {
    constexpr std::array<unsigned, 4> kTypes{MLX5_WQ_TYPE_CYCLIC, MLX5_WQ_TYPE_LINKED_LIST,
                                             MLX5_WQ_TYPE_LINKED_LIST_STRIDING_RQ,
                                             MLX5_WQ_TYPE_CYCLIC_STRIDING_RQ};
    Channel c(6U << 20);
    const unsigned type = kTypes[in.below(kTypes.size())];
    TestCq cq = c.d.create_cq(6);
    TestRq q = c.d.create_rq(cq, {.type = type, .log_size = 3});
    c.d.post(q, 8);
    c.d.steer_all_to(c.d.create_tir(q.id));
    const std::uint64_t before = c.d.dev.stats().rx_frames;
    unsigned offered = 0;
    for (unsigned steps = 0; !in.empty() && steps < 64; ++steps) {
        const std::uint8_t what = in.u8();
        if (what % 16 == 1)
            c.d.host.at(q.ring.entry(in.below(8)))[in.below(q.ring.stride)] = in.u8();
        if (what % 16 == 2)
            c.d.host.put<std::uint32_t>(q.dbr, in.u32());
        Frame f;
        if ((what & 0x10) != 0) {
            f = in.bytes(in.u16() % 2048);
        } else {
            f = make_frame({.v6 = in.flag(), .tcp = in.flag(), .vlan = in.flag() ? 5 : -1},
                           pattern(in.u16() % 1500));
            for (unsigned n = in.u8() % 6; n > 0; --n)
                f[in.below(static_cast<std::uint32_t>(std::min<std::size_t>(f.size(), 80)))] =
                    in.u8();
            if ((what & 0x20) != 0)
                f.resize(in.below(static_cast<std::uint32_t>(f.size() + 1)));
        }
        offered += f.size() >= 14;
        c.d.dev.wire_rx(f);
        c.d.settle();
        if ((what & 0x40) != 0)
            c.d.advance(in.u8() * 100'000ULL);
        while (c.d.poll(cq) != nullptr)
            c.d.post(q, 1);
        if (c.d.modify_rq(q, 1, 1).status != MLX5_CMD_STAT_OK) {
            c.d.modify_rq(q, 3, 0);
            c.d.modify_rq(q, 0, 1);
            c.d.fill(q, type);
            q.posted = 0;
            c.d.post(q, 8);
        }
        c.d.host.logs.clear();
        c.d.host.interrupts.clear();
    }
    require(c.d.dev.stats().rx_frames - before == offered, "every frame is counted");
    c.expect_alive();
}

std::vector<std::vector<std::uint8_t>> seeds() {
    std::vector<std::vector<std::uint8_t>> all;
    for (std::uint8_t type = 0; type < 4; ++type)
        for (std::uint8_t family = 0; family < 8; ++family)
            all.push_back({type, 0, static_cast<std::uint8_t>(family & 1),
                           static_cast<std::uint8_t>(family >> 1 & 1),
                           static_cast<std::uint8_t>(family >> 2), 5, 0xa0, 0});
    return all;
}

} // namespace connectx::fuzz
