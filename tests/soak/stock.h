// SPDX-License-Identifier: GPL-2.0
//
// Takes stock of a machine on which nothing is under way: memory, objects of the slab caches,
// processes, files, sockets, namespaces, and what the device under test holds.
#pragma once

#include <string>
#include <vector>

#include "growth.h"

namespace quic_soak {

// @devices: network devices with a database of SAs, where they are while nothing is under way; may
// be none. Waits until objects that are freed late are freed, and has the allocator give back what
// nobody uses: counts of objects are exact then.
Stock take_stock(const std::vector<std::string> &devices);

// A named quantity of every stock that people want to see, or one that the rest is summed up with.
bool is_notable(const std::string &name);

} // namespace quic_soak
