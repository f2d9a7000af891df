// SPDX-License-Identifier: GPL-2.0
#include "target.h"

#include <cstdio>
#include <cstdlib>
#include <fstream>

#include <gtest/gtest.h>

namespace connectx::fuzz {

void require(bool holds, const char *what) {
    if (holds)
        return;
    std::fprintf(stderr, "does not hold: %s\n", what);
    std::abort();
}

void Channel::expect_alive() {
    require(frames_sent_after_reset(d, cq, sq) == 1, "a reset gives a device that sends");
}

} // namespace connectx::fuzz

// With CONNECTX_FUZZ_SEEDS=FOLDER in the environment the program writes its seeds there and ends.
// NOLINTNEXTLINE(readability-identifier-naming): libFuzzer's name
extern "C" int LLVMFuzzerInitialize(int * /*argc*/, char *** /*argv*/) {
    GTEST_FLAG_SET(break_on_failure, true);
    if (const char *folder = std::getenv("CONNECTX_FUZZ_SEEDS")) {
        unsigned n = 0;
        for (const auto &seed : connectx::fuzz::seeds()) {
            std::ofstream out(std::string(folder) + "/seed-" + std::to_string(n++),
                              std::ios::binary);
            out.write(reinterpret_cast<const char *>(seed.data()),
                      static_cast<std::streamsize>(seed.size()));
            if (!out.flush())
                std::exit(1);
        }
        std::exit(0);
    }
    return 0;
}

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t *data, std::size_t size) {
    connectx::fuzz::run(connectx::fuzz::Input(data, size));
    return 0;
}
