/* SPDX-License-Identifier: MIT */
/*
 * UDP_QUIC_CRYPTO for C senders: header only, C11 or later (and C++20), no
 * dependency but the uapi header, nothing allocated, nothing locked.
 *
 * What a QUIC library needs to let the kernel (or the NIC below it) protect its
 * 1-RTT packets, in the order of need:
 *
 * - quic_offload_probe(): can this socket do it, and with which ciphers.
 * - quic_offload_keys_set(): "quic key", "quic iv", "quic hp" of RFC 9001
 *   section 5.1 in the kernel's form; quic_offload_wipe() when done.
 * - struct quic_offload_sa: keys installed in the kernel; one for each key
 *   phase. struct quic_offload_phases holds those of a connection.
 * - struct quic_offload_control: the control messages of one sendmsg().
 * - struct quic_offload_batch: which packets go into one sendmsg().
 * - quic_offload_advise(): what to do about an errno of sendmsg().
 * - struct quic_offload_zerocopy: which buffers the kernel still reads from.
 * - quic_offload_pn_of_nonce(): the full packet number, for libraries whose
 *   crypto callbacks see nothing but the nonce.
 *
 * udp_quic_offload(3) describes each; docs/quic-library-guide.md walks through.
 *
 * Everything is in host byte order. Functions that can fail return 0 or a
 * positive errno, whose meaning is in <linux/udp_crypto.h>. Each object belongs
 * to one thread at a time, while the socket and its SAs may be used by many.
 */
#ifndef UDP_QUIC_OFFLOAD_H
#define UDP_QUIC_OFFLOAD_H

#include <assert.h>
#include <errno.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <time.h>

#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include <linux/errqueue.h>
#include <linux/udp_crypto.h>

#ifdef __cplusplus
extern "C" {
#endif

static_assert(sizeof(struct udp_quic_keys) == 80, "uapi header of another version");
static_assert(sizeof(struct udp_crypto_req) == 16, "uapi header of another version");
static_assert(sizeof(struct udp_crypto_sa) == 104, "uapi header of another version");
static_assert(sizeof(struct udp_crypto_sa_info) == 80, "uapi header of another version");
static_assert(sizeof(struct udp_crypto_caps) == 40, "uapi header of another version");
static_assert(sizeof(struct udp_quic_crypto) == 16, "uapi header of another version");

/*
 * Largest UDP payload of one send, batches included: 65,535 less the IPv4 and
 * UDP headers. IPv6 would allow 20 bytes more; one number keeps batches alike.
 */
#define QUIC_OFFLOAD_MAX_SEND 65507

/* Room for a source address, ECN, UDP_SEGMENT and inline keys in one send. */
#define QUIC_OFFLOAD_CONTROL_SIZE 256

/* UDP_SEGMENT, which old libc headers lack. */
#define QUIC_OFFLOAD_UDP_SEGMENT 103

/* Clears @length bytes that held a secret; the compiler does not leave it out. */
static inline void quic_offload_wipe(void *bytes, size_t length)
{
    memset(bytes, 0, length);
    __asm__ __volatile__("" : : "r"(bytes) : "memory");
}

/* --- ciphers and keys ---------------------------------------------------- */

/* Bytes of the packet key, and of the header protection key; 0: no such cipher. */
static inline size_t quic_offload_key_length(unsigned int cipher)
{
    switch (cipher) {
    case UDP_QUIC_CIPHER_AES_128_GCM:
    case UDP_QUIC_CIPHER_AES_128_CCM:
        return 16;
    case UDP_QUIC_CIPHER_AES_256_GCM:
    case UDP_QUIC_CIPHER_CHACHA20_POLY1305:
        return 32;
    default:
        return 0;
    }
}

/*
 * The cipher of a TLS 1.3 cipher suite (RFC 8446 appendix B.4), as TLS libraries
 * tell it; 0: QUIC does not use it. BoringSSL and OpenSSL put 0x03000000 before
 * the suite's two bytes, which is disregarded.
 */
static inline unsigned int quic_offload_cipher_of_suite(uint32_t suite)
{
    switch (suite & 0xffff) {
    case 0x1301:
        return UDP_QUIC_CIPHER_AES_128_GCM;
    case 0x1302:
        return UDP_QUIC_CIPHER_AES_256_GCM;
    case 0x1303:
        return UDP_QUIC_CIPHER_CHACHA20_POLY1305;
    case 0x1304:
        return UDP_QUIC_CIPHER_AES_128_CCM;
    default:
        return 0;
    }
}

/*
 * Packets one key may protect before a key update is due (RFC 9001 section 6.6);
 * 0: no limit. Good as the packet limit of an SA: the kernel then refuses what
 * the library should never do.
 */
static inline uint64_t quic_offload_confidentiality_limit(unsigned int cipher)
{
    switch (cipher) {
    case UDP_QUIC_CIPHER_AES_128_GCM:
    case UDP_QUIC_CIPHER_AES_256_GCM:
        return (uint64_t)1 << 23;
    case UDP_QUIC_CIPHER_AES_128_CCM:
        return 2965820; /* 2^21.5 */
    default:
        return 0;
    }
}

/*
 * Fills @keys. @key and @hp_key are quic_offload_key_length(@cipher) bytes each,
 * @iv UDP_QUIC_IV_LEN. Returns EINVAL for an unknown cipher. Wipe @keys after use.
 */
static inline int quic_offload_keys_set(struct udp_quic_keys *keys, unsigned int cipher,
                                        const uint8_t *key, const uint8_t *iv,
                                        const uint8_t *hp_key)
{
    const size_t length = quic_offload_key_length(cipher);

    if (length == 0)
        return EINVAL;
    memset(keys, 0, sizeof(*keys));
    keys->cipher = (uint16_t)cipher;
    memcpy(keys->iv, iv, UDP_QUIC_IV_LEN);
    memcpy(keys->key, key, length);
    memcpy(keys->hp_key, hp_key, length);
    return 0;
}

/* --- what the kernel can do ---------------------------------------------- */

/*
 * What the kernel can do for the UDP socket @fd; @caps is valid after 0.
 * ENOPROTOOPT: nothing, protect in user space.
 */
static inline int quic_offload_probe(int fd, struct udp_crypto_caps *caps)
{
    socklen_t length = sizeof(*caps);

    memset(caps, 0, sizeof(*caps));
    caps->req.type = UDP_CRYPTO_QUIC;
    caps->req.op = UDP_CRYPTO_OP_GET_CAPS;
    if (getsockopt(fd, IPPROTO_UDP, UDP_CRYPTO_STATE, caps, &length) != 0)
        return errno;
    /* Another option may live at this number on a kernel without this one. */
    if (length < offsetof(struct udp_crypto_caps, max_sa_per_uid) ||
        caps->tag_len != UDP_QUIC_TAG_LEN)
        return ENOPROTOOPT;
    return 0;
}

static inline bool quic_offload_has_cipher(const struct udp_crypto_caps *caps, unsigned int cipher)
{
    return cipher < 32 && (caps->ciphers >> cipher & 1) != 0;
}

/* Whether packets may hold room for their tags, which zero-copy needs. */
static inline bool quic_offload_has_tag_room(const struct udp_crypto_caps *caps)
{
    return (caps->cmsg_flags & UDP_QUIC_CRYPTO_F_TAG_ROOM) != 0;
}

/* --- security associations ----------------------------------------------- */

/* An SA of a socket; @fd < 0: none. */
struct quic_offload_sa {
    int fd;
    uint32_t index; /* for the control message of each send */
    uint64_t cookie;
};

static inline void quic_offload_sa_init(struct quic_offload_sa *sa)
{
    sa->fd = -1;
    sa->index = 0;
    sa->cookie = 0;
}

static inline bool quic_offload_sa_exists(const struct quic_offload_sa *sa)
{
    return sa->fd >= 0;
}

static inline void quic_offload_request(struct udp_crypto_req *request, enum udp_crypto_op op,
                                        uint64_t cookie, uint32_t flags)
{
    request->type = UDP_CRYPTO_QUIC;
    request->op = (uint16_t)op;
    request->flags = flags;
    request->cookie = cookie;
}

/* Which path the SA takes now (@state, @ifindex of @info) and its counters. */
static inline int quic_offload_sa_info(const struct quic_offload_sa *sa,
                                       struct udp_crypto_sa_info *info)
{
    socklen_t length = sizeof(*info);

    memset(info, 0, sizeof(*info));
    quic_offload_request(&info->req, UDP_CRYPTO_OP_GET_SA, sa->cookie, 0);
    return getsockopt(sa->fd, IPPROTO_UDP, UDP_CRYPTO_STATE, info, &length) != 0 ? errno : 0;
}

/*
 * Deletes the SA; nothing to do and 0 for one that does not exist.
 *
 * The kernel drops packets that still wait below the socket (qdisc, device
 * queue) when their SA is deleted: keep the SA for a moment after its last
 * packet, some probe timeouts say, as one keeps old receive keys (RFC 9001
 * section 6.5). struct quic_offload_phases does.
 */
static inline int quic_offload_sa_remove(struct quic_offload_sa *sa)
{
    struct udp_crypto_req request;
    const int fd = sa->fd;

    sa->fd = -1;
    if (fd < 0)
        return 0;
    quic_offload_request(&request, UDP_CRYPTO_OP_DEL_SA, sa->cookie, 0);
    return setsockopt(fd, IPPROTO_UDP, UDP_CRYPTO_STATE, &request, sizeof(request)) != 0 ? errno
                                                                                         : 0;
}

/*
 * Installs @keys; @sa is valid, and to be removed, after 0, and does not exist
 * after an error, which means in every case: step back to user space.
 *
 * @fd: the UDP socket. It is borrowed, and to be kept open until the SA is
 *	removed, since a closed descriptor's number may come back as another
 *	socket. Closing the socket deletes its SAs.
 * @cookie: any number that no other SA of the socket has
 * @packet_limit: packets it may protect; 0: no limit
 * @flags: UDP_CRYPTO_SA_F_*
 *
 * Install early: where a library prepares the *next* keys is the right place, so
 * that a device has them by the time that the first packet uses them.
 */
static inline int quic_offload_sa_install(struct quic_offload_sa *sa, int fd, uint64_t cookie,
                                          const struct udp_quic_keys *keys, uint64_t packet_limit,
                                          uint32_t flags)
{
    struct udp_crypto_sa request;
    struct udp_crypto_sa_info info;
    int error;

    quic_offload_sa_init(sa);
    memset(&request, 0, sizeof(request));
    quic_offload_request(&request.req, UDP_CRYPTO_OP_ADD_SA, cookie, flags);
    request.packet_limit = packet_limit;
    request.keys = *keys;
    error =
        setsockopt(fd, IPPROTO_UDP, UDP_CRYPTO_STATE, &request, sizeof(request)) != 0 ? errno : 0;
    quic_offload_wipe(&request, sizeof(request));
    if (error != 0)
        return error;

    sa->fd = fd;
    sa->cookie = cookie;
    error = quic_offload_sa_info(sa, &info);
    if (error != 0) {
        quic_offload_sa_remove(sa);
        return error;
    }
    sa->index = info.sa;
    return 0;
}

/*
 * The SAs of one connection over its key updates (RFC 9001 section 6): one in
 * use, one that the next update will use, one that packets in the kernel's
 * queues may still need. Any of them may not exist.
 */
struct quic_offload_phases {
    struct quic_offload_sa current;
    struct quic_offload_sa next;
    struct quic_offload_sa previous;
    uint64_t previous_until; /* @previous may go at this time, in the caller's unit */
};

static inline void quic_offload_phases_init(struct quic_offload_phases *phases)
{
    quic_offload_sa_init(&phases->current);
    quic_offload_sa_init(&phases->next);
    quic_offload_sa_init(&phases->previous);
    phases->previous_until = 0;
}

/*
 * Sending has gone over to the next key. @until: when the SA of the last one may
 * be deleted, three probe timeouts from now, say. One that was kept so far goes
 * now: its update was confirmed a round trip ago.
 */
static inline void quic_offload_phases_switch(struct quic_offload_phases *phases, uint64_t until)
{
    quic_offload_sa_remove(&phases->previous);
    phases->previous = phases->current;
    phases->previous_until = until;
    phases->current = phases->next;
    quic_offload_sa_init(&phases->next);
}

/* Deletes the previous key's SA if its time has come. */
static inline void quic_offload_phases_expire(struct quic_offload_phases *phases, uint64_t now)
{
    if (now >= phases->previous_until)
        quic_offload_sa_remove(&phases->previous);
}

/* At the end of the connection, after its last packet has had time to leave. */
static inline void quic_offload_phases_remove(struct quic_offload_phases *phases)
{
    quic_offload_sa_remove(&phases->previous);
    quic_offload_sa_remove(&phases->current);
    quic_offload_sa_remove(&phases->next);
}

/* --- packets ------------------------------------------------------------- */

/* True for 1-RTT packets (RFC 9000 section 17.3). */
static inline bool quic_offload_is_short_header(uint8_t first_byte)
{
    return (first_byte & 0x80) == 0;
}

/* Bytes of the truncated packet number, from a first byte without header protection. */
static inline size_t quic_offload_pn_length(uint8_t first_byte)
{
    return (size_t)(first_byte & 0x03) + 1;
}

/* RFC 9001 section 5.3: the nonce is the IV with the packet number added by XOR. */
static inline void quic_offload_nonce(uint8_t nonce[UDP_QUIC_IV_LEN],
                                      const uint8_t iv[UDP_QUIC_IV_LEN], uint64_t pn)
{
    size_t i;

    memcpy(nonce, iv, UDP_QUIC_IV_LEN);
    for (i = 0; i < sizeof(pn); ++i)
        nonce[UDP_QUIC_IV_LEN - 1 - i] ^= (uint8_t)(pn >> (8 * i));
}

/* The packet number that made @nonce of @iv; UINT64_MAX: the two do not belong together. */
static inline uint64_t quic_offload_pn_of_nonce(const uint8_t nonce[UDP_QUIC_IV_LEN],
                                                const uint8_t iv[UDP_QUIC_IV_LEN])
{
    uint64_t pn = 0;
    size_t i;

    for (i = 0; i < UDP_QUIC_IV_LEN; ++i) {
        const uint8_t byte = nonce[i] ^ iv[i];

        if (i < UDP_QUIC_IV_LEN - sizeof(pn) && byte != 0)
            return UINT64_MAX;
        pn = pn << 8 | byte;
    }
    return pn <= UDP_QUIC_PN_MAX ? pn : UINT64_MAX;
}

/*
 * Adds header protection to the short header of @packet, whose packet number
 * starts at @pn_offset (RFC 9001 section 5.4.1): for who steps back and has
 * sealed the packet already. @mask: 5 bytes, made of the sample at
 * @pn_offset + 4.
 */
static inline void quic_offload_mask_header(uint8_t *packet, size_t pn_offset,
                                            const uint8_t mask[5])
{
    const size_t pn_length = quic_offload_pn_length(packet[0]);
    size_t i;

    packet[0] ^= mask[0] & 0x1f;
    for (i = 0; i < pn_length; ++i)
        packet[pn_offset + i] ^= mask[1 + i];
}

/* Packets of @gso_size bytes that go into one send. */
static inline size_t quic_offload_max_batch(size_t gso_size, size_t max_segments)
{
    const size_t fit = gso_size != 0 ? QUIC_OFFLOAD_MAX_SEND / gso_size : 0;

    return fit < max_segments ? fit : max_segments;
}

/*
 * One or more packets, one behind the other in memory, that one sendmsg() can
 * carry: of one size but for a shorter last one, of one SA, with packet numbers
 * without a gap. Addresses and ECN are the caller's to compare.
 */
struct quic_offload_batch {
    uint64_t pn; /* of the first packet */
    uint32_t sa;
    uint16_t pn_offset;
    bool open; /* takes another packet */
    size_t packets;
    size_t gso_size; /* bytes of each packet on the wire, tag included */
    size_t bytes;    /* of all */
    size_t max_packets;
};

/*
 * @length: of the first packet, its tag included; @sa: SA index, or
 * UDP_QUIC_CRYPTO_SA_INLINE; @max_packets: at least 1, the max_segments of
 * struct udp_crypto_caps at most.
 */
static inline void quic_offload_batch_start(struct quic_offload_batch *batch, size_t length,
                                            uint64_t pn, uint32_t sa, uint16_t pn_offset,
                                            size_t max_packets)
{
    batch->pn = pn;
    batch->sa = sa;
    batch->pn_offset = pn_offset;
    batch->packets = 1;
    batch->gso_size = length;
    batch->bytes = length;
    batch->max_packets = max_packets;
    batch->open = max_packets > 1;
}

/* Whether the next packet was taken in. */
static inline bool quic_offload_batch_append(struct quic_offload_batch *batch, size_t length,
                                             uint64_t pn, uint32_t sa, uint16_t pn_offset)
{
    if (!batch->open || length > batch->gso_size ||
        batch->bytes + length > QUIC_OFFLOAD_MAX_SEND || sa != batch->sa ||
        pn != batch->pn + batch->packets || pn_offset != batch->pn_offset)
        return false;
    batch->bytes += length;
    ++batch->packets;
    batch->open = length == batch->gso_size && batch->packets < batch->max_packets;
    return true;
}

/* Takes the first packet off, when they have to be sent one by one. There must be another. */
static inline void quic_offload_batch_pop(struct quic_offload_batch *batch)
{
    batch->bytes -= batch->gso_size;
    if (batch->gso_size > batch->bytes)
        batch->gso_size = batch->bytes;
    --batch->packets;
    ++batch->pn;
}

/* --- sending ------------------------------------------------------------- */

/*
 * The control messages of one sendmsg(): append what the send needs, then
 * attach. The buffer is the caller's, and lives until sendmsg() is over.
 */
struct quic_offload_control {
    unsigned char *buffer; /* aligned as struct cmsghdr */
    size_t capacity;       /* bytes: a sum of CMSG_SPACE() */
    size_t length;
    bool holds_keys;
};

static inline void quic_offload_control_init(struct quic_offload_control *control, void *buffer,
                                             size_t capacity)
{
    control->buffer = (unsigned char *)buffer;
    control->capacity = capacity;
    control->length = 0;
    control->holds_keys = false;
}

/* False, and nothing appended, when there is no room. */
static inline bool quic_offload_control_append(struct quic_offload_control *control, int level,
                                               int type, const void *data, size_t length)
{
    struct cmsghdr header;
    unsigned char *at = control->buffer + control->length;

    if (CMSG_SPACE(length) > control->capacity - control->length)
        return false;
    memset(&header, 0, sizeof(header));
    header.cmsg_level = level;
    header.cmsg_type = type;
    header.cmsg_len = CMSG_LEN(length);
    memcpy(at, &header, sizeof(header));
    memcpy(at + CMSG_LEN(0), data, length);
    memset(at + CMSG_LEN(length), 0, CMSG_SPACE(length) - CMSG_LEN(length));
    control->length += CMSG_SPACE(length);
    return true;
}

/* A batch of packets of @gso_size bytes each on the wire, tag included; the last may be shorter. */
static inline bool quic_offload_control_append_gso_size(struct quic_offload_control *control,
                                                        uint16_t gso_size)
{
    return quic_offload_control_append(control, IPPROTO_UDP, QUIC_OFFLOAD_UDP_SEGMENT, &gso_size,
                                       sizeof(gso_size));
}

/*
 * Protect with an installed SA. @pn: of the first packet; @pn_offset: bytes
 * before the packet number; @flags: UDP_QUIC_CRYPTO_F_*.
 */
static inline bool quic_offload_control_append_sa(struct quic_offload_control *control, uint64_t pn,
                                                  uint32_t sa, uint16_t pn_offset, uint16_t flags)
{
    struct udp_quic_crypto message;

    message.pn = pn;
    message.sa = sa;
    message.pn_offset = pn_offset;
    message.flags = flags;
    return quic_offload_control_append(control, IPPROTO_UDP, UDP_QUIC_CRYPTO, &message,
                                       sizeof(message));
}

/* Protect with keys that are for this send alone. */
static inline bool quic_offload_control_append_keys(struct quic_offload_control *control,
                                                    uint64_t pn, const struct udp_quic_keys *keys,
                                                    uint16_t pn_offset, uint16_t flags)
{
    struct udp_quic_crypto_inline message;
    bool fits;

    message.crypto.pn = pn;
    message.crypto.sa = UDP_QUIC_CRYPTO_SA_INLINE;
    message.crypto.pn_offset = pn_offset;
    message.crypto.flags = flags;
    message.keys = *keys;
    fits = quic_offload_control_append(control, IPPROTO_UDP, UDP_QUIC_CRYPTO, &message,
                                       sizeof(message));
    quic_offload_wipe(&message, sizeof(message));
    control->holds_keys = control->holds_keys || fits;
    return fits;
}

static inline void quic_offload_control_attach(const struct quic_offload_control *control,
                                               struct msghdr *message)
{
    message->msg_control = control->length != 0 ? control->buffer : NULL;
    message->msg_controllen = control->length;
}

/* After sendmsg(): clears keys that were in the buffer. */
static inline void quic_offload_control_wipe(struct quic_offload_control *control)
{
    if (control->holds_keys)
        quic_offload_wipe(control->buffer, control->length);
    control->length = 0;
    control->holds_keys = false;
}

/*
 * What a sender does about an errno of sendmsg() with UDP_QUIC_CRYPTO. An error
 * means that the send was refused: nothing was sent, no packet number was used and
 * no completion of MSG_ZEROCOPY comes, so the same packets may go out under the
 * same numbers. What happens to packets later (a firewall's rule, a full queue) is
 * no error: it is a loss, as on the wire, and the numbers are used. So send again
 * under the same numbers after an error, and never otherwise.
 */
enum quic_offload_advice {
    QUIC_OFFLOAD_WAIT,          /* until the socket is writable, then send the same again */
    QUIC_OFFLOAD_USER_SPACE,    /* protect in user space and send; from now on too */
    QUIC_OFFLOAD_DROP,          /* the datagram cannot go this way now: as if it was lost */
    QUIC_OFFLOAD_SEND_SINGLY,   /* no batches on this path */
    QUIC_OFFLOAD_PROGRAM_ERROR, /* the caller built the message wrongly */
};

static inline enum quic_offload_advice quic_offload_advise(int error_number)
{
    switch (error_number) {
    case EAGAIN:
        return QUIC_OFFLOAD_WAIT;
    case ENOBUFS: /* or too much MSG_ZEROCOPY outstanding: the same again without it */
    case ENOMEM:
    case EMSGSIZE: /* a path MTU probe that was too large, say */
    case EINTR:
    case ENETUNREACH:
    case EHOSTUNREACH:
    case ENETDOWN:
    case ECONNREFUSED:
    case EPERM: /* a security module or a BPF program on sendmsg(); a firewall does not tell */
    case EADDRNOTAVAIL:
        return QUIC_OFFLOAD_DROP;
    case ENOENT:      /* the SA is gone */
    case EACCES:      /* or was never ours */
    case EKEYEXPIRED: /* or has protected as many packets as it may */
    case EOPNOTSUPP:
    case EPROTONOSUPPORT:
    case ENOPROTOOPT:
    case ENOPKG:
    case EBUSY:
        return QUIC_OFFLOAD_USER_SPACE;
    case EIO: /* UDP_SEGMENT on a device or route that cannot */
        return QUIC_OFFLOAD_SEND_SINGLY;
    default: /* EINVAL, E2BIG, EBADMSG, ENODATA, EFAULT */
        return QUIC_OFFLOAD_PROGRAM_ERROR;
    }
}

/* --- MSG_ZEROCOPY -------------------------------------------------------- */

/*
 * Buffers that the kernel still reads from, by the socket's counter of
 * successful MSG_ZEROCOPY sends, which wraps. @slots is the caller's: one for
 * each send whose completion has not come, so it bounds them.
 */
struct quic_offload_zerocopy {
    void **slots;
    uint32_t capacity; /* a power of two, so that the counter may wrap */
    uint32_t oldest;   /* send that is not completed, or @next */
    uint32_t next;     /* number of the next send */
};

/* A range of sends whose buffers are the caller's again. */
struct quic_offload_completion {
    uint32_t first;
    uint32_t last;
    bool copied; /* the kernel copied them after all: a plain send would have been cheaper */
};

static inline void quic_offload_zerocopy_init(struct quic_offload_zerocopy *zerocopy, void **slots,
                                              uint32_t capacity)
{
    assert(capacity != 0 && (capacity & (capacity - 1)) == 0);
    zerocopy->slots = slots;
    zerocopy->capacity = capacity;
    zerocopy->oldest = 0;
    zerocopy->next = 0;
}

/* Sends that are not completed, up to the newest one. */
static inline uint32_t quic_offload_zerocopy_outstanding(const struct quic_offload_zerocopy *zc)
{
    return zc->next - zc->oldest;
}

/* No slot is free: send the next one without MSG_ZEROCOPY. */
static inline bool quic_offload_zerocopy_is_full(const struct quic_offload_zerocopy *zc)
{
    return quic_offload_zerocopy_outstanding(zc) == zc->capacity;
}

/*
 * A sendmsg() with MSG_ZEROCOPY has succeeded. @buffer, which is not null, comes
 * back from quic_offload_zerocopy_take().
 */
static inline void quic_offload_zerocopy_sent(struct quic_offload_zerocopy *zc, void *buffer)
{
    zc->slots[zc->next++ & (zc->capacity - 1)] = buffer;
}

/*
 * The buffer of send @number, which is complete; null if it was taken before, or
 * is none of ours. Completions may come in any order.
 */
static inline void *quic_offload_zerocopy_take(struct quic_offload_zerocopy *zc, uint32_t number)
{
    void **slot = &zc->slots[number & (zc->capacity - 1)];
    void *buffer;

    if (number - zc->oldest >= quic_offload_zerocopy_outstanding(zc))
        return NULL;
    buffer = *slot;
    *slot = NULL;
    while (zc->oldest != zc->next && zc->slots[zc->oldest & (zc->capacity - 1)] == NULL)
        ++zc->oldest;
    return buffer;
}

/*
 * Reads one message of the error queue of @fd. Returns 0 and fills @completion;
 * ENOMSG for a message that is no completion; EAGAIN when there is none. Take
 * each send from @first to @last, the number may wrap:
 *
 *	for (n = completion.first;; ++n) {
 *		... quic_offload_zerocopy_take(&zerocopy, n) ...
 *		if (n == completion.last)
 *			break;
 *	}
 */
static inline int quic_offload_read_completion(int fd, struct quic_offload_completion *completion)
{
    union {
        struct cmsghdr align;
        unsigned char bytes[QUIC_OFFLOAD_CONTROL_SIZE];
    } control;
    struct msghdr message;
    struct cmsghdr *cmsg;

    memset(&message, 0, sizeof(message));
    message.msg_control = control.bytes;
    message.msg_controllen = sizeof(control.bytes);
    if (recvmsg(fd, &message, MSG_ERRQUEUE | MSG_DONTWAIT) < 0)
        return errno;
    for (cmsg = CMSG_FIRSTHDR(&message); cmsg != NULL; cmsg = CMSG_NXTHDR(&message, cmsg)) {
        struct sock_extended_err error;

        if ((cmsg->cmsg_level != IPPROTO_IP || cmsg->cmsg_type != IP_RECVERR) &&
            (cmsg->cmsg_level != IPPROTO_IPV6 || cmsg->cmsg_type != IPV6_RECVERR))
            continue;
        memcpy(&error, CMSG_DATA(cmsg), sizeof(error));
        if (error.ee_origin != SO_EE_ORIGIN_ZEROCOPY || error.ee_errno != 0)
            continue;
        completion->first = error.ee_info;
        completion->last = error.ee_data;
        completion->copied = (error.ee_code & SO_EE_CODE_ZEROCOPY_COPIED) != 0;
        return 0;
    }
    return ENOMSG;
}

#ifdef __cplusplus
}
#endif

#endif /* UDP_QUIC_OFFLOAD_H */
