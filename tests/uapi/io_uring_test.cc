// SPDX-License-Identifier: GPL-2.0
//
// Sends through io_uring beyond one request at a time: from its workers and its polling thread, in
// links, many in flight, sent later because the socket's buffer was full, cancelled, and refused.
#include <algorithm>
#include <map>
#include <memory>
#include <set>

#include <gtest/gtest.h>
#include <liburing.h>
#include <netinet/udp.h>

#include "path.h"
#include "world.h"

namespace quic_test {
namespace {

constexpr PacketShape kShape{.cid_length = 8, .pn_length = 4};
constexpr std::size_t kSize = 1000;
constexpr std::uint16_t kWireSize = kSize + UDP_QUIC_TAG_LEN;

// One send, with all that the kernel may read until it has completed.
class Request {
  public:
    Request(const Bytes &data, const Control &control, const Address *to = nullptr)
        : data_(data), control_(control.bytes()), piece_{data_.data(), data_.size()} {
        header_.msg_iov = &piece_;
        header_.msg_iovlen = 1;
        header_.msg_control = control_.data();
        header_.msg_controllen = control_.size();
        if (to != nullptr) {
            to_ = *to;
            header_.msg_name = &to_.storage;
            header_.msg_namelen = to_.length;
        }
    }
    Request(const Request &) = delete;
    Request &operator=(const Request &) = delete;
    const msghdr *header() const { return &header_; }
    std::size_t size() const { return data_.size(); }
    Bytes &control() { return control_; }

  private:
    Bytes data_;
    Bytes control_;
    Address to_;
    iovec piece_;
    msghdr header_{};
};

struct Completion {
    std::uint64_t id = 0;
    int result = 0;
    unsigned flags = 0;
};

class Ring {
  public:
    explicit Ring(unsigned flags = 0) {
        const int result = ::io_uring_queue_init(64, &ring_, flags);
        if (result < 0) {
            errno = -result;
            throw_errno("io_uring_queue_init");
        }
    }
    ~Ring() { ::io_uring_queue_exit(&ring_); }
    Ring(const Ring &) = delete;
    Ring &operator=(const Ring &) = delete;

    io_uring_sqe *send(int fd, const Request &request, std::uint64_t id, unsigned sqe_flags = 0,
                       bool zero_copy = false, unsigned msg_flags = 0) {
        io_uring_sqe *sqe = ::io_uring_get_sqe(&ring_);
        if (zero_copy)
            ::io_uring_prep_sendmsg_zc(sqe, fd, request.header(), msg_flags);
        else
            ::io_uring_prep_sendmsg(sqe, fd, request.header(), msg_flags);
        return finish(sqe, id, sqe_flags);
    }
    void cancel(std::uint64_t target, std::uint64_t id) {
        io_uring_sqe *sqe = ::io_uring_get_sqe(&ring_);
        ::io_uring_prep_cancel64(sqe, target, 0);
        finish(sqe, id, 0);
    }
    // liburing 2.3 has no function for it.
    void set_option(int fd, int level, int option, const void *value, unsigned length,
                    std::uint64_t id, unsigned sqe_flags) {
        constexpr unsigned kSetsockopt = 3; // SOCKET_URING_OP_SETSOCKOPT
        io_uring_sqe *sqe = ::io_uring_get_sqe(&ring_);
        ::io_uring_prep_rw(IORING_OP_URING_CMD, sqe, fd, nullptr, 0, kSetsockopt);
        sqe->addr = static_cast<std::uint32_t>(level) | std::uint64_t(option) << 32;
        sqe->file_index = length;
        sqe->addr3 = reinterpret_cast<std::uintptr_t>(value);
        finish(sqe, id, sqe_flags);
    }
    void submit(int count) { ASSERT_EQ(::io_uring_submit(&ring_), count); }
    std::optional<Completion> next(std::chrono::milliseconds patience = kPatience) {
        io_uring_cqe *cqe = nullptr;
        __kernel_timespec timeout{.tv_sec = patience.count() / 1000,
                                  .tv_nsec = patience.count() % 1000 * 1'000'000};
        if (::io_uring_wait_cqe_timeout(&ring_, &cqe, &timeout) < 0)
            return std::nullopt;
        const Completion out{cqe->user_data, cqe->res, cqe->flags};
        ::io_uring_cqe_seen(&ring_, cqe);
        return out;
    }
    // The results of @count requests by their ids. A request whose completion says that more
    // follows has exactly one notification, any other has none.
    std::map<std::uint64_t, int> results(std::size_t count) {
        std::map<std::uint64_t, int> out;
        std::set<std::uint64_t> awaited;
        while (out.size() < count || !awaited.empty()) {
            const auto completion = next();
            if (!completion) {
                ADD_FAILURE() << out.size() << " of " << count << " have completed, "
                              << awaited.size() << " notifications are missing";
                return out;
            }
            if (completion->flags & IORING_CQE_F_NOTIF) {
                EXPECT_EQ(awaited.erase(completion->id), 1U) << "unexpected notification";
                continue;
            }
            EXPECT_TRUE(out.emplace(completion->id, completion->result).second) << "twice";
            if (completion->flags & IORING_CQE_F_MORE)
                awaited.insert(completion->id);
        }
        EXPECT_FALSE(next(std::chrono::milliseconds(20))) << "a completion too many";
        return out;
    }

  private:
    static io_uring_sqe *finish(io_uring_sqe *sqe, std::uint64_t id, unsigned sqe_flags) {
        sqe->user_data = id;
        ::io_uring_sqe_set_flags(sqe, sqe_flags);
        return sqe;
    }
    io_uring ring_{};
};

Bytes packets(std::uint64_t pn, std::size_t count = 1) {
    std::vector<Bytes> out;
    for (std::size_t i = 0; i < count; ++i)
        out.push_back(make_packet(kShape, pn + i, kSize));
    return join_packets(out);
}

// Takes @count packets, each of which must be one of those numbered from 0 on, each once.
void expect_each_once(int receiver, const PacketKeys &keys, std::size_t count) {
    std::set<std::uint64_t> arrived;
    while (arrived.size() < count) {
        const auto wire = receive(receiver);
        ASSERT_TRUE(wire.has_value()) << arrived.size() << " of " << count << " have arrived";
        const auto opened = unprotect(keys, *wire, kShape.pn_offset(), count);
        ASSERT_TRUE(opened.has_value()) << "does not decrypt";
        EXPECT_LT(opened->pn, count);
        EXPECT_EQ(opened->packet, make_packet(kShape, opened->pn, kSize));
        EXPECT_TRUE(arrived.insert(opened->pn).second) << opened->pn << " has arrived twice";
    }
    EXPECT_FALSE(receive(receiver, std::chrono::milliseconds(50))) << "a packet too many";
}

std::uint64_t packets_of(int fd, std::uint64_t cookie) {
    struct udp_crypto_sa_info info {};
    EXPECT_EQ(get_sa(fd, cookie, &info), 0);
    return info.packets;
}

struct Submission {
    const char *name;
    unsigned ring_flags;
    unsigned sqe_flags;
};

const Submission kSubmissions[] = {
    {"InTheSubmitter", 0, 0},
    {"Worker", 0, IOSQE_ASYNC},
    {"PollingThread", IORING_SETUP_SQPOLL, 0},
    {"PollingThreadAndWorker", IORING_SETUP_SQPOLL, IOSQE_ASYNC},
    {"Linked", 0, IOSQE_IO_LINK},
    {"LinkedWorkers", 0, IOSQE_IO_LINK | IOSQE_ASYNC},
};
std::ostream &operator<<(std::ostream &out, const Submission &s) { return out << s.name; }

class IoUring : public testing::TestWithParam<Submission> {};
INSTANTIATE_TEST_SUITE_P(Submissions, IoUring, testing::ValuesIn(kSubmissions),
                         [](const auto &info) { return std::string(info.param.name); });

// 32 requests in flight: singles and batches, keys by index and inline, copied and not.
TEST_P(IoUring, ThirtyTwoInFlight) {
    constexpr std::size_t kRequests = 32;
    for (const Family family : {Family::kIpv4, Family::kIpv6}) {
        Line line(family, true);
        set_option(line.receiver(), SOL_SOCKET, SO_RCVBUFFORCE, 8 << 20);
        const PacketKeys keys = keys_of_seed(Cipher::kAes128Gcm, 5);
        const std::uint32_t sa = line.add_sa(1, keys);
        Ring ring(GetParam().ring_flags);
        std::vector<std::unique_ptr<Request>> requests;
        std::uint64_t pn = 0;
        std::uint64_t by_index = 0;
        for (std::size_t i = 0; i < kRequests; ++i) {
            const std::size_t count = i % 4 == 3 ? 5 : 1;
            Control control;
            if (i % 2 == 0) {
                control.quic(pn, sa, kShape.pn_offset());
                by_index += count;
            } else {
                control.quic_inline(pn, keys, kShape.pn_offset());
            }
            if (count > 1)
                control.gso_size(kWireSize);
            requests.push_back(std::make_unique<Request>(packets(pn, count), control));
            ring.send(line.sender(), *requests.back(), i, GetParam().sqe_flags, i % 8 >= 4);
            pn += count;
        }
        ring.submit(kRequests);
        for (const auto &[id, result] : ring.results(kRequests))
            EXPECT_EQ(result, static_cast<int>(requests[id]->size())) << "request " << id;
        expect_each_once(line.receiver(), keys, pn);
        EXPECT_EQ(packets_of(line.sender(), 1), line.sent_before() + by_index);
    }
}

// What follows a refused send in a chain is not sent, and its numbers are unused.
TEST(IoUringRefused, EndsAChain) {
    Loopback loopback(Family::kIpv4, true);
    const int fd = loopback.sender.get();
    const PacketKeys keys = keys_of_seed(Cipher::kAes256Gcm, 6);
    const std::uint32_t sa = add_sa_index(fd, 1, keys, UDP_CRYPTO_SA_F_GUARD_PN);
    const auto request = [&](std::uint64_t pn, std::uint64_t in_packet) {
        return std::make_unique<Request>(packets(in_packet),
                                         Control().quic(pn, sa, kShape.pn_offset()));
    };
    Ring ring;
    std::unique_ptr<Request> chain[] = {request(0, 0), request(1, 2), request(2, 2), request(3, 3)};
    for (std::size_t i = 0; i < std::size(chain); ++i)
        ring.send(fd, *chain[i], i, i + 1 < std::size(chain) ? IOSQE_IO_LINK : 0);
    ring.submit(std::size(chain));
    EXPECT_EQ(ring.results(std::size(chain)),
              (std::map<std::uint64_t, int>{
                  {0, kSize}, {1, -EBADMSG}, {2, -ECANCELED}, {3, -ECANCELED}}));
    EXPECT_EQ(packets_of(fd, 1), 1U);
    for (std::uint64_t pn = 1; pn < 4; ++pn)
        EXPECT_EQ(send(fd, packets(pn), Control().quic(pn, sa, kShape.pn_offset())),
                  static_cast<ssize_t>(kSize));
    expect_each_once(loopback.receiver.get(), keys, 4);
}

// Each error of the control message, with and without zero copy, from submitter and worker: a
// notification follows exactly if the completion says so, and the number is unused.
TEST(IoUringRefused, HasOneNotificationOrNone) {
    Loopback loopback(Family::kIpv4, true);
    const int fd = loopback.sender.get();
    const PacketKeys keys = keys_of_seed(Cipher::kChaCha20Poly1305, 7);
    const std::uint32_t sa = add_sa_index(fd, 1, keys, UDP_CRYPTO_SA_F_GUARD_PN);
    const UniqueFd other = udp_socket(AF_INET);
    const std::uint32_t others = add_sa_index(other.get(), 1, keys);
    const std::uint32_t limited = add_sa_index(fd, 2, keys, 0, 1);
    constexpr std::uint64_t kUsed = 1000; // the guard knows of those below, too
    const auto control = [&](std::uint64_t pn, std::uint32_t index, std::uint16_t flags = 0) {
        return Control().quic(pn, index, kShape.pn_offset(), flags);
    };
    ASSERT_EQ(send(fd, packets(kUsed), control(kUsed, sa)), static_cast<ssize_t>(kSize));
    ASSERT_TRUE(receive(loopback.receiver.get()).has_value());

    struct udp_quic_crypto longer[2]{{0, sa, static_cast<__u16>(kShape.pn_offset()), 0},
                                     {0, 1, 0, 0}};
    PacketKeys unknown = keys;
    unknown.cipher = static_cast<Cipher>(99);
    struct Case {
        int error;
        Bytes data;
        Control control;
        unsigned flags = 0;
    };
    const Case cases[] = {
        {-EINVAL, packets(0), control(0, sa, 0x8000)},
        {-E2BIG, packets(0), Control().add(SOL_UDP, UDP_QUIC_CRYPTO, longer, sizeof(longer))},
        {-ENOENT, packets(0), control(0, 0x7ffffff0)},
        {-EACCES, packets(0), control(0, others)},
        {-EBADMSG, packets(1), control(0, sa)},
        {-ENODATA, Bytes(4, 0), control(0, sa)},
        {-EMSGSIZE, Bytes(65500, 0), control(0, sa)},
        {-EMSGSIZE, Bytes(70000, 0), control(0, sa)},
        {-EKEYEXPIRED, packets(0, 2), control(0, limited).gso_size(kWireSize)},
        {-EALREADY, packets(kUsed), control(kUsed, sa)},
        {-EBUSY, packets(0), control(0, sa), MSG_MORE},
        {-EOPNOTSUPP, packets(0), Control().quic_inline(0, unknown, kShape.pn_offset())},
    };
    std::uint64_t pn = 0;
    for (const Case &refused : cases)
        for (const bool zero_copy : {false, true})
            for (const unsigned sqe_flags : {0U, unsigned{IOSQE_ASYNC}}) {
                SCOPED_TRACE(std::to_string(refused.error) + (zero_copy ? " zero copy" : "") +
                             (sqe_flags != 0 ? " worker" : ""));
                Ring ring;
                const Request request(refused.data, refused.control);
                ring.send(fd, request, 1, sqe_flags, zero_copy, refused.flags);
                ring.submit(1);
                EXPECT_EQ(ring.results(1), (std::map<std::uint64_t, int>{{1, refused.error}}));
                // The ring and the socket go on.
                const Request good(packets(pn), control(pn, sa));
                ring.send(fd, good, 2, sqe_flags, zero_copy);
                ring.submit(1);
                EXPECT_EQ(ring.results(1), (std::map<std::uint64_t, int>{{2, kSize}}));
                ++pn;
            }
    expect_each_once(loopback.receiver.get(), keys, pn);
}

// A socket whose buffer is full, in front of a device that takes its time: requests wait until
// there is room, and are then made anew.
class IoUringLater : public testing::Test {
  protected:
    IoUringLater()
        : inside_(world_.a), receiver_([&] {
              UniqueFd fd;
              world_.b.run([&] {
                  fd = udp_socket(AF_INET);
                  bind_to(fd.get(), Address::v4("10.1.1.2", 4433));
              });
              return fd;
          }()),
          sender_(udp_socket(AF_INET)), keys_(keys_of_seed(Cipher::kAes128Gcm, 8)) {
        connect_to(fd(), Address::v4("10.1.1.2", 4433));
        command("ping -c 1 -W 5 10.1.1.2"); // both know each other's address
        // 125 bytes a second: what is there stays there.
        command("tc qdisc add dev va root handle 1: tbf rate 1kbit burst 1600 limit 1000000");
        sa_ = add_sa_index(fd(), 1, keys_, UDP_CRYPTO_SA_F_GUARD_PN);
        set_option(fd(), SOL_SOCKET, SO_SNDBUF, 1); // as little as there is: some packets
    }
    int fd() const { return sender_.get(); }
    Control control(std::uint64_t pn) const { return Control().quic(pn, sa_, kShape.pn_offset()); }
    // Fills the socket's buffer; how many packets that took.
    std::uint64_t fill() {
        std::uint64_t pn = 0;
        while (send(fd(), packets(pn), control(pn), nullptr, MSG_DONTWAIT) > 0)
            ++pn;
        EXPECT_EQ(send(fd(), packets(pn), control(pn), nullptr, MSG_DONTWAIT), -EAGAIN);
        EXPECT_GT(pn, 0U);
        return pn;
    }
    // In a second at most: the qdisc has been told to come back when 1 kbit/s would let it.
    static void open_device() {
        command("tc qdisc change dev va root handle 1: tbf rate 1gbit burst 160000 limit 1000000");
    }

    World world_;
    InNamespace inside_;
    UniqueFd receiver_;
    UniqueFd sender_;
    PacketKeys keys_;
    std::uint32_t sa_ = 0;
};

TEST_F(IoUringLater, TakesItsNumbersOnce) {
    std::uint64_t pn = fill();
    Ring ring;
    std::vector<std::unique_ptr<Request>> requests;
    for (std::size_t i = 0; i < 24; ++i) {
        const Control how =
            i % 3 == 0 ? Control().quic_inline(pn, keys_, kShape.pn_offset()) : control(pn);
        requests.push_back(std::make_unique<Request>(packets(pn), how));
        ring.send(fd(), *requests.back(), i, i % 2 != 0 ? IOSQE_ASYNC : 0, i % 4 >= 2);
        ++pn;
    }
    ring.submit(24);
    EXPECT_FALSE(ring.next(std::chrono::milliseconds(200))) << "there was room";
    open_device();
    for (const auto &[id, result] : ring.results(24))
        EXPECT_EQ(result, static_cast<int>(kSize)) << "request " << id;
    expect_each_once(receiver_.get(), keys_, pn);
    EXPECT_EQ(packets_of(fd(), 1), pn - 8) << "8 of them had their keys inline";
}

// The control message is read when the packet is sent: until then it is the kernel's.
TEST_F(IoUringLater, ReadsTheMessageAnew) {
    const std::uint64_t pn = fill();
    Ring ring;
    Request request(packets(pn + 1), control(pn));
    ring.send(fd(), request, 1);
    ring.submit(1);
    EXPECT_FALSE(ring.next(std::chrono::milliseconds(100)));
    // A wrong number becomes the right one.
    std::ranges::copy(control(pn + 1).bytes(), request.control().begin());
    open_device();
    EXPECT_EQ(ring.results(1), (std::map<std::uint64_t, int>{{1, kSize}}));
    EXPECT_EQ(send(fd(), packets(pn), control(pn)), static_cast<ssize_t>(kSize));
    expect_each_once(receiver_.get(), keys_, pn + 2);
}

TEST_F(IoUringLater, CancelledUsesNoNumber) {
    const std::uint64_t pn = fill();
    for (const unsigned sqe_flags : {0U, unsigned{IOSQE_ASYNC}})
        for (const bool zero_copy : {false, true}) {
            SCOPED_TRACE(std::to_string(sqe_flags) + (zero_copy ? " zero copy" : ""));
            Ring ring;
            const Request request(packets(pn), control(pn));
            ring.send(fd(), request, 1, sqe_flags, zero_copy);
            ring.submit(1);
            EXPECT_FALSE(ring.next(std::chrono::milliseconds(100)));
            ring.cancel(1, 2);
            ring.submit(1);
            auto results = ring.results(2);
            // A worker that waits for room is interrupted.
            EXPECT_TRUE(results[1] == -ECANCELED || results[1] == -EINTR) << results[1];
        }
    open_device();
    EXPECT_EQ(send(fd(), packets(pn), control(pn)), static_cast<ssize_t>(kSize));
    expect_each_once(receiver_.get(), keys_, pn + 1);
    EXPECT_EQ(packets_of(fd(), 1), pn + 1);
}

TEST(IoUringOption, AddsAnSa) {
    Loopback loopback(Family::kIpv6, true);
    const int fd = loopback.sender.get();
    Ring ring;
    for (const unsigned sqe_flags : {0U, unsigned{IOSQE_ASYNC}}) {
        const std::uint64_t cookie = 3 + sqe_flags;
        const PacketKeys keys = keys_of_seed(Cipher::kAes128Ccm, cookie);
        const struct udp_crypto_sa sa = sa_request(cookie, keys);
        for (const int expected : {0, -EEXIST}) {
            ring.set_option(fd, SOL_UDP, UDP_CRYPTO_STATE, &sa, sizeof(sa), cookie, sqe_flags);
            ring.submit(1);
            EXPECT_EQ(ring.results(1), (std::map<std::uint64_t, int>{{cookie, expected}}));
        }
        EXPECT_EQ(send(fd, packets(0), Control().quic(0, sa_index(fd, cookie), kShape.pn_offset())),
                  static_cast<ssize_t>(kSize));
        expect_each_once(loopback.receiver.get(), keys, 1);
    }
}

} // namespace
} // namespace quic_test
