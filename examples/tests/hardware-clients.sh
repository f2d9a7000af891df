#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Stock clients download over the hardware path: a guest with two ConnectX models on one wire, the example
# server at the one, Debian's ngtcp2-client at the other (clients.sh). Then the wire is looked at, which is
# outside of the guest: tshark has to decrypt every packet of both sides, quic-wire-audit must find no plaintext, and
# ECN marks, addresses and sizes have to be what the cases are about.
#
# usage: hardware-clients.sh SERVER AUDITOR OPENER KERNEL LOG [CASE]...
#   SERVER, AUDITOR, OPENER  quic-offload-server, quic-wire-audit, quic-wire-open
#   KERNEL, LOG              as with ./run vm
#   CASE                     only these of clients.sh (shell patterns)

set -o errexit -o nounset -o pipefail

(($# >= 5)) || { echo "usage: $0 SERVER AUDITOR OPENER KERNEL LOG [CASE]..." >&2; exit 2; }
here=$(cd "$(dirname "$0")" && pwd -P)
root=$(cd "$here/../.." && pwd -P)
server=$1 auditor=$2 opener=$3 kernel=$4 log=$5
shift 5
mkdir -p "$root/build/clients"
find "$root/build/clients" -mindepth 1 -maxdepth 1 -name 'run.*' -mmin +1440 -exec rm -rf {} +
work=$(mktemp -d "$root/build/clients/run.XXXXXX")
ports=4401-4499

status=0
"$root/run" vm --kernel "$kernel" --nic none --cpus 2 --memory 2048 --timeout "${CLIENTS_TIMEOUT:-1500}" --log "$log" \
    --env "CLIENTS_RECORD=$work" \
    --qemu-arg -netdev --qemu-arg hubport,id=wire0,hubid=0 \
    --qemu-arg -netdev --qemu-arg hubport,id=wire1,hubid=0 \
    --qemu-arg -device --qemu-arg pcie-root-port,id=port0,chassis=1 \
    --qemu-arg -device --qemu-arg pcie-root-port,id=port1,chassis=2 \
    --qemu-arg -device --qemu-arg connectx,id=nic0,bus=port0,netdev=wire0,mac=02:00:00:00:00:01 \
    --qemu-arg -device --qemu-arg connectx,id=nic1,bus=port1,netdev=wire1,mac=02:00:00:00:00:02 \
    --qemu-arg -object --qemu-arg "filter-dump,id=dump,netdev=wire0,file=$work/wire.pcap,maxlen=65535" \
    -- "$here/clients.sh" "$server" hardware "$@" || status=$?

# --- the wire --------------------------------------------------------------------------------------

failures=0
# check PORT NAME WHAT JQ-EXPRESSION: .wire is what wire-decrypt.sh tells of the port, .server what the
# server counted.
check() {
    # Slurped: the status of jq is that of the last output, and every port has a line.
    jq -se --argjson port "$1" --slurpfile cases <(grep "^$1 " "$work/cases" | cut -d' ' -f3-) \
        'map(select(.port == $port))[0] | {wire: ., server: $cases[0]} | '"$4" "$work/decrypted.json" >/dev/null && return
    failures=$((failures + 1))
    printf 'FAIL  %s on the wire: %s\n      (not so: %s)\n      ' "$2" "$3" "$4"
    jq -c "select(.port == $1)" "$work/decrypted.json"
}

"$root/scripts/wire-decrypt.sh" "$work/wire.pcap" "$work/secrets.log" "$ports" >"$work/decrypted.json"
looked_at=0
while read -r port name _; do
    looked_at=$((looked_at + 1))
    # Wireshark 4.0 does not decrypt these in QUIC, nor all of what comes out of order or twice.
    cipher=''
    case $name in
    cipher-AES-128-CCM) cipher=AES-128-CCM ;;
    version-2-draft | reorder | duplicate | all) cipher=AES-128-GCM ;;
    esac
    if [[ -n $cipher ]]; then
        "$opener" "$work/wire.pcap" "$work/secrets.log" "$port" "$cipher" |
            jq -c --argjson port "$port" '. + {port: $port}' >"$work/opened.json"
        jq -c --slurpfile opened "$work/opened.json" 'if .port == $opened[0].port then . + $opened[0] else . end' \
            "$work/decrypted.json" >"$work/merged.json"
        mv "$work/merged.json" "$work/decrypted.json"
    else
        check "$port" "$name" 'every 1-RTT packet of the clients is decrypted' \
            '.wire | .client_one_rtt > 0 and .client_decrypted == .client_one_rtt'
    fi
    check "$port" "$name" 'every 1-RTT packet is decrypted' '.wire | .one_rtt > 0 and .decrypted == .one_rtt'
    check "$port" "$name" 'nothing is malformed' '.wire.malformed == 0'
    check "$port" "$name" 'every checksum is right' '.wire.bad_checksums == 0'
    case $name in
    duplicate | all | loss*) ;;
    *)  check "$port" "$name" 'no packet number is used twice' '.wire.reused_numbers == 0' ;;
    esac
    case $name in
    duplicate | all | loss* | ecn | firewall*) ;;
    *)  check "$port" "$name" 'the server counts what is there' \
            '.wire.one_rtt == (.server.send | .kernel.packets + .user.packets + .coalesced_packets)' ;;
    esac
    # What is asked of all: marks arrive as they were sent, and none are made up.
    check "$port" "$name" 'marks arrive' '.wire | .acked_ect <= .ect + .ce and .acked_ce <= .ce'
    case $name in
    ecn)
        check "$port" "$name" 'packets are marked, and marks are seen' \
            '.wire | .ce > 0 and .acked_ce > 0 and .acked_ect > 0 and .ect + .ce > 0.9 * .one_rtt' ;;
    ecn-unmarked)
        check "$port" "$name" 'nearly all could have been marked, and are seen to arrive' \
            '.wire | .ce == 0 and .ect > 0.5 * .one_rtt and .acked_ect > 0.5 * .ect' ;;
    migration-mid-download | migration-key-update)
        check "$port" "$name" 'two addresses got their part' '.wire.paths == 2' ;;
    key-update-1000)
        check "$port" "$name" 'the key phase changes' '.wire.key_phases >= 4' ;;
    gso | ipv6)
        check "$port" "$name" 'a probe has found a larger size, and it is used' '.wire.largest > 1400' ;;
    no-pmtud)
        check "$port" "$name" 'no probe is sent' '.wire.largest == 1200' ;;
    pmtud-small-mtu)
        check "$port" "$name" 'what fits the device is found' '.wire.largest > 1200 and .wire.largest <= 1300 - 28' ;;
    pmtud-black-hole)
        check "$port" "$name" 'larger probes were sent' '.wire.largest > 1260 - 8' ;;
    esac
done <"$work/cases"

"$auditor" --capture "$work/wire.pcap" --server-port "$ports" --content "$work/file.bin" >"$work/audit.json"
if ! jq -e '.plaintext_datagrams == 0 and .ip_fragments == 0 and .without_df == 0 and .truncated == 0
            and .bytes_from_server > 1000000' "$work/audit.json" >/dev/null; then
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
