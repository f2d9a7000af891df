// SPDX-License-Identifier: GPL-2.0
//
// Flow tables, groups and entries of any shape, and frames through them: what the model finds is
// what going through all entries one by one finds.
#include "target.h"

namespace connectx::fuzz {

namespace {

using Match = std::array<std::uint8_t, IFC_BYTES(fte_match_param)>;

/// As the driver that made them remembers.
struct Entry {
    unsigned index = 0;
    Match mask{};
    Match value{};
    std::vector<std::uint32_t> tirs;
    bool drop = false;
};

/// What the header fields of an IPv4 or IPv6 frame of ours are, put together from the flow, not
/// from the frame.
Match fields_of(const test::Flow &flow) {
    Match m{};
    const Bytes h = IFC_AT(fte_match_param, Bytes(m), outer_headers);
#define SET(field, v) IFC_SET(fte_match_set_lyr_2_4, h, field, v)
    SET(dmac_47_16, 0x02000000);
    SET(dmac_15_0, 0x0002);
    SET(smac_47_16, 0x02000000);
    SET(smac_15_0, 0x0001);
    SET(ethertype, flow.v6 ? 0x86dd : 0x0800);
    SET(ip_version, flow.v6 ? 6 : 4);
    SET(ip_protocol, flow.tcp ? 6 : 17);
    if (flow.tcp) {
        SET(tcp_sport, flow.sport);
        SET(tcp_dport, flow.dport);
    } else {
        SET(udp_sport, flow.sport);
        SET(udp_dport, flow.dport);
    }
#undef SET
    return m;
}

/// Bits of the parameters that fields_of() fills: a rule that matches on others is not judged.
Match known_fields() {
    Match m{};
    const Bytes h = IFC_AT(fte_match_param, Bytes(m), outer_headers);
#define ALL(field) IFC_SET(fte_match_set_lyr_2_4, h, field, ~0U)
    ALL(dmac_47_16);
    ALL(dmac_15_0);
    ALL(smac_47_16);
    ALL(smac_15_0);
    ALL(ethertype);
    ALL(ip_version);
    ALL(ip_protocol);
    ALL(tcp_sport);
    ALL(tcp_dport);
    ALL(udp_sport);
    ALL(udp_dport);
#undef ALL
    return m;
}

bool matches(const Entry &e, const Match &frame) {
    for (std::size_t i = 0; i < frame.size(); ++i)
        if ((frame[i] & e.mask[i]) != (e.value[i] & e.mask[i]))
            return false;
    return true;
}

test::Flow flow_of(Input &in) {
    const std::uint8_t b = in.u8();
    return {.v6 = (b & 1) != 0,
            .tcp = (b & 2) != 0,
            .sport = 1000U + (b >> 2 & 3),
            .dport = 2000U + (b >> 4 & 3)};
}

/// A mask or a value: a few of the fields, each as a frame could have it or as none has.
Match part(Input &in, bool mask) {
    static const Match known = known_fields();
    Match m{};
    if (mask) {
        for (unsigned n = in.u8() % 6; n > 0; --n) {
            const std::size_t at = in.below(64);
            m[at] = in.u8() & known[at];
        }
        return m;
    }
    m = fields_of(flow_of(in));
    for (unsigned n = in.u8() % 3; n > 0; --n)
        m[in.below(64)] = in.u8();
    return m;
}

} // namespace

void run(Input in) {
    Channel c;
    const std::array<std::uint32_t, 3> tirs{c.tir, c.d.create_tir(c.rq.id),
                                            c.d.create_tir(c.rq.id)};
    constexpr unsigned kGroups = 4;
    constexpr unsigned kPerGroup = 8;
    const std::uint32_t table = c.d.create_table(2, 5);
    std::vector<Entry> entries;
    for (unsigned g = 0; g < kGroups && !in.empty(); ++g) {
        const Match mask = part(in, true);
        auto group = c.d.group_request(table, g * kPerGroup, (g + 1) * kPerGroup - 1, {});
        IFC_SET(create_flow_group_in, Bytes(group), match_criteria_enable,
                MLX5_MATCH_OUTER_HEADERS);
        std::copy(mask.begin(), mask.end(),
                  IFC_AT(create_flow_group_in, Bytes(group), match_criteria).begin());
        const test::Reply made = c.d.command(group, IFC_BYTES(create_flow_group_out));
        require(made.ok(), "groups that do not overlap can be made");
        const std::uint32_t id = IFC_GET(create_flow_group_out, ConstBytes(made.out), group_id);
        for (unsigned n = in.u8() % kPerGroup; n > 0; --n) {
            Entry e;
            e.index = g * kPerGroup + in.below(kPerGroup);
            e.mask = mask;
            e.value = part(in, false);
            e.drop = in.u8() % 8 == 0;
            std::vector<std::pair<unsigned, std::uint32_t>> destinations;
            for (unsigned k = e.drop ? 0 : in.u8() % 3; k > 0; --k)
                e.tirs.push_back(tirs[in.below(tirs.size())]);
            for (std::uint32_t t : e.tirs)
                destinations.emplace_back(MLX5_IFC_FLOW_DESTINATION_TYPE_TIR, t);
            const auto fte = c.d.fte_request(
                table, id, e.index, destinations,
                [&](Bytes value) { std::copy(e.value.begin(), e.value.end(), value.begin()); },
                e.drop ? MLX5_FLOW_CONTEXT_ACTION_DROP : MLX5_FLOW_CONTEXT_ACTION_FWD_DEST);
            if (!c.d.command(fte, IFC_BYTES(set_fte_out)).ok())
                continue; // another entry of the group has that value
            std::erase_if(entries, [&](const Entry &old) { return old.index == e.index; });
            entries.push_back(std::move(e));
        }
        if (in.u8() % 4 == 0 && !entries.empty()) {
            const unsigned index =
                entries[in.below(static_cast<std::uint32_t>(entries.size()))].index;
            auto gone = REQUEST(delete_fte, DELETE_FLOW_TABLE_ENTRY);
            IFC_SET(delete_fte_in, Bytes(gone), table_id, table);
            IFC_SET(delete_fte_in, Bytes(gone), flow_index, index);
            require(c.d.command(gone, IFC_BYTES(delete_fte_out)).ok(), "an entry can be deleted");
            std::erase_if(entries, [&](const Entry &old) { return old.index == index; });
        }
    }
    c.d.set_root(table);

    for (unsigned n = 0; n < 64; ++n) {
        const std::uint8_t bits = static_cast<std::uint8_t>(n);
        Input one(&bits, 1);
        const test::Flow flow = flow_of(one);
        const Frame frame = make_frame(flow, pattern(20));
        const Match fields = fields_of(flow);
        const Entry *hit = nullptr;
        // The group with the lowest index decides; within a group only one entry can match.
        for (const Entry &e : entries)
            if (matches(e, fields) && (hit == nullptr || e.index < hit->index))
                hit = &e;
        const PacketInfo info = parse_packet(frame);
        const SteeringVerdict verdict = c.d.dev.core().steering.steer(frame, info);
        require(verdict.dropped == (hit != nullptr && hit->drop), "dropped as the rules say");
        require(verdict.tirns == (hit == nullptr ? std::vector<std::uint32_t>{} : hit->tirs),
                "delivered as the rules say");
    }
    c.expect_alive();
}

std::vector<std::vector<std::uint8_t>> seeds() {
    return {{1, 4, 0xff, 2, 0, 0, 1, 1, 0, 1},
            {2, 4, 0xff, 5, 0xff, 3, 0, 1, 0, 1, 1, 0, 1, 2, 0, 2, 1, 0, 2, 3},
            {0, 1, 0, 0, 0, 0, 0, 1}};
}

} // namespace connectx::fuzz
