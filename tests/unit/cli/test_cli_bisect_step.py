# SPDX-License-Identifier: Apache-2.0
"""`fpr-harness bisect-step` tells git what it may believe, and never calls a good commit bad."""

import argparse
import functools
import os
import random
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace

import pytest

from harness.act.discover import VERBS
from harness.cli import bisect_runs, bisect_step_command
from harness.cli.bisect_rule import BAD, GOOD, SKIP, STOP, answer, runs_for_confidence
from harness.cli.main import main
from harness.deadline import Deadline, wait_for
from harness.errors import ImageError, RecordError
from harness.record.facts import Cause, Verdict
from harness.report.summary import RunSummary
from harness.scenario.selection import find_scenarios


def run(
    verdict: Verdict, cause: Cause | None = None, *, booted: bool = True, interrupted: bool = False
) -> RunSummary:
    return RunSummary(
        "reclaim-basic",
        "reclaim-basic",
        "bookworm",
        1,
        kernel="6.1.0" if booted else None,
        verdict=verdict,
        cause=cause,
        reason="why",
        interrupted=interrupted,
    )


PASS, MISS, ERROR, SKIPPED = (
    run(verdict) for verdict in (Verdict.PASS, Verdict.MISS, Verdict.ERROR, Verdict.SKIP)
)
FAIL = run(Verdict.FAIL, Cause.NOT_REPORTED)
NO_BOOT = run(Verdict.FAIL, Cause.GUEST_CRASH, booted=False)
NO_REPORTING = run(Verdict.FAIL, Cause.FEATURE_OFF)
STOPPED = run(Verdict.MISS, interrupted=True)
MEASURED = run(Verdict.DONE)


@pytest.mark.parametrize(
    ("runs", "status"),
    [
        ([PASS], GOOD),
        ([FAIL], BAD),
        ([NO_BOOT], SKIP),
        ([NO_REPORTING], SKIP),
        ([SKIPPED], SKIP),
        ([MISS], SKIP),
        ([ERROR], SKIP),
        ([MEASURED], STOP),
        ([STOPPED], STOP),
        ([PASS, PASS, FAIL], BAD),
        ([MISS, FAIL], BAD),
        ([FAIL, STOPPED], BAD),
        ([PASS, MISS], SKIP),
        ([PASS, NO_BOOT], SKIP),
        ([NO_BOOT, STOPPED], SKIP),
        ([STOPPED, NO_REPORTING], SKIP),
    ],
)
def test_what_a_commit_is(runs: list[RunSummary], status: int) -> None:
    assert answer(runs, wanted=len(runs)).status == status


@pytest.mark.parametrize(
    ("confidence", "fails_in", "runs"), [(0.95, 1 / 3, 8), (0.95, 0.5, 5), (0.99, 0.1, 44)]
)
def test_how_many_good_runs_are_believed(confidence: float, fails_in: float, runs: int) -> None:
    assert runs_for_confidence(confidence, fails_in) == runs
    assert (1 - fails_in) ** runs <= 1 - confidence < (1 - fails_in) ** (runs - 1)


class FakeRuns:
    """Stands for the guests: what each round of runs gives, and how many it was asked for."""

    def __init__(self, rounds: Callable[[int], Sequence[RunSummary]]) -> None:
        self.asked: list[int] = []
        self.boots: dict[str, object] = {}
        self._rounds = rounds

    def carry_out(
        self, options: argparse.Namespace, _scenarios: object, *, until_fail: bool
    ) -> SimpleNamespace:
        assert until_fail
        self.asked.append(options.repeat)
        summary = SimpleNamespace(runs=tuple(self._rounds(options.repeat)))
        return SimpleNamespace(summary=summary, boots=self.boots)


@pytest.fixture
def given(monkeypatch: pytest.MonkeyPatch) -> Callable[..., FakeRuns]:
    def give(*rounds: Sequence[RunSummary]) -> FakeRuns:
        left: Iterator[Sequence[RunSummary]] = iter(rounds)
        fake = FakeRuns(lambda _repeat: next(left))
        monkeypatch.setattr(bisect_runs, "carry_out", fake.carry_out)
        return fake

    return give


def step(*words: str) -> int:
    return main(["bisect-step", "reclaim-basic", *words])


def test_runs_that_say_nothing_are_made_up_for(given: Callable[..., FakeRuns]) -> None:
    fake = given([PASS, MISS, MISS], [PASS, MISS], [PASS])
    assert step("--repeat", "3") == GOOD
    assert fake.asked == [3, 2, 1]


def test_they_are_made_up_for_twice_only(given: Callable[..., FakeRuns]) -> None:
    fake = given([MISS], [ERROR], [MISS])
    assert step() == SKIP
    assert fake.asked == [1, 1, 1]


def test_a_tree_of_which_no_image_can_be_made_is_tried_once(given: Callable[..., FakeRuns]) -> None:
    fake = given([MISS])
    fake.boots["bookworm"] = ImageError("this tree is not built", hint="build it")
    assert step() == SKIP
    assert fake.asked == [1]


def test_a_guest_that_does_not_boot_is_not_booted_again(given: Callable[..., FakeRuns]) -> None:
    fake = given([NO_BOOT])
    assert step() == SKIP
    assert fake.asked == [1]


def test_a_guest_that_does_not_boot_ends_the_other_runs_and_the_step(
    given: Callable[..., FakeRuns],
) -> None:
    """Those that it ended were not interrupted by a person, and are not made up for."""
    fake = given([NO_BOOT, STOPPED, STOPPED])
    assert step("--repeat", "3") == SKIP
    assert fake.asked == [3]


def test_a_bug_in_a_third_of_the_runs_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 300 bad commits at most 5 % pass for good ones, and no good one for a bad one."""
    dice = random.Random(20261126)

    def rounds(repeat: int) -> list[RunSummary]:
        return [FAIL if dice.random() < 1 / 3 else PASS for _ in range(repeat)]

    monkeypatch.setattr(bisect_runs, "carry_out", FakeRuns(rounds).carry_out)
    loaded = functools.cache(lambda: find_scenarios(["reclaim-basic"], VERBS))
    monkeypatch.setattr(bisect_step_command, "find_scenarios", lambda *_a, **_k: loaded())
    steps = [step("--until-confident", "0.95", "--fails-in", "0.3333") for _ in range(300)]
    assert steps.count(GOOD) <= 0.05 * 300
    assert set(steps) == {GOOD, BAD}


def test_a_failed_build_skips_the_commit_and_runs_nothing(
    given: Callable[..., FakeRuns], capsys: pytest.CaptureFixture[str]
) -> None:
    fake = given()
    assert step("--build", "exit 3") == SKIP
    assert fake.asked == []
    assert "the build exited with 3: exit 3" in capsys.readouterr().err


def test_a_build_that_was_killed_skips_the_commit_and_says_by_what(
    given: Callable[..., FakeRuns], capsys: pytest.CaptureFixture[str]
) -> None:
    given()
    assert step("--build", "kill -KILL $$") == SKIP
    assert "the build was killed by SIGKILL: kill -KILL $$" in capsys.readouterr().err


def test_a_build_that_asks_a_question_gets_no_answer(given: Callable[..., FakeRuns]) -> None:
    """Nobody sits at a bisection: `make` with new options would wait for ever."""
    given()
    terminal, answers = os.pipe()
    stdin = os.dup(0)
    os.write(answers, b"y\n")
    try:
        os.dup2(terminal, 0)
        assert step("--build", "read answer") == SKIP
    finally:
        os.dup2(stdin, 0)
        for descriptor in (terminal, answers, stdin):
            os.close(descriptor)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_a_build_that_hangs_with_its_children_and_stops_the_bisection(
    given: Callable[..., FakeRuns],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    number: signal.Signals,
) -> None:
    fake = given()
    pid_file = tmp_path / "pid"

    def interrupt() -> None:
        wait_for(
            lambda: (pid_file.exists() and pid_file.read_text().strip()) or None,
            Deadline(20, "the build to start"),
        )
        os.kill(os.getpid(), number)

    # A test that runs in the background has these signals ignored.
    before = signal.signal(number, signal.SIG_DFL)
    thread = threading.Thread(target=interrupt)
    thread.start()
    try:
        status = step("--build", f"sleep 60 & echo $! >{pid_file}; trap '' INT; wait")
    finally:
        thread.join()
        signal.signal(number, before)
    assert status == STOP
    assert fake.asked == []
    assert f"{number.name} ended the build" in capsys.readouterr().err
    child = Path(f"/proc/{pid_file.read_text().strip()}/stat")
    wait_for(
        lambda: True if not child.exists() or child.read_text().split()[2] == "Z" else None,
        Deadline(10, "the build's child to end"),
    )


def test_ctrl_c_while_the_guest_is_prepared_stops_the_bisection(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def interrupt(*_args: object, **_kwargs: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(bisect_runs, "carry_out", interrupt)
    assert step() == STOP


def test_a_directory_that_takes_no_results_stops_the_bisection_before_the_build(
    given: Callable[..., FakeRuns],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    fake = given()
    monkeypatch.chdir(tmp_path)
    Path("results").write_text("a file")
    assert step("--build", "touch built") == STOP
    assert fake.asked == []
    assert not Path("built").exists()
    assert "cannot make the results directory results" in capsys.readouterr().err


def test_results_that_cannot_be_written_stop_the_bisection(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def full(*_args: object, **_kwargs: object) -> None:
        raise RecordError("cannot write results.jsonl: No space left on device")

    monkeypatch.setattr(bisect_runs, "carry_out", full)
    assert step() == STOP


def test_a_kernel_that_the_build_did_not_make_skips_the_commit(
    given: Callable[..., FakeRuns],
) -> None:
    given()
    assert step("--build", "true", "--kernel", "arch/x86/boot/bzImage") == SKIP


def test_a_tree_that_cannot_be_booted_skips_the_commit(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*_args: object, **_kwargs: object) -> None:
        raise ImageError("no bzImage in linux", hint="build it")

    monkeypatch.setattr(bisect_runs, "carry_out", refuse)
    assert step() == SKIP
    assert "bisect-step: skip: no bzImage in linux" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words",
    [
        ["--until-confident", "0.95"],
        ["--until-confident", "1.5", "--fails-in", "0.3"],
        ["--repeat", "0"],
        ["--set", "guest.bogus=1"],
        ["--qemu", "a", "--qemu", "b"],
        ["--qemu", "bookworm,trixie"],
        ["--qemu", "no-such-build"],
        ["--image", "all"],
        ["--image", "bookworm,trixie"],
        ["--image", "no-such-image"],
        ["--jobs", "0"],
        ["--keep-failed", "-1"],
        ["--modules", "."],
        ["--set", "host.qemu_args=['-S']"],
        ["--repeat", "3", "--until-confident", "0.95", "--fails-in", "0.3"],
        ["--until-confident", "0.95", "--fails-in", "1e-9"],
        ["--until-confident", "0.95", "--fails-in", "1e-17"],
        ["--until-confident", "0.95", "--fails-in", "5e-324"],
        ["--clock", "virtual", "--accel", "kvm"],
    ],
    ids=" ".join,
)
def test_a_wrong_command_line_stops_the_bisection(
    given: Callable[..., FakeRuns], words: list[str]
) -> None:
    fake = given()
    assert step("--build", "exit 3", *words) == STOP, "before the build"
    assert fake.asked == []


def test_a_clock_that_the_scenario_is_not_valid_under_stops_the_bisection(
    given: Callable[..., FakeRuns], capsys: pytest.CaptureFixture[str]
) -> None:
    """As a skip it would skip every commit."""
    fake = given()
    assert main(["bisect-step", "long-churn", "--clock", "virtual"]) == STOP
    assert fake.asked == []
    assert "--clock virtual" in capsys.readouterr().err


def test_a_step_is_of_one_scenario(
    given: Callable[..., FakeRuns], capsys: pytest.CaptureFixture[str]
) -> None:
    """One variant that passed would say nothing of the others."""
    fake = given()
    assert main(["bisect-step", "suspend-resume"]) == STOP
    assert fake.asked == []
    assert "suspend-resume is 4 scenarios" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words",
    [["--no-such-option"], ["--repeat", "many"], ["--results", "one-for-many-steps"]],
    ids=" ".join,
)
def test_so_does_one_that_cannot_be_parsed(words: list[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        step(*words)
    assert ended.value.code == STOP


def test_a_defect_of_the_harness_is_no_bad_commit(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))  # which gets the report

    def defective(*_args: object, **_kwargs: object) -> None:
        raise KeyError("a defect")

    monkeypatch.setattr(bisect_runs, "carry_out", defective)
    assert step() == SKIP
    assert (tmp_path / "fpr-harness" / "bug-reports").is_dir()
