// SPDX-License-Identifier: GPL-2.0
//
// Small vocabulary types shared by all parts of the model.
#pragma once

#include <compare>
#include <cstdint>
#include <map>
#include <memory>
#include <vector>

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

/// Firmware objects of one kind, addressed by number. Numbers are handed out rising and reused only
/// after wrapping round, so that a stale number is more likely to be noticed than to hit a new
/// object.
template <typename T> class ObjectTable {
  public:
    /// Numbers are first .. first + count - 1.
    ObjectTable(std::uint32_t first, std::uint32_t count) : first_(first), count_(count) {}

    [[nodiscard]] T *find(std::uint32_t id) const {
        auto it = objects_.find(id);
        return it == objects_.end() ? nullptr : it->second.get();
    }

    /// Null when all numbers are in use. The object's `id` is set.
    T *create() {
        if (objects_.size() >= count_)
            return nullptr;
        while (objects_.contains(first_ + next_))
            next_ = (next_ + 1) % count_;
        const std::uint32_t id = first_ + next_;
        next_ = (next_ + 1) % count_;
        auto obj = std::make_unique<T>();
        obj->id = id;
        T *raw = obj.get();
        objects_.emplace(id, std::move(obj));
        return raw;
    }

    bool erase(std::uint32_t id) { return objects_.erase(id) != 0; }
    /// One object fewer points to this one; a number that is no object's points nowhere.
    void release(std::uint32_t id) {
        if (T *object = find(id))
            --object->refs;
    }
    void clear() {
        objects_.clear();
        next_ = 0;
    }
    [[nodiscard]] std::size_t size() const { return objects_.size(); }
    [[nodiscard]] std::uint32_t first() const { return first_; }
    [[nodiscard]] std::uint32_t capacity() const { return count_; }
    auto begin() const { return objects_.begin(); }
    auto end() const { return objects_.end(); }

  private:
    std::uint32_t first_;
    std::uint32_t count_;
    std::uint32_t next_ = 0;
    std::map<std::uint32_t, std::unique_ptr<T>> objects_;
};

} // namespace connectx
