// SPDX-License-Identifier: MIT
//
// UDP_QUIC_CRYPTO for C++20 senders: udp_quic_offload.h with destructors, spans and strong types,
// and nothing else: what a function does, and when, is said there. Header only, no dependency but
// the uapi header, no exceptions.
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

#include "udp_quic_offload.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <type_traits>
#include <utility>

namespace udp_quic_offload {

inline constexpr std::size_t kTagLength = UDP_QUIC_TAG_LEN;
inline constexpr std::size_t kMaxSendBytes = QUIC_OFFLOAD_MAX_SEND;

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
inline std::size_t key_length(Cipher cipher) {
    return quic_offload_key_length(static_cast<unsigned>(cipher));
}

// Packets one key may protect before a key update is due; 0: no limit.
inline std::uint64_t confidentiality_limit(Cipher cipher) {
    return quic_offload_confidentiality_limit(static_cast<unsigned>(cipher));
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
        if (const int error = quic_offload_keys_set(&keys.raw_, static_cast<unsigned>(cipher),
                                                    key.data(), iv.data(), hp_key.data());
            error != 0)
            return Result<PacketKeys>::failure(error);
        return keys;
    }

    PacketKeys(const PacketKeys &) = default;
    PacketKeys &operator=(const PacketKeys &) = default;
    ~PacketKeys() { quic_offload_wipe(&raw_, sizeof(raw_)); }

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
    udp_crypto_caps raw;
    if (const int error = quic_offload_probe(fd, &raw); error != 0)
        return Result<Capabilities>::failure(error);
    return Capabilities{raw.ciphers, raw.cmsg_flags, raw.sa_flags, raw.max_sa, raw.max_segments};
}

// An SA of a socket, deleted with the object: as one keeps old receive keys (RFC 9001 section 6.5),
// keep the object for a moment after the SA's last packet.
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
        SecurityAssociation sa;
        if (const int error =
                quic_offload_sa_install(&sa.raw_, fd, cookie, &keys.raw(), packet_limit, flags);
            error != 0)
            return Result<SecurityAssociation>::failure(error);
        return sa;
    }

    SecurityAssociation(SecurityAssociation &&other) noexcept
        : raw_(std::exchange(other.raw_, kNone)) {}
    SecurityAssociation &operator=(SecurityAssociation &&other) noexcept {
        if (this != &other) {
            remove();
            raw_ = std::exchange(other.raw_, kNone);
        }
        return *this;
    }
    SecurityAssociation(const SecurityAssociation &) = delete;
    SecurityAssociation &operator=(const SecurityAssociation &) = delete;
    ~SecurityAssociation() { remove(); }

    // For the cmsg of each send.
    std::uint32_t index() const { return raw_.index; }
    std::uint64_t cookie() const { return raw_.cookie; }

    // Which path it takes now (@state, @ifindex) and its counters.
    Result<udp_crypto_sa_info> info() const {
        udp_crypto_sa_info raw;
        if (const int error = quic_offload_sa_info(&raw_, &raw); error != 0)
            return Result<udp_crypto_sa_info>::failure(error);
        return raw;
    }

    // Deletes the SA now; the destructor then does nothing. Returns 0 or the errno.
    int remove() { return quic_offload_sa_remove(&raw_); }

  private:
    static constexpr quic_offload_sa kNone{-1, 0, 0};
    SecurityAssociation() = default;

    quic_offload_sa raw_ = kNone;
};

// The control messages of one sendmsg(): append what the send needs, then attach().
// @Capacity: bytes, a sum of CMSG_SPACE(). The default has room for a source address, ECN,
// UDP_SEGMENT and inline keys.
template <std::size_t Capacity = QUIC_OFFLOAD_CONTROL_SIZE> class ControlMessages {
  public:
    // Secrets may have been in it.
    ~ControlMessages() { quic_offload_control_wipe(&raw_); }
    ControlMessages() { quic_offload_control_init(&raw_, buffer_.data(), Capacity); }
    ControlMessages(const ControlMessages &) = delete;
    ControlMessages &operator=(const ControlMessages &) = delete;

    // False, and nothing appended, when there is no room.
    template <typename T> bool append(int level, int type, const T &value) {
        static_assert(std::is_trivially_copyable_v<T>);
        return quic_offload_control_append(&raw_, level, type, &value, sizeof(value));
    }

    // A batch of packets of @gso_size bytes each on the wire, tag included; the last may be
    // shorter.
    bool append_gso_size(std::uint16_t gso_size) {
        return quic_offload_control_append_gso_size(&raw_, gso_size);
    }

    // Protect with an installed SA. @pn: of the first packet; @pn_offset: bytes before the packet
    // number; @flags: UDP_QUIC_CRYPTO_F_*.
    bool append_quic(std::uint64_t pn, std::uint32_t sa_index, std::uint16_t pn_offset,
                     std::uint16_t flags) {
        return quic_offload_control_append_sa(&raw_, pn, sa_index, pn_offset, flags);
    }

    // Protect with keys that are for this send alone.
    bool append_quic_inline(std::uint64_t pn, const PacketKeys &keys, std::uint16_t pn_offset,
                            std::uint16_t flags) {
        return quic_offload_control_append_keys(&raw_, pn, &keys.raw(), pn_offset, flags);
    }

    // @message borrows the buffer: this object must outlive the sendmsg().
    void attach(msghdr &message) { quic_offload_control_attach(&raw_, &message); }

    std::span<const std::uint8_t> bytes() const { return {buffer_.data(), raw_.length}; }

  private:
    alignas(cmsghdr) std::array<std::uint8_t, Capacity> buffer_; // written as far as it is used
    quic_offload_control raw_{};
};

// True for 1-RTT packets (RFC 9000 section 17.3).
inline bool is_short_header(std::uint8_t first_byte) {
    return quic_offload_is_short_header(first_byte);
}

// Bytes of the truncated packet number, from a first byte without header protection.
inline std::size_t packet_number_length(std::uint8_t first_byte) {
    return quic_offload_pn_length(first_byte);
}

// The full packet number that made @nonce of @iv (RFC 9001 section 5.3), for libraries whose crypto
// callbacks see nothing else. Nothing when the two do not belong together.
inline std::optional<std::uint64_t>
packet_number_of_nonce(std::span<const std::uint8_t> nonce,
                       std::span<const std::uint8_t, UDP_QUIC_IV_LEN> iv) {
    if (nonce.size() != iv.size())
        return std::nullopt;
    const std::uint64_t pn = quic_offload_pn_of_nonce(nonce.data(), iv.data());
    return pn <= UDP_QUIC_PN_MAX ? std::optional(pn) : std::nullopt;
}

// Packets of @gso_size bytes that go into one send.
inline std::size_t max_batch_packets(std::size_t gso_size, std::size_t max_segments) {
    return quic_offload_max_batch(gso_size, max_segments);
}

// What a sender does about an errno of sendmsg() with UDP_QUIC_CRYPTO. An error means that the send
// was refused: nothing was sent, no packet number is used, no completion of MSG_ZEROCOPY comes, so
// the same packets may be sent again under the same numbers. What happens to packets later (a
// firewall's rule, a full queue) is no error: it is a loss, as on the wire, and the numbers are
// used. So send again under the same numbers after an error, and never otherwise.
enum class Advice {
    kWait = QUIC_OFFLOAD_WAIT,                  // until writable, then send the same again
    kUserSpace = QUIC_OFFLOAD_USER_SPACE,       // protect in user space, from now on too
    kDrop = QUIC_OFFLOAD_DROP,                  // as if it was lost on the way
    kSendSingly = QUIC_OFFLOAD_SEND_SINGLY,     // no batches on this path
    kProgramError = QUIC_OFFLOAD_PROGRAM_ERROR, // the caller built the message wrongly
};

inline Advice advise(int error_number) {
    return static_cast<Advice>(quic_offload_advise(error_number));
}

} // namespace udp_quic_offload

#endif // UDP_QUIC_OFFLOAD_HPP
