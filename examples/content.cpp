// SPDX-License-Identifier: MIT
#include "content.hpp"

#include "mapped_file.hpp"

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

class TextBody : public Body {
  public:
    explicit TextBody(std::string text) : text_(std::move(text)) {}
    std::span<const std::uint8_t> bytes() const override {
        return {reinterpret_cast<const std::uint8_t *>(text_.data()), text_.size()};
    }

  private:
    std::string text_;
};

// A file of some size, as its pages in the page cache.
class FileBody : public Body {
  public:
    explicit FileBody(MappedFile file) : file_(std::move(file)) {}
    std::span<const std::uint8_t> bytes() const override { return file_.bytes(); }
    bool prepare(std::size_t offset, std::size_t length) override {
        return file_.populate(offset, length);
    }

  private:
    MappedFile file_;
};

// Below this, reading a file costs less than mapping and unmapping it.
constexpr std::size_t kMapThreshold = 64 * 1024;

// Nothing: it cannot be read, or has become shorter than @length meanwhile.
std::unique_ptr<Body> make_file_body(int fd, std::size_t length) {
    if (length >= kMapThreshold) {
        auto file = MappedFile::map(fd, length);
        return file ? std::make_unique<FileBody>(std::move(*file)) : nullptr;
    }
    std::string text(length, '\0');
    const ssize_t n = pread(fd, text.data(), length, 0);
    return n == static_cast<ssize_t>(length) ? make_text_body(std::move(text)) : nullptr;
}

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
    const bool is_file = fstat(fd, &status) == 0 && S_ISREG(status.st_mode);
    Response response;
    if (is_file)
        response.body = make_file_body(fd, static_cast<std::size_t>(status.st_size));
    close(fd);
    if (!is_file)
        return error_response(404, "Not found");
    if (!response.body)
        return error_response(500, "Cannot be read");
    response.content_type = content_type_of(*name);
    return response;
}

} // namespace quic_server
