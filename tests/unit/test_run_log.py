# SPDX-License-Identifier: Apache-2.0
"""Each run has a log of its own, whatever thread does its work and however many runs there are."""

import logging
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.run_log import PROJECT, RunLog, RunThread, escaped, log_to_terminal, logging_to

LOG = logging.getLogger("harness.machine.subject")


@pytest.fixture(autouse=True)
def _handlers() -> Iterator[None]:
    before = list(PROJECT.handlers)
    yield
    PROJECT.handlers[:] = before


def started(run_id: str, directory: Path, at: float = 1.5) -> RunLog:
    log = RunLog(run_id, lambda: at)
    directory.mkdir(exist_ok=True)
    log.open(directory)
    return log


def lines(directory: Path) -> list[str]:
    return (directory / "harness.log").read_text(encoding="utf-8").splitlines()


def test_line_says_when_who_and_what(tmp_path: Path) -> None:
    with logging_to(started("a", tmp_path)):
        LOG.debug("waited %.1f s", 2.0)
        LOG.warning("not so good")
    assert lines(tmp_path) == [
        "    1.500000 MainThread machine.subject: waited 2.0 s",
        "    1.500000 MainThread machine.subject: warning: not so good",
    ]


def test_lines_of_runs_at_once_stay_apart_with_those_of_their_threads(tmp_path: Path) -> None:
    both = threading.Barrier(2)

    def run(name: str) -> None:
        with logging_to(started(name, tmp_path / name)):
            helper = RunThread(target=lambda: LOG.debug("%s's helper", name))
            both.wait(10.0)
            LOG.debug("%s itself", name)
            helper.start()
            helper.join(10.0)

    threads = [threading.Thread(target=run, args=(name,)) for name in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10.0)
    for name in "ab":
        said = [line.split(": ")[1] for line in lines(tmp_path / name)]
        assert said == [f"{name} itself", f"{name}'s helper"]


def test_lines_made_before_there_is_a_directory_are_not_lost(tmp_path: Path) -> None:
    log = RunLog("a", lambda: 0.0)
    with logging_to(log):
        LOG.debug("early")
        log.open(tmp_path)
        LOG.debug("late")
    assert [line.rpartition(" ")[2] for line in lines(tmp_path)] == ["early", "late"]


def test_nothing_is_logged_outside_a_run(tmp_path: Path) -> None:
    with logging_to(started("a", tmp_path)):
        pass
    LOG.debug("nobody's")
    assert lines(tmp_path) == []


def test_guest_can_neither_steer_a_terminal_nor_forge_a_line(tmp_path: Path) -> None:
    with logging_to(started("a", tmp_path)):
        LOG.debug("%s", "\x1b[31mred\r\n    9.000000 MainThread run: PASS " + "x" * 5000)
    first, second = lines(tmp_path)
    assert first.endswith(r"\x1b[31mred\r")
    assert second.startswith("             |     9.000000 MainThread run: PASS ")
    assert second.endswith("more characters)")


def test_name_that_is_no_unicode_can_be_written() -> None:
    assert escaped("r\udcffsults") == r"r\udcffsults"


def test_exception_is_logged_with_its_traceback(tmp_path: Path) -> None:
    with logging_to(started("a", tmp_path)):
        try:
            dict[str, int]()["zones"]
        except KeyError:
            LOG.exception("broke")
    assert any("test_run_log.py" in line for line in lines(tmp_path))
    assert "KeyError: 'zones'" in lines(tmp_path)[-1]


def test_log_that_cannot_be_written_breaks_nothing(tmp_path: Path) -> None:
    log = RunLog("a", lambda: 0.0)
    log.open(tmp_path / "nowhere")
    with logging_to(log):
        LOG.debug("unheard")


@pytest.mark.parametrize(("verbosity", "heard"), [(0, []), (1, ["step"]), (2, ["step", "command"])])
def test_terminal_hears_as_much_as_was_asked_for(
    capsys: pytest.CaptureFixture[str], verbosity: int, heard: list[str], tmp_path: Path
) -> None:
    log_to_terminal(verbosity)
    with logging_to(started("a-run", tmp_path)):
        LOG.info("step")
        LOG.debug("command")
    captured = capsys.readouterr()
    said = [f"a-run: MainThread machine.subject: {word}" for word in heard]
    assert captured.err.splitlines() == said
    assert captured.out == ""
