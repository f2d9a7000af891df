// SPDX-License-Identifier: GPL-2.0
//
// Commands about EQs, CQs, SQs, RQs, TISs, TIRs, RQTs and queue counters.
#include "core.h"

namespace connectx {

namespace {

constexpr std::size_t kAddressBytes = 256; // in a unit of WorkMeter
constexpr std::size_t kUnitsPerRqn = 2;

/// Takes the page addresses of a ring of `bytes` out of a command.
CommandStatus take_pages(Core &core, ConstBytes pas, std::uint64_t bytes, unsigned page_shift,
                         PageList &list) {
    if (page_shift > 31)
        return bad_param(0x300);
    const std::uint64_t count = ((bytes - 1) >> page_shift) + 1;
    if (pas.size() / 8 < count)
        return bad_input_length(0x301);
    if (!core.take_memory(count * sizeof(list.pages[0]), list.share))
        return no_resources(0x303);
    core.work.charge_bytes(count * sizeof(list.pages[0]), kAddressBytes);
    list.page_shift = page_shift;
    list.pages.resize(count);
    for (std::uint64_t i = 0; i < count; ++i) {
        const auto addr = load_be<std::uint64_t>(pas.data() + i * 8);
        if ((addr & ((1ULL << page_shift) - 1)) != 0)
            return bad_param(0x302);
        list.pages[i] = addr;
    }
    return kOk;
}

// --- EQ ------------------------------------------------------------------------------------------

CommandStatus create_eq(Core &core, const Command &cmd) {
    const ConstBytes eqc = IFC_AT(create_eq_in, cmd.in, eq_context_entry);
    const unsigned log_size = IFC_GET(eqc, eqc, log_eq_size);
    const unsigned vector = IFC_GET(eqc, eqc, intr);
    if (log_size > IFC_GET(cmd_hca_cap, core.caps.general(), log_max_eq_sz))
        return limit_exceeded(0x310);
    if (vector >= core.config.msix_vectors || IFC_GET(eqc, eqc, page_offset) != 0)
        return bad_param(0x311);
    Uar *uar = core.uars.find(IFC_GET(eqc, eqc, uar_page));
    if (uar == nullptr)
        return bad_resource(0x312);
    PageList buf;
    if (auto st = take_pages(core, IFC_AT(create_eq_in, cmd.in, pas), sizeof(mlx5_eqe) << log_size,
                             IFC_GET(eqc, eqc, log_page_size) + MLX5_ADAPTER_PAGE_SHIFT, buf);
        !st.ok())
        return st;
    Eq *eq = core.eqs.create();
    if (eq == nullptr)
        return no_resources(0x313);
    eq->vector = vector;
    eq->log_size = log_size;
    eq->buf = std::move(buf);
    eq->uar = uar->id;
    for (unsigned i = 0; i < eq->event_mask.size(); ++i)
        eq->event_mask[i] = load_be<std::uint64_t>(
            IFC_AT(create_eq_in, cmd.in, event_bitmask).data() + std::size_t{i} * 8);
    ++uar->refs;
    IFC_SET(create_eq_out, cmd.out, eq_number, eq->id);
    core.pages.object_created();
    return kOk;
}

CommandStatus destroy_eq(Core &core, const Command &cmd) {
    return destroy_object(core, core.eqs, IFC_GET(destroy_eq_in, cmd.in, eq_number), 0x314, 0x315,
                          [&core](Eq &eq) { core.uars.release(eq.uar); });
}

CommandStatus query_eq(Core &core, const Command &cmd) {
    const Eq *eq = core.eqs.find(IFC_GET(query_eq_in, cmd.in, eq_number));
    if (eq == nullptr)
        return bad_index(0x316);
    const Bytes eqc = IFC_AT(query_eq_out, cmd.out, eq_context_entry);
    constexpr unsigned kArmed = 0x9;
    constexpr unsigned kFired = 0xa;
    IFC_SET(eqc, eqc, st, eq->armed ? kArmed : kFired);
    IFC_SET(eqc, eqc, log_eq_size, eq->log_size);
    IFC_SET(eqc, eqc, uar_page, eq->uar);
    IFC_SET(eqc, eqc, intr, eq->vector);
    IFC_SET(eqc, eqc, log_page_size, eq->buf.page_shift - MLX5_ADAPTER_PAGE_SHIFT);
    IFC_SET(eqc, eqc, consumer_counter, eq->ci);
    IFC_SET(eqc, eqc, producer_counter, eq->pi);
    IFC_SET64(query_eq_out, cmd.out, event_bitmask, eq->event_mask[0]);
    return kOk;
}

// --- CQ ------------------------------------------------------------------------------------------

CommandStatus create_cq(Core &core, const Command &cmd) {
    const ConstBytes cqc = IFC_AT(create_cq_in, cmd.in, cq_context);
    const unsigned log_size = IFC_GET(cqc, cqc, log_cq_size);
    const unsigned cqe_size = IFC_GET(cqc, cqc, cqe_sz);
    if (log_size > IFC_GET(cmd_hca_cap, core.caps.general(), log_max_cq_sz))
        return limit_exceeded(0x320);
    if (cqe_size > CQE_STRIDE_128_PAD || IFC_GET(cqc, cqc, page_offset) != 0 ||
        IFC_GET(create_cq_in, cmd.in, cq_umem_valid) != 0 ||
        IFC_GET(cqc, cqc, dbr_umem_valid) != 0 || IFC_GET(cqc, cqc, apu_cq) != 0)
        return bad_param(0x321);
    if (IFC_GET(cqc, cqc, cqe_comp_en) != 0)
        return bad_param(0x322);
    const std::uint64_t dbr = IFC_GET64(cqc, cqc, dbr_addr);
    if (dbr % 8 != 0)
        return bad_param(0x323);
    Eq *eq = core.eqs.find(IFC_GET(cqc, cqc, c_eqn_or_apu_element));
    Uar *uar = core.uars.find(IFC_GET(cqc, cqc, uar_page));
    if (eq == nullptr || uar == nullptr)
        return bad_resource(0x324);
    const unsigned stride = cqe_size == CQE_STRIDE_64 ? 64 : 128;
    PageList buf;
    if (auto st = take_pages(core, IFC_AT(create_cq_in, cmd.in, pas),
                             static_cast<std::uint64_t>(stride) << log_size,
                             IFC_GET(cqc, cqc, log_page_size) + MLX5_ADAPTER_PAGE_SHIFT, buf);
        !st.ok())
        return st;
    Cq *cq = core.cqs.create();
    if (cq == nullptr)
        return no_resources(0x325);
    cq->eqn = eq->id;
    cq->uar = uar->id;
    cq->log_size = log_size;
    cq->stride = stride;
    cq->buf = std::move(buf);
    cq->dbr = {dbr};
    cq->ignore_overrun = IFC_GET(cqc, cqc, oi) != 0;
    cq->period_us = IFC_GET(cqc, cqc, cq_period);
    cq->max_count = IFC_GET(cqc, cqc, cq_max_count);
    cq->period_mode = IFC_GET(cqc, cqc, cq_period_mode);
    ++eq->refs;
    ++uar->refs;
    IFC_SET(create_cq_out, cmd.out, cqn, cq->id);
    core.pages.object_created();
    return kOk;
}

CommandStatus destroy_cq(Core &core, const Command &cmd) {
    return destroy_object(core, core.cqs, IFC_GET(destroy_cq_in, cmd.in, cqn), 0x326, 0x327,
                          [&core](Cq &cq) {
                              core.completions.forget(cq);
                              core.eqs.release(cq.eqn);
                              core.uars.release(cq.uar);
                          });
}

CommandStatus modify_cq(Core &core, const Command &cmd) {
    constexpr unsigned kModifyFields = 0;
    Cq *cq = core.cqs.find(IFC_GET(modify_cq_in, cmd.in, cqn));
    if (cq == nullptr)
        return bad_index(0x328);
    if (cmd.op_mod != kModifyFields)
        return bad_param(0x329);
    const std::uint32_t select = load_be<std::uint32_t>(
        IFC_AT(modify_cq_in, cmd.in, modify_field_select_resize_field_select).data());
    constexpr std::uint32_t kKnown = MLX5_CQ_MODIFY_PERIOD | MLX5_CQ_MODIFY_COUNT |
                                     MLX5_CQ_MODIFY_OVERRUN | MLX5_CQ_MODIFY_PERIOD_MODE;
    if ((select & ~kKnown) != 0)
        return bad_param(0x32a);
    const ConstBytes cqc = IFC_AT(modify_cq_in, cmd.in, cq_context);
    if ((select & MLX5_CQ_MODIFY_PERIOD) != 0)
        cq->period_us = IFC_GET(cqc, cqc, cq_period);
    if ((select & MLX5_CQ_MODIFY_COUNT) != 0)
        cq->max_count = IFC_GET(cqc, cqc, cq_max_count);
    if ((select & MLX5_CQ_MODIFY_OVERRUN) != 0)
        cq->ignore_overrun = IFC_GET(cqc, cqc, oi) != 0;
    if ((select & MLX5_CQ_MODIFY_PERIOD_MODE) != 0)
        cq->period_mode = IFC_GET(cqc, cqc, cq_period_mode);
    core.completions.evaluate(*cq);
    return kOk;
}

CommandStatus query_cq(Core &core, const Command &cmd) {
    const Cq *cq = core.cqs.find(IFC_GET(query_cq_in, cmd.in, cqn));
    if (cq == nullptr)
        return bad_index(0x32b);
    const Bytes cqc = IFC_AT(query_cq_out, cmd.out, cq_context);
    constexpr unsigned kOverflowStatus = 0x9;
    IFC_SET(cqc, cqc, status, cq->error ? kOverflowStatus : 0);
    IFC_SET(cqc, cqc, cqe_sz, cq->stride == 64 ? CQE_STRIDE_64 : CQE_STRIDE_128_PAD);
    IFC_SET(cqc, cqc, oi, cq->ignore_overrun);
    IFC_SET(cqc, cqc, cq_period_mode, cq->period_mode);
    IFC_SET(cqc, cqc, st, static_cast<unsigned>(cq->state));
    IFC_SET(cqc, cqc, log_cq_size, cq->log_size);
    IFC_SET(cqc, cqc, uar_page, cq->uar);
    IFC_SET(cqc, cqc, cq_period, cq->period_us);
    IFC_SET(cqc, cqc, cq_max_count, cq->max_count);
    IFC_SET(cqc, cqc, c_eqn_or_apu_element, cq->eqn);
    IFC_SET(cqc, cqc, log_page_size, cq->buf.page_shift - MLX5_ADAPTER_PAGE_SHIFT);
    IFC_SET(cqc, cqc, consumer_counter, cq->ci);
    IFC_SET(cqc, cqc, producer_counter, cq->pi);
    IFC_SET64(cqc, cqc, dbr_addr, cq->dbr.value);
    return kOk;
}

// --- work queues ---------------------------------------------------------------------------------

CommandStatus take_wq(Core &core, ConstBytes wqc, Wq &wq) {
    wq.type = IFC_GET(wq, wqc, wq_type);
    wq.log_stride = IFC_GET(wq, wqc, log_wq_stride);
    wq.log_size = IFC_GET(wq, wqc, log_wq_sz);
    wq.dbr = {IFC_GET64(wq, wqc, dbr_addr)};
    wq.pd = IFC_GET(wq, wqc, pd);
    wq.uar = IFC_GET(wq, wqc, uar_page);
    if (wq.log_size > IFC_GET(cmd_hca_cap, core.caps.general(), log_max_wq_sz))
        return limit_exceeded(0x330);
    if (IFC_GET(wq, wqc, page_offset) != 0 || IFC_GET(wq, wqc, wq_umem_valid) != 0 ||
        IFC_GET(wq, wqc, dbr_umem_valid) != 0 || IFC_GET(wq, wqc, wq_signature) != 0 ||
        IFC_GET(wq, wqc, cd_slave) != 0 || IFC_GET(wq, wqc, shampo_enable) != 0 ||
        IFC_GET(wq, wqc, two_byte_shift_en) != 0)
        return bad_param(0x331);
    if (wq.dbr.value % 8 != 0)
        return bad_param(0x332);
    return take_pages(core, IFC_AT(wq, wqc, pas), 1ULL << (wq.log_stride + wq.log_size),
                      IFC_GET(wq, wqc, log_wq_pg_sz) + MLX5_ADAPTER_PAGE_SHIFT, wq.buf);
}

bool known_state(unsigned state) {
    return state == MLX5_SQC_STATE_RST || state == MLX5_SQC_STATE_RDY ||
           state == MLX5_SQC_STATE_ERR;
}

/// From anywhere to error or reset, from reset to ready.
bool transition_allowed(QueueState from, unsigned to) {
    return to != MLX5_SQC_STATE_RDY || from == QueueState::kReset || from == QueueState::kReady;
}

CommandStatus create_sq(Core &core, const Command &cmd) {
    const ConstBytes sqc = IFC_AT(create_sq_in, cmd.in, ctx);
    if (IFC_GET(sqc, sqc, hairpin) != 0 || IFC_GET(sqc, sqc, cd_master) != 0 ||
        (IFC_GET(sqc, sqc, allow_swp) != 0 && !core.config.ipsec) ||
        IFC_GET(sqc, sqc, packet_pacing_rate_limit_index) != 0 ||
        IFC_GET(sqc, sqc, state) != MLX5_SQC_STATE_RST)
        return bad_param(0x340);
    const bool has_tis = IFC_GET(sqc, sqc, tis_lst_sz) != 0;
    if (IFC_GET(sqc, sqc, tis_lst_sz) > 1)
        return limit_exceeded(0x341);
    Cq *cq = core.cqs.find(IFC_GET(sqc, sqc, cqn));
    const std::uint32_t port_cqn = IFC_GET(sqc, sqc, ts_cqe_to_dest_cqn);
    Cq *port_cq = port_cqn != 0 ? core.cqs.find(port_cqn) : nullptr;
    Tis *tis = has_tis ? core.tises.find(IFC_GET(sqc, sqc, tis_num_0)) : nullptr;
    Wq wq;
    if (auto st = take_wq(core, IFC_AT(sqc, sqc, wq), wq); !st.ok())
        return st;
    if (wq.type != MLX5_WQ_TYPE_CYCLIC || wq.log_stride != 6)
        return bad_param(0x342);
    Pd *pd = core.pds.find(wq.pd);
    Uar *uar = core.uars.find(wq.uar);
    if (cq == nullptr || (has_tis && tis == nullptr) || pd == nullptr || uar == nullptr ||
        (port_cqn != 0 && port_cq == nullptr))
        return bad_resource(0x343);
    Sq *sq = core.sqs.create();
    if (sq == nullptr)
        return no_resources(0x344);
    sq->wq = std::move(wq);
    sq->cqn = cq->id;
    sq->port_cqn = port_cqn;
    sq->tis = tis != nullptr ? tis->id : 0;
    sq->reg_umr = IFC_GET(sqc, sqc, reg_umr) != 0;
    sq->flush_in_error = IFC_GET(sqc, sqc, flush_in_error_en) != 0;
    sq->non_wire = IFC_GET(sqc, sqc, non_wire) != 0;
    sq->context.assign(sqc.begin(), sqc.begin() + IFC_BYTES(sqc));
    ++cq->refs;
    ++pd->refs;
    ++uar->refs;
    if (port_cq != nullptr)
        ++port_cq->refs;
    if (tis != nullptr)
        ++tis->refs;
    IFC_SET(create_sq_out, cmd.out, sqn, sq->id);
    core.pages.object_created();
    return kOk;
}

CommandStatus destroy_sq(Core &core, const Command &cmd) {
    return destroy_object(core, core.sqs, IFC_GET(destroy_sq_in, cmd.in, sqn), 0x345, 0x34a,
                          [&core](Sq &sq) {
                              core.tx.forget(sq);
                              core.cqs.release(sq.cqn);
                              core.cqs.release(sq.port_cqn);
                              core.pds.release(sq.wq.pd);
                              core.uars.release(sq.wq.uar);
                              core.tises.release(sq.tis);
                          });
}

CommandStatus modify_sq(Core &core, const Command &cmd) {
    Sq *sq = core.sqs.find(IFC_GET(modify_sq_in, cmd.in, sqn));
    if (sq == nullptr)
        return bad_index(0x346);
    const ConstBytes sqc = IFC_AT(modify_sq_in, cmd.in, ctx);
    const unsigned from = IFC_GET(modify_sq_in, cmd.in, sq_state);
    const unsigned to = IFC_GET(sqc, sqc, state);
    if (!known_state(from) || !known_state(to) || IFC_GET64(modify_sq_in, cmd.in, modify_bitmask))
        return bad_param(0x347);
    if (from != static_cast<unsigned>(sq->state) || !transition_allowed(sq->state, to))
        return bad_state(0x348);
    if (to == MLX5_SQC_STATE_RST) {
        core.tx.forget(*sq);
        sq->pi = 0;
        sq->ci = 0;
    }
    if (to == MLX5_SQC_STATE_ERR && sq->state == QueueState::kReady)
        core.tx.set_error(*sq, Syndrome::kFlush, sq->ci);
    sq->state = static_cast<QueueState>(to);
    return kOk;
}

CommandStatus query_sq(Core &core, const Command &cmd) {
    const Sq *sq = core.sqs.find(IFC_GET(query_sq_in, cmd.in, sqn));
    if (sq == nullptr)
        return bad_index(0x349);
    const Bytes sqc = IFC_AT(query_sq_out, cmd.out, sq_context);
    std::memcpy(sqc.data(), sq->context.data(), std::min(sqc.size(), sq->context.size()));
    IFC_SET(sqc, sqc, state, static_cast<unsigned>(sq->state));
    IFC_SET(sqc, sqc, wq.hw_counter, sq->ci);
    IFC_SET(sqc, sqc, wq.sw_counter, sq->pi);
    return kOk;
}

CommandStatus create_rq(Core &core, const Command &cmd) {
    const ConstBytes rqc = IFC_AT(create_rq_in, cmd.in, ctx);
    if (IFC_GET(rqc, rqc, hairpin) != 0 || IFC_GET(rqc, rqc, delay_drop_en) != 0 ||
        IFC_GET(rqc, rqc, scatter_fcs) != 0 ||
        IFC_GET(rqc, rqc, mem_rq_type) != MLX5_RQC_RQ_TYPE_MEMORY_RQ_INLINE ||
        IFC_GET(rqc, rqc, state) != MLX5_RQC_STATE_RST)
        return bad_param(0x350);
    Cq *cq = core.cqs.find(IFC_GET(rqc, rqc, cqn));
    QCounter *counter = nullptr;
    if (const unsigned set = IFC_GET(rqc, rqc, counter_set_id); set != 0) {
        counter = core.q_counters.find(set);
        if (counter == nullptr)
            return bad_resource(0x351);
    }
    Wq wq;
    const ConstBytes wqc = IFC_AT(rqc, rqc, wq);
    if (auto st = take_wq(core, wqc, wq); !st.ok())
        return st;
    const bool striding = wq.type == MLX5_WQ_TYPE_LINKED_LIST_STRIDING_RQ ||
                          wq.type == MLX5_WQ_TYPE_CYCLIC_STRIDING_RQ;
    const bool linked =
        wq.type == MLX5_WQ_TYPE_LINKED_LIST || wq.type == MLX5_WQ_TYPE_LINKED_LIST_STRIDING_RQ;
    if (wq.type > MLX5_WQ_TYPE_CYCLIC_STRIDING_RQ || wq.log_stride < (linked ? 5U : 4U) ||
        wq.log_stride > 9)
        return bad_param(0x352);
    unsigned log_stride_size = 0;
    unsigned log_num_strides = 0;
    if (striding) {
        // Both are encoded as a distance from a base; the number of strides as a signed one.
        const unsigned raw = IFC_GET(wq, wqc, log_wqe_num_of_strides);
        const int delta = raw >= 8 ? static_cast<int>(raw) - 16 : static_cast<int>(raw);
        const int strides = MLX5_MPWQE_LOG_NUM_STRIDES_BASE + delta;
        log_stride_size = MLX5_MPWQE_LOG_STRIDE_SZ_BASE + IFC_GET(wq, wqc, log_wqe_stride_size);
        if (strides < MLX5_MPWQE_LOG_NUM_STRIDES_EXT_BASE ||
            strides > MLX5_MPWQE_LOG_NUM_STRIDES_MAX ||
            log_stride_size > MLX5_MPWQE_LOG_STRIDE_SZ_MAX)
            return bad_param(0x353);
        log_num_strides = static_cast<unsigned>(strides);
    }
    // PD 0 is nobody's: such a queue exists to have no buffers, all its frames are dropped.
    Pd *pd = core.pds.find(wq.pd);
    if (cq == nullptr || (pd == nullptr && wq.pd != 0))
        return bad_resource(0x354);
    Rq *rq = core.rqs.create();
    if (rq == nullptr)
        return no_resources(0x355);
    rq->wq = std::move(wq);
    rq->cqn = cq->id;
    rq->counter_set = counter != nullptr ? counter->id : 0;
    rq->vlan_strip_disable = IFC_GET(rqc, rqc, vsd) != 0;
    rq->flush_in_error = IFC_GET(rqc, rqc, flush_in_error_en) != 0;
    rq->log_stride_size = log_stride_size;
    rq->log_num_strides = log_num_strides;
    rq->context.assign(rqc.begin(), rqc.begin() + IFC_BYTES(rqc));
    ++cq->refs;
    if (pd != nullptr)
        ++pd->refs;
    if (counter != nullptr)
        ++counter->refs;
    IFC_SET(create_rq_out, cmd.out, rqn, rq->id);
    core.pages.object_created();
    return kOk;
}

CommandStatus destroy_rq(Core &core, const Command &cmd) {
    return destroy_object(core, core.rqs, IFC_GET(destroy_rq_in, cmd.in, rqn), 0x356, 0x357,
                          [&core](Rq &rq) {
                              core.cqs.release(rq.cqn);
                              core.pds.release(rq.wq.pd);
                              core.q_counters.release(rq.counter_set);
                          });
}

CommandStatus modify_rq(Core &core, const Command &cmd) {
    Rq *rq = core.rqs.find(IFC_GET(modify_rq_in, cmd.in, rqn));
    if (rq == nullptr)
        return bad_index(0x358);
    const ConstBytes rqc = IFC_AT(modify_rq_in, cmd.in, ctx);
    const std::uint64_t mask = IFC_GET64(modify_rq_in, cmd.in, modify_bitmask);
    const unsigned from = IFC_GET(modify_rq_in, cmd.in, rq_state);
    const unsigned to = IFC_GET(rqc, rqc, state);
    constexpr std::uint64_t kKnown =
        MLX5_MODIFY_RQ_IN_MODIFY_BITMASK_VSD | MLX5_MODIFY_RQ_IN_MODIFY_BITMASK_RQ_COUNTER_SET_ID;
    if (!known_state(from) || !known_state(to) || (mask & ~kKnown) != 0)
        return bad_param(0x359);
    if (from != static_cast<unsigned>(rq->state) || !transition_allowed(rq->state, to))
        return bad_state(0x35a);
    if ((mask & MLX5_MODIFY_RQ_IN_MODIFY_BITMASK_RQ_COUNTER_SET_ID) != 0) {
        const unsigned set = IFC_GET(rqc, rqc, counter_set_id);
        QCounter *counter = core.q_counters.find(set);
        if (set != 0 && counter == nullptr)
            return bad_resource(0x35b);
        core.q_counters.release(rq->counter_set);
        rq->counter_set = set;
        if (counter != nullptr)
            ++counter->refs;
    }
    if ((mask & MLX5_MODIFY_RQ_IN_MODIFY_BITMASK_VSD) != 0)
        rq->vlan_strip_disable = IFC_GET(rqc, rqc, vsd) != 0;
    if (to == MLX5_RQC_STATE_RST) {
        rq->ci = 0;
        rq->head = 0;
        rq->stride = 0;
        rq->to_flush = 0;
    }
    if (to == MLX5_RQC_STATE_ERR && rq->state == QueueState::kReady)
        core.rx.set_error(*rq, Syndrome::kFlush);
    rq->state = static_cast<QueueState>(to);
    return kOk;
}

CommandStatus query_rq(Core &core, const Command &cmd) {
    const Rq *rq = core.rqs.find(IFC_GET(query_rq_in, cmd.in, rqn));
    if (rq == nullptr)
        return bad_index(0x35c);
    const Bytes rqc = IFC_AT(query_rq_out, cmd.out, rq_context);
    std::memcpy(rqc.data(), rq->context.data(), std::min(rqc.size(), rq->context.size()));
    IFC_SET(rqc, rqc, state, static_cast<unsigned>(rq->state));
    IFC_SET(rqc, rqc, vsd, rq->vlan_strip_disable);
    IFC_SET(rqc, rqc, counter_set_id, rq->counter_set);
    IFC_SET(rqc, rqc, wq.hw_counter, rq->ci);
    return kOk;
}

// --- TIS, TIR, RQT -------------------------------------------------------------------------------

CommandStatus create_tis(Core &core, const Command &cmd) {
    const ConstBytes tisc = IFC_AT(create_tis_in, cmd.in, ctx);
    if (IFC_GET(tisc, tisc, tls_en) != 0)
        return core.config.tls ? no_resources(0x367) : bad_param(0x360);
    TransportDomain *td = core.transport_domains.find(IFC_GET(tisc, tisc, transport_domain));
    if (td == nullptr)
        return bad_resource(0x361);
    Tis *tis = core.tises.create();
    if (tis == nullptr)
        return no_resources(0x362);
    tis->transport_domain = td->id;
    tis->prio = IFC_GET(tisc, tisc, prio);
    tis->context.assign(tisc.begin(), tisc.begin() + IFC_BYTES(tisc));
    ++td->refs;
    IFC_SET(create_tis_out, cmd.out, tisn, tis->id);
    return kOk;
}

CommandStatus modify_tis(Core &core, const Command &cmd) {
    Tis *tis = core.tises.find(IFC_GET(modify_tis_in, cmd.in, tisn));
    if (tis == nullptr)
        return bad_index(0x363);
    const ConstBytes tisc = IFC_AT(modify_tis_in, cmd.in, ctx);
    if (IFC_GET(modify_tis_in, cmd.in, bitmask.prio) != 0)
        tis->prio = IFC_GET(tisc, tisc, prio);
    return kOk;
}

CommandStatus destroy_tis(Core &core, const Command &cmd) {
    return destroy_object(
        core, core.tises, IFC_GET(destroy_tis_in, cmd.in, tisn), 0x364, 0x365,
        [&core](Tis &tis) { core.transport_domains.release(tis.transport_domain); });
}

CommandStatus query_tis(Core &core, const Command &cmd) {
    const Tis *tis = core.tises.find(IFC_GET(query_tis_in, cmd.in, tisn));
    if (tis == nullptr)
        return bad_index(0x366);
    const Bytes tisc = IFC_AT(query_tis_out, cmd.out, tis_context);
    std::memcpy(tisc.data(), tis->context.data(), std::min(tisc.size(), tis->context.size()));
    IFC_SET(tisc, tisc, prio, tis->prio);
    return kOk;
}

void take_hash(ConstBytes tirc, Tir &tir) {
    tir.hash_fn = IFC_GET(tirc, tirc, rx_hash_fn);
    tir.symmetric = IFC_GET(tirc, tirc, rx_hash_symmetric) != 0;
    const ConstBytes key = IFC_AT(tirc, tirc, rx_hash_toeplitz_key);
    std::copy_n(key.begin(), std::min(key.size(), tir.toeplitz_key.size()),
                tir.toeplitz_key.begin());
    tir.l3_type = IFC_GET(tirc, tirc, rx_hash_field_selector_outer.l3_prot_type);
    tir.l4_type = IFC_GET(tirc, tirc, rx_hash_field_selector_outer.l4_prot_type);
    tir.hash_fields = IFC_GET(tirc, tirc, rx_hash_field_selector_outer.selected_fields);
}

void take_self_lb(ConstBytes tirc, Tir &tir) {
    const unsigned bits = IFC_GET(tirc, tirc, self_lb_block);
    tir.self_lb_uc = (bits & MLX5_TIRC_SELF_LB_BLOCK_BLOCK_UNICAST) != 0;
    tir.self_lb_mc = (bits & MLX5_TIRC_SELF_LB_BLOCK_BLOCK_MULTICAST) != 0;
}

CommandStatus create_tir(Core &core, const Command &cmd) {
    const ConstBytes tirc = IFC_AT(create_tir_in, cmd.in, ctx);
    const unsigned disp = IFC_GET(tirc, tirc, disp_type);
    if (disp > MLX5_TIRC_DISP_TYPE_INDIRECT ||
        IFC_GET(tirc, tirc, rx_hash_fn) > MLX5_RX_HASH_FN_TOEPLITZ)
        return bad_param(0x370);
    if (IFC_GET(tirc, tirc, tls_en) != 0 || IFC_GET(tirc, tirc, packet_merge_mask) != 0)
        return bad_param(0x371);
    const bool indirect = disp == MLX5_TIRC_DISP_TYPE_INDIRECT;
    TransportDomain *td = core.transport_domains.find(IFC_GET(tirc, tirc, transport_domain));
    Rqt *rqt = indirect ? core.rqts.find(IFC_GET(tirc, tirc, indirect_table)) : nullptr;
    Rq *rq = indirect ? nullptr : core.rqs.find(IFC_GET(tirc, tirc, inline_rqn));
    if (td == nullptr || (indirect ? rqt == nullptr : rq == nullptr))
        return bad_resource(0x372);
    Tir *tir = core.tirs.create();
    if (tir == nullptr)
        return no_resources(0x373);
    tir->indirect = indirect;
    tir->transport_domain = td->id;
    if (rqt != nullptr) {
        tir->rqtn = rqt->id;
        ++rqt->refs;
    }
    if (rq != nullptr) {
        tir->rqn = rq->id;
        ++rq->refs;
    }
    ++td->refs;
    take_hash(tirc, *tir);
    take_self_lb(tirc, *tir);
    tir->context.assign(tirc.begin(), tirc.begin() + IFC_BYTES(tirc));
    IFC_SET(create_tir_out, cmd.out, tirn, tir->id);
    core.pages.object_created();
    return kOk;
}

CommandStatus modify_tir(Core &core, const Command &cmd) {
    Tir *tir = core.tirs.find(IFC_GET(modify_tir_in, cmd.in, tirn));
    if (tir == nullptr)
        return bad_index(0x374);
    const ConstBytes tirc = IFC_AT(modify_tir_in, cmd.in, ctx);
    if (IFC_GET(modify_tir_in, cmd.in, bitmask.packet_merge) != 0 &&
        IFC_GET(tirc, tirc, packet_merge_mask) != 0)
        return bad_param(0x375);
    if (IFC_GET(modify_tir_in, cmd.in, bitmask.hash) != 0) {
        if (IFC_GET(tirc, tirc, rx_hash_fn) > MLX5_RX_HASH_FN_TOEPLITZ)
            return bad_param(0x376);
        take_hash(tirc, *tir);
    }
    if (IFC_GET(modify_tir_in, cmd.in, bitmask.self_lb_en) != 0)
        take_self_lb(tirc, *tir);
    return kOk;
}

CommandStatus destroy_tir(Core &core, const Command &cmd) {
    return destroy_object(core, core.tirs, IFC_GET(destroy_tir_in, cmd.in, tirn), 0x377, 0x378,
                          [&core](Tir &tir) {
                              core.transport_domains.release(tir.transport_domain);
                              core.rqts.release(tir.rqtn);
                              core.rqs.release(tir.rqn);
                          });
}

CommandStatus query_tir(Core &core, const Command &cmd) {
    const Tir *tir = core.tirs.find(IFC_GET(query_tir_in, cmd.in, tirn));
    if (tir == nullptr)
        return bad_index(0x379);
    const Bytes tirc = IFC_AT(query_tir_out, cmd.out, tir_context);
    std::memcpy(tirc.data(), tir->context.data(), std::min(tirc.size(), tir->context.size()));
    return kOk;
}

/// The RQ numbers of a table context, at most so many; every one must exist.
CommandStatus take_rqns(Core &core, ConstBytes rqtc, std::size_t max_size,
                        std::vector<std::uint32_t> &rqns) {
    const std::size_t count = IFC_GET(rqtc, rqtc, rqt_actual_size);
    if (IFC_GET(rqtc, rqtc, list_q_type) != 0 || IFC_GET(rqtc, rqtc, rq_vhca_id_format) != 0)
        return bad_param(0x380);
    const ConstBytes list = IFC_AT(rqtc, rqtc, rq_num);
    if (list.size() / 4 < count)
        return bad_input_length(0x381);
    if (count == 0)
        return bad_param(0x382);
    if (count > max_size)
        return bad_param(0x385);
    core.work.charge(count * kUnitsPerRqn);
    rqns.resize(count);
    for (std::size_t i = 0; i < count; ++i) {
        rqns[i] = load_be<std::uint32_t>(list.data() + i * 4) & 0xffffff;
        if (core.rqs.find(rqns[i]) == nullptr)
            return bad_resource(0x383);
    }
    return kOk;
}

void reference(Core &core, const std::vector<std::uint32_t> &rqns, int by) {
    for (std::uint32_t rqn : rqns)
        if (Rq *rq = core.rqs.find(rqn))
            rq->refs += by;
}

CommandStatus create_rqt(Core &core, const Command &cmd) {
    const ConstBytes rqtc = IFC_AT(create_rqt_in, cmd.in, rqt_context);
    const unsigned max_size = IFC_GET(rqtc, rqtc, rqt_max_size);
    if (max_size > 1U << IFC_GET(cmd_hca_cap, core.caps.general(), log_max_rqt_size))
        return limit_exceeded(0x384);
    std::vector<std::uint32_t> rqns;
    if (auto st = take_rqns(core, rqtc, max_size, rqns); !st.ok())
        return st;
    Rqt *rqt = core.rqts.create();
    if (rqt == nullptr)
        return no_resources(0x386);
    rqt->max_size = max_size;
    rqt->rqns = std::move(rqns);
    reference(core, rqt->rqns, 1);
    IFC_SET(create_rqt_out, cmd.out, rqtn, rqt->id);
    core.pages.object_created();
    return kOk;
}

CommandStatus modify_rqt(Core &core, const Command &cmd) {
    Rqt *rqt = core.rqts.find(IFC_GET(modify_rqt_in, cmd.in, rqtn));
    if (rqt == nullptr)
        return bad_index(0x387);
    if (IFC_GET(modify_rqt_in, cmd.in, bitmask.rqn_list) == 0)
        return kOk;
    std::vector<std::uint32_t> rqns;
    if (auto st = take_rqns(core, IFC_AT(modify_rqt_in, cmd.in, ctx), rqt->max_size, rqns);
        !st.ok())
        return st;
    reference(core, rqns, 1);
    reference(core, rqt->rqns, -1);
    rqt->rqns = std::move(rqns);
    return kOk;
}

CommandStatus destroy_rqt(Core &core, const Command &cmd) {
    return destroy_object(core, core.rqts, IFC_GET(destroy_rqt_in, cmd.in, rqtn), 0x389, 0x38a,
                          [&core](Rqt &rqt) { reference(core, rqt.rqns, -1); });
}

// --- queue counters ------------------------------------------------------------------------------

CommandStatus alloc_q_counter(Core &core, const Command &cmd) {
    QCounter *counter = core.q_counters.create();
    if (counter == nullptr)
        return no_resources(0x390);
    IFC_SET(alloc_q_counter_out, cmd.out, counter_set_id, counter->id);
    return kOk;
}

CommandStatus dealloc_q_counter(Core &core, const Command &cmd) {
    return destroy_object(core, core.q_counters,
                          IFC_GET(dealloc_q_counter_in, cmd.in, counter_set_id), 0x391, 0x392,
                          [](QCounter &) {});
}

CommandStatus query_q_counter(Core &core, const Command &cmd) {
    QCounter *c = core.q_counters.find(IFC_GET(query_q_counter_in, cmd.in, counter_set_id));
    if (c == nullptr)
        return bad_index(0x393);
    IFC_SET(query_q_counter_out, cmd.out, out_of_buffer, c->out_of_buffer);
    IFC_SET(query_q_counter_out, cmd.out, resp_cqe_error, c->resp_cqe_error);
    IFC_SET(query_q_counter_out, cmd.out, resp_cqe_flush_error, c->resp_cqe_flush_error);
    if (IFC_GET(query_q_counter_in, cmd.in, clear) != 0) {
        QCounter fresh;
        fresh.id = c->id;
        fresh.refs = c->refs;
        *c = fresh;
    }
    return kOk;
}

} // namespace

void register_queue_commands(CommandTable &t) {
    using enum CommandStage;
#define ADD(op, name)                                                                              \
    t[MLX5_CMD_OP_##op] = {#op, IFC_BYTES(name##_in), IFC_BYTES(name##_out), kHcaInitialized, name}
    ADD(CREATE_EQ, create_eq);
    ADD(DESTROY_EQ, destroy_eq);
    ADD(QUERY_EQ, query_eq);
    ADD(CREATE_CQ, create_cq);
    ADD(DESTROY_CQ, destroy_cq);
    ADD(MODIFY_CQ, modify_cq);
    ADD(QUERY_CQ, query_cq);
    ADD(CREATE_SQ, create_sq);
    ADD(DESTROY_SQ, destroy_sq);
    ADD(MODIFY_SQ, modify_sq);
    ADD(QUERY_SQ, query_sq);
    ADD(CREATE_RQ, create_rq);
    ADD(DESTROY_RQ, destroy_rq);
    ADD(MODIFY_RQ, modify_rq);
    ADD(QUERY_RQ, query_rq);
    ADD(CREATE_TIS, create_tis);
    ADD(MODIFY_TIS, modify_tis);
    ADD(DESTROY_TIS, destroy_tis);
    ADD(QUERY_TIS, query_tis);
    ADD(CREATE_TIR, create_tir);
    ADD(MODIFY_TIR, modify_tir);
    ADD(DESTROY_TIR, destroy_tir);
    ADD(QUERY_TIR, query_tir);
    ADD(CREATE_RQT, create_rqt);
    ADD(MODIFY_RQT, modify_rqt);
    ADD(DESTROY_RQT, destroy_rqt);
    ADD(ALLOC_Q_COUNTER, alloc_q_counter);
    ADD(DEALLOC_Q_COUNTER, dealloc_q_counter);
    ADD(QUERY_Q_COUNTER, query_q_counter);
#undef ADD
}

} // namespace connectx
