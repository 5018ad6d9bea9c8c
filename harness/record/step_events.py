# SPDX-License-Identifier: Apache-2.0
"""The events that the steps of a scenario record.

Each has `t`, seconds since the run's start. Sizes are in bytes; `None` means *not measured*.
"""

from dataclasses import dataclass, field
from typing import Literal

from harness.kernel.pages import AuditReport
from harness.kernel.settling import SettleOutcome
from harness.kernel.zones import Zone
from harness.record.facts import Cause, DiscardTotals, GuestCounters, HostMapping


@dataclass(frozen=True)
class ChurnAsked:
    """The churn tool begins to fill `bytes`, where nothing else makes room for them."""

    t: float
    bytes: int
    available: int
    """Memory and swap that the guest has available, in bytes (MemAvailable, SwapFree)."""
    kind: Literal["churn-asked"] = "churn-asked"


@dataclass(frozen=True)
class ChurnHeld:
    """The churn tool has filled `bytes` and holds them."""

    t: float
    bytes: int
    seconds: float
    kind: Literal["churn-held"] = "churn-held"


@dataclass(frozen=True)
class ChurnFreed:
    """The churn tool freed `bytes` and still holds `still_held`; with the state just before."""

    t: float
    bytes: int
    still_held: int
    before: HostMapping
    discards_before: DiscardTotals | None
    zones_before: tuple[Zone, ...]
    kind: Literal["churn-freed"] = "churn-freed"


@dataclass(frozen=True)
class ChurnVerified:
    """A process of the guest tool compared `bytes` with the pattern it had written."""

    t: float
    bytes: int
    mismatched_pages: int
    detail: tuple[str, ...] = ()
    """The tool's lines on the first mismatches."""
    unchecked: int = 0
    """Bytes that were held but not checked."""
    damaged: int = 0
    """Damaged entries of the tool's own bookkeeping, and parts of its code that have changed."""
    by: Literal["churn", "busy", "race", "crowd"] = "churn"
    """The tool's subcommand, or `crowd`: the churn tool of one of several guests."""
    kind: Literal["churn-verified"] = "churn-verified"


@dataclass(frozen=True)
class Settled:
    """A wait for freed memory to come back has ended."""

    t: float
    outcome: SettleOutcome
    seconds: float
    """From the start of the wait to the last movement."""
    remaining: int | None
    """Bytes that could still be reported, as last observed."""
    held: int
    """HostMapping.held at the end."""
    t50: float | None
    """Seconds until half of what came back had come back; None if nothing did."""
    t90: float | None
    """Seconds until 90 % of what came back had come back; None if nothing did."""
    zone_t90: dict[str, float] = field(default_factory=dict)
    """By zone (`node0/DMA32`): seconds until 90 % of what the guest had to report was reported."""
    clock_rate: float | None = None
    """Guest seconds per host second during the wait; None if the guest's clock was not read."""
    kind: Literal["settled"] = "settled"


@dataclass(frozen=True)
class Audited:
    """A page audit was taken."""

    t: float
    name: str
    report: AuditReport
    counters: GuestCounters
    mapping: HostMapping
    discards: DiscardTotals | None
    checks: tuple[str, ...] = ()
    """The expectations of this audit, `measure: condition` as in the scenario."""
    sha256: str | None = None
    """Checksum of the audit's file; None in records before schema 3."""
    put_offline: int = 0
    """Bytes of the guest's RAM in memory blocks that the guest has put offline: in no cell and no
    zone, held by the host or not."""
    kind: Literal["audited"] = "audited"


@dataclass(frozen=True)
class Pictured:
    """The pages were read while memory was held, for the report alone; nothing is judged by it."""

    t: float
    name: str
    report: AuditReport
    sha256: str
    """Checksum of the file, `audits/00-NAME.npz`."""
    kind: Literal["pictured"] = "pictured"


@dataclass(frozen=True)
class Pressed:
    """The host was put under pressure to reclaim memory from QEMU."""

    t: float
    by: str
    seconds: float
    before: HostMapping
    after: HostMapping
    kind: Literal["pressed"] = "pressed"


@dataclass(frozen=True)
class DriverChanged:
    """The balloon driver lost its device or got one."""

    t: float
    bound: bool
    reporting: bool = True
    """Whether that device offers free page reporting."""
    kind: Literal["driver-changed"] = "driver-changed"


@dataclass(frozen=True)
class Measured:
    """A step took a measure of its own."""

    t: float
    name: str
    value: float
    means: Cause | None = None
    """The cause to name if the measure fails its expectation; None if the step names none."""
    kind: Literal["measured"] = "measured"


@dataclass(frozen=True)
class OrderRead:
    """The guest's reporting order was read, possibly after it was asked to change it."""

    t: float
    asked: int | None
    refused: bool
    read: int
    pass_seconds: float | None = None
    """Seconds between two reporting passes; None: the record is of an older version."""
    kind: Literal["order-read"] = "order-read"


@dataclass(frozen=True)
class BusyStarted:
    """A process in the guest started to allocate and free `bytes` repeatedly."""

    t: float
    bytes: int
    kind: Literal["busy-started"] = "busy-started"


@dataclass(frozen=True)
class BusyEnded:
    """The busy process has ended, after `rounds` rounds."""

    t: float
    rounds: int
    kind: Literal["busy-ended"] = "busy-ended"


@dataclass(frozen=True)
class Raced:
    """Memory was freed, and allocated again as soon as the guest had reported it."""

    t: float
    rounds: int
    reported: int
    """Bytes seen reported just before they were allocated."""
    reused: int
    """The part of `reported` that was allocated."""
    slowest: float
    """The most seconds that allocating and writing one window took."""
    early: int | None = None
    """Bytes in blocks that were marked as reported before the host can have discarded them; None if
    the host was not slowed down, or in records of older versions."""
    kind: Literal["raced"] = "raced"


@dataclass(frozen=True)
class Suspended:
    """The guest was suspended and has resumed."""

    t: float
    state: Literal["mem", "freeze", "disk"]
    seconds: float
    """From the command to suspend until the guest answered again."""
    slept: bool
    """Whether it really slept: by the guest's own count of suspends; of `disk`, by a reset."""
    kind: Literal["suspended"] = "suspended"


@dataclass(frozen=True)
class DevicePlugged:
    """A device was plugged or unplugged while the guest ran."""

    t: float
    device: Literal["dimm", "virtio-mem", "balloon"]
    bytes: int
    present: bool
    seconds: float
    """Until the guest used the device, or had released it."""
    kind: Literal["device-plugged"] = "device-plugged"


@dataclass(frozen=True)
class Ballooned:
    """The balloon was inflated or deflated."""

    t: float
    bytes: int
    """Memory left to the guest."""
    seconds: float
    kind: Literal["ballooned"] = "ballooned"


@dataclass(frozen=True)
class FaultRate:
    """How many pages a second the guest faulted in."""

    t: float
    by: Literal["process", "thread"]
    pages: Literal["base", "huge", "file"]
    """Anonymous memory in pages of 4 KiB or 2 MiB; a private mapping of a file."""
    state: Literal["on", "idle", "off"]
    """Reporting active; offered, but its driver unbound; not offered."""
    per_second: float
    order: int | None = None
    """The order the guest reports at; None in records before it was told apart."""
    kind: Literal["fault-rate"] = "fault-rate"


@dataclass(frozen=True)
class GuestMoved:
    """The guest was migrated to another QEMU, or restored there from a snapshot, or its migration
    was cancelled."""

    t: float
    how: Literal["migrated", "cancelled", "restored"]
    seconds: float
    kind: Literal["guest-moved"] = "guest-moved"


@dataclass(frozen=True)
class CrowdGrew:
    """One more guest has filled and freed memory alongside the others."""

    t: float
    guests: int
    """Number of guests that fit so far."""
    peak: int
    """The most bytes that all guests together held meanwhile."""
    held: int
    """Bytes that all guests together held once the new one had settled."""
    available: int
    """The host's MemAvailable at that time."""
    kind: Literal["crowd-grew"] = "crowd-grew"


@dataclass(frozen=True)
class CrowdFull:
    """No further guest was started."""

    t: float
    why: str
    all_fit: bool = False
    """Whether all guests that the scenario starts at most fit, so that more might have."""
    kind: Literal["crowd-full"] = "crowd-full"


@dataclass(frozen=True)
class Witnessed:
    """After the last step: what has become of used memory that no step verifies."""

    t: float
    canary: int
    """Bytes of the witness's own pages that were compared with what was written there."""
    unchecked: int
    """Bytes of its own that were not."""
    text_pages: int | None
    """Pages of the kernel's code and constants that were read; None where they cannot be."""
    files: int | None
    """Files of the initramfs that were compared with what the image was built with; None where
    the guest has no list of them."""
    lost: int
    """Pages and files that are not what they were, and damaged entries of its bookkeeping."""
    detail: tuple[str, ...] = ()
    """The tool's words on the first of them."""
    kind: Literal["witnessed"] = "witnessed"
