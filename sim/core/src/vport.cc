// SPDX-License-Identifier: GPL-2.0
//
// The function's own vport: NIC context, state, counters, diagnostics, L2 table.
#include "core.h"

namespace connectx {

namespace {

/// Only the function's own vport exists.
bool foreign(ConstBytes in) {
    return IFC_GET(query_nic_vport_context_in, in, other_vport) != 0 &&
           IFC_GET(query_nic_vport_context_in, in, vport_number) != 0;
}

constexpr std::size_t kAddressEntry = 8; ///< a list entry: two bytes of padding, six of address

void put_mac(Bytes entry, const std::array<std::uint8_t, 6> &mac) {
    std::copy(mac.begin(), mac.end(), entry.begin() + 2);
}

std::array<std::uint8_t, 6> get_mac(ConstBytes entry) {
    std::array<std::uint8_t, 6> mac{};
    std::copy_n(entry.begin() + 2, mac.size(), mac.begin());
    return mac;
}

CommandStatus query_nic_vport_context(Core &core, const Command &cmd) {
    if (foreign(cmd.in))
        return bad_param(0x500);
    const Vport &v = core.vport;
    const unsigned type = IFC_GET(query_nic_vport_context_in, cmd.in, allowed_list_type);
    if (type > MLX5_NVPRT_LIST_TYPE_VLAN)
        return bad_param(0x501);
    const Bytes ctx = IFC_AT(query_nic_vport_context_out, cmd.out, nic_vport_context);
#define SET(field, value) IFC_SET(nic_vport_context, ctx, field, (value))
    SET(min_wqe_inline_mode, v.min_inline);
    SET(disable_uc_local_lb, v.disable_uc_lb);
    SET(disable_mc_local_lb, v.disable_mc_lb);
    SET(mtu, v.mtu);
    SET(promisc_uc, v.promisc_uc);
    SET(promisc_mc, v.promisc_mc);
    SET(promisc_all, v.promisc_all);
    SET(allowed_list_type, type);
#undef SET
    // EUI-64 from the MAC, as the adapters do it.
    const auto &m = core.config.mac;
    const std::uint64_t guid = static_cast<std::uint64_t>(m[0]) << 56 |
                               static_cast<std::uint64_t>(m[1]) << 48 |
                               static_cast<std::uint64_t>(m[2]) << 40 | 0x0300ULL << 24 |
                               static_cast<std::uint64_t>(m[3]) << 16 | m[4] << 8 | m[5];
    IFC_SET64(nic_vport_context, ctx, system_image_guid, guid);
    IFC_SET64(nic_vport_context, ctx, port_guid, guid);
    IFC_SET64(nic_vport_context, ctx, node_guid, guid);
    put_mac(IFC_AT(nic_vport_context, ctx, permanent_address), v.permanent_mac);

    Bytes list = IFC_AT(nic_vport_context, ctx, current_uc_mac_address);
    std::size_t count = 0;
    if (type == MLX5_NVPRT_LIST_TYPE_VLAN) {
        for (std::uint16_t vid : v.vlan_list) {
            if (list.size() < kAddressEntry / 2)
                break;
            store_be<std::uint32_t>(list.data(), vid);
            list = list.subspan(4);
            ++count;
        }
    } else {
        for (const auto &mac : type == MLX5_NVPRT_LIST_TYPE_UC ? v.uc_list : v.mc_list) {
            if (list.size() < kAddressEntry)
                break;
            put_mac(list, mac);
            list = list.subspan(kAddressEntry);
            ++count;
        }
    }
    IFC_SET(nic_vport_context, ctx, allowed_list_size, count);
    return kOk;
}

CommandStatus modify_nic_vport_context(Core &core, const Command &cmd) {
    if (IFC_GET(modify_nic_vport_context_in, cmd.in, other_vport) != 0 &&
        IFC_GET(modify_nic_vport_context_in, cmd.in, vport_number) != 0)
        return bad_param(0x502);
    Vport next = core.vport;
    const ConstBytes ctx = IFC_AT(modify_nic_vport_context_in, cmd.in, nic_vport_context);
#define SELECTED(field) (IFC_GET(modify_nic_vport_context_in, cmd.in, field_select.field) != 0)
#define GET(field) IFC_GET(nic_vport_context, ctx, field)
    if (SELECTED(roce_en) && GET(roce_en) != 0)
        return bad_param(0x503);
    if (SELECTED(affiliation) || SELECTED(node_guid) || SELECTED(port_guid))
        return bad_param(0x504);
    if (SELECTED(disable_uc_local_lb))
        next.disable_uc_lb = GET(disable_uc_local_lb) != 0;
    if (SELECTED(disable_mc_local_lb))
        next.disable_mc_lb = GET(disable_mc_local_lb) != 0;
    if (SELECTED(min_inline))
        next.min_inline = GET(min_wqe_inline_mode);
    if (SELECTED(mtu)) {
        if (GET(mtu) > Port::kMaxMtu)
            return bad_param(0x505);
        next.mtu = GET(mtu);
    }
    if (SELECTED(promisc)) {
        next.promisc_uc = GET(promisc_uc) != 0;
        next.promisc_mc = GET(promisc_mc) != 0;
        next.promisc_all = GET(promisc_all) != 0;
    }
    if (SELECTED(permanent_address))
        next.permanent_mac = get_mac(IFC_AT(nic_vport_context, ctx, permanent_address));
    if (SELECTED(addresses_list)) {
        const unsigned type = GET(allowed_list_type);
        const std::size_t count = GET(allowed_list_size);
        ConstBytes list = IFC_AT(nic_vport_context, ctx, current_uc_mac_address);
        const ConstBytes gen = core.caps.general();
        if (type == MLX5_NVPRT_LIST_TYPE_VLAN) {
            if (count > 1U << IFC_GET(cmd_hca_cap, gen, log_max_vlan_list))
                return limit_exceeded(0x506);
            if (list.size() / 4 < count)
                return bad_input_length(0x507);
            next.vlan_list.clear();
            for (std::size_t i = 0; i < count; ++i)
                next.vlan_list.push_back(load_be<std::uint32_t>(list.data() + i * 4) & 0xfff);
        } else if (type == MLX5_NVPRT_LIST_TYPE_UC || type == MLX5_NVPRT_LIST_TYPE_MC) {
            const bool uc = type == MLX5_NVPRT_LIST_TYPE_UC;
            const unsigned log_max = uc ? IFC_GET(cmd_hca_cap, gen, log_max_current_uc_list)
                                        : IFC_GET(cmd_hca_cap, gen, log_max_current_mc_list);
            if (count > 1U << log_max)
                return limit_exceeded(0x508);
            if (list.size() / kAddressEntry < count)
                return bad_input_length(0x509);
            auto &macs = uc ? next.uc_list : next.mc_list;
            macs.clear();
            for (std::size_t i = 0; i < count; ++i, list = list.subspan(kAddressEntry))
                macs.push_back(get_mac(list));
        } else {
            return bad_param(0x50a);
        }
    }
#undef GET
#undef SELECTED
    core.vport = next;
    return kOk;
}

CommandStatus query_vport_state(Core &core, const Command &cmd) {
    if (IFC_GET(query_vport_state_in, cmd.in, vport_number) != 0)
        return bad_param(0x510);
    constexpr unsigned kUplink = 2;
    if (cmd.op_mod > kUplink)
        return bad_param(0x511);
    IFC_SET(query_vport_state_out, cmd.out, admin_state, core.vport.admin_state);
    const bool up = core.port.up() && core.vport.admin_state != MLX5_VPORT_ADMIN_STATE_DOWN;
    IFC_SET(query_vport_state_out, cmd.out, state, up ? VPORT_STATE_UP : VPORT_STATE_DOWN);
    return kOk;
}

CommandStatus modify_vport_state(Core &core, const Command &cmd) {
    const unsigned state = IFC_GET(modify_vport_state_in, cmd.in, admin_state);
    if (IFC_GET(modify_vport_state_in, cmd.in, vport_number) != 0 ||
        state > MLX5_VPORT_ADMIN_STATE_AUTO)
        return bad_param(0x512);
    core.vport.admin_state = state;
    return kOk;
}

CommandStatus query_vport_counter(Core &core, const Command &cmd) {
    if (IFC_GET(query_vport_counter_in, cmd.in, other_vport) != 0 &&
        IFC_GET(query_vport_counter_in, cmd.in, vport_number) != 0)
        return bad_param(0x513);
    Vport &v = core.vport;
// NOLINTBEGIN(bugprone-macro-parentheses): a member is named, which parentheses cannot enclose
#define PUT(field, counter)                                                                        \
    IFC_SET64(query_vport_counter_out, cmd.out, field.packets, (counter).packets);                 \
    IFC_SET64(query_vport_counter_out, cmd.out, field.octets, (counter).octets)
    // NOLINTEND(bugprone-macro-parentheses)
    PUT(received_errors, v.rx_errors);
    PUT(transmit_errors, v.tx_errors);
    PUT(received_eth_unicast, v.rx_uc);
    PUT(received_eth_multicast, v.rx_mc);
    PUT(received_eth_broadcast, v.rx_bc);
    PUT(transmitted_eth_unicast, v.tx_uc);
    PUT(transmitted_eth_multicast, v.tx_mc);
    PUT(transmitted_eth_broadcast, v.tx_bc);
    PUT(local_loopback, v.local_loopback);
#undef PUT
    if (IFC_GET(query_vport_counter_in, cmd.in, clear) != 0) {
        v.rx_errors = v.tx_errors = v.rx_uc = v.rx_mc = v.rx_bc = v.tx_uc = v.tx_mc = v.tx_bc =
            v.local_loopback = {};
    }
    return kOk;
}

CommandStatus query_vnic_env(Core &core, const Command &cmd) {
    if (IFC_GET(query_vnic_env_in, cmd.in, vport_number) != 0)
        return bad_param(0x514);
    IFC_SET64(query_vnic_env_out, cmd.out, vport_env.nic_receive_steering_discard,
              core.vport.rx_steer_missed);
    return kOk;
}

} // namespace

void register_vport_commands(CommandTable &t) {
    using enum CommandStage;
#define ADD(op, name)                                                                              \
    t[MLX5_CMD_OP_##op] = {#op, IFC_BYTES(name##_in), IFC_BYTES(name##_out), kHcaEnabled, name}
    ADD(QUERY_NIC_VPORT_CONTEXT, query_nic_vport_context);
    ADD(MODIFY_NIC_VPORT_CONTEXT, modify_nic_vport_context);
    ADD(QUERY_VPORT_STATE, query_vport_state);
    ADD(MODIFY_VPORT_STATE, modify_vport_state);
    ADD(QUERY_VPORT_COUNTER, query_vport_counter);
    ADD(QUERY_VNIC_ENV, query_vnic_env);
#undef ADD
}

} // namespace connectx
