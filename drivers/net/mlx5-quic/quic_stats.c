// SPDX-License-Identifier: GPL-2.0
#include <linux/ethtool.h>

#include "en.h"
#include "en_accel/quic.h"

/* What the driver did: struct mlx5e_quic. */
static const struct counter_desc mlx5e_quic_sw_stats_desc[] = {
	{ "quic_sa_installed", offsetof(struct mlx5e_quic, stats.installed) },
	{ "quic_sa_created", offsetof(struct mlx5e_quic, stats.created) },
	{ "quic_sa_destroyed", offsetof(struct mlx5e_quic, stats.destroyed) },
	{ "quic_sa_full", offsetof(struct mlx5e_quic, stats.full) },
	{ "quic_sa_failed", offsetof(struct mlx5e_quic, stats.failed) },
};

/* What the device says that it did: register MLX5_QUIC_REG_CNT. */
#define MLX5E_QUIC_HW_STAT(field) \
	{ "quic_dev_" #field, MLX5_BYTE_OFF(quic_cnt_reg, field) }

static const struct counter_desc mlx5e_quic_hw_stats_desc[] = {
	MLX5E_QUIC_HW_STAT(tx_index_packets),
	MLX5E_QUIC_HW_STAT(tx_inline_packets),
	MLX5E_QUIC_HW_STAT(tx_bytes),
	MLX5E_QUIC_HW_STAT(drop_stale_sa),
	MLX5E_QUIC_HW_STAT(drop_pd),
	MLX5E_QUIC_HW_STAT(drop_headers),
	MLX5E_QUIC_HW_STAT(drop_short),
	MLX5E_QUIC_HW_STAT(wqe_errors),
	MLX5E_QUIC_HW_STAT(sa_created),
	MLX5E_QUIC_HW_STAT(sa_destroyed),
	MLX5E_QUIC_HW_STAT(sa_rejected_full),
};

static MLX5E_DECLARE_STATS_GRP_OP_NUM_STATS(quic)
{
	if (!priv->quic)
		return 0;
	return ARRAY_SIZE(mlx5e_quic_sw_stats_desc) +
	       ARRAY_SIZE(mlx5e_quic_hw_stats_desc);
}

static MLX5E_DECLARE_STATS_GRP_OP_UPDATE_STATS(quic)
{
	u32 in[MLX5_ST_SZ_DW(quic_cnt_reg)] = {};
	u32 out[MLX5_ST_SZ_DW(quic_cnt_reg)];

	if (!priv->quic)
		return;
	if (!mlx5_core_access_reg(priv->mdev, in, sizeof(in), out, sizeof(out),
				  MLX5_QUIC_REG_CNT, 0, 0))
		memcpy(priv->quic->hw_stats, out, sizeof(out));
}

static MLX5E_DECLARE_STATS_GRP_OP_FILL_STRS(quic)
{
	unsigned int i;

	if (!priv->quic)
		return;
	for (i = 0; i < ARRAY_SIZE(mlx5e_quic_sw_stats_desc); i++)
		ethtool_puts(data, mlx5e_quic_sw_stats_desc[i].format);
	for (i = 0; i < ARRAY_SIZE(mlx5e_quic_hw_stats_desc); i++)
		ethtool_puts(data, mlx5e_quic_hw_stats_desc[i].format);
}

static MLX5E_DECLARE_STATS_GRP_OP_FILL_STATS(quic)
{
	unsigned int i;

	if (!priv->quic)
		return;
	for (i = 0; i < ARRAY_SIZE(mlx5e_quic_sw_stats_desc); i++)
		mlx5e_ethtool_put_stat(data,
				       MLX5E_READ_CTR64_CPU(priv->quic,
							    mlx5e_quic_sw_stats_desc,
							    i));
	for (i = 0; i < ARRAY_SIZE(mlx5e_quic_hw_stats_desc); i++)
		mlx5e_ethtool_put_stat(data,
				       MLX5E_READ_CTR64_BE(priv->quic->hw_stats,
							   mlx5e_quic_hw_stats_desc,
							   i));
}

MLX5E_DEFINE_STATS_GRP(quic, 0);
