#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# bench-plot.sh RESULTS DIR: draws what a protected packet costs its sender, from the JSON of ./run bench,
# as DIR/sender-cost.svg and .png.
set -o errexit -o nounset -o pipefail

results=$1 dir=$2
command -v gnuplot >/dev/null || { echo 'bench-plot: gnuplot is not installed (./run bench installs it)' >&2; exit 1; }
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# Two rows a bar are enough for a reader: per packet at 53 and at 1 packets a send, IPv4.
for packets in 1 53; do
    /usr/bin/jq -r --arg packets "$packets" '
        def caption: {
            plain: "UDP alone", plain_zerocopy: "UDP alone, zero-copy",
            user_aes_128_gcm: "OpenSSL AES-128-GCM", user_aes_256_gcm: "OpenSSL AES-256-GCM",
            user_chacha20_poly1305: "OpenSSL ChaCha20", user_aes_128_gcm_zerocopy: "OpenSSL AES-128-GCM, zero-copy",
            user_aes_256_gcm_zerocopy: "OpenSSL AES-256-GCM, zero-copy",
            user_chacha20_poly1305_zerocopy: "OpenSSL ChaCha20, zero-copy",
            index: "NIC, SA index", inline: "NIC, inline keys", index_zerocopy: "NIC, SA index, zero-copy",
            software_aes_128_gcm: "kernel AES-128-GCM", software_aes_256_gcm: "kernel AES-256-GCM",
            software_chacha20_poly1305: "kernel ChaCha20"}[.] // .;
        .sender | to_entries[] | select(.value.ipv4[$packets] != null)
        | [(.key | caption), .value.ipv4[$packets].instructions_per_packet,
           (if .key | startswith("plain") then 0 elif .key | startswith("user") then 1
            elif .key | startswith("software") then 2 else 3 end)] | @tsv' "$results" >"$work/$packets.tsv"
done

draw() {
    local terminal=$1 output=$2
    gnuplot <<END
set terminal $terminal
set output "$output"
set datafile separator "\t"
set multiplot layout 1, 2
set style fill solid 0.85 noborder
set boxwidth 0.7
set xtics format "%.0f" nomirror
set grid xtics lc rgb "#dddddd"
set ytics nomirror scale 0
set border 3
set key off
colour(kind) = kind == 0 ? 0x9e9e9e : (kind == 1 ? 0xd95f02 : (kind == 2 ? 0x7570b3 : 0x1b9e77))
do for [packets in "53 1"] {
    file = "$work/" . packets . ".tsv"
    set xrange [*:*]
    set yrange [*:*]
    stats file using 2 nooutput
    rows = STATS_records
    set yrange [rows - 0.4:-0.6]
    set title "guest instructions per packet, " . packets . (packets eq "1" ? " packet a send" : " packets a send")
    set xrange [0:STATS_max * 1.22]
    plot file using (\$2 / 2):0:(\$2 / 2):(0.36):(colour(\$3)):ytic(1) with boxxyerror lc rgb variable, \\
         file using 2:0:(sprintf(" %.0f", \$2)) with labels left
}
END
}

mkdir -p "$dir"
draw 'svg size 1200,480 font "sans,12" background "white"' "$dir/sender-cost.svg"
draw 'pngcairo size 1200,480 font "sans,10" background "white"' "$dir/sender-cost.png"
