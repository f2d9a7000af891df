// SPDX-License-Identifier: GPL-2.0
//
// The reference that judges the kernel is itself judged by RFC 9001 appendix A. Runs on any host.
#include <gtest/gtest.h>

#include "quic_reference.h"
#include "rfc9001_vectors.h"

namespace quic_test {
namespace {

TEST(Rfc9001, A1InitialSecrets) {
    const Bytes initial = hkdf_extract(rfc9001::kInitialSalt, rfc9001::kInitialDcid);
    EXPECT_EQ(to_hex(initial), to_hex(rfc9001::kInitialSecret));
    const Bytes client = hkdf_expand_label(initial, "client in", 32);
    EXPECT_EQ(to_hex(client), "c00cf151ca5be075ed0ebfb5c80323c42d6b7db67881289af4008f1f6c357aea");
    const Bytes server = hkdf_expand_label(initial, "server in", 32);
    EXPECT_EQ(to_hex(server), "3c199828fd139efd216c155ad844cc81fb82fa8d7446fa7d78be803acdda951b");
    for (const auto &[secret, expected] : {std::pair(client, rfc9001::vectors()[0].keys),
                                           std::pair(server, rfc9001::vectors()[1].keys)}) {
        const PacketKeys keys = derive_keys(Cipher::kAes128Gcm, secret);
        EXPECT_EQ(to_hex(keys.key), to_hex(expected.key));
        EXPECT_EQ(to_hex(keys.iv), to_hex(expected.iv));
        EXPECT_EQ(to_hex(keys.hp), to_hex(expected.hp));
    }
}

TEST(Rfc9001, A5KeysAndKeyUpdate) {
    const Bytes secret =
        from_hex("9ac312a7f877468ebe69422748ad00a15443f18203a07d6060f688f30f21632b");
    const PacketKeys keys = derive_keys(Cipher::kChaCha20Poly1305, secret);
    const PacketKeys &expected = rfc9001::vectors()[2].keys;
    EXPECT_EQ(to_hex(keys.key), to_hex(expected.key));
    EXPECT_EQ(to_hex(keys.iv), to_hex(expected.iv));
    EXPECT_EQ(to_hex(keys.hp), to_hex(expected.hp));
    EXPECT_EQ(to_hex(hkdf_expand_label(secret, "quic ku", 32)),
              "1223504755036d556342ee9361d253421a826c9ecdf3c7148684b36b714881f9");
}

TEST(Rfc9001, HeaderProtectionMasks) {
    const auto &vectors = rfc9001::vectors();
    EXPECT_EQ(to_hex(header_protection_mask(vectors[0].keys,
                                            from_hex("d1b1c98dd7689fb8ec11d242b123dc9b"))),
              "437b9aec36");
    EXPECT_EQ(to_hex(header_protection_mask(vectors[2].keys,
                                            from_hex("5e5cd55c41f69080575d7999c25a5bfb"))),
              "aefefe7d03");
}

class Vectors : public testing::TestWithParam<rfc9001::Vector> {};

TEST_P(Vectors, Protect) {
    const rfc9001::Vector &vector = GetParam();
    EXPECT_EQ(to_hex(protect(vector.keys, vector.packet, vector.pn_offset, vector.pn)),
              to_hex(vector.wire));
}

TEST_P(Vectors, Unprotect) {
    const rfc9001::Vector &vector = GetParam();
    const auto opened = unprotect(vector.keys, vector.wire, vector.pn_offset, vector.pn);
    ASSERT_TRUE(opened.has_value());
    EXPECT_EQ(opened->pn, vector.pn);
    EXPECT_EQ(to_hex(opened->packet), to_hex(vector.packet));
}

TEST_P(Vectors, EveryFlippedByteIsNoticed) {
    const rfc9001::Vector &vector = GetParam();
    for (std::size_t i = 0; i < vector.wire.size(); ++i) {
        Bytes damaged = vector.wire;
        damaged[i] ^= 0x40;
        EXPECT_FALSE(unprotect(vector.keys, damaged, vector.pn_offset, vector.pn).has_value())
            << "byte " << i;
    }
}

INSTANTIATE_TEST_SUITE_P(AppendixA, Vectors, testing::ValuesIn(rfc9001::vectors()),
                         [](const auto &info) { return std::string(info.param.name); });

class RoundTrip : public testing::TestWithParam<Cipher> {};

TEST_P(RoundTrip, EveryShape) {
    for (bool long_header : {false, true})
        for (std::size_t cid = 0; cid <= 20; ++cid)
            for (unsigned pn_length = 1; pn_length <= 4; ++pn_length)
                for (std::size_t more : {0, 1, 15, 16, 17, 1000}) {
                    const PacketShape shape{long_header, cid, pn_length, more};
                    const PacketKeys keys = keys_of_seed(GetParam(), cid);
                    const std::uint64_t pn = 0x123456789abcULL + more;
                    const std::size_t size = shape.min_size() + more;
                    const Bytes packet = make_packet(shape, pn, size);
                    const Bytes wire = protect(keys, packet, shape.pn_offset(), pn);
                    EXPECT_EQ(wire.size(), size + UDP_QUIC_TAG_LEN);
                    EXPECT_FALSE(contains_plaintext(wire));
                    const auto opened = unprotect(keys, wire, shape.pn_offset(), pn - 1);
                    ASSERT_TRUE(opened.has_value());
                    EXPECT_EQ(opened->pn, pn);
                    EXPECT_EQ(opened->packet, packet);
                    EXPECT_FALSE(
                        unprotect(keys_of_seed(GetParam(), cid + 1), wire, shape.pn_offset(), pn)
                            .has_value());
                }
}

INSTANTIATE_TEST_SUITE_P(All, RoundTrip, testing::ValuesIn(kAllCiphers),
                         [](const auto &info) { return std::string(name(info.param)); });

TEST(Packet, PatternIsFoundAtEveryOffset) {
    Bytes haystack(100, 0xaa);
    EXPECT_FALSE(contains_plaintext(haystack));
    for (std::size_t at = 0; at + kPlaintextMarker.size() <= haystack.size(); ++at) {
        Bytes with = haystack;
        std::copy(kPlaintextMarker.begin(), kPlaintextMarker.end(),
                  with.begin() + static_cast<std::ptrdiff_t>(at));
        EXPECT_TRUE(contains_plaintext(with)) << at;
    }
}

} // namespace
} // namespace quic_test
