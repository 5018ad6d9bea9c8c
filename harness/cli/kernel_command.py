# SPDX-License-Identifier: Apache-2.0
"""`fpr-harness kernel`: what a built kernel tree lacks for the harness."""

import argparse
from pathlib import Path

from harness.errors import UNAVAILABLE, HarnessError, ImageError
from harness.image.build_tree import (
    CONFIG,
    describe,
    is_build_tree,
    is_source_tree,
    read_config,
    why_no_kernel,
)
from harness.image.definition import load_definitions
from harness.image.kernel import find_kernel, kernel_release
from harness.image.kernel_options import Option, wrong
from harness.image.modules import tree_beside

_WORDS = {"needed": "missing", "useful": "lacks", "costly": "costs"}
_COLUMN = 8


def execute(options: argparse.Namespace) -> int:
    """Check a tree. Raises `ImageError` for a directory in which no kernel was configured."""
    tree: Path = options.directory
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
    if enable:
        words = " ".join(f"-e {name}" for name in enable)
        print(f"What to do: cd {tree}; scripts/config {words}; make olddefconfig; make -j$(nproc)")
    elif trouble is not None:
        print(f"What to do: {trouble.hint}")
    if missing or trouble is not None:
        print("No guest can be tested with it as it is.")
        return UNAVAILABLE
    print(f"It can be tested: fpr-harness run --kernel {tree}")
    return 0
