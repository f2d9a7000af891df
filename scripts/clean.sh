#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# ./run clean: removes what was built.

. "$(dirname "$0")/lib.sh"

usage() {
    cat <<'END'
usage: ./run clean [--cache]

Removes the build folder; with --cache also the sources, compiler results, kernels and QEMU that are
kept outside the checkout for all checkouts of this user.
END
}

case ${1:-} in
--help | -h) usage; exit 0 ;;
'' | --cache) ;;
*) die "unknown option $1 (./run clean --help)" ;;
esac
rm -rf "$BUILD"
say "removed $BUILD"
if [[ ${1:-} = --cache ]]; then
    # Only what these scripts made there.
    rm -rf "$CACHE"/{ccache,kernels,lock,qemu,sources,work,kvm-probe}
    rmdir "$CACHE" 2>/dev/null || true
    say "removed the contents of $CACHE"
fi
