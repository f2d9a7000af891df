#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# ./run vm: boots a guest, runs one command in it, and hands back what it printed and its status.

# shellcheck source-path=SCRIPTDIR
. "$(dirname "$0")/parts.sh"

usage() {
    cat <<'END'
usage: ./run vm [OPTION]... -- COMMAND...

Boots a guest and runs COMMAND in it as root, in the present folder. Below the guest's root folder lies
the host's, so that every installed program runs; what the guest writes there is gone at its end, except
in the build folder, which is the host's. Standard input, output and error are COMMAND's.

  --kernel K          release (default), debug, fuzz, kcsan, vanilla, or Debian's own: stock-6.1, stock-6.12 (or
                      stock), stock-7.3, or the path of a bzImage
  --base B            the Linux that the first five are made of, 7.3 or 6.12
  --nic N             virtio (default): QEMU's user-mode network, guest at 10.0.2.15 and fec0::15,
                      host at 10.0.2.2; connectx: the same behind the ConnectX model, driven by the
                      kernel's own mlx5; e1000e: the same behind QEMU's model of an 82574L; none
  --nic-option OPT    add ",OPT" to the NIC's -device (for connectx: trace=on, queues=N, ...)
  --port MODEL:NETDEV one more NIC: virtio, connectx or e1000e, on QEMU's NETDEV (for instance
                      connectx:hubport,hubid=0), behind a PCIe port of its own. The first has the MAC
                      52:54:00:12:35:01, the next :02; nothing is configured. May be given more than once.
                      Beside --nic: that one is set up as eth0, which the kernel may have made of this
  --forward udp:PORT  what reaches 127.0.0.1:PORT on the host goes to PORT in the guest;
                      also udp:HOSTPORT:GUESTPORT and tcp:...; may be given more than once
  --capture FILE      write every frame that passes the guest's NIC to FILE (pcap)
  --cpus N            processors (default 1)
  --memory MB         memory (default 1024; 2048 for the debug kernel)
  --icount            the guest's clock counts instructions, so that timings in it are the same on
                      every machine; one processor
  --timeout S         end the guest after S seconds (default 600)
  --env NAME[=VALUE]  set NAME in COMMAND's environment; without VALUE, as it is here
  --append ARGS       add ARGS to the kernel's command line
  --qemu-arg ARG      hand ARG to QEMU; may be given more than once
  --log FILE          the guest's kernel log (default build/log/vm-DATE-PID.log)
  --no-kmemleak       debug kernel: do not look for leaked memory at the end (saves 6 seconds)

Exit status: COMMAND's (128 + N after signal N); 124 when the time was up; 99 when the kernel reported
an oops, a warning, KASAN, UBSAN, lockdep, a leak, a hung task or plaintext on its way out; 98 when the
guest did not start or ended too soon.
END
}

kernel=release nic=virtio nic_options='' ports=() forwards=() capture='' cpus=1 memory='' icount='' timeout=600 environment=()
append='' qemu_args=() log='' kmemleak=1

given=("$@")


while (($#)); do
    case $1 in
    --help | -h) usage; exit 0 ;;
    --icount) icount=1; shift; continue ;;
    --no-kmemleak) kmemleak=''; shift; continue ;;
    --) shift; break ;;
    --*=*) set -- "${1%%=*}" "${1#*=}" "${@:2}"; continue ;;
    esac
    case $1 in
    --kernel) need "$@"; kernel=$2 ;;
    --nic) need "$@"; nic=$2 ;;
    --nic-option) need "$@"; nic_options+=",$2" ;;
    --port) need "$@"; ports+=("$2") ;;
    --forward) need "$@"; forwards+=("$2") ;;
    --capture) need "$@"; capture=$2 ;;
    --cpus) need "$@"; cpus=$2 ;;
    --memory) need "$@"; memory=$2 ;;
    --timeout) need "$@"; timeout=$2 ;;
    --env) need "$@"; environment+=("$2") ;;
    --append) need "$@"; append=$2 ;;
    --qemu-arg) need "$@"; qemu_args+=("$2") ;;
    --log) need "$@"; log=$2 ;;
    -*) die "unknown option $1 (./run vm --help)" ;;
    *) break ;;
    esac
    shift 2
done
(($#)) || { usage >&2; die 'no COMMAND given'; }
[[ $cpus =~ ^[1-9][0-9]*$ ]] || die "--cpus $cpus: not a number of processors"
[[ -z $memory || $memory =~ ^[1-9][0-9]+$ ]] || die "--memory $memory: not a number of megabytes"
[[ $timeout =~ ^[1-9][0-9]*$ ]] || die "--timeout $timeout: not a number of seconds"
[[ -z $icount || $cpus = 1 ]] || die '--icount goes with one processor only'

# --- what the guest is made of -------------------------------------------------------------------

modules=''
if [[ $kernel = */* ]]; then
    [[ -f $kernel ]] || die "--kernel $kernel: no such file"
    image=$(realpath "$kernel")
else
    kernel_ensure "$kernel" || exit 98
    result=$(readlink -f "$(kernel_link "$kernel")")
    image=$result/bzImage
    [[ ! -d $result/lib/modules ]] || modules=$result/lib/modules
fi
qemu_ensure || exit 98
qemu=$(readlink -f "$BUILD/qemu")/bin/qemu-system-x86_64
export LD_LIBRARY_PATH=$SIM_LIBRARY
[[ -n $memory ]] || { [[ $kernel = debug ]] && memory=2048 || memory=1024; }

# Everything of this run that is to vanish with it.
run=$(mktemp -d "${TMPDIR:-/tmp}/udp-quic-offload-vm.XXXXXX")
qemu_pid='' pumps=()

# shellcheck disable=SC2317,SC2329 # called by the trap
cleanup() {
    trap '' INT TERM HUP
    if [[ -n $qemu_pid ]]; then
        kill -KILL "$qemu_pid" 2>/dev/null || true
        wait "$qemu_pid" 2>/dev/null || true
    fi
    ((${#pumps[@]} == 0)) || kill "${pumps[@]}" 2>/dev/null || true
    rm -rf "$run"
}
trap cleanup EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

# The part of the initramfs that is the same for every run with one kernel.
base_initramfs() {
    local key applet target=$1 list
    key=$({ hash_files "$ROOT/scripts/guest/init"; stat -Lc '%s %Y' /bin/busybox; echo "${modules}"; } | key_of)
    list=$BUILD/guest/initramfs-$key.cpio
    if [[ ! -f $list ]]; then
        local tree=$run/base
        mkdir -p "$tree"/{bin,proc,sys,dev,lower,upper,root,modules} "$BUILD/guest"
        cp /bin/busybox "$tree/bin/"
        for applet in sh mount umount mkdir rmdir ln cat cp grep ip hostname mkfifo setsid chroot sleep sync \
            poweroff insmod; do
            ln -s busybox "$tree/bin/$applet"
        done
        cp "$ROOT/scripts/guest/init" "$tree/init"
        chmod 755 "$tree/init"
        if [[ -n $modules ]]; then
            stock_kernel_modules "$(dirname "$(dirname "$modules")")" "$tree/modules"
        fi
        (cd "$tree" && find . | LC_ALL=C sort | cpio -o -H newc -R 0:0 --quiet) >"$list.$$"
        mv "$list.$$" "$list"
    fi
    cp "$list" "$target"
}

# KVM only if a guest really boots under it; the answer holds until the machine is started again.
accelerator() {
    local answer boot_id
    if [[ ! -w /dev/kvm ]]; then
        echo tcg
        return
    fi
    boot_id=$(</proc/sys/kernel/random/boot_id)
    if [[ ! -f $CACHE/kvm-probe || $(cut -d' ' -f1 "$CACHE/kvm-probe") != "$boot_id" ]]; then
        answer=tcg
        if timeout --kill-after=1 5 "$qemu" "${QEMU_FIRMWARE[@]}" -accel kvm -cpu host -machine q35 -m 256 \
            -nodefaults -no-user-config -display none -no-reboot -serial "file:$run/probe.log" \
            -kernel "$image" -initrd "$run/base.cpio" -append 'console=ttyS0 panic=-1 quic_probe' \
            >"$LOGS/kvm-probe.log" 2>&1 </dev/null && grep -q 'quic-probe: guest is up' "$run/probe.log"; then
            answer=kvm
        fi
        echo "$boot_id $answer" >"$run/kvm-probe"
        mv "$run/kvm-probe" "$CACHE/kvm-probe"
    fi
    cut -d' ' -f2 "$CACHE/kvm-probe"
}

base_initramfs "$run/base.cpio"
accel=$(accelerator)
[[ -z $icount ]] || accel=tcg

# --- the command -----------------------------------------------------------------------------------

mkdir -p "$run/extra/vm"
{
    printf 'BUILD_DIR=%q\n' "$BUILD"
    printf 'NIC=%s\n' "$([[ $nic = none ]] || echo eth0)"
    printf 'HOST_NAME=guest-%s\n' "$(basename "$kernel" | tr -cd 'a-zA-Z0-9-')"
    printf 'KMEMLEAK=%s\n' "$kmemleak"
    printf 'MODULES=%s\n' "${modules:+1}"
} >"$run/extra/vm/settings"
{
    printf 'unset PWD OLDPWD SHLVL\n'
    printf 'export HOME=/root USER=root LOGNAME=root SHELL=/bin/bash TERM=%q LANG=C.UTF-8\n' "${TERM:-dumb}"
    # Behind the system's: what this checkout has built.
    printf 'export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:%q\n' \
        "$BUILD/cmake/tools/quic-sadb-ctl"
    for setting in "${environment[@]}"; do
        [[ $setting =~ ^[A-Za-z_][A-Za-z0-9_]*(=|$) ]] || die "--env $setting: not NAME=VALUE"
        if [[ $setting = *=* ]]; then
            printf 'export %s=%q\n' "${setting%%=*}" "${setting#*=}"
        elif [[ -v $setting ]]; then
            printf 'export %s=%q\n' "$setting" "${!setting}"
        fi
    done
    printf 'cd -- %q 2>/dev/null || cd /\n' "$PWD"
    printf 'exec --'
    printf ' %q' "$@"
    printf '\n'
} >"$run/extra/vm/command"
(cd "$run/extra" && find . -mindepth 1 | LC_ALL=C sort | cpio -o -H newc -R 0:0 --quiet) >>"$run/base.cpio"

# --- QEMU ------------------------------------------------------------------------------------------

[[ -n $log ]] || log=$LOGS/vm-$(date +%Y%m%d-%H%M%S)-$$.log
mkdir -p "$(dirname "$log")"
log=$(realpath "$log")
rm -f "$log"
# Of the logs that nobody named, the last hundred stay.
find "$LOGS" -maxdepth 1 -name 'vm-2*.log' -printf '%T@ %p\n' | sort -rn | tail -n +101 | cut -d' ' -f2- |
    xargs -r rm -f

# The host may be busy: that a processor got no time for long is no fault of the guest's kernel.
command_line='console=ttyS0 panic=-1 oops=panic loglevel=7 random.trust_cpu=1'
command_line+=' nowatchdog rcupdate.rcu_cpu_stall_timeout=300'
# On a machine with more to do than it can, no tick comes while the boot checks that ticks come.
command_line+=' no_timer_check'
[[ $kernel != kcsan ]] || command_line+=' kcsan.early_enable=1'
# shellcheck disable=SC2054 # QEMU's commas
arguments=("${QEMU_FIRMWARE[@]}" -machine q35 -m "$memory" -smp "$cpus" -nodefaults -no-user-config
    -display none -no-reboot -kernel "$image" -initrd "$run/base.cpio"
    -append "$command_line $append"
    -serial "file:$log"
    -fsdev "local,id=root,path=/,security_model=none,readonly=on,multidevs=remap"
    -device "virtio-9p-pci,fsdev=root,mount_tag=root"
    -fsdev "local,id=build,path=${BUILD//,/,,},security_model=none,multidevs=remap"
    -device "virtio-9p-pci,fsdev=build,mount_tag=build"
    -device virtio-rng-pci
    -device virtio-serial-pci
    -chardev "socket,id=stdin,path=$run/stdin,server=on,wait=on"
    -device virtserialport,chardev=stdin,name=stdin
    -chardev "file,id=stdout,path=$run/stdout" -device virtserialport,chardev=stdout,name=stdout
    -chardev "file,id=stderr,path=$run/stderr" -device virtserialport,chardev=stderr,name=stderr
    -chardev "file,id=control,path=$run/status" -device virtserialport,chardev=control,name=control
    -chardev "pipe,id=monitor,path=$run/monitor" -mon chardev=monitor)
if [[ -n $modules ]]; then
    arguments+=(-fsdev "local,id=modules,path=${modules//,/,,},security_model=none,readonly=on"
        -device "virtio-9p-pci,fsdev=modules,mount_tag=modules")
fi
if [[ $accel = kvm ]]; then
    arguments+=(-accel kvm -cpu host)
elif ((cpus > 1)); then
    arguments+=(-accel 'tcg,thread=multi' -cpu max)
else
    arguments+=(-accel tcg -cpu max)
fi
[[ -z $icount ]] || arguments+=(-icount 'shift=0,sleep=off')

netdev='user,id=net0,ipv4=on,ipv6=on' # either alone would switch the other off
for forward in "${forwards[@]}"; do
    if [[ $forward =~ ^(udp|tcp):([0-9]+)(:([0-9]+))?$ ]]; then
        netdev+=",hostfwd=${BASH_REMATCH[1]}:127.0.0.1:${BASH_REMATCH[2]}-:${BASH_REMATCH[4]:-${BASH_REMATCH[2]}}"
    else
        die "--forward $forward: not udp:PORT or udp:HOSTPORT:GUESTPORT"
    fi
done
case $nic in
virtio)
    arguments+=(-netdev "$netdev" -device "virtio-net-pci,netdev=net0,romfile=,mac=52:54:00:12:34:56$nic_options")
    [[ -z $capture ]] || arguments+=(-object "filter-dump,id=capture,netdev=net0,file=${capture//,/,,}")
    ;;
connectx)
    arguments+=(-netdev "$netdev"
        -device "pcie-root-port,id=port0,chassis=1"
        -device "connectx,id=nic0,bus=port0,netdev=net0,mac=52:54:00:12:34:56$nic_options")
    [[ -z $capture ]] || arguments+=(-object "filter-dump,id=capture,netdev=net0,file=${capture//,/,,}")
    ;;
e1000e)
    arguments+=(-netdev "$netdev" -device "e1000e,netdev=net0,romfile=,mac=52:54:00:12:34:56$nic_options")
    [[ -z $capture ]] || arguments+=(-object "filter-dump,id=capture,netdev=net0,file=${capture//,/,,}")
    ;;
none)
    [[ ${#forwards[@]} = 0 && -z $capture ]] || die '--forward and --capture need a NIC'
    ;;
*) die "--nic $nic: unknown (virtio, connectx, e1000e, none)" ;;
esac
number=0
for port in "${ports[@]}"; do
    number=$((number + 1))
    case $port in
    virtio:?*) device=virtio-net-pci,romfile= ;;
    e1000e:?*) device=e1000e,romfile= ;;
    connectx:?*) device=connectx ;;
    *) die "--port $port: not virtio:NETDEV, connectx:NETDEV or e1000e:NETDEV" ;;
    esac
    type=${port#*:} rest=''
    [[ $type != *,* ]] || rest=,${type#*,}
    arguments+=(-netdev "${type%%,*},id=portnet$number$rest"
        -device "pcie-root-port,id=pcieport$number,chassis=$((100 + number))"
        -device "$device,id=port$number,bus=pcieport$number,netdev=portnet$number,mac=52:54:00:12:35:$(printf %02x "$number")")
done
arguments+=("${qemu_args[@]}")

mkfifo "$run/stdout" "$run/stderr" "$run/monitor.in" "$run/monitor.out"
cat "$run/stdout" &
stdout_pump=$!
cat "$run/stderr" >&2 &
stderr_pump=$!
if { true <&0; } 2>/dev/null; then
    exec {input}<&0
else
    exec {input}</dev/null
fi
/usr/bin/python3 -S "$ROOT/scripts/guest/stdin-pump" "$run/stdin" <&"$input" &
pumps=("$stdout_pump" "$stderr_pump" $!)

# watch_start PID ends the guest (QEMU's keeper is PID) if it has not come as far as its command in three
# minutes, and notes where its processors were.
watch_start() {
    while ((SECONDS < started + 180)); do
        sleep 1
        ! grep -aqs 'init: starting the command' "$log" || return 0
    done
    touch "$run/not-started"
    printf '%s\n' 'info status' 'info registers -a' >"$run/monitor.in"
    timeout 3 cat "$run/monitor.out" >"$run/processors" || true
    kill -TERM "$1" 2>/dev/null || true
}

# QEMU ends with this shell even if it is killed in a way that no trap sees.
setpriv --pdeathsig TERM timeout --kill-after=5 "$timeout" setpriv --pdeathsig KILL \
    "$qemu" "${arguments[@]}" </dev/null >"$run/qemu.log" 2>&1 &
qemu_pid=$!
started=$SECONDS
watch_start "$qemu_pid" >/dev/null 2>&1 &
pumps+=($!)
status=0
wait "$qemu_pid" || status=$?
qemu_pid=''

# A pump whose pipe QEMU never opened is still waiting for it.
exec {pipe}<>"$run/stdout" && exec {pipe}>&-
exec {pipe}<>"$run/stderr" && exec {pipe}>&-
wait "$stdout_pump" "$stderr_pump" || true

# --- what came out -----------------------------------------------------------------------------------

# The kernel's own reports, at the start of a message: user space may well print such words.
stamp='^(\[ *[0-9]+\.[0-9]+\](\[ *[TC][0-9]+\])? )?'
reports="$stamp(BUG:|WARNING: |KASAN:|KFENCE:|UBSAN:|Oops|Kernel panic|general protection fault|kernel BUG at"
reports+='|INFO: (task|possible|inconsistent|rcu|lockdep|trying)|rcu: INFO:|watchdog: BUG|ODEBUG:|refcount_t:'
reports+='|DEBUG_LOCKS_WARN_ON|list_(add|del) corruption|unregister_netdevice: waiting for|stack segment:'
reports+='|unreferenced object|(page allocation failure|Out of memory: Killed process)'
reports+="|.*(unencrypted skb|still has locks held|kmemleak: [0-9]+ new suspected))"
expected="$stamp(WARNING: (Spectre|Support for))"
# Files that KCSAN watches have races of their own, which are Linux's.
ours='udp_(crypto|sa|quic)|mlx5e_quic|nsim_udp|skb_ext'
report=$(tr -d '\r' <"$log" 2>/dev/null | grep -aE "$reports" | grep -avE "$expected" |
    awk -v ours="$ours" '!/BUG: KCSAN: / || $0 ~ ours {print; exit}') || true
if [[ -n $report ]]; then
    say "guest kernel: $report"
    say "kernel log: $(show_path "$log")"
    exit 99
fi
# A guest that hangs, or whose QEMU crashes, before its command: each seen once in hundreds of starts on a busy
# machine. QEMU 7.2 changes the memory map of processors that run, as PCI devices get their addresses; since 8.2
# each processor does it itself (tcg_commit()). The command has not begun, so nothing is hidden by starting again, once.
why=''
if [[ -e $run/not-started ]]; then
    why="guest did not come as far as its command in 180 s; processors: $(grep -o 'RIP=[0-9a-f]*' "$run/processors" | tr '\n' ' ')"
elif ((status > 128 && status != 137)) && ! grep -aqs 'init: starting the command' "$log"; then
    why="QEMU ended by signal $((status - 128)) before the guest came as far as its command"
fi
if [[ -n $why ]]; then
    say "$why"
    say "its last line: $(tr -d '\r' <"$log" | tail -n 1)"
    [[ ! -s $run/processors ]] || cat "$run/processors" >>"$log"
    mv "$log" "$log.not-started"
    say "kernel log: $(show_path "$log.not-started")"
    [[ -z ${QUIC_VM_SECOND_START:-} ]] || exit 98
    say 'starting it once more'
    cleanup
    trap - EXIT INT TERM HUP
    QUIC_VM_SECOND_START=1 exec "$ROOT/run" vm "${given[@]}"
fi
if ((status == 124 || status == 137)); then
    say "guest ended after $timeout s: time is up; kernel log: $(show_path "$log")"
    exit 124
fi
if [[ ! -s $run/status ]]; then
    say "guest ended without a status: $(tail -n 1 "$run/qemu.log")"
    say "kernel log: $(show_path "$log"), last line: $(tr -d '\r' <"$log" | tail -n 1)"
    exit 98
fi
exit "$(<"$run/status")"
