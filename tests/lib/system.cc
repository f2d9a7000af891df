// SPDX-License-Identifier: GPL-2.0
#include "system.h"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <sstream>
#include <stdexcept>
#include <system_error>
#include <thread>

#include <fcntl.h>
#include <net/if.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>

namespace quic_test {

void throw_errno(const std::string &what) {
    throw std::system_error(errno, std::generic_category(), what);
}

std::string read_file(const std::string &path) {
    std::ifstream file(path);
    if (!file)
        throw_errno("cannot open " + path);
    std::ostringstream text;
    text << file.rdbuf();
    return text.str();
}

void write_file(const std::string &path, const std::string &text) {
    const UniqueFd fd(::open(path.c_str(), O_WRONLY | O_CLOEXEC));
    if (fd.get() < 0)
        throw_errno("cannot open " + path);
    if (::write(fd.get(), text.data(), text.size()) != static_cast<ssize_t>(text.size()))
        throw_errno("cannot write " + text + " to " + path);
}

CommandResult try_command(const std::string &script) {
    int pipe_fds[2];
    if (::pipe2(pipe_fds, O_CLOEXEC) != 0)
        throw_errno("pipe2");
    UniqueFd reader(pipe_fds[0]);
    UniqueFd writer(pipe_fds[1]);
    const pid_t pid = ::fork();
    if (pid < 0)
        throw_errno("fork");
    if (pid == 0) {
        ::dup2(writer.get(), STDOUT_FILENO);
        ::dup2(writer.get(), STDERR_FILENO);
        ::setenv("PATH", "/usr/sbin:/usr/bin:/sbin:/bin", 1);
        ::execl("/bin/sh", "sh", "-ec", script.c_str(), nullptr);
        ::_exit(127);
    }
    writer.reset();
    CommandResult result;
    char buffer[4096];
    for (ssize_t n = 0; (n = ::read(reader.get(), buffer, sizeof(buffer))) != 0;) {
        if (n < 0 && errno != EINTR)
            break;
        if (n > 0)
            result.output.append(buffer, static_cast<std::size_t>(n));
    }
    int status = 0;
    while (::waitpid(pid, &status, 0) < 0 && errno == EINTR)
        ;
    result.status = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
    return result;
}

namespace {

// Starting a program is what takes time in an emulated guest.
std::string with_ip_batches(const std::string &script) {
    std::string out;
    std::string batch;
    const auto flush = [&] {
        if (!batch.empty())
            out += "ip -batch - <<'END'\n" + batch + "END\n";
        batch.clear();
    };
    for (std::size_t at = 0; at < script.size();) {
        std::size_t end = script.find_first_of(";\n", at);
        // Separators within quotes and compound commands end what can be cut.
        if (script.find_first_of("'\"{$(|&<>", at) < end || script.compare(at, 4, "for ") == 0 ||
            script.compare(at, 3, "if ") == 0) {
            flush();
            return out + script.substr(at);
        }
        end = std::min(end, script.size());
        const std::string part = script.substr(at, end - at);
        if (part.starts_with("ip ") && part.find(" -") > 40 && part[3] != '-') {
            batch += part.substr(3) + "\n";
        } else {
            flush();
            out += part + "\n";
        }
        at = script.find_first_not_of(" ;\n", end);
        if (at == std::string::npos)
            break;
    }
    flush();
    return out;
}

} // namespace

std::string command(const std::string &script) {
    CommandResult result = try_command(with_ip_batches(script));
    if (result.status != 0)
        throw std::runtime_error("exit " + std::to_string(result.status) + " of: " + script + "\n" +
                                 result.output);
    return result.output;
}

namespace {

UniqueFd current_network_namespace() {
    UniqueFd fd(::open("/proc/thread-self/ns/net", O_RDONLY | O_CLOEXEC));
    if (fd.get() < 0)
        throw_errno("/proc/thread-self/ns/net");
    return fd;
}

void change_interface(const std::string &name, unsigned long get, unsigned long set,
                      const std::function<void(ifreq &)> &change) {
    const UniqueFd fd(::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
    ifreq request{};
    std::strncpy(request.ifr_name, name.c_str(), IFNAMSIZ - 1);
    if (::ioctl(fd.get(), get, &request) != 0)
        throw_errno("interface " + name);
    change(request);
    if (::ioctl(fd.get(), set, &request) != 0)
        throw_errno("interface " + name);
}

} // namespace

void set_interface_up(const std::string &name) {
    change_interface(name, SIOCGIFFLAGS, SIOCSIFFLAGS,
                     [](ifreq &request) { request.ifr_flags |= IFF_UP; });
}

void set_mtu(const std::string &name, int mtu) {
    change_interface(name, SIOCGIFMTU, SIOCSIFMTU,
                     [mtu](ifreq &request) { request.ifr_mtu = mtu; });
}

void enter_new_network_namespace() {
    if (::unshare(CLONE_NEWNET) != 0)
        throw_errno("unshare(CLONE_NEWNET): must be root");
    set_interface_up("lo");
}

NetNamespace::NetNamespace() {
    const UniqueFd before = current_network_namespace();
    enter_new_network_namespace();
    fd_ = current_network_namespace();
    if (::setns(before.get(), CLONE_NEWNET) != 0)
        throw_errno("setns");
}

std::string NetNamespace::path() const {
    return "/proc/" + std::to_string(::getpid()) + "/fd/" + std::to_string(fd_.get());
}

void NetNamespace::run(const std::function<void()> &work) const {
    const InNamespace inside(*this);
    work();
}

std::string NetNamespace::command(const std::string &script) const {
    const InNamespace inside(*this);
    return quic_test::command(script);
}

InNamespace::InNamespace(int fd) : before_(current_network_namespace()) {
    if (::setns(fd, CLONE_NEWNET) != 0)
        throw_errno("setns");
}

InNamespace::~InNamespace() {
    if (::setns(before_.get(), CLONE_NEWNET) != 0)
        std::abort(); // the tests after this would run in the wrong place
}

bool eventually(const std::function<bool()> &condition, std::chrono::milliseconds patience) {
    const auto deadline = std::chrono::steady_clock::now() + patience;
    for (;;) {
        if (condition())
            return true;
        if (std::chrono::steady_clock::now() >= deadline)
            return false;
        std::this_thread::sleep_for(std::chrono::milliseconds(2));
    }
}

Statistics Statistics::read() {
    Statistics statistics;
    std::istringstream lines(read_file("/proc/thread-self/net/udp_crypto_stat"));
    std::string name;
    std::uint64_t value = 0;
    while (lines >> name >> value)
        statistics.values_[name] = value;
    return statistics;
}

std::uint64_t Statistics::operator[](const std::string &name) const {
    const auto found = values_.find(name);
    if (found == values_.end())
        throw std::out_of_range("udp_crypto_stat has no " + name);
    return found->second;
}

} // namespace quic_test
