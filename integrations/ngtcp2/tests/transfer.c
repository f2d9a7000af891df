/* SPDX-License-Identifier: MIT */
/*
 * A QUIC server on the adapter and a plain ngtcp2 client, in one process, over two
 * UDP sockets: the server sends a stream and the client compares it. Prints what
 * the server counted, as one JSON object. Also the shortest server that there is:
 * what it takes to use the adapter is between the lines of "three calls".
 *
 * usage: transfer [BYTES [OPTION]...]
 *   inline     keys go with each send
 *   user       the offload is switched off
 *   update     the server updates its keys each 200 packets
 *   forget     the SA is deleted behind the adapter's back, once
 *   zerocopy   MSG_ZEROCOPY
 *   chacha, aes256, ccm   the cipher; AES-128-GCM else
 * Exit status: 0 if all bytes arrived.
 */
#include <udp_quic_offload_ngtcp2.h>

#include <gnutls/crypto.h>
#include <gnutls/gnutls.h>
#include <gnutls/x509.h>
#include <ngtcp2/ngtcp2_crypto.h>
#include <ngtcp2/ngtcp2_crypto_gnutls.h>

#include <inttypes.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include <arpa/inet.h>

#define CID_LENGTH 8
#define BUFFER 65536
#define BATCHES 64 /* with MSG_ZEROCOPY, until their completion */

struct endpoint {
    int fd;
    struct sockaddr_in local, remote;
    ngtcp2_conn *conn;
    ngtcp2_crypto_conn_ref ref;
    gnutls_session_t tls;
    ngtcp2_offload *offload; /* the server's */
    int64_t stream;
    uint64_t offset; /* sent, or received */
    bool finished;
};

static uint64_t total = 1000000;
static bool option_update, option_forget, option_zerocopy;
static struct ngtcp2_offload_options offload_options;
static gnutls_certificate_credentials_t credentials;
static const char *priority = "NORMAL:-VERS-ALL:+VERS-TLS1.3:-CIPHER-ALL:+AES-128-GCM";
static uint64_t key_updates, gso_sends, zerocopy_sends, zerocopy_completions;

static void fail(const char *what, int rv)
{
    fprintf(stderr, "%s: %s\n", what, rv < 0 ? ngtcp2_strerror(rv) : strerror(rv));
    exit(1);
}

static ngtcp2_tstamp now(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (ngtcp2_tstamp)ts.tv_sec * NGTCP2_SECONDS + (ngtcp2_tstamp)ts.tv_nsec;
}

/* The byte of the stream at @offset */
static uint8_t content(uint64_t offset)
{
    return (uint8_t)(offset * 2654435761u >> 13);
}

/* --- ngtcp2's callbacks -------------------------------------------------- */

static ngtcp2_conn *conn_of_ref(ngtcp2_crypto_conn_ref *ref)
{
    return ((struct endpoint *)ref->user_data)->conn;
}

static ngtcp2_offload *offload_of(void *user_data)
{
    return ((struct endpoint *)user_data)->offload;
}

static void on_rand(uint8_t *dest, size_t length, const ngtcp2_rand_ctx *context)
{
    (void)context;
    (void)gnutls_rnd(GNUTLS_RND_NONCE, dest, length);
}

static int on_new_cid(ngtcp2_conn *conn, ngtcp2_cid *cid, uint8_t *token, size_t length, void *user)
{
    (void)conn;
    (void)user;
    cid->datalen = length;
    return gnutls_rnd(GNUTLS_RND_RANDOM, cid->data, length) != 0 ||
                   gnutls_rnd(GNUTLS_RND_RANDOM, token, NGTCP2_STATELESS_RESET_TOKENLEN) != 0
               ? NGTCP2_ERR_CALLBACK_FAILURE
               : 0;
}

static int on_stream_data(ngtcp2_conn *conn, uint32_t flags, int64_t stream, uint64_t offset,
                          const uint8_t *data, size_t length, void *user, void *stream_user)
{
    struct endpoint *client = (struct endpoint *)user;
    size_t i;

    (void)stream_user;
    for (i = 0; i < length; ++i)
        if (data[i] != content(offset + i)) {
            fprintf(stderr, "byte %" PRIu64 " differs\n", offset + i);
            exit(1);
        }
    client->offset = offset + length;
    client->finished = (flags & NGTCP2_STREAM_DATA_FLAG_FIN) != 0;
    ngtcp2_conn_extend_max_stream_offset(conn, stream, length);
    ngtcp2_conn_extend_max_offset(conn, length);
    return 0;
}

static void set_callbacks(ngtcp2_callbacks *callbacks, bool server)
{
    memset(callbacks, 0, sizeof(*callbacks));
    if (server) {
        callbacks->recv_client_initial = ngtcp2_crypto_recv_client_initial_cb;
    } else {
        callbacks->client_initial = ngtcp2_crypto_client_initial_cb;
        callbacks->recv_retry = ngtcp2_crypto_recv_retry_cb;
        callbacks->recv_stream_data = on_stream_data;
    }
    callbacks->recv_crypto_data = ngtcp2_crypto_recv_crypto_data_cb;
    callbacks->encrypt = ngtcp2_crypto_encrypt_cb;
    callbacks->decrypt = ngtcp2_crypto_decrypt_cb;
    callbacks->hp_mask = ngtcp2_crypto_hp_mask_cb;
    callbacks->update_key = ngtcp2_crypto_update_key_cb;
    callbacks->delete_crypto_aead_ctx = ngtcp2_crypto_delete_crypto_aead_ctx_cb;
    callbacks->delete_crypto_cipher_ctx = ngtcp2_crypto_delete_crypto_cipher_ctx_cb;
    callbacks->get_path_challenge_data = ngtcp2_crypto_get_path_challenge_data_cb;
    callbacks->version_negotiation = ngtcp2_crypto_version_negotiation_cb;
    callbacks->rand = on_rand;
    callbacks->get_new_connection_id = on_new_cid;
}

/* --- the two ends -------------------------------------------------------- */

static void make_certificate(void)
{
    gnutls_x509_privkey_t key;
    gnutls_x509_crt_t crt;
    const time_t at = time(NULL);
    const char serial = 1;

    gnutls_certificate_allocate_credentials(&credentials);
    gnutls_x509_privkey_init(&key);
    gnutls_x509_privkey_generate(key, GNUTLS_PK_ECDSA,
                                 GNUTLS_CURVE_TO_BITS(GNUTLS_ECC_CURVE_SECP256R1), 0);
    gnutls_x509_crt_init(&crt);
    gnutls_x509_crt_set_version(crt, 3);
    gnutls_x509_crt_set_serial(crt, &serial, 1);
    gnutls_x509_crt_set_activation_time(crt, at - 3600);
    gnutls_x509_crt_set_expiration_time(crt, at + 3600);
    gnutls_x509_crt_set_key(crt, key);
    if (gnutls_x509_crt_sign2(crt, crt, key, GNUTLS_DIG_SHA256, 0) != 0 ||
        gnutls_certificate_set_x509_key(credentials, &crt, 1, key) != 0) {
        fprintf(stderr, "no certificate\n");
        exit(1);
    }
    gnutls_x509_crt_deinit(crt);
    gnutls_x509_privkey_deinit(key);
}

static void open_socket(struct endpoint *end)
{
    const int size = 4 * 1024 * 1024;
    socklen_t length = sizeof(end->local);

    end->fd = socket(AF_INET, SOCK_DGRAM | SOCK_NONBLOCK, 0);
    end->local.sin_family = AF_INET;
    end->local.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    setsockopt(end->fd, SOL_SOCKET, SO_RCVBUF, &size, sizeof(size));
    if (end->fd < 0 || bind(end->fd, (struct sockaddr *)&end->local, length) != 0 ||
        getsockname(end->fd, (struct sockaddr *)&end->local, &length) != 0)
        fail("socket", errno);
}

static void start_tls(struct endpoint *end, bool server)
{
    static unsigned char protocol[] = {'t', 'r', 'y'};
    const gnutls_datum_t alpn = {protocol, sizeof(protocol)};

    end->ref.get_conn = conn_of_ref;
    end->ref.user_data = end;
    if (gnutls_init(&end->tls, (server ? GNUTLS_SERVER : GNUTLS_CLIENT) |
                                   GNUTLS_NO_END_OF_EARLY_DATA | GNUTLS_NO_AUTO_SEND_TICKET) != 0 ||
        gnutls_priority_set_direct(end->tls, priority, NULL) != 0 ||
        (server ? ngtcp2_crypto_gnutls_configure_server_session(end->tls)
                : ngtcp2_crypto_gnutls_configure_client_session(end->tls)) != 0 ||
        gnutls_credentials_set(end->tls, GNUTLS_CRD_CERTIFICATE, credentials) != 0 ||
        gnutls_alpn_set_protocols(end->tls, &alpn, 1, GNUTLS_ALPN_MANDATORY) != 0) {
        fprintf(stderr, "no TLS session\n");
        exit(1);
    }
    gnutls_session_set_ptr(end->tls, &end->ref);
    ngtcp2_conn_set_tls_native_handle(end->conn, end->tls);
}

static ngtcp2_path path_of(struct endpoint *end)
{
    ngtcp2_path path = {{(ngtcp2_sockaddr *)&end->local, sizeof(end->local)},
                        {(ngtcp2_sockaddr *)&end->remote, sizeof(end->remote)},
                        NULL};
    return path;
}

static void set_limits(ngtcp2_settings *settings, ngtcp2_transport_params *params)
{
    ngtcp2_settings_default(settings);
    settings->initial_ts = now();
    ngtcp2_transport_params_default(params);
    params->initial_max_stream_data_uni = 4 * 1024 * 1024;
    params->initial_max_data = 4 * 1024 * 1024;
    params->initial_max_streams_uni = 3;
    params->max_idle_timeout = 30 * NGTCP2_SECONDS;
}

static void start_client(struct endpoint *client)
{
    ngtcp2_callbacks callbacks;
    ngtcp2_settings settings;
    ngtcp2_transport_params params;
    ngtcp2_path path = path_of(client);
    ngtcp2_cid dcid, scid;
    int rv;

    set_callbacks(&callbacks, false);
    set_limits(&settings, &params);
    dcid.datalen = 18;
    scid.datalen = CID_LENGTH;
    on_rand(dcid.data, dcid.datalen, NULL);
    on_rand(scid.data, scid.datalen, NULL);
    rv = ngtcp2_conn_client_new(&client->conn, &dcid, &scid, &path, NGTCP2_PROTO_VER_V1, &callbacks,
                                &settings, &params, NULL, client);
    if (rv != 0)
        fail("ngtcp2_conn_client_new", rv);
    start_tls(client, false);
}

/* Of the three calls, the first. */
static void start_server(struct endpoint *server, const uint8_t *packet, size_t length)
{
    ngtcp2_callbacks callbacks;
    ngtcp2_settings settings;
    ngtcp2_transport_params params;
    ngtcp2_path path = path_of(server);
    ngtcp2_pkt_hd header;
    ngtcp2_cid scid;
    int rv;

    if (ngtcp2_accept(&header, packet, length) != 0)
        return;
    set_callbacks(&callbacks, true);
    set_limits(&settings, &params);
    params.original_dcid = header.dcid;
#if NGTCP2_VERSION_NUM >= 0x010000
    params.original_dcid_present = 1;
#endif
    scid.datalen = CID_LENGTH;
    on_rand(scid.data, scid.datalen, NULL);
    offload_options.cookie = 1;
    rv = ngtcp2_offload_new(&server->offload, server->fd, &callbacks, offload_of, &offload_options);
    if (rv != 0)
        fail("ngtcp2_offload_new", rv);
    rv = ngtcp2_conn_server_new(&server->conn, &header.scid, &scid, &path, header.version,
                                &callbacks, &settings, &params, NULL, server);
    if (rv != 0)
        fail("ngtcp2_conn_server_new", rv);
    start_tls(server, true);
}

/* --- sending ------------------------------------------------------------- */

static uint8_t *free_buffers[BATCHES];
static size_t free_buffer_count;
static void *slots[BATCHES];
static struct quic_offload_zerocopy zerocopy;
/* Stands for the sends of a batch before its last one, which gives the buffer back. */
static uint8_t part_of_batch[1];

static uint8_t *get_buffer(void)
{
    uint8_t *buffer = free_buffer_count != 0 ? free_buffers[--free_buffer_count]
                                             : (uint8_t *)aligned_alloc(4096, BUFFER);

    if (buffer == NULL)
        fail("buffer", ENOMEM);
    return buffer;
}

static void read_completions(int fd)
{
    struct quic_offload_completion completion;
    int error;

    while ((error = quic_offload_read_completion(fd, &completion)) != EAGAIN) {
        uint32_t number = completion.first;

        if (error != 0)
            continue;
        for (;; ++number) {
            void *buffer = quic_offload_zerocopy_take(&zerocopy, number);

            if (buffer != NULL)
                ++zerocopy_completions;
            if (buffer != NULL && buffer != part_of_batch)
                free_buffers[free_buffer_count++] = (uint8_t *)buffer;
            if (number == completion.last)
                break;
        }
    }
}

/*
 * Of the three calls, the third. The packets are in @buffer, which the kernel may
 * keep; null: it must copy them. Returns true if it has kept the buffer.
 */
static bool send_batch(struct endpoint *server, struct ngtcp2_offload_batch *batch, uint8_t *buffer)
{
    struct msghdr message;
    bool with_zerocopy;
    uint64_t i;
    int error;

    if (batch->packets.packets == 0)
        return false;
    memset(&message, 0, sizeof(message));
    message.msg_name = &server->remote;
    message.msg_namelen = sizeof(server->remote);
    gso_sends += batch->packets.packets > 1;
    do {
        if (option_zerocopy)
            read_completions(server->fd);
        with_zerocopy = option_zerocopy && buffer != NULL && !quic_offload_zerocopy_is_full(&zerocopy);
        error = ngtcp2_offload_send(server->offload, server->fd, &message, batch,
                                    with_zerocopy ? MSG_ZEROCOPY : 0);
        if (error == EAGAIN) {
            struct pollfd full = {server->fd, POLLOUT, 0};

            poll(&full, 1, 100);
        }
    } while (error == EAGAIN);
    if (error != 0 && error != EMSGSIZE) /* a path MTU probe may be too large */
        fail("send", error);
    for (i = 0; i < batch->zerocopy_sends; ++i)
        quic_offload_zerocopy_sent(&zerocopy,
                                   i + 1 == batch->zerocopy_sends ? buffer : part_of_batch);
    zerocopy_sends += batch->zerocopy_sends;
    return batch->zerocopy_sends != 0;
}

static void maybe_update_key(struct endpoint *server, ngtcp2_tstamp ts)
{
    static uint64_t packets;
    const struct ngtcp2_offload_stats *stats = ngtcp2_offload_get_stats(server->offload);
    const uint64_t sent = stats->packets_kernel + stats->packets_user;

    if (!option_update || sent - packets < 200)
        return;
    if (ngtcp2_conn_initiate_key_update(server->conn, ts) == 0) {
        packets = sent;
        ++key_updates;
    }
}

/* Deletes the SA that is in use, as nobody should. */
static void maybe_forget(struct endpoint *server)
{
    const struct quic_offload_sa *sa = ngtcp2_offload_get_sa(server->offload);
    struct quic_offload_sa copy;

    if (!option_forget || sa == NULL || ngtcp2_offload_get_stats(server->offload)->packets_kernel < 20)
        return;
    copy = *sa;
    quic_offload_sa_remove(&copy);
    option_forget = false;
}

/* All of the stream: ngtcp2 reads it again when it sends a lost packet anew. */
static uint8_t *body;

static void make_body(void)
{
    uint64_t i;

    body = (uint8_t *)malloc(total);
    if (body == NULL)
        fail("body", ENOMEM);
    for (i = 0; i < total; ++i)
        body[i] = content(i);
}

/* Of the three calls, the second. */
static void write_server(struct endpoint *server)
{
    struct ngtcp2_offload_batch batch = {0}, datagram = {0};
    const ngtcp2_tstamp ts = now();
    uint8_t *buffer = get_buffer();
    size_t used = 0;
    bool kept = false;

    if (server->stream < 0 && ngtcp2_conn_get_handshake_completed(server->conn))
        (void)ngtcp2_conn_open_uni_stream(server->conn, &server->stream, NULL);
    maybe_update_key(server, ts);
    maybe_forget(server);
    while (used + 1500 <= BUFFER) {
        const uint64_t left = server->stream >= 0 && !server->finished ? total - server->offset : 0;
        ngtcp2_vec data = {body + server->offset, left < 4096 ? (size_t)left : 4096};
        ngtcp2_path_storage path;
        ngtcp2_pkt_info info;
        ngtcp2_ssize length, taken = -1;

        ngtcp2_path_storage_zero(&path);
        length = ngtcp2_offload_writev_stream(
            server->offload, &datagram, server->conn, &path.path, &info, buffer + used, 1500, &taken,
            data.len == left && data.len != 0 ? NGTCP2_WRITE_STREAM_FLAG_FIN : 0,
            left != 0 ? server->stream : -1, &data, left != 0, ts);
        if (length < 0 && length != NGTCP2_ERR_STREAM_DATA_BLOCKED)
            fail("ngtcp2_conn_writev_stream", (int)length);
        if (taken > 0) {
            server->offset += (uint64_t)taken;
            server->finished = server->offset == total;
        }
        if (length == NGTCP2_ERR_STREAM_DATA_BLOCKED) {
            ngtcp2_offload_begin(server->offload, buffer + used, false);
            length = ngtcp2_conn_write_pkt(server->conn, &path.path, &info, buffer + used, 1500, ts);
            ngtcp2_offload_end(server->offload, length, &datagram);
        }
        if (length <= 0)
            break;
        used += (size_t)length;
        if (!ngtcp2_offload_join(&batch, &datagram)) {
            kept = send_batch(server, &batch, buffer);
            batch = datagram;
            memset(&datagram, 0, sizeof(datagram));
            if (option_zerocopy)
                break; /* a buffer for each batch */
        }
    }
    kept |= send_batch(server, &batch, kept ? NULL : buffer);
    ngtcp2_conn_update_pkt_tx_time(server->conn, ts);
    if (!kept)
        free_buffers[free_buffer_count++] = buffer;
}

static void write_client(struct endpoint *client)
{
    uint8_t buffer[1500];
    ngtcp2_path_storage path;
    ngtcp2_pkt_info info;
    ngtcp2_ssize length;

    for (;;) {
        ngtcp2_path_storage_zero(&path);
        length = ngtcp2_conn_write_pkt(client->conn, &path.path, &info, buffer, sizeof(buffer), now());
        if (length < 0)
            fail("client: ngtcp2_conn_write_pkt", (int)length);
        if (length == 0)
            return;
        (void)sendto(client->fd, buffer, (size_t)length, 0, (struct sockaddr *)&client->remote,
                     sizeof(client->remote));
    }
}

static void read_packets(struct endpoint *end, bool server)
{
    uint8_t buffer[2048];
    const ngtcp2_pkt_info info = {0};
    ssize_t length;
    int rv;

    while ((length = recv(end->fd, buffer, sizeof(buffer), 0)) >= 0) {
        ngtcp2_path path = path_of(end);

        if (server && end->conn == NULL)
            start_server(end, buffer, (size_t)length);
        rv = ngtcp2_conn_read_pkt(end->conn, &path, &info, buffer, (size_t)length, now());
        if (rv != 0)
            fail(server ? "server: ngtcp2_conn_read_pkt" : "client: ngtcp2_conn_read_pkt", rv);
    }
}

static int timeout_of(const struct endpoint *end)
{
    const ngtcp2_tstamp ts = now(), expiry = ngtcp2_conn_get_expiry(end->conn);

    return expiry <= ts ? 0 : expiry - ts > NGTCP2_SECONDS ? 1000
                                                           : (int)((expiry - ts) / NGTCP2_MILLISECONDS) + 1;
}

static void parse(int count, char **arguments)
{
    int i;

    if (count > 1)
        total = strtoull(arguments[1], NULL, 10);
    for (i = 2; i < count; ++i) {
        const char *name = arguments[i];

        if (strcmp(name, "inline") == 0)
            offload_options.flags = NGTCP2_OFFLOAD_INLINE_KEYS;
        else if (strcmp(name, "user") == 0)
            offload_options.flags = NGTCP2_OFFLOAD_USER_SPACE;
        else if (strcmp(name, "update") == 0)
            option_update = true;
        else if (strcmp(name, "forget") == 0)
            option_forget = true;
        else if (strcmp(name, "zerocopy") == 0)
            option_zerocopy = true;
        else if (strcmp(name, "chacha") == 0)
            priority = "NORMAL:-VERS-ALL:+VERS-TLS1.3:-CIPHER-ALL:+CHACHA20-POLY1305";
        else if (strcmp(name, "aes256") == 0)
            priority = "NORMAL:-VERS-ALL:+VERS-TLS1.3:-CIPHER-ALL:+AES-256-GCM";
        else if (strcmp(name, "ccm") == 0)
            priority = "NORMAL:-VERS-ALL:+VERS-TLS1.3:-CIPHER-ALL:+AES-128-CCM";
        else
            fail(name, EINVAL);
    }
}

int main(int count, char **arguments)
{
    struct endpoint server = {.stream = -1}, client = {.stream = -1};
    const ngtcp2_tstamp deadline = now() + 120 * NGTCP2_SECONDS;
    const struct ngtcp2_offload_stats *stats;
    const int on = 1;

    parse(count, arguments);
    make_body();
    make_certificate();
    open_socket(&server);
    open_socket(&client);
    server.remote = client.local;
    client.remote = server.local;
    quic_offload_zerocopy_init(&zerocopy, slots, BATCHES / 2);
    if (option_zerocopy && setsockopt(server.fd, SOL_SOCKET, SO_ZEROCOPY, &on, sizeof(on)) != 0)
        fail("SO_ZEROCOPY", errno);
    start_client(&client);

    while (!client.finished) {
        struct pollfd polled[2] = {{server.fd, POLLIN, 0}, {client.fd, POLLIN, 0}};
        int timeout = timeout_of(&client), rv;

        if (now() > deadline)
            fail("transfer", ETIMEDOUT);
        if (server.conn != NULL && timeout_of(&server) < timeout)
            timeout = timeout_of(&server);
        write_client(&client);
        poll(polled, 2, timeout);
        read_packets(&server, true);
        read_packets(&client, false);
        if ((rv = ngtcp2_conn_handle_expiry(client.conn, now())) != 0 ||
            (server.conn != NULL && (rv = ngtcp2_conn_handle_expiry(server.conn, now())) != 0))
            fail("ngtcp2_conn_handle_expiry", rv);
        if (server.conn != NULL)
            write_server(&server);
    }
    while (option_zerocopy && zerocopy_completions < zerocopy_sends && now() < deadline)
        read_completions(server.fd);

    stats = ngtcp2_offload_get_stats(server.offload);
    printf("{\"bytes\": %" PRIu64 ", \"packets_kernel\": %" PRIu64 ", \"packets_user\": %" PRIu64
           ", \"stepped_back\": %" PRIu64 ", \"sas\": %" PRIu64 ", \"sa_error\": %d"
           ", \"key_updates\": %" PRIu64 ", \"gso_sends\": %" PRIu64 ", \"zerocopy_sends\": %" PRIu64
           ", \"zerocopy_completions\": %" PRIu64 ", \"active\": %s}\n",
           client.offset, stats->packets_kernel, stats->packets_user, stats->stepped_back, stats->sas,
           stats->sa_error, key_updates, gso_sends, zerocopy_sends, zerocopy_completions,
           ngtcp2_offload_active(server.offload) ? "true" : "false");
    ngtcp2_conn_del(server.conn);
    ngtcp2_conn_del(client.conn);
    ngtcp2_offload_del(server.offload);
    gnutls_deinit(server.tls);
    gnutls_deinit(client.tls);
    gnutls_certificate_free_credentials(credentials);
    return client.offset == total ? 0 : 1;
}
