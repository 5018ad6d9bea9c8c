# SPDX-License-Identifier: Apache-2.0
"""A command that is asked to stop while it makes an image: a verdict, status 69, nothing left."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from running import ENDS_WITH_ITS_TEST

from harness.deadline import Deadline, wait_for
from harness.machine.pace import slowness

pytestmark = pytest.mark.whole_command

SECONDS = 3.0
"""From the signal to the end, on a usual machine."""

Start = Any


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts a command whose image takes for ever to fetch, with a cache of its own."""
    tools = tmp_path / "tools"
    tools.mkdir()
    apt = tools / "apt-get"
    apt.write_text(f'#!/bin/sh\necho $$ >"{tmp_path}/apt-pid"\nexec sleep 600\n')
    apt.chmod(0o755)
    started: list[subprocess.Popen[str]] = []
    # Under nohup(1) it would be ignored by all that is started.
    hangup = signal.signal(signal.SIGHUP, signal.SIG_DFL)

    def run(*words: str, module: str = "harness") -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [*ENDS_WITH_ITS_TEST, sys.executable, "-m", module, *words],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
            env={
                **os.environ,
                "PATH": f"{tools}:{os.environ['PATH']}",
                "XDG_CACHE_HOME": str(tmp_path / "cache"),
            },
        )
        started.append(process)
        wait_for(
            lambda: True if (tmp_path / "apt-pid").exists() else None,
            Deadline(60.0 * slowness(), "the image to be fetched"),
        )
        return process

    yield run
    signal.signal(signal.SIGHUP, hangup)
    for process in started:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(10.0)


def is_gone(pid: int) -> bool | None:
    """For `wait_for`; what nobody has waited for yet is gone too."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()[0]
    except OSError:
        return True
    return True if state == "Z" else None


def ends(process: "subprocess.Popen[str]", number: signal.Signals, tmp_path: Path) -> str:
    """It ends in time with status 69 and leaves no program: what it said."""
    began = time.monotonic()
    process.send_signal(number)
    output, _ = process.communicate(timeout=60.0)
    share = max(1.0, os.getloadavg()[0] / len(os.sched_getaffinity(0)))
    assert time.monotonic() - began < SECONDS * slowness() * share, output
    assert process.returncode == 69, output
    assert "Traceback" not in output
    pid = int((tmp_path / "apt-pid").read_text())
    wait_for(lambda: is_gone(pid), Deadline(5.0, "the program's end"))
    assert not list((tmp_path / "cache").rglob(".making.*"))
    return output


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_every_run_has_its_verdict(start: Start, number: signal.Signals, tmp_path: Path) -> None:
    results = tmp_path / "results"
    words = ["reclaim-basic", "reclaim-partial", "--repeat", "2", "--results", str(results)]
    output = ends(start("run", *words), number, tmp_path)
    runs = json.loads((results / "summary.json").read_text(encoding="utf-8"))["runs"]
    assert [run["verdict"] for run in runs] == ["MISS"] * 4, output
    assert {run["reason"] for run in runs} == {"asked to stop while apt-get ran"}
    assert not [path for path in results.iterdir() if path.is_dir()]


def test_every_test_of_pytest_has_its_verdict(start: Start, tmp_path: Path) -> None:
    results = tmp_path / "results"
    words = ["scenarios/reclaim-basic.yaml", "--results", str(results), "-p", "no:cacheprovider"]
    process = start(*words, module="pytest")
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=60.0)
    (run,) = json.loads((results / "summary.json").read_text(encoding="utf-8"))["runs"]
    assert run["verdict"] == "MISS", output


@pytest.mark.parametrize("words", [["image", "build"], ["qemu", "build", "bookworm"]])
def test_a_build_asked_for_by_itself_ends_too(
    start: Start, words: list[str], tmp_path: Path
) -> None:
    assert "interrupted" in ends(start(*words), signal.SIGTERM, tmp_path)
