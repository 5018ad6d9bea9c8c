# SPDX-License-Identifier: Apache-2.0
"""What an invocation withstands: a display that breaks, a terminal that closes, few descriptors."""

import os
import resource
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from harness.record.events import Event, PhaseStarted
from harness.record.reader import read_events
from harness.run.invocation import run_pool, stopping_on_signals
from harness.run.plan import RunOptions
from harness.run.pool import RunPool

PHASE = PhaseStarted(0.0, "boot", "")


class Pool:
    """Counts how often it was asked to stop."""

    stops = 0

    def stop(self) -> None:
        self.stops += 1


def test_display_that_breaks_is_said_once_and_breaks_no_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    benches: list[Any] = []
    make = RunPool.__init__

    def spy(self: RunPool, bench: Any, *rest: Any) -> None:
        benches.append(bench)
        make(self, bench, *rest)

    monkeypatch.setattr(RunPool, "__init__", spy)
    heard: list[Event] = []

    def broken(_run_id: str, _event: Event) -> None:
        raise RuntimeError("no room on the screen")

    observers = [broken, lambda _run_id, event: heard.append(event)]
    with run_pool(tmp_path, RunOptions(), {}, {}, 1, observers):
        for _ in range(2):
            benches[0].emit("a-run", PHASE)
    assert len(list(read_events(tmp_path / "results.jsonl"))) == len(heard) == 2
    assert capsys.readouterr().err.count("no room on the screen") == 1


@pytest.fixture
def hangup() -> Iterator[None]:
    before = signal.getsignal(signal.SIGHUP)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.mark.usefixtures("hangup")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signals_that_stop_the_runs(number: signal.Signals) -> None:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    pool, then = Pool(), []
    with stopping_on_signals(cast(RunPool, pool), lambda: then.append(number)):
        os.kill(os.getpid(), number)
    assert (pool.stops, then) == (1, [number])
    assert signal.getsignal(signal.SIGHUP) is signal.SIG_DFL


@pytest.mark.usefixtures("hangup")
def test_hangup_stays_ignored_under_nohup() -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    pool = Pool()
    with stopping_on_signals(cast(RunPool, pool), lambda: None):
        os.kill(os.getpid(), signal.SIGHUP)
    assert pool.stops == 0


def test_every_descriptor_that_may_be_had_is_taken(tmp_path: Path) -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, before[1]))
    try:
        with run_pool(tmp_path, RunOptions(), {}, {}, 1):
            assert resource.getrlimit(resource.RLIMIT_NOFILE) == (before[1], before[1])
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
