// SPDX-License-Identifier: GPL-2.0
//
// What the device can do. The rule: a capability is set here only if the model does it. Everything
// about RDMA, e-switch, LAG, virtio emulation stays zero. The exceptions are IPsec, MACsec and TLS,
// on request: see fill_crypto().
#include "core.h"

#include <bit>

namespace connectx {

namespace {

void fill_general(Bytes cap, const Config &config) {
    const unsigned log_queues = std::bit_width(std::bit_ceil(config.max_queues)) - 1;
#define SET(field, value) IFC_SET(cmd_hca_cap, cap, field, value)
    SET(port_type, 1); // Ethernet
    SET(num_ports, 1);
    SET(native_port_num, 1);
    SET(vhca_id, 1);
    SET(eth_net_offloads, 1);
    SET(nic_flow_table, 1);
    SET(vport_counters, 1);
    SET(mcam_reg, 1);
    SET(pcam_reg, 1);
    SET(ports_check, 1);
    SET(max_tc, 8);
    SET(cqe_version, 1);
    SET(cmdif_checksum, 3);
    SET(driver_version, 1);
    SET(device_frequency_khz, 1'000'000);
    SET(device_frequency_mhz, 1000);
    SET(fast_teardown, 1);
    SET(force_teardown, 1);
    SET(vnic_env_queue_counters, 1);
    SET(nic_receive_steering_discard, 1);
    SET(disable_local_lb_uc, 1);
    SET(disable_local_lb_mc, 1);
    SET(vport_counter_local_loopback, 1);

    // UARs: one per 4 KiB page, each with two BlueFlame register pairs.
    SET(uar_4k, 1);
    SET(num_of_uars_per_page, 1);
    SET(uar_sz, 5); // log2 of the UAR space in MiB
    SET(bf, 1);
    SET(log_bf_reg_size, kLogBlueFlameSize);

    // Events and completions
    SET(log_max_eq, 7); // more than vectors: several may share one
    SET(log_max_eq_sz, 22);
    SET(log_max_cq, 16);
    SET(log_max_cq_sz, 22);
    SET(cq_oi, 1);
    SET(cq_moderation, 1);
    SET(cq_period_mode_modify, 1);
    SET(cq_period_start_from_cqe, 1);

    // Memory
    SET(log_max_pd, 16);
    SET(log_max_transport_domain, 10);
    SET(log_max_mkey, 18);
    SET(log_max_mrw_sz, 40);
    SET(log_pg_sz, 12);
    SET(log_max_klm_list_size, 18);
    SET(max_indirection, 1);
    SET(umr_ptr_rlky, 1);
    SET(fixed_buffer_size, 1); // keys made of pieces of others (KSM)

    // Work queues
    SET(log_max_qp, 5); // RDMA queue pairs: the smallest the driver's arithmetic accepts
    SET(log_max_qp_sz, 15);
    SET(log_max_sq, log_queues);
    SET(log_max_rq, log_queues);
    SET(log_max_tis, 10);
    SET(log_max_tir, 12);
    SET(log_max_rqt, 12);
    SET(log_max_rqt_size, 11);
    SET(log_max_tis_per_sq, 0);
    SET(log_max_wq_sz, 15);
    SET(log_min_stride_sz_sq, 6);
    SET(log_max_stride_sz_sq, 6);
    SET(log_min_stride_sz_rq, 4);
    SET(log_max_stride_sz_rq, 9);
    SET(max_wqe_sz_sq, 1024);
    SET(max_wqe_sz_sq_dc, 1024);
    SET(max_wqe_sz_rq, 512);
    SET(max_sgl_for_optimized_performance, 30);
    SET(basic_cyclic_rcv_wqe, 1);
    SET(striding_rq, 1);
    SET(ext_stride_num_range, 1);
    SET(start_pad, 1);
    SET(end_pad, 1);
    SET(pad_tx_eth_packet, 1);
    SET(max_qp_cnt, 255);
    SET(modify_rq_counter_set_id, 1);
    SET(ts_cqe_to_dest_cqn, 1);
    SET(hca_cap_2, 1);

    // Vport lists
    SET(log_max_current_uc_list, 7);
    SET(log_max_current_mc_list, 7);
    SET(log_max_vlan_list, 9);

    // Flow counters
    SET(max_flow_counter_15_0, 0xffff);
    SET(log_max_flow_counter_bulk, 0);
#undef SET
}

void fill_general_2(Bytes cap) {
    IFC_SET(cmd_hca_cap_2, cap, ts_cqe_metadata_size2wqe_counter, kLogPortTimestampIds);
    IFC_SET(cmd_hca_cap_2, cap, log_min_mkey_entity_size, kLogMinMkeyEntity);
}

void fill_ethernet(Bytes cap, const Config &config) {
#define SET(field, value) IFC_SET(per_protocol_networking_offload_caps, cap, field, value)
    SET(csum_cap, 1);
    SET(vlan_cap, 1);
    // Adapters that want headers inline want the VLAN tag there, too.
    SET(wqe_vlan_insert, config.min_inline == 0);
    SET(self_lb_en_modifiable, 1);
    SET(max_lso_cap, 18);
    constexpr unsigned kVportContextTells = 1;
    constexpr unsigned kNotRequired = 2;
    SET(wqe_inline_mode, config.min_inline == 0 ? kNotRequired : kVportContextTells);
    if (config.ipsec) {
        SET(swp, 1);
        SET(insert_trailer, 1);
    }
    SET(rss_ind_tbl_cap, 11);
    SET(reg_umr_sq, 1);
    SET(enhanced_multi_pkt_send_wqe, 1);
    // LRO itself is off; the driver reads the periods all the same.
    SET(lro_timer_supported_periods[0], 8);
    SET(lro_timer_supported_periods[1], 16);
    SET(lro_timer_supported_periods[2], 32);
    SET(lro_timer_supported_periods[3], 1024);
#undef SET
}

void fill_flow_table(Bytes cap) {
#define SET(field, value)                                                                          \
    IFC_SET(flow_table_nic_cap, cap, flow_table_properties_nic_receive.field, value)
    IFC_SET(flow_table_nic_cap, cap, nic_rx_multi_path_tirs, 1);
    SET(ft_support, 1);
    SET(flow_counter, 1);
    SET(flow_modify_en, 1);
    SET(modify_root, 1);
    SET(identified_miss_table_mode, 1);
    SET(flow_table_modify, 1);
    SET(reset_root_to_default, 1);
    SET(log_max_ft_size, 16);
    SET(max_ft_level, 200);
    SET(log_max_ft_num, 16);
    SET(log_max_flow_counter, 0);
    SET(log_max_destination, 6);
    SET(log_max_flow, 16);
#define FIELD(field)                                                                               \
    SET(ft_field_support.field, 1);                                                                \
    SET(ft_field_bitmask_support.field, 1)
    FIELD(outer_dmac);
    FIELD(outer_smac);
    FIELD(outer_ether_type);
    FIELD(outer_ip_version);
    FIELD(outer_first_prio);
    FIELD(outer_first_cfi);
    FIELD(outer_first_vid);
    FIELD(outer_ipv4_ttl);
    FIELD(outer_sip);
    FIELD(outer_dip);
    FIELD(outer_frag);
    FIELD(outer_ip_protocol);
    FIELD(outer_ip_ecn);
    FIELD(outer_ip_dscp);
    FIELD(outer_udp_sport);
    FIELD(outer_udp_dport);
    FIELD(outer_tcp_sport);
    FIELD(outer_tcp_dport);
    FIELD(outer_tcp_flags);
#undef FIELD
#undef SET
}

/// What a driver asks for before it prepares its send queues for IPsec, MACsec or TLS. The device
/// knows these offloads, but has no room for their keys: creating one ends in NO_RESOURCES, as on
/// an adapter whose keys are all in use, and drivers do without.
void fill_crypto(const Config &config, Bytes general, Bytes flow_table) {
    std::uint64_t objects = IFC_GET64(cmd_hca_cap, ConstBytes(general), general_obj_types);
    if (config.ipsec || config.tls || config.macsec) {
        objects |= MLX5_HCA_CAP_GENERAL_OBJECT_TYPES_ENCRYPTION_KEY;
        IFC_SET(cmd_hca_cap, general, log_max_dek, 1);
    }
#define SET(direction, field)                                                                      \
    IFC_SET(flow_table_nic_cap, flow_table, flow_table_properties_nic_##direction.field, 1)
    if (config.ipsec || config.macsec) {
        // For rules that name a key: the driver makes no table before it has one.
        SET(transmit, ft_support);
        SET(transmit, flow_modify_en);
        SET(transmit, modify_root);
        SET(transmit, identified_miss_table_mode);
        SET(transmit, flow_table_modify);
    }
    if (config.ipsec) {
        objects |= MLX5_HCA_CAP_GENERAL_OBJECT_TYPES_IPSEC;
        IFC_SET(cmd_hca_cap, general, ipsec_offload, 1);
        SET(transmit, ipsec_encrypt);
        SET(receive, ipsec_decrypt);
    }
    if (config.macsec) {
        objects |= 1ULL << MLX5_GENERAL_OBJECT_TYPES_MACSEC;
        SET(transmit, macsec_encrypt);
        SET(transmit, reformat_add_macsec);
        SET(receive, macsec_decrypt);
        SET(receive, reformat_remove_macsec);
    }
#undef SET
    IFC_SET(cmd_hca_cap, general, tls_tx, config.tls);
    IFC_SET64(cmd_hca_cap, general, general_obj_types, objects);
}

void fill_ipsec(Bytes cap) {
#define SET(field, value) IFC_SET(ipsec_cap, cap, field, value)
    SET(ipsec_crypto_offload, 1);
    SET(ipsec_esn, 1);
    SET(ipsec_crypto_esp_aes_gcm_128_encrypt, 1);
    SET(ipsec_crypto_esp_aes_gcm_128_decrypt, 1);
    SET(log_max_ipsec_offload, 1);
#undef SET
}

void fill_macsec(Bytes cap) {
#define SET(field, value) IFC_SET(macsec_cap, cap, field, value)
    SET(macsec_crypto_esp_aes_gcm_128_encrypt, 1);
    SET(macsec_crypto_esp_aes_gcm_128_decrypt, 1);
    SET(log_max_macsec_offload, 1);
#undef SET
}

} // namespace

Capabilities::Capabilities(const Config &config) {
    fill_general(max_[MLX5_CAP_GENERAL], config);
    fill_general_2(max_[MLX5_CAP_GENERAL_2]);
    fill_ethernet(max_[MLX5_CAP_ETHERNET_OFFLOADS], config);
    fill_flow_table(max_[MLX5_CAP_FLOW_TABLE]);
    fill_crypto(config, max_[MLX5_CAP_GENERAL], max_[MLX5_CAP_FLOW_TABLE]);
    if (config.ipsec)
        fill_ipsec(max_[MLX5_CAP_IPSEC]);
    if (config.tls)
        IFC_SET(tls_cap, Bytes(max_[MLX5_CAP_TLS]), tls_1_2_aes_gcm_128, 1);
    if (config.macsec)
        fill_macsec(max_[MLX5_CAP_MACSEC]);
    if (config.quic)
        QuicOffload::fill_capabilities(config, max_[MLX5_CAP_GENERAL], max_[MLX5_QUIC_CAP_TYPE]);
    reset();
}

void Capabilities::apply_defaults() {
    // Mailbox signatures are an option that the driver has to switch on.
    IFC_SET(cmd_hca_cap, Bytes(current_[MLX5_CAP_GENERAL]), cmdif_checksum, 0);
}

const Capabilities::Block *Capabilities::find(unsigned type, CapMode mode) const {
    const auto &caps = mode == CapMode::kMax ? max_ : current_;
    auto it = caps.find(type);
    return it == caps.end() ? nullptr : &it->second;
}

CommandStatus Capabilities::set(unsigned type, ConstBytes wanted) {
    if (type != MLX5_CAP_GENERAL)
        return bad_param(0x110);
    Block &cur = current_.at(type);
    const Block &max = max_.at(type);
    // Limits may only be lowered.
    const unsigned log_max_qp = IFC_GET(cmd_hca_cap, wanted, log_max_qp);
    if (log_max_qp > IFC_GET(cmd_hca_cap, ConstBytes(max), log_max_qp))
        return bad_param(0x111);
    const unsigned checksum = IFC_GET(cmd_hca_cap, wanted, cmdif_checksum);
    if (checksum != 0 && checksum != 3)
        return bad_param(0x112);
    const unsigned uc_list = IFC_GET(cmd_hca_cap, wanted, log_max_current_uc_list);
    if (uc_list > IFC_GET(cmd_hca_cap, ConstBytes(max), log_max_current_uc_list))
        return bad_param(0x113);
    IFC_SET(cmd_hca_cap, Bytes(cur), log_max_qp, log_max_qp);
    IFC_SET(cmd_hca_cap, Bytes(cur), cmdif_checksum, checksum);
    IFC_SET(cmd_hca_cap, Bytes(cur), log_max_current_uc_list, uc_list);
    IFC_SET(cmd_hca_cap, Bytes(cur), uar_4k, IFC_GET(cmd_hca_cap, wanted, uar_4k));
    IFC_SET(cmd_hca_cap, Bytes(cur), log_uar_page_sz,
            IFC_GET(cmd_hca_cap, wanted, log_uar_page_sz));
    return kOk;
}

} // namespace connectx
