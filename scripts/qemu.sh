# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=bash
#
# QEMU from Debian's source package, with what sim/qemu/ adds. Part of parts.sh; qemu_ensure builds what
# is missing and links it as build/qemu. The device model is a shared library beside it, so that a
# change of the model does not build QEMU anew; who starts QEMU sets LD_LIBRARY_PATH=$SIM_LIBRARY.

STEP_SOURCES+=' qemu.sh'

# shellcheck disable=SC2034 # for those who start QEMU
QEMU_FIRMWARE=(-L /usr/share/qemu -L /usr/share/seabios)
QEMU_KEEP=6
# Raise it with a change to this script that changes what comes out.
QEMU_BUILD_REVISION=1
QEMU_CONFIGURE=(--target-list=x86_64-softmmu --without-default-features --enable-system --enable-tcg
    --enable-kvm --enable-slirp --enable-virtfs --enable-attr --enable-cap-ng --enable-fdt=system
    --disable-tools --disable-docs --disable-install-blobs --disable-debug-info)

# Downloads Debian's QEMU source package into $1.
qemu_download() {
    local dir=$1
    rm -rf "$dir.tmp"
    apt_source system "$dir.tmp" qemu
    [[ -n $(find "$dir.tmp" -name '*.dsc') ]] || { echo "error: apt gave no QEMU source"; return 1; }
    rm -rf "$dir"
    mv -T "$dir.tmp" "$dir"
}

qemu_unpack() {
    local dsc=$1 pristine=$2
    rm -rf "$pristine.tmp"
    dpkg-source --no-check -x "$dsc" "$pristine.tmp"
    mv -T "$pristine.tmp" "$pristine"
}

# Prints the repository's files that go into QEMU.
qemu_inputs() {
    find "$ROOT/sim/qemu" "$ROOT/sim/core/include/connectx_c.h" -type f ! -name '*.md' ! -name '.*' | LC_ALL=C sort
}

qemu_key() {
    local dsc=$1 inputs=()
    mapfile -t inputs < <(qemu_inputs)
    {
        sha256sum <"$dsc"
        gcc --version | head -n 1
        printf 'revision %s %s\n' "$QEMU_BUILD_REVISION" "${QEMU_CONFIGURE[*]}"
        ((${#inputs[@]} == 0)) || hash_files "${inputs[@]}"
    } | key_of
}

qemu_progress() {
    grep -oE '^\[[0-9]+/[0-9]+\]' "$1" | tail -n 1 | tr -d '[]' | sed 's/$/ objects/'
}

# Lays down in $1 what QEMU needs of the device model to compile and link, at a place that does not
# depend on the checkout.
qemu_model() {
    local dir=$1
    rm -rf "$dir"
    mkdir -p "$dir/include"
    cp "$ROOT/sim/core/include/connectx_c.h" "$dir/include/"
    cp "$SIM_LIBRARY/libconnectx.so" "$dir/"
    printf '%s\n' 'Name: connectx' 'Description: ConnectX-7 model' 'Version: 1' \
        "Cflags: -I$dir/include" "Libs: -L$dir -lconnectx" >"$dir/connectx.pc"
}

qemu_compile() {
    local pristine=$1 result=$2 work=$CACHE/work/qemu stamp
    rm -rf "$work/stage"
    mkdir -p "$work/stage"
    [[ ! -d $ROOT/sim/qemu/overlay ]] || rsync -rl "$ROOT/sim/qemu/overlay/" "$work/stage/"
    tree_patch "$pristine" "$work/stage" "$(basename "$pristine")" "$ROOT"/sim/qemu/patches/*.patch
    tree_sync "$pristine" "$work"
    qemu_model "$work/connectx"
    stamp=$(printf '%s\n' "$pristine" "${QEMU_CONFIGURE[@]}" "$(<"$work/connectx/connectx.pc")" | key_of)
    if [[ ! -f $work/build/build.ninja || ! -f $work/configured || $(<"$work/configured") != "$stamp" ]]; then
        rm -rf "$work/build" "$work/configured"
        mkdir -p "$work/build"
        (cd "$work/build" && env -u CFLAGS -u LDFLAGS PATH=/usr/bin:/bin:/usr/sbin:/sbin \
            PKG_CONFIG_PATH="$work/connectx" ../tree/configure --meson=/usr/bin/meson --cc='ccache gcc' "${QEMU_CONFIGURE[@]}")
        printf '%s\n' "$stamp" >"$work/configured"
    fi
    PATH=/usr/bin:/bin:/usr/sbin:/sbin PKG_CONFIG_PATH="$work/connectx" ninja -C "$work/build" -j"$JOBS" qemu-system-x86_64
    rm -rf "$result.tmp"
    mkdir -p "$result.tmp/bin"
    cp "$work/build/qemu-system-x86_64" "$result.tmp/bin/"
    LD_LIBRARY_PATH=$work/connectx "$result.tmp/bin/qemu-system-x86_64" --version
    rm -rf "$result"
    mv -T "$result.tmp" "$result"
}

qemu_find_dsc() {
    [[ ! -d $CACHE/sources/qemu-package ]] ||
        find "$CACHE/sources/qemu-package" -name 'qemu_*.dsc' | sort -V | tail -n 1
}

qemu_build_locked() {
    local dsc pristine result
    dsc=$(qemu_find_dsc)
    if [[ -z $dsc ]]; then
        mkdir -p "$CACHE/sources"
        run_step 'qemu download' "$LOGS/qemu-download.log" - qemu_download "$CACHE/sources/qemu-package" || return
        dsc=$(qemu_find_dsc)
    fi
    result=$CACHE/qemu/$(qemu_key "$dsc")
    [[ ! -x $result/bin/qemu-system-x86_64 ]] || return 0
    mkdir -p "$CACHE/qemu"
    pristine=$CACHE/sources/$(basename "$dsc" .dsc)
    [[ -d $pristine ]] ||
        run_step 'qemu source' "$LOGS/qemu-source.log" - qemu_unpack "$dsc" "$pristine" || return
    run_step qemu "$LOGS/qemu.log" qemu_progress qemu_compile "$pristine" "$result" || return
    prune "$CACHE/qemu" '' "$QEMU_KEEP"
}

# qemu_ensure: afterwards build/qemu/bin/qemu-system-x86_64 is the emulator of the present sources.
qemu_ensure() {
    local dsc result=
    sim_ensure || return
    dsc=$(qemu_find_dsc)
    [[ -z $dsc ]] || result=$CACHE/qemu/$(qemu_key "$dsc")
    if [[ -z $result || ! -x $result/bin/qemu-system-x86_64 ]]; then
        with_lock qemu qemu_build_locked || return
        dsc=$(qemu_find_dsc)
        result=$CACHE/qemu/$(qemu_key "$dsc")
    fi
    link_result "$result" "$BUILD/qemu"
}
