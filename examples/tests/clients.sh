#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# The example server against Debian's ngtcp2-client over loopback, in every way the two can be set up.
#
# usage: clients.sh SERVER PATH [CASE]...
#   SERVER  quic-offload-server
#   PATH    what to expect: kernel (the packets are protected by the kernel), user (the kernel
#           cannot, and the server steps back by itself)
#   CASE    only these
# Runs on any machine; with PATH kernel as root in a guest. Exit status: 1 if a case failed.

set -o errexit -o nounset -o pipefail

(($# >= 2)) || { echo "usage: $0 SERVER kernel|user [CASE]..." >&2; exit 2; }
server=$(realpath "$1") path=$2
shift 2
only=("$@")
counters=/proc/net/udp_crypto_stat
sysctl=/proc/sys/net/ipv4/udp_crypto_max_sa

work=$(mktemp -d)
server_pid=''
# shellcheck disable=SC2317,SC2329 # called by the trap
cleanup() {
    [[ -z $server_pid ]] || kill "$server_pid" 2>/dev/null || true
    rm -rf "$work"
}
trap cleanup EXIT

mkdir "$work/root" "$work/download"
bytes=$((1024 * 1024 + 4321))
head -c "$bytes" /dev/urandom >"$work/root/file.bin"
echo '<p>index</p>' >"$work/root/index.html"
failures=0 cases=0

start_server() {
    rm -f "$work/server.log" # or the last server's would be taken for this one's
    "$server" --listen 127.0.0.1,::1 --port 0 --document-root "$work/root" --max-runtime 120 \
        --stats-json "$work/stats.json" --verbose "$@" >"$work/server.log" 2>&1 &
    server_pid=$!
    until grep -qs '^listening on' "$work/server.log"; do
        kill -0 "$server_pid" 2>/dev/null || { server_pid=''; return 1; }
        sleep 0.02
    done
    # Each address has a port of its own.
    port4=$(sed -n 's/^listening on .*\.[0-9]*:\([0-9]*\)$/\1/p' "$work/server.log" | head -n 1)
    port6=$(sed -n 's/^listening on \[.*\]:\([0-9]*\)$/\1/p' "$work/server.log" | head -n 1)
}

# Ends the server if it has not ended by itself; it closes its connections first.
stop_server() {
    local status=0
    kill -TERM "$server_pid" 2>/dev/null || true
    wait "$server_pid" || status=$?
    server_pid=''
    return "$status"
}

kernel_packets() {
    awk '$1 == "TxPackets" { n = $2 } END { print n + 0 }' "$counters" 2>/dev/null || echo 0
}

# client HOST PORT ARGUMENT...: ARGUMENTs hold the URL.
client() {
    local host=$1 port=$2
    shift 2
    timeout 100 gtlsclient --quiet --exit-on-all-streams-close --timeout=20s --download="$work/download" \
        "${@:1:$#-1}" "$host" "$port" "${@:$#}" >>"$work/client.log" 2>&1
}

# expect WHAT JQ-EXPRESSION over the server's counters
expect() {
    if ! jq -e "$2" "$work/stats.json" >/dev/null 2>&1; then
        problems+=("$1 (not so: $2)")
    fi
}

# run_case NAME ACTION [SERVER-ARGUMENT]...: ACTION is a function that calls client and returns its
# status. Further expectations in the array expectations: pairs of a text and a jq expression.
run_case() {
    local name=$1 action=$2 before after problems=() i
    shift 2
    ((${#only[@]} == 0)) || [[ " ${only[*]} " = *" $name "* ]] || { expectations=(); return 0; }
    cases=$((cases + 1))
    rm -rf "$work/download" && mkdir "$work/download"
    : >"$work/client.log"
    rm -f "$work/stats.json"
    before=$(kernel_packets)
    if ! start_server "$@"; then
        problems+=("the server did not start: $(tail -n 1 "$work/server.log")")
    else
        "$action" || problems+=("the client failed: $(tail -n 1 "$work/client.log")")
        stop_server || problems+=('the server failed')
        after=$(kernel_packets)
        expect 'no connection fails' '.connections.failed == 0'
        if [[ $path = kernel && ${steps_back:-} = '' ]]; then
            expect 'the kernel protects' '.send.kernel.packets > 0 and .connections.user == 0'
            expect 'the server protects but what it has to' '.send.user.packets <= 2 * .connections.accepted'
            expect 'no send is refused' '.send.errors == {} and .send.dropped == 0'
            expect 'SAs come and go' '.keys.sas_installed > 0 or ('"${inline:-false}"')'
            expect 'all SAs are deleted' '.keys.sas_installed == .keys.sas_deleted'
            expect 'the kernel counts the same' ".send.kernel.packets == $((after - before))"
        elif [[ $path = user ]]; then
            expect 'the server protects' '.send.kernel.packets == 0 and .connections.kernel == 0'
        fi
        for ((i = 0; i < ${#expectations[@]}; i += 2)); do
            expect "${expectations[i]}" "${expectations[i + 1]}"
        done
    fi
    if ((${#problems[@]})); then
        failures=$((failures + 1))
        printf 'FAIL  %s\n' "$name"
        printf '      %s\n' "${problems[@]}"
        sed 's/^/      server: /' "$work/server.log" | tail -n 5
        [[ ! -f $work/stats.json ]] || jq -c . "$work/stats.json" | sed 's/^/      /'
    else
        printf 'ok    %s\n' "$name"
    fi
    expectations=()
}
expectations=()

same() {
    cmp -s "$work/root/file.bin" "$work/download/file.bin" ||
        { echo 'the file is not the same' >>"$work/client.log"; return 1; }
}

download() {
    client "${host:-127.0.0.1}" "$port4" "${client_args[@]}" https://localhost/file.bin && same
}
client_args=()

# --- ciphers ---------------------------------------------------------------------------------------

for cipher in AES-128-GCM AES-256-GCM CHACHA20-POLY1305 AES-128-CCM; do
    client_args=("--ciphers=NORMAL:-VERS-ALL:+VERS-TLS1.3:-CIPHER-ALL:+$cipher")
    expectations=('the cipher is used' ".connections.ciphers == {\"$cipher\": 1}")
    run_case "cipher-$cipher" download
done
client_args=()
expectations=('the server chooses' '.connections.ciphers == {"CHACHA20-POLY1305": 1}')
run_case server-prefers-chacha download --cipher CHACHA20-POLY1305,AES-128-GCM

# --- connection IDs --------------------------------------------------------------------------------

for length in 0 4 8 18 20; do
    scid=$(head -c "$length" /dev/urandom | od -An -tx1 | tr -d ' \n')
    client_args=("--scid=$scid")
    run_case "client-cid-$length" download
    client_args=()
    run_case "server-cid-$length" download --cid-length "$length"
done

# --- sending ---------------------------------------------------------------------------------------

field=$([[ $path = kernel ]] && echo kernel || echo user)
expectations=('batches are sent' ".send.$field.gso_sends > 0 and .send.$field.gso_max_packets > 10")
run_case gso download
expectations=('no batch is sent' ".send.$field.gso_sends == 0")
run_case no-gso download --no-gso
expectations=('zero-copy sends are completed' '.zerocopy.sends > 0 and .zerocopy.sends == .zerocopy.completions')
run_case zerocopy download --zerocopy
expectations=('batches are small' ".send.$field.gso_max_packets == 3")
run_case batches-of-3 download --max-batch 3
run_case no-pmtud download --no-pmtud
if [[ $path = kernel ]]; then
    inline=true
    expectations=('there is no SA' '.keys.sas_installed == 0 and .keys.sas_deleted == 0')
    run_case inline-keys download --keys inline
    inline=false
fi

# --- key update ------------------------------------------------------------------------------------

expectations=('keys change' '.keys.updates_by_us > 0')
run_case key-update-by-us download --key-update-packets 100
client_args=(--key-update=5ms)
expectations=('keys change' '.keys.updates_by_peer > 0')
run_case key-update-by-peer download
client_args=()

# --- addresses -------------------------------------------------------------------------------------

download6() {
    client ::1 "$port6" https://localhost/file.bin && same
}
run_case ipv6 download6
download_mapped() {
    client 127.0.0.1 "$port6" https://localhost/file.bin && same
}
run_case v4-mapped download_mapped --dual-stack
expectations=('a Retry packet is sent' '.connections.retries == 1')
run_case retry download --retry
client_args=(--change-local-addr=20ms)
expectations=('the new address is validated' '.connections.path_changes > 0')
run_case migration download
client_args=()

# --- HTTP ------------------------------------------------------------------------------------------

upload() {
    client 127.0.0.1 "$port4" --data="$work/root/file.bin" --http-method=POST https://localhost/answer &&
        grep -q "^$bytes bytes, SHA-256 $(sha256sum <"$work/root/file.bin" | cut -d' ' -f1)\$" \
            "$work/download/answer"
}
expectations=('all of it arrives' ".http.body_bytes_received == $bytes")
run_case upload upload
not_found() {
    client 127.0.0.1 "$port4" https://localhost/nothing/here
}
expectations=('404 is the answer' '.http.responses == {"404": 1}')
run_case not-found not_found
many_streams() {
    client 127.0.0.1 "$port4" --nstreams=40 https://localhost/index.html
}
expectations=('all are answered' '.http.responses == {"200": 40}')
run_case many-streams many_streams
many_connections() {
    local i pids=() status=0
    for i in {1..25}; do
        client 127.0.0.1 "$port4" https://localhost/index.html &
        pids+=($!)
    done
    for i in "${pids[@]}"; do
        wait "$i" || status=1
    done
    return "$status"
}
expectations=('all handshakes are completed' '.connections.handshakes == 25 and .http.responses == {"200": 25}')
run_case many-connections many_connections

# --- stepping back -----------------------------------------------------------------------------------

expectations=('as asked for' '.send.kernel.packets == 0 and .send.user.packets > 0')
steps_back=1
run_case path-user download --path user
if [[ $path = kernel && -w $sysctl ]]; then
    limit=$(<"$sysctl")
    # As if other programs had taken all SAs but one: the first key goes in, the next does not.
    echo 0 >"$sysctl"
    expectations=('the table is full' '.keys.sa_install_errors.ENOSPC > 0'
        'the server protects' '.send.kernel.packets == 0 and .connections.user == 1')
    run_case table-full download
    echo 1 >"$sysctl"
    expectations=('the second key finds no room' '.keys.sa_install_errors.ENOSPC > 0'
        'both protect' '.send.kernel.packets > 0 and .send.user.packets > 0')
    run_case table-full-at-key-update download --key-update-packets 100
    echo "$limit" >"$sysctl"
fi
steps_back=''

echo "$cases cases, $failures failed"
((cases > 0 && failures == 0))
