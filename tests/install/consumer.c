/* SPDX-License-Identifier: GPL-2.0 */
/* The smallest program in C against what was installed: can this kernel protect QUIC packets? */
#include <stdio.h>
#include <string.h>

#include <udp_quic_offload.h>
#include <unistd.h>

int main(void)
{
    struct udp_crypto_caps caps;
    const int fd = socket(AF_INET, SOCK_DGRAM, 0);
    int error;

    if (fd < 0)
        return 1;
    error = quic_offload_probe(fd, &caps);
    if (error != 0)
        printf("udp-quic-offload: %s\n", strerror(error));
    else
        printf("udp-quic-offload: ciphers %#x\n", (unsigned int)caps.ciphers);
    close(fd);
    return 0;
}
