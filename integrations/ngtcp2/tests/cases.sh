#!/bin/bash
# SPDX-License-Identifier: MIT
#
# The adapter in a guest: a server on it, a plain ngtcp2 client, and what each says that it did.
#
# usage: cases.sh TRANSFER kernel|user
#   kernel  the kernel protects; user: it cannot, and the adapter does

set -o errexit -o nounset -o pipefail

(($# == 2)) || { echo "usage: $0 TRANSFER kernel|user" >&2; exit 2; }
transfer=$1 path=$2
limit=/proc/sys/net/ipv4/udp_crypto_max_sa
failures=0 cases=0
ip link set lo up 2>/dev/null || true

kernel_counters() {
    { cat /proc/net/udp_crypto_stat 2>/dev/null || true; } |
        jq -Rn '[inputs | split("\\s+"; null) | {(.[0]): (.[1] | tonumber)}] | add // {}'
}

# run_case NAME EXPECTATION BYTES [OPTION]...: a jq expression over what the server counted; .kernel is by
# how much the kernel's counters have grown.
run_case() {
    local name=$1 expectation=$2 before printed after status=0
    shift 2
    cases=$((cases + 1))
    before=$(kernel_counters)
    printed=$(timeout 200 "$transfer" "$@" 2>&1) || status=$?
    after=$(kernel_counters | jq -c --argjson before "$before" 'with_entries(.value -= ($before[.key] // 0))')
    if ((status == 0)) && jq -e --argjson kernel "$after" ". + {kernel: \$kernel} | ($expectation)" <<<"$printed" >/dev/null; then
        printf 'ok    %s\n' "$name"
    else
        failures=$((failures + 1))
        printf 'FAIL  %s (status %s; not so: %s)\n      %s\n      %s\n' "$name" "$status" "$expectation" "$printed" "$after"
    fi
}

if [[ $path = user ]]; then
    run_case steps-back '.packets_kernel == 0 and .packets_user > 600 and .active == false' 1000000
    run_case key-update '.packets_kernel == 0 and .key_updates > 0' 2000000 update
    run_case inline '.packets_kernel == 0' 100000 inline
else
    all='.packets_kernel == .kernel.TxPackets and .packets_kernel > 20 * .packets_user and .stepped_back == 0
         and .kernel.SaAdded == .kernel.SaDeleted and .kernel.DropError + .kernel.DropNoMem + .kernel.DropNoKeys == 0'
    for cipher in '' aes256 chacha ccm; do
        run_case "cipher-${cipher:-aes128}" "$all and .active and .sas == 2 and .gso_sends > 5" 1000000 $cipher
    done
    run_case inline "$all and .active and .sas == 0" 1000000 inline
    run_case key-update "$all and .key_updates > 0 and .sas >= .key_updates" 3000000 update
    run_case key-update-inline "$all and .key_updates > 0 and .sas == 0" 3000000 update inline
    run_case zerocopy "$all and .zerocopy_sends > 5 and .zerocopy_sends == .zerocopy_completions" 1000000 zerocopy
    run_case switched-off '.packets_kernel == 0 and .kernel.TxPackets == 0 and .packets_user > 600' 1000000 user
    # The SA of packets that are written already is gone: they go out under their numbers all the same.
    run_case refused '.stepped_back > 0 and .packets_kernel == .kernel.TxPackets and .packets_user > 300' 1000000 forget
    # ... and the next key is the kernel's again.
    run_case refused-then-key-update '.stepped_back > 0 and .key_updates > 0 and .packets_kernel > 200 and .active' 3000000 forget update
    before=$(<"$limit")
    echo 0 >"$limit"
    run_case table-full '.packets_kernel == 0 and .sa_error == 28 and .packets_user > 600' 1000000
    echo 1 >"$limit"
    run_case table-full-at-key-update '.packets_kernel > 100 and .packets_user > 100 and .sa_error == 28' 3000000 update
    echo "$before" >"$limit"
fi
echo "$cases cases, $failures failures"
exit $((failures > 0))
