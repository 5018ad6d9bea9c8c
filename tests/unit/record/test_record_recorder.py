# SPDX-License-Identifier: Apache-2.0
"""results.jsonl: nothing measured is lost, by many writers, a killed one, or a full disk."""

import ctypes
import errno
import fcntl
import json
import multiprocessing
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from recorded_runs import ALL, FAILED, PASSED, Line, started

from harness.errors import RecordError
from harness.record.events import ConsoleFinding, Judged, PhaseStarted
from harness.record.facts import Verdict
from harness.record.reader import read_events, tail_events
from harness.record.recorder import RESERVE_BYTES, Recorder


def record(directory: Path, lines: list[Line] = ALL) -> Path:
    with Recorder(directory) as recorder:
        for run_id, event in lines:
            recorder.for_run(run_id).emit(event)
    return directory / "results.jsonl"


def test_what_was_recorded_is_read_back(tmp_path: Path) -> None:
    assert list(read_events(record(tmp_path))) == ALL


def test_each_line_is_an_object_that_names_its_run_and_kind_first(tmp_path: Path) -> None:
    lines = record(tmp_path).read_text().splitlines()
    assert lines[1] == (
        '{"run": "basic", "kind": "phase", "t": 0.1, "phase": "boot", "detail": "debian-12"}'
    )
    assert [list(json.loads(line))[:2] for line in lines] == [["run", "kind"]] * len(ALL)


def test_verdicts_of_runs_that_have_begun_are_synced_at_once_and_all_at_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A sync takes milliseconds; a thousand runs that are stopped before they begin need one."""
    synced: list[int] = []
    monkeypatch.setattr("os.fsync", synced.append)
    with Recorder(tmp_path) as recorder:
        for number in range(5):
            recorder.for_run(f"waiting-{number}").emit(Judged(0.1, Verdict.MISS, None, "stopped"))
        assert synced == []
        recorder.for_run("begun").emit(PhaseStarted(0.1, "boot", ""))
        recorder.for_run("begun").emit(Judged(0.2, Verdict.MISS, None, "stopped"))
        assert len(synced) == 1
    assert len(synced) == 2


def test_nothing_but_results_is_left_in_the_directory(tmp_path: Path) -> None:
    record(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["results.jsonl"]


def test_a_console_that_is_no_unicode_still_makes_a_line(tmp_path: Path) -> None:
    finding = ConsoleFinding(1.0, "crash", "BUG", "a\udcffb\x00")
    (_run, seen), *_rest = read_events(record(tmp_path, [("x", finding)]))
    assert isinstance(seen, ConsoleFinding)
    assert seen.text == "a?b\x00"


def test_torn_lines_are_passed_over_and_spoil_no_other(tmp_path: Path) -> None:
    path = record(tmp_path, PASSED)
    whole = path.read_bytes()
    path.write_bytes(whole[:-20])
    assert list(read_events(path)) == PASSED[:-1]
    record(tmp_path, FAILED)
    assert list(read_events(path)) == PASSED[:-1] + FAILED


def test_a_whole_line_that_is_no_event_is_an_error_with_its_number(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    path.write_text('{"run": "x", "kind": "phase", "t": 0.1, "phase": "boot"}\n{"run": "x"}\n')
    with pytest.raises(RecordError, match=r"results\.jsonl:2: .*kind"):
        list(read_events(path))
    with pytest.raises(RecordError, match="cannot read"):
        list(read_events(tmp_path / "none.jsonl"))


def _write_many(directory: Path, process: int) -> None:
    with Recorder(directory) as recorder:

        def write(thread: int) -> None:
            run = recorder.for_run(f"{process}.{thread}")
            for number in range(50):
                run.emit(PhaseStarted(float(number), "phase", "x" * (number * 200)))

        threads = [threading.Thread(target=write, args=(each,)) for each in range(3)]
        for each in threads:
            each.start()
        for each in threads:
            each.join()


def test_processes_and_threads_write_whole_lines_in_their_own_order(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=_write_many, args=(tmp_path, each)) for each in range(3)]
    for each in processes:
        each.start()
    for each in processes:
        each.join(60)
        assert each.exitcode == 0
    times: dict[str, list[float]] = {}
    for run_id, event in read_events(tmp_path / "results.jsonl"):
        times.setdefault(run_id, []).append(event.t)
    assert len(times) == 9
    assert all(seen == [float(number) for number in range(50)] for seen in times.values())


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_directory_one_may_not_write_is_told_at_once(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(RecordError, match="Permission denied") as caught:
        Recorder(tmp_path)
    assert "--results" in caught.value.hint


def test_a_directory_that_is_not_there_is_told_at_once(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match="No such file or directory"):
        Recorder(tmp_path / "none")


FILL = """
import sys
from pathlib import Path
from recorded_runs import started
from harness.errors import RecordError
from harness.record.events import Judged, PhaseStarted
from harness.record.facts import Verdict
from harness.record.reader import read_events
from harness.record.recorder import Recorder
directory = Path(sys.argv[1])
with Recorder(directory) as recorder:
    run, other = recorder.for_run("x"), recorder.for_run("y")
    run.emit(started("x"))
    written = errors = 0
    for number in range(10_000):
        try:
            run.emit(PhaseStarted(float(number), "phase", "x" * 1000))
        except RecordError as error:
            errors += 1
            print(error.message)
            print(error.hint)
            break
        written += 1
    for number in range(1000):
        run.emit(PhaseStarted(0.0, "dropped"))
    try:
        other.emit(PhaseStarted(0.0, "other"))
    except RecordError:
        errors += 1
    run.emit(Judged(1.0, Verdict.MISS, None, "disk full"))
    other.emit(Judged(1.0, Verdict.MISS, None, "disk full"))
    lines = list(read_events(recorder.path))
    print(errors, written, len(lines), lines[-2][1].kind, lines[-1][1].kind)
"""


def _run(prefix: list[str], program: str, directory: Path) -> list[str]:
    tests = Path(__file__).parents[2]
    return subprocess.run(
        [*prefix, sys.executable, "-c", program, str(directory)],
        env={**os.environ, "PYTHONPATH": f"{tests / 'support'}:{tests.parent}"},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    ).stdout.splitlines()


def run_on_a_small_disk(program: str, directory: Path) -> list[str]:
    """Return the lines that a program prints that is given a file system of 512 KiB."""
    mount = f'mount -t tmpfs -o size=512k none {directory} && exec "$@"'
    prefix = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", mount, "sh"]
    if (
        not shutil.which("unshare")
        or subprocess.run([*prefix, "true"], capture_output=True, check=False).returncode
    ):
        pytest.skip("this user may not mount a small tmpfs in a namespace of its own")
    return _run(prefix, program, directory)


def test_a_full_disk_keeps_what_was_measured_and_takes_the_verdict(tmp_path: Path) -> None:
    message, hint, counts = run_on_a_small_disk(FILL, tmp_path)
    errors, written, lines, *kinds = counts.split()
    assert message.endswith("results.jsonl: No space left on device")
    assert "free space" in hint
    assert errors == "2"  # once for each run, however many events follow
    assert int(written) > 50
    # All that was taken, RunStarted and both verdicts.
    assert int(lines) == int(written) + 3
    assert kinds == ["judged", "judged"]


def test_a_file_at_its_size_limit_keeps_what_was_measured(tmp_path: Path) -> None:
    prefix = ["sh", "-c", 'ulimit -f 200; exec "$@"', "sh"]
    message, hint, counts = _run(prefix, FILL, tmp_path)
    errors, written, lines, *_kinds = counts.split()
    assert message.endswith("results.jsonl: File too large")
    assert "--results" in hint
    assert errors == "2"
    assert int(lines) >= int(written) + 1


def test_a_new_attempt_is_told_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_file: int, _line: bytes) -> int:
        raise OSError(28, "No space left on device")

    with Recorder(tmp_path) as recorder:
        run = recorder.for_run("x")
        monkeypatch.setattr("harness.record.recorder.os.write", full)
        with pytest.raises(RecordError):
            run.emit(started("x"))
        run.emit(Judged(1.0, Verdict.MISS, None, "disk full"))
        with pytest.raises(RecordError):
            run.emit(started("x", attempt=2))


OTHERS_WRITE = """
import os, sys
from pathlib import Path
from recorded_runs import started
from harness.errors import RecordError
from harness.record.events import Broke, Judged, PhaseStarted
from harness.record.facts import Verdict
from harness.record.reader import read_events
from harness.record.recorder import Recorder
directory = Path(sys.argv[1])
log = os.open(directory / "console.log", os.O_WRONLY | os.O_CREAT)
write = os.write

def write_after_the_log(file: int, line: bytes) -> int:
    try:
        while True:
            write(log, b"x" * 4096)
    except OSError:
        return write(file, line)

with Recorder(directory) as recorder:
    run = recorder.for_run("x")
    run.emit(started("x"))
    os.write = write_after_the_log
    try:
        while True:
            run.emit(PhaseStarted(0.0, "phase", "x" * 1000))
    except RecordError:
        pass
    for number in range(30):
        run.emit(Broke(1.0, "RecordError", Verdict.MISS, "disk full", "x" * 3000))
    run.emit(Judged(1.0, Verdict.MISS, None, "disk full"))
    kinds = [event.kind for _run, event in read_events(recorder.path)]
    print(kinds.count("broke"), kinds[-1])
"""


def test_other_writers_on_a_full_disk_do_not_take_the_reserve(tmp_path: Path) -> None:
    """A guest's logs go to the same disk, and fill what is freed there before a verdict can."""
    assert run_on_a_small_disk(OTHERS_WRITE, tmp_path) == ["30 judged"]


def test_nothing_is_held_in_reserve_beyond_a_closed_file(tmp_path: Path) -> None:
    with Recorder(tmp_path) as recorder:
        recorder.emit("x", started("x"))
        assert recorder.path.stat().st_blocks * 512 > RESERVE_BYTES
    assert recorder.path.stat().st_blocks * 512 < RESERVE_BYTES


def test_a_file_system_that_cannot_reserve_still_takes_results(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class NoFallocate:
        @staticmethod
        def fallocate64(*_words: object) -> int:
            ctypes.set_errno(errno.EOPNOTSUPP)
            return -1

    monkeypatch.setattr("ctypes.CDLL", lambda *_words, **_options: NoFallocate)
    assert list(read_events(record(tmp_path))) == ALL


def test_half_a_line_is_taken_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.write
    wrote: list[int] = []

    def half(file: int, line: bytes) -> int:
        if wrote:
            raise OSError(28, "No space left on device")
        wrote.append(real(file, line[: len(line) // 2]))
        return wrote[0]

    path = record(tmp_path, PASSED)
    before = path.read_bytes()
    with Recorder(tmp_path) as recorder, monkeypatch.context() as patch:
        patch.setattr("harness.record.recorder.os.write", half)
        with pytest.raises(RecordError):
            recorder.emit("x", started("x"))
    assert path.read_bytes() == before


def test_a_writer_that_holds_the_file_for_ever_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("harness.record.recorder.LOCK_SECONDS", 0.1)
    with Recorder(tmp_path) as recorder, recorder.path.open("rb") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(RecordError, match=r"waited 0\.1 s for the lock on "):
            recorder.emit("x", started("x"))


def test_a_tail_gives_events_as_they_come_and_the_rest_at_the_end(tmp_path: Path) -> None:
    stop = threading.Event()
    seen: list[object] = []
    caught_up = threading.Event()

    def follow() -> None:
        for found in tail_events(tmp_path / "results.jsonl", stop):
            seen.append(found)
            if len(seen) == len(PASSED):
                caught_up.set()

    follower = threading.Thread(target=follow)
    follower.start()
    try:
        record(tmp_path, PASSED)
        assert caught_up.wait(10)
        record(tmp_path, FAILED)
    finally:
        stop.set()
        follower.join(10)
    assert seen == PASSED + FAILED


def test_a_tail_waits_for_the_end_of_a_line(tmp_path: Path) -> None:
    path = record(tmp_path, PASSED)
    path.write_bytes(path.read_bytes()[:-5])
    stop = threading.Event()
    stop.set()
    assert list(tail_events(path, stop)) == PASSED[:-1]
