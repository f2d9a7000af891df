// SPDX-License-Identifier: GPL-2.0
#include <net/xfrm.h>
#include "en_accel/quic_rxtx.h"

static_assert(sizeof(struct mlx5_wqe_quic_seg) == MLX5_SEND_WQE_DS);
static_assert(sizeof(struct mlx5_wqe_quic_keys_seg) == 5 * MLX5_SEND_WQE_DS);
/* instead of the trailer that there is room for in MLX5E_MAX_TX_WQEBBS */
static_assert((sizeof(struct mlx5_wqe_quic_seg) +
	       sizeof(struct mlx5_wqe_quic_keys_seg)) / MLX5_SEND_WQE_DS <=
	      MLX5E_MAX_TX_IPSEC_DS);

/* Data segments of a WQE that names an SA, and of one that brings keys */
#define MLX5E_QUIC_INDEX_DS	\
	(sizeof(struct mlx5_wqe_quic_seg) / MLX5_SEND_WQE_DS)
#define MLX5E_QUIC_INLINE_DS	\
	(MLX5E_QUIC_INDEX_DS +	\
	 sizeof(struct mlx5_wqe_quic_keys_seg) / MLX5_SEND_WQE_DS)

static void mlx5e_quic_drop(struct mlx5e_txqsq *sq, struct sk_buff *skb,
			    enum skb_drop_reason reason)
{
	sq->stats->quic_dropped += skb_is_gso(skb) ? skb_shinfo(skb)->gso_segs :
						     1;
	sq->stats->dropped++;
	udp_crypto_drop(dev_net(sq->netdev), skb, reason);
	/* what is before it in the queue may wait for this one's doorbell */
	mlx5e_tx_flush(sq);
}

static bool mlx5e_quic_sa_installed(const struct mlx5e_quic_sa *sa)
{
	/* pairs with smp_store_release() in mlx5e_quic_install() */
	return smp_load_acquire(&sa->state) == MLX5E_QUIC_SA_INSTALLED;
}

/**
 * mlx5e_quic_drop_plaintext() - a packet must not leave as it is
 * @sq: queue
 * @skb: plaintext, freed
 *
 * BHs off, the queue's lock held.
 */
void mlx5e_quic_drop_plaintext(struct mlx5e_txqsq *sq, struct sk_buff *skb)
{
	mlx5e_quic_drop(sq, skb, SKB_DROP_REASON_UDP_CRYPTO);
}

/**
 * mlx5e_quic_handle_tx_skb() - find out how the device gets the keys
 * @netdev: that sends
 * @sq: queue
 * @skb: plaintext, freed when there is no way
 * @state: filled in
 *
 * BHs off. No lock, reference or allocation.
 * Return: false: the packet was dropped and counted.
 */
bool mlx5e_quic_handle_tx_skb(struct net_device *netdev,
			      struct mlx5e_txqsq *sq, struct sk_buff *skb,
			      struct mlx5e_accel_tx_quic_state *state)
{
	const struct udp_crypto_ext *ext = skb_ext_find(skb, SKB_EXT_UDP_CRYPTO);
	unsigned int segs = skb_is_gso(skb) ? skb_shinfo(skb)->gso_segs : 1;
	struct mlx5e_priv *priv = netdev_priv(netdev);
	struct mlx5e_quic *quic = READ_ONCE(priv->quic);
	unsigned int payload = skb->len - skb_transport_offset(skb) -
			       sizeof(struct udphdr);
	enum skb_drop_reason reason = SKB_DROP_REASON_UDP_CRYPTO;
	const struct udp_crypto_holder *holder;
	const struct mlx5e_quic_sa *quic_sa;
	const struct udp_sa *sa;

	/* The device refuses a trailer next to the segment. Who encrypts a
	 * packet with IPsec has made ciphertext of it before.
	 */
	if (unlikely(!quic || xfrm_offload(skb)))
		goto drop;
	/* The device encrypts what is behind the UDP header, which must still be
	 * what sendmsg() put there.
	 */
	if (unlikely(payload != ext->len))
		goto drop;
	sa = udp_crypto_ext_sa(dev_net(netdev), ext);
	if (unlikely(!sa)) {
		reason = SKB_DROP_REASON_UDP_CRYPTO_NO_SA;
		goto drop;
	}

	holder = udp_crypto_holder_of(sa, netdev);
	if (likely(holder)) {
		quic_sa = container_of(holder, struct mlx5e_quic_sa, holder);
		if (likely(mlx5e_quic_sa_installed(quic_sa))) {
			state->ext = ext;
			state->ds = MLX5E_QUIC_INDEX_DS;
			state->obj_id = quic_sa->obj_id;
			sq->stats->quic_index_packets += segs;
			sq->stats->quic_bytes += payload;
			return true;
		}
	}

	if (unlikely(!READ_ONCE(quic->inline_form)))
		goto drop;
	state->ext = ext;
	state->ds = MLX5E_QUIC_INLINE_DS;
	state->sa = sa;
	sq->stats->quic_inline_packets += segs;
	sq->stats->quic_bytes += payload;
	return true;

drop:
	mlx5e_quic_drop(sq, skb, reason);
	return false;
}

/**
 * mlx5e_quic_build_segment() - write the segment of a WQE
 * @seg: @state->ds data segments
 * @state: of the skb
 */
void mlx5e_quic_build_segment(struct mlx5_wqe_quic_seg *seg,
			      const struct mlx5e_accel_tx_quic_state *state)
{
	const struct udp_crypto_ext *ext = state->ext;
	u32 pn_offset = ext->pn_offset << MLX5_WQE_QUIC_PN_OFFSET_SHIFT;
	u64 form = state->sa ? MLX5_WQE_QUIC_FORM_INLINE :
			       MLX5_WQE_QUIC_FORM_INDEX;
	struct mlx5_wqe_quic_keys_seg *keys;

	seg->form_pn = cpu_to_be64(form << MLX5_WQE_QUIC_FORM_SHIFT | ext->pn);
	if (!state->sa) {
		seg->pn_offset_sa = cpu_to_be32(pn_offset | state->obj_id);
		seg->tag = cpu_to_be32(ext->gen);
		return;
	}

	seg->pn_offset_sa = cpu_to_be32(pn_offset);
	seg->tag = 0;
	keys = (struct mlx5_wqe_quic_keys_seg *)(seg + 1);
	keys->cipher = state->sa->keys.cipher;
	memset(keys->reserved, 0, sizeof(keys->reserved));
	memcpy(keys->iv, state->sa->keys.iv, sizeof(keys->iv));
	memcpy(keys->key, state->sa->keys.key, sizeof(keys->key));
	memcpy(keys->hp_key, state->sa->keys.hp_key, sizeof(keys->hp_key));
}

/* Is the segment of this packet where the device looks for it, and all of it
 * before the first data segment?
 */
bool __mlx5e_quic_wqe_is_right(const struct sk_buff *skb, u8 opmod,
			       const struct mlx5_wqe_quic_seg *seg, u16 ds)
{
	const struct udp_crypto_ext *ext = skb_ext_find(skb, SKB_EXT_UDP_CRYPTO);
	u64 form_pn;

	if (opmod != MLX5_OPC_MOD_QUIC || ds < MLX5E_QUIC_INDEX_DS)
		return false;
	form_pn = be64_to_cpu(seg->form_pn);
	if ((form_pn & MLX5_WQE_QUIC_PN_MASK) != ext->pn)
		return false;
	return form_pn >> MLX5_WQE_QUIC_FORM_SHIFT ==
	       MLX5_WQE_QUIC_FORM_INDEX || ds >= MLX5E_QUIC_INLINE_DS;
}

/* Keys do not stay in the ring. */
void __mlx5e_quic_wipe_wqe(struct mlx5e_txqsq *sq, u16 ci, u8 keys_ds)
{
	u8 *wqe = mlx5_wq_cyc_get_wqe(&sq->wq, ci);

	memzero_explicit(wqe + keys_ds * MLX5_SEND_WQE_DS,
			 sizeof(struct mlx5_wqe_quic_keys_seg));
}

/* A batch that is too long for one WQE is segmented by the stack. */
netdev_features_t __mlx5e_quic_features_check(struct mlx5e_priv *priv,
					      struct sk_buff *skb,
					      netdev_features_t features)
{
	const struct mlx5e_quic *quic = READ_ONCE(priv->quic);

	if (!quic)
		return features & ~NETIF_F_HW_UDP_CRYPTO_TX;
	if (skb_is_gso(skb) &&
	    skb_shinfo(skb)->gso_segs > READ_ONCE(quic->max_lso_segments))
		features &= ~NETIF_F_GSO_MASK;
	return features;
}
