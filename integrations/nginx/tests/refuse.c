/* SPDX-License-Identifier: GPL-2.0 */
/*
 * For LD_PRELOAD: makes the kernel refuse protected sends of nginx. As long as the
 * file that REFUSE_FILE names is there, each sendmsg() with UDP_QUIC_CRYPTO
 *   "errno N"  fails with that errno; nothing is sent, as the kernel promises
 *   "delete"   first deletes the SA, as nginx would, so that the kernel does not find it
 * and the file is removed, so it happens once; with a "+" before it the file stays.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include <udp_quic_offload.h>

static uint64_t cookies[1024]; /* by SA index, as far as it goes */
static uint64_t last_cookie;

static const struct udp_quic_crypto *find(const struct msghdr *message)
{
    struct cmsghdr *cmsg;

    for (cmsg = CMSG_FIRSTHDR(message); cmsg != NULL;
         cmsg = CMSG_NXTHDR((struct msghdr *)message, cmsg))
        if (cmsg->cmsg_level == IPPROTO_UDP && cmsg->cmsg_type == UDP_QUIC_CRYPTO)
            return (const struct udp_quic_crypto *)CMSG_DATA(cmsg);
    return NULL;
}

int setsockopt(int fd, int level, int name, const void *value, socklen_t length)
{
    int (*next)(int, int, int, const void *, socklen_t);

    *(void **)&next = dlsym(RTLD_NEXT, "setsockopt");
    if (level == IPPROTO_UDP && name == UDP_CRYPTO_STATE)
        last_cookie = ((const struct udp_crypto_req *)value)->cookie;
    return next(fd, level, name, value, length);
}

/* Asked for the index right after an SA was added. */
int getsockopt(int fd, int level, int name, void *value, socklen_t *length)
{
    int (*next)(int, int, int, void *, socklen_t *);
    int rc;

    *(void **)&next = dlsym(RTLD_NEXT, "getsockopt");
    rc = next(fd, level, name, value, length);
    if (rc == 0 && level == IPPROTO_UDP && name == UDP_CRYPTO_STATE)
        cookies[((const struct udp_crypto_sa_info *)value)->sa % 1024] = last_cookie;
    return rc;
}

ssize_t sendmsg(int fd, const struct msghdr *message, int flags)
{
    const struct udp_quic_crypto *crypto = find(message);
    const char *path = getenv("REFUSE_FILE");
    ssize_t (*next)(int, const struct msghdr *, int);
    char line[32] = "", *word = line;
    FILE *file = NULL;

    *(void **)&next = dlsym(RTLD_NEXT, "sendmsg");
    if (crypto != NULL && path != NULL)
        file = fopen(path, "r");
    if (file == NULL)
        return next(fd, message, flags);
    if (fgets(line, sizeof(line), file) == NULL)
        line[0] = '\0';
    fclose(file);
    if (*word == '+')
        ++word;
    else
        unlink(path);
    if (strncmp(word, "errno ", 6) == 0) {
        errno = atoi(word + 6);
        return -1;
    }
    if (strncmp(word, "delete", 6) == 0) {
        struct quic_offload_sa sa = {fd, crypto->sa, cookies[crypto->sa % 1024]};

        quic_offload_sa_remove(&sa);
    }
    return next(fd, message, flags);
}
