// SPDX-License-Identifier: GPL-2.0
//
// How much the device does within one call of the host, and what is left for the next. All of it
// happens under the lock of an emulator, so that no guest may make one call last.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <memory>
#include <utility>

namespace connectx {

/// Counts work in units that take about 50 ns on the processors of 2020: a WQE or a frame is some
/// dozens of them, a search one or two. What is counted is a function of what the guest asks for
/// alone, so that a test can hold the bound.
class WorkMeter {
  public:
    /// No call begins anything more once it has done so much, 2 ms.
    static constexpr std::size_t kPerCall = 40'000;
    /// What a call may come to, as what it has begun it ends, 8 ms.
    static constexpr std::size_t kLimit = 160'000;
    /// What one queue does before another has its turn.
    static constexpr std::size_t kPerTurn = 2'000;

    void charge(std::size_t units) { done_ += units; }
    /// For something that goes over so many bytes, `per_unit` of them in a unit.
    void charge_bytes(std::size_t bytes, std::size_t per_unit) { done_ += 1 + bytes / per_unit; }
    [[nodiscard]] bool left() const { return done_ < kPerCall; }
    [[nodiscard]] std::size_t done() const { return done_; }

    void begin_call() { done_ = 0; }
    void end_call() { most_ = std::max(most_, done_); }
    /// Of the calls so far, in units.
    [[nodiscard]] std::size_t most() const { return most_; }

  private:
    std::size_t done_ = 0;
    std::size_t most_ = 0;
};

/// Where objects go that a reset takes all at once: they are destroyed a few at a time.
class Graveyard {
  public:
    /// Takes over a container: of objects, of owning pointers, or of further containers by a key.
    /// An object that may be large has a function dismantle(), which destroys a part of it and is
    /// true when little is left.
    template <typename Container> void bury(Container container) {
        if (!container.empty())
            graves_.push_back(std::make_unique<Of<Container>>(std::move(container)));
    }
    [[nodiscard]] bool empty() const { return graves_.empty(); }
    /// Destroys what about so many units allow; returns how many it took.
    std::size_t dig(std::size_t units) {
        const std::size_t before = units;
        while (units > 0 && !graves_.empty())
            if (graves_.front()->dig(units))
                graves_.pop_front();
        return before - units;
    }
    /// Destroys a container's elements as far as `units` allow; true when it is empty.
    template <typename Container>
    static bool destroy_some(Container &container, std::size_t &units) {
        constexpr std::size_t kElement = 16; // in no cache, and of several pieces
        while (units > 0 && !container.empty()) {
            if (!dismantle(*container.begin(), units))
                return false;
            container.erase(container.begin());
            units -= std::min(units, kElement);
        }
        return container.empty();
    }

  private:
    template <typename Element> static bool dismantle(Element &element, std::size_t &units) {
        if constexpr (requires { element->dismantle(units); })
            return element == nullptr || element->dismantle(units);
        else if constexpr (requires { element.second.dismantle(units); })
            return element.second.dismantle(units);
        else if constexpr (requires { element.second.erase(element.second.begin()); })
            return destroy_some(element.second, units);
        else
            return true;
    }
    struct Grave {
        Grave() = default;
        Grave(const Grave &) = delete;
        Grave &operator=(const Grave &) = delete;
        virtual ~Grave() = default;
        /// True when it is empty.
        virtual bool dig(std::size_t &units) = 0;
    };
    template <typename Container> struct Of final : Grave {
        explicit Of(Container c) : container(std::move(c)) {}
        bool dig(std::size_t &units) override { return destroy_some(container, units); }
        Container container;
    };
    std::deque<std::unique_ptr<Grave>> graves_;
};

} // namespace connectx
