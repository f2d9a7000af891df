// SPDX-License-Identifier: MIT
#include "server.hpp"

#include <gnutls/crypto.h>
#include <ngtcp2/ngtcp2_crypto.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstring>
#include <poll.h>
#include <utility>

namespace quic_server {

namespace {

// Sending keys outlive their last packet by this much: longer than packets wait in a qdisc.
constexpr std::uint64_t kKeyLinger = 1 * NGTCP2_SECONDS;
constexpr std::uint64_t kRetryTokenLifetime = 10 * NGTCP2_SECONDS;
constexpr std::uint64_t kAddressTokenLifetime = 3600 * NGTCP2_SECONDS;
// How long the end of the program waits for connections to have been closed properly.
constexpr std::uint64_t kShutdownPatience = 200 * NGTCP2_MILLISECONDS;
constexpr std::size_t kRetryCidLength = 16;

std::string cid_key(const std::uint8_t *data, std::size_t length) {
    return {reinterpret_cast<const char *>(data), length};
}

// Milliseconds are too coarse for pacing, so ppoll().
timespec duration(std::uint64_t ns) {
    return {static_cast<time_t>(ns / NGTCP2_SECONDS), static_cast<long>(ns % NGTCP2_SECONDS)};
}

} // namespace

Server::Server(const ServerOptions &options, const TlsContext &tls, ContentSource &content,
               Stats &stats)
    : options_(options), connection_options_(options.connection), tls_(tls), content_(content),
      stats_(stats), buffers_(std::make_shared<TxBufferPool>()) {}

Server::~Server() {
    // Connections give their keys back, and the SAs have to go before their sockets.
    by_cid_.clear();
    by_address_.clear();
    connections_.clear();
    bury_keys(UINT64_MAX);
    explicit_bzero(secret_.data(), secret_.size());
}

std::unique_ptr<Server> Server::make(const ServerOptions &options, const TlsContext &tls,
                                     ContentSource &content, Stats &stats) {
    std::unique_ptr<Server> server(new Server(options, tls, content, stats));
    if (!server->open() || !server->choose_path())
        return nullptr;
    return server;
}

bool Server::open() {
    if (gnutls_rnd(GNUTLS_RND_RANDOM, secret_.data(), secret_.size()) != 0)
        return false;
    for (const Address &address : options_.listen) {
        auto endpoint = Endpoint::open(address, options_.endpoint, stats_);
        if (!endpoint)
            return false;
        endpoints_.push_back(std::move(endpoint));
    }
    return !endpoints_.empty();
}

// The fallback rule, part one: a kernel without UDP_CRYPTO means user space, silently.
bool Server::choose_path() {
    policy_.path = options_.path;
    policy_.key_form = options_.key_form;
    policy_.verbose = options_.verbose;
    if (options_.path == PathChoice::kUser) {
        why_user_ = "as asked for";
        return true;
    }
    const auto capabilities = offload::probe(endpoints_.front()->fd());
    if (!capabilities) {
        why_user_ = std::string("this kernel has no UDP_CRYPTO_STATE: ") +
                    std::strerror(capabilities.error());
    } else if (!capabilities->has_tag_room()) {
        why_user_ = "this kernel has no UDP_QUIC_CRYPTO_F_TAG_ROOM";
    } else {
        policy_.capabilities = *capabilities;
        connection_options_.max_batch_packets =
            std::min(connection_options_.max_batch_packets,
                     std::max(std::size_t{1}, capabilities->max_segments));
        // A connection that migrates from IPv4 to IPv6 changes sockets, not keys.
        if (endpoints_.size() > 1 && capabilities->sa_flags & UDP_CRYPTO_SA_F_SAME_UID)
            policy_.sa_flags = UDP_CRYPTO_SA_F_SAME_UID;
        return true;
    }
    if (options_.path == PathChoice::kKernel) {
        std::fprintf(stderr, "--path kernel: %s\n", why_user_.c_str());
        return false;
    }
    return true;
}

bool Server::uses_kernel() const { return policy_.capabilities.has_value(); }

std::string Server::path_description() const {
    if (!uses_kernel())
        return "user space (" + why_user_ + ")";
    return options_.key_form == KeyForm::kInline ? "kernel, keys inline" : "kernel, by SA index";
}

void Server::add_cid(const ngtcp2_cid &cid, Connection &connection) {
    if (cid.datalen > 0)
        by_cid_[cid_key(cid.data, cid.datalen)] = &connection;
}

void Server::remove_cid(const ngtcp2_cid &cid) { by_cid_.erase(cid_key(cid.data, cid.datalen)); }

bool Server::make_reset_token(const ngtcp2_cid &cid, std::uint8_t *token) {
    return ngtcp2_crypto_generate_stateless_reset_token(token, secret_.data(), secret_.size(),
                                                        &cid) == 0;
}

void Server::retire_key(std::shared_ptr<TxKey> key) {
    if (key)
        retired_keys_.emplace_back(now_ns() + kKeyLinger, std::move(key));
}

void Server::bury_keys(std::uint64_t now) {
    while (!retired_keys_.empty() && retired_keys_.front().first <= now) {
        stats_.sas_deleted += retired_keys_.front().second->has_sa();
        retired_keys_.pop_front();
    }
}

std::vector<std::uint8_t> Server::make_address_token(const Address &remote) {
    std::vector<std::uint8_t> token(NGTCP2_CRYPTO_MAX_REGULAR_TOKENLEN);
    const auto length = ngtcp2_crypto_generate_regular_token(
        token.data(), secret_.data(), secret_.size(), &remote.any, remote.length, now_ns());
    token.resize(length > 0 ? static_cast<std::size_t>(length) : 0);
    return token;
}

std::uint64_t Server::next_wakeup_ns() const {
    if (!writers_.empty())
        return 0;
    std::uint64_t next = UINT64_MAX;
    if (!timers_.empty())
        next = timers_.begin()->first;
    if (!retired_keys_.empty())
        next = std::min(next, retired_keys_.front().first);
    return next;
}

void Server::run() {
    const std::uint64_t end =
        options_.max_runtime_ns ? now_ns() + options_.max_runtime_ns : UINT64_MAX;
    std::uint64_t patience_end = UINT64_MAX;
    bool stopping = false;
    for (;;) {
        const std::uint64_t now = now_ns();
        const bool enough = options_.exit_after_connections > 0 &&
                            stats_.connections_closed >= options_.exit_after_connections &&
                            connections_.empty();
        if (!stopping && (stop_ || now >= end || enough)) {
            stopping = true;
            patience_end = now + kShutdownPatience;
            for (const auto &[connection, owned] : connections_) {
                connection->close();
                after(*connection, Connection::Verdict::kAlive);
            }
        }
        if (stopping && (connections_.empty() || now >= patience_end))
            return;
        timers_.insert({std::min(end, patience_end), nullptr}); // wakes wait() at the latest
        wait();
        timers_.erase({std::min(end, patience_end), nullptr});
        run_timers();
        write_all();
        bury_keys(now_ns());
    }
}

void Server::wait() {
    std::vector<pollfd> descriptors;
    descriptors.reserve(endpoints_.size());
    for (const auto &endpoint : endpoints_) {
        const bool blocked =
            std::any_of(blocked_.begin(), blocked_.end(), [&](const Connection *connection) {
                return connection->blocked_on() == endpoint.get();
            });
        descriptors.push_back(
            {endpoint->fd(), static_cast<short>(blocked ? POLLIN | POLLOUT : POLLIN), 0});
    }

    const std::uint64_t next = next_wakeup_ns();
    const std::uint64_t now = now_ns();
    const timespec timeout = duration(next > now ? std::min(next - now, 3600 * NGTCP2_SECONDS) : 0);
    // Signals are blocked outside of ppoll(), so that none is missed.
    sigset_t none;
    sigemptyset(&none);
    if (ppoll(descriptors.data(), descriptors.size(), &timeout, &none) <= 0)
        return;

    for (std::size_t i = 0; i < descriptors.size(); ++i) {
        Endpoint &endpoint = *endpoints_[i];
        const short events = descriptors[i].revents;
        if (events & POLLERR)
            endpoint.read_error_queue();
        if (events & POLLIN)
            endpoint.receive(
                [&](const ReceivedDatagram &datagram) { on_datagram(endpoint, datagram); });
        if (events & POLLOUT)
            for (Connection *connection : blocked_)
                if (connection->blocked_on() == &endpoint)
                    writers_.insert(connection);
    }
}

void Server::run_timers() {
    const std::uint64_t now = now_ns();
    while (!timers_.empty() && timers_.begin()->first <= now) {
        Connection *connection = timers_.begin()->second;
        timers_.erase(timers_.begin());
        if (!connection)
            continue;
        connection->queued_timer_ns = 0;
        after(*connection, connection->handle_timer());
    }
}

void Server::write_all() {
    const auto writers = std::exchange(writers_, {});
    for (Connection *connection : writers)
        after(*connection, connection->write());
}

// Brings the tables up to date after something happened to @connection.
void Server::after(Connection &connection, Connection::Verdict verdict) {
    if (verdict != Connection::Verdict::kAlive) {
        forget(connection);
        return;
    }
    if (connection.wants_write())
        writers_.insert(&connection);
    if (connection.blocked_on())
        blocked_.insert(&connection);
    else
        blocked_.erase(&connection);
    const std::uint64_t next = connection.next_timer_ns();
    if (next == connection.queued_timer_ns)
        return;
    timers_.erase({connection.queued_timer_ns, &connection});
    timers_.insert({next, &connection});
    connection.queued_timer_ns = next;
}

void Server::forget(Connection &connection) {
    for (const ngtcp2_cid &cid : connection.cids())
        remove_cid(cid);
    std::erase_if(by_address_, [&](const auto &entry) { return entry.second == &connection; });
    timers_.erase({connection.queued_timer_ns, &connection});
    writers_.erase(&connection);
    blocked_.erase(&connection);
    connections_.erase(&connection);
    ++stats_.connections_closed;
}

Connection *Server::find(const ngtcp2_version_cid &cids, const ReceivedDatagram &datagram) {
    if (const auto found = by_cid_.find(cid_key(cids.dcid, cids.dcidlen)); found != by_cid_.end())
        return found->second;
    // With connection IDs of length zero there are but the addresses.
    if (cids.dcidlen == 0 && options_.connection.cid_length == 0)
        if (const auto found = by_address_.find({datagram.local, datagram.remote});
            found != by_address_.end())
            return found->second;
    return nullptr;
}

void Server::on_datagram(Endpoint &endpoint, const ReceivedDatagram &datagram) {
    ngtcp2_version_cid cids{};
    switch (ngtcp2_pkt_decode_version_cid(&cids, datagram.bytes.data(), datagram.bytes.size(),
                                          options_.connection.cid_length)) {
    case 0:
        break;
    case NGTCP2_ERR_VERSION_NEGOTIATION:
        send_version_negotiation(endpoint, datagram, cids);
        return;
    default:
        ++stats_.datagrams_ignored;
        return;
    }
    Connection *connection = find(cids, datagram);
    if (!connection) {
        if (offload::is_short_header(datagram.bytes[0]))
            send_stateless_reset(endpoint, datagram, cids);
        else
            accept(endpoint, datagram);
        return;
    }
    after(*connection, connection->receive(endpoint, datagram));
}

void Server::accept(Endpoint &endpoint, const ReceivedDatagram &datagram) {
    ngtcp2_pkt_hd initial{};
    const int rc = ngtcp2_accept(&initial, datagram.bytes.data(), datagram.bytes.size());
    if (rc == NGTCP2_ERR_RETRY) { // 0-RTT before its Initial packet
        send_retry(endpoint, datagram, initial);
        return;
    }
    if (rc != 0) {
        ++stats_.datagrams_ignored;
        return;
    }

    // Without connection IDs the packets of a second connection between the same addresses could
    // not be told from those of the first. One that is over makes room.
    const auto same = by_address_.find({datagram.local, datagram.remote});
    if (same != by_address_.end() && same->second->is_closing())
        forget(*same->second);
    else if (same != by_address_.end() || connections_.size() >= options_.max_connections) {
        refuse(endpoint, datagram, initial, NGTCP2_CONNECTION_REFUSED);
        return;
    }

    ngtcp2_cid original_dcid{};
    bool retried = false;
    bool validated = false;
    const Address &remote = datagram.remote;
    if (initial.token.len > 0 && initial.token.base[0] == NGTCP2_CRYPTO_TOKEN_MAGIC_RETRY) {
        if (ngtcp2_crypto_verify_retry_token(&original_dcid, initial.token.base, initial.token.len,
                                             secret_.data(), secret_.size(), initial.version,
                                             &remote.any, remote.length, &initial.dcid,
                                             kRetryTokenLifetime, now_ns()) != 0) {
            refuse(endpoint, datagram, initial, NGTCP2_INVALID_TOKEN);
            return;
        }
        retried = validated = true;
    } else if (initial.token.len > 0) {
        validated = ngtcp2_crypto_verify_regular_token(
                        initial.token.base, initial.token.len, secret_.data(), secret_.size(),
                        &remote.any, remote.length, kAddressTokenLifetime, now_ns()) == 0;
    }
    if (!validated) {
        if (options_.retry) {
            send_retry(endpoint, datagram, initial);
            return;
        }
        initial.token = {nullptr, 0}; // as good as none
    }

    const Connection::Services services{*this,   connection_options_, tls_,  content_,
                                        policy_, *buffers_,           stats_};
    auto connection = Connection::accept(services, endpoint, datagram.local, remote, initial,
                                         retried ? &original_dcid : nullptr);
    if (!connection)
        return;
    Connection &accepted = *connection;
    connections_.emplace(&accepted, std::move(connection));
    ++stats_.connections;
    stats_.connections_peak = std::max<std::uint64_t>(stats_.connections_peak, connections_.size());
    for (const ngtcp2_cid &cid : accepted.cids())
        add_cid(cid, accepted);
    if (options_.connection.cid_length == 0)
        by_address_[{datagram.local, remote}] = &accepted;

    const auto verdict = accepted.receive(endpoint, datagram);
    after(accepted, verdict);
    if (verdict == Connection::Verdict::kRetry)
        send_retry(endpoint, datagram, initial);
}

void Server::send_retry(Endpoint &endpoint, const ReceivedDatagram &datagram,
                        const ngtcp2_pkt_hd &initial) {
    ngtcp2_cid scid{};
    scid.datalen = kRetryCidLength;
    std::array<std::uint8_t, NGTCP2_CRYPTO_MAX_RETRY_TOKENLEN> token{};
    std::array<std::uint8_t, 512> packet{};
    if (gnutls_rnd(GNUTLS_RND_RANDOM, scid.data, scid.datalen) != 0)
        return;
    const auto token_length = ngtcp2_crypto_generate_retry_token(
        token.data(), secret_.data(), secret_.size(), initial.version, &datagram.remote.any,
        datagram.remote.length, &scid, &initial.dcid, now_ns());
    if (token_length < 0)
        return;
    // No larger than three times what came (RFC 9000 section 8.1).
    const auto length = ngtcp2_crypto_write_retry(
        packet.data(), std::min(packet.size(), 3 * datagram.bytes.size()), initial.version,
        &initial.scid, &scid, &initial.dcid, token.data(), static_cast<std::size_t>(token_length));
    if (length <= 0)
        return;
    ++stats_.retries;
    ++stats_.long_header_datagrams;
    endpoint.send_raw(datagram.local, datagram.remote, 0,
                      std::span(packet).first(static_cast<std::size_t>(length)));
}

void Server::refuse(Endpoint &endpoint, const ReceivedDatagram &datagram,
                    const ngtcp2_pkt_hd &initial, std::uint64_t error_code) {
    std::array<std::uint8_t, NGTCP2_MAX_UDP_PAYLOAD_SIZE> packet{};
    const auto length =
        ngtcp2_crypto_write_connection_close(packet.data(), packet.size(), initial.version,
                                             &initial.scid, &initial.dcid, error_code, nullptr, 0);
    if (length <= 0)
        return;
    ++stats_.long_header_datagrams;
    endpoint.send_raw(datagram.local, datagram.remote, 0,
                      std::span(packet).first(static_cast<std::size_t>(length)));
}

void Server::send_version_negotiation(Endpoint &endpoint, const ReceivedDatagram &datagram,
                                      const ngtcp2_version_cid &cids) {
    // An answer to a short datagram would serve an amplification attack.
    if (datagram.bytes.size() < NGTCP2_MAX_UDP_PAYLOAD_SIZE) {
        ++stats_.datagrams_ignored;
        return;
    }
    std::uint8_t unused = 0;
    std::uint32_t reserved = 0;
    static_cast<void>(gnutls_rnd(GNUTLS_RND_NONCE, &unused, sizeof(unused)));
    static_cast<void>(gnutls_rnd(GNUTLS_RND_NONCE, &reserved, sizeof(reserved)));
    // Version 2 is accepted, but only as the draft that the library knows: not offered. The
    // reserved one keeps clients from relying on a list (RFC 9000 section 6.3).
    const std::array<std::uint32_t, 2> versions = {NGTCP2_PROTO_VER_V1,
                                                   (reserved & 0xf0f0f0f0) | 0x0a0a0a0a};
    // Connection IDs of unknown versions may have 255 bytes each.
    std::array<std::uint8_t, 640> packet{};
    const auto length = ngtcp2_pkt_write_version_negotiation(
        packet.data(), packet.size(), unused, cids.scid, cids.scidlen, cids.dcid, cids.dcidlen,
        versions.data(), versions.size());
    if (length <= 0)
        return;
    ++stats_.version_negotiations;
    ++stats_.long_header_datagrams;
    endpoint.send_raw(datagram.local, datagram.remote, 0,
                      std::span(packet).first(static_cast<std::size_t>(length)));
}

void Server::send_stateless_reset(Endpoint &endpoint, const ReceivedDatagram &datagram,
                                  const ngtcp2_version_cid &cids) {
    constexpr std::size_t kTokenLength = NGTCP2_STATELESS_RESET_TOKENLEN;
    constexpr std::size_t kMinRandom = NGTCP2_MIN_STATELESS_RESET_RANDLEN;
    // As long as the shortest packet of a client whose connection IDs have 20 bytes, but shorter
    // than what it answers: two servers cannot keep each other busy.
    constexpr std::size_t kWanted = 42;
    const std::size_t length = std::min(kWanted, datagram.bytes.size() - 1);
    ngtcp2_cid cid{};
    std::array<std::uint8_t, kTokenLength> token{};
    std::array<std::uint8_t, kWanted> random{};
    std::array<std::uint8_t, kWanted> packet{};
    if (cids.dcidlen == 0 || cids.dcidlen > NGTCP2_MAX_CIDLEN ||
        length < kMinRandom + kTokenLength) {
        ++stats_.datagrams_ignored;
        return;
    }
    ngtcp2_cid_init(&cid, cids.dcid, cids.dcidlen);
    if (!make_reset_token(cid, token.data()) ||
        gnutls_rnd(GNUTLS_RND_NONCE, random.data(), random.size()) != 0)
        return;
    const auto written = ngtcp2_pkt_write_stateless_reset(packet.data(), length, token.data(),
                                                          random.data(), length - kTokenLength);
    if (written <= 0)
        return;
    ++stats_.stateless_resets;
    endpoint.send_raw(datagram.local, datagram.remote, 0,
                      std::span(packet).first(static_cast<std::size_t>(written)));
}

} // namespace quic_server
