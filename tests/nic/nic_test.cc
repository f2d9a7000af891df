// SPDX-License-Identifier: GPL-2.0
//
// The mlx5 path: packets that the device protects from its own database, from keys in the
// descriptor, or leaves to software; and what happens to them when the device, the driver or the SA
// changes under traffic. Runs where tests/nic/guest has made two ConnectX devices.
#include <atomic>
#include <cstdlib>
#include <map>
#include <thread>

#include <fcntl.h>
#include <gtest/gtest.h>
#include <linux/udp_crypto.h>
#include <net/if.h>
#include <signal.h>
#include <sys/wait.h>

#include "guest_qmp.h"
#include "guest_xdp.h"
#include "nic.h"

namespace quic_test {
namespace {

unsigned index_of(const NetNamespace &ns, const char *device) {
    const InNamespace inside(ns);
    return ::if_nametoindex(device);
}

// Whether the next packets of a flow all arrive, whatever was lost before.
void expect_flows_on(Flow &flow) {
    const std::size_t arrived_before = [&] {
        while (flow.take_one(std::chrono::milliseconds(100)))
            ;
        return flow.arrived();
    }();
    const std::uint64_t sent_before = flow.sent();
    flow.send_all_forms(1);
    const std::uint64_t sent = flow.sent() - sent_before;
    EXPECT_GT(sent, 0U);
    while (flow.arrived() < arrived_before + sent)
        ASSERT_TRUE(flow.take_one()) << flow.arrived() - arrived_before << " of " << sent;
}

// A flow that goes on in a thread of its own. What it sends may be refused or lost while devices
// change, but never arrive damaged or in plaintext.
class Traffic {
  public:
    // @pause: after each send, for events that take long
    explicit Traffic(Flow &flow, std::chrono::milliseconds pause = {})
        : thread_([this, &flow, pause] {
              const Flow::Form forms[] = {
                  {}, {.packets = 7}, {.tag_room = true, .packets = 3}, {.inline_keys = true}};
              for (unsigned i = 0; !stop_; ++i) {
                  if (flow.send_form(forms[i % std::size(forms)]) < 0)
                      std::this_thread::sleep_for(std::chrono::milliseconds(5));
                  else if (pause.count() != 0)
                      std::this_thread::sleep_for(pause);
                  ++sends_;
              }
          }) {}
    ~Traffic() { stop(); }
    Traffic(const Traffic &) = delete;
    Traffic &operator=(const Traffic &) = delete;

    // Until some more sends have been made, so that each event has traffic on both sides of it.
    void go_on() const {
        const unsigned until = sends_ + 20;
        while (sends_ < until)
            std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    void stop() {
        stop_ = true;
        if (thread_.joinable())
            thread_.join();
    }

  private:
    std::atomic<bool> stop_ = false;
    std::atomic<unsigned> sends_ = 0;
    std::thread thread_;
};

class Ciphers : public testing::TestWithParam<Cipher> {};
INSTANTIATE_TEST_SUITE_P(All, Ciphers, testing::ValuesIn(kAllCiphers),
                         [](const auto &test) { return std::string(name(test.param)); });

// --- the three paths --------------------------------------------------------------------------

TEST_P(Ciphers, InlineFirstThenFromTheDatabase) {
    for (const char *to : {"10.1.1.2", "fd01::2"}) {
        World world(Wire::kConnectx);
        const Address address = std::string(to).find(':') == std::string::npos ? Address::v4(to, 0)
                                                                               : Address::v6(to, 0);
        Flow flow(world.a, world.b, address, GetParam());
        EXPECT_EQ(state_of(flow.sender(), 1), std::uint32_t{UDP_CRYPTO_SA_SOFTWARE});
        ASSERT_GT(flow.send_form({}), 0);
        settle(flow);
        std::uint32_t ifindex = 0;
        EXPECT_EQ(state_of(flow.sender(), 1, &ifindex), std::uint32_t{UDP_CRYPTO_SA_DEVICE});
        EXPECT_EQ(ifindex, index_of(world.a, "va"));

        const std::uint64_t sent = flow.sent();
        const std::uint64_t by_index = counter(world, "tx_quic_index_packets");
        const std::uint64_t by_inline = counter(world, "tx_quic_inline_packets");
        const std::uint64_t dev_index = counter(world, "quic_dev_tx_index_packets");
        const std::uint64_t dev_inline = counter(world, "quic_dev_tx_inline_packets");
        flow.send_all_forms(2);
        flow.expect_all_arrive();
        constexpr std::uint64_t kInline = 2 * (1 + 3); // of two rounds of all forms
        const std::uint64_t rest = flow.sent() - sent - kInline;
        EXPECT_EQ(counter(world, "tx_quic_index_packets") - by_index, rest);
        EXPECT_EQ(counter(world, "tx_quic_inline_packets") - by_inline, kInline);
        EXPECT_EQ(counter(world, "quic_dev_tx_index_packets") - dev_index, rest);
        EXPECT_EQ(counter(world, "quic_dev_tx_inline_packets") - dev_inline, kInline);
        for (const char *name : {"quic_index_packets", "quic_inline_packets", "quic_bytes"})
            EXPECT_EQ(queue_counters(world, name), counter(world, std::string("tx_") + name))
                << name;
        EXPECT_EQ(counter(world, "tx_quic_bytes"), counter(world, "quic_dev_tx_bytes"));
        EXPECT_EQ(world.count_a("TxSoftware"), 0U);
        EXPECT_EQ(counter(world, "tx_quic_dropped"), 0U);
        world.expect_clean();
    }
}

// The same input gives the same bytes, whoever does the work; and they are those of OpenSSL.
TEST_P(Ciphers, SameBytesFromSoftwareInlineAndDatabase) {
    World world(Wire::kConnectx);
    Flow flow(world.a, world.b, Address::v4("10.1.1.2", 0), GetParam());
    settle(flow);
    flow.expect_all_arrive();
    struct Step {
        const char *counter;
        bool feature;
        bool inline_keys;
    };
    for (const Step &step :
         {Step{"", false, false}, Step{"", false, true}, Step{"tx_quic_inline_packets", true, true},
          Step{"tx_quic_index_packets", true, false}}) {
        world.a.command(std::string("ethtool -K va udp-crypto-hw-tx-offload ") +
                        (step.feature ? "on" : "off"));
        const std::uint64_t before = step.counter[0] ? counter(world, step.counter) : 0;
        const std::uint64_t software = world.count_a("TxSoftware");
        unsigned total = 0;
        for (unsigned pn_length : {1U, 2U, 3U, 4U})
            for (const unsigned packets : {1U, 4U})
                for (const bool long_header : {false, true}) {
                    const PacketShape shape{.long_header = long_header,
                                            .cid_length = 3 + pn_length,
                                            .pn_length = pn_length,
                                            .token_length = long_header ? 17U : 0U};
                    const std::size_t size = shape.min_size() + 37 * pn_length;
                    const std::uint64_t pn = 0x3fffffff00000000 + 0xfe * pn_length;
                    std::vector<Bytes> plain;
                    for (unsigned i = 0; i < packets; ++i)
                        plain.push_back(make_packet(shape, pn + i, size));
                    Control control;
                    if (step.inline_keys)
                        control.quic_inline(pn, flow.keys(), shape.pn_offset());
                    else
                        control.quic(pn, flow.sa(), shape.pn_offset());
                    if (packets > 1)
                        control.gso_size(static_cast<std::uint16_t>(size + UDP_QUIC_TAG_LEN));
                    ASSERT_GT(send(flow.sender(), join_packets(plain), control, &flow.to()), 0);
                    for (unsigned i = 0; i < packets; ++i, ++total) {
                        const auto wire = receive(flow.receiver());
                        ASSERT_TRUE(wire.has_value());
                        ASSERT_EQ(to_hex(*wire), to_hex(protect(flow.keys(), plain[i],
                                                                shape.pn_offset(), pn + i)));
                    }
                }
        if (step.counter[0]) {
            EXPECT_EQ(counter(world, step.counter) - before, total);
        }
        EXPECT_EQ(world.count_a("TxSoftware") - software, step.feature ? 0 : total);
    }
    world.expect_clean();
}

TEST(Offload, IsOnFromTheStartAndCanBeSwitched) {
    World world(Wire::kConnectx);
    EXPECT_NE(world.a.command("ethtool -k va").find("udp-crypto-hw-tx-offload: on"),
              std::string::npos);
    world.a.command("ethtool -K va udp-crypto-hw-tx-offload off");
    Flow flow(world.a, world.b, Address::v4("10.1.1.2", 0));
    flow.send_all_forms(1);
    flow.expect_all_arrive();
    EXPECT_EQ(world.count_a("TxDevice"), 0U);
    EXPECT_EQ(world.count_a("TxSoftware"), flow.sent());
    EXPECT_EQ(state_of(flow.sender(), 1), std::uint32_t{UDP_CRYPTO_SA_SOFTWARE});
}

// mlx5 takes batches by NETIF_F_GSO_PARTIAL: those whose last packet is as long as the others in
// one piece, others in two. Without it the stack cuts them. tests/nic/guest looks at lengths and
// checksums on the wire.
TEST(Offload, BatchesWithAndWithoutGsoPartial) {
    World world(Wire::kConnectx);
    for (const auto &[ns, device, address] :
         {std::tuple{&world.a, "va", "10.1.7.1/24"}, std::tuple{&world.b, "vb", "10.1.7.2/24"}})
        ns->command(std::string("ip link add link ") + device +
                    " name vlan7 type vlan id 7; ip link set vlan7 up; ip addr add " + address +
                    " dev vlan7");
    world.listen(); // to the new devices too
    const auto batches = [&](const char *to) {
        const Address address = std::string(to).find(':') == std::string::npos ? Address::v4(to, 0)
                                                                               : Address::v6(to, 0);
        Flow flow(world.a, world.b, address);
        settle(flow);
        flow.set_size(984); // 64 of them with their tags are a datagram
        for (const unsigned packets : {2U, 40U, 64U})
            for (const bool last_shorter : {false, true})
                for (const bool inline_keys : {false, true})
                    EXPECT_GT(flow.send_form({.inline_keys = inline_keys,
                                              .packets = packets,
                                              .last_shorter = last_shorter}),
                              0);
        flow.expect_all_arrive();
    };
    for (const char *state : {"off", "on"}) {
        SCOPED_TRACE(state);
        world.a.command(std::string("ethtool -K va tx-gso-partial ") + state);
        const std::uint64_t descriptors = counter(world, "tx_tso_packets");
        for (const char *to : {"10.1.1.2", "fd01::2", "10.1.7.2"})
            batches(to);
        // Whether the device was given batches at all
        if (std::string(state) == "on")
            EXPECT_EQ(counter(world, "tx_tso_packets") - descriptors, 3U * 10)
                << "of two packets the shorter one is alone";
        else
            EXPECT_EQ(counter(world, "tx_tso_packets") - descriptors, 0U);
    }
    EXPECT_EQ(world.count_a("TxSoftware"), 0U);
    EXPECT_EQ(counter(world, "tx_quic_dropped"), 0U);
    EXPECT_EQ(counter(world, "quic_dev_wqe_errors"), 0U);
    world.expect_clean();
}

// --- life cycle under traffic -----------------------------------------------------------------

struct Event {
    const char *name;
    // Each is one script in host a; the flow is checked after each.
    std::vector<const char *> steps;
    bool stays_in_device = true;
};
std::ostream &operator<<(std::ostream &out, const Event &event) { return out << event.name; }

class Events : public testing::TestWithParam<Event> {};

TEST_P(Events, UnderTraffic) {
    World world(Wire::kConnectx);
    Flow flow(world.a, world.b, Address::v4("10.1.1.2", 0));
    settle(flow);
    for (const char *step : GetParam().steps) {
        SCOPED_TRACE(step);
        Traffic traffic(flow);
        traffic.go_on();
        world.a.command(step);
        traffic.go_on();
        traffic.stop();
        expect_flows_on(flow);
        if (testing::Test::HasFatalFailure())
            return;
    }
    settle(flow);
    EXPECT_EQ(flow.duplicates(), 0U);
    EXPECT_EQ(counter(world, "quic_dev_wqe_errors"), 0U);
    EXPECT_EQ(counter(world, "tx_cqe_err"), 0U);
    world.expect_clean();
}

const Event kEvents[] = {
    {"Feature",
     {"ethtool -K va udp-crypto-hw-tx-offload off", "ethtool -K va udp-crypto-hw-tx-offload on"}},
    {"Link", {"ip link set va down; ip link set va up", "ip link set va down; ip link set va up"}},
    {"Mtu", {"ip link set va mtu 9000", "ip link set va mtu 1400", "ip link set va mtu 1500"}},
    {"Rings", {"ethtool -G va tx 256", "ethtool -G va tx 2048", "ethtool -G va tx 1024"}},
    {"Channels", {"ethtool -L va combined 1", "ethtool -L va combined 2"}},
    {"MultiPacketDescriptors",
     {"ethtool --set-priv-flags va skb_tx_mpwqe off",
      "ethtool --set-priv-flags va skb_tx_mpwqe on"}},
    {"Segmentation",
     {"ethtool -K va tx-udp-segmentation off", "ethtool -K va tx-udp-segmentation on"}},
};
INSTANTIATE_TEST_SUITE_P(All, Events, testing::ValuesIn(kEvents),
                         [](const auto &test) { return std::string(test.param.name); });

// --- the device goes and comes back ------------------------------------------------------------

void inject(const std::string &fault) {
    std::string error;
    ASSERT_TRUE(connectx::guest::qmp().connected()) << "no virtio port named qmp";
    ASSERT_TRUE(connectx::guest::qmp().fault("nic0", fault, &error)) << fault << ": " << error;
}

// What a test has armed does not outlive it.
struct Disarm {
    Disarm() = default;
    Disarm(const Disarm &) = delete;
    Disarm &operator=(const Disarm &) = delete;
    ~Disarm() { connectx::guest::qmp().fault("nic0", "none"); }
};

struct Outage {
    const char *name;
    // What makes the driver take its net device away and make another; @pci names the device.
    void (*cause)(const std::string &pci);
};
std::ostream &operator<<(std::ostream &out, const Outage &outage) { return out << outage.name; }

// The device leaves the machine, as somebody pulls it out, and another like it comes.
void unplug_and_plug(const std::string &pci) {
    auto &qmp = connectx::guest::qmp();
    const auto good = [](const std::string &reply) {
        return reply.find("\"return\"") != std::string::npos;
    };
    std::string reply = qmp.execute(R"({"execute":"device_del","arguments":{"id":"nic0"}})");
    ASSERT_TRUE(good(reply)) << reply;
    // Until the guest has let it go QEMU shows it, and answers questions about it.
    ASSERT_TRUE(eventually([&] { return !good(qmp.model_state("nic0")); }, std::chrono::minutes(3)))
        << "still there";
    EXPECT_NE(::access(("/sys/bus/pci/devices/" + pci).c_str(), F_OK), 0);
    reply = qmp.execute(R"({"execute":"device_add","arguments":{"driver":"connectx","id":"nic0",)"
                        R"("bus":"port0","netdev":"wire0","mac":"02:00:00:00:00:01"}})");
    ASSERT_TRUE(good(reply)) << reply;
}

const Outage kOutages[] = {
    {"UnbindAndBind",
     [](const std::string &pci) {
         write_file("/sys/bus/pci/drivers/mlx5_core/unbind", pci);
         write_file("/sys/bus/pci/drivers/mlx5_core/bind", pci);
     }},
    {"DevlinkReload",
     [](const std::string &pci) {
         const CommandResult result = in_first_namespace("devlink dev reload pci/" + pci);
         EXPECT_EQ(result.status, 0) << result.output;
     }},
    {"FatalHealth", [](const std::string &) { inject("health,syndrome=0x1,rfr=1,severity=2"); }},
    {"FirmwareReset", [](const std::string &) { inject("reset"); }},
    {"FunctionLevelReset",
     [](const std::string &pci) { write_file("/sys/bus/pci/devices/" + pci + "/reset", "1"); }},
    {"RemoveAndRescan",
     [](const std::string &pci) {
         write_file("/sys/bus/pci/devices/" + pci + "/remove", "1");
         write_file("/sys/bus/pci/rescan", "1");
     }},
    {"UnplugAndPlug", unplug_and_plug},
};

class Recovery : public testing::TestWithParam<Outage> {};
INSTANTIATE_TEST_SUITE_P(All, Recovery, testing::ValuesIn(kOutages),
                         [](const auto &test) { return std::string(test.param.name); });

// SAs beside that of a flow, on the same socket and with each cipher.
class OtherSas {
  public:
    OtherSas(Flow &flow, std::uint64_t first_cookie, unsigned count) : flow_(flow) {
        for (std::uint64_t cookie = first_cookie; cookie < first_cookie + count; ++cookie) {
            const PacketKeys keys = keys_of_seed(kAllCiphers[cookie % 4], cookie);
            sas_.push_back({add_sa_index(flow.sender(), cookie, keys), keys});
        }
    }
    std::size_t size() const { return sas_.size(); }
    // A packet with each; it arrives as OpenSSL protects it. Packets of the flow may be in between.
    void send_each() {
        for (const auto &[index, keys] : sas_) {
            const Bytes packet = make_packet(Flow::shape(), ++pn_, 1184);
            ASSERT_EQ(quic_test::send(flow_.sender(), packet,
                                      Control().quic(pn_, index, Flow::shape().pn_offset()),
                                      &flow_.to()),
                      1184);
            const Bytes expected = protect(keys, packet, Flow::shape().pn_offset(), pn_);
            for (;;) {
                const auto wire = receive(flow_.receiver());
                ASSERT_TRUE(wire.has_value()) << "SA " << index;
                if (*wire == expected)
                    break;
                ASSERT_TRUE(flow_.is_of_this_flow(*wire)) << "SA " << index;
            }
        }
    }

  private:
    struct OtherSa {
        std::uint32_t index;
        PacketKeys keys;
    };
    Flow &flow_;
    std::vector<OtherSa> sas_;
    std::uint64_t pn_ = 0;
};

bool has_carrier(const NetNamespace &ns, const std::string &device) {
    return ns.command("ip -br link show " + device).find("LOWER_UP") != std::string::npos;
}

// The traffic goes on by another way, in software, while the device is away; and when it is back,
// each SA gets there again as it is used.
TEST_P(Recovery, PutsTheSasBack) {
    const Disarm disarm;
    World world(Wire::kConnectx);
    world.a.command("ip link add wa type veth peer name wb netns " + world.b.path() +
                    "; ip link set wa up; ip addr add 10.1.5.1/24 dev wa");
    world.b.command("ip link set wb up; ip addr add 10.1.5.2/24 dev wb; "
                    "ip addr add 10.1.9.9/32 dev lo");
    ASSERT_TRUE(eventually([&] { return has_carrier(world.a, "wa"); }));
    const std::string direct = "ip route add 10.1.9.9 via 10.1.1.2 dev va metric 10";
    world.a.command(direct + "; ip route add 10.1.9.9 via 10.1.5.2 dev wa metric 100");
    world.listen();
    std::string pci = world.a.command("ethtool -i va | sed -n 's/^bus-info: //p'");
    pci.pop_back();
    // Twenty minutes between two recoveries otherwise.
    in_first_namespace("devlink health set pci/" + pci + " reporter fw_fatal grace_period 0");

    Flow flow(world.a, world.b, Address::v4("10.1.9.9", 0));
    settle(flow);
    OtherSas others(flow, 100, 40);
    const auto all_installed = [&] {
        return counter(world, "quic_sa_installed") == others.size() + 1;
    };
    others.send_each();
    EXPECT_TRUE(eventually(all_installed));
    flow.expect_all_arrive();
    EXPECT_EQ(world.count_a("TxSoftware"), 0U);
    {
        Traffic traffic(flow, std::chrono::milliseconds(5));
        traffic.go_on();
        GetParam().cause(pci);
        // The driver makes its new net device where its devlink instance is.
        EXPECT_TRUE(eventually(
            [&] { return in_first_namespace("ip link show eth0 >/dev/null").status == 0; },
            std::chrono::minutes(5)));
        const std::uint64_t software = world.count_a("TxSoftware");
        traffic.go_on();
        EXPECT_GT(world.count_a("TxSoftware"), software) << "no traffic while the device is away";
        EXPECT_EQ(state_of(flow.sender(), 1), std::uint32_t{UDP_CRYPTO_SA_SOFTWARE});
        world.expect_clean();

        const CommandResult moved =
            in_first_namespace("ip link set eth0 name va netns " + world.a.path());
        ASSERT_EQ(moved.status, 0) << moved.output;
        world.listen(); // another device whose plaintext is not judged
        world.a.command("ip addr add 10.1.1.1/24 dev va; ip link set va up; " + direct);
        traffic.go_on();
    }
    EXPECT_TRUE(eventually([&] { return has_carrier(world.a, "va"); }));
    expect_flows_on(flow);
    settle(flow);
    others.send_each();
    EXPECT_TRUE(eventually(all_installed)) << counter(world, "quic_sa_installed");
    const std::uint64_t by_index = counter(world, "quic_dev_tx_index_packets");
    const std::uint64_t software = world.count_a("TxSoftware");
    others.send_each();
    EXPECT_GE(counter(world, "quic_dev_tx_index_packets"), by_index + others.size());
    EXPECT_EQ(world.count_a("TxSoftware"), software);
    EXPECT_EQ(counter(world, "quic_sa_created"), others.size() + 1);
    for (const char *none : {"quic_sa_failed", "quic_dev_drop_stale_sa", "quic_dev_wqe_errors"})
        EXPECT_EQ(counter(world, none), 0U) << none;
    world.expect_clean();
}

// --- faults that the net device survives -------------------------------------------------------

TEST(Faults, SendErrorUnderTraffic) {
    const Disarm disarm;
    World world(Wire::kConnectx);
    Flow flow(world.a, world.b, Address::v4("10.1.1.2", 0));
    settle(flow);
    OtherSas others(flow, 100, 8);
    const std::uint64_t destroyed = counter(world, "quic_sa_destroyed");
    others.send_each();
    for (unsigned round = 0; round < 3; ++round) {
        const std::uint64_t recovered = counter(world, "tx_recover");
        Traffic traffic(flow, std::chrono::milliseconds(1));
        traffic.go_on();
        inject("send-error,count=1");
        EXPECT_TRUE(eventually([&] { return counter(world, "tx_recover") > recovered; }));
        traffic.go_on();
        traffic.stop();
        expect_flows_on(flow);
    }
    others.send_each();
    EXPECT_EQ(flow.duplicates(), 0U);
    EXPECT_EQ(counter(world, "quic_sa_installed"), 9U);
    EXPECT_EQ(counter(world, "quic_sa_destroyed"), destroyed)
        << "the SAs are the device's, not a queue's";
    EXPECT_EQ(state_of(flow.sender(), 1), std::uint32_t{UDP_CRYPTO_SA_DEVICE});
    EXPECT_EQ(world.count_a("TxSoftware"), 0U);
    world.expect_clean();
}

// The device has not confirmed an SA yet: its packets bring the keys, and nothing waits. Then they
// name it. The bytes on the wire are the same.
TEST(Faults, AnSaThatIsConfirmedLate) {
    const Disarm disarm;
    World world(Wire::kConnectx);
    Flow flow(world.a, world.b, Address::v4("10.1.1.2", 0), Cipher::kAes256Gcm);
    const std::uint64_t by_index = counter(world, "quic_dev_tx_index_packets");
    const std::uint64_t by_inline = counter(world, "quic_dev_tx_inline_packets");
    const std::uint64_t created = counter(world, "quic_dev_sa_created");
    const std::uint64_t destroyed = counter(world, "quic_dev_sa_destroyed");
    inject("quic-sa-late,count=1"); // until the fault is disarmed
    const auto send_two = [&](std::uint64_t pn) {
        std::vector<Bytes> packets;
        for (unsigned i = 0; i < 2; ++i)
            packets.push_back(make_packet(Flow::shape(), pn + i, 1184));
        ASSERT_GT(send(flow.sender(), join_packets(packets),
                       Control().quic(pn, flow.sa(), Flow::shape().pn_offset()).gso_size(1200),
                       &flow.to()),
                  0);
        for (unsigned i = 0; i < 2; ++i)
            EXPECT_EQ(receive(flow.receiver()),
                      protect(flow.keys(), packets[i], Flow::shape().pn_offset(), pn + i));
    };
    send_two(0);
    // The device has it, and the driver does not know.
    EXPECT_TRUE(eventually([&] { return counter(world, "quic_dev_sa_created") == created + 1; }));
    for (std::uint64_t pn = 2; pn < 22; pn += 2) {
        send_two(pn);
        EXPECT_EQ(state_of(flow.sender(), 1), std::uint32_t{UDP_CRYPTO_SA_INLINE});
    }
    EXPECT_EQ(counter(world, "quic_dev_tx_inline_packets") - by_inline, 22U);
    EXPECT_EQ(counter(world, "quic_dev_tx_index_packets") - by_index, 0U);
    EXPECT_EQ(counter(world, "quic_sa_installed"), 0U);
    inject("none");
    EXPECT_TRUE(eventually(
        [&] { return state_of(flow.sender(), 1) == std::uint32_t{UDP_CRYPTO_SA_DEVICE}; }));
    for (std::uint64_t pn = 22; pn < 42; pn += 2)
        send_two(pn);
    EXPECT_EQ(counter(world, "quic_dev_tx_inline_packets") - by_inline, 22U);
    EXPECT_EQ(counter(world, "quic_dev_tx_index_packets") - by_index, 20U);
    EXPECT_EQ(world.count_a("TxSoftware"), 0U);

    // One that is deleted before it is confirmed leaves the device all the same.
    inject("quic-sa-late,count=1");
    OtherSas other(flow, 7, 1);
    other.send_each();
    EXPECT_TRUE(eventually([&] { return counter(world, "quic_dev_sa_created") == created + 2; }));
    EXPECT_EQ(del_sa(flow.sender(), 7), 0);
    inject("none");
    EXPECT_TRUE(
        eventually([&] { return counter(world, "quic_dev_sa_destroyed") == destroyed + 1; }));
    EXPECT_EQ(counter(world, "quic_sa_installed"), 1U);
    send_two(42);
    EXPECT_EQ(counter(world, "quic_dev_tx_index_packets") - by_index, 22U);
    world.expect_clean();
}

// The device refuses an SA, or does not answer: its packets bring the keys, and the next that
// leaves the database makes it try again.
TEST(Faults, AnSaThatTheDeviceDoesNotTake) {
    const Disarm disarm;
    World world(Wire::kConnectx);
    Flow flow(world.a, world.b, Address::v4("10.1.1.2", 0));
    constexpr unsigned kCreateGeneralObject = 0xa00;
    std::uint64_t failed = counter(world, "quic_sa_failed");
    const std::uint64_t full = counter(world, "quic_sa_full");
    for (const std::string &fault :
         {std::string("quic-sa-fail,count=1,status=3,syndrome=0xbad"),
          "command-timeout,count=1,ms=1500,opcode=" + std::to_string(kCreateGeneralObject)}) {
        SCOPED_TRACE(fault);
        OtherSas first(flow, 10, 1);
        first.send_each();
        EXPECT_TRUE(
            eventually([&] { return state_of(flow.sender(), 10) == UDP_CRYPTO_SA_DEVICE; }));
        inject(fault);
        OtherSas second(flow, 20, 1);
        second.send_each();
        second.send_each();
        ++failed;
        EXPECT_TRUE(eventually([&] { return counter(world, "quic_sa_failed") == failed; }));
        second.send_each();
        EXPECT_EQ(state_of(flow.sender(), 20), std::uint32_t{UDP_CRYPTO_SA_INLINE});
        EXPECT_EQ(del_sa(flow.sender(), 10), 0);
        EXPECT_TRUE(
            eventually([&] { return state_of(flow.sender(), 20) == UDP_CRYPTO_SA_DEVICE; }));
        second.send_each();
        EXPECT_EQ(del_sa(flow.sender(), 20), 0);
        EXPECT_TRUE(eventually([&] { return counter(world, "quic_sa_installed") == 0; }));
    }
    EXPECT_EQ(counter(world, "quic_sa_full"), full);
    EXPECT_EQ(world.count_a("TxSoftware"), 0U);
    world.expect_clean();
}

// --- devlink health ----------------------------------------------------------------------------

TEST(Health, TheTransmitReporterTellsOfTheOffload) {
    World world(Wire::kConnectx);
    Flow flow(world.a, world.b, Address::v4("10.1.1.2", 0));
    settle(flow);
    const CommandResult health = in_first_namespace(
        "devlink health show | sed -n 's|^\\(auxiliary/[^:]*\\):$|\\1|p' | sort -u |"
        "while read -r port; do devlink health diagnose $port reporter tx; "
        "devlink health dump show $port reporter tx >/dev/null || echo NO DUMP; done");
    EXPECT_EQ(health.status, 0) << health.output;
    for (const char *expected : {"QUIC:", "SA database size: 65536", "SAs installed: 1",
                                 "SAs installed: 0", "database full: 0", "commands failed: 0"})
        EXPECT_NE(health.output.find(expected), std::string::npos) << expected << "\n"
                                                                   << health.output;
    EXPECT_EQ(health.output.find("NO DUMP"), std::string::npos) << health.output;
    // No key of the SA is in what is told.
    EXPECT_EQ(health.output.find(to_hex(flow.keys().key)), std::string::npos);
}

// --- SAs that go ------------------------------------------------------------------------------

TEST(Sa, DeletedWithPacketsInTheRing) {
    World world(Wire::kConnectx);
    Flow flow(world.a, world.b, Address::v4("10.1.1.2", 0));
    settle(flow);
    // Two SAs in turn in the same place of the database; each has keys of its own.
    for (unsigned round = 0; round < 30; ++round) {
        const PacketKeys keys = keys_of_seed(Cipher::kAes128Gcm, 100 + round);
        const std::uint32_t sa = add_sa_index(flow.sender(), 2, keys);
        const auto burst = [&](std::uint64_t pn) {
            std::vector<Bytes> packets;
            for (unsigned i = 0; i < 20; ++i)
                packets.push_back(make_packet(Flow::shape(), pn + i, 1184));
            return send(flow.sender(), join_packets(packets),
                        Control().quic(pn, sa, Flow::shape().pn_offset()).gso_size(1200),
                        &flow.to());
        };
        EXPECT_GT(burst(0), 0);
        EXPECT_TRUE(eventually([&] { return state_of(flow.sender(), 2) == UDP_CRYPTO_SA_DEVICE; }));
        EXPECT_GT(burst(20), 0);
        EXPECT_GT(burst(40), 0);
        EXPECT_EQ(del_sa(flow.sender(), 2), 0);
        EXPECT_EQ(burst(60), -ENOENT);
        // What arrives is of these keys; what does not was dropped and counted.
        while (const auto wire = receive(flow.receiver(), std::chrono::milliseconds(20))) {
            ASSERT_FALSE(contains_plaintext(*wire));
            EXPECT_TRUE(unprotect(keys, *wire, Flow::shape().pn_offset(), 30) ||
                        unprotect(flow.keys(), *wire, Flow::shape().pn_offset(), flow.next_pn()));
        }
    }
    EXPECT_EQ(counter(world, "quic_dev_wqe_errors"), 0U);
    const std::uint64_t before = counter(world, "tx_quic_index_packets");
    flow.send_all_forms(1);
    EXPECT_GT(counter(world, "tx_quic_index_packets"), before) << "the queue is stuck";
    world.expect_clean();
}

TEST(Sa, OfAClosedSocketAndAKilledProcessLeaveTheDevice) {
    World world(Wire::kConnectx);
    const auto installed = [&] { return counter(world, "quic_sa_installed"); };
    {
        Flow flow(world.a, world.b, Address::v4("10.1.1.2", 0));
        settle(flow);
        EXPECT_EQ(installed(), 1U);
        world.a.command("tc qdisc add dev va root netem delay 50ms limit 1000");
        EXPECT_GT(flow.send_form({.packets = 5}), 0);
        flow.close_sender();
    }
    EXPECT_TRUE(eventually([&] { return installed() == 0; }));
    world.a.command("tc qdisc del dev va root");

    const pid_t child = ::fork();
    if (child == 0) {
        Flow flow(world.a, world.b, Address::v4("10.1.1.2", 0));
        for (;;)
            flow.send_form({.packets = 5});
    }
    EXPECT_TRUE(eventually([&] { return installed() == 1; }));
    ::kill(child, SIGKILL);
    EXPECT_EQ(::waitpid(child, nullptr, 0), child);
    EXPECT_TRUE(eventually([&] { return installed() == 0; }));
    world.expect_clean();
}

// A process is killed while it sends; with it goes the namespace that the device is in, and the
// device falls back to the first one, without the SA.
TEST(Sa, OfADeletedNamespaceLeavesTheDevice) {
    World world(Wire::kConnectx);
    pid_t child = -1;
    {
        const NetNamespace other;
        world.a.command("ip link set va netns " + other.path());
        other.command("ip addr add 10.1.1.1/24 dev va; ip link set va up");
        EXPECT_TRUE(eventually([&] { return has_carrier(other, "va"); }));
        child = ::fork();
        if (child == 0) {
            Flow flow(other, world.b, Address::v4("10.1.1.2", 0));
            for (;;)
                flow.send_form({.packets = 5});
        }
        const InNamespace inside(other);
        EXPECT_TRUE(eventually([] { return ethtool_statistics("va")["quic_sa_installed"] == 1; }));
        command("tc qdisc add dev va root netem delay 100ms limit 1000");
    }
    ::kill(child, SIGKILL);
    EXPECT_EQ(::waitpid(child, nullptr, 0), child);
    EXPECT_TRUE(eventually(
        [&] { return in_first_namespace("ip link set va netns " + world.a.path()).status == 0; }));
    EXPECT_TRUE(eventually([&] { return counter(world, "quic_sa_installed") == 0; }));
    world.a.command("ip addr add 10.1.1.1/24 dev va; ip link set va up");
    EXPECT_TRUE(eventually([&] { return has_carrier(world.a, "va"); }));
    world.listen();
    Flow flow(world.a, world.b, Address::v4("10.1.1.2", 0));
    settle(flow);
    flow.send_all_forms(1);
    flow.expect_all_arrive();
    EXPECT_EQ(counter(world, "quic_dev_wqe_errors"), 0U);
    world.expect_clean();
}

TEST(Sa, DeviceMovesToAnotherNamespace) {
    World world(Wire::kConnectx);
    Flow flow(world.a, world.b, Address::v4("10.1.1.2", 0));
    settle(flow);
    // There the same index is another socket's SA.
    NetNamespace other;
    world.a.command("ip link set va netns " + other.path());
    other.command("ip addr add 10.1.1.1/24 dev va; ip link set va up");
    EXPECT_TRUE(eventually([&] {
        return other.command("ip -br link show va").find("LOWER_UP") != std::string::npos;
    }));
    Flow second(other, world.b, Address::v4("10.1.1.2", 0), Cipher::kAes256Gcm);
    EXPECT_EQ(second.sa(), flow.sa());
    settle(second);
    second.send_all_forms(1);
    second.expect_all_arrive();
    other.command("ip link set va down; ip link set va netns " + world.a.path());
    world.a.command("ip addr add 10.1.1.1/24 dev va; ip link set va up");
    EXPECT_TRUE(eventually([&] {
        return world.a.command("ip -br link show va").find("LOWER_UP") != std::string::npos;
    }));
    expect_flows_on(flow);
    settle(flow);
}

// --- limits of the device ----------------------------------------------------------------------

// With sadb-size=4: the fifth SA and those after it bring their keys, until others go.
TEST(Database, FullAndFreeAgain) {
    const unsigned room = device_limit("QUIC_TEST_SADB", 0);
    if (room == 0)
        return; // in a guest of its own
    World world(Wire::kConnectx);
    Flow flow(world.a, world.b, Address::v4("10.1.1.2", 0));
    std::map<std::uint64_t, std::uint32_t> sas;
    const unsigned count = room + 3;
    for (std::uint64_t cookie = 10; cookie < 10 + count; ++cookie)
        sas[cookie] = add_sa_index(flow.sender(), cookie, flow.keys());
    std::uint64_t pn = 0;
    const auto send_one = [&](std::uint32_t sa) {
        const Bytes packet = make_packet(Flow::shape(), pn, 1184);
        EXPECT_EQ(send(flow.sender(), packet, Control().quic(pn, sa, Flow::shape().pn_offset()),
                       &flow.to()),
                  1184);
        const auto wire = receive(flow.receiver());
        ASSERT_TRUE(wire.has_value());
        EXPECT_EQ(*wire, protect(flow.keys(), packet, Flow::shape().pn_offset(), pn));
        ++pn;
    };
    const auto in_state = [&](std::uint32_t state) {
        unsigned n = 0;
        for (const auto &[cookie, sa] : sas)
            n += state_of(flow.sender(), cookie) == state;
        return n;
    };
    for (const auto &[cookie, sa] : sas)
        send_one(sa);
    EXPECT_TRUE(eventually([&] {
        return in_state(UDP_CRYPTO_SA_DEVICE) == room && counter(world, "quic_sa_full") >= 3;
    }));
    EXPECT_EQ(in_state(UDP_CRYPTO_SA_INLINE), 3U);
    for (const auto &[cookie, sa] : sas)
        send_one(sa);
    EXPECT_EQ(world.count_a("TxSoftware"), 0U);
    // Two go, two of those that wait move in.
    for (int i = 0; i < 2; ++i) {
        std::uint64_t victim = 0;
        for (const auto &[cookie, sa] : sas)
            if (state_of(flow.sender(), cookie) == UDP_CRYPTO_SA_DEVICE)
                victim = cookie;
        ASSERT_EQ(del_sa(flow.sender(), victim), 0);
        sas.erase(victim);
        EXPECT_TRUE(eventually([&] { return in_state(UDP_CRYPTO_SA_DEVICE) == room; }));
    }
    EXPECT_EQ(in_state(UDP_CRYPTO_SA_INLINE), 1U);
    for (const auto &[cookie, sa] : sas)
        send_one(sa);
    world.expect_clean();
}

// The same while all of them send: those without room bring their keys until others have gone.
TEST(Database, FullAndFreeAgainUnderTraffic) {
    const unsigned room = device_limit("QUIC_TEST_SADB", 0);
    if (room == 0)
        return; // in a guest of its own
    World world(Wire::kConnectx);
    const std::uint64_t full = counter(world, "quic_sa_full");
    const std::uint64_t stale = counter(world, "quic_dev_drop_stale_sa");
    std::vector<std::unique_ptr<Flow>> flows;
    std::vector<std::unique_ptr<Traffic>> traffic;
    for (unsigned i = 0; i < room + 2; ++i)
        flows.push_back(std::make_unique<Flow>(world.a, world.b, Address::v4("10.1.1.2", 0),
                                               kAllCiphers[i % 4]));
    for (const auto &flow : flows)
        traffic.push_back(std::make_unique<Traffic>(*flow, std::chrono::milliseconds(10)));
    const auto installed = [&] { return counter(world, "quic_sa_installed"); };
    EXPECT_TRUE(eventually(
        [&] { return installed() == room && counter(world, "quic_sa_full") >= full + 2; }));
    while (!flows.empty()) {
        traffic.back()->go_on();
        traffic.back()->stop();
        traffic.pop_back();
        flows.back()->expect_all_arrive();
        flows.back()->close_sender();
        flows.pop_back();
        const std::uint64_t left = std::min<std::uint64_t>(room, flows.size());
        EXPECT_TRUE(eventually([&] { return installed() == left; })) << installed();
    }
    EXPECT_EQ(world.count_a("TxSoftware"), 0U);
    EXPECT_EQ(counter(world, "quic_sa_failed"), 0U);
    EXPECT_EQ(counter(world, "quic_dev_drop_stale_sa"), stale);
    world.expect_clean();
}

// However many SAs one user has, another's get in.
TEST(Database, NobodyTakesItAll) {
    const unsigned room = device_limit("QUIC_TEST_SADB", 0);
    if (room == 0)
        return; // in a guest of its own
    constexpr uid_t kGreedy = 1000;
    constexpr uid_t kModest = 1001;
    World world(Wire::kConnectx);
    Flow flow(world.a, world.b, Address::v4("10.1.1.2", 0)); // for its receiver and its keys
    const std::uint64_t full = counter(world, "quic_sa_full");
    std::uint64_t pn = 1000;
    const auto socket_of = [&](uid_t uid) {
        const InNamespace inside(world.a);
        return udp_socket_of_uid(AF_INET, uid);
    };
    const auto add_and_send = [&](const UniqueFd &socket, std::uint64_t cookie) {
        const std::uint32_t sa = add_sa_index(socket.get(), cookie, flow.keys());
        const Bytes packet = make_packet(Flow::shape(), pn, 1184);
        EXPECT_EQ(send(socket.get(), packet, Control().quic(pn, sa, Flow::shape().pn_offset()),
                       &flow.to()),
                  1184);
        EXPECT_EQ(receive(flow.receiver()),
                  protect(flow.keys(), packet, Flow::shape().pn_offset(), pn));
        ++pn;
    };
    const auto installed = [&] { return counter(world, "quic_sa_installed"); };

    UniqueFd greedy = socket_of(kGreedy);
    for (std::uint64_t cookie = 1; cookie <= 2 * room; ++cookie)
        add_and_send(greedy, cookie);
    EXPECT_TRUE(eventually([&] { return counter(world, "quic_sa_full") >= full + room + 1; }));
    EXPECT_EQ(installed(), room - 1);
    {
        const UniqueFd modest = socket_of(kModest);
        add_and_send(modest, 1);
        EXPECT_TRUE(eventually([&] { return state_of(modest.get(), 1) == UDP_CRYPTO_SA_DEVICE; }));
        EXPECT_EQ(installed(), room);
    }
    // The place that is free again is not for the greedy one.
    EXPECT_TRUE(eventually([&] { return installed() == room - 1; }));
    const UniqueFd roots = socket_of(0);
    add_and_send(roots, 1);
    EXPECT_TRUE(eventually([&] { return state_of(roots.get(), 1) == UDP_CRYPTO_SA_DEVICE; }));
    greedy.reset();
    EXPECT_TRUE(eventually([&] { return installed() == 1; }));
    // Root may take all.
    for (std::uint64_t cookie = 2; cookie <= room; ++cookie)
        add_and_send(roots, cookie);
    EXPECT_TRUE(eventually([&] { return installed() == room; }));
    EXPECT_EQ(world.count_a("TxSoftware"), 0U);
    EXPECT_EQ(counter(world, "quic_sa_failed"), 0U);
    world.expect_clean();
}

// With quic-ciphers=aes-128-gcm: the others go to software, from the first packet.
TEST(Capabilities, SoftwareDoesTheCiphersThatTheDeviceLacks) {
    if (device_limit("QUIC_TEST_ONE_CIPHER", 0) == 0)
        return; // in a guest of its own
    for (Cipher cipher : kAllCiphers) {
        World world(Wire::kConnectx);
        Flow flow(world.a, world.b, Address::v4("10.1.1.2", 0), cipher);
        flow.send_all_forms(2);
        flow.expect_all_arrive();
        if (cipher == Cipher::kAes128Gcm)
            EXPECT_EQ(world.count_a("TxSoftware"), 0U);
        else
            EXPECT_EQ(world.count_a("TxSoftware"), flow.sent());
        world.expect_clean();
    }
}

bool device_is_without(const char *what) {
    const char *text = std::getenv("QUIC_TEST_WITHOUT");
    return text != nullptr && std::string(text) == what;
}

// With quic-inline=off: software until the device has the SA, and for keys that come with a send.
TEST(Capabilities, WithoutKeysInDescriptors) {
    if (!device_is_without("inline"))
        return; // in a guest of its own
    World world(Wire::kConnectx);
    Flow flow(world.a, world.b, Address::v4("10.1.1.2", 0));
    ASSERT_GT(flow.send_form({}), 0);
    EXPECT_EQ(world.count_a("TxSoftware"), 1U);
    settle(flow);
    const std::uint64_t software = world.count_a("TxSoftware");
    const std::uint64_t sent = flow.sent();
    flow.send_all_forms(2);
    flow.expect_all_arrive();
    constexpr std::uint64_t kInline = 2 * (1 + 3); // of two rounds of all forms
    EXPECT_EQ(world.count_a("TxSoftware") - software, kInline);
    EXPECT_GE(counter(world, "quic_dev_tx_index_packets"), flow.sent() - sent - kInline);
    EXPECT_EQ(counter(world, "quic_dev_tx_inline_packets"), 0U);
    EXPECT_EQ(counter(world, "tx_quic_dropped"), 0U);
    world.expect_clean();
}

// With quic-lso=off: the stack cuts batches, each packet still is the device's.
TEST(Capabilities, WithoutBatches) {
    if (!device_is_without("lso"))
        return; // in a guest of its own
    World world(Wire::kConnectx);
    Flow flow(world.a, world.b, Address::v6("fd01::2", 0));
    settle(flow);
    flow.send_all_forms(2);
    flow.expect_all_arrive();
    EXPECT_EQ(world.count_a("TxSoftware"), 0U);
    EXPECT_EQ(counter(world, "quic_dev_tx_index_packets") +
                  counter(world, "quic_dev_tx_inline_packets"),
              flow.sent());
    EXPECT_EQ(counter(world, "quic_dev_wqe_errors"), 0U);
    world.expect_clean();
}

// --- on top of the device ----------------------------------------------------------------------

TEST(OnTop, VlanPassesTheOffloadThrough) {
    World world(Wire::kConnectx);
    for (const auto &[ns, device, address] :
         {std::tuple{&world.a, "va", "10.1.7.1/24"}, std::tuple{&world.b, "vb", "10.1.7.2/24"}})
        ns->command(std::string("ip link add link ") + device +
                    " name vlan7 type vlan id 7; ip link set vlan7 up; ip addr add " + address +
                    " dev vlan7");
    EXPECT_NE(world.a.command("ethtool -k vlan7").find("udp-crypto-hw-tx-offload: on"),
              std::string::npos);
    Flow flow(world.a, world.b, Address::v4("10.1.7.2", 0));
    settle(flow);
    const std::uint64_t by_index = counter(world, "tx_quic_index_packets");
    const std::uint64_t sent = flow.sent();
    flow.send_all_forms(2);
    flow.expect_all_arrive();
    EXPECT_EQ(counter(world, "tx_quic_index_packets") - by_index, flow.sent() - sent - 8);
    EXPECT_EQ(world.count_a("TxSoftware"), 0U);
    EXPECT_EQ(world.count_a("TxDevice"), flow.sent()) << "counted once, at the real device";
    // What is switched off below is off above.
    world.a.command("ethtool -K va udp-crypto-hw-tx-offload off");
    flow.send_all_forms(1);
    flow.expect_all_arrive();
    EXPECT_GT(world.count_a("TxSoftware"), 0U);
}

TEST(OnTop, BondTakesSoftware) {
    World world(Wire::kConnectx);
    for (const auto &[ns, device, address] :
         {std::tuple{&world.a, "va", "10.1.8.1/24"}, std::tuple{&world.b, "vb", "10.1.8.2/24"}})
        ns->command(std::string("ip link add bond7 type bond mode active-backup; ip link set ") +
                    device + " down; ip link set " + device +
                    " master bond7; ip link set bond7 up; ip addr add " + address + " dev bond7");
    EXPECT_TRUE(eventually([&] {
        return world.a.command("ip -br link show bond7").find("LOWER_UP") != std::string::npos &&
               world.b.command("ip -br link show bond7").find("LOWER_UP") != std::string::npos;
    }));
    Flow flow(world.a, world.b, Address::v4("10.1.8.2", 0));
    flow.send_all_forms(2);
    flow.expect_all_arrive();
    EXPECT_EQ(world.count_a("TxSoftware"), flow.sent());
    world.expect_clean();
}

// XDP comes and goes at both ends under traffic; then a socket of AF_XDP has one of the queues, for
// its own frames, from its own memory.
TEST(OnTop, XdpAndItsSockets) {
    using namespace connectx::guest;
    World world(Wire::kConnectx);
    Flow flow(world.a, world.b, quic_test::Address::v4("10.1.1.2", 0));
    settle(flow);
    const auto attach = [](const NetNamespace &ns, const char *device, const XdpProgram &program) {
        const InNamespace inside(ns);
        Descriptor link = program.attach(::if_nametoindex(device));
        EXPECT_GE(link.get(), 0) << strerror(errno);
        return link;
    };
    const XdpProgram pass(xdp::verdict(XDP_PASS));
    for (const auto &[ns, device] : {std::pair{&world.a, "va"}, std::pair{&world.b, "vb"}}) {
        SCOPED_TRACE(device);
        Traffic traffic(flow);
        for (unsigned round = 0; round < 3; ++round) {
            traffic.go_on();
            const Descriptor link = attach(*ns, device, pass);
            traffic.go_on();
        }
        traffic.stop();
        expect_flows_on(flow);
    }
    {
        Traffic traffic(flow);
        SocketMap map;
        const XdpProgram to_socket(xdp::to_socket(map.fd()));
        const Descriptor link = attach(world.a, "va", to_socket);
        const InNamespace inside(world.a);
        XdpSocket socket(4096, false);
        ASSERT_EQ(socket.bind(::if_nametoindex("va"), 0, true), 0);
        ASSERT_EQ(map.set(0, socket), 0);
        UniqueFd far;
        world.b.run([&] {
            far = UniqueFd(::socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC, htons(xdp::kOut)));
        });
        Bytes frame(1000, 0x5a);
        const std::uint8_t header[]{
            2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, xdp::kOut >> 8, xdp::kOut & 0xff};
        std::ranges::copy(header, frame.begin());
        for (unsigned i = 0; i < 200; ++i) {
            frame[20] = static_cast<std::uint8_t>(i);
            // Until carrier is there again a frame may be lost.
            std::optional<Bytes> got;
            for (unsigned attempt = 0; attempt < 50 && !got; ++attempt) {
                socket.send(frame);
                got = receive(far.get(), std::chrono::milliseconds(200));
            }
            ASSERT_EQ(got, frame) << i;
        }
        EXPECT_TRUE(socket.all_sent(5000));
        traffic.go_on();
        traffic.stop();
        expect_flows_on(flow);
    }
    settle(flow);
    EXPECT_EQ(flow.duplicates(), 0U);
    EXPECT_EQ(counter(world, "quic_dev_wqe_errors"), 0U);
    EXPECT_EQ(counter(world, "tx_cqe_err"), 0U);
    EXPECT_NE(qmp().model_state("nic0").find("unknown 0"), std::string::npos);
    world.expect_clean();
}

TEST(Route, MovesToAnotherDeviceAndBack) {
    World world(Wire::kConnectx);
    world.a.command("ip link add wa type veth peer name wb netns " + world.b.path() +
                    "; ip link set wa up; ip addr add 10.1.5.1/24 dev wa");
    world.b.command("ip link set wb up; ip addr add 10.1.5.2/24 dev wb; "
                    "ip addr add 10.1.9.9/32 dev lo");
    world.a.command("ip route add 10.1.9.9 via 10.1.1.2");
    world.listen();
    Flow flow(world.a, world.b, Address::v4("10.1.9.9", 0));
    settle(flow);
    for (const char *way : {"via 10.1.5.2 dev wa", "via 10.1.1.2 dev va", "via 10.1.5.2 dev wa"}) {
        Traffic traffic(flow);
        traffic.go_on();
        world.a.command(std::string("ip route replace 10.1.9.9 ") + way);
        traffic.go_on();
        traffic.stop();
        flow.expect_all_arrive();
    }
    EXPECT_GT(world.count_a("TxSoftware"), 0U);
    world.expect_clean();
}

} // namespace
} // namespace quic_test
