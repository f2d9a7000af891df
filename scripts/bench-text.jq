# SPDX-License-Identifier: GPL-2.0
#
# The figures of ./run bench for people.

def pad($n): tostring | if length < $n then . + (" " * ($n - length)) else . end;
def lpad($n): tostring | if length < $n then (" " * ($n - length)) + . else . end;
def places($n): . * pow(10; $n) | round / pow(10; $n);

(if (.sender | length) > 0 then "instructions per packet of 1200 bytes, by packets per send (+- half the spread)"
 else empty end),
(.sender | to_entries[] | .key as $way | .value | to_entries[] | .key as $family
 | "  " + ($way | pad(34)) + ($family | pad(6)) +
   ([.value | to_entries[] | ("\(.key):" | lpad(5)) + (.value.instructions_per_packet | places(1) | lpad(9)) +
     " +-" + ((.value.max - .value.min) / 2 / .value.instructions_per_send * 100 | places(2) | tostring) + "%"]
    | join(" "))),

(if .server then "", "instructions of the server's process: M for 32 MiB, M a MiB, k a request of 4 KiB (with and without its part of a handshake)",
  (.server | to_entries[] | "  " + (.key | pad(16)) + (.value.large | places(0) | lpad(8)) + (.value.per_mib | places(2) | lpad(8)) +
   (if .value.small then (.value.small * 1000 | places(0) | lpad(8)) + (.value.request * 1000 | places(0) | lpad(8)) else "" end)) else empty end),

(if .scale.sas then "", "instructions per send of one packet, by SAs: " +
  ([.scale.sas | to_entries[] | "\(.key): \(.value.instructions_per_send | places(1))"] | join(", ")) else empty end),
(if .scale.sockets then "                                     by sockets: " +
  ([.scale.sockets | to_entries[] | "\(.key): \(.value.instructions_per_send | places(1))"] | join(", ")) else empty end),
(if .scale.rates then "instructions to add and delete an SA: socket option " +
  "\(.scale.rates.sockopt.instructions_per_add | places(0)) and \(.scale.rates.sockopt.instructions_per_delete | places(0)), netlink " +
  "\(.scale.rates.netlink.instructions_per_add | places(0)) and \(.scale.rates.netlink.instructions_per_delete | places(0))" else empty end),
(if .scale.full_database then "database 16 times too small: \(.scale.full_database.instructions_per_send | places(1)) a send, " +
  "\(.scale.full_database.share_index * 100 | places(1)) % by index, \(.scale.full_database.share_inline * 100 | places(1)) % inline" else empty end),
(if .model then "", "model, one processor", (.model | to_entries[] | .key as $way | .value | to_entries[]
  | "  " + ($way | pad(26)) + (.key | lpad(5)) + " bytes: " + (.value.packets_per_second / 1e6 | places(3) | lpad(8)) +
    " M packets/s " + (.value.bits_per_second / 1e9 | places(2) | lpad(8)) + " Gbit/s" +
    (if .value.share then " " + (.value.share * 100 | places(1) | tostring) + " % of IPsec-MB" else "" end)) else empty end),
(if .model_cores.ratio then "model, two hosts on two processors: \(.model_cores.ratio | places(2)) times one" +
  (if .model_cores.ratio_library then "; IPsec-MB alone: \(.model_cores.ratio_library | places(2))" else "" end) else empty end),
(if .threads then "two threads: \(.threads.ratio | places(2)) times one on one socket and SA, \(.threads.ratio_apart | places(2)) on two; " +
  "\(.threads.ratio_machine | places(2)) in user space without the kernel" else empty end),
(if .dpdk then "model onto a DPDK port: \(.dpdk.packets) packets, \(.dpdk.lost) lost, \(.dpdk.reordered) reordered, " +
  "\(.dpdk.duplicated) duplicated, \(.dpdk.corrupted) corrupted, \(.dpdk.packets_per_second / 1e6 | places(3)) M packets/s" else empty end),
(if .forwarding.rates then "", "forwarding in a guest, \(.forwarding.window) frames under way; k packets/s, and per second of QEMU's processor time",
  (.forwarding.rates | to_entries[] | .key as $size | .value | to_entries[]
   | "  " + (.key | pad(10)) + ($size | lpad(5)) + " bytes: " + (.value.packets_per_second / 1e3 | places(2) | lpad(8)) +
     " (" + (.value.min / 1e3 | places(1) | tostring) + " to " + (.value.max / 1e3 | places(1) | tostring) + ") " +
     (.value.bits_per_second / 1e9 | places(3) | lpad(7)) + " Gbit/s " +
     (.value.packets_per_processor_second / 1e3 | places(2) | lpad(8)) +
     (if .value.ratio_e1000e then "  \(.value.ratio_e1000e | places(2)) of e1000e, \(.value.ratio_virtio | places(2)) of virtio" else "" end)),
  "  \(.forwarding.lost) lost, \(.forwarding.reordered) reordered, \(.forwarding.duplicated) duplicated, \(.forwarding.corrupted) corrupted"
 else empty end),
(if .forwarding.instructions then "instructions of the guest per packet forwarded, by packets that come at once",
  (.forwarding.instructions | to_entries[] | .key as $size | .value | to_entries[]
   | "  " + (.key | pad(10)) + ($size | lpad(5)) + " bytes: " +
     ([.value | to_entries[] | "\(.key):" + (.value.instructions_per_packet | round | lpad(6)) +
       " (\(.value.min | round) to \(.value.max | round))"] | join("  "))) else empty end),

"", "targets",
(.targets[] | "  " + (if .met then "met    " else "MISSED " end) + (.name | pad(44)) + (.value | places(3) | lpad(9)) +
  (if .relation == "at_most" then "  at most " else "  at least " end) + (.limit | tostring))
