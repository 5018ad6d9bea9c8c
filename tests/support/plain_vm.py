# SPDX-License-Identifier: Apache-2.0
"""Starts a VM by a plain QEMU command line, as somebody else would: nothing of `harness.machine`.

The guest is an image of the project's, or Debian's own userland. A program `ssh` in the VM's
directory, for the front of PATH, calls ssh(1) with a configuration of the VM's.
"""

import contextlib
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alpine_guest import APPEND as ALPINE_APPEND
from alpine_guest import READY as ALPINE_READY
from alpine_guest import AlpineGuest
from debian_guest import APPEND as DEBIAN_APPEND
from debian_guest import LOGIN, debian_guest

from harness.deadline import Deadline, wait_for
from harness.image.build import ensure_image
from harness.image.definition import load_definitions
from harness.machine.keys import RunKeys, write_keyed_initramfs
from harness.machine.pace import slowness

BOOT_SECONDS, DEBIAN_SECONDS = 90.0, 240.0
READY = b"fpr-init: ready"
SSH_SECONDS = 60.0
REPORTING = "virtio-balloon-pci,id=balloon0,free-page-reporting=on"
SILENT = "virtio-balloon-pci,id=balloon0"

# A shell starts background jobs with SIGINT ignored, which a visit's ssh(1) would inherit.
NAME = f"plain{os.environ.get('PYTEST_XDIST_WORKER', '')}"
"""One for each worker: an audit by name refuses two VMs of one name."""

APPEND = "console=ttyS0 panic=-1 no_timer_check random.trust_cpu=on audit=0"


@dataclass(frozen=True)
class PlainVm:
    """A running VM, its guest ready for SSH as root at the destination `name`."""

    name: str
    pid: int
    directory: Path

    @property
    def qmp(self) -> Path:
        return self.directory / "qmp.sock"

    @property
    def environment(self) -> dict[str, str]:
        """In which `ssh NAME` reaches the guest."""
        return {**os.environ, "PATH": f"{self.directory}:{os.environ['PATH']}"}

    def run(self, command: str, stdin: bytes = b"") -> str:
        """Run a command in the guest; return its output."""
        done = subprocess.run(
            ["ssh", "-o", "BatchMode=yes", self.name, command],
            env=self.environment,
            input=stdin,
            capture_output=True,
            timeout=SSH_SECONDS * slowness(),
            check=False,
        )
        assert done.returncode == 0, (command, done)
        return done.stdout.decode()

    def audit(self, *words: str, status: int = 0, **environment: str) -> str:
        """Run `fpr-harness audit WORDS`; return its output, with standard error if it failed."""
        done = subprocess.run(
            [sys.executable, "-m", "harness", "audit", *words],
            env=self.environment | environment,
            capture_output=True,
            text=True,
            timeout=SSH_SECONDS * slowness(),
            check=False,
        )
        assert done.returncode == status, (words, done)
        return done.stdout if status == 0 else done.stderr

    def look(self, *words: str) -> Any:
        """Audit both sides, or what else `words` say; return the parsed JSON."""
        return json.loads(self.audit("--pid", str(self.pid), "--json", *words))

    def both(self) -> Any:
        """Audit both sides by SSH."""
        return self.look("--ssh", self.name)

    def tell(self, command: str, **arguments: Any) -> Any:
        """Send one QMP command."""
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(10.0)
            connection.connect(str(self.qmp))
            lines = connection.makefile("rw")
            lines.readline()
            answer: dict[str, Any] = {}
            for message in (
                {"execute": "qmp_capabilities"},
                {"execute": command, "arguments": arguments},
            ):
                lines.write(json.dumps(message) + "\n")
                lines.flush()
                answer = {}
                while not answer.keys() & {"return", "error"}:
                    answer = json.loads(lines.readline())
            assert "return" in answer, answer
            return answer["return"]


def part(audit: Mapping[str, Any], name: str) -> int:
    """Bytes of a part of an audit."""
    return sum(part["size"] for part in audit["parts"] if part["name"] == name)


def advised(audit: Mapping[str, Any]) -> dict[str, Any]:
    """The advice of an audit by name."""
    return {advice["name"]: advice for advice in audit["advice"]}


@contextlib.contextmanager
def plain_vm(
    directory: Path,
    *,
    name: str = NAME,
    memory: str = "512M",
    device: str | None = REPORTING,
    append: str = "",
    words: Sequence[str] = (),
    kernel: Path | None = None,
) -> Iterator[PlainVm]:
    """Start the VM, and end it with the block.

    `device`: the balloon; `append`: more for the guest's command line; `words`: more for QEMU;
    `kernel`: in place of the image's own.
    """
    image = ensure_image(load_definitions()["bookworm"], kernel=kernel, progress=print)
    keys = RunKeys.generate()
    write_keyed_initramfs(image.initramfs, keys, directory / "initrd")
    port = free_port()
    write_ssh(directory, name, keys.client_pem, keys.known_hosts(f"[127.0.0.1]:{port}"), port)
    boot = (
        *("-kernel", str(image.kernel), "-initrd", str(directory / "initrd")),
        *("-append", f"{APPEND} {append}"),
    )
    more = (*boot, *(("-device", device) if device else ()), *words)
    with running(directory, name, memory, port, more, READY, BOOT_SECONDS) as vm:
        yield vm


@contextlib.contextmanager
def debian_vm(
    directory: Path, *, name: str = "debian", memory: str = "1G", words: Sequence[str] = ()
) -> Iterator[PlainVm]:
    """Start a Debian guest with a port for its guest agent, behind `ga.sock` of the directory."""
    guest = debian_guest()
    port = free_port()
    write_ssh(directory, name, guest.key, guest.known_hosts(f"[127.0.0.1]:{port}"), port)
    more = (
        *("-kernel", str(guest.kernel), "-initrd", str(guest.initrd), "-append", DEBIAN_APPEND),
        *("-drive", f"file={guest.disk},format=raw,if=virtio,snapshot=on"),
        *("-device", REPORTING, "-device", "virtio-serial"),
        *("-chardev", f"socket,id=ga,path={directory}/ga.sock,server=on,wait=off"),
        *("-device", "virtserialport,chardev=ga,name=org.qemu.guest_agent.0"),
        *words,
    )
    with running(directory, name, memory, port, more, LOGIN, DEBIAN_SECONDS) as vm:
        yield vm


@contextlib.contextmanager
def alpine_vm(directory: Path, *, name: str = "alpine", memory: str = "1G") -> Iterator[PlainVm]:
    """Start an Alpine guest."""
    guest, port = AlpineGuest(directory), free_port()
    known = guest.keys.known_hosts(f"[127.0.0.1]:{port}")
    write_ssh(directory, name, guest.keys.client_pem, known, port)
    more = (
        *("-kernel", str(guest.kernel), "-initrd", str(guest.initrd), "-append", ALPINE_APPEND),
        *("-drive", f"file={guest.disk},format=raw,if=virtio", "-device", REPORTING),
    )
    with running(directory, name, memory, port, more, ALPINE_READY, DEBIAN_SECONDS) as vm:
        yield vm


@contextlib.contextmanager
def running(
    directory: Path,
    name: str,
    memory: str,
    port: int,
    words: Sequence[str],
    ready: bytes,
    seconds: float,
) -> Iterator[PlainVm]:
    """Run QEMU; its guest is up once its console shows `ready`, within `seconds`."""
    command = [
        *("qemu-system-x86_64", "-name", f"guest={name}", "-m", memory, "-smp", "2"),
        *("-cpu", "max,-cx16", "-display", "none"),
        *("-serial", f"file:{directory}/console.log"),
        *("-netdev", f"user,id=net0,restrict=on,hostfwd=tcp:127.0.0.1:{port}-:22"),
        *("-device", "virtio-net-pci,netdev=net0"),
        *("-qmp", f"unix:{directory}/qmp.sock,server=on,wait=off"),
        *words,
        *("-accel", "tcg,thread=multi"),  # QEMU takes the first that works, so one among `words`
    ]
    log, console = directory / "qemu.log", directory / "console.log"
    console.unlink(missing_ok=True)  # of an earlier VM, which was ready
    with log.open("wb") as errors:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stderr=errors, stdout=subprocess.DEVNULL
        )
    try:

        def up() -> bool | None:
            assert process.poll() is None, log.read_text()
            return ready in console.read_bytes() if console.exists() else None

        wait_for(lambda: up() or None, Deadline(seconds * slowness(), "the guest"), interval=0.1)
        yield PlainVm(name, process.pid, directory)
    finally:
        process.kill()
        process.wait()


def settled(vm: PlainVm, least: int, seconds: float = 60.0) -> Any:
    """Audit until less than `least` bytes wait to be reported; return that audit."""
    deadline = Deadline(seconds * slowness(), "the guest to have reported what it can")
    while part(audit := vm.both(), "waiting") >= least:
        deadline.check(f"{part(audit, 'waiting')} bytes wait")
        time.sleep(1.0)  # passes come every 2 s
    return audit


def write_ssh(directory: Path, name: str, key: str, known_hosts: str, port: int) -> None:
    """Write the program `ssh` and what it needs to reach the guest at the port by its name."""
    (directory / "key").write_text(key)
    (directory / "key").chmod(0o600)
    (directory / "known_hosts").write_text(known_hosts)
    (directory / "ssh_config").write_text(
        f"Host {name}\n  HostName 127.0.0.1\n  Port {port}\n  User root\n"
        f"  IdentityFile {directory}/key\n  IdentitiesOnly yes\n"
        f"  UserKnownHostsFile {directory}/known_hosts\n  GlobalKnownHostsFile /dev/null\n"
        "  StrictHostKeyChecking ask\n"
    )
    program = directory / "ssh"
    program.write_text(f'#!/bin/sh\nexec /usr/bin/ssh -F {directory}/ssh_config "$@"\n')
    program.chmod(0o755)


def free_port() -> int:
    """Find a port of the loopback that nobody uses."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
