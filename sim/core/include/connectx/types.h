// SPDX-License-Identifier: GPL-2.0
//
// Small vocabulary types shared by all parts of the model.
#pragma once

#include <compare>
#include <cstdint>
#include <deque>
#include <memory>
#include <utility>

namespace connectx {

/// A bus address in guest memory, as the device puts it on PCIe.
struct GuestAddr {
    std::uint64_t value = 0;
    friend auto operator<=>(GuestAddr, GuestAddr) = default;
    friend GuestAddr operator+(GuestAddr a, std::uint64_t off) { return {a.value + off}; }
};

/// Why a frame or WQE could not be handled; the values are CQE syndromes (linux/mlx5/cq.h).
enum class Syndrome : std::uint8_t {
    kOk = 0,
    kLocalLength = 0x01,
    kLocalQpOp = 0x02,
    kLocalProt = 0x04,
    kFlush = 0x05,
};

/// Firmware objects of one kind, addressed by number. A number that was freed is used again as late
/// as possible, so that a stale one is more likely to be noticed than to hit a new object. Finding,
/// creating and destroying take the same time however many there are.
template <typename T> class ObjectTable {
  public:
    /// Numbers are first .. first + count - 1.
    ObjectTable(std::uint32_t first, std::uint32_t count) : first_(first), count_(count) {}

    [[nodiscard]] T *find(std::uint32_t id) const {
        const std::uint32_t index = id - first_;
        return index < slots_.size() ? slots_[index].get() : nullptr;
    }

    /// Null when all numbers are in use. The object's `id` is set.
    T *create() {
        auto object = std::make_unique<T>();
        if (slots_.size() < count_) {
            object->id = first_ + static_cast<std::uint32_t>(slots_.size());
            slots_.push_back(std::move(object));
            return slots_.back().get();
        }
        if (freed_.empty())
            return nullptr;
        const std::uint32_t index = freed_.front();
        freed_.pop_front();
        object->id = first_ + index;
        slots_[index] = std::move(object);
        return slots_[index].get();
    }

    bool erase(std::uint32_t id) {
        if (find(id) == nullptr)
            return false;
        slots_[id - first_].reset();
        freed_.push_back(id - first_);
        return true;
    }
    /// One object fewer points to this one; a number that is no object's points nowhere.
    void release(std::uint32_t id) {
        if (T *object = find(id))
            --object->refs;
    }
    /// Calls fn(T &) for each, in the order of their numbers.
    template <typename Fn> void for_each(Fn fn) const {
        for (const auto &slot : slots_)
            if (slot)
                fn(*slot);
    }
    /// All of them, to be destroyed elsewhere; numbers start anew. Those that are free are null.
    using Slots = std::deque<std::unique_ptr<T>>;
    [[nodiscard]] Slots take_all() {
        freed_.clear();
        return std::exchange(slots_, {});
    }
    [[nodiscard]] std::size_t size() const { return slots_.size() - freed_.size(); }
    [[nodiscard]] std::uint32_t first() const { return first_; }
    [[nodiscard]] std::uint32_t capacity() const { return count_; }

  private:
    std::uint32_t first_;
    std::uint32_t count_;
    Slots slots_;                     ///< of the numbers that have ever been in use
    std::deque<std::uint32_t> freed_; ///< those that are not now, the one freed first in front
};

} // namespace connectx
