#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# coverage.sh KERNEL-SOURCE BUILD-FOLDER [PERCENT]
# Builds the model with gcov, runs its unit tests, and prints which lines of sim/core they reach, file by
# file. Fails below PERCENT (85).
set -euo pipefail

sim=$(cd "$(dirname "$0")/.." && pwd -P)
kernel=$1 build=$2 wanted=${3:-85}

cmake -S "$sim" -B "$build" -G Ninja -D CMAKE_BUILD_TYPE=Debug -D SIM_COVERAGE=ON -D "KERNEL_SRC_DIR=$kernel" \
    -D CMAKE_CXX_COMPILER_LAUNCHER="$(command -v ccache || true)" >/dev/null
cmake --build "$build" --target sim-tests --parallel 2 | tail -n 1
find "$build" -name '*.gcda' -delete
"$build/tests/sim-tests" --gtest_brief=1 >"$build/sim-tests.log" 2>&1 || { tail -n 30 "$build/sim-tests.log"; exit 1; }
# /usr/bin first: gcovr is Debian's, and so must be its Python.
PATH=/usr/bin:$PATH gcovr --root "$sim/core" --filter "$sim/core/(src|include)/" --fail-under-line "$wanted" "$build"
