// SPDX-License-Identifier: MIT
#include "packet_protection.hpp"

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdio>
#include <cstring>

namespace quic_server {

namespace {

// The connection whose write call is in progress on this thread.
thread_local PacketProtection *writing = nullptr;

// RFC 9001 section 5.3: the nonce is the IV with the packet number added by XOR.
std::array<std::uint8_t, UDP_QUIC_IV_LEN>
make_nonce(std::span<const std::uint8_t, UDP_QUIC_IV_LEN> iv, std::uint64_t pn) {
    std::array<std::uint8_t, UDP_QUIC_IV_LEN> nonce{};
    std::copy(iv.begin(), iv.end(), nonce.begin());
    for (std::size_t i = 0; i < sizeof(pn); ++i)
        nonce[nonce.size() - 1 - i] ^= static_cast<std::uint8_t>(pn >> (8 * i));
    return nonce;
}

} // namespace

TxKey::TxKey(offload::PacketKeys keys, const ngtcp2_crypto_aead &aead)
    : keys_(std::move(keys)), aead_(aead) {}

TxKey::~TxKey() { ngtcp2_crypto_aead_ctx_free(&aead_ctx_); }

void TxKey::use_kernel(std::optional<offload::SecurityAssociation> sa) {
    sa_ = std::move(sa);
    in_kernel_ = true;
    in_user_space_ = 0;
}

void TxKey::step_back(int error) {
    constexpr std::uint64_t kAskAgain = 1000;
    const bool gone = error == ENOENT || error == EACCES || error == EKEYEXPIRED;
    in_user_space_ = gone ? UINT64_MAX : kAskAgain;
}

bool TxKey::leave_to_kernel() {
    if (!in_kernel_ || in_user_space_ == UINT64_MAX)
        return false;
    return in_user_space_ == 0 || --in_user_space_ == 0;
}

bool TxKey::seal(std::span<std::uint8_t> packet, std::size_t header_length, std::uint64_t pn) {
    if (packet.size() < header_length + offload::kTagLength)
        return false;
    if (!aead_ctx_.native_handle &&
        ngtcp2_crypto_aead_ctx_encrypt_init(&aead_ctx_, &aead_, keys_.key().data(),
                                            UDP_QUIC_IV_LEN) != 0)
        return false;
    const auto nonce = make_nonce(keys_.iv(), pn);
    std::uint8_t *payload = packet.data() + header_length;
    return ngtcp2_crypto_encrypt(payload, &aead_, &aead_ctx_, payload,
                                 packet.size() - header_length - offload::kTagLength, nonce.data(),
                                 nonce.size(), packet.data(), header_length) == 0;
}

PacketProtection::PacketProtection(int fd, OffloadPolicy &policy, Stats &stats)
    : fd_(fd), policy_(policy), stats_(stats),
      uses_kernel_(policy.path != PathChoice::kUser && policy.capabilities.has_value()) {}

PacketProtection::~PacketProtection() { explicit_bzero(hp_key_.data(), hp_key_.size()); }

bool PacketProtection::install_first_key(ngtcp2_conn *conn, offload::Cipher cipher,
                                         std::span<const std::uint8_t> secret) {
    std::array<std::uint8_t, UDP_QUIC_KEY_MAX> key{};
    std::array<std::uint8_t, UDP_QUIC_KEY_MAX> hp_key{};
    std::array<std::uint8_t, UDP_QUIC_IV_LEN> iv{};
    // Derives "quic key", "quic iv" and "quic hp", gives them to ngtcp2, and to us.
    if (ngtcp2_crypto_derive_and_install_tx_key(conn, key.data(), iv.data(), hp_key.data(),
                                                NGTCP2_CRYPTO_LEVEL_APPLICATION, secret.data(),
                                                secret.size()) != 0)
        return false;

    cipher_ = cipher;
    const std::size_t length = offload::key_length(cipher);
    hp_key_.assign(hp_key.begin(), hp_key.begin() + static_cast<std::ptrdiff_t>(length));
    auto tx_key = make_key(conn, std::span(key).first(length), iv);
    explicit_bzero(key.data(), key.size());
    explicit_bzero(hp_key.data(), hp_key.size());
    if (!tx_key)
        return false;
    ++(tx_key->in_kernel() ? stats_.connections_kernel : stats_.connections_user);
    // ngtcp2 does not tell which handle it made; the first packet will.
    phases_.push_back({nullptr, std::move(tx_key)});
    return true;
}

bool PacketProtection::prepare_next_key(ngtcp2_conn *conn, std::uint8_t *rx_secret,
                                        std::uint8_t *tx_secret,
                                        ngtcp2_crypto_aead_ctx *rx_aead_ctx, std::uint8_t *rx_iv,
                                        ngtcp2_crypto_aead_ctx *tx_aead_ctx, std::uint8_t *tx_iv,
                                        const std::uint8_t *current_rx_secret,
                                        const std::uint8_t *current_tx_secret,
                                        std::size_t secret_length) {
    std::array<std::uint8_t, UDP_QUIC_KEY_MAX> rx_key{};
    std::array<std::uint8_t, UDP_QUIC_KEY_MAX> tx_key{};
    if (ngtcp2_crypto_update_key(conn, rx_secret, tx_secret, rx_aead_ctx, rx_key.data(), rx_iv,
                                 tx_aead_ctx, tx_key.data(), tx_iv, current_rx_secret,
                                 current_tx_secret, secret_length) != 0)
        return false;
    auto next = make_key(conn, std::span(tx_key).first(offload::key_length(cipher_)),
                         std::span<const std::uint8_t, UDP_QUIC_IV_LEN>(tx_iv, UDP_QUIC_IV_LEN));
    explicit_bzero(rx_key.data(), rx_key.size());
    explicit_bzero(tx_key.data(), tx_key.size());
    if (!next)
        return false;
    phases_.push_back({tx_aead_ctx->native_handle, std::move(next)});
    return true;
}

std::shared_ptr<TxKey>
PacketProtection::make_key(const ngtcp2_conn *conn, std::span<const std::uint8_t> key,
                           std::span<const std::uint8_t, UDP_QUIC_IV_LEN> iv) {
    auto keys = offload::PacketKeys::make(cipher_, key, iv, hp_key_);
    if (!keys)
        return nullptr;
    // The getter takes no const connection, although it changes nothing.
    const auto *context = ngtcp2_conn_get_crypto_ctx(const_cast<ngtcp2_conn *>(conn)); // NOLINT
    hp_ = context->hp;
    auto tx_key = std::make_shared<TxKey>(*keys, context->aead);
    if (!uses_kernel_)
        return tx_key;

    int error = ENOPKG;
    if (policy_.capabilities->has(cipher_)) {
        if (policy_.key_form == KeyForm::kInline) {
            tx_key->use_kernel(std::nullopt);
            return tx_key;
        }
        auto sa = offload::SecurityAssociation::install(fd_, policy_.next_cookie++, *keys,
                                                        offload::confidentiality_limit(cipher_),
                                                        policy_.sa_flags);
        if (sa) {
            ++stats_.sas_installed;
            tx_key->use_kernel(std::move(*sa));
            return tx_key;
        }
        error = sa.error();
    }

    // No SA. The rule: never fail a connection for that, go on in user space.
    ++stats_.sa_install_errors[error];
    if (policy_.verbose || policy_.path == PathChoice::kKernel)
        std::fprintf(stderr, "no security association: %s\n", std::strerror(error));
    return policy_.path == PathChoice::kKernel ? nullptr : tx_key;
}

PacketProtection::KeyPhase *PacketProtection::find_phase(const void *aead_handle) {
    auto found = std::find_if(phases_.begin(), phases_.end(), [&](const KeyPhase &phase) {
        return phase.aead_handle == aead_handle;
    });
    if (found == phases_.end()) {
        // The first key, seen for the first time.
        found = std::find_if(phases_.begin(), phases_.end(),
                             [](const KeyPhase &phase) { return !phase.aead_handle; });
        if (found == phases_.end())
            return nullptr;
        found->aead_handle = aead_handle;
    }
    return &*found;
}

std::shared_ptr<TxKey> PacketProtection::forget_key(const ngtcp2_crypto_aead_ctx *aead_ctx) {
    const auto found = std::find_if(phases_.begin(), phases_.end(), [&](const KeyPhase &phase) {
        return phase.aead_handle && phase.aead_handle == aead_ctx->native_handle;
    });
    if (found == phases_.end())
        return nullptr;
    auto key = std::move(found->key);
    phases_.erase(found);
    return key;
}

std::vector<std::shared_ptr<TxKey>> PacketProtection::forget_all_keys() {
    std::vector<std::shared_ptr<TxKey>> keys;
    for (auto &phase : phases_)
        keys.push_back(std::move(phase.key));
    phases_.clear();
    return keys;
}

bool PacketProtection::leave_in_plaintext(const ngtcp2_crypto_aead_ctx *aead_ctx,
                                          std::span<const std::uint8_t> nonce,
                                          std::span<const std::uint8_t> header) {
    if (aead_ctx->native_handle != current_handle_) {
        current_handle_ = aead_ctx->native_handle;
        packets_under_key_ = 0;
    }
    ++packets_under_key_;

    const KeyPhase *phase = find_phase(aead_ctx->native_handle);
    // One plaintext packet per datagram: a 1-RTT packet that ngtcp2 put behind a Handshake packet
    // in the same datagram is protected here.
    if (!phase || force_user_space_ || header.data() != datagram_ || !phase->key->leave_to_kernel())
        return false;
    const auto pn = offload::packet_number_of_nonce(nonce, phase->key->keys().iv());
    if (!pn)
        return false;
    written_.plaintext = PlaintextPacket{
        phase->key, *pn,
        static_cast<std::uint16_t>(header.size() - offload::packet_number_length(header[0]))};
    return true;
}

int PacketProtection::encrypt(std::uint8_t *dest, const ngtcp2_crypto_aead *aead,
                              const ngtcp2_crypto_aead_ctx *aead_ctx, const std::uint8_t *plaintext,
                              std::size_t plaintext_length, const std::uint8_t *nonce,
                              std::size_t nonce_length, const std::uint8_t *aad,
                              std::size_t aad_length) {
    // The associated data is the packet's header: it says what kind of packet this is. (Retry
    // packets are made outside of a write call.)
    if (writing) {
        writing->mask_with_zeros_ = false;
        if (!offload::is_short_header(aad[0])) {
            writing->written_.has_long_header = true;
        } else if (writing->leave_in_plaintext(aead_ctx, {nonce, nonce_length},
                                               {aad, aad_length})) {
            writing->mask_with_zeros_ = true;
            // ngtcp2 encrypts in place: the packet is where it has to be, and the bytes of the tag
            // are room that ngtcp2 has reserved.
            if (dest != plaintext)
                std::memmove(dest, plaintext, plaintext_length);
            return 0;
        } else {
            ++writing->written_.one_rtt_packets;
        }
    }
    return ngtcp2_crypto_encrypt_cb(dest, aead, aead_ctx, plaintext, plaintext_length, nonce,
                                    nonce_length, aad, aad_length);
}

int PacketProtection::hp_mask(std::uint8_t *dest, const ngtcp2_crypto_cipher *hp,
                              const ngtcp2_crypto_cipher_ctx *hp_ctx, const std::uint8_t *sample) {
    // ngtcp2 calls encrypt() and hp_mask() for a packet one after the other. Received packets are
    // unmasked outside of write calls.
    if (writing && writing->mask_with_zeros_) {
        writing->mask_with_zeros_ = false;
        writing->hp_ctx_ = *hp_ctx;
        std::memset(dest, 0, NGTCP2_HP_MASKLEN);
        return 0;
    }
    return ngtcp2_crypto_hp_mask_cb(dest, hp, hp_ctx, sample);
}

bool PacketProtection::protect_in_user_space(std::span<std::uint8_t> packet,
                                             const PlaintextPacket &plaintext) {
    const std::size_t pn_length = offload::packet_number_length(packet[0]);
    const std::size_t sample_offset = plaintext.pn_offset + std::size_t{4};
    if (packet.size() < sample_offset + UDP_QUIC_SAMPLE_LEN || !hp_ctx_.native_handle ||
        !plaintext.key->seal(packet, plaintext.pn_offset + pn_length, plaintext.pn))
        return false;

    std::array<std::uint8_t, UDP_QUIC_SAMPLE_LEN> mask{};
    if (ngtcp2_crypto_hp_mask(mask.data(), &hp_, &hp_ctx_, &packet[sample_offset]) != 0)
        return false;
    mask[0] &= 0x1f; // RFC 9001 section 5.4.1, short header
    packet[0] ^= mask[0];
    for (std::size_t i = 0; i < pn_length; ++i)
        packet[plaintext.pn_offset + i] ^= mask[1 + i];
    ++stats_.stepped_back;
    return true;
}

WriteScope::WriteScope(PacketProtection &protection, const std::uint8_t *datagram,
                       bool force_user_space)
    : protection_(protection) {
    protection_.datagram_ = datagram;
    protection_.force_user_space_ = force_user_space;
    writing = &protection_;
}

WriteScope::~WriteScope() { writing = nullptr; }

WrittenDatagram WriteScope::take() { return std::exchange(protection_.written_, {}); }

} // namespace quic_server
