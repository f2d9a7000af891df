#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# ./run demo --capture FILE: what it wrote opens and decrypts with no further step, and that is due to the
# secrets in it.
#
# usage: capture.sh FOLDER [ARGUMENT of ./run demo]...: files go to FOLDER

set -o errexit -o nounset -o pipefail

(($# >= 1)) || { echo "usage: $0 FOLDER [DEMO-ARGUMENT]..." >&2; exit 2; }
root=$(cd "$(dirname "$0")/../.." && pwd -P)
folder=$1 file=$1/wire.pcapng
shift
rm -rf "$folder"
mkdir -p "$folder"
"$root/run" demo --no-build --bytes 2M --capture "$file" --guest-capture "$folder/guest.pcapng" "$@"

fail() {
    echo "FAIL  $*" >&2
    exit 1
}

# The client's Initial packets tell the server's port.
port=$(tshark -n -r "$file" -Y 'quic.long.packet_type == 0' -T fields -e udp.dstport 2>/dev/null | head -n 1)
[[ $port =~ ^[0-9]+$ ]] || fail "tshark sees no QUIC in $file"
# With no key log, no port, no preference: as somebody who double-clicks it.
found=$("$root/scripts/wire-decrypt.sh" "$file" - "$port")
echo "$found"
# Nothing of that port that tshark takes for something else than QUIC.
datagrams=$(tshark -n -r "$file" -Y "udp.port == $port && !quic" -T fields -e frame.number 2>/dev/null | wc -l)
((datagrams == 0)) || fail "$datagrams datagrams are no QUIC to tshark"
jq -e '.one_rtt > 1000 and .decrypted == .one_rtt and .client_one_rtt > 0 and .client_decrypted == .client_one_rtt and
       .malformed == 0 and .bad_checksums == 0 and .reused_numbers == 0' <<<"$found" >/dev/null ||
    fail 'not every 1-RTT packet is there, decrypted and well'
# HTTP/3 is within reach: the length of the body is in the response's headers.
[[ -n $(tshark -n -r "$file" -Y http3 -T fields -e frame.number 2>/dev/null | head -n 1) ]] || fail 'no HTTP/3 to be seen'

# It is the secrets in the file that do it: without them, nothing is readable.
# (Wireshark 4.0 writes no capture that had secrets, not even with --discard-all-secrets: the block of
# type 10 is left out by hand.)
/usr/bin/python3 -S - "$file" "$folder/without.pcapng" <<'END'
import struct, sys
data, at = open(sys.argv[1], 'rb').read(), 0
with open(sys.argv[2], 'wb') as out:
    while at < len(data):
        kind, length = struct.unpack_from('<II', data, at)
        if kind != 10:
            out.write(data[at:at + length])
        at += length
END
without=$("$root/scripts/wire-decrypt.sh" "$folder/without.pcapng" - "$port")
jq -e '.one_rtt > 1000 and .decrypted == 0 and .client_decrypted == 0' <<<"$without" >/dev/null ||
    fail "readable without the secrets: $without"
rm -rf "$folder"
echo 'ok'
