// SPDX-License-Identifier: GPL-2.0
//
// What the sizing rests on: the cache forgets in the right order, and what is drawn has the
// frequencies that it should have.
#include "sa_cache.h"
#include "workload.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <stdexcept>

namespace connectx::scale {
namespace {

TEST(SaCache, KeepsTheWaysOfASetThatWereUsedLast) {
    SaCache cache(2 * SaCache::kWays);
    // All of one set: even indexes.
    for (std::uint32_t sa = 0; sa < 2 * SaCache::kWays; sa += 2)
        EXPECT_FALSE(cache.access(sa));
    EXPECT_TRUE(cache.access(0));
    EXPECT_FALSE(cache.access(100)); // takes the place of 2, the oldest
    EXPECT_TRUE(cache.access(0));
    EXPECT_TRUE(cache.access(4));
    EXPECT_FALSE(cache.access(2));
    EXPECT_EQ(cache.misses(), SaCache::kWays + 2);
    EXPECT_EQ(cache.accesses(), SaCache::kWays + 5);
}

TEST(SaCache, SetsDoNotDisturbEachOther) {
    SaCache cache(2 * SaCache::kWays);
    EXPECT_FALSE(cache.access(1));
    for (std::uint32_t sa = 0; sa < 100; sa += 2)
        cache.access(sa);
    EXPECT_TRUE(cache.access(1));
}

TEST(SaCache, WhatIsInvalidatedIsReadAgainAndTakesNoPlace) {
    SaCache cache(SaCache::kWays);
    for (std::uint32_t sa = 0; sa < SaCache::kWays; ++sa)
        cache.access(sa);
    cache.invalidate(3);
    cache.invalidate(77);           // was never there
    EXPECT_FALSE(cache.access(50)); // in the place of 3
    EXPECT_TRUE(cache.access(0));
    EXPECT_FALSE(cache.access(3));
}

TEST(SaCache, RefusesSizesThatAreNone) {
    EXPECT_THROW(SaCache(0), std::invalid_argument);
    EXPECT_THROW(SaCache(4), std::invalid_argument);
    EXPECT_THROW(SaCache(24), std::invalid_argument);
}

TEST(Zipf, HasItsFrequencies) {
    constexpr std::uint32_t kN = 1000;
    constexpr int kDraws = 1'000'000;
    for (const double s : {0.0, 0.8, 1.2}) {
        const Zipf zipf(kN, s);
        Random random(1);
        std::vector<int> seen(kN);
        for (int i = 0; i < kDraws; ++i)
            ++seen.at(zipf(random));
        double sum = 0;
        for (std::uint32_t i = 0; i < kN; ++i)
            sum += std::pow(i + 1.0, -s);
        for (const std::uint32_t i : {0U, 1U, 9U, 99U, 999U}) {
            const double expected = kDraws * std::pow(i + 1.0, -s) / sum;
            EXPECT_NEAR(seen[i], expected, 6 * std::sqrt(expected)) << s << ' ' << i;
        }
    }
}

TEST(Mix, SendsWhatTheKindsSayInTheOrderOfTime) {
    const auto kinds = internet_mix();
    Mix mix(kinds, 1, 1000);
    std::vector<double> packets(kinds.size());
    double now = 0;
    constexpr double kSeconds = 40;
    for (;;) {
        const Send send = mix.next();
        ASSERT_GE(send.time, now);
        now = send.time;
        if (now > kSeconds)
            break;
        packets.at(send.kind) += send.packets;
    }
    for (std::size_t i = 0; i < kinds.size(); ++i) {
        const double expected = packet_rate(kinds[i]) / 1000 * kSeconds;
        EXPECT_NEAR(packets[i], expected, 0.1 * expected) << kinds[i].name;
    }
}

TEST(Mix, ConnectionsEndAndOthersBegin) {
    const Kind kind{"short", 100, 1, 1, 0.01, 10, 0.1};
    Mix mix({&kind, 1}, 1);
    int first = 0;
    int last = 0;
    Send send;
    do {
        send = mix.next();
        first += send.first;
        last += send.last;
    } while (send.time < 10);
    // A connection lives a second and its first send comes when the last one's successor is due.
    EXPECT_NEAR(last, 1000, 150);
    EXPECT_LE(last - first, 100);
    EXPECT_GE(last, first);
}

TEST(Mix, FillsTheLink) {
    double rate = 0;
    std::uint32_t connections = 0;
    for (const Kind &kind : internet_mix()) {
        rate += packet_rate(kind);
        connections += kind.connections;
    }
    EXPECT_EQ(connections, 1'000'000U);
    EXPECT_NEAR(rate * (1200 + 66) * 8 / 1e9, 400, 4);
}

} // namespace
} // namespace connectx::scale
