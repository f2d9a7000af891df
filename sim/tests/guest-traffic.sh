#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# guest-traffic.sh [OPTION]... KERNEL TEST-PROGRAM LOG [GTEST-ARGUMENT...]
# Runs the guest tests with two ConnectX models on one wire, then has tshark check every frame that
# crossed it: IPv4, TCP and UDP checksums. The one frame that CorruptedFramesAreNoticed spoils on
# purpose (UDP port 12345 to 9999) is expected, and must be there if that test ran.
#   --faults              the driver may complain, and the wire is not looked at
#   --start-fault SPEC    gives the first device a fault before the guest starts
#   --wire hub|dgram|tap  a hub inside of QEMU (default), a pair of datagram sockets, or two tap devices in a
#                         bridge, in a network namespace of their own
#   --nic OPTIONS         of both devices, as ,ipsec=on
#   --device OPTIONS      of the first device, as msix-vectors=8,queues=64
#   --cpus N              processors of the guest (default 2)
#   --iommu               the devices are behind an IOMMU that forgets a mapping as soon as it is undone
set -euo pipefail

root=$(cd "$(dirname "$0")/../.." && pwd -P)
faults='' nic='' device='' wire=hub cpus=2 iommu=()
while [[ ${1-} = --* ]]; do
    case $1 in
    --faults) faults=1 ;;
    --nic) nic=$2; shift ;;
    --start-fault) faults=1 device+=",x-fault=${2//,/,,}"; shift ;;
    --wire) wire=$2; shift ;;
    --device) device+=",$2"; shift ;;
    --cpus) cpus=$2; shift ;;
    --iommu) iommu=(--append 'intel_iommu=on iommu.passthrough=0 iommu.strict=1' --qemu-arg -device --qemu-arg intel-iommu) ;;
    *) echo "unknown option $1" >&2; exit 2 ;;
    esac
    shift
done
kernel=$1 program=$2 log=$3
shift 3
capture=${log%.log}.pcap sent=$(realpath -m "${log%.log}.sent")
rm -f "$capture" "$sent"
sockets=$(mktemp -d "${TMPDIR:-/tmp}/connectx-test.XXXXXX")
trap 'rm -rf "$sockets"' EXIT

case $wire in
hub) wires=("hubport,id=wire0,hubid=0" "hubport,id=wire1,hubid=0") inside=() ;;
dgram)
    wires=("dgram,id=wire0,local.type=unix,local.path=$sockets/a,remote.type=unix,remote.path=$sockets/b"
        "dgram,id=wire1,local.type=unix,local.path=$sockets/b,remote.type=unix,remote.path=$sockets/a")
    inside=()
    ;;
tap)
    wires=("tap,id=wire0,ifname=wire0,script=no,downscript=no"
        "tap,id=wire1,ifname=wire1,script=no,downscript=no")
    # shellcheck disable=SC2016 # for the inner shell
    inside=(unshare --net bash -c 'set -e
        ip link add bridge0 type bridge mcast_snooping 0
        for tap in wire0 wire1; do
            ip tuntap add "$tap" mode tap
            ip link set "$tap" master bridge0 up
        done
        ip link set bridge0 up
        exec "$@"' inside)
    ;;
*) echo "unknown wire $wire" >&2; exit 2 ;;
esac

dump=(--qemu-arg -object --qemu-arg "filter-dump,id=dump,netdev=wire0,file=$capture,maxlen=65535")
[[ -z ${SIM_LONG_STREAM_MIB-} ]] || dump=() # too much to keep
status=0
"${inside[@]}" "$root/run" vm --kernel "$kernel" --nic none --cpus "$cpus" "${iommu[@]}" --memory 2048 --timeout "${SIM_TIMEOUT:-1500}" --log "$log" \
    ${SIM_LONG_STREAM_MIB:+--env SIM_LONG_STREAM_MIB="$SIM_LONG_STREAM_MIB"} --env SIM_SENT="$sent" --env SIM_STREAM_MIB="${SIM_STREAM_MIB:-16}" --env SIM_RELOADS="${SIM_RELOADS:-5}" \
    --qemu-arg -chardev --qemu-arg "socket,id=qmp,path=$sockets/qmp,server=on,wait=off" \
    --qemu-arg -mon --qemu-arg chardev=qmp,mode=control \
    --qemu-arg -chardev --qemu-arg "socket,id=qmpguest,path=$sockets/qmp" \
    --qemu-arg -device --qemu-arg virtserialport,chardev=qmpguest,name=qmp \
    --qemu-arg -netdev --qemu-arg "${wires[0]}" --qemu-arg -netdev --qemu-arg "${wires[1]}" \
    --qemu-arg -device --qemu-arg pcie-root-port,id=port0,chassis=1 \
    --qemu-arg -device --qemu-arg pcie-root-port,id=port1,chassis=2 \
    --qemu-arg -device --qemu-arg "connectx,id=nic0,bus=port0,netdev=wire0,mac=02:00:00:00:00:01$nic$device" \
    --qemu-arg -device --qemu-arg "connectx,id=nic1,bus=port1,netdev=wire1,mac=02:00:00:00:00:02$nic" \
    "${dump[@]}" \
    -- "$program" "$@" || status=$?
((status == 0)) || exit "$status"
# What the IOMMU and the kernel's own books say of a device that reads or writes what is not its own any more.
if grep -aE 'DMAR: .*[Ff]ault|DMA-API: .*(device driver|overlapping)' "$log"; then
    echo "a device used memory that was not mapped for it; kernel log: $log" >&2
    exit 1
fi
if [[ -n $faults ]]; then
    rm -f "$capture"
    exit 0
fi

if tr -d '\r' <"$log" | grep -aE 'mlx5_core.*(failed|[Ee]rror|timeout)' | grep -av 'Self test'; then
    echo "the driver reported the above; kernel log: $log" >&2
    exit 1
fi

count() {
    tshark -r "$capture" -o ip.check_checksum:TRUE -o tcp.check_checksum:TRUE -o udp.check_checksum:TRUE \
        -Y "$1" -T fields -e frame.number 2>/dev/null | wc -l
}
[[ -n ${dump[*]} ]] || exit 0
frames=$(count frame)
((frames > 1000)) || { echo "only $frames frames in $capture" >&2; exit 1; }
bad=$(count '(ip.checksum.status == 0 || tcp.checksum.status == 0 || udp.checksum.status == 0) && !(udp.srcport == 12345 && udp.dstport == 9999)')
((bad == 0)) || { echo "$bad of $frames frames have wrong checksums: $capture" >&2; exit 1; }
echo "$frames frames on the wire, all checksums right"
if [[ -s $sent ]]; then
    check=$(dirname "$program")/wire-check
    "$check" "$sent" "$capture" || { echo "see $sent and $capture" >&2; exit 1; }
    # That it would notice: the last byte of the last packet is changed.
    printf '\xff\x00' | dd of="$sent" bs=1 seek=$(($(stat -c %s "$sent") - 2)) conv=notrunc status=none
    ! "$check" "$sent" "$capture" >/dev/null || { echo "wire-check does not notice a changed byte" >&2; exit 1; }
fi
rm -f "$capture" "$sent"
