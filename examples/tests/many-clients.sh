#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# A thousand connections on one server socket, all open at the same time: ngtcp2-client on the host, the
# example server in a guest, its packets protected by the ConnectX model. Each client is stopped when its handshake is
# done; when all are there, they go on and download.
#
# usage: many-clients.sh SERVER LOG [CONNECTIONS]
# No timing decides: a client that has finished before it was stopped is replaced.

# shellcheck source-path=SCRIPTDIR/../../scripts
. "$(dirname "$0")/../../scripts/parts.sh"

(($# >= 2)) || { echo "usage: $0 SERVER LOG [CONNECTIONS]" >&2; exit 2; }
server=$1 log=$2 wanted=${3:-1000}
batch=16
mkdir -p "$BUILD/clients"
prune "$BUILD/clients" many. 2
work=$(mktemp -d "$BUILD/clients/many.XXXXXX")
mkdir "$work/root"
head -c 32768 /dev/urandom >"$work/root/file.bin"
sum=$(sha256sum <"$work/root/file.bin")

vm_pid='' stopped=()
# shellcheck disable=SC2317,SC2329 # called by the trap
cleanup() {
    trap '' INT TERM HUP
    if ((${#stopped[@]})); then
        kill -KILL "${stopped[@]}" 2>/dev/null || true
    fi
    [[ -z $vm_pid ]] || kill "$vm_pid" 2>/dev/null || true
    wait 2>/dev/null || true
}
trap cleanup EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

port=$(free_udp_port)
"$ROOT/run" vm --nic connectx --forward "udp:$port" --timeout 1500 --log "$log" -- \
    "$ROOT/scripts/guest/count-server" "$work" "$server" --path kernel --port "$port" --listen 0.0.0.0 \
    --document-root "$work/root" --max-runtime 1400 --idle-timeout 1200 --no-pmtud \
    --stats-json "$work/server.json" --verbose \
    >"$work/server.log" 2>&1 </dev/null &
vm_pid=$!
await_server "$vm_pid" "$work/server.log" "$log"

# --- all come in -----------------------------------------------------------------------------------

started=0
while ((${#stopped[@]} < wanted)); do
    pids=() logs=()
    for ((i = 0; i < batch && ${#stopped[@]} + i < wanted; i++)); do
        started=$((started + 1))
        mkdir "$work/$started"
        gtlsclient --no-quic-dump --no-http-dump --exit-on-all-streams-close --timeout=1200s \
            --handshake-timeout=300s --delay-stream=20s --no-pmtud --download="$work/$started" \
            127.0.0.1 "$port" https://localhost/file.bin >"$work/$started/log" 2>&1 </dev/null &
        pids+=($!)
        logs+=("$work/$started/log")
    done
    for i in "${!pids[@]}"; do
        until grep -qs 'handshake has completed' "${logs[i]}"; do
            kill -0 "${pids[i]}" 2>/dev/null || die "a client failed: $(tail -n 1 "${logs[i]}")"
            sleep 0.05
        done
    done
    for i in "${!pids[@]}"; do
        if kill -STOP "${pids[i]}" 2>/dev/null && [[ ! -s $(dirname "${logs[i]}")/file.bin ]]; then
            stopped+=("${pids[i]}")
        else
            # it went on already: another one takes its place
            kill -KILL "${pids[i]}" 2>/dev/null || true
            rm -rf "$(dirname "${logs[i]}")"
        fi
    done
    ((started < 10 * wanted)) || die "clients finish before they can be stopped"
    ((${#stopped[@]} % 100 >= batch)) || say "${#stopped[@]} connections"
done

# --- all go on -------------------------------------------------------------------------------------

failed=0
for ((i = 0; i < ${#stopped[@]}; i += 100)); do
    wave=("${stopped[@]:i:100}")
    kill -CONT "${wave[@]}"
    for pid in "${wave[@]}"; do
        wait "$pid" || failed=$((failed + 1))
    done
done
stopped=()
arrived=$(find "$work" -mindepth 2 -maxdepth 2 -name file.bin -path "$work/[0-9]*" -exec sha256sum {} + |
    grep -cF "${sum%% *}") || true

# The server ends when it is told to: through a file, as signals do not reach into the guest.
touch "$work/stop"
status=0
wait "$vm_pid" || status=$?
vm_pid=''
counted() {
    awk -v name="$1" '
        FILENAME ~ /before$/ && $1 == name { before = $2 }
        FILENAME ~ /after$/ && $1 == name { after = $2 }
        END { printf "%d", after - before }' "$work/counters.before" "$work/counters.after"
}
jq -n --slurpfile server "$work/server.json" \
    --argjson failed "$failed" --argjson arrived "$arrived" --argjson status "$status" \
    --argjson packets "$(counted TxPackets)" --argjson device "$(counted TxDevice)" \
    --argjson software "$(counted TxSoftware)" --argjson sas "$(counted SaAdded)" \
    --argjson sas_in_nic "$(counted quic_sa_created)" --argjson index "$(counted tx_quic_index_packets)" \
    --argjson inline "$(counted tx_quic_inline_packets)" --argjson left "$(counted SaCurr)" '
    {status: $status, clients_failed: $failed, files_arrived: $arrived,
     at_a_time: $server[0].connections.peak, handshakes: $server[0].connections.handshakes,
     refused: $server[0].send.errors, packets: $packets, by_device: $device, in_software: $software,
     by_index: $index, by_inline: $inline, sas: $sas, sas_in_nic: $sas_in_nic, sas_left: $left}' |
    tee "$work/result.json"
jq -e --argjson wanted "$wanted" '
    .status == 0 and .clients_failed == 0 and .files_arrived == $wanted and .at_a_time >= $wanted and
    .handshakes >= $wanted and .refused == {} and .packets > 0 and .by_device == .packets and .in_software == 0 and
    .by_index + .by_inline == .packets and .sas >= $wanted and .sas_in_nic >= $wanted and .sas_left == 0' \
    "$work/result.json" >/dev/null || die "not as it should be; logs: $(show_path "$work")"
rm -rf "$work"
