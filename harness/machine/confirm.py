# SPDX-License-Identifier: Apache-2.0
"""Check a QEMU that has just started over QMP, before its guest runs."""

from typing import Literal

from harness.errors import LaunchError
from harness.machine.qmp import QmpMonitor

FORWARD_FIELD = 3


def confirm_accelerator(monitor: QmpMonitor, accel: Literal["kvm", "tcg"]) -> None:
    """Raise `LaunchError` unless QEMU uses the accelerator it was told to use."""
    enabled = bool(monitor.execute("query-kvm")["enabled"])
    if enabled != (accel == "kvm"):
        raise LaunchError(f"QEMU was told to use {accel}, but query-kvm says enabled={enabled}")


def forwarded_port(monitor: QmpMonitor) -> int:
    """Return the host port that slirp forwards to the guest's SSH. Raises `LaunchError`."""
    text = monitor.human("info usernet")
    for line in text.splitlines():
        words = line.split()
        if words and words[0].startswith("TCP[HOST_FORWARD]"):
            return int(words[FORWARD_FIELD])
    raise LaunchError(f"QEMU forwards no port to the guest; `info usernet` says:\n{text}")
