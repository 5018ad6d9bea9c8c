# SPDX-License-Identifier: Apache-2.0
"""A key of the sources that the outcome of a run depends on."""

import hashlib
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).parents[2]
NOT_ASKED = ("audit", "cli", "compare", "report")
"""Rooms of the harness that only say what became of a run."""


def outcome_key(more: Iterable[Path] = (), salt: str = "") -> str:
    """Hash what runs and judges a guest, `more` files or folders, and `salt`."""
    rooms = [p for p in sorted((ROOT / "harness").iterdir()) if p.name not in NOT_ASKED]
    hashed = hashlib.sha256(salt.encode())
    for place in (*rooms, ROOT / "guest-images", *more):
        for path in sorted(place.rglob("*")) if place.is_dir() else [place]:
            if path.suffix in (".py", ".c", ".h", ".yaml"):
                hashed.update(str(path.relative_to(ROOT)).encode() + path.read_bytes())
    return hashed.hexdigest()[:16]
