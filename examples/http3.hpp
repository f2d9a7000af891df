// SPDX-License-Identifier: MIT
//
// HTTP/3 (RFC 9114) on top of one QUIC connection: requests come in, responses of a ContentSource
// go out, uploads are counted and answered with their SHA-256.
#ifndef QUIC_SERVER_HTTP3_HPP
#define QUIC_SERVER_HTTP3_HPP

#include "content.hpp"
#include "stats.hpp"

#include <nghttp3/nghttp3.h>
#include <ngtcp2/ngtcp2.h>

#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

namespace quic_server {

class Http3Session {
  public:
    // Opens the control and QPACK streams in @conn. Nothing: the peer does not allow them.
    // All arguments outlive the session.
    static std::unique_ptr<Http3Session> make(ngtcp2_conn *conn, ContentSource &content,
                                              Stats &stats);
    ~Http3Session();
    Http3Session(const Http3Session &) = delete;
    Http3Session &operator=(const Http3Session &) = delete;

    // Stream data to be sent next.
    struct Pending {
        std::int64_t stream_id = -1; // -1: nothing
        bool fin = false;            // its end is the stream's end
        std::span<const nghttp3_vec> data;
    };
    // Negative: an nghttp3 error.
    int next(Pending &pending);
    // The transport has taken @length bytes of what next() gave. nghttp3 is told of all the packets
    // of a burst at once: by settle(), which has to be called before anything else is.
    void on_written(std::size_t length);
    int settle();

    // What the transport tells. Negative: an nghttp3 error, which ends the connection.
    int on_received(std::int64_t stream_id, std::span<const std::uint8_t> data, bool fin);
    int on_acked(std::int64_t stream_id, std::uint64_t length);
    int on_closed(std::int64_t stream_id, std::uint64_t error_code);
    int on_read_shut(std::int64_t stream_id);
    int on_unblocked(std::int64_t stream_id);
    void on_blocked(std::int64_t stream_id);
    void on_write_shut(std::int64_t stream_id);
    void on_max_streams(std::uint64_t max_streams);

  private:
    struct Stream;
    Http3Session(ngtcp2_conn *conn, ContentSource &content, Stats &stats);
    bool open_streams();
    int respond(Stream &stream);
    int submit(Stream &stream, Response response, bool with_body);
    void consume(std::int64_t stream_id, std::size_t length);
    static nghttp3_callbacks make_callbacks();

    ngtcp2_conn *conn_;
    ContentSource &content_;
    Stats &stats_;
    nghttp3_conn *http_ = nullptr;
    std::map<std::int64_t, std::unique_ptr<Stream>> streams_;

    // What nghttp3 wants to be sent, and how much of it the transport has taken.
    Pending pending_;
    std::size_t taken_ = 0;
    bool taken_any_ = false; // the end of a stream alone has no bytes
    std::vector<nghttp3_vec> vectors_;
};

} // namespace quic_server

#endif
