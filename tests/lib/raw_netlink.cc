// SPDX-License-Identifier: GPL-2.0
#include "raw_netlink.h"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <stdexcept>

#include <linux/genetlink.h>
#include <linux/netlink.h>
#include <poll.h>
#include <sys/socket.h>

#ifndef SOL_NETLINK
#define SOL_NETLINK 270
#endif

namespace quic_test {

namespace {

template <typename T> T read(const Bytes &bytes, std::size_t at) {
    T value{};
    if (at + sizeof(value) > bytes.size())
        throw std::runtime_error("a netlink message is too short");
    std::memcpy(&value, bytes.data() + at, sizeof(value));
    return value;
}

template <typename T> void append(Bytes &bytes, const T &value) {
    const std::size_t at = bytes.size();
    bytes.resize(at + sizeof(value));
    std::memcpy(bytes.data() + at, &value, sizeof(value));
}

// Calls @attribute(type, value) for each attribute in @bytes from @at on.
template <typename Callback>
void for_each(const Bytes &bytes, std::size_t at, const Callback &attribute) {
    while (at + sizeof(nlattr) <= bytes.size()) {
        const auto header = read<nlattr>(bytes, at);
        if (header.nla_len < sizeof(nlattr) || at + header.nla_len > bytes.size())
            return;
        attribute(static_cast<std::uint16_t>(header.nla_type & NLA_TYPE_MASK),
                  Bytes(bytes.begin() + static_cast<std::ptrdiff_t>(at + sizeof(nlattr)),
                        bytes.begin() + static_cast<std::ptrdiff_t>(at + header.nla_len)));
        at += NLA_ALIGN(header.nla_len);
    }
}

std::uint64_t number(const Bytes &value) {
    if (value.size() == 8)
        return read<std::uint64_t>(value, 0);
    if (value.size() == 2)
        return read<std::uint16_t>(value, 0);
    return read<std::uint32_t>(value, 0);
}

std::string text(const Bytes &value) {
    return {value.begin(), std::find(value.begin(), value.end(), 0)};
}

void parse_error(Answer &answer, const Bytes &message, const Bytes &request) {
    const auto header = read<nlmsghdr>(message, 0);
    const auto error = read<nlmsgerr>(message, NLMSG_HDRLEN);
    answer.error = -error.error;
    std::size_t at = NLMSG_HDRLEN + sizeof(nlmsgerr);
    if ((header.nlmsg_flags & NLM_F_CAPPED) == 0) {
        const std::size_t length = error.msg.nlmsg_len - NLMSG_HDRLEN;
        answer.echo.assign(message.begin() + static_cast<std::ptrdiff_t>(at),
                           message.begin() +
                               static_cast<std::ptrdiff_t>(std::min(at + length, message.size())));
        at += NLMSG_ALIGN(length);
    }
    if ((header.nlmsg_flags & NLM_F_ACK_TLVS) == 0)
        return;
    for_each(message, at, [&](std::uint16_t type, const Bytes &value) {
        if (type == NLMSGERR_ATTR_MSG)
            answer.message = text(value);
        if (type == NLMSGERR_ATTR_MISS_TYPE)
            answer.missing = static_cast<std::uint32_t>(number(value));
        if (type == NLMSGERR_ATTR_OFFS)
            answer.bad = static_cast<std::uint16_t>(read<nlattr>(request, number(value)).nla_type &
                                                    NLA_TYPE_MASK);
    });
}

} // namespace

Attribute Attribute::u32(std::uint16_t type, std::uint32_t value) {
    Attribute attribute{type, {}};
    append(attribute.value, value);
    return attribute;
}

Attribute Attribute::u64(std::uint16_t type, std::uint64_t value) {
    Attribute attribute{type, {}};
    append(attribute.value, value);
    return attribute;
}

std::vector<Attribute> sa_attributes(const PacketKeys &keys, std::uint32_t uid) {
    return {Attribute::u32(UDP_CRYPTO_A_SA_CIPHER, static_cast<std::uint32_t>(keys.cipher)),
            {UDP_CRYPTO_A_SA_KEY, keys.key},
            {UDP_CRYPTO_A_SA_IV, keys.iv},
            {UDP_CRYPTO_A_SA_HP_KEY, keys.hp},
            Attribute::u32(UDP_CRYPTO_A_SA_UID, uid)};
}

std::vector<Attribute> without(std::vector<Attribute> attributes, std::uint16_t type) {
    std::erase_if(attributes, [type](const Attribute &a) { return a.type == type; });
    return attributes;
}

std::vector<Attribute> with(std::vector<Attribute> attributes, const Attribute &other) {
    for (Attribute &attribute : attributes)
        if (attribute.type == other.type) {
            attribute = other;
            return attributes;
        }
    attributes.push_back(other);
    return attributes;
}

std::optional<Bytes> find_attribute(const Bytes &message, std::uint16_t type) {
    std::optional<Bytes> found;
    for_each(message, NLMSG_HDRLEN + GENL_HDRLEN, [&](std::uint16_t t, const Bytes &value) {
        if (t == type)
            found = value;
    });
    return found;
}

std::optional<std::uint64_t> find_number(const Bytes &message, std::uint16_t type) {
    const auto value = find_attribute(message, type);
    return value ? std::optional(number(*value)) : std::nullopt;
}

RawNetlink::RawNetlink(const std::string &family)
    : fd_(::socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_GENERIC)) {
    if (fd_.get() < 0)
        throw_errno("netlink socket");
    const int on = 1;
    sockaddr_nl address{};
    address.nl_family = AF_NETLINK;
    if (::setsockopt(fd_.get(), SOL_NETLINK, NETLINK_EXT_ACK, &on, sizeof(on)) != 0 ||
        ::bind(fd_.get(), reinterpret_cast<const sockaddr *>(&address), sizeof(address)) != 0)
        throw_errno("netlink socket");

    family_ = GENL_ID_CTRL;
    Attribute name{CTRL_ATTR_FAMILY_NAME, {}};
    name.value.assign(family.begin(), family.end());
    name.value.push_back(0);
    const Answer found = request(CTRL_CMD_GETFAMILY, {name});
    if (found.error != 0 || found.messages.empty())
        throw std::runtime_error("no netlink family " + family);
    const Bytes &message = found.messages[0];
    family_ = static_cast<std::uint16_t>(find_number(message, CTRL_ATTR_FAMILY_ID).value());
    for_each(find_attribute(message, CTRL_ATTR_MCAST_GROUPS).value(), 0,
             [this](std::uint16_t, const Bytes &group) {
                 for_each(group, 0, [this](std::uint16_t type, const Bytes &value) {
                     if (type == CTRL_ATTR_MCAST_GRP_ID)
                         group_ = static_cast<std::uint32_t>(number(value));
                 });
             });
}

Bytes RawNetlink::build(std::uint8_t command, const std::vector<Attribute> &attributes,
                        std::uint16_t flags) {
    Bytes message;
    append(message, nlmsghdr{});
    append(message, genlmsghdr{command, 1, 0});
    for (const Attribute &attribute : attributes) {
        nlattr header{};
        header.nla_len = static_cast<std::uint16_t>(sizeof(header) + attribute.value.size());
        header.nla_type = attribute.type;
        append(message, header);
        message.insert(message.end(), attribute.value.begin(), attribute.value.end());
        message.resize(NLA_ALIGN(message.size()));
    }
    nlmsghdr header{};
    header.nlmsg_len = static_cast<std::uint32_t>(message.size());
    header.nlmsg_type = family_;
    header.nlmsg_flags = NLM_F_REQUEST | flags;
    header.nlmsg_seq = sequence_++;
    std::memcpy(message.data(), &header, sizeof(header));
    return message;
}

int RawNetlink::send(const Bytes &message) {
    sockaddr_nl kernel{};
    kernel.nl_family = AF_NETLINK;
    const ssize_t n = ::sendto(fd_.get(), message.data(), message.size(), 0,
                               reinterpret_cast<const sockaddr *>(&kernel), sizeof(kernel));
    return n < 0 ? -errno : 0;
}

std::optional<Bytes> RawNetlink::receive(bool wait) {
    if (wait) {
        pollfd waiting{fd_.get(), POLLIN, 0};
        if (::poll(&waiting, 1, static_cast<int>(kPatience.count())) != 1)
            throw std::runtime_error("no answer from the kernel");
    }
    Bytes buffer(65536);
    const ssize_t n = ::recv(fd_.get(), buffer.data(), buffer.size(), MSG_DONTWAIT);
    if (n < 0) {
        if (errno == EAGAIN)
            return std::nullopt;
        throw_errno("recv from netlink");
    }
    buffer.resize(static_cast<std::size_t>(n));
    return buffer;
}

Answer RawNetlink::answer(const Bytes &request) {
    const auto asked = read<nlmsghdr>(request, 0);
    const bool dump = (asked.nlmsg_flags & NLM_F_DUMP) == NLM_F_DUMP;
    Answer answer;
    for (;;) {
        const Bytes datagram = receive(true).value();
        for (std::size_t at = 0; at + NLMSG_HDRLEN <= datagram.size();) {
            const auto header = read<nlmsghdr>(datagram, at);
            if (header.nlmsg_len < NLMSG_HDRLEN || at + header.nlmsg_len > datagram.size())
                throw std::runtime_error("malformed answer");
            const Bytes message(datagram.begin() + static_cast<std::ptrdiff_t>(at),
                                datagram.begin() +
                                    static_cast<std::ptrdiff_t>(at + header.nlmsg_len));
            at += NLMSG_ALIGN(header.nlmsg_len);
            if (header.nlmsg_seq != asked.nlmsg_seq)
                continue;
            answer.interrupted |= (header.nlmsg_flags & NLM_F_DUMP_INTR) != 0;
            if (header.nlmsg_type == NLMSG_DONE)
                return answer;
            if (header.nlmsg_type == NLMSG_ERROR) {
                parse_error(answer, message, request);
                return answer;
            }
            answer.messages.push_back(message);
            if (!dump && (asked.nlmsg_flags & NLM_F_ACK) == 0)
                return answer;
        }
    }
}

Answer RawNetlink::request(std::uint8_t command, const std::vector<Attribute> &attributes,
                           std::uint16_t flags) {
    const Bytes message = build(command, attributes, flags);
    const int error = send(message);
    if (error < 0)
        throw std::runtime_error("send to netlink: errno " + std::to_string(-error));
    return answer(message);
}

int RawNetlink::join() {
    const int group = static_cast<int>(group_);
    return ::setsockopt(fd_.get(), SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, &group, sizeof(group)) == 0
               ? 0
               : -errno;
}

} // namespace quic_test
