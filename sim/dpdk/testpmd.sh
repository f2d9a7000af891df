#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# testpmd.sh SIM-DPDK DPDK-TESTPMD [PACKETS]
# dpdk-testpmd, unmodified, with the model, over shared memory (net_memif), each a process of its own:
#   1. model -> testpmd -> verifier: testpmd forwards what the model sends
#   2. testpmd <-> model: the model forwards what testpmd sends, 128 frames that go round; both count
# net_memif of DPDK 22.11 can crash a process that polls it when its peer goes: testpmd ends first.
set -euo pipefail

program=$1 testpmd=$2 packets=${3:-100000}
socket=sim-dpdk-$$ dir=$(mktemp -d)
pids=()
cleanup() {
    ((${#pids[@]} == 0)) || kill "${pids[@]}" 2>/dev/null || true
    wait
    rm -rf "$dir"
}
trap cleanup EXIT

memif() {
    printf '%s' "--vdev=net_memif$1,role=$2,id=$1,socket-abstract=yes,socket=$socket-$1"
}
# start_testpmd PORT...: with a command line to write to as descriptor 3.
start_testpmd() {
    local cpus
    cpus=$(taskset -cp $$ | sed 's/.*: //')
    mkfifo "$dir/commands"
    "$testpmd" --no-huge -m 256 --no-shconf --no-pci --no-telemetry --log-level=4 --lcores="0@($cpus),1@($cpus)" "$@" \
        -- -i --total-num-mbufs=16384 --no-mlockall --forward-mode=io <"$dir/commands" >"$dir/testpmd" 2>&1 &
    pids+=($!)
    exec 3>"$dir/commands"
    wait_for "$dir/testpmd" 'testpmd>' 30
}
# wait_for FILE TEXT SECONDS
wait_for() {
    local end=$((SECONDS + $3))
    until grep -qF "$2" "$1"; do
        ((SECONDS < end)) || { echo "$1: no '$2' within $3 seconds"; return 1; }
        sleep 0.2
    done
}
end_testpmd() {
    printf 'stop\nshow port stats all\nquit\n' >&3
    exec 3>&-
    wait "${pids[0]}"
    rm "$dir/commands"
    grep -E '(RX|TX)-(packets|dropped): [1-9]' "$dir/testpmd" || true
}
end_programs() {
    local pid status=0
    for pid in "${pids[@]:1}"; do
        kill "$pid" 2>/dev/null || true
        wait "$pid" || status=$?
    done
    pids=()
    return "$status"
}

echo '== model -> testpmd -> verifier'
start_testpmd "$(memif 0 server)" "$(memif 1 server)"
# testpmd drops what a slower receiver has no room for, unless it is told to try again.
printf 'set fwd io retry\nset burst tx delay 50 retry 100000\nstart\n' >&3
"$program" "$(memif 1 client)" -- --role verify --packets "$packets" --json --linger 600 >"$dir/verify" &
pids+=($!)
"$program" "$(memif 0 client)" -- --role send --packets "$packets" --json --linger 600 >"$dir/send" &
pids+=($!)
wait_for "$dir/send" ok 120
wait_for "$dir/verify" ok 120
cat "$dir/send" "$dir/verify"
end_testpmd
end_programs

echo '== testpmd <-> model'
"$program" "$(memif 2 server)" -- --role forward --packets "$packets" --json --linger 600 >"$dir/forward" &
forward=$!
start_testpmd "$(memif 2 client)"
pids+=("$forward")
printf 'set fwd io retry\nset burst tx delay 50 retry 100000\nstart tx_first 4\n' >&3
wait_for "$dir/forward" ok 120
cat "$dir/forward"
end_testpmd
end_programs
jq -e --argjson packets "$packets" '.forwarded >= $packets and .dropped == 0 and .refused == 0' "$dir/forward"
