// SPDX-License-Identifier: GPL-2.0
//
// Paths with an event in the middle, and copies of packets that take a way of their own: multicast
// and broadcast to local members, IP options, loss and duplication, tc and nftables that mirror and
// redirect, routes and devices that go away, SAs and sockets that end while packets wait in a
// qdisc.
#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <net/if.h>
#include <netinet/ip.h>
#include <sys/mman.h>

#include "world.h"

namespace quic_test {
namespace {

const std::vector<Wire> kWires = all_wires();

// Over an offloading device, packets that software must protect late may find its ciphers not yet
// set up; the first are dropped and counted.
const World *lossy(const World &world) { return world.wire() == Wire::kVeth ? nullptr : &world; }

class LocalCopies : public testing::TestWithParam<Wire> {};
class IpOptions : public testing::TestWithParam<Wire> {};
class Netem : public testing::TestWithParam<Wire> {};
class Tc : public testing::TestWithParam<Wire> {};
class Nftables : public testing::TestWithParam<Wire> {};
class Changes : public testing::TestWithParam<Wire> {};
class Nonces : public testing::TestWithParam<Wire> {};
class QueuedLife : public testing::TestWithParam<Wire> {};

std::string wire_name(const testing::TestParamInfo<Wire> &info) { return name(info.param); }

INSTANTIATE_TEST_SUITE_P(Over, LocalCopies, testing::ValuesIn(kWires), wire_name);
INSTANTIATE_TEST_SUITE_P(Over, IpOptions, testing::ValuesIn(kWires), wire_name);
INSTANTIATE_TEST_SUITE_P(Over, Netem, testing::ValuesIn(kWires), wire_name);
INSTANTIATE_TEST_SUITE_P(Over, Tc, testing::ValuesIn(kWires), wire_name);
INSTANTIATE_TEST_SUITE_P(Over, Nftables, testing::ValuesIn(kWires), wire_name);
INSTANTIATE_TEST_SUITE_P(Over, Changes, testing::ValuesIn(kWires), wire_name);
INSTANTIATE_TEST_SUITE_P(Over, Nonces, testing::ValuesIn(kWires), wire_name);
INSTANTIATE_TEST_SUITE_P(Over, QueuedLife, testing::ValuesIn(kWires), wire_name);

Statistics statistics_of(const NetNamespace &ns) {
    const InNamespace inside(ns);
    return Statistics::read();
}

// A further receiver of the flow's port.
UniqueFd receiver_at(const NetNamespace &ns, const Address &address) {
    UniqueFd fd;
    ns.run([&] {
        fd = udp_socket(address.family());
        set_option(fd.get(), SOL_SOCKET, SO_REUSEADDR, 1);
        set_option(fd.get(), SOL_SOCKET, SO_RCVBUFFORCE, 16 << 20);
        bind_to(fd.get(), address);
    });
    return fd;
}

// --- multicast and broadcast ----------------------------------------------------------------

// A device lets a group's packets in some time after the group was joined: mlx5 has a worker for
// it.
void await_group(const World &world, const Flow &flow, const Address &any, const Address &group) {
    const UniqueFd probe = receiver_at(world.b, any);
    ASSERT_TRUE(eventually([&] {
        EXPECT_GT(send(flow.sender(), Bytes(4, 0), Control(), &group), 0);
        return receive(probe.get(), std::chrono::milliseconds(50)).has_value();
    }));
}

TEST_P(LocalCopies, Multicast4WithALocalMember) {
    World world(GetParam());
    Flow flow(world.a, world.b, Address::v4("239.1.2.3", 4433));
    UniqueFd local = receiver_at(world.a, Address::v4("0.0.0.0", 4433));
    ip_mreqn group{};
    ::inet_pton(AF_INET, "239.1.2.3", &group.imr_multiaddr);
    world.a.run([&] { group.imr_ifindex = static_cast<int>(::if_nametoindex("va")); });
    ASSERT_EQ(::setsockopt(local.get(), SOL_IP, IP_ADD_MEMBERSHIP, &group, sizeof(group)), 0);
    ASSERT_EQ(::setsockopt(flow.sender(), SOL_IP, IP_MULTICAST_IF, &group, sizeof(group)), 0);
    set_option(flow.sender(), SOL_IP, IP_MULTICAST_LOOP, 1);
    world.b.run([&] { group.imr_ifindex = static_cast<int>(::if_nametoindex("vb")); });
    ASSERT_EQ(::setsockopt(flow.receiver(), SOL_IP, IP_ADD_MEMBERSHIP, &group, sizeof(group)), 0);
    await_group(world, flow, Address::v4("0.0.0.0", 4434), Address::v4("239.1.2.3", 4434));
    flow.send_all_forms();
    flow.expect_all_arrive(false, lossy(world));
    for (std::uint64_t i = 0; i < flow.sent(); ++i) {
        const auto copy = receive(local.get());
        ASSERT_TRUE(copy.has_value()) << "the local member misses packets, from " << i;
        EXPECT_TRUE(flow.is_of_this_flow(*copy));
    }
    EXPECT_EQ(flow.duplicates(), flow.sent()); // each once there and once here
    world.expect_clean();
}

TEST_P(LocalCopies, Multicast6WithALocalMember) {
    World world(GetParam());
    Flow flow(world.a, world.b, Address::v6("ff15::1:2:3", 4433));
    UniqueFd local = receiver_at(world.a, Address::v6("::", 4433));
    ipv6_mreq group{};
    ::inet_pton(AF_INET6, "ff15::1:2:3", &group.ipv6mr_multiaddr);
    world.a.run([&] { group.ipv6mr_interface = ::if_nametoindex("va"); });
    ASSERT_EQ(::setsockopt(local.get(), SOL_IPV6, IPV6_ADD_MEMBERSHIP, &group, sizeof(group)), 0);
    set_option(flow.sender(), SOL_IPV6, IPV6_MULTICAST_IF,
               static_cast<int>(group.ipv6mr_interface));
    set_option(flow.sender(), SOL_IPV6, IPV6_MULTICAST_LOOP, 1);
    world.b.run([&] { group.ipv6mr_interface = ::if_nametoindex("vb"); });
    ASSERT_EQ(::setsockopt(flow.receiver(), SOL_IPV6, IPV6_ADD_MEMBERSHIP, &group, sizeof(group)),
              0);
    await_group(world, flow, Address::v6("::", 4434), Address::v6("ff15::1:2:3", 4434));
    flow.send_all_forms();
    flow.expect_all_arrive(false, lossy(world));
    for (std::uint64_t i = 0; i < flow.sent(); ++i) {
        const auto copy = receive(local.get());
        ASSERT_TRUE(copy.has_value()) << "the local member misses packets, from " << i;
        EXPECT_TRUE(flow.is_of_this_flow(*copy));
    }
    world.expect_clean();
}

TEST_P(LocalCopies, Broadcast) {
    World world(GetParam());
    Flow flow(world.a, world.b, Address::v4("10.1.1.255", 4433));
    set_option(flow.sender(), SOL_SOCKET, SO_BROADCAST, 1);
    UniqueFd local = receiver_at(world.a, Address::v4("0.0.0.0", 4433));
    flow.send_all_forms();
    flow.expect_all_arrive(false, lossy(world));
    for (std::uint64_t i = 0; i < flow.sent(); ++i) {
        const auto copy = receive(local.get());
        ASSERT_TRUE(copy.has_value()) << "the local receiver misses packets, from " << i;
        EXPECT_TRUE(flow.is_of_this_flow(*copy));
    }
    world.expect_clean();
}

// --- IP options -----------------------------------------------------------------------------

TEST_P(IpOptions, OfTheSocket) {
    World world(GetParam());
    Flow flow(world.a, world.b, Address::v4("10.1.1.2", 0));
    // Record route, room for three addresses, and an end
    const std::uint8_t options[] = {7, 15, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0};
    ASSERT_EQ(::setsockopt(flow.sender(), SOL_IP, IP_OPTIONS, options, sizeof(options)), 0);
    flow.send_all_forms();
    flow.expect_all_arrive(false, lossy(world));
    world.expect_clean();
}

TEST_P(IpOptions, OfTheControlMessage) {
    World world(GetParam());
    Flow flow(world.a, world.b, Address::v4("10.1.1.2", 0));
    const std::uint8_t options[] = {1, 1, 1, 0};
    const Bytes plain = make_packet(Flow::shape(), 9, 1000);
    ASSERT_EQ(send(flow.sender(), plain,
                   Control()
                       .add(SOL_IP, IP_RETOPTS, options, sizeof(options))
                       .quic(9, flow.sa(), Flow::shape().pn_offset()),
                   &flow.to()),
              1000);
    const auto wire = receive(flow.receiver());
    ASSERT_TRUE(wire.has_value());
    const auto opened = unprotect(flow.keys(), *wire, Flow::shape().pn_offset(), 9);
    ASSERT_TRUE(opened.has_value());
    EXPECT_EQ(opened->packet, plain);
    world.expect_clean();
}

TEST_P(IpOptions, ExtensionHeadersOfIpv6) {
    for (int option : {IPV6_DSTOPTS, IPV6_HOPOPTS}) {
        World world(GetParam());
        Flow flow(world.a, world.b, Address::v6("fd01::2", 0));
        const std::uint8_t header[8] = {0, 0, 1, 4, 0, 0, 0, 0};
        ASSERT_EQ(::setsockopt(flow.sender(), SOL_IPV6, option, header, sizeof(header)), 0);
        flow.send_all_forms(1, false);
        flow.expect_all_arrive(false, lossy(world));
        // A batch with extension headers works or is refused as without protection.
        const ssize_t without =
            send(flow.sender(), Bytes(2400, 1), Control().gso_size(1200), &flow.to());
        const ssize_t with = flow.send_form({.packets = 2});
        EXPECT_EQ(with < 0 ? with : 0, without < 0 ? without : 0);
        world.expect_clean();
    }
}

TEST_P(IpOptions, TosTtlAndPacketInfoOfTheControlMessage) {
    World world(GetParam());
    Flow flow(world.a, world.b, Address::v4("10.1.1.2", 0));
    const int tos = 0xb8;
    const int ttl = 7;
    in_pktinfo info{};
    ::inet_pton(AF_INET, "10.1.1.1", &info.ipi_spec_dst);
    for (std::uint64_t pn : {20, 22}) {
        const Bytes plain = join_packets(
            {make_packet(Flow::shape(), pn, 1184), make_packet(Flow::shape(), pn + 1, 1184)});
        ASSERT_EQ(send(flow.sender(), plain,
                       Control()
                           .add(SOL_IP, IP_TOS, &tos, sizeof(tos))
                           .quic(pn, flow.sa(), Flow::shape().pn_offset())
                           .add(SOL_IP, IP_TTL, &ttl, sizeof(ttl))
                           .gso_size(1200)
                           .add(SOL_IP, IP_PKTINFO, &info, sizeof(info)),
                       &flow.to()),
                  2 * 1184);
        for (int i = 0; i < 2; ++i) {
            const auto wire = receive(flow.receiver());
            ASSERT_TRUE(wire && unprotect(flow.keys(), *wire, Flow::shape().pn_offset(), pn + i));
        }
    }
    unsigned seen = 0;
    for (const Frame &frame : world.sniffer_b().drain()) {
        const UdpView udp = find_udp(frame);
        if (!udp.found)
            continue;
        ++seen;
        EXPECT_EQ(frame.data[1], tos);
        EXPECT_EQ(frame.data[8], ttl);
        EXPECT_FALSE(contains_plaintext(frame.data));
    }
    EXPECT_GT(seen, 0U);
}

// --- loss, duplication ----------------------------------------------------------------------

TEST_P(Netem, LossAndReordering) {
    World world(GetParam());
    world.a.command("tc qdisc replace dev va root netem delay 3ms 3ms loss 30% limit 10000");
    Flow flow(world.a, world.b, Address::v4("10.1.1.2", 0));
    // Whatever is lost, enough comes through, all of it right.
    for (int round = 0; round < 200 && flow.arrived() < 60; ++round) {
        flow.send_all_forms(1);
        while (flow.take_one(std::chrono::milliseconds(10)))
            ;
    }
    EXPECT_GE(flow.arrived(), 60U);
    EXPECT_LT(flow.arrived(), flow.sent());
    world.expect_clean();
}

TEST_P(Netem, Duplication) {
    for (const char *to : {"10.1.1.2", "fd01::2"}) {
        World world(GetParam());
        world.a.command("tc qdisc replace dev va root netem delay 2ms duplicate 100% limit 10000");
        Flow flow(world.a, world.b, to[0] == 'f' ? Address::v6(to, 0) : Address::v4(to, 0));
        flow.send_all_forms();
        // Each arrives twice, and both copies decrypt: neither was encrypted twice.
        const auto lost = [&] { return world.count_a("DropNoKeys"); };
        EXPECT_TRUE(eventually([&] {
            while (flow.take_one(std::chrono::milliseconds(20)))
                ;
            return flow.arrived() + flow.duplicates() + lost() == 2 * flow.sent();
        })) << flow.arrived()
            << " + " << flow.duplicates() << " + " << lost() << " lost, of " << 2 * flow.sent();
        if (GetParam() == Wire::kVeth) {
            EXPECT_EQ(lost(), 0U);
        }
        EXPECT_GT(flow.duplicates(), 0U);
        world.expect_clean();
    }
}

// Damage on the way is what it is on any wire: it must not arrive as genuine. (In front of a device
// that encrypts, netem damages what is still plaintext; no stack can tell.)
TEST_P(Netem, Corruption) {
    if (GetParam() != Wire::kVeth)
        return;
    World world(GetParam());
    world.a.command("tc qdisc replace dev va root netem corrupt 50% limit 10000");
    Flow flow(world.a, world.b, Address::v4("10.1.1.2", 0));
    flow.send_all_forms(3);
    unsigned arrived = 0;
    while (const auto wire = receive(flow.receiver(), std::chrono::milliseconds(200))) {
        EXPECT_FALSE(contains_plaintext(*wire));
        // is_of_this_flow() compares what decrypts with what was sent.
        arrived += flow.is_of_this_flow(*wire);
    }
    EXPECT_GT(arrived, 0U);
    for (const Frame &frame : world.sniffer_b().drain())
        EXPECT_FALSE(contains_plaintext(frame.data));
}

// --- tc and nftables ------------------------------------------------------------------------

// A third device, from a to b: wa 10.3.1.1 and wb 10.3.1.2.
void add_second_wire(World &world) {
    world.a.command("ip link add wa type veth peer name wb netns " + world.b.path() +
                    "; ip addr add 10.3.1.1/24 dev wa; ip link set wa up");
    world.b.command("ip addr add 10.3.1.2/24 dev wb; ip link set wb up; "
                    "sysctl -qw net.ipv4.conf.all.rp_filter=0 net.ipv4.conf.wb.rp_filter=0 "
                    "net.ipv4.conf.wb.accept_local=1");
    world.listen();
}

TEST_P(Tc, MirrorToAnotherDevice) {
    World world(GetParam());
    add_second_wire(world);
    world.a.command("tc qdisc add dev va clsact; "
                    "tc filter add dev va egress matchall action mirred egress mirror dev wa");
    Flow flow(world.a, world.b, Address::v4("10.1.1.2", 0));
    const auto before = world.a.command("ip -s link show wa");
    flow.send_all_forms();
    flow.expect_all_arrive(true, lossy(world));
    // The copies on the other wire are protected too, and there are some.
    unsigned copies = 0;
    unsigned index = 0;
    world.a.run([&] { index = ::if_nametoindex("wa"); });
    for (const Frame &frame : world.sniffer_a().drain()) {
        EXPECT_FALSE(contains_plaintext(frame.data)) << "device " << frame.ifindex;
        copies += static_cast<unsigned>(frame.ifindex) == index && find_udp(frame).found;
    }
    EXPECT_GT(copies, 0U);
    world.expect_clean();
}

TEST_P(Tc, RedirectToAnotherDevice) {
    World world(GetParam());
    add_second_wire(world);
    world.a.command("tc qdisc add dev va clsact; "
                    "tc filter add dev va egress protocol ip u32 match ip protocol 17 0xff "
                    "action mirred egress redirect dev wa; "
                    "ip link set wa address " +
                    World::mac(world.a, "va"));
    world.b.command("ip link set wb address " + World::mac(world.b, "vb"));
    Flow flow(world.a, world.b, Address::v4("10.1.1.2", 0));
    flow.send_all_forms();
    flow.expect_all_arrive(false, lossy(world));
    world.expect_clean();
}

// Into the receive path of a device of the same host: no device ever transmits the packet.
TEST_P(Tc, RedirectAndMirrorToIngress) {
    for (const char *action : {"redirect", "mirror"}) {
        World world(GetParam());
        Flow flow(world.a, world.b, Address::v4("10.1.1.2", 0));
        // Now, while the neighbour can still be asked for its address.
        if (GetParam() == Wire::kVeth) {
            ASSERT_GT(flow.send_form({}), 0);
            ASSERT_TRUE(flow.take_one());
        } else {
            flow.settle(world);
        }
        world.a.command("ip link add d0 type dummy; ip link set d0 up; tc qdisc add dev va clsact; "
                        "tc filter add dev va egress matchall action mirred ingress " +
                        std::string(action) + " dev d0");
        world.listen();
        unsigned index = 0;
        world.a.run([&] { index = ::if_nametoindex("d0"); });
        flow.send_all_forms();
        unsigned heard = 0;
        EXPECT_TRUE(eventually([&] {
            for (const Frame &frame : world.sniffer_a().drain()) {
                if (static_cast<unsigned>(frame.ifindex) != index)
                    continue;
                EXPECT_FALSE(contains_plaintext(frame.data)) << action;
                heard += find_udp(frame).found;
            }
            return heard > 0;
        })) << action;
        if (GetParam() != Wire::kVeth) {
            EXPECT_GT(world.count_a("TxSoftwareLate"), 0U) << "no plaintext was redirected";
        }
    }
}

TEST_P(Tc, RedirectToIngressOfAVethWithALocalReceiver) {
    World world(GetParam());
    // Everything that leaves va comes in on lo instead, addressed to a's own second address.
    world.a.command("ip addr add 10.1.4.4/32 dev lo; ip route del local 10.1.4.4 table local; "
                    "ip route add 10.1.4.4 via 10.1.1.2 dev va; "
                    "sysctl -qw net.ipv4.conf.all.rp_filter=0 net.ipv4.conf.lo.rp_filter=0 "
                    "net.ipv4.conf.va.rp_filter=0 net.ipv4.conf.all.accept_local=1 "
                    "net.ipv4.conf.va.accept_local=1 net.ipv4.conf.all.route_localnet=1; "
                    "tc qdisc add dev va clsact; "
                    "tc filter add dev va egress protocol ip u32 match ip protocol 17 0xff "
                    "action skbedit ptype host pipe action mirred ingress redirect dev va; "
                    "ip rule add iif va lookup 66 pref 1; ip route add local 10.1.4.4 dev lo table "
                    "66");
    world.listen();
    Flow flow(world.a, world.a, Address::v4("10.1.4.4", 4433));
    world.a.command("ip rule del pref 0; ip rule add lookup local pref 5");
    flow.send_all_forms();
    // They arrive protected, or are dropped and counted.
    const auto settled = [&] {
        while (flow.take_one(std::chrono::milliseconds(1)))
            ;
        const Statistics now = statistics_of(world.a);
        return flow.arrived() > 0 || now["DropError"] + now["DropNoSa"] > 0;
    };
    eventually(settled, std::chrono::seconds(3));
    for (const std::string &complaint : world.sniffer_a().complaints())
        ADD_FAILURE() << complaint;
}

TEST_P(Tc, RedirectToIfb) {
    World world(GetParam());
    if (try_command("ip link add ifb9 type ifb && ip link del ifb9").status != 0)
        GTEST_SKIP() << "no ifb in this kernel";
    world.a.command("ip link add ifb0 type ifb; ip link set ifb0 up; tc qdisc add dev va clsact; "
                    "tc filter add dev va egress matchall action mirred egress redirect dev ifb0");
    world.listen();
    Flow flow(world.a, world.b, Address::v4("10.1.1.2", 0));
    flow.send_all_forms();
    flow.expect_all_arrive(false, lossy(world));
    world.expect_clean();
}

TEST_P(Nftables, DupInOutput) {
    World world(GetParam());
    add_second_wire(world);
    world.a.command(
        "nft add table ip t; nft 'add chain ip t o { type filter hook output priority 0; "
        "}'; nft add rule ip t o ip protocol udp dup to 10.3.1.2 device wa");
    world.b.command("sysctl -qw net.ipv4.conf.all.forwarding=0");
    Flow flow(world.a, world.b, Address::v4("10.1.1.2", 0));
    flow.send_all_forms();
    flow.expect_all_arrive(true, lossy(world));
    unsigned copies = 0;
    unsigned index = 0;
    world.a.run([&] { index = ::if_nametoindex("wa"); });
    eventually([&] {
        for (const Frame &frame : world.sniffer_a().drain()) {
            EXPECT_FALSE(contains_plaintext(frame.data)) << "device " << frame.ifindex;
            copies += static_cast<unsigned>(frame.ifindex) == index && find_udp(frame).found;
        }
        return copies > 0;
    });
    EXPECT_GT(copies, 0U);
    world.expect_clean();
}

TEST_P(Nftables, FwdAndDupAtEgress) {
    for (const char *verb : {"fwd to", "dup to"}) {
        World world(GetParam());
        add_second_wire(world);
        world.b.command("ip link set wb address " + World::mac(world.b, "vb"));
        world.a.command(
            "nft add table netdev t; nft 'add chain netdev t e { type filter hook egress "
            "device va priority 0; }'; nft add rule netdev t e ip protocol udp " +
            std::string(verb) + " wa");
        Flow flow(world.a, world.b, Address::v4("10.1.1.2", 0));
        flow.send_all_forms();
        flow.expect_all_arrive(true, lossy(world));
        world.expect_clean();
    }
}

TEST_P(Nftables, NatToALocalReceiver) {
    World world(GetParam());
    world.a.command(
        "nft add table ip t; nft 'add chain ip t o { type nat hook output priority -100; "
        "}'; nft add rule ip t o udp dport 4433 dnat to 127.0.0.1:4434; "
        "sysctl -qw net.ipv4.conf.all.route_localnet=1");
    UniqueFd local = receiver_at(world.a, Address::v4("0.0.0.0", 4434));
    Flow flow(world.a, world.b, Address::v4("10.1.1.2", 4433));
    flow.send_all_forms();
    for (std::uint64_t i = 0; i < flow.sent(); ++i) {
        const auto wire = receive(local.get());
        ASSERT_TRUE(wire.has_value()) << i << " of " << flow.sent();
        EXPECT_TRUE(flow.is_of_this_flow(*wire));
    }
    world.expect_clean(true);
}

// --- routes and devices that change ---------------------------------------------------------

TEST_P(Changes, RouteToAnotherDeviceInMidFlow) {
    World world(GetParam());
    add_second_wire(world);
    world.a.command("ip route add 10.1.99.9 via 10.1.1.2 dev va");
    world.b.command("ip addr add 10.1.99.9/32 dev lo");
    Flow flow(world.a, world.b, Address::v4("10.1.99.9", 0));
    connect_to(flow.sender(), flow.to());
    for (int round = 0; round < 6; ++round) {
        flow.send_all_forms(1);
        world.a.command(round % 2 ? "ip route replace 10.1.99.9 via 10.1.1.2 dev va"
                                  : "ip route replace 10.1.99.9 via 10.3.1.2 dev wa");
    }
    flow.expect_all_arrive(false, lossy(world));
    world.expect_clean();
}

TEST_P(Changes, MtuShrinksAndGrows) {
    World world(GetParam());
    Flow flow(world.a, world.b, Address::v4("10.1.1.2", 0));
    flow.send_all_forms(1);
    world.a.command("ip link set va mtu 1100");
    EXPECT_EQ(flow.send_form({}), -EMSGSIZE);
    EXPECT_EQ(flow.send_form({.packets = 5}), -EMSGSIZE);
    world.a.command("ip link set va mtu 1500");
    flow.send_all_forms(1);
    flow.expect_all_arrive(false, lossy(world));
    world.expect_clean();
}

TEST_P(Changes, OffloadsSwitchedInMidFlow) {
    World world(GetParam());
    Flow flow(world.a, world.b, Address::v6("fd01::2", 0));
    if (GetParam() != Wire::kVeth)
        for (const char *change : {"off", "on", "off", "on"}) {
            world.a.command(std::string("ethtool -K va udp-crypto-hw-tx-offload ") + change);
            flow.send_all_forms(1);
        }
    for (const char *change :
         {"tx off", "gso off", "sg off", "tx on", "sg on", "gso on", "tx-udp-segmentation off"}) {
        // netdevsim's features are fixed, but for those of the offload
        if (GetParam() != Wire::kVeth && std::string(change) != "tx-udp-segmentation off")
            continue;
        world.a.command(std::string("ethtool -K va ") + change + " >/dev/null");
        flow.send_all_forms(1);
    }
    flow.expect_all_arrive(false, lossy(world));
    world.expect_clean();
}

TEST_P(Changes, DeviceRemovedInMidFlow) {
    World world(GetParam());
    Flow flow(world.a, world.b, Address::v4("10.1.1.2", 0));
    flow.send_all_forms(1);
    flow.expect_all_arrive(false, lossy(world));
    world.expect_clean();
    // With packets waiting in its qdisc
    world.a.command("tc qdisc replace dev va root netem delay 10s limit 1000");
    for (int i = 0; i < 10; ++i)
        EXPECT_GT(flow.send_form({.packets = 4}), 0);
    if (GetParam() == Wire::kVeth)
        world.a.command("ip link del va");
    else
        world.remove_devices();
    EXPECT_LT(flow.send_form({}), 0);
    EXPECT_FALSE(flow.take_one(std::chrono::milliseconds(0)));
    // The same socket and SA over a new device
    world.a.command("ip link add va type veth peer name vb netns " + world.b.path() +
                    "; ip addr add 10.1.1.1/24 dev va; ip link set va up");
    world.b.command("ip addr add 10.1.1.2/24 dev vb; ip link set vb up");
    world.listen(true);
    const std::size_t before = flow.arrived();
    EXPECT_GT(flow.send_form({.packets = 4}), 0);
    while (flow.arrived() < before + 4)
        ASSERT_TRUE(flow.take_one());
    world.expect_clean();
}

// Packets wait in plaintext for a device that then loses the offload: software protects them.
TEST_P(Changes, OffloadGoesWhilePacketsWait) {
    if (GetParam() == Wire::kVeth)
        return;
    World world(GetParam());
    Flow flow(world.a, world.b, Address::v4("10.1.1.2", 0));
    flow.settle(world);
    world.a.command("tc qdisc replace dev va root netem delay 5s limit 10000");
    // No zero copy: its completion would wait until the queue is empty.
    for (const Flow::Form &form :
         {Flow::Form{}, Flow::Form{.tag_room = true}, Flow::Form{.inline_keys = true},
          Flow::Form{.packets = 11}, Flow::Form{.tag_room = true, .packets = 7}})
        EXPECT_GT(flow.send_form(form), 0);
    world.a.command("ethtool -K va udp-crypto-hw-tx-offload off");
    flow.expect_all_arrive(false, &world);
    EXPECT_GT(world.count_a("TxSoftwareLate"), 0U);
    world.a.command("tc qdisc replace dev va root netem delay 10ms limit 10000");
    world.listen(true); // no more excuse for plaintext at the device
    flow.send_all_forms();
    flow.expect_all_arrive(false, &world);
    world.expect_clean();
}

TEST_P(Changes, DeviceDownAndUp) {
    World world(GetParam());
    Flow flow(world.a, world.b, Address::v4("10.1.1.2", 0));
    flow.send_all_forms(1);
    flow.expect_all_arrive(false, lossy(world));
    world.a.command("ip link set va down");
    EXPECT_LT(flow.send_form({}), 0);
    world.a.command("ip link set va up");
    ASSERT_TRUE(eventually(
        [&] { return world.a.command("ip -br link show va").find(" UP ") != std::string::npos; }));
    const std::size_t before = flow.arrived();
    EXPECT_GT(flow.send_form({.packets = 4}), 0);
    while (flow.arrived() < before + 4)
        ASSERT_TRUE(flow.take_one());
    world.expect_clean();
}

// --- ends with packets in a qdisc -----------------------------------------------------------

class Queued : public testing::TestWithParam<std::tuple<bool, const char *, Wire>> {};

// Packets wait in a qdisc, their SA goes (alone or with its socket): each arrives protected with
// the right keys or is dropped and counted; none goes out otherwise.
TEST_P(Queued, SaGoesWhilePacketsWait) {
    const auto &[close_socket, qdisc, wire] = GetParam();
    World world(wire);
    world.a.command(std::string("tc qdisc replace dev va root ") + qdisc);
    Flow flow(world.a, world.b, Address::v4("10.1.1.2", 0));
    const Statistics before = statistics_of(world.a);
    // A packet may have left the qdisc, and be in the ring of a device that no longer has the SA.
    const auto dropped_by_device = [&world] {
        if (world.wire() != Wire::kConnectx)
            return std::uint64_t{0};
        const InNamespace inside(world.a);
        auto counters = ethtool_statistics("va");
        return counters["quic_dev_drop_stale_sa"] + counters["tx_quic_dropped"];
    };
    const std::uint64_t dropped_before = dropped_by_device();
    for (int i = 0; i < 5; ++i) {
        EXPECT_GT(flow.send_form({}), 0);
        EXPECT_GT(flow.send_form({.tag_room = true, .packets = 6}), 0);
    }
    if (close_socket) {
        flow.close_sender();
    } else {
        struct udp_crypto_sa_info info {};
        ASSERT_EQ(get_sa(flow.sender(), 1, &info), 0);
        EXPECT_EQ(info.packets, flow.sent());
        ASSERT_EQ(del_sa(flow.sender(), 1), 0);
        // Another SA right away: its keys must not be taken for the waiting packets.
        ASSERT_EQ(add_sa(flow.sender(), 1, keys_of_seed(Cipher::kAes128Gcm, 0xbad)), 0);
    }
    EXPECT_TRUE(eventually([&] {
        while (flow.take_one(std::chrono::milliseconds(5)))
            ;
        const Statistics now = statistics_of(world.a);
        return flow.arrived() + now.since(before, "DropNoSa") + now.since(before, "DropNoKeys") +
                   dropped_by_device() - dropped_before ==
               flow.sent();
    })) << flow.arrived()
        << " arrived, " << statistics_of(world.a).since(before, "DropNoSa") << " dropped of "
        << flow.sent();
    EXPECT_EQ(flow.duplicates(), 0U);
    world.expect_clean(true);
}

INSTANTIATE_TEST_SUITE_P(
    Qdiscs, Queued,
    testing::Combine(testing::Bool(),
                     testing::Values("netem delay 400ms limit 1000",
                                     "tbf rate 400kbit burst 20000 latency 60s",
                                     "fq maxrate 1mbit"),
                     testing::ValuesIn(kWires)),
    [](const auto &info) {
        const std::string qdisc = std::get<1>(info.param);
        return std::string(std::get<0>(info.param) ? "Close" : "Delete") +
               (qdisc[0] == 'n'   ? "Netem"
                : qdisc[0] == 't' ? "Tbf"
                                  : "Fq") +
               "Over" + name(std::get<2>(info.param));
    });

// The same when an SA ends by its flush of the qdisc: nothing is left over for good.
TEST_P(QueuedLife, NamespaceGoesWithPacketsInAQdisc) {
    for (int i = 0; i < 3; ++i) {
        World world(GetParam());
        world.a.command("tc qdisc replace dev va root netem delay 100s limit 1000");
        Flow flow(world.a, world.b, Address::v4("10.1.1.2", 0));
        for (int s = 0; s < 5; ++s)
            EXPECT_GT(flow.send_form({.packets = 4}), 0);
        flow.close_sender();
        world.expect_clean(true);
    }
}

// --- nonces ---------------------------------------------------------------------------------

// Invariant (b): whatever cuts, copies and queues packets, a number has one image on the wire. A
// second image would be a second encryption under the same nonce.
TEST_P(Nonces, OneImageForEachNumber) {
    for (const char *queue :
         {"tbf rate 200mbit burst 4000 latency 5s", "netem delay 2ms duplicate 50% limit 10000",
          "netem delay 3ms 3ms limit 10000", "netem delay 1ms corrupt 0.0001% limit 10000"}) {
        for (const char *offload : {"gso on", "gso off tx off"}) {
            SCOPED_TRACE(std::string(queue) + ", " + offload);
            World world(GetParam());
            world.a.command("ethtool -K va " + std::string(offload) +
                            " >/dev/null; tc qdisc replace dev va root " + queue);
            Flow flow(world.a, world.b, Address::v4("10.1.1.2", 0));
            flow.send_all_forms(2);
            std::map<std::uint64_t, Bytes> images;
            std::uint64_t heard = 0;
            const auto listen_on = [&] {
                while (const auto wire = receive(flow.receiver(), std::chrono::milliseconds(20))) {
                    EXPECT_FALSE(contains_plaintext(*wire));
                    const std::uint64_t pn = peek_packet_number(
                        flow.keys(), *wire, Flow::shape().pn_offset(), flow.next_pn());
                    const auto [at, fresh] = images.emplace(pn, *wire);
                    if (!fresh) {
                        EXPECT_EQ(at->second, *wire) << "number " << pn << " has two images";
                    }
                    ++heard;
                }
                return images.size() + world.count_a("DropNoKeys") >= flow.sent();
            };
            EXPECT_TRUE(eventually(listen_on)) << images.size() << " of " << flow.sent();
            EXPECT_GE(heard + world.count_a("DropNoKeys"), flow.sent());
        }
    }
}

} // namespace
} // namespace quic_test
