#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Has tshark decrypt what a QUIC server and its clients put on the wire, with the TLS secrets the clients
# logged, and prints what came of it as one JSON object for each port of the server. An independent
# implementation, on the receiving side.
#
# usage: wire-decrypt.sh CAPTURE KEY-LOG SERVER-PORT[-LAST-PORT]
# KEY-LOG - means: the secrets are in CAPTURE (pcapng), and tshark has to see by itself that it is QUIC.
#   port               of the server
#   one_rtt            1-RTT packets of the server, coalesced ones included
#   decrypted          those that tshark could decrypt, frames and all
#   client_one_rtt     the same of the clients
#   client_decrypted
#   long_header        Initial, Handshake, Retry packets of the server
#   reused_numbers     1-RTT packets with a packet number that was there before, on one connection
#   key_phases         changes of the key phase bit, packet by packet
#   malformed          frames of either side that tshark calls malformed
#   bad_checksums      frames of either side with a wrong IPv4 or UDP checksum
#   first_undecrypted  number of the first frame that could not be decrypted, 0 if there is none
#   largest            UDP payload of the server's largest datagram, bytes
#   ect, ce            the server's datagrams with ECT(0) or ECT(1), and with CE (RFC 3168)
#   acked_ect, acked_ce  what the clients say that they saw of these (the connection with the most)
#   paths              client addresses that got a hundred 1-RTT packets or more

set -o errexit -o nounset -o pipefail

(($# == 3)) || { echo "usage: $0 CAPTURE KEY-LOG SERVER-PORT[-LAST-PORT]" >&2; exit 2; }
capture=$1 keys=$2 first=${3%-*} last=${3#*-}
hints=()
[[ $keys = - ]] || hints=(-o "tls.keylog_file:$keys" -d "udp.port==$first-$last,quic")

# A frame may hold several QUIC packets: the fields are lists. An ICMP error quotes a packet that has been seen.
tshark -n -r "$capture" "${hints[@]}" -o ip.check_checksum:TRUE -o udp.check_checksum:TRUE \
    -Y "!icmp && !icmpv6 && ((udp.srcport>=$first && udp.srcport<=$last) || (udp.dstport>=$first && udp.dstport<=$last))" \
    -T fields -e frame.number -e udp.stream -e udp.srcport -e udp.dstport -e udp.length \
    -e quic.header_form -e quic.packet_number -e quic.frame_type -e quic.decryption_failed -e _ws.malformed \
    -e quic.key_phase -e ip.dsfield.ecn -e ipv6.tclass.ecn -e quic.ack.ect0_count -e quic.ack.ect1_count \
    -e quic.ack.ecn_ce_count -e ip.checksum.status -e udp.checksum.status \
    2> >(grep -v 'Running as user' >&2) |
    awk -F'\t' -v first="$first" -v last="$last" '
        function largest_of(list, parts, i, n, max) {
            n = split(list, parts, ",")
            for (i = 1; i <= n; i++)
                if (parts[i] + 0 > max)
                    max = parts[i] + 0
            return max + 0
        }
        {
            by_server = $3 >= first && $3 <= last
            port = by_server ? $3 : $4
            forms = split($6, form, ",")
            numbers = split($7, number, ",")
            intact = numbers == forms && $8 != "" && $9 == ""
            malformed[port] += $10 != ""
            # 0: wrong, 1: right, 2: not looked at
            bad_checksums[port] += $17 == "0" || $17 == "Bad" || $18 == "0" || $18 == "Bad"
            if (by_server) {
                if ($5 - 8 > largest[port])
                    largest[port] = $5 - 8
                ecn = $12 $13
                ect[port] += ecn == 1 || ecn == 2
                ce[port] += ecn == 3
            } else {
                acked = largest_of($14) + largest_of($15)
                if (acked > acked_ect[port])
                    acked_ect[port] = acked
                acked = largest_of($16)
                if (acked > acked_ce[port])
                    acked_ce[port] = acked
            }
            for (i = 1; i <= forms; i++) {
                if (form[i] == "1" || form[i] == "True") {
                    long[port] += by_server
                    continue
                }
                if (by_server) {
                    one_rtt[port]++
                    if (++on_path[port, $2] == 100)
                        paths[port]++
                } else {
                    client_one_rtt[port]++
                }
                if (!intact) {
                    if (!first_undecrypted[port])
                        first_undecrypted[port] = $1
                    continue
                }
                if (!by_server) {
                    client_decrypted[port]++
                    continue
                }
                decrypted[port]++
                if (seen[$2, number[i]]++)
                    reused[port]++
                if ($2 in phase && phase[$2] != $11)
                    phases[port]++
                phase[$2] = $11
            }
        }
        END {
            for (port = first; port <= last; port++) {
                printf "{\"port\":%d,\"one_rtt\":%d,\"decrypted\":%d,", port, one_rtt[port], decrypted[port]
                printf "\"client_one_rtt\":%d,\"client_decrypted\":%d,", client_one_rtt[port], client_decrypted[port]
                printf "\"long_header\":%d,\"reused_numbers\":%d,", long[port], reused[port]
                printf "\"key_phases\":%d,\"malformed\":%d,", phases[port], malformed[port]
                printf "\"bad_checksums\":%d,\"first_undecrypted\":%d,", bad_checksums[port], first_undecrypted[port]
                printf "\"largest\":%d,\"ect\":%d,\"ce\":%d,", largest[port], ect[port], ce[port]
                printf "\"acked_ect\":%d,\"acked_ce\":%d,", acked_ect[port], acked_ce[port]
                printf "\"paths\":%d}\n", paths[port]
            }
        }'
