// SPDX-License-Identifier: GPL-2.0
//
// Packet protection in user space with OpenSSL, as cheap as its interface lets it be: contexts with
// the keys set up once, only the nonce per packet, encryption in place, and one AES-ECB call for
// the header protection masks of a whole batch. (ChaCha20 takes its counter and nonce from each
// sample, so that there is a call for each.)
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

#include <openssl/evp.h>

#include "packets.h"
#include "quic_reference.h"

namespace quic_bench {

class UserProtection {
  public:
    // AES-128-GCM, AES-256-GCM or ChaCha20-Poly1305.
    explicit UserProtection(const quic_test::PacketKeys &keys);

    // @batch: @packets packets of kWireSize bytes, the last UDP_QUIC_TAG_LEN of each room for the
    // tag; @pn: of the first.
    void protect(std::uint8_t *batch, unsigned packets, std::uint64_t pn);

  private:
    struct Free {
        void operator()(EVP_CIPHER_CTX *context) const { EVP_CIPHER_CTX_free(context); }
        void operator()(EVP_CIPHER *cipher) const { EVP_CIPHER_free(cipher); }
    };
    using Context = std::unique_ptr<EVP_CIPHER_CTX, Free>;
    using Algorithm = std::unique_ptr<EVP_CIPHER, Free>;

    void seal(std::uint8_t *packet, std::uint64_t pn);
    void make_masks(const std::uint8_t *batch, unsigned packets);

    static constexpr std::size_t kSample = UDP_QUIC_SAMPLE_LEN;
    bool chacha20_;
    std::array<std::uint8_t, UDP_QUIC_IV_LEN> iv_{};
    Algorithm aead_algorithm_;
    Algorithm mask_algorithm_;
    Context aead_;
    Context mask_;
    alignas(64) std::array<std::uint8_t, kMaxPackets * kSample> samples_{};
    alignas(64) std::array<std::uint8_t, kMaxPackets * kSample> masks_{};
};

} // namespace quic_bench
