#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# nginx with "quic_crypto_offload on" against Debian's ngtcp2-client.
#
# usage: clients.sh NGINX REFUSE PATH [CASE]...
#   NGINX   the program
#   REFUSE  refuse.c as a shared library
#   PATH    what to expect: kernel (packets are protected by the kernel, in software), hardware (by the
#           NIC), user (the kernel cannot: nginx protects them)
#   CASE    only these (shell patterns)
# As root in a guest. With PATH kernel and user over loopback, with hardware from eth0 to a network
# namespace at eth1. Exit status: 1 if a case failed.
#
# Environment: CURL_LIBRARIES is the folder of libcurl-gnutls.so.4 with HTTP/3, for the cases of curl.
# CLIENTS_RECORD is a folder that gets the file that was sent (file.bin), the TLS secrets
# (secrets.log) and a line for each case (cases: port, name, packets that the kernel took).

# Actions are called by their names.
# shellcheck disable=SC2317,SC2329

set -o errexit -o nounset -o pipefail

(($# >= 3)) || { echo "usage: $0 NGINX REFUSE kernel|hardware|user [CASE]..." >&2; exit 2; }
nginx=$(realpath "$1") refuse=$(realpath "$2") path=$3
shift 3
only=("$@")
statistics=/proc/net/udp_crypto_stat
limit=/proc/sys/net/ipv4/udp_crypto_max_sa

work=$(mktemp -d)
# The worker is nobody.
chmod 755 "$work"
master=''
# shellcheck disable=SC2317,SC2329 # called by the trap
cleanup() {
    [[ -z $master ]] || kill -QUIT "$master" 2>/dev/null || true
    [[ -z ${CLIENTS_RECORD:-} ]] || cp "$work/secrets.log" "$work/cases" "$CLIENTS_RECORD/" || true
    rm -rf "$work"
}
trap cleanup EXIT

mkdir "$work/root" "$work/download" "$work/logs" "$work/refuse"
chmod 777 "$work/refuse" # the worker removes what it has read
head -c 1052897 /dev/urandom >"$work/root/file.bin"
for _ in {1..8}; do cat "$work/root/file.bin"; done >"$work/root/large.bin"
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 10 -subj /CN=localhost \
    -keyout "$work/key.pem" -out "$work/certificate.pem" 2>/dev/null
if [[ -n ${CLIENTS_RECORD:-} ]]; then
    cp "$work/root/file.bin" "$CLIENTS_RECORD/file.bin"
    : >"$work/cases"
    : >"$work/secrets.log"
    export SSLKEYLOGFILE=$work/secrets.log
fi
failures=0 cases=0

# --- where nginx and its clients are ---------------------------------------------------------------

address4=127.0.0.1 address6=::1 port=4400 client_at=() device=lo
# With its own MTU a large file would be a handful of packets.
ip link set lo up mtu 1500
if [[ $path = hardware ]]; then
    address4=10.9.0.1 address6=fd09::1 client_at=(nsenter --net=/run/netns/client) device=eth0
    ip netns add client
    ip link set eth1 netns client
    ethtool -K eth0 udp-crypto-hw-tx-offload on tx-udp-segmentation on
    ip link set eth0 up
    ip addr add 10.9.0.1/24 dev eth0
    ip addr add fd09::1/64 dev eth0 nodad
    "${client_at[@]}" ip link set lo up
    "${client_at[@]}" ip link set eth1 up
    "${client_at[@]}" ip addr add 10.9.0.2/24 dev eth1
    "${client_at[@]}" ip addr add fd09::2/64 dev eth1 nodad
    for ((try = 0; try < 300; try++)); do
        ! "${client_at[@]}" ping -c 1 -W 1 10.9.0.1 >/dev/null || break
    done
fi

# start_nginx LISTEN [WORKERS [DIRECTIVE]...]: LISTEN is what follows the address and "quic".
start_nginx() {
    local listen=$1 workers=${2:-1}
    shift "$(($# < 2 ? $# : 2))"
    port=$((port + 1))
    : >"$work/error.log"
    {
        printf '%s\n' "error_log $work/error.log info;" "pid $work/pid;" "worker_processes $workers;" \
            'user nobody nogroup;' 'env REFUSE_FILE;' 'events { }' 'http {' 'access_log off;' \
            "ssl_certificate $work/certificate.pem;" "ssl_certificate_key $work/key.pem;" 'ssl_protocols TLSv1.3;' \
            "server { root $work/root;"
        if [[ $listen = wildcard ]]; then
            printf '%s\n' "listen $port quic reuseport;" "listen [::]:$port quic reuseport;"
        else
            printf '%s\n' "listen $address4:$port quic $listen;" "listen [$address6]:$port quic $listen;"
        fi
        printf '%s\n' "quic_crypto_offload $switch;" "$@" '} }'
    } >"$work/nginx.conf"
    LD_PRELOAD=$refuse REFUSE_FILE=$work/refuse/now "$nginx" -p "$work" -c "$work/nginx.conf" 2>"$work/start.log" || return 1
    master=$(<"$work/pid")
}

stop_nginx() {
    local try
    kill -QUIT "$master"
    for ((try = 0; try < 600; try++)); do
        if [[ ! -e $work/pid ]]; then
            master=''
            return 0
        fi
        sleep 0.1
    done
    kill -TERM "$master"
    master=''
    return 1
}

# --- clients ---------------------------------------------------------------------------------------

# client ADDRESS FILE [ARGUMENT]...
client() {
    local address=$1 file=$2 folder
    shift 2
    folder=$(mktemp -d -p "$work/download")
    "${client_at[@]}" timeout 300 gtlsclient --quiet --exit-on-all-streams-close --timeout=60s --handshake-timeout=60s \
        --download="$folder" "$@" "$address" "$port" "https://localhost/$file" >>"$work/client.log" 2>&1
    cmp "$work/root/$file" "$folder/$file" >>"$work/client.log" 2>&1
}
download() { client "$address4" file.bin; }
download_large() { client "$address4" large.bin; }
download6() { client "$address6" file.bin; }
# ten [FILE]: as many clients at once
ten() {
    local i pids=() status=0
    for i in {1..10}; do
        client "$address4" "${1:-file.bin}" &
        pids+=($!)
    done
    for i in "${pids[@]}"; do wait "$i" || status=1; done
    return "$status"
}

# --- cases -----------------------------------------------------------------------------------------

counter() {
    sed -nE "s/^$1[[:space:]]+//p" "$statistics" 2>/dev/null | grep . || echo 0
}

# What the NIC has protected
by_device() {
    ethtool -S eth0 | awk '/tx_quic_(index|inline)_packets:/ {n += $2} END {print n + 0}'
}

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

# run_case NAME ACTION LISTEN [WORKERS [DIRECTIVE]...]
# steps_back=1: nginx protects some packets itself. off=1: all of them. lossy=1: some are dropped on purpose.
# single=1: no batches. mixed=1: the NIC does not protect all. switch: of the directive. expected: more packets
# than these are the kernel's. sas: as many SAs at least.
run_case() {
    local name=$1 action=$2 problems=() name_of taken device_before=0 before=()
    shift 2
    if ! chosen "$name"; then
        reset
        return 0
    fi
    cases=$((cases + 1))
    : >"$work/client.log"
    rm -rf "$work/download"
    mkdir "$work/download"
    for name_of in TxPackets TxSoftware SaAdded SaDeleted DropNoSa DropNoKeys DropNoMem DropError TxGsoSends; do
        before+=("$(counter "$name_of")")
    done
    packets_before=${before[0]}
    [[ $path != hardware ]] || device_before=$(by_device)
    if ! start_nginx "$@"; then
        problems+=("nginx did not start: $(tail -n 1 "$work/start.log")")
    else
        "$action" || problems+=("a client failed: $(tail -n 1 "$work/client.log")")
        stop_nginx || problems+=('nginx did not end')
        ! grep -E '\[(error|crit|alert|emerg)\]' "$work/error.log" >"$work/errors" ||
            problems+=("nginx complains: $(head -n 1 "$work/errors")")
        taken=$(($(counter TxPackets) - before[0]))
        if [[ $path = user || -n $off ]]; then
            ((taken == 0)) || problems+=("the kernel protected $taken packets")
        else
            ((taken > expected)) || problems+=("the kernel protected $taken packets, not $expected")
            (($(counter SaAdded) - before[2] == $(counter SaDeleted) - before[3])) ||
                problems+=("$(($(counter SaAdded) - before[2])) SAs, $(($(counter SaDeleted) - before[3])) deleted")
            (($(counter SaAdded) - before[2] >= sas)) || problems+=("$(($(counter SaAdded) - before[2])) SAs, not $sas")
            (($(counter SaCurr) == 0)) || problems+=("$(counter SaCurr) SAs are left")
            [[ -n $lossy ]] || (($(counter DropNoSa) == before[4])) || problems+=('packets were dropped for want of their SA')
            (($(counter DropNoKeys) + $(counter DropNoMem) + $(counter DropError) == before[5] + before[6] + before[7])) ||
                problems+=('packets were dropped')
            [[ -n $single ]] || (($(counter TxGsoSends) > before[8])) || problems+=('there were no batches')
            if [[ -z $steps_back ]] && grep -q 'crypto offload' "$work/error.log"; then
                problems+=("nginx stepped back: $(grep 'crypto offload' "$work/error.log" | head -n 1)")
            elif [[ -n $steps_back ]] && ! grep -q 'crypto offload' "$work/error.log"; then
                problems+=('nginx did not step back')
            fi
            if [[ -n $mixed ]]; then
                (($(counter TxSoftware) > before[1] && $(by_device) > device_before)) ||
                    problems+=('not both protected some')
            elif [[ $path = hardware ]]; then
                (($(counter TxSoftware) == before[1])) || problems+=('packets were protected in software')
                (($(by_device) - device_before == taken)) ||
                    problems+=("the NIC protected $(($(by_device) - device_before)) packets of $taken")
            else
                (($(counter TxSoftware) - before[1] == taken)) || problems+=('not all was protected in software')
            fi
        fi
        [[ -z ${CLIENTS_RECORD:-} ]] || printf '%s %s %s\n' "$port" "$name" "$taken" >>"$work/cases"
    fi
    if ((${#problems[@]})); then
        failures=$((failures + 1))
        printf 'FAIL  %s\n' "$name"
        printf '      %s\n' "${problems[@]}"
        grep -v '\[notice\]\|unknown transport param' "$work/error.log" | tail -n 5 | sed 's/^/      nginx: /'
    else
        printf 'ok    %s\n' "$name"
    fi
    reset
}
reset() {
    steps_back='' off='' lossy='' single='' mixed='' switch=on sas=1 expected=100
}
reset

if [[ $path = user ]]; then
    run_case absent download reuseport 1 'quic_gso on;'
    run_case absent-no-gso download reuseport
    echo "$cases cases, $failures failures"
    exit $((failures > 0))
fi

for cipher in AES-128-GCM AES-256-GCM CHACHA20-POLY1305 AES-128-CCM; do
    with_cipher() { client "$address4" file.bin "--ciphers=NORMAL:-VERS-ALL:+VERS-TLS1.3:-CIPHER-ALL:+$cipher"; }
    expected=100
    run_case "cipher-$cipher" with_cipher reuseport 1 'quic_gso on;' \
        'ssl_conf_command Ciphersuites TLS_AES_128_GCM_SHA256:TLS_AES_256_GCM_SHA384:TLS_CHACHA20_POLY1305_SHA256:TLS_AES_128_CCM_SHA256;'
done
for length in 0 8 20; do
    scid=$(head -c "$length" /dev/urandom | od -An -tx1 | tr -d ' \n')
    with_cid() { client "$address4" file.bin "--scid=$scid"; }
    expected=100
    run_case "client-cid-$length" with_cid reuseport 1 'quic_gso on;'
done
single=1 expected=100
run_case no-gso download reuseport
off=1 switch=off
run_case off download reuseport 1 'quic_gso on;'

# --- addresses, sockets, workers ---------------------------------------------------------------------

expected=100
run_case ipv6 download6 reuseport 1 'quic_gso on;'
both_families() { download && download6; }
expected=200
run_case wildcard both_families wildcard 1 'quic_gso on;'
expected=100
run_case retry download reuseport 1 'quic_gso on;' 'quic_retry on;'
migrate() { client "$address4" large.bin --change-local-addr=100ms; }
run_case migration migrate reuseport 1 'quic_gso on;'
run_case two-workers ten reuseport 2 'quic_gso on;'
# Workers that share a socket share its SAs: each takes what it made, and nobody else's name for it.
run_case one-worker-shared ten '' 1 'quic_gso on;'

if [[ -n ${CURL_LIBRARIES:-} ]]; then
    get="$(dirname "$(realpath "$0")")/curl-get"
    curl_get() {
        LD_LIBRARY_PATH=$CURL_LIBRARIES "${client_at[@]}" timeout 300 "$get" "https://$address4:$port/$1" \
            "$work/download/curl" "${2:-1}" >>"$work/client.log" 2>&1
        cmp "$work/root/$1" "$work/download/curl" >>"$work/client.log" 2>&1
    }
    curl_large() { curl_get large.bin; }
    curl_thrice() { curl_get file.bin 3; }
    run_case curl curl_large reuseport 1 'quic_gso on;'
    run_case curl-three-requests curl_thrice reuseport 1 'quic_gso on;'
fi

# --- key update --------------------------------------------------------------------------------------

update_key() { client "$address4" large.bin --key-update=100ms; }
expected=1000 sas=2
run_case key-update update_key reuseport 1 'quic_gso on;'
single=1 expected=1000 sas=2
run_case key-update-no-gso update_key reuseport
ten_update_keys() {
    local i pids=() status=0
    for i in {1..10}; do
        client "$address4" file.bin --key-update="$((i * 7))ms" --delay-stream=50ms &
        pids+=($!)
    done
    for i in "${pids[@]}"; do wait "$i" || status=1; done
    return "$status"
}
expected=1000 sas=20
run_case key-update-ten ten_update_keys reuseport 2 'quic_gso on;'

# --- the kernel says no ------------------------------------------------------------------------------

with_limit() {
    local before status=0
    before=$(<"$limit")
    echo "$1" >"$limit"
    "${@:2}" || status=1
    echo "$before" >"$limit"
    return "$status"
}
full_at_first() { with_limit 0 download; }
off=1
run_case table-full full_at_first reuseport 1 'quic_gso on;'
# The first key is taken, the next is not.
full_at_key_update() { with_limit 1 update_key; }
steps_back=1 expected=10
run_case table-full-at-key-update full_at_key_update reuseport 1 'quic_gso on;'
# Whatever the reason, refused packets go out again under their numbers. refuse.c has the words.
refuse() {
    local word=$1 pid status=0
    shift
    client "$address4" large.bin "$@" &
    pid=$!
    while (($(counter TxPackets) < 300 + packets_before)); do sleep 0.02; done
    echo "$word" >"$work/refuse/now"
    chmod 666 "$work/refuse/now"
    if [[ $word = +* ]]; then
        sleep 0.5
        rm -f "$work/refuse/now"
    fi
    wait "$pid" || status=1
    if [[ -e $work/refuse/now ]]; then
        echo 'no send was refused' >>"$work/client.log"
        rm -f "$work/refuse/now"
        status=1
    fi
    return "$status"
}
delete_sa() { refuse delete; }
steps_back=1 lossy=1
run_case sa-deleted delete_sa reuseport 1 'quic_gso on;'
steps_back=1 lossy=1 single=1
run_case sa-deleted-no-gso delete_sa reuseport
# With the next key the kernel protects again.
delete_and_update() { refuse delete --key-update=1s; }
steps_back=1 lossy=1 sas=2
run_case sa-deleted-then-key-update delete_and_update reuseport 1 'quic_gso on;'
for error in 22:EINVAL 105:ENOBUFS 90:EMSGSIZE; do
    refuse_with_errno() { refuse "errno ${error%:*}"; }
    steps_back=1
    run_case "refused-${error#*:}" refuse_with_errno reuseport 1 'quic_gso on;'
done
# Half a second of EAGAIN: each time from the same number on.
refuse_for_a_while() { refuse '+errno 11'; }
run_case refused-EAGAIN refuse_for_a_while reuseport 1 'quic_gso on;'
single=1
run_case refused-EAGAIN-no-gso refuse_for_a_while reuseport

# A full socket: sends are refused with EAGAIN, and repeated from the same number on.
refusals() { awk '/^Udp6?: [0-9]/ {print $7}' /proc/net/snmp; }
full_socket() {
    local before status=0
    before=$(refusals)
    tc qdisc add dev "$device" root netem delay 10ms limit 10000
    client "$address4" large.bin || status=1
    tc qdisc del dev "$device" root
    if (($(refusals) <= before)); then
        echo 'no send was refused' >>"$work/client.log"
        status=1
    fi
    return "$status"
}
expected=1000
run_case full-socket full_socket 'reuseport sndbuf=4608' 1 'quic_gso on;'
single=1 expected=1000
run_case full-socket-no-gso full_socket 'reuseport sndbuf=4608'

# --- reload ------------------------------------------------------------------------------------------

# The old workers finish their connections, with their SAs on sockets that the new ones have, too.
reload() {
    local pids=() i status=0
    for i in {1..5}; do
        client "$address4" large.bin &
        pids+=($!)
    done
    while (($(counter SaCurr) < 5)); do sleep 0.02; done
    kill -HUP "$master"
    sleep 0.5
    for i in {1..5}; do
        client "$address4" file.bin &
        pids+=($!)
    done
    for i in "${pids[@]}"; do wait "$i" || status=1; done
    return "$status"
}
expected=4000
run_case reload reload reuseport 1 'quic_gso on;'

# --- the device ----------------------------------------------------------------------------------------

if [[ $path = hardware ]]; then
    switch_feature() {
        local pid status=0
        client "$address4" large.bin &
        pid=$!
        sleep 0.3
        ethtool -K eth0 udp-crypto-hw-tx-offload off
        sleep 0.3
        ethtool -K eth0 udp-crypto-hw-tx-offload on
        wait "$pid" || status=1
        return "$status"
    }
    mixed=1 expected=1000
    run_case feature-switched switch_feature reuseport 1 'quic_gso on;'
fi

echo "$cases cases, $failures failures"
exit $((failures > 0))
