// SPDX-License-Identifier: GPL-2.0
//
// A host in the test's own process: a block of guest memory, a wire that collects frames, and a
// clock that only moves when told to.
#pragma once

#include <connectx/device.h>
#include <connectx/ifc.h>

#include <cstdint>
#include <cstring>
#include <deque>
#include <functional>
#include <new>
#include <string>
#include <vector>

#include <sys/mman.h>

namespace connectx::test {

/// Zeroed memory that costs nothing before it is touched, between two pages that must not be.
class GuestMemory {
  public:
    explicit GuestMemory(std::size_t size)
        : size_((size + kPage - 1) / kPage * kPage),
          pages_(mmap(nullptr, size_ + 2 * kPage, PROT_NONE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0)) {
        if (pages_ == MAP_FAILED)
            throw std::bad_alloc();
        if (mprotect(data(), size_, PROT_READ | PROT_WRITE) != 0) {
            munmap(pages_, size_ + 2 * kPage);
            throw std::bad_alloc();
        }
    }
    ~GuestMemory() { munmap(pages_, size_ + 2 * kPage); }
    GuestMemory(const GuestMemory &) = delete;
    GuestMemory &operator=(const GuestMemory &) = delete;

    [[nodiscard]] std::uint8_t *data() { return static_cast<std::uint8_t *>(pages_) + kPage; }
    [[nodiscard]] std::size_t size() const { return size_; }

  private:
    static constexpr std::size_t kPage = 4096;
    std::size_t size_;
    void *pages_;
};

class FakeHost final : public Host {
  public:
    static constexpr std::uint64_t kBase = 0x1'0000'0000;

    explicit FakeHost(std::size_t size = 32U << 20) : memory_(size) {}

    bool dma_read(GuestAddr addr, std::span<std::uint8_t> dst) override {
        called();
        if (on_dma)
            on_dma(addr, dst);
        if (!inside(addr, dst.size()))
            return false;
        std::memcpy(dst.data(), at(addr.value), dst.size());
        if (on_dma_read)
            on_dma_read(dst);
        return true;
    }
    std::span<const std::uint8_t> dma_view(GuestAddr addr, std::size_t size) override {
        called();
        // Who wants to see each access gets it as one.
        if (!views || on_dma || on_dma_read || !inside(addr, size))
            return {};
        return {at(addr.value), size};
    }
    bool dma_write(GuestAddr addr, std::span<const std::uint8_t> src) override {
        called();
        if (on_dma)
            on_dma(addr, src);
        if (!inside(addr, src.size()))
            return false;
        std::memcpy(at(addr.value), src.data(), src.size());
        return true;
    }
    void msix_raise(unsigned vector) override {
        called();
        interrupts.push_back(vector);
        if (on_interrupt)
            on_interrupt();
    }
    void wire_tx(std::span<const std::uint8_t> frame) override {
        called();
        if (keep_frames)
            wire.emplace_back(frame.begin(), frame.end());
        if (on_wire_tx)
            on_wire_tx(frame);
    }
    std::uint64_t clock_ns() override {
        called();
        return now_ns;
    }
    std::uint64_t realtime_ns() override { return 1'700'000'000'000'000'000 + now_ns; }
    void schedule_work() override {
        called();
        work_pending = true;
    }
    void arm_timer(std::uint64_t deadline_ns) override {
        called();
        deadline = deadline_ns;
    }
    void rx_ready() override {
        called();
        ++rx_ready_calls;
    }
    void log(LogLevel /*level*/, std::string_view text) override {
        called();
        logs.emplace_back(text);
    }

    /// Zeroed guest memory; never freed.
    std::uint64_t alloc(std::size_t size, std::size_t align = 4096) {
        used_ = (used_ + align - 1) / align * align;
        const std::uint64_t addr = kBase + used_;
        used_ += size;
        if (used_ > memory_.size())
            throw std::bad_alloc();
        return addr;
    }
    std::uint8_t *at(std::uint64_t addr) { return memory_.data() + (addr - kBase); }
    std::span<std::uint8_t> span(std::uint64_t addr, std::size_t size) { return {at(addr), size}; }
    template <typename T> T get(std::uint64_t addr) { return load_be<T>(at(addr)); }
    template <typename T> void put(std::uint64_t addr, T v) { store_be<T>(at(addr), v); }
    [[nodiscard]] std::size_t size() const { return memory_.size(); }

    std::vector<unsigned> interrupts;
    std::deque<std::vector<std::uint8_t>> wire;
    bool views = true;       ///< lets the device read memory where it lies
    bool keep_frames = true; ///< in `wire`; a measurement has no use for them
    std::function<void(std::span<const std::uint8_t>)> on_wire_tx;
    std::function<void(std::span<std::uint8_t>)> on_dma_read; ///< may change what is read
    /// Before each access in either direction: other things may be at the address than memory.
    std::function<void(GuestAddr, std::span<const std::uint8_t>)> on_dma;
    std::function<void()> on_interrupt;
    /// In each call of the device, but not in those that it makes because of this.
    std::function<void()> on_call;
    std::uint64_t calls = 0; ///< of the device, of all kinds
    std::vector<std::string> logs;
    std::uint64_t now_ns = 1'000'000'000;
    std::uint64_t deadline = UINT64_MAX;
    bool work_pending = false;
    unsigned rx_ready_calls = 0;

  private:
    void called() {
        ++calls;
        if (!on_call || in_on_call_)
            return;
        in_on_call_ = true;
        on_call();
        in_on_call_ = false;
    }
    [[nodiscard]] bool inside(GuestAddr addr, std::size_t size) const {
        return addr.value >= kBase && addr.value - kBase <= memory_.size() &&
               size <= memory_.size() - (addr.value - kBase);
    }
    GuestMemory memory_;
    std::size_t used_ = 4096;
    bool in_on_call_ = false;
};

} // namespace connectx::test
