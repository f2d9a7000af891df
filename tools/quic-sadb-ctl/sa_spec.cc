// SPDX-License-Identifier: MIT
#include "sa_spec.h"

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cstring>

#include <fcntl.h>
#include <pwd.h>
#include <sys/stat.h>
#include <unistd.h>

namespace quic_sadb {

namespace {

struct CipherName {
    std::uint16_t cipher;
    std::string_view name;
    std::size_t key_length;
};

constexpr CipherName kCiphers[] = {
    {UDP_QUIC_CIPHER_AES_128_GCM, "aes-128-gcm", 16},
    {UDP_QUIC_CIPHER_AES_256_GCM, "aes-256-gcm", 32},
    {UDP_QUIC_CIPHER_CHACHA20_POLY1305, "chacha20-poly1305", 32},
    {UDP_QUIC_CIPHER_AES_128_CCM, "aes-128-ccm", 16},
};

[[noreturn]] void bad(const std::string &message) { throw Error(Exit::kBadFile, message); }

template <typename T> std::optional<T> parse_number(std::string_view text) {
    T value{};
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
    if (error != std::errc() || end != text.data() + text.size())
        return std::nullopt;
    return value;
}

int hex_digit(char c) {
    if (c >= '0' && c <= '9')
        return c - '0';
    if (c >= 'a' && c <= 'f')
        return c - 'a' + 10;
    if (c >= 'A' && c <= 'F')
        return c - 'A' + 10;
    return -1;
}

// Into the first bytes of @out; the length must be one of those that keys have.
std::size_t parse_hex(std::string_view name, std::string_view hex, std::span<std::uint8_t> out) {
    if (hex.size() % 2 != 0)
        bad(std::string(name) + " has an odd number of hexadecimal digits");
    if (hex.size() / 2 > out.size())
        bad(std::string(name) + " has " + std::to_string(hex.size() / 2) + " bytes, more than " +
            std::to_string(out.size()));
    for (std::size_t i = 0; i < hex.size() / 2; ++i) {
        const int high = hex_digit(hex[2 * i]);
        const int low = hex_digit(hex[2 * i + 1]);
        if (high < 0 || low < 0)
            bad(std::string(name) + " has something else than hexadecimal digits");
        out[i] = static_cast<std::uint8_t>(high << 4 | low);
    }
    return hex.size() / 2;
}

constexpr bool is_space(char c) {
    return c == ' ' || c == '\t' || c == '\n' || c == '\r' || c == '\v' || c == '\f';
}

// The next word of @text, which loses it; empty at the end.
std::string_view next_word(std::string_view &text) {
    for (;;) {
        while (!text.empty() && is_space(text.front()))
            text.remove_prefix(1);
        if (text.empty() || text.front() != '#')
            break;
        const std::size_t end = text.find('\n');
        text.remove_prefix(end == std::string_view::npos ? text.size() : end);
    }
    std::size_t length = 0;
    while (length < text.size() && !is_space(text[length]))
        ++length;
    const std::string_view word = text.substr(0, length);
    text.remove_prefix(length);
    return word;
}

} // namespace

std::uint16_t cipher_by_name(std::string_view name) {
    for (const CipherName &entry : kCiphers)
        if (entry.name == name)
            return entry.cipher;
    return 0;
}

std::string cipher_name(std::uint32_t cipher) {
    for (const CipherName &entry : kCiphers)
        if (entry.cipher == cipher)
            return std::string(entry.name);
    return "cipher-" + std::to_string(cipher);
}

std::size_t key_length(std::uint16_t cipher) {
    for (const CipherName &entry : kCiphers)
        if (entry.cipher == cipher)
            return entry.key_length;
    return 0;
}

std::optional<std::uint32_t> parse_uid(const std::string &text) {
    if (const auto number = parse_number<std::uint32_t>(text))
        return number;
    if (const passwd *user = ::getpwnam(text.c_str()))
        return user->pw_uid;
    return std::nullopt;
}

SaSpec::~SaSpec() {
    ::explicit_bzero(key.data(), key.size());
    ::explicit_bzero(hp.data(), hp.size());
    ::explicit_bzero(iv.data(), iv.size());
}

SecretText read_secret_file(const std::string &path, std::size_t limit) {
    const bool standard_input = path == "-";
    const std::string name = standard_input ? "standard input" : path;
    const int fd =
        standard_input ? STDIN_FILENO : ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOCTTY);
    if (fd < 0)
        bad(name + ": " + std::strerror(errno));
    SecretText text;
    struct stat status {};
    // A byte more than the file has, so that its end is seen without growing.
    const bool sized = ::fstat(fd, &status) == 0 && S_ISREG(status.st_mode) && status.st_size > 0;
    text.resize(sized ? std::min(static_cast<std::size_t>(status.st_size), limit) + 1 : 65536);
    std::size_t used = 0;
    std::string problem;
    for (;;) {
        const ssize_t n = ::read(fd, text.data() + used, text.size() - used);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            problem = std::strerror(errno);
        if (n <= 0)
            break;
        used += static_cast<std::size_t>(n);
        if (used > limit) {
            problem = "more than " + std::to_string(limit) + " bytes";
            break;
        }
        if (used == text.size())
            text.resize(std::min(2 * text.size(), limit + 1));
    }
    if (!standard_input)
        ::close(fd);
    if (!problem.empty())
        bad(name + ": " + problem);
    ::explicit_bzero(text.data() + used, text.size() - used);
    text.resize(used);
    return text;
}

SaSpec parse_sa(std::string_view words, const SaDefaults &defaults) {
    SaSpec sa;
    bool has_cipher = false;
    bool has_uid = false;
    bool has_limit = false;
    std::optional<std::size_t> key_size;
    std::optional<std::size_t> hp_size;
    std::optional<std::size_t> iv_size;

    for (std::string_view word = next_word(words); !word.empty(); word = next_word(words)) {
        const std::size_t equals = word.find('=');
        const std::string_view name = word.substr(0, std::min(equals, word.size()));
        const std::string_view value =
            equals == std::string_view::npos ? std::string_view() : word.substr(equals + 1);
        const auto once = [name](bool there) {
            if (there)
                bad(std::string(name) + " is there twice");
        };
        // A word without "=", or with a wrong name, may be a key that slipped: it is not repeated.
        if (equals == std::string_view::npos)
            bad("not all words have the form NAME=VALUE");
        if (name == "key") {
            once(key_size.has_value());
            key_size = parse_hex(name, value, sa.key);
        } else if (name == "hp") {
            once(hp_size.has_value());
            hp_size = parse_hex(name, value, sa.hp);
        } else if (name == "iv") {
            once(iv_size.has_value());
            iv_size = parse_hex(name, value, sa.iv);
        } else if (name == "cipher") {
            once(has_cipher);
            has_cipher = true;
            sa.cipher = cipher_by_name(value);
            if (sa.cipher == 0)
                bad("unknown cipher (aes-128-gcm, aes-256-gcm, chacha20-poly1305, aes-128-ccm)");
        } else if (name == "uid") {
            once(has_uid);
            has_uid = true;
            const auto uid = parse_uid(std::string(value));
            if (!uid)
                bad("uid is no number and no user's name");
            sa.uid = *uid;
        } else if (name == "packet-limit") {
            once(has_limit);
            has_limit = true;
            const auto limit = parse_number<std::uint64_t>(value);
            if (!limit)
                bad("packet-limit is no number");
            sa.packet_limit = *limit;
        } else {
            bad("a name is none of cipher, key, iv, hp, uid, packet-limit");
        }
    }

    if (!has_cipher && !defaults.cipher)
        bad("cipher is missing");
    if (!has_cipher)
        sa.cipher = *defaults.cipher;
    else if (defaults.cipher && *defaults.cipher != sa.cipher)
        bad("cipher is not that of --cipher");
    if (!has_uid && !defaults.uid)
        bad("uid is missing");
    if (!has_uid)
        sa.uid = *defaults.uid;
    else if (defaults.uid && *defaults.uid != sa.uid)
        bad("uid is not that of --uid");
    if (!has_limit)
        sa.packet_limit = defaults.packet_limit.value_or(0);

    const std::size_t length = key_length(sa.cipher);
    const auto check = [&sa](const char *name, std::optional<std::size_t> size,
                             std::size_t wanted) {
        if (!size)
            bad(std::string(name) + " is missing");
        if (*size != wanted)
            bad(std::string(name) + " has " + std::to_string(*size) + " bytes; " +
                cipher_name(sa.cipher) + " takes " + std::to_string(wanted));
    };
    check("key", key_size, length);
    check("iv", iv_size, sa.iv.size());
    check("hp", hp_size, length);
    return sa;
}

void for_each_sa(std::string_view text, const std::string &name, const SaDefaults &defaults,
                 const std::function<void(std::size_t line, const SaSpec &)> &sa) {
    for (std::size_t number = 1; !text.empty(); ++number) {
        const std::size_t end = std::min(text.find('\n'), text.size());
        const std::string_view line = text.substr(0, end);
        text.remove_prefix(std::min(end + 1, text.size()));
        std::string_view rest = line;
        if (next_word(rest).empty())
            continue;
        try {
            sa(number, parse_sa(line, defaults));
        } catch (const Error &error) {
            if (error.exit() != Exit::kBadFile)
                throw;
            bad(name + ":" + std::to_string(number) + ": " + error.what());
        }
    }
}

} // namespace quic_sadb
