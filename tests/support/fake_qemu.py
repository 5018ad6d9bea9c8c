# SPDX-License-Identifier: Apache-2.0
"""A fake QEMU, which behaves like QEMU with a guest or fails in one of several ways.

The environment selects its behaviour: FAKE_KVM and FAKE_TCG, one word for each accelerator;
FAKE_LACKS, separated by commas, what it reports as missing when probed; FAKE_MAJOR, the first
number of its version in JSON. The guest of `ready` is an SSH server whose commands run here.
"""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

VERSION: dict[str, Any] = {"qemu": {"major": 9, "minor": 1, "micro": 2}, "package": "fake"}
STAY_SECONDS = 120.0
"""Lifetime of a fake in seconds, whatever happens to the test."""

OOPS = """\
[    1.500000] BUG: kernel NULL pointer dereference, address: 0000000000000008
[    1.500000] Oops: 0002 [#1] PREEMPT SMP NOPTI
[    1.500000] RIP: 0010:fake_probe+0x5/0x15 [fake]
[    1.500000] ---[ end trace 0000000000000000 ]---
"""
LAST_WORDS = {
    "abort": "qemu: error: failed to set MSR 0x10a to 0x0",
    "no-memory": "qemu: cannot set up guest memory 'm0': Cannot allocate memory",
    "no-option": "qemu: -device x: Property 'virtio-balloon-pci.free-page-reporting' not found",
    "no-lock": "qemu: locking memory failed: mlockall: Cannot allocate memory",
    "no-kernel": "qemu: could not open kernel file '/nowhere': No such file or directory",
}
ENDINGS = frozenset({"panic", "vanish", "silent-reset", "triple-fault", "reboot", "bus-error"})


def main() -> int:
    if word_after("-qmp") == "stdio":
        return tell_what_it_is(os.environ.get("FAKE_LACKS", "").split(","))
    threading.Timer(STAY_SECONDS, os._exit, (3,)).start()
    kvm = word_after("-accel").startswith("kvm")
    behaviour = os.environ["FAKE_KVM" if kvm else "FAKE_TCG"]
    if behaviour in LAST_WORDS:
        print(LAST_WORDS[behaviour], file=sys.stderr)
        os._exit(1)
    if behaviour == "stubborn":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if behaviour != "deaf":
        serve_monitor(kvm, behaviour)
    time.sleep(STAY_SECONDS)
    return 0


def tell_what_it_is(lacks: list[str]) -> int:
    """Answer the probes of harness/machine/qemu_ask.py, as a QEMU without a guest."""
    balloon = [{"name": "free-page-reporting"}, {"name": "deflate-on-oom"}]
    denied = "obsolete elevateprivileges spawn resourcecontrol"
    sandbox = [{"name": name} for name in denied.split()]
    machines = [{"name": "pc-i440fx-9.1", "alias": "pc"}, {"name": "microvm"}]
    event = {"name": os.environ.get("FAKE_EVENT", "ram_block_discard_range"), "state": "disabled"}
    major = json.loads(os.environ.get("FAKE_MAJOR", "9"))
    known: dict[str, Any] = {
        "qmp_capabilities": {},
        "query-version": {"qemu": {**VERSION["qemu"], "major": major}, "package": "fake"},
        "query-target": {"arch": os.environ.get("FAKE_ARCH", "x86_64")},
        "query-machines": [m for m in machines if m.get("alias") not in lacks],
        "virtio-balloon-pci": [p for p in balloon if p["name"] not in lacks],
        "netdev_add": {},
        "query-command-line-options": [{"parameters": sandbox}],
        "query-kvm": {"enabled": False, "present": True},
        "trace-event-get-state": [] if "event" in lacks else [event],
        "trace-event-set-state": {},
        "query-status": {},
    }
    print(json.dumps({"QMP": {"version": VERSION, "capabilities": []}}), flush=True)
    traces = False
    for line in sys.stdin:
        command = json.loads(line)
        name, arguments = command["execute"], command.get("arguments", {})
        if name == "quit":
            break
        if traces and "log" not in lacks:
            print(f"7@1.000002:handle_qmp_command mon 0x5 req: {line}", file=sys.stderr, flush=True)
        traces = arguments.get("enable", traces)
        name = arguments.get("typename", name)
        missing = name in lacks or name not in known
        answer = {"error": {"class": "GenericError"}} if missing else {"return": known[name]}
        print(json.dumps({**answer, **_id(command)}), flush=True)
    return 0


def word_after(option: str) -> str:
    return sys.argv[sys.argv.index(option) + 1]


def say(text: str) -> None:
    with Path(word_after("-serial").removeprefix("file:")).open("a", encoding="utf-8") as console:
        console.write(text)


def serve_monitor(kvm: bool, behaviour: str) -> None:
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(word_after("-qmp").removeprefix("unix:"))

    def send(message: dict[str, Any]) -> None:
        with contextlib.suppress(OSError):
            connection.sendall(json.dumps(message).encode() + b"\r\n")

    def event(name: str, **data: Any) -> None:
        send({"event": name, "data": data, "timestamp": {"seconds": 1, "microseconds": 0}})

    send({"QMP": {"version": VERSION, "capabilities": []}})
    port = 0
    for command in commands(connection):
        if behaviour == "mute" and command["execute"] != "qmp_capabilities":
            continue
        answer: Any = {}
        match command["execute"]:
            case "query-kvm":
                answer = {"enabled": kvm != (behaviour == "liar"), "present": True}
            case "query-status":
                answer = {"status": "internal-error", "running": False}
            case "human-monitor-command":
                answer = (
                    "Hub -1 (net0):\r\n"
                    f"  TCP[HOST_FORWARD]  10  127.0.0.1 {port}  10.0.2.15  22  0 0\r\n"
                )
            case "cont":
                port = run_guest(behaviour, event)
            case "nonsense":
                desc = "The command nonsense has not been found"
                send({"error": {"class": "CommandNotFound", "desc": desc}, **_id(command)})
                continue
        send({"return": answer, **_id(command)})
        if command["execute"] == "quit" and behaviour != "stubborn":
            event("SHUTDOWN", guest=False, reason="host-qmp-quit")
            os._exit(0)


def commands(connection: socket.socket) -> Iterator[dict[str, Any]]:
    """Yield JSON objects from a stream without separators, as QEMU reads them."""
    text = ""
    while data := connection.recv(1 << 16):
        text += data.decode()
        while text.lstrip():
            try:
                command, end = json.JSONDecoder().raw_decode(text.lstrip())
            except ValueError:
                break
            text = text.lstrip()[end:]
            yield command


def _id(command: dict[str, Any]) -> dict[str, Any]:
    return {"id": command["id"]} if "id" in command else {}


def run_guest(behaviour: str, event: Any) -> int:
    """Start the guest's behaviour; return the port of its SSH server, if it has one."""
    event("RESUME")
    if behaviour in ENDINGS:
        threading.Timer(0.2, end_soon, (behaviour, event)).start()
    if behaviour == "silent-reset":
        return 0
    say("[    0.000000] Linux version 6.1.0-fake\n")
    match behaviour:
        case "ready" | "stubborn":
            port = serve_ssh()
            say(
                "fpr-init: start\n"
                "[    1.000000] WARNING: CPU: 0 PID: 1 at mm/fake.c:7 fake_init+0x1/0x2\n"
                "[    1.000000] ---[ end trace 0000000000000000 ]---\nfpr-init: ready\n"
            )
            return port
        case "pause":
            event("STOP")
        case "panic":
            say("[    1.500000] Kernel panic - not syncing: fake panic\n")
        case "oops":
            say(OOPS)
        case "failed":
            say("fpr-init: start\nfpr-init: FAILED: load virtio_net.ko\n")
        case "flood":
            threading.Thread(target=flood, daemon=True).start()
        case "babbler":
            say("fpr-init: ready\n")
            return serve_babble()
        case "stranger":
            port = serve_ssh(own_key=True)
            say("fpr-init: ready\n")
            return port
    return 0


def end_soon(behaviour: str, event: Any) -> None:
    """End as QEMU does, on behalf of its guest or of the host."""
    if behaviour == "reboot":
        say("[    2.000000] reboot: Restarting system\n")
    if behaviour == "bus-error":
        os.kill(os.getpid(), signal.SIGBUS)
        time.sleep(STAY_SECONDS)
    if behaviour != "vanish":
        # With `-no-reboot`, a guest that resets its machine ends QEMU so.
        event("SHUTDOWN", guest=True, reason="guest-reset")
    os._exit(0)


def flood() -> None:
    """Write to the console without end and without a newline."""
    while True:
        say("a line without an end " * 1000)


def serve_babble() -> int:
    """Open a port on which the greeting of an SSH server never ends."""
    listener = socket.create_server(("127.0.0.1", 0))

    def babble() -> None:
        connection = listener.accept()[0]
        with contextlib.suppress(OSError):
            while True:
                connection.sendall(b"SSH-2.0-and so on " * 1000)

    threading.Thread(target=babble, daemon=True).start()
    port: int = listener.getsockname()[1]
    return port


def serve_ssh(*, own_key: bool = False) -> int:
    """Start the guest's SSH server, with the host key from the initramfs."""
    import io

    import paramiko
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from paramiko.common import (
        AUTH_FAILED,
        AUTH_SUCCESSFUL,
        OPEN_SUCCEEDED,
        cMSG_CHANNEL_SUCCESS,
    )

    initramfs = Path(word_after("-initrd")).read_bytes()
    mark = b"\0\0\0\x0bssh-ed25519\0\0\0\x40"
    at = initramfs.index(mark) + len(mark)
    private = (
        Ed25519PrivateKey.generate()
        if own_key
        else Ed25519PrivateKey.from_private_bytes(initramfs[at : at + 32])
    )
    pem = private.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.OpenSSH,
        serialization.NoEncryption(),
    )
    key = paramiko.Ed25519Key(file_obj=io.StringIO(pem.decode()))

    class Transport(paramiko.Transport):
        """Counts the requests it has accepted."""

        accepted = threading.Semaphore(0)

        def _send_user_message(self, data: paramiko.Message) -> None:
            super()._send_user_message(data)  # type: ignore[misc]
            if data.asbytes()[:1] == cMSG_CHANNEL_SUCCESS:
                self.accepted.release()

    def run_accepted(channel: paramiko.Channel, command: bytes) -> None:
        """Wait until the request is accepted: a command that ends earlier would seem refused."""
        Transport.accepted.acquire(timeout=5.0)
        run_command(channel, command)

    class Server(paramiko.ServerInterface):
        def get_allowed_auths(self, _username: str) -> str:
            return "publickey"

        def check_auth_publickey(self, _username: str, key: paramiko.PKey) -> int:
            return AUTH_SUCCESSFUL if key.get_base64().encode() in initramfs else AUTH_FAILED

        def check_channel_request(self, _kind: str, _chanid: int) -> int:
            return OPEN_SUCCEEDED

        def check_channel_exec_request(self, channel: paramiko.Channel, command: bytes) -> bool:
            if command == b"never-answers":
                time.sleep(STAY_SECONDS)
            threading.Thread(target=run_accepted, args=(channel, command), daemon=True).start()
            return True

    listener = socket.create_server(("127.0.0.1", 0))

    def accept() -> None:
        transport = Transport(listener.accept()[0])
        transport.add_server_key(key)
        transport.start_server(server=Server())

    threading.Thread(target=accept, daemon=True).start()
    port: int = listener.getsockname()[1]
    return port


def run_command(channel: Any, command: bytes) -> None:
    """Run a command of the guest here; one killed by a signal has no exit status (RFC 4254)."""
    if command == b"uname -r":
        command = os.environ.get("FAKE_UNAME", "echo 6.1.0-fake").encode()
    process = subprocess.Popen(
        ["sh", "-c", command],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        bufsize=0,
    )

    def feed() -> None:
        with contextlib.suppress(OSError):
            while data := channel.recv(1 << 15):
                process.stdin.write(data)  # type: ignore[union-attr]
        with contextlib.suppress(OSError):
            process.stdin.close()  # type: ignore[union-attr]

    def drain(pipe: Any, send: Any) -> None:
        with contextlib.suppress(OSError):
            while data := pipe.read(1 << 15):
                send(data)

    threading.Thread(target=feed, daemon=True).start()
    outputs = [
        threading.Thread(target=drain, args=(process.stdout, channel.sendall)),
        threading.Thread(target=drain, args=(process.stderr, channel.sendall_stderr)),
    ]
    for thread in outputs:
        thread.start()
    for thread in outputs:
        thread.join()
    status = process.wait()
    if status >= 0:
        channel.send_exit_status(status)
    channel.close()


if __name__ == "__main__":
    sys.exit(main())
