// SPDX-License-Identifier: GPL-2.0
//
// Headers that move on the way: BPF programs and actions of tc, and IPVS, put headers in front of
// packets that wait as plaintext for a device, take some away, or cut the end off. A packet arrives
// as it would unprotected, or is dropped and counted; nobody hears plaintext.
#include <cstring>
#include <optional>

#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <linux/if_ether.h>
#include <linux/ip_vs.h>
#include <linux/pkt_cls.h>
#include <net/if.h>
#include <netinet/ip.h>

#include "cgroup_bpf.h"
#include "world.h"

namespace quic_test {
namespace {

using Program = std::vector<bpf_insn>;

// Programs touch only what a socket with this mark sends.
constexpr int kMark = 0x51;
constexpr int kRoomForHeaders = -72; // of the stack
constexpr int kRoomForOthers = -8;

std::string wire_name(const testing::TestParamInfo<Wire> &info) { return name(info.param); }

Program operator+(Program first, const Program &second) {
    first.insert(first.end(), second.begin(), second.end());
    return first;
}

// r6 is the packet. What falls off the end of @body lets the packet pass.
Program on_marked(const Program &body) {
    return Program{bpf::move(6, 1), bpf::load32(0, 6, offsetof(__sk_buff, mark)),
                   bpf::jump_not_equal(0, kMark, static_cast<int>(body.size()))} +
           body + Program{bpf::set(0, TC_ACT_OK), bpf::finish()};
}

Program drop_if_failed() {
    return {bpf::jump_equal(0, 0, 2), bpf::set(0, TC_ACT_SHOT), bpf::finish()};
}

Program on_stack(int at, ByteView bytes) {
    Program out;
    for (std::size_t i = 0; i < bytes.size(); i += 4) {
        std::uint32_t word = 0;
        std::memcpy(&word, bytes.data() + i, std::min<std::size_t>(4, bytes.size() - i));
        out.push_back(bpf::store32_value(10, at + static_cast<int>(i), word));
    }
    return out;
}

// @n bytes of the stack to byte @to of the frame.
Program into_frame(int to, int from, int n) {
    return Program{bpf::move(1, 6),
                   bpf::set(2, to),
                   bpf::move(3, 10),
                   bpf::add(3, from),
                   bpf::set(4, n),
                   bpf::set(5, 0),
                   bpf::call(BPF_FUNC_skb_store_bytes)} +
           drop_if_failed();
}

Program ethertype(std::uint16_t type) {
    const Bytes bytes{static_cast<std::uint8_t>(type >> 8), static_cast<std::uint8_t>(type)};
    return on_stack(kRoomForOthers, bytes) + into_frame(12, kRoomForOthers, 2);
}

Program adjust_room(int bytes, std::uint64_t flags) {
    return Program{bpf::move(1, 6),
                   bpf::set(2, bytes),
                   bpf::set(3, BPF_ADJ_ROOM_MAC),
                   bpf::set(4, static_cast<int>(flags >> 32)),
                   bpf::compute(BPF_LSH, 4, 32),
                   bpf::compute(BPF_OR, 4, static_cast<int>(flags & 0x7fffffff)),
                   bpf::call(BPF_FUNC_skb_adjust_room)} +
           drop_if_failed();
}

Program big_endian16_on_stack(int at, int reg) {
    return {bpf::move(1, reg), bpf::to_big_endian16(1), bpf::store16(10, at, 1)};
}

enum class Layer4 { kNone, kGre, kUdp };

struct Encapsulation {
    const char *name;
    bool outer6;
    Layer4 layer4 = Layer4::kNone;
    bool ethernet = false; // the inner packet is a frame

    int ip_length() const { return outer6 ? 40 : 20; }
    int length() const {
        return ip_length() +
               (layer4 == Layer4::kGre   ? 4
                : layer4 == Layer4::kUdp ? 8
                                         : 0) +
               (ethernet ? ETH_HLEN : 0);
    }
    std::uint64_t flags() const {
        std::uint64_t out = BPF_F_ADJ_ROOM_FIXED_GSO;
        out |= outer6 ? BPF_F_ADJ_ROOM_ENCAP_L3_IPV6 : BPF_F_ADJ_ROOM_ENCAP_L3_IPV4;
        if (layer4 == Layer4::kGre)
            out |= BPF_F_ADJ_ROOM_ENCAP_L4_GRE;
        if (layer4 == Layer4::kUdp)
            out |= BPF_F_ADJ_ROOM_ENCAP_L4_UDP;
        if (ethernet)
            out |= BPF_F_ADJ_ROOM_ENCAP_L2_ETH | BPF_F_ADJ_ROOM_ENCAP_L2(ETH_HLEN);
        return out;
    }
};

std::ostream &operator<<(std::ostream &out, const Encapsulation &encapsulation) {
    return out << encapsulation.name;
}

const Encapsulation kEncapsulations[] = {
    {"Ipv4", false},
    {"Ipv6", true},
    {"Ipv4Gre", false, Layer4::kGre},
    {"Ipv6Gre", true, Layer4::kGre},
    {"Ipv4Udp", false, Layer4::kUdp},
    {"Ipv6Udp", true, Layer4::kUdp},
    {"Ipv4GreEthernet", false, Layer4::kGre, true},
};

// What Foo-over-UDP (ip fou) takes to be in a datagram.
std::uint16_t fou_port(bool inner6) { return inner6 ? 5556 : 5555; }

void append_address(Bytes &bytes, const char *text) {
    std::uint8_t raw[16];
    const bool v6 = std::strchr(text, ':') != nullptr;
    ASSERT_EQ(::inet_pton(v6 ? AF_INET6 : AF_INET, text, raw), 1);
    bytes.insert(bytes.end(), raw, raw + (v6 ? 16 : 4));
}

// Headers from 10.1.1.1 or fd01::1 to 10.1.1.2 or fd01::2, lengths and checksums to be filled in.
Bytes outer_headers(const Encapsulation &encapsulation, bool inner6, const Bytes &inner_mac) {
    const std::uint8_t inner_ip = inner6 ? IPPROTO_IPV6 : IPPROTO_IPIP;
    const std::uint8_t protocol = encapsulation.layer4 == Layer4::kGre   ? IPPROTO_GRE
                                  : encapsulation.layer4 == Layer4::kUdp ? IPPROTO_UDP
                                                                         : inner_ip;
    const Bytes inner_type = inner6 ? Bytes{0x86, 0xdd} : Bytes{0x08, 0x00};
    Bytes out;
    if (encapsulation.outer6) {
        out = {0x60, 0, 0, 0, 0, 0, protocol, 64};
        append_address(out, "fd01::1");
        append_address(out, "fd01::2");
    } else {
        out = {0x45, 0, 0, 0, 0, 0, 0x40, 0, 64, protocol, 0, 0};
        append_address(out, "10.1.1.1");
        append_address(out, "10.1.1.2");
    }
    if (encapsulation.layer4 == Layer4::kGre) {
        const Bytes type = encapsulation.ethernet ? Bytes{0x65, 0x58} : inner_type;
        out.insert(out.end(), {0, 0, type[0], type[1]});
    } else if (encapsulation.layer4 == Layer4::kUdp) {
        const std::uint16_t port = fou_port(inner6);
        out.insert(out.end(), {0x13, 0x88, static_cast<std::uint8_t>(port >> 8),
                               static_cast<std::uint8_t>(port), 0, 0, 0, 0});
    }
    if (encapsulation.ethernet) {
        out.insert(out.end(), inner_mac.begin(), inner_mac.end());
        out.insert(out.end(), {2, 0, 0, 0, 0, 1, inner_type[0], inner_type[1]});
    }
    return out;
}

// Puts the headers in front of a packet of whatever length.
Program encapsulate(const Encapsulation &encapsulation, bool inner6, const Bytes &inner_mac) {
    const Bytes headers = outer_headers(encapsulation, inner6, inner_mac);
    const int at = kRoomForHeaders;
    Program out = adjust_room(encapsulation.length(), encapsulation.flags()) +
                  on_stack(at, headers) +
                  Program{bpf::load32(7, 6, offsetof(__sk_buff, len)), bpf::add(7, -ETH_HLEN)};
    if (encapsulation.outer6) {
        out = out + Program{bpf::add(7, -40)} + big_endian16_on_stack(at + 4, 7);
    } else {
        int sum = 0;
        for (std::size_t i = 0; i < 20; i += 2)
            sum += headers[i] << 8 | headers[i + 1];
        out = out + big_endian16_on_stack(at + 2, 7) + Program{bpf::move(2, 7), bpf::add(2, sum)};
        for (int fold = 0; fold < 2; ++fold)
            out = out + Program{bpf::move(3, 2), bpf::compute(BPF_RSH, 3, 16),
                                bpf::compute(BPF_AND, 2, 0xffff), bpf::compute_with(BPF_ADD, 2, 3)};
        out = out + Program{bpf::compute(BPF_XOR, 2, 0xffff)} + big_endian16_on_stack(at + 10, 2) +
              Program{bpf::add(7, -20)};
    }
    if (encapsulation.layer4 == Layer4::kUdp)
        out = out + big_endian16_on_stack(at + encapsulation.ip_length() + 4, 7);
    return out + into_frame(ETH_HLEN, at, static_cast<int>(headers.size())) +
           ethertype(encapsulation.outer6 ? ETH_P_IPV6 : ETH_P_IP);
}

// A world whose host b undoes every encapsulation, and a flow whose packets the device takes.
class Scene {
  public:
    Scene(Wire wire, const Address &to) : world(wire), flow(world.a, world.b, to) {
        world.b.command(
            "ip link add ti type ipip local 10.1.1.2 remote 10.1.1.1; ip link set ti up; "
            "ip link add si type sit local 10.1.1.2 remote 10.1.1.1; ip link set si up; "
            "ip link add gr type gre local 10.1.1.2 remote 10.1.1.1; ip link set gr up; "
            "ip link add gt type gretap local 10.1.1.2 remote 10.1.1.1; ip link set gt up; "
            "ip link add t6 type ip6tnl mode any local fd01::2 remote fd01::1; ip link set t6 up; "
            "ip link add g6 type ip6gre local fd01::2 remote fd01::1; ip link set g6 up");
        for (const bool inner6 : {false, true}) {
            const std::string port =
                "port " + std::to_string(fou_port(inner6)) + " ipproto " + (inner6 ? "41" : "4");
            world.b.command("ip fou add " + port + " && ip -6 fou add " + port);
        }
        world.listen();
        if (offloads())
            flow.settle(world);
        else
            EXPECT_GT(flow.send_form({}), 0);
        flow.expect_all_arrive();
        mark(flow.sender());
    }

    static void mark(int fd) { set_option(fd, SOL_SOCKET, SO_MARK, kMark); }
    bool offloads() const { return world.wire() != Wire::kVeth; }
    Bytes inner_mac() const {
        const std::string text = World::mac(world.b, "gt");
        Bytes out;
        for (std::size_t at = 0; at < text.size(); at += 3)
            out.push_back(static_cast<std::uint8_t>(std::stoul(text.substr(at, 2), nullptr, 16)));
        return out;
    }
    void attach(const Program &program) { attach_to("va", program); }
    void attach_to(const char *device, const Program &program) {
        world.a.run([&] {
            program_.emplace(static_cast<int>(::if_nametoindex(device)), BPF_PROG_TYPE_SCHED_CLS,
                             kTcxEgress, on_marked(program));
        });
    }
    // How many datagrams of an unprotected send arrive.
    unsigned plain(unsigned packets) {
        // Not the marker of plaintext.
        const Bytes data(packets * 1200, 0x33);
        Control control;
        if (packets > 1)
            control.gso_size(1200);
        send(flow.sender(), data, control, &flow.to());
        unsigned arrived = 0;
        while (arrived < packets && receive(flow.receiver(), std::chrono::milliseconds(500)))
            ++arrived;
        return arrived;
    }
    // Singles and batches in every form; as many arrive as if they were not protected.
    void expect_as_plain(bool batches = true) {
        ASSERT_EQ(plain(1), 1U) << "not even plain UDP arrives";
        const bool whole = batches && plain(3) == 3;
        for (const Flow::Form &form :
             {Flow::Form{}, Flow::Form{.tag_room = true}, Flow::Form{.inline_keys = true},
              Flow::Form{.tag_room = true, .zerocopy = true}, Flow::Form{.packets = 5},
              Flow::Form{.tag_room = true, .packets = 11},
              Flow::Form{.tag_room = true, .zerocopy = true, .packets = 3}})
            if (whole || form.packets == 1) {
                EXPECT_GT(flow.send_form(form), 0) << form.packets;
            }
        flow.expect_all_arrive(false, offloads() ? &world : nullptr);
        if (offloads()) {
            EXPECT_EQ(world.count_a("DropChanged") + world.count_a("DropError"), 0U);
        }
    }

    World world;
    Flow flow;

  private:
    std::optional<AttachedProgram> program_;
};

Address inner_address(bool v6) {
    return v6 ? Address::v6("fd01::2", 0) : Address::v4("10.1.1.2", 0);
}

// --- bpf_skb_adjust_room() --------------------------------------------------------------------

class AdjustRoom : public testing::TestWithParam<std::tuple<Encapsulation, bool, Wire>> {};

TEST_P(AdjustRoom, ArrivesAsPlainUdpDoes) {
    const auto &[encapsulation, inner6, wire] = GetParam();
    Scene scene(wire, inner_address(inner6));
    scene.attach(encapsulate(encapsulation, inner6, scene.inner_mac()));
    scene.expect_as_plain();
    if (scene.offloads()) {
        EXPECT_GT(scene.world.count_a("TxSoftwareLate"), 0U);
    }
    scene.world.expect_clean();
}

// tbf cuts batches before they are encrypted.
TEST_P(AdjustRoom, AndIsCutInTheQdisc) {
    const auto &[encapsulation, inner6, wire] = GetParam();
    Scene scene(wire, inner_address(inner6));
    scene.world.a.command("tc qdisc replace dev va root tbf rate 200mbit burst 4000 latency 5s");
    scene.attach(encapsulate(encapsulation, inner6, scene.inner_mac()));
    scene.expect_as_plain();
    scene.world.expect_clean();
}

INSTANTIATE_TEST_SUITE_P(Of, AdjustRoom,
                         testing::Combine(testing::ValuesIn(kEncapsulations), testing::Bool(),
                                          testing::ValuesIn(all_wires())),
                         [](const auto &info) {
                             return std::string(std::get<0>(info.param).name) + "Around" +
                                    (std::get<1>(info.param) ? "Ipv6" : "Ipv4") + "Over" +
                                    name(std::get<2>(info.param));
                         });

class Bpf : public testing::TestWithParam<Wire> {};
INSTANTIATE_TEST_SUITE_P(Over, Bpf, testing::ValuesIn(all_wires()), wire_name);

TEST_P(Bpf, PutsAHeaderInFrontAndTakesItAway) {
    for (const bool inner6 : {false, true}) {
        Scene scene(GetParam(), inner_address(inner6));
        scene.attach(adjust_room(20, BPF_F_ADJ_ROOM_FIXED_GSO | BPF_F_ADJ_ROOM_ENCAP_L3_IPV4) +
                     adjust_room(-20, BPF_F_ADJ_ROOM_FIXED_GSO) +
                     ethertype(inner6 ? ETH_P_IPV6 : ETH_P_IP));
        // The kernel takes the packet of the other family for one of IPv4 from then on.
        if (scene.plain(1) == 1)
            scene.expect_as_plain();
        scene.world.expect_clean();
    }
}

// --- the end of a packet ----------------------------------------------------------------------

Program change_tail(int bytes) {
    return Program{bpf::move(1, 6), bpf::load32(2, 6, offsetof(__sk_buff, len)), bpf::add(2, bytes),
                   bpf::set(3, 0), bpf::call(BPF_FUNC_skb_change_tail)} +
           drop_if_failed();
}

// Whether bytes of the tag, or a packet of the batch, is what is missing: nothing decrypts, so
// nothing goes out. A batch whose end was "changed" to what it was is one long packet from then on.
TEST_P(Bpf, ChangesTheEnd) {
    for (const int bytes : {-1, 1, 4, -16, -600, 0}) {
        SCOPED_TRACE(bytes);
        Scene scene(GetParam(), inner_address(false));
        if (!scene.offloads())
            return;
        scene.attach(change_tail(bytes));
        const std::size_t arrived = scene.flow.arrived();
        const std::uint64_t sent = scene.flow.sent();
        if (bytes != 0) {
            EXPECT_GT(scene.flow.send_form({}), 0);
        }
        EXPECT_GT(scene.flow.send_form({.packets = 5}), 0);
        EXPECT_TRUE(eventually([&] {
            return scene.world.count_a("DropChanged") == scene.flow.sent() - sent;
        })) << scene.world.count_a("DropChanged");
        EXPECT_FALSE(scene.flow.take_one(std::chrono::milliseconds(50)));
        EXPECT_EQ(scene.flow.arrived(), arrived);
        scene.world.expect_clean(true);
    }
}

// Without a change a single one is what it was.
TEST_P(Bpf, ChangesTheEndToWhatItWas) {
    Scene scene(GetParam(), inner_address(false));
    scene.attach(change_tail(0));
    scene.expect_as_plain(false);
    scene.world.expect_clean();
}

// --- other helpers ----------------------------------------------------------------------------

// A translator between IPv4 and IPv6: other addresses, so another pseudo header.
TEST_P(Bpf, TranslatesBetweenFamilies) {
    for (const bool from6 : {false, true}) {
        Scene scene(GetParam(), inner_address(from6));
        Bytes v4{0x45, 0, 0, 0, 0, 0, 0x40, 0, 64, IPPROTO_UDP, 0, 0};
        Bytes v6{0x60, 0, 0, 0, 0, 0, IPPROTO_UDP, 64};
        for (const char *host : {"10.1.1.1", "10.1.1.2"})
            append_address(v4, host);
        for (const char *host : {"fd01::1", "fd01::2"})
            append_address(v6, host);
        // The length is that of the packets of a flow.
        const std::uint16_t udp = 8 + 1184 + 16;
        v6[4] = udp >> 8;
        v6[5] = udp & 0xff;
        v4[2] = (udp + 20) >> 8;
        v4[3] = (udp + 20) & 0xff;
        unsigned sum = 0;
        for (std::size_t i = 0; i < v4.size(); i += 2)
            sum += static_cast<unsigned>(v4[i]) << 8 | v4[i + 1];
        sum = (sum & 0xffff) + (sum >> 16);
        v4[10] = static_cast<std::uint8_t>(~sum >> 8);
        v4[11] = static_cast<std::uint8_t>(~sum);

        const Bytes &header = from6 ? v4 : v6;
        const int length = static_cast<int>(header.size());
        const int v4_at = -104, v6_at = -96; // addresses of the two
        scene.attach(
            Program{bpf::move(1, 6), bpf::set(2, from6 ? htons(ETH_P_IP) : htons(ETH_P_IPV6)),
                    bpf::set(3, 0), bpf::call(BPF_FUNC_skb_change_proto)} +
            drop_if_failed() + on_stack(-56, header) + into_frame(ETH_HLEN, -56, length) +
            ethertype(from6 ? ETH_P_IP : ETH_P_IPV6) + on_stack(v4_at, ByteView(v4).subspan(12)) +
            on_stack(v6_at, ByteView(v6).subspan(8)) +
            Program{bpf::move(1, 10), bpf::add(1, from6 ? v6_at : v4_at),
                    bpf::set(2, from6 ? 32 : 8), bpf::move(3, 10),
                    bpf::add(3, from6 ? v4_at : v6_at), bpf::set(4, from6 ? 8 : 32), bpf::set(5, 0),
                    bpf::call(BPF_FUNC_csum_diff), bpf::move(4, 0), bpf::move(1, 6),
                    bpf::set(2, ETH_HLEN + length + 6), bpf::set(3, 0),
                    bpf::set(5, BPF_F_PSEUDO_HDR), bpf::call(BPF_FUNC_l4_csum_replace)} +
            drop_if_failed());
        // The flow's own receiver hears both families if it is one of IPv6.
        UniqueFd other;
        scene.world.b.run([&] {
            other = udp_socket(AF_INET6);
            if (!from6)
                bind_to(other.get(), Address::v6("fd01::2", scene.flow.to().port()));
        });
        const int receiver = from6 ? scene.flow.receiver() : other.get();
        for (const Flow::Form &form :
             {Flow::Form{}, Flow::Form{.tag_room = true}, Flow::Form{.inline_keys = true}}) {
            ASSERT_GT(scene.flow.send_form(form), 0);
            const auto wire = receive(receiver);
            ASSERT_TRUE(wire.has_value()) << from6;
            EXPECT_TRUE(scene.flow.is_of_this_flow(*wire));
        }
        scene.world.expect_clean();
    }
}

// It arrives with the byte that the program has written, and decrypts.
TEST_P(Bpf, WritesIntoThePayload) {
    Scene scene(GetParam(), inner_address(false));
    if (!scene.offloads())
        return;
    const Bytes byte{0xa5};
    const int at = 500;
    scene.attach(on_stack(kRoomForOthers, byte) +
                 into_frame(ETH_HLEN + 20 + 8 + at, kRoomForOthers, 1));
    const std::uint64_t pn = scene.flow.next_pn();
    ASSERT_GT(scene.flow.send_form({}), 0);
    const auto wire = receive(scene.flow.receiver());
    ASSERT_TRUE(wire.has_value());
    const auto opened = unprotect(scene.flow.keys(), *wire, Flow::shape().pn_offset(), pn);
    ASSERT_TRUE(opened.has_value());
    EXPECT_EQ(opened->packet[at], byte[0]);
    scene.world.expect_clean();
}

// 14 bytes in front of the frame: whatever that is on the wire, its end is a protected packet.
TEST_P(Bpf, PutsBytesInFrontOfTheFrame) {
    Scene scene(GetParam(), inner_address(false));
    scene.attach(Program{bpf::move(1, 6), bpf::set(2, ETH_HLEN), bpf::set(3, 0),
                         bpf::call(BPF_FUNC_skb_change_head)} +
                 drop_if_failed() + on_stack(kRoomForHeaders, Bytes(ETH_HLEN, 0xff)) +
                 into_frame(0, kRoomForHeaders, ETH_HLEN));
    scene.world.sniffer_b().drain();
    EXPECT_GT(scene.flow.send_form({}), 0);
    unsigned heard = 0;
    EXPECT_TRUE(eventually([&] {
        for (const Frame &frame : scene.world.sniffer_b().drain()) {
            EXPECT_FALSE(contains_plaintext(frame.data));
            if (frame.data.size() >= 1200)
                heard += scene.flow.is_of_this_flow(ByteView(frame.data).last(1200));
        }
        return heard > 0;
    }));
    scene.world.expect_clean(true);
}

// A second device, and a program that sends there.
class Redirect : public testing::TestWithParam<std::tuple<const char *, Wire>> {};
INSTANTIATE_TEST_SUITE_P(By, Redirect,
                         testing::Combine(testing::Values("Clone", "Egress", "Ingress", "Neigh"),
                                          testing::ValuesIn(all_wires())),
                         [](const auto &info) {
                             return std::string(std::get<0>(info.param)) + "Over" +
                                    name(std::get<1>(info.param));
                         });

TEST_P(Redirect, IsHeardProtectedAtTheOtherDevice) {
    const auto &[how, wire] = GetParam();
    const std::string way = how;
    Scene scene(wire, inner_address(false));
    scene.world.a.command("ip link add wa type veth peer name wb netns " + scene.world.b.path() +
                          "; ip addr add 10.3.1.1/24 dev wa; ip link set wa up; "
                          "ip neigh add 10.1.1.2 lladdr 02:00:00:00:00:99 dev wa");
    scene.world.b.command("ip link set wb address 02:00:00:00:00:99; ip link set wb up");
    scene.world.listen();
    int index = 0;
    scene.world.a.run([&] { index = static_cast<int>(::if_nametoindex("wa")); });
    if (way == "Clone")
        scene.attach(Program{bpf::move(1, 6), bpf::set(2, index), bpf::set(3, 0),
                             bpf::call(BPF_FUNC_clone_redirect)});
    else if (way == "Neigh")
        scene.attach(Program{bpf::set(1, index), bpf::set(2, 0), bpf::set(3, 0), bpf::set(4, 0),
                             bpf::call(BPF_FUNC_redirect_neigh), bpf::finish()});
    else
        scene.attach(Program{bpf::set(1, index), bpf::set(2, way == "Ingress" ? BPF_F_INGRESS : 0),
                             bpf::call(BPF_FUNC_redirect), bpf::finish()});
    for (const Flow::Form &form :
         {Flow::Form{}, Flow::Form{.tag_room = true}, Flow::Form{.packets = 5}})
        EXPECT_GT(scene.flow.send_form(form), 0);
    unsigned heard = 0;
    EXPECT_TRUE(eventually([&] {
        for (const Frame &frame : scene.world.sniffer_a().drain()) {
            EXPECT_FALSE(contains_plaintext(frame.data));
            heard += frame.ifindex == index && find_udp(frame).found;
        }
        return heard > 0;
    }));
    if (way == "Clone")
        scene.flow.expect_all_arrive(true, &scene.world);
    scene.world.expect_clean(true);
}

// --- actions of tc ----------------------------------------------------------------------------

struct Action {
    const char *name;
    const char *action;
    const char *b = ""; // commands there
    bool batches = true;
    const char *a = "";       // commands before
    const char *to = nullptr; // another address than usual
    const char *protocol = nullptr;
};

std::ostream &operator<<(std::ostream &out, const Action &action) { return out << action.name; }

const Action kActions[] = {
    {"VlanPush", "vlan push id 7",
     "ip link add link vb name vb.7 type vlan id 7; ip link set vb.7 up"},
    {"VlanPushTwo", "vlan push id 7 pipe action vlan push protocol 802.1ad id 9",
     "ip link add link vb name vb.9 type vlan proto 802.1ad id 9; ip link set vb.9 up; "
     "ip link add link vb.9 name vb.9.7 type vlan id 7; ip link set vb.9.7 up"},
    {"VlanModify", "vlan modify id 8",
     "ip link add link vb name vb.8 type vlan id 8; ip link set vb.8 up; ip addr add 10.1.7.2/24 "
     "dev vb.8",
     true,
     "ip link add link va name va.7 type vlan id 7; ip addr add 10.1.7.1/24 dev va.7; ip link set "
     "va.7 up; "
     "ip neigh add 10.1.7.2 lladdr @MAC@ dev va.7",
     "10.1.7.2", "802.1q"},
    {"VlanPop", "vlan pop", "ip addr add 10.1.7.2/24 dev vb", true,
     "ip link add link va name va.7 type vlan id 7; ip addr add 10.1.7.1/24 dev va.7; ip link set "
     "va.7 up; "
     "ip neigh add 10.1.7.2 lladdr @MAC@ dev va.7",
     "10.1.7.2", "802.1q"},
    {"TunnelKey", "tunnel_key set id 5 src_ip 10.1.1.1 dst_ip 10.1.1.2 dst_port 4789"},
    {"Pedit", "pedit ex munge ip ttl set 33 pipe action csum ip"},
    {"PeditOfPorts", "pedit ex munge udp sport set 4321 pipe action csum udp"},
    {"Csum", "csum ip and udp"},
};

class Actions : public testing::TestWithParam<std::tuple<Action, Wire>> {};
INSTANTIATE_TEST_SUITE_P(
    Of, Actions, testing::Combine(testing::ValuesIn(kActions), testing::ValuesIn(all_wires())),
    [](const auto &info) {
        return std::string(std::get<0>(info.param).name) + "Over" + name(std::get<1>(info.param));
    });

TEST_P(Actions, ArriveAsPlainUdpDoes) {
    const auto &[action, wire] = GetParam();
    Scene scene(wire, inner_address(false));
    if (action.b[0] != 0)
        scene.world.b.command(action.b);
    std::string a = action.a;
    if (const auto at = a.find("@MAC@"); at != std::string::npos)
        a.replace(at, 5, World::mac(scene.world.b, "vb"));
    if (!a.empty())
        scene.world.a.command(a);
    const std::string protocol = action.protocol != nullptr ? action.protocol : "ip";
    scene.world.a.command("tc qdisc add dev va clsact; tc filter add dev va egress protocol " +
                          protocol + (protocol == "ip" ? " flower ip_proto udp" : " matchall") +
                          " action " + action.action);
    scene.world.listen();
    if (action.to == nullptr) {
        scene.expect_as_plain(action.batches);
    } else {
        Flow flow(scene.world.a, scene.world.b, Address::v4(action.to, 0));
        for (const Flow::Form &form :
             {Flow::Form{}, Flow::Form{.tag_room = true}, Flow::Form{.packets = 5},
              Flow::Form{.tag_room = true, .packets = 11}})
            EXPECT_GT(flow.send_form(form), 0);
        flow.expect_all_arrive(false, scene.offloads() ? &scene.world : nullptr);
    }
    scene.world.expect_clean();
}

// A length in the UDP header that is not the payload's.
TEST_P(Bpf, ActionsThatLieAboutTheLengthAreDropped) {
    Scene scene(GetParam(), inner_address(false));
    if (!scene.offloads())
        return;
    scene.world.a.command(
        "tc qdisc add dev va clsact; tc filter add dev va egress protocol ip flower "
        "ip_proto udp action pedit munge offset 24 u16 set 0x0010");
    EXPECT_GT(scene.flow.send_form({}), 0);
    EXPECT_GT(scene.flow.send_form({.packets = 5}), 0);
    EXPECT_TRUE(eventually([&] { return scene.world.count_a("DropChanged") == 6; }))
        << scene.world.count_a("DropChanged");
    struct udp_crypto_sa_info info {};
    ASSERT_EQ(get_sa(scene.flow.sender(), 1, &info), 0);
    EXPECT_EQ(info.packets_dropped, 6U);
    scene.world.expect_clean(true);
}

// --- IPVS -------------------------------------------------------------------------------------

struct Balancing {
    const char *name;
    unsigned way;         // IP_VS_CONN_F_*
    bool checksum = true; // else SO_NO_CHECK
};

std::ostream &operator<<(std::ostream &out, const Balancing &balancing) {
    return out << balancing.name;
}

class Ipvs : public testing::TestWithParam<std::tuple<Balancing, Wire>> {};
INSTANTIATE_TEST_SUITE_P(
    By, Ipvs,
    testing::Combine(testing::Values(Balancing{"Tunnel", IP_VS_CONN_F_TUNNEL},
                                     Balancing{"TunnelNoChecksum", IP_VS_CONN_F_TUNNEL, false},
                                     Balancing{"Route", IP_VS_CONN_F_DROUTE},
                                     Balancing{"RouteNoChecksum", IP_VS_CONN_F_DROUTE, false},
                                     Balancing{"Nat", IP_VS_CONN_F_MASQ},
                                     Balancing{"NatNoChecksum", IP_VS_CONN_F_MASQ, false}),
                     testing::ValuesIn(all_wires())),
    [](const auto &info) {
        return std::string(std::get<0>(info.param).name) + "Over" + name(std::get<1>(info.param));
    });

// The virtual service @service:@port has one server, 10.1.1.2.
void balance(const NetNamespace &ns, const char *service, std::uint16_t port, unsigned way) {
    ns.run([&] {
        struct {
            ip_vs_service_user service;
            ip_vs_dest_user server;
        } request{};
        request.service.protocol = IPPROTO_UDP;
        ::inet_pton(AF_INET, service, &request.service.addr);
        request.service.port = htons(port);
        std::strcpy(request.service.sched_name, "rr");
        ::inet_pton(AF_INET, "10.1.1.2", &request.server.addr);
        request.server.port = htons(port);
        request.server.conn_flags = way;
        request.server.weight = 1;
        const UniqueFd fd(::socket(AF_INET, SOCK_RAW | SOCK_CLOEXEC, IPPROTO_RAW));
        if (::setsockopt(fd.get(), SOL_IP, IP_VS_SO_SET_ADD, &request.service,
                         sizeof(request.service)) != 0 ||
            ::setsockopt(fd.get(), SOL_IP, IP_VS_SO_SET_ADDDEST, &request, sizeof(request)) != 0)
            throw_errno("IPVS");
    });
}

TEST_P(Ipvs, BalancesItsOwnHostsPackets) {
    const auto &[balancing, wire] = GetParam();
    Scene scene(wire, inner_address(false));
    scene.world.a.command(
        "ip route add 10.9.9.9 dev va; ip neigh add 10.9.9.9 lladdr 02:00:00:00:00:77 dev va");
    scene.world.b.command("ip addr add 10.9.9.9/32 dev lo");
    balance(scene.world.a, "10.9.9.9", 4433, balancing.way);
    Flow flow(scene.world.a, scene.world.b, Address::v4("10.9.9.9", 4433));
    for (const bool batch : {false, true}) {
        if (batch && !balancing.checksum)
            break;
        if (!balancing.checksum)
            set_option(flow.sender(), SOL_SOCKET, SO_NO_CHECK, 1);
        for (const Flow::Form &form : {Flow::Form{.packets = batch ? 5U : 1U},
                                       Flow::Form{.tag_room = true, .packets = batch ? 11U : 1U},
                                       Flow::Form{.inline_keys = true, .packets = batch ? 3U : 1U}})
            EXPECT_GT(flow.send_form(form), 0);
    }
    flow.expect_all_arrive(false, scene.offloads() ? &scene.world : nullptr);
    scene.world.expect_clean();
}

} // namespace
} // namespace quic_test
