// SPDX-License-Identifier: MIT
//
// Memory for keys: zeroed before it goes back to the allocator, also when a vector grows.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string.h>
#include <vector>

namespace quic_sadb {

template <typename T> struct WipingAllocator {
    using value_type = T;
    WipingAllocator() = default;
    template <typename U> WipingAllocator(const WipingAllocator<U> & /*other*/) noexcept {}

    T *allocate(std::size_t n) { return std::allocator<T>().allocate(n); }
    void deallocate(T *p, std::size_t n) noexcept {
        ::explicit_bzero(p, n * sizeof(T));
        std::allocator<T>().deallocate(p, n);
    }
    template <typename U> bool operator==(const WipingAllocator<U> & /*other*/) const {
        return true;
    }
};

using SecretBytes = std::vector<std::uint8_t, WipingAllocator<std::uint8_t>>;
using SecretText = std::vector<char, WipingAllocator<char>>;

} // namespace quic_sadb
