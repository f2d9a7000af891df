// SPDX-License-Identifier: GPL-2.0
/*
 * A 32-bit program on a 64-bit kernel: the structures have one layout, and control messages, which
 * are aligned to 4 bytes here, come through whole. Sends the packet of RFC 9001 appendix A.5 in both
 * forms and compares what arrives with what the RFC prints.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <linux/udp_crypto.h>

_Static_assert(sizeof(void *) == 4, "this is about 32 bits");
_Static_assert(sizeof(struct udp_crypto_req) == 16, "");
_Static_assert(sizeof(struct udp_quic_keys) == 80, "");
_Static_assert(sizeof(struct udp_crypto_sa) == 104, "");
_Static_assert(sizeof(struct udp_crypto_sa_info) == 80, "");
_Static_assert(sizeof(struct udp_crypto_caps) == 40, "");
_Static_assert(sizeof(struct udp_quic_crypto) == 16, "");
_Static_assert(sizeof(struct udp_quic_crypto_inline) == 96, "");

#ifndef SOL_UDP
#define SOL_UDP 17
#endif

static const struct udp_quic_keys keys = {
	.cipher = UDP_QUIC_CIPHER_CHACHA20_POLY1305,
	.iv = { 0xe0, 0x45, 0x9b, 0x34, 0x74, 0xbd, 0xd0, 0xe4, 0x4a, 0x41, 0xc1, 0x44 },
	.key = { 0xc6, 0xd9, 0x8f, 0xf3, 0x44, 0x1c, 0x3f, 0xe1, 0xb2, 0x18, 0x20,
		 0x94, 0xf6, 0x9c, 0xaa, 0x2e, 0xd4, 0xb7, 0x16, 0xb6, 0x54, 0x88,
		 0x96, 0x0a, 0x7a, 0x98, 0x49, 0x79, 0xfb, 0x23, 0xe1, 0xc8 },
	.hp_key = { 0x25, 0xa2, 0x82, 0xb9, 0xe8, 0x2f, 0x06, 0xf2, 0x1f, 0x48, 0x89,
		    0x17, 0xa4, 0xfc, 0x8f, 0x1b, 0x73, 0x57, 0x36, 0x85, 0x60, 0x85,
		    0x97, 0xd0, 0xef, 0xcb, 0x07, 0x6b, 0x0a, 0xb7, 0xa7, 0xa4 },
};
static const unsigned char plain[] = { 0x42, 0x00, 0xbf, 0xf4, 0x01 };
static const unsigned char expected[] = { 0x4c, 0xfe, 0x41, 0x89, 0x65, 0x5e, 0x5c,
					  0xd5, 0x5c, 0x41, 0xf6, 0x90, 0x80, 0x57,
					  0x5d, 0x79, 0x99, 0xc2, 0x5a, 0x5b, 0xfb };
static const unsigned long long pn = 654360564;

static int send_with(int fd, const struct sockaddr_in *to, const void *crypto, size_t len)
{
	union {
		char bytes[CMSG_SPACE(sizeof(struct udp_quic_crypto_inline))];
		struct cmsghdr align;
	} control;
	struct iovec iov = { (void *)plain, sizeof(plain) };
	struct msghdr msg = {
		.msg_name = (void *)to, .msg_namelen = sizeof(*to), .msg_iov = &iov, .msg_iovlen = 1,
		.msg_control = &control, .msg_controllen = CMSG_SPACE(len),
	};
	struct cmsghdr *cmsg = CMSG_FIRSTHDR(&msg);

	memset(&control, 0, sizeof(control));
	cmsg->cmsg_level = SOL_UDP;
	cmsg->cmsg_type = UDP_QUIC_CRYPTO;
	cmsg->cmsg_len = CMSG_LEN(len);
	memcpy(CMSG_DATA(cmsg), crypto, len);
	return sendmsg(fd, &msg, 0);
}

static int arrives(int fd, const char *what)
{
	unsigned char wire[64];
	ssize_t got = recv(fd, wire, sizeof(wire), 0);

	if (got == sizeof(expected) && !memcmp(wire, expected, sizeof(expected))) {
		printf("%s: as RFC 9001 A.5 has it\n", what);
		return 1;
	}
	printf("%s: FAILED, %zd bytes that are not the RFC's\n", what, got);
	return 0;
}

#define TRY(call)                                                          \
	do {                                                               \
		if ((call) < 0) {                                          \
			printf("FAILED: %s: %s\n", #call, strerror(errno)); \
			return 1;                                          \
		}                                                          \
	} while (0)

int main(void)
{
	struct sockaddr_in to = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	struct udp_quic_crypto_inline inline_form = {
		.crypto = { .pn = pn, .sa = UDP_QUIC_CRYPTO_SA_INLINE, .pn_offset = 1 }, .keys = keys,
	};
	struct udp_quic_crypto index_form = { .pn = pn, .pn_offset = 1 };
	struct udp_crypto_sa sa = {
		.req = { .type = UDP_CRYPTO_QUIC, .op = UDP_CRYPTO_OP_ADD_SA, .cookie = 1ULL << 40 },
		.packet_limit = 1ULL << 33, .keys = keys,
	};
	struct udp_crypto_sa_info info = {
		.req = { .type = UDP_CRYPTO_QUIC, .op = UDP_CRYPTO_OP_GET_SA, .cookie = 1ULL << 40 },
	};
	socklen_t len = sizeof(to), info_len = sizeof(info);
	struct timeval patience = { .tv_sec = 60 };
	int receiver, sender;

	TRY(receiver = socket(AF_INET, SOCK_DGRAM, 0));
	TRY(setsockopt(receiver, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience)));
	TRY(bind(receiver, (struct sockaddr *)&to, sizeof(to)));
	TRY(getsockname(receiver, (struct sockaddr *)&to, &len));
	TRY(sender = socket(AF_INET, SOCK_DGRAM, 0));
	TRY(setsockopt(sender, SOL_UDP, UDP_CRYPTO_STATE, &sa, sizeof(sa)));
	TRY(getsockopt(sender, SOL_UDP, UDP_CRYPTO_STATE, &info, &info_len));
	if (info_len != sizeof(info) || info.packet_limit != 1ULL << 33 || !info.sa) {
		printf("FAILED: the SA comes back as %u bytes, limit %llu, index %u\n", info_len,
		       (unsigned long long)info.packet_limit, info.sa);
		return 1;
	}
	index_form.sa = info.sa;
	TRY(send_with(sender, &to, &index_form, sizeof(index_form)));
	if (!arrives(receiver, "index form"))
		return 1;
	TRY(send_with(sender, &to, &inline_form, sizeof(inline_form)));
	if (!arrives(receiver, "inline form"))
		return 1;
	TRY(getsockopt(sender, SOL_UDP, UDP_CRYPTO_STATE, &info, &info_len));
	if (info.packets != 1) {
		printf("FAILED: %llu packets counted for the SA\n", (unsigned long long)info.packets);
		return 1;
	}
	return 0;
}
