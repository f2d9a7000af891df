// SPDX-License-Identifier: GPL-2.0
//
// quic-sadb-ctl and a device that has a database of its own. Runs where tests/nic/guest has made
// two ConnectX devices.
#include <array>
#include <cstdlib>
#include <net/if.h>
#include <vector>

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "processes.h"
#include "sa_spec.h"
#include "world.h"

namespace quic_test {
namespace {

using nlohmann::json;

constexpr uid_t kUser = 1000;

std::string variable(const char *name) {
    const char *value = std::getenv(name);
    return value != nullptr ? value : "";
}

std::string words(const PacketKeys &keys) {
    return "cipher=" + quic_sadb::cipher_name(static_cast<std::uint32_t>(keys.cipher)) +
           " key=" + to_hex(keys.key) + " iv=" + to_hex(keys.iv) + " hp=" + to_hex(keys.hp);
}

json json_of(std::vector<std::string> arguments, const std::string &input = "") {
    arguments.insert(arguments.begin(), "--json");
    const ToolResult result = tool(arguments, input);
    EXPECT_EQ(result.status, 0) << result.err;
    return json::parse(result.out, nullptr, false);
}

// In host a of a world.
class Device : public testing::Test {
  protected:
    void SetUp() override {
        if (variable("QUIC_TEST_NIC").empty())
            GTEST_SKIP() << "in a guest with ConnectX devices: nic.tool";
        world_ = std::make_unique<World>(Wire::kConnectx);
        inside_ = std::make_unique<InNamespace>(world_->a);
        world_->b.run([this] {
            receiver_ = udp_socket(AF_INET);
            set_option(receiver_.get(), SOL_SOCKET, SO_RCVBUFFORCE, 64 << 20);
            bind_to(receiver_.get(), Address::v4("10.1.1.2", 0));
        });
        to_ = Address::v4("10.1.1.2", Address::of_socket(receiver_.get()).port());
    }
    void TearDown() override {
        inside_.reset();
        if (world_)
            world_->expect_clean(true);
        world_.reset();
    }
    std::uint64_t installed() const { return ethtool_statistics("va")["quic_sa_installed"]; }

    std::unique_ptr<World> world_;
    std::unique_ptr<InNamespace> inside_;
    UniqueFd receiver_;
    Address to_;
};

constexpr PacketShape kShape{.cid_length = 8, .pn_length = 4};

TEST_F(Device, ShowTellsWhatItCan) {
    if (!variable("QUIC_TEST_ONE_CIPHER").empty())
        return; // the next test
    const std::string able = "    ciphers: aes-128-gcm aes-256-gcm chacha20-poly1305 aes-128-ccm\n"
                             "    keys by: index inline\n";
    EXPECT_EQ(tool({"dev", "show", "va"}).out,
              "va: offload on\n" + able + "    SAs held: 0 of 65536\n");
    const json shown = json_of({"dev", "show"});
    ASSERT_EQ(shown.size(), 1U);
    EXPECT_EQ(shown[0].at("ifname"), "va");
    EXPECT_EQ(shown[0].at("enabled"), true);
    EXPECT_EQ(shown[0].at("ciphers"),
              json({"aes-128-gcm", "aes-256-gcm", "chacha20-poly1305", "aes-128-ccm"}));
    EXPECT_EQ(shown[0].at("forms"), json({"index", "inline"}));
    EXPECT_EQ(shown[0].at("sa_max"), 65536);
    EXPECT_EQ(shown[0].at("sa_count"), 0);

    // One SA in the database, and a VLAN on top, which has none of its own.
    command("ip link add link va name vlan7 type vlan id 7; ip link set vlan7 up");
    const UniqueFd sender = udp_socket(AF_INET);
    const std::uint32_t sa = add_sa_index(sender.get(), 1, keys_of_seed(Cipher::kAes128Gcm, 1));
    ASSERT_EQ(send(sender.get(), make_packet(kShape, 1, 1184),
                   Control().quic(1, sa, kShape.pn_offset()), &to_),
              1184);
    EXPECT_TRUE(eventually([&] { return installed() == 1; }));
    // In the order of their interface indices, which depend on the namespace.
    const auto both = [&](const std::string &offload) {
        const std::string rest =
            ": offload " + offload + "\n" + able + "    SAs held: 1 of 65536\n";
        std::array names{std::string("va"), std::string("vlan7")};
        if (if_nametoindex("vlan7") < if_nametoindex("va"))
            std::swap(names[0], names[1]);
        return names[0] + rest + names[1] + rest;
    };
    EXPECT_EQ(tool({"dev", "show"}).out, both("on"));
    command("ethtool -K va udp-crypto-hw-tx-offload off");
    EXPECT_EQ(tool({"dev", "show"}).out, both("off"));
    // In another namespace than the device below, a VLAN device can do nothing.
    const NetNamespace other;
    command("ip link set vlan7 netns " + other.path());
    const InNamespace inside(other);
    EXPECT_EQ(json_of({"dev", "show", "vlan7"})[0].at("ciphers"), json::array());
    command("ip link del vlan7");
}

// With sadb-size=0,quic-ciphers=aes-128-gcm
TEST_F(Device, ShowTellsWhatItCannot) {
    if (variable("QUIC_TEST_ONE_CIPHER").empty())
        return; // in a guest of its own
    EXPECT_EQ(tool({"dev", "show", "va"}).out, "va: offload on\n"
                                               "    ciphers: aes-128-gcm\n"
                                               "    keys by: inline\n");
    const json shown = json_of({"dev", "show", "va"});
    EXPECT_EQ(shown[0].at("ciphers"), json({"aes-128-gcm"}));
    EXPECT_EQ(shown[0].at("forms"), json({"inline"}));
    EXPECT_EQ(shown[0].at("sa_max"), 0);
}

// An administrator's SA, used by a program of the user it names: in the device, and without a key
// in that program.
TEST_F(Device, ProtectsWhatAnUnprivilegedUserSends) {
    for (const Cipher cipher : kAllCiphers) {
        SCOPED_TRACE(name(cipher));
        const PacketKeys keys = keys_of_seed(cipher, 3);
        const std::uint32_t index =
            json_of({"sa", "add", "--uid", std::to_string(kUser), "--keys", "-"}, words(keys))
                .at("index");
        std::uint64_t pn = 0;
        const auto state = [&] {
            return json_of({"sa", "show", std::to_string(index)})[0].at("state");
        };
        const bool by_index = variable("QUIC_TEST_ONE_CIPHER").empty();
        const std::string expected = by_index                       ? "device"
                                     : cipher == Cipher::kAes128Gcm ? "inline"
                                                                    : "software";
        EXPECT_TRUE(eventually([&] {
            ++pn;
            EXPECT_EQ(as_user(kUser,
                              [&] {
                                  const UniqueFd sender = udp_socket(AF_INET);
                                  return send(sender.get(), make_packet(kShape, pn, 1184),
                                              Control().quic(pn, index, kShape.pn_offset()),
                                              &to_) == 1184
                                             ? 0
                                             : 1;
                              }),
                      0);
            EXPECT_EQ(receive(receiver_.get()),
                      protect(keys, make_packet(kShape, pn, 1184), kShape.pn_offset(), pn));
            return state() == expected;
        })) << state();
        if (by_index) {
            const std::string text = tool({"sa", "show", std::to_string(index)}).out;
            EXPECT_NE(text.find(" device dev va packets "), std::string::npos) << text;
        }
        EXPECT_EQ(tool({"sa", "del", std::to_string(index)}).status, 0);
        EXPECT_TRUE(eventually([&] { return installed() == 0; }));
    }
}

// With sadb-size=1048576, and with --all: as many SAs as QUIC_TEST_MANY says, from a file, all in
// the device; each protects a packet there with its own keys.
TEST_F(Device, HoldsManySas) {
    const std::size_t many = std::strtoul(variable("QUIC_TEST_MANY").c_str(), nullptr, 10);
    if (many == 0)
        return; // in a guest of its own
    const auto keys_of = [](std::size_t i) { return keys_of_seed(kAllCiphers[i % 4], i); };
    std::string batch;
    for (std::size_t i = 0; i < many; ++i)
        batch += words(keys_of(i)) + "\n";
    const json added = json_of({"sa", "add", "--quiet", "--uid", "0", "--batch", "-"}, batch);
    ASSERT_EQ(added.at("added"), many);
    const UniqueFd sender = udp_socket(AF_INET);
    const auto send_each = [&](std::uint64_t pn) {
        for (std::size_t i = 0; i < many; ++i) {
            const Bytes packet = make_packet(kShape, pn, 100);
            ASSERT_EQ(send(sender.get(), packet,
                           Control().quic(pn, added["sas"][i].at("index"), kShape.pn_offset()),
                           &to_),
                      100);
            const auto wire = receive(receiver_.get());
            ASSERT_TRUE(wire.has_value()) << i;
            ASSERT_EQ(*wire, protect(keys_of(i), packet, kShape.pn_offset(), pn)) << i;
            if (i % 1000 == 0)
                world_->expect_clean(true); // the listeners' buffers hold no more
        }
    };
    send_each(1);
    EXPECT_TRUE(eventually([&] { return installed() == many; }, std::chrono::minutes(5)))
        << installed();
    const std::uint64_t by_index = ethtool_statistics("va")["quic_dev_tx_index_packets"];
    send_each(2);
    EXPECT_EQ(ethtool_statistics("va")["quic_dev_tx_index_packets"] - by_index, many);
    const json shown = json_of({"dev", "show", "va"});
    EXPECT_EQ(shown[0].at("sa_count"), many);
    EXPECT_EQ(shown[0].at("sa_max"), 1048576);
    EXPECT_EQ(ethtool_statistics("va")["quic_sa_full"], 0U);
    EXPECT_EQ(json_of({"sa", "flush"}).at("deleted"), many);
    EXPECT_TRUE(eventually([&] { return installed() == 0; }, std::chrono::minutes(5)))
        << installed();
}

} // namespace
} // namespace quic_test
