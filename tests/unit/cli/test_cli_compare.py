# SPDX-License-Identifier: Apache-2.0
"""`fpr-harness compare`: what its sides may be, and runs in turn that can be taken up again."""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from qemus import a_qemu

from harness.cli import compare_command
from harness.cli.compare_sides import SideWord, parse_side
from harness.cli.main import main
from harness.errors import UsageError
from harness.image.build import BootFiles
from harness.record.events import Event, Judged, RunStarted
from harness.record.facts import Verdict
from harness.record.reader import read_events
from harness.record.recorder import Recorder
from harness.report.summary import build_summary
from harness.run import interleaved
from harness.run.plan import PlannedRun
from harness.run.stop_request import StopRequest

FAST, SLOW = [1.0, 1.1, 1.2, 1.3, 1.4], [2.0, 2.1, 2.2, 2.3, 2.4]


@pytest.mark.parametrize(
    ("word", "kind", "value"),
    [
        ("base", "base", ""),
        ("kernel:~/linux", "kernel", "~/linux"),
        ("image:trixie=6.12.101", "image", "trixie=6.12.101"),
        ("qemu:sid", "qemu", "sid"),
        ("set:guest.vcpus=4", "set", "guest.vcpus=4"),
        ("/", "kernel", "/"),
    ],
)
def test_a_word_is_one_kind_of_side(word: str, kind: str, value: str) -> None:
    side = parse_side("A", word)
    assert (side.kind, side.value) == (kind, value)


@pytest.mark.parametrize("word", ["bookworm", "qemu:", "set:guest.vcpus", "~no/such"])
def test_a_word_that_names_nothing_is_refused(word: str) -> None:
    with pytest.raises(UsageError, match=r"^B, "):
        parse_side("B", word)


def test_a_side_and_an_option_do_not_both_name_the_kernel() -> None:
    options: Any = SimpleNamespace(kernel=Path("bzImage"), overrides=[])
    with pytest.raises(UsageError, match="side A each name the kernel"):
        SideWord("A", "kernel", "other").apply(options)


@dataclasses.dataclass
class Bench:
    """Stands for the guests: records what each run of a side gives."""

    values: dict[str, Sequence[float]]
    """The runs' `settle_seconds`, by side."""
    verdict: Callable[[str], Verdict] = lambda _run_id: Verdict.PASS
    stop_after: int | None = None
    ran: list[str] = dataclasses.field(default_factory=list)

    def run_in_turn(
        self,
        results: Path,
        runs: Sequence[tuple[interleaved.Side, PlannedRun]],
        _observers: object,
        request: StopRequest,
        _note: object,
    ) -> None:
        with Recorder(results) as recorder:
            for side, run in runs[: self.stop_after]:
                self.ran.append(run.run_id)
                verdict = self.verdict(run.run_id)
                seconds = self.values[side.label][run.number - 1]
                events: list[Event] = [
                    RunStarted(0.0, run.scenario.name, "bookworm", 1, "2026-01-01", {}),
                    Judged(1.0, verdict, None, "why", {"settle_seconds": seconds}),
                ]
                for event in events:
                    recorder.emit(run.run_id, event)
        if self.stop_after is not None:
            request.stop()


@pytest.fixture
def given(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., Bench]:
    kernel = tmp_path / "vmlinuz"
    kernel.write_bytes(b"kernel")
    boot = BootFiles("bookworm", kernel, kernel, "6.1", "0", manifest=kernel)
    monkeypatch.chdir(tmp_path)
    patch = monkeypatch.setattr
    patch(compare_command, "prepare_images", lambda *_a: {"bookworm": boot})
    patch(compare_command, "check_run_options", lambda *_a: None)
    qemu = dataclasses.replace(a_qemu(), path=kernel)
    patch(compare_command, "prepare_qemu", lambda *_a: qemu)

    def give(**parts: Any) -> Bench:
        bench = Bench(**{"values": {"A": FAST, "B": SLOW}, **parts})
        patch(compare_command, "run_in_turn", bench.run_in_turn)
        return bench

    return give


def compare(*words: str) -> int:
    sides = ["compare", "base", "set:guest.vcpus=1", "reclaim-basic", "--results", "there"]
    return main([*sides, "--runs", "5", *words])


def test_sides_run_in_turn_and_a_difference_has_status_1(
    given: Callable[..., Bench], capsys: pytest.CaptureFixture[str]
) -> None:
    bench = given()
    assert compare() == 1
    assert bench.ran[:3] == ["reclaim-basic+A#1", "reclaim-basic+B#1", "reclaim-basic+A#2"]
    assert "B is 83.3% higher" in capsys.readouterr().out


def test_no_difference_has_status_0(given: Callable[..., Bench]) -> None:
    given(values={"A": FAST, "B": FAST[::-1]})
    assert compare() == 0


def test_too_few_runs_have_status_69(given: Callable[..., Bench]) -> None:
    given()
    assert compare("--runs", "3") == 69


def test_what_was_interrupted_goes_on_with_what_is_missing(
    given: Callable[..., Bench], capsys: pytest.CaptureFixture[str]
) -> None:
    given(stop_after=3)
    assert compare() == 69
    assert "--results there goes on" in capsys.readouterr().err
    bench = given()
    assert compare() == 1
    assert bench.ran == [f"reclaim-basic+{run}" for run in "B#2 A#3 B#3 A#4 B#4 A#5 B#5".split()]
    bench = given()
    assert compare() == 1
    assert bench.ran == []


def test_broken_runs_are_made_up_for_under_new_numbers(given: Callable[..., Bench]) -> None:
    broken = "reclaim-basic+B#5"
    given(verdict=lambda run_id: Verdict.MISS if run_id == broken else Verdict.PASS)
    assert compare() == 69
    bench = given(values={"A": FAST, "B": [*SLOW, 2.5]})
    assert compare() == 1
    assert bench.ran == ["reclaim-basic+B#6"]
    runs = build_summary(read_events(Path("there/results.jsonl"))).runs
    assert [run.verdict for run in runs if run.run_id == broken] == [Verdict.MISS]


def test_other_sides_do_not_join_the_runs_that_are_there(
    given: Callable[..., Bench], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given(stop_after=2)
    compare()
    (tmp_path / "vmlinuz").write_bytes(b"built again")
    assert compare() == 2
    assert "side A: its kernel is not that of the runs in there" in capsys.readouterr().err


def test_results_directories_are_compared_as_they_are(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, values in (("one", FAST), ("other", SLOW)):
        (tmp_path / name).mkdir()
        with Recorder(tmp_path / name) as recorder:
            for number, value in enumerate(values):
                start = RunStarted(0.0, "s", "bookworm", 1, "2026-01-01", {})
                recorder.emit(f"s#{number}", start)
                judged = Judged(1.0, Verdict.PASS, None, "why", {"settle_seconds": value})
                recorder.emit(f"s#{number}", judged)
    one, other = str(tmp_path / "one"), str(tmp_path / "other")
    assert main(["compare", one, other]) == 1
    assert main(["compare", one, one]) == 0
    assert main(["compare", one, "base", "reclaim-basic"]) == 2
    assert "the other side is to be run" in capsys.readouterr().err
    assert main(["compare", one, other, "--measure", "freed_bytes"]) == 2
    assert "no run took freed_bytes" in capsys.readouterr().err
