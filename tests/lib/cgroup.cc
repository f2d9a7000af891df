// SPDX-License-Identifier: GPL-2.0
#include "cgroup.h"

#include <cerrno>
#include <sstream>
#include <stdexcept>

#include <fcntl.h>
#include <sys/mount.h>
#include <sys/stat.h>
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

} // namespace

Cgroup::Cgroup() : path_(cgroup_root() + "/udp-crypto-test-" + std::to_string(::getpid())) {
    if (::mkdir(path_.c_str(), 0755) != 0 && errno != EEXIST)
        throw_errno("mkdir " + path_);
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
    // A process that has ended leaves a little later.
    eventually([&] { return ::rmdir(path_.c_str()) == 0 || errno != EBUSY; });
}

void Cgroup::take(pid_t pid) const { write("cgroup.procs", std::to_string(pid)); }

void Cgroup::count_memory() const {
    write_file(cgroup_root() + "/cgroup.subtree_control", "+memory");
}

void Cgroup::write(const std::string &file, const std::string &text) const {
    write_file(path_ + "/" + file, text);
}

std::uint64_t Cgroup::number(const std::string &file, const std::string &key) const {
    std::istringstream text(read_file(path_ + "/" + file));
    std::string word;
    while (text >> word) {
        if (key.empty())
            return std::stoull(word);
        std::uint64_t value = 0;
        if (!(text >> value))
            break;
        if (word == key)
            return value;
    }
    throw std::runtime_error(file + " has no " + key);
}

} // namespace quic_test
