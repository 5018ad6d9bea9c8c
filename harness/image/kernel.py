# SPDX-License-Identifier: Apache-2.0
"""Finds a kernel given by path, and reads the header of its bzImage.

Header fields: Documentation/arch/x86/boot.rst, "The Real-Mode Kernel Header".
"""

import re
import struct
from pathlib import Path

from harness.errors import ImageError
from harness.file_kind import why_not
from harness.image.build_tree import is_build_tree, is_source_tree, why_no_kernel

_MAGIC_OFFSET = 0x202
_MAGIC = b"HdrS"
_PROTOCOL_OFFSET = 0x206
_PROTOCOL_WITH_SIZES = 0x20A
_PREF_ADDRESS_OFFSET = 0x258
_INIT_SIZE_OFFSET = 0x260
_SETUP_SECTS_OFFSET = 0x1F1
_SYSSIZE_OFFSET = 0x1F4
_VERSION_OFFSET = 0x20E
_SECTOR = 512
_PARAGRAPH = 16
_RELEASE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+~-]{0,63}")
"""A kernel release as printed by `make kernelrelease`. It names directories, so it has no slash."""

_CANDIDATES = ("arch/x86/boot/bzImage", "bzImage", "vmlinuz")


def find_kernel(path: Path) -> Path:
    """Return `path` itself, or the only kernel in that directory. Raises `ImageError`."""
    try:
        return _find_kernel(path)
    except OSError as error:
        raise ImageError(
            f"--kernel {path}: {error.strerror}", hint="check the permissions of the path"
        ) from error


def _find_kernel(path: Path) -> Path:
    if path.is_file():
        return path
    if not path.is_dir():
        raise ImageError(
            f"--kernel {path}: {why_not(path, 'a kernel', 'no such file or directory')}",
            hint="name a bzImage, or a directory that holds one, such as a built kernel tree",
        )
    for name in _CANDIDATES:
        if (path / name).is_file():
            return path / name
    if is_build_tree(path) or is_source_tree(path):
        raise why_no_kernel(path)
    found = sorted(path.glob("vmlinuz-*"))
    if len(found) == 1:
        return found[0]
    seen = f"several: {', '.join(p.name for p in found)}" if found else "none"
    raise ImageError(
        f"--kernel {path}: expected one kernel in this directory, found {seen}",
        hint="name the file itself" if found else "build one with `make bzImage`",
    )


def kernel_release(path: Path) -> str:
    """Read the release of a bzImage, as `uname -r` prints it in the guest.

    Raises `ImageError` if the file is unreadable, not a bzImage, or shorter than its header says.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ImageError(
            f"cannot read the kernel {path}: {error.strerror}", hint="check its permissions"
        ) from error
    if data[_MAGIC_OFFSET : _MAGIC_OFFSET + 4] != _MAGIC:
        raise ImageError(
            f"{path} is not a bzImage (no 'HdrS' at offset {_MAGIC_OFFSET:#x})",
            hint="name arch/x86/boot/bzImage of the build tree, not vmlinux",
        )
    setup_sectors = data[_SETUP_SECTS_OFFSET] or 4
    (paragraphs,) = struct.unpack_from("<I", data, _SYSSIZE_OFFSET)
    expected = (setup_sectors + 1) * _SECTOR + paragraphs * _PARAGRAPH
    if len(data) < expected:
        raise ImageError(
            f"the kernel {path} is truncated: {len(data)} of {expected} bytes",
            hint="build or copy it again",
        )
    (pointer,) = struct.unpack_from("<H", data, _VERSION_OFFSET)
    version = data[pointer + _SECTOR : pointer + _SECTOR + 256].split(b"\0")[0]
    words = version.decode("ascii", errors="replace").split()
    if not pointer or not words or not _RELEASE.fullmatch(words[0]):
        raise ImageError(f"the header of {path} does not name its release", hint="build it again")
    return words[0]


def least_memory(kernel: Path, initramfs: Path) -> int:
    """Return the bytes of guest memory that a bzImage needs to unpack itself; 0 if it cannot tell.

    It unpacks itself to `pref_address` and needs `init_size` bytes from there, while the boot
    loader puts the initramfs at the end of memory (Documentation/arch/x86/boot.rst, protocol 2.10).
    A guest with less memory triple-faults without any output.
    """
    try:
        with kernel.open("rb") as file:
            header = file.read(_INIT_SIZE_OFFSET + 4)
        size = initramfs.stat().st_size
    except OSError:
        return 0
    if len(header) < _INIT_SIZE_OFFSET + 4 or header[_MAGIC_OFFSET : _MAGIC_OFFSET + 4] != _MAGIC:
        return 0
    (protocol,) = struct.unpack_from("<H", header, _PROTOCOL_OFFSET)
    if protocol < _PROTOCOL_WITH_SIZES:
        return 0
    (preferred,) = struct.unpack_from("<Q", header, _PREF_ADDRESS_OFFSET)
    (needed,) = struct.unpack_from("<I", header, _INIT_SIZE_OFFSET)
    return int(preferred + needed + size)
