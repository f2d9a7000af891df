// SPDX-License-Identifier: GPL-2.0
//
// UDP_CRYPTO_SA_F_GUARD_PN: no packet number is protected twice.
#include <atomic>
#include <cstring>
#include <random>
#include <set>
#include <thread>

#include <gtest/gtest.h>

#include "world.h"

namespace quic_test {
namespace {

constexpr PacketShape kShape{.cid_length = 4, .pn_length = 4};
constexpr std::size_t kSize = 100;
constexpr std::uint64_t kWindow = UDP_CRYPTO_GUARD_PN_WINDOW;
constexpr std::uint64_t kPnMax = UDP_QUIC_PN_MAX;
// One this far below the highest is never too old.
constexpr std::uint64_t kNeverTooOld = kWindow - 8;

class Guard : public testing::TestWithParam<Family> {
  protected:
    Guard()
        : loopback_(GetParam(), false), keys_(keys_of_seed(Cipher::kAes128Gcm, 77)),
          sa_(add_sa_index(fd(), 1, keys_, UDP_CRYPTO_SA_F_GUARD_PN)) {
        set_option(loopback_.receiver.get(), SOL_SOCKET, SO_RCVBUFFORCE, 32 << 20);
    }
    int fd() const { return loopback_.sender.get(); }
    ssize_t send_one(std::uint64_t pn) { return send_batch(pn, 1); }
    ssize_t send_batch(std::uint64_t pn, std::size_t count) {
        std::vector<Bytes> packets;
        for (std::size_t i = 0; i < count; ++i)
            packets.push_back(make_packet(kShape, pn + i, kSize));
        Control control;
        control.quic(pn, sa_, kShape.pn_offset());
        if (count > 1)
            control.gso_size(kSize + UDP_QUIC_TAG_LEN);
        const ssize_t result = send(fd(), join_packets(packets), control, &loopback_.to_address);
        return result < 0 ? result : static_cast<ssize_t>(count);
    }
    // Every number that arrives, once; it must not arrive again. @start: one near the first.
    std::set<std::uint64_t> arrived(std::uint64_t start = 0) {
        std::set<std::uint64_t> out;
        while (const auto wire =
                   receive(loopback_.receiver.get(), std::chrono::milliseconds(200))) {
            const auto opened =
                unprotect(keys_, *wire, kShape.pn_offset(), out.empty() ? start : *out.rbegin());
            EXPECT_TRUE(opened.has_value());
            if (opened) {
                EXPECT_TRUE(out.insert(opened->pn).second) << "twice on the wire: " << opened->pn;
            }
        }
        return out;
    }
    std::uint64_t packets() const {
        struct udp_crypto_sa_info info {};
        EXPECT_EQ(get_sa(fd(), 1, &info), 0);
        return info.packets;
    }

    Loopback loopback_;
    PacketKeys keys_;
    std::uint32_t sa_;
};
INSTANTIATE_TEST_SUITE_P(Families, Guard, testing::Values(Family::kIpv4, Family::kIpv6),
                         [](const auto &info) { return name(info.param); });

TEST_P(Guard, IsShown) {
    struct udp_crypto_sa_info info {};
    ASSERT_EQ(get_sa(fd(), 1, &info), 0);
    EXPECT_EQ(info.req.flags, UDP_CRYPTO_SA_F_GUARD_PN);
}

TEST_P(Guard, TheSameNumberTwice) {
    for (std::uint64_t pn : {std::uint64_t{0}, std::uint64_t{1}, std::uint64_t{7}, std::uint64_t{8},
                             std::uint64_t{5000}, kPnMax - 1, kPnMax}) {
        EXPECT_EQ(send_one(pn), 1) << pn;
        EXPECT_EQ(send_one(pn), -EALREADY) << pn;
    }
    EXPECT_EQ(packets(), 7U);
}

TEST_P(Guard, WithoutItTheNumberIsTheSendersBusiness) {
    sa_ = add_sa_index(fd(), 2, keys_);
    EXPECT_EQ(send_one(3), 1);
    EXPECT_EQ(send_one(3), 1);
}

TEST_P(Guard, BatchesThatOverlap) {
    EXPECT_EQ(send_batch(100, 20), 20);
    for (const auto &[pn, count] : {std::pair<std::uint64_t, std::size_t>{100, 20},
                                    {119, 1},
                                    {119, 5},
                                    {90, 11},
                                    {90, 60},
                                    {105, 3}})
        EXPECT_EQ(send_batch(pn, count), -EALREADY) << pn << " " << count;
    // Of the refused ones nothing was taken: what did not overlap is free.
    EXPECT_EQ(send_batch(90, 10), 10);
    EXPECT_EQ(send_batch(120, 30), 30);
    EXPECT_EQ(packets(), 60U);
    std::set<std::uint64_t> expected;
    for (std::uint64_t pn = 90; pn < 150; ++pn)
        expected.insert(pn);
    EXPECT_EQ(arrived(), expected);
}

TEST_P(Guard, AnyOrderWithinTheWindow) {
    std::vector<std::uint64_t> numbers;
    for (std::uint64_t i = 0; i < kNeverTooOld; i += 7)
        numbers.push_back((std::uint64_t{1} << 40) + i);
    std::shuffle(numbers.begin(), numbers.end(), std::mt19937(1));
    for (std::uint64_t pn : numbers)
        ASSERT_EQ(send_one(pn), 1) << pn;
    for (std::uint64_t pn : numbers)
        ASSERT_EQ(send_one(pn), -EALREADY) << pn;
}

TEST_P(Guard, WhatHasLeftTheWindowIsRefused) {
    ASSERT_EQ(send_one(10), 1);
    ASSERT_EQ(send_one(10 + kWindow), 1);
    EXPECT_EQ(send_one(10), -EALREADY);
    EXPECT_EQ(send_one(11), -EALREADY); // not used, but nobody can tell any more
    EXPECT_EQ(send_one(10 + kWindow - kNeverTooOld), 1);
    // Far ahead, and back again.
    ASSERT_EQ(send_one(kPnMax - 20), 1);
    EXPECT_EQ(send_one(10 + kWindow), -EALREADY);
    EXPECT_EQ(send_one(kPnMax - 20 - kNeverTooOld), 1);
}

TEST_P(Guard, AFailedSendUsesNoNumber) {
    // Too long for the device: refused after everything else was found to be right.
    set_mtu("lo", 1400);
    const Bytes large = make_packet(kShape, 50, 2000);
    EXPECT_EQ(send(fd(), large, Control().quic(50, sa_, kShape.pn_offset()), &loopback_.to_address),
              -EMSGSIZE);
    EXPECT_EQ(send_one(50), 1);
    set_mtu("lo", 65536);
    // The limit of packets.
    ASSERT_EQ(add_sa(fd(), 2, keys_, UDP_CRYPTO_SA_F_GUARD_PN, 3), 0);
    sa_ = sa_index(fd(), 2);
    EXPECT_EQ(send_batch(0, 4), -EKEYEXPIRED);
    EXPECT_EQ(send_batch(1, 3), 3);
    EXPECT_EQ(send_batch(0, 1), -EKEYEXPIRED);
}

// Threads that all want the same numbers: each is given out once, and none is lost.
TEST_P(Guard, ThreadsThatWantTheSameNumbers) {
    constexpr std::uint64_t kNumbers = 1500; // fewer than the window has
    constexpr std::uint64_t kStart = (std::uint64_t{5} << 33) + 3;
    std::atomic<std::uint64_t> taken = 0;
    std::atomic<unsigned> wrong = 0;
    std::vector<std::thread> threads;
    for (unsigned t = 0; t < 4; ++t)
        threads.emplace_back([&, t] {
            std::mt19937 random(t);
            for (std::uint64_t i = 0; i < kNumbers; ++i) {
                const std::uint64_t pn = kStart + (t % 2 == 0 ? i : kNumbers - 1 - i);
                const ssize_t result = send_one(pn);
                if (result == 1)
                    ++taken;
                else if (result != -EALREADY)
                    ++wrong;
            }
        });
    for (std::thread &thread : threads)
        thread.join();
    EXPECT_EQ(wrong, 0U);
    EXPECT_EQ(taken, kNumbers);
    EXPECT_EQ(packets(), kNumbers);
    EXPECT_EQ(arrived(kStart).size(), kNumbers);
}

// Against a model of the rule: random batches, and random jumps.
TEST_P(Guard, AgreesWithAModel) {
    std::mt19937_64 random(99);
    std::set<std::uint64_t> used;
    std::uint64_t highest = 0;
    std::uint64_t at = 1'000'000;
    for (unsigned i = 0; i < 1500; ++i) {
        const std::size_t count = 1 + random() % 12;
        if (random() % 50 == 0)
            at += random() % 5000;
        const std::uint64_t pn = at - random() % 1500 + random() % 1500;
        bool taken_before = false;
        for (std::uint64_t n = pn; n < pn + count; ++n)
            taken_before |= used.contains(n);
        const bool certainly_in_window = pn + kNeverTooOld > std::max(highest, pn + count);
        const ssize_t result = send_batch(pn, count);
        if (taken_before) {
            ASSERT_EQ(result, -EALREADY) << pn << " " << count;
        } else if (certainly_in_window) {
            ASSERT_EQ(result, static_cast<ssize_t>(count)) << pn << " " << count;
        }
        if (result > 0) {
            for (std::uint64_t n = pn; n < pn + count; ++n)
                used.insert(n);
            highest = std::max(highest, pn + count - 1);
        }
    }
    EXPECT_EQ(packets(), used.size());
}

// Over a device that encrypts the guard is the same, and so it is for another socket of the uid.
TEST(GuardOffload, OneGuardForAllWhoShareTheSa) {
    World world(Wire::kOffload);
    const InNamespace inside(world.a);
    const PacketKeys keys = keys_of_seed(Cipher::kAes128Gcm, 5);
    UniqueFd maker = udp_socket(AF_INET);
    UniqueFd other = udp_socket(AF_INET);
    const Address to = Address::v4("10.1.1.2", 4433);
    const std::uint32_t sa =
        add_sa_index(maker.get(), 1, keys, UDP_CRYPTO_SA_F_GUARD_PN | UDP_CRYPTO_SA_F_SAME_UID);
    const auto send_pn = [&](const UniqueFd &fd, std::uint64_t pn) {
        return send(fd.get(), make_packet(kShape, pn, kSize),
                    Control().quic(pn, sa, kShape.pn_offset()), &to);
    };
    std::uint64_t pn = 0;
    ASSERT_TRUE(eventually([&] {
        EXPECT_GT(send_pn(maker, pn), 0);
        EXPECT_EQ(send_pn(other, pn), -EALREADY);
        ++pn;
        return Statistics::read()["TxDevice"] > 0;
    }));
    EXPECT_GT(send_pn(other, pn), 0);
    EXPECT_EQ(send_pn(maker, pn), -EALREADY);
}

} // namespace
} // namespace quic_test
