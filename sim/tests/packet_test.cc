// SPDX-License-Identifier: GPL-2.0
//
// Header parser, checksums, RSS hash.
#include "core.h"
#include "packets.h"

#include <gtest/gtest.h>

namespace connectx::test {
namespace {

TEST(Packet, ChecksumsAgreeWithAnIndependentImplementation) {
    for (bool v6 : {false, true})
        for (bool tcp : {false, true})
            for (std::size_t size : {0UL, 1UL, 2UL, 7UL, 8UL, 9UL, 1460UL}) {
                Flow flow{.v6 = v6, .tcp = tcp};
                Frame f = make_frame(flow, pattern(size));
                const PacketInfo info = parse_packet(f);
                ASSERT_FALSE(info.malformed);
                EXPECT_EQ(info.l4_offset, l4_offset(flow));
                EXPECT_EQ(info.payload_offset, header_size(flow));
                fill_ip_checksum(f, info);
                fill_l4_checksum(f, info);
                EXPECT_TRUE(checksums_ok(f, flow)) << v6 << tcp << size;
                PacketInfo check = parse_packet(f);
                verify_checksums(f, check);
                EXPECT_TRUE(check.ip_checksum_ok && check.l4_checksum_ok);
                f.back() ^= 0x40;
                verify_checksums(f, check);
                EXPECT_FALSE(check.l4_checksum_ok);
            }
}

TEST(Packet, UdpChecksumNeverBecomesZero) {
    // Find a payload whose sum makes the checksum 0: it has to go out as 0xffff.
    Flow flow;
    for (unsigned v = 0; v < 0x10000; ++v) {
        Frame f =
            make_frame(flow, {static_cast<std::uint8_t>(v >> 8), static_cast<std::uint8_t>(v)});
        const PacketInfo info = parse_packet(f);
        fill_l4_checksum(f, info);
        ASSERT_NE(get16(f, l4_offset(flow) + 6), 0U);
    }
}

TEST(Packet, UdpWithoutChecksumIsFineForIpv4Only) {
    for (bool v6 : {false, true}) {
        Flow flow{.v6 = v6};
        Frame f = make_frame(flow, pattern(10));
        PacketInfo info = parse_packet(f);
        fill_ip_checksum(f, info);
        verify_checksums(f, info);
        EXPECT_EQ(info.l4_checksum_ok, !v6);
    }
}

TEST(Packet, TruncatedAndTwistedHeadersStayInside) {
    Flow flow{.v6 = true, .tcp = true, .vlan = 5};
    const Frame whole = make_frame(flow, pattern(50));
    for (std::size_t n = 0; n <= whole.size(); ++n) {
        const Frame f(whole.begin(), whole.begin() + static_cast<std::ptrdiff_t>(n));
        PacketInfo info = parse_packet(f);
        verify_checksums(f, info);
        EXPECT_LE(info.payload_offset, n);
        EXPECT_LE(info.ip_end, n);
    }
    Frame v4 = make_frame({}, pattern(8));
    v4[14] = 0x41; // header length 4
    EXPECT_TRUE(parse_packet(v4).malformed);
    v4[14] = 0x4f; // header longer than the frame
    EXPECT_TRUE(parse_packet(v4).malformed);
    v4[14] = 0x45;
    put16(v4, 16, 0xffff); // total length beyond the frame
    EXPECT_TRUE(parse_packet(v4).malformed);
    put16(v4, 16, 36);
    put16(v4, 20, 0x2000); // more fragments
    EXPECT_EQ(parse_packet(v4).l4_offset, 0U);
    EXPECT_TRUE(parse_packet(v4).fragment);
}

TEST(Packet, Ipv6ExtensionHeaders) {
    Frame f = make_frame({.v6 = true}, pattern(20));
    // Hop-by-hop header in front of UDP.
    const Frame hbh{17, 0, 1, 4, 0, 0, 0, 0};
    f[20] = 0;
    f.insert(f.begin() + 54, hbh.begin(), hbh.end());
    put16(f, 18, get16(f, 18) + 8);
    PacketInfo info = parse_packet(f);
    EXPECT_EQ(info.l4_offset, 62U);
    EXPECT_TRUE(info.is_udp());
    f[54] = 44; // then a fragment header that says "first of several"
    const Frame frag{17, 0, 0, 1, 0, 0, 0, 1};
    f.insert(f.begin() + 62, frag.begin(), frag.end());
    put16(f, 18, get16(f, 18) + 8);
    info = parse_packet(f);
    EXPECT_TRUE(info.fragment);
    EXPECT_EQ(info.l4_offset, 0U);
}

// The verification suite of the RSS specification ("Verifying the RSS hash calculation").
constexpr std::array<std::uint8_t, 40> kSpecKey{
    0x6d, 0x5a, 0x56, 0xda, 0x25, 0x5b, 0x0e, 0xc2, 0x41, 0x67, 0x25, 0x3d, 0x43, 0xa3,
    0x8f, 0xb0, 0xd0, 0xca, 0x2b, 0xcb, 0xae, 0x7b, 0x30, 0xb4, 0x77, 0xcb, 0x2d, 0xa3,
    0x80, 0x30, 0xf2, 0x0c, 0x6a, 0x42, 0xb7, 0x3b, 0xbe, 0xac, 0x01, 0xfa};

Frame spec_packet() {
    Flow flow{.tcp = true, .sport = 2794, .dport = 1766};
    Frame f = make_frame(flow, {});
    const Frame addresses{66, 9, 149, 187, 161, 142, 100, 80};
    std::copy(addresses.begin(), addresses.end(), f.begin() + 26);
    return f;
}

Tir spec_tir() {
    Tir tir;
    tir.hash_fn = MLX5_RX_HASH_FN_TOEPLITZ;
    tir.toeplitz_key = kSpecKey;
    tir.hash_fields = MLX5_HASH_FIELD_SEL_SRC_IP | MLX5_HASH_FIELD_SEL_DST_IP |
                      MLX5_HASH_FIELD_SEL_L4_SPORT | MLX5_HASH_FIELD_SEL_L4_DPORT;
    return tir;
}

TEST(Rss, KnownAnswers) {
    const Frame f = spec_packet();
    const PacketInfo info = parse_packet(f);
    Tir tir = spec_tir();
    EXPECT_EQ(rss_hash(tir, f, info).hash, 0x51ccc178U);
    EXPECT_EQ(rss_hash(tir, f, info).type, CQE_RSS_IPV4 << 2 | CQE_RSS_L4_TCP << 6);
    tir.hash_fields = MLX5_HASH_FIELD_SEL_SRC_IP | MLX5_HASH_FIELD_SEL_DST_IP;
    EXPECT_EQ(rss_hash(tir, f, info).hash, 0x323e8fc2U);
    EXPECT_EQ(rss_hash(tir, f, info).type, CQE_RSS_IPV4 << 2);
}

TEST(Rss, SymmetricHashIsTheSameBothWays) {
    Tir tir = spec_tir();
    tir.symmetric = true;
    Frame f = spec_packet();
    const auto one = rss_hash(tir, f, parse_packet(f));
    std::swap_ranges(f.begin() + 26, f.begin() + 30, f.begin() + 30);
    std::swap_ranges(f.begin() + 34, f.begin() + 36, f.begin() + 36);
    EXPECT_EQ(rss_hash(tir, f, parse_packet(f)).hash, one.hash);
    put16(f, 34, 4711);
    EXPECT_NE(rss_hash(tir, f, parse_packet(f)).hash, one.hash);
}

TEST(Rss, OtherProtocolsAndFunctions) {
    Tir tir = spec_tir();
    const Frame udp = make_frame({}, pattern(4));
    EXPECT_EQ(rss_hash(tir, udp, parse_packet(udp)).type, CQE_RSS_IPV4 << 2); // TIR is for TCP
    const Frame v6 = make_frame({.v6 = true, .tcp = true}, pattern(4));
    EXPECT_EQ(rss_hash(tir, v6, parse_packet(v6)).type, 0);
    tir.l3_type = MLX5_L3_PROT_TYPE_IPV6;
    EXPECT_EQ(rss_hash(tir, v6, parse_packet(v6)).type, CQE_RSS_IPV6 << 2 | CQE_RSS_L4_TCP << 6);
    tir.hash_fn = MLX5_RX_HASH_FN_NONE;
    EXPECT_EQ(rss_hash(tir, v6, parse_packet(v6)).hash, 0U);
    tir = spec_tir();
    tir.hash_fn = MLX5_RX_HASH_FN_INVERTED_XOR8;
    const Frame f = spec_packet();
    unsigned x = 0;
    for (std::size_t i = 26; i < 38; ++i)
        x ^= f[i];
    unsigned inverted = 0;
    for (unsigned b = 0; b < 8; ++b)
        inverted |= (x >> b & 1) << (7 - b);
    EXPECT_EQ(rss_hash(tir, f, parse_packet(f)).hash, inverted);
}

} // namespace
} // namespace connectx::test
