# SPDX-License-Identifier: Apache-2.0
"""Builds a small synthetic guest, page by page, and the record of a run on it.

128 blocks of 2 MiB. The churn tool wrote 160 MiB, freed them and holds 8 MiB more. A healthy
host has got back everything that was freed, except 4 MiB of fragments below the reporting order.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from harness.kernel.losses import DiscardCoverage
from harness.kernel.oracle import reduce_audit
from harness.kernel.pages import AuditReport, GuestState, HostState
from harness.kernel.settling import SettleOutcome
from harness.kernel.zones import Zone
from harness.record.events import (
    Audited,
    Ballooned,
    BusyEnded,
    BusyStarted,
    ChurnFreed,
    ChurnHeld,
    ChurnVerified,
    CrowdFull,
    CrowdGrew,
    DevicePlugged,
    Event,
    FaultRate,
    GuestMoved,
    GuestReady,
    NoiseRead,
    OrderRead,
    PhaseStarted,
    Pressed,
    Raced,
    RunStarted,
    Sample,
    Settled,
    StepsDone,
    Suspended,
    Witnessed,
)
from harness.record.facts import DiscardTotals, GuestCounters, HostMapping, HostNoise
from harness.units import GIB, MIB, PAGE_SIZE

BLOCK = 512
"""Pages in a block of order 9."""
BLOCKS = 128
FREED = 160 * MIB
HELD_BEFORE = 216 * MIB


def zone(**changes: Any) -> Zone:
    """Build one DMA32 zone over the whole guest, well above its watermark."""
    plain = Zone(
        node=0,
        name="DMA32",
        start_pfn=0,
        spanned=BLOCK * BLOCKS,
        present=BLOCK * BLOCKS,
        managed=BLOCK * BLOCKS,
        free=41984,
        min=500,
        low=700,
        high=900,
        free_blocks=(0, 0, 0, 0, 0, 0, 0, 0, 0, 2, 40),
        per_cpu=0,
    )
    return replace(plain, **changes)


REAL_ZONES = (
    Zone(0, "DMA", 1, 4095, 3998, 3840, 3840, 22, 27, 32, (0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 3), 0),
    Zone(0, "DMA32", 4096, 1044480, 782336, 772918, 772855, 4492, 5615, 6738,
         (3, 2, 4, 2, 5, 4, 4, 4, 5, 3, 751), 0),
    Zone(0, "Normal", 1048576, 5505024, 5505024, 2129920, 1617733, 12380, 15475, 18570,
         (1260, 4750, 5246, 3026, 1888, 723, 301, 272, 129, 8, 1384), 0),
    Zone(0, "Movable", 0, 0, 0, 0, 0, 32, 32, 32, (0,) * 11, 0),
)  # fmt: skip
"""Format /proc/zoneinfo and /proc/buddyinfo as Linux 6.18 on x86_64 does."""


def mapping(held: int, **changes: Any) -> HostMapping:
    """Build the mapping of anonymous guest memory with `held` bytes resident."""
    plain = HostMapping(
        at=0.0, rss=held, anonymous=held, shmem=0, lazyfree=0, anon_huge=0, swap=0, outside=0
    )
    return replace(plain, **changes)


def of_a_file(held: int, *, blocks: int) -> HostMapping:
    """Build the mapping of a shared file with `held` bytes mapped, of the `blocks` it has."""
    return mapping(held, anonymous=0, shmem=held, file_blocks=blocks)


def noise(at: float = 0.0, **changes: Any) -> NoiseRead:
    """Build the counters of a quiet host."""
    plain = HostNoise(
        at=at,
        pswpin=0,
        pswpout=0,
        pgsteal_kswapd=0,
        thp_collapse=0,
        psi_memory_some_us=0,
        mem_available=8 << 30,
        lazyfreed=0,
    )
    return NoiseRead(at, replace(plain, **changes))


def covering(pages: np.ndarray) -> DiscardCoverage:
    """Build the coverage of pages discarded between the previous audit and this one."""
    return DiscardCoverage(pages, pages, np.zeros_like(pages))


@dataclass
class Guest:
    """Pages of guest and host; blocks are numbered 0..127."""

    states: np.ndarray = field(
        default_factory=lambda: np.full(BLOCK * BLOCKS, GuestState.USED, np.uint8)
    )
    host: np.ndarray = field(
        default_factory=lambda: np.full(BLOCK * BLOCKS, HostState.RESIDENT, np.uint8)
    )
    zones: tuple[Zone, ...] = field(default_factory=lambda: (zone(),))
    order: int = 9
    discarded: np.ndarray | None = field(default_factory=lambda: np.ones(BLOCK * BLOCKS, np.bool_))
    meminfo: dict[str, int] = field(default_factory=dict)
    vmstat: dict[str, int] = field(default_factory=dict)

    def blocks(self, first: int, count: int, state: GuestState, host: HostState) -> "Guest":
        """Set whole blocks; REPORTED gives each its head."""
        for number in range(first, first + count):
            pages = slice(number * BLOCK, (number + 1) * BLOCK)
            self.states[pages] = GuestState.FREE if state is GuestState.REPORTED else state
            if state is GuestState.REPORTED:
                self.states[number * BLOCK] = state
            self.host[pages] = host
        return self

    def fragments(self, first: int, count: int) -> "Guest":
        """Make every second page of these blocks free: nothing to report, all resident."""
        self.blocks(first, count, GuestState.USED, HostState.RESIDENT)
        self.states[first * BLOCK : (first + count) * BLOCK : 2] = GuestState.FREE
        (only,) = self.zones
        singles, *larger = only.free_blocks
        more = count * BLOCK // 2
        self.zones = (replace(only, free=only.free + more, free_blocks=(singles + more, *larger)),)
        return self

    def report(self, earlier: np.ndarray | None = None) -> AuditReport:
        return reduce_audit(
            self.states,
            self.host,
            self.states,
            zones=self.zones,
            reporting_order=self.order,
            seen=earlier,
            discards=None if self.discarded is None else covering(self.discarded),
            at=0.0,
            guest_seconds=0.1,
            host_seconds=0.01,
        )[0]

    def _meminfo(self) -> dict[str, int]:
        """Build /proc/meminfo, computed from the zones as in the kernel."""
        return {
            "MemTotal": sum(zone.managed for zone in self.zones) * PAGE_SIZE,
            "MemFree": sum(zone.free for zone in self.zones) * PAGE_SIZE,
            **self.meminfo,
        }

    def audited(self, t: float = 50.0, name: str = "final", **changes: Any) -> Audited:
        """Build an audit of this guest; the mapping follows from the host's pages."""
        count = {state: int(np.count_nonzero(self.host == state)) for state in HostState}
        plain = Audited(
            t=t,
            name=name,
            report=self.report(),
            counters=GuestCounters(t, self._meminfo(), dict(self.vmstat), self.zones),
            mapping=mapping(
                count[HostState.RESIDENT] * PAGE_SIZE, swap=count[HostState.SWAPPED] * PAGE_SIZE
            ),
            discards=DiscardTotals(102, 204 * MIB, 0, 0),
        )
        return replace(plain, **changes)


def healthy() -> Guest:
    """Build a guest: MiB used 36, held 8, fragmented 8, reported and absent 160, untouched 44."""
    return (
        Guest()
        .blocks(18, 4, GuestState.HELD, HostState.RESIDENT)
        .fragments(22, 4)
        .blocks(26, 80, GuestState.REPORTED, HostState.ABSENT)
        .blocks(106, 22, GuestState.REPORTED, HostState.ABSENT)
    )


def ready(**changes: Any) -> GuestReady:
    plain = GuestReady(
        t=4.0,
        kernel="6.1.0-50-cloud-amd64",
        accel="tcg",
        qemu="7.2.22",
        boot_seconds=3.5,
        page_reporting_order=9,
        memory=256 * MIB,
        offered=True,
        negotiated=True,
    )
    return replace(plain, **changes)


def freed(t: float = 20.0, **changes: Any) -> ChurnFreed:
    plain = ChurnFreed(
        t=t,
        bytes=FREED,
        still_held=8 * MIB,
        before=mapping(HELD_BEFORE),
        discards_before=DiscardTotals(22, 44 * MIB, 0, 0),
        zones_before=(zone(),),
    )
    return replace(plain, **changes)


def settled(t: float = 40.0, **changes: Any) -> Settled:
    plain = Settled(
        t=t,
        outcome=SettleOutcome.DRAINED,
        seconds=16.0,
        remaining=0,
        held=52 * MIB,
        t50=6.0,
        t90=14.0,
    )
    return replace(plain, **changes)


def pressed(t: float, *, before: int, after: int) -> Pressed:
    """Build the event of host pressure on anonymous memory."""
    return Pressed(t, "process-madvise", 0.1, mapping(before), mapping(after))


def started() -> list[Event]:
    """Build the events of a run up to its first step."""
    return [
        RunStarted(0.0, "reclaim-basic", "bookworm", 1, "2026-01-01T00:00:00+00:00", {}),
        PhaseStarted(0.0, "boot", "bookworm"),
        ready(),
        noise(4.0),
        PhaseStarted(5.0, "churn"),
    ]


def every_step() -> list[Event]:
    """Build the events of steps that do not change the churn tool's memory."""
    return [
        OrderRead(61.0, asked=9, refused=False, read=9),
        BusyStarted(62.0, MIB),
        BusyEnded(63.0, rounds=7),
        Raced(63.5, rounds=4, reported=256 * MIB, reused=250 * MIB, slowest=0.4, early=0),
        Suspended(64.0, "mem", 2.5, slept=True),
        Suspended(65.0, "freeze", 3.5, slept=False),
        DevicePlugged(66.0, "dimm", 128 * MIB, present=True, seconds=1.0),
        DevicePlugged(67.0, "balloon", 0, present=False, seconds=2.0),
        Ballooned(68.0, 200 * MIB, 1.5),
        FaultRate(69.0, "process", "base", "off", 100.0),
        FaultRate(69.0, "process", "base", "on", 98.0),
        FaultRate(69.0, "process", "base", "off", 102.0),
        FaultRate(69.0, "process", "base", "on", 100.0),
        GuestMoved(70.0, "migrated", 4.0),
        CrowdGrew(71.0, guests=1, peak=300 * MIB, held=100 * MIB, available=GIB),
        CrowdGrew(72.0, guests=2, peak=400 * MIB, held=150 * MIB, available=GIB - 60 * MIB),
        CrowdFull(73.0, "the limit is reached"),
        Witnessed(74.0, canary=MIB, unchecked=0, text_pages=None, files=40, lost=0),
        settled(zone_t90={"node0/DMA32": 4.0}),
        settled(t90=28.0, zone_t90={"node0/DMA32": 12.0}),
    ]


def sampled() -> list[Event]:
    """Build the beginning of a settle, and what the sampler saw during it."""
    return [
        PhaseStarted(80.0, "settle", ""),
        *(
            Sample(81.0 + n, (8 - n) * MIB, 8 * MIB, 0, 0, 0, cpu_main=n, cpu_vcpus=n, cpu_others=n)
            for n in range(4)
        ),
    ]


def a_run(
    guest: Guest | None = None,
    *,
    ready_as: GuestReady | None = None,
    freed_as: ChurnFreed | None = None,
    settled_as: Settled | None = None,
    audits: Sequence[Audited] | None = None,
    earlier: Sequence[Event] = (),
    verified: int = 0,
    noise_as: NoiseRead | None = None,
    last: Sequence[Event] = (StepsDone(60.0),),
) -> list[Event]:
    """Build a complete run: churn, free, settle, audit. By default it is healthy."""
    events = started()
    if ready_as is not None:
        events[2] = ready_as
    return [
        *events,
        ChurnHeld(10.0, FREED + 8 * MIB, 2.0),
        ChurnVerified(15.0, FREED + 8 * MIB, verified, ("page 7: wrong",) if verified else ()),
        *earlier,
        freed_as or freed(),
        settled_as or settled(),
        *([(guest or healthy()).audited()] if audits is None else audits),
        noise_as or noise(55.0),
        *last,
    ]
