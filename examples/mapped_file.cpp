// SPDX-License-Identifier: MIT
#include "mapped_file.hpp"

#include <cerrno>
#include <csignal>
#include <mutex>
#include <set>
#include <utility>

#include <sys/mman.h>
#include <unistd.h>

namespace quic_server {

namespace {

const std::uintptr_t kPageSize = static_cast<std::uintptr_t>(sysconf(_SC_PAGESIZE));

std::uintptr_t page_of(const void *address) {
    return reinterpret_cast<std::uintptr_t>(address) & ~(kPageSize - 1);
}

// The mappings there are. The handler runs in the thread that touched one of them, which therefore
// is not changing the set.
struct Mappings {
    std::mutex mutex;
    std::set<std::pair<std::uintptr_t, std::uintptr_t>> ranges; // first page, end
};

Mappings &mappings() {
    static Mappings all;
    return all;
}

extern "C" void on_bus_error(int, siginfo_t *info, void *) {
    const std::uintptr_t page = page_of(info->si_addr);
    for (const auto &[start, end] : mappings().ranges) {
        if (page < start || page >= end)
            continue;
        void *const address = reinterpret_cast<void *>(page); // NOLINT(performance-no-int-to-ptr)
        if (mmap(address, kPageSize, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) ==
            address)
            return;
    }
    // Somebody else's: it comes again, and ends the program.
    static_cast<void>(std::signal(SIGBUS, SIG_DFL));
}

void catch_bus_errors() {
    struct sigaction action {};
    action.sa_sigaction = on_bus_error;
    action.sa_flags = SA_SIGINFO;
    sigaction(SIGBUS, &action, nullptr);
}

} // namespace

std::optional<MappedFile> MappedFile::map(int fd, std::size_t length) {
    static std::once_flag once;
    std::call_once(once, catch_bus_errors);
    void *const address = mmap(nullptr, length, PROT_READ, MAP_SHARED, fd, 0);
    if (address == MAP_FAILED)
        return std::nullopt;
    const std::span bytes(static_cast<const std::uint8_t *>(address), length);
    const std::lock_guard lock(mappings().mutex);
    mappings().ranges.emplace(page_of(address), page_of(bytes.data() + length - 1) + kPageSize);
    return MappedFile(bytes);
}

MappedFile::MappedFile(MappedFile &&other) noexcept : bytes_(std::exchange(other.bytes_, {})) {}

MappedFile::~MappedFile() {
    if (bytes_.empty())
        return;
    const std::lock_guard lock(mappings().mutex);
    mappings().ranges.erase(
        {page_of(bytes_.data()), page_of(bytes_.data() + bytes_.size() - 1) + kPageSize});
    munmap(const_cast<std::uint8_t *>(bytes_.data()), bytes_.size()); // NOLINT
}

bool MappedFile::populate(std::size_t offset, std::size_t length) {
    const std::uint8_t *const first = bytes_.data() + offset;
    const std::uintptr_t start = page_of(first);
    const std::uintptr_t end = reinterpret_cast<std::uintptr_t>(first) + length;
    void *const address = reinterpret_cast<void *>(start); // NOLINT(performance-no-int-to-ptr)
    // A kernel before 5.14 does not know it; then pages come when they are touched.
    return madvise(address, end - start, MADV_POPULATE_READ) == 0 || errno == EINVAL;
}

} // namespace quic_server
