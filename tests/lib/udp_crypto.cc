// SPDX-License-Identifier: GPL-2.0
#include "udp_crypto.h"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <stdexcept>

#include <arpa/inet.h>
#include <liburing.h>
#include <linux/errqueue.h>
#include <netinet/udp.h>
#include <poll.h>
#include <unistd.h>

#ifndef SO_ZEROCOPY
#define SO_ZEROCOPY 60
#endif
#ifndef UDP_SEGMENT
#define UDP_SEGMENT 103
#endif

static_assert(sizeof(struct udp_quic_keys) == 80);
static_assert(sizeof(struct udp_crypto_req) == 16);
static_assert(sizeof(struct udp_crypto_sa) == 104);
static_assert(sizeof(struct udp_crypto_sa_info) == 80);
static_assert(sizeof(struct udp_crypto_caps) == 40);
static_assert(sizeof(struct udp_quic_crypto) == 16);
static_assert(sizeof(struct udp_quic_crypto_inline) == 96);

namespace quic_test {

struct udp_quic_keys to_uapi(const PacketKeys &keys) {
    struct udp_quic_keys out {};
    out.cipher = static_cast<std::uint16_t>(keys.cipher);
    std::copy(keys.iv.begin(), keys.iv.end(), out.iv);
    std::copy(keys.key.begin(), keys.key.end(), out.key);
    std::copy(keys.hp.begin(), keys.hp.end(), out.hp_key);
    return out;
}

struct udp_crypto_req request(enum udp_crypto_op op, std::uint64_t cookie, std::uint32_t flags) {
    struct udp_crypto_req out {};
    out.type = UDP_CRYPTO_QUIC;
    out.op = static_cast<std::uint16_t>(op);
    out.flags = flags;
    out.cookie = cookie;
    return out;
}

struct udp_crypto_sa sa_request(std::uint64_t cookie, const PacketKeys &keys, std::uint32_t flags,
                                std::uint64_t packet_limit) {
    struct udp_crypto_sa out {};
    out.req = request(UDP_CRYPTO_OP_ADD_SA, cookie, flags);
    out.packet_limit = packet_limit;
    out.keys = to_uapi(keys);
    return out;
}

int set_state(int fd, const void *value, std::size_t length) {
    return ::setsockopt(fd, SOL_UDP, UDP_CRYPTO_STATE, value, static_cast<socklen_t>(length)) == 0
               ? 0
               : -errno;
}

int get_state(int fd, void *value, socklen_t *length) {
    return ::getsockopt(fd, SOL_UDP, UDP_CRYPTO_STATE, value, length) == 0 ? 0 : -errno;
}

int add_sa(int fd, std::uint64_t cookie, const PacketKeys &keys, std::uint32_t flags,
           std::uint64_t packet_limit) {
    const struct udp_crypto_sa sa = sa_request(cookie, keys, flags, packet_limit);
    return set_state(fd, &sa, sizeof(sa));
}

int del_sa(int fd, std::uint64_t cookie) {
    const struct udp_crypto_req req = request(UDP_CRYPTO_OP_DEL_SA, cookie);
    return set_state(fd, &req, sizeof(req));
}

int get_sa(int fd, std::uint64_t cookie, struct udp_crypto_sa_info *info) {
    std::memset(info, 0, sizeof(*info));
    info->req = request(UDP_CRYPTO_OP_GET_SA, cookie);
    socklen_t length = sizeof(*info);
    const int result = get_state(fd, info, &length);
    if (result == 0 && length != sizeof(*info))
        throw std::runtime_error("GET_SA gave " + std::to_string(length) + " bytes");
    return result;
}

int get_caps(int fd, struct udp_crypto_caps *caps) {
    std::memset(caps, 0, sizeof(*caps));
    caps->req = request(UDP_CRYPTO_OP_GET_CAPS, 0);
    socklen_t length = sizeof(*caps);
    const int result = get_state(fd, caps, &length);
    if (result == 0 && length != sizeof(*caps))
        throw std::runtime_error("GET_CAPS gave " + std::to_string(length) + " bytes");
    return result;
}

std::uint32_t sa_index(int fd, std::uint64_t cookie) {
    struct udp_crypto_sa_info info {};
    const int result = get_sa(fd, cookie, &info);
    if (result != 0) {
        errno = -result;
        throw_errno("UDP_CRYPTO_OP_GET_SA");
    }
    return info.sa;
}

std::uint32_t add_sa_index(int fd, std::uint64_t cookie, const PacketKeys &keys,
                           std::uint32_t flags, std::uint64_t packet_limit) {
    const int result = add_sa(fd, cookie, keys, flags, packet_limit);
    if (result != 0) {
        errno = -result;
        throw_errno("UDP_CRYPTO_OP_ADD_SA");
    }
    return sa_index(fd, cookie);
}

Control &Control::add(int level, int type, const void *data, std::size_t length) {
    const std::size_t at = bytes_.size();
    bytes_.resize(at + CMSG_SPACE(length));
    cmsghdr header{};
    header.cmsg_level = level;
    header.cmsg_type = type;
    header.cmsg_len = CMSG_LEN(length);
    std::memcpy(bytes_.data() + at, &header, sizeof(header));
    if (length > 0)
        std::memcpy(bytes_.data() + at + CMSG_LEN(0), data, length);
    return *this;
}

namespace {
struct udp_quic_crypto crypto(std::uint64_t pn, std::uint32_t sa, std::size_t pn_offset,
                              std::uint16_t flags) {
    struct udp_quic_crypto out {};
    out.pn = pn;
    out.sa = sa;
    out.pn_offset = static_cast<std::uint16_t>(pn_offset);
    out.flags = flags;
    return out;
}
} // namespace

Control &Control::quic(std::uint64_t pn, std::uint32_t sa, std::size_t pn_offset,
                       std::uint16_t flags) {
    const struct udp_quic_crypto data = crypto(pn, sa, pn_offset, flags);
    return add(SOL_UDP, UDP_QUIC_CRYPTO, &data, sizeof(data));
}

Control &Control::quic_inline(std::uint64_t pn, const PacketKeys &keys, std::size_t pn_offset,
                              std::uint16_t flags) {
    struct udp_quic_crypto_inline data {};
    data.crypto = crypto(pn, UDP_QUIC_CRYPTO_SA_INLINE, pn_offset, flags);
    data.keys = to_uapi(keys);
    return add(SOL_UDP, UDP_QUIC_CRYPTO, &data, sizeof(data));
}

Control &Control::gso_size(std::uint16_t size) {
    return add(SOL_UDP, UDP_SEGMENT, &size, sizeof(size));
}

Address Address::v4(const std::string &host, std::uint16_t port) {
    Address out;
    auto *in = reinterpret_cast<sockaddr_in *>(&out.storage);
    in->sin_family = AF_INET;
    in->sin_port = htons(port);
    if (::inet_pton(AF_INET, host.c_str(), &in->sin_addr) != 1)
        throw std::invalid_argument("IPv4 address " + host);
    out.length = sizeof(*in);
    return out;
}

Address Address::v6(const std::string &host, std::uint16_t port, unsigned scope) {
    Address out;
    auto *in6 = reinterpret_cast<sockaddr_in6 *>(&out.storage);
    in6->sin6_family = AF_INET6;
    in6->sin6_port = htons(port);
    in6->sin6_scope_id = scope;
    if (::inet_pton(AF_INET6, host.c_str(), &in6->sin6_addr) != 1)
        throw std::invalid_argument("IPv6 address " + host);
    out.length = sizeof(*in6);
    return out;
}

Address Address::mapped(const std::string &v4_host, std::uint16_t port) {
    return v6("::ffff:" + v4_host, port);
}

Address Address::of_socket(int fd) {
    Address out;
    out.length = sizeof(out.storage);
    if (::getsockname(fd, reinterpret_cast<sockaddr *>(&out.storage), &out.length) != 0)
        throw_errno("getsockname");
    return out;
}

std::uint16_t Address::port() const {
    return ntohs(reinterpret_cast<const sockaddr_in *>(&storage)->sin_port);
}

void Address::set_port(std::uint16_t port) {
    reinterpret_cast<sockaddr_in *>(&storage)->sin_port = htons(port);
}

const char *name(Api api) {
    switch (api) {
    case Api::kSendmsg:
        return "Sendmsg";
    case Api::kSendmmsg:
        return "Sendmmsg";
    case Api::kIoUring:
        return "IoUring";
    case Api::kIoUringZeroCopy:
        return "IoUringZc";
    }
    return "?";
}

namespace {

class Ring {
  public:
    Ring() {
        const int result = ::io_uring_queue_init(8, &ring_, 0);
        if (result < 0) {
            errno = -result;
            throw_errno("io_uring_queue_init");
        }
    }
    ~Ring() { ::io_uring_queue_exit(&ring_); }
    Ring(const Ring &) = delete;
    Ring &operator=(const Ring &) = delete;

    ssize_t send(int fd, const msghdr &header, unsigned flags, bool zero_copy) {
        io_uring_sqe *sqe = ::io_uring_get_sqe(&ring_);
        if (zero_copy)
            ::io_uring_prep_sendmsg_zc(sqe, fd, &header, flags);
        else
            ::io_uring_prep_sendmsg(sqe, fd, &header, flags);
        if (::io_uring_submit(&ring_) != 1)
            throw std::runtime_error("io_uring_submit");
        ssize_t result = 0;
        // With zero copy a second entry says that the kernel is done with the pages.
        for (bool more = true, first = true; more; first = false) {
            io_uring_cqe *cqe = nullptr;
            __kernel_timespec timeout{.tv_sec = kPatience.count() / 1000, .tv_nsec = 0};
            const int waited = ::io_uring_wait_cqe_timeout(&ring_, &cqe, &timeout);
            if (waited < 0) {
                errno = -waited;
                throw_errno("no io_uring completion");
            }
            if (first)
                result = cqe->res;
            more = (cqe->flags & IORING_CQE_F_MORE) != 0;
            ::io_uring_cqe_seen(&ring_, cqe);
        }
        return result;
    }

  private:
    io_uring ring_{};
};

} // namespace

ssize_t send(int fd, const Message &message, Api api) {
    msghdr header{};
    if (message.to != nullptr) {
        header.msg_name = const_cast<sockaddr *>(message.to->get());
        header.msg_namelen = message.to->length;
    }
    header.msg_iov = const_cast<iovec *>(message.data.data());
    header.msg_iovlen = message.data.size();
    Bytes control = message.control.bytes();
    if (!control.empty()) {
        header.msg_control = control.data();
        header.msg_controllen = control.size();
    }
    switch (api) {
    case Api::kSendmsg: {
        const ssize_t result = ::sendmsg(fd, &header, message.flags);
        return result < 0 ? -errno : result;
    }
    case Api::kSendmmsg: {
        mmsghdr many{};
        many.msg_hdr = header;
        const int result = ::sendmmsg(fd, &many, 1, message.flags);
        if (result < 0)
            return -errno;
        return result == 1 ? static_cast<ssize_t>(many.msg_len) : -EIO;
    }
    case Api::kIoUring:
    case Api::kIoUringZeroCopy: {
        thread_local Ring ring;
        return ring.send(fd, header, static_cast<unsigned>(message.flags),
                         api == Api::kIoUringZeroCopy);
    }
    }
    return -ENOSYS;
}

ssize_t send(int fd, ByteView data, const Control &control, const Address *to, int flags) {
    Message message;
    message.to = to;
    message.data.push_back({const_cast<std::uint8_t *>(data.data()), data.size()});
    message.control = control;
    message.flags = flags;
    return send(fd, message);
}

UniqueFd udp_socket(int family, int protocol) {
    UniqueFd fd(::socket(family, SOCK_DGRAM | SOCK_CLOEXEC, protocol));
    if (fd.get() < 0)
        throw_errno("socket");
    return fd;
}

UniqueFd udp_socket_of_uid(int family, uid_t uid) {
    // Sockets take their uid from the thread's file system uid.
    if (::seteuid(uid) != 0)
        throw_errno("seteuid");
    UniqueFd out = udp_socket(family);
    if (::seteuid(0) != 0)
        throw_errno("seteuid");
    return out;
}

void bind_to(int fd, const Address &address) {
    if (::bind(fd, address.get(), address.length) != 0)
        throw_errno("bind");
}

void connect_to(int fd, const Address &address) {
    if (::connect(fd, address.get(), address.length) != 0)
        throw_errno("connect");
}

void set_option(int fd, int level, int option, int value) {
    if (::setsockopt(fd, level, option, &value, sizeof(value)) != 0)
        throw_errno("setsockopt " + std::to_string(level) + " " + std::to_string(option));
}

std::optional<Bytes> receive(int fd, std::chrono::milliseconds patience) {
    const auto deadline = std::chrono::steady_clock::now() + patience;
    for (;;) {
        Bytes buffer(65536);
        const ssize_t length = ::recv(fd, buffer.data(), buffer.size(), MSG_DONTWAIT);
        if (length >= 0) {
            buffer.resize(static_cast<std::size_t>(length));
            return buffer;
        }
        if (errno != EAGAIN && errno != EINTR && errno != ECONNREFUSED)
            throw_errno("recv");
        const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(
            deadline - std::chrono::steady_clock::now());
        if (left.count() <= 0)
            return std::nullopt;
        pollfd poll_fd{fd, POLLIN, 0};
        ::poll(&poll_fd, 1, static_cast<int>(left.count()));
    }
}

std::optional<ZeroCopyCompletion> zerocopy_completion(int fd, std::chrono::milliseconds patience) {
    const auto deadline = std::chrono::steady_clock::now() + patience;
    for (;;) {
        char control[256];
        msghdr header{};
        header.msg_control = control;
        header.msg_controllen = sizeof(control);
        if (::recvmsg(fd, &header, MSG_ERRQUEUE | MSG_DONTWAIT) >= 0) {
            for (cmsghdr *cmsg = CMSG_FIRSTHDR(&header); cmsg != nullptr;
                 cmsg = CMSG_NXTHDR(&header, cmsg)) {
                if (!((cmsg->cmsg_level == SOL_IP && cmsg->cmsg_type == IP_RECVERR) ||
                      (cmsg->cmsg_level == SOL_IPV6 && cmsg->cmsg_type == IPV6_RECVERR)))
                    continue;
                sock_extended_err error{};
                std::memcpy(&error, CMSG_DATA(cmsg), sizeof(error));
                if (error.ee_origin == SO_EE_ORIGIN_ZEROCOPY)
                    return ZeroCopyCompletion{error.ee_info, error.ee_data, error.ee_code};
            }
            continue;
        }
        if (errno != EAGAIN)
            throw_errno("recvmsg(MSG_ERRQUEUE)");
        const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(
            deadline - std::chrono::steady_clock::now());
        if (left.count() <= 0)
            return std::nullopt;
        pollfd poll_fd{fd, 0, 0}; // POLLERR needs no asking
        ::poll(&poll_fd, 1, static_cast<int>(left.count()));
    }
}

Bytes join_packets(const std::vector<Bytes> &packets) {
    Bytes out;
    for (const Bytes &packet : packets)
        out.insert(out.end(), packet.begin(), packet.end());
    return out;
}

Bytes join_with_tag_room(const std::vector<Bytes> &packets, std::uint8_t filler) {
    Bytes out;
    for (const Bytes &packet : packets) {
        out.insert(out.end(), packet.begin(), packet.end());
        out.insert(out.end(), UDP_QUIC_TAG_LEN, filler);
    }
    return out;
}

} // namespace quic_test
