/* SPDX-License-Identifier: MIT */
/*
 * UDP_QUIC_CRYPTO for servers and clients on ngtcp2: the kernel, or the NIC,
 * protects the 1-RTT packets that a connection sends. Three calls:
 *
 *	ngtcp2_offload_new()		before ngtcp2_conn_server_new() or
 *					ngtcp2_conn_client_new()
 *	ngtcp2_offload_writev_stream()	in place of ngtcp2_conn_writev_stream()
 *	ngtcp2_offload_send()		in place of sendmsg()
 *
 * and ngtcp2_offload_del() at the end. Whatever the kernel cannot or will not
 * protect is protected in user space, by ngtcp2's crypto helper: no connection
 * fails for want of the offload.
 *
 * Works with every TLS library that ngtcp2 has a crypto helper for, and needs no
 * change in the use of TLS: the traffic secret comes with ngtcp2's update_key
 * callback, which it calls once the handshake is confirmed. Packets before that
 * are protected in user space. ngtcp2 0.12 and 1.x.
 *
 * udp_quic_offload_ngtcp2(3) describes each function. A connection and all that
 * belongs to it is used by one thread at a time.
 */
#ifndef UDP_QUIC_OFFLOAD_NGTCP2_H
#define UDP_QUIC_OFFLOAD_NGTCP2_H

#include <udp_quic_offload.h>

#include <ngtcp2/ngtcp2.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct ngtcp2_offload ngtcp2_offload;
typedef struct ngtcp2_offload_key ngtcp2_offload_key;

/* The offload of the connection whose user data is @user_data; null: it has none. */
typedef ngtcp2_offload *(*ngtcp2_offload_of)(void *user_data);

/* Keys go to the kernel with each send, and none stay there. */
#define NGTCP2_OFFLOAD_INLINE_KEYS 0x1
/* Everything is protected in user space: for comparison, and to switch it off. */
#define NGTCP2_OFFLOAD_USER_SPACE 0x2

struct ngtcp2_offload_options {
    uint32_t flags;    /* NGTCP2_OFFLOAD_* */
    uint32_t sa_flags; /* UDP_CRYPTO_SA_F_*: SAME_UID if it sends over several sockets */
    uint64_t cookie;   /* names its SAs: no other connection of the socket has this or the next
                        * 2^16 - 1 numbers */
    ngtcp2_duration keep; /* of an SA after its last packet; 0: one second */
};

struct ngtcp2_offload_stats {
    uint64_t packets_kernel; /* handed to the kernel in plaintext */
    uint64_t packets_user;   /* 1-RTT packets protected in user space */
    uint64_t stepped_back;   /* of these, after the kernel had refused them */
    uint64_t sas;            /* installed */
    int sa_error;            /* the last errno of an installation that failed */
};

/*
 * The datagrams of one send, one behind the other in the buffer they were written
 * to; all zero: none. The buffer belongs to the batch until it is sent or cleared.
 */
struct ngtcp2_offload_batch {
    uint8_t *data;
    struct quic_offload_batch packets; /* bytes, packets, gso_size */
    ngtcp2_offload_key *key;           /* null: protected already */
    unsigned int zerocopy_sends;       /* with MSG_ZEROCOPY that have succeeded */
};

/*
 * Makes the offload of a connection that is about to be created with @callbacks,
 * in which it sets encrypt, hp_mask, update_key and delete_crypto_aead_ctx. Those
 * of ngtcp2's crypto helper, ngtcp2_crypto_encrypt_cb() and so on, are called from
 * them.
 *
 * @fd: the UDP socket, open until ngtcp2_offload_del(). A socket or a kernel that
 *	has no offload is no error.
 * @of: the same function for all connections of the process
 * @options: null: all zero
 *
 * Returns 0 or ENOMEM.
 */
int ngtcp2_offload_new(ngtcp2_offload **offload, int fd, ngtcp2_callbacks *callbacks,
                       ngtcp2_offload_of of, const struct ngtcp2_offload_options *options);

/*
 * Deletes it, and its SAs in the kernel: packets that wait in a queue of the
 * kernel are lost. After ngtcp2_conn_del(), and when its batches are sent or
 * cleared.
 */
void ngtcp2_offload_del(ngtcp2_offload *offload);

/*
 * Around one call of ngtcp2 that writes a datagram to @dest. The second takes its
 * result and fills @datagram, a batch of one; it may be null. With @keep the
 * datagram is protected in user space, for one that will be sent again as it is
 * (CONNECTION_CLOSE).
 */
void ngtcp2_offload_begin(ngtcp2_offload *offload, uint8_t *dest, bool keep);
void ngtcp2_offload_end(ngtcp2_offload *offload, ngtcp2_ssize length,
                        struct ngtcp2_offload_batch *datagram);

/* Deletes the SA of the last key when its time has come. */
void ngtcp2_offload_expire(ngtcp2_offload *offload, ngtcp2_tstamp ts);

/*
 * ngtcp2_conn_writev_stream() with the offload. When it returns a length,
 * @datagram is a batch of one. A path MTU probe takes no other datagram behind it.
 */
static inline ngtcp2_ssize ngtcp2_offload_writev_stream(
    ngtcp2_offload *offload, struct ngtcp2_offload_batch *datagram, ngtcp2_conn *conn,
    ngtcp2_path *path, ngtcp2_pkt_info *pi, uint8_t *dest, size_t destlen, ngtcp2_ssize *pdatalen,
    uint32_t flags, int64_t stream_id, const ngtcp2_vec *datav, size_t datavcnt, ngtcp2_tstamp ts)
{
    ngtcp2_ssize length;

    ngtcp2_offload_begin(offload, dest, false);
    length = ngtcp2_conn_writev_stream(conn, path, pi, dest, destlen, pdatalen, flags, stream_id,
                                       datav, datavcnt, ts);
    ngtcp2_offload_end(offload, length, datagram);
    if (length > 0 && (size_t)length > ngtcp2_conn_get_path_max_tx_udp_payload_size(conn))
        datagram->packets.open = false;
    ngtcp2_offload_expire(offload, ts);
    return length;
}

/*
 * Whether @datagram, which follows in memory and has the same addresses and ECN
 * bits, was taken into @batch, which may be empty. It is empty then.
 */
bool ngtcp2_offload_join(struct ngtcp2_offload_batch *batch, struct ngtcp2_offload_batch *datagram);

/* Forgets a batch that will not be sent. */
void ngtcp2_offload_clear(struct ngtcp2_offload_batch *batch);

/*
 * Sends @batch. @message has the address and control messages of the caller's
 * (source address, ECN), neither data nor UDP_SEGMENT. @flags: of sendmsg();
 * MSG_ZEROCOPY may be dropped, so count @batch->zerocopy_sends.
 *
 * Returns 0: sent, and the batch is empty. EAGAIN: the socket is full; @batch has
 * what is left, to be sent again when it is writable. Another errno: what is left
 * could not be sent and counts as lost; the batch is empty.
 */
int ngtcp2_offload_send(ngtcp2_offload *offload, int fd, const struct msghdr *message,
                        struct ngtcp2_offload_batch *batch, int flags);

/* Whether 1-RTT packets go to the kernel now. */
bool ngtcp2_offload_active(const ngtcp2_offload *offload);

const struct ngtcp2_offload_stats *ngtcp2_offload_get_stats(const ngtcp2_offload *offload);

/* The SA that packets name now, for quic_offload_sa_info(); null: none. */
const struct quic_offload_sa *ngtcp2_offload_get_sa(const ngtcp2_offload *offload);

#ifdef __cplusplus
}
#endif

#endif /* UDP_QUIC_OFFLOAD_NGTCP2_H */
