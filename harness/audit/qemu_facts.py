# SPDX-License-Identifier: Apache-2.0
"""What QEMU says over QMP about guest RAM, the balloon, and what keeps it from discarding."""

import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from harness.errors import ObserveError, QmpError
from harness.machine.interfaces import Monitor
from harness.observe.balloon_stats import BalloonStats, find_balloon, parse_stats, reporting_offered
from harness.observe.features import VIRTIO_BALLOON_F_REPORTING
from harness.observe.ram_layout import (
    RamBlock,
    RamLayout,
    parse_flat_view,
    parse_host_address,
    parse_ram_blocks,
)

ARCHITECTURE = "x86_64"

_REPORTING_NAMES = ("VIRTIO_BALLOON_F_REPORTING", "VIRTIO_BALLOON_F_PAGE_REPORTING")
_INHIBITORS = {
    "vfio": "a VFIO device, which pins guest RAM",
    "vhost-vdpa": "a vDPA device, which pins guest RAM",
    "sev": "AMD SEV, which pins encrypted guest RAM",
    "tdx": "Intel TDX, which needs coordinated discards",
}
"""Types of devices and objects for which QEMU disables discards (ram_block_discard_disable())."""


@dataclass(frozen=True)
class Backend:
    """A memory backend, from `query-memdev` and `info ramblock`."""

    name: str
    size: int
    page_size: int
    """Bytes in a page of what backs it: more than 4096 for hugetlbfs."""
    shared: bool
    prealloc: bool


@dataclass(frozen=True)
class Balloon:
    """The balloon device as QEMU shows it."""

    path: str
    """In QEMU's object model."""
    offered: bool
    """It offers free page reporting."""
    negotiated: bool | None
    """The guest's driver has accepted it; None before QEMU 7.2, which cannot tell."""
    actual: int
    """Bytes that the balloon leaves the guest."""
    polling: int
    """Seconds between two queries of the guest's statistics; 0: QEMU never asks."""
    stats: BalloonStats | None
    """The guest's own statistics; None if it never sent any."""
    stats_age: float | None
    """Seconds since it sent them."""


@dataclass(frozen=True)
class QemuFacts:
    """One QEMU's answers."""

    name: str
    """Empty if the VM has none."""
    uuid: str
    """As the guest's firmware shows it; all zeros if none was given."""
    version: str
    state: str
    """What `query-status` says, such as `running` or `paused`."""
    layout: RamLayout
    devices: tuple[RamBlock, ...]
    """The RAM of devices that the guest can see; `page_size` as QEMU says."""
    backends: tuple[Backend, ...]
    balloon: Balloon | None
    inhibitors: tuple[str, ...]
    """What keeps QEMU from discarding, as far as its devices tell."""


def ask(monitor: Monitor) -> QemuFacts:
    """Ask QEMU. Raises `QmpError`, and `ObserveError` for a guest that cannot be audited."""
    architecture = str(monitor.execute("query-target")["arch"])
    if architecture != ARCHITECTURE:
        raise ObserveError(
            f"this QEMU emulates {architecture}; only guests of {ARCHITECTURE} can be audited"
        )
    state = str(monitor.execute("query-status")["status"])
    if state in ("inmigrate", "prelaunch"):
        raise ObserveError(
            f"the guest does not run yet (QEMU says {state})", hint="audit it once it runs"
        )
    layout = RamLayout.read(monitor)
    version = monitor.execute("query-version")["qemu"]
    return QemuFacts(
        name=str(monitor.execute("query-name").get("name", "")),
        uuid=str(monitor.execute("query-uuid")["UUID"]),
        version=".".join(str(version[part]) for part in ("major", "minor", "micro")),
        state=state,
        layout=layout,
        devices=_device_blocks(monitor, layout),
        backends=_backends(monitor, layout),
        balloon=_balloon(monitor),
        inhibitors=_inhibitors(monitor),
    )


def _device_blocks(monitor: Monitor, layout: RamLayout) -> tuple[RamBlock, ...]:
    """Find the RAM of devices that lies in the guest's address space."""
    sizes = parse_ram_blocks(monitor.human("info ramblock"))
    guest = {block.name for block in layout.blocks}
    found: dict[str, RamBlock] = {}
    for region in parse_flat_view(monitor.human("info mtree -f")):
        if region.block in guest or region.block in found or region.block not in sizes:
            continue
        try:
            _name, hva = parse_host_address(monitor.human(f"gpa2hva {region.start:#x}"))
        except (ObserveError, QmpError):
            continue  # a ROM device, which has no address while it is written to
        size, page_size = sizes[region.block]
        found[region.block] = RamBlock(region.block, size, page_size, hva - region.offset)
    return tuple(found.values())


def _backends(monitor: Monitor, layout: RamLayout) -> tuple[Backend, ...]:
    by_name = {str(entry["id"]): entry for entry in monitor.execute("query-memdev")}
    return tuple(
        Backend(
            name=block.name,
            size=block.size,
            page_size=block.page_size,
            shared=bool(by_name[block.name].get("share", False)),
            prealloc=bool(by_name[block.name].get("prealloc", False)),
        )
        for block in layout.blocks
    )


def _balloon(monitor: Monitor) -> Balloon | None:
    path = find_balloon(monitor)
    if path is None:
        return None
    stats = parse_stats(monitor.execute("qom-get", {"path": path, "property": "guest-stats"}))
    interval = {"path": path, "property": "guest-stats-polling-interval"}
    return Balloon(
        path=path,
        offered=reporting_offered(monitor, path),
        negotiated=_negotiated(monitor, path),
        actual=int(monitor.execute("query-balloon")["actual"]),
        polling=int(monitor.execute("qom-get", interval)),
        stats=stats,
        stats_age=None if stats is None else max(0.0, time.time() - stats.last_update),
    )


def _negotiated(monitor: Monitor, path: str) -> bool | None:
    """Ask whether the driver has accepted reporting; `x-query-virtio-status` came with 7.2."""
    try:
        status = monitor.execute("x-query-virtio-status", {"path": f"{path}/virtio-backend"})
        return _accepted(status["guest-features"])
    except (QmpError, KeyError, TypeError):
        return None


def _accepted(features: Any) -> bool:
    """Look for reporting among features, decoded by name with a rest of unknown bits."""
    names = (str(name).partition(":")[0] for name in features.get("dev-features", ()))
    unknown = int(features.get("unknown-dev-features", 0))
    return any(name in _REPORTING_NAMES for name in names) or bool(
        unknown >> VIRTIO_BALLOON_F_REPORTING & 1
    )


def _inhibitors(monitor: Monitor) -> tuple[str, ...]:
    """Look through devices and objects for those that disable discards."""
    kinds: list[str] = []
    for container in ("/machine/peripheral", "/machine/peripheral-anon", "/objects"):
        kinds += (str(child["type"]) for child in monitor.execute("qom-list", {"path": container}))
    return inhibitors_of(kinds)


def inhibitors_of(kinds: Sequence[str]) -> tuple[str, ...]:
    """Name what disables discards among QOM types such as `child<vfio-pci>`."""
    return tuple(
        words
        for start, words in _INHIBITORS.items()
        if any(re.match(rf"child<{start}\b", kind) for kind in kinds)
    )
