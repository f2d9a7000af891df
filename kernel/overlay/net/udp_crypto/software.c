// SPDX-License-Identifier: GPL-2.0
/*
 * The software fallback: every QUIC packet of an skb is protected in place
 * (RFC 9001 section 5), before the skb is segmented. User pages, and data that
 * a clone shares, are copied first.
 */
#include <crypto/aead.h>
#include <crypto/chacha.h>
#include <crypto/skcipher.h>
#include <linux/memcontrol.h>
#include <linux/scatterlist.h>
#include <linux/sched/mm.h>
#include <linux/slab.h>
#include <linux/unaligned.h>

#include "internal.h"

/**
 * struct udp_crypto_sw - the ciphers of an SA, ready for use
 * @aead: packet protection
 * @hp: AES for header protection; NULL with ChaCha20, which is a library call
 */
struct udp_crypto_sw {
	struct crypto_aead	*aead;
	struct crypto_skcipher	*hp;
};

static const char *udp_crypto_aead_name(u16 cipher)
{
	switch (cipher) {
	case UDP_QUIC_CIPHER_AES_128_GCM:
	case UDP_QUIC_CIPHER_AES_256_GCM:
		return "gcm(aes)";
	case UDP_QUIC_CIPHER_AES_128_CCM:
		return "ccm(aes)";
	case UDP_QUIC_CIPHER_CHACHA20_POLY1305:
		return "rfc7539(chacha20,poly1305)";
	}
	return NULL;
}

static bool udp_crypto_hp_is_aes(u16 cipher)
{
	return cipher != UDP_QUIC_CIPHER_CHACHA20_POLY1305;
}

/**
 * udp_crypto_sw_has() - does the kernel have a cipher?
 * @cipher: enum udp_quic_cipher
 *
 * Process context: loads modules. What is found once stays known.
 */
bool udp_crypto_sw_has(u16 cipher)
{
	static unsigned long known;

	if (test_bit(cipher, &known))
		return true;
	if (!crypto_has_aead(udp_crypto_aead_name(cipher), 0, 0) ||
	    (udp_crypto_hp_is_aes(cipher) &&
	     !crypto_has_skcipher("ecb(aes)", 0, 0)))
		return false;
	set_bit(cipher, &known);
	return true;
}

/**
 * udp_crypto_sw_ciphers() - which ciphers the kernel has
 *
 * Process context.
 * Return: 1 << enum udp_quic_cipher for each.
 */
u32 udp_crypto_sw_ciphers(void)
{
	u32 ciphers = 0;
	u16 cipher;

	for (cipher = UDP_QUIC_CIPHER_AES_128_GCM;
	     cipher <= UDP_QUIC_CIPHER_AES_128_CCM; cipher++)
		if (udp_crypto_sw_has(cipher))
			ciphers |= BIT(cipher);
	return ciphers;
}

void udp_crypto_sw_free(struct udp_crypto_sw *sw)
{
	if (!sw)
		return;
	crypto_free_aead(sw->aead);
	crypto_free_skcipher(sw->hp);
	kfree(sw);
}

static struct udp_crypto_sw *
udp_crypto_sw_alloc(const struct udp_quic_keys *keys,
		    enum udp_crypto_context context)
{
	unsigned int key_len = udp_quic_key_len(keys->cipher);
	u32 mask = context == UDP_CRYPTO_ATOMIC ? CRYPTO_ALG_ASYNC : 0;
	struct crypto_skcipher *hp;
	struct crypto_aead *aead;
	struct udp_crypto_sw *sw;
	int err;

	sw = kzalloc(sizeof(*sw), GFP_KERNEL_ACCOUNT);
	if (!sw)
		return ERR_PTR(-ENOMEM);

	aead = crypto_alloc_aead(udp_crypto_aead_name(keys->cipher), 0, mask);
	if (IS_ERR(aead)) {
		err = PTR_ERR(aead);
		goto err_free;
	}
	sw->aead = aead;
	err = crypto_aead_setkey(aead, keys->key, key_len);
	if (!err)
		err = crypto_aead_setauthsize(aead, UDP_QUIC_TAG_LEN);
	if (err)
		goto err_free;

	if (udp_crypto_hp_is_aes(keys->cipher)) {
		hp = crypto_alloc_skcipher("ecb(aes)", 0, mask);
		if (IS_ERR(hp)) {
			err = PTR_ERR(hp);
			goto err_free;
		}
		sw->hp = hp;
		err = crypto_skcipher_setkey(hp, keys->hp_key, key_len);
		if (err)
			goto err_free;
	}
	return sw;

err_free:
	udp_crypto_sw_free(sw);
	/* not to be taken for an SA that is not there */
	return ERR_PTR(err == -ENOENT ? -ENOPKG : err);
}

/**
 * udp_crypto_emulation_ready() - sa_ready of a simulated device
 * @sa: found under RCU
 *
 * Sets up what udp_crypto_emulate() needs, in a moment.
 */
bool udp_crypto_emulation_ready(struct udp_sa *sa)
{
	if (READ_ONCE(sa->sw[UDP_CRYPTO_ATOMIC]))
		return true;
	/* keys of a single message are gone by then */
	if (sa->index)
		udp_sa_build_later(sa);
	return false;
}
EXPORT_SYMBOL_GPL(udp_crypto_emulation_ready);

/**
 * udp_crypto_emulation_caps() - caps of a simulated device
 * @caps: filled in
 *
 * Process context.
 */
void udp_crypto_emulation_caps(struct udp_crypto_dev_caps *caps)
{
	memset(caps, 0, sizeof(*caps));
	caps->ciphers = udp_crypto_sw_ciphers();
	caps->forms = UDP_CRYPTO_DEV_FORM_INDEX;
}
EXPORT_SYMBOL_GPL(udp_crypto_emulation_caps);

/* The memory control group that an SA is charged to, with a reference; or NULL.
 * Once that is offline, its parent.
 */
static struct mem_cgroup *udp_sa_get_memcg(struct udp_sa *sa)
{
	struct mem_cgroup *memcg;

	rcu_read_lock();
	do
		memcg = mem_cgroup_from_slab_obj(sa);
	while (!mem_cgroup_tryget(memcg));
	rcu_read_unlock();
	return memcg;
}

/**
 * udp_crypto_sw_build() - set up the ciphers of an SA, once
 * @sa: a reference is held
 * @context: where they will be used
 *
 * Process context. Whoever sends first, they are charged to the memory control
 * group of the SA.
 * Return: 0 or an error; -ENOMEM for most.
 */
int udp_crypto_sw_build(struct udp_sa *sa, enum udp_crypto_context context)
{
	struct mem_cgroup *memcg, *old;
	struct udp_crypto_sw *sw;

	/* pairs with cmpxchg_release() below */
	if (smp_load_acquire(&sa->sw[context]))
		return 0;
	memcg = udp_sa_get_memcg(sa);
	old = set_active_memcg(memcg);
	sw = udp_crypto_sw_alloc(&sa->keys, context);
	set_active_memcg(old);
	mem_cgroup_put(memcg);
	if (IS_ERR(sw))
		return PTR_ERR(sw);
	/* another thread may have been faster; what it made is as good */
	if (cmpxchg_release(&sa->sw[context], NULL, sw))
		udp_crypto_sw_free(sw);
	return 0;
}

/**
 * struct udp_crypto_job - one skb being protected
 * @skb: its data is its own
 * @sa: keys
 * @sw: ciphers
 * @payload: where the first QUIC packet starts in @skb, bytes
 * @seg_size: bytes from one packet to the next, tags included
 * @segs: packets
 * @pn: number of the first
 * @pn_offset: of each
 * @flags: for the requests
 * @wait: for asynchronous ciphers, in process context
 * @iv: of the packet in hand
 * @sg: of the packet in hand
 * @masks: samples, then header protection masks, one of each packet
 */
struct udp_crypto_job {
	struct sk_buff			*skb;
	const struct udp_sa		*sa;
	const struct udp_crypto_sw	*sw;
	unsigned int			payload;
	unsigned int			seg_size;
	unsigned int			segs;
	u64				pn;
	u16				pn_offset;
	u32				flags;
	struct crypto_wait		wait;
	u8				iv[16];
	struct scatterlist		sg[MAX_SKB_FRAGS + 1];
	u8				masks[][UDP_QUIC_SAMPLE_LEN];
};

/* Nonce: the IV with the packet number, left-padded, XORed in (RFC 9001
 * section 5.3); in front of it CCM wants the length of its counter less one.
 */
static void udp_crypto_nonce(struct udp_crypto_job *job, u64 pn)
{
	u8 *nonce = job->iv;

	memset(job->iv, 0, sizeof(job->iv));
	if (job->sa->keys.cipher == UDP_QUIC_CIPHER_AES_128_CCM)
		*nonce++ = 15 - UDP_QUIC_IV_LEN - 1;
	memcpy(nonce, job->sa->keys.iv, UDP_QUIC_IV_LEN);
	nonce += UDP_QUIC_IV_LEN - sizeof(pn);
	put_unaligned_be64(get_unaligned_be64(nonce) ^ pn, nonce);
}

static unsigned int udp_crypto_pn_len(u8 first)
{
	return (first & 0x03) + 1;
}

static int udp_crypto_seal(struct udp_crypto_job *job,
			   struct aead_request *req, unsigned int i)
{
	unsigned int offset = job->payload + i * job->seg_size;
	unsigned int len = min(job->skb->len - offset, job->seg_size);
	unsigned int header;
	u8 first;
	int nents;

	if (skb_copy_bits(job->skb, offset, &first, 1))
		return -EFAULT;
	header = job->pn_offset + udp_crypto_pn_len(first);

	sg_init_table(job->sg, ARRAY_SIZE(job->sg));
	nents = skb_to_sgvec(job->skb, job->sg, offset, len);
	if (nents < 0)
		return nents;

	udp_crypto_nonce(job, job->pn + i);
	aead_request_set_callback(req, job->flags, crypto_req_done, &job->wait);
	aead_request_set_ad(req, header);
	aead_request_set_crypt(req, job->sg, job->sg,
			       len - header - UDP_QUIC_TAG_LEN, job->iv);
	return crypto_wait_req(crypto_aead_encrypt(req), &job->wait);
}

/* Header protection masks of all packets at once (RFC 9001 section 5.4). */
static int udp_crypto_masks(struct udp_crypto_job *job,
			    struct skcipher_request *req)
{
	unsigned int i, offset = job->payload + job->pn_offset +
				 UDP_QUIC_SAMPLE_OFFSET;

	for (i = 0; i < job->segs; i++, offset += job->seg_size)
		if (skb_copy_bits(job->skb, offset, job->masks[i],
				  UDP_QUIC_SAMPLE_LEN))
			return -EFAULT;

	if (job->sw->hp) {
		unsigned int len = job->segs * UDP_QUIC_SAMPLE_LEN;

		sg_init_one(job->sg, job->masks, len);
		skcipher_request_set_callback(req, job->flags, crypto_req_done,
					      &job->wait);
		skcipher_request_set_crypt(req, job->sg, job->sg, len, NULL);
		return crypto_wait_req(crypto_skcipher_encrypt(req),
				       &job->wait);
	}

	/* ChaCha20: the sample is block counter and nonce (section 5.4.4) */
	for (i = 0; i < job->segs; i++) {
		u32 state[CHACHA_STATE_WORDS], key[CHACHA_KEY_SIZE / 4];
		unsigned int k;

		for (k = 0; k < ARRAY_SIZE(key); k++)
			key[k] = get_unaligned_le32(job->sa->keys.hp_key + 4 * k);
		chacha_init(state, key, job->masks[i]);
		memset(job->masks[i], 0, UDP_QUIC_SAMPLE_LEN);
		chacha20_crypt(state, job->masks[i], job->masks[i], 5);
		memzero_explicit(state, sizeof(state));
		memzero_explicit(key, sizeof(key));
	}
	return 0;
}

static int udp_crypto_mask_header(struct udp_crypto_job *job, unsigned int i)
{
	unsigned int offset = job->payload + i * job->seg_size;
	const u8 *mask = job->masks[i];
	unsigned int k, pn_len;
	u8 first, pn[4];

	if (skb_copy_bits(job->skb, offset, &first, 1))
		return -EFAULT;
	pn_len = udp_crypto_pn_len(first);
	if (skb_copy_bits(job->skb, offset + job->pn_offset, pn, pn_len))
		return -EFAULT;

	first ^= mask[0] & (first & 0x80 ? 0x0f : 0x1f);
	for (k = 0; k < pn_len; k++)
		pn[k] ^= mask[1 + k];

	if (skb_store_bits(job->skb, offset, &first, 1) ||
	    skb_store_bits(job->skb, offset + job->pn_offset, pn, pn_len))
		return -EFAULT;
	return 0;
}

/* Pages of the user or of a file, and data that another skb shares, are not
 * written; the copy is the skb's own. In process context the skb is new.
 */
static int udp_crypto_own_data(struct sk_buff *skb, gfp_t gfp,
			       enum udp_crypto_context context)
{
	struct ubuf_info *uarg = skb_zcopy(skb);

	if (skb_has_frag_list(skb))
		return __skb_linearize(skb);
	/* On its way the skb may have been copied with its pages shared
	 * (pskb_copy(), segments of a clone), which does not show.
	 */
	if (context == UDP_CRYPTO_ATOMIC)
		return skb_copy_ubufs(skb, gfp);
	/* MSG_ZEROCOPY that ended in a copy leaves a completion, but no page of
	 * the user.
	 */
	if (uarg && uarg->ops == &msg_zerocopy_ubuf_ops &&
	    !uarg_to_msgzc(uarg)->zerocopy)
		return 0;
	if (!uarg && !skb_has_shared_frag(skb))
		return 0;
	return skb_copy_ubufs(skb, gfp);
}

/**
 * udp_crypto_sw_encrypt() - protect all QUIC packets of an skb
 * @sa: keys; a reference is held, or RCU with UDP_CRYPTO_ATOMIC
 * @skb: not shared; each packet in it is long enough for a sample
 * @payload: where the first packet starts, bytes from skb->data
 * @seg_size: bytes from one packet to the next, tags included
 * @pn: number of the first packet
 * @pn_offset: of each packet, bytes
 * @context: where this runs
 *
 * Return: 0, or an error: the packet must be dropped. -EAGAIN: the ciphers of
 * the SA are not set up for this context (UDP_CRYPTO_ATOMIC only) and the skb
 * is unchanged.
 */
int udp_crypto_sw_encrypt(struct udp_sa *sa, struct sk_buff *skb,
			  unsigned int payload, unsigned int seg_size, u64 pn,
			  u16 pn_offset, enum udp_crypto_context context)
{
	gfp_t gfp = context == UDP_CRYPTO_ATOMIC ? GFP_ATOMIC : GFP_KERNEL;
	unsigned int segs = DIV_ROUND_UP(skb->len - payload, seg_size);
	struct skcipher_request *hp_req = NULL;
	struct aead_request *req;
	struct udp_crypto_job *job;
	struct udp_crypto_sw *sw;
	unsigned int i;
	int err;

	if (context == UDP_CRYPTO_MAY_SLEEP) {
		err = udp_crypto_sw_build(sa, context);
		if (err)
			return err;
	}
	/* pairs with cmpxchg_release() in udp_crypto_sw_build() */
	sw = smp_load_acquire(&sa->sw[context]);
	if (!sw)
		return -EAGAIN;

	err = udp_crypto_own_data(skb, gfp, context);
	if (err)
		return err;

	job = kmalloc(struct_size(job, masks, segs), gfp);
	if (!job)
		return -ENOMEM;
	job->skb = skb;
	job->sa = sa;
	job->sw = sw;
	job->payload = payload;
	job->seg_size = seg_size;
	job->segs = segs;
	job->pn = pn;
	job->pn_offset = pn_offset;
	job->flags = context == UDP_CRYPTO_ATOMIC ? 0 :
		     CRYPTO_TFM_REQ_MAY_SLEEP | CRYPTO_TFM_REQ_MAY_BACKLOG;
	crypto_init_wait(&job->wait);

	err = -ENOMEM;
	req = aead_request_alloc(sw->aead, gfp);
	if (!req)
		goto out;
	if (sw->hp) {
		hp_req = skcipher_request_alloc(sw->hp, gfp);
		if (!hp_req)
			goto out_req;
	}

	for (i = 0; i < segs; i++) {
		err = udp_crypto_seal(job, req, i);
		if (err)
			goto out_hp;
	}
	err = udp_crypto_masks(job, hp_req);
	for (i = 0; i < segs && !err; i++)
		err = udp_crypto_mask_header(job, i);

out_hp:
	skcipher_request_free(hp_req);
out_req:
	aead_request_free(req);
out:
	kfree_sensitive(job);
	/* -EAGAIN is for an skb that is unchanged */
	return err == -EAGAIN ? -EIO : err;
}
