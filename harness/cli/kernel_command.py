# SPDX-License-Identifier: Apache-2.0
"""`fpr-harness kernel`: what a kernel tree lacks for the harness, and how to give it that."""

import argparse
import os
import shlex
from collections.abc import Sequence
from pathlib import Path

from harness.cli.build_step import BuildFailedError, run_build
from harness.errors import UNAVAILABLE, HarnessError, ImageError
from harness.file_kind import why_not
from harness.image.build_tree import (
    CONFIG,
    describe,
    edited_config,
    is_build_tree,
    is_source_tree,
    read_config,
    why_no_kernel,
    why_other_architecture,
)
from harness.image.definition import load_definitions
from harness.image.kernel import find_kernel, kernel_release
from harness.image.kernel_config import merge
from harness.image.kernel_options import OPTIONS, Option, wrong
from harness.image.modules import tree_beside

_WORDS = {"needed": "missing", "useful": "lacks", "costly": "costs"}
_COLUMN = 8


def execute(options: argparse.Namespace) -> int:
    """Check or configure a tree.

    Raises `ImageError` for a directory in which no kernel was configured, or cannot be.
    """
    if options.verb == "config":
        return _configure(options.directory.absolute(), options.debug, build=options.build)
    return _check(options.directory)


def _configure(tree: Path, debugs: Sequence[str], *, build: bool) -> int:
    _refuse_no_directory(tree)
    merged = merge(tree, list(dict.fromkeys(debugs)), print)
    for words, found in (("set", merged.changed), ("refused", merged.refused)):
        for each in found:
            print(f"  {words:{_COLUMN}} {each.name}={'y' if each.on else 'n'}: {each.why}")
    if not merged.changed:
        print("  it had all of it already")
    needed = {option.name for option in OPTIONS if option.rank == "needed"}
    if lost := [each.name for each in merged.refused if each.name in needed]:
        raise ImageError(
            f"{tree}: Kconfig does not grant {', '.join(lost)}, and no guest can be tested without",
            hint="`make menuconfig` says what an option depends on (press / and its name)",
        )
    # Without loadable modules `make modules` is an error.
    modules = " modules" if edited_config(tree).get("MODULES") == "y" else ""
    words = f"make -C {shlex.quote(str(tree))} -j{len(os.sched_getaffinity(0))} bzImage{modules}"
    if not build:
        print(f"What to do: {words}")
        return 0
    try:
        run_build(words)
    except BuildFailedError as error:
        raise ImageError(str(error), hint="its last lines say why") from error
    return _check(tree)


def _check(tree: Path) -> int:
    _refuse_no_directory(tree)
    if not is_build_tree(tree):
        raise (
            why_no_kernel(tree)
            if is_source_tree(tree)
            else ImageError(
                f"{tree} is no kernel tree: it has no {CONFIG}",
                hint="name the directory that a kernel was built in, that of `make O=DIR` too",
            )
        )
    config = read_config(tree)
    if not config:
        raise ImageError(
            f"{tree} has no {CONFIG} that sets anything",
            hint="`make defconfig kvm_guest.config` makes one",
        )
    if (other := why_other_architecture(tree, config)) is not None:
        raise other
    found = wrong(config)
    trouble = _trouble(tree)
    print(f"{tree}: {_title(tree)}")
    for option in found:
        print(f"  {_WORDS[option.rank]:{_COLUMN}} {option.name}: {option.costs}")
    if trouble is not None:
        print(f"  {'missing':{_COLUMN}} {trouble.message}")
    return _conclude(tree, found, trouble)


def _title(tree: Path) -> str:
    """The kernel's release and commit, as far as they are known."""
    try:
        release = f"Linux {kernel_release(find_kernel(tree))}"
    except ImageError:
        release = "not built"
    commit = describe(tree)
    return f"{release}, {commit}" if commit else release


def _trouble(tree: Path) -> HarnessError | None:
    """Why a guest could not be made of what was built, whatever is configured."""
    (definition,) = (d for d in load_definitions().values() if d.default)
    try:
        kernel = find_kernel(tree)
        release = kernel_release(kernel)
        modules = tree_beside(kernel, release)
        if modules is not None:
            modules.load_order(definition.modules, release)
    except HarnessError as error:
        return error
    return None


def _conclude(tree: Path, found: list[Option], trouble: HarnessError | None) -> int:
    missing = [option for option in found if option.rank == "needed"]
    enable = [option.name for option in found if option.rank != "costly"]
    named = shlex.quote(str(tree))
    if enable and not set(enable) - edited_config(tree).keys():
        print(f"What to do: {CONFIG} has them, edited since the build: make -C {named} -j$(nproc)")
    elif enable:
        print(f"What to do: fpr-harness kernel config --build {named}")
    elif trouble is not None:
        print(f"What to do: {trouble.hint}")
    if missing or trouble is not None:
        print("No guest can be tested with it as it is.")
        return UNAVAILABLE
    print(f"It can be tested: fpr-harness run --kernel {named}")
    return 0


def _refuse_no_directory(tree: Path) -> None:
    if not tree.is_dir():
        raise ImageError(
            f"{tree}: {why_not(tree, 'a directory', 'there is no such directory')}",
            hint="name the directory of the sources, or that of `make O=DIR`",
        )
