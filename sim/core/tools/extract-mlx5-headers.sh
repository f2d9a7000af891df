#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# Takes the device layouts out of a kernel tree's include/linux/mlx5/ and makes them digestible for
# a C++ compiler outside the kernel. Nothing is retyped: structures and constants stay the kernel's.
#
#   extract-mlx5-headers.sh KERNEL_SRC OUT_DIR
set -euo pipefail

kernel=$1
out=$2
src=$kernel/include/linux/mlx5
[ -f "$src/mlx5_ifc.h" ] || { echo "no mlx5 headers in $src" >&2; exit 1; }
mkdir -p "$out/linux/mlx5"

# ISO C++ has no flexible arrays in the middle of an aggregate; a zero-length array (GNU) lies at
# the same offset and has the same size.
zero_length() { sed -E 's/\[\]/[0]/g' "$1"; }

zero_length "$src/mlx5_ifc.h" > "$out/linux/mlx5/mlx5_ifc.h"
zero_length "$src/mlx5_ifc_fpga.h" > "$out/linux/mlx5/mlx5_ifc_fpga.h"
zero_length "$src/device.h" > "$out/linux/mlx5/device.h"

# The other headers pull in half the kernel: only their enumerations and the WQE segments are taken.
blocks() { # FILE REGEX: every top-level block whose first line matches
    awk -v re="$2" '!on && $0 ~ re && /\{$/ { on = 1 } on { print } on && /^};/ { on = 0 }' "$1"
}
{
    echo "/* Generated from $(basename "$kernel")/include/linux/mlx5: do not edit. */"
    echo "#pragma once"
    grep -E '^#define MLX5_WQE_(CTRL|DS)_[A-Z_]+ ' "$src/qp.h"
    blocks "$src/cq.h" '^enum'
    blocks "$src/port.h" '^enum'
    blocks "$src/qp.h" '^struct mlx5_wqe_(ctrl|eth|data|umr_ctrl|srq_next)_seg'
    blocks "$src/qp.h" '^enum mlx5_qp_state|^enum \{$' |
        awk '/^enum/ { b = ""; on = 1 } on { b = b $0 "\n" } /^};/ { if (b ~ /MLX5_ETH_WQE_|MLX5_WQE_CTRL_CQ_UPDATE|MLX5_SND_DBR/) printf "%s", b; on = 0 }'
    blocks "$src/driver.h" '^enum' |
        awk '/^enum/ { b = ""; on = 1 } on { b = b $0 "\n" } /^};/ { if (b ~ /MLX5_REG_PPCNT/) printf "%s", b; on = 0 }'
} | zero_length /dev/stdin > "$out/mlx5_extracted.h"

# Names for traces: opcode and register number to text.
grep -oE '^\s*MLX5_CMD_OP_[A-Z0-9_]+' "$src/mlx5_ifc.h" | tr -d '\t ' | grep -vE 'MLX5_CMD_OP_(MAX|GENERAL_START|GENERAL_END)$' |
    sed -E 's/^MLX5_CMD_OP_(.*)$/CONNECTX_OPCODE(\1)/' > "$out/opcode_names.inc"
grep -oE '^\s*MLX5_REG_[A-Z0-9_]+' "$src/driver.h" | tr -d '\t ' |
    sed -E 's/^MLX5_REG_(.*)$/CONNECTX_REGISTER(\1)/' > "$out/register_names.inc"
