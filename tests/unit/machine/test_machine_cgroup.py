# SPDX-License-Identifier: Apache-2.0
"""What the limits of control groups leave."""

from pathlib import Path

import pytest

from harness.machine.cgroup import group_room
from harness.units import GIB


def make_group(directory: Path, version: str, limit: str, used: int) -> Path:
    names = {
        "v2": ("memory.current", "memory.max"),
        "v1": ("memory.usage_in_bytes", "memory.limit_in_bytes"),
    }[version]
    directory.mkdir(parents=True, exist_ok=True)
    (directory / names[0]).write_text(f"{used}\n")
    (directory / names[1]).write_text(f"{limit}\n")
    return directory / names[0]


@pytest.mark.parametrize(("version", "unlimited"), [("v2", "max"), ("v1", "9223372036854771712")])
def test_room_is_that_of_the_tightest_group_on_the_way_up(
    tmp_path: Path, version: str, unlimited: str
) -> None:
    inner = make_group(tmp_path / "outer" / "inner", version, unlimited, GIB)
    assert group_room(inner) is None
    make_group(tmp_path / "outer", version, str(3 * GIB), GIB)
    assert group_room(inner) == 2 * GIB
    make_group(tmp_path / "outer" / "inner", version, str(9 * GIB), GIB)
    assert group_room(inner) == 2 * GIB
    make_group(tmp_path / "outer" / "inner", version, str(GIB // 2), GIB)
    assert group_room(inner) == 0


@pytest.mark.parametrize(
    ("version", "name"), [("v2", "inactive_file"), ("v1", "total_inactive_file")]
)
def test_idle_page_cache_is_room(tmp_path: Path, version: str, name: str) -> None:
    charge = make_group(tmp_path / "group", version, str(4 * GIB), 3 * GIB)
    (charge.parent / "memory.stat").write_text(f"anon 1\n{name} {2 * GIB}\nactive_file 7\n")
    assert group_room(charge) == 3 * GIB
