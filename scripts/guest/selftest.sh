#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Tests ./run vm itself: that what goes in and comes out is what it says, and that it fails when the
# guest's kernel reports an error. usage: selftest.sh release|debug

. "$(dirname "$0")/../lib.sh"

kernel=${1:-release}
out=$(mktemp -d "$BUILD/vm-selftest.XXXXXX")
trap 'rm -rf "$out"' EXIT
failures=0

# vm EXPECTED-STATUS OPTION... -- COMMAND...; output in $out/stdout and $out/stderr.
vm() {
    local expected=$1 status=0
    shift
    "$ROOT/run" vm --kernel "$kernel" --nic none --log "$out/kernel.log" "$@" \
        >"$out/stdout" 2>"$out/stderr" || status=$?
    check "status $expected of: ${*: -1}" test "$status" = "$expected" || cat "$out/stderr"
}

check() {
    local what=$1
    shift
    if "$@"; then
        echo "ok    $what"
    else
        echo "FAIL  $what (wanted: $*)"
        failures=$((failures + 1))
        return 1
    fi
}

# One guest for all that succeeds. The big number of bytes does not fit into any buffer on the way.
cd "$ROOT/scripts"
cat >"$out/script" <<'END'
echo "error text" >&2
printf '%s\n' "$SETTING" "$PWD" "$(id -u)"
sha256sum
head -c 3000000 /dev/zero | tr '\0' x
echo "to stderr by name" >/dev/stderr
echo written >"$1/written"
touch /outside-of-the-build-folder
(sleep 1000) & # holds the output open
kill -TERM $$
END
head -c 1000000 /dev/urandom >"$out/input"
vm 143 --no-kmemleak --env "SETTING=a 'b' \$c" -- bash "$out/script" "$out" <"$out/input"
check 'environment passed' grep -qxF "a 'b' \$c" "$out/stdout"
check 'folder passed' grep -qxF "$ROOT/scripts" "$out/stdout"
check 'root in the guest' grep -qx 0 "$out/stdout"
check 'input passed whole' grep -q "^$(sha256sum <"$out/input" | cut -c1-64) " "$out/stdout"
check 'output passed whole' test "$(tail -n 1 "$out/stdout" | tr -cd x | wc -c)" = 3000000
check 'error output apart' test "$(cat "$out/stderr")" = $'error text\nto stderr by name'
check 'build folder written' test "$(cat "$out/written")" = written
check 'rest of the host untouched' test ! -e /outside-of-the-build-folder

vm 127 --no-kmemleak -- no-such-command </dev/null
vm 99 -- bash -c 'echo c >/proc/sysrq-trigger; sleep 100' </dev/null
check 'panic told' grep -q 'Kernel panic' "$out/stderr"

vm 124 --timeout 10 -- sleep 1000 </dev/null
check 'timeout told' grep -q 'time is up' "$out/stderr"

if [[ $kernel = debug ]]; then
    # The kernel's own test of its detectors.
    vm 99 --no-kmemleak -- bash -c 'echo WARNING >/sys/kernel/debug/provoke-crash/DIRECT' </dev/null
    check 'warning told' grep -q '^guest kernel: .*WARNING: ' "$out/stderr"
    vm 99 --no-kmemleak -- bash -c 'echo SLAB_LINEAR_OVERFLOW >/sys/kernel/debug/provoke-crash/DIRECT' </dev/null
    check 'KASAN report told' grep -q 'BUG: KASAN' "$out/stderr"
    vm 0 -- true </dev/null
    check 'nothing leaked by boot' test ! -s "$out/stderr"
fi

# A runner that is ended takes its guest with it.
"$ROOT/run" vm --kernel "$kernel" --nic none --log "$out/kernel.log" --env "MARK=$out" -- sleep 1000 \
    </dev/null >/dev/null 2>&1 &
runner=$!
until pgrep -f "qemu-system.*$out/kernel.log" >/dev/null; do
    kill -0 "$runner" 2>/dev/null || break
    sleep 0.2
done
kill -TERM "$runner"
wait "$runner" || true
for ((i = 0; i < 50; i++)); do
    pgrep -f "qemu-system.*$out/kernel.log" >/dev/null || break
    sleep 0.2
done
check 'no QEMU left behind' test "$i" -lt 50

echo "$failures failures"
((failures == 0))
