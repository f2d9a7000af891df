// SPDX-License-Identifier: GPL-2.0
//
// What the device needs from the machine it is plugged into: QEMU is one host, the unit tests
// another. All calls in both directions are serialised by the host (one thread at a time). Any of
// these functions may call back into the device, whatever it is doing: device.h says what then
// happens.
#pragma once

#include <connectx/types.h>

#include <cstdint>
#include <span>
#include <string_view>

namespace connectx {

enum class LogLevel { kError, kWarning, kInfo, kTrace };

class Host {
  public:
    Host() = default;
    Host(const Host &) = delete;
    Host &operator=(const Host &) = delete;
    virtual ~Host() = default;

    /// Reads guest memory; false when any byte of the range is not readable memory, or the device
    /// is not bus master. `dst` is then unspecified.
    virtual bool dma_read(GuestAddr addr, std::span<std::uint8_t> dst) = 0;
    /// The same memory where it lies, for a host that can let it be read there: exactly `size`
    /// bytes, which stay mapped until the call of the device that is under way returns. The guest
    /// may write to them meanwhile. Empty: use dma_read(), which also decides whether the range is
    /// memory.
    virtual std::span<const std::uint8_t> dma_view(GuestAddr /*addr*/, std::size_t /*size*/) {
        return {};
    }
    /// Writes guest memory, lower addresses first; false as for dma_read().
    virtual bool dma_write(GuestAddr addr, std::span<const std::uint8_t> src) = 0;
    /// Sends the MSI-X message of a vector.
    virtual void msix_raise(unsigned vector) = 0;
    /// Puts a whole Ethernet frame without FCS on the wire. A frame that comes back from inside
    /// this call waits until the device has time for it.
    virtual void wire_tx(std::span<const std::uint8_t> frame) = 0;
    /// Nanoseconds since some fixed point, never going back.
    virtual std::uint64_t clock_ns() = 0;
    /// Nanoseconds since the Unix epoch.
    virtual std::uint64_t realtime_ns() = 0;
    /// Asks for a call of Device::run() soon, from the host's own loop (never from inside a call).
    virtual void schedule_work() = 0;
    /// Asks for a call of Device::run() at that time; replaces an earlier wish. UINT64_MAX: none.
    virtual void arm_timer(std::uint64_t deadline_ns) = 0;
    /// Device::can_receive() may have turned true.
    virtual void rx_ready() = 0;
    virtual void log(LogLevel level, std::string_view text) = 0;
};

} // namespace connectx
