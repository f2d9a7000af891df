// SPDX-License-Identifier: GPL-2.0
#include "user_protection.h"

#include <algorithm>
#include <stdexcept>

#include <openssl/core_names.h>
#include <openssl/params.h>

namespace quic_bench {

namespace {

void require(bool done, const char *what) {
    if (!done)
        throw std::runtime_error(std::string("OpenSSL: ") + what);
}

} // namespace

UserProtection::UserProtection(const quic_test::PacketKeys &keys)
    : chacha20_(keys.cipher == quic_test::Cipher::kChaCha20Poly1305) {
    std::copy(keys.iv.begin(), keys.iv.end(), iv_.begin());
    const bool long_key = keys.key.size() == 32;
    aead_algorithm_.reset(EVP_CIPHER_fetch(
        nullptr, chacha20_ ? "ChaCha20-Poly1305" : (long_key ? "AES-256-GCM" : "AES-128-GCM"),
        nullptr));
    mask_algorithm_.reset(EVP_CIPHER_fetch(
        nullptr, chacha20_ ? "ChaCha20" : (long_key ? "AES-256-ECB" : "AES-128-ECB"), nullptr));
    aead_.reset(EVP_CIPHER_CTX_new());
    mask_.reset(EVP_CIPHER_CTX_new());
    require(aead_algorithm_ && mask_algorithm_ && aead_ && mask_, "ciphers");
    require(EVP_EncryptInit_ex2(aead_.get(), aead_algorithm_.get(), keys.key.data(), nullptr,
                                nullptr) == 1,
            "packet key");
    const std::array<std::uint8_t, 16> no_iv{};
    require(EVP_EncryptInit_ex2(mask_.get(), mask_algorithm_.get(), keys.hp.data(),
                                chacha20_ ? no_iv.data() : nullptr, nullptr) == 1,
            "header protection key");
    require(EVP_CIPHER_CTX_set_padding(mask_.get(), 0) == 1, "padding");
}

void UserProtection::seal(std::uint8_t *packet, std::uint64_t pn) {
    auto nonce = iv_;
    for (std::size_t i = 0; i < sizeof(pn); ++i)
        nonce[nonce.size() - 1 - i] ^= static_cast<std::uint8_t>(pn >> (8 * i));
    std::uint8_t *payload = packet + kHeaderSize;
    std::uint8_t *tag = packet + kPlainSize;
    int length = 0;
    bool done = EVP_EncryptInit_ex2(aead_.get(), nullptr, nullptr, nonce.data(), nullptr) == 1;
    done &= EVP_EncryptUpdate(aead_.get(), nullptr, &length, packet, kHeaderSize) == 1;
    done &= EVP_EncryptUpdate(aead_.get(), payload, &length, payload,
                              static_cast<int>(kPlainSize - kHeaderSize)) == 1;
    done &= EVP_EncryptFinal_ex(aead_.get(), tag, &length) == 1;
    // What EVP_CIPHER_CTX_ctrl(EVP_CTRL_AEAD_GET_TAG) does, without the detour.
    OSSL_PARAM wanted[] = {
        OSSL_PARAM_construct_octet_string(OSSL_CIPHER_PARAM_AEAD_TAG, tag, UDP_QUIC_TAG_LEN),
        OSSL_PARAM_construct_end()};
    done &= EVP_CIPHER_CTX_get_params(aead_.get(), wanted) == 1;
    require(done, "seal");
}

void UserProtection::make_masks(const std::uint8_t *batch, unsigned packets) {
    const std::uint8_t *sample = batch + kPnOffset + 4;
    int length = 0;
    bool done = true;
    if (chacha20_) {
        static constexpr std::array<std::uint8_t, 5> kZeros{};
        for (unsigned i = 0; i < packets; ++i, sample += kWireSize) {
            done &= EVP_EncryptInit_ex2(mask_.get(), nullptr, nullptr, sample, nullptr) == 1;
            done &= EVP_EncryptUpdate(mask_.get(), &masks_[i * kSample], &length, kZeros.data(),
                                      kZeros.size()) == 1;
        }
    } else {
        for (unsigned i = 0; i < packets; ++i, sample += kWireSize)
            std::memcpy(&samples_[i * kSample], sample, kSample);
        done = EVP_EncryptUpdate(mask_.get(), masks_.data(), &length, samples_.data(),
                                 static_cast<int>(packets * kSample)) == 1;
    }
    require(done, "header protection");
}

void UserProtection::protect(std::uint8_t *batch, unsigned packets, std::uint64_t pn) {
    for (unsigned i = 0; i < packets; ++i)
        seal(batch + i * kWireSize, pn + i);
    make_masks(batch, packets);
    for (unsigned i = 0; i < packets; ++i) {
        std::uint8_t *packet = batch + i * kWireSize;
        const std::uint8_t *mask = &masks_[i * kSample];
        packet[0] ^= mask[0] & 0x1f;
        std::uint32_t number = 0;
        std::uint32_t number_mask = 0;
        std::memcpy(&number, packet + kPnOffset, kPnLength);
        std::memcpy(&number_mask, mask + 1, kPnLength);
        number ^= number_mask;
        std::memcpy(packet + kPnOffset, &number, kPnLength);
    }
}

} // namespace quic_bench
