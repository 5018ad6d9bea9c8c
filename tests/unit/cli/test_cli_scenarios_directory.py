# SPDX-License-Identifier: Apache-2.0
"""`--scenarios DIR` takes one's own scenarios, in `list`, in `run` and in pytest."""

import subprocess
import sys
from pathlib import Path

import pytest
from dead_qemu import make_dead_qemu

from harness.cli.main import main
from harness.resources import SCENARIOS_DIR


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """A directory with a scenario of one's own, called `mine`."""
    directory = tmp_path / "checks"
    directory.mkdir()
    text = (SCENARIOS_DIR / "reclaim-basic.yaml").read_text(encoding="utf-8")
    written = text.replace("name: reclaim-basic", "name: mine")
    (directory / "mine.yaml").write_text(written, encoding="utf-8")
    return directory


def test_list_shows_them_alone(own: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "--scenarios", str(own)]) == 0
    listed = capsys.readouterr().out
    assert "mine" in listed
    assert "reclaim-partial" not in listed


def test_run_finds_their_names(
    own: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--scenarios", str(own), "--qemu", str(make_dead_qemu(tmp_path)), "--accel", "tcg"]
    assert main(["run", "mine", *words, "--results", str(tmp_path / "results")]) == 69
    assert (tmp_path / "results" / "mine").is_dir()
    assert main(["run", "reclaim-basic", *words]) == 2
    assert "scenarios are: mine" in capsys.readouterr().err


@pytest.mark.whole_command
@pytest.mark.parametrize("more", [[], ["-n", "1"]], ids=str)
def test_pytest_collects_them_where_no_path_is_named(
    own: Path, tmp_path: Path, more: list[str]
) -> None:
    words = ["--scenarios", str(own), "--qemu", str(make_dead_qemu(tmp_path)), "--accel", "tcg"]
    ended = subprocess.run(
        [sys.executable, "-m", "pytest", *words, "--results", str(tmp_path / "results"), *more],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=240.0,
    )
    assert ended.returncode == 69, ended.stdout + ended.stderr
    assert "1 MISS" in ended.stdout
    assert (tmp_path / "results" / "mine").is_dir()


@pytest.mark.parametrize("command", [["list"], ["run", "mine"]], ids=str)
@pytest.mark.parametrize(("name", "message"), [("nosuch", "not a directory"), ("empty", "no sc")])
def test_directory_without_scenarios_is_refused(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    command: list[str],
    name: str,
    message: str,
) -> None:
    (tmp_path / "empty").mkdir()
    assert main([*command, "--scenarios", str(tmp_path / name)]) == 2
    assert message in capsys.readouterr().err
