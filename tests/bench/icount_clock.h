// SPDX-License-Identifier: GPL-2.0
//
// The clock of a guest that was started with --icount: a nanosecond is an instruction.
#pragma once

#include <cstdint>
#include <ctime>

namespace quic_bench {

inline std::uint64_t monotonic_ns() {
    timespec now{};
    ::clock_gettime(CLOCK_MONOTONIC, &now);
    return static_cast<std::uint64_t>(now.tv_sec) * 1'000'000'000 +
           static_cast<std::uint64_t>(now.tv_nsec);
}

// Nanoseconds of CLOCK_MONOTONIC per instruction, from a loop of a known number of them. The kernel
// finds the frequency of its clock by comparing two of them, so that it is not exactly 1. Throws
// std::runtime_error when the clock does not count instructions at all.
double ns_per_instruction();

} // namespace quic_bench
