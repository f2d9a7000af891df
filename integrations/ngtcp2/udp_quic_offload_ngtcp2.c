/* SPDX-License-Identifier: MIT */
#include "udp_quic_offload_ngtcp2.h"

#include <ngtcp2/ngtcp2_crypto.h>

#include <stdlib.h>

#define DEFAULT_KEEP NGTCP2_SECONDS
#define KEYS 3 /* current, next, and one that may still be in a queue */
#define CONTROL_SIZE 512

/*
 * The sending keys of one key phase. Held by the connection, and by batches that
 * are not sent yet: ngtcp2's AEAD context stays as long.
 */
struct ngtcp2_offload_key {
    unsigned int references;
    bool in_kernel;
    bool retired; /* ngtcp2 has no more use for it */
    ngtcp2_tstamp until;
    struct quic_offload_sa sa;
    struct udp_quic_keys keys; /* its hp_key is that of the connection */
    ngtcp2_crypto_aead_ctx aead_ctx; /* null until a packet has shown the first key's */
};

struct ngtcp2_offload {
    int fd;
    struct ngtcp2_offload_options options;
    struct ngtcp2_offload_stats stats;
    size_t max_segments;
    bool supported;
    uint32_t ciphers; /* of the kernel's capabilities */
    unsigned int cipher;
    uint64_t next_cookie;
    ngtcp2_tstamp now; /* as of the last write */
    uint8_t hp_key[UDP_QUIC_KEY_MAX];
    ngtcp2_offload_key *keys[KEYS]; /* the oldest first */

    ngtcp2_crypto_aead aead;
    ngtcp2_crypto_cipher hp;
    ngtcp2_crypto_cipher_ctx hp_ctx;
    const void *first_handle; /* of the AEAD context of the first 1-RTT key */

    /* Of the call that writes now */
    uint8_t *dest;
    bool keep;
    bool zero_mask;
    ngtcp2_offload_key *written_key;
    uint64_t written_pn;
    uint16_t written_pn_offset;
};

static ngtcp2_offload_of offload_of;

/* encrypt and hp_mask are given no user data, but are called from within a call that writes. */
static _Thread_local ngtcp2_offload *writing;

/* --- keys ---------------------------------------------------------------- */

static void key_unref(ngtcp2_offload_key *key)
{
    if (key == NULL || --key->references != 0)
        return;
    quic_offload_sa_remove(&key->sa);
    if (key->retired)
        ngtcp2_crypto_aead_ctx_free(&key->aead_ctx);
    quic_offload_wipe(key, sizeof(*key));
    free(key);
}

static void keys_remove(ngtcp2_offload *offload, size_t i)
{
    key_unref(offload->keys[i]);
    for (; i + 1 < KEYS; ++i)
        offload->keys[i] = offload->keys[i + 1];
    offload->keys[KEYS - 1] = NULL;
}

static void keys_append(ngtcp2_offload *offload, ngtcp2_offload_key *key)
{
    size_t i;

    if (offload->keys[KEYS - 1] != NULL)
        keys_remove(offload, 0);
    for (i = 0; offload->keys[i] != NULL; ++i)
        ;
    offload->keys[i] = key;
}

static ngtcp2_offload_key *key_of_handle(ngtcp2_offload *offload, const void *handle)
{
    size_t i;

    for (i = 0; i < KEYS && offload->keys[i] != NULL; ++i)
        if (offload->keys[i]->aead_ctx.native_handle == handle && !offload->keys[i]->retired)
            return offload->keys[i];
    return NULL;
}

/* HKDF-Expand-Label (RFC 8446 section 7.1) without context. */
static int expand_label(uint8_t *out, size_t length, const ngtcp2_crypto_md *md,
                        const uint8_t *secret, size_t secret_length, const char *label)
{
    uint8_t info[64];
    const size_t label_length = strlen(label);

    info[0] = 0;
    info[1] = (uint8_t)length;
    info[2] = (uint8_t)(sizeof("tls13 ") - 1 + label_length);
    memcpy(info + 3, "tls13 ", sizeof("tls13 ") - 1);
    memcpy(info + 3 + sizeof("tls13 ") - 1, label, label_length);
    info[3 + info[2]] = 0;
    return ngtcp2_crypto_hkdf_expand(out, length, md, secret, secret_length, info,
                                     (size_t)info[2] + 4);
}

/* The labels of version 2 (RFC 9369 section 3.3.2) differ. */
static bool is_version_2(ngtcp2_conn *conn)
{
    const uint32_t version = ngtcp2_conn_get_negotiated_version(conn);

    return version == 0x6b3343cf || version == 0x709a50c4;
}

/* TLS libraries name ciphers in ways of their own; key length and limit tell them apart. */
static unsigned int cipher_of_context(const ngtcp2_crypto_ctx *context)
{
    const size_t key_length = ngtcp2_crypto_aead_keylen(&context->aead);
    unsigned int cipher;

    for (cipher = UDP_QUIC_CIPHER_AES_128_GCM; cipher <= UDP_QUIC_CIPHER_AES_128_CCM; ++cipher) {
        const uint64_t limit = quic_offload_confidentiality_limit(cipher);

        if (key_length == quic_offload_key_length(cipher) &&
            (limit != 0 ? context->max_encryption == limit
                        : context->max_encryption > UDP_QUIC_PN_MAX >> 1))
            return cipher;
    }
    return 0;
}

/* "quic key" and "quic iv" of @secret; the header protection key is there. */
static bool derive(ngtcp2_offload *offload, ngtcp2_conn *conn, const uint8_t *secret,
                   size_t secret_length, struct udp_quic_keys *keys)
{
    const ngtcp2_crypto_ctx *context = ngtcp2_conn_get_crypto_ctx(conn);
    const bool v2 = is_version_2(conn);
    uint8_t key[UDP_QUIC_KEY_MAX], iv[UDP_QUIC_IV_LEN];
    bool ok;

    ok = expand_label(key, quic_offload_key_length(offload->cipher), &context->md, secret,
                      secret_length, v2 ? "quicv2 key" : "quic key") == 0 &&
         expand_label(iv, sizeof(iv), &context->md, secret, secret_length,
                      v2 ? "quicv2 iv" : "quic iv") == 0 &&
         quic_offload_keys_set(keys, offload->cipher, key, iv, offload->hp_key) == 0;
    quic_offload_wipe(key, sizeof(key));
    return ok;
}

/* Installs @keys as those of @aead_ctx. In user space if the kernel will not have them. */
static void add_key(ngtcp2_offload *offload, const struct udp_quic_keys *keys,
                    const ngtcp2_crypto_aead_ctx *aead_ctx)
{
    ngtcp2_offload_key *key = (ngtcp2_offload_key *)calloc(1, sizeof(*key));
    int error;

    if (key == NULL)
        return;
    key->references = 1;
    key->aead_ctx = *aead_ctx;
    key->keys = *keys;
    quic_offload_sa_init(&key->sa);
    if ((offload->options.flags & NGTCP2_OFFLOAD_INLINE_KEYS) != 0) {
        key->in_kernel = true;
    } else {
        error = quic_offload_sa_install(&key->sa, offload->fd, offload->next_cookie++, keys,
                                        quic_offload_confidentiality_limit(offload->cipher),
                                        offload->options.sa_flags);
        key->in_kernel = error == 0;
        if (error == 0)
            ++offload->stats.sas;
        else
            offload->stats.sa_error = error;
    }
    keys_append(offload, key);
}

/* The first 1-RTT key, from the secret that the first key update starts from. */
static bool add_first_key(ngtcp2_offload *offload, ngtcp2_conn *conn, const uint8_t *secret,
                          size_t secret_length)
{
    const ngtcp2_crypto_ctx *context = ngtcp2_conn_get_crypto_ctx(conn);
    const ngtcp2_crypto_aead_ctx aead_ctx = {(void *)offload->first_handle};
    struct udp_quic_keys keys;
    bool ok;

    offload->cipher = cipher_of_context(context);
    if (offload->cipher == 0 || (offload->ciphers >> offload->cipher & 1) == 0)
        return false;
    offload->aead = context->aead;
    offload->hp = context->hp;
    ok = expand_label(offload->hp_key, quic_offload_key_length(offload->cipher), &context->md,
                      secret, secret_length, is_version_2(conn) ? "quicv2 hp" : "quic hp") == 0 &&
         derive(offload, conn, secret, secret_length, &keys);
    if (ok)
        add_key(offload, &keys, &aead_ctx);
    quic_offload_wipe(&keys, sizeof(keys));
    return ok;
}

/* --- ngtcp2's callbacks -------------------------------------------------- */

static int update_key(ngtcp2_conn *conn, uint8_t *rx_secret, uint8_t *tx_secret,
                      ngtcp2_crypto_aead_ctx *rx_aead_ctx, uint8_t *rx_iv,
                      ngtcp2_crypto_aead_ctx *tx_aead_ctx, uint8_t *tx_iv,
                      const uint8_t *current_rx_secret, const uint8_t *current_tx_secret,
                      size_t secretlen, void *user_data)
{
    ngtcp2_offload *offload = offload_of(user_data);
    struct udp_quic_keys keys;
    int rv;

    if (offload != NULL && offload->supported && offload->cipher == 0)
        offload->supported = add_first_key(offload, conn, current_tx_secret, secretlen);
    rv = ngtcp2_crypto_update_key_cb(conn, rx_secret, tx_secret, rx_aead_ctx, rx_iv, tx_aead_ctx,
                                     tx_iv, current_rx_secret, current_tx_secret, secretlen,
                                     user_data);
    if (rv != 0 || offload == NULL || !offload->supported)
        return rv;
    /* That the IV is ngtcp2's shows that this derivation is its own. */
    if (derive(offload, conn, tx_secret, secretlen, &keys) &&
        memcmp(keys.iv, tx_iv, UDP_QUIC_IV_LEN) == 0)
        add_key(offload, &keys, tx_aead_ctx);
    quic_offload_wipe(&keys, sizeof(keys));
    return 0;
}

static void delete_aead_ctx(ngtcp2_conn *conn, ngtcp2_crypto_aead_ctx *aead_ctx, void *user_data)
{
    ngtcp2_offload *offload = offload_of(user_data);
    ngtcp2_offload_key *key = NULL;

    if (offload != NULL && aead_ctx->native_handle != NULL)
        key = key_of_handle(offload, aead_ctx->native_handle);
    if (key == NULL) {
        ngtcp2_crypto_delete_crypto_aead_ctx_cb(conn, aead_ctx, user_data);
        return;
    }
    /* Packets below the socket may need its SA, and waiting batches its context. */
    key->retired = true;
    key->until = offload->now + offload->options.keep;
    aead_ctx->native_handle = NULL;
}

/* Whether the packet behind @header may stay in plaintext; notes what the kernel has to know. */
static bool leave_in_plaintext(ngtcp2_offload *offload, const ngtcp2_crypto_aead_ctx *aead_ctx,
                               const uint8_t *nonce, size_t nonce_length, const uint8_t *header,
                               size_t header_length, const uint8_t *payload)
{
    ngtcp2_offload_key *key;
    uint64_t pn;

    if (offload->first_handle == NULL)
        offload->first_handle = aead_ctx->native_handle;
    key = key_of_handle(offload, aead_ctx->native_handle);
    if (key == NULL && offload->keys[0] != NULL &&
        offload->keys[0]->aead_ctx.native_handle == NULL && !offload->keys[0]->retired) {
        key = offload->keys[0];
        key->aead_ctx = *aead_ctx;
    }
    /* A packet that is coalesced behind another one is not where the kernel looks for it. */
    if (key == NULL || !key->in_kernel || offload->keep || header != offload->dest ||
        payload != header + header_length || nonce_length != UDP_QUIC_IV_LEN)
        return false;
    pn = quic_offload_pn_of_nonce(nonce, key->keys.iv);
    if (pn > UDP_QUIC_PN_MAX)
        return false;
    offload->written_key = key;
    offload->written_pn = pn;
    offload->written_pn_offset = (uint16_t)(header_length - quic_offload_pn_length(header[0]));
    return true;
}

static int encrypt(uint8_t *dest, const ngtcp2_crypto_aead *aead,
                   const ngtcp2_crypto_aead_ctx *aead_ctx, const uint8_t *plaintext,
                   size_t plaintextlen, const uint8_t *nonce, size_t noncelen, const uint8_t *aad,
                   size_t aadlen)
{
    ngtcp2_offload *offload = writing;

    /* The associated data is the header. Retry packets are made outside of a write. */
    if (offload != NULL && aadlen != 0) {
        offload->zero_mask = false;
        if (quic_offload_is_short_header(aad[0])) {
            if (leave_in_plaintext(offload, aead_ctx, nonce, noncelen, aad, aadlen, dest)) {
                offload->zero_mask = true;
                if (dest != plaintext)
                    memmove(dest, plaintext, plaintextlen);
                return 0;
            }
            ++offload->stats.packets_user;
        }
    }
    return ngtcp2_crypto_encrypt_cb(dest, aead, aead_ctx, plaintext, plaintextlen, nonce, noncelen,
                                    aad, aadlen);
}

static int hp_mask(uint8_t *dest, const ngtcp2_crypto_cipher *hp,
                   const ngtcp2_crypto_cipher_ctx *hp_ctx, const uint8_t *sample)
{
    /* It follows encrypt() for the same packet. Received packets are unmasked outside of a write. */
    if (writing != NULL && writing->zero_mask) {
        writing->zero_mask = false;
        writing->hp_ctx = *hp_ctx;
        memset(dest, 0, NGTCP2_HP_MASKLEN);
        return 0;
    }
    return ngtcp2_crypto_hp_mask_cb(dest, hp, hp_ctx, sample);
}

/* --- a connection -------------------------------------------------------- */

int ngtcp2_offload_new(ngtcp2_offload **offload, int fd, ngtcp2_callbacks *callbacks,
                       ngtcp2_offload_of of, const struct ngtcp2_offload_options *options)
{
    ngtcp2_offload *made = (ngtcp2_offload *)calloc(1, sizeof(*made));
    struct udp_crypto_caps caps;

    if (made == NULL)
        return ENOMEM;
    if (options != NULL)
        made->options = *options;
    if (made->options.keep == 0)
        made->options.keep = DEFAULT_KEEP;
    made->fd = fd;
    made->next_cookie = made->options.cookie;
    made->max_segments = 64; /* of UDP_SEGMENT in any kernel */
    if ((made->options.flags & NGTCP2_OFFLOAD_USER_SPACE) == 0 &&
        quic_offload_probe(fd, &caps) == 0 && quic_offload_has_tag_room(&caps)) {
        made->supported = true;
        made->ciphers = caps.ciphers;
        made->max_segments = caps.max_segments;
    }

    offload_of = of;
    callbacks->encrypt = encrypt;
    callbacks->hp_mask = hp_mask;
    callbacks->update_key = update_key;
    callbacks->delete_crypto_aead_ctx = delete_aead_ctx;
    *offload = made;
    return 0;
}

void ngtcp2_offload_del(ngtcp2_offload *offload)
{
    if (offload == NULL)
        return;
    while (offload->keys[0] != NULL)
        keys_remove(offload, 0);
    quic_offload_wipe(offload, sizeof(*offload));
    free(offload);
}

void ngtcp2_offload_expire(ngtcp2_offload *offload, ngtcp2_tstamp ts)
{
    offload->now = ts;
    while (offload->keys[0] != NULL && offload->keys[0]->retired && offload->keys[0]->until <= ts)
        keys_remove(offload, 0);
}

/* The key in use: the oldest that ngtcp2 has not dropped. */
static ngtcp2_offload_key *current_key(const ngtcp2_offload *offload)
{
    size_t i;

    for (i = 0; i < KEYS && offload->keys[i] != NULL; ++i)
        if (!offload->keys[i]->retired)
            return offload->keys[i];
    return NULL;
}

bool ngtcp2_offload_active(const ngtcp2_offload *offload)
{
    const ngtcp2_offload_key *key = current_key(offload);

    return key != NULL && key->in_kernel;
}

const struct ngtcp2_offload_stats *ngtcp2_offload_get_stats(const ngtcp2_offload *offload)
{
    return &offload->stats;
}

const struct quic_offload_sa *ngtcp2_offload_get_sa(const ngtcp2_offload *offload)
{
    const ngtcp2_offload_key *key = current_key(offload);

    return key != NULL && quic_offload_sa_exists(&key->sa) ? &key->sa : NULL;
}

/* --- writing ------------------------------------------------------------- */

void ngtcp2_offload_begin(ngtcp2_offload *offload, uint8_t *dest, bool keep)
{
    offload->dest = dest;
    offload->keep = keep;
    offload->zero_mask = false;
    offload->written_key = NULL;
    writing = offload;
}

void ngtcp2_offload_end(ngtcp2_offload *offload, ngtcp2_ssize length,
                        struct ngtcp2_offload_batch *datagram)
{
    ngtcp2_offload_key *key = offload->written_key;
    uint32_t sa = UDP_QUIC_CRYPTO_SA_INLINE;

    writing = NULL;
    offload->written_key = NULL;
    if (length <= 0 || datagram == NULL)
        return;
    if (key != NULL) {
        ++key->references;
        ++offload->stats.packets_kernel;
        if (quic_offload_sa_exists(&key->sa))
            sa = key->sa.index;
    }
    datagram->data = offload->dest;
    datagram->key = key;
    datagram->zerocopy_sends = 0;
    quic_offload_batch_start(&datagram->packets, (size_t)length, key != NULL ? offload->written_pn : 0,
                             sa, key != NULL ? offload->written_pn_offset : 0,
                             offload->max_segments);
}

bool ngtcp2_offload_join(struct ngtcp2_offload_batch *batch, struct ngtcp2_offload_batch *datagram)
{
    const struct quic_offload_batch *next = &datagram->packets;

    if (batch->packets.packets == 0) {
        *batch = *datagram;
    } else {
        if (!next->open || batch->key != datagram->key ||
            batch->data + batch->packets.bytes != datagram->data)
            return false;
        /* Protected packets have no number to follow. */
        if (!quic_offload_batch_append(&batch->packets, next->bytes,
                                       batch->key != NULL
                                           ? next->pn
                                           : batch->packets.pn + batch->packets.packets,
                                       next->sa, next->pn_offset))
            return false;
        key_unref(datagram->key);
    }
    memset(datagram, 0, sizeof(*datagram));
    return true;
}

void ngtcp2_offload_clear(struct ngtcp2_offload_batch *batch)
{
    key_unref(batch->key);
    memset(batch, 0, sizeof(*batch));
}

/* --- sending ------------------------------------------------------------- */

/* Does to one packet what ngtcp2 would have done. */
static bool protect(ngtcp2_offload *offload, const ngtcp2_offload_key *key, uint8_t *packet,
                    size_t length, uint64_t pn, size_t pn_offset)
{
    const size_t header = pn_offset + quic_offload_pn_length(packet[0]);
    uint8_t nonce[UDP_QUIC_IV_LEN];
    uint8_t mask[UDP_QUIC_SAMPLE_LEN]; /* a crypto helper may write a whole block */

    if (length < header + UDP_QUIC_TAG_LEN || length < pn_offset + 4 + UDP_QUIC_SAMPLE_LEN)
        return false;
    quic_offload_nonce(nonce, key->keys.iv, pn);
    if (ngtcp2_crypto_encrypt_cb(packet + header, &offload->aead, &key->aead_ctx, packet + header,
                                 length - header - UDP_QUIC_TAG_LEN, nonce, sizeof(nonce), packet,
                                 header) != 0 ||
        ngtcp2_crypto_hp_mask_cb(mask, &offload->hp, &offload->hp_ctx,
                                 packet + pn_offset + 4) != 0)
        return false;
    quic_offload_mask_header(packet, pn_offset, mask);
    ++offload->stats.stepped_back;
    ++offload->stats.packets_user;
    --offload->stats.packets_kernel;
    return true;
}

/* The kernel will not protect these packets: do it here, in place, and all later ones of the key. */
static bool step_back(ngtcp2_offload *offload, struct ngtcp2_offload_batch *batch)
{
    const struct quic_offload_batch *packets = &batch->packets;
    size_t i, at = 0;

    batch->key->in_kernel = false;
    for (i = 0; i < packets->packets; ++i) {
        const size_t left = packets->bytes - at;
        const size_t length = left < packets->gso_size ? left : packets->gso_size;

        if (!protect(offload, batch->key, batch->data + at, length, packets->pn + i,
                     packets->pn_offset))
            return false;
        at += length;
    }
    key_unref(batch->key);
    batch->key = NULL;
    return true;
}

/* One sendmsg() of the first @packets packets. 0 or the errno. */
static int send_once(int fd, const struct msghdr *given, const struct ngtcp2_offload_batch *batch,
                     bool single, int flags)
{
    union {
        struct cmsghdr align;
        unsigned char bytes[CONTROL_SIZE];
    } buffer;
    const struct quic_offload_batch *packets = &batch->packets;
    const bool gso = packets->packets > 1 && !single;
    struct quic_offload_control control;
    struct msghdr message = *given;
    struct iovec vector;
    int error;

    if (given->msg_controllen > CONTROL_SIZE - QUIC_OFFLOAD_CONTROL_SIZE)
        return EINVAL;
    quic_offload_control_init(&control, buffer.bytes, sizeof(buffer.bytes));
    if (given->msg_controllen != 0) {
        memcpy(buffer.bytes, given->msg_control, given->msg_controllen);
        control.length = CMSG_ALIGN(given->msg_controllen);
    }
    if (gso)
        quic_offload_control_append_gso_size(&control, (uint16_t)packets->gso_size);
    if (batch->key != NULL && quic_offload_sa_exists(&batch->key->sa))
        quic_offload_control_append_sa(&control, packets->pn, packets->sa, packets->pn_offset,
                                       UDP_QUIC_CRYPTO_F_TAG_ROOM);
    else if (batch->key != NULL)
        quic_offload_control_append_keys(&control, packets->pn, &batch->key->keys,
                                         packets->pn_offset, UDP_QUIC_CRYPTO_F_TAG_ROOM);
    vector.iov_base = batch->data;
    vector.iov_len = gso ? packets->bytes : packets->gso_size;
    message.msg_iov = &vector;
    message.msg_iovlen = 1;
    quic_offload_control_attach(&control, &message);
    do
        error = sendmsg(fd, &message, flags) < 0 ? errno : 0;
    while (error == EINTR);
    quic_offload_control_wipe(&control);
    return error;
}

int ngtcp2_offload_send(ngtcp2_offload *offload, int fd, const struct msghdr *message,
                        struct ngtcp2_offload_batch *batch, int flags)
{
    bool single = false;
    int error = 0;

    while (batch->packets.packets != 0) {
        error = send_once(fd, message, batch, single, flags);
        if (error == 0) {
            batch->zerocopy_sends += (flags & MSG_ZEROCOPY) != 0;
            if (!single || batch->packets.packets == 1)
                break;
            batch->data += batch->packets.gso_size;
            quic_offload_batch_pop(&batch->packets);
            continue;
        }
        if (error == EAGAIN)
            return EAGAIN;
        if (error == ENOBUFS && (flags & MSG_ZEROCOPY) != 0) {
            flags &= ~MSG_ZEROCOPY; /* too many completions are outstanding */
            continue;
        }
        switch (quic_offload_advise(error)) {
        case QUIC_OFFLOAD_USER_SPACE:
        case QUIC_OFFLOAD_PROGRAM_ERROR:
            if (batch->key != NULL && step_back(offload, batch))
                continue;
            break;
        case QUIC_OFFLOAD_SEND_SINGLY:
            if (batch->packets.packets > 1 && !single) {
                single = true;
                continue;
            }
            break;
        case QUIC_OFFLOAD_WAIT:
        case QUIC_OFFLOAD_DROP:
            break;
        }
        break;
    }
    key_unref(batch->key);
    batch->key = NULL;
    batch->packets.packets = 0;
    batch->packets.bytes = 0;
    return error;
}
