# SPDX-License-Identifier: Apache-2.0
"""Choose the accelerator, and know its defects.

That /dev/kvm can be opened proves little; only a guest that becomes ready proves that KVM works.
`auto` therefore tries KVM with the first guest, and remembers a failure until the host reboots.
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
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from harness.image.cache import another_users, cache_directory
from harness.machine.pace import slowness
from harness.machine.qemu import Qemu
from harness.machine.qemu_user import QemuUser

KVM_DEVICE = Path("/dev/kvm")

USUAL_BOOT_SECONDS = {"kvm": 2.0, "tcg": 8.0}
"""In which a guest is ready on a usual machine: 4 to 10 s under TCG on two busy cores."""

KVM_BOOT_SECONDS = 20.0
"""Boot deadline under KVM; a guest that KVM has to emulate is never ready."""

TCG_BOOT_SECONDS = 60.0
"""Boot deadline under TCG."""

MEASURE_SECONDS = 0.1
MEASURE_LOOKS = 20

_RDTSC = bytes.fromhex("0f31 48c1e220 4809d0 c3")
"""rdtsc; shl rdx, 32; or rax, rdx; ret"""


@dataclass(frozen=True)
class Defect:
    """A known defect of a QEMU, and what the harness does about it."""

    title: str
    remedy: str


def cpu_model(accel: Literal["kvm", "tcg"], qemu: Qemu) -> str:
    """Return the CPU model of a guest, the argument of -cpu; see `known_defects`.

    Under TCG it lacks ERMS, FSRM, and from QEMU 8 FZRM and FSRS. With them the guest's kernel
    clears and copies memory a byte at a time (`rep stosb`, arch/x86/lib/clear_page_64.S; 5.10 to
    7.x), each a turn of a loop in TCG; without them, 8 bytes at a time (`rep stosq`).
    """
    if accel == "kvm":
        return "host"
    return "max,-erms,-fsrm," + ("-cx16" if qemu.major < 8 else "-fzrm,-fsrs")


def boot_seconds(accel: Literal["kvm", "tcg"]) -> float:
    """Return the boot deadline of a guest in seconds, extended on a slow host."""
    return (KVM_BOOT_SECONDS if accel == "kvm" else TCG_BOOT_SECONDS) * slowness()


def host_khz(
    cpuinfo: Path = Path("/proc/cpuinfo"), cpufreq: Path = Path("/sys/devices/system/cpu/cpufreq")
) -> int:
    """Return the frequency of the host's TSC in kHz, which TCG's guests see; 0 if it is unknown.

    `cpu MHz` in /proc/cpuinfo is the TSC's frequency only if the kernel does not know the current
    frequency, from APERF and MPERF or from cpufreq (arch/x86/kernel/cpu/proc.c).
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
    """Measure the frequency of the TSC in kHz to about 0.01 %; 0 if the TSC cannot be read."""
    if platform.machine() != "x86_64":
        return 0
    try:
        code = mmap.mmap(-1, len(_RDTSC), prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    except OSError:  # the host forbids memory that is writable and executable
        return 0
    code.write(_RDTSC)
    address = ctypes.addressof(ctypes.c_char.from_buffer(code))
    rdtsc = ctypes.CFUNCTYPE(ctypes.c_uint64)(address)

    def look() -> tuple[int, int]:
        """Read clock (ns) and TSC together; the fastest of several tries was least interrupted."""
        looks = []
        for _ in range(MEASURE_LOOKS):
            before = time.clock_gettime_ns(time.CLOCK_MONOTONIC_RAW)
            ticks = rdtsc()
            after = time.clock_gettime_ns(time.CLOCK_MONOTONIC_RAW)
            looks.append((after - before, (before + after) // 2, ticks))
        _, at, ticks = min(looks)
        return at, ticks

    start, first = look()
    time.sleep(MEASURE_SECONDS)  # the interval of the measurement
    end, last = look()
    return round((last - first) * 1_000_000 / (end - start))


def known_defects(qemu: Qemu, accel: Literal["kvm", "tcg"]) -> tuple[Defect, ...]:
    """List the known defects of this QEMU under this accelerator."""
    if accel == "tcg" and qemu.major < 8:
        return (
            Defect(
                "TCG corrupts EFLAGS around cmpxchg16b, so guests with Linux 6.12 and later "
                "sometimes crash in SLUB",
                "guests get -cpu max,-cx16",
            ),
        )
    return ()


def kvm_unusable(device: Path = KVM_DEVICE) -> str | None:
    """Say why KVM cannot be tried; None if it can."""
    if not device.exists():
        return f"{device} does not exist (no virtualization, or the kvm module is not loaded)"
    if not os.access(device, os.R_OK | os.W_OK):
        return f"you may not open {device} ({kvm_remedy(device)})"
    return None


def kvm_remedy(device: Path = KVM_DEVICE) -> str:
    """Say how this user gets access to the device: by its group, if that has read-write access."""
    state = device.stat()
    try:
        group = grp.getgrgid(state.st_gid).gr_name
    except KeyError:
        group = ""
    if group and state.st_gid != 0 and state.st_mode & 0o060 == 0o060:
        return f"add yourself to its group (as root: usermod -aG {group} YOU) and log in again"
    return (
        f"its group has no access to it: as root, chgrp kvm {device} && chmod g+rw {device}, and "
        "add a udev rule to make that permanent; in a container, pass in the device and its group"
    )


def user_under(
    user: QemuUser | None,
    accel: Literal["kvm", "tcg"],
    device: Path = KVM_DEVICE,
    *,
    locks: bool = False,
) -> tuple[QemuUser | None, str]:
    """Return the user that QEMU runs as under this accelerator, and why that is root, if it is.

    `locks`: it is to lock its memory. Raises `LaunchError` if it cannot be the user that was asked
    for.
    """
    if user is None:
        return None, ""
    user = replace(user, locks=locks)
    if accel != "kvm":
        return user, ""
    try:
        allowed = user.with_access(device)
    except OSError as error:
        return None, user.refused(f"{device}: {error.strerror}")
    if allowed is None:
        return None, user.refused(f"{device} is for root only (as root: chgrp kvm, chmod g+rw)")
    return allowed, ""


class KvmMemory:
    """Remembers that KVM failed with this QEMU, until the host reboots."""

    def __init__(self, qemu: Qemu, path: Path | None = None) -> None:
        self._path = path or cache_directory() / "accel.json"
        self._distrusted = path is None and another_users(cache_directory()) is not None
        self._boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        self._key = f"{self._boot} {qemu.path} {qemu.path.stat().st_mtime_ns}"

    def failure(self) -> str | None:
        """Return why KVM failed before; None if it has not."""
        if self._distrusted:
            return None
        reason = self._known().get(self._key)
        if reason is None:
            return None
        return f"{reason} (remembered in {self._path}; delete it to try again)"

    def remember(self, reason: str) -> None:
        """Store the reason beside those of other QEMUs.

        A cache that cannot be written, or loses what another process writes at the same moment,
        only costs time later.
        """
        with contextlib.suppress(OSError):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            temporary = self._path.with_suffix(f".{os.getpid()}.tmp")
            known = self._known() | {self._key: reason}
            temporary.write_text(json.dumps(known), encoding="utf-8")
            temporary.replace(self._path)

    def _known(self) -> dict[str, str]:
        """Read the failures since the host booted, by key."""
        try:
            known = json.loads(self._path.read_text(encoding="utf-8"))
            return {key: str(why) for key, why in known.items() if key.startswith(self._boot)}
        except (OSError, ValueError, AttributeError):
            return {}
