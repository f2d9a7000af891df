/* SPDX-License-Identifier: GPL-2.0 */
/*
 * QUIC packet protection (RFC 9001 section 5) by the transmit engine of a
 * ConnectX adapter: what passes between driver and device. The text that goes
 * with it, with the reasons, is docs/hardware-interface.md.
 *
 * Layouts only, for the driver and for a device model alike. As everywhere in
 * linux/mlx5, one byte of a struct mlx5_ifc_*_bits stands for one bit of a
 * big-endian message, and WQE segments are as they lie in memory.
 */
#ifndef __MLX5_QUIC_IFC_H__
#define __MLX5_QUIC_IFC_H__

#include <linux/types.h>
#include <linux/mlx5/mlx5_ifc.h>

/* Numbers taken from what Linux 6.12 leaves free. */
enum {
	/* QUERY_HCA_CAP: op_mod = type << 1 | current */
	MLX5_QUIC_CAP_TYPE			= 0x51,
	/* general object; bit of cmd_hca_cap.general_obj_types */
	MLX5_GENERAL_OBJECT_TYPES_QUIC_SA	= 0x2e,
	/* ACCESS_REG, read: struct mlx5_ifc_quic_cnt_reg_bits */
	MLX5_QUIC_REG_CNT			= 0xd051,
	/* WQE opcode modifier, with MLX5_OPCODE_SEND and MLX5_OPCODE_LSO */
	MLX5_OPC_MOD_QUIC			= 0x51,
};

#define MLX5_HCA_CAP_GENERAL_OBJECT_TYPES_QUIC_SA \
	(1ULL << MLX5_GENERAL_OBJECT_TYPES_QUIC_SA)

/* The AEADs of RFC 9001 section 5.3; the numbers are those of
 * enum udp_quic_cipher.
 */
enum mlx5_quic_cipher {
	MLX5_QUIC_CIPHER_AES_128_GCM		= 1,
	MLX5_QUIC_CIPHER_AES_256_GCM		= 2,
	MLX5_QUIC_CIPHER_CHACHA20_POLY1305	= 3,
	MLX5_QUIC_CIPHER_AES_128_CCM		= 4,
};

enum {
	MLX5_QUIC_TAG_LEN	= 16,	/* bytes, every cipher */
	MLX5_QUIC_IV_LEN	= 12,	/* bytes, every cipher */
	MLX5_QUIC_KEY_MAX	= 32,	/* bytes, longest key */
	MLX5_QUIC_SAMPLE_LEN	= 16,	/* bytes */
	MLX5_QUIC_SAMPLE_OFFSET	= 4,	/* bytes, from the packet number */
};

/* Capabilities, MLX5_QUIC_CAP_TYPE. */
struct mlx5_ifc_quic_cap_bits {
	u8         quic_tx[0x1];
	u8         sa_index_form[0x1];
	u8         inline_form[0x1];
	u8         lso[0x1];
	u8         reserved_at_4[0x4];
	u8         aes_128_gcm[0x1];
	u8         aes_256_gcm[0x1];
	u8         chacha20_poly1305[0x1];
	u8         aes_128_ccm[0x1];
	u8         reserved_at_c[0x4];
	u8         reserved_at_10[0xb];
	u8         log_max_sa[0x5];

	u8         max_pn_offset[0x10];
	u8         max_lso_segments[0x10];

	u8         reserved_at_40[0x7c0];
};

/* A security association: object MLX5_GENERAL_OBJECT_TYPES_QUIC_SA, whose
 * obj_id is the index in the device's database. Keys of 16 bytes are in the
 * first 16 of the field, the rest is zero. iv, key and hp_key read as zero.
 */
struct mlx5_ifc_quic_sa_obj_bits {
	u8         modify_field_select[0x40];

	u8         cipher[0x8];
	u8         reserved_at_48[0x18];

	u8         reserved_at_60[0x8];
	u8         pd[0x18];

	u8         tag[0x20];

	u8         iv[3][0x20];

	u8         key[8][0x20];

	u8         hp_key[8][0x20];

	u8         reserved_at_300[0x100];
};

struct mlx5_ifc_create_quic_sa_in_bits {
	struct mlx5_ifc_general_obj_in_cmd_hdr_bits general_obj_in_cmd_hdr;
	struct mlx5_ifc_quic_sa_obj_bits quic_sa_object;
};

struct mlx5_ifc_query_quic_sa_out_bits {
	struct mlx5_ifc_general_obj_out_cmd_hdr_bits general_obj_out_cmd_hdr;
	struct mlx5_ifc_quic_sa_obj_bits quic_sa_object;
};

/* Register MLX5_QUIC_REG_CNT: counts of this function since INIT_HCA. */
struct mlx5_ifc_quic_cnt_reg_bits {
	u8         tx_index_packets[0x40];

	u8         tx_inline_packets[0x40];

	u8         tx_bytes[0x40];

	u8         drop_stale_sa[0x40];

	u8         drop_pd[0x40];

	u8         drop_headers[0x40];

	u8         drop_short[0x40];

	u8         wqe_errors[0x40];

	u8         sa_created[0x40];

	u8         sa_destroyed[0x40];

	u8         sa_rejected_full[0x40];

	u8         sa_installed[0x20];
	u8         reserved_at_2e0[0x20];
};

/* How a WQE with opcode modifier MLX5_OPC_MOD_QUIC names its keys. */
enum {
	MLX5_WQE_QUIC_FORM_INDEX	= 0,
	MLX5_WQE_QUIC_FORM_INLINE	= 1,
};

#define MLX5_WQE_QUIC_FORM_SHIFT	62
#define MLX5_WQE_QUIC_PN_MASK		((1ULL << 62) - 1)
#define MLX5_WQE_QUIC_PN_OFFSET_SHIFT	21
#define MLX5_WQE_QUIC_SA_MASK		((1U << 21) - 1)

/**
 * struct mlx5_wqe_quic_seg - protect the packets of this WQE (16 bytes)
 * @form_pn: bits 63:62 MLX5_WQE_QUIC_FORM_*, bits 61:0 full packet number of
 *	the first QUIC packet
 * @pn_offset_sa: bits 31:21 bytes from the start of each QUIC packet to its
 *	packet number; bits 20:0 obj_id of the SA, or 0 with the inline form
 * @tag: that of the SA, or 0 with the inline form
 *
 * Behind the Ethernet segment and its inlined headers, before the first data
 * segment.
 */
struct mlx5_wqe_quic_seg {
	__be64	form_pn;
	__be32	pn_offset_sa;
	__be32	tag;
};

/**
 * struct mlx5_wqe_quic_keys_seg - keys of the inline form (80 bytes)
 * @cipher: enum mlx5_quic_cipher
 * @reserved: zero
 * @iv: "quic iv" of RFC 9001 section 5.1
 * @key: "quic key", 16 or 32 bytes, the rest zero
 * @hp_key: "quic hp", of the same length, the rest zero
 *
 * Directly behind a struct mlx5_wqe_quic_seg of that form.
 */
struct mlx5_wqe_quic_keys_seg {
	u8	cipher;
	u8	reserved[3];
	u8	iv[12];
	u8	key[32];
	u8	hp_key[32];
};

/* Vendor syndromes of error CQEs (mlx5_err_cqe.vendor_err_synd): what is
 * wrong with the descriptor. The syndrome is MLX5_CQE_SYNDROME_LOCAL_QP_OP_ERR.
 */
enum {
	MLX5_QUIC_VENDOR_SYND_OPCODE	= 0x51,	/* not SEND or LSO, or no such capability */
	MLX5_QUIC_VENDOR_SYND_TRUNCATED	= 0x52,	/* segment beyond the end of the WQE */
	MLX5_QUIC_VENDOR_SYND_FORM	= 0x53,	/* unknown form, or one without capability */
	MLX5_QUIC_VENDOR_SYND_RESERVED	= 0x54,	/* a reserved field is not zero */
	MLX5_QUIC_VENDOR_SYND_PN_OFFSET	= 0x55,	/* 0 or above max_pn_offset */
	MLX5_QUIC_VENDOR_SYND_SA_RANGE	= 0x56,	/* index not below 1 << log_max_sa */
	MLX5_QUIC_VENDOR_SYND_CIPHER	= 0x57,	/* inline: cipher unknown or not supported */
	MLX5_QUIC_VENDOR_SYND_PN	= 0x58,	/* last packet number above 2^62 - 1 */
	MLX5_QUIC_VENDOR_SYND_SEGMENTS	= 0x59,	/* more than max_lso_segments */
	MLX5_QUIC_VENDOR_SYND_OFFLOADS	= 0x5a,	/* inner checksums, SWP or trailer insertion */
};

#endif /* __MLX5_QUIC_IFC_H__ */
