// SPDX-License-Identifier: GPL-2.0
//
// UDP datagrams out of captured frames. Frames are hostile: everything is bounded.
#ifndef EXAMPLES_TESTS_CAPTURE_HPP
#define EXAMPLES_TESTS_CAPTURE_HPP

#include <pcap/pcap.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>

namespace quic_capture {

using Bytes = std::span<const std::uint8_t>;

inline std::uint16_t read_be16(Bytes bytes, std::size_t offset) {
    return static_cast<std::uint16_t>(bytes[offset] << 8 | bytes[offset + 1]);
}

struct UdpDatagram {
    std::uint16_t source_port = 0;
    std::uint16_t destination_port = 0;
    bool may_fragment = false; // IPv4 without DF
    bool truncated = false;    // by the capture
    Bytes payload;
};

enum class Parse { kUdp, kFragment, kOther };

// The network layer of a captured frame; empty when there is none.
inline Bytes strip_link_layer(int link_type, Bytes frame) {
    std::size_t type_offset = 12;
    switch (link_type) {
    case DLT_RAW:
        return frame;
    case DLT_EN10MB:
        break;
    case DLT_LINUX_SLL:
        type_offset = 14;
        break;
    default:
        return {};
    }
    while (frame.size() >= type_offset + 2) {
        const std::uint16_t type = read_be16(frame, type_offset);
        if (type == 0x8100 || type == 0x88a8) { // VLAN tag
            type_offset += 4;
            continue;
        }
        return type == 0x0800 || type == 0x86dd ? frame.subspan(type_offset + 2) : Bytes{};
    }
    return {};
}

inline Parse parse_udp(Bytes packet, UdpDatagram &udp) {
    if (packet.size() < 20)
        return Parse::kOther;
    Bytes rest;
    if (packet[0] >> 4 == 4) {
        const std::size_t header = (packet[0] & 0xfU) * 4;
        const std::uint16_t fragment = read_be16(packet, 6);
        if (packet[9] != 17 || header < 20 || packet.size() < header)
            return Parse::kOther;
        if (fragment & 0x3fff) // more fragments, or an offset
            return Parse::kFragment;
        udp.may_fragment = !(fragment & 0x4000);
        rest = packet.subspan(header);
    } else if (packet[0] >> 4 == 6 && packet.size() >= 40) {
        if (packet[6] == 44)
            return Parse::kFragment;
        if (packet[6] != 17)
            return Parse::kOther;
        rest = packet.subspan(40);
    } else {
        return Parse::kOther;
    }
    if (rest.size() < 8)
        return Parse::kOther;
    const std::size_t length = read_be16(rest, 4);
    if (length < 8)
        return Parse::kOther;
    udp.source_port = read_be16(rest, 0);
    udp.destination_port = read_be16(rest, 2);
    udp.truncated = length > rest.size();
    udp.payload = rest.subspan(8, std::min(length, rest.size()) - 8);
    return Parse::kUdp;
}

} // namespace quic_capture

#endif
