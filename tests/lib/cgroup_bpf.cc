// SPDX-License-Identifier: GPL-2.0
#include "cgroup_bpf.h"

#include <cerrno>
#include <cstring>
#include <stdexcept>

#include <sys/syscall.h>
#include <unistd.h>

namespace quic_test {
namespace {

int bpf_call(bpf_cmd command, bpf_attr &attr) {
    return static_cast<int>(::syscall(SYS_bpf, command, &attr, sizeof(attr)));
}

} // namespace

UniqueFd load_program(bpf_prog_type type, bpf_attach_type attach,
                      const std::vector<bpf_insn> &instructions) {
    static char log[65536];
    log[0] = 0;
    bpf_attr load{};
    load.prog_type = type;
    load.expected_attach_type = attach;
    load.insns = reinterpret_cast<__u64>(instructions.data());
    load.insn_cnt = static_cast<__u32>(instructions.size());
    load.license = reinterpret_cast<__u64>("GPL");
    load.log_buf = reinterpret_cast<__u64>(log);
    load.log_size = sizeof(log);
    load.log_level = 1;
    UniqueFd program(bpf_call(BPF_PROG_LOAD, load));
    if (program.get() < 0)
        throw std::runtime_error(std::string("BPF_PROG_LOAD: ") + std::strerror(errno) + "\n" +
                                 log);
    return program;
}

AttachedProgram::AttachedProgram(int target, bpf_prog_type type, bpf_attach_type attach,
                                 const std::vector<bpf_insn> &instructions)
    : target_(target), attach_(attach), program_(load_program(type, attach, instructions)) {
    bpf_attr attr{};
    attr.target_fd = static_cast<__u32>(target_);
    attr.attach_bpf_fd = static_cast<__u32>(program_.get());
    attr.attach_type = attach;
    if (bpf_call(BPF_PROG_ATTACH, attr) != 0)
        throw_errno("BPF_PROG_ATTACH");
}

AttachedProgram::~AttachedProgram() {
    bpf_attr attr{};
    attr.target_fd = static_cast<__u32>(target_);
    attr.attach_bpf_fd = static_cast<__u32>(program_.get());
    attr.attach_type = attach_;
    bpf_call(BPF_PROG_DETACH, attr);
}

} // namespace quic_test
