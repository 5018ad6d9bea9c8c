# SPDX-License-Identifier: Apache-2.0
"""Which accelerator, and what is known to be wrong with it.

A device node that opens proves nothing: only a guest that becomes ready proves KVM. So `auto`
tries KVM with the first guest itself, and remembers a failure until the host boots again.
"""

import contextlib
import ctypes
import functools
import grp
import json
import mmap
import os
import platform
import re
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from harness.image.cache import cache_directory
from harness.machine.pace import slowness
from harness.machine.qemu import Qemu

KVM_DEVICE = Path("/dev/kvm")

KVM_BOOT_SECONDS = 20.0
"""A guest under KVM is ready in about 2 s; one that crawls through emulation never is."""

TCG_BOOT_SECONDS = 60.0
"""A guest under TCG is ready in 4 to 10 s on two busy cores."""

MEASURE_SECONDS = 0.1
MEASURE_LOOKS = 20

_RDTSC = bytes.fromhex("0f31 48c1e220 4809d0 c3")
"""rdtsc; shl rdx, 32; or rax, rdx; ret"""


@dataclass(frozen=True)
class Defect:
    """Something known to be wrong with a QEMU, and what the harness does about it."""

    title: str
    remedy: str


def cpu_model(accel: Literal["kvm", "tcg"], qemu: Qemu) -> str:
    """The CPU a guest gets; see `known_defects`."""
    if accel == "kvm":
        return "host"
    return "max,-cx16" if qemu.major < 8 else "max"


def boot_seconds(accel: Literal["kvm", "tcg"]) -> float:
    """The time a guest has to become ready; longer where this machine is itself slow."""
    return (KVM_BOOT_SECONDS if accel == "kvm" else TCG_BOOT_SECONDS) * slowness()


def host_khz(
    cpuinfo: Path = Path("/proc/cpuinfo"), cpufreq: Path = Path("/sys/devices/system/cpu/cpufreq")
) -> int:
    """The rate of the host's TSC, which TCG shows its guests; 0: not known.

    /proc/cpuinfo has it as `cpu MHz` only where the kernel knows no current frequency: that comes
    first if there is one (arch/x86/kernel/cpu/proc.c), from APERF and MPERF or from cpufreq.
    """
    text = cpuinfo.read_text()
    match = re.search(r"^cpu MHz\s*: (\d{2,5})\.(\d{3})$", text, re.MULTILINE)
    if match is None:
        return 0
    flags = re.search(r"^flags\s*:(.*)$", text, re.MULTILINE)
    if (flags and "aperfmperf" in flags[1].split()) or any(cpufreq.glob("policy*")):
        return measured_khz()
    return int(match[1] + match[2])


@functools.cache
def measured_khz() -> int:
    """The rate of the TSC by the host's clock, to some 0.01 %; 0: it cannot be read."""
    if platform.machine() != "x86_64":
        return 0
    try:
        code = mmap.mmap(-1, len(_RDTSC), prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    except OSError:  # a host that lets nobody write code
        return 0
    code.write(_RDTSC)
    address = ctypes.addressof(ctypes.c_char.from_buffer(code))
    rdtsc = ctypes.CFUNCTYPE(ctypes.c_uint64)(address)

    def look() -> tuple[int, int]:
        """Clock and counter at one moment: the closest of some looks, as any may be interrupted."""
        looks = []
        for _ in range(MEASURE_LOOKS):
            before = time.clock_gettime_ns(time.CLOCK_MONOTONIC_RAW)
            ticks = rdtsc()
            after = time.clock_gettime_ns(time.CLOCK_MONOTONIC_RAW)
            looks.append((after - before, (before + after) // 2, ticks))
        _, at, ticks = min(looks)
        return at, ticks

    start, first = look()
    time.sleep(MEASURE_SECONDS)  # what is measured over: nothing is waited for
    end, last = look()
    return round((last - first) * 1_000_000 / (end - start))


def known_defects(qemu: Qemu, accel: Literal["kvm", "tcg"]) -> tuple[Defect, ...]:
    """What is known to be wrong with this QEMU under this accelerator."""
    if accel == "tcg" and qemu.major < 8:
        return (
            Defect(
                "TCG corrupts EFLAGS around cmpxchg16b: guests of 6.12 and later crash now and "
                "then in SLUB",
                "guests get -cpu max,-cx16",
            ),
        )
    return ()


def kvm_unusable(device: Path = KVM_DEVICE) -> str | None:
    """Why KVM cannot even be tried; None if it can."""
    if not device.exists():
        return f"{device} does not exist (no virtualization, or the kvm module is not loaded)"
    if not os.access(device, os.R_OK | os.W_OK):
        return f"{device} may not be opened by you ({kvm_remedy(device)})"
    return None


def kvm_remedy(device: Path = KVM_DEVICE) -> str:
    """What lets this user open the device: its group does only where it has one with the right."""
    state = device.stat()
    try:
        group = grp.getgrgid(state.st_gid).gr_name
    except KeyError:
        group = ""
    if group and state.st_gid != 0 and state.st_mode & 0o060 == 0o060:
        return f"add yourself to its group (as root: usermod -aG {group} YOU) and log in again"
    return (
        f"its group gives you no right to it: as root, chgrp kvm {device} && chmod g+rw {device}, "
        "and have udev keep it so; in a container, pass the device in with the group's number"
    )


class KvmMemory:
    """Remembers that KVM failed, for this boot of the host and this QEMU."""

    def __init__(self, qemu: Qemu, path: Path | None = None) -> None:
        self._path = path or cache_directory() / "accel.json"
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        self._key = f"{boot} {qemu.path} {qemu.path.stat().st_mtime_ns}"

    def failure(self) -> str | None:
        """Why KVM failed, if it is known to."""
        try:
            known = json.loads(self._path.read_text(encoding="utf-8"))
            reason = known.get(self._key)
        except (OSError, ValueError, AttributeError):
            return None
        if reason is None:
            return None
        return f"{reason} (remembered in {self._path}; delete it to try again)"

    def remember(self, reason: str) -> None:
        """Keep the reason. A cache that cannot be written is no loss but time."""
        with contextlib.suppress(OSError):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            temporary = self._path.with_suffix(f".{os.getpid()}.tmp")
            temporary.write_text(json.dumps({self._key: reason}), encoding="utf-8")
            temporary.replace(self._path)
