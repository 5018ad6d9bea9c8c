# SPDX-License-Identifier: Apache-2.0
"""Parse and print sizes and durations; inside the program they are bytes and seconds."""

import re

KIB = 1 << 10
MIB = 1 << 20
GIB = 1 << 30
PAGE_SIZE = 4096
"""Base page of x86_64 in guest and host, bytes (arch/x86/include/asm/page_types.h)."""

_SIZE_UNITS = {"B": 1, "KiB": KIB, "MiB": MIB, "GiB": GIB}
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*(B|KiB|MiB|GiB)")
_DURATION_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h)")


def parse_size(text: str) -> int:
    """Parse a size: `"1GiB"` -> 1073741824 bytes.

    Raises `ValueError` that says what is accepted.
    """
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"{text!r} is not a size; write a number and B, KiB, MiB or GiB: 512MiB")
    size = float(match[1]) * _SIZE_UNITS[match[2]]
    if not size.is_integer():
        raise ValueError(f"{text!r} is not a whole number of bytes")
    return int(size)


def format_size(size: int) -> str:
    """Format bytes in the largest unit that fits, with three figures (`1GiB`, `1.46GiB`)."""
    sign, size = ("-", -size) if size < 0 else ("", size)
    for name, unit in (("GiB", GIB), ("MiB", MIB), ("KiB", KIB)):
        if size >= unit:
            return (
                f"{sign}{size / unit:.3g}{name}"
                if size < 1000 * unit
                else f"{sign}{size // unit}{name}"
            )
    return f"{sign}{size}B"


def parse_duration(text: str) -> float:
    """Parse a duration: `"60s"` -> 60.0 seconds.

    Raises `ValueError` that says what is accepted.
    """
    match = _DURATION.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"{text!r} is not a duration; write a number and ms, s, m or h: 60s")
    return float(match[1]) * _DURATION_UNITS[match[2]]


def format_seconds(seconds: float) -> str:
    """Format a length of time, in minutes from 100 s on: `42 s`, `7 min`."""
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min"
