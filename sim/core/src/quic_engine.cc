// SPDX-License-Identifier: GPL-2.0
#include "quic_engine.h"

#include <intel-ipsec-mb.h>
#include <nettle/chacha.h>

#include <algorithm>
#include <cstring>
#include <stdexcept>
#include <string>
#include <vector>

namespace connectx {

void wipe(std::span<std::uint8_t> memory) { imb_clear_mem(memory.data(), memory.size()); }

namespace {

template <typename T> void wipe_object(T &object) {
    wipe({reinterpret_cast<std::uint8_t *>(&object), sizeof(object)});
}

} // namespace

QuicKeys::~QuicKeys() {
    wipe(key);
    wipe(iv);
    wipe(hp);
}

QuicKeySchedule::QuicKeySchedule() = default;

QuicKeySchedule::~QuicKeySchedule() {
    wipe(payload_);
    wipe(header_);
    if (gcm_)
        wipe_object(*gcm_);
}

void QuicEngine::FreeManager::operator()(IMB_MGR *mgr) const { free_mb_mgr(mgr); }

QuicEngine::QuicEngine()
    : mgr_(alloc_mb_mgr(0)), gcm_context_(std::make_unique<gcm_context_data>()) {
    if (!mgr_)
        throw std::runtime_error("IPsec-MB: no manager");
    init_mb_mgr_auto(mgr_.get(), nullptr);
    if (const int error = imb_get_errno(mgr_.get()); error != 0)
        throw std::runtime_error(std::string("IPsec-MB: ") + imb_get_strerror(error));
}

QuicEngine::~QuicEngine() { wipe_object(*gcm_context_); }

std::unique_ptr<QuicKeySchedule> QuicEngine::prepare(const QuicKeys &keys) {
    auto schedule = std::make_unique<QuicKeySchedule>();
    schedule->keys_ = keys;
    alignas(16) QuicKeySchedule::AesKeys decryption{}; // the library insists on making it too
    switch (keys.cipher) {
    case QuicCipher::kAes128Gcm:
        schedule->gcm_ = std::make_unique<gcm_key_data>();
        IMB_AES128_GCM_PRE(mgr_.get(), keys.key.data(), schedule->gcm_.get());
        IMB_AES_KEYEXP_128(mgr_.get(), keys.hp.data(), schedule->header_.data(), decryption.data());
        break;
    case QuicCipher::kAes256Gcm:
        schedule->gcm_ = std::make_unique<gcm_key_data>();
        IMB_AES256_GCM_PRE(mgr_.get(), keys.key.data(), schedule->gcm_.get());
        IMB_AES_KEYEXP_256(mgr_.get(), keys.hp.data(), schedule->header_.data(), decryption.data());
        break;
    case QuicCipher::kAes128Ccm:
        IMB_AES_KEYEXP_128(mgr_.get(), keys.key.data(), schedule->payload_.data(),
                           decryption.data());
        IMB_AES_KEYEXP_128(mgr_.get(), keys.hp.data(), schedule->header_.data(), decryption.data());
        break;
    case QuicCipher::kChaCha20Poly1305:
        break; // has no schedule
    }
    wipe(decryption);
    return schedule;
}

void QuicEngine::aes(int mode, const QuicKeySchedule::AesKeys &round_keys, std::size_t key_length,
                     std::span<const std::uint8_t> iv, std::span<const std::uint8_t> src,
                     std::uint8_t *dst) {
    IMB_JOB *job = IMB_GET_NEXT_JOB(mgr_.get());
    *job = {};
    job->cipher_mode = static_cast<IMB_CIPHER_MODE>(mode);
    job->cipher_direction = IMB_DIR_ENCRYPT;
    job->chain_order = IMB_ORDER_CIPHER_HASH;
    job->hash_alg = IMB_AUTH_NULL;
    job->enc_keys = round_keys.data();
    job->dec_keys = round_keys.data();
    job->key_len_in_bytes = key_length;
    job->iv = iv.data();
    job->iv_len_in_bytes = iv.size();
    job->src = src.data();
    job->dst = dst;
    job->msg_len_to_cipher_in_bytes = src.size();
    IMB_JOB *done = IMB_SUBMIT_JOB(mgr_.get());
    while (done == nullptr)
        done = IMB_FLUSH_JOB(mgr_.get()); // one job does not fill the library's lanes
    if (done->status != IMB_STATUS_COMPLETED)
        throw std::logic_error("IPsec-MB refused an AES job");
}

void QuicEngine::seal_gcm(const QuicKeySchedule &schedule, const Nonce &nonce,
                          std::span<const std::uint8_t> header, const std::uint8_t *plaintext,
                          std::span<std::uint8_t> payload, std::span<std::uint8_t> tag) {
    const auto seal = schedule.keys_.cipher == QuicCipher::kAes128Gcm ? mgr_->gcm128_enc //
                                                                      : mgr_->gcm256_enc;
    seal(schedule.gcm_.get(), gcm_context_.get(), payload.data(), plaintext, payload.size(),
         nonce.data(), header.data(), header.size(), tag.data(), tag.size());
}

void QuicEngine::seal_chacha20(const QuicKeySchedule &schedule, const Nonce &nonce,
                               std::span<const std::uint8_t> header, const std::uint8_t *plaintext,
                               std::span<std::uint8_t> payload, std::span<std::uint8_t> tag) {
    chacha20_poly1305_context_data context;
    IMB_CHACHA20_POLY1305_INIT(mgr_.get(), schedule.keys_.key.data(), &context, nonce.data(),
                               header.data(), header.size());
    if (!payload.empty())
        IMB_CHACHA20_POLY1305_ENC_UPDATE(mgr_.get(), schedule.keys_.key.data(), &context,
                                         payload.data(), plaintext, payload.size());
    IMB_CHACHA20_POLY1305_ENC_FINALIZE(mgr_.get(), &context, tag.data(), tag.size());
    wipe_object(context);
}

// CCM (RFC 3610, with L = 3 and M = 16 as for AEAD_AES_128_CCM of RFC 5116) out of the library's
// CBC and counter modes: its own CCM takes 46 bytes of associated data at most, and a long header
// with two connection IDs of 20 bytes has more.
void QuicEngine::seal_ccm(const QuicKeySchedule &schedule, const Nonce &nonce,
                          std::span<const std::uint8_t> header, std::span<std::uint8_t> payload,
                          std::span<std::uint8_t> tag) {
    constexpr std::size_t kBlock = 16;
    constexpr std::uint8_t kLengthField = 3;
    constexpr std::uint8_t kFlags =
        1 << 6 | (kQuicTagLength - 2) / 2 << 3 | (kLengthField - 1); // associated data follow
    const auto pad = [](std::size_t n) { return (n + kBlock - 1) / kBlock * kBlock; };

    // B_0, the associated data behind their length, the payload: each padded to blocks.
    std::vector<std::uint8_t> mac(kBlock + pad(2 + header.size()) + pad(payload.size()));
    mac[0] = kFlags;
    std::copy(nonce.begin(), nonce.end(), mac.begin() + 1);
    mac[13] = static_cast<std::uint8_t>(payload.size() >> 16);
    mac[14] = static_cast<std::uint8_t>(payload.size() >> 8);
    mac[15] = static_cast<std::uint8_t>(payload.size());
    mac[16] = static_cast<std::uint8_t>(header.size() >> 8);
    mac[17] = static_cast<std::uint8_t>(header.size());
    std::copy(header.begin(), header.end(), mac.begin() + 18);
    std::copy(payload.begin(), payload.end(),
              mac.begin() + static_cast<std::ptrdiff_t>(kBlock + pad(2 + header.size())));
    // In pieces: the library's CBC takes less than 64 KiB at once.
    constexpr std::size_t kPiece = std::size_t{32} << 10;
    Block chain{};
    for (std::size_t at = 0; at < mac.size(); at += kPiece) {
        const auto piece = std::span(mac).subspan(at, std::min(kPiece, mac.size() - at));
        aes(IMB_CIPHER_CBC, schedule.payload_, 16, chain, piece, piece.data());
        std::copy_n(piece.end() - kBlock, kBlock, chain.begin());
    }

    Block counter{kLengthField - 1};
    std::copy(nonce.begin(), nonce.end(), counter.begin() + 1);
    aes(IMB_CIPHER_CNTR, schedule.payload_, 16, counter, chain, tag.data());
    if (!payload.empty()) {
        counter.back() = 1;
        aes(IMB_CIPHER_CNTR, schedule.payload_, 16, counter, payload, payload.data());
    }
    wipe(mac);
}

QuicEngine::Block QuicEngine::chacha20_mask(const QuicKeySchedule &schedule,
                                            std::span<const std::uint8_t> sample) {
    // The sample's first four bytes are the block counter, which IPsec-MB does not let one choose.
    Block mask{};
    chacha_ctx context;
    chacha_set_key(&context, schedule.keys_.hp.data());
    chacha_set_nonce96(&context, sample.data() + CHACHA_COUNTER32_SIZE);
    chacha_set_counter32(&context, sample.data());
    chacha_crypt32(&context, mask.size(), mask.data(), mask.data());
    wipe_object(context);
    return mask;
}

QuicProtectResult QuicEngine::seal(const QuicKeySchedule &schedule, std::span<std::uint8_t> packet,
                                   std::span<const std::uint8_t> source, std::size_t pn_offset,
                                   std::uint64_t pn) {
    constexpr std::size_t kAroundPn = kQuicSampleOffset + kQuicSampleLength;
    if (pn_offset == 0 || packet.size() < kAroundPn || pn_offset > packet.size() - kAroundPn)
        return QuicProtectResult::kTooShort;
    if (pn > kQuicMaxPacketNumber)
        return QuicProtectResult::kPacketNumber;

    // The header is taken over before it is looked at: the source may change. The longest that it
    // can be; what is too much of it is overwritten by ciphertext.
    const bool in_place = source.data() == packet.data();
    if (!in_place)
        std::memcpy(packet.data(), source.data(), pn_offset + kQuicSampleOffset);
    const std::size_t pn_length = (packet[0] & 3) + 1U;
    const std::size_t header_length = pn_offset + pn_length;
    const auto header = packet.first(header_length);
    const auto payload =
        packet.subspan(header_length, packet.size() - header_length - kQuicTagLength);
    const auto tag = packet.last(kQuicTagLength);
    const std::uint8_t *plaintext = source.data() + header_length;

    Nonce nonce = schedule.keys_.iv;
    for (std::size_t i = 0; i < sizeof(pn); ++i)
        nonce[nonce.size() - 1 - i] ^= static_cast<std::uint8_t>(pn >> (8 * i));
    switch (schedule.keys_.cipher) {
    case QuicCipher::kAes128Gcm:
    case QuicCipher::kAes256Gcm:
        seal_gcm(schedule, nonce, header, plaintext, payload, tag);
        break;
    case QuicCipher::kChaCha20Poly1305:
        seal_chacha20(schedule, nonce, header, plaintext, payload, tag);
        break;
    case QuicCipher::kAes128Ccm:
        // Reads its plaintext twice.
        if (!in_place)
            std::copy_n(plaintext, payload.size(), payload.begin());
        seal_ccm(schedule, nonce, header, payload, tag);
        break;
    }
    return QuicProtectResult::kOk;
}

void QuicEngine::protect_headers(const QuicKeySchedule &schedule,
                                 std::span<const std::span<std::uint8_t>> packets,
                                 std::size_t pn_offset) {
    constexpr std::uint8_t kLongHeader = 0x80;
    if (packets.size() > kMaxHeaders)
        throw std::length_error("QUIC headers");
    if (packets.empty())
        return;
    wipe_object(*gcm_context_);
    // The samples become the masks, all in one job.
    alignas(64) std::array<Block, kMaxHeaders> masks;
    static_assert(sizeof(Block) == kQuicSampleLength);
    for (std::size_t i = 0; i < packets.size(); ++i)
        std::memcpy(masks[i].data(), packets[i].data() + pn_offset + kQuicSampleOffset,
                    kQuicSampleLength);
    if (schedule.keys_.cipher == QuicCipher::kChaCha20Poly1305) {
        for (std::size_t i = 0; i < packets.size(); ++i)
            masks[i] = chacha20_mask(schedule, masks[i]);
    } else {
        const std::span<std::uint8_t> all(masks[0].data(), packets.size() * sizeof(Block));
        aes(IMB_CIPHER_ECB, schedule.header_, quic_key_length(schedule.keys_.cipher), {}, all,
            all.data());
    }
    for (std::size_t i = 0; i < packets.size(); ++i) {
        std::uint8_t *packet = packets[i].data();
        const Block &mask = masks[i];
        const std::size_t pn_length = (packet[0] & 3) + 1U;
        packet[0] ^= mask[0] & ((packet[0] & kLongHeader) != 0 ? 0x0f : 0x1f);
        for (std::size_t j = 0; j < pn_length; ++j)
            packet[pn_offset + j] ^= mask[1 + j];
    }
}

QuicProtectResult QuicEngine::protect(const QuicKeySchedule &schedule,
                                      std::span<std::uint8_t> packet, std::size_t pn_offset,
                                      std::uint64_t pn) {
    const QuicProtectResult result = seal(schedule, packet, packet, pn_offset, pn);
    if (result == QuicProtectResult::kOk)
        protect_headers(schedule, {&packet, 1}, pn_offset);
    return result;
}

} // namespace connectx
