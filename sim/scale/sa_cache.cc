// SPDX-License-Identifier: GPL-2.0
#include "sa_cache.h"

#include <algorithm>
#include <bit>
#include <stdexcept>

namespace connectx::scale {

SaCache::SaCache(std::size_t entries) : ways_(entries, kEmpty) {
    if (entries < kWays || !std::has_single_bit(entries))
        throw std::invalid_argument("SaCache: entries must be a power of two and at least kWays");
}

// Indexes are given out in order, so their lowest bits spread them over the sets; a hash would do
// no better, and cost gates.
std::size_t SaCache::set_of(std::uint32_t sa) const {
    return (sa & (ways_.size() / kWays - 1)) * kWays;
}

bool SaCache::access(std::uint32_t sa) {
    const auto set = ways_.begin() + static_cast<std::ptrdiff_t>(set_of(sa));
    const auto end = set + kWays;
    ++accesses_;
    auto way = std::find(set, end, sa);
    const bool hit = way != end;
    if (!hit) {
        ++misses_;
        way = end - 1;
        *way = sa;
    }
    std::rotate(set, way, way + 1);
    return hit;
}

void SaCache::invalidate(std::uint32_t sa) {
    const auto set = ways_.begin() + static_cast<std::ptrdiff_t>(set_of(sa));
    const auto end = set + kWays;
    const auto way = std::find(set, end, sa);
    if (way == end)
        return;
    std::rotate(way, way + 1, end);
    *(end - 1) = kEmpty;
}

} // namespace connectx::scale
