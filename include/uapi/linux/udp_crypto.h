/* SPDX-License-Identifier: ((GPL-2.0 WITH Linux-syscall-note) OR MIT) */
/*
 * QUIC packet protection on UDP sockets: the contract with user space.
 *
 * A sender hands *plaintext* QUIC packets to sendmsg() on an ordinary UDP
 * socket and names, in a control message, the keys they are to be protected
 * with (RFC 9001 section 5). The NIC does it in line, or the kernel does it in
 * software; what leaves the socket is protected either way.
 *
 * Everything here is in host byte order. All structures have the same layout
 * on 32 and 64 bits. They may grow: a caller may pass a longer structure as
 * long as the bytes that this kernel does not know are zero (else E2BIG; a
 * socket option longer than 4096 bytes is too big whatever is in it), and a
 * shorter one down to the minimum given with each. "Malformed" below is
 * EINVAL and means: shorter than the minimum, a reserved field that is not
 * zero, bytes of a key behind its length that are not zero, an unknown flag,
 * or an unknown operation.
 *
 * A send with UDP_QUIC_CRYPTO is refused or taken, and nothing between:
 *
 * Refused: sendmsg() returns an error, whichever. Nothing was sent and nothing
 *	has changed: the packet numbers are unused, the SA's counters, limit and
 *	guard are as before, and the send has no number among those of
 *	MSG_ZEROCOPY or SOF_TIMESTAMPING_OPT_ID, so no completion comes. The same
 *	packets may go out under the same numbers, protected by whomever.
 * Taken: sendmsg() returns bytes. The packet numbers are used, and completions
 *	come, whatever becomes of the packets. What IP, a packet filter, a BPF
 *	program or a queue does to them is a loss as on the wire, of which no error
 *	tells (EPERM, ENOBUFS, EMSGSIZE), not even with IP_RECVERR: a copy may be
 *	out by then, and a second packet under its number would give the keys away.
 *	TxLost counts such packets.
 *
 * A refusal may bring the error of an earlier packet that was answered by ICMP,
 * as on any UDP socket. sendmmsg() stops at the first refused message and returns
 * how many were taken before it. A refused send gives its numbers of completions
 * and time stamps back, so threads that send on one socket at a time may see one
 * twice. MSG_PROBE sends nothing, though it returns bytes.
 *
 * Counters of the network namespace are in /proc/net/udp_crypto_stat.
 *
 * Administrators see devices, SAs and statistics, and make SAs for the sockets
 * of a user, over the generic netlink family udp_crypto. Its numbers are in
 * <linux/udp_crypto_nl.h>, which this header brings along; its specification
 * is Documentation/netlink/specs/udp_crypto.yaml.
 */
#ifndef _UAPI_LINUX_UDP_CRYPTO_H
#define _UAPI_LINUX_UDP_CRYPTO_H

#include <linux/types.h>
#include <linux/udp_crypto_nl.h>

/* Socket option at level SOL_UDP: adds and deletes security associations
 * (setsockopt), shows them and the capabilities (getsockopt).
 * ENOPROTOOPT: the kernel has no CONFIG_UDP_CRYPTO: protect in user space.
 * EOPNOTSUPP: this is a UDP-Lite socket.
 */
#define UDP_CRYPTO_STATE	105

/* Control message at level SOL_UDP of sendmsg(), sendmmsg(), io_uring. Its
 * data is a struct udp_quic_crypto or a struct udp_quic_crypto_inline.
 */
#define UDP_QUIC_CRYPTO		106

/* The one type of state there is, in the @type of each socket option.
 * EPROTONOSUPPORT: another type.
 */
#define UDP_CRYPTO_QUIC		1

/* @op of each socket option structure */
enum udp_crypto_op {
	UDP_CRYPTO_OP_ADD_SA	= 1,	/* setsockopt, struct udp_crypto_sa */
	UDP_CRYPTO_OP_DEL_SA	= 2,	/* setsockopt, struct udp_crypto_req */
	UDP_CRYPTO_OP_GET_CAPS	= 3,	/* getsockopt, struct udp_crypto_caps */
	UDP_CRYPTO_OP_GET_SA	= 4,	/* getsockopt, struct udp_crypto_sa_info */
};

/* The AEADs of RFC 9001 section 5.3, and the header protection algorithm that
 * goes with each (section 5.4). QUIC does not use AES-128-CCM-8.
 */
enum udp_quic_cipher {
	UDP_QUIC_CIPHER_AES_128_GCM		= 1,
	UDP_QUIC_CIPHER_AES_256_GCM		= 2,
	UDP_QUIC_CIPHER_CHACHA20_POLY1305	= 3,
	UDP_QUIC_CIPHER_AES_128_CCM		= 4,
};

#define UDP_QUIC_TAG_LEN	16	/* bytes, every cipher */
#define UDP_QUIC_IV_LEN		12	/* bytes, every cipher */
#define UDP_QUIC_KEY_MAX	32	/* bytes, longest packet or hp key */
#define UDP_QUIC_SAMPLE_LEN	16	/* bytes, RFC 9001 section 5.4.2 */
#define UDP_QUIC_PN_MAX		((1ULL << 62) - 1)
/* Largest @pn_offset: a 0-RTT or Initial header with two 20-byte connection
 * IDs and a token of some hundred bytes stays well below it.
 */
#define UDP_QUIC_PN_OFFSET_MAX	1024

/**
 * struct udp_quic_keys - what packets are protected with (80 bytes)
 * @cipher: enum udp_quic_cipher
 * @reserved: zero
 * @iv: "quic iv" of RFC 9001 section 5.1
 * @key: "quic key": 16 bytes for the AES-128 ciphers, else 32; the rest zero
 * @hp_key: "quic hp": of the same length as @key; the rest zero
 *
 * EOPNOTSUPP: @cipher is none of enum udp_quic_cipher.
 * ENOPKG: the kernel was built without that cipher.
 */
struct udp_quic_keys {
	__u16	cipher;
	__u16	reserved;
	__u8	iv[UDP_QUIC_IV_LEN];
	__u8	key[UDP_QUIC_KEY_MAX];
	__u8	hp_key[UDP_QUIC_KEY_MAX];
};

/* Any socket of the same network namespace and of the uid that owned the
 * socket when the SA was made may send with it. Without the flag only the
 * socket that made it may. Only that socket can delete it; it and, over
 * netlink, administrators can show it.
 */
#define UDP_CRYPTO_SA_F_SAME_UID	0x1

/* No packet number is protected twice, whoever sends it: a send with a number
 * that the SA has protected, or that is too far below the highest for the
 * kernel to know, is refused (EALREADY), all of it. Numbers may come in any
 * order and from several threads; one that is less than
 * UDP_CRYPTO_GUARD_PN_WINDOW - 7 below the highest is never too old. The
 * numbers of a refused send are unused, as ever. Costs 2 KiB for the SA.
 */
#define UDP_CRYPTO_SA_F_GUARD_PN	0x2
#define UDP_CRYPTO_GUARD_PN_WINDOW	2048

/**
 * struct udp_crypto_req - the start of every socket option structure (16 bytes)
 * @type: UDP_CRYPTO_QUIC
 * @op: enum udp_crypto_op
 * @flags: UDP_CRYPTO_SA_F_* with UDP_CRYPTO_OP_ADD_SA, else zero on entry
 * @cookie: the caller's own name of an SA of this socket, any number; zero
 *	with UDP_CRYPTO_OP_GET_CAPS
 *
 * UDP_CRYPTO_OP_DEL_SA takes this and no more. Packets that are queued below
 * the socket in plaintext when their SA is deleted are dropped (and counted),
 * never sent with other keys: after a key update keep the old SA for as long as
 * packets may wait in a queue (a few probe timeouts, RFC 9002).
 *
 * ENOENT: this socket has no SA of that @cookie.
 */
struct udp_crypto_req {
	__u16		type;
	__u16		op;
	__u32		flags;
	__aligned_u64	cookie;
};

/**
 * struct udp_crypto_sa - an SA to add, UDP_CRYPTO_OP_ADD_SA (104 bytes)
 * @req: @req.cookie names the SA from now on, for this socket
 * @packet_limit: packets the SA may protect, or 0 for no limit (RFC 9001
 *	section 6.6 gives the confidentiality limit of each AEAD)
 * @keys: copied; never readable again
 *
 * An SA never changes: a QUIC key update (RFC 9001 section 6) adds a second
 * one, and the index in each sendmsg() chooses. Ask for the index with
 * UDP_CRYPTO_OP_GET_SA. The SA goes with the socket when that is closed.
 *
 * Minimum length: all of it.
 * EEXIST: the socket has an SA of that cookie.
 * ENOSPC: the network namespace has as many SAs as the sysctl
 *	net.ipv4.udp_crypto_max_sa allows.
 * EDQUOT: the sockets of this uid have as many SAs in the network namespace as
 *	the sysctl net.ipv4.udp_crypto_max_sa_per_uid allows.
 * ENOMEM: no memory, or the memory control group is at its limit.
 */
struct udp_crypto_sa {
	struct udp_crypto_req	req;
	__aligned_u64		packet_limit;
	struct udp_quic_keys	keys;
};

/* Who does the work for an SA when it next sends. */
enum udp_crypto_sa_state {
	UDP_CRYPTO_SA_SOFTWARE	= 1,	/* the kernel */
	UDP_CRYPTO_SA_INLINE	= 2,	/* a device, keys in each descriptor */
	UDP_CRYPTO_SA_DEVICE	= 3,	/* a device, from its own database */
};

/**
 * struct udp_crypto_sa_info - one SA, UDP_CRYPTO_OP_GET_SA (80 bytes)
 * @req: on entry type, op and cookie; flags come back as they were added
 * @sa: index for struct udp_quic_crypto, never 0
 * @state: enum udp_crypto_sa_state
 * @ifindex: of the device that holds it in UDP_CRYPTO_SA_DEVICE and
 *	UDP_CRYPTO_SA_INLINE, else 0
 * @cipher: enum udp_quic_cipher
 * @reserved: zero
 * @packets: QUIC packets taken from sendmsg()
 * @bytes: their bytes, tags included, without UDP and IP headers
 * @packets_software: those of @packets that the kernel protected
 * @packets_dropped: those of @packets that were dropped because they could
 *	not be protected
 * @packet_limit: as it was added
 *
 * Entry minimum: struct udp_crypto_req. As much is given back as the caller
 * has room for, and the length says how much that was.
 */
struct udp_crypto_sa_info {
	struct udp_crypto_req	req;
	__u32			sa;
	__u32			state;
	__u32			ifindex;
	__u16			cipher;
	__u16			reserved;
	__aligned_u64		packets;
	__aligned_u64		bytes;
	__aligned_u64		packets_software;
	__aligned_u64		packets_dropped;
	__aligned_u64		packet_limit;
	__aligned_u64		reserved2;
};

/**
 * struct udp_crypto_caps - what this kernel can do, UDP_CRYPTO_OP_GET_CAPS
 * @req: on entry type and op
 * @ciphers: 1 << enum udp_quic_cipher for each one available
 * @cmsg_flags: the UDP_QUIC_CRYPTO_F_* this kernel knows
 * @sa_flags: the UDP_CRYPTO_SA_F_* this kernel knows
 * @max_sa: SAs that the network namespace may have
 * @max_segments: QUIC packets in one send with UDP_SEGMENT
 * @tag_len: UDP_QUIC_TAG_LEN
 * @max_sa_per_uid: of @max_sa, those that the sockets of one uid may have
 *
 * 40 bytes. Entry minimum: struct udp_crypto_req; as with UDP_CRYPTO_OP_GET_SA.
 */
struct udp_crypto_caps {
	struct udp_crypto_req	req;
	__u32			ciphers;
	__u32			cmsg_flags;
	__u32			sa_flags;
	__u32			max_sa;
	__u16			max_segments;
	__u16			tag_len;
	__u32			max_sa_per_uid;
};

/* The caller's buffer has UDP_QUIC_TAG_LEN bytes of room (any content) after
 * each QUIC packet. The kernel then copies nothing around, and MSG_ZEROCOPY
 * sends the caller's own pages, which are never written to. Without the flag
 * the buffer has the packets without their tags, one directly behind the
 * other, and the kernel makes the room; MSG_ZEROCOPY is then accepted but
 * copies (SO_EE_CODE_ZEROCOPY_COPIED).
 */
#define UDP_QUIC_CRYPTO_F_TAG_ROOM	0x1

/* @sa of a message that brings its keys along */
#define UDP_QUIC_CRYPTO_SA_INLINE	0xffffffffU

/**
 * struct udp_quic_crypto - protect the packets of this send (16 bytes)
 * @pn: full packet number of the first packet, at most UDP_QUIC_PN_MAX
 * @sa: SA index, or UDP_QUIC_CRYPTO_SA_INLINE
 * @pn_offset: where the packet number starts, in bytes from the start of the
 *	QUIC packet (1 + connection ID length in a short header)
 * @flags: UDP_QUIC_CRYPTO_F_*
 *
 * Each datagram is one QUIC packet with a short or a long header. It holds the
 * truncated packet number as usual (1 to 4 bytes, RFC 9000 section 17.1; its
 * length is in the low two bits of the first byte), neither header protection
 * nor encryption applied. The fixed bit may be greased (RFC 9287).
 *
 * With UDP_SEGMENT (socket option or control message) the buffer is a batch:
 * the segment size counts bytes on the wire, tag included, so without
 * UDP_QUIC_CRYPTO_F_TAG_ROOM each packet but the last has the segment size
 * less UDP_QUIC_TAG_LEN bytes. Packet i has number @pn + i, and all have the
 * same @pn_offset.
 *
 * sendmsg() returns the bytes it took from the caller's buffer. A protected
 * datagram is never IP-fragmented: IPv4 packets have DF set whatever
 * IP_MTU_DISCOVER says.
 *
 * On 32 bits control message data is aligned to 4 bytes: copy, do not cast.
 *
 * After each of these errors nothing was sent:
 *
 * EINVAL: malformed; @pn or the last packet's number above UDP_QUIC_PN_MAX;
 *	@pn_offset 0 or above UDP_QUIC_PN_OFFSET_MAX; two messages of this
 *	type; a segment size with no room for a packet and its tag, or more
 *	than UDP_MAX_SEGMENTS packets; UDP_SEGMENT on a socket
 *	that sends no checksums (SO_NO_CHECK, UDP_NO_CHECK6_TX).
 * E2BIG: trailing bytes that are not zero.
 * ENOENT: no SA has that index, or it is another user's.
 * EACCES: the SA is another socket's of the same user, who does not share it.
 * EBADMSG: the truncated packet number in a packet is not that of its number.
 * ENODATA: a packet is too short for a header protection sample: it must have
 *	at least @pn_offset + 4 bytes before its tag. Also an empty send.
 * EMSGSIZE: a packet, in a batch the segment size, is longer than the path (or,
 *	with IP_PMTUDISC_PROBE, the device) carries, or the whole is above
 *	65,507 bytes with tags (65,527 over IPv6). With IP_RECVERR the error
 *	queue may say how much is carried, as for any UDP send.
 * EKEYEXPIRED: the SA has protected, or would with this send, more packets
 *	than its limit. Earlier packets of a batch are not sent either.
 * EALREADY: UDP_CRYPTO_SA_F_GUARD_PN, and one of the packet numbers was used.
 * EBUSY: MSG_MORE, UDP_CORK, or data corked on the socket.
 * EOPNOTSUPP: UDP-Lite; the cipher of inline keys is unknown.
 * ENOPKG: the kernel was built without the cipher.
 * EIO: an xfrm policy transforms the packet and UDP_SEGMENT is used (as for
 *	any UDP_SEGMENT send); or a cipher of the kernel has failed.
 * EAGAIN: no room in the socket's send buffer, and the send does not wait.
 * ENOBUFS: no memory, or as many sends with MSG_ZEROCOPY are not completed as
 *	the sysctl net.core.optmem_max allows. Not: a full queue below the socket.
 * EPERM: a security module, or a BPF program on sendmsg() in the cgroup. Not: a
 *	packet filter, or a BPF program that sees packets.
 * ENOMEM, EFAULT, EINTR and the errors of routing and addresses: as for any UDP
 *	send.
 */
struct udp_quic_crypto {
	__aligned_u64	pn;
	__u32		sa;
	__u16		pn_offset;
	__u16		flags;
};

/**
 * struct udp_quic_crypto_inline - the same, with keys (96 bytes)
 * @crypto: @crypto.sa is UDP_QUIC_CRYPTO_SA_INLINE
 * @keys: for this send alone
 *
 * For senders that keep no state in the kernel, and until an SA is installed.
 */
struct udp_quic_crypto_inline {
	struct udp_quic_crypto	crypto;
	struct udp_quic_keys	keys;
};

#endif /* _UAPI_LINUX_UDP_CRYPTO_H */
