// SPDX-License-Identifier: GPL-2.0
//
// What an administrator can see of the offload at work: tracepoints, drop reasons, the SAs of a
// socket. And what nobody can: keys.
#include <algorithm>
#include <filesystem>
#include <sstream>
#include <string>
#include <vector>

#include <fcntl.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>
#include <sys/stat.h>

#include "../netlink/processes.h"
#include "loopback.h"
#include "world.h"

namespace quic_test {
namespace {

using nlohmann::json;

const std::string kTracing = "/sys/kernel/tracing/";
constexpr PacketShape kShape{.cid_length = 8, .pn_length = 4};

// Switches events on and empties the trace; off again at the end.
class Tracing {
  public:
    explicit Tracing(std::vector<std::string> events) : events_(std::move(events)) {
        write_file(kTracing + "tracing_on", "1");
        write_file(kTracing + "trace", "");
        for (const std::string &event : events_)
            write_file(kTracing + "events/" + event + "/enable", "1");
    }
    ~Tracing() {
        for (const std::string &event : events_)
            write_file(kTracing + "events/" + event + "/enable", "0");
        write_file(kTracing + "trace", "");
    }
    Tracing(const Tracing &) = delete;
    Tracing &operator=(const Tracing &) = delete;

    // The lines of @event so far, in order.
    static std::vector<std::string> lines(const std::string &event) {
        std::istringstream text(read_file(kTracing + "trace"));
        std::vector<std::string> found;
        for (std::string line; std::getline(text, line);)
            if (line.find(" " + event + ": ") != std::string::npos)
                found.push_back(line);
        return found;
    }
    // The ring buffers, as perf reads them.
    static std::string raw() {
        std::string bytes;
        for (const auto &cpu : std::filesystem::directory_iterator(kTracing + "per_cpu")) {
            const UniqueFd fd(
                ::open((cpu.path() / "trace_pipe_raw").c_str(), O_RDONLY | O_NONBLOCK | O_CLOEXEC));
            std::vector<char> page(1 << 16);
            for (ssize_t n = 0; (n = ::read(fd.get(), page.data(), page.size())) > 0;)
                bytes.append(page.data(), static_cast<std::size_t>(n));
        }
        return bytes;
    }

  private:
    std::vector<std::string> events_;
};

// The word behind "NAME=" in a line of the trace.
std::string field(const std::string &line, const std::string &name) {
    const auto at = line.find(" " + name + "=");
    if (at == std::string::npos)
        return {};
    const auto start = at + name.size() + 2;
    return line.substr(start, line.find(' ', start) - start);
}

std::vector<std::string> fields(const std::vector<std::string> &lines, const std::string &name) {
    std::vector<std::string> values;
    for (const std::string &line : lines)
        values.push_back(field(line, name));
    return values;
}

std::string inode_of(int fd) {
    struct stat status {};
    EXPECT_EQ(::fstat(fd, &status), 0);
    return std::to_string(status.st_ino);
}

class Observe : public testing::Test {};
class ObserveWorld : public testing::Test {};

TEST_F(Observe, TheLifeOfAnSaInTheTrace) {
    const NetNamespace net;
    const InNamespace inside(net);
    const Tracing tracing({"udp_crypto"});
    const PacketKeys keys = keys_of_seed(Cipher::kAes256Gcm, 0x7ace);
    Loopback loopback(Family::kIpv4, true);
    const int sender = loopback.sender.get();
    const std::uint32_t sa = add_sa_index(sender, 1, keys, 0, 1000);
    const std::string inode = inode_of(sender);
    for (std::uint64_t pn : {1, 2, 3}) {
        EXPECT_GT(
            send(sender, make_packet(kShape, pn, 1000), Control().quic(pn, sa, kShape.pn_offset())),
            0);
        EXPECT_TRUE(receive(loopback.receiver.get()).has_value());
    }
    ASSERT_EQ(del_sa(sender, 1), 0);

    const auto added = Tracing::lines("udp_crypto_sa_add");
    ASSERT_EQ(added.size(), 1U);
    EXPECT_EQ(field(added[0], "sa"), std::to_string(sa));
    EXPECT_EQ(field(added[0], "cipher"), "aes-256-gcm");
    EXPECT_EQ(field(added[0], "inode"), inode);
    EXPECT_EQ(field(added[0], "packet_limit"), "1000");
    const auto paths = Tracing::lines("udp_crypto_sa_path");
    ASSERT_EQ(paths.size(), 1U) << "told once, not for each packet";
    EXPECT_EQ(field(paths[0], "path"), "software");
    const auto deleted = Tracing::lines("udp_crypto_sa_del");
    ASSERT_EQ(deleted.size(), 1U);
    EXPECT_EQ(field(deleted[0], "sa"), std::to_string(sa));
    EXPECT_EQ(field(deleted[0], "packets"), "3");
    EXPECT_EQ(field(deleted[0], "packets_software"), "3");
    EXPECT_EQ(field(deleted[0], "bytes"), std::to_string(3 * (1000 + UDP_QUIC_TAG_LEN)));

    // Nobody gets a piece of a key out of it.
    const std::string raw = Tracing::raw();
    ASSERT_GT(raw.size(), 100U);
    for (const Bytes &secret : {keys.key, keys.hp, keys.iv})
        for (std::size_t i = 0; i + 8 <= secret.size(); i += 4)
            EXPECT_EQ(raw.find(std::string(secret.begin() + static_cast<std::ptrdiff_t>(i),
                                           secret.begin() + static_cast<std::ptrdiff_t>(i + 8))),
                      std::string::npos);
}

// Sends until the device has the SA: its first packets find it without, and software takes them.
void settle(Flow &flow) {
    ASSERT_TRUE(eventually([&flow] {
        EXPECT_GT(flow.send_form({}), 0);
        struct udp_crypto_sa_info info {};
        EXPECT_EQ(get_sa(flow.sender(), 1, &info), 0);
        return info.state == UDP_CRYPTO_SA_DEVICE;
    }));
}

TEST_F(ObserveWorld, PathsChangeWithTheOffload) {
    World world(Wire::kOffload);
    const Tracing tracing({"udp_crypto"});
    Flow flow(world.a, world.b, Address::v4("10.1.1.2", 0));
    const auto send_some = [&] {
        for (int i = 0; i < 3; ++i)
            EXPECT_GT(flow.send_form({.packets = 4}), 0);
    };
    settle(flow);
    send_some();
    world.a.command("ethtool -K va udp-crypto-hw-tx-offload off");
    send_some();
    world.a.command("ethtool -K va udp-crypto-hw-tx-offload on");
    send_some();
    EXPECT_EQ(fields(Tracing::lines("udp_crypto_sa_path"), "path"),
              (std::vector<std::string>{"software", "device", "software", "device"}));
    EXPECT_TRUE(Tracing::lines("udp_crypto_drop").empty());
}

// A drop has its reason, in our own event and in the one that dropwatch and perf listen to.
TEST_F(ObserveWorld, DropsHaveReasons) {
    World world(Wire::kOffload);
    Flow flow(world.a, world.b, Address::v4("10.1.1.2", 0));
    settle(flow);
    world.a.command("tc qdisc replace dev va root netem delay 300ms limit 1000");
    const Tracing tracing({"udp_crypto", "skb/kfree_skb"});
    const std::uint64_t before = flow.sent();
    EXPECT_GT(flow.send_form({}), 0);
    EXPECT_GT(flow.send_form({.packets = 5}), 0);
    ASSERT_EQ(del_sa(flow.sender(), 1), 0);
    ASSERT_TRUE(eventually([&] { return world.count_a("DropNoSa") == flow.sent() - before; }));

    const auto drops = Tracing::lines("udp_crypto_drop");
    ASSERT_EQ(drops.size(), 2U);
    EXPECT_EQ(fields(drops, "packets"), (std::vector<std::string>{"1", "5"}));
    EXPECT_EQ(fields(drops, "sa"), (std::vector<std::string>(2, std::to_string(flow.sa()))));
    for (const std::string &line : drops)
        EXPECT_TRUE(line.ends_with("reason: UDP_CRYPTO_NO_SA")) << line;
    const auto freed = Tracing::lines("kfree_skb");
    EXPECT_EQ(std::count_if(freed.begin(), freed.end(),
                            [](const std::string &line) {
                                return line.find("UDP_CRYPTO_NO_SA") != std::string::npos;
                            }),
              2);
}

TEST_F(Observe, SocketsAndTheirSas) {
    const NetNamespace net;
    const InNamespace inside(net);
    Loopback loopback(Family::kIpv4, true);
    const int sender = loopback.sender.get();
    const std::uint32_t first = add_sa_index(sender, 1, keys_of_seed(Cipher::kAes128Gcm, 1));
    add_sa_index(sender, 2, keys_of_seed(Cipher::kAes128Gcm, 2));
    UniqueFd other = udp_socket(AF_INET6);
    bind_to(other.get(), Address::v6("::1", 0));
    add_sa_index(other.get(), 1, keys_of_seed(Cipher::kChaCha20Poly1305, 3));
    const UniqueFd none = udp_socket(AF_INET);
    EXPECT_GT(
        send(sender, make_packet(kShape, 9, 1000), Control().quic(9, first, kShape.pn_offset())),
        0);

    const auto show = [](const std::vector<std::string> &more) {
        std::vector<std::string> arguments{"--json", "socket", "show"};
        arguments.insert(arguments.end(), more.begin(), more.end());
        const ToolResult result = tool(arguments);
        EXPECT_EQ(result.status, 0) << result.err;
        return json::parse(result.out);
    };
    const std::string inode = inode_of(sender);
    const json all = show({});
    ASSERT_EQ(all.size(), 2U);
    const json mine = show({inode});
    ASSERT_EQ(mine.size(), 1U);
    EXPECT_EQ(std::to_string(mine[0].at("inode").get<std::uint64_t>()), inode);
    EXPECT_EQ(mine[0].at("local"),
              "127.0.0.1:" + std::to_string(Address::of_socket(sender).port()));
    EXPECT_EQ(mine[0].at("peer"), "127.0.0.1:" + std::to_string(loopback.to_address.port()));
    EXPECT_EQ(mine[0].at("sas"), 2U);
    EXPECT_EQ(mine[0].at("states"), (json{{"software", 2}}));
    EXPECT_EQ(mine[0].at("packets"), 1U);
    EXPECT_EQ(mine[0].at("packets_software"), 1U);
    ASSERT_EQ(mine[0].at("processes").size(), 1U);
    EXPECT_EQ(mine[0]["processes"][0].at("pid"), ::getpid());
    EXPECT_EQ(mine[0]["processes"][0].at("name"), "observe_test");
    EXPECT_EQ(show({inode_of(other.get())})[0].at("local"),
              "[::1]:" + std::to_string(Address::of_socket(other.get()).port()));
    EXPECT_EQ(show({"--pid", std::to_string(::getpid())}).size(), 2U);
    EXPECT_EQ(show({"--pid", "1"}).size(), 0U);

    EXPECT_EQ(tool({"socket", "show", inode_of(none.get())}).status, 6);
    EXPECT_EQ(tool({"socket", "show", "no-number"}).status, 2);
    EXPECT_EQ(tool({"socket", "show"}, "", 1000).status, 5);
    const ToolResult text = tool({"socket", "show", inode});
    EXPECT_NE(text.out.find("ino:" + inode + " 127.0.0.1:"), std::string::npos) << text.out;
    EXPECT_NE(text.out.find("SAs 2: 2 software"), std::string::npos) << text.out;

    // An SA of an administrator has no socket.
    const ToolResult sas = tool({"--json", "sa", "show"});
    for (const json &sa : json::parse(sas.out))
        EXPECT_TRUE(sa.contains("inode"));
}

} // namespace
} // namespace quic_test
