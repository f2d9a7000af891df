// SPDX-License-Identifier: MIT
#include "endpoint.hpp"

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdio>
#include <cstring>

#include <linux/errqueue.h>
#include <linux/udp.h>
#include <sys/socket.h>
#include <unistd.h>

namespace quic_server {

namespace {

constexpr unsigned kReceiveBatch = 32;
constexpr std::size_t kControlSize = 128;      // pktinfo and traffic class
constexpr std::size_t kErrorControlSize = 256; // the same, an error, and whose it is
// Below this, MSG_ZEROCOPY costs more than the copy it saves (networking/msg_zerocopy.rst).
constexpr std::size_t kZeroCopyThreshold = 10000;

bool set_option(int fd, int level, int name, int value) {
    return setsockopt(fd, level, name, &value, sizeof(value)) == 0;
}

int fail(const Address &address, const char *what) {
    std::fprintf(stderr, "%s: %s: %s\n", address.to_string().c_str(), what, std::strerror(errno));
    return -1;
}

int open_socket(const Address &address, const EndpointOptions &options) {
    const int fd = socket(address.family(), SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return fail(address, "socket");
    bool ok = true;
    if (address.family() == AF_INET6) {
        ok = ok && set_option(fd, IPPROTO_IPV6, IPV6_V6ONLY, !options.dual_stack);
        ok = ok && set_option(fd, IPPROTO_IPV6, IPV6_RECVPKTINFO, 1);
        ok = ok && set_option(fd, IPPROTO_IPV6, IPV6_RECVTCLASS, 1);
        // QUIC packets are never fragmented, and path MTU probes are sent whatever the kernel
        // believes of the path (RFC 9000 section 14).
        ok = ok && set_option(fd, IPPROTO_IPV6, IPV6_MTU_DISCOVER, IPV6_PMTUDISC_PROBE);
    }
    if (address.family() == AF_INET || options.dual_stack) {
        ok = ok && set_option(fd, IPPROTO_IP, IP_RECVTOS, 1);
        ok = ok && set_option(fd, IPPROTO_IP, IP_MTU_DISCOVER, IP_PMTUDISC_PROBE);
    }
    if (address.family() == AF_INET)
        ok = ok && set_option(fd, IPPROTO_IP, IP_PKTINFO, 1);
    // Sizes are wishes.
    set_option(fd, SOL_SOCKET, SO_SNDBUF, options.send_buffer);
    set_option(fd, SOL_SOCKET, SO_RCVBUF, options.receive_buffer);
    if (!ok) {
        fail(address, "socket options");
    } else if (bind(fd, &address.any, address.length) != 0) {
        fail(address, "bind");
    } else {
        return fd;
    }
    close(fd);
    return -1;
}

// The local address and the ECN bits of a received datagram.
void read_control(msghdr &message, ReceivedDatagram &datagram) {
    for (cmsghdr *cmsg = CMSG_FIRSTHDR(&message); cmsg; cmsg = CMSG_NXTHDR(&message, cmsg)) {
        if (cmsg->cmsg_level == IPPROTO_IP && cmsg->cmsg_type == IP_PKTINFO) {
            in_pktinfo info{};
            std::memcpy(&info, CMSG_DATA(cmsg), sizeof(info));
            datagram.local.in4.sin_addr = info.ipi_addr;
        } else if (cmsg->cmsg_level == IPPROTO_IPV6 && cmsg->cmsg_type == IPV6_PKTINFO) {
            in6_pktinfo info{};
            std::memcpy(&info, CMSG_DATA(cmsg), sizeof(info));
            datagram.local.in6.sin6_addr = info.ipi6_addr;
        } else if (cmsg->cmsg_level == IPPROTO_IP && cmsg->cmsg_type == IP_TOS) {
            datagram.ecn = *CMSG_DATA(cmsg) & 0x3;
        } else if (cmsg->cmsg_level == IPPROTO_IPV6 && cmsg->cmsg_type == IPV6_TCLASS) {
            int traffic_class = 0;
            std::memcpy(&traffic_class, CMSG_DATA(cmsg), sizeof(traffic_class));
            datagram.ecn = traffic_class & 0x3;
        }
    }
}

// Whether @address, with its port left out, is one of this machine's.
bool is_ours(Address address) {
    (address.family() == AF_INET6 ? address.in6.sin6_port : address.in4.sin_port) = 0;
    const int fd = socket(address.family(), SOCK_DGRAM | SOCK_CLOEXEC, 0);
    const bool ours = fd >= 0 && bind(fd, &address.any, address.length) == 0;
    close(fd);
    return ours;
}

// What to do about an error, with one thing more than the helper can know: a source address that
// has gone away (an IPv6 privacy address, say) gives EINVAL like a message that is built wrongly,
// but nothing is wrong with the key, and the address may come back.
offload::Advice advise(int error, const TxBatch &batch) {
    if (error == EINVAL && !is_ours(batch.local()))
        return offload::Advice::kDrop;
    return offload::advise(error);
}

// Source address and ECN bits of a datagram to be sent.
template <typename Control>
void append_path(Control &control, const Address &local, const Address &remote, std::uint8_t ecn) {
    if (local.family() == AF_INET) {
        in_pktinfo info{};
        info.ipi_spec_dst = local.in4.sin_addr;
        control.append(IPPROTO_IP, IP_PKTINFO, info);
    } else {
        in6_pktinfo info{};
        info.ipi6_addr = local.in6.sin6_addr;
        control.append(IPPROTO_IPV6, IPV6_PKTINFO, info);
    }
    if (ecn == 0)
        return;
    const bool ipv4 = remote.family() == AF_INET || IN6_IS_ADDR_V4MAPPED(&remote.in6.sin6_addr);
    if (ipv4)
        control.append(IPPROTO_IP, IP_TOS, static_cast<int>(ecn));
    else
        control.append(IPPROTO_IPV6, IPV6_TCLASS, static_cast<int>(ecn));
}

} // namespace

// Where recvmmsg() puts datagrams: made once, since it is more than a stack should hold.
struct Endpoint::ReceiveRing {
    std::array<std::array<std::uint8_t, kMaxReceive>, kReceiveBatch> buffers;
    std::array<std::array<std::uint8_t, kControlSize>, kReceiveBatch> controls;
    std::array<Address, kReceiveBatch> remotes;
    std::array<iovec, kReceiveBatch> vectors{};
    std::array<mmsghdr, kReceiveBatch> messages{};
    unsigned used = kReceiveBatch; // of the messages, by the last call

    ReceiveRing() {
        for (unsigned i = 0; i < kReceiveBatch; ++i) {
            vectors[i] = {buffers[i].data(), buffers[i].size()};
            messages[i].msg_hdr.msg_name = &remotes[i].storage;
            messages[i].msg_hdr.msg_iov = &vectors[i];
            messages[i].msg_hdr.msg_iovlen = 1;
            messages[i].msg_hdr.msg_control = controls[i].data();
        }
    }

    // Returns how many datagrams came.
    int receive(int fd) {
        for (unsigned i = 0; i < used; ++i) {
            messages[i].msg_hdr.msg_namelen = sizeof(remotes[i].storage);
            messages[i].msg_hdr.msg_controllen = controls[i].size();
        }
        const int count = recvmmsg(fd, messages.data(), kReceiveBatch, 0, nullptr);
        // A message that nothing was received into may have been changed nevertheless.
        used = std::min(kReceiveBatch, static_cast<unsigned>(std::max(count, 0)) + 1);
        return count;
    }
};

std::unique_ptr<Endpoint> Endpoint::open(const Address &address, const EndpointOptions &options,
                                         Stats &stats) {
    const int fd = open_socket(address, options);
    if (fd < 0)
        return nullptr;
    std::unique_ptr<Endpoint> endpoint(new Endpoint(fd, stats));
    endpoint->address_.length = sizeof(sockaddr_storage);
    if (getsockname(fd, &endpoint->address_.any, &endpoint->address_.length) != 0) {
        fail(address, "getsockname");
        return nullptr;
    }
    endpoint->gso_ = options.gso;
    if (options.zerocopy) {
        endpoint->use_zerocopy_ = set_option(fd, SOL_SOCKET, SO_ZEROCOPY, 1);
        if (!endpoint->use_zerocopy_)
            fail(address, "no MSG_ZEROCOPY, copying instead");
    }
    return endpoint;
}

Endpoint::Endpoint(int fd, Stats &stats)
    : fd_(fd), receive_ring_(std::make_unique<ReceiveRing>()), stats_(stats) {}

Endpoint::~Endpoint() { close(fd_); }

bool Endpoint::receive(const std::function<void(const ReceivedDatagram &)> &handler) {
    // Errors are those of datagrams sent earlier (ICMP); QUIC does not act on them.
    ReceiveRing &ring = *receive_ring_;
    const int count = ring.receive(fd_);
    for (int i = 0; i < count; ++i) {
        msghdr &message = ring.messages[i].msg_hdr;
        const std::size_t length = ring.messages[i].msg_len;
        ++stats_.datagrams_received;
        stats_.bytes_received += length;
        if (message.msg_flags & MSG_TRUNC || length == 0) {
            ++stats_.datagrams_ignored;
            continue;
        }
        ReceivedDatagram datagram;
        datagram.local = address_;
        datagram.remote = Address(&ring.remotes[i].any, message.msg_namelen);
        read_control(message, datagram);
        datagram.bytes = {ring.buffers[i].data(), length};
        stats_.ecn_ect_received += datagram.ecn == 1 || datagram.ecn == 2;
        stats_.ecn_ce_received += datagram.ecn == 3;
        handler(datagram);
    }
    return count == static_cast<int>(kReceiveBatch);
}

// One sendmsg(). Returns 0 or the errno.
int Endpoint::send_once(const TxBatch &batch, KeyForm key_form, bool zerocopy) {
    const auto bytes = batch.bytes();
    offload::ControlMessages<> control;
    append_path(control, batch.local(), batch.remote(), batch.ecn());
    if (batch.packets() > 1)
        control.append_gso_size(static_cast<std::uint16_t>(batch.gso_size()));
    if (const auto &plaintext = batch.plaintext()) {
        // ngtcp2 has left room for each tag, so nothing needs to be copied apart.
        if (key_form == KeyForm::kIndex && plaintext->key->sa())
            control.append_quic(plaintext->pn, plaintext->key->sa()->index(), plaintext->pn_offset,
                                UDP_QUIC_CRYPTO_F_TAG_ROOM);
        else
            control.append_quic_inline(plaintext->pn, plaintext->key->keys(), plaintext->pn_offset,
                                       UDP_QUIC_CRYPTO_F_TAG_ROOM);
    }

    iovec vector{bytes.data(), bytes.size()};
    msghdr message{};
    message.msg_name = const_cast<sockaddr_storage *>(&batch.remote().storage); // NOLINT
    message.msg_namelen = batch.remote().length;
    message.msg_iov = &vector;
    message.msg_iovlen = 1;
    control.attach(message);
    const ssize_t sent = sendmsg(fd_, &message, zerocopy ? MSG_ZEROCOPY : 0);
    if (sent < 0)
        return errno;

    if (zerocopy) {
        ++stats_.zerocopy_sends;
        zerocopy_.push_back({batch.buffer()});
    }
    count_sent(batch);
    return 0;
}

void Endpoint::count_sent(const TxBatch &batch) {
    stats_.bytes_sent += batch.bytes().size();
    stats_.datagrams_sent += batch.packets();
    PathCounters &path = batch.plaintext() ? stats_.kernel : stats_.user;
    ++path.sends;
    if (batch.packets() > 1) {
        ++path.gso_sends;
        path.gso_max_packets = std::max<std::uint64_t>(path.gso_max_packets, batch.packets());
    }
    if (batch.plaintext()) {
        path.packets += batch.packets();
        path.bytes += batch.bytes().size();
    }
}

// The kernel will not protect these packets: do it here. The refused send has used none of the
// packet numbers.
bool Endpoint::step_back(TxBatch &batch, PacketProtection &protection) {
    for (std::size_t i = 0; i < batch.packets(); ++i) {
        const auto packet = batch.packet(i);
        if (!protection.protect_in_user_space(packet, batch.plaintext_of(i)))
            return false;
        ++stats_.user.packets;
        stats_.user.bytes += packet.size();
    }
    batch.mark_protected();
    return true;
}

bool Endpoint::send(TxBatch &batch, PacketProtection &protection, KeyForm key_form) {
    while (batch.packets() > 1 && !gso_) {
        TxBatch rest = batch;
        TxBatch first = rest.split_first();
        if (!send(first, protection, key_form)) {
            // Waiting for room, but perhaps no longer in plaintext: then so is all of it.
            if (batch.plaintext() && !first.plaintext() && step_back(rest, protection))
                batch.mark_protected();
            return false;
        }
        batch = rest;
    }

    bool zerocopy =
        use_zerocopy_ && batch.plaintext() && batch.bytes().size() >= kZeroCopyThreshold;
    for (;;) {
        const int error = send_once(batch, key_form, zerocopy);
        if (error == 0)
            return true;
        if (error == EAGAIN) {
            ++stats_.sends_blocked;
            return false;
        }
        const bool first_time = ++stats_.send_errors[error] == 1;

        switch (advise(error, batch)) {
        case offload::Advice::kWait:
            return false;
        case offload::Advice::kDrop:
            if (zerocopy && error == ENOBUFS) {
                zerocopy = false; // too many completions outstanding: copy this one
                continue;
            }
            break;
        case offload::Advice::kSendSingly:
            if (batch.packets() > 1) {
                gso_ = false;
                return send(batch, protection, key_form);
            }
            break;
        case offload::Advice::kProgramError:
            // Once: what follows is counted.
            if (first_time)
                std::fprintf(stderr, "sendmsg of %zu packets of %zu bytes: %s\n", batch.packets(),
                             batch.gso_size(), std::strerror(error));
            [[fallthrough]];
        case offload::Advice::kUserSpace:
            if (!batch.plaintext())
                break;
            batch.plaintext()->key->step_back(error);
            zerocopy = false;
            if (step_back(batch, protection))
                continue;
            break;
        }
        stats_.datagrams_dropped += batch.packets();
        return true;
    }
}

void Endpoint::send_raw(const Address &local, const Address &remote, std::uint8_t ecn,
                        std::span<const std::uint8_t> bytes) {
    offload::ControlMessages<> control;
    append_path(control, local, remote, ecn);
    iovec vector{const_cast<std::uint8_t *>(bytes.data()), bytes.size()}; // NOLINT
    msghdr message{};
    message.msg_name = const_cast<sockaddr_storage *>(&remote.storage); // NOLINT
    message.msg_namelen = remote.length;
    message.msg_iov = &vector;
    message.msg_iovlen = 1;
    control.attach(message);
    if (sendmsg(fd_, &message, 0) < 0) {
        ++stats_.send_errors[errno];
        ++stats_.datagrams_dropped;
        return;
    }
    ++stats_.datagrams_sent;
    stats_.bytes_sent += bytes.size();
}

void Endpoint::read_error_queue() {
    // An entry is all the completions that have come since the last one was read, as a range.
    for (;;) {
        alignas(cmsghdr) std::array<std::uint8_t, kErrorControlSize> control;
        msghdr message{};
        message.msg_control = control.data();
        message.msg_controllen = control.size();
        if (recvmsg(fd_, &message, MSG_ERRQUEUE | MSG_DONTWAIT) < 0)
            return;
        for (cmsghdr *cmsg = CMSG_FIRSTHDR(&message); cmsg; cmsg = CMSG_NXTHDR(&message, cmsg)) {
            const bool is_error =
                (cmsg->cmsg_level == IPPROTO_IP && cmsg->cmsg_type == IP_RECVERR) ||
                (cmsg->cmsg_level == IPPROTO_IPV6 && cmsg->cmsg_type == IPV6_RECVERR);
            if (!is_error)
                continue;
            sock_extended_err error{};
            std::memcpy(&error, CMSG_DATA(cmsg), sizeof(error));
            if (error.ee_origin == SO_EE_ORIGIN_ZEROCOPY && error.ee_errno == 0)
                complete_zerocopy(error.ee_info, error.ee_data,
                                  error.ee_code & SO_EE_CODE_ZEROCOPY_COPIED);
        }
    }
}

// Sends @first to @last (the counter wraps) are done; they may come in any order.
void Endpoint::complete_zerocopy(std::uint32_t first, std::uint32_t last, bool copied) {
    for (std::uint32_t i = first; i != last + 1; ++i) {
        const std::uint32_t position = i - zerocopy_first_;
        if (position >= zerocopy_.size() || !zerocopy_[position].buffer)
            continue;
        zerocopy_[position].buffer.reset();
        ++stats_.zerocopy_completions;
        stats_.zerocopy_copied += copied;
    }
    while (!zerocopy_.empty() && !zerocopy_.front().buffer) {
        zerocopy_.pop_front();
        ++zerocopy_first_;
    }
}

} // namespace quic_server
