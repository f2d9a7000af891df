# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=bash
#
# Installs the Debian packages of scripts/packages.txt, or of another list, that are missing. Part of
# parts.sh.

STEP_SOURCES+=' packages.sh'

# Prints the packages of a list that are missing, one a line. "a|b" is met by either; a is installed.
packages_missing() {
    local list=$1 line name installed
    installed=$(dpkg-query -W -f='${db:Status-Abbrev} ${Package}\n' | awk '$1 == "ii"{print $2}')
    while IFS= read -r line; do
        line=${line%%#*}
        line=${line//[[:space:]]/}
        [[ -n $line ]] || continue
        for name in ${line//|/ }; do
            ! grep -qxF "$name" <<<"$installed" || continue 2
        done
        printf '%s\n' "${line%%|*}"
    done <"$list"
}

packages_install() {
    local as_root=()
    ((EUID == 0)) || as_root=(sudo)
    export DEBIAN_FRONTEND=noninteractive
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=300 update
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=300 \
        install --yes --no-install-recommends "$@"
}

packages_progress() {
    printf '%s packages unpacked' "$(grep -c '^Unpacking ' "$1")"
}

# packages_ensure_listed LIST: afterwards the packages of LIST are there.
packages_ensure_listed() {
    local missing=()
    mapfile -t missing < <(packages_missing "$1")
    ((${#missing[@]})) || return 0
    say "[packages] installing: ${missing[*]}"
    if ((EUID != 0)); then
        command -v sudo >/dev/null || die "not root and no sudo: apt-get install ${missing[*]}"
        sudo -v || die "sudo refused: apt-get install ${missing[*]}"
    fi
    run_step packages "$LOGS/packages.log" packages_progress packages_install "${missing[@]}"
}

# packages_ensure: those that every build and test needs.
packages_ensure() {
    packages_ensure_listed "$ROOT/scripts/packages.txt"
}
