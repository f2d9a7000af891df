#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# ./run fuzz: fuzzes the ConnectX model or the kernel's interface.

. "$(dirname "$0")/parts.sh"

usage() {
    cat <<'END'
usage: ./run fuzz model  [--seconds N] [--target T]... [--keep] [FILE]...
       ./run fuzz kernel [--seconds N] [--kernel K] [--keep] [FILE]...

  model   libFuzzer with AddressSanitizer and UndefinedBehaviorSanitizer on the ConnectX model. Targets:
          commands, wqes, steering, frames, image (a whole guest's memory and registers), crypto (the QUIC
          engine against OpenSSL)
  kernel  libFuzzer in a guest: programs of system calls around UDP_CRYPTO_STATE, UDP_QUIC_CRYPTO and the
          netlink family udp_crypto

  --seconds N  how long, for all targets together (default 60); 0: only what is in the corpora
  --target T   only this target of the model; may be given more than once
  --kernel K   fuzz (default): KASAN, lockdep, UBSAN and KCOV, which guides the fuzzer; debug, release: no
               coverage, the results of the calls guide it
  --keep       afterwards (kernel with --seconds 0: only this): the fewest inputs that reach all that the
               corpus reaches become those that the repository keeps (sim/fuzz/corpus/TARGET.hex,
               tests/fuzz/corpus.hex)
  FILE         inputs to run, and no others

Corpora are kept in build/fuzz/corpus/TARGET, crashes in build/fuzz/crash-*; logs: build/log/fuzz-*.log. The kernel
fuzz also tells how much of our new files was reached.
Exit status: 1 when anything was found.
END
}

FUZZ=$BUILD/fuzz
seconds=60 kernel=fuzz keep='' targets=() files=()
(($#)) || { usage >&2; exit 2; }
what=$1
shift
case $what in
model | kernel) ;;
--help | -h) usage; exit 0 ;;
*) die "fuzz what? (./run fuzz --help)" ;;
esac
while (($#)); do
    case $1 in
    --*=*) set -- "${1%%=*}" "${1#*=}" "${@:2}" ;;
    esac
    case $1 in
    --help | -h) usage; exit 0 ;;
    --seconds) need "$@"; seconds=$2; shift ;;
    --target) need "$@"; targets+=("$2"); shift ;;
    --kernel) need "$@"; kernel=$2; shift ;;
    --keep) keep=1 ;;
    -*) die "unknown option $1 (./run fuzz --help)" ;;
    *) [[ -f $1 ]] || die "$1: no such file"; files+=("$(realpath "$1")") ;;
    esac
    shift
done
[[ -z $keep ]] || ((${#files[@]} == 0)) || die '--keep goes with a corpus, not with FILE'
[[ $seconds =~ ^[0-9]+$ ]] || die "--seconds $seconds: not a number of seconds"

packages_ensure
packages_ensure_listed "$ROOT/scripts/packages-fuzz.txt"

# fuzz_compile SOURCE BUILD OPTION...
fuzz_compile() {
    local source=$1 build=$2
    shift 2
    cmake -S "$source" -B "$build" -G Ninja -D CMAKE_BUILD_TYPE=RelWithDebInfo -D CMAKE_C_COMPILER=clang \
        -D CMAKE_CXX_COMPILER=clang++ -D CMAKE_CXX_COMPILER_LAUNCHER=ccache "$@"
    cmake --build "$build" --parallel "$JOBS"
}
export -f fuzz_compile

# The inputs that the repository keeps: one a line, in hexadecimal, '#' before what one is.
unpack_corpus() {
    local list=$1 folder=$2 line n=0
    [[ -f $list ]] || return 0
    while IFS= read -r line; do
        line=${line%%#*}
        line=${line//[[:space:]]/}
        [[ -n $line ]] || continue
        n=$((n + 1))
        xxd -r -p <<<"$line" >"$folder/kept-$n"
    done <"$list"
}

# pack_corpus FOLDER LIST WHAT
pack_corpus() {
    local folder=$1 list=$2 what=$3 file
    {
        printf '# SPDX-License-Identifier: GPL-2.0\n# %s; ./run fuzz --keep writes this\n' "$what"
        for file in "$folder"/*; do
            xxd -p -c 0 "$file"
        done | LC_ALL=C sort
    } >"$list"
    say "$(show_path "$list"): $(($(wc -l <"$list") - 2)) inputs"
}

# fewest_folder NAME prints an empty folder for what --keep selects.
fewest_folder() {
    rm -rf "$FUZZ/fewest/$1"
    mkdir -p "$FUZZ/fewest/$1"
    printf '%s' "$FUZZ/fewest/$1"
}

# summary LOG: what libFuzzer says at its end, in one line.
summary() {
    awk -F': +' '/^stat::number_of_executed_units/{runs = $2} /^stat::average_exec_per_sec/{rate = $2}
        / cov: | ft: /{cov = $0} /^Executed .* in /{ran++}
        END{sub(/.* cov: /, "", cov); split(cov, f, " ");
            printf "%d executions, %d a second, %d edges, corpus %s\n", runs ? runs : ran, rate, f[1], f[5]}' "$1"
}

# --- the model -----------------------------------------------------------------------------------

keep_model() {
    local program=$1 target=$2 fewest
    fewest=$(fewest_folder "$target")
    "$program" -set_cover_merge=1 -max_len=4096 "$fewest" "$FUZZ/corpus/$target" >"$LOGS/fuzz-$target-keep.log" 2>&1
    mkdir -p "$ROOT/sim/fuzz/corpus"
    pack_corpus "$fewest" "$ROOT/sim/fuzz/corpus/$target.hex" "Inputs of fuzz-$target"
}

fuzz_model() {
    local all=(commands wqes steering frames image crypto) target build=$FUZZ/model each status=0 log corpus
    local arguments
    ((${#targets[@]})) || targets=("${all[@]}")
    kernel_source_ensure "$SIM_BASE"
    # shellcheck disable=SC2016 # the step's shell expands it
    run_step 'fuzz targets' "$LOGS/fuzz-build.log" userspace_progress \
        fuzz_compile "$ROOT/sim" "$build" -D SIM_FUZZ=ON "-DKERNEL_SRC_DIR=$(kernel_source_dir "$SIM_BASE")" || return
    each=$(((seconds + ${#targets[@]} - 1) / ${#targets[@]}))
    for target in "${targets[@]}"; do
        [[ -x $build/fuzz/fuzz-$target ]] || die "no target '$target' (./run fuzz --help)"
        corpus=$FUZZ/corpus/$target
        log=$LOGS/fuzz-$target.log
        mkdir -p "$corpus"
        CONNECTX_FUZZ_SEEDS=$corpus "$build/fuzz/fuzz-$target" >/dev/null
        unpack_corpus "$ROOT/sim/fuzz/corpus/$target.hex" "$corpus"
        arguments=(-artifact_prefix="$FUZZ/crash-$target-" -timeout=30 -rss_limit_mb=1500 -print_final_stats=1)
        if ((${#files[@]})); then
            arguments+=("${files[@]}")
        elif ((each)); then
            arguments+=(-max_total_time="$each" -max_len=4096 -len_control=0 "$corpus")
        else
            arguments+=(-runs=0 "$corpus")
        fi
        if "$build/fuzz/fuzz-$target" "${arguments[@]}" >"$log" 2>&1; then
            say "[$target] $(summary "$log")"
            [[ -z $keep ]] || keep_model "$build/fuzz/fuzz-$target" "$target"
        else
            status=1
            say "[$target] FOUND: $(grep -aE 'ERROR|runtime error|does not hold|Failure|SUMMARY' "$log" | head -n 1)"
            say "[$target] log: $(show_path "$log"); input: $(grep -aoE "crash-$target-[^ ]*" "$log" | tail -n 1)"
        fi
    done
    return "$status"
}

# --- the kernel ----------------------------------------------------------------------------------

# fuzz_guest LOG TIMEOUT ARGUMENT... runs the fuzzer in a guest.
fuzz_guest() {
    local log=$1 timeout=$2
    shift 2
    rm -f "$FUZZ/covered"
    # Much of a program's time is spent waiting for grace periods; -reload: to look through the corpus on the host
    # again after each program takes longer than the program.
    "$ROOT/run" vm --kernel "$kernel" --nic none --cpus 2 --memory 2048 --timeout "$timeout" \
        --append rcupdate.rcu_expedited=1 \
        --env "QUIC_FUZZ_SEEDS=$FUZZ/corpus/kernel" --env "QUIC_FUZZ_LAST=$FUZZ/last-kernel-input" \
        --env "QUIC_FUZZ_COVERED=$FUZZ/covered" --log "$LOGS/fuzz-kernel-guest.log" -- \
        "$FUZZ/kernel/kernel-fuzz" -artifact_prefix="$FUZZ/crash-kernel-" -timeout=120 -rss_limit_mb=0 \
        -print_final_stats=1 -detect_leaks=0 -reload=0 "$@" >"$log" 2>&1
}

# How many of the places that KCOV reports were reached, for each of our new files.
kernel_coverage() {
    local link
    link=$(kernel_link "$kernel")
    [[ -s $link/coverage-sites && -s $FUZZ/covered ]] || return 0
    { grep -v ' __pfx_' "$link/System.map"; sed 's/$/ -/' "$FUZZ/covered"; } | LC_ALL=C sort -k 1,1 -s |
        awk -v sites="$link/coverage-sites" '
            BEGIN {
                while ((getline line < sites) > 0) { split(line, f); file[f[2]] = f[1]; total[f[1]] += f[3] }
            }
            $2 == "-" { if (name in file) reached[file[name]]++; next }
            { name = $3 }
            END { for (each in total) printf "%s: %d of %d places, %d %%\n", each, reached[each], total[each], 100 * reached[each] / total[each] }' |
        LC_ALL=C sort | while IFS= read -r line; do
            say "[kernel $kernel] $line"
        done
}

fuzz_kernel() {
    local corpus=$FUZZ/corpus/kernel log=$LOGS/fuzz-kernel.log status=0 arguments fewest
    run_step 'kernel fuzzer' "$LOGS/fuzz-build.log" userspace_progress \
        fuzz_compile "$ROOT/tests/fuzz" "$FUZZ/kernel" || return
    kernel_ensure "$kernel" || return
    qemu_ensure
    mkdir -p "$corpus"
    unpack_corpus "$ROOT/tests/fuzz/corpus.hex" "$corpus"
    if ((${#files[@]})); then
        arguments=("${files[@]}")
    elif ((seconds)); then
        arguments=(-max_total_time="$seconds" -max_len=1024 -len_control=0 "$corpus")
    else
        arguments=(-runs=0 "$corpus")
    fi
    if [[ -z $keep ]] || ((seconds)); then
        fuzz_guest "$log" $((seconds * 2 + 600)) "${arguments[@]}" || status=$?
        say "[kernel $kernel] $(summary "$log"); $(grep -aE '^(calls|datagrams judged|kernel addresses)' "$log" |
            tr '\n' ';')"
        if ((status)); then
            say "[kernel $kernel] FOUND (status $status): $(grep -aE 'does not hold|ERROR|BUG|WARNING' "$log" | head -n 1)"
            say "[kernel $kernel] input: $(show_path "$FUZZ")/crash-kernel-*, or last-kernel-input after an oops"
            say "[kernel $kernel] logs: $(show_path "$log"), $(show_path "$LOGS")/fuzz-kernel-guest.log"
            return 1
        fi
        kernel_coverage
    fi
    if [[ -n $keep ]]; then
        fewest=$(fewest_folder kernel)
        fuzz_guest "$LOGS/fuzz-kernel-keep.log" 3600 -set_cover_merge=1 -max_len=1024 "$fewest" "$corpus" || return
        pack_corpus "$fewest" "$ROOT/tests/fuzz/corpus.hex" "Programs of the kernel's fuzzer"
    fi
}

mkdir -p "$FUZZ"
"fuzz_$what"
