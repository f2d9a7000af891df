// SPDX-License-Identifier: GPL-2.0
//
// Receive: from the wire through steering and RSS into a receive queue.
#include "core.h"

#include <utility>

namespace connectx {

namespace {

constexpr std::size_t kMinFrame = 60;
constexpr std::size_t kFcs = 4;
constexpr std::uint32_t kHwStartPadding = 0x80000000;
constexpr std::size_t kNextSegment = 16; ///< struct mlx5_wqe_srq_next_seg
constexpr std::size_t kDataSegment = sizeof(mlx5_wqe_data_seg);
constexpr std::size_t kBytesRead = 64; // in a unit of WorkMeter

bool is_linked_list(const Rq &rq) {
    return rq.wq.type == MLX5_WQ_TYPE_LINKED_LIST ||
           rq.wq.type == MLX5_WQ_TYPE_LINKED_LIST_STRIDING_RQ;
}

bool is_striding(const Rq &rq) {
    return rq.wq.type == MLX5_WQ_TYPE_LINKED_LIST_STRIDING_RQ ||
           rq.wq.type == MLX5_WQ_TYPE_CYCLIC_STRIDING_RQ;
}

} // namespace

bool RxEngine::receive(ConstBytes frame, bool busy) {
    if (!core_.port.up() || frame.size() < 14)
        return true; // there is nobody to take it: gone, but not for want of room
    ++core_.stats.rx_frames;
    if (frame.size() + kFcs > std::max<std::size_t>(core_.port.oper_mtu(), 64)) {
        ++core_.port.rx_oversize;
        ++core_.stats.rx_dropped;
        return true;
    }
    std::vector<std::uint8_t> padded;
    if (frame.size() < kMinFrame) {
        padded.assign(frame.begin(), frame.end());
        padded.resize(kMinFrame);
        frame = padded;
    }
    core_.port.count_rx(frame);
    if (!core_.hca_initialized) {
        ++core_.stats.rx_dropped;
        return true;
    }
    if (!busy && arrivals_.empty()) {
        dispatch(frame, true);
        return true;
    }
    if (!can_receive()) {
        ++core_.port.rx_discards;
        ++core_.stats.rx_dropped;
        return false;
    }
    arrivals_.emplace_back(frame.begin(), frame.end());
    core_.kick();
    return true;
}

void RxEngine::loopback(ConstBytes frame) {
    if (!core_.hca_initialized)
        return;
    ++core_.stats.loopback_frames;
    core_.vport.local_loopback.add(frame.size());
    const std::vector<std::uint8_t> copy(frame.begin(), frame.end());
    dispatch(copy, false);
}

void RxEngine::run() {
    // Those that arrive meanwhile have their turn in the next run: they may go on without end.
    const bool was_full = !can_receive();
    for (std::size_t left = arrivals_.size(); left > 0 && !arrivals_.empty() && core_.work.left();
         --left) {
        const std::vector<std::uint8_t> frame = std::move(arrivals_.front());
        arrivals_.pop_front();
        dispatch(frame, true);
    }
    run_flush();
    if (was_full && can_receive())
        core_.host.rx_ready();
}

void RxEngine::reset() {
    drop_arrivals();
    flushing_.clear();
}

void RxEngine::drop_arrivals() {
    const bool was_full = !can_receive();
    core_.stats.rx_dropped += arrivals_.size();
    arrivals_.clear();
    if (was_full)
        core_.host.rx_ready();
}

void RxEngine::count_no_buffer(const Rq &rq) {
    if (QCounter *c = core_.q_counters.find(rq.counter_set))
        ++c->out_of_buffer;
}

void RxEngine::dispatch(ConstBytes frame, bool from_wire) {
    PacketInfo info = parse_packet(frame);
    verify_checksums(frame, info);
    core_.work.charge_bytes(frame.size(), kBytesRead);
    const SteeringVerdict verdict = core_.steering.steer(frame, info);
    Vport &v = core_.vport;
    for (std::uint32_t id : verdict.counters) {
        if (FlowCounter *c = core_.flow_counters.find(id)) {
            ++c->packets;
            c->bytes += frame.size();
        }
    }
    if (verdict.tirns.empty() && !verdict.dropped)
        ++v.rx_steer_missed;
    const bool multicast = (frame[0] & 1) != 0;
    bool delivered = false;
    for (std::uint32_t tirn : verdict.tirns) {
        const Tir *tir = core_.tirs.find(tirn);
        if (tir == nullptr || (!from_wire && !(multicast ? tir->self_lb_mc : tir->self_lb_uc)))
            continue;
        core_.work.charge_bytes(frame.size(), kBytesRead); // to hash, sum and copy
        const RssResult rss = rss_hash(*tir, frame, info);
        std::uint32_t rqn = tir->rqn;
        if (tir->indirect) {
            const Rqt *rqt = core_.rqts.find(tir->rqtn);
            if (rqt == nullptr || rqt->rqns.empty())
                continue;
            rqn = rqt->rqns[rss.hash % rqt->rqns.size()];
        }
        Rq *rq = core_.rqs.find(rqn);
        if (rq == nullptr || rq->state != QueueState::kReady)
            continue;
        const Outcome outcome = deliver(*rq, frame, info, rss, verdict.flow_tag);
        if (outcome == Outcome::kNoBuffer)
            count_no_buffer(*rq);
        delivered |= outcome == Outcome::kDelivered;
    }
    if (!delivered) {
        ++core_.stats.rx_dropped;
        return;
    }
    const bool broadcast =
        std::all_of(frame.begin(), frame.begin() + 6, [](std::uint8_t b) { return b == 0xff; });
    (broadcast ? v.rx_bc : multicast ? v.rx_mc : v.rx_uc).add(frame.size());
}

std::optional<std::uint16_t> RxEngine::available(Rq &rq) {
    std::array<std::uint8_t, 4> record{};
    if (!core_.dma_read(rq.wq.dbr + std::uint64_t{MLX5_RCV_DBR} * 4, record))
        return std::nullopt;
    const auto posted = static_cast<std::uint16_t>(load_be<std::uint32_t>(record.data()));
    const auto count = static_cast<std::uint16_t>(posted - rq.ci);
    if (count > 1U << rq.wq.log_size)
        return std::nullopt;
    return count;
}

RxEngine::Outcome RxEngine::deliver(Rq &rq, ConstBytes frame, const PacketInfo &info,
                                    const RssResult &rss, std::uint32_t flow_tag) {
    const auto count = available(rq);
    if (!count) {
        set_error(rq, Syndrome::kLocalQpOp);
        return Outcome::kDropped;
    }
    if (*count == 0)
        return Outcome::kNoBuffer;
    if (auto synd = core_.faults.on_receive(rq.id)) {
        set_error(rq, *synd);
        return Outcome::kDropped;
    }

    mlx5_cqe64 cqe{};
    cqe.op_own = MLX5_CQE_RESP_SEND << 4;
    cqe.rss_hash_result = cpu_to_be32(rss.hash);
    cqe.rss_hash_type = rss.type;
    cqe.flags_rqpn = cpu_to_be32(rq.id);
    cqe.sop_drop_qpn = cpu_to_be32(flow_tag & 0xffffff);
    cqe.hds_ip_ext =
        CQE_L2_OK | (info.ip_checksum_ok ? CQE_L3_OK : 0) | (info.l4_checksum_ok ? CQE_L4_OK : 0);
    constexpr unsigned kL3Ipv6 = 1;
    constexpr unsigned kL3Ipv4 = 2;
    unsigned l4 = CQE_L4_HDR_TYPE_NONE;
    if (info.is_udp())
        l4 = CQE_L4_HDR_TYPE_UDP;
    else if (info.is_tcp())
        l4 = (frame[info.l4_offset + 13] & 0x10) == 0 ? CQE_L4_HDR_TYPE_TCP_NO_ACK
             : info.payload_offset >= info.ip_end     ? CQE_L4_HDR_TYPE_TCP_ACK_NO_DATA
                                                      : CQE_L4_HDR_TYPE_TCP_ACK_AND_DATA;
    const unsigned l3 = info.ip_version == 4 ? kL3Ipv4 : info.ip_version == 6 ? kL3Ipv6 : 0;
    cqe.l4_l3_hdr_type = static_cast<std::uint8_t>(l4 << 4 | l3 << 2);
    // Sum of the IP packet from its header on: neither VLAN tags nor the padding behind it.
    if (info.ip_version != 0)
        cqe.check_sum =
            cpu_to_be16(ones_sum(frame.subspan(info.l3_offset, info.ip_end - info.l3_offset)));

    scratch_.assign(frame.begin(), frame.end());
    if (info.vlan && !info.svlan && !rq.vlan_strip_disable) {
        scratch_.erase(scratch_.begin() + 12, scratch_.begin() + 16);
        cqe.l4_l3_hdr_type |= 1;
        cqe.vlan_info = cpu_to_be16(info.vlan_tci);
    }
    return is_striding(rq) ? deliver_striding(rq, scratch_, cqe)
                           : deliver_cyclic(rq, scratch_, cqe);
}

Syndrome RxEngine::scatter(Rq &rq, ConstBytes wqe, ConstBytes data) {
    while (!data.empty()) {
        if (wqe.size() < kDataSegment)
            return Syndrome::kLocalLength;
        mlx5_wqe_data_seg seg;
        std::memcpy(&seg, wqe.data(), sizeof(seg));
        wqe = wqe.subspan(kDataSegment);
        const std::uint32_t lkey = be32_to_cpu(seg.lkey);
        if (lkey == kTerminateScatterListLkey)
            return Syndrome::kLocalLength;
        const std::size_t room = be32_to_cpu(seg.byte_count) & ~kHwStartPadding;
        const std::size_t n = std::min(room, data.size());
        const Syndrome st =
            core_.memory.write(lkey, rq.wq.pd, be64_to_cpu(seg.addr), data.first(n));
        if (st != Syndrome::kOk)
            return st;
        data = data.subspan(n);
    }
    return Syndrome::kOk;
}

RxEngine::Outcome RxEngine::deliver_cyclic(Rq &rq, ConstBytes data, mlx5_cqe64 &cqe) {
    const unsigned mask = (1U << rq.wq.log_size) - 1;
    const bool linked = is_linked_list(rq);
    const auto index = static_cast<std::uint16_t>(linked ? rq.head & mask : rq.ci & mask);
    std::vector<std::uint8_t> wqe(1U << rq.wq.log_stride);
    if (!rq.wq.buf.read(core_, static_cast<std::uint64_t>(index) << rq.wq.log_stride, wqe)) {
        set_error(rq, Syndrome::kLocalProt);
        return Outcome::kDropped;
    }
    const ConstBytes segments = ConstBytes(wqe).subspan(linked ? kNextSegment : 0);
    if (const Syndrome st = scatter(rq, segments, data); st != Syndrome::kOk) {
        set_error(rq, st);
        return Outcome::kDropped;
    }
    cqe.byte_cnt = cpu_to_be32(static_cast<std::uint32_t>(data.size()));
    cqe.wqe_counter = cpu_to_be16(linked ? index : rq.ci);
    ++rq.ci;
    if (linked)
        rq.head = load_be<std::uint16_t>(wqe.data() + 2);
    complete(rq, cqe);
    return Outcome::kDelivered;
}

RxEngine::Outcome RxEngine::deliver_striding(Rq &rq, ConstBytes data, mlx5_cqe64 &cqe) {
    constexpr unsigned kFiller = 0x8000;
    const unsigned mask = (1U << rq.wq.log_size) - 1;
    const bool linked = is_linked_list(rq);
    const std::uint32_t strides = 1U << rq.log_num_strides;
    const std::size_t stride_size = 1UL << rq.log_stride_size;
    const auto needed = static_cast<std::uint32_t>((data.size() + stride_size - 1) / stride_size);
    if (needed > strides) {
        set_error(rq, Syndrome::kLocalLength);
        return Outcome::kDropped;
    }
    std::vector<std::uint8_t> wqe(1U << rq.wq.log_stride);
    std::uint16_t index = 0;
    for (;;) {
        index = static_cast<std::uint16_t>(linked ? rq.head & mask : rq.ci & mask);
        if (!rq.wq.buf.read(core_, static_cast<std::uint64_t>(index) << rq.wq.log_stride, wqe)) {
            set_error(rq, Syndrome::kLocalProt);
            return Outcome::kDropped;
        }
        const std::uint32_t left = strides - rq.stride;
        if (needed <= left)
            break;
        // The rest of this WQE is too small for the frame: give it back, unused.
        const auto next = available(rq);
        if (!next || *next < 2)
            return Outcome::kNoBuffer;
        mlx5_cqe64 filler{};
        filler.op_own = MLX5_CQE_RESP_SEND << 4;
        filler.flags_rqpn = cpu_to_be32(rq.id);
        filler.wqe_id = cpu_to_be16(index);
        filler.wqe_counter = cpu_to_be16(static_cast<std::uint16_t>(rq.stride));
        filler.byte_cnt = cpu_to_be32((kFiller | left) << 16);
        rq.stride = 0;
        ++rq.ci;
        if (linked)
            rq.head = load_be<std::uint16_t>(wqe.data() + 2);
        complete(rq, filler);
        if (rq.state != QueueState::kReady)
            return Outcome::kDropped;
    }
    mlx5_wqe_data_seg seg;
    std::memcpy(&seg, wqe.data() + (linked ? kNextSegment : 0), sizeof(seg));
    const std::uint64_t room = be32_to_cpu(seg.byte_count) & ~kHwStartPadding;
    const std::uint64_t at = static_cast<std::uint64_t>(rq.stride) << rq.log_stride_size;
    const std::uint64_t base = be64_to_cpu(seg.addr);
    Syndrome st = Syndrome::kLocalLength;
    if (base + at < base)
        st = Syndrome::kLocalProt; // round the end of the address space
    else if (at + data.size() <= room)
        st = core_.memory.write(be32_to_cpu(seg.lkey), rq.wq.pd, base + at, data);
    if (st != Syndrome::kOk) {
        set_error(rq, st);
        return Outcome::kDropped;
    }
    cqe.wqe_id = cpu_to_be16(index);
    cqe.wqe_counter = cpu_to_be16(static_cast<std::uint16_t>(rq.stride));
    cqe.byte_cnt = cpu_to_be32(needed << 16 | static_cast<std::uint32_t>(data.size()));
    rq.stride += needed;
    if (rq.stride == strides) {
        rq.stride = 0;
        ++rq.ci;
        if (linked)
            rq.head = load_be<std::uint16_t>(wqe.data() + 2);
    }
    complete(rq, cqe);
    return Outcome::kDelivered;
}

void RxEngine::complete(Rq &rq, mlx5_cqe64 &cqe) {
    Cq *cq = core_.cqs.find(rq.cqn);
    if (cq == nullptr || !core_.completions.complete(*cq, cqe))
        rq.state = QueueState::kError;
}

void RxEngine::set_error(Rq &rq, Syndrome syndrome) {
    if (std::exchange(rq.state, QueueState::kError) == QueueState::kError)
        return;
    const bool flush_only = syndrome == Syndrome::kFlush;
    rq.to_flush = available(rq).value_or(flush_only ? 0 : 1);
    if (!flush_only) {
        core_.log(LogLevel::kInfo, "RQ %#x: error CQE, syndrome %#x", rq.id,
                  static_cast<unsigned>(syndrome));
        // The WQE in work gets the reason, all others are flushed.
        if (rq.to_flush != 0)
            complete_in_error(rq, syndrome);
    }
    if (!rq.flush_in_error)
        rq.to_flush = 0;
    if (rq.to_flush != 0) {
        flushing_.push_back(rq.id);
        core_.kick();
    }
}

void RxEngine::complete_in_error(Rq &rq, Syndrome syndrome) {
    const unsigned mask = (1U << rq.wq.log_size) - 1;
    const bool linked = is_linked_list(rq);
    const auto index = static_cast<std::uint16_t>(linked ? rq.head & mask : rq.ci & mask);
    mlx5_err_cqe err{};
    err.syndrome = static_cast<std::uint8_t>(syndrome);
    err.s_wqe_opcode_qpn = cpu_to_be32(rq.id);
    err.wqe_counter = cpu_to_be16(linked ? index : rq.ci);
    err.op_own = MLX5_CQE_RESP_ERR << 4;
    mlx5_cqe64 cqe;
    std::memcpy(&cqe, &err, sizeof(cqe));
    if (linked)
        cqe.wqe_id = cpu_to_be16(index);
    ++core_.stats.error_cqes;
    if (QCounter *c = core_.q_counters.find(rq.counter_set))
        ++(syndrome == Syndrome::kFlush ? c->resp_cqe_flush_error : c->resp_cqe_error);
    Cq *cq = core_.cqs.find(rq.cqn);
    if (cq == nullptr || !core_.completions.complete(*cq, cqe)) {
        rq.to_flush = 0;
        return;
    }
    --rq.to_flush;
    ++rq.ci;
    rq.stride = 0;
    if (linked) {
        std::array<std::uint8_t, 4> next{};
        if (rq.wq.buf.read(core_, static_cast<std::uint64_t>(index) << rq.wq.log_stride, next))
            rq.head = load_be<std::uint16_t>(next.data() + 2);
        else
            rq.to_flush = 0;
    }
}

void RxEngine::run_flush() {
    while (!flushing_.empty() && core_.work.left()) {
        Rq *rq = core_.rqs.find(flushing_.front());
        if (rq != nullptr && rq->to_flush != 0 && rq->state == QueueState::kError)
            complete_in_error(*rq, Syndrome::kFlush);
        else
            flushing_.pop_front();
    }
}

} // namespace connectx
