# SPDX-License-Identifier: Apache-2.0
"""What was to be run and how: the scenario and the options that results must record."""

from dataclasses import dataclass, field
from typing import Any, Literal

from harness.record.asked import Asked


@dataclass(frozen=True)
class Quarantined:
    """An entry of a quarantine file: who sees to a run that is known to fail."""

    owner: str
    link: str
    expires: str
    """The last day: ISO 8601."""

    def __str__(self) -> str:
        return f"in quarantine until {self.expires} ({self.owner}, {self.link})"


@dataclass(frozen=True)
class RunPlan:
    """A scenario as it was run."""

    scenario: dict[str, Any]
    """The scenario file's data, with the changes by variant and command line applied."""
    asked: Asked
    """What the run is judged by."""
    overrides: tuple[str, ...] = ()
    """`FIELD=VALUE` of each `--set`."""
    accel: str = "auto"
    """The accelerator asked for."""
    clock: Literal["real", "virtual"] = "real"
    """The clock asked for."""
    kernel: str | None = None
    """Path of the kernel asked for; None: the image's."""
    modules: str | None = None
    """Path of the modules asked for; None: the image's."""
    kernel_sha256: str | None = None
    """Checksum of the kernel file to boot; None if there was none."""
    kernel_commit: str | None = None
    """`git describe --always --dirty` of the tree that it was built in; None: no such tree."""
    kernel_config: dict[str, str] = field(default_factory=dict)
    """Options that the configuration of that tree sets, without CONFIG_; empty: no such tree."""
    shard: str = ""
    """`I/N` if this is a run of the I-th of N parts of an invocation; empty: it was not divided."""
    quarantine: Quarantined | None = None
    """The entry of `--quarantine` that holds for it: the exit status leaves it out."""
