# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=bash
#
# Debian's own kernels as guests: the unpatched driver and core of a real distribution. The package is
# downloaded and unpacked in the cache, never installed. Part of parts.sh.

STEP_SOURCES+=' stock-kernel.sh'

# Drivers that init needs before it can reach the host's root folder.
STOCK_MODULES=(virtio_pci virtio_console virtio_net virtio_rng 9pnet_virtio 9p overlay mlx5_core)

# Prints the newest linux-image package of a series that apt offers, as NAME=VERSION.
stock_kernel_package() {
    local series=$1 name version
    # Unsigned packages hold the same kernel; the signed one is what people run.
    name=$(apt-cache search --names-only "^linux-image-${series//./\\.}\.[0-9]+(-[0-9]+|\+deb[0-9u]+)-amd64\$" |
        cut -d' ' -f1 | sort -V | tail -n 1)
    [[ -n $name ]] || return 1
    version=$(apt-cache policy "$name" | sed -n 's/^  Candidate: //p')
    printf '%s=%s' "$name" "$version"
}

stock_kernel_download() {
    local package=$1 result=$2 release
    rm -rf "$result.tmp"
    mkdir -p "$result.tmp/deb"
    (cd "$result.tmp/deb" && apt-get -o APT::Sandbox::User=root download "$package")
    dpkg-deb -x "$result.tmp"/deb/*.deb "$result.tmp"
    rm -rf "$result.tmp/deb" "$result.tmp/usr/share"
    [[ ! -d $result.tmp/usr/lib/modules ]] || { mkdir -p "$result.tmp/lib" && mv "$result.tmp/usr/lib/modules" "$result.tmp/lib/"; }
    release=$(basename "$result.tmp"/lib/modules/*)
    mv "$result.tmp/boot/vmlinuz-$release" "$result.tmp/bzImage"
    mv "$result.tmp/boot/config-$release" "$result.tmp/config"
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
    local variant=$1 package=$2 result=$3
    [[ ! -f $result/bzImage ]] || return 0
    mkdir -p "$CACHE/kernels"
    run_step "kernel $variant" "$LOGS/kernel-$variant.log" - stock_kernel_download "$package" "$result" || return
    prune "$CACHE/kernels" "$variant-" 2
}

stock_kernel_ensure() {
    local variant=$1 series=6.12 package result
    [[ $variant != stock-6.1 ]] || series=6.1
    # What is there is good: whether something newer exists is asked only when it is missing.
    mkdir -p "$CACHE/kernels"
    result=$(find "$CACHE/kernels" -mindepth 2 -maxdepth 2 -path "*/$variant-[0-9]*/bzImage" ! -path '*.tmp/*' -printf '%h\n' | sort -V | tail -n 1)
    if [[ -z $result ]]; then
        package=$(stock_kernel_package "$series") || die "apt offers no linux-image-$series (apt-get update?)"
        result=$CACHE/kernels/$variant-${package#*=}
        with_lock "kernel-$variant" stock_kernel_build_locked "$variant" "$package" "$result" || return
    fi
    link_result "$result" "$BUILD/kernel/$variant"
}
