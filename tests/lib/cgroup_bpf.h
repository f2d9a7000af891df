// SPDX-License-Identifier: GPL-2.0
//
// Small BPF programs attached to a cgroup or to a device.
#pragma once

#include <cstdint>
#include <vector>

#include <linux/bpf.h>

#include "cgroup.h"

namespace quic_test {

// What packets pass on their way out of a device (Linux 6.6; not in the headers of Debian 12).
inline constexpr auto kTcxEgress = static_cast<bpf_attach_type>(47);

UniqueFd load_program(bpf_prog_type type, bpf_attach_type attach,
                      const std::vector<bpf_insn> &instructions);

// Loads @instructions and attaches them to a cgroup (a descriptor), or with kTcxEgress to a device
// (its number) of the calling thread's network namespace, until the end of the scope.
class AttachedProgram {
  public:
    AttachedProgram(int target, bpf_prog_type type, bpf_attach_type attach,
                    const std::vector<bpf_insn> &instructions);
    AttachedProgram(const Cgroup &cgroup, bpf_prog_type type, bpf_attach_type attach,
                    const std::vector<bpf_insn> &instructions)
        : AttachedProgram(cgroup.fd(), type, attach, instructions) {}
    ~AttachedProgram();
    AttachedProgram(const AttachedProgram &) = delete;
    AttachedProgram &operator=(const AttachedProgram &) = delete;

  private:
    int target_;
    bpf_attach_type attach_;
    UniqueFd program_;
};

// Instructions, by what they do.
namespace bpf {
inline bpf_insn set(int reg, int value) {
    return {BPF_ALU64 | BPF_MOV | BPF_K, static_cast<__u8>(reg), 0, 0, value};
}
inline bpf_insn move(int reg, int from) {
    return {BPF_ALU64 | BPF_MOV | BPF_X, static_cast<__u8>(reg), static_cast<__u8>(from), 0, 0};
}
inline bpf_insn add(int reg, int value) {
    return {BPF_ALU64 | BPF_ADD | BPF_K, static_cast<__u8>(reg), 0, 0, value};
}
inline bpf_insn load32(int reg, int base, int offset) {
    return {BPF_LDX | BPF_MEM | BPF_W, static_cast<__u8>(reg), static_cast<__u8>(base),
            static_cast<__s16>(offset), 0};
}
inline bpf_insn load64(int reg, int base, int offset) {
    return {BPF_LDX | BPF_MEM | BPF_DW, static_cast<__u8>(reg), static_cast<__u8>(base),
            static_cast<__s16>(offset), 0};
}
inline bpf_insn store32(int base, int offset, int reg) {
    return {BPF_STX | BPF_MEM | BPF_W, static_cast<__u8>(base), static_cast<__u8>(reg),
            static_cast<__s16>(offset), 0};
}
inline bpf_insn store16(int base, int offset, int reg) {
    return {BPF_STX | BPF_MEM | BPF_H, static_cast<__u8>(base), static_cast<__u8>(reg),
            static_cast<__s16>(offset), 0};
}
inline bpf_insn store32_value(int base, int offset, std::uint32_t value) {
    return {BPF_ST | BPF_MEM | BPF_W, static_cast<__u8>(base), 0, static_cast<__s16>(offset),
            static_cast<__s32>(value)};
}
// Arithmetic on 64 bits: BPF_ADD, BPF_AND, BPF_RSH, BPF_XOR, BPF_LSH, BPF_OR
inline bpf_insn compute(int operation, int reg, int value) {
    return {static_cast<__u8>(BPF_ALU64 | operation | BPF_K), static_cast<__u8>(reg), 0, 0, value};
}
inline bpf_insn compute_with(int operation, int reg, int from) {
    return {static_cast<__u8>(BPF_ALU64 | operation | BPF_X), static_cast<__u8>(reg),
            static_cast<__u8>(from), 0, 0};
}
inline bpf_insn to_big_endian16(int reg) {
    return {BPF_ALU | BPF_END | BPF_TO_BE, static_cast<__u8>(reg), 0, 0, 16};
}
inline bpf_insn call(bpf_func_id helper) { return {BPF_JMP | BPF_CALL, 0, 0, 0, helper}; }
inline bpf_insn jump_equal(int reg, int value, int skip) {
    return {BPF_JMP | BPF_JEQ | BPF_K, static_cast<__u8>(reg), 0, static_cast<__s16>(skip), value};
}
inline bpf_insn jump_not_equal(int reg, int value, int skip) {
    return {BPF_JMP | BPF_JNE | BPF_K, static_cast<__u8>(reg), 0, static_cast<__s16>(skip), value};
}
inline bpf_insn jump_above(int reg, int other, int skip) {
    return {BPF_JMP | BPF_JGT | BPF_X, static_cast<__u8>(reg), static_cast<__u8>(other),
            static_cast<__s16>(skip), 0};
}
inline bpf_insn finish() { return {BPF_JMP | BPF_EXIT, 0, 0, 0, 0}; }
} // namespace bpf

} // namespace quic_test
