// SPDX-License-Identifier: GPL-2.0
#include "guest_device.h"

#include <filesystem>
#include <sstream>
#include <stdexcept>
#include <utility>

#include <fcntl.h>
#include <poll.h>

#include "system.h"
#include "world.h"

namespace quic_bench {

namespace {
constexpr std::uint16_t kPort = 4433;
}

GuestDevice::GuestDevice(std::string name) : name_(std::move(name)) {
    const std::string dev = " dev " + name_;
    quic_test::command("echo 0 > /proc/sys/net/ipv6/conf/" + name_ + "/accept_dad");
    quic_test::command("echo 0 > /proc/sys/net/ipv6/conf/" + name_ + "/accept_ra");
    // Moderation that adapts itself settles now on one interrupt for each packet, now on one for
    // several, and with it moves what a send of one packet costs by a third.
    quic_test::command("ethtool -C " + name_ + " adaptive-rx off adaptive-tx off");
    quic_test::command("ip link set " + name_ + " up; ip addr add 10.9.0.1/24" + dev +
                       "; ip -6 addr add fd09::1/64" + dev);
    for (const char *address : {"10.9.0.2", "fd09::2"})
        quic_test::command(std::string("ip neigh replace ") + address +
                           " lladdr 02:00:00:00:09:02 nud permanent" + dev);
    if (!quic_test::eventually([&] {
            return quic_test::command("ip -br link show " + name_).find("LOWER_UP") !=
                   std::string::npos;
        }))
        throw std::runtime_error(name_ + " has no carrier");
}

quic_test::Address GuestDevice::partner(int family) {
    return family == AF_INET6 ? quic_test::Address::v6("fd09::2", kPort)
                              : quic_test::Address::v4("10.9.0.2", kPort);
}

void GuestDevice::set_offload(bool on) {
    if (offload_ == on)
        return;
    quic_test::command("ethtool -K " + name_ + " udp-crypto-hw-tx-offload " + (on ? "on" : "off"));
    offload_ = on;
}

Counters GuestDevice::counters() const {
    Counters all = quic_test::ethtool_statistics(name_);
    const auto stack = quic_test::Statistics::read();
    for (const auto &[name, value] : stack.all())
        all["stat:" + name] = value;
    return all;
}

ModelState::ModelState() {
    const std::filesystem::path ports = "/sys/class/virtio-ports";
    if (!std::filesystem::exists(ports))
        return;
    for (const auto &port : std::filesystem::directory_iterator(ports))
        if (quic_test::read_file(port.path() / "name").starts_with("qmp"))
            monitor_ = quic_test::UniqueFd(
                ::open(("/dev/" + port.path().filename().string()).c_str(), O_RDWR | O_CLOEXEC));
    if (connected())
        (void)execute(R"({"execute":"qmp_capabilities"})");
}

Counters ModelState::read() const {
    Counters counters;
    if (!connected())
        return counters;
    std::string text =
        execute(R"({"execute":"qom-get","arguments":{"path":"/machine/peripheral/nic0",)"
                R"("property":"model-state"}})");
    // A line is a subject, then names and numbers; lines are separated by the characters "\n".
    for (std::size_t at = 0; (at = text.find("\\n", at)) != std::string::npos;)
        text.replace(at, 2, "\n");
    std::istringstream lines(text);
    for (std::string line; std::getline(lines, line);) {
        std::istringstream words(line);
        std::string subject;
        std::string name;
        std::uint64_t value = 0;
        for (words >> subject; words >> name >> value;)
            counters[subject + "." + name] = value;
    }
    return counters;
}

void ModelState::human(const std::string &command) const {
    if (!connected())
        throw std::runtime_error("no QEMU monitor");
    (void)execute(R"({"execute":"human-monitor-command","arguments":{"command-line":")" + command +
                  R"("}})");
}

void ModelState::trace_to(const std::string &file) const {
    human("logfile " + file);
    human("singlestep on");
    human("log exec,nochain");
}

void ModelState::trace_off() const {
    human("log none");
    human("singlestep off");
}

std::string ModelState::execute(const std::string &command) const {
    const std::string line = command + "\r\n";
    if (::write(monitor_.get(), line.data(), line.size()) != static_cast<ssize_t>(line.size()))
        quic_test::throw_errno("QEMU's monitor");
    std::string reply;
    for (;;) {
        pollfd wait{.fd = monitor_.get(), .events = POLLIN, .revents = 0};
        char c = 0;
        if (::poll(&wait, 1, 20000) != 1 || ::read(monitor_.get(), &c, 1) != 1)
            throw std::runtime_error("QEMU's monitor does not answer");
        if (c != '\n') {
            reply.push_back(c);
            continue;
        }
        // Greeting and events come in between.
        if (reply.starts_with("{\"return\""))
            return reply;
        if (reply.starts_with("{\"error\""))
            throw std::runtime_error("QEMU's monitor: " + reply);
        reply.clear();
    }
}

} // namespace quic_bench
