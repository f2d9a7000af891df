// SPDX-License-Identifier: GPL-2.0
//
// QEMU's monitor from inside the guest: guest-traffic.sh leads it to a virtio-serial port, so that
// a test arms a fault at the moment it wants it, and no host script has to guess.
#pragma once

#include "guest_nic.h"

namespace connectx::guest {

class Qmp {
  public:
    Qmp() {
        for (const auto &e : std::filesystem::directory_iterator("/sys/class/virtio-ports"))
            if (read_file(e.path() / "name").starts_with("qmp"))
                fd_ = open(("/dev/" + e.path().filename().string()).c_str(), O_RDWR | O_CLOEXEC);
        if (fd_ >= 0)
            execute(R"({"execute":"qmp_capabilities"})");
    }
    Qmp(const Qmp &) = delete;
    Qmp &operator=(const Qmp &) = delete;
    ~Qmp() {
        if (fd_ >= 0)
            close(fd_);
    }
    [[nodiscard]] bool connected() const { return fd_ >= 0; }

    /// Arms or triggers a fault of one device; false with QEMU's reason in `error`.
    bool fault(const std::string &nic, const std::string &spec, std::string *error = nullptr) {
        const std::string reply =
            execute(R"({"execute":"qom-set","arguments":{"path":"/machine/peripheral/)" + nic +
                    R"(","property":"x-fault","value":")" + spec + R"("}})");
        if (error != nullptr)
            *error = reply;
        return reply.find("\"return\"") != std::string::npos;
    }
    /// The model's own account of itself, lines separated by the two characters "\n".
    std::string model_state(const std::string &nic) {
        return execute(R"({"execute":"qom-get","arguments":{"path":"/machine/peripheral/)" + nic +
                       R"(","property":"model-state"}})");
    }
    /// Sends one command and gives back its reply; events in between are skipped.
    std::string execute(const std::string &command) {
        const std::string line = command + "\r\n";
        if (write(fd_, line.data(), line.size()) != static_cast<ssize_t>(line.size()))
            return "cannot write to the monitor";
        for (;;) {
            const auto end = input_.find('\n');
            if (end == std::string::npos) {
                pollfd p{.fd = fd_, .events = POLLIN, .revents = 0};
                std::array<char, 4096> buf{};
                if (poll(&p, 1, 20000) != 1)
                    return "no answer from the monitor";
                const ssize_t n = read(fd_, buf.data(), buf.size());
                if (n <= 0)
                    return "the monitor is gone";
                input_.append(buf.data(), static_cast<std::size_t>(n));
                continue;
            }
            const std::string reply = input_.substr(0, end);
            input_.erase(0, end + 1);
            if (reply.starts_with("{\"return\"") || reply.starts_with("{\"error\""))
                return reply;
        }
    }

  private:
    int fd_ = -1;
    std::string input_;
};

inline Qmp &qmp() {
    static Qmp instance;
    return instance;
}

} // namespace connectx::guest
