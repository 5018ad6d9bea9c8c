# SPDX-License-Identifier: Apache-2.0
"""Choose the QEMUs to run on: the installed one, programs by path, and builds to fetch."""

import re
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.errors import HarnessError, InterruptedRunError, UsageError
from harness.image.qemu_build import ensure_qemu
from harness.image.qemu_definition import ALL, HOST, QemuDefinition
from harness.machine.qemu import Qemu
from harness.machine.qemu_probe import find_qemu
from harness.machine.qemu_user import AS_ROOT


@dataclass(frozen=True)
class QemuChoice:
    """One QEMU as the command line names it."""

    name: str = HOST
    """Its name in results and in the directories of its runs."""
    definition: QemuDefinition | None = None
    """A build to fetch."""
    path: Path | None = None
    """A program; with neither this nor `definition`, the installed QEMU is used."""

    @property
    def word(self) -> str:
        """The argument of `--qemu` that names it from any directory."""
        return str(self.path.absolute()) if self.path is not None else self.name


def choose_qemus(
    definitions: Mapping[str, QemuDefinition], words: Sequence[str]
) -> list[QemuChoice]:
    """Return the QEMUs that `--qemu` names, each once, or the installed one if it names none.

    Each word is a path or a comma-separated list of names. Raises `UsageError` for an unknown
    name.
    """
    found: dict[str, QemuChoice] = {}
    for word in words or [HOST]:
        # A path may contain commas.
        for part in [word] if Path(word).exists() else word.split(","):
            for choice in _chosen(definitions, part):
                found.setdefault(choice.name, choice)
    return list(found.values())


def _chosen(definitions: Mapping[str, QemuDefinition], word: str) -> list[QemuChoice]:
    if word == ALL:
        return [QemuChoice(name, definition) for name, definition in definitions.items()]
    if word == HOST:
        return [QemuChoice()]
    if word in definitions:
        return [QemuChoice(word, definitions[word])]
    if "/" in word or shutil.which(word) is not None:
        return [QemuChoice(re.sub(r"[^A-Za-z0-9.]+", "-", word).strip("-."), path=Path(word))]
    raise UsageError(
        f"no QEMU is called {word or 'nothing'}",
        hint=f"QEMUs are: {', '.join(definitions)} (fetched when asked for), {ALL} of these, "
        f"{HOST} (the installed one), or the path of a program",
    )


def choose_one_qemu(definitions: Mapping[str, QemuDefinition], words: Sequence[str]) -> QemuChoice:
    """Return the one QEMU that `--qemu` names. Raises `UsageError` if it names several."""
    choices = choose_qemus(definitions, words)
    if len(choices) > 1:
        raise UsageError("--qemu names several QEMUs; this command takes one")
    return choices[0]


def prepare_qemu(choice: QemuChoice, progress: Callable[[str], None]) -> Qemu:
    """Fetch the QEMU if needed, and probe its version and features; say if it has to run as root.

    Raises `LaunchError` if it cannot run the harness's guests, and what `ensure_qemu` raises.
    """
    path = choice.path
    if choice.definition is not None:
        path = ensure_qemu(choice.definition, progress=progress)
    qemu = find_qemu(path)
    if qemu.as_root and qemu.as_root != AS_ROOT:
        progress(f"QEMU runs as root: {qemu.as_root}")
    return qemu


def prepare_qemus(
    choices: Iterable[QemuChoice], progress: Callable[[str], None]
) -> dict[str, Qemu | HarnessError]:
    """Prepare every QEMU; returns by name the QEMU, or the error that prevented it."""
    found: dict[str, Qemu | HarnessError] = {}
    for choice in choices:
        try:
            found[choice.name] = prepare_qemu(choice, progress)
        except HarnessError as error:
            found[choice.name] = error
    return found


def refuse_if_none(qemus: Mapping[str, Qemu | HarnessError]) -> None:
    """Raise the first error if no QEMU is usable, since then no run could start.

    A request to stop is not raised: every run then gets its verdict.
    """
    errors = [error for error in qemus.values() if isinstance(error, HarnessError)]
    if errors and len(errors) == len(qemus) and not isinstance(errors[0], InterruptedRunError):
        raise errors[0]
