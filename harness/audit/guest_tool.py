# SPDX-License-Identifier: Apache-2.0
"""The guest tool as one static program, for any Linux guest of x86_64."""

from pathlib import Path

from harness.image.cache import cache_directory, made_once
from harness.image.compile import COMPILER, STATIC, compile_c, tool_sources
from harness.resources import IMAGES_DIR

PATIENT_SECONDS = 40
"""In the first seconds of each reading, the guest's own work goes first: the tool gets 1.4 % of a
processor that is busy, and all of an idle one. From then on, it takes its share."""

READING_PACE = 3.0
"""How many times longer a reading may take than that of a guest of the harness's own, since the
tool is patient."""


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
