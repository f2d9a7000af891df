// SPDX-License-Identifier: MIT
//
// A UDP socket of the server: receives datagrams, sends batches of QUIC packets.
#ifndef QUIC_SERVER_ENDPOINT_HPP
#define QUIC_SERVER_ENDPOINT_HPP

#include "address.hpp"
#include "stats.hpp"
#include "tx_batch.hpp"

#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <span>

namespace quic_server {

struct EndpointOptions {
    bool gso = true;
    bool zerocopy = false;
    bool dual_stack = false;   // an IPv6 socket that takes IPv4 too (v4-mapped addresses)
    int send_buffer = 4 << 20; // bytes; the system's limit applies
    int receive_buffer = 4 << 20;
};

struct ReceivedDatagram {
    Address local;
    Address remote;
    std::uint8_t ecn = 0;
    std::span<const std::uint8_t> bytes;
};

class Endpoint {
  public:
    // Largest UDP payload taken in, to be announced as max_udp_payload_size.
    static constexpr std::size_t kMaxReceive = 9216;

    // Nothing, and a line on stderr, on failure. @stats outlives the endpoint.
    static std::unique_ptr<Endpoint> open(const Address &address, const EndpointOptions &options,
                                          Stats &stats);
    ~Endpoint();
    Endpoint(const Endpoint &) = delete;
    Endpoint &operator=(const Endpoint &) = delete;

    int fd() const { return fd_; }
    const Address &address() const { return address_; }
    bool gso() const { return gso_; }

    // Hands over at most some dozens of datagrams, so that sending gets its turn.
    // True: there may be more.
    bool receive(const std::function<void(const ReceivedDatagram &)> &handler);

    // Sends all of @batch. False: the socket's buffer is full; what is left in @batch is to be sent
    // when the socket is writable again. Datagrams that cannot be sent for another reason are
    // dropped, as the network might have done; plaintext ones that the kernel will not protect are
    // protected by @protection first. @key_form: how they name their keys.
    bool send(TxBatch &batch, PacketProtection &protection, KeyForm key_form);

    // For packets outside of any connection (Retry, Version Negotiation) and CONNECTION_CLOSE
    // packets that are sent again. Best effort.
    void send_raw(const Address &local, const Address &remote, std::uint8_t ecn,
                  std::span<const std::uint8_t> bytes);

    // Takes zero-copy completions and errors from the error queue.
    void read_error_queue();
    bool has_zerocopy_outstanding() const { return !zerocopy_.empty(); }

  private:
    struct ReceiveRing;

    Endpoint(int fd, Stats &stats);
    int send_once(const TxBatch &batch, KeyForm key_form, bool zerocopy);
    void count_sent(const TxBatch &batch);
    bool step_back(TxBatch &batch, PacketProtection &protection);
    void complete_zerocopy(std::uint32_t first, std::uint32_t last, bool copied);

    int fd_;
    std::unique_ptr<ReceiveRing> receive_ring_;
    Stats &stats_;
    Address address_;
    bool gso_ = true;
    bool use_zerocopy_ = false;

    // Buffers the kernel still reads from, by the socket's counter of MSG_ZEROCOPY sends. Only
    // sends that the kernel protects are made with MSG_ZEROCOPY: of those, and of no others, it is
    // known that the counter has counted them when sendmsg() returned bytes, and has not when it
    // failed.
    struct ZeroCopySend {
        std::shared_ptr<TxBuffer> buffer; // null: completed, but an earlier one is not
    };
    std::deque<ZeroCopySend> zerocopy_;
    std::uint32_t zerocopy_first_ = 0; // counter value of zerocopy_.front()
};

} // namespace quic_server

#endif
