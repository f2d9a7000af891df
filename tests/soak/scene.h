// SPDX-License-Identifier: GPL-2.0
//
// The traffic of one spell over one wire: two hosts that are made for it and are gone after it.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>

#include "report.h"
#include "world.h"

namespace quic_soak {

struct Scene {
    quic_test::Wire wire = quic_test::Wire::kVeth;
    std::uint64_t seed = 0;
    std::chrono::seconds length{30}; // once all is made
    // Scenes that are not made yet: all begin together. In memory that their processes share.
    std::atomic<unsigned> *unmade = nullptr;
    // On every device of both hosts. Else zero-copy sends are really not copied.
    bool listen = true;
    // Links go down, rings and channels change: packets are lost, and no books are kept of them.
    bool rough = false;
    // SAs that nobody deleted and packets in a queue are there when the hosts' namespaces end.
    bool leave = false;
};

// In a process of its own, single-threaded until now. Whoever finds that something is wrong says
// so to @report.
void play(const Scene &scene, const Report &report);

} // namespace quic_soak
