// SPDX-License-Identifier: GPL-2.0
//
// Send queues: WQEs of any content, with and without QUIC segments, doorbells at any time.
#include "target.h"

namespace connectx::fuzz {

namespace {

constexpr std::uint32_t kArea = 1U << 18;
constexpr std::array<unsigned, 8> kOpcodes{
    MLX5_OPCODE_SEND, MLX5_OPCODE_LSO, MLX5_OPCODE_NOP,  MLX5_OPCODE_ENHANCED_MPSW,
    MLX5_OPCODE_UMR,  MLX5_OPCODE_LSO, MLX5_OPCODE_SEND, 0x77};

Message create_sa(Channel &c, unsigned cipher) {
    auto in = REQUEST(create_quic_sa, CREATE_GENERAL_OBJECT);
    IFC_SET(general_obj_in_cmd_hdr, Bytes(in), obj_type, MLX5_GENERAL_OBJECT_TYPES_QUIC_SA);
    const Bytes obj = IFC_AT(create_quic_sa_in, Bytes(in), quic_sa_object);
    IFC_SET(quic_sa_obj, obj, cipher, cipher);
    IFC_SET(quic_sa_obj, obj, pd, c.d.pd);
    IFC_SET(quic_sa_obj, obj, tag, 7);
    return in;
}

/// A QUIC segment that is nearly right.
void add_quic(Input &in, Message &seg) {
    Message quic(16);
    const std::uint8_t how = in.u8();
    const bool keys = (how & 1) != 0;
    const std::uint64_t pn = (how & 2) != 0 ? in.u64() & ((1ULL << 62) - 1) : in.u8();
    const std::uint64_t form = (how & 4) != 0 && (how & 8) != 0 ? in.u8() & 3 : keys ? 1 : 0;
    store_be<std::uint64_t>(quic.data(), form << 62 | pn);
    const std::uint32_t pn_offset = (how & 16) != 0 ? in.below(2048) : 9;
    store_be<std::uint32_t>(quic.data() + 8, pn_offset << 21 | (keys ? 0 : in.u8() % 6));
    store_be<std::uint32_t>(quic.data() + 12, keys ? 0 : 7);
    if (keys) {
        quic.resize(96);
        quic[16] = static_cast<std::uint8_t>(1 + in.u8() % 5);
        const auto key = in.bytes(76);
        std::copy(key.begin(), key.end(), quic.begin() + 20);
    }
    seg.insert(seg.end(), quic.begin(), quic.end());
}

void post(Input &in, Channel &c, std::uint64_t area) {
    const std::uint8_t what = in.u8();
    const unsigned opcode = what % 16 == 0 ? in.u8() : kOpcodes[what % kOpcodes.size()];
    const bool quic = (what & 0x40) != 0;
    MiniDriver::EthOptions o;
    o.cs_flags = in.u8();
    if (opcode == MLX5_OPCODE_LSO)
        o.mss = in.u16() & 0x3fff;
    if ((what & 0x20) != 0)
        o.inline_header = make_frame({.v6 = in.flag(), .tcp = !quic && in.flag()}, {});
    Message seg = c.d.eth_segments(o, {});
    if (quic)
        add_quic(in, seg);
    for (unsigned n = in.u8() % 6; n > 0; --n) {
        Message s(16);
        const std::uint8_t kind = in.u8();
        store_be<std::uint32_t>(s.data(), (kind & 1) != 0 ? in.u16() % 4096 : in.u32());
        store_be<std::uint32_t>(s.data() + 4, (kind & 2) != 0 ? in.u32() : c.d.lkey);
        store_be<std::uint64_t>(s.data() + 8, (kind & 4) != 0 ? in.awkward(test::FakeHost::kBase)
                                                              : area + in.u32() % kArea);
        seg.insert(seg.end(), s.begin(), s.end());
    }
    for (unsigned n = (what & 0x80) != 0 ? in.u8() % 6 : 0; n > 0; --n)
        seg[in.below(static_cast<std::uint32_t>(seg.size()))] = in.u8();
    c.d.post(c.sq, opcode | (quic ? static_cast<unsigned>(MLX5_OPC_MOD_QUIC) << 24 : 0), seg,
             in.u8() % 4 != 0);
}

} // namespace

void run(Input in) {
    Channel c;
    for (unsigned cipher = 1; cipher <= 4; ++cipher)
        c.d.must(create_sa(c, cipher), IFC_BYTES(general_obj_out_cmd_hdr));
    // Nothing in guest memory is a packet yet: UDP datagrams to be gathered.
    const Frame frame = make_frame({}, pattern(1400));
    const std::uint64_t area = c.d.host.alloc(kArea + 4096);
    for (std::uint64_t at = 0; at < kArea; at += 4096)
        std::copy(frame.begin(), frame.end(), c.d.host.at(area + at));

    for (unsigned steps = 0; !in.empty() && steps < 64; ++steps) {
        post(in, c, area);
        const std::uint8_t then = in.u8();
        if (then % 16 == 1)
            c.d.host.put<std::uint32_t>(c.sq.dbr + 4, in.u32());
        if (then % 16 == 2)
            c.d.dev.mmio_write((static_cast<std::uint64_t>(c.d.uar) << 12) + 4 * in.below(1024),
                               in.bytes(in.u8() % 80));
        c.d.settle();
        while (c.d.poll(c.cq) != nullptr) {
        }
        if (c.d.modify_sq(c.sq, 1, 1).status != MLX5_CMD_STAT_OK) {
            c.d.modify_sq(c.sq, 3, 0);
            c.d.modify_sq(c.sq, 0, 1);
            c.sq.pc = 0;
            c.d.host.put<std::uint32_t>(c.sq.dbr + 4, 0);
        }
        for (const auto &f : c.d.host.wire)
            require(f.size() >= 60 && f.size() <= Port::kMaxMtu + 4, "a frame has a frame's size");
        c.d.host.wire.clear();
        c.d.host.logs.clear();
        c.d.host.interrupts.clear();
    }
    c.expect_alive();
}

std::vector<std::vector<std::uint8_t>> seeds() {
    std::vector<std::vector<std::uint8_t>> all;
    for (std::uint8_t what : {0x06, 0x01, 0x02, 0x03, 0x04, 0x21, 0x46, 0x61, 0x66, 0x26}) {
        for (std::uint8_t quic : {0, 1}) {
            std::vector<std::uint8_t> s{what, 0xc0};
            if (kOpcodes[what % kOpcodes.size()] == MLX5_OPCODE_LSO)
                s.insert(s.end(), {0x01, 0x00});
            if ((what & 0x20) != 0)
                s.insert(s.end(), {0, 0});
            if ((what & 0x40) != 0) {
                s.insert(s.end(), {quic, 5});
                if (quic != 0)
                    s.insert(s.end(), 77, 1);
                else
                    s.push_back(0);
            }
            // One data segment with a whole datagram.
            s.insert(s.end(), {1, 1, 0x05, 0xa2, 0x00, 0x00, 0x10, 0x00, 1, 0});
            all.push_back(std::move(s));
        }
    }
    return all;
}

} // namespace connectx::fuzz
