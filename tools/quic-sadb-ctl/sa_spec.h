// SPDX-License-Identifier: MIT
//
// Descriptions of SAs in files: "name=value" words, keys in hexadecimal.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include <linux/udp_crypto.h>

#include "error.h"
#include "secret.h"

namespace quic_sadb {

// Names as in RFC 9001 and the netlink specification; 0 for none of them.
std::uint16_t cipher_by_name(std::string_view name);
std::string cipher_name(std::uint32_t cipher);
// Bytes of the packet key and of the header protection key.
std::size_t key_length(std::uint16_t cipher);

// A number, or the name of a user. Nothing if it is neither.
std::optional<std::uint32_t> parse_uid(const std::string &text);

// An SA to be added. The keys are zeroed with it.
struct SaSpec {
    SaSpec() = default;
    SaSpec(const SaSpec &) = default;
    SaSpec &operator=(const SaSpec &) = default;
    ~SaSpec();

    std::span<const std::uint8_t> key_view() const { return {key.data(), key_length(cipher)}; }
    std::span<const std::uint8_t> hp_view() const { return {hp.data(), key_length(cipher)}; }

    std::uint16_t cipher = 0; // enum udp_quic_cipher
    std::uint32_t uid = 0;
    std::uint64_t packet_limit = 0; // 0: none
    std::array<std::uint8_t, UDP_QUIC_KEY_MAX> key{};
    std::array<std::uint8_t, UDP_QUIC_KEY_MAX> hp{};
    std::array<std::uint8_t, UDP_QUIC_IV_LEN> iv{};
};

// What the command line says, for SAs whose description does not.
struct SaDefaults {
    std::optional<std::uint16_t> cipher;
    std::optional<std::uint32_t> uid;
    std::optional<std::uint64_t> packet_limit;
};

// Reads a file, or standard input ("-"), whole. Throws Error (kBadFile) when it cannot be read or
// has more than @limit bytes.
SecretText read_secret_file(const std::string &path, std::size_t limit);

// @words: the words of one SA, separated by blanks, tabs, newlines; "#" begins a comment that goes
// to the end of the line. Throws Error (kBadFile) whose message does not begin with a place, nor
// contains any part of a key.
SaSpec parse_sa(std::string_view words, const SaDefaults &defaults);

// Calls @sa for each line of @text that describes an SA, with its number from 1. Throws Error
// (kBadFile) that begins with "NAME:LINE: ".
void for_each_sa(std::string_view text, const std::string &name, const SaDefaults &defaults,
                 const std::function<void(std::size_t line, const SaSpec &)> &sa);

} // namespace quic_sadb
