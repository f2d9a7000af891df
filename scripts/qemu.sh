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

# Writes into $1 a copy of the system's own apt sources for this release, as deb-src.
qemu_apt_sources() {
    local parts=$1 codename file
    codename=$(. /etc/os-release && printf '%s' "$VERSION_CODENAME")
    rm -rf "$parts"
    mkdir -p "$parts"
    for file in /etc/apt/sources.list.d/*.sources; do
        [[ -f $file ]] || continue
        # Paragraphs for this release only; other vendors' archives need not have sources.
        awk -v codename="$codename" 'BEGIN{RS = ""; FS = "\n"}
            {
                ours = 1; text = ""
                for (i = 1; i <= NF; i++) {
                    line = $i
                    if (line ~ /^[Ee]nabled: *no/) ours = 0
                    if (line ~ /^Suites:/) {
                        n = split(line, suite, /[ \t]+/)
                        for (j = 2; j <= n; j++)
                            if (suite[j] != "" && suite[j] !~ "^" codename "(-[a-z]+)?(/updates)?$") ours = 0
                    }
                    if (line ~ /^Types:/) line = "Types: deb-src"
                    if (line !~ /^#/) text = text line "\n"
                }
                if (ours) print text
            }' "$file" >"$parts/$(basename "$file")"
    done
    for file in /etc/apt/sources.list /etc/apt/sources.list.d/*.list; do
        [[ -f $file ]] || continue
        sed -nE "s/^deb(-src)?[[:space:]]+((\[[^]]*\][[:space:]]+)?[^[:space:]]+[[:space:]]+$codename(-[a-z]+)?(\/updates)?[[:space:]].*)/deb-src \2/p" \
            "$file" | sort -u >"$parts/$(basename "$file")"
    done
    find "$parts" -type f -size 0 -delete
    [[ -n $(ls -A "$parts") ]] || { echo "error: no apt source for $codename found in /etc/apt"; return 1; }
}

# Downloads Debian's QEMU source package into $1, with an apt configuration of its own.
qemu_download() {
    local dir=$1 apt=$CACHE/work/apt-src options
    mkdir -p "$apt/lists/partial" "$apt/cache/archives/partial"
    qemu_apt_sources "$apt/parts"
    options=(-o Dir::Etc::sourcelist=/dev/null -o "Dir::Etc::sourceparts=$apt/parts"
        -o "Dir::State::lists=$apt/lists" -o "Dir::Cache=$apt/cache" -o APT::Sandbox::User=root
        -o Acquire::Languages=none -o Acquire::Retries=3)
    apt-get "${options[@]}" update
    rm -rf "$dir.tmp"
    mkdir -p "$dir.tmp"
    (cd "$dir.tmp" && apt-get "${options[@]}" source --download-only qemu)
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
