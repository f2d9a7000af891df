// SPDX-License-Identifier: GPL-2.0
#include "path.h"

#include <cstdlib>
#include <memory>
#include <ostream>
#include <string>

#include <gtest/gtest.h>

#include "world.h"

namespace quic_test {

Path path() {
    if (std::getenv("QUIC_TEST_NIC") == nullptr)
        return Path::kSoftware;
    const char *form = std::getenv("QUIC_TEST_FORM");
    return form != nullptr && std::string(form) == "inline" ? Path::kInline : Path::kIndex;
}

namespace {

// One pair of hosts for all tests: the link takes its time to come up.
class Hosts : public testing::Environment {
  public:
    World &world() {
        if (!world_) {
            world_ = std::make_unique<World>(Wire::kConnectx);
            world_->stop_listening();
            // As long packets as fit on the loopback device, or nearly
            world_->a.command("ip link set va mtu 9000");
            world_->b.command("ip link set vb mtu 9000");
        }
        return *world_;
    }
    void TearDown() override {
        if (world_)
            world_->expect_clean();
        world_.reset();
    }

  private:
    std::unique_ptr<World> world_;
};

// GoogleTest deletes it.
Hosts *const hosts = static_cast<Hosts *>(testing::AddGlobalTestEnvironment(new Hosts));

Address far_address(Family family, std::uint16_t port) {
    switch (family) {
    case Family::kIpv4:
        return Address::v4("10.1.1.2", port);
    case Family::kIpv6:
        return Address::v6("fd01::2", port);
    case Family::kMapped:
        return Address::mapped("10.1.1.2", port);
    }
    return {};
}

} // namespace

Line::Line(Family family, bool connected) : connected_(connected) {
    if (path() == Path::kSoftware) {
        Loopback loopback(family, connected);
        sender_ = std::move(loopback.sender);
        receiver_ = std::move(loopback.receiver);
        to_ = loopback.to_address;
        return;
    }
    World &world = hosts->world();
    inside_.emplace(world.a);
    const Family receiver_family = family == Family::kMapped ? Family::kIpv4 : family;
    world.b.run([&] {
        receiver_ = udp_socket(socket_domain(receiver_family));
        set_option(receiver_.get(), SOL_SOCKET, SO_RCVBUFFORCE, 16 << 20);
        bind_to(receiver_.get(), far_address(receiver_family, 0));
    });
    to_ = far_address(family, Address::of_socket(receiver_.get()).port());
    sender_ = udp_socket(socket_domain(family));
    set_option(sender_.get(), SOL_SOCKET, SO_SNDBUFFORCE, 16 << 20);
    if (connected)
        connect_to(sender_.get(), to_);
}

std::uint32_t Line::add_sa(std::uint64_t cookie, const PacketKeys &keys) {
    const std::uint32_t sa = add_sa_index(sender(), cookie, keys);
    if (path() != Path::kIndex)
        return sa;
    // The device gets to know an SA by its first packet.
    constexpr std::uint64_t kFirst = std::uint64_t{1} << 40; // no number of a test
    const PacketShape shape{};
    EXPECT_TRUE(eventually([&] {
        const std::uint64_t pn = kFirst + sent_before_;
        const Bytes packet = make_packet(shape, pn, shape.min_size());
        EXPECT_EQ(send(sender(), packet, Control().quic(pn, sa, shape.pn_offset()), to()),
                  static_cast<ssize_t>(packet.size()));
        EXPECT_EQ(receive(receiver()), protect(keys, packet, shape.pn_offset(), pn));
        ++sent_before_;
        struct udp_crypto_sa_info info {};
        EXPECT_EQ(get_sa(sender(), cookie, &info), 0);
        return info.state == UDP_CRYPTO_SA_DEVICE;
    })) << "the SA never got into the device's database";
    return sa;
}

Line::DeviceCount Line::device_count() {
    if (path() == Path::kSoftware)
        return {};
    auto counters = ethtool_statistics("va");
    return {counters["quic_dev_tx_index_packets"], counters["quic_dev_tx_inline_packets"]};
}

} // namespace quic_test
