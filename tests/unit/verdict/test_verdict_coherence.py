# SPDX-License-Identifier: Apache-2.0
"""A record that contradicts itself, or lacks what is always there, proves nothing: never a PASS."""

from dataclasses import asdict, replace
from typing import Any

import pytest
from judging import RECLAIM, check
from run_builders import BLOCK, HELD_BEFORE, a_run, freed, healthy, mapping, ready, zone

from harness.kernel.pages import CellTotals, GuestState, HostState
from harness.record.events import (
    Audited,
    BusyEnded,
    BusyStarted,
    ChurnHeld,
    ChurnVerified,
    Event,
    RunStarted,
    Sample,
    SamplingEnded,
    StepsDone,
    Witnessed,
)
from harness.record.facts import Cause, DiscardTotals, Verdict
from harness.units import MIB, PAGE_SIZE


def reported(**changes: Any) -> Audited:
    """The audit of a healthy guest, with other figures in its report."""
    audit = healthy().audited()
    return replace(audit, report=replace(audit.report, **changes))


def cells(**changes: int | None) -> Audited:
    total = healthy().report().total
    return reported(total=CellTotals(**(asdict(total) | changes)))


def mapped(**changes: Any) -> Audited:
    audit = healthy().audited()
    return replace(audit, mapping=replace(audit.mapping, **changes))


def told(*, meminfo: dict[str, int] | None = None, **of_zone: Any) -> Audited:
    """Other counters of the guest."""
    audit = healthy().audited()
    zones = tuple(replace(zone, **of_zone) for zone in audit.counters.zones)
    merged = audit.counters.meminfo | (meminfo or {})
    return replace(audit, counters=replace(audit.counters, zones=zones, meminfo=merged))


def changed(kind: type, **changes: Any) -> list[Event]:
    """A healthy run in which an event of a kind says something else."""
    return [replace(e, **changes) if isinstance(e, kind) else e for e in a_run()]


HEALTHY = healthy().report()
RSS = healthy().audited().mapping.rss

AUDITS = {
    "RSS 0 beside resident pages": (mapped(rss=0, anonymous=0), "page by page"),
    "RSS of half the resident pages": (mapped(rss=RSS // 2, anonymous=RSS // 2), "page by page"),
    "RSS that its parts do not make up": (mapped(anonymous=0), "parts of the mapping's RSS"),
    "more lazily free than resident": (mapped(lazyfree=RSS + PAGE_SIZE), "lazyfree is more"),
    "a report with half the present pages": (reported(present=128 * MIB), "128MiB by the report"),
    "zones with half the present pages": (told(present=64 * BLOCK, managed=64 * BLOCK, free=4000,
        free_blocks=(4000,)), "the zones have 128MiB"),
    "half of it everywhere": (
        replace(told(present=64 * BLOCK, managed=64 * BLOCK), report=reported(
            present=128 * MIB, listed=128 * MIB).report), "the guest listed 128MiB"),
    "as many pages listed twice": (reported(listed=512 * MIB), "the guest listed 512MiB"),
    "nobody counted the listed pages": (reported(listed=None), "listed is empty"),
    "nor the present ones": (reported(present=None), "present is empty"),
    "nobody judged losses": (reported(lost_bytes=None), "lost_bytes is empty"),
    "nor the balloon": (cells(offline_resident=None), "offline_resident"),
    "nor what QEMU holds elsewhere": (mapped(outside=None), "outside is empty"),
    "a cell of its own size": (cells(reported_absent=0), "the cells hold 52MiB"),
    "zones that lack a cell": (reported(per_zone={}), "0B in the zones"),
    "nodes that lack a cell": (reported(per_node={}), "0B in the nodes"),
    "no reported blocks": (reported(reported_by_order={}), "blocks of all orders make 0B"),
    "no free blocks": (reported(free_by_order={}), "blocks of all orders make 0B"),
    "an example of nothing": (reported(reported_resident_pfns=(7,)), "1 pages named"),
    "a lost page by its number alone": (reported(lost_pfns=(7,)), "1 pages named"),
    "more suspected than absent": (
        reported(suspect_bytes=MIB, suspect_pfns=(7,)), "more than the 0B it is part of"),
    "a free counter of nothing": (told(free=0), "pages free"),
    "no free memory by /proc/meminfo": (told(meminfo={"MemFree": 0}), "MemFree is 0B"),
    "half the memory by /proc/meminfo": (told(meminfo={"MemTotal": 128 * MIB}), "MemTotal is"),
    "marks in no order": (told(low=10), "zone node0/DMA32 has"),
    "another zone": (told(name="Normal"), "others in the report"),
    "more on the per-CPU lists than is in no account": (
        told(per_cpu=120 * 256), "the per-CPU lists hold 120MiB, but 88MiB"),
    "fewer discards than reports": (
        replace(healthy().audited(), discards=DiscardTotals(30, 60 * MIB, 0, 0)),
        "QEMU discarded 60MiB"),
}  # fmt: skip


@pytest.mark.parametrize(("audit", "words"), AUDITS.values(), ids=AUDITS)
def test_an_audit_that_contradicts_itself_is_no_pass(audit: Audited, words: str) -> None:
    verdict, cause, reason = check(a_run(audits=[audit]), {"console_findings": "== 0"})
    assert (verdict, cause) == (Verdict.MISS, None)
    assert "contradicts itself: at audit 'final'" in reason
    assert words in reason


@pytest.mark.parametrize(
    ("changes", "agrees"),
    [
        pytest.param({"file_blocks": RSS}, True, id="each page in the file and as a copy"),
        pytest.param({"file_blocks": RSS, "anonymous": RSS // 2}, True, id="half of them copied"),
        pytest.param(
            {"file_blocks": RSS // 2, "anonymous": RSS // 2}, True, id="some here, some there"
        ),
        pytest.param({"file_blocks": RSS // 4, "anonymous": RSS // 4}, False, id="too few in all"),
        pytest.param({"file_blocks": RSS * 2}, False, id="a file that keeps too much"),
    ],
)
def test_private_copies_of_a_files_pages_contradict_nothing(
    changes: dict[str, Any], agrees: bool
) -> None:
    both = {"anonymous": RSS} | changes
    audit = mapped(**both, shmem=RSS - both["anonymous"])
    reason = check(a_run(audits=[audit]), {"console_findings": "== 0"})[2]
    assert ("page by page" in reason) is not agrees


@pytest.mark.parametrize("known", [True, False])
def test_memory_that_the_guest_has_put_offline_contradicts_nothing(known: bool) -> None:
    """It is in no zone and no cell, and the host may hold it."""
    size = 256 * MIB
    audit = replace(healthy().audited(), mapping=mapping(RSS + size))
    audit = replace(audit, put_offline=size) if known else audit
    events = a_run(ready_as=ready(memory=2 * size), audits=[audit])
    verdict, _cause, reason = check(events, {"console_findings": "== 0"})
    assert (verdict is Verdict.PASS) is known, reason


@pytest.mark.parametrize("cell", ["free_large_resident", "free_new_resident"])
def test_a_pass_between_the_readings_of_an_audit_contradicts_nothing(cell: str) -> None:
    """A guest has just freed memory: its pages are read, then a pass goes."""
    fresh = healthy().blocks(26, 80, GuestState.FREE, HostState.RESIDENT).audited()
    report = fresh.report
    size = report.total.free_large_resident
    moved = [
        replace(cells, **({"free_large_resident": 0} | {cell: cells.free_large_resident}))
        for cells in (report.total, *report.per_zone.values(), *report.per_node.values())
    ]
    report = replace(
        report,
        total=moved[0],
        per_zone=dict(zip(report.per_zone, moved[1:], strict=False)),
        per_node=dict(zip(report.per_node, moved[1 + len(report.per_zone) :], strict=True)),
    )
    assert getattr(report.total, cell) == size == 160 * MIB

    def words(held: int) -> str:
        audit = replace(fresh, report=report, mapping=mapping(held))
        return check(a_run(audits=[audit]), {"console_findings": "== 0"})[2]

    assert "page by page" not in words(RSS)
    assert "page by page" in words(RSS + 200 * MIB)


RUNS = {
    "it verified 4 KiB of all it held": (changed(ChurnVerified, bytes=4096), "verified or left"),
    "it freed half of what it held": (
        a_run(freed_as=freed(bytes=80 * MIB)), "freed or kept 88MiB"),
    "it never held anything": (
        [event for event in a_run() if not isinstance(event, ChurnHeld)], "held 0B"),
    "discards that fall": (
        a_run(freed_as=freed(discards_before=DiscardTotals(900, 900 * MIB, 0, 0))),
        "QEMU had discarded more"),
    "discards in no call": (
        a_run(freed_as=freed(discards_before=DiscardTotals(0, 44 * MIB, 0, 0))), "in 0 calls"),
    "RSS before the free that its parts do not make up": (
        a_run(freed_as=freed(before=mapping(HELD_BEFORE, rss=2 * HELD_BEFORE))),
        "before the free at 20.0 s the parts of the mapping's RSS"),
    "less with the host than the churn tool holds": (
        a_run(freed_as=freed(before=mapping(80 * MIB))), "tool held 168MiB, the host 80MiB"),
    "more with the host than the guest has": (
        a_run(freed_as=freed(before=mapping(300 * MIB))), "the host 300MiB of the guest's 256MiB"),
    "more back than was discarded": (
        a_run(freed_as=freed(discards_before=DiscardTotals(92, 184 * MIB, 0, 0))),
        "the host held 164MiB less than before the free, of which QEMU discarded 20MiB"),
    "a zone before the free that is larger than it can be": (
        a_run(freed_as=freed(zones_before=(zone(managed=10**6),))), "zone node0/DMA32 has"),
    "no zone before the free": (
        a_run(freed_as=freed(zones_before=())), "other zones than at the last audit"),
    "a guest of another size": (
        a_run(ready_as=ready(memory=512 * MIB)), "was given 512MiB (does mem= or memmap="),
    "busy, and nothing verified": (
        a_run(earlier=[BusyStarted(16.0, MIB), BusyEnded(17.0, rounds=5)]), "verified less"),
    "busy, and less verified": (
        a_run(earlier=[BusyStarted(16.0, MIB), ChurnVerified(17.0, 4 * MIB, 0, by="busy"),
                       BusyEnded(17.0, rounds=5)]), "verified less"),
}  # fmt: skip


@pytest.mark.parametrize(("events", "words"), RUNS.values(), ids=RUNS)
def test_a_run_that_contradicts_itself_is_no_pass(events: list[Event], words: str) -> None:
    verdict, _cause, reason = check(events, {"console_findings": "== 0"})
    assert verdict is Verdict.MISS
    assert words in reason


def test_what_a_busy_process_took_and_verified_agrees() -> None:
    busy: list[Event] = [
        BusyStarted(16.0, MIB),
        ChurnVerified(17.0, 5 * MIB, 0, by="busy"),
        BusyEnded(17.0, rounds=5),
    ]
    assert check(a_run(earlier=busy))[0] is Verdict.PASS


@pytest.mark.parametrize("feature", ["offered", "negotiated"])
def test_a_second_boot_without_the_feature_is_not_made_up_for_by_the_first(feature: str) -> None:
    again = ready(**{feature: False})
    verdict, cause, reason = check(a_run(earlier=[again]), RECLAIM, reporting_wanted=True)
    assert (verdict, cause) == (Verdict.FAIL, Cause.FEATURE_OFF)
    assert reason.endswith("at boot 2")


@pytest.mark.parametrize(
    ("ended", "words"),
    [
        (
            SamplingEnded(56.0, 0, ("no frame", "it has shrunk"), ("it has shrunk",)),
            "an instrument failed while the run was sampled: it has shrunk",
        ),
        (SamplingEnded(56.0, 70, ()), "70 samples came too late"),
    ],
)
def test_a_run_whose_instruments_could_not_look_is_no_pass(
    ended: SamplingEnded, words: str
) -> None:
    verdict, _cause, reason = check(a_run(earlier=[ended]))
    assert verdict is Verdict.MISS
    assert words in reason


def test_a_guest_that_sent_no_counters_for_a_while_is_still_judged() -> None:
    """As one whose QEMU was stopped: what is judged does not come from its stream of counters."""
    ended = SamplingEnded(56.0, 3, ("waited 20.0 s for a frame of `fpr-guest counters`",))
    assert check(a_run(earlier=[ended, *[Sample(30.0, 1, 1, 0, 0, 0)] * 3]))[0] is Verdict.PASS


def test_older_records_may_lack_what_nobody_counted() -> None:
    events = a_run(audits=[reported(listed=None, present=None, lost_bytes=None)])
    assert isinstance(events[0], RunStarted)
    events[0] = replace(events[0], schema=2)
    assert check(events)[0] is Verdict.PASS


def test_what_fails_is_said_though_the_record_contradicts_itself() -> None:
    verdict, cause, _reason = check(a_run(audits=[mapped(lazyfree=RSS + MIB)], verified=1))
    assert (verdict, cause) == (Verdict.FAIL, Cause.DATA_LOSS)


class TestTheSecondWitness:
    """What no step verifies is looked at when the last step is done."""

    SEEN = Witnessed(
        58.0, canary=2 * MIB, unchecked=0, text_pages=4000, files=40, lost=0, detail=()
    )

    def test_that_nothing_changed_is_no_news(self) -> None:
        assert check(a_run(last=[self.SEEN, StepsDone(60.0)]))[0] is Verdict.PASS

    def test_a_file_that_changed_is_data_loss_though_no_page_is_absent(self) -> None:
        lost = replace(self.SEEN, lost=1, detail=("lost what=file path=/bin/busybox",))
        verdict, cause, reason = check(a_run(last=[lost, StepsDone(60.0)]))
        assert (verdict, cause) == (Verdict.FAIL, Cause.DATA_LOSS)
        assert reason.endswith(
            "had changed at the end of the run: lost what=file path=/bin/busybox"
        )

    def test_pages_of_its_own_that_it_did_not_look_at_are_a_miss(self) -> None:
        blind = replace(self.SEEN, unchecked=MIB)
        verdict, _cause, reason = check(a_run(last=[blind, StepsDone(60.0)]))
        assert (verdict, reason) == (
            Verdict.MISS,
            "the witness did not check 1MiB of its own memory",
        )

    def test_it_stands_in_for_no_verification_that_a_step_was_to_make(self) -> None:
        events = [e for e in a_run(last=[self.SEEN, StepsDone(60.0)]) if e.kind != "churn-verified"]
        assert check(events, {"integrity_mismatched_pages": "== 0"})[0] is Verdict.MISS
