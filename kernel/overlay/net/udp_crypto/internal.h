/* SPDX-License-Identifier: GPL-2.0 */
#ifndef _UDP_CRYPTO_INTERNAL_H
#define _UDP_CRYPTO_INTERNAL_H

#include <linux/mutex.h>
#include <linux/rhashtable.h>
#include <linux/xarray.h>
#include <net/net_namespace.h>
#include <net/snmp.h>
#include <net/udp_crypto.h>

/* One index is given out again only after 16 million others. */
#define UDP_SA_INDEX_MAX	((1U << 24) - 1)
#define UDP_SA_DEFAULT_MAX	1048576U
#define UDP_SA_DEFAULT_MAX_UID	262144U
#define UDP_SA_MAX_MAX		8388608U

/* Socket options may grow, but not without end: so much is looked through for
 * bytes that are not zero.
 */
#define UDP_CRYPTO_OPTION_MAX	4096U

#define UDP_CRYPTO_SA_FLAGS	(UDP_CRYPTO_SA_F_SAME_UID | \
				 UDP_CRYPTO_SA_F_GUARD_PN)
#define UDP_CRYPTO_CMSG_FLAGS	UDP_QUIC_CRYPTO_F_TAG_ROOM

/* A header protection sample starts this far behind the start of the packet
 * number, however long that is (RFC 9001 section 5.4.2).
 */
#define UDP_QUIC_SAMPLE_OFFSET	4

/* Bytes of the packet key and of the header protection key; 0: no cipher. */
static inline unsigned int udp_quic_key_len(u16 cipher)
{
	switch (cipher) {
	case UDP_QUIC_CIPHER_AES_128_GCM:
	case UDP_QUIC_CIPHER_AES_128_CCM:
		return 16;
	case UDP_QUIC_CIPHER_AES_256_GCM:
	case UDP_QUIC_CIPHER_CHACHA20_POLY1305:
		return 32;
	}
	return 0;
}

enum {
	UDP_CRYPTO_MIB_TXPACKETS,	/* QUIC packets taken from senders */
	UDP_CRYPTO_MIB_TXBYTES,		/* their bytes, tags included */
	UDP_CRYPTO_MIB_TXSENDS,		/* messages they came in */
	UDP_CRYPTO_MIB_TXGSOSENDS,	/* those of more than one packet */
	UDP_CRYPTO_MIB_TXSOFTWARE,	/* packets the kernel protected */
	UDP_CRYPTO_MIB_TXSOFTWARELATE,	/* those below the socket */
	UDP_CRYPTO_MIB_TXDEVICE,	/* packets left to devices */
	UDP_CRYPTO_MIB_TXLOST,		/* packets IP had an error for */
	UDP_CRYPTO_MIB_DROPNOSA,	/* SA deleted meanwhile */
	UDP_CRYPTO_MIB_DROPNOKEYS,	/* software ciphers not set up yet */
	UDP_CRYPTO_MIB_DROPNOMEM,	/* no memory below the socket */
	UDP_CRYPTO_MIB_DROPCHANGED,	/* payload not where it was */
	UDP_CRYPTO_MIB_DROPERROR,	/* anything else */
	UDP_CRYPTO_MIB_SAADDED,
	UDP_CRYPTO_MIB_SADELETED,
	UDP_CRYPTO_MIB_MAX
};

struct udp_crypto_mib {
	unsigned long mibs[UDP_CRYPTO_MIB_MAX];
};

/**
 * struct udp_sa_table - SAs by the lowest bits of their index
 * @mask: those bits
 * @slots: @mask + 1 SAs, or NULL
 * @rcu: from the table that is twice as large to the end
 */
struct udp_sa_table {
	u32			mask;
	struct udp_sa __rcu	**slots;
	struct rcu_head		rcu;
};

/**
 * struct udp_crypto_net - security associations of a network namespace
 * @sas: by index, NULL before the first; read under RCU, see table.c
 * @by_cookie: by owner and cookie
 * @by_uid: how many SAs the sockets of a uid have, if any
 * @lock: for changes of all three, and of the sockets' lists
 * @net: the network namespace
 * @next: index that the next SA gets, or one soon after it
 * @changes: of @sas, counted so that a dump notices; never 0; under @lock
 * @count: SAs in @sas, under @lock
 * @max_sa: sysctl net.ipv4.udp_crypto_max_sa
 * @max_sa_uid: sysctl net.ipv4.udp_crypto_max_sa_per_uid
 * @waiting: packets in the queue of those whose ciphers are not set up
 * @gso_max_segs: largest batch seen
 * @mib: counters for /proc/net/udp_crypto_stat
 */
struct udp_crypto_net {
	struct udp_sa_table __rcu *sas;
	struct rhashtable	by_cookie;
	struct xarray		by_uid;
	struct mutex		lock;	/* the three tables, sockets' lists */
	possible_net_t		net;
	u32			next;
	unsigned int		changes;
	unsigned int		count;
	unsigned int		max_sa;
	unsigned int		max_sa_uid;
	atomic_t		waiting;
	unsigned int		gso_max_segs;
	DEFINE_SNMP_STAT(struct udp_crypto_mib, mib);
	struct ctl_table_header	*sysctl;
};

/* Namespaces have a struct udp_crypto_net: without one nothing works, and
 * sockets are as in a kernel without CONFIG_UDP_CRYPTO.
 */
extern bool udp_crypto_on;
struct udp_crypto_net *udp_crypto_pernet(const struct net *net);

#define UDP_CRYPTO_ADD_STATS(un, field, n) \
	SNMP_ADD_STATS((un)->mib, UDP_CRYPTO_MIB_##field, n)
#define UDP_CRYPTO_INC_STATS(un, field) UDP_CRYPTO_ADD_STATS(un, field, 1)

void udp_crypto_stats_read(const struct udp_crypto_net *un,
			   unsigned long counters[UDP_CRYPTO_MIB_MAX]);
int udp_crypto_stats_init(struct net *net, struct udp_crypto_net *un);
void udp_crypto_stats_exit(struct net *net, struct udp_crypto_net *un);

/* sadb.c */
int udp_quic_keys_check(const struct udp_quic_keys *keys);
struct udp_sa *udp_sa_alloc(const struct udp_quic_keys *keys, gfp_t gfp);
void udp_sa_put(struct udp_sa *sa);
void udp_sa_discard(struct udp_sa *sa);
void udp_sa_build_later(struct udp_sa *sa);
int udp_sa_add(struct sock *sk, const struct udp_crypto_sa *req);
int udp_sa_del(struct sock *sk, u64 cookie);
int udp_sa_info(struct sock *sk, u64 cookie, struct udp_crypto_sa_info *info);
void udp_sa_describe(struct udp_sa *sa, struct udp_crypto_sa_info *info);
int udp_sa_add_for_uid(struct net *net, const struct udp_quic_keys *keys,
		       kuid_t uid, u64 packet_limit, u32 *index);
int udp_sa_del_index(struct net *net, u32 index);
unsigned int udp_sa_flush(struct net *net, kuid_t uid);

/* table.c */
int udp_sa_table_reserve(struct udp_crypto_net *un, u32 *index);
void udp_sa_table_insert(struct udp_crypto_net *un, struct udp_sa *sa);
void udp_sa_table_remove(struct udp_crypto_net *un, struct udp_sa *sa);
struct udp_sa *udp_sa_table_next(const struct udp_crypto_net *un,
				 unsigned long *slot);
void udp_sa_table_free(struct udp_crypto_net *un);

/**
 * udp_sa_lookup() - the SA of an index
 * @un: of the network namespace
 * @index: from user space
 *
 * Under RCU, and the SA is good until that ends, whatever happens to it; or
 * under @un->lock.
 * Return: the SA or NULL.
 */
static inline struct udp_sa *udp_sa_lookup(const struct udp_crypto_net *un,
					   u32 index)
{
	const struct udp_sa_table *table;
	struct udp_sa *sa;

	table = rcu_dereference_check(un->sas, lockdep_is_held(&un->lock));
	if (unlikely(!table))
		return NULL;
	/* no more bits than there are places: nothing to speculate about */
	sa = rcu_dereference_check(table->slots[index & table->mask],
				   lockdep_is_held(&un->lock));
	return likely(sa && sa->index == index) ? sa : NULL;
}

/* netlink.c */
void udp_crypto_nl_notify(struct udp_crypto_net *un, struct udp_sa *sa,
			  u8 cmd);

/* send.c */
bool udp_sa_permits(const struct udp_sa *sa, const struct sock *sk);

/* guard.c */
struct udp_crypto_guard *udp_crypto_guard_alloc(void);
void udp_crypto_guard_free(struct udp_crypto_guard *guard);
int udp_crypto_guard_take(struct udp_crypto_guard *guard, u64 pn,
			  unsigned int n);
void udp_crypto_guard_untake(struct udp_crypto_guard *guard, u64 pn,
			     unsigned int n);

/* device.c */
void udp_crypto_sa_deleted(struct udp_sa *sa);
u32 udp_crypto_sa_where(struct udp_sa *sa, u32 *ifindex);
void __udp_crypto_sa_took(struct net *net, struct udp_sa *sa,
			  const struct net_device *dev);

/* Packets of @sa have gone to @dev, or NULL: to software. Inline keys have no
 * history.
 */
static inline void udp_crypto_sa_took(struct net *net, struct udp_sa *sa,
				      const struct net_device *dev)
{
	u8 path = READ_ONCE(sa->path);
	bool to_device = path > UDP_CRYPTO_SA_SOFTWARE;

	if (unlikely(!path || to_device != !!dev) && sa->index)
		__udp_crypto_sa_took(net, sa, dev);
}

/* software.c */

/* Where an encryption runs. In process context any implementation of a cipher
 * will do, asynchronous ones included (on x86 the AES-NI ones are registered
 * as such); elsewhere only synchronous ones can be used.
 */
enum udp_crypto_context {
	UDP_CRYPTO_MAY_SLEEP,
	UDP_CRYPTO_ATOMIC,
};

u32 udp_crypto_sw_ciphers(void);
bool udp_crypto_sw_has(u16 cipher);
int udp_crypto_sw_build(struct udp_sa *sa, enum udp_crypto_context context);
void udp_crypto_sw_free(struct udp_crypto_sw *sw);
int udp_crypto_sw_encrypt(struct udp_sa *sa, struct sk_buff *skb,
			  unsigned int payload, unsigned int seg_size, u64 pn,
			  u16 pn_offset, enum udp_crypto_context context);

#endif /* _UDP_CRYPTO_INTERNAL_H */
