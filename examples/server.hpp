// SPDX-License-Identifier: MIT
//
// The server: sockets, the table of connections, timers, and what needs no connection (Retry,
// Version Negotiation). One thread.
#ifndef QUIC_SERVER_SERVER_HPP
#define QUIC_SERVER_SERVER_HPP

#include "connection.hpp"
#include "content.hpp"
#include "endpoint.hpp"
#include "stats.hpp"
#include "tls.hpp"

#include <array>
#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <unordered_map>
#include <vector>

namespace quic_server {

struct ServerOptions {
    std::vector<Address> listen;
    EndpointOptions endpoint;
    ConnectionOptions connection;
    PathChoice path = PathChoice::kAuto;
    KeyForm key_form = KeyForm::kIndex;
    bool retry = false;
    std::size_t max_connections = 16384; // at a time; more are refused
    bool verbose = false;
    std::uint64_t max_runtime_ns = 0;         // 0: no limit
    std::uint64_t exit_after_connections = 0; // ended ones; 0: no limit
};

class Server : private ConnectionHost {
  public:
    // Opens the sockets and finds out what the kernel can do. Nothing, and a line on stderr, on
    // failure. All arguments outlive the server.
    static std::unique_ptr<Server> make(const ServerOptions &options, const TlsContext &tls,
                                        ContentSource &content, Stats &stats);
    ~Server() override;
    Server(const Server &) = delete;
    Server &operator=(const Server &) = delete;

    // Until stop() or a limit of the options, then closes every connection.
    void run();
    // Safe in a signal handler.
    void stop() { stop_ = 1; }

    const std::vector<std::unique_ptr<Endpoint>> &endpoints() const { return endpoints_; }
    // Whether 1-RTT packets go to the kernel in plaintext, and why not if they do not.
    bool uses_kernel() const;
    std::string path_description() const;

  private:
    Server(const ServerOptions &options, const TlsContext &tls, ContentSource &content,
           Stats &stats);
    bool open();
    bool choose_path();

    void add_cid(const ngtcp2_cid &cid, Connection &connection) override;
    void remove_cid(const ngtcp2_cid &cid) override;
    bool make_reset_token(const ngtcp2_cid &cid, std::uint8_t *token) override;
    void retire_key(std::shared_ptr<TxKey> key) override;
    std::vector<std::uint8_t> make_address_token(const Address &remote) override;

    void wait();
    std::uint64_t next_wakeup_ns() const;
    void run_timers();
    void write_all();
    void bury_keys(std::uint64_t now);

    void on_datagram(Endpoint &endpoint, const ReceivedDatagram &datagram);
    Connection *find(const ngtcp2_version_cid &cids, const ReceivedDatagram &datagram);
    void accept(Endpoint &endpoint, const ReceivedDatagram &datagram);
    void send_retry(Endpoint &endpoint, const ReceivedDatagram &datagram,
                    const ngtcp2_pkt_hd &initial);
    void send_version_negotiation(Endpoint &endpoint, const ReceivedDatagram &datagram,
                                  const ngtcp2_version_cid &cids);
    // For a 1-RTT packet of a connection that is no more (RFC 9000 section 10.3).
    void send_stateless_reset(Endpoint &endpoint, const ReceivedDatagram &datagram,
                              const ngtcp2_version_cid &cids);
    // Answers the Initial packet with a CONNECTION_CLOSE and remembers nothing.
    void refuse(Endpoint &endpoint, const ReceivedDatagram &datagram, const ngtcp2_pkt_hd &initial,
                std::uint64_t error_code);
    void after(Connection &connection, Connection::Verdict verdict);
    void forget(Connection &connection);

    const ServerOptions &options_;
    ConnectionOptions connection_options_; // within what the kernel can do
    const TlsContext &tls_;
    ContentSource &content_;
    Stats &stats_;
    OffloadPolicy policy_;
    std::string why_user_;
    std::array<std::uint8_t, 32> secret_{}; // of tokens and stateless resets
    std::shared_ptr<TxBufferPool> buffers_;
    std::vector<std::unique_ptr<Endpoint>> endpoints_;

    // Keys whose packets may still be queued in the kernel, by the time they may go.
    std::deque<std::pair<std::uint64_t, std::shared_ptr<TxKey>>> retired_keys_;
    std::unordered_map<std::string, Connection *> by_cid_;
    // What tells connections apart when their IDs have no bytes: our address and the client's.
    using AddressPair = std::pair<Address, Address>;
    std::map<AddressPair, Connection *> by_address_;
    std::map<Connection *, std::unique_ptr<Connection>> connections_;
    std::set<std::pair<std::uint64_t, Connection *>> timers_;
    std::set<Connection *> writers_;
    std::set<Connection *> blocked_; // wait for their socket
    volatile int stop_ = 0;
};

} // namespace quic_server

#endif
