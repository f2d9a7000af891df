// SPDX-License-Identifier: GPL-2.0
/*
 * A simulated device that protects QUIC packets: plaintext comes in through
 * nsim_start_xmit(), ciphertext goes to the peer.
 */
#include <net/udp_crypto.h>

#include "netdevsim.h"

static void nsim_udp_crypto_caps(struct net_device *dev,
				 struct udp_crypto_dev_caps *caps)
{
	udp_crypto_emulation_caps(caps);
}

static bool nsim_udp_crypto_sa_ready(struct net_device *dev, struct udp_sa *sa)
{
	return udp_crypto_emulation_ready(sa);
}

static const struct udp_crypto_ops nsim_udp_crypto_ops = {
	.caps		= nsim_udp_crypto_caps,
	.sa_ready	= nsim_udp_crypto_sa_ready,
};

/* Returns false when the packet must be dropped. Hardware whose offload is off
 * knows nothing of it, and sends what it gets.
 */
bool nsim_udp_crypto_tx(struct netdevsim *ns, struct sk_buff *skb)
{
	if (!skb_udp_crypto_plaintext(skb))
		return true;
	if (ns->netdev->features & NETIF_F_HW_UDP_CRYPTO_TX)
		return !udp_crypto_emulate(ns->netdev, skb);
	skb_ext_del(skb, SKB_EXT_UDP_CRYPTO);
	skb->decrypted = 0;
	return true;
}

/* Off until somebody wants it; with UDP segmentation, as a NIC would have. */
void nsim_udp_crypto_init(struct netdevsim *ns)
{
	ns->netdev->udp_crypto_ops = &nsim_udp_crypto_ops;
	ns->netdev->hw_features |= NETIF_F_HW_UDP_CRYPTO_TX |
				   NETIF_F_GSO_UDP_L4;
}
