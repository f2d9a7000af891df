// SPDX-License-Identifier: GPL-2.0
//
// XDP in the driver, and AF_XDP: every verdict, every width of frame, both kinds of receive queue,
// and sockets with and without copying. Frames of an EtherType of their own go from the far side to
// the near one, whose program turns them around or sends them on.
#include "guest_qmp.h"
#include "guest_xdp.h"

#include <optional>

namespace connectx::guest {
namespace {

constexpr std::array<std::uint8_t, 6> kNearMac{2, 0, 0, 0, 0, 1};
constexpr std::array<std::uint8_t, 6> kFarMac{2, 0, 0, 0, 0, 2};
constexpr unsigned kLinearMtu = 3498; ///< as long a frame as one page holds beside XDP's headroom

/// Of type `type`, from the far side to the near one or the other way round; `seed` tells them
/// apart.
Bytes frame(std::size_t size, std::uint16_t type, unsigned seed, bool to_near = true) {
    Bytes f = stream(0, size, seed);
    std::copy(kNearMac.begin(), kNearMac.end(), f.begin() + (to_near ? 0 : 6));
    std::copy(kFarMac.begin(), kFarMac.end(), f.begin() + (to_near ? 6 : 0));
    f[12] = static_cast<std::uint8_t>(type >> 8);
    f[13] = static_cast<std::uint8_t>(type);
    return f;
}

class Xdp : public Nic {
  protected:
    void SetUp() override {
        Nic::SetUp();
        commands_failed_ = failed_commands();
    }
    void TearDown() override {
        set_mtu(1500);
        run(ethtool(kNear, "--set-priv-flags " + near_ + " rx_striding_rq on xdp_tx_mpwqe on"));
        ASSERT_TRUE(wait_for_link());
        both_ways(1 << 18);
        // The driver asked for nothing that the device does not have.
        EXPECT_EQ(failed_commands(), commands_failed_) << qmp().model_state("nic0");
        EXPECT_NE(qmp().model_state("nic0").find("unknown 0"), std::string::npos);
    }
    static std::string failed_commands() {
        const std::string state = qmp().model_state("nic0");
        std::smatch m;
        return std::regex_search(state, m, std::regex("failed ([0-9]+)")) ? m[1].str() : "?";
    }
    static void set_mtu(unsigned mtu) {
        for (int side : {kNear, kFar})
            MUST(ip(side) + "link set " + dev(side) + " mtu " + std::to_string(mtu));
        configure();
        ASSERT_TRUE(wait_for_link());
    }
    static void set_flag(const char *flag, bool on) {
        MUST(ethtool(kNear, "--set-priv-flags " + near_ + " " + flag + (on ? " on" : " off")));
        ASSERT_TRUE(wait_for_link());
    }
    static unsigned index(int side) {
        unsigned out = 0;
        in_namespace(side, [&] { out = if_nametoindex(dev(side).c_str()); });
        return out;
    }
    /// A packet socket that hears one EtherType on one device, and sends from it.
    class Raw {
      public:
        Raw(int side, std::uint16_t type) : fd_(socket_in(side, AF_PACKET, SOCK_RAW, 0)) {
            sockaddr_ll here{};
            here.sll_family = AF_PACKET;
            here.sll_protocol = htons(type);
            here.sll_ifindex = static_cast<int>(index(side));
            EXPECT_EQ(bind(fd_, reinterpret_cast<sockaddr *>(&here), sizeof(here)), 0);
        }
        Raw(const Raw &) = delete;
        Raw &operator=(const Raw &) = delete;
        ~Raw() { close(fd_); }
        void send(const Bytes &f) const {
            EXPECT_EQ(::send(fd_, f.data(), f.size(), 0), static_cast<ssize_t>(f.size()))
                << strerror(errno);
        }
        [[nodiscard]] Bytes receive(int ms) const {
            pollfd p{.fd = fd_, .events = POLLIN, .revents = 0};
            Bytes out(20000);
            const ssize_t n = poll(&p, 1, ms) == 1 ? recv(fd_, out.data(), out.size(), 0) : 0;
            out.resize(n > 0 ? static_cast<std::size_t>(n) : 0);
            return out;
        }

      private:
        int fd_;
    };

    static void echo(unsigned chunk, bool unaligned, bool zero_copy, unsigned queue);

    std::string commands_failed_;
};

std::vector<std::size_t> sizes_for(unsigned mtu) { return {60, 61, 500, mtu - 1, mtu + 14U}; }

TEST_F(Xdp, VerdictsAtEveryWidth) {
    for (const bool striding : {true, false})
        for (const unsigned mtu : {1500U, kLinearMtu, 9000U}) {
            SCOPED_TRACE(std::string(striding ? "striding" : "cyclic") + " mtu " +
                         std::to_string(mtu));
            set_flag("rx_striding_rq", striding);
            set_mtu(mtu);
            const bool frags = mtu > kLinearMtu;
            {
                const XdpProgram pass(xdp::verdict(XDP_PASS), frags);
                const Descriptor link = pass.attach(index(kNear));
                ASSERT_GE(link.get(), 0) << strerror(errno);
                ASSERT_TRUE(wait_for_link());
                tcp(kFar, false, 1 << 18);
                tcp(kNear, true, 1 << 18);
                udp(kFar, false, mtu - 28);
                udp(kFar, true, 3 * mtu);
            }
            ASSERT_TRUE(wait_for_link());
            const Raw far_in(kFar, xdp::kOut);
            {
                const XdpProgram drop(xdp::for_ours({xdp::set(0, XDP_DROP), xdp::leave()}), frags);
                const Descriptor link = drop.attach(index(kNear));
                ASSERT_GE(link.get(), 0) << strerror(errno);
                ASSERT_TRUE(wait_for_link());
                const Raw near_in(kNear, xdp::kIn);
                const auto before = stat(kNear, "rx_xdp_drop");
                for (const std::size_t size : sizes_for(mtu))
                    far_in.send(frame(size, xdp::kIn, 1));
                EXPECT_TRUE(near_in.receive(300).empty());
                EXPECT_EQ(stat(kNear, "rx_xdp_drop") - before, sizes_for(mtu).size());
            }
            for (const bool mpwqe : {true, false}) {
                set_flag("xdp_tx_mpwqe", mpwqe);
                const XdpProgram turn(xdp::send_back(), frags);
                const Descriptor link = turn.attach(index(kNear));
                ASSERT_GE(link.get(), 0) << strerror(errno);
                ASSERT_TRUE(wait_for_link());
                for (const std::size_t size : sizes_for(mtu)) {
                    far_in.send(frame(size, xdp::kIn, 3));
                    EXPECT_EQ(far_in.receive(3000), frame(size, xdp::kOut, 3, false))
                        << size << (mpwqe ? " multi-packet" : "");
                }
                udp(kFar, false, mtu - 28); // passes
            }
        }
}

/// A frame longer than the program can take: attaching is refused, and nothing has changed.
TEST_F(Xdp, TooWideForTheProgramIsRefused) {
    set_mtu(9000);
    const XdpProgram pass(xdp::verdict(XDP_PASS));
    EXPECT_LT(pass.attach(index(kNear)).get(), 0);
    both_ways(1 << 18);
    // And with a program the device cannot be made too wide.
    set_mtu(1500);
    {
        const Descriptor link = pass.attach(index(kNear));
        ASSERT_GE(link.get(), 0) << strerror(errno);
        EXPECT_NE(run("ip link set " + near_ + " mtu 9000").status, 0);
        EXPECT_EQ(run("ip link set " + near_ + " mtu " + std::to_string(kLinearMtu)).status, 0);
        ASSERT_TRUE(wait_for_link());
        both_ways(1 << 18);
    }
    ASSERT_TRUE(wait_for_link());
}

/// Out of the other device. Linux 6.1 has queues for that only while that one has a program, too.
TEST_F(Xdp, RedirectToAnotherDevice) {
    MUST("ip -n far link set " + far_ + " netns 1");
    MUST("ip link set " + far_ + " up");
    const unsigned far_index = if_nametoindex(far_.c_str());
    {
        const XdpProgram on(xdp::redirect(far_index));
        const Descriptor link = on.attach(index(kNear));
        ASSERT_GE(link.get(), 0) << strerror(errno);
        const XdpProgram pass(xdp::verdict(XDP_PASS));
        Descriptor far_link = pass.attach(far_index);
        ASSERT_GE(far_link.get(), 0) << strerror(errno);
        const Raw in(kNear, xdp::kOut);
        const int from = socket_in(kNear, AF_PACKET, SOCK_RAW, 0);
        sockaddr_ll out{};
        out.sll_family = AF_PACKET;
        out.sll_ifindex = static_cast<int>(far_index);
        // From the far device to the near one, whose program sends it out of the far one as kOut.
        const auto round_trip = [&](std::size_t size, unsigned seed) {
            const Bytes f = frame(size, xdp::kIn, seed);
            EXPECT_EQ(sendto(from, f.data(), f.size(), 0, reinterpret_cast<sockaddr *>(&out),
                             sizeof(out)),
                      static_cast<ssize_t>(f.size()))
                << strerror(errno);
            for (;;) {
                const Bytes got = in.receive(300);
                if (got.empty() || got == frame(size, xdp::kOut, seed))
                    return !got.empty();
            }
        };
        // Carrier comes a moment after a program.
        const auto some_round_trip = [&] {
            for (unsigned i = 0; i < 30; ++i)
                if (round_trip(100, 7))
                    return true;
            return false;
        };
        EXPECT_TRUE(some_round_trip());
        for (unsigned i = 0; i < 20; ++i)
            EXPECT_TRUE(round_trip(60 + i * 70, i)) << i;
        far_link = Descriptor();
        std::cout << "without a program on the other device: "
                  << (some_round_trip() ? "arrive" : "are lost") << "\n";
        far_link = pass.attach(far_index);
        ASSERT_GE(far_link.get(), 0) << strerror(errno);
        EXPECT_TRUE(some_round_trip());
        close(from);
    }
    MUST("ip link set " + far_ + " netns far");
    configure();
    ASSERT_TRUE(wait_for_link());
}

struct Memory {
    unsigned chunk;
    bool unaligned;
};

/// A socket on one queue that gives every frame back.
void Xdp::echo(unsigned chunk, bool unaligned, bool zero_copy, unsigned queue) {
    MUST(ethtool(kNear, "-N " + near_ + " flow-type ether proto 0x88b5 action " +
                            std::to_string(queue) + " loc 7"));
    {
        SocketMap map;
        const XdpProgram program(xdp::to_socket(map.fd()));
        const Descriptor link = program.attach(index(kNear));
        ASSERT_GE(link.get(), 0) << strerror(errno);
        XdpSocket socket(chunk, unaligned);
        ASSERT_EQ(socket.bind(index(kNear), queue, zero_copy), 0);
        ASSERT_EQ(map.set(queue, socket), 0);
        ASSERT_TRUE(wait_for_link());
        const Raw far_in(kFar, xdp::kOut);
        for (unsigned i = 0; i < 300; ++i) {
            const std::size_t size = i % 100 == 99 ? 1514 : 60 + i;
            far_in.send(frame(size, xdp::kIn, i));
            ASSERT_EQ(socket.receive(5000), frame(size, xdp::kIn, i)) << i;
            socket.send(frame(size, xdp::kOut, i, false));
            ASSERT_EQ(far_in.receive(5000), frame(size, xdp::kOut, i, false)) << i;
        }
        EXPECT_TRUE(socket.all_sent(5000));
        tcp(kFar, false, 1 << 16); // beside it
    }
    MUST(ethtool(kNear, "-N " + near_ + " delete 7"));
}

TEST_F(Xdp, Sockets) {
    if (std::thread::hardware_concurrency() < 2)
        GTEST_SKIP() << "needs two processors";
    run(ethtool(kNear, "-L " + near_ + " combined 2"));
    MUST(ethtool(kNear, "-K " + near_ + " ntuple on"));
    unsigned queue = 0;
    for (const bool striding : {true, false}) {
        set_flag("rx_striding_rq", striding);
        for (const bool zero_copy : {false, true})
            for (const Memory &memory : {Memory{4096, false}, Memory{2048, false},
                                         Memory{4096, true}, Memory{3072, true}}) {
                queue = 1 - queue;
                SCOPED_TRACE(std::string(striding ? "striding" : "cyclic") +
                             (zero_copy ? " zero-copy " : " copied ") +
                             std::to_string(memory.chunk) + (memory.unaligned ? " unaligned" : "") +
                             " queue " + std::to_string(queue));
                echo(memory.chunk, memory.unaligned, zero_copy, queue);
                if (HasFatalFailure())
                    return;
            }
    }
    MUST(ethtool(kNear, "-K " + near_ + " ntuple off"));
}

} // namespace
} // namespace connectx::guest
