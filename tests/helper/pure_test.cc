// SPDX-License-Identifier: GPL-2.0
//
// What of udp_quic_offload.h needs no kernel of ours: sizes, numbers, batches, control messages and
// the books of MSG_ZEROCOPY.
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <vector>

#include <unistd.h>

#include <udp_quic_offload.h>

namespace {

TEST(Keys, AreAsLongAsTheCipherSays) {
    EXPECT_EQ(quic_offload_key_length(UDP_QUIC_CIPHER_AES_128_GCM), 16U);
    EXPECT_EQ(quic_offload_key_length(UDP_QUIC_CIPHER_AES_256_GCM), 32U);
    EXPECT_EQ(quic_offload_key_length(UDP_QUIC_CIPHER_CHACHA20_POLY1305), 32U);
    EXPECT_EQ(quic_offload_key_length(UDP_QUIC_CIPHER_AES_128_CCM), 16U);
    EXPECT_EQ(quic_offload_key_length(0), 0U);
    EXPECT_EQ(quic_offload_key_length(5), 0U);
}

TEST(Keys, ArePaddedWithZeros) {
    std::array<std::uint8_t, 32> key;
    key.fill(0xaa);
    udp_quic_keys keys;
    std::memset(&keys, 0xff, sizeof(keys));
    EXPECT_EQ(quic_offload_keys_set(&keys, 9, key.data(), key.data(), key.data()), EINVAL);
    ASSERT_EQ(quic_offload_keys_set(&keys, UDP_QUIC_CIPHER_AES_128_CCM, key.data(), key.data(),
                                    key.data()),
              0);
    EXPECT_EQ(keys.reserved, 0);
    EXPECT_EQ(keys.key[15], 0xaa);
    EXPECT_EQ(keys.key[16], 0);
    EXPECT_EQ(keys.hp_key[31], 0);
    quic_offload_wipe(&keys, sizeof(keys));
    EXPECT_EQ(keys.key[15], 0);
}

TEST(Keys, CipherOfSuite) {
    EXPECT_EQ(quic_offload_cipher_of_suite(0x1301), UDP_QUIC_CIPHER_AES_128_GCM);
    EXPECT_EQ(quic_offload_cipher_of_suite(0x03001302), UDP_QUIC_CIPHER_AES_256_GCM);
    EXPECT_EQ(quic_offload_cipher_of_suite(0x1303), UDP_QUIC_CIPHER_CHACHA20_POLY1305);
    EXPECT_EQ(quic_offload_cipher_of_suite(0x1304), UDP_QUIC_CIPHER_AES_128_CCM);
    EXPECT_EQ(quic_offload_cipher_of_suite(0x1305), 0U); // AES-128-CCM-8: not in QUIC
}

TEST(Keys, ConfidentialityLimitsOfRfc9001) {
    EXPECT_EQ(quic_offload_confidentiality_limit(UDP_QUIC_CIPHER_AES_128_GCM), 8388608U);
    EXPECT_EQ(quic_offload_confidentiality_limit(UDP_QUIC_CIPHER_AES_128_CCM), 2965820U);
    EXPECT_EQ(quic_offload_confidentiality_limit(UDP_QUIC_CIPHER_CHACHA20_POLY1305), 0U);
}

// RFC 9001 appendix A.5
TEST(Numbers, NonceAndBack) {
    const std::uint8_t iv[] = {0xe0, 0x45, 0x9b, 0x34, 0x74, 0xbd,
                               0xd0, 0xe4, 0x4a, 0x41, 0xc1, 0x44};
    const std::uint8_t expected[] = {0xe0, 0x45, 0x9b, 0x34, 0x74, 0xbd,
                                     0xd0, 0xe4, 0x6d, 0x41, 0x7e, 0xb0};
    std::uint8_t nonce[UDP_QUIC_IV_LEN];
    quic_offload_nonce(nonce, iv, 654360564);
    EXPECT_EQ(std::memcmp(nonce, expected, sizeof(nonce)), 0);
    EXPECT_EQ(quic_offload_pn_of_nonce(nonce, iv), 654360564U);
    quic_offload_nonce(nonce, iv, UDP_QUIC_PN_MAX);
    EXPECT_EQ(quic_offload_pn_of_nonce(nonce, iv), UDP_QUIC_PN_MAX);
    nonce[3] ^= 1; // packet numbers do not reach here
    EXPECT_EQ(quic_offload_pn_of_nonce(nonce, iv), UINT64_MAX);
    quic_offload_nonce(nonce, iv, UDP_QUIC_PN_MAX + 1);
    EXPECT_EQ(quic_offload_pn_of_nonce(nonce, iv), UINT64_MAX);
}

TEST(Numbers, MaskTouchesWhatItMay) {
    std::array<std::uint8_t, 8> packet{0x41, 9, 9, 1, 2, 9, 9, 9}; // 2 bytes of number at 3
    const std::uint8_t mask[5] = {0xff, 0x10, 0x20, 0x40, 0x80};
    quic_offload_mask_header(packet.data(), 3, mask);
    const std::array<std::uint8_t, 8> expected{0x5e, 9, 9, 0x11, 0x22, 9, 9, 9};
    EXPECT_EQ(packet, expected);
}

TEST(Batch, TakesWhatOneSendCarries) {
    quic_offload_batch batch;
    quic_offload_batch_start(&batch, 1200, 7, 1, 9, 64);
    EXPECT_FALSE(quic_offload_batch_append(&batch, 1201, 8, 1, 9)); // larger than the first
    EXPECT_FALSE(quic_offload_batch_append(&batch, 1200, 9, 1, 9)); // gap
    EXPECT_FALSE(quic_offload_batch_append(&batch, 1200, 8, 2, 9)); // another SA
    EXPECT_FALSE(quic_offload_batch_append(&batch, 1200, 8, 1, 8)); // another offset
    EXPECT_TRUE(quic_offload_batch_append(&batch, 1200, 8, 1, 9));
    EXPECT_TRUE(quic_offload_batch_append(&batch, 100, 9, 1, 9));
    EXPECT_FALSE(quic_offload_batch_append(&batch, 100, 10, 1, 9)); // behind a shorter one
    EXPECT_EQ(batch.packets, 3U);
    EXPECT_EQ(batch.bytes, 2500U);
    quic_offload_batch_pop(&batch);
    quic_offload_batch_pop(&batch);
    EXPECT_EQ(batch.pn, 9U);
    EXPECT_EQ(batch.gso_size, 100U);
    EXPECT_EQ(batch.bytes, 100U);
}

TEST(Batch, IsAsLargeAsOneSendMayBe) {
    quic_offload_batch batch;
    quic_offload_batch_start(&batch, 1200, 0, 1, 9, 64);
    std::uint64_t pn = 1;
    while (quic_offload_batch_append(&batch, 1200, pn, 1, 9))
        ++pn;
    EXPECT_EQ(batch.packets, 54U);
    EXPECT_EQ(batch.packets, quic_offload_max_batch(1200, 64));
    quic_offload_batch_start(&batch, 1200, 0, 1, 9, 2);
    EXPECT_TRUE(quic_offload_batch_append(&batch, 1200, 1, 1, 9));
    EXPECT_FALSE(quic_offload_batch_append(&batch, 1200, 2, 1, 9));
    quic_offload_batch_start(&batch, 1200, 0, 1, 9, 1);
    EXPECT_FALSE(quic_offload_batch_append(&batch, 1200, 1, 1, 9));
    EXPECT_EQ(quic_offload_max_batch(0, 64), 0U);
}

TEST(Control, IsWhatTheLibcMacrosRead) {
    alignas(cmsghdr) std::array<unsigned char, QUIC_OFFLOAD_CONTROL_SIZE> buffer;
    buffer.fill(0xee);
    quic_offload_control control;
    quic_offload_control_init(&control, buffer.data(), buffer.size());
    msghdr message{};
    quic_offload_control_attach(&control, &message);
    EXPECT_EQ(message.msg_control, nullptr);

    ASSERT_TRUE(quic_offload_control_append_gso_size(&control, 1200));
    ASSERT_TRUE(
        quic_offload_control_append_sa(&control, 0x123456789a, 7, 21, UDP_QUIC_CRYPTO_F_TAG_ROOM));
    quic_offload_control_attach(&control, &message);
    const cmsghdr *first = CMSG_FIRSTHDR(&message);
    ASSERT_NE(first, nullptr);
    EXPECT_EQ(first->cmsg_type, QUIC_OFFLOAD_UDP_SEGMENT);
    cmsghdr *second = CMSG_NXTHDR(&message, const_cast<cmsghdr *>(first));
    ASSERT_NE(second, nullptr);
    udp_quic_crypto crypto;
    ASSERT_EQ(second->cmsg_len, CMSG_LEN(sizeof(crypto)));
    std::memcpy(&crypto, CMSG_DATA(second), sizeof(crypto));
    EXPECT_EQ(crypto.pn, 0x123456789aU);
    EXPECT_EQ(crypto.sa, 7U);
    EXPECT_EQ(crypto.pn_offset, 21);
    EXPECT_EQ(CMSG_NXTHDR(&message, second), nullptr);
}

TEST(Control, RefusesWhatDoesNotFit) {
    alignas(cmsghdr) std::array<unsigned char, CMSG_SPACE(sizeof(std::uint16_t))> buffer;
    quic_offload_control control;
    quic_offload_control_init(&control, buffer.data(), buffer.size());
    EXPECT_FALSE(quic_offload_control_append_sa(&control, 0, 1, 1, 0));
    EXPECT_TRUE(quic_offload_control_append_gso_size(&control, 1200));
    EXPECT_FALSE(quic_offload_control_append_gso_size(&control, 1200));
}

TEST(Control, KeysAreWiped) {
    alignas(cmsghdr) std::array<unsigned char, QUIC_OFFLOAD_CONTROL_SIZE> buffer;
    const std::vector<std::uint8_t> secret(32, 0xaa);
    udp_quic_keys keys;
    ASSERT_EQ(quic_offload_keys_set(&keys, UDP_QUIC_CIPHER_AES_256_GCM, secret.data(),
                                    secret.data(), secret.data()),
              0);
    quic_offload_control control;
    quic_offload_control_init(&control, buffer.data(), buffer.size());
    ASSERT_TRUE(quic_offload_control_append_keys(&control, 5, &keys, 9, 0));
    EXPECT_EQ(std::count(buffer.begin(), buffer.end(), 0xaa), 76);
    quic_offload_control_wipe(&control);
    EXPECT_EQ(std::count(buffer.begin(), buffer.end(), 0xaa), 0);
}

TEST(Advice, OfEachKind) {
    EXPECT_EQ(quic_offload_advise(EAGAIN), QUIC_OFFLOAD_WAIT);
    EXPECT_EQ(quic_offload_advise(ENOENT), QUIC_OFFLOAD_USER_SPACE);
    EXPECT_EQ(quic_offload_advise(EMSGSIZE), QUIC_OFFLOAD_DROP);
    EXPECT_EQ(quic_offload_advise(EIO), QUIC_OFFLOAD_SEND_SINGLY);
    EXPECT_EQ(quic_offload_advise(EINVAL), QUIC_OFFLOAD_PROGRAM_ERROR);
}

TEST(Probe, NoUdpSocketNoOffload) {
    udp_crypto_caps caps;
    EXPECT_EQ(quic_offload_probe(-1, &caps), EBADF);
    const int fd = ::socket(AF_INET, SOCK_STREAM, 0);
    ASSERT_GE(fd, 0);
    EXPECT_NE(quic_offload_probe(fd, &caps), 0);
    ::close(fd);
}

// Completions come in any order, in ranges, once; the socket's counter wraps.
TEST(ZeroCopy, BuffersComeBackOnce) {
    std::array<void *, 4> slots;
    std::array<char, 6> buffers;
    quic_offload_zerocopy zc;
    quic_offload_zerocopy_init(&zc, slots.data(), slots.size());
    zc.oldest = zc.next = UINT32_MAX - 1;
    const auto number = [](unsigned i) { return UINT32_MAX - 1 + i; };
    for (int i = 0; i < 4; ++i) {
        EXPECT_FALSE(quic_offload_zerocopy_is_full(&zc));
        quic_offload_zerocopy_sent(&zc, &buffers[i]);
    }
    EXPECT_TRUE(quic_offload_zerocopy_is_full(&zc));
    EXPECT_EQ(quic_offload_zerocopy_take(&zc, number(4)), nullptr); // not sent yet
    EXPECT_EQ(quic_offload_zerocopy_take(&zc, number(2)), &buffers[2]);
    EXPECT_EQ(quic_offload_zerocopy_take(&zc, number(2)), nullptr);
    EXPECT_TRUE(quic_offload_zerocopy_is_full(&zc)); // the oldest is still out
    EXPECT_EQ(quic_offload_zerocopy_take(&zc, number(0)), &buffers[0]);
    EXPECT_EQ(quic_offload_zerocopy_outstanding(&zc), 3U);
    EXPECT_EQ(quic_offload_zerocopy_take(&zc, number(1)), &buffers[1]);
    EXPECT_EQ(quic_offload_zerocopy_outstanding(&zc), 1U); // 2 was taken before
    quic_offload_zerocopy_sent(&zc, &buffers[4]);
    EXPECT_EQ(quic_offload_zerocopy_take(&zc, number(0)), nullptr); // long ago, same slot as 4
    EXPECT_EQ(quic_offload_zerocopy_take(&zc, number(4)), &buffers[4]);
    EXPECT_EQ(quic_offload_zerocopy_take(&zc, number(3)), &buffers[3]);
    EXPECT_EQ(quic_offload_zerocopy_outstanding(&zc), 0U);
}

} // namespace
