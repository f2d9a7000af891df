// SPDX-License-Identifier: GPL-2.0
//
// Flow tables of the NIC receive domain: commands, and matching frames against them.
#include "core.h"

#include <bit>

namespace connectx {

namespace {

constexpr unsigned kNicReceive = MLX5_FLOW_TABLE_TYPE_NIC_RCV;
constexpr unsigned kSupportedActions =
    MLX5_FLOW_CONTEXT_ACTION_ALLOW | MLX5_FLOW_CONTEXT_ACTION_DROP |
    MLX5_FLOW_CONTEXT_ACTION_FWD_DEST | MLX5_FLOW_CONTEXT_ACTION_COUNT;
// A frame that has crossed so many tables goes in circles: miss tables may lead to each other.
constexpr unsigned kMaxHops = 256;
// Different masks that the groups of one table may have, and of how many of them one frame is
// looked at, over all tables that it crosses.
constexpr std::size_t kMaxMasks = 4096;
constexpr unsigned kMaxSearches = 1U << 14;
constexpr std::size_t kMaxCopies = 64;

/// A limit of the receive flow tables as the capabilities have it.
#define NIC_RECEIVE_CAP(core, field)                                                               \
    IFC_GET(flow_table_nic_cap,                                                                    \
            ConstBytes(*(core).caps.find(MLX5_CAP_FLOW_TABLE, CapMode::kCurrent)),                 \
            flow_table_properties_nic_receive.field)

/// Own or no vport only: there is no e-switch to manage others with.
template <typename Get> bool foreign_vport(Get other_vport) { return other_vport != 0; }

CommandStatus create_flow_table(Core &core, const Command &cmd) {
    const ConstBytes ctx = IFC_AT(create_flow_table_in, cmd.in, flow_table_context);
    const unsigned type = IFC_GET(create_flow_table_in, cmd.in, table_type);
    if (type != kNicReceive || cmd.op_mod != 0 ||
        foreign_vport(IFC_GET(create_flow_table_in, cmd.in, other_vport)))
        return bad_param(0x400);
    const unsigned log_size = IFC_GET(flow_table_context, ctx, log_size);
    const unsigned level = IFC_GET(flow_table_context, ctx, level);
    const unsigned miss = IFC_GET(flow_table_context, ctx, table_miss_action);
    if (IFC_GET(flow_table_context, ctx, reformat_en) != 0 ||
        IFC_GET(flow_table_context, ctx, decap_en) != 0 ||
        IFC_GET(flow_table_context, ctx, sw_owner) != 0 ||
        IFC_GET(flow_table_context, ctx, termination_table) != 0 ||
        miss > MLX5_FLOW_TABLE_MISS_ACTION_FWD)
        return bad_param(0x401);
    if (log_size > NIC_RECEIVE_CAP(core, log_max_ft_size) ||
        level > NIC_RECEIVE_CAP(core, max_ft_level))
        return limit_exceeded(0x402);
    FlowTable *next = nullptr;
    if (miss == MLX5_FLOW_TABLE_MISS_ACTION_FWD) {
        next = core.steering.find(type, IFC_GET(flow_table_context, ctx, table_miss_id));
        if (next == nullptr)
            return bad_resource(0x403);
    }
    FlowTable *table = core.flow_tables.create();
    if (table == nullptr)
        return no_resources(0x404);
    table->type = type;
    table->level = level;
    table->log_size = log_size;
    table->miss_action = miss;
    if (next != nullptr) {
        table->miss_table = next->id;
        ++next->refs;
    }
    IFC_SET(create_flow_table_out, cmd.out, table_id, table->id);
    core.pages.object_created();
    return kOk;
}

CommandStatus destroy_flow_table(Core &core, const Command &cmd) {
    FlowTable *table = core.steering.find(IFC_GET(destroy_flow_table_in, cmd.in, table_type),
                                          IFC_GET(destroy_flow_table_in, cmd.in, table_id));
    if (table == nullptr)
        return bad_index(0x405);
    if (!table->groups.empty())
        return busy(0x406);
    return destroy_object(core, core.flow_tables, table->id, 0x405, 0x406, [&core](FlowTable &t) {
        core.flow_tables.release(t.miss_table);
        if (core.steering.root(t.type) == t.id)
            core.steering.set_root(t.type, std::nullopt);
    });
}

CommandStatus modify_flow_table(Core &core, const Command &cmd) {
    constexpr unsigned kMissTable = 1;
    FlowTable *table = core.steering.find(IFC_GET(modify_flow_table_in, cmd.in, table_type),
                                          IFC_GET(modify_flow_table_in, cmd.in, table_id));
    if (table == nullptr)
        return bad_index(0x407);
    if (IFC_GET(modify_flow_table_in, cmd.in, modify_field_select) != kMissTable)
        return bad_param(0x408);
    const ConstBytes ctx = IFC_AT(modify_flow_table_in, cmd.in, flow_table_context);
    const unsigned miss = IFC_GET(flow_table_context, ctx, table_miss_action);
    if (miss > MLX5_FLOW_TABLE_MISS_ACTION_FWD)
        return bad_param(0x409);
    FlowTable *next = nullptr;
    if (miss == MLX5_FLOW_TABLE_MISS_ACTION_FWD) {
        next = core.steering.find(table->type, IFC_GET(flow_table_context, ctx, table_miss_id));
        if (next == nullptr)
            return bad_resource(0x40a);
        ++next->refs;
    }
    core.flow_tables.release(table->miss_table);
    table->miss_action = miss;
    table->miss_table = next != nullptr ? next->id : 0;
    return kOk;
}

CommandStatus query_flow_table(Core &core, const Command &cmd) {
    const FlowTable *table = core.steering.find(IFC_GET(query_flow_table_in, cmd.in, table_type),
                                                IFC_GET(query_flow_table_in, cmd.in, table_id));
    if (table == nullptr)
        return bad_index(0x40b);
    const Bytes ctx = IFC_AT(query_flow_table_out, cmd.out, flow_table_context);
    IFC_SET(flow_table_context, ctx, level, table->level);
    IFC_SET(flow_table_context, ctx, log_size, table->log_size);
    IFC_SET(flow_table_context, ctx, table_miss_action, table->miss_action);
    IFC_SET(flow_table_context, ctx, table_miss_id, table->miss_table);
    return kOk;
}

CommandStatus set_flow_table_root(Core &core, const Command &cmd) {
    constexpr unsigned kDisconnect = 1;
    const unsigned type = IFC_GET(set_flow_table_root_in, cmd.in, table_type);
    if (type != kNicReceive || cmd.op_mod > kDisconnect ||
        foreign_vport(IFC_GET(set_flow_table_root_in, cmd.in, other_vport)))
        return bad_param(0x40c);
    if (cmd.op_mod == kDisconnect) {
        core.steering.set_root(type, std::nullopt);
        return kOk;
    }
    const FlowTable *table =
        core.steering.find(type, IFC_GET(set_flow_table_root_in, cmd.in, table_id));
    if (table == nullptr)
        return bad_index(0x40d);
    core.steering.set_root(type, table->id);
    return kOk;
}

/// The bits of the outer headers that a frame is looked at for: no entry can match on another.
MatchWords known_bits() {
    MatchWords words{};
    const Bytes h(reinterpret_cast<std::uint8_t *>(words.data()), sizeof(words));
#define KNOWN(field) IFC_SET(fte_match_set_lyr_2_4, h, field, ~0U)
    KNOWN(smac_47_16);
    KNOWN(smac_15_0);
    KNOWN(ethertype);
    KNOWN(dmac_47_16);
    KNOWN(dmac_15_0);
    KNOWN(first_prio);
    KNOWN(first_cfi);
    KNOWN(first_vid);
    KNOWN(cvlan_tag);
    KNOWN(svlan_tag);
    KNOWN(ip_version);
    KNOWN(ip_protocol);
    KNOWN(ip_dscp);
    KNOWN(ip_ecn);
    KNOWN(ipv4_ihl);
    KNOWN(ttl_hoplimit);
    KNOWN(frag);
    KNOWN(tcp_flags);
    KNOWN(tcp_sport);
    KNOWN(tcp_dport);
    KNOWN(udp_sport);
    KNOWN(udp_dport);
#undef KNOWN
    std::ranges::fill(IFC_AT(fte_match_set_lyr_2_4, h, src_ipv4_src_ipv6).first(16), 0xff);
    std::ranges::fill(IFC_AT(fte_match_set_lyr_2_4, h, dst_ipv4_dst_ipv6).first(16), 0xff);
    return words;
}

MatchWords outer_headers(ConstBytes match_param) {
    MatchWords words;
    std::memcpy(words.data(), match_param.data() + IFC_BYTE_OFF(fte_match_param, outer_headers),
                sizeof(words));
    return words;
}

MatchWords masked(const MatchWords &value, const MatchWords &mask) {
    MatchWords key;
    for (std::size_t i = 0; i < key.size(); ++i)
        key[i] = value[i] & mask[i];
    return key;
}

/// Takes the mask out of a command. Refused is what no frame could match.
CommandStatus take_mask(ConstBytes criteria, unsigned enable, MatchWords &mask) {
    static const MatchWords kKnown = known_bits();
    // Inner headers, metadata and flex parsers are not advertised.
    if ((enable & ~(MLX5_MATCH_OUTER_HEADERS | MLX5_MATCH_MISC_PARAMETERS)) != 0)
        return bad_param(0x412);
    const ConstBytes misc = IFC_AT(fte_match_param, criteria, misc_parameters)
                                .first(IFC_FIELD_BYTES(fte_match_param, misc_parameters));
    if ((enable & MLX5_MATCH_MISC_PARAMETERS) != 0 &&
        std::ranges::any_of(misc, [](std::uint8_t b) { return b != 0; }))
        return bad_param(0x414);
    mask = {};
    if ((enable & MLX5_MATCH_OUTER_HEADERS) != 0)
        mask = outer_headers(criteria);
    return masked(kKnown, mask) == mask ? kOk : bad_param(0x41a);
}

CommandStatus create_flow_group(Core &core, const Command &cmd) {
    FlowTable *table = core.steering.find(IFC_GET(create_flow_group_in, cmd.in, table_type),
                                          IFC_GET(create_flow_group_in, cmd.in, table_id));
    if (table == nullptr)
        return bad_index(0x410);
    FlowGroup group;
    group.start = IFC_GET(create_flow_group_in, cmd.in, start_flow_index);
    group.end = IFC_GET(create_flow_group_in, cmd.in, end_flow_index);
    group.criteria_enable = IFC_GET(create_flow_group_in, cmd.in, match_criteria_enable);
    if (IFC_GET(create_flow_group_in, cmd.in, group_type) != 0 || group.start > group.end ||
        group.end >= 1U << table->log_size)
        return bad_param(0x411);
    if (auto st = take_mask(IFC_AT(create_flow_group_in, cmd.in, match_criteria),
                            group.criteria_enable, group.mask);
        !st.ok())
        return st;
    const auto after = table->groups.upper_bound(group.end);
    if (after != table->groups.begin() && std::prev(after)->second.end >= group.start)
        return bad_param(0x413);
    if (table->matchers.size() >= kMaxMasks && !table->matchers.contains(group.mask))
        return no_resources(0x41b);
    if (!core.take_memory(sizeof(group) + sizeof(Matcher), group.share))
        return no_resources(0x419);
    group.matcher = &table->matchers[group.mask];
    ++group.matcher->groups;
    IFC_SET(create_flow_group_out, cmd.out, group_id, group.start);
    const std::uint32_t start = group.start;
    table->groups.emplace(start, std::move(group));
    return kOk;
}

FlowGroup *find_group(FlowTable &table, std::uint32_t id) {
    auto it = table.groups.find(id);
    return it == table.groups.end() ? nullptr : &it->second;
}

CommandStatus destroy_flow_group(Core &core, const Command &cmd) {
    FlowTable *table = core.steering.find(IFC_GET(destroy_flow_group_in, cmd.in, table_type),
                                          IFC_GET(destroy_flow_group_in, cmd.in, table_id));
    if (table == nullptr)
        return bad_index(0x41c);
    const FlowGroup *group = find_group(*table, IFC_GET(destroy_flow_group_in, cmd.in, group_id));
    if (group == nullptr)
        return bad_index(0x415);
    if (group->entries != 0)
        return busy(0x416);
    if (--group->matcher->groups == 0)
        table->matchers.erase(group->mask);
    table->groups.erase(group->start);
    return kOk;
}

CommandStatus query_flow_group(Core &core, const Command &cmd) {
    FlowTable *table = core.steering.find(IFC_GET(query_flow_group_in, cmd.in, table_type),
                                          IFC_GET(query_flow_group_in, cmd.in, table_id));
    if (table == nullptr)
        return bad_index(0x417);
    const FlowGroup *group = find_group(*table, IFC_GET(query_flow_group_in, cmd.in, group_id));
    if (group == nullptr)
        return bad_index(0x418);
    IFC_SET(query_flow_group_out, cmd.out, start_flow_index, group->start);
    IFC_SET(query_flow_group_out, cmd.out, end_flow_index, group->end);
    IFC_SET(query_flow_group_out, cmd.out, match_criteria_enable, group->criteria_enable);
    const Bytes criteria = IFC_AT(query_flow_group_out, cmd.out, match_criteria);
    std::memcpy(criteria.data() + IFC_BYTE_OFF(fte_match_param, outer_headers), group->mask.data(),
                sizeof(group->mask));
    return kOk;
}

/// The entry of this group with this value, if there is one.
const std::uint32_t *find_flow(const FlowGroup &group, const MatchWords &key) {
    const auto same = group.matcher->flows.find(key);
    if (same == group.matcher->flows.end())
        return nullptr;
    const auto it = same->second.lower_bound(group.start);
    return it == same->second.end() || *it > group.end ? nullptr : &*it;
}

void add_flow(FlowGroup &group, const Fte &fte) {
    group.matcher->flows[fte.key].insert(fte.index);
    ++group.entries;
}

void remove_flow(FlowGroup &group, const Fte &fte) {
    const auto same = group.matcher->flows.find(fte.key);
    same->second.erase(fte.index);
    if (same->second.empty())
        group.matcher->flows.erase(same);
    --group.entries;
}

void reference_destinations(Core &core, const Fte &fte, int by) {
    for (const FlowDestination &d : fte.destinations) {
        if (d.type == MLX5_IFC_FLOW_DESTINATION_TYPE_FLOW_TABLE) {
            if (FlowTable *next = core.flow_tables.find(d.id))
                next->refs += by;
        } else if (Tir *tir = core.tirs.find(d.id)) {
            tir->refs += by;
        }
    }
    for (std::uint32_t id : fte.counters)
        if (FlowCounter *c = core.flow_counters.find(id))
            c->refs += by;
}

CommandStatus take_destinations(Core &core, const FlowTable &table, ConstBytes ctx, Fte &fte) {
    const std::size_t count = IFC_GET(flow_context, ctx, destination_list_size);
    const std::size_t counters = IFC_GET(flow_context, ctx, flow_counter_list_size);
    constexpr std::size_t kStride = IFC_BYTES(dest_format_struct);
    if (count > 1U << NIC_RECEIVE_CAP(core, log_max_destination) ||
        counters > 1U << NIC_RECEIVE_CAP(core, log_max_flow_counter))
        return limit_exceeded(0x42d);
    ConstBytes list = IFC_AT(flow_context, ctx, destination);
    if (list.size() / kStride < count + counters)
        return bad_input_length(0x420);
    fte.context.assign(ctx.begin(),
                       list.begin() + static_cast<std::ptrdiff_t>((count + counters) * kStride));
    for (std::size_t i = 0; i < count; ++i, list = list.subspan(kStride)) {
        const FlowDestination d{IFC_GET(dest_format_struct, list, destination_type),
                                IFC_GET(dest_format_struct, list, destination_id)};
        if (d.type == MLX5_IFC_FLOW_DESTINATION_TYPE_FLOW_TABLE) {
            // Levels only rise, so no frame can go in circles.
            const FlowTable *next = core.steering.find(table.type, d.id);
            if (next == nullptr)
                return bad_resource(0x421);
            if (next->level <= table.level)
                return bad_param(0x422);
        } else if (d.type == MLX5_IFC_FLOW_DESTINATION_TYPE_TIR) {
            if (core.tirs.find(d.id) == nullptr)
                return bad_resource(0x423);
        } else {
            return bad_param(0x424);
        }
        fte.destinations.push_back(d);
    }
    for (std::size_t i = 0; i < counters; ++i, list = list.subspan(kStride)) {
        const std::uint32_t id = IFC_GET(flow_counter_list, list, flow_counter_id);
        if (core.flow_counters.find(id) == nullptr)
            return bad_resource(0x425);
        fte.counters.push_back(id);
    }
    return kOk;
}

CommandStatus set_fte(Core &core, const Command &cmd) {
    constexpr unsigned kModify = 1;
    FlowTable *table = core.steering.find(IFC_GET(set_fte_in, cmd.in, table_type),
                                          IFC_GET(set_fte_in, cmd.in, table_id));
    if (table == nullptr)
        return bad_index(0x426);
    if (cmd.op_mod > kModify)
        return bad_param(0x427);
    const ConstBytes ctx = IFC_AT(set_fte_in, cmd.in, flow_context);
    FlowGroup *group = find_group(*table, IFC_GET(flow_context, ctx, group_id));
    const std::uint32_t index = IFC_GET(set_fte_in, cmd.in, flow_index);
    if (group == nullptr || index < group->start || index > group->end)
        return bad_index(0x428);
    Fte fte;
    fte.index = index;
    fte.group = group->start;
    fte.flow_tag = IFC_GET(flow_context, ctx, flow_tag);
    fte.action = IFC_GET(flow_context, ctx, action);
    if ((fte.action & ~kSupportedActions) != 0 ||
        IFC_GET(flow_context, ctx, extended_destination) != 0)
        return bad_param(0x429);
    if (auto st = take_destinations(core, *table, ctx, fte); !st.ok())
        return st;
    fte.key = masked(outer_headers(IFC_AT(flow_context, ctx, match_value)), group->mask);

    auto old = table->entries.find(index);
    if (old != table->entries.end()) {
        if (old->second.group != group->start)
            return bad_state(0x42a);
        // A change keeps the match value; only what happens on a match is new.
        if (cmd.op_mod == kModify)
            fte.key = old->second.key;
    } else if (cmd.op_mod == kModify) {
        return bad_index(0x42b);
    }
    const std::uint32_t *twin = find_flow(*group, fte.key);
    if (twin != nullptr && *twin != index)
        return bad_param(0x42c);
    // The key is kept twice.
    if (!core.take_memory(sizeof(fte) + sizeof(fte.key) + fte.context.size() +
                              fte.destinations.size() * sizeof(FlowDestination),
                          fte.share))
        return no_resources(0x431);
    reference_destinations(core, fte, 1);
    if (old != table->entries.end()) {
        reference_destinations(core, old->second, -1);
        remove_flow(*group, old->second);
    }
    add_flow(*group, fte);
    table->entries[index] = std::move(fte);
    return kOk;
}

CommandStatus delete_fte(Core &core, const Command &cmd) {
    FlowTable *table = core.steering.find(IFC_GET(delete_fte_in, cmd.in, table_type),
                                          IFC_GET(delete_fte_in, cmd.in, table_id));
    if (table == nullptr)
        return bad_index(0x432);
    auto it = table->entries.find(IFC_GET(delete_fte_in, cmd.in, flow_index));
    if (it == table->entries.end())
        return bad_index(0x42e);
    reference_destinations(core, it->second, -1);
    if (FlowGroup *group = find_group(*table, it->second.group))
        remove_flow(*group, it->second);
    table->entries.erase(it);
    return kOk;
}

CommandStatus query_fte(Core &core, const Command &cmd) {
    FlowTable *table = core.steering.find(IFC_GET(query_fte_in, cmd.in, table_type),
                                          IFC_GET(query_fte_in, cmd.in, table_id));
    if (table == nullptr)
        return bad_index(0x42f);
    auto it = table->entries.find(IFC_GET(query_fte_in, cmd.in, flow_index));
    if (it == table->entries.end())
        return bad_index(0x430);
    const Bytes ctx = IFC_AT(query_fte_out, cmd.out, flow_context);
    std::memcpy(ctx.data(), it->second.context.data(),
                std::min(ctx.size(), it->second.context.size()));
    return kOk;
}

CommandStatus alloc_flow_counter(Core &core, const Command &cmd) {
    if (IFC_GET(alloc_flow_counter_in, cmd.in, flow_counter_bulk) != 0 ||
        IFC_GET(alloc_flow_counter_in, cmd.in, flow_counter_bulk_log_size) != 0)
        return bad_param(0x440);
    FlowCounter *counter = core.flow_counters.create();
    if (counter == nullptr)
        return no_resources(0x441);
    IFC_SET(alloc_flow_counter_out, cmd.out, flow_counter_id, counter->id);
    return kOk;
}

CommandStatus dealloc_flow_counter(Core &core, const Command &cmd) {
    return destroy_object(core, core.flow_counters,
                          IFC_GET(dealloc_flow_counter_in, cmd.in, flow_counter_id), 0x442, 0x443,
                          [](FlowCounter &) {});
}

CommandStatus query_flow_counter(Core &core, const Command &cmd) {
    FlowCounter *counter =
        core.flow_counters.find(IFC_GET(query_flow_counter_in, cmd.in, flow_counter_id));
    if (counter == nullptr)
        return bad_index(0x444);
    if (IFC_GET(query_flow_counter_in, cmd.in, num_of_counters) > 1)
        return bad_param(0x445);
    const Bytes stats = IFC_AT(query_flow_counter_out, cmd.out, flow_statistics);
    if (stats.size() < IFC_BYTES(traffic_counter))
        return bad_output_length(0x446);
    IFC_SET64(traffic_counter, stats, packets, counter->packets);
    IFC_SET64(traffic_counter, stats, octets, counter->bytes);
    if (IFC_GET(query_flow_counter_in, cmd.in, clear) != 0) {
        counter->packets = 0;
        counter->bytes = 0;
    }
    return kOk;
}

/// The frame's own header fields in the shape of match parameters; what is added here has to be
/// added to known_bits().
void fill_match_value(ConstBytes frame, const PacketInfo &info, MatchWords &value) {
    value.fill(0);
    const Bytes h(reinterpret_cast<std::uint8_t *>(value.data()), sizeof(value));
#define SET(field, v) IFC_SET(fte_match_set_lyr_2_4, h, field, v)
    const std::uint8_t *p = frame.data();
    SET(dmac_47_16, load_be<std::uint32_t>(p));
    SET(dmac_15_0, load_be<std::uint16_t>(p + 4));
    SET(smac_47_16, load_be<std::uint32_t>(p + 6));
    SET(smac_15_0, load_be<std::uint16_t>(p + 10));
    SET(ethertype, info.ethertype);
    if (info.vlan) {
        SET(cvlan_tag, info.svlan ? 0 : 1);
        SET(svlan_tag, info.svlan ? 1 : 0);
        SET(first_prio, info.vlan_tci >> 13);
        SET(first_cfi, info.vlan_tci >> 12 & 1);
        SET(first_vid, info.vlan_tci & 0xfff);
    }
    if (info.ip_version == 0)
        return;
    const std::uint8_t *l3 = p + info.l3_offset;
    SET(ip_version, info.ip_version);
    SET(ip_protocol, info.ip_protocol);
    SET(frag, info.fragment);
    const Bytes src = IFC_AT(fte_match_set_lyr_2_4, h, src_ipv4_src_ipv6);
    const Bytes dst = IFC_AT(fte_match_set_lyr_2_4, h, dst_ipv4_dst_ipv6);
    if (info.ip_version == 4) {
        SET(ip_dscp, l3[1] >> 2);
        SET(ip_ecn, l3[1] & 3);
        SET(ipv4_ihl, l3[0] & 0xf);
        SET(ttl_hoplimit, l3[8]);
        std::memcpy(src.data() + 12, l3 + 12, 4);
        std::memcpy(dst.data() + 12, l3 + 16, 4);
    } else {
        const unsigned tclass = (l3[0] << 4 | l3[1] >> 4) & 0xff;
        SET(ip_dscp, tclass >> 2);
        SET(ip_ecn, tclass & 3);
        SET(ttl_hoplimit, l3[7]);
        std::memcpy(src.data(), l3 + 8, 16);
        std::memcpy(dst.data(), l3 + 24, 16);
    }
    if (info.l4_offset == 0)
        return;
    const std::uint8_t *l4 = p + info.l4_offset;
    if (info.is_tcp()) {
        SET(tcp_sport, load_be<std::uint16_t>(l4));
        SET(tcp_dport, load_be<std::uint16_t>(l4 + 2));
        SET(tcp_flags, load_be<std::uint16_t>(l4 + 12) & 0x1ff);
    } else if (info.is_udp()) {
        SET(udp_sport, load_be<std::uint16_t>(l4));
        SET(udp_dport, load_be<std::uint16_t>(l4 + 2));
    }
#undef SET
}

} // namespace

FlowTable *Steering::find(unsigned type, std::uint32_t id) {
    FlowTable *table = core_.flow_tables.find(id);
    return table != nullptr && table->type == type ? table : nullptr;
}

std::optional<std::uint32_t> Steering::root(unsigned type) const {
    auto it = roots_.find(type);
    return it == roots_.end() ? std::nullopt : std::optional(it->second);
}

void Steering::set_root(unsigned type, std::optional<std::uint32_t> table) {
    if (table)
        roots_[type] = *table;
    else
        roots_.erase(type);
}

const Fte *Steering::match(const FlowTable &table, const MatchWords &value, unsigned &searches) {
    const std::uint32_t *first = nullptr;
    for (const auto &[mask, matcher] : table.matchers) {
        if (searches == 0)
            return nullptr;
        --searches;
        core_.work.charge(2 + std::bit_width(matcher.flows.size()));
        const auto same = matcher.flows.find(masked(value, mask));
        // A lower index goes before, in the order of groups too.
        if (same != matcher.flows.end() && (first == nullptr || *same->second.begin() < *first))
            first = &*same->second.begin();
    }
    return first == nullptr ? nullptr : &table.entries.at(*first);
}

SteeringVerdict Steering::steer(ConstBytes frame, const PacketInfo &info) {
    SteeringVerdict verdict;
    MatchWords value;
    fill_match_value(frame, info, value);

    std::vector<std::uint32_t> todo;
    if (auto first = root(kNicReceive))
        todo.push_back(*first);
    unsigned searches = kMaxSearches;
    for (unsigned hops = 0; !todo.empty() && hops < kMaxHops; ++hops) {
        const FlowTable *table = core_.flow_tables.find(todo.back());
        todo.pop_back();
        if (table == nullptr)
            continue;
        const Fte *hit = match(*table, value, searches);
        if (searches == 0)
            return verdict; // the frame is given up
        if (hit == nullptr) {
            if (table->miss_action == MLX5_FLOW_TABLE_MISS_ACTION_FWD)
                todo.push_back(table->miss_table);
            continue;
        }
        verdict.counters.insert(verdict.counters.end(), hit->counters.begin(), hit->counters.end());
        if ((hit->action & MLX5_FLOW_CONTEXT_ACTION_DROP) != 0) {
            verdict.dropped = true;
            continue;
        }
        if ((hit->action & MLX5_FLOW_CONTEXT_ACTION_FWD_DEST) == 0)
            continue;
        verdict.flow_tag = hit->flow_tag;
        core_.work.charge(hit->destinations.size());
        for (const FlowDestination &d : hit->destinations) {
            if (d.type == MLX5_IFC_FLOW_DESTINATION_TYPE_FLOW_TABLE)
                todo.push_back(d.id);
            else if (verdict.tirns.size() < kMaxCopies)
                verdict.tirns.push_back(d.id);
        }
    }
    return verdict;
}

void register_steering_commands(CommandTable &t) {
    using enum CommandStage;
#define ADD(op, name)                                                                              \
    t[MLX5_CMD_OP_##op] = {#op, IFC_BYTES(name##_in), IFC_BYTES(name##_out), kHcaInitialized, name}
    ADD(CREATE_FLOW_TABLE, create_flow_table);
    ADD(DESTROY_FLOW_TABLE, destroy_flow_table);
    ADD(MODIFY_FLOW_TABLE, modify_flow_table);
    ADD(QUERY_FLOW_TABLE, query_flow_table);
    ADD(SET_FLOW_TABLE_ROOT, set_flow_table_root);
    ADD(CREATE_FLOW_GROUP, create_flow_group);
    ADD(DESTROY_FLOW_GROUP, destroy_flow_group);
    ADD(QUERY_FLOW_GROUP, query_flow_group);
    ADD(SET_FLOW_TABLE_ENTRY, set_fte);
    ADD(DELETE_FLOW_TABLE_ENTRY, delete_fte);
    ADD(QUERY_FLOW_TABLE_ENTRY, query_fte);
    ADD(ALLOC_FLOW_COUNTER, alloc_flow_counter);
    ADD(DEALLOC_FLOW_COUNTER, dealloc_flow_counter);
    ADD(QUERY_FLOW_COUNTER, query_flow_counter);
#undef ADD
}

} // namespace connectx
