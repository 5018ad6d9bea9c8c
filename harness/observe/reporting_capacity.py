# SPDX-License-Identifier: Apache-2.0
"""How many blocks the guest reports in one call, which no guest tells.

Up to Linux 7.1 it is a constant, PAGE_REPORTING_CAPACITY (include/linux/page_reporting.h). From 7.2
the driver sets it to the size of the reporting queue, at most that constant (virtballoon_probe(),
drivers/virtio/virtio_balloon.c, and page_reporting_register(), mm/page_reporting.c; commit
47c81dadb704). QEMU knows that size.
"""

import re
from dataclasses import dataclass
from typing import Literal

from harness.errors import ObserveError, QmpError
from harness.kernel.zones import REPORTING_CAPACITY
from harness.machine.interfaces import Monitor

Source = Literal["kernel", "queue", "assumed"]

_DRIVERS_OWN = (7, 2)
"""The first Linux whose driver decides."""

_QUEUES_BEFORE = 3
"""Queues of QEMU's device before that of free page hints, if any, and that of reports: inflate,
deflate and statistics (virtio_balloon_device_realize(), hw/virtio/virtio-balloon.c)."""


@dataclass(frozen=True)
class Capacity:
    """The blocks of one call, and where that is known from."""

    blocks: int
    source: Source
    """`kernel`: the constant of its version; `queue`: the size of the reporting queue; `assumed`:
    from 7.2, where QEMU cannot tell the size."""


def read_capacity(monitor: Monitor, balloon_path: str | None, release: str) -> Capacity:
    """Return the capacity of a guest with kernel `release`, whose driver is bound.

    Raises `ObserveError` if it is another than the harness's rules of passes hold for.
    """
    version = re.match(r"(\d+)\.(\d+)", release)
    if version is not None and (int(version[1]), int(version[2])) < _DRIVERS_OWN:
        return Capacity(REPORTING_CAPACITY, "kernel")
    size = _queue_size(monitor, balloon_path) if balloon_path is not None else None
    if size is None:
        return Capacity(REPORTING_CAPACITY, "assumed")
    blocks = min(size, REPORTING_CAPACITY)
    if blocks != REPORTING_CAPACITY:
        raise ObserveError(
            f"the guest reports {blocks} blocks in one call, as its reporting queue has {size} "
            f"entries; what the harness expects of passes and watermarks holds for "
            f"{REPORTING_CAPACITY}",
            hint=f"use a QEMU whose reporting queue has at least {REPORTING_CAPACITY} entries",
        )
    return Capacity(blocks, "queue")


def _queue_size(monitor: Monitor, balloon_path: str) -> int | None:
    """Return the size of the reporting queue; None if QEMU cannot tell it.

    `x-query-virtio-queue-status` came with QEMU 7.2, and is not declared stable.
    """
    device = f"{balloon_path}/virtio-backend"
    try:
        hints = monitor.execute("qom-get", {"path": balloon_path, "property": "free-page-hint"})
        queue = _QUEUES_BEFORE + bool(hints)
        status = monitor.execute("x-query-virtio-queue-status", {"path": device, "queue": queue})
        size = status["vring-num"]
    except (QmpError, TypeError, KeyError):
        return None
    return size if isinstance(size, int) and size > 0 else None
