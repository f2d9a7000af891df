// SPDX-License-Identifier: MIT
#ifndef QUIC_SERVER_ADDRESS_HPP
#define QUIC_SERVER_ADDRESS_HPP

#include <netinet/in.h>
#include <sys/socket.h>

#include <cstring>
#include <string>

namespace quic_server {

// An IPv4 or IPv6 address with a port.
struct Address {
    union {
        sockaddr any;
        sockaddr_in in4;
        sockaddr_in6 in6;
        sockaddr_storage storage;
    };
    socklen_t length = 0;

    Address() : storage{} {}
    Address(const sockaddr *address, socklen_t address_length) : storage{} {
        if (address_length <= sizeof(storage)) {
            std::memcpy(&storage, address, address_length);
            length = address_length;
        }
    }

    int family() const { return any.sa_family; }
    bool operator==(const Address &other) const { return is(&other.any, other.length); }
    bool operator<(const Address &other) const {
        return length != other.length ? length < other.length
                                      : std::memcmp(&storage, &other.storage, length) < 0;
    }
    bool is(const sockaddr *address, socklen_t address_length) const {
        return length == address_length && std::memcmp(&any, address, address_length) == 0;
    }
    // "192.0.2.1:443", "[2001:db8::1]:443"
    std::string to_string() const;
};

} // namespace quic_server

#endif
