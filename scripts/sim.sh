# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=bash
#
# The ConnectX model's library, which QEMU loads. Part of parts.sh;
# sim_ensure builds it as build/cmake/sim/core/libconnectx.so.

STEP_SOURCES+=' sim.sh'

SIM_LIBRARY=$BUILD/cmake/sim/core
# Whose headers the model's layouts come from: the same whatever Linux the guest's kernel is, so that --base
# builds nothing else anew.
SIM_BASE=$KERNEL_LTS

sim_compile() {
    cmake -S "$ROOT" -B "$BUILD/cmake" -G Ninja -D "KERNEL_SRC_DIR=$1"
    cmake --build "$BUILD/cmake" --parallel "$JOBS" --target connectx_shared
}

# The step's output only matters when there was something to do.
sim_up_to_date() {
    [[ -f $SIM_LIBRARY/libconnectx.so && -f $BUILD/cmake/build.ninja ]] &&
        ninja -C "$BUILD/cmake" -n connectx_shared 2>/dev/null | grep -q 'no work to do'
}

sim_ensure_locked() {
    kernel_source_ensure "$SIM_BASE" || return
    sim_up_to_date ||
        run_step 'device model' "$LOGS/sim.log" userspace_progress sim_compile "$(kernel_source_dir "$SIM_BASE")"
}

sim_ensure() {
    # Without the lock: guests that start at the same time need not wait for each other.
    ! sim_up_to_date || return 0
    with_lock "userspace-$(printf '%s' "$BUILD" | key_of)" sim_ensure_locked
}
