#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# ./run demo: a file travels from a server in a guest, whose packets the guest's NIC or kernel protects,
# to an unmodified QUIC client on the host; then everything is counted and checked by somebody else.

# shellcheck source-path=SCRIPTDIR
. "$(dirname "$0")/parts.sh"

usage() {
    cat <<'END'
usage: ./run demo [OPTION]...

Builds what is missing, boots a guest with our kernel and starts the example HTTP/3 server in it. Debian's
ngtcp2-client downloads a file of random bytes from it. Then the counters of kernel, driver and NIC, the
downloaded file and the wire (every frame of the guest's NIC) are compared: tshark must be able to decrypt each packet, and
not one piece of the file may be there in plaintext.

  --json             print one JSON object, last on standard output
  --bytes N          length of the file, with K, M or G for powers of 1024 (default 32M; not less with --json)
  --path P           who protects the packets: hardware (default; the ConnectX model, by the mlx5 driver),
                     software (the kernel, over a virtio NIC), user (the server itself), auto (the kernel if
                     it can, else the server)
  --kernel K         guest kernel as in ./run vm (default release)
  --cipher C         AES-128-GCM (default), AES-256-GCM, CHACHA20-POLY1305 or AES-128-CCM
  --capture FILE     keep the wire as pcapng with the TLS secrets in it: Wireshark decrypts it as it is
  --guest-capture FILE  also write what a packet socket (tcpdump, Wireshark) sees inside the guest: with
                     the hardware path it is plaintext
  --server-arg ARG   hand ARG to the server (build/cmake/examples/quic-offload-server --help); may be
                     given more than once
  --client-arg ARG   hand ARG to the client (gtlsclient --help); may be given more than once
  --check EXPR       one more check: a jq expression over what was counted, as in all.json of the run
                     (.server, .kernel, .wire, .audit); may be given more than once
  --no-build         take packages and programs as they are

Exit status: 0 when every check passed, 1 when one failed, 2 for wrong usage.
END
}

json='' bytes=32M path=hardware kernel=release cipher=AES-128-GCM capture='' guest_capture='' server_args=() client_args=()
expressions=() build=1

wrong() {
    say "error: $* (./run demo --help)"
    exit 2
}

while (($#)); do
    case $1 in
    --help | -h) usage; exit 0 ;;
    --json) json=1; shift; continue ;;
    --no-build) build=''; shift; continue ;;
    --*=*) set -- "${1%%=*}" "${1#*=}" "${@:2}"; continue ;;
    esac
    (($# >= 2)) || wrong "$1: unknown, or without a value"
    case $1 in
    --bytes) bytes=$2 ;;
    --path) path=$2 ;;
    --kernel) kernel=$2 ;;
    --cipher) cipher=$2 ;;
    --capture) capture=$2 ;;
    --guest-capture) guest_capture=$2 ;;
    --server-arg) server_args+=("$2") ;;
    --client-arg) client_args+=("$2") ;;
    --check) expressions+=("$2") ;;
    *) wrong "unknown option $1" ;;
    esac
    shift 2
done

[[ $bytes =~ ^[1-9][0-9]*[KMG]?$ ]] || wrong "--bytes $bytes: not a length"
bytes=$(numfmt --from=iec "$bytes")
case $path in
hardware) server_path=kernel nic=connectx ;;
software) server_path=kernel nic=virtio ;;
user | auto) server_path=$path nic=virtio ;;
*) wrong "--path $path: unknown (hardware, software, user, auto)" ;;
esac
case $cipher in
AES-128-GCM | AES-256-GCM | CHACHA20-POLY1305 | AES-128-CCM) ;;
*) wrong "--cipher $cipher: unknown" ;;
esac
((bytes >= 4096)) || wrong '--bytes: 4096 at least'
if [[ -n $json ]] && ((bytes < 32 * 1024 * 1024)); then
    wrong '--json needs --bytes 32M at least'
fi
# Prints the full name of a file to be written, which option $1 names.
file_to_write() {
    [[ -d $(dirname "$2") ]] || wrong "$1 $2: no such folder"
    printf '%s/%s' "$(realpath "$(dirname "$2")")" "$(basename "$2")"
}
[[ -z $capture ]] || capture=$(file_to_write --capture "$capture")
[[ -z $guest_capture ]] || guest_capture=$(file_to_write --guest-capture "$guest_capture")

# --- set-up ----------------------------------------------------------------------------------------

if [[ -n $build ]]; then
    packages_ensure
    userspace_ensure quic-offload-server quic-wire-audit quic-wire-open
fi
kernel_base_ensure
qemu_ensure
[[ $kernel = */* ]] || kernel_ensure "$kernel"

# One folder for each run; the last ones stay for whoever wants to look.
mkdir -p "$BUILD/demo"
prune "$BUILD/demo" run. 3
work=$(mktemp -d "$BUILD/demo/run.XXXXXX")
ln -sfnT "$work" "$BUILD/demo/last"
mkdir "$work/root" "$work/download"
server=$BUILD/cmake/examples/quic-offload-server
auditor=$BUILD/cmake/examples/tests/quic-wire-audit

vm_pid='' client_pid=''

# shellcheck disable=SC2317,SC2329 # called by the trap
cleanup() {
    trap '' INT TERM HUP
    [[ -z $client_pid ]] || kill "$client_pid" 2>/dev/null || true
    [[ -z $vm_pid ]] || kill "$vm_pid" 2>/dev/null || true
    wait 2>/dev/null || true
}
trap cleanup EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

# --- the transfer ----------------------------------------------------------------------------------

say "[file] $(numfmt --to=iec-i --suffix=B "$bytes") of random bytes"
head -c "$bytes" /dev/urandom >"$work/root/file.bin"
port=$(free_udp_port)

say "[guest] booting the $kernel kernel; server in it: --path $server_path"
"$ROOT/run" vm --kernel "$kernel" --nic "$nic" --forward "udp:$port" --capture "$work/wire.pcap" \
    --timeout 900 --log "$work/kernel.log" -- \
    "$ROOT/scripts/guest/count-server" ${guest_capture:+--tap} "$work" "$server" --path "$server_path" --port "$port" \
    --listen 0.0.0.0 --document-root "$work/root" --exit-after-connections 1 --max-runtime 600 --idle-timeout 60 \
    --stats-json "$work/server.json" --verbose "${server_args[@]}" \
    >"$work/server.log" 2>&1 </dev/null &
vm_pid=$!
await_server "$vm_pid" "$work/server.log" "$work/kernel.log"
say "[guest] $(grep '^packet protection' "$work/server.log")"

say "[client] gtlsclient of ngtcp2-client $(dpkg-query -W -f='${Version}' ngtcp2-client), unmodified"
start=$(date +%s%N)
SSLKEYLOGFILE=$work/secrets.log gtlsclient --quiet --exit-on-all-streams-close --timeout=60s --handshake-timeout=60s \
    --ciphers="NORMAL:-VERS-ALL:+VERS-TLS1.3:-CIPHER-ALL:+$cipher" --download="$work/download" \
    "${client_args[@]}" 127.0.0.1 "$port" https://localhost/file.bin \
    >"$work/client.log" 2>&1 </dev/null &
client_pid=$!
next_note=$((SECONDS + 5))
while kill -0 "$client_pid" 2>/dev/null; do
    sleep 0.05
    if ((SECONDS >= next_note)); then
        next_note=$((SECONDS + 5))
        got=$(stat -c %s "$work/download/file.bin" 2>/dev/null || echo 0)
        say "[client] $((got * 100 / bytes))% downloaded"
    fi
done
client_status=0
wait "$client_pid" || client_status=$?
client_pid=''
milliseconds=$((($(date +%s%N) - start) / 1000000))

# The server ends after its one connection; it stays if none came.
say "[guest] waiting for its end"
vm_status=0
for ((i = 0; i < 300; i++)); do
    kill -0 "$vm_pid" 2>/dev/null || break
    sleep 0.1
done
if kill "$vm_pid" 2>/dev/null; then
    say '[guest] still there after 30 s: stopped'
fi
wait "$vm_pid" || vm_status=$?
vm_pid=''

# --- the checks ------------------------------------------------------------------------------------

errors=0 report=()

# check WHAT CONDITION FIGURES: CONDITION is an arithmetic expression.
check() {
    local verdict=ok
    if ! (($2)); then
        verdict=WRONG
        errors=$((errors + 1))
        say "[check] wrong: $1: $3"
    fi
    report+=("$(printf '  %-5s  %-58s %s' "$verdict" "$1" "$3")")
}

# counted NAME prints by how much a counter of kernel or driver has grown, 0 if there is none.
counted() {
    awk -v name="$1" '
        FILENAME ~ /before$/ && $1 == name { before = $2 }
        FILENAME ~ /after$/ && $1 == name { after = $2 }
        END { printf "%d", after - before }' "$work/counters.before" "$work/counters.after"
}

# A maximum, not a sum; the guest has run nothing else.
counter_now() {
    awk -v name="$1" '$1 == name { value = $2 } END { printf "%d", value }' "$work/counters.after"
}

touch "$work"/counters.{before,after}
[[ -s $work/server.json ]] || echo '{}' >"$work/server.json"
server_count() {
    jq -r "$1 // 0" "$work/server.json"
}

sha_match=false
[[ $(sha256sum <"$work/root/file.bin") != $(sha256sum 2>/dev/null <"$work/download/file.bin" || true) ]] ||
    sha_match=true

say '[wire] looking for plaintext'
"$auditor" --capture "$work/wire.pcap" --server-port "$port" --content "$work/root/file.bin" \
    >"$work/audit.json" || die "the wire could not be searched; its capture: $(show_path "$work/wire.pcap")"
# Wireshark 4.0 decrypts every QUIC cipher but AES-128-CCM.
judge=tshark judging=("$ROOT/scripts/wire-decrypt.sh" "$work/wire.pcap" "$work/secrets.log" "$port")
if [[ $cipher = AES-128-CCM ]]; then
    judge=OpenSSL judging=("$BUILD/cmake/examples/tests/quic-wire-open" "${judging[@]:1}" "$cipher")
fi
run_step "wire, decrypted by $judge" "$work/decrypted.json" - "${judging[@]}" ||
    die "$judge could not read the capture"
audit() {
    jq -r ".$1" "$work/audit.json"
}
wire() {
    grep '^{' "$work/decrypted.json" | jq -r ".$1"
}

packets=$(counted TxPackets)
dropped=$(($(counted DropNoSa) + $(counted DropNoKeys) + $(counted DropNoMem) + $(counted DropChanged) +
    $(counted DropError)))
in_user_space=$(($(server_count .send.user.packets) + $(server_count .send.coalesced_packets)))
batches=$(counted TxGsoSends)
largest=$(counter_now TxGsoMaxSegs)
by_index=$(counted tx_quic_index_packets)
by_inline=$(counted tx_quic_inline_packets)
by_software=$(counted TxSoftware)
one_rtt=$(wire one_rtt)
plaintext=$(audit plaintext_datagrams)

check 'the client ended well' "client_status == 0" "exit status $client_status"
check 'the server and the guest kernel did too' "vm_status == 0" "exit status $vm_status"
check 'the file arrived byte for byte' "$([[ $sha_match = true ]] && echo 1 || echo 0)" "SHA-256 $sha_match"
check 'the wire carried it' "$(audit bytes_from_server) > bytes" "$(audit bytes_from_server) bytes of QUIC"
check 'no datagram holds a piece of it in plaintext' "plaintext == 0" \
    "$plaintext of $(audit datagrams_from_server)"
check "$judge decrypted every 1-RTT packet" "one_rtt > 0 && one_rtt == $(wire decrypted)" \
    "$(wire decrypted) of $one_rtt"
[[ $judge != tshark ]] ||
    check 'and those of the client' "$(wire client_one_rtt) > 0 && $(wire client_one_rtt) == $(wire client_decrypted)" \
        "$(wire client_decrypted) of $(wire client_one_rtt)"
check 'no frame is malformed' "$(wire malformed) == 0" "$(wire malformed)"
check 'no packet number was used twice' "$(wire reused_numbers) == 0" "$(wire reused_numbers)"
check 'nothing was fragmented, DF is on' "$(audit ip_fragments) + $(audit without_df) == 0" \
    "$(audit ip_fragments), $(audit without_df)"
check 'kernel and server count what is on the wire' "packets + in_user_space == one_rtt" \
    "$packets + $in_user_space = $one_rtt"
check 'the kernel dropped nothing' "dropped == 0" "$dropped"
check 'the server had no send refused' "$(server_count '[.send.errors[]?] | add') == 0" \
    "$(jq -c '.send.errors // {}' "$work/server.json")"
# A server that may choose has to choose the kernel if that keeps our counters.
if [[ $path = auto ]]; then
    [[ -s $work/counters.before ]] && path=software || path=user
fi
# Who did the work, by the kernel's account.
if (($(counted TxDevice) > 0)); then
    seen_path=hardware
elif ((packets > 0)); then
    seen_path=software
else
    seen_path=user
fi
check 'the packets took the path that was asked for' "$([[ $seen_path = "$path" ]] && echo 1 || echo 0)" "$seen_path"
if [[ $path = software ]]; then
    check 'the kernel protected the packets' "packets > 0 && $(counted TxSoftware) + $(counted TxSoftwareLate) >= packets" \
        "$packets, all in software"
    check 'the server protected but its handshake and its end' "in_user_space <= 16" "$in_user_space"
    check 'all SAs are gone again' "$(counter_now SaCurr) == 0" \
        "$(counted SaAdded) added, $(counter_now SaCurr) left"
elif [[ $path = hardware ]]; then
    check 'the NIC protected every packet, the kernel none' \
        "packets > 0 && by_index + by_inline == packets && by_software == 0" \
        "$by_index by SA index, $by_inline with keys in the descriptor, $by_software in software"
    check 'the NIC counts what the driver counts' \
        "$(counted quic_dev_tx_index_packets) == by_index && $(counted quic_dev_tx_inline_packets) == by_inline" \
        "$(counted quic_dev_tx_index_packets), $(counted quic_dev_tx_inline_packets)"
    check 'the NIC took the SAs into its database' "$(counted SaAdded) == 0 || (by_index > by_inline && $(counted quic_sa_created) > 0)" \
        "$(counted quic_sa_created) installed"
    check 'driver and NIC dropped nothing' "$(counted tx_quic_dropped) + $(counted quic_dev_drop_stale_sa) +
        $(counted quic_dev_drop_pd) + $(counted quic_dev_drop_headers) + $(counted quic_dev_drop_short) +
        $(counted quic_dev_wqe_errors) + $(counted tx_cqe_err) == 0" \
        "$(counted tx_quic_dropped), $(counted quic_dev_wqe_errors) descriptor errors"
    check 'the server protected but its handshake and its end' "in_user_space <= 16" "$in_user_space"
    check 'all SAs are gone again' "$(counter_now SaCurr) == 0" \
        "$(counted SaAdded) added, $(counter_now SaCurr) left"
else
    check 'the kernel protected nothing' "packets == 0" "$packets"
fi

if [[ -n $capture ]]; then
    editcap -F pcapng --inject-secrets "tls,$work/secrets.log" "$work/wire.pcap" "$capture" ||
        die "could not write $capture"
    if [[ $judge = tshark ]]; then
        run_step 'capture, decrypted by itself' "$work/capture.json" - \
            "$ROOT/scripts/wire-decrypt.sh" "$capture" - "$port" || die "tshark could not read $capture"
        decrypted=$(grep '^{' "$work/capture.json" | jq .decrypted)
        check 'so it does the capture that was kept' "decrypted == one_rtt" "$decrypted of $one_rtt"
    fi
    say "[wire] $capture holds the wire and the TLS secrets"
fi

if [[ -n $guest_capture ]]; then
    cp "$work/tap.pcapng" "$guest_capture"
    "$auditor" --capture "$guest_capture" --server-port "$port" --content "$work/root/file.bin" >"$work/tap.json" ||
        die "what the guest saw could not be searched: $guest_capture"
    seen=$(jq .plaintext_datagrams "$work/tap.json")
    # Batches are one packet there.
    if [[ $path = hardware ]]; then
        check 'inside the guest, above the NIC, it is plaintext' "seen > 0" "$seen packets with a piece of the file"
    else
        check 'inside the guest, too, it is ciphertext' "seen == 0" "$seen packets with a piece of the file"
    fi
    say "[guest] $guest_capture holds what a packet socket in the guest saw"
fi

# Everything in one place, for --check and for whoever looks.
jq -n --slurpfile server "$work/server.json" --slurpfile audit "$work/audit.json" \
    --slurpfile wire <(grep '^{' "$work/decrypted.json") \
    --rawfile before "$work/counters.before" --rawfile after "$work/counters.after" '
    def counters: [splits("\n") | [splits("\\s+")] | select(length >= 2) | {(.[0]): (.[1] | tonumber)}] | add // {};
    ($before | counters) as $old
    | {server: $server[0], audit: $audit[0], wire: $wire[0],
       kernel: ($after | counters | with_entries(
           if .key == "TxGsoMaxSegs" or .key == "SaCurr" then . else .value -= ($old[.key] // 0) end))}' \
    >"$work/all.json"
for expression in "${expressions[@]}"; do
    check "$expression" "$(jq -e "$expression" "$work/all.json" >/dev/null 2>&1 && echo 1 || echo 0)" ''
done

# --- what came of it -------------------------------------------------------------------------------

if [[ -z $json ]]; then
    # Several batches may be one sendmsg() each; an ordinary send counts there as well.
    printf '\n%s of plaintext QUIC packets left the server; who protected them: %s\n' \
        "$(numfmt --to=iec-i --suffix=B "$bytes")" "$seen_path"
    printf '  %s ms for the download, %s Mbit/s (the guest is emulated)\n' "$milliseconds" \
        $((bytes * 8 / (milliseconds > 0 ? milliseconds : 1) / 1000))
    printf '  %s packets by the kernel in %s sends, %s of them batches, %s packets in the largest\n' \
        "$packets" "$(counted TxSends)" "$batches" "$largest"
    printf '  cipher %s, %s key phase changes on the wire\n\n' "$cipher" "$(wire key_phases)"
    printf '%s\n' "${report[@]}"
    if ((errors == 0)); then
        printf '\nAll checks passed. Everything seen is in %s\n' "$(show_path "$work")"
    else
        printf '\n%s checks failed. Everything seen is in %s\n' "$errors" "$(show_path "$work")"
    fi
else
    jq -nc --arg path "$seen_path" --argjson bytes "$(stat -c %s "$work/download/file.bin" 2>/dev/null || echo 0)" \
        --argjson match "$sha_match" --argjson packets "$packets" --argjson batches "$batches" \
        --argjson largest "$largest" --argjson plaintext "$plaintext" --argjson errors "$errors" \
        --argjson index "$by_index" --argjson inline "$by_inline" --argjson software "$by_software" \
        '{path: $path, bytes: $bytes, sha256_match: $match, packets_protected: $packets,
          packets_protected_index: $index, packets_protected_inline: $inline,
          packets_protected_software: $software,
          gso_batches: $batches, max_gso_segments: $largest, plaintext_packets_on_wire: $plaintext,
          errors: $errors}'
fi
((errors == 0))
