# SPDX-License-Identifier: Apache-2.0
"""The table under a patch series: plain text, each number with its interval."""

import pytest

from harness.compare.series_mail import ROWS, Sides, compose_series
from harness.record.facts import Verdict
from harness.report.mail import COLUMNS
from harness.report.summary import RunSummary
from harness.units import MIB

SIDES = Sides("kernel:~/linux-base", "kernel:~/linux-patched", "Linux 6.18, x86_64")


def runs(label: str, measures: dict[str, float], count: int = 6) -> list[RunSummary]:
    """Runs of a side, each of whose values is one percent larger than that before."""
    return [
        RunSummary(
            f"reclaim-basic+{label}#{number}",
            "reclaim-basic",
            "bookworm",
            1,
            kernel=f"7.3.0-{label.lower()}",
            accel="kvm",
            qemu="11.1.3",
            verdict=Verdict.PASS,
            measures={name: value * (1 + number / 100) for name, value in measures.items()},
        )
        for number in range(count)
    ]


def row(text: str, words: str) -> list[str]:
    (line,) = (line for line in text.splitlines() if line.startswith(words))
    return line.removeprefix(words).split()


def test_each_number_has_its_interval_and_what_differs_its_mark() -> None:
    same = {"reclaimed_bytes": 486.0 * MIB, "qemu_main_cpu_fraction": 0.2}
    a = runs("A", {"settle_t90_seconds": 4.0, **same})
    b = runs("B", {"settle_t90_seconds": 0.2, **same})
    text = compose_series(SIDES, a, b)
    t90 = row(text, ROWS["settle_t90_seconds"])
    assert t90[:5] == ["4.1", "s", "0.2", "s", "-95.0%"]
    assert t90[-1] == "*"
    back = row(text, ROWS["reclaimed_bytes"])
    assert (back[2], back[4]) == ("+0.0%", "to")
    assert "kernel:~/linux-patched (Linux 7.3.0-b)" in text
    assert "11.1.3, KVM" in text
    assert "A: 6 PASS; B: 6 PASS" in text
    assert text.index(ROWS["reclaimed_bytes"]) < text.index(ROWS["qemu_main_cpu_fraction"])


def test_no_line_is_longer_than_a_list_takes() -> None:
    values = dict.fromkeys(ROWS, 123456.789)
    text = compose_series(SIDES, runs("A", values), runs("B", values))
    assert all(words in text for words in ROWS.values())
    assert max(map(len, text.splitlines())) <= COLUMNS


def test_large_and_small_numbers_are_told_in_full() -> None:
    values = {"faults_process_base_on_per_second": 200000.0, "refill_page_seconds": 2e-6}
    text = compose_series(SIDES, runs("A", values), runs("B", values))
    assert row(text, ROWS["faults_process_base_on_per_second"])[0] == "205,000"
    assert row(text, ROWS["refill_page_seconds"])[:2] == ["2.05", "us"]


def test_too_few_runs_say_so_in_place_of_an_interval() -> None:
    a, b = (runs(label, {"settle_t90_seconds": 4.0}, 3) for label in "AB")
    assert row(compose_series(SIDES, a, b), ROWS["settle_t90_seconds"])[-4:] == [
        "and", "3", "runs", "?",
    ]  # fmt: skip


def test_what_one_side_did_not_take_is_not_compared() -> None:
    a = runs("A", {"settle_t90_seconds": 4.0, "faults_thread_base_on_per_second": 100.0})
    text = compose_series(SIDES, a, runs("B", {"settle_t90_seconds": 4.0}))
    assert row(text, ROWS["faults_thread_base_on_per_second"])[:3] == ["102", "-", "-"]


@pytest.mark.parametrize("other", [{}, {"held_bytes": 1.0}])
def test_without_a_measure_of_the_table_there_is_none(other: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="took a measure"):
        compose_series(SIDES, runs("A", other), runs("B", other))
    with pytest.raises(ValueError, match="no scenario in common"):
        compose_series(SIDES, runs("A", other), [])
