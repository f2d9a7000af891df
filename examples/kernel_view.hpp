// SPDX-License-Identifier: MIT
//
// What kernel and NIC tell about the packet protection of everybody on this machine: the counters
// of the network namespace, and each device that has the offload. Needs no privilege.
#ifndef QUIC_SERVER_KERNEL_VIEW_HPP
#define QUIC_SERVER_KERNEL_VIEW_HPP

#include <cstdint>
#include <map>
#include <string>
#include <vector>

namespace quic_server {

using Counters = std::map<std::string, std::uint64_t>;

struct OffloadDevice {
    std::string name;
    bool enabled = false;
    // Security associations in the device's database, and how many it has room for; 0: it has no
    // limit of its own, or the driver does not tell.
    std::uint32_t sa_count = 0;
    std::uint32_t sa_max = 0;
    Counters counters; // those of `ethtool -S` that have quic in their names
};

struct KernelView {
    Counters counters; // /proc/net/udp_crypto_stat; empty on a kernel without UDP_CRYPTO
    std::vector<OffloadDevice> devices;
};

// Blocks for as long as the drivers take to ask their devices: milliseconds.
KernelView read_kernel_view();

} // namespace quic_server

#endif
