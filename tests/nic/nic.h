// SPDX-License-Identifier: GPL-2.0
//
// What the tests of the mlx5 path ask of host a's device.
#pragma once

#include <cstdlib>
#include <regex>
#include <string>

#include <fcntl.h>
#include <gtest/gtest.h>
#include <linux/udp_crypto.h>

#include "world.h"

namespace quic_test {

// A number that the guest's starter says of the device, else @otherwise.
inline unsigned device_limit(const char *variable, unsigned otherwise) {
    const char *text = std::getenv(variable);
    return text != nullptr ? static_cast<unsigned>(std::strtoul(text, nullptr, 10)) : otherwise;
}

inline std::uint64_t counter(const World &world, const std::string &name) {
    const InNamespace inside(world.a);
    return ethtool_statistics("va")[name];
}

// The sum of a counter of all queues, "tx0_..." to "txN_...".
inline std::uint64_t queue_counters(const World &world, const std::string &name) {
    const InNamespace inside(world.a);
    const std::regex of_queue("tx[0-9]+_" + name);
    std::uint64_t sum = 0;
    for (const auto &[counter, value] : ethtool_statistics("va"))
        sum += std::regex_match(counter, of_queue) ? value : 0;
    return sum;
}

inline std::uint32_t state_of(int fd, std::uint64_t cookie, std::uint32_t *ifindex = nullptr) {
    struct udp_crypto_sa_info info {};
    EXPECT_EQ(get_sa(fd, cookie, &info), 0);
    if (ifindex != nullptr)
        *ifindex = info.ifindex;
    return info.state;
}

// Sends until the device has the SA in its database.
inline void settle(Flow &flow) {
    EXPECT_TRUE(eventually([&] {
        flow.send_form({});
        return state_of(flow.sender(), 1) == UDP_CRYPTO_SA_DEVICE;
    })) << "the SA never got into the device's database";
}

// Runs a script where the guest's devices and its devlink instances are at first.
inline CommandResult in_first_namespace(const std::string &script) {
    const UniqueFd first(::open("/proc/1/ns/net", O_RDONLY | O_CLOEXEC));
    const InNamespace inside(first.get());
    return try_command(script);
}

} // namespace quic_test
