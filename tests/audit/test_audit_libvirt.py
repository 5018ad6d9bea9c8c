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
from collections.abc import Iterator
from pathlib import Path

import pytest
from plain_vm import APPEND, BOOT_SECONDS, PlainVm, free_port, part, plain_vm, write_ssh

from harness.deadline import Deadline, wait_for
from harness.image.build import ensure_image
from harness.image.definition import load_definitions
from harness.machine.keys import RunKeys, write_keyed_initramfs
from harness.machine.pace import slowness

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
  <name>web</name>
  <memory unit='MiB'>512</memory>
  <vcpu>2</vcpu>
  <os>
    <type arch='x86_64' machine='pc'>hvm</type>
    <kernel>{directory}/kernel</kernel>
    <initrd>{directory}/initrd</initrd>
    <cmdline>{append}</cmdline>
  </os>
  <features><acpi/></features>
  <cpu mode='maximum'><feature policy='disable' name='cx16'/></cpu>
  <seclabel type='none'/>
  <devices>
    <emulator>/usr/bin/qemu-system-x86_64</emulator>
    <memballoon model='virtio' freePageReporting='on'/>
    <serial type='file'><source path='{directory}/home/console.log'/></serial>
  </devices>
  <qemu:commandline>
    <qemu:arg value='-netdev'/>
    <qemu:arg value='user,id=net0,restrict=on,hostfwd=tcp:127.0.0.1:{port}-:22'/>
    <qemu:arg value='-device'/>
    <qemu:arg value='virtio-net-pci,netdev=net0,addr=0x10'/>
  </qemu:commandline>
</domain>
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
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory that nobody may pass."""
    place = tmp_path_factory.mktemp("libvirt")
    for above in (place, *place.parents[:2]):
        above.chmod(0o755)
    return place


@pytest.fixture(scope="module")
def uri(place: Path) -> Iterator[str]:
    with libvirtd(place / "home") as found:
        yield found


@pytest.fixture(scope="module")
def vm(place: Path, uri: str) -> Iterator[PlainVm]:
    image = ensure_image(load_definitions()["bookworm"], progress=print)
    keys, port = RunKeys.generate(), free_port()
    shutil.copy(image.kernel, place / "kernel")
    write_keyed_initramfs(image.initramfs, keys, place / "initrd")
    for name in ("kernel", "initrd"):
        (place / name).chmod(0o644)
    console = place / "home" / "console.log"
    console.touch()
    os.chown(console, NOBODY, NOBODY)
    write_ssh(place, "web", port, keys)
    definition = place / "web.xml"
    definition.write_text(DOMAIN.format(directory=place, append=APPEND, port=port))
    virsh(uri, "create", str(definition))
    try:
        wait_for(
            lambda: b"fpr-init: ready" in console.read_bytes() or None,
            Deadline(BOOT_SECONDS * slowness(), "the domain's guest"),
            interval=0.1,
        )
        pid = int((place / "home/libvirt/qemu/run/web.pid").read_text())
        yield PlainVm("web", pid, place)
    finally:
        virsh(uri, "destroy", "web")


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
        words = ("--domain", "web", "--ssh", "plain")
        said = other.audit(*words, status=69, LIBVIRT_DEFAULT_URI=uri)
    assert "is not this VM" in said
