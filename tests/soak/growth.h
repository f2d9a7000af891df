// SPDX-License-Identifier: GPL-2.0
//
// The rule by which something is said to grow. No kernel needed: growth_test.cc runs on the host.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

namespace quic_soak {

enum class Rule {
    kZero,  // 0 in every stock
    kSame,  // in every stock what it was before the first spell
    kGrows, // may vary; the median of the last third is not above that of the first by more than
            // the slack
};
const char *name(Rule rule);

struct Quantity {
    Rule rule = Rule::kGrows;
    std::int64_t slack = 0;
    std::string unit;
    std::int64_t value = 0;
};
// One stock: each quantity by its name.
using Stock = std::map<std::string, Quantity>;

struct Judgement {
    std::string name;
    std::string unit;
    Rule rule = Rule::kGrows;
    std::int64_t slack = 0;
    // kGrows: medians of the thirds; else the first and the last value that the rule speaks of.
    std::int64_t first = 0;
    std::int64_t last = 0;
    std::int64_t most = 0;
    bool holds = true;
};

// Spells at the start in which caches fill up and whatever is made once is made: of these kGrows
// takes no notice.
unsigned warm_up(std::size_t spells);
// @before: the stock before the first spell; @stocks: after each. A quantity that is missing in
// some stock was 0 then.
std::vector<Judgement> judge(const Stock &before, const std::vector<Stock> &stocks);

} // namespace quic_soak
