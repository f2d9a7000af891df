#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# ./run nginx: nginx with "quic_crypto_offload".

. "$(dirname "$0")/parts.sh"

usage() {
    cat <<'END'
usage: ./run nginx [OPTION]...

Builds nginx 1.26 of Debian trixie with the directive "quic_crypto_offload" (integrations/nginx/README.md):
build/nginx/sbin/nginx. It is built against the OpenSSL of this machine.

  --source FOLDER  also put the patched source into FOLDER, which must not exist
END
}

source_folder=''
while (($#)); do
    case $1 in
    --*=*) set -- "${1%%=*}" "${1#*=}" "${@:2}" ;;
    esac
    case $1 in
    --help | -h) usage; exit 0 ;;
    --source) need "$@"; source_folder=$(realpath -m "$2"); shift ;;
    *) die "unknown option $1 (./run nginx --help)" ;;
    esac
    shift
done
[[ -z $source_folder || ! -e $source_folder ]] || die "--source $source_folder: exists"

packages_ensure
nginx_ensure
if [[ -n $source_folder ]]; then
    nginx_source "$source_folder" >"$LOGS/nginx-patch.log" || die "$(error_line "$LOGS/nginx-patch.log")"
    say "patched source: $source_folder"
fi
say "$(show_path "$BUILD/nginx/sbin/nginx")"
