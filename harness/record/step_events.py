# SPDX-License-Identifier: Apache-2.0
"""What the steps of a scenario leave in its record: one frozen event each.

Each carries `t`, seconds since the run's start. Sizes in bytes; `None` means *not measured*.
"""

from dataclasses import dataclass, field
from typing import Literal

from harness.kernel.pages import AuditReport
from harness.kernel.settling import SettleOutcome
from harness.kernel.zones import Zone
from harness.record.facts import Cause, DiscardTotals, GuestCounters, HostMapping


@dataclass(frozen=True)
class ChurnHeld:
    """The churn tool has written `bytes` and holds them."""

    t: float
    bytes: int
    seconds: float
    kind: Literal["churn-held"] = "churn-held"


@dataclass(frozen=True)
class ChurnFreed:
    """The churn tool freed `bytes` and still holds `still_held`; both sides just before."""

    t: float
    bytes: int
    still_held: int
    before: HostMapping
    discards_before: DiscardTotals | None
    zones_before: tuple[Zone, ...]
    kind: Literal["churn-freed"] = "churn-freed"


@dataclass(frozen=True)
class ChurnVerified:
    """A process of the guest tool compared `bytes` with what it had written there."""

    t: float
    bytes: int
    mismatched_pages: int
    detail: tuple[str, ...] = ()
    """The tool's own words about the first mismatches."""
    unchecked: int = 0
    """Bytes that were held and not looked at."""
    damaged: int = 0
    """Entries of the tool's own bookkeeping, or parts of its code, found changed."""
    by: Literal["churn", "busy", "race"] = "churn"
    """The tool's subcommand."""
    kind: Literal["churn-verified"] = "churn-verified"


@dataclass(frozen=True)
class Settled:
    t: float
    outcome: SettleOutcome
    seconds: float
    """From the start of the wait to the last movement."""
    remaining: int | None
    """Bytes that could still be reported, as last looked at."""
    held: int
    """HostMapping.held at the end."""
    t50: float | None
    """Seconds until half of what came back had come back; None if nothing did."""
    t90: float | None
    zone_t90: dict[str, float] = field(default_factory=dict)
    """The same by zone (`node0/DMA32`), by what the guest had left to report there."""
    clock_rate: float | None = None
    """Seconds of the guest's clock for each second of the host's during the wait; None where it
    was not read."""
    kind: Literal["settled"] = "settled"


@dataclass(frozen=True)
class Audited:
    t: float
    name: str
    report: AuditReport
    counters: GuestCounters
    mapping: HostMapping
    discards: DiscardTotals | None
    checks: tuple[str, ...] = ()
    """Expectations of this very audit, `measure: condition` as the scenario writes them."""
    sha256: str | None = None
    """Of the file with its pages; None in records before schema 3."""
    kind: Literal["audited"] = "audited"


@dataclass(frozen=True)
class Pressed:
    """The host was made to take memory from QEMU."""

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
    """A step took a number of its own."""

    t: float
    name: str
    value: float
    means: Cause | None = None
    """What is wrong where it is out of its bounds, if the scenario says so."""
    kind: Literal["measured"] = "measured"


@dataclass(frozen=True)
class OrderRead:
    """The guest's reporting order was read, after it was asked for one or as it was."""

    t: float
    asked: int | None
    refused: bool
    read: int
    kind: Literal["order-read"] = "order-read"


@dataclass(frozen=True)
class BusyStarted:
    """A process of the guest begins to take and free `bytes` over and over."""

    t: float
    bytes: int
    kind: Literal["busy-started"] = "busy-started"


@dataclass(frozen=True)
class BusyEnded:
    """... and has ended, after so many rounds."""

    t: float
    rounds: int
    kind: Literal["busy-ended"] = "busy-ended"


@dataclass(frozen=True)
class Raced:
    """Memory was freed and taken again in the moment in which the guest had reported it."""

    t: float
    rounds: int
    reported: int
    """Bytes seen reported when they were about to be taken."""
    reused: int
    """The part of them that was taken."""
    slowest: float
    """Seconds that taking and writing one window took at most."""
    kind: Literal["raced"] = "raced"


@dataclass(frozen=True)
class Suspended:
    """The guest slept and is back."""

    t: float
    state: Literal["mem", "freeze"]
    seconds: float
    """From the order to sleep until it answered again."""
    slept: bool
    """The guest's own count of suspends confirms that it did."""
    kind: Literal["suspended"] = "suspended"


@dataclass(frozen=True)
class DevicePlugged:
    """A device came or went while the guest ran."""

    t: float
    device: Literal["dimm", "virtio-mem", "balloon"]
    bytes: int
    present: bool
    seconds: float
    """Until the guest had it, or had let go."""
    kind: Literal["device-plugged"] = "device-plugged"


@dataclass(frozen=True)
class Ballooned:
    """The balloon took memory or gave it back."""

    t: float
    bytes: int
    """What the guest has left."""
    seconds: float
    kind: Literal["ballooned"] = "ballooned"


@dataclass(frozen=True)
class FaultRate:
    """How many pages a second the guest could fault in."""

    t: float
    by: Literal["process", "thread"]
    pages: Literal["base", "huge"]
    state: Literal["on", "idle", "off"]
    """Reporting at work; offered, but its driver unbound; not offered."""
    per_second: float
    kind: Literal["fault-rate"] = "fault-rate"


@dataclass(frozen=True)
class GuestMoved:
    """The guest was moved to another QEMU, directly or through a snapshot, or nearly so."""

    t: float
    how: Literal["migrated", "cancelled", "restored"]
    seconds: float
    kind: Literal["guest-moved"] = "guest-moved"


@dataclass(frozen=True)
class CrowdGrew:
    """One more guest has filled memory and freed it beside the others."""

    t: float
    guests: int
    """That fit so far."""
    peak: int
    """The most all held together meanwhile, bytes."""
    held: int
    """What all held together when it had settled."""
    available: int
    """The host's MemAvailable then."""
    kind: Literal["crowd-grew"] = "crowd-grew"


@dataclass(frozen=True)
class CrowdFull:
    """No further guest was started."""

    t: float
    why: str
    kind: Literal["crowd-full"] = "crowd-full"
