#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Headless Chromium on the host loads the status page of the example server in a guest over HTTP/3, lets it
# download 20 MB, and takes a screenshot. The ConnectX model protects the packets.
#
# usage: browser.sh SERVER DRIVER AUDITOR LOG
#   quic-offload-server, quic-browser, quic-wire-audit; the guest's kernel log
# Leaves build/browser/screenshot.png, netlog.json, report.json.

# shellcheck source-path=SCRIPTDIR/../../scripts
. "$(dirname "$0")/../../scripts/parts.sh"

(($# == 4)) || { echo "usage: $0 SERVER DRIVER AUDITOR LOG" >&2; exit 2; }
server=$1 driver=$2 auditor=$3 log=$4
bytes=$((20 * 1000 * 1000))
work=$BUILD/browser
rm -rf "$work"
mkdir -p "$work/root"
head -c "$bytes" /dev/urandom >"$work/root/file.bin"
sum=$(sha256sum <"$work/root/file.bin" | cut -d' ' -f1)

vm_pid=''
# shellcheck disable=SC2317,SC2329 # called by the trap
cleanup() {
    trap '' INT TERM HUP
    [[ -z $vm_pid ]] || kill "$vm_pid" 2>/dev/null || true
    wait 2>/dev/null || true
}
trap cleanup EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

port=$(free_udp_port)
"$ROOT/run" vm --nic connectx --forward "udp:$port" --capture "$work/wire.pcap" --timeout 900 --log "$log" -- \
    "$ROOT/scripts/guest/count-server" "$work" "$server" --path kernel --port "$port" --listen 0.0.0.0 --status \
    --document-root "$work/root" --max-runtime 800 --idle-timeout 120 --stats-json "$work/server.json" --verbose \
    >"$work/server.log" 2>&1 </dev/null &
vm_pid=$!
await_server "$vm_pid" "$work/server.log" "$log"
key_hash=$(sed -n 's/^certificate key SHA-256: //p' "$work/server.log")

"$driver" --url "https://127.0.0.1:$port/status/" --key-hash "$key_hash" --download /file.bin --folder "$work" \
    >"$work/report.json" || die "the browser did not do it; see $(show_path "$work")"
touch "$work/stop"
status=0
wait "$vm_pid" || status=$?
vm_pid=''
((status == 0)) || die "the guest ended with $status; log: $(show_path "$log")"

# --- what came of it -------------------------------------------------------------------------------

failures=0
# check WHAT CONDITION over the driver's report, the server's counters as $server
check() {
    if jq -e --slurpfile server "$work/server.json" --argjson bytes "$bytes" --arg sum "$sum" \
        "$2" "$work/report.json" >/dev/null; then
        printf 'ok    %s\n' "$1"
    else
        failures=$((failures + 1))
        printf 'FAIL  %s\n      (not so: %s)\n' "$1" "$2"
    fi
}

printf '%s\n' "$(jq -r .browser "$work/report.json")"
# shellcheck disable=SC2016 # jq's variables
{
    check 'the download is complete' \
        '.download | .status == 200 and .bytes == $bytes and .expected == $bytes and .sha256 == $sum'
    check 'the page says so' '.page.result | contains($sum)'
    check 'the browser spoke HTTP/3' '.download.protocol == "h3" and .page.protocol == "h3"'
    check 'in each request' '[.requests[] | select(has("protocol")) | .protocol] | length > 5 and all(. == "h3")'
    check 'each was answered' \
        '[.requests[] | select(.failed == null and .finished)] | length > 5 and all(.status == 200)'
    check 'and only the last poll may have been cut off' '[.requests[] | select(.failed)] | length <= 1'
    check 'all images are there' '.page.images | length >= 2 and all(.complete and .width > 0)'
    check 'nothing came from elsewhere' '.page.foreign == []'
    check 'the net log knows one QUIC session' '.net_log.sessions | length >= 1'
    check 'and that all of the file came in it' '.net_log.bytes_received > $bytes'
    check 'and neither TCP nor TLS over it' \
        '.net_log.events | has("HTTP2_SESSION") or has("TCP_CONNECT_ATTEMPT") or has("SSL_CONNECT") | not'
    check 'the counters were live' '.page.samples >= 3 and .page.failed_polls == 0 and (.page.plotted | all(. >= 2))'
    check 'the NIC was seen at work, by SA index' '.page.peaks[0] > 0 and .page.counters.devices[0].counters.tx_quic_index_packets > 10000'
    check 'and nobody else' '.page.counters.kernel.TxSoftware == 0 and .page.counters.server.connections.user == 0'
    check 'SADB occupancy is shown' \
        '.page.counters.devices[0] | .enabled and .sa_count > 0 and (.sa_max == 0 or .sa_count <= .sa_max)'
    check 'as the page says' '.page.sadb[0][1] == (.page.counters.devices[0].sa_count | tostring)'
    check 'the server is content' '$server[0] | .connections.failed == 0 and .send.errors == {}'
}
# A picture of more than one colour: what is drawn on it compresses badly.
picture=$(od -An -tx1 -N24 "$work/screenshot.png" | tr -d ' \n')
[[ $picture = 89504e470d0a1a0a*0000050000000578 && $(stat -c %s "$work/screenshot.png") -gt 20000 ]] ||
    { failures=$((failures + 1)); echo 'FAIL  the screenshot is no picture of the page'; }
"$auditor" --capture "$work/wire.pcap" --server-port "$port" --content "$work/root/file.bin" >"$work/audit.json"
jq -e --argjson bytes "$bytes" \
    '.plaintext_datagrams == 0 and .bytes_from_server > $bytes and .ip_fragments == 0 and .without_df == 0' \
    "$work/audit.json" >/dev/null || { failures=$((failures + 1)); echo "FAIL  the wire: $(<"$work/audit.json")"; }
rm -rf "$work/profile" "$work/root"
((failures == 0)) || die "$failures checks failed; see $(show_path "$work")"
rm -f "$work/wire.pcap"
echo "all well; $(show_path "$work/screenshot.png")"
