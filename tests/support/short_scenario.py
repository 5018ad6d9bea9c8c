# SPDX-License-Identifier: Apache-2.0
"""The shortest run that passes: a small guest that comes to rest."""

from pathlib import Path

_TEXT = """\
name: short
title: A guest that comes to rest
guest: {memory: 256MiB, vcpus: 2}
steps: [settle: {}]
expect: {console_findings: "== 0"}
"""


def short_scenario(directory: Path) -> str:
    """Write it, and return its path for a command line."""
    path = directory / "short.yaml"
    path.write_text(_TEXT, encoding="utf-8")
    return str(path)
