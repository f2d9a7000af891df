// SPDX-License-Identifier: GPL-2.0
//
// Requests to the netlink family udp_crypto, or to another, byte by byte, with none of
// quic-sadb-ctl's care.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include <linux/udp_crypto.h>

#include "quic_reference.h"
#include "system.h"

namespace quic_test {

struct Attribute {
    std::uint16_t type;
    Bytes value;

    static Attribute u32(std::uint16_t type, std::uint32_t value);
    static Attribute u64(std::uint16_t type, std::uint64_t value);
};

// The attributes of an SA to be added.
std::vector<Attribute> sa_attributes(const PacketKeys &keys, std::uint32_t uid);
// The same without those of @type, or with another value there.
std::vector<Attribute> without(std::vector<Attribute> attributes, std::uint16_t type);
std::vector<Attribute> with(std::vector<Attribute> attributes, const Attribute &other);

struct Answer {
    int error = 0;                        // errno value, positive; 0: acknowledged or answered
    std::string message;                  // of the extended acknowledgment
    std::optional<std::uint32_t> missing; // type of the attribute that is
    std::optional<std::uint16_t> bad;     // type of the attribute at fault
    Bytes echo;                           // what came back of the request, behind its header
    std::vector<Bytes> messages;          // each with its netlink header
    bool interrupted = false;             // a dump that met changes
};

// The value of an attribute in a message of the family, or nothing.
std::optional<Bytes> find_attribute(const Bytes &message, std::uint16_t type);
std::optional<std::uint64_t> find_number(const Bytes &message, std::uint16_t type);

class RawNetlink {
  public:
    explicit RawNetlink(const std::string &family = UDP_CRYPTO_FAMILY_NAME);

    std::uint16_t family() const { return family_; }
    std::uint32_t group() const { return group_; }
    int fd() const { return fd_.get(); }

    Bytes build(std::uint8_t command, const std::vector<Attribute> &attributes,
                std::uint16_t flags = 0);
    // 0 or -errno.
    int send(const Bytes &message);
    // One datagram, or nothing when none is there.
    std::optional<Bytes> receive(bool wait);
    Answer request(std::uint8_t command, const std::vector<Attribute> &attributes = {},
                   std::uint16_t flags = 0);
    // Takes answers until the one that ends the exchange.
    Answer answer(const Bytes &request);
    int join();

  private:
    UniqueFd fd_;
    std::uint16_t family_ = 0;
    std::uint32_t group_ = 0;
    std::uint32_t sequence_ = 1;
};

} // namespace quic_test
