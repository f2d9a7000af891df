#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# ./run bench: measures what docs/benchmarks.md describes, prints it, and draws it.

# shellcheck source-path=SCRIPTDIR
. "$(dirname "$0")/parts.sh"

usage() {
    cat <<'END'
usage: ./run bench [OPTION]...

Measures, in guests whose clock counts instructions and natively where that is said, and prints the figures
beside their targets. docs/benchmarks.md explains each.

  --json          print one JSON object with every figure, last on standard output
  --only PART     only this part; may be given more than once:
                  sender    instructions per send: UDP alone, OpenSSL, the device, the kernel's software
                  scale     the same with many SAs and many sockets; memory, adding and deleting, a full database
                  threads   two processors on one socket and SA (wall clock)
                  model     the device model's throughput beside IPsec-MB's, one core and two (wall clock)
                  forwarding
                            a guest that forwards, with the model, e1000e and virtio-net: packets per
                            second (wall clock), and the guest's instructions per packet
                  server    a whole server: its process's instructions for a file of 32 MiB and for requests of
                            4 KiB, protected in user space, by the kernel and by the NIC; with --profile
                            also which functions they are in
                  profile   which functions the instructions of a send are in; only when it is named
                  dpdk      QUIC packets through the model onto a DPDK port, opened by OpenSSL (wall clock)
  --profile       server: also which functions the instructions are in (build/bench/server/ROW.large.txt)
  --quick         fewer packets per send, one IP version, fewer SAs
  --sas N         scale: up to N SAs (default 100000)
  --no-build      take packages and programs as they are
  --baseline      write what sender measured to tests/bench/baseline-BASE.json, which bench.sender compares with
  --plots DIR     where the drawings go (default build/bench/BASE; docs for those of the README)

Raw results: build/bench/BASE/PART.json. Exit status: 0 also when a target is missed; it is printed as missed.
END
}

json='' only=() quick='' sas=100000 build=1 baseline='' profile='' plots=
while (($#)); do
    case $1 in
    --help | -h) usage; exit 0 ;;
    --json) json=1; shift; continue ;;
    --quick) quick=1; shift; continue ;;
    --no-build) build=''; shift; continue ;;
    --baseline) baseline=1; shift; continue ;;
    --profile) profile=1; shift; continue ;;
    --*=*) set -- "${1%%=*}" "${1#*=}" "${@:2}"; continue ;;
    esac
    case $1 in
    --only)
        need "$@"
        [[ $2 =~ ^(sender|server|scale|threads|model|forwarding|dpdk|profile)$ ]] || die "--only $2: no such part (./run bench --help)"
        only+=("$2")
        ;;
    --sas)
        need "$@"
        [[ $2 =~ ^[1-9][0-9]{0,6}$ ]] || die "--sas $2: not a number from 1 to 9999999"
        sas=$2
        ;;
    --plots) need "$@"; plots=$(realpath -m "$2") ;;
    *) die "unknown option $1 (./run bench --help)" ;;
    esac
    shift 2
done

wants() {
    ((${#only[@]} == 0)) || [[ " ${only[*]} " = *" $1 "* ]]
}
[[ -z $baseline ]] || wants sender || die '--baseline is of the part sender, which --only leaves out'

kernel_base_ensure
results=$BUILD/bench/$KERNEL_BASE
plots=${plots:-$results}
mkdir -p "$results" "$plots"

# measure PART COMMAND...: its standard output is the part's JSON. What earlier runs left is not reported: it may be
# of another kernel.
parts=()
measure() {
    local part=$1
    shift
    say "[$part] $(for word in "$@"; do printf '%s ' "${word//"$ROOT"\//}"; done)"
    "$@" >"$results/$part.json.tmp" || { say "[$part] failed"; TOLD=1; exit 1; }
    /usr/bin/jq --arg command "$(for word in "$@"; do printf '%s ' "${word//"$ROOT"\//}"; done)" \
        '{command: $command, result: .}' "$results/$part.json.tmp" >"$results/$part.json"
    rm -f "$results/$part.json.tmp"
    parts+=("$results/$part.json")
}

# guest PART VM-OPTION... -- PROGRAM ARGUMENT...
guest() {
    local part=$1
    shift
    measure "$part" "$ROOT/tests/bench/guest" release "$LOGS/bench-$part.log" "$@"
}

if [[ -n $build ]]; then
    packages_ensure
    packages_ensure_listed "$ROOT/scripts/packages-bench.txt"
    ! wants dpdk || packages_ensure_listed "$ROOT/scripts/packages-dpdk.txt"
    userspace_ensure all
    if wants sender || wants server || wants scale || wants threads || wants profile || wants forwarding; then
        kernel_ensure release
        qemu_ensure
    fi
fi
programs=$BUILD/cmake/tests

if wants sender; then
    options=()
    [[ -z $quick ]] || options=(--families ipv4 '--packets=1,53' --repeats 3)
    guest sender --icount --timeout 3000 -- "$programs/sender_bench" "${options[@]}"
fi
if [[ " ${only[*]} " = *' profile '* ]]; then
    rm -rf "$results/trace"
    mkdir "$results/trace"
    guest profile --icount --timeout 900 -- "$programs/sender_bench" --families ipv4 --packets=1,53 --repeats 1 \
        --ways plain,plain_zerocopy,index,inline,index_zerocopy --trace "$results/trace"
    for packets in 1 53; do
        for ways in 'plain index' 'plain inline' 'plain_zerocopy index_zerocopy'; do
            read -r floor way <<<"$ways"
            "$ROOT/tests/bench/profile" "$(kernel_link release)/System.map" "$results/trace" \
                "$floor-$packets" "$way-$packets" >"$results/profile-$way-$packets.txt"
            say "[profile] $(show_path "$results/profile-$way-$packets.txt")"
        done
    done
    rm -rf "$results/trace"
fi
if wants scale; then
    many=() step=1
    [[ -z $quick ]] || sas=$((sas < 10000 ? sas : 10000))
    while ((step < sas)); do
        many+=("$step")
        step=$((step * 100))
    done
    many+=("$sas")
    sockets=(1 100 10000)
    [[ -z $quick ]] || sockets=(1 1000)
    # The device's database holds them all; a power of two above.
    NIC_OPTIONS=,sadb-size=2097152 guest scale-sas --icount --memory $((1024 + sas / 1000)) --timeout 3000 -- \
        "$programs/scale_bench" sas "${many[@]}"
    guest scale-sockets --icount --memory 2048 --timeout 3000 -- "$programs/scale_bench" sockets "${sockets[@]}"
    guest scale-memory --icount --timeout 3000 -- "$programs/scale_bench" memory $((sas < 20000 ? sas : 20000))
    guest scale-rates --icount --timeout 3000 -- "$programs/scale_bench" rates 5000
    NIC_OPTIONS=,sadb-size=64 guest scale-full --icount --timeout 3000 -- "$programs/scale_bench" full 1024
fi
if wants server; then
    rm -rf "$results/server"
    mkdir -p "$results/server"
    server=$BUILD/cmake/examples/quic-offload-server
    options=()
    [[ -z $quick ]] || options=(--large)
    measure server "$ROOT/tests/bench/server" "$LOGS/bench-server.log" "${options[@]}" "$results/server" "$server"
    if [[ -n $profile ]]; then
        touch "$results/server/profile"
        "$ROOT/tests/bench/server" "$LOGS/bench-server-profile.log" "$results/server" "$server" >/dev/null
        rm "$results/server/profile"
        say "[server] where they are: $(show_path "$results/server")/ROW.large.txt"
    fi
fi
if wants threads; then
    guest threads --cpus 2 --timeout 900 -- "$programs/scale_bench" threads
fi
if wants model; then
    measure model "$BUILD/cmake/sim/bench/model-bench" --benchmark_format=json --benchmark_repetitions=5 \
        --benchmark_min_time=0.2 --benchmark_enable_random_interleaving=true --benchmark_report_aggregates_only=true
fi
if wants forwarding; then
    options=() costs=()
    [[ -z $quick ]] || options=('--sizes=64,1500' --repeats 3) costs=(--sizes 64 --repeats 3)
    measure forwarding "$ROOT/tests/bench/forwarding" "$LOGS/bench-forwarding.log" "$programs/forwarding_bench" "${options[@]}"
    measure forwarding-cost "$ROOT/tests/bench/forwarding-cost" "$LOGS/bench-forwarding-cost.log" \
        "$programs/forwarding_cost" "${costs[@]}"
fi
if wants dpdk; then
    packets=10000000
    [[ -z $quick ]] || packets=100000
    measure dpdk "$BUILD/cmake/sim/dpdk/sim-dpdk" --packets "$packets" --json
fi

# shellcheck disable=SC2016 # jq's variables
/usr/bin/jq -n '[inputs | {(input_filename | sub(".*/"; "") | sub("\\.json$"; "")): .}] | add' "${parts[@]}" |
    /usr/bin/jq -f "$ROOT/scripts/bench-report.jq" >"$results/all.json"

if [[ -n $baseline ]]; then
    /usr/bin/jq -S '.sender | map_values(map_values(map_values(.instructions_per_send)))' "$results/all.json" \
        >"$ROOT/tests/bench/baseline-$KERNEL_BASE.json"
fi
if wants sender; then
    "$ROOT/scripts/bench-plot.sh" "$results/all.json" "$plots"
fi

/usr/bin/jq -r -f "$ROOT/scripts/bench-text.jq" "$results/all.json" >&2
[[ -z $json ]] || cat "$results/all.json"
