# SPDX-License-Identifier: Apache-2.0
"""Make QEMU's command line from a `GuestSpec`, without I/O."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from harness.machine.spec import Backend, GuestSpec
from harness.units import MIB

BALLOON_ID = "balloon0"
MEMORY_SLOTS = 4
"""DIMMs that can be plugged at the same time."""
BALLOON_PATH = f"/machine/peripheral/{BALLOON_ID}"
"""Path of the balloon device in QEMU's object model."""

TRANSLATION_BUFFER_MIB = 256
"""Size of TCG's translation buffer. A guest fills about 60 MiB of it, so it is never flushed, and
QEMU's default (an eighth of the host's memory, at most 1 GiB) would waste memory."""

VIRTUAL_CLOCK = "shift=2,sleep=off"
"""QEMU's -icount: an instruction takes 2^2 ns, and an idle guest does not wait for its timers."""

RECORDED_CLOCK = "shift=2"
"""The same for a recorded guest, which waits: without, QEMU records its idling (70 MB a minute)."""

VIRTUAL_TSC_KHZ = 1_000_000
"""Frequency of the TSC under -icount, which counts nanoseconds (cpu_get_ticks(), 5.2 to 11.1)."""

KERNEL_WORDS = (
    "console=ttyS0",
    "panic=-1",  # with -no-reboot, a panic ends QEMU at once instead of at a deadline
    "random.trust_cpu=on",  # seeds the generator at once; otherwise dropbear waits for entropy
    "no_timer_check",  # the check takes time, and can fail on an emulated timer under load
    "audit=0",
    # The kernel would test its ciphers while it boots (crypto/testmgr.c, 5.10 to 7.3), which takes
    # a fifth of a boot under TCG.
    "cryptomgr.notests=1",
)


@dataclass(frozen=True)
class LaunchFiles:
    """The paths that a QEMU is given."""

    qemu: Path
    kernel: Path
    initramfs: Path
    runtime: Path
    """The VM's own directory of mode 0700: sockets and RAM files."""
    disk: Path
    """The guest's disk, where it has one."""
    console_log: Path
    discard_log: Path
    discard_event: str | None
    """The trace event of discards; None if this QEMU has none."""
    denied: tuple[str, ...] = ()
    """What QEMU's seccomp filter is to deny; empty: no filter."""


def record_log(files: LaunchFiles) -> Path:
    """Return where QEMU writes its record of the guest, or reads it."""
    return files.runtime / "record.bin"


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
    """Return the command of one launch; the guest stays stopped until QMP's `cont`.

    With `incoming`, QEMU waits for a guest that migrates to it. `tsc_khz` is the frequency of the
    guest's TSC, which a microvm under TCG cannot measure; 0 if it is unknown.
    """
    return [
        str(files.qemu),
        *_machine_words(spec, files, accel, cpu, name, tsc_khz),
        *("-netdev", "user,id=net0,restrict=on,hostfwd=tcp:127.0.0.1:0-:22"),
        *("-device", f"{_driver(spec, 'virtio-net')},netdev=net0{_no_rom(spec)}"),
        *(("-object", "filter-replay,id=replay0,netdev=net0") if spec.rr else ()),
        *(("-incoming", "defer") if incoming else ()),
        "-serial",
        f"file:{files.console_log}",
        *("-qmp", f"unix:{_escaped(files.runtime)}/qmp.sock"),
        # A second monitor for people, and for tests that inject faults.
        *("-qmp", f"unix:{_escaped(files.runtime)}/debug.sock,server=on,wait=off"),
        "-S",
        "-no-reboot",
        *("-msg", "timestamp=on"),
        *_trace_words(files, files.discard_log),
        *_sandbox_words(files),
    ]


def command_by_hand(
    spec: GuestSpec,
    files: LaunchFiles,
    *,
    accel: Literal["kvm", "tcg"],
    cpu: str,
    tsc_khz: int = 0,
) -> list[str]:
    """Return the command of the same guest with a root shell and the monitor on the terminal.

    It has no network card, since without a run's keys the guest's init cannot start dropbear.
    """
    cmdline = f"{spec.cmdline} fpr.console_shell".strip()
    by_hand = replace(spec, cmdline=cmdline, discard="dontneed", rr="")
    return [
        str(files.qemu),
        *_machine_words(by_hand, files, accel, cpu, "fpr-by-hand", tsc_khz),
        *("-serial", "mon:stdio"),
        *("-qmp", "unix:qmp.sock,server=on,wait=off"),
        "-no-reboot",
        *("-msg", "timestamp=on"),
        # Not discards.log, which is evidence in the directory of a run.
        *_trace_words(files, Path("by-hand-discards.log")),
        *_sandbox_words(files),
    ]


def _machine_words(
    spec: GuestSpec, files: LaunchFiles, accel: str, cpu: str, name: str, tsc_khz: int
) -> Iterator[str]:
    virtual = spec.clock == "virtual"
    tcg = f"tcg,thread={'single' if virtual else 'multi'},tb-size={TRANSLATION_BUFFER_MIB}"
    yield from ("-name", f"guest={name}")
    yield from ("-nodefaults", "-no-user-config", "-display", "none")
    yield from ("-accel", tcg if accel == "tcg" else "kvm", "-cpu", cpu)
    if virtual:
        log = f",rr={spec.rr},rrfile={_escaped(record_log(files))}"
        yield from ("-icount", RECORDED_CLOCK + log if spec.rr else VIRTUAL_CLOCK)
        tsc_khz = VIRTUAL_TSC_KHZ
    yield from _memory_words(spec, files)
    # The kernel warns of NUMA nodes that share a socket, and with it a cache.
    yield from ("-smp", f"{spec.vcpus},sockets={spec.vcpus}" if spec.numa else str(spec.vcpus))
    yield from ("-kernel", str(files.kernel), "-initrd", str(files.initramfs))
    # A microvm under TCG has no clock to calibrate its TSC with. The clocksource watchdog would
    # compare the TSC with timer ticks, some of which are lost on a busy host, mark it unstable and
    # use the ticks as clock, which then runs several times too slow.
    told = spec.machine == "microvm" and accel == "tcg" and tsc_khz
    tsc = [f"tsc_early_khz={tsc_khz}", "tsc=reliable"] if told else []
    # A debugger finds the symbols of a recorded guest's kernel where they were linked.
    fixed = ["nokaslr"] if spec.rr else []
    yield from ("-append", " ".join([*KERNEL_WORDS, *tsc, *fixed, *spec.cmdline.split()]))
    if spec.balloon.free_page_hint:
        # QEMU processes free page hints in an I/O thread.
        yield from ("-object", "iothread,id=hints")
    balloon = balloon_properties(spec, reporting=spec.balloon.free_page_reporting)
    yield from ("-device", _words(balloon))
    if spec.disk:
        # A guest that has moved finds its disk as it left it, while the QEMU it has left, which has
        # the file open too, is stopped and writes no more.
        file = f"file.driver=file,file.filename={_escaped(files.disk)},file.locking=off"
        disk = f"driver=raw,node-name=disk0,{file}"
        yield from ("-blockdev", disk, "-device", "virtio-blk-pci,drive=disk0")
    if spec.mem_lock:
        yield from ("-overcommit", "mem-lock=on")
    yield from spec.qemu_args


def _trace_words(files: LaunchFiles, log: Path) -> Iterator[str]:
    if files.discard_event is not None:
        yield from ("-trace", files.discard_event, "-D", str(log))


def _sandbox_words(files: LaunchFiles) -> Iterator[str]:
    if files.denied:
        yield from ("-sandbox", ",".join(["on", *(f"{name}=deny" for name in files.denied)]))


def balloon_properties(spec: GuestSpec, *, reporting: bool) -> dict[str, str | bool]:
    """Return the balloon's properties as arguments of QMP's device_add."""
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
    """Format properties as the argument of -device."""
    words = [str(properties["driver"])]
    for name, value in properties.items():
        if isinstance(value, bool):
            value = "on" if value else "off"
        if name != "driver":
            words.append(f"{name}={value}")
    return ",".join(words)


def _driver(spec: GuestSpec, name: str) -> str:
    """Return the driver of a virtio device for the machine's bus."""
    return f"{name}-device" if spec.machine == "microvm" else f"{name}-pci"


def _no_rom(spec: GuestSpec) -> str:
    """Switch off the option ROM of a PCI device; the guest boots only from its kernel."""
    return "" if spec.machine == "microvm" else ",romfile="


def _memory_words(spec: GuestSpec, files: LaunchFiles) -> Iterator[str]:
    slots = (
        f",slots={MEMORY_SLOTS},maxmem={(spec.memory + spec.hotplug) // MIB}M"
        if spec.hotplug
        else ""
    )
    yield from ("-m", f"{spec.memory // MIB}M{slots}")
    sizes = [node.memory for node in spec.numa] or [spec.memory]
    for number, size in enumerate(sizes):
        words = _backend_words(spec.backend, f"m{number}", size, files.runtime)
        yield from ("-object", words + (",prealloc=on" if spec.prealloc else ""))
    if not spec.numa:
        yield from ("-machine", f"{spec.machine},memory-backend=m0")
        return
    yield from ("-machine", spec.machine)
    for number, node in enumerate(spec.numa):
        cpus = "".join(f",cpus={cpu}" for cpu in node.vcpus)
        yield from ("-numa", f"node,nodeid={number},memdev=m{number}{cpus}")


def _escaped(path: Path) -> str:
    """Escape a path for an option string, in which a doubled comma is a comma (keyval.c)."""
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
