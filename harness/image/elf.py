# SPDX-License-Identifier: Apache-2.0
"""One section of an ELF file that somebody gave: read in bounded time, whatever the file claims."""

import io

from elftools.elf.elffile import ELFFile

from harness.errors import ImageError

MOST_SECTIONS = 65_536
"""A module with a section for each of its functions has a few thousand. An ELF header can claim
2^64, and pyelftools looks at each."""


def elf_section(data: bytes, name: str) -> bytes:
    """The contents of a section of an ELF file; empty if there is none. Raises `ImageError`."""
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
        raise ImageError(f"an ELF file is damaged: {words}", hint="install it again") from error
    # Not the section's own way to its data, which makes as many bytes as it claims.
    return data[start : start + size]
