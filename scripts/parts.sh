# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=bash
#
# All that the verbs are made of. Source this and nothing else; it does nothing but define things.

. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
. "$ROOT/scripts/packages.sh"
. "$ROOT/scripts/apt.sh"
. "$ROOT/scripts/tree.sh"
. "$ROOT/scripts/base.sh"
. "$ROOT/scripts/kernel.sh"
. "$ROOT/scripts/stock-kernel.sh"
. "$ROOT/scripts/userspace.sh"
. "$ROOT/scripts/sim.sh"
. "$ROOT/scripts/qemu.sh"
. "$ROOT/scripts/test-tools.sh"
. "$ROOT/scripts/nginx-build.sh"
