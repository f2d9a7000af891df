// SPDX-License-Identifier: GPL-2.0
//
// Small wrappers of the system for tests: descriptors, namespaces, interfaces, commands, files.
// All errors are exceptions (a test that cannot set up its scene fails).
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <utility>

#include <unistd.h>

namespace quic_test {

// How long a test waits for something that must come. Generous: it decides only how late a failure
// is told.
inline constexpr std::chrono::milliseconds kPatience{30000};

class UniqueFd {
  public:
    UniqueFd() = default;
    explicit UniqueFd(int fd) : fd_(fd) {}
    UniqueFd(UniqueFd &&other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
    UniqueFd &operator=(UniqueFd &&other) noexcept {
        if (this != &other) {
            reset();
            fd_ = std::exchange(other.fd_, -1);
        }
        return *this;
    }
    UniqueFd(const UniqueFd &) = delete;
    UniqueFd &operator=(const UniqueFd &) = delete;
    ~UniqueFd() { reset(); }

    int get() const { return fd_; }
    void reset() {
        if (fd_ >= 0)
            ::close(fd_);
        fd_ = -1;
    }

  private:
    int fd_ = -1;
};

[[noreturn]] void throw_errno(const std::string &what);

std::string read_file(const std::string &path);
void write_file(const std::string &path, const std::string &text);

struct CommandResult {
    int status = 0; // as of waitpid's WEXITSTATUS, 128 + signal
    std::string output;
};
// Runs a shell script (/bin/sh -e) in the calling thread's namespaces; standard error joins output.
CommandResult try_command(const std::string &script);
// The same, and throws if it does not exit with 0. Commands of ip(8) in a row, separated by "; ",
// run as one batch.
std::string command(const std::string &script);

// A network namespace with its loopback device up. The descriptor keeps it alive.
class NetNamespace {
  public:
    NetNamespace();
    int fd() const { return fd_.get(); }
    // "/proc/PID/fd/N": the name that `ip link set X netns NAME` takes.
    std::string path() const;
    // Runs @work with the calling thread inside; sockets opened there stay there.
    void run(const std::function<void()> &work) const;
    std::string command(const std::string &script) const;

  private:
    UniqueFd fd_;
};

// Enters a namespace for the time of a scope, thread by thread.
class InNamespace {
  public:
    explicit InNamespace(int fd);
    explicit InNamespace(const NetNamespace &ns) : InNamespace(ns.fd()) {}
    ~InNamespace();
    InNamespace(const InNamespace &) = delete;
    InNamespace &operator=(const InNamespace &) = delete;

  private:
    UniqueFd before_;
};

// A fresh network namespace for the calling thread (and threads it starts), for good.
void enter_new_network_namespace();
void set_interface_up(const std::string &name);
void set_mtu(const std::string &name, int mtu);

// Polls @condition, asleep in between, until it holds or patience ends; returns whether it held.
bool eventually(const std::function<bool()> &condition,
                std::chrono::milliseconds patience = kPatience);

// /proc/net/udp_crypto_stat of the calling thread's network namespace.
class Statistics {
  public:
    static Statistics read();
    std::uint64_t operator[](const std::string &name) const;
    // What has been added since @before.
    std::uint64_t since(const Statistics &before, const std::string &name) const {
        return (*this)[name] - before[name];
    }
    const std::map<std::string, std::uint64_t> &all() const { return values_; }
    bool operator==(const Statistics &) const = default;

  private:
    std::map<std::string, std::uint64_t> values_;
};

} // namespace quic_test
