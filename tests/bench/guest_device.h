// SPDX-License-Identifier: GPL-2.0
//
// The guest's ConnectX device: addresses, the offload's switch, its counters, and QEMU's monitor
// for the model's own.
#pragma once

#include <cstdint>
#include <map>
#include <string>

#include "udp_crypto.h"

namespace quic_bench {

using Counters = std::map<std::string, std::uint64_t>;

class GuestDevice {
  public:
    // Sets up @name with 10.9.0.1/24 and fd09::1/64 and a partner (of nobody) that it need not look
    // for, 10.9.0.2 and fd09::2.
    explicit GuestDevice(std::string name);

    [[nodiscard]] static quic_test::Address partner(int family);
    void set_offload(bool on);
    // Counters of `ethtool -S`, and with the prefix "stat:" those of /proc/net/udp_crypto_stat.
    [[nodiscard]] Counters counters() const;

  private:
    std::string name_;
    bool offload_ = true;
};

// The model's own counters, over a monitor of QEMU that is led to the virtio-serial port "qmp".
class ModelState {
  public:
    ModelState();
    [[nodiscard]] bool connected() const { return monitor_.get() >= 0; }
    // "what.counter" of the property model-state, for instance "dma.reads". Empty without monitor.
    [[nodiscard]] Counters read() const;
    // From here on each instruction of the guest is a line in @file, on the host, with its address.
    void trace_to(const std::string &file) const;
    void trace_off() const;

  private:
    void human(const std::string &command) const;
    [[nodiscard]] std::string execute(const std::string &command) const;
    quic_test::UniqueFd monitor_;
};

} // namespace quic_bench
