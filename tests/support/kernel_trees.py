# SPDX-License-Identifier: Apache-2.0
"""Kernels, modules and build trees that look real enough for what reads them."""

import struct
import subprocess
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path

from harness.image.kernel_options import OPTIONS

RELEASE = "6.13.0-test"


def bzimage(release: str = RELEASE, body: int = 4096) -> bytes:
    """A file with a bzImage's header: one setup sector besides the boot sector."""
    data = bytearray(1024 + body)
    data[0x1F1] = 1
    struct.pack_into("<I", data, 0x1F4, body // 16)
    data[0x202:0x206] = b"HdrS"
    struct.pack_into("<H", data, 0x20E, 0x100)
    words = f"{release} (builder@host) #1 SMP".encode() + b"\0"
    data[0x300 : 0x300 + len(words)] = words
    return bytes(data)


def module(depends: str = "", release: str = "") -> bytes:
    """An ELF object with a .modinfo as modpost writes it; without `release` it has no vermagic."""
    vermagic = f"vermagic={release} SMP preempt mod_unload \\0" if release else ""
    with tempfile.TemporaryDirectory() as directory:
        source, output = Path(directory, "m.c"), Path(directory, "m.o")
        source.write_text(
            'static const char info[] __attribute__((used, section(".modinfo"))) = '
            f'"license=GPL\\0depends={depends}\\0{vermagic}name=m";\n'
        )
        subprocess.run(["cc", "-c", "-o", str(output), str(source)], check=True)
        return output.read_bytes()


def good_config() -> dict[str, str]:
    """With every option as the harness wants it."""
    return {option.name: "y" for option in OPTIONS if option.rank != "costly"}


def build_tree(
    directory: Path,
    *,
    config: Mapping[str, str] | None = None,
    order: Iterable[str] = (),
    modules: Mapping[str, bytes] | None = None,
    builtin: Iterable[str] = (),
    release: str = RELEASE,
) -> Path:
    """What `make` leaves: `order` are the lines of modules.order, `modules` files by their path."""
    files = {
        ".config": "".join(
            f"CONFIG_{name}={value}\n" for name, value in (config or good_config()).items()
        ),
        "include/config/kernel.release": f"{release}\n",
        "modules.order": "".join(f"{line}\n" for line in order),
        "modules.builtin": "".join(f"kernel/{line}\n" for line in builtin),
    }
    contents = {name: text.encode() for name, text in files.items()}
    contents["arch/x86/boot/bzImage"] = bzimage(release)
    for name, data in {**contents, **(modules or {})}.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return directory
