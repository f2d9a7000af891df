// SPDX-License-Identifier: GPL-2.0
//
// Send queues: doorbells, WQE fetch, and what each WQE opcode does. A WQE is a control segment, for
// packets an Ethernet segment with the inlined headers, and data segments; the QUIC segment stands
// between the two, see TxEngine::Wqe::data_offset().
#include "core.h"

#include <utility>

namespace connectx {

namespace {

constexpr std::size_t kBasicBlock = 64;
constexpr std::size_t kUnit = 16; ///< ds_cnt counts these
constexpr std::size_t kCtrl = sizeof(mlx5_wqe_ctrl_seg);
constexpr std::size_t kEthEnd = kCtrl + sizeof(mlx5_wqe_eth_seg);
constexpr std::size_t kInlineStart = kCtrl + offsetof(mlx5_wqe_eth_seg, inline_hdr.start);
constexpr std::size_t kMaxLsoPayload = std::size_t{256} << 10;
constexpr std::size_t kMaxLsoFrames = 65535; // Linux's GSO_MAX_SEGS
constexpr std::size_t kMinFrame = 60;
constexpr std::uint32_t kLengthMask = 0x7fffffff;
// In units of WorkMeter; what goes through DMA or to the wire is counted there.
constexpr std::size_t kUnitsPerWqe = 4;
constexpr std::size_t kUnitsPerFrame = 4;
constexpr std::size_t kBytesSummed = 128; ///< in a unit
constexpr std::size_t kAddressesCompared = 16;

template <typename T> T segment(ConstBytes wqe, std::size_t offset) {
    T s;
    std::memcpy(&s, wqe.data() + offset, sizeof(s));
    return s;
}

/// Does a WQE bring the headers inline that the device wants to see there?
bool enough_inline(unsigned mode, ConstBytes header) {
    if (mode == MLX5_INLINE_MODE_NONE)
        return true;
    if (header.size() < 14)
        return false;
    const PacketInfo info = parse_packet(header);
    const bool ip = info.ethertype == 0x0800 || info.ethertype == 0x86dd;
    return mode == MLX5_INLINE_MODE_L2 || !ip || info.ip_version != 0;
}

constexpr std::size_t align_up(std::size_t v, std::size_t to) { return (v + to - 1) / to * to; }

} // namespace

struct TxEngine::Wqe {
    SecretBytes raw;         ///< ds * 16 bytes
    std::uint16_t index = 0; ///< WQE counter of its first basic block
    std::uint8_t opcode = 0;
    std::uint8_t opmod = 0;
    std::uint8_t fm_ce_se = 0;
    std::optional<QuicOffload::Request> quic;
    std::size_t quic_length = 0; ///< of the QUIC segment, keys included
    // A WQE that is many frames may need more than one turn.
    bool unfinished = false;
    std::size_t done = 0;     ///< bytes of the payload, or where the next segment is
    std::uint16_t frames = 0; ///< made of it
    unsigned emitted = 0;     ///< of these, not dropped

    [[nodiscard]] bool is_quic() const { return opmod == MLX5_OPC_MOD_QUIC; }
    [[nodiscard]] unsigned basic_blocks() const {
        return static_cast<unsigned>(align_up(raw.size(), kBasicBlock) / kBasicBlock);
    }
    [[nodiscard]] mlx5_wqe_eth_seg eth() const { return segment<mlx5_wqe_eth_seg>(raw, kCtrl); }
    [[nodiscard]] bool insert_vlan() const {
        return (be16_to_cpu(eth().insert.type) & MLX5_ETH_WQE_INSERT_VLAN) != 0;
    }
    /// Length of the headers that came inline, bytes.
    [[nodiscard]] std::size_t inline_length() const {
        return insert_vlan() ? 0 : be16_to_cpu(eth().inline_hdr.sz) & 0x3ff;
    }
    /// Where a QUIC segment is, if there is one.
    [[nodiscard]] std::size_t quic_offset() const {
        return std::max(kEthEnd, align_up(kInlineStart + inline_length(), kUnit));
    }
    /// Where the data segments start.
    [[nodiscard]] std::size_t data_offset() const { return quic_offset() + quic_length; }
    /// Bytes that the data segments announce.
    [[nodiscard]] std::size_t data_length() const {
        std::size_t length = 0;
        for (std::size_t offset = data_offset(); offset + kUnit <= raw.size();) {
            const std::uint32_t count = load_be<std::uint32_t>(raw.data() + offset);
            const std::size_t bytes = count & kLengthMask;
            length += bytes;
            offset +=
                (count & MLX5_INLINE_SEG) != 0 ? align_up(sizeof(__be32) + bytes, kUnit) : kUnit;
        }
        return length;
    }
};

TxEngine::TxEngine(Core &core) : core_(core) {}
TxEngine::~TxEngine() = default;

void TxEngine::reset() {
    ready_.clear();
    begun_.clear();
}

void TxEngine::doorbell(ConstBytes data, std::uint32_t uar) {
    const std::uint32_t sqn = load_be<std::uint32_t>(data.data() + 4) >> 8;
    Sq *sq = core_.sqs.find(sqn);
    if (sq == nullptr || sq->state == QueueState::kReset)
        return;
    if (sq->wq.uar != uar) {
        core_.log(LogLevel::kWarning, "doorbell for SQ %#x on UAR %u that is not its own", sqn,
                  uar);
        return;
    }
    std::array<std::uint8_t, 4> record{};
    if (!core_.dma_read(sq->wq.dbr + std::uint64_t{MLX5_SND_DBR} * 4, record))
        return;
    sq->pi = static_cast<std::uint16_t>(load_be<std::uint32_t>(record.data()));
    if (data.size() >= kBasicBlock) {
        sq->drop_blueflame();
        sq->blueflame.assign(data.begin(), data.end());
        sq->blueflame_index = static_cast<std::uint16_t>(load_be<std::uint32_t>(data.data()) >> 8);
    }
    enqueue(*sq);
    core_.kick();
}

void TxEngine::forget(Sq &sq) {
    if (sq.queued)
        std::erase(ready_, sq.id);
    sq.queued = false;
    sq.drop_blueflame();
    begun_.erase(sq.id);
}

void TxEngine::enqueue(Sq &sq) {
    if (std::exchange(sq.queued, true))
        return;
    ready_.push_back(sq.id);
    core_.kick();
}

bool TxEngine::turn_left() const { return core_.work.left() && core_.work.done() < turn_end_; }

void TxEngine::run() {
    while (!ready_.empty() && core_.work.left()) {
        Sq *sq = core_.sqs.find(ready_.front());
        ready_.pop_front();
        if (sq == nullptr)
            continue;
        sq->queued = false;
        turn_end_ = core_.work.done() + WorkMeter::kPerTurn;
        while (turn_left() && sq->ci != sq->pi && execute_one(*sq)) {
        }
        if (sq->state != QueueState::kReset && sq->ci != sq->pi)
            enqueue(*sq);
    }
}

bool TxEngine::execute_one(Sq &sq) {
    core_.work.charge(kUnitsPerWqe);
    if (sq.state == QueueState::kError) {
        flush(sq);
        return false;
    }
    if (sq.state != QueueState::kReady)
        return false;
    std::unique_ptr<Wqe> wqe;
    if (auto begun = begun_.extract(sq.id))
        wqe = std::move(begun.mapped());
    else
        wqe = fetch(sq);
    if (wqe == nullptr)
        return false;

    vendor_syndrome_ = 0;
    Syndrome synd = Syndrome::kOk;
    if (!std::exchange(wqe->unfinished, false)) {
        synd = core_.faults.on_send(sq.id).value_or(Syndrome::kOk);
        if (synd == Syndrome::kOk && wqe->is_quic())
            synd = parse_quic(*wqe);
    }
    frames_ = 0;
    if (synd == Syndrome::kOk)
        synd = execute(sq, *wqe);
    wqe->emitted += frames_;
    if (synd != Syndrome::kOk) {
        if (wqe->is_quic())
            core_.quic.count_wqe_error();
        set_error(sq, synd, wqe->index, vendor_syndrome_);
        return false;
    }
    if (wqe->unfinished) {
        begun_.emplace(sq.id, std::move(wqe));
        return false;
    }
    sq.ci = static_cast<std::uint16_t>(sq.ci + wqe->basic_blocks());
    done_ns_.reset();
    if (sq.port_cqn != 0 && (wqe->opcode == MLX5_OPCODE_SEND || wqe->opcode == MLX5_OPCODE_LSO)) {
        // The driver has no trust in two times that are far apart, and a host may be slow.
        done_ns_ = core_.host.clock_ns();
        complete_port(sq, *wqe);
    }
    if ((wqe->fm_ce_se & MLX5_WQE_CTRL_CQ_UPDATE) != 0)
        complete(sq, wqe->index, wqe->opcode);
    return sq.state == QueueState::kReady;
}

std::unique_ptr<TxEngine::Wqe> TxEngine::fetch(Sq &sq) {
    const unsigned posted = static_cast<std::uint16_t>(sq.pi - sq.ci);
    const std::uint64_t ring = kBasicBlock << sq.wq.log_size;
    const auto wrong = [&]() -> std::unique_ptr<Wqe> {
        set_error(sq, Syndrome::kLocalQpOp, sq.ci);
        return nullptr;
    };
    if (posted > 1U << sq.wq.log_size)
        return wrong();
    const std::uint64_t at = static_cast<std::uint64_t>(sq.ci) * kBasicBlock & (ring - 1);

    Secret<std::array<std::uint8_t, kBasicBlock>> first;
    const bool bf = !sq.blueflame.empty() && sq.blueflame_index == sq.ci;
    if (bf)
        std::copy_n(sq.blueflame.begin(), kBasicBlock, first->begin());
    else if (!sq.wq.buf.read(core_, at, first.value))
        return wrong();
    const auto ctrl = segment<mlx5_wqe_ctrl_seg>(first.value, 0);
    const std::uint32_t word = be32_to_cpu(ctrl.opmod_idx_opcode);
    const std::size_t ds = be32_to_cpu(ctrl.qpn_ds) & MLX5_WQE_CTRL_DS_MASK;
    auto wqe = std::make_unique<Wqe>();
    wqe->index = sq.ci;
    wqe->opcode = word & 0xff;
    wqe->opmod = word >> 24;
    wqe->fm_ce_se = ctrl.fm_ce_se;
    if (ds == 0 || align_up(ds * kUnit, kBasicBlock) / kBasicBlock > posted ||
        (word >> 8 & 0xffff) != sq.ci || be32_to_cpu(ctrl.qpn_ds) >> 8 != sq.id) {
        core_.log(LogLevel::kWarning,
                  "SQ %#x: malformed WQE at %#x (control %#x, ds %zu, posted %u)", sq.id, sq.ci,
                  word, ds, posted);
        return wrong();
    }
    wqe->raw.resize(ds * kUnit);
    std::copy_n(first->begin(), std::min(kBasicBlock, wqe->raw.size()), wqe->raw.begin());
    for (std::size_t off = kBasicBlock; off < wqe->raw.size();) {
        const std::uint64_t from = (at + off) & (ring - 1);
        const std::size_t n = std::min<std::uint64_t>(wqe->raw.size() - off, ring - from);
        const Bytes dst = Bytes(wqe->raw).subspan(off, n);
        if (bf && off + n <= sq.blueflame.size())
            std::copy_n(sq.blueflame.begin() + static_cast<std::ptrdiff_t>(off), n, dst.begin());
        else if (!sq.wq.buf.read(core_, from, dst))
            return wrong();
        off += n;
    }
    sq.drop_blueflame();
    ++core_.stats.wqes;
    if (core_.config.trace)
        core_.trace(format("SQ %#x WQE %#x opcode %#x%s ds %zu", sq.id, wqe->index, wqe->opcode,
                           wqe->is_quic() ? " QUIC" : "", ds));
    return wqe;
}

Syndrome TxEngine::execute(Sq &sq, Wqe &wqe) {
    switch (wqe.opcode) {
    case MLX5_OPCODE_NOP:
        return wqe.opmod == 0 ? Syndrome::kOk : Syndrome::kLocalQpOp;
    case MLX5_OPCODE_SEND:
    case MLX5_OPCODE_LSO:
        return send(sq, wqe);
    case MLX5_OPCODE_ENHANCED_MPSW:
        return send_multi(sq, wqe);
    case MLX5_OPCODE_UMR:
        return umr(sq, wqe);
    default:
        core_.log(LogLevel::kWarning, "SQ %#x: WQE opcode %#x is not modelled", sq.id, wqe.opcode);
        return Syndrome::kLocalQpOp;
    }
}

Syndrome TxEngine::parse_quic(Wqe &wqe) {
    const auto wrong = [this](unsigned vendor) {
        vendor_syndrome_ = vendor;
        return Syndrome::kLocalQpOp;
    };
    const bool lso = wqe.opcode == MLX5_OPCODE_LSO;
    const bool offered = lso ? core_.config.quic_lso : wqe.opcode == MLX5_OPCODE_SEND;
    if (!core_.config.quic || !offered)
        return wrong(MLX5_QUIC_VENDOR_SYND_OPCODE);
    if (wqe.raw.size() < kEthEnd)
        return wrong(MLX5_QUIC_VENDOR_SYND_TRUNCATED);
    const std::size_t offset = wqe.quic_offset();
    wqe.quic.emplace();
    if (const unsigned vendor = core_.quic.parse(wqe.raw, offset, *wqe.quic); vendor != 0)
        return wrong(vendor);
    wqe.quic_length = core_.quic.segment_length(wqe.raw, offset);

    const mlx5_wqe_eth_seg eth = wqe.eth();
    // Without a segment size the WQE is wrong as any LSO would be.
    const std::size_t mss = be16_to_cpu(eth.mss);
    const std::size_t packets = lso && mss != 0 ? align_up(wqe.data_length(), mss) / mss : 1;
    if (const unsigned vendor = QuicOffload::check_packets(*wqe.quic, packets, lso); vendor != 0)
        return wrong(vendor);
    constexpr unsigned kInner = MLX5_ETH_WQE_L3_INNER_CSUM | MLX5_ETH_WQE_L4_INNER_CSUM;
    if ((eth.cs_flags & kInner) != 0 || eth.swp_flags != 0 ||
        (be32_to_cpu(eth.trailer) & MLX5_ETH_WQE_INSERT_TRAILER) != 0)
        return wrong(MLX5_QUIC_VENDOR_SYND_OFFLOADS);
    return Syndrome::kOk;
}

std::size_t Scattered::left() const {
    std::size_t length = 0;
    for (std::size_t i = piece_; i < pieces.size(); ++i)
        length += pieces[i].size();
    return length - offset_;
}

ConstBytes Scattered::contiguous(std::size_t size) {
    while (piece_ < pieces.size() && offset_ == pieces[piece_].size()) {
        ++piece_;
        offset_ = 0;
    }
    if (piece_ == pieces.size() || size > pieces[piece_].size() - offset_)
        return {};
    return pieces[piece_].subspan(offset_, size);
}

void Scattered::copy(Bytes dst) {
    while (!dst.empty()) {
        const ConstBytes rest = pieces[piece_].subspan(offset_);
        const std::size_t n = std::min(dst.size(), rest.size());
        if (n != 0)
            std::memcpy(dst.data(), rest.data(), n);
        dst = dst.subspan(n);
        skip(n);
        if (offset_ == pieces[piece_].size() && !dst.empty()) {
            ++piece_;
            offset_ = 0;
        }
    }
}

void Scattered::skip(std::size_t size) {
    offset_ += size;
    while (piece_ < pieces.size() && offset_ > pieces[piece_].size())
        offset_ -= pieces[piece_++].size();
}

Syndrome TxEngine::gather(Sq &sq, const Wqe &wqe, std::size_t offset) {
    const ConstBytes raw = wqe.raw;
    std::size_t total = 0;
    data_.clear();
    while (offset + kUnit <= raw.size()) {
        const auto seg = segment<mlx5_wqe_data_seg>(raw, offset);
        const std::uint32_t count = be32_to_cpu(seg.byte_count);
        const std::size_t length = count & kLengthMask;
        if (total + length > kMaxLsoPayload)
            return Syndrome::kLocalLength;
        if ((count & MLX5_INLINE_SEG) != 0) {
            if (length > raw.size() - offset - sizeof(__be32))
                return Syndrome::kLocalLength;
            data_.pieces.push_back(raw.subspan(offset + sizeof(__be32), length));
            offset += align_up(sizeof(__be32) + length, kUnit);
        } else {
            if (payload_.empty())
                payload_.resize(kMaxLsoPayload);
            const Syndrome st =
                core_.memory.fetch(be32_to_cpu(seg.lkey), sq.wq.pd, be64_to_cpu(seg.addr),
                                   Bytes(payload_).subspan(total, length), data_.pieces);
            if (st != Syndrome::kOk)
                return st;
            offset += kUnit;
        }
        total += length;
    }
    return Syndrome::kOk;
}

Syndrome TxEngine::send(Sq &sq, Wqe &wqe) {
    if (wqe.raw.size() < kEthEnd)
        return Syndrome::kLocalQpOp;
    if (wqe.opmod != 0 && !wqe.is_quic())
        return Syndrome::kLocalQpOp; // a modifier that is not known might ask for anything
    const mlx5_wqe_eth_seg eth = wqe.eth();
    constexpr unsigned kTunnel = MLX5_ETH_WQE_L3_INNER_CSUM | MLX5_ETH_WQE_L4_INNER_CSUM;
    if ((eth.cs_flags & kTunnel) != 0)
        return Syndrome::kLocalQpOp; // tunnel offloads are not advertised
    if (eth.swp_flags != 0 || (be32_to_cpu(eth.trailer) & MLX5_ETH_WQE_INSERT_TRAILER) != 0)
        return Syndrome::kLocalQpOp; // of IPsec, for which there is no key
    const std::size_t inline_length = wqe.inline_length();
    if (kInlineStart + inline_length > wqe.raw.size())
        return Syndrome::kLocalLength;
    const ConstBytes header = ConstBytes(wqe.raw).subspan(kInlineStart, inline_length);
    if (!enough_inline(core_.vport.min_inline, header))
        return Syndrome::kLocalQpOp;

    if (auto st = gather(sq, wqe, wqe.data_offset()); st != Syndrome::kOk)
        return st;
    if (wqe.opcode == MLX5_OPCODE_LSO)
        return segment_and_emit(sq, wqe, header);

    constexpr std::size_t kVlanTag = 4; // room in front of the frame
    constexpr std::size_t kMacs = 12;
    const std::size_t length = data_.left();
    const std::size_t size = header.size() + length;
    if (size < 14 || size > Port::kMaxMtu)
        return Syndrome::kLocalLength;
    Bytes frame = Bytes(frame_room_).subspan(kVlanTag, size);
    std::copy(header.begin(), header.end(), frame.begin());
    data_.copy(frame.subspan(header.size()));
    if (wqe.quic) {
        const PacketInfo info = parse_packet(frame);
        QuicOffload::Job job = core_.quic.start(*wqe.quic, sq.wq.pd);
        if (!core_.quic.protect(job, frame, info))
            return Syndrome::kOk;
        if (!wqe.insert_vlan()) {
            emit(sq, (eth.cs_flags & MLX5_ETH_WQE_L3_CSUM) != 0,
                 (eth.cs_flags & MLX5_ETH_WQE_L4_CSUM) != 0, frame, info);
            return Syndrome::kOk;
        }
    }
    if (wqe.insert_vlan()) {
        const bool svlan = (be16_to_cpu(eth.insert.type) & MLX5_ETH_WQE_SVLAN) != 0;
        frame = Bytes(frame_room_).first(size + kVlanTag);
        std::memmove(frame.data(), frame.data() + kVlanTag, kMacs);
        store_be<std::uint16_t>(&frame[kMacs], svlan ? 0x88a8 : 0x8100);
        store_be<std::uint16_t>(&frame[kMacs + 2], be16_to_cpu(eth.insert.vlan_tci));
    }
    emit_parsed(sq, wqe, frame);
    return Syndrome::kOk;
}

Syndrome TxEngine::send_multi(Sq &sq, Wqe &wqe) {
    if (wqe.raw.size() < kEthEnd)
        return Syndrome::kLocalQpOp;
    const mlx5_wqe_eth_seg eth = wqe.eth();
    if (wqe.opmod != 0 || wqe.inline_length() != 0 || wqe.insert_vlan() || eth.mss != 0)
        return Syndrome::kLocalQpOp;
    // Every data segment is a packet of its own.
    const ConstBytes raw = wqe.raw;
    std::size_t offset = std::max(kEthEnd, wqe.done);
    while (offset + kUnit <= raw.size()) {
        if (offset != wqe.done && !turn_left()) {
            wqe.done = offset;
            wqe.unfinished = true;
            return Syndrome::kOk;
        }
        const auto seg = segment<mlx5_wqe_data_seg>(raw, offset);
        const std::uint32_t count = be32_to_cpu(seg.byte_count);
        const std::size_t length = count & kLengthMask;
        if (length < 14 || length > Port::kMaxMtu)
            return Syndrome::kLocalLength;
        const Bytes frame = Bytes(frame_room_).first(length);
        if ((count & MLX5_INLINE_SEG) != 0) {
            if (length > raw.size() - offset - sizeof(__be32))
                return Syndrome::kLocalLength;
            std::memcpy(frame.data(), raw.data() + offset + sizeof(__be32), length);
            offset += align_up(sizeof(__be32) + length, kUnit);
        } else {
            const Syndrome st =
                core_.memory.read(be32_to_cpu(seg.lkey), sq.wq.pd, be64_to_cpu(seg.addr), frame);
            if (st != Syndrome::kOk)
                return st;
            offset += kUnit;
        }
        emit_parsed(sq, wqe, frame);
    }
    return Syndrome::kOk;
}

Syndrome TxEngine::segment_and_emit(Sq &sq, Wqe &wqe, ConstBytes header) {
    const std::size_t mss = be16_to_cpu(wqe.eth().mss);
    const std::size_t total = data_.left();
    if (mss == 0 || total == 0 || header.size() < 14 + 20 + 8 ||
        header.size() + mss > Port::kMaxMtu || (total - 1) / mss >= kMaxLsoFrames)
        return Syndrome::kLocalLength;
    const PacketInfo parsed = parse_packet(header);
    // The headers must end exactly where the inlined part does.
    if (parsed.l4_offset == 0 || parsed.payload_offset != header.size())
        return Syndrome::kLocalQpOp;

    constexpr std::uint8_t kFin = 0x01;
    constexpr std::uint8_t kPush = 0x08;
    constexpr std::uint8_t kCwr = 0x80;
    const std::uint32_t seq =
        parsed.is_tcp() ? load_be<std::uint32_t>(&header[parsed.l4_offset + 4]) : 0;
    const std::uint16_t ip_id =
        parsed.ip_version == 4 ? load_be<std::uint16_t>(&header[parsed.l3_offset + 4]) : 0;
    QuicOffload::Job job;
    if (wqe.quic)
        job = core_.quic.start(*wqe.quic, sq.wq.pd);

    // Several frames at a time, so that header protection has more than one to work at, but not
    // more than the processor's first cache holds. A QUIC packet's payload starts a cache line.
    struct Slot {
        Bytes frame;
        PacketInfo info;
    };
    constexpr std::size_t kLine = 64;
    constexpr std::size_t kAtOnce = std::min<std::size_t>(16, QuicEngine::kMaxHeaders);
    constexpr std::size_t kPnMax = 4;
    const std::size_t clear = header.size() + (wqe.quic ? wqe.quic->pn_offset + kPnMax : 0);
    const std::size_t lead = align_up(clear, kLine) - clear;
    const std::size_t stride = align_up(std::max(lead + header.size() + mss, kMinFrame), kLine);
    const std::size_t at_once = std::clamp<std::size_t>(kFrameRoom / stride, 1, kAtOnce);
    std::array<Slot, kAtOnce> slots;
    std::array<Bytes, kAtOnce> packets;

    data_.skip(wqe.done);
    for (std::size_t &off = wqe.done; off < total;) {
        std::size_t used = 0;
        for (; used < at_once && off < total; ++wqe.frames) {
            const std::uint16_t number = wqe.frames;
            core_.work.charge(kUnitsPerFrame);
            const std::size_t length = std::min(mss, total - off);
            const bool last = off + length == total;
            Slot &slot = slots[used];
            slot.frame = Bytes(frame_room_).subspan(used * stride + lead, header.size() + length);
            slot.info = parsed;
            slot.info.malformed = false;
            slot.info.ip_end = static_cast<unsigned>(slot.frame.size());
            const Bytes frame = slot.frame;
            std::memcpy(frame.data(), header.data(), header.size());
            std::uint8_t *l3 = frame.data() + parsed.l3_offset;
            std::uint8_t *l4 = frame.data() + parsed.l4_offset;
            const std::size_t ip_length = frame.size() - parsed.l3_offset;
            if (parsed.ip_version == 4) {
                store_be<std::uint16_t>(l3 + 2, static_cast<std::uint16_t>(ip_length));
                store_be<std::uint16_t>(l3 + 4, static_cast<std::uint16_t>(ip_id + number));
            } else {
                store_be<std::uint16_t>(l3 + 4, static_cast<std::uint16_t>(ip_length - 40));
            }
            if (parsed.is_tcp()) {
                store_be<std::uint32_t>(l4 + 4, seq + static_cast<std::uint32_t>(off));
                if (!last)
                    l4[13] &= static_cast<std::uint8_t>(~(kFin | kPush));
                if (number != 0)
                    l4[13] &= static_cast<std::uint8_t>(~kCwr);
            } else {
                store_be<std::uint16_t>(
                    l4 + 4, static_cast<std::uint16_t>(frame.size() - parsed.l4_offset));
            }
            off += length;
            const Bytes payload = frame.subspan(header.size());
            ConstBytes source = wqe.quic ? data_.contiguous(length) : ConstBytes{};
            if (source.empty()) {
                data_.copy(payload);
                source = payload;
            } else {
                data_.skip(length);
            }
            if (wqe.quic) {
                if (!core_.quic.seal(job, frame, slot.info, source, number))
                    continue;
                packets[used] = payload;
            }
            ++used;
        }
        if (wqe.quic)
            core_.quic.finish(job, std::span(packets).first(used));
        for (const Slot &slot : std::span(slots).first(used))
            emit(sq, true, true, slot.frame, slot.info);
        if (off < total && !turn_left()) {
            wqe.unfinished = true;
            break;
        }
    }
    return Syndrome::kOk;
}

void TxEngine::emit_parsed(Sq &sq, const Wqe &wqe, Bytes frame) {
    const mlx5_wqe_eth_seg eth = wqe.eth();
    const bool l3 = (eth.cs_flags & MLX5_ETH_WQE_L3_CSUM) != 0;
    const bool l4 = (eth.cs_flags & MLX5_ETH_WQE_L4_CSUM) != 0;
    emit(sq, l3, l4, frame, l3 || l4 ? parse_packet(frame) : PacketInfo{});
}

void TxEngine::emit(Sq &sq, bool l3_checksum, bool l4_checksum, Bytes frame,
                    const PacketInfo &info) {
    if (l3_checksum)
        fill_ip_checksum(frame, info);
    if (l4_checksum && !info.malformed)
        fill_l4_checksum(frame, info);
    if (frame.size() < kMinFrame) {
        std::fill_n(frame.data() + frame.size(), kMinFrame - frame.size(), 0);
        frame = {frame.data(), kMinFrame};
    }

    ++frames_;
    core_.work.charge_bytes(frame.size(), kBytesSummed);
    core_.work.charge(core_.vport.uc_list.size() / kAddressesCompared);
    Vport &v = core_.vport;
    const bool multicast = (frame[0] & 1) != 0;
    const bool broadcast =
        std::all_of(frame.begin(), frame.begin() + 6, [](std::uint8_t b) { return b == 0xff; });
    (broadcast ? v.tx_bc : multicast ? v.tx_mc : v.tx_uc).add(frame.size());

    bool to_wire = true;
    if (!multicast && !v.disable_uc_lb) {
        std::array<std::uint8_t, 6> dmac{};
        std::copy_n(frame.begin(), dmac.size(), dmac.begin());
        if (dmac == v.permanent_mac ||
            std::find(v.uc_list.begin(), v.uc_list.end(), dmac) != v.uc_list.end()) {
            to_wire = false;
            core_.rx.loopback(frame);
        }
    } else if (multicast && !v.disable_mc_lb) {
        core_.rx.loopback(frame);
    }
    if (!to_wire || sq.non_wire || !core_.port.up())
        return;
    core_.port.count_tx(frame);
    ++core_.stats.tx_frames;
    // What the wire answers from inside this call is received, and nothing there sends: the frames
    // still to come stay as they are.
    core_.wire_tx(frame);
}

Syndrome TxEngine::umr(Sq &sq, const Wqe &wqe) {
    constexpr std::size_t kMkeySegment = 64;
    constexpr std::size_t kEntries = kCtrl + sizeof(mlx5_wqe_umr_ctrl_seg) + kMkeySegment;
    if (!sq.reg_umr || wqe.opmod != 0 || wqe.raw.size() < kEntries)
        return Syndrome::kLocalQpOp;
    const auto ctrl = segment<mlx5_wqe_ctrl_seg>(wqe.raw, 0);
    const auto uctrl = segment<mlx5_wqe_umr_ctrl_seg>(wqe.raw, kCtrl);
    Mkey *mkey = core_.memory.find(be32_to_cpu(ctrl.umr_mkey));
    if (mkey == nullptr || !mkey->umr_en || mkey->pd != sq.wq.pd ||
        mkey->access_mode == MLX5_MKC_ACCESS_MODE_PA)
        return Syndrome::kLocalProt;
    constexpr unsigned kFlags = MLX5_UMR_INLINE | MLX5_UMR_TRANSLATION_OFFSET_EN;
    if ((uctrl.flags & MLX5_UMR_INLINE) == 0 || (uctrl.flags & ~kFlags) != 0 ||
        (be64_to_cpu(uctrl.mkey_mask) & ~static_cast<std::uint64_t>(MLX5_MKEY_MASK_FREE)) != 0)
        return Syndrome::kLocalQpOp;
    const std::size_t count = be16_to_cpu(uctrl.xlt_octowords) * 2UL;
    std::uint64_t first = 0;
    if ((uctrl.flags & MLX5_UMR_TRANSLATION_OFFSET_EN) != 0)
        first = (static_cast<std::uint64_t>(be32_to_cpu(uctrl.xlt_offset_47_16)) << 16 |
                 be16_to_cpu(uctrl.xlt_offset)) *
                2;
    if (kEntries + count * 8 > wqe.raw.size())
        return Syndrome::kLocalLength;
    if (first > mkey->mtt.size() || count > mkey->mtt.size() - first)
        return Syndrome::kLocalProt;
    for (std::size_t i = 0; i < count; ++i)
        mkey->mtt[first + i] =
            mkey->translation(load_be<std::uint64_t>(wqe.raw.data() + kEntries + i * 8));
    if ((be64_to_cpu(uctrl.mkey_mask) & MLX5_MKEY_MASK_FREE) != 0) {
        const std::uint8_t status = wqe.raw[kCtrl + sizeof(mlx5_wqe_umr_ctrl_seg)];
        mkey->free = (status & MLX5_MKEY_STATUS_FREE) != 0;
    }
    return Syndrome::kOk;
}

void TxEngine::complete(Sq &sq, std::uint16_t wqe_counter, std::uint8_t opcode) {
    Cq *cq = core_.cqs.find(sq.cqn);
    mlx5_cqe64 cqe{};
    cqe.wqe_counter = cpu_to_be16(wqe_counter);
    cqe.sop_drop_qpn = cpu_to_be32(static_cast<std::uint32_t>(opcode) << 24 | sq.id);
    cqe.op_own = MLX5_CQE_REQ << 4;
    if (cq == nullptr || !core_.completions.complete(*cq, cqe, done_ns_))
        sq.state = QueueState::kError;
}

void TxEngine::complete_port(Sq &sq, const Wqe &wqe) {
    Cq *cq = core_.cqs.find(sq.port_cqn);
    mlx5_cqe64 cqe{};
    const std::uint32_t id = be32_to_cpu(wqe.eth().flow_table_metadata);
    cqe.wqe_counter =
        cpu_to_be16(static_cast<std::uint16_t>(id & ((1U << kLogPortTimestampIds) - 1)));
    cqe.sop_drop_qpn = cpu_to_be32(static_cast<std::uint32_t>(wqe.opcode) << 24 | sq.id);
    // Drivers look at it as at something received.
    const unsigned opcode = wqe.emitted > 0 ? MLX5_CQE_RESP_SEND : MLX5_CQE_RESP_ERR;
    cqe.op_own = static_cast<std::uint8_t>(opcode << 4);
    if (cq == nullptr || !core_.completions.complete(*cq, cqe, done_ns_))
        sq.state = QueueState::kError;
}

void TxEngine::set_error(Sq &sq, Syndrome syndrome, std::uint16_t wqe_index, unsigned vendor) {
    sq.state = QueueState::kError;
    begun_.erase(sq.id);
    if (syndrome != Syndrome::kFlush) {
        core_.log(LogLevel::kInfo, "SQ %#x: error CQE for WQE %#x, syndrome %#x vendor %#x", sq.id,
                  wqe_index, static_cast<unsigned>(syndrome), vendor);
        mlx5_err_cqe err{};
        err.syndrome = static_cast<std::uint8_t>(syndrome);
        err.vendor_err_synd = static_cast<std::uint8_t>(vendor);
        err.s_wqe_opcode_qpn = cpu_to_be32(sq.id);
        err.wqe_counter = cpu_to_be16(wqe_index);
        err.op_own = MLX5_CQE_REQ_ERR << 4;
        mlx5_cqe64 cqe;
        static_assert(sizeof(cqe) == sizeof(err));
        std::memcpy(&cqe, &err, sizeof(cqe));
        ++core_.stats.error_cqes;
        if (Cq *cq = core_.cqs.find(sq.cqn))
            core_.completions.complete(*cq, cqe);
        // The offending WQE is done with; those behind it are flushed.
        std::array<std::uint8_t, 8> head{};
        const std::uint64_t ring = kBasicBlock << sq.wq.log_size;
        unsigned blocks = 1;
        if (sq.wq.buf.read(core_, static_cast<std::uint64_t>(wqe_index) * kBasicBlock & (ring - 1),
                           head)) {
            const std::size_t ds = load_be<std::uint32_t>(head.data() + 4) & MLX5_WQE_CTRL_DS_MASK;
            blocks = std::max(
                1U, static_cast<unsigned>(align_up(ds * kUnit, kBasicBlock) / kBasicBlock));
        }
        const unsigned posted = static_cast<std::uint16_t>(sq.pi - wqe_index);
        sq.ci = static_cast<std::uint16_t>(wqe_index + std::min(blocks, std::max(posted, 1U)));
        if (posted == 0)
            sq.ci = sq.pi;
    }
    if (sq.ci != sq.pi)
        enqueue(sq);
}

void TxEngine::flush(Sq &sq) {
    const std::uint64_t ring = kBasicBlock << sq.wq.log_size;
    const unsigned most = 1U << sq.wq.log_size;
    if (!sq.flush_in_error) {
        sq.ci = sq.pi;
        return;
    }
    for (; sq.ci != sq.pi && core_.work.left(); core_.work.charge(kUnitsPerWqe)) {
        const unsigned posted = static_cast<std::uint16_t>(sq.pi - sq.ci);
        if (posted > most) {
            sq.ci = static_cast<std::uint16_t>(sq.pi - most); // there is no room for more of them
            continue;
        }
        std::array<std::uint8_t, 8> head{};
        std::size_t ds = 0;
        if (sq.wq.buf.read(core_, static_cast<std::uint64_t>(sq.ci) * kBasicBlock & (ring - 1),
                           head))
            ds = load_be<std::uint32_t>(head.data() + 4) & MLX5_WQE_CTRL_DS_MASK;
        mlx5_err_cqe err{};
        err.syndrome = static_cast<std::uint8_t>(Syndrome::kFlush);
        err.s_wqe_opcode_qpn = cpu_to_be32(sq.id);
        err.wqe_counter = cpu_to_be16(sq.ci);
        err.op_own = MLX5_CQE_REQ_ERR << 4;
        mlx5_cqe64 cqe;
        std::memcpy(&cqe, &err, sizeof(cqe));
        ++core_.stats.error_cqes;
        Cq *cq = core_.cqs.find(sq.cqn);
        if (cq == nullptr || !core_.completions.complete(*cq, cqe)) {
            sq.ci = sq.pi;
            return;
        }
        const std::size_t blocks =
            std::max<std::size_t>(1, align_up(ds * kUnit, kBasicBlock) / kBasicBlock);
        sq.ci = static_cast<std::uint16_t>(sq.ci + std::min<std::size_t>(blocks, posted));
    }
}

} // namespace connectx
