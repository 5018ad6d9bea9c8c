# SPDX-License-Identifier: Apache-2.0
"""A trend in plain words."""

from harness.compare.trends import Trend
from harness.compare.words import amount, change


def change_words(trend: Trend) -> str:
    """Say when a series that changed did so, by how much, and what else changed then."""
    series, found = trend.series, trend.change
    assert found is not None
    first, last = series.runs[found.index], series.runs[found.index - 1]
    moved = [
        f"{name} {before} -> {after}"
        for name, before, after in (
            ("kernel", last.kernel, first.kernel),
            ("QEMU", last.qemu, first.qemu),
        )
        if before != after
    ]
    beside = ", with " + " and ".join(moved) if moved else ", with the same kernel and QEMU"
    word = "WORSE" if trend.got_worse else "changed"
    by = change(series.measure, found.after - found.before, found.before)
    return (
        f"{word} since {first.began[:16]}: {amount(series.measure, found.before)} -> "
        f"{amount(series.measure, found.after)} ({by}){beside}"
    )
