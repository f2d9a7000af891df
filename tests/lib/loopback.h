// SPDX-License-Identifier: GPL-2.0
//
// A sender and a receiver on the loopback device, in each of the address forms.
#pragma once

#include "udp_crypto.h"

namespace quic_test {

enum class Family { kIpv4, kIpv6, kMapped };
inline constexpr Family kAllFamilies[] = {Family::kIpv4, Family::kIpv6, Family::kMapped};
const char *name(Family family);
// AF_INET or AF_INET6
int socket_domain(Family family);
Address loopback_address(Family family, std::uint16_t port);

struct Loopback {
    UniqueFd sender;
    UniqueFd receiver;
    Address to_address;
    bool connected = false;

    Loopback(Family family, bool connected);
    // For Message::to
    const Address *to() const { return connected ? nullptr : &to_address; }
};

} // namespace quic_test
