// SPDX-License-Identifier: MIT
#include "sockets.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <filesystem>
#include <fstream>
#include <optional>
#include <sstream>
#include <string_view>

#include <arpa/inet.h>

namespace quic_sadb {
namespace {

template <typename T> std::optional<T> number(std::string_view text, int base = 10) {
    T value{};
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value, base);
    if (error != std::errc() || end != text.data() + text.size())
        return std::nullopt;
    return value;
}

// "0100007F:1151", as in /proc/net/udp and udp6: words of the address in host order, then the port.
// Empty for port 0.
std::string address(std::string_view text) {
    const auto colon = text.find(':');
    if (colon != 8 && colon != 32)
        return {};
    const auto port = number<std::uint16_t>(text.substr(colon + 1), 16);
    std::array<std::uint32_t, 4> words{};
    for (std::size_t i = 0; i * 8 < colon; ++i) {
        const auto word = number<std::uint32_t>(text.substr(i * 8, 8), 16);
        if (!word)
            return {};
        words[i] = *word;
    }
    if (!port || *port == 0)
        return {};
    std::array<char, INET6_ADDRSTRLEN> out{};
    const bool v6 = colon == 32;
    ::inet_ntop(v6 ? AF_INET6 : AF_INET, words.data(), out.data(), out.size());
    return (v6 ? '[' + std::string(out.data()) + ']' : std::string(out.data())) + ':' +
           std::to_string(*port);
}

void read_addresses(const char *file, std::map<std::uint64_t, SocketInfo> &sockets) {
    std::ifstream in(file);
    std::string line;
    std::getline(in, line); // headings
    while (std::getline(in, line)) {
        std::istringstream words(line);
        std::array<std::string, 10> word; // number, local, peer, ..., inode
        for (std::string &w : word)
            words >> w;
        const auto inode = number<std::uint64_t>(word[9]);
        const auto found = inode ? sockets.find(*inode) : sockets.end();
        if (found == sockets.end())
            continue;
        found->second.local = address(word[1]);
        found->second.peer = address(word[2]);
    }
}

void find_processes(std::map<std::uint64_t, SocketInfo> &sockets) {
    namespace fs = std::filesystem;
    constexpr std::string_view kPrefix = "socket:[";
    std::error_code error; // processes come and go, and others' are closed
    for (fs::directory_iterator process("/proc", error), end; process != end;
         process.increment(error)) {
        const auto pid = number<std::uint32_t>(process->path().filename().string());
        if (!pid)
            continue;
        std::error_code closed;
        std::set<std::uint64_t> seen; // one socket may have many descriptors
        for (fs::directory_iterator fd(process->path() / "fd", closed); fd != end;
             fd.increment(closed)) {
            const std::string target = fs::read_symlink(fd->path(), closed).string();
            if (closed || !target.starts_with(kPrefix) || target.back() != ']')
                continue;
            const auto inode = number<std::uint64_t>(std::string_view(target).substr(
                kPrefix.size(), target.size() - kPrefix.size() - 1));
            const auto found = inode ? sockets.find(*inode) : sockets.end();
            if (found == sockets.end() || !seen.insert(*inode).second)
                continue;
            std::string name;
            std::ifstream comm(process->path() / "comm");
            std::getline(comm, name);
            found->second.processes.push_back({*pid, name});
        }
    }
    for (auto &[inode, socket] : sockets)
        std::sort(socket.processes.begin(), socket.processes.end(),
                  [](const Process &a, const Process &b) { return a.pid < b.pid; });
}

} // namespace

std::map<std::uint64_t, SocketInfo> find_sockets(const std::set<std::uint64_t> &inodes) {
    std::map<std::uint64_t, SocketInfo> sockets;
    for (const std::uint64_t inode : inodes)
        sockets[inode];
    if (sockets.empty())
        return sockets;
    read_addresses("/proc/net/udp", sockets);
    read_addresses("/proc/net/udp6", sockets);
    find_processes(sockets);
    return sockets;
}

} // namespace quic_sadb
