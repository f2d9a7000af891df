#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# kernel-selftests.sh [--cpus N] KERNEL KERNEL-SOURCE BUILD-FOLDER LOG [PROGRAM...]
# The kernel's own tests of network drivers (tools/testing/selftests/drivers/net), unchanged, in a guest
# with one ConnectX model under test and another as the remote end. docs/connectx-model.md says which
# programs there are and why the others do not apply.
# Inside of the guest it calls itself as: kernel-selftests.sh --guest FOLDER TOOLS PROGRAM...
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd -P)

# addresses NEAR FAR: IPv6's go when a test sets a device down.
addresses() {
    ip link set "$1" up
    ip addr replace 192.0.2.1/24 dev "$1"
    ip addr replace 2001:db8::1/64 dev "$1" nodad
    ip -n far link set "$2" up
    ip -n far addr replace 192.0.2.2/24 dev "$2"
    ip -n far addr replace 2001:db8::2/64 dev "$2" nodad
    for _ in {1..20}; do
        ! ping -c 1 -W 1 2001:db8::2 >/dev/null || break
    done
}

# What drivers/net/hw/csum.py does with the C program net/lib/csum; the program in Python asks for a field
# that the library of 6.12 does not have. The receiver's patience (-L, seconds) is for a guest that is emulated.
checksums() {
    local csum=$1/net/lib/csum version between=() options n=0 receiver status bad=0
    echo 1..12
    for version in 4 6; do
        for options in 'in -t' 'in -t -E' 'in' 'in -E' 'out -U' 'out -U -Z'; do
            local direction=${options%% *} extra=${options#* }
            [[ $extra != "$direction" ]] || extra=''
            local near=192.0.2.1 far=192.0.2.2
            [[ $version = 4 ]] || near=2001:db8::1 far=2001:db8::2
            status=0
            # shellcheck disable=SC2086 # words
            if [[ $direction = in ]]; then
                between=(-"$version" -S "$far" -D "$near")
                timeout 60 "$csum" -i "$NETIF" -L 20 -n 100 "${between[@]}" -r 1 -R $extra &
                receiver=$!
                sleep 2
                ip netns exec far "$csum" -i "$REMOTE_IF" -n 100 "${between[@]}" -r 1 -T $extra || status=1
            else
                between=(-"$version" -S "$near" -D "$far")
                [[ $extra = '-U -Z' ]] || extra+=' -r 1'
                timeout 60 ip netns exec far "$csum" -i "$REMOTE_IF" -L 20 -n 100 "${between[@]}" -R $extra &
                receiver=$!
                sleep 2
                "$csum" -i "$NETIF" -L 1 -n 100 "${between[@]}" -T $extra || status=1
            fi
            wait "$receiver" || status=1
            n=$((n + 1))
            if ((status == 0)); then
                echo "ok $n csum IPv$version $options"
            else
                echo "not ok $n csum IPv$version $options"
                bad=1
            fi
        done
    done
    return "$bad"
}

in_guest() {
    local folder=$1 tools=$2 program status failed=0 near='' far='' device
    shift 2
    for device in /sys/class/net/*; do
        [[ -f $device/address ]] || continue
        case $(<"$device/address") in
        02:00:00:00:00:01) near=${device##*/} ;;
        02:00:00:00:00:02) far=${device##*/} ;;
        esac
    done
    ip netns add far
    ip link set "$far" netns far
    ip -n far link set lo up
    addresses "$near" "$far"
    export NETIF=$near LOCAL_V4=192.0.2.1 REMOTE_V4=192.0.2.2 LOCAL_V6=2001:db8::1 REMOTE_V6=2001:db8::2
    export REMOTE_TYPE=netns REMOTE_ARGS=far PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 REMOTE_IF=$far
    # Newer tools, and Debian's Python, which has its yaml.
    export PATH=$tools:/usr/bin:$PATH
    ethtool -K "$near" ntuple on
    for program; do
        echo "== $program"
        status=0
        if [[ $program = net/lib/csum ]]; then
            addresses "$near" "$far"
            checksums "$folder" >/tmp/out 2>&1 || status=$?
        else
            (cd "$folder/$(dirname "$program")" && timeout 1200 "./$(basename "$program")") >/tmp/out 2>&1 || status=$?
        fi
        cat /tmp/out
        # 4 is "skipped". A program that ran must also have passed something.
        if ((status == 0)) && grep -q '^ok ' /tmp/out; then
            echo "== $program: passed, $(grep -cE '^ok .*# SKIP' /tmp/out || true) of its cases skipped"
        else
            echo "== $program: status $status"
            failed=1
        fi
    done
    return "$failed"
}

if [[ ${1-} = --guest ]]; then
    shift
    in_guest "$@"
    exit
fi

. "$here/../../scripts/parts.sh"
test_tools_ensure
tools=$(readlink -f "$BUILD/test-tools")/bin
cpus=2
if [[ $1 = --cpus ]]; then
    cpus=$2
    shift 2
fi
kernel=$1 source=$2 build=$3 log=$4
shift 4
(($#)) || set -- drivers/net/ping.py drivers/net/queues.py drivers/net/stats.py net/lib/csum

# As they are, but where the one C program can be built beside them.
rm -rf "$build"
mkdir -p "$build/tools/testing/selftests/net" "$build/tools/testing/selftests/drivers" "$build/tools/net" \
    "$build/Documentation/netlink"
cp -r "$source/tools/testing/selftests/net/lib" "$source/tools/testing/selftests/net/net_helper.sh" \
    "$source/tools/testing/selftests/net/lib.sh" "$build/tools/testing/selftests/net/"
cp -r "$source/tools/testing/selftests/drivers/net" "$build/tools/testing/selftests/drivers/"
cp -r "$source/tools/net/ynl" "$build/tools/net/"
cp -r "$source/Documentation/netlink/specs" "$build/Documentation/netlink/"
gcc -O2 -I "$source/tools/testing/selftests" -o "$build/tools/testing/selftests/net/lib/csum" "$source/tools/testing/selftests/net/lib/csum.c"
SIM_TIMEOUT=1500 "$here/guest-traffic.sh" --faults --cpus "$cpus" "$kernel" "$here/kernel-selftests.sh" "$log" \
    --guest "$build/tools/testing/selftests" "$tools" "$@"
