// SPDX-License-Identifier: GPL-2.0
#include "workload.h"

#include <algorithm>
#include <array>
#include <cmath>

namespace connectx::scale {

Zipf::Zipf(std::uint32_t n, double s) : keep_(n), other_(n) {
    double sum = 0;
    for (std::uint32_t i = 0; i < n; ++i)
        sum += keep_[i] = std::pow(i + 1.0, -s);
    std::vector<std::uint32_t> small;
    std::vector<std::uint32_t> large;
    for (std::uint32_t i = 0; i < n; ++i) {
        keep_[i] *= n / sum;
        other_[i] = i;
        (keep_[i] < 1 ? small : large).push_back(i);
    }
    // What a small one leaves of its column of height 1 is filled from a large one.
    while (!small.empty() && !large.empty()) {
        const std::uint32_t i = small.back();
        const std::uint32_t j = large.back();
        small.pop_back();
        other_[i] = j;
        keep_[j] -= 1 - keep_[i];
        if (keep_[j] < 1) {
            large.pop_back();
            small.push_back(j);
        }
    }
}

std::uint32_t Zipf::operator()(Random &random) const {
    const double column =
        std::uniform_real_distribution<>(0, 1)(random) * static_cast<double>(keep_.size());
    const auto i = std::min(static_cast<std::size_t>(column), keep_.size() - 1);
    return column - static_cast<double>(i) < keep_[i] ? static_cast<std::uint32_t>(i) : other_[i];
}

std::span<const Kind> internet_mix() {
    static constexpr std::array kinds{
        //   name     connections  lifetime batch interval sends pause
        Kind{"idle", 800'000, 3600, 1, 1, 1, 15},
        Kind{"page", 159'000, 5, 8, 0.01, 8, 1.1},
        Kind{"video", 40'000, 600, 16, 0.006'4, 156, 3.5},
        Kind{"bulk", 1'000, 60, 53, 0.006'1, 10'000, 0.001},
    };
    return kinds;
}

double packet_rate(const Kind &kind) {
    const double object = kind.sends * kind.interval + kind.pause;
    return kind.connections * static_cast<double>(kind.sends) * kind.batch / object;
}

Mix::Mix(std::span<const Kind> kinds, std::uint64_t seed, double scale)
    : kinds_(kinds), random_(seed) {
    for (std::uint32_t kind = 0; kind < kinds.size(); ++kind) {
        const auto &it = kinds[kind];
        const double cycle = it.sends * it.interval + it.pause;
        const auto count = std::max(1.0, it.connections / scale);
        for (std::uint32_t i = 0; i < static_cast<std::uint32_t>(count); ++i) {
            Connection connection{.kind = kind};
            begin(connection, 0);
            connection.fresh = false; // it was there before
            // Somewhere in its object or in the pause behind that.
            const double at = std::uniform_real_distribution<>(0, cycle)(random_);
            const double on = it.sends * it.interval;
            if (at < on)
                connection.sends_left =
                    std::max(1U, it.sends - static_cast<unsigned>(at / it.interval));
            due_.push({at < on ? std::fmod(at, it.interval) : cycle - at,
                       static_cast<std::uint32_t>(state_.size())});
            state_.push_back(connection);
        }
    }
}

void Mix::begin(Connection &connection, double now) {
    const Kind &kind = kinds_[connection.kind];
    connection.end = now + std::exponential_distribution<>(1 / kind.lifetime)(random_);
    connection.sends_left = kind.sends;
    connection.fresh = true;
}

Send Mix::next() {
    const Due due = due_.top();
    due_.pop();
    Connection &connection = state_[due.connection];
    const Kind &kind = kinds_[connection.kind];
    const Send send{.time = due.time,
                    .connection = due.connection,
                    .kind = connection.kind,
                    .packets = kind.batch,
                    .first = connection.fresh,
                    .last = due.time >= connection.end};
    double wait = kind.interval;
    connection.fresh = false;
    if (--connection.sends_left == 0) {
        connection.sends_left = kind.sends;
        wait += kind.pause;
    }
    if (send.last)
        begin(connection, due.time);
    due_.push({due.time + wait, due.connection});
    return send;
}

} // namespace connectx::scale
