// SPDX-License-Identifier: GPL-2.0
#include "growth.h"

#include <functional>
#include <random>

#include <gtest/gtest.h>

namespace quic_soak {
namespace {

bool holds(Rule rule, std::int64_t slack, std::size_t spells,
           const std::function<std::int64_t(std::size_t)> &value, std::int64_t before = 0) {
    std::vector<Stock> stocks(spells);
    for (std::size_t i = 0; i < spells; ++i)
        stocks[i]["it"] = {rule, slack, "", value(i)};
    return judge({{"it", {rule, slack, "", before}}}, stocks).at(0).holds;
}

TEST(Growth, ASlowLeakIsFoundWithinAnHour) {
    std::mt19937 random(1);
    const auto noise = [&] { return static_cast<std::int64_t>(random() % 40); };
    EXPECT_TRUE(holds(Rule::kGrows, 50, 90, [&](std::size_t) { return 1000 + noise(); }));
    EXPECT_FALSE(holds(Rule::kGrows, 50, 90, [&](std::size_t i) {
        return 1000 + noise() + static_cast<std::int64_t>(i) * 2;
    }));
}

TEST(Growth, WhatFillsUpAtTheStartIsNoLeak) {
    EXPECT_TRUE(holds(Rule::kGrows, 10, 40, [](std::size_t i) { return i < 4 ? 100 * i : 400; }));
    EXPECT_TRUE(holds(Rule::kGrows, 10, 5, [](std::size_t i) { return i < 2 ? 100 * i : 400; }));
}

TEST(Growth, OneHighValueIsNoLeak) {
    for (std::size_t at : {5U, 20U, 39U})
        EXPECT_TRUE(
            holds(Rule::kGrows, 10, 40, [at](std::size_t i) { return i == at ? 9999 : 100; }));
}

TEST(Growth, WhatShrinksDoesNotGrow) {
    EXPECT_TRUE(holds(Rule::kGrows, 0, 30, [](std::size_t i) { return 1000 - int(i); }));
}

TEST(Growth, FewSpellsAreJudgedToo) {
    EXPECT_FALSE(holds(Rule::kGrows, 10, 4, [](std::size_t i) { return 100 * i; }));
    EXPECT_FALSE(holds(Rule::kGrows, 10, 2, [](std::size_t i) { return 100 * i; }));
    EXPECT_TRUE(holds(Rule::kGrows, 10, 1, [](std::size_t) { return 100; }));
}

TEST(Growth, ExactRulesForgiveNothing) {
    EXPECT_TRUE(holds(Rule::kZero, 0, 9, [](std::size_t) { return 0; }));
    EXPECT_FALSE(holds(Rule::kZero, 0, 9, [](std::size_t i) { return i == 0 ? 1 : 0; }));
    EXPECT_TRUE(holds(
        Rule::kSame, 0, 9, [](std::size_t) { return 7; }, 7));
    EXPECT_FALSE(holds(
        Rule::kSame, 0, 9, [](std::size_t) { return 8; }, 7));
    EXPECT_FALSE(holds(
        Rule::kSame, 0, 9, [](std::size_t i) { return i == 8 ? 6 : 7; }, 7));
}

TEST(Growth, WhatAppearsLaterIsJudged) {
    std::vector<Stock> stocks(12);
    for (std::size_t i = 8; i < 12; ++i)
        stocks[i]["late"] = {Rule::kGrows, 5, "", 100};
    EXPECT_FALSE(judge({}, stocks).at(0).holds);
}

} // namespace
} // namespace quic_soak
