# SPDX-License-Identifier: Apache-2.0
"""A fake QEMU that claims every ability and exits when given a guest: an immediate MISS."""

import sys
from pathlib import Path

PROGRAM = Path(__file__).with_name("fake_qemu.py")


def make_dead_qemu(directory: Path) -> Path:
    """The program, for `--qemu`; under TCG QEMU cannot have the guest's memory."""
    path = directory / "dead-qemu"
    path.write_text(f'#!/bin/sh\nFAKE_TCG=no-memory exec "{sys.executable}" "{PROGRAM}" "$@"\n')
    path.chmod(0o755)
    return path
