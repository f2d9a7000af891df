// SPDX-License-Identifier: GPL-2.0
//
// wire-check SENT CAPTURE
// Compares what a guest handed to its NIC with what was on the wire, byte for byte. The order is
// not compared: a flow whose packets come from two processors (acknowledgements of TCP) uses two
// send queues, between which a NIC keeps none. SENT is what WholePackets of guest_test.cc recorded:
// packets as the kernel gives them to the driver, up to 64 KB and without checksums, each with the
// virtio_net_hdr that says how to cut it. CAPTURE is QEMU's filter-dump. This program does the
// cutting and the sums by itself.

#include "packets.h"

#include <algorithm>
#include <array>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <iostream>
#include <iterator>
#include <map>
#include <string>

namespace {

using connectx::test::Frame;
using connectx::test::get16;
using connectx::test::get32;
using connectx::test::internet_sum;
using connectx::test::put16;

constexpr unsigned kMarker = 0x88b6; ///< frames of this type enclose what is compared

/// As struct virtio_net_hdr in linux/virtio_net.h, which is not C++. Host byte order.
struct VirtioNetHeader {
    std::uint8_t flags = 0;
    std::uint8_t gso_type = 0;
    std::uint16_t hdr_len = 0;
    std::uint16_t gso_size = 0;
    std::uint16_t csum_start = 0;
    std::uint16_t csum_offset = 0;
};
static_assert(sizeof(VirtioNetHeader) == 10);
constexpr unsigned kNeedsChecksum = 1;
constexpr unsigned kGsoNone = 0;
constexpr unsigned kGsoEcn = 0x80;

struct Sent {
    VirtioNetHeader hdr;
    Frame frame;
};

std::vector<std::uint8_t> read_all(const char *path) {
    std::ifstream in(path, std::ios::binary);
    return {std::istreambuf_iterator<char>(in), {}};
}

/// A record is a 32-bit length, 32 bits of VLAN (bit 16: there is one), the header, and the frame.
std::vector<Sent> read_sent(const std::vector<std::uint8_t> &file) {
    std::vector<Sent> all;
    std::size_t at = 0;
    while (at + 8 + sizeof(VirtioNetHeader) <= file.size()) {
        std::uint32_t size = 0;
        std::uint32_t vlan = 0;
        Sent s;
        std::memcpy(&size, &file[at], 4);
        std::memcpy(&vlan, &file[at + 4], 4);
        std::memcpy(&s.hdr, &file[at + 8], sizeof(s.hdr));
        at += 8 + sizeof(s.hdr);
        if (size < 14 || size > file.size() - at)
            return {};
        s.frame.assign(&file[at], &file[at] + size);
        at += size;
        if ((vlan & 1U << 16) != 0) {
            const std::array<std::uint8_t, 4> tag{0x81, 0, static_cast<std::uint8_t>(vlan >> 8),
                                                  static_cast<std::uint8_t>(vlan)};
            s.frame.insert(s.frame.begin() + 12, tag.begin(), tag.end());
            s.hdr.csum_start = static_cast<std::uint16_t>(s.hdr.csum_start + 4);
        }
        all.push_back(std::move(s));
    }
    return all;
}

/// The frames of a capture that one MAC sent, between the two markers.
std::vector<Frame> read_capture(const std::vector<std::uint8_t> &file, const Frame &source) {
    std::vector<Frame> frames;
    std::size_t at = 24;
    unsigned markers = 0;
    while (at + 16 <= file.size()) {
        std::uint32_t size = 0;
        std::memcpy(&size, &file[at + 8], 4);
        at += 16;
        if (size > file.size() - at)
            break;
        Frame f(&file[at], &file[at] + size);
        at += size;
        if (f.size() < 14 || !std::equal(source.begin(), source.end(), f.begin() + 6))
            continue;
        if (get16(f, 12) == kMarker)
            ++markers;
        else if (markers == 1)
            frames.push_back(std::move(f));
    }
    if (markers != 2) {
        std::cerr << markers << " markers in the capture instead of two\n";
        std::exit(1);
    }
    return frames;
}

struct Headers {
    std::size_t l3 = 14;
    std::size_t l4 = 0; ///< 0: not IP
    bool v6 = false;
    std::uint8_t protocol = 0;
};

Headers headers_of(const Frame &f) {
    Headers h;
    unsigned type = get16(f, 12);
    if (type == 0x8100) {
        type = get16(f, 16);
        h.l3 = 18;
    }
    if (type == 0x0800 && f.size() >= h.l3 + 20) {
        h.l4 = h.l3 + (f[h.l3] & 0xfU) * 4;
        h.protocol = f[h.l3 + 9];
    } else if (type == 0x86dd && f.size() >= h.l3 + 40) {
        h.v6 = true;
        h.l4 = h.l3 + 40;
        h.protocol = f[h.l3 + 6];
    }
    return h;
}

void finish_checksum(Frame &f, const Headers &h, std::size_t start, std::size_t offset) {
    const std::size_t field = start + offset;
    unsigned sum = ~internet_sum(f, start, f.size()) & 0xffff;
    if (sum == 0 && h.protocol == 17)
        sum = 0xffff;
    put16(f, field, sum);
}

/// What the NIC has to make of one packet.
std::vector<Frame> expected(const Sent &s) {
    std::vector<Frame> out;
    const Headers h = headers_of(s.frame);
    const unsigned kind = s.hdr.gso_type & ~kGsoEcn;
    if (kind == kGsoNone) {
        Frame f = s.frame;
        if ((s.hdr.flags & kNeedsChecksum) != 0)
            finish_checksum(f, h, s.hdr.csum_start, s.hdr.csum_offset);
        f.resize(std::max<std::size_t>(f.size(), 60));
        return {f};
    }
    const bool tcp = h.protocol == 6;
    const std::size_t header = h.l4 + (tcp ? (s.frame[h.l4 + 12] >> 4) * 4U : 8U);
    const std::size_t payload = s.frame.size() - header;
    unsigned number = 0;
    for (std::size_t off = 0; off < payload; off += s.hdr.gso_size, ++number) {
        const std::size_t n = std::min<std::size_t>(s.hdr.gso_size, payload - off);
        const bool last = off + n == payload;
        Frame f(s.frame.begin(), s.frame.begin() + static_cast<std::ptrdiff_t>(header));
        const auto from = s.frame.begin() + static_cast<std::ptrdiff_t>(header + off);
        f.insert(f.end(), from, from + static_cast<std::ptrdiff_t>(n));
        const std::size_t l4_size = f.size() - h.l4;
        if (h.v6) {
            put16(f, h.l3 + 4, static_cast<unsigned>(l4_size));
        } else {
            put16(f, h.l3 + 2, static_cast<unsigned>(f.size() - h.l3));
            put16(f, h.l3 + 4, (get16(f, h.l3 + 4) + number) & 0xffff);
            put16(f, h.l3 + 10, 0);
            put16(f, h.l3 + 10, ~internet_sum(f, h.l3, h.l4) & 0xffff);
        }
        if (tcp) {
            const std::uint32_t seq = get32(f, h.l4 + 4) + static_cast<std::uint32_t>(off);
            put16(f, h.l4 + 4, seq >> 16);
            put16(f, h.l4 + 6, seq & 0xffff);
            if (!last)
                f[h.l4 + 13] &= static_cast<std::uint8_t>(~0x09); // FIN, PSH
            if (number != 0)
                f[h.l4 + 13] &= static_cast<std::uint8_t>(~0x80); // CWR
        } else {
            put16(f, h.l4 + 4, static_cast<unsigned>(l4_size));
        }
        // The pseudo header of this segment, then the sum over it.
        std::uint32_t sum = h.protocol + static_cast<std::uint32_t>(l4_size);
        sum = h.v6 ? internet_sum(f, h.l3 + 8, h.l3 + 40, sum)
                   : internet_sum(f, h.l3 + 12, h.l3 + 20, sum);
        put16(f, h.l4 + (tcp ? 16 : 6), sum);
        finish_checksum(f, h, h.l4, tcp ? 16 : 6);
        f.resize(std::max<std::size_t>(f.size(), 60));
        out.push_back(std::move(f));
    }
    return out;
}

/// What frames of one flow have in common.
std::vector<std::uint8_t> flow_of(const Frame &f) {
    const Headers h = headers_of(f);
    Frame key(f.begin(), f.begin() + static_cast<std::ptrdiff_t>(h.l3));
    if (h.l4 == 0)
        return key;
    const std::size_t from = h.l3 + (h.v6 ? 8 : 12);
    key.insert(key.end(), f.begin() + static_cast<std::ptrdiff_t>(from),
               f.begin() + static_cast<std::ptrdiff_t>(from + (h.v6 ? 32 : 8)));
    key.push_back(h.protocol);
    if (h.protocol == 6 || h.protocol == 17)
        key.insert(key.end(), f.begin() + static_cast<std::ptrdiff_t>(h.l4),
                   f.begin() + static_cast<std::ptrdiff_t>(h.l4 + 4));
    return key;
}

void dump(const char *what, const Frame &f) {
    std::printf("%s, %zu bytes:", what, f.size());
    for (std::size_t i = 0; i < std::min<std::size_t>(f.size(), 96); ++i)
        std::printf("%s%02x", i % 16 == 0 ? "\n  " : " ", f[i]);
    std::printf("\n");
}

} // namespace

int main(int argc, char **argv) {
    if (argc != 3) {
        std::cerr << "usage: wire-check SENT CAPTURE\n";
        return 2;
    }
    std::map<std::vector<std::uint8_t>, std::vector<Frame>> wanted;
    std::map<std::vector<std::uint8_t>, std::vector<Frame>> seen;
    std::size_t packets = 0;
    std::size_t cut = 0;
    std::size_t frames = 0;
    for (const Sent &s : read_sent(read_all(argv[1]))) {
        ++packets;
        cut += s.hdr.gso_type != kGsoNone;
        for (Frame &f : expected(s))
            if (get16(f, 12) != kMarker) {
                ++frames;
                wanted[flow_of(f)].push_back(std::move(f));
            }
    }
    for (Frame &f : read_capture(read_all(argv[2]), {0x02, 0, 0, 0, 0, 1}))
        seen[flow_of(f)].push_back(std::move(f));
    if (packets < 100 || cut < 10) {
        std::cerr << "only " << packets << " packets were recorded, " << cut << " to be cut\n";
        return 1;
    }
    for (auto &[flow, list] : wanted) {
        auto &there = seen[flow];
        std::ranges::sort(list);
        std::ranges::sort(there);
        for (std::size_t i = 0; i < std::max(list.size(), there.size()); ++i) {
            if (i < list.size() && i < there.size() && list[i] == there[i])
                continue;
            std::printf("frame %zu of a flow of %zu (%zu on the wire) differs\n", i, list.size(),
                        there.size());
            if (i < list.size())
                dump("sent", list[i]);
            if (i < there.size())
                dump("on the wire", there[i]);
            return 1;
        }
    }
    for (const auto &[flow, list] : seen)
        if (!wanted.contains(flow)) {
            dump("nobody sent", list.front());
            return 1;
        }
    std::printf("%zu packets of %zu flows left as %zu frames, every byte as expected\n", packets,
                wanted.size(), frames);
    return 0;
}
