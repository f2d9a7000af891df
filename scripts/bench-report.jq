# SPDX-License-Identifier: GPL-2.0
#
# Makes of the raw results of ./run bench the object that docs/benchmarks.md describes.

def target($name; $value; $relation; $limit):
  if $value == null then empty
  else {
    name: $name, value: $value, relation: $relation, limit: $limit,
    met: (if $relation == "at_most" then $value <= $limit else $value >= $limit end)
  } end;

# One way against another, per IP version and packets per send.
def ratios($sender; $name; $way; $base; $limits):
  ($sender[$way] // {}) | to_entries[] | .key as $family | .value | keys_unsorted[] as $packets
  | ($limits[$packets] // $limits.any) as $limit
  | select($limit != null and $sender[$base][$family][$packets] != null)
  | target("\($name).\($family).\($packets)";
           $sender[$way][$family][$packets].instructions_per_send /
           $sender[$base][$family][$packets].instructions_per_send;
           "at_most"; $limit);

# The best of the NIC's ways counts: whoever runs a server chooses it.
def server_targets($server):
  if $server.user == null or $server.nic == null then empty
  else
    ([$server.nic, $server.nic_zerocopy | values] | min_by(.large)) as $best
    | target("server.large"; $best.large; "at_most"; 108),
      target("server.large.share_of_user"; $best.large / $server.user.large; "at_most"; 0.30),
      target("server.large.zerocopy_of_copying"; $server.nic_zerocopy | values | .large / $server.nic.large; "at_most"; 1.0),
      target("server.requests.share_of_user"; $server.nic.request | values | . / $server.user.request; "at_most"; 0.75)
  end;

def flatness($costs): [$costs[]?.instructions_per_send] | if length < 2 then null else max / min end;

# Google Benchmark's medians: {"model_aes_128_gcm": {"1200": {...}}}
def medians:
  [.benchmarks[]? | select(.aggregate_name == "median")
   | {path: (.run_name | split("/")),
      value: {packets_per_second: .packets, bits_per_second: .bits}}]
  | reduce .[] as $run ({}; setpath($run.path[0:2]; $run.value));

# One host and two, each in a thread of its own: "cores/BYTES/real_time/threads:N"; likewise the library alone,
# which tells what the machine gives. More than twice one: the machine had other work during the one and not the other.
def cores:
  [.benchmarks[]? | select(.aggregate_name == "median" and (.run_name | test("^(library_)?cores/")))] as $runs
  | def rate($name; $threads): first($runs[]
      | select((.run_name | startswith("\($name)/")) and (.run_name | endswith("threads:\($threads)"))) | .packets) // null;
    def ratio($name): if rate($name; 1) == null or rate($name; 2) == null then null
      else rate($name; 2) / rate($name; 1) | if . > 2.05 then null else . end end;
    if rate("cores"; 1) == null or rate("cores"; 2) == null then null
    else {packets_per_second_one: rate("cores"; 1), packets_per_second_two: rate("cores"; 2),
      ratio: ratio("cores"), ratio_library: ratio("library_cores")} end;

def model($all):
  reduce ($all | to_entries[] | select(.key | startswith("model_"))) as $way ({};
    ($way.key | ltrimstr("model_")) as $name
    | ($name | ltrimstr("single_")) as $cipher
    | .[$name] = ($way.value | with_entries(.key as $size
        | $all["library_\($cipher)"][$size].bits_per_second as $library
        | .value += (if $library == null then {} else
            {library_bits_per_second: $library, share: (.value.bits_per_second / $library)} end))));

. as $raw
| ($raw.sender.result.ways // {}) as $sender
| (if $raw.model then $raw.model.result | medians | model(.) else null end) as $model
| {
    schema: 1,
    commands: ($raw | map_values(.command)),
    sender: $sender,
    server: $raw.server.result,
    scale: {
      sas: $raw["scale-sas"].result,
      sockets: $raw["scale-sockets"].result,
      memory: $raw["scale-memory"].result,
      rates: $raw["scale-rates"].result,
      full_database: $raw["scale-full"].result
    },
    threads: $raw.threads.result,
    model: $model,
    model_cores: (if $raw.model then $raw.model.result | cores else null end),
    forwarding: (if ($raw.forwarding // $raw["forwarding-cost"]) == null then null else
      ($raw.forwarding.result // {}) + {instructions: $raw["forwarding-cost"].result.instructions} end),
    dpdk: $raw.dpdk.result
  }
| .targets = [
    ratios($sender; "sender.index"; "index"; "plain"; {"1": 1.10, "53": 1.05}),
    ratios($sender; "sender.inline"; "inline"; "plain"; {any: 1.15}),
    ratios($sender; "sender.index_zerocopy"; "index_zerocopy"; "plain_zerocopy"; {any: 1.15}),
    (("aes_128_gcm", "aes_256_gcm", "chacha20_poly1305") as $cipher
     | ratios($sender; "sender.software_\($cipher)"; "software_\($cipher)"; "user_\($cipher)"; {any: 1.0})),
    server_targets(.server),
    target("scale.sas"; flatness(.scale.sas); "at_most"; 1.02),
    target("scale.sockets"; flatness(.scale.sockets); "at_most"; 1.02),
    target("scale.memory"; .scale.memory.bytes_per_sa_in_device; "at_most"; 384),
    target("threads.ratio"; .threads.ratio; "at_least"; 1.9),
    target("model_cores.ratio"; .model_cores.ratio; "at_least"; 1.9),
    target("dpdk.faults"; (.dpdk | if . == null then null else .lost + .reordered + .corrupted + .duplicated end);
           "at_most"; 0),
    target("forwarding.faults"; (.forwarding | if .rates == null then null else
             .lost + .reordered + .corrupted + .duplicated end); "at_most"; 0),
    (("1200", "1500", "9000") as $size
     | target("model.aes_128_gcm.\($size)"; $model.aes_128_gcm[$size].share; "at_least"; 0.85))
  ]
