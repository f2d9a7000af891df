// SPDX-License-Identifier: GPL-2.0
//
// quic-sadb-ctl as an administrator runs it: what it prints, how it ends, and the packets that a
// user then sends.
#include <cerrno>
#include <csignal>
#include <cstdlib>
#include <sstream>

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>
#include <sys/stat.h>

#include "loopback.h"
#include "processes.h"
#include "sa_spec.h"
#include "world.h"

namespace quic_test {
namespace {

using nlohmann::json;

constexpr PacketShape kShape{.cid_length = 8, .pn_length = 4};
constexpr std::size_t kSize = 1184;
constexpr uid_t kUser = 1000;
constexpr uid_t kOther = 1001;
const char *const kMaxSa = "/proc/sys/net/ipv4/udp_crypto_max_sa";

std::string words(const PacketKeys &keys) {
    return "cipher=" + quic_sadb::cipher_name(static_cast<std::uint32_t>(keys.cipher)) +
           " key=" + to_hex(keys.key) + " iv=" + to_hex(keys.iv) + " hp=" + to_hex(keys.hp);
}

std::string batch(std::size_t count) {
    std::string text;
    for (std::size_t i = 0; i < count; ++i)
        text += words(keys_of_seed(kAllCiphers[i % 4], i)) + "\n";
    return text;
}

class Ctl : public testing::Test {
  protected:
    Ctl() : inside_(net_) {}
    static std::uint64_t count() { return Statistics::read()["SaCurr"]; }
    // Standard output as JSON; a failure if the tool did not end with @status.
    static json json_of(std::vector<std::string> arguments, const std::string &input = "",
                        int status = 0) {
        arguments.insert(arguments.begin(), "--json");
        const ToolResult result = tool(arguments, input);
        EXPECT_EQ(result.status, status) << result.err;
        const json parsed = json::parse(result.out, nullptr, false);
        EXPECT_FALSE(parsed.is_discarded()) << result.out;
        return parsed;
    }
    static std::uint32_t add(const PacketKeys &keys, uid_t uid) {
        return json_of({"sa", "add", "--uid", std::to_string(uid), "--keys", "-"}, words(keys))
            .at("index");
    }

  private:
    NetNamespace net_;
    InNamespace inside_;
};

// An unprivileged program never sees the keys, and its packets are right.
TEST_F(Ctl, AUserSendsWithTheSaThatRootAdded) {
    for (const Cipher cipher : kAllCiphers) {
        SCOPED_TRACE(name(cipher));
        const PacketKeys keys = keys_of_seed(cipher, 5);
        const std::uint32_t index = add(keys, kUser);
        Loopback loopback(Family::kIpv6, true);
        const auto send_batch = [&](uid_t uid) {
            return as_user(uid, [&] {
                const UniqueFd socket = udp_socket(AF_INET6);
                const Bytes data =
                    join_packets({make_packet(kShape, 7, kSize), make_packet(kShape, 8, kSize)});
                const ssize_t n =
                    send(socket.get(), data,
                         Control()
                             .quic(7, index, kShape.pn_offset())
                             .gso_size(static_cast<std::uint16_t>(kSize + UDP_QUIC_TAG_LEN)),
                         &loopback.to_address);
                return n < 0 ? static_cast<int>(-n)
                             : (n == static_cast<ssize_t>(data.size()) ? 0 : 255);
            });
        };
        EXPECT_EQ(send_batch(kUser), 0);
        for (std::uint64_t pn : {7, 8}) {
            const auto wire = receive(loopback.receiver.get());
            ASSERT_TRUE(wire.has_value());
            const auto opened = unprotect(keys, *wire, kShape.pn_offset(), pn);
            ASSERT_TRUE(opened.has_value());
            EXPECT_EQ(opened->packet, make_packet(kShape, pn, kSize));
        }
        EXPECT_EQ(send_batch(kOther), ENOENT);
        EXPECT_EQ(send_batch(0), ENOENT);
        const json shown = json_of({"sa", "show", std::to_string(index)});
        ASSERT_EQ(shown.size(), 1U);
        EXPECT_EQ(shown[0].at("index"), index);
        EXPECT_EQ(shown[0].at("uid"), kUser);
        EXPECT_EQ(shown[0].at("origin"), "netlink");
        EXPECT_EQ(shown[0].at("packets"), 2U);
        EXPECT_EQ(shown[0].at("packets_software"), 2U);
        EXPECT_EQ(shown[0].at("bytes"), 2 * (kSize + UDP_QUIC_TAG_LEN));
        EXPECT_EQ(tool({"sa", "del", std::to_string(index)}).status, 0);
        EXPECT_EQ(send_batch(kUser), ENOENT);
    }
}

TEST_F(Ctl, ADeviceTakesThem) {
    World world(Wire::kOffload);
    {
        const InNamespace inside(world.a);
        const PacketKeys keys = keys_of_seed(Cipher::kAes128Gcm, 9);
        const std::uint32_t index = add(keys, 0);
        UniqueFd receiver;
        world.b.run([&receiver] {
            receiver = udp_socket(AF_INET);
            bind_to(receiver.get(), Address::v4("10.1.1.2", 4433));
        });
        const UniqueFd sender = udp_socket(AF_INET);
        const Address to = Address::v4("10.1.1.2", 4433);
        std::uint64_t pn = 0;
        EXPECT_TRUE(eventually([&] {
            ++pn;
            EXPECT_EQ(send(sender.get(), make_packet(kShape, pn, kSize),
                           Control().quic(pn, index, kShape.pn_offset()), &to),
                      static_cast<ssize_t>(kSize));
            return json_of({"stats"}).at("tx_device") != 0;
        }));
        for (std::uint64_t i = 1; i <= pn; ++i) {
            const auto wire = receive(receiver.get());
            ASSERT_TRUE(wire.has_value());
            EXPECT_TRUE(unprotect(keys, *wire, kShape.pn_offset(), i).has_value());
        }
        const json devices = json_of({"dev", "show"});
        ASSERT_EQ(devices.size(), 1U);
        EXPECT_EQ(devices[0].at("ifname"), "va");
        EXPECT_EQ(devices[0].at("enabled"), true);
        EXPECT_EQ(devices[0].at("ciphers").size(), 4U);
        EXPECT_EQ(devices[0].at("forms"), json({"index"}));
        EXPECT_EQ(tool({"dev", "show", "va"}).out,
                  "va: offload on\n    ciphers: aes-128-gcm aes-256-gcm chacha20-poly1305 "
                  "aes-128-ccm\n    keys by: index\n    SAs held: 1 of 4096\n");
        const ToolResult loopback = tool({"dev", "show", "lo"});
        EXPECT_EQ(loopback.status, 1);
        EXPECT_EQ(loopback.err,
                  "quic-sadb-ctl: error: the device has no QUIC packet protection offload "
                  "(ifindex): Operation not supported\n");
        EXPECT_EQ(tool({"dev", "show", "none"}).status, 6);
    }
    world.expect_clean();
}

TEST_F(Ctl, KeysComeFromAFileAndAreNeverShown) {
    const PacketKeys keys = keys_of_seed(Cipher::kAes256Gcm, 6);
    char path[] = "/tmp/ctl-keys-XXXXXX";
    const UniqueFd file(::mkstemp(path));
    ASSERT_GE(file.get(), 0);
    write_file(path, words(keys));
    std::string all;
    const auto run = [&all](const std::vector<std::string> &arguments, int status) {
        const ToolResult result = tool(arguments);
        EXPECT_EQ(result.status, status) << result.err;
        all += result.out + result.err;
        return result;
    };
    const ToolResult added = run({"sa", "add", "--uid", "1000", "--keys", path}, 0);
    EXPECT_EQ(added.err, "");
    const std::string index = added.out.substr(0, added.out.find('\n'));
    ASSERT_EQ(::chmod(path, 0644), 0);
    const ToolResult readable = run({"sa", "add", "--uid", "1000", "--keys", path}, 0);
    EXPECT_NE(readable.err.find("can be read by others"), std::string::npos);
    run({"sa", "show"}, 0);
    run({"sa", "show", "--json"}, 0);
    run({"sa", "show", index}, 0);
    run({"sa", "add", "--uid", "1", "--keys", path, "--cipher", "aes-128-gcm"}, 3);
    run({"sa", "add", "--keys", path}, 3);
    run({"sa", "add", "--uid", "1", "--cipher", to_hex(keys.key), "--keys", path}, 2);
    write_file(kMaxSa, "2");
    run({"sa", "add", "--uid", "1", "--keys", path}, 1);
    write_file(path, words(keys) + " " + to_hex(keys.key));
    run({"sa", "add", "--uid", "1", "--keys", path}, 3);
    // The one on the command line is the user's own doing; no other is there.
    all.erase(std::min(all.find("unknown cipher " + to_hex(keys.key)), all.size()),
              15 + 2 * keys.key.size());
    for (const Bytes *secret : {&keys.key, &keys.iv, &keys.hp})
        EXPECT_EQ(all.find(to_hex(*secret)), std::string::npos);
    ::unlink(path);
    EXPECT_EQ(count(), 2U);
}

TEST_F(Ctl, ExitStatusAndMessages) {
    const PacketKeys keys = keys_of_seed(Cipher::kAes128Gcm, 1);
    struct Case {
        std::vector<std::string> arguments;
        std::string input;
        uid_t uid;
        int status;
        std::string message;
    };
    const UniqueFd socket = udp_socket(AF_INET);
    const std::string of_socket = std::to_string(add_sa_index(socket.get(), 1, keys));
    const std::string not_allowed =
        "CAP_NET_ADMIN is needed in the user namespace of the network namespace: "
        "Operation not permitted";
    const std::vector<Case> cases = {
        {{}, "", 0, 2, ""},
        {{"sa"}, "", 0, 2, ""},
        {{"sa", "add"}, "", 0, 2, ""},
        {{"sa", "add", "--keys", "-", "--batch", "-"}, "", 0, 2, ""},
        {{"sa", "add", "--keys", "-", "--keep-going"}, "", 0, 2, ""},
        {{"sa", "add", "--keys", "-", "--uid", "nobody-of-that-name"}, "", 0, 2, ""},
        {{"sa", "add", "--keys", "-", "--uid", "1", "--key", "00"}, "", 0, 2, ""},
        {{"sa", "del"}, "", 0, 2, ""},
        {{"sa", "del", "0"}, "", 0, 2, ""},
        {{"sa", "del", "16777216"}, "", 0, 2, ""},
        {{"sa", "show", "one"}, "", 0, 2, ""},
        {{"no-such-verb"}, "", 0, 2, ""},
        {{"sa", "add", "--uid", "1", "--keys", "/nonexistent"},
         "",
         0,
         3,
         "/nonexistent: No such file or directory"},
        {{"sa", "add", "--uid", "1", "--keys", "-"},
         "key=00",
         0,
         3,
         "standard input: cipher is missing"},
        {{"sa", "add", "--uid", "1", "--keys", "-"},
         std::string(70000, '#'),
         0,
         3,
         "standard input: more than 65536 bytes"},
        {{"sa", "add", "--uid", "4294967295", "--keys", "-"},
         words(keys),
         0,
         1,
         "the user namespace has no such uid (uid): Invalid argument"},
        {{"sa", "add", "--uid", "1", "--keys", "-"}, words(keys), kUser, 5, not_allowed},
        {{"sa", "show"}, "", kUser, 5, not_allowed},
        {{"sa", "flush"}, "", kUser, 5, not_allowed},
        {{"monitor"}, "", kUser, 5, "listening: Operation not permitted"},
        {{"sa", "del", of_socket},
         "",
         0,
         5,
         "sa " + of_socket +
             ": the SA belongs to a socket, and ends with that (index): Permission denied"},
        {{"sa", "del", "77777"},
         "",
         0,
         6,
         "sa 77777: no SA has that index (index): No such file or directory"},
        {{"sa", "show", "77777"},
         "",
         0,
         6,
         "no SA has that index (index): No such file or directory"},
        {{"stats"}, "", kUser, 0, ""},
        {{"dev", "show"}, "", kUser, 0, ""},
        {{"--help"}, "", 0, 0, ""},
        {{"sa", "add", "--help"}, "", 0, 0, ""},
    };
    for (const Case &c : cases) {
        std::string line;
        for (const std::string &argument : c.arguments)
            line += argument + " ";
        SCOPED_TRACE(line);
        const ToolResult result = tool(c.arguments, c.input, c.uid);
        EXPECT_EQ(result.status, c.status) << result.err;
        if (!c.message.empty()) {
            EXPECT_EQ(result.err, "quic-sadb-ctl: error: " + c.message + "\n");
        }
        if (c.status != 0) {
            EXPECT_EQ(result.out, "");
        }
    }
    EXPECT_EQ(count(), 1U);
}

TEST_F(Ctl, ShowTextAndFilter) {
    const std::uint32_t first = add(keys_of_seed(Cipher::kAes128Gcm, 1), kUser);
    const std::uint32_t second =
        json_of({"sa", "add", "--uid", "1001", "--packet-limit", "100", "--keys", "-"},
                words(keys_of_seed(Cipher::kChaCha20Poly1305, 1)))
            .at("index");
    EXPECT_EQ(tool({"sa", "show"}).out,
              "sa " + std::to_string(first) +
                  " aes-128-gcm uid 1000 by netlink software packets 0 bytes 0\nsa " +
                  std::to_string(second) +
                  " chacha20-poly1305 uid 1001 by netlink software packets 0 bytes 0 limit 100\n");
    const json one = json_of({"sa", "show", "--uid", "1001"});
    ASSERT_EQ(one.size(), 1U);
    EXPECT_EQ(one[0].at("index"), second);
    EXPECT_EQ(one[0].at("packet_limit"), 100U);
    EXPECT_EQ(json_of({"sa", "flush", "--uid", "1001"}).at("deleted"), 1U);
    EXPECT_EQ(tool({"sa", "flush"}).out, "1 deleted\n");
    EXPECT_EQ(json_of({"sa", "show"}), json::array());
}

TEST_F(Ctl, StatisticsOfThisNamespace) {
    add(keys_of_seed(Cipher::kAes128Gcm, 1), kUser);
    const json stats = json_of({"stats"});
    EXPECT_EQ(stats.at("sa_count"), 1U);
    EXPECT_EQ(stats.at("sa_added"), 1U);
    EXPECT_EQ(stats.at("tx_packets"), 0U);
    EXPECT_EQ(stats.size(), 18U);
    EXPECT_NE(tool({"stats"}).out.find("sa-count             1\n"), std::string::npos);
}

// --- many at once -------------------------------------------------------------------------------

TEST_F(Ctl, BatchAddsEachLine) {
    constexpr std::size_t kMany = 3000;
    const json added = json_of({"sa", "add", "--uid", "1000", "--batch", "-"}, batch(kMany));
    EXPECT_EQ(added.at("added"), kMany);
    ASSERT_EQ(added.at("sas").size(), kMany);
    EXPECT_EQ(added.at("errors"), json::array());
    EXPECT_EQ(count(), kMany);
    // Line by line the SA that the line describes.
    const json shown = json_of({"sa", "show"});
    ASSERT_EQ(shown.size(), kMany);
    for (std::size_t i = 0; i < kMany; ++i) {
        ASSERT_EQ(added["sas"][i].at("line"), i + 1);
        ASSERT_EQ(added["sas"][i].at("index"), shown[i].at("index"));
        ASSERT_EQ(shown[i].at("cipher"),
                  quic_sadb::cipher_name(static_cast<std::uint32_t>(kAllCiphers[i % 4])));
    }
    // And its keys.
    const PacketKeys keys = keys_of_seed(kAllCiphers[1234 % 4], 1234);
    Loopback loopback(Family::kIpv4, true);
    const std::uint32_t index = added["sas"][1234].at("index");
    ASSERT_EQ(as_user(kUser,
                      [&] {
                          const UniqueFd socket = udp_socket(AF_INET);
                          return send(socket.get(), make_packet(kShape, 1, kSize),
                                      Control().quic(1, index, kShape.pn_offset()),
                                      &loopback.to_address) == static_cast<ssize_t>(kSize)
                                     ? 0
                                     : 1;
                      }),
              0);
    const auto wire = receive(loopback.receiver.get());
    ASSERT_TRUE(wire.has_value());
    EXPECT_TRUE(unprotect(keys, *wire, kShape.pn_offset(), 1).has_value());
    EXPECT_EQ(json_of({"sa", "flush"}).at("deleted"), kMany);
}

TEST_F(Ctl, BatchShowsProgress) {
    const ToolResult result = tool({"sa", "add", "--uid", "1", "--batch", "-"}, batch(1000));
    EXPECT_EQ(result.status, 0);
    EXPECT_NE(result.err.find("500 of 1000 SAs (50%)\n"), std::string::npos) << result.err;
    EXPECT_NE(result.err.find("1000 of 1000 SAs (100%)\n"), std::string::npos);
    const ToolResult quiet =
        tool({"sa", "add", "--uid", "1", "--quiet", "--batch", "-"}, batch(100));
    EXPECT_EQ(quiet.err, "");
}

TEST_F(Ctl, BatchWithABadLineAddsNothing) {
    const ToolResult result =
        tool({"sa", "add", "--uid", "1000", "--batch", "-"}, batch(50) + "key=00\n" + batch(50));
    EXPECT_EQ(result.status, 3);
    EXPECT_EQ(result.err, "quic-sadb-ctl: error: standard input:51: cipher is missing\n");
    EXPECT_EQ(Statistics::read()["SaAdded"], 0U);
}

TEST_F(Ctl, BatchThatTheKernelRefusesIsUndone) {
    write_file(kMaxSa, "150");
    const ToolResult result = tool({"sa", "add", "--uid", "1000", "--batch", "-"}, batch(400));
    EXPECT_EQ(result.status, 1);
    EXPECT_EQ(result.out, "");
    EXPECT_EQ(result.err, "quic-sadb-ctl: error: standard input:151: no more SAs than "
                          "net.ipv4.udp_crypto_max_sa: No space left on device; no SA was added\n");
    EXPECT_EQ(count(), 0U);
}

TEST_F(Ctl, BatchKeepsGoing) {
    write_file(kMaxSa, "150");
    const json result =
        json_of({"sa", "add", "--uid", "1000", "--keep-going", "--batch", "-"}, batch(200), 7);
    EXPECT_EQ(result.at("added"), 150U);
    EXPECT_EQ(result.at("sas").size(), 150U);
    ASSERT_EQ(result.at("errors").size(), 50U);
    EXPECT_EQ(result["errors"][0].at("line"), 151U);
    EXPECT_EQ(count(), 150U);
}

// Runs with --all: QUIC_SADB_MANY=1.
TEST_F(Ctl, BatchOfOneHundredThousand) {
    if (std::getenv("QUIC_SADB_MANY") == nullptr)
        GTEST_SKIP() << "takes long: netlink.many";
    constexpr std::size_t kMany = 100000;
    const ToolResult result =
        tool({"--json", "sa", "add", "--uid", "1000", "--batch", "-"}, batch(kMany));
    ASSERT_EQ(result.status, 0) << result.err;
    EXPECT_EQ(json::parse(result.out).at("added"), kMany);
    for (std::size_t tenth = 1; tenth <= 10; ++tenth)
        EXPECT_NE(result.err.find(std::to_string(tenth * kMany / 10) + " of 100000 SAs (" +
                                  std::to_string(tenth * 10) + "%)\n"),
                  std::string::npos)
            << result.err;
    EXPECT_EQ(json_of({"sa", "show"}).size(), kMany);
    EXPECT_EQ(json_of({"sa", "flush"}).at("deleted"), kMany);
    EXPECT_EQ(count(), 0U);
}

// --- monitor
// -----------------------------------------------------------------------------------------

TEST_F(Ctl, MonitorSeesEachEvent) {
    Tool monitor({"--json", "monitor", "--count", "4"});
    ASSERT_TRUE(eventually([&] { return monitor.err() == "listening\n"; })) << monitor.err();
    const PacketKeys keys = keys_of_seed(Cipher::kAes128Gcm, 1);
    const std::uint32_t first = add(keys, kUser);
    UniqueFd socket = udp_socket(AF_INET);
    const std::uint32_t second = add_sa_index(socket.get(), 1, keys, UDP_CRYPTO_SA_F_SAME_UID);
    EXPECT_EQ(tool({"sa", "flush"}).status, 0);
    socket.reset();
    EXPECT_EQ(monitor.wait(), 0);
    std::istringstream lines(monitor.out());
    std::string line;
    const struct {
        const char *event;
        std::uint32_t index;
        const char *origin;
    } expected[] = {{"add", first, "netlink"},
                    {"add", second, "socket"},
                    {"del", first, "netlink"},
                    {"del", second, "socket"}};
    for (const auto &event : expected) {
        ASSERT_TRUE(std::getline(lines, line));
        const json parsed = json::parse(line);
        EXPECT_EQ(parsed.at("event"), event.event);
        EXPECT_EQ(parsed.at("sa").at("index"), event.index);
        EXPECT_EQ(parsed.at("sa").at("origin"), event.origin);
    }
    EXPECT_FALSE(std::getline(lines, line));
}

TEST_F(Ctl, MonitorTellsOfLostEvents) {
    Tool monitor({"monitor", "--quiet"});
    // It has joined as soon as it sees an event.
    const std::string one = words(keys_of_seed(Cipher::kAes128Gcm, 1));
    ASSERT_TRUE(eventually([&] {
        tool({"sa", "add", "--uid", "1", "--keys", "-"}, one);
        return monitor.out().find("add sa ") != std::string::npos;
    }));
    // Stopped, it reads nothing, and its buffer overflows.
    monitor.signal(SIGSTOP);
    EXPECT_EQ(tool({"sa", "add", "--uid", "1", "--quiet", "--batch", "-"}, batch(3000)).status, 0);
    monitor.signal(SIGCONT);
    EXPECT_TRUE(eventually([&] {
        return monitor.out().find("lost: events came faster than they were read\n") !=
               std::string::npos;
    }));
}

} // namespace
} // namespace quic_test
