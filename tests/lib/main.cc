// SPDX-License-Identifier: GPL-2.0
//
// main() of the test programs that run in the guest: as root, in a network namespace of their own.
#include <cstdio>
#include <exception>

#include <gtest/gtest.h>

#include "system.h"

int main(int argc, char **argv) {
    testing::InitGoogleTest(&argc, argv);
    if (testing::GTEST_FLAG(list_tests))
        return RUN_ALL_TESTS();
    try {
        // Namespaces without the tunnel devices that the kernel else makes in each: faster.
        quic_test::write_file("/proc/sys/net/core/fb_tunnels_only_for_init_net", "2");
        quic_test::enter_new_network_namespace();
    } catch (const std::exception &error) {
        std::fprintf(stderr, "%s: %s\n", argv[0], error.what());
        return 2;
    }
    return RUN_ALL_TESTS();
}
