# SPDX-License-Identifier: Apache-2.0
"""What a verb may use of the guest under test: small enough to fake (tests/support/fake_guest.py).

`harness.act.session.GuestSession` is the real one.
"""

from collections.abc import Collection
from pathlib import Path
from typing import Any, Literal, Protocol, TypeVar

from harness.act.run_record import RunRecord
from harness.deadline import Deadline
from harness.machine import interfaces
from harness.machine.spec import GuestSpec
from harness.observe.instruments import Instruments


class Monitor(interfaces.Monitor, Protocol):
    """QMP with its events."""

    def events(self) -> list[dict[str, Any]]:
        """Every event so far, oldest first."""

    def wait_event(self, names: Collection[str], deadline: Deadline) -> dict[str, Any]:
        """The next event of one of these names. Raises `QmpError`, `DeadlineError`."""


class Console(Protocol):
    """What the guest's kernel prints."""

    def count(self, words: str) -> int:
        """How often these words stand there by now."""


class MemoryGroup(Protocol):
    """A memory control group that QEMU alone is in."""

    def press(self, size: int) -> None:
        """Make the host take `size` bytes from it. Raises `PreconditionError`."""


class Machine(Protocol):
    """QEMU and the guest in it."""

    @property
    def spec(self) -> GuestSpec:
        """What it was started with."""

    @property
    def shell(self) -> interfaces.GuestShell:
        """Commands in the guest."""

    @property
    def monitor(self) -> Monitor:
        """QEMU's QMP."""

    @property
    def console(self) -> Console:
        """The guest's console."""

    @property
    def kernel_release(self) -> str:
        """The guest's `uname -r`."""

    @property
    def balloon_path(self) -> str:
        """The balloon device's path in QEMU's object model."""

    @property
    def pid(self) -> int:
        """QEMU's process."""

    @property
    def directory(self) -> Path:
        """For sockets and temporary files; it goes with the machine."""

    @property
    def memory_group(self) -> MemoryGroup | None:
        """None: see `no_memory_group`."""

    @property
    def no_memory_group(self) -> str:
        """Why there is none."""

    def sleep_alive(self, seconds: float) -> None:
        """Let time pass. Raises QEMU's end or `InterruptedRunError` as soon as there is one."""

    def arrive(self, deadline: Deadline) -> None:
        """Log in to a guest that goes on here. Raises `SshError`, `DeadlineError`."""

    def end(self) -> None:
        """End QEMU. Raises `LaunchError` if it will not end."""


class Watched(Protocol):
    """A guest with its instruments open."""

    @property
    def vm(self) -> Machine:
        """QEMU and the guest in it."""

    @property
    def instruments(self) -> Instruments:
        """Open on `vm`."""

    @property
    def reporting_order(self) -> int:
        """Smallest order of a free block that the guest reports."""

    @property
    def pass_seconds(self) -> float:
        """Between two reporting passes."""


class Kept:
    """Base of what a verb keeps with the guest for later steps, made at its first use."""

    def close(self) -> None:
        """Called when the run leaves the guest; never raises."""


K = TypeVar("K", bound=Kept)


class Guest(Watched, Protocol):
    """The guest under test, and the record of what happens to it."""

    reporting_order: int

    @property
    def record(self) -> RunRecord:
        """The run's clock and events."""

    @property
    def directory(self) -> Path:
        """Where the run's artefacts lie."""

    @property
    def detached(self) -> bool:
        """Whether what is started in the guest must outlive the connection to it."""

    @property
    def phases(self) -> int:
        """How many phases have begun."""

    def phase(self, name: str, detail: str = "") -> None:
        """Record what begins now. Raises `InterruptedRunError` if the run was asked to stop."""

    def read_console(self) -> None:
        """Record what the kernel has complained of since the last look."""

    def kept(self, kind: type[K]) -> K:
        """The one object of this class that is kept with the guest."""

    def reopen_instruments(self) -> None:
        """The layout of the guest's memory has changed. Raises what the instruments raise."""

    def another(self, number: int) -> Watched:
        """Boot a further guest like this one; it ends with this one. Raises what `launch` does."""

    def twin(self, start: Literal["incoming", "stopped"]) -> Machine:
        """A second QEMU for this guest: it waits for a migration, or is stopped.

        Raises `LaunchError`.
        """

    def move_to_twin(self) -> None:
        """From now on the guest is in its twin. Raises what the instruments raise."""
