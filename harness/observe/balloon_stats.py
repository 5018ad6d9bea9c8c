# SPDX-License-Identifier: Apache-2.0
"""The balloon device as QEMU sees it: its statistics, and whether it offers reporting."""

from dataclasses import dataclass
from typing import Any

from harness.errors import ObserveError
from harness.machine.interfaces import Monitor

_ABSENT = (1 << 64) - 1
"""QEMU's value for a statistic that the guest has not sent (hw/virtio/virtio-balloon.c,
reset_stats())."""


@dataclass(frozen=True)
class BalloonStats:
    """The guest's statistics as QEMU last received them (virtio 1.2, section 5.5.6.3).

    Memory is in bytes, the rest are counts since the guest booted; None: the guest did not send it.
    """

    last_update: int
    """When QEMU received them: wall-clock seconds of the host."""
    swap_in: int | None
    swap_out: int | None
    major_faults: int | None
    minor_faults: int | None
    free: int | None
    total: int | None
    available: int | None
    disk_caches: int | None
    hugetlb_allocations: int | None
    hugetlb_failures: int | None


def parse_stats(answer: Any) -> BalloonStats | None:
    """Parse QEMU's `guest-stats` property; None before the guest's first answer.

    Raises ObserveError if the property does not have the known shape.
    """
    try:
        updated, stats = int(answer["last-update"]), answer["stats"]
        values = {name: int(value) for name, value in stats.items()}
    except (TypeError, KeyError, ValueError, AttributeError, OverflowError) as error:
        raise ObserveError(f"cannot parse QEMU's guest-stats: {answer!r:.200}") from error
    if updated == 0:
        return None

    def value(name: str) -> int | None:
        number = values.get(f"stat-{name}", _ABSENT)
        return None if number == _ABSENT else number

    return BalloonStats(
        last_update=updated,
        swap_in=value("swap-in"),
        swap_out=value("swap-out"),
        major_faults=value("major-faults"),
        minor_faults=value("minor-faults"),
        free=value("free-memory"),
        total=value("total-memory"),
        available=value("available-memory"),
        disk_caches=value("disk-caches"),
        hugetlb_allocations=value("htlb-pgalloc"),
        hugetlb_failures=value("htlb-pgfail"),
    )


def find_balloon(monitor: Monitor) -> str | None:
    """Find the QOM path of the virtio-balloon device; None if there is none. Raises QmpError."""
    for container in ("/machine/peripheral", "/machine/peripheral-anon"):
        for child in monitor.execute("qom-list", {"path": container}):
            if str(child["type"]).startswith("child<virtio-balloon"):
                return f"{container}/{child['name']}"
    return None


def reporting_offered(monitor: Monitor, path: str) -> bool:
    """Tell whether the device at QOM `path` offers VIRTIO_BALLOON_F_REPORTING. Raises QmpError."""
    return bool(monitor.execute("qom-get", {"path": path, "property": "free-page-reporting"}))


class BalloonStatsReader:
    """Reads the statistics of the balloon at QOM `path`; QEMU polls the guest every `seconds`."""

    def __init__(self, monitor: Monitor, path: str, *, seconds: int = 1) -> None:
        """Start polling. Raises QmpError."""
        self._monitor = monitor
        self._path = path
        self._seen = 0
        monitor.execute(
            "qom-set",
            {"path": path, "property": "guest-stats-polling-interval", "value": seconds},
        )

    def read(self) -> BalloonStats | None:
        """Return statistics newer than those of the last `read`; None if none have arrived.

        QEMU stamps them to the second. Raises ObserveError, QmpError.
        """
        stats = parse_stats(
            self._monitor.execute("qom-get", {"path": self._path, "property": "guest-stats"})
        )
        if stats is None or stats.last_update == self._seen:
            return None
        self._seen = stats.last_update
        return stats
