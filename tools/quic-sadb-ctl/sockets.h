// SPDX-License-Identifier: MIT
//
// Whose a socket is, and where it is bound: what the netlink family tells of a socket is its inode,
// as ss(8) and /proc have it.
#pragma once

#include <cstdint>
#include <map>
#include <set>
#include <string>
#include <vector>

namespace quic_sadb {

struct Process {
    std::uint32_t pid = 0;
    std::string name; // /proc/PID/comm, at most 15 characters
};

struct SocketInfo {
    std::string local; // "192.0.2.1:443", "[::]:443"; empty when not bound
    std::string peer;  // empty unless connected
    std::vector<Process> processes;
};

// Addresses are those of the calling process's network namespace. Processes are found as far as the
// caller may look into /proc/PID/fd, which for root is all of its PID namespace.
std::map<std::uint64_t, SocketInfo> find_sockets(const std::set<std::uint64_t> &inodes);

} // namespace quic_sadb
