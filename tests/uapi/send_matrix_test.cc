// SPDX-License-Identifier: GPL-2.0
//
// Every way to send, in combination: what arrives is decrypted by OpenSSL and compared with what
// was sent. Every pair of values of any two dimensions occurs in some case.
#include <algorithm>
#include <cstring>
#include <random>
#include <sstream>

#include <gtest/gtest.h>
#include <linux/errqueue.h>
#include <netinet/udp.h>
#include <sys/mman.h>

#include "path.h"

namespace quic_test {
namespace {

enum class Gso { kNone, kOption, kCmsg };

struct SendCase {
    Family family;
    bool connected;
    Api api;
    Gso gso;
    bool zerocopy;
    bool tag_room;
    bool long_header;
    std::size_t token_length;
    std::size_t cid_length;
    unsigned pn_length;
    Cipher cipher;
    bool inline_keys;
    unsigned size_class;
    unsigned packets;
    bool last_shorter;
    unsigned iov_form;
};

std::ostream &operator<<(std::ostream &out, const SendCase &c) {
    static const char *const gso_names[] = {"NoGso", "GsoOption", "GsoCmsg"};
    return out << name(c.family) << (c.connected ? "Connected" : "") << name(c.api)
               << gso_names[static_cast<int>(c.gso)] << (c.zerocopy ? "Zerocopy" : "")
               << (c.tag_room ? "TagRoom" : "Hole")
               << (c.long_header ? "Long" + std::to_string(c.token_length) : "Short") << "Cid"
               << c.cid_length << "Pn" << c.pn_length << name(c.cipher)
               << (c.inline_keys ? "Inline" : "") << "Size" << c.size_class << "X" << c.packets
               << (c.last_shorter ? "LastShorter" : "") << "Iov" << c.iov_form;
}

// Values of each dimension by number.
constexpr std::size_t kTokens[] = {0, 10, 200};
constexpr unsigned kPacketCounts[] = {1, 2, 7};
constexpr unsigned kSizes[] = {3, 2, 4, 3, 2, 2, 2, 3, 21, 4, 4, 2, 6, 3, 2, 3};
constexpr std::size_t kDimensions = std::size(kSizes);
using Choice = std::array<unsigned, kDimensions>;

SendCase case_of(const Choice &v) {
    return {static_cast<Family>(v[0]),
            v[1] != 0,
            static_cast<Api>(v[2]),
            static_cast<Gso>(v[3]),
            v[4] != 0,
            v[5] != 0,
            v[6] != 0,
            kTokens[v[7]],
            v[8],
            v[9] + 1,
            kAllCiphers[v[10]],
            v[11] != 0,
            v[12],
            kPacketCounts[v[13]],
            v[14] != 0,
            v[15]};
}

// Greedy all-pairs: each new case is the best of some random ones, seeded, hence always the same.
std::vector<SendCase> all_pairs() {
    std::mt19937 random(9001);
    std::vector<std::vector<bool>> open; // by pair of dimensions: pairs of values not yet seen
    std::size_t left = 0;
    for (std::size_t a = 0; a < kDimensions; ++a)
        for (std::size_t b = a + 1; b < kDimensions; ++b) {
            open.emplace_back(kSizes[a] * kSizes[b], true);
            left += kSizes[a] * kSizes[b];
        }
    const auto visit = [&](const Choice &choice, auto &&each) {
        std::size_t pair = 0;
        for (std::size_t a = 0; a < kDimensions; ++a)
            for (std::size_t b = a + 1; b < kDimensions; ++b, ++pair)
                each(pair, choice[a] * kSizes[b] + choice[b]);
    };
    std::vector<SendCase> cases;
    while (left > 0) {
        Choice best{};
        std::size_t best_gain = 0;
        while (best_gain == 0)
            for (int attempt = 0; attempt < 200; ++attempt) {
                Choice choice{};
                for (std::size_t d = 0; d < kDimensions; ++d)
                    choice[d] = static_cast<unsigned>(random() % kSizes[d]);
                std::size_t gain = 0;
                visit(choice, [&](std::size_t pair, std::size_t at) { gain += open[pair][at]; });
                if (gain > best_gain) {
                    best_gain = gain;
                    best = choice;
                }
            }
        visit(best, [&](std::size_t pair, std::size_t at) {
            if (open[pair][at]) {
                open[pair][at] = false;
                --left;
            }
        });
        cases.push_back(case_of(best));
    }
    return cases;
}

// Caller's memory in pages of its own, as MSG_ZEROCOPY takes them.
class PageBuffer {
  public:
    explicit PageBuffer(ByteView content) : size_(content.size()) {
        data_ = static_cast<std::uint8_t *>(
            ::mmap(nullptr, size_ + 1, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
        if (data_ == MAP_FAILED)
            throw_errno("mmap");
        std::copy(content.begin(), content.end(), data_);
    }
    ~PageBuffer() { ::munmap(data_, size_ + 1); }
    PageBuffer(const PageBuffer &) = delete;
    PageBuffer &operator=(const PageBuffer &) = delete;
    std::uint8_t *data() { return data_; }
    ByteView view() const { return {data_, size_}; }

  private:
    std::size_t size_;
    std::uint8_t *data_;
};

std::vector<iovec> cut(std::uint8_t *data, std::size_t size, unsigned form, std::size_t packet) {
    // One piece; odd pieces that straddle packets and tags; a piece of a packet's size each.
    const std::size_t step = form == 0   ? size
                             : form == 1 ? std::max<std::size_t>(size / 9, 1) | 1
                                         : packet;
    std::vector<iovec> out;
    for (std::size_t at = 0; at < size; at += step)
        out.push_back({data + at, std::min(step, size - at)});
    return out;
}

class SendMatrix : public testing::TestWithParam<SendCase> {};

TEST_P(SendMatrix, ArrivesProtected) {
    const SendCase &c = GetParam();
    const PacketShape shape{c.long_header, c.cid_length, c.pn_length, c.token_length};
    const std::size_t sizes[] = {shape.min_size(), shape.min_size() + 1, 600, 1184, 1436, 8000};
    const std::size_t size = sizes[c.size_class];
    const std::size_t wire_size = size + UDP_QUIC_TAG_LEN;
    // The truncated number wraps within the batch.
    const std::uint64_t pn = (std::uint64_t{5} << 34) + (std::uint64_t{1} << (8 * c.pn_length)) - 1;
    const auto flags = static_cast<std::uint16_t>(c.tag_room ? UDP_QUIC_CRYPTO_F_TAG_ROOM : 0);

    std::vector<Bytes> packets;
    for (unsigned i = 0; i < c.packets; ++i) {
        const bool shorter = c.last_shorter && i + 1 == c.packets && size > shape.min_size();
        packets.push_back(make_packet(shape, pn + i, shorter ? size - 1 : size, i));
    }

    Line line(c.family, c.connected);
    const int fd = line.sender();
    const PacketKeys keys = keys_of_seed(c.cipher, 77);
    const std::uint32_t sa = c.inline_keys ? 0 : line.add_sa(1, keys);
    if (c.zerocopy)
        set_option(fd, SOL_SOCKET, SO_ZEROCOPY, 1);
    if (c.gso == Gso::kOption)
        set_option(fd, SOL_UDP, UDP_SEGMENT, static_cast<int>(wire_size));

    const Statistics before = Statistics::read();
    const Line::DeviceCount device_before = Line::device_count();
    // Without GSO a send is one packet.
    std::vector<std::vector<Bytes>> sends;
    if (c.gso == Gso::kNone)
        for (const Bytes &packet : packets)
            sends.push_back({packet});
    else
        sends.push_back(packets);
    std::uint64_t next = pn;
    for (const std::vector<Bytes> &batch : sends) {
        const Bytes content = c.tag_room ? join_with_tag_room(batch) : join_packets(batch);
        PageBuffer buffer(content);
        Message message;
        message.to = line.to();
        message.data = cut(buffer.data(), content.size(), c.iov_form, size);
        if (c.inline_keys)
            message.control.quic_inline(next, keys, shape.pn_offset(), flags);
        else
            message.control.quic(next, sa, shape.pn_offset(), flags);
        if (c.gso == Gso::kCmsg)
            message.control.gso_size(static_cast<std::uint16_t>(wire_size));
        message.flags = c.zerocopy && c.api != Api::kIoUringZeroCopy ? MSG_ZEROCOPY : 0;
        ASSERT_EQ(send(fd, message, c.api), static_cast<ssize_t>(content.size()));
        next += batch.size();

        for (std::size_t i = next - batch.size() - pn; i < next - pn; ++i) {
            const auto wire = receive(line.receiver());
            ASSERT_TRUE(wire.has_value()) << "packet " << i << " did not arrive";
            EXPECT_EQ(wire->size(), packets[i].size() + UDP_QUIC_TAG_LEN);
            EXPECT_FALSE(contains_plaintext(*wire)) << "packet " << i;
            const auto opened = unprotect(keys, *wire, shape.pn_offset(), pn + i);
            ASSERT_TRUE(opened.has_value()) << "packet " << i << " does not decrypt";
            EXPECT_EQ(opened->pn, pn + i);
            EXPECT_EQ(opened->packet, packets[i]) << "packet " << i;
            // By whichever path, the bytes of OpenSSL.
            EXPECT_EQ(*wire, protect(keys, packets[i], shape.pn_offset(), pn + i));
        }
        if (message.flags & MSG_ZEROCOPY) {
            const auto completion = zerocopy_completion(fd);
            ASSERT_TRUE(completion.has_value()) << "no zerocopy completion";
            // Where software encrypts, or leaves room for the tags, the kernel had to copy, and
            // says so.
            EXPECT_EQ(completion->code,
                      path() == Path::kSoftware || !c.tag_room ? SO_EE_CODE_ZEROCOPY_COPIED : 0);
        }
        EXPECT_TRUE(std::ranges::equal(buffer.view(), content)) << "the caller's pages changed";
    }

    const Statistics after = Statistics::read();
    std::uint64_t bytes = 0;
    for (const Bytes &packet : packets)
        bytes += packet.size() + UDP_QUIC_TAG_LEN;
    EXPECT_EQ(after.since(before, "TxPackets"), c.packets);
    EXPECT_EQ(after.since(before, "TxBytes"), bytes);
    EXPECT_EQ(after.since(before, "TxSends"), sends.size());
    const bool software = path() == Path::kSoftware;
    EXPECT_EQ(after.since(before, "TxSoftware"), software ? c.packets : 0);
    EXPECT_EQ(after.since(before, "TxDevice"), software ? 0 : c.packets);
    const Line::DeviceCount by_device = Line::device_count() - device_before;
    if (software)
        EXPECT_EQ(by_device, (Line::DeviceCount{0, 0}));
    else if (c.inline_keys || path() == Path::kInline)
        EXPECT_EQ(by_device, (Line::DeviceCount{0, c.packets}));
    else
        EXPECT_EQ(by_device, (Line::DeviceCount{c.packets, 0}));
    if (c.packets > 1) {
        EXPECT_EQ(after.since(before, "TxGsoSends"), c.gso == Gso::kNone ? 0U : 1U);
        if (c.gso != Gso::kNone) {
            EXPECT_GE(after["TxGsoMaxSegs"], c.packets);
        }
    }
    for (const char *drop : {"DropNoSa", "DropNoMem", "DropError"})
        EXPECT_EQ(after.since(before, drop), 0U) << drop;
    if (!c.inline_keys) {
        struct udp_crypto_sa_info info {};
        ASSERT_EQ(get_sa(fd, 1, &info), 0);
        EXPECT_EQ(info.packets, line.sent_before() + c.packets);
        EXPECT_GE(info.bytes, bytes);
        if (line.sent_before() == 0) {
            EXPECT_EQ(info.bytes, bytes);
        }
        EXPECT_EQ(info.packets_software, software ? c.packets : 0);
        EXPECT_EQ(info.packets_dropped, 0U);
    }
}

INSTANTIATE_TEST_SUITE_P(AllPairs, SendMatrix, testing::ValuesIn(all_pairs()),
                         [](const auto &info) {
                             std::ostringstream text;
                             text << info.index << info.param;
                             return text.str();
                         });

// Packet numbers of all lengths in one batch, with zero-copy where a device encrypts: each is
// looked at where it lies in the sender's pages, and a wrong one anywhere refuses the send.
TEST(SendMatrixNumbers, OfAllLengthsInOneBatch) {
    constexpr std::uint64_t kPn = 0x1122334455;
    constexpr std::size_t kPackets = 40;
    constexpr std::size_t kSize = 600;
    constexpr unsigned kLengths[] = {1, 1, 1, 2, 4, 4, 3, 3, 1, 4, 2, 3};
    const auto shape = [&](std::size_t i) {
        return PacketShape{.cid_length = 8, .pn_length = kLengths[i % std::size(kLengths)]};
    };
    const std::size_t pn_offset = shape(0).pn_offset();
    const PacketKeys keys = keys_of_seed(Cipher::kAes256Gcm, 3);
    Line line(Family::kIpv4, true);
    const std::uint32_t sa = line.add_sa(1, keys);
    set_option(line.sender(), SOL_SOCKET, SO_ZEROCOPY, 1);

    std::vector<Bytes> packets;
    for (std::size_t i = 0; i < kPackets; ++i)
        packets.push_back(make_packet(shape(i), kPn + i, kSize));
    const auto send_all = [&](const std::vector<Bytes> &batch, bool tag_room) {
        const Bytes content = tag_room ? join_with_tag_room(batch) : join_packets(batch);
        PageBuffer buffer(content);
        const ssize_t sent =
            send(line.sender(), buffer.view(),
                 Control()
                     .quic(kPn, sa, pn_offset, tag_room ? UDP_QUIC_CRYPTO_F_TAG_ROOM : 0)
                     .gso_size(kSize + UDP_QUIC_TAG_LEN),
                 nullptr, tag_room ? MSG_ZEROCOPY : 0);
        if (tag_room && sent > 0) {
            EXPECT_TRUE(zerocopy_completion(line.sender()).has_value());
        }
        return sent == static_cast<ssize_t>(content.size()) ? 0 : sent;
    };
    for (const bool tag_room : {false, true}) {
        SCOPED_TRACE(tag_room);
        for (const std::size_t wrong : {0U, 2U, 3U, 6U, 20U, 38U, 39U})
            for (unsigned byte = 0; byte < shape(wrong).pn_length; ++byte) {
                std::vector<Bytes> batch = packets;
                batch[wrong][pn_offset + byte] ^= 0x80;
                EXPECT_EQ(send_all(batch, tag_room), -EBADMSG) << "packet " << wrong;
            }
        EXPECT_EQ(send_all(packets, tag_room), 0);
        for (std::size_t i = 0; i < kPackets; ++i) {
            const auto wire = receive(line.receiver());
            ASSERT_TRUE(wire.has_value()) << "packet " << i << " did not arrive";
            EXPECT_EQ(*wire, protect(keys, packets[i], pn_offset, kPn + i)) << "packet " << i;
        }
    }
}

} // namespace
} // namespace quic_test
