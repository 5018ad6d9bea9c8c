# SPDX-License-Identifier: Apache-2.0
"""Directories that no run could use are refused before anything starts, with one message."""

from pathlib import Path

import pytest

from harness.act.discover import VERBS
from harness.errors import UsageError
from harness.image.cache import cache_directory
from harness.machine.command import LaunchFiles, qemu_command
from harness.machine.spec import GuestSpec
from harness.run.host_paths import check_host_paths
from harness.run.repro import _in_comment
from harness.scenario.selection import find_scenarios
from harness.units import MIB


@pytest.fixture(autouse=True)
def _plain(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("XDG_CACHE_HOME", "XDG_RUNTIME_DIR", "TMPDIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)


def test_plain_directories_serve() -> None:
    check_host_paths(None, [])
    check_host_paths(Path("a directory, with more/é"), [])
    check_host_paths(Path(b"\xff".decode(errors="surrogateescape")), [])


@pytest.mark.parametrize(
    "results",
    ["100%", "a\nrm -rf x", "a\x1b[2J", "a\u202eb"],
)
def test_results_that_cannot_serve(results: str) -> None:
    with pytest.raises(UsageError, match="--results"):
        check_host_paths(Path(results), [])


@pytest.mark.parametrize("name", ["XDG_CACHE_HOME", "XDG_RUNTIME_DIR", "TMPDIR"])
def test_controls_in_the_environments_directories(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv(name, "/tmp/a\nb")
    with pytest.raises(UsageError, match=name):
        check_host_paths(None, [])


def test_a_relative_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "cache")
    with pytest.raises(UsageError, match="not an absolute path"):
        check_host_paths(None, [])
    with pytest.raises(UsageError, match="not an absolute path"):
        cache_directory()


@pytest.mark.parametrize("cache", ["/tmp/a b", "/tmp/a:b"])
def test_a_cache_at_which_the_linker_would_split(
    monkeypatch: pytest.MonkeyPatch, cache: str
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", cache)
    check_host_paths(None, find_scenarios(["reclaim-basic"], VERBS))
    with pytest.raises(UsageError, match="LD_PRELOAD"):
        check_host_paths(None, find_scenarios(["madv-free-lazy"], VERBS))


def test_commas_reach_qemu_as_commas() -> None:
    runtime = Path("/tmp/a,b")
    spec = GuestSpec(memory=256 * MIB, vcpus=1, backend="file-shared", disk=MIB)
    files = LaunchFiles(
        qemu=Path("/q"),
        kernel=Path("/k"),
        initramfs=Path("/i"),
        runtime=runtime,
        disk=runtime / "disk",
        console_log=Path("/c"),
        discard_log=Path("/d"),
        discard_event="ram_block_discard_range",
    )
    words = qemu_command(spec, files, accel="tcg", cpu="max", name="x")
    inside = [word for word in words if "/tmp/a" in word]
    assert len(inside) >= 4
    assert all("/tmp/a,,b" in word for word in inside)


def test_a_line_end_does_not_leave_a_comment() -> None:
    assert _in_comment("sh '/tmp/a\nrm -rf x'").splitlines()[1].startswith("#")
