// SPDX-License-Identifier: GPL-2.0
//
// Invariant (e): keys are zeroed on free and never readable again. The judge is all of the guest's
// memory, read through /proc/kcore, and everything the kernel writes about the socket.
#include <algorithm>
#include <cstring>
#include <functional>
#include <random>

#include <elf.h>
#include <fcntl.h>
#include <gtest/gtest.h>
#include <liburing.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>

#include "cgroup_bpf.h"
#include "loopback.h"
#include "raw_netlink.h"

namespace quic_test {
namespace {

constexpr std::size_t kSecret = 32;

// A secret that this process itself holds only in disguise, so that a scan of all memory does not
// find the searcher.
class Secret {
  public:
    explicit Secret(std::uint64_t seed) {
        std::mt19937_64 random(seed);
        for (std::uint8_t &byte : disguised_)
            byte = static_cast<std::uint8_t>(random());
    }
    void reveal(std::uint8_t *out) const {
        for (std::size_t i = 0; i < kSecret; ++i)
            out[i] = disguised_[i] ^ kMask;
    }
    // Whether the first half of it is at @at; half is as bad as all.
    bool is_at(const std::uint8_t *at) const {
        for (std::size_t i = 0; i < kSecret / 2; ++i)
            if (static_cast<std::uint8_t>(at[i] ^ kMask) != disguised_[i])
                return false;
        return true;
    }
    std::uint16_t first_two_bytes() const {
        const std::uint8_t bytes[2] = {static_cast<std::uint8_t>(disguised_[0] ^ kMask),
                                       static_cast<std::uint8_t>(disguised_[1] ^ kMask)};
        std::uint16_t out = 0;
        std::memcpy(&out, bytes, sizeof(out));
        return out;
    }

  private:
    static constexpr std::uint8_t kMask = 0xa7;
    std::uint8_t disguised_[kSecret];
};

// The vector registers of a process are in memory too while it is off the CPU.
__attribute__((target("avx"))) void clear_vector_registers_avx() {
    asm volatile("vzeroall" ::: "memory");
}
void clear_vector_registers() {
    if (__builtin_cpu_supports("avx"))
        clear_vector_registers_avx();
    else
        asm volatile(
            "pxor %%xmm0,%%xmm0; pxor %%xmm1,%%xmm1; pxor %%xmm2,%%xmm2; pxor %%xmm3,%%xmm3;"
            "pxor %%xmm4,%%xmm4; pxor %%xmm5,%%xmm5; pxor %%xmm6,%%xmm6; pxor %%xmm7,%%xmm7" ::
                : "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "memory");
}

// Marks in @found which of @secrets are in @bytes. Looks at every fourth byte: what the kernel
// keeps keys in is aligned at least so. One look into a table decides for nearly all of them.
void find_secrets(const std::vector<const Secret *> &secrets, ByteView bytes,
                  std::vector<unsigned> &found) {
    std::vector<std::uint8_t> candidate(65536, 0);
    for (const Secret *secret : secrets)
        candidate[secret->first_two_bytes()] = 1;
    for (std::size_t at = 0; at + kSecret / 2 <= bytes.size(); at += 4) {
        std::uint16_t start = 0;
        std::memcpy(&start, bytes.data() + at, sizeof(start));
        if (candidate[start] == 0)
            continue;
        for (std::size_t s = 0; s < secrets.size(); ++s)
            found[s] += secrets[s]->is_at(bytes.data() + at);
    }
}

bool found_in(const Secret &secret, ByteView bytes) {
    std::vector<unsigned> found(1, 0);
    find_secrets({&secret}, bytes, found);
    return found[0] > 0;
}

// How many of @secrets are anywhere in the direct map of physical memory: one flag each.
std::vector<unsigned> scan_memory(const std::vector<const Secret *> &secrets) {
    const UniqueFd kcore(::open("/proc/kcore", O_RDONLY | O_CLOEXEC));
    if (kcore.get() < 0)
        throw_errno("/proc/kcore");
    Elf64_Ehdr elf{};
    if (::pread(kcore.get(), &elf, sizeof(elf), 0) != sizeof(elf))
        throw_errno("/proc/kcore header");
    std::vector<unsigned> found(secrets.size(), 0);
    constexpr std::size_t kChunk = 1 << 20;
    Bytes buffer(kChunk);
    std::uint64_t scanned = 0;
    for (unsigned i = 0; i < elf.e_phnum; ++i) {
        Elf64_Phdr segment{};
        if (::pread(kcore.get(), &segment, sizeof(segment),
                    static_cast<off_t>(elf.e_phoff + i * elf.e_phentsize)) != sizeof(segment))
            throw_errno("/proc/kcore segment");
        // The direct map holds every page of RAM once; the rest are further views of it.
        if (segment.p_type != PT_LOAD || segment.p_paddr == ~std::uint64_t{0} ||
            segment.p_vaddr >= 0xffffffff80000000ULL)
            continue;
        for (std::uint64_t at = 0; at < segment.p_filesz;) {
            const std::size_t want = std::min<std::uint64_t>(kChunk, segment.p_filesz - at);
            const ssize_t got = ::pread(kcore.get(), buffer.data(), want,
                                        static_cast<off_t>(segment.p_offset + at));
            if (got <= 0) {
                at += 4096; // a hole
                continue;
            }
            find_secrets(secrets, ByteView(buffer).first(static_cast<std::size_t>(got)), found);
            // Not to be found in our own pages by the rest of the scan
            ::explicit_bzero(buffer.data(), static_cast<std::size_t>(got));
            at += static_cast<std::uint64_t>(got);
            scanned += static_cast<std::uint64_t>(got);
        }
    }
    if (scanned < (64U << 20))
        throw std::runtime_error("only " + std::to_string(scanned) + " bytes of memory scanned");
    return found;
}

// Scans until none of @secrets is there any more, or patience ends. Keys are freed after a grace
// period of RCU, so the first scan may still be too early.
std::vector<unsigned> scan_until_gone(const std::vector<const Secret *> &secrets) {
    std::vector<unsigned> found;
    eventually(
        [&] {
            found = scan_memory(secrets);
            return std::ranges::all_of(found, [](unsigned n) { return n == 0; });
        },
        std::chrono::seconds(10));
    return found;
}

// Adds an SA whose keys are the secrets, through a buffer that is wiped; no libc copies.
std::uint32_t add_secret_sa(int fd, Cipher cipher, std::uint64_t cookie, const Secret &key,
                            const Secret &hp, std::uint8_t *page) {
    auto *sa = reinterpret_cast<struct udp_crypto_sa *>(page);
    sa->req = request(UDP_CRYPTO_OP_ADD_SA, cookie);
    sa->packet_limit = 0;
    sa->keys.cipher = static_cast<std::uint16_t>(cipher);
    std::uint8_t bytes[kSecret];
    key.reveal(bytes);
    std::memcpy(sa->keys.key, bytes, key_length(cipher));
    hp.reveal(bytes);
    std::memcpy(sa->keys.hp_key, bytes, key_length(cipher));
    const int result = set_state(fd, sa, sizeof(*sa));
    ::explicit_bzero(bytes, sizeof(bytes));
    ::explicit_bzero(page, 4096);
    clear_vector_registers();
    if (result != 0) {
        errno = -result;
        throw_errno("UDP_CRYPTO_OP_ADD_SA");
    }
    return sa_index(fd, cookie);
}

class Secrets : public testing::Test {
  protected:
    Secrets()
        : page_(static_cast<std::uint8_t *>(
              ::mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0))) {
        ::mlock(page_, 4096);
    }
    ~Secrets() override { ::munmap(page_, 4096); }
    // Begins an inline-keys message in the page: header, form and pn_offset are there, the keys are
    // not.
    struct udp_quic_crypto_inline *inline_message(const PacketShape &shape) {
        auto *cmsg = reinterpret_cast<cmsghdr *>(page_);
        cmsg->cmsg_level = SOL_UDP;
        cmsg->cmsg_type = UDP_QUIC_CRYPTO;
        cmsg->cmsg_len = CMSG_LEN(sizeof(struct udp_quic_crypto_inline));
        auto *crypto = reinterpret_cast<struct udp_quic_crypto_inline *>(page_ + CMSG_LEN(0));
        crypto->crypto.sa = UDP_QUIC_CRYPTO_SA_INLINE;
        crypto->crypto.pn_offset = static_cast<std::uint16_t>(shape.pn_offset());
        return crypto;
    }
    std::uint8_t *page_;
};

TEST_F(Secrets, AreFoundWhileInUseAndGoneAfterFree) {
    std::random_device seed;
    std::vector<Secret> secrets;
    for (int i = 0; i < 8; ++i)
        secrets.emplace_back((std::uint64_t{seed()} << 32) | seed());
    std::vector<const Secret *> pointers;
    for (const Secret &secret : secrets)
        pointers.push_back(&secret);

    Loopback loopback(Family::kIpv4, true);
    std::vector<std::uint32_t> sas;
    for (std::size_t i = 0; i < 4; ++i)
        sas.push_back(add_secret_sa(loopback.sender.get(), kAllCiphers[i], i, secrets[2 * i],
                                    secrets[2 * i + 1], page_));
    const PacketShape shape{};
    for (std::uint64_t pn = 0; pn < 8; ++pn) {
        const Bytes plain = make_packet(shape, pn, 1000);
        ASSERT_EQ(
            send(loopback.sender.get(), plain, Control().quic(pn, sas[pn % 4], shape.pn_offset())),
            1000);
        ASSERT_TRUE(receive(loopback.receiver.get()).has_value());
    }
    // The scan finds what is there: otherwise its silence below would mean nothing.
    const std::vector<unsigned> during = scan_memory(pointers);
    for (std::size_t i = 0; i < 4; ++i)
        EXPECT_GT(during[2 * i], 0U)
            << "packet key of " << name(kAllCiphers[i]) << ": the scan is blind";

    ASSERT_EQ(del_sa(loopback.sender.get(), 0), 0);
    ASSERT_EQ(del_sa(loopback.sender.get(), 1), 0);
    loopback.sender.reset();
    ASSERT_TRUE(eventually([] { return Statistics::read()["SaCurr"] == 0; }));
    const std::vector<unsigned> after = scan_until_gone(pointers);
    for (std::size_t i = 0; i < after.size(); ++i)
        EXPECT_EQ(after[i], 0U) << (i % 2 ? "header protection" : "packet") << " key of "
                                << name(kAllCiphers[i / 2]) << " is still in memory";
}

TEST_F(Secrets, InlineKeysLeaveNothingBehind) {
    std::random_device seed;
    std::vector<Secret> secrets;
    for (int i = 0; i < 8; ++i)
        secrets.emplace_back((std::uint64_t{seed()} << 32) | seed());
    std::vector<const Secret *> pointers;
    for (const Secret &secret : secrets)
        pointers.push_back(&secret);
    Loopback loopback(Family::kIpv4, true);
    const PacketShape shape{};
    for (std::size_t i = 0; i < 4; ++i) {
        const Cipher cipher = kAllCiphers[i];
        const Bytes plain = make_packet(shape, i, 1000);
        auto *crypto = inline_message(shape);
        crypto->crypto.pn = i;
        crypto->keys.cipher = static_cast<std::uint16_t>(cipher);
        std::uint8_t bytes[kSecret];
        secrets[2 * i].reveal(bytes);
        std::memcpy(crypto->keys.key, bytes, key_length(cipher));
        secrets[2 * i + 1].reveal(bytes);
        std::memcpy(crypto->keys.hp_key, bytes, key_length(cipher));
        iovec data{const_cast<std::uint8_t *>(plain.data()), plain.size()};
        msghdr header{};
        header.msg_iov = &data;
        header.msg_iovlen = 1;
        header.msg_control = page_;
        header.msg_controllen = CMSG_SPACE(sizeof(struct udp_quic_crypto_inline));
        const ssize_t sent = ::sendmsg(loopback.sender.get(), &header, 0);
        ::explicit_bzero(bytes, sizeof(bytes));
        ::explicit_bzero(page_, 4096);
        clear_vector_registers();
        ASSERT_EQ(sent, 1000) << name(cipher);
        ASSERT_TRUE(receive(loopback.receiver.get()).has_value());
    }
    const std::vector<unsigned> after = scan_until_gone(pointers);
    for (std::size_t i = 0; i < after.size(); ++i)
        EXPECT_EQ(after[i], 0U) << (i % 2 ? "header protection" : "packet") << " key of "
                                << name(kAllCiphers[i / 2]) << " is still in memory";
}

// Sends with inline keys that are refused, at every stage on the way to the message and behind it.
TEST_F(Secrets, RefusedInlineKeysLeaveNothingBehind) {
    struct Refusal {
        const char *what;
        int error;
        std::function<void(udp_quic_crypto_inline &, cmsghdr &, msghdr &, int &flags)> spoil;
    };
    Loopback loopback(Family::kIpv4, true);
    const PacketShape shape{};
    const Bytes plain = make_packet(shape, 0, 1000);
    static Bytes far_too_long(70000, 0);
    const std::vector<Refusal> refusals{
        {"unknown flag", -EINVAL, [](auto &c, auto &, auto &, int &) { c.crypto.flags = 0x8000; }},
        {"unknown cipher", -EOPNOTSUPP, [](auto &c, auto &, auto &, int &) { c.keys.cipher = 99; }},
        {"not the marker", -E2BIG, [](auto &c, auto &, auto &, int &) { c.crypto.sa = 1; }},
        {"length of the message", -EINVAL,
         [](auto &, cmsghdr &c, auto &, int &) { c.cmsg_len = 5000; }},
        {"not ours", -EINVAL, [](auto &, cmsghdr &c, auto &, int &) { c.cmsg_type = 99; }},
        {"too long", -EMSGSIZE,
         [](auto &, auto &, msghdr &m, int &) {
             m.msg_iov->iov_base = far_too_long.data();
             m.msg_iov->iov_len = far_too_long.size();
         }},
        {"out of band", -EOPNOTSUPP, [](auto &, auto &, auto &, int &flags) { flags = MSG_OOB; }},
        {"corked", -EBUSY, [](auto &, auto &, auto &, int &flags) { flags = MSG_MORE; }},
        {"wrong number", -EBADMSG, [](auto &c, auto &, auto &, int &) { c.crypto.pn = 77; }},
        {"no memory at the address", -EFAULT,
         [](auto &, auto &, msghdr &m, int &) { m.msg_iov->iov_base = nullptr; }},
    };
    // A message that is ignored makes the control buffer one of a size that few ask for, and memory
    // is looked through after each refusal: the next buffer of the size would hide the keys of the
    // last.
    constexpr std::size_t kControl = 1500;
    std::random_device seed;
    for (const Refusal &refusal : refusals) {
        SCOPED_TRACE(refusal.what);
        const Secret key((std::uint64_t{seed()} << 32) | seed());
        const Secret hp((std::uint64_t{seed()} << 32) | seed());
        auto *crypto = inline_message(shape);
        auto *cmsg = reinterpret_cast<cmsghdr *>(page_);
        auto *ignored =
            reinterpret_cast<cmsghdr *>(page_ + CMSG_SPACE(sizeof(struct udp_quic_crypto_inline)));
        ignored->cmsg_level = SOL_RAW;
        ignored->cmsg_len = kControl - CMSG_SPACE(sizeof(struct udp_quic_crypto_inline));
        crypto->keys.cipher = UDP_QUIC_CIPHER_AES_256_GCM;
        std::uint8_t bytes[kSecret];
        key.reveal(bytes);
        std::memcpy(crypto->keys.key, bytes, kSecret);
        hp.reveal(bytes);
        std::memcpy(crypto->keys.hp_key, bytes, kSecret);
        iovec data{const_cast<std::uint8_t *>(plain.data()), plain.size()};
        msghdr header{};
        header.msg_iov = &data;
        header.msg_iovlen = 1;
        header.msg_control = page_;
        header.msg_controllen = kControl;
        int flags = 0;
        refusal.spoil(*crypto, *cmsg, header, flags);
        const ssize_t sent = ::sendmsg(loopback.sender.get(), &header, flags);
        const int error = errno;
        ::explicit_bzero(bytes, sizeof(bytes));
        ::explicit_bzero(page_, 4096);
        clear_vector_registers();
        EXPECT_EQ(sent, -1);
        EXPECT_EQ(-error, refusal.error);
        // Once: keys that somebody else overwrites in a moment were left behind all the same.
        const std::vector<unsigned> after = scan_memory({&key, &hp});
        EXPECT_EQ(after[0], 0U) << "packet key is still in memory";
        EXPECT_EQ(after[1], 0U) << "header protection key is still in memory";
    }
}

// A 32-bit program's control messages are converted into a copy; here the second one turns out to
// lie outside of what may be read when the keys in the first have been copied. The program is this
// one, by the system calls of 32 bits.
TEST_F(Secrets, ConversionOf32BitsThatFailsLeavesNothingBehind) {
    constexpr std::uint32_t kSendmsg = 370; // of i386
    struct Header {
        std::uint32_t name, name_length, parts, parts_length, control, control_length, flags;
    };
    struct Cmsg {
        std::uint32_t length;
        std::int32_t level, type;
    };
    // Three pages, the last of which nobody may read: control messages end where it begins.
    auto *low = static_cast<std::uint8_t *>(::mmap(nullptr, 3 * 4096, PROT_READ | PROT_WRITE,
                                                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_32BIT, -1, 0));
    ASSERT_NE(low, MAP_FAILED);
    ASSERT_EQ(::mprotect(low + 2 * 4096, 4096, PROT_NONE), 0);
    const auto address = [](const void *at) {
        return static_cast<std::uint32_t>(reinterpret_cast<std::uintptr_t>(at));
    };
    const PacketShape shape{};
    std::random_device seed;
    const Secret key((std::uint64_t{seed()} << 32) | seed());
    const Secret hp((std::uint64_t{seed()} << 32) | seed());
    const Loopback loopback(Family::kIpv4, true);

    constexpr std::size_t kFirst = sizeof(Cmsg) + sizeof(struct udp_quic_crypto_inline);
    std::uint8_t *control = low + 2 * 4096 - kFirst - sizeof(Cmsg);
    const Cmsg first{kFirst, SOL_UDP, UDP_QUIC_CRYPTO};
    const Cmsg second{1000, SOL_RAW, 0};
    std::memcpy(control, &first, sizeof(first));
    std::memcpy(control + kFirst, &second, sizeof(second));
    struct udp_quic_crypto_inline crypto {};
    crypto.crypto.sa = UDP_QUIC_CRYPTO_SA_INLINE;
    crypto.crypto.pn_offset = static_cast<std::uint16_t>(shape.pn_offset());
    crypto.keys.cipher = UDP_QUIC_CIPHER_AES_256_GCM;
    std::memcpy(control + sizeof(first), &crypto, sizeof(crypto));
    std::uint8_t *keys = control + sizeof(first) + offsetof(udp_quic_crypto_inline, keys);
    key.reveal(keys + offsetof(udp_quic_keys, key));
    hp.reveal(keys + offsetof(udp_quic_keys, hp_key));
    const std::uint32_t part[2] = {address(low + 1024), 1000};
    std::memcpy(low + 512, part, sizeof(part));
    const Header header{0, 0, address(low + 512), 1, address(control), kFirst + second.length, 0};
    std::memcpy(low, &header, sizeof(header));
    long result = kSendmsg;
    asm volatile("int $0x80"
                 : "+a"(result)
                 : "b"(loopback.sender.get()), "c"(address(low)), "d"(0)
                 : "memory", "r8", "r9", "r10", "r11");
    ::explicit_bzero(low, 2 * 4096);
    clear_vector_registers();
    EXPECT_EQ(static_cast<int>(result), -EFAULT);
    const std::vector<unsigned> after = scan_memory({&key, &hp});
    EXPECT_EQ(after[0], 0U) << "packet key is still in memory";
    EXPECT_EQ(after[1], 0U) << "header protection key is still in memory";
    ::munmap(low, 3 * 4096);
}

// A BPF program in the cgroup sees a copy of the option, whatever it says then. There is an unknown
// flag in it, so that no SA is made, which would have the keys until the end of a grace period.
TEST_F(Secrets, OptionsThatBpfProgramsSawLeaveNothingBehind) {
    constexpr int kOptlen = offsetof(bpf_sockopt, optlen);
    struct Verdict {
        const char *what;
        int error;
        std::vector<bpf_insn> program;
    };
    const std::vector<Verdict> verdicts{
        {"the copy is taken", -EINVAL, {bpf::set(0, 1), bpf::finish()}},
        {"the caller's is taken",
         -EINVAL,
         {bpf::set(2, 0), bpf::store32(1, kOptlen, 2), bpf::set(0, 1), bpf::finish()}},
        {"the program did it all",
         0,
         {bpf::set(2, -1), bpf::store32(1, kOptlen, 2), bpf::set(0, 1), bpf::finish()}},
        {"refused", -EPERM, {bpf::set(0, 0), bpf::finish()}},
        {"an impossible length",
         -EFAULT,
         {bpf::set(2, 5000), bpf::store32(1, kOptlen, 2), bpf::set(0, 1), bpf::finish()}},
    };
    const Cgroup cgroup;
    cgroup.take(::getpid());
    std::random_device seed;
    for (const Verdict &verdict : verdicts) {
        SCOPED_TRACE(verdict.what);
        const AttachedProgram program(cgroup, BPF_PROG_TYPE_CGROUP_SOCKOPT, BPF_CGROUP_SETSOCKOPT,
                                      verdict.program);
        const Secret key((std::uint64_t{seed()} << 32) | seed());
        const Secret hp((std::uint64_t{seed()} << 32) | seed());
        UniqueFd fd = udp_socket(AF_INET);
        // As in the control messages above: of a size that few ask for
        constexpr socklen_t kLength = 1500;
        auto *sa = reinterpret_cast<struct udp_crypto_sa *>(page_);
        sa->req = request(UDP_CRYPTO_OP_ADD_SA, 1, 1U << 31);
        sa->keys.cipher = UDP_QUIC_CIPHER_AES_256_GCM;
        key.reveal(sa->keys.key);
        hp.reveal(sa->keys.hp_key);
        const int result = set_state(fd.get(), page_, kLength);
        ::explicit_bzero(page_, 4096);
        clear_vector_registers();
        EXPECT_EQ(result, verdict.error);
        const std::vector<unsigned> after = scan_memory({&key, &hp});
        EXPECT_EQ(after[0], 0U) << "packet key is still in memory";
        EXPECT_EQ(after[1], 0U) << "header protection key is still in memory";
    }
}

// Of requests that the netlink family takes, and that it, its policy or genetlink refuses.
TEST_F(Secrets, NetlinkRequestsLeaveNothingBehind) {
    std::random_device seed;
    std::vector<Secret> secrets;
    for (int i = 0; i < 8; ++i)
        secrets.emplace_back((std::uint64_t{seed()} << 32) | seed());
    std::vector<const Secret *> pointers;
    for (const Secret &secret : secrets)
        pointers.push_back(&secret);

    RawNetlink netlink;
    // With zeroes where the keys go; those are put in on a page that is wiped.
    const Bytes nothing(kSecret, 0);
    const auto whole =
        sa_attributes({Cipher::kAes256Gcm, nothing, Bytes(UDP_QUIC_IV_LEN, 1), nothing}, 0);
    const Bytes requests[4] = {
        netlink.build(UDP_CRYPTO_CMD_SA_ADD, whole),
        netlink.build(UDP_CRYPTO_CMD_SA_ADD, without(whole, UDP_CRYPTO_A_SA_UID)),
        netlink.build(UDP_CRYPTO_CMD_SA_ADD, with(whole, {UDP_CRYPTO_A_SA_UID, Bytes(3, 0)})),
        netlink.build(250, whole)};
    const int errors[4] = {0, EINVAL, EINVAL, EOPNOTSUPP};
    for (std::size_t i = 0; i < 4; ++i) {
        std::memcpy(page_, requests[i].data(), requests[i].size());
        // Behind the headers: cipher (8 bytes), then the attributes of key, IV and hp key.
        std::uint8_t *key = page_ + 20 + 8 + 4;
        std::uint8_t *hp = key + kSecret + 4 + UDP_QUIC_IV_LEN + 4;
        std::uint8_t bytes[kSecret];
        secrets[2 * i].reveal(bytes);
        std::memcpy(key, bytes, kSecret);
        secrets[2 * i + 1].reveal(bytes);
        std::memcpy(hp, bytes, kSecret);
        const ssize_t sent = ::send(netlink.fd(), page_, requests[i].size(), 0);
        ::explicit_bzero(bytes, sizeof(bytes));
        ::explicit_bzero(page_, 4096);
        clear_vector_registers();
        ASSERT_EQ(sent, static_cast<ssize_t>(requests[i].size()));
        EXPECT_EQ(netlink.answer(requests[i]).error, errors[i]);
    }
    EXPECT_GT(scan_memory(pointers)[0], 0U) << "the scan is blind";
    EXPECT_EQ(netlink.request(UDP_CRYPTO_CMD_SA_FLUSH).error, 0);
    const std::vector<unsigned> after = scan_until_gone(pointers);
    for (std::size_t i = 0; i < after.size(); ++i)
        EXPECT_EQ(after[i], 0U) << (i % 2 ? "header protection" : "packet") << " key of request "
                                << i / 2 << " is still in memory";
}

// Keys that come by way of io_uring: with a send from its worker, with one that does not copy, and
// as a socket option.
TEST_F(Secrets, IoUringLeavesNothingBehind) {
    constexpr unsigned kSetsockopt = 3; // SOCKET_URING_OP_SETSOCKOPT; liburing 2.3 lacks it
    std::random_device seed;
    std::vector<Secret> secrets;
    for (int i = 0; i < 6; ++i)
        secrets.emplace_back((std::uint64_t{seed()} << 32) | seed());
    std::vector<const Secret *> pointers;
    for (const Secret &secret : secrets)
        pointers.push_back(&secret);
    Loopback loopback(Family::kIpv4, true);
    const int fd = loopback.sender.get();
    const PacketShape shape{};
    io_uring ring{};
    ASSERT_EQ(::io_uring_queue_init(4, &ring, 0), 0);
    const auto reveal = [](const Secret &secret, std::uint8_t *to) {
        std::uint8_t bytes[kSecret];
        secret.reveal(bytes);
        std::memcpy(to, bytes, kSecret);
        ::explicit_bzero(bytes, sizeof(bytes));
    };
    const auto complete = [&](io_uring_sqe *sqe) {
        ::io_uring_sqe_set_flags(sqe, IOSQE_ASYNC);
        EXPECT_EQ(::io_uring_submit(&ring), 1);
        int result = 0;
        for (bool more = true, first = true; more; first = false) {
            io_uring_cqe *cqe = nullptr;
            EXPECT_EQ(::io_uring_wait_cqe(&ring, &cqe), 0);
            if (first)
                result = cqe->res;
            more = (cqe->flags & IORING_CQE_F_MORE) != 0;
            ::io_uring_cqe_seen(&ring, cqe);
        }
        ::explicit_bzero(page_, 4096);
        clear_vector_registers();
        return result;
    };
    for (const std::size_t i : {0U, 1U}) {
        const Bytes plain = make_packet(shape, i, 1000);
        auto *crypto = inline_message(shape);
        crypto->crypto.pn = i;
        crypto->keys.cipher = UDP_QUIC_CIPHER_AES_256_GCM;
        reveal(secrets[2 * i], crypto->keys.key);
        reveal(secrets[2 * i + 1], crypto->keys.hp_key);
        iovec data{const_cast<std::uint8_t *>(plain.data()), plain.size()};
        msghdr header{};
        header.msg_iov = &data;
        header.msg_iovlen = 1;
        header.msg_control = page_;
        header.msg_controllen = CMSG_SPACE(sizeof(struct udp_quic_crypto_inline));
        io_uring_sqe *sqe = ::io_uring_get_sqe(&ring);
        if (i == 0)
            ::io_uring_prep_sendmsg(sqe, fd, &header, 0);
        else
            ::io_uring_prep_sendmsg_zc(sqe, fd, &header, 0);
        EXPECT_EQ(complete(sqe), 1000);
        ASSERT_TRUE(receive(loopback.receiver.get()).has_value());
    }
    auto *sa = reinterpret_cast<struct udp_crypto_sa *>(page_);
    sa->req = request(UDP_CRYPTO_OP_ADD_SA, 1);
    sa->keys.cipher = UDP_QUIC_CIPHER_AES_256_GCM;
    reveal(secrets[4], sa->keys.key);
    reveal(secrets[5], sa->keys.hp_key);
    io_uring_sqe *sqe = ::io_uring_get_sqe(&ring);
    ::io_uring_prep_rw(IORING_OP_URING_CMD, sqe, fd, nullptr, 0, kSetsockopt);
    sqe->addr = SOL_UDP | std::uint64_t{UDP_CRYPTO_STATE} << 32;
    sqe->file_index = sizeof(*sa);
    sqe->addr3 = reinterpret_cast<std::uintptr_t>(page_);
    EXPECT_EQ(complete(sqe), 0);
    EXPECT_EQ(del_sa(fd, 1), 0);
    ::io_uring_queue_exit(&ring);
    const std::vector<unsigned> after = scan_until_gone(pointers);
    for (std::size_t i = 0; i < after.size(); ++i)
        EXPECT_EQ(after[i], 0U) << (i % 2 ? "header protection" : "packet") << " key of request "
                                << i / 2 << " is still in memory";
}

bool holds_key(const std::string &text, const PacketKeys &keys) {
    const auto contains = [&](const auto &needle) {
        return std::search(text.begin(), text.end(), needle.begin(), needle.end(),
                           [](char a, auto b) {
                               return static_cast<std::uint8_t>(a) == static_cast<std::uint8_t>(b);
                           }) != text.end();
    };
    for (const Bytes *key : {&keys.key, &keys.hp}) {
        const Bytes part(key->begin(), key->begin() + 8);
        if (contains(part) || contains(to_hex(part)))
            return true;
    }
    return false;
}

TEST(SecretsInOutput, NoFileOrMessageShowsThem) {
    Loopback loopback(Family::kIpv4, true);
    const int fd = loopback.sender.get();
    const PacketKeys keys = keys_of_seed(Cipher::kAes256Gcm, 0xfeedULL);
    // Trace all that there is to trace of the network while it is used.
    const bool tracing =
        try_command(
            "mountpoint -q /sys/kernel/tracing || mount -t tracefs t /sys/kernel/tracing; "
            "cd /sys/kernel/tracing; echo > trace; for e in net sock skb qdisc udp syscalls;"
            " do [ -e events/$e ] && echo 1 > events/$e/enable; done; echo 1 > tracing_on")
            .status == 0;
    EXPECT_TRUE(tracing);
    const std::uint32_t sa = add_sa_index(fd, 1, keys);
    const PacketShape shape{};
    for (std::uint64_t pn = 0; pn < 4; ++pn) {
        const Bytes plain = make_packet(shape, pn, 1000);
        ASSERT_EQ(send(fd, plain, Control().quic(pn, sa, shape.pn_offset())), 1000);
        ASSERT_EQ(send(fd, plain, Control().quic_inline(pn, keys, shape.pn_offset())), 1000);
        // Errors are no occasion to print them either.
        EXPECT_EQ(send(fd, plain, Control().quic_inline(pn + 1, keys, shape.pn_offset())),
                  -EBADMSG);
        EXPECT_EQ(add_sa(fd, 1, keys), -EEXIST);
    }
    Bytes info(1000, 0);
    const struct udp_crypto_req req = request(UDP_CRYPTO_OP_GET_SA, 1);
    std::memcpy(info.data(), &req, sizeof(req));
    auto length = static_cast<socklen_t>(info.size());
    ASSERT_EQ(get_state(fd, info.data(), &length), 0);
    EXPECT_FALSE(holds_key(std::string(info.begin(), info.end()), keys));

    const std::string outputs =
        try_command("set +e; cd /sys/kernel/tracing && echo 0 > tracing_on && cat trace; "
                    "for e in net sock skb qdisc udp syscalls; do "
                    "[ -e events/$e ] && echo 0 > events/$e/enable; done; "
                    "dmesg; ss -uaepmni; cat /proc/crypto /proc/keys /proc/thread-self/net/* "
                    "2>/dev/null; find /sys/kernel/debug -type f -path '*crypto*' -exec cat {} + "
                    "2>/dev/null")
            .output;
    EXPECT_NE(outputs.find("TxPackets"), std::string::npos);
    EXPECT_NE(outputs.find("net_dev_queue"), std::string::npos) << "nothing was traced";
    EXPECT_GT(outputs.size(), 2000U);
    EXPECT_FALSE(holds_key(outputs, keys));
    EXPECT_TRUE(holds_key(outputs + to_hex(keys.hp), keys)); // the search can find
}

// The core of a process that installed keys and wiped its own copy; with @keep it does not wipe.
// Shared memory carries the disguised secret to the parent and is in no core dump of this kind.
bool core_shows_key(bool keep, const std::string &directory) {
    auto *shared = static_cast<std::uint8_t *>(
        ::mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0));
    const pid_t child = ::fork();
    if (child == 0) {
        const rlimit unlimited{RLIM_INFINITY, RLIM_INFINITY};
        ::setrlimit(RLIMIT_CORE, &unlimited);
        UniqueFd fd = udp_socket(AF_INET);
        std::random_device seed;
        static Secret secret((std::uint64_t{seed()} << 32) | seed());
        std::memcpy(shared, &secret, sizeof(secret));
        auto *page = static_cast<std::uint8_t *>(
            ::mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
        add_secret_sa(fd.get(), Cipher::kAes256Gcm, 1, secret, secret, page);
        if (keep)
            secret.reveal(page);
        struct udp_crypto_sa_info info {};
        if (get_sa(fd.get(), 1, &info) != 0)
            ::_exit(3);
        ::abort();
    }
    int status = 0;
    ::waitpid(child, &status, 0);
    EXPECT_TRUE(WIFSIGNALED(status)) << status;
    const std::string core = command("cat " + directory + "/core*; rm " + directory + "/core*");
    EXPECT_GT(core.size(), 10000U);
    Secret secret(0);
    std::memcpy(static_cast<void *>(&secret), shared, sizeof(secret));
    ::munmap(shared, 4096);
    return found_in(secret,
                    ByteView(reinterpret_cast<const std::uint8_t *>(core.data()), core.size()));
}

TEST(SecretsInOutput, CoreDump) {
    const std::string old_pattern = read_file("/proc/sys/kernel/core_pattern");
    char directory[] = "/tmp/udp-crypto-core-XXXXXX";
    ASSERT_NE(::mkdtemp(directory), nullptr);
    write_file("/proc/sys/kernel/core_pattern", std::string(directory) + "/core");
    EXPECT_FALSE(core_shows_key(false, directory));
    EXPECT_TRUE(core_shows_key(true, directory)); // the search can find
    write_file("/proc/sys/kernel/core_pattern", old_pattern);
    command("rm -r " + std::string(directory));
}

} // namespace
} // namespace quic_test
