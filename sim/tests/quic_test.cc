// SPDX-License-Identifier: GPL-2.0
//
// The QUIC offload of docs/hardware-interface.md as a driver sees it: capabilities, SA objects,
// every form of the WQE, every error. OpenSSL judges what is on the wire.
#include "core.h"
#include "mini_driver.h"
#include "packets.h"

#include <gtest/gtest.h>

#include <deque>
#include <quic_reference.h>

#include <random>

namespace connectx::test {
namespace {

using quic_test::Cipher;
using quic_test::PacketKeys;
using quic_test::PacketShape;

constexpr std::size_t kTag = MLX5_QUIC_TAG_LEN;

/// The QUIC packet with room for its tag, which is not zero so that it shows if it were used.
Frame with_room(const Frame &packet) {
    Frame f = packet;
    f.insert(f.end(), kTag, 0xa5);
    return f;
}

struct Counters {
    Message raw;
#define COUNTER(name)                                                                              \
    [[nodiscard]] std::uint64_t name() const {                                                     \
        return IFC_GET64(quic_cnt_reg, ConstBytes(raw), name);                                     \
    }
    COUNTER(tx_index_packets)
    COUNTER(tx_inline_packets)
    COUNTER(tx_bytes)
    COUNTER(drop_stale_sa)
    COUNTER(drop_pd)
    COUNTER(drop_headers)
    COUNTER(drop_short)
    COUNTER(wqe_errors)
    COUNTER(sa_created)
    COUNTER(sa_destroyed)
    COUNTER(sa_rejected_full)
#undef COUNTER
    [[nodiscard]] std::uint32_t sa_installed() const {
        return IFC_GET(quic_cnt_reg, ConstBytes(raw), sa_installed);
    }
};

/// A driver with QUIC objects and WQEs.
class QuicDriver : public MiniDriver {
  public:
    explicit QuicDriver(const Config &config = {}) : MiniDriver(config, 32U << 20) {
        open();
        cq = create_cq(8);
        sq = create_sq(cq, 7);
    }

    // --- objects ---------------------------------------------------------------------------------

    Message sa_request(const PacketKeys &keys, std::uint32_t tag) const {
        auto in = REQUEST(create_quic_sa, CREATE_GENERAL_OBJECT);
        IFC_SET(general_obj_in_cmd_hdr, Bytes(in), obj_type, MLX5_GENERAL_OBJECT_TYPES_QUIC_SA);
        const Bytes obj = IFC_AT(create_quic_sa_in, Bytes(in), quic_sa_object);
        IFC_SET(quic_sa_obj, obj, cipher, static_cast<unsigned>(keys.cipher));
        IFC_SET(quic_sa_obj, obj, pd, pd);
        IFC_SET(quic_sa_obj, obj, tag, tag);
        std::copy(keys.iv.begin(), keys.iv.end(), IFC_AT(quic_sa_obj, obj, iv).begin());
        std::copy(keys.key.begin(), keys.key.end(), IFC_AT(quic_sa_obj, obj, key).begin());
        std::copy(keys.hp.begin(), keys.hp.end(), IFC_AT(quic_sa_obj, obj, hp_key).begin());
        return in;
    }
    Reply create(const PacketKeys &keys, std::uint32_t tag) {
        return command(sa_request(keys, tag), IFC_BYTES(general_obj_out_cmd_hdr));
    }
    std::uint32_t must_create(const PacketKeys &keys, std::uint32_t tag) {
        const Reply r = create(keys, tag);
        EXPECT_TRUE(r.ok()) << "syndrome " << std::hex << r.syndrome;
        return IFC_GET(general_obj_out_cmd_hdr, ConstBytes(r.out), obj_id);
    }
    Reply object_command(unsigned opcode, std::uint32_t id, std::size_t out_size,
                         unsigned type = MLX5_GENERAL_OBJECT_TYPES_QUIC_SA) {
        auto in = request(opcode, IFC_BYTES(general_obj_in_cmd_hdr));
        IFC_SET(general_obj_in_cmd_hdr, Bytes(in), obj_type, type);
        IFC_SET(general_obj_in_cmd_hdr, Bytes(in), obj_id, id);
        return command(in, out_size);
    }
    Reply destroy(std::uint32_t id) {
        return object_command(MLX5_CMD_OP_DESTROY_GENERAL_OBJECT, id,
                              IFC_BYTES(general_obj_out_cmd_hdr));
    }
    Reply query(std::uint32_t id) {
        return object_command(MLX5_CMD_OP_QUERY_GENERAL_OBJECT, id, IFC_BYTES(query_quic_sa_out));
    }
    Counters counters() {
        return {access_register(MLX5_QUIC_REG_CNT, Message(IFC_BYTES(quic_cnt_reg)), false)};
    }

    // --- WQEs ------------------------------------------------------------------------------------

    static Message index_segment(std::uint32_t sa, std::uint32_t tag, std::uint64_t pn,
                                 std::size_t pn_offset) {
        Message seg(sizeof(mlx5_wqe_quic_seg));
        store_be<std::uint64_t>(seg.data(), pn);
        store_be<std::uint32_t>(seg.data() + 8, static_cast<std::uint32_t>(pn_offset << 21) | sa);
        store_be<std::uint32_t>(seg.data() + 12, tag);
        return seg;
    }
    static Message inline_segment(const PacketKeys &keys, std::uint64_t pn, std::size_t pn_offset) {
        Message seg = index_segment(0, 0, 1ULL << 62 | pn, pn_offset);
        Message k(sizeof(mlx5_wqe_quic_keys_seg));
        k[0] = static_cast<std::uint8_t>(keys.cipher);
        std::copy(keys.iv.begin(), keys.iv.end(), k.begin() + 4);
        std::copy(keys.key.begin(), keys.key.end(), k.begin() + 16);
        std::copy(keys.hp.begin(), keys.hp.end(), k.begin() + 48);
        seg.insert(seg.end(), k.begin(), k.end());
        return seg;
    }
    /// Ethernet segment, QUIC segment, data.
    Message wqe(const EthOptions &o, const Message &quic, const std::vector<Message> &data) {
        Message seg = eth_segments(o, {});
        seg.insert(seg.end(), quic.begin(), quic.end());
        const Message rest = eth_segments({}, data);
        seg.insert(seg.end(), rest.begin() + 16, rest.end());
        return seg;
    }
    void send(const Message &segments, unsigned opcode = MLX5_OPCODE_SEND, bool signaled = true) {
        post(sq, MLX5_OPC_MOD_QUIC << 24 | opcode, segments, signaled);
    }
    /// The next completion: syndrome and vendor syndrome, zeros for a good one.
    std::pair<unsigned, unsigned> completion() {
        const mlx5_cqe64 *cqe = poll(cq);
        if (cqe == nullptr)
            return {~0U, ~0U};
        if (cqe->op_own >> 4 == MLX5_CQE_REQ)
            return {0, 0};
        const auto *err = reinterpret_cast<const mlx5_err_cqe *>(cqe);
        return {err->syndrome, err->vendor_err_synd};
    }
    void recover() {
        while (poll(cq) != nullptr) {
        }
        EXPECT_EQ(modify_sq(sq, 3, 0).status, MLX5_CMD_STAT_OK);
        EXPECT_EQ(modify_sq(sq, 0, 1).status, MLX5_CMD_STAT_OK);
        sq.pc = 0;
        host.put<std::uint32_t>(sq.dbr + 4, 0);
    }

    TestCq cq;
    TestSq sq;
};

constexpr std::pair<unsigned, unsigned> kDone{0, 0};
constexpr unsigned kSums = MLX5_ETH_WQE_L3_CSUM | MLX5_ETH_WQE_L4_CSUM;

PacketKeys some_keys(std::uint64_t seed = 1, Cipher cipher = Cipher::kAes128Gcm) {
    return quic_test::keys_of_seed(cipher, seed);
}

Frame some_packet(std::uint64_t pn = 5, std::size_t size = 1200) {
    return quic_test::make_packet({}, pn, size);
}

std::size_t some_pn_offset() { return PacketShape{}.pn_offset(); }

Frame some_frame(const Flow &flow = {}, std::uint64_t pn = 5) {
    return make_frame(flow, with_room(some_packet(pn)));
}

// --- capabilities --------------------------------------------------------------------------------

Message quic_cap(MiniDriver &d, unsigned mode = HCA_CAP_OPMOD_GET_CUR) {
    const auto in = REQUEST(query_hca_cap, QUERY_HCA_CAP, MLX5_QUIC_CAP_TYPE << 1 | mode);
    const Reply r = d.command(in, IFC_BYTES(query_hca_cap_out));
    return r.ok() ? Message(r.out.begin() + 16, r.out.end()) : Message{};
}

bool has_object_bit(MiniDriver &d) {
    const auto in = REQUEST(query_hca_cap, QUERY_HCA_CAP, MLX5_CAP_GENERAL << 1);
    const Message out = d.must(in, IFC_BYTES(query_hca_cap_out));
    const ConstBytes cap = IFC_AT(query_hca_cap_out, ConstBytes(out), capability);
    return (IFC_GET64(cmd_hca_cap, cap, general_obj_types) &
            MLX5_HCA_CAP_GENERAL_OBJECT_TYPES_QUIC_SA) != 0;
}

TEST(QuicCapability, SaysWhatThereIs) {
    QuicDriver d;
    EXPECT_TRUE(has_object_bit(d));
    for (const unsigned mode : {HCA_CAP_OPMOD_GET_MAX, HCA_CAP_OPMOD_GET_CUR}) {
        const Message cap = quic_cap(d, mode);
        ASSERT_FALSE(cap.empty());
        // Bit by bit, as the document has it.
        EXPECT_EQ(load_be<std::uint32_t>(cap.data()), 0xf0f0'0000U | 16);
        EXPECT_EQ(load_be<std::uint16_t>(cap.data() + 4), 2047);
        EXPECT_GE(load_be<std::uint16_t>(cap.data() + 6), 128);
        for (std::size_t i = 8; i < cap.size(); ++i)
            ASSERT_EQ(cap[i], 0) << i;
    }
}

TEST(QuicCapability, PropertiesTakeAway) {
    unsigned ciphers = 0;
    ASSERT_TRUE(parse_quic_ciphers("aes-256-gcm:aes-128-ccm", ciphers));
    Config config;
    config.quic_ciphers = ciphers;
    config.quic_lso = false;
    config.quic_inline = false;
    config.sadb_size = 1U << 20;
    QuicDriver d(config);
    EXPECT_EQ(load_be<std::uint32_t>(quic_cap(d).data()), 0xc050'0000U | 20);

    config.sadb_size = 0;
    config.quic_inline = true;
    QuicDriver without_database(config);
    EXPECT_EQ(load_be<std::uint32_t>(quic_cap(without_database).data()), 0xa050'0000U);

    config.sadb_size = 1;
    QuicDriver one(config);
    EXPECT_EQ(load_be<std::uint32_t>(quic_cap(one).data()) & 0x1f, 1U);
}

TEST(QuicCapability, CipherNames) {
    unsigned ciphers = 99;
    EXPECT_FALSE(parse_quic_ciphers("aes-128-gcm:des", ciphers));
    EXPECT_FALSE(parse_quic_ciphers(":", ciphers));
    EXPECT_EQ(ciphers, 99U);
    EXPECT_TRUE(parse_quic_ciphers("", ciphers));
    EXPECT_EQ(ciphers, 0U);
    EXPECT_TRUE(
        parse_quic_ciphers("aes-128-gcm:aes-256-gcm:chacha20-poly1305:aes-128-ccm", ciphers));
    EXPECT_EQ(ciphers, kQuicAllCiphers);
}

TEST(QuicCapability, OffMeansNothingOfIt) {
    Config config;
    config.quic = false;
    QuicDriver d(config);
    EXPECT_FALSE(has_object_bit(d));
    EXPECT_TRUE(quic_cap(d).empty());
    EXPECT_EQ(d.create(some_keys(), 1).status, MLX5_CMD_STAT_BAD_PARAM_ERR);
    EXPECT_EQ(d.destroy(0).status, MLX5_CMD_STAT_BAD_PARAM_ERR);
    std::uint8_t status = 0;
    d.access_register(MLX5_QUIC_REG_CNT, Message(IFC_BYTES(quic_cnt_reg)), false, &status);
    EXPECT_EQ(status, MLX5_CMD_STAT_BAD_PARAM_ERR);
    d.send(d.wqe({}, QuicDriver::index_segment(0, 0, 5, 9), {some_frame()}));
    EXPECT_EQ(d.completion(), std::pair(unsigned{MLX5_CQE_SYNDROME_LOCAL_QP_OP_ERR},
                                        unsigned{MLX5_QUIC_VENDOR_SYND_OPCODE}));
    EXPECT_TRUE(d.host.wire.empty());
}

// --- SA objects ----------------------------------------------------------------------------------

TEST(QuicSaObject, KeysAreWriteOnly) {
    QuicDriver d;
    for (const Cipher cipher : quic_test::kAllCiphers) {
        const auto id = d.must_create(some_keys(7, cipher), 0x12345678);
        const Reply r = d.query(id);
        ASSERT_TRUE(r.ok());
        Message expected(IFC_BYTES(query_quic_sa_out));
        IFC_SET(general_obj_out_cmd_hdr, Bytes(expected), obj_id, id);
        expected[16 + 8] = static_cast<std::uint8_t>(cipher);
        store_be<std::uint32_t>(expected.data() + 16 + 12, d.pd);
        store_be<std::uint32_t>(expected.data() + 16 + 16, 0x12345678);
        EXPECT_EQ(r.out, expected);
    }
    for (const std::string &line : d.host.logs)
        EXPECT_EQ(line.find(quic_test::to_hex(some_keys(7).key).substr(0, 8)), std::string::npos);
}

TEST(QuicSaObject, WrongCommandsChangeNothing) {
    QuicDriver d;
    const PacketKeys keys = some_keys();
    const std::size_t out = IFC_BYTES(general_obj_out_cmd_hdr);
    const auto with = [&](const std::function<void(Message &)> &change) {
        Message in = d.sa_request(keys, 1);
        change(in);
        return d.command(in, out).status;
    };
    EXPECT_EQ(with([](Message &m) { m[16 + 8] = 0; }), MLX5_CMD_STAT_BAD_PARAM_ERR);
    EXPECT_EQ(with([](Message &m) { m[16 + 8] = 5; }), MLX5_CMD_STAT_BAD_PARAM_ERR);
    for (const std::size_t reserved : {0, 7, 9, 11, 12, 0x60, 0x7f})
        EXPECT_EQ(with([&](Message &m) { m[16 + reserved] = 1; }), MLX5_CMD_STAT_BAD_PARAM_ERR)
            << reserved;
    EXPECT_EQ(with([](Message &m) { m[16 + 0x30] = 1; }), MLX5_CMD_STAT_BAD_PARAM_ERR);
    EXPECT_EQ(with([](Message &m) { m[16 + 0x5f] = 1; }), MLX5_CMD_STAT_BAD_PARAM_ERR);
    EXPECT_EQ(with([](Message &m) { m[12] = 0x80; }), MLX5_CMD_STAT_BAD_PARAM_ERR); // alias
    EXPECT_EQ(with([](Message &m) { m[12] = 0x01; }), MLX5_CMD_STAT_BAD_PARAM_ERR); // range
    EXPECT_EQ(with([](Message &m) { m[7] = 0x13; }), MLX5_CMD_STAT_BAD_PARAM_ERR);  // IPsec
    EXPECT_EQ(with([](Message &m) { m[16 + 14] ^= 0x40; }), MLX5_CMD_STAT_BAD_RES_ERR);
    EXPECT_EQ(with([](Message &m) { m.pop_back(); }), MLX5_CMD_STAT_BAD_INP_LEN_ERR);
    EXPECT_EQ(d.command(d.sa_request(keys, 1), out - 1).status, MLX5_CMD_STAT_BAD_OUTP_LEN_ERR);
    EXPECT_EQ(d.counters().sa_created(), 0U);

    const auto id = d.must_create(keys, 1);
    EXPECT_EQ(d.object_command(MLX5_CMD_OP_QUERY_GENERAL_OBJECT, id, 143).status,
              MLX5_CMD_STAT_BAD_OUTP_LEN_ERR);
    EXPECT_EQ(d.object_command(MLX5_CMD_OP_MODIFY_GENERAL_OBJECT, id, out).status,
              MLX5_CMD_STAT_BAD_OP_ERR);
    EXPECT_EQ(d.query(id + 1).status, MLX5_CMD_STAT_BAD_RES_ERR);
    EXPECT_EQ(d.destroy(id + 1).status, MLX5_CMD_STAT_BAD_RES_ERR);
    EXPECT_EQ(d.object_command(MLX5_CMD_OP_DESTROY_GENERAL_OBJECT, id, out, 0x13).status,
              MLX5_CMD_STAT_BAD_PARAM_ERR);
    EXPECT_EQ(d.counters().sa_installed(), 1U);
    EXPECT_TRUE(d.destroy(id).ok());
    EXPECT_EQ(d.destroy(id).status, MLX5_CMD_STAT_BAD_RES_ERR);
}

TEST(QuicSaObject, CipherThatIsTakenAway) {
    Config config;
    ASSERT_TRUE(parse_quic_ciphers("aes-128-gcm", config.quic_ciphers));
    QuicDriver d(config);
    for (const Cipher cipher : quic_test::kAllCiphers)
        EXPECT_EQ(d.create(some_keys(1, cipher), 1).ok(), cipher == Cipher::kAes128Gcm);
}

TEST(QuicSaObject, DatabaseFullAndFreeAgain) {
    Config config;
    config.sadb_size = 5;
    QuicDriver d(config);
    std::vector<std::uint32_t> ids;
    for (std::uint32_t i = 0; i < 5; ++i)
        ids.push_back(d.must_create(some_keys(i), i));
    std::vector<std::uint32_t> sorted = ids;
    std::sort(sorted.begin(), sorted.end());
    EXPECT_EQ(sorted, (std::vector<std::uint32_t>{0, 1, 2, 3, 4}));
    for (unsigned i = 0; i < 3; ++i) {
        const Reply r = d.create(some_keys(9), 9);
        EXPECT_EQ(r.status, MLX5_CMD_STAT_NO_RES_ERR);
        EXPECT_NE(r.syndrome, 0U);
    }
    EXPECT_TRUE(d.destroy(ids[3]).ok());
    EXPECT_EQ(d.must_create(some_keys(10), 10), ids[3]);
    EXPECT_EQ(d.create(some_keys(11), 11).status, MLX5_CMD_STAT_NO_RES_ERR);
    const Counters c = d.counters();
    EXPECT_EQ(c.sa_created(), 6U);
    EXPECT_EQ(c.sa_destroyed(), 1U);
    EXPECT_EQ(c.sa_rejected_full(), 4U);
    EXPECT_EQ(c.sa_installed(), 5U);
}

TEST(QuicSaObject, HoldsItsProtectionDomain) {
    QuicDriver d;
    const auto pd = IFC_GET(
        alloc_pd_out, ConstBytes(d.must(REQUEST(alloc_pd, ALLOC_PD), IFC_BYTES(alloc_pd_out))), pd);
    auto in = d.sa_request(some_keys(), 1);
    IFC_SET(create_quic_sa_in, Bytes(in), quic_sa_object.pd, pd);
    const Message out = d.must(in, IFC_BYTES(general_obj_out_cmd_hdr));
    auto dealloc = REQUEST(dealloc_pd, DEALLOC_PD);
    IFC_SET(dealloc_pd_in, Bytes(dealloc), pd, pd);
    EXPECT_EQ(d.command(dealloc, IFC_BYTES(dealloc_pd_out)).status, MLX5_CMD_STAT_RES_BUSY);
    EXPECT_TRUE(d.destroy(IFC_GET(general_obj_out_cmd_hdr, ConstBytes(out), obj_id)).ok());
    EXPECT_TRUE(d.command(dealloc, IFC_BYTES(dealloc_pd_out)).ok());
}

TEST(QuicSaObject, TeardownAndResetForgetThem) {
    QuicDriver d;
    const auto id = d.must_create(some_keys(), 1);
    d.must(REQUEST(teardown_hca, TEARDOWN_HCA), IFC_BYTES(teardown_hca_out));
    EXPECT_EQ(d.query(id).status, MLX5_CMD_STAT_BAD_SYS_STATE_ERR);
    d.must(REQUEST(init_hca, INIT_HCA), IFC_BYTES(init_hca_out));
    EXPECT_EQ(d.query(id).status, MLX5_CMD_STAT_BAD_RES_ERR);
    EXPECT_EQ(d.counters().sa_created(), 0U);

    d.pd = IFC_GET(alloc_pd_out,
                   ConstBytes(d.must(REQUEST(alloc_pd, ALLOC_PD), IFC_BYTES(alloc_pd_out))), pd);
    d.must_create(some_keys(), 2);
    EXPECT_EQ(d.counters().sa_installed(), 1U);
    d.dev.reset(); // function-level reset
    d.init();
    EXPECT_EQ(d.counters().sa_installed(), 0U);
    EXPECT_EQ(d.query(0).status, MLX5_CMD_STAT_BAD_RES_ERR);
}

TEST(QuicSaObject, Faults) {
    QuicDriver d;
    std::string error;
    ASSERT_TRUE(d.dev.inject_fault("quic-sa-fail,count=2,status=0xf,syndrome=0x77", error))
        << error;
    for (unsigned i = 0; i < 2; ++i) {
        const Reply r = d.create(some_keys(), 1);
        EXPECT_EQ(r.status, 0xf);
        EXPECT_EQ(r.syndrome, 0x77U);
    }
    EXPECT_EQ(d.counters().sa_installed(), 0U);
    EXPECT_TRUE(d.create(some_keys(), 1).ok());
}

// The SA is there at once; that it is, the driver is told late.
TEST(QuicSaObject, ConfirmedLate) {
    QuicDriver d;
    const auto fault = [&d](const char *spec) {
        std::string error;
        EXPECT_TRUE(d.dev.inject_fault(spec, error)) << error;
    };
    constexpr auto kUnanswered = ~0U;
    TestEq eq = d.create_eq(0, 1ULL << MLX5_EVENT_TYPE_CMD);
    const auto told = [&] { return d.poll(eq) != nullptr; };
    fault("quic-sa-late,ms=10");
    EXPECT_EQ(d.create(some_keys(), 7).delivery, kUnanswered);
    d.send(d.wqe({}, QuicDriver::index_segment(0, 7, 5, some_pn_offset()), {some_frame()}));
    EXPECT_EQ(d.completion(), kDone);
    EXPECT_EQ(d.host.wire.size(), 1U);
    d.advance(9'000'000);
    EXPECT_FALSE(told());
    d.advance(2'000'000);
    EXPECT_TRUE(told());
    Reply answer = d.answer(IFC_BYTES(general_obj_out_cmd_hdr));
    EXPECT_TRUE(answer.ok());
    EXPECT_EQ(IFC_GET(general_obj_out_cmd_hdr, ConstBytes(answer.out), obj_id), 0U);

    fault("quic-sa-late");
    EXPECT_EQ(d.create(some_keys(), 8).delivery, kUnanswered);
    d.advance(60'000'000'000);
    EXPECT_FALSE(told());
    fault("none");
    d.settle();
    EXPECT_TRUE(told());
    answer = d.answer(IFC_BYTES(general_obj_out_cmd_hdr));
    EXPECT_EQ(IFC_GET(general_obj_out_cmd_hdr, ConstBytes(answer.out), obj_id), 1U);
    EXPECT_EQ(d.counters().sa_installed(), 2U);
    EXPECT_TRUE(d.create(some_keys(), 9).ok());
    // What is still unanswered at a reset stays so.
    fault("quic-sa-late");
    EXPECT_EQ(d.create(some_keys(), 10).delivery, kUnanswered);
    d.dev.reset();
    fault("none");
    d.init();
    EXPECT_EQ(d.counters().sa_installed(), 0U);
}

TEST(QuicSaDatabaseTest, AMillionEntries) {
    constexpr std::uint32_t kSize = 1U << 20;
    QuicSaDatabase sadb(kSize);
    for (std::uint32_t i = 0; i < kSize; ++i) {
        auto sa = std::make_unique<QuicSa>();
        sa->tag = i;
        ASSERT_EQ(sadb.insert(std::move(sa)), i);
    }
    EXPECT_TRUE(sadb.full());
    for (std::uint32_t i = 0; i < kSize; i += 1000)
        ASSERT_EQ(sadb.find(i)->tag, i);
    EXPECT_EQ(sadb.find(kSize), nullptr);
    // The index that has been free the longest is used first.
    for (const std::uint32_t i : {77U, 5U, 1'000'000U})
        sadb.erase(i);
    EXPECT_EQ(sadb.find(5), nullptr);
    for (const std::uint32_t i : {77U, 5U, 1'000'000U})
        EXPECT_EQ(sadb.insert(std::make_unique<QuicSa>()), i);
    EXPECT_TRUE(sadb.full());
    sadb.clear();
    EXPECT_EQ(sadb.installed(), 0U);
    EXPECT_EQ(sadb.insert(std::make_unique<QuicSa>()), 0U);
}

// --- what a right WQE does -----------------------------------------------------------------------

struct WqeCase {
    Cipher cipher;
    bool inline_form;
    bool v6;
    int vlan;        ///< in the frame
    int insert_vlan; ///< by the device
    bool inline_header;
};

class QuicSend : public testing::TestWithParam<WqeCase> {
  protected:
    Message segment(const PacketKeys &keys, std::uint64_t pn, std::size_t pn_offset) {
        if (GetParam().inline_form)
            return QuicDriver::inline_segment(keys, pn, pn_offset);
        return QuicDriver::index_segment(d.must_create(keys, 0xfeed), 0xfeed, pn, pn_offset);
    }
    QuicDriver d;
};

TEST_P(QuicSend, PacketOnTheWireIsOpenSsls) {
    const WqeCase &c = GetParam();
    const PacketKeys keys = some_keys(3, c.cipher);
    std::uint64_t packets = 0;
    std::uint64_t bytes = 0;
    for (const bool long_header : {false, true})
        for (const std::size_t cid : {0, 8, 20})
            for (const unsigned pn_length : {1, 2, 3, 4}) {
                const PacketShape shape{
                    .long_header = long_header, .cid_length = cid, .pn_length = pn_length};
                const std::uint64_t pn = (1ULL << (8 * pn_length)) - 3;
                for (const std::size_t size : {shape.min_size(), shape.min_size() + 333}) {
                    const Frame packet = quic_test::make_packet(shape, pn, size);
                    Flow flow{.v6 = c.v6, .vlan = c.vlan};
                    const Frame frame = make_frame(flow, with_room(packet));
                    MiniDriver::EthOptions o{.cs_flags = kSums, .vlan = c.insert_vlan};
                    Frame data = frame;
                    if (c.inline_header) {
                        o.inline_header.assign(frame.begin(), frame.begin() + 30);
                        data.assign(frame.begin() + 30, frame.end());
                    }
                    d.host.wire.clear();
                    d.send(d.wqe(o, segment(keys, pn, shape.pn_offset()), {data}));
                    ASSERT_EQ(d.completion(), kDone);
                    ASSERT_EQ(d.host.wire.size(), 1U);
                    if (c.insert_vlan >= 0)
                        flow.vlan = c.insert_vlan;
                    Frame expected =
                        make_frame(flow, quic_test::protect(keys, packet, shape.pn_offset(), pn));
                    add_checksums(expected, flow);
                    ASSERT_EQ(d.host.wire[0], expected) << "cid " << cid << " pn " << pn_length;
                    ++packets;
                    bytes += packet.size() + kTag;
                }
            }
    const Counters counters = d.counters();
    EXPECT_EQ(counters.tx_index_packets(), c.inline_form ? 0 : packets);
    EXPECT_EQ(counters.tx_inline_packets(), c.inline_form ? packets : 0);
    EXPECT_EQ(counters.tx_bytes(), bytes);
}

class QuicBatch : public QuicSend {};

TEST_P(QuicBatch, HasConsecutiveNumbers) {
    const WqeCase &c = GetParam();
    const PacketKeys keys = some_keys(4, c.cipher);
    const PacketShape shape{.cid_length = 5, .pn_length = 4};
    const Flow flow{.v6 = c.v6, .vlan = c.vlan};
    for (const std::size_t count : {1, 2, 53, 128})
        for (const std::size_t last : {std::size_t{40}, std::size_t{300}}) {
            constexpr std::size_t kMss = 300 + kTag;
            const std::uint64_t pn = 0xffff'fffe - count / 2; // the low 32 bits roll over
            std::vector<Frame> packets;
            Frame payload;
            for (std::size_t i = 0; i < count; ++i) {
                packets.push_back(
                    quic_test::make_packet(shape, pn + i, i + 1 == count ? last : 300));
                const Frame p = with_room(packets.back());
                payload.insert(payload.end(), p.begin(), p.end());
            }
            d.host.wire.clear();
            // In pieces that do not end where packets do.
            std::vector<Message> parts;
            const std::size_t piece = payload.size() / 3 + 1;
            for (std::size_t at = 0; at < payload.size(); at += piece)
                parts.emplace_back(payload.begin() + static_cast<std::ptrdiff_t>(at),
                                   payload.begin() + static_cast<std::ptrdiff_t>(
                                                         std::min(at + piece, payload.size())));
            d.send(d.wqe({.cs_flags = kSums, .mss = kMss, .inline_header = make_frame(flow, {})},
                         segment(keys, pn, shape.pn_offset()), parts),
                   MLX5_OPCODE_LSO);
            ASSERT_EQ(d.completion(), kDone);
            ASSERT_EQ(d.host.wire.size(), count);
            for (std::size_t i = 0; i < count; ++i) {
                Frame expected = make_frame(
                    flow, quic_test::protect(keys, packets[i], shape.pn_offset(), pn + i));
                if (!c.v6)
                    put16(expected, l3_offset(flow) + 4, static_cast<unsigned>(0x1234 + i));
                add_checksums(expected, flow);
                ASSERT_EQ(d.host.wire[i], expected) << i << " of " << count;
            }
        }
}

std::vector<WqeCase> wqe_cases(bool batches) {
    std::vector<WqeCase> cases;
    for (const Cipher cipher : quic_test::kAllCiphers)
        for (const bool inline_form : {false, true})
            for (const bool v6 : {false, true}) {
                cases.push_back({cipher, inline_form, v6, -1, -1, true});
                cases.push_back({cipher, inline_form, v6, 0x123, -1, true});
                if (batches) // these have their headers inlined, the VLAN tag among them
                    continue;
                cases.push_back({cipher, inline_form, v6, -1, -1, false});
                cases.push_back({cipher, inline_form, v6, -1, 0x456, false});
            }
    return cases;
}

std::string wqe_case_name(const testing::TestParamInfo<WqeCase> &test) {
    const WqeCase &c = test.param;
    std::string name = quic_test::name(c.cipher);
    name += std::string(c.inline_form ? "Inline" : "Index") + (c.v6 ? "V6" : "V4") +
            (c.vlan >= 0 ? "Vlan" : "") + (c.insert_vlan >= 0 ? "InsertVlan" : "") +
            (c.inline_header ? "" : "NoHeader");
    std::erase_if(name, [](char ch) { return std::isalnum(ch) == 0; });
    return name;
}

INSTANTIATE_TEST_SUITE_P(Forms, QuicSend, testing::ValuesIn(wqe_cases(false)), wqe_case_name);
INSTANTIATE_TEST_SUITE_P(Forms, QuicBatch, testing::ValuesIn(wqe_cases(true)), wqe_case_name);

TEST(QuicWqe, BothTagsOfDoubleVlan) {
    QuicDriver d;
    const PacketKeys keys = some_keys();
    const Frame packet = some_packet();
    Flow flow{.vlan = 9};
    const Frame outer{0x88, 0xa8, 0x00, 0x05};
    Frame frame = make_frame(flow, with_room(packet));
    frame.insert(frame.begin() + 12, outer.begin(), outer.end());
    d.send(
        d.wqe({.cs_flags = kSums}, QuicDriver::inline_segment(keys, 5, some_pn_offset()), {frame}));
    ASSERT_EQ(d.host.wire.size(), 1U);
    Frame expected = make_frame(flow, quic_test::protect(keys, packet, some_pn_offset(), 5));
    add_checksums(expected, flow);
    expected.insert(expected.begin() + 12, outer.begin(), outer.end());
    EXPECT_EQ(d.host.wire[0], expected);
}

TEST(QuicWqe, ChecksumIsLeftAloneUnlessAskedFor) {
    QuicDriver d;
    const PacketKeys keys = some_keys();
    const Frame packet = some_packet();
    Frame frame = make_frame({}, with_room(packet));
    put16(frame, l4_offset({}) + 6, 0xabcd);
    d.send(d.wqe({}, QuicDriver::inline_segment(keys, 5, some_pn_offset()), {frame}));
    ASSERT_EQ(d.host.wire.size(), 1U);
    Frame expected = make_frame({}, quic_test::protect(keys, packet, some_pn_offset(), 5));
    put16(expected, l4_offset({}) + 6, 0xabcd);
    EXPECT_EQ(d.host.wire[0], expected);
}

TEST(QuicWqe, HostMemoryIsNotTouched) {
    QuicDriver d;
    const Frame frame = some_frame();
    const std::uint64_t at = d.host.alloc(frame.size(), 64);
    std::copy(frame.begin(), frame.end(), d.host.at(at));
    Message seg = d.wqe({.cs_flags = kSums},
                        QuicDriver::inline_segment(some_keys(), 5, some_pn_offset()), {});
    Message data(16);
    store_be<std::uint32_t>(data.data(), static_cast<std::uint32_t>(frame.size()));
    store_be<std::uint32_t>(data.data() + 4, d.lkey);
    store_be<std::uint64_t>(data.data() + 8, at);
    seg.insert(seg.end(), data.begin(), data.end());
    d.send(seg);
    ASSERT_EQ(d.host.wire.size(), 1U);
    EXPECT_TRUE(std::equal(frame.begin(), frame.end(), d.host.at(at)));
}

TEST(QuicWqe, PlainWqesAreAsBefore) {
    QuicDriver d;
    const Frame frame = some_frame();
    d.post(d.sq, MLX5_OPCODE_SEND, d.eth_segments({}, {frame}));
    EXPECT_EQ(d.host.wire.back(), frame);
    EXPECT_EQ(d.counters().tx_index_packets() + d.counters().tx_inline_packets(), 0U);
}

TEST(QuicWqe, LoopbackIsEncryptedToo) {
    QuicDriver d;
    TestCq rcq = d.create_cq();
    TestRq rq = d.create_rq(rcq, {});
    d.steer_all_to(d.create_tir(rq.id, MLX5_TIRC_SELF_LB_BLOCK_BLOCK_UNICAST));
    d.post(rq, 4);
    const Config config;
    Flow flow;
    flow.dmac.assign(config.mac.begin(), config.mac.end());
    const PacketKeys keys = some_keys();
    const Frame packet = some_packet();
    d.send(d.wqe({.cs_flags = kSums}, QuicDriver::inline_segment(keys, 5, some_pn_offset()),
                 {make_frame(flow, with_room(packet))}));
    EXPECT_TRUE(d.host.wire.empty());
    ASSERT_NE(d.poll(rcq), nullptr);
    Frame expected = make_frame(flow, quic_test::protect(keys, packet, some_pn_offset(), 5));
    add_checksums(expected, flow);
    EXPECT_TRUE(std::equal(expected.begin(), expected.end(), d.host.at(rq.buffers[0])));
}

TEST(QuicWqe, LargestNumber) {
    QuicDriver d;
    const PacketKeys keys = some_keys();
    constexpr std::uint64_t kMax = (1ULL << 62) - 1;
    const Frame packet = quic_test::make_packet({}, kMax, 100);
    d.send(d.wqe({.cs_flags = kSums}, QuicDriver::inline_segment(keys, kMax, some_pn_offset()),
                 {make_frame({}, with_room(packet))}));
    ASSERT_EQ(d.completion(), kDone);
    Frame expected = make_frame({}, quic_test::protect(keys, packet, some_pn_offset(), kMax));
    add_checksums(expected, {});
    EXPECT_EQ(d.host.wire.back(), expected);
}

TEST(QuicWqe, TraceNamesItAndShowsNoKeys) {
    Config config;
    config.trace = true;
    QuicDriver d(config);
    PacketKeys keys = some_keys();
    const auto id = d.must_create(keys, 0xabc);
    d.send(d.wqe({}, QuicDriver::index_segment(id, 0xabc, 5, some_pn_offset()), {some_frame()}));
    d.send(d.wqe({}, QuicDriver::inline_segment(keys, 6, some_pn_offset()), {some_frame({}, 6)}));
    std::string all;
    for (const std::string &line : d.host.logs)
        all += line + "\n";
    EXPECT_NE(all.find("QUIC_SA 0 created: aes-128-gcm tag 0xabc"), std::string::npos) << all;
    EXPECT_NE(all.find("QUIC SA 0 tag 0xabc pn 5 pn_offset 9: encrypt"), std::string::npos);
    EXPECT_NE(all.find("QUIC inline aes-128-gcm pn 6 pn_offset 9: encrypt"), std::string::npos);
    EXPECT_EQ(all.find(quic_test::to_hex(keys.key).substr(0, 6)), std::string::npos);
}

// --- drops ---------------------------------------------------------------------------------------

TEST(QuicDrop, DeletedAndReusedSa) {
    Config config;
    config.sadb_size = 1;
    QuicDriver d(config);
    const PacketKeys old_keys = some_keys(1);
    const PacketKeys new_keys = some_keys(2);
    const auto send = [&](std::uint32_t tag, std::uint64_t pn) {
        d.host.wire.clear();
        d.send(d.wqe({.cs_flags = kSums}, QuicDriver::index_segment(0, tag, pn, some_pn_offset()),
                     {some_frame({}, pn)}));
        EXPECT_EQ(d.completion(), kDone);
        return d.host.wire.size();
    };
    const auto protected_with = [&](const PacketKeys &keys, std::uint64_t pn) {
        Frame expected =
            make_frame({}, quic_test::protect(keys, some_packet(pn), some_pn_offset(), pn));
        add_checksums(expected, {});
        return d.host.wire.back() == expected;
    };
    EXPECT_EQ(send(100, 1), 0U); // before there is any
    ASSERT_EQ(d.must_create(old_keys, 100), 0U);
    ASSERT_EQ(send(100, 2), 1U);
    EXPECT_TRUE(protected_with(old_keys, 2));
    EXPECT_EQ(send(101, 3), 0U);
    EXPECT_TRUE(d.destroy(0).ok());
    EXPECT_EQ(send(100, 4), 0U);
    ASSERT_EQ(d.must_create(new_keys, 101), 0U);
    EXPECT_EQ(send(100, 5), 0U); // the late one meets another tag
    ASSERT_EQ(send(101, 6), 1U);
    EXPECT_TRUE(protected_with(new_keys, 6)); // and the index has nothing of the old keys
    EXPECT_EQ(d.counters().drop_stale_sa(), 4U);
    EXPECT_EQ(d.counters().tx_index_packets(), 2U);

    // A batch counts all its packets.
    Frame payload;
    for (std::uint64_t i = 0; i < 7; ++i) {
        const Frame p = with_room(some_packet(i, 200));
        payload.insert(payload.end(), p.begin(), p.end());
    }
    d.host.wire.clear();
    d.send(d.wqe({.cs_flags = kSums, .mss = 216, .inline_header = make_frame({}, {})},
                 QuicDriver::index_segment(0, 100, 0, some_pn_offset()), {payload}),
           MLX5_OPCODE_LSO);
    EXPECT_EQ(d.completion(), kDone);
    EXPECT_TRUE(d.host.wire.empty());
    EXPECT_EQ(d.counters().drop_stale_sa(), 11U);
}

TEST(QuicDrop, SaDeletedWhileItsPacketsAreInTheRing) {
    QuicDriver d;
    const auto first = d.must_create(some_keys(1), 1);
    const auto second = d.must_create(some_keys(2), 2);
    // Posted, but the doorbell comes after the deletion.
    for (std::uint64_t i = 0; i < 10; ++i)
        d.post(d.sq, MLX5_OPC_MOD_QUIC << 24 | MLX5_OPCODE_SEND,
               d.wqe({.cs_flags = kSums},
                     QuicDriver::index_segment(i % 2 == 0 ? first : second, i % 2 == 0 ? 1 : 2, i,
                                               some_pn_offset()),
                     {some_frame({}, i)}),
               i == 9, false);
    EXPECT_TRUE(d.destroy(first).ok());
    d.doorbell(d.sq, 0);
    EXPECT_EQ(d.completion(), kDone);
    EXPECT_EQ(d.host.wire.size(), 5U); // the others are not disturbed
    EXPECT_EQ(d.counters().drop_stale_sa(), 5U);
    for (const Frame &f : d.host.wire)
        EXPECT_FALSE(quic_test::contains_plaintext(f));
}

TEST(QuicDrop, OtherProtectionDomain) {
    QuicDriver d;
    const auto own = d.pd;
    d.pd = IFC_GET(alloc_pd_out,
                   ConstBytes(d.must(REQUEST(alloc_pd, ALLOC_PD), IFC_BYTES(alloc_pd_out))), pd);
    const auto id = d.must_create(some_keys(), 1);
    d.pd = own;
    d.send(d.wqe({.cs_flags = kSums}, QuicDriver::index_segment(id, 1, 5, some_pn_offset()),
                 {some_frame()}));
    EXPECT_EQ(d.completion(), kDone);
    EXPECT_TRUE(d.host.wire.empty());
    EXPECT_EQ(d.counters().drop_pd(), 1U);
    // The tag is looked at first.
    d.send(d.wqe({.cs_flags = kSums}, QuicDriver::index_segment(id, 2, 5, some_pn_offset()),
                 {some_frame()}));
    EXPECT_EQ(d.counters().drop_pd(), 1U);
    EXPECT_EQ(d.counters().drop_stale_sa(), 1U);
}

TEST(QuicDrop, HeadersThatAreNotUdpOverIp) {
    QuicDriver d;
    const Frame packet = with_room(some_packet());
    const auto changed = [&](const Flow &flow, const std::function<void(Frame &)> &change) {
        Frame f = make_frame(flow, packet);
        change(f);
        return f;
    };
    const std::vector<std::pair<const char *, Frame>> cases{
        {"TCP", make_frame({.tcp = true}, packet)},
        {"ARP", changed({}, [](Frame &f) { put16(f, 12, 0x0806); })},
        {"IPv4 options", changed({},
                                 [](Frame &f) {
                                     f.insert(f.begin() + 34, {1, 1, 1, 1});
                                     f[14] = 0x46;
                                     put16(f, 16, get16(f, 16) + 4);
                                 })},
        {"first fragment", changed({}, [](Frame &f) { put16(f, 20, 0x2000); })},
        {"later fragment", changed({}, [](Frame &f) { put16(f, 20, 0x0010); })},
        {"IPv6 extension header", changed({.v6 = true},
                                          [](Frame &f) {
                                              f.insert(f.begin() + 54, {17, 0, 0, 0, 0, 0, 0, 0});
                                              f[20] = 60; // destination options
                                              put16(f, 18, get16(f, 18) + 8);
                                          })},
        {"UDP length too short", changed({}, [](Frame &f) { put16(f, 38, get16(f, 38) - 1); })},
        {"UDP length too long", changed({}, [](Frame &f) { put16(f, 38, get16(f, 38) + 1); })},
        {"UDP length zero", changed({}, [](Frame &f) { put16(f, 38, 0); })},
        {"IP length too short", changed({}, [](Frame &f) { put16(f, 16, get16(f, 16) - 1); })},
        {"IP length too long", changed({}, [](Frame &f) { put16(f, 16, get16(f, 16) + 1); })},
        {"something behind", changed({}, [](Frame &f) { f.push_back(0); })},
        {"three VLAN tags", changed({.vlan = 1},
                                    [](Frame &f) {
                                        for (int i = 0; i < 2; ++i)
                                            f.insert(f.begin() + 12, {0x81, 0, 0, 1});
                                    })},
        {"no headers at all", Frame(300, 0x42)},
    };
    std::uint64_t dropped = 0;
    for (const auto &[what, frame] : cases) {
        SCOPED_TRACE(what);
        d.send(d.wqe({.cs_flags = kSums},
                     QuicDriver::inline_segment(some_keys(), 5, some_pn_offset()), {frame}));
        EXPECT_EQ(d.completion(), kDone);
        EXPECT_EQ(d.counters().drop_headers(), ++dropped);
        EXPECT_TRUE(d.host.wire.empty());
    }
    // A TCP batch: all its packets.
    d.send(d.wqe({.mss = 100, .inline_header = make_frame({.tcp = true}, {})},
                 QuicDriver::inline_segment(some_keys(), 5, 1), {Frame(250)}),
           MLX5_OPCODE_LSO);
    EXPECT_EQ(d.completion(), kDone);
    EXPECT_EQ(d.counters().drop_headers(), dropped + 3);
    EXPECT_TRUE(d.host.wire.empty());
}

TEST(QuicDrop, NoRoomForASample) {
    QuicDriver d;
    for (const std::size_t pn_offset : {1, 9, 21}) {
        for (const std::size_t size : {std::size_t{0}, std::size_t{1}, pn_offset + 19}) {
            d.send(d.wqe({.cs_flags = kSums}, QuicDriver::inline_segment(some_keys(), 5, pn_offset),
                         {make_frame({}, Frame(size, 0x40))}));
            EXPECT_EQ(d.completion(), kDone);
            EXPECT_TRUE(d.host.wire.empty());
        }
        d.send(d.wqe({.cs_flags = kSums}, QuicDriver::inline_segment(some_keys(), 5, pn_offset),
                     {make_frame({}, Frame(pn_offset + 20, 0x40))}));
        EXPECT_EQ(d.host.wire.size(), 1U);
        d.host.wire.clear();
        EXPECT_EQ(d.completion(), kDone);
    }
    EXPECT_EQ(d.counters().drop_short(), 9U);
    // Of a batch, only the last packet that is too short.
    d.send(d.wqe({.mss = 100, .inline_header = make_frame({}, {})},
                 QuicDriver::inline_segment(some_keys(), 5, 9), {Frame(210, 0x40)}),
           MLX5_OPCODE_LSO);
    EXPECT_EQ(d.completion(), kDone);
    EXPECT_EQ(d.host.wire.size(), 2U);
    EXPECT_EQ(d.counters().drop_short(), 10U);
}

// --- where the data are --------------------------------------------------------------------------

/// What leaves for a batch of 20 packets of 300 bytes and a shorter one, more than the model has
/// under construction at a time, when its data are cut at `cuts`.
std::deque<Frame> batch_frames(Cipher cipher, bool views, const std::vector<std::size_t> &cuts,
                               std::vector<Frame> *packets = nullptr) {
    constexpr std::size_t kSize = 300;
    QuicDriver d;
    d.host.views = views;
    const std::uint32_t sa = d.must_create(some_keys(3, cipher), 9);
    Frame batch;
    for (unsigned i = 0; i < 21; ++i) {
        const Frame packet = some_packet(40 + i, (i < 20 ? kSize : kSize - 70) - kTag);
        if (packets != nullptr)
            packets->push_back(packet);
        const Frame room = with_room(packet);
        batch.insert(batch.end(), room.begin(), room.end());
    }
    std::vector<Message> pieces;
    std::size_t from = 0;
    for (std::size_t to : cuts) {
        pieces.emplace_back(batch.begin() + static_cast<std::ptrdiff_t>(from),
                            batch.begin() + static_cast<std::ptrdiff_t>(to));
        from = to;
    }
    pieces.emplace_back(batch.begin() + static_cast<std::ptrdiff_t>(from), batch.end());
    MiniDriver::EthOptions o;
    o.mss = kSize;
    const Frame frame = make_frame({}, batch);
    o.inline_header = {frame.begin(), frame.begin() + static_cast<std::ptrdiff_t>(header_size({}))};
    d.send(d.wqe(o, QuicDriver::index_segment(sa, 9, 40, some_pn_offset()), pieces),
           MLX5_OPCODE_LSO);
    EXPECT_EQ(d.completion(), kDone);
    return d.host.wire;
}

TEST(QuicData, InPlaceOrCopiedInOnePieceOrMany) {
    for (const Cipher cipher : quic_test::kAllCiphers) {
        std::vector<Frame> packets;
        const auto frames = batch_frames(cipher, true, {}, &packets);
        ASSERT_EQ(frames.size(), 21U);
        for (std::size_t i = 0; i < frames.size(); ++i) {
            EXPECT_TRUE(checksums_ok(frames[i], {}));
            const auto opened = quic_test::unprotect(some_keys(3, cipher),
                                                     std::span(frames[i]).subspan(header_size({})),
                                                     some_pn_offset(), 40 + i);
            ASSERT_TRUE(opened) << i;
            EXPECT_EQ(opened->packet, packets[i]);
        }
        // Cuts within a header, within a payload, within a tag, and between packets.
        const std::vector<std::size_t> cuts{5, 450, 895, 3000, 4801};
        EXPECT_EQ(batch_frames(cipher, false, {}), frames);
        EXPECT_EQ(batch_frames(cipher, true, cuts), frames);
        EXPECT_EQ(batch_frames(cipher, false, cuts), frames);
    }
}

TEST(QuicData, ChangesUnderTheDevice) {
    QuicDriver d;
    const std::uint32_t sa = d.must_create(some_keys(), 9);
    constexpr std::size_t kSize = 100;
    constexpr std::size_t kPackets = 40;
    const std::uint64_t at = d.host.alloc(kSize * kPackets);
    d.host.on_wire_tx = [&](std::span<const std::uint8_t> frame) {
        // Another first byte, and so another length of the header, for all that come after.
        const auto memory = d.host.span(at, kSize * kPackets);
        std::fill(memory.begin(), memory.end(), frame.back());
    };
    MiniDriver::EthOptions o;
    o.mss = kSize;
    const Frame frame = make_frame({}, Frame(kSize * kPackets));
    o.inline_header = {frame.begin(), frame.begin() + static_cast<std::ptrdiff_t>(header_size({}))};
    Message segments = d.wqe(o, QuicDriver::index_segment(sa, 9, 0, 20), {Message(64)});
    store_be<std::uint32_t>(segments.data() + segments.size() - 16, kSize * kPackets);
    store_be<std::uint64_t>(segments.data() + segments.size() - 8, at);
    d.send(segments, MLX5_OPCODE_LSO);
    EXPECT_EQ(d.completion(), kDone);
    ASSERT_EQ(d.host.wire.size(), kPackets);
    for (const Frame &f : d.host.wire)
        EXPECT_TRUE(checksums_ok(f, {}));
}

// --- malformed WQEs ------------------------------------------------------------------------------

class QuicMalformed : public testing::Test {
  protected:
    /// The WQE ends in this error, and nothing of it leaves.
    void expect(QuicDriver &on, unsigned vendor, unsigned opcode, const Message &segments,
                unsigned syndrome = MLX5_CQE_SYNDROME_LOCAL_QP_OP_ERR) {
        const std::uint64_t errors = on.counters().wqe_errors();
        on.host.wire.clear();
        on.send(segments, opcode, false);
        EXPECT_EQ(on.completion(), std::pair(syndrome, vendor));
        EXPECT_TRUE(on.host.wire.empty());
        EXPECT_EQ(on.counters().wqe_errors(), errors + 1);
        on.recover();
        // The queue works again.
        on.send(on.wqe({.cs_flags = kSums},
                       QuicDriver::inline_segment(some_keys(), 5, some_pn_offset()),
                       {some_frame()}));
        EXPECT_EQ(on.completion(), kDone);
        EXPECT_EQ(on.host.wire.size(), 1U);
    }
    void expect(unsigned vendor, const Message &quic, unsigned opcode = MLX5_OPCODE_SEND) {
        expect(d, vendor, opcode, d.wqe({.cs_flags = kSums}, quic, {some_frame()}));
    }
    static Message changed(Message m, std::size_t at, std::uint8_t value) {
        m[at] ^= value;
        return m;
    }
    Message lso(const Message &quic, std::size_t payload, unsigned mss) {
        return d.wqe({.cs_flags = kSums, .mss = mss, .inline_header = make_frame({}, {})}, quic,
                     {Frame(payload, 0x40)});
    }
    Message good_inline(std::size_t pn_offset = some_pn_offset(), std::uint64_t pn = 5) {
        return QuicDriver::inline_segment(some_keys(), pn, pn_offset);
    }
    Message good_index(std::size_t pn_offset = some_pn_offset(), std::uint64_t pn = 5) {
        if (!id_)
            id_ = d.must_create(some_keys(), 1);
        return QuicDriver::index_segment(*id_, 1, pn, pn_offset);
    }

    QuicDriver d;

  private:
    std::optional<std::uint32_t> id_;
};

TEST_F(QuicMalformed, Opcode) {
    expect(MLX5_QUIC_VENDOR_SYND_OPCODE, good_inline(), MLX5_OPCODE_ENHANCED_MPSW);
    expect(MLX5_QUIC_VENDOR_SYND_OPCODE, good_index(), MLX5_OPCODE_ENHANCED_MPSW);
    expect(MLX5_QUIC_VENDOR_SYND_OPCODE, good_inline(), MLX5_OPCODE_NOP);
    expect(MLX5_QUIC_VENDOR_SYND_OPCODE, good_inline(), MLX5_OPCODE_UMR);
    Config config;
    config.quic_lso = false;
    QuicDriver without_lso(config);
    expect(without_lso, MLX5_QUIC_VENDOR_SYND_OPCODE, MLX5_OPCODE_LSO,
           without_lso.wqe({.mss = 100, .inline_header = make_frame({}, {})}, good_inline(),
                           {Frame(250)}));
}

TEST_F(QuicMalformed, UnknownModifier) {
    for (const unsigned opcode : {MLX5_OPCODE_SEND, MLX5_OPCODE_LSO, MLX5_OPCODE_ENHANCED_MPSW}) {
        d.post(d.sq, 0x52U << 24 | opcode, d.eth_segments({}, {some_frame()}), false);
        EXPECT_EQ(d.completion().first, MLX5_CQE_SYNDROME_LOCAL_QP_OP_ERR);
        EXPECT_TRUE(d.host.wire.empty());
        d.recover();
    }
    EXPECT_EQ(d.counters().wqe_errors(), 0U);
}

TEST_F(QuicMalformed, Truncated) {
    const Message whole = d.wqe({}, good_inline(), {});
    for (std::size_t size = 0; size < whole.size(); size += 16)
        expect(d, MLX5_QUIC_VENDOR_SYND_TRUNCATED, MLX5_OPCODE_SEND,
               Message(whole.begin(), whole.begin() + static_cast<std::ptrdiff_t>(size)));
    expect(d, MLX5_QUIC_VENDOR_SYND_TRUNCATED, MLX5_OPCODE_SEND, d.eth_segments({}, {}));
    // Inlined headers that reach beyond the end.
    Message seg(16);
    store_be<std::uint16_t>(seg.data() + 12, 0x3ff);
    expect(d, MLX5_QUIC_VENDOR_SYND_TRUNCATED, MLX5_OPCODE_SEND, seg);
    // All there, but without data: an empty frame is as wrong as in any SEND.
    expect(d, 0, MLX5_OPCODE_SEND, whole, MLX5_CQE_SYNDROME_LOCAL_LENGTH_ERR);
}

TEST_F(QuicMalformed, Form) {
    expect(MLX5_QUIC_VENDOR_SYND_FORM, changed(good_index(), 0, 0x80));
    expect(MLX5_QUIC_VENDOR_SYND_FORM, changed(good_index(), 0, 0xc0));
    Config config;
    config.quic_inline = false;
    QuicDriver no_inline(config);
    no_inline.send(no_inline.wqe({}, good_inline(), {some_frame()}));
    EXPECT_EQ(no_inline.completion().second, MLX5_QUIC_VENDOR_SYND_FORM);
    config.quic_inline = true;
    config.sadb_size = 0;
    QuicDriver no_database(config);
    no_database.send(no_database.wqe({}, good_index(), {some_frame()}));
    EXPECT_EQ(no_database.completion().second, MLX5_QUIC_VENDOR_SYND_FORM);
    EXPECT_EQ(no_database.create(some_keys(), 1).status, MLX5_CMD_STAT_NO_RES_ERR);
    EXPECT_TRUE(no_inline.host.wire.empty() && no_database.host.wire.empty());
}

TEST_F(QuicMalformed, Reserved) {
    expect(MLX5_QUIC_VENDOR_SYND_RESERVED, changed(good_inline(), 11, 1));   // SA
    expect(MLX5_QUIC_VENDOR_SYND_RESERVED, changed(good_inline(), 9, 0x10)); // its highest bit
    expect(MLX5_QUIC_VENDOR_SYND_RESERVED, changed(good_inline(), 15, 1));   // tag
    for (std::size_t i = 1; i < 4; ++i)
        expect(MLX5_QUIC_VENDOR_SYND_RESERVED, changed(good_inline(), 16 + i, 1));
    for (const std::size_t i : {0x20, 0x2f, 0x40, 0x4f})
        expect(MLX5_QUIC_VENDOR_SYND_RESERVED, changed(good_inline(), 16 + i, 1));
}

TEST_F(QuicMalformed, PnOffset) {
    expect(MLX5_QUIC_VENDOR_SYND_PN_OFFSET, good_inline(0));
    expect(MLX5_QUIC_VENDOR_SYND_PN_OFFSET, good_index(0));
}

TEST_F(QuicMalformed, SaRange) {
    expect(MLX5_QUIC_VENDOR_SYND_SA_RANGE, QuicDriver::index_segment(1U << 16, 1, 5, 9));
    expect(MLX5_QUIC_VENDOR_SYND_SA_RANGE, QuicDriver::index_segment((1U << 21) - 1, 1, 5, 9));
    d.send(d.wqe({}, QuicDriver::index_segment((1U << 16) - 1, 1, 5, 9), {some_frame()}));
    EXPECT_EQ(d.completion(), kDone);
    EXPECT_EQ(d.counters().drop_stale_sa(), 1U);
}

TEST_F(QuicMalformed, CipherOfInlineForm) {
    expect(MLX5_QUIC_VENDOR_SYND_CIPHER, changed(good_inline(), 16, 1));
    expect(MLX5_QUIC_VENDOR_SYND_CIPHER, changed(good_inline(), 16, 0x80));
    Config config;
    ASSERT_TRUE(parse_quic_ciphers("aes-256-gcm", config.quic_ciphers));
    QuicDriver other(config);
    other.send(other.wqe({}, good_inline(), {some_frame()}));
    EXPECT_EQ(other.completion().second, MLX5_QUIC_VENDOR_SYND_CIPHER);
    EXPECT_TRUE(other.host.wire.empty());
}

TEST_F(QuicMalformed, PacketNumberAndSegments) {
    constexpr std::uint64_t kMax = (1ULL << 62) - 1;
    expect(d, MLX5_QUIC_VENDOR_SYND_PN, MLX5_OPCODE_LSO, lso(good_inline(9, kMax - 1), 300, 100));
    expect(d, MLX5_QUIC_VENDOR_SYND_PN, MLX5_OPCODE_LSO, lso(good_index(9, kMax), 101, 100));
    d.send(lso(good_inline(9, kMax - 2), 300, 100), MLX5_OPCODE_LSO);
    EXPECT_EQ(d.completion(), kDone);
    EXPECT_EQ(d.host.wire.size(), 3U + 1U); // one of expect()

    const unsigned most = IFC_GET(quic_cap, ConstBytes(quic_cap(d)), max_lso_segments);
    expect(d, MLX5_QUIC_VENDOR_SYND_SEGMENTS, MLX5_OPCODE_LSO,
           lso(good_inline(), most * 40 + 1, 40));
    d.host.wire.clear();
    d.send(lso(good_inline(), most * 40, 40), MLX5_OPCODE_LSO);
    EXPECT_EQ(d.completion(), kDone);
    EXPECT_EQ(d.host.wire.size(), most);
    // No segment size: wrong as without QUIC.
    expect(d, 0, MLX5_OPCODE_LSO, lso(good_inline(), 300, 0), MLX5_CQE_SYNDROME_LOCAL_LENGTH_ERR);
}

TEST_F(QuicMalformed, OtherOffloads) {
    const Frame f = some_frame();
    for (const unsigned flag : {MLX5_ETH_WQE_L3_INNER_CSUM, MLX5_ETH_WQE_L4_INNER_CSUM})
        expect(d, MLX5_QUIC_VENDOR_SYND_OFFLOADS, MLX5_OPCODE_SEND,
               d.wqe({.cs_flags = flag}, good_inline(), {f}));
    expect(d, MLX5_QUIC_VENDOR_SYND_OFFLOADS, MLX5_OPCODE_SEND,
           changed(d.wqe({}, good_inline(), {f}), 5, MLX5_ETH_WQE_SWP_OUTER_L4_UDP));
    expect(d, MLX5_QUIC_VENDOR_SYND_OFFLOADS, MLX5_OPCODE_SEND,
           changed(d.wqe({}, good_inline(), {f}), 12, 0x40)); // trailer
}

TEST_F(QuicMalformed, ChecksComeInOrder) {
    // Each has the faults of all that follow.
    Message m = QuicDriver::inline_segment(some_keys(), (1ULL << 62) - 1, 0);
    m[15] = 1;  // tag
    m[16] = 99; // cipher
    m[0] |= 0x80;
    const auto lso_with = [&](const Message &quic) {
        return d.wqe(
            {.cs_flags = MLX5_ETH_WQE_L4_INNER_CSUM, .mss = 1, .inline_header = make_frame({}, {})},
            quic, {Frame(1000)});
    };
    expect(d, MLX5_QUIC_VENDOR_SYND_OPCODE, MLX5_OPCODE_ENHANCED_MPSW, lso_with(m));
    expect(d, MLX5_QUIC_VENDOR_SYND_FORM, MLX5_OPCODE_LSO, lso_with(m));
    m[0] ^= 0x80;
    expect(d, MLX5_QUIC_VENDOR_SYND_RESERVED, MLX5_OPCODE_LSO, lso_with(m));
    m[15] = 0;
    expect(d, MLX5_QUIC_VENDOR_SYND_PN_OFFSET, MLX5_OPCODE_LSO, lso_with(m));
    m[8] = 1;
    expect(d, MLX5_QUIC_VENDOR_SYND_CIPHER, MLX5_OPCODE_LSO, lso_with(m));
    m[16] = MLX5_QUIC_CIPHER_AES_128_GCM;
    expect(d, MLX5_QUIC_VENDOR_SYND_PN, MLX5_OPCODE_LSO, lso_with(m));
    m[1] = 0;
    expect(d, MLX5_QUIC_VENDOR_SYND_SEGMENTS, MLX5_OPCODE_LSO, lso_with(m));
}

TEST_F(QuicMalformed, DataErrorsAreAsWithoutQuic) {
    Message seg = d.wqe({}, good_inline(), {some_frame()});
    store_be<std::uint32_t>(seg.data() + seg.size() - 12, 0xdead00); // key
    expect(d, 0, MLX5_OPCODE_SEND, seg, MLX5_CQE_SYNDROME_LOCAL_PROT_ERR);
}

// --- anything at all -----------------------------------------------------------------------------

TEST(QuicFuzz, NoWqeLetsPlaintextOut) {
    QuicDriver d;
    std::mt19937 random(20261122);
    const auto id = d.must_create(some_keys(), 1);
    // Data that stays where it is, so that 20,000 WQEs need no memory.
    const Frame frame = some_frame();
    Frame payload;
    for (std::uint64_t i = 0; i < 8; ++i) {
        const Frame p = with_room(some_packet(i, 200));
        payload.insert(payload.end(), p.begin(), p.end());
    }
    std::vector<Message> bases;
    for (const Message &quic : {QuicDriver::index_segment(id, 1, 5, some_pn_offset()),
                                QuicDriver::inline_segment(some_keys(), 5, some_pn_offset())}) {
        bases.push_back(d.wqe({.cs_flags = kSums}, quic, {frame}));
        bases.push_back(d.wqe({.cs_flags = kSums, .vlan = 5}, quic, {frame}));
        bases.push_back(d.wqe({.cs_flags = kSums, .mss = 216, .inline_header = make_frame({}, {})},
                              quic, {payload}));
    }
    unsigned frames = 0;
    unsigned errors = 0;
    for (unsigned i = 0; i < 20'000; ++i) {
        const std::size_t which = random() % bases.size();
        Message m = bases[which];
        // All but pn_offset, which says how much of a packet is header and stays readable.
        const std::size_t pn_offset = which % 3 == 2 ? 64 + 8 : 16 + 8;
        for (unsigned flips = random() % 4; flips > 0; --flips)
            if (const std::size_t at = random() % m.size(); at / 2 != pn_offset / 2)
                m[at] ^= static_cast<std::uint8_t>(1U << random() % 8);
        if (random() % 16 == 0)
            m.resize(random() % m.size() / 16 * 16);
        const unsigned opcode = random() % 16 == 0 ? MLX5_OPCODE_ENHANCED_MPSW
                                : which % 3 == 2   ? MLX5_OPCODE_LSO
                                                   : MLX5_OPCODE_SEND;
        d.host.wire.clear();
        d.send(m, opcode);
        for (const Frame &f : d.host.wire) {
            ++frames;
            const std::size_t header = parse_packet(f).payload_offset + some_pn_offset() + 4;
            ASSERT_FALSE(quic_test::contains_plaintext(ConstBytes(f).subspan(header)))
                << "WQE " << i;
        }
        const auto result = d.completion();
        ASSERT_NE(result.first, ~0U) << "WQE " << i << " was never completed";
        if (result.first != 0) {
            ++errors;
            d.recover();
        }
    }
    EXPECT_GT(frames, 1000U);
    EXPECT_GT(errors, 100U);
    EXPECT_EQ(d.counters().wqe_errors(), errors);
}

} // namespace
} // namespace connectx::test
