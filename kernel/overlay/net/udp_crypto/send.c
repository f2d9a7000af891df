// SPDX-License-Identifier: GPL-2.0
/*
 * UDP_QUIC_CRYPTO on its way through udp_sendmsg(): the message is parsed, the
 * tags get their room while the payload is copied, and the skb either becomes
 * ciphertext or is marked for a device that encrypts.
 */
#include <linux/etherdevice.h>
#include <linux/fault-inject-usercopy.h>
#include <linux/instrumented.h>
#include <linux/ip.h>
#include <linux/uaccess.h>
#include <linux/udp.h>
#include <linux/uio.h>
#include <linux/unaligned.h>
#include <net/dst.h>
#include <net/ip.h>
#include <net/ipv6.h>
#include <net/route.h>
#include <net/sock.h>
#include <net/udp.h>

#include "internal.h"

static int udp_crypto_tail_check(const u8 *data, size_t len, size_t known)
{
	if (len > known && memchr_inv(data + known, 0, len - known))
		return -E2BIG;
	return 0;
}

static int udp_crypto_cmsg_inline(struct udp_crypto_tx *tx, u8 *data,
				  size_t len)
{
	struct udp_quic_keys keys;
	int err;

	if (len < sizeof(struct udp_quic_crypto_inline))
		return -EINVAL;
	err = udp_crypto_tail_check(data, len,
				    sizeof(struct udp_quic_crypto_inline));
	if (err)
		return err;

	data += offsetof(struct udp_quic_crypto_inline, keys);
	memcpy(&keys, data, sizeof(keys));
	/* the kernel's copy, of which nothing is needed from here on */
	memzero_explicit(data, sizeof(keys));
	err = udp_quic_keys_check(&keys);
	if (!err) {
		tx->inline_sa = udp_sa_alloc(&keys, GFP_KERNEL);
		if (!tx->inline_sa)
			err = -ENOMEM;
	}
	memzero_explicit(&keys, sizeof(keys));
	return err;
}

/**
 * udp_crypto_cmsg() - take a UDP_QUIC_CRYPTO message
 * @sk: sending socket
 * @cmsg: in kernel memory, its length within the control buffer
 * @tx: filled in
 *
 * Process context. Inline keys are taken out of the control buffer.
 * Return: 0 or the errors of struct udp_quic_crypto. udp_crypto_tx_end() must
 * follow in either case.
 */
int udp_crypto_cmsg(struct sock *sk, struct cmsghdr *cmsg,
		    struct udp_crypto_tx *tx)
{
	size_t len = cmsg->cmsg_len - sizeof(*cmsg);
	struct udp_quic_crypto crypto;
	u8 *data = CMSG_DATA(cmsg);

	if (tx->requested || !udp_crypto_on)
		return -EINVAL;
	if (IS_UDPLITE(sk))
		return -EOPNOTSUPP;
	if (len < sizeof(crypto))
		return -EINVAL;
	/* aligned to 4 bytes only in a 32-bit caller's message */
	memcpy(&crypto, data, sizeof(crypto));

	if (crypto.flags & ~UDP_CRYPTO_CMSG_FLAGS ||
	    crypto.pn > UDP_QUIC_PN_MAX ||
	    !crypto.pn_offset || crypto.pn_offset > UDP_QUIC_PN_OFFSET_MAX)
		return -EINVAL;

	tx->requested = true;
	tx->inline_sa = NULL;
	tx->inline_shared = false;
	tx->pn = crypto.pn;
	tx->sa = crypto.sa;
	tx->pn_offset = crypto.pn_offset;
	tx->flags = crypto.flags;
	if (crypto.sa == UDP_QUIC_CRYPTO_SA_INLINE)
		return udp_crypto_cmsg_inline(tx, data, len);
	return udp_crypto_tail_check(data, len, sizeof(crypto));
}

/**
 * udp_crypto_cmsg_present() - does a message ask for protection?
 * @msg: as from user space
 *
 * For sends to a corked socket, whose control messages are not read: what
 * must be protected must not be appended to what is not.
 */
bool udp_crypto_cmsg_present(struct msghdr *msg)
{
	struct cmsghdr *cmsg;

	if (!msg->msg_controllen)
		return false;
	for_each_cmsghdr(cmsg, msg) {
		/* whatever its length says */
		if (cmsg->cmsg_level == SOL_UDP &&
		    cmsg->cmsg_type == UDP_QUIC_CRYPTO)
			return true;
		if (!CMSG_OK(msg, cmsg))
			return false;
	}
	return false;
}
EXPORT_SYMBOL_GPL(udp_crypto_cmsg_present);

void __udp_crypto_tx_end(struct udp_crypto_tx *tx)
{
	if (!tx->inline_sa)
		return;
	if (tx->inline_shared)
		udp_sa_put(tx->inline_sa);
	else
		udp_sa_discard(tx->inline_sa);
	tx->inline_sa = NULL;
}
EXPORT_SYMBOL_GPL(__udp_crypto_tx_end);

static bool udp_crypto_tag_room(const struct udp_crypto_tx *tx)
{
	return tx->flags & UDP_QUIC_CRYPTO_F_TAG_ROOM;
}

/**
 * udp_crypto_tx_start() - work out the batch
 * @tx: parsed; gets sizes
 * @msg: for the copy
 * @len: bytes in the caller's buffer
 * @gso_size: UDP_SEGMENT in force, bytes on the wire, or 0
 * @cork: more is to follow, or already waits
 *
 * Return: how many bytes the tags add to @len, or an error.
 */
int udp_crypto_tx_start(struct udp_crypto_tx *tx, struct msghdr *msg,
			size_t len, u16 gso_size, bool cork)
{
	unsigned int room = udp_crypto_tag_room(tx) ? 0 : UDP_QUIC_TAG_LEN;
	unsigned int segs = 1;

	if (cork)
		return -EBUSY;
	if (!len)
		return -ENODATA;
	if (gso_size) {
		if (gso_size <= UDP_QUIC_TAG_LEN)
			return -EINVAL;
		segs = DIV_ROUND_UP(len, gso_size - room);
		if (segs > UDP_MAX_SEGMENTS)
			return -EINVAL;
	}
	if (tx->pn + segs - 1 > UDP_QUIC_PN_MAX)
		return -EINVAL;

	tx->msg = msg;
	tx->wire_len = len + segs * room;
	/* length field of UDP and, with room for both headers, of IP */
	if (tx->wire_len > 0xFFFF - sizeof(struct udphdr))
		return -EMSGSIZE;
	tx->seg_size = segs > 1 ? gso_size : tx->wire_len;
	tx->copied_pn = tx->pn;
	tx->copied = false;
	tx->wrong_pn = 0;
	return segs * room;
}
EXPORT_SYMBOL_GPL(udp_crypto_tx_start);

static bool udp_crypto_dev_may(const struct net_device *dev)
{
	return (dev->features & NETIF_F_HW_UDP_CRYPTO_TX) &&
	       dev->udp_crypto_ops;
}

/**
 * udp_crypto_tx_copies() - must the payload be copied with udp_crypto_getfrag()?
 * @tx: started
 * @dev: of the route
 *
 * Without room for the tags it must; and where software will encrypt, pinning
 * the user's pages only to copy them later would be a waste.
 */
bool udp_crypto_tx_copies(const struct udp_crypto_tx *tx,
			  const struct net_device *dev)
{
	return !udp_crypto_tag_room(tx) || !udp_crypto_dev_may(dev);
}
EXPORT_SYMBOL_GPL(udp_crypto_tx_copies);

/* Only the last bytes of a number are in a packet, as many as its first byte
 * says (RFC 9000 section 17.1): so many bits of four bytes are not the number's.
 */
static unsigned int udp_crypto_pn_shift(u8 first_byte)
{
	return 24 - 8 * (first_byte & 0x03);
}

/* Zero if a packet has the number that it should have. */
static u32 udp_crypto_pn_differs(u8 first_byte, const u8 *pn_bytes, u32 pn)
{
	unsigned int shift = udp_crypto_pn_shift(first_byte);

	return (get_unaligned_be32(pn_bytes) ^ pn << shift) >> shift;
}

/* Looks at @n bytes of a packet, from its byte @pos on, that were just copied
 * and so are in the cache. What is looked for may come in several pieces.
 */
static void udp_crypto_see(struct udp_crypto_tx *tx, const u8 *piece,
			   unsigned int pos, unsigned int n)
{
	unsigned int at = tx->pn_offset, end = at + sizeof(tx->pn_bytes);
	const u8 *pn_bytes = piece + at - pos;

	if (!pos)
		tx->first_byte = *piece;
	if (pos >= end || pos + n <= at)
		return;
	if (unlikely(pos > at || pos + n < end)) {
		unsigned int from = max(pos, at), to = min(pos + n, end);

		memcpy(tx->pn_bytes + from - at, piece + from - pos, to - from);
		if (to < end)
			return;
		pn_bytes = tx->pn_bytes;
	}
	tx->wrong_pn |= udp_crypto_pn_differs(tx->first_byte, pn_bytes,
					      tx->copied_pn++);
}

/* Copies a piece of a packet, from @ubuf on if the user's buffer is in one piece
 * and known to be the user's. lib/iov_iter.c would look at the buffer anew for
 * each packet of a batch: 50 instructions each.
 */
static __always_inline bool udp_crypto_copy(char *to, unsigned int n,
					    struct iov_iter *iter,
					    const void __user **ubuf)
{
	unsigned long left;

	if (!*ubuf)
		return _copy_from_iter(to, n, iter) == n;

	instrument_copy_from_user_before(to, *ubuf, n);
	left = raw_copy_from_user(to, *ubuf, n);
	instrument_copy_from_user_after(to, *ubuf, n, left);
	*ubuf += n;
	return !left;
}

/* Whole packets, as many as there are at the start of @len bytes. Returns how
 * many bytes of @to are done, or an error.
 */
static int udp_crypto_copy_packets(struct udp_crypto_tx *tx, char *to,
				   unsigned int len, unsigned int room,
				   struct iov_iter *iter,
				   const void __user **ubuf)
{
	const unsigned int seg = tx->seg_size, data = seg - room;
	const unsigned int pn_offset = tx->pn_offset;
	u32 pn = tx->copied_pn, differs = 0;
	const char *start = to;

	/* too short for a number, and refused later */
	if (unlikely(data < pn_offset + sizeof(tx->pn_bytes)))
		return 0;
	for (; len >= seg; len -= seg, to += seg) {
		if (!udp_crypto_copy(to, data, iter, ubuf))
			return -EFAULT;
		differs |= udp_crypto_pn_differs(*to, to + pn_offset, pn++);
		if (room)
			memset(to + data, 0, UDP_QUIC_TAG_LEN);
	}
	tx->copied_pn = pn;
	tx->wrong_pn |= differs;
	return to - start;
}

/**
 * udp_crypto_getfrag() - copy payload, leaving a hole behind each packet
 * @from: struct udp_crypto_tx
 * @to: destination
 * @offset: into the UDP payload on the wire
 * @len: bytes wanted, holes included
 * @odd: ignored: the checksum is computed over the ciphertext
 * @skb: ignored
 *
 * The pieces are asked for in order, so the iterator of the message is always
 * where the next packet byte comes from.
 * Return: 0 or -EFAULT.
 */
int udp_crypto_getfrag(void *from, char *to, int offset, int len, int odd,
		       struct sk_buff *skb)
{
	struct udp_crypto_tx *tx = from;
	struct iov_iter *iter = &tx->msg->msg_iter;
	unsigned int room = udp_crypto_tag_room(tx) ? 0 : UDP_QUIC_TAG_LEN;
	unsigned int pos = offset % tx->seg_size;
	unsigned int start = offset - pos;
	const void __user *ubuf = NULL;

	/* once for all pieces */
	if (!check_copy_size(to, len, false))
		return -EFAULT;
	if (iter_is_ubuf(iter)) {
		ubuf = iter_iov_addr(iter);
		if (should_fail_usercopy() ||
		    !access_ok(ubuf, iov_iter_count(iter)))
			return -EFAULT;
		might_fault();
	}
	tx->copied = true;

	while (len > 0) {
		unsigned int seg, data, n;

		if (!pos && len >= tx->seg_size) {
			int done = udp_crypto_copy_packets(tx, to, len, room,
							   iter, &ubuf);

			if (done < 0)
				return done;
			to += done;
			len -= done;
			start += done;
			if (!len)
				break;
		}
		seg = min_t(unsigned int, tx->seg_size, tx->wire_len - start);
		data = seg - room;
		if (pos < data) {
			n = min_t(unsigned int, len, data - pos);
			if (!udp_crypto_copy(to, n, iter, &ubuf))
				return -EFAULT;
			udp_crypto_see(tx, to, pos, n);
			to += n;
			len -= n;
			pos += n;
		}
		n = min_t(unsigned int, len, seg - pos);
		memset(to, 0, n);
		to += n;
		len -= n;
		start += seg;
		pos = 0;
	}
	if (ubuf)
		iov_iter_advance(iter, ubuf - iter_iov_addr(iter));
	return 0;
}
EXPORT_SYMBOL_GPL(udp_crypto_getfrag);

/* Is every packet long enough? All but the last are of the same length. */
static bool udp_crypto_long_enough(const struct udp_crypto_tx *tx,
				   unsigned int segs)
{
	const unsigned int min = tx->pn_offset + UDP_QUIC_SAMPLE_OFFSET +
				 UDP_QUIC_SAMPLE_LEN;

	return tx->seg_size >= min &&
	       tx->wire_len - (segs - 1) * tx->seg_size >= min;
}

static int udp_crypto_check_each(const struct udp_crypto_tx *tx,
				 const struct sk_buff *skb,
				 unsigned int payload, unsigned int segs)
{
	u32 pn = tx->pn, differs = 0;

	for (; segs; segs--, payload += tx->seg_size) {
		u8 first_byte, pn_bytes[sizeof(tx->pn_bytes)];

		if (skb_copy_bits(skb, payload, &first_byte, 1) ||
		    skb_copy_bits(skb, payload + tx->pn_offset, pn_bytes,
				  sizeof(pn_bytes)))
			return -EFAULT;
		differs |= udp_crypto_pn_differs(first_byte, pn_bytes, pn++);
	}
	return differs ? -EBADMSG : 0;
}

/* From behind @end, where @p is or behind that, into the next page. */
static __always_inline bool
udp_crypto_next_page(const struct skb_shared_info *shinfo, unsigned int *frag,
		     const u8 **p, const u8 **end)
{
	while (*p >= *end) {
		const u8 *page;

		if (unlikely(*frag == shinfo->nr_frags))
			return false;
		page = skb_frag_address(&shinfo->frags[*frag]);
		*p = page + (*p - *end);
		*end = page + skb_frag_size(&shinfo->frags[*frag]);
		++*frag;
	}
	return true;
}

/* Looks at packets that udp_crypto_getfrag() has not copied. Of a batch all
 * numbers but rarely have the same length.
 */
static int udp_crypto_check_packets(const struct udp_crypto_tx *tx,
				    const struct sk_buff *skb,
				    unsigned int payload, unsigned int segs)
{
	const struct skb_shared_info *shinfo = skb_shinfo(skb);
	const unsigned int pn_offset = tx->pn_offset, seg = tx->seg_size;
	const unsigned int span = pn_offset + sizeof(tx->pn_bytes);
	const u8 *p = skb->data + payload;
	const u8 *end = skb->data + skb_headlen(skb);
	unsigned int left = segs, frag = 0, shift;
	u32 differs = 0, pn, next;
	u8 first_byte, others = 0;

	/* a page may have no address */
	if (IS_ENABLED(CONFIG_HIGHMEM))
		return udp_crypto_check_each(tx, skb, payload, segs);

	if (!udp_crypto_next_page(shinfo, &frag, &p, &end))
		return -EFAULT;
	first_byte = *p;
	shift = udp_crypto_pn_shift(first_byte);
	pn = (u32)tx->pn << shift;
	next = 1U << shift;
	for (;;) {
		u8 pn_bytes[sizeof(tx->pn_bytes)];
		const u8 *last = end - span;

		for (; p <= last; p += seg, pn += next) {
			others |= *p ^ first_byte;
			differs |= get_unaligned_be32(p + pn_offset) ^ pn;
			if (!--left)
				goto out;
		}
		if (p < end) {
			/* goes on in the next page */
			others |= *p ^ first_byte;
			if (skb_copy_bits(skb, payload + pn_offset +
						       (segs - left) * seg,
					  pn_bytes, sizeof(pn_bytes)))
				return -EFAULT;
			differs |= get_unaligned_be32(pn_bytes) ^ pn;
			if (!--left)
				goto out;
			p += seg;
			pn += next;
		}
		if (!udp_crypto_next_page(shinfo, &frag, &p, &end))
			return -EFAULT;
	}
out:
	if (unlikely(others & 0x03))
		return udp_crypto_check_each(tx, skb, payload, segs);
	return differs >> shift ? -EBADMSG : 0;
}

/**
 * udp_sa_permits() - may this socket send with this SA?
 * @sa: found under RCU
 * @sk: of the same network namespace
 */
bool udp_sa_permits(const struct udp_sa *sa, const struct sock *sk)
{
	return sa->key.sk == sk ||
	       (sa->flags & UDP_CRYPTO_SA_F_SAME_UID &&
		uid_eq(sa->uid, sk->sk_uid));
}

/* What is not there is answered as what is another user's, on the same way. */
static struct udp_sa udp_sa_nobodys __ro_after_init = { .uid = INVALID_UID };

static int udp_crypto_charge(struct udp_sa *sa, const struct udp_crypto_tx *tx,
			     unsigned int segs)
{
	u64 packets = atomic64_add_return(segs, &sa->packets);
	int err = 0;

	if (sa->packet_limit && unlikely(packets > sa->packet_limit))
		err = -EKEYEXPIRED;
	else if (unlikely(sa->guard))
		err = udp_crypto_guard_take(sa->guard, tx->pn, segs);
	if (unlikely(err)) {
		atomic64_sub(segs, &sa->packets);
		return err;
	}
	atomic64_add(tx->wire_len, &sa->bytes);
	return 0;
}

static void udp_crypto_uncharge(struct udp_sa *sa,
				const struct udp_crypto_tx *tx,
				unsigned int segs)
{
	atomic64_sub(segs, &sa->packets);
	atomic64_sub(tx->wire_len, &sa->bytes);
	if (sa->guard)
		udp_crypto_guard_untake(sa->guard, tx->pn, segs);
}

static void udp_crypto_count(struct udp_crypto_net *un, unsigned int segs,
			     unsigned int bytes)
{
	unsigned int max = READ_ONCE(un->gso_max_segs);

	UDP_CRYPTO_ADD_STATS(un, TXPACKETS, segs);
	UDP_CRYPTO_ADD_STATS(un, TXBYTES, bytes);
	UDP_CRYPTO_INC_STATS(un, TXSENDS);
	if (segs > 1)
		UDP_CRYPTO_INC_STATS(un, TXGSOSENDS);
	while (unlikely(segs > max) &&
	       !try_cmpxchg(&un->gso_max_segs, &max, segs))
		;
}

/* Does the packet go from IP straight to a device that can encrypt it? What
 * encapsulates, transforms or loops back on the way must see ciphertext.
 */
static bool udp_crypto_route_direct(const struct sk_buff *skb,
				    struct udp_sa *sa)
{
	const struct dst_entry *dst = skb_dst(skb);

	if (!udp_crypto_dev_may(dst->dev) || dst_xfrm(dst) || dst->lwtstate)
		return false;
	if (!dst->dev->udp_crypto_ops->sa_ready(dst->dev, sa))
		return false;

	if (ip_hdr(skb)->version == 6)
		return skb_network_header_len(skb) == sizeof(struct ipv6hdr) &&
		       !ipv6_addr_is_multicast(&ipv6_hdr(skb)->daddr);

	return skb_network_header_len(skb) == sizeof(struct iphdr) &&
	       !(skb_rtable(skb)->rt_flags &
		 (RTCF_BROADCAST | RTCF_MULTICAST | RTCF_LOCAL));
}

static int udp_crypto_mark(struct udp_crypto_tx *tx, struct udp_sa *sa,
			   struct sk_buff *skb)
{
	struct udp_crypto_ext *ext = skb_ext_add(skb, SKB_EXT_UDP_CRYPTO);

	if (!ext)
		return -ENOBUFS;
	ext->pn = tx->pn;
	ext->sa = sa->index;
	if (tx->inline_sa)
		ext->inline_sa = tx->inline_sa;
	else
		ext->gen = sa->gen;
	ext->pn_offset = tx->pn_offset;
	ext->len = tx->wire_len;
	ext->seg_size = tx->seg_size;
	tx->inline_shared = true;
	udp_crypto_ext_get(ext);
	skb->decrypted = 1;
	return 0;
}

/* The packets are encrypted here, and leave as ordinary ones. */
static int udp_crypto_in_software(const struct udp_crypto_tx *tx,
				  struct udp_sa *sa, struct sk_buff *skb,
				  unsigned int payload, unsigned int segs)
{
	struct ubuf_info *uarg = skb_zcopy(skb);
	bool held = uarg;
	int err;

	err = udp_crypto_charge(sa, tx, segs);
	if (err)
		return err;

	/* Software lets go of the user's pages when it has copied them, and may
	 * fail after that: nobody is told until it can not.
	 */
	if (held)
		net_zcopy_get(uarg);
	err = udp_crypto_sw_encrypt(sa, skb, payload, tx->seg_size, tx->pn,
				    tx->pn_offset, UDP_CRYPTO_MAY_SLEEP);
	if (err) {
		udp_crypto_uncharge(sa, tx, segs);
		skb_zcopy_set(skb, uarg, &held);
	}
	if (held)
		net_zcopy_put(uarg);
	if (err)
		return err;

	atomic64_add(segs, &sa->packets_sw);
	udp_crypto_sa_took(sock_net(skb->sk), sa, NULL);
	return 0;
}

/**
 * udp_crypto_refuse() - free the packets of a send that fails after all
 * @skb: not given to IP yet
 *
 * Process context. What __ip_append_data() has taken for it goes back, as where
 * that fails itself: the send's number among those of MSG_ZEROCOPY, for which
 * no completion will come, and its number among those of SO_TIMESTAMPING. It is
 * no drop: the sender still has the packets, and is told.
 */
void udp_crypto_refuse(struct sk_buff *skb)
{
	struct sock *sk = skb->sk;

	net_zcopy_put_abort(skb_zcopy(skb), false);
	if (skb_shinfo(skb)->tx_flags & SKBTX_ANY_TSTAMP &&
	    READ_ONCE(sk->sk_tsflags) & SOF_TIMESTAMPING_OPT_ID)
		atomic_dec(&sk->sk_tskey);
	consume_skb(skb);
}
EXPORT_SYMBOL_GPL(udp_crypto_refuse);

void __udp_crypto_tx_lost(const struct udp_crypto_tx *tx, const struct net *net)
{
	UDP_CRYPTO_ADD_STATS(udp_crypto_pernet(net), TXLOST,
			     DIV_ROUND_UP(tx->wire_len, tx->seg_size));
}
EXPORT_SYMBOL_GPL(__udp_crypto_tx_lost);

/**
 * udp_crypto_protect() - the packets of a message, whole and not yet sent
 * @tx: started
 * @skb: IP and UDP headers are there, the checksum is not; freed on error
 * @mtu: that no IP packet may exceed, bytes
 *
 * Process context. The skb leaves with CHECKSUM_PARTIAL to be set up, for IP:
 * no error that comes later reaches the sender.
 * Return: 0 or an error of struct udp_quic_crypto.
 */
int udp_crypto_protect(struct udp_crypto_tx *tx, struct sk_buff *skb,
		       unsigned int mtu)
{
	unsigned int payload = skb_transport_offset(skb) + sizeof(struct udphdr);
	unsigned int segs = DIV_ROUND_UP(tx->wire_len, tx->seg_size);
	struct sock *sk = skb->sk;
	struct udp_crypto_net *un = udp_crypto_pernet(sock_net(sk));
	struct udp_sa *sa = tx->inline_sa;
	int err;

	err = -EMSGSIZE;
	if (!skb_is_gso(skb) && skb->len > mtu)
		goto err_refuse;

	skb->ip_summed = CHECKSUM_PARTIAL;
	skb->ignore_df = 0;
	if (ip_hdr(skb)->version == 4)
		ip_hdr(skb)->frag_off |= htons(IP_DF);

	rcu_read_lock();
	if (!sa) {
		sa = udp_sa_lookup(un, tx->sa);
		if (unlikely(!sa))
			sa = &udp_sa_nobodys;
		if (!udp_sa_permits(sa, sk)) {
			err = uid_eq(sa->uid, sk->sk_uid) ? -EACCES : -ENOENT;
			goto err_unlock;
		}
	}
	err = -ENODATA;
	if (!udp_crypto_long_enough(tx, segs))
		goto err_unlock;
	if (tx->copied)
		err = tx->wrong_pn ? -EBADMSG : 0;
	else
		err = udp_crypto_check_packets(tx, skb, payload, segs);
	if (err)
		goto err_unlock;

	if (udp_crypto_route_direct(skb, sa)) {
		err = udp_crypto_charge(sa, tx, segs);
		if (err)
			goto err_unlock;
		err = udp_crypto_mark(tx, sa, skb);
		if (err) {
			udp_crypto_uncharge(sa, tx, segs);
			goto err_unlock;
		}
		udp_crypto_sa_took(sock_net(sk), sa, skb_dst(skb)->dev);
		rcu_read_unlock();
		udp_crypto_count(un, segs, tx->wire_len);
		return 0;
	}

	/* a reference, as software may sleep; a deleted SA has none left */
	err = -ENOENT;
	if (!tx->inline_sa && !refcount_inc_not_zero(&sa->refs))
		goto err_unlock;
	rcu_read_unlock();

	err = udp_crypto_in_software(tx, sa, skb, payload, segs);
	if (!tx->inline_sa)
		udp_sa_put(sa);
	if (err)
		goto err_refuse;
	udp_crypto_count(un, segs, tx->wire_len);
	UDP_CRYPTO_ADD_STATS(un, TXSOFTWARE, segs);
	return 0;

err_unlock:
	rcu_read_unlock();
err_refuse:
	udp_crypto_refuse(skb);
	return err;
}
EXPORT_SYMBOL_GPL(udp_crypto_protect);
