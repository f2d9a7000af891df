// SPDX-License-Identifier: GPL-2.0
//
// The QUIC engine against OpenSSL: every cipher, any keys, packet number, header and length, the
// packet at any alignment, straight and through WQEs whose data segments cut it anywhere.
#include "target.h"

#include <quic_reference.h>

namespace connectx::fuzz {

namespace {

using quic_test::Cipher;
using quic_test::PacketKeys;

PacketKeys keys_of(Input &in) {
    PacketKeys keys;
    keys.cipher = quic_test::kAllCiphers[in.below(4)];
    const auto take = [&in](std::size_t n) {
        auto bytes = in.bytes(n);
        bytes.resize(n, 0x5c);
        return bytes;
    };
    keys.key = take(quic_test::key_length(keys.cipher));
    keys.iv = take(UDP_QUIC_IV_LEN);
    keys.hp = take(quic_test::key_length(keys.cipher));
    return keys;
}

QuicKeys engine_keys(const PacketKeys &keys) {
    QuicKeys out;
    out.cipher = *quic_cipher_of(static_cast<unsigned>(keys.cipher));
    std::copy(keys.key.begin(), keys.key.end(), out.key.begin());
    std::copy(keys.iv.begin(), keys.iv.end(), out.iv.begin());
    std::copy(keys.hp.begin(), keys.hp.end(), out.hp.begin());
    return out;
}

/// A packet without its tag: the input's bytes, and more of a pattern when there are too few.
Message packet_of(Input &in, std::size_t size) {
    Message packet = in.bytes(std::min<std::size_t>(size, 64));
    const Message rest = pattern(size);
    packet.insert(packet.end(), rest.begin() + static_cast<std::ptrdiff_t>(packet.size()),
                  rest.end());
    return packet;
}

void straight(Input &in) {
    static QuicEngine engine;
    const PacketKeys keys = keys_of(in);
    const auto schedule = engine.prepare(engine_keys(keys));
    const std::uint64_t pn = in.flag() ? in.u64() >> in.u8() % 64 : kQuicMaxPacketNumber - in.u8();
    const std::size_t pn_offset = in.flag() ? in.u8() : in.u16() % 1100;
    const std::size_t size = in.u16() % 9000;
    const Message plain = packet_of(in, size);
    const std::size_t shift = in.u8() % 64;

    Message buffer(shift + size + kQuicTagLength + 64, 0xa5);
    std::copy(plain.begin(), plain.end(), buffer.begin() + static_cast<std::ptrdiff_t>(shift));
    const Message before = buffer;
    const auto packet = std::span(buffer).subspan(shift, size + kQuicTagLength);
    const QuicProtectResult result = engine.protect(*schedule, packet, pn_offset, pn);

    const bool fits = pn_offset > 0 && size >= pn_offset + kQuicSampleOffset;
    if (!fits || pn > kQuicMaxPacketNumber) {
        require(result == (fits ? QuicProtectResult::kPacketNumber : QuicProtectResult::kTooShort),
                "what cannot be protected is refused");
        require(buffer == before, "a refused packet is as it was");
        return;
    }
    require(result == QuicProtectResult::kOk, "what can be protected is");
    const Message expected = quic_test::protect(keys, plain, pn_offset, pn);
    require(std::equal(packet.begin(), packet.end(), expected.begin(), expected.end()),
            "OpenSSL makes the same packet");
    std::copy(before.begin() + static_cast<std::ptrdiff_t>(shift),
              before.begin() + static_cast<std::ptrdiff_t>(shift + packet.size()), packet.begin());
    require(buffer == before, "nothing around the packet was written");
}

/// Data segments that cut @data into pieces of the input's choice.
Message scattered(Input &in, MiniDriver &d, const Message &data) {
    Message seg;
    std::size_t at = 0;
    for (unsigned left = 8; at < data.size(); --left) {
        const std::size_t n =
            left <= 1 ? data.size() - at
                      : std::min<std::size_t>(data.size() - at, 1 + in.u16() % data.size());
        const std::uint64_t to = d.host.alloc(n + 64, 64) + in.u8() % 64;
        std::copy_n(data.begin() + static_cast<std::ptrdiff_t>(at), n, d.host.at(to));
        Message s(16);
        store_be<std::uint32_t>(s.data(), static_cast<std::uint32_t>(n));
        store_be<std::uint32_t>(s.data() + 4, d.lkey);
        store_be<std::uint64_t>(s.data() + 8, to);
        seg.insert(seg.end(), s.begin(), s.end());
        at += n;
    }
    return seg;
}

void through_wqe(Input &in) {
    Channel c;
    const PacketKeys keys = keys_of(in);
    const bool v6 = in.flag();
    const bool lso = in.flag();
    const std::uint64_t pn = in.u32();
    const std::size_t pn_offset = 1 + in.u8() % 60;
    const std::size_t wire = pn_offset + 20 + in.u16() % 1300;
    const std::size_t packets = lso ? 2 + in.u8() % 5 : 1;
    const std::size_t last =
        lso ? pn_offset + 20 + in.below(static_cast<std::uint32_t>(wire - pn_offset - 19)) : wire;
    Message data;
    std::vector<Message> expected;
    for (std::size_t i = 0; i < packets; ++i) {
        const Message plain = packet_of(in, (i + 1 < packets ? wire : last) - kQuicTagLength);
        expected.push_back(quic_test::protect(keys, plain, pn_offset, pn + i));
        data.insert(data.end(), plain.begin(), plain.end());
        data.insert(data.end(), kQuicTagLength, 0x77);
    }
    const Frame whole = make_frame({.v6 = v6}, data);
    const std::size_t headers = whole.size() - data.size();

    MiniDriver::EthOptions o;
    o.cs_flags = MLX5_ETH_WQE_L3_CSUM | MLX5_ETH_WQE_L4_CSUM;
    o.mss = lso ? static_cast<unsigned>(wire) : 0;
    o.inline_header.assign(whole.begin(), whole.begin() + static_cast<std::ptrdiff_t>(headers));
    Message seg = c.d.eth_segments(o, {});
    Message quic(96);
    store_be<std::uint64_t>(quic.data(), 1ULL << 62 | pn);
    store_be<std::uint32_t>(quic.data() + 8, static_cast<std::uint32_t>(pn_offset << 21));
    quic[16] = static_cast<std::uint8_t>(keys.cipher);
    std::copy(keys.iv.begin(), keys.iv.end(), quic.begin() + 20);
    std::copy(keys.key.begin(), keys.key.end(), quic.begin() + 32);
    std::copy(keys.hp.begin(), keys.hp.end(), quic.begin() + 64);
    seg.insert(seg.end(), quic.begin(), quic.end());
    const Message pieces = scattered(in, c.d, data);
    seg.insert(seg.end(), pieces.begin(), pieces.end());
    c.d.host.wire.clear();
    c.d.post(c.sq,
             (lso ? MLX5_OPCODE_LSO : MLX5_OPCODE_SEND) | static_cast<unsigned>(MLX5_OPC_MOD_QUIC)
                                                              << 24,
             seg);
    require(c.d.host.wire.size() == packets, "every packet of the WQE is sent");
    for (std::size_t i = 0; i < packets; ++i) {
        const auto &frame = c.d.host.wire[i];
        require(frame.size() >= headers + expected[i].size() &&
                    std::equal(expected[i].begin(), expected[i].end(),
                               frame.begin() + static_cast<std::ptrdiff_t>(headers)),
                "OpenSSL makes the same packet of what was cut into pieces");
    }
}

} // namespace

void run(Input in) {
    if (in.flag())
        through_wqe(in);
    else
        straight(in);
}

std::vector<std::vector<std::uint8_t>> seeds() {
    std::vector<std::vector<std::uint8_t>> all;
    for (std::uint8_t how : {0, 1})
        for (std::uint8_t cipher = 0; cipher < 4; ++cipher)
            for (std::uint8_t size : {20, 21, 35, 36, 37, 255}) {
                std::vector<std::uint8_t> s{how, cipher};
                s.insert(s.end(), cipher == 1 || cipher == 2 ? 76 : 44, cipher);
                s.insert(s.end(), {1, 0, 0, 0, 0, 0, 0, 0, 9, 0, 1, 9, 0, size, 0x40, 1, 2, 3});
                all.push_back(std::move(s));
            }
    return all;
}

} // namespace connectx::fuzz
