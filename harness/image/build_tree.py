# SPDX-License-Identifier: Apache-2.0
"""A built Linux tree: where the build left the kernel, its modules, its configuration.

The directory of the objects is meant: the source tree itself, or that of `make O=DIR`. Layout:
Documentation/kbuild/kbuild.rst and the top Makefile, 5.10 to 7.3.
"""

import functools
import re
import shlex
import subprocess
from collections.abc import Mapping
from pathlib import Path

from harness.errors import ImageError

BZIMAGE = Path("arch/x86/boot/bzImage")
CONFIG = Path(".config")
BUILT_CONFIG = Path("include/config/auto.conf")
"""The configuration that was built, in the same form: .config may have been edited since."""

RELEASE = Path("include/config/kernel.release")
ORDER = "modules.order"
BUILTIN = "modules.builtin"

CONFIG_BYTES = 1 << 20
"""Debian's largest configuration has 270 KiB."""

DESCRIBE_SECONDS = 20.0
"""For `git describe --dirty`, which looks at every file of a tree."""

_OTHERS = ("ARM64", "RISCV", "S390", "PPC64", "X86_32")
"""Options that tell another architecture."""

_SET = re.compile(r"^CONFIG_(\w+)=(.*)$", re.M)


def is_build_tree(directory: Path) -> bool:
    """Whether a kernel was configured or built there."""
    return (directory / CONFIG).is_file() or (directory / RELEASE).is_file()


def is_source_tree(directory: Path) -> bool:
    """Whether it holds the sources of Linux."""
    return (directory / "Kbuild").is_file() and (directory / "arch/x86/Kconfig").is_file()


def tree_of(kernel: Path) -> Path | None:
    """The tree that a kernel's file was built in, if it lies where a build leaves it."""
    kernel = kernel.resolve()
    if kernel.parts[-len(BZIMAGE.parts) :] != BZIMAGE.parts:
        return None
    tree = kernel.parents[len(BZIMAGE.parts) - 1]
    return tree if is_build_tree(tree) else None


def why_no_kernel(tree: Path) -> ImageError:
    """What to say of a tree without a bzImage."""
    if not is_build_tree(tree):
        return ImageError(
            f"{tree}: these sources are not configured",
            hint="`make defconfig kvm_guest.config`, then `make`; after `make O=DIR` name DIR",
        )
    return why_other_architecture(tree, read_config(tree)) or ImageError(
        f"{tree}: this tree is not built: it has no {BZIMAGE}",
        hint=f"build it: `make -C {shlex.quote(str(tree))} -j$(nproc)`",
    )


def why_other_architecture(tree: Path, config: Mapping[str, str]) -> ImageError | None:
    """What to say of a tree whose configuration is not for x86_64; None if it is, or is empty."""
    if not config or "X86_64" in config:
        return None
    other = next((name for name in _OTHERS if name in config), "another architecture")
    return ImageError(
        f"{tree}: it is configured for {other}, and the guests are x86_64",
        hint="configure a tree for x86_64: `make O=DIR ARCH=x86_64 defconfig kvm_guest.config`",
    )


def read_config(tree: Path) -> dict[str, str]:
    """The options that are set in what a tree's kernel was built with, or in the .config of a tree
    without a kernel, without CONFIG_; empty: it has neither.

    Raises `ImageError` for one that cannot be read.
    """
    # Configuring alone writes both, and merging options only one.
    names = (BUILT_CONFIG, CONFIG) if (tree / BZIMAGE).exists() else (CONFIG, BUILT_CONFIG)
    path = next((tree / name for name in names if (tree / name).exists()), None)
    return _options(path) if path is not None else {}


def edited_config(tree: Path) -> dict[str, str]:
    """The options that are set in its .config, which may have been edited since it was built."""
    return _options(tree / CONFIG) if (tree / CONFIG).exists() else {}


def _options(path: Path) -> dict[str, str]:
    try:
        with path.open("rb") as file:
            text = file.read(CONFIG_BYTES + 1)
    except OSError as error:
        raise ImageError(
            f"cannot read {path}: {error.strerror}", hint="check its permissions"
        ) from error
    if len(text) > CONFIG_BYTES:
        raise ImageError(f"{path} is larger than any configuration", hint="what is it?")
    return parse_config(text.decode("utf-8", "replace"))


def parse_config(text: str) -> dict[str, str]:
    """`CONFIG_VIRTIO=y` -> {"VIRTIO": "y"}; what is not set does not stand there."""
    return {name: value.strip('"') for name, value in _SET.findall(text)}


def tree_release(tree: Path) -> str | None:
    """What `make kernelrelease` says; None where the tree is not built as far."""
    try:
        return (tree / RELEASE).read_text(encoding="utf-8").strip() or None
    except (OSError, UnicodeDecodeError):
        return None


def ordered_modules(tree: Path, text: str) -> dict[str, Path]:
    """The files that `modules.order` names and that are there, by their path in the tree.

    Its lines are `kernel/drivers/x.ko` up to 5.2, `drivers/x.ko`, and from 6.2 on `drivers/x.o`
    (scripts/Makefile.build). A build may have left a module compressed.
    """
    found: dict[str, Path] = {}
    for line in text.splitlines():
        stem = line.strip().removeprefix("kernel/").removesuffix(".o").removesuffix(".ko")
        if not stem or stem.startswith("/") or ".." in stem.split("/"):
            continue
        for suffix in (".ko", ".ko.xz", ".ko.zst", ".ko.gz"):
            if (path := tree / f"{stem}{suffix}").is_file():
                found[stem] = path
                break
    return found


@functools.cache
def describe(tree: Path) -> str | None:
    """`git describe --always --dirty` of a tree's sources; None where git does not know them."""
    source = tree / "source" if (tree / "source").is_dir() else tree
    # A tree may lie within another repository, whose commits say nothing of it.
    if _git(source, "rev-parse", "--show-prefix") != "":
        return None
    return _git(source, "describe", "--always", "--dirty", "--abbrev=12") or None


def _git(directory: Path, *words: str) -> str | None:
    """What git says; None where it says nothing or is not there."""
    try:
        done = subprocess.run(
            ["git", "-C", str(directory), *words],
            capture_output=True,
            text=True,
            check=False,
            timeout=DESCRIBE_SECONDS,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
