// SPDX-License-Identifier: MIT
//
// TLS 1.3 for QUIC with GnuTLS: the server's certificate and one session per connection.
#ifndef QUIC_SERVER_TLS_HPP
#define QUIC_SERVER_TLS_HPP

#include "udp_quic_offload.hpp"

#include <gnutls/gnutls.h>
#include <ngtcp2/ngtcp2_crypto.h>

#include <cstdint>
#include <cstdio>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

namespace quic_server {

struct TlsOptions {
    std::string certificate_file; // PEM; empty: a self-signed one is made
    std::string key_file;
    std::string key_log_file;                      // NSS key log format; empty: none
    std::vector<udp_quic_offload::Cipher> ciphers; // in order of preference
};

const char *cipher_name(udp_quic_offload::Cipher cipher);
std::optional<udp_quic_offload::Cipher> cipher_of_name(const std::string &name);

class TlsContext {
  public:
    // Nothing, and a line on stderr, on failure.
    static std::unique_ptr<TlsContext> make(const TlsOptions &options);
    ~TlsContext();
    TlsContext(const TlsContext &) = delete;
    TlsContext &operator=(const TlsContext &) = delete;

    gnutls_certificate_credentials_t credentials() const { return credentials_; }
    const std::string &priorities() const { return priorities_; }
    const gnutls_datum_t *ticket_key() const { return &ticket_key_; }
    std::FILE *key_log() const { return key_log_.get(); }
    // SHA-256 of the public key in base64, as browsers want it for a certificate nobody vouches
    // for (--ignore-certificate-errors-spki-list).
    std::string public_key_fingerprint() const;

  private:
    TlsContext() = default;

    struct CloseFile {
        void operator()(std::FILE *file) const { std::fclose(file); }
    };
    gnutls_certificate_credentials_t credentials_ = nullptr;
    gnutls_datum_t ticket_key_{};
    std::string priorities_;
    std::unique_ptr<std::FILE, CloseFile> key_log_;
};

class TlsSession {
  public:
    // Called with the traffic secret when TLS has the 1-RTT sending key; false ends the handshake.
    using TxSecretHandler =
        std::function<bool(udp_quic_offload::Cipher, std::span<const std::uint8_t> secret)>;

    // @conn_ref: as libngtcp2_crypto_gnutls wants it; outlives this object, like @context.
    static std::unique_ptr<TlsSession>
    make(const TlsContext &context, ngtcp2_crypto_conn_ref &conn_ref, TxSecretHandler on_tx_secret);
    ~TlsSession();
    TlsSession(const TlsSession &) = delete;
    TlsSession &operator=(const TlsSession &) = delete;

    gnutls_session_t native() const { return session_; }
    // Of the handshake that is going on or done.
    std::optional<udp_quic_offload::Cipher> cipher() const;
    bool send_ticket();

  private:
    TlsSession() = default;
    static int on_secret(gnutls_session_t session, gnutls_record_encryption_level_t level,
                         const void *rx_secret, const void *tx_secret, std::size_t length);
    static int on_key_log(gnutls_session_t session, const char *label,
                          const gnutls_datum_t *secret);

    const TlsContext *context_ = nullptr;
    gnutls_session_t session_ = nullptr;
    TxSecretHandler on_tx_secret_;
};

} // namespace quic_server

#endif
