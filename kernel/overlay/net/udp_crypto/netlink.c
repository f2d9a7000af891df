// SPDX-License-Identifier: GPL-2.0
/*
 * The generic netlink family udp_crypto, for administrators. What it takes and
 * gives is specified in Documentation/netlink/specs/udp_crypto.yaml; policies
 * and operations are generated from that.
 */
#include <linux/capability.h>
#include <linux/netdevice.h>
#include <linux/rtnetlink.h>
#include <net/genetlink.h>
#include <net/net_namespace.h>
#include <net/sock.h>

#include "internal.h"
#include "netlink-gen.h"

static const struct genl_multicast_group udp_crypto_nl_mcgrps[] = {
	[0] = {
		.name	= UDP_CRYPTO_MCGRP_SA,
		.flags	= GENL_MCAST_CAP_NET_ADMIN,
	},
};

static struct genl_family udp_crypto_nl_family __ro_after_init = {
	.name		= UDP_CRYPTO_FAMILY_NAME,
	.version	= UDP_CRYPTO_FAMILY_VERSION,
	.netnsok	= true,
	.parallel_ops	= true,
	.wipe_requests	= true,
	.module		= THIS_MODULE,
	.split_ops	= udp_crypto_nl_ops,
	.n_split_ops	= ARRAY_SIZE(udp_crypto_nl_ops),
	.mcgrps		= udp_crypto_nl_mcgrps,
	.n_mcgrps	= ARRAY_SIZE(udp_crypto_nl_mcgrps),
};

/* GENL_UNS_ADMIN_PERM would refuse without a word. */
static int udp_crypto_nl_admin(struct sk_buff *skb, const struct net *net,
			       struct netlink_ext_ack *extack)
{
	if (netlink_ns_capable(skb, net->user_ns, CAP_NET_ADMIN))
		return 0;
	NL_SET_ERR_MSG(extack,
		       "CAP_NET_ADMIN is needed in the user namespace of the network namespace");
	return -EPERM;
}

int udp_crypto_nl_admin_doit(const struct genl_split_ops *ops,
			     struct sk_buff *skb, struct genl_info *info)
{
	return udp_crypto_nl_admin(skb, genl_info_net(info), info->extack);
}

/* Split operations without a policy take any attribute and look at none. */
static int udp_crypto_nl_bare(const struct nlmsghdr *nlh,
			      struct netlink_ext_ack *extack)
{
	if (!nlmsg_attrlen(nlh, GENL_HDRLEN))
		return 0;
	NL_SET_ERR_MSG(extack, "this request takes no attributes");
	return -EINVAL;
}

int udp_crypto_nl_bare_doit(const struct genl_split_ops *ops,
			    struct sk_buff *skb, struct genl_info *info)
{
	return udp_crypto_nl_bare(info->nlhdr, info->extack);
}

int udp_crypto_nl_bare_start(struct netlink_callback *cb)
{
	return udp_crypto_nl_bare(cb->nlh, cb->extack);
}

int udp_crypto_nl_admin_start(struct netlink_callback *cb)
{
	return udp_crypto_nl_admin(cb->skb, sock_net(cb->skb->sk),
				   cb->extack) ?:
	       udp_crypto_nl_bare(cb->nlh, cb->extack);
}

/* The attribute @type, or NULL with the complaint made. */
#define udp_crypto_nl_need(info, type, name) ({				\
	struct genl_info *__info = (info);				\
	struct nlattr *__attr = __info->attrs[type];			\
									\
	if (!__attr) {							\
		NL_SET_ERR_MSG(__info->extack, name " is missing");	\
		NL_SET_ERR_ATTR_MISS(__info->extack, NULL, type);	\
	}								\
	__attr;								\
})

static struct user_namespace *udp_crypto_nl_user_ns(const struct sk_buff *skb)
{
	return sk_user_ns(NETLINK_CB(skb).sk);
}

/* --- devices --------------------------------------------------------------- */

static bool udp_crypto_nl_dev_has(const struct net_device *dev)
{
	return (dev->hw_features | dev->features) & NETIF_F_HW_UDP_CRYPTO_TX;
}

static int udp_crypto_nl_put_dev(struct sk_buff *msg, void *hdr,
				 struct net_device *dev)
{
	const struct udp_crypto_ops *ops = dev->udp_crypto_ops;
	struct udp_crypto_dev_caps caps = {};

	ASSERT_RTNL();
	if (!hdr)
		return -EMSGSIZE;
	if (nla_put_u32(msg, UDP_CRYPTO_A_DEV_IFINDEX, dev->ifindex) ||
	    nla_put_string(msg, UDP_CRYPTO_A_DEV_IFNAME, dev->name) ||
	    (dev->features & NETIF_F_HW_UDP_CRYPTO_TX &&
	     nla_put_flag(msg, UDP_CRYPTO_A_DEV_ENABLED)))
		goto err_cancel;
	if (ops && ops->caps) {
		ops->caps(dev, &caps);
		if (nla_put_u32(msg, UDP_CRYPTO_A_DEV_CIPHERS, caps.ciphers) ||
		    nla_put_u32(msg, UDP_CRYPTO_A_DEV_FORMS, caps.forms) ||
		    nla_put_u32(msg, UDP_CRYPTO_A_DEV_SA_MAX, caps.sa_max) ||
		    nla_put_u32(msg, UDP_CRYPTO_A_DEV_SA_COUNT, caps.sa_count))
			goto err_cancel;
	}
	genlmsg_end(msg, hdr);
	return 0;

err_cancel:
	genlmsg_cancel(msg, hdr);
	return -EMSGSIZE;
}

int udp_crypto_nl_dev_get_doit(struct sk_buff *skb, struct genl_info *info)
{
	struct nlattr *attr;
	struct net_device *dev;
	struct sk_buff *msg;
	int err;

	attr = udp_crypto_nl_need(info, UDP_CRYPTO_A_DEV_IFINDEX, "ifindex");
	if (!attr)
		return -EINVAL;
	msg = genlmsg_new(NLMSG_DEFAULT_SIZE, GFP_KERNEL);
	if (!msg)
		return -ENOMEM;

	rtnl_lock();
	dev = __dev_get_by_index(genl_info_net(info), nla_get_u32(attr));
	if (!dev) {
		err = -ENODEV;
		NL_SET_ERR_MSG_ATTR(info->extack, attr, "no such device");
	} else if (!udp_crypto_nl_dev_has(dev)) {
		err = -EOPNOTSUPP;
		NL_SET_ERR_MSG_ATTR(info->extack, attr,
				    "the device has no QUIC packet protection offload");
	} else {
		err = udp_crypto_nl_put_dev(msg, genlmsg_iput(msg, info), dev);
	}
	rtnl_unlock();
	if (!err)
		return genlmsg_reply(msg, info);
	nlmsg_free(msg);
	return err;
}

/* Where a dump goes on: the next index of a device, or place of an SA. */
struct udp_crypto_nl_dump {
	unsigned long	next;
};

static struct udp_crypto_nl_dump *udp_crypto_nl_dump(struct netlink_callback *cb)
{
	NL_ASSERT_DUMP_CTX_FITS(struct udp_crypto_nl_dump);
	return (struct udp_crypto_nl_dump *)cb->ctx;
}

int udp_crypto_nl_dev_get_dumpit(struct sk_buff *skb,
				 struct netlink_callback *cb)
{
	struct udp_crypto_nl_dump *dump = udp_crypto_nl_dump(cb);
	const struct genl_info *info = genl_info_dump(cb);
	struct net *net = sock_net(skb->sk);
	struct net_device *dev;
	int err = 0;

	rtnl_lock();
	cb->seq = net->dev_base_seq;
	for_each_netdev_dump(net, dev, dump->next) {
		void *hdr;

		if (!udp_crypto_nl_dev_has(dev))
			continue;
		hdr = __genlmsg_iput(skb, info, NLM_F_MULTI);
		if (hdr)
			genl_dump_check_consistent(cb, hdr);
		err = udp_crypto_nl_put_dev(skb, hdr, dev);
		if (err)
			break;
	}
	rtnl_unlock();
	return err;
}

/* --- security associations --------------------------------------------------- */

static int udp_crypto_nl_put_sa(struct sk_buff *msg, void *hdr,
				struct user_namespace *user_ns,
				struct udp_sa *sa)
{
	struct udp_crypto_sa_info info = {};
	u32 origin = sa->key.sk ? UDP_CRYPTO_SA_ORIGIN_SOCKET :
				  UDP_CRYPTO_SA_ORIGIN_NETLINK;

	if (!hdr)
		return -EMSGSIZE;
	udp_sa_describe(sa, &info);
	if (nla_put_u32(msg, UDP_CRYPTO_A_SA_INDEX, info.sa) ||
	    nla_put_u32(msg, UDP_CRYPTO_A_SA_CIPHER, info.cipher) ||
	    nla_put_u32(msg, UDP_CRYPTO_A_SA_UID,
			from_kuid_munged(user_ns, sa->uid)) ||
	    nla_put_uint(msg, UDP_CRYPTO_A_SA_PACKET_LIMIT, info.packet_limit) ||
	    nla_put_u32(msg, UDP_CRYPTO_A_SA_ORIGIN, origin) ||
	    nla_put_u32(msg, UDP_CRYPTO_A_SA_FLAGS, info.req.flags) ||
	    nla_put_u32(msg, UDP_CRYPTO_A_SA_STATE, info.state) ||
	    (info.ifindex &&
	     nla_put_u32(msg, UDP_CRYPTO_A_SA_IFINDEX, info.ifindex)) ||
	    nla_put_uint(msg, UDP_CRYPTO_A_SA_PACKETS, info.packets) ||
	    nla_put_uint(msg, UDP_CRYPTO_A_SA_BYTES, info.bytes) ||
	    nla_put_uint(msg, UDP_CRYPTO_A_SA_PACKETS_SOFTWARE,
			 info.packets_software) ||
	    nla_put_uint(msg, UDP_CRYPTO_A_SA_PACKETS_DROPPED,
			 info.packets_dropped) ||
	    (sa->key.sk &&
	     nla_put_uint(msg, UDP_CRYPTO_A_SA_INODE,
			  sock_i_ino(sa->key.sk)))) {
		genlmsg_cancel(msg, hdr);
		return -EMSGSIZE;
	}
	genlmsg_end(msg, hdr);
	return 0;
}

/**
 * udp_crypto_nl_notify() - tell who listens of a new or deleted SA
 * @un: of the network namespace, its mutex held
 * @sa: the SA
 * @cmd: UDP_CRYPTO_CMD_SA_ADD_NTF or UDP_CRYPTO_CMD_SA_DEL_NTF
 *
 * Process context. A listener that this cannot reach gets ENOBUFS.
 */
void udp_crypto_nl_notify(struct udp_crypto_net *un, struct udp_sa *sa, u8 cmd)
{
	struct net *net = read_pnet(&un->net);
	struct genl_info info;
	struct sk_buff *msg;

	if (!genl_has_listeners(&udp_crypto_nl_family, net, 0))
		return;
	genl_info_init_ntf(&info, &udp_crypto_nl_family, cmd);
	msg = genlmsg_new(NLMSG_DEFAULT_SIZE, GFP_KERNEL);
	if (!msg || udp_crypto_nl_put_sa(msg, genlmsg_iput(msg, &info),
					 net->user_ns, sa)) {
		nlmsg_free(msg);
		genl_set_err(&udp_crypto_nl_family, net, 0, 0, -ENOBUFS);
		return;
	}
	genlmsg_multicast_netns(&udp_crypto_nl_family, net, msg, 0, 0,
				GFP_KERNEL);
}

static int udp_crypto_nl_key_check(struct genl_info *info, struct nlattr *attr,
				   unsigned int len)
{
	if (nla_len(attr) == len)
		return 0;
	NL_SET_ERR_MSG_ATTR_FMT(info->extack, attr,
				"with this cipher the key must have %u bytes",
				len);
	return -EINVAL;
}

/* Puts the keys of a request into @keys, or says what is wrong with them. */
static int udp_crypto_nl_keys(struct genl_info *info,
			      struct udp_quic_keys *keys)
{
	struct nlattr *cipher, *key, *iv, *hp_key;
	unsigned int len;
	int err;

	cipher = udp_crypto_nl_need(info, UDP_CRYPTO_A_SA_CIPHER, "cipher");
	if (!cipher)
		return -EINVAL;
	key = udp_crypto_nl_need(info, UDP_CRYPTO_A_SA_KEY, "key");
	if (!key)
		return -EINVAL;
	iv = udp_crypto_nl_need(info, UDP_CRYPTO_A_SA_IV, "iv");
	if (!iv)
		return -EINVAL;
	hp_key = udp_crypto_nl_need(info, UDP_CRYPTO_A_SA_HP_KEY, "hp-key");
	if (!hp_key)
		return -EINVAL;

	keys->cipher = nla_get_u32(cipher);
	len = udp_quic_key_len(keys->cipher);
	err = udp_crypto_nl_key_check(info, key, len) ?:
	      udp_crypto_nl_key_check(info, hp_key, len);
	if (err)
		return err;
	memcpy(keys->key, nla_data(key), len);
	memcpy(keys->hp_key, nla_data(hp_key), len);
	memcpy(keys->iv, nla_data(iv), sizeof(keys->iv));

	err = udp_quic_keys_check(keys);
	if (err)
		NL_SET_ERR_MSG_ATTR(info->extack, cipher,
				    "the kernel was built without this cipher");
	return err;
}

static int udp_crypto_nl_uid(struct sk_buff *skb, struct genl_info *info,
			     struct nlattr *attr, kuid_t *uid)
{
	*uid = make_kuid(udp_crypto_nl_user_ns(skb), nla_get_u32(attr));
	if (uid_valid(*uid))
		return 0;
	NL_SET_ERR_MSG_ATTR(info->extack, attr,
			    "the user namespace has no such uid");
	return -EINVAL;
}

static int udp_crypto_nl_sa_add(struct sk_buff *skb, struct genl_info *info,
				struct udp_quic_keys *keys, u32 *index)
{
	struct nlattr *limit = info->attrs[UDP_CRYPTO_A_SA_PACKET_LIMIT];
	struct nlattr *attr;
	kuid_t uid;
	int err;

	err = udp_crypto_nl_keys(info, keys);
	if (err)
		return err;
	attr = udp_crypto_nl_need(info, UDP_CRYPTO_A_SA_UID, "uid");
	if (!attr)
		return -EINVAL;
	err = udp_crypto_nl_uid(skb, info, attr, &uid);
	if (err)
		return err;

	err = udp_sa_add_for_uid(genl_info_net(info), keys, uid,
				 limit ? nla_get_uint(limit) : 0, index);
	if (err == -ENOSPC)
		GENL_SET_ERR_MSG(info,
				 "no more SAs than net.ipv4.udp_crypto_max_sa");
	else if (err)
		GENL_SET_ERR_MSG(info, "no memory for another SA");
	return err;
}

int udp_crypto_nl_sa_add_doit(struct sk_buff *skb, struct genl_info *info)
{
	struct udp_quic_keys keys = {};
	struct sk_buff *msg;
	void *hdr;
	u32 index;
	int err;

	/* first what can fail, so that no SA is made which nobody can name */
	msg = genlmsg_new(nla_total_size(sizeof(index)), GFP_KERNEL);
	if (!msg)
		return -ENOMEM;
	hdr = genlmsg_iput(msg, info);

	err = udp_crypto_nl_sa_add(skb, info, &keys, &index);
	memzero_explicit(&keys, sizeof(keys));
	if (err) {
		nlmsg_free(msg);
		return err;
	}

	/* cannot fail: there is room */
	nla_put_u32(msg, UDP_CRYPTO_A_SA_INDEX, index);
	genlmsg_end(msg, hdr);
	err = genlmsg_reply(msg, info);
	if (err) {
		GENL_SET_ERR_MSG(info, "no room for the reply in the receive buffer");
		udp_sa_del_index(genl_info_net(info), index);
	}
	return err;
}

static int udp_crypto_nl_no_sa(struct genl_info *info, struct nlattr *attr)
{
	NL_SET_ERR_MSG_ATTR(info->extack, attr, "no SA has that index");
	return -ENOENT;
}

int udp_crypto_nl_sa_del_doit(struct sk_buff *skb, struct genl_info *info)
{
	struct nlattr *attr;
	int err;

	attr = udp_crypto_nl_need(info, UDP_CRYPTO_A_SA_INDEX, "index");
	if (!attr)
		return -EINVAL;
	err = udp_sa_del_index(genl_info_net(info), nla_get_u32(attr));
	if (err == -ENOENT)
		return udp_crypto_nl_no_sa(info, attr);
	if (err)
		NL_SET_ERR_MSG_ATTR(info->extack, attr,
				    "the SA belongs to a socket, and ends with that");
	return err;
}

int udp_crypto_nl_sa_get_doit(struct sk_buff *skb, struct genl_info *info)
{
	struct udp_crypto_net *un = udp_crypto_pernet(genl_info_net(info));
	struct nlattr *attr;
	struct udp_sa *sa;
	struct sk_buff *msg;
	int err;

	attr = udp_crypto_nl_need(info, UDP_CRYPTO_A_SA_INDEX, "index");
	if (!attr)
		return -EINVAL;
	msg = genlmsg_new(NLMSG_DEFAULT_SIZE, GFP_KERNEL);
	if (!msg)
		return -ENOMEM;

	mutex_lock(&un->lock);
	sa = udp_sa_lookup(un, nla_get_u32(attr));
	err = sa ? udp_crypto_nl_put_sa(msg, genlmsg_iput(msg, info),
					udp_crypto_nl_user_ns(skb), sa) :
		   udp_crypto_nl_no_sa(info, attr);
	mutex_unlock(&un->lock);
	if (!err)
		return genlmsg_reply(msg, info);
	nlmsg_free(msg);
	return err;
}

/* One message buffer full at a time; the table may change in between, which
 * the reader is told.
 */
int udp_crypto_nl_sa_get_dumpit(struct sk_buff *skb,
				struct netlink_callback *cb)
{
	struct udp_crypto_net *un = udp_crypto_pernet(sock_net(skb->sk));
	struct user_namespace *user_ns = udp_crypto_nl_user_ns(cb->skb);
	struct udp_crypto_nl_dump *dump = udp_crypto_nl_dump(cb);
	const struct genl_info *info = genl_info_dump(cb);
	struct udp_sa *sa;
	int err = 0;

	mutex_lock(&un->lock);
	cb->seq = un->changes;
	while ((sa = udp_sa_table_next(un, &dump->next))) {
		void *hdr = __genlmsg_iput(skb, info, NLM_F_MULTI);

		if (hdr)
			genl_dump_check_consistent(cb, hdr);
		err = udp_crypto_nl_put_sa(skb, hdr, user_ns, sa);
		if (err)
			break;
		dump->next++;
	}
	mutex_unlock(&un->lock);
	return err;
}

int udp_crypto_nl_sa_flush_doit(struct sk_buff *skb, struct genl_info *info)
{
	struct nlattr *attr = info->attrs[UDP_CRYPTO_A_SA_UID];
	kuid_t uid = INVALID_UID;
	struct sk_buff *msg;
	void *hdr;
	int err;

	if (attr) {
		err = udp_crypto_nl_uid(skb, info, attr, &uid);
		if (err)
			return err;
	}
	msg = genlmsg_new(NLMSG_DEFAULT_SIZE, GFP_KERNEL);
	if (!msg)
		return -ENOMEM;
	hdr = genlmsg_iput(msg, info);
	/* cannot fail: the message is empty */
	nla_put_u32(msg, UDP_CRYPTO_A_SA_COUNT,
		    udp_sa_flush(genl_info_net(info), uid));
	genlmsg_end(msg, hdr);
	return genlmsg_reply(msg, info);
}

/* --- statistics -------------------------------------------------------------- */

static const u8 udp_crypto_nl_stats[UDP_CRYPTO_MIB_MAX] = {
	[UDP_CRYPTO_MIB_TXPACKETS]	= UDP_CRYPTO_A_STATS_TX_PACKETS,
	[UDP_CRYPTO_MIB_TXBYTES]	= UDP_CRYPTO_A_STATS_TX_BYTES,
	[UDP_CRYPTO_MIB_TXSENDS]	= UDP_CRYPTO_A_STATS_TX_SENDS,
	[UDP_CRYPTO_MIB_TXGSOSENDS]	= UDP_CRYPTO_A_STATS_TX_GSO_SENDS,
	[UDP_CRYPTO_MIB_TXSOFTWARE]	= UDP_CRYPTO_A_STATS_TX_SOFTWARE,
	[UDP_CRYPTO_MIB_TXSOFTWARELATE]	= UDP_CRYPTO_A_STATS_TX_SOFTWARE_LATE,
	[UDP_CRYPTO_MIB_TXDEVICE]	= UDP_CRYPTO_A_STATS_TX_DEVICE,
	[UDP_CRYPTO_MIB_TXLOST]		= UDP_CRYPTO_A_STATS_TX_LOST,
	[UDP_CRYPTO_MIB_DROPNOSA]	= UDP_CRYPTO_A_STATS_DROP_NO_SA,
	[UDP_CRYPTO_MIB_DROPNOKEYS]	= UDP_CRYPTO_A_STATS_DROP_NO_KEYS,
	[UDP_CRYPTO_MIB_DROPNOMEM]	= UDP_CRYPTO_A_STATS_DROP_NO_MEM,
	[UDP_CRYPTO_MIB_DROPCHANGED]	= UDP_CRYPTO_A_STATS_DROP_CHANGED,
	[UDP_CRYPTO_MIB_DROPERROR]	= UDP_CRYPTO_A_STATS_DROP_ERROR,
	[UDP_CRYPTO_MIB_SAADDED]	= UDP_CRYPTO_A_STATS_SA_ADDED,
	[UDP_CRYPTO_MIB_SADELETED]	= UDP_CRYPTO_A_STATS_SA_DELETED,
};

int udp_crypto_nl_stats_get_doit(struct sk_buff *skb, struct genl_info *info)
{
	struct udp_crypto_net *un = udp_crypto_pernet(genl_info_net(info));
	unsigned long counters[UDP_CRYPTO_MIB_MAX];
	struct sk_buff *msg;
	unsigned int i;
	void *hdr;

	msg = genlmsg_new(NLMSG_DEFAULT_SIZE, GFP_KERNEL);
	if (!msg)
		return -ENOMEM;
	hdr = genlmsg_iput(msg, info);
	if (!hdr)
		goto err_free;

	udp_crypto_stats_read(un, counters);
	for (i = 0; i < ARRAY_SIZE(counters); i++)
		if (nla_put_uint(msg, udp_crypto_nl_stats[i], counters[i]))
			goto err_free;
	if (nla_put_u32(msg, UDP_CRYPTO_A_STATS_SA_COUNT,
			READ_ONCE(un->count)) ||
	    nla_put_u32(msg, UDP_CRYPTO_A_STATS_SA_MAX,
			READ_ONCE(un->max_sa)) ||
	    nla_put_u32(msg, UDP_CRYPTO_A_STATS_TX_GSO_MAX_SEGS,
			READ_ONCE(un->gso_max_segs)))
		goto err_free;
	genlmsg_end(msg, hdr);
	return genlmsg_reply(msg, info);

err_free:
	nlmsg_free(msg);
	return -EMSGSIZE;
}

static int __init udp_crypto_nl_init(void)
{
	return udp_crypto_on ? genl_register_family(&udp_crypto_nl_family) : 0;
}
device_initcall(udp_crypto_nl_init);
