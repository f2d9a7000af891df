// SPDX-License-Identifier: GPL-2.0
/*
 * Below the socket: plaintext packets that were meant for a device with the
 * offload meet a device, and are left to it or protected in software. Every
 * other way out of the stack comes here too.
 */
#include <linux/if_arp.h>
#include <linux/if_vlan.h>
#include <linux/ip.h>
#include <linux/netdevice.h>
#include <linux/udp.h>
#include <net/gso.h>
#include <net/checksum.h>
#include <net/ipv6.h>
#include <net/pkt_sched.h>
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

	if (!ext->sa)
		return ext->inline_sa;
	sa = udp_sa_lookup(udp_crypto_pernet(net), ext->sa);
	/* no two SAs, of whatever namespace, have the same generation */
	return sa && sa->gen == ext->gen ? sa : NULL;
}
EXPORT_SYMBOL_GPL(udp_crypto_ext_sa);

/* skbuff.c calls these when it copies and frees extensions */
void udp_crypto_ext_get(struct udp_crypto_ext *ext)
{
	if (!ext->sa)
		refcount_inc(&ext->inline_sa->refs);
}

void udp_crypto_ext_put(struct udp_crypto_ext *ext)
{
	if (!ext->sa)
		udp_sa_put(ext->inline_sa);
}

/* QUIC packets in a plaintext skb. */
static unsigned int udp_crypto_segs(const struct sk_buff *skb)
{
	const struct udp_crypto_ext *ext = skb_ext_find(skb, SKB_EXT_UDP_CRYPTO);

	return DIV_ROUND_UP(ext->len, ext->seg_size);
}

/* An IPv4 header, with options or without, of a UDP header that ends at
 * @payload? Returns how long it is, or 0.
 */
static unsigned int udp_crypto_ipv4_before(const struct sk_buff *skb,
					   unsigned int payload,
					   unsigned int udp_len)
{
	unsigned int ihl, end = payload - sizeof(struct udphdr);

	for (ihl = 5; ihl <= 15 && end >= ihl * 4; ihl++) {
		const struct iphdr *iph;
		struct iphdr _iph;

		iph = skb_header_pointer(skb, end - ihl * 4, sizeof(_iph), &_iph);
		if (iph && iph->version == 4 && iph->ihl == ihl &&
		    iph->protocol == IPPROTO_UDP &&
		    ntohs(iph->tot_len) == ihl * 4 + udp_len)
			return ihl * 4;
	}
	return 0;
}

static unsigned int udp_crypto_ipv6_before(const struct sk_buff *skb,
					   unsigned int payload,
					   unsigned int udp_len)
{
	const unsigned int len = sizeof(struct ipv6hdr);
	const struct ipv6hdr *ip6h;
	struct ipv6hdr _ip6h;

	if (payload < len + sizeof(struct udphdr))
		return 0;
	ip6h = skb_header_pointer(skb, payload - sizeof(struct udphdr) - len,
				  sizeof(_ip6h), &_ip6h);
	return ip6h && ip6h->version == 6 && ip6h->nexthdr == IPPROTO_UDP &&
	       ntohs(ip6h->payload_len) == udp_len ? len : 0;
}

/* Where the payload of a plaintext skb starts: known from its length, by which
 * it is found behind whatever was put in front of it. 0: something has changed
 * that does not fit. UDP header and IP header must be right before it and have
 * that length, and a batch must be one still: the end of the packet has been
 * moved, or it would be encrypted under one number instead of many.
 */
static unsigned int udp_crypto_payload(const struct sk_buff *skb,
				       unsigned int *iphlen)
{
	const struct udp_crypto_ext *ext = skb_ext_find(skb, SKB_EXT_UDP_CRYPTO);
	unsigned int udp_len = sizeof(struct udphdr) + ext->len;
	unsigned int payload = skb->len - ext->len;
	const struct udphdr *uh;
	struct udphdr _uh;

	if (skb->len <= udp_len ||
	    (skb_is_gso(skb) ? skb_shinfo(skb)->gso_size != ext->seg_size :
			       ext->len > ext->seg_size))
		return 0;
	uh = skb_header_pointer(skb, payload - sizeof(_uh), sizeof(_uh), &_uh);
	if (!uh || ntohs(uh->len) != udp_len)
		return 0;
	*iphlen = udp_crypto_ipv4_before(skb, payload, udp_len) ?:
		  udp_crypto_ipv6_before(skb, payload, udp_len);
	return *iphlen ? payload : 0;
}

unsigned int __skb_udp_crypto_public_len(const struct sk_buff *skb)
{
	unsigned int iphlen;

	return udp_crypto_payload(skb, &iphlen);
}
EXPORT_SYMBOL_GPL(__skb_udp_crypto_public_len);

/* Has the UDP header before @payload a checksum of the plaintext in it? */
static bool udp_crypto_has_checksum(const struct sk_buff *skb,
				    unsigned int payload)
{
	const unsigned int start = payload - sizeof(struct udphdr);
	const struct udphdr *uh;
	struct udphdr _uh;

	if (skb->ip_summed == CHECKSUM_PARTIAL &&
	    skb_checksum_start_offset(skb) == start)
		return false;
	uh = skb_header_pointer(skb, start, sizeof(_uh), &_uh);
	return uh && uh->check;
}

/* The sum of checksum and payload stays what it was. So it does not matter what
 * the pseudo header is, and checksums of outer headers stay right, too.
 */
static int udp_crypto_adjust_checksum(struct sk_buff *skb,
				      unsigned int payload, __wsum before)
{
	__wsum after = skb_checksum(skb, payload, skb->len - payload, 0);
	struct udphdr *uh;

	/* not shared with a clone: the payload behind it was encrypted */
	if (!pskb_may_pull(skb, payload))
		return -ENOMEM;
	uh = (struct udphdr *)(skb->data + payload) - 1;
	csum_replace_by_diff(&uh->check, csum_sub(after, before));
	if (!uh->check)
		uh->check = CSUM_MANGLED_0;
	return 0;
}

static int udp_crypto_encrypt(struct udp_sa *sa, struct sk_buff *skb)
{
	const struct udp_crypto_ext *ext = skb_ext_find(skb, SKB_EXT_UDP_CRYPTO);
	unsigned int payload, iphlen;
	bool has_checksum;
	__wsum before = 0;
	int err;

	payload = udp_crypto_payload(skb, &iphlen);
	if (!payload)
		return -EBADMSG;
	has_checksum = udp_crypto_has_checksum(skb, payload);
	if (has_checksum)
		before = skb_checksum(skb, payload, ext->len, 0);
	err = udp_crypto_sw_encrypt(sa, skb, payload, ext->seg_size, ext->pn,
				    ext->pn_offset, UDP_CRYPTO_ATOMIC);
	if (!err && has_checksum)
		err = udp_crypto_adjust_checksum(skb, payload, before);
	if (err)
		return err;

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
	case -EBADMSG:
		atomic64_add(segs, &sa->packets_dropped);
		UDP_CRYPTO_ADD_STATS(un, DROPCHANGED, segs);
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

/* Sends through a device without a qdisc, where what the ring has no room for
 * is lost.
 */
static void udp_crypto_xmit_unqueued(struct sk_buff *skb, u16 queue)
{
	struct net_device *dev = skb->dev;
	struct sk_buff *next;

	for (; skb; skb = next) {
		next = skb->next;
		skb_mark_not_on_list(skb);
		if (__dev_direct_xmit(skb, queue) == NETDEV_TX_BUSY) {
			dev_core_stats_tx_dropped_inc(dev);
			kfree_skb(skb);
		}
	}
}

/* Sends what has been through tc and the qdisc. What the ring has no room for
 * waits in the qdisc: nothing that goes elsewhere does. Process context.
 */
static void udp_crypto_xmit(struct sk_buff *skb)
{
	struct net_device *dev = skb->dev;
	bool again = false;
	u16 queue;

	/* the device may have fewer queues by now */
	queue = netdev_cap_txqueue(dev, skb_get_queue_mapping(skb));
	skb_set_queue_mapping(skb, queue);
	local_bh_disable();
	skb = validate_xmit_skb_list(skb, dev, &again);
	if (skb && !dev_requeue_validated(skb, netdev_get_tx_queue(dev, queue)))
		udp_crypto_xmit_unqueued(skb, queue);
	local_bh_enable();
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
		udp_crypto_xmit(skb);
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

/* An IP header without options or extension headers, of a UDP datagram of
 * @udp_len bytes, between two offsets of the linear data?
 */
static bool udp_crypto_plain_ip(const struct sk_buff *skb, int ip, int udp,
				unsigned int udp_len)
{
	const struct iphdr *iph = (struct iphdr *)(skb->data + ip);
	const struct ipv6hdr *ip6h = (struct ipv6hdr *)iph;

	if (iph->version == 4)
		return udp - ip == sizeof(*iph) && iph->ihl == 5 &&
		       iph->protocol == IPPROTO_UDP &&
		       ntohs(iph->tot_len) == sizeof(*iph) + udp_len;
	return udp - ip == sizeof(*ip6h) && ip6h->version == 6 &&
	       ip6h->nexthdr == IPPROTO_UDP &&
	       ntohs(ip6h->payload_len) == udp_len;
}

/* Does the device find the payload where the headers say it is? Only what is as
 * the sender's IP layer made it, in one Ethernet frame with VLAN tags or without,
 * goes to a device: what that makes of others, nobody knows. This is each
 * packet's way, so it goes by the offsets and searches nothing; whatever does
 * not fit has udp_crypto_payload() look for it.
 */
static bool udp_crypto_as_sent(const struct sk_buff *skb,
			       const struct net_device *dev)
{
	const struct udp_crypto_ext *ext = skb_ext_find(skb, SKB_EXT_UDP_CRYPTO);
	unsigned int udp_len = sizeof(struct udphdr) + ext->len;
	int ip = skb_network_offset(skb), udp = skb_transport_offset(skb);
	int depth = ETH_HLEN;
	__be16 type;

	if (skb->encapsulation || dev->type != ARPHRD_ETHER ||
	    ip < ETH_HLEN || udp <= ip || skb->len != udp + udp_len ||
	    skb_headlen(skb) < udp + sizeof(struct udphdr) ||
	    (skb_is_gso(skb) ? skb_shinfo(skb)->gso_size != ext->seg_size :
			       ext->len > ext->seg_size))
		return false;
	if (ntohs(udp_hdr(skb)->len) != udp_len ||
	    !udp_crypto_plain_ip(skb, ip, udp, udp_len))
		return false;

	type = ((struct ethhdr *)skb->data)->h_proto;
	for (; eth_type_vlan(type) && depth + VLAN_HLEN <= ip; depth += VLAN_HLEN)
		type = ((struct vlan_hdr *)(skb->data + depth))->h_vlan_encapsulated_proto;
	return depth == ip && type == (ip_hdr(skb)->version == 6 ?
				       htons(ETH_P_IPV6) : htons(ETH_P_IP));
}

static bool udp_crypto_dev_can(struct net_device *dev, struct sk_buff *skb,
			       netdev_features_t features)
{
	const struct udp_crypto_ops *ops = dev->udp_crypto_ops;
	struct udp_sa *sa;

	if (!(features & NETIF_F_HW_UDP_CRYPTO_TX) || !ops ||
	    !udp_crypto_as_sent(skb, dev) ||
	    !udp_crypto_untouched(skb, features))
		return false;
	sa = udp_crypto_ext_sa(dev_net(dev),
			       skb_ext_find(skb, SKB_EXT_UDP_CRYPTO));
	return sa && ops->sa_ready(dev, sa);
}

bool __udp_crypto_still_valid(struct sk_buff *skb)
{
	bool valid;

	rcu_read_lock();
	valid = udp_crypto_dev_can(skb->dev, skb, netif_skb_features(skb));
	rcu_read_unlock();
	return valid;
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
		/* already there: this makes it the segment's own */
		struct udp_crypto_ext *ext = skb_ext_add(seg, SKB_EXT_UDP_CRYPTO);

		if (!ext)
			return -ENOMEM;
		ext->pn += i;
		ext->len = seg->len - skb_transport_offset(seg) -
			   sizeof(struct udphdr);
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
