// SPDX-License-Identifier: GPL-2.0
#include "kcov.h"

#include <array>
#include <atomic>
#include <mutex>
#include <unordered_set>

#include <fcntl.h>
#include <linux/kcov.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

namespace quic_test {
namespace {

constexpr std::size_t kCounters = 1 << 16;
// NOLINTNEXTLINE(cppcoreguidelines-avoid-non-const-global-variables): libFuzzer finds it by its
// section
__attribute__((section("__libfuzzer_extra_counters"), used)) std::array<std::uint8_t, kCounters>
    extra_counters;

std::mutex addresses_mutex;
std::unordered_set<std::uint64_t> addresses;

constexpr const char *kPath = "/sys/kernel/debug/kcov";

std::uint64_t mixed(std::uint64_t x) {
    x ^= x >> 33;
    x *= 0xff51afd7ed558ccdULL;
    return x ^ x >> 33;
}

} // namespace

void count_coverage(std::uint64_t what) {
    std::uint8_t &counter = extra_counters.at(mixed(what) % kCounters);
    if (counter < 0xff)
        ++counter;
}

std::vector<std::uint64_t> addresses_seen() {
    const std::lock_guard lock(addresses_mutex);
    return {addresses.begin(), addresses.end()};
}

Kcov::Kcov() {
    fd_ = ::open(kPath, O_RDWR | O_CLOEXEC);
    if (fd_ < 0)
        return;
    void *memory = MAP_FAILED;
    if (::ioctl(fd_, KCOV_INIT_TRACE, kEntries) == 0)
        memory = ::mmap(nullptr, kEntries * sizeof(std::uint64_t), PROT_READ | PROT_WRITE,
                        MAP_SHARED, fd_, 0);
    if (memory == MAP_FAILED || ::ioctl(fd_, KCOV_ENABLE, KCOV_TRACE_PC) != 0) {
        ::close(fd_);
        fd_ = -1;
        return;
    }
    cover_ = static_cast<std::uint64_t *>(memory);
    __atomic_store_n(&cover_[0], 0, __ATOMIC_RELAXED);
}

Kcov::~Kcov() {
    if (cover_ == nullptr)
        return;
    ::ioctl(fd_, KCOV_DISABLE, 0);
    ::munmap(cover_, kEntries * sizeof(std::uint64_t));
    ::close(fd_);
}

void Kcov::collect() {
    if (cover_ == nullptr)
        return;
    const std::uint64_t n = __atomic_load_n(&cover_[0], __ATOMIC_RELAXED);
    std::uint64_t before = 0;
    {
        const std::lock_guard lock(addresses_mutex);
        for (std::uint64_t i = 1; i <= n && i < kEntries; ++i) {
            addresses.insert(cover_[i]);
            count_coverage(cover_[i] ^ before >> 1); // an edge, as AFL has it
            before = cover_[i];
        }
    }
    __atomic_store_n(&cover_[0], 0, __ATOMIC_RELAXED);
}

} // namespace quic_test
