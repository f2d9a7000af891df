// SPDX-License-Identifier: MIT
#include "netlink.h"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include <linux/genetlink.h>
#include <linux/netlink.h>
#include <sys/socket.h>

namespace quic_sadb {

namespace {

constexpr std::size_t kRequestMax = 256;

[[noreturn]] void fail(const std::string &what) {
    throw Error(exit_of_errno(errno), what + ": " + std::strerror(errno));
}

const genlmsghdr *generic_header(const nlmsghdr *message) {
    return static_cast<const genlmsghdr *>(mnl_nlmsg_get_payload(message));
}

// Calls @attribute for each attribute from @at on, in the @left bytes there.
template <typename Callback>
void walk(const void *at, std::ptrdiff_t left, const Callback &attribute) {
    const auto *attr = static_cast<const nlattr *>(at);
    while (left > 0 && mnl_attr_ok(attr, static_cast<int>(left))) {
        attribute(attr);
        left -= MNL_ALIGN(attr->nla_len);
        attr = mnl_attr_next(attr);
    }
}

// The same for the attributes of @message, @offset bytes behind its own header.
template <typename Callback>
void for_each_attribute(const nlmsghdr *message, const Callback &attribute,
                        std::size_t offset = sizeof(genlmsghdr)) {
    const std::size_t length = mnl_nlmsg_get_payload_len(message);
    offset = MNL_ALIGN(offset);
    if (length > offset)
        walk(static_cast<const char *>(mnl_nlmsg_get_payload(message)) + offset,
             static_cast<std::ptrdiff_t>(length - offset), attribute);
}

template <typename Callback> void for_each_nested(const nlattr *nest, const Callback &attribute) {
    walk(mnl_attr_get_payload(nest), mnl_attr_get_payload_len(nest), attribute);
}

// The kernel's "uint": as long as the number needs.
std::uint64_t number(const nlattr *attribute) {
    switch (mnl_attr_get_payload_len(attribute)) {
    case sizeof(std::uint8_t):
        return mnl_attr_get_u8(attribute);
    case sizeof(std::uint32_t):
        return mnl_attr_get_u32(attribute);
    case sizeof(std::uint64_t):
        return mnl_attr_get_u64(attribute);
    default:
        throw Error(Exit::kRefused, "the kernel's answer is malformed");
    }
}

std::uint32_t number32(const nlattr *attribute) {
    return static_cast<std::uint32_t>(number(attribute));
}

std::string text_of(const nlattr *attribute) {
    const auto *text = static_cast<const char *>(mnl_attr_get_payload(attribute));
    return {text, ::strnlen(text, mnl_attr_get_payload_len(attribute))};
}

const char *device_attribute(std::uint16_t type) {
    static constexpr const char *kNames[] = {"",        "ifindex", "ifname", "enabled",
                                             "ciphers", "forms",   "sa-max", "sa-count"};
    return type < std::size(kNames) ? kNames[type] : "";
}

const char *sa_attribute(std::uint16_t type) {
    static constexpr const char *kNames[] = {"",
                                             "index",
                                             "cipher",
                                             "key",
                                             "iv",
                                             "hp-key",
                                             "uid",
                                             "packet-limit",
                                             "origin",
                                             "flags",
                                             "state",
                                             "ifindex",
                                             "packets",
                                             "bytes",
                                             "packets-software",
                                             "packets-dropped",
                                             "count"};
    return type < std::size(kNames) ? kNames[type] : "";
}

constexpr const char *kStatistics[] = {"",
                                       "tx-packets",
                                       "tx-bytes",
                                       "tx-sends",
                                       "tx-gso-sends",
                                       "tx-software",
                                       "tx-software-late",
                                       "tx-device",
                                       "tx-lost",
                                       "drop-no-sa",
                                       "drop-no-keys",
                                       "drop-no-mem",
                                       "drop-changed",
                                       "drop-error",
                                       "sa-added",
                                       "sa-deleted",
                                       "sa-count",
                                       "sa-max",
                                       "tx-gso-max-segs"};
static_assert(std::size(kStatistics) == UDP_CRYPTO_A_STATS_MAX + 1);

std::string attribute_name(std::uint8_t command, std::uint16_t type) {
    return command == UDP_CRYPTO_CMD_DEV_GET ? device_attribute(type) : sa_attribute(type);
}

// @request: as it was sent, to find the attribute that the kernel points at.
Refusal parse_refusal(const nlmsghdr *answer, const nlmsghdr *request) {
    const auto *error = static_cast<const nlmsgerr *>(mnl_nlmsg_get_payload(answer));
    Refusal refusal{-error->error, "", ""};
    if ((answer->nlmsg_flags & NLM_F_ACK_TLVS) == 0)
        return refusal;
    std::size_t offset = sizeof(*error);
    // Not capped: the request follows, without its own header, which is in *error.
    if ((answer->nlmsg_flags & NLM_F_CAPPED) == 0)
        offset += error->msg.nlmsg_len - NLMSG_HDRLEN;
    const std::uint8_t command =
        mnl_nlmsg_get_payload_len(request) >= sizeof(genlmsghdr) ? generic_header(request)->cmd : 0;
    const auto take = [&](const nlattr *attr) {
        switch (mnl_attr_get_type(attr)) {
        case NLMSGERR_ATTR_MSG:
            refusal.message = text_of(attr);
            break;
        case NLMSGERR_ATTR_MISS_TYPE:
            refusal.attribute = attribute_name(command, static_cast<std::uint16_t>(number32(attr)));
            break;
        case NLMSGERR_ATTR_OFFS: {
            const std::uint32_t at = number32(attr);
            if (at >= mnl_nlmsg_size(sizeof(genlmsghdr)) &&
                at + sizeof(nlattr) <= request->nlmsg_len) {
                nlattr bad{};
                std::memcpy(&bad, reinterpret_cast<const char *>(request) + at, sizeof(bad));
                refusal.attribute = attribute_name(command, bad.nla_type & NLA_TYPE_MASK);
            }
            break;
        }
        default:
            break;
        }
    };
    for_each_attribute(answer, take, offset);
    return refusal;
}

Device parse_device(const nlmsghdr *message) {
    Device device;
    for_each_attribute(message, [&device](const nlattr *attr) {
        switch (mnl_attr_get_type(attr)) {
        case UDP_CRYPTO_A_DEV_IFINDEX:
            device.ifindex = number32(attr);
            break;
        case UDP_CRYPTO_A_DEV_IFNAME:
            device.ifname = text_of(attr);
            break;
        case UDP_CRYPTO_A_DEV_ENABLED:
            device.enabled = true;
            break;
        case UDP_CRYPTO_A_DEV_CIPHERS:
            device.ciphers = number32(attr);
            break;
        case UDP_CRYPTO_A_DEV_FORMS:
            device.forms = number32(attr);
            break;
        case UDP_CRYPTO_A_DEV_SA_MAX:
            device.sa_max = number32(attr);
            break;
        case UDP_CRYPTO_A_DEV_SA_COUNT:
            device.sa_count = number32(attr);
            break;
        default: // of a newer kernel
            break;
        }
    });
    return device;
}

Sa parse_sa_message(const nlmsghdr *message) {
    Sa sa;
    for_each_attribute(message, [&sa](const nlattr *attr) {
        switch (mnl_attr_get_type(attr)) {
        case UDP_CRYPTO_A_SA_INDEX:
            sa.index = number32(attr);
            break;
        case UDP_CRYPTO_A_SA_CIPHER:
            sa.cipher = number32(attr);
            break;
        case UDP_CRYPTO_A_SA_UID:
            sa.uid = number32(attr);
            break;
        case UDP_CRYPTO_A_SA_ORIGIN:
            sa.origin = number32(attr);
            break;
        case UDP_CRYPTO_A_SA_FLAGS:
            sa.flags = number32(attr);
            break;
        case UDP_CRYPTO_A_SA_STATE:
            sa.state = number32(attr);
            break;
        case UDP_CRYPTO_A_SA_IFINDEX:
            sa.ifindex = number32(attr);
            break;
        case UDP_CRYPTO_A_SA_PACKET_LIMIT:
            sa.packet_limit = number(attr);
            break;
        case UDP_CRYPTO_A_SA_PACKETS:
            sa.packets = number(attr);
            break;
        case UDP_CRYPTO_A_SA_BYTES:
            sa.bytes = number(attr);
            break;
        case UDP_CRYPTO_A_SA_PACKETS_SOFTWARE:
            sa.packets_software = number(attr);
            break;
        case UDP_CRYPTO_A_SA_PACKETS_DROPPED:
            sa.packets_dropped = number(attr);
            break;
        case UDP_CRYPTO_A_SA_INODE:
            sa.inode = number(attr);
            break;
        default:
            break;
        }
    });
    return sa;
}

void put_sa(nlmsghdr *message, const SaSpec &sa) {
    mnl_attr_put_u32(message, UDP_CRYPTO_A_SA_CIPHER, sa.cipher);
    mnl_attr_put(message, UDP_CRYPTO_A_SA_KEY, sa.key_view().size(), sa.key_view().data());
    mnl_attr_put(message, UDP_CRYPTO_A_SA_IV, sa.iv.size(), sa.iv.data());
    mnl_attr_put(message, UDP_CRYPTO_A_SA_HP_KEY, sa.hp_view().size(), sa.hp_view().data());
    mnl_attr_put_u32(message, UDP_CRYPTO_A_SA_UID, sa.uid);
    if (sa.packet_limit != 0)
        mnl_attr_put_u64(message, UDP_CRYPTO_A_SA_PACKET_LIMIT, sa.packet_limit);
}

} // namespace

Exit exit_of_errno(int error) {
    switch (error) {
    case EPERM:
    case EACCES:
        return Exit::kNotAllowed;
    case ENOENT:
    case ENODEV:
        return Exit::kNotThere;
    default:
        return Exit::kRefused;
    }
}

std::string Refusal::text() const {
    std::string out = message;
    if (!attribute.empty())
        out += (out.empty() ? "" : " ") + std::string("(") + attribute + ")";
    return out + (out.empty() ? "" : ": ") + std::strerror(error);
}

Client::Client() {
    socket_ = mnl_socket_open2(NETLINK_GENERIC, SOCK_CLOEXEC);
    if (socket_ == nullptr)
        fail("netlink socket");
    try {
        // Errors come with words, and without a copy of the request.
        int on = 1;
        if (mnl_socket_setsockopt(socket_, NETLINK_EXT_ACK, &on, sizeof(on)) < 0 ||
            mnl_socket_setsockopt(socket_, NETLINK_CAP_ACK, &on, sizeof(on)) < 0)
            fail("netlink socket");
        if (mnl_socket_bind(socket_, 0, MNL_SOCKET_AUTOPID) < 0)
            fail("netlink socket");
        port_ = mnl_socket_get_portid(socket_);
        family_ = resolve();
    } catch (...) {
        mnl_socket_close(socket_);
        throw;
    }
}

Client::~Client() { mnl_socket_close(socket_); }

nlmsghdr *Client::begin(void *buffer, std::uint8_t command, std::uint16_t flags) {
    nlmsghdr *message = mnl_nlmsg_put_header(buffer);
    message->nlmsg_type = family_.id;
    message->nlmsg_flags = NLM_F_REQUEST | flags;
    message->nlmsg_seq = sequence_++;
    auto *header =
        static_cast<genlmsghdr *>(mnl_nlmsg_put_extra_header(message, sizeof(genlmsghdr)));
    header->cmd = command;
    header->version = UDP_CRYPTO_FAMILY_VERSION;
    return message;
}

void Client::send(const void *data, std::size_t length) {
    while (mnl_socket_sendto(socket_, data, length) < 0)
        if (errno != EINTR)
            fail("sending to the kernel");
}

std::size_t Client::receive() {
    for (;;) {
        const ssize_t n = mnl_socket_recvfrom(socket_, answer_.data(), answer_.size());
        if (n >= 0)
            return static_cast<std::size_t>(n);
        if (errno != EINTR)
            fail("the kernel's answer");
    }
}

bool Client::exchange(const nlmsghdr *request,
                      const std::function<void(const nlmsghdr *)> &message) {
    const bool dump = (request->nlmsg_flags & NLM_F_DUMP) == NLM_F_DUMP;
    bool changed = false;
    send(request, request->nlmsg_len);
    for (;;) {
        int left = static_cast<int>(receive());
        for (const auto *answer = reinterpret_cast<const nlmsghdr *>(answer_.data());
             mnl_nlmsg_ok(answer, left); answer = mnl_nlmsg_next(answer, &left)) {
            if (answer->nlmsg_seq != request->nlmsg_seq)
                continue;
            changed |= (answer->nlmsg_flags & NLM_F_DUMP_INTR) != 0;
            if (answer->nlmsg_type == NLMSG_DONE)
                return changed;
            if (answer->nlmsg_type == NLMSG_ERROR) {
                if (mnl_nlmsg_get_payload_len(answer) < sizeof(nlmsgerr))
                    throw Error(Exit::kRefused, "the kernel's answer is malformed");
                const Refusal refusal = parse_refusal(answer, request);
                if (refusal.error != 0)
                    throw Refused(refusal);
                return changed;
            }
            message(answer);
            if (!dump && (request->nlmsg_flags & NLM_F_ACK) == 0)
                return changed;
        }
    }
}

Client::Family Client::resolve() {
    alignas(nlmsghdr) char buffer[kRequestMax];
    family_.id = GENL_ID_CTRL;
    nlmsghdr *request = begin(buffer, CTRL_CMD_GETFAMILY, 0);
    static_cast<genlmsghdr *>(mnl_nlmsg_get_payload(request))->version = 1;
    mnl_attr_put_strz(request, CTRL_ATTR_FAMILY_NAME, UDP_CRYPTO_FAMILY_NAME);
    Family family;
    try {
        exchange(request, [&family](const nlmsghdr *answer) {
            for_each_attribute(answer, [&family](const nlattr *attr) {
                if (mnl_attr_get_type(attr) == CTRL_ATTR_FAMILY_ID)
                    family.id = mnl_attr_get_u16(attr);
                if (mnl_attr_get_type(attr) != CTRL_ATTR_MCAST_GROUPS)
                    return;
                for_each_nested(attr, [&family](const nlattr *group) {
                    std::string name;
                    std::uint32_t id = 0;
                    for_each_nested(group, [&](const nlattr *field) {
                        if (mnl_attr_get_type(field) == CTRL_ATTR_MCAST_GRP_NAME)
                            name = text_of(field);
                        if (mnl_attr_get_type(field) == CTRL_ATTR_MCAST_GRP_ID)
                            id = number32(field);
                    });
                    if (name == UDP_CRYPTO_MCGRP_SA)
                        family.group = id;
                });
            });
        });
    } catch (const Refused &refused) {
        if (refused.refusal().error != ENOENT)
            throw;
        throw Error(Exit::kNoFamily, "this kernel has no netlink family " UDP_CRYPTO_FAMILY_NAME
                                     " (CONFIG_UDP_CRYPTO): it does not protect QUIC packets");
    }
    return family;
}

Device Client::device(std::uint32_t ifindex) {
    alignas(nlmsghdr) char buffer[kRequestMax];
    nlmsghdr *request = begin(buffer, UDP_CRYPTO_CMD_DEV_GET, 0);
    mnl_attr_put_u32(request, UDP_CRYPTO_A_DEV_IFINDEX, ifindex);
    Device device;
    exchange(request, [&](const nlmsghdr *answer) { device = parse_device(answer); });
    return device;
}

std::vector<Device> Client::devices() {
    alignas(nlmsghdr) char buffer[kRequestMax];
    nlmsghdr *request = begin(buffer, UDP_CRYPTO_CMD_DEV_GET, NLM_F_DUMP);
    std::vector<Device> devices;
    exchange(request, [&](const nlmsghdr *answer) { devices.push_back(parse_device(answer)); });
    return devices;
}

std::uint32_t Client::add(const SaSpec &sa) {
    std::uint32_t added = 0;
    Pipeline pipeline(
        *this, [&added](std::size_t, std::uint32_t index, const std::optional<Refusal> &refusal) {
            if (refusal)
                throw Refused(*refusal);
            added = index;
        });
    pipeline.add(0, sa);
    pipeline.finish();
    return added;
}

void Client::del(std::uint32_t index) {
    alignas(nlmsghdr) char buffer[kRequestMax];
    nlmsghdr *request = begin(buffer, UDP_CRYPTO_CMD_SA_DEL, NLM_F_ACK);
    mnl_attr_put_u32(request, UDP_CRYPTO_A_SA_INDEX, index);
    exchange(request, [](const nlmsghdr *) {});
}

Sa Client::sa(std::uint32_t index) {
    alignas(nlmsghdr) char buffer[kRequestMax];
    nlmsghdr *request = begin(buffer, UDP_CRYPTO_CMD_SA_GET, 0);
    mnl_attr_put_u32(request, UDP_CRYPTO_A_SA_INDEX, index);
    Sa sa;
    exchange(request, [&](const nlmsghdr *answer) { sa = parse_sa_message(answer); });
    return sa;
}

std::vector<Sa> Client::sas(bool &changed) {
    constexpr int kTries = 3;
    std::vector<Sa> sas;
    for (int i = 0; i < kTries; ++i) {
        alignas(nlmsghdr) char buffer[kRequestMax];
        nlmsghdr *request = begin(buffer, UDP_CRYPTO_CMD_SA_GET, NLM_F_DUMP);
        sas.clear();
        changed = exchange(
            request, [&](const nlmsghdr *answer) { sas.push_back(parse_sa_message(answer)); });
        if (!changed)
            break;
    }
    return sas;
}

std::uint32_t Client::flush(std::optional<std::uint32_t> uid) {
    alignas(nlmsghdr) char buffer[kRequestMax];
    nlmsghdr *request = begin(buffer, UDP_CRYPTO_CMD_SA_FLUSH, 0);
    if (uid)
        mnl_attr_put_u32(request, UDP_CRYPTO_A_SA_UID, *uid);
    std::uint32_t count = 0;
    exchange(request, [&count](const nlmsghdr *answer) {
        for_each_attribute(answer, [&count](const nlattr *attr) {
            if (mnl_attr_get_type(attr) == UDP_CRYPTO_A_SA_COUNT)
                count = number32(attr);
        });
    });
    return count;
}

std::vector<Statistic> Client::statistics() {
    alignas(nlmsghdr) char buffer[kRequestMax];
    nlmsghdr *request = begin(buffer, UDP_CRYPTO_CMD_STATS_GET, 0);
    std::vector<Statistic> statistics;
    exchange(request, [&statistics](const nlmsghdr *answer) {
        for_each_attribute(answer, [&statistics](const nlattr *attr) {
            const std::uint16_t type = mnl_attr_get_type(attr);
            if (type < std::size(kStatistics))
                statistics.push_back({kStatistics[type], number(attr)});
        });
    });
    return statistics;
}

void *Client::Pipeline::room() {
    if (tags_.size() == kWindow)
        finish();
    return buffer_.data() + used_;
}

void Client::Pipeline::queued(const nlmsghdr *message, std::size_t tag) {
    if (tags_.empty())
        first_sequence_ = message->nlmsg_seq;
    tags_.push_back(tag);
    used_ += NLMSG_ALIGN(message->nlmsg_len);
}

void Client::Pipeline::add(std::size_t tag, const SaSpec &sa) {
    nlmsghdr *message = client_.begin(room(), UDP_CRYPTO_CMD_SA_ADD, 0);
    put_sa(message, sa);
    queued(message, tag);
}

void Client::Pipeline::del(std::size_t tag, std::uint32_t index) {
    nlmsghdr *message = client_.begin(room(), UDP_CRYPTO_CMD_SA_DEL, NLM_F_ACK);
    mnl_attr_put_u32(message, UDP_CRYPTO_A_SA_INDEX, index);
    queued(message, tag);
}

void Client::Pipeline::finish() {
    if (tags_.empty())
        return;
    std::vector<std::size_t> tags;
    tags.swap(tags_);
    const std::size_t length = std::exchange(used_, 0);
    client_.send(buffer_.data(), length);

    // The requests themselves are still needed: a refusal points into them.
    const auto *request = reinterpret_cast<const nlmsghdr *>(buffer_.data());
    for (std::size_t answered = 0; answered < tags.size();) {
        int left = static_cast<int>(client_.receive());
        for (const auto *answer = reinterpret_cast<const nlmsghdr *>(client_.answer_.data());
             mnl_nlmsg_ok(answer, left) && answered < tags.size();
             answer = mnl_nlmsg_next(answer, &left)) {
            if (answer->nlmsg_seq != first_sequence_ + answered)
                continue; // of an exchange that an exception ended
            std::optional<Refusal> refusal;
            std::uint32_t index = 0;
            if (answer->nlmsg_type == NLMSG_ERROR) {
                if (mnl_nlmsg_get_payload_len(answer) < sizeof(nlmsgerr))
                    throw Error(Exit::kRefused, "the kernel's answer is malformed");
                refusal = parse_refusal(answer, request);
                if (refusal->error == 0)
                    refusal.reset();
            } else {
                index = parse_sa_message(answer).index;
            }
            request = reinterpret_cast<const nlmsghdr *>(reinterpret_cast<const char *>(request) +
                                                         NLMSG_ALIGN(request->nlmsg_len));
            answer_(tags[answered++], index, refusal);
        }
    }
    ::explicit_bzero(buffer_.data(), length);
}

void Client::listen() {
    if (!family_.group)
        throw Error(Exit::kNoFamily,
                    "this kernel sends no notifications of " UDP_CRYPTO_FAMILY_NAME);
    int group = static_cast<int>(*family_.group);
    if (mnl_socket_setsockopt(socket_, NETLINK_ADD_MEMBERSHIP, &group, sizeof(group)) < 0)
        fail("listening");
}

void Client::events(const std::function<bool(const Event &)> &event) {
    for (;;) {
        const ssize_t n = mnl_socket_recvfrom(socket_, answer_.data(), answer_.size());
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0 && errno == ENOBUFS) {
            if (!event({EventKind::kLost, {}}))
                return;
            continue;
        }
        if (n < 0)
            fail("listening");
        int left = static_cast<int>(n);
        for (const auto *message = reinterpret_cast<const nlmsghdr *>(answer_.data());
             mnl_nlmsg_ok(message, left); message = mnl_nlmsg_next(message, &left)) {
            if (message->nlmsg_type != family_.id ||
                mnl_nlmsg_get_payload_len(message) < sizeof(genlmsghdr))
                continue;
            const std::uint8_t command = generic_header(message)->cmd;
            if (command != UDP_CRYPTO_CMD_SA_ADD_NTF && command != UDP_CRYPTO_CMD_SA_DEL_NTF)
                continue;
            const EventKind kind =
                command == UDP_CRYPTO_CMD_SA_ADD_NTF ? EventKind::kAdded : EventKind::kDeleted;
            if (!event({kind, parse_sa_message(message)}))
                return;
        }
    }
}

std::string state_name(std::uint32_t state) {
    switch (state) {
    case UDP_CRYPTO_SA_SOFTWARE:
        return "software";
    case UDP_CRYPTO_SA_INLINE:
        return "inline";
    case UDP_CRYPTO_SA_DEVICE:
        return "device";
    default:
        return "state-" + std::to_string(state);
    }
}

std::string origin_name(std::uint32_t origin) {
    switch (origin) {
    case UDP_CRYPTO_SA_ORIGIN_SOCKET:
        return "socket";
    case UDP_CRYPTO_SA_ORIGIN_NETLINK:
        return "netlink";
    default:
        return "origin-" + std::to_string(origin);
    }
}

std::vector<std::string> form_names(std::uint32_t forms) {
    std::vector<std::string> names;
    for (unsigned bit = 0; bit < 32; ++bit) {
        const std::uint32_t form = forms & 1U << bit;
        if (form == UDP_CRYPTO_DEV_FORM_INDEX)
            names.emplace_back("index");
        else if (form == UDP_CRYPTO_DEV_FORM_INLINE)
            names.emplace_back("inline");
        else if (form != 0)
            names.push_back("form-" + std::to_string(bit));
    }
    return names;
}

std::vector<std::string> cipher_names(std::uint32_t ciphers) {
    std::vector<std::string> names;
    for (unsigned cipher = 0; cipher < 32; ++cipher)
        if ((ciphers & 1U << cipher) != 0)
            names.push_back(cipher_name(cipher));
    return names;
}

} // namespace quic_sadb
