# SPDX-License-Identifier: Apache-2.0
"""What was to be run, and how: all of a scenario and its command line that results have to hold."""

from dataclasses import dataclass
from typing import Any

from harness.record.asked import Asked


@dataclass(frozen=True)
class RunPlan:
    """A scenario as it was run."""

    scenario: dict[str, Any]
    """The file's plain data, with the changes of its variant and of the command line in it."""
    asked: Asked
    """What the run is judged by."""
    overrides: tuple[str, ...] = ()
    """`FIELD=VALUE` of each `--set`."""
    accel: str = "auto"
    """As asked for; so the next two, which are None where the image's own were taken."""
    kernel: str | None = None
    modules: str | None = None
    kernel_sha256: str | None = None
    """Of the kernel's file that was to be booted; None: there was none."""
