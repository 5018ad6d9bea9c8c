# SPDX-License-Identifier: Apache-2.0
"""Every end of a QEMU has a name, and says what to do."""

import signal
from dataclasses import replace
from pathlib import Path

import pytest

from harness.machine.qemu_end import QemuEnd, end_error
from harness.units import GIB, MIB

LOG = Path("qemu.log")
KILLED = QemuEnd(status=-signal.SIGKILL, limit=300 * MIB)
BUS = QemuEnd(status=-signal.SIGBUS)
ENDED = QemuEnd(status=0)
REFUSED = QemuEnd(status=1)


@pytest.mark.parametrize(
    ("end", "sentence", "hint"),
    [
        (KILLED, "killed by SIGKILL", "no OOM kill was counted"),
        (replace(KILLED, killed_by_limit=True), "(300MiB)", "host.memory_limit"),
        (replace(KILLED, killed_in_group=True), "the harness runs in", "raise that limit"),
        (replace(KILLED, killed_on_host=True), "the host's OOM killer", "free memory on the host"),
        (replace(BUS, backend="file-shared", room=0), "memory file is full", "TMPDIR"),
        (replace(BUS, backend="file-private", room=GIB), "could not back a page", "TMPDIR"),
        (replace(BUS, backend="hugetlb"), "huge pages was empty", "vm.nr_hugepages"),
        (replace(BUS, backend="memfd-shared"), "no shared memory left", "control group"),
        (BUS, "could not access a page", "hardware"),
        (
            QemuEnd(
                status=-signal.SIGABRT,
                words="qemu: qemu_thread_create: Resource temporarily unavailable",
            ),
            "SIGABRT",
            "ulimit -u",
        ),
        (QemuEnd(status=-signal.SIGXFSZ), "too large", "ulimit -f"),
        (QemuEnd(status=-signal.SIGSYS), "seccomp filter", "another version"),
        (QemuEnd(status=-signal.SIGSEGV), "SIGSEGV", "QEMU itself failed"),
        (QemuEnd(-signal.SIGABRT, "failed to set MSR 0x10a"), "SIGABRT", "--accel tcg"),
        (QemuEnd(status=-signal.SIGTERM), "SIGTERM", "time limit"),
        (QemuEnd(status=-64), "SIGRTMAX", "something sent"),
        (replace(ENDED, shutdown="guest-reset"), "triple fault", "repro.sh"),
        (
            replace(ENDED, shutdown="guest-reset", said_goodbye=True),
            "rebooted by itself",
            "console.log",
        ),
        (replace(ENDED, shutdown="guest-shutdown"), "powered itself off", "console.log"),
        (replace(ENDED, shutdown="guest-panic"), "reported a panic", "console.log"),
        (replace(ENDED, shutdown="host-signal"), "a signal ended QEMU", "kill(1)"),
        (replace(ENDED, shutdown="host-qmp-quit"), "a monitor command", "qmp.log"),
        (replace(ENDED, shutdown="from-tomorrow"), "with the reason from-tomorrow", "doctor"),
        (ENDED, "QEMU exited (0)", "doctor"),
        (replace(REFUSED, words="-foo: invalid option"), "-foo: invalid option", "rejects"),
        (
            replace(REFUSED, words="Property 'virtio-balloon-pci.x' not found"),
            "exited (1)",
            "rejects an option",
        ),
        (replace(REFUSED, words="mlockall: Cannot allocate memory"), "mlockall", "ulimit -l"),
        (
            replace(REFUSED, words="unable to map backing store: Cannot allocate memory"),
            "backing store",
            "less memory",
        ),
        (
            replace(
                REFUSED,
                words="unable to map backing store: Cannot allocate memory",
                backend="hugetlb",
            ),
            "backing store",
            "vm.nr_hugepages",
        ),
    ],
    ids=str,
)
def test_end_is_named(end: QemuEnd, sentence: str, hint: str) -> None:
    error = end_error(end, LOG)
    assert sentence in error.message
    assert hint in error.hint
    assert error.evidence == (LOG,)


def test_only_a_reset_without_a_goodbye_is_the_guests_crash() -> None:
    reset = replace(ENDED, shutdown="guest-reset")
    assert end_error(reset, LOG).guest_reset
    assert not end_error(replace(reset, said_goodbye=True), LOG).guest_reset
    assert not end_error(replace(ENDED, shutdown="guest-shutdown"), LOG).guest_reset


def test_its_own_limit_is_named_before_that_of_the_host() -> None:
    """A kill in a group counts on the host, too."""
    end = replace(KILLED, killed_by_limit=True, killed_in_group=True, killed_on_host=True)
    assert "the scenario sets" in end_error(end, LOG).message
