// SPDX-License-Identifier: GPL-2.0
//
// A fuzz target of the ConnectX model: run() is called with every input, and whatever the
// sanitizers, a failed EXPECT or require() finds is a crash.
#pragma once

#include "input.h"

#include <packets.h>
#include <revive.h>

#include <mini_driver.h>

#include <core.h>

#include <string>
#include <vector>

namespace connectx::fuzz {

using test::Frame;
using test::frames_sent_after_reset;
using test::make_frame;
using test::Message;
using test::MiniDriver;
using test::TestCq;
using test::TestRq;
using test::TestSq;

/// Of the target that is linked.
void run(Input input);
/// Inputs to start from: each reaches something that random bytes take long to find.
std::vector<std::vector<std::uint8_t>> seeds();

/// Ends the process, saying what does not hold.
void require(bool holds, const char *what);

/// Bytes that a test can tell apart from each other.
inline Message pattern(std::size_t n, unsigned salt = 0) {
    Message m(n);
    for (std::size_t i = 0; i < n; ++i)
        m[i] = static_cast<std::uint8_t>(i * 7 + (i >> 8) + salt);
    return m;
}

/// A device with one of everything.
struct Channel {
    explicit Channel(std::size_t memory = 4U << 20, Config config = {}) : d(config, memory) {
        d.open();
        cq = d.create_cq(6);
        sq = d.create_sq(cq, 6);
        rq = d.create_rq(cq, {.log_size = 4});
        d.post(rq, 16);
        tir = d.create_tir(rq.id);
        d.steer_all_to(tir);
    }
    /// Whatever happened, after a reset the device works.
    void expect_alive();

    MiniDriver d;
    TestCq cq;
    TestSq sq;
    TestRq rq;
    std::uint32_t tir = 0;
};

} // namespace connectx::fuzz
