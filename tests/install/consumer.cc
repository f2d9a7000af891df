// SPDX-License-Identifier: GPL-2.0
//
// The smallest program against what was installed: can this kernel protect QUIC packets?
#include <cstdio>
#include <cstring>

#include <udp_quic_offload.hpp>
#include <unistd.h>

int main() {
    const int fd = ::socket(AF_INET, SOCK_DGRAM, 0);
    if (fd < 0)
        return 1;
    const auto capabilities = udp_quic_offload::probe(fd);
    if (capabilities)
        std::printf("udp-quic-offload: ciphers %#x\n",
                    static_cast<unsigned>(capabilities->ciphers));
    else
        std::printf("udp-quic-offload: %s\n", std::strerror(capabilities.error()));
    ::close(fd);
}
