#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# ./run series: makes a mailable patch series out of kernel/overlay, kernel/patches, include/uapi and
# drivers/net/mlx5-quic, the files that the guest kernels are built from; kernel/series says how they are
# cut into patches. Nothing of the kernel is kept twice.

. "$(dirname "$0")/parts.sh"

usage() {
    cat <<'END'
usage: ./run series [--base B] [--output DIR] [--no-checkpatch] [--check [--full]] [--from N]

Writes the series, in the form of `git format-patch`, to DIR (default build/series): a cover letter and
small patches against Linux, for `git am` or `git send-email`. Then runs checkpatch --strict on them.

  --base B      against which: 7.3 or 6.12
  --output DIR  where to; patches of an earlier run there are replaced
  --no-checkpatch
                leave that out
  --check       apply the mails one by one with `git am` to a clean tree, and after each build what the
                series has touched so far, with its options on and off, without a warning
  --full        with --check: also link the whole kernel and its modules after each
  --from N      with --check: build from patch N on only

Environment: KERNEL_SRC= a tarball, a tree or a clean git checkout of another Linux as the base. Of a
checkout, the mails name the commit (base-commit); a tarball has none, so they name its version.
Logs: build/log/series*.log.
END
}

SERIES=$ROOT/kernel/series
# Each checkout cuts and builds for itself.
CHECKOUT=$(printf '%s' "$ROOT" | key_of)
kernel_base_ensure
WORK=$CACHE/work/series-$CHECKOUT-$KERNEL_BASE
AUTHOR_IN_FILES='the udp-quic-offload authors <udp-quic-offload@localhost>'

output=$BUILD/series checkpatch=1 check='' full='' from=1 inner=''
while (($#)); do
    case $1 in
    --help | -h) usage; exit 0 ;;
    --no-checkpatch) checkpatch='' ;;
    --check) check=1 ;;
    --full) full=1 ;;
    --output | --from) need "$@" ;;&
    --output) output=$2; shift ;;
    --from) from=$2; shift ;;
    --inner) inner=$2; shift ;; # called by main below
    *) die "unknown option $1 (./run series --help)" ;;
    esac
    shift
done
[[ $from =~ ^[1-9][0-9]*$ ]] || die "--from $from: not a number of a patch"

# --- who and when ----------------------------------------------------------------------------------

# The series is by whoever the commits of this repository are by, and of their date.
if git -C "$ROOT" rev-parse --quiet --verify HEAD >/dev/null 2>&1; then
    GIT_AUTHOR_NAME=$(git -C "$ROOT" log -1 --format=%an)
    GIT_AUTHOR_EMAIL=$(git -C "$ROOT" log -1 --format=%ae)
    GIT_AUTHOR_DATE=$(git -C "$ROOT" log -1 --format=%aI)
else
    GIT_AUTHOR_NAME=${AUTHOR_IN_FILES% <*}
    GIT_AUTHOR_EMAIL=${AUTHOR_IN_FILES#*<}
    GIT_AUTHOR_EMAIL=${GIT_AUTHOR_EMAIL%>}
    GIT_AUTHOR_DATE='1970-01-01T00:00:00Z'
fi
GIT_COMMITTER_NAME=$GIT_AUTHOR_NAME GIT_COMMITTER_EMAIL=$GIT_AUTHOR_EMAIL GIT_COMMITTER_DATE=$GIT_AUTHOR_DATE
# Nobody's own settings get into the mails.
GIT_CONFIG_GLOBAL=/dev/null GIT_CONFIG_NOSYSTEM=1
export GIT_AUTHOR_NAME GIT_AUTHOR_EMAIL GIT_AUTHOR_DATE GIT_COMMITTER_NAME GIT_COMMITTER_EMAIL GIT_COMMITTER_DATE \
    GIT_CONFIG_GLOBAL GIT_CONFIG_NOSYSTEM

# --- the base --------------------------------------------------------------------------------------

# Prints the folder of the checkout that KERNEL_SRC is, if it is a clean one.
base_checkout() {
    [[ -n ${KERNEL_SRC:-} && -e $KERNEL_SRC/.git ]] &&
        [[ -z $(git -C "$KERNEL_SRC" status --porcelain --untracked-files=no) ]] &&
        git -C "$KERNEL_SRC" rev-parse --absolute-git-dir
}

# Prints what the series is based on, for people.
base_name() {
    printf 'Linux %s' "$(kernel_version "$PRISTINE")"
    [[ -n ${KERNEL_SRC:-} ]] || printf ' as in linux-source-%s %s of Debian' "$(kernel_base)" "$(kernel_source_id)"
}

# Makes the repository BASE_GIT, whose branch base is PRISTINE: the commit of the checkout, else a commit of
# the files that the series touches, which is all that `git am` and `git format-patch` look at.
make_base() {
    local checkout commit tree
    rm -rf "$BASE_GIT"
    git init --quiet --bare "$BASE_GIT"
    if checkout=$(base_checkout); then
        printf '%s\n' "$checkout/objects" >"$BASE_GIT/objects/info/alternates"
        commit=$(git --git-dir="$checkout" rev-parse HEAD)
        # Somebody else has it, too: the mails can name it.
        git --git-dir="$BASE_GIT" update-ref refs/heads/public "$commit"
    else
        export GIT_INDEX_FILE=$WORK/index
        rm -f "$GIT_INDEX_FILE"
        (cd "$STAGE" && find . -type f -printf '%P\n') | while IFS= read -r path; do
            [[ ! -e $PRISTINE/$path ]] || printf '%s\n' "$path"
        done | git --git-dir="$BASE_GIT" --work-tree="$PRISTINE" add --force --pathspec-from-file=-
        tree=$(git --git-dir="$BASE_GIT" write-tree)
        commit=$(printf 'Linux %s: the files that the series touches\n' "$(kernel_version "$PRISTINE")" |
            git --git-dir="$BASE_GIT" commit-tree "$tree")
        unset GIT_INDEX_FILE
    fi
    git --git-dir="$BASE_GIT" update-ref refs/heads/base "$commit"
}

# --- cutting ---------------------------------------------------------------------------------------

# Prints the descriptions of the patches, in order.
steps() {
    find "$SERIES" -maxdepth 1 -name '[0-9][0-9]-*' ! -name '00-*' ! -name '*~' | LC_ALL=C sort
}

# message STEP, directives STEP: the two halves of a description. A line '---' divides them.
message() {
    sed '/^---$/,$d' "$1" | sed '/^#/d'
}

directives() {
    sed '1,/^---$/d' "$1" | grep -vE '^(#|$)' || true
}

# patch_of_paths PATCH [PATH...]: the part of a patch that is about these paths, or with !PATH about all
# others; without paths, all of it.
patch_of_paths() {
    local patch=$1
    shift
    awk -v paths="$*" '
        BEGIN { n = split(paths, list, " "); but = list[1] ~ /^!/
                for (i = 1; i <= n; i++) { sub(/^!/, "", list[i]); want[list[i]] = 1 } }
        /^diff --git / { path = $4; sub(/^b\//, "", path); named = path in want; seen[path] = 1
                         on = !n || named != but }
        on { print }
        END { for (path in want) if (!(path in seen)) { print "no " path " in the patch" >"/dev/stderr"; exit 1 } }' "$patch"
}

# backport_of_paths PATCH [PATH...]: likewise of what a backport has instead, which need not be about all of them.
backport_of_paths() {
    local patch=$1
    [[ -f $patch ]] || return 0
    shift
    awk -v paths="$*" '
        BEGIN { n = split(paths, list, " "); but = list[1] ~ /^!/
                for (i = 1; i <= n; i++) { sub(/^!/, "", list[i]); want[list[i]] = 1 } }
        function wanted(path) { return !n || (path in want) != but }
        /^Instead-of: / { if (wanted($2)) print; next }
        /^diff --git / { path = $4; sub(/^b\//, "", path); on = wanted(path) }
        on { print }' "$patch"
}

# drop_parts REGEX FILE: FILE without the top-level parts (what lies between blank lines outside of braces,
# parentheses and comments: a function, a structure, some declarations, each with its comment) in which a line
# matches.
drop_parts() {
    REGEX=$1 awk '
        function flush(  i) {
            if (!drop) for (i = 1; i <= n; i++) print part[i]
            n = drop = 0
        }
        { bare = $0; gsub(/"([^"\\]|\\.)*"|\x27([^\x27\\]|\\.)\x27/, "", bare)
          was_comment = comment; line = bare
          gsub(/\/\*([^*]|\*+[^*\/])*\*+\//, "", line)
          if (comment) { if (sub(/^.*\*\//, "", line)) comment = 0; else line = "" }
          if (sub(/\/\*.*/, "", line)) comment = 1
          depth += gsub(/[{(]/, "", line) - gsub(/[})]/, "", line)
          if ($0 == "" && !depth && !was_comment) { flush(); print; next }
          part[++n] = $0
          if ($0 ~ ENVIRON["REGEX"]) drop = 1 }
        END { flush() }' "$2"
}

# Reads all descriptions: the N-th directive belongs to patch OF[N], and says WORD[N] ARGUMENTS[N].
load_steps() {
    local number=0 step word arguments
    STEPS=() OF=() WORD=() ARGUMENTS=()
    while IFS= read -r step; do
        number=$((number + 1))
        STEPS+=("$(basename "$step")")
        while read -r word arguments; do
            [[ $word = file || $word = patch || $word = lines || $word = parts ]] ||
                { echo "error: $(basename "$step"): unknown directive '$word'"; return 1; }
            OF+=("$number") WORD+=("$word") ARGUMENTS+=("$arguments")
        done < <(directives "$step")
    done < <(steps)
}

# without AT PATH FILE: FILE, the end state of PATH, without what patches behind number AT take of it.
without() {
    local at=$1 path=$2 file=$3 i parts='' lines=()
    for ((i = 0; i < ${#OF[@]}; i++)); do
        if ((OF[i] > at)) && [[ ${ARGUMENTS[i]%% *} = "$path" ]]; then
            case ${WORD[i]} in
            parts) parts+="${parts:+|}(${ARGUMENTS[i]#* })" ;;
            lines) lines+=(-e "${ARGUMENTS[i]#* }d") ;;
            esac
        fi
    done
    # Parts first: in what is taken whole no lines are looked for.
    if [[ -n $parts ]]; then drop_parts "$parts" "$file"; else cat "$file"; fi |
        if ((${#lines[@]})); then sed -E "${lines[@]}"; else cat; fi |
        if [[ -e $PRISTINE/$path ]]; then
            cat
        else
            # Blank lines that what is gone has left
            cat -s | sed -e :a -e '/^\n*$/{$d;N;ba' -e '}'
        fi
}

# take AT: adds to WHOLE what patch AT brings: our files, and kernel's files that it changes.
take() {
    local at=$1 i path paths=()
    for ((i = 0; i < ${#OF[@]}; i++)); do
        ((OF[i] == at)) || continue
        read -ra paths <<<"${ARGUMENTS[i]}"
        case ${WORD[i]} in
        file)
            for path in "${paths[@]}"; do
                [[ -f $STAGE/$path && ! -e $PRISTINE/$path ]] ||
                    { echo "error: ${STEPS[at - 1]}: $path is no file of ours"; return 1; }
                mkdir -p "$WHOLE/$(dirname "$path")"
                cp -p "$STAGE/$path" "$WHOLE/$path"
            done
            ;;
        patch)
            patch_of_paths "$ROOT/kernel/patches/${paths[0]}" "${paths[@]:1}" >"$WORK/patch" || return 1
            backport_of_paths "$ROOT/kernel/backport/$KERNEL_BASE/${paths[0]}" "${paths[@]:1}" >"$WORK/backport" || return 1
            kernel_patch "$PRISTINE" "$WHOLE" "the series at ${STEPS[at - 1]}" "$WORK/patch" "$WORK/backport" || return 1
            ;;
        esac
    done
}

# assemble AT brings TREE to the state after patch AT, when it has been taken.
assemble() {
    local at=$1 path
    rm -rf "$TREE"
    cp -a "$WHOLE" "$TREE"
    while IFS= read -r path; do
        [[ -f $TREE/$path ]] || continue # comes later, too
        # In place: the file keeps its mode.
        without "$at" "$path" "$WHOLE/$path" >"$WORK/file"
        cat "$WORK/file" >"$TREE/$path"
    done < <(printf '%s\n' "${!ARGUMENTS[@]}" | while IFS= read -r i; do
        [[ ${WORD[i]} != lines && ${WORD[i]} != parts ]] || printf '%s\n' "${ARGUMENTS[i]%% *}"
    done | sort -u)
    [[ ! -f $TREE/MAINTAINERS ]] ||
        sed -i "s/$AUTHOR_IN_FILES/$GIT_AUTHOR_NAME <$GIT_AUTHOR_EMAIL>/" "$TREE/MAINTAINERS"
}

# Each line or part that a patch takes must be there in the end, or its description is out of date.
check_directives() {
    local i path regex bad=0
    for ((i = 0; i < ${#OF[@]}; i++)); do
        path=${ARGUMENTS[i]%% *} regex=${ARGUMENTS[i]#* }
        case ${WORD[i]} in
        parts) ! drop_parts "$regex" "$STAGE/$path" | cmp -s - "$STAGE/$path" || path='' ;;
        lines) [[ -n $(sed -nE "${regex}p" "$STAGE/$path") ]] || path='' ;;
        esac
        if [[ -z $path ]]; then
            echo "error: ${STEPS[OF[i] - 1]}: nothing is there: ${WORD[i]} ${ARGUMENTS[i]}"
            bad=1
        fi
    done
    return "$bad"
}

# The end of the series must be the tree that the guest kernels are built from.
compare_with_stage() {
    local path bad=0
    while IFS= read -r path; do
        if [[ ! -e $TREE/$path ]]; then
            echo "error: no patch of kernel/series takes $path"
            bad=1
        elif [[ $path = MAINTAINERS ]]; then
            cmp -s <(sed "s/$AUTHOR_IN_FILES/$GIT_AUTHOR_NAME <$GIT_AUTHOR_EMAIL>/" "$STAGE/$path") "$TREE/$path" ||
                { echo "error: $path ends otherwise in the series"; bad=1; }
        elif ! diff -u "$STAGE/$path" "$TREE/$path"; then
            echo "error: $path ends otherwise in the series"
            bad=1
        fi
    done < <(cd "$STAGE" && find . -type f -printf '%P\n' | LC_ALL=C sort)
    return "$bad"
}

make_commits() {
    local at parent tree base=()
    load_steps
    check_directives
    rm -rf "$WHOLE"
    mkdir -p "$WHOLE"
    export GIT_DIR=$BASE_GIT GIT_INDEX_FILE=$WORK/index GIT_WORK_TREE=$TREE
    rm -f "$GIT_INDEX_FILE"
    git read-tree base
    parent=$(git rev-parse base)
    for ((at = 1; at <= ${#STEPS[@]}; at++)); do
        echo "step $at ${STEPS[at - 1]}"
        take "$at"
        assemble "$at"
        (cd "$TREE" && find . -type f -printf '%P\n' | git add --force --pathspec-from-file=-)
        tree=$(git write-tree)
        if [[ $tree = "$(git rev-parse "$parent^{tree}")" ]]; then
            echo "error: ${STEPS[at - 1]} changes nothing"
            return 1
        fi
        parent=$({
            message "$SERIES/${STEPS[at - 1]}"
            printf '\nSigned-off-by: %s <%s>\n' "$GIT_AUTHOR_NAME" "$GIT_AUTHOR_EMAIL"
        } | sed '1s/^Subject: //' | git stripspace | git commit-tree -p "$parent" "$tree")
    done
    compare_with_stage
    git update-ref refs/heads/series "$parent"
    git config branch.series.description "$(message "$SERIES/00-cover" | sed '1s/^Subject: //')

Based on $(base_name)."
    unset GIT_INDEX_FILE GIT_WORK_TREE
    ! git rev-parse --quiet --verify public >/dev/null || base=(--base=public)
    mkdir -p "$OUTPUT"
    find "$OUTPUT" -maxdepth 1 -name '[0-9][0-9][0-9][0-9]-*.patch' -delete
    git format-patch --quiet --output-directory "$OUTPUT" --subject-prefix='PATCH net-next' --numbered \
        --cover-letter --cover-from-description=subject --no-signature "${base[@]}" base..series
    unset GIT_DIR
}

check_mails() {
    local mails=()
    mapfile -t mails < <(find "$OUTPUT" -maxdepth 1 -name '[0-9]*.patch' ! -name '0000-*' | LC_ALL=C sort)
    # What netdev takes at once (Documentation/process/maintainer-netdev.rst)
    ((${#mails[@]} <= 15)) || { echo "error: ${#mails[@]} patches; netdev wants 15 at most"; return 1; }
    cd "$PRISTINE"
    printf '%s\n' "${mails[@]}" |
        xargs -P "$JOBS" -n 1 perl scripts/checkpatch.pl --strict --terse --quiet --no-summary --showfile --show-types \
            >"$WORK/checkpatch" || [[ -s $WORK/checkpatch ]] || { echo 'error: checkpatch.pl does not run'; return 1; }
    ! grep -vE "^include/trace/events/[^:]*:[0-9]+: [A-Z]+:(${CHECKPATCH_TRACE_TYPES//,/|}):" "$WORK/checkpatch" || return 1
    echo "${#mails[@]} patches, checkpatch --strict has nothing to say but what it says of every header of tracepoints"
}

# --- building each step ----------------------------------------------------------------------------

# The tree that the mails are applied to, with a git repository of its own that knows BASE_GIT.
check_tree_ensure() {
    local tree=$WORK/tree
    if [[ -d $tree/.git && -f $WORK/pristine && $(<"$WORK/pristine") = "$PRISTINE" ]]; then
        # What the last run applied goes back to what it was.
        git -C "$tree" am --abort >/dev/null 2>&1 || true
        git -C "$tree" checkout --quiet --force --detach origin/base || rm -rf "$tree"
    else
        rm -rf "$tree"
    fi
    if [[ ! -d $tree ]]; then
        rm -rf "$tree.tmp" "$WORK/on" "$WORK/off"
        # Hard links: git replaces files, it does not write into them.
        cp -al "$PRISTINE" "$tree.tmp"
        mv -T "$tree.tmp" "$tree"
        printf '%s\n' "$PRISTINE" >"$WORK/pristine"
    fi
    rm -rf "$tree/.git" "$WORK/clone"
    git clone --quiet --shared --no-checkout --branch base "$BASE_GIT" "$WORK/clone"
    mv -T "$WORK/clone/.git" "$tree/.git"
    git -C "$tree" config gc.auto 0
    git -C "$tree" reset --quiet
    [[ -z $(git -C "$tree" status --porcelain --untracked-files=no) ]] ||
        { echo "error: $tree is not the base"; return 1; }
}

# configure SIDE: the configuration of build folder SIDE (on, off), with the options that the tree has by now.
configure() {
    local side=$1 line name fragments=()
    mapfile -t fragments < <(kernel_fragments release)
    mkdir -p "$WORK/$side"
    if [[ $side = off ]]; then
        sed -nE 's/^(CONFIG_[A-Za-z0-9_]+)=[ym]$/\1=n/p' "$ROOT/kernel/config/offload.config" >"$WORK/off.config"
        fragments+=("$WORK/off.config")
    fi
    kernel_merge_fragments "${fragments[@]}" >"$WORK/$side/fragment"
    kernel_make "$WORK/tree" O="$WORK/$side" -s KCONFIG_ALLCONFIG="$WORK/$side/fragment" allnoconfig
    while IFS= read -r line; do
        name=${line%=*}
        if [[ $side = on ]] &&
            grep -rqsE "^config ${name#CONFIG_}$" --include='Kconfig*' "$WORK/tree/net" "$WORK/tree/drivers/net" &&
            ! grep -qxF "$line" "$WORK/on/.config"; then
            echo "error: $name did not go on"
            return 1
        fi
    done < <(grep -E '^CONFIG_' "$ROOT/kernel/config/offload.config")
    kernel_make "$WORK/tree" O="$WORK/$side" -s prepare
}

build_side() {
    local side=$1 log=$2 objects=()
    configure "$side"
    mapfile -t objects < <(git -C "$WORK/tree" diff --name-only origin/base HEAD -- '*.c' ':!tools' ':!samples' ':!Documentation' |
        kernel_enabled_objects "$WORK/tree" "$WORK/$side/.config")
    ((!${#objects[@]})) || kernel_make "$WORK/tree" O="$WORK/$side" "${objects[@]}"
    [[ -z $FULL ]] || kernel_make "$WORK/tree" O="$WORK/$side" vmlinux modules
    # Headers of the user interface must be whole by themselves, beside those that the system has.
    rm -rf "$WORK/uapi"
    mkdir -p "$WORK/uapi/linux"
    find "$WORK/tree/include/uapi/linux" -name 'udp_crypto*.h' -exec cp -t "$WORK/uapi/linux" {} +
    find "$WORK/uapi/linux" -name '*.h' | while IFS= read -r header; do
        gcc -fsyntax-only -std=c99 -Wall -Werror -I "$WORK/uapi" -x c "$header"
    done
    echo "side $side: ${#objects[@]} objects"
} >"$2" 2>&1

check_builds() {
    local mail number side log
    check_tree_ensure
    while IFS= read -r mail; do
        number=$(basename "$mail")
        number=$((10#${number%%-*}))
        git -C "$WORK/tree" am --quiet "$mail" || { echo "error: git am $(basename "$mail")"; return 1; }
        ((number >= FROM)) || continue
        for side in on off; do
            log=$LOGS/series-$(printf '%02d' "$number")-$side.log
            # A shell of its own, where errexit holds.
            bash -c '. "$0" --inner none; build_side "$@"' "$SELF" "$side" "$log" || {
                tail -n 40 "$log"
                echo "error: patch $number does not build with the options $side; log: $(show_path "$log")"
                return 1
            }
            if grep -a 'warning:' "$log"; then
                echo "error: warnings of patch $number with the options $side; log: $(show_path "$log")"
                return 1
            fi
            echo "built $number $side: $(tail -n 1 "$log")"
        done
    done < <(find "$OUTPUT" -maxdepth 1 -name '[0-9]*.patch' ! -name '0000-*' | LC_ALL=C sort)
    if [[ $(git -C "$WORK/tree" rev-parse 'HEAD^{tree}') != "$(git --git-dir="$BASE_GIT" rev-parse 'series^{tree}')" ]]; then
        echo 'error: what the mails make is not what they were made from'
        return 1
    fi
    echo 'every patch applies and builds, with its options on and off'
}

# --- all -------------------------------------------------------------------------------------------

SELF=$(realpath "$0")
kernel_source_ensure
PRISTINE=$(kernel_source_dir)
BASE_GIT=$WORK/series.git
STAGE=$WORK/stage WHOLE=$WORK/whole TREE=$WORK/step
OUTPUT=${SERIES_OUTPUT:-$(realpath -m "$output")}
FROM=${SERIES_FROM:-$from} FULL=${SERIES_FULL:-$full}
mkdir -p "$WORK"

generate() {
    kernel_stage "$PRISTINE" "$STAGE"
    make_base
    make_commits
}

progress() {
    grep -E '^(step|built) ' "$1" | tail -n 1
}

main() {
    local mails
    run_step 'series' "$LOGS/series.log" progress bash "$SELF" --inner generate || return
    mails=$(find "$OUTPUT" -maxdepth 1 -name '[0-9]*.patch' | wc -l)
    say "[series] $mails mails in $(show_path "$OUTPUT")"
    if [[ -n $checkpatch ]]; then
        run_step 'series checkpatch' "$LOGS/series-checkpatch.log" - bash "$SELF" --inner check_mails ||
            { cat "$LOGS/series-checkpatch.log" >&2; return 1; }
        say "[series checkpatch] $(tail -n 1 "$LOGS/series-checkpatch.log")"
    fi
    [[ -n $check ]] || return 0
    run_step 'series builds' "$LOGS/series-builds.log" progress bash "$SELF" --inner check_builds ||
        { tail -n 45 "$LOGS/series-builds.log" >&2; return 1; }
    say "[series builds] $(tail -n 1 "$LOGS/series-builds.log")"
}

case $inner in
'')
    export SERIES_OUTPUT=$OUTPUT SERIES_FROM=$FROM SERIES_FULL=$FULL
    with_lock "series-$CHECKOUT" main
    ;;
none) ;; # only the functions
generate | check_mails | check_builds) "$inner" ;;
*) die "unknown part $inner" ;;
esac
