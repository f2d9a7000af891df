#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# sanitized.sh KERNEL-SOURCE BUILD-FOLDER [GTEST-ARGUMENT...]
# The unit tests of the model, itself built with AddressSanitizer and UndefinedBehaviorSanitizer.
set -euo pipefail

sim=$(cd "$(dirname "$0")/.." && pwd -P)
kernel=$1 build=$2
shift 2
cmake -S "$sim" -B "$build" -G Ninja -D CMAKE_BUILD_TYPE=Debug -D CMAKE_CXX_FLAGS_DEBUG=-g1 -D SIM_SANITIZE=ON \
    -D "KERNEL_SRC_DIR=$kernel" -D CMAKE_CXX_COMPILER_LAUNCHER="$(command -v ccache || true)" >/dev/null
cmake --build "$build" --target sim-tests --parallel "${JOBS:-2}" | tail -n 1
"$build/tests/sim-tests" --gtest_brief=1 "$@"
