// SPDX-License-Identifier: MIT
#include "http3.hpp"

#include <gnutls/crypto.h>

#include <algorithm>
#include <array>
#include <cstdio>
#include <string_view>
#include <utility>

namespace quic_server {

namespace {

// What becomes a DATA frame: long enough that frames cost nothing, and no longer than a disk may
// take time for.
constexpr std::size_t kChunkSize = 1024 * 1024;

nghttp3_nv make_header(std::string_view name, std::string_view value) {
    // nghttp3 copies both; its structure just lacks the const.
    return {reinterpret_cast<std::uint8_t *>(const_cast<char *>(name.data())),  // NOLINT
            reinterpret_cast<std::uint8_t *>(const_cast<char *>(value.data())), // NOLINT
            name.size(), value.size(), NGHTTP3_NV_FLAG_NONE};
}

} // namespace

struct Http3Session::Stream {
    Stream(Http3Session &owner, std::int64_t stream_id) : session(owner), id(stream_id) {}
    ~Stream() {
        if (upload_hash)
            gnutls_hash_deinit(upload_hash, nullptr);
    }
    Stream(const Stream &) = delete;
    Stream &operator=(const Stream &) = delete;

    Http3Session &session;
    std::int64_t id;
    std::string method;
    std::string path;

    std::uint64_t received = 0;
    gnutls_hash_hd_t upload_hash = nullptr;

    std::unique_ptr<Body> body;
    std::size_t sent = 0; // of the body, to nghttp3
};

Http3Session::Http3Session(ngtcp2_conn *conn, ContentSource &content, Stats &stats)
    : conn_(conn), content_(content), stats_(stats), vectors_(16) {}

Http3Session::~Http3Session() { nghttp3_conn_del(http_); }

nghttp3_callbacks Http3Session::make_callbacks() {
    nghttp3_callbacks callbacks{};
    callbacks.begin_headers = [](nghttp3_conn *http, std::int64_t id, void *user, void *) {
        auto *self = static_cast<Http3Session *>(user);
        auto &stream = self->streams_[id];
        stream = std::make_unique<Stream>(*self, id);
        nghttp3_conn_set_stream_user_data(http, id, stream.get());
        return 0;
    };
    callbacks.recv_header = [](nghttp3_conn *, std::int64_t, std::int32_t token, nghttp3_rcbuf *,
                               nghttp3_rcbuf *value, std::uint8_t, void *, void *stream_user) {
        auto *stream = static_cast<Stream *>(stream_user);
        const nghttp3_vec text = nghttp3_rcbuf_get_buf(value);
        if (token == NGHTTP3_QPACK_TOKEN__METHOD)
            stream->method.assign(reinterpret_cast<const char *>(text.base), text.len);
        else if (token == NGHTTP3_QPACK_TOKEN__PATH)
            stream->path.assign(reinterpret_cast<const char *>(text.base), text.len);
        return 0;
    };
    callbacks.recv_data = [](nghttp3_conn *, std::int64_t id, const std::uint8_t *data,
                             std::size_t length, void *user, void *stream_user) {
        auto *self = static_cast<Http3Session *>(user);
        auto *stream = static_cast<Stream *>(stream_user);
        if (!stream->upload_hash)
            gnutls_hash_init(&stream->upload_hash, GNUTLS_DIG_SHA256);
        gnutls_hash(stream->upload_hash, data, length);
        stream->received += length;
        self->stats_.body_bytes_received += length;
        self->consume(id, length);
        return 0;
    };
    callbacks.deferred_consume = [](nghttp3_conn *, std::int64_t id, std::size_t length, void *user,
                                    void *) {
        static_cast<Http3Session *>(user)->consume(id, length);
        return 0;
    };
    callbacks.end_stream = [](nghttp3_conn *, std::int64_t, void *user, void *stream_user) {
        return static_cast<Http3Session *>(user)->respond(*static_cast<Stream *>(stream_user));
    };
    callbacks.stream_close = [](nghttp3_conn *, std::int64_t id, std::uint64_t, void *user,
                                void *) {
        auto *self = static_cast<Http3Session *>(user);
        self->streams_.erase(id);
        if (ngtcp2_is_bidi_stream(id))
            ngtcp2_conn_extend_max_streams_bidi(self->conn_, 1);
        return 0;
    };
    callbacks.stop_sending = [](nghttp3_conn *, std::int64_t id, std::uint64_t error_code,
                                void *user, void *) {
        const auto *self = static_cast<Http3Session *>(user);
        return ngtcp2_conn_shutdown_stream_read(self->conn_, id, error_code) != 0
                   ? NGHTTP3_ERR_CALLBACK_FAILURE
                   : 0;
    };
    callbacks.reset_stream = [](nghttp3_conn *, std::int64_t id, std::uint64_t error_code,
                                void *user, void *) {
        const auto *self = static_cast<Http3Session *>(user);
        return ngtcp2_conn_shutdown_stream_write(self->conn_, id, error_code) != 0
                   ? NGHTTP3_ERR_CALLBACK_FAILURE
                   : 0;
    };
    return callbacks;
}

std::unique_ptr<Http3Session> Http3Session::make(ngtcp2_conn *conn, ContentSource &content,
                                                 Stats &stats) {
    if (ngtcp2_conn_get_max_local_streams_uni(conn) < 3)
        return nullptr;
    std::unique_ptr<Http3Session> session(new Http3Session(conn, content, stats));
    const nghttp3_callbacks callbacks = make_callbacks();
    nghttp3_settings settings;
    nghttp3_settings_default(&settings);
    settings.max_field_section_size = 64 * 1024;
    settings.qpack_max_dtable_capacity = 4096;
    settings.qpack_blocked_streams = 100;
    if (nghttp3_conn_server_new(&session->http_, &callbacks, &settings, nghttp3_mem_default(),
                                session.get()) != 0 ||
        !session->open_streams())
        return nullptr;
    return session;
}

bool Http3Session::open_streams() {
    nghttp3_conn_set_max_client_streams_bidi(
        http_, ngtcp2_conn_get_local_transport_params(conn_)->initial_max_streams_bidi);
    std::int64_t control = 0;
    std::int64_t encoder = 0;
    std::int64_t decoder = 0;
    return ngtcp2_conn_open_uni_stream(conn_, &control, nullptr) == 0 &&
           ngtcp2_conn_open_uni_stream(conn_, &encoder, nullptr) == 0 &&
           ngtcp2_conn_open_uni_stream(conn_, &decoder, nullptr) == 0 &&
           nghttp3_conn_bind_control_stream(http_, control) == 0 &&
           nghttp3_conn_bind_qpack_streams(http_, encoder, decoder) == 0;
}

void Http3Session::consume(std::int64_t stream_id, std::size_t length) {
    ngtcp2_conn_extend_max_stream_offset(conn_, stream_id, length);
    ngtcp2_conn_extend_max_offset(conn_, length);
}

// The whole request is there.
int Http3Session::respond(Stream &stream) {
    ++stats_.requests;
    if (stream.method == "GET" || stream.method == "HEAD")
        return submit(stream, content_.get(stream.path), stream.method == "GET");

    Response response;
    if (stream.method == "POST" || stream.method == "PUT") {
        if (!stream.upload_hash)
            gnutls_hash_init(&stream.upload_hash, GNUTLS_DIG_SHA256);
        std::array<std::uint8_t, 32> digest{};
        gnutls_hash_output(stream.upload_hash, digest.data());
        std::string text = std::to_string(stream.received) + " bytes, SHA-256 ";
        for (const std::uint8_t byte : digest) {
            static constexpr std::string_view kHex = "0123456789abcdef";
            text += kHex[byte >> 4];
            text += kHex[byte & 15];
        }
        response.body = make_text_body(text + '\n');
    } else {
        response.status = 501;
        response.body = make_text_body("Not implemented\n");
    }
    return submit(stream, std::move(response), true);
}

int Http3Session::submit(Stream &stream, Response response, bool with_body) {
    ++stats_.responses[response.status];
    const std::string status = std::to_string(response.status);
    const std::string length = std::to_string(response.body ? response.body->bytes().size() : 0);
    const std::array headers = {
        make_header(":status", status),
        make_header("server", "udp-quic-offload example"),
        make_header("content-type", response.content_type),
        make_header("content-length", length),
    };
    nghttp3_data_reader reader{};
    reader.read_data = [](nghttp3_conn *, std::int64_t, nghttp3_vec *vectors, std::size_t count,
                          std::uint32_t *flags, void *, void *stream_user) -> nghttp3_ssize {
        auto *self = static_cast<Stream *>(stream_user);
        if (!self || !self->body || count == 0)
            return NGHTTP3_ERR_CALLBACK_FAILURE;
        const auto rest = self->body->bytes().subspan(self->sent);
        const auto chunk = rest.first(std::min(rest.size(), kChunkSize));
        if (!self->body->prepare(self->sent, chunk.size())) {
            // The promised length cannot be kept: the client gets a RESET_STREAM.
            ngtcp2_conn_shutdown_stream_write(self->session.conn_, self->id,
                                              NGHTTP3_H3_INTERNAL_ERROR);
            return NGHTTP3_ERR_WOULDBLOCK;
        }
        self->sent += chunk.size();
        self->session.stats_.body_bytes_sent += chunk.size();
        if (chunk.size() == rest.size())
            *flags |= NGHTTP3_DATA_FLAG_EOF;
        if (chunk.empty())
            return 0;
        vectors[0] = {const_cast<std::uint8_t *>(chunk.data()),
                      chunk.size()}; // NOLINT: not written
        return 1;
    };
    stream.body = std::move(response.body);
    return nghttp3_conn_submit_response(http_, stream.id, headers.data(), headers.size(),
                                        with_body && stream.body ? &reader : nullptr);
}

int Http3Session::next(Pending &pending) {
    const bool used_up = pending_.data.empty() && (!pending_.fin || taken_any_);
    if (pending_.stream_id < 0 || used_up) {
        if (const int rc = settle(); rc != 0)
            return rc;
        int fin = 0;
        const auto count = nghttp3_conn_writev_stream(http_, &pending_.stream_id, &fin,
                                                      vectors_.data(), vectors_.size());
        if (count < 0)
            return static_cast<int>(count);
        pending_.fin = fin != 0;
        pending_.data = std::span(vectors_).first(static_cast<std::size_t>(count));
    }
    pending = pending_;
    return 0;
}

void Http3Session::on_written(std::size_t length) {
    taken_ += length;
    taken_any_ = true;
    while (length > 0) {
        nghttp3_vec &first =
            vectors_[static_cast<std::size_t>(pending_.data.data() - vectors_.data())];
        const std::size_t n = std::min(length, first.len);
        first.base += n;
        first.len -= n;
        length -= n;
        if (first.len == 0)
            pending_.data = pending_.data.subspan(1);
    }
}

int Http3Session::settle() {
    const std::int64_t stream_id = std::exchange(pending_, {}).stream_id;
    const std::size_t taken = std::exchange(taken_, 0);
    return std::exchange(taken_any_, false) ? nghttp3_conn_add_write_offset(http_, stream_id, taken)
                                            : 0;
}

int Http3Session::on_received(std::int64_t stream_id, std::span<const std::uint8_t> data,
                              bool fin) {
    const auto consumed = nghttp3_conn_read_stream(http_, stream_id, data.data(), data.size(), fin);
    if (consumed < 0)
        return static_cast<int>(consumed);
    // What is not in it, body data, recv_data has given back.
    consume(stream_id, static_cast<std::size_t>(consumed));
    return 0;
}

int Http3Session::on_acked(std::int64_t stream_id, std::uint64_t length) {
    return nghttp3_conn_add_ack_offset(http_, stream_id, length);
}

int Http3Session::on_closed(std::int64_t stream_id, std::uint64_t error_code) {
    const int rc = nghttp3_conn_close_stream(http_, stream_id, error_code);
    // A stream of unknown type: the client may open another.
    if (!ngtcp2_is_bidi_stream(stream_id) && !ngtcp2_conn_is_local_stream(conn_, stream_id))
        ngtcp2_conn_extend_max_streams_uni(conn_, 1);
    if (rc != NGHTTP3_ERR_STREAM_NOT_FOUND)
        return rc;
    if (ngtcp2_is_bidi_stream(stream_id))
        ngtcp2_conn_extend_max_streams_bidi(conn_, 1);
    return 0;
}

int Http3Session::on_read_shut(std::int64_t stream_id) {
    return nghttp3_conn_shutdown_stream_read(http_, stream_id);
}

int Http3Session::on_unblocked(std::int64_t stream_id) {
    return nghttp3_conn_unblock_stream(http_, stream_id);
}

void Http3Session::on_blocked(std::int64_t stream_id) {
    nghttp3_conn_block_stream(http_, stream_id);
}

void Http3Session::on_write_shut(std::int64_t stream_id) {
    nghttp3_conn_shutdown_stream_write(http_, stream_id);
}

void Http3Session::on_max_streams(std::uint64_t max_streams) {
    nghttp3_conn_set_max_client_streams_bidi(http_, max_streams);
}

} // namespace quic_server
