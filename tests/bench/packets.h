// SPDX-License-Identifier: GPL-2.0
//
// The packets that every measurement sends: short headers with connection IDs of eight bytes and
// packet numbers of four, 1200 bytes on the wire.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>

#include <linux/udp_crypto.h>

namespace quic_bench {

inline constexpr std::size_t kWireSize = 1200;
inline constexpr std::size_t kPlainSize = kWireSize - UDP_QUIC_TAG_LEN;
inline constexpr std::size_t kPnOffset = 9;
inline constexpr std::size_t kPnLength = 4;
inline constexpr std::size_t kHeaderSize = kPnOffset + kPnLength;
inline constexpr unsigned kMaxPackets = 53; // what fits into one send

// What a QUIC library writes anew in each packet: first byte and truncated packet number.
// @stride: from one packet to the next, bytes.
inline void write_headers(std::uint8_t *buffer, std::size_t stride, unsigned packets,
                          std::uint64_t pn) {
    for (unsigned i = 0; i < packets; ++i, buffer += stride) {
        buffer[0] = 0x40 | (kPnLength - 1);
        const std::uint32_t truncated = __builtin_bswap32(static_cast<std::uint32_t>(pn + i));
        std::memcpy(buffer + kPnOffset, &truncated, sizeof(truncated));
    }
}

} // namespace quic_bench
