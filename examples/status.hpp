// SPDX-License-Identifier: MIT
//
// The status page (--status): /status/ shows in a browser, live, who protects the packets.
// Everything else comes from another content source.
#ifndef QUIC_SERVER_STATUS_HPP
#define QUIC_SERVER_STATUS_HPP

#include "content.hpp"
#include "stats.hpp"

#include <cstdint>
#include <string>

namespace quic_server {

class StatusPage : public ContentSource {
  public:
    // Both outlive this object.
    StatusPage(ContentSource &rest, const Stats &stats) : rest_(rest), stats_(stats) {}

    Response get(std::string_view path) override;

  private:
    // The counters of server, kernel and devices as JSON; read anew four times a second at most,
    // however often somebody asks.
    const std::string &counters();

    ContentSource &rest_;
    const Stats &stats_;
    std::string counters_;
    std::uint64_t counters_age_ns_ = 0; // CLOCK_MONOTONIC when they were read
};

} // namespace quic_server

#endif
