// SPDX-License-Identifier: GPL-2.0
//
// The device's units and what they share. Each unit is one class in one file pair; they reach each
// other through Core.
#pragma once

#include "objects.h"
#include "quic.h"
#include "work.h"

#include <connectx/device.h>
#include <connectx/ifc.h>

#include <deque>
#include <functional>
#include <optional>
#include <set>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

namespace connectx {

class Core;

[[gnu::format(printf, 1, 2)]] std::string format(const char *fmt, ...);

// ---------------------------------------------------------------------------------------------
// Commands

/// Outcome of a command: status as in MLX5_CMD_STAT_*, syndrome as a number that tells which check
/// of the model failed (listed in docs/connectx-model.md).
struct CommandStatus {
    std::uint8_t status = MLX5_CMD_STAT_OK;
    std::uint32_t syndrome = 0;

    [[nodiscard]] bool ok() const { return status == MLX5_CMD_STAT_OK; }
};

inline constexpr CommandStatus kOk{};
inline CommandStatus bad_op(std::uint32_t synd) { return {MLX5_CMD_STAT_BAD_OP_ERR, synd}; }
inline CommandStatus bad_param(std::uint32_t synd) { return {MLX5_CMD_STAT_BAD_PARAM_ERR, synd}; }
inline CommandStatus bad_index(std::uint32_t synd) { return {MLX5_CMD_STAT_IX_ERR, synd}; }
inline CommandStatus bad_resource(std::uint32_t synd) { return {MLX5_CMD_STAT_BAD_RES_ERR, synd}; }
inline CommandStatus bad_state(std::uint32_t synd) {
    return {MLX5_CMD_STAT_BAD_RES_STATE_ERR, synd};
}
inline CommandStatus bad_sys_state(std::uint32_t synd) {
    return {MLX5_CMD_STAT_BAD_SYS_STATE_ERR, synd};
}
inline CommandStatus busy(std::uint32_t synd) { return {MLX5_CMD_STAT_RES_BUSY, synd}; }
inline CommandStatus no_resources(std::uint32_t synd) { return {MLX5_CMD_STAT_NO_RES_ERR, synd}; }
inline CommandStatus limit_exceeded(std::uint32_t synd) { return {MLX5_CMD_STAT_LIM_ERR, synd}; }
inline CommandStatus bad_input_length(std::uint32_t synd) {
    return {MLX5_CMD_STAT_BAD_INP_LEN_ERR, synd};
}
inline CommandStatus bad_output_length(std::uint32_t synd) {
    return {MLX5_CMD_STAT_BAD_OUTP_LEN_ERR, synd};
}

/// One command in execution. `out` has the length the driver asked for and starts zeroed.
struct Command {
    std::uint16_t opcode = 0;
    std::uint16_t op_mod = 0;
    ConstBytes in;
    Bytes out;
};

using CommandHandler = CommandStatus (*)(Core &core, const Command &cmd);

/// From which stage of initialization on a command is allowed.
enum class CommandStage { kAlways, kHcaEnabled, kHcaInitialized };

struct CommandSpec {
    const char *name;
    std::size_t min_in;  ///< bytes
    std::size_t min_out; ///< bytes
    CommandStage stage;
    CommandHandler handler;
};

const char *opcode_name(std::uint16_t opcode);
const char *register_name(std::uint16_t reg);

/// The dispatch table; units add their commands to it.
using CommandTable = std::unordered_map<std::uint16_t, CommandSpec>;
void register_hca_commands(CommandTable &table);
void register_memory_commands(CommandTable &table);
void register_queue_commands(CommandTable &table);
void register_steering_commands(CommandTable &table);
void register_vport_commands(CommandTable &table);
void register_port_commands(CommandTable &table);
void register_quic_commands(CommandTable &table);
const CommandTable &command_table();

/// Fetches commands that the doorbell announced, executes them and writes the result back.
class CommandInterface {
  public:
    explicit CommandInterface(Core &core) : core_(core) {}

    static constexpr unsigned kLogQueueSize = 5;
    static constexpr unsigned kLogStride = 6;
    /// Longest message in bytes; MANAGE_PAGES and CREATE_MKEY send the longest ones.
    static constexpr std::size_t kMaxMessage = 4U << 20;

    /// A command that has been begun at the old address is forgotten.
    void set_queue_address(std::uint64_t addr);
    [[nodiscard]] GuestAddr queue_address() const { return queue_; }
    void doorbell(std::uint32_t vector);
    [[nodiscard]] bool pending() const { return pending_ != 0 || current_.has_value(); }
    void run();
    void reset();
    /// Answers commands that a fault has held back long enough.
    void run_deferred();
    /// Those of them that have been executed are answered now.
    void release_done();
    [[nodiscard]] std::uint64_t next_deadline() const {
        return held_back_.empty() ? UINT64_MAX : held_back_.begin()->first;
    }
    [[nodiscard]] const std::map<std::uint16_t, std::uint64_t> &unknown() const { return unknown_; }
    void count_unknown(std::uint32_t what) { ++unknown_[static_cast<std::uint16_t>(what)]; }
    void count_unknown_register(std::uint16_t reg) { ++unknown_registers_[reg]; }
    [[nodiscard]] const std::map<std::uint16_t, std::uint64_t> &unknown_registers() const {
        return unknown_registers_;
    }

    /// Executes a command without queue and mailboxes (tests, and the queue itself).
    CommandStatus execute(ConstBytes in, Bytes out);

  private:
    /// Where in a chain of mailboxes the next piece of a message goes.
    struct Chain {
        std::uint64_t next = 0;
        std::uint32_t number = 0;
        std::size_t offset = 0;
    };
    /// The command at work. A message may be longer than one call of the host has time for.
    struct InWork {
        unsigned index = 0; ///< slot
        Secret<mlx5_cmd_layout> entry;
        SecretBytes in;
        SecretBytes out;
        Chain chain;           ///< of the input, then of the output
        unsigned delivery = 0; ///< status, 0 for success
        bool executed = false;
        bool new_quic_sa = false;
        std::vector<std::uint32_t> listeners;
    };

    [[nodiscard]] GuestAddr slot(unsigned index) const {
        return queue_ + (static_cast<std::uint64_t>(index) << kLogStride);
    }
    void begin(unsigned index);
    /// False when the rest has to wait for the next call; else there is none at work any more.
    bool go_on();
    /// False when there will be no answer for now.
    bool execute(InWork &c);
    /// Both are false when the rest has to wait.
    bool fetch_input(InWork &c);
    bool deliver_output(InWork &c);
    static Secret<mlx5_cmd_layout> answer_of(const InWork &c);
    /// Gives the descriptor back to the driver.
    void finish(unsigned index, mlx5_cmd_layout entry, unsigned delivery,
                const std::vector<std::uint32_t> &listeners);

    Core &core_;
    GuestAddr queue_;
    std::uint32_t pending_ = 0;
    std::optional<InWork> current_;
    /// A command whose answer is late.
    struct HeldBack {
        unsigned index;                        ///< slot
        std::optional<mlx5_cmd_layout> answer; ///< of one that has been executed
    };
    static constexpr std::uint64_t kUntilReleased = UINT64_MAX;
    std::multimap<std::uint64_t, HeldBack> held_back_; ///< by the time of the answer
    std::map<std::uint16_t, std::uint64_t> unknown_;
    std::map<std::uint16_t, std::uint64_t> unknown_registers_;
};

// ---------------------------------------------------------------------------------------------
// Initialization segment, health, vendor-specific capability

enum class NicInterface : std::uint8_t {
    kFullDriver = 0,
    kDisabled = 1,
    kNoDram = 2,
    kSwReset = 7,
};

class InitSegment {
  public:
    explicit InitSegment(Core &core) : core_(core) {}

    static constexpr unsigned kFwMajor = 28;
    static constexpr unsigned kFwMinor = 39;
    static constexpr unsigned kFwSub = 1002;

    void read(std::uint64_t offset, Bytes data);
    void write(std::uint64_t offset, ConstBytes data);
    void reset();

    [[nodiscard]] NicInterface nic_interface() const { return nic_interface_; }
    void set_nic_interface(NicInterface state) { nic_interface_ = state; }
    void set_health(std::uint8_t synd, std::uint16_t ext_synd, bool rfr, unsigned severity);
    void freeze_health_counter(bool frozen);
    /// Snapshot of the segment as the bus shows it, for the crdump.
    [[nodiscard]] std::uint32_t dword(std::uint64_t offset);

  private:
    Core &core_;
    NicInterface nic_interface_ = NicInterface::kFullDriver;
    std::uint32_t cmdq_addr_h_ = 0;
    std::uint32_t cmdq_addr_l_ = 0;
    std::uint8_t health_synd_ = 0;
    std::uint16_t health_ext_synd_ = 0;
    bool health_rfr_ = false;
    unsigned health_severity_ = 0;
    std::optional<std::uint32_t> frozen_counter_;
    std::uint64_t sw_reset_done_ns_ = 0;
    std::uint32_t latched_timer_l_ = 0;
};

/// The gateway in PCI configuration space through which the driver takes the reset semaphore and
/// dumps CR space.
class VendorSpecificCapability {
  public:
    explicit VendorSpecificCapability(Core &core) : core_(core) {}

    std::uint32_t read(unsigned offset);
    void write(unsigned offset, std::uint32_t value);
    void reset();

  private:
    [[nodiscard]] std::uint32_t space_size() const;
    std::uint32_t space_read(std::uint32_t addr);
    void space_write(std::uint32_t addr, std::uint32_t value);

    Core &core_;
    std::uint32_t counter_ = 1;
    std::uint32_t semaphore_ = 0;
    std::uint32_t address_ = 0;
    std::uint32_t data_ = 0;
    unsigned space_ = 0;
    bool space_valid_ = false;
    std::map<std::uint32_t, std::uint32_t> semaphores_;
};

// ---------------------------------------------------------------------------------------------
// Capabilities and pages

enum class CapMode { kMax, kCurrent };

/// HCA capabilities. What is not set here, the device does not have.
class Capabilities {
  public:
    explicit Capabilities(const Config &config);

    static constexpr std::size_t kBytes = 4096;
    using Block = std::array<std::uint8_t, kBytes>;

    /// Null when there is no such capability type.
    [[nodiscard]] const Block *find(unsigned type, CapMode mode) const;
    CommandStatus set(unsigned type, ConstBytes wanted);
    void reset() {
        current_ = max_;
        apply_defaults();
    }
    [[nodiscard]] ConstBytes general() const { return current_.at(MLX5_CAP_GENERAL); }

  private:
    void apply_defaults();
    std::map<unsigned, Block> max_;
    std::map<unsigned, Block> current_;
};

/// Pages of host memory the firmware asks for. The model needs none for itself (its contexts live
/// in the host process), but it asks, holds and returns them as firmware does.
class PageSupply {
  public:
    explicit PageSupply(Core &core) : core_(core) {}

    static constexpr unsigned kBootPages = 64;
    static constexpr unsigned kInitPages = 1024;
    /// No more than 256 MiB is taken, whatever the driver gives, and not all of it at once.
    static constexpr std::size_t kMaxPages = 1U << 16;
    static constexpr std::size_t kMaxAtOnce = 1U << 13;

    static CommandStatus query(const Command &cmd);
    CommandStatus manage(const Command &cmd);
    /// Called as objects are made and destroyed; asks for more, or gives back, by event.
    void object_created();
    void object_destroyed();
    void forget_objects();
    void reset();
    [[nodiscard]] std::size_t held() const { return pages_.size(); }

  private:
    void request(std::int32_t count);

    Core &core_;
    std::set<std::uint64_t> pages_;
    std::uint64_t objects_ = 0;
    std::int64_t requested_ = 0;
    std::uint64_t granted_for_objects_ = 0;
};

// ---------------------------------------------------------------------------------------------
// Events and completions

class EventQueues {
  public:
    explicit EventQueues(Core &core) : core_(core) {}

    /// Posts to every EQ whose event mask has the type.
    void post_async(unsigned type, unsigned sub_type, ConstBytes data);
    /// The numbers of the EQs whose event mask has the type.
    [[nodiscard]] std::vector<std::uint32_t> subscribers(unsigned type) const;
    /// Posts to those of the EQs that still exist.
    void post_to(const std::vector<std::uint32_t> &eqns, unsigned type, unsigned sub_type,
                 ConstBytes data);
    void post_completion(Eq &eq, std::uint32_t cqn);
    void post(Eq &eq, unsigned type, unsigned sub_type, ConstBytes data);
    /// EQ doorbell of a UAR: consumer index, and arming.
    void doorbell(std::uint32_t value, bool arm, std::uint32_t uar);
    void raise(unsigned vector);
    void run_deferred();
    [[nodiscard]] std::uint64_t next_deadline() const;
    void reset();

  private:
    Core &core_;
    std::multimap<std::uint64_t, unsigned> late_interrupts_;
};

class CompletionQueues {
  public:
    explicit CompletionQueues(Core &core) : core_(core) {}

    /// Writes a CQE; sets its ownership bit. False when the CQ is in error or has no room.
    /// `at`: the time that goes into it, if that is not now.
    bool complete(Cq &cq, mlx5_cqe64 &cqe, std::optional<std::uint64_t> at = {});
    /// CQ doorbell of a UAR: arm.
    void doorbell(std::uint64_t value, std::uint32_t uar);
    void run_moderation();
    [[nodiscard]] std::uint64_t next_deadline() const;
    void evaluate(Cq &cq);

  private:
    void fire(Cq &cq);
    bool refresh_consumer(Cq &cq);

    Core &core_;
    std::set<std::pair<std::uint64_t, std::uint32_t>> deadlines_;
    void set_deadline(Cq &cq, std::uint64_t when);

  public:
    void forget(Cq &cq) { set_deadline(cq, UINT64_MAX); }
    void reset() { deadlines_.clear(); }
};

// ---------------------------------------------------------------------------------------------
// Memory protection

class Memory {
  public:
    explicit Memory(Core &core) : core_(core) {}

    /// Access through a key, checked against PD, permission and bounds.
    Syndrome read(std::uint32_t lkey, std::uint32_t pd, std::uint64_t addr, Bytes dst);
    Syndrome write(std::uint32_t lkey, std::uint32_t pd, std::uint64_t addr, ConstBytes src);
    /// Adds to `pieces` where `space.size()` bytes of guest memory can be read: in place where the
    /// host allows it, otherwise copied into `space`. What is in place may change at any time, and
    /// is there until the host gets control back.
    Syndrome fetch(std::uint32_t lkey, std::uint32_t pd, std::uint64_t addr, Bytes space,
                   std::vector<ConstBytes> &pieces);
    [[nodiscard]] Mkey *find(std::uint32_t lkey) const;

  private:
    template <typename Span>
    const Mkey *permits(std::uint32_t lkey, std::uint32_t pd, std::uint64_t addr, Span data,
                        bool write) const;
    template <typename Span, typename Op>
    Syndrome access_direct(std::uint32_t lkey, std::uint32_t pd, std::uint64_t addr, Span data,
                           bool write, Op op);
    template <typename Span, typename Op>
    Syndrome access(std::uint32_t lkey, std::uint32_t pd, std::uint64_t addr, Span data, bool write,
                    Op op);
    Core &core_;
};

// ---------------------------------------------------------------------------------------------
// Packets

/// Where the headers of a frame are. Offsets are 0 when the header is absent.
struct PacketInfo {
    unsigned l3_offset = 0;
    unsigned l4_offset = 0;
    unsigned payload_offset = 0;
    std::uint16_t ethertype = 0; ///< after VLAN tags
    bool vlan = false;
    bool svlan = false;
    std::uint16_t vlan_tci = 0;
    unsigned ip_version = 0;
    std::uint8_t ip_protocol = 0;
    bool fragment = false;
    bool malformed = false;
    unsigned ip_end = 0; ///< end of the IP packet within the frame (padding follows)
    bool ip_checksum_ok = false;
    bool l4_checksum_ok = false;
    [[nodiscard]] bool is_tcp() const { return l4_offset != 0 && ip_protocol == 6; }
    [[nodiscard]] bool is_udp() const { return l4_offset != 0 && ip_protocol == 17; }
};

PacketInfo parse_packet(ConstBytes frame);
/// Fills ip_checksum_ok and l4_checksum_ok.
void verify_checksums(ConstBytes frame, PacketInfo &info);
/// Ones' complement sum, folded to 16 bits, host byte order.
std::uint16_t ones_sum(ConstBytes data, std::uint32_t initial = 0);
void fill_ip_checksum(Bytes frame, const PacketInfo &info);
void fill_l4_checksum(Bytes frame, const PacketInfo &info);

/// RFC: "Toeplitz hash" as in the RSS specification; `key` has at least input size + 4 bytes.
std::uint32_t toeplitz_hash(ConstBytes key, ConstBytes input);

struct RssResult {
    std::uint32_t hash = 0;
    std::uint8_t type = 0; ///< as CQE rss_hash_type
};
RssResult rss_hash(const Tir &tir, ConstBytes frame, const PacketInfo &info);

// ---------------------------------------------------------------------------------------------
// Transmit, receive, steering

/// The data of a WQE, in pieces that are somebody else's, to be taken from the start on.
class Scattered {
  public:
    std::vector<ConstBytes> pieces;

    void clear() {
        pieces.clear();
        piece_ = 0;
        offset_ = 0;
    }
    /// Bytes not taken yet.
    [[nodiscard]] std::size_t left() const;
    /// The next `size` bytes as they lie; empty when they are in more than one piece.
    [[nodiscard]] ConstBytes contiguous(std::size_t size);
    /// Takes dst.size() bytes, which must be left.
    void copy(Bytes dst);
    void skip(std::size_t size);

  private:
    std::size_t piece_ = 0;
    std::size_t offset_ = 0; ///< in that piece
};

class TxEngine {
  public:
    explicit TxEngine(Core &core);
    ~TxEngine();
    TxEngine(const TxEngine &) = delete;
    TxEngine &operator=(const TxEngine &) = delete;

    /// Doorbell register or BlueFlame buffer of a UAR: at least the control segment's first 8
    /// bytes.
    void doorbell(ConstBytes data, std::uint32_t uar);
    [[nodiscard]] bool pending() const { return !ready_.empty(); }
    void run();
    void forget(Sq &sq);
    void reset();
    /// The WQE ends in this error; run() flushes those behind it.
    void set_error(Sq &sq, Syndrome syndrome, std::uint16_t wqe_index, unsigned vendor = 0);

  private:
    struct Wqe;
    /// False when the queue has to wait for its next turn.
    bool execute_one(Sq &sq);
    /// The next WQE of the queue; null when it is wrong, which has been dealt with.
    std::unique_ptr<Wqe> fetch(Sq &sq);
    Syndrome execute(Sq &sq, Wqe &wqe);
    /// Checks the QUIC segment of a WQE that should have one.
    Syndrome parse_quic(Wqe &wqe);
    Syndrome send(Sq &sq, Wqe &wqe);
    Syndrome send_multi(Sq &sq, Wqe &wqe);
    Syndrome umr(Sq &sq, const Wqe &wqe);
    Syndrome segment_and_emit(Sq &sq, Wqe &wqe, ConstBytes header);
    /// Fills in the checksums that were asked for and hands the frame on. `frame` has kMinFrame
    /// bytes of room; `info` is what parse_packet() says of it.
    void emit(Sq &sq, bool l3_checksum, bool l4_checksum, Bytes frame, const PacketInfo &info);
    void emit_parsed(Sq &sq, const Wqe &wqe, Bytes frame);
    void complete(Sq &sq, std::uint16_t wqe_counter, std::uint8_t opcode);
    /// Tells when the packet of a WQE was on the wire, or that it never was.
    void complete_port(Sq &sq, const Wqe &wqe);
    void flush(Sq &sq);
    /// Where the data of a WQE are, without moving more of them than has to be.
    Syndrome gather(Sq &sq, const Wqe &wqe, std::size_t offset);

    void enqueue(Sq &sq);
    [[nodiscard]] bool turn_left() const;

    Core &core_;
    std::deque<std::uint32_t> ready_;
    std::map<std::uint32_t, std::unique_ptr<Wqe>> begun_; ///< by queue
    unsigned frames_ = 0;               ///< that the WQE in execution has put out in this turn
    std::size_t turn_end_ = 0;          ///< of the queue at work, in units of WorkMeter
    Scattered data_;                    ///< of the WQE in execution
    std::vector<std::uint8_t> payload_; ///< what of them the host does not show in place
    /// Room for frames under construction.
    static constexpr std::size_t kFrameRoom = 32768;
    alignas(64) std::array<std::uint8_t, kFrameRoom> frame_room_;
    unsigned vendor_syndrome_ = 0; ///< of the WQE in execution
    /// When the WQE in execution was done, if more than one completion tells.
    std::optional<std::uint64_t> done_ns_;
};

/// What steering made of a frame.
struct SteeringVerdict {
    std::vector<std::uint32_t> tirns;
    std::vector<std::uint32_t> counters; ///< that count the frame
    std::uint32_t flow_tag = 0;
    bool dropped = false;
};

class Steering {
  public:
    explicit Steering(Core &core) : core_(core) {}

    SteeringVerdict steer(ConstBytes frame, const PacketInfo &info);
    [[nodiscard]] FlowTable *find(unsigned type, std::uint32_t id);
    [[nodiscard]] std::optional<std::uint32_t> root(unsigned type) const;
    void set_root(unsigned type, std::optional<std::uint32_t> table);
    void reset() { roots_.clear(); }

  private:
    /// The table's first entry that matches; takes from `searches`, and is none when these are used
    /// up.
    const Fte *match(const FlowTable &table, const MatchWords &value, unsigned &searches);

    Core &core_;
    std::map<unsigned, std::uint32_t> roots_;
};

class RxEngine {
  public:
    explicit RxEngine(Core &core) : core_(core) {}

    /// Frames that the port keeps while the device is at work.
    static constexpr std::size_t kMaxArrivals = 1024;

    /// From the wire: false when dropped for want of room. `busy`: another call of the device is
    /// under way, so that the frame has to wait for run().
    bool receive(ConstBytes frame, bool busy);
    void loopback(ConstBytes frame);
    [[nodiscard]] bool can_receive() const { return arrivals_.size() < kMaxArrivals; }
    [[nodiscard]] bool pending() const { return !arrivals_.empty() || !flushing_.empty(); }
    void run();
    void reset();
    void drop_arrivals();
    /// The queue's WQE at work ends in this error; run() flushes the others.
    void set_error(Rq &rq, Syndrome syndrome);

  private:
    enum class Outcome { kDelivered, kDropped, kNoBuffer };
    void dispatch(ConstBytes frame, bool from_wire);
    void count_no_buffer(const Rq &rq);
    Outcome deliver(Rq &rq, ConstBytes frame, const PacketInfo &info, const RssResult &rss,
                    std::uint32_t flow_tag);
    Outcome deliver_cyclic(Rq &rq, ConstBytes data, mlx5_cqe64 &cqe);
    Outcome deliver_striding(Rq &rq, ConstBytes data, mlx5_cqe64 &cqe);
    Syndrome scatter(Rq &rq, ConstBytes wqe, ConstBytes data);
    void complete(Rq &rq, mlx5_cqe64 &cqe);
    void complete_in_error(Rq &rq, Syndrome syndrome);
    void run_flush();
    [[nodiscard]] std::optional<std::uint16_t> available(Rq &rq);

    Core &core_;
    std::deque<std::vector<std::uint8_t>> arrivals_;
    std::deque<std::uint32_t> flushing_; ///< queues in error that have WQEs to flush
    std::vector<std::uint8_t> scratch_;  ///< the frame that deliver() works at
};

// ---------------------------------------------------------------------------------------------
// Vport, port

struct TrafficCounter {
    std::uint64_t packets = 0;
    std::uint64_t octets = 0;
    void add(std::size_t bytes) {
        ++packets;
        octets += bytes;
    }
};

struct Vport {
    std::array<std::uint8_t, 6> permanent_mac{};
    std::vector<std::array<std::uint8_t, 6>> uc_list;
    std::vector<std::array<std::uint8_t, 6>> mc_list;
    std::vector<std::uint16_t> vlan_list;
    bool promisc_uc = false;
    bool promisc_mc = false;
    bool promisc_all = false;
    bool disable_uc_lb = false;
    bool disable_mc_lb = false;
    unsigned min_inline = 0;
    unsigned mtu = 1500;
    unsigned admin_state = MLX5_VPORT_ADMIN_STATE_AUTO;
    TrafficCounter rx_uc, rx_mc, rx_bc, tx_uc, tx_mc, tx_bc, rx_errors, tx_errors, local_loopback;
    std::uint64_t rx_steer_missed = 0;
};

/// The physical port: link, MTU, pause, counters and the registers about them.
class Port {
  public:
    explicit Port(Core &core) : core_(core) {}

    void reset();
    /// Link state as carrier and administration make it.
    [[nodiscard]] bool up() const { return carrier_ && admin_up_ && !flapped_; }
    void set_carrier(bool up);
    void set_admin(bool up);
    void flap(std::uint64_t duration_ns);
    void run();
    [[nodiscard]] std::uint64_t next_deadline() const { return flap_end_ns_; }
    [[nodiscard]] unsigned oper_mtu() const { return mtu_; }

    CommandStatus access_register(const Command &cmd);

    void count_tx(ConstBytes frame);
    void count_rx(ConstBytes frame);
    std::uint64_t rx_oversize = 0;
    std::uint64_t rx_discards = 0;

  private:
    friend class RegisterAccess;
    void changed(bool was_up);

    Core &core_;
    bool carrier_ = true;
    bool admin_up_ = false;
    bool flapped_ = false;
    std::uint64_t flap_end_ns_ = UINT64_MAX;
    unsigned mtu_ = kDefaultMtu;
    bool pause_rx_ = true;
    bool pause_tx_ = true;
    std::uint64_t link_downs_ = 0;
    TrafficCounter rx_, tx_, rx_mc_, rx_bc_, tx_mc_, tx_bc_;
    std::array<std::uint64_t, 12> rx_sizes_{};

  public:
    static constexpr unsigned kDefaultMtu = 1522;
    static constexpr unsigned kMaxMtu = 10240;
};

// ---------------------------------------------------------------------------------------------
// Fault injection

class Faults {
  public:
    explicit Faults(Core &core) : core_(core) {}

    bool inject(std::string_view spec, std::string &error);
    /// The command is not executed; after so many nanoseconds its descriptor comes back with a
    /// delivery error, or never when that is 0.
    std::optional<std::uint64_t> take_command_timeout(std::uint16_t opcode);
    std::optional<CommandStatus> take_command_failure(std::uint16_t opcode);
    enum class InterruptFault { kNone, kLost, kLate };
    InterruptFault on_interrupt(unsigned vector, std::uint64_t &delay_ns);
    /// Syndrome to end the next WQE of the queue with.
    std::optional<Syndrome> on_send(std::uint32_t sqn);
    std::optional<Syndrome> on_receive(std::uint32_t rqn);
    std::optional<CommandStatus> take_quic_sa_failure();
    /// A QUIC SA has been created; the driver is told after so many nanoseconds, or with 0 when the
    /// faults are disarmed.
    std::optional<std::uint64_t> take_quic_sa_delay();

  private:
    struct Armed {
        std::optional<std::uint32_t> target; ///< opcode, vector or queue; any when empty
        std::uint64_t count = 0;             ///< how often still
        std::uint64_t value = 0;
        std::uint32_t extra = 0;
    };
    static bool take(Armed &armed, std::uint32_t target);

    Core &core_;
    Armed command_timeout_, command_fail_, irq_lost_, irq_late_, sq_error_, rq_error_;
    Armed quic_sa_fail_, quic_sa_late_;
};

// ---------------------------------------------------------------------------------------------

/// Held while a call of Device is under way. Whatever the host does for the device meanwhile may
/// lead back into it (a guest can aim DMA, interrupt messages and a second adapter's frames at this
/// one): such a call finds the guard held, and changes no object that the outer one works at.
class ReentrancyGuard {
  public:
    class Call {
      public:
        Call(ReentrancyGuard &guard, WorkMeter &work)
            : guard_(guard), work_(work), outermost_(!std::exchange(guard.held_, true)) {
            if (outermost_)
                work_.begin_call();
        }
        Call(const Call &) = delete;
        Call &operator=(const Call &) = delete;
        ~Call() {
            if (!outermost_)
                return;
            work_.end_call();
            guard_.held_ = false;
        }
        /// Whether there is no other call under way.
        [[nodiscard]] bool outermost() const { return outermost_; }

      private:
        ReentrancyGuard &guard_;
        WorkMeter &work_;
        bool outermost_;
    };

  private:
    bool held_ = false;
};

class Core {
  public:
    Core(Host &host_in, const Config &config_in);
    Core(const Core &) = delete;
    Core &operator=(const Core &) = delete;

    // The calls of Device: what they do within another one is in device.h.
    void mmio_read(std::uint64_t offset, Bytes data);
    void mmio_write(std::uint64_t offset, ConstBytes data);
    std::uint32_t vsc_read(unsigned offset);
    void vsc_write(unsigned offset, std::uint32_t value);
    void run();
    bool wire_rx(ConstBytes frame);
    void set_link(bool up);
    void reset_function();
    bool inject_fault(std::string_view spec, std::string &error);

    void reset();
    /// Drops every object and stops all queues; the command interface stays.
    void reset_objects();
    void kick() { host.schedule_work(); }
    /// As MemoryBudget::take(); what a reset has left behind makes room.
    [[nodiscard]] bool take_memory(std::size_t bytes, MemoryBudget::Share &share);
    void update_timer();

    bool dma_read(GuestAddr addr, Bytes dst);
    /// See Host::dma_view(); counted as dma_read() is, unless it is empty.
    ConstBytes dma_view(GuestAddr addr, std::size_t size);
    bool dma_write(GuestAddr addr, ConstBytes src);
    void msix_raise(unsigned vector);
    void wire_tx(ConstBytes frame);
    [[gnu::format(printf, 3, 4)]] void log(LogLevel level, const char *fmt, ...);
    void trace(const std::string &text) { host.log(LogLevel::kTrace, text); }

    Host &host;
    Config config;
    ModelStats stats;
    WorkMeter work;
    Capabilities caps;

    bool hca_enabled = false;
    bool hca_initialized = false;
    unsigned issi = 0;

    MemoryBudget budget; ///< before the objects that draw on it
    Graveyard graveyard;
    ObjectTable<Uar> uars;
    ObjectTable<Pd> pds;
    ObjectTable<TransportDomain> transport_domains;
    ObjectTable<QCounter> q_counters;
    ObjectTable<Eq> eqs;
    ObjectTable<Cq> cqs;
    ObjectTable<Mkey> mkeys;
    ObjectTable<Sq> sqs;
    ObjectTable<Rq> rqs;
    ObjectTable<Tis> tises;
    ObjectTable<Tir> tirs;
    ObjectTable<Rqt> rqts;
    ObjectTable<FlowTable> flow_tables;
    ObjectTable<FlowCounter> flow_counters;

    InitSegment iseg;
    VendorSpecificCapability vsc;
    CommandInterface commands;
    PageSupply pages;
    EventQueues events;
    CompletionQueues completions;
    Memory memory;
    Steering steering;
    TxEngine tx;
    RxEngine rx;
    Vport vport;
    Port port;
    Faults faults;
    QuicOffload quic;

  private:
    void uar_write(std::uint32_t uar, unsigned offset, ConstBytes data);
    ReentrancyGuard guard_;
    // Asked for from within a call; run() does it.
    bool reset_due_ = false;
    std::optional<bool> link_due_;
    /// The upper half of a 64-bit doorbell that arrived as two 32-bit writes, by BAR offset.
    std::map<std::uint64_t, std::uint32_t> half_doorbells_;
};

/// The command that destroys an object: it must be there, and nothing may point to it. `release`
/// undoes what the object itself points to.
template <typename T, typename Release>
CommandStatus destroy_object(Core &core, ObjectTable<T> &objects, std::uint32_t id,
                             std::uint32_t not_there, std::uint32_t in_use, Release release) {
    T *object = objects.find(id);
    if (object == nullptr)
        return bad_index(not_there);
    if (object->refs != 0)
        return busy(in_use);
    release(*object);
    objects.erase(id);
    if constexpr (T::kHasContext)
        core.pages.object_destroyed();
    return kOk;
}

inline constexpr unsigned kUarShift = 12;
inline constexpr unsigned kEqDoorbellArm = 0x40;
inline constexpr unsigned kEqDoorbell = 0x48;
inline constexpr unsigned kCqDoorbell = 0x20;
inline constexpr unsigned kBlueFlameOffset = 0x800;
inline constexpr unsigned kLogBlueFlameSize = 9;
/// Port timestamps of one SQ that may be under way: so many bits of a WQE's metadata tell them
/// apart.
inline constexpr unsigned kLogPortTimestampIds = 8;
/// The driver ends a scatter list that is shorter than its WQE with this key.
inline constexpr std::uint32_t kTerminateScatterListLkey = 0x100;

} // namespace connectx
