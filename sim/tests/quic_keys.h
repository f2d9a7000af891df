// SPDX-License-Identifier: GPL-2.0
//
// From the reference's keys to the engine's.
#pragma once

#include "quic_engine.h"

#include <quic_reference.h>

#include <algorithm>

namespace connectx::test {

inline QuicCipher engine_cipher(quic_test::Cipher cipher) {
    switch (cipher) {
    case quic_test::Cipher::kAes128Gcm:
        return QuicCipher::kAes128Gcm;
    case quic_test::Cipher::kAes256Gcm:
        return QuicCipher::kAes256Gcm;
    case quic_test::Cipher::kChaCha20Poly1305:
        return QuicCipher::kChaCha20Poly1305;
    case quic_test::Cipher::kAes128Ccm:
        break;
    }
    return QuicCipher::kAes128Ccm;
}

inline QuicKeys engine_keys(const quic_test::PacketKeys &from) {
    QuicKeys keys;
    keys.cipher = engine_cipher(from.cipher);
    std::copy(from.key.begin(), from.key.end(), keys.key.begin());
    std::copy(from.iv.begin(), from.iv.end(), keys.iv.begin());
    std::copy(from.hp.begin(), from.hp.end(), keys.hp.begin());
    return keys;
}

} // namespace connectx::test
