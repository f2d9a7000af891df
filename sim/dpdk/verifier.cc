// SPDX-License-Identifier: GPL-2.0
#include "verifier.h"

#include <rte_errno.h>

#include <stdexcept>

namespace connectx::dpdk {

namespace {

constexpr std::size_t kBlock = 16;
constexpr std::size_t kNonce = 12;
constexpr unsigned kOps = 255;
// Behind the operation: IV, then associated data.
constexpr std::uint16_t kIvOffset = sizeof(rte_crypto_op) + sizeof(rte_crypto_sym_op);
constexpr std::uint16_t kAadOffset = kIvOffset + kBlock;
constexpr std::uint16_t kPrivate = kBlock + 32;

std::uint16_t be16(const std::uint8_t *p) { return static_cast<std::uint16_t>(p[0] << 8 | p[1]); }

std::uint32_t add(std::span<const std::uint8_t> bytes, std::uint32_t sum) {
    std::uint64_t wide = sum;
    std::size_t i = 0;
    for (; i + 2 <= bytes.size(); i += 2)
        wide += be16(&bytes[i]);
    if (i < bytes.size())
        wide += bytes[i] << 8;
    while (wide >> 16 != 0)
        wide = (wide & 0xffff) + (wide >> 16);
    return static_cast<std::uint32_t>(wide);
}

template <typename T> T *need(T *pointer, const char *what) {
    if (pointer == nullptr)
        throw std::runtime_error(std::string(what) + ": " + rte_strerror(rte_errno));
    return pointer;
}

void need(int result, const char *what) {
    if (result < 0)
        throw std::runtime_error(std::string(what) + ": " + rte_strerror(-result));
}

/// RFC 9000, appendix A.3.
std::uint64_t decode_pn(std::uint64_t expected, std::uint64_t truncated) {
    constexpr std::uint64_t kWindow = 1ULL << (8 * kPnLength);
    const std::uint64_t candidate = (expected & ~(kWindow - 1)) | truncated;
    if (candidate + kWindow / 2 <= expected)
        return candidate + kWindow;
    if (candidate > expected + kWindow / 2 && candidate >= kWindow)
        return candidate - kWindow;
    return candidate;
}

} // namespace

Verifier::Verifier(const Traffic &traffic, const std::string &name)
    : traffic_(traffic), expected_(traffic.size - kTag), seen_(traffic.packets),
      keys_(traffic_keys(traffic)) {
    fill_packet(expected_);
    const int dev = rte_cryptodev_get_dev_id(name.c_str());
    if (dev < 0)
        throw std::runtime_error("no crypto device " + name);
    dev_ = static_cast<std::uint8_t>(dev);

    rte_cryptodev_config config{};
    config.nb_queue_pairs = 1;
    config.socket_id = rte_cryptodev_socket_id(dev_);
    need(rte_cryptodev_configure(dev_, &config), "crypto device");
    sessions_ = need(rte_cryptodev_sym_session_pool_create(
                         "sessions", 4, rte_cryptodev_sym_get_private_session_size(dev_), 0, 0,
                         config.socket_id),
                     "crypto sessions");
    rte_cryptodev_qp_conf queue{};
    queue.nb_descriptors = kOps + 1;
    queue.mp_session = sessions_;
    need(rte_cryptodev_queue_pair_setup(dev_, 0, &queue, config.socket_id), "crypto queue");
    ops_pool_ = need(rte_crypto_op_pool_create("operations", RTE_CRYPTO_OP_TYPE_SYMMETRIC, kOps, 0,
                                               kPrivate, config.socket_id),
                     "crypto operations");
    masks_pool_ = need(rte_pktmbuf_pool_create("masks", kOps, 0, 0,
                                               RTE_PKTMBUF_HEADROOM + 2 * kBlock, config.socket_id),
                       "buffers");
    need(rte_cryptodev_start(dev_), "starting the crypto device");
    if (rte_crypto_op_bulk_alloc(ops_pool_, RTE_CRYPTO_OP_TYPE_SYMMETRIC, ops_.data(),
                                 Port::kBurst) == 0)
        throw std::runtime_error("no crypto operations");
    need(rte_pktmbuf_alloc_bulk(masks_pool_, masks_.data(), Port::kBurst), "buffers");
    for (rte_mbuf *m : masks_)
        m->pkt_len = m->data_len = kBlock;

    // The mask is the header protection cipher's output for the sample: the first block of counter
    // mode over zeros that starts at the sample.
    rte_crypto_sym_xform mask{};
    mask.type = RTE_CRYPTO_SYM_XFORM_CIPHER;
    mask.cipher.op = RTE_CRYPTO_CIPHER_OP_ENCRYPT;
    mask.cipher.algo = RTE_CRYPTO_CIPHER_AES_CTR;
    mask.cipher.key = {keys_.hp.data(), static_cast<std::uint16_t>(keys_.hp.size())};
    mask.cipher.iv = {kIvOffset, kBlock};
    mask_session_ = session(mask);

    rte_crypto_sym_xform aead{};
    aead.type = RTE_CRYPTO_SYM_XFORM_AEAD;
    aead.aead.op = RTE_CRYPTO_AEAD_OP_DECRYPT;
    aead.aead.algo = RTE_CRYPTO_AEAD_AES_GCM;
    aead.aead.key = {keys_.key.data(), static_cast<std::uint16_t>(keys_.key.size())};
    aead.aead.iv = {kIvOffset, kNonce};
    aead.aead.digest_length = kTag;
    aead.aead.aad_length = kQuicHeader;
    aead_session_ = session(aead);
}

Verifier::~Verifier() {
    rte_cryptodev_stop(dev_);
    rte_mempool_put_bulk(ops_pool_, reinterpret_cast<void **>(ops_.data()), Port::kBurst);
    rte_pktmbuf_free_bulk(masks_.data(), Port::kBurst);
    rte_cryptodev_sym_session_free(dev_, mask_session_);
    rte_cryptodev_sym_session_free(dev_, aead_session_);
    rte_mempool_free(masks_pool_);
    rte_mempool_free(ops_pool_);
    rte_mempool_free(sessions_);
}

void *Verifier::session(rte_crypto_sym_xform &xform) {
    return need(rte_cryptodev_sym_session_create(dev_, &xform, sessions_), "crypto session");
}

void Verifier::run(unsigned count) {
    unsigned in = 0;
    unsigned out = 0;
    std::array<rte_crypto_op *, Port::kBurst> done{};
    while (out < count) {
        in += rte_cryptodev_enqueue_burst(dev_, 0, ops_.data() + in,
                                          static_cast<std::uint16_t>(count - in));
        out += rte_cryptodev_dequeue_burst(dev_, 0, done.data() + out,
                                           static_cast<std::uint16_t>(count - out));
    }
}

bool Verifier::headers_ok(rte_mbuf *packet, bool &ours) const {
    constexpr std::uint8_t kUdpProtocol = 17;
    const auto *f = rte_pktmbuf_mtod(packet, const std::uint8_t *);
    const std::size_t size = packet->data_len;
    ours = size >= kHeaders && be16(f + 12) == 0x0800 && f[kEthernet] == 0x45 &&
           f[kEthernet + 9] == kUdpProtocol;
    if (!ours)
        return false;
    const std::uint8_t *ip = f + kEthernet;
    const std::uint8_t *udp = ip + kIp;
    const std::size_t udp_length = kUdp + traffic_.size;
    if (be16(ip + 2) != kIp + udp_length || size < kEthernet + kIp + udp_length ||
        be16(udp + 4) != udp_length || be16(udp + 6) == 0)
        return false;
    if (add({ip, kIp}, 0) != 0xffff)
        return false;
    const auto pseudo = static_cast<std::uint32_t>(kUdpProtocol + udp_length);
    return add({udp, udp_length}, add({ip + 12, 8}, pseudo)) == 0xffff;
}

void Verifier::judge(const Frame &frame) {
    number_packet(expected_, frame.pn);
    const std::uint64_t index = frame.pn - kFirstPn; // wraps for numbers before the first
    if (std::memcmp(frame.quic, expected_.data(), expected_.size()) != 0 || index >= seen_.size()) {
        ++verdict_.corrupted;
    } else if (seen_[index]) {
        ++verdict_.duplicated;
    } else {
        seen_[index] = true;
        ++verdict_.good;
        if (frame.pn < next_pn_)
            ++verdict_.reordered;
        else
            next_pn_ = frame.pn + 1;
    }
}

void Verifier::take(Packets packets) {
    std::array<Frame, Port::kBurst> frames;
    unsigned count = 0;
    for (rte_mbuf *packet : packets) {
        ++verdict_.received;
        verdict_.bytes += rte_pktmbuf_pkt_len(packet);
        bool ours = false;
        if (rte_pktmbuf_linearize(packet) != 0 || !headers_ok(packet, ours)) {
            ++(ours ? verdict_.corrupted : verdict_.foreign);
            rte_pktmbuf_free(packet);
            continue;
        }
        frames[count++] = {packet, rte_pktmbuf_mtod(packet, std::uint8_t *) + kHeaders, 0};
    }

    for (unsigned i = 0; i < count; ++i) {
        auto *mask = rte_pktmbuf_mtod(masks_[i], std::uint8_t *);
        std::fill_n(mask, kBlock, 0);
        rte_crypto_op *op = ops_[i];
        __rte_crypto_op_reset(op, RTE_CRYPTO_OP_TYPE_SYMMETRIC);
        rte_crypto_op_attach_sym_session(op, mask_session_);
        op->sym->m_src = masks_[i];
        op->sym->cipher.data.length = kBlock;
        std::memcpy(rte_crypto_op_ctod_offset(op, void *, kIvOffset),
                    frames[i].quic + kPnOffset + 4, kBlock);
    }
    run(count);

    for (unsigned i = 0; i < count; ++i) {
        Frame &frame = frames[i];
        const auto *mask = rte_pktmbuf_mtod(masks_[i], const std::uint8_t *);
        std::uint8_t *quic = frame.quic;
        quic[0] ^= mask[0] & 0x1f;
        std::uint64_t truncated = 0;
        for (std::size_t j = 0; j < kPnLength; ++j) {
            quic[kPnOffset + j] ^= mask[1 + j];
            truncated = truncated << 8 | quic[kPnOffset + j];
        }
        frame.pn = decode_pn(next_pn_, truncated);

        rte_crypto_op *op = ops_[i];
        __rte_crypto_op_reset(op, RTE_CRYPTO_OP_TYPE_SYMMETRIC);
        rte_crypto_op_attach_sym_session(op, aead_session_);
        auto *nonce = rte_crypto_op_ctod_offset(op, std::uint8_t *, kIvOffset);
        std::copy(keys_.iv.begin(), keys_.iv.end(), nonce);
        for (std::size_t j = 0; j < sizeof(frame.pn); ++j)
            nonce[kNonce - 1 - j] ^= static_cast<std::uint8_t>(frame.pn >> (8 * j));
        auto *aad = rte_crypto_op_ctod_offset(op, std::uint8_t *, kAadOffset);
        std::memcpy(aad, quic, kQuicHeader);
        op->sym->m_src = frame.packet;
        op->sym->aead.aad.data = aad;
        op->sym->aead.data.offset = kHeaders + kQuicHeader;
        op->sym->aead.data.length = static_cast<std::uint32_t>(traffic_.size - kQuicHeader - kTag);
        op->sym->aead.digest.data = quic + traffic_.size - kTag;
    }
    run(count);

    for (unsigned i = 0; i < count; ++i) {
        if (ops_[i]->status == RTE_CRYPTO_OP_STATUS_SUCCESS)
            judge(frames[i]);
        else
            ++verdict_.corrupted;
        rte_pktmbuf_free(frames[i].packet);
    }
}

} // namespace connectx::dpdk
