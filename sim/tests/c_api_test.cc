// SPDX-License-Identifier: GPL-2.0
//
// The C face of the library, as QEMU uses it.
#include <connectx_c.h>

#include <gtest/gtest.h>

#include <array>
#include <cstring>
#include <string>
#include <vector>

namespace {

/// A host that has no memory and remembers what it was called for.
struct CountingHost {
    unsigned works = 0;
    unsigned timers = 0;
    unsigned interrupts = 0;
    unsigned frames = 0;
    unsigned ready = 0;
    std::vector<std::string> logs;
};

CountingHost &self(void *opaque) { return *static_cast<CountingHost *>(opaque); }

const connectx_host_ops kOps = {
    .dma_read = [](void *, std::uint64_t, void *, std::size_t) { return false; },
    .dma_write = [](void *, std::uint64_t, const void *, std::size_t) { return false; },
    .msix_raise = [](void *o, unsigned) { ++self(o).interrupts; },
    .wire_tx = [](void *o, const void *, std::size_t) { ++self(o).frames; },
    .clock_ns = [](void *) -> std::uint64_t { return 5'000'000'000; },
    .realtime_ns = [](void *) -> std::uint64_t { return 1'700'000'000'000'000'000; },
    .schedule_work = [](void *o) { ++self(o).works; },
    .arm_timer = [](void *o, std::uint64_t) { ++self(o).timers; },
    .rx_ready = [](void *o) { ++self(o).ready; },
    .log = [](void *o, connectx_log_level, const char *text) { self(o).logs.emplace_back(text); },
};

connectx_config good_config() {
    connectx_config c{};
    c.mac[5] = 1;
    c.msix_vectors = 8;
    c.max_queues = 64;
    return c;
}

TEST(CApi, ConfigurationIsChecked) {
    CountingHost host;
    for (const auto &[vectors, queues] : std::vector<std::pair<unsigned, unsigned>>{
             {1, 64}, {129, 64}, {8, 15}, {8, 4097}, {0, 0}}) {
        connectx_config c = good_config();
        c.msix_vectors = vectors;
        c.max_queues = queues;
        EXPECT_EQ(connectx_new(&kOps, &host, &c), nullptr) << vectors << " " << queues;
    }
}

TEST(CApi, EveryCallReachesTheDevice) {
    CountingHost host;
    const connectx_config config = good_config();
    connectx_device *dev = connectx_new(&kOps, &host, &config);
    ASSERT_NE(dev, nullptr);
    std::array<std::uint8_t, 4> word{};
    connectx_mmio_read(dev, 4, word.data(), word.size());
    EXPECT_EQ(word[1], 5); // command interface revision
    // A command queue where there is no memory: nothing happens but work.
    const std::array<std::uint8_t, 4> address{0, 0, 0x10, 0};
    connectx_mmio_write(dev, 0x14, address.data(), address.size());
    const std::array<std::uint8_t, 4> doorbell{0, 0, 0, 1};
    connectx_mmio_write(dev, 0x18, doorbell.data(), doorbell.size());
    EXPECT_GT(host.works, 0U);
    connectx_run(dev);
    EXPECT_GT(host.timers, 0U);
    EXPECT_TRUE(connectx_can_receive(dev));
    const std::array<std::uint8_t, 64> frame{};
    EXPECT_TRUE(connectx_wire_rx(dev, frame.data(), frame.size()));
    connectx_set_link(dev, false);
    connectx_set_link(dev, true);
    connectx_vsc_write(dev, 0xc, 9);
    EXPECT_EQ(connectx_vsc_read(dev, 0xc), 9U);
    std::array<char, 16> error{};
    EXPECT_FALSE(connectx_inject_fault(dev, "no-such-fault-at-all", error.data(), error.size()));
    EXPECT_EQ(std::string(error.data()), "unknown fault '");
    EXPECT_FALSE(connectx_inject_fault(dev, "x", nullptr, 0));
    EXPECT_TRUE(connectx_inject_fault(dev, "link-flap,ms=1", error.data(), error.size()));
    EXPECT_STREQ(error.data(), "");
    const std::size_t length = connectx_describe(dev, nullptr, 0);
    std::string text(length + 1, 'x');
    EXPECT_EQ(connectx_describe(dev, text.data(), text.size()), length);
    EXPECT_EQ(std::strlen(text.c_str()), length);
    EXPECT_NE(text.find("dma-errors 1"), std::string::npos) << text;
    std::array<char, 5> small{};
    EXPECT_EQ(connectx_describe(dev, small.data(), small.size()), length);
    EXPECT_STREQ(small.data(), "comm");
    connectx_reset(dev);
    connectx_free(dev);
    connectx_free(nullptr);
}

} // namespace
