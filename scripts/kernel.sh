# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=bash
#
# Guest kernels. Part of parts.sh; kernel_ensure VARIANT builds what is missing and links it as
# build/kernel/VARIANT.
#
#   release   Linux 6.12 with kernel/overlay, kernel/patches, include/uapi and drivers/net/mlx5-quic
#   debug     the same with KASAN, lockdep, kmemleak, UBSAN, ...
#   fuzz      debug with KCOV in what ./run fuzz kernel is after
#   kcsan     release with KCSAN in the same files
#   vanilla   Linux 6.12 as it comes, same configuration as release
#   stock     Debian's own linux-image-6.12; stock-6.1 likewise
#
# A finished kernel lives in the cache as kernels/VARIANT-KEY/, KEY being a hash of all that goes in.
# A variant keeps its work tree in the cache, so that a small change costs a small rebuild.

STEP_SOURCES+=' kernel.sh'

KERNEL_PACKAGE=linux-source-6.12
KERNEL_TARBALL=/usr/src/linux-source-6.12.tar.xz
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

# Prints what identifies the kernel source.
kernel_source_id() {
    local src=${KERNEL_SRC:-}
    if [[ -z $src ]]; then
        dpkg-query -W -f='${Version}' "$KERNEL_PACKAGE" 2>/dev/null ||
            die "package $KERNEL_PACKAGE is missing: ./run build packages, or set KERNEL_SRC"
    elif [[ -d $src ]]; then
        # A tree may be edited: size and time of every file tell.
        [[ -f $src/Kbuild && -f $src/MAINTAINERS ]] || die "KERNEL_SRC=$src is no kernel tree"
        printf 'tree-%s' "$(cd "$src" && find . -path ./.git -prune -o -type f -printf '%P %s %T@\n' | sort | key_of)"
    elif [[ -f $src ]]; then
        printf 'tar-%s' "$(stat -Lc '%n %s %Y' "$src" | key_of)"
    else
        die "KERNEL_SRC=$src does not exist"
    fi
}

# Prints the repository's files that go into a patched kernel, one a line.
kernel_inputs() {
    local dir
    for dir in kernel/overlay kernel/patches include/uapi drivers/net/mlx5-quic; do
        [[ ! -d $ROOT/$dir ]] || find "$ROOT/$dir" -type f ! -name '*.md' ! -name '*~' ! -name '.*'
    done | LC_ALL=C sort
}

# Prints the configuration fragments of a variant, in the order they are laid over each other.
kernel_fragments() {
    printf '%s\n' "$ROOT/kernel/config/base.config"
    [[ $1 != release && $1 != vanilla ]] || printf '%s\n' "$ROOT/kernel/config/release.config"
    [[ $1 = vanilla ]] || printf '%s\n' "$ROOT/kernel/config/offload.config"
    [[ $1 != debug && $1 != fuzz ]] || printf '%s\n' "$ROOT/kernel/config/debug.config"
    [[ $1 != kcsan ]] || printf '%s\n' "$ROOT/kernel/config/kcsan.config"
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

# Unpacks the source once per version; prints nothing.
kernel_unpack() {
    local pristine=$1 src=${KERNEL_SRC:-$KERNEL_TARBALL}
    local tmp=$pristine.tmp
    rm -rf "$tmp"
    mkdir -p "$tmp"
    if [[ -d $src ]]; then
        rsync -a --exclude=/.git --exclude='*.o' --exclude='*.ko' --exclude='.*.cmd' --exclude='*.a' \
            --exclude=/.config --exclude=/include/config --exclude=/include/generated \
            --exclude='/arch/*/include/generated' "$src/" "$tmp/"
    else
        [[ -f $src ]] || { echo "error: $src is missing"; return 1; }
        tar -xf "$src" -C "$tmp" --strip-components=1 --no-same-owner
    fi
    [[ $(sed -n 's/^VERSION = //p' "$tmp/Makefile").$(sed -n 's/^PATCHLEVEL = //p' "$tmp/Makefile") = 6.12 ]] ||
        { echo "error: $src is not a Linux 6.12"; return 1; }
    mv -T "$tmp" "$pristine"
}

# Makes in $2 the changed and added files of a patched kernel, from the pristine tree $1.
kernel_stage() {
    local pristine=$1 stage=$2 accel
    rm -rf "$stage"
    mkdir -p "$stage"
    if [[ -d $ROOT/kernel/overlay ]]; then
        rsync -rl --exclude='.*' --exclude='*~' "$ROOT/kernel/overlay/" "$stage/"
    fi
    if compgen -G "$ROOT/include/uapi/linux/*.h" >/dev/null; then
        mkdir -p "$stage/include/uapi/linux"
        cp "$ROOT"/include/uapi/linux/*.h "$stage/include/uapi/linux/"
    fi
    accel=drivers/net/ethernet/mellanox/mlx5/core/en_accel
    if compgen -G "$ROOT/drivers/net/mlx5-quic/*.[ch]" >/dev/null; then
        mkdir -p "$stage/$accel"
        cp "$ROOT"/drivers/net/mlx5-quic/*.[ch] "$stage/$accel/"
    fi
    tree_patch "$pristine" "$stage" "Linux $(kernel_version "$pristine")" "$ROOT"/kernel/patches/*.patch
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
    work=$CACHE/work/kernel-$variant
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
        run_step "kernel $variant" "$LOGS/kernel-$variant.log" kernel_progress \
        kernel_compile "$variant" "$result" "$pristine" || return
    prune "$CACHE/kernels" "$variant-" "$KERNEL_KEEP"
    prune "$CACHE/sources" linux- 2
}

# Prints where the unchanged source is unpacked.
kernel_source_dir() {
    printf '%s/sources/linux-%s' "$CACHE" "$(kernel_source_id)"
}

kernel_unpack_if_missing() {
    [[ -d $1 ]] || run_step 'kernel source' "$LOGS/kernel-source.log" - kernel_unpack "$1"
}

# kernel_source_ensure: afterwards kernel_source_dir is there.
kernel_source_ensure() {
    local dir
    dir=$(kernel_source_dir) || return
    [[ ! -d $dir ]] || return 0
    mkdir -p "$CACHE/sources"
    with_lock kernel-source kernel_unpack_if_missing "$dir"
}

# kernel_ensure VARIANT: afterwards build/kernel/VARIANT/bzImage is the kernel of the present sources.
kernel_ensure() {
    local variant=$1 result
    case $variant in
    release | debug | fuzz | kcsan | vanilla) ;;
    stock | stock-6.1)
        stock_kernel_ensure "$variant"
        return
        ;;
    *) die "unknown kernel '$variant' (release, debug, fuzz, kcsan, vanilla, stock, stock-6.1)" ;;
    esac
    result=$CACHE/kernels/$variant-$(kernel_key "$variant") || exit 1
    if [[ ! -f $result/bzImage ]]; then
        with_lock "kernel-$variant" kernel_build_locked "$variant" || return
        result=$CACHE/kernels/$variant-$(kernel_key "$variant")
    fi
    link_result "$result" "$BUILD/kernel/$variant"
}
