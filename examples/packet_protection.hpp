// SPDX-License-Identifier: MIT
//
// The heart of the example: how a QUIC library leaves the protection of its 1-RTT packets to the
// kernel. One PacketProtection belongs to one connection and stands between ngtcp2 and its crypto:
//
//   TLS gives a traffic secret    -> install_first_key(): derive keys, install an SA
//   ngtcp2 prepares a key update  -> prepare_next_key(): the same, for the next key phase
//   ngtcp2 encrypts a packet      -> encrypt(): a 1-RTT packet of an SA stays as it is, with the
//                                    tag's 16 bytes of room behind it; its number is noted
//   ngtcp2 masks its header       -> hp_mask(): all zero for such a packet
//   sendmsg() refuses an SA       -> protect_in_user_space(): what ngtcp2 would have done at once
//
// Initial, Handshake and 0-RTT packets have long headers and are protected in user space, always.
#ifndef QUIC_SERVER_PACKET_PROTECTION_HPP
#define QUIC_SERVER_PACKET_PROTECTION_HPP

#include "stats.hpp"
#include "udp_quic_offload.hpp"

#include <ngtcp2/ngtcp2.h>
#include <ngtcp2/ngtcp2_crypto.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <vector>

namespace quic_server {

namespace offload = udp_quic_offload;

enum class PathChoice { kAuto, kKernel, kUser };

// How plaintext packets name their keys to the kernel.
enum class KeyForm { kIndex, kInline };

// What all connections of the server share.
struct OffloadPolicy {
    PathChoice path = PathChoice::kAuto;
    KeyForm key_form = KeyForm::kIndex;
    // Nothing: this kernel has no UDP_CRYPTO, or --path user.
    std::optional<offload::Capabilities> capabilities;
    std::uint32_t sa_flags = 0;
    std::uint64_t next_cookie = 1;
    bool verbose = false;
};

// The sending keys of one key phase. Shared by the connection and by batches that are not sent yet.
class TxKey {
  public:
    TxKey(offload::PacketKeys keys, const ngtcp2_crypto_aead &aead);
    ~TxKey();
    TxKey(const TxKey &) = delete;
    TxKey &operator=(const TxKey &) = delete;

    const offload::PacketKeys &keys() const { return keys_; }
    // Nothing: keys go inline, or the packets are protected in user space.
    const offload::SecurityAssociation *sa() const { return sa_ ? &*sa_ : nullptr; }
    bool in_kernel() const { return in_kernel_; }

    void use_kernel(std::optional<offload::SecurityAssociation> sa);
    // The kernel refused this key with errno @error: from now on its packets are protected in user
    // space. Unless the SA is gone or used up, it may have been the route, and routes change: after
    // some packets the kernel is asked again.
    void step_back(int error);
    // Whether the next packet is left to the kernel.
    bool leave_to_kernel();
    bool has_sa() const { return sa_.has_value(); }

    // Seals @packet, whose last 16 bytes are room for the tag, in place. The key schedule is made
    // at the first call: ngtcp2 may have dropped its own by then.
    bool seal(std::span<std::uint8_t> packet, std::size_t header_length, std::uint64_t pn);

  private:
    offload::PacketKeys keys_;
    std::optional<offload::SecurityAssociation> sa_;
    bool in_kernel_ = false;
    std::uint64_t in_user_space_ = 0; // packets still to be protected here; UINT64_MAX: all
    ngtcp2_crypto_aead aead_;
    ngtcp2_crypto_aead_ctx aead_ctx_{};
};

// A 1-RTT packet that ngtcp2 wrote and nobody has protected.
struct PlaintextPacket {
    std::shared_ptr<TxKey> key;
    std::uint64_t pn = 0;
    std::uint16_t pn_offset = 0;
};

// What became of the datagram of one write call.
struct WrittenDatagram {
    std::optional<PlaintextPacket> plaintext; // nothing: an ordinary datagram, ready to be sent
    std::uint32_t one_rtt_packets = 0;        // protected in user space
    bool has_long_header = false;
};

class PacketProtection {
  public:
    // @fd: the socket that SAs are made on; @policy and @stats outlive this object.
    PacketProtection(int fd, OffloadPolicy &policy, Stats &stats);
    ~PacketProtection();

    // ngtcp2_callbacks.encrypt and .hp_mask. They carry no user data, but are called from within a
    // write call only, so a WriteScope tells them the connection.
    static int encrypt(std::uint8_t *dest, const ngtcp2_crypto_aead *aead,
                       const ngtcp2_crypto_aead_ctx *aead_ctx, const std::uint8_t *plaintext,
                       std::size_t plaintext_length, const std::uint8_t *nonce,
                       std::size_t nonce_length, const std::uint8_t *aad, std::size_t aad_length);
    static int hp_mask(std::uint8_t *dest, const ngtcp2_crypto_cipher *hp,
                       const ngtcp2_crypto_cipher_ctx *hp_ctx, const std::uint8_t *sample);

    // The first 1-RTT sending key: derived from @secret and installed in @conn.
    // False: ngtcp2 refused, or there has to be an SA (--path kernel) and there is none.
    bool install_first_key(ngtcp2_conn *conn, offload::Cipher cipher,
                           std::span<const std::uint8_t> secret);

    // ngtcp2_callbacks.update_key: both directions' next keys, and the SA of the sending one.
    bool prepare_next_key(ngtcp2_conn *conn, std::uint8_t *rx_secret, std::uint8_t *tx_secret,
                          ngtcp2_crypto_aead_ctx *rx_aead_ctx, std::uint8_t *rx_iv,
                          ngtcp2_crypto_aead_ctx *tx_aead_ctx, std::uint8_t *tx_iv,
                          const std::uint8_t *current_rx_secret,
                          const std::uint8_t *current_tx_secret, std::size_t secret_length);

    // ngtcp2 drops @aead_ctx. When it was a sending key of ours, that key is given back: packets in
    // a queue below the socket may still need its SA.
    std::shared_ptr<TxKey> forget_key(const ngtcp2_crypto_aead_ctx *aead_ctx);
    // The same for all keys, at the end of the connection.
    std::vector<std::shared_ptr<TxKey>> forget_all_keys();

    // Protects what encrypt() left in plaintext. False: the TLS library failed.
    bool protect_in_user_space(std::span<std::uint8_t> packet, const PlaintextPacket &plaintext);

    // Packets sealed with the current key, by whomever.
    std::uint64_t packets_under_key() const { return packets_under_key_; }
    bool uses_kernel() const { return uses_kernel_; }

  private:
    friend class WriteScope;

    struct KeyPhase {
        const void *aead_handle; // ngtcp2's; null until the first packet shows it
        std::shared_ptr<TxKey> key;
    };

    std::shared_ptr<TxKey> make_key(const ngtcp2_conn *conn, std::span<const std::uint8_t> key,
                                    std::span<const std::uint8_t, UDP_QUIC_IV_LEN> iv);
    KeyPhase *find_phase(const void *aead_handle);
    bool leave_in_plaintext(const ngtcp2_crypto_aead_ctx *aead_ctx,
                            std::span<const std::uint8_t> nonce,
                            std::span<const std::uint8_t> header);

    int fd_;
    OffloadPolicy &policy_;
    Stats &stats_;
    bool uses_kernel_;
    offload::Cipher cipher_{};
    std::vector<std::uint8_t> hp_key_; // the same in every key phase (RFC 9001 section 6)
    std::vector<KeyPhase> phases_;     // at most two: current and next
    const void *current_handle_ = nullptr;
    std::uint64_t packets_under_key_ = 0;

    // To mask headers later, in protect_in_user_space().
    ngtcp2_crypto_cipher hp_{};
    ngtcp2_crypto_cipher_ctx hp_ctx_{};

    // Of the write call in progress
    const std::uint8_t *datagram_ = nullptr;
    bool force_user_space_ = false;
    bool mask_with_zeros_ = false;
    WrittenDatagram written_;
};

// Lives around one ngtcp2 call that writes a datagram.
class WriteScope {
  public:
    // @datagram: where the call writes to.
    // @force_user_space: the datagram will be kept and sent again as it is, so it has to be
    //   protected once and for all.
    WriteScope(PacketProtection &protection, const std::uint8_t *datagram,
               bool force_user_space = false);
    ~WriteScope();
    WriteScope(const WriteScope &) = delete;
    WriteScope &operator=(const WriteScope &) = delete;

    WrittenDatagram take();

  private:
    PacketProtection &protection_;
};

} // namespace quic_server

#endif
