// SPDX-License-Identifier: GPL-2.0
//
// What the tests that run in a guest share: two ConnectX models on one wire (MACs 02:..:01 and
// 02:..:02). The second goes into a network namespace, so that what one sends really crosses the
// wire to the other.
#pragma once

#include <arpa/inet.h>
#include <fcntl.h>
#include <linux/if_packet.h>
#include <net/ethernet.h>
#include <net/if.h>
#include <netinet/in.h>
#include <netinet/udp.h>
#include <poll.h>
#include <sched.h>
#include <sys/socket.h>
#include <unistd.h>

#include <gtest/gtest.h>

#include <array>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <functional>
#include <regex>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

#ifndef UDP_SEGMENT
#define UDP_SEGMENT 103
#endif

namespace connectx::guest {

using Bytes = std::vector<std::uint8_t>;

constexpr int kNear = 0; ///< the device under test
constexpr int kFar = 1;  ///< its peer, in namespace "far"

struct Result {
    int status = -1;
    std::string output;
};

inline Result run(const std::string &command) {
    Result r;
    FILE *pipe = popen((command + " 2>&1").c_str(), "r");
    if (pipe == nullptr)
        return r;
    std::array<char, 4096> buf{};
    std::size_t n = 0;
    while ((n = fread(buf.data(), 1, buf.size(), pipe)) > 0)
        r.output.append(buf.data(), n);
    r.status = pclose(pipe);
    return r;
}

#define MUST(command)                                                                              \
    do {                                                                                           \
        const Result must_result = run(command);                                                   \
        ASSERT_EQ(must_result.status, 0) << (command) << "\n" << must_result.output;               \
    } while (0)

inline std::string read_file(const std::string &path) {
    std::ifstream in(path);
    std::stringstream s;
    s << in.rdbuf();
    return s.str();
}

inline std::string device_of(const std::string &mac) {
    for (const auto &e : std::filesystem::directory_iterator("/sys/class/net"))
        if (read_file(e.path() / "address").starts_with(mac))
            return e.path().filename();
    return {};
}

/// Runs `fn` in the namespace of one side.
inline void in_namespace(int side, const std::function<void()> &fn) {
    if (side == kNear) {
        fn();
        return;
    }
    std::thread([&] {
        const int fd = open("/run/netns/far", O_RDONLY | O_CLOEXEC);
        if (fd < 0 || setns(fd, CLONE_NEWNET) != 0) {
            ADD_FAILURE() << "no namespace: " << strerror(errno);
            return;
        }
        close(fd);
        fn();
    }).join();
}

inline int socket_in(int side, int domain, int type, int protocol = 0) {
    int fd = -1;
    in_namespace(side, [&] { fd = socket(domain, type | SOCK_CLOEXEC, protocol); });
    const timeval timeout{.tv_sec = 20, .tv_usec = 0};
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &timeout, sizeof(timeout));
    setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &timeout, sizeof(timeout));
    const int size = 8 << 20;
    setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &size, sizeof(size));
    return fd;
}

struct Address {
    sockaddr_storage storage{};
    socklen_t length = 0;
    [[nodiscard]] const sockaddr *get() const {
        return reinterpret_cast<const sockaddr *>(&storage);
    }
};

/// `net` distinguishes the plain network (1) from those of VLANs.
inline Address address(int side, bool v6, unsigned port, int net = 1) {
    Address a;
    if (v6) {
        auto *s = reinterpret_cast<sockaddr_in6 *>(&a.storage);
        s->sin6_family = AF_INET6;
        s->sin6_port = htons(static_cast<std::uint16_t>(port));
        inet_pton(AF_INET6, ("fd0" + std::to_string(net) + "::" + std::to_string(side + 1)).c_str(),
                  &s->sin6_addr);
        a.length = sizeof(*s);
    } else {
        auto *s = reinterpret_cast<sockaddr_in *>(&a.storage);
        s->sin_family = AF_INET;
        s->sin_port = htons(static_cast<std::uint16_t>(port));
        inet_pton(AF_INET, ("10.1." + std::to_string(net) + "." + std::to_string(side + 1)).c_str(),
                  &s->sin_addr);
        a.length = sizeof(*s);
    }
    return a;
}

inline unsigned next_port() {
    static unsigned port = 20000;
    return ++port;
}

/// The bytes of a stream, never the same when shifted (but by the pattern's odd length, which no
/// buffer has). Copying and comparing is all it costs: under emulation arithmetic for each byte
/// would take longer than sending it.
constexpr std::size_t kPatternSize = 1'000'003;

inline const Bytes &stream_pattern() {
    static const Bytes pattern = [] {
        Bytes p(kPatternSize);
        std::uint64_t x = 0x9e3779b97f4a7c15ULL;
        for (auto &b : p) {
            x = x * 6364136223846793005ULL + 1442695040888963407ULL;
            b = static_cast<std::uint8_t>(x >> 56);
        }
        return p;
    }();
    return pattern;
}

inline Bytes stream(std::uint64_t from, std::size_t size, unsigned seed) {
    const Bytes &pattern = stream_pattern();
    Bytes b;
    b.reserve(size);
    std::size_t at = (from + seed) % kPatternSize;
    while (b.size() < size) {
        const std::size_t n = std::min(size - b.size(), kPatternSize - at);
        const auto first = pattern.begin() + static_cast<std::ptrdiff_t>(at);
        b.insert(b.end(), first, first + static_cast<std::ptrdiff_t>(n));
        at = 0;
    }
    return b;
}

/// How many of the bytes are not those of the stream at that position.
inline std::uint64_t stream_mismatch(const std::uint8_t *data, std::size_t size, std::uint64_t from,
                                     unsigned seed) {
    const Bytes &pattern = stream_pattern();
    std::uint64_t wrong = 0;
    std::size_t at = (from + seed) % kPatternSize;
    for (std::size_t done = 0; done < size;) {
        const std::size_t n = std::min(size - done, kPatternSize - at);
        if (std::memcmp(data + done, pattern.data() + at, n) != 0)
            for (std::size_t i = 0; i < n; ++i)
                wrong += data[done + i] != pattern[at + i];
        done += n;
        at = 0;
    }
    return wrong;
}

class Nic : public testing::Test {
  public:
    static void SetUpTestSuite() {
        if (!near_.empty())
            return;
        near_ = device_of("02:00:00:00:00:01");
        far_ = device_of("02:00:00:00:00:02");
        ASSERT_FALSE(near_.empty() || far_.empty()) << run("ip link").output;
        MUST("ip netns add far");
        MUST("ip link set " + far_ + " netns far");
        run("ip -n far link set lo up");
        run("modprobe -qa 8021q"); // a module with Debian's kernels
        configure();
    }

    static void configure() {
        for (int side : {kNear, kFar}) {
            const std::string ip = side == kNear ? "ip " : "ip -n far ";
            const std::string dev = side == kNear ? near_ : far_;
            const std::string n = std::to_string(side + 1);
            run("printf 'link set " + dev + " up\\naddr replace 10.1.1." + n + "/24 dev " + dev +
                "\\naddr replace fd01::" + n + "/64 dev " + dev + " nodad\\n' | " + ip + "-b -");
        }
    }

    void SetUp() override { ASSERT_TRUE(wait_for_link()); }

    /// Carrier on both sides and an answer to an ARP and a neighbour solicitation.
    static bool wait_for_link(int seconds = 30) {
        const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(seconds);
        while (std::chrono::steady_clock::now() < end) {
            if (reachable(false) && reachable(true))
                return true;
        }
        return false;
    }

    /// Whether a datagram from the far side arrives within a second. No process is started: under
    /// emulation that takes longer than all the rest.
    static bool reachable(bool v6) {
        const unsigned port = next_port();
        const int r = socket_in(kNear, v6 ? AF_INET6 : AF_INET, SOCK_DGRAM);
        const int s = socket_in(kFar, v6 ? AF_INET6 : AF_INET, SOCK_DGRAM);
        const Address here = address(kNear, v6, port);
        const Address there = address(kFar, v6, port);
        bool arrived = false;
        if (bind(r, here.get(), here.length) == 0 && bind(s, there.get(), there.length) == 0) {
            // Out and back, so that both sides know each other's address.
            for (unsigned i = 0; i < 5 && !arrived; ++i) {
                (void)!sendto(r, "?", 1, MSG_DONTWAIT, there.get(), there.length);
                (void)!sendto(s, "!", 1, MSG_DONTWAIT, here.get(), here.length);
                pollfd p[2] = {{.fd = r, .events = POLLIN, .revents = 0},
                               {.fd = s, .events = POLLIN, .revents = 0}};
                char c = 0;
                for (unsigned wait = 0; wait < 4 && !arrived; ++wait) {
                    poll(p, 2, 50);
                    arrived = recv(r, &c, 1, MSG_DONTWAIT | MSG_PEEK) == 1 &&
                              recv(s, &c, 1, MSG_DONTWAIT | MSG_PEEK) == 1;
                }
            }
        }
        close(r);
        close(s);
        return arrived;
    }

    static std::string ethtool(int side, const std::string &arguments) {
        return std::string(side == kNear ? "" : "ip netns exec far ") + "ethtool " + arguments;
    }
    static const std::string &dev(int side) { return side == kNear ? near_ : far_; }
    static std::string ip(int side) { return side == kNear ? "ip " : "ip -n far "; }

    static std::uint64_t stat(int side, const std::string &name) {
        const std::string text = run(ethtool(side, "-S " + dev(side))).output;
        std::smatch m;
        const std::regex re("\\n +" + name + ": ([0-9]+)");
        return std::regex_search(text, m, re) ? std::stoull(m[1]) : 0;
    }

    /// A stream of `size` bytes from one side to the other, every byte compared.
    static void tcp(int from, bool v6, std::uint64_t size, int net = 1) {
        const int to = 1 - from;
        const unsigned port = next_port();
        const int listener = socket_in(to, v6 ? AF_INET6 : AF_INET, SOCK_STREAM);
        const Address at = address(to, v6, port, net);
        ASSERT_EQ(bind(listener, at.get(), at.length), 0) << strerror(errno);
        ASSERT_EQ(listen(listener, 1), 0);
        const unsigned seed = port;
        std::thread sender([&] {
            const int s = socket_in(from, v6 ? AF_INET6 : AF_INET, SOCK_STREAM);
            if (connect(s, at.get(), at.length) != 0) {
                ADD_FAILURE() << "connect: " << strerror(errno);
                shutdown(listener, SHUT_RDWR);
            }
            std::uint64_t done = 0;
            while (done < size) {
                const Bytes part =
                    stream(done, std::min<std::uint64_t>(size - done, 1 << 18), seed);
                std::size_t off = 0;
                while (off < part.size()) {
                    const ssize_t n = send(s, part.data() + off, part.size() - off, MSG_NOSIGNAL);
                    if (n <= 0) {
                        ADD_FAILURE() << "send after " << done + off << ": " << strerror(errno);
                        close(s);
                        return;
                    }
                    off += static_cast<std::size_t>(n);
                }
                done += part.size();
            }
            close(s);
        });
        const int c = accept(listener, nullptr, nullptr);
        std::uint64_t got = 0;
        std::uint64_t wrong = 0;
        if (c >= 0) {
            const timeval timeout{.tv_sec = 60, .tv_usec = 0};
            setsockopt(c, SOL_SOCKET, SO_RCVTIMEO, &timeout, sizeof(timeout));
            Bytes buf(1 << 18);
            ssize_t n = 0;
            while ((n = recv(c, buf.data(), buf.size(), 0)) > 0) {
                wrong += stream_mismatch(buf.data(), static_cast<std::size_t>(n), got, seed);
                got += static_cast<std::uint64_t>(n);
            }
            close(c);
        }
        sender.join();
        close(listener);
        EXPECT_EQ(got, size);
        EXPECT_EQ(wrong, 0U);
    }

    /// One sendmsg of `size` bytes, cut by UDP_SEGMENT if `gso` is not 0; every datagram compared.
    static void udp(int from, bool v6, std::size_t size, std::size_t gso = 0, int net = 1) {
        SCOPED_TRACE("udp size " + std::to_string(size) + " gso " + std::to_string(gso));
        const int to = 1 - from;
        const unsigned port = next_port();
        const int r = socket_in(to, v6 ? AF_INET6 : AF_INET, SOCK_DGRAM);
        const int s = socket_in(from, v6 ? AF_INET6 : AF_INET, SOCK_DGRAM);
        const Address at = address(to, v6, port, net);
        ASSERT_EQ(bind(r, at.get(), at.length), 0) << strerror(errno);
        ASSERT_EQ(connect(s, at.get(), at.length), 0) << strerror(errno);
        if (gso != 0) {
            const int value = static_cast<int>(gso);
            ASSERT_EQ(setsockopt(s, SOL_UDP, UDP_SEGMENT, &value, sizeof(value)), 0);
        }
        const Bytes data = stream(0, size, port);
        ASSERT_EQ(send(s, data.data(), data.size(), 0), static_cast<ssize_t>(size))
            << strerror(errno);
        Bytes buf(70000);
        std::size_t done = 0;
        do {
            const ssize_t n = recv(r, buf.data(), buf.size(), 0);
            ASSERT_GE(n, 0) << "after " << done << " bytes: " << strerror(errno);
            const std::size_t expected = gso == 0 ? size : std::min(gso, size - done);
            ASSERT_EQ(static_cast<std::size_t>(n), expected);
            ASSERT_TRUE(std::equal(buf.begin(), buf.begin() + n,
                                   data.begin() + static_cast<std::ptrdiff_t>(done)));
            done += static_cast<std::size_t>(n);
        } while (done < size);
        close(r);
        close(s);
    }

    static void both_ways(std::uint64_t size = 2 << 20, int net = 1) {
        for (bool v6 : {false, true})
            for (int from : {kNear, kFar}) {
                SCOPED_TRACE(std::string(v6 ? "IPv6" : "IPv4") + (from == kNear ? " out" : " in"));
                tcp(from, v6, size, net);
                udp(from, v6, 1400, 0, net);
            }
    }

    static inline std::string near_;
    static inline std::string far_;
};

} // namespace connectx::guest
