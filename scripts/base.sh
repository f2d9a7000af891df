# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=bash
#
# Which Linux the guests' kernels are made of (the base), and its source. Part of parts.sh.
#
# KERNEL_BASE in the environment, which ./run VERB --base sets, is what was asked for; kernel_base prints what it
# came to. Nothing asks apt for what the cache has.

STEP_SOURCES+=' base.sh'

# The bases that the repository knows, newest first: kernel/overlay and kernel/patches are for the first,
# kernel/backport/BASE makes another one of them.
KERNEL_BASES=(6.12)
# The one that is always there: from the system's own release, as a package of packages.txt.
KERNEL_LTS=6.12
# What is taken when nobody asks for another; empty: the newest.
KERNEL_DEFAULT=6.12
# Where newer ones come from.
KERNEL_SUITE=trixie-backports

# kernel_base_is_newer A B: is A newer than B?
kernel_base_is_newer() {
    [[ $1 != "$2" && $(printf '%s\n' "$1" "$2" | sort -V | tail -n 1) = "$1" ]]
}

# Prints the names of linux-source packages of KERNEL_SUITE that the repository's patches may fit.
kernel_bases_offered() {
    apt_fresh "$KERNEL_SUITE" >&2 || return 0
    apt_names "$KERNEL_SUITE" 'linux-source-[0-9]+\.[0-9]+' | sed 's/^linux-source-//' || true
}

# kernel_source_cached BASE prints the identity of the newest source of BASE that is unpacked in the cache.
kernel_source_cached() {
    find "$CACHE/sources/" -mindepth 1 -maxdepth 1 -name "linux-$1[.-]*" ! -name '*.tmp' -printf '%f\n' 2>/dev/null |
        sed 's/^linux-//' | sort -V | tail -n 1
}

# kernel_source_installed BASE prints the version of the package linux-source-BASE, if it is installed.
kernel_source_installed() {
    [[ ! -f /usr/src/linux-source-$1.tar.xz ]] || dpkg-query -W -f='${Version}' "linux-source-$1" 2>/dev/null || true
}

kernel_base_is_there() {
    [[ -n $(kernel_source_installed "$1") || -n $(kernel_source_cached "$1") ]]
}

# Prints the base that KERNEL_SRC is.
kernel_src_base() {
    if [[ -d $KERNEL_SRC ]]; then
        [[ -f $KERNEL_SRC/Kbuild && -f $KERNEL_SRC/MAINTAINERS ]] || die "KERNEL_SRC=$KERNEL_SRC is no kernel tree"
        cat "$KERNEL_SRC/Makefile"
    elif [[ -f $KERNEL_SRC ]]; then
        tar --occurrence=1 --wildcards --no-wildcards-match-slash -xOf "$KERNEL_SRC" '*/Makefile'
    else
        die "KERNEL_SRC=$KERNEL_SRC does not exist"
    fi | awk '/^(VERSION|PATCHLEVEL) = /{v = v (v == "" ? "" : ".") $3} END{print v}'
}

# kernel_base_choose WANTED prints the base; of a choice that is not WANTED, or not the newest, it tells people.
kernel_base_choose() {
    local wanted=$1 newest=${KERNEL_BASES[0]} base offered
    if [[ -n ${KERNEL_SRC:-} ]]; then
        base=$(kernel_src_base) || exit 1
        [[ -z $wanted || $wanted = "$base" ]] || die "--base $wanted: KERNEL_SRC is Linux $base"
    elif [[ -z $wanted ]]; then
        base=${KERNEL_DEFAULT:-$newest}
        if [[ $base != "$KERNEL_LTS" ]] && ! kernel_base_is_there "$base" && ! kernel_bases_offered | grep -qxF "$base"; then
            say "[base] Linux $KERNEL_LTS: apt offers no linux-source-$base"
            base=$KERNEL_LTS
        fi
    elif [[ " ${KERNEL_BASES[*]} " = *" $wanted "* ]] || kernel_base_is_newer "$wanted" "$newest"; then
        base=$wanted
        if [[ $wanted != "$KERNEL_LTS" ]] && ! kernel_base_is_there "$wanted"; then
            offered=$(kernel_bases_offered)
            if ! grep -qxF "$wanted" <<<"$offered"; then
                base=$(tail -n 1 <<<"$offered")
                if [[ -z $base ]] || ! kernel_base_is_newer "$base" "$wanted"; then
                    die "apt offers no linux-source-$wanted; --base $KERNEL_LTS goes on with Linux $KERNEL_LTS"
                fi
                say "[base] apt has replaced Linux $wanted by $base: the patches for $newest are tried on that"
            fi
        fi
    else
        die "--base $wanted: unknown (${KERNEL_BASES[*]}, or newer ones)"
    fi
    printf '%s' "$base"
}

KERNEL_BASE_CHOSEN=

# kernel_base_ensure: afterwards KERNEL_BASE is the base, for this run and all that it starts.
kernel_base_ensure() {
    local base
    [[ -z $KERNEL_BASE_CHOSEN ]] || return 0
    base=$(kernel_base_choose "${KERNEL_BASE:-}") || exit 1
    export KERNEL_BASE=$base
    KERNEL_BASE_CHOSEN=1
}

# Prints the base.
kernel_base() {
    kernel_base_ensure
    printf '%s' "$KERNEL_BASE"
}

# --- its source --------------------------------------------------------------------------------------

# kernel_source_id [BASE] prints what identifies the source.
kernel_source_id() {
    local base=${1:-} src=${KERNEL_SRC:-} id
    [[ -n $base ]] || base=$(kernel_base) || exit 1
    if [[ -n $src && $base = "$(kernel_base)" ]]; then
        if [[ -d $src ]]; then
            # A tree may be edited: size and time of every file tell.
            printf 'tree-%s' "$(cd "$src" && find . -path ./.git -prune -o -type f -printf '%P %s %T@\n' | sort | key_of)"
        else
            printf 'tar-%s' "$(stat -Lc '%n %s %Y' "$src" | key_of)"
        fi
        return
    fi
    id=$(kernel_source_installed "$base")
    [[ -n $id ]] || id=$(kernel_source_cached "$base")
    [[ -n $id || $base = "$KERNEL_LTS" ]] || id=$(apt_version "$KERNEL_SUITE" "linux-source-$base")
    [[ -n $id ]] || die "package linux-source-$base is missing: ./run build packages, or set KERNEL_SRC"
    printf '%s' "$id"
}

# kernel_source_dir [BASE] prints where the unchanged source is unpacked.
kernel_source_dir() {
    local id
    id=$(kernel_source_id "$@") || exit 1
    printf '%s/sources/linux-%s' "$CACHE" "$id"
}

# kernel_unpack BASE PRISTINE: unpacks the source, once per version, fetching it if it is not there.
kernel_unpack() {
    local base=$1 pristine=$2 src=/usr/src/linux-source-$1.tar.xz tmp=$2.tmp
    [[ -z ${KERNEL_SRC:-} || $base != "$(kernel_base)" ]] || src=$KERNEL_SRC
    rm -rf "$tmp" "$pristine.package"
    mkdir -p "$tmp"
    if [[ -d $src ]]; then
        rsync -a --exclude=/.git --exclude='*.o' --exclude='*.ko' --exclude='.*.cmd' --exclude='*.a' \
            --exclude=/.config --exclude=/include/config --exclude=/include/generated \
            --exclude='/arch/*/include/generated' "$src/" "$tmp/"
    elif [[ -f $src ]]; then
        tar -xf "$src" -C "$tmp" --strip-components=1 --no-same-owner
    else
        apt_download "$KERNEL_SUITE" "$pristine.package" "linux-source-$base"
        dpkg-deb --fsys-tarfile "$pristine.package"/linux-source-*.deb | tar -xO "./usr/src/linux-source-$base.tar.xz" |
            tar -xJ -C "$tmp" --strip-components=1 --no-same-owner
        rm -rf "$pristine.package"
    fi
    [[ $(kernel_version "$tmp"). = "$base".* ]] || { echo "error: $src is not a Linux $base"; return 1; }
    mv -T "$tmp" "$pristine"
}

kernel_unpack_if_missing() {
    [[ -d $2 ]] || run_step 'kernel source' "$LOGS/kernel-source.log" - kernel_unpack "$@"
}

# kernel_source_ensure [BASE]: afterwards kernel_source_dir BASE is there.
kernel_source_ensure() {
    local base=${1:-} dir
    kernel_base_ensure
    dir=$(kernel_source_dir "$@") || exit 1
    [[ ! -d $dir ]] || return 0
    mkdir -p "$CACHE/sources"
    with_lock kernel-source kernel_unpack_if_missing "${base:-$KERNEL_BASE}" "$dir"
}
