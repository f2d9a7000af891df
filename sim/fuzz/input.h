// SPDX-License-Identifier: GPL-2.0
//
// What the fuzzer gives, read as numbers. An input that has ended gives zeros, so that every prefix
// of an input is one, too.
#pragma once

#include <algorithm>
#include <cstdint>
#include <span>
#include <vector>

namespace connectx::fuzz {

class Input {
  public:
    Input(const std::uint8_t *data, std::size_t size) : data_(data, size) {}

    [[nodiscard]] bool empty() const { return data_.empty(); }
    [[nodiscard]] std::size_t left() const { return data_.size(); }

    std::uint8_t u8() {
        if (data_.empty())
            return 0;
        const std::uint8_t v = data_.front();
        data_ = data_.subspan(1);
        return v;
    }
    std::uint16_t u16() { return static_cast<std::uint16_t>(u8() << 8 | u8()); }
    std::uint32_t u32() { return static_cast<std::uint32_t>(u16()) << 16 | u16(); }
    std::uint64_t u64() { return static_cast<std::uint64_t>(u32()) << 32 | u32(); }
    /// 0 to n - 1, with as many bytes as n needs. n is not 0.
    std::uint32_t below(std::uint32_t n) {
        if (n <= 0x100)
            return u8() % n;
        return (n <= 0x10000 ? u16() : u32()) % n;
    }
    bool flag() { return (u8() & 1) != 0; }
    /// As many as there are, at most n.
    std::vector<std::uint8_t> bytes(std::size_t n) {
        n = std::min(n, data_.size());
        std::vector<std::uint8_t> out(data_.begin(),
                                      data_.begin() + static_cast<std::ptrdiff_t>(n));
        data_ = data_.subspan(n);
        return out;
    }
    /// A number near where things change: small, near a power of two, in guest memory, or any.
    std::uint64_t awkward(std::uint64_t base) {
        switch (u8() % 5) {
        case 0:
            return u8();
        case 1:
            return (std::uint64_t{1} << (u8() % 64)) + u8() % 3 - 1;
        case 2:
            return base + u32() % (4U << 20);
        case 3:
            return ~std::uint64_t{u8()};
        default:
            return u64();
        }
    }

  private:
    std::span<const std::uint8_t> data_;
};

} // namespace connectx::fuzz
