# SPDX-License-Identifier: Apache-2.0
"""Reads one section of an untrusted ELF file, in bounded time and memory."""

import io

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
