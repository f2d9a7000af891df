// SPDX-License-Identifier: GPL-2.0
//
// Commands, descriptors, doorbells and frames that no driver would send, from a fixed seed. What is
// to hold: the model neither aborts nor hangs, keeps within the host's interface, and writes
// nowhere but into memory that some command, WQE or mailbox named. The sanitizers watch the rest
// (sim.unit.sanitized).
#include "mini_driver.h"
#include "packets.h"
#include "revive.h"

#include <core.h>
#include <gtest/gtest.h>

#include <random>

namespace connectx::test {
namespace {

class Random {
  public:
    explicit Random(std::uint64_t seed) : engine_(seed) {}
    std::uint64_t below(std::uint64_t n) { return n == 0 ? 0 : engine_() % n; }
    std::uint64_t bits() { return engine_(); }
    bool chance(unsigned percent) { return below(100) < percent; }
    /// Mostly small or near a power of two, sometimes anything.
    std::uint64_t awkward() {
        switch (below(5)) {
        case 0:
            return below(4);
        case 1:
            return (1ULL << below(64)) + below(3) - 1;
        case 2:
            return FakeHost::kBase + below(8U << 20);
        case 3:
            return ~below(16);
        default:
            return bits();
        }
    }

  private:
    std::mt19937_64 engine_;
};

/// A device with all kinds of objects, between two blocks of memory that it never heard of.
class Fuzz : public testing::TestWithParam<unsigned> {
  protected:
    static constexpr std::size_t kGuard = 64 << 10;

    void SetUp() override {
        low_ = d.host.alloc(kGuard);
        std::ranges::fill(d.host.span(low_, kGuard), 0x5a);
        d.open();
        cq = d.create_cq(8);
        sq = d.create_sq(cq, 7);
        rq = d.create_rq(cq, {.log_size = 5});
        d.post(rq, 32);
        d.steer_all_to(d.create_tir(rq.id));
        high_ = d.host.alloc(kGuard);
        std::ranges::fill(d.host.span(high_, kGuard), 0x5a);
    }

    void expect_guards_untouched() {
        for (std::uint64_t at : {low_, high_}) {
            const auto guard = d.host.span(at, kGuard);
            EXPECT_TRUE(std::ranges::all_of(guard, [](std::uint8_t b) { return b == 0x5a; }));
        }
    }

    /// After whatever happened, a reset gives a device that works.
    void expect_alive() { EXPECT_EQ(frames_sent_after_reset(d, cq, sq), 1U); }

    static std::vector<std::uint16_t> opcodes() {
        std::vector<std::uint16_t> all;
        for (const auto &[op, spec] : command_table())
            all.push_back(op);
        std::sort(all.begin(), all.end());
        return all;
    }

    MiniDriver d{{}, 24U << 20};
    TestCq cq;
    TestSq sq;
    TestRq rq;
    std::uint64_t low_ = 0;
    std::uint64_t high_ = 0;
};

TEST_P(Fuzz, Commands) {
    Random r(GetParam());
    const auto all = opcodes();
    for (unsigned i = 0; i < 4000; ++i) {
        const std::uint16_t op =
            r.chance(97) ? all[r.below(all.size())] : static_cast<std::uint16_t>(r.bits());
        // Teardown and resets now and then only, or nothing would ever be built up.
        if ((op == MLX5_CMD_OP_TEARDOWN_HCA || op == MLX5_CMD_OP_DISABLE_HCA) && !r.chance(2))
            continue;
        const auto spec = command_table().find(op);
        const std::size_t min = spec == command_table().end() ? 16 : spec->second.min_in;
        Message in(std::max<std::size_t>(8, r.chance(90) ? min + r.below(200) : r.below(2 * min)));
        for (unsigned n = r.below(12); n > 0; --n) {
            const std::size_t at = r.below(in.size());
            const std::uint64_t v = r.awkward();
            for (unsigned b = 0; b < 8 && at + b < in.size(); ++b)
                in[at + b] = static_cast<std::uint8_t>(v >> (56 - 8 * b));
        }
        store_be<std::uint16_t>(in.data(), op);
        store_be<std::uint16_t>(in.data() + 6, static_cast<std::uint16_t>(r.below(4)));
        // Object numbers that exist.
        if (in.size() >= 16 && r.chance(70)) {
            const std::array<std::uint32_t, 8> ids{d.pd,  d.uar,        cq.id, sq.id,
                                                   rq.id, d.comp_eq.id, 1,     2};
            store_be<std::uint32_t>(in.data() + 8, ids[r.below(ids.size())]);
        }
        Message out(16 + r.below(600));
        if (spec != command_table().end() && r.chance(90))
            out.resize(std::max(out.size(), spec->second.min_out));
        const CommandStatus st = d.dev.core().commands.execute(in, out);
        EXPECT_EQ(out[0], st.status);
        if (i % 16 == 0) {
            d.dev.wire_rx(make_frame({.v6 = r.chance(50), .tcp = r.chance(50)}, pattern(100)));
            d.host.interrupts.clear();
            d.host.logs.clear();
            d.settle();
        }
    }
    expect_guards_untouched();
    expect_alive();
}

/// Command descriptors and mailboxes that are damaged on their way.
TEST_P(Fuzz, Descriptors) {
    Random r(GetParam() + 1000);
    auto in = REQUEST(query_hca_cap, QUERY_HCA_CAP, 0);
    in.resize(1200);
    for (unsigned i = 0; i < 300; ++i) {
        const bool sign = r.chance(50);
        MiniDriver::Mangle m;
        m.entry = [&](mlx5_cmd_layout &l) {
            auto *raw = reinterpret_cast<std::uint8_t *>(&l);
            for (unsigned n = r.below(4); n > 0; --n)
                raw[r.below(sizeof(l))] = static_cast<std::uint8_t>(r.bits());
            if (r.chance(10))
                l.inlen = cpu_to_be32(static_cast<std::uint32_t>(r.below(8U << 20)));
            l.sig = 0;
            if (!sign)
                l.sig = static_cast<std::uint8_t>(r.bits() | 1);
        };
        m.block = [&](unsigned, mlx5_cmd_prot_block &b, bool) {
            if (r.chance(20))
                reinterpret_cast<std::uint8_t *>(&b)[512 + r.below(64)] =
                    static_cast<std::uint8_t>(r.bits());
        };
        d.command(in, IFC_BYTES(query_hca_cap_out), m, false);
        d.host.logs.clear();
    }
    expect_guards_untouched();
    expect_alive();
}

TEST_P(Fuzz, SendWqes) {
    Random r(GetParam() + 2000);
    const std::array<unsigned, 8> known{
        MLX5_OPCODE_SEND, MLX5_OPCODE_LSO, MLX5_OPCODE_NOP,  MLX5_OPCODE_ENHANCED_MPSW,
        MLX5_OPCODE_UMR,  MLX5_OPCODE_LSO, MLX5_OPCODE_SEND, 0x77};
    const Frame header = make_frame({.tcp = true}, {});
    for (unsigned i = 0; i < 3000; ++i) {
        const unsigned opcode =
            r.chance(95) ? known[r.below(known.size())] : static_cast<unsigned>(r.below(256));
        MiniDriver::EthOptions o;
        if (opcode == MLX5_OPCODE_LSO && r.chance(80)) {
            o.mss = static_cast<unsigned>(r.awkward() & 0x3fff);
            o.inline_header = header;
        }
        o.cs_flags = static_cast<unsigned>(r.bits() & 0xff);
        Message seg = d.eth_segments(o, {});
        for (unsigned n = r.below(5); n > 0; --n) {
            Message s(16);
            store_be<std::uint32_t>(
                s.data(), static_cast<std::uint32_t>(r.chance(70) ? r.below(2000) : r.awkward()));
            store_be<std::uint32_t>(
                s.data() + 4, r.chance(90) ? d.lkey : static_cast<std::uint32_t>(r.awkward()));
            store_be<std::uint64_t>(s.data() + 8,
                                    r.chance(80) ? low_ + r.below(kGuard - 4000) : r.awkward());
            seg.insert(seg.end(), s.begin(), s.end());
        }
        for (unsigned n = r.chance(30) ? r.below(6) : 0; n > 0; --n)
            seg[r.below(seg.size())] = static_cast<std::uint8_t>(r.bits());
        d.post(sq, opcode, seg, r.chance(80));
        if (r.chance(3))
            d.host.put<std::uint32_t>(sq.dbr + 4, static_cast<std::uint32_t>(r.bits()));
        if (r.chance(5)) {
            std::vector<std::uint8_t> any(r.below(80));
            for (auto &b : any)
                b = static_cast<std::uint8_t>(r.bits());
            d.dev.mmio_write((static_cast<std::uint64_t>(d.uar) << 12) + 4 * r.below(1024), any);
        }
        while (d.poll(cq) != nullptr) {
        }
        if (d.modify_sq(sq, 1, 1).status != MLX5_CMD_STAT_OK) {
            d.modify_sq(sq, 3, 0);
            d.modify_sq(sq, 0, 1);
            sq.pc = 0;
            d.host.put<std::uint32_t>(sq.dbr + 4, 0);
        }
        for (const auto &f : d.host.wire)
            EXPECT_LE(f.size(), 10244U);
        d.host.wire.clear();
        d.host.logs.clear();
        d.host.interrupts.clear();
    }
    expect_guards_untouched();
    expect_alive();
}

TEST_P(Fuzz, ReceiveWqesAndFrames) {
    Random r(GetParam() + 3000);
    for (unsigned type : {MLX5_WQ_TYPE_CYCLIC, MLX5_WQ_TYPE_LINKED_LIST,
                          MLX5_WQ_TYPE_LINKED_LIST_STRIDING_RQ, MLX5_WQ_TYPE_CYCLIC_STRIDING_RQ}) {
        TestCq c = d.create_cq(8);
        TestRq q = d.create_rq(c, {.type = type, .log_size = 3});
        d.post(q, 8);
        d.steer_all_to(d.create_tir(q.id));
        for (unsigned i = 0; i < 800; ++i) {
            // One of the queue's WQEs or its counter is spoilt now and then.
            if (r.chance(10))
                d.host.at(
                    q.ring.entry(static_cast<std::uint32_t>(r.below(8))))[r.below(q.ring.stride)] =
                    static_cast<std::uint8_t>(r.bits());
            if (r.chance(3))
                d.host.put<std::uint32_t>(q.dbr, static_cast<std::uint32_t>(r.bits()));
            Frame f =
                make_frame({.v6 = r.chance(50), .tcp = r.chance(50), .vlan = r.chance(30) ? 5 : -1},
                           pattern(r.below(1400), i));
            for (unsigned n = r.below(6); n > 0; --n)
                f[r.below(std::min<std::size_t>(f.size(), 80))] =
                    static_cast<std::uint8_t>(r.bits());
            if (r.chance(20))
                f.resize(r.below(f.size() + 1));
            d.dev.wire_rx(f);
            d.settle();
            while (d.poll(c) != nullptr)
                d.post(q, 1);
            if (d.modify_rq(q, 1, 1).status != MLX5_CMD_STAT_OK) {
                d.modify_rq(q, 3, 0);
                d.modify_rq(q, 0, 1);
                d.fill(q, type);
                q.posted = 0;
                d.post(q, 8);
            }
            d.host.logs.clear();
            d.host.interrupts.clear();
        }
    }
    // What the driver lets the device write is named in WQEs, which were spoilt here: the guards
    // may have been hit. That nothing outside of the host's memory was, the host itself has seen
    // to.
    expect_alive();
}

/// Tables, groups and entries that are valid by themselves, in any combination, and frames through
/// them: made, changed and taken away as chance will have it.
TEST_P(Fuzz, Steering) {
    Random r(GetParam() + 5000);
    struct Group {
        std::uint32_t table;
        std::uint32_t id;
        unsigned start;
        unsigned end;
    };
    std::vector<std::uint32_t> tables;
    std::vector<Group> groups;
    std::vector<std::pair<std::uint32_t, unsigned>> entries;
    const std::array<std::uint32_t, 2> tirs{d.create_tir(rq.id), d.create_tir(rq.id)};
    Message out(0x400);
    const auto execute = [&](const Message &in) {
        return d.dev.core().commands.execute(in, out).ok();
    };
    const auto any = [&](const auto &list) { return list[r.below(list.size())]; };
    const auto params = [&](Bytes m) {
        for (unsigned n = r.below(4); n > 0; --n)
            m[r.below(std::min<std::size_t>(m.size(), 0x40))] =
                static_cast<std::uint8_t>(r.chance(50) ? 0xff : r.bits());
    };
    for (unsigned i = 0; i < 6000; ++i) {
        switch (tables.empty() ? 0 : r.below(10)) {
        case 0: {
            auto in = REQUEST(create_flow_table, CREATE_FLOW_TABLE);
            const Bytes ctx = IFC_AT(create_flow_table_in, Bytes(in), flow_table_context);
            IFC_SET(flow_table_context, ctx, level, r.below(64));
            IFC_SET(flow_table_context, ctx, log_size, r.below(6));
            if (!tables.empty() && r.chance(50)) {
                IFC_SET(flow_table_context, ctx, table_miss_action, 1);
                IFC_SET(flow_table_context, ctx, table_miss_id, any(tables));
            }
            if (execute(in))
                tables.push_back(IFC_GET(create_flow_table_out, ConstBytes(out), table_id));
            break;
        }
        case 1: {
            const unsigned start = r.below(32);
            Group g{any(tables), 0, start, start + static_cast<unsigned>(r.below(4))};
            if (execute(d.group_request(g.table, g.start, g.end, params))) {
                g.id = IFC_GET(create_flow_group_out, ConstBytes(out), group_id);
                groups.push_back(g);
            }
            break;
        }
        case 2:
        case 3:
        case 4: {
            if (groups.empty())
                break;
            const Group g = any(groups);
            const unsigned index = g.start + static_cast<unsigned>(r.below(g.end - g.start + 1));
            std::vector<std::pair<unsigned, std::uint32_t>> dests;
            for (unsigned n = r.below(4); n > 0; --n) {
                if (r.chance(60))
                    dests.emplace_back(MLX5_IFC_FLOW_DESTINATION_TYPE_TIR, any(tirs));
                else
                    dests.emplace_back(MLX5_IFC_FLOW_DESTINATION_TYPE_FLOW_TABLE, any(tables));
            }
            auto in = d.fte_request(g.table, g.id, index, dests, params,
                                    static_cast<unsigned>(r.below(16)));
            IFC_SET(set_fte_in, Bytes(in), op_mod, r.chance(30));
            if (execute(in))
                entries.emplace_back(g.table, index);
            break;
        }
        case 5: {
            auto in = REQUEST(modify_flow_table, MODIFY_FLOW_TABLE);
            IFC_SET(modify_flow_table_in, Bytes(in), table_id, any(tables));
            IFC_SET(modify_flow_table_in, Bytes(in), modify_field_select, 1);
            IFC_SET(modify_flow_table_in, Bytes(in), flow_table_context.table_miss_action,
                    r.below(2));
            IFC_SET(modify_flow_table_in, Bytes(in), flow_table_context.table_miss_id, any(tables));
            execute(in);
            break;
        }
        case 6: {
            if (entries.empty())
                break;
            auto in = REQUEST(delete_fte, DELETE_FLOW_TABLE_ENTRY);
            const auto [table, index] = any(entries);
            IFC_SET(delete_fte_in, Bytes(in), table_id, table);
            IFC_SET(delete_fte_in, Bytes(in), flow_index, index);
            execute(in);
            break;
        }
        case 7: {
            if (groups.empty())
                break;
            auto in = REQUEST(destroy_flow_group, DESTROY_FLOW_GROUP);
            const Group g = any(groups);
            IFC_SET(destroy_flow_group_in, Bytes(in), table_id, g.table);
            IFC_SET(destroy_flow_group_in, Bytes(in), group_id, g.id);
            if (execute(in))
                std::erase_if(groups, [&](const Group &other) {
                    return other.table == g.table && other.id == g.id;
                });
            break;
        }
        case 8: {
            auto in = REQUEST(destroy_flow_table, DESTROY_FLOW_TABLE);
            const std::uint32_t table = any(tables);
            IFC_SET(destroy_flow_table_in, Bytes(in), table_id, table);
            if (execute(in))
                std::erase(tables, table);
            break;
        }
        default: {
            auto in = REQUEST(set_flow_table_root, SET_FLOW_TABLE_ROOT);
            IFC_SET(set_flow_table_root_in, Bytes(in), table_id, any(tables));
            execute(in);
            for (unsigned n = 0; n < 4; ++n)
                d.dev.wire_rx(make_frame(
                    {.v6 = r.chance(50), .tcp = r.chance(50), .vlan = r.chance(30) ? 5 : -1},
                    pattern(r.below(200), i)));
            d.settle();
            while (d.poll(cq) != nullptr)
                d.post(rq, 1);
        }
        }
        d.host.logs.clear();
        d.host.interrupts.clear();
    }
    // All of it can be taken down again: no use count has gone wrong.
    for (const auto &[table, index] : entries) {
        auto in = REQUEST(delete_fte, DELETE_FLOW_TABLE_ENTRY);
        IFC_SET(delete_fte_in, Bytes(in), table_id, table);
        IFC_SET(delete_fte_in, Bytes(in), flow_index, index);
        execute(in);
    }
    for (const Group &g : groups) {
        auto in = REQUEST(destroy_flow_group, DESTROY_FLOW_GROUP);
        IFC_SET(destroy_flow_group_in, Bytes(in), table_id, g.table);
        IFC_SET(destroy_flow_group_in, Bytes(in), group_id, g.id);
        EXPECT_TRUE(execute(in));
    }
    for (std::uint32_t table : tables) {
        auto in = REQUEST(modify_flow_table, MODIFY_FLOW_TABLE);
        IFC_SET(modify_flow_table_in, Bytes(in), table_id, table);
        IFC_SET(modify_flow_table_in, Bytes(in), modify_field_select, 1);
        EXPECT_TRUE(execute(in));
    }
    for (std::uint32_t table : tables) {
        auto in = REQUEST(destroy_flow_table, DESTROY_FLOW_TABLE);
        IFC_SET(destroy_flow_table_in, Bytes(in), table_id, table);
        EXPECT_TRUE(execute(in));
    }
    for (std::uint32_t tirn : tirs) {
        auto in = REQUEST(destroy_tir, DESTROY_TIR);
        IFC_SET(destroy_tir_in, Bytes(in), tirn, tirn);
        EXPECT_TRUE(execute(in));
    }
    expect_guards_untouched();
    expect_alive();
}

/// Guest memory that changes between two reads, or was never what it should be: WQEs, doorbell
/// records, mailboxes, packets.
TEST_P(Fuzz, DmaContent) {
    Random r(GetParam() + 6000);
    unsigned percent = 3;
    d.host.on_dma_read = [&](std::span<std::uint8_t> data) {
        if (data.empty() || !r.chance(percent))
            return;
        for (unsigned n = 1 + r.below(4); n > 0; --n)
            data[r.below(data.size())] = static_cast<std::uint8_t>(r.bits());
    };
    const Frame header = make_frame({.tcp = true}, {});
    auto query = REQUEST(query_hca_cap, QUERY_HCA_CAP, 0);
    const Message payload = pattern(3000);
    const std::uint64_t data = d.host.alloc(payload.size());
    std::copy(payload.begin(), payload.end(), d.host.at(data));
    for (unsigned i = 0; i < 4000; ++i) {
        percent = r.chance(50) ? 1 : 20;
        switch (r.below(4)) {
        case 0: {
            query.resize(16 + r.below(2000));
            d.command(query, IFC_BYTES(query_hca_cap_out), {}, false);
            break;
        }
        case 1:
        case 2: {
            const bool lso = r.chance(50);
            Message seg =
                d.eth_segments(lso ? MiniDriver::EthOptions{.mss = 700, .inline_header = header}
                                   : MiniDriver::EthOptions{},
                               {});
            Message s(16);
            store_be<std::uint32_t>(s.data(), static_cast<std::uint32_t>(60 + r.below(1400)));
            store_be<std::uint32_t>(s.data() + 4, d.lkey);
            store_be<std::uint64_t>(s.data() + 8, data);
            for (unsigned n = 1 + r.below(lso ? 2 : 1); n > 0; --n)
                seg.insert(seg.end(), s.begin(), s.end());
            d.post(sq, lso ? MLX5_OPCODE_LSO : MLX5_OPCODE_SEND, seg);
            break;
        }
        default:
            d.dev.wire_rx(make_frame({.v6 = r.chance(50), .tcp = r.chance(50)}, pattern(100, i)));
            d.settle();
            d.post(rq, 1);
        }
        percent = 0;
        while (d.poll(cq) != nullptr) {
        }
        if (d.modify_sq(sq, 1, 1).status != MLX5_CMD_STAT_OK) {
            d.modify_sq(sq, 3, 0);
            d.modify_sq(sq, 0, 1);
            sq.pc = 0;
            d.host.put<std::uint32_t>(sq.dbr + 4, 0);
        }
        if (d.modify_rq(rq, 1, 1).status != MLX5_CMD_STAT_OK) {
            d.modify_rq(rq, 3, 0);
            d.modify_rq(rq, 0, 1);
            rq.posted = 0;
            d.post(rq, 32);
        }
        d.host.wire.clear();
        d.host.logs.clear();
        d.host.interrupts.clear();
    }
    d.host.on_dma_read = nullptr;
    expect_alive();
}

/// Every register offset and width, in both directions.
TEST_P(Fuzz, Bar) {
    Random r(GetParam() + 4000);
    for (unsigned i = 0; i < 20000; ++i) {
        std::vector<std::uint8_t> data(1 + r.below(8));
        for (auto &b : data)
            b = static_cast<std::uint8_t>(r.bits());
        std::uint64_t at = r.chance(50) ? r.below(0x2000) : r.below(kBarSize - 8);
        if (r.chance(20))
            at = (static_cast<std::uint64_t>(d.uar) << 12) + r.below(0x1000);
        if (r.chance(50))
            d.dev.mmio_read(at, data);
        else
            d.dev.mmio_write(at, data);
        if (r.chance(5))
            d.dev.vsc_write(static_cast<unsigned>(r.below(0x18)),
                            static_cast<std::uint32_t>(r.awkward()));
        if (r.chance(5))
            std::ignore = d.dev.vsc_read(static_cast<unsigned>(r.below(0x18)));
        if (r.chance(2))
            d.advance(1'000'000);
        d.host.logs.clear();
    }
    expect_guards_untouched();
    expect_alive();
}

INSTANTIATE_TEST_SUITE_P(Seeds, Fuzz, testing::Values(1U, 2U, 3U, 4U));

} // namespace
} // namespace connectx::test
