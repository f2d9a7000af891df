# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=bash
#
# nginx from Debian's source package, with the patches of integrations/nginx. Part of parts.sh; nginx_ensure
# builds what is missing and links it as build/nginx.

STEP_SOURCES+=' nginx-build.sh'

NGINX_SUITE=trixie
NGINX_CURL_SUITE=bookworm-backports
NGINX_KEEP=4
# Raise it with a change to this script that changes what comes out.
NGINX_BUILD_REVISION=1
NGINX_CONFIGURE=(--with-http_ssl_module --with-http_v2_module --with-http_v3_module --without-http_rewrite_module
    --sbin-path=sbin/nginx --conf-path=conf/nginx.conf)

# Downloads Debian's source package into $1. Where the mirror does not serve all of it, the upstream tarball,
# which Debian's own patches are not in.
nginx_download() {
    local dir=$1 options
    rm -rf "$dir.tmp"
    if ! (apt_source "$NGINX_SUITE" "$dir.tmp" nginx); then
        mapfile -t options < <(apt_options "$NGINX_SUITE")
        mkdir -p "$dir.tmp"
        (cd "$dir.tmp" && apt-get "${options[@]}" source --download-only --tar-only nginx)
        echo 'note: the upstream tarball alone, without the patches of Debian'
    fi
    [[ -n $(find "$dir.tmp" -name 'nginx_*.orig.tar.*') ]] || { echo 'error: apt gave no nginx source'; return 1; }
    rm -rf "$dir"
    mv -T "$dir.tmp" "$dir"
}

# nginx_unpack PACKAGE PRISTINE
nginx_unpack() {
    local dsc
    dsc=$(find "$1" -name '*.dsc' | sort -V | tail -n 1)
    rm -rf "$2.tmp"
    if [[ -n $dsc ]]; then
        dpkg-source --no-check -x "$dsc" "$2.tmp"
    else
        mkdir -p "$2.tmp"
        tar -xf "$(find "$1" -name '*.orig.tar.*' | sort -V | tail -n 1)" -C "$2.tmp" --strip-components=1
    fi
    mv -T "$2.tmp" "$2"
}

# Prints the repository's files that go into nginx.
nginx_inputs() {
    printf '%s\n' "$ROOT"/integrations/nginx/patches/*.patch "$ROOT/include/udp_quic_offload.h" "$ROOT"/include/uapi/linux/*.h
}

nginx_key() {
    local inputs=()
    mapfile -t inputs < <(nginx_inputs)
    {
        find "$1" -type f -printf '%f %s\n' | LC_ALL=C sort
        gcc --version | head -n 1
        printf 'revision %s %s\n' "$NGINX_BUILD_REVISION" "${NGINX_CONFIGURE[*]}"
        hash_files "${inputs[@]}"
    } | key_of
}

nginx_progress() {
    printf '%s objects' "$(grep -c -- '^ccache gcc -c' "$1")"
}

nginx_compile() {
    local pristine=$1 result=$2 work=$CACHE/work/nginx
    rm -rf "$work/stage"
    mkdir -p "$work/stage"
    tree_patch "$pristine" "$work/stage" "$(basename "$pristine")" "$ROOT"/integrations/nginx/patches/*.patch
    tree_sync "$pristine" "$work"
    # A place that does not depend on the checkout, for the compiler cache.
    rm -rf "$work/include"
    cp -a "$ROOT/include" "$work/include"
    cd "$work/tree" || return
    ./configure --with-cc='ccache gcc' --with-cc-opt="-O2 -I$work/include -I$work/include/uapi" \
        --builddir="$work/obj" "${NGINX_CONFIGURE[@]}" --prefix="$result"
    grep -qx '#define NGX_HAVE_UDP_QUIC_CRYPTO  1' "$work/obj/ngx_auto_config.h" ||
        { echo 'error: udp_quic_offload.h was not found'; return 1; }
    make -j"$JOBS"
    rm -rf "$result.tmp"
    mkdir -p "$result.tmp/sbin" "$result.tmp/conf"
    cp "$work/obj/nginx" "$result.tmp/sbin/"
    cp conf/mime.types "$result.tmp/conf/"
    "$result.tmp/sbin/nginx" -V
    rm -rf "$result"
    mv -T "$result.tmp" "$result"
}

nginx_build_locked() {
    local package=$CACHE/sources/nginx-package pristine=$CACHE/sources/nginx result
    [[ -d $package ]] ||
        run_step 'nginx download' "$LOGS/nginx-download.log" - nginx_download "$package" || return
    [[ -d $pristine ]] || run_step 'nginx source' "$LOGS/nginx-source.log" - nginx_unpack "$package" "$pristine" || return
    result=$CACHE/nginx/$(nginx_key "$package")
    if [[ ! -x $result/sbin/nginx ]]; then
        mkdir -p "$CACHE/nginx"
        run_step nginx "$LOGS/nginx.log" nginx_progress nginx_compile "$pristine" "$result" || return
        prune "$CACHE/nginx" '' "$NGINX_KEEP"
    fi
    link_result "$result" "$BUILD/nginx"
}

nginx_source() {
    cp -a "$CACHE/sources/nginx" "$1"
    local patch
    for patch in "$ROOT"/integrations/nginx/patches/*.patch; do
        patch -d "$1" -p1 --forward --no-backup-if-mismatch <"$patch" || return
    done
}

# The library of curl that has HTTP/3, for the tests: in bookworm it is that of the backports.
nginx_curl() {
    local folder=$1 package
    rm -rf "$folder.tmp"
    apt_update "$NGINX_CURL_SUITE"
    apt_download "$NGINX_CURL_SUITE" "$folder.tmp/packages" libcurl3-gnutls libngtcp2-16 libngtcp2-crypto-gnutls8 libnghttp3-9
    for package in "$folder.tmp"/packages/*.deb; do
        dpkg-deb -x "$package" "$folder.tmp"
    done
    rm -rf "$folder.tmp/packages" "$folder"
    mv -T "$folder.tmp" "$folder"
}

# nginx_curl_ensure: afterwards build/curl-http3 has libcurl-gnutls.so.4 and what it needs.
nginx_curl_ensure() {
    [[ -d $CACHE/sources/curl-http3 ]] ||
        run_step 'curl with HTTP/3' "$LOGS/nginx-curl.log" - nginx_curl "$CACHE/sources/curl-http3" || return
    link_result "$CACHE/sources/curl-http3" "$BUILD/curl-http3"
}

# nginx_ensure: afterwards build/nginx/sbin/nginx is that of the present patches.
nginx_ensure() {
    with_lock nginx nginx_build_locked
}
