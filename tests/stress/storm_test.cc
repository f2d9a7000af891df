// SPDX-License-Identifier: GPL-2.0
//
// The plaintext proof: a storm of packets in every form of send, while features are switched, SAs
// come and go, sockets close, routes move, queues drop, duplicate, delay, reorder and overflow, a
// packet filter drops, tc rewrites headers, IPsec takes packets, links flap and devices vanish. One
// thread does all of it in an order that a seed decides: the same seed, the same storm.
//
//     QUIC_STORM_SEED     default 1
//     QUIC_STORM_PACKETS  of each wire; default 20000
//     QUIC_STORM_BURST    sends between one event and the next; default 1
//
// What is to hold at the end of each spell: nobody, on any device of either host, has heard
// plaintext; whatever arrived decrypts to what was sent; no packet number was used for two
// different ciphertexts; and the books balance: each packet that sendmsg() took has arrived, or is
// counted by a counter that has a name.
#include <algorithm>
#include <cstdlib>
#include <fstream>
#include <map>
#include <memory>
#include <optional>
#include <random>
#include <sstream>

#include <gtest/gtest.h>

#include "stream.h"

namespace quic_test {
namespace {

std::uint64_t setting(const char *name, std::uint64_t otherwise) {
    const char *text = std::getenv(name);
    return text != nullptr ? std::stoull(text) : otherwise;
}

// Packets of the storm that anything in the kernel has freed unsent, by why, while an object of
// this class is there: the tracepoint kfree_skb.
class Freed {
  public:
    Freed() {
        command("mountpoint -q /sys/kernel/tracing || mount -t tracefs t /sys/kernel/tracing");
        write_file(kTracing + "buffer_size_kb", "16384");
        write_file(kTracing + "events/skb/kfree_skb/filter",
                   "protocol == 2048 || protocol == 34525");
        write_file(kTracing + "trace", "");
        write_file(kTracing + "events/skb/kfree_skb/enable", "1");
        write_file(kTracing + "tracing_on", "1");
    }
    ~Freed() { write_file(kTracing + "events/skb/kfree_skb/enable", "0"); }
    Freed(const Freed &) = delete;
    Freed &operator=(const Freed &) = delete;
    static std::map<std::string, std::uint64_t> so_far() {
        std::map<std::string, std::uint64_t> out;
        std::ifstream lines(kTracing + "trace");
        std::string line;
        while (std::getline(lines, line)) {
            const auto at = line.find("reason: ");
            if (line.find("kfree_skb:") != std::string::npos && at != std::string::npos)
                ++out[line.substr(at + 8)];
        }
        return out;
    }

  private:
    static inline const std::string kTracing = "/sys/kernel/tracing/";
};

class Storm : public testing::TestWithParam<Wire> {};
INSTANTIATE_TEST_SUITE_P(Wires, Storm,
                         testing::Values(Wire::kVeth, Wire::kOffload, Wire::kOffloadNoSegmentation),
                         [](const auto &info) { return name(info.param); });

TEST_P(Storm, NoPlaintextAndTheBooksBalance) {
    const std::uint64_t seed = setting("QUIC_STORM_SEED", 1);
    const std::uint64_t wanted = setting("QUIC_STORM_PACKETS", 20000);
    const std::uint64_t burst = setting("QUIC_STORM_BURST", 1);
    RecordProperty("seed", std::to_string(seed));
    std::mt19937_64 random(seed);
    World world(GetParam());
    // A second way between the hosts, for routes to move to, and the receiver's own address, which
    // both ways lead to. Neighbours are known: one that has to be asked drops what exceeds its
    // queue.
    const std::string second = "ip link add vc type veth peer name vd netns " + world.b.path() +
                               "; ip link set vc up; ip addr add 10.3.1.1/24 dev vc; "
                               "ip addr add fd03::1/64 dev vc nodad";
    world.a.command(second);
    world.b.command(
        "ip link set vd up; ip addr add 10.3.1.2/24 dev vd; ip addr add fd03::2/64 dev vd "
        "nodad; ip addr add 10.2.0.1/32 dev lo; ip addr add fd02::1/128 dev lo");
    const auto neighbours = [&] {
        for (const auto &[device, peer, v4, v6] : {std::tuple{"va", "vb", "10.1.1.2", "fd01::2"},
                                                   std::tuple{"vc", "vd", "10.3.1.2", "fd03::2"}}) {
            const std::string mac = World::mac(world.b, peer);
            for (const char *address : {v4, v6})
                world.a.command(std::string("ip neigh replace ") + address + " lladdr " + mac +
                                " dev " + device + " nud permanent");
        }
    };
    const auto route = [&](bool by_va) {
        world.a.command(by_va ? "ip route replace 10.2.0.1 via 10.1.1.2 dev va; "
                                "ip route replace fd02::1 via fd01::2 dev va"
                              : "ip route replace 10.2.0.1 via 10.3.1.2 dev vc; "
                                "ip route replace fd02::1 via fd03::2 dev vc");
    };
    neighbours();
    route(true);
    world.listen();
    std::vector<std::unique_ptr<Stream>> streams;
    for (unsigned i = 0; i < 6; ++i)
        streams.push_back(std::make_unique<Stream>(world, i, random));

    const bool simulated = GetParam() != Wire::kVeth;
    const auto features = [&](const char *which, bool on) {
        world.a.command(std::string("ethtool -K va ") + which + (on ? " on" : " off") +
                        " >/dev/null 2>&1 || true");
    };
    const auto all_features = [&] {
        for (const char *which : {"sg", "tx", "gso"})
            features(which, true);
        if (simulated) {
            features("udp-crypto-hw-tx-offload", true);
            features("tx-udp-segmentation", GetParam() == Wire::kOffload);
        }
    };
    static constexpr std::array<const char *, 8> kQueues{
        "netem delay 1ms 1ms 25% limit 100000",
        "netem duplicate 20% limit 100000",
        "netem delay 2ms reorder 30% limit 100000",
        "tbf rate 200mbit burst 80000 latency 20s",
        "fq limit 100000 flow_limit 100000",
        "fq_codel limit 100000 memory_limit 256Mb target 10s interval 20s noecn",
        "netem loss 10% limit 100000",
        "netem loss 30% duplicate 10% delay 1ms limit 100000",
    };

    static constexpr std::array<const char *, 3> kActions{
        "csum ip and udp",
        "pedit ex munge ip tos set 0x10 pipe action csum ip",
        "pedit ex munge ip ttl set 17 pipe action csum ip and udp",
    };
    // ESP between the hosts, for what goes by va: single packets are transformed, batches refused.
    const auto ipsec = [&](bool on) {
        const std::string state =
            "ip xfrm state add src 10.1.1.1 dst 10.2.0.1 proto esp spi 0x11 reqid 1 "
            "mode transport aead 'rfc4106(gcm(aes))' "
            "0x0102030405060708090a0b0c0d0e0f1011121314 128";
        if (!on) {
            for (const NetNamespace *ns : {&world.a, &world.b})
                ns->command("ip xfrm policy flush; ip xfrm state flush");
            return;
        }
        world.b.command(state);
        world.a.command(state +
                        "; ip xfrm policy add src 10.1.1.1 dst 10.2.0.1 dir out tmpl src 10.1.1.1 "
                        "dst 10.2.0.1 proto esp reqid 1 mode transport");
    };

    // What loses packets on purpose stands behind kActions, and what takes queues along behind
    // that.
    enum class Spell {
        kQuiet,
        kFeatures,
        kRoutes,
        kActions,
        kKeys,
        kQueues,
        kIpsec,
        kFilter,
        kOverflow,
        kLoss,
        kLink,
        kVanish,
        kCount
    };
    static_assert(static_cast<int>(Spell::kVanish) + 1 == static_cast<int>(Spell::kCount));
    std::map<std::string, std::uint64_t> lost_to;
    std::uint64_t taken = 0;
    std::uint64_t lost_in_all = 0;
    unsigned spells = 0;
    const auto judge_wires = [&] {
        for (Sniffer *sniffer : {&world.sniffer_a(), &world.sniffer_b()})
            for (const std::string &complaint : sniffer->complaints())
                ADD_FAILURE() << "seed " << seed << " spell " << spells << ": " << complaint;
    };
    for (; taken < wanted; ++spells) {
        const auto spell = static_cast<Spell>(
            random() % (static_cast<unsigned>(Spell::kCount) - (simulated ? 0 : 1)));
        const auto before = loss_counters(world);
        // A device takes its queues with it, and their counters.
        const bool queues_go = spell == Spell::kLink || spell == Spell::kVanish;
        std::optional<Freed> freed;
        if (queues_go)
            freed.emplace();
        std::printf("spell %u, kind %d: %llu of %llu packets\n", spells, static_cast<int>(spell),
                    static_cast<unsigned long long>(taken),
                    static_cast<unsigned long long>(wanted));
        std::fflush(stdout);
        // A queue that drops counts a batch as one, and tc's csum action sums a batch as if it was
        // one packet: there, and where devices take packets with them, packets are sent one by one.
        const bool one_by_one = spell >= Spell::kOverflow || spell == Spell::kActions;
        if (spell == Spell::kQueues || spell == Spell::kKeys)
            world.a.command(std::string("tc qdisc replace dev va root ") + kQueues[random() % 6]);
        if (spell == Spell::kLoss)
            world.a.command(std::string("tc qdisc replace dev va root ") +
                            kQueues[6 + random() % 2]);
        if (spell == Spell::kOverflow)
            world.a.command(
                "tc qdisc replace dev va root handle 1: tbf rate 20mbit burst 80000 limit "
                "400000; tc qdisc add dev va parent 1: pfifo limit 3");
        if (spell == Spell::kFilter)
            world.a.command(
                "nft 'table inet storm { chain out { type filter hook output priority 0; "
                "meta l4proto udp numgen random mod 10 == 0 drop; }; }'");
        if (spell == Spell::kActions)
            world.a.command(
                std::string("tc qdisc add dev va clsact; tc filter add dev va egress protocol "
                            "ip matchall action ") +
                kActions[random() % kActions.size()]);
        if (spell == Spell::kIpsec)
            ipsec(true);
        for (unsigned step = 0; step < 40; ++step) {
            for (std::uint64_t n = 1; n <= burst; ++n) {
                taken += streams[random() % streams.size()]->send_some(one_by_one ? 1 : 12);
                // What a spell of bursts puts on the wires would not fit into memory.
                if (n % 8 == 0) {
                    for (auto &stream : streams)
                        stream->drain();
                    judge_wires();
                }
            }
            switch (spell) {
            case Spell::kFeatures: {
                static constexpr std::array<const char *, 5> kFeatures{
                    "udp-crypto-hw-tx-offload", "tx-udp-segmentation", "sg", "tx", "gso"};
                features(kFeatures[random() % kFeatures.size()], random() % 2 == 0);
                break;
            }
            case Spell::kRoutes:
                if (step % 4 == 0)
                    route(random() % 2 == 0);
                break;
            case Spell::kKeys: {
                Stream &stream = *streams[random() % streams.size()];
                switch (random() % 4) {
                case 0:
                    stream.next_generation();
                    break;
                case 1:
                    stream.delete_sa();
                    break;
                case 2:
                    if (step % 8 == 0) {
                        stream.close();
                        stream.open();
                    }
                    break;
                default:
                    break;
                }
                break;
            }
            case Spell::kLink:
                if (step % 10 == 5)
                    world.a.command("ip link set va down");
                if (step % 10 == 7) {
                    world.a.command("ip link set va up; ip addr replace fd01::1/64 dev va nodad");
                    neighbours();
                    route(true);
                }
                break;
            case Spell::kVanish:
                if (step == 20) {
                    world.replace_devices();
                    neighbours();
                    route(true);
                }
                break;
            default:
                break;
            }
            if (step % 8 == 0)
                for (auto &stream : streams)
                    stream->drain();
        }
        // The spell is over: what is under way arrives, then the books are made.
        unsigned idle = 0;
        eventually([&] {
            unsigned n = 0;
            for (auto &stream : streams)
                n += stream->drain();
            const bool queued = world.a.command("tc -s qdisc show dev va | sed -n 's/.*backlog "
                                                "\\([0-9]*\\)b \\([0-9]*\\)p.*/\\2/p' | grep -vx 0 "
                                                "|| true") != "";
            idle = n == 0 && !queued ? idle + 1 : 0;
            return idle >= 4;
        });
        const auto after = loss_counters(world);
        std::uint64_t lost = 0;
        for (auto &stream : streams)
            lost += stream->settle_books();
        lost_in_all += lost;
        std::string which;
        std::uint64_t counted = grown(before, after, which);
        if (queues_go) {
            std::uint64_t events = 0;
            for (const auto &[reason, n] : Freed::so_far()) {
                events += n;
                which += " " + reason + " " + std::to_string(n);
            }
            counted = std::max(counted, events);
        }
        EXPECT_LE(lost, counted) << "seed " << seed << " spell " << spells << " kind "
                                 << static_cast<int>(spell) << ":" << which;
        if (spell < Spell::kKeys) {
            // Nothing here loses anything but the first packets that software protects late.
            EXPECT_EQ(lost, after.at("a.DropNoKeys") - before.at("a.DropNoKeys"))
                << "seed " << seed << " spell " << spells << " kind " << static_cast<int>(spell)
                << ":" << which;
        }
        std::string all;
        grown(before, after, all);
        if (lost > 0)
            ++lost_to[all];
        judge_wires();
        world.a.command("tc qdisc del dev va root 2>/dev/null || true; "
                        "tc qdisc del dev va clsact 2>/dev/null || true; "
                        "nft delete table inet storm 2>/dev/null || true");
        if (spell == Spell::kIpsec)
            ipsec(false);
        all_features();
        route(true);
        if (HasFailure())
            break;
    }
    std::uint64_t arrived = 0;
    std::uint64_t duplicates = 0;
    std::map<int, unsigned> refusals;
    for (auto &stream : streams) {
        arrived += stream->arrived;
        duplicates += stream->duplicates;
        EXPECT_EQ(stream->plaintext, 0U);
        EXPECT_EQ(stream->wrong, 0U);
        EXPECT_EQ(stream->nonces_reused, 0U);
        for (const auto &[error, n] : stream->refusals)
            refusals[error] += n;
    }
    EXPECT_EQ(taken, arrived + lost_in_all);
    for (const auto &[error, n] : refusals)
        EXPECT_TRUE(error == ENETUNREACH || error == EHOSTUNREACH || error == ENETDOWN ||
                    error == ENODEV || error == EINVAL || error == EIO || error == ENOBUFS ||
                    error == EAGAIN || error == EMSGSIZE)
            << error << " " << n;
    std::printf(
        "storm over %s, seed %llu: %llu packets in %u spells, %llu arrived, %llu more than once, "
        "%llu lost and accounted for\n",
        name(GetParam()), static_cast<unsigned long long>(seed),
        static_cast<unsigned long long>(taken), spells, static_cast<unsigned long long>(arrived),
        static_cast<unsigned long long>(duplicates), static_cast<unsigned long long>(lost_in_all));
    streams.clear();
    const InNamespace inside(world.a);
    EXPECT_TRUE(eventually([] { return Statistics::read()["SaCurr"] == 0; }));
}

} // namespace
} // namespace quic_test
