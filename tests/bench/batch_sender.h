// SPDX-License-Identifier: GPL-2.0
//
// One way to get protected packets out, set up so that a send costs nothing but what it must.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include <linux/udp_crypto.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include "packets.h"
#include "quic_reference.h"
#include "udp_crypto.h"
#include "user_protection.h"

namespace quic_bench {

enum class Protection {
    kNone,   // no protection at all: what UDP itself costs
    kUser,   // OpenSSL in the sender's own process
    kIndex,  // an SA of the kernel: the device's, or software where the offload is off
    kInline, // keys with each send
};

struct Way {
    const char *name;
    Protection protection = Protection::kNone;
    quic_test::Cipher cipher = quic_test::Cipher::kAes128Gcm;
    bool zerocopy = false; // MSG_ZEROCOPY, and with an SA UDP_QUIC_CRYPTO_F_TAG_ROOM
    bool offload = true;   // the device's feature is on
    bool guarded = false;  // UDP_CRYPTO_SA_F_GUARD_PN, and a packet limit
};

// Whole-page buffers in turn, locked in memory and made of small pages, as a sender has that keeps
// what the kernel may still be reading.
class BufferRing {
  public:
    static constexpr std::size_t kBufferSize = 64 * 1024;
    static constexpr unsigned kBuffers = 64;

    BufferRing();
    ~BufferRing();
    BufferRing(const BufferRing &) = delete;
    BufferRing &operator=(const BufferRing &) = delete;

    std::uint8_t *next() {
        next_ = (next_ + 1) % kBuffers;
        return memory_ + next_ * kBufferSize;
    }

  private:
    std::uint8_t *memory_ = nullptr;
    unsigned next_ = 0;
};

// A connected socket that sends batches of kWireSize packets one way.
class BatchSender {
  public:
    // @to: with an entry in the neighbour table. @packets: 1 to kMaxPackets; more than one are sent
    // with UDP_SEGMENT. Throws when the way is not there.
    BatchSender(const Way &way, const quic_test::Address &to, unsigned packets,
                BufferRing &buffers);
    // For another thread: the socket and the SA of @other, numbers from @first_pn on. Not with
    // MSG_ZEROCOPY or Protection::kUser.
    BatchSender(const BatchSender &other, BufferRing &buffers, std::uint64_t first_pn);

    // Sends the next batch. Throws when the kernel does not take it.
    void send();
    // Reads what completions of MSG_ZEROCOPY there are. send() does so every kReapEvery sends.
    void reap();

    // Sends from now on with another SA of this socket (or one that it may use).
    void use_sa(std::uint32_t index) { crypto_->sa = index; }
    [[nodiscard]] int fd() const { return socket_.get(); }
    // Cookie of the SA that the constructor makes for Protection::kIndex.
    static constexpr std::uint64_t kCookie = 1;
    // Completions that say that the kernel copied after all.
    [[nodiscard]] std::uint64_t copied() const { return copied_; }

  private:
    static constexpr unsigned kReapEvery = 16;

    void add_control(int type, const void *data, std::size_t length);
    std::uint8_t *next_buffer();

    Way way_;
    unsigned packets_;
    std::size_t stride_;
    BufferRing &buffers_;
    quic_test::UniqueFd socket_;
    std::unique_ptr<UserProtection> user_;
    alignas(cmsghdr) std::array<std::uint8_t, 192> control_{};
    udp_quic_crypto *crypto_ = nullptr; // in control_
    iovec data_{};
    msghdr message_{};
    int flags_ = 0;
    std::uint64_t pn_ = 0;
    std::uint64_t sent_ = 0;      // with MSG_ZEROCOPY
    std::uint64_t completed_ = 0; // of these
    std::uint64_t copied_ = 0;
    unsigned unreaped_ = 0;
};

} // namespace quic_bench
