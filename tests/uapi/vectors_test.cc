// SPDX-License-Identifier: GPL-2.0
//
// The packets of RFC 9001 appendix A through the kernel: the RFC's bytes arrive.
#include <gtest/gtest.h>

#include "path.h"
#include "rfc9001_vectors.h"

namespace quic_test {
namespace {

class KernelVectors
    : public testing::TestWithParam<std::tuple<rfc9001::Vector, Family, bool, bool>> {};

TEST_P(KernelVectors, GiveTheBytesOfTheRfc) {
    const auto &[vector, family, inline_keys, tag_room] = GetParam();
    Line line(family, true);
    const std::uint16_t flags = tag_room ? UDP_QUIC_CRYPTO_F_TAG_ROOM : 0;
    Control control;
    if (inline_keys)
        control.quic_inline(vector.pn, vector.keys, vector.pn_offset, flags);
    else
        control.quic(vector.pn, line.add_sa(7, vector.keys), vector.pn_offset, flags);
    const Bytes data = tag_room ? join_with_tag_room({vector.packet}) : vector.packet;
    ASSERT_EQ(send(line.sender(), data, control), static_cast<ssize_t>(data.size()));
    const auto wire = receive(line.receiver());
    ASSERT_TRUE(wire.has_value());
    EXPECT_EQ(to_hex(*wire), to_hex(vector.wire));
}

INSTANTIATE_TEST_SUITE_P(AppendixA, KernelVectors,
                         testing::Combine(testing::ValuesIn(rfc9001::vectors()),
                                          testing::ValuesIn(kAllFamilies), testing::Bool(),
                                          testing::Bool()),
                         [](const auto &info) {
                             return std::string(std::get<0>(info.param).name) +
                                    name(std::get<1>(info.param)) +
                                    (std::get<2>(info.param) ? "Inline" : "Sa") +
                                    (std::get<3>(info.param) ? "TagRoom" : "Hole");
                         });

} // namespace
} // namespace quic_test
