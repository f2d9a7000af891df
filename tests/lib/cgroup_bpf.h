// SPDX-License-Identifier: GPL-2.0
//
// Small BPF programs attached to a cgroup.
#pragma once

#include <vector>

#include <linux/bpf.h>

#include "cgroup.h"

namespace quic_test {

// Loads @instructions and attaches them to @cgroup until the end of the scope.
class AttachedProgram {
  public:
    AttachedProgram(const Cgroup &cgroup, bpf_prog_type type, bpf_attach_type attach,
                    const std::vector<bpf_insn> &instructions);
    ~AttachedProgram();
    AttachedProgram(const AttachedProgram &) = delete;
    AttachedProgram &operator=(const AttachedProgram &) = delete;

  private:
    int cgroup_fd_;
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
