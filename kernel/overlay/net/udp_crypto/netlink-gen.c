// SPDX-License-Identifier: ((GPL-2.0 WITH Linux-syscall-note) OR BSD-3-Clause)
/* Do not edit directly, auto-generated from: */
/*	Documentation/netlink/specs/udp_crypto.yaml */
/* YNL-GEN kernel source */

#include <net/netlink.h>
#include <net/genetlink.h>

#include "netlink-gen.h"

#include <uapi/linux/udp_crypto_nl.h>
#include <linux/udp_crypto.h>
#include <linux/udp_crypto.h>
#include <linux/udp_crypto.h>

/* Integer value ranges */
static const struct netlink_range_validation udp_crypto_a_sa_index_range = {
	.min	= 1ULL,
	.max	= 16777215ULL,
};

/* UDP_CRYPTO_CMD_DEV_GET - do */
static const struct nla_policy udp_crypto_dev_get_nl_policy[UDP_CRYPTO_A_DEV_IFINDEX + 1] = {
	[UDP_CRYPTO_A_DEV_IFINDEX] = NLA_POLICY_MIN(NLA_U32, 1),
};

/* UDP_CRYPTO_CMD_SA_ADD - do */
static const struct nla_policy udp_crypto_sa_add_nl_policy[UDP_CRYPTO_A_SA_PACKET_LIMIT + 1] = {
	[UDP_CRYPTO_A_SA_CIPHER] = NLA_POLICY_RANGE(NLA_U32, 1, 4),
	[UDP_CRYPTO_A_SA_KEY] = { .type = NLA_BINARY, },
	[UDP_CRYPTO_A_SA_IV] = NLA_POLICY_EXACT_LEN(UDP_QUIC_IV_LEN),
	[UDP_CRYPTO_A_SA_HP_KEY] = { .type = NLA_BINARY, },
	[UDP_CRYPTO_A_SA_UID] = { .type = NLA_U32, },
	[UDP_CRYPTO_A_SA_PACKET_LIMIT] = { .type = NLA_UINT, },
};

/* UDP_CRYPTO_CMD_SA_DEL - do */
static const struct nla_policy udp_crypto_sa_del_nl_policy[UDP_CRYPTO_A_SA_INDEX + 1] = {
	[UDP_CRYPTO_A_SA_INDEX] = NLA_POLICY_FULL_RANGE(NLA_U32, &udp_crypto_a_sa_index_range),
};

/* UDP_CRYPTO_CMD_SA_GET - do */
static const struct nla_policy udp_crypto_sa_get_nl_policy[UDP_CRYPTO_A_SA_INDEX + 1] = {
	[UDP_CRYPTO_A_SA_INDEX] = NLA_POLICY_FULL_RANGE(NLA_U32, &udp_crypto_a_sa_index_range),
};

/* UDP_CRYPTO_CMD_SA_FLUSH - do */
static const struct nla_policy udp_crypto_sa_flush_nl_policy[UDP_CRYPTO_A_SA_UID + 1] = {
	[UDP_CRYPTO_A_SA_UID] = { .type = NLA_U32, },
};

/* Ops table for udp_crypto */
const struct genl_split_ops udp_crypto_nl_ops[8] = {
	{
		.cmd		= UDP_CRYPTO_CMD_DEV_GET,
		.doit		= udp_crypto_nl_dev_get_doit,
		.policy		= udp_crypto_dev_get_nl_policy,
		.maxattr	= UDP_CRYPTO_A_DEV_IFINDEX,
		.flags		= GENL_CMD_CAP_DO,
	},
	{
		.cmd	= UDP_CRYPTO_CMD_DEV_GET,
		.start	= udp_crypto_nl_bare_start,
		.dumpit	= udp_crypto_nl_dev_get_dumpit,
		.flags	= GENL_CMD_CAP_DUMP,
	},
	{
		.cmd		= UDP_CRYPTO_CMD_SA_ADD,
		.pre_doit	= udp_crypto_nl_admin_doit,
		.doit		= udp_crypto_nl_sa_add_doit,
		.policy		= udp_crypto_sa_add_nl_policy,
		.maxattr	= UDP_CRYPTO_A_SA_PACKET_LIMIT,
		.flags		= GENL_CMD_CAP_DO,
	},
	{
		.cmd		= UDP_CRYPTO_CMD_SA_DEL,
		.pre_doit	= udp_crypto_nl_admin_doit,
		.doit		= udp_crypto_nl_sa_del_doit,
		.policy		= udp_crypto_sa_del_nl_policy,
		.maxattr	= UDP_CRYPTO_A_SA_INDEX,
		.flags		= GENL_CMD_CAP_DO,
	},
	{
		.cmd		= UDP_CRYPTO_CMD_SA_GET,
		.pre_doit	= udp_crypto_nl_admin_doit,
		.doit		= udp_crypto_nl_sa_get_doit,
		.policy		= udp_crypto_sa_get_nl_policy,
		.maxattr	= UDP_CRYPTO_A_SA_INDEX,
		.flags		= GENL_CMD_CAP_DO,
	},
	{
		.cmd	= UDP_CRYPTO_CMD_SA_GET,
		.start	= udp_crypto_nl_admin_start,
		.dumpit	= udp_crypto_nl_sa_get_dumpit,
		.flags	= GENL_CMD_CAP_DUMP,
	},
	{
		.cmd		= UDP_CRYPTO_CMD_SA_FLUSH,
		.pre_doit	= udp_crypto_nl_admin_doit,
		.doit		= udp_crypto_nl_sa_flush_doit,
		.policy		= udp_crypto_sa_flush_nl_policy,
		.maxattr	= UDP_CRYPTO_A_SA_UID,
		.flags		= GENL_CMD_CAP_DO,
	},
	{
		.cmd		= UDP_CRYPTO_CMD_STATS_GET,
		.pre_doit	= udp_crypto_nl_bare_doit,
		.doit		= udp_crypto_nl_stats_get_doit,
		.flags		= GENL_CMD_CAP_DO,
	},
};
