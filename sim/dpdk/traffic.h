// SPDX-License-Identifier: GPL-2.0
//
// What sender and verifier of the DPDK tester agree on: keys, headers, and what is in each packet.
#pragma once

#include <quic_reference.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <span>
#include <string>

namespace connectx::dpdk {

struct Traffic {
    quic_test::Cipher cipher = quic_test::Cipher::kAes128Gcm;
    std::size_t size = 1200; ///< of a QUIC packet on the wire, tag included, bytes
    std::uint64_t packets = 100'000;
};

inline constexpr std::size_t kTag = 16;
inline constexpr std::size_t kConnectionId = 8;
inline constexpr std::size_t kPnOffset = 1 + kConnectionId;
inline constexpr std::size_t kPnLength = 4;
inline constexpr std::size_t kQuicHeader = kPnOffset + kPnLength;
inline constexpr std::size_t kNumbered = 64; ///< bytes of payload per copy of the packet's number
inline constexpr std::size_t kEthernet = 14;
inline constexpr std::size_t kIp = 20;
inline constexpr std::size_t kUdp = 8;
inline constexpr std::size_t kHeaders = kEthernet + kIp + kUdp;
inline constexpr std::size_t kMinSize = kQuicHeader + sizeof(std::uint64_t) + kTag;
inline constexpr std::size_t kMaxSize = 9000 - kIp - kUdp;
/// Numbers start below 2^32, so that the part of them that is in the packet wraps on the way.
inline constexpr std::uint64_t kFirstPn = (1ULL << 32) - 50'000;

inline quic_test::PacketKeys traffic_keys(const Traffic &traffic) {
    return quic_test::keys_of_seed(traffic.cipher, 0xd9d4);
}

/// Writes the plaintext packet that carries number `pn`, without tag. `packet` was either zero or a
/// packet of this function before: only what the number changes is written.
inline void number_packet(std::span<std::uint8_t> packet, std::uint64_t pn) {
    for (std::size_t i = 0; i < kPnLength; ++i)
        packet[kPnOffset + i] = static_cast<std::uint8_t>(pn >> (8 * (kPnLength - 1 - i)));
    for (std::size_t at = kQuicHeader; at + sizeof(pn) <= packet.size(); at += kNumbered)
        std::memcpy(&packet[at], &pn, sizeof(pn));
}

inline void fill_packet(std::span<std::uint8_t> packet) {
    packet[0] = 0x40 | (kPnLength - 1); // short header
    std::fill_n(packet.begin() + 1, kConnectionId, 0xc1);
    for (std::size_t i = kQuicHeader; i < packet.size(); ++i)
        packet[i] = static_cast<std::uint8_t>(i * 7 + (i >> 8));
}

} // namespace connectx::dpdk
