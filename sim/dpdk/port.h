// SPDX-License-Identifier: GPL-2.0
//
// A DPDK Ethernet port as a wire: one queue each way, whole frames.
#pragma once

#include <rte_ethdev.h>
#include <rte_mbuf.h>

#include <array>
#include <cstdint>
#include <functional>
#include <span>
#include <string>

namespace connectx::dpdk {

using Packets = std::span<rte_mbuf *>;

class Port {
  public:
    static constexpr unsigned kBurst = 32;
    static constexpr std::size_t kMaxFrame = 9216; ///< bytes, without FCS

    /// Configures and starts the port `name`, or the first one when empty. Throws
    /// std::runtime_error saying what DPDK refused.
    explicit Port(const std::string &name);
    Port(const Port &) = delete;
    Port &operator=(const Port &) = delete;
    ~Port();

    [[nodiscard]] bool up() const;
    /// Copies the frame; it leaves at the latest with flush(). A port that takes nothing is tried
    /// for kPatience, then the frame counts as refused.
    void send(std::span<const std::uint8_t> frame);
    void flush();
    /// Up to kBurst packets that have arrived, to be freed by the caller.
    Packets receive();

    std::uint64_t sent = 0;
    std::uint64_t refused = 0; ///< frames that the port or the buffer pool had no room for
    /// Called while the port takes nothing: somebody has to empty it.
    std::function<void()> on_full;

  private:
    std::uint16_t id_ = 0;
    rte_mempool *pool_ = nullptr;
    std::array<rte_mbuf *, kBurst> tx_{};
    unsigned tx_count_ = 0;
    std::array<rte_mbuf *, kBurst> rx_{};
};

} // namespace connectx::dpdk
