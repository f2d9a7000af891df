/* SPDX-License-Identifier: GPL-2.0 */
/*
 * QUIC packets on the transmit path: the segment in the WQE.
 */
#ifndef __MLX5E_QUIC_RXTX_H__
#define __MLX5E_QUIC_RXTX_H__

#include <linux/skbuff.h>
#include <net/udp_crypto.h>
#include "en.h"
#include "en/txrx.h"
#include "en_accel/quic.h"
#include "en_accel/quic_ifc.h"

#ifdef CONFIG_MLX5_EN_QUIC

/**
 * struct mlx5e_accel_tx_quic_state - one skb on its way into a WQE
 * @ext: of a plaintext skb, else NULL
 * @ds: length of the segment in the WQE, in data segments, 0 without one:
 *	room, opcode modifier and place of keys go by it
 * @sa: whose keys the WQE brings, good under the caller's RCU; NULL: it names
 *	@obj_id
 * @obj_id: SA in the device's database
 */
struct mlx5e_accel_tx_quic_state {
	const struct udp_crypto_ext *ext;
	const struct udp_sa *sa;
	u32 obj_id;
	u8 ds;
};

bool mlx5e_quic_handle_tx_skb(struct net_device *netdev,
			      struct mlx5e_txqsq *sq, struct sk_buff *skb,
			      struct mlx5e_accel_tx_quic_state *state);
void mlx5e_quic_build_segment(struct mlx5_wqe_quic_seg *seg,
			      const struct mlx5e_accel_tx_quic_state *state);
void mlx5e_quic_drop_plaintext(struct mlx5e_txqsq *sq, struct sk_buff *skb);
bool __mlx5e_quic_wqe_is_right(const struct sk_buff *skb, u8 opmod,
			       const struct mlx5_wqe_quic_seg *seg, u16 ds);
void __mlx5e_quic_wipe_wqe(struct mlx5e_txqsq *sq, u16 ci, u8 keys_ds);
netdev_features_t __mlx5e_quic_features_check(struct mlx5e_priv *priv,
					      struct sk_buff *skb,
					      netdev_features_t features);

/* The last look at a WQE before it is the device's: plaintext without its
 * segment is dropped. @seg and @ds: what is between the inlined headers and the
 * first data segment.
 */
static inline bool mlx5e_quic_wqe_is_right(const struct sk_buff *skb, u8 opmod,
					   const void *seg, u16 ds)
{
	return likely(!skb_udp_crypto_plaintext(skb)) ||
	       __mlx5e_quic_wqe_is_right(skb, opmod, seg, ds);
}

/* Where a WQE holds keys, in data segments, or 0 */
static inline u8 mlx5e_quic_keys_ds(u8 quic_ds, u16 ds_cnt_inl)
{
	const u8 index_ds = sizeof(struct mlx5_wqe_quic_seg) / MLX5_SEND_WQE_DS;

	if (likely(quic_ds <= index_ds))
		return 0;
	return MLX5E_TX_WQE_EMPTY_DS_COUNT + ds_cnt_inl + index_ds;
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
/* The device has no such feature, so that no plaintext comes. */
static inline void mlx5e_quic_drop_plaintext(struct mlx5e_txqsq *sq,
					     struct sk_buff *skb)
{
	sq->stats->dropped++;
	dev_kfree_skb_any(skb);
	mlx5e_tx_flush(sq);
}

static inline bool mlx5e_quic_wqe_is_right(const struct sk_buff *skb, u8 opmod,
					   const void *seg, u16 ds)
{
	return likely(!skb_udp_crypto_plaintext(skb));
}

static inline u8 mlx5e_quic_keys_ds(u8 quic_ds, u16 ds_cnt_inl)
{
	return 0;
}

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
