// SPDX-License-Identifier: GPL-2.0
//
// What forwarding a packet costs the guest, by NIC model: instructions, in a guest with --icount
// that tests/bench/forwarding-guest has set up. The frames come from a further port of the same
// guest, a ConnectX model on one hub with all the ports they go in by, so that they arrive at the
// same point of the instruction stream each time; sending them is measured too, to an address that
// no port has, and subtracted. The guest never sleeps: after each burst it counts down for longer
// than the driver under test takes, its moderated interrupts included.
#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <iostream>
#include <map>
#include <stdexcept>
#include <string>
#include <vector>

#include <arpa/inet.h>
#include <netinet/udp.h>
#include <sys/socket.h>

#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>

#include "icount_clock.h"
#include "system.h"

namespace quic_bench {
namespace {

using Json = nlohmann::ordered_json;

const std::vector<std::string> kModels{"connectx", "e1000e", "virtio"};
constexpr std::size_t kHeaders = 20 + 8;
constexpr const char *kNobody = "52:54:00:12:35:ff";

std::string port_mac(std::size_t number) { return "52:54:00:12:35:0" + std::to_string(number); }

std::string port_device(std::size_t number) {
    for (const auto &entry : std::filesystem::directory_iterator("/sys/class/net"))
        if (entry.is_directory() &&
            quic_test::read_file(entry.path() / "address") == port_mac(number) + "\n")
            return entry.path().filename();
    throw std::runtime_error("no port " + std::to_string(number));
}

void count_down(std::uint64_t instructions) {
    std::uint64_t left = instructions / 2;
    asm volatile("1: sub $1, %0\n\tjnz 1b" : "+r"(left) : : "cc");
}

class Bursts {
  public:
    // @pair from 1.
    Bursts(const quic_test::NetNamespace &source, std::string device, std::size_t pair)
        : source_(source), device_(std::move(device)), pair_(pair),
          out_("/sys/class/net/" + port_device(2 * pair) + "/statistics/tx_packets") {
        const std::string net = "10." + std::to_string(pair);
        source_.command("ip addr add " + net + ".1.2/24 dev " + device_ + "; ip route add " + net +
                        ".2.0/24 via " + net + ".1.1");
        aim(true);
        source_.run([&] {
            fd_ = quic_test::UniqueFd(::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
            sockaddr_in to{};
            to.sin_family = AF_INET;
            to.sin_port = htons(4433);
            ::inet_pton(AF_INET, (net + ".2.2").c_str(), &to.sin_addr);
            if (fd_.get() < 0 ||
                ::connect(fd_.get(), reinterpret_cast<const sockaddr *>(&to), sizeof(to)) != 0)
                quic_test::throw_errno("connect");
        });
    }

    // Whether what is sent reaches the port.
    void aim(bool at_port) {
        const std::string net = "10." + std::to_string(pair_);
        source_.command("ip neigh replace " + net + ".1.1 lladdr " +
                        (at_port ? port_mac(2 * pair_ - 1) : kNobody) + " nud permanent dev " +
                        device_);
    }

    // Nanoseconds of @bursts bursts of @batch IP packets of @size bytes; throws if not all, or
    // any that were not meant to, come out.
    std::uint64_t run(unsigned bursts, unsigned batch, std::size_t size, bool forwarded) {
        const auto segment = static_cast<int>(size - kHeaders);
        if (::setsockopt(fd_.get(), SOL_UDP, UDP_SEGMENT, &segment, sizeof(segment)) != 0)
            quic_test::throw_errno("UDP_SEGMENT");
        const std::vector<char> data(static_cast<std::size_t>(segment) * batch);
        const std::uint64_t before = out();
        const std::uint64_t start = monotonic_ns();
        for (unsigned i = 0; i < bursts; ++i) {
            if (::send(fd_.get(), data.data(), data.size(), 0) != static_cast<ssize_t>(data.size()))
                quic_test::throw_errno("send");
            count_down(60'000 + 15'000ULL * batch);
        }
        const std::uint64_t took = monotonic_ns() - start;
        const std::uint64_t expected = forwarded ? std::uint64_t{bursts} * batch : 0;
        // virtio-net counts a packet when its buffer comes back.
        if (!quic_test::eventually([&] { return out() - before == expected; }))
            throw std::runtime_error(kModels[pair_ - 1] + " sent " +
                                     std::to_string(out() - before) + " packets instead of " +
                                     std::to_string(expected));
        return took;
    }

  private:
    [[nodiscard]] std::uint64_t out() const { return std::stoull(quic_test::read_file(out_)); }

    const quic_test::NetNamespace &source_;
    std::string device_;
    std::size_t pair_;
    std::string out_;
    quic_test::UniqueFd fd_;
};

Json measure(const std::vector<std::size_t> &sizes, unsigned repeats) {
    const double factor = ns_per_instruction();
    const quic_test::NetNamespace source;
    const std::string injector = port_device(2 * kModels.size() + 1);
    quic_test::command("ip link set " + injector + " netns " + source.path());
    source.command("ip link set " + injector + " up");
    std::vector<std::string> devices;
    for (std::size_t i = 1; i <= 2 * kModels.size(); ++i)
        devices.push_back(port_device(i));
    // Moderation that adapts itself settles now on this, now on that. Where it can be set (virtio
    // has none) it is that of mlx5 as it starts, or the nearest.
    const std::string fixed = " adaptive-rx off adaptive-tx off";
    source.command("ethtool -C " + injector + fixed);
    for (const auto &device : {devices[0], devices[1]})
        quic_test::command("ethtool -C " + device + fixed);
    for (const auto &device : {devices[2], devices[3]})
        quic_test::command("ethtool -C " + device + " rx-usecs 10");
    if (!quic_test::eventually([&] {
            return source.command("ip -br link show " + injector).find("LOWER_UP") !=
                   std::string::npos;
        }))
        throw std::runtime_error("no carrier");

    std::vector<Bursts> pairs;
    for (std::size_t i = 1; i <= kModels.size(); ++i)
        pairs.emplace_back(source, injector, i);
    Json result{{"ns_per_instruction", factor}, {"repeats", repeats}};
    for (const std::size_t size : sizes)
        for (const unsigned batch : {1U, 32U}) {
            const unsigned bursts = batch == 1 ? 600 : 100;
            std::map<std::string, std::vector<double>> costs;
            for (unsigned repeat = 0; repeat < repeats; ++repeat)
                for (std::size_t i = 0; i < pairs.size(); ++i) {
                    pairs[i].aim(false);
                    pairs[i].run(2, batch, size, false);
                    const auto floor =
                        static_cast<double>(pairs[i].run(bursts, batch, size, false));
                    pairs[i].aim(true);
                    pairs[i].run(20, batch, size, true);
                    const auto all = static_cast<double>(pairs[i].run(bursts, batch, size, true));
                    costs[kModels[i]].push_back((all - floor) / factor / bursts / batch);
                }
            for (const auto &model : kModels) {
                auto values = costs[model];
                std::sort(values.begin(), values.end());
                result["instructions"][std::to_string(size)][model][std::to_string(batch)] = {
                    {"instructions_per_packet", values[values.size() / 2]},
                    {"min", values.front()},
                    {"max", values.back()}};
            }
        }
    return result;
}

} // namespace
} // namespace quic_bench

int main(int argc, char **argv) {
    std::vector<std::size_t> sizes{64, 1500};
    unsigned repeats = 5;
    CLI::App app{"Instructions of forwarding a packet, by NIC model. JSON on standard output."};
    app.add_option("--sizes", sizes, "bytes of the IP packet")
        ->delimiter(',')
        ->check(CLI::Range(64, 1500));
    app.add_option("--repeats", repeats, "rounds")->check(CLI::Range(1, 1000));
    CLI11_PARSE(app, argc, argv);
    try {
        std::cout << quic_bench::measure(sizes, repeats).dump() << '\n';
    } catch (const std::exception &error) {
        std::cerr << "forwarding_cost: " << error.what() << '\n';
        return 1;
    }
    return 0;
}
