# SPDX-License-Identifier: Apache-2.0
"""A fake guest with scripted answers, on which verbs run without a VM.

An answer to a command in the guest or to QEMU is a value, an error to raise, or a function of the
command; a list gives its items one after another, and the last one from then on. Time passes only
while a verb sleeps: while a `FakeGuest` is in use, `time.monotonic` is its clock.
"""

import contextlib
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar

import pytest
from fake_instruments import FakeInstruments
from fake_process import FakeProcess
from run_builders import ready

from harness.act.guest import Kept
from harness.act.run_record import RunRecord
from harness.deadline import Deadline
from harness.errors import GuestError
from harness.machine.interfaces import CommandResult
from harness.machine.reset import Restart
from harness.machine.spec import GuestSpec
from harness.record.events import Event, PhaseStarted
from harness.units import MIB, PAGE_SIZE

E = TypeVar("E", bound=Event)
K = TypeVar("K", bound=Kept)

TICK = 1e-4
"""Seconds that each reading of the clock takes."""

MOST_LOOKS = 2000
"""The most readings of the clock without sleeping in between."""


class Clock:
    """Monotonic seconds; refuses a wait that reads the clock all the time without sleeping."""

    def __init__(self) -> None:
        self.seconds = 1000.0
        self._looks = 0

    def __call__(self) -> float:
        self.seconds += TICK
        self._looks += 1
        assert self._looks < MOST_LOOKS, "a wait does not sleep"
        return self.seconds

    def sleep(self, seconds: float) -> None:
        self.seconds += seconds
        self._looks = 0


class Answers(dict[str, Any]):
    """Answers by a part of the question; the first match counts."""

    def to(self, question: str) -> Any:
        for part, answer in self.items():
            if part in question:
                if isinstance(answer, list):
                    answer = answer.pop(0) if len(answer) > 1 else answer[0]
                answer = answer(question) if callable(answer) else answer
                if isinstance(answer, BaseException):
                    raise answer
                return answer
        return None


class FakeMachine:
    """Shell, QMP and console of a guest in one, with a log of what they were asked."""

    pace = 1.0

    def __init__(self, directory: Path, clock: Clock, spec: GuestSpec) -> None:
        self.spec = spec
        self.directory = directory
        self.qemu_directory = directory / "qemu"
        self.kernel_release = "6.1.0-test"
        self.balloon_path = "/machine/peripheral/balloon0"
        self.pid = 4711
        self.boot_files = directory / "vmlinuz", directory / "initramfs"
        self.memory_group: Any = None
        self.no_memory_group = "no memory group here"
        self.shell = self.monitor = self.console = self
        self.says = Answers()
        """What commands in the guest print (bytes or text), their status, or their process."""
        self.qmp = Answers()
        """What QMP commands return."""
        self.prints: list[str] = []
        """The text on the console."""
        self.happened: list[dict[str, Any]] = []
        """The QMP events."""
        self.commands: list[str] = []
        self.timeouts: list[float] = []
        """Those of `commands` that ran to their end."""
        self.asked: list[tuple[str, dict[str, Any]]] = []
        """QMP commands with their arguments."""
        self.ended = self.arrived = False
        self.meanwhile: Callable[[], object] = lambda: None
        """Called whenever time passes."""
        self._clock = clock

    def run(
        self, command: str, *, timeout: float = 10.0, stdin: bytes = b"", check: bool = True
    ) -> CommandResult:
        del stdin
        self.commands.append(command)
        self.timeouts.append(timeout)
        answer = self.says.to(command)
        status = answer if isinstance(answer, int) else 0
        output = b"" if answer is None or isinstance(answer, int) else answer
        if check and status:
            raise GuestError(f"`{command}` failed: {status}")
        data = output.encode() if isinstance(output, str) else output
        return CommandResult(command, status, data, b"its error" if status else b"")

    def start(self, command: str) -> Any:
        self.commands.append(command)
        answer = self.says.to(command)
        assert isinstance(answer, FakeProcess), f"nobody said what {command!r} does"
        return answer

    def execute(
        self, command: str, arguments: Mapping[str, Any] | None = None, *, timeout: float = 10.0
    ) -> Any:
        del timeout
        self.asked.append((command, dict(arguments or {})))
        answer = self.qmp.to(command)
        return {} if answer is None else answer

    def human(self, command: str, *, timeout: float = 10.0) -> str:
        return str(self.execute(command, timeout=timeout))

    def events(self) -> list[dict[str, Any]]:
        return list(self.happened)

    def wait_event(self, names: Collection[str], deadline: Deadline) -> dict[str, Any]:
        for event in self.happened:
            if event["event"] in names:
                return event
        raise deadline.error("no such event")

    def count(self, words: str) -> int:
        return "\n".join(self.prints).count(words)

    def sleep_alive(self, seconds: float) -> None:
        self._clock.sleep(seconds)
        self.meanwhile()

    def pass_time(self, seconds: float) -> None:
        self.sleep_alive(seconds)

    def arrive(self, deadline: Deadline) -> None:
        deadline.check()
        self.arrived = True

    def restart(self, deadline: Deadline, how: Restart) -> None:
        del how
        deadline.check()

    def end(self) -> None:
        self.ended = True


class FakeGuest:
    """A `Guest` of 256 MiB that reports blocks of order 9."""

    def __init__(
        self, directory: Path, monkeypatch: pytest.MonkeyPatch, spec: GuestSpec | None = None
    ) -> None:
        self.clock = Clock()
        monkeypatch.setattr("time.monotonic", self.clock)
        self.directory = directory
        self.vm = FakeMachine(directory, self.clock, spec or GuestSpec(256 * MIB, 1))
        self.host = FakeInstruments(self.vm.spec.memory // PAGE_SIZE)
        self.host.trace = directory / "discards.log"
        self.instruments = self.host.opened()
        self.reporting_order = 9
        self.pass_seconds = 2.0
        self.record = RunRecord(lambda _event: None)
        self.detached = False
        self.phases = 0
        self.reopened = 0
        """How often the instruments were reopened."""
        self.reboots = 0
        self.restarts: list[tuple[str, str]] = []
        """How each reboot came about: the way, and the command in the guest."""
        self.twins: list[FakeMachine] = []
        self.others: list[Any] = []
        """What each call of `another` returns or raises."""
        self._kept: dict[type[Kept], Kept] = {}

    def recorded(self, kind: type[E]) -> list[E]:
        """Return the recorded events of a kind."""
        return [event for event in self.record.events if isinstance(event, kind)]

    @property
    def phase_names(self) -> list[str]:
        return [event.phase for event in self.recorded(PhaseStarted)]

    def phase(self, name: str, detail: str = "") -> None:
        self.phases += 1
        self.record.add(PhaseStarted(self.record.now(), name, detail))

    def read_console(self) -> None:
        pass

    def unasked(self) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext()

    def kept(self, kind: type[K]) -> K:
        kept = self._kept.setdefault(kind, kind())
        assert isinstance(kept, kind)
        return kept

    def reopen_instruments(self) -> None:
        self.reopened += 1
        self.instruments = self.host.opened()

    def reboot(self, deadline: Deadline, how: Restart) -> None:
        deadline.check()
        self.reboots += 1
        self.restarts.append((how.way, how.command))
        self.vm.meanwhile()
        how.leaving()
        how.away()
        self.record.add(ready(t=self.record.now()))

    def another(self, number: int) -> Any:
        del number
        other = self.others.pop(0)
        if isinstance(other, BaseException):
            raise other
        return other

    def twin(self, start: Literal["incoming", "stopped"]) -> FakeMachine:
        del start
        twin = FakeMachine(self.directory, self.clock, self.vm.spec)
        twin.says, twin.qmp = self.vm.says, self.vm.qmp
        self.twins.append(twin)
        return twin

    def move_to_twin(self) -> None:
        self.vm = self.twins[-1]
        self.reopen_instruments()
