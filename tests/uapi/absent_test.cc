// SPDX-License-Identifier: GPL-2.0
//
// A kernel in which the feature did not come up, as when it found no memory at boot (the test
// uapi.absent has it not started at all): sockets are as in a kernel without it, and all else
// works.
#include <gtest/gtest.h>
#include <unistd.h>

#include "raw_netlink.h"
#include "world.h"

namespace quic_test {
namespace {

class Absent : public testing::Test {
  protected:
    void SetUp() override {
        if (read_file("/proc/cmdline").find("initcall_blacklist=udp_crypto_init") ==
            std::string::npos)
            GTEST_SKIP() << "the feature is there";
    }
};

TEST_F(Absent, SocketsKnowNothingOfIt) {
    const PacketKeys keys = keys_of_seed(Cipher::kAes128Gcm, 1);
    for (const int family : {AF_INET, AF_INET6}) {
        const UniqueFd fd = udp_socket(family);
        struct udp_crypto_caps caps {};
        struct udp_crypto_sa_info info {};
        EXPECT_EQ(add_sa(fd.get(), 1, keys), -ENOPROTOOPT);
        EXPECT_EQ(del_sa(fd.get(), 1), -ENOPROTOOPT);
        EXPECT_EQ(get_sa(fd.get(), 1, &info), -ENOPROTOOPT);
        EXPECT_EQ(get_caps(fd.get(), &caps), -ENOPROTOOPT);
    }
}

TEST_F(Absent, SendsThatAskForProtectionAreRefused) {
    const PacketShape shape{.cid_length = 8, .pn_length = 2};
    const Bytes packet = make_packet(shape, 1, 1000);
    const PacketKeys keys = keys_of_seed(Cipher::kAes128Gcm, 1);
    for (const Family family : kAllFamilies) {
        const Loopback loopback(family, false);
        for (const std::uint32_t sa : {0U, 1U, 77U})
            EXPECT_EQ(send(loopback.sender.get(), packet, Control().quic(1, sa, shape.pn_offset()),
                           loopback.to()),
                      -EINVAL);
        EXPECT_EQ(send(loopback.sender.get(), packet,
                       Control().quic_inline(1, keys, shape.pn_offset()), loopback.to()),
                  -EINVAL);
        EXPECT_FALSE(receive(loopback.receiver.get(), std::chrono::milliseconds(20)).has_value());
        EXPECT_EQ(send(loopback.sender.get(), packet, Control(), loopback.to()), 1000);
        EXPECT_EQ(receive(loopback.receiver.get()), packet);
    }
}

TEST_F(Absent, NothingOfItIsSeen) {
    EXPECT_NE(::access("/proc/net/udp_crypto_stat", F_OK), 0);
    EXPECT_NE(::access("/proc/sys/net/ipv4/udp_crypto_max_sa", F_OK), 0);
    EXPECT_THROW(RawNetlink(), std::runtime_error);
}

// Namespaces come and go, with what others keep in them.
TEST_F(Absent, NamespacesAndDevicesWork) {
    for (int i = 0; i < 10; ++i) {
        const World world(i % 2 ? Wire::kOffload : Wire::kVeth);
        world.a.command(
            "ip link add ti type ipip local 10.1.1.1 remote 10.1.1.2; ip link set ti up; "
            "nft add table ip t; nft 'add chain ip t o { type filter hook output priority 0; }'; "
            "nft add rule ip t o ct state new accept");
        UniqueFd sender;
        UniqueFd receiver;
        world.a.run([&] { sender = udp_socket(AF_INET); });
        world.b.run([&] {
            receiver = udp_socket(AF_INET);
            bind_to(receiver.get(), Address::v4("10.1.1.2", 4433));
        });
        const Address to = Address::v4("10.1.1.2", 4433);
        const Bytes data(1000, 7);
        ASSERT_EQ(send(sender.get(), data, Control(), &to), 1000);
        EXPECT_EQ(receive(receiver.get()), data);
    }
}

} // namespace
} // namespace quic_test
