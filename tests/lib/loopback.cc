// SPDX-License-Identifier: GPL-2.0
#include "loopback.h"

namespace quic_test {

const char *name(Family family) {
    switch (family) {
    case Family::kIpv4:
        return "Ipv4";
    case Family::kIpv6:
        return "Ipv6";
    case Family::kMapped:
        return "Mapped";
    }
    return "?";
}

int socket_domain(Family family) { return family == Family::kIpv4 ? AF_INET : AF_INET6; }

Address loopback_address(Family family, std::uint16_t port) {
    switch (family) {
    case Family::kIpv4:
        return Address::v4("127.0.0.1", port);
    case Family::kIpv6:
        return Address::v6("::1", port);
    case Family::kMapped:
        return Address::mapped("127.0.0.1", port);
    }
    return {};
}

// Root of a user namespace may not go above the limit, and does without.
static void grow_buffer(int fd, int option) {
    const int size = 16 << 20;
    if (::setsockopt(fd, SOL_SOCKET, option, &size, sizeof(size)) != 0 && errno != EPERM)
        throw_errno("socket buffer");
}

Loopback::Loopback(Family family, bool connected) : connected(connected) {
    const Family receiver_family = family == Family::kMapped ? Family::kIpv4 : family;
    receiver = udp_socket(socket_domain(receiver_family));
    grow_buffer(receiver.get(), SO_RCVBUFFORCE);
    bind_to(receiver.get(), loopback_address(receiver_family, 0));
    to_address = loopback_address(family, Address::of_socket(receiver.get()).port());
    sender = udp_socket(socket_domain(family));
    grow_buffer(sender.get(), SO_SNDBUFFORCE);
    if (connected)
        connect_to(sender.get(), to_address);
}

} // namespace quic_test
