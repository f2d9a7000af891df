#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Checks of the text of the repository, run as the tests lint.*.

. "$(dirname "$0")/lib.sh"

usage() {
    cat <<'END'
usage: scripts/lint.sh CHECK...

  shell    shellcheck on every script
  format   clang-format on the C++ sources (.clang-format); the kernel's C has checkpatch instead
  man      mandoc on the manual pages
  tidy     clang-tidy (.clang-tidy) on the C++ that faces a guest, or is installed for root: the device
           model and quic-sadb-ctl. Wants the userspace built
  spdx     every file names its licence; no path of a build machine got in
END
}

# The files of the repository, also where they are not added yet, never what is ignored.
files() {
    git -C "$ROOT" ls-files --cached --others --exclude-standard -- "$@" | sort -u |
        while IFS= read -r file; do [[ ! -f $ROOT/$file ]] || printf '%s\n' "$file"; done
}

lint_shell() {
    local file scripts=()
    while IFS= read -r file; do
        if [[ $file = *.sh ]] || head -n 1 "$ROOT/$file" | grep -aqE '^#!.*[/ ](ba|da)?sh\b'; then
            scripts+=("$file")
        fi
    done < <(files)
    (cd "$ROOT" && shellcheck --external-sources "${scripts[@]}")
    echo "${#scripts[@]} scripts checked"
}

lint_format() {
    local sources=() file places bad=0
    mapfile -t sources < <(files 'examples/*' 'sim/*' 'tests/*' 'tools/*' |
        grep -E '\.(cpp|hpp|cc|hh|h)$' | grep -v '^sim/qemu/overlay/')
    ((${#sources[@]})) || { echo 'no C++ source yet'; return; }
    cd "$ROOT"
    for file in "${sources[@]}"; do
        places=$(clang-format --dry-run --Werror --style=file "$file" 2>&1 | grep -c 'error: code should') || true
        if ((places > 0)); then
            echo "$file: $places places differ from .clang-format (clang-format -i $file)"
            bad=1
        fi
    done
    echo "${#sources[@]} sources checked"
    return "$bad"
}

lint_man() {
    local pages=()
    mapfile -t pages < <(files '*.[1-9]')
    ((${#pages[@]})) || { echo 'no manual page yet'; return; }
    (cd "$ROOT" && mandoc -T lint -W warning "${pages[@]}")
    echo "${#pages[@]} pages checked"
}

lint_tidy() {
    local sources=() database=$BUILD/cmake
    [[ -f $database/compile_commands.json ]] || { echo 'no compile_commands.json: ./run build userspace'; return 1; }
    command -v clang-tidy >/dev/null || { echo 'clang-tidy is missing: ./run build packages'; return 1; }
    mapfile -t sources < <(files 'sim/core/src/*.cc' 'tools/*.cc')
    cd "$ROOT"
    printf '%s\n' "${sources[@]}" |
        xargs -P "$JOBS" -n 1 clang-tidy -p "$database" --quiet --warnings-as-errors='*' 2>/dev/null
    echo "${#sources[@]} sources checked"
}

lint_spdx() {
    local file bad=0 count=0 home
    home=$(printf '%s' '/ro' 'ot/' '|/wo' 'rk/')
    while IFS= read -r file; do
        case $file in
        LICENSES/* | *.patch) continue ;; # a patch has the licence of what it changes
        esac
        count=$((count + 1))
        # What a program has drawn or counted has no place for it: a file beside it says so (REUSE).
        if ! grep -aqFs 'SPDX-License-Identifier' "$ROOT/$file" "$ROOT/$file.license"; then
            echo "$file: no SPDX line"
            bad=1
        fi
        if grep -anE "(^|[^a-zA-Z0-9_./\$}-])($home)[a-z.]" "$ROOT/$file" | grep -aE '/(wt-|main|brief|shared|\.cache)'; then
            echo "$file: names a path of a build machine"
            bad=1
        fi
    done < <(files)
    echo "$count files checked"
    return "$bad"
}

(($#)) || { usage >&2; exit 2; }
for check in "$@"; do
    case $check in
    --help | -h) usage ;;
    shell | format | spdx | man | tidy) "lint_$check" ;;
    *) die "unknown check '$check' (scripts/lint.sh --help)" ;;
    esac
done
