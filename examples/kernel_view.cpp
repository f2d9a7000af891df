// SPDX-License-Identifier: MIT
#include "kernel_view.hpp"

#include <libmnl/libmnl.h>
#include <linux/ethtool.h>
#include <linux/genetlink.h>
#include <linux/sockios.h>
#include <linux/udp_crypto_nl.h>
#include <net/if.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <cstring>
#include <fstream>
#include <functional>
#include <memory>
#include <optional>

namespace quic_server {

namespace {

Counters read_counters(const char *file) {
    Counters counters;
    std::ifstream in(file);
    std::string name;
    std::uint64_t value = 0;
    while (in >> name >> value)
        counters[name] = value;
    return counters;
}

// --- generic netlink --------------------------------------------------------------------------

struct CloseSocket {
    void operator()(mnl_socket *socket) const { mnl_socket_close(socket); }
};

class NetlinkSocket {
  public:
    using Message = std::function<void(const nlmsghdr *)>;

    static std::optional<NetlinkSocket> open() {
        NetlinkSocket netlink;
        netlink.socket_.reset(mnl_socket_open2(NETLINK_GENERIC, SOCK_CLOEXEC));
        if (!netlink.socket_ || mnl_socket_bind(netlink.socket_.get(), 0, MNL_SOCKET_AUTOPID) < 0)
            return std::nullopt;
        return netlink;
    }

    // Sends a request of @family with one attribute at most. False: refused, or cut off.
    bool ask(std::uint16_t family, std::uint8_t command, std::uint16_t flags,
             const std::pair<std::uint16_t, const char *> *attribute, const Message &handle) {
        std::vector<char> buffer(static_cast<std::size_t>(MNL_SOCKET_BUFFER_SIZE));
        nlmsghdr *request = mnl_nlmsg_put_header(buffer.data());
        request->nlmsg_type = family;
        request->nlmsg_flags = static_cast<std::uint16_t>(NLM_F_REQUEST | NLM_F_ACK | flags);
        request->nlmsg_seq = ++sequence_;
        auto *header =
            static_cast<genlmsghdr *>(mnl_nlmsg_put_extra_header(request, sizeof(genlmsghdr)));
        header->cmd = command;
        header->version = 1;
        if (attribute)
            mnl_attr_put_strz(request, attribute->first, attribute->second);
        if (mnl_socket_sendto(socket_.get(), request, request->nlmsg_len) < 0)
            return false;

        const auto call = [](const nlmsghdr *message, void *data) {
            (*static_cast<const Message *>(data))(message);
            return MNL_CB_OK;
        };
        for (;;) {
            const auto length = mnl_socket_recvfrom(socket_.get(), buffer.data(), buffer.size());
            if (length <= 0)
                return false;
            const int rc = mnl_cb_run(buffer.data(), static_cast<std::size_t>(length), sequence_,
                                      mnl_socket_get_portid(socket_.get()), call,
                                      const_cast<Message *>(&handle)); // NOLINT
            if (rc <= MNL_CB_STOP)
                return rc == MNL_CB_STOP;
        }
    }

  private:
    NetlinkSocket() = default;
    std::unique_ptr<mnl_socket, CloseSocket> socket_;
    std::uint32_t sequence_ = 0;
};

void for_each_attribute(const nlmsghdr *message,
                        const std::function<void(std::uint16_t type, const nlattr *)> &handle) {
    // mnl_attr_for_each() is C: it takes a void pointer for any other.
    const auto *tail = static_cast<const char *>(mnl_nlmsg_get_payload_tail(message));
    for (const auto *attribute =
             static_cast<const nlattr *>(mnl_nlmsg_get_payload_offset(message, sizeof(genlmsghdr)));
         mnl_attr_ok(attribute, static_cast<int>(tail - reinterpret_cast<const char *>(attribute)));
         attribute = mnl_attr_next(attribute))
        handle(mnl_attr_get_type(attribute), attribute);
}

std::optional<std::uint32_t> u32(const nlattr *attribute) {
    if (mnl_attr_validate(attribute, MNL_TYPE_U32) < 0)
        return std::nullopt;
    return mnl_attr_get_u32(attribute);
}

std::vector<OffloadDevice> list_devices() {
    std::vector<OffloadDevice> devices;
    auto netlink = NetlinkSocket::open();
    if (!netlink)
        return devices;
    std::uint16_t family = 0;
    const std::pair<std::uint16_t, const char *> name{CTRL_ATTR_FAMILY_NAME,
                                                      UDP_CRYPTO_FAMILY_NAME};
    if (!netlink->ask(GENL_ID_CTRL, CTRL_CMD_GETFAMILY, 0, &name,
                      [&](const nlmsghdr *message) {
                          for_each_attribute(message, [&](std::uint16_t type, const nlattr *a) {
                              if (type == CTRL_ATTR_FAMILY_ID &&
                                  mnl_attr_validate(a, MNL_TYPE_U16) == 0)
                                  family = mnl_attr_get_u16(a);
                          });
                      }) ||
        family == 0)
        return devices;

    netlink->ask(family, UDP_CRYPTO_CMD_DEV_GET, NLM_F_DUMP, nullptr, [&](const nlmsghdr *message) {
        OffloadDevice device;
        for_each_attribute(message, [&](std::uint16_t type, const nlattr *a) {
            if (type == UDP_CRYPTO_A_DEV_IFNAME && mnl_attr_validate(a, MNL_TYPE_NUL_STRING) == 0)
                device.name = mnl_attr_get_str(a);
            else if (type == UDP_CRYPTO_A_DEV_ENABLED)
                device.enabled = true;
            else if (type == UDP_CRYPTO_A_DEV_SA_COUNT)
                device.sa_count = u32(a).value_or(0);
            else if (type == UDP_CRYPTO_A_DEV_SA_MAX)
                device.sa_max = u32(a).value_or(0);
        });
        if (!device.name.empty())
            devices.push_back(std::move(device));
    });
    return devices;
}

// --- ethtool ------------------------------------------------------------------------------------

// An ETHTOOL_* request: the structure, with room for @items behind it.
template <typename Header> class EthtoolRequest {
  public:
    EthtoolRequest(std::uint32_t command, std::size_t items)
        : bytes_((sizeof(Header) + items + sizeof(std::uint64_t) - 1) / sizeof(std::uint64_t)) {
        header()->cmd = command;
    }
    Header *header() { return reinterpret_cast<Header *>(bytes_.data()); }

    bool run(int fd, const std::string &device) {
        ifreq request{};
        device.copy(request.ifr_name, IFNAMSIZ - 1);
        request.ifr_data = reinterpret_cast<char *>(bytes_.data());
        return ioctl(fd, SIOCETHTOOL, &request) == 0;
    }

  private:
    std::vector<std::uint64_t> bytes_; // aligned
};

// The driver's counters that are about QUIC.
Counters ethtool_counters(int fd, const std::string &device) {
    EthtoolRequest<ethtool_sset_info> info(ETHTOOL_GSSET_INFO, sizeof(std::uint32_t));
    info.header()->sset_mask = std::uint64_t{1} << ETH_SS_STATS;
    if (!info.run(fd, device) || info.header()->sset_mask == 0)
        return {};
    const std::uint32_t count = info.header()->data[0];

    EthtoolRequest<ethtool_gstrings> names(ETHTOOL_GSTRINGS, std::size_t{count} * ETH_GSTRING_LEN);
    names.header()->string_set = ETH_SS_STATS;
    names.header()->len = count;
    EthtoolRequest<ethtool_stats> values(ETHTOOL_GSTATS,
                                         std::size_t{count} * sizeof(std::uint64_t));
    values.header()->n_stats = count;
    // A count that has changed in between is written back.
    if (!names.run(fd, device) || !values.run(fd, device) || names.header()->len != count ||
        values.header()->n_stats != count)
        return {};

    Counters counters;
    for (std::uint32_t i = 0; i < count; ++i) {
        const auto *text =
            reinterpret_cast<const char *>(names.header()->data) + std::size_t{i} * ETH_GSTRING_LEN;
        const std::string name(text, strnlen(text, ETH_GSTRING_LEN));
        if (name.find("quic") != std::string::npos)
            counters[name] = values.header()->data[i];
    }
    return counters;
}

} // namespace

KernelView read_kernel_view() {
    KernelView view;
    view.counters = read_counters("/proc/net/udp_crypto_stat");
    if (view.counters.empty())
        return view;
    view.devices = list_devices();
    const int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return view;
    for (OffloadDevice &device : view.devices) {
        device.counters = ethtool_counters(fd, device.name);
        // Drivers that do not tell the family may have a counter.
        if (device.sa_count == 0)
            if (const auto found = device.counters.find("quic_sa_installed");
                found != device.counters.end())
                device.sa_count = static_cast<std::uint32_t>(found->second);
    }
    close(fd);
    return view;
}

} // namespace quic_server
