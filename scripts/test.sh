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
  --kernel K     only the tests that run in a guest with kernel K (release, debug, vanilla, stock)
  --list         tell which tests would run, and run none
  --jobs N       run N tests at a time (default: the number of processors)
  --junit FILE   also write the results to FILE
  --repeat N     run each test up to N times until it fails

Logs: build/log/test-NAME.log is the kernel log of a test's guest; build/log/test.log is CTest's.
END
}

only='' kernel='' list='' junit='' all='' jobs=$JOBS repeat=''
while (($#)); do
    case $1 in
    --*=*) set -- "${1%%=*}" "${1#*=}" "${@:2}" ;;
    esac
    case $1 in
    --help | -h) usage; exit 0 ;;
    --all) all=1 ;;
    --list) list=1 ;;
    --only) need "$@"; only=$2; shift ;;
    --kernel) need "$@"; kernel=$2; shift ;;
    --jobs) need "$@"; jobs=$2; shift ;;
    --junit) need "$@"; junit=$(realpath -m "$2"); shift ;;
    --repeat) need "$@"; repeat=$2; shift ;;
    *) die "unknown option $1 (./run test --help)" ;;
    esac
    shift
done

: >"$LOGS/steps.tsv"
packages_ensure
userspace_ensure

# Prints the names (or with a second argument the labels) of the tests that the arguments of CTest choose.
chosen() {
    local what=$1
    shift
    ctest --test-dir "$BUILD/cmake" --show-only=json-v1 "$@" | /usr/bin/python3 -c '
import json, sys
for test in json.load(sys.stdin)["tests"]:
    labels = [p["value"] for p in test.get("properties", []) if p["name"] == "LABELS"]
    print(test["name"] if sys.argv[1] == "names" else "\n".join(labels[0] if labels else []))
' "$what"
}

choice=()
if [[ -n $only ]]; then
    if [[ -n $(chosen names -R "$only") ]]; then
        choice+=(-R "$only")
    else
        choice+=(-L "$only")
    fi
elif [[ -z $all ]]; then
    choice+=(-LE '^long$')
fi
[[ -z $kernel ]] || choice+=(-L "^${kernel//./\\.}\$")
[[ -n $(chosen names "${choice[@]}") ]] || die "no test matches"

if [[ -n $list ]]; then
    ctest --test-dir "$BUILD/cmake" -N "${choice[@]}"
    exit
fi

labels=$(chosen labels "${choice[@]}")
if grep -qxE 'guest|demo' <<<"$labels"; then
    qemu_ensure
    ! grep -qxF demo <<<"$labels" || kernel_ensure release
fi
! grep -qxF nginx <<<"$labels" || nginx_ensure
# Large, and of no use to other tests.
! grep -qxF browser <<<"$labels" || packages_ensure_listed "$ROOT/scripts/packages-browser.txt"
for variant in release debug vanilla stock stock-6.1; do
    ! grep -qxF "$variant" <<<"$labels" || kernel_ensure "$variant"
done

start=$SECONDS
status=0
arguments=(--test-dir "$BUILD/cmake" --output-on-failure --no-tests=error -j "$jobs" --output-log "$LOGS/test.log")
[[ -z $junit ]] || arguments+=(--output-junit "$junit")
[[ -z $repeat ]] || arguments+=(--repeat "until-fail:$repeat")
ctest "${arguments[@]}" "${choice[@]}" || status=$?
printf 'tests\t%d\n' $((SECONDS - start)) >>"$LOGS/steps.tsv"
exit "$status"
