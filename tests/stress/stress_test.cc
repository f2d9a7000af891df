// SPDX-License-Identifier: GPL-2.0
//
// Everything at once, for the debug kernel to watch: threads that send while SAs come and go,
// sockets close, devices appear and vanish, and namespaces end. Seeds and counts are fixed; what is
// judged is that whatever arrives is right, that nobody hears plaintext, that every error is one of
// the documented ones, and that the counts come out even. The order of events is the scheduler's.
#include <atomic>
#include <mutex>
#include <random>
#include <thread>

#include <gtest/gtest.h>

#include "world.h"

namespace quic_test {
namespace {

constexpr PacketShape kShape{.cid_length = 4, .pn_length = 4};
constexpr std::size_t kSize = 600;

Bytes batch(std::uint64_t pn, std::size_t count, bool tag_room) {
    std::vector<Bytes> packets;
    for (std::size_t i = 0; i < count; ++i)
        packets.push_back(make_packet(kShape, pn + i, kSize));
    return tag_room ? join_with_tag_room(packets) : join_packets(packets);
}

// Keys that tell themselves apart by their generation, so that a receiver can name the right ones.
constexpr unsigned kGenerations = 4;
PacketKeys generation_keys(unsigned generation) {
    return keys_of_seed(kAllCiphers[generation % 4], 0x57e0 + generation % kGenerations);
}

// Receives until told to stop and judges every datagram.
class Judge {
  public:
    explicit Judge(int fd) : fd_(fd) {
        for (unsigned i = 0; i < kGenerations; ++i)
            keys_.push_back(generation_keys(i));
        thread_ = std::thread([this] { run(); });
    }
    ~Judge() { stop(); }
    Judge(const Judge &) = delete;
    Judge &operator=(const Judge &) = delete;
    void stop() {
        stop_ = true;
        if (thread_.joinable())
            thread_.join();
    }
    unsigned right() const { return right_; }
    unsigned wrong() const { return wrong_; }
    unsigned plaintext() const { return plaintext_; }

  private:
    void run() {
        while (true) {
            const auto wire = receive(fd_, std::chrono::milliseconds(20));
            if (!wire) {
                if (stop_)
                    return;
                continue;
            }
            if (contains_plaintext(*wire)) {
                ++plaintext_;
                continue;
            }
            bool opened_by_one = false;
            for (const PacketKeys &keys : keys_) {
                const auto opened = unprotect(keys, *wire, kShape.pn_offset(), 1U << 30);
                if (!opened)
                    continue;
                opened_by_one = opened->packet == make_packet(kShape, opened->pn, kSize);
                break;
            }
            ++(opened_by_one ? right_ : wrong_);
        }
    }

    int fd_;
    std::vector<PacketKeys> keys_;
    std::atomic<bool> stop_ = false;
    std::atomic<unsigned> right_ = 0;
    std::atomic<unsigned> wrong_ = 0;
    std::atomic<unsigned> plaintext_ = 0;
    std::thread thread_;
};

class Errors {
  public:
    void expect_among(ssize_t result, std::initializer_list<int> allowed, const char *what) {
        if (result >= 0)
            return;
        for (int error : allowed)
            if (result == -error)
                return;
        const std::lock_guard lock(mutex_);
        unexpected_.insert(std::string(what) + ": " + std::to_string(result));
    }
    const std::set<std::string> &unexpected() const { return unexpected_; }

  private:
    std::mutex mutex_;
    std::set<std::string> unexpected_;
};

class Stress : public testing::TestWithParam<Wire> {};
INSTANTIATE_TEST_SUITE_P(Wires, Stress,
                         testing::Values(Wire::kVeth, Wire::kOffload, Wire::kOffloadNoSegmentation),
                         [](const auto &info) { return name(info.param); });

// One socket; senders use whatever SA index was published last, another thread replaces SAs.
TEST_P(Stress, SasComeAndGoUnderSenders) {
    World world(GetParam());
    UniqueFd receiver;
    Address to = Address::v4("10.1.1.2", 0);
    world.b.run([&] {
        receiver = udp_socket(AF_INET);
        set_option(receiver.get(), SOL_SOCKET, SO_RCVBUFFORCE, 64 << 20);
        bind_to(receiver.get(), Address::v4("0.0.0.0", 0));
        to.set_port(Address::of_socket(receiver.get()).port());
    });
    Judge judge(receiver.get());
    Errors errors;
    {
        const InNamespace inside(world.a);
        UniqueFd socket = udp_socket(AF_INET);
        const int fd = socket.get();
        std::atomic<std::uint32_t> published = add_sa_index(fd, 0, generation_keys(0));
        std::atomic<unsigned> sent = 0;
        std::atomic<bool> stop = false;
        std::vector<std::thread> threads;
        for (unsigned t = 0; t < 3; ++t)
            threads.emplace_back([&, t] {
                std::mt19937 random(t);
                for (std::uint64_t pn = t << 20; sent < 400; pn += 8) {
                    const bool tag_room = random() % 2;
                    const std::size_t count = 1 + random() % 6;
                    const std::uint16_t flags = tag_room ? UDP_QUIC_CRYPTO_F_TAG_ROOM : 0;
                    Control control;
                    if (random() % 5 == 0)
                        control.quic_inline(pn, generation_keys(1), kShape.pn_offset(), flags);
                    else
                        control.quic(pn, published, kShape.pn_offset(), flags);
                    control.gso_size(kSize + UDP_QUIC_TAG_LEN);
                    const ssize_t result = send(fd, batch(pn, count, tag_room), control, &to);
                    errors.expect_among(result, {ENOENT, EKEYEXPIRED}, "sendmsg");
                    ++sent;
                }
            });
        std::thread changer([&] {
            std::mt19937 random(99);
            for (std::uint64_t generation = 1; !stop; ++generation) {
                const unsigned g = static_cast<unsigned>(generation) % kGenerations;
                const std::uint64_t limit = random() % 4 == 0 ? 20 : 0;
                errors.expect_among(add_sa(fd, generation, generation_keys(g), 0, limit), {},
                                    "add");
                published = sa_index(fd, generation);
                errors.expect_among(del_sa(fd, generation - 1), {}, "delete");
                errors.expect_among(del_sa(fd, generation + 7), {ENOENT}, "delete unknown");
                struct udp_crypto_sa_info info {};
                errors.expect_among(get_sa(fd, generation, &info), {}, "get");
            }
        });
        for (std::thread &thread : threads)
            thread.join();
        stop = true;
        changer.join();
        EXPECT_EQ(Statistics::read()["SaCurr"], 1U);
        socket.reset();
        EXPECT_TRUE(eventually([] { return Statistics::read()["SaCurr"] == 0; }));
        const Statistics now = Statistics::read();
        EXPECT_EQ(now["SaAdded"], now["SaDeleted"]);
        EXPECT_EQ(now["TxPackets"] + 0, now["TxSoftware"] + now["TxDevice"] + now["DropNoSa"] +
                                            now["DropNoKeys"] + now["DropNoMem"] +
                                            now["DropError"]);
        EXPECT_EQ(now["DropError"], 0U);
    }
    EXPECT_TRUE(eventually([&] { return judge.right() > 0; }));
    judge.stop();
    EXPECT_EQ(judge.wrong(), 0U);
    EXPECT_EQ(judge.plaintext(), 0U);
    EXPECT_EQ(errors.unexpected(), std::set<std::string>{});
    world.expect_clean();
}

// Sockets are made, send a little, and close with packets still under way.
TEST_P(Stress, SocketsClose) {
    World world(GetParam());
    world.a.command("tc qdisc replace dev va root netem delay 2ms 2ms limit 100000");
    Errors errors;
    UniqueFd receiver;
    Address to = Address::v6("fd01::2", 0);
    world.b.run([&] {
        receiver = udp_socket(AF_INET6);
        set_option(receiver.get(), SOL_SOCKET, SO_RCVBUFFORCE, 64 << 20);
        bind_to(receiver.get(), Address::v6("::", 0));
        to.set_port(Address::of_socket(receiver.get()).port());
    });
    Judge judge(receiver.get());
    {
        const InNamespace inside(world.a);
        std::vector<std::thread> threads;
        for (unsigned t = 0; t < 3; ++t)
            threads.emplace_back([&, t] {
                std::mt19937 random(t);
                for (unsigned round = 0; round < 60; ++round) {
                    UniqueFd fd = udp_socket(AF_INET6);
                    set_option(fd.get(), SOL_SOCKET, SO_ZEROCOPY, 1);
                    const unsigned g = random() % kGenerations;
                    if (add_sa(fd.get(), 0, generation_keys(g)) != 0)
                        continue;
                    const std::uint32_t sa = sa_index(fd.get(), 0);
                    static thread_local Bytes data; // outlives the zero-copy sends of this thread
                    for (unsigned s = 0; s < 3; ++s) {
                        const std::uint64_t pn = (t << 24) + (round << 8) + s * 8;
                        data = batch(pn, 4, true);
                        errors.expect_among(
                            send(fd.get(), data,
                                 Control()
                                     .quic(pn, sa, kShape.pn_offset(), UDP_QUIC_CRYPTO_F_TAG_ROOM)
                                     .gso_size(kSize + UDP_QUIC_TAG_LEN),
                                 &to),
                            {}, "sendmsg");
                    }
                }
            });
        for (std::thread &thread : threads)
            thread.join();
        EXPECT_TRUE(eventually([] { return Statistics::read()["SaCurr"] == 0; }));
    }
    judge.stop();
    EXPECT_EQ(judge.wrong(), 0U);
    EXPECT_EQ(judge.plaintext(), 0U);
    EXPECT_EQ(errors.unexpected(), std::set<std::string>{});
    world.expect_clean(true);
}

// The device under the senders changes its features, goes down, and vanishes.
TEST_P(Stress, DevicesChangeAndVanish) {
    Errors errors;
    for (unsigned round = 0; round < 4; ++round) {
        World world(GetParam());
        const InNamespace inside(world.a);
        const Address to = Address::v4("10.1.1.2", 4433);
        std::atomic<bool> stop = false;
        std::vector<std::thread> threads;
        for (unsigned t = 0; t < 2; ++t)
            threads.emplace_back([&, t] {
                UniqueFd fd = udp_socket(AF_INET);
                const std::uint32_t sa = add_sa_index(fd.get(), 0, generation_keys(t));
                for (std::uint64_t pn = 0; !stop; pn += 4) {
                    // All that arrives is kept: a machine that is slow to change devices must not
                    // run out of memory over it.
                    if (pn > 2000)
                        std::this_thread::sleep_for(std::chrono::milliseconds(5));
                    errors.expect_among(
                        send(fd.get(), batch(pn, 4, false),
                             Control()
                                 .quic(pn, sa, kShape.pn_offset())
                                 .gso_size(kSize + UDP_QUIC_TAG_LEN),
                             &to),
                        {ENETUNREACH, EHOSTUNREACH, ENETDOWN, EINVAL, ENOBUFS, EAGAIN, ENODEV},
                        "sendmsg");
                }
            });
        EXPECT_TRUE(eventually([] { return Statistics::read()["TxPackets"] > 40; }));
        command("ethtool -K va tx off gso off >/dev/null; ethtool -K va tx on gso on >/dev/null");
        if (GetParam() != Wire::kVeth)
            command("for i in 1 2 3; do ethtool -K va udp-crypto-hw-tx-offload off; "
                    "ethtool -K va udp-crypto-hw-tx-offload on; done");
        command("tc qdisc replace dev va root netem delay 1ms; tc qdisc del dev va root");
        command("ip link set va down; ip link set va up; ip addr add 10.1.1.1/24 dev va || true");
        const std::uint64_t before = Statistics::read()["TxPackets"];
        EXPECT_TRUE(eventually([&] { return Statistics::read()["TxPackets"] > before + 40; }));
        if (GetParam() == Wire::kVeth)
            command("ip link del va");
        else
            world.remove_devices();
        stop = true;
        for (std::thread &thread : threads)
            thread.join();
        world.expect_clean(true);
    }
    EXPECT_EQ(errors.unexpected(), std::set<std::string>{});
}

// Namespaces end while their sockets, SAs, queues and devices are in use.
TEST_P(Stress, NamespacesEnd) {
    for (unsigned round = 0; round < 4; ++round) {
        World world(GetParam());
        world.a.command("tc qdisc replace dev va root netem delay 50ms limit 10000");
        const InNamespace inside(world.a);
        for (unsigned s = 0; s < 5; ++s) {
            UniqueFd fd = udp_socket(AF_INET);
            const std::uint32_t sa = add_sa_index(fd.get(), 0, generation_keys(s));
            const Address to = Address::v4("10.1.1.2", 4433);
            for (std::uint64_t pn = 0; pn < 12; pn += 4) {
                EXPECT_GT(send(fd.get(), batch(pn, 4, false),
                               Control().quic(pn, sa, kShape.pn_offset()).gso_size(kSize + 16),
                               &to),
                          0);
                EXPECT_GT(send(fd.get(), batch(pn, 4, false),
                               Control()
                                   .quic_inline(pn, generation_keys(s), kShape.pn_offset())
                                   .gso_size(kSize + 16),
                               &to),
                          0);
            }
        }
    }
}

// The send buffer is full most of the time: errors are told, and nothing is half sent.
TEST(StressMemory, SmallSendBuffers) {
    World world;
    Flow flow(world.a, world.b, Address::v4("10.1.1.2", 0));
    world.a.command("tc qdisc replace dev va root tbf rate 2mbit burst 20000 latency 60s");
    set_option(flow.sender(), SOL_SOCKET, SO_SNDBUF, 4608);
    timeval timeout{.tv_sec = 0, .tv_usec = 2000};
    ASSERT_EQ(::setsockopt(flow.sender(), SOL_SOCKET, SO_SNDTIMEO, &timeout, sizeof(timeout)), 0);
    unsigned refused = 0;
    for (unsigned i = 0; i < 60; ++i) {
        const ssize_t result = flow.send_form({.tag_room = i % 2 == 0, .packets = 1 + i % 12});
        if (result < 0) {
            EXPECT_TRUE(result == -EAGAIN || result == -ENOBUFS) << result;
            ++refused;
        }
    }
    EXPECT_GT(refused, 0U);
    flow.expect_all_arrive();
    world.expect_clean();
}

} // namespace
} // namespace quic_test
