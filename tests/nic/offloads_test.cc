// SPDX-License-Identifier: GPL-2.0
//
// The mlx5 path next to the driver's other offloads: send queues that are set up for IPsec, TLS and
// MACsec, multi-packet descriptors, timestamps and the queue that PTP has for them, VLAN tags.
// Where each can change the descriptor of a QUIC packet, the wire shows whether it did. Runs where
// the device has all of them; QUIC_TEST_OFFLOADS says so.
#include <array>
#include <cstdlib>
#include <cstring>
#include <vector>

#include <gtest/gtest.h>
#include <linux/errqueue.h>
#include <linux/net_tstamp.h>
#include <linux/sockios.h>
#include <net/if.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#include "nic.h"

namespace quic_test {
namespace {

constexpr std::array kDestinations{"10.1.1.2", "fd01::2"};
// Of a PTP event message: what asks for a timestamp and goes there has a send queue of its own.
constexpr std::uint16_t kPtpEventPort = 319;

Address address_of(const std::string &host, std::uint16_t port = 0) {
    return host.find(':') == std::string::npos ? Address::v4(host, port) : Address::v6(host, port);
}

// The headers that the device wants in the descriptor, 0 for none: no multi-packet descriptors
// then.
unsigned min_inline() { return device_limit("QUIC_TEST_MIN_INLINE", 0); }

// Datagrams that nothing protects, between those that are.
class Others {
  public:
    Others(const World &world, const std::string &to) : to_(address_of(to)) {
        world.b.run([&] {
            receiver_ = udp_socket(to_.family());
            bind_to(receiver_.get(), to_);
            to_.set_port(Address::of_socket(receiver_.get()).port());
        });
        world.a.run([&] { sender_ = udp_socket(to_.family()); });
    }
    void send_one() {
        const Bytes data(60, 0x2e);
        EXPECT_EQ(send(sender_.get(), data, Control(), &to_), 60);
        ++sent_;
    }
    void expect_all_arrive() {
        for (; sent_ > 0; --sent_)
            ASSERT_TRUE(receive(receiver_.get()).has_value()) << sent_ << " are missing";
    }
    unsigned sent() const { return sent_; }

  private:
    Address to_;
    UniqueFd receiver_;
    UniqueFd sender_;
    unsigned sent_ = 0;
};

// What the device was given by this flow, and that no descriptor was wrong.
class Judge {
  public:
    explicit Judge(const World &world)
        : world_(world), index_(counter(world, "quic_dev_tx_index_packets")),
          inline_(counter(world, "quic_dev_tx_inline_packets")) {}
    void expect(std::uint64_t index_packets, std::uint64_t inline_packets) const {
        EXPECT_EQ(counter(world_, "quic_dev_tx_index_packets") - index_, index_packets);
        EXPECT_EQ(counter(world_, "quic_dev_tx_inline_packets") - inline_, inline_packets);
        EXPECT_EQ(counter(world_, "quic_dev_wqe_errors"), 0U);
        EXPECT_EQ(counter(world_, "quic_dev_drop_headers"), 0U);
        EXPECT_EQ(counter(world_, "tx_quic_dropped"), 0U);
        EXPECT_EQ(counter(world_, "tx_cqe_err"), 0U);
        EXPECT_EQ(world_.count_a("TxSoftware"), 0U);
    }

  private:
    const World &world_;
    std::uint64_t index_;
    std::uint64_t inline_;
};

// Lets packets gather in front of the device, so that the driver gets them in a row: then only does
// it put several into one descriptor.
void gather_packets(const World &world) {
    world.a.command("unshare --mount sh -ec 'mount -t sysfs sysfs /sys; "
                    "for queue in /sys/class/net/va/queues/tx-*/byte_queue_limits; do "
                    "echo 500000 >$queue/limit_min; done'\n"
                    "tc qdisc replace dev va root handle 1: mq\n"
                    "tc class show dev va | sed -n 's/^class mq \\(1:[0-9a-f]*\\).*/qdisc replace "
                    "dev va parent "
                    "\\1 netem slot 20ms 20ms/p' | tc -batch -");
}

class Offloads : public testing::Test {
  protected:
    void SetUp() override {
        if (std::getenv("QUIC_TEST_OFFLOADS") == nullptr)
            GTEST_SKIP() << "in a guest of its own";
    }
};

TEST_F(Offloads, TheQueuesAreSetUpForThem) {
    World world(Wire::kConnectx);
    const std::string features = world.a.command("ethtool -k va");
    for (const char *feature : {"esp-hw-offload: on", "tls-hw-tx-offload: on",
                                "macsec-hw-offload: on", "udp-crypto-hw-tx-offload: on"})
        EXPECT_NE(features.find(feature), std::string::npos) << feature;
    const std::string flags = world.a.command("ethtool --show-priv-flags va");
    EXPECT_TRUE(std::regex_search(flags, std::regex("skb_tx_mpwqe *: on"))) << flags;
    const CommandResult health =
        in_first_namespace("devlink health show | sed -n 's|^\\(auxiliary/[^:]*\\):$|\\1|p' |"
                           "sort -u | while read -r port; do "
                           "devlink health diagnose $port reporter tx; done");
    EXPECT_TRUE(std::regex_search(health.output, std::regex("ipsec: *(1|true)"))) << health.output;
}

// Single packets of every length that a multi-packet descriptor would take, among others that it
// does take.
TEST_F(Offloads, SinglePacketsAmongOthers) {
    for (const bool multi_packet : {true, false})
        for (const char *to : kDestinations) {
            SCOPED_TRACE(to);
            World world(Wire::kConnectx);
            world.a.command(std::string("ethtool --set-priv-flags va skb_tx_mpwqe ") +
                            (multi_packet ? "on" : "off"));
            Flow flow(world.a, world.b, address_of(to));
            Others others(world, to);
            settle(flow);
            flow.expect_all_arrive();
            gather_packets(world);
            const std::uint64_t more = counter(world, "tx_xmit_more");
            const std::uint64_t shared = counter(world, "tx_mpwqe_pkts");
            const Judge judge(world);
            unsigned each = 0;
            for (const std::size_t size :
                 {Flow::shape().min_size(), std::size_t{64}, std::size_t{200}, std::size_t{1184}}) {
                flow.set_size(size);
                for (unsigned i = 0; i < 4; ++i, ++each) {
                    others.send_one();
                    others.send_one();
                    EXPECT_GT(flow.send_form({}), 0);
                    others.send_one();
                    EXPECT_GT(flow.send_form({.inline_keys = true}), 0);
                }
            }
            flow.expect_all_arrive();
            others.expect_all_arrive();
            judge.expect(each, each);
            EXPECT_GT(counter(world, "tx_xmit_more"), more) << "the driver got each packet alone";
            if (multi_packet && min_inline() == 0)
                EXPECT_GE(counter(world, "tx_mpwqe_pkts") - shared, 3 * each);
            else
                EXPECT_EQ(counter(world, "tx_mpwqe_pkts"), shared);
            world.expect_clean();
        }
}

TEST_F(Offloads, Batches) {
    for (const char *to : kDestinations) {
        World world(Wire::kConnectx);
        Flow flow(world.a, world.b, address_of(to));
        settle(flow);
        flow.expect_all_arrive();
        const std::uint64_t before = flow.sent();
        const Judge judge(world);
        for (const std::size_t size : {std::size_t{100}, std::size_t{1184}}) {
            flow.set_size(size);
            flow.send_all_forms(1);
        }
        flow.expect_all_arrive();
        constexpr std::uint64_t kInline = 2 * (1 + 3); // of two rounds of all forms
        judge.expect(flow.sent() - before - kInline, kInline);
        world.expect_clean();
    }
}

TEST_F(Offloads, VlanTags) {
    World world(Wire::kConnectx);
    for (const auto &[ns, device, address] :
         {std::tuple{&world.a, "va", "10.1.7.1/24"}, std::tuple{&world.b, "vb", "10.1.7.2/24"}})
        ns->command(std::string("ip link add link ") + device +
                    " name vlan7 type vlan id 7; ip link set vlan7 up; ip addr add " + address +
                    " dev vlan7");
    Flow flow(world.a, world.b, Address::v4("10.1.7.2", 0));
    settle(flow);
    flow.expect_all_arrive();
    const std::uint64_t tagged = counter(world, "tx_added_vlan_packets");
    const std::uint64_t before = flow.sent();
    const Judge judge(world);
    for (const std::size_t size : {Flow::shape().min_size(), std::size_t{1184}}) {
        flow.set_size(size);
        flow.send_all_forms(1);
    }
    flow.expect_all_arrive();
    constexpr std::uint64_t kInline = 2 * (1 + 3);
    judge.expect(flow.sent() - before - kInline, kInline);
    EXPECT_GT(counter(world, "tx_added_vlan_packets"), tagged);
}

void switch_timestamps_on(const World &world) {
    world.a.run([] {
        const UniqueFd socket = udp_socket(AF_INET);
        struct hwtstamp_config config {};
        config.tx_type = HWTSTAMP_TX_ON;
        struct ifreq request {};
        std::strcpy(request.ifr_name, "va");
        request.ifr_data = reinterpret_cast<char *>(&config);
        ASSERT_EQ(::ioctl(socket.get(), SIOCSHWTSTAMP, &request), 0) << std::strerror(errno);
    });
}

// The hardware's time of a send, from the socket's error queue; 0 when there is none.
std::int64_t hardware_time(int fd) {
    std::int64_t time = 0;
    eventually([&] {
        std::array<char, 512> control{};
        struct msghdr message {};
        message.msg_control = control.data();
        message.msg_controllen = control.size();
        if (::recvmsg(fd, &message, MSG_ERRQUEUE | MSG_DONTWAIT) < 0)
            return false;
        for (cmsghdr *c = CMSG_FIRSTHDR(&message); c != nullptr; c = CMSG_NXTHDR(&message, c))
            if (c->cmsg_level == SOL_SOCKET && c->cmsg_type == SO_TIMESTAMPING) {
                struct scm_timestamping stamps {};
                std::memcpy(&stamps, CMSG_DATA(c), sizeof(stamps));
                time = stamps.ts[2].tv_sec * std::int64_t{1'000'000'000} + stamps.ts[2].tv_nsec;
            }
        return time != 0;
    });
    return time;
}

// Each send is timed, and is what it should be: by the queue of the channel, then by the one that
// PTP has, whose descriptors carry an identification of the timestamp too.
TEST_F(Offloads, Timestamps) {
    for (const bool ptp_queue : {false, true})
        for (const char *to : kDestinations) {
            SCOPED_TRACE(std::string(to) + (ptp_queue ? ", PTP's queue" : ""));
            World world(Wire::kConnectx);
            switch_timestamps_on(world);
            world.a.command(std::string("ethtool --set-priv-flags va tx_port_ts ") +
                            (ptp_queue ? "on" : "off"));
            Flow flow(world.a, world.b, address_of(to, ptp_queue ? kPtpEventPort : 0));
            settle(flow);
            flow.expect_all_arrive();
            set_option(flow.sender(), SOL_SOCKET, SO_TIMESTAMPING,
                       SOF_TIMESTAMPING_TX_HARDWARE | SOF_TIMESTAMPING_RAW_HARDWARE |
                           SOF_TIMESTAMPING_OPT_TSONLY);
            const std::uint64_t by_ptp = counter(world, "ptp_cq0_cqe");
            const std::uint64_t before = flow.sent();
            const Judge judge(world);
            unsigned sends = 0;
            std::int64_t last = 0;
            for (const std::size_t size : {Flow::shape().min_size(), std::size_t{1184}}) {
                flow.set_size(size);
                for (const Flow::Form &form :
                     {Flow::Form{}, Flow::Form{.inline_keys = true}, Flow::Form{.packets = 5},
                      Flow::Form{.inline_keys = true, .packets = 3}}) {
                    EXPECT_GT(flow.send_form(form), 0);
                    ++sends;
                    const std::int64_t time = hardware_time(flow.sender());
                    EXPECT_GT(time, last);
                    last = time;
                }
            }
            flow.expect_all_arrive();
            constexpr std::uint64_t kInline = 2 * (1 + 3);
            judge.expect(flow.sent() - before - kInline, kInline);
            EXPECT_EQ(counter(world, "ptp_cq0_cqe") - by_ptp, ptp_queue ? sends : 0);
            world.expect_clean();
            world.a.command("ethtool --set-priv-flags va tx_port_ts off");
        }
}

// A MACsec device has no such feature, whatever is below it.
TEST_F(Offloads, MacsecOnTopTakesSoftware) {
    World world(Wire::kConnectx);
    const auto make = [](const NetNamespace &ns, const char *device, const std::string &peer,
                         const char *address) {
        ns.command(std::string("ip link add link ") + device +
                   " macsec7 type macsec encrypt on\n"
                   "ip macsec add macsec7 tx sa 0 pn 1 on key 01 000102030405060708090a0b0c0d0e0f\n"
                   "ip macsec add macsec7 rx port 1 address " +
                   peer + "\nip macsec add macsec7 rx port 1 address " + peer +
                   " sa 0 pn 1 on key 01 000102030405060708090a0b0c0d0e0f\n"
                   "ip link set macsec7 up\nip addr add " +
                   address + " dev macsec7");
    };
    const std::string mac_a = World::mac(world.a, "va");
    make(world.a, "va", World::mac(world.b, "vb"), "10.1.7.1/24");
    make(world.b, "vb", mac_a, "10.1.7.2/24");
    Flow flow(world.a, world.b, Address::v4("10.1.7.2", 0));
    flow.send_all_forms(1);
    flow.expect_all_arrive();
    EXPECT_EQ(world.count_a("TxSoftware"), flow.sent());
    EXPECT_EQ(counter(world, "tx_quic_dropped"), 0U);
}

// The model has no room for keys of the others: the driver says so, and software does it. ESP
// around QUIC is made of what is ciphertext already.
TEST_F(Offloads, SoftwareDoesWhatTheDeviceHasNoKeysFor) {
    if (std::getenv("QUIC_TEST_REFUSALS") == nullptr)
        return; // the driver complains
    World world(Wire::kConnectx);
    const std::string sa = "ip xfrm state add src 10.1.1.1 dst 10.1.1.2 proto esp spi 7 reqid 7 "
                           "mode transport aead 'rfc4106(gcm(aes))' "
                           "0x000102030405060708090a0b0c0d0e0f10111213 128";
    const InNamespace inside(world.a);
    const CommandResult refused = try_command(sa + " offload crypto dev va dir out");
    EXPECT_NE(refused.status, 0);
    EXPECT_NE(refused.output.find("offload"), std::string::npos) << refused.output;
    EXPECT_NE(try_command("ip link add link va macsec7 type macsec encrypt on offload mac && "
                          "ip macsec add macsec7 tx sa 0 pn 1 on key 00 "
                          "000102030405060708090a0b0c0d0e0f")
                  .status,
              0);
    const std::string policy = "ip xfrm policy add src 10.1.1.1 dst 10.1.1.2 dir %s "
                               "tmpl proto esp reqid 7 mode transport";
    const auto policy_of = [&](const char *direction) {
        std::string text = policy;
        return text.replace(text.find("%s"), 2, direction);
    };
    world.a.command(sa);
    world.a.command(policy_of("out"));
    world.b.command(sa);
    world.b.command(policy_of("in"));
    Flow flow(world.a, world.b, Address::v4("10.1.1.2", 0));
    flow.send_all_forms(1);
    flow.expect_all_arrive();
    EXPECT_EQ(world.count_a("TxSoftware"), flow.sent());
}

} // namespace
} // namespace quic_test
