// SPDX-License-Identifier: GPL-2.0
//
// Send queues: every WQE kind, what leaves on the wire, and what a wrong WQE gets.
#include "mini_driver.h"
#include "packets.h"

#include <gtest/gtest.h>

namespace connectx::test {
namespace {

class Send : public testing::Test {
  protected:
    void SetUp() override {
        d.open();
        cq = d.create_cq(8);
        sq = d.create_sq(cq, 7);
    }

    /// One completion without error.
    void expect_done(unsigned opcode) {
        const mlx5_cqe64 *cqe = d.poll(cq);
        ASSERT_NE(cqe, nullptr);
        EXPECT_EQ(cqe->op_own >> 4, MLX5_CQE_REQ);
        EXPECT_EQ(be32_to_cpu(cqe->sop_drop_qpn), opcode << 24 | sq.id);
    }

    Syndrome expect_error() {
        const mlx5_cqe64 *cqe = d.poll(cq);
        if (cqe == nullptr || cqe->op_own >> 4 != MLX5_CQE_REQ_ERR)
            return Syndrome::kOk;
        return static_cast<Syndrome>(reinterpret_cast<const mlx5_err_cqe *>(cqe)->syndrome);
    }

    unsigned sq_state() {
        auto in = REQUEST(query_sq, QUERY_SQ);
        IFC_SET(query_sq_in, Bytes(in), sqn, sq.id);
        return IFC_GET(query_sq_out, ConstBytes(d.must(in, IFC_BYTES(query_sq_out))),
                       sq_context.state);
    }

    MiniDriver d;
    TestCq cq;
    TestSq sq;
};

TEST_F(Send, FrameLeavesUnchanged) {
    Flow flow;
    Frame f = make_frame(flow, pattern(300));
    add_checksums(f, flow);
    d.post(sq, MLX5_OPCODE_SEND, d.eth_segments({}, {f}));
    ASSERT_EQ(d.host.wire.size(), 1U);
    EXPECT_EQ(d.host.wire[0], f);
    expect_done(MLX5_OPCODE_SEND);
}

TEST_F(Send, ScatteredOverSegmentsAndInlineHeader) {
    const Frame f = make_frame({}, pattern(1000));
    MiniDriver::EthOptions o;
    o.inline_header.assign(f.begin(), f.begin() + 18);
    d.post(sq, MLX5_OPCODE_SEND,
           d.eth_segments(o, {Frame(f.begin() + 18, f.begin() + 19),
                              Frame(f.begin() + 19, f.begin() + 500),
                              Frame(f.begin() + 500, f.end())}));
    ASSERT_EQ(d.host.wire.size(), 1U);
    EXPECT_EQ(d.host.wire[0], f);
}

TEST_F(Send, ShortFrameIsPadded) {
    const Frame f = make_frame({}, {1, 2, 3});
    d.post(sq, MLX5_OPCODE_SEND, d.eth_segments({}, {f}));
    ASSERT_EQ(d.host.wire.size(), 1U);
    Frame padded = f;
    padded.resize(60);
    EXPECT_EQ(d.host.wire[0], padded);
}

TEST_F(Send, ChecksumsOnlyWhenAskedFor) {
    for (bool v6 : {false, true})
        for (bool tcp : {false, true})
            for (int vlan : {-1, 7}) {
                Flow flow{.v6 = v6, .tcp = tcp, .vlan = vlan};
                const Frame f = make_frame(flow, pattern(777));
                d.post(sq, MLX5_OPCODE_SEND, d.eth_segments({}, {f}));
                EXPECT_EQ(d.host.wire.back(), f);
                d.post(
                    sq, MLX5_OPCODE_SEND,
                    d.eth_segments({.cs_flags = MLX5_ETH_WQE_L3_CSUM | MLX5_ETH_WQE_L4_CSUM}, {f}));
                EXPECT_TRUE(checksums_ok(d.host.wire.back(), flow));
                // All but the checksums is as it was.
                Frame expected = f;
                add_checksums(expected, flow);
                EXPECT_EQ(d.host.wire.back(), expected);
            }
}

TEST_F(Send, VlanInsertion) {
    const Frame f = make_frame({}, pattern(100));
    for (bool svlan : {false, true}) {
        d.post(sq, MLX5_OPCODE_SEND, d.eth_segments({.vlan = 0xa123, .svlan = svlan}, {f}));
        Frame expected = f;
        const Frame tag{static_cast<std::uint8_t>(svlan ? 0x88 : 0x81),
                        static_cast<std::uint8_t>(svlan ? 0xa8 : 0x00), 0xa1, 0x23};
        expected.insert(expected.begin() + 12, tag.begin(), tag.end());
        EXPECT_EQ(d.host.wire.back(), expected);
    }
    // With checksum offload the tag must not disturb the sums.
    Flow flow{.vlan = 0x0005};
    d.post(sq, MLX5_OPCODE_SEND,
           d.eth_segments({.cs_flags = MLX5_ETH_WQE_L3_CSUM | MLX5_ETH_WQE_L4_CSUM, .vlan = 5},
                          {make_frame({}, pattern(100))}));
    EXPECT_TRUE(checksums_ok(d.host.wire.back(), flow));
}

struct LsoCase {
    bool v6;
    bool tcp;
    int vlan;
    std::size_t payload;
    unsigned mss;
};

class Lso : public Send, public testing::WithParamInterface<LsoCase> {};

TEST_P(Lso, SegmentsReassembleAndVerify) {
    const LsoCase c = GetParam();
    Flow flow{.v6 = c.v6, .tcp = c.tcp, .vlan = c.vlan, .tcp_flags = 0x80 | 0x10 | 0x08 | 0x01};
    const Frame payload = pattern(c.payload);
    const Frame header = make_frame(flow, {});
    std::vector<Message> parts;
    for (std::size_t off = 0; off < payload.size(); off += 1111)
        parts.emplace_back(payload.begin() + static_cast<std::ptrdiff_t>(off),
                           payload.begin() +
                               static_cast<std::ptrdiff_t>(std::min(off + 1111, payload.size())));
    // Few enough segments for one WQE.
    if (parts.size() > 40)
        parts = {payload};
    d.post(sq, MLX5_OPCODE_LSO,
           d.eth_segments({.cs_flags = MLX5_ETH_WQE_L3_CSUM | MLX5_ETH_WQE_L4_CSUM,
                           .mss = c.mss,
                           .inline_header = header},
                          parts));
    const std::size_t count = (c.payload + c.mss - 1) / c.mss;
    ASSERT_EQ(d.host.wire.size(), count);
    Frame together;
    const std::size_t hs = header_size(flow);
    const std::size_t l4 = l4_offset(flow);
    for (std::size_t i = 0; i < count; ++i) {
        const Frame &f = d.host.wire[i];
        const std::size_t len = std::min<std::size_t>(c.mss, c.payload - i * c.mss);
        EXPECT_EQ(f.size(), std::max<std::size_t>(60, hs + len));
        EXPECT_TRUE(checksums_ok(f, flow)) << i;
        if (!c.v6) {
            EXPECT_EQ(get16(f, l3_offset(flow) + 4), 0x1234 + i); // identification
            EXPECT_EQ(get16(f, l3_offset(flow) + 2), hs - l3_offset(flow) + len);
        } else {
            EXPECT_EQ(get16(f, l3_offset(flow) + 4), hs - l3_offset(flow) - 40 + len);
        }
        if (c.tcp) {
            EXPECT_EQ(get32(f, l4 + 4), 0x11223344U + i * c.mss);
            const bool last = i + 1 == count;
            EXPECT_EQ(f[l4 + 13] & 0x09, last ? 0x09 : 0);   // PSH, FIN
            EXPECT_EQ(f[l4 + 13] & 0x80, i == 0 ? 0x80 : 0); // CWR
            EXPECT_EQ(f[l4 + 13] & 0x10, 0x10);
        } else {
            EXPECT_EQ(get16(f, l4 + 4), 8 + len);
        }
        together.insert(together.end(), f.begin() + static_cast<std::ptrdiff_t>(hs),
                        f.begin() + static_cast<std::ptrdiff_t>(hs + len));
    }
    EXPECT_EQ(together, payload);
    expect_done(MLX5_OPCODE_LSO);
}

INSTANTIATE_TEST_SUITE_P(
    Boundaries, Lso, testing::ValuesIn([] {
        std::vector<LsoCase> cases;
        for (bool v6 : {false, true})
            for (bool tcp : {false, true})
                for (unsigned mss : {1U, 100U, 1200U, 1448U})
                    for (std::size_t n : {1UL, 2UL, 53UL})
                        for (int delta : {-1, 0, 1}) {
                            const std::size_t payload = mss * n + static_cast<std::size_t>(delta);
                            if (payload > 0 && payload < 0xffff)
                                cases.push_back({v6, tcp, n == 2 ? 9 : -1, payload, mss});
                        }
        return cases;
    }()));

TEST_F(Send, MultiPacketWqe) {
    std::vector<Message> frames;
    for (unsigned i = 0; i < 12; ++i)
        frames.push_back(make_frame({.sport = 100 + i}, pattern(60 + i * 100, i)));
    d.post(sq, MLX5_OPCODE_ENHANCED_MPSW,
           d.eth_segments({.cs_flags = MLX5_ETH_WQE_L3_CSUM | MLX5_ETH_WQE_L4_CSUM}, frames));
    ASSERT_EQ(d.host.wire.size(), frames.size());
    for (std::size_t i = 0; i < frames.size(); ++i) {
        Frame expected = frames[i];
        add_checksums(expected, {});
        EXPECT_EQ(d.host.wire[i], expected);
    }
    expect_done(MLX5_OPCODE_ENHANCED_MPSW);
    EXPECT_EQ(d.poll(cq), nullptr);
}

TEST_F(Send, InlineDataSegments) {
    const Frame f = make_frame({}, pattern(40));
    Message seg(16);
    Message inl(4);
    store_be<std::uint32_t>(inl.data(), MLX5_INLINE_SEG | static_cast<std::uint32_t>(f.size()));
    inl.insert(inl.end(), f.begin(), f.end());
    inl.resize((inl.size() + 15) / 16 * 16);
    seg.insert(seg.end(), inl.begin(), inl.end());
    d.post(sq, MLX5_OPCODE_SEND, seg);
    EXPECT_EQ(d.host.wire.back(), f);
    d.post(sq, MLX5_OPCODE_ENHANCED_MPSW, seg);
    ASSERT_EQ(d.host.wire.size(), 2U);
    EXPECT_EQ(d.host.wire.back(), f);
}

TEST_F(Send, NopAndUnsignaledWqes) {
    d.post(sq, MLX5_OPCODE_NOP, {}, false);
    EXPECT_EQ(d.poll(cq), nullptr);
    d.post(sq, MLX5_OPCODE_NOP, {}, true);
    const mlx5_cqe64 *cqe = d.poll(cq);
    ASSERT_NE(cqe, nullptr);
    EXPECT_EQ(be16_to_cpu(cqe->wqe_counter), 1);
}

TEST_F(Send, RingWrapsRound) {
    for (unsigned i = 0; i < 400; ++i) {
        const Frame f = make_frame({}, pattern(100 + i, i));
        d.post(sq, MLX5_OPCODE_SEND, d.eth_segments({}, {f, {}, {}}));
        ASSERT_EQ(d.host.wire.size(), i + 1);
        ASSERT_EQ(d.host.wire.back(), f);
        expect_done(MLX5_OPCODE_SEND);
    }
}

TEST_F(Send, OneDoorbellForMany) {
    for (unsigned i = 0; i < 30; ++i)
        d.post(sq, MLX5_OPCODE_SEND, d.eth_segments({}, {make_frame({}, pattern(10, i))}), i == 29,
               false);
    EXPECT_TRUE(d.host.wire.empty());
    d.doorbell(sq, 0);
    EXPECT_EQ(d.host.wire.size(), 30U);
    expect_done(MLX5_OPCODE_SEND);
}

TEST_F(Send, BlueFlameCarriesTheWqe) {
    const Frame f = make_frame({}, pattern(50));
    d.post(sq, MLX5_OPCODE_SEND, d.eth_segments({}, {f}), true, false);
    d.host.put<std::uint32_t>(sq.dbr + 4, sq.pc);
    const auto wqe = d.host.span(sq.ring.entry(0), 64);
    const std::vector<std::uint8_t> copy(wqe.begin(), wqe.end());
    // What is in memory by then does not matter.
    std::fill(wqe.begin(), wqe.end(), 0);
    d.dev.mmio_write((static_cast<std::uint64_t>(d.uar) << 12) + 0x800, copy);
    d.settle();
    ASSERT_EQ(d.host.wire.size(), 1U);
    EXPECT_EQ(d.host.wire[0], f);
}

TEST_F(Send, DoorbellInTwoHalves) {
    d.post(sq, MLX5_OPCODE_NOP, {}, true, false);
    d.host.put<std::uint32_t>(sq.dbr + 4, sq.pc);
    const std::uint64_t at = (static_cast<std::uint64_t>(d.uar) << 12) + 0x900;
    d.write32(at, 0);
    d.settle();
    EXPECT_EQ(d.poll(cq), nullptr);
    d.write32(at + 4, sq.id << 8 | 1);
    d.settle();
    EXPECT_NE(d.poll(cq), nullptr);
}

TEST_F(Send, ForeignUarAndUnknownQueueAreIgnored) {
    const auto other =
        IFC_GET(alloc_uar_out,
                ConstBytes(d.must(REQUEST(alloc_uar, ALLOC_UAR), IFC_BYTES(alloc_uar_out))), uar);
    d.post(sq, MLX5_OPCODE_NOP, {}, true, false);
    d.host.put<std::uint32_t>(sq.dbr + 4, sq.pc);
    d.write64((static_cast<std::uint64_t>(other) << 12) + 0x800, sq.id << 8 | 1);
    d.write64((static_cast<std::uint64_t>(d.uar) << 12) + 0x800, 0xabcdefULL << 8);
    d.write64((static_cast<std::uint64_t>(d.uar + 5) << 12) + 0x800, sq.id << 8 | 1);
    d.settle();
    EXPECT_EQ(d.poll(cq), nullptr);
}

TEST_F(Send, LinkDownSendsNothingButCompletes) {
    d.dev.set_link(false);
    d.post(sq, MLX5_OPCODE_SEND, d.eth_segments({}, {make_frame({}, pattern(100))}));
    EXPECT_TRUE(d.host.wire.empty());
    expect_done(MLX5_OPCODE_SEND);
}

TEST_F(Send, UmrRewritesTheTranslation) {
    auto mk = request(MLX5_CMD_OP_CREATE_MKEY, IFC_BYTES(create_mkey_in));
    const Bytes mkc = IFC_AT(create_mkey_in, Bytes(mk), memory_key_mkey_entry);
    IFC_SET(mkc, mkc, access_mode_1_0, MLX5_MKC_ACCESS_MODE_MTT);
    IFC_SET(mkc, mkc, free, 1);
    IFC_SET(mkc, mkc, umr_en, 1);
    IFC_SET(mkc, mkc, lr, 1);
    IFC_SET(mkc, mkc, lw, 1);
    IFC_SET(mkc, mkc, pd, d.pd);
    IFC_SET(mkc, mkc, translations_octword_size, 8);
    IFC_SET(mkc, mkc, log_page_size, 12);
    IFC_SET64(mkc, mkc, len, 16 * 4096);
    const std::uint32_t key =
        IFC_GET(create_mkey_out, ConstBytes(d.must(mk, IFC_BYTES(create_mkey_out))), mkey_index)
        << 8;
    const std::uint64_t a = d.host.alloc(4096);
    const std::uint64_t b = d.host.alloc(4096);
    const Frame f = make_frame({}, pattern(2000 - 42));
    std::copy_n(f.begin(), 1000, d.host.at(a) + 3096);
    std::copy(f.begin() + 1000, f.end(), d.host.at(b));

    const auto umr = [&](unsigned offset, unsigned octwords, unsigned flags, std::uint64_t mask) {
        Message seg(48 + 64);
        seg[0] = static_cast<std::uint8_t>(flags);
        store_be<std::uint16_t>(seg.data() + 4, static_cast<std::uint16_t>(octwords));
        store_be<std::uint16_t>(seg.data() + 6, static_cast<std::uint16_t>(offset));
        store_be<std::uint64_t>(seg.data() + 8, mask);
        for (std::uint64_t page : {a, b}) {
            Message m(8);
            store_be<std::uint64_t>(m.data(), page | 3);
            seg.insert(seg.end(), m.begin(), m.end());
        }
        const auto pc = sq.pc;
        d.post(sq, MLX5_OPCODE_UMR, seg, true, false);
        d.host.put<std::uint32_t>(sq.ring.entry(pc) + 12, key);
        d.doorbell(sq, pc);
    };
    const auto send = [&](std::uint64_t at) {
        Message seg = d.eth_segments({}, {});
        Message s(16);
        store_be<std::uint32_t>(s.data(), 2000);
        store_be<std::uint32_t>(s.data() + 4, key);
        store_be<std::uint64_t>(s.data() + 8, at);
        seg.insert(seg.end(), s.begin(), s.end());
        d.post(sq, MLX5_OPCODE_SEND, seg);
    };
    constexpr unsigned kFlags = MLX5_UMR_INLINE | MLX5_UMR_TRANSLATION_OFFSET_EN;
    umr(2, 1, kFlags, MLX5_MKEY_MASK_FREE);
    expect_done(MLX5_OPCODE_UMR);
    send(4 * 4096 + 3096);
    ASSERT_EQ(d.host.wire.size(), 1U);
    EXPECT_EQ(d.host.wire[0], f);
    expect_done(MLX5_OPCODE_SEND);
    // Beyond the table: refused, and nothing is written.
    umr(8, 1, kFlags, MLX5_MKEY_MASK_FREE);
    EXPECT_EQ(expect_error(), Syndrome::kLocalProt);
}

/// A key that is made of pieces of another one, as AF_XDP's frames are: read across its pieces, and
/// moved by UMR. It may not be made of such keys.
TEST_F(Send, KeyMadeOfPieces) {
    constexpr unsigned kLogPiece = 10;
    const auto create = [&](unsigned mode, const std::vector<std::uint64_t> &entries,
                            unsigned log_piece) {
        auto mk = request(MLX5_CMD_OP_CREATE_MKEY, IFC_BYTES(create_mkey_in) + entries.size() * 8);
        const Bytes mkc = IFC_AT(create_mkey_in, Bytes(mk), memory_key_mkey_entry);
        IFC_SET(mkc, mkc, access_mode_1_0, mode);
        IFC_SET(mkc, mkc, umr_en, 1);
        IFC_SET(mkc, mkc, lr, 1);
        IFC_SET(mkc, mkc, pd, d.pd);
        IFC_SET(mkc, mkc, translations_octword_size, static_cast<unsigned>(entries.size() / 2));
        IFC_SET(create_mkey_in, Bytes(mk), translations_octword_actual_size,
                static_cast<unsigned>(entries.size() / 2));
        IFC_SET(mkc, mkc, log_page_size, log_piece);
        IFC_SET64(mkc, mkc, len, entries.size() / 2 << log_piece);
        for (std::size_t i = 0; i < entries.size(); ++i)
            store_be<std::uint64_t>(mk.data() + IFC_BYTES(create_mkey_in) + i * 8, entries[i]);
        return IFC_GET(create_mkey_out, ConstBytes(d.must(mk, IFC_BYTES(create_mkey_out))),
                       mkey_index)
               << 8;
    };
    const std::uint64_t memory = d.host.alloc(16384);
    const Frame f = make_frame({}, pattern(1500 - 42));
    std::copy_n(f.begin(), 1000, d.host.at(memory) + 5000 + 24);
    std::copy(f.begin() + 1000, f.end(), d.host.at(memory) + 333);
    const std::uint32_t key =
        create(MLX5_MKC_ACCESS_MODE_KSM, {d.lkey, memory + 5000, d.lkey, memory + 333}, kLogPiece);
    const auto send = [&](std::uint32_t with, std::uint64_t at, unsigned size = 1500) {
        Message seg = d.eth_segments({}, {});
        Message s(16);
        store_be<std::uint32_t>(s.data(), size);
        store_be<std::uint32_t>(s.data() + 4, with);
        store_be<std::uint64_t>(s.data() + 8, at);
        seg.insert(seg.end(), s.begin(), s.end());
        d.post(sq, MLX5_OPCODE_SEND, seg);
    };
    send(key, 24);
    ASSERT_EQ(d.host.wire.size(), 1U);
    EXPECT_EQ(d.host.wire[0], f);
    expect_done(MLX5_OPCODE_SEND);
    // Its second piece is moved, without regard to any page.
    std::copy(f.begin() + 1000, f.end(), d.host.at(memory) + 9001);
    std::fill_n(d.host.at(memory) + 333, 500, 0);
    Message seg(48 + 64 + 16);
    seg[0] = MLX5_UMR_INLINE | MLX5_UMR_TRANSLATION_OFFSET_EN;
    store_be<std::uint16_t>(seg.data() + 4, 1);
    store_be<std::uint16_t>(seg.data() + 6, 1);
    store_be<std::uint32_t>(seg.data() + 48 + 64 + 4, d.lkey);
    store_be<std::uint64_t>(seg.data() + 48 + 64 + 8, memory + 9001);
    const auto pc = sq.pc;
    d.post(sq, MLX5_OPCODE_UMR, seg, true, false);
    d.host.put<std::uint32_t>(sq.ring.entry(pc) + 12, key);
    d.doorbell(sq, pc);
    expect_done(MLX5_OPCODE_UMR);
    send(key, 24);
    ASSERT_EQ(d.host.wire.size(), 2U);
    EXPECT_EQ(d.host.wire[1], f);
    expect_done(MLX5_OPCODE_SEND);
    send(create(MLX5_MKC_ACCESS_MODE_KSM, {key, 0, key, 0}, kLogPiece), 24);
    EXPECT_EQ(expect_error(), Syndrome::kLocalProt);
}

TEST_F(Send, WrongWqesGetAnErrorCompletion) {
    const Frame f = make_frame({}, pattern(200));
    struct Case {
        const char *what;
        unsigned opcode;
        std::function<Message()> segments;
        Syndrome expected;
    };
    const auto with_key = [&](std::uint32_t key, std::uint64_t addr, std::uint32_t len) {
        Message seg = d.eth_segments({}, {});
        Message s(16);
        store_be<std::uint32_t>(s.data(), len);
        store_be<std::uint32_t>(s.data() + 4, key);
        store_be<std::uint64_t>(s.data() + 8, addr);
        seg.insert(seg.end(), s.begin(), s.end());
        return seg;
    };
    const std::uint64_t good = d.host.alloc(4096);
    const std::vector<Case> cases{
        {"opcode", MLX5_OPCODE_RDMA_WRITE, [&] { return d.eth_segments({}, {f}); },
         Syndrome::kLocalQpOp},
        {"unknown key", MLX5_OPCODE_SEND, [&] { return with_key(0xdead00, good, 100); },
         Syndrome::kLocalProt},
        {"wrong key byte", MLX5_OPCODE_SEND, [&] { return with_key(d.lkey ^ 1, good, 100); },
         Syndrome::kLocalProt},
        {"not memory", MLX5_OPCODE_SEND, [&] { return with_key(d.lkey, 0x10, 100); },
         Syndrome::kLocalProt},
        {"wraps round", MLX5_OPCODE_SEND, [&] { return with_key(d.lkey, ~0ULL - 10, 100); },
         Syndrome::kLocalProt},
        {"too long", MLX5_OPCODE_SEND, [&] { return with_key(d.lkey, good, 0x7fffffff); },
         Syndrome::kLocalLength},
        {"runt", MLX5_OPCODE_SEND, [&] { return with_key(d.lkey, good, 13); },
         Syndrome::kLocalLength},
        {"giant", MLX5_OPCODE_SEND, [&] { return with_key(d.lkey, FakeHost::kBase, 20000); },
         Syndrome::kLocalLength},
        {"inner checksum", MLX5_OPCODE_SEND,
         [&] { return d.eth_segments({.cs_flags = MLX5_ETH_WQE_L4_INNER_CSUM}, {f}); },
         Syndrome::kLocalQpOp},
        {"no segments", MLX5_OPCODE_SEND, [] { return Message{}; }, Syndrome::kLocalQpOp},
        {"LSO without mss", MLX5_OPCODE_LSO,
         [&] { return d.eth_segments({.inline_header = make_frame({}, {})}, {f}); },
         Syndrome::kLocalLength},
        {"LSO without header", MLX5_OPCODE_LSO, [&] { return d.eth_segments({.mss = 100}, {f}); },
         Syndrome::kLocalLength},
        {"LSO with half a header", MLX5_OPCODE_LSO,
         [&] {
             Frame h = make_frame({.tcp = true}, {});
             h.resize(h.size() - 4);
             return d.eth_segments({.mss = 100, .inline_header = h}, {f});
         },
         Syndrome::kLocalQpOp},
        {"inline longer than the WQE", MLX5_OPCODE_SEND,
         [] {
             Message seg(16);
             store_be<std::uint16_t>(seg.data() + 12, 0x3ff);
             return seg;
         },
         Syndrome::kLocalLength},
        {"inline segment longer than the WQE", MLX5_OPCODE_SEND,
         [&] {
             Message seg = with_key(0, 0, 0);
             store_be<std::uint32_t>(seg.data() + 16, MLX5_INLINE_SEG | 500);
             return seg;
         },
         Syndrome::kLocalLength},
        {"MPW runt", MLX5_OPCODE_ENHANCED_MPSW, [&] { return with_key(d.lkey, good, 5); },
         Syndrome::kLocalLength},
        {"MPW key", MLX5_OPCODE_ENHANCED_MPSW, [&] { return with_key(1, good, 100); },
         Syndrome::kLocalProt},
        {"MPW with mss", MLX5_OPCODE_ENHANCED_MPSW, [&] { return d.eth_segments({.mss = 5}, {f}); },
         Syndrome::kLocalQpOp},
        {"UMR of no key", MLX5_OPCODE_UMR, [] { return Message(48 + 64); }, Syndrome::kLocalProt},
        {"UMR too short", MLX5_OPCODE_UMR, [] { return Message(16); }, Syndrome::kLocalQpOp},
    };
    for (const Case &c : cases) {
        SCOPED_TRACE(c.what);
        d.post(sq, c.opcode, c.segments(), false);
        EXPECT_EQ(expect_error(), c.expected);
        EXPECT_EQ(sq_state(), 3U);
        // What is posted behind it is flushed, and the queue recovers through reset.
        d.post(sq, MLX5_OPCODE_NOP, {}, false);
        EXPECT_EQ(expect_error(), Syndrome::kFlush);
        EXPECT_EQ(d.modify_sq(sq, 3, 0).status, MLX5_CMD_STAT_OK);
        EXPECT_EQ(d.modify_sq(sq, 0, 1).status, MLX5_CMD_STAT_OK);
        sq.pc = 0;
        d.host.put<std::uint32_t>(sq.dbr + 4, 0);
        d.host.wire.clear();
        d.post(sq, MLX5_OPCODE_SEND, d.eth_segments({}, {f}));
        expect_done(MLX5_OPCODE_SEND);
        ASSERT_EQ(d.host.wire.size(), 1U);
        EXPECT_EQ(d.host.wire[0], f);
    }
}

/// A modifier that is not known might ask for anything, also of a WQE that sends nothing.
TEST_F(Send, OpcodeModifiersAreChecked) {
    const Message frame = d.eth_segments({}, {make_frame({}, pattern(200))});
    for (const auto &[opcode, segments] : {std::pair<unsigned, Message>{MLX5_OPCODE_NOP, {}},
                                           {MLX5_OPCODE_UMR, Message(48 + 64)},
                                           {MLX5_OPCODE_SEND, frame},
                                           {MLX5_OPCODE_ENHANCED_MPSW, frame}})
        for (unsigned modifier : {0x01U, 0x7fU, 0xffU}) {
            SCOPED_TRACE(testing::Message() << std::hex << opcode << " " << modifier);
            d.post(sq, modifier << 24 | opcode, segments);
            EXPECT_EQ(expect_error(), Syndrome::kLocalQpOp);
            EXPECT_TRUE(d.host.wire.empty());
            EXPECT_TRUE(d.modify_sq(sq, 3, 0).ok());
            EXPECT_TRUE(d.modify_sq(sq, 0, 1).ok());
            sq.pc = 0;
            d.host.put<std::uint32_t>(sq.dbr + 4, 0);
        }
}

TEST_F(Send, ControlSegmentIsChecked) {
    const auto corrupt = [&](std::size_t at, std::uint8_t value) {
        d.post(sq, MLX5_OPCODE_NOP, {}, false, false);
        d.host.at(sq.ring.entry(sq.pc - 1U))[at] = value;
        d.host.put<std::uint32_t>(sq.dbr + 4, sq.pc);
        d.write64((static_cast<std::uint64_t>(d.uar) << 12) + 0x800, sq.id << 8 | 1);
        d.settle();
        EXPECT_EQ(expect_error(), Syndrome::kLocalQpOp) << at;
        d.modify_sq(sq, 3, 0);
        d.modify_sq(sq, 0, 1);
        sq.pc = 0;
    };
    corrupt(2, 9);    // WQE index
    corrupt(7, 0);    // no data units
    corrupt(7, 0x3f); // more than were posted
    corrupt(5, 0xff); // another queue's number
    // A producer counter far ahead of the ring.
    d.host.put<std::uint32_t>(sq.dbr + 4, 5000);
    d.write64((static_cast<std::uint64_t>(d.uar) << 12) + 0x800, sq.id << 8 | 1);
    d.settle();
    EXPECT_EQ(expect_error(), Syndrome::kLocalQpOp);
}

TEST_F(Send, ModifyToErrorFlushes) {
    for (unsigned i = 0; i < 5; ++i)
        d.post(sq, MLX5_OPCODE_NOP, {}, false, false);
    d.host.put<std::uint32_t>(sq.dbr + 4, sq.pc);
    d.write64((static_cast<std::uint64_t>(d.uar) << 12) + 0x800, sq.id << 8 | 1);
    // Not settled yet: the queue is stopped before it has worked.
    EXPECT_EQ(d.modify_sq(sq, 1, 3).status, MLX5_CMD_STAT_OK);
    unsigned flushed = 0;
    while (expect_error() == Syndrome::kFlush)
        ++flushed;
    EXPECT_EQ(flushed, 5U);
    EXPECT_EQ(d.modify_sq(sq, 1, 0).status, MLX5_CMD_STAT_BAD_RES_STATE_ERR);
    EXPECT_EQ(d.modify_sq(sq, 3, 1).status, MLX5_CMD_STAT_BAD_RES_STATE_ERR);
    EXPECT_EQ(d.modify_sq(sq, 3, 7).status, MLX5_CMD_STAT_BAD_PARAM_ERR);
}

TEST_F(Send, TwoQueuesShareTheDevice) {
    TestSq second = d.create_sq(cq, 6);
    for (unsigned i = 0; i < 100; ++i)
        d.post(sq, MLX5_OPCODE_NOP, {}, false, false);
    d.host.put<std::uint32_t>(sq.dbr + 4, sq.pc);
    d.write64((static_cast<std::uint64_t>(d.uar) << 12) + 0x800, sq.id << 8 | 1);
    d.post(second, MLX5_OPCODE_SEND, d.eth_segments({}, {make_frame({}, pattern(1))}));
    EXPECT_EQ(d.host.wire.size(), 1U);
    EXPECT_EQ(d.dev.stats().wqes, 101U);
}

// A queue that asks for it gets one more completion for each packet: when it was on the wire. The
// WQE's metadata come back in it.
class PortTimestamp : public Send {
  protected:
    void SetUp() override {
        Send::SetUp();
        port_cq = d.create_cq(4);
        timed.cq = &cq;
        timed.ring = {d.host.alloc(64U << 6), 6, 64};
        timed.dbr = d.host.alloc(64, 64);
        timed.id = IFC_GET(create_sq_out, ConstBytes(d.must(request(port_cq.id), kOut)), sqn);
        ASSERT_TRUE(d.modify_sq(timed, 0, 1).ok());
    }
    Message request(std::uint32_t port_cqn) {
        auto in = d.sq_request(timed, 6);
        IFC_SET(create_sq_in, Bytes(in), ctx.ts_cqe_to_dest_cqn, port_cqn);
        return in;
    }
    Message segments(unsigned metadata, const Frame &frame) {
        Message seg = d.eth_segments({}, {frame});
        store_be<std::uint32_t>(seg.data() + offsetof(mlx5_wqe_eth_seg, flow_table_metadata),
                                metadata);
        return seg;
    }

    static constexpr std::size_t kOut = IFC_BYTES(create_sq_out);
    TestCq port_cq;
    TestSq timed;
};

TEST_F(PortTimestamp, ComesWithTheMetadataOfThePacket) {
    for (const unsigned metadata : {0U, 7U, 0x1ffU}) {
        d.host.now_ns += 1000;
        d.post(timed, MLX5_OPCODE_SEND, segments(metadata, make_frame({}, pattern(100))));
        ASSERT_NE(d.poll(cq), nullptr);
        const mlx5_cqe64 *cqe = d.poll(port_cq);
        ASSERT_NE(cqe, nullptr);
        EXPECT_EQ(cqe->op_own >> 4, MLX5_CQE_RESP_SEND);
        EXPECT_EQ(be16_to_cpu(cqe->wqe_counter), metadata & 0xff);
        EXPECT_EQ(be32_to_cpu(cqe->timestamp_l), static_cast<std::uint32_t>(d.host.now_ns));
    }
    d.post(timed, MLX5_OPCODE_NOP, {});
    EXPECT_EQ(d.poll(port_cq), nullptr) << "nothing was sent";
    d.post(sq, MLX5_OPCODE_SEND, segments(1, make_frame({}, pattern(100))));
    EXPECT_EQ(d.poll(port_cq), nullptr) << "of another queue";
}

// A packet that goes nowhere would keep the driver waiting for its time.
TEST_F(PortTimestamp, IsAnErrorForAPacketThatWasDropped) {
    Message seg = segments(9, make_frame({}, pattern(100)));
    const Message quic(sizeof(mlx5_wqe_quic_seg));
    seg.insert(seg.begin() + sizeof(mlx5_wqe_eth_seg), quic.begin(), quic.end());
    seg[sizeof(mlx5_wqe_eth_seg) + offsetof(mlx5_wqe_quic_seg, pn_offset_sa)] = 1; // no such SA
    d.post(timed, MLX5_OPCODE_SEND | MLX5_OPC_MOD_QUIC << 24, seg);
    EXPECT_TRUE(d.host.wire.empty());
    const mlx5_cqe64 *cqe = d.poll(port_cq);
    ASSERT_NE(cqe, nullptr);
    EXPECT_EQ(cqe->op_own >> 4, MLX5_CQE_RESP_ERR);
    EXPECT_EQ(be16_to_cpu(cqe->wqe_counter), 9);
    ASSERT_NE(d.poll(cq), nullptr);
}

TEST_F(PortTimestamp, KeepsItsCompletionQueue) {
    EXPECT_EQ(d.command(request(0x7fff), kOut).status, MLX5_CMD_STAT_BAD_RES_ERR);
    auto destroy = REQUEST(destroy_cq, DESTROY_CQ);
    IFC_SET(destroy_cq_in, Bytes(destroy), cqn, port_cq.id);
    EXPECT_EQ(d.command(destroy, IFC_BYTES(destroy_cq_out)).status, MLX5_CMD_STAT_RES_BUSY);
    auto in = REQUEST(destroy_sq, DESTROY_SQ);
    IFC_SET(destroy_sq_in, Bytes(in), sqn, timed.id);
    d.must(in, IFC_BYTES(destroy_sq_out));
    d.must(destroy, IFC_BYTES(destroy_cq_out));
}

// Some adapters want headers in the WQE.
TEST(MinInline, ShorterHeadersAreAnError) {
    for (const unsigned mode :
         {MLX5_INLINE_MODE_L2, MLX5_INLINE_MODE_IP, MLX5_INLINE_MODE_TCP_UDP}) {
        MiniDriver d(Config{.min_inline = mode});
        d.open();
        TestCq cq = d.create_cq(4);
        TestSq sq = d.create_sq(cq, 6);
        const Frame f = make_frame({}, pattern(100));
        const std::size_t enough = mode == MLX5_INLINE_MODE_L2 ? 14 : 14 + 20 + 8;
        const auto post = [&](std::size_t length) {
            MiniDriver::EthOptions o;
            const auto end = f.begin() + static_cast<std::ptrdiff_t>(length);
            o.inline_header.assign(f.begin(), end);
            d.post(sq, MLX5_OPCODE_SEND, d.eth_segments(o, {Frame(end, f.end())}));
            return d.poll(cq)->op_own >> 4;
        };
        EXPECT_EQ(post(enough), MLX5_CQE_REQ);
        ASSERT_EQ(d.host.wire.size(), 1U);
        EXPECT_EQ(d.host.wire[0], f);
        EXPECT_EQ(post(mode == MLX5_INLINE_MODE_L2 ? 0 : 18), MLX5_CQE_REQ_ERR);
    }
}

} // namespace
} // namespace connectx::test
