#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# The example server against Debian's ngtcp2-client, in every way the two can be set up.
#
# usage: clients.sh SERVER PATH [CASE]...
#   SERVER  quic-offload-server
#   PATH    what to expect: kernel (the packets are protected by the kernel, in software), user (the
#           kernel cannot, and the server steps back by itself), hardware (by the NIC)
#   CASE    only these (shell patterns)
# With PATH kernel and user over loopback, on any machine, kernel as root in a guest. With hardware in a
# guest with two NICs on one wire (hardware-clients.sh): the server at eth0, the clients in a network
# namespace at eth1. Exit status: 1 if a case failed.
#
# Environment, for whoever looks at the wire: CLIENTS_RECORD is a folder that gets the file that was sent
# (file.bin), the TLS secrets (secrets.log) and a line for each case (cases: port, name, server's counters).

set -o errexit -o nounset -o pipefail

(($# >= 2)) || { echo "usage: $0 SERVER kernel|user|hardware [CASE]..." >&2; exit 2; }
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
    [[ -z ${CLIENTS_RECORD:-} ]] || cp "$work/secrets.log" "$work/cases" "$CLIENTS_RECORD/" || true
    rm -rf "$work"
}
trap cleanup EXIT

mkdir "$work/root" "$work/download"
bytes=$((1024 * 1024 + 4321))
head -c "$bytes" /dev/urandom >"$work/root/file.bin"
# Six times the same: whoever looks for a piece of the one finds those of the other.
for _ in {1..6}; do cat "$work/root/file.bin"; done >"$work/root/large.bin"
echo '<p>index</p>' >"$work/root/index.html"
failures=0 cases=0
record=${CLIENTS_RECORD:-}
if [[ -n $record ]]; then
    cp "$work/root/file.bin" "$record/file.bin"
    : >"$work/cases"
    # Not in the record folder, which is the host's: ten clients that append to one file over 9p may wait
    # for each other without end (netfs of 6.12, "No submit").
    export SSLKEYLOGFILE=$work/secrets.log
fi

# --- where server and clients are ------------------------------------------------------------------

address4=127.0.0.1 address6=::1 next_port=0 client_at=()
set_up_hardware() {
    address4=10.9.0.1 address6=fd09::1 next_port=4400
    ip netns add client
    client_at=(nsenter --net=/run/netns/client)
    ip link set eth1 netns client
    ethtool -K eth0 udp-crypto-hw-tx-offload on tx-udp-segmentation on
    ip link set eth0 up
    ip addr add 10.9.0.1/24 dev eth0
    ip addr add fd09::1/64 dev eth0 nodad
    "${client_at[@]}" ip link set lo up
    "${client_at[@]}" ip link set eth1 up
    "${client_at[@]}" ip addr add 10.9.0.2/24 dev eth1
    "${client_at[@]}" ip addr add fd09::2/64 dev eth1 nodad
    local try
    for ((try = 0; try < 300; try++)); do
        if "${client_at[@]}" ping -c 1 -W 1 10.9.0.1 >/dev/null && "${client_at[@]}" ping -c 1 -W 1 fd09::1 >/dev/null; then
            return
        fi
    done
    echo 'the two NICs do not reach each other' >&2
    exit 1
}
[[ $path != hardware ]] || set_up_hardware
# What every path but the server's own has in common.
protected=''
[[ $path = user ]] || protected=1

start_server() {
    rm -f "$work/server.log" # or the last server's would be taken for this one's
    # A port of its own for each case, where somebody looks at the wire.
    ((next_port == 0)) || next_port=$((next_port + 1))
    "$server" --listen "$address4,$address6" --port "$next_port" --document-root "$work/root" --max-runtime 300 --idle-timeout 60 \
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

# Prints the kernel's and the NIC driver's counters as one JSON object.
kernel_counters() {
    { cat "$counters" 2>/dev/null || true
      [[ $path != hardware ]] || ethtool -S eth0 | sed -n 's/^ *\(tx_quic_[a-z]*_packets\|tx_quic_dropped\): /\1 /p'
    } | jq -Rn '[inputs | split("\\s+"; null) | {(.[0]): (.[1] | tonumber)}] | add // {}'
}

# client HOST PORT ARGUMENT...: ARGUMENTs hold the URL.
client() {
    local host=$1 port=$2
    shift 2
    "${client_at[@]}" timeout 200 gtlsclient --quiet --exit-on-all-streams-close --timeout=60s --handshake-timeout=60s --download="$work/download" \
        "${@:1:$#-1}" "$host" "$port" "${@:$#}" >>"$work/client.log" 2>&1
}

# expect WHAT JQ-EXPRESSION over the server's counters; .kernel is by how much kernel and driver have counted on
expect() {
    if ! jq --argjson kernel "$kernel" '. + {$kernel}' "$work/stats.json" | jq -e "$2" >/dev/null 2>&1; then
        problems+=("$1 (not so: $2)")
    fi
}

# Whether to run case NAME.
chosen() {
    local pattern
    ((${#only[@]})) || return 0
    for pattern in "${only[@]}"; do
        # shellcheck disable=SC2254 # a pattern
        case $1 in
        $pattern) return 0 ;;
        esac
    done
    return 1
}

# run_case NAME ACTION [SERVER-ARGUMENT]...: ACTION is a function that calls client and returns its
# status. Further expectations in the array expectations: pairs of a text and a jq expression.
run_case() {
    local name=$1 action=$2 before kernel='{}' problems=() i
    shift 2
    chosen "$name" || { expectations=(); return 0; }
    cases=$((cases + 1))
    rm -rf "$work/download" && mkdir "$work/download"
    : >"$work/client.log"
    rm -f "$work/stats.json"
    before=$(kernel_counters)
    if ! start_server "$@"; then
        problems+=("the server did not start: $(tail -n 1 "$work/server.log")")
    else
        "$action" || problems+=("the client failed: $(tail -n 1 "$work/client.log")")
        stop_server || problems+=('the server failed')
        kernel=$(kernel_counters | jq -c --argjson before "$before" 'with_entries(.value -= ($before[.key] // 0))')
        expect 'no connection fails' '.connections.failed == 0'
        if [[ -n $protected && ${steps_back:-} = '' ]]; then
            expect 'the kernel protects' '.send.kernel.packets > 0 and .connections.user == 0'
            expect 'the server protects but what it has to' '.send.user.packets <= 2 * .connections.accepted'
            [[ -n ${refuses:-} ]] ||
                expect 'no send is refused' '.send.errors == {} and .send.dropped == 0'
            expect 'SAs come and go' '.keys.sas_installed > 0 or ('"${inline:-false}"')'
            expect 'all SAs are deleted' '.keys.sas_installed == .keys.sas_deleted'
            expect 'the kernel counts the same' ".send.kernel.packets == .kernel.TxPackets"
            expect 'the kernel drops nothing' \
                '[.kernel | .DropNoSa, .DropNoKeys, .DropNoMem, .DropError, .tx_quic_dropped // 0] | add == 0'
            if [[ $path = hardware ]]; then
                expect 'nothing is protected in software' '.kernel.TxSoftware == 0'
                # In front of the NIC netem has lost and doubled some.
                [[ -n ${lossy:-} ]] || expect 'the NIC protects all' \
                    '.kernel | .TxDevice == .TxPackets and .TxPackets == .tx_quic_index_packets + .tx_quic_inline_packets'
                # A handful of packets may be gone before the device has confirmed anything.
                [[ ${inline:-false} = true ]] || expect 'the NIC has the keys before long' \
                    '.send.kernel.packets < 50 * .connections.accepted
                     or (.kernel | .tx_quic_index_packets > .tx_quic_inline_packets)'
            else
                expect 'software protects all' '.kernel | .TxSoftware == .TxPackets'
            fi
        elif [[ $path = user ]]; then
            expect 'the server protects' '.send.kernel.packets == 0 and .connections.kernel == 0'
        fi
        for ((i = 0; i < ${#expectations[@]}; i += 2)); do
            expect "${expectations[i]}" "${expectations[i + 1]}"
        done
    fi
    [[ -z $record ]] || printf '%s %s %s\n' "$next_port" "$name" "$(jq -c . "$work/stats.json" 2>/dev/null)" >>"$work/cases"
    if ((${#problems[@]})); then
        failures=$((failures + 1))
        printf 'FAIL  %s\n' "$name"
        printf '      %s\n' "${problems[@]}"
        sed 's/^/      server: /' "$work/server.log" | tail -n 5
        [[ ! -f $work/stats.json ]] || jq -c . "$work/stats.json" | sed 's/^/      /'
        printf '      %s\n' "$kernel"
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
    client "$address4" "$port4" "${client_args[@]}" https://localhost/file.bin && same
}
download_large() {
    client "$address4" "$port4" "${client_args[@]}" https://localhost/large.bin &&
        cmp -s "$work/root/large.bin" "$work/download/large.bin"
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

field=$([[ -n $protected ]] && echo kernel || echo user)
expectations=('batches are sent' ".send.$field.gso_sends > 0 and .send.$field.gso_max_packets > 10")
run_case gso download
expectations=('no batch is sent' ".send.$field.gso_sends == 0")
run_case no-gso download --no-gso
expectations=('zero-copy sends are completed' '.zerocopy.sends > 0 and .zerocopy.sends == .zerocopy.completions')
run_case zerocopy download --zerocopy
expectations=('batches are small' ".send.$field.gso_max_packets == 3")
run_case batches-of-3 download --max-batch 3
run_case no-pmtud download --no-pmtud
run_case large download_large
if [[ -n $protected ]]; then
    inline=true
    expectations=('there is no SA' '.keys.sas_installed == 0 and .keys.sas_deleted == 0')
    run_case inline-keys download --keys inline
    inline=false
fi

# --- key update ------------------------------------------------------------------------------------

expectations=('keys change' '.keys.updates_by_us > 0')
run_case key-update-by-us download --key-update-packets 100
# The request waits, so that it happens before all is over, however fast the machine.
client_args=(--key-update=5ms --delay-stream=200ms)
expectations=('keys change' '.keys.updates_by_peer > 0')
run_case key-update-by-peer download
client_args=()

# Some 5,000 packets, and no more than 1,000 under one key.
expectations=('keys change each 1,000 packets' '.keys.updates_by_us >= 4')
run_case key-update-1000 download_large --key-update-packets 1000

# --- addresses -------------------------------------------------------------------------------------

download6() {
    client "$address6" "$port6" https://localhost/file.bin && same
}
run_case ipv6 download6
download_mapped() {
    client "$address4" "$port6" https://localhost/file.bin && same
}
run_case v4-mapped download_mapped --dual-stack
expectations=('a Retry packet is sent' '.connections.retries == 1')
run_case retry download --retry
client_args=(--change-local-addr=20ms --delay-stream=200ms)
expectations=('the new address is validated' '.connections.path_changes > 0')
run_case migration download
client_args=()
# --- versions --------------------------------------------------------------------------------------

# The client offers a version that nobody knows.
client_args=(--version=0x1a2a3a4a --preferred-versions=v1)
expectations=('version 1 is agreed upon' '.connections.version_negotiations == 1')
run_case version-negotiation download
client_args=(--version=v2draft)
run_case version-2-draft download
client_args=()

# --- HTTP ------------------------------------------------------------------------------------------

upload() {
    client "$address4" "$port4" "${client_args[@]}" --data="$work/root/file.bin" --http-method=POST https://localhost/answer &&
        grep -q "^$bytes bytes, SHA-256 $(sha256sum <"$work/root/file.bin" | cut -d' ' -f1)\$" \
            "$work/download/answer"
}
expectations=('all of it arrives' ".http.body_bytes_received == $bytes")
run_case upload upload
not_found() {
    client "$address4" "$port4" https://localhost/nothing/here
}
expectations=('404 is the answer' '.http.responses == {"404": 1}')
run_case not-found not_found
head_request() {
    client "$address4" "$port4" --http-method=HEAD https://localhost/file.bin && [[ ! -s $work/download/file.bin ]]
}
expectations=('no body is sent' '.http.responses == {"200": 1} and .http.body_bytes_sent == 0')
run_case head head_request
many_streams() {
    client "$address4" "$port4" --nstreams=40 https://localhost/index.html
}
expectations=('all are answered' '.http.responses == {"200": 40}')
run_case many-streams many_streams
many_connections() {
    local i pids=() status=0
    for i in {1..10}; do
        client "$address4" "$port4" https://localhost/index.html &
        pids+=($!)
    done
    for i in "${pids[@]}"; do
        wait "$i" || status=1
    done
    return "$status"
}
expectations=('all handshakes are completed' '.connections.handshakes == 10 and .http.responses == {"200": 10}')
run_case many-connections many_connections

# --- a network that is none of the best --------------------------------------------------------------

if [[ $path = hardware ]]; then
    # with_network WHAT-THE-SERVER'S-QDISC-DOES WHAT-THE-CLIENT'S-DOES: netem in front of the NIC meets
    # batches in plaintext.
    with_network() {
        local words
        read -ra words <<<"$1"
        tc qdisc add dev eth0 root netem limit 10000 "${words[@]}"
        [[ -n $2 ]] || return 0
        read -ra words <<<"$2"
        "${client_at[@]}" tc qdisc add dev eth1 root netem limit 10000 "${words[@]}"
    }
    end_network() {
        tc qdisc del dev eth0 root
        "${client_at[@]}" tc qdisc del dev eth1 root 2>/dev/null || true
    }
    # netem_case NAME SERVER'S CLIENT'S ACTION [SERVER-ARGUMENT]...
    netem_case() {
        local name=$1 at_server=$2 at_client=$3 action=$4
        shift 4
        chosen "$name" || { expectations=(); return 0; }
        with_network "$at_server" "$at_client"
        lossy=1
        run_case "$name" "$action" "$@"
        lossy=''
        end_network
    }
    netem_case loss 'loss 2%' '' download --max-batch 4
    netem_case loss-both-ways 'loss 2%' 'loss 2%' download --no-gso
    netem_case reorder 'delay 4ms reorder 70% 50%' '' download --max-batch 4
    netem_case duplicate 'duplicate 20%' 'duplicate 20%' download
    netem_case all 'loss 1% duplicate 5% delay 3ms 2ms reorder 20%' 'loss 1% duplicate 5% delay 3ms 2ms' \
        download --max-batch 8
    # Instead of losing packets the queue marks them.
    netem_case ecn 'loss 5% ecn' '' download_large --max-batch 8
    expectations=('the client tells of its own marks' '.receive.ecn_ect > 0')
    run_case ecn-unmarked download

    # A firewall drops one send in twenty, behind a queue that keeps pages of the server for a tenth of a second: each
    # completion frees the buffer of its own send, or another packet's bytes would go out.
    nft 'add table inet wall; add chain inet wall out { type filter hook output priority 0; };
        add rule inet wall out oifname eth0 udp sport 4400-4499 numgen random mod 20 == 0 counter drop'
    expectations=('sends are completed, dropped ones too' '.zerocopy.sends > 100 and .zerocopy.sends == .zerocopy.completions'
        'no send fails' '.send.errors == {} and .send.stepped_back_packets == 0')
    download_huge() {
        client "$address4" "$port4" https://localhost/huge.bin &&
            cmp -s "$work/root/huge.bin" "$work/download/huge.bin"
    }
    for _ in {1..32}; do cat "$work/root/file.bin"; done >"$work/root/huge.bin"
    netem_case firewall-zerocopy 'delay 100ms' '' download_huge --zerocopy --max-batch 16
    rm -f "$work/root/huge.bin" "$work/download/huge.bin"
    expectations=('no send fails' '.send.errors == {} and .send.stepped_back_packets == 0')
    netem_case firewall 'delay 5ms' '' download --max-batch 4
    nft delete table inet wall

    # An address of the server goes away in the middle of a download from it, and comes back. (The other one keeps the
    # route to the client.)
    # comes_and_goes ADDRESS PORT
    comes_and_goes() {
        local status=0 pid tries
        rm -f "$work/download/large.bin"
        client "${1%/*}" "$2" https://localhost/large.bin &
        pid=$!
        for ((tries = 0; tries < 400; tries++)); do
            (($(stat -c %s "$work/download/large.bin" 2>/dev/null || echo 0) < 500000)) || break
            sleep 0.05
        done
        ip addr del "$1" dev eth0
        sleep 0.3
        ip addr add "$1" dev eth0 "${@:3}"
        wait "$pid" || status=$?
        (($(grep -c '^sendmsg of ' "$work/server.log") == 0)) || { echo 'the server complains' >>"$work/client.log"; return 1; }
        cmp -s "$work/root/large.bin" "$work/download/large.bin" && return "$status"
    }
    address_case() {
        chosen "$1" || return 0
        ip addr add "$3" dev eth0 "${@:4}"
        refuses=1
        expectations=('sends are refused' '([.send.errors[]] | add // 0) > 0'
            'the kernel protects again' '.send.stepped_back_packets == 0 and .send.user.packets < 10')
        netem_case "$1" 'rate 30mbit' '' "$2" --dual-stack
        refuses=''
        ip addr del "$3" dev eth0
    }
    from_other6() { comes_and_goes fd09::3/64 "$port6" nodad; }
    from_other4() { comes_and_goes 10.9.0.3/24 "$port6"; }
    address_case source-address-ipv6 from_other6 fd09::3/64 nodad
    address_case source-address-v4-mapped from_other4 10.9.0.3/24

    # The link is slow enough that the new address comes in the middle of the download: six megabytes
    # take more than 1.6 s of it.
    client_args=(--change-local-addr=500ms)
    expectations=('the new address is validated' '.connections.path_changes > 0')
    netem_case migration-mid-download 'rate 30mbit' '' download_large
    # The address changes, and the client does not know of it: the server hears of the new one from what the
    # client sends, so that it has to have something to send.
    client_args=(--change-local-addr=800ms --nat-rebinding)
    expectations=('the new address is validated' '.connections.path_changes > 0'
        'all of it arrives' ".http.body_bytes_received == $bytes")
    netem_case nat-rebinding-mid-upload 'rate 30mbit' 'rate 4mbit' upload
    client_args=(--change-local-addr=500ms)
    expectations=('the new address is validated' '.connections.path_changes > 0'
        'keys change' '.keys.updates_by_us >= 2')
    netem_case migration-key-update 'rate 30mbit' '' download_large --key-update-packets 1000
    client_args=()

    # Probes that the device refuses, and probes that vanish on the way. Neither may be cut to pieces.
    ip link set eth0 mtu 1300
    refuses=1
    expectations=('probes are refused, and nothing else' '.send.errors | keys == ["EMSGSIZE"]')
    # Slow enough that there is time for a few sizes.
    netem_case pmtud-small-mtu 'rate 20mbit' '' download_large
    refuses=''
    ip link set eth0 mtu 1500
    "${client_at[@]}" nft 'add table inet hole; add chain inet hole in { type filter hook input priority 0; };
        add rule inet hole in udp length > 1260 counter drop'
    run_case pmtud-black-hole download
    "${client_at[@]}" nft delete table inet hole
fi

# --- stepping back -----------------------------------------------------------------------------------

expectations=('as asked for' '.send.kernel.packets == 0 and .send.user.packets > 0')
steps_back=1
run_case path-user download --path user
if [[ -n $protected && -w $sysctl ]]; then
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
