# SPDX-License-Identifier: Apache-2.0
"""Builds the guest's userland as one cpio archive with only the files that a run uses."""

import gzip
import stat
import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path

from elftools.common.exceptions import ELFError
from elftools.elf.dynamic import DynamicSection
from elftools.elf.elffile import ELFFile

from harness.errors import ImageError
from harness.image.cpio import (
    CpioEntry,
    directory_entry,
    file_entry,
    link_entry,
    write_cpio,
)
from harness.image.modules import module_dependencies

LOADER = "lib64/ld-linux-x86-64.so.2"
LIBRARIES = "lib/x86_64-linux-gnu"
FILE_SUMS = "etc/file-sums"
APPLETS = (
    "awk cat chmod cp cttyhack cut date dd dmesg echo env find free grep head hexdump insmod ip "
    "kill ln ls lsmod mkdir mkfifo mknod modprobe mount mv pidof poweroff printf ps reboot rm "
    "rmmod sed seq setsid sh sleep sort stat sync sysctl tail taskset tee top touch tr true "
    "umount uname vi wc which xargs"
).split()

_CONSOLE = CpioEntry("dev/console", stat.S_IFCHR | 0o600, rdev=(5, 1))
_DIRECTORIES = (
    ". bin etc etc/dropbear dev lib lib/modules lib64 lib/x86_64-linux-gnu proc root root/.ssh "
    "run sbin sys tmp usr usr/sbin var var/log"
).split()
_ETC = {
    "etc/passwd": "root:x:0:0:root:/root:/bin/guest-shell\n",
    "etc/group": "root:x:0:\n",
    "etc/shells": "/bin/sh\n/bin/guest-shell\n",
    "etc/nsswitch.conf": "passwd: files\ngroup: files\nshadow: files\n",
    "etc/shadow": "root:*:19000:0:99999:7:::\n",
}


def build_initramfs(
    *,
    unpacked: Path,
    release: str,
    modules: Sequence[tuple[str, bytes]],
    loaded: int,
    init: bytes,
    tool: bytes,
    guest_shell: bytes,
) -> bytes:
    """Build the archive, compressed with gzip, which every kernel can unpack.

    Under TCG, a 6.1 guest reached its init as fast as without compression (median of 4: 3.67 s
    against 3.64 s), and faster than with lz4, zstd (4.0 s) or xz (5.0 s).

    `unpacked`: the files of the userland packages; `modules`: (name, ELF content) of the modules of
    the kernel `release` in load order, of which init loads the first `loaded`. Raises `ImageError`
    if a program or library is missing from the packages.
    """
    busybox = _find(unpacked, ["bin/busybox", "usr/bin/busybox"])
    dropbear = _find(unpacked, ["usr/sbin/dropbear"])
    private = {"root", "root/.ssh", "etc/dropbear"}
    entries = [directory_entry(path, 0o700 if path in private else 0o755) for path in _DIRECTORIES]
    entries += [
        _CONSOLE,
        file_entry("init", init, 0o755),
        file_entry("bin/guest-shell", guest_shell, 0o755),
        file_entry("bin/fpr-guest", tool, 0o755),
        file_entry("bin/busybox", busybox.read_bytes(), 0o755),
        file_entry("bin/dropbear", dropbear.read_bytes(), 0o755),
        *(link_entry(f"bin/{applet}", "busybox") for applet in APPLETS),
        *(file_entry(path, text.encode()) for path, text in _ETC.items()),
        *_library_entries(unpacked, [busybox, dropbear]),
        *_module_entries(release, modules, loaded),
    ]
    entries.append(file_entry(FILE_SUMS, file_sums(entries)))
    return gzip.compress(write_cpio(entries), compresslevel=9, mtime=0)


def file_sums(entries: Iterable[CpioEntry]) -> bytes:
    """Write a line for each regular file: CRC-32 in 8 hexadecimal digits, size in bytes, path.

    The guest's witness verifies its files by these sums, because the page cache holds the only copy
    (guest-images/tool/witness.c).
    """
    return b"".join(
        b"%08x %d /%s\n" % (zlib.crc32(entry.data), len(entry.data), entry.path.encode())
        for entry in entries
        if stat.S_ISREG(entry.mode)
    )


def _module_entries(
    release: str, modules: Sequence[tuple[str, bytes]], loaded: int
) -> Iterable[CpioEntry]:
    """Yield the modules, modules.dep for modprobe, and the order in which init loads them."""
    folder = f"lib/modules/{release}"
    yield directory_entry(folder)
    closure: dict[str, list[str]] = {}
    for name, data in modules:
        yield file_entry(f"{folder}/{name}.ko", data)
        needed: dict[str, None] = {}
        for dependency in module_dependencies(data):
            # A dependency comes first and so is in `closure`, unless it is built in.
            if dependency in closure:
                needed |= dict.fromkeys([dependency, *closure[dependency]])
        closure[name] = list(needed)
    lines = (
        f"{name}.ko:{''.join(f' {dependency}.ko' for dependency in needed)}\n"
        for name, needed in closure.items()
    )
    yield file_entry(f"{folder}/modules.dep", "".join(lines).encode())
    needed_by_others = {name for needed in closure.values() for name in needed}
    # `&` as in a shell: no other module needs it, so that init loads it in the background.
    order = "".join(
        f"/{folder}/{name}.ko{'' if name in needed_by_others else ' &'}\n"
        for name in list(closure)[:loaded]
    )
    yield file_entry("etc/modules.order", order.encode())


def program_archive(unpacked: Path, packages: Sequence[Path]) -> bytes:
    """Build an archive of the packages' programs and libraries, to append to an initramfs.

    `unpacked`: the directory of the libraries, next to the packages' own. Raises `ImageError` if a
    package has no program or a library is missing.
    """
    programs = [
        path
        for package in packages
        for folder in ("bin", "sbin", "usr/bin", "usr/sbin")
        for path in sorted((package / folder).glob("*"))
        if path.is_file() and path.read_bytes().startswith(b"\x7fELF")
    ]
    if not programs:
        names = ", ".join(package.name for package in packages)
        raise ImageError(f"{names}: the package has no program", hint="name a package that has one")
    entries = [
        *(file_entry(f"bin/{path.name}", path.read_bytes(), 0o755) for path in programs),
        *_library_entries(unpacked, programs),
    ]
    return gzip.compress(write_cpio(entries), compresslevel=6, mtime=0)


def _library_entries(unpacked: Path, programs: Sequence[Path]) -> Iterable[CpioEntry]:
    """Yield the libraries of the programs, with their dependencies, under their DT_NEEDED names."""
    seen: dict[str, Path] = {}
    pending = [name for program in programs for name in needed_libraries(program)]
    while pending:
        name = pending.pop()
        if name not in seen:
            seen[name] = _find_library(unpacked, name)
            pending += needed_libraries(seen[name])
    loader = Path(LOADER).name
    seen.setdefault(loader, _find_library(unpacked, loader))
    for name, path in sorted(seen.items()):
        yield file_entry(
            LOADER if name == loader else f"{LIBRARIES}/{name}", path.read_bytes(), 0o755
        )


def needed_libraries(path: Path) -> list[str]:
    """Read the `DT_NEEDED` names of an ELF file; none for a static one. Raises `ImageError`."""
    try:
        with path.open("rb") as file:
            return [
                str(tag.needed)  # type: ignore[attr-defined]  # set by its tag
                for section in ELFFile(file).iter_sections()
                if isinstance(section, DynamicSection)
                for tag in section.iter_tags()
                if tag.entry.d_tag == "DT_NEEDED"
            ]
    except (OSError, ELFError) as error:
        raise ImageError(
            f"cannot read the program {path}: {error}",
            hint="build the image again: fpr-harness image build --refresh",
        ) from error


def _find(unpacked: Path, candidates: Sequence[str]) -> Path:
    for candidate in candidates:
        if (unpacked / candidate).is_file():
            return unpacked / candidate
    raise ImageError(
        f"none of the userland packages holds {' or '.join(candidates)}",
        hint="name the package that does under `userland` in the image definition",
    )


def _find_library(unpacked: Path, name: str) -> Path:
    """Find a library in the unpacked packages, following links inside them."""
    for folder in ("lib/x86_64-linux-gnu", "usr/lib/x86_64-linux-gnu", "lib64", "usr/lib64"):
        path = unpacked / folder / name
        if path.is_symlink():
            target = path.readlink()
            root = unpacked if target.is_absolute() else path.parent
            path = root / str(target).lstrip("/")
        if path.is_file():
            return path
    raise ImageError(
        f"no package of the userland's dependencies holds the library {name}",
        hint="name the package that does under `userland` in the image definition",
    )
