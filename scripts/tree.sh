# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=bash
#
# Work trees made of an untouched ("pristine") source tree plus our changes, kept from build to build
# so that only what changed is compiled again. Part of parts.sh.

STEP_SOURCES+=' tree.sh'

# tree_patch PRISTINE STAGE WHAT PATCH... applies patches in order to the files in STAGE, fetching
# those that are not there yet from PRISTINE. A patch whose surroundings moved a little still applies;
# one with a rejected hunk fails, naming itself and WHAT it was meant for.
tree_patch() {
    local pristine=$1 stage=$2 what=$3 patch file
    shift 3
    for patch in "$@"; do
        [[ -f $patch ]] || continue # the pattern that matched nothing
        echo "patch $(basename "$patch")"
        while IFS= read -r file; do
            if [[ ! -e $stage/$file && -e $pristine/$file ]]; then
                mkdir -p "$stage/$(dirname "$file")"
                cp -p "$pristine/$file" "$stage/$file"
            fi
        done < <(sed -nE 's,^(---|\+\+\+) [ab]/([^[:space:]]+).*,\2,p' "$patch" | sort -u)
        patch -d "$stage" -p1 --fuzz=3 --forward --no-backup-if-mismatch <"$patch" || {
            find "$stage" -name '*.rej' -exec cat {} +
            echo "error: $(basename "$patch") does not apply to $what"
            return 1
        }
    done
}

# tree_sync PRISTINE WORK brings WORK/tree to "PRISTINE plus WORK/stage" without touching a file whose
# content stays.
tree_sync() {
    local pristine=$1 work=$2 file
    if [[ ! -f $work/pristine || $(<"$work/pristine") != "$pristine" ]]; then
        rm -rf "$work/tree" "$work/staged"
        mkdir -p "$work"
        # Hard links: nothing below writes a source file in place.
        cp -al "$pristine" "$work/tree.tmp"
        mv -T "$work/tree.tmp" "$work/tree"
        printf '%s\n' "$pristine" >"$work/pristine"
    fi
    # What an earlier run changed and this one does not goes back to what it was.
    touch "$work/staged"
    while IFS= read -r file; do
        [[ ! -e $work/stage/$file ]] || continue
        rm -f "$work/tree/$file"
        if [[ -e $pristine/$file ]]; then
            cp "$pristine/$file" "$work/tree/$file"
        fi
    done <"$work/staged"
    (cd "$work/stage" && find . -type f -printf '%P\n' | LC_ALL=C sort) >"$work/staged.new"
    cat "$work/staged.new" >>"$work/staged"
    rsync -rlpc --itemize-changes "$work/stage/" "$work/tree/"
    mv "$work/staged.new" "$work/staged"
}

