// SPDX-License-Identifier: GPL-2.0
/*
 * Which devices have a security association in a database of their own, and
 * what becomes of it there when the SA is deleted.
 */
#include <linux/netdevice.h>

#include "internal.h"
#include <trace/events/udp_crypto.h>

/* How many times as many SAs as there is room left a user may have. */
#define UDP_CRYPTO_SHARE 8

/**
 * udp_crypto_hold() - a device begins to keep an SA
 * @holder: the device's, good until udp_crypto_release()
 * @dev: has udp_crypto_ops with sa_deleted and sa_state
 * @sa: found under RCU, not one of inline keys
 *
 * The SA and its keys stay readable until the holder is released. Any context
 * but hard interrupt.
 * Return: false, with nothing done, when the SA has been deleted or the device
 * keeps it already.
 */
bool udp_crypto_hold(struct udp_crypto_holder *holder, struct net_device *dev,
		     struct udp_sa *sa)
{
	bool hold;

	spin_lock_bh(&sa->holders_lock);
	/* two processors may meet it for the first time at once */
	hold = !sa->deleted && !udp_crypto_holder_of(sa, dev) &&
	       refcount_inc_not_zero(&sa->refs);
	if (hold) {
		holder->dev = dev;
		holder->sa = sa;
		hlist_add_head_rcu(&holder->node, &sa->holders);
	}
	spin_unlock_bh(&sa->holders_lock);
	return hold;
}
EXPORT_SYMBOL_GPL(udp_crypto_hold);

/**
 * udp_crypto_release() - the device has forgotten an SA
 * @holder: no callback for it is under way when this returns, nor comes later;
 *	udp_crypto_holder_of() may have found it: free it after a grace period
 *
 * Any context but hard interrupt, without locks that the callbacks take.
 */
void udp_crypto_release(struct udp_crypto_holder *holder)
{
	struct udp_sa *sa = holder->sa;

	spin_lock_bh(&sa->holders_lock);
	hlist_del_rcu(&holder->node);
	spin_unlock_bh(&sa->holders_lock);
	udp_sa_put(sa);
}
EXPORT_SYMBOL_GPL(udp_crypto_release);

/**
 * udp_crypto_sa_deleted() - tell the devices that have an SA
 * @sa: not to be found by index any more; no device takes it from now on
 */
void udp_crypto_sa_deleted(struct udp_sa *sa)
{
	struct udp_crypto_holder *holder;

	spin_lock_bh(&sa->holders_lock);
	sa->deleted = true;
	hlist_for_each_entry(holder, &sa->holders, node)
		holder->dev->udp_crypto_ops->sa_deleted(holder);
	spin_unlock_bh(&sa->holders_lock);
}

/**
 * udp_crypto_sa_where() - who does the work for an SA
 * @sa: not freed
 * @ifindex: of the device, or 0
 *
 * Return: enum udp_crypto_sa_state; of several devices the best one's.
 */
u32 udp_crypto_sa_where(struct udp_sa *sa, u32 *ifindex)
{
	u32 best = UDP_CRYPTO_SA_SOFTWARE;
	struct udp_crypto_holder *holder;

	*ifindex = 0;
	spin_lock_bh(&sa->holders_lock);
	hlist_for_each_entry(holder, &sa->holders, node) {
		u32 state = UDP_CRYPTO_SA_SOFTWARE;

		if (holder->dev->features & NETIF_F_HW_UDP_CRYPTO_TX)
			state = holder->dev->udp_crypto_ops->sa_state(holder);
		if (state > best) {
			best = state;
			*ifindex = holder->dev->ifindex;
		}
	}
	spin_unlock_bh(&sa->holders_lock);
	return best;
}

static void udp_crypto_sa_path(struct net *net, struct udp_sa *sa, u32 path,
			       int ifindex)
{
	/* two senders may both see it; told twice is better than not at all */
	if (READ_ONCE(sa->path) == path)
		return;
	WRITE_ONCE(sa->path, path);
	trace_udp_crypto_sa_path(net, sa, path, ifindex);
}

void __udp_crypto_sa_took(struct net *net, struct udp_sa *sa,
			  const struct net_device *dev)
{
	u32 path = UDP_CRYPTO_SA_SOFTWARE;
	u32 ifindex;

	if (!dev) {
		udp_crypto_sa_path(net, sa, path, 0);
		return;
	}
	path = udp_crypto_sa_where(sa, &ifindex);
	/* one that keeps no SAs gets the keys with each packet */
	if (path == UDP_CRYPTO_SA_SOFTWARE)
		path = UDP_CRYPTO_SA_INLINE;
	udp_crypto_sa_path(net, sa, path, dev->ifindex);
}

/**
 * udp_crypto_sa_moved() - an SA has got into a device's database, or out of it
 * @holder: the device's
 * @path: UDP_CRYPTO_SA_DEVICE, or what packets take from now on
 *
 * For those who trace. Any context but hard interrupt.
 */
void udp_crypto_sa_moved(struct udp_crypto_holder *holder, u32 path)
{
	if (!READ_ONCE(holder->sa->deleted))
		udp_crypto_sa_path(dev_net(holder->dev), holder->sa, path,
				   holder->dev->ifindex);
}
EXPORT_SYMBOL_GPL(udp_crypto_sa_moved);

/**
 * udp_crypto_lower_ready() - sa_ready of a device on top of another
 * @lower: that packets go on to
 * @sa: as with sa_ready
 */
bool udp_crypto_lower_ready(struct net_device *lower, struct udp_sa *sa)
{
	return lower->features & NETIF_F_HW_UDP_CRYPTO_TX &&
	       lower->udp_crypto_ops &&
	       lower->udp_crypto_ops->sa_ready(lower, sa);
}
EXPORT_SYMBOL_GPL(udp_crypto_lower_ready);

/**
 * udp_crypto_lower_caps() - caps of a device on top of another
 * @lower: that packets go on to, which has udp_crypto_ops with caps or can
 *	nothing
 * @caps: filled in, its database too: the device on top has none
 *
 * Under RTNL.
 */
void udp_crypto_lower_caps(struct net_device *lower,
			   struct udp_crypto_dev_caps *caps)
{
	const struct udp_crypto_ops *ops = lower->udp_crypto_ops;

	if (ops && ops->caps)
		ops->caps(lower, caps);
}
EXPORT_SYMBOL_GPL(udp_crypto_lower_caps);

/* Of a socket of an unprivileged user. The rest is the administrator's affair. */
static bool udp_crypto_shares_limits(const struct udp_sa *sa)
{
	return sa->key.sk && !uid_eq(sa->uid, GLOBAL_ROOT_UID);
}

static unsigned long udp_crypto_shares_of(struct udp_crypto_shares *shares,
					  const struct udp_sa *sa)
{
	return xa_to_value(xa_load(&shares->users, __kuid_val(sa->uid)));
}

/**
 * udp_crypto_shares_init() - an empty database
 * @shares: to be destroyed with xa_destroy(&@shares->users), if at all
 * @size: SAs that it has room for, or 0
 */
void udp_crypto_shares_init(struct udp_crypto_shares *shares, unsigned int size)
{
	shares->size = size;
	shares->used = 0;
	xa_init(&shares->users);
}
EXPORT_SYMBOL_GPL(udp_crypto_shares_init);

/**
 * udp_crypto_shares_may() - is there a place in the database for an SA?
 * @shares: of the device
 * @sa: not freed
 *
 * Any context in which @shares does not change.
 */
bool udp_crypto_shares_may(struct udp_crypto_shares *shares,
			   const struct udp_sa *sa)
{
	unsigned long count, left;

	if (!shares->size || !udp_crypto_shares_limits(sa))
		return true;
	if (shares->used >= shares->size)
		return false;
	left = shares->size - shares->used;
	count = udp_crypto_shares_of(shares, sa);
	return !count || count < UDP_CRYPTO_SHARE * (left - 1);
}
EXPORT_SYMBOL_GPL(udp_crypto_shares_may);

/**
 * udp_crypto_shares_take() - an SA is about to be put into the database
 * @shares: of the device
 * @sa: that the device holds
 *
 * Process context.
 * Return: 0, -ENOSPC if that would be more than the user's share, -ENOMEM.
 */
int udp_crypto_shares_take(struct udp_crypto_shares *shares,
			   const struct udp_sa *sa)
{
	int err;

	if (!udp_crypto_shares_may(shares, sa))
		return -ENOSPC;
	if (udp_crypto_shares_limits(sa)) {
		unsigned long count = udp_crypto_shares_of(shares, sa);

		err = xa_err(xa_store(&shares->users, __kuid_val(sa->uid),
				      xa_mk_value(count + 1), GFP_KERNEL));
		if (err)
			return err;
	}
	shares->used++;
	return 0;
}
EXPORT_SYMBOL_GPL(udp_crypto_shares_take);

/**
 * udp_crypto_shares_give() - an SA has left the database, or did not get there
 * @shares: of the device
 * @sa: after udp_crypto_shares_take(), before udp_crypto_release()
 *
 * Process context.
 */
void udp_crypto_shares_give(struct udp_crypto_shares *shares,
			    const struct udp_sa *sa)
{
	shares->used--;
	if (udp_crypto_shares_limits(sa)) {
		unsigned long count = udp_crypto_shares_of(shares, sa) - 1;

		/* neither allocates: the entry is there */
		if (count)
			xa_store(&shares->users, __kuid_val(sa->uid),
				 xa_mk_value(count), GFP_KERNEL);
		else
			xa_erase(&shares->users, __kuid_val(sa->uid));
	}
}
EXPORT_SYMBOL_GPL(udp_crypto_shares_give);
