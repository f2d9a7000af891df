// SPDX-License-Identifier: GPL-2.0
/*
 * The guard of an SA with UDP_CRYPTO_SA_F_GUARD_PN: no packet number is taken
 * twice. A window over the numbers as receivers of IPsec have one against
 * replay, but for senders that hold no lock: any number of threads take numbers
 * at a time, and not in order.
 *
 * The window is a ring of words. A word stands for eight packet numbers in a
 * row: their bits are the low byte, the rest says which turn of the ring they
 * belong to. A number is taken by setting its bit, or by turning a word of an
 * earlier turn into one of its own, with cmpxchg. A word of a later turn means
 * that the number has left the window.
 */
#include <linux/atomic.h>
#include <linux/slab.h>

#include "internal.h"

#define UDP_CRYPTO_GUARD_BITS	8U
#define UDP_CRYPTO_GUARD_WORDS	(UDP_CRYPTO_GUARD_PN_WINDOW / UDP_CRYPTO_GUARD_BITS)

/* The turn of the highest number there is, and one more, fits beside the bits. */
static_assert((UDP_QUIC_PN_MAX / UDP_CRYPTO_GUARD_PN_WINDOW + 1) <=
	      (U64_MAX >> UDP_CRYPTO_GUARD_BITS));

struct udp_crypto_guard {
	atomic64_t	words[UDP_CRYPTO_GUARD_WORDS];
};

/**
 * udp_crypto_guard_alloc() - a guard that has seen no packet number
 *
 * Process context. Return: the guard or NULL.
 */
struct udp_crypto_guard *udp_crypto_guard_alloc(void)
{
	/* no bit of turn 0 is set, and no number belongs to it */
	return kzalloc(sizeof(struct udp_crypto_guard), GFP_KERNEL_ACCOUNT);
}

void udp_crypto_guard_free(struct udp_crypto_guard *guard)
{
	kfree(guard);
}

/* The numbers from *@pn to before @end that share a word: their bits. *@pn is
 * then the first of the next word.
 */
static u64 udp_crypto_guard_bits(u64 *pn, u64 end, unsigned int *word, u64 *turn)
{
	unsigned int first = *pn % UDP_CRYPTO_GUARD_BITS;
	unsigned int n = min_t(u64, UDP_CRYPTO_GUARD_BITS - first, end - *pn);

	*word = *pn / UDP_CRYPTO_GUARD_BITS % UDP_CRYPTO_GUARD_WORDS;
	*turn = *pn / UDP_CRYPTO_GUARD_PN_WINDOW + 1;
	*pn += n;
	return GENMASK_ULL(first + n - 1, first);
}

/**
 * udp_crypto_guard_untake() - the packet numbers of a send that failed
 * @guard: that gave them
 * @pn: the first
 * @n: how many
 *
 * What they drove out of the window stays out: it is refused without need,
 * never taken twice.
 */
void udp_crypto_guard_untake(struct udp_crypto_guard *guard, u64 pn,
			     unsigned int n)
{
	u64 end = pn + n;

	while (pn < end) {
		unsigned int word;
		u64 turn, bits;
		s64 old;

		bits = udp_crypto_guard_bits(&pn, end, &word, &turn);
		old = atomic64_read(&guard->words[word]);
		do {
			if ((u64)old >> UDP_CRYPTO_GUARD_BITS != turn)
				break;
		} while (!atomic64_try_cmpxchg(&guard->words[word], &old,
					       old & ~bits));
	}
}

/**
 * udp_crypto_guard_take() - take packet numbers that nobody has taken yet
 * @guard: of the SA
 * @pn: the first
 * @n: how many; with @pn not above UDP_QUIC_PN_MAX, and not above
 *	UDP_MAX_SEGMENTS, which is less than the window has
 *
 * Any context. Return: 0, or -EALREADY with none taken.
 */
int udp_crypto_guard_take(struct udp_crypto_guard *guard, u64 pn,
			  unsigned int n)
{
	u64 first = pn, start = pn, end = pn + n;

	for (; pn < end; start = pn) {
		unsigned int word;
		u64 turn, bits;
		s64 old, new;

		bits = udp_crypto_guard_bits(&pn, end, &word, &turn);
		old = atomic64_read(&guard->words[word]);
		do {
			u64 old_turn = (u64)old >> UDP_CRYPTO_GUARD_BITS;

			if (old_turn > turn || (old_turn == turn && old & bits)) {
				udp_crypto_guard_untake(guard, first,
							start - first);
				return -EALREADY;
			}
			new = (old_turn == turn ? old : 0) | bits |
			      turn << UDP_CRYPTO_GUARD_BITS;
		} while (!atomic64_try_cmpxchg(&guard->words[word], &old, new));
	}
	return 0;
}
