// SPDX-License-Identifier: GPL-2.0
#include "cgroup_bpf.h"

#include <cerrno>
#include <cstring>
#include <stdexcept>

#include <fcntl.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

namespace quic_test {
namespace {

const std::string &cgroup_root() {
    static const std::string root = [] {
        if (::access("/sys/fs/cgroup/cgroup.procs", F_OK) == 0)
            return std::string("/sys/fs/cgroup");
        const std::string where = "/tmp/cgroup2";
        ::mkdir("/tmp", 01777);
        ::mkdir(where.c_str(), 0755);
        if (::mount("cgroup2", where.c_str(), "cgroup2", 0, nullptr) != 0 && errno != EBUSY)
            throw_errno("mount cgroup2");
        return where;
    }();
    return root;
}

int bpf_call(bpf_cmd command, bpf_attr &attr) {
    return static_cast<int>(::syscall(SYS_bpf, command, &attr, sizeof(attr)));
}

} // namespace

Cgroup::Cgroup() : path_(cgroup_root() + "/udp-crypto-test-" + std::to_string(::getpid())) {
    if (::mkdir(path_.c_str(), 0755) != 0 && errno != EEXIST)
        throw_errno("mkdir " + path_);
    write_file(path_ + "/cgroup.procs", std::to_string(::getpid()));
    fd_ = UniqueFd(::open(path_.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    if (fd_.get() < 0)
        throw_errno("open " + path_);
}

Cgroup::~Cgroup() {
    try {
        write_file(cgroup_root() + "/cgroup.procs", std::to_string(::getpid()));
    } catch (const std::exception &) {
        return;
    }
    ::rmdir(path_.c_str());
}

AttachedProgram::AttachedProgram(const Cgroup &cgroup, bpf_prog_type type, bpf_attach_type attach,
                                 const std::vector<bpf_insn> &instructions)
    : cgroup_fd_(cgroup.fd()), attach_(attach) {
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
    program_ = UniqueFd(bpf_call(BPF_PROG_LOAD, load));
    if (program_.get() < 0)
        throw std::runtime_error(std::string("BPF_PROG_LOAD: ") + std::strerror(errno) + "\n" +
                                 log);
    bpf_attr attr{};
    attr.target_fd = static_cast<__u32>(cgroup_fd_);
    attr.attach_bpf_fd = static_cast<__u32>(program_.get());
    attr.attach_type = attach;
    if (bpf_call(BPF_PROG_ATTACH, attr) != 0)
        throw_errno("BPF_PROG_ATTACH");
}

AttachedProgram::~AttachedProgram() {
    bpf_attr attr{};
    attr.target_fd = static_cast<__u32>(cgroup_fd_);
    attr.attach_bpf_fd = static_cast<__u32>(program_.get());
    attr.attach_type = attach_;
    bpf_call(BPF_PROG_DETACH, attr);
}

} // namespace quic_test
