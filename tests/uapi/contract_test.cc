// SPDX-License-Identifier: GPL-2.0
//
// What becomes of a send: refused, with an error, as if it had never been; or taken, whatever IP, a
// filter or a queue makes of its packets then. Nothing between.
#include <cstring>
#include <functional>
#include <map>
#include <optional>
#include <set>
#include <sstream>

#include <gtest/gtest.h>
#include <linux/errqueue.h>
#include <linux/net_tstamp.h>
#include <net/ethernet.h>
#include <net/if.h>
#include <netpacket/packet.h>

#include "cgroup_bpf.h"
#include "world.h"

#ifndef SO_ZEROCOPY
#define SO_ZEROCOPY 60
#endif

namespace quic_test {
namespace {

constexpr PacketShape kShape{.cid_length = 8, .pn_length = 4};
constexpr std::size_t kSize = 1000;
constexpr std::size_t kWireSize = kSize + UDP_QUIC_TAG_LEN;
constexpr std::uint16_t kGso = kWireSize;
// A socket's other SA may protect so many packets.
constexpr std::uint64_t kLimit = 2;

const PacketKeys &some_keys() {
    static const PacketKeys keys = keys_of_seed(Cipher::kAes128Gcm, 0xc0);
    return keys;
}

// All that is in a socket's error queue.
struct ErrorQueue {
    std::vector<ZeroCopyCompletion> zerocopy;
    std::vector<std::uint32_t> timestamps; // their numbers
    std::vector<sock_extended_err> others;

    static ErrorQueue read(int fd) {
        ErrorQueue out;
        for (;;) {
            char control[512];
            char data[64];
            iovec part{data, sizeof(data)};
            msghdr header{};
            header.msg_iov = &part;
            header.msg_iovlen = 1;
            header.msg_control = control;
            header.msg_controllen = sizeof(control);
            if (::recvmsg(fd, &header, MSG_ERRQUEUE | MSG_DONTWAIT) < 0)
                return out;
            for (cmsghdr *c = CMSG_FIRSTHDR(&header); c != nullptr; c = CMSG_NXTHDR(&header, c)) {
                if (!((c->cmsg_level == SOL_IP && c->cmsg_type == IP_RECVERR) ||
                      (c->cmsg_level == SOL_IPV6 && c->cmsg_type == IPV6_RECVERR)))
                    continue;
                sock_extended_err error{};
                std::memcpy(&error, CMSG_DATA(c), sizeof(error));
                if (error.ee_origin == SO_EE_ORIGIN_ZEROCOPY)
                    out.zerocopy.push_back({error.ee_info, error.ee_data, error.ee_code});
                else if (error.ee_origin == SO_EE_ORIGIN_TIMESTAMPING)
                    out.timestamps.push_back(error.ee_data);
                else
                    out.others.push_back(error);
            }
        }
    }
};

// A counter of UDP in /proc/net/snmp or snmp6 of the calling thread's namespace.
std::uint64_t udp_counter(bool v6, const std::string &counter) {
    std::istringstream text(
        read_file(v6 ? "/proc/thread-self/net/snmp6" : "/proc/thread-self/net/snmp"));
    std::vector<std::string> names;
    for (std::string line; std::getline(text, line);) {
        std::istringstream words(line);
        std::string first;
        words >> first;
        std::uint64_t value = 0;
        if (v6) {
            if (first == "Udp6" + counter && words >> value)
                return value;
            continue;
        }
        if (first != "Udp:")
            continue;
        const bool heading = names.empty();
        std::size_t i = 0;
        for (std::string word; words >> word; ++i) {
            if (heading)
                names.push_back(word);
            else if (names.at(i) == counter)
                return std::stoull(word);
        }
    }
    throw std::runtime_error("no counter " + counter);
}

// A sender in host a with everything on that a refused send must leave as it is: a guard, a limit,
// numbers of zero copy and of timestamps.
class Sender {
  public:
    Sender(World &world, Family family, bool recverr) : family_(family) {
        const bool v6 = family == Family::kIpv6;
        world.b.run([&] {
            receiver = udp_socket(v6 ? AF_INET6 : AF_INET);
            set_option(receiver.get(), SOL_SOCKET, SO_RCVBUFFORCE, 16 << 20);
            bind_to(receiver.get(), v6 ? Address::v6("::", 0) : Address::v4("0.0.0.0", 0));
        });
        const std::uint16_t port = Address::of_socket(receiver.get()).port();
        to = v6                          ? Address::v6("fd01::2", port)
             : family == Family::kMapped ? Address::mapped("10.1.1.2", port)
                                         : Address::v4("10.1.1.2", port);
        fd = udp_socket(socket_domain(family));
        set_option(fd.get(), SOL_SOCKET, SO_ZEROCOPY, 1);
        set_option(fd.get(), SOL_SOCKET, SO_SNDBUFFORCE, 16 << 20);
        if (family != Family::kIpv6)
            set_option(fd.get(), SOL_IP, IP_RECVERR, recverr);
        if (family != Family::kIpv4)
            set_option(fd.get(), SOL_IPV6, IPV6_RECVERR, recverr);
        set_option(fd.get(), SOL_SOCKET, SO_TIMESTAMPING,
                   SOF_TIMESTAMPING_TX_SCHED | SOF_TIMESTAMPING_SOFTWARE | SOF_TIMESTAMPING_OPT_ID |
                       SOF_TIMESTAMPING_OPT_TSONLY);
        sa = add_sa_index(fd.get(), kCookie, some_keys(), UDP_CRYPTO_SA_F_GUARD_PN);
        limited =
            add_sa_index(fd.get(), kCookie + 1, some_keys(), UDP_CRYPTO_SA_F_GUARD_PN, kLimit);
        settle(world.wire() != Wire::kVeth);
    }

    // @count packets from @pn on, with room for the tags.
    ssize_t send(std::uint64_t pn, unsigned count, int flags = 0, Api api = Api::kSendmsg) {
        std::vector<Bytes> packets;
        for (unsigned i = 0; i < count; ++i)
            packets.push_back(make_packet(kShape, pn + i, kSize));
        kept.push_back(join_with_tag_room(packets));
        Control control;
        control.quic(pn, sa, kShape.pn_offset(), UDP_QUIC_CRYPTO_F_TAG_ROOM);
        if (count > 1)
            control.gso_size(kGso);
        return send(kept.back(), control, flags, api);
    }
    ssize_t send(const Bytes &data, const Control &control, int flags = 0,
                 Api api = Api::kSendmsg) {
        Message message;
        message.to = &to;
        message.data = {{const_cast<std::uint8_t *>(data.data()), data.size()}};
        message.control = control;
        message.flags = flags;
        return quic_test::send(fd.get(), message, api);
    }
    struct udp_crypto_sa_info info(std::uint64_t cookie = kCookie) const {
        struct udp_crypto_sa_info out {};
        EXPECT_EQ(get_sa(fd.get(), cookie, &out), 0);
        return out;
    }
    // The counters of both SAs
    std::vector<std::uint64_t> books() const {
        std::vector<std::uint64_t> out;
        for (const std::uint64_t cookie : {kCookie, kCookie + 1}) {
            const auto now = info(cookie);
            out.insert(out.end(),
                       {now.packets, now.bytes, now.packets_software, now.packets_dropped});
        }
        return out;
    }
    // Numbers that arrive until nothing does for a while.
    std::set<std::uint64_t> arrived() {
        std::set<std::uint64_t> out;
        while (const auto wire = receive(receiver.get(), std::chrono::milliseconds(100))) {
            EXPECT_FALSE(contains_plaintext(*wire)) << "PLAINTEXT";
            const auto opened = unprotect(some_keys(), *wire, kShape.pn_offset(), next);
            EXPECT_TRUE(opened && out.insert(opened->pn).second) << "broken, or twice";
        }
        return out;
    }
    // What the counters of UDP and of the namespace say.
    std::uint64_t snmp(const std::string &counter) const {
        return udp_counter(family_ == Family::kIpv6, counter);
    }

    static constexpr std::uint64_t kCookie = 1;
    UniqueFd fd;
    UniqueFd receiver;
    Address to;
    std::uint32_t sa = 0;
    std::uint32_t limited = 0;
    std::uint64_t next = 1000;       // packet number
    std::uint32_t next_zerocopy = 0; // of the socket's counters
    std::uint32_t next_timestamp = 0;
    std::vector<Bytes> kept; // what MSG_ZEROCOPY may still read

  private:
    // The neighbour's address is found out; the device gets to know an SA by its first packets.
    void settle(bool offload) {
        EXPECT_TRUE(eventually([&] {
            EXPECT_GT(send(next++, 1), 0);
            ++next_timestamp;
            return !offload || info().state != UDP_CRYPTO_SA_SOFTWARE;
        })) << "the device never took the SA";
        arrived();
        ErrorQueue::read(fd.get());
    }
    Family family_;
};

// What takes a packet from IP and tells of it by an error.
enum class Loss { kNft, kQdisc, kShaper, kCgroup, kReroute };
const char *name(Loss loss) {
    switch (loss) {
    case Loss::kNft:
        return "Nft";
    case Loss::kQdisc:
        return "Qdisc";
    case Loss::kShaper:
        return "Shaper";
    case Loss::kCgroup:
        return "Cgroup";
    case Loss::kReroute:
        return "Reroute";
    }
    return "?";
}

// There from here to the end of the scope; in host a.
class Obstacle {
  public:
    Obstacle(World &world, const Cgroup &cgroup, Loss loss) : world_(world), loss_(loss) {
        switch (loss) {
        case Loss::kNft:
            world.a.command("nft 'add table inet f; add chain inet f o { type filter hook output "
                            "priority 0; }; add rule inet f o meta l4proto udp drop'");
            break;
        case Loss::kQdisc: // no packet is ever queued
            world.a.command("tc qdisc replace dev va root pfifo limit 0");
            break;
        case Loss::kShaper: // its queue has no room for a packet, nor for one of a batch
            world.a.command("tc qdisc replace dev va root tbf rate 1kbit burst 1600 limit 10");
            break;
        case Loss::kCgroup:
            program_.emplace(cgroup, BPF_PROG_TYPE_CGROUP_SKB, BPF_CGROUP_INET_EGRESS,
                             std::vector<bpf_insn>{bpf::set(0, 0), bpf::finish()});
            break;
        case Loss::kReroute: // to a route whose MTU is less than what the packets were made for
            world.a.command("nft 'add table inet f; add chain inet f o { type route hook output "
                            "priority 0; }; add rule inet f o meta l4proto udp meta mark set 7'");
            world.a.command("ip rule add fwmark 7 lookup 7; ip -6 rule add fwmark 7 lookup 7; "
                            "ip route add 10.1.1.0/24 dev va mtu lock 600 table 7; "
                            "ip -6 route add fd01::/64 dev va mtu lock 600 table 7");
            break;
        }
    }
    ~Obstacle() {
        if (loss_ == Loss::kNft || loss_ == Loss::kReroute)
            world_.a.command("nft delete table inet f");
        if (loss_ == Loss::kQdisc || loss_ == Loss::kShaper)
            world_.a.command("tc qdisc del dev va root");
        if (loss_ == Loss::kReroute)
            world_.a.command("ip rule del fwmark 7; ip -6 rule del fwmark 7; "
                             "ip route flush table 7; ip -6 route flush table 7");
    }
    Obstacle(const Obstacle &) = delete;
    Obstacle &operator=(const Obstacle &) = delete;

  private:
    World &world_;
    Loss loss_;
    std::optional<AttachedProgram> program_;
};

class Contract : public testing::TestWithParam<Wire> {
  protected:
    Contract() : world_(GetParam()), inside_(world_.a) { cgroup_.take(::getpid()); }
    World world_;
    InNamespace inside_;
    Cgroup cgroup_;
};
INSTANTIATE_TEST_SUITE_P(Wires, Contract, testing::ValuesIn(all_wires()),
                         [](const auto &info) { return name(info.param); });

// Sends under @loss: each is taken, its numbers are used, its completion comes.
void expect_lost(World &world, const Cgroup &cgroup, Sender &sender, Loss loss) {
    const bool enobufs = loss == Loss::kQdisc || loss == Loss::kShaper;
    {
        const Obstacle obstacle(world, cgroup, loss);
        for (const unsigned count : {1U, 40U})
            for (const Api api :
                 {Api::kSendmsg, Api::kSendmmsg, Api::kIoUring, Api::kIoUringZeroCopy})
                for (const bool zerocopy : {false, true}) {
                    SCOPED_TRACE(std::string(name(api)) + ", " + std::to_string(count) +
                                 " packets, zero copy " + std::to_string(zerocopy));
                    const Statistics before = Statistics::read();
                    const auto sa_before = sender.info();
                    const auto full = sender.snmp("SndbufErrors");
                    const auto sent = sender.snmp("OutDatagrams");
                    EXPECT_EQ(sender.send(sender.next, count, zerocopy ? MSG_ZEROCOPY : 0, api),
                              static_cast<ssize_t>(count * kWireSize));
                    const Statistics after = Statistics::read();
                    EXPECT_EQ(after.since(before, "TxPackets"), count);
                    EXPECT_EQ(after.since(before, "TxLost"), count);
                    EXPECT_EQ(sender.info().packets - sa_before.packets, count);
                    EXPECT_EQ(sender.info().bytes - sa_before.bytes, count * kWireSize);
                    EXPECT_EQ(sender.snmp("SndbufErrors") - full, enobufs ? 1U : 0U);
                    EXPECT_EQ(sender.snmp("OutDatagrams") - sent, 0U);
                    EXPECT_EQ(sender.send(sender.next, count), -EALREADY) << "the number is unused";
                    sender.next += count;
                    sender.next_timestamp += 1;
                    if (!zerocopy || api == Api::kIoUringZeroCopy) // which has its own completions
                        continue;
                    const auto completion = zerocopy_completion(sender.fd.get());
                    ASSERT_TRUE(completion.has_value()) << "no completion";
                    EXPECT_EQ(completion->first, sender.next_zerocopy);
                    EXPECT_EQ(completion->last, sender.next_zerocopy);
                    ++sender.next_zerocopy;
                }
    }
    EXPECT_TRUE(sender.arrived().empty()) << "not lost";
    ErrorQueue::read(sender.fd.get());
    // The way is free again, and the counters of socket and sender agree.
    const std::uint64_t next = sender.next++;
    EXPECT_GT(sender.send(next, 1, MSG_ZEROCOPY), 0);
    EXPECT_EQ(sender.arrived(), std::set<std::uint64_t>{next});
    const ErrorQueue queue = ErrorQueue::read(sender.fd.get());
    ASSERT_EQ(queue.zerocopy.size(), 1U);
    EXPECT_EQ(queue.zerocopy[0].first, sender.next_zerocopy++);
    EXPECT_EQ(queue.timestamps, std::vector<std::uint32_t>{sender.next_timestamp++});
}

TEST_P(Contract, WhatIpReportsIsLost) {
    world_.stop_listening();
    for (const Family family : kAllFamilies)
        for (const bool recverr : {false, true}) {
            Sender sender(world_, family, recverr);
            for (const Loss loss : {Loss::kNft, Loss::kQdisc, Loss::kShaper, Loss::kCgroup}) {
                SCOPED_TRACE(std::string(name(family)) + ", " + name(loss) + ", RECVERR " +
                             std::to_string(recverr));
                expect_lost(world_, cgroup_, sender, loss);
            }
        }
}

// A route whose MTU is less than that for which the packets were found to be short enough. The ICMP
// error about it makes the sends that follow too long, and they are refused.
TEST_P(Contract, WhatIsTooLongOnItsWayIsLost) {
    for (const Family family : kAllFamilies)
        for (const unsigned count : {1U, 40U}) {
            SCOPED_TRACE(std::string(name(family)) + ", " + std::to_string(count) + " packets");
            Sender sender(world_, family, true);
            const Obstacle obstacle(world_, cgroup_, Loss::kReroute);
            const Statistics before = Statistics::read();
            EXPECT_EQ(sender.send(sender.next, count), static_cast<ssize_t>(count * kWireSize));
            EXPECT_EQ(Statistics::read().since(before, "TxLost"), count);
            EXPECT_EQ(Statistics::read().since(before, "TxPackets"), count);
            EXPECT_TRUE(sender.arrived().empty());
            world_.a.command("ip route flush cache; ip -6 route flush cache");
        }
}

// A mirror in front of the full queue has the first packet of a number: there must be no second.
TEST_P(Contract, NoSecondPacketUnderANumberThatAMirrorHasSeen) {
    Sender sender(world_, Family::kIpv4, true);
    const std::uint32_t unguarded = add_sa_index(sender.fd.get(), 9, some_keys());
    world_.a.command("ip link add d0 type dummy; ip link set d0 up; tc qdisc add dev va clsact; "
                     "tc filter add dev va egress matchall action mirred egress mirror dev d0; "
                     "tc qdisc replace dev va root pfifo limit 0");
    const UniqueFd mirror(::socket(AF_PACKET, SOCK_DGRAM | SOCK_CLOEXEC, htons(ETH_P_ALL)));
    sockaddr_ll address{};
    address.sll_family = AF_PACKET;
    address.sll_protocol = htons(ETH_P_ALL);
    address.sll_ifindex = static_cast<int>(::if_nametoindex("d0"));
    ASSERT_EQ(::bind(mirror.get(), reinterpret_cast<sockaddr *>(&address), sizeof(address)), 0);
    while (receive(mirror.get(), std::chrono::milliseconds(100)))
        ;
    // A sender that goes by the contract: it sends again what was refused, and nothing else.
    std::map<std::uint64_t, Bytes> images;
    for (std::uint64_t pn = sender.next; pn < sender.next + 20; ++pn)
        for (const std::uint8_t content : {0x55, 0x33}) {
            Bytes packet = make_packet(kShape, pn, kSize);
            std::fill(packet.begin() + 20, packet.end(), content);
            const ssize_t result =
                sender.send(packet, Control().quic(pn, unguarded, kShape.pn_offset()));
            bool seen = false;
            while (const auto frame =
                       receive(mirror.get(), std::chrono::milliseconds(seen ? 20 : 2000))) {
                if (frame->size() != 20 + 8 + kWireSize)
                    continue;
                seen = true;
                const auto [at, fresh] = images.emplace(pn, *frame);
                EXPECT_TRUE(fresh) << "a second packet under number " << pn;
            }
            if (result >= 0)
                break;
        }
    EXPECT_EQ(images.size(), 20U);
}

// --- refused
// ---------------------------------------------------------------------------------------

struct Refusal {
    const char *what;
    int error;
    std::function<ssize_t(Sender &, int flags, Api)> send;
};

// A batch of three packets with a segment size of its own.
ssize_t send_batch_of(Sender &sender, std::size_t size, int flags, Api api) {
    std::vector<Bytes> packets;
    for (unsigned i = 0; i < 3; ++i)
        packets.push_back(make_packet(kShape, sender.next + i, size));
    sender.kept.push_back(join_with_tag_room(packets));
    return sender.send(
        sender.kept.back(),
        Control()
            .quic(sender.next, sender.sa, kShape.pn_offset(), UDP_QUIC_CRYPTO_F_TAG_ROOM)
            .gso_size(static_cast<std::uint16_t>(size + UDP_QUIC_TAG_LEN)),
        flags, api);
}

ssize_t send_one_with(Sender &sender, std::uint64_t pn, std::uint32_t sa, std::size_t size,
                      int flags, Api api) {
    sender.kept.push_back(join_with_tag_room({make_packet(kShape, sender.next, size)}));
    return sender.send(sender.kept.back(),
                       Control().quic(pn, sa, kShape.pn_offset(), UDP_QUIC_CRYPTO_F_TAG_ROOM),
                       flags, api);
}

// By every check: those of UDP, and those of the protection.
const std::vector<Refusal> &refusals() {
    static const std::vector<Refusal> all{
        {"a batch of long packets", -EMSGSIZE,
         [](Sender &s, int flags, Api api) { return send_batch_of(s, 2000, flags, api); }},
        {"a long packet", -EMSGSIZE,
         [](Sender &s, int flags, Api api) {
             return send_one_with(s, s.next, s.sa, 2000, flags, api);
         }},
        {"a batch without checksums", -EINVAL,
         [](Sender &s, int flags, Api api) {
             set_option(s.fd.get(), SOL_SOCKET, SO_NO_CHECK, 1);
             if (s.to.family() == AF_INET6)
                 set_option(s.fd.get(), SOL_UDP, UDP_NO_CHECK6_TX, 1);
             const ssize_t result = send_batch_of(s, kSize, flags, api);
             set_option(s.fd.get(), SOL_SOCKET, SO_NO_CHECK, 0);
             if (s.to.family() == AF_INET6)
                 set_option(s.fd.get(), SOL_UDP, UDP_NO_CHECK6_TX, 0);
             return result;
         }},
        {"another number", -EBADMSG,
         [](Sender &s, int flags, Api api) {
             return send_one_with(s, s.next + 1, s.sa, kSize, flags, api);
         }},
        {"too short", -ENODATA,
         [](Sender &s, int flags, Api api) {
             const Bytes packet = make_packet(kShape, s.next, kShape.min_size());
             s.kept.emplace_back(packet.begin(), packet.end() - 1);
             return s.send(s.kept.back(), Control().quic(s.next, s.sa, kShape.pn_offset()), flags,
                           api);
         }},
        {"no SA", -ENOENT,
         [](Sender &s, int flags, Api api) {
             return send_one_with(s, s.next, s.sa + 1000000, kSize, flags, api);
         }},
        {"a used number", -EALREADY,
         [](Sender &s, int flags, Api api) { return s.send(s.next - 1, 1, flags, api); }},
        {"a batch with a used number", -EALREADY,
         [](Sender &s, int flags, Api api) { return s.send(s.next - 1, 40, flags, api); }},
        {"a used-up SA", -EKEYEXPIRED,
         [](Sender &s, int flags, Api api) {
             std::swap(s.sa, s.limited);
             const ssize_t result = s.send(s.next, kLimit + 1, flags, api);
             std::swap(s.sa, s.limited);
             return result;
         }},
        {"more to follow", -EBUSY,
         [](Sender &s, int flags, Api api) { return s.send(s.next, 1, flags | MSG_MORE, api); }},
        {"no memory there", -EFAULT,
         [](Sender &s, int flags, Api api) {
             Message message;
             const Bytes &data =
                 s.kept.emplace_back(join_with_tag_room({make_packet(kShape, s.next, kSize)}));
             message.to = &s.to;
             message.data = {{const_cast<std::uint8_t *>(data.data()), 700},
                             {reinterpret_cast<void *>(8), kWireSize - 700}};
             message.control.quic(s.next, s.sa, kShape.pn_offset(), UDP_QUIC_CRYPTO_F_TAG_ROOM);
             message.flags = flags;
             return send(s.fd.get(), message, api);
         }},
    };
    return all;
}

// Then the next send that is taken has the first number of each counter.
void expect_nothing_taken(Sender &sender) {
    EXPECT_EQ(sender.send(sender.next, 1, MSG_ZEROCOPY), static_cast<ssize_t>(kWireSize));
    EXPECT_EQ(sender.arrived(), std::set<std::uint64_t>{sender.next});
    ++sender.next;
    const ErrorQueue queue = ErrorQueue::read(sender.fd.get());
    ASSERT_EQ(queue.zerocopy.size(), 1U) << "no completion, or more";
    EXPECT_EQ(queue.zerocopy[0].first, sender.next_zerocopy) << "numbers of zero copy were taken";
    EXPECT_EQ(queue.zerocopy[0].last, sender.next_zerocopy);
    ++sender.next_zerocopy;
    EXPECT_EQ(queue.timestamps, std::vector<std::uint32_t>{sender.next_timestamp})
        << "numbers of timestamps were taken";
    ++sender.next_timestamp;
}

void expect_refused(Sender &sender, const Refusal &refusal) {
    for (const Api api : {Api::kSendmsg, Api::kSendmmsg, Api::kIoUring, Api::kIoUringZeroCopy})
        for (const int flags : {0, MSG_ZEROCOPY + 0}) {
            SCOPED_TRACE(std::string(refusal.what) + ", " + name(api) + ", flags " +
                         std::to_string(flags));
            const Statistics before = Statistics::read();
            const auto books = sender.books();
            const auto full = sender.snmp("SndbufErrors");
            const auto sent = sender.snmp("OutDatagrams");
            EXPECT_EQ(refusal.send(sender, flags, api), refusal.error);
            EXPECT_EQ(Statistics::read().all(), before.all());
            EXPECT_EQ(sender.books(), books);
            EXPECT_EQ(sender.snmp("SndbufErrors"), full);
            EXPECT_EQ(sender.snmp("OutDatagrams"), sent);
            const ErrorQueue queue = ErrorQueue::read(sender.fd.get());
            EXPECT_TRUE(queue.zerocopy.empty()) << "a completion of a refused send";
            EXPECT_TRUE(queue.timestamps.empty());
        }
    SCOPED_TRACE(refusal.what);
    expect_nothing_taken(sender);
}

TEST_P(Contract, WhatIsRefusedHasNeverBeen) {
    world_.stop_listening();
    for (const Family family : kAllFamilies) {
        SCOPED_TRACE(name(family));
        Sender sender(world_, family, false);
        expect_nothing_taken(sender); // and there is a used number
        for (const Refusal &refusal : refusals())
            expect_refused(sender, refusal);
        EXPECT_TRUE(sender.arrived().empty());
    }
}

// UDP_SEGMENT where a transform is on the route.
TEST_P(Contract, ABatchThatMeetsATransformIsRefused) {
    world_.stop_listening();
    for (const Family family : {Family::kIpv4, Family::kIpv6}) {
        Sender sender(world_, family, false);
        const std::string net =
            family == Family::kIpv4 ? "src 10.1.1.1 dst 10.1.1.2" : "src fd01::1 dst fd01::2";
        world_.a.command("ip xfrm state add " + net +
                         " proto esp spi 0x11 reqid 1 mode transport aead 'rfc4106(gcm(aes))' "
                         "0x0102030405060708090a0b0c0d0e0f1011121314 128; ip xfrm policy add " +
                         net + " dir out tmpl " + net + " proto esp reqid 1 mode transport");
        const Refusal transform{"a transform", -EIO, [](Sender &s, int flags, Api api) {
                                    return send_batch_of(s, kSize, flags, api);
                                }};
        for (const int flags : {0, MSG_ZEROCOPY + 0}) {
            EXPECT_EQ(transform.send(sender, flags, Api::kSendmsg), -EIO);
            EXPECT_TRUE(ErrorQueue::read(sender.fd.get()).zerocopy.empty());
        }
        world_.a.command("ip xfrm policy flush; ip xfrm state flush");
        expect_nothing_taken(sender);
    }
}

// Of messages that go with one call, those before the refused one are taken, lost or not.
TEST_P(Contract, SendmmsgTakesWhatComesBeforeTheRefused) {
    Sender sender(world_, Family::kIpv4, false);
    const Obstacle obstacle(world_, cgroup_, Loss::kNft);
    std::vector<Bytes> data;
    std::vector<Control> controls;
    for (unsigned i = 0; i < 4; ++i) {
        data.push_back(make_packet(kShape, sender.next + i + (i == 2 ? 7 : 0), kSize));
        controls.push_back(Control().quic(sender.next + i, sender.sa, kShape.pn_offset()));
    }
    mmsghdr many[4] = {};
    iovec parts[4];
    for (unsigned i = 0; i < 4; ++i) {
        parts[i] = {data[i].data(), data[i].size()};
        many[i].msg_hdr.msg_name = const_cast<sockaddr *>(sender.to.get());
        many[i].msg_hdr.msg_namelen = sender.to.length;
        many[i].msg_hdr.msg_iov = &parts[i];
        many[i].msg_hdr.msg_iovlen = 1;
        many[i].msg_hdr.msg_control = controls[i].bytes().data();
        many[i].msg_hdr.msg_controllen = controls[i].bytes().size();
    }
    const auto before = sender.info().packets;
    EXPECT_EQ(::sendmmsg(sender.fd.get(), many, 4, 0), 2);
    EXPECT_EQ(sender.info().packets - before, 2U);
    EXPECT_EQ(many[0].msg_len, kSize);
    EXPECT_EQ(many[1].msg_len, kSize);
    EXPECT_EQ(::sendmmsg(sender.fd.get(), many + 2, 2, 0), -1);
    EXPECT_EQ(errno, EBADMSG);
    EXPECT_EQ(sender.info().packets - before, 2U);
    EXPECT_EQ(sender.send(sender.next + 3, 1), static_cast<ssize_t>(kWireSize));
}

// What is no use of the interface is as it was: UDP's own sends report what IP does.
TEST_P(Contract, OtherSendsAreAsEver) {
    Sender sender(world_, Family::kIpv4, true);
    const Bytes data(500, 0x11);
    {
        const Obstacle obstacle(world_, cgroup_, Loss::kNft);
        EXPECT_EQ(sender.send(data, Control()), -EPERM);
    }
    const Obstacle obstacle(world_, cgroup_, Loss::kQdisc);
    EXPECT_EQ(sender.send(data, Control()), -ENOBUFS);
    set_option(sender.fd.get(), SOL_IP, IP_RECVERR, 0);
    EXPECT_EQ(sender.send(data, Control()), 500);
}

} // namespace
} // namespace quic_test
