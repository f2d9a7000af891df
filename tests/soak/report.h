// SPDX-License-Identifier: GPL-2.0
//
// What the processes of a spell tell the one that takes stock: counts and failures, line by line
// through a pipe.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "system.h"

namespace quic_soak {

struct Told {
    std::map<std::string, std::uint64_t> counts;
    std::vector<std::string> failures;
};

// The writing end. Any thread, any process.
class Report {
  public:
    explicit Report(int fd) : fd_(fd) {}
    void count(const std::string &name, std::uint64_t n) const;
    void failure(const std::string &where, const std::string &what) const;

  private:
    void write_line(std::string line) const;
    int fd_;
};

// Reads until no process can write any more.
Told read_reports(int fd);

} // namespace quic_soak
