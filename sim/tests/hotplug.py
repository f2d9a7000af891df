#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0
"""hotplug.py QEMU [ARGUMENT...]

ConnectX devices that come and go in a QEMU whose guest stands still: with properties that are wrong, each of
them often, with and without a network behind them, and in between a good one. Every refusal has a text, the
devices leave nothing behind, and QEMU ends in good order. A QEMU built with AddressSanitizer says more.
"""
import atexit
import json
import subprocess
import sys
import time

WRONG = [
    ({'queues': 1}, 'queues must be'),
    ({'msix-vectors': 1}, 'msix-vectors 2 to'),
    ({'msix-vectors': 4096}, 'msix-vectors 2 to'),
    ({'sadb-size': 2097153}, 'sadb-size 0 to'),
    ({'quic-ciphers': 'x'}, 'quic-ciphers'),
    ({'x-fault': 'x'}, 'x-fault'),
    ({'x-fault': 'link-flap,ms=x'}, 'x-fault'),
    ({'netdev': 'nothing'}, 'netdev'),
    ({'mac': 'x'}, 'mac'),
]
ROUNDS = 100


class Qemu:
    def __init__(self, arguments):
        self.process = subprocess.Popen(
            arguments + ['-machine', 'q35', '-m', '64', '-nodefaults', '-no-user-config', '-display', 'none', '-S',
                         '-netdev', 'hubport,id=wire0,hubid=0', '-netdev', 'hubport,id=wire1,hubid=0',
                         '-device', 'pcie-root-port,id=port0,chassis=1', '-qmp', 'stdio'],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        atexit.register(self.process.kill)
        self.events = []
        self.read()
        self.run('qmp_capabilities')

    def read(self):
        line = self.process.stdout.readline()
        if not line:
            sys.exit(f'QEMU has ended with status {self.process.wait()}')
        return json.loads(line)

    def ask(self, command, **arguments):
        print(json.dumps({'execute': command, 'arguments': arguments}), file=self.process.stdin, flush=True)
        while 'event' in (reply := self.read()):
            self.events.append(reply)
        return reply

    def run(self, command, **arguments):
        reply = self.ask(command, **arguments)
        if 'error' in reply:
            sys.exit(f'{command} {arguments}: {reply["error"]["desc"]}')
        return reply['return']

    def plug(self, **properties):
        return self.ask('device_add', driver='connectx', id='nic', bus='port0', **{'netdev': 'wire0', **properties})

    def unplug(self):
        """The guest, which stands still, cannot agree: its reset does. QEMU tells when the device is freed."""
        self.run('device_del', id='nic')
        self.run('system_reset')
        for _ in range(100):
            self.run('query-status')
            if any(e['event'] == 'DEVICE_DELETED' and e['data'].get('device') == 'nic' for e in self.events):
                break
            time.sleep(0.1)
        else:
            sys.exit('a device was unplugged and is never freed')
        self.events.clear()

    def resident(self):
        """Kilobytes."""
        with open(f'/proc/{self.process.pid}/status', encoding='ascii') as status:
            return int(next(line for line in status if line.startswith('VmRSS')).split()[1])


def state(qemu):
    return qemu.run('qom-get', path='/machine/peripheral/nic', property='model-state')


def good_one(qemu):
    reply = qemu.plug()
    if 'error' in reply:
        sys.exit(f'a good device: {reply["error"]["desc"]}')
    if 'unknown 0' not in state(qemu):
        sys.exit('a good device has no state')


def refusals(qemu):
    for properties, text in WRONG:
        for _ in range(ROUNDS):
            error = qemu.plug(**properties).get('error')
            if not error or text not in error['desc']:
                sys.exit(f'{properties}: {error or "accepted"}')
        good_one(qemu)
        qemu.unplug()
    print(f'{len(WRONG) * ROUNDS} devices refused, each with a text; a good one after each kind')


def unplugs(qemu, rounds):
    for i in range(rounds):
        good_one(qemu)
        if i % 10 == 0:
            # The network goes first.
            qemu.run('netdev_del', id='wire0')
            state(qemu)
        qemu.unplug()
        if i % 10 == 0:
            qemu.run('netdev_add', type='hubport', id='wire0', hubid=0)


def main():
    qemu = Qemu(sys.argv[1:])
    refusals(qemu)
    unplugs(qemu, ROUNDS // 2)
    before = qemu.resident()
    unplugs(qemu, ROUNDS)
    grown = qemu.resident() - before
    print(f'{ROUNDS * 3 // 2} devices unplugged, each of them freed; the last {ROUNDS} took {grown} KiB')
    # Last, one that is there when QEMU ends.
    good_one(qemu)
    qemu.ask('quit')
    status = qemu.process.wait()
    if status != 0:
        sys.exit(f'QEMU has ended with status {status}')
    if grown > 512:
        sys.exit('QEMU grows with each device')


main()
