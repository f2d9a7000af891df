// SPDX-License-Identifier: GPL-2.0
/*
 * Security associations by number. Numbers go up, and start again after 16
 * million; the lowest bits of one are its place in an array that is twice as
 * long whenever it gets full. So a search is a few instructions, the same few
 * for one SA and for a million, where each level of an xarray takes 30.
 */
#include <linux/rcupdate.h>
#include <linux/slab.h>

#include "internal.h"

#define UDP_SA_TABLE_MIN	16U
static_assert(UDP_SA_MAX_MAX <= (UDP_SA_INDEX_MAX + 1) / 8 * 7);

static struct udp_sa_table *udp_sa_table(const struct udp_crypto_net *un)
{
	return rcu_dereference_protected(un->sas, lockdep_is_held(&un->lock));
}

static struct udp_sa *udp_sa_table_at(const struct udp_crypto_net *un,
				      const struct udp_sa_table *table, u32 slot)
{
	return rcu_dereference_protected(table->slots[slot],
					 lockdep_is_held(&un->lock));
}

/* The old array stays as it is for those who are reading it. */
static int udp_sa_table_resize(struct udp_crypto_net *un, u32 size)
{
	struct udp_sa_table *old = udp_sa_table(un), *table;
	u32 slot;

	table = kmalloc(sizeof(*table), GFP_KERNEL_ACCOUNT);
	if (!table)
		return -ENOMEM;
	table->mask = size - 1;
	table->slots = kvcalloc(size, sizeof(*table->slots),
				GFP_KERNEL_ACCOUNT);
	if (!table->slots) {
		kfree(table);
		return -ENOMEM;
	}
	for (slot = 0; old && slot <= old->mask; slot++) {
		struct udp_sa *sa = udp_sa_table_at(un, old, slot);

		/* two that differ in the lowest bits still do in more of them */
		if (sa)
			RCU_INIT_POINTER(table->slots[sa->index & table->mask],
					 sa);
	}
	rcu_assign_pointer(un->sas, table);
	if (old) {
		kvfree_rcu_mightsleep(old->slots);
		kfree_rcu(old, rcu);
	}
	return 0;
}

/**
 * udp_sa_table_reserve() - find a number for a new SA, and make room for it
 * @un: of the network namespace, locked
 * @index: gets it; no SA that is there has it
 *
 * Process context.
 * Return: 0 or -ENOMEM. udp_sa_table_insert() may follow, or not.
 */
int udp_sa_table_reserve(struct udp_crypto_net *un, u32 *index)
{
	struct udp_sa_table *table = udp_sa_table(un);
	u32 size = table ? table->mask + 1 : 0;
	int err;

	/* with an eighth of it free a place is found soon */
	if (un->count >= size - size / 8) {
		err = udp_sa_table_resize(un, max(2 * size, UDP_SA_TABLE_MIN));
		if (err)
			return err;
		table = udp_sa_table(un);
	}
	do {
		*index = un->next;
		un->next = un->next == UDP_SA_INDEX_MAX ? 1 : un->next + 1;
	} while (udp_sa_table_at(un, table, *index & table->mask));
	return 0;
}

/**
 * udp_sa_table_insert() - let an SA be found
 * @un: of the network namespace, locked
 * @sa: whole, with a number from udp_sa_table_reserve()
 */
void udp_sa_table_insert(struct udp_crypto_net *un, struct udp_sa *sa)
{
	struct udp_sa_table *table = udp_sa_table(un);

	rcu_assign_pointer(table->slots[sa->index & table->mask], sa);
	WRITE_ONCE(un->count, un->count + 1);
}

/**
 * udp_sa_table_remove() - let an SA be found no more
 * @un: of the network namespace, locked
 * @sa: in the table
 */
void udp_sa_table_remove(struct udp_crypto_net *un, struct udp_sa *sa)
{
	struct udp_sa_table *table = udp_sa_table(un);

	RCU_INIT_POINTER(table->slots[sa->index & table->mask], NULL);
	WRITE_ONCE(un->count, un->count - 1);
}

/**
 * udp_sa_table_next() - go through all SAs
 * @un: of the network namespace, locked
 * @slot: where to look first, 0 at the start; gets the place of what is
 *	returned
 *
 * Between two calls the lock may be given up. What is in the table all the
 * time is found; some of it twice if the table grows.
 * Return: an SA, or NULL at the end.
 */
struct udp_sa *udp_sa_table_next(const struct udp_crypto_net *un,
				 unsigned long *slot)
{
	const struct udp_sa_table *table = udp_sa_table(un);

	for (; table && *slot <= table->mask; ++*slot) {
		struct udp_sa *sa = udp_sa_table_at(un, table, *slot);

		if (sa)
			return sa;
	}
	return NULL;
}

/**
 * udp_sa_table_free() - the network namespace ends
 * @un: of the network namespace, nobody else's, without SAs
 */
void udp_sa_table_free(struct udp_crypto_net *un)
{
	struct udp_sa_table *table = rcu_dereference_protected(un->sas, true);

	WARN_ON_ONCE(un->count);
	if (table) {
		kvfree(table->slots);
		kfree(table);
	}
}
