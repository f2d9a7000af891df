// SPDX-License-Identifier: GPL-2.0
//
// The same tests by another path: over the loopback device, where the kernel protects packets, or
// in a guest with two ConnectX devices (tests/nic/guest) over the wire between them, where the
// device does, with keys from its database (QUIC_TEST_FORM=index) or from each descriptor (inline).
#pragma once

#include <cstdint>
#include <optional>

#include "loopback.h"
#include "system.h"

namespace quic_test {

enum class Path { kSoftware, kIndex, kInline };
Path path();

// A sender and a receiver, as Loopback. For its life the calling thread is in the sender's
// namespace.
class Line {
  public:
    Line(Family family, bool connected);

    int sender() const { return sender_.get(); }
    int receiver() const { return receiver_.get(); }
    // For Message::to
    const Address *to() const { return connected_ ? nullptr : &to_; }
    // An SA of the sender; on kIndex the device has it in its database when this returns.
    std::uint32_t add_sa(std::uint64_t cookie, const PacketKeys &keys);
    // Packets of that SA that add_sa() has sent
    std::uint64_t sent_before() const { return sent_before_; }

    // What the device says that it has protected.
    struct DeviceCount {
        std::uint64_t by_index = 0;
        std::uint64_t by_inline = 0;
        DeviceCount operator-(const DeviceCount &before) const {
            return {by_index - before.by_index, by_inline - before.by_inline};
        }
        bool operator==(const DeviceCount &) const = default;
    };
    static DeviceCount device_count();

  private:
    std::optional<InNamespace> inside_;
    bool connected_;
    UniqueFd sender_;
    UniqueFd receiver_;
    Address to_;
    std::uint64_t sent_before_ = 0;
};

} // namespace quic_test
