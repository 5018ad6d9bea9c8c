# SPDX-License-Identifier: Apache-2.0
"""Plan the runs: scenarios x images x QEMUs x repetitions, each with a unique name."""

import functools
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from harness.errors import HarnessError, ImageError, UsageError
from harness.image.build import BootFiles
from harness.image.build_tree import describe, is_build_tree, read_config, tree_of
from harness.image.definition import ImageDefinition, of_suite, pinned
from harness.record.run_plan import RunPlan
from harness.run.qemus import QemuChoice
from harness.run.quarantine import Quarantine
from harness.scenario.model import Scenario


@dataclass(frozen=True)
class RunOptions:
    """Options of the command line that hold for every run."""

    accel: Literal["auto", "kvm", "tcg"] = "auto"
    clock: Literal["real", "virtual", "auto"] = "real"
    """See `harness.run.which_clock` for `auto`."""
    record: bool = False
    """Whether QEMU records the guests, to be replayed."""
    kernel: Path | None = None
    """A kernel to boot instead of the image's."""
    modules: Path | None = None
    keep_failed: float = 0.0
    """Seconds that a guest is kept after a run that did not pass."""
    overrides: tuple[str, ...] = ()
    """`FIELD=VALUE` of each `--set`, which the scenarios already include."""
    retry: int = 0
    """How often a run that the infrastructure broke is tried again on a new VM."""
    quarantine: Quarantine = field(default_factory=Quarantine)
    """The runs that the exit status leaves out."""
    shard: str = ""
    """`I/N` of `--shard`; empty: all runs are for this machine."""


@dataclass(frozen=True)
class PlannedRun:
    """One scenario on one image and one QEMU, once."""

    run_id: str
    """Name of the run in the results, and of its directory there."""
    scenario: Scenario
    image: ImageDefinition
    qemu: QemuChoice
    number: int
    """Which repetition, from 1."""
    parameters: tuple[str, ...]
    """What tells it from other runs of its scenario: the image, and the QEMU if there are several.
    """

    @property
    def test_name(self) -> str:
        """The name in pytest's notation for a parametrized test: `reclaim-basic[bookworm]`."""
        repetition = [str(self.number)] if self.number > 1 else []
        return f"{self.scenario.name}[{'-'.join([*self.parameters, *repetition])}]"


def plan_runs(
    scenarios: Sequence[Scenario],
    images: Sequence[ImageDefinition],
    repeat: int,
    qemus: Sequence[QemuChoice] = (QemuChoice(),),
) -> list[PlannedRun]:
    """List all runs, ordered by repetition, scenario, image and QEMU.

    A run is named after its scenario, followed by `@image`, `+qemu-NAME` and `#repetition` if
    there are several of these.
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


def refuse_clock(scenarios: Sequence[Scenario], clock: Literal["real", "virtual", "auto"]) -> None:
    """Raise `UsageError` if none of the scenarios is valid under this clock; where some are, the
    others are a SKIP each."""
    if clock == "auto":
        return
    refused = [scenario.not_under(clock) for scenario in scenarios]
    if refused and all(refused):
        raise UsageError(f"--clock {clock}: {refused[0]}", hint="take the other clock")


def wants_the_host(scenario: Scenario, clock: Literal["real", "virtual"]) -> bool:
    """Whether it measures what other guests on the host would disturb: times, not instructions."""
    return scenario.times_the_guest and clock == "real"


def recorded_plan(
    run: PlannedRun,
    options: RunOptions,
    boot: BootFiles | HarnessError,
    clock: Literal["real", "virtual"],
) -> RunPlan:
    """Make the plan of a run that its results record."""

    def given(path: Path | None) -> str | None:
        return None if path is None else str(path.absolute())

    tree = _tree(options.kernel)
    return RunPlan(
        scenario=run.scenario.plain,
        asked=run.scenario.asked,
        overrides=options.overrides,
        accel=options.accel,
        clock=clock,
        kernel=given(options.kernel),
        modules=given(options.modules),
        kernel_sha256=_sha256(boot.kernel) if isinstance(boot, BootFiles) else None,
        kernel_commit=describe(tree) if tree is not None else None,
        kernel_config=_config(tree),
        shard=options.shard,
        quarantine=options.quarantine.of(
            run.scenario.name,
            run.image.name,
            boot.release if isinstance(boot, BootFiles) else None,
        ),
    )


def _tree(kernel: Path | None) -> Path | None:
    """The tree that a given kernel was built in."""
    if kernel is None:
        return None
    return kernel if is_build_tree(kernel) else tree_of(kernel)


def _config(tree: Path | None) -> dict[str, str]:
    """Empty where it cannot be read: what was booted is known by its checksum."""
    try:
        return read_config(tree) if tree is not None else {}
    except ImageError:
        return {}


def _sha256(path: Path) -> str | None:
    """Hash a file; None if it cannot be read, for which the boot will report the reason."""
    try:
        state = path.stat()
        return _sha256_of(path, (state.st_ino, state.st_size, state.st_mtime_ns, state.st_ctime_ns))
    except OSError:
        return None


@functools.lru_cache(maxsize=64)
def _sha256_of(path: Path, _state: tuple[int, ...]) -> str:
    """Once for a file as it stands: a thousand runs boot the same kernel."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def distinct(runs: Sequence[PlannedRun]) -> list[PlannedRun]:
    """Make the names of runs unique, as scenarios of two directories may have the same name.

    The second and further runs of a name get `~2`, `~3` and so on appended.
    """
    met: dict[str, int] = {}
    named = []
    for run in runs:
        met[run.run_id] = met.get(run.run_id, 0) + 1
        number = met[run.run_id]
        named.append(run if number == 1 else replace(run, run_id=f"{run.run_id}~{number}"))
    return named


def longest_first(runs: Iterable[PlannedRun]) -> list[PlannedRun]:
    """Order runs by expected duration, longest first, so that no long run starts last."""
    return sorted(runs, key=lambda run: -run.scenario.expected_seconds)


def choose_images(
    definitions: Mapping[str, ImageDefinition], names: Sequence[str]
) -> list[ImageDefinition]:
    """Return the images that `--image` names, or the default images if it names none.

    Each of `names` may be a comma-separated list; `all` stands for every image, and `NAME=VERSION`
    for an image, or for any suite, with that build of its kernel. Raises `UsageError` for an
    unknown name.
    """
    wanted = [name for group in names for name in group.split(",") if name]
    if not wanted:
        return [definition for definition in definitions.values() if definition.default]
    if "all" in wanted:
        wanted = [*definitions, *(name for name in wanted if "=" in name)]
    unknown = [name for name in wanted if name not in definitions and "=" not in name]
    if unknown:
        raise UsageError(
            f"no image is called {', '.join(unknown)}",
            hint=f"images are: {', '.join(definitions)}, or all; an older kernel is SUITE=VERSION",
        )
    return [
        definitions[name] if name in definitions else _pinned(definitions, name)
        for name in dict.fromkeys(wanted)
    ]


def _pinned(definitions: Mapping[str, ImageDefinition], asked: str) -> ImageDefinition:
    """Return the image that `SUITE=VERSION` stands for."""
    name, _, version = asked.partition("=")
    if name in definitions:
        return pinned(definitions[name], version)
    default = next(definition for definition in definitions.values() if definition.default)
    return pinned(of_suite(default, name), version)
