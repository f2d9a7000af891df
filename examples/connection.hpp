// SPDX-License-Identifier: MIT
//
// One QUIC connection: ngtcp2 below an HTTP/3 session, above the packet protection and a socket.
#ifndef QUIC_SERVER_CONNECTION_HPP
#define QUIC_SERVER_CONNECTION_HPP

#include "endpoint.hpp"
#include "http3.hpp"
#include "packet_protection.hpp"
#include "tls.hpp"
#include "tx_batch.hpp"

#include <ngtcp2/ngtcp2.h>

#include <cstdint>
#include <deque>
#include <memory>
#include <span>
#include <string>
#include <vector>

namespace quic_server {

// Nanoseconds of CLOCK_MONOTONIC.
std::uint64_t now_ns();

struct ConnectionOptions {
    std::size_t cid_length = 16;          // of our own connection IDs, 0 to 20
    std::uint64_t key_update_packets = 0; // 0: none of our own
    std::uint64_t idle_timeout_ns = 30'000'000'000;
    std::size_t max_batch_packets = 64;
    bool path_mtu_discovery = true;
    bool log = false; // ngtcp2's own log on stderr
};

class Connection;

// What a connection needs of the server that holds it.
class ConnectionHost {
  public:
    virtual ~ConnectionHost() = default;
    // @connection can be reached by @cid from now on, or not any more.
    virtual void add_cid(const ngtcp2_cid &cid, Connection &connection) = 0;
    virtual void remove_cid(const ngtcp2_cid &cid) = 0;
    // Fills @token with the stateless reset token of @cid, 16 bytes.
    virtual bool make_reset_token(const ngtcp2_cid &cid, std::uint8_t *token) = 0;
    // Keeps @key until packets in the kernel's queues have gone.
    virtual void retire_key(std::shared_ptr<TxKey> key) = 0;
    // A NEW_TOKEN token for @remote; empty: none.
    virtual std::vector<std::uint8_t> make_address_token(const Address &remote) = 0;
};

class Connection {
  public:
    struct Services {
        ConnectionHost &host;
        const ConnectionOptions &options;
        const TlsContext &tls;
        ContentSource &content;
        OffloadPolicy &policy;
        TxBufferPool &buffers;
        Stats &stats;
    };

    // From the client's first Initial packet, whose header is @initial. @original_dcid: what a
    // validated Retry token holds, else null. Nothing: ngtcp2 or TLS refused.
    static std::unique_ptr<Connection> accept(const Services &services, Endpoint &endpoint,
                                              const Address &local, const Address &remote,
                                              const ngtcp2_pkt_hd &initial,
                                              const ngtcp2_cid *original_dcid);
    ~Connection();
    Connection(const Connection &) = delete;
    Connection &operator=(const Connection &) = delete;

    enum class Verdict {
        kAlive,
        kRetry, // the client's address has to be validated first; forget this connection
        kGone,  // forget this connection
    };
    Verdict receive(Endpoint &endpoint, const ReceivedDatagram &datagram);
    Verdict handle_timer();
    // Sends what there is to be sent, one quantum at most.
    Verdict write();
    // Ends it in good order: CONNECTION_CLOSE with H3_NO_ERROR.
    void close();

    // More to be sent, as far as is known: call write() again.
    bool wants_write() const { return wants_write_ && waiting_.empty(); }
    // Waits for this socket to become writable; null: does not.
    Endpoint *blocked_on() const {
        return waiting_.empty() ? nullptr : waiting_.front().endpoint();
    }
    std::uint64_t next_timer_ns() const;
    bool is_closing() const { return close_deadline_ns_ != 0; }

    // Of the server's timer queue.
    std::uint64_t queued_timer_ns = 0;
    // The client's first choice of our connection ID, and what the table knows this connection by.
    const ngtcp2_cid &client_dcid() const { return client_dcid_; }
    std::vector<ngtcp2_cid> cids() const;

  private:
    Connection(const Services &services, Endpoint &endpoint);
    bool init(Endpoint &endpoint, const Address &local, const Address &remote,
              const ngtcp2_pkt_hd &initial, const ngtcp2_cid *original_dcid);
    static ngtcp2_callbacks make_callbacks();
    static ngtcp2_conn *conn_of_ref(ngtcp2_crypto_conn_ref *ref);

    int http(int rc); // notes an nghttp3 error and turns it into ngtcp2's
    bool on_handshake_completed();
    int new_cid(ngtcp2_cid *cid, std::uint8_t *token, std::size_t length);

    Verdict fail(int ngtcp2_error);
    Verdict start_closing();
    void send_close_packet();
    // False: the socket is full.
    bool send_waiting();
    // Writes one datagram into @space, and where it goes into @path. 0: nothing to send now.
    // Negative: an ngtcp2 error.
    ngtcp2_ssize write_datagram(std::span<std::uint8_t> space, ngtcp2_path &path,
                                Datagram &datagram, std::uint64_t now);
    void maybe_update_key(std::uint64_t now);

    Services services_;
    PacketProtection protection_;
    ngtcp2_crypto_conn_ref conn_ref_{};
    ngtcp2_conn *conn_ = nullptr;
    std::unique_ptr<TlsSession> tls_;
    std::unique_ptr<Http3Session> http_;
    ngtcp2_cid client_dcid_{};
    ngtcp2_connection_close_error close_error_{};
    bool wants_write_ = false;
    bool update_initiated_ = false;
    std::deque<TxBatch> waiting_; // written, not sent yet
    std::vector<std::uint8_t> close_packet_;
    std::uint64_t close_deadline_ns_ = 0;
};

} // namespace quic_server

#endif
