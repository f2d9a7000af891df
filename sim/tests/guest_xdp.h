// SPDX-License-Identifier: GPL-2.0
//
// XDP and AF_XDP from a test in a guest: small programs put together by hand, and a socket with its
// rings. Needs no library and no compiler for BPF.
#pragma once

#include <array>
#include <cerrno>
#include <cstdint>
#include <cstring>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include <linux/bpf.h>
#include <linux/if_link.h>
#include <linux/if_xdp.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

namespace connectx::guest {

inline int bpf_call(bpf_cmd command, bpf_attr &attr) {
    return static_cast<int>(syscall(SYS_bpf, command, &attr, sizeof(attr)));
}

class Descriptor {
  public:
    explicit Descriptor(int fd = -1) : fd_(fd) {}
    Descriptor(Descriptor &&other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
    Descriptor &operator=(Descriptor &&other) noexcept {
        std::swap(fd_, other.fd_);
        return *this;
    }
    Descriptor(const Descriptor &) = delete;
    Descriptor &operator=(const Descriptor &) = delete;
    ~Descriptor() {
        if (fd_ >= 0)
            close(fd_);
    }
    [[nodiscard]] int get() const { return fd_; }

  private:
    int fd_;
};

/// A program for a network device; it stays attached as long as what attach() gives.
class XdpProgram {
  public:
    /// `frags`: it takes frames of several buffers.
    explicit XdpProgram(const std::vector<bpf_insn> &instructions, bool frags = false) {
        static std::array<char, 65536> log{};
        bpf_attr attr{};
        attr.prog_type = BPF_PROG_TYPE_XDP;
        attr.expected_attach_type = BPF_XDP;
        attr.insns = reinterpret_cast<std::uintptr_t>(instructions.data());
        attr.insn_cnt = static_cast<__u32>(instructions.size());
        attr.license = reinterpret_cast<std::uintptr_t>("GPL");
        attr.log_buf = reinterpret_cast<std::uintptr_t>(log.data());
        attr.log_size = log.size();
        attr.log_level = 1;
        attr.prog_flags = frags ? BPF_F_XDP_HAS_FRAGS : 0;
        fd_ = Descriptor(bpf_call(BPF_PROG_LOAD, attr));
        if (fd_.get() < 0)
            throw std::runtime_error(std::string("BPF_PROG_LOAD: ") + strerror(errno) + "\n" +
                                     log.data());
    }
    /// In the driver. The error is errno, if get() is below 0.
    [[nodiscard]] Descriptor attach(unsigned ifindex) const {
        bpf_attr attr{};
        attr.link_create.prog_fd = static_cast<__u32>(fd_.get());
        attr.link_create.target_ifindex = ifindex;
        attr.link_create.attach_type = BPF_XDP;
        attr.link_create.flags = XDP_FLAGS_DRV_MODE;
        return Descriptor(bpf_call(BPF_LINK_CREATE, attr));
    }

  private:
    Descriptor fd_;
};

namespace xdp {

/// Frames of this EtherType are what the programs below act on; with the other they send them on.
constexpr std::uint16_t kIn = 0x88b5;
constexpr std::uint16_t kOut = 0x88b6;

constexpr bpf_insn op(unsigned code, unsigned dst = 0, unsigned src = 0, int off = 0, int imm = 0) {
    return {static_cast<__u8>(code), static_cast<__u8>(dst & 0xf), static_cast<__u8>(src & 0xf),
            static_cast<__s16>(off), imm};
}
constexpr bpf_insn set(unsigned dst, int imm) {
    return op(BPF_ALU64 | BPF_MOV | BPF_K, dst, 0, 0, imm);
}
constexpr bpf_insn load(unsigned size, unsigned dst, unsigned base, int off) {
    return op(BPF_LDX | BPF_MEM | size, dst, base, off);
}
constexpr bpf_insn store(unsigned size, unsigned base, int off, unsigned src) {
    return op(BPF_STX | BPF_MEM | size, base, src, off);
}
constexpr bpf_insn call(int function) { return op(BPF_JMP | BPF_CALL, 0, 0, 0, function); }
constexpr bpf_insn leave() { return op(BPF_JMP | BPF_EXIT); }

inline std::vector<bpf_insn> verdict(int action) { return {set(0, action), leave()}; }

/// `then` for frames of type kIn, with r6 at the context and the Ethernet header on the stack;
/// others pass. By copies: of a frame of several buffers mlx5 with striding queues shows a program
/// nothing directly.
constexpr int kHeader = -16; // from r10
inline std::vector<bpf_insn> for_ours(const std::vector<bpf_insn> &then) {
    const int skip = static_cast<int>(then.size());
    std::vector<bpf_insn> out{
        op(BPF_ALU64 | BPF_MOV | BPF_X, 6, 1),
        set(2, 0),
        op(BPF_ALU64 | BPF_MOV | BPF_X, 3, 10),
        op(BPF_ALU64 | BPF_ADD | BPF_K, 3, 0, 0, kHeader),
        set(4, 14),
        call(BPF_FUNC_xdp_load_bytes),
        op(BPF_JMP | BPF_JNE | BPF_K, 0, 0, skip + 2, 0),
        load(BPF_H, 5, 10, kHeader + 12),
        op(BPF_JMP | BPF_JNE | BPF_K, 5, 0, skip, htons(kIn)),
    };
    out.insert(out.end(), then.begin(), then.end());
    out.push_back(set(0, XDP_PASS));
    out.push_back(leave());
    return out;
}

/// Writes the header back as one of type kOut.
inline std::vector<bpf_insn> as_out() {
    return {set(3, htons(kOut)),
            store(BPF_H, 10, kHeader + 12, 3),
            op(BPF_ALU64 | BPF_MOV | BPF_X, 1, 6),
            set(2, 0),
            op(BPF_ALU64 | BPF_MOV | BPF_X, 3, 10),
            op(BPF_ALU64 | BPF_ADD | BPF_K, 3, 0, 0, kHeader),
            set(4, 14),
            call(BPF_FUNC_xdp_store_bytes)};
}

inline std::vector<bpf_insn> operator+(std::vector<bpf_insn> first,
                                       const std::vector<bpf_insn> &second) {
    first.insert(first.end(), second.begin(), second.end());
    return first;
}

/// Back where it came from, with the addresses exchanged, as kOut.
inline std::vector<bpf_insn> send_back() {
    std::vector<bpf_insn> then;
    for (int at = kHeader; at < kHeader + 6; at += 2)
        then = then + std::vector{load(BPF_H, 3, 10, at), load(BPF_H, 4, 10, at + 6),
                                  store(BPF_H, 10, at, 4), store(BPF_H, 10, at + 6, 3)};
    return for_ours(then + as_out() + std::vector{set(0, XDP_TX), leave()});
}

/// Out of another device, as kOut.
inline std::vector<bpf_insn> redirect(unsigned ifindex) {
    return for_ours(as_out() + std::vector{set(1, static_cast<int>(ifindex)), set(2, 0),
                                           call(BPF_FUNC_redirect), leave()});
}

/// To the AF_XDP socket of the receive queue, if it has one.
inline std::vector<bpf_insn> to_socket(int map) {
    return for_ours({load(BPF_W, 2, 6, 16), // xdp_md.rx_queue_index
                     op(BPF_LD | BPF_IMM | BPF_DW, 1, BPF_PSEUDO_MAP_FD, 0, map), op(0),
                     set(3, XDP_PASS), call(BPF_FUNC_redirect_map), leave()});
}

} // namespace xdp

/// A socket of AF_XDP with memory of its own. There are more frames for receiving than a receive
/// queue holds: mlx5 looks for more again and again as long as it wants some.
class XdpSocket {
  public:
    static constexpr unsigned kFrames = 4096;
    static constexpr unsigned kReceive = 3072;

    /// Where the chunks start in the memory, beside multiples of `chunk`, if `unaligned`.
    XdpSocket(unsigned chunk, bool unaligned) : chunk_(chunk), shift_(unaligned ? 128 : 0) {
        size_ = static_cast<std::size_t>(kFrames + 1) * chunk;
        size_ = (size_ + 4095) & ~std::size_t{4095};
        memory_ =
            static_cast<std::uint8_t *>(mmap(nullptr, size_, PROT_READ | PROT_WRITE,
                                             MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0));
        fd_ = Descriptor(socket(AF_XDP, SOCK_RAW | SOCK_CLOEXEC, 0));
        xdp_umem_reg reg{};
        reg.addr = reinterpret_cast<std::uintptr_t>(memory_);
        reg.len = size_;
        reg.chunk_size = chunk;
        reg.flags = unaligned ? XDP_UMEM_UNALIGNED_CHUNK_FLAG : 0;
        must(setsockopt(fd_.get(), SOL_XDP, XDP_UMEM_REG, &reg, sizeof(reg)), "XDP_UMEM_REG");
        for (const int option :
             {XDP_UMEM_FILL_RING, XDP_UMEM_COMPLETION_RING, XDP_RX_RING, XDP_TX_RING}) {
            const unsigned entries = kFrames;
            must(setsockopt(fd_.get(), SOL_XDP, option, &entries, sizeof(entries)), "ring");
        }
        xdp_mmap_offsets at{};
        socklen_t length = sizeof(at);
        must(getsockopt(fd_.get(), SOL_XDP, XDP_MMAP_OFFSETS, &at, &length), "XDP_MMAP_OFFSETS");
        fill_.map(fd_.get(), XDP_UMEM_PGOFF_FILL_RING, at.fr, sizeof(__u64));
        completion_.map(fd_.get(), XDP_UMEM_PGOFF_COMPLETION_RING, at.cr, sizeof(__u64));
        rx_.map(fd_.get(), XDP_PGOFF_RX_RING, at.rx, sizeof(xdp_desc));
        tx_.map(fd_.get(), XDP_PGOFF_TX_RING, at.tx, sizeof(xdp_desc));
        for (unsigned i = 0; i < kReceive; ++i)
            give(i);
        for (unsigned i = kReceive; i < kFrames; ++i)
            free_.push_back(address(i));
    }
    XdpSocket(const XdpSocket &) = delete;
    XdpSocket &operator=(const XdpSocket &) = delete;
    ~XdpSocket() {
        fd_ = Descriptor();
        munmap(memory_, size_);
    }
    /// 0 or -errno.
    int bind(unsigned ifindex, unsigned queue, bool zero_copy) {
        sockaddr_xdp to{};
        to.sxdp_family = AF_XDP;
        to.sxdp_ifindex = ifindex;
        to.sxdp_queue_id = queue;
        to.sxdp_flags = zero_copy ? XDP_ZEROCOPY : XDP_COPY;
        return ::bind(fd_.get(), reinterpret_cast<sockaddr *>(&to), sizeof(to)) == 0 ? 0 : -errno;
    }
    [[nodiscard]] int fd() const { return fd_.get(); }

    /// The next frame, or nothing after `ms`.
    std::vector<std::uint8_t> receive(int ms) {
        pollfd p{.fd = fd_.get(), .events = POLLIN, .revents = 0};
        if (!rx_.ready() && (poll(&p, 1, ms) != 1 || !rx_.ready()))
            return {};
        const auto desc = rx_.take<xdp_desc>();
        const std::uint8_t *start = memory_ + plain(desc.addr);
        std::vector<std::uint8_t> out(start, start + desc.len);
        fill_.put(__u64{plain_base(desc.addr)});
        return out;
    }
    void send(const std::vector<std::uint8_t> &frame) {
        while (completion_.ready())
            free_.push_back(completion_.take<__u64>());
        if (free_.empty())
            throw std::runtime_error("every frame is on its way out");
        const __u64 at = free_.back();
        free_.pop_back();
        std::copy(frame.begin(), frame.end(), memory_ + at);
        tx_.put(xdp_desc{at, static_cast<__u32>(frame.size()), 0});
        (void)!sendto(fd_.get(), nullptr, 0, MSG_DONTWAIT, nullptr, 0);
    }
    /// Whether all that was sent has been given back within `ms`.
    bool all_sent(int ms) {
        for (; ms > 0; ms -= 10) {
            while (completion_.ready())
                free_.push_back(completion_.take<__u64>());
            if (free_.size() == kFrames - kReceive)
                return true;
            (void)!sendto(fd_.get(), nullptr, 0, MSG_DONTWAIT, nullptr, 0);
            usleep(10000);
        }
        return false;
    }

  private:
    class RingOf {
      public:
        void map(int fd, __u64 page, const xdp_ring_offset &at, std::size_t entry) {
            size_ = at.desc + kFrames * entry;
            void *start = mmap(nullptr, size_, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE,
                               fd, static_cast<off_t>(page));
            must(start == MAP_FAILED ? -1 : 0, "mmap of a ring");
            start_ = static_cast<std::uint8_t *>(start);
            producer_ = reinterpret_cast<__u32 *>(start_ + at.producer);
            consumer_ = reinterpret_cast<__u32 *>(start_ + at.consumer);
            entries_ = start_ + at.desc;
        }
        ~RingOf() {
            if (start_ != nullptr)
                munmap(start_, size_);
        }
        [[nodiscard]] bool ready() const {
            return __atomic_load_n(producer_, __ATOMIC_ACQUIRE) != *consumer_;
        }
        template <typename T> T take() {
            const T out = reinterpret_cast<T *>(entries_)[*consumer_ % kFrames];
            __atomic_store_n(consumer_, *consumer_ + 1, __ATOMIC_RELEASE);
            return out;
        }
        template <typename T> void put(const T &entry) {
            reinterpret_cast<T *>(entries_)[*producer_ % kFrames] = entry;
            __atomic_store_n(producer_, *producer_ + 1, __ATOMIC_RELEASE);
        }

      private:
        std::uint8_t *start_ = nullptr;
        std::size_t size_ = 0;
        __u32 *producer_ = nullptr;
        __u32 *consumer_ = nullptr;
        std::uint8_t *entries_ = nullptr;
    };

    static void must(int result, const char *what) {
        if (result != 0)
            throw std::runtime_error(std::string(what) + ": " + strerror(errno));
    }
    [[nodiscard]] __u64 address(unsigned i) const { return __u64{i} * chunk_ + shift_; }
    void give(unsigned i) { fill_.put(address(i)); }
    /// With unaligned chunks the offset within one is in the upper 16 bits.
    static __u64 plain_base(__u64 at) { return at & ((__u64{1} << 48) - 1); }
    static __u64 plain(__u64 at) { return plain_base(at) + (at >> 48); }

    unsigned chunk_;
    unsigned shift_;
    std::uint8_t *memory_ = nullptr;
    std::size_t size_ = 0;
    Descriptor fd_;
    RingOf fill_;
    RingOf completion_;
    RingOf rx_;
    RingOf tx_;
    std::vector<__u64> free_;
};

/// The sockets of a device's queues, for xdp::to_socket().
class SocketMap {
  public:
    SocketMap() {
        bpf_attr attr{};
        attr.map_type = BPF_MAP_TYPE_XSKMAP;
        attr.key_size = 4;
        attr.value_size = 4;
        attr.max_entries = 64;
        fd_ = Descriptor(bpf_call(BPF_MAP_CREATE, attr));
        if (fd_.get() < 0)
            throw std::runtime_error(std::string("BPF_MAP_CREATE: ") + strerror(errno));
    }
    /// 0 or -errno.
    int set(unsigned queue, const XdpSocket &socket) {
        const int value = socket.fd();
        bpf_attr attr{};
        attr.map_fd = static_cast<__u32>(fd_.get());
        attr.key = reinterpret_cast<std::uintptr_t>(&queue);
        attr.value = reinterpret_cast<std::uintptr_t>(&value);
        return bpf_call(BPF_MAP_UPDATE_ELEM, attr) == 0 ? 0 : -errno;
    }
    [[nodiscard]] int fd() const { return fd_.get(); }

  private:
    Descriptor fd_;
};

} // namespace connectx::guest
