# SPDX-License-Identifier: Apache-2.0
"""Sizes and durations at the program's edge. Inside: bytes as `int`, seconds as `float`."""

import re

KIB = 1 << 10
MIB = 1 << 20
GIB = 1 << 30
PAGE_SIZE = 4096
"""Base page of x86_64, guest and host alike (arch/x86/include/asm/page_types.h)."""

_SIZE_UNITS = {"B": 1, "KiB": KIB, "MiB": MIB, "GiB": GIB}
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*(B|KiB|MiB|GiB)")
_DURATION_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h)")


def parse_size(text: str) -> int:
    """`"1GiB"` -> 1073741824. Raises `ValueError` saying what is accepted."""
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"{text!r} is not a size; write a number and B, KiB, MiB or GiB: 512MiB")
    size = float(match[1]) * _SIZE_UNITS[match[2]]
    if not size.is_integer():
        raise ValueError(f"{text!r} is not a whole number of bytes")
    return int(size)


def format_size(size: int) -> str:
    """Bytes for a person: exact where short (`1GiB`), else three figures (`1.46GiB`)."""
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
    """`"60s"` -> 60.0. Raises `ValueError` saying what is accepted."""
    match = _DURATION.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"{text!r} is not a duration; write a number and ms, s, m or h: 60s")
    return float(match[1]) * _DURATION_UNITS[match[2]]
