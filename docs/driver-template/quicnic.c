// SPDX-License-Identifier: GPL-2.0
/*
 * A template for the QUIC offload of a driver: what the stack asks for, whole,
 * with a made-up PCI device below that has a database of SAs, a register
 * window for commands and a transmit ring. Replace the first part by yours;
 * the second is much the same for every device with a database.
 *
 * What a driver has besides (receive, NAPI, checksum and segmentation of other
 * packets, link state, recovery) is left out.
 */
#include <linux/etherdevice.h>
#include <linux/idr.h>
#include <linux/if_vlan.h>
#include <linux/iopoll.h>
#include <linux/module.h>
#include <linux/pci.h>
#include <linux/udp.h>
#include <net/udp_crypto.h>

/* --- the device --------------------------------------------------------------- */

#define QUICNIC_REG_DOORBELL	0x00	/* producer index of the ring */
#define QUICNIC_REG_DONE	0x04	/* consumer index */
#define QUICNIC_REG_RING	0x08	/* DMA address, 64 bits */
#define QUICNIC_REG_COMMAND	0x10	/* command << 24 | slot */
#define QUICNIC_REG_STATUS	0x14	/* 0: done */
#define QUICNIC_REG_TAG		0x18
#define QUICNIC_REG_CIPHER	0x1c
#define QUICNIC_REG_KEYS	0x40	/* iv, key, hp key: 76 bytes */

#define QUICNIC_CMD_INSTALL	1
#define QUICNIC_CMD_REMOVE	2

#define QUICNIC_RING		256	/* descriptors, a power of 2 */
#define QUICNIC_SA_MAX		1024	/* room in the database */
#define QUICNIC_MAX_SEGMENTS	64	/* QUIC packets in one descriptor */
#define QUICNIC_CIPHERS		(BIT(UDP_QUIC_CIPHER_AES_128_GCM) | \
				 BIT(UDP_QUIC_CIPHER_AES_256_GCM))

#define QUICNIC_DESC_CSUM	BIT(0)
#define QUICNIC_DESC_QUIC	BIT(1)

struct quicnic_desc {
	__le64 address;
	__le32 len;
	__le16 gso_size;	/* of the UDP payload, tags included; or 0 */
	__le16 headers;		/* bytes before the UDP payload */
	__le32 flags;
	__le32 slot;		/* of the database */
	__le32 tag;		/* must be the slot's, or the packet is dropped */
	__le16 pn_offset;
	__le16 reserved;
	__le64 pn;		/* of the first packet; the device counts on */
	__le64 unused[3];
};

struct quicnic {
	struct net_device *netdev;
	struct pci_dev *pdev;
	void __iomem *regs;

	struct quicnic_desc *ring;
	dma_addr_t ring_dma;
	struct sk_buff *skbs[QUICNIC_RING];
	u32 head;
	u32 tail;
	spinlock_t ring_lock;	/* no NAPI here: transmit reclaims */

	struct ida slots;
	struct list_head install;
	struct list_head installed;
	struct list_head full;		/* no room, or not in the user's share */
	struct list_head remove;
	spinlock_t lock;		/* lists */
	struct work_struct work;
	struct udp_crypto_shares shares;	/* of @work */
};

static int quicnic_command(struct quicnic *nic, u32 command, u32 slot)
{
	u32 status;

	iowrite32(command << 24 | slot, nic->regs + QUICNIC_REG_COMMAND);
	return readl_poll_timeout(nic->regs + QUICNIC_REG_STATUS, status,
				  !status, 10, 100000);
}

/* Process context, one at a time. Keys are the device's from now on. */
static int quicnic_hw_install(struct quicnic *nic, u32 slot, u32 tag,
			      const struct udp_quic_keys *keys)
{
	void __iomem *to = nic->regs + QUICNIC_REG_KEYS;
	int err;

	iowrite32(tag, nic->regs + QUICNIC_REG_TAG);
	iowrite32(keys->cipher, nic->regs + QUICNIC_REG_CIPHER);
	memcpy_toio(to, keys->iv, sizeof(keys->iv));
	memcpy_toio(to + 12, keys->key, sizeof(keys->key));
	memcpy_toio(to + 44, keys->hp_key, sizeof(keys->hp_key));
	err = quicnic_command(nic, QUICNIC_CMD_INSTALL, slot);
	/* the window does not keep them */
	memset_io(to, 0, 76);
	return err;
}

/* Afterwards the device encrypts nothing more with that slot. */
static void quicnic_hw_remove(struct quicnic *nic, u32 slot)
{
	if (quicnic_command(nic, QUICNIC_CMD_REMOVE, slot))
		netdev_err(nic->netdev, "SA slot %u cannot be cleared\n", slot);
}

/* --- SAs ------------------------------------------------------------------------ */

/**
 * struct quicnic_sa - what the driver knows of an SA
 * @holder: keeps the SA and its keys until udp_crypto_release()
 * @slot: of the device's database, once @ready
 * @ready: the device has it. Written with release, read with acquire
 * @busy: the worker has it; on no list
 * @dead: deleted meanwhile
 * @list: the list that says what is to be done
 * @rcu: grace period of the transmit path
 */
struct quicnic_sa {
	struct udp_crypto_holder holder;
	u32 slot;
	bool ready;
	bool busy;
	bool dead;
	struct list_head list;
	struct rcu_head rcu;
};

/* Under nic->lock. The worker looks itself at what it has. */
static void quicnic_sa_kill(struct quicnic *nic, struct quicnic_sa *sa)
{
	sa->dead = true;
	if (!sa->busy)
		list_move_tail(&sa->list, &nic->remove);
	schedule_work(&nic->work);
}

/* On the transmit path, once for each SA: nothing here may wait. */
static void quicnic_sa_add(struct quicnic *nic, struct udp_sa *udp_sa)
{
	struct quicnic_sa *sa;

	sa = kzalloc(sizeof(*sa), GFP_ATOMIC | __GFP_NOWARN);
	if (!sa)
		return;
	sa->busy = true;
	/* From here on sa_deleted may come. False: that it has already, or
	 * another processor is adding it.
	 */
	if (!udp_crypto_hold(&sa->holder, nic->netdev, udp_sa)) {
		kfree(sa);
		return;
	}

	spin_lock_bh(&nic->lock);
	sa->busy = false;
	list_add_tail(&sa->list, sa->dead ? &nic->remove : &nic->install);
	spin_unlock_bh(&nic->lock);
	schedule_work(&nic->work);
}

/* From the next packet on, may the stack leave packets of this SA to us? */
static bool quicnic_sa_ready(struct net_device *netdev, struct udp_sa *udp_sa)
{
	struct quicnic *nic = netdev_priv(netdev);
	struct udp_crypto_holder *holder;

	/* Index 0: keys that came with the message. A device that takes keys
	 * in the descriptor says yes to these, and to SAs on their way in.
	 */
	if (!udp_sa->index || !(QUICNIC_CIPHERS & BIT(udp_sa->keys.cipher)))
		return false;
	holder = udp_crypto_holder_of(udp_sa, netdev);
	if (holder)
		return READ_ONCE(container_of(holder, struct quicnic_sa,
					      holder)->ready);
	quicnic_sa_add(nic, udp_sa);
	return false;
}

static void quicnic_sa_deleted(struct udp_crypto_holder *holder)
{
	struct quicnic *nic = netdev_priv(holder->dev);
	struct quicnic_sa *sa = container_of(holder, struct quicnic_sa, holder);

	spin_lock(&nic->lock);
	quicnic_sa_kill(nic, sa);
	spin_unlock(&nic->lock);
}

static u32 quicnic_sa_state(struct udp_crypto_holder *holder)
{
	struct quicnic_sa *sa = container_of(holder, struct quicnic_sa, holder);

	return READ_ONCE(sa->ready) ? UDP_CRYPTO_SA_DEVICE :
				      UDP_CRYPTO_SA_SOFTWARE;
}

static void quicnic_caps(struct net_device *netdev,
			 struct udp_crypto_dev_caps *caps)
{
	struct quicnic *nic = netdev_priv(netdev);

	caps->ciphers = QUICNIC_CIPHERS;
	caps->forms = UDP_CRYPTO_DEV_FORM_INDEX;
	caps->sa_max = QUICNIC_SA_MAX;
	caps->sa_count = READ_ONCE(nic->shares.used);
}

static const struct udp_crypto_ops quicnic_crypto_ops = {
	.caps		= quicnic_caps,
	.sa_ready	= quicnic_sa_ready,
	.sa_deleted	= quicnic_sa_deleted,
	.sa_state	= quicnic_sa_state,
};

static struct quicnic_sa *quicnic_sa_take(struct quicnic *nic,
					  struct list_head *list)
{
	struct quicnic_sa *sa;

	spin_lock_bh(&nic->lock);
	sa = list_first_entry_or_null(list, struct quicnic_sa, list);
	if (sa) {
		list_del_init(&sa->list);
		sa->busy = true;
	}
	spin_unlock_bh(&nic->lock);
	return sa;
}

static void quicnic_sa_install(struct quicnic *nic, struct quicnic_sa *sa)
{
	int slot = udp_crypto_shares_take(&nic->shares, sa->holder.sa);

	if (!slot) {
		slot = ida_alloc_max(&nic->slots, QUICNIC_SA_MAX - 1,
				     GFP_KERNEL);
		if (slot >= 0 && quicnic_hw_install(nic, slot,
						    sa->holder.sa->gen,
						    &sa->holder.sa->keys)) {
			ida_free(&nic->slots, slot);
			slot = -EIO;
		}
		if (slot < 0)
			udp_crypto_shares_give(&nic->shares, sa->holder.sa);
	}
	spin_lock_bh(&nic->lock);
	sa->busy = false;
	if (slot >= 0) {
		sa->slot = slot;
		/* pairs with smp_load_acquire() in quicnic_fill_quic() */
		smp_store_release(&sa->ready, true);
	}
	list_add_tail(&sa->list, sa->dead ? &nic->remove :
			slot >= 0 ? &nic->installed : &nic->full);
	spin_unlock_bh(&nic->lock);
}

/* There is room: for one of those that found none, if its user has not got its
 * share. Some are looked at each time.
 */
static void quicnic_sa_retry(struct quicnic *nic)
{
	unsigned int looks = 16;
	struct quicnic_sa *sa;

	spin_lock_bh(&nic->lock);
	while (looks-- && !list_empty(&nic->full)) {
		sa = list_first_entry(&nic->full, struct quicnic_sa, list);
		if (udp_crypto_shares_may(&nic->shares, sa->holder.sa)) {
			list_move_tail(&sa->list, &nic->install);
			break;
		}
		list_rotate_left(&nic->full);
	}
	spin_unlock_bh(&nic->lock);
}

/* Packets in the ring that name the slot are not waited for: the tag that they
 * bring is not that of the slot's next SA.
 */
static void quicnic_sa_remove(struct quicnic *nic, struct quicnic_sa *sa)
{
	if (sa->ready) {
		WRITE_ONCE(sa->ready, false);
		quicnic_hw_remove(nic, sa->slot);
		ida_free(&nic->slots, sa->slot);
		udp_crypto_shares_give(&nic->shares, sa->holder.sa);
	}
	quicnic_sa_retry(nic);
	udp_crypto_release(&sa->holder);
	kfree_rcu(sa, rcu);
}

static void quicnic_work(struct work_struct *work)
{
	struct quicnic *nic = container_of(work, struct quicnic, work);
	struct quicnic_sa *sa;

	for (;;) {
		sa = quicnic_sa_take(nic, &nic->remove);
		if (sa) {
			quicnic_sa_remove(nic, sa);
			continue;
		}
		sa = quicnic_sa_take(nic, &nic->install);
		if (!sa)
			break;
		quicnic_sa_install(nic, sa);
		cond_resched();
	}
}

/* The net device is not registered any more: no SA comes in. */
static void quicnic_sas_cleanup(struct quicnic *nic)
{
	struct quicnic_sa *sa, *next;

	/* one that is being put into the database is not on a list */
	flush_work(&nic->work);
	spin_lock_bh(&nic->lock);
	list_splice_tail_init(&nic->full, &nic->installed);
	list_for_each_entry_safe(sa, next, &nic->installed, list)
		quicnic_sa_kill(nic, sa);
	spin_unlock_bh(&nic->lock);
	/* sa_deleted may queue it again, until the last holder is released */
	while (flush_work(&nic->work))
		;
	ida_destroy(&nic->slots);
}

/* --- transmit --------------------------------------------------------------------- */

static netdev_features_t quicnic_features_check(struct sk_buff *skb,
						struct net_device *netdev,
						netdev_features_t features)
{
	/* segmented before; each segment has a number of its own */
	if (skb_is_gso(skb) &&
	    skb_shinfo(skb)->gso_segs > QUICNIC_MAX_SEGMENTS)
		features &= ~NETIF_F_GSO_MASK;
	return vlan_features_check(skb, features);
}

static void quicnic_reclaim(struct quicnic *nic)
{
	u32 done = ioread32(nic->regs + QUICNIC_REG_DONE);

	for (; nic->tail != done && nic->tail != nic->head; nic->tail++) {
		u32 i = nic->tail % QUICNIC_RING;

		dma_unmap_single(&nic->pdev->dev,
				 le64_to_cpu(nic->ring[i].address),
				 nic->skbs[i]->len, DMA_TO_DEVICE);
		dev_consume_skb_any(nic->skbs[i]);
	}
}

/* Returns false when the packet must be dropped: its SA has gone. */
static bool quicnic_fill_quic(struct quicnic *nic, struct sk_buff *skb,
			      struct quicnic_desc *desc)
{
	const struct udp_crypto_ext *ext = skb_ext_find(skb, SKB_EXT_UDP_CRYPTO);
	const struct udp_crypto_holder *holder;
	const struct quicnic_sa *sa;
	struct udp_sa *udp_sa;

	if (!ext)
		return true;
	rcu_read_lock();
	udp_sa = udp_crypto_ext_sa(dev_net(nic->netdev), ext);
	holder = udp_sa ? udp_crypto_holder_of(udp_sa, nic->netdev) : NULL;
	sa = container_of(holder, struct quicnic_sa, holder);
	/* pairs with smp_store_release() in quicnic_sa_install() */
	if (!holder || !smp_load_acquire(&sa->ready)) {
		rcu_read_unlock();
		return false;
	}
	desc->flags |= cpu_to_le32(QUICNIC_DESC_QUIC);
	desc->slot = cpu_to_le32(sa->slot);
	rcu_read_unlock();
	desc->tag = cpu_to_le32(ext->gen);
	desc->pn = cpu_to_le64(ext->pn);
	desc->pn_offset = cpu_to_le16(ext->pn_offset);
	return true;
}

static netdev_tx_t quicnic_xmit(struct sk_buff *skb, struct net_device *netdev)
{
	struct quicnic *nic = netdev_priv(netdev);
	struct quicnic_desc desc = {};
	dma_addr_t dma;
	u32 i;

	spin_lock(&nic->ring_lock);
	quicnic_reclaim(nic);
	if (nic->head - nic->tail == QUICNIC_RING) {
		spin_unlock(&nic->ring_lock);
		return NETDEV_TX_BUSY;
	}

	desc.len = cpu_to_le32(skb->len);
	desc.headers = cpu_to_le16(skb_transport_offset(skb) +
				   sizeof(struct udphdr));
	if (skb_is_gso(skb))
		desc.gso_size = cpu_to_le16(skb_shinfo(skb)->gso_size);
	/* computed by the device, after it has encrypted */
	if (skb->ip_summed == CHECKSUM_PARTIAL)
		desc.flags |= cpu_to_le32(QUICNIC_DESC_CSUM);
	if (!quicnic_fill_quic(nic, skb, &desc))
		goto drop;
	dma = dma_map_single(&nic->pdev->dev, skb->data, skb->len,
			     DMA_TO_DEVICE);
	if (dma_mapping_error(&nic->pdev->dev, dma))
		goto drop;
	desc.address = cpu_to_le64(dma);

	i = nic->head++ % QUICNIC_RING;
	nic->ring[i] = desc;
	nic->skbs[i] = skb;
	dma_wmb();
	iowrite32(nic->head, nic->regs + QUICNIC_REG_DOORBELL);
	spin_unlock(&nic->ring_lock);
	return NETDEV_TX_OK;

drop:
	spin_unlock(&nic->ring_lock);
	netdev->stats.tx_dropped++;
	dev_kfree_skb_any(skb);
	return NETDEV_TX_OK;
}

static const struct net_device_ops quicnic_netdev_ops = {
	.ndo_start_xmit		= quicnic_xmit,
	.ndo_features_check	= quicnic_features_check,
	.ndo_validate_addr	= eth_validate_addr,
	.ndo_set_mac_address	= eth_mac_addr,
};

/* --- the driver --------------------------------------------------------------------- */

static int quicnic_probe(struct pci_dev *pdev, const struct pci_device_id *id)
{
	struct net_device *netdev;
	struct quicnic *nic;
	int err;

	netdev = devm_alloc_etherdev(&pdev->dev, sizeof(*nic));
	if (!netdev)
		return -ENOMEM;
	nic = netdev_priv(netdev);
	nic->netdev = netdev;
	nic->pdev = pdev;
	pci_set_drvdata(pdev, nic);
	SET_NETDEV_DEV(netdev, &pdev->dev);

	err = pcim_enable_device(pdev);
	if (err)
		return err;
	err = dma_set_mask_and_coherent(&pdev->dev, DMA_BIT_MASK(64));
	if (err)
		return err;
	nic->regs = pcim_iomap(pdev, 0, 0);
	if (!nic->regs)
		return -ENOMEM;
	nic->ring = dmam_alloc_coherent(&pdev->dev,
					QUICNIC_RING * sizeof(*nic->ring),
					&nic->ring_dma, GFP_KERNEL);
	if (!nic->ring)
		return -ENOMEM;
	spin_lock_init(&nic->ring_lock);
	pci_set_master(pdev);
	iowrite32(lower_32_bits(nic->ring_dma), nic->regs + QUICNIC_REG_RING);
	iowrite32(upper_32_bits(nic->ring_dma),
		  nic->regs + QUICNIC_REG_RING + 4);

	ida_init(&nic->slots);
	INIT_LIST_HEAD(&nic->install);
	INIT_LIST_HEAD(&nic->installed);
	INIT_LIST_HEAD(&nic->full);
	INIT_LIST_HEAD(&nic->remove);
	spin_lock_init(&nic->lock);
	INIT_WORK(&nic->work, quicnic_work);
	udp_crypto_shares_init(&nic->shares, QUICNIC_SA_MAX);

	netdev->netdev_ops = &quicnic_netdev_ops;
	netdev->udp_crypto_ops = &quicnic_crypto_ops;
	/* Checksums must be the device's: the stack's would be of plaintext. */
	netdev->hw_features = NETIF_F_HW_CSUM | NETIF_F_GSO_UDP_L4 |
			      NETIF_F_HW_UDP_CRYPTO_TX;
	netdev->features = netdev->hw_features;
	netdev->vlan_features = netdev->hw_features;
	eth_hw_addr_random(netdev);
	return register_netdev(netdev);
}

static void quicnic_remove(struct pci_dev *pdev)
{
	struct quicnic *nic = pci_get_drvdata(pdev);

	unregister_netdev(nic->netdev);
	quicnic_sas_cleanup(nic);
	quicnic_reclaim(nic);
}

static const struct pci_device_id quicnic_ids[] = {
	/* yours; no device has this vendor */
	{ PCI_DEVICE(0xffff, 0x0001) },
	{ }
};
MODULE_DEVICE_TABLE(pci, quicnic_ids);

static struct pci_driver quicnic_driver = {
	.name		= "quicnic",
	.id_table	= quicnic_ids,
	.probe		= quicnic_probe,
	.remove		= quicnic_remove,
};
module_pci_driver(quicnic_driver);

MODULE_DESCRIPTION("Template for the QUIC offload of a driver");
MODULE_LICENSE("GPL");
