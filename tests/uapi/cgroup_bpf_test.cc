// SPDX-License-Identifier: GPL-2.0
//
// cgroup BPF programs on setsockopt, getsockopt and sendmsg do what they do on any UDP socket.
#include <cstddef>
#include <cstring>

#include <gtest/gtest.h>

#include "cgroup_bpf.h"
#include "loopback.h"

namespace quic_test {
namespace {

constexpr PacketShape kShape{.cid_length = 8, .pn_length = 2};

// Fields of struct bpf_sockopt and struct bpf_sock_addr
constexpr int kOptval = offsetof(bpf_sockopt, optval);
constexpr int kOptvalEnd = offsetof(bpf_sockopt, optval_end);
constexpr int kOptname = offsetof(bpf_sockopt, optname);
constexpr int kUserIp4 = offsetof(bpf_sock_addr, user_ip4);
constexpr int kUserIp6 = offsetof(bpf_sock_addr, user_ip6);
constexpr int kUserPort = offsetof(bpf_sock_addr, user_port);

std::vector<bpf_insn> always(int verdict) { return {bpf::set(0, verdict), bpf::finish()}; }

// 0 (EPERM) for our option only.
std::vector<bpf_insn> deny_our_option() {
    return {bpf::load32(2, 1, kOptname), bpf::set(0, 1),
            bpf::jump_not_equal(2, UDP_CRYPTO_STATE, 1), bpf::set(0, 0), bpf::finish()};
}

// Puts @value at @offset of the option value of our option.
std::vector<bpf_insn> rewrite(int offset, int value) {
    return {bpf::load32(2, 1, kOptname),
            bpf::jump_not_equal(2, UDP_CRYPTO_STATE, 7),
            bpf::load64(2, 1, kOptval),
            bpf::load64(3, 1, kOptvalEnd),
            bpf::move(4, 2),
            bpf::add(4, offset + 4),
            bpf::jump_above(4, 3, 2),
            bpf::set(5, value),
            bpf::store32(2, offset, 5),
            bpf::set(0, 1),
            bpf::finish()};
}

const PacketKeys &some_keys() {
    static const PacketKeys keys = keys_of_seed(Cipher::kAes128Gcm, 1);
    return keys;
}

class CgroupBpf : public testing::Test {
  protected:
    CgroupBpf() { cgroup_.take(::getpid()); }
    Cgroup cgroup_;
};

TEST_F(CgroupBpf, SetsockoptAllowedAndDenied) {
    UniqueFd fd = udp_socket(AF_INET); // made within the group
    {
        const AttachedProgram program(cgroup_, BPF_PROG_TYPE_CGROUP_SOCKOPT, BPF_CGROUP_SETSOCKOPT,
                                      always(1));
        EXPECT_EQ(add_sa(fd.get(), 1, some_keys()), 0);
        EXPECT_EQ(add_sa(fd.get(), 1, some_keys()), -EEXIST);
        EXPECT_EQ(del_sa(fd.get(), 2), -ENOENT);
        // The checks of memory and length are as without a program.
        struct udp_crypto_sa sa = sa_request(9, some_keys());
        EXPECT_EQ(set_state(fd.get(), &sa, sizeof(sa) - 1), -EINVAL);
        EXPECT_EQ(set_state(fd.get(), nullptr, sizeof(sa)), -EFAULT);
        Bytes longer(sizeof(sa) + 9000);
        std::memcpy(longer.data(), &sa, sizeof(sa));
        longer[sizeof(sa) + 8000] = 1;
        EXPECT_EQ(set_state(fd.get(), longer.data(), sizeof(sa) + 8001), -E2BIG);
        EXPECT_EQ(set_state(fd.get(), longer.data(), sizeof(sa) + 100), 0);
    }
    const Statistics before = Statistics::read();
    {
        const AttachedProgram program(cgroup_, BPF_PROG_TYPE_CGROUP_SOCKOPT, BPF_CGROUP_SETSOCKOPT,
                                      deny_our_option());
        EXPECT_EQ(add_sa(fd.get(), 3, some_keys()), -EPERM);
        EXPECT_EQ(del_sa(fd.get(), 1), -EPERM);
        set_option(fd.get(), SOL_SOCKET, SO_RCVBUF, 10000); // others are allowed
    }
    EXPECT_EQ(Statistics::read().all(), before.all());
    EXPECT_EQ(del_sa(fd.get(), 1), 0);
}

TEST_F(CgroupBpf, SetsockoptRewritten) {
    UniqueFd fd = udp_socket(AF_INET);
    {
        // The low half of the cookie, in little endian
        const AttachedProgram program(cgroup_, BPF_PROG_TYPE_CGROUP_SOCKOPT, BPF_CGROUP_SETSOCKOPT,
                                      rewrite(offsetof(udp_crypto_req, cookie), 0x1234));
        EXPECT_EQ(add_sa(fd.get(), 1, some_keys()), 0);
    }
    struct udp_crypto_sa_info info {};
    EXPECT_EQ(get_sa(fd.get(), 1, &info), -ENOENT);
    EXPECT_EQ(get_sa(fd.get(), 0x1234, &info), 0);
    {
        // A cipher that there is none of
        const AttachedProgram program(
            cgroup_, BPF_PROG_TYPE_CGROUP_SOCKOPT, BPF_CGROUP_SETSOCKOPT,
            rewrite(offsetof(udp_crypto_sa, keys) + offsetof(udp_quic_keys, cipher), 77));
        EXPECT_EQ(add_sa(fd.get(), 2, some_keys()), -EOPNOTSUPP);
    }
}

TEST_F(CgroupBpf, GetsockoptAllowedDeniedRewritten) {
    UniqueFd fd = udp_socket(AF_INET6);
    ASSERT_EQ(add_sa(fd.get(), 1, some_keys()), 0);
    struct udp_crypto_sa_info plain {};
    ASSERT_EQ(get_sa(fd.get(), 1, &plain), 0);
    struct udp_crypto_sa_info info {};
    {
        const AttachedProgram program(cgroup_, BPF_PROG_TYPE_CGROUP_SOCKOPT, BPF_CGROUP_GETSOCKOPT,
                                      always(1));
        ASSERT_EQ(get_sa(fd.get(), 1, &info), 0);
        EXPECT_EQ(std::memcmp(&info, &plain, sizeof(info)), 0);
        EXPECT_EQ(get_sa(fd.get(), 2, &info), -ENOENT);
        struct udp_crypto_caps caps {};
        EXPECT_EQ(get_caps(fd.get(), &caps), 0);
    }
    {
        const AttachedProgram program(cgroup_, BPF_PROG_TYPE_CGROUP_SOCKOPT, BPF_CGROUP_GETSOCKOPT,
                                      deny_our_option());
        EXPECT_EQ(get_sa(fd.get(), 1, &info), -EPERM);
        int value = 0;
        socklen_t length = sizeof(value);
        EXPECT_EQ(::getsockopt(fd.get(), SOL_SOCKET, SO_RCVBUF, &value, &length), 0);
    }
    {
        const AttachedProgram program(cgroup_, BPF_PROG_TYPE_CGROUP_SOCKOPT, BPF_CGROUP_GETSOCKOPT,
                                      rewrite(offsetof(udp_crypto_sa_info, sa), 4711));
        ASSERT_EQ(get_sa(fd.get(), 1, &info), 0);
        EXPECT_EQ(info.sa, 4711U);
    }
}

class CgroupBpfSend : public testing::TestWithParam<Family> {
  protected:
    CgroupBpfSend() { cgroup_.take(::getpid()); }
    Cgroup cgroup_;
};

INSTANTIATE_TEST_SUITE_P(Families, CgroupBpfSend, testing::ValuesIn(kAllFamilies),
                         [](const auto &info) { return name(info.param); });

TEST_P(CgroupBpfSend, AllowedDeniedRewritten) {
    // A v4-mapped destination is an IPv4 send to the program, too.
    const bool v4 = GetParam() != Family::kIpv6;
    const bpf_attach_type attach = v4 ? BPF_CGROUP_UDP4_SENDMSG : BPF_CGROUP_UDP6_SENDMSG;
    Loopback loopback(GetParam(), false);
    const int fd = loopback.sender.get();
    const std::uint32_t sa = add_sa_index(fd, 1, some_keys());
    const auto send_one = [&](std::uint64_t pn, const Address &to) {
        return send(fd, make_packet(kShape, pn, 500), Control().quic(pn, sa, kShape.pn_offset()),
                    &to);
    };
    const auto expect_arrives = [&](std::uint64_t pn) {
        const auto wire = receive(loopback.receiver.get());
        ASSERT_TRUE(wire && unprotect(some_keys(), *wire, kShape.pn_offset(), pn)) << pn;
    };
    {
        const AttachedProgram program(cgroup_, BPF_PROG_TYPE_CGROUP_SOCK_ADDR, attach, always(1));
        EXPECT_EQ(send_one(1, loopback.to_address), 500);
        expect_arrives(1);
    }
    {
        const AttachedProgram program(cgroup_, BPF_PROG_TYPE_CGROUP_SOCK_ADDR, attach, always(0));
        const Statistics before = Statistics::read();
        EXPECT_EQ(send_one(2, loopback.to_address), -EPERM);
        EXPECT_EQ(Statistics::read().all(), before.all());
    }
    EXPECT_EQ(send_one(3, loopback.to_address), 500);
    expect_arrives(3);
    {
        // To another port, and for IPv4 another address, than the caller says
        std::vector<bpf_insn> redirect;
        if (v4) {
            redirect = {bpf::set(2, static_cast<int>(htonl(INADDR_LOOPBACK))),
                        bpf::store32(1, kUserIp4, 2)};
        } else {
            redirect = {bpf::set(2, 0),
                        bpf::store32(1, kUserIp6, 2),
                        bpf::store32(1, kUserIp6 + 4, 2),
                        bpf::store32(1, kUserIp6 + 8, 2),
                        bpf::set(2, static_cast<int>(htonl(1))),
                        bpf::store32(1, kUserIp6 + 12, 2)};
        }
        redirect.push_back(bpf::set(2, htons(loopback.to_address.port())));
        redirect.push_back(bpf::store32(1, kUserPort, 2));
        redirect.push_back(bpf::set(0, 1));
        redirect.push_back(bpf::finish());
        const AttachedProgram program(cgroup_, BPF_PROG_TYPE_CGROUP_SOCK_ADDR, attach, redirect);
        const Address elsewhere = GetParam() == Family::kIpv4   ? Address::v4("127.0.0.9", 9)
                                  : GetParam() == Family::kIpv6 ? Address::v6("::2", 9)
                                                                : Address::mapped("127.0.0.9", 9);
        EXPECT_EQ(send_one(4, elsewhere), 500);
        expect_arrives(4);
    }
}

} // namespace
} // namespace quic_test
