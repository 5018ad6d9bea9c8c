# SPDX-License-Identifier: Apache-2.0
"""Builds a kernel and an initramfs that boot from an image definition, once, into the cache."""

import hashlib
import json
import os
import shutil
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from harness.errors import ImageError, UsageError
from harness.image.cache import (
    cache_directory,
    check_own,
    exclusive,
    is_intact,
    made_whole,
    seal,
)
from harness.image.compile import COMPILER, STATIC, compile_c, tool_sources
from harness.image.definition import ImageDefinition, pinned
from harness.image.initramfs import build_initramfs, program_archive
from harness.image.sources import Archive, Kernel, Progress, given_kernel
from harness.resources import IMAGES_DIR

KEPT_SECONDS = 7 * 24 * 3600.0
"""How long older builds of an image are kept after their last use: a repro.sh may name their
files."""

_KERNEL, _INITRAMFS, _MANIFEST = "vmlinuz", "initramfs", "manifest.json"
_PROGRAMS = "programs"


@dataclass(frozen=True)
class BootFiles:
    """An image ready to boot."""

    image: str
    kernel: Path
    initramfs: Path
    release: str
    """`uname -r` of its kernel."""
    digest: str
    """Identifies the inputs: definition, given kernel and project files."""
    more: tuple[Path, ...] = field(default=(), kw_only=True)
    """Archives to append to the initramfs; see `with_packages`."""
    build: str = field(default="", kw_only=True)
    """The kernel's package version and suite; empty for one given by path."""
    manifest: Path
    """JSON: every package with version and SHA-256, modules in load order, files with SHA-256."""


def _say_nothing(_text: str) -> None:
    pass


def ensure_image(
    definition: ImageDefinition,
    *,
    kernel: Path | None = None,
    modules: Path | None = None,
    refresh: bool = False,
    progress: Progress = _say_nothing,
) -> BootFiles:
    """Return the image of a definition, building it if its inputs changed or its files are damaged.

    `kernel` and `modules` replace the definition's kernel; only `refresh` looks for newer packages.
    Raises `ImageError`; `PreconditionError` if the archive does not serve the suite;
    `DeadlineError` if another process does not finish building the same image.
    """
    if modules is not None and kernel is None:
        raise UsageError("--modules goes with --kernel", hint="name the kernel they belong to")
    given = given_kernel(kernel, modules) if kernel is not None else None
    target = _target(definition, given)
    check_own(target)
    if not refresh and (built := _read_built(definition.name, target)):
        return built
    with exclusive(target.parent / ".lock", f"the image {definition.name}"):
        if not refresh and (built := _read_built(definition.name, target)):
            return built
        damaged = " again: its files in the cache are damaged" if target.exists() else ""
        progress(f"building the guest image {definition.name}{damaged if not refresh else ''}")
        with made_whole(target) as directory:
            archive = Archive(definition, refresh, progress)
            _build(definition, given, archive, directory, target.name)
            seal(directory)
        _prune(target)
    built = _read_built(definition.name, target)
    if built is None:
        raise ImageError(
            f"the image just built in {target} cannot be read back intact",
            hint="check that the disk is healthy and nothing deletes the cache, then try again",
        )
    return built


def with_packages(
    boot: BootFiles, definition: ImageDefinition, names: Sequence[str], progress: Progress
) -> BootFiles:
    """Add the programs of Debian packages, from the suite of the image's userland.

    The archive is made once and kept in the cache. Raises what `ensure_image` raises.
    """
    if not names:
        return boot
    suite = definition.userland.suite
    hashed = hashlib.sha256(" ".join([suite, *names]).encode())
    for path in sorted(Path(__file__).parent.glob("*.py")):
        hashed.update(path.read_bytes())
    target = cache_directory() / "packages" / hashed.hexdigest()[:16]
    archive = target / _PROGRAMS
    check_own(target)
    if not is_intact(target, _PROGRAMS):
        with exclusive(target.parent / ".lock", f"the programs of {', '.join(names)}"):
            if not is_intact(target, _PROGRAMS):
                progress(f"fetching {', '.join(names)} for the guest")
                with made_whole(target) as directory:
                    unpacked = directory / "scratch"
                    Archive(definition, False, progress).programs(names, unpacked)
                    own = [unpacked / name for name in names]
                    (directory / _PROGRAMS).write_bytes(program_archive(unpacked, own))
                    shutil.rmtree(unpacked)
                    seal(directory)
    return replace(boot, more=(*boot.more, archive))


def find_built(definition: ImageDefinition) -> BootFiles | None:
    """Find the image in the cache; None if it is missing or damaged."""
    return _read_built(definition.name, _target(definition, None))


def find_pinned(definition: ImageDefinition) -> list[ImageDefinition]:
    """List the builds of an image (`NAME=VERSION`) that were asked for and are in the cache."""
    names = (path.name for path in _images().glob(f"{definition.name}=*"))
    return [pinned(definition, name.partition("=")[2]) for name in sorted(names)]


def _images() -> Path:
    return cache_directory() / "images"


def _target(definition: ImageDefinition, given: Kernel | None) -> Path:
    return _images() / definition.name / _digest(definition, given)


def _build(
    definition: ImageDefinition,
    given: Kernel | None,
    archive: Archive,
    directory: Path,
    digest: str,
) -> None:
    """Make the kernel, the initramfs, the tool, init and the manifest in a directory."""
    scratch = directory / "scratch"
    # First, as it may be named and not there.
    if given is not None:
        kernel = archive.completed(given, scratch / "kernel")
    else:
        kernel = archive.kernel(scratch / "kernel")
    tool = compile_c(tool_sources(IMAGES_DIR), directory / "fpr-guest")
    init = compile_c([IMAGES_DIR / "init.c"], directory / "init")
    userland = archive.userland(scratch / "userland")
    order: list[tuple[str, bytes]] = []
    needed = 0
    if kernel.modules is not None:
        needed = len(kernel.modules.load_order(definition.modules, kernel.release))
        lacking = kernel.modules.lacks(definition.on_demand)
        more = [name for name in definition.on_demand if name not in lacking]
        order = kernel.modules.load_order([*definition.modules, *more], kernel.release)
    initramfs = build_initramfs(
        unpacked=scratch / "userland",
        release=kernel.release,
        modules=order,
        loaded=needed,
        init=init,
        tool=tool,
        guest_shell=(IMAGES_DIR / "guest-shell").read_bytes(),
    )
    shutil.copyfile(kernel.path, directory / _KERNEL)
    (directory / _INITRAMFS).write_bytes(initramfs)
    shutil.rmtree(scratch)
    manifest = {
        "image": definition.name,
        "digest": digest,
        "release": kernel.release,
        "build": f"{kernel.build.version} of {kernel.build.suite}" if kernel.build else "",
        "files": {path.name: _file_facts(path) for path in sorted(directory.iterdir())},
        "modules": [name for name, _data in order],
        "packages": [asdict(package) for package in (*kernel.packages, *userland)],
    }
    (directory / _MANIFEST).write_text(json.dumps(manifest, indent=1), encoding="utf-8")


def _file_facts(path: Path) -> dict[str, int | str]:
    data = path.read_bytes()
    return {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}


def _digest(definition: ImageDefinition, given: Kernel | None) -> str:
    """Hash the inputs: definition, guest files, the tool's source, this builder and the kernel."""
    hashed = hashlib.sha256(definition.model_dump_json().encode())
    hashed.update(" ".join(COMPILER + STATIC).encode())
    guest_files = [IMAGES_DIR / "init.c", IMAGES_DIR / "guest-shell", *tool_sources(IMAGES_DIR)]
    for path in (*guest_files, *sorted(Path(__file__).parent.glob("*.py"))):
        hashed.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    if given is not None:
        hashed.update(given.path.read_bytes())
        if given.modules is not None and not given.modules.lacks(definition.modules):
            lacking = given.modules.lacks(definition.on_demand)
            more = [name for name in definition.on_demand if name not in lacking]
            for name, data in given.modules.load_order([*definition.modules, *more], given.release):
                hashed.update(name.encode() + b"\0" + data)
    return hashed.hexdigest()[:16]


def _read_built(name: str, target: Path) -> BootFiles | None:
    """Read the image in `target`; None unless every file is as it was made."""
    manifest = target / _MANIFEST
    try:
        if not is_intact(target, _KERNEL, _INITRAMFS, _MANIFEST):
            return None
        facts = json.loads(manifest.read_text(encoding="utf-8"))
        os.utime(manifest)
        release, digest, build = facts["release"], facts["digest"], facts["build"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return BootFiles(
        name, target / _KERNEL, target / _INITRAMFS, release, digest, manifest, build=build
    )


def _prune(newest: Path) -> None:
    """Remove what was not used for `KEPT_SECONDS`: builds of the same image, and pinned images."""
    images = newest.parent.parent
    same, other = f"{newest.parent.name}/*/{_MANIFEST}", f"*=*/*/{_MANIFEST}"
    for manifest in {*images.glob(same), *images.glob(other)}:
        unused = time.time() - manifest.stat().st_mtime
        if manifest.parent != newest and unused > KEPT_SECONDS:
            shutil.rmtree(manifest.parent, ignore_errors=True)
