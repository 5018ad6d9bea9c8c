# SPDX-License-Identifier: Apache-2.0
"""What the infrastructure broke is tried again on a new VM, if asked for; a failure never."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from run_fakes import FakeBench, FakeConsole, fake_vm, planned

from harness.errors import (
    DeadlineError,
    GuestCrashError,
    GuestError,
    HarnessError,
    ImageError,
    InterruptedRunError,
    LaunchError,
    PreconditionError,
    ScenarioError,
    SshError,
)
from harness.machine.console import Finding
from harness.record.facts import Cause, Verdict

PANIC = Finding("crash", "Kernel panic - not syncing: Fatal exception", "...")


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeBench:
    made = FakeBench(tmp_path / "results", monkeypatch, retry=2)
    made.prepare()
    return made


def failing(error: Exception) -> Callable[[], Any]:
    def fail() -> Any:
        raise error

    return fail


def crash() -> Callable[[], Any]:
    defect = "TCG corrupts EFLAGS"
    return failing(
        GuestCrashError("it crashed", title="Oops", text="...", accel="tcg", defect=defect)
    )


def test_what_the_infrastructure_broke_is_tried_again_and_told(
    bench: FakeBench, tmp_path: Path
) -> None:
    bench.boots = [failing(LaunchError("no memory")), failing(DeadlineError("no boot")), fake_vm]
    judged = bench.run(planned(tmp_path))
    assert judged.verdict is Verdict.DONE
    assert judged.reason.endswith("; attempt 1 broke: no memory; attempt 2 broke: no boot")
    assert judged.reason.count("no memory") == 1
    kept = sorted(path.name for path in (bench.results / "a-run").glob("attempt-*"))
    assert kept == ["attempt-1", "attempt-2"]


def test_after_two_more_attempts_it_is_a_miss(bench: FakeBench, tmp_path: Path) -> None:
    bench.boots = [failing(LaunchError(f"no memory {n}")) for n in range(1, 4)]
    judged = bench.run(planned(tmp_path))
    assert judged.verdict is Verdict.MISS
    assert judged.reason.startswith("no memory 3")
    assert "; attempt 2 broke: no memory 2" in judged.reason
    assert bench.boots == []


def test_without_asking_nothing_is_tried_again(bench: FakeBench, tmp_path: Path) -> None:
    bench.retry = 0
    bench.boots = [failing(LaunchError("no memory"))]
    assert bench.run(planned(tmp_path)).verdict is Verdict.MISS


@pytest.mark.parametrize(
    ("error", "verdict"),
    [
        (GuestError("the tool ended"), Verdict.ERROR),
        (ScenarioError("no such zone"), Verdict.ERROR),
        (PreconditionError("no NUMA"), Verdict.SKIP),
        (ImageError("not built"), Verdict.MISS),
        (InterruptedRunError("stopped"), Verdict.MISS),
    ],
    ids=lambda each: type(each).__name__,
)
def test_what_breaks_every_attempt_is_not_tried_again(
    bench: FakeBench, tmp_path: Path, error: HarnessError, verdict: Verdict
) -> None:
    bench.boots = [failing(error)]
    assert bench.run(planned(tmp_path)).verdict is verdict


def test_a_failure_is_never_tried_again(bench: FakeBench, tmp_path: Path) -> None:
    """Not even where the harness lost its guest: the console shows that it crashed."""
    bench.boots = [lambda: fake_vm(alive=False, console=FakeConsole(findings=[PANIC]))]
    bench.work = failing(SshError("the connection broke"))
    judged = bench.run(planned(tmp_path))
    assert (judged.verdict, judged.cause) == (Verdict.FAIL, Cause.GUEST_CRASH)


def test_a_second_crash_counts_across_an_attempt_that_broke(
    bench: FakeBench, tmp_path: Path
) -> None:
    bench.boots = [crash(), failing(LaunchError("no memory")), crash()]
    judged = bench.run(planned(tmp_path))
    assert (judged.verdict, judged.cause) == (Verdict.FAIL, Cause.GUEST_CRASH)
