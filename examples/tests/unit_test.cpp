// SPDX-License-Identifier: GPL-2.0
//
// Parts of the example server and the C++ helper that need neither a network nor our kernel.
#include "content.hpp"
#include "packet_protection.hpp"
#include "tx_batch.hpp"
#include "udp_quic_offload.hpp"

#include <gtest/gtest.h>

#include <array>
#include <csignal>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <vector>

#include <fcntl.h>
#include <netinet/in.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

namespace {

using namespace quic_server;
using offload::Cipher;
using offload::PacketKeys;

std::vector<std::uint8_t> from_hex(std::string_view hex) {
    std::vector<std::uint8_t> bytes;
    for (std::size_t i = 0; i + 1 < hex.size(); i += 2)
        bytes.push_back(
            static_cast<std::uint8_t>(std::stoul(std::string(hex.substr(i, 2)), nullptr, 16)));
    return bytes;
}

PacketKeys some_keys() {
    const std::vector<std::uint8_t> key(16, 1);
    const std::array<std::uint8_t, 12> iv{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12};
    return *PacketKeys::make(Cipher::kAes128Gcm, key, iv, key);
}

// --- the helper
// ------------------------------------------------------------------------------------

TEST(Helper, KeysOfWrongLengthAreRefused) {
    const std::vector<std::uint8_t> key16(16);
    const std::vector<std::uint8_t> key32(32);
    const std::array<std::uint8_t, 12> iv{};
    EXPECT_EQ(PacketKeys::make(Cipher::kAes128Gcm, key32, iv, key16).error(), EINVAL);
    EXPECT_EQ(PacketKeys::make(Cipher::kAes256Gcm, key32, iv, key16).error(), EINVAL);
    EXPECT_TRUE(PacketKeys::make(Cipher::kAes256Gcm, key32, iv, key32));
    EXPECT_TRUE(PacketKeys::make(Cipher::kAes128Ccm, key16, iv, key16));
}

TEST(Helper, KeysKeepTheirBytesAndPadWithZeros) {
    const PacketKeys keys = some_keys();
    const udp_quic_keys &raw = keys.raw();
    EXPECT_EQ(raw.cipher, UDP_QUIC_CIPHER_AES_128_GCM);
    EXPECT_EQ(raw.iv[11], 12);
    EXPECT_EQ(raw.key[15], 1);
    EXPECT_EQ(raw.key[16], 0);
    EXPECT_EQ(raw.hp_key[16], 0);
}

// RFC 9001 appendix A.5: packet number 654360564 = 0x2700bff4 with the IV given there.
TEST(Helper, PacketNumberOfNonceOfRfc9001) {
    const auto iv = from_hex("e0459b3474bdd0e44a41c144");
    const auto nonce = from_hex("e0459b3474bdd0e46d417eb0");
    const std::span<const std::uint8_t, 12> iv_span(iv.data(), 12);
    EXPECT_EQ(offload::packet_number_of_nonce(nonce, iv_span), 654360564U);
}

TEST(Helper, PacketNumberOfForeignNonceIsRefused) {
    const auto iv = from_hex("e0459b3474bdd0e44a41c144");
    auto nonce = from_hex("e0459b3474bdd0e46d417eb0");
    const std::span<const std::uint8_t, 12> iv_span(iv.data(), 12);
    nonce[0] ^= 1; // packet numbers do not reach here
    EXPECT_FALSE(offload::packet_number_of_nonce(nonce, iv_span));
    nonce[0] ^= 1;
    nonce[4] ^= 0x40; // bit 62
    EXPECT_FALSE(offload::packet_number_of_nonce(nonce, iv_span));
    nonce.pop_back();
    EXPECT_FALSE(offload::packet_number_of_nonce(nonce, iv_span));
}

TEST(Helper, ControlMessagesAreWhatTheLibcMacrosRead) {
    offload::ControlMessages<> control;
    ASSERT_TRUE(control.append_gso_size(1200));
    ASSERT_TRUE(control.append_quic(0x123456789a, 7, 21, UDP_QUIC_CRYPTO_F_TAG_ROOM));
    msghdr message{};
    control.attach(message);

    cmsghdr *first = CMSG_FIRSTHDR(&message);
    ASSERT_NE(first, nullptr);
    EXPECT_EQ(first->cmsg_level, IPPROTO_UDP);
    EXPECT_EQ(first->cmsg_type, 103); // UDP_SEGMENT
    EXPECT_EQ(first->cmsg_len, CMSG_LEN(sizeof(std::uint16_t)));

    cmsghdr *second = CMSG_NXTHDR(&message, first);
    ASSERT_NE(second, nullptr);
    EXPECT_EQ(second->cmsg_type, UDP_QUIC_CRYPTO);
    ASSERT_EQ(second->cmsg_len, CMSG_LEN(sizeof(udp_quic_crypto)));
    udp_quic_crypto quic{};
    std::memcpy(&quic, CMSG_DATA(second), sizeof(quic));
    EXPECT_EQ(quic.pn, 0x123456789aU);
    EXPECT_EQ(quic.sa, 7U);
    EXPECT_EQ(quic.pn_offset, 21);
    EXPECT_EQ(quic.flags, UDP_QUIC_CRYPTO_F_TAG_ROOM);
    EXPECT_EQ(CMSG_NXTHDR(&message, second), nullptr);
}

TEST(Helper, InlineKeysGoAlong) {
    offload::ControlMessages<> control;
    ASSERT_TRUE(control.append_quic_inline(5, some_keys(), 9, 0));
    msghdr message{};
    control.attach(message);
    udp_quic_crypto_inline quic{};
    ASSERT_EQ(CMSG_FIRSTHDR(&message)->cmsg_len, CMSG_LEN(sizeof(quic)));
    std::memcpy(&quic, CMSG_DATA(CMSG_FIRSTHDR(&message)), sizeof(quic));
    EXPECT_EQ(quic.crypto.sa, UDP_QUIC_CRYPTO_SA_INLINE);
    EXPECT_EQ(quic.keys.iv[0], 1);
}

TEST(Helper, ControlMessagesRefuseWhatDoesNotFit) {
    offload::ControlMessages<CMSG_SPACE(sizeof(std::uint16_t))> control;
    EXPECT_FALSE(control.append_quic(0, 1, 1, 0));
    EXPECT_TRUE(control.append_gso_size(1200));
    EXPECT_FALSE(control.append_gso_size(1200));
    EXPECT_EQ(control.bytes().size(), CMSG_SPACE(sizeof(std::uint16_t)));
}

TEST(Helper, BatchesFitIntoOneSend) {
    EXPECT_EQ(offload::max_batch_packets(1200, 64), 54U);
    EXPECT_EQ(offload::max_batch_packets(1200, 32), 32U);
    EXPECT_EQ(offload::max_batch_packets(0, 64), 0U);
}

TEST(Helper, ProbeOfSomethingElseThanUdpFails) {
    const int fd = socket(AF_INET, SOCK_STREAM, 0);
    ASSERT_GE(fd, 0);
    EXPECT_FALSE(offload::probe(fd));
    close(fd);
    EXPECT_EQ(offload::probe(-1).error(), EBADF);
}

// --- batches
// ---------------------------------------------------------------------------------------

class Batches : public testing::Test {
  protected:
    Datagram datagram(std::size_t offset, std::size_t length, std::uint64_t pn) {
        Datagram datagram;
        datagram.offset = offset;
        datagram.length = length;
        datagram.path = path_to(remote_);
        datagram.plaintext = PlaintextPacket{key_, pn, 9};
        return datagram;
    }

    static ngtcp2_path path_to(Address &address) {
        return {{&address.any, address.length}, {&address.any, address.length}, nullptr};
    }
    static Address loopback(std::uint16_t port) {
        sockaddr_in address{};
        address.sin_family = AF_INET;
        address.sin_port = htons(port);
        address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
        return {reinterpret_cast<sockaddr *>(&address), sizeof(address)};
    }

    std::shared_ptr<TxBufferPool> pool_ = std::make_shared<TxBufferPool>();
    std::shared_ptr<TxBuffer> buffer_ = pool_->get();
    std::shared_ptr<TxKey> key_ = std::make_shared<TxKey>(some_keys(), ngtcp2_crypto_aead{});
    Address remote_ = loopback(1);
};

TEST_F(Batches, ConsecutivePacketsOfOneSizeAndAShorterLastOne) {
    TxBatch batch(buffer_, datagram(100, 1200, 7), 64);
    EXPECT_TRUE(batch.append(datagram(1300, 1200, 8)));
    EXPECT_TRUE(batch.append(datagram(2500, 300, 9)));
    EXPECT_EQ(batch.packets(), 3U);
    EXPECT_EQ(batch.gso_size(), 1200U);
    EXPECT_EQ(batch.bytes().size(), 2700U);
    EXPECT_EQ(batch.packet(2).size(), 300U);
    EXPECT_EQ(batch.plaintext_of(2).pn, 9U);
    // Behind a short one there is no more.
    EXPECT_FALSE(batch.append(datagram(2800, 300, 10)));
}

TEST_F(Batches, WhatDoesNotBelongIsRefused) {
    const Datagram first = datagram(0, 1200, 7);
    TxBatch batch(buffer_, first, 64);
    EXPECT_FALSE(batch.append(datagram(1200, 1300, 8))) << "longer";
    EXPECT_FALSE(batch.append(datagram(1200, 1200, 9))) << "a gap in the packet numbers";
    EXPECT_FALSE(batch.append(datagram(1200, 1200, 7))) << "the same packet number";
    EXPECT_FALSE(batch.append(datagram(1201, 1200, 8))) << "a gap in the buffer";

    Datagram other = datagram(1200, 1200, 8);
    other.ecn = 2;
    EXPECT_FALSE(batch.append(other)) << "another ECN mark";
    other = datagram(1200, 1200, 8);
    Address elsewhere = loopback(2);
    other.path.remote = {&elsewhere.any, elsewhere.length};
    EXPECT_FALSE(batch.append(other)) << "another client";
    other = datagram(1200, 1200, 8);
    other.plaintext.reset();
    EXPECT_FALSE(batch.append(other)) << "protected already";
    other = datagram(1200, 1200, 8);
    other.plaintext->key = std::make_shared<TxKey>(some_keys(), ngtcp2_crypto_aead{});
    EXPECT_FALSE(batch.append(other)) << "the next key phase";
    other = datagram(1200, 1200, 8);
    other.plaintext->pn_offset = 5;
    EXPECT_FALSE(batch.append(other)) << "another connection ID length";
    other = datagram(1200, 1200, 8);
    other.batchable = false;
    EXPECT_FALSE(batch.append(other)) << "a path MTU probe";
    EXPECT_TRUE(batch.append(datagram(1200, 1200, 8)));
}

TEST_F(Batches, LimitsHold) {
    TxBatch two(buffer_, datagram(0, 1200, 0), 2);
    EXPECT_TRUE(two.append(datagram(1200, 1200, 1)));
    EXPECT_FALSE(two.append(datagram(2400, 1200, 2)));

    TxBatch bytes(buffer_, datagram(0, 32760, 0), 64);
    EXPECT_FALSE(bytes.append(datagram(32760, 32760, 1))) << "65,520 bytes";
}

TEST_F(Batches, ProbeStandsAlone) {
    Datagram probe = datagram(0, 1452, 0);
    probe.batchable = false;
    TxBatch batch(buffer_, probe, 64);
    EXPECT_FALSE(batch.append(datagram(1452, 1200, 1)));
}

TEST_F(Batches, SplittingKeepsEveryPacketAndItsNumber) {
    TxBatch batch(buffer_, datagram(0, 1200, 40), 64);
    ASSERT_TRUE(batch.append(datagram(1200, 1200, 41)));
    ASSERT_TRUE(batch.append(datagram(2400, 77, 42)));
    const TxBatch first = batch.split_first();
    EXPECT_EQ(first.packets(), 1U);
    EXPECT_EQ(first.bytes().size(), 1200U);
    EXPECT_EQ(first.plaintext()->pn, 40U);
    const TxBatch second = batch.split_first();
    EXPECT_EQ(second.plaintext()->pn, 41U);
    EXPECT_EQ(batch.packets(), 1U);
    EXPECT_EQ(batch.plaintext()->pn, 42U);
    EXPECT_EQ(batch.bytes().size(), 77U);
    EXPECT_EQ(batch.gso_size(), 77U);
    EXPECT_EQ(batch.bytes().data(), buffer_->bytes().data() + 2400);
}

TEST_F(Batches, BufferComesBackToThePoolWhenTheLastBatchLetsGo) {
    const auto *memory = buffer_->bytes().data();
    {
        const TxBatch batch(buffer_, datagram(0, 1200, 0), 64);
        buffer_.reset();
        EXPECT_NE(pool_->get()->bytes().data(), memory);
    }
    const auto a = pool_->get();
    const auto b = pool_->get();
    EXPECT_TRUE(a->bytes().data() == memory || b->bytes().data() == memory);
}

// --- stepping back
// ------------------------------------------------------------------------------

TEST(Keys, KernelIsAskedAgainUnlessTheSaIsGone) {
    TxKey key(some_keys(), ngtcp2_crypto_aead{});
    EXPECT_FALSE(key.leave_to_kernel());
    key.use_kernel(std::nullopt);
    EXPECT_TRUE(key.leave_to_kernel());

    key.step_back(EOPNOTSUPP); // a route, say
    int packets = 1;
    while (!key.leave_to_kernel() && packets < 100'000)
        ++packets;
    EXPECT_GT(packets, 100);
    EXPECT_LT(packets, 10'000);
    EXPECT_TRUE(key.leave_to_kernel());

    for (const int error : {ENOENT, EACCES, EKEYEXPIRED}) {
        key.use_kernel(std::nullopt);
        key.step_back(error);
        for (packets = 0; packets < 100'000; ++packets)
            ASSERT_FALSE(key.leave_to_kernel());
    }
}

// --- content
// ---------------------------------------------------------------------------------------

class Documents : public testing::Test {
  protected:
    void SetUp() override {
        root_ = std::filesystem::temp_directory_path() / ("documents." + std::to_string(getpid()));
        std::filesystem::create_directories(root_ / "root" / "folder");
        std::ofstream(root_ / "secret.txt") << "secret";
        std::ofstream(root_ / "root" / "a b.txt") << "found";
        std::ofstream(root_ / "root" / "folder" / "index.html") << "<p>";
        std::filesystem::create_symlink(root_ / "secret.txt", root_ / "root" / "link");
        std::filesystem::create_symlink("a b.txt", root_ / "root" / "good-link");
        documents_ = DocumentRoot::open((root_ / "root").string());
        ASSERT_TRUE(documents_);
    }
    void TearDown() override { std::filesystem::remove_all(root_); }

    static std::string_view text_of(const Body &body) {
        const auto bytes = body.bytes();
        return {reinterpret_cast<const char *>(bytes.data()), bytes.size()};
    }

    std::filesystem::path root_;
    std::unique_ptr<DocumentRoot> documents_;
};

TEST_F(Documents, FilesAreServed) {
    const Response response = documents_->get("/a%20b.txt?query");
    ASSERT_EQ(response.status, 200);
    EXPECT_EQ(response.content_type, "text/plain; charset=utf-8");
    EXPECT_EQ(text_of(*response.body), "found");
    EXPECT_EQ(documents_->get("/folder/").status, 200);
    EXPECT_EQ(documents_->get("/good-link").status, 200);
}

TEST_F(Documents, NothingOutsideIs) {
    for (const char *path : {"/../secret.txt", "/%2e%2e/secret.txt", "/folder/../../secret.txt",
                             "/link", "//etc/passwd", "/folder", "/nothing"})
        EXPECT_EQ(documents_->get(path).status, 404) << path;
    for (const char *path : {"", "secret.txt", "/%", "/%zz", "/a%00b", "*"})
        EXPECT_EQ(documents_->get(path).status, 400) << path;
}

TEST_F(Documents, LargeFilesAreMapped) {
    std::string text(300'001, 'x');
    text.front() = 'a';
    text.back() = 'z';
    std::ofstream(root_ / "root" / "large") << text;
    const Response response = documents_->get("/large");
    ASSERT_TRUE(response.body->prepare(0, text.size()));
    EXPECT_EQ(text_of(*response.body), text);
    EXPECT_TRUE(response.body->prepare(4095, 2));
    EXPECT_TRUE(response.body->prepare(300'000, 1));
}

TEST_F(Documents, FileThatShrinksEndsTheBody) {
    std::ofstream(root_ / "root" / "large") << std::string(300'000, 'x');
    const Response response = documents_->get("/large");
    const Response other = documents_->get("/large");
    std::filesystem::resize_file(root_ / "root" / "large", 100'000);
    EXPECT_TRUE(response.body->prepare(0, 100'000));
    EXPECT_FALSE(response.body->prepare(100'000, 100'000));
    // Who has not asked reads zeros, and lives.
    EXPECT_EQ(other.body->bytes()[99'999], 'x');
    EXPECT_EQ(other.body->bytes()[299'999], 0);
    EXPECT_EQ(other.body->bytes()[200'000], 0);
}

// A signal handler of ours must not hide other people's mistakes.
TEST_F(Documents, OthersBusErrorsStillEndTheProgram) {
    std::ofstream(root_ / "root" / "large") << std::string(300'000, 'x');
    const Response response = documents_->get("/large");
    const int fd = open((root_ / "root" / "large").c_str(), O_RDONLY);
    auto *foreign =
        static_cast<const volatile char *>(mmap(nullptr, 4096, PROT_READ, MAP_SHARED, fd, 1 << 20));
    close(fd);
    EXPECT_EXIT(static_cast<void>(foreign[0]), testing::KilledBySignal(SIGBUS), "");
}

} // namespace
