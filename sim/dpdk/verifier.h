// SPDX-License-Identifier: GPL-2.0
//
// Judges protected QUIC packets as they come off a wire, with DPDK's cryptodev and so with OpenSSL:
// nothing here is shared with the model.
#pragma once

#include "port.h"
#include "traffic.h"

#include <rte_cryptodev.h>

#include <string>
#include <vector>

namespace connectx::dpdk {

struct Verdict {
    std::uint64_t received = 0;   ///< frames, whatever they were
    std::uint64_t good = 0;       ///< packets that are as they were sent, each counted once
    std::uint64_t reordered = 0;  ///< good, but behind one with a higher number
    std::uint64_t duplicated = 0; ///< good, but there already
    std::uint64_t corrupted = 0;  ///< checksum, length, authentication or content wrong
    std::uint64_t foreign = 0;    ///< no IPv4 UDP to our port: not ours to judge
    std::uint64_t bytes = 0;      ///< of frames
};

class Verifier {
  public:
    /// Opens crypto device `name` (such as "crypto_openssl"). Throws std::runtime_error.
    Verifier(const Traffic &traffic, const std::string &name);
    Verifier(const Verifier &) = delete;
    Verifier &operator=(const Verifier &) = delete;
    ~Verifier();

    /// Judges and frees the packets; at most Port::kBurst.
    void take(Packets packets);
    [[nodiscard]] const Verdict &verdict() const { return verdict_; }

  private:
    struct Frame {
        rte_mbuf *packet;
        std::uint8_t *quic; ///< within the packet
        std::uint64_t pn;
    };
    [[nodiscard]] bool headers_ok(rte_mbuf *packet, bool &ours) const;
    void *session(rte_crypto_sym_xform &xform);
    /// Runs the operations to their end.
    void run(unsigned count);
    void judge(const Frame &frame);

    Traffic traffic_;
    std::vector<std::uint8_t> expected_;
    std::vector<bool> seen_;
    std::uint64_t next_pn_ = kFirstPn; ///< one more than the highest that was good
    Verdict verdict_;

    std::uint8_t dev_ = 0;
    quic_test::PacketKeys keys_;
    rte_mempool *sessions_ = nullptr;
    rte_mempool *ops_pool_ = nullptr;
    rte_mempool *masks_pool_ = nullptr;
    void *mask_session_ = nullptr;
    void *aead_session_ = nullptr;
    std::array<rte_crypto_op *, Port::kBurst> ops_{};
    std::array<rte_mbuf *, Port::kBurst> masks_{};
};

} // namespace connectx::dpdk
