// SPDX-License-Identifier: GPL-2.0
//
// quic-wire-open: decrypts what a QUIC server put on the wire with OpenSSL, for what Wireshark 4.0
// cannot decrypt in QUIC (AES-128-CCM, version 2 as its draft numbers it). Prints what
// wire-decrypt.sh prints. One connection, QUIC versions 1 and 2, ciphers with SHA-256. The key log
// may have the secrets of others, too.
//
// usage: quic-wire-open CAPTURE KEY-LOG SERVER-PORT CIPHER
#include "capture.hpp"
#include "quic_reference.h"

#include <pcap/pcap.h>

#include <array>
#include <cinttypes>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <memory>
#include <optional>
#include <set>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

namespace {

using quic_capture::Bytes;
using quic_test::Cipher;
using quic_test::PacketKeys;

// RFC 9369, in which long header types have moved by one, and the number that its drafts had.
constexpr std::uint32_t kVersion2 = 0x6b3343cf;
constexpr std::uint32_t kVersion2Draft = 0x709a50c4;

// The length of the long header packet that @rest begins with, or nothing. @dcid_length: of its
// destination connection ID.
std::optional<std::size_t> long_packet_length(Bytes rest, std::size_t &dcid_length) {
    std::size_t at = 5;
    const auto skip = [&](std::size_t n) {
        if (n > rest.size() - at)
            return false;
        at += n;
        return true;
    };
    const auto varint = [&](std::size_t &value) {
        if (at >= rest.size())
            return false;
        const std::size_t length = std::size_t{1} << (rest[at] >> 6);
        if (length > rest.size() - at)
            return false;
        value = rest[at] & 0x3fU;
        for (std::size_t i = 1; i < length; ++i)
            value = value << 8 | rest[at + i];
        return skip(length);
    };
    if (rest.size() < 7)
        return std::nullopt;
    unsigned type = rest[0] >> 4 & 3U;
    const std::uint32_t version = std::uint32_t{rest[1]} << 24 | std::uint32_t{rest[2]} << 16 |
                                  std::uint32_t{rest[3]} << 8 | rest[4];
    if (version == kVersion2 || version == kVersion2Draft)
        type = (type + 3) & 3U;
    dcid_length = rest[at];
    if (type == 3 || !skip(1 + dcid_length) || at >= rest.size() ||
        !skip(1 + std::size_t{rest[at]}))
        return std::nullopt; // Retry, which stands alone, or cut off
    std::size_t length = 0;
    if (type == 0 && (!varint(length) || !skip(length))) // Initial: token
        return std::nullopt;
    if (!varint(length) || !skip(length))
        return std::nullopt;
    return at;
}

// The server's sending keys through all key updates (RFC 9001 section 6).
class ServerKeys {
  public:
    ServerKeys(Cipher cipher, quic_test::Bytes secret, std::string prefix)
        : cipher_(cipher), secret_(std::move(secret)), prefix_(std::move(prefix)),
          current_(quic_test::derive_keys(cipher_, secret_, prefix_)), next_(make_next()) {}

    std::optional<quic_test::Opened> open(Bytes packet, std::size_t pn_offset,
                                          std::uint64_t expected_pn) {
        if (auto opened = quic_test::unprotect(current_, packet, pn_offset, expected_pn))
            return opened;
        if (previous_)
            if (auto opened = quic_test::unprotect(*previous_, packet, pn_offset, expected_pn))
                return opened;
        auto opened = quic_test::unprotect(next_, packet, pn_offset, expected_pn);
        if (opened) {
            ++updates_;
            previous_ = std::move(current_);
            current_ = std::move(next_);
            next_ = make_next();
        }
        return opened;
    }
    std::uint64_t updates() const { return updates_; }

  private:
    PacketKeys make_next() {
        secret_ = quic_test::hkdf_expand_label(secret_, prefix_ + "ku", secret_.size());
        PacketKeys keys = quic_test::derive_keys(cipher_, secret_, prefix_);
        keys.hp = current_.hp; // never updated
        return keys;
    }

    Cipher cipher_;
    quic_test::Bytes secret_;
    std::string prefix_; // of the labels
    PacketKeys current_;
    PacketKeys next_;
    std::optional<PacketKeys> previous_;
    std::uint64_t updates_ = 0;
};

struct Findings {
    std::uint64_t one_rtt = 0;
    std::uint64_t decrypted = 0;
    std::uint64_t long_header = 0;
    std::uint64_t reused = 0;
    std::uint64_t first_undecrypted = 0;
};

class Reader {
  public:
    // @candidates: the keys are those that open a packet first.
    explicit Reader(std::vector<ServerKeys> candidates) : candidates_(std::move(candidates)) {}

    void datagram(Bytes rest, std::uint64_t frame) {
        while (!rest.empty() && rest[0] & 0x80) {
            ++findings_.long_header;
            const auto length = long_packet_length(rest, dcid_length_);
            if (!length)
                return;
            rest = rest.subspan(*length);
        }
        // Padding of the datagram. One zero says nothing: the fixed bit may be off (RFC 9287).
        if (std::all_of(rest.begin(), rest.end(), [](std::uint8_t byte) { return byte == 0; }))
            return;
        ++findings_.one_rtt;
        const std::size_t pn_offset = 1 + dcid_length_;
        std::optional<quic_test::Opened> opened;
        if (rest.size() >= pn_offset + 4 + 16)
            opened = open(rest, pn_offset);
        if (!opened) {
            if (findings_.first_undecrypted == 0)
                findings_.first_undecrypted = frame;
            return;
        }
        ++findings_.decrypted;
        findings_.reused += !numbers_.insert(opened->pn).second;
        expected_pn_ = std::max(expected_pn_, opened->pn + 1);
    }

    void print() const {
        std::printf("{\"one_rtt\":%" PRIu64 ",\"decrypted\":%" PRIu64 ",\"long_header\":%" PRIu64
                    ",\"reused_numbers\":%" PRIu64 ",\"key_phases\":%" PRIu64
                    ",\"malformed\":0,\"first_undecrypted\":%" PRIu64 "}\n",
                    findings_.one_rtt, findings_.decrypted, findings_.long_header, findings_.reused,
                    candidates_.front().updates(), findings_.first_undecrypted);
    }

  private:
    std::optional<quic_test::Opened> open(Bytes packet, std::size_t pn_offset) {
        for (ServerKeys &keys : candidates_) {
            if (auto opened = keys.open(packet, pn_offset, expected_pn_)) {
                if (candidates_.size() > 1)
                    candidates_ = {ServerKeys(keys)};
                return opened;
            }
        }
        return std::nullopt;
    }

    std::vector<ServerKeys> candidates_;
    std::size_t dcid_length_ = 0;
    std::uint64_t expected_pn_ = 0;
    std::set<std::uint64_t> numbers_;
    Findings findings_;
};

std::vector<quic_test::Bytes> read_secrets(const char *file) {
    std::vector<quic_test::Bytes> secrets;
    std::ifstream in(file);
    std::string line;
    while (std::getline(in, line)) {
        std::istringstream words(line);
        std::string label;
        std::string client_random;
        std::string secret;
        if (words >> label >> client_random >> secret && label == "SERVER_TRAFFIC_SECRET_0" &&
            secret.size() == 64)
            secrets.push_back(quic_test::from_hex(secret));
    }
    return secrets;
}

struct NamedCipher {
    const char *name; // as TLS names it
    Cipher cipher;
};
constexpr std::array kCiphers = {NamedCipher{"AES-128-GCM", Cipher::kAes128Gcm},
                                 NamedCipher{"CHACHA20-POLY1305", Cipher::kChaCha20Poly1305},
                                 NamedCipher{"AES-128-CCM", Cipher::kAes128Ccm}};

int fail(const std::string &what) {
    std::fprintf(stderr, "quic-wire-open: %s\n", what.c_str());
    return 1;
}

} // namespace

int main(int argc, char **argv) {
    std::optional<Cipher> cipher;
    if (argc == 5)
        for (const NamedCipher &known : kCiphers)
            if (std::string(argv[4]) == known.name)
                cipher = known.cipher;
    if (argc != 5 || !cipher) {
        std::fprintf(stderr, "usage: quic-wire-open CAPTURE KEY-LOG SERVER-PORT "
                             "AES-128-GCM|CHACHA20-POLY1305|AES-128-CCM\n");
        return 2;
    }
    const auto port = std::strtoul(argv[3], nullptr, 10);
    std::vector<ServerKeys> candidates;
    for (const quic_test::Bytes &secret : read_secrets(argv[2]))
        for (const char *prefix : {"quic ", "quicv2 "})
            candidates.emplace_back(*cipher, secret, prefix);
    if (candidates.empty())
        return fail(std::string(argv[2]) + ": no SERVER_TRAFFIC_SECRET_0 of 32 bytes");
    std::array<char, PCAP_ERRBUF_SIZE> error{};
    const std::unique_ptr<pcap_t, decltype(&pcap_close)> capture(
        pcap_open_offline(argv[1], error.data()), pcap_close);
    if (!capture)
        return fail(error.data());

    Reader reader(std::move(candidates));
    pcap_pkthdr *header = nullptr;
    const u_char *data = nullptr;
    int rc = 0;
    for (std::uint64_t frame = 1; (rc = pcap_next_ex(capture.get(), &header, &data)) == 1;
         ++frame) {
        quic_capture::UdpDatagram udp;
        const Bytes packet = quic_capture::strip_link_layer(pcap_datalink(capture.get()),
                                                            Bytes(data, header->caplen));
        if (quic_capture::parse_udp(packet, udp) == quic_capture::Parse::kUdp &&
            udp.source_port == port)
            reader.datagram(udp.payload, frame);
    }
    if (rc == PCAP_ERROR)
        return fail(pcap_geterr(capture.get()));
    reader.print();
    return 0;
}
