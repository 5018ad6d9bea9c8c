# SPDX-License-Identifier: Apache-2.0
"""What kernels that were broken on purpose look like, and the cause that is named."""

from dataclasses import replace

from judging import G, S, check, judged
from run_builders import a_run, healthy, noise, started

from harness.record.asked import INVARIANTS
from harness.record.events import Broke, ConsoleFinding
from harness.record.facts import Cause, Verdict
from harness.units import MIB


def test_blocks_that_were_never_put_back_are_named_before_the_per_cpu_lists() -> None:
    """The guest keeps more on its lists than in the leak, but the leak is the defect."""
    guest = healthy().blocks(106, 2, G.USED, S.ABSENT)
    verdict, cause, reason = check(a_run(guest), {}, invariants=INVARIANTS)
    assert (verdict, cause) == (Verdict.FAIL, Cause.GUEST_RETAINED)
    assert reason.startswith("4MiB were taken to be reported and never put back")


def test_a_miscount_comes_before_what_is_computed_from_it() -> None:
    """MemFree that drifts moves zones below their watermark, and their memory seems retained."""
    guest = healthy().blocks(106, 2, G.FREE, S.RESIDENT)
    guest.zones = tuple(replace(zone, free=zone.free - 5000) for zone in guest.zones)
    verdict, cause, reason = check(
        a_run(guest), {"unreported_free_bytes": "== 0"}, invariants=INVARIANTS
    )
    assert (verdict, cause) == (Verdict.FAIL, Cause.KERNEL_WARNING)
    assert reason.startswith("the guest's kernel miscounts its free memory: MemFree")
    assert "unreported_free_bytes" in reason


def test_counters_that_lag_are_no_miscount() -> None:
    """125 pages for each CPU, of a guest with two."""
    guest = healthy()
    guest.zones = tuple(replace(zone, free=zone.free + 250) for zone in guest.zones)
    assert judged(a_run(guest), {}, invariants=INVARIANTS).verdict is not Verdict.FAIL


def test_a_zone_below_its_watermark_that_reports_is_named() -> None:
    guest = healthy()
    guest.zones = tuple(replace(zone, managed=8000) for zone in guest.zones)
    verdict, cause, reason = check(a_run(guest), {}, invariants=INVARIANTS)
    assert (verdict, cause) == (Verdict.FAIL, Cause.CONTROL_BROKEN)
    assert "too small ever to be above its watermark" in reason


def test_a_driver_that_will_not_bind_is_the_kernels_fault_not_the_scenarios() -> None:
    title = "the guest's kernel refused to bind the balloon driver: Device or resource busy"
    events = [
        *started(),
        ConsoleFinding(20.0, "warning", title, "", on_console=False),
        Broke(20.0, "GuestError", Verdict.ERROR, title, ""),
    ]
    verdict, cause, reason = check(events, {}, invariants=INVARIANTS)
    assert (verdict, cause) == (Verdict.FAIL, Cause.KERNEL_WARNING)
    assert reason.startswith(title)


def test_a_guest_that_reports_the_same_again_is_overhead() -> None:
    first, last = healthy().audited(51.0, "settled"), healthy().audited(58.0, "quiet")
    assert last.discards is not None
    again = replace(last, discards=replace(last.discards, bytes=last.discards.bytes + 300 * MIB))
    expected = {"quiet_discarded_bytes": "<= batch_bytes"}
    assert check(a_run(audits=[first, last], noise_as=noise(59.0)), expected)[0] is Verdict.PASS
    verdict, cause, reason = check(a_run(audits=[first, again]), expected)
    assert (verdict, cause) == (Verdict.FAIL, Cause.OVERHEAD)
    assert "went on reporting" in reason
