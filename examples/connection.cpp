// SPDX-License-Identifier: MIT
#include "connection.hpp"

#include <gnutls/crypto.h>
#include <ngtcp2/ngtcp2_crypto.h>

#include <algorithm>
#include <array>
#include <cstdarg>
#include <cstdio>
#include <cstring>
#include <ctime>
#include <utility>

namespace quic_server {

namespace {

constexpr std::uint64_t kMebi = 1024 * 1024;

ngtcp2_path make_path(const Address &local, const Address &remote, Endpoint *endpoint) {
    // ngtcp2 copies the addresses; its structure just lacks the const.
    return {{const_cast<sockaddr *>(&local.any), local.length},   // NOLINT
            {const_cast<sockaddr *>(&remote.any), remote.length}, // NOLINT
            endpoint};
}

void log_to_stderr(void *, const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    std::vfprintf(stderr, format, arguments);
    va_end(arguments);
    std::fputc('\n', stderr);
}

Connection &connection_of(void *user_data) { return *static_cast<Connection *>(user_data); }

} // namespace

std::uint64_t now_ns() {
    timespec now{};
    clock_gettime(CLOCK_MONOTONIC, &now);
    return static_cast<std::uint64_t>(now.tv_sec) * NGTCP2_SECONDS +
           static_cast<std::uint64_t>(now.tv_nsec);
}

Connection::Connection(const Services &services, Endpoint &endpoint)
    : services_(services), protection_(endpoint.fd(), services.policy, services.stats) {
    ngtcp2_connection_close_error_default(&close_error_);
}

Connection::~Connection() {
    http_.reset();
    ngtcp2_conn_del(std::exchange(conn_, nullptr));
    // Packets of this connection may still be in a queue of the kernel.
    for (auto &key : protection_.forget_all_keys())
        services_.host.retire_key(std::move(key));
}

ngtcp2_conn *Connection::conn_of_ref(ngtcp2_crypto_conn_ref *ref) {
    return static_cast<Connection *>(ref->user_data)->conn_;
}

std::unique_ptr<Connection> Connection::accept(const Services &services, Endpoint &endpoint,
                                               const Address &local, const Address &remote,
                                               const ngtcp2_pkt_hd &initial,
                                               const ngtcp2_cid *original_dcid) {
    std::unique_ptr<Connection> connection(new Connection(services, endpoint));
    if (!connection->init(endpoint, local, remote, initial, original_dcid))
        return nullptr;
    return connection;
}

bool Connection::init(Endpoint &endpoint, const Address &local, const Address &remote,
                      const ngtcp2_pkt_hd &initial, const ngtcp2_cid *original_dcid) {
    const auto &options = services_.options;
    client_dcid_ = initial.dcid;

    ngtcp2_settings settings;
    ngtcp2_settings_default(&settings);
    settings.initial_ts = now_ns();
    settings.token = initial.token;
    // A client that takes longer than the idle timeout is gone anyway.
    settings.handshake_timeout = options.idle_timeout_ns;
    settings.max_window = 24 * kMebi;
    settings.max_stream_window = 16 * kMebi;
    settings.no_pmtud = !options.path_mtu_discovery;
    if (options.log)
        settings.log_printf = log_to_stderr;

    ngtcp2_transport_params params;
    ngtcp2_transport_params_default(&params);
    params.initial_max_stream_data_bidi_remote = kMebi;
    params.initial_max_stream_data_uni = 256 * 1024;
    params.initial_max_data = 4 * kMebi;
    params.initial_max_streams_bidi = 100;
    // HTTP/3 needs three; some clients try whether unknown stream types are put up with.
    params.initial_max_streams_uni = 16;
    params.max_idle_timeout = options.idle_timeout_ns;
    params.max_udp_payload_size = Endpoint::kMaxReceive;
    params.active_connection_id_limit = 7;
    if (original_dcid) {
        params.original_dcid = *original_dcid;
        params.retry_scid = initial.dcid;
        params.retry_scid_present = 1;
    } else {
        params.original_dcid = initial.dcid;
    }

    ngtcp2_cid scid{};
    scid.datalen = options.cid_length;
    if (gnutls_rnd(GNUTLS_RND_RANDOM, scid.data, scid.datalen) != 0)
        return false;
    // Without connection IDs a new address cannot be told from a new client.
    params.disable_active_migration = scid.datalen == 0;
    if (scid.datalen > 0) {
        params.stateless_reset_token_present = 1;
        if (!services_.host.make_reset_token(scid, params.stateless_reset_token))
            return false;
    }

    const ngtcp2_path path = make_path(local, remote, &endpoint);
    const ngtcp2_callbacks callbacks = make_callbacks();
    if (const int rc = ngtcp2_conn_server_new(&conn_, &initial.scid, &scid, &path, initial.version,
                                              &callbacks, &settings, &params, nullptr, this);
        rc != 0) {
        std::fprintf(stderr, "%s: %s\n", remote.to_string().c_str(), ngtcp2_strerror(rc));
        return false;
    }

    conn_ref_ = {conn_of_ref, this};
    tls_ = TlsSession::make(services_.tls, conn_ref_,
                            [this](offload::Cipher cipher, std::span<const std::uint8_t> secret) {
                                ++services_.stats.ciphers[cipher_name(cipher)];
                                return protection_.install_first_key(conn_, cipher, secret);
                            });
    if (!tls_)
        return false;
    ngtcp2_conn_set_tls_native_handle(conn_, tls_->native());
    return true;
}

ngtcp2_callbacks Connection::make_callbacks() {
    ngtcp2_callbacks callbacks{};
    callbacks.recv_client_initial = ngtcp2_crypto_recv_client_initial_cb;
    callbacks.recv_crypto_data = ngtcp2_crypto_recv_crypto_data_cb;
    callbacks.version_negotiation = ngtcp2_crypto_version_negotiation_cb;
    callbacks.get_path_challenge_data = ngtcp2_crypto_get_path_challenge_data_cb;
    callbacks.delete_crypto_cipher_ctx = ngtcp2_crypto_delete_crypto_cipher_ctx_cb;
    callbacks.decrypt = ngtcp2_crypto_decrypt_cb;

    // The offload: sending only.
    callbacks.encrypt = PacketProtection::encrypt;
    callbacks.hp_mask = PacketProtection::hp_mask;
    callbacks.update_key = [](ngtcp2_conn *conn, std::uint8_t *rx_secret, std::uint8_t *tx_secret,
                              ngtcp2_crypto_aead_ctx *rx_ctx, std::uint8_t *rx_iv,
                              ngtcp2_crypto_aead_ctx *tx_ctx, std::uint8_t *tx_iv,
                              const std::uint8_t *current_rx, const std::uint8_t *current_tx,
                              std::size_t length, void *user) {
        return connection_of(user).protection_.prepare_next_key(conn, rx_secret, tx_secret, rx_ctx,
                                                                rx_iv, tx_ctx, tx_iv, current_rx,
                                                                current_tx, length)
                   ? 0
                   : NGTCP2_ERR_CALLBACK_FAILURE;
    };
    callbacks.delete_crypto_aead_ctx = [](ngtcp2_conn *conn, ngtcp2_crypto_aead_ctx *ctx,
                                          void *user) {
        auto &self = connection_of(user);
        if (auto key = self.protection_.forget_key(ctx)) {
            // Unless the connection ends, a sending key goes because the next one is in use.
            if (self.conn_ && !self.is_closing() && !self.update_initiated_)
                ++self.services_.stats.key_updates_by_peer;
            self.services_.host.retire_key(std::move(key));
        }
        ngtcp2_crypto_delete_crypto_aead_ctx_cb(conn, ctx, user);
    };

    callbacks.handshake_completed = [](ngtcp2_conn *, void *user) {
        return connection_of(user).on_handshake_completed() ? 0 : NGTCP2_ERR_CALLBACK_FAILURE;
    };
    callbacks.recv_tx_key = [](ngtcp2_conn *conn, ngtcp2_crypto_level level, void *user) {
        auto &self = connection_of(user);
        if (level != NGTCP2_CRYPTO_LEVEL_APPLICATION || self.http_)
            return 0;
        self.http_ = Http3Session::make(conn, self.services_.content, self.services_.stats);
        return self.http_ ? 0 : NGTCP2_ERR_CALLBACK_FAILURE;
    };
    callbacks.rand = [](std::uint8_t *dest, std::size_t length, const ngtcp2_rand_ctx *) {
        // Padding and the like; a failure leaves what was there.
        static_cast<void>(gnutls_rnd(GNUTLS_RND_NONCE, dest, length));
    };
    callbacks.get_new_connection_id = [](ngtcp2_conn *, ngtcp2_cid *cid, std::uint8_t *token,
                                         std::size_t length, void *user) {
        return connection_of(user).new_cid(cid, token, length);
    };
    callbacks.remove_connection_id = [](ngtcp2_conn *, const ngtcp2_cid *cid, void *user) {
        connection_of(user).services_.host.remove_cid(*cid);
        return 0;
    };
    callbacks.path_validation = [](ngtcp2_conn *, std::uint32_t, const ngtcp2_path *,
                                   ngtcp2_path_validation_result result, void *user) {
        if (result == NGTCP2_PATH_VALIDATION_RESULT_SUCCESS)
            ++connection_of(user).services_.stats.path_changes;
        return 0;
    };

    callbacks.recv_stream_data = [](ngtcp2_conn *, std::uint32_t flags, std::int64_t id,
                                    std::uint64_t, const std::uint8_t *data, std::size_t length,
                                    void *user, void *) {
        auto &self = connection_of(user);
        return self.http_ ? self.http(self.http_->on_received(id, {data, length},
                                                              flags & NGTCP2_STREAM_DATA_FLAG_FIN))
                          : 0;
    };
    callbacks.acked_stream_data_offset = [](ngtcp2_conn *, std::int64_t id, std::uint64_t,
                                            std::uint64_t length, void *user, void *) {
        auto &self = connection_of(user);
        return self.http_ ? self.http(self.http_->on_acked(id, length)) : 0;
    };
    callbacks.stream_close = [](ngtcp2_conn *, std::uint32_t flags, std::int64_t id,
                                std::uint64_t error_code, void *user, void *) {
        auto &self = connection_of(user);
        if (!(flags & NGTCP2_STREAM_CLOSE_FLAG_APP_ERROR_CODE_SET))
            error_code = NGHTTP3_H3_NO_ERROR;
        return self.http_ ? self.http(self.http_->on_closed(id, error_code)) : 0;
    };
    callbacks.stream_reset = [](ngtcp2_conn *, std::int64_t id, std::uint64_t, std::uint64_t,
                                void *user, void *) {
        auto &self = connection_of(user);
        return self.http_ ? self.http(self.http_->on_read_shut(id)) : 0;
    };
    callbacks.stream_stop_sending = [](ngtcp2_conn *, std::int64_t id, std::uint64_t, void *user,
                                       void *) {
        auto &self = connection_of(user);
        return self.http_ ? self.http(self.http_->on_read_shut(id)) : 0;
    };
    callbacks.extend_max_remote_streams_bidi = [](ngtcp2_conn *, std::uint64_t max_streams,
                                                  void *user) {
        if (auto &self = connection_of(user); self.http_)
            self.http_->on_max_streams(max_streams);
        return 0;
    };
    callbacks.extend_max_stream_data = [](ngtcp2_conn *, std::int64_t id, std::uint64_t, void *user,
                                          void *) {
        auto &self = connection_of(user);
        return self.http_ ? self.http(self.http_->on_unblocked(id)) : 0;
    };
    return callbacks;
}

int Connection::http(int rc) {
    if (rc == 0)
        return 0;
    ngtcp2_connection_close_error_set_application_error(
        &close_error_, nghttp3_err_infer_quic_app_error_code(rc), nullptr, 0);
    return NGTCP2_ERR_CALLBACK_FAILURE;
}

bool Connection::on_handshake_completed() {
    ++services_.stats.handshakes;
    if (!tls_->send_ticket())
        return false;
    Address remote(ngtcp2_conn_get_path(conn_)->remote.addr,
                   ngtcp2_conn_get_path(conn_)->remote.addrlen);
    const auto token = services_.host.make_address_token(remote);
    return token.empty() || ngtcp2_conn_submit_new_token(conn_, token.data(), token.size()) == 0;
}

int Connection::new_cid(ngtcp2_cid *cid, std::uint8_t *token, std::size_t length) {
    cid->datalen = length;
    if (gnutls_rnd(GNUTLS_RND_RANDOM, cid->data, length) != 0 ||
        !services_.host.make_reset_token(*cid, token))
        return NGTCP2_ERR_CALLBACK_FAILURE;
    services_.host.add_cid(*cid, *this);
    return 0;
}

std::vector<ngtcp2_cid> Connection::cids() const {
    std::vector<ngtcp2_cid> cids(ngtcp2_conn_get_num_scid(conn_));
    ngtcp2_conn_get_scid(conn_, cids.data());
    cids.push_back(client_dcid_);
    return cids;
}

std::uint64_t Connection::next_timer_ns() const {
    return is_closing() ? close_deadline_ns_ : ngtcp2_conn_get_expiry(conn_);
}

Connection::Verdict Connection::receive(Endpoint &endpoint, const ReceivedDatagram &datagram) {
    if (is_closing()) {
        // Once more for each datagram of a peer that has not heard of the end.
        send_close_packet();
        return Verdict::kAlive;
    }
    const ngtcp2_path path = make_path(datagram.local, datagram.remote, &endpoint);
    const ngtcp2_pkt_info info{datagram.ecn};
    const int rc = ngtcp2_conn_read_pkt(conn_, &path, &info, datagram.bytes.data(),
                                        datagram.bytes.size(), now_ns());
    if (rc == 0) {
        wants_write_ = true;
        return Verdict::kAlive;
    }
    return fail(rc);
}

Connection::Verdict Connection::handle_timer() {
    if (is_closing())
        return Verdict::kGone;
    const int rc = ngtcp2_conn_handle_expiry(conn_, now_ns());
    if (rc != 0)
        return fail(rc);
    wants_write_ = true;
    return Verdict::kAlive;
}

// What an error of ngtcp2 means for the connection.
Connection::Verdict Connection::fail(int error) {
    switch (error) {
    case NGTCP2_ERR_RETRY:
        return Verdict::kRetry;
    case NGTCP2_ERR_DROP_CONN:
    case NGTCP2_ERR_IDLE_CLOSE:
        return Verdict::kGone;
    case NGTCP2_ERR_DRAINING:
        // The peer has closed: keep still until late packets have died out (RFC 9000 10.2.2).
        close_deadline_ns_ = now_ns() + 3 * ngtcp2_conn_get_pto(conn_);
        waiting_.clear();
        return Verdict::kAlive;
    default:
        break;
    }
    ++services_.stats.connections_failed;
    if (services_.policy.verbose)
        std::fprintf(stderr, "connection error: %s\n", ngtcp2_strerror(error));
    if (close_error_.error_code == 0) {
        if (error == NGTCP2_ERR_CRYPTO)
            ngtcp2_connection_close_error_set_transport_error_tls_alert(
                &close_error_, ngtcp2_conn_get_tls_alert(conn_), nullptr, 0);
        else
            ngtcp2_connection_close_error_set_transport_error_liberr(&close_error_, error, nullptr,
                                                                     0);
    }
    return start_closing();
}

void Connection::close() {
    if (is_closing())
        return;
    ngtcp2_connection_close_error_set_application_error(&close_error_, NGHTTP3_H3_NO_ERROR, nullptr,
                                                        0);
    static_cast<void>(start_closing());
}

Connection::Verdict Connection::start_closing() {
    std::array<std::uint8_t, NGTCP2_MAX_UDP_PAYLOAD_SIZE> buffer{};
    ngtcp2_path_storage path;
    ngtcp2_path_storage_zero(&path);
    ngtcp2_pkt_info info{};
    ngtcp2_ssize length = 0;
    WrittenDatagram written;
    {
        // These bytes are sent again and again as they are, so they are protected once, here.
        WriteScope scope(protection_, buffer.data(), /*force_user_space=*/true);
        length = ngtcp2_conn_write_connection_close(conn_, &path.path, &info, buffer.data(),
                                                    buffer.size(), &close_error_, now_ns());
        written = scope.take();
    }
    waiting_.clear();
    if (length <= 0)
        return Verdict::kGone;
    close_packet_.assign(buffer.begin(), buffer.begin() + length);
    close_deadline_ns_ = now_ns() + 3 * ngtcp2_conn_get_pto(conn_);
    send_close_packet();
    return Verdict::kAlive;
}

void Connection::send_close_packet() {
    if (close_packet_.empty())
        return;
    const ngtcp2_path *path = ngtcp2_conn_get_path(conn_);
    if (offload::is_short_header(close_packet_[0])) {
        ++services_.stats.user.packets;
        services_.stats.user.bytes += close_packet_.size();
        ++services_.stats.user.sends;
    } else {
        ++services_.stats.long_header_datagrams;
    }
    static_cast<Endpoint *>(path->user_data)
        ->send_raw(Address(path->local.addr, path->local.addrlen),
                   Address(path->remote.addr, path->remote.addrlen), 0, close_packet_);
}

ngtcp2_ssize Connection::write_datagram(std::span<std::uint8_t> space, ngtcp2_path &path,
                                        Datagram &datagram, std::uint64_t now) {
    ngtcp2_pkt_info info{};
    const std::size_t room = std::min(space.size(), ngtcp2_conn_get_max_tx_udp_payload_size(conn_));

    for (;;) {
        Http3Session::Pending pending;
        if (http_ && ngtcp2_conn_get_max_data_left(conn_) > 0)
            if (const int rc = http_->next(pending); rc != 0)
                return http(rc);

        std::uint32_t flags = NGTCP2_WRITE_STREAM_FLAG_MORE;
        if (pending.fin)
            flags |= NGTCP2_WRITE_STREAM_FLAG_FIN;
        ngtcp2_ssize taken = -1;
        WriteScope scope(protection_, space.data());
        const ngtcp2_ssize length = ngtcp2_conn_writev_stream(
            conn_, &path, &info, space.data(), room, &taken, flags, pending.stream_id,
            reinterpret_cast<const ngtcp2_vec *>(pending.data.data()), pending.data.size(), now);

        if (length == NGTCP2_ERR_STREAM_DATA_BLOCKED || length == NGTCP2_ERR_STREAM_SHUT_WR ||
            length == NGTCP2_ERR_STREAM_NOT_FOUND) {
            if (const int rc = http_->settle(); rc != 0)
                return http(rc);
            if (length == NGTCP2_ERR_STREAM_DATA_BLOCKED)
                http_->on_blocked(pending.stream_id);
            else
                http_->on_write_shut(pending.stream_id);
            continue;
        }
        if (length < 0 && length != NGTCP2_ERR_WRITE_MORE)
            return length;
        if (taken >= 0)
            http_->on_written(static_cast<std::size_t>(taken));
        if (length == NGTCP2_ERR_WRITE_MORE)
            continue;
        if (length == 0)
            return 0;

        WrittenDatagram written = scope.take();
        datagram.length = static_cast<std::size_t>(length);
        datagram.path = path;
        datagram.ecn = static_cast<std::uint8_t>(info.ecn);
        datagram.plaintext = std::move(written.plaintext);
        datagram.batchable = datagram.length <= ngtcp2_conn_get_path_max_tx_udp_payload_size(conn_);
        if (written.has_long_header) {
            ++services_.stats.long_header_datagrams;
            services_.stats.coalesced += written.one_rtt_packets;
        } else if (!datagram.plaintext) {
            services_.stats.user.packets += written.one_rtt_packets;
            services_.stats.user.bytes += datagram.length;
        }
        return length;
    }
}

bool Connection::send_waiting() {
    while (!waiting_.empty()) {
        if (!waiting_.front().endpoint()->send(waiting_.front(), protection_,
                                               services_.policy.key_form))
            return false;
        waiting_.pop_front();
    }
    return true;
}

Connection::Verdict Connection::write() {
    if (is_closing() || !send_waiting())
        return Verdict::kAlive;
    wants_write_ = false;

    const std::uint64_t now = now_ns();
    maybe_update_key(now);
    const std::size_t max_length = ngtcp2_conn_get_max_tx_udp_payload_size(conn_);
    const std::size_t quantum = ngtcp2_conn_get_send_quantum(conn_);
    auto buffer = services_.buffers.get();
    const auto space = buffer->bytes();
    std::size_t used = 0;
    ngtcp2_ssize length = 0;
    ngtcp2_path_storage path;
    ngtcp2_path_storage_zero(&path);
    // Behind the datagrams written here there are none waiting.
    while (used + max_length <= space.size() && used < quantum) {
        Datagram datagram;
        datagram.offset = used;
        length = write_datagram(space.subspan(used), path.path, datagram, now);
        if (length <= 0)
            break;
        used += static_cast<std::size_t>(length);
        if (waiting_.empty() || !waiting_.back().append(datagram))
            waiting_.emplace_back(buffer, datagram, services_.options.max_batch_packets);
    }
    if (http_ && length >= 0)
        length = http(http_->settle()) == 0 ? length : NGTCP2_ERR_CALLBACK_FAILURE;
    wants_write_ = length > 0;
    send_waiting();
    if (length < 0)
        return fail(static_cast<int>(length));
    // Paces the next burst.
    ngtcp2_conn_update_pkt_tx_time(conn_, now);
    return Verdict::kAlive;
}

void Connection::maybe_update_key(std::uint64_t now) {
    const std::uint64_t every = services_.options.key_update_packets;
    if (every == 0 || protection_.packets_under_key() < every ||
        !ngtcp2_conn_get_handshake_completed(conn_))
        return;
    // Refused while the previous update is young or not confirmed (RFC 9001 section 6.5): tried
    // again at the next write.
    update_initiated_ = true;
    if (ngtcp2_conn_initiate_key_update(conn_, now) == 0)
        ++services_.stats.key_updates_by_us;
    update_initiated_ = false;
}

} // namespace quic_server
