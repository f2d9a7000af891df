// SPDX-License-Identifier: GPL-2.0
//
// The user interface of linux/udp_crypto.h as a test uses it: security associations, control
// messages, and the ways to send. Functions return 0 or more, or -errno, so that a test compares.
#pragma once

#include <chrono>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include <netinet/in.h>
#include <netinet/udp.h>
#include <sys/socket.h>

#include "quic_reference.h"
#include "system.h"

namespace quic_test {

struct udp_quic_keys to_uapi(const PacketKeys &keys);
struct udp_crypto_req request(enum udp_crypto_op op, std::uint64_t cookie, std::uint32_t flags = 0);
struct udp_crypto_sa sa_request(std::uint64_t cookie, const PacketKeys &keys,
                                std::uint32_t flags = 0, std::uint64_t packet_limit = 0);

int set_state(int fd, const void *value, std::size_t length);
// @value in and out, @length in and out.
int get_state(int fd, void *value, socklen_t *length);

int add_sa(int fd, std::uint64_t cookie, const PacketKeys &keys, std::uint32_t flags = 0,
           std::uint64_t packet_limit = 0);
int del_sa(int fd, std::uint64_t cookie);
int get_sa(int fd, std::uint64_t cookie, struct udp_crypto_sa_info *info);
int get_caps(int fd, struct udp_crypto_caps *caps);
// The index, or throws.
std::uint32_t sa_index(int fd, std::uint64_t cookie);
std::uint32_t add_sa_index(int fd, std::uint64_t cookie, const PacketKeys &keys,
                           std::uint32_t flags = 0, std::uint64_t packet_limit = 0);

// Control messages of one send.
class Control {
  public:
    Control &add(int level, int type, const void *data, std::size_t length);
    Control &quic(std::uint64_t pn, std::uint32_t sa, std::size_t pn_offset,
                  std::uint16_t flags = 0);
    Control &quic_inline(std::uint64_t pn, const PacketKeys &keys, std::size_t pn_offset,
                         std::uint16_t flags = 0);
    Control &gso_size(std::uint16_t size);
    const Bytes &bytes() const { return bytes_; }
    Bytes &bytes() { return bytes_; }

  private:
    Bytes bytes_;
};

// An IPv4, IPv6 or v4-mapped address with port.
struct Address {
    sockaddr_storage storage{};
    socklen_t length = 0;

    static Address v4(const std::string &host, std::uint16_t port);
    static Address v6(const std::string &host, std::uint16_t port, unsigned scope = 0);
    static Address mapped(const std::string &v4_host, std::uint16_t port);
    static Address of_socket(int fd); // getsockname
    int family() const { return storage.ss_family; }
    std::uint16_t port() const;
    void set_port(std::uint16_t port);
    const sockaddr *get() const { return reinterpret_cast<const sockaddr *>(&storage); }
};

enum class Api { kSendmsg, kSendmmsg, kIoUring, kIoUringZeroCopy };
const char *name(Api api);

struct Message {
    const Address *to = nullptr; // none: connected socket
    std::vector<iovec> data;
    Control control;
    int flags = 0;
};

// Bytes that the kernel says it took, or -errno.
ssize_t send(int fd, const Message &message, Api api = Api::kSendmsg);
ssize_t send(int fd, ByteView data, const Control &control, const Address *to = nullptr,
             int flags = 0);

UniqueFd udp_socket(int family, int protocol = 0);
// One that belongs to @uid; of a thread that is root.
UniqueFd udp_socket_of_uid(int family, uid_t uid);
void bind_to(int fd, const Address &address);
void connect_to(int fd, const Address &address);
void set_option(int fd, int level, int option, int value);

// The next datagram, or nothing when patience ends.
std::optional<Bytes> receive(int fd, std::chrono::milliseconds patience = kPatience);

// Completions of MSG_ZEROCOPY.
struct ZeroCopyCompletion {
    std::uint32_t first = 0;
    std::uint32_t last = 0;
    std::uint8_t code = 0; // SO_EE_CODE_*
};
std::optional<ZeroCopyCompletion>
zerocopy_completion(int fd, std::chrono::milliseconds patience = kPatience);

// Packets of one send in the two forms of buffer.
Bytes join_packets(const std::vector<Bytes> &packets);
// With room after each packet, filled with @filler.
Bytes join_with_tag_room(const std::vector<Bytes> &packets, std::uint8_t filler = 0x5a);

} // namespace quic_test
