# SPDX-License-Identifier: Apache-2.0
"""From a `GuestSpec` to QEMU's command line. Pure."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from harness.machine.spec import Backend, GuestSpec
from harness.units import MIB

BALLOON_ID = "balloon0"
BALLOON_PATH = f"/machine/peripheral/{BALLOON_ID}"
"""The balloon device in QEMU's object model."""

GUEST_ADDRESS = "10.0.2.15"
"""slirp's first guest address; the image's init uses it without asking."""

TRANSLATION_BUFFER_MIB = 256
"""TCG's code buffer: a small guest fills about 60 MiB of it, so it is never flushed, and QEMU's
default (an eighth of the host's memory, at most 1 GiB) would cost without use."""

KERNEL_WORDS = (
    "console=ttyS0",
    "panic=-1",  # a panic ends QEMU at once (-no-reboot): the run need not wait for a deadline
    "random.trust_cpu=on",  # seeds the generator at once, or sshd waits for entropy
    "no_timer_check",  # the check can fail, and waits, on an emulated timer under load
    "audit=0",
)


@dataclass(frozen=True)
class LaunchFiles:
    """The paths one QEMU is given."""

    qemu: Path
    kernel: Path
    initramfs: Path
    runtime: Path
    """The VM's own directory of mode 0700: sockets and RAM files."""
    console_log: Path
    discard_log: Path
    discard_event: str | None
    """The trace event that tells of discards; None: this QEMU has none."""


def qemu_command(
    spec: GuestSpec,
    files: LaunchFiles,
    *,
    accel: Literal["kvm", "tcg"],
    cpu: str,
    name: str,
    incoming: bool = False,
    tsc_khz: int = 0,
) -> list[str]:
    """The words of one launch: stopped before the first instruction until QMP says `cont`.

    `incoming`: waits for a guest that migrates to it. `tsc_khz`: the rate of the guest's TSC, which
    a microvm under TCG has no clock to measure by; 0: not known.
    """
    return [
        str(files.qemu),
        *_machine_words(spec, files, accel, cpu, name, tsc_khz),
        *("-netdev", "user,id=net0,restrict=on,hostfwd=tcp:127.0.0.1:0-:22"),
        *("-device", f"{_driver(spec, 'virtio-net')},netdev=net0{_no_rom(spec)}"),
        *(("-incoming", "defer") if incoming else ()),
        "-serial",
        f"file:{files.console_log}",
        *("-qmp", f"unix:{_escaped(files.runtime)}/qmp.sock"),
        # For people, and for tests that do harm from outside.
        *("-qmp", f"unix:{_escaped(files.runtime)}/debug.sock,server=on,wait=off"),
        "-S",
        "-no-reboot",
        *("-msg", "timestamp=on"),
        *_trace_words(files, files.discard_log),
    ]


def command_by_hand(
    spec: GuestSpec,
    files: LaunchFiles,
    *,
    accel: Literal["kvm", "tcg"],
    cpu: str,
    tsc_khz: int = 0,
) -> list[str]:
    """The same guest for a person: console and monitor on the terminal, a root shell on it.

    It has no network card: without a run's keys the guest's init could not start its SSH server.
    """
    by_hand = replace(spec, cmdline=f"{spec.cmdline} fpr.console_shell".strip(), discard="dontneed")
    return [
        str(files.qemu),
        *_machine_words(by_hand, files, accel, cpu, "fpr-by-hand", tsc_khz),
        *("-serial", "mon:stdio"),
        *("-qmp", "unix:qmp.sock,server=on,wait=off"),
        "-no-reboot",
        *("-msg", "timestamp=on"),
        # Not discards.log: in the directory of a run that one is evidence.
        *_trace_words(files, Path("by-hand-discards.log")),
    ]


def _machine_words(
    spec: GuestSpec, files: LaunchFiles, accel: str, cpu: str, name: str, tsc_khz: int
) -> Iterator[str]:
    accelerator = f"tcg,thread=multi,tb-size={TRANSLATION_BUFFER_MIB}" if accel == "tcg" else "kvm"
    yield from ("-name", f"guest={name}")
    yield from ("-nodefaults", "-no-user-config", "-display", "none")
    yield from ("-accel", accelerator, "-cpu", cpu)
    yield from _memory_words(spec, files)
    # Nodes that share a socket would share its cache, and the kernel warns of that.
    yield from ("-smp", f"{spec.vcpus},sockets={spec.vcpus}" if spec.numa else str(spec.vcpus))
    yield from ("-kernel", str(files.kernel), "-initrd", str(files.initramfs))
    # The kernel of a microvm under TCG has no clock to measure its TSC by. Left with it, the
    # clocksource watchdog holds it against timer ticks, of which a busy host loses some, calls the
    # TSC unstable and counts the ticks instead: its clock then runs several times too slow.
    told = spec.machine == "microvm" and accel == "tcg" and tsc_khz
    tsc = [f"tsc_early_khz={tsc_khz}", "tsc=reliable"] if told else []
    yield from ("-append", " ".join([*KERNEL_WORDS, *tsc, *spec.cmdline.split()]))
    if spec.balloon.free_page_hint:
        # QEMU walks the hints in a thread of their own.
        yield from ("-object", "iothread,id=hints")
    balloon = balloon_properties(spec, reporting=spec.balloon.free_page_reporting)
    yield from ("-device", _words(balloon))
    if spec.disk:
        path = _escaped(files.runtime / "disk")
        disk = f"driver=raw,node-name=disk0,file.driver=file,file.filename={path}"
        yield from ("-blockdev", disk, "-device", "virtio-blk-pci,drive=disk0")


def _trace_words(files: LaunchFiles, log: Path) -> Iterator[str]:
    if files.discard_event is not None:
        yield from ("-trace", files.discard_event, "-D", str(log))


def balloon_properties(spec: GuestSpec, *, reporting: bool) -> dict[str, str | bool]:
    """The balloon as QMP's device_add wants it."""
    properties: dict[str, str | bool] = {
        "driver": _driver(spec, "virtio-balloon"),
        "id": BALLOON_ID,
        "free-page-reporting": reporting,
    }
    if spec.balloon.deflate_on_oom:
        properties["deflate-on-oom"] = True
    if spec.balloon.free_page_hint:
        properties |= {"free-page-hint": True, "iothread": "hints"}
    return properties


def _words(properties: dict[str, str | bool]) -> str:
    """The same as `-device` wants it."""
    words = [str(properties["driver"])]
    for name, value in properties.items():
        if isinstance(value, bool):
            value = "on" if value else "off"
        if name != "driver":
            words.append(f"{name}={value}")
    return ",".join(words)


def _driver(spec: GuestSpec, name: str) -> str:
    """A virtio device on the machine's bus."""
    return f"{name}-device" if spec.machine == "microvm" else f"{name}-pci"


def _no_rom(spec: GuestSpec) -> str:
    """An option ROM is a thing of PCI; the guest boots from nothing but its kernel."""
    return "" if spec.machine == "microvm" else ",romfile="


def _memory_words(spec: GuestSpec, files: LaunchFiles) -> Iterator[str]:
    slots = f",slots=4,maxmem={(spec.memory + spec.hotplug) // MIB}M" if spec.hotplug else ""
    yield from ("-m", f"{spec.memory // MIB}M{slots}")
    sizes = [node.memory for node in spec.numa] or [spec.memory]
    for number, size in enumerate(sizes):
        yield from ("-object", _backend_words(spec.backend, f"m{number}", size, files.runtime))
    if not spec.numa:
        yield from ("-machine", f"{spec.machine},memory-backend=m0")
        return
    yield from ("-machine", spec.machine)
    for number, node in enumerate(spec.numa):
        cpus = "".join(f",cpus={cpu}" for cpu in node.vcpus)
        yield from ("-numa", f"node,nodeid={number},memdev=m{number}{cpus}")


def _escaped(path: Path) -> str:
    """A path inside an option string, where QEMU takes a doubled comma for one (keyval.c)."""
    return str(path).replace(",", ",,")


def _backend_words(backend: Backend, name: str, size: int, runtime: Path) -> str:
    share = "on" if backend.endswith("-shared") else "off"
    match backend:
        case "anonymous":
            return f"memory-backend-ram,id={name},size={size}"
        case "memfd-shared" | "memfd-private":
            return f"memory-backend-memfd,id={name},size={size},share={share}"
        case "file-shared" | "file-private":
            path = runtime / f"{name}.ram"
            return (
                f"memory-backend-file,id={name},size={size},mem-path={_escaped(path)},share={share}"
            )
        case "hugetlb":
            return f"memory-backend-memfd,id={name},size={size},hugetlb=on,hugetlbsize=2M"
