// SPDX-License-Identifier: GPL-2.0
#include "quic_reference.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <memory>
#include <stdexcept>

#include <openssl/evp.h>
#include <openssl/hmac.h>

namespace quic_test {
namespace {

struct CipherContextFree {
    void operator()(EVP_CIPHER_CTX *context) const { EVP_CIPHER_CTX_free(context); }
};
using CipherContext = std::unique_ptr<EVP_CIPHER_CTX, CipherContextFree>;

void require(bool ok, const char *what) {
    if (!ok)
        throw std::runtime_error(std::string("OpenSSL: ") + what);
}

const EVP_CIPHER *aead(Cipher cipher) {
    switch (cipher) {
    case Cipher::kAes128Gcm:
        return EVP_aes_128_gcm();
    case Cipher::kAes256Gcm:
        return EVP_aes_256_gcm();
    case Cipher::kChaCha20Poly1305:
        return EVP_chacha20_poly1305();
    case Cipher::kAes128Ccm:
        return EVP_aes_128_ccm();
    }
    throw std::invalid_argument("cipher");
}

Bytes hmac_sha256(ByteView key, ByteView data) {
    Bytes out(32);
    unsigned length = 0;
    require(HMAC(EVP_sha256(), key.data(), static_cast<int>(key.size()), data.data(), data.size(),
                 out.data(), &length) != nullptr,
            "HMAC");
    return out;
}

std::array<std::uint8_t, UDP_QUIC_IV_LEN> nonce(const PacketKeys &keys, std::uint64_t pn) {
    std::array<std::uint8_t, UDP_QUIC_IV_LEN> out{};
    std::copy_n(keys.iv.begin(), out.size(), out.begin());
    for (int i = 0; i < 8; ++i)
        out[11 - i] ^= static_cast<std::uint8_t>(pn >> (8 * i));
    return out;
}

CipherContext start(const PacketKeys &keys, std::uint64_t pn, bool encrypt, const std::uint8_t *tag,
                    std::size_t text_length) {
    CipherContext context(EVP_CIPHER_CTX_new());
    const int mode = encrypt ? 1 : 0;
    require(EVP_CipherInit_ex(context.get(), aead(keys.cipher), nullptr, nullptr, nullptr, mode) ==
                1,
            "cipher");
    require(EVP_CIPHER_CTX_ctrl(context.get(), EVP_CTRL_AEAD_SET_IVLEN, UDP_QUIC_IV_LEN, nullptr) ==
                1,
            "nonce length");
    if (!encrypt || keys.cipher == Cipher::kAes128Ccm)
        require(EVP_CIPHER_CTX_ctrl(context.get(), EVP_CTRL_AEAD_SET_TAG, UDP_QUIC_TAG_LEN,
                                    const_cast<std::uint8_t *>(tag)) == 1,
                "tag");
    require(EVP_CipherInit_ex(context.get(), nullptr, nullptr, keys.key.data(),
                              nonce(keys, pn).data(), mode) == 1,
            "key");
    int length = 0;
    if (keys.cipher == Cipher::kAes128Ccm)
        require(EVP_CipherUpdate(context.get(), nullptr, &length, nullptr,
                                 static_cast<int>(text_length)) == 1,
                "CCM length");
    return context;
}

std::size_t varint_length(std::uint64_t value) { return value < 64 ? 1 : 2; }

void put_varint(Bytes &out, std::uint64_t value, std::size_t length) {
    if (length == 1) {
        out.push_back(static_cast<std::uint8_t>(value));
    } else {
        out.push_back(static_cast<std::uint8_t>(0x40 | (value >> 8)));
        out.push_back(static_cast<std::uint8_t>(value));
    }
}

} // namespace

Bytes from_hex(std::string_view hex) {
    Bytes out;
    int high = -1;
    for (char c : hex) {
        int value = 0;
        if (c >= '0' && c <= '9')
            value = c - '0';
        else if (c >= 'a' && c <= 'f')
            value = c - 'a' + 10;
        else
            continue;
        if (high < 0) {
            high = value;
        } else {
            out.push_back(static_cast<std::uint8_t>(high << 4 | value));
            high = -1;
        }
    }
    return out;
}

std::string to_hex(ByteView bytes) {
    static const char digits[] = "0123456789abcdef";
    std::string out;
    out.reserve(bytes.size() * 2);
    for (std::uint8_t byte : bytes) {
        out.push_back(digits[byte >> 4]);
        out.push_back(digits[byte & 15]);
    }
    return out;
}

const char *name(Cipher cipher) {
    switch (cipher) {
    case Cipher::kAes128Gcm:
        return "Aes128Gcm";
    case Cipher::kAes256Gcm:
        return "Aes256Gcm";
    case Cipher::kChaCha20Poly1305:
        return "ChaCha20Poly1305";
    case Cipher::kAes128Ccm:
        return "Aes128Ccm";
    }
    return "?";
}

std::size_t key_length(Cipher cipher) {
    return cipher == Cipher::kAes128Gcm || cipher == Cipher::kAes128Ccm ? 16 : 32;
}

Bytes hkdf_extract(ByteView salt, ByteView secret) { return hmac_sha256(salt, secret); }

Bytes hkdf_expand_label(ByteView secret, std::string_view label, std::size_t length) {
    const std::string full = "tls13 " + std::string(label);
    Bytes info = {static_cast<std::uint8_t>(length >> 8), static_cast<std::uint8_t>(length),
                  static_cast<std::uint8_t>(full.size())};
    info.insert(info.end(), full.begin(), full.end());
    info.push_back(0); // no context
    Bytes out;
    Bytes block;
    for (std::uint8_t counter = 1; out.size() < length; ++counter) {
        Bytes input = block;
        input.insert(input.end(), info.begin(), info.end());
        input.push_back(counter);
        block = hmac_sha256(secret, input);
        out.insert(out.end(), block.begin(), block.end());
    }
    out.resize(length);
    return out;
}

PacketKeys derive_keys(Cipher cipher, ByteView secret, std::string_view prefix) {
    const std::string labels(prefix);
    return {cipher, hkdf_expand_label(secret, labels + "key", key_length(cipher)),
            hkdf_expand_label(secret, labels + "iv", UDP_QUIC_IV_LEN),
            hkdf_expand_label(secret, labels + "hp", key_length(cipher))};
}

PacketKeys keys_of_seed(Cipher cipher, std::uint64_t seed) {
    Bytes secret(32);
    std::memcpy(secret.data(), &seed, sizeof(seed));
    return derive_keys(cipher, secret);
}

Bytes header_protection_mask(const PacketKeys &keys, ByteView sample) {
    CipherContext context(EVP_CIPHER_CTX_new());
    Bytes out(32);
    int length = 0;
    if (keys.cipher == Cipher::kChaCha20Poly1305) {
        // OpenSSL's 16-byte IV is the block counter, little endian, then the nonce: the sample as
        // it is.
        const std::uint8_t zeros[5] = {};
        require(EVP_EncryptInit_ex(context.get(), EVP_chacha20(), nullptr, keys.hp.data(),
                                   sample.data()) == 1,
                "ChaCha20");
        require(EVP_EncryptUpdate(context.get(), out.data(), &length, zeros, sizeof(zeros)) == 1,
                "ChaCha20");
    } else {
        const EVP_CIPHER *ecb = keys.hp.size() == 16 ? EVP_aes_128_ecb() : EVP_aes_256_ecb();
        require(EVP_EncryptInit_ex(context.get(), ecb, nullptr, keys.hp.data(), nullptr) == 1,
                "AES");
        require(EVP_EncryptUpdate(context.get(), out.data(), &length, sample.data(),
                                  UDP_QUIC_SAMPLE_LEN) == 1,
                "AES");
    }
    out.resize(5);
    return out;
}

Bytes protect(const PacketKeys &keys, ByteView packet, std::size_t pn_offset, std::uint64_t pn) {
    const std::size_t pn_length = (packet[0] & 3) + 1U;
    const std::size_t header_length = pn_offset + pn_length;
    const ByteView payload = packet.subspan(header_length);
    Bytes wire(packet.begin(), packet.end());
    wire.resize(packet.size() + UDP_QUIC_TAG_LEN);

    CipherContext context = start(keys, pn, true, nullptr, payload.size());
    int length = 0;
    require(EVP_EncryptUpdate(context.get(), nullptr, &length, packet.data(),
                              static_cast<int>(header_length)) == 1,
            "associated data");
    if (!payload.empty() || keys.cipher == Cipher::kAes128Ccm) {
        static const std::uint8_t nothing = 0;
        require(EVP_EncryptUpdate(context.get(), wire.data() + header_length, &length,
                                  payload.empty() ? &nothing : payload.data(),
                                  static_cast<int>(payload.size())) == 1,
                "encryption");
    }
    Bytes scratch(32);
    require(EVP_EncryptFinal_ex(context.get(), scratch.data(), &length) == 1, "encryption");
    require(EVP_CIPHER_CTX_ctrl(context.get(), EVP_CTRL_AEAD_GET_TAG, UDP_QUIC_TAG_LEN,
                                wire.data() + packet.size()) == 1,
            "tag");

    const Bytes mask =
        header_protection_mask(keys, ByteView(wire).subspan(pn_offset + 4, UDP_QUIC_SAMPLE_LEN));
    wire[0] ^= mask[0] & (wire[0] & 0x80 ? 0x0f : 0x1f);
    for (std::size_t i = 0; i < pn_length; ++i)
        wire[pn_offset + i] ^= mask[1 + i];
    return wire;
}

namespace {
// @wire without tag, its header in the clear, and the number; the payload is still encrypted.
Opened open_header(const PacketKeys &keys, ByteView wire, std::size_t pn_offset,
                   std::uint64_t expected_pn) {
    Opened opened;
    opened.packet.assign(wire.begin(), wire.end() - UDP_QUIC_TAG_LEN);
    const Bytes mask =
        header_protection_mask(keys, wire.subspan(pn_offset + 4, UDP_QUIC_SAMPLE_LEN));
    opened.packet[0] ^= mask[0] & (wire[0] & 0x80 ? 0x0f : 0x1f);
    const std::size_t pn_length = (opened.packet[0] & 3) + 1U;
    std::uint64_t truncated = 0;
    for (std::size_t i = 0; i < pn_length; ++i) {
        opened.packet[pn_offset + i] ^= mask[1 + i];
        truncated = truncated << 8 | opened.packet[pn_offset + i];
    }
    const std::uint64_t window = 1ULL << (8 * pn_length);
    const std::uint64_t half = window / 2;
    std::uint64_t pn = (expected_pn & ~(window - 1)) | truncated;
    if (pn + half <= expected_pn && pn < (1ULL << 62) - window)
        pn += window;
    else if (pn > expected_pn + half && pn >= window)
        pn -= window;
    opened.pn = pn;
    return opened;
}
} // namespace

std::uint64_t peek_packet_number(const PacketKeys &keys, ByteView wire, std::size_t pn_offset,
                                 std::uint64_t expected_pn) {
    if (wire.size() < pn_offset + 4 + UDP_QUIC_SAMPLE_LEN)
        return ~std::uint64_t{0};
    return open_header(keys, wire, pn_offset, expected_pn).pn;
}

std::optional<Opened> unprotect(const PacketKeys &keys, ByteView wire, std::size_t pn_offset,
                                std::uint64_t expected_pn) {
    if (wire.size() < pn_offset + 4 + UDP_QUIC_SAMPLE_LEN)
        return std::nullopt;
    Opened opened = open_header(keys, wire, pn_offset, expected_pn);
    const std::size_t pn_length = (opened.packet[0] & 3) + 1U;

    const std::size_t header_length = pn_offset + pn_length;
    const ByteView text = wire.subspan(header_length, opened.packet.size() - header_length);
    CipherContext context =
        start(keys, opened.pn, false, wire.data() + opened.packet.size(), text.size());
    int length = 0;
    if (EVP_DecryptUpdate(context.get(), nullptr, &length, opened.packet.data(),
                          static_cast<int>(header_length)) != 1)
        return std::nullopt;
    // CCM verifies here, the others in the final call.
    static const std::uint8_t nothing = 0;
    Bytes plain(text.size() + 16);
    if ((!text.empty() || keys.cipher == Cipher::kAes128Ccm) &&
        EVP_DecryptUpdate(context.get(), plain.data(), &length,
                          text.empty() ? &nothing : text.data(),
                          static_cast<int>(text.size())) != 1)
        return std::nullopt;
    Bytes scratch(32);
    if (keys.cipher != Cipher::kAes128Ccm &&
        EVP_DecryptFinal_ex(context.get(), scratch.data(), &length) != 1)
        return std::nullopt;
    std::copy_n(plain.begin(), text.size(),
                opened.packet.begin() + static_cast<std::ptrdiff_t>(header_length));
    return opened;
}

std::size_t PacketShape::pn_offset() const {
    if (!long_header)
        return 1 + cid_length;
    std::size_t offset = 1 + 4 + 1 + cid_length + 1 + cid_length + 2;
    if (token_length > 0)
        offset += varint_length(token_length) + token_length;
    return offset;
}

Bytes make_packet(const PacketShape &shape, std::uint64_t pn, std::size_t size,
                  std::uint32_t salt) {
    Bytes packet;
    packet.reserve(size);
    const auto low_bits = static_cast<std::uint8_t>(shape.pn_length - 1);
    const auto cid_length = static_cast<std::uint8_t>(shape.cid_length);
    if (shape.long_header) {
        const bool initial = shape.token_length > 0;
        packet.push_back(static_cast<std::uint8_t>((initial ? 0xc0 : 0xe0) | low_bits));
        packet.insert(packet.end(), {0, 0, 0, 1, cid_length});
        packet.insert(packet.end(), cid_length, 0xd1);
        packet.push_back(cid_length);
        packet.insert(packet.end(), cid_length, 0x5c);
        if (initial) {
            put_varint(packet, shape.token_length, varint_length(shape.token_length));
            packet.insert(packet.end(), shape.token_length, 0x70);
        }
        put_varint(packet, size + UDP_QUIC_TAG_LEN - shape.pn_offset(), 2);
    } else {
        packet.push_back(0x40 | low_bits);
        packet.insert(packet.end(), cid_length, 0xd1);
    }
    for (unsigned i = shape.pn_length; i-- > 0;)
        packet.push_back(static_cast<std::uint8_t>(pn >> (8 * i)));
    for (std::size_t i = 0; packet.size() < size; ++i) {
        const std::size_t block = i % 64;
        if (block < 48)
            packet.push_back(static_cast<std::uint8_t>(kPlaintextMarker[block % 8]));
        else if (block < 56)
            packet.push_back(static_cast<std::uint8_t>(pn >> (8 * (block - 48))));
        else if (block < 60)
            packet.push_back(static_cast<std::uint8_t>(salt >> (8 * (block - 56))));
        else
            packet.push_back(static_cast<std::uint8_t>(i / 64 >> (8 * (block % 2))));
    }
    packet.resize(size);
    return packet;
}

bool contains_plaintext(ByteView bytes) {
    // The marker repeats: a piece of the payload that starts anywhere shows a rotation of it.
    constexpr std::size_t kLength = kPlaintextMarker.size();
    const std::string twice = std::string(kPlaintextMarker) + std::string(kPlaintextMarker);
    for (std::size_t at = 0; at + kLength <= bytes.size(); ++at) {
        const std::size_t rotation = kPlaintextMarker.find(static_cast<char>(bytes[at]));
        if (rotation != std::string_view::npos &&
            std::equal(bytes.begin() + static_cast<std::ptrdiff_t>(at),
                       bytes.begin() + static_cast<std::ptrdiff_t>(at + kLength),
                       twice.begin() + static_cast<std::ptrdiff_t>(rotation)))
            return true;
    }
    return false;
}

} // namespace quic_test
