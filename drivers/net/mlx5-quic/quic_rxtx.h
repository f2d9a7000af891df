/* SPDX-License-Identifier: GPL-2.0 */
/*
 * QUIC packets on the transmit path: the segment in the WQE.
 */
#ifndef __MLX5E_QUIC_RXTX_H__
#define __MLX5E_QUIC_RXTX_H__

#include <linux/skbuff.h>
#include "en.h"
#include "en/txrx.h"
#include "en_accel/quic.h"

#ifdef CONFIG_MLX5_EN_QUIC

/**
 * struct mlx5e_accel_tx_quic_state - one skb on its way into a WQE
 * @ext: of a plaintext skb, else NULL
 * @sa: whose keys the WQE brings, good under the caller's RCU; NULL: it names
 *	@obj_id
 * @obj_id: SA in the device's database
 */
struct mlx5e_accel_tx_quic_state {
	const struct udp_crypto_ext *ext;
	const struct udp_sa *sa;
	u32 obj_id;
};

bool mlx5e_quic_handle_tx_skb(struct net_device *netdev,
			      struct mlx5e_txqsq *sq, struct sk_buff *skb,
			      struct mlx5e_accel_tx_quic_state *state);
void mlx5e_quic_build_segment(struct mlx5_wqe_quic_seg *seg,
			      const struct mlx5e_accel_tx_quic_state *state);
void __mlx5e_quic_wipe_wqe(struct mlx5e_txqsq *sq, u16 ci, u8 keys_ds);
netdev_features_t __mlx5e_quic_features_check(struct mlx5e_priv *priv,
					      struct sk_buff *skb,
					      netdev_features_t features);

/* Length of the segment, as that of an inlined one without its header. */
static inline unsigned int
mlx5e_quic_tx_ids_len(const struct mlx5e_accel_tx_quic_state *state)
{
	unsigned int len = sizeof(struct mlx5_wqe_quic_seg);

	if (likely(!state->ext))
		return 0;
	if (state->sa)
		len += sizeof(struct mlx5_wqe_quic_keys_seg);
	return len - sizeof(struct mlx5_wqe_inline_seg);
}

/* Keys in a WQE that the device is done with, or never got. */
static inline void mlx5e_quic_wipe_wqe(struct mlx5e_txqsq *sq, u16 ci,
				       u8 keys_ds)
{
	if (unlikely(keys_ds))
		__mlx5e_quic_wipe_wqe(sq, ci, keys_ds);
}

static inline netdev_features_t
mlx5e_quic_features_check(struct mlx5e_priv *priv, struct sk_buff *skb,
			  netdev_features_t features)
{
	if (!skb_udp_crypto_plaintext(skb))
		return features;
	return __mlx5e_quic_features_check(priv, skb, features);
}
#else
static inline void mlx5e_quic_wipe_wqe(struct mlx5e_txqsq *sq, u16 ci,
				       u8 keys_ds)
{
}

static inline netdev_features_t
mlx5e_quic_features_check(struct mlx5e_priv *priv, struct sk_buff *skb,
			  netdev_features_t features)
{
	return features;
}
#endif /* CONFIG_MLX5_EN_QUIC */

#endif /* __MLX5E_QUIC_RXTX_H__ */
