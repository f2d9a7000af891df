// SPDX-License-Identifier: GPL-2.0
/*
 * QUIC packet protection on UDP sockets: the socket option UDP_CRYPTO_STATE,
 * the control message UDP_QUIC_CRYPTO, and the offload of a device, for which
 * netdevsim stands in. Needs root; each test has network namespaces of its own.
 */
#define _GNU_SOURCE

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/errqueue.h>
#include <linux/udp_crypto.h>
#include <net/if.h>
#include <netinet/udp.h>
#include <poll.h>
#include <sched.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <unistd.h>

#include "../kselftest_harness.h"

#ifndef SO_ZEROCOPY
#define SO_ZEROCOPY	60
#endif
#ifndef MSG_ZEROCOPY
#define MSG_ZEROCOPY	0x4000000
#endif

/* A short header with a connection ID of 8 bytes, packet numbers of 4 bytes */
#define PN_OFFSET	9
#define PLAIN		"QUIC plaintext! "
#define PACKET		1184
#define WIRE		(PACKET + UDP_QUIC_TAG_LEN)

static const struct udp_quic_keys keys_a = {
	.cipher	= UDP_QUIC_CIPHER_AES_128_GCM,
	.iv	= "ivivivivivi",
	.key	= "a packet key, A",
	.hp_key	= "a header key, A",
};

static const struct udp_quic_keys keys_b = {
	.cipher	= UDP_QUIC_CIPHER_CHACHA20_POLY1305,
	.iv	= "ivIVivIVivI",
	.key	= "a packet key of 32 bytes, for B",
	.hp_key	= "a header key of 32 bytes, for B",
};

/* --- the socket option ----------------------------------------------------- */

static int add_sa_limit(int fd, uint64_t cookie,
			const struct udp_quic_keys *keys, uint32_t flags,
			uint64_t limit)
{
	struct udp_crypto_sa sa = {
		.req = {
			.type	= UDP_CRYPTO_QUIC,
			.op	= UDP_CRYPTO_OP_ADD_SA,
			.flags	= flags,
			.cookie	= cookie,
		},
		.packet_limit	= limit,
		.keys		= *keys,
	};

	return setsockopt(fd, SOL_UDP, UDP_CRYPTO_STATE, &sa, sizeof(sa)) ?
	       -errno : 0;
}

static int add_sa(int fd, uint64_t cookie, const struct udp_quic_keys *keys)
{
	return add_sa_limit(fd, cookie, keys, 0, 0);
}

/* One that takes no number twice, for a socket that wants to hear of all errors */
static int add_guarded_sa(int fd, uint64_t cookie, int family)
{
	int one = 1;
	int err = family == AF_INET ?
		  setsockopt(fd, SOL_IP, IP_RECVERR, &one, sizeof(one)) :
		  setsockopt(fd, SOL_IPV6, IPV6_RECVERR, &one, sizeof(one));

	return err ? -errno : add_sa_limit(fd, cookie, &keys_a,
					   UDP_CRYPTO_SA_F_GUARD_PN, 0);
}

static int del_sa(int fd, uint64_t cookie)
{
	struct udp_crypto_req req = {
		.type	= UDP_CRYPTO_QUIC,
		.op	= UDP_CRYPTO_OP_DEL_SA,
		.cookie	= cookie,
	};

	return setsockopt(fd, SOL_UDP, UDP_CRYPTO_STATE, &req, sizeof(req)) ?
	       -errno : 0;
}

static int get_sa(int fd, uint64_t cookie, struct udp_crypto_sa_info *info)
{
	socklen_t len = sizeof(*info);

	memset(info, 0, sizeof(*info));
	info->req.type = UDP_CRYPTO_QUIC;
	info->req.op = UDP_CRYPTO_OP_GET_SA;
	info->req.cookie = cookie;
	return getsockopt(fd, SOL_UDP, UDP_CRYPTO_STATE, info, &len) ?
	       -errno : 0;
}

static uint32_t sa_index(int fd, uint64_t cookie)
{
	struct udp_crypto_sa_info info;

	return get_sa(fd, cookie, &info) ? 0 : info.sa;
}

static uint32_t sa_state(int fd, uint64_t cookie)
{
	struct udp_crypto_sa_info info;

	return get_sa(fd, cookie, &info) ? 0 : info.state;
}

/* --- sends ----------------------------------------------------------------- */

struct request {
	const void			*data;
	size_t				len;
	uint64_t			pn;
	uint32_t			sa;
	uint16_t			pn_offset;
	uint16_t			flags;
	uint16_t			gso_size;	/* or 0 */
	const struct udp_quic_keys	*keys;		/* inline, or NULL */
	int				msg_flags;
	size_t				cmsg_extra;	/* bytes 0xff behind */
};

static ssize_t send_request(int fd, const struct request *request)
{
	union {
		struct cmsghdr	align;
		uint8_t		data[256];
	} control = {};
	struct iovec iov = {
		.iov_base	= (void *)request->data,
		.iov_len	= request->len,
	};
	struct msghdr msg = {
		.msg_iov	= &iov,
		.msg_iovlen	= 1,
		.msg_control	= control.data,
		.msg_controllen	= sizeof(control),
	};
	struct udp_quic_crypto_inline crypto = {
		.crypto = {
			.pn		= request->pn,
			.sa		= request->keys ?
					  UDP_QUIC_CRYPTO_SA_INLINE :
					  request->sa,
			.pn_offset	= request->pn_offset,
			.flags		= request->flags,
		},
	};
	size_t len = request->keys ? sizeof(crypto) : sizeof(crypto.crypto);
	struct cmsghdr *cmsg = CMSG_FIRSTHDR(&msg);
	size_t used;
	ssize_t ret;

	if (request->keys)
		crypto.keys = *request->keys;
	cmsg->cmsg_level = SOL_UDP;
	cmsg->cmsg_type = UDP_QUIC_CRYPTO;
	cmsg->cmsg_len = CMSG_LEN(len + request->cmsg_extra);
	memcpy(CMSG_DATA(cmsg), &crypto, len);
	memset(CMSG_DATA(cmsg) + len, 0xff, request->cmsg_extra);
	used = CMSG_SPACE(len + request->cmsg_extra);
	if (request->gso_size) {
		cmsg = CMSG_NXTHDR(&msg, cmsg);
		cmsg->cmsg_level = SOL_UDP;
		cmsg->cmsg_type = UDP_SEGMENT;
		cmsg->cmsg_len = CMSG_LEN(sizeof(request->gso_size));
		memcpy(CMSG_DATA(cmsg), &request->gso_size,
		       sizeof(request->gso_size));
		used += CMSG_SPACE(sizeof(request->gso_size));
	}
	msg.msg_controllen = used;
	ret = sendmsg(fd, &msg, request->msg_flags);
	return ret < 0 ? -errno : ret;
}

/* Writes a plaintext packet of @len bytes with number @pn. */
static void make_packet(uint8_t *packet, size_t len, uint64_t pn)
{
	uint32_t truncated = htonl(pn);
	size_t i;

	for (i = 0; i < len; i++)
		packet[i] = PLAIN[i % (sizeof(PLAIN) - 1)];
	packet[0] = 0x43;
	memcpy(packet + PN_OFFSET, &truncated, sizeof(truncated));
}

static bool has_plaintext(const void *data, size_t len)
{
	return memmem(data, len, PLAIN, sizeof(PLAIN) - 1);
}

/* Takes a datagram; -EAGAIN after @ms without one. */
static ssize_t receive(int fd, void *buf, size_t size, int ms)
{
	struct pollfd pollfd = { .fd = fd, .events = POLLIN };
	ssize_t ret;

	if (poll(&pollfd, 1, ms) <= 0)
		return -EAGAIN;
	ret = recv(fd, buf, size, 0);
	return ret < 0 ? -errno : ret;
}

/* Takes a completion of MSG_ZEROCOPY: the number of its first send, or -EAGAIN. */
static long completion(int fd)
{
	struct sock_extended_err *error;
	struct cmsghdr *cmsg;
	char control[256];
	struct msghdr msg = {
		.msg_control	= control,
		.msg_controllen	= sizeof(control),
	};

	if (recvmsg(fd, &msg, MSG_ERRQUEUE | MSG_DONTWAIT) < 0)
		return -errno;
	cmsg = CMSG_FIRSTHDR(&msg);
	if (!cmsg)
		return -ENOMSG;
	error = (struct sock_extended_err *)CMSG_DATA(cmsg);
	return error->ee_origin == SO_EE_ORIGIN_ZEROCOPY ? error->ee_info :
							   -ENOMSG;
}

/* How long to wait for what must come, and for what must not */
#define PATIENCE_MS	30000
#define SILENCE_MS	100

/* --- files and programs ---------------------------------------------------- */

static int write_text(const char *path, const char *format, ...)
{
	char text[128];
	va_list args;
	int fd, len, err;

	va_start(args, format);
	len = vsnprintf(text, sizeof(text), format, args);
	va_end(args);
	fd = open(path, O_WRONLY);
	if (fd < 0)
		return -errno;
	err = write(fd, text, len) == len ? 0 : -errno;
	close(fd);
	return err;
}

static long read_number(const char *path)
{
	char text[32] = "";
	int fd = open(path, O_RDONLY);

	if (fd < 0)
		return -errno;
	if (read(fd, text, sizeof(text) - 1) < 0)
		text[0] = 0;
	close(fd);
	return strtol(text, NULL, 0);
}

static int run(const char *format, ...)
{
	char command[256];
	va_list args;

	va_start(args, format);
	vsnprintf(command, sizeof(command), format, args);
	va_end(args);
	return system(command);
}

/* A counter of /proc/net/udp_crypto_stat */
static unsigned long statistic(const char *name)
{
	unsigned long value = 0, found = 0;
	char key[64];
	FILE *file;

	file = fopen("/proc/self/net/udp_crypto_stat", "r");
	if (!file)
		return 0;
	while (fscanf(file, "%63s %lu", key, &value) == 2)
		if (!strcmp(key, name))
			found = value;
	fclose(file);
	return found;
}

static int new_namespace(void)
{
	if (unshare(CLONE_NEWNET))
		return -1;
	return open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC);
}

static bool supported(void)
{
	int fd = socket(AF_INET, SOCK_DGRAM, 0);
	struct udp_crypto_sa_info info;
	bool has = get_sa(fd, 0, &info) != -ENOPROTOOPT;

	close(fd);
	return has;
}

static void bind_and_connect(int tx, int rx, struct sockaddr *address,
			     socklen_t len)
{
	bind(rx, address, len);
	getsockname(rx, address, &len);
	connect(tx, address, len);
}

/* --- UDP_CRYPTO_STATE ------------------------------------------------------ */

FIXTURE(option)
{
	int fd;
	int other;
};

FIXTURE_VARIANT(option)
{
	int family;
};

FIXTURE_VARIANT_ADD(option, ipv4)
{
	.family = AF_INET,
};

FIXTURE_VARIANT_ADD(option, ipv6)
{
	.family = AF_INET6,
};

FIXTURE_SETUP(option)
{
	if (!supported())
		SKIP(return, "no CONFIG_UDP_CRYPTO");
	ASSERT_GE(new_namespace(), 0);
	self->fd = socket(variant->family, SOCK_DGRAM, 0);
	self->other = socket(variant->family, SOCK_DGRAM, 0);
	ASSERT_GE(self->fd, 0);
	ASSERT_GE(self->other, 0);
}

FIXTURE_TEARDOWN(option)
{
	close(self->fd);
	close(self->other);
}

TEST_F(option, capabilities)
{
	struct udp_crypto_caps caps = {
		.req.type = UDP_CRYPTO_QUIC,
		.req.op = UDP_CRYPTO_OP_GET_CAPS,
	};
	socklen_t len = sizeof(caps);

	ASSERT_EQ(0, getsockopt(self->fd, SOL_UDP, UDP_CRYPTO_STATE, &caps,
				&len));
	EXPECT_EQ(sizeof(caps), len);
	EXPECT_EQ(UDP_QUIC_TAG_LEN, caps.tag_len);
	EXPECT_NE(0, caps.ciphers & 1 << UDP_QUIC_CIPHER_AES_128_GCM);
	EXPECT_NE(0, caps.cmsg_flags & UDP_QUIC_CRYPTO_F_TAG_ROOM);
}

TEST_F(option, index_is_never_zero)
{
	ASSERT_EQ(0, add_sa(self->fd, 7, &keys_a));
	EXPECT_NE(0, sa_index(self->fd, 7));
}

TEST_F(option, each_has_an_index_of_its_own)
{
	ASSERT_EQ(0, add_sa(self->fd, 1, &keys_a));
	ASSERT_EQ(0, add_sa(self->fd, 2, &keys_b));
	EXPECT_NE(sa_index(self->fd, 1), sa_index(self->fd, 2));
}

TEST_F(option, cookie_is_of_the_socket)
{
	struct udp_crypto_sa_info info;

	ASSERT_EQ(0, add_sa(self->fd, 1, &keys_a));
	EXPECT_EQ(-ENOENT, get_sa(self->other, 1, &info));
	EXPECT_EQ(0, add_sa(self->other, 1, &keys_a));
}

TEST_F(option, cookie_is_taken_once)
{
	ASSERT_EQ(0, add_sa(self->fd, 1, &keys_a));
	EXPECT_EQ(-EEXIST, add_sa(self->fd, 1, &keys_b));
}

TEST_F(option, deleted_is_gone)
{
	struct udp_crypto_sa_info info;

	ASSERT_EQ(0, add_sa(self->fd, 1, &keys_a));
	EXPECT_EQ(0, del_sa(self->fd, 1));
	EXPECT_EQ(-ENOENT, get_sa(self->fd, 1, &info));
	EXPECT_EQ(-ENOENT, del_sa(self->fd, 1));
}

TEST_F(option, keys_are_not_shown)
{
	uint8_t answer[512] = {};
	struct udp_crypto_req req = {
		.type	= UDP_CRYPTO_QUIC,
		.op	= UDP_CRYPTO_OP_GET_SA,
		.cookie	= 1,
	};
	socklen_t len = sizeof(answer);

	ASSERT_EQ(0, add_sa(self->fd, 1, &keys_a));
	memcpy(answer, &req, sizeof(req));
	ASSERT_EQ(0, getsockopt(self->fd, SOL_UDP, UDP_CRYPTO_STATE, answer,
				&len));
	EXPECT_EQ(NULL, memmem(answer, sizeof(answer), keys_a.key, 8));
	EXPECT_EQ(NULL, memmem(answer, sizeof(answer), keys_a.hp_key, 8));
	EXPECT_EQ(NULL, memmem(answer, sizeof(answer), keys_a.iv, 8));
}

TEST_F(option, unknown_type)
{
	struct udp_crypto_req req = {
		.type	= UDP_CRYPTO_QUIC + 1,
		.op	= UDP_CRYPTO_OP_DEL_SA,
	};

	EXPECT_EQ(-1, setsockopt(self->fd, SOL_UDP, UDP_CRYPTO_STATE, &req,
				 sizeof(req)));
	EXPECT_EQ(EPROTONOSUPPORT, errno);
}

TEST_F(option, unknown_flag)
{
	EXPECT_EQ(-EINVAL, add_sa_limit(self->fd, 1, &keys_a, 1U << 31, 0));
}

TEST_F(option, unknown_cipher)
{
	struct udp_quic_keys keys = keys_a;

	keys.cipher = 99;
	EXPECT_EQ(-EOPNOTSUPP, add_sa(self->fd, 1, &keys));
}

TEST_F(option, key_too_long_for_the_cipher)
{
	struct udp_quic_keys keys = keys_a;

	keys.key[16] = 1;
	EXPECT_EQ(-EINVAL, add_sa(self->fd, 1, &keys));
}

TEST_F(option, too_short)
{
	struct udp_crypto_sa sa = {
		.req.type = UDP_CRYPTO_QUIC,
		.req.op = UDP_CRYPTO_OP_ADD_SA,
		.keys = keys_a,
	};

	EXPECT_EQ(-1, setsockopt(self->fd, SOL_UDP, UDP_CRYPTO_STATE, &sa,
				 sizeof(sa) - 1));
	EXPECT_EQ(EINVAL, errno);
}

TEST_F(option, what_a_newer_program_leaves_zero)
{
	struct {
		struct udp_crypto_sa	sa;
		uint64_t		later;
	} longer = {
		.sa.req.type = UDP_CRYPTO_QUIC,
		.sa.req.op = UDP_CRYPTO_OP_ADD_SA,
		.sa.keys = keys_a,
	};

	EXPECT_EQ(0, setsockopt(self->fd, SOL_UDP, UDP_CRYPTO_STATE, &longer,
				sizeof(longer)));
	longer.sa.req.cookie = 1;
	longer.later = 1;
	EXPECT_EQ(-1, setsockopt(self->fd, SOL_UDP, UDP_CRYPTO_STATE, &longer,
				 sizeof(longer)));
	EXPECT_EQ(E2BIG, errno);
}

/* --- RFC 9001 appendix A --------------------------------------------------- */

FIXTURE(vector)
{
	int tx;
	int rx;
};

FIXTURE_VARIANT(vector)
{
	struct udp_quic_keys	keys;
	uint64_t		pn;
	uint16_t		pn_offset;
	const char		*packet;
	size_t			len;
	const char		*wire;
};

/* A.3: the server's Initial packet */
FIXTURE_VARIANT_ADD(vector, server_initial)
{
	.keys = {
		.cipher	= UDP_QUIC_CIPHER_AES_128_GCM,
		.iv	= "\x0a\xc1\x49\x3c\xa1\x90\x58\x53\xb0\xbb\xa0\x3e",
		.key	= "\xcf\x3a\x53\x31\x65\x3c\x36\x4c"
			  "\x88\xf0\xf3\x79\xb6\x06\x7e\x37",
		.hp_key	= "\xc2\x06\xb8\xd9\xb9\xf0\xf3\x76"
			  "\x44\x43\x0b\x49\x0e\xea\xa3\x14",
	},
	.pn = 1,
	.pn_offset = 18,
	.packet = "\xc1\x00\x00\x00\x01\x00\x08\xf0\x67\xa5\x50\x2a\x42\x62"
		  "\xb5\x00\x40\x75\x00\x01\x02\x00\x00\x00\x00\x06\x00\x40"
		  "\x5a\x02\x00\x00\x56\x03\x03\xee\xfc\xe7\xf7\xb3\x7b\xa1"
		  "\xd1\x63\x2e\x96\x67\x78\x25\xdd\xf7\x39\x88\xcf\xc7\x98"
		  "\x25\xdf\x56\x6d\xc5\x43\x0b\x9a\x04\x5a\x12\x00\x13\x01"
		  "\x00\x00\x2e\x00\x33\x00\x24\x00\x1d\x00\x20\x9d\x3c\x94"
		  "\x0d\x89\x69\x0b\x84\xd0\x8a\x60\x99\x3c\x14\x4e\xca\x68"
		  "\x4d\x10\x81\x28\x7c\x83\x4d\x53\x11\xbc\xf3\x2b\xb9\xda"
		  "\x1a\x00\x2b\x00\x02\x03\x04",
	.len = 119,
	.wire = "\xcf\x00\x00\x00\x01\x00\x08\xf0\x67\xa5\x50\x2a\x42\x62"
		"\xb5\x00\x40\x75\xc0\xd9\x5a\x48\x2c\xd0\x99\x1c\xd2\x5b"
		"\x0a\xac\x40\x6a\x58\x16\xb6\x39\x41\x00\xf3\x7a\x1c\x69"
		"\x79\x75\x54\x78\x0b\xb3\x8c\xc5\xa9\x9f\x5e\xde\x4c\xf7"
		"\x3c\x3e\xc2\x49\x3a\x18\x39\xb3\xdb\xcb\xa3\xf6\xea\x46"
		"\xc5\xb7\x68\x4d\xf3\x54\x8e\x7d\xde\xb9\xc3\xbf\x9c\x73"
		"\xcc\x3f\x3b\xde\xd7\x4b\x56\x2b\xfb\x19\xfb\x84\x02\x2f"
		"\x8e\xf4\xcd\xd9\x37\x95\xd7\x7d\x06\xed\xbb\x7a\xaf\x2f"
		"\x58\x89\x18\x50\xab\xbd\xca\x3d\x20\x39\x8c\x27\x64\x56"
		"\xcb\xc4\x21\x58\x40\x7d\xd0\x74\xee",
};

/* A.5: a packet with a short header */
FIXTURE_VARIANT_ADD(vector, chacha20_short_header)
{
	.keys = {
		.cipher	= UDP_QUIC_CIPHER_CHACHA20_POLY1305,
		.iv	= "\xe0\x45\x9b\x34\x74\xbd\xd0\xe4\x4a\x41\xc1\x44",
		.key	= "\xc6\xd9\x8f\xf3\x44\x1c\x3f\xe1"
			  "\xb2\x18\x20\x94\xf6\x9c\xaa\x2e"
			  "\xd4\xb7\x16\xb6\x54\x88\x96\x0a"
			  "\x7a\x98\x49\x79\xfb\x23\xe1\xc8",
		.hp_key	= "\x25\xa2\x82\xb9\xe8\x2f\x06\xf2"
			  "\x1f\x48\x89\x17\xa4\xfc\x8f\x1b"
			  "\x73\x57\x36\x85\x60\x85\x97\xd0"
			  "\xef\xcb\x07\x6b\x0a\xb7\xa7\xa4",
	},
	.pn = 654360564,
	.pn_offset = 1,
	.packet = "\x42\x00\xbf\xf4\x01",
	.len = 5,
	.wire = "\x4c\xfe\x41\x89\x65\x5e\x5c\xd5\x5c\x41\xf6\x90\x80\x57"
		"\x5d\x79\x99\xc2\x5a\x5b\xfb",
};

FIXTURE_SETUP(vector)
{
	struct sockaddr_in address = {
		.sin_family = AF_INET,
		.sin_addr.s_addr = htonl(INADDR_LOOPBACK),
	};

	if (!supported())
		SKIP(return, "no CONFIG_UDP_CRYPTO");
	ASSERT_GE(new_namespace(), 0);
	ASSERT_EQ(0, run("ip link set lo up"));
	self->tx = socket(AF_INET, SOCK_DGRAM, 0);
	self->rx = socket(AF_INET, SOCK_DGRAM, 0);
	bind_and_connect(self->tx, self->rx, (struct sockaddr *)&address,
			 sizeof(address));
}

FIXTURE_TEARDOWN(vector)
{
	close(self->tx);
	close(self->rx);
}

TEST_F(vector, from_an_index)
{
	size_t len = variant->len + UDP_QUIC_TAG_LEN;
	uint8_t wire[256];

	ASSERT_EQ(0, add_sa(self->tx, 1, &variant->keys));
	ASSERT_EQ(variant->len,
		  send_request(self->tx, &(struct request){
			.data = variant->packet, .len = variant->len,
			.pn = variant->pn, .sa = sa_index(self->tx, 1),
			.pn_offset = variant->pn_offset }));
	ASSERT_EQ(len, receive(self->rx, wire, sizeof(wire), PATIENCE_MS));
	EXPECT_EQ(0, memcmp(variant->wire, wire, len));
}

TEST_F(vector, from_inline_keys)
{
	size_t len = variant->len + UDP_QUIC_TAG_LEN;
	uint8_t wire[256];

	ASSERT_EQ(variant->len,
		  send_request(self->tx, &(struct request){
			.data = variant->packet, .len = variant->len,
			.pn = variant->pn, .keys = &variant->keys,
			.pn_offset = variant->pn_offset }));
	ASSERT_EQ(len, receive(self->rx, wire, sizeof(wire), PATIENCE_MS));
	EXPECT_EQ(0, memcmp(variant->wire, wire, len));
}

/* --- UDP_QUIC_CRYPTO ------------------------------------------------------- */

FIXTURE(send)
{
	int tx;
	int rx;
	uint32_t sa;
	uint8_t packet[WIRE];
	uint8_t wire[65536];
};

FIXTURE_VARIANT(send)
{
	int family;
};

FIXTURE_VARIANT_ADD(send, ipv4)
{
	.family = AF_INET,
};

FIXTURE_VARIANT_ADD(send, ipv6)
{
	.family = AF_INET6,
};

FIXTURE_SETUP(send)
{
	struct sockaddr_in6 v6 = {
		.sin6_family = AF_INET6,
		.sin6_addr = IN6ADDR_LOOPBACK_INIT,
	};
	struct sockaddr_in v4 = {
		.sin_family = AF_INET,
		.sin_addr.s_addr = htonl(INADDR_LOOPBACK),
	};

	if (!supported())
		SKIP(return, "no CONFIG_UDP_CRYPTO");
	ASSERT_GE(new_namespace(), 0);
	ASSERT_EQ(0, run("ip link set lo up"));
	self->tx = socket(variant->family, SOCK_DGRAM, 0);
	self->rx = socket(variant->family, SOCK_DGRAM, 0);
	if (variant->family == AF_INET)
		bind_and_connect(self->tx, self->rx, (struct sockaddr *)&v4,
				 sizeof(v4));
	else
		bind_and_connect(self->tx, self->rx, (struct sockaddr *)&v6,
				 sizeof(v6));
	ASSERT_EQ(0, add_sa(self->tx, 1, &keys_a));
	self->sa = sa_index(self->tx, 1);
	make_packet(self->packet, PACKET, 42);
}

FIXTURE_TEARDOWN(send)
{
	close(self->tx);
	close(self->rx);
}

/* What each test of an error changes one thing of */
#define GOOD_REQUEST(...) (&(struct request){				\
	.data = self->packet, .len = PACKET, .pn = 42, .sa = self->sa,	\
	.pn_offset = PN_OFFSET, __VA_ARGS__ })
#define SEND(...) send_request(self->tx, GOOD_REQUEST(__VA_ARGS__))

#define EXPECT_REFUSED(error, ...) do {					\
	EXPECT_EQ(-(error), SEND(__VA_ARGS__));				\
	EXPECT_EQ(-EAGAIN, receive(self->rx, self->wire,		\
				   sizeof(self->wire), SILENCE_MS));	\
} while (0)

/* Taken, and gone: the number is used. */
#define EXPECT_LOST(...) do {						\
	unsigned long lost = statistic("TxLost");			\
									\
	EXPECT_EQ(PACKET, SEND(__VA_ARGS__));				\
	EXPECT_EQ(-EAGAIN, receive(self->rx, self->wire,		\
				   sizeof(self->wire), SILENCE_MS));	\
	EXPECT_EQ(lost + 1, statistic("TxLost"));			\
	EXPECT_REFUSED(EALREADY, __VA_ARGS__);				\
} while (0)

TEST_F(send, returns_what_was_taken)
{
	EXPECT_EQ(PACKET, SEND());
}

TEST_F(send, a_tag_is_appended)
{
	ASSERT_EQ(PACKET, SEND());
	EXPECT_EQ(WIRE, receive(self->rx, self->wire, sizeof(self->wire),
				PATIENCE_MS));
}

TEST_F(send, plaintext_does_not_arrive)
{
	ASSERT_EQ(PACKET, SEND());
	ASSERT_EQ(WIRE, receive(self->rx, self->wire, sizeof(self->wire),
				PATIENCE_MS));
	EXPECT_FALSE(has_plaintext(self->wire, WIRE));
}

TEST_F(send, tag_room_gives_the_same_bytes)
{
	uint8_t wire[WIRE];

	ASSERT_EQ(PACKET, SEND());
	ASSERT_EQ(WIRE, receive(self->rx, wire, sizeof(wire), PATIENCE_MS));
	memset(self->packet + PACKET, 0xee, UDP_QUIC_TAG_LEN);
	ASSERT_EQ(WIRE, SEND(.len = WIRE,
			     .flags = UDP_QUIC_CRYPTO_F_TAG_ROOM));
	ASSERT_EQ(WIRE, receive(self->rx, self->wire, sizeof(self->wire),
				PATIENCE_MS));
	EXPECT_EQ(0, memcmp(wire, self->wire, WIRE));
}

TEST_F(send, batch_is_numbered)
{
	uint8_t batch[3 * PACKET], wires[3][WIRE];
	unsigned int i;

	for (i = 0; i < 3; i++)
		make_packet(batch + i * PACKET, PACKET, 42 + i);
	ASSERT_EQ(sizeof(batch), SEND(.data = batch, .len = sizeof(batch),
				      .gso_size = WIRE));
	for (i = 0; i < 3; i++)
		ASSERT_EQ(WIRE, receive(self->rx, wires[i], WIRE, PATIENCE_MS));
	for (i = 0; i < 3; i++) {
		ASSERT_EQ(PACKET, SEND(.data = batch + i * PACKET,
				       .pn = 42 + i));
		ASSERT_EQ(WIRE, receive(self->rx, self->wire,
					sizeof(self->wire), PATIENCE_MS));
		EXPECT_EQ(0, memcmp(wires[i], self->wire, WIRE));
	}
}

TEST_F(send, zerocopy_leaves_the_pages_alone)
{
	uint8_t before[WIRE];
	int one = 1;

	ASSERT_EQ(0, setsockopt(self->tx, SOL_SOCKET, SO_ZEROCOPY, &one,
				sizeof(one)));
	memcpy(before, self->packet, WIRE);
	ASSERT_EQ(WIRE, SEND(.len = WIRE, .flags = UDP_QUIC_CRYPTO_F_TAG_ROOM,
			     .msg_flags = MSG_ZEROCOPY));
	ASSERT_EQ(WIRE, receive(self->rx, self->wire, sizeof(self->wire),
				PATIENCE_MS));
	EXPECT_FALSE(has_plaintext(self->wire, WIRE));
	EXPECT_EQ(0, memcmp(before, self->packet, WIRE));
}

TEST_F(send, counts)
{
	struct udp_crypto_sa_info info;

	ASSERT_EQ(PACKET, SEND());
	ASSERT_EQ(0, get_sa(self->tx, 1, &info));
	EXPECT_EQ(1, info.packets);
	EXPECT_EQ(WIRE, info.bytes);
	EXPECT_EQ(1, statistic("TxPackets"));
	EXPECT_EQ(1, statistic("TxSoftware"));
}

TEST_F(send, refuses_an_unknown_index)
{
	EXPECT_REFUSED(ENOENT, .sa = self->sa + 1);
}

TEST_F(send, refuses_a_deleted_sa)
{
	ASSERT_EQ(0, del_sa(self->tx, 1));
	EXPECT_REFUSED(ENOENT);
}

TEST_F(send, refuses_an_sa_of_another_socket)
{
	int other = socket(variant->family, SOCK_DGRAM, 0);

	ASSERT_EQ(0, add_sa(other, 1, &keys_b));
	EXPECT_REFUSED(EACCES, .sa = sa_index(other, 1));
	close(other);
}

TEST_F(send, does_not_tell_of_an_sa_of_another_user)
{
	int other;

	if (seteuid(65534))
		SKIP(return, "only root has other users");
	other = socket(variant->family, SOCK_DGRAM, 0);
	ASSERT_EQ(0, seteuid(0));
	ASSERT_EQ(0, add_sa_limit(other, 1, &keys_b, UDP_CRYPTO_SA_F_SAME_UID,
				  0));
	EXPECT_REFUSED(ENOENT, .sa = sa_index(other, 1));
	close(other);
}

TEST_F(send, takes_a_shared_sa_of_another_socket)
{
	int other = socket(variant->family, SOCK_DGRAM, 0);

	ASSERT_EQ(0, add_sa_limit(other, 1, &keys_b, UDP_CRYPTO_SA_F_SAME_UID,
				  0));
	EXPECT_EQ(PACKET, SEND(.sa = sa_index(other, 1)));
	close(other);
}

TEST_F(send, refuses_a_number_that_the_packet_does_not_have)
{
	EXPECT_REFUSED(EBADMSG, .pn = 43);
}

TEST_F(send, refuses_a_number_beyond_62_bits)
{
	EXPECT_REFUSED(EINVAL, .pn = UDP_QUIC_PN_MAX + 1);
}

TEST_F(send, refuses_a_packet_too_short_for_a_sample)
{
	EXPECT_REFUSED(ENODATA, .len = PN_OFFSET + 3);
}

TEST_F(send, refuses_more_than_the_limit)
{
	ASSERT_EQ(0, add_sa_limit(self->tx, 2, &keys_b, 0, 1));
	self->sa = sa_index(self->tx, 2);
	ASSERT_EQ(PACKET, SEND());
	ASSERT_EQ(WIRE, receive(self->rx, self->wire, sizeof(self->wire),
				PATIENCE_MS));
	EXPECT_REFUSED(EKEYEXPIRED);
}

TEST_F(send, refuses_an_unknown_flag)
{
	EXPECT_REFUSED(EINVAL, .flags = 0x8000);
}

TEST_F(send, refuses_trailing_garbage)
{
	EXPECT_REFUSED(E2BIG, .cmsg_extra = 8);
}

TEST_F(send, refuses_corking)
{
	EXPECT_REFUSED(EBUSY, .msg_flags = MSG_MORE);
}

TEST_F(send, refuses_what_would_be_fragmented)
{
	ASSERT_EQ(0, run("ip link set lo mtu 1280"));
	make_packet(self->wire, 1400, 42);
	EXPECT_REFUSED(EMSGSIZE, .data = self->wire, .len = 1400);
}

/* By the protection (a packet) and by UDP_SEGMENT (a batch) */
TEST_F(send, refused_zerocopy_has_no_completion)
{
	int one = 1;

	ASSERT_EQ(0, setsockopt(self->tx, SOL_SOCKET, SO_ZEROCOPY, &one,
				sizeof(one)));
	ASSERT_EQ(0, run("ip link set lo mtu 1280"));
	EXPECT_REFUSED(EMSGSIZE, .data = self->wire, .len = 1400,
		       .flags = UDP_QUIC_CRYPTO_F_TAG_ROOM,
		       .msg_flags = MSG_ZEROCOPY);
	EXPECT_EQ(-EAGAIN, completion(self->tx));
	EXPECT_REFUSED(EMSGSIZE, .data = self->wire, .len = 2800,
		       .gso_size = 1400, .flags = UDP_QUIC_CRYPTO_F_TAG_ROOM,
		       .msg_flags = MSG_ZEROCOPY);
	EXPECT_EQ(-EAGAIN, completion(self->tx));

	ASSERT_EQ(WIRE, SEND(.len = WIRE, .flags = UDP_QUIC_CRYPTO_F_TAG_ROOM,
			     .msg_flags = MSG_ZEROCOPY));
	ASSERT_EQ(WIRE, receive(self->rx, self->wire, sizeof(self->wire),
				PATIENCE_MS));
	EXPECT_EQ(0, completion(self->tx));
}

TEST_F(send, loses_what_a_queue_has_no_room_for)
{
	ASSERT_EQ(0, add_guarded_sa(self->tx, 2, variant->family));
	self->sa = sa_index(self->tx, 2);
	ASSERT_EQ(0, run("tc qdisc replace dev lo root pfifo limit 0"));
	EXPECT_LOST();
}

/* --- a device with the offload --------------------------------------------- */

FIXTURE(device)
{
	unsigned int id;
	int ns_a;
	int ns_b;
	char name[IF_NAMESIZE];
	int tx;
	int rx;
	uint32_t sa;
	uint8_t packet[WIRE];
	uint8_t wire[WIRE + 1];
};

FIXTURE_VARIANT(device)
{
	int family;
	bool segmentation;
};

FIXTURE_VARIANT_ADD(device, ipv4)
{
	.family = AF_INET,
	.segmentation = true,
};

FIXTURE_VARIANT_ADD(device, ipv6)
{
	.family = AF_INET6,
	.segmentation = true,
};

/* The stack cuts batches before the device has them. */
FIXTURE_VARIANT_ADD(device, ipv4_no_segmentation)
{
	.family = AF_INET,
};

/* Makes a device in the present namespace, which had but a loopback device. */
static int make_device(unsigned int id, char name[IF_NAMESIZE])
{
	struct if_nameindex *all, *each;
	int index = 0;

	if (write_text("/sys/bus/netdevsim/new_device", "%u 1", id))
		return -1;
	all = if_nameindex();
	for (each = all; each && each->if_index; each++) {
		if (strcmp(each->if_name, "lo")) {
			snprintf(name, IF_NAMESIZE, "%s", each->if_name);
			index = each->if_index;
		}
	}
	if_freenameindex(all);
	return index;
}

static void debugfs_path(char *path, size_t size, unsigned int id,
			 const char *file)
{
	snprintf(path, size,
		 "/sys/kernel/debug/netdevsim/netdevsim%u/ports/0/udp_crypto/%s",
		 id, file);
}

static long knob(unsigned int id, const char *file)
{
	char path[128];

	debugfs_path(path, sizeof(path), id, file);
	return read_number(path);
}

static int set_knob(unsigned int id, const char *file, const char *value)
{
	char path[128];

	debugfs_path(path, sizeof(path), id, file);
	return write_text(path, "%s", value);
}

/* Until the device has the SA of @cookie, or not */
static bool becomes(int fd, uint64_t cookie, uint32_t state)
{
	int patience = PATIENCE_MS / 10;

	while (sa_state(fd, cookie) != state && patience--)
		usleep(10000);
	return sa_state(fd, cookie) == state;
}

FIXTURE_SETUP(device)
{
	struct sockaddr_in6 v6 = { .sin6_family = AF_INET6 };
	struct sockaddr_in v4 = { .sin_family = AF_INET };
	int index_a, index_b;
	char name[IF_NAMESIZE];

	if (!supported())
		SKIP(return, "no CONFIG_UDP_CRYPTO");
	if (access("/sys/bus/netdevsim", F_OK) &&
	    run("modprobe -q netdevsim 2>/dev/null"))
		SKIP(return, "no CONFIG_NETDEVSIM");
	if (run("command -v ethtool >/dev/null"))
		SKIP(return, "no ethtool");
	if (access("/sys/kernel/debug/netdevsim", F_OK))
		ASSERT_EQ(0, mount("debugfs", "/sys/kernel/debug", "debugfs", 0,
				   NULL));

	/* not those of somebody else's test */
	self->id = 100000 + 2 * (getpid() % 100000);
	self->ns_b = new_namespace();
	index_b = make_device(self->id + 1, name);
	ASSERT_GT(index_b, 0);
	ASSERT_EQ(0, run("ip addr add 192.0.2.2/24 dev %s", name));
	ASSERT_EQ(0, run("ip addr add 2001:db8::2/64 dev %s nodad", name));
	ASSERT_EQ(0, run("ip link set %s up", name));
	self->rx = socket(variant->family, SOCK_DGRAM, 0);

	self->ns_a = new_namespace();
	index_a = make_device(self->id, self->name);
	ASSERT_GT(index_a, 0);
	ASSERT_EQ(0, write_text("/sys/bus/netdevsim/link_device", "%d:%d %d:%d",
				self->ns_a, index_a, self->ns_b, index_b));
	ASSERT_EQ(0, run("ip addr add 192.0.2.1/24 dev %s", self->name));
	ASSERT_EQ(0, run("ip addr add 2001:db8::1/64 dev %s nodad",
			 self->name));
	ASSERT_EQ(0, run("ip link set %s up", self->name));
	ASSERT_EQ(0, run("ethtool -K %s udp-crypto-hw-tx-offload on tx-udp-segmentation %s",
			 self->name, variant->segmentation ? "on" : "off"));
	self->tx = socket(variant->family, SOCK_DGRAM, 0);

	inet_pton(AF_INET, "192.0.2.2", &v4.sin_addr);
	inet_pton(AF_INET6, "2001:db8::2", &v6.sin6_addr);
	if (variant->family == AF_INET)
		bind_and_connect(self->tx, self->rx, (struct sockaddr *)&v4,
				 sizeof(v4));
	else
		bind_and_connect(self->tx, self->rx, (struct sockaddr *)&v6,
				 sizeof(v6));
	ASSERT_EQ(0, add_sa(self->tx, 1, &keys_a));
	self->sa = sa_index(self->tx, 1);
	make_packet(self->packet, PACKET, 42);
}

FIXTURE_TEARDOWN(device)
{
	close(self->tx);
	close(self->rx);
	if (self->id) {
		write_text("/sys/bus/netdevsim/del_device", "%u", self->id);
		write_text("/sys/bus/netdevsim/del_device", "%u", self->id + 1);
	}
}

/* One packet there, whoever encrypts it */
#define EXPECT_ARRIVES(...) do {					\
	ASSERT_EQ(PACKET, SEND(__VA_ARGS__));				\
	ASSERT_EQ(WIRE, receive(self->rx, self->wire,			\
				sizeof(self->wire), PATIENCE_MS));	\
	EXPECT_FALSE(has_plaintext(self->wire, WIRE));			\
} while (0)

/* The first packet makes the device take the SA in. */
#define EXPECT_SETTLES(cookie, ...) do {				\
	EXPECT_ARRIVES(__VA_ARGS__);					\
	ASSERT_TRUE(becomes(self->tx, cookie, UDP_CRYPTO_SA_DEVICE));	\
} while (0)

TEST_F(device, takes_the_sa_in)
{
	EXPECT_EQ(UDP_CRYPTO_SA_SOFTWARE, sa_state(self->tx, 1));
	EXPECT_SETTLES(1);
	EXPECT_EQ(1, knob(self->id, "sa_count"));
}

TEST_F(device, encrypts)
{
	long tx;

	EXPECT_SETTLES(1);
	tx = knob(self->id, "tx");
	EXPECT_ARRIVES();
	EXPECT_EQ(tx + 1, knob(self->id, "tx"));
}

TEST_F(device, gives_the_bytes_that_software_gives)
{
	uint8_t wire[WIRE];

	EXPECT_ARRIVES(.keys = &keys_a);
	memcpy(wire, self->wire, WIRE);
	EXPECT_SETTLES(1);
	EXPECT_ARRIVES();
	EXPECT_EQ(0, memcmp(wire, self->wire, WIRE));
}

TEST_F(device, encrypts_a_batch)
{
	uint8_t batch[4 * PACKET], wire[4][WIRE];
	unsigned int i;
	long tx;

	EXPECT_SETTLES(1);
	tx = knob(self->id, "tx");
	for (i = 0; i < 4; i++)
		make_packet(batch + i * PACKET, PACKET, 50 + i);
	ASSERT_EQ(sizeof(batch), SEND(.data = batch, .len = sizeof(batch),
				      .pn = 50, .gso_size = WIRE));
	for (i = 0; i < 4; i++)
		ASSERT_EQ(WIRE, receive(self->rx, wire[i], WIRE, PATIENCE_MS));
	EXPECT_EQ(tx + 4, knob(self->id, "tx"));
	for (i = 0; i < 4; i++) {
		EXPECT_ARRIVES(.data = batch + i * PACKET, .pn = 50 + i,
			       .keys = &keys_a);
		EXPECT_EQ(0, memcmp(wire[i], self->wire, WIRE));
	}
}

TEST_F(device, loses_what_its_queue_has_no_room_for)
{
	ASSERT_EQ(0, add_guarded_sa(self->tx, 2, variant->family));
	self->sa = sa_index(self->tx, 2);
	EXPECT_SETTLES(2);
	ASSERT_EQ(0, run("tc qdisc replace dev %s root pfifo limit 0",
			 self->name));
	make_packet(self->packet, PACKET, 43);
	EXPECT_LOST(.pn = 43);
}

TEST_F(device, is_left_alone_when_it_is_off)
{
	long tx;

	EXPECT_SETTLES(1);
	ASSERT_EQ(0, run("ethtool -K %s udp-crypto-hw-tx-offload off",
			 self->name));
	tx = knob(self->id, "tx");
	EXPECT_ARRIVES();
	EXPECT_EQ(tx, knob(self->id, "tx"));
	EXPECT_EQ(UDP_CRYPTO_SA_SOFTWARE, sa_state(self->tx, 1));
}

TEST_F(device, forgets_a_deleted_sa)
{
	EXPECT_SETTLES(1);
	ASSERT_EQ(0, del_sa(self->tx, 1));
	EXPECT_EQ(0, knob(self->id, "sa_count"));
}

TEST_F(device, forgets_the_sas_of_a_closed_socket)
{
	EXPECT_SETTLES(1);
	close(self->tx);
	self->tx = -1;
	EXPECT_EQ(0, knob(self->id, "sa_count"));
}

TEST_F(device, that_is_full_leaves_the_rest_to_software)
{
	ASSERT_EQ(0, set_knob(self->id, "sa_max", "1"));
	EXPECT_SETTLES(1);
	ASSERT_EQ(0, add_sa(self->tx, 2, &keys_b));
	EXPECT_ARRIVES(.sa = sa_index(self->tx, 2));
	EXPECT_ARRIVES(.sa = sa_index(self->tx, 2));
	EXPECT_EQ(UDP_CRYPTO_SA_SOFTWARE, sa_state(self->tx, 2));
}

TEST_F(device, has_room_again)
{
	ASSERT_EQ(0, set_knob(self->id, "sa_max", "1"));
	EXPECT_SETTLES(1);
	ASSERT_EQ(0, add_sa(self->tx, 2, &keys_b));
	ASSERT_EQ(0, del_sa(self->tx, 1));
	EXPECT_SETTLES(2, .sa = sa_index(self->tx, 2));
}

TEST_F(device, that_takes_no_sa_leaves_it_to_software)
{
	ASSERT_EQ(0, set_knob(self->id, "install", "N"));
	EXPECT_ARRIVES();
	EXPECT_ARRIVES();
	EXPECT_EQ(0, knob(self->id, "tx"));
	EXPECT_EQ(2, statistic("TxSoftware"));
}

TEST_F(device, leaves_unknown_ciphers_to_software)
{
	/* all but that of keys_a */
	ASSERT_EQ(0, set_knob(self->id, "ciphers", "0x1c"));
	EXPECT_ARRIVES();
	EXPECT_ARRIVES();
	EXPECT_EQ(0, knob(self->id, "tx"));
	EXPECT_EQ(UDP_CRYPTO_SA_SOFTWARE, sa_state(self->tx, 1));
}

TEST_F(device, that_goes_takes_no_sa_with_it)
{
	struct udp_crypto_sa_info info;

	EXPECT_SETTLES(1);
	ASSERT_EQ(0, write_text("/sys/bus/netdevsim/del_device", "%u",
				self->id));
	ASSERT_EQ(0, get_sa(self->tx, 1, &info));
	EXPECT_EQ(UDP_CRYPTO_SA_SOFTWARE, info.state);
	EXPECT_EQ(0, info.ifindex);
}

TEST_HARNESS_MAIN
