#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# finds.sh SIM-DPDK lose|corrupt|swap|duplicate
# Damages every 1000th of 20,010 frames in front of the wire: all 20 have to be counted, and nothing else.
set -euo pipefail

program=$1 what=$2
declare -A counter=([lose]=lost [corrupt]=corrupted [swap]=reordered [duplicate]=duplicated)
status=0
result=$("$program" --packets 20010 --spoil "$what:1000" --json) || status=$?
echo "$result"
((status == 1)) || { echo "exit status $status instead of 1"; exit 1; }
jq -e --arg what "${counter[$what]}" '
    ({lost: 0, corrupted: 0, reordered: 0, duplicated: 0, foreign: 0}
     | .[$what] = 20
     # What arrives damaged is missing too.
     | if $what == "corrupted" then .lost = 20 else . end) as $expected
    | with_entries(select(.key | in($expected))) == $expected' <<<"$result"
