# SPDX-License-Identifier: GPL-2.0
#
# The result of ./run soak (build/soak/NAME.json) in Markdown.

def figure: if . == null then "-" else tostring end;
def amount($unit):
  if $unit == "bytes" then "\(. / 1024 | floor) KB" else tostring end;
def rule_of: . as $q
  | if .rule == "zero" then "always 0"
    elif .rule == "same" then "always the same"
    else "+\($q.slack | amount($q.unit))" end;
def row: . as $q
  | "| \(.name) | \(.first | amount($q.unit)) | \(.last | amount($q.unit)) | \(.most | amount($q.unit)) | \(rule_of) | \(if .holds then "" else "**grows**" end) |";

[.quantities[] | select((.notable | not) and .holds)] as $rest
| "<!-- SPDX-License-Identifier: GPL-2.0 -->",
  "# Soak",
  "",
  "**\(.verdict)**",
  "",
  "| | |",
  "|---|---|",
  "| command | `\(.command)` |",
  "| date, commit | \(.date), \(.commit) |",
  "| kernel | \(.variant), Linux \(.kernel | figure) |",
  "| machine | \(.host); the guest has 2 processors and 2 GB |",
  "| devices | veth, netdevsim\(if .nic == "connectx" then ", two ConnectX models on one wire" else "" end) |",
  "| duration | \(.seconds) s, \(.spells) spells, seed \(.seed | figure) |",
  "",
  "Every fifth spell is rough (links go down, rings and channels change); in every other a listener is on each device;",
  "after every third namespaces end with SAs in them. What grows is judged as [hardening.md](hardening.md#the-soak) says.",
  "",
  "## Traffic",
  "",
  "| | |",
  "|---|---|",
  (.traffic | to_entries[] | "| \(.key) | \(.value) |"),
  "",
  "## Stock",
  "",
  "First and last: medians of the first and the last third of the spells, the first \(.warm_up | figure) left out.",
  "",
  "| | first | last | most | allowed | |",
  "|---|---|---|---|---|---|",
  (.quantities[] | select(.notable or (.holds | not)) | row),
  "",
  "\($rest | length) other slab caches stay within what is allowed; the one that comes nearest: "
  + ($rest | max_by((.last - .first) / ([.slack, 1] | max))
     | if . == null then "none" else "\(.name), \(.first) to \(.last) objects, +\(.slack) allowed" end)
  + ".",
  (if (.failures | length) > 0 then "", "## Failures", "", (.failures[] | "* \(gsub("[|<>]"; " "))") else empty end)
