// SPDX-License-Identifier: GPL-2.0
//
// Nobody can tell another user's SA from none: not by the error, nor by how long the answer takes.
// Run in a guest whose clock counts instructions, so that the answer is the same on any machine.
#include <algorithm>
#include <cerrno>
#include <cmath>
#include <iostream>
#include <limits>

#include <gtest/gtest.h>

#include "icount_clock.h"
#include "loopback.h"

namespace quic_test {
namespace {

constexpr PacketShape kShape{.cid_length = 8, .pn_length = 4};

TEST(Oracle, AnothersSaIsAnsweredLikeNone) {
    const double ns = quic_bench::ns_per_instruction();
    Loopback loopback(Family::kIpv4, true);
    const PacketKeys keys = keys_of_seed(Cipher::kAes128Gcm, 1);
    const UniqueFd other = udp_socket_of_uid(AF_INET, 1000);
    const UniqueFd prober = udp_socket_of_uid(AF_INET, 1001);
    connect_to(prober.get(), loopback.to_address);
    // Some places of the table are taken, some not.
    std::uint32_t foreign = 0;
    for (std::uint64_t cookie = 0; cookie < 5; ++cookie)
        foreign = add_sa_index(other.get(), cookie, keys, UDP_CRYPTO_SA_F_SAME_UID);
    const Bytes packet = make_packet(kShape, 1, 200);

    const auto instructions = [&](std::uint32_t index) {
        const Control control = Control().quic(1, index, kShape.pn_offset());
        std::uint64_t least = std::numeric_limits<std::uint64_t>::max();
        for (int i = 0; i < 64; ++i) {
            const std::uint64_t before = quic_bench::monotonic_ns();
            const ssize_t result = send(prober.get(), packet, control);
            least = std::min(least, quic_bench::monotonic_ns() - before);
            EXPECT_EQ(result, -ENOENT) << index;
        }
        return std::lround(static_cast<double>(least) / ns);
    };
    instructions(foreign); // what is done once is done
    const long anothers = instructions(foreign);
    std::cout << "another user's: " << anothers << " instructions\n";
    for (const std::uint32_t nobodys :
         {foreign + 1, foreign + 2, foreign + 1024, foreign + (1U << 20), 0xfffffffeU}) {
        const long none = instructions(nobodys);
        std::cout << "nobody's, " << nobodys << ": " << none << '\n';
        // A branch this way or that
        EXPECT_LE(std::labs(none - anothers), 8) << nobodys;
    }
}

} // namespace
} // namespace quic_test
