// SPDX-License-Identifier: MIT
//
// What the server counts, written as JSON at the end (--stats-json) and on request.
#ifndef QUIC_SERVER_STATS_HPP
#define QUIC_SERVER_STATS_HPP

#include <cstdint>
#include <map>
#include <string>

namespace quic_server {

// QUIC packets and datagrams that took one path out.
struct PathCounters {
    std::uint64_t packets = 0; // 1-RTT packets
    std::uint64_t bytes = 0;   // of those, as on the wire, tags included
    std::uint64_t sends = 0;   // sendmsg() calls that carried some
    std::uint64_t gso_sends = 0;
    std::uint64_t gso_max_packets = 0;
};

struct Stats {
    // Sending
    PathCounters kernel;         // left the server in plaintext, with a UDP_QUIC_CRYPTO cmsg
    PathCounters user;           // protected by the TLS library
    std::uint64_t coalesced = 0; // 1-RTT packets behind a long-header packet; not in @user
    std::uint64_t long_header_datagrams = 0;
    std::uint64_t bytes_sent = 0; // UDP payload, every kind
    std::uint64_t datagrams_sent = 0;
    std::uint64_t datagrams_dropped = 0; // given up after an error: QUIC sends the data again
    std::uint64_t sends_blocked = 0;     // EAGAIN
    std::uint64_t stepped_back = 0;      // plaintext packets protected in user space after an error
    std::map<int, std::uint64_t> send_errors; // errno of sendmsg()

    std::uint64_t zerocopy_sends = 0;
    std::uint64_t zerocopy_completions = 0;
    std::uint64_t zerocopy_copied = 0; // completions of sends the kernel copied after all

    // Keys
    std::uint64_t sas_installed = 0;
    std::uint64_t sas_deleted = 0;
    std::map<int, std::uint64_t> sa_install_errors; // errno of setsockopt()
    std::uint64_t key_updates_by_us = 0;
    std::uint64_t key_updates_by_peer = 0;

    // Receiving
    std::uint64_t datagrams_received = 0;
    std::uint64_t bytes_received = 0;
    std::uint64_t datagrams_ignored = 0; // no connection and not a start of one
    std::uint64_t ecn_ect_received = 0;
    std::uint64_t ecn_ce_received = 0;

    // Connections
    std::uint64_t connections = 0;
    std::uint64_t connections_closed = 0;
    std::uint64_t connections_failed = 0; // ended with an error of ours
    std::uint64_t handshakes = 0;
    std::uint64_t connections_kernel = 0; // whose first 1-RTT key went to the kernel
    std::uint64_t connections_user = 0;
    std::uint64_t connections_peak = 0;     // most at a time
    std::uint64_t path_changes = 0;         // validated new client addresses
    std::uint64_t retries = 0;              // Retry packets
    std::uint64_t version_negotiations = 0; // Version Negotiation packets
    std::uint64_t stateless_resets = 0;
    std::map<std::string, std::uint64_t> ciphers;

    // HTTP/3
    std::uint64_t requests = 0;
    std::map<int, std::uint64_t> responses; // by status
    std::uint64_t body_bytes_sent = 0;      // handed to the transport once; no retransmissions
    std::uint64_t body_bytes_received = 0;

    // One object, with a newline at the end.
    std::string to_json() const;
};

} // namespace quic_server

#endif
