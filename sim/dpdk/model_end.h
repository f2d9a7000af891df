// SPDX-License-Identifier: GPL-2.0
//
// The ConnectX model and a driver in this process, with a DPDK port for a wire.
#pragma once

#include "port.h"
#include "traffic.h"

#include "mini_driver.h"

#include <optional>
#include <vector>

namespace connectx::dpdk {

/// Damage done on purpose to every so many frames between model and wire, to see that it is found.
struct Spoil {
    enum class What { kNothing, kLose, kCorrupt, kSwap, kDuplicate } what = What::kNothing;
    std::uint64_t every = 0;
};

/// "lose:1000", "corrupt:N", "swap:N", "duplicate:N".
std::optional<Spoil> parse_spoil(const std::string &text);

class ModelEnd {
  public:
    /// `wire` must live longer. Throws std::runtime_error when the device does not come up.
    ModelEnd(Port &wire, const Spoil &spoil);
    ModelEnd(const ModelEnd &) = delete;
    ModelEnd &operator=(const ModelEnd &) = delete;
    virtual ~ModelEnd() = default;

    [[nodiscard]] const ModelStats &stats() const { return driver_.dev.stats(); }

  protected:
    /// Moves the device's clock on and runs what has become due.
    void tick();
    void require_completion(test::TestCq &cq);

    test::MiniDriver driver_;
    Port &wire_;

  private:
    void on_wire(std::span<const std::uint8_t> frame);
    Spoil spoil_;
    std::uint64_t frames_ = 0;
    std::vector<std::uint8_t> held_; ///< frame that the next one overtakes
};

/// Sends QUIC packets, in plaintext as far as the driver is concerned.
class QuicSender : public ModelEnd {
  public:
    QuicSender(Port &wire, const Traffic &traffic, const Spoil &spoil);

    /// Posts one WQE: as many packets as Linux would put into it, or what is left. All have left
    /// the model on return; wire.flush() sends the last.
    void send_batch();
    [[nodiscard]] std::uint64_t posted() const { return posted_; }
    [[nodiscard]] std::size_t batch() const { return batch_; }

  private:
    Traffic traffic_;
    std::size_t batch_;
    std::uint64_t posted_ = 0;
    test::TestCq cq_;
    test::TestSq sq_;
    std::uint64_t buffer_ = 0;
    test::Message segments_;
    std::size_t quic_at_ = 0; ///< of the QUIC segment in segments_
};

/// Takes frames from the wire into a receive queue and sends each back from a send queue.
class Forwarder : public ModelEnd {
  public:
    Forwarder(Port &wire, const Spoil &spoil);

    /// Handles what has arrived. False when that was nothing.
    bool turn();
    [[nodiscard]] std::uint64_t forwarded() const { return forwarded_; }

  private:
    std::uint64_t forwarded_ = 0;
    test::TestCq rx_cq_;
    test::TestCq tx_cq_;
    test::TestRq rq_;
    test::TestSq sq_;
};

} // namespace connectx::dpdk
