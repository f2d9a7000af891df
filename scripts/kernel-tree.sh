#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# kernel/overlay and kernel/patches as commits of a git tree, and back: how they are moved to another Linux.

. "$(dirname "$0")/parts.sh"

usage() {
    cat <<'END_OF_USAGE'
usage: scripts/kernel-tree.sh VERB

  make [BASE]     build/kernel-tree: a git repository whose branch linux-BASE is Linux BASE, a commit "overlay" with
                  our new files, and a commit for each patch, called like its file. Default: the newest base
  move FROM TO    branch linux-TO: the same commits, of linux-FROM, on Linux TO. Conflicts are git's: settle them,
                  git add, git rebase --continue. What was settled once is remembered (git rerere)
  write [BASE]    from branch linux-BASE: for the newest base kernel/overlay, kernel/patches, include/uapi and
                  drivers/net/mlx5-quic; for an older one kernel/backport/BASE, which is what it has otherwise

docs/building.md has the order of things for the next Linux.
END_OF_USAGE
}

TREE=$BUILD/kernel-tree
WORK=$TREE/.git/quic
ACCEL=drivers/net/ethernet/mellanox/mlx5/core/en_accel

tree_git() {
    git -C "$TREE" "$@"
}

# Index and work tree of their own, so that a commit can be made without a checkout.
plumbing() {
    GIT_DIR=$TREE/.git GIT_INDEX_FILE=$WORK/index GIT_WORK_TREE=${FROM:-$WORK/whole} git -c core.sparseCheckout=false "$@"
}

# base_ensure BASE: afterwards base/BASE is the untouched source of BASE.
base_ensure() {
    local base=$1 pristine id tree
    kernel_source_ensure "$base"
    pristine=$(kernel_source_dir "$base")
    id=$(basename "$pristine")
    if [[ ! -d $TREE/.git ]]; then
        git init --quiet "$TREE"
        tree_git config gc.auto 0
        tree_git config core.compression 0
        tree_git config rerere.enabled true
        tree_git config user.name 'kernel tree'
        tree_git config user.email kernel-tree@localhost
        mkdir -p "$WORK"
    fi
    [[ $(tree_git log -1 --format=%s "base/$base" 2>/dev/null) != "$id" ]] || return 0
    say "[kernel tree] adding $id"
    rm -f "$WORK/index"
    (cd "$pristine" && FROM=$pristine plumbing add --force --all .)
    tree=$(plumbing write-tree)
    tree_git update-ref "refs/heads/base/$base" "$(tree_git commit-tree -m "$id" "$tree")"
}

# commit PARENT NAME [HEAD-OF-PATCH]: a commit of all that WORK/whole has; prints it.
commit() {
    (cd "$WORK/whole" && find . -type f -printf '%P\n') | plumbing add --force --pathspec-from-file=-
    { printf '%s\n\n' "$2"; [[ -z ${3:-} ]] || patch_head "$3"; } | plumbing commit-tree -p "$1" "$(plumbing write-tree)"
}

patch_head() {
    [[ ! -f $1 ]] || sed '/^diff --git /,$d' "$1"
}

make_tree() {
    local base=$1 pristine parent patch backport name
    export KERNEL_BASE=$base
    base_ensure "$base"
    pristine=$(kernel_source_dir "$base")
    backport=$ROOT/kernel/backport/$base
    rm -rf "$WORK/whole"
    rm -f "$WORK/index"
    mkdir -p "$WORK/whole"
    plumbing read-tree "base/$base"
    kernel_lay "$WORK/whole"
    tree_patch "$pristine" "$WORK/whole" "Linux $base" "$backport/overlay.patch"
    parent=$(commit "$(tree_git rev-parse "base/$base")" overlay)
    for patch in "$ROOT"/kernel/patches/*.patch; do
        name=$(basename "$patch")
        kernel_patch "$pristine" "$WORK/whole" "Linux $base" "$patch" "$backport/$name"
        parent=$(commit "$parent" "$name" "$patch")
    done
    # Only the folders that we touch are checked out.
    (cd "$WORK/whole" && find . -type f -printf '%h\n') | sed 's,^\./,,' | grep -vx '\.' | sort -u |
        tree_git sparse-checkout set --stdin
    tree_git checkout --quiet --force --detach "$parent"
    tree_git branch --force "linux-$base" "$parent"
    tree_git checkout --quiet "linux-$base"
}

# Prints the commits of linux-BASE behind "overlay" that are patches, oldest first.
commits() {
    tree_git rev-list --reverse "base/$1..linux-$1"
}

# difference OLD NEW [PATH...]: in the form of kernel/patches.
difference() {
    local old=$1 new=$2
    shift 2
    tree_git diff --no-renames --no-color --no-ext-diff "$old" "$new" -- "$@" | sed -E '/^index [0-9a-f]+\.\.[0-9a-f]+/d'
}

# Where in the repository a new file of the tree is kept.
home_of() {
    if [[ $1 = include/uapi/* ]]; then
        printf '%s' "$ROOT/$1"
    elif [[ $1 = "$ACCEL"/* ]]; then
        printf '%s' "$ROOT/drivers/net/mlx5-quic/$(basename "$1")"
    else
        printf '%s' "$ROOT/kernel/overlay/$1"
    fi
}

write_newest() {
    local base=$1 commit name path file
    for commit in $(commits "$base"); do
        name=$(tree_git log -1 --format=%s "$commit")
        if [[ $name = overlay ]]; then
            tree_git diff --name-only "base/$base" "$commit" | while IFS= read -r path; do
                file=$(home_of "$path")
                mkdir -p "$(dirname "$file")"
                tree_git show "$commit:$path" | cmp -s - "$file" || tree_git show "$commit:$path" >"$file"
            done
            continue
        fi
        [[ $name =~ ^[0-9]{4}-.*\.patch$ ]] || die "commit $commit is called '$name', not like a patch"
        file=$ROOT/kernel/patches/$name
        {
            if [[ -f $file ]]; then patch_head "$file"; else tree_git log -1 --format=%b "$commit"; fi
            difference "$commit^" "$commit"
        } >"$WORK/patch"
        mv "$WORK/patch" "$file"
    done
}

# What linux-BASE has otherwise than kernel/overlay and kernel/patches give on it.
write_backport() {
    local base=$1 pristine commit name folder=$ROOT/kernel/backport/$1 given paths=()
    pristine=$(kernel_source_dir "$base")
    mkdir -p "$folder"
    find "$folder" -name '*.patch' -delete
    for commit in $(commits "$base"); do
        name=$(tree_git log -1 --format=%s "$commit")
        rm -rf "$WORK/whole"
        rm -f "$WORK/index"
        mkdir -p "$WORK/whole"
        plumbing read-tree "$commit^"
        : >"$WORK/rejects"
        if [[ $name = overlay ]]; then
            kernel_lay "$WORK/whole"
        else
            # The patch, on the commit before.
            mapfile -t paths < <(sed -nE 's,^--- a/([^[:space:]]+).*,\1,p' "$ROOT/kernel/patches/$name" | sort -u)
            plumbing archive "$commit^" -- "${paths[@]}" | tar -xC "$WORK/whole"
            tree_patch_rejects "$pristine" "$WORK/whole" "$ROOT/kernel/patches/$name" >"$WORK/rejects" 2>"$WORK/log"
        fi
        given=$(commit "$commit^" given)
        [[ -s $WORK/rejects ]] || ! tree_git diff --quiet "$given" "$commit" || continue
        {
            sed 's/^/Instead-of: /' "$WORK/rejects"
            difference "$given" "$commit"
        } >"$folder/${name%.patch}.patch"
    done
    say "[kernel tree] $(show_path "$folder"): $(cat "$folder"/*.patch 2>/dev/null | wc -l) lines"
}

(($#)) || { usage >&2; exit 2; }
verb=$1
shift
case $verb in
--help | -h) usage ;;
make) make_tree "${1:-${KERNEL_BASES[0]}}" >"$LOGS/kernel-tree.log" || { tail "$LOGS/kernel-tree.log" >&2; exit 1; } ;;
move)
    (($# == 2)) || die 'move FROM TO'
    base_ensure "$2"
    tree_git checkout --quiet --force "linux-$1"
    tree_git branch --force "linux-$2" "linux-$1"
    # No comments on what git says.
    exec git -C "$TREE" rebase --onto "base/$2" "base/$1" "linux-$2"
    ;;
write)
    base=${1:-${KERNEL_BASES[0]}}
    if [[ $base = "${KERNEL_BASES[0]}" ]]; then write_newest "$base"; else write_backport "$base"; fi
    ;;
*) die "unknown verb '$verb' (scripts/kernel-tree.sh --help)" ;;
esac
