# SPDX-License-Identifier: Apache-2.0
"""report.html shows what the record says, in one file that loads nothing else."""

import hashlib
import html
import re
import tarfile
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from recorded_runs import AUDITED, FREED, READY
from results_builders import Recorded, inputs_of, write_results
from run_builders import BLOCK, BLOCKS, Guest

from harness.cli.main import main
from harness.html.document import build_page, write_report
from harness.html.memory_map import COLUMNS, MOST_CELLS, Kind, draw_map
from harness.html.timeline import HEIGHT, MOST_POINTS, STRIP, WIDTH, draw_timeline
from harness.kernel.pages import GuestState, HostState
from harness.kernel.zones import blocks_per_pass
from harness.record.audit_file import save_audit
from harness.record.events import (
    Broke,
    ConsoleFinding,
    Event,
    Judged,
    PhaseStarted,
    RunStarted,
    Sample,
)
from harness.record.facts import Cause, Verdict
from harness.record.recorder import Recorder
from harness.record.run_directory import audit_path
from harness.units import MIB, PAGE_SIZE

RECORDED = Path(__file__).parents[2] / "data" / "recorded"


@pytest.fixture(scope="module")
def broken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three real results directories of broken hosts."""
    place = tmp_path_factory.mktemp("broken")
    with tarfile.open(RECORDED / "broken.tar.xz") as tar:
        tar.extractall(place, filter="data")
    return place / "broken"


# --- the map -------------------------------------------------------------------------------------


def test_the_map_of_a_real_fail_has_the_pages_that_its_report_counts(broken: Path) -> None:
    """A host that swallowed every second discard."""
    (run,) = build_page([broken / "swallow-half"]).runs
    drawn = run.audits[-1].map
    assert drawn is not None
    pages = sum(
        count
        for cell in drawn.cells
        for kind, count in cell.pages
        if kind is Kind.REPORTED_RESIDENT
    )
    assert pages * PAGE_SIZE == run.summary.measures["reported_resident_bytes"]
    first = min(cell.pfn for cell in drawn.cells if cell.kind is Kind.REPORTED_RESIDENT)
    assert f"{first:#x}" in run.summary.reason


def test_a_lost_page_colours_its_block_however_many_others_are_in_it(broken: Path) -> None:
    """A host that dropped single pages beside those that it was to discard."""
    (run,) = build_page([broken / "neighbour"]).runs
    drawn = run.audits[-1].map
    assert drawn is not None
    cells = [cell for cell in drawn.cells if cell.kind is Kind.LOST]
    lost = [dict(cell.pages)[Kind.LOST] for cell in cells]
    assert sum(lost) * PAGE_SIZE == run.summary.measures["held_absent_bytes"]
    assert max(lost) < BLOCK // 100


def test_cells_lie_row_by_row_and_every_place_has_its_text() -> None:
    guest = Guest().blocks(0, 64, GuestState.REPORTED, HostState.ABSENT)
    (band,) = draw_map(inputs_of(guest)).bands
    assert band.cell_bytes == BLOCK * PAGE_SIZE
    assert [(c.column, c.row, c.pfn) for c in band.cells] == [
        (n % COLUMNS, n // COLUMNS, n * BLOCK) for n in range(BLOCKS)
    ]
    assert band.row_pfns == [row * COLUMNS * BLOCK for row in range(BLOCKS // COLUMNS)]
    assert band.texts == ["2MiB reported, given back", "2MiB in use"]
    assert band.text_runs == "0x64 1x64"


def test_a_hole_between_zones_takes_no_rows() -> None:
    (zone,) = Guest().zones
    low = replace(zone, name="DMA", start_pfn=0, spanned=BLOCK, present=BLOCK)
    high = replace(zone, name="Normal", start_pfn=64 * BLOCK, spanned=BLOCK, present=BLOCK)
    drawn = draw_map(inputs_of(Guest(zones=(low, high))))
    assert [(band.name, band.rows, band.row_pfns) for band in drawn.bands] == [
        ("node0/DMA", 1, [0]),
        ("node0/Normal", 1, [64 * BLOCK]),
    ]


def test_pages_of_interleaved_nodes_are_drawn_once_and_in_their_own_zone() -> None:
    """Node 1 lies in a hole of node 0."""
    (zone,) = Guest().zones
    outer = replace(zone, name="Normal", present=96 * BLOCK)
    inner = replace(outer, node=1, start_pfn=32 * BLOCK, spanned=32 * BLOCK, present=32 * BLOCK)
    drawn = draw_map(inputs_of(Guest(zones=(outer, inner))))
    assert [(band.name, [cell.pfn // BLOCK for cell in band.cells]) for band in drawn.bands] == [
        ("node0/Normal", [*range(32), *range(64, 128)]),
        ("node1/Normal", [*range(32, 64)]),
    ]


def test_memory_plugged_far_away_costs_what_it_holds_and_not_what_lies_between() -> None:
    """A gibibyte 64 GiB above the first: the hole between has 32,256 blocks."""
    end = 65 << 18
    states = np.full(end, GuestState.NO_PAGE, np.uint8)
    states[: 1 << 18] = GuestState.USED
    states[-(1 << 18) :] = GuestState.OFFLINE
    (zone,) = Guest().zones
    far = replace(zone, name="Normal", spanned=end, present=2 << 18)
    inputs = inputs_of(Guest(states=states, host=np.ones(end, np.uint8), zones=(far,)))
    counted = 0
    bincount = np.bincount

    def counting(*args: Any, **kwargs: Any) -> Any:
        nonlocal counted
        counted += 1
        return bincount(*args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(np, "bincount", counting)
        drawn = draw_map(inputs)
    assert len(drawn.cells) == 1024
    assert drawn.cells[-1].pfn == end - BLOCK
    assert counted < 1100


def test_a_large_guest_gets_larger_cells() -> None:
    (zone,) = Guest().zones
    large = replace(zone, present=2 * MOST_CELLS * BLOCK)
    assert draw_map(inputs_of(Guest(zones=(large,)))).cell_bytes == 2 * BLOCK * PAGE_SIZE


# --- the timeline --------------------------------------------------------------------------------


def sample(t: float, **changes: int | None) -> Sample:
    values: dict[str, int | None] = {"held": 700 * MIB, "guest_free": 300 * MIB, "discarded": 0}
    values |= changes
    return Sample(t, values["held"], None, None, values["discarded"], values["guest_free"])


def test_curves_lie_where_the_samples_say() -> None:
    events: list[Event] = [
        READY,
        sample(0.0, held=1024 * MIB),
        sample(5.0, held=None),
        sample(10.0, held=512 * MIB),
    ]
    drawn = draw_timeline(events)
    assert drawn is not None
    curves = {curve.name: curve.points for curve in drawn.curves}
    assert curves["held"] == f"0.0,0.0 {WIDTH:.1f},{HEIGHT / 2:.1f}"
    assert set(curves) == {"held", "guest-used"}, "lazily free memory was never there"


def test_what_exact_readings_alone_know_is_drawn_as_dots() -> None:
    exact = [replace(sample(n), huge=n * MIB, lazyfree=0) for n in (0, 512)]
    drawn = draw_timeline([READY, exact[0], sample(5.0), exact[1]])
    assert drawn is not None
    (huge,) = [curve for curve in drawn.curves if curve.style == "dots"]
    assert huge.name == "huge", "nothing was lazily free"
    assert huge.dots == f"M0.0,{HEIGHT}h0M{WIDTH},{HEIGHT / 2}h0"


def test_a_run_without_samples_has_no_timeline() -> None:
    assert draw_timeline([READY, sample(1.0)]) is None


def test_a_long_run_is_thinned() -> None:
    drawn = draw_timeline([READY, *(sample(0.2 * n) for n in range(10 * MOST_POINTS))])
    assert drawn is not None
    assert all(len(curve.points.split()) <= MOST_POINTS for curve in drawn.curves)


def test_the_strip_rises_by_what_each_interval_discarded() -> None:
    """QEMU was started anew between the last two samples, with a log of its own."""
    discarded = [0, 64 * MIB, 64 * MIB, 32 * MIB]
    drawn = draw_timeline([READY, *(sample(n, discarded=d) for n, d in enumerate(discarded))])
    assert drawn is not None
    assert drawn.discarded == "96MiB"
    heights = [float(point.split(",")[1]) for point in drawn.discards.split()]
    assert heights == [STRIP, STRIP, STRIP / 3, STRIP / 3, 0.0, 0.0]


def test_an_audit_marks_what_was_reported_then() -> None:
    drawn = draw_timeline([READY, sample(10.0), AUDITED, sample(46.0)])
    assert drawn is not None
    (mark,) = drawn.audits
    assert mark.left == 0.5
    assert mark.text.startswith("after: ")
    assert mark.text.endswith(" 15B reported")


def test_a_phase_has_its_label_where_the_window_leaves_room() -> None:
    phases = [PhaseStarted(0.0, "boot", ""), PhaseStarted(50.0, "settle", "")]
    phases += [PhaseStarted(90.0, "verify", ""), PhaseStarted(99.0, "free", "")]
    drawn = draw_timeline([READY, *phases, sample(1.0), sample(100.0)])
    assert drawn is not None
    assert [(b.label, b.room) for b in drawn.bands] == [
        ("boot", "narrow"),
        ("settle", "narrow"),
        ("verify", "wide"),
        ("free", "none"),
    ]


def test_the_expected_staircase_has_a_step_a_pass() -> None:
    """512 MiB are 128 blocks of order 10; a list of up to 512 blocks gives up 64 in a pass."""
    assert blocks_per_pass(128) == 64
    drawn = draw_timeline([READY, FREED, sample(12.5), sample(20.0)])
    assert drawn is not None
    (points,) = [curve.points for curve in drawn.curves if curve.name == "predicted"]
    levels = [float(point.split(",")[1]) for point in points.split()]
    top, held = 1024 * MIB, FREED.before.held
    expected = [held, held, held - 256 * MIB, held - 256 * MIB, held - 512 * MIB]
    assert levels[:5] == [pytest.approx(HEIGHT * (1 - size / top), abs=0.05) for size in expected]


def test_without_reporting_nothing_is_expected_to_come_back() -> None:
    drawn = draw_timeline([replace(READY, negotiated=False), FREED, sample(12.5), sample(20.0)])
    assert drawn is not None
    assert "predicted" not in {curve.name for curve in drawn.curves}


# --- the page ------------------------------------------------------------------------------------


class _Page(HTMLParser):
    """Collects what a browser would load or run, and complains about tags left open."""

    VOID = frozenset({"meta", "path", "rect", "polyline", "polygon", "br"})

    def __init__(self) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.scripts = 0
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.scripts += tag == "script"
        wanted = {"src", "data", "action", "href", "xlink:href", "srcset"}
        self.loads += [v or "" for k, v in attrs if k in wanted and not (v or "").startswith("#")]
        self.loads += [k for k, _v in attrs if k.startswith("on")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in self.VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID:
            assert self.open.pop() == tag


def page_of(directory: Path) -> tuple[str, _Page]:
    write_report([directory], directory / "report.html")
    text = (directory / "report.html").read_text()
    parser = _Page()
    parser.feed(text)
    parser.close()
    assert parser.open == []
    return text, parser


@pytest.mark.parametrize("fault", ["swallow-half", "neighbour", "page-cache"])
def test_a_real_report_is_one_file_and_small(broken: Path, fault: str) -> None:
    text, parser = page_of(broken / fault)
    assert (parser.loads, parser.scripts) == ([], 1)
    assert len(text) < MIB
    shown = html.unescape(re.sub(r"<[^>]*>", "", text))
    (run,) = build_page([broken / fault]).runs
    assert run.summary.reason in shown
    for sentence in run.summary.failed:
        assert sentence in shown


def record(directory: Path, *events: Event) -> Path:
    directory.mkdir()
    with Recorder(directory) as recorder:
        run = recorder.for_run("a-run")
        for event in events:
            run.emit(event)
    return directory


def test_text_of_a_guest_stays_text(tmp_path: Path) -> None:
    evil = "</pre><script>alert(1)</script><img src=x onerror=alert(2)>\x1b[31m\u202e\x07"
    results = record(
        tmp_path / "results",
        RunStarted(0.0, evil, evil, 1, evil, {evil: evil}),
        PhaseStarted(0.1, evil, evil),
        replace(READY, kernel=evil, build=evil),
        sample(5.0),
        sample(6.0),
        ConsoleFinding(6.0, "crash", evil, evil),
        Judged(7.0, Verdict.FAIL, Cause.GUEST_CRASH, evil, {"own": 1.0}, failed=(evil + "!",)),
    )
    text, parser = page_of(results)
    assert (parser.loads, parser.scripts) == ([], 1)
    assert not set(text) & {"\x1b", "\u202e", "\x07"}


def test_an_audit_whose_file_is_lost_has_no_map_and_says_why(tmp_path: Path) -> None:
    results = write_results(
        tmp_path / "results", {"whole": Recorded(), "cut": Recorded(kept=False)}
    )
    whole, cut = build_page([results]).runs
    assert [audit.map is None for audit in whole.audits] == [False]
    assert [audit.map is None for audit in cut.audits] == [True]
    text, _parser = page_of(results)
    assert "No map: cannot read the audit&#39;s file: " in text


def test_an_audit_with_another_run_s_file_has_no_map_and_says_why(tmp_path: Path) -> None:
    results = write_results(tmp_path / "results", {"one": Recorded(), "two": Recorded()})
    other = Guest().blocks(0, 64, GuestState.REPORTED, HostState.ABSENT)
    written = audit_path(results / "one", 1, "final").read_bytes()
    save_audit(audit_path(results / "two", 1, "final"), inputs_of(other))
    path = results / "results.jsonl"
    checksum = f'"sha256": "{hashlib.sha256(written).hexdigest()}"'
    path.write_text(path.read_text().replace('"sha256": null', checksum))
    one, two = build_page([results]).runs
    assert [audit.map is None for audit in (*one.audits, *two.audits)] == [False, True]
    assert "the audit's file is not the one that the run wrote" in two.audits[0].trouble


def test_a_run_that_was_killed_is_shown_as_a_miss(tmp_path: Path) -> None:
    results = record(tmp_path / "results", RunStarted(0.0, "a-run", "bookworm", 1, "", {}), READY)
    text, _parser = page_of(results)
    assert "the record ends before a verdict" in text


@pytest.mark.parametrize(("waiting", "shown"), [(10, 11), (11, 1)])
def test_runs_that_never_began_are_counted_where_they_are_many(
    tmp_path: Path, waiting: int, shown: int
) -> None:
    begins = PhaseStarted(0.0, "boot", "")
    stopped = (
        Broke(0.1, "InterruptedRunError", Verdict.MISS, "stopped", ""),
        Judged(0.2, Verdict.MISS, None, "stopped"),
    )
    with Recorder(tmp_path) as recorder:
        for name in ("begun", *(f"waiting-{number}" for number in range(waiting))):
            run = recorder.for_run(name)
            run.emit(RunStarted(0.0, name, "bookworm", 1, "", {}))
            for event in (begins, *stopped) if name == "begun" else stopped:
                run.emit(event)
    page = build_page([tmp_path])
    assert (len(page.runs), page.left_out) == (shown, waiting + 1 - shown)
    text, _parser = page_of(tmp_path)
    assert ("11 more were stopped before they began" in text) == (shown == 1)


# --- the command ---------------------------------------------------------------------------------


def test_the_command_writes_beside_the_results(
    broken: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    directory = broken / "page-cache"
    (directory / "report.html").unlink(missing_ok=True)
    assert main(["report", str(directory)]) == 0
    assert capsys.readouterr().out == f"{directory}/report.html\n"
    assert (directory / "report.html").exists()


def test_several_directories_need_a_place_and_share_a_page(
    broken: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    both = [str(broken / "page-cache"), str(broken / "neighbour")]
    assert main(["report", *both]) == 2
    assert "--output FILE" in capsys.readouterr().err
    assert main(["report", *both, "--output", str(tmp_path / "both.html")]) == 0
    assert (tmp_path / "both.html").read_text().count('<details class="card run"') == 2


def test_runs_of_the_same_name_are_told_apart_by_their_directories(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    both = [str(write_results(tmp_path / name, {"a-run": Recorded()})) for name in ("one", "two")]
    Path(both[0], "a-run", "repro.sh").touch()
    output = tmp_path / "both.html"
    assert main(["report", *both, *both, "--output", str(output)]) == 0
    assert capsys.readouterr().out == f"{output}\n"
    text = output.read_text()
    for number, directory in enumerate(both, 1):
        assert f'<a href="#run-{number}">a-run</a></td><td>{directory}</td>' in text
        assert f'a-run <span class="soft">in {directory}</span></h2>' in text
        assert f"fpr-harness page {directory} a-run PFN" in text
    assert f"{both[0]}/a-run/repro.sh scenario" in text
    assert f"{both[1]}/a-run/repro.sh" not in text, "it ended before it had one"
    assert text.count('<details class="card run"') == 2, "a directory named twice is shown once"


@pytest.mark.parametrize(
    ("output", "said"),
    [
        ("missing/report.html", "there is no directory"),
        (".", "is a directory"),
        ("results.jsonl", "would replace a record"),
    ],
)
def test_an_output_that_cannot_be_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], output: str, said: str
) -> None:
    results = write_results(tmp_path / "results", {"a-run": Recorded()})
    before = (results / "results.jsonl").read_bytes()
    assert main(["report", str(results), "--output", str(results / output)]) == 2
    assert said in capsys.readouterr().err
    assert (results / "results.jsonl").read_bytes() == before
    assert not list(results.glob("*.html"))


def test_a_directory_that_is_not_there_is_not_to_be_created(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["report", str(tmp_path / "missing")]) == 2
    assert "name a results directory" in capsys.readouterr().err


@pytest.mark.parametrize("number", ["Infinity", "NaN", "1e999"])
def test_a_number_that_nobody_measures_is_a_damaged_record(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], number: str
) -> None:
    results = record(
        tmp_path / "results", RunStarted(0.0, "a-run", "bookworm", 1, "", {}), READY, sample(5.0)
    )
    lines = (results / "results.jsonl").read_text().replace('"t": 5.0', f'"t": {number}')
    (results / "results.jsonl").write_text(lines)
    assert main(["report", str(results)]) == 69
    assert f"results.jsonl:3: {number} is not a finite number" in capsys.readouterr().err


def test_a_record_without_runs_makes_no_page(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["report", str(record(tmp_path / "results"))]) == 2
    assert "holds no run" in capsys.readouterr().err


def test_what_is_no_results_directory_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["report", str(tmp_path)]) == 2
    assert "has no results.jsonl" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
