// SPDX-License-Identifier: GPL-2.0
/*
 * The socket option UDP_CRYPTO_STATE. setsockopt() changes, getsockopt()
 * shows, and neither does the other's work.
 */
#include <linux/uaccess.h>
#include <linux/udp.h>
#include <net/sock.h>
#include <net/udp.h>

#include "internal.h"

/* As copy_struct_from_sockptr() is meant, with a minimum. In this kernel that
 * takes trailing bytes of user space that it does not know for granted, and
 * looks for those of kernel space in the wrong place.
 */
static int udp_crypto_copy_in(void *dst, size_t size, size_t min,
			      sockptr_t src, size_t len)
{
	if (len < min)
		return -EINVAL;
	if (len > UDP_CRYPTO_OPTION_MAX)
		return -E2BIG;
	if (!sockptr_is_kernel(src))
		return copy_struct_from_user(dst, size, src.user, len);
	if (len > size && memchr_inv(src.kernel + size, 0, len - size))
		return -E2BIG;
	memset(dst, 0, size);
	memcpy(dst, src.kernel, min(len, size));
	return 0;
}

static int udp_crypto_req_check(const struct udp_crypto_req *req, u32 flags)
{
	if (req->type != UDP_CRYPTO_QUIC)
		return -EPROTONOSUPPORT;
	if (req->flags & ~flags)
		return -EINVAL;
	return 0;
}

static int udp_crypto_add(struct sock *sk, sockptr_t optval, unsigned int len)
{
	struct udp_crypto_sa req;
	int err;

	err = udp_crypto_copy_in(&req, sizeof(req), sizeof(req), optval, len);
	if (!err)
		err = udp_crypto_req_check(&req.req, UDP_CRYPTO_SA_FLAGS);
	/* the caller's memory may have changed since the operation was read */
	if (!err && req.req.op != UDP_CRYPTO_OP_ADD_SA)
		err = -EINVAL;
	if (!err)
		err = udp_quic_keys_check(&req.keys);
	if (!err)
		err = udp_sa_add(sk, &req);
	memzero_explicit(&req, sizeof(req));
	return err;
}

static int udp_crypto_del(struct sock *sk, sockptr_t optval, unsigned int len)
{
	struct udp_crypto_req req;
	int err;

	err = udp_crypto_copy_in(&req, sizeof(req), sizeof(req), optval, len);
	if (!err)
		err = udp_crypto_req_check(&req, 0);
	if (!err && req.op != UDP_CRYPTO_OP_DEL_SA)
		err = -EINVAL;
	return err ?: udp_sa_del(sk, req.cookie);
}

/**
 * udp_crypto_setsockopt() - UDP_CRYPTO_STATE: add or delete an SA
 * @sk: UDP socket, not locked
 * @optval: of user space or, behind a BPF program, of the kernel
 * @optlen: its length, bytes
 *
 * Process context. Return: 0 or the errors of <linux/udp_crypto.h>.
 */
int udp_crypto_setsockopt(struct sock *sk, sockptr_t optval,
			  unsigned int optlen)
{
	struct udp_crypto_req req;
	int err;

	if (!udp_crypto_on)
		return -ENOPROTOOPT;
	if (IS_UDPLITE(sk))
		return -EOPNOTSUPP;
	if (optlen < sizeof(req))
		return -EINVAL;
	if (copy_from_sockptr(&req, optval, sizeof(req)))
		return -EFAULT;
	err = udp_crypto_req_check(&req, ~0U);
	if (err)
		return err;

	switch (req.op) {
	case UDP_CRYPTO_OP_ADD_SA:
		return udp_crypto_add(sk, optval, optlen);
	case UDP_CRYPTO_OP_DEL_SA:
		return udp_crypto_del(sk, optval, optlen);
	}
	return -EINVAL;
}

/**
 * udp_crypto_getsockopt() - UDP_CRYPTO_STATE: show an SA or the capabilities
 * @sk: UDP socket, not locked
 * @optval: request on entry, answer on return
 * @optlen: room on entry, length of the answer on return
 *
 * Process context. Return: 0 or the errors of <linux/udp_crypto.h>.
 */
int udp_crypto_getsockopt(struct sock *sk, char __user *optval,
			  int __user *optlen)
{
	union {
		struct udp_crypto_req req;
		struct udp_crypto_sa_info info;
		struct udp_crypto_caps caps;
	} u = {};
	size_t size;
	int len, err;

	if (!udp_crypto_on)
		return -ENOPROTOOPT;
	if (IS_UDPLITE(sk))
		return -EOPNOTSUPP;
	if (get_user(len, optlen))
		return -EFAULT;
	if (len < (int)sizeof(u.req))
		return -EINVAL;
	if (copy_from_user(&u.req, optval, sizeof(u.req)))
		return -EFAULT;
	err = udp_crypto_req_check(&u.req, 0);
	if (err)
		return err;

	switch (u.req.op) {
	case UDP_CRYPTO_OP_GET_CAPS:
		size = sizeof(u.caps);
		break;
	case UDP_CRYPTO_OP_GET_SA:
		size = sizeof(u.info);
		break;
	default:
		return -EINVAL;
	}
	if (len > size) {
		if (len > UDP_CRYPTO_OPTION_MAX)
			return -E2BIG;
		/* what a newer caller asks beyond what is known here */
		err = check_zeroed_user(optval + size, len - size);
		if (err <= 0)
			return err ?: -E2BIG;
	}

	if (u.req.op == UDP_CRYPTO_OP_GET_CAPS) {
		if (u.req.cookie)
			return -EINVAL;
		u.caps.ciphers = udp_crypto_sw_ciphers();
		u.caps.cmsg_flags = UDP_CRYPTO_CMSG_FLAGS;
		u.caps.sa_flags = UDP_CRYPTO_SA_FLAGS;
		u.caps.max_sa = READ_ONCE(udp_crypto_pernet(sock_net(sk))->max_sa);
		u.caps.max_segments = UDP_MAX_SEGMENTS;
		u.caps.tag_len = UDP_QUIC_TAG_LEN;
		u.caps.max_sa_per_uid =
			READ_ONCE(udp_crypto_pernet(sock_net(sk))->max_sa_uid);
	} else {
		err = udp_sa_info(sk, u.req.cookie, &u.info);
		if (err)
			return err;
	}

	len = min_t(size_t, len, size);
	if (put_user(len, optlen) || copy_to_user(optval, &u, len))
		return -EFAULT;
	return 0;
}
