// SPDX-License-Identifier: GPL-2.0
#include "batch_sender.h"

#include <cerrno>
#include <stdexcept>

#include <linux/errqueue.h>
#include <netinet/in.h>
#include <netinet/udp.h>
#include <sys/mman.h>

#ifndef SO_ZEROCOPY
#define SO_ZEROCOPY 60
#endif
#ifndef MSG_ZEROCOPY
#define MSG_ZEROCOPY 0x4000000
#endif
#ifndef UDP_SEGMENT
#define UDP_SEGMENT 103
#endif

namespace quic_bench {
namespace {

constexpr std::uint64_t kConfidentialityLimit = 1ULL << 23; // of AES-GCM: RFC 9001, section 6.6

} // namespace

BufferRing::BufferRing() {
    constexpr std::size_t kSize = kBuffers * kBufferSize;
    void *memory =
        ::mmap(nullptr, kSize, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED)
        quic_test::throw_errno("mmap");
    memory_ = static_cast<std::uint8_t *>(memory);
    // Whether the system has huge pages left would else decide what MSG_ZEROCOPY costs.
    if (::madvise(memory, kSize, MADV_NOHUGEPAGE) != 0 || ::mlock(memory, kSize) != 0)
        quic_test::throw_errno("memory of the buffers");
    for (std::size_t i = 0; i < kSize; ++i)
        memory_[i] = static_cast<std::uint8_t>(i * 7 + (i >> 8));
}

BufferRing::~BufferRing() { ::munmap(memory_, kBuffers * kBufferSize); }

BatchSender::BatchSender(const Way &way, const quic_test::Address &to, unsigned packets,
                         BufferRing &buffers)
    : way_(way), packets_(packets), stride_(kWireSize), buffers_(buffers),
      socket_(quic_test::udp_socket(to.family())) {
    constexpr int kSendBuffer = 16 << 20;
    quic_test::set_option(fd(), SOL_SOCKET, SO_SNDBUFFORCE, kSendBuffer);
    quic_test::connect_to(fd(), to);
    if (way.zerocopy) {
        quic_test::set_option(fd(), SOL_SOCKET, SO_ZEROCOPY, 1);
        flags_ |= MSG_ZEROCOPY;
    }
    if (packets > 1) {
        const std::uint16_t segment = kWireSize;
        add_control(UDP_SEGMENT, &segment, sizeof(segment));
    }

    const quic_test::PacketKeys keys = quic_test::keys_of_seed(way.cipher, 1);
    udp_quic_crypto_inline crypto{};
    crypto.crypto.pn_offset = kPnOffset;
    crypto.crypto.flags = way.zerocopy ? UDP_QUIC_CRYPTO_F_TAG_ROOM : 0;
    const std::size_t at = message_.msg_controllen;
    switch (way.protection) {
    case Protection::kNone:
        break;
    case Protection::kUser:
        user_ = std::make_unique<UserProtection>(keys);
        break;
    case Protection::kIndex:
        crypto.crypto.sa = quic_test::add_sa_index(fd(), kCookie, keys,
                                                   way.guarded ? UDP_CRYPTO_SA_F_GUARD_PN : 0U,
                                                   way.guarded ? kConfidentialityLimit : 0U);
        add_control(UDP_QUIC_CRYPTO, &crypto.crypto, sizeof(crypto.crypto));
        break;
    case Protection::kInline:
        crypto.crypto.sa = UDP_QUIC_CRYPTO_SA_INLINE;
        crypto.keys = quic_test::to_uapi(keys);
        add_control(UDP_QUIC_CRYPTO, &crypto, sizeof(crypto));
        break;
    }
    if (way.protection == Protection::kIndex || way.protection == Protection::kInline) {
        crypto_ = reinterpret_cast<udp_quic_crypto *>(&control_[at + CMSG_LEN(0)]);
        if (!way.zerocopy)
            stride_ = kPlainSize;
    }
    data_.iov_len = packets * stride_;
    message_.msg_iov = &data_;
    message_.msg_iovlen = 1;
    message_.msg_control = message_.msg_controllen == 0 ? nullptr : control_.data();
}

BatchSender::BatchSender(const BatchSender &other, BufferRing &buffers, std::uint64_t first_pn)
    : way_(other.way_), packets_(other.packets_), stride_(other.stride_), buffers_(buffers),
      socket_(::dup(other.fd())), control_(other.control_), data_(other.data_),
      message_(other.message_), flags_(other.flags_), pn_(first_pn) {
    if (other.user_ || way_.zerocopy)
        throw std::logic_error("a sender that cannot be shared");
    const auto *base = other.control_.data();
    if (other.crypto_ != nullptr)
        crypto_ = reinterpret_cast<udp_quic_crypto *>(&control_[static_cast<std::size_t>(
            reinterpret_cast<const std::uint8_t *>(other.crypto_) - base)]);
    if (message_.msg_control != nullptr)
        message_.msg_control = control_.data();
    message_.msg_iov = &data_;
}

void BatchSender::add_control(int type, const void *data, std::size_t length) {
    cmsghdr header{};
    header.cmsg_len = CMSG_LEN(length);
    header.cmsg_level = SOL_UDP;
    header.cmsg_type = type;
    std::uint8_t *at = &control_[message_.msg_controllen];
    std::memcpy(at, &header, sizeof(header));
    std::memcpy(at + CMSG_LEN(0), data, length);
    message_.msg_controllen += CMSG_SPACE(length);
}

std::uint8_t *BatchSender::next_buffer() {
    // Never the case where completions come as they should: the ring is long.
    while (sent_ - completed_ >= BufferRing::kBuffers)
        reap();
    return buffers_.next();
}

void BatchSender::send() {
    std::uint8_t *buffer = next_buffer();
    write_headers(buffer, stride_, packets_, pn_);
    if (user_)
        user_->protect(buffer, packets_, pn_);
    else if (crypto_ != nullptr)
        crypto_->pn = pn_;
    pn_ += packets_;
    data_.iov_base = buffer;
    const ssize_t taken = ::sendmsg(fd(), &message_, flags_);
    if (taken != static_cast<ssize_t>(data_.iov_len))
        quic_test::throw_errno(std::string("sendmsg, ") + way_.name);
    if (way_.zerocopy) {
        ++sent_;
        if (++unreaped_ >= kReapEvery)
            reap();
    }
}

void BatchSender::reap() {
    unreaped_ = 0;
    for (;;) {
        alignas(cmsghdr) std::array<std::uint8_t, 128> control{};
        msghdr message{};
        message.msg_control = control.data();
        message.msg_controllen = control.size();
        if (::recvmsg(fd(), &message, MSG_ERRQUEUE | MSG_DONTWAIT) < 0) {
            if (errno == EAGAIN)
                return;
            quic_test::throw_errno("MSG_ERRQUEUE");
        }
        const cmsghdr *header = CMSG_FIRSTHDR(&message);
        if (header == nullptr)
            throw std::runtime_error("an entry of the error queue without a message");
        sock_extended_err error{};
        std::memcpy(&error, CMSG_DATA(header), sizeof(error));
        if (error.ee_origin != SO_EE_ORIGIN_ZEROCOPY)
            throw std::runtime_error("an error from origin " + std::to_string(error.ee_origin));
        const std::uint64_t sends = error.ee_data - error.ee_info + 1;
        completed_ += sends;
        if ((error.ee_code & SO_EE_CODE_ZEROCOPY_COPIED) != 0)
            copied_ += sends;
    }
}

} // namespace quic_bench
