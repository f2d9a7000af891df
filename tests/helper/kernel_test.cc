// SPDX-License-Identifier: GPL-2.0
//
// udp_quic_offload.h with our kernel, as a QUIC library in C uses it: what arrives is decrypted by
// the reference.
#include <gtest/gtest.h>

#include <array>
#include <vector>

#include <udp_quic_offload.h>

#include "loopback.h"
#include "system.h"

namespace quic_test {
namespace {

constexpr PacketShape kShape{};
constexpr std::size_t kPacket = 1000; // without tag

class Library {
  public:
    Library() : line_(Family::kIpv4, true) {
        quic_offload_phases_init(&phases_);
        EXPECT_EQ(quic_offload_probe(fd(), &caps_), 0);
    }
    ~Library() { quic_offload_phases_remove(&phases_); }

    int fd() const { return line_.sender.get(); }
    const udp_crypto_caps &caps() const { return caps_; }
    quic_offload_phases &phases() { return phases_; }

    udp_quic_keys keys_of(std::uint64_t seed) {
        const PacketKeys keys = keys_of_seed(Cipher::kAes256Gcm, seed);
        udp_quic_keys raw;
        EXPECT_EQ(quic_offload_keys_set(&raw, UDP_QUIC_CIPHER_AES_256_GCM, keys.key.data(),
                                        keys.iv.data(), keys.hp.data()),
                  0);
        return raw;
    }
    int install(quic_offload_sa &sa, std::uint64_t seed, std::uint64_t limit = 0) {
        const udp_quic_keys keys = keys_of(seed);
        return quic_offload_sa_install(&sa, fd(), seed, &keys, limit, 0);
    }

    // A batch of @count packets with room for tags. 0 or the errno.
    int send(const quic_offload_sa *sa, std::uint64_t pn, unsigned count, int flags = 0,
             std::uint64_t inline_seed = 0) {
        std::vector<Bytes> packets;
        for (unsigned i = 0; i < count; ++i)
            packets.push_back(make_packet(kShape, pn + i, kPacket));
        data_ = join_with_tag_room(packets);
        quic_offload_batch batch;
        const std::size_t length = kPacket + UDP_QUIC_TAG_LEN;
        const std::uint32_t index = sa ? sa->index : UDP_QUIC_CRYPTO_SA_INLINE;
        const auto pn_offset = static_cast<std::uint16_t>(kShape.pn_offset());
        quic_offload_batch_start(&batch, length, pn, index, pn_offset, caps_.max_segments);
        for (unsigned i = 1; i < count; ++i)
            EXPECT_TRUE(quic_offload_batch_append(&batch, length, pn + i, index, pn_offset));

        alignas(cmsghdr) std::array<unsigned char, QUIC_OFFLOAD_CONTROL_SIZE> buffer;
        quic_offload_control control;
        quic_offload_control_init(&control, buffer.data(), buffer.size());
        if (batch.packets > 1)
            quic_offload_control_append_gso_size(&control,
                                                 static_cast<std::uint16_t>(batch.gso_size));
        if (sa) {
            quic_offload_control_append_sa(&control, batch.pn, batch.sa, batch.pn_offset,
                                           UDP_QUIC_CRYPTO_F_TAG_ROOM);
        } else {
            const udp_quic_keys keys = keys_of(inline_seed);
            quic_offload_control_append_keys(&control, batch.pn, &keys, batch.pn_offset,
                                             UDP_QUIC_CRYPTO_F_TAG_ROOM);
        }
        iovec vector{data_.data(), batch.bytes};
        msghdr message{};
        message.msg_iov = &vector;
        message.msg_iovlen = 1;
        quic_offload_control_attach(&control, &message);
        const ssize_t sent = sendmsg(fd(), &message, flags);
        const int error = sent < 0 ? errno : 0;
        quic_offload_control_wipe(&control);
        return error;
    }

    void expect_arrived(std::uint64_t seed, std::uint64_t pn, unsigned count) {
        for (unsigned i = 0; i < count; ++i) {
            const auto wire = receive(line_.receiver.get());
            ASSERT_TRUE(wire.has_value());
            const auto opened = unprotect(keys_of_seed(Cipher::kAes256Gcm, seed), *wire,
                                          kShape.pn_offset(), pn + i);
            ASSERT_TRUE(opened.has_value());
            EXPECT_EQ(opened->pn, pn + i);
            EXPECT_EQ(opened->packet, make_packet(kShape, pn + i, kPacket));
        }
    }

  private:
    Loopback line_;
    udp_crypto_caps caps_{};
    quic_offload_phases phases_;
    Bytes data_;
};

TEST(Helper, CapabilitiesAreThere) {
    Library library;
    EXPECT_TRUE(quic_offload_has_tag_room(&library.caps()));
    for (const Cipher cipher : kAllCiphers)
        EXPECT_TRUE(quic_offload_has_cipher(&library.caps(), static_cast<unsigned>(cipher)));
    EXPECT_FALSE(quic_offload_has_cipher(&library.caps(), 31));
    EXPECT_FALSE(quic_offload_has_cipher(&library.caps(), 1000));
}

TEST(Helper, SaProtectsABatch) {
    Library library;
    quic_offload_sa sa;
    ASSERT_EQ(library.install(sa, 1), 0);
    ASSERT_EQ(library.send(&sa, 40, 5), 0);
    library.expect_arrived(1, 40, 5);
    udp_crypto_sa_info info;
    ASSERT_EQ(quic_offload_sa_info(&sa, &info), 0);
    EXPECT_EQ(info.packets, 5U);
    EXPECT_EQ(info.sa, sa.index);
    EXPECT_EQ(quic_offload_sa_remove(&sa), 0);
    EXPECT_FALSE(quic_offload_sa_exists(&sa));
    EXPECT_EQ(quic_offload_sa_remove(&sa), 0);
}

TEST(Helper, InlineKeysProtect) {
    Library library;
    ASSERT_EQ(library.send(nullptr, 7, 3, 0, 2), 0);
    library.expect_arrived(2, 7, 3);
}

TEST(Helper, RefusalsHaveAdvice) {
    Library library;
    quic_offload_sa sa;
    ASSERT_EQ(library.install(sa, 1, 3), 0);
    quic_offload_sa twice;
    EXPECT_EQ(library.install(twice, 1), EEXIST);
    EXPECT_FALSE(quic_offload_sa_exists(&twice));

    const int used_up = library.send(&sa, 0, 4);
    EXPECT_EQ(used_up, EKEYEXPIRED);
    EXPECT_EQ(quic_offload_advise(used_up), QUIC_OFFLOAD_USER_SPACE);
    // Nothing was sent, and the number may be used.
    ASSERT_EQ(library.send(&sa, 0, 3), 0);
    library.expect_arrived(1, 0, 3);

    const quic_offload_sa gone = sa;
    ASSERT_EQ(quic_offload_sa_remove(&sa), 0);
    const int error = library.send(&gone, 3, 1);
    EXPECT_EQ(error, ENOENT);
    EXPECT_EQ(quic_offload_advise(error), QUIC_OFFLOAD_USER_SPACE);
}

TEST(Helper, KeyUpdateKeepsThePreviousSaForAWhile) {
    Library library;
    auto &phases = library.phases();
    ASSERT_EQ(library.install(phases.current, 1), 0);
    ASSERT_EQ(library.install(phases.next, 2), 0);
    const quic_offload_sa first = phases.current;
    ASSERT_EQ(library.send(&phases.current, 0, 2), 0);
    library.expect_arrived(1, 0, 2);

    quic_offload_phases_switch(&phases, 100);
    ASSERT_EQ(library.send(&phases.current, 2, 2), 0);
    library.expect_arrived(2, 2, 2);
    EXPECT_FALSE(quic_offload_sa_exists(&phases.next));

    udp_crypto_sa_info info;
    quic_offload_phases_expire(&phases, 99);
    EXPECT_EQ(quic_offload_sa_info(&first, &info), 0);
    quic_offload_phases_expire(&phases, 100);
    EXPECT_EQ(quic_offload_sa_info(&first, &info), ENOENT);

    // The next update comes before the time of the one before.
    const quic_offload_sa second = phases.current;
    ASSERT_EQ(library.install(phases.next, 3), 0);
    quic_offload_phases_switch(&phases, 200);
    ASSERT_EQ(library.install(phases.next, 4), 0);
    quic_offload_phases_switch(&phases, 201);
    EXPECT_EQ(quic_offload_sa_info(&second, &info), ENOENT);
    ASSERT_EQ(library.send(&phases.current, 4, 1), 0);
    library.expect_arrived(4, 4, 1);

    quic_offload_phases_remove(&phases);
    EXPECT_FALSE(quic_offload_sa_exists(&phases.current));
    EXPECT_FALSE(quic_offload_sa_exists(&phases.previous));
}

TEST(Helper, ZeroCopyBuffersComeBack) {
    Library library;
    set_option(library.fd(), SOL_SOCKET, SO_ZEROCOPY, 1);
    quic_offload_sa sa;
    ASSERT_EQ(library.install(sa, 1), 0);
    std::array<void *, 8> slots;
    quic_offload_zerocopy zc;
    quic_offload_zerocopy_init(&zc, slots.data(), slots.size());
    int buffer = 0;
    ASSERT_EQ(library.send(&sa, 0, 10, MSG_ZEROCOPY), 0);
    quic_offload_zerocopy_sent(&zc, &buffer);
    library.expect_arrived(1, 0, 10);

    quic_offload_completion completion;
    ASSERT_TRUE(
        eventually([&] { return quic_offload_read_completion(library.fd(), &completion) == 0; }));
    EXPECT_EQ(completion.first, completion.last);
    EXPECT_EQ(quic_offload_zerocopy_take(&zc, completion.first), &buffer);
    EXPECT_EQ(quic_offload_zerocopy_outstanding(&zc), 0U);
    EXPECT_EQ(quic_offload_read_completion(library.fd(), &completion), EAGAIN);
    quic_offload_sa_remove(&sa);
}

} // namespace
} // namespace quic_test
