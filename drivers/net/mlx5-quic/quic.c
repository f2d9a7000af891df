// SPDX-License-Identifier: GPL-2.0
/*
 * Security associations in the device's database.
 *
 * An SA gets there when its first packet is sent, by a worker; until then, and
 * when the database is full, packets bring their keys along. A deleted SA goes
 * without waiting for the packets that still name it: those carry the SA's
 * generation, which the device compares (struct mlx5_wqe_quic_seg).
 */
#include <linux/crash_dump.h>
#include "en/health.h"
#include "en_accel/quic.h"
#include "lib/mlx5.h"

/* Commands in flight at a time. Half of the command slots, of which there are
 * 32, may be used for general objects by everybody together.
 */
#define MLX5E_QUIC_BATCH	8

/* SAs that are looked at when there is room again: some may be of users who
 * have their share.
 */
#define MLX5E_QUIC_LOOKS	64

/* The driver hands these numbers over as they are. */
static_assert(MLX5_QUIC_CIPHER_AES_128_GCM ==
	      (int)UDP_QUIC_CIPHER_AES_128_GCM);
static_assert(MLX5_QUIC_CIPHER_AES_256_GCM ==
	      (int)UDP_QUIC_CIPHER_AES_256_GCM);
static_assert(MLX5_QUIC_CIPHER_CHACHA20_POLY1305 ==
	      (int)UDP_QUIC_CIPHER_CHACHA20_POLY1305);
static_assert(MLX5_QUIC_CIPHER_AES_128_CCM ==
	      (int)UDP_QUIC_CIPHER_AES_128_CCM);
static_assert((int)MLX5_CAP_QUIC == (int)MLX5_QUIC_CAP_TYPE);
static_assert(MLX5_ST_SZ_BYTES(quic_sa_obj) == 128);
static_assert(MLX5_ST_SZ_BYTES(quic_cnt_reg) == 96);

struct mlx5e_quic_cmd {
	struct mlx5_async_work work;
	struct mlx5e_quic_sa *sa;
	int err;
	bool tried; /* installing: within the user's share */
	u32 out[MLX5_ST_SZ_DW(general_obj_out_cmd_hdr)];
};

struct mlx5e_quic_batch {
	struct mlx5_async_ctx ctx;
	unsigned int n;
	struct mlx5e_quic_cmd cmd[MLX5E_QUIC_BATCH];
};

/**
 * mlx5e_quic_supported() - can the device protect QUIC packets?
 * @mdev: device, its capabilities read
 */
bool mlx5e_quic_supported(struct mlx5_core_dev *mdev)
{
	if (is_kdump_kernel() || mlx5_get_sd(mdev))
		return false;
	if (!(MLX5_CAP_GEN_64(mdev, general_obj_types) &
	      MLX5_HCA_CAP_GENERAL_OBJECT_TYPES_QUIC_SA))
		return false;
	/* every offset that a sender may give must fit */
	return MLX5_CAP_QUIC_TX(mdev, quic_tx) &&
	       (MLX5_CAP_QUIC_TX(mdev, inline_form) ||
		MLX5_CAP_QUIC_TX(mdev, sa_index_form)) &&
	       MLX5_CAP_QUIC_TX(mdev, max_pn_offset) >= UDP_QUIC_PN_OFFSET_MAX;
}

static void mlx5e_quic_read_caps(struct mlx5e_quic *quic)
{
	struct mlx5_core_dev *mdev = quic->priv->mdev;
	u32 ciphers = 0;

	if (MLX5_CAP_QUIC_TX(mdev, aes_128_gcm))
		ciphers |= BIT(UDP_QUIC_CIPHER_AES_128_GCM);
	if (MLX5_CAP_QUIC_TX(mdev, aes_256_gcm))
		ciphers |= BIT(UDP_QUIC_CIPHER_AES_256_GCM);
	if (MLX5_CAP_QUIC_TX(mdev, chacha20_poly1305))
		ciphers |= BIT(UDP_QUIC_CIPHER_CHACHA20_POLY1305);
	if (MLX5_CAP_QUIC_TX(mdev, aes_128_ccm))
		ciphers |= BIT(UDP_QUIC_CIPHER_AES_128_CCM);
	WRITE_ONCE(quic->ciphers, ciphers);

	WRITE_ONCE(quic->inline_form, MLX5_CAP_QUIC_TX(mdev, inline_form));
	WRITE_ONCE(quic->index_form, MLX5_CAP_QUIC_TX(mdev, sa_index_form));
	WRITE_ONCE(quic->shares.size, MLX5_CAP_QUIC_TX(mdev, sa_index_form) ?
		   1U << MLX5_CAP_QUIC_TX(mdev, log_max_sa) : 0);
	WRITE_ONCE(quic->max_lso_segments, !MLX5_CAP_QUIC_TX(mdev, lso) ? 1 :
		   MLX5_CAP_QUIC_TX(mdev, max_lso_segments));
}

/* Puts an SA that is on no list where it belongs. */
static void mlx5e_quic_give_back(struct mlx5e_quic *quic,
				 struct mlx5e_quic_sa *sa,
				 struct list_head *list)
{
	spin_lock_bh(&quic->lock);
	sa->busy = false;
	list_add_tail(&sa->list, sa->dead ? &quic->remove : list);
	spin_unlock_bh(&quic->lock);
}

/* On the transmit path, once for each SA */
static void mlx5e_quic_sa_add(struct mlx5e_quic *quic, struct udp_sa *udp_sa)
{
	struct mlx5e_quic_sa *sa;

	sa = kzalloc(sizeof(*sa), GFP_ATOMIC | __GFP_NOWARN);
	if (!sa)
		return;
	sa->busy = true;
	if (!udp_crypto_hold(&sa->holder, quic->priv->netdev, udp_sa)) {
		kfree(sa);
		return;
	}
	mlx5e_quic_give_back(quic, sa, &quic->install);
	queue_work(system_unbound_wq, &quic->work);
}

static bool mlx5e_quic_sa_ready(struct net_device *netdev,
				struct udp_sa *udp_sa)
{
	struct mlx5e_priv *priv = netdev_priv(netdev);
	struct mlx5e_quic *quic = READ_ONCE(priv->quic);
	struct udp_crypto_holder *holder;
	struct mlx5e_quic_sa *sa;

	if (!quic || !(READ_ONCE(quic->ciphers) & BIT(udp_sa->keys.cipher)))
		return false;
	if (udp_sa->index) {
		holder = udp_crypto_holder_of(udp_sa, netdev);
		if (unlikely(!holder)) {
			mlx5e_quic_sa_add(quic, udp_sa);
		} else {
			sa = container_of(holder, struct mlx5e_quic_sa, holder);
			if (READ_ONCE(sa->state) == MLX5E_QUIC_SA_INSTALLED)
				return true;
		}
	}
	return READ_ONCE(quic->inline_form);
}

static struct mlx5e_quic *mlx5e_quic_of(const struct udp_crypto_holder *holder)
{
	struct mlx5e_priv *priv = netdev_priv(holder->dev);

	return priv->quic;
}

static void mlx5e_quic_sa_deleted(struct udp_crypto_holder *holder)
{
	struct mlx5e_quic_sa *sa = container_of(holder, struct mlx5e_quic_sa,
						holder);
	struct mlx5e_quic *quic = mlx5e_quic_of(holder);

	spin_lock(&quic->lock);
	sa->dead = true;
	if (!sa->busy) {
		list_move_tail(&sa->list, &quic->remove);
		queue_work(system_unbound_wq, &quic->work);
	}
	spin_unlock(&quic->lock);
}

static u32 mlx5e_quic_sa_state(struct udp_crypto_holder *holder)
{
	struct mlx5e_quic_sa *sa = container_of(holder, struct mlx5e_quic_sa,
						holder);

	if (READ_ONCE(sa->state) == MLX5E_QUIC_SA_INSTALLED)
		return UDP_CRYPTO_SA_DEVICE;
	return READ_ONCE(mlx5e_quic_of(holder)->inline_form) ?
	       UDP_CRYPTO_SA_INLINE : UDP_CRYPTO_SA_SOFTWARE;
}

static void mlx5e_quic_caps(struct net_device *netdev,
			    struct udp_crypto_dev_caps *caps)
{
	struct mlx5e_priv *priv = netdev_priv(netdev);
	struct mlx5e_quic *quic;

	/* priv->quic does not go while RTNL keeps the netdev attached */
	if (!netif_device_present(netdev))
		return;
	quic = priv->quic;
	if (!quic)
		return;
	caps->ciphers = READ_ONCE(quic->ciphers);
	if (quic->index_form)
		caps->forms |= UDP_CRYPTO_DEV_FORM_INDEX;
	if (quic->inline_form)
		caps->forms |= UDP_CRYPTO_DEV_FORM_INLINE;
	caps->sa_max = READ_ONCE(quic->shares.size);
	caps->sa_count = READ_ONCE(quic->stats.installed);
}

static const struct udp_crypto_ops mlx5e_quic_ops = {
	.caps		= mlx5e_quic_caps,
	.sa_ready	= mlx5e_quic_sa_ready,
	.sa_deleted	= mlx5e_quic_sa_deleted,
	.sa_state	= mlx5e_quic_sa_state,
};

static void mlx5e_quic_cmd_done(int status, struct mlx5_async_work *work)
{
	struct mlx5e_quic_cmd *cmd = container_of(work, struct mlx5e_quic_cmd,
						  work);

	cmd->err = status;
}

static void mlx5e_quic_cmd_exec(struct mlx5e_quic *quic,
				struct mlx5e_quic_batch *batch,
				struct mlx5e_quic_cmd *cmd, u32 *in, int inlen)
{
	int err;

	cmd->err = 0;
	err = mlx5_cmd_exec_cb(&batch->ctx, in, inlen, cmd->out,
			       sizeof(cmd->out), mlx5e_quic_cmd_done,
			       &cmd->work);
	/* mlx5e_quic_cmd_done() tells how it ended, and may have done so */
	if (!err)
		return;
	/* others use the slots; this waits for one */
	if (err == -EBUSY)
		err = mlx5_cmd_do(quic->priv->mdev, in, inlen, cmd->out,
				  sizeof(cmd->out));
	cmd->err = err;
}

static void mlx5e_quic_create(struct mlx5e_quic *quic,
			      struct mlx5e_quic_batch *batch,
			      struct mlx5e_quic_cmd *cmd)
{
	const struct udp_quic_keys *keys = &cmd->sa->holder.sa->keys;
	u32 in[MLX5_ST_SZ_DW(create_quic_sa_in)] = {};
	void *obj;

	MLX5_SET(general_obj_in_cmd_hdr, in, opcode,
		 MLX5_CMD_OP_CREATE_GENERAL_OBJECT);
	MLX5_SET(general_obj_in_cmd_hdr, in, obj_type,
		 MLX5_GENERAL_OBJECT_TYPES_QUIC_SA);
	obj = MLX5_ADDR_OF(create_quic_sa_in, in, quic_sa_object);
	MLX5_SET(quic_sa_obj, obj, cipher, keys->cipher);
	MLX5_SET(quic_sa_obj, obj, pd, quic->priv->mdev->mlx5e_res.hw_objs.pdn);
	MLX5_SET(quic_sa_obj, obj, tag, cmd->sa->holder.sa->gen);
	memcpy(MLX5_ADDR_OF(quic_sa_obj, obj, iv), keys->iv, sizeof(keys->iv));
	memcpy(MLX5_ADDR_OF(quic_sa_obj, obj, key), keys->key,
	       sizeof(keys->key));
	memcpy(MLX5_ADDR_OF(quic_sa_obj, obj, hp_key), keys->hp_key,
	       sizeof(keys->hp_key));
	mlx5e_quic_cmd_exec(quic, batch, cmd, in, sizeof(in));
	memzero_explicit(in, sizeof(in));
}

static void mlx5e_quic_destroy(struct mlx5e_quic *quic,
			       struct mlx5e_quic_batch *batch,
			       struct mlx5e_quic_cmd *cmd)
{
	u32 in[MLX5_ST_SZ_DW(general_obj_in_cmd_hdr)] = {};

	MLX5_SET(general_obj_in_cmd_hdr, in, opcode,
		 MLX5_CMD_OP_DESTROY_GENERAL_OBJECT);
	MLX5_SET(general_obj_in_cmd_hdr, in, obj_type,
		 MLX5_GENERAL_OBJECT_TYPES_QUIC_SA);
	MLX5_SET(general_obj_in_cmd_hdr, in, obj_id, cmd->sa->obj_id);
	mlx5e_quic_cmd_exec(quic, batch, cmd, in, sizeof(in));
}

/* Takes the first SAs of a list. */
static void mlx5e_quic_take(struct mlx5e_quic *quic,
			    struct mlx5e_quic_batch *batch,
			    struct list_head *list)
{
	struct mlx5e_quic_sa *sa;

	batch->n = 0;
	spin_lock_bh(&quic->lock);
	while (batch->n < MLX5E_QUIC_BATCH && !list_empty(list)) {
		sa = list_first_entry(list, struct mlx5e_quic_sa, list);
		list_del_init(&sa->list);
		sa->busy = true;
		batch->cmd[batch->n++].sa = sa;
	}
	spin_unlock_bh(&quic->lock);
}

/* Takes SAs out of the database. */
static void mlx5e_quic_uninstall(struct mlx5e_quic *quic,
				 struct mlx5e_quic_batch *batch)
{
	unsigned int i;

	mlx5_cmd_init_async_ctx(quic->priv->mdev, &batch->ctx);
	for (i = 0; i < batch->n; i++) {
		struct mlx5e_quic_sa *sa = batch->cmd[i].sa;

		batch->cmd[i].err = 0;
		if (sa->state != MLX5E_QUIC_SA_INSTALLED)
			continue;
		/* packets bring their keys from now on */
		WRITE_ONCE(sa->state, MLX5E_QUIC_SA_NEW);
		udp_crypto_sa_moved(&sa->holder,
				    mlx5e_quic_sa_state(&sa->holder));
		mlx5e_quic_destroy(quic, batch, &batch->cmd[i]);
		udp_crypto_shares_give(&quic->shares, sa->holder.sa);
		quic->stats.installed--;
		quic->stats.destroyed++;
	}
	mlx5_cmd_cleanup_async_ctx(&batch->ctx);

	/* One that fails leaves the SA there until the device is reset, under a
	 * tag that no packet has any more.
	 */
	for (i = 0; i < batch->n; i++)
		if (batch->cmd[i].err)
			quic->stats.failed++;
}

/* There is room in the database again, for those who have not got their share. */
static void mlx5e_quic_retry(struct mlx5e_quic *quic, unsigned int n)
{
	unsigned int looks = MLX5E_QUIC_LOOKS;
	struct mlx5e_quic_sa *sa;

	spin_lock_bh(&quic->lock);
	while (n && looks-- && !list_empty(&quic->full)) {
		sa = list_first_entry(&quic->full, struct mlx5e_quic_sa, list);
		if (udp_crypto_shares_may(&quic->shares, sa->holder.sa)) {
			list_move_tail(&sa->list, &quic->install);
			n--;
		} else {
			list_rotate_left(&quic->full);
		}
	}
	spin_unlock_bh(&quic->lock);
}

static bool mlx5e_quic_remove(struct mlx5e_quic *quic,
			      struct mlx5e_quic_batch *batch)
{
	u64 installed = quic->stats.installed;
	unsigned int i;

	mlx5e_quic_take(quic, batch, &quic->remove);
	mlx5e_quic_uninstall(quic, batch);
	for (i = 0; i < batch->n; i++) {
		udp_crypto_release(&batch->cmd[i].sa->holder);
		kfree_rcu(batch->cmd[i].sa, rcu);
	}
	mlx5e_quic_retry(quic, installed - quic->stats.installed);
	return batch->n;
}

/* Did the device have no room, or was the user's share used up? */
static bool mlx5e_quic_cmd_is_full(const struct mlx5e_quic_cmd *cmd)
{
	if (!cmd->tried)
		return cmd->err == -ENOSPC;
	return cmd->err == -EREMOTEIO &&
	       MLX5_GET(general_obj_out_cmd_hdr, cmd->out, status) ==
	       MLX5_CMD_STAT_NO_RES_ERR;
}

static bool mlx5e_quic_install(struct mlx5e_quic *quic,
			       struct mlx5e_quic_batch *batch)
{
	unsigned int i;

	mlx5e_quic_take(quic, batch, &quic->install);
	mlx5_cmd_init_async_ctx(quic->priv->mdev, &batch->ctx);
	for (i = 0; i < batch->n; i++) {
		struct mlx5e_quic_cmd *cmd = &batch->cmd[i];

		cmd->err = udp_crypto_shares_take(&quic->shares,
						  cmd->sa->holder.sa);
		cmd->tried = !cmd->err;
		if (cmd->tried)
			mlx5e_quic_create(quic, batch, cmd);
	}
	mlx5_cmd_cleanup_async_ctx(&batch->ctx);

	for (i = 0; i < batch->n; i++) {
		struct mlx5e_quic_cmd *cmd = &batch->cmd[i];

		if (!cmd->err) {
			cmd->sa->obj_id = MLX5_GET(general_obj_out_cmd_hdr,
						   cmd->out, obj_id);
			/* pairs with smp_load_acquire() on transmit */
			smp_store_release(&cmd->sa->state,
					  MLX5E_QUIC_SA_INSTALLED);
			quic->stats.installed++;
			quic->stats.created++;
			udp_crypto_sa_moved(&cmd->sa->holder,
					    UDP_CRYPTO_SA_DEVICE);
			mlx5e_quic_give_back(quic, cmd->sa, &quic->installed);
			continue;
		}
		if (cmd->tried)
			udp_crypto_shares_give(&quic->shares,
					       cmd->sa->holder.sa);
		if (mlx5e_quic_cmd_is_full(cmd))
			quic->stats.full++;
		else
			quic->stats.failed++;
		mlx5e_quic_give_back(quic, cmd->sa, &quic->full);
	}
	return batch->n;
}

static void mlx5e_quic_work(struct work_struct *work)
{
	struct mlx5e_quic *quic = container_of(work, struct mlx5e_quic, work);
	struct mlx5e_quic_batch *batch;
	bool more;

	batch = kzalloc(sizeof(*batch), GFP_KERNEL | __GFP_NOFAIL);
	do {
		mutex_lock(&quic->cmd_lock);
		/* removal makes room; those that wait need not be installed */
		more = mlx5e_quic_remove(quic, batch) ||
		       (quic->up && quic->index_form &&
			mlx5e_quic_install(quic, batch));
		mutex_unlock(&quic->cmd_lock);
		cond_resched();
	} while (more);
	kfree(batch);
}

/**
 * mlx5e_quic_init_tx() - the device is there (again)
 * @priv: of the netdev
 *
 * What was in its database before a reset is put back.
 */
void mlx5e_quic_init_tx(struct mlx5e_priv *priv)
{
	struct mlx5e_quic *quic = priv->quic;

	if (!quic)
		return;
	mutex_lock(&quic->cmd_lock);
	if (mlx5e_quic_supported(priv->mdev))
		mlx5e_quic_read_caps(quic);
	else
		WRITE_ONCE(quic->ciphers, 0);
	spin_lock_bh(&quic->lock);
	list_splice_tail_init(&quic->full, &quic->install);
	spin_unlock_bh(&quic->lock);
	quic->up = true;
	mutex_unlock(&quic->cmd_lock);
	queue_work(system_unbound_wq, &quic->work);
}

/**
 * mlx5e_quic_cleanup_tx() - the device goes, or is about to be reset
 * @priv: of the netdev, which sends nothing now
 *
 * The database is left empty: the protection domain that it refers to goes.
 */
void mlx5e_quic_cleanup_tx(struct mlx5e_priv *priv)
{
	struct mlx5e_quic *quic = priv->quic;
	struct mlx5e_quic_batch *batch;
	unsigned int i;

	if (!quic)
		return;
	batch = kzalloc(sizeof(*batch), GFP_KERNEL | __GFP_NOFAIL);
	mutex_lock(&quic->cmd_lock);
	quic->up = false;
	while (mlx5e_quic_remove(quic, batch))
		cond_resched();
	for (;;) {
		mlx5e_quic_take(quic, batch, &quic->installed);
		if (!batch->n)
			break;
		/* Of a device in error these fail at once; the reset that
		 * follows does the same.
		 */
		mlx5e_quic_uninstall(quic, batch);
		for (i = 0; i < batch->n; i++)
			mlx5e_quic_give_back(quic, batch->cmd[i].sa,
					     &quic->install);
		cond_resched();
	}
	mutex_unlock(&quic->cmd_lock);
	kfree(batch);
}

/**
 * mlx5e_quic_init() - make the offload of a netdev
 * @priv: of the netdev
 *
 * Without memory there is no offload: priv->quic is NULL.
 */
void mlx5e_quic_init(struct mlx5e_priv *priv)
{
	struct mlx5e_quic *quic;

	if (!mlx5e_quic_supported(priv->mdev))
		return;
	quic = kzalloc(sizeof(*quic), GFP_KERNEL);
	if (!quic)
		return;
	quic->priv = priv;
	spin_lock_init(&quic->lock);
	INIT_LIST_HEAD(&quic->install);
	INIT_LIST_HEAD(&quic->installed);
	INIT_LIST_HEAD(&quic->full);
	INIT_LIST_HEAD(&quic->remove);
	mutex_init(&quic->cmd_lock);
	INIT_WORK(&quic->work, mlx5e_quic_work);
	udp_crypto_shares_init(&quic->shares, 0);
	mlx5e_quic_read_caps(quic);
	/* pairs with READ_ONCE() on transmit */
	smp_store_release(&priv->quic, quic);
}

/**
 * mlx5e_quic_cleanup() - the offload of a netdev goes
 * @priv: of the netdev, after mlx5e_quic_cleanup_tx()
 */
void mlx5e_quic_cleanup(struct mlx5e_priv *priv)
{
	struct mlx5e_quic *quic = priv->quic;
	struct mlx5e_quic_sa *sa;

	if (!quic)
		return;
	/* no SA is taken from here on; sockets go on deleting theirs */
	WRITE_ONCE(quic->ciphers, 0);
	synchronize_net();
	spin_lock_bh(&quic->lock);
	/* all that is not there already: none is in the database any more */
	list_splice_tail_init(&quic->full, &quic->install);
	list_for_each_entry(sa, &quic->install, list)
		sa->dead = true;
	list_splice_tail_init(&quic->install, &quic->remove);
	spin_unlock_bh(&quic->lock);
	queue_work(system_unbound_wq, &quic->work);
	/* a callback that comes meanwhile finds its SA on quic->remove, and
	 * queues the work again, before udp_crypto_release() returns
	 */
	while (flush_work(&quic->work))
		;
	WRITE_ONCE(priv->quic, NULL);
	synchronize_net();
	WARN_ON(!list_empty(&quic->remove) || quic->shares.used ||
		!xa_empty(&quic->shares.users));
	cancel_work_sync(&quic->work);
	kfree(quic);
}

/**
 * mlx5e_quic_health_diagnose() - say how the offload is, to devlink health
 * @priv: of the netdev
 * @fmsg: of the transmit reporter, in an object
 */
void mlx5e_quic_health_diagnose(struct mlx5e_priv *priv,
				struct devlink_fmsg *fmsg)
{
	struct mlx5e_quic *quic = priv->quic;

	if (!quic)
		return;
	mlx5e_health_fmsg_named_obj_nest_start(fmsg, "QUIC");
	devlink_fmsg_u32_pair_put(fmsg, "SA database size",
				  READ_ONCE(quic->shares.size));
	devlink_fmsg_u64_pair_put(fmsg, "SAs installed",
				  READ_ONCE(quic->stats.installed));
	devlink_fmsg_u64_pair_put(fmsg, "database full",
				  READ_ONCE(quic->stats.full));
	devlink_fmsg_u64_pair_put(fmsg, "commands failed",
				  READ_ONCE(quic->stats.failed));
	mlx5e_health_fmsg_named_obj_nest_end(fmsg);
}

/**
 * mlx5e_quic_build_netdev() - offer the offload
 * @priv: of the netdev
 *
 * On from the start, as the other offloads that touch nothing but what asks
 * for them.
 */
void mlx5e_quic_build_netdev(struct mlx5e_priv *priv)
{
	struct net_device *netdev = priv->netdev;

	if (!mlx5e_quic_supported(priv->mdev))
		return;
	netdev->udp_crypto_ops = &mlx5e_quic_ops;
	netdev->hw_features |= NETIF_F_HW_UDP_CRYPTO_TX;
	netdev->features |= NETIF_F_HW_UDP_CRYPTO_TX;
	/* a batch of a VLAN device stays one, too */
	netdev->vlan_features |= NETIF_F_HW_UDP_CRYPTO_TX | NETIF_F_GSO_UDP_L4;
}
