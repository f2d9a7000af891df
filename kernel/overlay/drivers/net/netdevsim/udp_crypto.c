// SPDX-License-Identifier: GPL-2.0
/*
 * A simulated device that protects QUIC packets: plaintext comes in through
 * nsim_start_xmit(), ciphertext goes to the peer. As hardware does, it keeps
 * SAs in a database of its own, and takes a packet only with one of those;
 * the kernel's ciphers do the work.
 *
 * debugfs, udp_crypto/ of the port:
 *   sa_max	room in the database
 *   sa_count	SAs that are there
 *   sas	which, and whether packets can use them; no keys
 *   install	N: no more SAs are taken in
 *   ciphers	1 << enum udp_quic_cipher for each that the device knows
 *   ahead	Y: a packet may come before the kernel's ciphers are set up,
 *		which hardware does not need; this device loses it
 *   ring_full	1: the next packet finds no room and stops its queue; 0: there
 *		is room again
 *   tx		packets encrypted
 *   tx_dropped	skbs whose SA had gone
 */
#include <linux/debugfs.h>
#include <linux/seq_file.h>
#include <linux/slab.h>
#include <net/udp_crypto.h>

#include "netdevsim.h"

#define NSIM_UDP_CRYPTO_SA_MAX	4096

/**
 * struct nsim_udp_sa - an SA in the database
 * @holder: keeps the SA and its keys
 * @gen: of the SA; a packet must have the same
 * @stored: is in the database
 * @deleted: goes, or is not to get in
 * @rcu: grace period of the transmit path
 */
struct nsim_udp_sa {
	struct udp_crypto_holder holder;
	u64 gen;
	bool stored;
	bool deleted;
	struct rcu_head rcu;
};

static struct nsim_udp_sa *nsim_udp_sa_of(struct udp_crypto_holder *holder)
{
	return container_of(holder, struct nsim_udp_sa, holder);
}

static void nsim_udp_sa_free_rcu(struct rcu_head *rcu)
{
	struct nsim_udp_sa *nsa = container_of(rcu, struct nsim_udp_sa, rcu);

	udp_crypto_release(&nsa->holder);
	kfree_rcu(nsa, rcu);
}

static void nsim_udp_sa_remove(struct nsim_udp_crypto *crypto,
			       struct nsim_udp_sa *nsa)
{
	lockdep_assert_held(&crypto->lock);
	xa_erase(&crypto->sas, nsa->holder.sa->index);
	WRITE_ONCE(crypto->sa_count, crypto->sa_count - 1);
	WRITE_ONCE(nsa->stored, false);
	call_rcu(&nsa->rcu, nsim_udp_sa_free_rcu);
}

/* On the transmit path, once for each SA. Returns whether it is stored. */
static bool nsim_udp_sa_add(struct netdevsim *ns, struct udp_sa *sa)
{
	struct nsim_udp_crypto *crypto = &ns->udp_crypto;
	struct nsim_udp_sa *nsa, *old;
	bool stored;

	if (!READ_ONCE(crypto->install) ||
	    READ_ONCE(crypto->sa_count) >= READ_ONCE(crypto->sa_max))
		return false;
	nsa = kzalloc(sizeof(*nsa), GFP_ATOMIC | __GFP_NOWARN);
	if (!nsa)
		return false;
	nsa->gen = sa->gen;
	if (!udp_crypto_hold(&nsa->holder, ns->netdev, sa)) {
		kfree(nsa);
		return false;
	}

	spin_lock_bh(&crypto->lock);
	old = xa_load(&crypto->sas, sa->index);
	/* the device has moved to another network namespace */
	if (old && old->gen != sa->gen) {
		nsim_udp_sa_remove(crypto, old);
		old = NULL;
	}
	stored = !old && !nsa->deleted && crypto->sa_count < crypto->sa_max &&
		 !xa_is_err(xa_store(&crypto->sas, sa->index, nsa, GFP_ATOMIC));
	if (stored) {
		WRITE_ONCE(nsa->stored, true);
		WRITE_ONCE(crypto->sa_count, crypto->sa_count + 1);
	}
	spin_unlock_bh(&crypto->lock);
	if (!stored) {
		udp_crypto_release(&nsa->holder);
		kfree_rcu(nsa, rcu);
	}
	return stored || old;
}

static bool nsim_udp_crypto_sa_ready(struct net_device *dev, struct udp_sa *sa)
{
	struct netdevsim *ns = netdev_priv(dev);
	struct nsim_udp_sa *nsa;

	/* keys of a single message do not get into a database */
	if (!sa->index ||
	    !(READ_ONCE(ns->udp_crypto.ciphers) & BIT(sa->keys.cipher)))
		return false;
	nsa = xa_load(&ns->udp_crypto.sas, sa->index);
	if ((!nsa || nsa->gen != sa->gen) && !nsim_udp_sa_add(ns, sa))
		return false;
	return READ_ONCE(ns->udp_crypto.ahead) || udp_crypto_emulation_ready(sa);
}

static void nsim_udp_crypto_sa_deleted(struct udp_crypto_holder *holder)
{
	struct netdevsim *ns = netdev_priv(holder->dev);
	struct nsim_udp_sa *nsa = nsim_udp_sa_of(holder);

	spin_lock(&ns->udp_crypto.lock);
	nsa->deleted = true;
	if (nsa->stored)
		nsim_udp_sa_remove(&ns->udp_crypto, nsa);
	spin_unlock(&ns->udp_crypto.lock);
}

static u32 nsim_udp_crypto_sa_state(struct udp_crypto_holder *holder)
{
	return READ_ONCE(nsim_udp_sa_of(holder)->stored) &&
	       udp_crypto_emulation_ready(holder->sa) ?
	       UDP_CRYPTO_SA_DEVICE : UDP_CRYPTO_SA_SOFTWARE;
}

static void nsim_udp_crypto_caps(struct net_device *dev,
				 struct udp_crypto_dev_caps *caps)
{
	struct netdevsim *ns = netdev_priv(dev);

	udp_crypto_emulation_caps(caps);
	caps->ciphers &= READ_ONCE(ns->udp_crypto.ciphers);
	caps->sa_max = READ_ONCE(ns->udp_crypto.sa_max);
	caps->sa_count = READ_ONCE(ns->udp_crypto.sa_count);
}

static const struct udp_crypto_ops nsim_udp_crypto_ops = {
	.caps		= nsim_udp_crypto_caps,
	.sa_ready	= nsim_udp_crypto_sa_ready,
	.sa_deleted	= nsim_udp_crypto_sa_deleted,
	.sa_state	= nsim_udp_crypto_sa_state,
};

/* Hardware goes off after the last packet that was meant for it. */
static void nsim_udp_crypto_off(struct work_struct *work)
{
	struct nsim_udp_crypto *crypto =
		container_of(to_delayed_work(work), struct nsim_udp_crypto, off);
	struct netdevsim *ns = container_of(crypto, struct netdevsim,
					    udp_crypto);

	/* ndo_set_features() comes before the change */
	if (READ_ONCE(ns->netdev->features) & NETIF_F_HW_UDP_CRYPTO_TX) {
		schedule_delayed_work(&crypto->off, 1);
		return;
	}
	/* what validate_xmit_skb() has left to the device is on its way */
	synchronize_net();
	WRITE_ONCE(crypto->on, false);
}

/* Under RTNL, before the features change */
void nsim_udp_crypto_set_features(struct netdevsim *ns,
				  netdev_features_t features)
{
	struct nsim_udp_crypto *crypto = &ns->udp_crypto;

	if (features & NETIF_F_HW_UDP_CRYPTO_TX) {
		cancel_delayed_work_sync(&crypto->off);
		WRITE_ONCE(crypto->on, true);
	} else if (crypto->on) {
		schedule_delayed_work(&crypto->off, 1);
	}
}

/* Returns false when the packet must be dropped. Hardware whose offload is off
 * knows nothing of it, and sends what it gets.
 */
bool nsim_udp_crypto_tx(struct netdevsim *ns, struct sk_buff *skb)
{
	struct udp_crypto_ext *ext = skb_ext_find(skb, SKB_EXT_UDP_CRYPTO);
	struct nsim_udp_crypto *crypto = &ns->udp_crypto;
	struct nsim_udp_sa *nsa;

	if (likely(!ext))
		return true;
	if (!READ_ONCE(crypto->on)) {
		skb_ext_del(skb, SKB_EXT_UDP_CRYPTO);
		skb->decrypted = 0;
		return true;
	}

	nsa = xa_load(&crypto->sas, ext->sa);
	if (!nsa || nsa->gen != ext->gen ||
	    udp_crypto_emulate(ns->netdev, skb)) {
		atomic_inc(&crypto->tx_dropped);
		return false;
	}
	atomic_add(skb_is_gso(skb) ? skb_shinfo(skb)->gso_segs : 1,
		   &crypto->tx);
	return true;
}

/* Is there no room in the ring? Then the queue is stopped. */
bool nsim_udp_crypto_ring_full(struct netdevsim *ns, struct sk_buff *skb)
{
	struct nsim_udp_crypto *crypto = &ns->udp_crypto;

	if (likely(!READ_ONCE(crypto->ring_full)))
		return false;
	netif_stop_subqueue(ns->netdev, skb_get_queue_mapping(skb));
	/* pairs with smp_mb() in nsim_udp_crypto_ring_full_set() */
	smp_mb();
	if (!READ_ONCE(crypto->ring_full))
		netif_tx_wake_all_queues(ns->netdev);
	return true;
}

static int nsim_udp_crypto_ring_full_get(void *data, u64 *val)
{
	struct netdevsim *ns = data;

	*val = ns->udp_crypto.ring_full;
	return 0;
}

static int nsim_udp_crypto_ring_full_set(void *data, u64 val)
{
	struct netdevsim *ns = data;

	WRITE_ONCE(ns->udp_crypto.ring_full, !!val);
	/* pairs with smp_mb() in nsim_udp_crypto_ring_full() */
	smp_mb();
	if (!val)
		netif_tx_wake_all_queues(ns->netdev);
	return 0;
}
DEFINE_DEBUGFS_ATTRIBUTE(nsim_udp_crypto_ring_full_fops,
			 nsim_udp_crypto_ring_full_get,
			 nsim_udp_crypto_ring_full_set, "%llu\n");

static int nsim_udp_crypto_sas_show(struct seq_file *seq, void *v)
{
	struct netdevsim *ns = seq->private;
	struct nsim_udp_sa *nsa;
	unsigned long index;

	rcu_read_lock();
	xa_for_each(&ns->udp_crypto.sas, index, nsa)
		seq_printf(seq, "sa[%lu] gen=%llu cipher=%u ready=%u\n", index,
			   nsa->gen, nsa->holder.sa->keys.cipher,
			   udp_crypto_emulation_ready(nsa->holder.sa));
	rcu_read_unlock();
	return 0;
}
DEFINE_SHOW_ATTRIBUTE(nsim_udp_crypto_sas);

/* Off until somebody wants it; with UDP segmentation, as a NIC would have. */
void nsim_udp_crypto_init(struct netdevsim *ns)
{
	struct nsim_udp_crypto *crypto = &ns->udp_crypto;

	xa_init(&crypto->sas);
	spin_lock_init(&crypto->lock);
	INIT_DELAYED_WORK(&crypto->off, nsim_udp_crypto_off);
	crypto->sa_max = NSIM_UDP_CRYPTO_SA_MAX;
	crypto->ciphers = ~0U;
	crypto->install = true;
	ns->netdev->udp_crypto_ops = &nsim_udp_crypto_ops;
	ns->netdev->hw_features |= NETIF_F_HW_UDP_CRYPTO_TX |
				   NETIF_F_GSO_UDP_L4;

	crypto->ddir = debugfs_create_dir("udp_crypto",
					  ns->nsim_dev_port->ddir);
	debugfs_create_u32("sa_max", 0600, crypto->ddir, &crypto->sa_max);
	debugfs_create_u32("sa_count", 0400, crypto->ddir, &crypto->sa_count);
	debugfs_create_file("sas", 0400, crypto->ddir, ns,
			    &nsim_udp_crypto_sas_fops);
	debugfs_create_bool("install", 0600, crypto->ddir, &crypto->install);
	debugfs_create_x32("ciphers", 0600, crypto->ddir, &crypto->ciphers);
	debugfs_create_bool("ahead", 0600, crypto->ddir, &crypto->ahead);
	debugfs_create_file("ring_full", 0600, crypto->ddir, ns,
			    &nsim_udp_crypto_ring_full_fops);
	debugfs_create_atomic_t("tx", 0400, crypto->ddir, &crypto->tx);
	debugfs_create_atomic_t("tx_dropped", 0400, crypto->ddir,
				&crypto->tx_dropped);
}

/* The device is not registered any more: nobody asks it to take an SA. */
void nsim_udp_crypto_teardown(struct netdevsim *ns)
{
	struct nsim_udp_crypto *crypto = &ns->udp_crypto;
	struct nsim_udp_sa *nsa;
	unsigned long index;

	cancel_delayed_work_sync(&crypto->off);
	debugfs_remove_recursive(crypto->ddir);
	spin_lock_bh(&crypto->lock);
	xa_for_each(&crypto->sas, index, nsa)
		nsim_udp_sa_remove(crypto, nsa);
	spin_unlock_bh(&crypto->lock);
	/* their holders refer to the device */
	rcu_barrier();
	xa_destroy(&crypto->sas);
}
