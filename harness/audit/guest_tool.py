# SPDX-License-Identifier: Apache-2.0
"""The guest tool as one static program, for any Linux guest of x86_64."""

from pathlib import Path

from harness.image.cache import cache_directory, made_once
from harness.image.compile import COMPILER, STATIC, compile_c, tool_sources
from harness.resources import IMAGES_DIR


def guest_tool() -> bytes:
    """Return the program, compiled once for each version of its sources. Raises `ImageError`."""
    sources = tool_sources(IMAGES_DIR)
    made_from = b"\0".join([" ".join((*COMPILER, *STATIC)).encode(), *map(_content, sources)])
    return made_once(
        cache_directory() / "guest-tool",
        made_from,
        "fpr-guest",
        "the guest tool",
        lambda output: compile_c(sources, output),
    ).read_bytes()


def _content(path: Path) -> bytes:
    return path.name.encode() + b"\0" + path.read_bytes()
