# SPDX-License-Identifier: Apache-2.0
"""The runs of a results directory: read back whole, or refused by name."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from recorded_runs import ALL, FAILED, KILLED, MISSED, PASSED, SKIPPED, Line, started

from harness.errors import HarnessError, RecordError, UsageError
from harness.record.events import SCHEMA, Judged, PhaseStarted, RunStarted
from harness.record.facts import Verdict
from harness.record.recorded_run import Gap, RecordedRun, read_runs
from harness.record.recorder import Recorder


def record(directory: Path, lines: list[Line]) -> Path:
    directory.mkdir(exist_ok=True)
    with Recorder(directory) as recorder:
        for run_id, event in lines:
            recorder.for_run(run_id).emit(event)
    return directory


def only(directory: Path) -> RecordedRun:
    (run,) = read_runs(directory)
    return run


def lines_of(directory: Path) -> list[bytes]:
    return (directory / "results.jsonl").read_bytes().splitlines(keepends=True)


def rewrite(directory: Path, lines: list[bytes]) -> None:
    (directory / "results.jsonl").write_bytes(b"".join(lines))


def test_every_run_is_there_in_order_with_its_verdict(tmp_path: Path) -> None:
    runs = read_runs(record(tmp_path, ALL))
    assert [run.run_id for run in runs] == ["basic", "partial", "repeat", "numa", "cut"]
    assert [run.judged and run.judged.verdict for run in runs] == [
        *(Verdict.PASS, Verdict.FAIL, Verdict.MISS, Verdict.SKIP),
        None,
    ]
    assert list(runs[0].events) == [event for _run, event in PASSED[:-1]]
    assert runs[0].directory == tmp_path / "basic"


def test_of_several_attempts_the_last_counts(tmp_path: Path) -> None:
    run = only(record(tmp_path, MISSED))
    assert run.started.attempt == 2
    assert list(run.events) == [event for _run, event in MISSED[3:5]]


def test_what_comes_after_the_verdict_was_no_part_of_it(tmp_path: Path) -> None:
    """A guest that is kept for a look."""
    run = only(record(tmp_path, [*FAILED, ("partial", PhaseStarted(42.0, "kept"))]))
    assert list(run.events) == [event for _run, event in FAILED[:-1]]
    assert run.judged == FAILED[-1][1]


def test_a_line_torn_at_the_end_of_a_run_is_no_gap(tmp_path: Path) -> None:
    record(tmp_path, KILLED)
    rewrite(tmp_path, [*lines_of(tmp_path)[:-1], lines_of(tmp_path)[-1][:40]])
    record(tmp_path, FAILED)
    assert [(run.run_id, run.judged is None, run.gap) for run in read_runs(tmp_path)] == [
        ("cut", True, None),
        ("partial", False, None),
    ]


@pytest.mark.parametrize("left", [40, 5], ids=["names its run", "names none"])
def test_a_line_torn_in_the_middle_of_a_run_is_a_gap(tmp_path: Path, left: int) -> None:
    record(tmp_path, PASSED)
    lines = lines_of(tmp_path)
    rewrite(tmp_path, [*lines[:4], lines[4][:left] + b"\n", *lines[5:]])
    assert only(tmp_path).gap == Gap(line=5, index=4)


def test_a_line_torn_by_one_run_is_no_gap_of_another(tmp_path: Path) -> None:
    record(tmp_path, [*KILLED, *PASSED])
    lines = lines_of(tmp_path)
    torn = lines[1][:40] + b"\n"
    rewrite(tmp_path, [lines[0], *lines[2:6], torn, *lines[6:]])
    assert [(run.run_id, run.gap) for run in read_runs(tmp_path)] == [
        ("cut", None),
        ("basic", None),
    ]


def test_what_is_no_results_directory_is_told_with_what_to_name(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"nowhere: there is no such directory"):
        read_runs(tmp_path / "nowhere")
    with pytest.raises(UsageError, match=r"has no results\.jsonl\n.*holds a results\.jsonl"):
        read_runs(tmp_path)
    record(tmp_path, PASSED)
    (tmp_path / "basic").mkdir()
    with pytest.raises(UsageError, match=r"of a single run: name "):
        read_runs(tmp_path / "basic")


def test_an_empty_record_has_no_runs(tmp_path: Path) -> None:
    assert read_runs(record(tmp_path, [])) == []


@pytest.mark.parametrize("schema", [SCHEMA + 1, 0, "2", None, [1]])
def test_another_schema_is_refused_by_name_before_anything_else_is_read(
    tmp_path: Path, schema: Any
) -> None:
    record(tmp_path, PASSED)
    first = json.loads(lines_of(tmp_path)[0]) | {"schema": schema, "harness": "9.1", "t": "then"}
    rewrite(tmp_path, [json.dumps(first).encode() + b"\n", b'{"run": "basic", "kind": "new"}\n'])
    with pytest.raises(RecordError) as refused:
        read_runs(tmp_path)
    assert f"is of schema {schema!r}, written by fpr-harness '9.1'; this version" in str(
        refused.value
    )
    assert "reads 1 and 2" in str(refused.value)


def test_lines_that_name_no_schema_are_of_the_first(tmp_path: Path) -> None:
    record(tmp_path, SKIPPED)
    old = json.loads(lines_of(tmp_path)[0])
    for added in ("schema", "harness", "plan"):
        del old[added]
    rewrite(tmp_path, [json.dumps(old).encode() + b"\n", *lines_of(tmp_path)[1:]])
    assert (only(tmp_path).started.schema, only(tmp_path).started.plan) == (1, None)


def test_a_record_whose_beginning_is_missing_is_refused(tmp_path: Path) -> None:
    record(tmp_path, PASSED)
    rewrite(tmp_path, lines_of(tmp_path)[1:])
    with pytest.raises(RecordError, match="the run 'basic', which has no run-started"):
        read_runs(tmp_path)


@pytest.mark.parametrize("run_id", ["../elsewhere", "/etc", "..", ".hidden", "", "a\x1b[31m"])
def test_a_run_whose_files_would_lie_elsewhere_is_refused(tmp_path: Path, run_id: str) -> None:
    record(tmp_path, [(run_id, started("x"))])
    with pytest.raises(RecordError, match="is not a valid run name"):
        read_runs(tmp_path)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.data())
def test_no_record_makes_the_reader_fail_otherwise(tmp_path: Path, data: st.DataObject) -> None:
    """Lines of real records, whole, torn, out of order and among any other bytes."""
    if not (tmp_path / "results.jsonl").exists():
        record(tmp_path, ALL)
        (tmp_path / "whole").write_bytes((tmp_path / "results.jsonl").read_bytes())
    lines = (tmp_path / "whole").read_bytes().splitlines(keepends=True)
    part = st.sampled_from(lines)
    torn = st.tuples(part, st.integers(0, 60)).map(lambda pair: pair[0][: pair[1]] + b"\n")
    deep = st.sampled_from([b"[" * 100_000 + b"\n", b'{"run": "basic", "kind": "nonsense"}\n'])
    rewrite(tmp_path, data.draw(st.lists(part | torn | st.binary(max_size=30) | deep, max_size=9)))
    try:
        runs = read_runs(tmp_path)
    except HarnessError:
        return
    for run in runs:
        assert isinstance(run.events[0], RunStarted)
        assert not any(isinstance(event, Judged) for event in run.events)
