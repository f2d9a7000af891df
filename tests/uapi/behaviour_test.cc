// SPDX-License-Identifier: GPL-2.0
//
// What a sender may rely on beyond a single send: key updates, threads, descriptors that travel,
// SAs that end, DF, path MTU, and sockets that also send in the clear.
#include <atomic>
#include <cstring>
#include <map>
#include <set>
#include <thread>

#include <gtest/gtest.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <netinet/ip.h>
#include <netinet/udp.h>
#include <sys/wait.h>

#include "loopback.h"

namespace quic_test {
namespace {

constexpr PacketShape kShape{.cid_length = 8, .pn_length = 4};
constexpr std::size_t kSize = 1184;
constexpr std::uint16_t kWireSize = kSize + UDP_QUIC_TAG_LEN;

Bytes packet(std::uint64_t pn, std::size_t size = kSize) { return make_packet(kShape, pn, size); }

Bytes batch(std::uint64_t pn, std::size_t count) {
    std::vector<Bytes> packets;
    for (std::size_t i = 0; i < count; ++i)
        packets.push_back(packet(pn + i));
    return join_packets(packets);
}

void expect_arrives(const Loopback &loopback, const PacketKeys &keys, std::uint64_t pn) {
    const auto wire = receive(loopback.receiver.get());
    ASSERT_TRUE(wire.has_value()) << pn;
    const auto opened = unprotect(keys, *wire, kShape.pn_offset(), pn);
    ASSERT_TRUE(opened.has_value()) << pn;
    EXPECT_EQ(opened->packet, packet(pn));
}

class Behaviour : public testing::TestWithParam<Family> {};

INSTANTIATE_TEST_SUITE_P(Families, Behaviour, testing::ValuesIn(kAllFamilies),
                         [](const auto &info) { return name(info.param); });

TEST_P(Behaviour, KeyUpdateInMidFlow) {
    Loopback loopback(GetParam(), true);
    const int fd = loopback.sender.get();
    std::uint64_t pn = 1;
    for (std::uint64_t generation = 0; generation < 12; ++generation) {
        const PacketKeys keys = keys_of_seed(kAllCiphers[generation % 4], generation);
        const std::uint32_t sa = add_sa_index(fd, generation, keys);
        for (int i = 0; i < 3; ++i, pn += 2) {
            ASSERT_EQ(send(fd, batch(pn, 2),
                           Control().quic(pn, sa, kShape.pn_offset()).gso_size(kWireSize)),
                      static_cast<ssize_t>(2 * kSize));
            expect_arrives(loopback, keys, pn);
            expect_arrives(loopback, keys, pn + 1);
        }
        if (generation > 1) {
            EXPECT_EQ(del_sa(fd, generation - 2), 0);
        }
    }
}

TEST_P(Behaviour, BetweenTwoGenerationsInAnyOrder) {
    Loopback loopback(GetParam(), true);
    const int fd = loopback.sender.get();
    const PacketKeys keys[2] = {keys_of_seed(Cipher::kAes256Gcm, 1),
                                keys_of_seed(Cipher::kChaCha20Poly1305, 2)};
    const std::uint32_t sa[2] = {add_sa_index(fd, 0, keys[0]), add_sa_index(fd, 1, keys[1])};
    for (std::uint64_t pn = 1; pn < 40; ++pn)
        ASSERT_EQ(send(fd, packet(pn), Control().quic(pn, sa[pn * 7 % 3 % 2], kShape.pn_offset())),
                  static_cast<ssize_t>(kSize));
    for (std::uint64_t pn = 1; pn < 40; ++pn)
        expect_arrives(loopback, keys[pn * 7 % 3 % 2], pn);
}

TEST_P(Behaviour, ClearSendsAreUntouched) {
    Loopback loopback(GetParam(), true);
    const int fd = loopback.sender.get();
    const PacketKeys keys = keys_of_seed(Cipher::kAes128Gcm, 1);
    const std::uint32_t sa = add_sa_index(fd, 0, keys);
    const Statistics before = Statistics::read();
    for (std::uint64_t pn = 1; pn < 10; ++pn) {
        const Bytes clear(100 + pn, static_cast<std::uint8_t>(pn));
        ASSERT_EQ(send(fd, clear, Control()), static_cast<ssize_t>(clear.size()));
        ASSERT_EQ(send(fd, packet(pn), Control().quic(pn, sa, kShape.pn_offset())),
                  static_cast<ssize_t>(kSize));
        ASSERT_EQ(send(fd, Bytes(2400, 3), Control().gso_size(1200)), 2400);
        EXPECT_EQ(receive(loopback.receiver.get()), clear);
        expect_arrives(loopback, keys, pn);
        EXPECT_EQ(receive(loopback.receiver.get()), Bytes(1200, 3));
        EXPECT_EQ(receive(loopback.receiver.get()), Bytes(1200, 3));
    }
    EXPECT_EQ(Statistics::read().since(before, "TxPackets"), 9U);
}

TEST_P(Behaviour, SkippedAndRepeatedNumbersAreTheCallersAffair) {
    Loopback loopback(GetParam(), true);
    const int fd = loopback.sender.get();
    const PacketKeys keys = keys_of_seed(Cipher::kAes128Ccm, 1);
    const std::uint32_t sa = add_sa_index(fd, 0, keys);
    for (std::uint64_t pn : {std::uint64_t{0}, std::uint64_t{500}, std::uint64_t{7},
                             std::uint64_t{1} << 40, std::uint64_t{UDP_QUIC_PN_MAX}}) {
        ASSERT_EQ(send(fd, packet(pn), Control().quic(pn, sa, kShape.pn_offset())),
                  static_cast<ssize_t>(kSize));
        expect_arrives(loopback, keys, pn);
    }
}

TEST_P(Behaviour, NoChecksumSocketOption) {
    if (GetParam() == Family::kIpv6)
        GTEST_SKIP() << "IPv6 demands a checksum";
    Loopback loopback(GetParam(), true);
    const int fd = loopback.sender.get();
    set_option(fd, SOL_SOCKET, SO_NO_CHECK, 1);
    const PacketKeys keys = keys_of_seed(Cipher::kAes128Gcm, 1);
    const std::uint32_t sa = add_sa_index(fd, 0, keys);
    ASSERT_EQ(send(fd, packet(3), Control().quic(3, sa, kShape.pn_offset())),
              static_cast<ssize_t>(kSize));
    expect_arrives(loopback, keys, 3);
}

// Threads on one socket and one SA, on one socket and an SA each, and on a socket each.
class Threads : public testing::TestWithParam<int> {};

TEST_P(Threads, EverythingArrivesOnce) {
    constexpr unsigned kThreads = 6;
    constexpr std::uint64_t kSends = 30;
    constexpr std::uint64_t kBatch = 4;
    const bool own_socket = GetParam() == 2;
    const bool own_sa = GetParam() >= 1;
    Loopback loopback(Family::kIpv4, true);
    std::vector<Loopback> sockets;
    std::vector<PacketKeys> keys;
    std::vector<std::uint32_t> sas;
    for (unsigned i = 0; i < kThreads; ++i) {
        const unsigned which = own_sa ? i : 0;
        keys.push_back(keys_of_seed(kAllCiphers[which % 4], which));
        if (own_socket) {
            sockets.emplace_back(Family::kIpv4, false);
            connect_to(sockets.back().sender.get(), loopback.to_address);
        }
        const int fd = own_socket ? sockets[i].sender.get() : loopback.sender.get();
        sas.push_back(own_sa || i == 0 ? add_sa_index(fd, i, keys[i]) : sas[0]);
    }
    std::atomic<unsigned> failed = 0;
    std::vector<std::thread> threads;
    for (unsigned i = 0; i < kThreads; ++i)
        threads.emplace_back([&, i] {
            const int fd = own_socket ? sockets[i].sender.get() : loopback.sender.get();
            for (std::uint64_t s = 0; s < kSends; ++s) {
                const std::uint64_t pn = (std::uint64_t{i} << 20) + s * kBatch;
                const ssize_t sent =
                    send(fd, batch(pn, kBatch),
                         Control().quic(pn, sas[i], kShape.pn_offset()).gso_size(kWireSize));
                if (sent != static_cast<ssize_t>(kBatch * kSize))
                    ++failed;
            }
        });
    // Each thread's own packets come in order; between threads any order will do.
    std::vector<std::uint64_t> next(kThreads, 0);
    for (std::uint64_t got = 0; got < kThreads * kSends * kBatch; ++got) {
        const auto wire = receive(loopback.receiver.get());
        ASSERT_TRUE(wire.has_value()) << "after " << got;
        bool opened_by_one = false;
        for (unsigned i = 0; i < kThreads && !opened_by_one; ++i) {
            const std::uint64_t pn = (std::uint64_t{i} << 20) + next[i];
            const auto opened = unprotect(keys[i], *wire, kShape.pn_offset(), pn);
            if (!opened || opened->pn != pn)
                continue;
            EXPECT_EQ(opened->packet, packet(pn));
            ++next[i];
            opened_by_one = true;
        }
        EXPECT_TRUE(opened_by_one) << "an unknown, repeated or reordered packet";
    }
    for (std::thread &thread : threads)
        thread.join();
    EXPECT_EQ(failed, 0U);
    if (!own_sa) {
        struct udp_crypto_sa_info info {};
        ASSERT_EQ(get_sa(loopback.sender.get(), 0, &info), 0);
        EXPECT_EQ(info.packets, kThreads * kSends * kBatch);
        EXPECT_EQ(info.packets_software, kThreads * kSends * kBatch);
    }
}

std::string sharing_name(const testing::TestParamInfo<int> &info) {
    static const char *const names[] = {"OneSocketOneSa", "OneSocketManySas", "ManySockets"};
    return names[info.param];
}

INSTANTIATE_TEST_SUITE_P(Sharing, Threads, testing::Values(0, 1, 2), sharing_name);

// The packet limit holds to the packet when threads race for it.
TEST(Limits, RacingThreadsNeverExceedTheLimit) {
    Loopback loopback(Family::kIpv4, true);
    constexpr std::uint64_t kLimit = 101;
    const PacketKeys keys = keys_of_seed(Cipher::kAes128Gcm, 8);
    const std::uint32_t sa = add_sa_index(loopback.sender.get(), 0, keys, 0, kLimit);
    std::atomic<std::uint64_t> sent = 0;
    std::atomic<unsigned> other = 0;
    std::vector<std::thread> threads;
    for (unsigned i = 0; i < 4; ++i)
        threads.emplace_back([&, i] {
            for (std::uint64_t s = 0; s < 40; ++s) {
                const std::uint64_t count = 1 + (s & 1);
                const std::uint64_t pn = (std::uint64_t{i} << 20) + 2 * s;
                Control control = Control().quic(pn, sa, kShape.pn_offset());
                control.gso_size(kWireSize);
                const ssize_t result = send(loopback.sender.get(), batch(pn, count), control);
                if (result >= 0)
                    sent += count;
                else if (result != -EKEYEXPIRED)
                    ++other;
            }
        });
    for (std::thread &thread : threads)
        thread.join();
    EXPECT_EQ(other, 0U);
    // The last one may be refused to a pair and then taken by a single, so all are used.
    EXPECT_EQ(sent, kLimit);
    std::uint64_t arrived = 0;
    while (arrived < sent && receive(loopback.receiver.get()))
        ++arrived;
    EXPECT_EQ(arrived, kLimit);
    EXPECT_FALSE(receive(loopback.receiver.get(), std::chrono::milliseconds(0)).has_value());
}

// --- the life of an SA ----------------------------------------------------------------------

TEST(Life, AChildSendsAndTheSaOutlivesIt) {
    Loopback loopback(Family::kIpv4, true);
    const PacketKeys keys = keys_of_seed(Cipher::kAes128Gcm, 1);
    const std::uint32_t sa = add_sa_index(loopback.sender.get(), 0, keys);
    const pid_t child = ::fork();
    ASSERT_GE(child, 0);
    if (child == 0) {
        // As another user, too: the socket is the owner.
        const bool ok = ::setuid(1000) == 0 && send(loopback.sender.get(), packet(1),
                                                    Control().quic(1, sa, kShape.pn_offset())) ==
                                                   static_cast<ssize_t>(kSize);
        ::_exit(ok ? 0 : 1);
    }
    int status = 0;
    ASSERT_EQ(::waitpid(child, &status, 0), child);
    EXPECT_EQ(status, 0);
    expect_arrives(loopback, keys, 1);
    ASSERT_EQ(send(loopback.sender.get(), packet(2), Control().quic(2, sa, kShape.pn_offset())),
              static_cast<ssize_t>(kSize));
    expect_arrives(loopback, keys, 2);
}

// The table of SAs gets longer again and again while somebody looks for one in it.
TEST(Life, TheTableGrowsUnderASender) {
    constexpr std::uint64_t kMany = 3000;
    Loopback loopback(Family::kIpv4, true);
    const PacketKeys keys = keys_of_seed(Cipher::kAes128Gcm, 1);
    const std::uint32_t sa = add_sa_index(loopback.sender.get(), 0, keys);
    std::atomic<bool> enough = false;
    std::atomic<unsigned> failed = 0;
    std::atomic<std::uint64_t> sent = 0;
    std::thread sender([&] {
        for (std::uint64_t pn = 0; !enough; ++pn, ++sent)
            if (send(loopback.sender.get(), packet(pn),
                     Control().quic(pn, sa, kShape.pn_offset())) != static_cast<ssize_t>(kSize))
                ++failed;
    });
    UniqueFd other = udp_socket(AF_INET);
    std::map<std::uint32_t, std::uint64_t> cookies;
    for (std::uint64_t round = 0; round < 2; ++round) {
        for (std::uint64_t i = 0; i < kMany; ++i)
            EXPECT_TRUE(cookies.emplace(add_sa_index(other.get(), i, keys), i).second);
        for (const auto &[index, cookie] : cookies) {
            struct udp_crypto_sa_info info {};
            ASSERT_EQ(get_sa(other.get(), cookie, &info), 0);
            EXPECT_EQ(info.sa, index);
            EXPECT_EQ(del_sa(other.get(), cookie), 0);
        }
        cookies.clear();
    }
    enough = true;
    sender.join();
    EXPECT_EQ(failed, 0U);
    EXPECT_GT(sent, 0U);
    struct udp_crypto_sa_info info {};
    ASSERT_EQ(get_sa(loopback.sender.get(), 0, &info), 0);
    EXPECT_EQ(info.packets, sent);
}

TEST(Life, TheLastDescriptorCounts) {
    const NetNamespace fresh;
    fresh.run([] {
        Loopback loopback(Family::kIpv6, true);
        const PacketKeys keys = keys_of_seed(Cipher::kAes128Gcm, 1);
        const std::uint32_t sa = add_sa_index(loopback.sender.get(), 0, keys);
        UniqueFd copy(::dup(loopback.sender.get()));
        loopback.sender.reset();
        EXPECT_EQ(Statistics::read()["SaCurr"], 1U);
        ASSERT_EQ(send(copy.get(), packet(1), Control().quic(1, sa, kShape.pn_offset())),
                  static_cast<ssize_t>(kSize));
        expect_arrives(loopback, keys, 1);
        copy.reset();
        EXPECT_TRUE(eventually([] { return Statistics::read()["SaCurr"] == 0; }));
    });
}

TEST(Life, ADescriptorPassedToAnotherProcess) {
    int channel[2];
    ASSERT_EQ(::socketpair(AF_UNIX, SOCK_SEQPACKET, 0, channel), 0);
    Loopback loopback(Family::kIpv4, false);
    const PacketKeys keys = keys_of_seed(Cipher::kChaCha20Poly1305, 1);
    const pid_t child = ::fork();
    ASSERT_GE(child, 0);
    if (child == 0) {
        // Makes socket and SA, hands them over, and is gone.
        UniqueFd fd = udp_socket(AF_INET);
        const std::uint32_t sa = add_sa_index(fd.get(), 0, keys);
        iovec data{const_cast<std::uint32_t *>(&sa), sizeof(sa)};
        alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))] = {};
        msghdr header{};
        header.msg_iov = &data;
        header.msg_iovlen = 1;
        header.msg_control = control;
        header.msg_controllen = sizeof(control);
        cmsghdr *cmsg = CMSG_FIRSTHDR(&header);
        cmsg->cmsg_level = SOL_SOCKET;
        cmsg->cmsg_type = SCM_RIGHTS;
        cmsg->cmsg_len = CMSG_LEN(sizeof(int));
        const int raw = fd.get();
        std::memcpy(CMSG_DATA(cmsg), &raw, sizeof(raw));
        ::_exit(::sendmsg(channel[1], &header, 0) == sizeof(sa) ? 0 : 1);
    }
    int status = 0;
    ASSERT_EQ(::waitpid(child, &status, 0), child);
    ASSERT_EQ(status, 0);
    std::uint32_t sa = 0;
    iovec data{&sa, sizeof(sa)};
    alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))] = {};
    msghdr header{};
    header.msg_iov = &data;
    header.msg_iovlen = 1;
    header.msg_control = control;
    header.msg_controllen = sizeof(control);
    ASSERT_EQ(::recvmsg(channel[0], &header, 0), static_cast<ssize_t>(sizeof(sa)));
    int raw = -1;
    std::memcpy(&raw, CMSG_DATA(CMSG_FIRSTHDR(&header)), sizeof(raw));
    const UniqueFd passed(raw);
    ASSERT_EQ(send(passed.get(), packet(1), Control().quic(1, sa, kShape.pn_offset()),
                   &loopback.to_address),
              static_cast<ssize_t>(kSize));
    expect_arrives(loopback, keys, 1);
    ::close(channel[0]);
    ::close(channel[1]);
}

TEST(Life, TheSocketGoesOnAfterDisconnectAndRebind) {
    Loopback loopback(Family::kIpv4, true);
    const int fd = loopback.sender.get();
    const PacketKeys keys = keys_of_seed(Cipher::kAes128Gcm, 1);
    const std::uint32_t sa = add_sa_index(fd, 0, keys);
    Address nobody;
    nobody.storage.ss_family = AF_UNSPEC;
    nobody.length = sizeof(sockaddr_in);
    connect_to(fd, nobody);
    ASSERT_EQ(send(fd, packet(1), Control().quic(1, sa, kShape.pn_offset()), &loopback.to_address),
              static_cast<ssize_t>(kSize));
    expect_arrives(loopback, keys, 1);
}

// IPV6_ADDRFORM turns a v4-mapped socket into an IPv4 one, protocol and all.
TEST(Life, TheSaSurvivesIpv6Addrform) {
    const NetNamespace fresh;
    fresh.run([] {
        Loopback loopback(Family::kMapped, true);
        const int fd = loopback.sender.get();
        const PacketKeys keys = keys_of_seed(Cipher::kAes128Gcm, 1);
        const std::uint32_t sa = add_sa_index(fd, 0, keys);
        set_option(fd, SOL_IPV6, IPV6_ADDRFORM, AF_INET);
        ASSERT_EQ(send(fd, packet(1), Control().quic(1, sa, kShape.pn_offset())),
                  static_cast<ssize_t>(kSize));
        expect_arrives(loopback, keys, 1);
        EXPECT_EQ(add_sa_index(fd, 1, keys) != 0, true);
        loopback.sender.reset();
        EXPECT_TRUE(eventually([] { return Statistics::read()["SaCurr"] == 0; }));
    });
}

TEST(Life, ANamespaceGoesWithItsSas) {
    // No leak report from kmemleak on the debug kernel, no stuck namespace on any.
    for (int i = 0; i < 5; ++i) {
        const NetNamespace fresh;
        fresh.run([] {
            Loopback loopback(Family::kIpv4, true);
            const PacketKeys keys = keys_of_seed(Cipher::kAes128Gcm, 1);
            const std::uint32_t sa = add_sa_index(loopback.sender.get(), 0, keys);
            EXPECT_EQ(
                send(loopback.sender.get(), packet(1), Control().quic(1, sa, kShape.pn_offset())),
                static_cast<ssize_t>(kSize));
        });
    }
}

// --- DF and path MTU ------------------------------------------------------------------------

UniqueFd packet_socket() {
    UniqueFd fd(::socket(AF_PACKET, SOCK_DGRAM | SOCK_CLOEXEC, htons(ETH_P_IP)));
    if (fd.get() < 0)
        throw_errno("AF_PACKET");
    return fd;
}

TEST(DontFragment, SetWhateverTheOption) {
    for (int discover : {IP_PMTUDISC_DONT, IP_PMTUDISC_WANT, IP_PMTUDISC_DO, IP_PMTUDISC_PROBE,
                         IP_PMTUDISC_INTERFACE, IP_PMTUDISC_OMIT}) {
        const NetNamespace fresh;
        fresh.run([discover] {
            Loopback loopback(Family::kIpv4, false);
            const int fd = loopback.sender.get();
            set_option(fd, SOL_IP, IP_MTU_DISCOVER, discover);
            const PacketKeys keys = keys_of_seed(Cipher::kAes128Gcm, 1);
            const std::uint32_t sa = add_sa_index(fd, 0, keys);
            const UniqueFd sniffer = packet_socket();
            ASSERT_EQ(send(fd, packet(1), Control().quic(1, sa, kShape.pn_offset()),
                           &loopback.to_address),
                      static_cast<ssize_t>(kSize));
            ASSERT_EQ(send(fd, batch(2, 3),
                           Control().quic(2, sa, kShape.pn_offset()).gso_size(kWireSize),
                           &loopback.to_address),
                      static_cast<ssize_t>(3 * kSize));
            for (std::uint64_t pn = 1; pn < 5; ++pn)
                expect_arrives(loopback, keys, pn);
            int seen = 0;
            while (const auto frame = receive(sniffer.get(), std::chrono::milliseconds(0))) {
                if (frame->size() < 28 || (*frame)[9] != IPPROTO_UDP)
                    continue;
                ++seen;
                EXPECT_TRUE((*frame)[6] & 0x40) << "no DF with IP_MTU_DISCOVER " << discover;
                EXPECT_EQ((*frame)[6] & 0x3f, 0) << "a fragment";
                EXPECT_FALSE(contains_plaintext(*frame));
            }
            EXPECT_GE(seen, 2);
            // Too long for the path is refused, never fragmented.
            set_mtu("lo", 1400);
            EXPECT_EQ(send(fd, packet(9, 1500), Control().quic(9, sa, kShape.pn_offset()),
                           &loopback.to_address),
                      -EMSGSIZE);
        });
    }
}

TEST(PathMtu, ProbeGoesByTheDevice) {
    const NetNamespace fresh;
    fresh.run([] {
        command("ip link add d0 type dummy && ip addr add 10.9.0.1/24 dev d0 && ip link set d0 up "
                "&& ip route add 10.9.1.0/24 dev d0 mtu 1300");
        UniqueFd fd = udp_socket(AF_INET);
        const PacketKeys keys = keys_of_seed(Cipher::kAes128Gcm, 1);
        const std::uint32_t sa = add_sa_index(fd.get(), 0, keys);
        const Address to = Address::v4("10.9.1.1", 4433);
        command("ip neigh add 10.9.1.1 lladdr 02:00:00:00:00:09 dev d0");
        const auto try_size = [&](std::size_t wire) {
            return send(fd.get(), packet(7, wire - UDP_QUIC_TAG_LEN),
                        Control().quic(7, sa, kShape.pn_offset()), &to);
        };
        for (int discover : {IP_PMTUDISC_WANT, IP_PMTUDISC_DO}) {
            set_option(fd.get(), SOL_IP, IP_MTU_DISCOVER, discover);
            EXPECT_EQ(try_size(1272), 1272 - UDP_QUIC_TAG_LEN);
            EXPECT_EQ(try_size(1273), -EMSGSIZE) << discover;
        }
        set_option(fd.get(), SOL_IP, IP_MTU_DISCOVER, IP_PMTUDISC_PROBE);
        EXPECT_EQ(try_size(1273), 1273 - UDP_QUIC_TAG_LEN);
        EXPECT_EQ(try_size(1472), 1472 - UDP_QUIC_TAG_LEN);
        EXPECT_EQ(try_size(1473), -EMSGSIZE);
    });
}

TEST(PathMtu, Ipv6IsNeverFragmented) {
    const NetNamespace fresh;
    fresh.run([] {
        command(
            "ip link add d0 type dummy && ip addr add fd09::1/64 dev d0 nodad && ip link set d0 "
            "up && ip -6 route add fd09:1::/64 dev d0 mtu 1300 && "
            "ip neigh add fd09:1::1 lladdr 02:00:00:00:00:09 dev d0");
        UniqueFd fd = udp_socket(AF_INET6);
        const PacketKeys keys = keys_of_seed(Cipher::kAes128Gcm, 1);
        const std::uint32_t sa = add_sa_index(fd.get(), 0, keys);
        const Address to = Address::v6("fd09:1::1", 4433);
        const auto try_size = [&](std::size_t wire) {
            return send(fd.get(), packet(7, wire - UDP_QUIC_TAG_LEN),
                        Control().quic(7, sa, kShape.pn_offset()), &to);
        };
        EXPECT_EQ(try_size(1252), 1252 - UDP_QUIC_TAG_LEN);
        EXPECT_EQ(try_size(1253), -EMSGSIZE);
        set_option(fd.get(), SOL_IPV6, IPV6_DONTFRAG, 0);
        EXPECT_EQ(try_size(1253), -EMSGSIZE);
        EXPECT_EQ(try_size(3000), -EMSGSIZE);
        set_option(fd.get(), SOL_IPV6, IPV6_MTU_DISCOVER, IPV6_PMTUDISC_PROBE);
        EXPECT_EQ(try_size(1253), 1253 - UDP_QUIC_TAG_LEN);
        EXPECT_EQ(try_size(1453), -EMSGSIZE);
        set_option(fd.get(), SOL_IPV6, IPV6_MTU_DISCOVER, IPV6_PMTUDISC_DONT);
        EXPECT_EQ(try_size(1453), -EMSGSIZE);
    });
}

} // namespace
} // namespace quic_test
