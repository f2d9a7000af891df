/* SPDX-License-Identifier: GPL-2.0 */
/*
 * QUIC packet protection (RFC 9001) by the device: capabilities, and the
 * security associations in its database.
 */
#ifndef __MLX5E_QUIC_H__
#define __MLX5E_QUIC_H__

#include "en.h"

#ifdef CONFIG_MLX5_EN_QUIC
#include <net/udp_crypto.h>
#include "en_accel/quic_ifc.h"

/* Where an SA stands. Written by the worker alone. */
enum mlx5e_quic_sa_state {
	MLX5E_QUIC_SA_NEW,		/* not in the device's database */
	MLX5E_QUIC_SA_INSTALLED,	/* packets may name it */
};

/**
 * struct mlx5e_quic_sa - what this device knows of an SA
 * @holder: the SA and its keys
 * @obj_id: index in the device's database, with MLX5E_QUIC_SA_INSTALLED
 * @state: enum mlx5e_quic_sa_state; release and acquire order @obj_id
 * @busy: on no list but in the hands of somebody, who looks at @dead after
 * @dead: the SA was deleted, or the offload goes
 * @list: in one of the lists of struct mlx5e_quic
 * @rcu: when it is released, and in none of them any more
 */
struct mlx5e_quic_sa {
	struct udp_crypto_holder holder;
	u32 obj_id;
	u8 state;
	bool busy;
	bool dead;
	union {
		struct list_head list;
		struct rcu_head rcu;
	};
};

/**
 * struct mlx5e_quic - the offload of one netdev
 * @priv: of the netdev
 * @ciphers: 1 << enum udp_quic_cipher
 * @index_form: WQEs may name an SA of the database
 * @inline_form: WQEs may bring keys
 * @max_lso_segments: QUIC packets in one WQE, 1 without LSO
 * @lock: BHs off; lists, flags of the SAs
 * @install: to be put into the database
 * @installed: are in it
 * @full: it had no room for them, or not within their user's share: their
 *	packets bring the keys
 * @remove: deleted
 * @shares: of the database, 0 without the index form; under @cmd_lock
 * @up: the device takes commands; changed under @cmd_lock too
 * @cmd_lock: one batch of commands at a time
 * @work: installs and removes
 * @stats: of @work, written under @cmd_lock
 * @stats.installed: in the database now
 * @stats.created: put into it since the netdev was made
 * @stats.destroyed: taken out of it, resets included
 * @stats.full: times that there was no room, or not within the user's share
 * @stats.failed: times that a command failed otherwise
 * @hw_stats: MLX5_QUIC_REG_CNT, of the last time that it could be read
 */
struct mlx5e_quic {
	struct mlx5e_priv *priv;
	u32 ciphers;
	bool index_form;
	bool inline_form;
	u16 max_lso_segments;

	spinlock_t lock; /* lists, flags of the SAs */
	struct list_head install;
	struct list_head installed;
	struct list_head full;
	struct list_head remove;
	bool up;

	struct mutex cmd_lock; /* one batch of commands at a time */
	struct udp_crypto_shares shares;
	struct work_struct work;
	struct {
		u64 installed;
		u64 created;
		u64 destroyed;
		u64 full;
		u64 failed;
	} stats;
	u32 hw_stats[MLX5_ST_SZ_DW(quic_cnt_reg)];
};

bool mlx5e_quic_supported(struct mlx5_core_dev *mdev);
void mlx5e_quic_build_netdev(struct mlx5e_priv *priv);
void mlx5e_quic_init(struct mlx5e_priv *priv);
void mlx5e_quic_cleanup(struct mlx5e_priv *priv);
void mlx5e_quic_init_tx(struct mlx5e_priv *priv);
void mlx5e_quic_cleanup_tx(struct mlx5e_priv *priv);
void mlx5e_quic_health_diagnose(struct mlx5e_priv *priv,
				struct devlink_fmsg *fmsg);
#else
static inline void mlx5e_quic_build_netdev(struct mlx5e_priv *priv) {}
static inline void mlx5e_quic_init(struct mlx5e_priv *priv) {}
static inline void mlx5e_quic_cleanup(struct mlx5e_priv *priv) {}
static inline void mlx5e_quic_init_tx(struct mlx5e_priv *priv) {}
static inline void mlx5e_quic_cleanup_tx(struct mlx5e_priv *priv) {}

static inline void mlx5e_quic_health_diagnose(struct mlx5e_priv *priv,
					      struct devlink_fmsg *fmsg)
{
}
#endif /* CONFIG_MLX5_EN_QUIC */

#endif /* __MLX5E_QUIC_H__ */
