# SPDX-License-Identifier: Apache-2.0
"""Say why a QEMU ended, and what to do about it, without I/O.

QEMU's exit status alone misleads: under `-no-reboot` it exits with 0 when the guest resets itself,
and an OOM kill looks like any other SIGKILL. The reason is therefore derived from all facts known
about the end.
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
"""Bytes below which a file system counts as full, since it keeps a small reserve."""


@dataclass(frozen=True)
class QemuEnd:
    """Facts about the end of a QEMU process."""

    status: int
    """Exit status, or the negative number of the signal that killed it."""
    words: str = ""
    """The last lines of its log."""
    shutdown: str = ""
    """Reason in QMP's SHUTDOWN event (ShutdownCause in qapi/run-state.json); empty without one."""
    said_goodbye: bool = False
    """Whether the guest's console announces a regular restart or power-off."""
    backend: Backend = "anonymous"
    room: int | None = None
    """Bytes free on the file system that holds the guest's memory file."""
    limit: int = 0
    """Bytes to which the scenario limits QEMU; 0 means no limit."""
    killed_by_limit: bool = False
    """Whether there was an OOM kill in QEMU's own control group."""
    killed_in_group: bool = False
    """Whether there was an OOM kill in the control group of the harness since QEMU started."""
    killed_on_host: bool = False
    """Whether there was any OOM kill on the host since QEMU started."""

    @property
    def guest_reset(self) -> bool:
        """Whether the guest reset the machine by a triple fault or another silent crash."""
        return self.shutdown == "guest-reset" and not self.said_goodbye


def end_error(end: QemuEnd, log: Path) -> QemuGoneError:
    """Make the error that describes the end, with QEMU's log as evidence."""
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
    if number == signal.SIGXFSZ:
        return f"{plain}: a file of its grew too large", "allow larger files (ulimit -f)"
    if number == signal.SIGSYS:
        return (
            f"{plain}: it made a system call that its seccomp filter (-sandbox) denies",
            "the audit log or dmesg names the call, where seccomp is logged; try another version "
            "with --qemu",
        )
    return plain, "something sent that signal: kill(1), a job's time limit, a session that ended"


def _bus_error(end: QemuEnd, plain: str) -> tuple[str, str]:
    """Explain SIGBUS: the guest touched memory that the host could not back (mmap(2))."""
    if end.backend == "hugetlb":
        return (
            f"{plain}: the host's pool of huge pages was empty when the guest touched its memory",
            "another process took huge pages: raise vm.nr_hugepages (as root), or run nothing else",
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
            "free memory on the host, or raise the limit of this control group; see dmesg",
        )
    return f"{plain}: the host could not access a page", "see dmesg for a hardware memory error"


def _killed(end: QemuEnd, plain: str) -> tuple[str, str]:
    if end.killed_by_limit:
        return (
            f"{plain}: the kernel killed it because it could not stay below the limit that the "
            f"scenario sets for its control group ({format_size(end.limit)})",
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
            f"{plain}: most likely by the host's OOM killer, which was active since QEMU started",
            "free memory on the host, or run fewer guests at once with --jobs; see dmesg",
        )
    return plain, "no OOM kill was counted, so something else sent it: kill -9, a job's limit"


def _by_exit(end: QemuEnd) -> tuple[str, str]:
    if end.shutdown in _SHUTDOWNS:
        sentence, hint = _SHUTDOWNS[end.shutdown]
        if end.shutdown == "guest-reset" and end.said_goodbye:
            sentence, hint = _REBOOTED
        return sentence, hint
    hint = _hint_by_words(end) or DOCTOR
    if end.shutdown:
        return f"QEMU exited ({end.status}) after a shutdown with the reason {end.shutdown}", hint
    return f"QEMU exited ({end.status})", hint


_REBOOTED = (
    "the guest rebooted by itself, and QEMU ended with it (-no-reboot)",
    "see console.log for what asked for the reboot",
)

_SHUTDOWNS = {
    "guest-reset": (
        "the guest reset the machine without a message on the console (usually a triple fault), "
        "and QEMU ended with it (-no-reboot)",
        "see the last lines of console.log; repro.sh boots the same guest by hand, and with "
        "`-d int,cpu_reset` QEMU logs what led to the reset",
    ),
    "guest-shutdown": (
        "the guest powered itself off, and QEMU ended with it",
        "see console.log for what asked for that",
    ),
    "guest-panic": (
        "the guest's kernel reported a panic, and QEMU ended with it",
        "see console.log",
    ),
    "host-signal": (
        "a signal ended QEMU (SIGTERM, SIGINT or SIGHUP)",
        "it may come from a job's time limit, a session that ended, or kill(1)",
    ),
    "host-qmp-quit": (
        "a monitor command told QEMU to quit",
        "see qmp.log; if the command is not there, it came through another monitor",
    ),
    "host-error": ("QEMU ended because of an error on the host", DOCTOR),
}

_HINTS = (
    (
        r"mlockall|locking memory failed|mem-lock",
        "QEMU may not lock the guest's memory: raise the limit (ulimit -l unlimited), or do not "
        "lock it",
    ),
    (
        r"qemu_thread_create: Resource temporarily unavailable",
        "the host let QEMU start no further thread: allow more processes and threads (ulimit -u), "
        "or run fewer guests at once with --jobs",
    ),
    (r"Could not set up host forwarding", "check that a port on loopback can be opened"),
    (r"Could not access KVM|failed to initialize kvm", "use --accel tcg, or fix /dev/kvm"),
    (r"could not open kernel file|could not load kernel", "check --kernel"),
    (r"failed to set MSR", "this host's KVM cannot run guests: use --accel tcg or auto"),
    (r"No space left on device", "free space on the disk that holds the guest's memory file"),
    (
        r"invalid option|: unknown option|Property '[^']*' not found|Parameter '[^']*' (?:is )?"
        r"(?:unexpected|expects)|Invalid parameter|is not a valid (?:device|object)|"
        r"unsupported machine type|invalid object type|invalid accelerator|unable to find CPU model"
        r"|option requires|not compiled into this binary",
        "this QEMU rejects an option of the harness, which was run with QEMU 5.2 to 11.1: choose "
        "another with --qemu",
    ),
    (
        r"Cannot allocate memory|cannot set up guest memory|unable to map backing store",
        "give the guest less memory, or allow QEMU more (ulimit -v)",
    ),
)


def _hint_by_words(end: QemuEnd) -> str:
    """Return what to do about QEMU's last messages; empty if none is known."""
    for pattern, hint in _HINTS:
        if re.search(pattern, end.words):
            if end.backend == "hugetlb" and "less memory" in hint:
                return (
                    "the host's pool has too few free huge pages of 2 MiB: raise vm.nr_hugepages "
                    "(as root), or give the guest less memory"
                )
            return hint
    return ""
