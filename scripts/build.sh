#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# ./run build: builds everything or one part.

. "$(dirname "$0")/parts.sh"

usage() {
    cat <<'END'
usage: ./run build [PART]...

  packages             install the Debian packages that are missing (scripts/packages.txt)
  qemu                 QEMU from Debian's source, linked as build/qemu
  kernel [VARIANT]...  guest kernels, linked as build/kernel/VARIANT-BASE:
                         release   Linux with our changes
                         debug     the same with KASAN, lockdep, kmemleak, UBSAN
                         fuzz      debug with KCOV, for ./run fuzz kernel
                         kcsan     Linux with our changes, and KCSAN for what they touch
                         vanilla   Linux unchanged, with the configuration of release
                         stock-N   Debian's own Linux N: 6.1, 6.12 or 7.3
                       without a VARIANT: release, debug and vanilla
  userspace            examples, tests, tools and the device model, in build/cmake
  all                  all of these (default)

  --base B             the Linux that the guest kernels are made of, 7.3 or 6.12

Environment: KERNEL_SRC=TARBALL-OR-TREE builds the kernels from another source; JOBS=N compiles N
files at a time; UDP_QUIC_OFFLOAD_CACHE=FOLDER keeps sources and results there.
END
}

kernels() {
    local variant
    packages_ensure
    for variant in "$@"; do
        kernel_ensure "$variant"
        say "[kernel $variant] ready: $(readlink "$(kernel_link "$variant")")"
    done
}

(($#)) || set -- all
while (($#)); do
    part=$1
    shift
    case $part in
    --help | -h) usage ;;
    packages) packages_ensure ;;
    qemu)
        packages_ensure
        qemu_ensure
        say "[qemu] ready: $(readlink "$BUILD/qemu")"
        ;;
    kernel)
        variants=()
        while [[ ${1:-} =~ ^(release|debug|fuzz|kcsan|vanilla|stock(-[0-9.]+)?)$ ]]; do
            variants+=("$1")
            shift
        done
        ((${#variants[@]})) || variants=(release debug vanilla)
        kernels "${variants[@]}"
        ;;
    userspace)
        packages_ensure
        userspace_ensure all
        ;;
    all) set -- packages qemu kernel userspace "$@" ;;
    *) die "unknown part '$part' (./run build --help)" ;;
    esac
done
