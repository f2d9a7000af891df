// SPDX-License-Identifier: GPL-2.0
//
// Header parsing, Internet checksums (RFC 1071), receive-side scaling hashes.
#include "core.h"

#include <bit>

// Nothing runs sanitizers before main(), where the choice is made.
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) &&                             \
    !defined(__SANITIZE_ADDRESS__)
#define SIM_VECTORISED [[gnu::target_clones("avx512f", "avx2", "default"), gnu::optimize("O3")]]
#else
#define SIM_VECTORISED
#endif

namespace connectx {

namespace {

constexpr std::uint16_t kEthIpv4 = 0x0800;
constexpr std::uint16_t kEthIpv6 = 0x86dd;
constexpr std::uint16_t kEthVlan = 0x8100;
constexpr std::uint16_t kEthSvlan = 0x88a8;
constexpr std::uint8_t kTcp = 6;
constexpr std::uint8_t kUdp = 17;
constexpr std::uint8_t kHopByHop = 0;
constexpr std::uint8_t kRouting = 43;
constexpr std::uint8_t kFragment = 44;
constexpr std::uint8_t kDestOptions = 60;

void parse_l4(ConstBytes frame, unsigned offset, PacketInfo &info) {
    if (info.fragment)
        return;
    const std::size_t left = frame.size() - offset;
    if (info.ip_protocol == kTcp) {
        if (left < 20)
            return;
        const unsigned header = (frame[offset + 12] >> 4) * 4;
        if (header < 20 || header > left)
            return;
        info.l4_offset = offset;
        info.payload_offset = offset + header;
    } else if (info.ip_protocol == kUdp) {
        if (left < 8)
            return;
        info.l4_offset = offset;
        info.payload_offset = offset + 8;
    }
}

void parse_ipv4(ConstBytes frame, PacketInfo &info) {
    const unsigned at = info.l3_offset;
    if (frame.size() < at + 20 || frame[at] >> 4 != 4) {
        info.malformed = true;
        return;
    }
    const unsigned header = (frame[at] & 0xf) * 4;
    const unsigned total = load_be<std::uint16_t>(&frame[at + 2]);
    if (header < 20 || at + header > frame.size()) {
        info.malformed = true;
        return;
    }
    info.ip_version = 4;
    info.ip_protocol = frame[at + 9];
    info.fragment = (load_be<std::uint16_t>(&frame[at + 6]) & 0x3fff) != 0;
    info.malformed = total < header || at + total > frame.size();
    info.ip_end = info.malformed ? frame.size() : at + total;
    parse_l4(frame, at + header, info);
}

void parse_ipv6(ConstBytes frame, PacketInfo &info) {
    const unsigned at = info.l3_offset;
    if (frame.size() < at + 40 || frame[at] >> 4 != 6) {
        info.malformed = true;
        return;
    }
    info.ip_version = 6;
    const unsigned payload = load_be<std::uint16_t>(&frame[at + 4]);
    info.malformed = at + 40 + payload > frame.size();
    info.ip_end = info.malformed ? frame.size() : at + 40 + payload;
    std::uint8_t next = frame[at + 6];
    unsigned offset = at + 40;
    // Extension headers in front of TCP or UDP.
    while (next == kHopByHop || next == kRouting || next == kDestOptions || next == kFragment) {
        if (frame.size() < offset + 8)
            break;
        if (next == kFragment) {
            info.fragment = (load_be<std::uint16_t>(&frame[offset + 2]) & 0xfff9) != 0;
            next = frame[offset];
            offset += 8;
        } else {
            const unsigned length = (frame[offset + 1] + 1) * 8;
            next = frame[offset];
            offset += length;
        }
        if (offset > frame.size())
            break;
    }
    info.ip_protocol = next;
    if (offset <= frame.size())
        parse_l4(frame, offset, info);
}

/// Sum of the 32-bit halves of so many 64-bit words, in the processor's byte order. Written for the
/// compiler to vectorise; the processor's widest vectors are found out when the program starts.
SIM_VECTORISED std::uint64_t sum_words(const std::uint8_t *data, std::size_t words) {
    std::uint64_t low = 0;
    std::uint64_t high = 0;
    for (std::size_t i = 0; i < words; ++i) {
        std::uint64_t v;
        std::memcpy(&v, data + i * sizeof(v), sizeof(v));
        low += v & 0xffffffff;
        high += v >> 32;
    }
    // Each is less than 2^32 times the words, far below what could overflow.
    return low + high;
}

std::uint16_t fold(std::uint64_t sum) {
    while ((sum >> 16) != 0)
        sum = (sum & 0xffff) + (sum >> 16);
    return static_cast<std::uint16_t>(sum);
}

/// Sum of the TCP/UDP pseudo header.
std::uint32_t pseudo_sum(ConstBytes frame, const PacketInfo &info, std::size_t l4_length) {
    std::uint32_t sum = info.ip_protocol + static_cast<std::uint32_t>(l4_length & 0xffff) +
                        static_cast<std::uint32_t>(l4_length >> 16);
    const unsigned at = info.l3_offset;
    if (info.ip_version == 4)
        return ones_sum(frame.subspan(at + 12, 8), sum);
    return ones_sum(frame.subspan(at + 8, 32), sum);
}

} // namespace

std::uint16_t ones_sum(ConstBytes data, std::uint32_t initial) {
    // Ones' complement addition does not care about the width of the words, only about their phase,
    // and in the other byte order its result has its bytes swapped (RFC 1071, section 2).
    constexpr std::size_t kWorthIt = 64; // headers are shorter
    std::uint64_t sum = initial;
    std::size_t i = 0;
    if (data.size() >= kWorthIt) {
        i = data.size() / 8 * 8;
        const std::uint16_t native = fold(sum_words(data.data(), i / 8));
        sum += std::endian::native == std::endian::little
                   ? static_cast<std::uint16_t>(native << 8 | native >> 8)
                   : native;
    }
    for (; i + 4 <= data.size(); i += 4)
        sum += load_be<std::uint32_t>(data.data() + i);
    for (; i + 2 <= data.size(); i += 2)
        sum += load_be<std::uint16_t>(data.data() + i);
    if (i < data.size())
        sum += static_cast<std::uint64_t>(data[i]) << 8;
    return fold(sum);
}

PacketInfo parse_packet(ConstBytes frame) {
    PacketInfo info;
    if (frame.size() < 14) {
        info.malformed = true;
        return info;
    }
    unsigned at = 12;
    info.ethertype = load_be<std::uint16_t>(&frame[at]);
    for (unsigned tags = 0; (info.ethertype == kEthVlan || info.ethertype == kEthSvlan) && tags < 2;
         ++tags) {
        if (frame.size() < at + 6) {
            info.malformed = true;
            return info;
        }
        if (tags == 0) {
            info.vlan = true;
            info.svlan = info.ethertype == kEthSvlan;
            info.vlan_tci = load_be<std::uint16_t>(&frame[at + 2]);
        }
        at += 4;
        info.ethertype = load_be<std::uint16_t>(&frame[at]);
    }
    info.l3_offset = at + 2;
    if (info.ethertype == kEthIpv4)
        parse_ipv4(frame, info);
    else if (info.ethertype == kEthIpv6)
        parse_ipv6(frame, info);
    return info;
}

void verify_checksums(ConstBytes frame, PacketInfo &info) {
    info.ip_checksum_ok = false;
    info.l4_checksum_ok = false;
    if (info.ip_version == 0 || info.malformed)
        return;
    if (info.ip_version == 4) {
        const unsigned header = (frame[info.l3_offset] & 0xf) * 4;
        info.ip_checksum_ok = ones_sum(frame.subspan(info.l3_offset, header)) == 0xffff;
    } else {
        info.ip_checksum_ok = true;
    }
    if (info.l4_offset == 0 || info.l4_offset > info.ip_end)
        return;
    const ConstBytes l4 = frame.subspan(info.l4_offset, info.ip_end - info.l4_offset);
    if (info.is_udp() && load_be<std::uint16_t>(&frame[info.l4_offset + 6]) == 0) {
        info.l4_checksum_ok = info.ip_version == 4; // no checksum: only IPv4 may do that
        return;
    }
    info.l4_checksum_ok = ones_sum(l4, pseudo_sum(frame, info, l4.size())) == 0xffff;
}

void fill_ip_checksum(Bytes frame, const PacketInfo &info) {
    if (info.ip_version != 4)
        return;
    const unsigned header = (frame[info.l3_offset] & 0xf) * 4;
    store_be<std::uint16_t>(&frame[info.l3_offset + 10], 0);
    const std::uint16_t sum = ones_sum(ConstBytes(frame).subspan(info.l3_offset, header));
    store_be<std::uint16_t>(&frame[info.l3_offset + 10], static_cast<std::uint16_t>(~sum));
}

void fill_l4_checksum(Bytes frame, const PacketInfo &info) {
    if (info.l4_offset == 0 || info.ip_end < info.payload_offset)
        return;
    const unsigned field = info.l4_offset + (info.is_tcp() ? 16 : 6);
    store_be<std::uint16_t>(&frame[field], 0);
    const ConstBytes l4 = ConstBytes(frame).subspan(info.l4_offset, info.ip_end - info.l4_offset);
    auto sum = static_cast<std::uint16_t>(~ones_sum(l4, pseudo_sum(frame, info, l4.size())));
    // Zero would say "no checksum" (RFC 768).
    if (info.is_udp() && sum == 0)
        sum = 0xffff;
    store_be<std::uint16_t>(&frame[field], sum);
}

std::uint32_t toeplitz_hash(ConstBytes key, ConstBytes input) {
    std::uint32_t hash = 0;
    std::uint32_t window = load_be<std::uint32_t>(key.data());
    for (std::size_t i = 0; i < input.size(); ++i) {
        const std::uint8_t next = i + 4 < key.size() ? key[i + 4] : 0;
        for (unsigned bit = 0; bit < 8; ++bit) {
            if ((input[i] >> (7 - bit) & 1) != 0)
                hash ^= window;
            window = window << 1 | (next >> (7 - bit) & 1);
        }
    }
    return hash;
}

RssResult rss_hash(const Tir &tir, ConstBytes frame, const PacketInfo &info) {
    RssResult result;
    if (tir.hash_fn == MLX5_RX_HASH_FN_NONE || info.ip_version == 0)
        return result;
    if ((info.ip_version == 6) != (tir.l3_type == MLX5_L3_PROT_TYPE_IPV6))
        return result;

    std::array<std::uint8_t, 36> input{};
    std::size_t n = 0;
    // Symmetric mode replaces each pair (a, b) by (a | b, a ^ b), so that both directions of a
    // connection hash alike (ethtool calls it symmetric-or-xor).
    const auto add_pair = [&](ConstBytes src, ConstBytes dst, bool use_src, bool use_dst) {
        if (use_src && use_dst && tir.symmetric) {
            for (std::size_t i = 0; i < src.size(); ++i) {
                input[n + i] = src[i] | dst[i];
                input[n + src.size() + i] = src[i] ^ dst[i];
            }
            n += 2 * src.size();
            return;
        }
        if (use_src) {
            std::copy(src.begin(), src.end(), input.begin() + static_cast<std::ptrdiff_t>(n));
            n += src.size();
        }
        if (use_dst) {
            std::copy(dst.begin(), dst.end(), input.begin() + static_cast<std::ptrdiff_t>(n));
            n += dst.size();
        }
    };
    const unsigned at = info.l3_offset;
    const bool v4 = info.ip_version == 4;
    add_pair(frame.subspan(at + (v4 ? 12 : 8), v4 ? 4 : 16),
             frame.subspan(at + (v4 ? 16 : 24), v4 ? 4 : 16),
             (tir.hash_fields & MLX5_HASH_FIELD_SEL_SRC_IP) != 0,
             (tir.hash_fields & MLX5_HASH_FIELD_SEL_DST_IP) != 0);
    if (n != 0)
        result.type |= (v4 ? CQE_RSS_IPV4 : CQE_RSS_IPV6) << 2;
    const std::size_t before_l4 = n;
    const bool l4_matches = tir.l4_type == MLX5_L4_PROT_TYPE_TCP ? info.is_tcp() : info.is_udp();
    if (l4_matches)
        add_pair(frame.subspan(info.l4_offset, 2), frame.subspan(info.l4_offset + 2, 2),
                 (tir.hash_fields & MLX5_HASH_FIELD_SEL_L4_SPORT) != 0,
                 (tir.hash_fields & MLX5_HASH_FIELD_SEL_L4_DPORT) != 0);
    if (n != before_l4)
        result.type |= (info.is_tcp() ? CQE_RSS_L4_TCP : CQE_RSS_L4_UDP) << 6;

    const ConstBytes used = ConstBytes(input).first(n);
    if (tir.hash_fn == MLX5_RX_HASH_FN_TOEPLITZ) {
        result.hash = toeplitz_hash(tir.toeplitz_key, used);
    } else {
        std::uint8_t x = 0;
        for (std::uint8_t b : used)
            x ^= b;
        for (unsigned bit = 0; bit < 8; ++bit)
            result.hash |= static_cast<std::uint32_t>(x >> bit & 1) << (7 - bit);
    }
    return result;
}

} // namespace connectx
