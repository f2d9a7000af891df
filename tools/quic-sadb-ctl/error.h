// SPDX-License-Identifier: MIT
//
// How the program ends, and the one exception that its parts throw.
#pragma once

#include <stdexcept>
#include <string>

namespace quic_sadb {

// quic-sadb-ctl(8), section EXIT STATUS.
enum class Exit : int {
    kDone = 0,
    kRefused = 1,    // by the kernel, or by the system
    kUsage = 2,      // the command line
    kBadFile = 3,    // a file of keys cannot be read or is malformed; nothing was sent
    kNoFamily = 4,   // this kernel does not have the netlink family
    kNotAllowed = 5, // CAP_NET_ADMIN is missing, or the SA is a socket's
    kNotThere = 6,   // no such SA or device
    kIncomplete = 7, // sa add --batch --keep-going: some SAs could not be added
};

class Error : public std::runtime_error {
  public:
    Error(Exit exit, const std::string &message) : std::runtime_error(message), exit_(exit) {}
    Exit exit() const { return exit_; }

  private:
    Exit exit_;
};

// The exit status that an errno value of the kernel leads to.
Exit exit_of_errno(int error);

} // namespace quic_sadb
