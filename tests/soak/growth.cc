// SPDX-License-Identifier: GPL-2.0
#include "growth.h"

#include <algorithm>

namespace quic_soak {

namespace {

std::int64_t value_of(const Stock &stock, const std::string &name) {
    const auto found = stock.find(name);
    return found == stock.end() ? 0 : found->second.value;
}

std::int64_t median(std::vector<std::int64_t> values) {
    const auto middle = values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2);
    std::nth_element(values.begin(), middle, values.end());
    return *middle;
}

} // namespace

const char *name(Rule rule) {
    switch (rule) {
    case Rule::kZero:
        return "zero";
    case Rule::kSame:
        return "same";
    case Rule::kGrows:
        return "grows";
    }
    return "?";
}

unsigned warm_up(std::size_t spells) {
    return static_cast<unsigned>(
        std::min(spells - std::min<std::size_t>(spells, 2), std::max<std::size_t>(2, spells / 10)));
}

std::vector<Judgement> judge(const Stock &before, const std::vector<Stock> &stocks) {
    std::map<std::string, Quantity> all(before);
    for (const Stock &stock : stocks)
        all.insert(stock.begin(), stock.end());
    std::vector<Judgement> out;
    for (const auto &[name, quantity] : all) {
        Judgement one{
            .name = name, .unit = quantity.unit, .rule = quantity.rule, .slack = quantity.slack};
        std::vector<std::int64_t> values;
        for (const Stock &stock : stocks)
            values.push_back(value_of(stock, name));
        if (values.empty())
            continue;
        one.most = *std::max_element(values.begin(), values.end());
        if (quantity.rule == Rule::kGrows) {
            values.erase(values.begin(), values.begin() + warm_up(values.size()));
            const auto third =
                static_cast<std::ptrdiff_t>(std::max<std::size_t>(1, values.size() / 3));
            one.first = median({values.begin(), values.begin() + third});
            one.last = median({values.end() - third, values.end()});
            one.holds = one.last - one.first <= one.slack;
        } else {
            one.first = quantity.rule == Rule::kZero ? 0 : value_of(before, name);
            one.last = values.back();
            one.holds = std::all_of(values.begin(), values.end(),
                                    [&](std::int64_t value) { return value == one.first; });
        }
        out.push_back(one);
    }
    return out;
}

} // namespace quic_soak
