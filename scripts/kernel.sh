# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=bash
#
# Guest kernels. Part of parts.sh; kernel_ensure VARIANT builds what is missing and links it as
# kernel_link VARIANT says. base.sh has which Linux (BASE), and its source.
#
#   release   Linux BASE with kernel/overlay, kernel/patches, include/uapi and drivers/net/mlx5-quic, and
#             with kernel/backport/BASE, if these are for a newer one
#   debug     the same with KASAN, lockdep, kmemleak, UBSAN, ...
#   fuzz      debug with KCOV in what ./run fuzz kernel is after
#   kcsan     release with KCSAN in the same files
#   vanilla   Linux BASE as it comes, same configuration as release
#   stock-N   Debian's own linux-image-N (stock-kernel.sh), whatever BASE is
#
# A finished kernel lives in the cache as kernels/VARIANT-KEY/, KEY being a hash of all that goes in.
# A variant keeps its work tree in the cache, so that a small change costs a small rebuild.

STEP_SOURCES+=' kernel.sh'

KERNEL_KEEP=8
# Raise it with a change to this script that changes what comes out.
KERNEL_BUILD_REVISION=1

# Object files of a full build, for the progress line only.
declare -A KERNEL_OBJECTS=([release]=1900 [debug]=1950 [fuzz]=1950 [kcsan]=1900
    [vanilla]=1900)

# What KCOV instruments in the kernel fuzz, and KCSAN in kcsan: what we add, and the files of the network core that it is
# entangled with. By the name in the folder's Makefile, so others of the same name are instrumented too. The fuzzer
# reaches no mlx5.
KERNEL_OUR_OBJECTS=(sadb table send guard validate software sockopt netlink netlink-gen device stats udp_crypto
    udp udp_offload ip_output ip6_output icmp genetlink skbuff datagram)
KERNEL_MLX5_OBJECTS=(en_accel/quic en_accel/quic_rxtx en_tx)

# What checkpatch --strict says of every header in include/trace/events.
# shellcheck disable=SC2034 # for kernel-check.sh and series.sh
CHECKPATCH_TRACE_TYPES=PARENTHESIS_ALIGNMENT,OPEN_ENDED_LINE,TRAILING_SEMICOLON,COMPLEX_MACRO,CAMELCASE,MACRO_ARG_UNUSED

# Prints the repository's files that go into a patched kernel, one a line.
kernel_inputs() {
    local dir
    for dir in kernel/overlay kernel/patches include/uapi drivers/net/mlx5-quic "kernel/backport/$(kernel_base)"; do
        [[ ! -d $ROOT/$dir ]] || find "$ROOT/$dir" -type f ! -name '*.md' ! -name '*~' ! -name '.*' ! -name '*.config'
    done | LC_ALL=C sort
}

# Prints the configuration fragments of a variant, in the order they are laid over each other: each of
# kernel/config is followed by what kernel/backport/BASE has by its name.
kernel_fragments() {
    local fragment fragments=(base)
    case $1 in
    vanilla) fragments+=(release) ;;
    release) fragments+=(release offload) ;;
    debug | fuzz) fragments+=(offload debug) ;;
    kcsan) fragments+=(offload kcsan) ;;
    esac
    for fragment in "${fragments[@]}"; do
        printf '%s\n' "$ROOT/kernel/config/$fragment.config"
        fragment=$ROOT/kernel/backport/$(kernel_base)/$fragment.config
        [[ ! -f $fragment ]] || printf '%s\n' "$fragment"
    done
}

# Prints the variables that make gets for a variant.
kernel_variables() {
    case $1 in
    fuzz) printf 'KCOV_INSTRUMENT_%s.o=y\n' "${KERNEL_OUR_OBJECTS[@]}" ;;
    kcsan)
        printf 'KCSAN_SANITIZE=n\n'
        printf 'KCSAN_SANITIZE_%s.o=y\n' "${KERNEL_OUR_OBJECTS[@]}" "${KERNEL_MLX5_OBJECTS[@]}"
        ;;
    esac
}

kernel_key() {
    local variant=$1 inputs=() fragments=() id
    id=$(kernel_source_id) || exit 1
    [[ $variant = vanilla ]] || mapfile -t inputs < <(kernel_inputs)
    mapfile -t fragments < <(kernel_fragments "$variant")
    {
        printf '%s\n' "$id"
        gcc --version | head -n 1
        printf 'revision %s\n' "$KERNEL_BUILD_REVISION"
        hash_files "${inputs[@]}" "${fragments[@]}"
        kernel_variables "$variant"
    } | key_of
}

# kernel_lay STAGE: lays our new files into STAGE.
kernel_lay() {
    local stage=$1 accel=drivers/net/ethernet/mellanox/mlx5/core/en_accel
    mkdir -p "$stage/include/uapi/linux" "$stage/$accel"
    rsync -rl --exclude='.*' --exclude='*~' "$ROOT/kernel/overlay/" "$stage/"
    cp "$ROOT"/include/uapi/linux/*.h "$stage/include/uapi/linux/"
    cp "$ROOT"/drivers/net/mlx5-quic/*.[ch] "$stage/$accel/"
}

# kernel_patch PRISTINE STAGE WHAT PATCH [BACKPORT] applies a patch of kernel/patches. BACKPORT, if there is such a
# file, has for an older base what is to be there instead of some of its hunks: lines "Instead-of: FILE N" in its
# head say of which file N hunks do not apply.
kernel_patch() {
    local pristine=$1 stage=$2 what=$3 patch=$4 backport=${5:-} wanted=''
    if [[ ! -s $backport ]]; then
        tree_patch "$pristine" "$stage" "$what" "$patch"
        return
    fi
    tree_patch_rejects "$pristine" "$stage" "$patch" >"$stage.rejects"
    wanted=$(sed -n 's/^Instead-of: //p' "$backport" | LC_ALL=C sort)
    if [[ $(<"$stage.rejects") != "$wanted" ]]; then
        printf 'hunks that do not apply:\n%s\n' "$(<"$stage.rejects")"
        echo "error: $(basename "$patch") does not apply to $what as $(basename "$backport") of the backport says"
        return 1
    fi
    tree_patch "$pristine" "$stage" "$what, backport" "$backport"
}

# Makes in $2 the changed and added files of a patched kernel, from the pristine tree $1.
kernel_stage() {
    local pristine=$1 stage=$2 backport what patch TREE_FUZZ=3
    # On a Linux that nobody has tried, a hunk that fits with some violence may end in the wrong place.
    # shellcheck disable=SC2034 # tree_patch reads it
    [[ " ${KERNEL_BASES[*]} " = *" $(kernel_base) "* ]] || TREE_FUZZ=0
    what="Linux $(kernel_version "$pristine")"
    backport=$ROOT/kernel/backport/$(kernel_base)
    rm -rf "$stage"
    mkdir -p "$stage"
    kernel_lay "$stage"
    tree_patch "$pristine" "$stage" "$what" "$backport/overlay.patch"
    for patch in "$ROOT"/kernel/patches/*.patch; do
        kernel_patch "$pristine" "$stage" "$what" "$patch" "$backport/$(basename "$patch")" || {
            [[ $(kernel_base) = "$KERNEL_LTS" ]] ||
                echo "error: $(basename "$patch") does not apply to $what; --base $KERNEL_LTS goes on with Linux $KERNEL_LTS"
            return 1
        }
    done
}

kernel_version() {
    awk '/^(VERSION|PATCHLEVEL|SUBLEVEL) = /{v = v (v == "" ? "" : ".") $3} END{print v}' "$1/Makefile"
}

# Later fragments win over earlier ones.
kernel_merge_fragments() {
    awk '/^CONFIG_[A-Z0-9a-z_]+=/{split($0, a, "="); if (!(a[1] in value)) order[n++] = a[1]; value[a[1]] = $0}
         END{for (i = 0; i < n; i++) print value[order[i]]}' "$@"
}

# Fails, naming them, when options did not end as the fragments ask.
kernel_check_config() {
    local wanted=$1 config=$2 line name bad=0
    while IFS= read -r line; do
        name=${line%%=*}
        if [[ $line = *=n ]]; then
            grep -q "^$name=" "$config" || continue
        else
            grep -qxF "$line" "$config" && continue
        fi
        echo "error: asked for $line, got: $(grep -E "^(# )?${name}[= ]" "$config" || echo 'no such option, or its dependencies are off')"
        bad=1
    done <"$wanted"
    return "$bad"
}

# kernel_make TREE ARGUMENT... runs make the way every kernel here is built: in the tree, so that
# paths are relative and ccache hits between trees, and with nothing of this run in the result. ccache
# takes the dependencies from the compiler (CCACHE_DEPEND): running the preprocessor first, as it does
# else, would make a cold build half as long again.
kernel_make() {
    local tree=$1
    shift
    env -u MAKEFLAGS -u CFLAGS -u LDFLAGS KBUILD_BUILD_TIMESTAMP='1970-01-01' KBUILD_BUILD_USER=udp-quic-offload \
        KBUILD_BUILD_HOST=guest KBUILD_BUILD_VERSION=1 \
        CCACHE_DEPEND=1 make -C "$tree" -j"$JOBS" ARCH=x86_64 CC='ccache gcc' HOSTCC='ccache gcc' "$@"
}

# --- which sources a configuration compiles: for checks of single objects ---------------------------

# kernel_makefile_lines MAKEFILE CONFIG prints the lines of a Makefile, continued ones whole, without what
# "ifneq ($(CONFIG_X),)" leaves out.
kernel_makefile_lines() {
    sed -e ':a' -e '/\\$/{N; s/\\\n/ /; ta' -e '}' "$1" | tr -s '\t' ' ' | awk -v config="$2" '
        BEGIN { while ((getline line < config) > 0) if (line ~ /^CONFIG_[A-Za-z0-9_]+=[ym]/) on[substr(line, 1, index(line, "=") - 1)] = 1 }
        /^ifneq \(\$\(CONFIG_[A-Za-z0-9_]+\),\)/ { match($0, /CONFIG_[A-Za-z0-9_]+/); skip[++depth] = !(substr($0, RSTART, RLENGTH) in on); next }
        /^if/ { depth++; next }
        /^endif/ { delete skip[depth--]; next }
        { for (i = 1; i <= depth; i++) if (skip[i]) next; print }'
}

# kernel_makefile_enables MAKEFILE CONFIG NAME: some line of MAKEFILE names NAME under an option that is on,
# or under none. 1: only under options that are off; 2: no line names it.
kernel_makefile_enables() {
    local line named=2
    [[ -f $1 ]] || return 2
    # Lines that end in a backslash go on in the next.
    while read -r line; do
        [[ " $line " = *" $3 "* ]] || continue
        [[ $line =~ \$\((CONFIG_[A-Za-z0-9_]+)\) ]] || return 0
        ! grep -qE "^${BASH_REMATCH[1]}=[ym]" "$2" || return 0
        named=1
    done < <(kernel_makefile_lines "$1" "$2")
    return "$named"
}

# kernel_enabled TREE CONFIG FOLDER BASE: is FOLDER/BASE.c compiled? By the Makefile of the folder, unless
# the parent's leaves the folder out; or by the parent's, as in mlx5.
kernel_enabled() {
    local tree=$1 config=$2 folder=$3 base=$4 parent name makefile status=0
    parent=$(dirname "$folder")
    name=$(basename "$folder")
    kernel_makefile_enables "$tree/$parent/Makefile" "$config" "$name/" || status=$?
    ((status != 1)) || return 1
    for makefile in "$folder/Kbuild" "$folder/Makefile"; do
        ! kernel_makefile_enables "$tree/$makefile" "$config" "$base.o" || return 0
    done
    kernel_makefile_enables "$tree/$parent/Makefile" "$config" "$name/$base.o"
}

# kernel_enabled_objects TREE CONFIG reads names of sources, one a line, and prints those that are there
# and that CONFIG compiles, as .o targets. A source that its Makefile leaves out would be compiled by an
# explicit target all the same.
kernel_enabled_objects() {
    local tree=$1 config=$2 source folder base
    while IFS= read -r source; do
        folder=$(dirname "$source")
        base=$(basename "$source" .c)
        [[ -f $tree/$source ]] || continue
        if kernel_enabled "$tree" "$config" "$folder" "$base"; then
            printf '%s\n' "$folder/$base.o"
        fi
    done
}

# kernel_coverage_sites PRISTINE STAGE TREE prints, for each function that KCOV instruments in a file that is new: the
# file, the function and how many places of it report.
kernel_coverage_sites() {
    local source
    (cd "$2" && find drivers net -name '*.c' | LC_ALL=C sort) | while IFS= read -r source; do
        [[ ! -f $1/$source && -f $3/${source%.c}.o ]] || continue
        objdump -dr --no-show-raw-insn "$3/${source%.c}.o" | awk -v file="$source" '
            /^[0-9a-f]+ <.*>:$/ { name = substr($2, 2, length($2) - 3) }
            /__sanitizer_cov_trace_pc/ && /R_X86_64/ { count[name]++ }
            END { for (name in count) print file, name, count[name] }'
    done
}

kernel_progress() {
    printf '%s/~%s objects' "$(grep -cE '^  (CC|AS)( \[M\])? ' "$1")" "$KERNEL_PROGRESS_TOTAL"
}

# kernel_configure WORK FRAGMENT...
kernel_configure() {
    local work=$1 stamp
    shift
    kernel_merge_fragments "$@" >"$work/fragment"
    stamp=$(cat "$work/pristine" "$work/fragment" <(cd "$work/tree" && grep -E '(^|/)Kconfig[^/]*$' "$work/staged" | xargs -r cat) | key_of)
    if [[ ! -f $work/tree/.config || ! -f $work/configured || $(<"$work/configured") != "$stamp" ]]; then
        rm -f "$work/configured"
        kernel_make "$work/tree" KCONFIG_ALLCONFIG="$work/fragment" allnoconfig
        kernel_check_config "$work/fragment" "$work/tree/.config"
        printf '%s\n' "$stamp" >"$work/configured"
    fi
}

kernel_compile() {
    local variant=$1 result=$2 pristine=$3 fragments=() variables=()
    local work tree tmp=$result.tmp
    work=$CACHE/work/kernel-$variant-$(kernel_base)
    tree=$work/tree
    mkdir -p "$work"
    if [[ $variant = vanilla ]]; then
        rm -rf "$work/stage"
        mkdir -p "$work/stage"
    else
        kernel_stage "$pristine" "$work/stage"
    fi
    tree_sync "$pristine" "$work"
    mapfile -t fragments < <(kernel_fragments "$variant")
    kernel_configure "$work" "${fragments[@]}"
    mapfile -t variables < <(kernel_variables "$variant")
    kernel_make "$tree" "${variables[@]}" bzImage modules
    rm -rf "$tmp"
    mkdir -p "$tmp"
    kernel_make "$tree" -s INSTALL_HDR_PATH="$tmp" headers_install
    cp "$tree/arch/x86/boot/bzImage" "$tree/System.map" "$tmp/"
    cp "$tree/.config" "$tmp/config"
    cp "$tree/include/config/kernel.release" "$tmp/release"
    [[ $variant != fuzz ]] || kernel_coverage_sites "$pristine" "$work/stage" "$tree" >"$tmp/coverage-sites"
    if [[ -s $tree/modules.order ]]; then
        kernel_make "$tree" -s INSTALL_MOD_PATH="$tmp" modules_install
    fi
    rm -rf "$result"
    mv -T "$tmp" "$result"
}

# What is wanted is found out with the lock held: waiting for it may take long, and sources change.
kernel_build_locked() {
    local variant=$1 pristine result
    result=$CACHE/kernels/$variant-$(kernel_key "$variant")
    [[ ! -f $result/bzImage ]] || return 0 # another run made it meanwhile
    mkdir -p "$CACHE/kernels"
    kernel_source_ensure || return
    pristine=$(kernel_source_dir)
    KERNEL_PROGRESS_TOTAL=${KERNEL_OBJECTS[$variant]} \
        run_step "kernel $variant $(kernel_base)" "$LOGS/kernel-$variant-$(kernel_base).log" kernel_progress \
        kernel_compile "$variant" "$result" "$pristine" || return
    prune "$CACHE/kernels" "$variant-" "$KERNEL_KEEP"
    prune "$CACHE/sources" "linux-$(kernel_base)" 2
}

# Prints where kernel_ensure links a kernel.
kernel_link() {
    case $1 in
    stock) printf '%s/kernel/stock-%s' "$BUILD" "$KERNEL_LTS" ;;
    stock-*) printf '%s/kernel/%s' "$BUILD" "$1" ;;
    *) printf '%s/kernel/%s-%s' "$BUILD" "$1" "$(kernel_base)" ;;
    esac
}

# kernel_ensure VARIANT: afterwards kernel_link VARIANT has the kernel of the present sources.
kernel_ensure() {
    local variant=$1 result
    case $variant in
    release | debug | fuzz | kcsan | vanilla) ;;
    stock)
        stock_kernel_ensure "$KERNEL_LTS"
        return
        ;;
    stock-*)
        stock_kernel_ensure "${variant#stock-}"
        return
        ;;
    *) die "unknown kernel '$variant' (release, debug, fuzz, kcsan, vanilla, ${STOCK_SERIES[*]/#/stock-})" ;;
    esac
    kernel_base_ensure || return
    result=$CACHE/kernels/$variant-$(kernel_key "$variant") || exit 1
    if [[ ! -f $result/bzImage ]]; then
        with_lock "kernel-$variant-$(kernel_base)" kernel_build_locked "$variant" || return
        result=$CACHE/kernels/$variant-$(kernel_key "$variant")
    fi
    link_result "$result" "$(kernel_link "$variant")"
}
