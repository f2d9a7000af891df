// SPDX-License-Identifier: MIT
#include "content.hpp"

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdio>
#include <cstring>

#include <fcntl.h>
#include <linux/openat2.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

namespace quic_server {

namespace {

class FileBody : public Body {
  public:
    FileBody(int fd, std::uint64_t length) : fd_(fd), length_(length) {}
    ~FileBody() override { close(fd_); }
    FileBody(const FileBody &) = delete;
    FileBody &operator=(const FileBody &) = delete;

    std::uint64_t length() const override { return length_; }
    std::optional<std::size_t> read(std::span<std::uint8_t> buffer) override {
        const std::size_t want = std::min<std::uint64_t>(buffer.size(), length_ - position_);
        std::size_t done = 0;
        while (done < want) {
            const ssize_t n =
                pread(fd_, buffer.data() + done, want - done, static_cast<off_t>(position_ + done));
            if (n < 0 && errno == EINTR)
                continue;
            if (n <= 0) // an error, or the file has become shorter than was announced
                return std::nullopt;
            done += static_cast<std::size_t>(n);
        }
        position_ += done;
        return done;
    }

  private:
    int fd_;
    std::uint64_t length_;
    std::uint64_t position_ = 0;
};

class TextBody : public Body {
  public:
    explicit TextBody(std::string text) : text_(std::move(text)) {}
    std::uint64_t length() const override { return text_.size(); }
    std::optional<std::size_t> read(std::span<std::uint8_t> buffer) override {
        const std::size_t n = std::min(buffer.size(), text_.size() - position_);
        std::copy_n(text_.begin() + static_cast<std::ptrdiff_t>(position_), n, buffer.begin());
        position_ += n;
        return n;
    }

  private:
    std::string text_;
    std::size_t position_ = 0;
};

int hex_digit(char c) {
    if (c >= '0' && c <= '9')
        return c - '0';
    if (c >= 'a' && c <= 'f')
        return c - 'a' + 10;
    if (c >= 'A' && c <= 'F')
        return c - 'A' + 10;
    return -1;
}

// The relative file name that @path of a request stands for; nothing if it is not well formed.
std::optional<std::string> decode_path(std::string_view path) {
    path = path.substr(0, path.find_first_of("?#"));
    if (path.empty() || path.front() != '/')
        return std::nullopt;
    std::string name;
    for (std::size_t i = 1; i < path.size(); ++i) {
        char c = path[i];
        if (c == '%') {
            if (i + 2 >= path.size())
                return std::nullopt;
            const int high = hex_digit(path[i + 1]);
            const int low = hex_digit(path[i + 2]);
            if (high < 0 || low < 0)
                return std::nullopt;
            c = static_cast<char>(high << 4 | low);
            i += 2;
        }
        if (c == '\0')
            return std::nullopt;
        name += c;
    }
    if (name.empty() || name.back() == '/')
        name += "index.html";
    return name;
}

std::string content_type_of(std::string_view name) {
    static constexpr std::array<std::pair<std::string_view, std::string_view>, 12> kTypes = {{
        {".html", "text/html; charset=utf-8"},
        {".txt", "text/plain; charset=utf-8"},
        {".css", "text/css; charset=utf-8"},
        {".js", "text/javascript; charset=utf-8"},
        {".json", "application/json"},
        {".svg", "image/svg+xml"},
        {".png", "image/png"},
        {".jpg", "image/jpeg"},
        {".gif", "image/gif"},
        {".ico", "image/vnd.microsoft.icon"},
        {".pdf", "application/pdf"},
        {".wasm", "application/wasm"},
    }};
    for (const auto &[ending, type] : kTypes)
        if (name.ends_with(ending))
            return std::string(type);
    return "application/octet-stream";
}

Response error_response(int status, const char *text) {
    Response response;
    response.status = status;
    response.body = make_text_body(std::string(text) + '\n');
    return response;
}

} // namespace

std::unique_ptr<Body> make_text_body(std::string text) {
    return std::make_unique<TextBody>(std::move(text));
}

std::unique_ptr<DocumentRoot> DocumentRoot::open(const std::string &directory) {
    const int fd = ::open(directory.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0) {
        std::fprintf(stderr, "document root %s: %s\n", directory.c_str(), std::strerror(errno));
        return nullptr;
    }
    return std::unique_ptr<DocumentRoot>(new DocumentRoot(fd));
}

DocumentRoot::~DocumentRoot() { close(fd_); }

Response DocumentRoot::get(std::string_view path) {
    const auto name = decode_path(path);
    if (!name)
        return error_response(400, "Bad request");
    open_how how{};
    how.flags = O_RDONLY | O_CLOEXEC | O_NONBLOCK; // a FIFO must not stop the server
    how.resolve = RESOLVE_BENEATH | RESOLVE_NO_MAGICLINKS;
    const int fd = static_cast<int>(syscall(SYS_openat2, fd_, name->c_str(), &how, sizeof(how)));
    if (fd < 0)
        return error_response(404, "Not found");
    struct stat status {};
    if (fstat(fd, &status) != 0 || !S_ISREG(status.st_mode)) {
        close(fd);
        return error_response(404, "Not found");
    }
    Response response;
    response.content_type = content_type_of(*name);
    response.body = std::make_unique<FileBody>(fd, static_cast<std::uint64_t>(status.st_size));
    return response;
}

} // namespace quic_server
