# SPDX-License-Identifier: Apache-2.0
"""The page oracle: one cell for every page, and what each cell means."""

import tracemalloc
from dataclasses import fields
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from run_builders import BLOCK, REAL_ZONES, Guest, covering, healthy, zone

from harness.kernel.losses import WAS_RESIDENT, DiscardCoverage
from harness.kernel.oracle import reduce_audit
from harness.kernel.pages import AuditReport, CellTotals, GuestState, HostState, Seen
from harness.kernel.zones import above_watermark, zone_index
from harness.units import MIB, PAGE_SIZE

G, S = GuestState, HostState


def audit(before: Any, host: Any, after: Any = None, **changes: Any) -> AuditReport:
    return reduced(before, host, after, **changes)[0]


def reduced(
    before: Any, host: Any, after: Any = None, **changes: Any
) -> tuple[AuditReport, np.ndarray]:
    values: dict[str, Any] = {
        "zones": (zone(),),
        "reporting_order": 9,
        "seen": None,
        "discards": None,
        "at": 1.0,
        "guest_seconds": 0.1,
        "host_seconds": 0.2,
    }
    return reduce_audit(
        np.array(before, np.uint8),
        np.array(host, np.uint8),
        np.array(before if after is None else after, np.uint8),
        **(values | changes),
    )


def block_of(state: GuestState) -> np.ndarray:
    states = np.full(BLOCK, G.FREE if state is G.REPORTED else state, np.uint8)
    states[0] = state
    return states


def only(cells: CellTotals) -> dict[str, int]:
    return {f.name: v for f in fields(cells) if (v := getattr(cells, f.name))}


@pytest.mark.parametrize(
    ("state", "host", "cells"),
    [
        (G.USED, S.RESIDENT, ["used_resident"]),
        (G.USED, S.SWAPPED, ["used_resident"]),
        (G.USED, S.ABSENT, ["used_absent"]),
        (G.USED, S.ZERO, ["used_absent"]),
        (G.HELD, S.RESIDENT, ["used_resident"]),
        (G.HELD, S.ABSENT, ["used_absent", "held_absent"]),
        (G.HELD, S.ZERO, ["used_absent"]),
        (G.FREE, S.RESIDENT, ["free_large_resident"]),
        (G.FREE, S.ABSENT, ["free_large_absent"]),
        (G.REPORTED, S.RESIDENT, ["reported_resident"]),
        (G.REPORTED, S.SWAPPED, ["reported_resident"]),
        (G.REPORTED, S.ABSENT, ["reported_absent"]),
        (G.REPORTED, S.ZERO, ["reported_absent"]),
        (G.USED, S.UNKNOWN, ["unknown"]),
        (G.REPORTED, S.UNKNOWN, ["unknown"]),
        (G.NO_PAGE, S.RESIDENT, []),
        (G.NO_PAGE, S.UNKNOWN, []),
    ],
)
def test_the_cells_of_a_block(state: GuestState, host: HostState, cells: list[str]) -> None:
    total = audit(block_of(state), np.full(BLOCK, host)).total
    assert only(total) == dict.fromkeys(cells, 2 * MIB)


def test_free_below_the_order_is_retained_and_not_unreported() -> None:
    half = np.concatenate([np.full(256, G.FREE), np.full(256, G.USED)])
    total = audit(half, np.full(512, S.RESIDENT)).total
    assert only(total) == {"free_small_resident": MIB, "used_resident": MIB}
    assert audit(half, np.full(512, S.RESIDENT), reporting_order=8).total.free_large_resident == MIB


@pytest.mark.parametrize(("free", "above"), [(700 + (32 << 9), False), (700 + (32 << 9) + 1, True)])
def test_a_zone_is_skipped_up_to_its_watermark(free: int, above: bool) -> None:
    """free <= low + (32 << order) is skipped: page_reporting_process_zone()."""
    watched = zone(free=free)
    assert above_watermark(watched, 9) is above
    total = audit(block_of(G.FREE), np.full(BLOCK, S.RESIDENT), zones=(watched,)).total
    assert only(total) == {"free_large_resident" if above else "free_small_resident": 2 * MIB}


def test_the_zones_of_a_real_machine() -> None:
    """The DMA zone of x86 has at most 4095 pages and 32 << 9 is 16384: it is never reported."""
    above = {real.name: above_watermark(real, 9) for real in REAL_ZONES}
    assert above == {"DMA": False, "DMA32": True, "Normal": True, "Movable": False}
    assert above_watermark(REAL_ZONES[0], 0), "with blocks of a page it is"
    index = zone_index(REAL_ZONES, 1 << 21)
    assert index[[0, 1, 4095, 4096, 1048575, 1048576]].tolist() == [0, 1, 1, 2, 2, 3]
    assert 4 not in index, "an empty zone has no page"


def test_a_machine_may_have_more_zones_than_a_byte_can_number() -> None:
    zones = [zone(node=node, start_pfn=node * 512, spanned=512) for node in range(300)]
    assert zone_index(zones, 300 * 512)[-1] == 300


@pytest.mark.parametrize("order", [-1, 11, 0xFFFFFFFF])
def test_an_order_nothing_can_have_leaves_all_free_memory_retained(order: int) -> None:
    """What a kernel shows in which no driver registered."""
    report = audit(block_of(G.FREE), np.full(BLOCK, S.RESIDENT), reporting_order=order)
    assert only(report.total) == {"free_small_resident": 2 * MIB}


def test_free_pages_in_no_zone_are_excused_by_no_watermark() -> None:
    total = audit(block_of(G.FREE), np.full(BLOCK, S.RESIDENT), zones=()).total
    assert only(total) == {"free_large_resident": 2 * MIB}


@pytest.mark.parametrize(
    ("before", "after", "cell"),
    [
        (G.USED, G.FREE, "unstable"),
        (G.FREE, G.REPORTED, "unstable"),
        (G.NO_PAGE, G.USED, "unstable"),
        (G.HELD, G.FREE, "unstable"),
        (G.HELD, G.USED, "used_absent"),
        (G.USED, G.HELD, "used_absent"),
    ],
)
def test_only_stable_pages_are_judged(before: GuestState, after: GuestState, cell: str) -> None:
    total = audit(block_of(before), np.full(BLOCK, S.ABSENT), block_of(after)).total
    assert only(total) == {cell: 2 * MIB}


def test_a_block_that_merged_while_being_read_counts_with_its_lower_order() -> None:
    before = np.concatenate([np.full(256, G.USED), np.full(256, G.FREE)])
    report = audit(before, np.full(512, S.RESIDENT), np.full(512, G.FREE))
    assert only(report.total) == {"free_small_resident": MIB, "unstable": MIB}
    assert report.free_by_order == {8: MIB}


def test_arrays_of_different_lengths() -> None:
    guest_longer = audit([G.USED] * 4, [S.RESIDENT] * 3)
    assert only(guest_longer.total) == {"used_resident": 3 * PAGE_SIZE, "unknown": PAGE_SIZE}
    host_longer = audit([G.USED] * 3, [S.RESIDENT] * 4)
    assert only(host_longer.total) == {"used_resident": 3 * PAGE_SIZE}
    grown = audit([G.USED] * 2, [S.RESIDENT] * 3, [G.USED] * 3)
    assert only(grown.total) == {"used_resident": 2 * PAGE_SIZE, "unstable": PAGE_SIZE}


def test_totals_by_zone_node_and_order() -> None:
    zones = (
        zone(name="DMA", spanned=BLOCK, free=100),
        zone(start_pfn=BLOCK, spanned=BLOCK),
        zone(node=1, name="Normal", start_pfn=2 * BLOCK, spanned=2 * BLOCK),
    )
    states = np.concatenate([block_of(s) for s in (G.FREE, G.USED, G.REPORTED, G.REPORTED)])
    report = audit(states, np.full(len(states), S.RESIDENT), zones=zones)
    assert {key: only(cells) for key, cells in report.per_zone.items()} == {
        "node0/DMA": {"free_small_resident": 2 * MIB},
        "node0/DMA32": {"used_resident": 2 * MIB},
        "node1/Normal": {"reported_resident": 4 * MIB},
    }
    assert {key: only(cells) for key, cells in report.per_node.items()} == {
        "node0": {"free_small_resident": 2 * MIB, "used_resident": 2 * MIB},
        "node1": {"reported_resident": 4 * MIB},
    }
    assert report.reported_by_order == {9: 4 * MIB}
    assert report.free_by_order == {9: 2 * MIB}
    assert report.reported_resident_pfns == tuple(range(2 * BLOCK, 2 * BLOCK + 16))


def test_of_two_zones_that_span_a_page_the_shorter_owns_it() -> None:
    outer = zone(name="Normal", start_pfn=0, spanned=100)
    inner = zone(node=1, name="Normal", start_pfn=40, spanned=20)
    for zones, inner_number in (((outer, inner), 2), ((inner, outer), 1)):
        index = zone_index(zones, 110)
        assert set(index[40:60].tolist()) == {inner_number}
        assert set(index[60:100].tolist()) == {3 - inner_number}
        assert set(index[100:].tolist()) == {0}


def test_reported_pages_no_discard_ever_covered() -> None:
    covered = np.zeros(BLOCK, np.bool_)
    covered[:128] = True
    pages = block_of(G.REPORTED), np.full(BLOCK, S.ABSENT)
    assert audit(*pages, discards=covering(covered)).reported_undiscarded == 384 * PAGE_SIZE
    assert audit(*pages, discards=covering(covered[:100])).reported_undiscarded == 412 * PAGE_SIZE
    assert audit(*pages).reported_undiscarded is None


class TestSuspects:
    """Used and absent now, though once seen used and resident: suspicion, not proof."""

    def test_a_page_seen_resident_that_goes_absent_is_named(self) -> None:
        first, seen = reduced([G.USED] * 3, [S.RESIDENT, S.RESIDENT, S.ABSENT])
        assert first.suspect_bytes == 0
        second, seen = reduced([G.USED] * 3, [S.RESIDENT, S.ABSENT, S.ABSENT],
                               seen=seen)  # fmt: skip
        assert (second.suspect_bytes, second.suspect_pfns) == (PAGE_SIZE, (1,))
        third, _ = reduced([G.USED] * 3, [S.ABSENT] * 3, seen=seen)
        assert third.suspect_pfns == (0, 1), "it stays suspect as long as it is used"

    def test_a_page_that_was_free_in_between_is_not(self) -> None:
        _, seen = reduced([G.USED], [S.RESIDENT])
        _, seen = reduced([G.FREE], [S.ABSENT], seen=seen)
        assert reduced([G.USED], [S.ABSENT], seen=seen)[0].suspect_bytes == 0

    def test_memory_plugged_in_later_is_no_trouble(self) -> None:
        _, seen = reduced([G.USED], [S.RESIDENT])
        report, seen = reduced([G.USED] * 3, [S.ABSENT] * 3, seen=seen)
        assert report.suspect_pfns == (0,)
        assert len(seen) == 3


def coverage(ever: Any = (), since: Any = (), during: Any = ()) -> DiscardCoverage:
    return DiscardCoverage(*(np.array(mask, np.bool_) for mask in (ever, since, during)))


class TestLostPages:
    """Used and resident at an earlier audit, used and absent now: lost, or never touched again?"""

    WRITTEN = (G.CONTENT, G.HELD)

    def lost(self, state: GuestState, host: HostState = S.ABSENT, **changes: Any) -> AuditReport:
        _, seen = reduced([state], [S.RESIDENT])
        return reduced([state], [host], seen=seen, **changes)[0]

    @pytest.mark.parametrize("state", WRITTEN)
    def test_what_somebody_has_written_is_lost_whatever_was_discarded(
        self, state: GuestState
    ) -> None:
        report = self.lost(state, discards=coverage([1], [1]))
        assert (report.lost_bytes, report.lost_pfns) == (PAGE_SIZE, (0,))
        assert report.lost_undiscarded == 0
        assert self.lost(state).lost_bytes == PAGE_SIZE, "no trace is needed for that"

    def test_what_no_discard_covered_is_lost_whoever_uses_it(self) -> None:
        report = self.lost(G.USED, discards=coverage([1], [0]))
        assert (report.lost_bytes, report.lost_undiscarded) == (PAGE_SIZE, PAGE_SIZE)

    def test_what_was_discarded_since_may_have_been_taken_again_and_not_touched(self) -> None:
        report = self.lost(G.USED, discards=coverage([1], [1]))
        assert (report.lost_bytes, report.suspect_bytes) == (0, PAGE_SIZE)

    @pytest.mark.parametrize("was", [*WAS_RESIDENT, Seen.RESIDENT_EARLIER, Seen.NOTHING])
    def test_what_was_resident_is_lost_whoever_had_it_then(self, was: Seen) -> None:
        """A page may be free at one audit, and taken and written before the next."""
        report, _ = reduced([G.USED], [S.ABSENT], seen=np.array([was]), discards=coverage([1], [0]))
        assert bool(report.lost_bytes) is (was in WAS_RESIDENT)

    @pytest.mark.parametrize("state", [G.FREE, G.OFFLINE, G.REPORTED])
    def test_what_an_audit_saw_on_the_host_is_remembered_whoever_has_it(
        self, state: GuestState
    ) -> None:
        _, seen = reduced([state] * 2, [S.RESIDENT, S.ABSENT])
        assert (seen[0] in WAS_RESIDENT, seen[1] in WAS_RESIDENT) == (True, False)

    def test_without_a_trace_a_page_with_no_owner_is_only_suspect(self) -> None:
        assert self.lost(G.USED).lost_bytes == 0

    def test_the_zero_page_and_swap_keep_what_was_written(self) -> None:
        for host in (S.ZERO, S.SWAPPED, S.UNKNOWN):
            assert self.lost(G.CONTENT, host, discards=coverage([0], [0])).lost_bytes == 0

    def test_a_page_discarded_while_the_audit_looked_may_have_changed_hands(self) -> None:
        assert self.lost(G.CONTENT, discards=coverage([1], [1], [1])).lost_bytes == 0

    def test_one_that_was_not_resident_at_the_latest_audit_is_no_new_loss(self) -> None:
        _, seen = reduced([G.USED], [S.RESIDENT])
        _, seen = reduced([G.USED], [S.ABSENT], seen=seen, discards=coverage([1], [1]))
        third, _ = reduced([G.USED], [S.ABSENT], seen=seen, discards=coverage([1], [0]))
        assert (third.lost_bytes, third.suspect_bytes) == (0, PAGE_SIZE)

    def test_what_was_written_is_lost_also_where_no_audit_saw_it_before(self) -> None:
        report, _ = reduced([G.CONTENT, G.USED], [S.ABSENT] * 2, discards=coverage([0], [0]))
        assert report.lost_pfns == (0,)

    def test_pages_of_zeros_do_not_move_with_a_guest(self) -> None:
        report, seen = reduced([G.CONTENT] * 2, [S.ABSENT, S.RESIDENT], moved=True)
        assert report.lost_bytes == 0
        assert reduced([G.CONTENT] * 2, [S.ABSENT] * 2, seen=seen, moved=True)[0].lost_pfns == (1,)


def test_pages_in_the_balloon_have_cells_of_their_own() -> None:
    report, _ = reduced([G.OFFLINE] * 3, [S.RESIDENT, S.ABSENT, S.ZERO])
    assert only(report.total) == {
        "offline_resident": PAGE_SIZE,
        "offline_absent": 2 * PAGE_SIZE,
    }


def test_what_the_guest_listed_stands_beside_what_its_zones_have() -> None:
    report, _ = reduced([G.USED, G.FREE, G.NO_PAGE, G.OFFLINE], [S.RESIDENT] * 4)
    assert report.listed == 3 * PAGE_SIZE
    assert report.present == zone().present * PAGE_SIZE


def test_the_builders_healthy_guest() -> None:
    assert only(healthy().report().total) == {
        "used_resident": 48 * MIB,
        "free_small_resident": 4 * MIB,
        "reported_absent": 204 * MIB,
    }


states = hnp.arrays(np.uint8, st.integers(0, 1500), elements=st.integers(0, 6))


@settings(deadline=None)
@given(states, states, states)
def test_every_page_of_the_guest_is_in_exactly_one_cell(
    before: np.ndarray, host: np.ndarray, after: np.ndarray
) -> None:
    total = only(audit(before, host, after, reporting_order=1).total)
    total.pop("held_absent", None)  # lies within used_absent
    length = max(len(before), len(after))
    present = [
        i < len(array) and array[i] != G.NO_PAGE for array in (before, after) for i in range(length)
    ]
    pages = sum(a or b for a, b in zip(present[:length], present[length:], strict=True))
    assert sum(total.values()) == pages * PAGE_SIZE


def test_an_audit_of_six_gibibytes_stays_below_64_mebibytes() -> None:
    pages = 6 << 18
    wire = np.random.default_rng(1).integers(0, 5, pages).astype(np.uint8)
    tracemalloc.start()
    audit(wire, wire, discards=covering(np.ones(pages, np.bool_)))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 64 * MIB


def test_fragments_have_no_block_worth_reporting() -> None:
    assert Guest().fragments(0, 1).report().free_by_order == {0: MIB}


def since(then: Any, now: Any, *, recent: bool, state: HostState = S.RESIDENT) -> CellTotals:
    """The cells of a guest at an audit after another; all of it is in one state on the host."""
    host = np.full(len(now), state, np.uint8)
    _report, seen = reduced(then, host)
    return audit(now, host, seen=seen, recent=seen if recent else None).total


def test_what_was_in_use_at_an_audit_a_moment_ago_is_not_due_to_be_reported() -> None:
    """The guest's per-CPU lists may give back whole huge pages at any time."""
    cells = since(block_of(G.USED), block_of(G.FREE), recent=True)
    assert only(cells) == {"free_new_resident": 2 * MIB}


def test_after_two_passes_it_is_due() -> None:
    cells = since(block_of(G.USED), block_of(G.FREE), recent=False)
    assert only(cells) == {"free_large_resident": 2 * MIB}


@pytest.mark.parametrize(
    ("state", "cell"),
    [(S.RESIDENT, "free_large_resident"), (S.ABSENT, "free_large_absent")],
)
def test_what_could_be_reported_then_is_due_however_short_the_time(
    state: HostState, cell: str
) -> None:
    cells = since(block_of(G.FREE), block_of(G.FREE), recent=True, state=state)
    assert only(cells) == {cell: 2 * MIB}


@pytest.mark.parametrize("then", [G.USED, G.FREE])
def test_what_was_on_the_host_at_the_audit_before_needs_a_discard_since(then: GuestState) -> None:
    """One of an earlier round does not vouch for it, whether the block was in use or reportable."""
    host = np.full(BLOCK, S.RESIDENT, np.uint8)
    _report, seen = reduced(block_of(then), host)
    earlier = coverage(np.ones(BLOCK), np.zeros(BLOCK), np.zeros(BLOCK))
    report = audit(block_of(G.REPORTED), host, seen=seen, discards=earlier)
    assert report.reported_undiscarded == 2 * MIB


def test_a_block_that_lacked_a_page_then_is_not_due() -> None:
    nearly = block_of(G.FREE)
    nearly[7] = G.USED
    cells = since(nearly, block_of(G.FREE), recent=True)
    assert only(cells) == {"free_new_resident": 2 * MIB}
