// SPDX-License-Identifier: GPL-2.0
//
// What of the kernel a thread's system calls have run through, for libFuzzer: KCOV gives program
// counters (Documentation/dev-tools/kcov.rst), libFuzzer reads counters of its own choice from the
// section __libfuzzer_extra_counters.
#pragma once

#include <cstdint>
#include <vector>

namespace quic_test {

// Counts an edge of anything, numbered by @what.
void count_coverage(std::uint64_t what);
// Kernel addresses seen so far, in all; as System.map has them.
std::vector<std::uint64_t> addresses_seen();

// Covers the calling thread from now on. Without KCOV in the kernel it does nothing.
class Kcov {
  public:
    Kcov();
    ~Kcov();
    Kcov(const Kcov &) = delete;
    Kcov &operator=(const Kcov &) = delete;

    // Counts what was run through since the last call.
    void collect();

  private:
    static constexpr std::size_t kEntries = 64 << 10;
    int fd_ = -1;
    std::uint64_t *cover_ = nullptr;
};

} // namespace quic_test
