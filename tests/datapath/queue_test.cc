// SPDX-License-Identifier: GPL-2.0
//
// What becomes of packets whose device has no room for them just now, and who sees those that are
// dropped.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <linux/net_dropmon.h>
#include <netinet/ip.h>

#include "raw_netlink.h"
#include "world.h"

namespace quic_test {
namespace {

std::string wire_name(const testing::TestParamInfo<Wire> &info) { return name(info.param); }

std::vector<Wire> simulated_wires() {
    std::vector<Wire> out = all_wires();
    std::erase_if(out, [](Wire wire) {
        return wire != Wire::kOffload && wire != Wire::kOffloadNoSegmentation;
    });
    return out;
}

// --- what the qdisc keeps for the device
// ------------------------------------------------------------

class Requeued : public testing::TestWithParam<Wire> {};
GTEST_ALLOW_UNINSTANTIATED_PARAMETERIZED_TEST(Requeued);
INSTANTIATE_TEST_SUITE_P(Over, Requeued, testing::ValuesIn(simulated_wires()), wire_name);

// Packets have been left to the device in plaintext, and wait in front of the qdisc for its ring.
// Then it is no device that encrypts any more.
TEST_P(Requeued, AreNotSentInPlaintextWhenTheOffloadGoes) {
    for (const unsigned packets : {1U, 5U}) {
        World world(GetParam());
        world.a.command("tc qdisc replace dev va root pfifo limit 1000");
        Flow flow(world.a, world.b, Address::v4("10.1.1.2", 0));
        flow.settle(world);
        flow.expect_all_arrive();
        world.turn_knob_a("ring_full", "1");
        const std::uint64_t device = world.count_a("TxDevice");
        EXPECT_GT(flow.send_form({.packets = packets}), 0);
        EXPECT_GT(flow.send_form({.packets = packets}), 0);
        EXPECT_TRUE(eventually([&] {
            return world.a.command("tc -s qdisc show dev va").find("requeues 0)") ==
                   std::string::npos;
        })) << "nothing waits for the ring";
        EXPECT_GE(world.count_a("TxDevice") - device, packets);
        world.a.command("ethtool -K va udp-crypto-hw-tx-offload off; sleep 0.3");
        world.turn_knob_a("ring_full", "0");
        flow.expect_all_arrive(false, &world);
        EXPECT_EQ(world.count_a("TxSoftwareLate"), 2 * packets);
        world.expect_clean();
    }
}

// They are the device's, and counted once, when it still has the offload.
TEST_P(Requeued, StayTheDevices) {
    World world(GetParam());
    world.a.command("tc qdisc replace dev va root pfifo limit 1000");
    Flow flow(world.a, world.b, Address::v4("10.1.1.2", 0));
    flow.settle(world);
    flow.expect_all_arrive();
    const std::uint64_t device = world.count_a("TxDevice");
    const std::uint64_t sent = flow.sent();
    for (int i = 0; i < 3; ++i) {
        world.turn_knob_a("ring_full", "1");
        EXPECT_GT(flow.send_form({.packets = 5}), 0);
        world.turn_knob_a("ring_full", "0");
    }
    flow.expect_all_arrive();
    EXPECT_EQ(world.count_a("TxDevice") - device, flow.sent() - sent);
    EXPECT_EQ(world.count_a("TxSoftwareLate"), 0U);
    world.expect_clean();
}

TEST_P(Requeued, GoWithTheirSa) {
    World world(GetParam());
    world.a.command("tc qdisc replace dev va root pfifo limit 1000");
    Flow flow(world.a, world.b, Address::v4("10.1.1.2", 0));
    flow.settle(world);
    flow.expect_all_arrive();
    world.turn_knob_a("ring_full", "1");
    EXPECT_GT(flow.send_form({.packets = 5}), 0);
    ASSERT_EQ(del_sa(flow.sender(), 1), 0);
    world.turn_knob_a("ring_full", "0");
    EXPECT_TRUE(eventually([&] { return world.count_a("DropNoSa") == 5; }))
        << world.count_a("DropNoSa");
    EXPECT_FALSE(flow.take_one(std::chrono::milliseconds(50)));
    world.expect_clean(true);
}

// --- packets whose ciphers are not set up yet
// --------------------------------------------------------

// Packets that wait for a device, each with an SA of its own.
class LatePackets {
  public:
    // The device takes them before the kernel has ciphers for them, as hardware does.
    LatePackets(World &world, unsigned packets) : world_(world) {
        world.turn_knob_a("ahead", "1");
        // Who asks for its neighbour's address waits as long.
        world.a.command("ip neigh replace 10.1.1.2 lladdr " + World::mac(world.b, "vb") +
                        " dev va; tc qdisc replace dev va root netem delay 8s limit 10000");
        world.b.run([&] {
            receiver_ = udp_socket(AF_INET);
            set_option(receiver_.get(), SOL_SOCKET, SO_RCVBUFFORCE, 32 << 20);
            bind_to(receiver_.get(), Address::v4("0.0.0.0", 4433));
        });
        world.a.run([&] {
            sender_ = udp_socket(AF_INET);
            set_option(sender_.get(), SOL_SOCKET, SO_SNDBUFFORCE, 32 << 20);
        });
        const Address to = Address::v4("10.1.1.2", 4433);
        for (std::uint64_t pn = 0; pn < packets; ++pn) {
            keys_.push_back(keys_of_seed(Cipher::kAes128Gcm, pn));
            const std::uint32_t sa = add_sa_index(sender_.get(), pn, keys_.back());
            const Bytes packet = make_packet(Flow::shape(), pn, 1000);
            EXPECT_EQ(
                send(sender_.get(), packet, Control().quic(pn, sa, Flow::shape().pn_offset()), &to),
                1000);
        }
        EXPECT_EQ(world.count_a("TxSoftware"), 0U) << "one was not left to the device";
    }
    // From now on software has to protect them.
    void offload_goes() { world_.a.command("ethtool -K va udp-crypto-hw-tx-offload off"); }
    // Takes what is there; how many have arrived in all.
    unsigned arrived() {
        while (const auto wire = receive(receiver_.get(), std::chrono::milliseconds(0))) {
            EXPECT_FALSE(contains_plaintext(*wire));
            // The keys say which it is.
            for (std::uint64_t pn = 0; pn < keys_.size(); ++pn)
                if (peek_packet_number(keys_[pn], *wire, Flow::shape().pn_offset(), pn) == pn &&
                    unprotect(keys_[pn], *wire, Flow::shape().pn_offset(), pn)) {
                    ++arrived_;
                    break;
                }
        }
        return arrived_;
    }

  private:
    World &world_;
    UniqueFd receiver_;
    UniqueFd sender_;
    std::vector<PacketKeys> keys_;
    unsigned arrived_ = 0;
};

TEST(Late, PacketsDoNotWaitForTheRingOfAnotherDevice) {
    if (simulated_wires().empty())
        GTEST_SKIP() << "no simulated device";
    constexpr unsigned kStuck = 600;
    constexpr unsigned kOthers = 20;
    World stuck_world(Wire::kOffload);
    World world(Wire::kOffload);
    LatePackets stuck(stuck_world, kStuck);
    LatePackets others(world, kOthers);
    stuck.offload_goes();
    others.offload_goes();
    stuck_world.turn_knob_a("ring_full", "1");
    EXPECT_TRUE(eventually([&] { return others.arrived() == kOthers; }))
        << others.arrived() << " arrive while another device's ring is full";
    EXPECT_EQ(stuck.arrived(), 0U);
    // None is lost: they wait in the qdisc, or to be let into it.
    stuck_world.turn_knob_a("ring_full", "0");
    EXPECT_TRUE(eventually([&] { return stuck.arrived() == kStuck; })) << stuck.arrived();
    EXPECT_EQ(stuck_world.count_a("TxSoftwareLate"), kStuck);
    for (World *each : {&stuck_world, &world}) {
        EXPECT_EQ(each->count_a("DropNoKeys"), 0U);
        each->expect_clean();
    }
}

// The device goes while packets wait in front of its qdisc: they go with it.
TEST(Late, PacketsThatWaitForARingGoWithTheDevice) {
    if (simulated_wires().empty())
        GTEST_SKIP() << "no simulated device";
    World world(Wire::kOffload);
    LatePackets late(world, 50);
    late.offload_goes();
    world.turn_knob_a("ring_full", "1");
    EXPECT_TRUE(eventually([&] { return world.count_a("TxSoftwareLate") > 0; }));
    world.a.command("ip link set va down");
    world.a.command("ip link set va up");
    world.turn_knob_a("ring_full", "0");
    world.remove_devices();
    EXPECT_EQ(late.arrived(), 0U);
}

// --- the drop monitor
// -------------------------------------------------------------------------------

// It shows the packets of all namespaces to the administrator of the first.
class DropMonitor {
  public:
    DropMonitor() {
        const UniqueFd first(::open("/proc/1/ns/net", O_RDONLY | O_CLOEXEC));
        const InNamespace inside(first.get());
        netlink_ = std::make_unique<RawNetlink>("NET_DM");
        EXPECT_EQ(netlink_
                      ->request(NET_DM_CMD_CONFIG,
                                {{NET_DM_ATTR_ALERT_MODE, {NET_DM_ALERT_MODE_PACKET}}}, NLM_F_ACK)
                      .error,
                  0);
        EXPECT_EQ(netlink_->join(), 0);
        EXPECT_EQ(netlink_->request(NET_DM_CMD_START, {}, NLM_F_ACK).error, 0);
    }
    ~DropMonitor() { netlink_->request(NET_DM_CMD_STOP, {}, NLM_F_ACK); }
    DropMonitor(const DropMonitor &) = delete;
    DropMonitor &operator=(const DropMonitor &) = delete;
    // What is shown of the next packet, or nothing when none has been dropped.
    std::optional<Bytes> next() {
        while (const auto message = netlink_->receive(false))
            if (const auto payload = find_attribute(*message, NET_DM_ATTR_PAYLOAD))
                return payload;
        return std::nullopt;
    }

  private:
    std::unique_ptr<RawNetlink> netlink_;
};

TEST(DropMonitor, ShowsTheHeadersOfPlaintext) {
    if (simulated_wires().empty())
        GTEST_SKIP() << "no simulated device";
    for (const bool v6 : {false, true}) {
        World world(Wire::kOffload);
        Flow flow(world.a, world.b, v6 ? Address::v6("fd01::2", 0) : Address::v4("10.1.1.2", 0));
        flow.settle(world);
        flow.expect_all_arrive();
        world.a.command(
            "tc qdisc add dev va clsact; tc filter add dev va egress matchall action drop");
        DropMonitor monitor;
        EXPECT_GT(flow.send_form({}), 0);
        EXPECT_GT(flow.send_form({.packets = 3}), 0);
        const std::size_t headers = 14 + (v6 ? 40 : 20) + 8;
        unsigned seen = 0;
        EXPECT_TRUE(eventually([&] {
            while (const auto shown = monitor.next()) {
                EXPECT_FALSE(contains_plaintext(*shown)) << shown->size() << " bytes";
                seen += shown->size() == headers && (*shown)[v6 ? 20 : 23] == IPPROTO_UDP;
            }
            return seen >= 2;
        })) << seen
            << " packets were shown";
    }
}

} // namespace
} // namespace quic_test
