// SPDX-License-Identifier: GPL-2.0
//
// ICMP errors quote the packet that they are about. One that waits for a neighbour on its way to an
// encrypting device is still plaintext, and its source address may be another host's by the time
// that the neighbour has not answered.
#include <gtest/gtest.h>

#include "world.h"

namespace quic_test {
namespace {

struct Host {
    const char *name;
    const char *own;     // of the sender, on the offloading device until it moves
    const char *prefix;  // where that address is afterwards: behind another device
    const char *answers; // a neighbour
    const char *silent;  // an address of the link that nobody has
    std::uint8_t protocol;
    std::size_t protocol_at;
    std::size_t headers; // of the error and of the packet it is about, IP to UDP, twice
};

class IcmpErrors : public testing::TestWithParam<Host> {};
INSTANTIATE_TEST_SUITE_P(Of, IcmpErrors,
                         testing::Values(Host{"V4", "10.1.2.1", "10.1.2.0/24", "10.1.1.2",
                                              "10.1.1.77", 1, 9, 20 + 8 + 20 + 8},
                                         Host{"V6", "fd02::1", "fd02::/64", "fd01::2", "fd01::77",
                                              58, 6, 40 + 8 + 40 + 8}),
                         [](const auto &info) { return std::string(info.param.name); });

TEST_P(IcmpErrors, QuoteNoPlaintext) {
    const Host &host = GetParam();
    World world(Wire::kOffload);
    const InNamespace inside(world.a);
    const bool v6 = host.protocol == 58;
    const auto address = [&](const char *text, std::uint16_t port) {
        return v6 ? Address::v6(text, port) : Address::v4(text, port);
    };
    command(std::string("ip addr add ") + host.own + (v6 ? "/128 dev va nodad" : "/32 dev va") +
            "; ip link add elsewhere type dummy; ip link set elsewhere up");
    UniqueFd fd = udp_socket(v6 ? AF_INET6 : AF_INET);
    bind_to(fd.get(), address(host.own, 0));
    const std::uint32_t sa = add_sa_index(fd.get(), 1, keys_of_seed(Cipher::kAes128Gcm, 3));
    const PacketShape shape{.pn_length = 4};
    std::uint64_t pn = 0;
    const auto send_to = [&](const char *to) {
        const Address destination = address(to, 4433);
        const ssize_t result = send(fd.get(), make_packet(shape, pn, 1000),
                                    Control().quic(pn, sa, shape.pn_offset()), &destination);
        ++pn;
        return result;
    };
    ASSERT_TRUE(eventually([&] {
        EXPECT_GT(send_to(host.answers), 0);
        return Statistics::read()["TxDevice"] > 0;
    }));

    const Statistics before = Statistics::read();
    ASSERT_GT(send_to(host.silent), 0);
    // It was not protected in software: it waits, as plaintext, for the neighbour.
    ASSERT_EQ(Statistics::read().since(before, "TxSoftware"), 0U);
    command(std::string("ip addr del ") + host.own + (v6 ? "/128 dev va" : "/32 dev va") +
            "; ip route add " + host.prefix + " dev elsewhere");

    unsigned errors = 0;
    EXPECT_TRUE(eventually([&] {
        for (const Frame &frame : world.sniffer_a().drain()) {
            if (frame.data.size() <= host.headers - 8 ||
                frame.data[host.protocol_at] != host.protocol ||
                (v6 && frame.data[40] != 1)) // neighbour discovery is ICMP, too
                continue;
            ++errors;
            EXPECT_FALSE(contains_plaintext(frame.data)) << "plaintext in an ICMP error";
            EXPECT_EQ(frame.data.size(), host.headers) << "it quotes the headers alone";
        }
        return errors > 0;
    })) << "no ICMP error was sent";
}

} // namespace
} // namespace quic_test
