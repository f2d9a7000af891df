// SPDX-License-Identifier: GPL-2.0
//
// The sample packets of RFC 9001 appendix A.
#pragma once

#include "quic_reference.h"

namespace quic_test::rfc9001 {

inline const Bytes kInitialSalt = from_hex("38762cf7f55934b34d179ae6a4c80cadccbb7f0a");
inline const Bytes kInitialDcid = from_hex("8394c8f03e515708");
inline const Bytes kInitialSecret =
    from_hex("7db5df06e7a69e432496adedb00851923595221596ae2ae9fb8115c1e9ed0a44");

struct Vector {
    const char *name;
    PacketKeys keys;
    std::uint64_t pn;
    std::size_t pn_offset;
    Bytes packet; // plaintext, without tag
    Bytes wire;
};

// Sections A.2 (client Initial), A.3 (server Initial), A.5 (ChaCha20-Poly1305 short header).
const std::vector<Vector> &vectors();

} // namespace quic_test::rfc9001
