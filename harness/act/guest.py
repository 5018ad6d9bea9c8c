# SPDX-License-Identifier: Apache-2.0
"""Protocols of what a verb may use of the guest under test.

`harness.act.session.GuestSession` implements them, and tests/support/fake_guest.py fakes them.
"""

from collections.abc import Collection
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Literal, Protocol, TypeVar

from harness.act.run_record import RunRecord
from harness.deadline import Deadline
from harness.machine import interfaces
from harness.machine.reset import Restart
from harness.machine.spec import GuestSpec
from harness.observe.instruments import Instruments


class Monitor(interfaces.Monitor, Protocol):
    """QMP with its events."""

    def events(self) -> list[dict[str, Any]]:
        """Return all events so far, oldest first."""

    def wait_event(self, names: Collection[str], deadline: Deadline) -> dict[str, Any]:
        """Wait for the next event of one of these names. Raises `QmpError`, `DeadlineError`."""


class Console(Protocol):
    """The guest's console."""

    def count(self, words: str) -> int:
        """Count the occurrences of a text on the console so far."""


class MemoryGroup(Protocol):
    """A memory control group that contains only QEMU."""

    def press(self, size: int) -> None:
        """Make the host reclaim `size` bytes from it. Raises `PreconditionError`."""


class Machine(Protocol):
    """A QEMU and the guest in it."""

    @property
    def spec(self) -> GuestSpec:
        """The machine it was started with."""

    @property
    def pace(self) -> float:
        """How many times longer than usual whatever is asked of it may take."""

    @property
    def shell(self) -> interfaces.GuestShell:
        """Runs commands in the guest."""

    @property
    def monitor(self) -> Monitor:
        """QEMU's QMP monitor."""

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
        """Process id of QEMU."""

    @property
    def directory(self) -> Path:
        """Directory for temporary files, removed with the machine."""

    @property
    def qemu_directory(self) -> Path:
        """Directory in it, in which QEMU may make sockets and files."""

    @property
    def boot_files(self) -> tuple[Path, Path]:
        """The kernel and the initramfs that it boots."""

    @property
    def memory_group(self) -> MemoryGroup | None:
        """QEMU's own memory control group; if None, `no_memory_group` says why."""

    @property
    def no_memory_group(self) -> str:
        """Why QEMU has no memory control group of its own."""

    def sleep_alive(self, seconds: float) -> None:
        """Sleep; raises at once if QEMU ends or the run is stopped (`InterruptedRunError`)."""

    def pass_time(self, seconds: float) -> None:
        """Let so many seconds of the guest's clock pass. Raises like `sleep_alive`, and what a
        command in the guest does."""

    def restart(self, deadline: Deadline, how: Restart) -> None:
        """Restart the machine and log in to the guest that boots again. Raises `QmpError`,
        `SshError`, `DeadlineError`."""

    def arrive(self, deadline: Deadline) -> None:
        """Log in to a guest that continues in this QEMU. Raises `SshError`, `DeadlineError`."""

    def end(self) -> None:
        """End QEMU. Raises `LaunchError` if it does not end."""


class Watched(Protocol):
    """A guest with its instruments open."""

    @property
    def vm(self) -> Machine:
        """The QEMU and the guest in it."""

    @property
    def instruments(self) -> Instruments:
        """The instruments that are open on `vm`."""

    @property
    def reporting_order(self) -> int:
        """Smallest order of a free block that the guest reports."""

    @property
    def pass_seconds(self) -> float:
        """Seconds between two reporting passes."""


class Kept:
    """Base of state that a verb keeps with the guest for later steps, created at first use."""

    def close(self) -> None:
        """Release it at the end of the run; never raises."""


K = TypeVar("K", bound=Kept)


class Guest(Watched, Protocol):
    """The guest under test, and the record of what happens to it."""

    reporting_order: int
    pass_seconds: float

    @property
    def record(self) -> RunRecord:
        """The run's clock and events."""

    @property
    def directory(self) -> Path:
        """Directory of the run's artefacts."""

    @property
    def detached(self) -> bool:
        """Whether processes started in the guest must outlive the SSH connection."""

    @property
    def phases(self) -> int:
        """Number of phases that have begun."""

    def phase(self, name: str, detail: str = "") -> None:
        """Record that a phase begins. Raises `InterruptedRunError` if the run is to stop."""

    def read_console(self) -> None:
        """Record the console's findings since the last call."""

    def kept(self, kind: type[K]) -> K:
        """Return the single object of this class that is kept with the guest."""

    def unasked(self) -> AbstractContextManager[None]:
        """Ask nothing of a guest with a virtual clock meanwhile: to answer would take its time."""

    def reopen_instruments(self) -> None:
        """Reopen the instruments on a changed memory layout. Raises what they raise."""

    def reboot(self, deadline: Deadline, how: Restart) -> None:
        """Restart the machine and record the guest that boots again. Raises what `Machine.restart`
        and the instruments raise."""

    def another(self, number: int) -> Watched:
        """Boot a further guest like this one, which ends with it. Raises what `launch` raises."""

    def twin(self, start: Literal["incoming", "stopped"]) -> Machine:
        """Start a second QEMU for this guest, which waits for a migration or is stopped.

        Raises `LaunchError`.
        """

    def move_to_twin(self) -> None:
        """Continue with the guest in its twin. Raises what the instruments raise."""
