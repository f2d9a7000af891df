# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=bash
#
# Shared by every verb of ./run: folders, messages, logged steps with progress, locks, content keys.
# Source it; it does nothing but define things.

set -o errexit -o nounset -o pipefail -o errtrace

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
BUILD=$ROOT/build
LOGS=$BUILD/log
CACHE=${UDP_QUIC_OFFLOAD_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/udp-quic-offload}
# The distribution's own tools first: QEMU's configure and the kernel's scripts must not meet some
# other python3 or compiler that happens to be in front.
PATH=/usr/sbin:/usr/bin:/sbin:/bin:$PATH
JOBS=${JOBS:-$(nproc)}
# Files that a step's own shell sources; every library below scripts/ adds itself.
STEP_SOURCES=lib.sh
export STEP_SOURCES
export ROOT BUILD LOGS CACHE PATH JOBS
export LC_ALL=C.UTF-8
export CCACHE_DIR=$CACHE/ccache CCACHE_MAXSIZE=${CCACHE_MAXSIZE:-10G}
# What one checkout has compiled, another need not (together with -ffile-prefix-map in CMakeLists.txt).
export CCACHE_BASEDIR=$ROOT

mkdir -p "$LOGS" "$CACHE"

# Prints a message for people; stdout stays free for results (JSON, command output).
say() {
    printf '%s\n' "$*" >&2
}

# Set when the reader has been told what failed: an error is told once.
TOLD=

die() {
    say "error: $*"
    TOLD=1
    exit 1
}

# need OPTION [VALUE]...: the arguments of a verb from OPTION on, which wants a value.
need() {
    (($# > 1)) || die "$1 needs a value (./run $(basename -- "$0" .sh) --help)"
}

# No script ends without a word: this tells of failures that nothing else has told of.
trap '[[ -n $TOLD ]] || say "error: $(basename -- "${BASH_SOURCE[0]-$0}"):$LINENO: status $? of: $BASH_COMMAND"; TOLD=1' ERR

# Prints a path relative to the checkout when it lies inside.
show_path() {
    printf '%s' "${1#"$ROOT"/}"
}

duration() {
    local seconds=$1
    if ((seconds >= 60)); then
        printf '%dm%02ds' $((seconds / 60)) $((seconds % 60))
    else
        printf '%ds' "$seconds"
    fi
}

STEP_PID=

# Ends the step that is running, with all its children.
stop_step() {
    if [[ -n $STEP_PID ]]; then
        kill -TERM -- "-$STEP_PID" 2>/dev/null || true
        STEP_PID=
    fi
}

# The last line of a log that says what went wrong, or simply its last line.
error_line() {
    local line
    line=$(grep -aE '(^|[^a-z_])([Ee]rror|ERROR|FAILED|[Ff]atal|E:)[: ]|No space left' "$1" |
        grep -avE '^make(\[[0-9]+\])?: |ninja: build stopped|FAILED: ' | tail -n 1) || true
    [[ -n $line ]] || line=$(tail -n 1 "$1")
    printf '%s' "${line:0:300}"
}

# run_step LABEL LOG PROGRESS COMMAND... runs COMMAND (a program or a shell function) with its output
# in LOG, and shows progress: one line that is rewritten on a terminal, a new line every 20 s elsewhere.
# PROGRESS names a function that gets LOG and prints how far it is, or is '-'.
# Returns COMMAND's status after saying in one line what failed. Lines of the log that begin with "note: " are told.
run_step() {
    local label=$1 log=$2 progress=$3
    shift 3
    local start=$SECONDS status=0 pause=0.05 next_report=20 note last_notes=
    mkdir -p "$(dirname "$log")"
    trap 'stop_step; exit 130' INT
    trap 'stop_step; exit 143' TERM HUP
    set -m # a process group of its own, so that all of the step can be ended
    # A shell of its own too: errexit is off in whatever is called on the left of || and &&, and a
    # step that goes on after a failed command would hand out broken results.
    bash -c 'for file in $STEP_SOURCES; do . "$ROOT/scripts/$file"; done; "$@"' step "$@" \
        >"$log" 2>&1 </dev/null &
    STEP_PID=$!
    set +m
    while kill -0 "$STEP_PID" 2>/dev/null; do
        sleep "$pause"
        ((SECONDS - start < 1)) || pause=0.5
        if [[ -t 2 ]]; then
            ((SECONDS - start < 1)) && continue
        else
            ((SECONDS - start < next_report)) && continue
            next_report=$((next_report + 20))
        fi
        note="[$label] $(duration $((SECONDS - start)))"
        [[ $progress = - ]] || note+=" $("$progress" "$log" 2>/dev/null || true)"
        if [[ -t 2 ]]; then
            [[ $note = "$last_notes" ]] || printf '\r%s\e[K' "${note:0:$(tput cols 2>/dev/null || echo 80)}" >&2
        else
            say "$note"
        fi
        last_notes=$note
    done
    [[ ! -t 2 || -z $last_notes ]] || printf '\r\e[K' >&2
    wait "$STEP_PID" || status=$?
    STEP_PID=
    trap - INT TERM HUP
    if ((status != 0)); then
        say "[$label] failed: $(error_line "$log")"
        say "[$label] log: $(show_path "$log")"
        TOLD=1
        return "$status"
    fi
    grep -a '^note: ' "$log" | sed "s/^/[$label] /" >&2 || true
    say "[$label] done in $(duration $((SECONDS - start)))"
    printf '%s\t%d\n' "$label" $((SECONDS - start)) >>"$LOGS/steps.tsv"
}

# with_lock NAME COMMAND... runs COMMAND while no other run on this machine holds NAME.
with_lock() {
    local name=$1 fd status=0
    shift
    mkdir -p "$CACHE/lock"
    exec {fd}>"$CACHE/lock/$name"
    if ! flock --nonblock "$fd"; then
        say "[$name] another run is working on this; waiting for it"
        flock "$fd"
    fi
    "$@" || status=$?
    exec {fd}>&-
    return "$status"
}

# hash_files FILE... prints one hash over names (relative to the checkout) and contents.
hash_files() {
    (cd "$ROOT" && sha256sum -- "${@#"$ROOT"/}") | sha256sum | cut -c1-64
}

# key_of prints the short content key of what it reads.
key_of() {
    sha256sum | cut -c1-16
}

# prune FOLDER PREFIX KEEP removes all but the KEEP most recently used results.
prune() {
    local folder=$1 prefix=$2 keep=$3 old
    find "$folder" -mindepth 1 -maxdepth 1 -name "$prefix*" ! -name '*.tmp*' -printf '%T@ %p\n' |
        sort -rn | tail -n "+$((keep + 1))" | cut -d' ' -f2- |
        while IFS= read -r old; do rm -rf -- "$old"; done
}

# link_result RESULT LINK points LINK (below build/) at a result in the cache.
link_result() {
    mkdir -p "$(dirname "$2")"
    touch -c "$1"
    [[ $(readlink "$2" 2>/dev/null) = "$1" ]] || ln -sfnT "$1" "$2"
}

# Prints a UDP port of the host that nobody has.
free_udp_port() {
    local port attempt
    for attempt in {1..100}; do
        port=$((20000 + (RANDOM * 32768 + RANDOM + attempt) % 40000))
        if [[ -z $(ss --no-header --udp --listening --numeric "sport = :$port") ]]; then
            printf '%s' "$port"
            return
        fi
    done
    die 'no free UDP port'
}

# await_server PID SERVER-LOG KERNEL-LOG returns when the server that `./run vm` (PID) was told to start
# listens. One that does not come up says why, with the last lines of both logs.
await_server() {
    local pid=$1 server_log=$2 kernel_log=$3 deadline=$((SECONDS + 300)) why=''
    until grep -qs '^listening on' "$server_log"; do
        if ! kill -0 "$pid" 2>/dev/null; then
            why='the server did not start'
        elif ((SECONDS >= deadline)); then
            why='no server after 300 s'
        fi
        if [[ -n $why ]]; then
            tail -n 5 "$server_log" "$kernel_log" >&2 || true
            die "$why; logs: $(show_path "$server_log"), $(show_path "$kernel_log")"
        fi
        sleep 0.1
    done
}
