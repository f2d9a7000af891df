// SPDX-License-Identifier: GPL-2.0
//
// The QUIC engine against the sample packets of RFC 9001 and against OpenSSL.
#include "quic_engine.h"
#include "quic_keys.h"

#include <rfc9001_vectors.h>

#include <gtest/gtest.h>

#include <random>

namespace connectx::test {
namespace {

using quic_test::PacketKeys;
using quic_test::PacketShape;

using Packet = std::vector<std::uint8_t>;

Packet with_tag_room(const Packet &packet) {
    Packet p = packet;
    p.insert(p.end(), kQuicTagLength, 0xee); // not zero: what is there must not matter
    return p;
}

class QuicEngineTest : public testing::Test {
  protected:
    Packet protect(const PacketKeys &keys, const Packet &packet, std::size_t pn_offset,
                   std::uint64_t pn) {
        Packet p = with_tag_room(packet);
        const auto schedule = engine.prepare(engine_keys(keys));
        EXPECT_EQ(engine.protect(*schedule, p, pn_offset, pn), QuicProtectResult::kOk);
        return p;
    }

    QuicEngine engine;
};

TEST_F(QuicEngineTest, SamplePacketsOfRfc9001) {
    for (const auto &v : quic_test::rfc9001::vectors()) {
        SCOPED_TRACE(v.name);
        EXPECT_EQ(protect(v.keys, v.packet, v.pn_offset, v.pn), v.wire);
    }
}

class QuicEngineCipher : public QuicEngineTest,
                         public testing::WithParamInterface<quic_test::Cipher> {};

TEST_P(QuicEngineCipher, EveryHeaderShapeIsAsOpenSslMakesIt) {
    std::uint64_t seed = 1;
    for (const bool long_header : {false, true})
        for (std::size_t cid = 0; cid <= 20; ++cid)
            for (unsigned pn_length = 1; pn_length <= 4; ++pn_length) {
                const PacketShape shape{
                    .long_header = long_header, .cid_length = cid, .pn_length = pn_length};
                const PacketKeys keys = quic_test::keys_of_seed(GetParam(), ++seed);
                const std::uint64_t pn =
                    0x1234'5678'9abc'def0 >> (seed % 62) & kQuicMaxPacketNumber;
                // From the shortest packet that has a sample, past the block sizes.
                for (const std::size_t more : {0, 1, 11, 12, 13, 15, 16, 17, 48, 1150}) {
                    const auto packet = quic_test::make_packet(shape, pn, shape.min_size() + more);
                    ASSERT_EQ(protect(keys, packet, shape.pn_offset(), pn),
                              quic_test::protect(keys, packet, shape.pn_offset(), pn))
                        << "long " << long_header << " cid " << cid << " pn length " << pn_length
                        << " size " << packet.size();
                }
            }
}

TEST_P(QuicEngineCipher, LongTokenIsAssociatedData) {
    for (const std::size_t token : {1, 63, 64, 300, 1000}) {
        const PacketShape shape{
            .long_header = true, .cid_length = 20, .pn_length = 4, .token_length = token};
        const PacketKeys keys = quic_test::keys_of_seed(GetParam(), token);
        const auto packet = quic_test::make_packet(shape, 7, shape.min_size() + 77);
        EXPECT_EQ(protect(keys, packet, shape.pn_offset(), 7),
                  quic_test::protect(keys, packet, shape.pn_offset(), 7));
    }
}

TEST_P(QuicEngineCipher, RandomPacketsUpTo64KiB) {
    std::mt19937_64 random(0x9001 + static_cast<unsigned>(GetParam()));
    for (unsigned i = 0; i < 400; ++i) {
        const std::size_t cid = random() % 21;
        const std::size_t pn_offset = 1 + cid;
        const std::uint64_t pn = random() >> (2 + random() % 62);
        // Every length class comes up, the largest datagram always.
        const std::size_t most = i % 8 == 0 ? 65535 - 16 : 16UL << (random() % 9);
        std::size_t size = i == 0 ? 65535 - 16 : pn_offset + 4 + random() % most;
        size = std::min<std::size_t>(size, 65535 - 16);
        Packet packet(size);
        for (auto &b : packet)
            b = static_cast<std::uint8_t>(random());
        const PacketKeys keys = quic_test::keys_of_seed(GetParam(), random());
        ASSERT_EQ(protect(keys, packet, pn_offset, pn),
                  quic_test::protect(keys, packet, pn_offset, pn))
            << "size " << size << " pn " << pn;
    }
}

TEST_P(QuicEngineCipher, OneScheduleServesManyPackets) {
    const PacketKeys keys = quic_test::keys_of_seed(GetParam(), 4711);
    const auto schedule = engine.prepare(engine_keys(keys));
    const PacketShape shape;
    for (std::uint64_t pn : {std::uint64_t{0}, std::uint64_t{1}, kQuicMaxPacketNumber}) {
        const auto packet = quic_test::make_packet(shape, pn, 1200);
        Packet p = with_tag_room(packet);
        ASSERT_EQ(engine.protect(*schedule, p, shape.pn_offset(), pn), QuicProtectResult::kOk);
        EXPECT_EQ(p, quic_test::protect(keys, packet, shape.pn_offset(), pn));
    }
}

TEST_P(QuicEngineCipher, WhatCannotBeProtectedIsLeftAlone) {
    const auto schedule = engine.prepare(engine_keys(quic_test::keys_of_seed(GetParam(), 1)));
    const Packet whole(64, 0x55);
    struct {
        std::size_t size;
        std::size_t pn_offset;
        std::uint64_t pn;
        QuicProtectResult result;
    } const cases[] = {
        {0, 1, 0, QuicProtectResult::kTooShort},
        {20, 1, 0, QuicProtectResult::kTooShort},
        {21, 0, 0, QuicProtectResult::kTooShort},
        {64, 45, 0, QuicProtectResult::kTooShort},
        {64, SIZE_MAX, 0, QuicProtectResult::kTooShort},
        {64, 1, kQuicMaxPacketNumber + 1, QuicProtectResult::kPacketNumber},
        {21, 1, 0, QuicProtectResult::kOk},
        {64, 44, kQuicMaxPacketNumber, QuicProtectResult::kOk},
    };
    for (const auto &c : cases) {
        Packet p(whole.begin(), whole.begin() + static_cast<std::ptrdiff_t>(c.size));
        const Packet before = p;
        EXPECT_EQ(engine.protect(*schedule, p, c.pn_offset, c.pn), c.result)
            << c.size << " " << c.pn_offset;
        EXPECT_EQ(p == before, c.result != QuicProtectResult::kOk);
    }
}

INSTANTIATE_TEST_SUITE_P(All, QuicEngineCipher, testing::ValuesIn(quic_test::kAllCiphers),
                         [](const auto &test) {
                             std::string name = quic_test::name(test.param);
                             std::erase_if(name, [](char c) { return !std::isalnum(c); });
                             return name;
                         });

} // namespace
} // namespace connectx::test
