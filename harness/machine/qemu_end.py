# SPDX-License-Identifier: Apache-2.0
"""How a QEMU ended, by its name, and what to do about it. Pure.

QEMU's exit status alone misleads: under `-no-reboot` a guest that resets itself makes it exit with
0, and a process that the OOM killer took looks like any other that was killed. So the end is named
from all that is known of it.
"""

import re
import signal
from dataclasses import dataclass
from pathlib import Path

from harness.errors import QemuGoneError
from harness.machine.spec import Backend
from harness.units import format_size

DOCTOR = "see QEMU's log; `fpr-harness doctor` tries this host's accelerators"

LOW_ROOM = 16 << 20
"""Bytes free on a file system that has just refused a page: a little is always kept back."""


@dataclass(frozen=True)
class QemuEnd:
    """What is known of the end of a QEMU process."""

    status: int
    """Its exit status; negative: the signal that killed it."""
    words: str = ""
    """The last lines of its log."""
    shutdown: str = ""
    """Reason of QMP's SHUTDOWN event (qapi/run-state.json, ShutdownCause); empty: there was none.
    """
    said_goodbye: bool = False
    """The guest's console says that its kernel restarts or powers off in order."""
    backend: Backend = "anonymous"
    room: int | None = None
    """Bytes free on the file system that holds the guest's memory file."""
    limit: int = 0
    """Bytes that the scenario allows QEMU; 0: no limit."""
    killed_by_limit: bool = False
    """The kernel killed a process of QEMU's own control group for its limit."""
    killed_in_group: bool = False
    """... of the control group that the harness itself runs in."""
    killed_on_host: bool = False
    """The kernel killed some process of the host for want of memory since this QEMU began."""

    @property
    def guest_reset(self) -> bool:
        """The guest reset the machine and did not mean to: a triple fault, or a crash so deep that
        nothing was printed."""
        return self.shutdown == "guest-reset" and not self.said_goodbye


def end_error(end: QemuEnd, log: Path) -> QemuGoneError:
    """The error that names the end; `log` is QEMU's own, as evidence."""
    sentence, hint = _by_signal(end) if end.status < 0 else _by_exit(end)
    if end.words and end.words not in sentence:
        sentence = f"{sentence}: {end.words}"
    return QemuGoneError(sentence, hint=hint, evidence=[log], guest_reset=end.guest_reset)


def _by_signal(end: QemuEnd) -> tuple[str, str]:
    number = -end.status
    name = signal.Signals(number).name if number in set(signal.Signals) else f"signal {number}"
    plain = f"QEMU was killed by {name}"
    if number == signal.SIGBUS:
        return _bus_error(end, plain)
    if number == signal.SIGKILL:
        return _killed(end, plain)
    if number in (signal.SIGABRT, signal.SIGSEGV, signal.SIGILL, signal.SIGFPE, signal.SIGTRAP):
        hint = _hint_by_words(end) or (
            "QEMU itself failed: try another version with --qemu; see its log and coredumpctl(1)"
        )
        return plain, hint
    if number == signal.SIGSYS:
        return (
            f"{plain}: it made a system call that its sandbox forbids",
            "try without -sandbox, or another version with --qemu",
        )
    return plain, "somebody sent that signal: kill(1), a job's time limit, a session that ended"


def _bus_error(end: QemuEnd, plain: str) -> tuple[str, str]:
    """The guest touched memory that the host could not back (mmap(2), SIGBUS)."""
    if end.backend == "hugetlb":
        return (
            f"{plain}: the host's pool of huge pages was empty when the guest touched its memory",
            "another process took huge pages: raise vm.nr_hugepages (as root), or run alone",
        )
    if end.backend.startswith("file-"):
        full = end.room is not None and end.room < LOW_ROOM
        seen = "is full" if full else "could not back a page"
        return (
            f"{plain}: the file system of the guest's memory file {seen}",
            "free space there, or set TMPDIR to a directory with room for the guest's memory",
        )
    if end.backend.startswith("memfd-"):
        return (
            f"{plain}: the host had no shared memory left for the guest",
            "free the host's memory or raise the limit of this control group, see dmesg",
        )
    return f"{plain}: the host could not read memory", "a hardware memory error? See dmesg"


def _killed(end: QemuEnd, plain: str) -> tuple[str, str]:
    if end.killed_by_limit:
        return (
            f"{plain}: the kernel killed it because it could not stay below the limit that the "
            f"scenario gives its control group ({format_size(end.limit)})",
            "raise it with --set host.memory_limit=SIZE, or give the guest less memory",
        )
    if end.killed_in_group:
        return (
            f"{plain}: the kernel killed it because the control group that the harness runs in "
            "(a container, a job) reached its memory limit",
            "raise that limit, run fewer guests at once with --jobs, or give the guest less memory",
        )
    if end.killed_on_host:
        return (
            f"{plain}: by all signs by the host's OOM killer, which has killed since QEMU began",
            "free the host's memory, run fewer guests at once with --jobs; see dmesg",
        )
    return plain, "somebody did that: kill -9, a job's limit; no OOM kill was counted meanwhile"


def _by_exit(end: QemuEnd) -> tuple[str, str]:
    if end.shutdown in _SHUTDOWNS:
        sentence, hint = _SHUTDOWNS[end.shutdown]
        if end.shutdown == "guest-reset" and end.said_goodbye:
            sentence, hint = _REBOOTED
        return sentence, hint
    hint = _hint_by_words(end) or DOCTOR
    if end.shutdown:
        return f"QEMU exited ({end.status}) on a shutdown it calls {end.shutdown}", hint
    return f"QEMU exited ({end.status})", hint


_REBOOTED = (
    "the guest rebooted by itself, and QEMU ended with it (-no-reboot)",
    "see console.log: what asked for the reboot?",
)

_SHUTDOWNS = {
    "guest-reset": (
        "the guest reset its machine without a word on the console (a triple fault, as a rule), "
        "and QEMU ended with it (-no-reboot)",
        "see the last lines of console.log; repro.sh boots the same guest by hand, with "
        "`-d int,cpu_reset` QEMU tells what led to the reset",
    ),
    "guest-shutdown": (
        "the guest powered itself off, and QEMU ended with it",
        "see console.log: what asked for that?",
    ),
    "guest-panic": (
        "the guest's kernel reported a panic, and QEMU ended with it",
        "see console.log",
    ),
    "host-signal": (
        "somebody ended QEMU with a signal (SIGTERM, SIGINT or SIGHUP)",
        "a job's time limit, a session that ended, or kill(1)",
    ),
    "host-qmp-quit": (
        "somebody told QEMU to quit through its monitor",
        "see qmp.log: if the command is not there, it came through another monitor",
    ),
    "host-error": ("QEMU ended because of an error on the host", DOCTOR),
}

_HINTS = (
    (
        r"mlockall|locking memory failed|mem-lock",
        "QEMU may not lock the guest's memory: raise the limit (ulimit -l unlimited), or do "
        "without locking",
    ),
    (r"Could not set up host forwarding", "a port was refused: is loopback usable?"),
    (r"Could not access KVM|failed to initialize kvm", "use --accel tcg, or repair /dev/kvm"),
    (r"could not open kernel file|could not load kernel", "check --kernel"),
    (r"failed to set MSR", "this host's KVM cannot run guests: use --accel tcg or auto"),
    (r"No space left on device", "free the disk that holds the guest's memory file"),
    (
        r"invalid option|: unknown option|Property '[^']*' not found|Parameter '[^']*' (?:is )?"
        r"(?:unexpected|expects)|Invalid parameter|is not a valid (?:device|object)|"
        r"unsupported machine type|invalid object type|invalid accelerator|unable to find CPU model"
        r"|option requires|not compiled into this binary",
        "this QEMU refuses an option of the harness, which knows 7.2 to 11.1: name another with "
        "--qemu",
    ),
    (
        r"Cannot allocate memory|cannot set up guest memory|unable to map backing store",
        "give the guest less memory",
    ),
)


def _hint_by_words(end: QemuEnd) -> str:
    """What to do, by QEMU's own last words; empty: they say nothing known."""
    for pattern, hint in _HINTS:
        if re.search(pattern, end.words):
            if end.backend == "hugetlb" and "less memory" in hint:
                return (
                    "the host's pool has too few free huge pages of 2 MiB: raise vm.nr_hugepages "
                    "(as root), or give the guest less memory"
                )
            return hint
    return ""
