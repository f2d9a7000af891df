// SPDX-License-Identifier: GPL-2.0
//
// Sizes the SA cache and the command interface of a device for a host of 400 Gbit/s with 1,000,000
// connections: docs/at-scale.md explains what is asked and has the answers. The SAs are those of
// the model's own database, which hands out the indexes.
#include "quic.h"
#include "sa_cache.h"
#include "workload.h"

#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>

#include <cstdio>
#include <deque>
#include <iostream>
#include <memory>

namespace connectx::scale {
namespace {

using Json = nlohmann::ordered_json;

constexpr std::size_t kSaBytes = 128;                  // docs/hardware-interface.md, the SA object
constexpr std::size_t kInlineExtraBytes = 128;         // likewise: 64 to 192 bytes of WQE
constexpr double kWireBytes = 1200 + 8 + 20 + 14 + 24; // UDP, IPv4, Ethernet with preamble and gap
constexpr std::uint32_t kDatabase = 1U << 21;
constexpr std::size_t kFirstCache = 1U << 10;
constexpr std::size_t kLastCache = 1U << 20;

struct Options {
    double scale = 1;
    double seconds = 1;
    double warm_up = 5;
    std::uint64_t draws = 4'000'000;
    std::uint64_t seed = 1;
    std::uint64_t key_update_packets = 100'000;
    bool json = false;
};

/// What a device knows of the connections: which SA each has, and which of these are on the chip.
class Device {
  public:
    enum class Caches : std::uint8_t { kNone, kAll };
    Device(std::uint32_t connections, Caches caches) : sa_(connections, kNone), sadb_(kDatabase) {
        for (std::size_t entries = kFirstCache; caches == Caches::kAll && entries <= kLastCache;
             entries *= 4)
            caches_.emplace_back(entries);
    }

    [[nodiscard]] bool has(std::uint32_t connection) const { return sa_[connection] != kNone; }
    void install(std::uint32_t connection) {
        sa_[connection] = sadb_.insert(std::make_unique<QuicSa>());
    }
    void remove(std::uint32_t connection) {
        const std::uint32_t sa = std::exchange(sa_[connection], kNone);
        if (sa == kNone)
            return;
        for (SaCache &cache : caches_)
            cache.invalidate(sa);
        sadb_.erase(sa);
    }
    void send(std::uint32_t connection) {
        for (SaCache &cache : caches_)
            cache.access(sa_[connection]);
    }
    [[nodiscard]] std::vector<SaCache> &caches() { return caches_; }

  private:
    static constexpr std::uint32_t kNone = ~0U;

    std::vector<std::uint32_t> sa_;
    QuicSaDatabase sadb_;
    std::vector<SaCache> caches_;
};

/// Reads of SAs for each send, by size of the cache, when connections are drawn by popularity.
Json popularity(const Options &options) {
    Json rows = Json::array();
    const auto connections = static_cast<std::uint32_t>(1'000'000 / options.scale);
    for (const double s : {0.6, 0.8, 1.0, 1.2}) {
        const Zipf zipf(connections, s);
        Random random(options.seed);
        Device device(connections, Device::Caches::kAll);
        // A connection's index says nothing of its popularity: they came in any order.
        std::vector<std::uint32_t> order(connections);
        std::iota(order.begin(), order.end(), 0U);
        std::shuffle(order.begin(), order.end(), random);
        for (std::uint32_t i = 0; i < connections; ++i)
            device.install(i);
        for (std::uint64_t i = 0; i < options.draws; ++i)
            device.send(order[zipf(random)]);
        for (SaCache &cache : device.caches())
            cache.forget_counts();
        for (std::uint64_t i = 0; i < options.draws; ++i)
            device.send(order[zipf(random)]);
        for (const SaCache &cache : device.caches())
            rows.push_back({{"zipf", s},
                            {"entries", cache.entries()},
                            {"reads_per_send", static_cast<double>(cache.misses()) /
                                                   static_cast<double>(cache.accesses())}});
    }
    return rows;
}

/// The device's command interface: so many SAs a second, in order.
class Installer {
  public:
    Installer(double commands_per_second) : service_(1 / commands_per_second) {}

    /// A command is queued; returns when it has been carried out.
    double queue(double now) {
        free_at_ = std::max(free_at_, now) + service_;
        return free_at_;
    }
    [[nodiscard]] double backlog(double now) const {
        return std::max(0.0, free_at_ - now) / service_;
    }

  private:
    double service_;
    double free_at_ = 0;
};

struct MixResult {
    std::uint64_t sends = 0;
    std::uint64_t packets = 0;
    std::uint64_t inline_sends = 0;
    std::uint64_t inline_packets = 0;
    std::uint64_t installs = 0;
    double backlog = 0; ///< commands that waited at most
    double seconds = 0;
};

/// Runs the mix over a device whose driver installs the SA of a connection, and of each key update,
/// at its `install_at`-th send. Until the device has it, keys go inline.
class MixRun {
  public:
    MixRun(const Options &options, double commands_per_second, unsigned install_at,
           Device::Caches caches = Device::Caches::kNone)
        : options_(options), mix_(internet_mix(), options.seed, options.scale),
          device_(mix_.connections(), caches), installer_(commands_per_second / options.scale),
          install_at_(install_at), state_(mix_.connections()) {
        for (std::uint32_t i = 0; i < mix_.connections(); ++i)
            device_.install(i);
    }

    Device &device() { return device_; }

    /// Every `share`-th connection comes from another host now: this device has no SA of it, and
    /// none to destroy.
    void connections_arrive(unsigned share) {
        for (std::uint32_t i = 0; i < mix_.connections(); i += share) {
            device_.remove(i);
            state_[i] = {};
        }
    }

    MixResult run(double seconds) {
        MixResult result;
        const double end = now_ + seconds;
        for (SaCache &cache : device_.caches())
            cache.forget_counts();
        while (now_ < end)
            step(result);
        result.seconds = seconds;
        return result;
    }

  private:
    struct State {
        std::uint64_t packets = 0; ///< under the present keys
        double ready = -1;         ///< when the SA that was asked for is there; before: not asked
        unsigned sends = 0;        ///< under the present keys
    };

    void forget(std::uint32_t connection, double now) {
        if (device_.has(connection)) {
            device_.remove(connection);
            installer_.queue(now); // DESTROY takes its turn, too
        }
        state_[connection] = {};
    }

    void step(MixResult &result) {
        const Send send = mix_.next();
        State &state = state_[send.connection];
        now_ = send.time;
        if (send.first || state.packets >= options_.key_update_packets)
            forget(send.connection, now_);
        state.packets += send.packets;
        ++state.sends;
        if (!device_.has(send.connection)) {
            if (state.ready < 0 && state.sends >= install_at_) {
                state.ready = installer_.queue(now_);
                ++result.installs;
            } else if (state.ready >= 0 && state.ready <= now_) {
                device_.install(send.connection);
            }
        }
        result.backlog = std::max(result.backlog, installer_.backlog(now_));
        ++result.sends;
        result.packets += send.packets;
        if (device_.has(send.connection)) {
            device_.send(send.connection);
        } else {
            ++result.inline_sends;
            result.inline_packets += send.packets;
        }
    }

    const Options &options_;
    Mix mix_;
    Device device_;
    Installer installer_;
    unsigned install_at_;
    std::vector<State> state_;
    double now_ = 0;
};

double ratio(std::uint64_t a, std::uint64_t b) {
    return b == 0 ? 0 : static_cast<double>(a) / static_cast<double>(b);
}

/// The mix itself, and what each size of cache costs under it.
Json mix(const Options &options) {
    MixRun run(options, 1e6, 1, Device::Caches::kAll);
    run.run(options.warm_up);
    const MixResult result = run.run(options.seconds);
    Json kinds = Json::array();
    for (const Kind &kind : internet_mix())
        kinds.push_back({{"kind", kind.name},
                         {"connections", kind.connections},
                         {"gbit_per_second", packet_rate(kind) * kWireBytes * 8 / 1e9}});
    Json caches = Json::array();
    for (const SaCache &cache : run.device().caches())
        caches.push_back(
            {{"entries", cache.entries()},
             {"bytes", cache.entries() * kSaBytes},
             {"reads_per_send", ratio(cache.misses(), cache.accesses())},
             {"reads_per_packet", ratio(cache.misses(), result.packets - result.inline_packets)},
             {"reads_per_second",
              static_cast<double>(cache.misses()) / result.seconds * options.scale}});
    return {
        {"kinds", kinds},
        {"packets_per_second",
         static_cast<double>(result.packets) / result.seconds * options.scale},
        {"sends_per_second", static_cast<double>(result.sends) / result.seconds * options.scale},
        {"caches", caches}};
}

Json installs(const Options &options) {
    Json rows = Json::array();
    for (const unsigned install_at : {1U, 2U, 8U})
        for (const double commands : {30e3, 60e3, 100e3, 1e6}) {
            MixRun run(options, commands, install_at);
            run.run(options.warm_up);
            const MixResult result = run.run(options.seconds);
            rows.push_back({{"install_at_send", install_at},
                            {"commands_per_second", commands},
                            {"installs_per_second",
                             static_cast<double>(result.installs) / result.seconds * options.scale},
                            {"inline_packets", ratio(result.inline_packets, result.packets)},
                            {"extra_bytes_per_packet",
                             kInlineExtraBytes * ratio(result.inline_sends, result.packets)},
                            {"backlog_seconds", result.backlog * options.scale / commands}});
        }
    return rows;
}

/// A tenth of the connections comes over from a host that leaves the load balancer.
Json moves(const Options &options) {
    constexpr unsigned kShare = 10;
    Json rows = Json::array();
    for (const double commands : {100e3, 300e3}) {
        MixRun run(options, commands, 1);
        run.run(options.warm_up);
        run.connections_arrive(kShare);
        Json by_second = Json::array();
        for (int i = 0; i < 4; ++i) {
            const MixResult result = run.run(0.5);
            by_second.push_back(ratio(result.inline_packets, result.packets));
        }
        rows.push_back(
            {{"commands_per_second", commands}, {"inline_packets_by_half_second", by_second}});
    }
    return rows;
}

void print_tables(const Json &all) {
    std::puts("Reads of an SA per send, connections drawn by popularity (Zipf):\n");
    std::puts("| entries | KiB | s = 0.6 | 0.8 | 1.0 | 1.2 |\n|---|---|---|---|---|---|");
    const Json &drawn = all["popularity"];
    for (std::size_t i = 0; i < drawn.size() / 4; ++i) {
        const auto entries = drawn[i]["entries"].get<std::size_t>();
        std::printf("| %zu | %zu |", entries, entries * kSaBytes / 1024);
        for (std::size_t s = 0; s < 4; ++s)
            std::printf(" %.3f |", drawn[s * drawn.size() / 4 + i]["reads_per_send"].get<double>());
        std::puts("");
    }
    const Json &mix = all["mix"];
    std::printf("\nThe mix: %.1f M packets a second in %.2f M sends.\n\n",
                mix["packets_per_second"].get<double>() / 1e6,
                mix["sends_per_second"].get<double>() / 1e6);
    std::puts("| kind | connections | Gbit/s |\n|---|---|---|");
    for (const Json &kind : mix["kinds"])
        std::printf("| %s | %u | %.1f |\n", kind["kind"].get<std::string>().c_str(),
                    kind["connections"].get<unsigned>(), kind["gbit_per_second"].get<double>());
    std::puts(
        "\n| entries | KiB | reads per send | per packet | M a second |\n|---|---|---|---|---|");
    for (const Json &cache : mix["caches"])
        std::printf("| %zu | %zu | %.3f | %.4f | %.2f |\n", cache["entries"].get<std::size_t>(),
                    cache["bytes"].get<std::size_t>() / 1024, cache["reads_per_send"].get<double>(),
                    cache["reads_per_packet"].get<double>(),
                    cache["reads_per_second"].get<double>() / 1e6);
    std::puts("\n| installed at send | commands a second | installs a second | packets inline | "
              "bytes a packet | backlog, s |\n|---|---|---|---|---|---|");
    for (const Json &row : all["installs"])
        std::printf(
            "| %u | %.0f | %.0f | %.2f %% | %.2f | %.2f |\n",
            row["install_at_send"].get<unsigned>(), row["commands_per_second"].get<double>(),
            row["installs_per_second"].get<double>(), row["inline_packets"].get<double>() * 100,
            row["extra_bytes_per_packet"].get<double>(), row["backlog_seconds"].get<double>());
    std::puts("\n| commands a second | packets inline in the four half seconds after the move "
              "|\n|---|---|");
    for (const Json &row : all["moves"]) {
        std::printf("| %.0f |", row["commands_per_second"].get<double>());
        for (const Json &share : row["inline_packets_by_half_second"])
            std::printf(" %.1f %%", share.get<double>() * 100);
        std::puts(" |");
    }
}

int run(int argc, char **argv) {
    Options options;
    CLI::App app{"Sizes a device's SA cache and command interface for a host at internet scale"};
    app.add_option("--scale", options.scale,
                   "divide connections and rates by this, to try things out")
        ->check(CLI::Range(1.0, 1000.0));
    app.add_option("--seconds", options.seconds, "of the host's time that are counted")
        ->check(CLI::Range(0.01, 60.0));
    app.add_option("--warm-up", options.warm_up, "seconds before that")
        ->check(CLI::Range(0.0, 60.0));
    app.add_option("--draws", options.draws, "sends drawn by popularity, for each exponent")
        ->check(CLI::Range(1'000ULL, 1'000'000'000ULL));
    app.add_option("--key-update-packets", options.key_update_packets,
                   "packets after which a connection changes its keys")
        ->check(CLI::Range(1'000ULL, 1ULL << 40));
    app.add_option("--seed", options.seed, "of all that is drawn");
    app.add_flag("--json", options.json, "print one JSON object instead of tables");
    CLI11_PARSE(app, argc, argv);

    const Json all{{"popularity", popularity(options)},
                   {"mix", mix(options)},
                   {"installs", installs(options)},
                   {"moves", moves(options)}};
    if (options.json)
        std::cout << all.dump() << '\n';
    else
        print_tables(all);
    return 0;
}

} // namespace
} // namespace connectx::scale

int main(int argc, char **argv) { return connectx::scale::run(argc, argv); }
