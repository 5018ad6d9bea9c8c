# SPDX-License-Identifier: Apache-2.0
"""A kernel's loadable modules: which ones a guest needs, in which order, and their content."""

import contextlib
import gzip
import lzma
import subprocess
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from harness.errors import ImageError
from harness.file_kind import why_not
from harness.image.build_tree import (
    BUILTIN,
    ORDER,
    is_build_tree,
    ordered_modules,
    tree_of,
    tree_release,
)
from harness.image.elf import elf_section

MODULE_BYTES = 64 << 20
"""Upper bound of an unpacked module; a virtio module with all its debug information has 3 MiB."""

UNPACK_SECONDS = 60.0

_SUFFIXES = (".ko", ".ko.xz", ".ko.zst", ".ko.gz")


@dataclass(frozen=True)
class ModuleTree:
    """The tree `lib/modules/RELEASE` or a build tree. Names have `_`, as in the kernel, not `-`.

    Dependencies come from the modules themselves (`depends=`, written by modpost), because a tree
    from a package has no modules.dep before it is installed.
    """

    directory: Path
    files: dict[str, Path]
    builtin: frozenset[str]

    @classmethod
    def read(cls, directory: Path) -> "ModuleTree":
        """Read an installed tree, or a build tree, whose modules.order names its modules.

        Raises `ImageError` if its modules.builtin is unreadable.
        """
        builtin = _read_builtin(directory)
        order = directory / ORDER
        if is_build_tree(directory):
            text = order.read_text("utf-8", "replace") if order.exists() else ""
            paths = list(ordered_modules(directory, text).values())
        else:
            found = directory.rglob("*.ko*")
            paths = [path for path in found if path.name.endswith(_SUFFIXES)]
        return cls(directory, {module_name(path.name): path for path in paths}, builtin)

    @classmethod
    def only_builtin(cls, directory: Path) -> "ModuleTree":
        """Read only the modules.builtin of a build tree, without its loadable modules."""
        return cls(directory, {}, _read_builtin(directory))

    def lacks(self, names: Sequence[str]) -> list[str]:
        """List those of `names` that are neither built in nor loadable."""
        return [name for name in names if name not in self.builtin and name not in self.files]

    def load_order(self, names: Sequence[str], release: str = "") -> list[tuple[str, bytes]]:
        """List what must be loaded for `names` as (name, ELF content), dependencies first.

        Built-in modules need no loading. Raises `ImageError` if the kernel lacks a module, or if
        one was built with another kernel than `release`.
        """
        order: dict[str, bytes] = {}
        for name in names:
            self._visit(name, order, release)
        return list(order.items())

    def _visit(self, name: str, order: dict[str, bytes], release: str) -> None:
        if name in self.builtin or name in order:
            return
        if name not in self.files:
            how = (
                f"run `make -C {self.directory} modules`"
                if is_build_tree(self.directory)
                else "install it with `make modules_install INSTALL_MOD_PATH=DIR` and add "
                "--modules DIR"
            )
            raise ImageError(
                f"{name} is neither built into this kernel nor in {self.directory}",
                hint=f"configure it (=y or =m); if it is a module, {how}",
            )
        data = read_module(self.files[name])
        try:
            dependencies = module_dependencies(data)
            other = built_for(data)
        except ImageError as error:
            raise ImageError(
                f"cannot read the module {self.files[name]}: {error.message}",
                hint="install the modules again",
            ) from error
        if release and other not in ("", release):
            raise ImageError(
                f"the module {self.files[name]} was built with the kernel {other}, and this one is "
                f"{release}",
                hint="build both together: `make -j$(nproc)`; or name the modules of this kernel "
                "with --modules",
            )
        for needed in dependencies:
            self._visit(needed, order, release)
        order[name] = data


def _read_builtin(directory: Path) -> frozenset[str]:
    try:
        return parse_builtin((directory / "modules.builtin").read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        how = "make" if is_build_tree(directory) else "make modules_install"
        raise ImageError(
            f"cannot read the list of built-in modules in {directory}: {error}",
            hint=f"run `{how}`, and check the permissions of the directory",
        ) from error


def module_dependencies(data: bytes) -> list[str]:
    """Read the names of the modules that a module (its ELF content) needs. Raises `ImageError`."""
    names = _modinfo(data, "depends")
    return [name.replace("-", "_") for name in names.split(",") if name]


def built_for(data: bytes) -> str:
    """Read which kernel (`uname -r`) a module (its ELF content) was built with; empty if it does
    not say. Raises `ImageError`."""
    return _modinfo(data, "vermagic").partition(" ")[0]


def _modinfo(data: bytes, field: str) -> str:
    """Read a field that modpost wrote; empty if it is absent. Raises `ImageError`."""
    prefix = f"{field}=".encode()
    fields = elf_section(data, ".modinfo").split(b"\0")
    found = next((text for text in fields if text.startswith(prefix)), b"")
    return found.removeprefix(prefix).decode("ascii", errors="replace")


def module_name(path: str) -> str:
    """Return the module's name: `kernel/drivers/virtio/virtio_pci.ko.xz` is `virtio_pci`."""
    name = path.rsplit("/", 1)[-1]
    for suffix in _SUFFIXES:
        if name.endswith(suffix):
            return name.removesuffix(suffix).replace("-", "_")
    return name


def parse_builtin(text: str) -> frozenset[str]:
    """Parse modules.builtin, one path a line, into module names."""
    return frozenset(module_name(line) for line in text.splitlines() if line)


def read_module(path: Path) -> bytes:
    """Read and unpack a module's ELF content. Raises `ImageError`."""
    try:
        data = _unpacked(path)
    except FileNotFoundError as error:
        what = "zstd" if error.filename == "zstd" else str(path)
        raise ImageError(
            f"cannot read the module {path}: {what} is missing",
            hint="install zstd" if what == "zstd" else "check the directory given to --modules",
        ) from error
    except (OSError, lzma.LZMAError, zlib.error, EOFError, subprocess.SubprocessError) as error:
        raise ImageError(
            f"cannot read the module {path}: {error}", hint="install the modules again"
        ) from error
    if len(data) > MODULE_BYTES:
        raise ImageError(
            f"the module {path} is larger than {MODULE_BYTES >> 20} MiB, unpacked",
            hint="install the modules stripped: `make modules_install INSTALL_MOD_STRIP=1`",
        )
    if not data.startswith(b"\x7fELF"):
        raise ImageError(f"{path} is not an ELF file", hint="install the modules again")
    return data


def _unpacked(path: Path) -> bytes:
    """Unpack at most one byte more than `MODULE_BYTES`, to bound the memory used."""
    most = MODULE_BYTES + 1
    with path.open("rb") as file:
        match path.suffix:
            case ".xz":
                with lzma.open(file) as unpacked:
                    return unpacked.read(most)
            case ".gz":
                with gzip.open(file) as unpacked:
                    return unpacked.read(most)
            case ".zst":
                return _zstd(file, most)
        return file.read(most)


def _zstd(packed: IO[bytes], most: int) -> bytes:
    """Unpack up to `most` bytes with zstd. Raises `OSError`, `SubprocessError`."""
    command = ["zstd", "-dc", "--memory=128MB"]
    with subprocess.Popen(
        command, stdin=packed, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as process:
        assert process.stdout is not None
        data = process.stdout.read(most)
        if len(data) == most:
            process.kill()
        elif process.wait(UNPACK_SECONDS):
            raise subprocess.CalledProcessError(process.returncode, command)
    return data


def find_module_tree(given: Path, release: str) -> Path:
    """Find the `lib/modules/RELEASE` that `given` is or contains. Raises `ImageError`."""
    try:
        if not given.is_dir():
            raise ImageError(
                f"--modules {given}: {why_not(given, 'a directory', 'no such directory')}",
                hint="name lib/modules/RELEASE",
            )
        trees = list(_trees(given))
    except OSError as error:
        raise ImageError(
            f"--modules {given}: {error.strerror}", hint="check the permissions of the path"
        ) from error
    releases = {tree: _release_in(tree) for tree in trees}
    for tree, found in releases.items():
        if found == release:
            return tree
    if trees:
        raise ImageError(
            f"--modules {given} holds modules of {', '.join(sorted(set(releases.values())))}, "
            f"but the kernel is {release}",
            hint="give the modules installed with this kernel: "
            "`make modules_install INSTALL_MOD_PATH=DIR`, then --modules DIR",
        )
    raise ImageError(
        f"--modules {given} holds no modules.builtin",
        hint="run `make modules_install INSTALL_MOD_PATH=DIR` and name DIR/lib/modules/RELEASE",
    )


def tree_beside(kernel: Path, release: str) -> ModuleTree | None:
    """Find the modules in the usual places for a kernel; None if there are none.

    An installed kernel (boot/vmlinuz-RELEASE, lib/modules/RELEASE/vmlinuz) and a build tree have
    all modules there; a folder made by hand has at most the list of built-in ones. Raises
    `ImageError` if a modules.builtin exists but is unreadable.
    """
    kernel = kernel.resolve()
    root = kernel.parent.parent
    installed = [root / "lib" / "modules" / release, root / "usr" / "lib" / "modules" / release]
    if kernel.parent.name == release:
        installed.append(kernel.parent)
    if (tree := tree_of(kernel)) is not None:
        installed = [tree]
    for directory in installed:
        if (directory / BUILTIN).exists():
            return ModuleTree.read(directory)
    if (kernel.parent / BUILTIN).exists():
        return ModuleTree.only_builtin(kernel.parent)
    return None


def _release_in(tree: Path) -> str:
    """Read which kernel a directory's modules belong to; its name if they do not say."""
    if (release := tree_release(tree)) is not None:
        return release
    with contextlib.suppress(ImageError, StopIteration):
        path = next(p for p in tree.rglob("*.ko*") if p.name.endswith(_SUFFIXES))
        return built_for(read_module(path)) or tree.name
    return tree.name


def _trees(given: Path) -> Iterator[Path]:
    for depth in ("", "*/", "*/*/*/", "*/*/*/*/"):
        yield from (path.parent for path in sorted(given.glob(f"{depth}modules.builtin")))
