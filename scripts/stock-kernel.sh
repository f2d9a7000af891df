# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=bash
#
# Debian's own kernels as guests: the unpatched driver and core of a real distribution. The package is
# downloaded and unpacked in the cache, never installed. Part of parts.sh.

STEP_SOURCES+=' stock-kernel.sh'

# Drivers that init needs before it can reach the host's root folder.
STOCK_MODULES=(virtio_pci virtio_console virtio_net virtio_rng 9pnet_virtio 9p overlay mlx5_core)

# The series that tests are run on, for help and messages.
# shellcheck disable=SC2034
STOCK_SERIES=(6.1 6.12 7.3)

# Prints the packages of the newest kernel of a series that apt offers, as NAME=VERSION, one a line: of the
# system's own release, else of KERNEL_SUITE, where an image is in three parts.
stock_kernel_packages() {
    local series=${1//./\\.} name version part
    # Unsigned packages hold the same kernel; the signed one is what people run.
    name=$(apt-cache search --names-only "^linux-image-$series\.[0-9]+(-[0-9]+|\+deb[0-9u]+)-amd64\$" |
        cut -d' ' -f1 | sort -V | tail -n 1)
    if [[ -n $name ]]; then
        version=$(apt-cache policy "$name" | sed -n 's/^  Candidate: //p')
        printf '%s=%s\n' "$name" "$version"
        return
    fi
    apt_fresh "$KERNEL_SUITE" >&2 || return
    name=$(apt_names "$KERNEL_SUITE" "linux-binary-$series\.[0-9]+(-[0-9]+|\+deb[0-9u]+)-amd64" | tail -n 1) || return
    version=$(apt_version "$KERNEL_SUITE" "$name")
    for part in binary modules base; do
        printf '%s=%s\n' "${name/binary/$part}" "$version"
    done
}

# stock_kernel_download RESULT PACKAGE...
stock_kernel_download() {
    local result=$1 release package
    shift
    rm -rf "$result.tmp"
    mkdir -p "$result.tmp/deb"
    if (($# == 1)); then
        (cd "$result.tmp/deb" && apt-get -o APT::Sandbox::User=root download "$1")
    else
        (apt_download "$KERNEL_SUITE" "$result.tmp/deb" "$@")
    fi
    for package in "$result.tmp"/deb/*.deb; do
        dpkg-deb -x "$package" "$result.tmp"
    done
    rm -rf "$result.tmp/deb" "$result.tmp/usr/share"
    [[ ! -d $result.tmp/usr/lib/modules ]] || { mkdir -p "$result.tmp/lib" && mv "$result.tmp/usr/lib/modules" "$result.tmp/lib/"; }
    release=$(basename "$result.tmp"/lib/modules/*)
    if [[ -d $result.tmp/boot ]]; then
        mv "$result.tmp/boot/vmlinuz-$release" "$result.tmp/bzImage"
        mv "$result.tmp/boot/config-$release" "$result.tmp/config"
    else
        mv "$result.tmp/lib/modules/$release/vmlinuz" "$result.tmp/bzImage"
        mv "$result.tmp/lib/modules/$release/config" "$result.tmp/config"
    fi
    printf '%s\n' "$release" >"$result.tmp/release"
    depmod -b "$result.tmp" "$release"
    rm -rf "$result"
    mv -T "$result.tmp" "$result"
}

# stock_kernel_modules RESULT FOLDER copies into FOLDER the modules init needs, unpacked, with a list.
stock_kernel_modules() {
    local result=$1 folder=$2 release name file plain
    release=$(<"$result/release")
    for name in "${STOCK_MODULES[@]}"; do
        modprobe -d "$result" -S "$release" --show-depends "$name" 2>/dev/null || true
    done | sed -n 's/^insmod \([^ ]*\).*/\1/p' | awk '!seen[$0]++' |
        while IFS= read -r file; do
            plain=$(basename "${file%.xz}")
            if [[ $file = *.xz ]]; then
                xz -dc "$file" >"$folder/$plain"
            else
                cp "$file" "$folder/$plain"
            fi
            printf '%s\n' "$plain" >>"$folder/list"
        done
    [[ -s $folder/list ]] || die "no module of $result found"
}

stock_kernel_build_locked() {
    local variant=$1 result=$2
    shift 2
    [[ ! -f $result/bzImage ]] || return 0
    mkdir -p "$CACHE/kernels"
    run_step "kernel $variant" "$LOGS/kernel-$variant.log" - stock_kernel_download "$result" "$@" || return
    prune "$CACHE/kernels" "$variant-" 2
}

# stock_kernel_ensure SERIES: afterwards kernel_link stock-SERIES has Debian's kernel of that series.
stock_kernel_ensure() {
    local series=$1 variant=stock-$1 packages=() result
    # What is there is good: whether something newer exists is asked only when it is missing.
    mkdir -p "$CACHE/kernels"
    result=$(find "$CACHE/kernels" -mindepth 2 -maxdepth 2 -path "*/$variant-[0-9]*/bzImage" ! -path '*.tmp/*' -printf '%h\n' | sort -V | tail -n 1)
    if [[ -z $result ]]; then
        mapfile -t packages < <(stock_kernel_packages "$series")
        ((${#packages[@]})) || die "apt offers no linux-image-$series (apt-get update?)"
        result=$CACHE/kernels/$variant-${packages[0]#*=}
        with_lock "kernel-$variant" stock_kernel_build_locked "$variant" "$result" "${packages[@]}" || return
    fi
    link_result "$result" "$(kernel_link "$variant")"
}
