# SPDX-License-Identifier: Apache-2.0
"""The two sides of `fpr-harness compare` as the command line names them."""

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from harness.errors import UsageError

Kind = Literal["base", "results", "kernel", "image", "qemu", "set"]

_PREFIXES: tuple[Kind, ...] = ("kernel", "image", "qemu", "set")

ABOUT = """\
Runs the scenarios with A and with B in turn, A B A B, and says of each measure whether they
differ and by how much, or which difference can be excluded. A and B are each one of

  base               as the other options say, with nothing changed
  kernel:PATH        a bzImage or a kernel build tree; the path alone does, too
  image:NAME         a guest image, or SUITE=VERSION for another build of its kernel
  qemu:NAME|PATH     a build of QEMU, or a program
  set:FIELD=VALUE    a field of the scenarios, as in set:guest.vcpus=4
  DIR                a results directory of earlier runs, which both have to be then

Medians, the difference with its bootstrap interval, and a permutation test, corrected for the
number of comparisons (Holm). Ctrl-C ends it with what there is; the same command with
--results DIR of the directory it made goes on.

exit status: 0 nothing differs, 1 something does, 2 bad usage, 69 too few runs to tell"""


@dataclass(frozen=True)
class SideWord:
    """One side: what it changes, and to what."""

    label: Literal["A", "B"]
    kind: Kind
    value: str

    def apply(self, options: argparse.Namespace) -> argparse.Namespace:
        """Return the options with what this side changes.

        Raises `UsageError` if the option for it is given, too.
        """
        changed = argparse.Namespace(**vars(options))
        if self.kind == "set":
            changed.overrides = [*options.overrides, self.value]
        elif self.kind in ("kernel", "image", "qemu"):
            if getattr(options, self.kind):
                raise UsageError(
                    f"--{self.kind} and side {self.label} each name the {self.kind}",
                    hint="leave the option out",
                )
            value = Path(self.value).expanduser() if self.kind == "kernel" else [self.value]
            setattr(changed, self.kind, value)
        return changed


def parse_side(label: Literal["A", "B"], word: str) -> SideWord:
    """Tell what a word names. Raises `UsageError` if that is nothing."""
    if word == "base":
        return SideWord(label, "base", "")
    kind, colon, value = word.partition(":")
    for known in _PREFIXES:
        if colon and kind == known:
            if not value or (known == "set" and "=" not in value):
                raise UsageError(f"{label}, {word!r}: nothing is named after {known}:")
            return SideWord(label, known, value)
    # Every command's parser knows the sides of `compare`; reading a record takes much more.
    from harness.record.reader import RESULTS_NAME

    path = Path(word)
    if (path / RESULTS_NAME).is_file():
        return SideWord(label, "results", word)
    if path.exists():
        return SideWord(label, "kernel", word)
    raise UsageError(
        f"{label}, {word!r}, is no path that exists",
        hint="name a kernel or a results directory, base, or kernel:, image:, qemu: or set: with "
        "what it is to be",
    )


def declare(parser: argparse.ArgumentParser) -> None:
    """Declare the sides, and what belongs to comparing alone."""
    parser.add_argument("a", metavar="A", help="one side, see above")
    parser.add_argument("b", metavar="B", help="the other side")
    parser.add_argument(
        "scenarios", nargs="*", metavar="SCENARIO", help="a scenario's name or file"
    )
    parser.add_argument(
        "--runs",
        type=int,
        default=10,
        dest="repeat",
        metavar="N",
        help="runs of each scenario with A, and as many with B (default: 10)",
    )
    parser.add_argument(
        "--measure",
        action="append",
        default=[],
        metavar="NAME",
        help="compare this measure alone; may be given several times",
    )
    # One guest at a time: two would change each other's times.
    parser.set_defaults(jobs=1, keep_failed=0.0)
