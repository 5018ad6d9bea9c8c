# SPDX-License-Identifier: Apache-2.0
"""Merge what a guest needs into a tree's configuration, by the tree's own merge_config.sh.

The fragments are `guest-images/kernel/*.config`; a comment above each line says what it is for.
scripts/kconfig/merge_config.sh: the same words from 5.10 to 7.3.
"""

import re
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.errors import ImageError
from harness.image.build_tree import (
    CONFIG,
    edited_config,
    is_source_tree,
    parse_config,
    why_other_architecture,
)
from harness.image.host_program import run_program
from harness.resources import IMAGES_DIR

FRAGMENTS = IMAGES_DIR / "kernel"
GUEST = "guest"
DEBUGS = ("kasan", "lockdep")

CONFIG_SECONDS = 300.0
"""For make, which compiles Kconfig's own programs first."""

_MERGE = Path("scripts/kconfig/merge_config.sh")
_LINE = re.compile(r"CONFIG_(?P<on>\w+)=y|# CONFIG_(?P<off>\w+) is not set")
_LAST_LINES = 5


@dataclass(frozen=True)
class Wanted:
    """One line of a fragment."""

    name: str
    on: bool
    why: str

    def granted(self, config: dict[str, str]) -> bool:
        """Whether a configuration has it; a module is as good."""
        return (config.get(self.name) in ("y", "m")) is self.on


def read_fragment(name: str) -> list[Wanted]:
    """Read a fragment, each line with the comment above it."""
    found: list[Wanted] = []
    why: list[str] = []
    for line in (FRAGMENTS / f"{name}.config").read_text(encoding="utf-8").splitlines():
        if match := _LINE.fullmatch(line):
            found.append(Wanted(match["on"] or match["off"], bool(match["on"]), " ".join(why)))
            why = []
        elif line.startswith("# "):
            why.append(line.removeprefix("# "))
        else:
            why = []
    return found


@dataclass(frozen=True)
class Merged:
    """What merging the fragments has changed, and what it could not."""

    changed: tuple[Wanted, ...]
    refused: tuple[Wanted, ...]
    """Lines that Kconfig did not grant: what they depend on is not there in this version."""


def merge(tree: Path, debugs: Sequence[str], progress: Callable[[str], None]) -> Merged:
    """Merge the guest's fragment and those of `debugs` into a tree's configuration.

    A source tree that is not configured starts from the defaults of x86_64; one configured for
    another architecture is left as it is. Raises `ImageError`, `DeadlineError` and
    `InterruptedRunError`.
    """
    source = _source(tree)
    if (other := why_other_architecture(tree, edited_config(tree))) is not None:
        raise other
    if not (tree / CONFIG).exists():
        progress("not configured: starting from `make defconfig`")
        _run(["make", "-C", str(tree), "ARCH=x86_64", "defconfig"], tree)
    before = parse_config(_read(tree))
    names = (GUEST, *debugs)
    fragments = [str(FRAGMENTS / f"{name}.config") for name in names]
    # In the tree itself, since the script splits the names it is given at spaces.
    _run(["sh", str(source / _MERGE), "-m", str(CONFIG), *fragments], tree)
    _run(["make", "-C", str(tree), "olddefconfig"], tree)
    after = parse_config(_read(tree))
    wanted = [each for name in names for each in read_fragment(name)]
    return Merged(
        changed=tuple(e for e in wanted if e.granted(after) and not e.granted(before)),
        refused=tuple(e for e in wanted if not e.granted(after)),
    )


def _source(tree: Path) -> Path:
    """The sources of a tree or of the objects of `make O=DIR`. Raises `ImageError`."""
    for source in (tree, tree / "source"):
        if is_source_tree(source) and (source / _MERGE).is_file():
            return source.resolve()
    raise ImageError(
        f"{tree} has no {_MERGE}: it is neither Linux's sources nor a directory of `make O=DIR`",
        hint="name the directory of the sources",
    )


def _read(tree: Path) -> str:
    try:
        return (tree / CONFIG).read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise ImageError(
            f"cannot read {tree / CONFIG}: {error.strerror}", hint="check its permissions"
        ) from error


def _run(command: list[str], tree: Path) -> None:
    try:
        done = run_program(command, CONFIG_SECONDS, cwd=tree)
    except OSError as error:
        missing = shutil.which(command[0]) is None
        raise ImageError(
            f"cannot run {command[0]}: {error.strerror}",
            hint=f"install {command[0]}" if missing else "check the permissions of the tree",
        ) from error
    if done.status:
        said = "\n".join((done.stdout + done.stderr).strip().splitlines()[-_LAST_LINES:])
        raise ImageError(
            f"`{' '.join(command)}` ended with {done.status}:\n{said}",
            hint="a build of Linux needs gcc, make, flex, bison, bc and libelf's headers",
        )
