// SPDX-License-Identifier: MIT
#include "tls.hpp"

#include <gnutls/abstract.h>
#include <gnutls/crypto.h>
#include <gnutls/x509.h>
#include <ngtcp2/ngtcp2_crypto_gnutls.h>

#include <arpa/inet.h>
#include <array>
#include <ctime>
#include <utility>

namespace quic_server {

using udp_quic_offload::Cipher;

namespace {

struct CipherEntry {
    Cipher cipher;
    const char *name;
    gnutls_cipher_algorithm_t gnutls;
};

constexpr std::array kCiphers = {
    CipherEntry{Cipher::kAes128Gcm, "AES-128-GCM", GNUTLS_CIPHER_AES_128_GCM},
    CipherEntry{Cipher::kAes256Gcm, "AES-256-GCM", GNUTLS_CIPHER_AES_256_GCM},
    CipherEntry{Cipher::kChaCha20Poly1305, "CHACHA20-POLY1305", GNUTLS_CIPHER_CHACHA20_POLY1305},
    CipherEntry{Cipher::kAes128Ccm, "AES-128-CCM", GNUTLS_CIPHER_AES_128_CCM},
};

bool ok(int rc, const char *what) {
    if (rc >= 0)
        return true;
    std::fprintf(stderr, "TLS: %s: %s\n", what, gnutls_strerror(rc));
    return false;
}

struct PrivateKeyDeleter {
    void operator()(gnutls_x509_privkey_t key) const { gnutls_x509_privkey_deinit(key); }
};
struct CertificateDeleter {
    void operator()(gnutls_x509_crt_t certificate) const { gnutls_x509_crt_deinit(certificate); }
};
using PrivateKey = std::unique_ptr<gnutls_x509_privkey_int, PrivateKeyDeleter>;
using Certificate = std::unique_ptr<gnutls_x509_crt_int, CertificateDeleter>;

// A certificate for a fortnight in the name of localhost: browsers accept a certificate they were
// told the fingerprint of only when it lasts no longer than that.
bool add_self_signed(gnutls_certificate_credentials_t credentials) {
    constexpr std::time_t kDay = 24 * 60 * 60;
    gnutls_x509_privkey_t raw_key = nullptr;
    if (!ok(gnutls_x509_privkey_init(&raw_key), "private key"))
        return false;
    const PrivateKey key(raw_key);
    gnutls_x509_crt_t raw_certificate = nullptr;
    if (!ok(gnutls_x509_crt_init(&raw_certificate), "certificate"))
        return false;
    const Certificate certificate(raw_certificate);

    std::array<std::uint8_t, 16> serial{};
    const std::time_t now = std::time(nullptr);
    const std::string_view name = "localhost";
    in_addr loopback4{};
    in6_addr loopback6{};
    inet_pton(AF_INET, "127.0.0.1", &loopback4);
    inet_pton(AF_INET6, "::1", &loopback6);

    auto *crt = certificate.get();
    if (!ok(gnutls_rnd(GNUTLS_RND_NONCE, serial.data(), serial.size()), "random numbers"))
        return false;
    serial[0] &= 0x7f; // a positive number
    return ok(gnutls_x509_privkey_generate(key.get(), GNUTLS_PK_ECDSA,
                                           GNUTLS_CURVE_TO_BITS(GNUTLS_ECC_CURVE_SECP256R1), 0),
              "making a private key") &&
           ok(gnutls_x509_crt_set_version(crt, 3), "certificate version") &&
           ok(gnutls_x509_crt_set_serial(crt, serial.data(), serial.size()), "serial number") &&
           ok(gnutls_x509_crt_set_activation_time(crt, now - kDay), "activation time") &&
           ok(gnutls_x509_crt_set_expiration_time(crt, now + 12 * kDay), "expiration time") &&
           ok(gnutls_x509_crt_set_dn_by_oid(crt, GNUTLS_OID_X520_COMMON_NAME, 0, name.data(),
                                            static_cast<unsigned>(name.size())),
              "subject") &&
           ok(gnutls_x509_crt_set_subject_alt_name(crt, GNUTLS_SAN_DNSNAME, name.data(),
                                                   static_cast<unsigned>(name.size()),
                                                   GNUTLS_FSAN_SET),
              "subject name") &&
           ok(gnutls_x509_crt_set_subject_alt_name(crt, GNUTLS_SAN_IPADDRESS, &loopback4,
                                                   sizeof(loopback4), GNUTLS_FSAN_APPEND),
              "subject address") &&
           ok(gnutls_x509_crt_set_subject_alt_name(crt, GNUTLS_SAN_IPADDRESS, &loopback6,
                                                   sizeof(loopback6), GNUTLS_FSAN_APPEND),
              "subject address") &&
           ok(gnutls_x509_crt_set_key(crt, key.get()), "certificate key") &&
           ok(gnutls_x509_crt_set_key_usage(crt, GNUTLS_KEY_DIGITAL_SIGNATURE), "key usage") &&
           ok(gnutls_x509_crt_sign2(crt, crt, key.get(), GNUTLS_DIG_SHA256, 0), "signature") &&
           ok(gnutls_certificate_set_x509_key(credentials, &crt, 1, key.get()), "credentials");
}

} // namespace

const char *cipher_name(Cipher cipher) {
    for (const auto &entry : kCiphers)
        if (entry.cipher == cipher)
            return entry.name;
    return "?";
}

std::optional<Cipher> cipher_of_name(const std::string &name) {
    for (const auto &entry : kCiphers)
        if (name == entry.name)
            return entry.cipher;
    return std::nullopt;
}

std::unique_ptr<TlsContext> TlsContext::make(const TlsOptions &options) {
    std::unique_ptr<TlsContext> context(new TlsContext);
    if (!ok(gnutls_certificate_allocate_credentials(&context->credentials_), "credentials"))
        return nullptr;
    if (options.certificate_file.empty()) {
        if (!add_self_signed(context->credentials_))
            return nullptr;
    } else if (!ok(gnutls_certificate_set_x509_key_file(
                       context->credentials_, options.certificate_file.c_str(),
                       options.key_file.c_str(), GNUTLS_X509_FMT_PEM),
                   options.certificate_file.c_str())) {
        return nullptr;
    }
    if (!ok(gnutls_session_ticket_key_generate(&context->ticket_key_), "ticket key"))
        return nullptr;

    // QUIC has no middlebox compatibility mode (RFC 9001 section 8.4).
    context->priorities_ = "%DISABLE_TLS13_COMPAT_MODE:%SERVER_PRECEDENCE:"
                           "NORMAL:-VERS-ALL:+VERS-TLS1.3:-CIPHER-ALL";
    for (const Cipher cipher : options.ciphers)
        context->priorities_ += std::string(":+") + cipher_name(cipher);
    context->priorities_ += ":-GROUP-ALL:+GROUP-X25519:+GROUP-SECP256R1:+GROUP-SECP384R1";

    if (!options.key_log_file.empty()) {
        context->key_log_.reset(std::fopen(options.key_log_file.c_str(), "ae"));
        if (!context->key_log_) {
            std::perror(options.key_log_file.c_str());
            return nullptr;
        }
    }
    return context;
}

TlsContext::~TlsContext() {
    gnutls_free(ticket_key_.data);
    gnutls_certificate_free_credentials(credentials_);
}

std::string TlsContext::public_key_fingerprint() const {
    gnutls_datum_t der{};
    if (gnutls_certificate_get_crt_raw(credentials_, 0, 0, &der) != 0)
        return {};
    gnutls_x509_crt_t raw = nullptr;
    if (gnutls_x509_crt_init(&raw) != 0)
        return {};
    const Certificate certificate(raw);
    std::array<std::uint8_t, 32> digest{};
    std::size_t length = digest.size();
    if (gnutls_x509_crt_import(raw, &der, GNUTLS_X509_FMT_DER) != 0 ||
        gnutls_x509_crt_get_key_id(raw, GNUTLS_KEYID_USE_SHA256, digest.data(), &length) != 0)
        return {};
    const gnutls_datum_t input{digest.data(), static_cast<unsigned>(length)};
    gnutls_datum_t encoded{};
    if (gnutls_base64_encode2(&input, &encoded) != 0)
        return {};
    std::string text(reinterpret_cast<const char *>(encoded.data), encoded.size);
    gnutls_free(encoded.data);
    return text;
}

std::unique_ptr<TlsSession> TlsSession::make(const TlsContext &context,
                                             ngtcp2_crypto_conn_ref &conn_ref,
                                             TxSecretHandler on_tx_secret) {
    std::unique_ptr<TlsSession> tls(new TlsSession);
    tls->context_ = &context;
    tls->on_tx_secret_ = std::move(on_tx_secret);
    if (!ok(gnutls_init(&tls->session_,
                        GNUTLS_SERVER | GNUTLS_NO_AUTO_SEND_TICKET | GNUTLS_NO_END_OF_EARLY_DATA),
            "session"))
        return nullptr;
    auto *session = tls->session_;
    static constexpr unsigned char kH3[] = {'h', '3'};
    const gnutls_datum_t alpn{const_cast<unsigned char *>(kH3), sizeof(kH3)}; // NOLINT
    if (!ok(gnutls_priority_set_direct(session, context.priorities().c_str(), nullptr),
            "priorities") ||
        !ok(gnutls_session_ticket_enable_server(session, context.ticket_key()), "tickets") ||
        !ok(ngtcp2_crypto_gnutls_configure_server_session(session), "QUIC session") ||
        !ok(gnutls_credentials_set(session, GNUTLS_CRD_CERTIFICATE, context.credentials()),
            "credentials") ||
        !ok(gnutls_alpn_set_protocols(session, &alpn, 1, GNUTLS_ALPN_MANDATORY), "ALPN"))
        return nullptr;

    gnutls_session_set_ptr(session, &conn_ref);
    gnutls_db_set_ptr(session, tls.get());
    // libngtcp2_crypto_gnutls has set a secret function that keeps the secrets to itself; ours does
    // the same and shows the 1-RTT sending secret to the offload.
    gnutls_handshake_set_secret_function(session, on_secret);
    if (context.key_log())
        gnutls_session_set_keylog_function(session, on_key_log);
    return tls;
}

TlsSession::~TlsSession() { gnutls_deinit(session_); }

std::optional<Cipher> TlsSession::cipher() const {
    const auto native = gnutls_cipher_get(session_);
    for (const auto &entry : kCiphers)
        if (entry.gnutls == native)
            return entry.cipher;
    return std::nullopt;
}

bool TlsSession::send_ticket() {
    return ok(gnutls_session_ticket_send(session_, 1, 0), "session ticket");
}

int TlsSession::on_secret(gnutls_session_t session, gnutls_record_encryption_level_t gnutls_level,
                          const void *rx_secret, const void *tx_secret, std::size_t length) {
    auto *conn_ref = static_cast<ngtcp2_crypto_conn_ref *>(gnutls_session_get_ptr(session));
    auto *self = static_cast<TlsSession *>(gnutls_db_get_ptr(session));
    ngtcp2_conn *conn = conn_ref->get_conn(conn_ref);
    const auto level = ngtcp2_crypto_gnutls_from_gnutls_record_encryption_level(gnutls_level);

    if (rx_secret && ngtcp2_crypto_derive_and_install_rx_key(
                         conn, nullptr, nullptr, nullptr, level,
                         static_cast<const std::uint8_t *>(rx_secret), length) != 0)
        return -1;
    if (!tx_secret)
        return 0;
    if (level == NGTCP2_CRYPTO_LEVEL_APPLICATION) {
        const auto cipher = self->cipher();
        const std::span secret(static_cast<const std::uint8_t *>(tx_secret), length);
        return cipher && self->on_tx_secret_(*cipher, secret) ? 0 : -1;
    }
    return ngtcp2_crypto_derive_and_install_tx_key(conn, nullptr, nullptr, nullptr, level,
                                                   static_cast<const std::uint8_t *>(tx_secret),
                                                   length);
}

int TlsSession::on_key_log(gnutls_session_t session, const char *label,
                           const gnutls_datum_t *secret) {
    auto *self = static_cast<TlsSession *>(gnutls_db_get_ptr(session));
    std::FILE *file = self->context_->key_log();
    gnutls_datum_t client_random{};
    gnutls_datum_t server_random{};
    gnutls_session_get_random(session, &client_random, &server_random);
    std::fprintf(file, "%s ", label);
    for (unsigned i = 0; i < client_random.size; ++i)
        std::fprintf(file, "%02x", client_random.data[i]);
    std::fputc(' ', file);
    for (unsigned i = 0; i < secret->size; ++i)
        std::fprintf(file, "%02x", secret->data[i]);
    std::fputc('\n', file);
    std::fflush(file);
    return 0;
}

} // namespace quic_server
