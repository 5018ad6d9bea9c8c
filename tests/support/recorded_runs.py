# SPDX-License-Identifier: Apache-2.0
"""The events of three recorded runs, for the tests of reports."""

from harness.kernel.pages import AuditReport, CellTotals
from harness.kernel.settling import SettleOutcome
from harness.kernel.zones import Zone
from harness.record.events import (
    Audited,
    Broke,
    ChurnFreed,
    Event,
    GuestReady,
    Judged,
    PhaseStarted,
    RunStarted,
    Sample,
    Settled,
    StepsDone,
)
from harness.record.facts import Cause, DiscardTotals, GuestCounters, HostMapping, Verdict
from harness.units import MIB

Line = tuple[str, Event]

KERNEL = "6.1.0-50-cloud-amd64"

MAPPING = HostMapping(
    at=12.0, rss=774 * MIB, anonymous=774 * MIB, shmem=0, lazyfree=0, anon_huge=0, swap=0
)


def started(scenario: str, attempt: int = 1) -> RunStarted:
    return RunStarted(0.0, scenario, "debian-12", attempt, "2026-01-02T03:04:05+00:00", {})


READY = GuestReady(
    t=4.0,
    kernel=KERNEL,
    accel="tcg",
    qemu="7.2.22",
    boot_seconds=3.5,
    page_reporting_order=9,
    memory=1024 * MIB,
    offered=True,
    negotiated=True,
)
FREED = ChurnFreed(12.0, 512 * MIB, 0, MAPPING, DiscardTotals(4, 8 * MIB, 0, 0), ())
SETTLED = Settled(22.0, SettleOutcome.DRAINED, 9.5, 0, 288 * MIB, 2.1, 6.2)
AUDITED = Audited(
    t=23.0,
    name="after",
    report=AuditReport(
        at=23.0,
        total=CellTotals(1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11),
        per_zone={},
        per_node={},
        reported_by_order={9: 2 * MIB, 10: 480 * MIB},
        free_by_order={0: 4096},
        suspect_bytes=0,
        suspect_pfns=(),
        reported_undiscarded=None,
        guest_seconds=0.2,
        host_seconds=0.01,
    ),
    counters=GuestCounters(
        at=23.0,
        meminfo={"MemFree": 900 * MIB},
        vmstat={},
        zones=(Zone(0, "DMA32", 4096, 258048, 257888, 240000, 220000, 1, 2, 3, (5, 4, 3), 0),),
    ),
    mapping=MAPPING,
    discards=None,
    checks=("discarded_bytes: == 0",),
)
MEASURES = {
    "freed_bytes": 512.0 * MIB,
    "reclaimed_bytes": 486.0 * MIB,
    "reclaimed_fraction": 486 / 512,
    "settle_seconds": 9.5,
    "console_findings": 0.0,
}

PASSED: list[Line] = [
    ("basic", event)
    for event in (
        started("basic"),
        PhaseStarted(0.1, "boot", "debian-12"),
        READY,
        PhaseStarted(5.0, "churn", "writing 512MiB"),
        FREED,
        PhaseStarted(12.1, "settle", "at most 60 s"),
        Sample(13.0, 700 * MIB, 700 * MIB, 0, 0, 0),
        Sample(18.0, 400 * MIB, 400 * MIB, 0, 0, 0),
        Sample(22.5, 300 * MIB, 300 * MIB, 0, 0, 0),
        SETTLED,
        AUDITED,
        StepsDone(23.5),
        Judged(24.0, Verdict.PASS, None, "every expectation holds", MEASURES),
    )
]
FAILED: list[Line] = [
    ("partial", event)
    for event in (
        started("partial"),
        READY,
        Judged(
            41.2,
            Verdict.FAIL,
            Cause.ACKED_NOT_DISCARDED,
            "258MiB that the guest reported stayed with the host\x1b[31m",
            {"reported_resident_bytes": 258.0 * MIB},
        ),
    )
]
MISSED: list[Line] = [
    ("repeat", event)
    for event in (
        started("repeat"),
        Broke(3.0, "BootError", Verdict.MISS, "no answer", "look into console.log"),
        Judged(3.1, Verdict.MISS, None, "the guest did not answer in 60 s"),
        started("repeat", attempt=2),
        Broke(5.0, "LaunchError", Verdict.MISS, "QEMU ended", "read qemu.log"),
        Judged(5.5, Verdict.MISS, None, "QEMU ended at once"),
    )
]
SKIPPED: list[Line] = [
    ("numa", started("numa")),
    ("numa", Broke(0.1, "PreconditionError", Verdict.SKIP, "no", "use an image with NUMA")),
    ("numa", Judged(0.2, Verdict.SKIP, None, "the guest's kernel has no NUMA")),
]
KILLED: list[Line] = [("cut", started("cut")), ("cut", READY)]

ALL: list[Line] = PASSED + FAILED + MISSED + SKIPPED + KILLED
