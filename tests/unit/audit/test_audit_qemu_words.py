# SPDX-License-Identifier: Apache-2.0
"""What a QEMU's command line says, in the ways in which people and libvirt write it."""

import pytest

from harness.audit.qemu_words import QemuWords, is_qemu, read_words
from harness.units import GIB, MIB

LIBVIRT = (
    "/usr/bin/qemu-system-x86_64 -name guest=web,debug-threads=on -S "
    '-object {"qom-type":"memory-backend-ram","id":"pc.ram","size":2147483648} '
    "-m size=2097152k -chardev socket,id=charmonitor,fd=24,server=on,wait=off "
    "-mon chardev=charmonitor,id=monitor,mode=control -device "
    '{"driver":"virtio-balloon-pci","id":"balloon0","free-page-reporting":true,"bus":"pci.5"}'
).split()


def words(text: str) -> QemuWords:
    return read_words(["qemu-system-x86_64", *text.split()])


def test_a_plain_command_line() -> None:
    read = words(
        "-name vm1 -m 1G -qmp unix:/run/vm1.sock,server=on,wait=off "
        "-device virtio-balloon-pci,free-page-reporting=on"
    )
    assert read == QemuWords("vm1", GIB, "reporting", ("/run/vm1.sock",), (), "")


def test_libvirts_command_line() -> None:
    """Its monitor is a descriptor that libvirt holds, so no socket is to be tried."""
    assert read_words(LIBVIRT) == QemuWords("web", 2 * GIB, "reporting", (), (), "web")


PROXMOX = (
    "/usr/bin/kvm -id 100 -name web,debug-threads=on -no-shutdown "
    "-chardev socket,id=qmp,path=/var/run/qemu-server/100.qmp,server=on,wait=off "
    "-mon chardev=qmp,mode=control "
    "-chardev socket,id=qmp-event,path=/var/run/qmeventd.sock,reconnect=5 "
    "-mon chardev=qmp-event,mode=control -daemonize -m 2048 "
    "-device virtio-balloon-pci,id=balloon0,bus=pci.0,addr=0x3,free-page-reporting=on "
    "-chardev socket,path=/var/run/qemu-server/100.qga,server=on,wait=off,id=qga0 "
    "-device virtio-serial,id=qga0,bus=pci.0,addr=0x8 "
    "-device virtserialport,chardev=qga0,name=org.qemu.guest_agent.0"
).split()


def test_a_command_line_like_those_of_proxmox() -> None:
    """QEMU itself connects to the socket for events, which is none to connect to."""
    sockets, agents = ("/var/run/qemu-server/100.qmp",), ("/var/run/qemu-server/100.qga",)
    assert read_words(PROXMOX) == QemuWords("web", 2 * GIB, "reporting", sockets, agents, "")


def test_a_command_line_like_those_of_kata() -> None:
    """Its runtime hands over the first socket as a descriptor; the second takes configuration."""
    read = words(
        "-name sandbox-41cb -m 2048M,slots=10,maxmem=15G -qmp unix:fd=3,server=on,wait=off "
        "-qmp unix:path=/run/vc/vm/41cb/extra-monitor.sock,server=on,wait=off "
        "-device virtio-balloon,free-page-reporting=on"
    )
    sockets = ("/run/vc/vm/41cb/extra-monitor.sock",)
    assert read == QemuWords("sandbox-41cb", 2 * GIB, "reporting", sockets, (), "")


@pytest.mark.parametrize(
    ("text", "memory"),
    [
        ("-m 512", 512 * MIB),
        ("-m 512M,slots=4,maxmem=2G", 512 * MIB),
        ("-m size=1G", GIB),
        ("-m 2g", 2 * GIB),
        ("-m what", None),
        ("", None),
    ],
)
def test_memory(text: str, memory: int | None) -> None:
    assert words(text).memory == memory


@pytest.mark.parametrize(
    ("text", "balloon"),
    [
        ("", "none"),
        ("-device virtio-net-pci", "none"),
        ("-device virtio-balloon-pci", "silent"),
        ("-device virtio-balloon-pci,free-page-reporting=off", "silent"),
        ("-device virtio-balloon-device,free-page-reporting=true", "reporting"),
    ],
)
def test_balloon(text: str, balloon: str) -> None:
    assert words(text).balloon == balloon


@pytest.mark.parametrize(
    ("text", "sockets"),
    [
        ("-qmp unix:a.sock,server,nowait", ("a.sock",)),
        ("-qmp unix:a.sock", ()),
        ("-qmp tcp:localhost:4444,server=on", ()),
        ("-qmp unix:a,,b.sock,server=on", ("a,b.sock",)),
        ("-monitor unix:hmp.sock,server=on", ()),
        ("-qmp unix:fd=3,server=on,wait=off", ()),
        (
            "-chardev socket,id=m,path=/run/m.sock,server=on -mon chardev=m,mode=control",
            ("/run/m.sock",),
        ),
        ("-chardev socket,id=m,path=/run/m.sock,server=on -mon chardev=m,mode=readline", ()),
        (
            "-object monitor-qmp,id=q,chardev=m -chardev socket,id=m,path=/run/m.sock,server=on",
            ("/run/m.sock",),
        ),
        ("-qmp-pretty unix:a,server=on -qmp unix:b,server=on -qmp unix:a,server=on", ("a", "b")),
    ],
)
def test_only_listening_qmp_sockets_count(text: str, sockets: tuple[str, ...]) -> None:
    assert words(text).sockets == sockets


@pytest.mark.parametrize(
    ("program", "command", "expected"),
    [
        ("/usr/bin/qemu-system-x86_64", ["anything"], True),
        ("/usr/bin/qemu-system-x86_64 (deleted)", ["anything"], True),
        ("/usr/libexec/qemu-kvm", ["x"], True),
        ("/usr/bin/qemu-system-x86_64-spice", ["x"], True),  # Ubuntu's
        ("/opt/kata/bin/qemu-system-x86_64-snp-experimental", ["x"], True),
        ("/nix/store/q/bin/.qemu-system-x86_64-wrapped", ["x"], True),
        ("", ["/usr/bin/kvm", "-id", "100"], True),
        ("/lib/ld-linux-x86-64.so.2", ["ld", "--argv0", "qemu-system-x86_64", "/opt/q"], True),
        # What only names a QEMU is none.
        ("/usr/bin/python3.11", ["qemu-system-x86_64"], False),
        ("/usr/bin/vim", ["vim", "qemu-system-x86_64"], False),
        ("", ["vim", "qemu-system-x86_64"], False),
        ("/usr/bin/qemu-img", ["qemu-img"], False),
    ],
)
def test_which_process_is_a_qemu(program: str, command: list[str], expected: bool) -> None:
    assert is_qemu(program, command) is expected
