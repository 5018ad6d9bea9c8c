# SPDX-License-Identifier: Apache-2.0
"""Unpacks a QEMU of any Debian suite into the cache, without installing it.

It runs with the loader and libraries of its own suite; the host's may be older or newer.
"""

import hashlib
import json
import os
import shutil
import time
from dataclasses import asdict
from pathlib import Path

from harness.errors import ImageError
from harness.image.archive import Package
from harness.image.cache import cache_directory, check_own, exclusive, made_whole
from harness.image.qemu_definition import QemuDefinition
from harness.image.sources import Progress, Suites

PROGRAM = "qemu-system-x86_64"

KEPT_SECONDS = 7 * 24 * 3600.0
"""How long other builds of the same name are kept after their last use: a repro.sh may name
them."""

_MANIFEST = "manifest.json"
_FILES = "files"
_BINARY = f"usr/bin/{PROGRAM}"
_LIBRARIES = ("lib/x86_64-linux-gnu", "usr/lib/x86_64-linux-gnu")
_DATA = ("usr/share/qemu", "usr/share/seabios", "usr/lib/ipxe/qemu")
_LOADER = "ld-linux-x86-64.so.2"

_SCRIPT = """\
#!/bin/sh
# QEMU of Debian's {suite} with its own loader, libraries, modules and firmware.
files=${{0%/*}}/{files}
export QEMU_MODULE_DIR="$files/usr/lib/x86_64-linux-gnu/qemu"
exec "$files/{loader}" --library-path "{libraries}" "$files/{binary}" {data} "$@"
"""


def ensure_qemu(
    definition: QemuDefinition, *, refresh: bool = False, progress: Progress = lambda _text: None
) -> Path:
    """Return the program of a definition, fetching it unless it is in the cache and intact.

    Only `refresh` looks for a newer build. Raises `ImageError`; `PreconditionError` if the archive
    does not serve the suite; `DeadlineError` if another process does not finish fetching the same
    build.
    """
    target = _target(definition)
    check_own(target)
    if not refresh and (program := find_qemu_build(definition)):
        return program
    with exclusive(target.parent / ".lock", f"QEMU of {definition.suite}"):
        if not refresh and (program := find_qemu_build(definition)):
            return program
        progress(f"fetching QEMU of Debian's {definition.suite}")
        with made_whole(target) as directory:
            _build(definition, Suites(refresh, progress), directory)
        _prune(target)
    program = find_qemu_build(definition)
    if program is None:
        raise ImageError(
            f"the QEMU just unpacked in {target} cannot be read back intact",
            hint="check that the disk is healthy and nothing deletes the cache, then try again",
        )
    return program


def find_qemu_build(definition: QemuDefinition) -> Path | None:
    """Find the program in the cache; None if a file of it is missing or changed."""
    target = _target(definition)
    try:
        facts = json.loads((target / _MANIFEST).read_text(encoding="utf-8"))
        whole = facts["files"] == _contents(target)
    except (OSError, ValueError, KeyError, TypeError):
        return None
    if not whole:
        return None
    os.utime(target / _MANIFEST)
    return target / PROGRAM


def qemu_package(program: Path) -> str:
    """Read the package version of a program in the cache. Raises `OSError`."""
    facts = json.loads((program.parent / _MANIFEST).read_text(encoding="utf-8"))
    return str(facts["version"])


def _prune(newest: Path) -> None:
    """Remove other builds of the same name that were not used for `KEPT_SECONDS`."""
    for manifest in newest.parent.glob(f"*/{_MANIFEST}"):
        unused = time.time() - manifest.stat().st_mtime
        if manifest.parent != newest and unused > KEPT_SECONDS:
            shutil.rmtree(manifest.parent, ignore_errors=True)


def _target(definition: QemuDefinition) -> Path:
    hashed = hashlib.sha256(definition.model_dump_json().encode())
    hashed.update(Path(__file__).read_bytes())
    return cache_directory() / "qemu" / definition.name / hashed.hexdigest()[:16]


def _build(definition: QemuDefinition, suites: Suites, directory: Path) -> None:
    unpacked = directory / "unpacked"
    packages = suites.unpack(
        definition.suite, lambda root: root.closure([definition.package]), unpacked
    )
    if not (unpacked / _BINARY).exists():
        raise ImageError(
            f"{definition.package} of {definition.suite} does not contain {_BINARY}",
            hint="name the package that contains it in the QEMU's definition",
        )
    files = directory / _FILES
    _take(unpacked, files)
    shutil.rmtree(unpacked)
    script = directory / PROGRAM
    script.write_text(_script(definition.suite, files), encoding="utf-8")
    script.chmod(0o755)
    manifest = {
        "qemu": definition.name,
        "version": _version(packages, definition.package),
        "packages": [asdict(package) for package in packages],
        "files": _contents(directory),
    }
    (directory / _MANIFEST).write_text(json.dumps(manifest, indent=1), encoding="utf-8")


def _take(unpacked: Path, files: Path) -> None:
    """Copy what QEMU needs to run: the program, shared objects and firmware."""
    _copy(unpacked / _BINARY, files / _BINARY)
    for folder in _DATA:
        for path in _files_in(unpacked / folder):
            _copy(path, files / path.relative_to(unpacked))
    for folder in _LIBRARIES:
        for path in _files_in(unpacked / folder):
            if ".so" in path.name:
                _copy(path, files / path.relative_to(unpacked))


def _files_in(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_symlink() or path.is_file()]


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(source, target, follow_symlinks=False)


def _script(suite: str, files: Path) -> str:
    loaders = [f"{folder}/{_LOADER}" for folder in _LIBRARIES]
    loader = next((path for path in loaders if (files / path).exists()), None)
    if loader is None:
        raise ImageError(
            f"the packages of {suite} do not contain {_LOADER}", hint="name a suite for amd64"
        )
    return _SCRIPT.format(
        suite=suite,
        files=_FILES,
        loader=loader,
        libraries=":".join(f"$files/{folder}" for folder in _LIBRARIES),
        binary=_BINARY,
        data=" ".join(f'-L "$files/{folder}"' for folder in _DATA),
    )


def _version(packages: tuple[Package, ...], name: str) -> str:
    return next((package.version for package in packages if package.name == name), "")


def _contents(directory: Path) -> dict[str, str]:
    """Return the SHA-256 of every file, and the target of every link, by path.

    Leaves out the manifest.
    """
    found: dict[str, str] = {}
    for path in sorted(_files_in(directory)):
        name = str(path.relative_to(directory))
        if path.is_symlink():
            found[name] = f"-> {path.readlink()}"
        elif name != _MANIFEST:
            with path.open("rb") as file:
                found[name] = hashlib.file_digest(file, "sha256").hexdigest()
    return found
