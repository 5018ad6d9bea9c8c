# SPDX-License-Identifier: Apache-2.0
"""What an invocation withstands: a display that breaks, a terminal that closes, few descriptors."""

import os
import resource
import signal
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from qemus import a_qemu
from run_fakes import READY, FakeBench, planned

from harness.errors import DeadlineError, InterruptedRunError, LaunchError
from harness.image.definition import ImageDefinition, load_definitions
from harness.record.events import Event, Judged, PhaseStarted, RunStarted
from harness.record.facts import Verdict
from harness.record.reader import read_events
from harness.record.recorder import Recorder
from harness.report.summary import Summary
from harness.run.host_memory import HostMemory
from harness.run.invocation import conclude, prepare_images, run_pool
from harness.run.plan import RunOptions, distinct
from harness.run.pool import RunPool
from harness.run.stop_request import StopRequest, stopping_on_signals
from harness.stopping import check_stop

PHASE = PhaseStarted(0.0, "boot", "")


def test_display_that_breaks_is_said_once_and_breaks_no_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    benches: list[Any] = []
    make = RunPool.__init__

    def spy(self: RunPool, bench: Any, *rest: Any, **named: Any) -> None:
        benches.append(bench)
        make(self, bench, *rest, **named)

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
    request, then = StopRequest(), []
    with stopping_on_signals(request, lambda: then.append(number)):
        check_stop("nothing was asked")
        os.kill(os.getpid(), number)
        with pytest.raises(InterruptedRunError, match="asked to stop while it worked"):
            check_stop("it worked")
    assert request.cancelled.is_set()
    assert then == [number]
    check_stop("the block is over")
    assert signal.getsignal(signal.SIGHUP) is signal.SIG_DFL


@pytest.mark.usefixtures("hangup")
def test_hangup_stays_ignored_under_nohup() -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    request = StopRequest()
    with stopping_on_signals(request, lambda: None):
        os.kill(os.getpid(), signal.SIGHUP)
    assert not request.cancelled.is_set()


def test_every_descriptor_that_may_be_had_is_taken(tmp_path: Path) -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, before[1]))
    try:
        with run_pool(tmp_path, RunOptions(), {}, {}, 1):
            assert resource.getrlimit(resource.RLIMIT_NOFILE) == (before[1], before[1])
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


# --- the end -------------------------------------------------------------------------------------


def recorded(directory: Path, verdict: Verdict) -> Path:
    """A results directory with one run."""
    directory.mkdir()
    with Recorder(directory) as recorder:
        run = recorder.for_run("a-run")
        run.emit(RunStarted(0.0, "a-run", "bookworm", 1, "", {}))
        run.emit(Judged(1.0, verdict, None, "why"))
    return directory


def broken(_summary: Summary) -> None:
    raise KeyError("column")


@pytest.mark.parametrize(
    ("verdict", "status"),
    [(Verdict.PASS, 69), (Verdict.SKIP, 69), (Verdict.MISS, 69), (Verdict.FAIL, 1)],
)
def test_display_that_breaks_at_the_end_costs_no_file_and_hides_no_fail(
    tmp_path: Path, verdict: Verdict, status: int
) -> None:
    results = recorded(tmp_path / "results", verdict)
    ended = conclude(results, broken)
    assert ended.status == status
    (trouble,) = ended.troubles
    assert "bug of its own while showing the results: KeyError" in str(trouble)
    assert {path.name for path in results.iterdir()} == {
        "results.jsonl",
        "summary.json",
        "junit.xml",
        "report.html",
        "bug-report.txt",
    }


def test_good_end_has_no_trouble(tmp_path: Path) -> None:
    ended = conclude(recorded(tmp_path / "results", Verdict.PASS), lambda _summary: None)
    assert (ended.status, ended.troubles, ended.notes) == (0, (), ())


def test_a_report_that_cannot_be_made_changes_no_status(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def defective(*_arguments: object) -> None:
        raise KeyError("a defect of the report")

    monkeypatch.setattr("harness.run.invocation.write_report", defective)
    history = tmp_path / "history.jsonl"
    results = recorded(tmp_path / "results", Verdict.PASS)
    ended = conclude(results, lambda _summary: None, history)
    assert (ended.status, ended.troubles) == (0, ())
    assert len(history.read_text().splitlines()) == 1
    assert "bug of its own while writing report.html: KeyError" in str(ended.notes[0])
    assert (tmp_path / "results" / "summary.json").exists()


def test_a_history_that_cannot_be_written_changes_no_status_and_costs_no_report(
    tmp_path: Path,
) -> None:
    (tmp_path / "history.jsonl").mkdir()
    results = recorded(tmp_path / "results", Verdict.PASS)
    ended = conclude(results, lambda _summary: None, tmp_path / "history.jsonl")
    assert (ended.status, ended.troubles) == (0, ())
    assert "cannot append to the history" in str(ended.notes[0])
    assert "No trends: cannot read the history" in (results / "report.html").read_text()


def test_image_that_breaks_the_harness_is_its_runs_error_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ensure(image: ImageDefinition, **_: Any) -> str:
        if image.name == "trixie":
            raise TypeError("the manifest is a list")
        return "boot"

    monkeypatch.setattr("harness.run.invocation.ensure_image", ensure)
    images = load_definitions()
    boots: Any = prepare_images(
        [images["bookworm"], images["trixie"]], RunOptions(), lambda _text: None
    )
    assert boots["bookworm"] == "boot"
    bench = FakeBench(tmp_path / "results", monkeypatch)
    bench.prepare()
    judged = bench.run(planned(tmp_path), boots["trixie"])
    assert judged.verdict is Verdict.ERROR
    report = (tmp_path / "results" / "a-run" / "bug-report.txt").read_text(encoding="utf-8")
    assert "TypeError: the manifest is a list" in report


def test_scenarios_of_one_name_keep_their_runs_apart(tmp_path: Path) -> None:
    runs = [planned(tmp_path / name) for name in "abc"]
    assert [run.run_id for run in distinct(runs)] == ["a-run", "a-run~2", "a-run~3"]


def test_a_run_that_waits_too_long_for_memory_is_a_miss_and_no_bug(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_self: HostMemory, _size: int, _cancelled: threading.Event) -> ExitStack:
        raise DeadlineError("waited 3600.0 s for 1GiB that other guests on this host hold")

    monkeypatch.setattr(HostMemory, "reserve", refuse)
    run = planned(tmp_path)
    boots: Any = {run.image.name: "boot"}
    qemus: Any = {run.qemu.name: LaunchError("no QEMU is asked for")}
    (tmp_path / "results").mkdir()
    with run_pool(tmp_path / "results", RunOptions(), boots, qemus, 1) as pool:
        judged = pool.submit(run).result(10.0)
    assert judged.verdict is Verdict.MISS
    assert judged.reason.startswith("waited 3600.0 s for 1GiB")


def test_a_defect_that_one_run_meets_leaves_the_others_and_every_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its exit status was that of a FAIL, the others were cancelled, and nothing was written."""
    monkeypatch.setattr("harness.run.host_memory.host_place", lambda: tmp_path)
    bench = FakeBench(tmp_path / "results", monkeypatch)
    bench.prepare()
    defects = [KeyError("one"), LaunchError("no QEMU"), UnicodeDecodeError("utf-8", b"x", 0, 1, "")]

    def boot() -> Any:
        raise defects.pop(0)

    bench.boots = [boot] * 3
    runs = [planned(tmp_path / "files", name) for name in ("first", "second", "third")]
    image, qemus = runs[0].image.name, {runs[0].qemu.name: a_qemu()}
    bench.results.mkdir()
    boots: Any = {image: READY}
    with run_pool(bench.results, RunOptions(), boots, qemus, 1) as pool:
        for future in [pool.submit(run) for run in runs]:
            future.result()
    ended = conclude(bench.results, lambda _summary: None)
    assert [run.verdict for run in ended.summary.runs] == ["ERROR", "MISS", "ERROR"]
    assert ended.status == 69
    for name in ("first", "third"):
        assert (bench.results / name / "bug-report.txt").exists()
    for name in ("results.jsonl", "summary.json", "junit.xml", "report.html"):
        assert (bench.results / name).stat().st_size, name
