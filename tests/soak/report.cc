// SPDX-License-Identifier: GPL-2.0
#include "report.h"

#include <algorithm>
#include <cerrno>
#include <climits>
#include <sstream>

namespace quic_soak {

void Report::write_line(std::string line) const {
    std::replace(line.begin(), line.end(), '\n', ' ');
    // Short enough to be written as one, however many write.
    line = line.substr(0, PIPE_BUF - 1) + "\n";
    while (::write(fd_, line.data(), line.size()) < 0 && errno == EINTR)
        ;
}

void Report::count(const std::string &name, std::uint64_t n) const {
    write_line("count " + std::to_string(n) + " " + name);
}

void Report::failure(const std::string &where, const std::string &what) const {
    write_line("failure " + where + ": " + what);
}

Told read_reports(int fd) {
    std::string text;
    char buffer[65536];
    for (ssize_t n = 0; (n = ::read(fd, buffer, sizeof(buffer))) != 0;) {
        if (n > 0)
            text.append(buffer, static_cast<std::size_t>(n));
        else if (errno != EINTR)
            quic_test::throw_errno("read from a pipe");
    }
    Told told;
    std::istringstream lines(text);
    std::string line;
    while (std::getline(lines, line)) {
        std::istringstream words(line);
        std::string kind;
        std::string rest;
        std::uint64_t n = 0;
        words >> kind;
        if (kind == "count" && words >> n && std::getline(words >> std::ws, rest))
            told.counts[rest] += n;
        else if (std::getline(words >> std::ws, rest))
            told.failures.push_back(rest);
    }
    return told;
}

} // namespace quic_soak
