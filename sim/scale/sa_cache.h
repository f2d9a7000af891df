// SPDX-License-Identifier: GPL-2.0
//
// A cache of security associations as a device would have it on its chip: set-associative, the
// least recently used way of a set goes first. It holds indexes only; what is counted is how often
// an SA has to be read from host memory.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace connectx::scale {

class SaCache {
  public:
    static constexpr std::size_t kWays = 8;

    /// `entries` is a power of two and at least kWays.
    explicit SaCache(std::size_t entries);

    /// True when the SA is there. When it is not, it is afterwards.
    bool access(std::uint32_t sa);
    /// An SA that was destroyed: its place is free.
    void invalidate(std::uint32_t sa);

    [[nodiscard]] std::size_t entries() const { return ways_.size(); }
    [[nodiscard]] std::uint64_t accesses() const { return accesses_; }
    [[nodiscard]] std::uint64_t misses() const { return misses_; }
    /// The cache stays warm, the counts begin anew.
    void forget_counts() { accesses_ = misses_ = 0; }

  private:
    static constexpr std::uint32_t kEmpty = ~0U;

    [[nodiscard]] std::size_t set_of(std::uint32_t sa) const;

    std::vector<std::uint32_t> ways_; ///< set after set, the most recently used way first
    std::uint64_t accesses_ = 0;
    std::uint64_t misses_ = 0;
};

} // namespace connectx::scale
