// SPDX-License-Identifier: GPL-2.0
//
// The socket option UDP_CRYPTO_STATE, sentence by sentence of linux/udp_crypto.h.
#include <cstring>
#include <set>

#include <gtest/gtest.h>
#include <netinet/udp.h>

#include "loopback.h"

namespace quic_test {
namespace {

const PacketKeys &some_keys() {
    static const PacketKeys keys = keys_of_seed(Cipher::kAes128Gcm, 1);
    return keys;
}

// Raw bytes of a structure, to be lengthened, shortened and spoiled.
template <typename T> Bytes bytes_of(const T &value) {
    Bytes out(sizeof(value));
    std::memcpy(out.data(), &value, sizeof(value));
    return out;
}

int set_bytes(int fd, const Bytes &bytes) { return set_state(fd, bytes.data(), bytes.size()); }

Bytes add_request() { return bytes_of(sa_request(5, some_keys())); }

class Option : public testing::TestWithParam<int> {
  protected:
    Option() : socket_(udp_socket(GetParam())), before_(Statistics::read()) {}
    int fd() const { return socket_.get(); }

    // After a refusal no SA is there, and one can be added.
    void expect_nothing_changed() {
        EXPECT_EQ(Statistics::read().all(), before_.all());
        EXPECT_EQ(add_sa(fd(), 5, some_keys()), 0);
    }

    UniqueFd socket_;
    Statistics before_;
};

INSTANTIATE_TEST_SUITE_P(Families, Option, testing::Values(AF_INET, AF_INET6),
                         [](const auto &info) { return info.param == AF_INET ? "Ipv4" : "Ipv6"; });

// --- adding ---------------------------------------------------------------------------------

TEST_P(Option, AddEveryCipherAndShow) {
    for (Cipher cipher : kAllCiphers) {
        const auto cookie = static_cast<std::uint64_t>(cipher);
        ASSERT_EQ(add_sa(fd(), cookie, keys_of_seed(cipher, 3), 0, 1000 + cookie), 0)
            << name(cipher);
        struct udp_crypto_sa_info info {};
        ASSERT_EQ(get_sa(fd(), cookie, &info), 0);
        EXPECT_EQ(info.req.type, UDP_CRYPTO_QUIC);
        EXPECT_EQ(info.req.op, UDP_CRYPTO_OP_GET_SA);
        EXPECT_EQ(info.req.flags, 0U);
        EXPECT_EQ(info.req.cookie, cookie);
        EXPECT_NE(info.sa, 0U);
        EXPECT_NE(info.sa, UDP_QUIC_CRYPTO_SA_INLINE);
        EXPECT_EQ(info.state, static_cast<std::uint32_t>(UDP_CRYPTO_SA_SOFTWARE));
        EXPECT_EQ(info.ifindex, 0U);
        EXPECT_EQ(info.cipher, static_cast<std::uint16_t>(cipher));
        EXPECT_EQ(info.reserved, 0U);
        EXPECT_EQ(info.packets, 0U);
        EXPECT_EQ(info.bytes, 0U);
        EXPECT_EQ(info.packets_software, 0U);
        EXPECT_EQ(info.packets_dropped, 0U);
        EXPECT_EQ(info.packet_limit, 1000 + cookie);
        EXPECT_EQ(info.reserved2, 0U);
    }
}

TEST_P(Option, AnyCookie) {
    std::set<std::uint32_t> indices;
    for (std::uint64_t cookie : {0ULL, 1ULL, 1ULL << 32, 1ULL << 63, ~0ULL}) {
        ASSERT_EQ(add_sa(fd(), cookie, some_keys()), 0) << cookie;
        EXPECT_TRUE(indices.insert(sa_index(fd(), cookie)).second);
    }
}

TEST_P(Option, CookieTaken) {
    ASSERT_EQ(add_sa(fd(), 5, some_keys()), 0);
    const std::uint32_t index = sa_index(fd(), 5);
    const Statistics after_first = Statistics::read();
    EXPECT_EQ(add_sa(fd(), 5, keys_of_seed(Cipher::kAes256Gcm, 2)), -EEXIST);
    struct udp_crypto_sa_info info {};
    ASSERT_EQ(get_sa(fd(), 5, &info), 0);
    EXPECT_EQ(info.sa, index);
    EXPECT_EQ(info.cipher, UDP_QUIC_CIPHER_AES_128_GCM);
    EXPECT_EQ(Statistics::read().all(), after_first.all());
    // A cookie belongs to its socket.
    UniqueFd other = udp_socket(GetParam());
    EXPECT_EQ(add_sa(other.get(), 5, some_keys()), 0);
    EXPECT_NE(sa_index(other.get(), 5), index);
}

TEST_P(Option, CookieFreeAfterDelete) {
    ASSERT_EQ(add_sa(fd(), 5, some_keys()), 0);
    ASSERT_EQ(del_sa(fd(), 5), 0);
    EXPECT_EQ(add_sa(fd(), 5, some_keys()), 0);
}

TEST_P(Option, SameUidFlagIsShown) {
    ASSERT_EQ(add_sa(fd(), 5, some_keys(), UDP_CRYPTO_SA_F_SAME_UID), 0);
    struct udp_crypto_sa_info info {};
    ASSERT_EQ(get_sa(fd(), 5, &info), 0);
    EXPECT_EQ(info.req.flags, UDP_CRYPTO_SA_F_SAME_UID);
}

// --- malformed ------------------------------------------------------------------------------

TEST_P(Option, AddTooShort) {
    const Bytes all = add_request();
    for (std::size_t length = 0; length < all.size(); ++length)
        EXPECT_EQ(set_bytes(fd(), Bytes(all.begin(), all.begin() + static_cast<long>(length))),
                  -EINVAL)
            << length;
    expect_nothing_changed();
}

TEST_P(Option, AddLongerWithZeros) {
    for (std::size_t more : {1, 7, 8, 64, 1000}) {
        struct udp_crypto_sa sa = sa_request(more, some_keys());
        Bytes bytes = bytes_of(sa);
        bytes.resize(bytes.size() + more);
        EXPECT_EQ(set_bytes(fd(), bytes), 0) << more;
    }
}

TEST_P(Option, AddLongerWithOtherThanZeros) {
    for (std::size_t more : {1, 7, 8, 64, 1000}) {
        Bytes bytes = add_request();
        bytes.resize(bytes.size() + more);
        for (std::size_t at : {std::size_t{104}, bytes.size() - 1}) {
            Bytes spoilt = bytes;
            spoilt[at] = 1;
            EXPECT_EQ(set_bytes(fd(), spoilt), -E2BIG) << more << " at " << at;
        }
    }
    expect_nothing_changed();
}

TEST_P(Option, AddHugeLength) {
    // More than a page, with zeros: too much to be sane, but no crash and no success in part.
    Bytes bytes = add_request();
    bytes.resize(1 << 20);
    const int result = set_bytes(fd(), bytes);
    EXPECT_TRUE(result == 0 || result == -E2BIG || result == -EINVAL) << result;
    if (result == 0) {
        EXPECT_EQ(del_sa(fd(), 5), 0);
    }
    EXPECT_EQ(add_sa(fd(), 5, some_keys()), 0);
}

TEST_P(Option, AddMemoryThatIsNotThere) {
    EXPECT_EQ(set_state(fd(), nullptr, sizeof(struct udp_crypto_sa)), -EFAULT);
    EXPECT_EQ(set_state(fd(), reinterpret_cast<void *>(-4096L), sizeof(struct udp_crypto_sa)),
              -EFAULT);
    expect_nothing_changed();
}

TEST_P(Option, NegativeLength) {
    struct udp_crypto_sa sa = sa_request(5, some_keys());
    EXPECT_EQ(::setsockopt(fd(), SOL_UDP, UDP_CRYPTO_STATE, &sa, static_cast<socklen_t>(-1)), -1);
    EXPECT_EQ(errno, EINVAL);
    expect_nothing_changed();
}

TEST_P(Option, UnknownFlags) {
    for (unsigned bit = 2; bit < 32; ++bit) {
        struct udp_crypto_sa sa = sa_request(5, some_keys(), 1U << bit);
        EXPECT_EQ(set_state(fd(), &sa, sizeof(sa)), -EINVAL) << bit;
    }
    expect_nothing_changed();
}

TEST_P(Option, UnknownType) {
    for (unsigned type : {0U, 2U, 0x101U, 0xffffU}) {
        struct udp_crypto_sa sa = sa_request(5, some_keys());
        sa.req.type = static_cast<std::uint16_t>(type);
        EXPECT_EQ(set_state(fd(), &sa, sizeof(sa)), -EPROTONOSUPPORT) << type;
        struct udp_crypto_req req = request(UDP_CRYPTO_OP_DEL_SA, 5);
        req.type = static_cast<std::uint16_t>(type);
        EXPECT_EQ(set_state(fd(), &req, sizeof(req)), -EPROTONOSUPPORT) << type;
        struct udp_crypto_caps caps {};
        caps.req = request(UDP_CRYPTO_OP_GET_CAPS, 0);
        caps.req.type = static_cast<std::uint16_t>(type);
        socklen_t length = sizeof(caps);
        EXPECT_EQ(get_state(fd(), &caps, &length), -EPROTONOSUPPORT) << type;
    }
    expect_nothing_changed();
}

TEST_P(Option, UnknownOperation) {
    for (unsigned op : {0U, 3U, 4U, 5U, 0x101U, 0xffffU}) {
        struct udp_crypto_sa sa = sa_request(5, some_keys());
        sa.req.op = static_cast<std::uint16_t>(op);
        EXPECT_EQ(set_state(fd(), &sa, sizeof(sa)), -EINVAL) << "set " << op;
    }
    for (unsigned op : {0U, 1U, 2U, 5U, 0x103U, 0xffffU}) {
        struct udp_crypto_sa_info info {};
        info.req = request(UDP_CRYPTO_OP_GET_SA, 5);
        info.req.op = static_cast<std::uint16_t>(op);
        socklen_t length = sizeof(info);
        EXPECT_EQ(get_state(fd(), &info, &length), -EINVAL) << "get " << op;
    }
    expect_nothing_changed();
}

TEST_P(Option, ReservedFieldOfKeys) {
    for (unsigned value : {1U, 0x8000U}) {
        struct udp_crypto_sa sa = sa_request(5, some_keys());
        sa.keys.reserved = static_cast<std::uint16_t>(value);
        EXPECT_EQ(set_state(fd(), &sa, sizeof(sa)), -EINVAL);
    }
    expect_nothing_changed();
}

TEST_P(Option, BytesBehindShortKeys) {
    for (Cipher cipher : {Cipher::kAes128Gcm, Cipher::kAes128Ccm})
        for (std::size_t at : {16, 31}) {
            struct udp_crypto_sa sa = sa_request(5, keys_of_seed(cipher, 1));
            sa.keys.key[at] = 1;
            EXPECT_EQ(set_state(fd(), &sa, sizeof(sa)), -EINVAL) << "key " << at;
            sa = sa_request(5, keys_of_seed(cipher, 1));
            sa.keys.hp_key[at] = 1;
            EXPECT_EQ(set_state(fd(), &sa, sizeof(sa)), -EINVAL) << "hp_key " << at;
        }
    expect_nothing_changed();
}

TEST_P(Option, UnknownCipher) {
    for (unsigned cipher : {0U, 5U, 0x101U, 0xffffU}) {
        struct udp_crypto_sa sa = sa_request(5, some_keys());
        sa.keys.cipher = static_cast<std::uint16_t>(cipher);
        EXPECT_EQ(set_state(fd(), &sa, sizeof(sa)), -EOPNOTSUPP) << cipher;
    }
    expect_nothing_changed();
}

TEST_P(Option, UdpLite) {
    UniqueFd lite = udp_socket(GetParam(), IPPROTO_UDPLITE);
    EXPECT_EQ(add_sa(lite.get(), 5, some_keys()), -EOPNOTSUPP);
    EXPECT_EQ(del_sa(lite.get(), 5), -EOPNOTSUPP);
    struct udp_crypto_caps caps {};
    EXPECT_EQ(get_caps(lite.get(), &caps), -EOPNOTSUPP);
    struct udp_crypto_sa_info info {};
    EXPECT_EQ(get_sa(lite.get(), 5, &info), -EOPNOTSUPP);
    expect_nothing_changed();
}

// --- deleting -------------------------------------------------------------------------------

TEST_P(Option, DeleteUnknown) {
    EXPECT_EQ(del_sa(fd(), 5), -ENOENT);
    ASSERT_EQ(add_sa(fd(), 5, some_keys()), 0);
    EXPECT_EQ(del_sa(fd(), 6), -ENOENT);
    EXPECT_EQ(del_sa(fd(), 5), 0);
    EXPECT_EQ(del_sa(fd(), 5), -ENOENT);
}

TEST_P(Option, DeleteTooShort) {
    ASSERT_EQ(add_sa(fd(), 5, some_keys()), 0);
    const Bytes all = bytes_of(request(UDP_CRYPTO_OP_DEL_SA, 5));
    for (std::size_t length = 0; length < all.size(); ++length)
        EXPECT_EQ(set_bytes(fd(), Bytes(all.begin(), all.begin() + static_cast<long>(length))),
                  -EINVAL)
            << length;
    EXPECT_EQ(del_sa(fd(), 5), 0);
}

TEST_P(Option, DeleteWithFlags) {
    ASSERT_EQ(add_sa(fd(), 5, some_keys()), 0);
    for (std::uint32_t flags : {std::uint32_t{UDP_CRYPTO_SA_F_SAME_UID}, 1U << 1, 1U << 31}) {
        const struct udp_crypto_req req = request(UDP_CRYPTO_OP_DEL_SA, 5, flags);
        EXPECT_EQ(set_state(fd(), &req, sizeof(req)), -EINVAL) << flags;
    }
    EXPECT_EQ(del_sa(fd(), 5), 0);
}

TEST_P(Option, DeleteLonger) {
    for (std::size_t more : {1, 8, 88, 1000}) {
        ASSERT_EQ(add_sa(fd(), 5, some_keys()), 0);
        Bytes bytes = bytes_of(request(UDP_CRYPTO_OP_DEL_SA, 5));
        bytes.resize(bytes.size() + more);
        bytes.back() = 1;
        EXPECT_EQ(set_bytes(fd(), bytes), -E2BIG) << more;
        bytes.back() = 0;
        EXPECT_EQ(set_bytes(fd(), bytes), 0) << more;
        EXPECT_EQ(del_sa(fd(), 5), -ENOENT);
    }
}

// --- showing --------------------------------------------------------------------------------

TEST_P(Option, ShowUnknown) {
    struct udp_crypto_sa_info info {};
    EXPECT_EQ(get_sa(fd(), 5, &info), -ENOENT);
    ASSERT_EQ(add_sa(fd(), 5, some_keys()), 0);
    EXPECT_EQ(get_sa(fd(), 6, &info), -ENOENT);
    ASSERT_EQ(del_sa(fd(), 5), 0);
    EXPECT_EQ(get_sa(fd(), 5, &info), -ENOENT);
}

TEST_P(Option, OnlyTheMakerShowsAndDeletes) {
    ASSERT_EQ(add_sa(fd(), 5, some_keys(), UDP_CRYPTO_SA_F_SAME_UID), 0);
    UniqueFd other = udp_socket(GetParam());
    struct udp_crypto_sa_info info {};
    EXPECT_EQ(get_sa(other.get(), 5, &info), -ENOENT);
    EXPECT_EQ(del_sa(other.get(), 5), -ENOENT);
    EXPECT_EQ(get_sa(fd(), 5, &info), 0);
}

TEST_P(Option, ShowAsMuchAsThereIsRoomFor) {
    ASSERT_EQ(add_sa(fd(), 5, some_keys(), UDP_CRYPTO_SA_F_SAME_UID, 99), 0);
    struct udp_crypto_sa_info full {};
    ASSERT_EQ(get_sa(fd(), 5, &full), 0);
    const Bytes expected = bytes_of(full);
    for (std::size_t room = sizeof(struct udp_crypto_req); room <= 200; ++room) {
        // The caller's guard byte behind the room stays.
        Bytes buffer(room + 1, 0);
        const struct udp_crypto_req req = request(UDP_CRYPTO_OP_GET_SA, 5);
        std::memcpy(buffer.data(), &req, sizeof(req));
        buffer[room] = 0xee;
        socklen_t length = static_cast<socklen_t>(room);
        ASSERT_EQ(get_state(fd(), buffer.data(), &length), 0) << room;
        ASSERT_EQ(length, std::min(room, expected.size())) << room;
        EXPECT_EQ(Bytes(buffer.begin(), buffer.begin() + length),
                  Bytes(expected.begin(), expected.begin() + length))
            << room;
        EXPECT_EQ(buffer[room], 0xee) << room;
    }
}

TEST_P(Option, ShowTooShort) {
    ASSERT_EQ(add_sa(fd(), 5, some_keys()), 0);
    for (enum udp_crypto_op op : {UDP_CRYPTO_OP_GET_SA, UDP_CRYPTO_OP_GET_CAPS})
        for (std::size_t room = 0; room < sizeof(struct udp_crypto_req); ++room) {
            struct udp_crypto_sa_info info {};
            info.req = request(op, op == UDP_CRYPTO_OP_GET_SA ? 5 : 0);
            socklen_t length = static_cast<socklen_t>(room);
            EXPECT_EQ(get_state(fd(), &info, &length), -EINVAL) << op << " " << room;
        }
    struct udp_crypto_sa_info info {};
    info.req = request(UDP_CRYPTO_OP_GET_SA, 5);
    auto negative = static_cast<socklen_t>(-1);
    EXPECT_EQ(get_state(fd(), &info, &negative), -EINVAL);
}

TEST_P(Option, ShowWithNonZeroBehindWhatIsKnown) {
    ASSERT_EQ(add_sa(fd(), 5, some_keys()), 0);
    Bytes buffer(sizeof(struct udp_crypto_sa_info) + 8, 0);
    const struct udp_crypto_req req = request(UDP_CRYPTO_OP_GET_SA, 5);
    std::memcpy(buffer.data(), &req, sizeof(req));
    buffer.back() = 1;
    auto length = static_cast<socklen_t>(buffer.size());
    EXPECT_EQ(get_state(fd(), buffer.data(), &length), -E2BIG);
}

TEST_P(Option, ShowWithFlags) {
    ASSERT_EQ(add_sa(fd(), 5, some_keys()), 0);
    for (enum udp_crypto_op op : {UDP_CRYPTO_OP_GET_SA, UDP_CRYPTO_OP_GET_CAPS}) {
        struct udp_crypto_sa_info info {};
        info.req = request(op, op == UDP_CRYPTO_OP_GET_SA ? 5 : 0, UDP_CRYPTO_SA_F_SAME_UID);
        socklen_t length = sizeof(info);
        EXPECT_EQ(get_state(fd(), &info, &length), -EINVAL) << op;
    }
}

TEST_P(Option, ShowIntoMemoryThatIsNotThere) {
    socklen_t length = sizeof(struct udp_crypto_sa_info);
    EXPECT_EQ(get_state(fd(), nullptr, &length), -EFAULT);
    struct udp_crypto_sa_info info {};
    info.req = request(UDP_CRYPTO_OP_GET_SA, 5);
    EXPECT_EQ(get_state(fd(), &info, nullptr), -EFAULT);
}

TEST_P(Option, Capabilities) {
    struct udp_crypto_caps caps {};
    ASSERT_EQ(get_caps(fd(), &caps), 0);
    EXPECT_EQ(caps.req.type, UDP_CRYPTO_QUIC);
    EXPECT_EQ(caps.req.op, UDP_CRYPTO_OP_GET_CAPS);
    EXPECT_EQ(caps.ciphers, 1U << UDP_QUIC_CIPHER_AES_128_GCM | 1U << UDP_QUIC_CIPHER_AES_256_GCM |
                                1U << UDP_QUIC_CIPHER_CHACHA20_POLY1305 |
                                1U << UDP_QUIC_CIPHER_AES_128_CCM);
    EXPECT_EQ(caps.cmsg_flags, UDP_QUIC_CRYPTO_F_TAG_ROOM);
    EXPECT_EQ(caps.sa_flags, UDP_CRYPTO_SA_F_SAME_UID | UDP_CRYPTO_SA_F_GUARD_PN);
    EXPECT_EQ(caps.max_sa, std::stoul(read_file("/proc/sys/net/ipv4/udp_crypto_max_sa")));
    EXPECT_EQ(caps.max_segments, 128U); // UDP_MAX_SEGMENTS of Linux 6.12
    EXPECT_EQ(caps.tag_len, UDP_QUIC_TAG_LEN);
    EXPECT_EQ(caps.max_sa_per_uid,
              std::stoul(read_file("/proc/sys/net/ipv4/udp_crypto_max_sa_per_uid")));
}

TEST_P(Option, CapabilitiesAsMuchAsThereIsRoomFor) {
    struct udp_crypto_caps full {};
    ASSERT_EQ(get_caps(fd(), &full), 0);
    const Bytes expected = bytes_of(full);
    for (std::size_t room = sizeof(struct udp_crypto_req); room <= 100; ++room) {
        Bytes buffer(room + 1, 0);
        const struct udp_crypto_req req = request(UDP_CRYPTO_OP_GET_CAPS, 0);
        std::memcpy(buffer.data(), &req, sizeof(req));
        buffer[room] = 0xee;
        socklen_t length = static_cast<socklen_t>(room);
        ASSERT_EQ(get_state(fd(), buffer.data(), &length), 0) << room;
        ASSERT_EQ(length, std::min(room, expected.size()));
        EXPECT_EQ(Bytes(buffer.begin(), buffer.begin() + length),
                  Bytes(expected.begin(), expected.begin() + length));
        EXPECT_EQ(buffer[room], 0xee) << room;
    }
}

TEST_P(Option, CapabilitiesWithCookie) {
    struct udp_crypto_caps caps {};
    caps.req = request(UDP_CRYPTO_OP_GET_CAPS, 1);
    socklen_t length = sizeof(caps);
    EXPECT_EQ(get_state(fd(), &caps, &length), -EINVAL);
}

// --- how many -------------------------------------------------------------------------------

TEST_P(Option, TableFull) {
    const NetNamespace fresh;
    fresh.run([] {
        UniqueFd fd = udp_socket(GetParam());
        write_file("/proc/sys/net/ipv4/udp_crypto_max_sa", "3");
        struct udp_crypto_caps caps {};
        ASSERT_EQ(get_caps(fd.get(), &caps), 0);
        EXPECT_EQ(caps.max_sa, 3U);
        for (std::uint64_t cookie = 1; cookie <= 3; ++cookie)
            ASSERT_EQ(add_sa(fd.get(), cookie, some_keys()), 0);
        const Statistics full = Statistics::read();
        EXPECT_EQ(full["SaCurr"], 3U);
        EXPECT_EQ(add_sa(fd.get(), 4, some_keys()), -ENOSPC);
        UniqueFd other = udp_socket(GetParam());
        EXPECT_EQ(add_sa(other.get(), 4, some_keys()), -ENOSPC);
        EXPECT_EQ(Statistics::read().all(), full.all());
        ASSERT_EQ(del_sa(fd.get(), 2), 0);
        EXPECT_EQ(add_sa(other.get(), 4, some_keys()), 0);
        EXPECT_EQ(add_sa(fd.get(), 5, some_keys()), -ENOSPC);
        // The limit is the namespace's own.
        const NetNamespace second;
        second.run([] {
            UniqueFd elsewhere = udp_socket(GetParam());
            for (std::uint64_t cookie = 1; cookie <= 4; ++cookie)
                EXPECT_EQ(add_sa(elsewhere.get(), cookie, some_keys()), 0);
        });
        write_file("/proc/sys/net/ipv4/udp_crypto_max_sa", "4");
        EXPECT_EQ(add_sa(fd.get(), 5, some_keys()), 0);
    });
}

// One user of a namespace cannot take it all.
TEST_P(Option, LimitPerUid) {
    const NetNamespace fresh;
    fresh.run([] {
        write_file("/proc/sys/net/ipv4/udp_crypto_max_sa_per_uid", "3");
        UniqueFd fd = udp_socket(GetParam());
        struct udp_crypto_caps caps {};
        ASSERT_EQ(get_caps(fd.get(), &caps), 0);
        EXPECT_EQ(caps.max_sa_per_uid, 3U);
        UniqueFd second = udp_socket(GetParam());
        ASSERT_EQ(add_sa(fd.get(), 1, some_keys()), 0);
        ASSERT_EQ(add_sa(fd.get(), 2, some_keys()), 0);
        ASSERT_EQ(add_sa(second.get(), 1, some_keys()), 0);
        const Statistics full = Statistics::read();
        EXPECT_EQ(add_sa(fd.get(), 3, some_keys()), -EDQUOT);
        EXPECT_EQ(add_sa(second.get(), 3, some_keys()), -EDQUOT);
        EXPECT_EQ(Statistics::read().all(), full.all());
        // The name is checked first.
        EXPECT_EQ(add_sa(fd.get(), 1, some_keys()), -EEXIST);
        // It is a limit of each user, by the owner of the socket.
        UniqueFd others = udp_socket(GetParam());
        ASSERT_EQ(::fchown(others.get(), 1000, 1000), 0);
        for (std::uint64_t cookie = 1; cookie <= 3; ++cookie)
            EXPECT_EQ(add_sa(others.get(), cookie, some_keys()), 0);
        EXPECT_EQ(add_sa(others.get(), 4, some_keys()), -EDQUOT);
        // Deleted or closed, they count no more; also where the socket changed hands meanwhile.
        ASSERT_EQ(::fchown(others.get(), 1001, 1001), 0);
        EXPECT_EQ(add_sa(others.get(), 4, some_keys()), 0);
        ASSERT_EQ(del_sa(others.get(), 1), 0);
        ASSERT_EQ(::fchown(others.get(), 1000, 1000), 0);
        EXPECT_EQ(add_sa(others.get(), 5, some_keys()), 0);
        EXPECT_EQ(add_sa(others.get(), 6, some_keys()), -EDQUOT);
        others.reset();
        second.reset();
        EXPECT_TRUE(eventually([] { return Statistics::read()["SaCurr"] == 2; }));
        EXPECT_EQ(add_sa(fd.get(), 3, some_keys()), 0);
        EXPECT_EQ(add_sa(fd.get(), 4, some_keys()), -EDQUOT);
        write_file("/proc/sys/net/ipv4/udp_crypto_max_sa_per_uid", "4");
        EXPECT_EQ(add_sa(fd.get(), 4, some_keys()), 0);
    });
}

// Longer than any structure will ever be: refused whatever is in it, and not looked through.
TEST_P(Option, FarTooLong) {
    for (std::size_t size : {4097, 1 << 20}) {
        Bytes bytes = bytes_of(sa_request(5, some_keys()));
        bytes.resize(size);
        EXPECT_EQ(set_bytes(fd(), bytes), -E2BIG) << size;
        bytes.resize(4096);
        EXPECT_EQ(set_bytes(fd(), bytes), 0) << size;
        Bytes show = bytes_of(request(UDP_CRYPTO_OP_GET_SA, 5));
        show.resize(size);
        auto length = static_cast<socklen_t>(show.size());
        EXPECT_EQ(get_state(fd(), show.data(), &length), -E2BIG) << size;
        length = 4096;
        EXPECT_EQ(get_state(fd(), show.data(), &length), 0) << size;
        ASSERT_EQ(del_sa(fd(), 5), 0);
    }
}

TEST_P(Option, LimitOfZeroRefusesAll) {
    const NetNamespace fresh;
    fresh.run([] {
        write_file("/proc/sys/net/ipv4/udp_crypto_max_sa", "0");
        UniqueFd fd = udp_socket(GetParam());
        EXPECT_EQ(add_sa(fd.get(), 1, some_keys()), -ENOSPC);
    });
}

TEST_P(Option, Counters) {
    const NetNamespace fresh;
    fresh.run([] {
        Statistics before = Statistics::read();
        for (const auto &[name, value] : before.all())
            EXPECT_EQ(value, 0U) << name;
        UniqueFd fd = udp_socket(GetParam());
        for (std::uint64_t cookie = 1; cookie <= 5; ++cookie)
            ASSERT_EQ(add_sa(fd.get(), cookie, some_keys()), 0);
        ASSERT_EQ(del_sa(fd.get(), 3), 0);
        Statistics now = Statistics::read();
        EXPECT_EQ(now["SaAdded"], 5U);
        EXPECT_EQ(now["SaDeleted"], 1U);
        EXPECT_EQ(now["SaCurr"], 4U);
        fd.reset();
        EXPECT_TRUE(eventually([] { return Statistics::read()["SaCurr"] == 0; }));
        EXPECT_EQ(Statistics::read()["SaDeleted"], 5U);
    });
}

TEST_P(Option, IndexIsNotUsedAgainAtOnce) {
    std::set<std::uint32_t> seen;
    for (int i = 0; i < 200; ++i) {
        const std::uint32_t index = add_sa_index(fd(), 5, some_keys());
        EXPECT_TRUE(seen.insert(index).second) << "index " << index << " again in round " << i;
        ASSERT_EQ(del_sa(fd(), 5), 0);
    }
    for (int i = 0; i < 50; ++i) {
        UniqueFd other = udp_socket(GetParam());
        const std::uint32_t index = add_sa_index(other.get(), 5, some_keys());
        EXPECT_TRUE(seen.insert(index).second) << "index " << index << " again after close";
    }
}

// Other options of the socket, and other sockets, are as they were.
TEST_P(Option, OtherSocketsHaveNoSuchOption) {
    UniqueFd tcp(::socket(GetParam(), SOCK_STREAM | SOCK_CLOEXEC, 0));
    EXPECT_EQ(add_sa(tcp.get(), 5, some_keys()), -ENOPROTOOPT);
    UniqueFd raw(::socket(GetParam(), SOCK_RAW | SOCK_CLOEXEC, IPPROTO_UDP));
    EXPECT_EQ(add_sa(raw.get(), 5, some_keys()), -ENOPROTOOPT);
    EXPECT_EQ(::setsockopt(fd(), SOL_IP, UDP_CRYPTO_STATE, "", 0) == 0, false);
    int value = 1200;
    ASSERT_EQ(::setsockopt(fd(), SOL_UDP, UDP_SEGMENT, &value, sizeof(value)), 0);
    value = 0;
    socklen_t length = sizeof(value);
    ASSERT_EQ(::getsockopt(fd(), SOL_UDP, UDP_SEGMENT, &value, &length), 0);
    EXPECT_EQ(value, 1200);
    EXPECT_EQ(::setsockopt(fd(), SOL_UDP, 107, &value, sizeof(value)), -1);
    EXPECT_EQ(errno, ENOPROTOOPT);
}

} // namespace
} // namespace quic_test
