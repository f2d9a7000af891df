# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=bash
#
# Examples, tests, tools and the device model, built by CMake in build/cmake. Part of
# parts.sh.

STEP_SOURCES+=' userspace.sh'

userspace_compile() {
    # Always: CMake does not notice by itself that a part has got its CMakeLists.txt.
    cmake -S "$ROOT" -B "$BUILD/cmake" -G Ninja -D "KERNEL_SRC_DIR=$1"
    cmake --build "$BUILD/cmake" --parallel "$JOBS"
}

userspace_progress() {
    grep -oE '^\[[0-9]+/[0-9]+\]' "$1" | tail -n 1 | tr -d '[]' | sed 's/$/ objects/'
}

userspace_ensure() {
    kernel_source_ensure || return
    with_lock "userspace-$(printf '%s' "$BUILD" | key_of)" \
        run_step userspace "$LOGS/userspace.log" userspace_progress userspace_compile "$(kernel_source_dir)"
}
