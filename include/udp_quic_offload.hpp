// SPDX-License-Identifier: MIT
//
// UDP_QUIC_CRYPTO for C++20 senders: header only, no dependency but the uapi header, no exceptions.
//
// What a QUIC library needs to let the kernel (or the NIC below it) protect its 1-RTT packets:
//
// - probe(): can this socket do it, with which ciphers. Once for each socket.
// - PacketKeys: "quic key", "quic iv", "quic hp" of RFC 9001 section 5.1, wiped after use.
// - SecurityAssociation: keys installed in the kernel; deletes itself. One for each key phase.
// - ControlMessages: the control messages of one sendmsg().
// - packet_number_of_nonce(): the full packet number, for callbacks that only see the nonce.
// - advise(): what to do about an errno of sendmsg().
//
// docs/quic-library-guide.md walks through it.
//
// Everything is in host byte order. Nothing here allocates or locks; each object belongs to one
// thread at a time, while the socket and the SAs in the kernel may be used by many.
//
// Errors are Result<T>: a value, or a positive errno whose meaning is in <linux/udp_crypto.h>.
#ifndef UDP_QUIC_OFFLOAD_HPP
#define UDP_QUIC_OFFLOAD_HPP

#include <linux/udp_crypto.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <optional>
#include <span>
#include <type_traits>
#include <utility>

namespace udp_quic_offload {

static_assert(sizeof(udp_quic_keys) == 80);
static_assert(sizeof(udp_crypto_req) == 16);
static_assert(sizeof(udp_crypto_sa) == 104);
static_assert(sizeof(udp_crypto_sa_info) == 80);
static_assert(sizeof(udp_crypto_caps) == 40);
static_assert(sizeof(udp_quic_crypto) == 16);
static_assert(sizeof(udp_quic_crypto_inline) == 96);

inline constexpr std::size_t kTagLength = UDP_QUIC_TAG_LEN;
// Largest UDP payload of one send, batches included: 65,535 less the IPv4 and UDP headers. IPv6
// would allow 20 bytes more; one number for both keeps batches alike.
inline constexpr std::size_t kMaxSendBytes = 65507;

// A value of type T, or a positive errno.
template <typename T> class [[nodiscard]] Result {
  public:
    Result(T value) : value_(std::move(value)) {} // NOLINT(google-explicit-constructor)
    static Result failure(int error_number) { return Result(Failure{error_number}); }

    explicit operator bool() const { return value_.has_value(); }
    // 0 when there is a value.
    int error() const { return error_; }
    T &operator*() & { return *value_; }
    const T &operator*() const & { return *value_; }
    T &&operator*() && { return std::move(*value_); }
    T *operator->() { return &*value_; }
    const T *operator->() const { return &*value_; }

  private:
    struct Failure {
        int error_number;
    };
    explicit Result(Failure failure) : error_(failure.error_number) {}

    std::optional<T> value_;
    int error_ = 0;
};

enum class Cipher : std::uint16_t {
    kAes128Gcm = UDP_QUIC_CIPHER_AES_128_GCM,
    kAes256Gcm = UDP_QUIC_CIPHER_AES_256_GCM,
    kChaCha20Poly1305 = UDP_QUIC_CIPHER_CHACHA20_POLY1305,
    kAes128Ccm = UDP_QUIC_CIPHER_AES_128_CCM,
};

// Bytes of the packet key, and of the header protection key, of @cipher.
constexpr std::size_t key_length(Cipher cipher) {
    return cipher == Cipher::kAes128Gcm || cipher == Cipher::kAes128Ccm ? 16 : 32;
}

// Packets one key may protect before a key update is due (RFC 9001 section 6.6); 0: no limit.
// Good as the packet_limit of an SA: the kernel then refuses what the library should never do.
constexpr std::uint64_t confidentiality_limit(Cipher cipher) {
    switch (cipher) {
    case Cipher::kAes128Gcm:
    case Cipher::kAes256Gcm:
        return std::uint64_t{1} << 23;
    case Cipher::kAes128Ccm:
        return 2965820; // 2^21.5
    case Cipher::kChaCha20Poly1305:
        return 0;
    }
    return 0;
}

// The keys of one key phase and direction. The bytes are wiped when the object goes.
class PacketKeys {
  public:
    // @key and @hp_key: key_length(@cipher) bytes each, else EINVAL.
    static Result<PacketKeys> make(Cipher cipher, std::span<const std::uint8_t> key,
                                   std::span<const std::uint8_t, UDP_QUIC_IV_LEN> iv,
                                   std::span<const std::uint8_t> hp_key) {
        if (key.size() != key_length(cipher) || hp_key.size() != key_length(cipher))
            return Result<PacketKeys>::failure(EINVAL);
        PacketKeys keys;
        keys.raw_.cipher = static_cast<std::uint16_t>(cipher);
        std::copy(iv.begin(), iv.end(), keys.raw_.iv);
        std::copy(key.begin(), key.end(), keys.raw_.key);
        std::copy(hp_key.begin(), hp_key.end(), keys.raw_.hp_key);
        return keys;
    }

    PacketKeys(const PacketKeys &) = default;
    PacketKeys &operator=(const PacketKeys &) = default;
    ~PacketKeys() { explicit_bzero(&raw_, sizeof(raw_)); }

    const udp_quic_keys &raw() const { return raw_; }
    Cipher cipher() const { return static_cast<Cipher>(raw_.cipher); }
    std::span<const std::uint8_t> key() const { return {raw_.key, key_length(cipher())}; }
    std::span<const std::uint8_t> hp_key() const { return {raw_.hp_key, key_length(cipher())}; }
    std::span<const std::uint8_t, UDP_QUIC_IV_LEN> iv() const {
        return std::span<const std::uint8_t, UDP_QUIC_IV_LEN>(raw_.iv);
    }

  private:
    PacketKeys() = default;
    udp_quic_keys raw_{};
};

struct Capabilities {
    std::uint32_t ciphers = 0;    // bit n: Cipher of that number
    std::uint32_t cmsg_flags = 0; // UDP_QUIC_CRYPTO_F_*
    std::uint32_t sa_flags = 0;   // UDP_CRYPTO_SA_F_*
    std::uint32_t max_sas = 0;    // in the network namespace
    std::size_t max_segments = 0; // packets in one send with UDP_SEGMENT

    bool has(Cipher cipher) const { return ciphers & (1U << static_cast<unsigned>(cipher)); }
    bool has_tag_room() const { return cmsg_flags & UDP_QUIC_CRYPTO_F_TAG_ROOM; }
};

// What the kernel can do for UDP socket @fd. ENOPROTOOPT: nothing, protect in user space.
inline Result<Capabilities> probe(int fd) {
    udp_crypto_caps raw{};
    raw.req.type = UDP_CRYPTO_QUIC;
    raw.req.op = UDP_CRYPTO_OP_GET_CAPS;
    socklen_t length = sizeof(raw);
    if (getsockopt(fd, IPPROTO_UDP, UDP_CRYPTO_STATE, &raw, &length) != 0)
        return Result<Capabilities>::failure(errno);
    // Another option may live at this number on a kernel without this one.
    if (length < offsetof(udp_crypto_caps, max_sa_per_uid) || raw.tag_len != UDP_QUIC_TAG_LEN)
        return Result<Capabilities>::failure(ENOPROTOOPT);
    return Capabilities{raw.ciphers, raw.cmsg_flags, raw.sa_flags, raw.max_sa, raw.max_segments};
}

// An SA of a socket, deleted with the object.
//
// The kernel drops packets that still wait below the socket (qdisc, device queue) when their SA is
// deleted. After a key update keep the old SA for a moment, some probe timeouts say, as one keeps
// old receive keys (RFC 9001 section 6.5).
//
// Install SAs early: the callback of QUIC libraries that prepares the *next* keys is the right
// place, so that a device has them by the time the first packet uses them.
class SecurityAssociation {
  public:
    // @fd: the UDP socket; borrowed, and to be kept open as long as this object lives, since a
    //   closed descriptor's number may come back as another socket.
    // @cookie: any number no other SA of the socket has.
    // @packet_limit: packets it may protect; 0: no limit.
    // @flags: UDP_CRYPTO_SA_F_*.
    // ENOPROTOOPT, EOPNOTSUPP, ENOPKG, ENOSPC, ENOMEM: step back to user space.
    static Result<SecurityAssociation> install(int fd, std::uint64_t cookie, const PacketKeys &keys,
                                               std::uint64_t packet_limit = 0,
                                               std::uint32_t flags = 0) {
        udp_crypto_sa request{};
        request.req = make_request(UDP_CRYPTO_OP_ADD_SA, cookie, flags);
        request.packet_limit = packet_limit;
        request.keys = keys.raw();
        const int rc = setsockopt(fd, IPPROTO_UDP, UDP_CRYPTO_STATE, &request, sizeof(request));
        const int error_number = errno;
        explicit_bzero(&request, sizeof(request));
        if (rc != 0)
            return Result<SecurityAssociation>::failure(error_number);

        SecurityAssociation sa(fd, cookie);
        const auto info = sa.info();
        if (!info)
            return Result<SecurityAssociation>::failure(info.error());
        sa.index_ = info->sa;
        return sa;
    }

    SecurityAssociation(SecurityAssociation &&other) noexcept
        : fd_(std::exchange(other.fd_, -1)), index_(other.index_), cookie_(other.cookie_) {}
    SecurityAssociation &operator=(SecurityAssociation &&other) noexcept {
        if (this != &other) {
            remove();
            fd_ = std::exchange(other.fd_, -1);
            index_ = other.index_;
            cookie_ = other.cookie_;
        }
        return *this;
    }
    SecurityAssociation(const SecurityAssociation &) = delete;
    SecurityAssociation &operator=(const SecurityAssociation &) = delete;
    ~SecurityAssociation() { remove(); }

    // For the cmsg of each send.
    std::uint32_t index() const { return index_; }
    std::uint64_t cookie() const { return cookie_; }

    // Which path it takes now (@state, @ifindex) and its counters.
    Result<udp_crypto_sa_info> info() const {
        udp_crypto_sa_info raw{};
        raw.req = make_request(UDP_CRYPTO_OP_GET_SA, cookie_, 0);
        socklen_t length = sizeof(raw);
        if (getsockopt(fd_, IPPROTO_UDP, UDP_CRYPTO_STATE, &raw, &length) != 0)
            return Result<udp_crypto_sa_info>::failure(errno);
        return raw;
    }

    // Deletes the SA now; the destructor then does nothing. Returns 0 or the errno.
    int remove() {
        const int fd = std::exchange(fd_, -1);
        if (fd < 0)
            return 0;
        const udp_crypto_req request = make_request(UDP_CRYPTO_OP_DEL_SA, cookie_, 0);
        return setsockopt(fd, IPPROTO_UDP, UDP_CRYPTO_STATE, &request, sizeof(request)) != 0 ? errno
                                                                                             : 0;
    }

  private:
    SecurityAssociation(int fd, std::uint64_t cookie) : fd_(fd), cookie_(cookie) {}

    static udp_crypto_req make_request(udp_crypto_op op, std::uint64_t cookie,
                                       std::uint32_t flags) {
        udp_crypto_req request{};
        request.type = UDP_CRYPTO_QUIC;
        request.op = static_cast<std::uint16_t>(op);
        request.flags = flags;
        request.cookie = cookie;
        return request;
    }

    int fd_ = -1;
    std::uint32_t index_ = 0;
    std::uint64_t cookie_ = 0;
};

// The control messages of one sendmsg(): append what the send needs, then attach().
// @Capacity: bytes, a sum of CMSG_SPACE(). The default has room for a source address, ECN,
// UDP_SEGMENT and inline keys.
template <std::size_t Capacity = 256> class ControlMessages {
  public:
    // Secrets may have been in it.
    ~ControlMessages() {
        if (holds_keys_)
            explicit_bzero(buffer_.data(), length_);
    }
    ControlMessages() = default;
    ControlMessages(const ControlMessages &) = delete;
    ControlMessages &operator=(const ControlMessages &) = delete;

    // False, and nothing appended, when there is no room.
    template <typename T> bool append(int level, int type, const T &value) {
        static_assert(std::is_trivially_copyable_v<T>);
        if (CMSG_SPACE(sizeof(T)) > Capacity - length_)
            return false;
        cmsghdr header{};
        header.cmsg_level = level;
        header.cmsg_type = type;
        header.cmsg_len = CMSG_LEN(sizeof(T));
        std::memcpy(buffer_.data() + length_, &header, sizeof(header));
        std::memcpy(buffer_.data() + length_ + CMSG_LEN(0), &value, sizeof(T));
        length_ += CMSG_SPACE(sizeof(T));
        return true;
    }

    // A batch of packets of @gso_size bytes each on the wire, tag included; the last may be
    // shorter.
    bool append_gso_size(std::uint16_t gso_size) {
        return append(IPPROTO_UDP, 103 /* UDP_SEGMENT, which old libc headers lack */, gso_size);
    }

    // Protect with an installed SA. @pn: of the first packet; @pn_offset: bytes before the packet
    // number; @flags: UDP_QUIC_CRYPTO_F_*.
    bool append_quic(std::uint64_t pn, std::uint32_t sa_index, std::uint16_t pn_offset,
                     std::uint16_t flags) {
        return append(IPPROTO_UDP, UDP_QUIC_CRYPTO,
                      udp_quic_crypto{pn, sa_index, pn_offset, flags});
    }

    // Protect with keys that are for this send alone.
    bool append_quic_inline(std::uint64_t pn, const PacketKeys &keys, std::uint16_t pn_offset,
                            std::uint16_t flags) {
        udp_quic_crypto_inline message{};
        message.crypto = {pn, UDP_QUIC_CRYPTO_SA_INLINE, pn_offset, flags};
        message.keys = keys.raw();
        const bool fits = append(IPPROTO_UDP, UDP_QUIC_CRYPTO, message);
        explicit_bzero(&message, sizeof(message));
        holds_keys_ = holds_keys_ || fits;
        return fits;
    }

    // @message borrows the buffer: this object must outlive the sendmsg().
    void attach(msghdr &message) {
        message.msg_control = length_ ? buffer_.data() : nullptr;
        message.msg_controllen = length_;
    }

    std::span<const std::uint8_t> bytes() const { return {buffer_.data(), length_}; }

  private:
    alignas(cmsghdr) std::array<std::uint8_t, Capacity> buffer_{};
    std::size_t length_ = 0;
    bool holds_keys_ = false;
};

// True for 1-RTT packets (RFC 9000 section 17.3).
constexpr bool is_short_header(std::uint8_t first_byte) { return !(first_byte & 0x80); }

// Bytes of the truncated packet number, from a first byte without header protection.
constexpr std::size_t packet_number_length(std::uint8_t first_byte) {
    return (first_byte & 0x03) + std::size_t{1};
}

// The full packet number that made @nonce of @iv (RFC 9001 section 5.3), for libraries whose crypto
// callbacks see nothing else. Nothing when the two do not belong together.
inline std::optional<std::uint64_t>
packet_number_of_nonce(std::span<const std::uint8_t> nonce,
                       std::span<const std::uint8_t, UDP_QUIC_IV_LEN> iv) {
    if (nonce.size() != iv.size())
        return std::nullopt;
    std::uint64_t pn = 0;
    for (std::size_t i = 0; i < iv.size(); ++i) {
        const std::uint8_t byte = nonce[i] ^ iv[i];
        if (i < iv.size() - sizeof(pn) && byte != 0)
            return std::nullopt;
        pn = pn << 8 | byte;
    }
    return pn <= UDP_QUIC_PN_MAX ? std::optional(pn) : std::nullopt;
}

// Packets of @gso_size bytes that go into one send.
constexpr std::size_t max_batch_packets(std::size_t gso_size, std::size_t max_segments) {
    return gso_size ? std::min(max_segments, kMaxSendBytes / gso_size) : 0;
}

// What a sender does about an errno of sendmsg() with UDP_QUIC_CRYPTO. An error means that the send
// was refused: nothing was sent, no packet number is used, no completion of MSG_ZEROCOPY comes, so
// the same packets may be sent again under the same numbers. What happens to packets later (a
// firewall's rule, a full queue) is no error: it is a loss, as on the wire, and the numbers are
// used. So send again under the same numbers after an error, and never otherwise.
enum class Advice {
    kWait,         // until the socket is writable, then send the same again
    kUserSpace,    // protect in user space and send; from now on too
    kDrop,         // the datagram cannot go this way now: as if it was lost on the way
    kSendSingly,   // no batches on this path
    kProgramError, // the caller built the message wrongly
};

constexpr Advice advise(int error_number) {
    switch (error_number) {
    case EAGAIN:
        return Advice::kWait;
    case ENOBUFS: // or too much MSG_ZEROCOPY outstanding: the same again without it
    case ENOMEM:
    case EMSGSIZE: // a path MTU probe that was too large, say
    case EINTR:
    case ENETUNREACH:
    case EHOSTUNREACH:
    case ENETDOWN:
    case ECONNREFUSED:
    case EPERM: // a security module or a BPF program on sendmsg(); a firewall does not tell
    case EADDRNOTAVAIL:
        return Advice::kDrop;
    case ENOENT:      // the SA is gone
    case EACCES:      // or was never ours
    case EKEYEXPIRED: // or has protected as many packets as it may
    case EOPNOTSUPP:
    case EPROTONOSUPPORT:
    case ENOPROTOOPT:
    case ENOPKG:
    case EBUSY:
        return Advice::kUserSpace;
    case EIO: // UDP_SEGMENT on a device or route that cannot
        return Advice::kSendSingly;
    default: // EINVAL, E2BIG, EBADMSG, ENODATA, EFAULT
        return Advice::kProgramError;
    }
}

} // namespace udp_quic_offload

#endif // UDP_QUIC_OFFLOAD_HPP
