// SPDX-License-Identifier: GPL-2.0
#include "processes.h"

#include <cerrno>
#include <csignal>
#include <cstdio>
#include <exception>

#include <grp.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>

namespace quic_test {

namespace {

UniqueFd memory_file(const std::string &content) {
    UniqueFd fd(::memfd_create("tool", MFD_CLOEXEC));
    if (fd.get() < 0)
        throw_errno("memfd_create");
    if (::write(fd.get(), content.data(), content.size()) != static_cast<ssize_t>(content.size()) ||
        ::lseek(fd.get(), 0, SEEK_SET) != 0)
        throw_errno("memfd");
    return fd;
}

std::string content_of(int fd) {
    std::string content;
    char buffer[65536];
    for (ssize_t n = 0;
         (n = ::pread(fd, buffer, sizeof(buffer), static_cast<off_t>(content.size()))) > 0;)
        content.append(buffer, static_cast<std::size_t>(n));
    return content;
}

bool become(uid_t uid) {
    if (uid == 0)
        return true;
    // A process that changed its user may else not write its own /proc/self/uid_map.
    return ::setgroups(0, nullptr) == 0 && ::setgid(uid) == 0 && ::setuid(uid) == 0 &&
           ::prctl(PR_SET_DUMPABLE, 1, 0, 0, 0) == 0;
}

int status_of(pid_t pid) {
    int status = 0;
    while (::waitpid(pid, &status, 0) < 0 && errno == EINTR)
        ;
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

} // namespace

Tool::Tool(const std::vector<std::string> &arguments, const std::string &input, uid_t uid)
    : out_(memory_file("")), err_(memory_file("")) {
    const UniqueFd in = memory_file(input);
    std::vector<char *> argv{const_cast<char *>("quic-sadb-ctl")};
    for (const std::string &argument : arguments)
        argv.push_back(const_cast<char *>(argument.c_str()));
    argv.push_back(nullptr);
    pid_ = ::fork();
    if (pid_ < 0)
        throw_errno("fork");
    if (pid_ == 0) {
        ::dup2(in.get(), STDIN_FILENO);
        ::dup2(out_.get(), STDOUT_FILENO);
        ::dup2(err_.get(), STDERR_FILENO);
        if (become(uid))
            ::execv(QUIC_SADB_CTL, argv.data());
        ::_exit(127);
    }
}

Tool::~Tool() { stop(); }

int Tool::wait() {
    const int status = status_of(pid_);
    pid_ = -1;
    return status;
}

void Tool::stop() {
    if (pid_ < 0)
        return;
    ::kill(pid_, SIGKILL);
    wait();
}

void Tool::signal(int number) {
    if (::kill(pid_, number) != 0)
        throw_errno("kill");
}

std::string Tool::out() const { return content_of(out_.get()); }
std::string Tool::err() const { return content_of(err_.get()); }

ToolResult tool(const std::vector<std::string> &arguments, const std::string &input, uid_t uid) {
    Tool tool(arguments, input, uid);
    const int status = tool.wait();
    return {status, tool.out(), tool.err()};
}

int as_user(uid_t uid, const std::function<int()> &work) {
    const pid_t pid = ::fork();
    if (pid < 0)
        throw_errno("fork");
    if (pid == 0) {
        int status = 255;
        try {
            if (become(uid))
                status = work();
        } catch (const std::exception &error) {
            std::fprintf(stderr, "as user %u: %s\n", uid, error.what());
        }
        ::_exit(status);
    }
    return status_of(pid);
}

} // namespace quic_test
