// SPDX-License-Identifier: GPL-2.0
//
// What one tenant takes is counted as the tenant's, is bounded, and takes nothing from the others.
#include <cerrno>
#include <functional>
#include <vector>

#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "cgroup.h"
#include "world.h"

namespace quic_test {
namespace {

constexpr PacketShape kShape{.cid_length = 8, .pn_length = 4};
constexpr std::size_t kSize = 200;

// A process in a memory control group, which does one thing after another when it is told to.
class Tenant {
  public:
    explicit Tenant(const Cgroup &cgroup, std::vector<std::function<void()>> steps) {
        int ends[2];
        if (::socketpair(AF_UNIX, SOCK_STREAM, 0, ends) != 0)
            throw_errno("socketpair");
        ours_ = UniqueFd(ends[0]);
        UniqueFd theirs(ends[1]);
        pid_ = ::fork();
        if (pid_ < 0)
            throw_errno("fork");
        if (pid_ == 0) {
            ours_.reset();
            char byte = 0;
            for (const auto &step : steps) {
                if (::read(theirs.get(), &byte, 1) != 1)
                    ::_exit(1);
                step();
                if (testing::Test::HasFailure() || ::write(theirs.get(), &byte, 1) != 1)
                    ::_exit(2);
            }
            ::_exit(::read(theirs.get(), &byte, 1) == 0 ? 0 : 3);
        }
        cgroup.take(pid_);
    }
    ~Tenant() {
        if (pid_ > 0)
            static_cast<void>(end());
    }
    Tenant(const Tenant &) = delete;
    Tenant &operator=(const Tenant &) = delete;

    // Has the next step done; false if the process did not live to tell.
    [[nodiscard]] bool step() {
        char byte = 1;
        return ::write(ours_.get(), &byte, 1) == 1 && ::read(ours_.get(), &byte, 1) == 1;
    }
    // As of waitpid()
    int end() {
        ours_.reset();
        int status = -1;
        ::waitpid(pid_, &status, 0);
        pid_ = -1;
        return status;
    }

  private:
    UniqueFd ours_;
    pid_t pid_ = -1;
};

// Over veth software protects packets as they are sent; over the simulated device a worker sets up
// ciphers for it in addition.
class Isolation : public testing::TestWithParam<Wire> {
  protected:
    static constexpr unsigned kSas = 2000;

    Isolation() { cgroup_.count_memory(); }

    void open() {
        const InNamespace inside(world_.a);
        socket_ = udp_socket(AF_INET);
    }
    void add(std::uint32_t flags = 0) {
        for (std::uint64_t cookie = 0; cookie < kSas; ++cookie)
            ASSERT_EQ(add_sa(socket_.get(), cookie, keys_, flags), 0);
    }
    // One packet with each SA, which nobody receives
    void send_with(const UniqueFd &socket, std::uint32_t first) {
        const Address to = Address::v4("10.1.1.2", 9);
        for (std::uint32_t i = 0; i < kSas; ++i)
            ASSERT_EQ(send(socket.get(), make_packet(kShape, 1, kSize),
                           Control().quic(1, first + i, kShape.pn_offset()), &to),
                      static_cast<ssize_t>(kSize));
    }
    std::uint64_t slab() const { return cgroup_.number("memory.stat", "slab_unreclaimable"); }
    // Bytes for each SA, once it is at least as many
    void expect_grows(std::uint64_t before, unsigned at_least, const char *what) {
        const bool grew = eventually([&] { return slab() >= before + at_least * kSas; });
        const double each = (static_cast<double>(slab()) - static_cast<double>(before)) / kSas;
        EXPECT_TRUE(grew) << each << " bytes for each SA";
        RecordProperty(what, std::to_string(each));
        std::cout << what << ": " << each << " bytes for each SA\n";
    }
    void expect_falls_to(std::uint64_t before) {
        EXPECT_TRUE(eventually([&] { return slab() <= before + 64 * kSas; }))
            << (static_cast<double>(slab()) - static_cast<double>(before)) / kSas
            << " bytes for each SA are left";
    }

    Cgroup cgroup_;
    World world_{GetParam()};
    const PacketKeys keys_ = keys_of_seed(Cipher::kAes128Gcm, 1);
    UniqueFd socket_;
    // Less than an SA takes (272), and than its ciphers do, once or twice (2376)
    static constexpr unsigned kSaBytes = 200;
    static constexpr unsigned kCipherBytes = 1600;
    unsigned cipher_bytes() const {
        return GetParam() == Wire::kVeth ? kCipherBytes : 2 * kCipherBytes;
    }
};

INSTANTIATE_TEST_SUITE_P(Wires, Isolation, testing::Values(Wire::kVeth, Wire::kOffload),
                         [](const auto &info) { return name(info.param); });

TEST_P(Isolation, SasAndTheirCiphersAreTheTenantsMemory) {
    Tenant tenant(cgroup_, {[&] { open(); }, [&] { add(); },
                            [&] { send_with(socket_, sa_index(socket_.get(), 0)); },
                            [&] { socket_.reset(); }});
    ASSERT_TRUE(tenant.step());
    const std::uint64_t before = slab();
    ASSERT_TRUE(tenant.step());
    expect_grows(before, kSaBytes, "SA");
    const std::uint64_t added = slab();
    ASSERT_TRUE(tenant.step());
    expect_grows(added, cipher_bytes(), "ciphers");
    ASSERT_TRUE(tenant.step());
    expect_falls_to(before);
    EXPECT_EQ(tenant.end(), 0);
    world_.expect_clean();
}

// Whoever uses a shared SA first does not pay for its ciphers.
TEST_P(Isolation, CiphersAreTheMemoryOfTheSasOwner) {
    auto *first = static_cast<std::uint32_t *>(::mmap(
        nullptr, sizeof(std::uint32_t), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0));
    ASSERT_NE(first, MAP_FAILED);
    Tenant tenant(cgroup_, {[&] {
                                open();
                                add(UDP_CRYPTO_SA_F_SAME_UID);
                                *first = sa_index(socket_.get(), 0);
                            },
                            [&] { socket_.reset(); }});
    const std::uint64_t before = slab();
    ASSERT_TRUE(tenant.step());
    expect_grows(before, kSaBytes, "SA");
    const std::uint64_t added = slab();
    open(); // in this process, which is in no group
    send_with(socket_, *first);
    expect_grows(added, cipher_bytes(), "ciphers");
    ASSERT_TRUE(tenant.step());
    expect_falls_to(before);
    EXPECT_EQ(tenant.end(), 0);
    ::munmap(first, sizeof(std::uint32_t));
    world_.expect_clean();
}

// A group's limit ends who takes more, not the others.
TEST_P(Isolation, TheGroupsLimitHolds) {
    constexpr std::uint64_t kLimit = 12 << 20;
    cgroup_.write("memory.max", std::to_string(kLimit));
    const std::uint64_t kills = cgroup_.number("memory.events", "oom_kill");
    Tenant tenant(cgroup_, {[&] { open(); },
                            [&] {
                                int err = 0;
                                for (std::uint64_t cookie = 0; err == 0; ++cookie)
                                    err = add_sa(socket_.get(), cookie, keys_);
                                ASSERT_EQ(err, -ENOMEM);
                            }});
    ASSERT_TRUE(tenant.step());
    const bool refused = tenant.step();
    const std::uint64_t peak = cgroup_.number("memory.peak");
    EXPECT_LE(peak, kLimit);
    EXPECT_GT(peak, kLimit / 2);
    const int status = tenant.end();
    if (!refused) {
        EXPECT_TRUE(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL) << status;
        EXPECT_EQ(cgroup_.number("memory.events", "oom_kill"), kills + 1);
    }
    // All of it comes back, and the others have not noticed.
    EXPECT_TRUE(eventually([&] { return world_.count_a("SaCurr") == 0; }));
    EXPECT_TRUE(eventually([&] { return cgroup_.number("memory.current") < kLimit / 4; }))
        << cgroup_.number("memory.current");
    open();
    add();
    send_with(socket_, sa_index(socket_.get(), 0));
    world_.expect_clean();
}

} // namespace
} // namespace quic_test
