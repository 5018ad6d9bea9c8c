# SPDX-License-Identifier: Apache-2.0
"""Search an ordered list of builds for the place where good turns to bad, or bad to good. Pure."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

ABOUT = """\
Runs a scenario on the builds of a kernel that Debian's archive still holds, oldest and newest
first, then those in the middle, until two neighbours differ: the release that broke it, or that
fixed it. No compiler is needed. It searches the builds of one series: that of the suite's own
kernel, unless --series names another.

  0    two builds differ
  1    all that was asked are good, or all are bad
  2    bad usage
  69   too few builds say anything, or it was interrupted"""

Word = Literal["good", "bad", "skip"]


@dataclass(frozen=True)
class Boundary:
    """Two builds that differ, by their place in the list; those between them say nothing."""

    before: int
    after: int
    turned: Word
    """What it is from `after` on."""


def search(count: int, judge: Callable[[int], Word]) -> Boundary | Word:
    """Find where the answer of `judge` changes, once, in the builds 0 to `count` - 1.

    Returns the answer of both ends if it is the same there, and "skip" if fewer than two builds say
    anything. `judge` is asked once for a build.
    """
    known: dict[int, Word] = {}

    def ask(place: int) -> Word:
        if place not in known:
            known[place] = judge(place)
        return known[place]

    low = next((n for n in range(count) if ask(n) != "skip"), None)
    if low is None:
        return "skip"
    high = next(n for n in range(count - 1, low - 1, -1) if ask(n) != "skip")
    if high == low:
        return "skip"
    if ask(low) == ask(high):
        return ask(low)
    while (middle := _next(low, high, known)) is not None:
        answer = ask(middle)
        if answer == ask(low):
            low = middle
        elif answer != "skip":
            high = middle
    return Boundary(low, high, ask(high))


def _next(low: int, high: int, known: dict[int, Word]) -> int | None:
    """The build nearest to the middle that was not skipped; None if there is none between."""
    middle = (low + high) / 2
    left = [place for place in range(low + 1, high) if place not in known]
    return min(left, key=lambda place: (abs(place - middle), place), default=None)
