#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Makes the code of the netlink family udp_crypto from its specification, with the kernel's own generator
# (tools/net/ynl of the kernel source that the guest kernels are built from).

. "$(dirname "$0")/parts.sh"

SPEC=Documentation/netlink/specs/udp_crypto.yaml

usage() {
    cat <<'END'
usage: scripts/netlink-gen.sh [--check]

Writes kernel/overlay/net/udp_crypto/netlink-gen.[ch] and include/uapi/linux/udp_crypto_nl.h from
kernel/overlay/Documentation/netlink/specs/udp_crypto.yaml. With --check it writes nothing, and fails when
what is there differs. The test lint.netlink runs it so.
END
}

check=
case ${1:-} in
'') ;;
--check) check=1 ;;
--help | -h) usage; exit 0 ;;
*) die "unknown option $1 (scripts/netlink-gen.sh --help)" ;;
esac

kernel_source_ensure
source=$(kernel_source_dir)

# A kernel tree as far as the generator looks: the specification, its schema, and where the tree begins.
tree=$(mktemp -d)
trap 'rm -rf "$tree"' EXIT
mkdir -p "$tree/${SPEC%/*}" "$tree/out"
cp "$source"/Documentation/netlink/*.yaml "$tree/Documentation/netlink/"
cp "$ROOT/kernel/overlay/$SPEC" "$tree/$SPEC"
: >"$tree/MAINTAINERS"

generator=$source/tools/net/ynl/pyynl/ynl_gen_c.py
[[ -f $generator ]] || generator=$source/tools/net/ynl/ynl-gen-c.py

# The generator of 6.12 does not say how to call it, and includes a header once for each set that it defines.
comparable() {
    grep -v '^/\* To regenerate run: ' | uniq
}

generate() {
    local mode=$1 part=$2 out=$3
    PYTHONDONTWRITEBYTECODE=1 /usr/bin/python3 "$generator" --spec "$tree/$SPEC" \
        --mode "$mode" "--$part" -o "$tree/out/$(basename "$out")"
    if [[ -z $check ]]; then
        cp "$tree/out/$(basename "$out")" "$ROOT/$out"
        say "wrote $out"
    elif ! diff -u --label "$out" <(comparable <"$ROOT/$out") --label generated <(comparable <"$tree/out/$(basename "$out")"); then
        say "$out is not what its specification gives: scripts/netlink-gen.sh"
        status=1
    fi
}

status=0
generate uapi header include/uapi/linux/udp_crypto_nl.h
generate kernel header kernel/overlay/net/udp_crypto/netlink-gen.h
generate kernel source kernel/overlay/net/udp_crypto/netlink-gen.c
exit "$status"
