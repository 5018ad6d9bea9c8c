# SPDX-License-Identifier: Apache-2.0
"""The live view of running guests: a row each, and what is to come. Pure: state in, text out.

Rows are composed by hand instead of with rich's `Table`, which measures every cell at every
redrawing and took four times as long.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from rich.cells import cell_len, set_cell_size
from rich.text import Text

from harness.record.facts import Verdict
from harness.report.screen import STYLES
from harness.safe_text import safe_line
from harness.units import format_seconds, format_size

LEVELS = " ▁▂▃▄▅▆▇█"
ASCII_LEVELS = " .:-=+*#%"
"""For terminals that are not UTF-8."""

MOST_POINTS = 256
"""Points kept of a curve: more than any terminal shows."""

WIDE = 100
"""Columns from which a row says what the host holds too."""

ELAPSED, LEAST_NAME, MOST_NAME = 6, 14, 36
"""Columns of the elapsed time, and of names."""

SPARE_LINES = 4
"""Lines of the terminal that rows leave free."""


@dataclass
class Curve:
    """Bytes over seconds, thinned out as it grows."""

    _points: list[tuple[float, int]] = field(default_factory=list)
    _apart: float = 0.0
    """Least seconds between two points."""

    def add(self, t: float, value: int) -> None:
        """Append a point. Points that are too close to the latest replace it."""
        if self._points and t - self._points[-1][0] < self._apart:
            self._points[-1] = (self._points[-1][0], value)
            return
        self._points.append((t, value))
        if len(self._points) > MOST_POINTS:
            self._points = self._points[::2]
            self._apart = 2 * (t - self._points[0][0]) / MOST_POINTS

    def cells(self, width: int, levels: str = LEVELS) -> str:
        """Draw it `width` characters wide, scaled to its highest point."""
        # A copy: points are added by other threads while it is drawn.
        points = tuple(self._points)
        if not points or width < 1:
            return " " * width
        begin, end = points[0][0], points[-1][0]
        top = max(value for _t, value in points) or 1
        heights: list[int | None] = [None] * width
        for t, value in points:
            place = int((t - begin) / (end - begin) * (width - 1)) if end > begin else 0
            heights[place] = value
        drawn, last = "", 0
        for height in heights:
            last = last if height is None else height
            drawn += levels[-(-last * (len(levels) - 1) // top)]
        return drawn


@dataclass
class RunState:
    """The state of a running run, in bytes and in seconds since it began."""

    image: str
    began: float
    """Start on this process's monotonic clock, so that the time advances between events."""
    phase: str = "starting"
    detail: str = ""
    held: int | None = None
    held_before: int | None = None
    """Bytes that the host held when memory was last freed."""
    told_at: float = 0.0
    curve: Curve = field(default_factory=Curve)
    """What the host held."""

    @property
    def back(self) -> str:
        """What the host got back since the last free; empty before one."""
        if self.held is None or self.held_before is None:
            return ""
        return f"{format_size(max(0, self.held_before - self.held))} back"

    @property
    def holds(self) -> str:
        """What the host got back, and what it holds, as far as is known."""
        if self.held is None:
            return ""
        holds = f"host holds {format_size(self.held)}"
        return f"{self.back}, {holds}" if self.back else holds

    @property
    def doing(self) -> str:
        return safe_line(f"{self.phase} {self.detail}".strip())


@dataclass(frozen=True)
class Progress:
    """How far an invocation is."""

    expected: Mapping[str, float]
    """Expected seconds of each run, in the order in which they are to begin; empty: unknown."""
    ended: Mapping[str, tuple[Verdict, float]] = field(default_factory=dict)
    """Verdicts of runs that have ended, and the seconds they took."""

    def after(self, name: str, verdict: Verdict, seconds: float) -> "Progress":
        """Return the progress once a run has ended."""
        return replace(self, ended={**self.ended, name: (verdict, seconds)})

    def again(self, name: str) -> "Progress":
        """Return the progress once a run has begun, perhaps for another attempt."""
        return replace(self, ended={key: end for key, end in self.ended.items() if key != name})

    def queued(self, running: Mapping[str, RunState]) -> list[str]:
        """Names of runs that have not begun."""
        return [name for name in self.expected if name not in running and name not in self.ended]

    def seconds_left(self, running: Mapping[str, RunState], now: float) -> float | None:
        """Estimate from how long runs took that have ended; None if it cannot be known yet.

        The guests of now go on being that many; the longest run that is left must end.
        """
        if not self.expected or not running:
            return None
        known = [name for name in self.ended if self.expected.get(name)]
        planned = sum(self.expected[name] for name in known)
        pace = sum(self.ended[name][1] for name in known) / planned if planned else 1.0
        left = [
            max(0.0, pace * self.expected.get(name, 0.0) - (now - run.began))
            for name, run in running.items()
        ]
        left += [pace * self.expected[name] for name in self.queued(running)]
        return max(sum(left) / len(running), *left)


def rows(
    running: Mapping[str, RunState],
    progress: Progress,
    *,
    now: float,
    width: int,
    height: int,
    levels: str = LEVELS,
) -> Text:
    """Compose the view for a terminal of this size; no line is longer than `width`."""
    shown = list(running.items())[: max(1, height - SPARE_LINES)]
    lines = [_row(name, run, now, width, levels) for name, run in shown]
    if len(running) > len(shown):
        lines.append(Text(f"{'':{ELAPSED}}and {len(running) - len(shown)} more guests"))
    foot = _foot(running, progress, now, width)
    lines += [foot] if foot else []
    return Text("\n", no_wrap=True, overflow="crop").join(lines)


def _row(name: str, run: RunState, now: float, width: int, levels: str) -> Text:
    elapsed = f"{now - run.began:.0f}s".rjust(ELAPSED - 1)[: ELAPSED - 1] + " "
    back = run.holds if width >= WIDE else run.back
    back_width = 32 if width >= WIDE else 12
    curve = max(8, min(32, width // 6))
    rest = width - ELAPSED - back_width - curve - 2
    label = min(MOST_NAME, max(LEAST_NAME, rest // 2))
    return Text.assemble(
        (elapsed, "dim"),
        (_fit(safe_line(name), label), "bold"),
        " ",
        _fit(run.doing, rest - label),
        _fit(back, back_width),
        " ",
        (run.curve.cells(curve, levels), "cyan"),
    )


def _fit(text: str, width: int) -> str:
    """Cut or fill text to `width` columns, the last of which stays free."""
    if cell_len(text) >= width:
        return set_cell_size(text, width - 2) + "… "
    return set_cell_size(text, width)


def _foot(running: Mapping[str, RunState], progress: Progress, now: float, width: int) -> Text:
    """Compose the last line: verdicts so far, time left, and what is queued."""
    verdicts = [verdict for verdict, _seconds in progress.ended.values()]
    parts = [
        (f"{verdicts.count(verdict)} {verdict}", STYLES[verdict])
        for verdict in Verdict
        if verdict in verdicts
    ]
    foot = Text(", ").join(Text(text, style) for text, style in parts)
    total = len(progress.expected)
    if total:
        foot.append(f"{' of ' if parts else '0 of '}{total}")
    left = progress.seconds_left(running, now)
    if left:
        # Nothing is said once it is overdue.
        foot.append(f"; about {format_seconds(left)} left")
    queued = progress.queued(running)
    if queued:
        foot.append(f"; {len(queued)} queued: ")
        foot.append(", ".join(safe_line(name) for name in queued[:20]), "dim")
    foot.truncate(width, overflow="ellipsis")
    return foot
