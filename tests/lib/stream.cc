// SPDX-License-Identifier: GPL-2.0
#include "stream.h"

#include <array>
#include <set>
#include <sstream>
#include <string_view>

#include <gtest/gtest.h>
#include <linux/netlink.h>
#include <linux/udp_crypto.h>

#ifndef SO_ZEROCOPY
#define SO_ZEROCOPY 60
#endif

namespace quic_test {

namespace {

constexpr PacketShape kShape{.cid_length = 4, .pn_length = 4};
constexpr std::array<std::size_t, 5> kSizes{24, 100, 600, 1184, 1300};

// A packet's content follows from its number: whoever receives it knows what it must be.
Bytes packet_of(std::uint64_t pn, std::size_t size) { return make_packet(kShape, pn, size); }

} // namespace

Stream::Stream(World &world, unsigned id, std::mt19937_64 &random, bool netlink)
    : world_(world), id_(id), random_(random) {
    if (netlink)
        world_.a.run([&] { netlink_ = std::make_unique<RawNetlink>(); });
    world_.b.run([&] {
        receiver_ = udp_socket(AF_INET6);
        set_option(receiver_.get(), SOL_SOCKET, SO_RCVBUFFORCE, 64 << 20);
        bind_to(receiver_.get(), Address::v6("::", 0));
        port_ = Address::of_socket(receiver_.get()).port();
    });
    open();
}

void Stream::open() {
    world_.a.run([&] {
        socket_ = udp_socket(AF_INET6);
        set_option(socket_.get(), SOL_SOCKET, SO_SNDBUFFORCE, 32 << 20);
        set_option(socket_.get(), SOL_SOCKET, SO_ZEROCOPY, 1);
    });
    ++done["sockets opened"];
    next_generation();
}

void Stream::close() {
    reap();
    orphaned_ |= incomplete_ != 0;
    incomplete_ = 0;
    socket_.reset();
    std::erase_if(sas_, [](const Sa &sa) { return !sa.netlink; });
}

void Stream::next_generation() {
    keys_.push_back(keys_of_seed(kAllCiphers[random_() % 4], id_ << 20 | keys_.size()));
    const std::uint64_t cookie = keys_.size() - 1;
    Sa sa{.generation = cookie, .netlink = netlink_ != nullptr && random_() % 2 == 0};
    if (sa.netlink) {
        const Answer answer =
            netlink_->request(UDP_CRYPTO_CMD_SA_ADD, sa_attributes(keys_.back(), ::getuid()));
        EXPECT_EQ(answer.error, 0) << "SA_ADD: " << answer.message;
        sa.index = static_cast<std::uint32_t>(
            find_number(answer.messages.at(0), UDP_CRYPTO_A_SA_INDEX).value());
        ++done["SAs added over netlink"];
    } else {
        const bool guard = random_() % 2 == 0;
        sa.index = add_sa_index(socket_.get(), cookie, keys_.back(),
                                guard ? UDP_CRYPTO_SA_F_GUARD_PN : 0U);
        ++done["SAs added by sockets"];
    }
    sas_.push_back(sa);
    next_pn_ = cookie * kNumbersOfGeneration + random_() % 1000;
}

int Stream::remove(const Sa &sa) {
    if (!sa.netlink)
        return del_sa(socket_.get(), sa.generation);
    return -netlink_
                ->request(UDP_CRYPTO_CMD_SA_DEL, {Attribute::u32(UDP_CRYPTO_A_SA_INDEX, sa.index)},
                          NLM_F_ACK)
                .error;
}

void Stream::delete_sa() {
    if (remove(sas_.back()) != 0)
        return;
    sas_.pop_back();
    ++done["SAs deleted"];
    next_generation();
}

void Stream::retire(std::size_t keep) {
    while (sas_.size() > keep) {
        EXPECT_EQ(remove(sas_.front()), 0) << "SA " << sas_.front().index;
        sas_.pop_front();
        ++done["SAs deleted"];
    }
}

unsigned Stream::send_some(unsigned most) {
    const bool tag_room = random_() % 2 == 0;
    const bool inline_keys = random_() % 4 == 0;
    const bool zerocopy = tag_room && random_() % 3 == 0;
    const unsigned count = 1 + static_cast<unsigned>(random_() % most);
    const std::size_t size = kSizes[random_() % kSizes.size()];
    std::vector<Bytes> packets;
    for (unsigned i = 0; i < count; ++i)
        packets.push_back(packet_of(next_pn_ + i, size));
    data_.push_back(tag_room ? join_with_tag_room(packets) : join_packets(packets));
    const std::uint16_t flags = tag_room ? UDP_QUIC_CRYPTO_F_TAG_ROOM : 0;
    Control control;
    if (inline_keys)
        control.quic_inline(next_pn_, keys_.back(), kShape.pn_offset(), flags);
    else
        control.quic(next_pn_, sas_.back().index, kShape.pn_offset(), flags);
    if (count > 1)
        control.gso_size(static_cast<std::uint16_t>(size + UDP_QUIC_TAG_LEN));
    const Address to = random_() % 2 == 0 ? Address::v6(kStreamAddress6, port_)
                                          : Address::mapped(kStreamAddress4, port_);
    const ssize_t result =
        send(socket_.get(), data_.back(), control, &to, zerocopy ? MSG_ZEROCOPY : 0);
    const std::uint64_t first = next_pn_;
    next_pn_ += count; // a number that was refused is not used again, either
    if (result < 0) {
        ++refusals[static_cast<int>(-result)];
        data_.pop_back();
        return 0;
    }
    EXPECT_EQ(result, static_cast<ssize_t>(data_.back().size()));
    if (zerocopy)
        ++incomplete_;
    else
        data_.pop_back();
    for (unsigned i = 0; i < count; ++i)
        sent_.emplace(first + i, Sent{size, 0});
    ++done["sends"];
    done["sends of a batch"] += count > 1;
    done["sends with keys inline"] += inline_keys;
    done["zero-copy sends"] += zerocopy;
    return count;
}

unsigned Stream::drain() {
    unsigned n = 0;
    while (const auto wire = receive(receiver_.get(), std::chrono::milliseconds(0))) {
        ++n;
        judge(*wire);
    }
    reap();
    return n;
}

void Stream::reap() {
    if (incomplete_ == 0)
        return;
    while (const auto one = zerocopy_completion(socket_.get(), std::chrono::milliseconds(0)))
        incomplete_ -= one->last - one->first + 1;
    if (incomplete_ == 0 && !orphaned_)
        data_.clear();
}

std::uint64_t Stream::settle_books() {
    std::uint64_t lost = 0;
    for (const auto &[pn, one] : sent_)
        lost += one.digest == 0;
    arrived += sent_.size() - lost;
    sent_.clear();
    if (socket_.get() >= 0)
        reap();
    data_.clear(); // queues are empty, so nobody reads these pages any more
    incomplete_ = 0;
    orphaned_ = false;
    return lost;
}

void Stream::judge(const Bytes &wire) {
    if (contains_plaintext(wire)) {
        ++plaintext;
        return;
    }
    for (std::size_t g = keys_.size(); g-- > 0;) {
        const auto opened =
            unprotect(keys_[g], wire, kShape.pn_offset(),
                      g == keys_.size() - 1 ? next_pn_ : (g + 1) * kNumbersOfGeneration - 1);
        if (!opened)
            continue;
        const auto sent = sent_.find(opened->pn);
        if (sent == sent_.end() || opened->packet != packet_of(opened->pn, sent->second.size)) {
            ++wrong;
            return;
        }
        const std::uint64_t digest =
            std::hash<std::string_view>{}(
                {reinterpret_cast<const char *>(wire.data()), wire.size()}) |
            1;
        if (sent->second.digest != 0) {
            ++duplicates;
            nonces_reused += sent->second.digest != digest;
        }
        sent->second.digest = digest;
        return;
    }
    ++wrong;
}

namespace {

// Without nstat(8): starting a program is what takes time in an emulated guest.
std::map<std::string, std::uint64_t> snmp_counters() {
    static const std::set<std::string> kWanted{
        "IpOutDiscards",  "IpInDiscards",    "IpOutNoRoutes",    "Ip6OutDiscards", "Ip6InDiscards",
        "Ip6OutNoRoutes", "UdpRcvbufErrors", "Udp6RcvbufErrors", "UdpInErrors",    "Udp6InErrors"};
    std::map<std::string, std::uint64_t> out;
    const auto take = [&](const std::string &name, std::uint64_t value) {
        if (kWanted.contains(name))
            out[name] = value;
    };
    // "Ip: NAME NAME", "Ip: VALUE VALUE"
    std::istringstream ipv4(read_file("/proc/thread-self/net/snmp"));
    std::string names_line;
    std::string values_line;
    while (std::getline(ipv4, names_line) && std::getline(ipv4, values_line)) {
        std::istringstream names(names_line);
        std::istringstream values(values_line);
        std::string protocol;
        std::string name;
        std::int64_t value = 0;
        names >> protocol;
        values >> protocol;
        protocol.pop_back();
        while (names >> name && values >> value)
            take(protocol + name, static_cast<std::uint64_t>(value));
    }
    std::istringstream ipv6(read_file("/proc/thread-self/net/snmp6"));
    std::string name;
    std::uint64_t value = 0;
    while (ipv6 >> name >> value)
        take(name, value);
    return out;
}

} // namespace

std::map<std::string, std::uint64_t> loss_counters(const World &world) {
    std::map<std::string, std::uint64_t> out;
    for (const auto &[ns, host] : {std::pair{&world.a, "a"}, std::pair{&world.b, "b"}}) {
        const InNamespace inside(*ns);
        const Statistics statistics = Statistics::read();
        for (const auto &[name, value] : statistics.all())
            if (name.starts_with("Drop") || name == "TxLost")
                out[std::string(host) + "." + name] = value;
        for (const auto &[name, value] : snmp_counters())
            out[std::string(host) + "." + name] = value;
        std::uint64_t value = 0;
        std::string name;
        std::string line;
        std::istringstream qdiscs(
            command("tc -s qdisc show | sed -n 's/.*(dropped \\([0-9]*\\),.*/\\1/p'"));
        while (qdiscs >> value)
            out[std::string(host) + ".qdisc"] += value;
        // sysfs shows the devices of the namespace that it was mounted in, this one ours.
        std::istringstream devices(read_file("/proc/thread-self/net/dev"));
        while (std::getline(devices, line)) {
            const auto colon = line.find(':');
            if (colon == std::string::npos)
                continue;
            std::istringstream fields(line.substr(0, colon) + " " + line.substr(colon + 1));
            std::array<std::uint64_t, 12> values{};
            fields >> name;
            for (std::uint64_t &field : values)
                fields >> field;
            out[std::string(host) + "." + name + ".rx"] = values[3];
            out[std::string(host) + "." + name + ".tx"] = values[11];
        }
    }
    return out;
}

std::uint64_t grown(const std::map<std::string, std::uint64_t> &before,
                    const std::map<std::string, std::uint64_t> &after, std::string &which) {
    std::uint64_t sum = 0;
    for (const auto &[name, value] : after) {
        const auto old = before.find(name);
        const std::uint64_t base = old == before.end() || old->second > value ? 0 : old->second;
        if (value > base) {
            sum += value - base;
            which += " " + name + "+" + std::to_string(value - base);
        }
    }
    return sum;
}

} // namespace quic_test
