# SPDX-License-Identifier: Apache-2.0
"""What will be run: scenarios x images x QEMUs x repetitions, each with a name of its own."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from harness.errors import HarnessError, UsageError
from harness.image.build import BootFiles
from harness.image.definition import ImageDefinition
from harness.record.run_plan import RunPlan
from harness.run.qemus import QemuChoice
from harness.scenario.model import Scenario


@dataclass(frozen=True)
class RunOptions:
    """What the command line says of every run."""

    accel: Literal["auto", "kvm", "tcg"] = "auto"
    kernel: Path | None = None
    """A kernel to boot instead of the image's."""
    modules: Path | None = None
    keep_failed: float = 0.0
    """Seconds a guest is kept for a look after a run that did not pass."""
    overrides: tuple[str, ...] = ()
    """`FIELD=VALUE` of each `--set`; the scenarios have them already."""


@dataclass(frozen=True)
class PlannedRun:
    """One scenario on one image and one QEMU, once."""

    run_id: str
    """Names the run in the results, and its directory there."""
    scenario: Scenario
    image: ImageDefinition
    qemu: QemuChoice
    number: int
    """Which repetition, from 1."""
    parameters: tuple[str, ...]
    """What tells it from others of its scenario: the image, and the QEMU where there are several.
    """

    @property
    def test_name(self) -> str:
        """`reclaim-basic[bookworm]`, as pytest writes a test with parameters."""
        repetition = [str(self.number)] if self.number > 1 else []
        return f"{self.scenario.name}[{'-'.join([*self.parameters, *repetition])}]"


def plan_runs(
    scenarios: Sequence[Scenario],
    images: Sequence[ImageDefinition],
    repeat: int,
    qemus: Sequence[QemuChoice] = (QemuChoice(),),
) -> list[PlannedRun]:
    """All runs, in order of repetition, scenario, image and QEMU.

    A run is called after its scenario; where that is not enough, `@image`, `+qemu-NAME` and
    `#repetition` follow.
    """
    several = len(qemus) > 1
    return [
        PlannedRun(
            run_id=scenario.name
            + (f"@{image.name}" if len(images) > 1 else "")
            + (f"+qemu-{qemu.name}" if several else "")
            + (f"#{number}" if repeat > 1 else ""),
            scenario=scenario,
            image=image,
            qemu=qemu,
            number=number,
            parameters=(image.name, f"qemu-{qemu.name}") if several else (image.name,),
        )
        for number in range(1, repeat + 1)
        for scenario in scenarios
        for image in images
        for qemu in qemus
    ]


def recorded_plan(run: PlannedRun, options: RunOptions, boot: BootFiles | HarnessError) -> RunPlan:
    """The plan of a run as its results keep it."""

    def given(path: Path | None) -> str | None:
        return None if path is None else str(path.absolute())

    return RunPlan(
        scenario=run.scenario.plain,
        asked=run.scenario.asked,
        overrides=options.overrides,
        accel=options.accel,
        kernel=given(options.kernel),
        modules=given(options.modules),
        kernel_sha256=_sha256(boot.kernel) if isinstance(boot, BootFiles) else None,
    )


def _sha256(path: Path) -> str | None:
    """None if it cannot be read: booting it will say why."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return None


def distinct(runs: Sequence[PlannedRun]) -> list[PlannedRun]:
    """The same runs, each with a name of its own: scenarios of two directories may share theirs.

    A name met before is followed by `~2`, `~3` and so on.
    """
    met: dict[str, int] = {}
    named = []
    for run in runs:
        met[run.run_id] = met.get(run.run_id, 0) + 1
        number = met[run.run_id]
        named.append(run if number == 1 else replace(run, run_id=f"{run.run_id}~{number}"))
    return named


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
