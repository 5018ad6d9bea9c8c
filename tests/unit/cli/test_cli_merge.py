# SPDX-License-Identifier: Apache-2.0
"""`merge`: the results of several machines as those of one invocation."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from recorded_runs import started
from results_builders import Recorded, write_results

from harness.cli.main import main
from harness.record.asked import Asked
from harness.record.events import Event, Judged
from harness.record.facts import Cause, Verdict
from harness.record.merging import Part, missing_shards
from harness.record.recorded_run import RecordedRun, read_runs
from harness.record.recorder import Recorder
from harness.record.run_plan import RunPlan


def part(
    directory: Path,
    *names: str,
    shard: str = "",
    image: str = "bookworm",
    qemu: str = "host",
    verdict: Verdict = Verdict.PASS,
) -> Path:
    """A results directory with runs of these names."""
    directory.mkdir()
    plan = RunPlan({"name": "s"}, Asked(), shard=shard)
    with Recorder(directory) as recorder:
        for name in names:
            start = replace(started("s"), image=image, qemu=qemu, plan=plan)
            cause = Cause.NOT_REPORTED if verdict is Verdict.FAIL else None
            events: list[Event] = [start, Judged(3.0, verdict, cause, "because", {})]
            for event in events:
                recorder.emit(name, event)
            (directory / name).mkdir()
            (directory / name / "console.log").write_text(f"{directory.name} {name}")
    return directory


def merged(results: Path) -> dict[str, RecordedRun]:
    return {run.run_id: run for run in read_runs(results)}


def test_records_and_directories_are_put_together(tmp_path: Path) -> None:
    one = part(tmp_path / "one", "a", "b", shard="1/2")
    two = part(tmp_path / "two", "c", shard="2/2")
    out = tmp_path / "out"
    assert main(["merge", str(one), str(two), "--results", str(out)]) == 0
    assert list(merged(out)) == ["a", "b", "c"]
    assert (out / "c" / "console.log").read_text() == "two c"
    assert len(json.loads((out / "summary.json").read_text())["runs"]) == 3
    assert (out / "junit.xml").exists()
    lines = (one / "results.jsonl").read_bytes() + (two / "results.jsonl").read_bytes()
    assert (out / "results.jsonl").read_bytes() == lines
    assert main(["merge", str(one), "--results", str(out)]) == 2, "it holds results already"


def test_runs_of_one_name_get_their_image_their_qemu_or_a_number(tmp_path: Path) -> None:
    parts = [
        part(tmp_path / "a", "x", "only", image="bookworm"),
        part(tmp_path / "b", "x#1", "x", image="trixie"),
        part(tmp_path / "c", "x", image="trixie", qemu="sid"),
        part(tmp_path / "d", "x", image="trixie", qemu="sid"),
    ]
    out = tmp_path / "out"
    assert main(["merge", *map(str, parts), "--results", str(out)]) == 0
    names = ["x@bookworm+qemu-host", "only", "x#1", "x@trixie+qemu-host"]
    assert list(merged(out)) == [*names, "x@trixie+qemu-sid", "x@trixie+qemu-sid~2"]
    assert (out / "x@trixie+qemu-sid~2" / "console.log").read_text() == "d x"


def test_the_worst_verdict_is_the_status_and_a_missing_shard_is_no_pass(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one = part(tmp_path / "one", "a", shard="1/3")
    three = part(tmp_path / "three", "c", shard="3/3")
    assert main(["merge", str(one), str(three), "--results", str(tmp_path / "m")]) == 69
    assert "no results of shard 2/3" in capsys.readouterr().err
    two = part(tmp_path / "two", "b", shard="2/3", verdict=Verdict.FAIL)
    every = [str(one), str(two), str(three)]
    assert main(["merge", *every, "--results", str(tmp_path / "n")]) == 1
    assert main(["merge", str(two), "--results", str(tmp_path / "o")]) == 1


def test_a_shard_of_one_kernel_does_not_stand_for_that_of_another(tmp_path: Path) -> None:
    (run,) = read_runs(part(tmp_path / "x", "a"))
    plan = run.started.plan
    assert plan is not None

    def shards(*texts: str) -> list[Part]:
        starts = [replace(run.started, plan=replace(plan, shard=text)) for text in texts]
        return [Part(tmp_path, [replace(run, started=start)]) for start in starts]

    assert missing_shards(shards("1/2", "2/2", "1/2", "2/2", "1/1", "")) == []
    assert missing_shards(shards("1/2", "2/2", "1/2")) == ["2/2"]
    assert missing_shards(shards("3/3")) == ["1/3", "2/3"]


def test_torn_lines_stay_with_their_run_and_dirs_named_twice_count_once(tmp_path: Path) -> None:
    one = part(tmp_path / "one", "a")
    with (one / "results.jsonl").open("ab") as file:
        file.write(b'{"run": "a", "kind": "samp')
    two = part(tmp_path / "two", "a")
    out = tmp_path / "out"
    words = [str(one), str(two), str(one)]
    assert main(["merge", *words, "--results", str(out)]) == 0
    assert list(merged(out)) == ["a", "a~2"]
    assert all(run.gap is None for run in merged(out).values())


def test_what_was_measured_survives(tmp_path: Path) -> None:
    """Audits and their checksums: a merged run is judged as it was."""
    one = write_results(tmp_path / "one", {"whole": Recorded()})
    two = write_results(tmp_path / "two", {"whole": Recorded()})
    out = tmp_path / "out"
    assert main(["merge", str(one), str(two), "--results", str(out)]) == 0
    assert main(["judge", str(out)]) == 0


def test_lines_that_another_program_wrote_anew_get_their_new_name(tmp_path: Path) -> None:
    one = part(tmp_path / "one", "a")
    two = part(tmp_path / "two", "a", verdict=Verdict.FAIL)
    record = two / "results.jsonl"
    lines = [json.loads(line) for line in record.read_text().splitlines()]
    # As by `jq -cS`.
    plain = [json.dumps(line, sort_keys=True, separators=(",", ":")) for line in lines]
    record.write_text("\n".join(plain) + "\n")
    for order in ((one, two), (two, one)):
        out = tmp_path / f"out-{order[0].name}"
        assert main(["merge", *map(str, order), "--results", str(out)]) == 1
        assert sorted(merged(out)) == ["a", "a~2"]


def test_a_torn_line_whose_run_cannot_be_read_stays_as_it_is(tmp_path: Path) -> None:
    one, two = part(tmp_path / "one", "a"), part(tmp_path / "two", "a")
    torn = b'{"run": "\xe4", "kind": "sam\n'
    with (two / "results.jsonl").open("ab") as file:
        file.write(torn)
    out = tmp_path / "out"
    assert main(["merge", str(one), str(two), "--results", str(out)]) == 0
    assert (out / "results.jsonl").read_bytes().endswith(torn)


def test_a_directory_without_a_run_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one, none = part(tmp_path / "one", "a"), part(tmp_path / "none")
    assert main(["merge", str(one), str(none), "--results", str(tmp_path / "out")]) == 69
    assert f"no run in {none}: what it was to run is unknown" in capsys.readouterr().err


@pytest.mark.parametrize("field", ["image", "qemu"])
@pytest.mark.parametrize("name", ["x/../../elsewhere/y", "\ud800", "a\n"])
def test_no_name_that_is_made_leads_elsewhere(tmp_path: Path, name: str, field: str) -> None:
    one, there = part(tmp_path / "one", "a"), tmp_path / "two"
    two = part(there, "a", image="other") if field == "image" else part(there, "a", qemu="other")
    record = two / "results.jsonl"
    record.write_text(record.read_text().replace('"other"', json.dumps(name)))
    out = tmp_path / "deep" / "out"
    assert main(["merge", str(one), str(two), "--results", str(out)]) == 0
    assert len(merged(out)) == 2
    assert all(run.directory.is_dir() for run in read_runs(out))
    assert {path.name for path in tmp_path.iterdir()} == {"one", "two", "deep"}
