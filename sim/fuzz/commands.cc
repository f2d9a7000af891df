// SPDX-License-Identifier: GPL-2.0
//
// Sequences of commands, straight and through descriptors and mailboxes that may be damaged, with
// frames, doorbells and time in between.
#include "target.h"

namespace connectx::fuzz {

namespace {

std::vector<std::uint16_t> opcodes() {
    std::vector<std::uint16_t> all;
    for (const auto &[op, spec] : command_table())
        all.push_back(op);
    std::sort(all.begin(), all.end());
    return all;
}

Message message(Input &in, std::uint16_t op, const Channel &c) {
    const auto spec = command_table().find(op);
    const std::size_t min = spec == command_table().end() ? 16 : spec->second.min_in;
    // Mostly long enough; what is behind the fixed part are lists.
    const std::size_t size = in.u8() % 16 == 0 ? in.below(static_cast<std::uint32_t>(2 * min))
                                               : min + in.u8() * std::size_t{4};
    Message m(std::max<std::size_t>(8, size));
    for (unsigned n = in.u8() % 12; n > 0; --n) {
        const std::size_t at = in.below(static_cast<std::uint32_t>(m.size()));
        const std::uint64_t v = in.awkward(test::FakeHost::kBase);
        const unsigned width = 1U << (in.u8() % 4);
        for (unsigned b = 0; b < width && at + b < m.size(); ++b)
            m[at + b] = static_cast<std::uint8_t>(v >> (8 * (width - 1 - b)));
    }
    store_be<std::uint16_t>(m.data(), op);
    store_be<std::uint16_t>(m.data() + 6, in.u8() % 4);
    // A number that exists.
    const std::array<std::uint32_t, 10> ids{c.d.pd,         c.d.uar, c.cq.id, c.sq.id, c.rq.id,
                                            c.d.comp_eq.id, c.tir,   1,       2,       c.d.td};
    if (m.size() >= 16 && in.u8() % 4 != 0)
        store_be<std::uint32_t>(m.data() + 8, ids[in.below(ids.size())]);
    return m;
}

} // namespace

void run(Input in) {
    static const std::vector<std::uint16_t> all = opcodes();
    Channel c;
    for (unsigned steps = 0; !in.empty() && steps < 200; ++steps) {
        const std::uint8_t what = in.u8();
        const std::uint16_t op =
            what % 32 == 0 ? in.u16() : all[in.below(static_cast<std::uint32_t>(all.size()))];
        const Message m = message(in, op, c);
        const auto spec = command_table().find(op);
        std::size_t out_size = 16 + in.u8() * std::size_t{8};
        if (spec != command_table().end() && what % 8 != 1)
            out_size = std::max(out_size, spec->second.min_out);
        if (what % 4 == 3) {
            MiniDriver::Mangle mangle;
            const std::uint8_t damage = in.u8();
            mangle.entry = [&](mlx5_cmd_layout &l) {
                auto *raw = reinterpret_cast<std::uint8_t *>(&l);
                for (unsigned n = damage % 4; n > 0; --n)
                    raw[in.below(sizeof(l))] = in.u8();
                l.sig = 0;
            };
            mangle.block = [&](unsigned, mlx5_cmd_prot_block &b, bool) {
                if (damage % 8 == 7)
                    reinterpret_cast<std::uint8_t *>(&b)[512 + in.below(64)] = in.u8();
            };
            c.d.command(m, out_size, mangle, false);
        } else {
            Message out(out_size);
            const CommandStatus st = c.d.dev.core().commands.execute(m, out);
            require(out[0] == st.status, "the answer has the command's status");
            const bool nothing_else =
                std::all_of(out.begin() + 8, out.end(), [](std::uint8_t b) { return b == 0; });
            require(st.ok() || nothing_else, "a failed command answers nothing else");
        }
        switch (what >> 6) {
        case 1:
            c.d.dev.wire_rx(make_frame({.v6 = in.flag(), .tcp = in.flag()}, pattern(in.u8())));
            break;
        case 2:
            c.d.write32((static_cast<std::uint64_t>(c.d.uar) << 12) + 4 * in.below(1024), in.u32());
            break;
        case 3:
            c.d.advance(in.u16() * 1000ULL);
            break;
        default:
            break;
        }
        c.d.settle();
        c.d.host.interrupts.clear();
        c.d.host.logs.clear();
    }
    c.expect_alive();
}

std::vector<std::vector<std::uint8_t>> seeds() {
    // Every opcode once, with nothing wrong in it and with something.
    std::vector<std::vector<std::uint8_t>> all;
    const std::size_t n = command_table().size();
    for (std::size_t i = 0; i < n; ++i) {
        std::vector<std::uint8_t> s;
        for (std::uint8_t changes : {0, 2}) {
            s.insert(s.end(), {2, static_cast<std::uint8_t>(i), 1, 16, changes});
            for (unsigned k = 0; k < changes; ++k)
                s.insert(s.end(), {static_cast<std::uint8_t>(8 + 4 * k), 0, 1, 2});
            s.insert(s.end(), {0, 1, static_cast<std::uint8_t>(i % 10), 8});
        }
        all.push_back(std::move(s));
    }
    return all;
}

} // namespace connectx::fuzz
