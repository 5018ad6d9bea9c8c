# SPDX-License-Identifier: Apache-2.0
"""The rooms of `harness/`: names that differ, and sizes that can be taken in."""

from collections import Counter
from pathlib import Path

ROOT = Path(__file__).parents[3] / "harness"
MOST_LINES = 350
"""Of a module."""
MOST_SHARE = 0.15
"""Of all lines, in one room."""


def lengths() -> dict[Path, int]:
    """Lines by module, its path relative to the package."""
    modules = sorted(ROOT.rglob("*.py"))
    return {path.relative_to(ROOT): len(path.read_text().splitlines()) for path in modules}


def test_a_module_can_be_read_at_one_sitting() -> None:
    assert {str(path): lines for path, lines in lengths().items() if lines > MOST_LINES} == {}


def test_no_room_holds_too_much() -> None:
    rooms: Counter[str] = Counter()
    for path, lines in lengths().items():
        rooms[path.parts[0]] += lines
    room, lines = rooms.most_common(1)[0]
    assert lines <= MOST_SHARE * rooms.total(), f"{room} has {lines} of {rooms.total()} lines"


def test_no_two_modules_of_different_rooms_have_one_name() -> None:
    names = [path.stem for path in lengths() if path.stem != "__init__"]
    assert {name for name in names if names.count(name) > 1} == set()
