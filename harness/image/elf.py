# SPDX-License-Identifier: Apache-2.0
"""Reads sections and symbols of an ELF file that nobody vouches for, in bounded time and memory."""

import io
import re
from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import IO, Any, TypeVar

import numpy as np
import numpy.typing as npt
from elftools.elf.elffile import ELFFile

from harness.errors import ImageError

MOST_SECTIONS = 65_536
"""Upper bound of sections. A module with one section per function has a few thousand; an ELF header
can claim 2^64, and pyelftools visits each."""


def elf_section(data: bytes, name: str) -> bytes:
    """Return the content of a section; empty if there is none. Raises `ImageError`."""
    try:
        elf = ELFFile(io.BytesIO(data))
        if elf.num_sections() > MOST_SECTIONS:
            raise ImageError(f"it claims {elf.num_sections()} sections")  # noqa: TRY301
        section = elf.get_section_by_name(name)
        if section is None:
            return b""
        start, size = int(section["sh_offset"]), int(section["sh_size"])
    except Exception as error:
        words = str(error) or type(error).__name__
        raise ImageError(f"the ELF file is damaged: {words}", hint="install it again") from error
    # Not section.data(), which allocates as many bytes as the section claims.
    return data[start : start + size]


Key = TypeVar("Key", bound=Hashable)

_SYMBOL = np.dtype(
    [
        ("name", "<u4"),
        ("info", "u1"),
        ("other", "u1"),
        ("section", "<u2"),
        ("value", "<u8"),
        ("size", "<u8"),
    ]
)
"""Elf64_Sym, elf(5)."""

_CODE_TYPES = (0, 2)
"""STT_NOTYPE, as many functions written in assembly are, and STT_FUNC."""

SYMBOL_BYTES = 256 << 20
"""Upper bound of a symbol table; that of a kernel with everything built in has 10 MiB."""


def function_addresses(
    path: Path, wanted: Mapping[Key, tuple[str, int]]
) -> dict[Key, tuple[str, int]]:
    """Find functions by name and size in an ELF file's symbol table.

    A size reaches to the next function, as the kernel prints it (kernel/kallsyms.c). Returns the
    section's name and the address in it for an object file such as a module, and for a linked one
    an empty name and the address. Functions that are not there, larger than they should be, or
    there more than once are left out. Raises `ImageError` for a file that cannot be read.
    """
    try:
        with path.open("rb") as file:
            elf = ELFFile(file)
            if elf.num_sections() > MOST_SECTIONS:
                raise ImageError(f"it claims {elf.num_sections()} sections")  # noqa: TRY301
            table = elf.get_section_by_name(".symtab")
            if table is None:
                return {}
            names = _content(file, elf.get_section(table["sh_link"]))
            raw = _content(file, table)
            symbols = np.frombuffer(raw[: len(raw) // _SYMBOL.itemsize * _SYMBOL.itemsize], _SYMBOL)
            titles = [section.name for section in elf.iter_sections()]
            linked = elf["e_type"] != "ET_REL"
    except ImageError:
        raise
    except Exception as error:
        words = str(error) or type(error).__name__
        raise ImageError(f"cannot read {path}: {words}", hint="build it again") from error
    code = symbols[np.isin(symbols["info"] & 0xF, _CODE_TYPES) & (symbols["section"] > 0)]
    found = {}
    for key, (name, size) in wanted.items():
        symbol = _only(code, names, name.encode(), size)
        if symbol is not None and int(symbol["section"]) < len(titles):
            section = "" if linked else titles[int(symbol["section"])]
            found[key] = (section, int(symbol["value"]))
    return found


def _content(file: IO[bytes], section: Any) -> bytes:
    if section["sh_size"] > SYMBOL_BYTES:
        raise ImageError(f"it claims a table of {section['sh_size']} bytes")
    file.seek(section["sh_offset"])
    return file.read(section["sh_size"])


def _only(code: npt.NDArray[Any], names: bytes, name: bytes, size: int) -> Any | None:
    """The one symbol of that name and, where there are several, of that size."""
    # Names that end alike share their end, so that a name may begin anywhere.
    starts = [match.start() for match in re.finditer(re.escape(name) + b"\0", names)]
    same = code[np.isin(code["name"], starts) & (code["size"] <= size)]
    if len(same) > 1:
        alike = [each for each in same if _reach(code, each) == size]
        return alike[0] if len(alike) == 1 else None
    return same[0] if len(same) else None


def _reach(code: npt.NDArray[Any], symbol: Any) -> int | None:
    """The bytes up to the next symbol of its section."""
    here = code["value"][code["section"] == symbol["section"]]
    later = here[here > symbol["value"]]
    return int(later.min() - symbol["value"]) if len(later) else None
