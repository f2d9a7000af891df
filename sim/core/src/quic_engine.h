// SPDX-License-Identifier: GPL-2.0
//
// QUIC packet protection (RFC 9001, section 5) as an adapter's inline engine does it: the packet
// number is given with every packet. The AEADs are Intel IPsec-MB's.
// Knows nothing of WQEs or of the SA database.
#pragma once

#include "secret.h"

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

struct IMB_MGR;
struct IMB_JOB;
struct gcm_key_data;
struct gcm_context_data;

namespace connectx {

/// The ciphers of RFC 9001. The values are the model's own.
enum class QuicCipher : std::uint8_t { kAes128Gcm, kAes256Gcm, kChaCha20Poly1305, kAes128Ccm };
inline constexpr unsigned kQuicCipherCount = 4;

inline constexpr std::size_t kQuicTagLength = 16;
inline constexpr std::size_t kQuicSampleLength = 16;
inline constexpr std::size_t kQuicIvLength = 12;
inline constexpr std::size_t kQuicMaxKeyLength = 32;
/// The sample starts where it would if the packet number had four bytes (RFC 9001, section 5.4.2).
inline constexpr std::size_t kQuicSampleOffset = 4;
inline constexpr std::uint64_t kQuicMaxPacketNumber = (1ULL << 62) - 1;

/// Length of packet key and header protection key, bytes; they are equal for all four.
constexpr std::size_t quic_key_length(QuicCipher cipher) {
    return cipher == QuicCipher::kAes128Gcm || cipher == QuicCipher::kAes128Ccm ? 16 : 32;
}

/// "quic key", "quic iv" and "quic hp" (RFC 9001, section 5.1). Keys shorter than their array fill
/// its start. Wiped on destruction; copies are copies of secrets.
struct QuicKeys {
    QuicCipher cipher = QuicCipher::kAes128Gcm;
    std::array<std::uint8_t, kQuicMaxKeyLength> key{};
    std::array<std::uint8_t, kQuicIvLength> iv{};
    std::array<std::uint8_t, kQuicMaxKeyLength> hp{};

    QuicKeys() = default;
    QuicKeys(const QuicKeys &) = default;
    QuicKeys &operator=(const QuicKeys &) = default;
    ~QuicKeys();
};

/// What can be computed from the keys alone. Made by QuicEngine::prepare(), wiped on destruction.
class QuicKeySchedule {
  public:
    QuicKeySchedule();
    QuicKeySchedule(const QuicKeySchedule &) = delete;
    QuicKeySchedule &operator=(const QuicKeySchedule &) = delete;
    ~QuicKeySchedule();

  private:
    friend class QuicEngine;
    static constexpr std::size_t kMaxRounds = 15;
    using AesKeys = std::array<std::uint8_t, 16 * kMaxRounds>;

    QuicKeys keys_;
    alignas(16) AesKeys payload_{}; ///< CCM
    alignas(16) AesKeys header_{};  ///< the AES ciphers
    std::unique_ptr<gcm_key_data> gcm_;
};

enum class QuicProtectResult {
    kOk,
    kTooShort,     ///< no room for packet number, tag and header protection sample
    kPacketNumber, ///< beyond 2^62 - 1
};

/// Not thread-safe: the library's manager has state.
class QuicEngine {
  public:
    /// Throws std::runtime_error when the library cannot run on this processor.
    QuicEngine();
    QuicEngine(const QuicEngine &) = delete;
    QuicEngine &operator=(const QuicEngine &) = delete;
    ~QuicEngine();

    [[nodiscard]] std::unique_ptr<QuicKeySchedule> prepare(const QuicKeys &keys);

    /// Encrypts a whole QUIC packet in place and protects its header. The last kQuicTagLength bytes
    /// of `packet` receive the tag; `pn_offset` is where the truncated packet number starts, whose
    /// length the first byte tells; `pn` is the full number. Unless the result is kOk the packet is
    /// as it was.
    QuicProtectResult protect(const QuicKeySchedule &schedule, std::span<std::uint8_t> packet,
                              std::size_t pn_offset, std::uint64_t pn);

    /// The two halves of protect(). seal() takes the plaintext packet from `source`, which is as
    /// long as `packet` and either the same memory or does not overlap it; others may write to it
    /// meanwhile, and then what is encrypted is what was there at some time. `packet` must not be
    /// anybody else's.
    QuicProtectResult seal(const QuicKeySchedule &schedule, std::span<std::uint8_t> packet,
                           std::span<const std::uint8_t> source, std::size_t pn_offset,
                           std::uint64_t pn);
    /// Protects the headers of packets that seal() accepted with the same arguments; at most
    /// kMaxHeaders.
    void protect_headers(const QuicKeySchedule &schedule,
                         std::span<const std::span<std::uint8_t>> packets, std::size_t pn_offset);
    static constexpr std::size_t kMaxHeaders = 32;

  private:
    using Block = std::array<std::uint8_t, 16>;
    using Nonce = std::array<std::uint8_t, kQuicIvLength>;

    void seal_gcm(const QuicKeySchedule &schedule, const Nonce &nonce,
                  std::span<const std::uint8_t> header, const std::uint8_t *plaintext,
                  std::span<std::uint8_t> payload, std::span<std::uint8_t> tag);
    void seal_chacha20(const QuicKeySchedule &schedule, const Nonce &nonce,
                       std::span<const std::uint8_t> header, const std::uint8_t *plaintext,
                       std::span<std::uint8_t> payload, std::span<std::uint8_t> tag);
    void seal_ccm(const QuicKeySchedule &schedule, const Nonce &nonce,
                  std::span<const std::uint8_t> header, std::span<std::uint8_t> payload,
                  std::span<std::uint8_t> tag);
    [[nodiscard]] static Block chacha20_mask(const QuicKeySchedule &schedule,
                                             std::span<const std::uint8_t> sample);
    /// Runs one AES job to its end; `mode` is an IMB_CIPHER_MODE.
    void aes(int mode, const QuicKeySchedule::AesKeys &round_keys, std::size_t key_length,
             std::span<const std::uint8_t> iv, std::span<const std::uint8_t> src,
             std::uint8_t *dst);

    struct FreeManager {
        void operator()(IMB_MGR *mgr) const;
    };
    std::unique_ptr<IMB_MGR, FreeManager> mgr_;
    std::unique_ptr<gcm_context_data> gcm_context_; ///< wiped once the packets at hand are done
};

} // namespace connectx
