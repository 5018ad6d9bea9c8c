# SPDX-License-Identifier: Apache-2.0
"""Programs of the host: what they say, and that they end with whoever started them."""

import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from harness.deadline import Deadline, wait_for
from harness.errors import DeadlineError, InterruptedRunError
from harness.image.cache import exclusive
from harness.image.host_program import run_program
from harness.stopping import stoppable

LEAVES_A_CHILD = 'sleep 60 & echo $! >"$0"; wait'


def is_gone(pid: int) -> bool | None:
    """For `wait_for`: no such process, or one that nobody has waited for yet."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()[0]
    except OSError:
        return True
    return True if state == "Z" else None


def child_of(file: Path) -> int:
    """The process that LEAVES_A_CHILD has left."""
    return wait_for(
        lambda: int(file.read_text()) if file.exists() and file.read_text().strip() else None,
        Deadline(10.0, "the child"),
    )


def test_what_it_says_and_how_it_ends() -> None:
    done = run_program(["sh", "-c", "echo out; echo $LC_ALL >&2; exit 3"], 10.0)
    assert (done.status, done.stdout, done.stderr) == (3, "out\n", "C\n")


def test_a_program_that_is_not_there() -> None:
    with pytest.raises(FileNotFoundError):
        run_program(["no-such-program"], 10.0)


def test_one_that_does_not_end_takes_its_children_with_it(tmp_path: Path) -> None:
    with pytest.raises(DeadlineError, match="to end"):
        run_program(["sh", "-c", LEAVES_A_CHILD, str(tmp_path / "pid")], 0.5)
    wait_for(lambda: is_gone(child_of(tmp_path / "pid")), Deadline(5.0, "its child's end"))


def test_a_request_to_stop_ends_it_at_once(tmp_path: Path) -> None:
    request = threading.Event()
    stopper = threading.Timer(0.3, request.set)
    stopper.start()
    began = time.monotonic()
    with stoppable(request), pytest.raises(InterruptedRunError, match="asked to stop while sh ran"):
        run_program(["sh", "-c", LEAVES_A_CHILD, str(tmp_path / "pid")], 60.0)
    assert time.monotonic() - began < 5.0
    wait_for(lambda: is_gone(child_of(tmp_path / "pid")), Deadline(5.0, "its child's end"))


def test_a_wait_for_another_builder_heeds_a_request_to_stop(tmp_path: Path) -> None:
    request = threading.Event()
    request.set()
    with (
        exclusive(tmp_path / ".lock", "the image"),
        stoppable(request),
        pytest.raises(InterruptedRunError, match="while another process built the image"),
        exclusive(tmp_path / ".lock", "the image"),
    ):
        pass


def test_a_harness_that_is_killed_leaves_no_program(tmp_path: Path) -> None:
    code = (
        "import sys; from harness.image.host_program import run_program\n"
        "run_program(['sh', '-c', 'echo $$ >\"$0\"; exec sleep 60', sys.argv[1]], 60.0)"
    )
    harness = subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "pid")])
    pid = child_of(tmp_path / "pid")
    harness.send_signal(signal.SIGKILL)
    harness.wait(10.0)
    wait_for(lambda: is_gone(pid), Deadline(5.0, "the program's end"))
