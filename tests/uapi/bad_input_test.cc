// SPDX-License-Identifier: GPL-2.0
//
// Sends that must be refused: the right errno, nothing on the wire, no counter moved, and the
// socket works afterwards.
#include <cstring>
#include <functional>

#include <fcntl.h>
#include <gtest/gtest.h>
#include <netinet/udp.h>
#include <sys/wait.h>

#include "loopback.h"

namespace quic_test {
namespace {

constexpr PacketShape kShape{.long_header = false, .cid_length = 8, .pn_length = 2};
constexpr std::uint64_t kPn = 1000;
constexpr std::size_t kPacketSize = 1184;
constexpr std::uint16_t kWireSize = kPacketSize + UDP_QUIC_TAG_LEN;
constexpr std::uint64_t kCookie = 5;
constexpr std::uint64_t kPnMax = UDP_QUIC_PN_MAX;

Bytes packet(std::uint64_t pn, std::size_t size = kPacketSize) {
    return make_packet(kShape, pn, size);
}

Bytes batch(std::uint64_t pn, std::size_t count, std::size_t size = kPacketSize) {
    std::vector<Bytes> packets;
    for (std::size_t i = 0; i < count; ++i)
        packets.push_back(packet(pn + i, size));
    return join_packets(packets);
}

// A sender with an SA, a receiver, and the judgement of a refused send.
class BadInput : public testing::TestWithParam<Family> {
  protected:
    BadInput()
        : loopback_(GetParam(), false), keys_(keys_of_seed(Cipher::kAes128Gcm, 11)),
          sa_(add_sa_index(fd(), kCookie, keys_)) {}

    int fd() const { return loopback_.sender.get(); }
    const Address *to() const { return &loopback_.to_address; }
    Control good(std::uint64_t pn = kPn, std::uint16_t flags = 0) const {
        return Control().quic(pn, sa_, kShape.pn_offset(), flags);
    }
    // A control message of our type with any bytes.
    template <typename T> static Control raw(const T &data, std::size_t length = sizeof(T)) {
        Bytes bytes(std::max(length, sizeof(T)));
        std::memcpy(bytes.data(), &data, sizeof(data));
        return Control().add(SOL_UDP, UDP_QUIC_CRYPTO, bytes.data(), length);
    }
    struct udp_quic_crypto crypto() const {
        struct udp_quic_crypto out {};
        out.pn = kPn;
        out.sa = sa_;
        out.pn_offset = static_cast<std::uint16_t>(kShape.pn_offset());
        return out;
    }
    struct udp_quic_crypto_inline crypto_inline() const {
        struct udp_quic_crypto_inline out {};
        out.crypto = crypto();
        out.crypto.sa = UDP_QUIC_CRYPTO_SA_INLINE;
        out.keys = to_uapi(keys_);
        return out;
    }

    // Sends through @socket, expects @error (negative) and no trace of it; then a good send.
    void expect_refused(int error, const Message &message, int socket = -1,
                        Api api = Api::kSendmsg) {
        struct udp_crypto_sa_info info_before {};
        struct udp_crypto_sa_info info_after {};
        ASSERT_EQ(get_sa(fd(), kCookie, &info_before), 0);
        const Statistics before = Statistics::read();
        EXPECT_EQ(send(socket < 0 ? fd() : socket, message, api), error);
        EXPECT_EQ(Statistics::read().all(), before.all());
        ASSERT_EQ(get_sa(fd(), kCookie, &info_after), 0);
        EXPECT_EQ(std::memcmp(&info_before, &info_after, sizeof(info_before)), 0);
        expect_works();
    }
    void expect_refused(int error, ByteView data, const Control &control, int flags = 0) {
        expect_refused(error, message_of(data, control, flags));
    }
    Message message_of(ByteView data, const Control &control, int flags = 0) const {
        Message message;
        message.to = to();
        message.data.push_back({const_cast<std::uint8_t *>(data.data()), data.size()});
        message.control = control;
        message.flags = flags;
        return message;
    }
    // The next datagram to arrive is the one we send now: nothing of the refused send came before.
    void expect_works() {
        const std::uint64_t pn = next_good_pn_++;
        const Bytes plain = packet(pn);
        ASSERT_EQ(send(fd(), plain, good(pn), to()), static_cast<ssize_t>(plain.size()));
        const auto wire = receive(loopback_.receiver.get());
        ASSERT_TRUE(wire.has_value()) << "the socket does not work any more";
        const auto opened = unprotect(keys_, *wire, kShape.pn_offset(), pn);
        ASSERT_TRUE(opened.has_value()) << "something else arrived first: " << wire->size()
                                        << " bytes " << to_hex(ByteView(*wire).first(16));
        EXPECT_EQ(opened->packet, plain);
    }

    Loopback loopback_;
    PacketKeys keys_;
    std::uint32_t sa_;
    std::uint64_t next_good_pn_ = 500000;
};

INSTANTIATE_TEST_SUITE_P(Families, BadInput, testing::ValuesIn(kAllFamilies),
                         [](const auto &info) { return name(info.param); });

// Data is corked, and the message says a length that it has not: it is refused all the same, and
// what it came with is not appended to the rest.
TEST_P(BadInput, CorkedWithAMessageOfTheWrongLength) {
    const Bytes first(100, 0x11);
    for (std::size_t length : {std::size_t{0}, sizeof(cmsghdr) - 1, std::size_t{10000}}) {
        ASSERT_EQ(send(fd(), first, Control(), to(), MSG_MORE), 100);
        Control control = good();
        std::memcpy(control.bytes().data(), &length, sizeof(length)); // cmsg_len
        EXPECT_EQ(send(fd(), packet(kPn), control, to(), MSG_MORE), -EBUSY) << length;
        ASSERT_EQ(send(fd(), Bytes(1, 0x11), Control(), to()), 1);
        const auto corked = receive(loopback_.receiver.get());
        ASSERT_TRUE(corked.has_value());
        EXPECT_EQ(*corked, Bytes(101, 0x11)) << length;
        expect_works();
    }
}

// --- the control message itself -------------------------------------------------------------

TEST_P(BadInput, MessageTooShort) {
    for (std::size_t length = 0; length < sizeof(struct udp_quic_crypto); ++length)
        expect_refused(-EINVAL, packet(kPn), raw(crypto(), length));
}

TEST_P(BadInput, InlineMessageTooShort) {
    for (std::size_t length : {16, 17, 32, 48, 79, 80, 95})
        expect_refused(-EINVAL, packet(kPn), raw(crypto_inline(), length));
}

TEST_P(BadInput, MessageLongerWithOtherThanZeros) {
    for (std::size_t length : {17, 24, 32, 95, 96, 97, 200}) {
        Bytes bytes(length);
        const struct udp_quic_crypto data = crypto();
        std::memcpy(bytes.data(), &data, sizeof(data));
        bytes.back() = 1;
        expect_refused(-E2BIG, packet(kPn),
                       Control().add(SOL_UDP, UDP_QUIC_CRYPTO, bytes.data(), bytes.size()));
    }
    for (std::size_t length : {97, 104, 200}) {
        Bytes bytes(length);
        const struct udp_quic_crypto_inline data = crypto_inline();
        std::memcpy(bytes.data(), &data, sizeof(data));
        bytes.back() = 1;
        expect_refused(-E2BIG, packet(kPn),
                       Control().add(SOL_UDP, UDP_QUIC_CRYPTO, bytes.data(), bytes.size()));
    }
}

TEST_P(BadInput, MessageLongerWithZerosIsAccepted) {
    std::uint64_t pn = kPn;
    for (std::size_t length : {17, 24, 96, 97, 200, 1000}) {
        struct udp_quic_crypto data = crypto();
        data.pn = ++pn;
        ASSERT_EQ(send(fd(), packet(pn), raw(data, length), to()),
                  static_cast<ssize_t>(kPacketSize))
            << length;
        const auto wire = receive(loopback_.receiver.get());
        ASSERT_TRUE(wire && unprotect(keys_, *wire, kShape.pn_offset(), pn)) << length;
    }
    for (std::size_t length : {97, 104, 200, 1000}) {
        struct udp_quic_crypto_inline data = crypto_inline();
        data.crypto.pn = ++pn;
        ASSERT_EQ(send(fd(), packet(pn), raw(data, length), to()),
                  static_cast<ssize_t>(kPacketSize))
            << length;
        const auto wire = receive(loopback_.receiver.get());
        ASSERT_TRUE(wire && unprotect(keys_, *wire, kShape.pn_offset(), pn)) << length;
    }
}

TEST_P(BadInput, UnknownFlags) {
    for (unsigned bit = 1; bit < 16; ++bit) {
        struct udp_quic_crypto data = crypto();
        data.flags = static_cast<std::uint16_t>(1U << bit);
        expect_refused(-EINVAL, packet(kPn), raw(data));
    }
}

TEST_P(BadInput, TwoMessages) {
    expect_refused(-EINVAL, packet(kPn), good().quic(kPn, sa_, kShape.pn_offset()));
    expect_refused(-EINVAL, packet(kPn), good().quic_inline(kPn, keys_, kShape.pn_offset()));
    expect_refused(-EINVAL, packet(kPn),
                   good().gso_size(kWireSize).quic(kPn, sa_, kShape.pn_offset()));
}

TEST_P(BadInput, CutControlMessages) {
    // A length that points outside the control buffer.
    Control control = good();
    cmsghdr header{};
    std::memcpy(&header, control.bytes().data(), sizeof(header));
    for (std::size_t length : {std::size_t{0}, sizeof(cmsghdr) - 1, CMSG_LEN(16) + 100,
                               ~std::size_t{0}, ~std::size_t{0} / 2}) {
        Control cut = control;
        header.cmsg_len = length;
        std::memcpy(cut.bytes().data(), &header, sizeof(header));
        expect_refused(-EINVAL, packet(kPn), cut);
    }
}

TEST_P(BadInput, OtherLevelsAndTypes) {
    const struct udp_quic_crypto data = crypto();
    expect_refused(-EINVAL, packet(kPn),
                   Control().add(SOL_UDP, UDP_CRYPTO_STATE, &data, sizeof(data)));
    expect_refused(-EINVAL, packet(kPn), Control().add(SOL_UDP, 107, &data, sizeof(data)));
    expect_refused(-EINVAL, packet(kPn), good().add(SOL_UDP, 107, &data, sizeof(data)));
    expect_refused(-EINVAL, packet(kPn), good().add(SOL_SOCKET, 999, &data, sizeof(data)));
}

// --- packet numbers and offsets -------------------------------------------------------------

TEST_P(BadInput, PacketNumberTooLarge) {
    for (std::uint64_t pn : {kPnMax + 1, std::uint64_t{1} << 63, ~std::uint64_t{0}}) {
        struct udp_quic_crypto data = crypto();
        data.pn = pn;
        expect_refused(-EINVAL, packet(pn), raw(data));
        struct udp_quic_crypto_inline with_keys = crypto_inline();
        with_keys.crypto.pn = pn;
        expect_refused(-EINVAL, packet(pn), raw(with_keys));
    }
    // The last one there is works, alone or last in a batch; one more does not.
    ASSERT_EQ(send(fd(), packet(kPnMax), good(kPnMax), to()), static_cast<ssize_t>(kPacketSize));
    ASSERT_EQ(send(fd(), batch(kPnMax - 1, 2), good(kPnMax - 1).gso_size(kWireSize), to()),
              static_cast<ssize_t>(2 * kPacketSize));
    for (std::uint64_t pn : {kPnMax, kPnMax - 1, kPnMax}) {
        const auto wire = receive(loopback_.receiver.get());
        ASSERT_TRUE(wire && unprotect(keys_, *wire, kShape.pn_offset(), pn)) << pn;
    }
    expect_refused(-EINVAL, batch(kPnMax, 2), good(kPnMax).gso_size(kWireSize));
    expect_refused(-EINVAL, batch(kPnMax - 3, 5), good(kPnMax - 3).gso_size(kWireSize));
}

TEST_P(BadInput, PnOffsetOutOfRange) {
    for (unsigned offset : {0U, UDP_QUIC_PN_OFFSET_MAX + 1U, 0x8000U, 0xffffU}) {
        struct udp_quic_crypto data = crypto();
        data.pn_offset = static_cast<std::uint16_t>(offset);
        expect_refused(-EINVAL, packet(kPn), raw(data));
    }
}

TEST_P(BadInput, LargestPnOffsetWorks) {
    const PacketShape shape{
        .long_header = true, .cid_length = 20, .pn_length = 4, .token_length = 1024 - 51};
    ASSERT_EQ(shape.pn_offset(), static_cast<std::size_t>(UDP_QUIC_PN_OFFSET_MAX));
    for (std::size_t more : {0, 1, 200}) {
        const Bytes plain = make_packet(shape, kPn + more, shape.min_size() + more);
        ASSERT_EQ(send(fd(), plain, Control().quic(kPn + more, sa_, shape.pn_offset()), to()),
                  static_cast<ssize_t>(plain.size()));
        const auto wire = receive(loopback_.receiver.get());
        ASSERT_TRUE(wire.has_value());
        const auto opened = unprotect(keys_, *wire, shape.pn_offset(), kPn + more);
        ASSERT_TRUE(opened.has_value());
        EXPECT_EQ(opened->packet, plain);
    }
}

TEST_P(BadInput, PnOffsetBehindThePacket) {
    for (std::size_t size : {50, 100, 500}) {
        expect_refused(-ENODATA, packet(kPn, size), Control().quic(kPn, sa_, size - 3));
        expect_refused(-ENODATA, packet(kPn, size), Control().quic(kPn, sa_, size));
        expect_refused(-ENODATA, packet(kPn, size), Control().quic(kPn, sa_, size + 1));
        expect_refused(-ENODATA, packet(kPn, size), Control().quic(kPn, sa_, 1024));
    }
}

TEST_P(BadInput, TruncatedNumberOfAnother) {
    expect_refused(-EBADMSG, packet(kPn + 1), good(kPn));
    expect_refused(-EBADMSG, packet(kPn), good(kPn + 0x100));
    expect_refused(-EBADMSG, join_with_tag_room({packet(kPn + 1)}),
                   good(kPn, UDP_QUIC_CRYPTO_F_TAG_ROOM));
    // A wrong offset finds a wrong number.
    expect_refused(-EBADMSG, packet(kPn), Control().quic(kPn, sa_, kShape.pn_offset() + 1));
    // Every length of number, every byte of it.
    for (unsigned length = 1; length <= 4; ++length) {
        const PacketShape shape{.cid_length = 3, .pn_length = length};
        for (unsigned byte = 0; byte < length; ++byte) {
            Bytes plain = make_packet(shape, 0x55667788, 100);
            plain[shape.pn_offset() + byte] ^= 1;
            expect_refused(-EBADMSG, plain, Control().quic(0x55667788, sa_, shape.pn_offset()));
        }
    }
    // With inline keys
    expect_refused(-EBADMSG, packet(kPn + 1),
                   Control().quic_inline(kPn, keys_, kShape.pn_offset()));
}

TEST_P(BadInput, TruncatedNumberOfAnotherInABatch) {
    for (std::size_t wrong = 0; wrong < 5; ++wrong)
        for (bool tag_room : {false, true}) {
            std::vector<Bytes> packets;
            for (std::size_t i = 0; i < 5; ++i)
                packets.push_back(packet(i == wrong ? kPn + i + 1 : kPn + i));
            expect_refused(
                -EBADMSG, tag_room ? join_with_tag_room(packets) : join_packets(packets),
                good(kPn, tag_room ? UDP_QUIC_CRYPTO_F_TAG_ROOM : 0).gso_size(kWireSize));
        }
}

// The kernel copies a long batch in parts, which end within packets; the sender's buffer may be in
// pieces, which end within packet numbers.
TEST_P(BadInput, TruncatedNumberOfAnotherInALongBatch) {
    constexpr std::size_t kPackets = 53;
    for (std::size_t wrong : {0U, 1U, 26U, 27U, 28U, 51U, 52U})
        for (bool tag_room : {false, true})
            for (std::size_t step : {std::size_t{1} << 16, std::size_t{67}}) {
                std::vector<Bytes> packets;
                for (std::size_t i = 0; i < kPackets; ++i)
                    packets.push_back(packet(i == wrong ? kPn + i + 1 : kPn + i));
                packets.back().resize(kPacketSize - 7);
                Bytes data = tag_room ? join_with_tag_room(packets) : join_packets(packets);
                Message message = message_of(
                    data, good(kPn, tag_room ? UDP_QUIC_CRYPTO_F_TAG_ROOM : 0).gso_size(kWireSize));
                message.data.clear();
                for (std::size_t at = 0; at < data.size(); at += step)
                    message.data.push_back({data.data() + at, std::min(step, data.size() - at)});
                SCOPED_TRACE(wrong);
                expect_refused(-EBADMSG, message);
            }
}

TEST_P(BadInput, BufferInTheOtherForm) {
    // Tag room that the flag does not tell of shifts the second packet, and the reverse.
    expect_refused(-EBADMSG, join_with_tag_room({packet(kPn), packet(kPn + 1)}),
                   good(kPn).gso_size(kWireSize));
    expect_refused(-EBADMSG, batch(kPn, 2),
                   good(kPn, UDP_QUIC_CRYPTO_F_TAG_ROOM).gso_size(kWireSize));
}

// --- lengths --------------------------------------------------------------------------------

TEST_P(BadInput, TooShortForASample) {
    for (unsigned pn_length = 1; pn_length <= 4; ++pn_length)
        for (std::size_t cid : {0, 8, 20})
            for (bool tag_room : {false, true}) {
                const PacketShape shape{.cid_length = cid, .pn_length = pn_length};
                const std::uint16_t flags = tag_room ? UDP_QUIC_CRYPTO_F_TAG_ROOM : 0;
                const std::uint64_t pn = kPn + cid;
                const Bytes full = make_packet(shape, pn, shape.min_size());
                const Control control = Control().quic(pn, sa_, shape.pn_offset(), flags);
                for (std::size_t size = 1; size < shape.min_size(); ++size) {
                    Bytes data(full.begin(), full.begin() + static_cast<long>(size));
                    if (tag_room)
                        data.resize(size + UDP_QUIC_TAG_LEN);
                    SCOPED_TRACE(size);
                    if (size + 2 >= shape.min_size() || size == 1) {
                        expect_refused(-ENODATA, data, control);
                    } else {
                        EXPECT_EQ(send(fd(), data, control, to()), -ENODATA);
                    }
                }
                const Bytes data = tag_room ? join_with_tag_room({full}) : full;
                ASSERT_EQ(send(fd(), data, control, to()), static_cast<ssize_t>(data.size()));
                const auto wire = receive(loopback_.receiver.get());
                ASSERT_TRUE(wire && unprotect(keys_, *wire, shape.pn_offset(), pn));
            }
}

TEST_P(BadInput, TagRoomShorterThanATag) {
    const Bytes data = packet(kPn);
    for (std::size_t size = 1; size <= UDP_QUIC_TAG_LEN; ++size)
        expect_refused(-ENODATA, ByteView(data).first(size), good(kPn, UDP_QUIC_CRYPTO_F_TAG_ROOM));
}

TEST_P(BadInput, EmptySend) {
    expect_refused(-ENODATA, {}, good());
    expect_refused(-ENODATA, {}, good(kPn, UDP_QUIC_CRYPTO_F_TAG_ROOM));
    expect_refused(-ENODATA, {}, Control().quic_inline(kPn, keys_, kShape.pn_offset()));
    expect_refused(-ENODATA, {}, good().gso_size(kWireSize));
    Message message = message_of({}, good());
    message.data.clear();
    expect_refused(-ENODATA, message);
}

TEST_P(BadInput, LastPacketOfABatchTooShort) {
    const std::size_t least = kShape.min_size();
    for (std::size_t last = 1; last < least; ++last) {
        Bytes data = batch(kPn, 3);
        const Bytes tail = packet(kPn + 3, least);
        data.insert(data.end(), tail.begin(), tail.begin() + static_cast<long>(last));
        expect_refused(-ENODATA, data, good().gso_size(kWireSize));
    }
    for (std::size_t last = 1; last < least + UDP_QUIC_TAG_LEN; last += 3) {
        Bytes data = join_with_tag_room({packet(kPn), packet(kPn + 1)});
        const Bytes tail = join_with_tag_room({packet(kPn + 2, least)});
        data.insert(data.end(), tail.begin(), tail.begin() + static_cast<long>(last));
        expect_refused(-ENODATA, data, good(kPn, UDP_QUIC_CRYPTO_F_TAG_ROOM).gso_size(kWireSize));
    }
}

TEST_P(BadInput, LongestDatagram) {
    const std::size_t limit = GetParam() == Family::kIpv6 ? 65527 : 65507;
    // The loopback device's MTU is 65536: IPv6 reaches the device's limit first.
    const std::size_t carried =
        std::min<std::size_t>(limit, 65536 - 8 - (GetParam() == Family::kIpv6 ? 40 : 20));
    const std::size_t most = carried - UDP_QUIC_TAG_LEN;
    Bytes data = packet(kPn, most);
    ASSERT_EQ(send(fd(), data, good(), to()), static_cast<ssize_t>(most));
    auto wire = receive(loopback_.receiver.get());
    ASSERT_TRUE(wire.has_value());
    auto opened = unprotect(keys_, *wire, kShape.pn_offset(), kPn);
    ASSERT_TRUE(opened.has_value());
    EXPECT_EQ(opened->packet, data);
    for (std::size_t size : {most + 1, most + 15, most + 16, most + 17, most + 40,
                             std::size_t{65535}, std::size_t{65536}, std::size_t{100000}})
        expect_refused(-EMSGSIZE, packet(kPn, size), good());
    for (std::size_t size : {most + 1, std::size_t{65520}, std::size_t{65536}})
        expect_refused(-EMSGSIZE, join_with_tag_room({packet(kPn, size)}),
                       good(kPn, UDP_QUIC_CRYPTO_F_TAG_ROOM));
}

TEST_P(BadInput, WholeOfABatchTooLong) {
    // 55 packets of 1200 are 66,000 bytes; without their tags still below the limit.
    const Bytes data = batch(kPn, 55);
    ASSERT_LT(data.size(), 65507U);
    expect_refused(-EMSGSIZE, data, good().gso_size(kWireSize));
    // 54 packets of 1200 are 64,800.
    const Bytes fits = batch(kPn, 54);
    ASSERT_EQ(send(fd(), fits, good().gso_size(kWireSize), to()),
              static_cast<ssize_t>(fits.size()));
    for (std::uint64_t pn = kPn; pn < kPn + 54; ++pn) {
        const auto wire = receive(loopback_.receiver.get());
        ASSERT_TRUE(wire && unprotect(keys_, *wire, kShape.pn_offset(), pn));
    }
}

TEST_P(BadInput, MoreThanMaxSegments) {
    struct udp_crypto_caps caps {};
    ASSERT_EQ(get_caps(fd(), &caps), 0);
    const std::size_t size = 100;
    const auto wire_size = static_cast<std::uint16_t>(size + UDP_QUIC_TAG_LEN);
    expect_refused(-EINVAL, batch(kPn, caps.max_segments + 1U, size), good().gso_size(wire_size));
    Bytes one_byte_more = batch(kPn, caps.max_segments, size);
    one_byte_more.push_back(0);
    const ssize_t result = send(fd(), one_byte_more, good().gso_size(wire_size), to());
    EXPECT_TRUE(result == -EINVAL || result == -ENODATA) << result; // both are true of it
    const Bytes fits = batch(kPn, caps.max_segments, size);
    ASSERT_EQ(send(fd(), fits, good().gso_size(wire_size), to()),
              static_cast<ssize_t>(fits.size()));
    for (std::uint64_t pn = kPn; pn < kPn + caps.max_segments; ++pn) {
        const auto wire = receive(loopback_.receiver.get());
        ASSERT_TRUE(wire && unprotect(keys_, *wire, kShape.pn_offset(), pn));
    }
}

TEST_P(BadInput, SegmentSizeWithoutRoom) {
    for (const std::uint16_t gso_size : {std::uint16_t{1}, std::uint16_t{15}, std::uint16_t{16}})
        for (int flags : {0, 1})
            expect_refused(-EINVAL, packet(kPn),
                           good(kPn, static_cast<std::uint16_t>(flags)).gso_size(gso_size));
}

TEST_P(BadInput, SegmentMessageMalformed) {
    const std::uint32_t four_bytes = kWireSize;
    expect_refused(-EINVAL, packet(kPn),
                   good().add(SOL_UDP, UDP_SEGMENT, &four_bytes, sizeof(four_bytes)));
    expect_refused(-EINVAL, packet(kPn), good().add(SOL_UDP, UDP_SEGMENT, &four_bytes, 1));
}

TEST_P(BadInput, OverTheMtu) {
    const NetNamespace small;
    small.run([] {
        set_mtu("lo", 1500);
        const std::size_t carried = GetParam() == Family::kIpv6 ? 1452 : 1472;
        Loopback loopback(GetParam(), false);
        const int fd = loopback.sender.get();
        const PacketKeys keys = keys_of_seed(Cipher::kChaCha20Poly1305, 4);
        const std::uint32_t sa = add_sa_index(fd, 1, keys);
        const Statistics before = Statistics::read();
        const auto control = [&](std::uint64_t pn, std::size_t gso) {
            Control out;
            out.quic(pn, sa, kShape.pn_offset());
            if (gso > 0)
                out.gso_size(static_cast<std::uint16_t>(gso));
            return out;
        };
        std::uint64_t pn = kPn;
        for (int connected = 0; connected < 2; ++connected) {
            for (std::size_t over : {1, 2, 16, 500, 20000}) {
                const std::size_t size = carried - UDP_QUIC_TAG_LEN + over;
                EXPECT_EQ(send(fd, packet(pn, size), control(pn, 0), &loopback.to_address),
                          -EMSGSIZE)
                    << over;
                EXPECT_EQ(
                    send(fd, packet(pn, size), control(pn, carried + over), &loopback.to_address),
                    -EMSGSIZE)
                    << over << " with GSO";
                if (over < 1000) {
                    EXPECT_EQ(send(fd, batch(pn, 3, size), control(pn, carried + over),
                                   &loopback.to_address),
                              -EMSGSIZE)
                        << over << " with GSO";
                }
            }
            EXPECT_EQ(Statistics::read().all(), before.all());
            connect_to(fd, loopback.to_address);
        }
        const std::size_t fits = carried - UDP_QUIC_TAG_LEN;
        EXPECT_EQ(send(fd, packet(pn, fits), control(pn, 0)), static_cast<ssize_t>(fits));
        EXPECT_EQ(send(fd, batch(pn + 1, 3, fits), control(pn + 1, carried)),
                  static_cast<ssize_t>(3 * fits));
        for (int i = 0; i < 4; ++i, ++pn) {
            const auto wire = receive(loopback.receiver.get());
            ASSERT_TRUE(wire.has_value());
            EXPECT_EQ(wire->size(), carried);
            EXPECT_TRUE(unprotect(keys, *wire, kShape.pn_offset(), pn).has_value());
        }
    });
}

// --- corking --------------------------------------------------------------------------------

TEST_P(BadInput, Corking) {
    expect_refused(-EBUSY, packet(kPn), good(), MSG_MORE);
    expect_refused(-EBUSY, packet(kPn), good(kPn, UDP_QUIC_CRYPTO_F_TAG_ROOM), MSG_MORE);
    expect_refused(-EBUSY, batch(kPn, 2), good().gso_size(kWireSize), MSG_MORE);

    // UDP_CORK without data
    set_option(fd(), SOL_UDP, UDP_CORK, 1);
    const Statistics before = Statistics::read();
    EXPECT_EQ(send(fd(), packet(kPn), good(), to()), -EBUSY);
    EXPECT_EQ(Statistics::read().all(), before.all());
    set_option(fd(), SOL_UDP, UDP_CORK, 0);
    expect_works();

    // Data corked by either: refused, and the corked data then goes out as it was.
    for (int way = 0; way < 2; ++way) {
        if (way == 0)
            set_option(fd(), SOL_UDP, UDP_CORK, 1);
        const Bytes first(100, 0x11);
        ASSERT_EQ(send(fd(), first, Control(), to(), way == 0 ? 0 : MSG_MORE), 100);
        EXPECT_EQ(send(fd(), packet(kPn), good(), to()), -EBUSY) << way;
        EXPECT_EQ(send(fd(), packet(kPn), good(), to(), MSG_MORE), -EBUSY) << way;
        EXPECT_EQ(
            send(fd(), packet(kPn), Control().quic_inline(kPn, keys_, kShape.pn_offset()), to()),
            -EBUSY)
            << way;
        if (way == 0) {
            set_option(fd(), SOL_UDP, UDP_CORK, 0);
        } else {
            ASSERT_EQ(send(fd(), Bytes(1, 0x11), Control(), to()), 1);
        }
        const auto corked = receive(loopback_.receiver.get());
        ASSERT_TRUE(corked.has_value());
        EXPECT_EQ(*corked, Bytes(way == 0 ? 100 : 101, 0x11));
        EXPECT_EQ(Statistics::read().since(before, "TxPackets"), 1U + static_cast<unsigned>(way));
        expect_works();
    }
}

// --- sockets and addresses ------------------------------------------------------------------

TEST_P(BadInput, UdpLite) {
    UniqueFd lite = udp_socket(socket_domain(GetParam()), IPPROTO_UDPLITE);
    const Bytes plain = packet(kPn);
    expect_refused(-EOPNOTSUPP, message_of(plain, good()), lite.get());
    expect_refused(-EOPNOTSUPP,
                   message_of(plain, Control().quic_inline(kPn, keys_, kShape.pn_offset())),
                   lite.get());
    connect_to(lite.get(), *to());
    Message message = message_of(plain, good());
    message.to = nullptr;
    expect_refused(-EOPNOTSUPP, message, lite.get());
}

TEST_P(BadInput, AddressesAsForAnyUdpSend) {
    const Bytes plain = packet(kPn);
    std::vector<std::pair<const char *, Address>> wrong;
    wrong.emplace_back("no port", *to());
    wrong.back().second.set_port(0);
    wrong.emplace_back("family AF_UNIX", *to());
    wrong.back().second.storage.ss_family = AF_UNIX;
    wrong.emplace_back("family AF_PACKET", *to());
    wrong.back().second.storage.ss_family = AF_PACKET;
    wrong.emplace_back("family 255", *to());
    wrong.back().second.storage.ss_family = 255;
    wrong.emplace_back("short", *to());
    wrong.back().second.length = 7;
    wrong.emplace_back("empty", *to());
    wrong.back().second.length = 0;
    wrong.emplace_back("only a family", *to());
    wrong.back().second.length = 2;
    wrong.emplace_back("the other family", GetParam() == Family::kIpv4
                                               ? Address::v6("::1", to()->port())
                                               : Address::v6("2001:db8::1", to()->port()));
    wrong.emplace_back("no route", GetParam() == Family::kIpv6   ? Address::v6("2001:db8::1", 9)
                                   : GetParam() == Family::kIpv4 ? Address::v4("192.0.2.1", 9)
                                                                 : Address::mapped("192.0.2.1", 9));
    wrong.emplace_back("broadcast without leave",
                       GetParam() == Family::kMapped ? Address::mapped("127.255.255.255", 9)
                       : GetParam() == Family::kIpv4 ? Address::v4("127.255.255.255", 9)
                                                     : Address::v6("ff02::1", 9, 77));
    for (const auto &[what, address] : wrong) {
        SCOPED_TRACE(what);
        // What the same socket answers without protection.
        const Bytes any(plain.size() + UDP_QUIC_TAG_LEN, 0);
        const ssize_t without = send(fd(), any, Control(), &address);
        if (without >= 0) {
            ADD_FAILURE() << "not a wrong address";
            continue;
        }
        Message message = message_of(plain, good());
        message.to = &address;
        expect_refused(static_cast<int>(without), message);
        message.control = Control().quic_inline(kPn, keys_, kShape.pn_offset());
        expect_refused(static_cast<int>(without), message);
    }
    Message nowhere = message_of(plain, good());
    nowhere.to = nullptr;
    expect_refused(-EDESTADDRREQ, nowhere);
}

TEST_P(BadInput, FlagsOutOfBand) {
    if (GetParam() == Family::kIpv6) {
        // IPv6 takes no notice of MSG_OOB, in any UDP send.
        const Bytes plain = packet(kPn);
        ASSERT_EQ(send(fd(), plain, good(), to(), MSG_OOB), static_cast<ssize_t>(plain.size()));
        const auto wire = receive(loopback_.receiver.get());
        ASSERT_TRUE(wire && unprotect(keys_, *wire, kShape.pn_offset(), kPn));
        return;
    }
    expect_refused(-EOPNOTSUPP, packet(kPn), good(), MSG_OOB);
}

TEST_P(BadInput, MemoryThatIsNotThere) {
    Message message = message_of({}, good());
    message.data = {{reinterpret_cast<void *>(8), kPacketSize}};
    expect_refused(-EFAULT, message);
    // The second half of it
    Bytes plain = packet(kPn);
    message.data = {{plain.data(), 600}, {reinterpret_cast<void *>(8), kPacketSize - 600}};
    expect_refused(-EFAULT, message);
    Bytes all = batch(kPn, 4);
    message.data = {{all.data(), 3 * kPacketSize}, {reinterpret_cast<void *>(8), kPacketSize}};
    message.control = good().gso_size(kWireSize);
    expect_refused(-EFAULT, message);
    set_option(fd(), SOL_SOCKET, SO_ZEROCOPY, 1);
    all = join_with_tag_room({packet(kPn), packet(kPn + 1)});
    message.data = {{all.data(), kWireSize}, {reinterpret_cast<void *>(8), kWireSize}};
    message.control = good(kPn, UDP_QUIC_CRYPTO_F_TAG_ROOM).gso_size(kWireSize);
    message.flags = MSG_ZEROCOPY;
    expect_refused(-EFAULT, message);
}

// A refused MSG_ZEROCOPY send gives no completion, and its number is not used up.
TEST_P(BadInput, RefusedZerocopyHasNoCompletion) {
    set_option(fd(), SOL_SOCKET, SO_ZEROCOPY, 1);
    expect_refused(-EBADMSG, packet(kPn + 1), good(), MSG_ZEROCOPY);
    expect_refused(-EBADMSG, join_with_tag_room({packet(kPn + 1)}),
                   good(kPn, UDP_QUIC_CRYPTO_F_TAG_ROOM), MSG_ZEROCOPY);
    expect_refused(
        -ENOENT, join_with_tag_room({packet(kPn)}),
        Control().quic(kPn, sa_ + 1000000, kShape.pn_offset(), UDP_QUIC_CRYPTO_F_TAG_ROOM),
        MSG_ZEROCOPY);
    const Bytes data = join_with_tag_room({packet(kPn)});
    ASSERT_EQ(send(fd(), data, good(kPn, UDP_QUIC_CRYPTO_F_TAG_ROOM), to(), MSG_ZEROCOPY),
              static_cast<ssize_t>(data.size()));
    ASSERT_TRUE(receive(loopback_.receiver.get()).has_value());
    const auto completion = zerocopy_completion(fd());
    ASSERT_TRUE(completion.has_value());
    EXPECT_EQ(completion->first, 0U);
    EXPECT_EQ(completion->last, 0U);
}

TEST_P(BadInput, EveryApiGivesTheError) {
    const Bytes plain = packet(kPn + 1);
    for (Api api : {Api::kSendmsg, Api::kSendmmsg, Api::kIoUring, Api::kIoUringZeroCopy})
        expect_refused(-EBADMSG, message_of(plain, good()), -1, api);
}

// sendmmsg() stops at the bad message; those before it are sent.
TEST_P(BadInput, SendmmsgStopsAtTheBadMessage) {
    Bytes plain[3] = {packet(kPn), packet(kPn + 5), packet(kPn + 2)};
    Control control[3] = {good(kPn), good(kPn + 1), good(kPn + 2)};
    mmsghdr many[3] = {};
    iovec vectors[3];
    for (int i = 0; i < 3; ++i) {
        vectors[i] = {plain[i].data(), plain[i].size()};
        many[i].msg_hdr.msg_name = const_cast<sockaddr *>(to()->get());
        many[i].msg_hdr.msg_namelen = to()->length;
        many[i].msg_hdr.msg_iov = &vectors[i];
        many[i].msg_hdr.msg_iovlen = 1;
        many[i].msg_hdr.msg_control = control[i].bytes().data();
        many[i].msg_hdr.msg_controllen = control[i].bytes().size();
    }
    const Statistics before = Statistics::read();
    EXPECT_EQ(::sendmmsg(fd(), many, 3, 0), 1);
    EXPECT_EQ(many[0].msg_len, kPacketSize);
    EXPECT_EQ(Statistics::read().since(before, "TxPackets"), 1U);
    const auto wire = receive(loopback_.receiver.get());
    ASSERT_TRUE(wire && unprotect(keys_, *wire, kShape.pn_offset(), kPn));
    expect_works();
}

// --- who may use an SA ----------------------------------------------------------------------

TEST_P(BadInput, UnknownSa) {
    for (std::uint32_t sa : {0U, sa_ + 1, sa_ + 1000000, 0x7fffffffU, 0x80000000U, 0xfffffffeU}) {
        struct udp_quic_crypto data = crypto();
        data.sa = sa;
        expect_refused(-ENOENT, packet(kPn), raw(data));
    }
}

TEST_P(BadInput, DeletedSa) {
    const std::uint32_t gone = add_sa_index(fd(), 99, keys_);
    ASSERT_EQ(del_sa(fd(), 99), 0);
    expect_refused(-ENOENT, packet(kPn), Control().quic(kPn, gone, kShape.pn_offset()));
}

TEST_P(BadInput, SaOfAClosedSocket) {
    std::uint32_t gone = 0;
    {
        UniqueFd other = udp_socket(socket_domain(GetParam()));
        gone = add_sa_index(other.get(), 1, keys_, UDP_CRYPTO_SA_F_SAME_UID);
    }
    ASSERT_TRUE(eventually([] { return Statistics::read()["SaCurr"] >= 1; }));
    expect_refused(-ENOENT, packet(kPn), Control().quic(kPn, gone, kShape.pn_offset()));
}

TEST_P(BadInput, SaOfAnotherSocket) {
    UniqueFd other = udp_socket(socket_domain(GetParam()));
    const std::uint32_t foreign = add_sa_index(other.get(), kCookie, keys_);
    expect_refused(-EACCES, packet(kPn), Control().quic(kPn, foreign, kShape.pn_offset()));
    // A connected one has no more rights.
    UniqueFd third = udp_socket(socket_domain(GetParam()));
    connect_to(third.get(), *to());
    Bytes plain = packet(kPn);
    Message message = message_of(plain, Control().quic(kPn, foreign, kShape.pn_offset()));
    message.to = nullptr;
    expect_refused(-EACCES, message, third.get());
}

TEST_P(BadInput, SaOfAnotherUid) {
    const int domain = socket_domain(GetParam());
    UniqueFd maker = udp_socket_of_uid(domain, 1000);
    const std::uint32_t shared = add_sa_index(maker.get(), 1, keys_, UDP_CRYPTO_SA_F_SAME_UID);
    const std::uint32_t own = add_sa_index(maker.get(), 2, keys_);
    UniqueFd same = udp_socket_of_uid(domain, 1000);
    UniqueFd stranger = udp_socket_of_uid(domain, 1001);
    const Bytes plain = packet(kPn);
    const auto use = [&](std::uint32_t sa) {
        return message_of(plain, Control().quic(kPn, sa, kShape.pn_offset()));
    };
    // Not a stranger, not even root's socket; and neither learns that there is such an SA.
    expect_refused(-ENOENT, use(shared), stranger.get());
    expect_refused(-ENOENT, use(shared), fd());
    expect_refused(-ENOENT, use(own), stranger.get());
    expect_refused(-EACCES, use(own), same.get());
    // The maker and others of its uid may.
    for (int socket : {maker.get(), same.get()}) {
        ASSERT_EQ(send(socket, use(shared)), static_cast<ssize_t>(kPacketSize));
        const auto wire = receive(loopback_.receiver.get());
        ASSERT_TRUE(wire && unprotect(keys_, *wire, kShape.pn_offset(), kPn));
    }
    ASSERT_EQ(send(maker.get(), use(own)), static_cast<ssize_t>(kPacketSize));
    ASSERT_TRUE(receive(loopback_.receiver.get()).has_value());
}

TEST_P(BadInput, TheUidIsThatOfTheTimeOfAdding) {
    const int domain = socket_domain(GetParam());
    UniqueFd maker = udp_socket_of_uid(domain, 1000);
    const std::uint32_t shared = add_sa_index(maker.get(), 1, keys_, UDP_CRYPTO_SA_F_SAME_UID);
    ASSERT_EQ(::fchown(maker.get(), 1001, static_cast<gid_t>(-1)), 0);
    UniqueFd before = udp_socket_of_uid(domain, 1000);
    UniqueFd after = udp_socket_of_uid(domain, 1001);
    const Bytes plain = packet(kPn);
    const Message use = message_of(plain, Control().quic(kPn, shared, kShape.pn_offset()));
    expect_refused(-ENOENT, use, after.get());
    ASSERT_EQ(send(before.get(), use), static_cast<ssize_t>(kPacketSize));
    ASSERT_TRUE(receive(loopback_.receiver.get()).has_value());
    ASSERT_EQ(send(maker.get(), use), static_cast<ssize_t>(kPacketSize));
    ASSERT_TRUE(receive(loopback_.receiver.get()).has_value());
}

TEST_P(BadInput, SaOfAnotherNetworkNamespace) {
    const UniqueFd here(::open("/proc/thread-self/ns/net", O_RDONLY | O_CLOEXEC));
    const NetNamespace elsewhere;
    const Bytes plain = packet(kPn);
    elsewhere.run([&] {
        Loopback there(GetParam(), false);
        for (std::uint32_t flags : {std::uint32_t{0}, std::uint32_t{UDP_CRYPTO_SA_F_SAME_UID}}) {
            UniqueFd holder;
            std::uint32_t index = 0;
            {
                const InNamespace back(here.get());
                holder = udp_socket(socket_domain(GetParam()));
                index = add_sa_index(holder.get(), 1, keys_, flags);
            }
            EXPECT_EQ(send(there.sender.get(), plain,
                           Control().quic(kPn, index, kShape.pn_offset()), &there.to_address),
                      -ENOENT);
        }
    });
}

// --- inline keys ----------------------------------------------------------------------------

TEST_P(BadInput, InlineKeys) {
    for (unsigned cipher : {0U, 5U, 0xffffU}) {
        struct udp_quic_crypto_inline data = crypto_inline();
        data.keys.cipher = static_cast<std::uint16_t>(cipher);
        expect_refused(-EOPNOTSUPP, packet(kPn), raw(data));
    }
    struct udp_quic_crypto_inline reserved = crypto_inline();
    reserved.keys.reserved = 1;
    expect_refused(-EINVAL, packet(kPn), raw(reserved));
    for (std::size_t at : {16, 31}) {
        struct udp_quic_crypto_inline data = crypto_inline();
        data.keys.key[at] = 1;
        expect_refused(-EINVAL, packet(kPn), raw(data));
        data = crypto_inline();
        data.keys.hp_key[at] = 1;
        expect_refused(-EINVAL, packet(kPn), raw(data));
    }
}

// --- used up --------------------------------------------------------------------------------

TEST_P(BadInput, PacketLimit) {
    const std::uint32_t few = add_sa_index(fd(), 50, keys_, 0, 5);
    const auto use = [&](std::uint64_t pn) { return Control().quic(pn, few, kShape.pn_offset()); };
    // More than are left: none is sent, and none is used up.
    expect_refused(-EKEYEXPIRED, batch(kPn, 6), use(kPn).gso_size(kWireSize));
    const auto expect_sent = [&](std::uint64_t pn, std::size_t count) {
        Control control = use(pn);
        if (count > 1)
            control.gso_size(kWireSize);
        ASSERT_EQ(send(fd(), batch(pn, count), control, to()),
                  static_cast<ssize_t>(count * kPacketSize));
        for (std::size_t i = 0; i < count; ++i) {
            const auto wire = receive(loopback_.receiver.get());
            ASSERT_TRUE(wire && unprotect(keys_, *wire, kShape.pn_offset(), pn + i));
        }
    };
    expect_sent(kPn, 3);
    expect_refused(-EKEYEXPIRED, batch(kPn + 3, 3), use(kPn + 3).gso_size(kWireSize));
    // A send refused for another reason uses nothing up.
    expect_refused(-EBADMSG, packet(kPn + 9), use(kPn + 3));
    expect_refused(-EMSGSIZE, packet(kPn + 3, 65600), use(kPn + 3));
    expect_refused(-ENODATA, packet(kPn + 3, 10), use(kPn + 3));
    expect_sent(kPn + 3, 1);
    expect_sent(kPn + 4, 1);
    expect_refused(-EKEYEXPIRED, packet(kPn + 5), use(kPn + 5));
    struct udp_crypto_sa_info info {};
    ASSERT_EQ(get_sa(fd(), 50, &info), 0);
    EXPECT_EQ(info.packets, 5U);
    EXPECT_EQ(info.packet_limit, 5U);
}

TEST_P(BadInput, LargestPacketLimit) {
    const std::uint32_t much = add_sa_index(fd(), 51, keys_, 0, ~std::uint64_t{0});
    ASSERT_EQ(send(fd(), batch(kPn, 3),
                   Control().quic(kPn, much, kShape.pn_offset()).gso_size(kWireSize), to()),
              static_cast<ssize_t>(3 * kPacketSize));
}

} // namespace
} // namespace quic_test
