#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Has tshark decrypt what a QUIC server put on the wire, with the TLS secrets the client logged, and
# prints what came of it as one JSON object. An independent implementation, on the receiving side.
#
# usage: wire-decrypt.sh CAPTURE KEY-LOG SERVER-PORT
# KEY-LOG - means: the secrets are in CAPTURE (pcapng), and tshark has to see by itself that it is QUIC.
#   one_rtt            1-RTT packets of the server, coalesced ones included
#   decrypted          those that tshark could decrypt, frames and all
#   long_header        Initial, Handshake, Retry packets of the server
#   reused_numbers     1-RTT packets with a packet number that was there before, on one connection
#   key_phases         changes of the key phase bit, packet by packet
#   malformed          frames that tshark calls malformed
#   first_undecrypted  number of the first frame that could not be decrypted, 0 if there is none

set -o errexit -o nounset -o pipefail

(($# == 3)) || { echo "usage: $0 CAPTURE KEY-LOG SERVER-PORT" >&2; exit 2; }
capture=$1 keys=$2 port=$3
hints=()
[[ $keys = - ]] || hints=(-o "tls.keylog_file:$keys" -d "udp.port==$port,quic")

# A frame may hold several QUIC packets: the fields are lists.
tshark -n -r "$capture" "${hints[@]}" -Y "udp.srcport==$port" \
    -T fields -e frame.number -e udp.stream -e quic.header_form -e quic.packet_number \
    -e quic.frame_type -e quic.decryption_failed -e _ws.malformed -e quic.key_phase \
    2> >(grep -v 'Running as user' >&2) |
    awk -F'\t' '
        {
            forms = split($3, form, ",")
            numbers = split($4, number, ",")
            intact = numbers == forms && $5 != "" && $6 == ""
            if ($7 != "")
                malformed++
            for (i = 1; i <= forms; i++) {
                if (form[i] == "1" || form[i] == "True") {
                    long++
                    continue
                }
                one_rtt++
                if (!intact) {
                    if (!first)
                        first = $1
                    continue
                }
                decrypted++
                if (seen[$2, number[i]]++)
                    reused++
                if ($2 in phase && phase[$2] != $8)
                    phases++
                phase[$2] = $8
            }
        }
        END {
            printf "{\"one_rtt\":%d,\"decrypted\":%d,\"long_header\":%d,\"reused_numbers\":%d,", \
                one_rtt, decrypted, long, reused
            printf "\"key_phases\":%d,\"malformed\":%d,\"first_undecrypted\":%d}\n", phases, malformed, first
        }'
