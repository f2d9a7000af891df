# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=bash
#
# Work trees made of an untouched ("pristine") source tree plus our changes, kept from build to build
# so that only what changed is compiled again. Part of parts.sh.

STEP_SOURCES+=' tree.sh'

# tree_fetch PRISTINE STAGE PATCH brings the files that PATCH changes, and that are not there yet, from PRISTINE.
tree_fetch() {
    local pristine=$1 stage=$2 patch=$3 file
    while IFS= read -r file; do
        if [[ ! -e $stage/$file && -e $pristine/$file ]]; then
            mkdir -p "$stage/$(dirname "$file")"
            cp -p "$pristine/$file" "$stage/$file"
        fi
    done < <(sed -nE 's,^(---|\+\+\+) [ab]/([^[:space:]]+).*,\2,p' "$patch" | sort -u)
}

TREE_PATCH=(patch -p1 --forward --no-backup-if-mismatch)

# tree_patch PRISTINE STAGE WHAT PATCH... applies patches in order to the files in STAGE, fetching
# those that are not there yet from PRISTINE. A patch whose surroundings moved a little still applies (TREE_FUZZ
# lines of a hunk's, 3 unless set); one with a rejected hunk fails, naming itself and WHAT it was meant for.
tree_patch() {
    local pristine=$1 stage=$2 what=$3 patch
    shift 3
    for patch in "$@"; do
        [[ -f $patch ]] || continue # the pattern that matched nothing
        echo "patch $(basename "$patch")"
        tree_fetch "$pristine" "$stage" "$patch"
        "${TREE_PATCH[@]}" --fuzz="${TREE_FUZZ:-3}" -d "$stage" <"$patch" || {
            find "$stage" -name '*.rej' -exec cat {} +
            echo "error: $(basename "$patch") does not apply to $what"
            return 1
        }
    done
}

# tree_patch_rejects PRISTINE STAGE PATCH applies of PATCH what fits, and prints "FILE N" for each file of which it
# had N hunks that did not. A hunk whose surroundings are not the same does not: on another Linux it might end in
# the wrong place.
tree_patch_rejects() {
    local pristine=$1 stage=$2 patch=$3 file
    tree_fetch "$pristine" "$stage" "$patch"
    "${TREE_PATCH[@]}" --fuzz=0 --batch --silent -d "$stage" <"$patch" >&2 || true
    (cd "$stage" && find . -name '*.rej' -printf '%P\n' | LC_ALL=C sort) | while IFS= read -r file; do
        printf '%s %s\n' "${file%.rej}" "$(grep -c '^@@ ' "$stage/$file")"
        rm -f "$stage/$file"
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

