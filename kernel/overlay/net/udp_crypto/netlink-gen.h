/* SPDX-License-Identifier: ((GPL-2.0 WITH Linux-syscall-note) OR BSD-3-Clause) */
/* Do not edit directly, auto-generated from: */
/*	Documentation/netlink/specs/udp_crypto.yaml */
/* YNL-GEN kernel header */

#ifndef _LINUX_UDP_CRYPTO_GEN_H
#define _LINUX_UDP_CRYPTO_GEN_H

#include <net/netlink.h>
#include <net/genetlink.h>

#include <uapi/linux/udp_crypto_nl.h>
#include <linux/udp_crypto.h>
#include <linux/udp_crypto.h>
#include <linux/udp_crypto.h>

/* Ops table for udp_crypto */
extern const struct genl_split_ops udp_crypto_nl_ops[8];

int udp_crypto_nl_admin_doit(const struct genl_split_ops *ops,
			     struct sk_buff *skb, struct genl_info *info);
int udp_crypto_nl_bare_doit(const struct genl_split_ops *ops,
			    struct sk_buff *skb, struct genl_info *info);
int udp_crypto_nl_bare_start(struct netlink_callback *cb);
int udp_crypto_nl_admin_start(struct netlink_callback *cb);

int udp_crypto_nl_dev_get_doit(struct sk_buff *skb, struct genl_info *info);
int udp_crypto_nl_dev_get_dumpit(struct sk_buff *skb,
				 struct netlink_callback *cb);
int udp_crypto_nl_sa_add_doit(struct sk_buff *skb, struct genl_info *info);
int udp_crypto_nl_sa_del_doit(struct sk_buff *skb, struct genl_info *info);
int udp_crypto_nl_sa_get_doit(struct sk_buff *skb, struct genl_info *info);
int udp_crypto_nl_sa_get_dumpit(struct sk_buff *skb,
				struct netlink_callback *cb);
int udp_crypto_nl_sa_flush_doit(struct sk_buff *skb, struct genl_info *info);
int udp_crypto_nl_stats_get_doit(struct sk_buff *skb, struct genl_info *info);

#endif /* _LINUX_UDP_CRYPTO_GEN_H */
