# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=bash
#
# Programs that tests need in a newer version than the system's: from a later Debian, unpacked in the cache
# with the libraries they need, never installed. Part of parts.sh.

STEP_SOURCES+=' test-tools.sh'

TEST_TOOLS_SUITE=trixie
# ethtool: JSON for -x; iperf3: what the kernel's selftests make traffic with.
TEST_TOOLS=(ethtool iperf3)
TEST_TOOLS_LIBRARIES=(libc6 libmnl0 libiperf0 libsctp1 libssl3t64 libzstd1 zlib1g)

# For each program a script in $1/bin that starts it with its own loader and libraries.
test_tools_unpack() {
    local result=$1 package name program
    rm -rf "$result.tmp"
    mkdir -p "$result.tmp/bin"
    (apt_download "$TEST_TOOLS_SUITE" "$result.tmp/deb" "${TEST_TOOLS[@]}" "${TEST_TOOLS_LIBRARIES[@]}")
    for package in "$result.tmp"/deb/*.deb; do
        dpkg-deb -x "$package" "$result.tmp"
    done
    rm -rf "$result.tmp/deb"
    for name in "${TEST_TOOLS[@]}"; do
        program=$(cd "$result.tmp" && find usr/bin usr/sbin -name "$name")
        printf '#!/bin/sh\nexec %q --library-path %q %q "$@"\n' "$result/usr/lib64/ld-linux-x86-64.so.2" \
            "$result/usr/lib/x86_64-linux-gnu" "$result/$program" >"$result.tmp/bin/$name"
        chmod 755 "$result.tmp/bin/$name"
    done
    rm -rf "$result"
    mv -T "$result.tmp" "$result"
    "$result/bin/ethtool" --version
    "$result/bin/iperf3" --version
}

test_tools_locked() {
    [[ ! -x $1/bin/ethtool ]] || return 0
    mkdir -p "$CACHE/test-tools"
    apt_fresh "$TEST_TOOLS_SUITE" || return
    run_step 'test tools' "$LOGS/test-tools.log" - test_tools_unpack "$1"
}

# test_tools_ensure: afterwards build/test-tools/bin has the programs.
test_tools_ensure() {
    local result
    result=$CACHE/test-tools/$(printf '%s ' "$TEST_TOOLS_SUITE" "${TEST_TOOLS[@]}" "${TEST_TOOLS_LIBRARIES[@]}" | key_of)
    with_lock test-tools test_tools_locked "$result" || return
    link_result "$result" "$BUILD/test-tools"
}
