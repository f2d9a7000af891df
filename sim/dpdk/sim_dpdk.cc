// SPDX-License-Identifier: GPL-2.0
//
// The ConnectX model as a process whose wire is a DPDK port, and a tester of what comes out of it.
// docs/dpdk.md.
#include "model_end.h"
#include "port.h"
#include "traffic.h"
#include "verifier.h"

#include <rte_eal.h>
#include <rte_errno.h>

#include <getopt.h>
#include <sched.h>

#include <charconv>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <memory>
#include <stdexcept>

namespace connectx::dpdk {
namespace {

using Clock = std::chrono::steady_clock;
using std::chrono::seconds;

constexpr char kUsage[] =
    R"(usage: sim-dpdk [EAL-OPTION... --] [OPTION]...

  --role test      (default) the model sends QUIC packets to the wire, the tester verifies what arrives
  --role send      only the model, sending
  --role verify    only the tester
  --role forward   the model sends back each frame that it receives
  --wire PORT      DPDK port at the model, by name (default: the first)
  --tester PORT    DPDK port at the tester (default: that of the wire, which then has to loop)
  --crypto DEVICE  crypto device of the tester (default crypto_openssl)
  --packets N      1 to 1000000000 (default 100000); forward: stop after so many frames, 0 for no limit
  --size N         bytes of a QUIC packet, tag included (default 1200)
  --cipher NAME    aes-128-gcm (default) or aes-256-gcm
  --idle N         verify, forward: stop when nothing has come for N seconds (default 3)
  --seconds N      stop after N seconds whatever happens (default 3600)
  --linger N       keep the wire for N seconds after the result, or until SIGTERM (default 0)
  --spoil WHAT:N   lose, corrupt, swap or duplicate every Nth frame in front of the wire
  --json           print the result as one JSON object

Without EAL options: no hugepages, no PCI, one ring (net_ring0). Rates go to stderr, the result to stdout.
Exit status: 0 when nothing was lost, reordered, duplicated or corrupted, else 1; 2 for wrong usage.
)";

struct Options {
    std::string role = "test";
    std::string wire;
    std::string tester;
    std::string crypto = "crypto_openssl";
    Traffic traffic;
    std::uint64_t idle = 3;
    std::uint64_t limit = 3600;
    std::uint64_t linger = 0;
    Spoil spoil;
    bool json = false;
};

struct UsageError : std::runtime_error {
    using std::runtime_error::runtime_error;
};

volatile std::sig_atomic_t stop_asked = 0;

std::uint64_t number(const char *text, std::uint64_t least, std::uint64_t most, const char *what) {
    std::uint64_t value = 0;
    const char *end = text + std::strlen(text);
    const auto [at, error] = std::from_chars(text, end, value);
    if (error != std::errc{} || at != end || value < least || value > most)
        throw UsageError(std::string(what) + " " + text + ": from " + std::to_string(least) +
                         " to " + std::to_string(most));
    return value;
}

Options parse(int argc, char **argv) {
    enum {
        kRole,
        kWire,
        kTester,
        kCrypto,
        kPackets,
        kSize,
        kCipher,
        kIdle,
        kSeconds,
        kLinger,
        kSpoil
    };
    constexpr int kJson = 'j';
    constexpr int kHelp = 'h';
    const option table[] = {{"role", 1, nullptr, kRole},       {"wire", 1, nullptr, kWire},
                            {"tester", 1, nullptr, kTester},   {"crypto", 1, nullptr, kCrypto},
                            {"packets", 1, nullptr, kPackets}, {"size", 1, nullptr, kSize},
                            {"cipher", 1, nullptr, kCipher},   {"idle", 1, nullptr, kIdle},
                            {"seconds", 1, nullptr, kSeconds}, {"linger", 1, nullptr, kLinger},
                            {"spoil", 1, nullptr, kSpoil},     {"json", 0, nullptr, kJson},
                            {"help", 0, nullptr, kHelp},       {nullptr, 0, nullptr, 0}};
    Options o;
    optind = 1;
    for (int c = 0; (c = getopt_long(argc, argv, "", table, nullptr)) != -1;) {
        switch (c) {
        case kRole:
            o.role = optarg;
            if (o.role != "test" && o.role != "send" && o.role != "verify" && o.role != "forward")
                throw UsageError("no role " + o.role);
            break;
        case kWire:
            o.wire = optarg;
            break;
        case kTester:
            o.tester = optarg;
            break;
        case kCrypto:
            o.crypto = optarg;
            break;
        case kPackets:
            o.traffic.packets = number(optarg, 0, 1'000'000'000, "--packets");
            break;
        case kSize:
            o.traffic.size = number(optarg, kMinSize, kMaxSize, "--size");
            break;
        case kCipher:
            if (std::string_view(optarg) == "aes-256-gcm")
                o.traffic.cipher = quic_test::Cipher::kAes256Gcm;
            else if (std::string_view(optarg) != "aes-128-gcm")
                throw UsageError(std::string("no cipher ") + optarg);
            break;
        case kIdle:
            o.idle = number(optarg, 1, 3600, "--idle");
            break;
        case kSeconds:
            o.limit = number(optarg, 1, 86400, "--seconds");
            break;
        case kLinger:
            o.linger = number(optarg, 0, 86400, "--linger");
            break;
        case kSpoil:
            if (const auto spoil = parse_spoil(optarg))
                o.spoil = *spoil;
            else
                throw UsageError(std::string("--spoil ") + optarg);
            break;
        case kJson:
            o.json = true;
            break;
        case kHelp:
            std::fputs(kUsage, stdout);
            std::exit(0);
        default:
            throw UsageError("--help lists the options");
        }
    }
    if (optind != argc)
        throw UsageError(std::string("what is ") + argv[optind]);
    if (o.traffic.packets == 0 && o.role != "forward")
        throw UsageError("--packets 0: only --role forward goes on without end");
    return o;
}

bool given(const std::vector<std::string> &args, std::initializer_list<const char *> names) {
    return std::any_of(args.begin(), args.end(), [&](const std::string &arg) {
        return std::any_of(names.begin(), names.end(),
                           [&](const char *name) { return arg.starts_with(name); });
    });
}

/// Starts DPDK with the user's options and, where these say nothing, what needs nothing set up.
void start_dpdk(std::vector<std::string> args, const Options &o) {
    if (!given(args, {"-m", "--socket-mem", "--huge"}))
        args.insert(args.end(), {"--no-huge", "-m", "256", "--no-shconf"});
    if (!given(args, {"-a", "--allow"}))
        args.emplace_back("--no-pci");
    if (!given(args, {"-l", "-c", "--lcores"})) {
        // One thread, on whichever processor is free.
        cpu_set_t set;
        std::string cpus;
        sched_getaffinity(0, sizeof(set), &set);
        for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu)
            if (CPU_ISSET(cpu, &set))
                cpus += (cpus.empty() ? "" : ",") + std::to_string(cpu);
        args.push_back("--lcores=0@(" + cpus + ")");
    }
    if (!given(args, {"--log-level"}))
        args.emplace_back("--log-level=4");
    if (!given(args, {"--no-telemetry", "--telemetry"}))
        args.emplace_back("--no-telemetry");
    if (!given(args, {"--vdev=net", "net_", "-a", "--allow"}))
        args.emplace_back("--vdev=net_ring0");
    if (o.role == "test" || o.role == "verify")
        args.push_back("--vdev=" + o.crypto);
    args.insert(args.begin(), "sim-dpdk");
    std::vector<char *> argv;
    for (std::string &arg : args)
        argv.push_back(arg.data());
    argv.push_back(nullptr);
    if (rte_eal_init(static_cast<int>(args.size()), argv.data()) < 0)
        throw std::runtime_error(std::string("DPDK does not start: ") + rte_strerror(rte_errno));
}

double since(Clock::time_point start) {
    return std::chrono::duration<double>(Clock::now() - start).count();
}

class Run {
  public:
    explicit Run(const Options &o) : o_(o), start_(Clock::now()), begin_(start_) {
        const bool model = o.role != "verify";
        const bool tester = o.role == "test" || o.role == "verify";
        const std::string &first = model ? o.wire : o.tester.empty() ? o.wire : o.tester;
        ports_.push_back(std::make_unique<Port>(first));
        wire_ = ports_.back().get();
        if (model && tester && !o.tester.empty() && o.tester != o.wire)
            ports_.push_back(std::make_unique<Port>(o.tester));
        at_tester_ = ports_.back().get();
        if (tester)
            verifier_ = std::make_unique<Verifier>(o.traffic, o.crypto);
        if (o.role == "forward")
            forwarder_ = std::make_unique<Forwarder>(*wire_, o.spoil);
        else if (model)
            sender_ = std::make_unique<QuicSender>(*wire_, o.traffic, o.spoil);
    }

    int run() {
        await_link();
        start_ = begin_ = last_ = shown_ = Clock::now();
        if (sender_)
            send();
        else if (verifier_)
            verify();
        else
            forward();
        const int status = report();
        std::fflush(stdout);
        // Who has not yet taken everything out of the wire would find it gone.
        const auto until = Clock::now() + seconds(o_.linger);
        while (stop_asked == 0 && Clock::now() < until)
            rte_delay_us_sleep(10'000);
        return status;
    }

  private:
    /// A port whose other side is another process comes up when that is there.
    void await_link() {
        const auto until = Clock::now() + seconds(30);
        while (!wire_->up() && !over()) {
            if (Clock::now() > until)
                throw std::runtime_error("the wire has no link after 30 seconds");
            rte_delay_us_sleep(1000);
        }
    }
    [[nodiscard]] bool over() const {
        return stop_asked != 0 || Clock::now() - start_ > seconds(o_.limit);
    }

    bool take() {
        const Packets packets = at_tester_->receive();
        if (packets.empty())
            return false;
        if (verifier_->verdict().received == 0 && !sender_)
            begin_ = Clock::now();
        verifier_->take(packets);
        last_ = Clock::now();
        return true;
    }

    void send() {
        // What is under way between model and tester has to fit into the wire's smallest ring.
        constexpr std::uint64_t kWindow = 512;
        constexpr std::chrono::milliseconds kWriteOff(100); // of what does not arrive
        std::uint64_t written_off = 0;
        if (verifier_)
            wire_->on_full = [this] { take(); };
        while (sender_->posted() < o_.traffic.packets && !over()) {
            const std::uint64_t arrived = verifier_ ? verifier_->verdict().received : 0;
            if (!verifier_ ||
                sender_->posted() + sender_->batch() <= arrived + written_off + kWindow) {
                sender_->send_batch();
                wire_->flush();
            } else if (Clock::now() - last_ > kWriteOff) {
                written_off = sender_->posted() - std::min(arrived, sender_->posted());
            }
            while (verifier_ && take()) {
            }
            show();
        }
        wire_->flush();
        const auto end = Clock::now();
        while (verifier_ && !over() && verifier_->verdict().good < o_.traffic.packets &&
               Clock::now() - std::max(last_, end) < seconds(1))
            take();
    }

    void verify() {
        const std::uint64_t all = o_.traffic.packets;
        constexpr seconds kFirst(30);
        while (!over()) {
            const bool begun = verifier_->verdict().received != 0;
            if (!take()) {
                if (begun && verifier_->verdict().good >= all)
                    break;
                if (Clock::now() - last_ > (begun ? seconds(o_.idle) : kFirst))
                    break;
            }
            show();
        }
    }

    void forward() {
        constexpr seconds kFirst(30);
        const std::uint64_t limit = o_.traffic.packets;
        while (!over() && (limit == 0 || forwarder_->forwarded() < limit)) {
            if (forwarder_->turn())
                last_ = Clock::now();
            else if (Clock::now() - last_ >
                     (forwarder_->forwarded() != 0 ? seconds(o_.idle) : kFirst))
                break;
            show();
        }
    }

    void show() {
        const auto now = Clock::now();
        if (now - shown_ < seconds(1))
            return;
        const double elapsed = std::chrono::duration<double>(now - shown_).count();
        shown_ = now;
        if (verifier_) {
            const Verdict &v = verifier_->verdict();
            std::fprintf(stderr,
                         "%6.0f s  %9.0f packets/s %7.3f Gbit/s  good %lu reordered %lu duplicated "
                         "%lu corrupted %lu\n",
                         since(start_), static_cast<double>(v.received - shown_packets_) / elapsed,
                         static_cast<double>(v.bytes - shown_bytes_) * 8e-9 / elapsed, v.good,
                         v.reordered, v.duplicated, v.corrupted);
            shown_packets_ = v.received;
            shown_bytes_ = v.bytes;
            return;
        }
        const std::uint64_t frames = sender_ ? sender_->posted() : forwarder_->forwarded();
        std::fprintf(stderr, "%6.0f s  %9.0f packets/s  %s %lu\n", since(start_),
                     static_cast<double>(frames - shown_packets_) / elapsed,
                     sender_ ? "sent" : "forwarded", frames);
        shown_packets_ = frames;
    }

    int report() {
        const Verdict v = verifier_ ? verifier_->verdict() : Verdict{};
        const double elapsed =
            std::max(std::chrono::duration<double>(last_ - begin_).count(), 1e-9);
        const std::uint64_t wanted = o_.traffic.packets;
        const std::uint64_t sent = sender_ ? sender_->posted() : wanted;
        const std::uint64_t lost = verifier_ ? std::max(wanted, sent) - v.good : 0;
        std::uint64_t refused = 0;
        for (const auto &port : ports_)
            refused += port->refused;
        std::uint64_t dropped = 0;
        std::uint64_t forwarded = 0;
        if (forwarder_) {
            dropped = forwarder_->stats().rx_dropped;
            forwarded = forwarder_->forwarded();
        }
        const std::uint64_t done = verifier_ ? v.good : sender_ ? sent : forwarded;
        const double rate =
            static_cast<double>(done) / (sender_ && !verifier_ ? since(begin_) : elapsed);
        const bool ok = lost == 0 && v.reordered == 0 && v.duplicated == 0 && v.corrupted == 0 &&
                        refused == 0 && dropped == 0 && done != 0 &&
                        (forwarder_ || !sender_ || sent == wanted);
        const char *format =
            o_.json
                ? "{\"role\": \"%s\", \"cipher\": \"%s\", \"size\": %zu, \"packets\": %lu, "
                  "\"good\": %lu, \"lost\": %lu, \"reordered\": %lu, \"duplicated\": %lu, "
                  "\"corrupted\": %lu, \"foreign\": %lu, \"forwarded\": %lu, \"refused\": %lu, "
                  "\"dropped\": %lu, \"seconds\": %.3f, \"packets_per_second\": %.0f, "
                  "\"bits_per_second\": %.0f, \"ok\": %s}\n"
                : "%s %s %zu bytes: %lu packets, good %lu lost %lu reordered %lu duplicated %lu "
                  "corrupted %lu foreign %lu forwarded %lu refused %lu dropped %lu in %.3f s, "
                  "%.0f packets/s, %.0f bit/s, ok: %s\n";
        std::printf(format, o_.role.c_str(),
                    o_.traffic.cipher == quic_test::Cipher::kAes256Gcm ? "aes-256-gcm"
                                                                       : "aes-128-gcm",
                    o_.traffic.size, forwarder_ ? forwarded : sent, v.good, lost, v.reordered,
                    v.duplicated, v.corrupted, v.foreign, forwarded, refused, dropped, elapsed,
                    rate, rate * static_cast<double>(o_.traffic.size) * 8, ok ? "true" : "false");
        return ok ? 0 : 1;
    }

    Options o_;
    std::vector<std::unique_ptr<Port>> ports_;
    Port *wire_ = nullptr;
    Port *at_tester_ = nullptr;
    std::unique_ptr<Verifier> verifier_;
    std::unique_ptr<QuicSender> sender_;
    std::unique_ptr<Forwarder> forwarder_;
    Clock::time_point start_; ///< of the program, or of the link
    Clock::time_point begin_; ///< of what the rate is over
    Clock::time_point last_;  ///< when something last arrived
    Clock::time_point shown_;
    std::uint64_t shown_packets_ = 0;
    std::uint64_t shown_bytes_ = 0;
};

int program(int argc, char **argv) {
    std::vector<std::string> eal;
    int separator = 0;
    for (int i = 1; i < argc && separator == 0; ++i)
        if (std::string_view(argv[i]) == "--")
            separator = i;
    if (separator != 0)
        eal.assign(argv + 1, argv + separator);
    argv[separator] = argv[0];
    try {
        const Options options = parse(argc - separator, argv + separator);
        std::signal(SIGINT, [](int) { stop_asked = 1; });
        std::signal(SIGTERM, [](int) { stop_asked = 1; });
        start_dpdk(eal, options);
        const int status = Run(options).run();
        rte_eal_cleanup();
        return status;
    } catch (const UsageError &e) {
        std::fprintf(stderr, "sim-dpdk: %s\n", e.what());
        return 2;
    } catch (const std::exception &e) {
        std::fprintf(stderr, "sim-dpdk: %s\n", e.what());
        return 1;
    }
}

} // namespace
} // namespace connectx::dpdk

int main(int argc, char **argv) { return connectx::dpdk::program(argc, argv); }
