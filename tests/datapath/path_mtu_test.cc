// SPDX-License-Identifier: GPL-2.0
//
// UDP_SEGMENT on a socket whose path is narrower than the segment size, or becomes so: what fits
// goes out, what does not is refused with its numbers unused.
#include <gtest/gtest.h>
#include <netinet/udp.h>

#include "world.h"

namespace quic_test {
namespace {

constexpr PacketShape kShape{.cid_length = 8, .pn_length = 4};
constexpr std::size_t kPathMtu = 1280;
constexpr std::size_t kSegment = 1416; // on the wire, tag included

struct Case {
    Wire wire;
    bool v6;
};
std::vector<Case> cases() {
    std::vector<Case> out;
    for (const Wire wire : all_wires())
        for (const bool v6 : {false, true})
            out.push_back({wire, v6});
    return out;
}

class SegmentOverPathMtu : public testing::TestWithParam<Case> {
  protected:
    SegmentOverPathMtu() : world_(GetParam().wire) {
        world_.b.command("ip addr add 10.1.9.9/32 dev lo; ip addr add fd09::9/128 dev lo nodad");
        route(kPathMtu);
        flow_.emplace(world_.a, world_.b,
                      v6() ? Address::v6("fd09::9", 0) : Address::v4("10.1.9.9", 0));
        if (GetParam().wire != Wire::kVeth) {
            flow_->settle(world_);
            flow_->expect_all_arrive(false, &world_);
        }
        set_option(fd(), SOL_UDP, UDP_SEGMENT, kSegment);
        sa_ = add_sa_index(fd(), 2, flow_->keys(), UDP_CRYPTO_SA_F_GUARD_PN);
    }
    static bool v6() { return GetParam().v6; }
    static std::size_t headers() { return (v6() ? 40 : 20) + 8; }
    void route(std::size_t mtu) const {
        world_.a.command((v6() ? "ip -6 route replace fd09::9 via fd01::2 dev va mtu "
                               : "ip route replace 10.1.9.9 via 10.1.1.2 dev va mtu ") +
                         std::to_string(mtu));
    }
    int fd() const { return flow_->sender(); }
    // Bytes taken or -errno; what is taken must arrive as it should.
    ssize_t send_packets(std::uint64_t pn, const std::vector<std::size_t> &sizes, bool tag_room) {
        std::vector<Bytes> packets;
        for (std::size_t i = 0; i < sizes.size(); ++i)
            packets.push_back(make_packet(kShape, pn + i, sizes[i]));
        const ssize_t result = send(
            fd(), tag_room ? join_with_tag_room(packets) : join_packets(packets),
            Control().quic(pn, sa_, kShape.pn_offset(), tag_room ? UDP_QUIC_CRYPTO_F_TAG_ROOM : 0),
            &flow_->to());
        for (std::size_t i = 0; result > 0 && i < packets.size(); ++i)
            EXPECT_EQ(receive(flow_->receiver()),
                      protect(flow_->keys(), packets[i], kShape.pn_offset(), pn + i))
                << "packet " << i;
        return result;
    }
    std::uint64_t packets() const {
        struct udp_crypto_sa_info info {};
        EXPECT_EQ(get_sa(fd(), 2, &info), 0);
        return info.packets;
    }

    World world_;
    std::optional<Flow> flow_;
    std::uint32_t sa_ = 0;
};
INSTANTIATE_TEST_SUITE_P(Wires, SegmentOverPathMtu, testing::ValuesIn(cases()),
                         [](const auto &test) {
                             return std::string(name(test.param.wire)) +
                                    (test.param.v6 ? "Ipv6" : "Ipv4");
                         });

TEST_P(SegmentOverPathMtu, OnePacketThatFits) {
    std::uint64_t pn = 0;
    for (const bool tag_room : {false, true}) {
        const auto hole = static_cast<ssize_t>(tag_room ? UDP_QUIC_TAG_LEN : 0);
        const std::size_t most = kPathMtu - headers() - UDP_QUIC_TAG_LEN;
        for (const std::size_t size : {std::size_t{600}, most - 1, most}) {
            EXPECT_EQ(send_packets(pn, {size}, tag_room), static_cast<ssize_t>(size) + hole)
                << size << (tag_room ? " with tag room" : "");
            ++pn;
        }
        EXPECT_EQ(send_packets(pn, {most + 1}, tag_room), -EMSGSIZE);
        EXPECT_EQ(send_packets(pn, {kSegment - UDP_QUIC_TAG_LEN}, tag_room), -EMSGSIZE);
    }
    // None of the refused ones has used the number.
    EXPECT_GT(send_packets(pn, {100}, false), 0);
    EXPECT_EQ(packets(), pn + 1);
    world_.expect_clean();
}

TEST_P(SegmentOverPathMtu, ABatchIsRefusedAndItsNumbersAreUnused) {
    constexpr std::size_t kFull = kSegment - UDP_QUIC_TAG_LEN;
    for (const bool tag_room : {false, true}) {
        EXPECT_EQ(send_packets(10, {kFull, kFull, 300}, tag_room), -EMSGSIZE);
        EXPECT_EQ(send_packets(10, {kFull, kFull, kFull}, tag_room), -EMSGSIZE);
    }
    EXPECT_EQ(packets(), 0U);
    // The same numbers, as packets that fit.
    set_option(fd(), SOL_UDP, UDP_SEGMENT, 600);
    EXPECT_GT(send_packets(10, {584, 584, 300}, false), 0);
    world_.expect_clean();
}

TEST_P(SegmentOverPathMtu, ThePathNarrowsBetweenTwoBatches) {
    constexpr std::size_t kFull = kSegment - UDP_QUIC_TAG_LEN;
    connect_to(fd(), flow_->to()); // has a route of its own, from before
    route(1500);
    EXPECT_GT(send_packets(0, {kFull, kFull, kFull}, false), 0);
    route(kPathMtu);
    EXPECT_EQ(send_packets(3, {kFull, kFull, kFull}, false), -EMSGSIZE);
    EXPECT_GT(send_packets(3, {600}, false), 0);
    route(1500);
    EXPECT_GT(send_packets(4, {kFull, kFull, 20}, true), 0);
    EXPECT_EQ(packets(), 7U);
    world_.expect_clean();
}

} // namespace
} // namespace quic_test
