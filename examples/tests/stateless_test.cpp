// SPDX-License-Identifier: GPL-2.0
//
// What the example server answers to datagrams that belong to no connection, and what the status
// page serves: over loopback, on any kernel.
#include "server.hpp"
#include "status.hpp"

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <thread>
#include <vector>

#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

namespace {

using namespace quic_server;
using Bytes = std::vector<std::uint8_t>;

// A server on a thread, and a socket that talks to it.
class Stateless : public testing::Test {
  protected:
    static constexpr std::size_t kCidLength = 16;

    Stateless() {
        TlsOptions tls;
        tls.ciphers = {offload::Cipher::kAes128Gcm};
        tls_ = TlsContext::make(tls);
        content_ = DocumentRoot::open(std::filesystem::temp_directory_path());
        sockaddr_in loopback{};
        loopback.sin_family = AF_INET;
        loopback.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
        options_.listen = {Address(reinterpret_cast<sockaddr *>(&loopback), sizeof(loopback))};
        options_.path = PathChoice::kUser;
        server_ = Server::make(options_, *tls_, *content_, stats_);
        if (!server_)
            throw std::runtime_error("no server");
        thread_ = std::thread([this] { server_->run(); });
        fd_ = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
        const Address &address = server_->endpoints().front()->address();
        EXPECT_EQ(connect(fd_, &address.any, address.length), 0);
    }
    ~Stateless() override {
        server_->stop();
        const std::uint8_t wake = 0;
        EXPECT_EQ(send(fd_, &wake, 1, 0), 1);
        thread_.join();
        close(fd_);
    }

    // The answer to @datagram. Silence is told from slowness by a second datagram, which is
    // answered.
    std::optional<Bytes> ask(const Bytes &datagram) {
        EXPECT_EQ(send(fd_, datagram.data(), datagram.size(), 0),
                  static_cast<ssize_t>(datagram.size()));
        const Bytes probe = unknown_version(1200, 7, 7);
        EXPECT_EQ(send(fd_, probe.data(), probe.size(), 0), static_cast<ssize_t>(probe.size()));
        Bytes first = receive();
        if (is_answer_to(first, probe))
            return std::nullopt;
        EXPECT_TRUE(is_answer_to(receive(), probe));
        return first;
    }

    // A long header packet of a version that nobody knows (RFC 8999), with connection IDs of 0xd0
    // and 0x50.
    static Bytes unknown_version(std::size_t length, std::size_t dcid_length,
                                 std::size_t scid_length) {
        Bytes packet{0xc3, 0x1a, 0x2a, 0x3a, 0x4a, static_cast<std::uint8_t>(dcid_length)};
        packet.insert(packet.end(), dcid_length, 0xd0);
        packet.push_back(static_cast<std::uint8_t>(scid_length));
        packet.insert(packet.end(), scid_length, 0x50);
        packet.resize(std::max(length, packet.size()));
        return packet;
    }
    static bool is_version_negotiation(const Bytes &packet) {
        return packet.size() > 7 && packet[0] & 0x80 &&
               std::all_of(packet.begin() + 1, packet.begin() + 5, [](auto b) { return b == 0; });
    }

    Stats stats_;

  private:
    Bytes receive() {
        pollfd readable{fd_, POLLIN, 0};
        Bytes packet(2048);
        if (poll(&readable, 1, 30000) != 1) {
            ADD_FAILURE() << "no answer at all";
            return {};
        }
        packet.resize(static_cast<std::size_t>(
            std::max<ssize_t>(0, recv(fd_, packet.data(), packet.size(), 0))));
        return packet;
    }
    static bool is_answer_to(const Bytes &answer, const Bytes &probe) {
        return is_version_negotiation(answer) && answer[5] == probe[5] &&
               answer.size() == 7U + 7U + 7U + 8U;
    }

    ServerOptions options_;
    std::unique_ptr<TlsContext> tls_;
    std::unique_ptr<DocumentRoot> content_;
    std::unique_ptr<Server> server_;
    std::thread thread_;
    int fd_ = -1;
};

TEST_F(Stateless, VersionNegotiation) {
    for (const std::size_t dcid_length : {0, 8, 20, 255})
        for (const std::size_t scid_length : {0, 8, 20, 255}) {
            const auto answer = ask(unknown_version(1201, dcid_length, scid_length));
            ASSERT_TRUE(answer.has_value());
            ASSERT_TRUE(is_version_negotiation(*answer));
            // The IDs change places (RFC 9000 section 17.2.1).
            ASSERT_EQ(answer->size(), 7 + dcid_length + scid_length + 8);
            EXPECT_EQ((*answer)[5], scid_length);
            EXPECT_EQ(std::count(answer->begin() + 6, answer->end(), 0x50) >=
                          static_cast<std::ptrdiff_t>(scid_length),
                      true);
            EXPECT_EQ((*answer)[6 + scid_length], dcid_length);
            const Bytes versions(answer->end() - 8, answer->end());
            EXPECT_EQ(Bytes(versions.begin(), versions.begin() + 4), (Bytes{0, 0, 0, 1}));
            for (std::size_t i = 4; i < 8; ++i) // a reserved one
                EXPECT_EQ(versions[i] & 0x0f, 0x0a);
        }
}

TEST_F(Stateless, NoAnswerToAShortDatagramOfAnUnknownVersion) {
    EXPECT_FALSE(ask(unknown_version(1199, 8, 8)).has_value());
}

// RFC 9000 section 10.3: looks like a short header packet, is shorter than what it answers.
TEST_F(Stateless, Reset) {
    for (const std::size_t length : {22, 23, 40, 43, 100, 1200}) {
        SCOPED_TRACE(length);
        Bytes packet(length, 0x77);
        packet[0] = 0x41;
        const auto answer = ask(packet);
        ASSERT_TRUE(answer.has_value());
        EXPECT_LT(answer->size(), length);
        EXPECT_GE(answer->size(), 21U);
        EXPECT_EQ((*answer)[0] & 0xc0, 0x40);
        // The token is that of the connection ID, whatever else is in the packet.
        packet[1 + kCidLength] ^= 1;
        const auto again = ask(packet);
        ASSERT_TRUE(again.has_value());
        EXPECT_TRUE(std::equal(answer->end() - 16, answer->end(), again->end() - 16));
        EXPECT_NE(*answer, *again) << "the rest is random";
        packet[1] ^= 1;
        const auto other = ask(packet);
        ASSERT_TRUE(other.has_value());
        EXPECT_FALSE(std::equal(answer->end() - 16, answer->end(), other->end() - 16));
    }
}

TEST_F(Stateless, NoResetForWhatIsTooShortToBeAPacket) {
    for (const std::size_t length : {1, 5, 17, 21}) {
        SCOPED_TRACE(length);
        EXPECT_FALSE(ask(Bytes(length, 0x41)).has_value());
    }
}

// An Initial packet in too short a datagram, garbage behind a valid header: nothing, and no
// connection.
TEST_F(Stateless, BrokenInitialPacketsAreIgnored) {
    Bytes initial{0xc3, 0, 0, 0, 1, 8};
    initial.insert(initial.end(), 8, 0xd0);
    initial.push_back(0);
    initial.resize(1199);
    EXPECT_FALSE(ask(initial).has_value());
}

// --- the status page
// ------------------------------------------------------------------------------

class NothingElse : public ContentSource {
  public:
    Response get(std::string_view) override {
        Response response;
        response.status = 418;
        return response;
    }
};

std::string text_of(Response &response) {
    const auto bytes = response.body->bytes();
    return {bytes.begin(), bytes.end()};
}

TEST(Status, PageAndItsParts) {
    NothingElse rest;
    Stats stats;
    StatusPage page(rest, stats);
    for (const auto &[path, type, begin] :
         {std::tuple{"/status/", "text/html; charset=utf-8", "<!DOCTYPE html>"},
          std::tuple{"/status/index.html?x", "text/html; charset=utf-8", "<!DOCTYPE html>"},
          std::tuple{"/status/status.js", "text/javascript; charset=utf-8", "// SPDX"},
          std::tuple{"/status/icon.svg", "image/svg+xml", "<svg"},
          std::tuple{"/status/path.svg", "image/svg+xml", "<svg"}}) {
        Response response = page.get(path);
        EXPECT_EQ(response.status, 200);
        EXPECT_EQ(response.content_type, type);
        EXPECT_TRUE(text_of(response).starts_with(begin)) << path;
    }
    EXPECT_EQ(page.get("/status/nothing").status, 404);
    EXPECT_EQ(page.get("/statu").status, 418);
    EXPECT_EQ(page.get("/").status, 418);
    EXPECT_EQ(page.get("").status, 418);
}

TEST(Status, CountersAreThoseOfTheServer) {
    NothingElse rest;
    Stats stats;
    stats.user.packets = 17;
    StatusPage page(rest, stats);
    Response response = page.get("/status/counters.json");
    EXPECT_EQ(response.content_type, "application/json");
    const auto json = nlohmann::json::parse(text_of(response));
    EXPECT_EQ(json.at("server").at("send").at("user").at("packets"), 17);
    EXPECT_TRUE(json.at("kernel").is_object());
    EXPECT_TRUE(json.at("devices").is_array());
    EXPECT_GT(json.at("time_ms"), 0);
}

} // namespace
