#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# What a kernel reviewer would run on our changes: checkpatch --strict, W=1 and sparse on what they
# touch, and the configurations that the tests do not boot. The tests kernel.checks, kernel.configurations and
# kernel.template.

. "$(dirname "$0")/parts.sh"

usage() {
    cat <<'END'
usage: scripts/kernel-check.sh [CHECK]...

  checkpatch  checkpatch.pl --strict on kernel/patches, kernel/overlay, include/uapi and the driver
  warnings    objects of the files we add or change, with W=1 and sparse: no warning that Linux
              itself does not have
  off         the same objects build with every option of kernel/config/offload.config off
  template    docs/driver-template builds as a module, with W=1 and sparse, and takes only what is exported
  modular     the same objects build with IPV6=m, and what the module then needs is exported
  bare        net/udp_crypto builds without PROC_FS, and without SYSCTL

Without CHECK: all of them. Logs: build/log/kernel-check-*.log.
END
}

kernel_base_ensure
WORK=$CACHE/work/kernel-check-$KERNEL_BASE

# The .c files, relative to the tree, that our changes add or touch.
touched_sources() {
    find "$WORK/stage" -name '*.c' -printf '%P\n' | grep -vE '^(tools|Documentation|samples)/' | LC_ALL=C sort
}

# prepare VARIANT [FRAGMENT]: VARIANT is patched or vanilla; FRAGMENT is laid over the usual ones.
prepare() {
    local variant=$1 fragments=() line
    shift
    rm -rf "$WORK/stage"
    mkdir -p "$WORK/stage"
    [[ $variant = vanilla ]] || kernel_stage "$PRISTINE" "$WORK/stage"
    tree_sync "$PRISTINE" "$WORK"
    mapfile -t fragments < <(kernel_fragments "$([[ $variant = vanilla ]] && echo vanilla || echo release)")
    kernel_merge_fragments "${fragments[@]}" "$@" >"$WORK/fragment"
    rm -f "$WORK/configured"
    kernel_make "$WORK/tree" -s KCONFIG_ALLCONFIG="$WORK/fragment" allnoconfig
    # An option that a variant turns off takes with it what depends on it: only the unvaried are checked.
    (($#)) || kernel_check_config "$WORK/fragment" "$WORK/tree/.config"
    kernel_make "$WORK/tree" -s prepare
}

# Those of the given sources that the present configuration compiles, as .o targets.
enabled_objects() {
    kernel_enabled_objects "$WORK/tree" "$WORK/tree/.config"
}

warnings_of() {
    grep -aE '(warning|error):' "$1" | sed -E 's/:[0-9]+(:[0-9]+)?:/:/' | LC_ALL=C sort
}

check_checkpatch() {
    local tree=$PRISTINE file bad=0 count=0 type own
    # FILE_PATH_CHANGES: the maintainers' file is not ours. COMMIT_MESSAGE and MISSING_SIGN_OFF: a patch
    # here is part of this repository's history, not a mail. EMAIL_SUBJECT and COMMIT_LOG_LONG_LINE likewise.
    local ignore=FILE_PATH_CHANGES,COMMIT_MESSAGE,MISSING_SIGN_OFF,EMAIL_SUBJECT,NO_AUTHOR_SIGN_OFF,COMMIT_LOG_LONG_LINE
    while IFS= read -r file; do
        case $file in
        *.patch) type=--patch ;;
        *.c | *.h | */Kconfig | */Makefile) type=--file ;;
        *) continue ;;
        esac
        count=$((count + 1))
        own=$ignore
        # What TRACE_EVENT() and its tables look like in every header of include/trace/events.
        [[ $file != */include/trace/events/*.h ]] ||
            own+=,$CHECKPATCH_TRACE_TYPES
        # Run in the tree, so that it knows the tree's own rules and spelling list.
        (cd "$tree" && perl scripts/checkpatch.pl --strict --terse --quiet --no-summary \
            --ignore "$own" "$type" "$file") || bad=1
    done < <(kernel_inputs; echo "$ROOT/docs/driver-template/quicnic.c")
    echo "$count files checked"
    return "$bad"
}

# Compiles what our changes touch in Linux as it comes, with the checks on: its own warnings are no news.
check_warnings() {
    local base objects=()
    kernel_stage "$PRISTINE" "$WORK/stage"
    touched_sources >"$WORK/touched"
    base=$WORK/warnings-$({ cat "$WORK/touched"; echo "$PRISTINE"; hash_files "$ROOT/kernel/config/base.config"; } | key_of)
    if [[ ! -f $base ]]; then
        prepare vanilla
        mapfile -t objects < <(enabled_objects <"$WORK/touched")
        if ((${#objects[@]})); then
            kernel_make "$WORK/tree" W=1 C=2 "${objects[@]}" >"$WORK/base.log" 2>&1 ||
                { cat "$WORK/base.log"; echo 'error: Linux itself does not build'; return 1; }
        else
            : >"$WORK/base.log"
        fi
        warnings_of "$WORK/base.log" >"$base.tmp"
        mv "$base.tmp" "$base"
    fi
    prepare patched
    mapfile -t objects < <(enabled_objects <"$WORK/touched")
    ((${#objects[@]})) || { echo 'no kernel source yet'; return 0; }
    if ((${#objects[@]} < $(wc -l <"$WORK/touched"))); then
        comm -13 <(printf '%s\n' "${objects[@]%.o}" | LC_ALL=C sort) <(sed 's/\.c$//' "$WORK/touched" | LC_ALL=C sort)
        echo 'error: the sources above are not part of the release kernel, so nothing tests them'
        return 1
    fi
    printf 'compiling with W=1 and sparse: %s\n' "${objects[*]}"
    # Also when up to date: a warning that is not printed again is not gone.
    (cd "$WORK/tree" && rm -f "${objects[@]}")
    kernel_make "$WORK/tree" W=1 C=2 "${objects[@]}" >"$WORK/ours.log" 2>&1 || {
        cat "$WORK/ours.log"
        return 1
    }
    if ! LC_ALL=C comm -13 <(uniq "$base") <(warnings_of "$WORK/ours.log" | uniq) | tee "$WORK/new" | grep -q .; then
        echo "${#objects[@]} objects, no new warning"
        return 0
    fi
    echo 'error: new warnings:'
    cut -d: -f1 "$WORK/new" | sort -u | while IFS= read -r file; do
        grep -aE "^$file:.*(warning|error):" "$WORK/ours.log" || true
    done
    return 1
}

check_off() {
    local objects=()
    # Of options that can be y or m, and of numbers, only the switches are turned.
    sed -nE 's/^(CONFIG_[A-Za-z0-9_]+)=[ym]$/\1=n/p' "$ROOT/kernel/config/offload.config" >"$WORK/off.config"
    prepare patched "$WORK/off.config"
    mapfile -t objects < <(touched_sources | enabled_objects)
    ((${#objects[@]})) || { echo 'no kernel source yet'; return 0; }
    kernel_make "$WORK/tree" "${objects[@]}"
    no_warning
}

# What a namespace shows and lets be set is optional.
check_bare() {
    local option objects=()
    for option in PROC_FS SYSCTL; do
        # SYSCTL is there for whoever has PROC_SYSCTL; only experts may leave either out.
        { echo CONFIG_EXPERT=y; printf 'CONFIG_%s=n\n' PROC_SYSCTL "$option"; } >"$WORK/bare.config"
        prepare patched "$WORK/bare.config"
        ! grep -qx "CONFIG_$option=y" "$WORK/tree/.config" || { echo "error: $option did not go"; return 1; }
        grep -qx CONFIG_UDP_CRYPTO=y "$WORK/tree/.config" || { echo "error: $option takes UDP_CRYPTO along"; return 1; }
        mapfile -t objects < <(touched_sources | grep '^net/udp_crypto/' | enabled_objects)
        ((${#objects[@]})) || { echo 'no kernel source yet'; return 0; }
        kernel_make "$WORK/tree" W=1 "${objects[@]}"
    done
    no_warning
}

check_modular() {
    local objects=() symbol bad=0 needed exported
    echo CONFIG_IPV6=m >"$WORK/modular.config"
    prepare patched "$WORK/modular.config"
    grep -qx CONFIG_IPV6=m "$WORK/tree/.config" || { echo 'error: IPV6 did not become a module'; return 1; }
    mapfile -t objects < <(touched_sources | enabled_objects)
    ((${#objects[@]})) || { echo 'no kernel source yet'; return 0; }
    kernel_make "$WORK/tree" "${objects[@]}"
    no_warning || return 1
    # What the module's objects take from the built-in ones must be exported there.
    needed=$(cd "$WORK/tree" && comm -12 \
        <(printf '%s\n' "${objects[@]}" | grep '^net/ipv6/' | xargs -r nm -u | awk '$1 == "U"{print $2}' | sort -u) \
        <(printf '%s\n' "${objects[@]}" | grep -v '^net/ipv6/' | xargs -r nm | awk '$2 ~ /^[TDRB]$/{print $3}' | sort -u))
    exported=$(cd "$WORK/tree" && nm "${objects[@]}" | sed -nE 's/.* __(export_symbol|ksymtab)_//p')
    for symbol in $needed; do
        if ! grep -qxF "$symbol" <<<"$exported"; then
            echo "error: $symbol is used by IPv6 as a module and not exported"
            bad=1
        fi
    done
    ((bad)) || echo "IPv6 as a module takes ${needed//$'\n'/ }: all exported"
    return "$bad"
}

check_template() {
    local symbol bad=0 folder=$WORK/template
    prepare patched
    kernel_make "$WORK/tree" -s modules_prepare
    rm -rf "$folder"
    mkdir -p "$folder"
    cp "$ROOT"/docs/driver-template/{Makefile,*.c} "$folder/"
    # The symbols of a kernel that is not built are looked for in its sources instead.
    kernel_make "$WORK/tree" M="$folder" W=1 C=2 KBUILD_MODPOST_WARN=1 KBUILD_MODPOST_NOFINAL=1 modules >"$folder/log" 2>&1 ||
        { cat "$folder/log"; return 1; }
    if grep -E '(warning|error):' "$folder/log"; then
        return 1
    fi
    for symbol in $(nm -u "$folder/quicnic.o" | awk '$2 ~ /^udp_crypto_/{print $2}'); do
        grep -rqE "^EXPORT_SYMBOL(_GPL)?\($symbol\)" "$WORK/tree/net/udp_crypto" ||
            { echo "error: $symbol is not exported"; bad=1; }
    done
    ((bad)) || echo "quicnic.o: $(nm -u "$folder/quicnic.o" | wc -l) symbols of the kernel, no warning"
    return "$bad"
}

# The log is also where this writes to, which grep refuses to read.
no_warning() {
    local warnings
    warnings=$(grep -acE 'warning:' <"$STEP_LOG") || true
    if [[ $warnings != 0 ]]; then
        echo "error: ${warnings:-unknown number of} warnings"
        return 1
    fi
    echo 'no warning'
}

checks=() inner=''
while (($#)); do
    case $1 in
    --help | -h) usage; exit 0 ;;
    --inner) inner=1 ;; # called by run_checks below
    checkpatch | warnings | off | modular | bare | template) checks+=("$1") ;;
    *) die "unknown check '$1' (scripts/kernel-check.sh --help)" ;;
    esac
    shift
done
((${#checks[@]})) || checks=(checkpatch warnings off modular bare template)

kernel_source_ensure
PRISTINE=$(kernel_source_dir)
mkdir -p "$WORK"

run_checks() {
    local check log failed=0
    for check in "${checks[@]}"; do
        log=$LOGS/kernel-check-$check.log
        # A shell of its own, where errexit holds.
        if STEP_LOG=$log bash "$0" --inner "$check" >"$log" 2>&1; then
            say "[kernel $check] $(tail -n 1 "$log")"
        else
            say "[kernel $check] failed; log: $(show_path "$log")"
            tail -n 40 "$log" >&2
            failed=1
        fi
    done
    TOLD=1
    return "$failed"
}
if [[ -n $inner ]]; then
    "check_${checks[0]}"
else
    with_lock kernel-check run_checks
fi
