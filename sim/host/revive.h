// SPDX-License-Identifier: GPL-2.0
//
// What must work after whatever a guest did to a device.
#pragma once

#include "mini_driver.h"
#include "packets.h"

namespace connectx::test {

/// Resets the device, makes new queues (@cq, @sq) and sends a frame. How many came out on the wire:
/// 1 if the device works.
inline std::size_t frames_sent_after_reset(MiniDriver &d, TestCq &cq, TestSq &sq) {
    d.dev.reset();
    d.host.wire.clear();
    d.open();
    cq = d.create_cq(6);
    d.reset_tis();
    sq = d.create_sq(cq, 6);
    d.post(sq, MLX5_OPCODE_SEND, d.eth_segments({}, {make_frame({}, pattern(100))}));
    return d.host.wire.size();
}

} // namespace connectx::test
