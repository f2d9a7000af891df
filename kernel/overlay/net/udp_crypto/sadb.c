// SPDX-License-Identifier: GPL-2.0
/*
 * The table of security associations of a network namespace: who made an SA,
 * by which number it is found, and its life.
 */
#include <linux/cred.h>
#include <linux/slab.h>
#include <linux/udp.h>
#include <net/net_namespace.h>
#include <net/netns/generic.h>
#include <net/sock.h>

#include "internal.h"
#include "netlink-gen.h"

#define CREATE_TRACE_POINTS
#include <trace/events/udp_crypto.h>

bool udp_crypto_on __ro_after_init;
static unsigned int udp_crypto_net_id __read_mostly;
static struct kmem_cache *udp_sa_cache __ro_after_init;

static const struct rhashtable_params udp_sa_params = {
	.key_len	= sizeof(struct udp_sa_key),
	.key_offset	= offsetof(struct udp_sa, key),
	.head_offset	= offsetof(struct udp_sa, node),
	.automatic_shrinking = true,
};

struct udp_crypto_net *udp_crypto_pernet(const struct net *net)
{
	return net_generic(net, udp_crypto_net_id);
}

/**
 * udp_quic_keys_check() - are these keys that the kernel can work with?
 * @keys: copied from user space
 *
 * Process context: may load a module.
 * Return: 0 or the errors of struct udp_quic_keys.
 */
int udp_quic_keys_check(const struct udp_quic_keys *keys)
{
	unsigned int len = udp_quic_key_len(keys->cipher);

	if (!len)
		return -EOPNOTSUPP;
	if (keys->reserved ||
	    memchr_inv(keys->key + len, 0, sizeof(keys->key) - len) ||
	    memchr_inv(keys->hp_key + len, 0, sizeof(keys->hp_key) - len))
		return -EINVAL;
	if (!udp_crypto_sw_has(keys->cipher))
		return -ENOPKG;
	return 0;
}

/**
 * udp_sa_alloc() - a new SA that nothing knows of yet
 * @keys: checked
 * @gfp: for the memory
 *
 * Return: the SA with one reference, the caller's; or NULL.
 */
struct udp_sa *udp_sa_alloc(const struct udp_quic_keys *keys, gfp_t gfp)
{
	struct udp_sa *sa;

	sa = kmem_cache_zalloc(udp_sa_cache, gfp);
	if (!sa)
		return NULL;
	sa->keys = *keys;
	spin_lock_init(&sa->holders_lock);
	refcount_set(&sa->refs, 1);
	return sa;
}

static void udp_sa_free(struct udp_sa *sa)
{
	udp_crypto_sw_free(sa->sw[UDP_CRYPTO_MAY_SLEEP]);
	udp_crypto_sw_free(sa->sw[UDP_CRYPTO_ATOMIC]);
	udp_crypto_guard_free(sa->guard);
	memzero_explicit(sa, sizeof(*sa));
	kmem_cache_free(udp_sa_cache, sa);
}

/* Ciphers are set up and freed in process context only. */
static LLIST_HEAD(udp_sa_garbage);
static LLIST_HEAD(udp_sa_to_build);

static void udp_sa_work(struct work_struct *work)
{
	struct udp_sa *sa, *next;

	llist_for_each_entry_safe(sa, next, llist_del_all(&udp_sa_to_build),
				  work) {
		udp_crypto_sw_build(sa, UDP_CRYPTO_ATOMIC);
		clear_bit_unlock(0, &sa->building);
		udp_sa_put(sa);
		cond_resched();
	}
	llist_for_each_entry_safe(sa, next, llist_del_all(&udp_sa_garbage),
				  work) {
		udp_sa_free(sa);
		cond_resched();
	}
}

static DECLARE_WORK(udp_sa_worker, udp_sa_work);

static void udp_sa_free_rcu(struct rcu_head *rcu)
{
	struct udp_sa *sa = container_of(rcu, struct udp_sa, rcu);

	if (!sa->sw[UDP_CRYPTO_MAY_SLEEP] && !sa->sw[UDP_CRYPTO_ATOMIC])
		udp_sa_free(sa);
	else if (llist_add(&sa->work, &udp_sa_garbage))
		schedule_work(&udp_sa_worker);
}

/**
 * udp_sa_put() - give back a reference
 * @sa: may be freed, a grace period later
 *
 * Any context.
 */
void udp_sa_put(struct udp_sa *sa)
{
	if (refcount_dec_and_test(&sa->refs))
		call_rcu(&sa->rcu, udp_sa_free_rcu);
}

/**
 * udp_sa_discard() - free an SA that nobody else has ever seen
 * @sa: no reference but the caller's was ever taken
 *
 * Process context. A sender that brings its keys with every message frees what
 * it has made: it can not be faster than a worker that frees behind it.
 */
void udp_sa_discard(struct udp_sa *sa)
{
	WARN_ON_ONCE(refcount_read(&sa->refs) != 1);
	udp_sa_free(sa);
}

/**
 * udp_sa_build_later() - set up the ciphers that an atomic context missed
 * @sa: found under RCU
 */
void udp_sa_build_later(struct udp_sa *sa)
{
	if (test_and_set_bit_lock(0, &sa->building))
		return;
	if (!refcount_inc_not_zero(&sa->refs))
		return;
	if (llist_add(&sa->work, &udp_sa_to_build))
		schedule_work(&udp_sa_worker);
}

static struct udp_sa *udp_sa_find(struct udp_crypto_net *un, struct sock *sk,
				  u64 cookie)
{
	struct udp_sa_key key;

	lockdep_assert_held(&un->lock);
	/* all of it is compared, padding too */
	memset(&key, 0, sizeof(key));
	key.sk = sk;
	key.cookie = cookie;
	return rhashtable_lookup_fast(&un->by_cookie, &key, udp_sa_params);
}

/* What was dumped so far, and what follows, may no longer fit together. */
static void udp_sa_table_changed(struct udp_crypto_net *un)
{
	/* 0 tells the dump code not to look */
	if (!++un->changes)
		un->changes = 1;
}

/* Counts an SA of a socket as its user's. -EDQUOT: that has too many. */
static int udp_sa_charge_uid(struct udp_crypto_net *un, kuid_t uid)
{
	unsigned long index = __kuid_val(uid);
	void *entry = xa_load(&un->by_uid, index);
	unsigned long count = entry ? xa_to_value(entry) : 0;

	lockdep_assert_held(&un->lock);
	if (count >= READ_ONCE(un->max_sa_uid))
		return -EDQUOT;
	return xa_err(xa_store(&un->by_uid, index, xa_mk_value(count + 1),
			       GFP_KERNEL_ACCOUNT));
}

static void udp_sa_uncharge_uid(struct udp_crypto_net *un, kuid_t uid)
{
	unsigned long index = __kuid_val(uid);
	unsigned long count = xa_to_value(xa_load(&un->by_uid, index));

	lockdep_assert_held(&un->lock);
	if (count > 1)
		/* cannot fail: there is an entry */
		xa_store(&un->by_uid, index, xa_mk_value(count - 1), GFP_KERNEL);
	else
		xa_erase(&un->by_uid, index);
}

/* Makes an SA of a socket known to that. */
static int udp_sa_insert_socket(struct udp_crypto_net *un, struct udp_sa *sa)
{
	int err;

	err = udp_sa_charge_uid(un, sa->uid);
	if (err)
		return err;
	if (rhashtable_insert_fast(&un->by_cookie, &sa->node, udp_sa_params)) {
		udp_sa_uncharge_uid(un, sa->uid);
		return -ENOMEM;
	}
	hlist_add_head(&sa->siblings, &udp_sk(sa->key.sk)->crypto_sas);
	return 0;
}

/* Gives a whole SA its number, and makes it known. */
static int udp_sa_insert(struct udp_crypto_net *un, struct udp_sa *sa)
{
	static atomic64_t generation;
	int err;

	lockdep_assert_held(&un->lock);
	if (un->count >= READ_ONCE(un->max_sa))
		return -ENOSPC;

	err = udp_sa_table_reserve(un, &sa->index);
	if (err)
		return err;
	if (sa->key.sk) {
		err = udp_sa_insert_socket(un, sa);
		if (err)
			return err;
	}
	sa->gen = atomic64_inc_return(&generation);
	udp_sa_table_insert(un, sa);
	udp_sa_table_changed(un);
	UDP_CRYPTO_INC_STATS(un, SAADDED);
	trace_udp_crypto_sa_add(read_pnet(&un->net), sa);
	udp_crypto_nl_notify(un, sa, UDP_CRYPTO_CMD_SA_ADD_NTF);
	return 0;
}

/**
 * udp_sa_add() - make an SA for a socket
 * @sk: owner
 * @req: keys and fields checked
 *
 * Process context.
 * Return: 0, or the errors of struct udp_crypto_sa with nothing changed.
 */
int udp_sa_add(struct sock *sk, const struct udp_crypto_sa *req)
{
	struct udp_crypto_net *un = udp_crypto_pernet(sock_net(sk));
	struct udp_sa *sa;
	int err;

	sa = udp_sa_alloc(&req->keys, GFP_KERNEL_ACCOUNT);
	if (!sa)
		return -ENOMEM;
	sa->key.sk = sk;
	sa->key.cookie = req->req.cookie;
	sa->uid = sk->sk_uid;
	sa->flags = req->req.flags;
	sa->packet_limit = req->packet_limit;
	if (sa->flags & UDP_CRYPTO_SA_F_GUARD_PN) {
		sa->guard = udp_crypto_guard_alloc();
		if (!sa->guard) {
			udp_sa_discard(sa);
			return -ENOMEM;
		}
	}

	mutex_lock(&un->lock);
	err = -EEXIST;
	if (!udp_sa_find(un, sk, req->req.cookie))
		err = udp_sa_insert(un, sa);
	mutex_unlock(&un->lock);
	if (err)
		udp_sa_discard(sa);
	return err;
}

static void udp_sa_unlink(struct udp_crypto_net *un, struct udp_sa *sa)
{
	lockdep_assert_held(&un->lock);
	udp_sa_table_remove(un, sa);
	if (sa->key.sk) {
		rhashtable_remove_fast(&un->by_cookie, &sa->node,
				       udp_sa_params);
		hlist_del(&sa->siblings);
		udp_sa_uncharge_uid(un, sa->uid);
	}
	udp_sa_table_changed(un);
	UDP_CRYPTO_INC_STATS(un, SADELETED);
	trace_udp_crypto_sa_del(read_pnet(&un->net), sa);
	udp_crypto_nl_notify(un, sa, UDP_CRYPTO_CMD_SA_DEL_NTF);
	udp_crypto_sa_deleted(sa);
	udp_sa_put(sa);
}

/**
 * udp_sa_del() - delete an SA of a socket
 * @sk: owner
 * @cookie: its name
 *
 * Process context.
 * Return: 0 or -ENOENT.
 */
int udp_sa_del(struct sock *sk, u64 cookie)
{
	struct udp_crypto_net *un = udp_crypto_pernet(sock_net(sk));
	struct udp_sa *sa;

	mutex_lock(&un->lock);
	sa = udp_sa_find(un, sk, cookie);
	if (sa)
		udp_sa_unlink(un, sa);
	mutex_unlock(&un->lock);
	return sa ? 0 : -ENOENT;
}

/**
 * udp_sa_describe() - describe an SA
 * @sa: found under RCU or the table's mutex
 * @info: filled in, but for @info->req.type, op and cookie
 */
void udp_sa_describe(struct udp_sa *sa, struct udp_crypto_sa_info *info)
{
	info->req.flags = sa->flags;
	info->sa = sa->index;
	info->state = udp_crypto_sa_where(sa, &info->ifindex);
	info->cipher = sa->keys.cipher;
	info->packets = atomic64_read(&sa->packets);
	info->bytes = atomic64_read(&sa->bytes);
	info->packets_software = atomic64_read(&sa->packets_sw);
	info->packets_dropped = atomic64_read(&sa->packets_dropped);
	info->packet_limit = sa->packet_limit;
}

/**
 * udp_sa_info() - describe an SA of a socket
 * @sk: owner
 * @cookie: its name
 * @info: filled in, but for @info->req.type, op and cookie
 *
 * Process context.
 * Return: 0 or -ENOENT.
 */
int udp_sa_info(struct sock *sk, u64 cookie, struct udp_crypto_sa_info *info)
{
	struct udp_crypto_net *un = udp_crypto_pernet(sock_net(sk));
	struct udp_sa *sa;

	mutex_lock(&un->lock);
	sa = udp_sa_find(un, sk, cookie);
	if (sa)
		udp_sa_describe(sa, info);
	mutex_unlock(&un->lock);
	return sa ? 0 : -ENOENT;
}

/**
 * udp_sa_add_for_uid() - make an SA that is no socket's
 * @net: network namespace
 * @keys: checked
 * @uid: whose sockets may send with it
 * @packet_limit: or 0
 * @index: gets its number
 *
 * Process context. The SA stays until it is deleted or the namespace ends.
 * Return: 0, or -ENOSPC or -ENOMEM with nothing changed.
 */
int udp_sa_add_for_uid(struct net *net, const struct udp_quic_keys *keys,
		       kuid_t uid, u64 packet_limit, u32 *index)
{
	struct udp_crypto_net *un = udp_crypto_pernet(net);
	struct udp_sa *sa;
	int err;

	sa = udp_sa_alloc(keys, GFP_KERNEL_ACCOUNT);
	if (!sa)
		return -ENOMEM;
	sa->uid = uid;
	sa->flags = UDP_CRYPTO_SA_F_SAME_UID;
	sa->packet_limit = packet_limit;

	mutex_lock(&un->lock);
	err = udp_sa_insert(un, sa);
	if (!err)
		*index = sa->index;
	mutex_unlock(&un->lock);
	if (err)
		udp_sa_discard(sa);
	return err;
}

/**
 * udp_sa_del_index() - delete an SA that is no socket's
 * @net: network namespace
 * @index: its number
 *
 * Process context.
 * Return: 0, -ENOENT, or -EACCES for an SA of a socket.
 */
int udp_sa_del_index(struct net *net, u32 index)
{
	struct udp_crypto_net *un = udp_crypto_pernet(net);
	struct udp_sa *sa;
	int err = 0;

	mutex_lock(&un->lock);
	sa = udp_sa_lookup(un, index);
	if (!sa)
		err = -ENOENT;
	else if (sa->key.sk)
		err = -EACCES;
	else
		udp_sa_unlink(un, sa);
	mutex_unlock(&un->lock);
	return err;
}

/**
 * udp_sa_flush() - delete the SAs that are no socket's
 * @net: network namespace
 * @uid: only those of this user; INVALID_UID for those of all
 *
 * Process context. What is added meanwhile may go, too.
 * Return: how many there were.
 */
unsigned int udp_sa_flush(struct net *net, kuid_t uid)
{
	struct udp_crypto_net *un = udp_crypto_pernet(net);
	unsigned int deleted = 0;
	unsigned long slot = 0;
	struct udp_sa *sa;

	do {
		unsigned int batch = 256;

		mutex_lock(&un->lock);
		while ((sa = udp_sa_table_next(un, &slot)) && batch--) {
			slot++;
			if (sa->key.sk || (uid_valid(uid) && !uid_eq(sa->uid, uid)))
				continue;
			udp_sa_unlink(un, sa);
			deleted++;
		}
		mutex_unlock(&un->lock);
		cond_resched();
	} while (sa);
	return deleted;
}

/**
 * udp_crypto_destroy_sock() - delete the SAs of a socket
 * @sk: called when the last user is gone: no more are added
 *
 * Process context.
 */
void udp_crypto_destroy_sock(struct sock *sk)
{
	struct hlist_head *sas = &udp_sk(sk)->crypto_sas;
	struct udp_crypto_net *un;

	if (hlist_empty(sas))
		return;
	un = udp_crypto_pernet(sock_net(sk));
	while (!hlist_empty(sas)) {
		unsigned int batch = 256;

		mutex_lock(&un->lock);
		while (!hlist_empty(sas) && batch--)
			udp_sa_unlink(un, hlist_entry(sas->first, struct udp_sa,
						      siblings));
		mutex_unlock(&un->lock);
		cond_resched();
	}
}
EXPORT_SYMBOL_GPL(udp_crypto_destroy_sock);

static int __net_init udp_crypto_net_init(struct net *net)
{
	struct udp_crypto_net *un = udp_crypto_pernet(net);
	int err;

	xa_init(&un->by_uid);
	mutex_init(&un->lock);
	write_pnet(&un->net, net);
	un->next = 1;
	un->changes = 1;
	un->max_sa = UDP_SA_DEFAULT_MAX;
	un->max_sa_uid = UDP_SA_DEFAULT_MAX_UID;
	err = rhashtable_init(&un->by_cookie, &udp_sa_params);
	if (err)
		return err;
	err = udp_crypto_stats_init(net, un);
	if (err)
		rhashtable_destroy(&un->by_cookie);
	return err;
}

static void __net_exit udp_crypto_net_exit(struct net *net)
{
	struct udp_crypto_net *un = udp_crypto_pernet(net);

	/* every socket of the namespace is gone, and its SAs with it */
	udp_sa_flush(net, INVALID_UID);
	udp_crypto_stats_exit(net, un);
	rhashtable_destroy(&un->by_cookie);
	WARN_ON_ONCE(!xa_empty(&un->by_uid));
	udp_sa_table_free(un);
}

static struct pernet_operations udp_crypto_net_ops = {
	.init = udp_crypto_net_init,
	.exit = udp_crypto_net_exit,
	.id = &udp_crypto_net_id,
	.size = sizeof(struct udp_crypto_net),
};

static int __init udp_crypto_init(void)
{
	int err = -ENOMEM;

	udp_sa_cache = KMEM_CACHE(udp_sa, 0);
	if (udp_sa_cache)
		err = register_pernet_subsys(&udp_crypto_net_ops);
	if (err) {
		/* the number that namespaces know it by is another's now */
		kmem_cache_destroy(udp_sa_cache);
		pr_err("udp_crypto: not there, error %d\n", err);
		return err;
	}
	udp_crypto_on = true;
	return 0;
}

/* before any socket can be made from user space */
fs_initcall(udp_crypto_init);
