// SPDX-License-Identifier: GPL-2.0
//
// Frames through a guest that forwards them: in at one port, out at another, on wires that are
// QEMU's stream sockets. Not more than a window of them is under way, so that none is dropped for
// want of room; each is numbered, and each that comes back is compared with what it ought to be.
// The guest's NIC models take turns. tests/bench/forwarding starts it.
#include <algorithm>
#include <array>
#include <chrono>
#include <cstdint>
#include <cstring>
#include <fstream>
#include <iostream>
#include <map>
#include <span>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

#include <arpa/inet.h>
#include <fcntl.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>

#include "system.h"

namespace quic_bench {
namespace {

using Json = nlohmann::ordered_json;
using Bytes = std::vector<std::uint8_t>;
using Clock = std::chrono::steady_clock;
using quic_test::throw_errno;
using quic_test::UniqueFd;

constexpr std::size_t kEthernet = 14;
constexpr std::size_t kIp = 20;
constexpr std::size_t kUdp = 8;
constexpr std::size_t kNumberAt = kEthernet + kIp + kUdp;
constexpr std::size_t kNumber = 8;
constexpr std::size_t kMaxFrame = 1 << 16;
// Contents: as many as there are repeat only after frames that are no longer under way.
constexpr std::size_t kContents = 251;
// A machine with other work may well leave a guest without a processor for a while.
constexpr std::chrono::seconds kGivenUp{60};

const std::vector<std::string> kModels{"connectx", "e1000e", "virtio"};

double seconds_since(Clock::time_point start) {
    return std::chrono::duration<double>(Clock::now() - start).count();
}

double median(std::vector<double> values) {
    std::sort(values.begin(), values.end());
    return values[values.size() / 2];
}

// One end of a QEMU stream netdev: each frame behind its length.
class Wire {
  public:
    explicit Wire(const std::string &path) : fd_(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
        sockaddr_un address{};
        address.sun_family = AF_UNIX;
        path.copy(address.sun_path, sizeof(address.sun_path) - 1);
        if (fd_.get() < 0 || ::connect(fd_.get(), reinterpret_cast<const sockaddr *>(&address),
                                       sizeof(address)) != 0)
            throw_errno(path);
        if (::fcntl(fd_.get(), F_SETFL, O_NONBLOCK) != 0)
            throw_errno("O_NONBLOCK");
    }
    [[nodiscard]] int fd() const { return fd_.get(); }
    [[nodiscard]] bool backlog() const { return !pending_.empty(); }

    void put(std::span<const std::uint8_t> frame) {
        const std::uint32_t length = htonl(static_cast<std::uint32_t>(frame.size()));
        const auto *bytes = reinterpret_cast<const std::uint8_t *>(&length);
        pending_.insert(pending_.end(), bytes, bytes + sizeof(length));
        pending_.insert(pending_.end(), frame.begin(), frame.end());
    }
    void flush() {
        if (pending_.empty())
            return;
        const ssize_t n = ::send(fd_.get(), pending_.data(), pending_.size(), MSG_NOSIGNAL);
        if (n < 0 && errno != EAGAIN)
            throw_errno("the guest's wire");
        if (n > 0)
            pending_.erase(pending_.begin(), pending_.begin() + n);
    }
    // Calls @take for each frame that has come in whole.
    template <typename Take> void receive(const Take &take) {
        const std::size_t had = in_.size();
        in_.resize(had + 4 * kMaxFrame);
        const ssize_t n = ::recv(fd_.get(), in_.data() + had, in_.size() - had, 0);
        if (n == 0)
            throw std::runtime_error("the guest is gone");
        if (n < 0 && errno != EAGAIN)
            throw_errno("the guest's wire");
        in_.resize(had + static_cast<std::size_t>(std::max<ssize_t>(n, 0)));
        std::size_t at = 0;
        for (std::uint32_t length = 0; in_.size() - at >= sizeof(length); at += length) {
            std::memcpy(&length, in_.data() + at, sizeof(length));
            length = ntohl(length);
            if (in_.size() - at - sizeof(length) < length)
                break;
            at += sizeof(length);
            take(std::span<const std::uint8_t>(in_).subspan(at, length));
        }
        in_.erase(in_.begin(), in_.begin() + static_cast<std::ptrdiff_t>(at));
    }

  private:
    UniqueFd fd_;
    Bytes pending_;
    Bytes in_;
};

std::uint32_t sum16(std::span<const std::uint8_t> data, std::uint32_t sum = 0) {
    for (std::size_t i = 0; i < data.size(); ++i)
        sum += i % 2 == 0 ? data[i] << 8U : data[i];
    return sum;
}

void store16(std::uint8_t *at, std::uint32_t value) {
    at[0] = static_cast<std::uint8_t>(value >> 8U);
    at[1] = static_cast<std::uint8_t>(value);
}

std::uint16_t checksum(std::uint32_t sum) {
    while (sum >> 16U != 0)
        sum = (sum & 0xffff) + (sum >> 16U);
    return static_cast<std::uint16_t>(~sum);
}

// What goes in at a pair of ports, and what has to come out.
class Frames {
  public:
    // @pair from 1, @size of the IP packet.
    Frames(unsigned pair, std::size_t size) : pair_(pair) {
        for (std::size_t content = 0; content < kContents; ++content) {
            Bytes frame(kEthernet + size);
            std::uint8_t *ip = frame.data() + kEthernet;
            std::uint8_t *udp = ip + kIp;
            frame[12] = 0x08; // IPv4
            ip[0] = 0x45;
            store16(ip + 2, static_cast<std::uint32_t>(size));
            ip[6] = 0x40; // not to be fragmented
            ip[9] = IPPROTO_UDP;
            const std::array<std::uint8_t, 8> addresses{10, std::uint8_t(pair), 1, 2,
                                                        10, std::uint8_t(pair), 2, 2};
            std::copy(addresses.begin(), addresses.end(), ip + 12);
            store16(udp, 4433);
            store16(udp + 2, 4433);
            store16(udp + 4, static_cast<std::uint32_t>(size - kIp));
            for (std::size_t i = kNumberAt + kNumber; i < frame.size(); ++i)
                frame[i] = static_cast<std::uint8_t>(content * 31 + i * 7 + (i >> 8U));
            const std::span<const std::uint8_t> whole(frame);
            sums_.push_back(
                sum16(whole.subspan(kEthernet + kIp),
                      sum16(addresses, IPPROTO_UDP + static_cast<std::uint32_t>(size - kIp))));
            contents_.push_back(std::move(frame));
        }
    }

    // Valid until the next call.
    [[nodiscard]] std::span<const std::uint8_t> in(std::uint64_t number) {
        return make(number, {0x52, 0x54, 0, 0x12, 0x35, std::uint8_t(2 * pair_ - 1)},
                    {2, 0, 0, 0, 1, std::uint8_t(pair_)}, 64);
    }
    [[nodiscard]] std::span<const std::uint8_t> out(std::uint64_t number) {
        return make(number, {2, 0, 0, 0, 2, std::uint8_t(pair_)},
                    {0x52, 0x54, 0, 0x12, 0x35, std::uint8_t(2 * pair_)}, 63);
    }
    [[nodiscard]] static std::uint64_t number(std::span<const std::uint8_t> frame) {
        std::uint64_t value = 0;
        for (std::size_t i = 0; i < kNumber; ++i)
            value = value << 8U | frame[kNumberAt + i];
        return value;
    }

  private:
    std::span<const std::uint8_t> make(std::uint64_t number,
                                       const std::array<std::uint8_t, 6> &destination,
                                       const std::array<std::uint8_t, 6> &source,
                                       std::uint8_t ttl) {
        Bytes &frame = contents_[number % kContents];
        std::uint8_t *ip = frame.data() + kEthernet;
        std::copy(destination.begin(), destination.end(), frame.begin());
        std::copy(source.begin(), source.end(), frame.begin() + 6);
        for (std::size_t i = 0; i < kNumber; ++i)
            frame[kNumberAt + i] = static_cast<std::uint8_t>(number >> (56 - 8 * i));
        const std::span<const std::uint8_t> whole(frame);
        ip[8] = ttl;
        store16(ip + 10, 0);
        store16(ip + 10, checksum(sum16(whole.subspan(kEthernet, kIp))));
        const std::uint16_t udp =
            checksum(sum16(whole.subspan(kNumberAt, kNumber), sums_[number % kContents]));
        store16(ip + kIp + 6, udp == 0 ? 0xffff : udp);
        return frame;
    }

    unsigned pair_;
    std::vector<Bytes> contents_;
    std::vector<std::uint32_t> sums_; // of UDP and its pseudo header, without number
};

struct Faults {
    std::uint64_t lost = 0;
    std::uint64_t reordered = 0;
    std::uint64_t duplicated = 0;
    std::uint64_t corrupted = 0;
};

struct Rate {
    double packets_per_second = 0;
    double packets_per_processor_second = 0;
};

// Processor time of QEMU, all threads, in seconds.
double processor_seconds(const std::string &pid) {
    const std::string text = quic_test::read_file("/proc/" + pid + "/stat");
    std::istringstream fields(text.substr(text.rfind(')') + 2));
    std::string skipped;
    for (int i = 3; i < 14; ++i)
        fields >> skipped;
    double user = 0;
    double system = 0;
    fields >> user >> system;
    return (user + system) / static_cast<double>(::sysconf(_SC_CLK_TCK));
}

class Pair {
  public:
    Pair(unsigned number, const std::string &sockets, std::string pid)
        : number_(number), pid_(std::move(pid)), in_(sockets + "/" + kModels[number - 1] + ".in"),
          out_(sockets + "/" + kModels[number - 1] + ".out") {}

    // Returns once a frame gets through: after a change of the MTU links take a while.
    void await(std::size_t size) {
        Frames frames(number_, size);
        const auto end = Clock::now() + kGivenUp;
        for (bool through = false; !through;) {
            if (Clock::now() > end)
                throw std::runtime_error(kModels[number_ - 1] + " forwards nothing");
            in_.put(frames.in(next_++));
            in_.flush();
            pollfd wait{.fd = out_.fd(), .events = POLLIN, .revents = 0};
            ::poll(&wait, 1, 500);
            out_.receive([&](std::span<const std::uint8_t> frame) {
                through = through || frame.size() == kEthernet + size;
            });
        }
    }

    Rate run(std::size_t size, double seconds, unsigned window, Faults &faults) {
        Frames frames(number_, size);
        const std::uint64_t first = next_;
        std::vector<bool> seen;
        std::uint64_t arrived = 0;
        std::uint64_t lost = 0;
        std::uint64_t highest = 0;
        std::uint64_t at_start = 0;
        double processor = 0;
        Rate rate;
        enum { kWarm, kMeasure, kDrain } phase = kWarm;
        auto start = Clock::now();
        auto last = start;
        for (;;) {
            if (phase == kWarm && seconds_since(start) > seconds / 4) {
                phase = kMeasure;
                start = Clock::now();
                at_start = arrived;
                processor = processor_seconds(pid_);
            } else if (phase == kMeasure && seconds_since(start) > seconds) {
                phase = kDrain;
                const auto packets = static_cast<double>(arrived - at_start);
                rate.packets_per_second = packets / seconds_since(start);
                rate.packets_per_processor_second = packets / (processor_seconds(pid_) - processor);
            }
            while (phase != kDrain && seen.size() - arrived - lost < window) {
                in_.put(frames.in(first + seen.size()));
                seen.push_back(false);
            }
            if (phase == kDrain && arrived + lost == seen.size())
                break;
            in_.flush();
            std::array<pollfd, 2> wait{
                {{.fd = out_.fd(), .events = POLLIN, .revents = 0},
                 {.fd = in_.fd(),
                  .events = static_cast<short>(in_.backlog() ? POLLIN | POLLOUT : POLLIN),
                  .revents = 0}}};
            if (::poll(wait.data(), wait.size(), 1000) < 0)
                throw_errno("poll");
            if (Clock::now() - last > kGivenUp) {
                lost = seen.size() - arrived;
                last = Clock::now();
            }
            // What the guest says to the sender's side is no part of it.
            in_.receive([](std::span<const std::uint8_t>) {});
            out_.receive([&](std::span<const std::uint8_t> frame) {
                if (frame.size() < kNumberAt + kNumber || frame[12] != 0x08 || frame[13] != 0)
                    return; // not IPv4: the guest's own
                last = Clock::now();
                const std::uint64_t number = Frames::number(frame);
                if (number < first)
                    return; // await() had given it up
                const std::uint64_t index = number - first;
                const auto expected = frames.out(number);
                if (index >= seen.size() ||
                    !std::equal(frame.begin(), frame.end(), expected.begin(), expected.end())) {
                    ++faults.corrupted;
                } else if (seen[index]) {
                    ++faults.duplicated;
                } else {
                    seen[index] = true;
                    ++arrived;
                    faults.reordered += index < highest ? 1 : 0;
                    highest = std::max(highest, index);
                }
            });
        }
        faults.lost += seen.size() - arrived;
        next_ = first + seen.size();
        return rate;
    }

  private:
    unsigned number_;
    std::string pid_;
    Wire in_;
    Wire out_;
    std::uint64_t next_ = 0; // number of the next frame; none comes twice
};

struct Options {
    std::string sockets;
    int guest_input = -1;
    std::vector<std::string> models = kModels;
    std::vector<std::size_t> sizes{64, 1200, 1500, 9000};
    unsigned repeats = 9;
    double seconds = 1;
    unsigned window = 32;
};

void set_mtu(const Options &options, std::size_t mtu) {
    const std::string line = std::to_string(mtu) + "\n";
    if (::write(options.guest_input, line.data(), line.size()) != static_cast<ssize_t>(line.size()))
        throw_errno("the guest's input");
    std::string answer;
    if (!std::getline(std::cin, answer) || answer != "ready")
        throw std::runtime_error("the guest does not get ready: " + answer);
}

Json measure(const Options &options) {
    set_mtu(options, 1500); // also says that QEMU's sockets are there
    std::string pid = quic_test::read_file(options.sockets + "/pid");
    pid.erase(pid.find_last_not_of('\n') + 1);
    std::map<std::string, Pair> pairs;
    for (unsigned i = 1; i <= kModels.size(); ++i)
        pairs.try_emplace(kModels[i - 1], i, options.sockets, pid);

    Json result{
        {"window", options.window}, {"seconds", options.seconds}, {"repeats", options.repeats}};
    Faults faults;
    std::size_t mtu = 1500;
    for (const std::size_t size : options.sizes) {
        if (size > mtu) {
            mtu = size;
            set_mtu(options, mtu);
        }
        for (const auto &model : options.models)
            pairs.at(model).await(size);
        std::map<std::string, std::vector<double>> rates;
        std::map<std::string, std::vector<double>> processor;
        for (unsigned repeat = 0; repeat < options.repeats; ++repeat)
            for (const auto &model : options.models) {
                const Rate rate =
                    pairs.at(model).run(size, options.seconds, options.window, faults);
                rates[model].push_back(rate.packets_per_second);
                processor[model].push_back(rate.packets_per_processor_second);
            }
        Json by_model;
        for (const auto &model : options.models) {
            const auto &all = rates[model];
            by_model[model] = {{"packets_per_second", median(all)},
                               {"min", *std::min_element(all.begin(), all.end())},
                               {"max", *std::max_element(all.begin(), all.end())},
                               {"bits_per_second", median(all) * static_cast<double>(size) * 8},
                               {"packets_per_processor_second", median(processor[model])}};
        }
        // Of the same round each: what else the machine did was about the same.
        for (const std::string other : {"e1000e", "virtio"}) {
            if (!rates.contains("connectx") || !rates.contains(other))
                continue;
            const auto ratio = [&](std::map<std::string, std::vector<double>> &values) {
                std::vector<double> ratios;
                for (unsigned i = 0; i < options.repeats; ++i)
                    ratios.push_back(values["connectx"][i] / values[other][i]);
                return median(ratios);
            };
            by_model["connectx"]["ratio_" + other] = ratio(rates);
            by_model["connectx"]["processor_ratio_" + other] = ratio(processor);
        }
        result["rates"][std::to_string(size)] = by_model;
    }
    result["lost"] = faults.lost;
    result["reordered"] = faults.reordered;
    result["duplicated"] = faults.duplicated;
    result["corrupted"] = faults.corrupted;
    return result;
}

} // namespace
} // namespace quic_bench

int main(int argc, char **argv) {
    quic_bench::Options options;
    CLI::App app{
        "Frames through a guest that forwards them, by NIC model. JSON on standard output."};
    app.add_option("--sockets", options.sockets, "folder of the wires and of QEMU's pid")
        ->required();
    app.add_option("--guest-input", options.guest_input, "descriptor of the guest's input")
        ->required();
    app.add_option("--sizes", options.sizes, "bytes of the IP packet")
        ->delimiter(',')
        ->check(CLI::Range(64, 9000));
    app.add_option("--models", options.models, "which NIC models")
        ->delimiter(',')
        ->check(CLI::IsMember(quic_bench::kModels));
    app.add_option("--repeats", options.repeats, "rounds")->check(CLI::Range(1, 1000));
    app.add_option("--seconds", options.seconds, "of each model in a round");
    app.add_option("--window", options.window, "frames under way")->check(CLI::Range(1, 256));
    CLI11_PARSE(app, argc, argv);
    try {
        std::cout << quic_bench::measure(options).dump() << '\n';
    } catch (const std::exception &error) {
        std::cerr << "forwarding_bench: " << error.what() << '\n';
        return 1;
    }
    return 0;
}
