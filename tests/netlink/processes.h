// SPDX-License-Identifier: GPL-2.0
//
// quic-sadb-ctl as a process, and pieces of a test as another user.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include <sys/types.h>

#include "system.h"

namespace quic_test {

// QUIC_SADB_CTL is the program, given by the build.
class Tool {
  public:
    // Starts it in the calling thread's namespaces, as @uid.
    explicit Tool(const std::vector<std::string> &arguments, const std::string &input = "",
                  uid_t uid = 0);
    ~Tool();
    Tool(const Tool &) = delete;
    Tool &operator=(const Tool &) = delete;

    int wait(); // exit status, 128 + signal
    void stop();
    void signal(int number);
    // All that it has printed so far.
    std::string out() const;
    std::string err() const;

  private:
    pid_t pid_ = -1;
    UniqueFd out_;
    UniqueFd err_;
};

struct ToolResult {
    int status;
    std::string out;
    std::string err;
};
ToolResult tool(const std::vector<std::string> &arguments, const std::string &input = "",
                uid_t uid = 0);

// Runs @work in a child process that is @uid; returns what it returned (0 to 255).
int as_user(uid_t uid, const std::function<int()> &work);

} // namespace quic_test
