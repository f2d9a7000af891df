// SPDX-License-Identifier: GPL-2.0
//
// Mixed traffic in spells, and stock taken after each: does anything grow? Runs as root in a guest
// that does nothing else; QUIC_TEST_NIC names two network devices on one wire, as for the tests of
// the NIC. Tells of each spell on standard error, and of all in one JSON object on standard output.
#include <array>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <new>
#include <string>
#include <vector>

#include <fcntl.h>
#include <getopt.h>
#include <gtest/gtest.h>
#include <malloc.h>
#include <nlohmann/json.hpp>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/utsname.h>
#include <sys/wait.h>

#include "growth.h"
#include "report.h"
#include "scene.h"
#include "stock.h"
#include "udp_crypto.h"

namespace quic_soak {
namespace {

using namespace quic_test;
using Clock = std::chrono::steady_clock;
using nlohmann::json;

struct Options {
    unsigned seconds = 3600;
    unsigned spell = 60;
    unsigned spells = 4; // or more: fewer tell nothing about growth
    std::uint64_t seed = 1;
    bool leak = false;
};

// What must be found: each spell something is left behind of what the exact rules look at, and of
// what only grows.
class Leak {
  public:
    void spell() {
        for (unsigned i = 0; i < 8; ++i) {
            descriptors_.push_back(udp_socket(AF_INET));
            if (add_sa(descriptors_.back().get(), 1, keys_of_seed(Cipher::kAes128Gcm, i)) != 0)
                throw std::runtime_error("cannot even leak an SA");
        }
        for (unsigned i = 0; i < 32; ++i)
            descriptors_.emplace_back(::open("/dev/null", O_RDONLY | O_CLOEXEC));
        for (unsigned i = 0; i < 4; ++i) {
            const std::string name = "leak" + std::to_string(devices_++);
            command("ip link add " + name + "a type veth peer name " + name + "b");
        }
    }

  private:
    std::vector<UniqueFd> descriptors_;
    unsigned devices_ = 0;
};

struct Spell {
    Told told;
    double seconds = 0;
};

bool is_rough(unsigned number) { return number % 5 == 2; }

Spell run_spell(const Options &options, unsigned number, bool connectx) {
    const auto start = Clock::now();
    int ends[2];
    if (::pipe2(ends, O_CLOEXEC) != 0)
        throw_errno("pipe2");
    UniqueFd reader(ends[0]);
    UniqueFd writer(ends[1]);
    const Report report(writer.get());
    std::vector<Wire> wires{Wire::kVeth,
                            number % 2 == 0 ? Wire::kOffload : Wire::kOffloadNoSegmentation};
    if (connectx)
        wires.push_back(Wire::kConnectx);
    void *shared = ::mmap(nullptr, sizeof(std::atomic<unsigned>), PROT_READ | PROT_WRITE,
                          MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (shared == MAP_FAILED)
        throw_errno("mmap");
    auto *unmade = new (shared) std::atomic<unsigned>(static_cast<unsigned>(wires.size()));
    std::vector<pid_t> children;
    for (const Wire wire : wires) {
        const pid_t child = ::fork();
        if (child < 0)
            throw_errno("fork");
        if (child == 0) {
            reader.reset();
            play({.wire = wire,
                  .seed = options.seed + number * 16 + static_cast<unsigned>(wire),
                  .length = std::chrono::seconds(options.spell),
                  .unmade = unmade,
                  .listen = number % 2 == 0,
                  .rough = is_rough(number),
                  .leave = number % 3 == 1},
                 report);
            ::_exit(0);
        }
        children.push_back(child);
    }
    writer.reset();
    Spell spell;
    spell.told = read_reports(reader.get());
    for (const pid_t child : children) {
        int status = 0;
        ::waitpid(child, &status, 0);
        if (!WIFEXITED(status) || WEXITSTATUS(status) != 0)
            spell.told.failures.push_back("a process of the spell ended with status " +
                                          std::to_string(status));
    }
    ::munmap(shared, sizeof(std::atomic<unsigned>));
    spell.seconds = std::chrono::duration<double>(Clock::now() - start).count();
    return spell;
}

json to_json(const Judgement &one) {
    return {{"name", one.name},   {"unit", one.unit},   {"rule", name(one.rule)},
            {"slack", one.slack}, {"first", one.first}, {"last", one.last},
            {"most", one.most},   {"holds", one.holds}, {"notable", is_notable(one.name)}};
}

int soak(const Options &options) {
    const bool connectx = std::getenv("QUIC_TEST_NIC") != nullptr;
    std::vector<std::string> devices;
    if (connectx)
        devices = {"eth0", "eth1"};
    // Namespaces without the tunnel devices that the kernel else makes in each: faster.
    write_file("/proc/sys/net/core/fb_tunnels_only_for_init_net", "2");

    const auto start = Clock::now();
    const auto passed = [&] {
        return static_cast<unsigned>(
            std::chrono::duration_cast<std::chrono::seconds>(Clock::now() - start).count());
    };
    const Stock before = take_stock(devices);
    std::vector<Stock> stocks;
    Told all;
    Leak leak;
    for (unsigned number = 0; passed() < options.seconds || number < options.spells; ++number) {
        const Spell spell = run_spell(options, number, connectx);
        if (options.leak)
            leak.spell();
        ::malloc_trim(0);
        stocks.push_back(take_stock(devices));
        for (const auto &[what, n] : spell.told.counts)
            all.counts[what] += n;
        const auto count = [&](const char *what) {
            const auto found = spell.told.counts.find(what);
            return static_cast<unsigned long long>(
                found == spell.told.counts.end() ? 0 : found->second);
        };
        const auto value = [&](const char *what) {
            return static_cast<long long>(stocks.back()[what].value);
        };
        std::fprintf(
            stderr,
            "spell %u, %u of %u s (%.0f s):%s %llu packets taken, %llu decrypted, %llu SAs; then "
            "SAs %lld, "
            "not available %lld KB, slab %lld KB, files %lld%s\n",
            number, passed(), options.seconds, spell.seconds, is_rough(number) ? " rough," : "",
            count("packets taken by sendmsg()"), count("packets that arrived and were decrypted"),
            count("SAs added"), value("slab udp_sa"),
            value("memory not available, call chains left out") / 1024, value("Slab") / 1024,
            value("open files"), spell.told.failures.empty() ? "" : "; FAILED");
        for (const std::string &failure : spell.told.failures) {
            std::fprintf(stderr, "  %s\n", failure.c_str());
            // Some are enough.
            if (all.failures.size() < 100)
                all.failures.push_back("spell " + std::to_string(number) + ", " + failure);
        }
    }

    json result;
    utsname kernel{};
    ::uname(&kernel);
    result["schema"] = 1;
    result["kernel"] = kernel.release;
    result["seconds"] = passed();
    result["spells"] = stocks.size();
    result["warm_up"] = warm_up(stocks.size());
    result["seed"] = options.seed;
    result["leak"] = options.leak;
    result["traffic"] = all.counts;
    result["failures"] = all.failures;
    result["grown"] = json::array();
    result["quantities"] = json::array();
    for (const Judgement &one : judge(before, stocks)) {
        result["quantities"].push_back(to_json(one));
        if (!one.holds)
            result["grown"].push_back(one.name);
    }
    const bool traffic = all.counts["packets that arrived and were decrypted"] > 0;
    if (!traffic)
        result["failures"].push_back("no packet has arrived at all");
    const bool good = result["grown"].empty() && result["failures"].empty();
    result["good"] = good;
    std::printf("%s\n", result.dump(1).c_str());
    return good ? 0 : 1;
}

} // namespace
} // namespace quic_soak

int main(int argc, char **argv) {
    testing::InitGoogleTest(&argc, argv);
    quic_soak::Options options;
    static constexpr std::array<option, 5> kOptions{{{"seconds", required_argument, nullptr, 's'},
                                                     {"spell", required_argument, nullptr, 'p'},
                                                     {"seed", required_argument, nullptr, 'r'},
                                                     {"leak", no_argument, nullptr, 'l'},
                                                     {nullptr, 0, nullptr, 0}}};
    try {
        for (int c = 0; (c = ::getopt_long(argc, argv, "", kOptions.data(), nullptr)) != -1;) {
            switch (c) {
            case 's':
                options.seconds = static_cast<unsigned>(std::stoul(optarg));
                break;
            case 'p':
                options.spell = static_cast<unsigned>(std::stoul(optarg));
                break;
            case 'r':
                options.seed = std::stoull(optarg);
                break;
            case 'l':
                options.leak = true;
                break;
            default:
                return 2;
            }
        }
        return quic_soak::soak(options);
    } catch (const std::exception &error) {
        std::fprintf(stderr, "%s: %s\n", argv[0], error.what());
        return 2;
    }
}
