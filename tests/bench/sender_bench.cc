// SPDX-License-Identifier: GPL-2.0
//
// What a send of protected packets costs the sender's processor, in instructions: UDP alone,
// OpenSSL in user space, the device from an SA index and from inline keys, and the kernel's
// software. Runs in a guest with --icount and one ConnectX device; scripts/bench.sh starts it.
//
// The measured region is a row of sends and nothing else. Its time holds all that the guest does
// for them: system call, stack, driver, doorbell, the interrupt and NAPI poll that free what was
// sent, and (with MSG_ZEROCOPY) the sender's reading of completions. With --icount the model works
// within the write of the doorbell register, in no guest time, so that completions come at the same
// point of the instruction stream in every run; in a long row as many come in as go out.
#include <algorithm>
#include <cstdio>
#include <iostream>
#include <stdexcept>
#include <string>
#include <vector>

#include <sys/mman.h>

#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>

#include "batch_sender.h"
#include "guest_device.h"
#include "icount_clock.h"

namespace quic_bench {
namespace {

using Json = nlohmann::ordered_json;
using quic_test::Cipher;

constexpr Way kWays[] = {
    {.name = "plain"},
    {.name = "plain_zerocopy", .zerocopy = true},
    {.name = "user_aes_128_gcm", .protection = Protection::kUser},
    {.name = "user_aes_256_gcm", .protection = Protection::kUser, .cipher = Cipher::kAes256Gcm},
    {.name = "user_chacha20_poly1305",
     .protection = Protection::kUser,
     .cipher = Cipher::kChaCha20Poly1305},
    {.name = "user_aes_128_gcm_zerocopy", .protection = Protection::kUser, .zerocopy = true},
    {.name = "user_aes_256_gcm_zerocopy",
     .protection = Protection::kUser,
     .cipher = Cipher::kAes256Gcm,
     .zerocopy = true},
    {.name = "user_chacha20_poly1305_zerocopy",
     .protection = Protection::kUser,
     .cipher = Cipher::kChaCha20Poly1305,
     .zerocopy = true},
    {.name = "index", .protection = Protection::kIndex},
    {.name = "index_guarded", .protection = Protection::kIndex, .guarded = true},
    {.name = "inline", .protection = Protection::kInline},
    {.name = "index_zerocopy", .protection = Protection::kIndex, .zerocopy = true},
    {.name = "software_aes_128_gcm", .protection = Protection::kIndex, .offload = false},
    {.name = "software_aes_256_gcm",
     .protection = Protection::kIndex,
     .cipher = Cipher::kAes256Gcm,
     .offload = false},
    {.name = "software_chacha20_poly1305",
     .protection = Protection::kIndex,
     .cipher = Cipher::kChaCha20Poly1305,
     .offload = false},
};

struct Options {
    std::vector<std::string> ways;
    std::vector<unsigned> packets{1, 8, kMaxPackets};
    std::vector<std::string> families{"ipv4", "ipv6"};
    unsigned repeats = 5;
    // Instructions that one measured row should have: some ticks of the kernel's clock, so that
    // what it puts off (RCU) is in there too.
    std::uint64_t row = 16'000'000;
    std::string device = "eth0";
    // Where, on the host, each instruction of some sends goes; that of WAY-PACKETS.
    std::string trace;
};

// OpenSSL in this program does what RFC 9001 says: the same bytes as the tests' own reference.
void check_user_protection() {
    for (const Cipher cipher :
         {Cipher::kAes128Gcm, Cipher::kAes256Gcm, Cipher::kChaCha20Poly1305}) {
        constexpr unsigned kPackets = 3;
        constexpr std::uint64_t kPn = 0x1234567890;
        const quic_test::PacketKeys keys = quic_test::keys_of_seed(cipher, 7);
        quic_test::Bytes batch(kPackets * kWireSize, 0x3c);
        write_headers(batch.data(), kWireSize, kPackets, kPn);
        const quic_test::Bytes plain = batch;
        UserProtection(keys).protect(batch.data(), kPackets, kPn);
        for (unsigned i = 0; i < kPackets; ++i) {
            const auto packet = quic_test::ByteView(plain).subspan(i * kWireSize, kPlainSize);
            const auto wire = quic_test::ByteView(batch).subspan(i * kWireSize, kWireSize);
            const quic_test::Bytes expected = quic_test::protect(keys, packet, kPnOffset, kPn + i);
            if (!std::equal(wire.begin(), wire.end(), expected.begin(), expected.end()))
                throw std::runtime_error(std::string("wrong ciphertext: ") + name(cipher));
        }
    }
}

// Until the device has taken the SA into its database.
void wait_for_device(BatchSender &sender) {
    if (!quic_test::eventually([&] {
            sender.send();
            udp_crypto_sa_info info{};
            return quic_test::get_sa(sender.fd(), BatchSender::kCookie, &info) == 0 &&
                   info.state == UDP_CRYPTO_SA_DEVICE;
        }))
        throw std::runtime_error("the device does not take the SA");
}

double row_ns(BatchSender &sender, std::uint64_t sends) {
    const std::uint64_t start = monotonic_ns();
    for (std::uint64_t i = 0; i < sends; ++i)
        sender.send();
    return static_cast<double>(monotonic_ns() - start) / static_cast<double>(sends);
}

// A way that is not what its name says would give a figure all the same.
void check_counters(const Way &way, const Counters &before, Counters after, std::uint64_t packets,
                    std::size_t headers) {
    const auto since = [&](const std::string &name) {
        const auto old = before.find(name);
        return after[name] - (old == before.end() ? 0 : old->second);
    };
    const bool in_kernel =
        way.protection == Protection::kIndex || way.protection == Protection::kInline;
    const auto expect = [&](const std::string &name, std::uint64_t expected) {
        if (since(name) != expected)
            throw std::runtime_error(std::string(way.name) + ": " + name + " " +
                                     std::to_string(since(name)) + ", expected " +
                                     std::to_string(expected));
    };
    expect("tx_quic_index_packets",
           way.protection == Protection::kIndex && way.offload ? packets : 0);
    expect("tx_quic_inline_packets", way.protection == Protection::kInline ? packets : 0);
    expect("stat:TxSoftware", in_kernel && !way.offload ? packets : 0);
    expect("tx_packets", packets);
    expect("tx_bytes", packets * (headers + kWireSize));
}

Json measure(const Options &options, const Way &way, const std::string &family, unsigned packets,
             GuestDevice &device, const ModelState &model, BufferRing &buffers, double factor) {
    device.set_offload(way.offload);
    const bool v6 = family == "ipv6";
    BatchSender sender(way, GuestDevice::partner(v6 ? AF_INET6 : AF_INET), packets, buffers);
    if (way.protection == Protection::kIndex && way.offload)
        wait_for_device(sender);
    // Also the first use of all code and memory.
    constexpr std::uint64_t kWarmUp = 64;
    row_ns(sender, kWarmUp);
    const double estimate = row_ns(sender, kWarmUp);
    const std::uint64_t sends = std::clamp<std::uint64_t>(
        static_cast<std::uint64_t>(static_cast<double>(options.row) / estimate), 32, 20000);

    const Counters before = device.counters();
    row_ns(sender, kWarmUp); // the counters were read by another process
    std::vector<double> costs;
    for (unsigned i = 0; i < options.repeats; ++i)
        costs.push_back(row_ns(sender, sends) / factor);
    const std::uint64_t all = (kWarmUp + options.repeats * sends) * packets;
    check_counters(way, before, device.counters(), all, 14U + (v6 ? 40U : 20U) + 8U);
    if (sender.copied() != 0)
        throw std::runtime_error(std::string(way.name) + ": the kernel copied");

    std::sort(costs.begin(), costs.end());
    const double median = costs[costs.size() / 2];
    Json result = {{"instructions_per_send", median},
                   {"instructions_per_packet", median / packets},
                   {"min", costs.front()},
                   {"max", costs.back()},
                   {"sends", sends},
                   {"repeats", options.repeats}};

    // Not within the rows that are measured: QEMU's monitor answers in its own time.
    Counters bus_before = model.read();
    if (!bus_before.empty()) {
        constexpr std::uint64_t kBusSends = 64;
        row_ns(sender, kBusSends);
        Counters bus_after = model.read();
        Json &bus = result["bus_per_packet"];
        for (const char *name :
             {"reads", "read-bytes", "pcie-reads", "writes", "write-bytes", "pcie-writes"}) {
            std::string key = name;
            std::replace(key.begin(), key.end(), '-', '_');
            const std::string counter = std::string("dma.") + name;
            bus[key] = static_cast<double>(bus_after[counter] - bus_before[counter]) /
                       static_cast<double>(kBusSends * packets);
        }
    }
    if (!options.trace.empty()) {
        const auto traced =
            std::clamp<std::uint64_t>(static_cast<std::uint64_t>(400'000 / median), 4, 64);
        model.trace_to(options.trace + "/" + std::string(way.name) + "-" + std::to_string(packets));
        row_ns(sender, traced);
        model.trace_off();
        result["traced_sends"] = traced;
    }
    return result;
}

Json run(const Options &options) {
    check_user_protection();
    BufferRing buffers;
    GuestDevice device(options.device);
    const ModelState model;
    if (::mlockall(MCL_CURRENT) != 0)
        quic_test::throw_errno("mlockall");
    const double factor = ns_per_instruction();
    Json result = {{"ns_per_instruction", factor}};
    Json &ways = result["ways"];
    for (const Way &way : kWays) {
        if (!options.ways.empty() &&
            std::find(options.ways.begin(), options.ways.end(), way.name) == options.ways.end())
            continue;
        for (const std::string &family : options.families)
            for (const unsigned packets : options.packets) {
                Json one = measure(options, way, family, packets, device, model, buffers, factor);
                std::fprintf(stderr, "%-32s %s %2u: %10.1f a packet\n", way.name, family.c_str(),
                             packets, one["instructions_per_packet"].get<double>());
                ways[way.name][family][std::to_string(packets)] = std::move(one);
            }
    }
    return result;
}

} // namespace
} // namespace quic_bench

int main(int argc, char **argv) {
    quic_bench::Options options;
    CLI::App app("instructions per send; in a guest with --icount and a ConnectX device");
    app.add_option("--ways", options.ways, "only these")->delimiter(',');
    app.add_option("--packets", options.packets, "packets per send, 1 to 53")
        ->delimiter(',')
        ->check(CLI::Range(1U, quic_bench::kMaxPackets));
    app.add_option("--families", options.families, "ipv4, ipv6")
        ->delimiter(',')
        ->check(CLI::IsMember({"ipv4", "ipv6"}));
    app.add_option("--repeats", options.repeats, "rows, of which the median counts")
        ->check(CLI::Range(1U, 1000U));
    app.add_option("--row", options.row, "instructions that a row should have");
    app.add_option("--trace", options.trace, "folder on the host: a line per instruction");
    app.add_option("--device", options.device, "network device");
    CLI11_PARSE(app, argc, argv);
    try {
        for (const std::string &name : options.ways)
            if (std::none_of(std::begin(quic_bench::kWays), std::end(quic_bench::kWays),
                             [&](const auto &way) { return way.name == name; }))
                throw std::runtime_error("unknown way " + name);
        std::cout << quic_bench::run(options).dump(2) << '\n';
    } catch (const std::exception &error) {
        std::fprintf(stderr, "%s: %s\n", argv[0], error.what());
        return 1;
    }
    return 0;
}
