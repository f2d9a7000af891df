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
	if (err == -EAGAIN)
		udp_sa_build_later(sa);
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
	struct udp_crypto_net *un = udp_crypto_pernet(net);
	unsigned int segs = udp_crypto_segs(skb);
	struct udp_sa *sa;
	int err;

	rcu_read_lock();
	sa = udp_crypto_ext_sa(net, skb_ext_find(skb, SKB_EXT_UDP_CRYPTO));
	if (!sa) {
		rcu_read_unlock();
		UDP_CRYPTO_ADD_STATS(un, DROPNOSA, segs);
		return -ENOENT;
	}

	err = udp_crypto_encrypt(sa, skb);
	atomic64_add(segs, err ? &sa->packets_dropped : &sa->packets_sw);
	switch (err) {
	case 0:
		UDP_CRYPTO_ADD_STATS(un, TXSOFTWARE, segs);
		UDP_CRYPTO_ADD_STATS(un, TXSOFTWARELATE, segs);
		break;
	case -EAGAIN:
		/* The first packets that meet this device; what is lost QUIC
		 * sends again, and it finds the ciphers set up.
		 */
		UDP_CRYPTO_ADD_STATS(un, DROPNOKEYS, segs);
		break;
	case -ENOMEM:
		UDP_CRYPTO_ADD_STATS(un, DROPNOMEM, segs);
		break;
	default:
		UDP_CRYPTO_ADD_STATS(un, DROPERROR, segs);
	}
	rcu_read_unlock();
	return err;
}
EXPORT_SYMBOL_GPL(__udp_crypto_protect_late);

/* Would the stack have to touch the payload before the device gets it? */
static bool udp_crypto_untouched(struct sk_buff *skb, netdev_features_t features)
{
	if (skb_is_gso(skb))
		return !netif_needs_gso(skb, features);
	if (skb_is_nonlinear(skb) && !(features & NETIF_F_SG))
		return false;
	if (skb->ip_summed == CHECKSUM_PARTIAL)
		return features & (NETIF_F_HW_CSUM |
				   (ip_hdr(skb)->version == 6 ?
				    NETIF_F_IPV6_CSUM : NETIF_F_IP_CSUM));
	return !udp_hdr(skb)->check;
}

static bool udp_crypto_dev_can(struct net_device *dev, struct sk_buff *skb)
{
	const struct udp_crypto_ops *ops = dev->udp_crypto_ops;
	netdev_features_t features = netif_skb_features(skb);
	const struct udp_sa *sa;

	if (!(features & NETIF_F_HW_UDP_CRYPTO_TX) || !ops ||
	    skb->encapsulation || !udp_crypto_untouched(skb, features))
		return false;
	sa = udp_crypto_ext_sa(dev_net(dev),
			       skb_ext_find(skb, SKB_EXT_UDP_CRYPTO));
	return sa && (!ops->tx_ok || ops->tx_ok(dev, skb, sa));
}

/**
 * udp_crypto_validate_xmit() - a plaintext packet has reached a device
 * @skb: plaintext
 * @dev: that is to send it
 *
 * From validate_xmit_skb(), under RCU with BHs off.
 * Return: @skb, for the device to encrypt or encrypted; NULL: dropped, counted.
 */
struct sk_buff *udp_crypto_validate_xmit(struct sk_buff *skb,
					 struct net_device *dev)
{
	enum skb_drop_reason reason;
	int err;

	if (udp_crypto_dev_can(dev, skb)) {
		UDP_CRYPTO_ADD_STATS(udp_crypto_pernet(dev_net(dev)), TXDEVICE,
				     udp_crypto_segs(skb));
		return skb;
	}

	err = __udp_crypto_protect_late(dev_net(dev), skb);
	switch (err) {
	case 0:
		return skb;
	case -ENOENT:
		reason = SKB_DROP_REASON_UDP_CRYPTO_NO_SA;
		break;
	case -EAGAIN:
		reason = SKB_DROP_REASON_UDP_CRYPTO_NO_KEYS;
		break;
	case -ENOMEM:
		reason = SKB_DROP_REASON_NOMEM;
		break;
	default:
		reason = SKB_DROP_REASON_UDP_CRYPTO;
	}
	kfree_skb_reason(skb, reason);
	return NULL;
}

/**
 * udp_crypto_gso_segment() - give each segment its own packet number
 * @gso_skb: plaintext that was segmented
 * @segs: its segments, each with the extension of the whole
 * @mss: bytes of payload in each, or in each GSO segment
 *
 * Return: 0 or -ENOMEM.
 */
int udp_crypto_gso_segment(const struct sk_buff *gso_skb, struct sk_buff *segs,
			   unsigned int mss)
{
	unsigned int gso_size = skb_shinfo(gso_skb)->gso_size;
	struct sk_buff *seg;
	unsigned int i = 0;

	for (seg = segs; seg; seg = seg->next) {
		struct udp_crypto_ext *ext;

		/* already there: this makes it the segment's own */
		ext = skb_ext_add(seg, SKB_EXT_UDP_CRYPTO);
		if (!ext)
			return -ENOMEM;
		ext->pn += i;
		i += mss / gso_size;
	}
	return 0;
}
