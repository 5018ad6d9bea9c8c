# SPDX-License-Identifier: Apache-2.0
"""Show progress from events: a live line for each run on a terminal, plain lines elsewhere."""

import os
import threading
import time
from collections.abc import Mapping
from types import TracebackType
from typing import Self

from rich.live import Live
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
from harness.report.live_rows import ASCII_LEVELS, LEVELS, Progress, RunState, rows
from harness.report.screen import STYLES, TextSink, make_console
from harness.safe_text import safe_line, safe_text
from harness.verdict.expressions import in_words

PLAIN_SECONDS = 10.0
"""Interval of plain lines about a run whose phase does not change."""

REFRESH_HZ = 2
"""Redrawings a second: at more, the view of eight guests takes over 1 % of a core."""


def wants_live(*, terminal: bool, dumb: bool) -> bool:
    """Whether output is redrawn: on a terminal that can, and not in CI, whose log is a file."""
    return terminal and not dumb and not os.environ.get("CI")


class ProgressView:
    """Shows runs from their events, which may be fed from any thread.

    It is redrawn within `with` blocks, of which there may be several one after another: between
    them others can write to the terminal.

    `total` is the number of runs, None if unknown; `expected` has the expected seconds of each, in
    the order in which they are to begin. `live` turns redrawing on or off; None turns it on if the
    file is a terminal. `quiet` shows nothing but the guests that are kept.
    """

    def __init__(
        self,
        total: int | None = None,
        file: TextSink | None = None,
        live: bool | None = None,
        *,
        expected: Mapping[str, float] | None = None,
        quiet: bool = False,
    ) -> None:
        self._console = make_console(file)
        self._progress = Progress(expected or {})
        self._total = total
        self._quiet = quiet
        self._done = 0
        # Replaced, never modified: rich renders in a thread that holds its own lock, where taking
        # ours could deadlock with a feed that prints.
        self._runs: dict[str, RunState] = {}
        self._boots_told: set[str] = set()
        self._lock = threading.RLock()
        self._live: Live | None = None
        if live is None:
            console = self._console
            live = wants_live(terminal=console.is_terminal, dumb=console.is_dumb_terminal)
        self._redraws = live and not quiet

    def __enter__(self) -> Self:
        if self._redraws:
            # A new one each time: one that was stopped would erase lines of others.
            self._live = Live(
                console=self._console,
                get_renderable=self._render,
                refresh_per_second=REFRESH_HZ,
                transient=True,
                redirect_stdout=False,
                redirect_stderr=False,
            )
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
        if not self._quiet:
            with self._lock:
                self._console.print(Text(safe_text(text)), soft_wrap=True)

    def feed(self, run_id: str, event: Event) -> None:
        """Update the view by one event of a run."""
        with self._lock:
            if isinstance(event, RunStarted):
                if event.attempt > 1:
                    # The previous attempt was counted as done, but the run goes on.
                    self._done -= 1
                run = RunState(event.image, time.monotonic() - event.t)
                self._runs = {**self._runs, run_id: run}
                self._progress = self._progress.again(run_id)
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
            elif not self._redraws and self._is_due(run, event) and not self._is_known(event):
                run.told_at = event.t
                back = "" if isinstance(event, PhaseStarted) else run.holds
                self._tell(run_id, event.t, f"{run.doing}: {back}" if back else run.doing)

    def _take(self, run: RunState, event: Event) -> None:
        run.began = min(run.began, time.monotonic() - event.t)
        if isinstance(event, PhaseStarted):
            run.phase, run.detail = event.phase, event.detail
        elif isinstance(event, GuestReady):
            run.phase, run.detail = "ready", f"{event.kernel} under {event.accel}"
        elif isinstance(event, Sample) and event.held is not None:
            run.held = event.held
            run.curve.add(event.t, event.held)
        elif isinstance(event, ChurnFreed):
            run.held_before = run.held = event.before.held
        elif isinstance(event, Settled):
            run.held = event.held
            run.detail = f"{event.outcome} after {event.seconds:.1f} s"

    def _is_due(self, run: RunState, event: Event) -> bool:
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
        if not self._quiet:
            line = f"{t:7.1f}s  {safe_line(run_id)}  {safe_line(text)}"
            self._console.print(Text(line), soft_wrap=True)

    def _tell_end(self, run_id: str, judged: Judged) -> None:
        self._done += 1
        self._progress = self._progress.after(run_id, judged.verdict, judged.t)
        if self._quiet:
            return
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

    def _render(self) -> Text:
        width, height = self._console.size
        ascii_only = self._console.options.ascii_only
        return rows(
            self._runs,
            self._progress,
            now=time.monotonic(),
            width=width,
            height=height,
            levels=ASCII_LEVELS if ascii_only else LEVELS,
        )
