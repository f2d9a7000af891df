// SPDX-License-Identifier: GPL-2.0
//
// Access to the bit-level structures of the kernel's include/linux/mlx5/mlx5_ifc.h, where one byte
// of a `struct mlx5_ifc_*_bits` stands for one bit of the big-endian message. The macros mirror the
// driver's MLX5_GET/MLX5_SET, but work on spans: a field that lies past the end of a message reads
// as zero and cannot be written, so that no message length from the guest leads out of bounds.
#pragma once

#include <linux/types.h>

#include <linux/mlx5/mlx5_ifc.h>

#include <linux/mlx5/device.h>

#include <mlx5_extracted.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>

namespace connectx {

using Bytes = std::span<std::uint8_t>;
using ConstBytes = std::span<const std::uint8_t>;

template <typename T> [[nodiscard]] inline T load_be(const std::uint8_t *p) {
    T v;
    std::memcpy(&v, p, sizeof(v));
    if constexpr (sizeof(T) == 2)
        return __builtin_bswap16(v);
    else if constexpr (sizeof(T) == 4)
        return __builtin_bswap32(v);
    else if constexpr (sizeof(T) == 8)
        return __builtin_bswap64(v);
    else
        return v;
}

template <typename T> inline void store_be(std::uint8_t *p, T v) {
    if constexpr (sizeof(T) == 2)
        v = __builtin_bswap16(v);
    else if constexpr (sizeof(T) == 4)
        v = __builtin_bswap32(v);
    else if constexpr (sizeof(T) == 8)
        v = __builtin_bswap64(v);
    std::memcpy(p, &v, sizeof(v));
}

namespace ifc {

[[nodiscard]] inline std::uint32_t get(ConstBytes p, std::size_t bit_off, std::size_t bit_size) {
    const std::size_t byte = bit_off / 32 * 4;
    if (byte + 4 > p.size())
        return 0;
    const unsigned shift = 32 - bit_size - bit_off % 32;
    const std::uint32_t mask = bit_size >= 32 ? ~0U : (1U << bit_size) - 1;
    return load_be<std::uint32_t>(p.data() + byte) >> shift & mask;
}

inline void set(Bytes p, std::size_t bit_off, std::size_t bit_size, std::uint32_t v) {
    const std::size_t byte = bit_off / 32 * 4;
    if (byte + 4 > p.size())
        return;
    const unsigned shift = 32 - bit_size - bit_off % 32;
    const std::uint32_t mask = (bit_size >= 32 ? ~0U : (1U << bit_size) - 1) << shift;
    const std::uint32_t old = load_be<std::uint32_t>(p.data() + byte);
    store_be<std::uint32_t>(p.data() + byte, (old & ~mask) | (v << shift & mask));
}

[[nodiscard]] inline std::uint64_t get64(ConstBytes p, std::size_t bit_off) {
    const std::size_t byte = bit_off / 8;
    return byte + 8 > p.size() ? 0 : load_be<std::uint64_t>(p.data() + byte);
}

inline void set64(Bytes p, std::size_t bit_off, std::uint64_t v) {
    const std::size_t byte = bit_off / 8;
    if (byte + 8 <= p.size())
        store_be<std::uint64_t>(p.data() + byte, v);
}

[[nodiscard]] inline ConstBytes sub(ConstBytes p, std::size_t off) {
    return p.subspan(std::min(off, p.size()));
}
[[nodiscard]] inline Bytes sub(Bytes p, std::size_t off) {
    return p.subspan(std::min(off, p.size()));
}

} // namespace ifc
} // namespace connectx

#define IFC_NULL(typ) (static_cast<::mlx5_ifc_##typ##_bits *>(nullptr))
#define IFC_BIT_OFF(typ, fld) __builtin_offsetof(::mlx5_ifc_##typ##_bits, fld)
#define IFC_BIT_SIZE(typ, fld) (sizeof(IFC_NULL(typ)->fld))

// Size of the fixed part of a structure or of a field, in bytes.
#define IFC_BYTES(typ) (sizeof(::mlx5_ifc_##typ##_bits) / 8)
#define IFC_FIELD_BYTES(typ, fld) (IFC_BIT_SIZE(typ, fld) / 8)
#define IFC_BYTE_OFF(typ, fld) (IFC_BIT_OFF(typ, fld) / 8)

#define IFC_GET(typ, p, fld)                                                                       \
    (::connectx::ifc::get((p), IFC_BIT_OFF(typ, fld), IFC_BIT_SIZE(typ, fld)))
#define IFC_SET(typ, p, fld, v)                                                                    \
    (::connectx::ifc::set((p), IFC_BIT_OFF(typ, fld), IFC_BIT_SIZE(typ, fld),                      \
                          static_cast<std::uint32_t>(v)))
#define IFC_GET64(typ, p, fld) (::connectx::ifc::get64((p), IFC_BIT_OFF(typ, fld)))
#define IFC_SET64(typ, p, fld, v) (::connectx::ifc::set64((p), IFC_BIT_OFF(typ, fld), (v)))
// The rest of the message from a field on.
#define IFC_AT(typ, p, fld) (::connectx::ifc::sub((p), IFC_BYTE_OFF(typ, fld)))
