# SPDX-License-Identifier: Apache-2.0
"""The manifest of a bundle: what ran on what, and the checksum of every other file in it.

A bundle is a gzipped tar file whose first member is `manifest.json`. Beside it lie `results/`, the
results directory; `scenarios/`, each scenario as it was run; and with `--with-kernel`, `kernels/`,
the kernels and initramfs that were booted. It holds regular files alone.
"""

from pathlib import PurePosixPath
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

MANIFEST = "manifest.json"
MANIFEST_BYTES = 16 << 20
"""At most; a run of the catalogue with all its files takes some 100 KiB."""

SCENARIO_BYTES = 1 << 20
MOST_FILES = 100_000
MOST_BYTES = 8 << 30
"""Of all files together, unpacked."""

RESULTS, SCENARIOS, KERNELS = "results", "scenarios", "kernels"

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]

RunName = Annotated[str, Field(pattern=r"^[^/.\x00-\x1f][^/\x00-\x1f]{0,199}$")]
"""It names a directory of results."""


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class BundledFile(_Part):
    """One member."""

    bytes: Annotated[int, Field(ge=0)]
    sha256: Sha256


class BundledKernel(_Part):
    """What was booted."""

    release: str
    """`uname -r`."""
    build: str = ""
    """Package version and suite, as in `6.1.176-1 of bookworm`; empty for one given by path."""
    commit: str | None = None
    """`git describe` of the tree that it was built in."""
    kernel: Sha256
    initramfs: Sha256
    included: bool = False
    """Whether the bundle holds both, named after their checksums in `kernels/`."""


class BundledRun(_Part):
    """One run, and what it takes to run it again."""

    run: RunName
    scenario: str
    """The member that holds it."""
    image: str
    kernel: str | None
    """The key of its kernel in `kernels`; None if there was none."""
    qemu: str
    """As the command line named it."""
    qemu_version: str
    qemu_package: str = ""
    accel: str
    """The accelerator it ran on, or the one asked for if its guest did not come up."""
    clock: Literal["real", "virtual"] = "real"
    """The clock its guest had, or the one asked for."""
    verdict: str
    cause: str | None
    reason: str


class BundleManifest(_Part):
    """The whole manifest."""

    schema_: Annotated[Literal[1], Field(alias="schema")] = 1
    harness: str
    """Version of fpr-harness."""
    host: dict[str, str]
    kernels: dict[str, BundledKernel]
    runs: tuple[BundledRun, ...]
    files: dict[str, BundledFile]
    """Every other member."""


def is_member_name(name: str) -> bool:
    """Whether a bundle may hold a file of that name: relative, and nothing but names in it."""
    path = PurePosixPath(name)
    parts = path.parts
    return (
        name.isprintable()
        and "\\" not in name
        and len(parts) > 1
        and str(path) == name
        and parts[0] in (RESULTS, SCENARIOS, KERNELS)
        and ".." not in parts
    )
