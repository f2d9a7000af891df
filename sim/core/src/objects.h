// SPDX-License-Identifier: GPL-2.0
//
// The objects a driver creates by command. Plain data: behaviour is in the unit that owns it.
// `refs` counts objects that point to this one; a destroy command is refused while it is not zero.
// Objects with `kHasContext` are those whose contexts firmware keeps in the pages it asks for.
#pragma once

#include "secret.h"
#include "work.h"

#include <connectx/ifc.h>
#include <connectx/types.h>

#include <array>
#include <cstdint>
#include <map>
#include <set>
#include <utility>
#include <vector>

namespace connectx {

class Core;

/// What the model keeps for a guest in lists whose length the guest chooses (translations of memory
/// keys, pages of rings, flow groups and entries), in bytes. The guest lends firmware pages for its
/// contexts, but that does not bound what the host spends: this does.
class MemoryBudget {
  public:
    static constexpr std::size_t kLimit = 256U << 20;

    MemoryBudget() = default;
    MemoryBudget(const MemoryBudget &) = delete;
    MemoryBudget &operator=(const MemoryBudget &) = delete;

    /// What an object has taken; given back with the object. The budget must live longer.
    class Share {
      public:
        Share() = default;
        Share(Share &&other) noexcept
            : budget_(std::exchange(other.budget_, nullptr)), bytes_(other.bytes_) {}
        Share &operator=(Share &&other) noexcept {
            std::swap(budget_, other.budget_);
            std::swap(bytes_, other.bytes_);
            return *this;
        }
        Share(const Share &) = delete;
        Share &operator=(const Share &) = delete;
        ~Share() {
            if (budget_ != nullptr)
                budget_->used_ -= bytes_;
        }

      private:
        friend class MemoryBudget;
        MemoryBudget *budget_ = nullptr;
        std::size_t bytes_ = 0;
    };

    /// Replaces what `share` has; false, and nothing changed, when there is not so much left.
    [[nodiscard]] bool take(std::size_t bytes, Share &share) {
        if (bytes > kLimit - used_)
            return false;
        Share taken;
        taken.budget_ = this;
        taken.bytes_ = bytes;
        used_ += bytes;
        share = std::move(taken);
        return true;
    }
    [[nodiscard]] std::size_t used() const { return used_; }

  private:
    std::size_t used_ = 0;
};

/// A ring or buffer made of equal pages scattered over guest memory.
struct PageList {
    std::vector<std::uint64_t> pages;
    unsigned page_shift = 12;
    MemoryBudget::Share share;

    [[nodiscard]] std::uint64_t bytes() const {
        return static_cast<std::uint64_t>(pages.size()) << page_shift;
    }
    /// False when the range is outside the list or the host refuses the access.
    bool read(Core &core, std::uint64_t offset, Bytes dst) const;
    bool write(Core &core, std::uint64_t offset, ConstBytes src) const;
};

struct Pd {
    static constexpr bool kHasContext = false;
    std::uint32_t id = 0;
    unsigned refs = 0;
};

struct TransportDomain {
    static constexpr bool kHasContext = false;
    std::uint32_t id = 0;
    unsigned refs = 0;
};

struct Uar {
    static constexpr bool kHasContext = false;
    std::uint32_t id = 0;
    unsigned refs = 0;
};

struct QCounter {
    static constexpr bool kHasContext = false;
    std::uint32_t id = 0;
    unsigned refs = 0;
    std::uint32_t out_of_buffer = 0;
    std::uint32_t resp_cqe_error = 0;
    std::uint32_t resp_cqe_flush_error = 0;
};

struct Eq {
    static constexpr bool kHasContext = true;
    std::uint32_t id = 0;
    unsigned refs = 0;
    unsigned vector = 0;
    unsigned log_size = 0;
    PageList buf;
    std::uint32_t uar = 0;
    std::array<std::uint64_t, 4> event_mask{};
    std::uint32_t pi = 0;
    std::uint32_t ci = 0;
    bool armed = false;
    std::uint64_t overruns = 0;
};

enum class CqState : std::uint8_t { kIdle = 0, kArmed = 9, kFired = 0xa };

struct Cq {
    static constexpr bool kHasContext = true;
    std::uint32_t id = 0;
    unsigned refs = 0;
    std::uint32_t eqn = 0;
    std::uint32_t uar = 0;
    unsigned log_size = 0;
    unsigned stride = 64;
    PageList buf;
    GuestAddr dbr;
    bool ignore_overrun = false;
    bool error = false;
    // Moderation: an event waits for max_count completions or period_us, whichever comes first.
    unsigned period_us = 0;
    unsigned max_count = 0;
    unsigned period_mode = 0;
    std::uint32_t pi = 0;
    std::uint32_t ci = 0; ///< last known consumer index, 24 bits
    CqState state = CqState::kIdle;
    std::uint32_t arm_ci = 0;
    std::uint64_t last_event_ns = 0;
    std::uint64_t deadline_ns = UINT64_MAX;
};

/// The smallest page or piece that a memory key is made of.
constexpr unsigned kLogMinMkeyEntity = 10;

struct Mkey {
    static constexpr bool kHasContext = true;
    std::uint32_t id = 0; ///< index, the upper 24 bits of the key
    unsigned refs = 0;
    std::uint8_t key = 0; ///< the lower 8 bits, chosen by the driver
    std::uint32_t pd = 0;
    unsigned access_mode = 0;
    bool free = false;
    bool umr_en = false;
    bool local_read = false;
    bool local_write = false;
    bool length64 = false;
    std::uint64_t start = 0;
    std::uint64_t length = 0;
    unsigned page_shift = 12;
    /// Page addresses, bits below the page size masked off; with KSM a key and an address by turns.
    std::vector<std::uint64_t> mtt;
    MemoryBudget::Share share;
    std::vector<std::uint8_t> context; ///< as given, for QUERY_MKEY

    bool dismantle(std::size_t &units) const {
        constexpr std::size_t kFreed = 2048; // translations, in a unit
        units -= std::min(units, mtt.size() / kFreed);
        return true;
    }
    /// What is kept of an entry of the translations.
    [[nodiscard]] std::uint64_t translation(std::uint64_t as_given) const;
};

enum class QueueState : std::uint8_t { kReset = 0, kReady = 1, kError = 3 };

/// What SQs and RQs have in common.
struct Wq {
    PageList buf;
    unsigned type = 0;
    unsigned log_stride = 0;
    unsigned log_size = 0;
    GuestAddr dbr;
    std::uint32_t pd = 0;
    std::uint32_t uar = 0;
};

struct Sq {
    static constexpr bool kHasContext = true;
    std::uint32_t id = 0;
    unsigned refs = 0;
    Wq wq;
    QueueState state = QueueState::kReset;
    std::uint32_t cqn = 0;
    std::uint32_t port_cqn = 0; ///< gets a completion when a packet is on the wire; 0: none
    std::uint32_t tis = 0;
    bool reg_umr = false;
    bool flush_in_error = false;
    bool non_wire = false;
    std::uint16_t pi = 0; ///< last doorbell
    std::uint16_t ci = 0; ///< next WQE basic block to execute
    bool queued = false;  ///< in the scheduler's list
    std::vector<std::uint8_t> context;
    SecretBytes blueflame; ///< WQE that came with the doorbell, if any; may have keys in it
    std::uint16_t blueflame_index = 0;

    void drop_blueflame() {
        wipe(blueflame);
        blueflame.clear();
    }
};

struct Rq {
    static constexpr bool kHasContext = true;
    std::uint32_t id = 0;
    unsigned refs = 0;
    Wq wq;
    QueueState state = QueueState::kReset;
    std::uint32_t cqn = 0;
    std::uint32_t counter_set = 0;
    bool vlan_strip_disable = false;
    bool flush_in_error = false;
    unsigned log_stride_size = 0; ///< striding: bytes of a stride
    unsigned log_num_strides = 0; ///< striding: strides of a WQE
    std::uint16_t ci = 0;         ///< WQEs consumed
    std::uint16_t head = 0;       ///< linked list: index of the current WQE
    std::uint32_t stride = 0;     ///< striding: next free stride in the current WQE
    unsigned to_flush = 0;        ///< WQEs of a queue in error that have no completion yet
    std::vector<std::uint8_t> context;
};

struct Tis {
    static constexpr bool kHasContext = false;
    std::uint32_t id = 0;
    unsigned refs = 0;
    std::uint32_t transport_domain = 0;
    unsigned prio = 0;
    std::vector<std::uint8_t> context;
};

struct Rqt {
    static constexpr bool kHasContext = true;
    std::uint32_t id = 0;
    unsigned refs = 0;
    unsigned max_size = 0;
    std::vector<std::uint32_t> rqns;
};

struct Tir {
    static constexpr bool kHasContext = true;
    std::uint32_t id = 0;
    unsigned refs = 0;
    bool indirect = false;
    std::uint32_t rqn = 0;
    std::uint32_t rqtn = 0;
    std::uint32_t transport_domain = 0;
    unsigned hash_fn = 0;
    bool symmetric = false;
    bool self_lb_uc = false;
    bool self_lb_mc = false;
    std::array<std::uint8_t, 40> toeplitz_key{};
    unsigned l3_type = 0;
    unsigned l4_type = 0;
    std::uint32_t hash_fields = 0;
    std::vector<std::uint8_t> context;
};

struct FlowCounter {
    static constexpr bool kHasContext = false;
    std::uint32_t id = 0;
    unsigned refs = 0;
    std::uint64_t packets = 0;
    std::uint64_t bytes = 0;
};

struct FlowDestination {
    unsigned type = 0;
    std::uint32_t id = 0;
};

/// The outer headers of the match parameters, as dwords in message byte order: a mask, or a value.
using MatchWords = std::array<std::uint32_t, IFC_BYTES(fte_match_set_lyr_2_4) / 4>;

struct Fte {
    std::uint32_t index = 0;
    std::uint32_t group = 0;
    std::uint32_t flow_tag = 0;
    unsigned action = 0;
    std::vector<FlowDestination> destinations;
    std::vector<std::uint32_t> counters;
    MatchWords key{};                  ///< masked
    std::vector<std::uint8_t> context; ///< as given, for QUERY_FLOW_TABLE_ENTRY
    MemoryBudget::Share share;
};

/// All entries of a table whose groups have the same mask, so that one search finds the one to
/// take: what a frame costs depends on how many masks there are, not on how many groups or entries.
struct Matcher {
    unsigned groups = 0;
    std::map<MatchWords, std::set<std::uint32_t>> flows; ///< masked value to flow indices

    bool dismantle(std::size_t &units) { return Graveyard::destroy_some(flows, units); }
};

struct FlowGroup {
    std::uint32_t start = 0; ///< the group's number too, as no other group starts there
    std::uint32_t end = 0;
    unsigned criteria_enable = 0;
    unsigned entries = 0;
    MatchWords mask{};
    Matcher *matcher = nullptr;
    MemoryBudget::Share share;
};

struct FlowTable {
    static constexpr bool kHasContext = true;
    std::uint32_t id = 0;
    unsigned refs = 0; ///< tables and roots that lead here
    unsigned type = 0;
    unsigned level = 0;
    unsigned log_size = 0;
    unsigned miss_action = 0;
    std::uint32_t miss_table = 0;
    std::map<std::uint32_t, FlowGroup> groups; ///< by start index, so by priority
    std::map<MatchWords, Matcher> matchers;    ///< by mask
    std::map<std::uint32_t, Fte> entries;      ///< by flow index

    bool dismantle(std::size_t &units) {
        return Graveyard::destroy_some(entries, units) && Graveyard::destroy_some(groups, units) &&
               Graveyard::destroy_some(matchers, units);
    }
};

} // namespace connectx
