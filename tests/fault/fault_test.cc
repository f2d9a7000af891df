// SPDX-License-Identifier: GPL-2.0
//
// Each allocation and each copy to or from user space on the way of an operation fails once
// (/proc/thread-self/fail-nth, Documentation/fault-injection). After each failure: the error is one
// that is documented, nothing has changed, and nothing is on the wire but what should be. That no
// memory was lost the guest's runner finds out at the end (kmemleak); KASAN and lockdep watch.
#include <cstring>
#include <functional>
#include <map>
#include <set>

#include <fcntl.h>
#include <gtest/gtest.h>
#include <linux/netlink.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/wait.h>

#include "raw_netlink.h"
#include "world.h"

#ifndef SO_ZEROCOPY
#define SO_ZEROCOPY 60
#endif

namespace quic_test {
namespace {

constexpr const char *kFailNth = "/proc/thread-self/fail-nth";
constexpr PacketShape kShape{.cid_length = 4, .pn_length = 4};
constexpr std::size_t kSize = 600;

class Faults : public testing::Test {
  protected:
    void SetUp() override {
        if (::access(kFailNth, W_OK) != 0)
            GTEST_SKIP() << "this kernel has no CONFIG_FAULT_INJECTION (" << kFailNth
                         << " is not there): run it with --kernel debug";
        // All allocations, also those that may wait; quietly.
        for (const char *setting :
             {"failslab/ignore-gfp-wait N", "failslab/verbose 0",
              "fail_page_alloc/ignore-gfp-wait N", "fail_page_alloc/ignore-gfp-highmem N",
              "fail_page_alloc/min-order 0", "fail_page_alloc/verbose 0",
              "fail_usercopy/verbose 0"}) {
            const std::string text(setting);
            const auto space = text.find(' ');
            write_file("/sys/kernel/debug/" + text.substr(0, space), text.substr(space + 1));
        }
        // A page fault in the middle of an operation would be one of the things that fail.
        ASSERT_EQ(::mlockall(MCL_CURRENT | MCL_FUTURE), 0);
        fail_nth_ = UniqueFd(::open(kFailNth, O_RDWR | O_CLOEXEC));
        ASSERT_GE(fail_nth_.get(), 0);
    }
    void TearDown() override { ::munlockall(); }

    void arm(unsigned n) const {
        const std::string text = std::to_string(n);
        if (::pwrite(fail_nth_.get(), text.data(), text.size(), 0) !=
            static_cast<ssize_t>(text.size()))
            throw_errno("fail-nth");
    }
    // Whether it was injected; in any case no more is. One that is still to come may hit these very
    // calls, which copy from and to user space.
    bool disarm() const {
        char text[16] = "";
        const ssize_t n = ::pread(fail_nth_.get(), text, sizeof(text) - 1, 0);
        if (::pwrite(fail_nth_.get(), "0", 1, 0) != 1)
            arm(0);
        return n > 0 && std::atoi(text) == 0;
    }

    // Does @operation with its first, second, ... step failing, until none fails any more. It
    // returns 0 or more, or -errno; @after judges what it left behind. How many faults there were.
    // @allowed: the errors it may give; none named: any.
    unsigned each_fault(
        const std::string &what, const std::set<int> &allowed,
        const std::function<long()> &operation, const std::function<void(long result)> &after,
        const std::function<void()> &before = [] {}) {
        std::map<long, unsigned> results;
        unsigned n = 1;
        for (; n < 1000; ++n) {
            before();
            arm(n);
            const long result = operation();
            const bool injected = disarm();
            ++results[result < 0 ? result : 0];
            if (result < 0) {
                EXPECT_TRUE(allowed.empty() || allowed.contains(static_cast<int>(-result)))
                    << what << ": fault " << n << " gives "
                    << std::strerror(static_cast<int>(-result));
            }
            after(result);
            if (!injected) {
                EXPECT_GE(result, 0) << what << " fails without a fault";
                break;
            }
            if (HasFailure())
                break;
        }
        EXPECT_LT(n, 1000U) << what << " never comes to an end";
        EXPECT_GT(n, 1U) << what << ": nothing was injected at all";
        std::string text;
        for (const auto &[result, times] : results)
            text += " " +
                    (result < 0 ? std::string(::strerrorname_np(static_cast<int>(-result)))
                                : std::string("ok")) +
                    " " + std::to_string(times);
        std::printf("faults: %-34s %4u injected:%s\n", what.c_str(), n - 1, text.c_str());
        return n - 1;
    }

    UniqueFd fail_nth_;
};

long set_state_quietly(int fd, const void *value, socklen_t length) {
    return ::setsockopt(fd, SOL_UDP, UDP_CRYPTO_STATE, value, length) == 0 ? 0 : -errno;
}

TEST_F(Faults, AddShowDelete) {
    UniqueFd fd = udp_socket(AF_INET);
    for (std::uint32_t flags : {0U, UDP_CRYPTO_SA_F_GUARD_PN | 0U}) {
        const struct udp_crypto_sa add =
            sa_request(1, keys_of_seed(Cipher::kAes128Gcm, 1), flags, 100);
        const auto delete_it = [&] {
            if (const int error = del_sa(fd.get(), 1); error != -ENOENT) {
                EXPECT_EQ(error, 0);
            }
        };
        Statistics before;
        each_fault(
            flags == 0 ? "add an SA" : "add a guarded SA", {ENOMEM, EFAULT},
            [&] { return set_state_quietly(fd.get(), &add, sizeof(add)); },
            [&](long result) {
                const Statistics now = Statistics::read();
                EXPECT_EQ(now["SaCurr"], result == 0 ? 1U : 0U);
                EXPECT_EQ(now.since(before, "SaAdded"), result == 0 ? 1U : 0U);
            },
            [&] {
                delete_it();
                before = Statistics::read();
            });
    }
    struct udp_crypto_sa_info info {};
    socklen_t length = 0;
    each_fault(
        "show an SA", {EFAULT},
        [&] {
            return ::getsockopt(fd.get(), SOL_UDP, UDP_CRYPTO_STATE, &info, &length) == 0 ? 0L
                                                                                          : -errno;
        },
        [&](long result) {
            if (result == 0) {
                EXPECT_EQ(info.packet_limit, 100U);
            }
        },
        [&] {
            info = {};
            info.req = request(UDP_CRYPTO_OP_GET_SA, 1);
            length = sizeof(info);
        });
    const struct udp_crypto_req del = request(UDP_CRYPTO_OP_DEL_SA, 1);
    each_fault(
        "delete an SA", {EFAULT}, [&] { return set_state_quietly(fd.get(), &del, sizeof(del)); },
        [&](long result) { EXPECT_EQ(Statistics::read()["SaCurr"], result == 0 ? 0U : 1U); },
        [&] { add_sa(fd.get(), 1, keys_of_seed(Cipher::kAes128Gcm, 1)); });
}

// A send in all forms. Each time with a new SA, so that the ciphers are set up on the way.
struct Form {
    const char *name;
    bool inline_keys;
    bool tag_room;
    bool zerocopy;
    unsigned packets;
    std::uint32_t flags;
};
constexpr Form kForms[]{{"one packet", false, false, false, 1, 0},
                        {"one packet, guarded", false, false, false, 1, UDP_CRYPTO_SA_F_GUARD_PN},
                        {"keys inline", true, false, false, 1, 0},
                        {"a batch", false, false, false, 9, 0},
                        {"a batch, keys inline", true, true, false, 9, 0},
                        {"a batch, zero copy", false, true, true, 9, UDP_CRYPTO_SA_F_GUARD_PN}};

class SendFaults : public Faults {
  protected:
    // One for a send that was taken, with the next number; none for a refused one.
    void expect_completion(int fd, bool taken) {
        const auto completion =
            zerocopy_completion(fd, std::chrono::milliseconds(taken ? 5000 : 0));
        ASSERT_EQ(completion.has_value(), taken);
        if (!taken)
            return;
        EXPECT_EQ(completion->first, next_completion_);
        EXPECT_EQ(completion->last, next_completion_);
        next_completion_ = completion->last + 1;
    }
    std::uint32_t next_completion_ = 0; // of the socket

    void send_all_forms(World &world, const std::string &where, const Address &destination) {
        UniqueFd receiver;
        Address to = destination;
        world.b.run([&] {
            receiver = udp_socket(AF_INET6);
            set_option(receiver.get(), SOL_SOCKET, SO_RCVBUFFORCE, 32 << 20);
            bind_to(receiver.get(), Address::v6("::", 0));
            to.set_port(Address::of_socket(receiver.get()).port());
        });
        const InNamespace inside(world.a);
        for (Cipher cipher : {Cipher::kAes128Gcm, Cipher::kChaCha20Poly1305, Cipher::kAes128Ccm})
            for (const Form &form : kForms) {
                UniqueFd fd = udp_socket(to.family());
                next_completion_ = 0;
                set_option(fd.get(), SOL_SOCKET, SO_ZEROCOPY, 1);
                const PacketKeys keys = keys_of_seed(cipher, 0xfa);
                std::uint64_t cookie = 0;
                std::uint64_t pn = 0;
                std::set<std::uint64_t> taken;
                Bytes data;
                Bytes control;
                iovec part{};
                msghdr header{};
                struct udp_crypto_sa_info info_before {};
                Statistics before;
                const auto prepare = [&] {
                    // The offload knows an SA by its first packets, and software has its ciphers
                    // then.
                    if (cookie % 3 == 0) {
                        if (cookie != 0)
                            del_sa(fd.get(), cookie - 2);
                        if (add_sa(fd.get(), ++cookie, keys, form.flags) != 0)
                            throw_errno("add");
                    } else {
                        ++cookie;
                    }
                    const std::uint64_t sa_cookie = cookie - (cookie + 2) % 3;
                    std::vector<Bytes> packets;
                    for (unsigned i = 0; i < form.packets; ++i)
                        packets.push_back(make_packet(kShape, pn + i, kSize));
                    data = form.tag_room ? join_with_tag_room(packets) : join_packets(packets);
                    const std::uint16_t flags = form.tag_room ? UDP_QUIC_CRYPTO_F_TAG_ROOM : 0;
                    Control c;
                    if (form.inline_keys)
                        c.quic_inline(pn, keys, kShape.pn_offset(), flags);
                    else
                        c.quic(pn, sa_index(fd.get(), sa_cookie), kShape.pn_offset(), flags);
                    if (form.packets > 1)
                        c.gso_size(kSize + UDP_QUIC_TAG_LEN);
                    control = c.bytes();
                    part = {data.data(), data.size()};
                    header = {};
                    header.msg_name = &to.storage;
                    header.msg_namelen = to.length;
                    header.msg_iov = &part;
                    header.msg_iovlen = 1;
                    header.msg_control = control.data();
                    header.msg_controllen = control.size();
                    before = Statistics::read();
                    ASSERT_EQ(get_sa(fd.get(), sa_cookie, &info_before), 0);
                };
                each_fault(
                    where + ", " + form.name + ", " + name(cipher), {ENOMEM, ENOBUFS, EFAULT},
                    [&]() -> long {
                        const ssize_t n =
                            ::sendmsg(fd.get(), &header, form.zerocopy ? MSG_ZEROCOPY : 0);
                        return n < 0 ? -errno : n;
                    },
                    [&](long result) {
                        const std::uint64_t sa_cookie = cookie - (cookie + 2) % 3;
                        struct udp_crypto_sa_info info {};
                        ASSERT_EQ(get_sa(fd.get(), sa_cookie, &info), 0);
                        const Statistics now = Statistics::read();
                        // An error is a refusal: what fails below the socket is not told.
                        const std::uint64_t counted = now.since(before, "TxPackets");
                        EXPECT_EQ(counted, result < 0 ? 0U : form.packets);
                        if (form.zerocopy)
                            expect_completion(fd.get(), result >= 0);
                        if (!form.inline_keys) {
                            EXPECT_EQ(info.packets - info_before.packets, counted);
                            EXPECT_EQ(info.bytes - info_before.bytes,
                                      counted * (kSize + UDP_QUIC_TAG_LEN));
                        }
                        // The numbers of a failed send are unused: the guard lets them pass.
                        if (counted == 0 && (form.flags & UDP_CRYPTO_SA_F_GUARD_PN) != 0) {
                            const ssize_t again = ::sendmsg(fd.get(), &header, 0);
                            EXPECT_EQ(again, static_cast<ssize_t>(data.size()))
                                << std::strerror(errno);
                        }
                        for (unsigned i = 0; i < form.packets; ++i)
                            taken.insert(pn++);
                        for (std::optional<Bytes> wire;
                             (wire = receive(receiver.get(), std::chrono::milliseconds(0)));) {
                            EXPECT_FALSE(contains_plaintext(*wire)) << "PLAINTEXT";
                            const auto opened = unprotect(keys, *wire, kShape.pn_offset(), pn);
                            ASSERT_TRUE(opened.has_value()) << "arrived broken";
                            EXPECT_TRUE(taken.contains(opened->pn));
                            EXPECT_EQ(opened->packet, make_packet(kShape, opened->pn, kSize));
                        }
                    },
                    prepare);
                if (HasFailure())
                    return;
            }
        world.expect_clean(true);
    }
};

TEST_F(SendFaults, Software) {
    World world(Wire::kVeth);
    send_all_forms(world, "software", Address::v4("10.1.1.2", 0));
}

TEST_F(SendFaults, Software6) {
    World world(Wire::kVeth);
    send_all_forms(world, "software, IPv6", Address::v6("fd01::2", 0));
}

TEST_F(SendFaults, Device) {
    World world(Wire::kOffload);
    send_all_forms(world, "device", Address::v4("10.1.1.2", 0));
}

// Meant for the device, redirected to one that does not encrypt: software late, in the same call.
TEST_F(SendFaults, Late) {
    World world(Wire::kOffload);
    world.a.command("ip link add vc type veth peer name vd netns " + world.b.path() +
                    "; ip link set vc up; tc qdisc add dev va clsact; "
                    "tc filter add dev va egress matchall action mirred egress redirect dev vc");
    world.b.command("ip link set vd up address " + World::mac(world.b, "vb") +
                    "; sysctl -qw net.ipv4.conf.all.rp_filter=0");
    world.listen();
    send_all_forms(world, "late", Address::v4("10.1.1.2", 0));
}

// Segments that the stack makes, each with its number.
TEST_F(SendFaults, DeviceWithoutSegmentation) {
    World world(Wire::kOffloadNoSegmentation);
    send_all_forms(world, "segments", Address::v4("10.1.1.2", 0));
}

TEST_F(Faults, Netlink) {
    RawNetlink netlink;
    const PacketKeys keys = keys_of_seed(Cipher::kAes256Gcm, 2);
    const auto flush = [&] {
        netlink.request(UDP_CRYPTO_CMD_SA_FLUSH);
        while (netlink.receive(false)) {
        }
    };
    const auto do_request = [&](const Bytes &message) -> long {
        if (::send(netlink.fd(), message.data(), message.size(), 0) < 0)
            return -errno;
        return 0;
    };
    // Without memory even for the answer none comes: what happened shows in the table alone.
    const Bytes add = netlink.build(UDP_CRYPTO_CMD_SA_ADD, sa_attributes(keys, 0));
    each_fault(
        "netlink: add", {ENOMEM, ENOBUFS, EFAULT, EAGAIN}, [&] { return do_request(add); },
        [&](long) { EXPECT_LE(Statistics::read()["SaCurr"], 1U); }, flush);
    flush();
    for (unsigned i = 0; i < 5; ++i)
        netlink.request(UDP_CRYPTO_CMD_SA_ADD, sa_attributes(keys, 0));
    for (const auto &[what, command, flags] :
         {std::tuple{"netlink: dump of SAs", UDP_CRYPTO_CMD_SA_GET, NLM_F_DUMP},
          std::tuple{"netlink: dump of devices", UDP_CRYPTO_CMD_DEV_GET, NLM_F_DUMP},
          std::tuple{"netlink: statistics", UDP_CRYPTO_CMD_STATS_GET, 0}}) {
        const Bytes message = netlink.build(static_cast<std::uint8_t>(command), {},
                                            static_cast<std::uint16_t>(flags));
        each_fault(
            what, {ENOMEM, ENOBUFS, EFAULT, EAGAIN}, [&] { return do_request(message); },
            [&](long) {
                while (netlink.receive(false)) {
                }
                EXPECT_EQ(Statistics::read()["SaCurr"], 5U);
            });
    }
    flush();
    EXPECT_EQ(Statistics::read()["SaCurr"], 0U);
}

// A network namespace that cannot be made is not half made.
TEST_F(Faults, NetworkNamespace) {
    const UniqueFd here(::open("/proc/thread-self/ns/net", O_RDONLY | O_CLOEXEC));
    // All parts of the network start here, and Linux's give errors of their own.
    each_fault(
        "a network namespace", {},
        [&]() -> long { return ::unshare(CLONE_NEWNET) == 0 ? 0 : -errno; },
        [&](long result) {
            if (result == 0) {
                EXPECT_EQ(Statistics::read()["SaCurr"], 0U);
                ASSERT_EQ(::setns(here.get(), CLONE_NEWNET), 0);
            }
        });
}

} // namespace
} // namespace quic_test
