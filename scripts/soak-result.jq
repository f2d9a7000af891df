# SPDX-License-Identifier: GPL-2.0
#
# Makes of what the program in the guest says ($raw, empty if it said nothing) and of the guest's status the
# result of ./run soak.

def what_status_means:
  if . == 99 then "the guest's kernel reported something"
  elif . == 124 then "the guest was not done in time"
  else "the guest ended with status \(.)" end;

($raw[0] // {seconds: 0, spells: 0, failures: ["no result"], grown: [], quantities: [], traffic: {}, good: false})
# 1 is the program's own: it has said why.
| (if $status != 0 and ($status != 1 or .good) then .failures += [$status | what_status_means] | .good = false else . end)
| . + {command: $command, variant: $variant, nic: $nic, date: $date, commit: $commit, host: $host}
| .verdict = (
    "soak, \(.seconds) s on \($variant), \(.spells) spells, "
    + "\(.traffic["packets taken by sendmsg()"] // 0) packets: "
    + (if .good then "nothing grows, nothing else was wrong"
       else [(if (.grown | length) > 0 then "grows: \(.grown | join(", "))" else empty end),
             (if (.failures | length) > 0 then "\(.failures | length) failures, the first: \(.failures[0])" else empty end)]
            | join("; ") end))
