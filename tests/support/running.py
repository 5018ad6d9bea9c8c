# SPDX-License-Identifier: Apache-2.0
"""Runs the real `fpr-harness` like a user, follows its results, and finds leftovers."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from harness.deadline import Deadline, wait_for
from harness.machine.pace import slowness
from harness.run.host_turn import HELD

END_SECONDS = 90.0
PHASE_SECONDS = 90.0
"""Deadlines on a usual machine; `slowness` times as long on a slower one."""

# A shell starts background jobs with SIGINT ignored, nohup(1) what it starts with SIGHUP. What a
# test starts would inherit that and could not be asked to stop; it does not inherit handlers.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    signal.signal(signal.SIGHUP, lambda _number, _frame: None)

# With its path, for tests that give the command a PATH of their own.
ENDS_WITH_ITS_TEST = (shutil.which("setpriv") or "setpriv", "--pdeathsig", "TERM", "--")
"""Before a command: it is asked to stop when the thread that started it ends (prctl(2)), as that of
a test that is interrupted. It is in a session of its own, where no Ctrl-C gets."""


class Running:
    """One `fpr-harness` process with a results directory of its own."""

    def __init__(
        self,
        results: Path,
        arguments: Sequence[str],
        *,
        module: str = "harness",
        cwd: Path | None = None,
    ) -> None:
        self.results = results
        self._read = 0
        self._events: list[dict[str, Any]] = []
        self.process = subprocess.Popen(
            [
                *(*ENDS_WITH_ITS_TEST, sys.executable, "-m", module),
                *(*arguments, "--results", str(results)),
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=cwd,
            env={**os.environ, HELD: "1"},  # no test judges a figure, so none needs the host alone
            start_new_session=True,
        )

    def events(self) -> list[dict[str, Any]]:
        """Read the events in results.jsonl so far."""
        path = self.results / "results.jsonl"
        if not path.exists():
            return []
        # Only what is new: this is asked 20 times a second beside guests that want the processor.
        with path.open("rb") as file:
            file.seek(self._read)
            whole, end, _rest = file.read().rpartition(b"\n")
        self._read += len(whole) + len(end)
        self._events += [json.loads(line) for line in whole.splitlines() if line.endswith(b"}")]
        return list(self._events)

    def wait_for_phase(self, phase: str, seconds: float = PHASE_SECONDS) -> None:
        """Wait until the run has begun the named phase."""
        wait_for(
            lambda: (
                True
                if any(e["kind"] == "phase" and e["phase"] == phase for e in self.events())
                else self._still_running()
            ),
            Deadline(seconds * slowness(), f"the phase {phase}"),
            interval=0.05,
        )

    def _still_running(self) -> None:
        if self.process.poll() is not None:
            raise AssertionError(f"ended too early:\n{self.process.communicate()[0]}")

    def qemu_pid(self) -> int:
        """Find the QEMU that this run started."""
        found = qemus_of(self.results)
        assert len(found) == 1, found
        return found[0]

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def end(self, seconds: float = END_SECONDS) -> tuple[int, str]:
        """Wait for the end; return exit status and output, with wrapped lines joined."""
        seconds *= slowness()
        try:
            output, _ = self.process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            output, _ = self.process.communicate()
            raise AssertionError(f"did not end in {seconds:.0f} s:\n{output}") from None
        return self.process.returncode, " ".join(output.split())

    def summary(self) -> dict[str, Any]:
        """The only run of summary.json."""
        runs = json.loads((self.results / "summary.json").read_text(encoding="utf-8"))["runs"]
        assert len(runs) == 1, runs
        run: dict[str, Any] = runs[0]
        return run


def qemus_of(directory: Path) -> list[int]:
    """List the QEMUs whose messages go to a file below a directory of results or logs."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                name = (entry / "cmdline").read_bytes().split(b"\0")[0]
                messages = (entry / "fd" / "1").readlink()
            except OSError:
                continue
            if b"qemu" in name and messages.is_relative_to(directory):
                found.append(int(entry.name))
    return found


def wait_until_gone(results: Path, seconds: float = 10.0) -> None:
    """Wait until every QEMU of the results directory has ended; raise if one has not."""
    wait_for(
        lambda: None if qemus_of(results) else True, Deadline(seconds, "QEMU's end"), interval=0.1
    )
