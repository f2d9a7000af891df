// SPDX-License-Identifier: GPL-2.0
//
// Which connection a host sends for next: drawn by popularity, or as a mix of connections that each
// send by a clock of their own.
#pragma once

#include <cstddef>
#include <cstdint>
#include <queue>
#include <random>
#include <span>
#include <string_view>
#include <vector>

namespace connectx::scale {

using Random = std::mt19937_64;

/// Draws one of n connections, the i-th with probability proportional to 1 / i^s, in constant time
/// (A. J. Walker, "An efficient method for generating discrete random variables", 1977).
class Zipf {
  public:
    Zipf(std::uint32_t n, double s);
    std::uint32_t operator()(Random &random) const;

  private:
    std::vector<double> keep_;
    std::vector<std::uint32_t> other_;
};

/// Connections of one kind. While a connection is on, it sends `batch` packets every `interval`
/// seconds; an object takes `sends` of them, then the connection is off for `pause` seconds.
struct Kind {
    std::string_view name;
    std::uint32_t connections; ///< that exist at any time
    double lifetime;           ///< seconds, mean; a connection that ends is followed by a new one
    unsigned batch;            ///< packets of one send
    double interval;           ///< seconds
    unsigned sends;            ///< of an object
    double pause;              ///< seconds
};

/// 1,000,000 connections that together fill 400 Gbit/s; docs/at-scale.md says what they stand for.
std::span<const Kind> internet_mix();

/// Packets a second of all connections of a kind.
double packet_rate(const Kind &kind);

/// One send of the mix.
struct Send {
    double time = 0; ///< seconds since the start
    std::uint32_t connection = 0;
    unsigned kind = 0;
    unsigned packets = 0;
    bool first = false; ///< of this connection: it has no SA yet
    bool last = false;  ///< its SA goes after this
};

/// The sends of a mix of kinds, in the order of time.
class Mix {
  public:
    /// `scale` divides the numbers of connections: 1 is the mix as it is.
    Mix(std::span<const Kind> kinds, std::uint64_t seed, double scale = 1);
    Send next();
    [[nodiscard]] std::uint32_t connections() const {
        return static_cast<std::uint32_t>(state_.size());
    }

  private:
    struct Connection {
        double end = 0; ///< of its life
        std::uint32_t kind = 0;
        std::uint32_t sends_left = 0; ///< of the object
        bool fresh = false;
    };
    struct Due {
        double time;
        std::uint32_t connection;
        bool operator>(const Due &other) const { return time > other.time; }
    };

    void begin(Connection &connection, double now);

    std::span<const Kind> kinds_;
    Random random_;
    std::vector<Connection> state_;
    std::priority_queue<Due, std::vector<Due>, std::greater<>> due_;
};

} // namespace connectx::scale
