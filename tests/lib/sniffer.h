// SPDX-License-Identifier: GPL-2.0
//
// Listens on every device of a network namespace, and knows the plaintext pattern and checksums.
#pragma once

#include <set>
#include <string>
#include <vector>

#include "quic_reference.h"
#include "system.h"

namespace quic_test {

struct Frame {
    Bytes data; // from the network header on
    int ifindex = 0;
    unsigned protocol = 0; // ETH_P_*
    bool checksum_ready = true;
};

class Sniffer {
  public:
    // Of the calling thread's network namespace.
    explicit Sniffer(std::string where);

    // Not judged: what is on its way out at this device, and at others that were named before.
    void ignore_outgoing_of(int ifindex) { ignored_.insert(ifindex); }

    // What has been heard since the last call; never waits.
    std::vector<Frame> drain();
    // Drains and judges: one line for each frame with plaintext and each wrong UDP checksum.
    std::vector<std::string> complaints();

    // All that was ever drained
    unsigned udp_frames() const { return udp_frames_; }
    unsigned checksums_verified() const { return checksums_verified_; }

  private:
    std::string where_;
    UniqueFd fd_;
    std::set<int> ignored_;
    unsigned udp_frames_ = 0;
    unsigned checksums_verified_ = 0;
};

// The payload of the UDP datagram in @frame if it is a whole one; else empty. Follows IPv4 options,
// IPv6 extension headers and IP in IP.
struct UdpView {
    ByteView payload;
    std::uint16_t source_port = 0;
    std::uint16_t destination_port = 0;
    bool checksum_present = false;
    bool checksum_right = false;
    bool found = false;
};
UdpView find_udp(const Frame &frame);

} // namespace quic_test
