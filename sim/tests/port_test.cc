// SPDX-License-Identifier: GPL-2.0
//
// The port, its access registers and counters; the vport.
#include "mini_driver.h"
#include "packets.h"

#include <gtest/gtest.h>

namespace connectx::test {
namespace {

class PortTest : public testing::Test {
  protected:
    void SetUp() override { d.open(); }

    std::uint8_t reg_status(unsigned reg, const Message &data, bool write) {
        std::uint8_t st = 0xff;
        d.access_register(reg, data, write, &st);
        return st;
    }
    Message read(unsigned reg, const Message &data) { return d.access_register(reg, data, false); }

    std::uint64_t ppcnt(unsigned group, std::size_t bit, unsigned prio = 0) {
        Message in(IFC_BYTES(ppcnt_reg));
        IFC_SET(ppcnt_reg, Bytes(in), local_port, 1);
        IFC_SET(ppcnt_reg, Bytes(in), grp, group);
        IFC_SET(ppcnt_reg, Bytes(in), prio_tc, prio);
        const Message out = read(MLX5_REG_PPCNT, in);
        return ifc::get64(out, 8 * 8 + bit);
    }
    /// Sub-types of the port change events since the last call.
    std::vector<unsigned> link_events() {
        std::vector<unsigned> types;
        while (const mlx5_eqe *eqe = d.poll(d.async_eq))
            if (eqe->type == MLX5_EVENT_TYPE_PORT_CHANGE)
                types.push_back(eqe->sub_type);
        d.arm(d.async_eq);
        return types;
    }
    unsigned vport_state() {
        return IFC_GET(query_vport_state_out,
                       ConstBytes(d.must(REQUEST(query_vport_state, QUERY_VPORT_STATE),
                                         IFC_BYTES(query_vport_state_out))),
                       state);
    }
    std::uint8_t status(const Message &in, std::size_t out) { return d.command(in, out).status; }

    MiniDriver d;
};

#define REG(name) Message name(IFC_BYTES(name##_reg))
#define RSET(name, field, v) IFC_SET(name##_reg, Bytes(name), field, v)
#define RGET(name, data, field) IFC_GET(name##_reg, ConstBytes(data), field)

TEST_F(PortTest, LinkFollowsCableAndAdministration) {
    EXPECT_EQ(vport_state(), static_cast<unsigned>(VPORT_STATE_UP));
    link_events();
    d.dev.set_link(false);
    d.dev.set_link(false);
    EXPECT_EQ(vport_state(), static_cast<unsigned>(VPORT_STATE_DOWN));
    d.dev.set_link(true);
    d.set_admin(false);
    d.set_admin(true);
    EXPECT_EQ(link_events(), (std::vector<unsigned>{
                                 MLX5_PORT_CHANGE_SUBTYPE_DOWN, MLX5_PORT_CHANGE_SUBTYPE_ACTIVE,
                                 MLX5_PORT_CHANGE_SUBTYPE_DOWN, MLX5_PORT_CHANGE_SUBTYPE_ACTIVE}));
    Message phy(IFC_BYTES(ppcnt_reg));
    IFC_SET(ppcnt_reg, Bytes(phy), local_port, 1);
    IFC_SET(ppcnt_reg, Bytes(phy), grp, MLX5_PHYSICAL_LAYER_COUNTERS_GROUP);
    phy = read(MLX5_REG_PPCNT, phy);
    EXPECT_EQ(IFC_GET(ppcnt_reg, ConstBytes(phy), counter_set.phys_layer_cntrs.link_down_events),
              2U);
    REG(paos);
    RSET(paos, local_port, 1);
    d.dev.set_link(false);
    const Message out = read(MLX5_REG_PAOS, paos);
    EXPECT_EQ(RGET(paos, out, admin_status), 1U);
    EXPECT_EQ(RGET(paos, out, oper_status), 2U);
    RSET(paos, ase, 1);
    RSET(paos, admin_status, 7);
    EXPECT_EQ(reg_status(MLX5_REG_PAOS, paos, true), MLX5_CMD_STAT_BAD_PARAM_ERR);
    RSET(paos, local_port, 2);
    EXPECT_EQ(reg_status(MLX5_REG_PAOS, paos, false), MLX5_CMD_STAT_BAD_PARAM_ERR);
}

TEST_F(PortTest, SpeedIsReported) {
    REG(ptys);
    RSET(ptys, local_port, 1);
    RSET(ptys, proto_mask, 4);
    Message out = read(MLX5_REG_PTYS, ptys);
    EXPECT_EQ(RGET(ptys, out, eth_proto_oper), 1U << MLX5E_100GBASE_CR4);
    EXPECT_EQ(RGET(ptys, out, ext_eth_proto_oper), 1U << MLX5E_CAUI_4_100GBASE_CR4_KR4);
    EXPECT_EQ(RGET(ptys, out, connector_type), static_cast<unsigned>(MLX5E_PORT_DA));
    d.dev.set_link(false);
    out = read(MLX5_REG_PTYS, ptys);
    EXPECT_EQ(RGET(ptys, out, eth_proto_oper), 0U);
    EXPECT_NE(RGET(ptys, out, eth_proto_capability), 0U);
    RSET(ptys, eth_proto_admin, 1U << MLX5E_100GBASE_CR4);
    EXPECT_EQ(reg_status(MLX5_REG_PTYS, ptys, true), MLX5_CMD_STAT_OK);
    RSET(ptys, eth_proto_admin, 1);
    EXPECT_EQ(reg_status(MLX5_REG_PTYS, ptys, true), MLX5_CMD_STAT_BAD_PARAM_ERR);
    RSET(ptys, local_port, 5);
    EXPECT_EQ(reg_status(MLX5_REG_PTYS, ptys, false), MLX5_CMD_STAT_BAD_PARAM_ERR);
}

TEST_F(PortTest, Mtu) {
    REG(pmtu);
    RSET(pmtu, local_port, 1);
    const Message out = read(MLX5_REG_PMTU, pmtu);
    EXPECT_EQ(RGET(pmtu, out, max_mtu), 10240U);
    for (unsigned bad : {0U, 63U, 10241U}) {
        RSET(pmtu, admin_mtu, bad);
        EXPECT_EQ(reg_status(MLX5_REG_PMTU, pmtu, true), MLX5_CMD_STAT_BAD_PARAM_ERR) << bad;
    }
    RSET(pmtu, admin_mtu, 9000);
    const Message set = d.access_register(MLX5_REG_PMTU, pmtu, true);
    EXPECT_EQ(RGET(pmtu, set, oper_mtu), 9000U);
    RSET(pmtu, local_port, 0);
    EXPECT_EQ(reg_status(MLX5_REG_PMTU, pmtu, false), MLX5_CMD_STAT_BAD_PARAM_ERR);
}

TEST_F(PortTest, PauseIsRemembered) {
    REG(pfcc);
    RSET(pfcc, local_port, 1);
    Message out = read(MLX5_REG_PFCC, pfcc);
    EXPECT_EQ(RGET(pfcc, out, pptx), 1U);
    RSET(pfcc, pprx, 1);
    d.access_register(MLX5_REG_PFCC, pfcc, true);
    out = read(MLX5_REG_PFCC, pfcc);
    EXPECT_EQ(RGET(pfcc, out, pptx), 0U);
    EXPECT_EQ(RGET(pfcc, out, pprx), 1U);
    RSET(pfcc, pfctx, 1);
    EXPECT_EQ(reg_status(MLX5_REG_PFCC, pfcc, true), MLX5_CMD_STAT_BAD_PARAM_ERR);
    RSET(pfcc, local_port, 3);
    EXPECT_EQ(reg_status(MLX5_REG_PFCC, pfcc, false), MLX5_CMD_STAT_BAD_PARAM_ERR);
}

TEST_F(PortTest, ModuleAndItsMemory) {
    REG(pmlp);
    RSET(pmlp, local_port, 1);
    Message out = read(MLX5_REG_PMLP, pmlp);
    EXPECT_EQ(RGET(pmlp, out, width), 4U);
    EXPECT_EQ(reg_status(MLX5_REG_PMLP, pmlp, true), MLX5_CMD_STAT_BAD_PARAM_ERR);

    REG(mcia);
    RSET(mcia, size, 48);
    RSET(mcia, i2c_device_address, 0x50);
    std::vector<std::uint8_t> eeprom;
    for (unsigned at = 0; at < 256; at += 32) {
        RSET(mcia, device_address, at);
        RSET(mcia, size, 32);
        out = read(MLX5_REG_MCIA, mcia);
        EXPECT_EQ(RGET(mcia, out, status), 0U);
        const ConstBytes data = IFC_AT(mcia_reg, ConstBytes(out), dwords);
        eeprom.insert(eeprom.end(), data.begin(), data.begin() + 32);
    }
    EXPECT_EQ(eeprom[0], MLX5_MODULE_ID_QSFP28);
    EXPECT_EQ(std::string(eeprom.begin() + 168, eeprom.begin() + 183), "connectx-model ");
    unsigned sum = 0; // SFF-8636: check code of the base fields
    for (unsigned i = 128; i < 191; ++i)
        sum += eeprom[i];
    EXPECT_EQ(eeprom[191], sum & 0xff);
    RSET(mcia, page_number, 3);
    out = read(MLX5_REG_MCIA, mcia);
    EXPECT_NE(RGET(mcia, out, status), 0U);
    RSET(mcia, size, 49);
    EXPECT_EQ(reg_status(MLX5_REG_MCIA, mcia, false), MLX5_CMD_STAT_BAD_PARAM_ERR);
    RSET(mcia, size, 4);
    RSET(mcia, module, 1);
    EXPECT_EQ(reg_status(MLX5_REG_MCIA, mcia, false), MLX5_CMD_STAT_BAD_PARAM_ERR);
    EXPECT_EQ(reg_status(MLX5_REG_MCIA, mcia, true), MLX5_CMD_STAT_BAD_PARAM_ERR);
    // Shorter than what it asks for.
    Message small(16);
    IFC_SET(mcia_reg, Bytes(small), size, 48);
    EXPECT_EQ(reg_status(MLX5_REG_MCIA, small, false), MLX5_CMD_STAT_BAD_PARAM_ERR);
}

TEST_F(PortTest, CapabilityAndOtherRegisters) {
    REG(pcam);
    const Message out = read(MLX5_REG_PCAM, pcam);
    EXPECT_EQ(RGET(pcam, out, port_access_reg_cap_mask.regs_5000_to_507f.ppcnt), 1U);
    EXPECT_EQ(reg_status(MLX5_REG_PCAM, pcam, true), MLX5_CMD_STAT_BAD_PARAM_ERR);
    REG(mcam);
    read(MLX5_REG_MCAM, mcam);
    EXPECT_EQ(reg_status(MLX5_REG_MCAM, mcam, true), MLX5_CMD_STAT_BAD_PARAM_ERR);
    REG(pcap);
    read(MLX5_REG_PCAP, pcap);
    EXPECT_EQ(reg_status(MLX5_REG_PCAP, pcap, true), MLX5_CMD_STAT_BAD_PARAM_ERR);
    REG(pvlc);
    EXPECT_EQ(RGET(pvlc, read(MLX5_REG_PVLC, pvlc), vl_hw_cap), 4U);
    REG(pcmr);
    EXPECT_EQ(RGET(pcmr, read(MLX5_REG_PCMR, pcmr), fcs_chk), 1U);
    EXPECT_EQ(reg_status(MLX5_REG_PCMR, pcmr, true), MLX5_CMD_STAT_OK);
    RSET(pcmr, rx_ts_over_crc, 1);
    EXPECT_EQ(reg_status(MLX5_REG_PCMR, pcmr, true), MLX5_CMD_STAT_BAD_PARAM_ERR);
    REG(mfrl);
    read(MLX5_REG_MFRL, mfrl);
    EXPECT_EQ(reg_status(MLX5_REG_MFRL, mfrl, true), MLX5_CMD_STAT_BAD_PARAM_ERR);
    REG(pddr);
    read(MLX5_REG_PDDR, pddr);
    EXPECT_EQ(reg_status(MLX5_REG_PDDR, pddr, true), MLX5_CMD_STAT_BAD_PARAM_ERR);
    REG(pmaos);
    read(MLX5_REG_PMAOS, pmaos);
    read(MLX5_REG_HOST_ENDIANNESS, Message(16));
    // One that does not exist.
    EXPECT_EQ(reg_status(0x7777, Message(16), false), MLX5_CMD_STAT_BAD_PARAM_ERR);
    EXPECT_EQ(d.dev.stats().commands_unknown, 1U);
    EXPECT_NE(d.dev.describe().find("register unknown register (0x7777) 1 times"),
              std::string::npos);
    auto in = request(MLX5_CMD_OP_ACCESS_REG, IFC_BYTES(access_register_in) + 16, 2);
    EXPECT_EQ(status(in, IFC_BYTES(access_register_out) + 16), MLX5_CMD_STAT_BAD_PARAM_ERR);
}

TEST_F(PortTest, CountersOfTheWire) {
    TestCq cq = d.create_cq();
    TestSq sq = d.create_sq(cq);
    const std::array<Frame, 3> kinds{
        make_frame({}, pattern(58)),                                              // 100 bytes
        make_frame({.dmac = {1, 0, 0x5e, 0, 0, 1}}, pattern(158)),                // multicast, 200
        make_frame({.dmac = {0xff, 0xff, 0xff, 0xff, 0xff, 0xff}}, pattern(258)), // broadcast, 300
    };
    for (const Frame &f : kinds) {
        d.post(sq, MLX5_OPCODE_SEND, d.eth_segments({}, {f}));
        d.dev.wire_rx(f);
        d.dev.wire_rx(f);
    }
    d.dev.wire_rx(Frame(2000)); // too long
    d.settle();
#define COUNTER(group, layout, field)                                                              \
    ppcnt(group, IFC_BIT_OFF(eth_##layout##_cntrs_grp_data_layout, field##_high))
    EXPECT_EQ(COUNTER(MLX5_IEEE_802_3_COUNTERS_GROUP, 802_3, a_frames_transmitted_ok), 3U);
    EXPECT_EQ(COUNTER(MLX5_IEEE_802_3_COUNTERS_GROUP, 802_3, a_frames_received_ok), 6U);
    EXPECT_EQ(COUNTER(MLX5_IEEE_802_3_COUNTERS_GROUP, 802_3, a_octets_transmitted_ok), 612U);
    EXPECT_EQ(COUNTER(MLX5_IEEE_802_3_COUNTERS_GROUP, 802_3, a_octets_received_ok), 1224U);
    EXPECT_EQ(COUNTER(MLX5_IEEE_802_3_COUNTERS_GROUP, 802_3, a_multicast_frames_xmitted_ok), 1U);
    EXPECT_EQ(COUNTER(MLX5_IEEE_802_3_COUNTERS_GROUP, 802_3, a_broadcast_frames_received_ok), 2U);
    EXPECT_EQ(COUNTER(MLX5_IEEE_802_3_COUNTERS_GROUP, 802_3, a_frame_too_long_errors), 1U);
    EXPECT_EQ(COUNTER(MLX5_RFC_2863_COUNTERS_GROUP, 2863, if_in_ucast_pkts), 2U);
    EXPECT_EQ(COUNTER(MLX5_RFC_2863_COUNTERS_GROUP, 2863, if_in_multicast_pkts), 2U);
    EXPECT_EQ(COUNTER(MLX5_RFC_2863_COUNTERS_GROUP, 2863, if_out_broadcast_pkts), 1U);
    EXPECT_EQ(COUNTER(MLX5_RFC_2819_COUNTERS_GROUP, 2819, ether_stats_pkts), 6U);
    EXPECT_EQ(COUNTER(MLX5_RFC_2819_COUNTERS_GROUP, 2819, ether_stats_pkts65to127octets), 2U);
    EXPECT_EQ(COUNTER(MLX5_RFC_2819_COUNTERS_GROUP, 2819, ether_stats_pkts128to255octets), 2U);
    EXPECT_EQ(COUNTER(MLX5_RFC_2819_COUNTERS_GROUP, 2819, ether_stats_pkts256to511octets), 2U);
#undef COUNTER
    const std::size_t frames = IFC_BIT_OFF(eth_per_prio_grp_data_layout, rx_frames_high);
    EXPECT_EQ(ppcnt(MLX5_PER_PRIORITY_COUNTERS_GROUP, frames), 6U);
    EXPECT_EQ(ppcnt(MLX5_PER_PRIORITY_COUNTERS_GROUP, frames, 3), 0U);
    EXPECT_EQ(ppcnt(MLX5_PHYSICAL_LAYER_STATISTICAL_GROUP, 0), 0U);
    REG(ppcnt);
    RSET(ppcnt, grp, 0x3f);
    EXPECT_EQ(reg_status(MLX5_REG_PPCNT, ppcnt, false), MLX5_CMD_STAT_BAD_PARAM_ERR);
    EXPECT_EQ(reg_status(MLX5_REG_PPCNT, ppcnt, true), MLX5_CMD_STAT_BAD_PARAM_ERR);

    // The vport counts what its queues got: nothing, there are none.
    auto in = REQUEST(query_vport_counter, QUERY_VPORT_COUNTER);
    IFC_SET(query_vport_counter_in, Bytes(in), clear, 1);
    Message out = d.must(in, IFC_BYTES(query_vport_counter_out));
    EXPECT_EQ(IFC_GET64(query_vport_counter_out, ConstBytes(out), transmitted_eth_unicast.packets),
              1U);
    EXPECT_EQ(IFC_GET64(query_vport_counter_out, ConstBytes(out), transmitted_eth_multicast.octets),
              200U);
    EXPECT_EQ(IFC_GET64(query_vport_counter_out, ConstBytes(out), received_eth_unicast.packets),
              0U);
    out = d.must(in, IFC_BYTES(query_vport_counter_out));
    EXPECT_EQ(IFC_GET64(query_vport_counter_out, ConstBytes(out), transmitted_eth_unicast.packets),
              0U);
    IFC_SET(query_vport_counter_in, Bytes(in), other_vport, 1);
    IFC_SET(query_vport_counter_in, Bytes(in), vport_number, 1);
    EXPECT_EQ(status(in, IFC_BYTES(query_vport_counter_out)), MLX5_CMD_STAT_BAD_PARAM_ERR);
}

#define SELECT(in, field) IFC_SET(modify_nic_vport_context_in, Bytes(in), field_select.field, 1)
#define CONTEXT(in, field, v)                                                                      \
    IFC_SET(modify_nic_vport_context_in, Bytes(in), nic_vport_context.field, v)

class VportTest : public PortTest {
  protected:
    Message query(unsigned type, std::size_t extra = 0) {
        auto in = REQUEST(query_nic_vport_context, QUERY_NIC_VPORT_CONTEXT);
        IFC_SET(query_nic_vport_context_in, Bytes(in), allowed_list_type, type);
        return d.must(in, IFC_BYTES(query_nic_vport_context_out) + extra);
    }
    std::uint8_t modify(const Message &in) {
        return status(in, IFC_BYTES(modify_nic_vport_context_out));
    }
    static Message modify_request(std::size_t extra = 0) {
        return request(MLX5_CMD_OP_MODIFY_NIC_VPORT_CONTEXT,
                       IFC_BYTES(modify_nic_vport_context_in) + extra);
    }
    static Bytes list(Message &in) {
        return Bytes(in).subspan(
            IFC_BYTE_OFF(modify_nic_vport_context_in, nic_vport_context.current_uc_mac_address));
    }
};

TEST_F(VportTest, ContextIsKept) {
    Message out = query(0);
    const ConstBytes ctx = IFC_AT(query_nic_vport_context_out, ConstBytes(out), nic_vport_context);
    const ConstBytes mac = IFC_AT(nic_vport_context, ctx, permanent_address);
    EXPECT_EQ(Frame(mac.begin() + 2, mac.begin() + 8), (Frame{0x52, 0x54, 0, 0x12, 0x34, 0x56}));
    EXPECT_NE(IFC_GET64(nic_vport_context, ctx, system_image_guid), 0U);

    Message in = modify_request();
    SELECT(in, promisc);
    SELECT(in, mtu);
    SELECT(in, min_inline);
    SELECT(in, disable_uc_local_lb);
    SELECT(in, disable_mc_local_lb);
    SELECT(in, permanent_address);
    CONTEXT(in, promisc_mc, 1);
    CONTEXT(in, mtu, 5000);
    CONTEXT(in, disable_uc_local_lb, 1);
    const Bytes address = Bytes(in).subspan(
        IFC_BYTE_OFF(modify_nic_vport_context_in, nic_vport_context.permanent_address));
    const std::array<std::uint8_t, 8> own{0, 0, 2, 3, 4, 5, 6, 7};
    std::copy(own.begin(), own.end(), address.begin());
    EXPECT_EQ(modify(in), MLX5_CMD_STAT_OK);
    out = query(0);
    const ConstBytes now = IFC_AT(query_nic_vport_context_out, ConstBytes(out), nic_vport_context);
    EXPECT_EQ(IFC_GET(nic_vport_context, now, promisc_mc), 1U);
    EXPECT_EQ(IFC_GET(nic_vport_context, now, promisc_uc), 0U);
    EXPECT_EQ(IFC_GET(nic_vport_context, now, mtu), 5000U);
    EXPECT_EQ(IFC_GET(nic_vport_context, now, disable_uc_local_lb), 1U);
    EXPECT_EQ(IFC_AT(nic_vport_context, now, permanent_address)[2], 2);
    // A reset brings the burnt-in address back.
    d.dev.reset();
    d.init();
    out = query(0);
    const ConstBytes again =
        IFC_AT(query_nic_vport_context_out, ConstBytes(out), nic_vport_context);
    EXPECT_EQ(IFC_AT(nic_vport_context, again, permanent_address)[2], 0x52);
}

TEST_F(VportTest, ListsOfAddressesAndVlans) {
    for (unsigned type : {MLX5_NVPRT_LIST_TYPE_UC, MLX5_NVPRT_LIST_TYPE_MC}) {
        Message in = modify_request(3 * 8);
        SELECT(in, addresses_list);
        CONTEXT(in, allowed_list_type, type);
        CONTEXT(in, allowed_list_size, 3);
        for (unsigned i = 0; i < 24; ++i)
            list(in)[i] = static_cast<std::uint8_t>(i);
        EXPECT_EQ(modify(in), MLX5_CMD_STAT_OK);
        const Message out = query(type, 24);
        const ConstBytes ctx =
            IFC_AT(query_nic_vport_context_out, ConstBytes(out), nic_vport_context);
        EXPECT_EQ(IFC_GET(nic_vport_context, ctx, allowed_list_size), 3U);
        EXPECT_EQ(IFC_AT(nic_vport_context, ctx, current_uc_mac_address)[8 + 2], 10);
        CONTEXT(in, allowed_list_size, 4);
        EXPECT_EQ(modify(in), MLX5_CMD_STAT_BAD_INP_LEN_ERR);
        CONTEXT(in, allowed_list_size, 2000);
        EXPECT_EQ(modify(in), MLX5_CMD_STAT_LIM_ERR);
    }
    Message in = modify_request(2 * 4);
    SELECT(in, addresses_list);
    CONTEXT(in, allowed_list_type, MLX5_NVPRT_LIST_TYPE_VLAN);
    CONTEXT(in, allowed_list_size, 2);
    store_be<std::uint32_t>(list(in).data(), 7);
    store_be<std::uint32_t>(list(in).data() + 4, 4094);
    EXPECT_EQ(modify(in), MLX5_CMD_STAT_OK);
    const Message out = query(MLX5_NVPRT_LIST_TYPE_VLAN, 16);
    EXPECT_EQ(
        IFC_GET(query_nic_vport_context_out, ConstBytes(out), nic_vport_context.allowed_list_size),
        2U);
    CONTEXT(in, allowed_list_size, 3);
    EXPECT_EQ(modify(in), MLX5_CMD_STAT_BAD_INP_LEN_ERR);
    CONTEXT(in, allowed_list_size, 4000);
    EXPECT_EQ(modify(in), MLX5_CMD_STAT_LIM_ERR);
    CONTEXT(in, allowed_list_type, 7);
    EXPECT_EQ(modify(in), MLX5_CMD_STAT_BAD_PARAM_ERR);
}

TEST_F(VportTest, WhatIsNotThereIsRefused) {
    for (unsigned which = 0; which < 5; ++which) {
        SCOPED_TRACE(which);
        Message in = modify_request();
        switch (which) {
        case 0:
            SELECT(in, roce_en);
            CONTEXT(in, roce_en, 1);
            break;
        case 1:
            SELECT(in, affiliation);
            break;
        case 2:
            SELECT(in, node_guid);
            break;
        case 3:
            SELECT(in, mtu);
            CONTEXT(in, mtu, 20000);
            break;
        default:
            IFC_SET(modify_nic_vport_context_in, Bytes(in), other_vport, 1);
            IFC_SET(modify_nic_vport_context_in, Bytes(in), vport_number, 1);
        }
        EXPECT_EQ(modify(in), MLX5_CMD_STAT_BAD_PARAM_ERR);
    }
    auto q = REQUEST(query_nic_vport_context, QUERY_NIC_VPORT_CONTEXT);
    IFC_SET(query_nic_vport_context_in, Bytes(q), allowed_list_type, 5);
    EXPECT_EQ(status(q, IFC_BYTES(query_nic_vport_context_out)), MLX5_CMD_STAT_BAD_PARAM_ERR);
    IFC_SET(query_nic_vport_context_in, Bytes(q), other_vport, 1);
    IFC_SET(query_nic_vport_context_in, Bytes(q), vport_number, 1);
    EXPECT_EQ(status(q, IFC_BYTES(query_nic_vport_context_out)), MLX5_CMD_STAT_BAD_PARAM_ERR);
    auto env = REQUEST(query_vnic_env, QUERY_VNIC_ENV);
    IFC_SET(query_vnic_env_in, Bytes(env), vport_number, 1);
    EXPECT_EQ(status(env, IFC_BYTES(query_vnic_env_out)), MLX5_CMD_STAT_BAD_PARAM_ERR);
}

TEST_F(VportTest, AdministrativeState) {
    auto in = REQUEST(modify_vport_state, MODIFY_VPORT_STATE);
    IFC_SET(modify_vport_state_in, Bytes(in), admin_state, MLX5_VPORT_ADMIN_STATE_DOWN);
    EXPECT_EQ(status(in, 16), MLX5_CMD_STAT_OK);
    EXPECT_EQ(vport_state(), static_cast<unsigned>(VPORT_STATE_DOWN));
    IFC_SET(modify_vport_state_in, Bytes(in), admin_state, MLX5_VPORT_ADMIN_STATE_UP);
    EXPECT_EQ(status(in, 16), MLX5_CMD_STAT_OK);
    EXPECT_EQ(vport_state(), static_cast<unsigned>(VPORT_STATE_UP));
    IFC_SET(modify_vport_state_in, Bytes(in), admin_state, 9);
    EXPECT_EQ(status(in, 16), MLX5_CMD_STAT_BAD_PARAM_ERR);
    auto q = REQUEST(query_vport_state, QUERY_VPORT_STATE, 3);
    EXPECT_EQ(status(q, 16), MLX5_CMD_STAT_BAD_PARAM_ERR);
    IFC_SET(query_vport_state_in, Bytes(q), vport_number, 1);
    EXPECT_EQ(status(q, 16), MLX5_CMD_STAT_BAD_PARAM_ERR);
}

} // namespace
} // namespace connectx::test
