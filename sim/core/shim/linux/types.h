/* SPDX-License-Identifier: GPL-2.0 */
/* Just enough of the kernel's environment for include/linux/mlx5/ to compile as C++. */
#pragma once

#include <cstddef>
#include <cstdint>

// This header stands in front of the system's of that name, which other system headers need too.
#include_next <linux/types.h>

using u8 = std::uint8_t;
using u16 = std::uint16_t;
using u32 = std::uint32_t;
using u64 = unsigned long long;

#define __packed __attribute__((packed))
#define __force
#define DECLARE_FLEX_ARRAY(type, name) type name[0]
#define struct_group(name, ...) __VA_ARGS__
#undef BIT
#define BIT(n) (1UL << (n))
#define BIT_ULL(n) (1ULL << (n))
#define GENMASK(high, low) (((~0UL) << (low)) & (~0UL >> (63 - (high))))
#define PAGE_SIZE 4096UL

#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "the model assumes a little-endian build host"
#endif
#ifndef __LITTLE_ENDIAN
#define __LITTLE_ENDIAN 1234
#endif

constexpr u16 be16_to_cpu(__be16 v) { return __builtin_bswap16(v); }
constexpr u32 be32_to_cpu(__be32 v) { return __builtin_bswap32(v); }
constexpr u64 be64_to_cpu(__be64 v) { return __builtin_bswap64(v); }
constexpr __be16 cpu_to_be16(u16 v) { return __builtin_bswap16(v); }
constexpr __be32 cpu_to_be32(u32 v) { return __builtin_bswap32(v); }
constexpr __be64 cpu_to_be64(u64 v) { return __builtin_bswap64(v); }
