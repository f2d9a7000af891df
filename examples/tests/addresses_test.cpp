// SPDX-License-Identifier: GPL-2.0
//
// Connection IDs without bytes, and several connections of one client address: Debian's
// ngtcp2-client behind a relay, as behind a NAT that has but one port. Over loopback, on any
// kernel.
#include "server.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <string>
#include <thread>
#include <vector>

#include <poll.h>
#include <spawn.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

extern char **environ;

namespace {

using namespace quic_server;

Address loopback(std::uint8_t last, std::uint16_t port) {
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_port = htons(port);
    address.sin_addr.s_addr = htonl(0x7f000000U | last);
    return {reinterpret_cast<sockaddr *>(&address), sizeof(address)};
}

int open_at(const Address &address) {
    const int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    EXPECT_EQ(bind(fd, &address.any, address.length), 0);
    return fd;
}

std::uint16_t port_of(int fd) {
    Address address;
    address.length = sizeof(address.storage);
    getsockname(fd, &address.any, &address.length);
    return ntohs(address.in4.sin_port);
}

// Takes what clients send to one of its doors to one of the server's addresses, all from one port.
// Clients know each other's packets by nothing but their connection IDs, so each gets what comes
// from the address that it talks to.
class Relay {
  public:
    explicit Relay(const std::vector<Address> &servers)
        : outside_(open_at(loopback(1, 0))), servers_(servers) {
        for (std::size_t i = 0; i < servers.size(); ++i)
            doors_.push_back(open_at(loopback(1, 0)));
        thread_ = std::thread([this] { run(); });
    }
    ~Relay() {
        stop_ = true;
        thread_.join();
        close(outside_);
        for (const int door : doors_)
            close(door);
    }
    Relay(const Relay &) = delete;
    Relay &operator=(const Relay &) = delete;

    std::uint16_t door(std::size_t i) const { return port_of(doors_[i]); }

  private:
    void run() {
        std::vector<pollfd> readable{{outside_, POLLIN, 0}};
        for (const int door : doors_)
            readable.push_back({door, POLLIN, 0});
        std::vector<std::vector<Address>> clients(doors_.size());
        std::array<std::uint8_t, 65536> bytes{};
        while (!stop_) {
            if (poll(readable.data(), readable.size(), 50) <= 0)
                continue;
            for (const auto &entry : readable) {
                if (!entry.revents)
                    continue;
                Address from;
                from.length = sizeof(from.storage);
                const ssize_t n =
                    recvfrom(entry.fd, bytes.data(), bytes.size(), 0, &from.any, &from.length);
                if (n < 0)
                    continue;
                const std::span datagram(bytes.data(), static_cast<std::size_t>(n));
                for (std::size_t i = 0; i < doors_.size(); ++i) {
                    if (entry.fd == doors_[i]) {
                        if (std::find(clients[i].begin(), clients[i].end(), from) ==
                            clients[i].end())
                            clients[i].push_back(from);
                        send_to(outside_, datagram, servers_[i]);
                    } else if (entry.fd == outside_ && from == servers_[i]) {
                        for (const Address &client : clients[i])
                            send_to(doors_[i], datagram, client);
                    }
                }
            }
        }
    }
    static void send_to(int fd, std::span<const std::uint8_t> bytes, const Address &to) {
        sendto(fd, bytes.data(), bytes.size(), 0, &to.any, to.length);
    }

    int outside_;
    std::vector<int> doors_;
    std::vector<Address> servers_;
    std::atomic<bool> stop_ = false;
    std::thread thread_;
};

class Addresses : public testing::Test {
  protected:
    Addresses() {
        folder_ = std::filesystem::temp_directory_path() /
                  ("addresses." + std::to_string(getpid()) + "." +
                   testing::UnitTest::GetInstance()->current_test_info()->name());
        std::filesystem::create_directories(folder_);
        std::ofstream(folder_ / "file") << std::string(kBytes, 'q');
        TlsOptions tls;
        tls.ciphers = {offload::Cipher::kAes128Gcm};
        tls_ = TlsContext::make(tls);
        content_ = DocumentRoot::open(folder_);
        options_.listen = {loopback(1, 0), loopback(2, 0)};
        options_.path = PathChoice::kUser;
        options_.connection.cid_length = 0;
        server_ = Server::make(options_, *tls_, *content_, stats_);
        if (!server_)
            throw std::runtime_error("no server");
        thread_ = std::thread([this] { server_->run(); });
        relay_ = std::make_unique<Relay>(
            std::vector{server_->endpoints()[0]->address(), server_->endpoints()[1]->address()});
    }
    ~Addresses() override {
        stop_server();
        std::filesystem::remove_all(folder_);
    }
    void stop_server() {
        if (!thread_.joinable())
            return;
        relay_.reset();
        server_->stop();
        const int fd = open_at(loopback(1, 0));
        const Address &address = server_->endpoints().front()->address();
        sendto(fd, "", 0, 0, &address.any, address.length);
        close(fd);
        thread_.join();
    }

    // Starts a client at @door that asks for the file after @delay.
    pid_t start(std::size_t door, const std::string &name, const std::string &delay) {
        std::filesystem::create_directories(folder_ / name);
        std::vector<std::string> words{"gtlsclient",
                                       "--quiet",
                                       "--exit-on-all-streams-close",
                                       "--timeout=20s",
                                       "--handshake-timeout=3s",
                                       "--delay-stream=" + delay,
                                       "--download=" + (folder_ / name).string(),
                                       "127.0.0.1",
                                       std::to_string(relay_->door(door)),
                                       "https://localhost/file"};
        std::vector<char *> arguments;
        arguments.reserve(words.size() + 1);
        for (auto &word : words)
            arguments.push_back(word.data());
        arguments.push_back(nullptr);
        pid_t pid = -1;
        EXPECT_EQ(posix_spawnp(&pid, "gtlsclient", nullptr, nullptr, arguments.data(), environ), 0);
        return pid;
    }
    static void wait_for(pid_t pid) {
        int status = 0;
        waitpid(pid, &status, 0);
    }
    bool has_file(const std::string &name) {
        std::ifstream file(folder_ / name / "file");
        const std::string text(std::istreambuf_iterator<char>(file), {});
        return text == std::string(kBytes, 'q');
    }

    static constexpr std::size_t kBytes = 300'000;
    Stats stats_;

  private:
    std::filesystem::path folder_;
    ServerOptions options_;
    std::unique_ptr<TlsContext> tls_;
    std::unique_ptr<DocumentRoot> content_;
    std::unique_ptr<Server> server_;
    std::unique_ptr<Relay> relay_;
    std::thread thread_;
};

TEST_F(Addresses, TwoConnectionsToTwoAddressesOfOurs) {
    const pid_t first = start(0, "first", "400ms");
    usleep(200'000);
    const pid_t second = start(1, "second", "400ms");
    wait_for(first);
    wait_for(second);
    EXPECT_TRUE(has_file("first"));
    EXPECT_TRUE(has_file("second"));
    stop_server();
    EXPECT_EQ(stats_.handshakes, 2U);
}

TEST_F(Addresses, SecondConnectionToOneAddressIsRefusedAndTheFirstGoesOn) {
    const pid_t first = start(0, "first", "1s");
    usleep(300'000);
    const pid_t second = start(0, "second", "0s");
    wait_for(second);
    wait_for(first);
    EXPECT_TRUE(has_file("first"));
    EXPECT_FALSE(has_file("second"));
    stop_server();
    EXPECT_EQ(stats_.connections, 1U);
    EXPECT_EQ(stats_.handshakes, 1U);
}

TEST_F(Addresses, OneConnectionAfterTheOther) {
    for (const char *name : {"first", "second", "third"}) {
        wait_for(start(0, name, "0s"));
        EXPECT_TRUE(has_file(name)) << name;
    }
    stop_server();
    EXPECT_EQ(stats_.handshakes, 3U);
}

} // namespace
