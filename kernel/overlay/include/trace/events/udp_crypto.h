/* SPDX-License-Identifier: GPL-2.0 */
#undef TRACE_SYSTEM
#define TRACE_SYSTEM udp_crypto

#if !defined(_TRACE_UDP_CRYPTO_H) || defined(TRACE_HEADER_MULTI_READ)
#define _TRACE_UDP_CRYPTO_H

#include <linux/skbuff.h>
#include <linux/tracepoint.h>
#include <net/net_namespace.h>
#include <net/sock.h>
#include <net/udp_crypto.h>

/* No event has a key, an IV, or a pointer to one. */

#define udp_crypto_ciphers						\
	EM(UDP_QUIC_CIPHER_AES_128_GCM,		"aes-128-gcm")		\
	EM(UDP_QUIC_CIPHER_AES_256_GCM,		"aes-256-gcm")		\
	EM(UDP_QUIC_CIPHER_CHACHA20_POLY1305,	"chacha20-poly1305")	\
	EMe(UDP_QUIC_CIPHER_AES_128_CCM,	"aes-128-ccm")

#define udp_crypto_paths						\
	EM(UDP_CRYPTO_SA_SOFTWARE,		"software")		\
	EM(UDP_CRYPTO_SA_INLINE,		"inline")		\
	EMe(UDP_CRYPTO_SA_DEVICE,		"device")

#define udp_crypto_drop_reasons						\
	EM(SKB_DROP_REASON_UDP_CRYPTO,		"UDP_CRYPTO")		\
	EM(SKB_DROP_REASON_UDP_CRYPTO_NO_SA,	"UDP_CRYPTO_NO_SA")	\
	EM(SKB_DROP_REASON_UDP_CRYPTO_NO_KEYS,	"UDP_CRYPTO_NO_KEYS")	\
	EM(SKB_DROP_REASON_UDP_CRYPTO_CHANGED,	"UDP_CRYPTO_CHANGED")	\
	EMe(SKB_DROP_REASON_NOMEM,		"NOMEM")

/* values, for user space that reads the raw buffers */
#undef EM
#undef EMe
#define EM(value, name)		TRACE_DEFINE_ENUM(value);
#define EMe(value, name)	TRACE_DEFINE_ENUM(value);

udp_crypto_ciphers
udp_crypto_paths
udp_crypto_drop_reasons

#undef EM
#undef EMe
#define EM(value, name)		{ value, name },
#define EMe(value, name)	{ value, name }

/* An SA was made: @inode is that of the socket that owns it, or 0. */
TRACE_EVENT(udp_crypto_sa_add,
	TP_PROTO(const struct net *net, const struct udp_sa *sa),

	TP_ARGS(net, sa),

	TP_STRUCT__entry(
		__field(u32, netns)
		__field(u32, sa)
		__field(u32, uid)
		__field(u16, cipher)
		__field(unsigned long, inode)
		__field(u64, packet_limit)
	),

	TP_fast_assign(
		__entry->netns = net->ns.inum;
		__entry->sa = sa->index;
		__entry->uid = from_kuid(&init_user_ns, sa->uid);
		__entry->cipher = sa->keys.cipher;
		__entry->inode = sa->key.sk ? sock_i_ino(sa->key.sk) : 0;
		__entry->packet_limit = sa->packet_limit;
	),

	TP_printk("netns=%u sa=%u cipher=%s uid=%u inode=%lu packet_limit=%llu",
		  __entry->netns, __entry->sa,
		  __print_symbolic(__entry->cipher, udp_crypto_ciphers),
		  __entry->uid, __entry->inode, __entry->packet_limit)
);

/* An SA was deleted; the counters are the last. */
TRACE_EVENT(udp_crypto_sa_del,
	TP_PROTO(const struct net *net, const struct udp_sa *sa),

	TP_ARGS(net, sa),

	TP_STRUCT__entry(
		__field(u32, netns)
		__field(u32, sa)
		__field(u64, packets)
		__field(u64, bytes)
		__field(u64, packets_software)
		__field(u64, packets_dropped)
	),

	TP_fast_assign(
		__entry->netns = net->ns.inum;
		__entry->sa = sa->index;
		__entry->packets = atomic64_read(&sa->packets);
		__entry->bytes = atomic64_read(&sa->bytes);
		__entry->packets_software = atomic64_read(&sa->packets_sw);
		__entry->packets_dropped = atomic64_read(&sa->packets_dropped);
	),

	TP_printk("netns=%u sa=%u packets=%llu bytes=%llu packets_software=%llu packets_dropped=%llu",
		  __entry->netns, __entry->sa, __entry->packets,
		  __entry->bytes, __entry->packets_software,
		  __entry->packets_dropped)
);

/* The next packets of an SA take another path than those before, or the first
 * ones take one; @ifindex is that of the device, 0 with software in sendmsg().
 */
TRACE_EVENT(udp_crypto_sa_path,
	TP_PROTO(const struct net *net, const struct udp_sa *sa, u32 path,
		 int ifindex),

	TP_ARGS(net, sa, path, ifindex),

	TP_STRUCT__entry(
		__field(u32, netns)
		__field(u32, sa)
		__field(u32, path)
		__field(int, ifindex)
		__field(u64, packets)
	),

	TP_fast_assign(
		__entry->netns = net->ns.inum;
		__entry->sa = sa->index;
		__entry->path = path;
		__entry->ifindex = ifindex;
		__entry->packets = atomic64_read(&sa->packets);
	),

	TP_printk("netns=%u sa=%u path=%s ifindex=%d packets=%llu",
		  __entry->netns, __entry->sa,
		  __print_symbolic(__entry->path, udp_crypto_paths),
		  __entry->ifindex, __entry->packets)
);

/* A plaintext packet is dropped; skb:kfree_skb follows with the same reason.
 * @sa is 0 for inline keys.
 */
TRACE_EVENT(udp_crypto_drop,
	TP_PROTO(const struct net *net, const struct sk_buff *skb,
		 const struct udp_crypto_ext *ext, enum skb_drop_reason reason),

	TP_ARGS(net, skb, ext, reason),

	TP_STRUCT__entry(
		__field(const void *, skbaddr)
		__field(u32, netns)
		__field(int, ifindex)
		__field(u32, sa)
		__field(u64, pn)
		__field(u16, packets)
		__field(u32, reason)
	),

	TP_fast_assign(
		__entry->skbaddr = skb;
		__entry->netns = net->ns.inum;
		__entry->ifindex = skb->dev ? skb->dev->ifindex : 0;
		__entry->sa = ext->sa;
		__entry->pn = ext->pn;
		__entry->packets = DIV_ROUND_UP(ext->len, ext->seg_size);
		__entry->reason = reason;
	),

	TP_printk("skbaddr=%p netns=%u ifindex=%d sa=%u pn=%llu packets=%u reason: %s",
		  __entry->skbaddr, __entry->netns, __entry->ifindex,
		  __entry->sa, __entry->pn, __entry->packets,
		  __print_symbolic(__entry->reason, udp_crypto_drop_reasons))
);

#undef EM
#undef EMe

#endif /* _TRACE_UDP_CRYPTO_H */

#include <trace/define_trace.h>
