# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=bash
#
# Examples, tests, tools and the device model, built by CMake in build/cmake. Part of
# parts.sh.

STEP_SOURCES+=' userspace.sh'

userspace_configure() {
    # Always: CMake does not notice by itself that a part has got its CMakeLists.txt.
    cmake -S "$ROOT" -B "$BUILD/cmake" -G Ninja -D "KERNEL_SRC_DIR=$1"
}

# userspace_compile KERNEL-SOURCE TARGET...
userspace_compile() {
    userspace_configure "$1"
    shift
    cmake --build "$BUILD/cmake" --parallel "$JOBS" --target "$@"
}

userspace_progress() {
    grep -oE '^\[[0-9]+/[0-9]+\]' "$1" | tail -n 1 | tr -d '[]' | sed 's/$/ objects/'
}

userspace_locked() {
    with_lock "userspace-$(printf '%s' "$BUILD" | key_of)" run_step "$@"
}

# userspace_ensure TARGET...: builds these; `all` is a target, too.
userspace_ensure() {
    kernel_source_ensure "$SIM_BASE" || return
    userspace_locked userspace "$LOGS/userspace.log" userspace_progress userspace_compile "$(kernel_source_dir "$SIM_BASE")" "$@"
}

# userspace_configure_ensure: afterwards CTest knows the tests, though nothing may be built.
userspace_configure_ensure() {
    [[ -f $BUILD/cmake/CTestTestfile.cmake ]] ||
        userspace_locked configure "$LOGS/userspace-configure.log" - userspace_configure "$(kernel_source_dir "$SIM_BASE")"
}
