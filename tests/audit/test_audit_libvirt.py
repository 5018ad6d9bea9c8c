# SPDX-License-Identifier: Apache-2.0
"""`fpr-harness audit --domain`: a domain of a real libvirt, in a session that is another user's.

libvirt refuses sessions to root, so that as root the daemon runs as nobody, and virsh reaches it by
its socket.
"""

import contextlib
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from debian_guest import APPEND as DEBIAN_APPEND
from debian_guest import LOGIN, debian_guest
from plain_vm import (
    APPEND,
    DEBIAN_SECONDS,
    READY,
    PlainVm,
    free_port,
    part,
    plain_vm,
    write_ssh,
)

from harness.deadline import Deadline, wait_for
from harness.image.build import ensure_image
from harness.image.definition import load_definitions
from harness.machine.keys import RunKeys, write_keyed_initramfs
from harness.machine.pace import slowness
from harness.units import MIB

pytestmark = [
    pytest.mark.vm,
    pytest.mark.skipif(
        shutil.which("libvirtd") is None or shutil.which("virsh") is None,
        reason="libvirtd and virsh are not installed",
    ),
    pytest.mark.skipif(os.geteuid() != 0, reason="becomes another user"),
]

NOBODY = 65534

DOMAIN = """
<domain type='qemu' xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'>
  <name>{name}</name>
  <memory unit='MiB'>{memory}</memory>
  <vcpu>2</vcpu>
  <os>
    <type arch='x86_64' machine='pc'>hvm</type>
    <kernel>{directory}/{name}-kernel</kernel>
    <initrd>{directory}/{name}-initrd</initrd>
    <cmdline>{append}</cmdline>
  </os>
  <features><acpi/></features>
  <cpu mode='maximum'><feature policy='disable' name='cx16'/></cpu>
  <seclabel type='none'/>
  <devices>
    <emulator>/usr/bin/qemu-system-x86_64</emulator>
    <memballoon model='virtio' freePageReporting='on'/>
    <serial type='file'><source path='{directory}/home/{name}.log'/></serial>
    {devices}
  </devices>
  <qemu:commandline>
    <qemu:arg value='-netdev'/>
    <qemu:arg value='user,id=net0,restrict=on,hostfwd=tcp:127.0.0.1:{port}-:22'/>
    <qemu:arg value='-device'/>
    <qemu:arg value='virtio-net-pci,netdev=net0,addr=0x10'/>
  </qemu:commandline>
</domain>
"""


AGENT = """
    <disk type='file' device='disk'>
      <driver name='qemu' type='raw'/>
      <source file='{directory}/debian-disk'/>
      <target dev='vda' bus='virtio'/>
    </disk>
    <channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0'/></channel>
"""


@contextlib.contextmanager
def libvirtd(directory: Path) -> Iterator[str]:
    """A daemon of nobody's session; yields the URI by which virsh reaches it."""
    directory.mkdir()
    os.chown(directory, NOBODY, NOBODY)
    socket = directory / "libvirt" / "libvirt-sock"
    home = {"HOME": str(directory), "XDG_RUNTIME_DIR": str(directory), "PATH": os.environ["PATH"]}
    with (directory.parent / "libvirtd.log").open("wb") as log:
        daemon = subprocess.Popen(
            ["libvirtd"],
            user=NOBODY,
            group=NOBODY,
            extra_groups=[],
            env=home,
            stdout=log,
            stderr=log,
            cwd=directory,
        )
    try:
        wait_for(lambda: socket.exists() or None, Deadline(30.0 * slowness(), "libvirtd's socket"))
        yield f"qemu+unix:///session?socket={socket}"
    finally:
        daemon.terminate()
        daemon.wait(30.0)


def virsh(uri: str, *words: str) -> None:
    done = subprocess.run(
        ["virsh", "--quiet", "-c", uri, *words], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, (words, done.stderr)


@pytest.fixture(scope="module")
def place() -> Iterator[Path]:
    """A directory that nobody may pass; a short path, for libvirt's sockets below it."""
    with tempfile.TemporaryDirectory(prefix="fprt") as directory:
        place = Path(directory)
        place.chmod(0o755)
        yield place


@pytest.fixture(scope="module")
def uri(place: Path) -> Iterator[str]:
    with libvirtd(place / "home") as found:
        yield found


@contextlib.contextmanager
def domain(
    place: Path, uri: str, vm: PlainVm, append: str, ready: bytes, **words: str
) -> Iterator[PlainVm]:
    """Run a domain whose kernel and initrd lie in the place, `NAME-kernel` and `NAME-initrd`."""
    name = vm.name
    for part_of in ("kernel", "initrd"):
        (place / f"{name}-{part_of}").chmod(0o644)
    console = place / "home" / f"{name}.log"
    console.touch()
    os.chown(console, NOBODY, NOBODY)
    definition = place / f"{name}.xml"
    definition.write_text(DOMAIN.format(name=name, directory=place, append=append, **words))
    virsh(uri, "create", str(definition))
    try:
        wait_for(
            lambda: ready in console.read_bytes() or None,
            Deadline(DEBIAN_SECONDS * slowness(), "the domain's guest"),
            interval=0.1,
        )
        pid = int((place / f"home/libvirt/qemu/run/{name}.pid").read_text())
        yield PlainVm(name, pid, vm.directory)
    finally:
        virsh(uri, "destroy", name)


@pytest.fixture(scope="module")
def vm(place: Path, uri: str) -> Iterator[PlainVm]:
    image = ensure_image(load_definitions()["bookworm"], progress=print)
    keys, port = RunKeys.generate(), free_port()
    shutil.copy(image.kernel, place / "web-kernel")
    write_keyed_initramfs(image.initramfs, keys, place / "web-initrd")
    write_ssh(place, "web", keys.client_pem, keys.known_hosts(f"[127.0.0.1]:{port}"), port)
    plain = PlainVm("web", 0, place)
    words = {"memory": "512", "devices": "", "port": str(port)}
    with domain(place, uri, plain, APPEND, READY, **words) as running:
        yield running


@pytest.fixture(scope="module")
def debian(place: Path, uri: str) -> Iterator[PlainVm]:
    """A domain with a guest agent."""
    guest, port = debian_guest(), free_port()
    for name, file in (("kernel", guest.kernel), ("initrd", guest.initrd), ("disk", guest.disk)):
        shutil.copy(file, place / f"debian-{name}")
    os.chown(place / "debian-disk", NOBODY, NOBODY)
    (place / "debian").mkdir()
    known = guest.known_hosts(f"[127.0.0.1]:{port}")
    write_ssh(place / "debian", "debian", guest.key, known, port)
    plain = PlainVm("debian", 0, place / "debian")
    devices = AGENT.format(directory=place)
    words = {"memory": "1024", "devices": devices, "port": str(port)}
    with domain(place, uri, plain, DEBIAN_APPEND, LOGIN, **words) as running:
        yield running


def test_both_sides_of_a_domain(vm: PlainVm, uri: str) -> None:
    words = ("--domain", "web", "--ssh", "web", "--json")
    audit = json.loads(vm.audit(*words, LIBVIRT_DEFAULT_URI=uri))
    assert audit["vm"]["pid"] == vm.pid
    assert audit["vm"]["name"] == "web"
    assert audit["guest"]["reporting"] is True
    assert part(audit, "kernel") > 0
    assert abs(part(audit, "unexplained")) <= audit["total"] / 100


def test_the_list_says_how_to_name_a_domain(vm: PlainVm) -> None:
    [row] = [line for line in vm.audit().splitlines() if line.split()[:1] == [str(vm.pid)]]
    assert "--domain web" in row
    said = vm.audit("--pid", str(vm.pid), status=69)
    assert "whose monitor libvirt keeps for itself" in said
    assert "--domain web" in said


def test_a_domain_that_is_not_there(vm: PlainVm, uri: str) -> None:
    said = vm.audit("--domain", "other", status=69, LIBVIRT_DEFAULT_URI=uri)
    assert "libvirt has no domain 'other'" in said


@pytest.mark.usefixtures("vm")
def test_the_address_of_another_vm_is_found_out(uri: str, tmp_path: Path) -> None:
    with plain_vm(tmp_path, memory="1G") as other:
        words = ("--domain", "web", "--ssh", other.name)
        said = other.audit(*words, status=69, LIBVIRT_DEFAULT_URI=uri)
    assert "is not this VM" in said


def test_the_guest_agent_of_a_domain(debian: PlainVm, uri: str) -> None:
    words = ("--domain", "debian", "--guest-agent", "--json")
    audit = json.loads(debian.audit(*words, LIBVIRT_DEFAULT_URI=uri))
    assert audit["vm"]["pid"] == debian.pid
    assert audit["guest"]["reporting"] is True
    assert part(audit, "page_cache") > 30 * MIB
    assert abs(part(audit, "unexplained")) <= audit["total"] / 100
    assert debian.run("ls /tmp /run | grep fpr-audit; :") == ""


def test_a_domain_without_an_agent(vm: PlainVm, uri: str) -> None:
    said = vm.audit("--domain", "web", "--guest-agent", status=69, LIBVIRT_DEFAULT_URI=uri)
    assert "has no port for a guest agent" in said
