// SPDX-License-Identifier: GPL-2.0
//
// Keys that a driver gave are nowhere in the device's memory once they have served, whichever way a
// command or a WQE ended: all of this process is searched, freed memory and dead stack too.
#include "mini_driver.h"
#include "packets.h"

#include <core.h>
#include <gtest/gtest.h>

#include <cinttypes>
#include <fstream>

#include <fcntl.h>
#include <unistd.h>

namespace connectx::test {
namespace {

constexpr std::size_t kSize = 16;
/// The complement of the key, so that what these tests have of it is not found.
constexpr std::array<std::uint8_t, kSize> kInverted{0x13, 0xa7, 0x5e, 0xc1, 0x88, 0x32, 0xf6, 0x09,
                                                    0x4d, 0xb0, 0x7b, 0xe5, 0x21, 0x9c, 0x64, 0xd8};

void put_key(std::uint8_t *to) {
    for (std::size_t i = 0; i < kSize; ++i)
        to[i] = static_cast<std::uint8_t>(~kInverted[i]);
}

class Secrets : public testing::Test {
  protected:
    void SetUp() override {
        d.open();
        cq = d.create_cq(6);
        sq = d.create_sq(cq, 6);
        ASSERT_NE(window_, MAP_FAILED);
    }
    void TearDown() override { munmap(window_, kWindow); }

    /// How often the key is in writable memory, guest memory aside.
    unsigned copies() {
        // As the kernel has it: no sanitizer has a say in what may be read.
        const int mem = open("/proc/self/mem", O_RDONLY);
        std::ifstream maps("/proc/self/maps");
        unsigned found = 0;
        for (std::string line; std::getline(maps, line);) {
            std::uint64_t from = 0;
            std::uint64_t to = 0;
            std::array<char, 5> access{};
            if (std::sscanf(line.c_str(), "%" SCNx64 "-%" SCNx64 " %4s", &from, &to,
                            access.data()) != 3 ||
                access[1] != 'w' || to - from > 512U << 20 || holds(from, to, window_) ||
                holds(from, to, d.host.at(FakeHost::kBase)))
                continue;
            for (std::uint64_t at = from; at < to; at += kWindow - kSize)
                found += copies_at(mem, at, std::min<std::uint64_t>(kWindow, to - at));
        }
        close(mem);
        return found;
    }

    /// The descriptor and mailboxes of a CREATE for an SA; the key gets into what the device reads
    /// of them, and nowhere else.
    Reply create(const std::function<void(Message &)> &change = {},
                 const MiniDriver::Mangle &mangle = {}, std::size_t out_size = 16) {
        auto in = REQUEST(create_quic_sa, CREATE_GENERAL_OBJECT);
        IFC_SET(general_obj_in_cmd_hdr, Bytes(in), obj_type, MLX5_GENERAL_OBJECT_TYPES_QUIC_SA);
        const Bytes obj = IFC_AT(create_quic_sa_in, Bytes(in), quic_sa_object);
        IFC_SET(quic_sa_obj, obj, cipher, MLX5_QUIC_CIPHER_AES_128_GCM);
        IFC_SET(quic_sa_obj, obj, pd, d.pd);
        constexpr std::size_t kKey =
            IFC_BYTE_OFF(create_quic_sa_in, quic_sa_object) + IFC_BYTE_OFF(quic_sa_obj, key) - 16;
        if (change)
            change(in);
        bool first = true;
        d.host.on_dma_read = [&](std::span<std::uint8_t> dst) {
            if (dst.size() == sizeof(mlx5_cmd_prot_block) && std::exchange(first, false)) {
                put_key(dst.data() + kKey);
                ++given;
            }
        };
        const Reply r = d.command(in, out_size, mangle);
        d.host.on_dma_read = nullptr;
        return r;
    }
    void fault(const std::string &spec) {
        std::string error;
        EXPECT_TRUE(d.dev.inject_fault(spec, error)) << error;
    }

    /// A WQE with its keys inline, and the key in its place in the ring.
    void post_inline(std::size_t quic_at, bool blueflame) {
        const std::uint16_t first = sq.pc;
        Message segments = d.eth_segments({}, {});
        segments.resize(quic_at - 16);
        Message quic(sizeof(mlx5_wqe_quic_seg) + sizeof(mlx5_wqe_quic_keys_seg));
        store_be<std::uint64_t>(quic.data(), 1ULL << 62 | 5);
        store_be<std::uint32_t>(quic.data() + 8, 9U << 21);
        quic[16] = MLX5_QUIC_CIPHER_AES_128_GCM;
        segments.insert(segments.end(), quic.begin(), quic.end());
        const Message data = d.eth_segments({}, {make_frame({}, pattern(100))});
        segments.insert(segments.end(), data.begin() + 16, data.end());
        d.post(sq, static_cast<unsigned>(MLX5_OPC_MOD_QUIC) << 24 | MLX5_OPCODE_SEND, segments,
               true, false);
        put_key(d.host.at(sq.ring.entry(first)) + quic_at + sizeof(mlx5_wqe_quic_seg) +
                offsetof(mlx5_wqe_quic_keys_seg, key));
        ++given;
        d.host.put<std::uint32_t>(sq.dbr + 4, sq.pc);
        const auto wqe = d.host.span(sq.ring.entry(first), blueflame ? 192 : 8);
        d.dev.mmio_write((static_cast<std::uint64_t>(d.uar) << 12) + 0x800, wqe);
        d.settle();
    }

    MiniDriver d;
    TestCq cq;
    TestSq sq;
    unsigned given = 0; ///< how often the device has been shown the key

  private:
    static constexpr std::size_t kWindow = 1U << 16;
    static bool holds(std::uint64_t from, std::uint64_t to, const void *p) {
        const auto at = reinterpret_cast<std::uint64_t>(p);
        return from <= at && at < to;
    }
    unsigned copies_at(int mem, std::uint64_t at, std::size_t size) {
        auto *const window = static_cast<std::uint8_t *>(window_);
        const ssize_t n = pread(mem, window, size, static_cast<off_t>(at));
        const std::uint8_t *const end = window + std::max<ssize_t>(n, 0);
        const int first = static_cast<std::uint8_t>(~kInverted[0]);
        unsigned found = 0;
        for (const std::uint8_t *p = window; p + kSize <= end; ++p) {
            p = static_cast<const std::uint8_t *>(
                std::memchr(p, first, static_cast<std::size_t>(end - p)));
            if (p == nullptr || p + kSize > end)
                break;
            std::size_t same = 1;
            while (same < kSize && static_cast<std::uint8_t>(~p[same]) == kInverted[same])
                ++same;
            found += same == kSize;
        }
        return found;
    }
    void *window_ =
        mmap(nullptr, kWindow, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
};

TEST_F(Secrets, AreFoundWhereTheyAre) {
    EXPECT_EQ(copies(), 0U);
    std::array<std::uint8_t, kSize> key{};
    put_key(key.data());
    EXPECT_EQ(copies(), 1U) << static_cast<int>(key[0]);
    wipe(key);
    EXPECT_EQ(copies(), 0U);
}

TEST_F(Secrets, OfAnSaGoWithIt) {
    const Reply r = create();
    ASSERT_TRUE(r.ok());
    EXPECT_EQ(copies(), 1U) << "in the database";
    auto in = request(MLX5_CMD_OP_DESTROY_GENERAL_OBJECT, IFC_BYTES(general_obj_in_cmd_hdr));
    IFC_SET(general_obj_in_cmd_hdr, Bytes(in), obj_type, MLX5_GENERAL_OBJECT_TYPES_QUIC_SA);
    d.must(in, 16);
    EXPECT_EQ(copies(), 0U);
}

TEST_F(Secrets, GoWithAReset) {
    for (unsigned way = 0; way < 4; ++way) {
        SCOPED_TRACE(way);
        ASSERT_TRUE(create().ok());
        EXPECT_EQ(copies(), 1U);
        const std::uint32_t interface[] = {static_cast<std::uint32_t>(NicInterface::kDisabled),
                                           static_cast<std::uint32_t>(NicInterface::kSwReset)};
        if (way == 0)
            d.must(REQUEST(teardown_hca, TEARDOWN_HCA), 16);
        else if (way == 1)
            d.dev.reset();
        else
            d.write32(offsetof(mlx5_init_seg, cmdq_addr_l_sz),
                      interface[way - 2] << MLX5_NIC_IFC_OFFSET);
        EXPECT_EQ(copies(), 0U);
        d.dev.reset();
        d.reset_tis();
        d.open();
    }
}

TEST_F(Secrets, OfACommandThatFails) {
    const std::vector<std::function<void(Message &)>> changes{
        [](Message &m) { m[16 + 8] = 77; },                                  // cipher
        [](Message &m) { store_be<std::uint32_t>(m.data() + 16 + 12, 99); }, // PD
        [](Message &m) { m[7] = 0x13; },                                     // another object
        [](Message &m) { m[0] = 0x7f; },                                     // no such command
        [](Message &m) { m.back() = 1; },                                    // reserved
        [](Message &m) { m.pop_back(); },                                    // too short
    };
    for (std::size_t i = 0; i < changes.size(); ++i) {
        EXPECT_FALSE(create(changes[i]).ok()) << i;
        EXPECT_EQ(copies(), 0U) << i;
    }
    EXPECT_FALSE(create({}, {}, 15).ok());
    EXPECT_EQ(copies(), 0U) << "no room for the answer";
    fault("command-fail,opcode=0xa00");
    EXPECT_FALSE(create().ok());
    EXPECT_EQ(copies(), 0U) << "fault";
    fault("quic-sa-fail");
    EXPECT_FALSE(create().ok());
    EXPECT_EQ(copies(), 0U) << "fault of the object";
    EXPECT_EQ(given, changes.size() + 3);
}

TEST_F(Secrets, OfACommandThatIsNotDelivered) {
    const auto long_one = [](Message &m) { m.resize(4096); };
    // The mailbox with the key is right, one behind it is not.
    const Reply r = create(long_one, {.block = [](unsigned i, mlx5_cmd_prot_block &b, bool input) {
                               if (input && i == 2)
                                   b.token ^= 1;
                           }});
    EXPECT_NE(r.delivery, 0U);
    EXPECT_EQ(copies(), 0U);
    create(long_one, {.block = [](unsigned i, mlx5_cmd_prot_block &b, bool input) {
               if (input && i == 1)
                   b.next = cpu_to_be64(0x1000);
           }});
    EXPECT_EQ(copies(), 0U) << "not memory";
    fault("command-timeout,opcode=0xa00");
    EXPECT_EQ(create().delivery, ~0U);
    EXPECT_EQ(copies(), 0U) << "not answered";
    EXPECT_EQ(given, 3U);
}

TEST_F(Secrets, OfAWqe) {
    for (const bool blueflame : {false, true}) {
        SCOPED_TRACE(blueflame);
        post_inline(48 - 16, blueflame);
        EXPECT_EQ(copies(), 0U);
        const mlx5_cqe64 *cqe = d.poll(cq);
        ASSERT_NE(cqe, nullptr);
        EXPECT_EQ(cqe->op_own >> 4, MLX5_CQE_REQ);
    }
    // Behind headers that are longer than the WQE: wrong before the segment is looked at.
    post_inline(16 * 6, true);
    EXPECT_EQ(copies(), 0U);
    EXPECT_EQ(given, 3U);
}

/// A doorbell whose WQE is never executed.
TEST_F(Secrets, OfABlueFlameBuffer) {
    const std::uint64_t at = d.host.alloc(256, 64);
    store_be<std::uint32_t>(d.host.at(at) + 4, sq.id << 8);
    put_key(d.host.at(at) + 64);
    d.dev.mmio_write((static_cast<std::uint64_t>(d.uar) << 12) + 0x800, d.host.span(at, 256));
    EXPECT_EQ(copies(), 1U) << "kept until there is such a WQE";
    EXPECT_TRUE(d.modify_sq(sq, 1, 0).ok());
    EXPECT_EQ(copies(), 0U);
}

} // namespace
} // namespace connectx::test
