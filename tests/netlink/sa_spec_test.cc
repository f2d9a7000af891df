// SPDX-License-Identifier: GPL-2.0
//
// Files of keys as quic-sadb-ctl reads them: what is taken, and what is refused with which words.
#include <cstdio>
#include <fstream>
#include <random>
#include <string>
#include <vector>

#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include "quic_reference.h"
#include "sa_spec.h"

namespace {

using namespace quic_sadb;

const std::string kKey16 = "1f369613dd76d5467730efcbe3b1a22d";
const std::string kHp16 = "9f50449e04a0e810283a1e9933adedd2";
const std::string kIv = "fa044b2f42a3fd3b46fb255c";
const std::string kKeys = "key=" + kKey16 + " iv=" + kIv + " hp=" + kHp16;
const std::string kWhole = "cipher=aes-128-gcm uid=1000 " + kKeys;

std::string hex(std::span<const std::uint8_t> bytes) { return quic_test::to_hex(bytes); }

// What parse_sa() says of @text; empty if it takes it.
std::string complaint(const std::string &text, const SaDefaults &defaults = {}) {
    try {
        parse_sa(text, defaults);
        return "";
    } catch (const Error &error) {
        EXPECT_EQ(error.exit(), Exit::kBadFile);
        const std::string what = error.what();
        EXPECT_EQ(what.find(kKey16.substr(0, 6)), std::string::npos) << "a key in: " << what;
        return what.empty() ? "(nothing)" : what;
    }
}

TEST(SaSpec, OneLine) {
    const SaSpec sa = parse_sa(kWhole, {});
    EXPECT_EQ(sa.cipher, UDP_QUIC_CIPHER_AES_128_GCM);
    EXPECT_EQ(sa.uid, 1000U);
    EXPECT_EQ(sa.packet_limit, 0U);
    EXPECT_EQ(hex(sa.key_view()), kKey16);
    EXPECT_EQ(hex(sa.hp_view()), kHp16);
    EXPECT_EQ(hex(sa.iv), kIv);
}

TEST(SaSpec, ManyLinesCommentsAndAnyOrder) {
    const std::string text =
        "# keys of the client\n\n\thp=" + kHp16 + " # 16 bytes\r\nuid=0\n" +
        "key=1F369613DD76D5467730EFCBE3B1A22D\npacket-limit=8388608\niv=" + kIv +
        "\ncipher=aes-128-ccm";
    const SaSpec sa = parse_sa(text, {});
    EXPECT_EQ(sa.cipher, UDP_QUIC_CIPHER_AES_128_CCM);
    EXPECT_EQ(sa.uid, 0U);
    EXPECT_EQ(sa.packet_limit, 8388608U);
    EXPECT_EQ(hex(sa.key_view()), kKey16);
}

TEST(SaSpec, EveryCipherWithItsKeyLength) {
    for (const quic_test::Cipher cipher : quic_test::kAllCiphers) {
        const auto keys = quic_test::keys_of_seed(cipher, 7);
        const std::string name = cipher_name(static_cast<std::uint32_t>(cipher));
        EXPECT_EQ(cipher_by_name(name), static_cast<std::uint16_t>(cipher));
        const SaSpec sa = parse_sa("cipher=" + name + " uid=1 key=" + hex(keys.key) +
                                       " iv=" + hex(keys.iv) + " hp=" + hex(keys.hp),
                                   {});
        EXPECT_EQ(hex(sa.key_view()), hex(keys.key));
        EXPECT_EQ(hex(sa.hp_view()), hex(keys.hp));
    }
}

TEST(SaSpec, DefaultsOfTheCommandLine) {
    const SaDefaults defaults{UDP_QUIC_CIPHER_AES_128_GCM, 33, 5};
    const SaSpec sa = parse_sa(kKeys, defaults);
    EXPECT_EQ(sa.cipher, UDP_QUIC_CIPHER_AES_128_GCM);
    EXPECT_EQ(sa.uid, 33U);
    EXPECT_EQ(sa.packet_limit, 5U);
    EXPECT_EQ(parse_sa(kKeys + " packet-limit=7", defaults).packet_limit, 7U);
    EXPECT_EQ(complaint(kKeys + " uid=34", defaults), "uid is not that of --uid");
    EXPECT_EQ(complaint(kKeys + " cipher=aes-128-ccm", defaults), "cipher is not that of --cipher");
    EXPECT_EQ(complaint(kKeys + " uid=33 cipher=aes-128-gcm", defaults), "");
}

TEST(SaSpec, WhatIsMissing) {
    EXPECT_EQ(complaint(""), "cipher is missing");
    EXPECT_EQ(complaint("# nothing"), "cipher is missing");
    EXPECT_EQ(complaint(kKeys), "cipher is missing");
    EXPECT_EQ(complaint("cipher=aes-128-gcm " + kKeys), "uid is missing");
    const std::string start = "cipher=aes-128-gcm uid=1 ";
    EXPECT_EQ(complaint(start + "iv=" + kIv + " hp=" + kHp16), "key is missing");
    EXPECT_EQ(complaint(start + "key=" + kKey16 + " hp=" + kHp16), "iv is missing");
    EXPECT_EQ(complaint(start + "key=" + kKey16 + " iv=" + kIv), "hp is missing");
}

TEST(SaSpec, WhatIsWrong) {
    const std::string start = "cipher=aes-128-gcm uid=1 ";
    const auto keys = [](const std::string &key, const std::string &iv, const std::string &hp) {
        return "key=" + key + " iv=" + iv + " hp=" + hp;
    };
    EXPECT_EQ(complaint(kWhole + " " + kKey16), "not all words have the form NAME=VALUE");
    EXPECT_EQ(complaint(kWhole + " " + kKey16 + "=1"),
              "a name is none of cipher, key, iv, hp, uid, packet-limit");
    EXPECT_EQ(complaint(kWhole + " uid=1000"), "uid is there twice");
    EXPECT_EQ(complaint(kWhole + " key=" + kKey16), "key is there twice");
    EXPECT_EQ(complaint("cipher=aes-192-gcm uid=1 " + kKeys),
              "unknown cipher (aes-128-gcm, aes-256-gcm, chacha20-poly1305, aes-128-ccm)");
    EXPECT_EQ(complaint("cipher=aes-128-gcm uid=-1 " + kKeys),
              "uid is no number and no user's name");
    EXPECT_EQ(complaint("cipher=aes-128-gcm uid=4294967296 " + kKeys),
              "uid is no number and no user's name");
    EXPECT_EQ(complaint("cipher=aes-128-gcm uid=no-such-user-here " + kKeys),
              "uid is no number and no user's name");
    EXPECT_EQ(complaint(kWhole + " packet-limit=1k"), "packet-limit is no number");
    EXPECT_EQ(complaint(kWhole + " packet-limit=18446744073709551616"),
              "packet-limit is no number");
    EXPECT_EQ(complaint(start + keys(kKey16 + "0", kIv, kHp16)),
              "key has an odd number of hexadecimal digits");
    EXPECT_EQ(complaint(start + keys(kKey16 + "zz", kIv, kHp16)),
              "key has something else than hexadecimal digits");
    EXPECT_EQ(complaint(start + keys("0x" + kKey16, kIv, kHp16)),
              "key has something else than hexadecimal digits");
    EXPECT_EQ(complaint(start + keys(kKey16 + "00", kIv, kHp16)),
              "key has 17 bytes; aes-128-gcm takes 16");
    EXPECT_EQ(complaint(start + keys("", kIv, kHp16)), "key has 0 bytes; aes-128-gcm takes 16");
    EXPECT_EQ(complaint(start + keys(kKey16 + kKey16 + "00", kIv, kHp16)),
              "key has 33 bytes, more than 32");
    EXPECT_EQ(complaint(start + keys(kKey16, kIv + "00", kHp16)), "iv has 13 bytes, more than 12");
    EXPECT_EQ(complaint(start + keys(kKey16, kIv.substr(2), kHp16)),
              "iv has 11 bytes; aes-128-gcm takes 12");
    EXPECT_EQ(complaint(start + keys(kKey16, kIv, kHp16.substr(2))),
              "hp has 15 bytes; aes-128-gcm takes 16");
    EXPECT_EQ(complaint("cipher=aes-256-gcm uid=1 " + kKeys),
              "key has 16 bytes; aes-256-gcm takes 32");
    EXPECT_EQ(complaint(std::string("cipher=aes-128-gcm\0uid=1 ", 25) + kKeys),
              "unknown cipher (aes-128-gcm, aes-256-gcm, chacha20-poly1305, aes-128-ccm)");
}

TEST(Batch, LinesAndTheirNumbers) {
    const std::string text = "# a comment\n\n" + kWhole + "\n   \n" + kWhole + " # the last";
    std::vector<std::size_t> lines;
    for_each_sa(text, "file", {}, [&](std::size_t line, const SaSpec &sa) {
        lines.push_back(line);
        EXPECT_EQ(sa.uid, 1000U);
    });
    EXPECT_EQ(lines, (std::vector<std::size_t>{3, 5}));
}

TEST(Batch, ABadLineIsNamed) {
    const std::string text = kWhole + "\nuid=1\n" + kWhole;
    try {
        for_each_sa(text, "file", {}, [](std::size_t, const SaSpec &) {});
        FAIL() << "taken";
    } catch (const Error &error) {
        EXPECT_EQ(error.exit(), Exit::kBadFile);
        EXPECT_STREQ(error.what(), "file:2: cipher is missing");
    }
}

TEST(Batch, NothingButComments) {
    for_each_sa("#\n\n  # x", "file", {}, [](std::size_t, const SaSpec &) { FAIL(); });
    for_each_sa("", "file", {}, [](std::size_t, const SaSpec &) { FAIL(); });
}

class File {
  public:
    explicit File(const std::string &content) : path_(testing::TempDir() + "quic-sadb-XXXXXX") {
        const int fd = ::mkstemp(path_.data());
        EXPECT_GE(fd, 0);
        EXPECT_EQ(::write(fd, content.data(), content.size()),
                  static_cast<ssize_t>(content.size()));
        ::close(fd);
    }
    ~File() { ::unlink(path_.c_str()); }
    File(const File &) = delete;
    File &operator=(const File &) = delete;
    const std::string &path() const { return path_; }

  private:
    std::string path_;
};

TEST(ReadFile, WholeFilesOfAnySize) {
    for (const std::size_t size : {0, 1, 4095, 4096, 65535, 65536, 65537, 300000}) {
        const std::string content(size, 'x');
        const File file(content);
        const SecretText text = read_secret_file(file.path(), 300000);
        EXPECT_EQ(std::string(text.begin(), text.end()), content) << size;
    }
}

TEST(ReadFile, Refused) {
    const File file(std::string(1001, 'x'));
    EXPECT_THROW(read_secret_file(file.path(), 1000), Error);
    EXPECT_EQ(read_secret_file(file.path(), 1001).size(), 1001U);
    EXPECT_THROW(read_secret_file("/nonexistent/keys", 1000), Error);
    EXPECT_THROW(read_secret_file("/", 1000), Error);
    EXPECT_THROW(read_secret_file("/dev/zero", 100000), Error);
}

// Whatever is in a file, it is taken whole or refused with a word; the seed is fixed.
TEST(Fuzz, AnyBytes) {
    std::mt19937 random(20261122);
    const auto at_most = [&random](std::size_t n) {
        return std::uniform_int_distribution<std::size_t>(0, n)(random);
    };
    unsigned taken = 0;
    for (int i = 0; i < 20000; ++i) {
        std::string text = kWhole;
        for (std::size_t changes = at_most(4); changes > 0; --changes) {
            const std::size_t at = at_most(text.size() - 1);
            switch (at_most(3)) {
            case 0:
                text[at] = static_cast<char>(at_most(255));
                break;
            case 1:
                text.erase(at, 1 + at_most(20));
                break;
            case 2:
                text.insert(at, 1, static_cast<char>(at_most(255)));
                break;
            default:
                text.insert(at, text.substr(at_most(text.size() - 1), at_most(40)));
                break;
            }
            if (text.empty())
                text = "x";
        }
        try {
            const SaSpec sa = parse_sa(text, {});
            EXPECT_NE(key_length(sa.cipher), 0U);
            ++taken;
        } catch (const Error &error) {
            EXPECT_EQ(error.exit(), Exit::kBadFile);
        }
    }
    EXPECT_GT(taken, 1000U);
}

} // namespace
