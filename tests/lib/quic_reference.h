// SPDX-License-Identifier: GPL-2.0
//
// QUIC packet protection (RFC 9001 section 5) with OpenSSL: the independent judge of what the
// kernel and the devices put on the wire. It shares no code with either.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include <linux/udp_crypto.h>

namespace quic_test {

using Bytes = std::vector<std::uint8_t>;
using ByteView = std::span<const std::uint8_t>;

Bytes from_hex(std::string_view hex);
std::string to_hex(ByteView bytes);

enum class Cipher : std::uint16_t {
    kAes128Gcm = UDP_QUIC_CIPHER_AES_128_GCM,
    kAes256Gcm = UDP_QUIC_CIPHER_AES_256_GCM,
    kChaCha20Poly1305 = UDP_QUIC_CIPHER_CHACHA20_POLY1305,
    kAes128Ccm = UDP_QUIC_CIPHER_AES_128_CCM,
};
inline constexpr Cipher kAllCiphers[] = {Cipher::kAes128Gcm, Cipher::kAes256Gcm,
                                         Cipher::kChaCha20Poly1305, Cipher::kAes128Ccm};

const char *name(Cipher cipher);

// Bytes of the packet key and of the header protection key.
std::size_t key_length(Cipher cipher);

// "quic key", "quic iv" and "quic hp" of RFC 9001 section 5.1.
struct PacketKeys {
    Cipher cipher{};
    Bytes key;
    Bytes iv;
    Bytes hp;
};

// HKDF-Extract and HKDF-Expand-Label (RFC 8446 section 7.1) with SHA-256.
Bytes hkdf_extract(ByteView salt, ByteView secret);
Bytes hkdf_expand_label(ByteView secret, std::string_view label, std::size_t length);
// The keys that RFC 9001 section 5.1 derives from @secret with SHA-256; version 2 of QUIC has the
// @prefix "quicv2 " (RFC 9369 section 3.3.2).
PacketKeys derive_keys(Cipher cipher, ByteView secret, std::string_view prefix = "quic ");
// Keys that differ with every @seed.
PacketKeys keys_of_seed(Cipher cipher, std::uint64_t seed);

// The first five bytes of the mask of RFC 9001 section 5.4.1.
Bytes header_protection_mask(const PacketKeys &keys, ByteView sample);

// @packet: header with truncated packet number, payload; no tag. Returns the packet as on the wire.
// Undefined for packets too short for a header protection sample.
Bytes protect(const PacketKeys &keys, ByteView packet, std::size_t pn_offset, std::uint64_t pn);

struct Opened {
    Bytes packet; // header protection removed, decrypted, without tag
    std::uint64_t pn = 0;
};

// The reverse; @expected_pn guides the decoding of the packet number (RFC 9000 appendix A.3).
// Nothing if @wire is no packet under these keys.
std::optional<Opened> unprotect(const PacketKeys &keys, ByteView wire, std::size_t pn_offset,
                                std::uint64_t expected_pn);

// The packet number of @wire as its header says, whether or not it decrypts.
std::uint64_t peek_packet_number(const PacketKeys &keys, ByteView wire, std::size_t pn_offset,
                                 std::uint64_t expected_pn);

// What a QUIC packet looks like to the kernel.
struct PacketShape {
    bool long_header = false;
    std::size_t cid_length = 8; // 0 to 20, of each connection ID
    unsigned pn_length = 2;     // 1 to 4
    std::size_t token_length =
        0; // long header: an Initial with such a token, else a Handshake packet

    std::size_t pn_offset() const;
    // Least size without tag that leaves room for a header protection sample.
    std::size_t min_size() const { return pn_offset() + 4; }
};

// Eight bytes that begin every make_packet() payload and repeat in it: whoever looks for leaked
// plaintext looks for them.
inline constexpr std::string_view kPlaintextMarker = "QUICPLTX";

// A plaintext packet of @size bytes (no tag) numbered @pn. The payload is the marker, over and
// over, the number in every 64 bytes, and @salt.
Bytes make_packet(const PacketShape &shape, std::uint64_t pn, std::size_t size,
                  std::uint32_t salt = 0);

// Whether the marker, or a rotation of it, occurs at any offset.
bool contains_plaintext(ByteView bytes);

} // namespace quic_test
