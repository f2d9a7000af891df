// SPDX-License-Identifier: MIT
//
// Which datagrams go to the kernel together in one UDP_SEGMENT send.
#ifndef QUIC_SERVER_TX_BATCH_HPP
#define QUIC_SERVER_TX_BATCH_HPP

#include "address.hpp"
#include "packet_protection.hpp"

#include <ngtcp2/ngtcp2.h>

#include <cstdint>
#include <cstdlib>
#include <memory>
#include <optional>
#include <span>
#include <vector>

namespace quic_server {

class Endpoint;

// 64 kB to write packets into, page aligned so that MSG_ZEROCOPY needs the fewest page fragments.
class TxBuffer {
  public:
    static constexpr std::size_t kSize = 65536;
    TxBuffer() : bytes_(static_cast<std::uint8_t *>(std::aligned_alloc(4096, kSize))) {
        if (!bytes_)
            std::abort();
    }
    ~TxBuffer() { std::free(bytes_); }
    TxBuffer(const TxBuffer &) = delete;
    TxBuffer &operator=(const TxBuffer &) = delete;
    std::span<std::uint8_t> bytes() { return {bytes_, kSize}; }

  private:
    std::uint8_t *bytes_;
};

// A buffer goes back to its pool when the last batch, sent with MSG_ZEROCOPY or waiting, lets go.
class TxBufferPool : public std::enable_shared_from_this<TxBufferPool> {
  public:
    std::shared_ptr<TxBuffer> get();

  private:
    static constexpr std::size_t kKeep = 64;
    std::vector<std::unique_ptr<TxBuffer>> free_;
};

struct Datagram {
    std::size_t offset = 0; // in the buffer
    std::size_t length = 0;
    ngtcp2_path path{};   // its addresses, and the Endpoint that it goes out of
    std::uint8_t ecn = 0; // the two bits (RFC 3168)
    std::optional<PlaintextPacket> plaintext;
    bool batchable = true; // a path MTU probe is not: the kernel may refuse it
};

// One or more datagrams that one sendmsg() can carry: same addresses and ECN, same size but for a
// shorter last one and, when they are plaintext, same key and packet numbers without a gap.
class TxBatch {
  public:
    // @max_packets: at least 1
    TxBatch(std::shared_ptr<TxBuffer> buffer, const Datagram &first, std::size_t max_packets);

    // Whether @next, which follows in the buffer, was taken in.
    bool append(const Datagram &next);

    std::span<std::uint8_t> bytes() const { return buffer_->bytes().subspan(offset_, length_); }
    const std::shared_ptr<TxBuffer> &buffer() const { return buffer_; }
    Endpoint *endpoint() const { return endpoint_; }
    const Address &local() const { return local_; }
    const Address &remote() const { return remote_; }
    std::uint8_t ecn() const { return ecn_; }
    std::size_t packets() const { return packets_; }
    std::size_t gso_size() const { return gso_size_; }
    // Of the first packet; nothing when the packets are protected already.
    const std::optional<PlaintextPacket> &plaintext() const { return plaintext_; }
    // Packet @i and, if the batch is plaintext, what belongs to it.
    std::span<std::uint8_t> packet(std::size_t i) const;
    PlaintextPacket plaintext_of(std::size_t i) const;
    // Every packet has been protected in place.
    void mark_protected() { plaintext_.reset(); }
    // Takes the first packet away, for sending one by one. There must be another.
    TxBatch split_first();

  private:
    std::shared_ptr<TxBuffer> buffer_;
    std::size_t offset_;
    std::size_t length_;
    std::size_t gso_size_;
    std::size_t packets_ = 1;
    std::size_t max_packets_;
    Endpoint *endpoint_;
    Address local_;
    Address remote_;
    std::uint8_t ecn_;
    std::optional<PlaintextPacket> plaintext_;
    bool open_;
};

} // namespace quic_server

#endif
