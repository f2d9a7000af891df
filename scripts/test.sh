#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# ./run test: sets up all that the tests need and runs them with CTest.

. "$(dirname "$0")/parts.sh"

usage() {
    cat <<'END'
usage: ./run test [OPTION]...

Builds what is missing or out of date, then runs the tests with CTest, whose summary comes last.

  --all          also the tests that take long (label 'long')
  --only REGEX   only the tests whose name matches REGEX; if there is none, those with a matching label
                 (lint, kernel, guest, host, long, ...)
  --kernel K     only the tests that run in a guest with kernel K (release, debug, vanilla,
                 stock-7.3, ...)
  --base B       with kernels made of Linux B, 7.3 or 6.12
  --resume       only the tests that have not passed yet on what this checkout is made of: after an interruption,
                 or after a change, --all --resume runs what is missing
  --list         tell which tests would run; builds and runs none
  --report       write docs/test-results.md from the results so far; builds and runs none
  --jobs N       run N tests at a time (default: the number of processors)
  --junit FILE   also write the results to FILE
  --repeat N     run each test up to N times until it fails

The tests that take longest start first. Each result is recorded as soon as it is known, in
build/results/tests.json; --report puts them into docs/.

Logs: build/log/test-NAME.log is the kernel log of a test's guest, build/log/failed-NAME.txt what a failed test
printed; build/log/test.log is CTest's.
END
}

only='' kernel='' list='' report='' resume='' junit='' all='' jobs=$JOBS repeat=''
while (($#)); do
    case $1 in
    --*=*) set -- "${1%%=*}" "${1#*=}" "${@:2}" ;;
    esac
    case $1 in
    --help | -h) usage; exit 0 ;;
    --all) all=1 ;;
    --list) list=1 ;;
    --report) report=1 ;;
    --resume) resume=1 ;;
    --only) need "$@"; only=$2; shift ;;
    --kernel) need "$@"; kernel=$2; shift ;;
    --jobs) need "$@"; jobs=$2; shift ;;
    --junit) need "$@"; junit=$(realpath -m "$2"); shift ;;
    --repeat) need "$@"; repeat=$2; shift ;;
    *) die "unknown option $1 (./run test --help)" ;;
    esac
    shift
done

# Prints what CTest knows of the tests that the arguments choose.
described() {
    ctest --test-dir "$BUILD/cmake" --show-only=json-v1 "$@"
}

# Prints the names (or with `labels` the labels) in such a description.
names_in() {
    jq -r --arg what "$2" '.tests[] | if $what == "names" then .name
        else .properties[]? | select(.name == "LABELS").value[] end' "$1" | sort -u
}

# Prints what a test's result is valid for, beside its own program: see scripts/test-results.
input_keys() {
    local variant
    for variant in release debug vanilla; do
        printf '%s %s\n' "$variant" "$(kernel_key "$variant")"
    done
    for variant in "$BUILD"/kernel/stock*; do
        [[ ! -e $variant ]] || printf '%s %s\n' "$(basename "$variant")" "$(basename "$(readlink -f "$variant")")"
    done
    printf 'qemu %s\n' "$(basename "$(readlink -f "$BUILD/qemu")")"
    [[ ! -f $SIM_LIBRARY/libconnectx.so ]] || printf 'model %s\n' "$(sha256sum <"$SIM_LIBRARY/libconnectx.so" | key_of)"
}

packages_ensure
kernel_base_ensure # of all guests that the tests start
if [[ -n $list || -n $report ]]; then
    userspace_configure_ensure
else
    : >"$LOGS/steps.tsv"
    userspace_ensure all
fi

choice=()
if [[ -n $only ]]; then
    if [[ -n $(names_in <(described -R "$only") names) ]]; then
        choice+=(-R "$only")
    else
        choice+=(-L "$only")
    fi
elif [[ -z $all && -z $report ]]; then
    choice+=(-LE '^long$')
fi
[[ -z $kernel ]] || choice+=(-L "^${kernel//./\\.}\$")
tests=$BUILD/cmake/tests.json
described "${choice[@]}" >"$tests"
[[ -n $(names_in "$tests" names) ]] || die "no test matches"

if [[ -n $report ]]; then
    INPUT_KEYS=$(input_keys) "$ROOT/scripts/test-results" page "$tests" >"$BUILD/test-results.md"
    mv "$BUILD/test-results.md" "$ROOT/docs/test-results.md"
    say "[report] docs/test-results.md"
    exit
fi
if [[ -n $resume ]]; then
    INPUT_KEYS=$(input_keys) "$ROOT/scripts/test-results" todo "$tests" >"$BUILD/cmake/todo"
    [[ -s $BUILD/cmake/todo ]] || { say '[test] all of them have passed on what this checkout is made of'; exit 0; }
    choice=(-R "^($(sed 's/[.]/\\./g' "$BUILD/cmake/todo" | paste -sd'|'))\$")
    described "${choice[@]}" >"$tests"
fi
if [[ -n $list ]]; then
    ctest --test-dir "$BUILD/cmake" -N "${choice[@]}"
    exit
fi

labels=$(names_in "$tests" labels)
if grep -qxE 'guest|demo' <<<"$labels"; then
    qemu_ensure
    ! grep -qxF demo <<<"$labels" || kernel_ensure release
fi
if grep -qxF nginx <<<"$labels"; then
    nginx_ensure
    nginx_curl_ensure
fi
# Large, and of no use to other tests.
! grep -qxF browser <<<"$labels" || packages_ensure_listed "$ROOT/scripts/packages-browser.txt"
for variant in release debug vanilla stock "${STOCK_SERIES[@]/#/stock-}"; do
    ! grep -qxF "$variant" <<<"$labels" || kernel_ensure "$variant"
done

start=$SECONDS
status=0
arguments=(--test-dir "$BUILD/cmake" --output-on-failure --no-tests=error -j "$jobs" --output-log "$LOGS/test.log")
[[ -z $junit ]] || arguments+=(--output-junit "$junit")
[[ -z $repeat ]] || arguments+=(--repeat "until-fail:$repeat")
INPUT_KEYS=$(input_keys)
export INPUT_KEYS
"$ROOT/scripts/test-results" costs "$tests"
ctest "${arguments[@]}" "${choice[@]}" | "$ROOT/scripts/test-results" watch "$tests" || status=$?
printf 'tests\t%d\n' $((SECONDS - start)) >>"$LOGS/steps.tsv"
exit "$status"
