# SPDX-License-Identifier: Apache-2.0
"""What steps measure beside the ledgers: sleeps, plugs, fault rates, crowds, reuse, places."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from run_builders import Guest, every_step, freed, healthy, ready, settled, zone

from harness.kernel.pages import GuestState, HostState
from harness.kernel.reuse import Discarded, reuse_curve
from harness.measure.fault_costs import half_width
from harness.measure.measures import measure, measured_by_steps, registered
from harness.measure.places import place_sentence
from harness.measure.retention import retained
from harness.record.events import DevicePlugged, Event, FaultRate, Measured
from harness.record.facts import GuestCounters
from harness.record.folding import fold
from harness.units import MIB

ORDER = 9


def step_measures(events: Sequence[Event]) -> dict[str, float]:
    return measured_by_steps(fold(events))


def test_each_step_leaves_its_numbers() -> None:
    found = step_measures([freed(), *every_step()])
    assert found == pytest.approx(
        {
            "order_refused": 0,
            "order_read": 9,
            "busy_rounds": 7,
            "sleeps": 2,
            "unslept": 1,
            "slowest_sleep_seconds": 3.5,
            "plugged_bytes": 128 * MIB,
            "slowest_plug_seconds": 2.0,
            "ballooned_bytes": 200 * MIB,
            "faults_process_base_on_per_second": 99,
            "faults_process_base_on_ci_per_second": 12.7062 * 2**0.5 / 2**0.5,
            "faults_process_base_off_per_second": 101,
            "faults_process_base_off_ci_per_second": 12.7062 * 2**0.5 / 2**0.5,
            "cost_process_base_on_fraction": 1 - (0.98 + 100 / 102) / 2,
            "cost_process_base_on_ci_fraction": 12.7062 * abs(0.98 - 100 / 102) / 2,
            "raced_bytes": 250 * MIB,
            "given_back_early_bytes": 0,
            "moves": 1,
            "slowest_move_seconds": 4.0,
            "crowd_guests": 2,
            "crowd_held_bytes": 150 * MIB,
            "crowd_peak_bytes": 400 * MIB,
            "crowd_growth_bytes": 50 * MIB,
            "crowd_available_fall_bytes": 60 * MIB,
            "settle_t90_ratio": 2.0,
            "node0_DMA32_t90_seconds": 12.0,
            "node0_DMA32_t90_ratio": 3.0,
        }
    )


def test_what_no_step_did_is_absent() -> None:
    assert step_measures([]) == {}
    assert step_measures([settled(), settled()]) == {}, "nothing was freed"
    still: list[Event] = [freed(), settled(), settled(t90=None)]
    assert step_measures(still) == {}, "the latest settle moved nothing"


def test_what_booting_freed_is_no_round_to_compare_with() -> None:
    events: list[Event] = [settled(t90=1.0), freed(), settled(t90=4.0), freed(), settled(t90=6.0)]
    assert step_measures(events) == {"settle_t90_ratio": 1.5}


def test_a_number_of_the_scenarios_own_is_the_latest() -> None:
    assert step_measures([Measured(1.0, "x", 1), Measured(2.0, "x", 2)]) == {"x": 2}


def test_memory_plugged_and_taken_away_is_gone() -> None:
    come = DevicePlugged(1.0, "dimm", MIB, present=True, seconds=1.0)
    assert step_measures([come, replace(come, present=False)])["plugged_bytes"] == 0


@pytest.mark.parametrize("pages", ["base", "huge", "file"])
def test_a_rate_measured_once_has_no_interval(pages: Literal["base", "huge", "file"]) -> None:
    events: list[Event] = [
        FaultRate(1.0, "thread", pages, "off", 100.0),
        FaultRate(2.0, "thread", pages, "idle", 90.0),
    ]
    found = step_measures(events)
    assert found == pytest.approx(
        {
            f"faults_thread_{pages}_off_per_second": 100.0,
            f"faults_thread_{pages}_idle_per_second": 90.0,
            f"cost_thread_{pages}_idle_fraction": 0.1,
        }
    )
    assert all(registered(name) for name in found)


def test_rates_at_several_orders_are_no_mean_of_one_thing() -> None:
    def at(order: int, state: Literal["on", "off"], rate: float) -> Event:
        return FaultRate(1.0, "thread", "base", state, rate, order=order)

    nine = [at(9, "off", 100.0), at(9, "on", 99.0)]
    assert step_measures([*nine, at(0, "off", 100.0), at(0, "on", 40.0)]) == pytest.approx(
        {
            "faults_thread_base_off_order9_per_second": 100.0,
            "faults_thread_base_on_order9_per_second": 99.0,
            "faults_thread_base_off_order0_per_second": 100.0,
            "faults_thread_base_on_order0_per_second": 40.0,
            "cost_thread_base_on_order9_fraction": 0.01,
            "cost_thread_base_on_order0_fraction": 0.6,
        }
    )
    assert step_measures(nine)["cost_thread_base_on_fraction"] == pytest.approx(0.01)


def test_the_interval_is_students() -> None:
    # NIST/SEMATECH e-Handbook of Statistical Methods, 1.3.6.7.2: t(0.975, 9) = 2.262.
    values = [float(value) for value in range(10)]
    assert half_width(values) == pytest.approx(2.262 * 3.02765 / 10**0.5, rel=1e-4)


# --- reuse ---------------------------------------------------------------------------------------


def test_a_discard_counts_for_the_horizons_it_was_watched_for() -> None:
    discards = [
        Discarded(0.0, 100, 0.5),
        Discarded(0.0, 100, 4.0),
        Discarded(0.0, 200, None),
        Discarded(8.0, 400, 8.1),
    ]
    assert reuse_curve(discards, end=10.0) == {1: 500 / 800, 5: 200 / 400}
    assert reuse_curve([], end=10.0) == {}


@settings(deadline=None)
@given(
    st.lists(
        st.tuples(st.floats(0, 60), st.integers(1, 100), st.none() | st.floats(0, 60)), max_size=30
    )
)
def test_the_curve_never_falls_for_what_was_watched_to_the_end(
    found: list[tuple[float, int, float | None]],
) -> None:
    discards = [
        Discarded(at, size, None if later is None else at + later) for at, size, later in found
    ]
    curve = reuse_curve(discards, end=1000.0)
    assert list(curve) == ([1, 5, 30] if discards else [])
    assert list(curve.values()) == sorted(curve.values())


# --- places --------------------------------------------------------------------------------------


def two_nodes(second: HostState) -> Guest:
    """Half of the guest on node 1, whose reportable memory is in the given state."""
    half = zone(spanned=64 * 512, present=64 * 512, managed=64 * 512)
    return (
        Guest(zones=(half, replace(half, node=1, start_pfn=64 * 512)))
        .blocks(10, 54, GuestState.REPORTED, HostState.ABSENT)
        .blocks(64, 64, GuestState.FREE, second)
    )


def test_half_of_the_memory_only_is_told_with_the_node() -> None:
    audit = two_nodes(HostState.RESIDENT).audited()
    found = measure(fold([ready(), audit]))
    assert found["node0_returned_fraction"] == 1
    assert found["worst_node_returned_fraction"] == found["node1_returned_fraction"] == 0
    assert found["rule_error_bytes"] == 128 * MIB
    assert found["below_watermark_reported_bytes"] == 0
    sentence = place_sentence(audit, ORDER)
    assert sentence is not None
    assert sentence == (
        "only 1 of 2 nodes are reclaimed (node0 100% of what each can report, but node1 0%)"
    )
    assert place_sentence(two_nodes(HostState.ABSENT).audited(), ORDER) is None


def test_a_report_from_under_the_watermark_contradicts_the_rule() -> None:
    low = healthy().audited(counters=GuestCounters(1.0, {}, {}, (zone(free=100),)))
    found = measure(fold([ready(), low]))
    assert found["rule_error_bytes"] == found["below_watermark_reported_bytes"] == 204 * MIB
    earlier = healthy().audited()
    assert measure(fold([ready(), earlier, low]))["rule_error_bytes"] == 0, "it was above before"


# --- what the guest keeps ------------------------------------------------------------------------


def test_growth_is_told_by_who_keeps_it() -> None:
    def audited(vmstat: dict[str, int], **meminfo: int) -> GuestCounters:
        whole = {"MemTotal": 1000 * MIB, "MemFree": 500 * MIB, "AnonPages": 400 * MIB}
        return GuestCounters(1.0, {**whole, **meminfo}, vmstat, (zone(),))

    before = healthy().audited(counters=audited({"thp_deferred_split_page": 5}))
    after = healthy().audited(
        counters=audited(
            {"thp_deferred_split_page": 25},
            MemFree=300 * MIB,
            Cached=60 * MIB,
            Shmem=10 * MIB,
            Slab=20 * MIB,
            HugePages_Free=4,
            Hugepagesize=2 * MIB,
            Hugetlb=8 * MIB,
            AnonPages=480 * MIB,
        )
    )
    assert retained(after.counters, before.counters) == {
        "page_cache_bytes": 50 * MIB,
        "shmem_bytes": 10 * MIB,
        "slab_bytes": 20 * MIB,
        "compressed_bytes": 0,
        "huge_pool_bytes": 8 * MIB,
        "deferred_split_bytes": 32 * MIB,
    }
    assert retained(before.counters, after.counters)["page_cache_bytes"] == 0


def test_compressed_pages_are_no_huge_pages_whose_split_is_deferred() -> None:
    meminfo = {"MemTotal": 900 * MIB, "MemFree": 790 * MIB}
    vmstat = {"thp_deferred_split_page": 61, "nr_zspages": 100 * 256}
    kept = retained(GuestCounters(1.0, meminfo, vmstat, (zone(),)), None)
    assert (kept["compressed_bytes"], kept["deferred_split_bytes"]) == (100 * MIB, 10 * MIB)


@pytest.mark.parametrize(("zsmalloc", "zswap"), [(0, 100), (100, 100), (100, 0)])
def test_a_pool_of_zswap_counts_once_whatever_it_is_made_of(zsmalloc: int, zswap: int) -> None:
    """One of zbud is not in vmstat's nr_zspages; one of zsmalloc is in both."""
    counters = GuestCounters(1.0, {"Zswap": zswap * MIB}, {"nr_zspages": zsmalloc * 256}, (zone(),))
    assert retained(counters, None)["compressed_bytes"] == 100 * MIB
