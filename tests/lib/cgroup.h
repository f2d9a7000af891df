// SPDX-License-Identifier: GPL-2.0
//
// A cgroup of the test's own.
#pragma once

#include <cstdint>
#include <string>

#include <sys/types.h>

#include "system.h"

namespace quic_test {

// Mounts the cgroup2 file system where it is not mounted, and makes a child group. The end of the
// scope moves this process back to the root, and removes the group.
class Cgroup {
  public:
    Cgroup();
    ~Cgroup();
    Cgroup(const Cgroup &) = delete;
    Cgroup &operator=(const Cgroup &) = delete;
    int fd() const { return fd_.get(); }

    // Moves a process here.
    void take(pid_t pid) const;
    // Has the memory of the group counted and limited, from now on.
    void count_memory() const;
    // A file of the group ("memory.max"), and the number of a line "KEY NUMBER" or, without a key,
    // of the whole file.
    void write(const std::string &file, const std::string &text) const;
    std::uint64_t number(const std::string &file, const std::string &key = "") const;

  private:
    std::string path_;
    UniqueFd fd_;
};

} // namespace quic_test
