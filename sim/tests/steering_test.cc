// SPDX-License-Identifier: GPL-2.0
//
// Flow tables: what each field matches, priorities, chains, counters, and the commands' errors.
#include "mini_driver.h"
#include "packets.h"

#include <gtest/gtest.h>

namespace connectx::test {
namespace {

constexpr unsigned kTir = MLX5_IFC_FLOW_DESTINATION_TYPE_TIR;
constexpr unsigned kTable = MLX5_IFC_FLOW_DESTINATION_TYPE_FLOW_TABLE;
constexpr unsigned kCount = MLX5_FLOW_CONTEXT_ACTION_COUNT;
constexpr unsigned kForward = MLX5_FLOW_CONTEXT_ACTION_FWD_DEST;
constexpr unsigned kDrop = MLX5_FLOW_CONTEXT_ACTION_DROP;

/// Sets a field of the outer headers of match parameters.
#define OUTER(params, field, value)                                                                \
    IFC_SET(fte_match_set_lyr_2_4, IFC_AT(fte_match_param, (params), outer_headers), field, value)

class SteeringTest : public testing::Test {
  protected:
    void SetUp() override {
        d.open();
        cq = d.create_cq(8);
        for (TestRq &q : rq) {
            q = d.create_rq(cq, {.log_size = 6});
            d.post(q, 64);
        }
        for (unsigned i = 0; i < rq.size(); ++i)
            tir[i] = d.create_tir(rq[i].id);
    }

    /// The queues that got the frame, lowest first; and the tag of the last.
    std::vector<unsigned> arrives(const Frame &f) {
        d.dev.wire_rx(f);
        d.settle();
        std::vector<unsigned> queues;
        while (const mlx5_cqe64 *cqe = d.poll(cq)) {
            tag = be32_to_cpu(cqe->sop_drop_qpn) & 0xffffff;
            for (unsigned i = 0; i < rq.size(); ++i)
                if ((be32_to_cpu(cqe->flags_rqpn) & 0xffffff) == rq[i].id) {
                    queues.push_back(i);
                    d.post(rq[i], 1);
                }
        }
        std::sort(queues.begin(), queues.end());
        return queues;
    }

    static Frame frame(const Flow &flow) {
        Frame f = make_frame(flow, pattern(64));
        add_checksums(f, flow);
        return f;
    }

    std::uint8_t status(const Message &in, std::size_t out) { return d.command(in, out).status; }
    std::uint8_t fte_status(const Message &in) { return status(in, IFC_BYTES(set_fte_out)); }

    std::uint32_t alloc_counter() {
        return IFC_GET(alloc_flow_counter_out,
                       ConstBytes(d.must(REQUEST(alloc_flow_counter, ALLOC_FLOW_COUNTER),
                                         IFC_BYTES(alloc_flow_counter_out))),
                       flow_counter_id);
    }
    std::pair<std::uint64_t, std::uint64_t> count(std::uint32_t id, bool clear = false) {
        auto in = REQUEST(query_flow_counter, QUERY_FLOW_COUNTER);
        IFC_SET(query_flow_counter_in, Bytes(in), flow_counter_id, id);
        IFC_SET(query_flow_counter_in, Bytes(in), clear, clear);
        const Message out =
            d.must(in, IFC_BYTES(query_flow_counter_out) + IFC_BYTES(traffic_counter));
        const ConstBytes stats = IFC_AT(query_flow_counter_out, ConstBytes(out), flow_statistics);
        return {IFC_GET64(traffic_counter, stats, packets),
                IFC_GET64(traffic_counter, stats, octets)};
    }
    static void add_counter(Message &in, std::uint32_t id) {
        const Bytes ctx = IFC_AT(set_fte_in, Bytes(in), flow_context);
        IFC_SET(flow_context, ctx, flow_counter_list_size, 1);
        IFC_SET(flow_context, ctx, action, IFC_GET(flow_context, ctx, action) | kCount);
        Message entry(IFC_BYTES(dest_format_struct));
        IFC_SET(flow_counter_list, Bytes(entry), flow_counter_id, id);
        in.insert(in.end(), entry.begin(), entry.end());
    }
    Message delete_request(std::uint32_t table, unsigned index) {
        auto in = REQUEST(delete_fte, DELETE_FLOW_TABLE_ENTRY);
        IFC_SET(delete_fte_in, Bytes(in), table_id, table);
        IFC_SET(delete_fte_in, Bytes(in), flow_index, index);
        return in;
    }
    Message destroy_group_request(std::uint32_t table, std::uint32_t group) {
        auto in = REQUEST(destroy_flow_group, DESTROY_FLOW_GROUP);
        IFC_SET(destroy_flow_group_in, Bytes(in), table_id, table);
        IFC_SET(destroy_flow_group_in, Bytes(in), group_id, group);
        return in;
    }
    Message destroy_table_request(std::uint32_t table) {
        auto in = REQUEST(destroy_flow_table, DESTROY_FLOW_TABLE);
        IFC_SET(destroy_flow_table_in, Bytes(in), table_id, table);
        return in;
    }

    MiniDriver d;
    TestCq cq;
    std::array<TestRq, 3> rq;
    std::array<std::uint32_t, 3> tir{};
    std::uint32_t tag = 0;
};

TEST_F(SteeringTest, WithoutRootNothingArrives) {
    EXPECT_TRUE(arrives(frame({})).empty());
    const auto vnic =
        d.must(REQUEST(query_vnic_env, QUERY_VNIC_ENV), IFC_BYTES(query_vnic_env_out));
    EXPECT_EQ(
        IFC_GET64(query_vnic_env_out, ConstBytes(vnic), vport_env.nic_receive_steering_discard),
        1U);
}

/// A field with a value that the frame has: a rule on it matches this frame and none that differs.
struct FieldCase {
    const char *name;
    std::function<void(Bytes, bool mask)> set;
    Flow hit;
    std::function<void(Frame &)> miss; ///< changes the frame so that it does not match
};

class Field : public SteeringTest, public testing::WithParamInterface<FieldCase> {};

TEST_P(Field, DecidesAlone) {
    const FieldCase &c = GetParam();
    const auto table = d.create_table(1, 4);
    const auto group = d.create_group(table, 0, 0, [&](Bytes p) { c.set(p, true); });
    const auto rest = d.create_group(table, 1, 1);
    d.must(d.fte_request(table, group, 0, {{kTir, tir[1]}}, [&](Bytes v) { c.set(v, false); }),
           IFC_BYTES(set_fte_out));
    d.must(d.fte_request(table, rest, 1, {{kTir, tir[0]}}), IFC_BYTES(set_fte_out));
    d.set_root(table);
    Frame f = frame(c.hit);
    EXPECT_EQ(arrives(f), std::vector<unsigned>{1});
    c.miss(f);
    EXPECT_EQ(arrives(f), std::vector<unsigned>{0});
}

#define FIELD(field, value, hit_flow, change)                                                      \
    FieldCase {                                                                                    \
#field, [](Bytes p,                                                                        \
                   bool mask) { OUTER(p, field, mask ? ~0U : (value)); }, hit_flow,                \
                                                                       [](Frame & f) { change; }   \
    }

INSTANTIATE_TEST_SUITE_P(
    Steering, Field,
    testing::Values(
        FIELD(dmac_47_16, 0x02000000, (Flow{}), f[0] ^= 4),
        FIELD(dmac_15_0, 2, (Flow{}), f[5] ^= 1),
        FIELD(smac_47_16, 0x02000000, (Flow{}), f[6] ^= 4),
        FIELD(smac_15_0, 1, (Flow{}), f[11] ^= 2),
        FIELD(ethertype, 0x0800, (Flow{}), put16(f, 12, 0x88b5)),
        FIELD(ethertype, 0x86dd, (Flow{.v6 = true}), put16(f, 12, 0x88b5)),
        FIELD(ip_version, 4, (Flow{}), put16(f, 12, 0x88b5)),
        FIELD(ip_version, 6, (Flow{.v6 = true}), put16(f, 12, 0x88b5)),
        FIELD(cvlan_tag, 1, (Flow{.vlan = 9}), put16(f, 12, 0x88a8)),
        FIELD(svlan_tag, 0, (Flow{.vlan = 9}), put16(f, 12, 0x88a8)),
        FIELD(first_vid, 9, (Flow{.vlan = 9}), put16(f, 14, 10)),
        FIELD(first_prio, 5, (Flow{.vlan = 0xa009}), put16(f, 14, 9)),
        FIELD(first_cfi, 1, (Flow{.vlan = 0x1009}), put16(f, 14, 9)),
        FIELD(ip_protocol, 17, (Flow{}), f[23] = 6),
        FIELD(ip_protocol, 6, (Flow{.v6 = true, .tcp = true}), f[20] = 17),
        FIELD(frag, 0, (Flow{}), put16(f, 20, 0x2000)),
        FIELD(ttl_hoplimit, 64, (Flow{}), f[22] = 63),
        FIELD(ttl_hoplimit, 64, (Flow{.v6 = true}), f[21] = 63),
        FIELD(ip_dscp, 0, (Flow{}), f[15] = 4), FIELD(ip_ecn, 0, (Flow{}), f[15] = 2),
        FIELD(ip_dscp, 0, (Flow{.v6 = true}), f[14] = 0x61),
        FIELD(ip_ecn, 0, (Flow{.v6 = true}), f[15] = 0x20),
        FIELD(src_ipv4_src_ipv6.ipv4_layout.ipv4, 0x0a000001, (Flow{}), f[29] ^= 8),
        FIELD(dst_ipv4_dst_ipv6.ipv4_layout.ipv4, 0x0a000002, (Flow{}), f[33] ^= 8),
        FIELD(src_ipv4_src_ipv6.ipv6_layout.ipv6[0], 0xfd, (Flow{.v6 = true}), f[22] ^= 8),
        FIELD(dst_ipv4_dst_ipv6.ipv6_layout.ipv6[15], 2, (Flow{.v6 = true}), f[53] ^= 8),
        FIELD(udp_sport, 1000, (Flow{}), put16(f, 34, 1001)),
        FIELD(udp_dport, 2000, (Flow{}), put16(f, 36, 2001)),
        FIELD(udp_dport, 2000, (Flow{.v6 = true}), put16(f, 56, 2001)),
        FIELD(tcp_sport, 1000, (Flow{.tcp = true}), put16(f, 34, 1001)),
        FIELD(tcp_dport, 2000, (Flow{.tcp = true}), put16(f, 36, 2001)),
        FIELD(tcp_flags, 0x10, (Flow{.tcp = true}), f[47] ^= 2)));

TEST_F(SteeringTest, LowerIndexWins) {
    const auto table = d.create_table(1, 4);
    const auto wide = d.create_group(table, 8, 15);
    const auto narrow = d.create_group(table, 0, 7, [](Bytes p) { OUTER(p, udp_dport, 0xffff); });
    d.must(d.fte_request(table, wide, 8, {{kTir, tir[0]}}), IFC_BYTES(set_fte_out));
    d.must(d.fte_request(
               table, narrow, 3, {{kTir, tir[1]}}, [](Bytes v) { OUTER(v, udp_dport, 2000); },
               kForward, 0x1234),
           IFC_BYTES(set_fte_out));
    d.set_root(table);
    EXPECT_EQ(arrives(frame({})), std::vector<unsigned>{1});
    EXPECT_EQ(tag, 0x1234U);
    EXPECT_EQ(arrives(frame({.dport = 1999})), std::vector<unsigned>{0});
    EXPECT_EQ(tag, 0U);
}

TEST_F(SteeringTest, ChainsMissesAndSeveralDestinations) {
    const auto last = d.create_table(30, 2);
    const auto middle = d.create_table(20, 2, last);
    const auto first = d.create_table(10, 2);
    const auto g1 = d.create_group(first, 0, 0);
    const auto g2 = d.create_group(middle, 0, 0, [](Bytes p) { OUTER(p, udp_dport, 0xffff); });
    const auto g3 = d.create_group(last, 0, 0);
    d.must(d.fte_request(first, g1, 0, {{kTable, middle}}), IFC_BYTES(set_fte_out));
    d.must(d.fte_request(middle, g2, 0, {{kTir, tir[0]}, {kTir, tir[2]}},
                         [](Bytes v) { OUTER(v, udp_dport, 2000); }),
           IFC_BYTES(set_fte_out));
    d.must(d.fte_request(last, g3, 0, {{kTir, tir[1]}}), IFC_BYTES(set_fte_out));
    d.set_root(first);
    EXPECT_EQ(arrives(frame({})), (std::vector<unsigned>{0, 2}));
    EXPECT_EQ(arrives(frame({.dport = 1})), std::vector<unsigned>{1});
    // The miss can be led elsewhere, or to nowhere.
    auto modify = REQUEST(modify_flow_table, MODIFY_FLOW_TABLE);
    IFC_SET(modify_flow_table_in, Bytes(modify), table_id, middle);
    IFC_SET(modify_flow_table_in, Bytes(modify), modify_field_select, 1);
    d.must(modify, IFC_BYTES(modify_flow_table_out));
    EXPECT_TRUE(arrives(frame({.dport = 1})).empty());
    IFC_SET(modify_flow_table_in, Bytes(modify), flow_table_context.table_miss_action, 1);
    IFC_SET(modify_flow_table_in, Bytes(modify), flow_table_context.table_miss_id, last);
    d.must(modify, IFC_BYTES(modify_flow_table_out));
    EXPECT_EQ(arrives(frame({.dport = 1})), std::vector<unsigned>{1});
    auto query = REQUEST(query_flow_table, QUERY_FLOW_TABLE);
    IFC_SET(query_flow_table_in, Bytes(query), table_id, middle);
    const Message out = d.must(query, IFC_BYTES(query_flow_table_out));
    EXPECT_EQ(IFC_GET(query_flow_table_out, ConstBytes(out), flow_table_context.level), 20U);
    EXPECT_EQ(IFC_GET(query_flow_table_out, ConstBytes(out), flow_table_context.table_miss_id),
              last);
    // In use from two sides.
    EXPECT_EQ(status(destroy_table_request(last), 16), MLX5_CMD_STAT_RES_BUSY);
    // Wrong changes.
    IFC_SET(modify_flow_table_in, Bytes(modify), flow_table_context.table_miss_id, 9999);
    EXPECT_EQ(status(modify, 16), MLX5_CMD_STAT_BAD_RES_ERR);
    IFC_SET(modify_flow_table_in, Bytes(modify), flow_table_context.table_miss_action, 9);
    EXPECT_EQ(status(modify, 16), MLX5_CMD_STAT_BAD_PARAM_ERR);
    IFC_SET(modify_flow_table_in, Bytes(modify), modify_field_select, 4);
    EXPECT_EQ(status(modify, 16), MLX5_CMD_STAT_BAD_PARAM_ERR);
    IFC_SET(modify_flow_table_in, Bytes(modify), table_id, 9999);
    EXPECT_EQ(status(modify, 16), MLX5_CMD_STAT_IX_ERR);
    IFC_SET(query_flow_table_in, Bytes(query), table_id, 9999);
    EXPECT_EQ(status(query, IFC_BYTES(query_flow_table_out)), MLX5_CMD_STAT_IX_ERR);
}

TEST_F(SteeringTest, DropAndCount) {
    const auto counter = alloc_counter();
    const auto other = alloc_counter();
    const auto table = d.create_table(1, 2);
    const auto group = d.create_group(table, 0, 3, [](Bytes p) { OUTER(p, udp_dport, 0xffff); });
    auto drop = d.fte_request(
        table, group, 0, {}, [](Bytes v) { OUTER(v, udp_dport, 2000); }, kDrop);
    add_counter(drop, counter);
    d.must(drop, IFC_BYTES(set_fte_out));
    auto pass = d.fte_request(table, group, 1, {{kTir, tir[0]}},
                              [](Bytes v) { OUTER(v, udp_dport, 3000); });
    add_counter(pass, other);
    d.must(pass, IFC_BYTES(set_fte_out));
    d.set_root(table);
    const Frame f = frame({});
    for (unsigned i = 0; i < 3; ++i)
        EXPECT_TRUE(arrives(f).empty());
    EXPECT_EQ(arrives(frame({.dport = 3000})), std::vector<unsigned>{0});
    EXPECT_EQ(count(counter), std::pair(3UL, 3UL * f.size()));
    EXPECT_EQ(count(other, true), std::pair(1UL, f.size()));
    EXPECT_EQ(count(other), std::pair(0UL, 0UL));
    // In use; then free.
    auto dealloc = REQUEST(dealloc_flow_counter, DEALLOC_FLOW_COUNTER);
    IFC_SET(dealloc_flow_counter_in, Bytes(dealloc), flow_counter_id, counter);
    EXPECT_EQ(status(dealloc, 16), MLX5_CMD_STAT_RES_BUSY);
    d.must(delete_request(table, 0), IFC_BYTES(delete_fte_out));
    d.must(dealloc, 16);
    EXPECT_EQ(status(dealloc, 16), MLX5_CMD_STAT_IX_ERR);
    // An entry with a counter that is not there.
    EXPECT_EQ(fte_status(drop), MLX5_CMD_STAT_BAD_RES_ERR);
    auto query = REQUEST(query_flow_counter, QUERY_FLOW_COUNTER);
    IFC_SET(query_flow_counter_in, Bytes(query), flow_counter_id, counter);
    EXPECT_EQ(status(query, 64), MLX5_CMD_STAT_IX_ERR);
    IFC_SET(query_flow_counter_in, Bytes(query), flow_counter_id, other);
    EXPECT_EQ(status(query, IFC_BYTES(query_flow_counter_out)), MLX5_CMD_STAT_BAD_OUTP_LEN_ERR);
    IFC_SET(query_flow_counter_in, Bytes(query), num_of_counters, 5);
    EXPECT_EQ(status(query, 64), MLX5_CMD_STAT_BAD_PARAM_ERR);
    auto bulk = REQUEST(alloc_flow_counter, ALLOC_FLOW_COUNTER);
    IFC_SET(alloc_flow_counter_in, Bytes(bulk), flow_counter_bulk, 1);
    EXPECT_EQ(status(bulk, 16), MLX5_CMD_STAT_BAD_PARAM_ERR);
}

/// Whether the queue has a buffer or not, what an entry counts has been there.
TEST_F(SteeringTest, AFrameWithoutBufferIsCounted) {
    const auto counter = alloc_counter();
    const auto table = d.create_table(1, 2);
    const auto group = d.create_group(table, 0, 3);
    auto in = d.fte_request(table, group, 0, {{kTir, tir[0]}});
    add_counter(in, counter);
    d.must(in, IFC_BYTES(set_fte_out));
    d.set_root(table);
    const Frame f = frame({});
    for (unsigned i = 0; i < 66; ++i)
        d.dev.wire_rx(f);
    EXPECT_EQ(count(counter), std::pair(66UL, 66UL * f.size()));
    EXPECT_EQ(d.dev.stats().rx_dropped, 2U);
}

/// What no frame can match is refused, be it parameters or bits of the outer headers.
TEST_F(SteeringTest, MasksThatCannotMatchAreRefused) {
    const auto table = d.create_table(1, 4);
    const auto with = [&](unsigned enable, const std::function<void(Bytes)> &mask) {
        auto in = d.group_request(table, 0, 0, mask);
        IFC_SET(create_flow_group_in, Bytes(in), match_criteria_enable, enable);
        return d.command(in, IFC_BYTES(create_flow_group_out));
    };
    constexpr unsigned kOuter = MLX5_MATCH_OUTER_HEADERS;
    constexpr unsigned kMisc = MLX5_MATCH_MISC_PARAMETERS;
    const auto misc = [](Bytes m) { return IFC_AT(fte_match_param, m, misc_parameters); };
    const std::vector<std::function<void(Bytes)>> misc_masks{
        [&](Bytes m) { IFC_SET(fte_match_set_misc, misc(m), source_port, 1); },
        [&](Bytes m) { IFC_SET(fte_match_set_misc, misc(m), source_sqn, 0xffffff); },
        [&](Bytes m) { IFC_SET(fte_match_set_misc, misc(m), vxlan_vni, 0xffffff); },
        [&](Bytes m) { IFC_SET(fte_match_set_misc, misc(m), outer_second_vid, 0xfff); },
        [&](Bytes m) { IFC_SET(fte_match_set_misc, misc(m), inner_ipv6_flow_label, 1); },
    };
    for (std::size_t i = 0; i < misc_masks.size(); ++i)
        for (unsigned enable : {kMisc, kMisc | kOuter}) {
            const Reply r = with(enable, misc_masks[i]);
            EXPECT_EQ(r.status, MLX5_CMD_STAT_BAD_PARAM_ERR) << i;
            EXPECT_EQ(r.syndrome, 0x414U) << i;
        }
    // Bits of the outer headers that nothing is known about.
    Message filled(IFC_BYTES(fte_match_set_lyr_2_4), 0xff);
    const Reply all = with(kOuter, [&](Bytes m) { std::ranges::copy(filled, m.begin()); });
    EXPECT_EQ(all.status, MLX5_CMD_STAT_BAD_PARAM_ERR);
    EXPECT_EQ(all.syndrome, 0x41aU);
    EXPECT_EQ(with(kOuter, [](Bytes m) { m[24] = 1; }).syndrome, 0x41aU);
    // What is not switched on does not count.
    EXPECT_TRUE(with(kOuter, misc_masks[0]).ok());
    auto in = REQUEST(destroy_flow_group, DESTROY_FLOW_GROUP);
    IFC_SET(destroy_flow_group_in, Bytes(in), table_id, table);
    d.must(in, IFC_BYTES(destroy_flow_group_out));
    EXPECT_TRUE(with(kOuter | kMisc, [](Bytes m) { OUTER(m, udp_dport, 0xffff); }).ok());
}

TEST_F(SteeringTest, ModifyKeepsTheMatchAndChangesTheDestination) {
    const auto table = d.create_table(1, 2);
    const auto group = d.create_group(table, 0, 1, [](Bytes p) { OUTER(p, udp_dport, 0xffff); });
    const auto set = [&](unsigned op_mod, unsigned index, unsigned to, unsigned port) {
        auto in = d.fte_request(table, group, index, {{kTir, tir[to]}},
                                [&](Bytes v) { OUTER(v, udp_dport, port); });
        IFC_SET(set_fte_in, Bytes(in), op_mod, op_mod);
        return fte_status(in);
    };
    EXPECT_EQ(set(0, 0, 0, 2000), MLX5_CMD_STAT_OK);
    d.set_root(table);
    EXPECT_EQ(arrives(frame({})), std::vector<unsigned>{0});
    EXPECT_EQ(set(1, 0, 1, 0), MLX5_CMD_STAT_OK);
    EXPECT_EQ(arrives(frame({})), std::vector<unsigned>{1});
    // Set anew, it matches something else.
    EXPECT_EQ(set(0, 0, 2, 3000), MLX5_CMD_STAT_OK);
    EXPECT_TRUE(arrives(frame({})).empty());
    EXPECT_EQ(arrives(frame({.dport = 3000})), std::vector<unsigned>{2});
    EXPECT_EQ(set(1, 1, 1, 3000), MLX5_CMD_STAT_IX_ERR) << "modifies what is not there";
    EXPECT_EQ(set(0, 1, 1, 3000), MLX5_CMD_STAT_BAD_PARAM_ERR) << "the same match twice";
    EXPECT_EQ(set(2, 1, 1, 4000), MLX5_CMD_STAT_BAD_PARAM_ERR);
    EXPECT_EQ(set(0, 2, 1, 4000), MLX5_CMD_STAT_IX_ERR) << "outside of the group";
    // Once deleted it is gone, and again is an error.
    d.must(delete_request(table, 0), IFC_BYTES(delete_fte_out));
    EXPECT_TRUE(arrives(frame({.dport = 3000})).empty());
    EXPECT_EQ(status(delete_request(table, 0), 16), MLX5_CMD_STAT_IX_ERR);
    EXPECT_EQ(status(delete_request(9999, 0), 16), MLX5_CMD_STAT_IX_ERR);
}

TEST_F(SteeringTest, QueriesGiveBackWhatWasSet) {
    const auto table = d.create_table(1, 4);
    const auto group = d.create_group(table, 2, 5, [](Bytes p) { OUTER(p, tcp_sport, 0xff00); });
    d.must(d.fte_request(
               table, group, 4, {{kTir, tir[0]}}, [](Bytes v) { OUTER(v, tcp_sport, 0x1200); },
               kForward, 77),
           IFC_BYTES(set_fte_out));
    auto in = REQUEST(query_flow_group, QUERY_FLOW_GROUP);
    IFC_SET(query_flow_group_in, Bytes(in), table_id, table);
    IFC_SET(query_flow_group_in, Bytes(in), group_id, group);
    Message out = d.must(in, IFC_BYTES(query_flow_group_out));
    EXPECT_EQ(IFC_GET(query_flow_group_out, ConstBytes(out), start_flow_index), 2U);
    EXPECT_EQ(IFC_GET(query_flow_group_out, ConstBytes(out), end_flow_index), 5U);
    EXPECT_EQ(
        IFC_GET(query_flow_group_out, ConstBytes(out), match_criteria.outer_headers.tcp_sport),
        0xff00U);
    IFC_SET(query_flow_group_in, Bytes(in), group_id, 99);
    EXPECT_EQ(status(in, IFC_BYTES(query_flow_group_out)), MLX5_CMD_STAT_IX_ERR);
    IFC_SET(query_flow_group_in, Bytes(in), table_id, 9999);
    EXPECT_EQ(status(in, IFC_BYTES(query_flow_group_out)), MLX5_CMD_STAT_IX_ERR);

    auto fte = REQUEST(query_fte, QUERY_FLOW_TABLE_ENTRY);
    IFC_SET(query_fte_in, Bytes(fte), table_id, table);
    IFC_SET(query_fte_in, Bytes(fte), flow_index, 4);
    out = d.must(fte, IFC_BYTES(query_fte_out));
    EXPECT_EQ(IFC_GET(query_fte_out, ConstBytes(out), flow_context.flow_tag), 77U);
    EXPECT_EQ(
        IFC_GET(query_fte_out, ConstBytes(out), flow_context.match_value.outer_headers.tcp_sport),
        0x1200U);
    IFC_SET(query_fte_in, Bytes(fte), flow_index, 3);
    EXPECT_EQ(status(fte, IFC_BYTES(query_fte_out)), MLX5_CMD_STAT_IX_ERR);
    IFC_SET(query_fte_in, Bytes(fte), table_id, 9999);
    EXPECT_EQ(status(fte, IFC_BYTES(query_fte_out)), MLX5_CMD_STAT_IX_ERR);
}

TEST_F(SteeringTest, TablesAreChecked) {
    const auto create = [&](const std::function<void(Bytes)> &change) {
        auto in = REQUEST(create_flow_table, CREATE_FLOW_TABLE);
        IFC_SET(create_flow_table_in, Bytes(in), flow_table_context.log_size, 2);
        change(in);
        return status(in, IFC_BYTES(create_flow_table_out));
    };
#define CHANGE(field, value) [](Bytes in) { IFC_SET(create_flow_table_in, in, field, value); }
    EXPECT_EQ(create(CHANGE(table_type, MLX5_FLOW_TABLE_TYPE_ESW_INGRESS_ACL)),
              MLX5_CMD_STAT_BAD_PARAM_ERR);
    EXPECT_EQ(create(CHANGE(other_vport, 1)), MLX5_CMD_STAT_BAD_PARAM_ERR);
    EXPECT_EQ(create(CHANGE(op_mod, 1)), MLX5_CMD_STAT_BAD_PARAM_ERR);
    EXPECT_EQ(create(CHANGE(flow_table_context.reformat_en, 1)), MLX5_CMD_STAT_BAD_PARAM_ERR);
    EXPECT_EQ(create(CHANGE(flow_table_context.decap_en, 1)), MLX5_CMD_STAT_BAD_PARAM_ERR);
    EXPECT_EQ(create(CHANGE(flow_table_context.sw_owner, 1)), MLX5_CMD_STAT_BAD_PARAM_ERR);
    EXPECT_EQ(create(CHANGE(flow_table_context.table_miss_action, 3)), MLX5_CMD_STAT_BAD_PARAM_ERR);
    EXPECT_EQ(create(CHANGE(flow_table_context.table_miss_action, 1)), MLX5_CMD_STAT_BAD_RES_ERR);
    EXPECT_EQ(create(CHANGE(flow_table_context.log_size, 30)), MLX5_CMD_STAT_LIM_ERR);
    EXPECT_EQ(create(CHANGE(flow_table_context.level, 250)), MLX5_CMD_STAT_LIM_ERR);
    EXPECT_EQ(create([](Bytes) {}), MLX5_CMD_STAT_OK);
#undef CHANGE
    EXPECT_EQ(status(destroy_table_request(9999), 16), MLX5_CMD_STAT_IX_ERR);
}

TEST_F(SteeringTest, RootIsSetAndTakenAway) {
    d.steer_all_to(tir[0]);
    EXPECT_EQ(arrives(frame({})), std::vector<unsigned>{0});
    auto in = REQUEST(set_flow_table_root, SET_FLOW_TABLE_ROOT, 1);
    d.must(in, IFC_BYTES(set_flow_table_root_out));
    EXPECT_TRUE(arrives(frame({})).empty());
    IFC_SET(set_flow_table_root_in, Bytes(in), op_mod, 0);
    IFC_SET(set_flow_table_root_in, Bytes(in), table_id, 9999);
    EXPECT_EQ(status(in, 16), MLX5_CMD_STAT_IX_ERR);
    IFC_SET(set_flow_table_root_in, Bytes(in), other_vport, 1);
    EXPECT_EQ(status(in, 16), MLX5_CMD_STAT_BAD_PARAM_ERR);
    // A root that is destroyed is none.
    const auto table = d.create_table(1, 1);
    d.set_root(table);
    d.must(destroy_table_request(table), IFC_BYTES(destroy_flow_table_out));
    EXPECT_TRUE(arrives(frame({})).empty());
}

TEST_F(SteeringTest, GroupsAreChecked) {
    const auto table = d.create_table(1, 4);
    const auto create = [&](unsigned start, unsigned end, unsigned enable = 0) {
        auto in = d.group_request(table, start, end, {});
        IFC_SET(create_flow_group_in, Bytes(in), match_criteria_enable, enable);
        return d.command(in, IFC_BYTES(create_flow_group_out)).status;
    };
    EXPECT_EQ(create(4, 7), MLX5_CMD_STAT_OK);
    EXPECT_EQ(create(7, 8), MLX5_CMD_STAT_BAD_PARAM_ERR) << "overlap";
    EXPECT_EQ(create(0, 4), MLX5_CMD_STAT_BAD_PARAM_ERR) << "overlap";
    EXPECT_EQ(create(5, 5), MLX5_CMD_STAT_BAD_PARAM_ERR) << "inside";
    EXPECT_EQ(create(0, 15), MLX5_CMD_STAT_BAD_PARAM_ERR) << "around";
    EXPECT_EQ(create(9, 8), MLX5_CMD_STAT_BAD_PARAM_ERR) << "backwards";
    EXPECT_EQ(create(8, 16), MLX5_CMD_STAT_BAD_PARAM_ERR) << "past the end";
    EXPECT_EQ(create(8, 0xffffffff), MLX5_CMD_STAT_BAD_PARAM_ERR) << "past the end";
    EXPECT_EQ(create(8, 9, MLX5_MATCH_INNER_HEADERS), MLX5_CMD_STAT_BAD_PARAM_ERR);
    EXPECT_EQ(create(8, 9, MLX5_MATCH_OUTER_HEADERS), MLX5_CMD_STAT_OK);
    auto nowhere = d.group_request(9999, 0, 1, {});
    EXPECT_EQ(status(nowhere, IFC_BYTES(create_flow_group_out)), MLX5_CMD_STAT_IX_ERR);
    // With an entry a group stays, with a group the table does.
    const auto group = d.create_group(table, 0, 0);
    d.must(d.fte_request(table, group, 0, {{kTir, tir[0]}}), IFC_BYTES(set_fte_out));
    EXPECT_EQ(status(destroy_group_request(table, group), 16), MLX5_CMD_STAT_RES_BUSY);
    d.must(delete_request(table, 0), IFC_BYTES(delete_fte_out));
    d.must(destroy_group_request(table, group), IFC_BYTES(destroy_flow_group_out));
    EXPECT_EQ(status(destroy_group_request(table, group), 16), MLX5_CMD_STAT_IX_ERR);
    EXPECT_EQ(status(destroy_group_request(9999, group), 16), MLX5_CMD_STAT_IX_ERR);
    EXPECT_EQ(status(destroy_table_request(table), 16), MLX5_CMD_STAT_RES_BUSY);
}

TEST_F(SteeringTest, DestinationsAreChecked) {
    const auto table = d.create_table(5, 2);
    const auto same = d.create_table(5, 2);
    const auto group = d.create_group(table, 0, 3);
    const auto with = [&](unsigned type, std::uint32_t id) {
        return fte_status(d.fte_request(table, group, 0, {{type, id}}));
    };
    EXPECT_EQ(with(kTir, 0xabcdef), MLX5_CMD_STAT_BAD_RES_ERR);
    EXPECT_EQ(with(kTable, 9999), MLX5_CMD_STAT_BAD_RES_ERR);
    EXPECT_EQ(with(kTable, same), MLX5_CMD_STAT_BAD_PARAM_ERR) << "not a higher level";
    EXPECT_EQ(with(kTable, table), MLX5_CMD_STAT_BAD_PARAM_ERR) << "itself";
    EXPECT_EQ(with(MLX5_IFC_FLOW_DESTINATION_TYPE_VPORT, 0), MLX5_CMD_STAT_BAD_PARAM_ERR);
    auto too_many = d.fte_request(table, group, 0, {{kTir, tir[0]}});
    IFC_SET(set_fte_in, Bytes(too_many), flow_context.destination_list_size, 64);
    EXPECT_EQ(fte_status(too_many), MLX5_CMD_STAT_BAD_INP_LEN_ERR);
    IFC_SET(set_fte_in, Bytes(too_many), flow_context.destination_list_size, 65);
    EXPECT_EQ(fte_status(too_many), MLX5_CMD_STAT_LIM_ERR);
    IFC_SET(set_fte_in, Bytes(too_many), flow_context.destination_list_size, 1);
    IFC_SET(set_fte_in, Bytes(too_many), flow_context.flow_counter_list_size, 2);
    EXPECT_EQ(fte_status(too_many), MLX5_CMD_STAT_LIM_ERR);
    EXPECT_EQ(fte_status(d.fte_request(table, group, 0, {{kTir, tir[0]}}, {},
                                       MLX5_FLOW_CONTEXT_ACTION_MOD_HDR)),
              MLX5_CMD_STAT_BAD_PARAM_ERR);
    EXPECT_EQ(fte_status(d.fte_request(9999, group, 0, {})), MLX5_CMD_STAT_IX_ERR);
    EXPECT_EQ(fte_status(d.fte_request(table, 9999, 0, {})), MLX5_CMD_STAT_IX_ERR);
    // A TIR that an entry leads to cannot go.
    d.must(d.fte_request(table, group, 0, {{kTir, tir[0]}}), IFC_BYTES(set_fte_out));
    auto destroy = REQUEST(destroy_tir, DESTROY_TIR);
    IFC_SET(destroy_tir_in, Bytes(destroy), tirn, tir[0]);
    EXPECT_EQ(status(destroy, 16), MLX5_CMD_STAT_RES_BUSY);
    d.must(delete_request(table, 0), IFC_BYTES(delete_fte_out));
    d.must(destroy, 16);
}

TEST_F(SteeringTest, RssSpreadsOverTheIndirectionTable) {
    const auto rqt = d.create_rqt({rq[0].id, rq[1].id, rq[2].id, rq[1].id});
    auto in = REQUEST(create_tir, CREATE_TIR);
    const Bytes ctx = IFC_AT(create_tir_in, Bytes(in), ctx);
    IFC_SET(tirc, ctx, disp_type, MLX5_TIRC_DISP_TYPE_INDIRECT);
    IFC_SET(tirc, ctx, indirect_table, rqt);
    IFC_SET(tirc, ctx, transport_domain, d.td);
    IFC_SET(tirc, ctx, rx_hash_fn, MLX5_RX_HASH_FN_TOEPLITZ);
    IFC_SET(tirc, ctx, rx_hash_field_selector_outer.l4_prot_type, MLX5_L4_PROT_TYPE_UDP);
    IFC_SET(tirc, ctx, rx_hash_field_selector_outer.selected_fields,
            MLX5_HASH_FIELD_SEL_SRC_IP | MLX5_HASH_FIELD_SEL_DST_IP | MLX5_HASH_FIELD_SEL_L4_SPORT |
                MLX5_HASH_FIELD_SEL_L4_DPORT);
    const Bytes key = IFC_AT(tirc, ctx, rx_hash_toeplitz_key);
    for (unsigned i = 0; i < 40; ++i)
        key[i] = static_cast<std::uint8_t>(i * 37 + 11);
    const auto tirn =
        IFC_GET(create_tir_out, ConstBytes(d.must(in, IFC_BYTES(create_tir_out))), tirn);
    d.steer_all_to(tirn);
    const auto spread = [&] {
        std::array<unsigned, 3> n{};
        for (unsigned port = 1; port <= 400; ++port) {
            const auto queues = arrives(frame({.sport = port}));
            EXPECT_EQ(queues.size(), 1U);
            for (unsigned q : queues)
                ++n[q];
        }
        return n;
    };
    auto n = spread();
    EXPECT_GT(n[0], 60U);
    EXPECT_GT(n[2], 60U);
    EXPECT_GT(n[1], 140U); // two of four entries
    // The table can change under traffic.
    auto modify = request(MLX5_CMD_OP_MODIFY_RQT, IFC_BYTES(modify_rqt_in) + 4);
    IFC_SET(modify_rqt_in, Bytes(modify), rqtn, rqt);
    IFC_SET(modify_rqt_in, Bytes(modify), bitmask.rqn_list, 1);
    const Bytes rqtc = IFC_AT(modify_rqt_in, Bytes(modify), ctx);
    IFC_SET(rqtc, rqtc, rqt_actual_size, 1);
    store_be<std::uint32_t>(IFC_AT(rqtc, rqtc, rq_num).data(), rq[2].id);
    d.must(modify, IFC_BYTES(modify_rqt_out));
    n = spread();
    EXPECT_EQ(n[2], 400U);
}

} // namespace
} // namespace connectx::test
