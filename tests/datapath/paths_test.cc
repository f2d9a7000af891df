// SPDX-License-Identifier: GPL-2.0
//
// Every way a packet can take from a socket to another: what arrives decrypts to what was sent, in
// every form of send, and nobody on the way hears plaintext or a wrong checksum.
#include <set>
#include <string>

#include <gtest/gtest.h>
#include <netinet/ip.h>

#include "world.h"

namespace quic_test {
namespace {

struct Path {
    const char *name;
    const char *a; // commands in host a; @B@ is the path of host b's namespace
    const char *b;
    const char *to; // address of the receiver
    bool gso = true;
    bool below = false; // what is below the socket decides: also over devices that encrypt
};

std::string with_path(std::string script, const NetNamespace &b) {
    for (std::size_t at = 0; (at = script.find("@B@", at)) != std::string::npos;)
        script.replace(at, 3, b.path());
    return script;
}

Address address(const std::string &text, std::uint16_t port = 0) {
    return text.find(':') == std::string::npos ? Address::v4(text, port) : Address::v6(text, port);
}

std::ostream &operator<<(std::ostream &out, const Path &path) { return out << path.name; }

// The device does the work where it can: counted there, not in software. It gets to know an SA by
// its first packets, and takes no keys with a message.
TEST(Offload, DoesTheWorkWhereItCan) {
    for (const char *to : {"10.1.1.2", "fd01::2"}) {
        World world(Wire::kOffload);
        Flow flow(world.a, world.b, address(to));
        flow.settle(world);
        const std::uint64_t sent = flow.sent();
        const std::uint64_t device = world.count_a("TxDevice");
        const std::uint64_t software = world.count_a("TxSoftware");
        constexpr std::uint64_t kInline = 2 * (1 + 3); // of two rounds of all forms
        flow.send_all_forms(2);
        flow.expect_all_arrive();
        EXPECT_EQ(world.count_a("TxDevice") - device, flow.sent() - sent - kInline);
        EXPECT_EQ(world.count_a("TxSoftware") - software, kInline);
        EXPECT_EQ(world.count_a("DropNoKeys"), 0U);
        world.expect_clean();
    }
}

class Paths : public testing::TestWithParam<std::tuple<Path, Wire>> {};

TEST_P(Paths, EverythingArrivesProtected) {
    const auto &[path, wire] = GetParam();
    World world(wire);
    if (path.a[0])
        world.a.command(with_path(path.a, world.b));
    if (path.b[0])
        world.b.command(path.b);
    world.listen();
    Flow flow(world.a, world.b, address(path.to));
    flow.send_all_forms(2, path.gso);
    flow.expect_all_arrive(false, wire == Wire::kVeth ? nullptr : &world);
    if (!path.gso) {
        const std::uint64_t before = world.count_a("TxPackets");
        EXPECT_EQ(flow.send_form({.packets = 3}), -EIO);
        EXPECT_EQ(world.count_a("TxPackets"), before);
    }
    // Nobody hears what is inside ESP in transport mode.
    world.expect_clean(std::string(path.name) == "XfrmTransport");
}

const Path kPaths[] = {
    {"Plain4", "", "", "10.1.1.2", true, true},
    {"Plain6", "", "", "fd01::2", true, true},
    {"NoOffload4", "ethtool -K va tx off sg off gso off tx-udp-segmentation off >/dev/null", "",
     "10.1.1.2"},
    {"NoOffload6", "ethtool -K va tx off sg off gso off tx-udp-segmentation off >/dev/null", "",
     "fd01::2"},
    {"NoChecksum4", "ethtool -K va tx off >/dev/null", "", "10.1.1.2", true, true},
    {"NoChecksum6", "ethtool -K va tx off >/dev/null", "", "fd01::2", true, true},
    {"NoUdpSegmentation4", "ethtool -K va tx-udp-segmentation off >/dev/null", "", "10.1.1.2"},
    {"NoUdpSegmentation6", "ethtool -K va tx-udp-segmentation off >/dev/null", "", "fd01::2"},
    {"NoScatterGather", "ethtool -K va sg off >/dev/null", "", "10.1.1.2"},
    {"NoGso", "ethtool -K va gso off >/dev/null", "", "10.1.1.2", true, true},
    {"Vlan",
     "ip link add link va name va.7 type vlan id 7; ip addr add 10.1.7.1/24 dev va.7; "
     "ip link set va.7 up",
     "ip link add link vb name vb.7 type vlan id 7; ip addr add 10.1.7.2/24 dev vb.7; "
     "ip link set vb.7 up",
     "10.1.7.2", true, true},
    {"VlanNoOffload",
     "ip link add link va name va.7 type vlan id 7; ip addr add fd07::1/64 dev va.7 nodad; "
     "ip link set va.7 up; ethtool -K va txvlan off tx off gso off >/dev/null",
     "ip link add link vb name vb.7 type vlan id 7; ip addr add fd07::2/64 dev vb.7 nodad; "
     "ip link set vb.7 up",
     "fd07::2", true, true},
    {"Bridge",
     "ip addr flush dev va; ip link add br0 type bridge forward_delay 0; ip link set va master "
     "br0; "
     "ip addr add 10.1.1.1/24 dev br0; ip link set br0 up",
     "", "10.1.1.2", true, true},
    {"BridgesOnBothSides",
     "ip addr flush dev va; ip link add br0 type bridge forward_delay 0; ip link set va master "
     "br0; "
     "ip addr add 10.1.1.1/24 dev br0; ip link set br0 up",
     "ip addr flush dev vb; ip link add br0 type bridge forward_delay 0; ip link set vb master "
     "br0; "
     "ip addr add 10.1.1.2/24 dev br0; ip link set br0 up",
     "10.1.1.2"},
    {"Macvlan",
     "ip link add mv0 link va type macvlan mode bridge; ip addr add 10.1.8.1/24 dev mv0; "
     "ip link set mv0 up",
     "ip addr add 10.1.8.2/24 dev vb", "10.1.8.2", true, true},
    {"Ipvlan",
     "ip link add iv0 link va type ipvlan mode l2; ip addr add 10.1.8.1/24 dev iv0; "
     "ip link set iv0 up",
     "ip addr add 10.1.8.2/24 dev vb", "10.1.8.2"},
    {"Vrf",
     "ip link add vrf0 type vrf table 77; ip link set vrf0 up; ip link set va master vrf0; "
     "ip rule add to 10.1.1.0/24 table 77 pref 10",
     "", "10.1.1.2"},
    {"Bond",
     "ip addr flush dev va; ip link add bond0 type bond mode balance-rr; ip link set va down; ip "
     "link set va master bond0;"
     "ip addr add 10.1.1.1/24 dev bond0; ip link set bond0 up; ip link set va up",
     "", "10.1.1.2", true, true},
    {"Vxlan",
     "ip link add vx type vxlan id 5 local 10.1.1.1 remote 10.1.1.2 dstport 4789 dev va; "
     "ip addr add 10.1.5.1/24 dev vx; ip link set vx up",
     "ip link add vx type vxlan id 5 local 10.1.1.2 remote 10.1.1.1 dstport 4789 dev vb; "
     "ip addr add 10.1.5.2/24 dev vx; ip link set vx up",
     "10.1.5.2", true, true},
    {"VxlanNoOffload",
     "ip link add vx type vxlan id 5 local 10.1.1.1 remote 10.1.1.2 dstport 4789 dev va udpcsum; "
     "ip addr add 10.1.5.1/24 dev vx; ip link set vx up; "
     "ethtool -K va tx off gso off >/dev/null; ethtool -K vx tx off gso off >/dev/null",
     "ip link add vx type vxlan id 5 local 10.1.1.2 remote 10.1.1.1 dstport 4789 dev vb udpcsum; "
     "ip addr add 10.1.5.2/24 dev vx; ip link set vx up",
     "10.1.5.2"},
    {"Geneve",
     "ip link add gn type geneve id 5 remote fd01::2; ip addr add fd05::1/64 dev gn nodad; "
     "ip link set gn up",
     "ip link add gn type geneve id 5 remote fd01::1; ip addr add fd05::2/64 dev gn nodad; "
     "ip link set gn up",
     "fd05::2"},
    {"Gre",
     "ip link add gr type gre local 10.1.1.1 remote 10.1.1.2 csum; ip addr add 10.1.5.1/24 dev gr; "
     "ip link set gr up",
     "ip link add gr type gre local 10.1.1.2 remote 10.1.1.1 csum; ip addr add 10.1.5.2/24 dev gr; "
     "ip link set gr up",
     "10.1.5.2", true, true},
    {"Gretap",
     "ip link add gt type gretap local 10.1.1.1 remote 10.1.1.2; ip addr add 10.1.5.1/24 dev gt; "
     "ip link set gt up",
     "ip link add gt type gretap local 10.1.1.2 remote 10.1.1.1; ip addr add 10.1.5.2/24 dev gt; "
     "ip link set gt up",
     "10.1.5.2"},
    {"Ipip",
     "ip link add ti type ipip local 10.1.1.1 remote 10.1.1.2; ip addr add 10.1.5.1/24 dev ti; "
     "ip link set ti up",
     "ip link add ti type ipip local 10.1.1.2 remote 10.1.1.1; ip addr add 10.1.5.2/24 dev ti; "
     "ip link set ti up",
     "10.1.5.2"},
    {"Sit",
     "ip link add si type sit local 10.1.1.1 remote 10.1.1.2; ip addr add fd05::1/64 dev si nodad; "
     "ip link set si up",
     "ip link add si type sit local 10.1.1.2 remote 10.1.1.1; ip addr add fd05::2/64 dev si nodad; "
     "ip link set si up",
     "fd05::2"},
    {"Ip6Tunnel",
     "ip link add t6 type ip6tnl mode any local fd01::1 remote fd01::2; "
     "ip addr add 10.1.5.1/24 dev t6; ip addr add fd05::1/64 dev t6 nodad; ip link set t6 up",
     "ip link add t6 type ip6tnl mode any local fd01::2 remote fd01::1; "
     "ip addr add 10.1.5.2/24 dev t6; ip addr add fd05::2/64 dev t6 nodad; ip link set t6 up",
     "fd05::2"},
    {"Ip6Gre",
     "ip link add g6 type ip6gre local fd01::1 remote fd01::2; ip addr add 10.1.5.1/24 dev g6; "
     "ip link set g6 up",
     "ip link add g6 type ip6gre local fd01::2 remote fd01::1; ip addr add 10.1.5.2/24 dev g6; "
     "ip link set g6 up",
     "10.1.5.2"},
    {"LwtunnelOverVxlan",
     "ip link add vx type vxlan external dstport 4789; ip addr add 10.1.5.1/24 dev vx; "
     "ip link set vx up; ip route add 10.1.6.0/24 encap ip id 9 dst 10.1.1.2 dev vx; "
     "ip neigh add 10.1.6.2 lladdr 02:00:00:00:00:66 dev vx",
     "ip link add vx address 02:00:00:00:00:66 type vxlan id 9 local 10.1.1.2 dstport 4789; "
     "ip addr add 10.1.6.2/24 dev vx; ip link set vx up; ip route add 10.1.5.0/24 dev vx",
     "10.1.6.2"},
    {"LwtunnelSeg6", "ip route add fd06::/64 encap seg6 mode encap segs fd01::2 dev va",
     "sysctl -qw net.ipv6.conf.all.seg6_enabled=1 net.ipv6.conf.vb.seg6_enabled=1; "
     "ip addr add fd06::2/64 dev lo nodad",
     "fd06::2", true, true},
    {"LwtunnelSeg6Inline", "ip route add fd06::/64 encap seg6 mode inline segs fd01::2 dev va",
     "sysctl -qw net.ipv6.conf.all.seg6_enabled=1 net.ipv6.conf.vb.seg6_enabled=1; "
     "ip addr add fd06::2/64 dev lo nodad",
     "fd06::2", true, true},
    {"XfrmTransport",
     "ip xfrm state add src 10.1.1.1 dst 10.1.1.2 proto esp spi 0x11 reqid 1 mode transport "
     "aead 'rfc4106(gcm(aes))' 0x0102030405060708090a0b0c0d0e0f1011121314 128; "
     "ip xfrm policy add src 10.1.1.1 dst 10.1.1.2 dir out "
     "tmpl src 10.1.1.1 dst 10.1.1.2 proto esp reqid 1 mode transport",
     "ip xfrm state add src 10.1.1.1 dst 10.1.1.2 proto esp spi 0x11 reqid 1 mode transport "
     "aead 'rfc4106(gcm(aes))' 0x0102030405060708090a0b0c0d0e0f1011121314 128",
     "10.1.1.2", false, true},
    {"XfrmTunnel",
     "ip route add 10.1.6.0/24 dev va; "
     "ip xfrm state add src 10.1.1.1 dst 10.1.1.2 proto esp spi 0x11 reqid 1 mode tunnel "
     "aead 'rfc4106(gcm(aes))' 0x0102030405060708090a0b0c0d0e0f1011121314 128; "
     "ip xfrm policy add dst 10.1.6.0/24 dir out "
     "tmpl src 10.1.1.1 dst 10.1.1.2 proto esp reqid 1 mode tunnel",
     "ip addr add 10.1.6.2/24 dev lo; ip xfrm policy add dst 10.1.6.0/24 dir in "
     "tmpl src 10.1.1.1 dst 10.1.1.2 proto esp reqid 1 mode tunnel; "
     "ip xfrm state add src 10.1.1.1 dst 10.1.1.2 proto esp spi 0x11 reqid 1 mode tunnel "
     "aead 'rfc4106(gcm(aes))' 0x0102030405060708090a0b0c0d0e0f1011121314 128",
     "10.1.6.2", false, true},
    {"XfrmTunnel6",
     "ip route add fd06::/64 dev va; "
     "ip xfrm state add src fd01::1 dst fd01::2 proto esp spi 0x11 reqid 1 mode tunnel "
     "aead 'rfc4106(gcm(aes))' 0x0102030405060708090a0b0c0d0e0f1011121314 128; "
     "ip xfrm policy add dst fd06::/64 dir out "
     "tmpl src fd01::1 dst fd01::2 proto esp reqid 1 mode tunnel",
     "ip addr add fd06::2/64 dev lo nodad; ip xfrm policy add dst fd06::/64 dir in "
     "tmpl src fd01::1 dst fd01::2 proto esp reqid 1 mode tunnel; "
     "ip xfrm state add src fd01::1 dst fd01::2 proto esp spi 0x11 reqid 1 mode tunnel "
     "aead 'rfc4106(gcm(aes))' 0x0102030405060708090a0b0c0d0e0f1011121314 128",
     "fd06::2", false},
    {"XfrmInterface",
     "ip link add xf type xfrm dev va if_id 3; ip link set xf up; ip addr add 10.1.5.1/24 dev xf; "
     "ip xfrm state add src 10.1.1.1 dst 10.1.1.2 proto esp spi 0x11 reqid 1 mode tunnel if_id 3 "
     "aead 'rfc4106(gcm(aes))' 0x0102030405060708090a0b0c0d0e0f1011121314 128; "
     "ip xfrm policy add dst 10.1.5.0/24 dir out if_id 3 "
     "tmpl src 10.1.1.1 dst 10.1.1.2 proto esp reqid 1 mode tunnel",
     "ip link add xf type xfrm dev vb if_id 3; ip link set xf up; ip addr add 10.1.5.2/24 dev xf; "
     "ip xfrm state add src 10.1.1.1 dst 10.1.1.2 proto esp spi 0x11 reqid 1 mode tunnel if_id 3 "
     "aead 'rfc4106(gcm(aes))' 0x0102030405060708090a0b0c0d0e0f1011121314 128; "
     "ip xfrm policy add dst 10.1.5.0/24 dir in if_id 3 "
     "tmpl src 10.1.1.1 dst 10.1.1.2 proto esp reqid 1 mode tunnel",
     "10.1.5.2", true, true},
    {"QdiscFq", "tc qdisc replace dev va root fq", "", "10.1.1.2", true, true},
    {"QdiscFqCodel", "tc qdisc replace dev va root fq_codel", "", "fd01::2"},
    {"QdiscPrio", "tc qdisc replace dev va root handle 1: prio", "", "10.1.1.2"},
    // A bucket smaller than a batch: the qdisc cuts batches itself.
    {"QdiscTbfCutsBatches", "tc qdisc replace dev va root tbf rate 200mbit burst 4000 latency 5s",
     "", "10.1.1.2", true, true},
    {"QdiscTbfCutsBatches6", "tc qdisc replace dev va root tbf rate 200mbit burst 4000 latency 5s",
     "", "fd01::2", true, true},
    {"QdiscTbf", "tc qdisc replace dev va root tbf rate 200mbit burst 100000 latency 5s", "",
     "10.1.1.2"},
    {"QdiscNetemDelay", "tc qdisc replace dev va root netem delay 20ms limit 10000", "", "10.1.1.2",
     true, true},
    {"QdiscNetemReorder",
     "tc qdisc replace dev va root netem delay 10ms reorder 30% gap 3 limit 10000", "", "10.1.1.2",
     true, true},
    {"QdiscNetemDelay6", "tc qdisc replace dev va root netem delay 20ms 10ms limit 10000", "",
     "fd01::2"},
    {"QdiscNetemOverTunnel",
     "ip link add gr type gre local 10.1.1.1 remote 10.1.1.2; ip addr add 10.1.5.1/24 dev gr; "
     "ip link set gr up; tc qdisc replace dev gr root netem delay 10ms; "
     "tc qdisc replace dev va root netem delay 10ms",
     "ip link add gr type gre local 10.1.1.2 remote 10.1.1.1; ip addr add 10.1.5.2/24 dev gr; "
     "ip link set gr up",
     "10.1.5.2", true, true},
    {"TcRedirectEgress",
     "ip link add d0 type dummy; ip addr add 10.1.9.1/24 dev d0; ip link set d0 up; "
     "ip neigh add 10.1.9.2 lladdr ff:ff:ff:ff:ff:ff dev "
     "d0; tc qdisc add dev d0 clsact; "
     "tc filter add dev d0 egress matchall action mirred egress redirect dev va",
     "ip addr add 10.1.9.2/24 dev vb", "10.1.9.2", true, true},
    {"NftDupAndNat",
     "nft add table ip t; nft 'add chain ip t o { type nat hook output priority -100; }'; "
     "nft add rule ip t o ip daddr 10.1.99.9 dnat to 10.1.1.2; ip route add 10.1.99.0/24 dev va",
     "", "10.1.99.9", true, true},
};

// What plain UDP does not get across this device in 6.12 either: batches in GRE with checksums (the
// stack's outer checksum is wrong where the device does the inner one), and any datagram under a
// routing header (the device takes the address in the IPv6 header for the pseudo header).
const std::set<std::string> kNotOverConnectx{"Gre", "LwtunnelSeg6Inline"};

std::vector<std::tuple<Path, Wire>> paths_over_wires() {
    std::vector<std::tuple<Path, Wire>> out;
    for (const Path &path : kPaths) {
        for (Wire wire : all_wires())
            if ((wire == Wire::kVeth || path.below) &&
                !(wire == Wire::kConnectx && kNotOverConnectx.contains(path.name)))
                out.emplace_back(path, wire);
    }
    return out;
}

INSTANTIATE_TEST_SUITE_P(All, Paths, testing::ValuesIn(paths_over_wires()), [](const auto &info) {
    return std::string(std::get<0>(info.param).name) + "Over" + name(std::get<1>(info.param));
});

// The listeners do hear plaintext and wrong checksums: their silence elsewhere means something.
TEST(Listeners, HearPlaintextThatIsSentOnPurpose) {
    World world;
    Flow flow(world.a, world.b, Address::v4("10.1.1.2", 0));
    ASSERT_GT(send(flow.sender(), make_packet(Flow::shape(), 1, 1000), Control(), &flow.to()), 0);
    ASSERT_TRUE(receive(flow.receiver()).has_value());
    const auto in_a = world.sniffer_a().complaints();
    const auto in_b = world.sniffer_b().complaints();
    EXPECT_EQ(in_a.size(), 1U);
    EXPECT_EQ(in_b.size(), 1U);
    // With checksums left to software the listeners verify them.
    world.a.command("ethtool -K va tx off >/dev/null");
    ASSERT_GT(send(flow.sender(), Bytes(1000, 1), Control(), &flow.to()), 0);
    ASSERT_TRUE(receive(flow.receiver()).has_value());
    EXPECT_TRUE(world.sniffer_b().complaints().empty());
    EXPECT_GT(world.sniffer_b().checksums_verified(), 0U);
}

TEST(Checksums, OfSoftwareAreVerifiedByListenersAndReceiver) {
    for (const char *to : {"10.1.1.2", "fd01::2"}) {
        World world;
        world.a.command("ethtool -K va tx off gso off tx-udp-segmentation off >/dev/null");
        Flow flow(world.a, world.b, address(to));
        for (std::size_t size : {13, 14, 15, 16, 17, 100, 101, 1000, 1001, 1183, 1184}) {
            flow.set_size(size);
            flow.send_all_forms(1);
        }
        flow.expect_all_arrive();
        world.expect_clean();
        EXPECT_GE(world.sniffer_b().checksums_verified(), flow.sent());
    }
}

} // namespace
} // namespace quic_test
