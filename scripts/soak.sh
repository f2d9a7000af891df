#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# ./run soak: mixed traffic in one guest for long, and does anything grow?

# shellcheck source-path=SCRIPTDIR
. "$(dirname "$0")/parts.sh"

usage() {
    cat <<'END'
usage: ./run soak [OPTION]...

Boots one guest and makes mixed traffic in it, in spells: SAs by socket option and over netlink, key
updates, batches, zero-copy, keys inline, sockets, processes and namespaces that come and go, features
switched, links down; over veth, netdevsim, and from one ConnectX model to another. What arrives is decrypted
with OpenSSL. After each spell nothing is left under way, and stock is taken of the guest. At the end:
has anything grown? (docs/hardening.md)

  --seconds N    how long (default 3600); at least four spells
  --kernel K     debug (default), release
  --nic N        connectx (default): two of them on one wire; none
  --spell N      seconds of traffic in a spell (default 60)
  --seed N       another order of events (default 1)
  --json         print the result as one JSON object on standard output
  --report FILE  write it to FILE, in Markdown
  --name NAME    of the files that are kept: build/soak/NAME.json, build/log/NAME.log (default soak)
  --no-build     take packages and programs as they are

QUIC_SOAK_LEAK=1 in the environment makes the program leak SAs, sockets, files and devices: it must be found.
Exit status: 0 if nothing grows and nothing else was wrong, else 1.
END
}

seconds=3600 kernel=debug nic=connectx spell=60 seed=1 name=soak json='' report='' build=1
given=("$@")
number() {
    [[ $2 =~ ^[1-9][0-9]{0,6}$ ]] || die "$1 $2: not a number from 1 to 9999999"
}
while (($#)); do
    case $1 in
    --help | -h) usage; exit 0 ;;
    --json) json=1; shift; continue ;;
    --no-build) build=''; shift; continue ;;
    --*=*) set -- "${1%%=*}" "${1#*=}" "${@:2}"; continue ;;
    esac
    case $1 in
    --seconds) need "$@"; number "$@"; seconds=$2 ;;
    --spell) need "$@"; number "$@"; spell=$2 ;;
    --seed) need "$@"; number "$@"; seed=$2 ;;
    --kernel)
        need "$@"
        [[ $2 =~ ^(debug|release)$ ]] || die "--kernel $2: debug or release"
        kernel=$2
        ;;
    --nic)
        need "$@"
        [[ $2 =~ ^(connectx|none)$ ]] || die "--nic $2: connectx or none"
        nic=$2
        ;;
    --name)
        need "$@"
        [[ $2 =~ ^[a-z0-9.-]+$ ]] || die "--name $2: not a name of small letters and digits"
        name=$2
        ;;
    --report) need "$@"; report=$(realpath -m "$2") ;;
    *) die "unknown option $1 (./run soak --help)" ;;
    esac
    shift 2
done

if [[ -n $build ]]; then
    packages_ensure
    userspace_ensure all
    kernel_ensure "$kernel"
    qemu_ensure
fi

results=$BUILD/soak
raw=$results/$name.raw.json result=$results/$name.json log=$LOGS/$name.log
mkdir -p "$results"
program=("$BUILD/cmake/tests/soak" --seconds "$seconds" --spell "$spell" --seed "$seed")
[[ -z ${QUIC_SOAK_LEAK:-} ]] || program+=(--leak)
# The last spell may begin just before the end; an emulated guest on a busy machine takes long to settle.
timeout=$((seconds * 2 + spell * 8 + 1800))
status=0
if [[ $nic = connectx ]]; then
    NIC_TEST_TIMEOUT=$timeout "$ROOT/tests/nic/guest" --stream "$kernel" "$log" '' "${program[@]}" \
        >"$raw" || status=$?
else
    "$ROOT/run" vm --kernel "$kernel" --nic none --cpus 2 --memory 2048 --timeout "$timeout" --log "$log" \
        -- "${program[@]}" >"$raw" || status=$?
fi

# Outside of the checkout nobody cares where it is.
command=./run\ soak
for word in "${given[@]}"; do
    command+=" ${word//"$ROOT"\//}"
done
accelerator=$([[ -f $CACHE/kvm-probe ]] && cut -d' ' -f2 "$CACHE/kvm-probe" || echo tcg)
/usr/bin/jq -n --slurpfile raw "$raw" --arg command "$command" --arg variant "$kernel" --arg nic "$nic" \
    --arg date "$(date -u +%Y-%m-%d)" --arg commit "$(git -C "$ROOT" rev-parse --short=12 HEAD 2>/dev/null || true)" \
    --arg host "$(nproc) processors, $accelerator" --argjson status "$status" \
    -f "$ROOT/scripts/soak-result.jq" >"$result"
[[ -z $report ]] || /usr/bin/jq -r -f "$ROOT/scripts/soak-report.jq" "$result" >"$report"
[[ -z $json ]] || cat "$result"
say "$(/usr/bin/jq -r .verdict "$result")"
[[ $(/usr/bin/jq .good "$result") = true ]] || exit 1
