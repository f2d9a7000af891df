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

// A response body. Its bytes stay where they are as long as the object lives, so that QUIC can send
// from there, and again when a packet is lost, and nothing is copied apart.
class Body {
  public:
    virtual ~Body() = default;
    virtual std::span<const std::uint8_t> bytes() const = 0;
    // Has @length bytes from @offset on in memory. False: they cannot be read any more.
    virtual bool prepare(std::size_t offset, std::size_t length) {
        static_cast<void>(offset);
        static_cast<void>(length);
        return true;
    }
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
