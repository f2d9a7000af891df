// SPDX-License-Identifier: GPL-2.0
#include "scene.h"

#include <algorithm>
#include <atomic>
#include <mutex>
#include <optional>
#include <random>
#include <thread>
#include <tuple>

#include <gtest/gtest.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>

#include "stream.h"

namespace quic_soak {

using namespace quic_test;
using Clock = std::chrono::steady_clock;

namespace {

// What GoogleTest's macros in tests/lib find.
class Listener : public testing::EmptyTestEventListener {
  public:
    Listener(std::string where, const Report &report) : where_(std::move(where)), report_(report) {}
    void OnTestPartResult(const testing::TestPartResult &result) override {
        if (result.failed())
            report_.failure(where_, result.summary());
    }

  private:
    std::string where_;
    const Report &report_;
};

class Player {
  public:
    Player(const Scene &scene, const Report &report)
        : scene_(scene), report_(report), where_(name(scene.wire)), random_(scene.seed) {}
    ~Player() {
        if (!made_)
            --*scene_.unmade; // the others need not wait
    }
    Player(const Player &) = delete;
    Player &operator=(const Player &) = delete;
    void play();

  private:
    bool over() const { return Clock::now() >= end_; }
    bool has_offload() const { return scene_.wire != Wire::kVeth; }
    // Runs @work until the end in a thread; what it throws is a failure.
    template <typename Work> void start(const char *what, Work work) {
        threads_.emplace_back([this, what, work] {
            try {
                work();
            } catch (const std::exception &error) {
                report_.failure(where_, std::string(what) + ": " + error.what());
            }
        });
    }
    void wait_for_others();
    void make_ways(bool again);
    void drive(Stream &stream, std::uint64_t seed);
    void listen();
    void change_device();
    void let_namespaces_end(std::uint64_t seed);
    void let_processes_die();
    void settle();
    void keep_books();

    const Scene &scene_;
    const Report &report_;
    const std::string where_;
    std::mt19937_64 random_;
    Clock::time_point end_;
    bool made_ = false;
    std::unique_ptr<World> world_;
    std::vector<std::unique_ptr<std::mt19937_64>> randoms_;
    std::vector<std::unique_ptr<Stream>> streams_;
    std::vector<std::thread> threads_;
    std::atomic<std::uint64_t> taken_ = 0;
    std::map<std::string, std::uint64_t> device_before_;
    std::map<std::string, std::uint64_t> losses_before_;
};

// All scenes of a spell play at the same time.
void Player::wait_for_others() {
    eventually([&] { return *scene_.unmade == 0; }, std::chrono::minutes(10));
    end_ = Clock::now() + scene_.length;
}

// The addresses that streams go to. Neighbours are known: one that has to be asked drops what
// exceeds its queue.
void Player::make_ways(bool again) {
    const std::string mac = World::mac(world_->b, "vb");
    std::string script;
    if (again)
        script = "ip addr replace 10.1.1.1/24 dev va; ip addr replace fd01::1/64 dev va nodad; ";
    else
        world_->b.command(std::string("ip addr add ") + kStreamAddress4 +
                          "/32 dev lo; ip addr add " + kStreamAddress6 + "/128 dev lo");
    for (const char *address : {"10.1.1.2", "fd01::2"})
        script += std::string("ip neigh replace ") + address + " lladdr " + mac +
                  " dev va nud permanent; ";
    world_->a.command(script + "ip route replace " + kStreamAddress4 +
                      " via 10.1.1.2 dev va; ip route replace " + kStreamAddress6 +
                      " via fd01::2 dev va");
}

void Player::drive(Stream &stream, std::uint64_t seed) {
    std::mt19937_64 random(seed);
    while (!over()) {
        const unsigned taken = stream.send_some(12);
        taken_ += taken;
        stream.drain();
        switch (random() % 48) {
        case 0:
        case 1:
        case 2:
            stream.next_generation();
            stream.retire(3);
            break;
        case 3:
            stream.delete_sa();
            break;
        case 4:
            stream.close();
            stream.open();
            break;
        default:
            break;
        }
        std::this_thread::sleep_for(std::chrono::milliseconds(taken == 0 ? 10 : 2));
    }
}

void Player::listen() {
    while (!over()) {
        for (Sniffer *sniffer : {&world_->sniffer_a(), &world_->sniffer_b()})
            for (const std::string &complaint : sniffer->complaints())
                report_.failure(where_, complaint);
        std::this_thread::sleep_for(std::chrono::milliseconds(100));
    }
}

void Player::change_device() {
    std::vector<const char *> changes{
        "ethtool -K va udp-crypto-hw-tx-offload off", "ethtool -K va udp-crypto-hw-tx-offload on",
        "ethtool -K va tx-udp-segmentation off", "ethtool -K va gso off",
        "ethtool -K va gso on tx-udp-segmentation on udp-crypto-hw-tx-offload on"};
    if (!has_offload())
        changes = {"ethtool -K va tx off gso off", "ethtool -K va tx on sg on gso on"};
    if (scene_.rough && scene_.wire == Wire::kConnectx)
        changes = {"ip link set va down; ip link set va up", "ethtool -G va tx 256",
                   "ethtool -G va tx 1024", "ethtool -L va combined 1", "ethtool -L va combined 2"};
    else if (scene_.rough)
        changes = {"ip link set va down; ip link set va up"};
    std::uint64_t made = 0;
    for (std::size_t i = 0; !over(); ++i) {
        world_->a.command(std::string(changes[i % changes.size()]) + " >/dev/null");
        if (scene_.rough)
            make_ways(true);
        ++made;
        for (int wait = 0; wait < 20 && !over(); ++wait)
            std::this_thread::sleep_for(std::chrono::milliseconds(100));
    }
    report_.count(scene_.rough ? "links, rings and channels changed" : "features switched", made);
}

// Namespaces end with their sockets gone, their SAs and packets still there.
void Player::let_namespaces_end(std::uint64_t seed) {
    std::uint64_t made = 0;
    while (!over()) {
        World world(Wire::kVeth);
        if (!scene_.listen)
            world.stop_listening();
        world.a.command("tc qdisc replace dev va root netem delay 50ms limit 10000");
        const InNamespace inside(world.a);
        RawNetlink netlink;
        for (unsigned s = 0; s < 4; ++s) {
            UniqueFd fd = udp_socket(AF_INET);
            const PacketKeys keys = keys_of_seed(kAllCiphers[s % 4], seed + s);
            const std::uint32_t sa = add_sa_index(fd.get(), 0, keys);
            EXPECT_EQ(netlink.request(UDP_CRYPTO_CMD_SA_ADD, sa_attributes(keys, ::getuid())).error,
                      0);
            const Address to = Address::v4("10.1.1.2", 4433);
            constexpr PacketShape kShape{.cid_length = 4, .pn_length = 4};
            std::vector<Bytes> packets;
            for (unsigned i = 0; i < 4; ++i)
                packets.push_back(make_packet(kShape, i, 600));
            const Bytes data = join_packets(packets);
            EXPECT_GT(
                send(fd.get(), data, Control().quic(0, sa, kShape.pn_offset()).gso_size(616), &to),
                0);
            EXPECT_GT(send(fd.get(), data,
                           Control().quic_inline(0, keys, kShape.pn_offset()).gso_size(616), &to),
                      0);
        }
        world.expect_clean(true);
        made += 2;
    }
    report_.count("namespaces ended in use", made);
}

// A keeper and, one after the other, processes that are killed while they send. Forked before
// there are threads.
void Player::let_processes_die() {
    std::uint64_t made = 0;
    while (!over()) {
        const pid_t child = ::fork();
        if (child == 0) {
            ::prctl(PR_SET_PDEATHSIG, SIGKILL);
            try {
                Flow flow(world_->a, world_->b, Address::v4("10.1.1.2", 0),
                          kAllCiphers[made % std::size(kAllCiphers)]);
                for (unsigned i = 0;; ++i) {
                    flow.send_form(
                        {.tag_room = i % 2 == 0, .inline_keys = i % 5 == 0, .packets = 1 + i % 7});
                    while (flow.take_one(std::chrono::milliseconds(0)))
                        ;
                    std::this_thread::sleep_for(std::chrono::milliseconds(5));
                }
            } catch (const std::exception &error) {
                report_.failure(where_, std::string("process: ") + error.what());
                ::_exit(1);
            }
        }
        if (child < 0)
            throw_errno("fork");
        for (int wait = 0; wait < 25 && !over(); ++wait)
            std::this_thread::sleep_for(std::chrono::milliseconds(100));
        ::kill(child, SIGKILL);
        ::waitpid(child, nullptr, 0);
        ++made;
    }
    report_.count("processes killed", made);
}

// What is under way arrives.
void Player::settle() {
    unsigned idle = 0;
    eventually([&] {
        unsigned n = 0;
        for (auto &stream : streams_)
            n += stream->drain();
        idle = n == 0 ? idle + 1 : 0;
        std::this_thread::sleep_for(std::chrono::milliseconds(10));
        return idle >= 20;
    });
}

void Player::keep_books() {
    std::uint64_t lost = 0;
    for (const auto &stream : streams_)
        lost += stream->settle_books();
    const auto losses = loss_counters(*world_);
    std::string which;
    std::uint64_t counted = grown(losses_before_, losses, which);
    const InNamespace inside(world_->a);
    if (scene_.wire == Wire::kConnectx) {
        auto device = ethtool_statistics("va");
        for (const auto &[counter, what] :
             {std::pair{"tx_quic_index_packets",
                        "packets protected by the device from its database"},
              std::pair{"tx_quic_inline_packets",
                        "packets protected by the device with keys inline"}})
            report_.count(what, device[counter] - device_before_[counter]);
        const std::uint64_t stale =
            device["quic_dev_drop_stale_sa"] - device_before_["quic_dev_drop_stale_sa"];
        const InNamespace receiver(world_->b);
        const std::uint64_t overrun = ethtool_statistics("vb")["rx_out_of_buffer"];
        if (stale != 0)
            which += " quic_dev_drop_stale_sa+" + std::to_string(stale);
        counted += stale + overrun - device_before_["rx_out_of_buffer of vb"];
    }
    const Statistics now = Statistics::read();
    const std::uint64_t dropped =
        now["DropNoSa"] + now["DropNoKeys"] + now["DropNoMem"] + now["DropError"];
    const std::uint64_t done = now["TxSoftware"] + now["TxDevice"] + dropped;
    // Where links go down, packets vanish between udp_sendmsg() and the device.
    if (scene_.rough ? done > now["TxPackets"] : done != now["TxPackets"])
        report_.failure(where_, "the books: TxPackets " + std::to_string(now["TxPackets"]) +
                                    ", software, device and drops " + std::to_string(done));
    if (now["TxPackets"] < taken_)
        report_.failure(where_, "the books: TxPackets " + std::to_string(now["TxPackets"]) +
                                    ", taken by sendmsg() " + std::to_string(taken_));
    if (!scene_.rough && lost > counted)
        report_.failure(where_, std::to_string(lost) + " packets lost, " + std::to_string(counted) +
                                    " accounted for:" + which);
    for (const auto &[counter, what] :
         {std::pair{"TxSoftware", "packets protected by software"},
          std::pair{"TxSoftwareLate", "of these late, at the device"},
          std::pair{"TxDevice", "packets left to a device"}, std::pair{"SaAdded", "SAs added"}})
        report_.count(what, now[counter]);
    if (lost != 0)
        report_.count("lost or otherwise counted:" + which, lost);
    report_.count("packets taken by sendmsg()", now["TxPackets"]);
    report_.count("packets dropped and counted", dropped);
    report_.count("packets lost in smooth spells", scene_.rough ? 0 : lost);
    report_.count("packets lost in rough spells", scene_.rough ? lost : 0);
    for (const auto &stream : streams_) {
        report_.count("packets that arrived and were decrypted", stream->arrived);
        for (const auto &[what, n] : stream->done)
            report_.count(what, n);
        for (const auto &[what, n] : {std::pair{"plaintext at a receiver", stream->plaintext},
                                      std::pair{"packets that do not decrypt", stream->wrong},
                                      std::pair{"packets more than once", stream->duplicates}})
            if (n != 0)
                report_.failure(where_, std::string(what) + ": " + std::to_string(n));
        for (const auto &[error, n] : stream->refusals) {
            const bool expected = error == ENOBUFS || error == EAGAIN;
            const bool rough = error == ENETUNREACH || error == EHOSTUNREACH || error == ENETDOWN ||
                               error == EINVAL || error == ENODEV || error == EIO;
            if (!expected && !(scene_.rough && rough))
                report_.failure(where_, std::to_string(n) + " sends refused with errno " +
                                            std::to_string(error));
            report_.count("sends refused", n);
        }
    }
}

void Player::play() {
    world_ = std::make_unique<World>(scene_.wire);
    make_ways(false);
    if (!scene_.listen)
        world_->stop_listening();
    if (scene_.wire == Wire::kConnectx) {
        world_->a.run([&] { device_before_ = ethtool_statistics("va"); });
        world_->b.run([&] {
            device_before_["rx_out_of_buffer of vb"] = ethtool_statistics("vb")["rx_out_of_buffer"];
        });
    }
    losses_before_ = loss_counters(*world_);

    const pid_t keeper = ::fork();
    if (keeper == 0) {
        try {
            wait_for_others();
            let_processes_die();
        } catch (const std::exception &error) {
            report_.failure(where_, std::string("keeper: ") + error.what());
        }
        ::_exit(0);
    }
    const unsigned count = scene_.wire == Wire::kConnectx ? 3 : 2;
    for (unsigned i = 0; i < count; ++i) {
        randoms_.push_back(std::make_unique<std::mt19937_64>(random_()));
        streams_.push_back(std::make_unique<Stream>(*world_, i, *randoms_.back(), true));
    }
    --*scene_.unmade;
    made_ = true;
    wait_for_others();
    for (auto &stream : streams_)
        start("sender", [this, one = stream.get(), seed = random_()] { drive(*one, seed); });
    if (scene_.listen)
        start("listener", [this] { listen(); });
    start("device", [this] { change_device(); });
    if (scene_.wire == Wire::kVeth)
        start("namespaces", [this, seed = random_()] { let_namespaces_end(seed); });
    for (std::thread &thread : threads_)
        thread.join();
    int status = 0;
    ::waitpid(keeper, &status, 0);
    if (!WIFEXITED(status) || WEXITSTATUS(status) != 0)
        report_.failure(where_, "the keeper ended with status " + std::to_string(status));

    settle();
    keep_books();
    if (scene_.listen)
        world_->expect_clean(scene_.rough);
    if (!scene_.leave) {
        for (auto &stream : streams_) {
            stream->retire(0);
            stream->close();
        }
        const InNamespace inside(world_->a);
        if (!eventually([] { return Statistics::read()["SaCurr"] == 0; }))
            report_.failure(where_, std::to_string(Statistics::read()["SaCurr"]) +
                                        " SAs are left when all are deleted");
    }
    report_.count("namespaces made", 2);
    streams_.clear();
    world_.reset();
}

} // namespace

void play(const Scene &scene, const Report &report) {
    testing::TestEventListeners &listeners = testing::UnitTest::GetInstance()->listeners();
    delete listeners.Release(listeners.default_result_printer());
    listeners.Append(new Listener(name(scene.wire), report));
    try {
        Player(scene, report).play();
    } catch (const std::exception &error) {
        report.failure(name(scene.wire), error.what());
    }
}

} // namespace quic_soak
