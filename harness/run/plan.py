# SPDX-License-Identifier: Apache-2.0
"""What will be run: scenarios x images x repetitions, each with a name of its own."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from harness.errors import UsageError
from harness.image.definition import ImageDefinition
from harness.scenario.model import Scenario


@dataclass(frozen=True)
class RunOptions:
    """What the command line says of every run."""

    accel: Literal["auto", "kvm", "tcg"] = "auto"
    qemu: Path | None = None
    kernel: Path | None = None
    """A kernel to boot instead of the image's."""
    modules: Path | None = None
    keep_failed: float = 0.0
    """Seconds a guest is kept for a look after a run that did not pass."""


@dataclass(frozen=True)
class PlannedRun:
    """One scenario on one image, once."""

    run_id: str
    """Names the run in the results, and its directory there."""
    scenario: Scenario
    image: ImageDefinition
    number: int
    """Which repetition, from 1."""

    @property
    def test_name(self) -> str:
        """`reclaim-basic[bookworm]`, as pytest writes a test with parameters."""
        repetition = f"-{self.number}" if self.number > 1 else ""
        return f"{self.scenario.name}[{self.image.name}{repetition}]"


def plan_runs(
    scenarios: Sequence[Scenario], images: Sequence[ImageDefinition], repeat: int
) -> list[PlannedRun]:
    """All runs, in order of repetition, scenario and image.

    A run is called after its scenario; where that is not enough, `@image` and `#repetition` follow.
    """
    return [
        PlannedRun(
            run_id=scenario.name
            + (f"@{image.name}" if len(images) > 1 else "")
            + (f"#{number}" if repeat > 1 else ""),
            scenario=scenario,
            image=image,
            number=number,
        )
        for number in range(1, repeat + 1)
        for scenario in scenarios
        for image in images
    ]


def longest_first(runs: Iterable[PlannedRun]) -> list[PlannedRun]:
    """The order in which to start runs, so that no long one is left for the end alone."""
    return sorted(runs, key=lambda run: -run.scenario.expected_seconds)


def choose_images(
    definitions: Mapping[str, ImageDefinition], names: Sequence[str]
) -> list[ImageDefinition]:
    """The images of `--image` (each may be a comma-separated list); none named: the default ones.

    Raises `UsageError` for a name nobody defined.
    """
    wanted = [name for group in names for name in group.split(",") if name]
    if not wanted:
        return [definition for definition in definitions.values() if definition.default]
    if "all" in wanted:
        return list(definitions.values())
    unknown = [name for name in wanted if name not in definitions]
    if unknown:
        raise UsageError(
            f"no image is called {', '.join(unknown)}",
            hint=f"images are: {', '.join(definitions)}, or all",
        )
    return [definitions[name] for name in dict.fromkeys(wanted)]
