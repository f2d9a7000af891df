// SPDX-License-Identifier: GPL-2.0
//
// What happens to the cost of a send, and to memory, with many SAs and many sockets; what adding
// and deleting an SA costs; what a device does whose database is too small; what a second processor
// brings. All but the last in a guest with --icount; each with one ConnectX device.
#include <algorithm>
#include <cstdio>
#include <fstream>
#include <iostream>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include <sys/mman.h>
#include <sys/resource.h>

#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>

#include "batch_sender.h"
#include "guest_device.h"
#include "icount_clock.h"
#include "netlink.h"

namespace quic_bench {
namespace {

using Json = nlohmann::ordered_json;
using quic_test::Cipher;

constexpr Way kIndexWay{.name = "index", .protection = Protection::kIndex};
constexpr unsigned kRows = 5;

void raise_limits() {
    const rlimit files{1 << 20, 1 << 20};
    if (::setrlimit(RLIMIT_NOFILE, &files) != 0)
        quic_test::throw_errno("RLIMIT_NOFILE");
    for (const char *limit : {"udp_crypto_max_sa", "udp_crypto_max_sa_per_uid"})
        quic_test::write_file(std::string("/proc/sys/net/ipv4/") + limit, "4194304");
}

quic_test::Address partner() { return GuestDevice::partner(AF_INET); }

bool in_device(int fd, std::uint64_t cookie, std::uint32_t *index = nullptr) {
    udp_crypto_sa_info info{};
    if (const int result = quic_test::get_sa(fd, cookie, &info); result != 0) {
        errno = -result;
        quic_test::throw_errno("GET_SA");
    }
    if (index != nullptr)
        *index = info.sa;
    return info.state == UDP_CRYPTO_SA_DEVICE;
}

double median(std::vector<double> values) {
    std::sort(values.begin(), values.end());
    return values[values.size() / 2];
}

Json statistics_of(std::vector<double> values) {
    std::sort(values.begin(), values.end());
    return {
        {"instructions_per_send", median(values)}, {"min", values.front()}, {"max", values.back()}};
}

// SAs of one socket, all alike but for one byte of their keys.
class ManySas {
  public:
    explicit ManySas(int fd)
        : fd_(fd),
          request_(quic_test::sa_request(0, quic_test::keys_of_seed(Cipher::kAes128Gcm, 1))) {}

    void add_up_to(std::uint64_t count) {
        for (; count_ < count; ++count_) {
            request_.req.cookie = kFirst + count_;
            std::memcpy(request_.keys.key, &count_, sizeof(count_));
            if (const int result = quic_test::set_state(fd_, &request_, sizeof(request_));
                result != 0) {
                errno = -result;
                quic_test::throw_errno("ADD_SA");
            }
        }
    }
    void del_all() {
        for (; count_ > 0; --count_)
            if (const int result = quic_test::del_sa(fd_, kFirst + count_ - 1); result != 0) {
                errno = -result;
                quic_test::throw_errno("DEL_SA");
            }
    }
    [[nodiscard]] std::uint64_t count() const { return count_; }
    // At most @limit of them, evenly spread, the last one among them.
    [[nodiscard]] std::vector<std::uint64_t> sample(std::uint64_t limit) const {
        std::vector<std::uint64_t> cookies;
        const std::uint64_t take = std::min(limit, count_);
        for (std::uint64_t i = 1; i <= take; ++i)
            cookies.push_back(kFirst + count_ * i / take - 1);
        return cookies;
    }

  private:
    static constexpr std::uint64_t kFirst = 1000;
    int fd_;
    udp_crypto_sa request_;
    std::uint64_t count_ = 0;
};

// Sends once with each SA, and waits until the device has them all. Gives back their indices.
std::vector<std::uint32_t> settle(BatchSender &sender, const std::vector<std::uint64_t> &cookies) {
    std::vector<std::uint32_t> indices;
    for (const std::uint64_t cookie : cookies) {
        std::uint32_t index = 0;
        in_device(sender.fd(), cookie, &index);
        sender.use_sa(index);
        sender.send();
        indices.push_back(index);
    }
    if (!quic_test::eventually([&] {
            return std::all_of(cookies.rbegin(), cookies.rend(), [&](std::uint64_t cookie) {
                return in_device(sender.fd(), cookie);
            });
        }))
        throw std::runtime_error("the device does not take the SAs");
    return indices;
}

// --- cost per send
// --------------------------------------------------------------------------------

Json scale_sas(const std::vector<std::uint64_t> &counts, BufferRing &buffers, double factor) {
    constexpr std::uint64_t kSample = 1000;
    constexpr std::uint64_t kSends = 3000;
    Json result;
    BatchSender sender(kIndexWay, partner(), 1, buffers);
    ManySas sas(sender.fd());
    for (const std::uint64_t count : counts) {
        sas.add_up_to(count);
        const auto indices = settle(sender, sas.sample(kSample));
        std::vector<double> costs;
        for (unsigned row = 0; row <= kRows; ++row) {
            const std::uint64_t start = monotonic_ns();
            for (std::uint64_t i = 0; i < kSends; ++i) {
                sender.use_sa(indices[i % indices.size()]);
                sender.send();
            }
            if (row > 0) // the first warms up
                costs.push_back(static_cast<double>(monotonic_ns() - start) / kSends / factor);
        }
        result[std::to_string(count)] = statistics_of(costs);
        std::fprintf(stderr, "%8lu SAs: %.1f a send\n", static_cast<unsigned long>(count),
                     median(costs));
    }
    return result;
}

Json scale_sockets(const std::vector<std::uint64_t> &counts, BufferRing &buffers, double factor) {
    constexpr std::uint64_t kSends = 3000;
    Json result;
    std::vector<std::unique_ptr<BatchSender>> senders;
    for (const std::uint64_t count : counts) {
        while (senders.size() < count) {
            senders.push_back(std::make_unique<BatchSender>(kIndexWay, partner(), 1, buffers));
            senders.back()->send();
        }
        if (!quic_test::eventually([&] {
                return std::all_of(senders.rbegin(), senders.rend(), [](const auto &sender) {
                    return in_device(sender->fd(), BatchSender::kCookie);
                });
            }))
            throw std::runtime_error("the device does not take the SAs of all sockets");
        std::vector<double> costs;
        std::size_t at = 0;
        for (unsigned row = 0; row <= kRows; ++row) {
            const std::uint64_t start = monotonic_ns();
            for (std::uint64_t i = 0; i < kSends; ++i) {
                senders[at]->send();
                at = at + 1 < senders.size() ? at + 1 : 0;
            }
            if (row > 0)
                costs.push_back(static_cast<double>(monotonic_ns() - start) / kSends / factor);
        }
        result[std::to_string(count)] = statistics_of(costs);
        std::fprintf(stderr, "%8lu sockets: %.1f a send\n", static_cast<unsigned long>(count),
                     median(costs));
    }
    return result;
}

// --- memory
// ---------------------------------------------------------------------------------------

// Bytes that the kernel's slabs and its other allocations of whole pages take.
std::uint64_t kernel_memory() {
    std::ifstream info("/proc/meminfo");
    std::uint64_t total = 0;
    for (std::string name, unit; info >> name;) {
        std::uint64_t kib = 0;
        info >> kib;
        std::getline(info, unit);
        if (name == "Slab:" || name == "VmallocUsed:" || name == "Percpu:")
            total += kib * 1024;
    }
    return total;
}

// Of SAs that only the device uses: those that have never needed software.
Json memory_per_sa(std::uint64_t count, BufferRing &buffers) {
    BatchSender sender(kIndexWay, partner(), 1, buffers);
    ManySas sas(sender.fd());
    sas.add_up_to(64);
    settle(sender, sas.sample(64));
    const std::uint64_t first = sas.count();
    const std::uint64_t before = kernel_memory();
    sas.add_up_to(first + count);
    const std::uint64_t added = kernel_memory();
    settle(sender, sas.sample(first + count));
    const std::uint64_t installed = kernel_memory();
    const auto per_sa = [&](std::uint64_t now) {
        return (static_cast<double>(now) - static_cast<double>(before)) /
               static_cast<double>(count);
    };
    return {{"sas", count},
            {"bytes_per_sa_added", per_sa(added)},
            {"bytes_per_sa_in_device", per_sa(installed)}};
}

// --- adding and deleting
// --------------------------------------------------------------------------

Json rates(std::uint64_t count, BufferRing &buffers, double factor) {
    BatchSender sender(kIndexWay, partner(), 1, buffers);
    ManySas sas(sender.fd());
    const auto per = [&](std::uint64_t start) {
        return static_cast<double>(monotonic_ns() - start) / static_cast<double>(count) / factor;
    };
    Json result = {{"sas", count}};
    for (unsigned round = 0; round < 2; ++round) { // the first warms up
        std::uint64_t start = monotonic_ns();
        sas.add_up_to(count);
        result["sockopt"]["instructions_per_add"] = per(start);
        start = monotonic_ns();
        sas.del_all();
        result["sockopt"]["instructions_per_delete"] = per(start);
    }

    quic_sadb::Client client;
    const quic_test::PacketKeys keys = quic_test::keys_of_seed(Cipher::kAes128Gcm, 1);
    quic_sadb::SaSpec spec;
    spec.cipher = UDP_QUIC_CIPHER_AES_128_GCM;
    std::copy(keys.key.begin(), keys.key.end(), spec.key.begin());
    std::copy(keys.hp.begin(), keys.hp.end(), spec.hp.begin());
    std::copy(keys.iv.begin(), keys.iv.end(), spec.iv.begin());
    for (unsigned round = 0; round < 2; ++round) {
        std::vector<std::uint32_t> indices(count);
        std::uint64_t refused = 0;
        quic_sadb::Client::Pipeline adding(
            client, [&](std::size_t tag, std::uint32_t index, const auto &refusal) {
                indices[tag] = index;
                refused += refusal ? 1 : 0;
            });
        std::uint64_t start = monotonic_ns();
        for (std::size_t i = 0; i < count; ++i)
            adding.add(i, spec);
        adding.finish();
        result["netlink"]["instructions_per_add"] = per(start);
        quic_sadb::Client::Pipeline deleting(
            client,
            [&](std::size_t, std::uint32_t, const auto &refusal) { refused += refusal ? 1 : 0; });
        start = monotonic_ns();
        for (std::size_t i = 0; i < count; ++i)
            deleting.del(i, indices[i]);
        deleting.finish();
        result["netlink"]["instructions_per_delete"] = per(start);
        if (refused != 0)
            throw std::runtime_error(std::to_string(refused) + " requests were refused");
    }
    return result;
}

// --- a database that is too small
// -------------------------------------------------------------------

Json full_database(std::uint64_t count, GuestDevice &device, BufferRing &buffers, double factor) {
    BatchSender sender(kIndexWay, partner(), 1, buffers);
    ManySas sas(sender.fd());
    sas.add_up_to(count);
    std::vector<std::uint32_t> indices;
    for (const std::uint64_t cookie : sas.sample(count)) {
        std::uint32_t index = 0;
        in_device(sender.fd(), cookie, &index);
        sender.use_sa(index);
        sender.send();
        indices.push_back(index);
    }
    // Until the driver has tried them all.
    Counters before;
    const bool settled = quic_test::eventually([&] {
        Counters now = device.counters();
        const bool still = now["quic_sa_full"] == before["quic_sa_full"] &&
                           now["quic_sa_created"] == before["quic_sa_created"] &&
                           now["quic_sa_full"] > 0;
        before = std::move(now);
        return still;
    });
    if (!settled)
        throw std::runtime_error("the database is not full");
    constexpr std::uint64_t kSends = 4096;
    const std::uint64_t start = monotonic_ns();
    for (std::uint64_t i = 0; i < kSends; ++i) {
        sender.use_sa(indices[i % indices.size()]);
        sender.send();
    }
    const double cost = static_cast<double>(monotonic_ns() - start) / kSends / factor;
    Counters after = device.counters();
    const auto share = [&](const char *name) {
        return static_cast<double>(after[name] - before[name]) / kSends;
    };
    Json result = {{"sas", count},
                   {"instructions_per_send", cost},
                   {"share_index", share("tx_quic_index_packets")},
                   {"share_inline", share("tx_quic_inline_packets")},
                   {"share_software", share("stat:TxSoftware")},
                   {"dropped", after["tx_quic_dropped"] - before["tx_quic_dropped"]}};
    if (result["share_index"].get<double>() + result["share_inline"].get<double>() +
            result["share_software"].get<double>() !=
        1.0)
        throw std::runtime_error("packets got lost: " + result.dump());
    return result;
}

// --- two processors
// ---------------------------------------------------------------------------------

// Wall clock, software, a device that throws away: nothing but the senders needs a processor. Each
// of @threads does @kSends times what @work(thread) gives it to do; packets per second.
constexpr unsigned kThreadPackets = 8;
constexpr std::uint64_t kSends = 3000;

template <typename Work> double thread_rate(unsigned threads, const Work &work) {
    std::vector<std::thread> running;
    const std::uint64_t start = monotonic_ns();
    for (unsigned t = 0; t < threads; ++t)
        running.emplace_back([&work, t] {
            cpu_set_t set;
            CPU_ZERO(&set);
            CPU_SET(t, &set);
            ::pthread_setaffinity_np(::pthread_self(), sizeof(set), &set);
            auto once = work(t);
            for (std::uint64_t i = 0; i < kSends; ++i)
                once();
        });
    for (std::thread &thread : running)
        thread.join();
    return static_cast<double>(threads * kSends * kThreadPackets) * 1e9 /
           static_cast<double>(monotonic_ns() - start);
}

Json two_threads() {
    quic_test::command("ip link add dummy9 type dummy; ip link set dummy9 up; "
                       "ip addr add 10.8.0.1/24 dev dummy9; "
                       "ip neigh add 10.8.0.2 lladdr 02:00:00:00:08:02 nud permanent dev dummy9");
    const auto to = quic_test::Address::v4("10.8.0.2", 4433);
    std::array<BufferRing, 2> rings;
    std::array<BatchSender, 2> senders{BatchSender(kIndexWay, to, kThreadPackets, rings[0]),
                                       BatchSender(kIndexWay, to, kThreadPackets, rings[1])};
    std::uint64_t next_pn = 0;
    // One socket and one SA; a socket and an SA for each; and OpenSSL in user space, no system call
    // at all: what the machine gives a second processor.
    const auto together = [&](unsigned t) {
        return [sender = std::make_shared<BatchSender>(
                    senders[0], rings[t], next_pn + (std::uint64_t{t} << 40))] { sender->send(); };
    };
    const auto apart = [&](unsigned t) {
        return [sender = std::make_shared<BatchSender>(
                    senders[t], rings[t], next_pn + (std::uint64_t{2} << 40))] { sender->send(); };
    };
    const auto machine = [&](unsigned t) {
        return [user = std::make_shared<UserProtection>(
                    quic_test::keys_of_seed(quic_test::Cipher::kAes128Gcm, 1)),
                ring = &rings[t], pn = std::uint64_t{0}]() mutable {
            std::uint8_t *buffer = ring->next();
            write_headers(buffer, kWireSize, kThreadPackets, pn);
            user->protect(buffer, kThreadPackets, pn);
            pn += kThreadPackets;
        };
    };
    struct {
        std::vector<double> one, two, ratio;
    } rates_together, rates_apart, rates_machine;
    const auto measure = [&](auto &rates, const auto &work) {
        rates.one.push_back(thread_rate(1, work));
        next_pn += kSends * kThreadPackets;
        rates.two.push_back(thread_rate(2, work));
        next_pn += kSends * kThreadPackets;
        rates.ratio.push_back(rates.two.back() / rates.one.back());
    };
    thread_rate(2, together);
    next_pn += kSends * kThreadPackets;
    // In turn, so that the machine is the same for all.
    for (unsigned i = 0; i < 7; ++i) {
        measure(rates_together, together);
        measure(rates_apart, apart);
        measure(rates_machine, machine);
    }
    const auto [least, most] =
        std::minmax_element(rates_together.ratio.begin(), rates_together.ratio.end());
    return {{"packets_per_second_one", median(rates_together.one)},
            {"packets_per_second_two", median(rates_together.two)},
            {"ratio", median(rates_together.ratio)},
            {"ratio_min", *least},
            {"ratio_max", *most},
            {"ratio_apart", median(rates_apart.ratio)},
            {"ratio_machine", median(rates_machine.ratio)}};
}

} // namespace
} // namespace quic_bench

int main(int argc, char **argv) {
    using namespace quic_bench;
    std::vector<std::uint64_t> sas{1, 1000, 100000};
    std::vector<std::uint64_t> sockets{1, 100, 10000};
    std::uint64_t memory = 20000;
    std::uint64_t rate = 5000;
    std::uint64_t full = 1024;
    CLI::App app("SAs and sockets by the thousand; in a guest with a ConnectX device");
    app.require_subcommand(1);
    auto *sas_mode = app.add_subcommand("sas", "cost per send with so many SAs");
    sas_mode->add_option("counts", sas, "ascending");
    auto *sockets_mode = app.add_subcommand("sockets", "cost per send with so many sockets");
    sockets_mode->add_option("counts", sockets, "ascending");
    auto *memory_mode = app.add_subcommand("memory", "kernel memory per SA");
    memory_mode->add_option("count", memory, "SAs");
    auto *rates_mode = app.add_subcommand("rates", "cost of adding and deleting");
    rates_mode->add_option("count", rate, "SAs");
    auto *full_mode = app.add_subcommand("full", "more SAs than the device has room for");
    full_mode->add_option("count", full, "SAs");
    auto *threads_mode = app.add_subcommand("threads", "two processors, wall clock: no --icount");
    CLI11_PARSE(app, argc, argv);
    try {
        raise_limits();
        Json result;
        if (threads_mode->parsed()) {
            result = two_threads();
        } else {
            BufferRing buffers;
            GuestDevice device("eth0");
            if (::mlockall(MCL_CURRENT) != 0)
                quic_test::throw_errno("mlockall");
            const double factor = ns_per_instruction();
            if (sas_mode->parsed())
                result = scale_sas(sas, buffers, factor);
            else if (sockets_mode->parsed())
                result = scale_sockets(sockets, buffers, factor);
            else if (memory_mode->parsed())
                result = memory_per_sa(memory, buffers);
            else if (rates_mode->parsed())
                result = rates(rate, buffers, factor);
            else if (full_mode->parsed())
                result = full_database(full, device, buffers, factor);
        }
        std::cout << result.dump(2) << '\n';
    } catch (const std::exception &error) {
        std::fprintf(stderr, "%s: %s\n", argv[0], error.what());
        return 1;
    }
    return 0;
}
