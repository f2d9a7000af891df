// SPDX-License-Identifier: GPL-2.0
//
// Frames for the tests, and an independent check of what comes out (own checksum arithmetic, not
// the model's).
#pragma once

#include <cstdint>
#include <vector>

namespace connectx::test {

using Frame = std::vector<std::uint8_t>;

inline void put16(Frame &f, std::size_t at, unsigned v) {
    f[at] = static_cast<std::uint8_t>(v >> 8);
    f[at + 1] = static_cast<std::uint8_t>(v);
}
inline unsigned get16(const Frame &f, std::size_t at) { return f[at] << 8 | f[at + 1]; }
inline std::uint32_t get32(const Frame &f, std::size_t at) {
    return static_cast<std::uint32_t>(get16(f, at)) << 16 | get16(f, at + 2);
}

/// RFC 1071, byte by byte.
inline unsigned internet_sum(const Frame &f, std::size_t from, std::size_t to,
                             std::uint32_t sum = 0) {
    for (std::size_t i = from; i < to; ++i)
        sum += (i - from) % 2 == 0 ? f[i] << 8 : f[i];
    while (sum >> 16)
        sum = (sum & 0xffff) + (sum >> 16);
    return sum;
}

struct Flow {
    bool v6 = false;
    bool tcp = false;
    std::uint8_t src = 1;
    std::uint8_t dst = 2;
    unsigned sport = 1000;
    unsigned dport = 2000;
    int vlan = -1;
    Frame dmac{0x02, 0, 0, 0, 0, 2};
    unsigned tcp_flags = 0x10;
};

/// Headers and payload, checksums zero.
inline Frame make_frame(const Flow &flow, const Frame &payload) {
    Frame f = flow.dmac;
    f.insert(f.end(), {0x02, 0, 0, 0, 0, 1});
    if (flow.vlan >= 0) {
        f.insert(f.end(), {0x81, 0x00, static_cast<std::uint8_t>(flow.vlan >> 8),
                           static_cast<std::uint8_t>(flow.vlan)});
    }
    const std::size_t l4 = (flow.tcp ? 20 : 8) + payload.size();
    if (flow.v6) {
        f.insert(f.end(), {0x86, 0xdd, 0x60, 0, 0, 0, 0, 0,
                           static_cast<std::uint8_t>(flow.tcp ? 6 : 17), 64});
        put16(f, f.size() - 4, static_cast<unsigned>(l4));
        for (std::uint8_t last : {flow.src, flow.dst}) {
            f.insert(f.end(), {0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, last});
        }
    } else {
        f.insert(f.end(),
                 {0x08, 0x00, 0x45, 0,       0,  0,
                  0x12, 0x34, 0x40, 0,       64, static_cast<std::uint8_t>(flow.tcp ? 6 : 17),
                  0,    0,    10,   0,       0,  flow.src,
                  10,   0,    0,    flow.dst});
        put16(f, f.size() - 18, static_cast<unsigned>(20 + l4));
    }
    const std::size_t at = f.size();
    f.resize(at + (flow.tcp ? 20 : 8));
    put16(f, at, flow.sport);
    put16(f, at + 2, flow.dport);
    if (flow.tcp) {
        f[at + 4] = 0x11; // sequence number 0x11223344
        f[at + 5] = 0x22;
        f[at + 6] = 0x33;
        f[at + 7] = 0x44;
        f[at + 12] = 0x50;
        f[at + 13] = static_cast<std::uint8_t>(flow.tcp_flags);
    } else {
        put16(f, at + 4, static_cast<unsigned>(l4));
    }
    f.insert(f.end(), payload.begin(), payload.end());
    return f;
}

inline std::size_t l3_offset(const Flow &flow) { return flow.vlan >= 0 ? 18 : 14; }
inline std::size_t l4_offset(const Flow &flow) { return l3_offset(flow) + (flow.v6 ? 40 : 20); }
inline std::size_t header_size(const Flow &flow) { return l4_offset(flow) + (flow.tcp ? 20 : 8); }

inline std::uint32_t pseudo_header_sum(const Frame &f, const Flow &flow, std::size_t l4_length) {
    const std::size_t at = l3_offset(flow);
    const std::uint32_t sum = (flow.tcp ? 6 : 17) + static_cast<std::uint32_t>(l4_length);
    return flow.v6 ? internet_sum(f, at + 8, at + 40, sum) : internet_sum(f, at + 12, at + 20, sum);
}

/// Fills in IPv4 and TCP/UDP checksums.
inline void add_checksums(Frame &f, const Flow &flow) {
    const std::size_t l3 = l3_offset(flow);
    const std::size_t l4 = l4_offset(flow);
    if (!flow.v6) {
        put16(f, l3 + 10, 0);
        put16(f, l3 + 10, ~internet_sum(f, l3, l3 + 20) & 0xffff);
    }
    const std::size_t field = l4 + (flow.tcp ? 16 : 6);
    put16(f, field, 0);
    unsigned sum =
        ~internet_sum(f, l4, f.size(), pseudo_header_sum(f, flow, f.size() - l4)) & 0xffff;
    if (!flow.tcp && sum == 0)
        sum = 0xffff;
    put16(f, field, sum);
}

/// Whether the frame's checksums and lengths are all right. `size`: without padding.
inline bool checksums_ok(const Frame &f, const Flow &flow) {
    const std::size_t l3 = l3_offset(flow);
    const std::size_t l4 = l4_offset(flow);
    const std::size_t end = flow.v6 ? l3 + 40 + get16(f, l3 + 4) : l3 + get16(f, l3 + 2);
    if (end > f.size() || (!flow.v6 && internet_sum(f, l3, l3 + 20) != 0xffff))
        return false;
    return internet_sum(f, l4, end, pseudo_header_sum(f, flow, end - l4)) == 0xffff;
}

inline Frame pattern(std::size_t size, unsigned seed = 1) {
    Frame f(size);
    for (std::size_t i = 0; i < size; ++i)
        f[i] = static_cast<std::uint8_t>(seed * 31 + i * 7 + (i >> 8));
    return f;
}

} // namespace connectx::test
