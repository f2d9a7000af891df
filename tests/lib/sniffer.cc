// SPDX-License-Identifier: GPL-2.0
#include "sniffer.h"

#include <cerrno>
#include <cstring>
#include <stdexcept>

#include <arpa/inet.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <net/if.h>
#include <netinet/in.h>
#include <sys/socket.h>

namespace quic_test {
namespace {

std::uint16_t be16(ByteView bytes, std::size_t at) {
    return static_cast<std::uint16_t>(bytes[at] << 8 | bytes[at + 1]);
}

void sum(std::uint64_t &total, ByteView bytes) {
    for (std::size_t i = 0; i < bytes.size(); ++i)
        total += i % 2 ? bytes[i] : static_cast<unsigned>(bytes[i]) << 8;
}

bool checksum_right(ByteView addresses, ByteView udp) {
    std::uint64_t total = IPPROTO_UDP + udp.size();
    sum(total, addresses);
    sum(total, udp);
    while (total >> 16)
        total = (total & 0xffff) + (total >> 16);
    return total == 0xffff;
}

UdpView find_in_ip(ByteView ip, int depth) {
    UdpView none;
    if (depth > 4 || ip.size() < 20)
        return none;
    ByteView addresses;
    ByteView rest;
    unsigned protocol = 0;
    if (ip[0] >> 4 == 4) {
        const std::size_t header = (ip[0] & 15) * 4U;
        const std::size_t total = be16(ip, 2);
        if (header < 20 || total < header || total > ip.size() || (be16(ip, 6) & 0x1fff) != 0)
            return none;
        protocol = ip[9];
        addresses = ip.subspan(12, 8);
        rest = ip.subspan(header, total - header);
    } else if (ip[0] >> 4 == 6 && ip.size() >= 40) {
        protocol = ip[6];
        const std::size_t length = be16(ip, 4);
        if (length + 40 > ip.size())
            return none;
        addresses = ip.subspan(8, 32);
        rest = ip.subspan(40, length);
        while (protocol == IPPROTO_HOPOPTS || protocol == IPPROTO_DSTOPTS ||
               protocol == IPPROTO_ROUTING) {
            if (rest.size() < 8 || rest.size() < (rest[1] + 1U) * 8U)
                return none;
            protocol = rest[0];
            rest = rest.subspan((rest[1] + 1U) * 8U);
        }
    } else {
        return none;
    }
    if (protocol == IPPROTO_IPIP || protocol == IPPROTO_IPV6)
        return find_in_ip(rest, depth + 1);
    if (protocol != IPPROTO_UDP || rest.size() < 8)
        return none;
    const std::size_t length = be16(rest, 4);
    if (length < 8 || length > rest.size())
        return none;
    UdpView view;
    view.found = true;
    view.source_port = be16(rest, 0);
    view.destination_port = be16(rest, 2);
    view.payload = rest.subspan(8, length - 8);
    view.checksum_present = be16(rest, 6) != 0;
    view.checksum_right = checksum_right(addresses, rest.first(length));
    return view;
}

} // namespace

UdpView find_udp(const Frame &frame) {
    if (frame.protocol != ETH_P_IP && frame.protocol != ETH_P_IPV6)
        return {};
    return find_in_ip(frame.data, 0);
}

Sniffer::Sniffer(std::string where)
    : where_(std::move(where)),
      fd_(::socket(AF_PACKET, SOCK_DGRAM | SOCK_CLOEXEC, htons(ETH_P_ALL))) {
    if (fd_.get() < 0)
        throw_errno("AF_PACKET");
    const int size = 64 << 20;
    const int on = 1;
    if (::setsockopt(fd_.get(), SOL_SOCKET, SO_RCVBUFFORCE, &size, sizeof(size)) != 0 ||
        ::setsockopt(fd_.get(), SOL_PACKET, PACKET_AUXDATA, &on, sizeof(on)) != 0)
        throw_errno("AF_PACKET options");
}

std::vector<Frame> Sniffer::drain() {
    std::vector<Frame> out;
    for (;;) {
        Bytes buffer(70000);
        sockaddr_ll from{};
        iovec data{buffer.data(), buffer.size()};
        alignas(cmsghdr) char control[256];
        msghdr header{};
        header.msg_name = &from;
        header.msg_namelen = sizeof(from);
        header.msg_iov = &data;
        header.msg_iovlen = 1;
        header.msg_control = control;
        header.msg_controllen = sizeof(control);
        const ssize_t length = ::recvmsg(fd_.get(), &header, MSG_DONTWAIT);
        if (length < 0) {
            if (errno == ENETDOWN || errno == EINTR)
                continue;
            break;
        }
        if (from.sll_pkttype == PACKET_OUTGOING && ignored_.contains(from.sll_ifindex))
            continue;
        Frame frame;
        buffer.resize(static_cast<std::size_t>(length));
        frame.data = std::move(buffer);
        frame.ifindex = from.sll_ifindex;
        frame.protocol = ntohs(from.sll_protocol);
        for (cmsghdr *cmsg = CMSG_FIRSTHDR(&header); cmsg != nullptr;
             cmsg = CMSG_NXTHDR(&header, cmsg)) {
            if (cmsg->cmsg_level != SOL_PACKET || cmsg->cmsg_type != PACKET_AUXDATA)
                continue;
            tpacket_auxdata auxdata{};
            std::memcpy(&auxdata, CMSG_DATA(cmsg), sizeof(auxdata));
            frame.checksum_ready = (auxdata.tp_status & TP_STATUS_CSUMNOTREADY) == 0;
        }
        out.push_back(std::move(frame));
    }
    tpacket_stats statistics{};
    socklen_t size = sizeof(statistics);
    if (::getsockopt(fd_.get(), SOL_PACKET, PACKET_STATISTICS, &statistics, &size) == 0 &&
        statistics.tp_drops > 0)
        throw std::runtime_error("the sniffer at " + where_ + " lost frames");
    return out;
}

std::vector<std::string> Sniffer::complaints() {
    std::vector<std::string> out;
    for (const Frame &frame : drain()) {
        const std::string what = where_ + ", device " + std::to_string(frame.ifindex) + ", " +
                                 std::to_string(frame.data.size()) + " bytes: ";
        if (contains_plaintext(frame.data))
            out.push_back(
                what + "PLAINTEXT " +
                to_hex(ByteView(frame.data).first(std::min<std::size_t>(frame.data.size(), 80))));
        const UdpView udp = find_udp(frame);
        if (!udp.found)
            continue;
        ++udp_frames_;
        // A super-packet that is still to be cut has no checksum of its own.
        if (frame.checksum_ready && udp.checksum_present) {
            ++checksums_verified_;
            if (!udp.checksum_right)
                out.push_back(what + "wrong UDP checksum");
        }
    }
    return out;
}

} // namespace quic_test
