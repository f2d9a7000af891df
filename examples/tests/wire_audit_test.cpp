// SPDX-License-Identifier: GPL-2.0
//
// quic-wire-audit has to find plaintext where there is some: captures made for it, with known
// content. usage: wire-audit-test AUDITOR
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>
#include <pcap/pcap.h>

#include <array>
#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <random>
#include <string>
#include <vector>

#include <sys/wait.h>
#include <unistd.h>

namespace {

using Bytes = std::vector<std::uint8_t>;

std::string auditor;
constexpr std::uint16_t kServerPort = 4433;

void append_be16(Bytes &bytes, std::size_t value) {
    bytes.push_back(static_cast<std::uint8_t>(value >> 8));
    bytes.push_back(static_cast<std::uint8_t>(value));
}

enum class Network { kIpv4, kIpv6, kVlan, kIpv4Fragment, kIpv4NoDf };

Bytes make_frame(Network network, std::uint16_t source_port, const Bytes &payload) {
    Bytes frame(12, 0x02); // MAC addresses
    if (network == Network::kVlan) {
        append_be16(frame, 0x8100);
        append_be16(frame, 7);
    }
    append_be16(frame, network == Network::kIpv6 ? 0x86dd : 0x0800);
    const std::size_t udp_length = 8 + payload.size();
    if (network == Network::kIpv6) {
        frame.insert(frame.end(), {0x60, 0, 0, 0});
        append_be16(frame, udp_length);
        frame.insert(frame.end(), {17, 64});
        frame.resize(frame.size() + 32, 1);
    } else {
        frame.insert(frame.end(), {0x45, 0});
        append_be16(frame, 20 + udp_length);
        append_be16(frame, 1);
        append_be16(frame, network == Network::kIpv4Fragment ? 0x2000
                           : network == Network::kIpv4NoDf   ? 0
                                                             : 0x4000);
        frame.insert(frame.end(), {64, 17, 0, 0, 10, 0, 2, 15, 10, 0, 2, 2});
    }
    append_be16(frame, source_port);
    append_be16(frame, 50000);
    append_be16(frame, udp_length);
    append_be16(frame, 0);
    frame.insert(frame.end(), payload.begin(), payload.end());
    return frame;
}

class WireAudit : public testing::Test {
  protected:
    void SetUp() override {
        folder_ = std::filesystem::temp_directory_path() / ("audit." + std::to_string(getpid()));
        std::filesystem::create_directories(folder_);
        for (std::size_t i = 0; i < 100'000; ++i)
            content_.push_back(static_cast<std::uint8_t>(random_()));
        write_file("content", content_);
    }
    void TearDown() override { std::filesystem::remove_all(folder_); }

    void write_file(const char *name, const Bytes &bytes) const {
        std::ofstream(folder_ / name, std::ios::binary)
            .write(reinterpret_cast<const char *>(bytes.data()),
                   static_cast<std::streamsize>(bytes.size()));
    }

    // As a short header packet whose bytes are noise, but for @length bytes of the file at @at.
    Bytes noise_with(std::size_t from, std::size_t length, std::size_t at) {
        Bytes payload(1200);
        for (auto &byte : payload)
            byte = static_cast<std::uint8_t>(random_());
        payload[0] &= 0x7f;
        std::copy_n(content_.begin() + static_cast<std::ptrdiff_t>(from), length,
                    payload.begin() + static_cast<std::ptrdiff_t>(at));
        return payload;
    }

    nlohmann::json audit(const std::vector<Bytes> &frames) const {
        const auto capture = (folder_ / "wire.pcap").string();
        pcap_t *dead = pcap_open_dead(DLT_EN10MB, 65535);
        pcap_dumper_t *out = pcap_dump_open(dead, capture.c_str());
        for (const Bytes &frame : frames) {
            pcap_pkthdr header{};
            header.caplen = header.len = static_cast<bpf_u_int32>(frame.size());
            pcap_dump(reinterpret_cast<u_char *>(out), &header, frame.data());
        }
        pcap_dump_close(out);
        pcap_close(dead);
        return nlohmann::json::parse(run("--capture " + capture + " --server-port 4433 --content " +
                                         (folder_ / "content").string()));
    }

    static std::string run(const std::string &arguments, int *status = nullptr) {
        std::FILE *pipe = popen((auditor + ' ' + arguments).c_str(), "r");
        std::string text;
        std::array<char, 4096> buffer{};
        while (const std::size_t n = std::fread(buffer.data(), 1, buffer.size(), pipe))
            text.append(buffer.data(), n);
        const int rc = pclose(pipe);
        if (status)
            *status = WEXITSTATUS(rc);
        return text;
    }

    std::mt19937 random_{7};
    std::filesystem::path folder_;
    Bytes content_;
};

TEST_F(WireAudit, NoiseIsNotPlaintext) {
    std::vector<Bytes> frames;
    for (int i = 0; i < 200; ++i)
        frames.push_back(make_frame(Network::kIpv4, kServerPort, noise_with(0, 0, 0)));
    const auto found = audit(frames);
    EXPECT_EQ(found["datagrams_from_server"], 200);
    EXPECT_EQ(found["short_header_datagrams"], 200);
    EXPECT_EQ(found["plaintext_datagrams"], 0);
}

TEST_F(WireAudit, ThirtyOneBytesAreFoundWhereverTheyAre) {
    std::vector<Bytes> frames;
    for (std::size_t from = 1000; from < 1032; ++from)
        for (const std::size_t at : {std::size_t{1}, std::size_t{17}, std::size_t{1200 - 31}})
            frames.push_back(make_frame(Network::kIpv4, kServerPort, noise_with(from, 31, at)));
    EXPECT_EQ(audit(frames)["plaintext_datagrams"], 32 * 3);
}

TEST_F(WireAudit, EveryNetworkLayerIsLookedInto) {
    const auto found =
        audit({make_frame(Network::kIpv4, kServerPort, noise_with(0, 0, 0)),
               make_frame(Network::kIpv6, kServerPort, noise_with(5, 31, 100)),
               make_frame(Network::kVlan, kServerPort, noise_with(50'001, 900, 100))});
    EXPECT_EQ(found["datagrams_from_server"], 3);
    EXPECT_EQ(found["plaintext_datagrams"], 2);
    EXPECT_EQ(found["first_plaintext_frame"], 2);
}

TEST_F(WireAudit, WhatTheClientSendsDoesNotCount) {
    const auto found = audit({make_frame(Network::kIpv4, 50001, noise_with(5, 31, 100))});
    EXPECT_EQ(found["datagrams_from_server"], 0);
    EXPECT_EQ(found["plaintext_datagrams"], 0);
}

TEST_F(WireAudit, FragmentsAndMissingDfAreCounted) {
    const auto found = audit({make_frame(Network::kIpv4Fragment, kServerPort, noise_with(0, 0, 0)),
                              make_frame(Network::kIpv4NoDf, kServerPort, noise_with(0, 0, 0))});
    EXPECT_EQ(found["ip_fragments"], 1);
    EXPECT_EQ(found["without_df"], 1);
}

TEST_F(WireAudit, HostileFramesDoNoHarm) {
    std::vector<Bytes> frames;
    const Bytes whole = make_frame(Network::kIpv4, kServerPort, noise_with(0, 1100, 50));
    for (std::size_t length = 0; length < 60; ++length)
        frames.emplace_back(whole.begin(), whole.begin() + static_cast<std::ptrdiff_t>(length));
    frames.push_back(make_frame(Network::kIpv4, kServerPort, {}));
    EXPECT_EQ(audit(frames)["frames"], 61);
}

TEST_F(WireAudit, ContentThatCannotBeSearchedForIsRefused) {
    write_file("content", Bytes(100, 1));
    int status = 0;
    write_file("empty.pcap", {});
    run("--capture " + (folder_ / "empty.pcap").string() + " --server-port 4433 --content " +
            (folder_ / "content").string() + " 2>/dev/null",
        &status);
    EXPECT_EQ(status, 1);
    run("--capture x 2>/dev/null", &status);
    EXPECT_EQ(status, 2);
}

} // namespace

int main(int argc, char **argv) {
    testing::InitGoogleTest(&argc, argv);
    if (argc != 2) {
        std::fprintf(stderr, "usage: wire-audit-test AUDITOR\n");
        return 2;
    }
    auditor = argv[1];
    return RUN_ALL_TESTS();
}
