// SPDX-License-Identifier: GPL-2.0
//
// Memory that keys may be in: command messages, mailboxes, WQEs. It is overwritten before it is
// given back, whichever way that comes about.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

namespace connectx {

/// Overwrites memory with zeros in a way that the compiler keeps.
void wipe(std::span<std::uint8_t> memory);

template <typename T> struct WipingAllocator {
    using value_type = T;
    WipingAllocator() = default;
    template <typename U> explicit WipingAllocator(const WipingAllocator<U> & /*other*/) {}
    T *allocate(std::size_t n) { return std::allocator<T>{}.allocate(n); }
    void deallocate(T *p, std::size_t n) {
        wipe({reinterpret_cast<std::uint8_t *>(p), n * sizeof(T)});
        std::allocator<T>{}.deallocate(p, n);
    }
    friend bool operator==(const WipingAllocator & /*left*/, const WipingAllocator & /*right*/) {
        return true;
    }
};

using SecretBytes = std::vector<std::uint8_t, WipingAllocator<std::uint8_t>>;

/// A plain structure of that kind.
template <typename T> struct Secret {
    Secret() = default;
    Secret(const Secret &) = default;
    Secret &operator=(const Secret &) = default;
    ~Secret() { wipe(bytes()); }
    std::span<std::uint8_t> bytes() {
        return {reinterpret_cast<std::uint8_t *>(&value), sizeof(value)};
    }
    T *operator->() { return &value; }
    const T *operator->() const { return &value; }

    T value{};
};

} // namespace connectx
