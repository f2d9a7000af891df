// SPDX-License-Identifier: GPL-2.0
//
// Command interface: descriptor ring, mailboxes, tokens, signatures, dispatch. The counterpart is
// the driver's cmd.c.
#include "core.h"

#include <utility>

namespace connectx {

namespace {

// Delivery status, bits 7..1 of status_own.
enum Delivery : unsigned {
    kDelivered = 0x0,
    kSignatureError = 0x1,
    kTokenError = 0x2,
    kBadBlockNumber = 0x3,
    kOutputPointerAlignment = 0x4,
    kInputPointerAlignment = 0x5,
    kFirmwareError = 0x6,
    kInputLength = 0x7,
    kOutputLength = 0x8,
    kReservedNotClear = 0x9,
    kBadDescriptor = 0x10,
};

constexpr std::uint8_t kOwnerHw = 1;
constexpr std::size_t kInline = sizeof(mlx5_cmd_layout::in);
constexpr std::size_t kBlockData = MLX5_CMD_DATA_BLOCK_SIZE;
constexpr std::uint64_t kMailboxAlign = 512;
constexpr std::size_t kUnitsPerBlock = 4;  // of WorkMeter, to check or sign it
constexpr std::size_t kBytesCleared = 256; // in a unit

std::uint8_t xor8(ConstBytes data) {
    std::uint8_t sum = 0;
    for (std::uint8_t b : data)
        sum ^= b;
    return sum;
}

template <typename T> ConstBytes bytes_of(const T &v) {
    return {reinterpret_cast<const std::uint8_t *>(&v), sizeof(v)};
}
template <typename T> Bytes bytes_of(T &v) {
    return {reinterpret_cast<std::uint8_t *>(&v), sizeof(v)};
}

// From rsvd0 to before ctrl_sig, and the whole block.
constexpr std::size_t kCtrlStart = offsetof(mlx5_cmd_prot_block, rsvd0);
constexpr std::size_t kCtrlSig = offsetof(mlx5_cmd_prot_block, ctrl_sig);

bool block_signature_ok(const mlx5_cmd_prot_block &block) {
    const ConstBytes raw = bytes_of(block);
    return xor8(raw.subspan(kCtrlStart, kCtrlSig + 1 - kCtrlStart)) == 0xff && xor8(raw) == 0xff;
}

void sign_block(mlx5_cmd_prot_block &block) {
    block.ctrl_sig = 0;
    block.sig = 0;
    const ConstBytes raw = bytes_of(block);
    block.ctrl_sig = ~xor8(raw.subspan(kCtrlStart, kCtrlSig - kCtrlStart));
    block.sig = ~xor8(raw);
}

bool creates_quic_sa(ConstBytes in) {
    return IFC_GET(nop_in, in, opcode) == MLX5_CMD_OP_CREATE_GENERAL_OBJECT &&
           IFC_GET(general_obj_in_cmd_hdr, in, obj_type) == MLX5_GENERAL_OBJECT_TYPES_QUIC_SA;
}

const char *status_name(std::uint8_t status) {
    switch (status) {
    case MLX5_CMD_STAT_OK:
        return "ok";
    case MLX5_CMD_STAT_INT_ERR:
        return "internal error";
    case MLX5_CMD_STAT_BAD_OP_ERR:
        return "bad operation";
    case MLX5_CMD_STAT_BAD_PARAM_ERR:
        return "bad parameter";
    case MLX5_CMD_STAT_BAD_SYS_STATE_ERR:
        return "bad system state";
    case MLX5_CMD_STAT_BAD_RES_ERR:
        return "bad resource";
    case MLX5_CMD_STAT_RES_BUSY:
        return "resource busy";
    case MLX5_CMD_STAT_LIM_ERR:
        return "limits exceeded";
    case MLX5_CMD_STAT_BAD_RES_STATE_ERR:
        return "bad resource state";
    case MLX5_CMD_STAT_IX_ERR:
        return "bad index";
    case MLX5_CMD_STAT_NO_RES_ERR:
        return "no resources";
    case MLX5_CMD_STAT_BAD_INP_LEN_ERR:
        return "bad input length";
    case MLX5_CMD_STAT_BAD_OUTP_LEN_ERR:
        return "bad output length";
    default:
        return "error";
    }
}

} // namespace

const char *opcode_name(std::uint16_t opcode) {
    switch (opcode) {
#define CONNECTX_OPCODE(name)                                                                      \
    case MLX5_CMD_OP_##name:                                                                       \
        return #name;
#include <opcode_names.inc>
#undef CONNECTX_OPCODE
    default:
        return "unknown opcode";
    }
}

const char *register_name(std::uint16_t reg) {
    switch (reg) {
#define CONNECTX_REGISTER(name)                                                                    \
    case MLX5_REG_##name:                                                                          \
        return #name;
#include <register_names.inc>
#undef CONNECTX_REGISTER
    case MLX5_QUIC_REG_CNT:
        return "QUIC_CNT";
    default:
        return "unknown register";
    }
}

const CommandTable &command_table() {
    static const CommandTable table = [] {
        CommandTable t;
        register_hca_commands(t);
        register_memory_commands(t);
        register_queue_commands(t);
        register_steering_commands(t);
        register_vport_commands(t);
        register_port_commands(t);
        register_quic_commands(t);
        return t;
    }();
    return table;
}

void CommandInterface::set_queue_address(std::uint64_t addr) {
    queue_ = GuestAddr{addr};
    current_.reset();
}

void CommandInterface::reset() {
    set_queue_address(0);
    pending_ = 0;
    held_back_.clear();
}

void CommandInterface::doorbell(std::uint32_t vector) {
    pending_ |= vector;
    if (pending_ != 0)
        core_.kick();
}

void CommandInterface::run() {
    // One round only: a driver that rings for each completion must not starve the data path.
    const std::uint32_t now = pending_;
    for (unsigned i = 0; i < 32; ++i) {
        if (current_ && !go_on())
            return;
        if ((now >> i & 1) == 0)
            continue;
        if (!core_.work.left())
            return;
        pending_ &= ~(1U << i);
        begin(i);
    }
    if (current_)
        go_on();
}

CommandStatus CommandInterface::execute(ConstBytes in, Bytes out) {
    Command cmd;
    cmd.opcode = IFC_GET(nop_in, in, opcode);
    cmd.op_mod = IFC_GET(nop_in, in, op_mod);
    cmd.in = in;
    cmd.out = out;
    std::fill(out.begin(), out.end(), 0);
    ++core_.stats.commands;

    CommandStatus st;
    const CommandTable &table = command_table();
    auto spec = table.find(cmd.opcode);
    if (spec == table.end()) {
        ++core_.stats.commands_unknown;
        count_unknown(cmd.opcode);
        core_.log(LogLevel::kWarning, "command %s (%#x) is not modelled", opcode_name(cmd.opcode),
                  cmd.opcode);
        st = bad_op(0x1);
    } else if (in.size() < spec->second.min_in) {
        st = bad_input_length(0x2);
    } else if (out.size() < spec->second.min_out) {
        st = bad_output_length(0x3);
    } else if ((spec->second.stage != CommandStage::kAlways && !core_.hca_enabled) ||
               (spec->second.stage == CommandStage::kHcaInitialized && !core_.hca_initialized)) {
        st = bad_sys_state(0x4);
    } else if (auto failure = core_.faults.take_command_failure(cmd.opcode)) {
        st = *failure;
    } else {
        st = spec->second.handler(core_, cmd);
    }
    if (!st.ok()) {
        // A failed command leaves nothing of a half-written answer behind.
        std::fill(out.begin(), out.end(), 0);
        ++core_.stats.commands_failed;
    }
    IFC_SET(nop_out, out, status, st.status);
    IFC_SET(nop_out, out, syndrome, st.syndrome);
    if (core_.config.trace || !st.ok())
        core_.host.log(st.ok() ? LogLevel::kTrace : LogLevel::kInfo,
                       format("command %s op_mod %#x in %zu out %zu: %s syndrome %#x",
                              opcode_name(cmd.opcode), cmd.op_mod, in.size(), out.size(),
                              status_name(st.status), st.syndrome));
    return st;
}

void CommandInterface::begin(unsigned index) {
    if (queue_.value == 0 || core_.iseg.nic_interface() != NicInterface::kFullDriver)
        return;
    current_ = InWork(); // not emplace(): clang 14 finds no default constructor of a nested class
    current_->index = index;
    mlx5_cmd_layout &entry = current_->entry.value;
    if (!core_.dma_read(slot(index), bytes_of(entry)) || (entry.status_own & kOwnerHw) == 0) {
        current_.reset();
        return;
    }
    // Who is told is settled before the command runs: a CREATE_EQ that asks for command events does
    // not find its own completion in the new queue. The driver has polled for that one.
    current_->listeners = core_.events.subscribers(MLX5_EVENT_TYPE_CMD);
    const std::size_t inlen = be32_to_cpu(entry.inlen);
    const std::size_t outlen = be32_to_cpu(entry.outlen);
    if (entry.type != MLX5_PCI_CMD_XPORT)
        current_->delivery = kBadDescriptor;
    else if (xor8(bytes_of(entry)) != 0xff)
        current_->delivery = kSignatureError;
    else if (outlen < kInline / 2 || outlen > kMaxMessage)
        current_->delivery = kOutputLength;
    else if (inlen < 8 || inlen > kMaxMessage)
        current_->delivery = kInputLength;
    if (current_->delivery != kDelivered)
        return;
    core_.work.charge_bytes(inlen + outlen, kBytesCleared);
    current_->in.resize(inlen);
    current_->out.resize(outlen);
    std::memcpy(current_->in.data(), entry.in, std::min(inlen, kInline));
    current_->chain = {be64_to_cpu(entry.in_ptr), 0, kInline};
}

bool CommandInterface::go_on() {
    InWork &c = *current_;
    if (core_.iseg.nic_interface() != NicInterface::kFullDriver) {
        current_.reset();
        return true;
    }
    if (c.delivery == kDelivered && !c.executed) {
        if (!fetch_input(c))
            return false;
        if (c.delivery == kDelivered && !execute(c)) {
            current_.reset();
            return true;
        }
    }
    if (c.delivery == kDelivered && !deliver_output(c))
        return false;
    // What has been executed is not done again, whatever became of the answer.
    const Secret<mlx5_cmd_layout> answer = answer_of(c);
    if (c.delivery == kDelivered && c.new_quic_sa) {
        if (const auto delay = core_.faults.take_quic_sa_delay()) {
            const std::uint64_t when =
                *delay == 0 ? kUntilReleased : core_.host.clock_ns() + *delay;
            held_back_.emplace(when, HeldBack{c.index, answer.value});
            current_.reset();
            return true;
        }
    }
    finish(c.index, answer.value, c.delivery, c.listeners);
    current_.reset();
    return true;
}

bool CommandInterface::execute(InWork &c) {
    if (const auto delay = core_.faults.take_command_timeout(IFC_GET(nop_in, c.in, opcode))) {
        if (*delay != 0)
            held_back_.emplace(core_.host.clock_ns() + *delay, HeldBack{c.index, {}});
        return false;
    }
    c.executed = true;
    c.new_quic_sa = execute(c.in, c.out).ok() && creates_quic_sa(c.in);
    wipe(c.in); // there may have been keys in it
    c.chain = {be64_to_cpu(c.entry->out_ptr), 0, kInline};
    return true;
}

bool CommandInterface::fetch_input(InWork &c) {
    const bool check = IFC_GET(cmd_hca_cap, core_.caps.general(), cmdif_checksum) == 3;
    for (Chain &at = c.chain; at.offset < c.in.size(); at.offset += kBlockData, ++at.number) {
        if (!core_.work.left())
            return false;
        c.delivery = kDelivered;
        Secret<mlx5_cmd_prot_block> block;
        if (at.next == 0 || at.next % kMailboxAlign != 0)
            c.delivery = kInputPointerAlignment;
        else if (!core_.dma_read({at.next}, block.bytes()))
            c.delivery = kFirmwareError;
        else if (check && !block_signature_ok(block.value))
            c.delivery = kSignatureError;
        else if (block->token != c.entry->token)
            c.delivery = kTokenError;
        else if (be32_to_cpu(block->block_num) != at.number)
            c.delivery = kBadBlockNumber;
        if (c.delivery != kDelivered)
            break;
        core_.work.charge(kUnitsPerBlock);
        std::memcpy(c.in.data() + at.offset, block->data,
                    std::min(kBlockData, c.in.size() - at.offset));
        at.next = be64_to_cpu(block->next);
    }
    return true;
}

bool CommandInterface::deliver_output(InWork &c) {
    for (Chain &at = c.chain; at.offset < c.out.size(); at.offset += kBlockData, ++at.number) {
        if (!core_.work.left())
            return false;
        Secret<mlx5_cmd_prot_block> block;
        if (at.next == 0 || at.next % kMailboxAlign != 0)
            c.delivery = kOutputPointerAlignment;
        else if (!core_.dma_read({at.next}, block.bytes()))
            c.delivery = kFirmwareError;
        else if (block->token != c.entry->token)
            c.delivery = kTokenError;
        else if (be32_to_cpu(block->block_num) != at.number)
            c.delivery = kBadBlockNumber;
        if (c.delivery != kDelivered)
            break;
        core_.work.charge(kUnitsPerBlock);
        const std::size_t part = std::min(kBlockData, c.out.size() - at.offset);
        std::memset(block->data, 0, sizeof(block->data));
        std::memcpy(block->data, c.out.data() + at.offset, part);
        sign_block(block.value);
        if (!core_.dma_write({at.next}, block.bytes())) {
            c.delivery = kFirmwareError;
            break;
        }
        at.next = be64_to_cpu(block->next);
    }
    return true;
}

Secret<mlx5_cmd_layout> CommandInterface::answer_of(const InWork &c) {
    Secret<mlx5_cmd_layout> answer = c.entry;
    if (c.executed) {
        std::memset(answer->out, 0, sizeof(answer->out));
        std::memcpy(answer->out, c.out.data(), std::min(c.out.size(), sizeof(answer->out)));
    }
    return answer;
}

void CommandInterface::run_deferred() {
    while (!held_back_.empty() && held_back_.begin()->first <= core_.host.clock_ns()) {
        auto [index, entry] = held_back_.extract(held_back_.begin()).mapped();
        if (entry) {
            finish(index, *entry, kDelivered, core_.events.subscribers(MLX5_EVENT_TYPE_CMD));
            continue;
        }
        // The driver has long given up; its mailboxes may be anybody's memory by now.
        mlx5_cmd_layout given_up;
        if (core_.dma_read(slot(index), bytes_of(given_up)))
            finish(index, given_up, kFirmwareError, core_.events.subscribers(MLX5_EVENT_TYPE_CMD));
    }
}

void CommandInterface::release_done() {
    for (auto it = held_back_.begin(); it != held_back_.end();) {
        auto next = std::next(it);
        if (it->second.answer && it->first != 0) {
            auto node = held_back_.extract(it);
            node.key() = 0;
            held_back_.insert(std::move(node));
        }
        it = next;
    }
    core_.kick();
}

void CommandInterface::finish(unsigned index, mlx5_cmd_layout entry, unsigned delivery,
                              const std::vector<std::uint32_t> &listeners) {
    const GuestAddr where = slot(index);
    if (delivery != kDelivered) {
        ++core_.stats.delivery_errors;
        core_.log(LogLevel::kWarning, "command slot %u: delivery error %#x", index, delivery);
    }

    entry.status_own = static_cast<std::uint8_t>(delivery << 1);
    entry.sig = 0;
    entry.sig = ~xor8(bytes_of(entry));
    // The ownership bit is in the last dword: it must become visible after the rest.
    const ConstBytes raw = bytes_of(std::as_const(entry));
    constexpr std::size_t kTail = sizeof(entry) - 4;
    core_.dma_write(where, raw.first(kTail));
    core_.dma_write(where + kTail, raw.subspan(kTail));

    std::array<std::uint8_t, sizeof(ev_data)> data{};
    store_be<std::uint32_t>(data.data(), 1U << index);
    core_.events.post_to(listeners, MLX5_EVENT_TYPE_CMD, 0, data);
}

} // namespace connectx
