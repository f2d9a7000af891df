// SPDX-License-Identifier: GPL-2.0
#include "icount_clock.h"

#include <cmath>
#include <stdexcept>
#include <string>

namespace quic_bench {

namespace {

double time_loop(std::uint64_t rounds) {
    const std::uint64_t start = monotonic_ns();
    std::uint64_t left = rounds;
    asm volatile("1: sub $1, %0\n\tjnz 1b" : "+r"(left) : : "cc");
    return static_cast<double>(monotonic_ns() - start);
}

} // namespace

double ns_per_instruction() {
    constexpr std::uint64_t kShort = 1'000'000;
    constexpr std::uint64_t kLong = 21'000'000;
    time_loop(kShort);
    // The difference leaves out what reading the clock costs. The kernel's ticks stay in: they are
    // less than a thousandth.
    const double ns = time_loop(kLong) - time_loop(kShort);
    const double factor = ns / (2.0 * static_cast<double>(kLong - kShort));
    if (std::fabs(factor - 1) > 0.01)
        throw std::runtime_error("an instruction takes " + std::to_string(factor) +
                                 " ns: run this in a guest started with --icount");
    return factor;
}

} // namespace quic_bench
