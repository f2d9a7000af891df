#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# nginx on the hardware path: a guest with two ConnectX models on one wire, nginx at the one, Debian's
# ngtcp2-client at the other (clients.sh). Then the wire is looked at from outside of the guest: tshark has to
# decrypt every packet of both sides, and quic-wire-audit must find no plaintext.
#
# CURL_LIBRARIES: as with clients.sh; curl logs no secrets, so its cases are not decrypted.
#
# usage: hardware.sh NGINX REFUSE AUDITOR OPENER KERNEL LOG [CASE]...
#   NGINX, REFUSE, CASE  as with clients.sh
#   AUDITOR, OPENER      quic-wire-audit, quic-wire-open
#   KERNEL, LOG          as with ./run vm

set -o errexit -o nounset -o pipefail

(($# >= 6)) || { echo "usage: $0 NGINX REFUSE AUDITOR OPENER KERNEL LOG [CASE]..." >&2; exit 2; }
here=$(cd "$(dirname "$0")" && pwd -P)
root=$(cd "$here/../../.." && pwd -P)
nginx=$(readlink -f "$1") refuse=$2 auditor=$3 opener=$4 kernel=$5 log=$6
shift 6
mkdir -p "$root/build/clients"
work=$(mktemp -d "$root/build/clients/nginx.XXXXXX")
ports=4401-4499

status=0
"$root/run" vm --kernel "$kernel" --nic none --cpus 2 --memory 2048 --timeout "${CLIENTS_TIMEOUT:-2000}" --log "$log" \
    --env "CLIENTS_RECORD=$work" --env CURL_LIBRARIES \
    --qemu-arg -netdev --qemu-arg hubport,id=wire0,hubid=0 \
    --qemu-arg -netdev --qemu-arg hubport,id=wire1,hubid=0 \
    --qemu-arg -device --qemu-arg pcie-root-port,id=port0,chassis=1 \
    --qemu-arg -device --qemu-arg pcie-root-port,id=port1,chassis=2 \
    --qemu-arg -device --qemu-arg connectx,id=nic0,bus=port0,netdev=wire0,mac=02:00:00:00:00:01 \
    --qemu-arg -device --qemu-arg connectx,id=nic1,bus=port1,netdev=wire1,mac=02:00:00:00:00:02 \
    --qemu-arg -object --qemu-arg "filter-dump,id=dump,netdev=wire0,file=$work/wire.pcap,maxlen=65535" \
    -- "$here/clients.sh" "$nginx" "$refuse" hardware "$@" || status=$?

failures=0
# check PORT NAME WHAT JQ-EXPRESSION over what wire-decrypt.sh tells of the port
check() {
    jq -se --argjson port "$1" 'map(select(.port == $port))[0] | '"$4" "$work/decrypted.json" >/dev/null && return
    failures=$((failures + 1))
    printf 'FAIL  %s on the wire: %s\n      (not so: %s)\n      ' "$2" "$3" "$4"
    jq -c "select(.port == $1)" "$work/decrypted.json"
}

"$root/scripts/wire-decrypt.sh" "$work/wire.pcap" "$work/secrets.log" "$ports" >"$work/decrypted.json"
looked_at=0
while read -r port name taken; do
    [[ $name != curl* ]] || continue
    looked_at=$((looked_at + 1))
    # Wireshark 4.0 does not decrypt these in QUIC.
    if [[ $name = cipher-AES-128-CCM ]]; then
        "$opener" "$work/wire.pcap" "$work/secrets.log" "$port" AES-128-CCM |
            jq -c --argjson port "$port" '. + {port: $port}' >"$work/opened.json"
        jq -c --slurpfile opened "$work/opened.json" 'if .port == $opened[0].port then . + $opened[0] else . end' \
            "$work/decrypted.json" >"$work/merged.json"
        mv "$work/merged.json" "$work/decrypted.json"
    fi
    check "$port" "$name" 'every 1-RTT packet is decrypted' '.one_rtt > 0 and .decrypted == .one_rtt'
    check "$port" "$name" 'nothing is malformed' '.malformed == 0 and .bad_checksums == 0'
    check "$port" "$name" 'no packet number is used twice' '.reused_numbers == 0'
    check "$port" "$name" 'what the kernel took is there' ".one_rtt >= $taken"
    case $name in
    key-update*) check "$port" "$name" 'the key phase changes' '.key_phases > 0' ;;
    esac
done <"$work/cases"

"$auditor" --capture "$work/wire.pcap" --server-port "$ports" --content "$work/file.bin" >"$work/audit.json"
if ! jq -e '.plaintext_datagrams == 0 and .ip_fragments == 0 and .truncated == 0 and .bytes_from_server > 1000000' \
    "$work/audit.json" >/dev/null; then
    failures=$((failures + 1))
    printf 'FAIL  plaintext or fragments on the wire: %s\n' "$(<"$work/audit.json")"
fi
echo "$looked_at cases looked at on the wire, $failures failures"
if ((status == 0 && failures == 0 && looked_at > 0)); then
    rm -rf "$work"
    exit 0
fi
echo "wire, secrets and counters: $work"
((status != 0)) || status=1
exit "$status"
