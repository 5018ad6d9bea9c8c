# SPDX-License-Identifier: Apache-2.0
"""Show progress from events: a live line for each run on a terminal, plain lines elsewhere."""

import threading
import time
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from rich.console import RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from harness.record.events import (
    ChurnFreed,
    ConsoleFinding,
    Event,
    GuestReady,
    Judged,
    PhaseStarted,
    RunStarted,
    Sample,
    Settled,
)
from harness.record.facts import Verdict
from harness.report.screen import STYLES, TextSink, make_console
from harness.safe_text import safe_line, safe_text
from harness.units import format_size
from harness.verdict.expressions import in_words

PLAIN_SECONDS = 10.0
"""Interval of plain lines about a run whose phase does not change."""

REFRESH_HZ = 4


@dataclass
class _Run:
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

    @property
    def back(self) -> str:
        """What the host holds, and what it got back since the last free, as far as is known."""
        if self.held is None:
            return ""
        if self.held_before is None:
            return f"host holds {format_size(self.held)}"
        back = max(0, self.held_before - self.held)
        return f"{format_size(back)} back, host holds {format_size(self.held)}"

    @property
    def doing(self) -> str:
        return safe_line(f"{self.phase} {self.detail}".strip())


class ProgressView:
    """Shows runs from their events, which may be fed from any thread.

    `total` is the number of runs, None if unknown. `live` turns redrawing on or off; None turns it
    on if the file is a terminal.
    """

    def __init__(
        self, total: int | None = None, file: TextSink | None = None, live: bool | None = None
    ) -> None:
        self._console = make_console(file)
        self._total = total
        self._done = 0
        # Replaced, never modified: rich renders in a thread that holds its own lock, where taking
        # ours could deadlock with a feed that prints.
        self._runs: dict[str, _Run] = {}
        self._boots_told: set[str] = set()
        self._lock = threading.RLock()
        self._live: Live | None = None
        if self._console.is_terminal if live is None else live:
            self._live = Live(
                console=self._console,
                get_renderable=self._render,
                refresh_per_second=REFRESH_HZ,
                transient=True,
            )

    def __enter__(self) -> Self:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def note(self, text: str) -> None:
        """Print a line that is not about a run."""
        with self._lock:
            self._console.print(Text(safe_text(text)))

    def feed(self, run_id: str, event: Event) -> None:
        """Update the view by one event of a run."""
        with self._lock:
            if isinstance(event, RunStarted):
                if event.attempt > 1:
                    # The previous attempt was counted as done, but the run goes on.
                    self._done -= 1
                run = _Run(event.image, time.monotonic() - event.t)
                self._runs = {**self._runs, run_id: run}
                return
            if isinstance(event, PhaseStarted) and event.phase == "kept":
                # It comes after the verdict, and is not wrapped, so that it can be copied.
                self._console.print(
                    Text(safe_text(f"{run_id}: its guest is kept {event.detail}")), soft_wrap=True
                )
                return
            if run_id not in self._runs:
                return
            run = self._runs[run_id]
            self._take(run, event)
            if isinstance(event, Judged):
                self._runs = {key: other for key, other in self._runs.items() if key != run_id}
                self._tell_end(run_id, event)
            elif isinstance(event, ConsoleFinding):
                self._tell(run_id, event.t, f"console: {event.severity}: {event.title}")
            elif self._live is None and self._is_due(run, event) and not self._is_known(event):
                run.told_at = event.t
                back = "" if isinstance(event, PhaseStarted) else run.back
                self._tell(run_id, event.t, f"{run.doing}: {back}" if back else run.doing)

    def _take(self, run: _Run, event: Event) -> None:
        run.began = min(run.began, time.monotonic() - event.t)
        if isinstance(event, PhaseStarted):
            run.phase, run.detail = event.phase, event.detail
        elif isinstance(event, GuestReady):
            run.phase, run.detail = "ready", f"{event.kernel} under {event.accel}"
        elif isinstance(event, Sample) and event.held is not None:
            run.held = event.held
        elif isinstance(event, ChurnFreed):
            run.held_before = run.held = event.before.held
        elif isinstance(event, Settled):
            run.held = event.held
            run.detail = f"{event.outcome} after {event.seconds:.1f} s"

    def _is_due(self, run: _Run, event: Event) -> bool:
        if isinstance(event, PhaseStarted | GuestReady | Settled):
            return True
        return isinstance(event, Sample) and event.t - run.told_at >= PLAIN_SECONDS

    def _is_known(self, event: Event) -> bool:
        """Whether a boot message, such as the choice of accelerator, was shown before."""
        if not isinstance(event, PhaseStarted) or event.phase != "boot":
            return False
        known = event.detail in self._boots_told
        self._boots_told.add(event.detail)
        return known

    def _tell(self, run_id: str, t: float, text: str) -> None:
        self._console.print(Text(f"{t:7.1f}s  {safe_line(run_id)}  {safe_line(text)}"))

    def _tell_end(self, run_id: str, judged: Judged) -> None:
        self._done += 1
        count = f"[{self._done}/{self._total}] " if self._total else ""
        # The answers of a measurement are shown in a table at the end.
        answer = {} if judged.verdict is Verdict.DONE else judged.answer
        cause = f" {judged.cause}" if judged.cause else ""
        self._console.print(
            Text.assemble(
                f"{judged.t:7.1f}s  {count}",
                (f"{judged.verdict}{cause}", STYLES[judged.verdict]),
                f"  {safe_line(run_id)}  {safe_line(in_words(answer))}".rstrip(),
            ),
            soft_wrap=True,
        )

    def _render(self) -> RenderableType:
        table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
        for _column in range(5):
            table.add_column(no_wrap=True, overflow="ellipsis")
        now = time.monotonic()
        for run_id, run in self._runs.items():
            elapsed = f"{now - run.began:.0f}s"
            cells = (elapsed, run_id, run.image, run.doing, run.back)
            table.add_row(*(Text(safe_line(cell)) for cell in cells))
        return table
