// SPDX-License-Identifier: MIT
//
// What the HTTP/3 server serves.
#ifndef QUIC_SERVER_CONTENT_HPP
#define QUIC_SERVER_CONTENT_HPP

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>

namespace quic_server {

// A response body, read once from front to end.
class Body {
  public:
    virtual ~Body() = default;
    virtual std::uint64_t length() const = 0;
    // Fills all of @buffer unless the end is near. Nothing: cannot be read any more.
    virtual std::optional<std::size_t> read(std::span<std::uint8_t> buffer) = 0;
};

struct Response {
    int status = 200;
    std::string content_type = "text/plain; charset=utf-8";
    std::unique_ptr<Body> body; // may be null
};

// Where responses to GET and HEAD come from. Paths are as in the request: percent-encoded, with a
// query, and hostile.
class ContentSource {
  public:
    virtual ~ContentSource() = default;
    virtual Response get(std::string_view path) = 0;
};

// The regular files below a directory. Nothing outside of it can be reached, not by "..", not by
// symbolic links.
class DocumentRoot : public ContentSource {
  public:
    // Nothing, and a line on stderr, when @directory cannot be opened.
    static std::unique_ptr<DocumentRoot> open(const std::string &directory);
    ~DocumentRoot() override;
    DocumentRoot(const DocumentRoot &) = delete;
    DocumentRoot &operator=(const DocumentRoot &) = delete;

    Response get(std::string_view path) override;

  private:
    explicit DocumentRoot(int fd) : fd_(fd) {}
    int fd_;
};

std::unique_ptr<Body> make_text_body(std::string text);

} // namespace quic_server

#endif
