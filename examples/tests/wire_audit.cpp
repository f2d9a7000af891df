// SPDX-License-Identifier: GPL-2.0
//
// quic-wire-audit: looks for the content of a file, in plaintext, in what a QUIC server put on the
// wire. It knows nothing of keys and trusts nobody: any 31 bytes in a row of the file, anywhere in
// a datagram, are found.
//
// usage: quic-wire-audit --capture FILE.pcap --server-port N[-LAST] --content FILE
// Prints one JSON object. Exit status: 0 when it has looked at everything, whatever it found; 1
// when it could not look, 2 for wrong usage.
#include "capture.hpp"

#include <pcap/pcap.h>

#include <algorithm>
#include <array>
#include <cinttypes>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iterator>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

namespace {

using namespace quic_capture;

constexpr std::size_t kBlock = 16;

// All 16-byte blocks of the file at multiples of 16. A run of 31 bytes of the file holds one.
class ContentIndex {
  public:
    explicit ContentIndex(std::vector<std::uint8_t> content) : content_(std::move(content)) {
        const std::size_t blocks = content_.size() / kBlock;
        std::size_t slots = 1024;
        while (slots < 2 * blocks)
            slots *= 2;
        mask_ = slots - 1;
        slots_.assign(slots, 0);
        for (std::size_t block = 0; block < blocks; ++block) {
            std::size_t slot = slot_of(&content_[block * kBlock]);
            while (slots_[slot] != 0)
                slot = (slot + 1) & mask_;
            slots_[slot] = static_cast<std::uint32_t>(block + 1);
        }
    }

    // Where in @bytes the first block of the file begins.
    std::optional<std::size_t> find_in(Bytes bytes) const {
        for (std::size_t offset = 0; offset + kBlock <= bytes.size(); ++offset)
            if (has_block(&bytes[offset]))
                return offset;
        return std::nullopt;
    }

    // That the search works is tried before it is believed: pieces of the file at odd places, in a
    // datagram of other bytes, have to be found.
    bool finds_its_own_content() const {
        constexpr std::size_t kRun = 2 * kBlock - 1;
        if (content_.size() < 4096)
            return false;
        for (std::size_t start = 1; start + kRun <= content_.size();
             start += content_.size() / 97) {
            std::array<std::uint8_t, 1200> datagram{};
            std::copy_n(&content_[start], kRun, &datagram[311]);
            if (!find_in(datagram))
                return false;
        }
        return true;
    }

  private:
    static std::uint64_t load(const std::uint8_t *p) {
        std::uint64_t value = 0;
        std::memcpy(&value, p, sizeof(value));
        return value;
    }
    std::size_t slot_of(const std::uint8_t *p) const {
        return static_cast<std::size_t>(load(p) * 0x9e3779b97f4a7c15 >> 20) & mask_;
    }
    bool has_block(const std::uint8_t *p) const {
        for (std::size_t slot = slot_of(p); slots_[slot] != 0; slot = (slot + 1) & mask_)
            if (std::memcmp(&content_[(slots_[slot] - std::size_t{1}) * kBlock], p, kBlock) == 0)
                return true;
        return false;
    }

    std::vector<std::uint8_t> content_;
    std::vector<std::uint32_t> slots_; // block number plus one; 0: empty
    std::size_t mask_ = 0;
};

struct Findings {
    std::uint64_t from_server = 0; // datagrams
    std::uint64_t bytes_from_server = 0;
    std::uint64_t short_header = 0;
    std::uint64_t long_header = 0;
    std::uint64_t to_server = 0;
    std::uint64_t plaintext = 0;
    std::uint64_t first_plaintext_frame = 0;
    std::uint64_t fragments = 0;
    std::uint64_t without_df = 0;
    std::uint64_t truncated = 0;
    std::uint64_t largest = 0;
};

// The server's, both ends included.
struct PortRange {
    unsigned long first = 0;
    unsigned long last = 0;
    bool valid() const { return first > 0 && first <= last && last <= 65535; }
    bool has(std::uint16_t port) const { return port >= first && port <= last; }
};

void look_at(const UdpDatagram &udp, const PortRange &server, const ContentIndex &content,
             std::uint64_t frame, Findings &findings) {
    if (server.has(udp.destination_port))
        ++findings.to_server;
    if (!server.has(udp.source_port) || udp.payload.empty())
        return;
    ++findings.from_server;
    findings.bytes_from_server += udp.payload.size();
    findings.largest = std::max<std::uint64_t>(findings.largest, udp.payload.size());
    ++(udp.payload[0] & 0x80 ? findings.long_header : findings.short_header);
    findings.without_df += udp.may_fragment;
    findings.truncated += udp.truncated;
    if (content.find_in(udp.payload) && findings.plaintext++ == 0)
        findings.first_plaintext_frame = frame;
}

int fail(const std::string &what) {
    std::fprintf(stderr, "quic-wire-audit: %s\n", what.c_str());
    return 1;
}

int audit(const std::string &capture_file, const PortRange &server,
          const std::string &content_file) {
    std::ifstream in(content_file, std::ios::binary);
    if (!in)
        return fail(content_file + ": cannot be read");
    const ContentIndex content({std::istreambuf_iterator<char>(in), {}});
    if (!content.finds_its_own_content())
        return fail(content_file + ": too short or too uniform to be searched for");

    std::array<char, PCAP_ERRBUF_SIZE> error{};
    const std::unique_ptr<pcap_t, decltype(&pcap_close)> capture(
        pcap_open_offline(capture_file.c_str(), error.data()), pcap_close);
    if (!capture)
        return fail(error.data());

    Findings findings;
    pcap_pkthdr *header = nullptr;
    const u_char *data = nullptr;
    std::uint64_t frame = 0;
    int rc = 0;
    while ((rc = pcap_next_ex(capture.get(), &header, &data)) == 1) {
        ++frame;
        UdpDatagram udp;
        switch (parse_udp(strip_link_layer(pcap_datalink(capture.get()), {data, header->caplen}),
                          udp)) {
        case Parse::kUdp:
            look_at(udp, server, content, frame, findings);
            break;
        case Parse::kFragment:
            ++findings.fragments;
            break;
        case Parse::kOther:
            break;
        }
    }
    if (rc == PCAP_ERROR)
        return fail(capture_file + ": " + pcap_geterr(capture.get()));

    std::printf("{\"frames\":%" PRIu64 ",\"datagrams_from_server\":%" PRIu64
                ",\"bytes_from_server\":%" PRIu64 ",\"short_header_datagrams\":%" PRIu64
                ",\"long_header_datagrams\":%" PRIu64 ",\"datagrams_to_server\":%" PRIu64
                ",\"largest_datagram\":%" PRIu64 ",\"plaintext_datagrams\":%" PRIu64
                ",\"first_plaintext_frame\":%" PRIu64 ",\"ip_fragments\":%" PRIu64
                ",\"without_df\":%" PRIu64 ",\"truncated\":%" PRIu64 "}\n",
                frame, findings.from_server, findings.bytes_from_server, findings.short_header,
                findings.long_header, findings.to_server, findings.largest, findings.plaintext,
                findings.first_plaintext_frame, findings.fragments, findings.without_df,
                findings.truncated);
    return 0;
}

} // namespace

int main(int argc, char **argv) {
    std::string capture;
    std::string content;
    PortRange server;
    for (int i = 1; i + 1 < argc; i += 2) {
        const std::string option = argv[i];
        if (option == "--capture")
            capture = argv[i + 1];
        else if (option == "--content")
            content = argv[i + 1];
        else if (option == "--server-port") {
            char *rest = nullptr;
            server.first = server.last = std::strtoul(argv[i + 1], &rest, 10);
            if (*rest == '-')
                server.last = std::strtoul(rest + 1, &rest, 10);
            if (*rest != '\0')
                server = {};
        } else
            capture.clear();
    }
    if (capture.empty() || content.empty() || !server.valid()) {
        std::fprintf(
            stderr,
            "usage: quic-wire-audit --capture FILE --server-port N[-LAST] --content FILE\n");
        return 2;
    }
    return audit(capture, server, content);
}
