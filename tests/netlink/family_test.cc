// SPDX-License-Identifier: GPL-2.0
//
// The netlink family udp_crypto, request by request: what each answers, each of its errors with its
// words, who may ask, notifications, dumps, and what becomes of messages that are none.
#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <random>
#include <set>
#include <thread>

#include <fcntl.h>
#include <gtest/gtest.h>
#include <linux/genetlink.h>
#include <linux/netlink.h>
#include <net/if.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/socket.h>

#include "loopback.h"
#include "processes.h"
#include "raw_netlink.h"
#include "world.h"

namespace quic_test {
namespace {

constexpr PacketShape kShape{.cid_length = 8, .pn_length = 4};
constexpr std::size_t kSize = 300;
constexpr uid_t kUser = 1000;
constexpr uid_t kOther = 1001;
const char *const kMaxSa = "/proc/sys/net/ipv4/udp_crypto_max_sa";

// Each test in a namespace of its own.
class Netlink : public testing::Test {
  protected:
    Netlink() : inside_(net_) {}

    std::uint64_t count() { return Statistics::read()["SaCurr"]; }
    std::uint32_t add(const PacketKeys &keys, std::uint32_t uid, std::uint64_t limit = 0) {
        auto attributes = sa_attributes(keys, uid);
        if (limit != 0)
            attributes.push_back(Attribute::u64(UDP_CRYPTO_A_SA_PACKET_LIMIT, limit));
        const Answer answer = netlink().request(UDP_CRYPTO_CMD_SA_ADD, attributes);
        EXPECT_EQ(answer.error, 0) << answer.message;
        return static_cast<std::uint32_t>(
            find_number(answer.messages.at(0), UDP_CRYPTO_A_SA_INDEX).value());
    }
    Answer by_index(std::uint8_t command, std::uint32_t index, std::uint16_t flags = 0) {
        return netlink().request(command, {Attribute::u32(UDP_CRYPTO_A_SA_INDEX, index)}, flags);
    }
    RawNetlink &netlink() {
        if (!netlink_)
            netlink_ = std::make_unique<RawNetlink>();
        return *netlink_;
    }
    const PacketKeys keys_ = keys_of_seed(Cipher::kAes128Gcm, 1);

  private:
    NetNamespace net_;
    InNamespace inside_;
    std::unique_ptr<RawNetlink> netlink_;
};

TEST_F(Netlink, AddGetDelete) {
    for (const Cipher cipher : kAllCiphers) {
        SCOPED_TRACE(name(cipher));
        const std::uint32_t index = add(keys_of_seed(cipher, 1), kUser, std::uint64_t{1} << 40);
        EXPECT_NE(index, 0U);
        const Answer got = by_index(UDP_CRYPTO_CMD_SA_GET, index);
        ASSERT_EQ(got.error, 0) << got.message;
        const Bytes &sa = got.messages.at(0);
        EXPECT_EQ(find_number(sa, UDP_CRYPTO_A_SA_INDEX), index);
        EXPECT_EQ(find_number(sa, UDP_CRYPTO_A_SA_CIPHER), static_cast<std::uint64_t>(cipher));
        EXPECT_EQ(find_number(sa, UDP_CRYPTO_A_SA_UID), kUser);
        EXPECT_EQ(find_number(sa, UDP_CRYPTO_A_SA_ORIGIN), UDP_CRYPTO_SA_ORIGIN_NETLINK);
        EXPECT_EQ(find_number(sa, UDP_CRYPTO_A_SA_FLAGS), UDP_CRYPTO_SA_F_SAME_UID);
        EXPECT_EQ(find_number(sa, UDP_CRYPTO_A_SA_STATE), UDP_CRYPTO_SA_SOFTWARE);
        EXPECT_EQ(find_number(sa, UDP_CRYPTO_A_SA_PACKET_LIMIT), std::uint64_t{1} << 40);
        EXPECT_EQ(find_number(sa, UDP_CRYPTO_A_SA_PACKETS), 0U);
        for (const std::uint16_t key :
             {UDP_CRYPTO_A_SA_KEY, UDP_CRYPTO_A_SA_IV, UDP_CRYPTO_A_SA_HP_KEY})
            EXPECT_FALSE(find_attribute(sa, key).has_value());
        EXPECT_EQ(count(), 1U);
        EXPECT_EQ(by_index(UDP_CRYPTO_CMD_SA_DEL, index, NLM_F_ACK).error, 0);
        EXPECT_EQ(count(), 0U);
        EXPECT_EQ(by_index(UDP_CRYPTO_CMD_SA_DEL, index, NLM_F_ACK).error, ENOENT);
    }
}

TEST_F(Netlink, EveryBadSaIsRefusedWithWords) {
    const auto whole = sa_attributes(keys_, kUser);
    struct Case {
        const char *what;
        std::vector<Attribute> attributes;
        int error;
        const char *words;
        std::optional<std::uint32_t> missing;
        std::optional<std::uint16_t> bad;
    };
    const Bytes fifteen(15, 1);
    const Bytes sixteen(16, 1);
    const Bytes thirty_two(32, 1);
    const auto cipher = [](std::uint32_t n) { return Attribute::u32(UDP_CRYPTO_A_SA_CIPHER, n); };
    const std::vector<Case> cases = {
        {"no cipher",
         without(whole, UDP_CRYPTO_A_SA_CIPHER),
         EINVAL,
         "cipher is missing",
         UDP_CRYPTO_A_SA_CIPHER,
         {}},
        {"no key",
         without(whole, UDP_CRYPTO_A_SA_KEY),
         EINVAL,
         "key is missing",
         UDP_CRYPTO_A_SA_KEY,
         {}},
        {"no iv",
         without(whole, UDP_CRYPTO_A_SA_IV),
         EINVAL,
         "iv is missing",
         UDP_CRYPTO_A_SA_IV,
         {}},
        {"no hp-key",
         without(whole, UDP_CRYPTO_A_SA_HP_KEY),
         EINVAL,
         "hp-key is missing",
         UDP_CRYPTO_A_SA_HP_KEY,
         {}},
        {"no uid",
         without(whole, UDP_CRYPTO_A_SA_UID),
         EINVAL,
         "uid is missing",
         UDP_CRYPTO_A_SA_UID,
         {}},
        {"nothing", {}, EINVAL, "cipher is missing", UDP_CRYPTO_A_SA_CIPHER, {}},
        {"cipher 0",
         with(whole, cipher(0)),
         ERANGE,
         "integer out of range",
         {},
         UDP_CRYPTO_A_SA_CIPHER},
        {"cipher 5",
         with(whole, cipher(5)),
         ERANGE,
         "integer out of range",
         {},
         UDP_CRYPTO_A_SA_CIPHER},
        {"cipher of 2 bytes",
         with(whole, {UDP_CRYPTO_A_SA_CIPHER, {1, 0}}),
         EINVAL,
         "",
         {},
         UDP_CRYPTO_A_SA_CIPHER},
        {"short key",
         with(whole, {UDP_CRYPTO_A_SA_KEY, fifteen}),
         EINVAL,
         "with this cipher the key must have 16 bytes",
         {},
         UDP_CRYPTO_A_SA_KEY},
        {"long key",
         with(whole, {UDP_CRYPTO_A_SA_KEY, thirty_two}),
         EINVAL,
         "with this cipher the key must have 16 bytes",
         {},
         UDP_CRYPTO_A_SA_KEY},
        {"empty key",
         with(whole, {UDP_CRYPTO_A_SA_KEY, {}}),
         EINVAL,
         "with this cipher the key must have 16 bytes",
         {},
         UDP_CRYPTO_A_SA_KEY},
        {"huge key",
         with(whole, {UDP_CRYPTO_A_SA_KEY, Bytes(60000, 1)}),
         EINVAL,
         "with this cipher the key must have 16 bytes",
         {},
         UDP_CRYPTO_A_SA_KEY},
        {"short hp key",
         with(whole, {UDP_CRYPTO_A_SA_HP_KEY, fifteen}),
         EINVAL,
         "with this cipher the key must have 16 bytes",
         {},
         UDP_CRYPTO_A_SA_HP_KEY},
        {"AES-256 with keys of AES-128",
         with(whole, cipher(UDP_QUIC_CIPHER_AES_256_GCM)),
         EINVAL,
         "with this cipher the key must have 32 bytes",
         {},
         UDP_CRYPTO_A_SA_KEY},
        {"iv of 11",
         with(whole, {UDP_CRYPTO_A_SA_IV, Bytes(11, 1)}),
         ERANGE,
         "binary attribute size out of range",
         {},
         UDP_CRYPTO_A_SA_IV},
        {"iv of 16",
         with(whole, {UDP_CRYPTO_A_SA_IV, sixteen}),
         ERANGE,
         "binary attribute size out of range",
         {},
         UDP_CRYPTO_A_SA_IV},
        {"uid -1",
         with(whole, Attribute::u32(UDP_CRYPTO_A_SA_UID, ~0U)),
         EINVAL,
         "the user namespace has no such uid",
         {},
         UDP_CRYPTO_A_SA_UID},
        {"packet limit of 1 byte",
         with(whole, {UDP_CRYPTO_A_SA_PACKET_LIMIT, {1}}),
         EINVAL,
         "",
         {},
         UDP_CRYPTO_A_SA_PACKET_LIMIT},
        {"an index",
         with(whole, Attribute::u32(UDP_CRYPTO_A_SA_INDEX, 5)),
         EINVAL,
         "",
         {},
         UDP_CRYPTO_A_SA_INDEX},
        {"an unknown attribute",
         with(whole, Attribute::u32(99, 5)),
         EINVAL,
         "Unknown attribute type",
         {},
         99},
    };
    for (const Case &c : cases) {
        SCOPED_TRACE(c.what);
        const Answer answer = netlink().request(UDP_CRYPTO_CMD_SA_ADD, c.attributes);
        EXPECT_EQ(answer.error, c.error);
        EXPECT_FALSE(answer.message.empty());
        if (*c.words != 0) {
            EXPECT_EQ(answer.message, c.words);
        }
        EXPECT_EQ(answer.missing, c.missing);
        EXPECT_EQ(answer.bad, c.bad);
        EXPECT_EQ(count(), 0U);
    }
}

TEST_F(Netlink, IndexesThatNameNothing) {
    const std::uint32_t index = add(keys_, kUser);
    for (const std::uint8_t command : {UDP_CRYPTO_CMD_SA_GET, UDP_CRYPTO_CMD_SA_DEL}) {
        SCOPED_TRACE(static_cast<int>(command));
        Answer answer = netlink().request(command);
        EXPECT_EQ(answer.error, EINVAL);
        EXPECT_EQ(answer.message, "index is missing");
        EXPECT_EQ(answer.missing, UDP_CRYPTO_A_SA_INDEX);
        for (const std::uint32_t bad : {0U, 1U << 24, ~0U}) {
            answer = by_index(command, bad);
            EXPECT_EQ(answer.error, ERANGE);
            EXPECT_EQ(answer.bad, UDP_CRYPTO_A_SA_INDEX);
        }
        for (const std::uint32_t unknown : {index + 1, (1U << 24) - 1}) {
            answer = by_index(command, unknown);
            EXPECT_EQ(answer.error, ENOENT);
            EXPECT_EQ(answer.message, "no SA has that index");
            EXPECT_EQ(answer.bad, UDP_CRYPTO_A_SA_INDEX);
        }
    }
    EXPECT_EQ(count(), 1U);
}

TEST_F(Netlink, UnknownCommandsAndWrongForms) {
    EXPECT_EQ(netlink().request(0).error, EOPNOTSUPP);
    EXPECT_EQ(netlink().request(UDP_CRYPTO_CMD_SA_ADD_NTF).error, EOPNOTSUPP);
    EXPECT_EQ(netlink().request(200).error, EOPNOTSUPP);
    for (const std::uint8_t command : {UDP_CRYPTO_CMD_SA_ADD, UDP_CRYPTO_CMD_SA_DEL,
                                       UDP_CRYPTO_CMD_SA_FLUSH, UDP_CRYPTO_CMD_STATS_GET})
        EXPECT_EQ(netlink().request(command, {}, NLM_F_DUMP).error, EOPNOTSUPP);
    // Those that ask for all take no attributes.
    const std::pair<std::uint8_t, std::uint16_t> bare[] = {{UDP_CRYPTO_CMD_SA_GET, NLM_F_DUMP},
                                                           {UDP_CRYPTO_CMD_DEV_GET, NLM_F_DUMP},
                                                           {UDP_CRYPTO_CMD_STATS_GET, 0}};
    for (const auto &[command, flags] : bare)
        for (const std::uint16_t type : {1, 99}) {
            const Answer answer = netlink().request(command, {Attribute::u32(type, 1)}, flags);
            EXPECT_EQ(answer.error, EINVAL);
            EXPECT_EQ(answer.message, "this request takes no attributes");
        }
}

TEST_F(Netlink, ASocketsSaIsShownButNotDeleted) {
    const UniqueFd socket = udp_socket(AF_INET);
    const std::uint32_t index = add_sa_index(socket.get(), 7, keys_);
    const Answer got = by_index(UDP_CRYPTO_CMD_SA_GET, index);
    ASSERT_EQ(got.error, 0);
    EXPECT_EQ(find_number(got.messages.at(0), UDP_CRYPTO_A_SA_ORIGIN), UDP_CRYPTO_SA_ORIGIN_SOCKET);
    EXPECT_EQ(find_number(got.messages.at(0), UDP_CRYPTO_A_SA_FLAGS), 0U);
    const Answer deleted = by_index(UDP_CRYPTO_CMD_SA_DEL, index);
    EXPECT_EQ(deleted.error, EACCES);
    EXPECT_EQ(deleted.message, "the SA belongs to a socket, and ends with that");
    EXPECT_EQ(deleted.bad, UDP_CRYPTO_A_SA_INDEX);
    const Answer flushed = netlink().request(UDP_CRYPTO_CMD_SA_FLUSH);
    EXPECT_EQ(find_number(flushed.messages.at(0), UDP_CRYPTO_A_SA_COUNT), 0U);
    EXPECT_EQ(count(), 1U);
    EXPECT_EQ(del_sa(socket.get(), 7), 0);
}

TEST_F(Netlink, TableFull) {
    write_file(kMaxSa, "3");
    for (int i = 0; i < 3; ++i)
        add(keys_, kUser);
    const Answer answer = netlink().request(UDP_CRYPTO_CMD_SA_ADD, sa_attributes(keys_, kUser));
    EXPECT_EQ(answer.error, ENOSPC);
    EXPECT_EQ(answer.message, "no more SAs than net.ipv4.udp_crypto_max_sa");
    EXPECT_EQ(count(), 3U);
}

TEST_F(Netlink, FlushOfOneUserAndOfAll) {
    for (unsigned i = 0; i < 600; ++i)
        add(keys_, i % 3 == 0 ? kUser : kOther);
    const Answer one =
        netlink().request(UDP_CRYPTO_CMD_SA_FLUSH, {Attribute::u32(UDP_CRYPTO_A_SA_UID, kUser)});
    EXPECT_EQ(find_number(one.messages.at(0), UDP_CRYPTO_A_SA_COUNT), 200U);
    EXPECT_EQ(count(), 400U);
    const Answer wrong =
        netlink().request(UDP_CRYPTO_CMD_SA_FLUSH, {Attribute::u32(UDP_CRYPTO_A_SA_UID, ~0U)});
    EXPECT_EQ(wrong.error, EINVAL);
    EXPECT_EQ(wrong.message, "the user namespace has no such uid");
    const Answer all = netlink().request(UDP_CRYPTO_CMD_SA_FLUSH);
    EXPECT_EQ(find_number(all.messages.at(0), UDP_CRYPTO_A_SA_COUNT), 400U);
    EXPECT_EQ(count(), 0U);
}

TEST_F(Netlink, StatisticsAreThoseOfProc) {
    Loopback loopback(Family::kIpv4, true);
    const std::uint32_t index = add(keys_, 0);
    for (std::uint64_t pn = 1; pn <= 5; ++pn)
        ASSERT_EQ(send(loopback.sender.get(), make_packet(kShape, pn, kSize),
                       Control().quic(pn, index, kShape.pn_offset())),
                  static_cast<ssize_t>(kSize));
    const Answer answer = netlink().request(UDP_CRYPTO_CMD_STATS_GET);
    ASSERT_EQ(answer.error, 0);
    const Bytes &message = answer.messages.at(0);
    const Statistics proc = Statistics::read();
    const std::pair<std::uint16_t, const char *> pairs[] = {
        {UDP_CRYPTO_A_STATS_TX_PACKETS, "TxPackets"},
        {UDP_CRYPTO_A_STATS_TX_BYTES, "TxBytes"},
        {UDP_CRYPTO_A_STATS_TX_SENDS, "TxSends"},
        {UDP_CRYPTO_A_STATS_TX_GSO_SENDS, "TxGsoSends"},
        {UDP_CRYPTO_A_STATS_TX_SOFTWARE, "TxSoftware"},
        {UDP_CRYPTO_A_STATS_TX_SOFTWARE_LATE, "TxSoftwareLate"},
        {UDP_CRYPTO_A_STATS_TX_DEVICE, "TxDevice"},
        {UDP_CRYPTO_A_STATS_TX_LOST, "TxLost"},
        {UDP_CRYPTO_A_STATS_DROP_NO_SA, "DropNoSa"},
        {UDP_CRYPTO_A_STATS_DROP_NO_KEYS, "DropNoKeys"},
        {UDP_CRYPTO_A_STATS_DROP_NO_MEM, "DropNoMem"},
        {UDP_CRYPTO_A_STATS_DROP_CHANGED, "DropChanged"},
        {UDP_CRYPTO_A_STATS_DROP_ERROR, "DropError"},
        {UDP_CRYPTO_A_STATS_SA_ADDED, "SaAdded"},
        {UDP_CRYPTO_A_STATS_SA_DELETED, "SaDeleted"},
        {UDP_CRYPTO_A_STATS_SA_COUNT, "SaCurr"},
        {UDP_CRYPTO_A_STATS_TX_GSO_MAX_SEGS, "TxGsoMaxSegs"}};
    for (const auto &[attribute, name] : pairs)
        EXPECT_EQ(find_number(message, attribute), proc[name]) << name;
    EXPECT_EQ(proc["TxPackets"], 5U);
    EXPECT_EQ(find_number(message, UDP_CRYPTO_A_STATS_SA_MAX), std::stoull(read_file(kMaxSa)));
}

TEST_F(Netlink, Devices) {
    // Netdevsim's devices have the offload, lo has not.
    const World world(Wire::kOffload);
    const InNamespace inside(world.a);
    RawNetlink netlink;
    const std::uint32_t va = ::if_nametoindex("va");
    const auto by_ifindex = [&netlink](std::uint32_t ifindex) {
        return netlink.request(UDP_CRYPTO_CMD_DEV_GET,
                               {Attribute::u32(UDP_CRYPTO_A_DEV_IFINDEX, ifindex)});
    };
    const auto check = [&](const Bytes &message, bool enabled) {
        EXPECT_EQ(find_number(message, UDP_CRYPTO_A_DEV_IFINDEX), va);
        EXPECT_EQ(find_attribute(message, UDP_CRYPTO_A_DEV_IFNAME), (Bytes{'v', 'a', 0}));
        EXPECT_EQ(find_attribute(message, UDP_CRYPTO_A_DEV_ENABLED).has_value(), enabled);
        EXPECT_EQ(find_number(message, UDP_CRYPTO_A_DEV_CIPHERS), 0x1eU);
        EXPECT_EQ(find_number(message, UDP_CRYPTO_A_DEV_FORMS), UDP_CRYPTO_DEV_FORM_INDEX);
    };
    const Answer all = netlink.request(UDP_CRYPTO_CMD_DEV_GET, {}, NLM_F_DUMP);
    ASSERT_EQ(all.messages.size(), 1U);
    check(all.messages[0], true);
    command("ethtool -K va udp-crypto-hw-tx-offload off");
    const Answer one = by_ifindex(va);
    ASSERT_EQ(one.error, 0) << one.message;
    check(one.messages.at(0), false);

    const Answer loopback = by_ifindex(::if_nametoindex("lo"));
    EXPECT_EQ(loopback.error, EOPNOTSUPP);
    EXPECT_EQ(loopback.message, "the device has no QUIC packet protection offload");
    EXPECT_EQ(loopback.bad, UDP_CRYPTO_A_DEV_IFINDEX);
    const Answer nothing = by_ifindex(12345);
    EXPECT_EQ(nothing.error, ENODEV);
    EXPECT_EQ(nothing.message, "no such device");
    EXPECT_EQ(by_ifindex(0).error, ERANGE);
    EXPECT_EQ(netlink.request(UDP_CRYPTO_CMD_DEV_GET).message, "ifindex is missing");
}

// --- who may ------------------------------------------------------------------------------------

TEST_F(Netlink, TheUnprivilegedMayOnlySeeDevicesAndStatistics) {
    add(keys_, kUser);
    EXPECT_EQ(
        as_user(kUser,
                [this] {
                    RawNetlink netlink;
                    const std::string words =
                        "CAP_NET_ADMIN is needed in the user namespace of the network namespace";
                    const auto index = Attribute::u32(UDP_CRYPTO_A_SA_INDEX, 1);
                    const Answer refused[] = {
                        netlink.request(UDP_CRYPTO_CMD_SA_ADD, sa_attributes(keys_, kUser)),
                        netlink.request(UDP_CRYPTO_CMD_SA_DEL, {index}),
                        netlink.request(UDP_CRYPTO_CMD_SA_GET, {index}),
                        netlink.request(UDP_CRYPTO_CMD_SA_GET, {}, NLM_F_DUMP),
                        netlink.request(UDP_CRYPTO_CMD_SA_FLUSH)};
                    int bad = 0;
                    for (const Answer &answer : refused)
                        bad += answer.error != EPERM || answer.message != words ||
                               !answer.messages.empty();
                    bad += netlink.join() != -EPERM;
                    bad += netlink.request(UDP_CRYPTO_CMD_STATS_GET).error != 0;
                    bad += netlink.request(UDP_CRYPTO_CMD_DEV_GET, {}, NLM_F_DUMP).error != 0;
                    return bad;
                }),
        0);
    EXPECT_EQ(count(), 1U);
}

// The guest's programs run in a chroot, where no user namespace can be made. In a mount namespace
// of its own the process makes the folder that it runs in the root of all.
void leave_chroot() {
    char inner[] = "/tmp/chroot-XXXXXX";
    if (::unshare(CLONE_NEWNS) != 0 || ::mkdtemp(inner) == nullptr)
        throw_errno("leave_chroot");
    const UniqueFd root(::open("/", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    // A working folder outside the root goes up to the root of the namespace.
    if (::chroot(inner) != 0 || ::fchdir(root.get()) != 0)
        throw_errno("leave_chroot");
    for (int i = 0; i < 32; ++i)
        if (::chdir("..") != 0)
            throw_errno("leave_chroot");
    if (::chroot(".") != 0 || ::mount("none", "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0 ||
        ::fchdir(root.get()) != 0 || ::rmdir(inner + 1) != 0 ||
        ::mount(".", "/", nullptr, MS_MOVE, nullptr) != 0 || ::chroot(".") != 0)
        throw_errno("leave_chroot");
}

// Root of a user namespace is an administrator of the network namespaces that belong to it, and
// names the users that it has. Returns how many expectations did not hold.
int as_root_of_a_user_namespace(const PacketKeys &keys) {
    RawNetlink outside;
    if (::unshare(CLONE_NEWUSER) != 0)
        return 100;
    write_file("/proc/self/setgroups", "deny");
    write_file("/proc/self/uid_map", "0 " + std::to_string(kUser) + " 1");
    // Still in a network namespace of others.
    RawNetlink still_outside;
    int bad = 0;
    for (RawNetlink *netlink : {&outside, &still_outside})
        bad += netlink->request(UDP_CRYPTO_CMD_SA_ADD, sa_attributes(keys, 0)).error != EPERM;
    if (::unshare(CLONE_NEWNET) != 0)
        return 101;
    set_interface_up("lo");
    RawNetlink inside;
    bad += inside.join() != 0;
    const Answer added = inside.request(UDP_CRYPTO_CMD_SA_ADD, sa_attributes(keys, 0));
    bad += added.error != 0;
    const Answer unknown = inside.request(UDP_CRYPTO_CMD_SA_ADD, sa_attributes(keys, 5));
    bad += unknown.error != EINVAL || unknown.message != "the user namespace has no such uid";
    if (bad != 0)
        return bad;
    const auto index = static_cast<std::uint32_t>(
        find_number(added.messages.at(0), UDP_CRYPTO_A_SA_INDEX).value());
    RawNetlink reader;
    const Answer got =
        reader.request(UDP_CRYPTO_CMD_SA_GET, {Attribute::u32(UDP_CRYPTO_A_SA_INDEX, index)});
    bad += find_number(got.messages.at(0), UDP_CRYPTO_A_SA_UID) != 0U;
    // It is the user's own: he can send with it.
    Loopback loopback(Family::kIpv4, true);
    bad += send(loopback.sender.get(), make_packet(kShape, 1, kSize),
                Control().quic(1, index, kShape.pn_offset())) != static_cast<ssize_t>(kSize);
    return bad;
}

TEST_F(Netlink, RootOfAUserNamespace) {
    EXPECT_EQ(as_user(0,
                      [this] {
                          leave_chroot();
                          return as_user(kUser,
                                         [this] { return as_root_of_a_user_namespace(keys_); });
                      }),
              0);
    EXPECT_EQ(count(), 0U);
}

// --- sending
// --------------------------------------------------------------------------------------

TEST_F(Netlink, TheUserThatItNamesSendsAndNobodyElse) {
    for (const Cipher cipher : kAllCiphers) {
        SCOPED_TRACE(name(cipher));
        const PacketKeys keys = keys_of_seed(cipher, 3);
        const std::uint32_t index = add(keys, kUser);
        Loopback loopback(Family::kIpv4, true);
        const auto send_one = [&](uid_t uid) {
            return as_user(uid, [&] {
                const UniqueFd socket = udp_socket(AF_INET);
                const ssize_t n =
                    send(socket.get(), make_packet(kShape, 9, kSize),
                         Control().quic(9, index, kShape.pn_offset()), &loopback.to_address);
                return n < 0 ? static_cast<int>(-n) : n == static_cast<ssize_t>(kSize) ? 0 : 255;
            });
        };
        EXPECT_EQ(send_one(kUser), 0);
        const auto wire = receive(loopback.receiver.get());
        ASSERT_TRUE(wire.has_value());
        EXPECT_EQ(*wire, protect(keys, make_packet(kShape, 9, kSize), kShape.pn_offset(), 9));
        EXPECT_EQ(send_one(kOther), ENOENT);
        EXPECT_EQ(send_one(0), ENOENT);
        EXPECT_FALSE(receive(loopback.receiver.get(), std::chrono::milliseconds(0)).has_value());
        const Answer got = by_index(UDP_CRYPTO_CMD_SA_GET, index);
        EXPECT_EQ(find_number(got.messages.at(0), UDP_CRYPTO_A_SA_PACKETS), 1U);
        EXPECT_EQ(find_number(got.messages.at(0), UDP_CRYPTO_A_SA_BYTES), kSize + UDP_QUIC_TAG_LEN);
        EXPECT_EQ(find_number(got.messages.at(0), UDP_CRYPTO_A_SA_PACKETS_SOFTWARE), 1U);
        EXPECT_EQ(by_index(UDP_CRYPTO_CMD_SA_DEL, index, NLM_F_ACK).error, 0);
        EXPECT_EQ(send_one(kUser), ENOENT);
    }
}

TEST_F(Netlink, ThePacketLimitHolds) {
    const std::uint32_t index = add(keys_, 0, 2);
    Loopback loopback(Family::kIpv4, true);
    const auto send_one = [&](std::uint64_t pn) {
        return send(loopback.sender.get(), make_packet(kShape, pn, kSize),
                    Control().quic(pn, index, kShape.pn_offset()));
    };
    EXPECT_EQ(send_one(1), static_cast<ssize_t>(kSize));
    EXPECT_EQ(send_one(2), static_cast<ssize_t>(kSize));
    EXPECT_EQ(send_one(3), -EKEYEXPIRED);
}

TEST_F(Netlink, FlushWhileManySend) {
    constexpr unsigned kThreads = 3;
    Loopback loopback(Family::kIpv4, true);
    std::vector<std::uint32_t> indexes;
    for (unsigned i = 0; i < kThreads; ++i)
        indexes.push_back(add(keys_, 0));
    std::atomic<unsigned> begun = 0;
    std::atomic<unsigned> sent = 0;
    std::atomic<unsigned> ended_well = 0;
    std::vector<std::thread> threads;
    for (unsigned i = 0; i < kThreads; ++i)
        threads.emplace_back([&, i] {
            // Each until its SA is gone.
            for (std::uint64_t pn = std::uint64_t{i} << 20;; ++pn) {
                const ssize_t n = send(loopback.sender.get(), make_packet(kShape, pn, kSize),
                                       Control().quic(pn, indexes[i], kShape.pn_offset()));
                if (n == static_cast<ssize_t>(kSize)) {
                    if (pn == std::uint64_t{i} << 20)
                        ++begun;
                    ++sent;
                    continue;
                }
                ended_well += n == -ENOENT;
                return;
            }
        });
    EXPECT_TRUE(eventually([&] { return begun == kThreads; }));
    const Answer flushed = netlink().request(UDP_CRYPTO_CMD_SA_FLUSH);
    EXPECT_EQ(find_number(flushed.messages.at(0), UDP_CRYPTO_A_SA_COUNT), kThreads);
    for (std::thread &thread : threads)
        thread.join();
    EXPECT_EQ(ended_well, kThreads);
    EXPECT_EQ(count(), 0U);
    // What did arrive (the receive buffer is finite) is ciphertext.
    unsigned arrived = 0;
    while (const auto wire = receive(loopback.receiver.get(), std::chrono::milliseconds(0))) {
        ++arrived;
        EXPECT_FALSE(contains_plaintext(*wire));
    }
    EXPECT_GE(sent, arrived);
    EXPECT_GE(arrived, kThreads);
}

// --- many ----------------------------------------------------------------------------------------

TEST_F(Netlink, DumpOfTenThousand) {
    constexpr std::size_t kMany = 10000;
    std::set<std::uint64_t> indexes;
    for (std::size_t i = 0; i < kMany; ++i)
        indexes.insert(add(keys_, kUser));
    ASSERT_EQ(indexes.size(), kMany);
    const Answer dump = netlink().request(UDP_CRYPTO_CMD_SA_GET, {}, NLM_F_DUMP);
    EXPECT_FALSE(dump.interrupted);
    ASSERT_EQ(dump.messages.size(), kMany);
    for (const Bytes &message : dump.messages)
        EXPECT_EQ(indexes.erase(find_number(message, UDP_CRYPTO_A_SA_INDEX).value()), 1U);
    EXPECT_TRUE(indexes.empty());
}

TEST_F(Netlink, ADumpThatMeetsChangesSaysSo) {
    for (int i = 0; i < 2000; ++i)
        add(keys_, kUser);
    RawNetlink reader;
    const Bytes request = reader.build(UDP_CRYPTO_CMD_SA_GET, {}, NLM_F_DUMP);
    ASSERT_EQ(reader.send(request), 0);
    // Each recv() makes the kernel go on, so what is not read is not yet made.
    ASSERT_TRUE(reader.receive(true).has_value());
    add(keys_, kUser);
    EXPECT_TRUE(reader.answer(request).interrupted);
}

// An SA whose index could not be told is not made.
TEST_F(Netlink, NoSaWithoutItsReply) {
    RawNetlink reader;
    const int small = 1;
    ASSERT_EQ(::setsockopt(reader.fd(), SOL_SOCKET, SO_RCVBUF, &small, sizeof(small)), 0);
    for (int i = 0; i < 200; ++i)
        ASSERT_EQ(reader.send(reader.build(UDP_CRYPTO_CMD_SA_ADD, sa_attributes(keys_, kUser))), 0);
    std::set<std::uint64_t> told;
    for (;;) {
        Bytes datagram(65536);
        const ssize_t n = ::recv(reader.fd(), datagram.data(), datagram.size(), MSG_DONTWAIT);
        if (n < 0 && errno == ENOBUFS)
            continue;
        if (n < 0)
            break;
        datagram.resize(static_cast<std::size_t>(n));
        nlmsghdr header{};
        std::memcpy(&header, datagram.data(), sizeof(header));
        if (header.nlmsg_type == reader.family())
            told.insert(find_number(datagram, UDP_CRYPTO_A_SA_INDEX).value());
    }
    EXPECT_GT(told.size(), 0U);
    EXPECT_LT(told.size(), 200U);
    EXPECT_EQ(count(), told.size());
}

// --- notifications
// -----------------------------------------------------------------------------------

TEST_F(Netlink, Notifications) {
    RawNetlink listener;
    ASSERT_EQ(listener.join(), 0);
    const std::uint32_t first = add(keys_, kUser);
    UniqueFd socket = udp_socket(AF_INET);
    const std::uint32_t second = add_sa_index(socket.get(), 1, keys_);
    EXPECT_EQ(by_index(UDP_CRYPTO_CMD_SA_DEL, first, NLM_F_ACK).error, 0);
    socket.reset();
    const struct {
        std::uint8_t command;
        std::uint32_t index;
        std::uint32_t origin;
        std::uint32_t uid;
    } expected[] = {
        {UDP_CRYPTO_CMD_SA_ADD_NTF, first, UDP_CRYPTO_SA_ORIGIN_NETLINK, kUser},
        {UDP_CRYPTO_CMD_SA_ADD_NTF, second, UDP_CRYPTO_SA_ORIGIN_SOCKET, 0},
        {UDP_CRYPTO_CMD_SA_DEL_NTF, first, UDP_CRYPTO_SA_ORIGIN_NETLINK, kUser},
        {UDP_CRYPTO_CMD_SA_DEL_NTF, second, UDP_CRYPTO_SA_ORIGIN_SOCKET, 0},
    };
    for (const auto &event : expected) {
        const Bytes message = listener.receive(true).value();
        EXPECT_EQ(message.at(NLMSG_HDRLEN), event.command);
        EXPECT_EQ(find_number(message, UDP_CRYPTO_A_SA_INDEX), event.index);
        EXPECT_EQ(find_number(message, UDP_CRYPTO_A_SA_ORIGIN), event.origin);
        EXPECT_EQ(find_number(message, UDP_CRYPTO_A_SA_UID), event.uid);
        EXPECT_FALSE(find_attribute(message, UDP_CRYPTO_A_SA_KEY).has_value());
    }
    EXPECT_FALSE(listener.receive(false).has_value());
    // Those of another namespace are none of ours.
    const NetNamespace other;
    other.run([this] {
        RawNetlink netlink;
        EXPECT_EQ(netlink.request(UDP_CRYPTO_CMD_SA_ADD, sa_attributes(keys_, 0)).error, 0);
    });
    EXPECT_FALSE(listener.receive(false).has_value());
}

// --- namespaces
// ----------------------------------------------------------------------------------------

TEST_F(Netlink, ANamespaceEndsWithSasInIt) {
    const auto unreclaimable = [] {
        const std::string text = read_file("/proc/meminfo");
        return std::stoll(text.substr(text.find("SUnreclaim:") + 11));
    };
    const long long before = unreclaimable();
    for (int round = 0; round < 6; ++round) {
        const NetNamespace net;
        net.run([this] {
            RawNetlink netlink;
            for (int i = 0; i < 3000; ++i)
                ASSERT_EQ(netlink.request(UDP_CRYPTO_CMD_SA_ADD, sa_attributes(keys_, 0)).error, 0);
            // One with its ciphers set up, too.
            Loopback loopback(Family::kIpv4, true);
            const Answer added = netlink.request(UDP_CRYPTO_CMD_SA_ADD, sa_attributes(keys_, 0));
            const auto index = static_cast<std::uint32_t>(
                find_number(added.messages.at(0), UDP_CRYPTO_A_SA_INDEX).value());
            ASSERT_EQ(send(loopback.sender.get(), make_packet(kShape, 1, kSize),
                           Control().quic(1, index, kShape.pn_offset())),
                      static_cast<ssize_t>(kSize));
        });
    }
    // 18,000 SAs are 6 MB and more.
    EXPECT_TRUE(eventually([&] { return unreclaimable() - before < 3000; }))
        << unreclaimable() - before << " kB more than before";
}

TEST_F(Netlink, AnIndexIsOneOfItsNamespace) {
    const std::uint32_t index = add(keys_, 0);
    const NetNamespace other;
    other.run([&] {
        RawNetlink netlink;
        EXPECT_EQ(
            netlink.request(UDP_CRYPTO_CMD_SA_GET, {Attribute::u32(UDP_CRYPTO_A_SA_INDEX, index)})
                .error,
            ENOENT);
        EXPECT_EQ(netlink.request(UDP_CRYPTO_CMD_SA_GET, {}, NLM_F_DUMP).messages.size(), 0U);
    });
}

// --- keys
// ------------------------------------------------------------------------------------------------

// An error message brings the request back: without the keys.
TEST_F(Netlink, NoKeyComesBack) {
    const auto contains = [](const Bytes &haystack, const Bytes &needle) {
        return std::search(haystack.begin(), haystack.end(), needle.begin(), needle.end()) !=
               haystack.end();
    };
    const PacketKeys keys = keys_of_seed(Cipher::kAes256Gcm, 77);
    const auto whole = sa_attributes(keys, kUser);
    const std::vector<Attribute> refused[] = {
        without(whole, UDP_CRYPTO_A_SA_UID),                    // by the family
        with(whole, Attribute::u32(UDP_CRYPTO_A_SA_CIPHER, 9)), // by its policy
        with(whole, Attribute::u32(99, 0)),                     // unknown attribute
        with(whole, {UDP_CRYPTO_A_SA_IV, Bytes(13, 0xab)}),     // by its policy
    };
    for (const auto &attributes : refused) {
        const Answer answer = netlink().request(UDP_CRYPTO_CMD_SA_ADD, attributes);
        EXPECT_NE(answer.error, 0);
        ASSERT_GT(answer.echo.size(), keys.key.size());
        EXPECT_FALSE(contains(answer.echo, keys.key));
        EXPECT_FALSE(contains(answer.echo, keys.hp));
        EXPECT_TRUE(std::all_of(answer.echo.begin() + GENL_HDRLEN, answer.echo.end(),
                                [](std::uint8_t byte) { return byte == 0; }));
    }
    // Commands that do not exist as well.
    const Answer unknown = netlink().request(200, whole);
    EXPECT_EQ(unknown.error, EOPNOTSUPP);
    EXPECT_FALSE(contains(unknown.echo, keys.key));
}

// --- anything
// ---------------------------------------------------------------------------------------------

// Messages with bytes changed, cut, lengthened, in batches: each is answered or ignored, and the
// table is as it was. The seed is fixed.
TEST_F(Netlink, Fuzzed) {
    std::mt19937 random(20261122);
    const auto at_most = [&random](std::size_t n) {
        return std::uniform_int_distribution<std::size_t>(0, n)(random);
    };
    write_file(kMaxSa, "64");
    UniqueFd socket = udp_socket(AF_INET);
    ASSERT_EQ(add_sa(socket.get(), 1, keys_), 0);
    RawNetlink netlink;
    unsigned answers = 0;
    for (int i = 0; i < 4000; ++i) {
        Bytes datagram;
        for (std::size_t parts = 1 + at_most(2); parts > 0; --parts) {
            const auto command = static_cast<std::uint8_t>(1 + at_most(8));
            std::vector<Attribute> attributes;
            if (at_most(3) != 0)
                attributes = sa_attributes(keys_of_seed(kAllCiphers[at_most(3)], random()),
                                           static_cast<unsigned>(at_most(2)));
            for (std::size_t extra = at_most(2); extra > 0; --extra)
                attributes.push_back({static_cast<std::uint16_t>(at_most(20)),
                                      Bytes(at_most(40), static_cast<std::uint8_t>(at_most(255)))});
            std::shuffle(attributes.begin(), attributes.end(), random);
            // Index 1 is the socket's.
            Bytes message = netlink.build(
                command, attributes, static_cast<std::uint16_t>(at_most(5) == 0 ? NLM_F_DUMP : 0));
            for (std::size_t changes = at_most(3); changes > 0; --changes) {
                // Not the length of a message that others follow, nor the family.
                const std::size_t from = at_most(9) == 0 ? 6 : NLMSG_HDRLEN;
                message[from + at_most(message.size() - 1 - from)] =
                    static_cast<std::uint8_t>(at_most(255));
            }
            datagram.insert(datagram.end(), message.begin(), message.end());
        }
        if (at_most(7) == 0)
            datagram.resize(at_most(datagram.size()));
        else if (at_most(7) == 0)
            datagram.resize(datagram.size() + at_most(64), static_cast<std::uint8_t>(at_most(255)));
        if (datagram.empty())
            continue;
        const int sent = netlink.send(datagram);
        EXPECT_TRUE(sent == 0 || sent == -EBUSY) << sent;
        while (netlink.receive(false))
            ++answers;
    }
    EXPECT_GT(answers, 1000U);
    // Nothing is stuck: the same socket still works, and the socket's SA is there.
    RawNetlink after;
    EXPECT_EQ(after.request(UDP_CRYPTO_CMD_SA_FLUSH).error, 0);
    EXPECT_EQ(count(), 1U);
    const Statistics statistics = Statistics::read();
    EXPECT_EQ(statistics["SaAdded"], statistics["SaDeleted"] + 1);
    EXPECT_GT(statistics["SaAdded"], 10U) << "hardly any message was taken";
    struct udp_crypto_sa_info info {};
    EXPECT_EQ(get_sa(socket.get(), 1, &info), 0);
}

} // namespace
} // namespace quic_test
