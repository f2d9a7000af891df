// SPDX-License-Identifier: GPL-2.0
//
// Event queues, completion queues, interrupts.
#include "core.h"

namespace connectx {

namespace {

constexpr std::size_t kEqeSize = sizeof(mlx5_eqe);
constexpr std::uint32_t kCounterMask = 0xffffff;
constexpr std::size_t kUnitsPerDeadline = 8; // of WorkMeter
constexpr std::uint8_t kCqOverrun = 1;       // syndrome of a CQ_ERROR event

} // namespace

// --- event queues --------------------------------------------------------------------------------

void EventQueues::reset() { late_interrupts_.clear(); }

void EventQueues::post(Eq &eq, unsigned type, unsigned sub_type, ConstBytes data) {
    const std::uint32_t size = 1U << eq.log_size;
    if (((eq.pi - eq.ci) & kCounterMask) >= size) {
        // Entries the driver has not seen are never overwritten.
        if (eq.overruns++ == 0)
            core_.log(LogLevel::kError, "EQ %#x overrun, event %#x lost", eq.id, type);
        return;
    }
    std::array<std::uint8_t, kEqeSize> eqe{};
    eqe[offsetof(mlx5_eqe, type)] = static_cast<std::uint8_t>(type);
    eqe[offsetof(mlx5_eqe, sub_type)] = static_cast<std::uint8_t>(sub_type);
    std::memcpy(eqe.data() + offsetof(mlx5_eqe, data), data.data(),
                std::min(data.size(), sizeof(ev_data)));
    eqe[offsetof(mlx5_eqe, owner)] = eq.pi >> eq.log_size & 1;

    // The dword with the ownership bit last.
    const std::uint64_t at = static_cast<std::uint64_t>(eq.pi & (size - 1)) * kEqeSize;
    const ConstBytes raw = eqe;
    eq.buf.write(core_, at, raw.first(kEqeSize - 4));
    eq.buf.write(core_, at + kEqeSize - 4, raw.subspan(kEqeSize - 4));
    eq.pi = (eq.pi + 1) & kCounterMask;
    ++core_.stats.events;
    if (eq.armed) {
        eq.armed = false;
        raise(eq.vector);
    }
}

void EventQueues::post_async(unsigned type, unsigned sub_type, ConstBytes data) {
    post_to(subscribers(type), type, sub_type, data);
}

std::vector<std::uint32_t> EventQueues::subscribers(unsigned type) const {
    std::vector<std::uint32_t> eqns;
    core_.eqs.for_each([&](const Eq &eq) {
        core_.work.charge(1);
        if ((eq.event_mask[type / 64] >> type % 64 & 1) != 0)
            eqns.push_back(eq.id);
    });
    return eqns;
}

void EventQueues::post_to(const std::vector<std::uint32_t> &eqns, unsigned type, unsigned sub_type,
                          ConstBytes data) {
    for (std::uint32_t eqn : eqns)
        if (Eq *eq = core_.eqs.find(eqn))
            post(*eq, type, sub_type, data);
}

void EventQueues::post_completion(Eq &eq, std::uint32_t cqn) {
    std::array<std::uint8_t, sizeof(ev_data)> data{};
    store_be<std::uint32_t>(data.data() + offsetof(mlx5_eqe_comp, cqn), cqn);
    post(eq, MLX5_EVENT_TYPE_COMP, 0, data);
}

void EventQueues::doorbell(std::uint32_t value, bool arm, std::uint32_t uar) {
    Eq *eq = core_.eqs.find(value >> 24);
    if (eq == nullptr)
        return;
    if (eq->uar != uar) {
        core_.log(LogLevel::kWarning, "doorbell for EQ %#x on UAR %u that is not its own", eq->id,
                  uar);
        return;
    }
    eq->ci = value & kCounterMask;
    if (!arm)
        return;
    if (eq->pi != eq->ci) {
        eq->armed = false;
        raise(eq->vector);
    } else {
        eq->armed = true;
    }
}

void EventQueues::raise(unsigned vector) {
    std::uint64_t delay_ns = 0;
    switch (core_.faults.on_interrupt(vector, delay_ns)) {
    case Faults::InterruptFault::kLost:
        core_.log(LogLevel::kInfo, "fault: interrupt of vector %u lost", vector);
        return;
    case Faults::InterruptFault::kLate:
        late_interrupts_.emplace(core_.host.clock_ns() + delay_ns, vector);
        core_.update_timer();
        return;
    case Faults::InterruptFault::kNone:
        break;
    }
    ++core_.stats.interrupts;
    core_.msix_raise(vector);
}

void EventQueues::run_deferred() {
    const std::uint64_t now = core_.host.clock_ns();
    while (!late_interrupts_.empty() && late_interrupts_.begin()->first <= now) {
        const unsigned vector = late_interrupts_.begin()->second;
        late_interrupts_.erase(late_interrupts_.begin());
        ++core_.stats.interrupts;
        core_.msix_raise(vector);
    }
}

std::uint64_t EventQueues::next_deadline() const {
    return late_interrupts_.empty() ? UINT64_MAX : late_interrupts_.begin()->first;
}

// --- completion queues ---------------------------------------------------------------------------

bool CompletionQueues::refresh_consumer(Cq &cq) {
    std::array<std::uint8_t, 4> record{};
    if (!core_.dma_read(cq.dbr, record))
        return false;
    cq.ci = load_be<std::uint32_t>(record.data()) & kCounterMask;
    return true;
}

bool CompletionQueues::complete(Cq &cq, mlx5_cqe64 &cqe, std::optional<std::uint64_t> at) {
    if (cq.error)
        return false;
    const std::uint32_t size = 1U << cq.log_size;
    if (!cq.ignore_overrun && ((cq.pi - cq.ci) & kCounterMask) >= size) {
        refresh_consumer(cq);
        if (((cq.pi - cq.ci) & kCounterMask) >= size) {
            cq.error = true;
            core_.log(LogLevel::kError, "CQ %#x overrun", cq.id);
            std::array<std::uint8_t, sizeof(ev_data)> data{};
            store_be<std::uint32_t>(data.data(), cq.id);
            data[offsetof(mlx5_eqe_cq_err, syndrome)] = kCqOverrun;
            core_.events.post_async(MLX5_EVENT_TYPE_CQ_ERROR, 0, data);
            return false;
        }
    }
    // An error CQE has its syndrome where others have the time.
    const unsigned opcode = cqe.op_own >> 4;
    if (opcode != MLX5_CQE_REQ_ERR && opcode != MLX5_CQE_RESP_ERR) {
        const std::uint64_t now = at ? *at : core_.host.clock_ns();
        cqe.timestamp_h = cpu_to_be32(static_cast<std::uint32_t>(now >> 32));
        cqe.timestamp_l = cpu_to_be32(static_cast<std::uint32_t>(now));
    }
    cqe.op_own = static_cast<std::uint8_t>((cqe.op_own & ~1U) | (cq.pi >> cq.log_size & 1));

    const ConstBytes raw{reinterpret_cast<const std::uint8_t *>(&cqe), sizeof(cqe)};
    const std::uint64_t offset =
        static_cast<std::uint64_t>(cq.pi & (size - 1)) * cq.stride + (cq.stride - sizeof(cqe));
    constexpr std::size_t kBody = sizeof(cqe) - 4;
    if (!cq.buf.write(core_, offset, raw.first(kBody)) ||
        !cq.buf.write(core_, offset + kBody, raw.subspan(kBody))) {
        cq.error = true;
        return false;
    }
    cq.pi = (cq.pi + 1) & kCounterMask;
    evaluate(cq);
    return true;
}

void CompletionQueues::set_deadline(Cq &cq, std::uint64_t when) {
    if (cq.deadline_ns != UINT64_MAX)
        deadlines_.erase({cq.deadline_ns, cq.id});
    cq.deadline_ns = when;
    if (when != UINT64_MAX)
        deadlines_.insert({when, cq.id});
}

void CompletionQueues::fire(Cq &cq) {
    set_deadline(cq, UINT64_MAX);
    cq.state = CqState::kFired;
    cq.last_event_ns = core_.host.clock_ns();
    if (Eq *eq = core_.eqs.find(cq.eqn))
        core_.events.post_completion(*eq, cq.id);
}

void CompletionQueues::evaluate(Cq &cq) {
    if (cq.state != CqState::kArmed)
        return;
    const std::uint32_t pending = (cq.pi - cq.arm_ci) & kCounterMask;
    if (pending == 0 || pending > kCounterMask / 2)
        return;
    if (cq.period_us == 0 || cq.max_count == 0 || pending >= cq.max_count) {
        fire(cq);
        return;
    }
    const std::uint64_t now = core_.host.clock_ns();
    const std::uint64_t period = cq.period_us * 1000ULL;
    // Mode 0 counts the period from the last event, mode 1 starts it anew with each completion.
    const std::uint64_t start = cq.period_mode == 0 ? cq.last_event_ns : now;
    if (start + period <= now) {
        fire(cq);
        return;
    }
    if (cq.period_mode != 0 || cq.deadline_ns == UINT64_MAX) {
        set_deadline(cq, start + period);
        core_.update_timer();
    }
}

void CompletionQueues::doorbell(std::uint64_t value, std::uint32_t uar) {
    const auto arm = static_cast<std::uint32_t>(value >> 32);
    Cq *cq = core_.cqs.find(static_cast<std::uint32_t>(value) & kCounterMask);
    if (cq == nullptr || cq->error)
        return;
    if (cq->uar != uar) {
        core_.log(LogLevel::kWarning, "doorbell for CQ %#x on UAR %u that is not its own", cq->id,
                  uar);
        return;
    }
    cq->ci = arm & kCounterMask;
    cq->arm_ci = cq->ci;
    cq->state = CqState::kArmed;
    evaluate(*cq);
}

void CompletionQueues::run_moderation() {
    const std::uint64_t now = core_.host.clock_ns();
    while (core_.work.left() && !deadlines_.empty() && deadlines_.begin()->first <= now) {
        const auto [when, id] = *deadlines_.begin();
        Cq *cq = core_.cqs.find(id);
        if (cq == nullptr) {
            deadlines_.erase(deadlines_.begin());
            continue;
        }
        core_.work.charge(kUnitsPerDeadline);
        set_deadline(*cq, UINT64_MAX);
        if (cq->state == CqState::kArmed && cq->pi != cq->arm_ci)
            fire(*cq);
    }
}

std::uint64_t CompletionQueues::next_deadline() const {
    return deadlines_.empty() ? UINT64_MAX : deadlines_.begin()->first;
}

} // namespace connectx
