/* SPDX-License-Identifier: GPL-2.0 */
/*
 * QUIC packet protection below UDP sockets (RFC 9001 section 5).
 *
 * A packet that a socket sends with UDP_QUIC_CRYPTO either becomes ciphertext
 * before it leaves udp_sendmsg() (the route's device has no offload), or
 * travels as plaintext, marked by skb->decrypted and a SKB_EXT_UDP_CRYPTO
 * extension, until a device with NETIF_F_HW_UDP_CRYPTO_TX takes it.
 * validate_xmit_skb() and every other way out of the stack protects it in
 * software, or drops it, where no such device is met.
 */
#ifndef _NET_UDP_CRYPTO_H
#define _NET_UDP_CRYPTO_H

#include <linux/atomic.h>
#include <linux/llist.h>
#include <linux/rculist.h>
#include <linux/refcount.h>
#include <linux/rhashtable-types.h>
#include <linux/skbuff.h>
#include <linux/sockptr.h>
#include <linux/spinlock.h>
#include <linux/uidgid.h>
#include <linux/xarray.h>
#include <uapi/linux/udp_crypto.h>

struct cmsghdr;
struct msghdr;
struct net;
struct net_device;
struct sock;
struct udp_crypto_guard;
struct udp_crypto_sw;
struct udp_sa;

/**
 * struct udp_crypto_ext - what a plaintext packet takes along (SKB_EXT_UDP_CRYPTO)
 * @pn: packet number of the first QUIC packet in the skb, host order
 * @inline_sa: with @sa 0: keys that came with the message, a reference is held
 * @gen: else: generation of the SA, whose index may be another's by now
 * @sa: index in the table of the network namespace of the sending socket, or 0
 * @pn_offset: from the start of each QUIC packet, bytes
 * @len: UDP payload of the skb, bytes: its last ones, whatever is put in front
 *	of them on the way
 * @seg_size: from one QUIC packet to the next, bytes; no less than @len when
 *	there is one
 *
 * A segment of a GSO skb has its own extension with its own number and length.
 */
struct udp_crypto_ext {
	u64			pn;
	union {
		struct udp_sa	*inline_sa;
		u64		gen;
	};
	u32			sa;
	u16			pn_offset;
	u16			len;
	u16			seg_size;
};

/**
 * struct udp_crypto_dev_caps - what a device can do, for administrators
 * @ciphers: 1 << enum udp_quic_cipher for each that it knows
 * @forms: enum udp_crypto_dev_form
 * @sa_max: SAs that its database has room for; 0: it has none, or no limit
 * @sa_count: SAs that are there
 */
struct udp_crypto_dev_caps {
	u32	ciphers;
	u32	forms;
	u32	sa_max;
	u32	sa_count;
};

/**
 * struct udp_crypto_holder - a device keeps an SA
 * @node: of the SA's list
 * @dev: the device
 * @sa: the SA; a reference is held
 *
 * Part of what the device remembers of the SA, from udp_crypto_hold() to
 * udp_crypto_release().
 */
struct udp_crypto_holder {
	struct hlist_node	node;
	struct net_device	*dev;
	struct udp_sa		*sa;
};

/**
 * struct udp_crypto_shares - a device's database, shared fairly among users
 * @size: SAs that it has room for, or 0: not known, and nobody is refused
 * @used: SAs that are in it, or on their way in
 * @users: by uid, how many of them its sockets have, if any
 *
 * A user may have eight times as many SAs as there is room left, one place
 * less, and one in any case (Choudhury and Hahne, "Dynamic Queue Length
 * Thresholds for Shared-Memory Packet Switches", 1998): alone eight ninths of
 * the database, and whoever comes finds room. What root has made, for itself
 * or over netlink, is not limited.
 *
 * The owner serialises all calls.
 */
struct udp_crypto_shares {
	unsigned int	size;
	unsigned int	used;
	struct xarray	users;
};

/**
 * struct udp_crypto_ops - a device's side of the offload
 * @caps: tell what the device can do, whether or not the offload is on. Under
 *	RTNL, may sleep. Optional
 * @sa_ready: can the device protect packets with this SA (inline keys: with
 *	@index 0) from now on? Asked in process context when a packet is sent,
 *	and with BHs off when it reaches the device; under RCU, must not sleep.
 *	A device that can not yet may start to install the SA.
 * @sa_deleted: forget an SA that the device holds, and release the holder
 *	some time later. With a lock of the SA held and BHs off. Only of devices that
 *	call udp_crypto_hold().
 * @sa_state: enum udp_crypto_sa_state of an SA that the device holds; likewise
 * @stacked: packets go on to another device, which is asked again
 */
struct udp_crypto_ops {
	void (*caps)(struct net_device *dev, struct udp_crypto_dev_caps *caps);
	bool (*sa_ready)(struct net_device *dev, struct udp_sa *sa);
	void (*sa_deleted)(struct udp_crypto_holder *holder);
	u32 (*sa_state)(struct udp_crypto_holder *holder);
	bool stacked;
};

#ifdef CONFIG_UDP_CRYPTO

/**
 * struct udp_crypto_tx - the UDP_QUIC_CRYPTO message of one sendmsg() call
 *
 * Lives on the stack of udp_sendmsg(). Only @requested is valid without a
 * message.
 */
struct udp_crypto_tx {
	struct msghdr	*msg;
	struct udp_sa	*inline_sa;
	u64		pn;
	u32		sa;
	u32		wire_len;	/* of the UDP payload, tags included */
	u32		copied_pn;	/* of the next packet to be copied */
	u16		seg_size;	/* on the wire; wire_len without GSO */
	u16		pn_offset;
	u16		flags;
	u8		first_byte;	/* of the packet being copied */
	u8		pn_bytes[4];	/* at @pn_offset of that packet */
	bool		requested;
	bool		inline_shared;	/* a packet took a reference */
	bool		copied;		/* by udp_crypto_getfrag() */
	u32		wrong_pn;	/* not zero: seen while copying */
};

static inline void udp_crypto_tx_init(struct udp_crypto_tx *tx)
{
	tx->requested = false;
}

static inline bool udp_crypto_tx_requested(const struct udp_crypto_tx *tx)
{
	return unlikely(tx->requested);
}

int udp_crypto_cmsg(struct sock *sk, struct cmsghdr *cmsg,
		    struct udp_crypto_tx *tx);
bool udp_crypto_cmsg_present(struct msghdr *msg);
int udp_crypto_tx_start(struct udp_crypto_tx *tx, struct msghdr *msg,
			size_t len, u16 gso_size, bool cork);
void __udp_crypto_tx_end(struct udp_crypto_tx *tx);
bool udp_crypto_tx_copies(const struct udp_crypto_tx *tx,
			  const struct net_device *dev);
int udp_crypto_getfrag(void *from, char *to, int offset, int len, int odd,
		       struct sk_buff *skb);
int udp_crypto_protect(struct udp_crypto_tx *tx, struct sk_buff *skb,
		       unsigned int mtu);
void udp_crypto_refuse(struct sk_buff *skb);
void __udp_crypto_tx_lost(const struct udp_crypto_tx *tx,
			  const struct net *net);

/**
 * udp_crypto_tx_refuse() - free a packet that a check of UDP's refuses
 * @tx: of the send
 * @skb: not protected yet
 *
 * Process context. A send without the message keeps what it has taken, as ever.
 */
static inline void udp_crypto_tx_refuse(const struct udp_crypto_tx *tx,
					struct sk_buff *skb)
{
	if (udp_crypto_tx_requested(tx))
		udp_crypto_refuse(skb);
	else
		kfree_skb(skb);
}

/**
 * udp_crypto_tx_lost() - IP has an error for the packets of a send
 * @tx: of the send; udp_crypto_protect() has returned 0
 * @net: network namespace of the socket
 *
 * A copy of them may be out already, so their numbers are used: for the sender
 * they are lost on the wire, and counted.
 * Return: whether the error is to be kept from the sender.
 */
static inline bool udp_crypto_tx_lost(const struct udp_crypto_tx *tx,
				      const struct net *net)
{
	if (!udp_crypto_tx_requested(tx))
		return false;
	__udp_crypto_tx_lost(tx, net);
	return true;
}

static inline void udp_crypto_tx_end(struct udp_crypto_tx *tx)
{
	if (unlikely(tx->requested))
		__udp_crypto_tx_end(tx);
}

int udp_crypto_setsockopt(struct sock *sk, sockptr_t optval,
			  unsigned int optlen);
int udp_crypto_getsockopt(struct sock *sk, char __user *optval,
			  int __user *optlen);
void udp_crypto_destroy_sock(struct sock *sk);

/* Is this plaintext that a software path must not let through? */
static inline bool skb_udp_crypto_plaintext(const struct sk_buff *skb)
{
	return unlikely(skb_ext_exist(skb, SKB_EXT_UDP_CRYPTO));
}

unsigned int __skb_udp_crypto_public_len(const struct sk_buff *skb);

/* How much of @skb may be shown to whoever is not entitled to plaintext. */
static inline unsigned int skb_udp_crypto_public_len(const struct sk_buff *skb)
{
	return skb_udp_crypto_plaintext(skb) ?
	       __skb_udp_crypto_public_len(skb) : skb->len;
}

/* Why a packet is dropped that udp_crypto_protect_late() gave @err for. */
static inline enum skb_drop_reason udp_crypto_drop_reason(int err)
{
	switch (err) {
	case -ENOENT:
		return SKB_DROP_REASON_UDP_CRYPTO_NO_SA;
	case -EAGAIN:
		return SKB_DROP_REASON_UDP_CRYPTO_NO_KEYS;
	case -EBADMSG:
		return SKB_DROP_REASON_UDP_CRYPTO_CHANGED;
	case -ENOMEM:
		return SKB_DROP_REASON_NOMEM;
	}
	return SKB_DROP_REASON_UDP_CRYPTO;
}

struct sk_buff *udp_crypto_validate_xmit(struct sk_buff *skb,
					 struct net_device *dev,
					 netdev_features_t features);
bool __udp_crypto_still_valid(struct sk_buff *skb);
int __udp_crypto_protect_late(struct net *net, struct sk_buff *skb);
bool udp_crypto_receive(struct sk_buff *skb);
int udp_crypto_gso_segment(struct sk_buff *segs);
void udp_crypto_ext_get(struct udp_crypto_ext *ext);
void udp_crypto_ext_put(struct udp_crypto_ext *ext);

/**
 * udp_crypto_protect_late() - make sure that @skb is no plaintext any more
 * @net: network namespace that it is in
 * @skb: any packet, not shared; cloned ones get private data
 *
 * For the ways out of the transmit path that do not lead through
 * validate_xmit_skb(). Any context but hard interrupt.
 * Return: 0, or an error with the packet unchanged, to be dropped.
 */
static inline int udp_crypto_protect_late(struct net *net, struct sk_buff *skb)
{
	if (!skb_udp_crypto_plaintext(skb))
		return 0;
	return __udp_crypto_protect_late(net, skb);
}

/**
 * udp_crypto_still_valid() - may a packet that validate_xmit_skb() has let
 *	through, and the device's ring had no room for, be sent as it is?
 * @skb: any packet
 *
 * BHs off. Return: false: to be validated again.
 */
static inline bool udp_crypto_still_valid(struct sk_buff *skb)
{
	return !skb_udp_crypto_plaintext(skb) || __udp_crypto_still_valid(skb);
}

struct udp_sa_key {
	struct sock	*sk;
	u64		cookie;
};

/**
 * struct udp_sa - a security association
 * @keys: as user space gave them
 * @key: of the table by owner and cookie
 * @key.sk: socket that made it; NULL for one made over netlink. Compared, never
 *	followed, on the transmit path
 * @key.cookie: the owner's name for it
 * @index: in the table of the network namespace; 0 for inline keys
 * @gen: unlike that of any other SA; 0 for inline keys
 * @uid: that may use it with UDP_CRYPTO_SA_F_SAME_UID, which one made over
 *	netlink always has
 * @flags: UDP_CRYPTO_SA_F_*
 * @holders_lock: for changes of @deleted and @holders
 * @packet_limit: or 0
 * @guard: with UDP_CRYPTO_SA_F_GUARD_PN, else NULL
 * @packets: taken; for the limit and for user space
 * @bytes: taken
 * @packets_sw: of @packets, protected by the kernel
 * @packets_dropped: of @packets
 * @path: enum udp_crypto_sa_state that was last traced, 0 at first
 * @sw: ciphers set up, by enum udp_crypto_context; made when first needed
 * @refs: one of the table, one of each device that keeps it, one of each
 *	software encryption under way in process context; of inline keys: one
 *	of each packet
 * @deleted: not in the table any more; with @holders
 * @holders: devices that keep it, struct udp_crypto_holder
 * @building: bit 0: @work is under way to build @sw[1]
 * @node: in the table by owner and cookie
 * @siblings: other SAs of the same socket, under the table's mutex; those of
 *	no socket have none, and are not in the table by owner and cookie
 * @rcu: grace period between the table and the end
 * @work: builds @sw[1] when it was missed, then frees what the last
 *	reference left
 *
 * Found under RCU by index. A packet in flight holds no reference but finds
 * the SA again.
 */
struct udp_sa {
	struct udp_quic_keys	keys;
	struct udp_sa_key	key;
	u64			gen;
	u32			index;
	kuid_t			uid;
	u32			flags;
	spinlock_t		holders_lock;	/* @deleted, @holders */
	u64			packet_limit;
	struct udp_crypto_guard	*guard;
	atomic64_t		packets;
	atomic64_t		bytes;
	atomic64_t		packets_sw;
	atomic64_t		packets_dropped;
	struct udp_crypto_sw	*sw[2];
	refcount_t		refs;
	bool			deleted;
	u8			path;
	struct hlist_head	holders;
	unsigned long		building;
	struct rhash_head	node;
	struct hlist_node	siblings;
	struct rcu_head		rcu;
	struct llist_node	work;
};

/**
 * udp_crypto_holder_of() - what a device remembers of an SA
 * @sa: not freed
 * @dev: of a driver that calls udp_crypto_hold()
 *
 * Under RCU. An SA is rarely with more than one device: this is less than a
 * search by its index.
 * Return: the device's holder, or NULL.
 */
static inline struct udp_crypto_holder *
udp_crypto_holder_of(const struct udp_sa *sa, const struct net_device *dev)
{
	struct udp_crypto_holder *holder;

	hlist_for_each_entry_rcu(holder, &sa->holders, node)
		if (holder->dev == dev)
			return holder;
	return NULL;
}

void udp_crypto_emulation_caps(struct udp_crypto_dev_caps *caps);
bool udp_crypto_emulation_ready(struct udp_sa *sa);
int udp_crypto_emulate(struct net_device *dev, struct sk_buff *skb);
struct udp_sa *udp_crypto_ext_sa(const struct net *net,
				 const struct udp_crypto_ext *ext);
bool udp_crypto_hold(struct udp_crypto_holder *holder, struct net_device *dev,
		     struct udp_sa *sa);
void udp_crypto_release(struct udp_crypto_holder *holder);
void udp_crypto_shares_init(struct udp_crypto_shares *shares,
			    unsigned int size);
bool udp_crypto_shares_may(struct udp_crypto_shares *shares,
			   const struct udp_sa *sa);
int udp_crypto_shares_take(struct udp_crypto_shares *shares,
			   const struct udp_sa *sa);
void udp_crypto_shares_give(struct udp_crypto_shares *shares,
			    const struct udp_sa *sa);
void udp_crypto_sa_moved(struct udp_crypto_holder *holder, u32 path);
void udp_crypto_drop(struct net *net, struct sk_buff *skb,
		     enum skb_drop_reason reason);
bool udp_crypto_lower_ready(struct net_device *lower, struct udp_sa *sa);
void udp_crypto_lower_caps(struct net_device *lower,
			   struct udp_crypto_dev_caps *caps);

#else /* !CONFIG_UDP_CRYPTO */

struct udp_crypto_tx { };

static inline void udp_crypto_tx_init(struct udp_crypto_tx *tx) { }

static inline bool udp_crypto_tx_requested(const struct udp_crypto_tx *tx)
{
	return false;
}

static inline int udp_crypto_cmsg(struct sock *sk, struct cmsghdr *cmsg,
				  struct udp_crypto_tx *tx)
{
	return -EINVAL;
}

static inline bool udp_crypto_cmsg_present(struct msghdr *msg)
{
	return false;
}

static inline int udp_crypto_tx_start(struct udp_crypto_tx *tx,
				      struct msghdr *msg, size_t len,
				      u16 gso_size, bool cork)
{
	return 0;
}

static inline void udp_crypto_tx_end(struct udp_crypto_tx *tx) { }

static inline bool udp_crypto_tx_copies(const struct udp_crypto_tx *tx,
					const struct net_device *dev)
{
	return false;
}

static inline int udp_crypto_getfrag(void *from, char *to, int offset, int len,
				     int odd, struct sk_buff *skb)
{
	return -EINVAL;
}

static inline int udp_crypto_protect(struct udp_crypto_tx *tx,
				     struct sk_buff *skb, unsigned int mtu)
{
	return 0;
}

static inline void udp_crypto_tx_refuse(const struct udp_crypto_tx *tx,
					struct sk_buff *skb)
{
	kfree_skb(skb);
}

static inline bool udp_crypto_tx_lost(const struct udp_crypto_tx *tx,
				      const struct net *net)
{
	return false;
}

static inline int udp_crypto_setsockopt(struct sock *sk, sockptr_t optval,
					unsigned int optlen)
{
	return -ENOPROTOOPT;
}

static inline int udp_crypto_getsockopt(struct sock *sk, char __user *optval,
					int __user *optlen)
{
	return -ENOPROTOOPT;
}

static inline void udp_crypto_destroy_sock(struct sock *sk) { }

static inline bool skb_udp_crypto_plaintext(const struct sk_buff *skb)
{
	return false;
}

static inline unsigned int skb_udp_crypto_public_len(const struct sk_buff *skb)
{
	return skb->len;
}

static inline bool udp_crypto_still_valid(struct sk_buff *skb)
{
	return true;
}

static inline enum skb_drop_reason udp_crypto_drop_reason(int err)
{
	return SKB_DROP_REASON_NOT_SPECIFIED;
}

static inline struct sk_buff *
udp_crypto_validate_xmit(struct sk_buff *skb, struct net_device *dev,
			 netdev_features_t features)
{
	return skb;
}

static inline int udp_crypto_gso_segment(struct sk_buff *segs)
{
	return 0;
}

static inline int udp_crypto_protect_late(struct net *net, struct sk_buff *skb)
{
	return 0;
}

static inline bool udp_crypto_receive(struct sk_buff *skb)
{
	return true;
}

#endif /* CONFIG_UDP_CRYPTO */

#endif /* _NET_UDP_CRYPTO_H */
