// SPDX-License-Identifier: GPL-2.0
//
// Faults of every kind, set off while the guest runs, and how the kernel's own driver gets over
// them: its health poll, its transmit and receive reporters. After each one traffic goes on.
#include "guest_qmp.h"

#include <atomic>
#include <optional>

namespace connectx::guest {
namespace {

class Fault : public Nic {
  protected:
    void SetUp() override {
        ASSERT_TRUE(qmp().connected()) << "no virtio port named qmp";
        Nic::SetUp();
        // Twenty minutes between two recoveries otherwise.
        run("devlink health set pci/" + pci() + " reporter fw_fatal grace_period 0");
    }
    void TearDown() override { qmp().fault("nic0", "none"); }

    static void inject(const std::string &spec) {
        std::string error;
        ASSERT_TRUE(qmp().fault("nic0", spec, &error)) << spec << ": " << error;
    }
    static std::string pci() {
        return std::filesystem::canonical("/sys/class/net/" + near_ + "/device").filename();
    }
    static bool carrier() {
        return read_file("/sys/class/net/" + near_ + "/carrier").starts_with("1");
    }
    /// MSI-X vector of the first channel's events. Which it is, the drivers do not agree on: that
    /// of 6.1 keeps the last vector for asynchronous events, that of 6.12 the first. In the
    /// kernel's list an interrupt's hardware number is the vector, from bit 11 on perhaps with the
    /// device's address.
    static std::optional<unsigned> channel_vector() {
        const std::string list = read_file("/proc/interrupts");
        std::smatch m;
        const std::regex line(" ([0-9]+)-edge +mlx5_comp0@pci:" + pci());
        if (!std::regex_search(list, m, line))
            return std::nullopt;
        return static_cast<unsigned>(std::stoull(m[1]) & 0x7ff);
    }
    static bool eventually(int seconds, const std::function<bool()> &what) {
        const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(seconds);
        while (std::chrono::steady_clock::now() < end) {
            if (what())
                return true;
            std::this_thread::sleep_for(std::chrono::milliseconds(50));
        }
        return what();
    }
    /// What the kernel has said since the mark.
    static std::string mark() { return run("dmesg | wc -l").output; }
    static std::string said(const std::string &since) {
        return run("dmesg | tail -n +" + std::to_string(std::stoul(since) + 1)).output;
    }

    /// Sends datagrams from near to far in the background until destroyed.
    class Load {
      public:
        Load() : thread_([this] { work(); }) {}
        ~Load() {
            stop_ = true;
            thread_.join();
        }
        Load(const Load &) = delete;
        Load &operator=(const Load &) = delete;

      private:
        void work() {
            const int s = socket_in(kNear, AF_INET, SOCK_DGRAM);
            const Address at = address(kFar, false, 5555);
            const Bytes data = stream(0, 1000, 3);
            while (!stop_) {
                for (unsigned i = 0; i < 50; ++i)
                    (void)!sendto(s, data.data(), data.size(), MSG_DONTWAIT, at.get(), at.length);
                std::this_thread::sleep_for(std::chrono::milliseconds(2));
            }
            close(s);
        }
        std::atomic<bool> stop_ = false;
        std::thread thread_;
    };
};

TEST_F(Fault, NonsenseIsRefusedWithAReason) {
    std::string error;
    EXPECT_FALSE(qmp().fault("nic0", "no-such-fault", &error));
    EXPECT_NE(error.find("unknown fault"), std::string::npos) << error;
    EXPECT_FALSE(qmp().fault("nic0", "link-flap,ms=soon", &error));
    EXPECT_NE(error.find("wants a number"), std::string::npos) << error;
}

TEST_F(Fault, SendErrorIsRecovered) {
    const auto before = stat(kNear, "tx_recover");
    inject("send-error,count=1");
    {
        const Load load;
        EXPECT_TRUE(eventually(30, [&] { return stat(kNear, "tx_recover") > before; }));
    }
    EXPECT_TRUE(wait_for_link());
    both_ways();
    EXPECT_GT(stat(kNear, "tx_cqe_err"), 0U);
}

TEST_F(Fault, ReceiveErrorIsRecovered) {
    const auto before = stat(kNear, "rx_recover");
    inject("receive-error,count=1");
    EXPECT_TRUE(eventually(30, [&] {
        reachable(false);
        return stat(kNear, "rx_recover") > before;
    }));
    EXPECT_TRUE(wait_for_link());
    both_ways();
}

TEST_F(Fault, LateInterruptsOnlyDelay) {
    inject("interrupt-late,ms=50,count=200");
    both_ways();
}

TEST_F(Fault, LostInterruptIsRecovered) {
    // The channel that lost it is stuck until its send ring is full and the watchdog asks why; the
    // transmit reporter then finds the event that nobody was told of.
    const auto before = stat(kNear, "ch_eq_rearm");
    run(ethtool(kNear, "-L " + near_ + " combined 1"));
    ASSERT_TRUE(wait_for_link());
    const auto vector = channel_vector();
    ASSERT_TRUE(vector) << read_file("/proc/interrupts");
    inject("interrupt-lost,count=1,vector=" + std::to_string(*vector));
    {
        const Load load;
        EXPECT_TRUE(eventually(90, [&] { return stat(kNear, "ch_eq_rearm") > before; }))
            << run(ethtool(kNear, "-S " + near_ + " | grep -E 'rearm|recover'")).output;
    }
    EXPECT_TRUE(wait_for_link());
    both_ways();
    run(ethtool(kNear, "-L " + near_ + " combined 2"));
}

TEST_F(Fault, FailedCommandsLeaveThingsAsTheyWere) {
    constexpr const char *kCreateCq = "0x400";
    constexpr const char *kCreateSq = "0x904";
    constexpr const char *kCreateRq = "0x908";
    run(ethtool(kNear, "-G " + near_ + " rx 1024"));
    for (const char *opcode : {kCreateCq, kCreateSq, kCreateRq}) {
        SCOPED_TRACE(opcode);
        inject(std::string("command-fail,count=1,status=0xf,syndrome=0xbad,opcode=") + opcode);
        const std::string since = mark();
        EXPECT_NE(run(ethtool(kNear, "-G " + near_ + " rx 2048")).status, 0);
        EXPECT_NE(said(since).find("syndrome (0xbad)"), std::string::npos) << said(since);
        EXPECT_TRUE(wait_for_link());
        both_ways(1 << 20);
    }
    MUST(ethtool(kNear, "-G " + near_ + " rx 2048"));
    EXPECT_TRUE(wait_for_link());
}

TEST_F(Fault, LinkFlapsUnderLoad) {
    const auto before = stat(kNear, "link_down_events_phy");
    std::atomic<bool> done = false;
    std::thread flaps([&] {
        for (unsigned i = 0; i < 5; ++i) {
            inject("link-flap,ms=300");
            std::this_thread::sleep_for(std::chrono::milliseconds(1500));
        }
        done = true;
    });
    do
        for (int from : {kNear, kFar})
            tcp(from, false, 4 << 20);
    while (!done);
    flaps.join();
    EXPECT_GE(stat(kNear, "link_down_events_phy") - before, 5U);
    EXPECT_TRUE(wait_for_link());
}

TEST_F(Fault, CableOutAndIn) {
    inject("link-down");
    EXPECT_TRUE(eventually(10, [] { return !carrier(); }));
    EXPECT_FALSE(reachable(false));
    inject("link-up");
    EXPECT_TRUE(eventually(10, [] { return carrier(); }));
    EXPECT_TRUE(wait_for_link());
    both_ways();
}

TEST_F(Fault, HealthSyndromeIsReported) {
    // How often the reporter "fw" of the device was told of an error.
    const auto reports = [] {
        const std::string text = run("devlink health show pci/" + pci() + " reporter fw").output;
        std::smatch m;
        return std::regex_search(text, m, std::regex("error ([0-9]+)")) ? std::stoi(m[1]) : -1;
    };
    const int before = reports();
    ASSERT_GE(before, 0);
    inject("health,syndrome=0x1,severity=3");
    EXPECT_TRUE(eventually(30, [&] { return reports() > before; }));
    EXPECT_TRUE(reachable(false));
}

TEST_F(Fault, HealthCounterThatStandsStillIsNoticed) {
    const std::string since = mark();
    inject("health-stuck");
    EXPECT_TRUE(eventually(40, [&] {
        return said(since).find("reached miss count") != std::string::npos;
    })) << said(since);
    EXPECT_TRUE(reachable(false));
}

TEST_F(Fault, FatalHealthIsRecoveredByResettingTheFirmware) {
    const std::string since = mark();
    {
        const Load load;
        inject("health,syndrome=0x1,rfr=1,severity=2");
        EXPECT_TRUE(eventually(90, [&] {
            return said(since).find("health recovery succeeded") != std::string::npos;
        })) << said(since);
    }
    configure(); // IPv6 addresses do not outlive the interface
    EXPECT_TRUE(wait_for_link(60)) << said(since) << run("ip addr; ip -n far addr").output;
    both_ways();
}

TEST_F(Fault, ResetFromOutsideIsRecovered) {
    const std::string since = mark();
    {
        const Load load;
        inject("reset");
        EXPECT_TRUE(eventually(90, [&] {
            return said(since).find("health recovery succeeded") != std::string::npos;
        })) << said(since);
    }
    configure(); // IPv6 addresses do not outlive the interface
    EXPECT_TRUE(wait_for_link(60)) << said(since);
    both_ways();
}

TEST_F(Fault, FunctionLevelResetUnderLoad) {
    const std::string since = mark();
    {
        const Load load;
        const Result r = run("echo 1 > /sys/bus/pci/devices/" + pci() + "/reset");
        EXPECT_EQ(r.status, 0) << r.output;
        EXPECT_TRUE(eventually(120, [&] {
            return said(since).find("health recovery succeeded") != std::string::npos;
        })) << said(since);
    }
    configure(); // IPv6 addresses do not outlive the interface
    EXPECT_TRUE(wait_for_link(60)) << said(since);
    both_ways();
}

/// The reporters, asked by hand.
TEST_F(Fault, DevlinkHealthReportersAnswer) {
    const std::string show = run("devlink health show").output;
    for (const char *reporter : {"fw", "fw_fatal", "tx", "rx"})
        EXPECT_NE(show.find(std::string("reporter ") + reporter + "\n"), std::string::npos) << show;
    const std::string device = "pci/" + pci();
    const Result diagnosis = run("devlink health diagnose " + device + " reporter fw");
    EXPECT_EQ(diagnosis.status, 0) << diagnosis.output;
    std::smatch m;
    const std::regex tx("\n?([a-z]+/[^\n]*):\n +reporter tx\n");
    ASSERT_TRUE(std::regex_search(show, m, tx)) << show;
    for (const char *reporter : {"tx", "rx"}) {
        const Result r = run("devlink health diagnose " + m[1].str() + " reporter " + reporter);
        EXPECT_EQ(r.status, 0) << r.output;
        EXPECT_NE(r.output.find("cqn"), std::string::npos) << r.output;
    }
}

/// The driver gives up after a minute. It keeps the slot until an answer comes all the same; had
/// none come ever, a fatal error or a shutdown later on would wait for it.
TEST_F(Fault, UnansweredCommandTimesOut) {
    inject("command-timeout,count=1,opcode=0x400,ms=70000");
    const std::string since = mark();
    EXPECT_NE(run(ethtool(kNear, "-G " + near_ + " rx 512")).status, 0);
    EXPECT_NE(said(since).find("timeout"), std::string::npos) << said(since);
    EXPECT_TRUE(wait_for_link());
    both_ways(1 << 20);
    EXPECT_TRUE(eventually(60, [&] {
        return said(since).find("completion arrived after timeout") != std::string::npos;
    })) << said(since);
    both_ways(1 << 20);
}

/// A fault given as a property is there before the driver is: its probe fails, the next succeeds.
TEST(FaultAtStart, ProbeFailsOnceAndWorksAfterwards) {
    constexpr const char *kAddress = "0000:01:00.0";
    const std::string driver = std::string("/sys/bus/pci/drivers/mlx5_core/");
    EXPECT_FALSE(std::filesystem::exists(driver + kAddress));
    EXPECT_TRUE(device_of("02:00:00:00:00:01").empty());
    EXPECT_NE(run("dmesg").output.find("syndrome (0xfa17)"), std::string::npos);
    MUST("echo " + std::string(kAddress) + " > " + driver + "bind");
    EXPECT_FALSE(device_of("02:00:00:00:00:01").empty());
}

} // namespace

/// At the end of every run: nothing the driver asked for was beyond the model.
class NothingUnmodelled : public testing::Environment {
  public:
    void TearDown() override {
        if (!qmp().connected())
            return;
        for (const char *nic : {"nic0", "nic1"}) {
            const std::string state = qmp().model_state(nic);
            EXPECT_NE(state.find("commands"), std::string::npos) << state;
            EXPECT_EQ(state.find("not modelled"), std::string::npos) << nic << ": " << state;
            std::cout << nic << ": " << std::regex_replace(state, std::regex("\\\\n"), "\n      ")
                      << "\n";
        }
    }
};

} // namespace connectx::guest

int main(int argc, char **argv) {
    testing::InitGoogleTest(&argc, argv);
    testing::AddGlobalTestEnvironment(new connectx::guest::NothingUnmodelled);
    return RUN_ALL_TESTS();
}
