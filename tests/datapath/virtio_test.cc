// SPDX-License-Identifier: GPL-2.0
//
// Over a real NIC driver and out of the guest: the sender runs in the guest, the receiver on the
// host. Both know what is sent from its seed.
//   virtio_test send PORT              in the guest: to 10.0.2.2, QEMU's address of the host
//   virtio_test receive PORT PID-FILE  on the host: on 127.0.0.1; the file tells that it listens
#include <cstdio>
#include <cstring>
#include <exception>
#include <fstream>
#include <map>
#include <stdexcept>

#include <fcntl.h>
#include <net/if.h>

#include "sniffer.h"
#include "udp_crypto.h"

namespace quic_test {
namespace {

constexpr PacketShape kShape{.cid_length = 8, .pn_length = 3};
constexpr std::size_t kSize = 1184;
constexpr unsigned kBatches = 6;
constexpr unsigned kBatch = 10;
constexpr unsigned kSingles = 8;
// With offloads of the NIC, and without
constexpr unsigned kRounds = 2;
constexpr std::uint64_t kFirst = 0xffff00;
constexpr std::uint64_t kTotal = std::uint64_t{4} * kRounds * (kBatches * kBatch + kSingles);

PacketKeys keys_of(std::uint64_t pn) {
    const std::uint64_t per_cipher = kTotal / 4;
    return keys_of_seed(kAllCiphers[(pn - kFirst) / per_cipher], 0x21);
}

void require(bool ok, const std::string &what) {
    if (!ok)
        throw std::runtime_error(what);
}

void send_all(std::uint16_t port) {
    const Address to = Address::v4("10.0.2.2", port);
    Sniffer sniffer("guest");
    std::uint64_t pn = kFirst;
    const Statistics before = Statistics::read();
    for (Cipher cipher : kAllCiphers) {
        UniqueFd fd = udp_socket(AF_INET);
        const std::uint32_t sa = add_sa_index(fd.get(), 1, keys_of_seed(cipher, 0x21));
        for (const char *offloads : {"on", "off"}) {
            // What QEMU's user-mode network does not offer cannot be switched on.
            try_command(std::string("ethtool -K eth0 tx ") + offloads + "; ethtool -K eth0 gso " +
                        offloads);
            const auto send_packets = [&](unsigned count, bool tag_room) {
                std::vector<Bytes> packets;
                for (unsigned i = 0; i < count; ++i)
                    packets.push_back(make_packet(kShape, pn + i, kSize));
                const Bytes data = tag_room ? join_with_tag_room(packets) : join_packets(packets);
                Control control;
                control.quic(pn, sa, kShape.pn_offset(), tag_room ? UDP_QUIC_CRYPTO_F_TAG_ROOM : 0);
                if (count > 1)
                    control.gso_size(kSize + UDP_QUIC_TAG_LEN);
                const ssize_t sent = send(fd.get(), data, control, &to);
                require(sent == static_cast<ssize_t>(data.size()),
                        "sendmsg: " + std::to_string(sent));
                pn += count;
            };
            for (unsigned i = 0; i < kBatches; ++i)
                send_packets(kBatch, i % 2 == 1);
            for (unsigned i = 0; i < kSingles; ++i)
                send_packets(1, i % 2 == 1);
        }
    }
    require(Statistics::read().since(before, "TxPackets") == kTotal, "the kernel counts otherwise");
    unsigned heard = 0;
    const bool all = eventually([&] {
        for (const std::string &complaint : sniffer.complaints())
            throw std::runtime_error(complaint);
        heard = sniffer.udp_frames();
        return heard >= kTotal;
    });
    require(all, "only " + std::to_string(heard) + " of " + std::to_string(kTotal) +
                     " packets reached the NIC");
    require(sniffer.checksums_verified() >= kTotal / 2, "checksums were not verified");
    std::printf("sent %llu packets, %u checksums verified\n",
                static_cast<unsigned long long>(kTotal), sniffer.checksums_verified());
}

void receive_all(std::uint16_t port, const char *ready) {
    UniqueFd fd = udp_socket(AF_INET);
    set_option(fd.get(), SOL_SOCKET, SO_RCVBUFFORCE, 32 << 20);
    bind_to(fd.get(), Address::v4("127.0.0.1", port));
    std::ofstream(ready) << "listening\n";
    std::map<std::uint64_t, unsigned> arrived;
    while (arrived.size() < kTotal) {
        const auto wire = receive(fd.get(), std::chrono::seconds(120));
        require(wire.has_value(), std::to_string(arrived.size()) + " of " + std::to_string(kTotal) +
                                      " packets arrived on the host");
        require(!contains_plaintext(*wire), "PLAINTEXT on the wire");
        bool opened_by_one = false;
        for (Cipher cipher : kAllCiphers) {
            const auto opened = unprotect(keys_of_seed(cipher, 0x21), *wire, kShape.pn_offset(),
                                          kFirst + kTotal / 2);
            if (!opened)
                continue;
            opened_by_one = true;
            require(opened->pn >= kFirst && opened->pn < kFirst + kTotal, "a number never sent");
            require(keys_of(opened->pn).cipher == cipher, "a number under the wrong keys");
            require(opened->packet == make_packet(kShape, opened->pn, kSize), "other content");
            require(++arrived[opened->pn] == 1, "a packet came twice");
        }
        require(opened_by_one, "a packet does not decrypt");
    }
    std::printf("received %zu packets, each as it was sent\n", arrived.size());
}

} // namespace
} // namespace quic_test

int main(int argc, char **argv) {
    try {
        if (argc == 3 && std::strcmp(argv[1], "send") == 0)
            quic_test::send_all(static_cast<std::uint16_t>(std::stoul(argv[2])));
        else if (argc == 4 && std::strcmp(argv[1], "receive") == 0)
            quic_test::receive_all(static_cast<std::uint16_t>(std::stoul(argv[2])), argv[3]);
        else
            throw std::runtime_error("usage: virtio_test send PORT | receive PORT FILE");
    } catch (const std::exception &error) {
        std::fprintf(stderr, "virtio_test: %s\n", error.what());
        return 1;
    }
    return 0;
}
