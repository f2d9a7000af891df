// SPDX-License-Identifier: GPL-2.0
/*
 * Below the socket: plaintext packets that were meant for a device with the
 * offload meet a device, and are left to it or protected in software. Every
 * other way out of the stack comes here too.
 */
#include <linux/ip.h>
#include <linux/netdevice.h>
#include <linux/udp.h>
#include <net/gso.h>
#include <net/ipv6.h>
#include <net/ip6_checksum.h>
#include <net/udp.h>

#include "internal.h"
#include <trace/events/udp_crypto.h>

/**
 * udp_crypto_ext_sa() - the SA of a plaintext packet
 * @net: network namespace that the packet is in
 * @ext: of the packet
 *
 * Under RCU. Return: the SA, or NULL when it was deleted meanwhile.
 */
struct udp_sa *udp_crypto_ext_sa(const struct net *net,
				 const struct udp_crypto_ext *ext)
{
	struct udp_sa *sa;

	if (ext->inline_sa)
		return ext->inline_sa;
	sa = udp_sa_lookup(udp_crypto_pernet(net), ext->sa);
	/* no two SAs, of whatever namespace, have the same generation */
	return sa && sa->gen == ext->gen ? sa : NULL;
}
EXPORT_SYMBOL_GPL(udp_crypto_ext_sa);

/* skbuff.c calls these when it copies and frees extensions */
void udp_crypto_ext_get(struct udp_crypto_ext *ext)
{
	if (ext->inline_sa)
		refcount_inc(&ext->inline_sa->refs);
}

void udp_crypto_ext_put(struct udp_crypto_ext *ext)
{
	if (ext->inline_sa)
		udp_sa_put(ext->inline_sa);
}

static unsigned int udp_crypto_segs(const struct sk_buff *skb)
{
	return skb_is_gso(skb) ? skb_shinfo(skb)->gso_segs : 1;
}

/* A checksum that is there already is one of the plaintext. */
static void udp_crypto_redo_checksum(struct sk_buff *skb)
{
	unsigned int len = skb->len - skb_transport_offset(skb);
	struct udphdr *uh = udp_hdr(skb);

	if (skb->ip_summed == CHECKSUM_PARTIAL || !uh->check)
		return;
	if (ip_hdr(skb)->version == 6)
		uh->check = ~udp_v6_check(len, &ipv6_hdr(skb)->saddr,
					  &ipv6_hdr(skb)->daddr, 0);
	else
		uh->check = ~udp_v4_check(len, ip_hdr(skb)->saddr,
					  ip_hdr(skb)->daddr, 0);
	skb->ip_summed = CHECKSUM_PARTIAL;
	skb->csum_start = skb_transport_header(skb) - skb->head;
	skb->csum_offset = offsetof(struct udphdr, check);
}

static int udp_crypto_encrypt(struct udp_sa *sa, struct sk_buff *skb)
{
	const struct udp_crypto_ext *ext = skb_ext_find(skb, SKB_EXT_UDP_CRYPTO);
	unsigned int payload = skb_transport_offset(skb) + sizeof(struct udphdr);
	const unsigned int min = ext->pn_offset + UDP_QUIC_SAMPLE_OFFSET +
				 UDP_QUIC_SAMPLE_LEN;
	unsigned int seg_size, last;
	int err;

	/* The stack does not take bytes off a datagram, but a BPF program or
	 * an action of tc may have.
	 */
	if (skb->encapsulation || skb->len < payload + min)
		return -EINVAL;
	seg_size = skb_is_gso(skb) ? skb_shinfo(skb)->gso_size :
				     skb->len - payload;
	last = (skb->len - payload) % seg_size;
	if (seg_size < min || (last && last < min))
		return -EINVAL;
	if (!pskb_may_pull(skb, payload))
		return -EINVAL;
	err = udp_crypto_sw_encrypt(sa, skb, payload, seg_size, ext->pn,
				    ext->pn_offset, UDP_CRYPTO_ATOMIC);
	if (err)
		return err;

	udp_crypto_redo_checksum(skb);
	skb->decrypted = 0;
	skb_ext_del(skb, SKB_EXT_UDP_CRYPTO);
	return 0;
}

/**
 * udp_crypto_emulate() - do what a device with the offload does
 * @dev: simulated device that sends the packet
 * @skb: plaintext that was left to it, not shared
 *
 * Any context but hard interrupt. Return: 0, or an error: drop the packet.
 */
int udp_crypto_emulate(struct net_device *dev, struct sk_buff *skb)
{
	struct udp_sa *sa;
	int err = -ENOENT;

	rcu_read_lock();
	sa = udp_crypto_ext_sa(dev_net(dev),
			       skb_ext_find(skb, SKB_EXT_UDP_CRYPTO));
	if (sa)
		err = udp_crypto_encrypt(sa, skb);
	rcu_read_unlock();
	return err;
}
EXPORT_SYMBOL_GPL(udp_crypto_emulate);

static void udp_crypto_trace_drop(struct net *net, const struct sk_buff *skb,
				  enum skb_drop_reason reason)
{
	if (trace_udp_crypto_drop_enabled())
		trace_udp_crypto_drop(net, skb,
				      skb_ext_find(skb, SKB_EXT_UDP_CRYPTO),
				      reason);
}

/**
 * udp_crypto_drop() - a device drops a plaintext packet
 * @net: of the device
 * @skb: freed
 * @reason: why
 *
 * Any context.
 */
void udp_crypto_drop(struct net *net, struct sk_buff *skb,
		     enum skb_drop_reason reason)
{
	udp_crypto_trace_drop(net, skb, reason);
	dev_kfree_skb_any_reason(skb, reason);
}
EXPORT_SYMBOL_GPL(udp_crypto_drop);

/* Returns 0, -EAGAIN with the packet unchanged (the ciphers of its SA are not
 * set up, and nothing is counted), or an error, counted.
 */
static int udp_crypto_try_late(struct net *net, struct sk_buff *skb)
{
	struct udp_crypto_net *un = udp_crypto_pernet(net);
	unsigned int segs = udp_crypto_segs(skb);
	struct udp_sa *sa;
	int err;

	rcu_read_lock();
	sa = udp_crypto_ext_sa(net, skb_ext_find(skb, SKB_EXT_UDP_CRYPTO));
	if (!sa) {
		rcu_read_unlock();
		UDP_CRYPTO_ADD_STATS(un, DROPNOSA, segs);
		udp_crypto_trace_drop(net, skb, udp_crypto_drop_reason(-ENOENT));
		return -ENOENT;
	}

	err = udp_crypto_encrypt(sa, skb);
	switch (err) {
	case 0:
		atomic64_add(segs, &sa->packets_sw);
		udp_crypto_sa_took(net, sa, NULL);
		UDP_CRYPTO_ADD_STATS(un, TXSOFTWARE, segs);
		UDP_CRYPTO_ADD_STATS(un, TXSOFTWARELATE, segs);
		break;
	case -EAGAIN:
		break;
	case -ENOMEM:
		atomic64_add(segs, &sa->packets_dropped);
		UDP_CRYPTO_ADD_STATS(un, DROPNOMEM, segs);
		break;
	default:
		atomic64_add(segs, &sa->packets_dropped);
		UDP_CRYPTO_ADD_STATS(un, DROPERROR, segs);
	}
	rcu_read_unlock();
	if (err && err != -EAGAIN)
		udp_crypto_trace_drop(net, skb, udp_crypto_drop_reason(err));
	return err;
}

static void udp_crypto_drop_no_keys(struct net *net, struct sk_buff *skb)
{
	unsigned int segs = udp_crypto_segs(skb);
	struct udp_sa *sa;

	rcu_read_lock();
	sa = udp_crypto_ext_sa(net, skb_ext_find(skb, SKB_EXT_UDP_CRYPTO));
	if (sa) {
		atomic64_add(segs, &sa->packets_dropped);
		udp_sa_build_later(sa);
	}
	rcu_read_unlock();
	UDP_CRYPTO_ADD_STATS(udp_crypto_pernet(net), DROPNOKEYS, segs);
	udp_crypto_trace_drop(net, skb, udp_crypto_drop_reason(-EAGAIN));
}

/**
 * __udp_crypto_protect_late() - encrypt a plaintext packet, or say why not
 * @net: network namespace that it is in
 * @skb: plaintext, not shared
 *
 * Any context but hard interrupt.
 * Return: 0, or an error, counted: the caller drops the packet.
 */
int __udp_crypto_protect_late(struct net *net, struct sk_buff *skb)
{
	int err = udp_crypto_try_late(net, skb);

	if (err == -EAGAIN)
		udp_crypto_drop_no_keys(net, skb);
	return err;
}
EXPORT_SYMBOL_GPL(__udp_crypto_protect_late);

/* Ciphers are set up in process context only. Packets that find those of
 * their SA missing wait here for a worker, which sends them on.
 */
struct udp_crypto_waiting {
	netdevice_tracker	dev_tracker;
	netns_tracker		net_tracker;
	struct net		*net;
	bool			receive;
};

#define UDP_CRYPTO_WAITING(skb)	((struct udp_crypto_waiting *)(skb)->cb)
/* In all, and of one network namespace: none can keep the others out. */
#define UDP_CRYPTO_WAITING_MAX		4096
#define UDP_CRYPTO_WAITING_MAX_NET	1024

static struct sk_buff_head udp_crypto_waiting;

/* Sends what has been through tc and the qdisc. Process context. */
static void udp_crypto_direct_xmit(struct sk_buff *skb)
{
	struct net_device *dev = skb->dev;
	struct sk_buff *next;
	bool again = false;

	/* may segment, which dev_direct_xmit() does not allow for */
	for (skb = validate_xmit_skb_list(skb, dev, &again); skb; skb = next) {
		unsigned int patience = 1000;
		u16 queue;

		next = skb->next;
		skb_mark_not_on_list(skb);
		/* the device may have fewer queues by now */
		queue = netdev_cap_txqueue(dev, skb_get_queue_mapping(skb));
		while (__dev_direct_xmit(skb, queue) == NETDEV_TX_BUSY) {
			/* no qdisc keeps it while the device's ring is full */
			if (!netif_running(dev) || !patience--) {
				dev_core_stats_tx_dropped_inc(dev);
				kfree_skb(skb);
				break;
			}
			usleep_range(50, 200);
		}
	}
}

static void udp_crypto_resume(struct sk_buff *skb, struct net *net,
			      bool receive)
{
	struct udp_sa *sa;
	int err;

	rcu_read_lock();
	sa = udp_crypto_ext_sa(net, skb_ext_find(skb, SKB_EXT_UDP_CRYPTO));
	if (sa && !refcount_inc_not_zero(&sa->refs))
		sa = NULL;
	rcu_read_unlock();
	if (sa) {
		udp_crypto_sw_build(sa, UDP_CRYPTO_ATOMIC);
		udp_sa_put(sa);
	}

	/* finds that the SA is gone, or that there is no memory, by itself */
	err = __udp_crypto_protect_late(net, skb);
	if (err) {
		kfree_skb_reason(skb, udp_crypto_drop_reason(err));
	} else if (!net_eq(dev_net(skb->dev), net)) {
		/* the device has moved to another namespace, the packet may not */
		dev_core_stats_tx_dropped_inc(skb->dev);
		kfree_skb_reason(skb, SKB_DROP_REASON_UDP_CRYPTO);
	} else if (receive) {
		netif_rx(skb);
	} else {
		memset(skb->cb, 0, sizeof(skb->cb));
		udp_crypto_direct_xmit(skb);
	}
}

static void udp_crypto_waiting_work(struct work_struct *work)
{
	struct sk_buff *skb;

	while ((skb = skb_dequeue(&udp_crypto_waiting))) {
		struct udp_crypto_waiting waiting = *UDP_CRYPTO_WAITING(skb);
		struct net_device *dev = skb->dev;

		udp_crypto_resume(skb, waiting.net, waiting.receive);
		netdev_put(dev, &waiting.dev_tracker);
		atomic_dec(&udp_crypto_pernet(waiting.net)->waiting);
		put_net_track(waiting.net, &waiting.net_tracker);
		cond_resched();
	}
}

static DECLARE_WORK(udp_crypto_waiting_worker, udp_crypto_waiting_work);

/* Takes the packet, and references to its device and namespace: a device may
 * move out of a namespace that ends. False, and nothing done, when too many
 * wait or the namespace is ending.
 */
static bool udp_crypto_wait(struct sk_buff *skb, struct net_device *dev,
			    bool receive)
{
	struct udp_crypto_waiting *waiting = UDP_CRYPTO_WAITING(skb);
	struct net *net = dev_net(dev);
	struct udp_crypto_net *un = udp_crypto_pernet(net);

	BUILD_BUG_ON(sizeof(*waiting) > sizeof(skb->cb));
	if (skb_queue_len_lockless(&udp_crypto_waiting) >=
	    UDP_CRYPTO_WAITING_MAX)
		return false;
	if (atomic_inc_return(&un->waiting) > UDP_CRYPTO_WAITING_MAX_NET ||
	    !maybe_get_net(net)) {
		atomic_dec(&un->waiting);
		return false;
	}
	skb->dev = dev;
	memset(waiting, 0, sizeof(*waiting));
	waiting->net = net;
	waiting->receive = receive;
	netns_tracker_alloc(net, &waiting->net_tracker, GFP_ATOMIC);
	netdev_hold(dev, &waiting->dev_tracker, GFP_ATOMIC);
	skb_queue_tail(&udp_crypto_waiting, skb);
	schedule_work(&udp_crypto_waiting_worker);
	return true;
}

/**
 * udp_crypto_receive() - plaintext was redirected from transmit to receive
 * @skb: plaintext, as in __netif_receive_skb_core()
 *
 * Return: true: it is ciphertext now; false: the packet is taken, to be
 * received again later, or dropped and counted.
 */
bool udp_crypto_receive(struct sk_buff *skb)
{
	struct net *net = dev_net(skb->dev);
	int err = udp_crypto_try_late(net, skb);

	if (!err)
		return true;
	if (err == -EAGAIN) {
		/* not shared with a tap: those come after this */
		if (udp_crypto_wait(skb, skb->dev, true))
			return false;
		udp_crypto_drop_no_keys(net, skb);
	}
	kfree_skb_reason(skb, udp_crypto_drop_reason(err));
	return false;
}

/* Would the stack have to look into the payload before the device gets it?
 * A batch that it segments stays plaintext: each segment gets its number. But a
 * checksum that it computes would be one of the plaintext.
 */
static bool udp_crypto_untouched(struct sk_buff *skb, netdev_features_t features)
{
	netdev_features_t csum = NETIF_F_HW_CSUM |
				 (ip_hdr(skb)->version == 6 ?
				  NETIF_F_IPV6_CSUM : NETIF_F_IP_CSUM);

	if (skb_is_gso(skb))
		return !netif_needs_gso(skb, features) ||
		       (features & csum && features & NETIF_F_SG &&
			skb->ip_summed == CHECKSUM_PARTIAL);
	if (skb_is_nonlinear(skb) && !(features & NETIF_F_SG))
		return false;
	if (skb->ip_summed == CHECKSUM_PARTIAL)
		return features & csum;
	return !udp_hdr(skb)->check;
}

static bool udp_crypto_dev_can(struct net_device *dev, struct sk_buff *skb,
			       netdev_features_t features)
{
	const struct udp_crypto_ops *ops = dev->udp_crypto_ops;
	struct udp_sa *sa;

	if (!(features & NETIF_F_HW_UDP_CRYPTO_TX) || !ops ||
	    skb->encapsulation || !udp_crypto_untouched(skb, features))
		return false;
	sa = udp_crypto_ext_sa(dev_net(dev),
			       skb_ext_find(skb, SKB_EXT_UDP_CRYPTO));
	return sa && ops->sa_ready(dev, sa);
}

/**
 * udp_crypto_validate_xmit() - a plaintext packet has reached a device
 * @skb: plaintext
 * @dev: that is to send it
 * @features: of @dev for this packet, from netif_skb_features()
 *
 * From validate_xmit_skb(), under RCU with BHs off.
 * Return: @skb, for the device to encrypt or encrypted; NULL: taken, to be sent
 * in a moment, or dropped and counted.
 */
struct sk_buff *udp_crypto_validate_xmit(struct sk_buff *skb,
					 struct net_device *dev,
					 netdev_features_t features)
{
	int err;

	if (udp_crypto_dev_can(dev, skb, features)) {
		if (!dev->udp_crypto_ops->stacked)
			UDP_CRYPTO_ADD_STATS(udp_crypto_pernet(dev_net(dev)),
					     TXDEVICE, udp_crypto_segs(skb));
		return skb;
	}

	err = udp_crypto_try_late(dev_net(dev), skb);
	if (!err)
		return skb;
	if (err == -EAGAIN) {
		if (udp_crypto_wait(skb, dev, false))
			return NULL;
		udp_crypto_drop_no_keys(dev_net(dev), skb);
	}
	kfree_skb_reason(skb, udp_crypto_drop_reason(err));
	dev_core_stats_tx_dropped_inc(dev);
	return NULL;
}

/**
 * udp_crypto_gso_segment() - give each segment its own packet number
 * @segs: of plaintext that was segmented, each with the extension of the
 *	whole; one that is a batch itself (NETIF_F_GSO_PARTIAL) takes as many
 *	numbers as it has packets
 *
 * Return: 0 or -ENOMEM.
 */
int udp_crypto_gso_segment(struct sk_buff *segs)
{
	struct sk_buff *seg;
	unsigned int i = 0;

	for (seg = segs; seg; seg = seg->next) {
		struct udp_crypto_ext *ext;

		/* the first one's number is right */
		if (i) {
			/* already there: this makes it the segment's own */
			ext = skb_ext_add(seg, SKB_EXT_UDP_CRYPTO);
			if (!ext)
				return -ENOMEM;
			ext->pn += i;
		}
		i += udp_crypto_segs(seg);
	}
	return 0;
}

static int __init udp_crypto_waiting_init(void)
{
	skb_queue_head_init(&udp_crypto_waiting);
	return 0;
}
core_initcall(udp_crypto_waiting_init);
