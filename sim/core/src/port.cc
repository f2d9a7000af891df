// SPDX-License-Identifier: GPL-2.0
//
// The physical port and the access registers (ACCESS_REG).
#include "core.h"

namespace connectx {

namespace {

constexpr unsigned kPaosUp = 1;
constexpr unsigned kPaosDown = 2;
constexpr unsigned kFcs = 4;
constexpr std::size_t kPpcntCounters = 0x8; ///< the counter set starts behind two dwords

/// Lower page and page 00h of the plugged QSFP28 module: a 100GBASE-CR4 direct attach cable.
std::array<std::uint8_t, 256> module_eeprom() {
    std::array<std::uint8_t, 256> e{};
    e[0] = MLX5_MODULE_ID_QSFP28;
    e[1] = 0x07; // revision compliance
    e[2] = 0x04; // flat memory: no upper pages
    e[128] = MLX5_MODULE_ID_QSFP28;
    e[129] = 0x00; // power class 1
    e[130] = 0x23; // no separable connector
    e[131] = 0x80; // extended compliance codes
    e[140] = 0xff; // bit rate in e[222]
    e[146] = 1;    // length of the copper in metres
    e[147] = 0xa0; // copper, unequalized
    constexpr std::string_view kVendor = "udp-quic-offload";
    constexpr std::string_view kPart = "connectx-model  ";
    constexpr std::string_view kSerial = "000001          ";
    std::copy(kVendor.begin(), kVendor.end(), e.begin() + 148);
    std::copy(kPart.begin(), kPart.end(), e.begin() + 168);
    e[184] = '1';
    e[185] = ' ';
    e[192] = 0x0b; // 100GBASE-CR4
    std::copy(kSerial.begin(), kSerial.end(), e.begin() + 196);
    constexpr std::string_view kDate = "260101  ";
    std::copy(kDate.begin(), kDate.end(), e.begin() + 212);
    e[222] = 103; // 25.75 Gb/s per lane, units of 250 Mb/s
    unsigned sum = 0;
    for (unsigned i = 128; i < 191; ++i)
        sum += e[i];
    e[191] = sum & 0xff;
    sum = 0;
    for (unsigned i = 192; i < 223; ++i)
        sum += e[i];
    e[223] = sum & 0xff;
    return e;
}

} // namespace

/// One access to a register. `in` and `out` are the register data of the command.
class RegisterAccess {
  public:
    RegisterAccess(Core &core, Port &port, bool write, ConstBytes in, Bytes out)
        : core_(core), port_(port), write_(write), in_(in), out_(out) {}

    CommandStatus run(std::uint16_t reg) {
        // What is written is also what a write returns, unless the register says otherwise.
        std::memcpy(out_.data(), in_.data(), std::min(out_.size(), in_.size()));
        switch (reg) {
        case MLX5_REG_HOST_ENDIANNESS:
            return kOk;
        case MLX5_REG_PCAM:
            return pcam();
        case MLX5_REG_MCAM:
            return mcam();
        case MLX5_REG_PCAP:
            return write_ ? bad_param(0x600) : kOk;
        case MLX5_REG_PTYS:
            return ptys();
        case MLX5_REG_PAOS:
            return paos();
        case MLX5_REG_PMTU:
            return pmtu();
        case MLX5_REG_PMLP:
            return pmlp();
        case MLX5_REG_MCIA:
            return mcia();
        case MLX5_REG_PFCC:
            return pfcc();
        case MLX5_REG_PPCNT:
            return ppcnt();
        case MLX5_REG_PDDR:
            return pddr();
        case MLX5_REG_PVLC:
            IFC_SET(pvlc_reg, out_, vl_hw_cap, 4);
            return kOk;
        case MLX5_REG_PCMR:
            return pcmr();
        case MLX5_REG_MFRL:
            return mfrl();
        case MLX5_REG_PMAOS:
            return kOk;
        case MLX5_QUIC_REG_CNT:
            return quic_counters();
        default:
            ++core_.stats.commands_unknown;
            core_.commands.count_unknown_register(reg);
            core_.log(LogLevel::kWarning, "register %s (%#x) is not modelled", register_name(reg),
                      reg);
            return bad_param(0x601);
        }
    }

  private:
    CommandStatus quic_counters() {
        if (write_ || !core_.config.quic)
            return bad_param(0x613);
        if (out_.size() < IFC_BYTES(quic_cnt_reg))
            return bad_output_length(0x614);
        core_.quic.read_counters(out_);
        return kOk;
    }

    static CommandStatus wrong_port(unsigned port) { return port != 1 ? bad_param(0x602) : kOk; }

    CommandStatus pcam() {
        if (write_)
            return bad_param(0x603);
#define SET(field) IFC_SET(pcam_reg, out_, field, 1)
        SET(port_access_reg_cap_mask.regs_5000_to_507f.ppcnt);
        SET(feature_cap_mask.enhanced_features.ptys_connector_type);
        SET(feature_cap_mask.enhanced_features.ptys_extended_ethernet);
#undef SET
        return kOk;
    }

    CommandStatus mcam() { return write_ ? bad_param(0x604) : kOk; }

    CommandStatus ptys() {
        if (auto st = wrong_port(IFC_GET(ptys_reg, in_, local_port)); !st.ok())
            return st;
        constexpr std::uint32_t kLegacy = 1U << MLX5E_100GBASE_CR4;
        constexpr std::uint32_t kExtended = 1U << MLX5E_CAUI_4_100GBASE_CR4_KR4;
        constexpr unsigned kEthernet = 1U << 2;
        constexpr unsigned kRate100G = 1000; // units of 100 Mb/s
        if (write_) {
            // There is one speed; asking for a set without it cannot be met.
            const std::uint32_t legacy = IFC_GET(ptys_reg, in_, eth_proto_admin);
            const std::uint32_t extended = IFC_GET(ptys_reg, in_, ext_eth_proto_admin);
            if ((legacy != 0 && (legacy & kLegacy) == 0) ||
                (extended != 0 && (extended & kExtended) == 0))
                return bad_param(0x605);
            return kOk;
        }
        std::fill(out_.begin(), out_.end(), 0);
        IFC_SET(ptys_reg, out_, local_port, 1);
        IFC_SET(ptys_reg, out_, proto_mask, kEthernet);
        IFC_SET(ptys_reg, out_, an_disable_cap, 1);
        IFC_SET(ptys_reg, out_, eth_proto_capability, kLegacy);
        IFC_SET(ptys_reg, out_, ext_eth_proto_capability, kExtended);
        IFC_SET(ptys_reg, out_, eth_proto_admin, kLegacy);
        IFC_SET(ptys_reg, out_, ext_eth_proto_admin, kExtended);
        IFC_SET(ptys_reg, out_, connector_type, MLX5E_PORT_DA);
        if (port_.up()) {
            IFC_SET(ptys_reg, out_, eth_proto_oper, kLegacy);
            IFC_SET(ptys_reg, out_, ext_eth_proto_oper, kExtended);
            IFC_SET(ptys_reg, out_, eth_proto_lp_advertise, kExtended);
            IFC_SET(ptys_reg, out_, an_status, MLX5_AN_COMPLETE);
            IFC_SET(ptys_reg, out_, data_rate_oper, kRate100G);
        } else {
            IFC_SET(ptys_reg, out_, an_status, MLX5_AN_UNAVAILABLE);
        }
        return kOk;
    }

    CommandStatus paos() {
        if (auto st = wrong_port(IFC_GET(paos_reg, in_, local_port)); !st.ok())
            return st;
        if (write_ && IFC_GET(paos_reg, in_, ase) != 0) {
            const unsigned admin = IFC_GET(paos_reg, in_, admin_status);
            if (admin != kPaosUp && admin != kPaosDown)
                return bad_param(0x606);
            port_.set_admin(admin == kPaosUp);
        }
        IFC_SET(paos_reg, out_, admin_status, port_.admin_up_ ? kPaosUp : kPaosDown);
        IFC_SET(paos_reg, out_, oper_status, port_.up() ? kPaosUp : kPaosDown);
        return kOk;
    }

    CommandStatus pmtu() {
        if (auto st = wrong_port(IFC_GET(pmtu_reg, in_, local_port)); !st.ok())
            return st;
        if (write_) {
            const unsigned mtu = IFC_GET(pmtu_reg, in_, admin_mtu);
            if (mtu < 64 || mtu > Port::kMaxMtu)
                return bad_param(0x607);
            port_.mtu_ = mtu;
        }
        IFC_SET(pmtu_reg, out_, max_mtu, Port::kMaxMtu);
        IFC_SET(pmtu_reg, out_, admin_mtu, port_.mtu_);
        IFC_SET(pmtu_reg, out_, oper_mtu, port_.mtu_);
        return kOk;
    }

    CommandStatus pmlp() {
        if (write_)
            return bad_param(0x608);
        IFC_SET(pmlp_reg, out_, local_port, 1);
        IFC_SET(pmlp_reg, out_, width, 4);
        for (unsigned lane = 0; lane < 4; ++lane) {
            const Bytes map = ifc::sub(out_, IFC_BYTE_OFF(pmlp_reg, lane0_module_mapping) +
                                                 std::size_t{lane} * 4);
            IFC_SET(lane_2_module_mapping, map, module, 0);
            IFC_SET(lane_2_module_mapping, map, rx_lane, lane);
            IFC_SET(lane_2_module_mapping, map, tx_lane, lane);
        }
        return kOk;
    }

    CommandStatus mcia() {
        static const std::array<std::uint8_t, 256> kEeprom = module_eeprom();
        constexpr unsigned kNoSuchPage = 0x2;
        constexpr unsigned kI2cLow = 0x50;
        if (write_)
            return bad_param(0x609);
        const unsigned size = IFC_GET(mcia_reg, in_, size);
        const unsigned offset = IFC_GET(mcia_reg, in_, device_address);
        const Bytes data = IFC_AT(mcia_reg, out_, dwords);
        if (IFC_GET(mcia_reg, in_, module) != 0 || size > 48 || data.size() < size)
            return bad_param(0x60a);
        std::fill(data.begin(), data.end(), 0);
        if (IFC_GET(mcia_reg, in_, page_number) != 0 ||
            IFC_GET(mcia_reg, in_, i2c_device_address) != kI2cLow) {
            IFC_SET(mcia_reg, out_, status, kNoSuchPage);
            return kOk;
        }
        for (unsigned i = 0; i < size && offset + i < kEeprom.size(); ++i)
            data[i] = kEeprom[offset + i];
        IFC_SET(mcia_reg, out_, status, 0);
        return kOk;
    }

    CommandStatus pfcc() {
        if (auto st = wrong_port(IFC_GET(pfcc_reg, in_, local_port)); !st.ok())
            return st;
        if (write_) {
            if (IFC_GET(pfcc_reg, in_, pfctx) != 0 || IFC_GET(pfcc_reg, in_, pfcrx) != 0)
                return bad_param(0x60b);
            port_.pause_tx_ = IFC_GET(pfcc_reg, in_, pptx) != 0;
            port_.pause_rx_ = IFC_GET(pfcc_reg, in_, pprx) != 0;
        }
        IFC_SET(pfcc_reg, out_, pptx, port_.pause_tx_);
        IFC_SET(pfcc_reg, out_, pprx, port_.pause_rx_);
        IFC_SET(pfcc_reg, out_, pfctx, 0);
        IFC_SET(pfcc_reg, out_, pfcrx, 0);
        return kOk;
    }

    CommandStatus pcmr() {
        if (write_)
            return IFC_GET(pcmr_reg, in_, rx_ts_over_crc) != 0 ? bad_param(0x60c) : kOk;
        IFC_SET(pcmr_reg, out_, fcs_chk, 1);
        return kOk;
    }

    CommandStatus mfrl() {
        // No reset level can be asked for through this register; the state reads as idle.
        return write_ ? bad_param(0x60d) : kOk;
    }

    CommandStatus pddr() {
        if (write_)
            return bad_param(0x60e);
        // No opcode: neither PHY nor management firmware knows a reason for a missing link.
        return kOk;
    }

    void counter(std::size_t bit_offset, std::uint64_t value) {
        ifc::set64(out_, kPpcntCounters * 8 + bit_offset, value);
    }

    CommandStatus ppcnt() {
        if (write_)
            return bad_param(0x60f);
        const unsigned group = IFC_GET(ppcnt_reg, in_, grp);
        const Bytes set = ifc::sub(out_, kPpcntCounters);
        std::fill(set.begin(), set.end(), 0);
        const auto &rx = port_.rx_;
        const auto &tx = port_.tx_;
#define PUT(layout, field, value)                                                                  \
    counter(IFC_BIT_OFF(eth_##layout##_cntrs_grp_data_layout, field##_high), value)
        switch (group) {
        case MLX5_IEEE_802_3_COUNTERS_GROUP:
            PUT(802_3, a_frames_transmitted_ok, tx.packets);
            PUT(802_3, a_frames_received_ok, rx.packets);
            PUT(802_3, a_octets_transmitted_ok, tx.octets);
            PUT(802_3, a_octets_received_ok, rx.octets);
            PUT(802_3, a_multicast_frames_xmitted_ok, port_.tx_mc_.packets);
            PUT(802_3, a_broadcast_frames_xmitted_ok, port_.tx_bc_.packets);
            PUT(802_3, a_multicast_frames_received_ok, port_.rx_mc_.packets);
            PUT(802_3, a_broadcast_frames_received_ok, port_.rx_bc_.packets);
            PUT(802_3, a_frame_too_long_errors, port_.rx_oversize);
            return kOk;
        case MLX5_RFC_2863_COUNTERS_GROUP:
            PUT(2863, if_in_octets, rx.octets);
            PUT(2863, if_in_ucast_pkts, rx.packets - port_.rx_mc_.packets - port_.rx_bc_.packets);
            PUT(2863, if_in_discards, port_.rx_discards);
            PUT(2863, if_in_errors, port_.rx_oversize);
            PUT(2863, if_out_octets, tx.octets);
            PUT(2863, if_out_ucast_pkts, tx.packets - port_.tx_mc_.packets - port_.tx_bc_.packets);
            PUT(2863, if_in_multicast_pkts, port_.rx_mc_.packets);
            PUT(2863, if_in_broadcast_pkts, port_.rx_bc_.packets);
            PUT(2863, if_out_multicast_pkts, port_.tx_mc_.packets);
            PUT(2863, if_out_broadcast_pkts, port_.tx_bc_.packets);
            return kOk;
        case MLX5_RFC_2819_COUNTERS_GROUP: {
            PUT(2819, ether_stats_octets, rx.octets);
            PUT(2819, ether_stats_pkts, rx.packets);
            PUT(2819, ether_stats_broadcast_pkts, port_.rx_bc_.packets);
            PUT(2819, ether_stats_multicast_pkts, port_.rx_mc_.packets);
            PUT(2819, ether_stats_oversize_pkts, port_.rx_oversize);
            const std::size_t first =
                IFC_BIT_OFF(eth_2819_cntrs_grp_data_layout, ether_stats_pkts64octets_high);
            for (std::size_t i = 0; i < 10; ++i)
                counter(first + i * 64, port_.rx_sizes_[i]);
            return kOk;
        }
        case MLX5_PHYSICAL_LAYER_COUNTERS_GROUP:
            IFC_SET(ppcnt_reg, out_, counter_set.phys_layer_cntrs.link_down_events,
                    port_.link_downs_);
            return kOk;
        case MLX5_PER_PRIORITY_COUNTERS_GROUP:
            // Without PFC all traffic is in priority 0.
            if (IFC_GET(ppcnt_reg, in_, prio_tc) == 0) {
#define PRIO(field, value) counter(IFC_BIT_OFF(eth_per_prio_grp_data_layout, field##_high), value)
                PRIO(rx_octets, rx.octets);
                PRIO(rx_frames, rx.packets);
                PRIO(tx_octets, tx.octets);
                PRIO(tx_frames, tx.packets);
#undef PRIO
            }
            return kOk;
        case MLX5_RFC_3635_COUNTERS_GROUP:
        case MLX5_ETHERNET_EXTENDED_COUNTERS_GROUP:
        case MLX5_PER_TRAFFIC_CLASS_COUNTERS_GROUP:
        case MLX5_PER_TRAFFIC_CLASS_CONGESTION_GROUP:
        case MLX5_PHYSICAL_LAYER_STATISTICAL_GROUP:
            return kOk; // nothing of the kind happens here: all zero
        default:
            return bad_param(0x610);
        }
#undef PUT
    }

    Core &core_;
    Port &port_;
    bool write_;
    ConstBytes in_;
    Bytes out_;
};

CommandStatus Port::access_register(const Command &cmd) {
    constexpr unsigned kRead = 1;
    if (cmd.op_mod > kRead)
        return bad_param(0x611);
    const ConstBytes in = IFC_AT(access_register_in, cmd.in, register_data);
    const Bytes out = IFC_AT(access_register_out, cmd.out, register_data);
    const auto reg = static_cast<std::uint16_t>(IFC_GET(access_register_in, cmd.in, register_id));
    if (core_.config.trace)
        core_.trace(format("  register %s (%#x) %s", register_name(reg), reg,
                           cmd.op_mod == kRead ? "read" : "write"));
    return RegisterAccess(core_, *this, cmd.op_mod != kRead, in, out).run(reg);
}

void Port::reset() {
    admin_up_ = false;
    flapped_ = false;
    flap_end_ns_ = UINT64_MAX;
    mtu_ = kDefaultMtu;
    pause_rx_ = true;
    pause_tx_ = true;
}

void Port::changed(bool was_up) {
    if (up() == was_up)
        return;
    if (was_up) {
        ++link_downs_;
        core_.rx.drop_arrivals();
    }
    std::array<std::uint8_t, sizeof(ev_data)> data{};
    data[offsetof(mlx5_eqe_port_state, port)] = 1 << 4;
    core_.events.post_async(MLX5_EVENT_TYPE_PORT_CHANGE,
                            up() ? MLX5_PORT_CHANGE_SUBTYPE_ACTIVE : MLX5_PORT_CHANGE_SUBTYPE_DOWN,
                            data);
    core_.host.rx_ready();
}

void Port::set_carrier(bool up_now) {
    const bool was = up();
    carrier_ = up_now;
    changed(was);
}

void Port::set_admin(bool up_now) {
    const bool was = up();
    admin_up_ = up_now;
    changed(was);
}

void Port::flap(std::uint64_t duration_ns) {
    const bool was = up();
    flapped_ = true;
    flap_end_ns_ = core_.host.clock_ns() + duration_ns;
    changed(was);
    core_.update_timer();
}

void Port::run() {
    if (!flapped_ || core_.host.clock_ns() < flap_end_ns_)
        return;
    const bool was = up();
    flapped_ = false;
    flap_end_ns_ = UINT64_MAX;
    changed(was);
}

void Port::count_tx(ConstBytes frame) {
    const std::size_t bytes = frame.size() + kFcs;
    tx_.add(bytes);
    const bool multicast = (frame[0] & 1) != 0;
    const bool broadcast =
        std::all_of(frame.begin(), frame.begin() + 6, [](std::uint8_t b) { return b == 0xff; });
    if (broadcast)
        tx_bc_.add(bytes);
    else if (multicast)
        tx_mc_.add(bytes);
}

void Port::count_rx(ConstBytes frame) {
    const std::size_t bytes = frame.size() + kFcs;
    rx_.add(bytes);
    const bool multicast = (frame[0] & 1) != 0;
    const bool broadcast =
        std::all_of(frame.begin(), frame.begin() + 6, [](std::uint8_t b) { return b == 0xff; });
    if (broadcast)
        rx_bc_.add(bytes);
    else if (multicast)
        rx_mc_.add(bytes);
    constexpr std::array<std::size_t, 9> kLimits{64, 127, 255, 511, 1023, 1518, 2047, 4095, 8191};
    const auto *const it = std::lower_bound(kLimits.begin(), kLimits.end(), bytes);
    ++rx_sizes_[static_cast<std::size_t>(it - kLimits.begin())];
}

namespace {
CommandStatus access_reg(Core &core, const Command &cmd) { return core.port.access_register(cmd); }
} // namespace

void register_port_commands(CommandTable &t) {
    t[MLX5_CMD_OP_ACCESS_REG] = {"ACCESS_REG", IFC_BYTES(access_register_in),
                                 IFC_BYTES(access_register_out), CommandStage::kHcaEnabled,
                                 access_reg};
}

} // namespace connectx
