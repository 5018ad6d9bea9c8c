# SPDX-License-Identifier: Apache-2.0
"""Run shell commands of a scenario in the guest."""

import re
from typing import Annotated, Any, ClassVar

from pydantic import BeforeValidator, Field

from harness.act.guest import Guest
from harness.errors import GuestError, PreconditionError
from harness.record.events import Measured
from harness.record.facts import Cause
from harness.scenario.fields import MeasureName, Seconds
from harness.scenario.steps import Verb

_NUMBER = re.compile(r"^([a-z][a-z0-9_]*)=(-?\d{1,20}(?:\.\d{1,20})?)$", re.MULTILINE)

Causes = dict[MeasureName, Cause | None]


def _without_causes(measures: Any) -> Any:
    return dict.fromkeys(measures) if isinstance(measures, list) else measures


class Run(Verb):
    """Runs a shell command in the guest; background processes (`&`) keep running. If the command
    fails, the run is an ERROR.
    """

    verb: ClassVar[str] = "run"
    command: Annotated[str, Field(min_length=1)]
    """Command for the guest's `sh`."""
    lasts: Seconds = 1.0
    """About how long it takes; `list` shows the sum over all steps."""
    deadline: Seconds = 60.0
    """If it passes, the run is a MISS, or `guest-hang` if the guest no longer answers."""
    measures: Annotated[
        Causes,
        BeforeValidator(_without_causes, json_schema_input_type=Causes | list[MeasureName]),
    ] = Field(default_factory=dict)
    """Measures that it prints as lines `name=number`: their names (`[boot_ms]`), or each with the
    cause of a FAIL if it breaks an expectation (`{stuck: guest-hang}`; by default `overhead`)."""

    def expected_seconds(self, _memory: int) -> float:
        """Return `lasts`."""
        return self.lasts

    @property
    def measured(self) -> tuple[str, ...]:
        """Names of the measures that the command prints."""
        return tuple(self.measures)

    def in_words(self) -> str:
        """Describe it by the first line of the command."""
        return f"run `{self.command.strip().splitlines()[0]}`"

    def perform(self, guest: Guest) -> None:
        """Run the command and record the measures it prints.

        Raises `GuestError` if it fails or does not print a measure, `DeadlineError` if it does
        not end in time.
        """
        guest.phase("run", self.command.splitlines()[0])
        result = guest.vm.shell.run(self.command, timeout=self.deadline)
        numbers = dict(_NUMBER.findall(result.stdout.decode(errors="replace")))
        for name, cause in self.measures.items():
            if name not in numbers:
                raise GuestError(
                    f"the command {self.command!r} printed no line `{name}=NUMBER`, but "
                    f"{result.stdout[:200]!r}"
                )
            value = float(numbers[name])
            guest.record.add(Measured(guest.record.now(), name, value, cause))


class Require(Verb):
    """Makes the run a SKIP unless a shell command in the guest succeeds."""

    verb: ClassVar[str] = "require"
    command: Annotated[str, Field(min_length=1)]
    """Command for the guest's `sh`."""
    missing: Annotated[str, Field(min_length=1)]
    """What the guest lacks if the command fails, for the reason of the SKIP: `sleep states`."""

    def perform(self, guest: Guest) -> None:
        """Run the command. Raises `PreconditionError` unless it succeeds."""
        guest.phase("require", self.command.splitlines()[0])
        if guest.vm.shell.run(self.command, check=False).status:
            kernel = guest.vm.kernel_release
            raise PreconditionError(f"the guest ({kernel}) lacks {self.missing}")
