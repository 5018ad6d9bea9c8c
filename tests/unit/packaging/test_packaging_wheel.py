# SPDX-License-Identifier: Apache-2.0
"""A wheel carries all that a run needs, and works from any directory; so does the sdist's."""

import os
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Sequence
from pathlib import Path

import pytest
from dead_qemu import make_dead_qemu

pytestmark = pytest.mark.whole_command

ROOT = Path(__file__).parents[3]
FOLDERS = {"scenarios": "harness/data/scenarios", "guest-images": "harness/data/guest-images"}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with an sdist and the wheel made from it."""
    pytest.importorskip("hatchling", reason="the build back end of requirements.lock")
    directory = tmp_path_factory.mktemp("built")
    subprocess.run(
        [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(directory), str(ROOT)],
        check=True,
        capture_output=True,
        timeout=120.0,
    )
    return directory


@pytest.fixture(scope="module")
def unpacked(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel as pip lays it out."""
    directory = tmp_path_factory.mktemp("site")
    (wheel,) = built.glob("*.whl")
    with zipfile.ZipFile(wheel) as file:
        file.extractall(directory)
    return directory


def tracked(*folders: str) -> set[str]:
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", *folders],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    )
    return {name for name in listed.stdout.split("\0") if name and (ROOT / name).exists()}


def run_from(unpacked: Path, directory: Path, arguments: Sequence[str]) -> tuple[int, str]:
    """The wheel's command in a directory, with the checkout out of sight."""
    ended = subprocess.run(
        [sys.executable, "-P", "-m", "harness", *arguments],
        cwd=directory,
        env={**os.environ, "PYTHONPATH": str(unpacked)},
        capture_output=True,
        text=True,
        check=False,
        timeout=240.0,
    )
    return ended.returncode, ended.stdout + ended.stderr


def test_wheel_has_every_scenario_definition_and_source(unpacked: Path) -> None:
    for folder, packed in FOLDERS.items():
        for name in tracked(folder):
            copy = unpacked / packed / Path(name).relative_to(folder)
            assert copy.read_bytes() == (ROOT / name).read_bytes(), name
    for name in tracked("harness"):
        assert (unpacked / name).is_file(), name
    assert (unpacked / "harness" / "py.typed").exists()


def test_wheel_has_nothing_that_is_not_the_package(unpacked: Path) -> None:
    tops = {path.name for path in unpacked.iterdir()}
    assert {top for top in tops if not top.endswith((".dist-info", ".data"))} == {"harness"}


def test_wheel_brings_the_man_page_and_completions_to_where_they_are_looked_for(
    unpacked: Path,
) -> None:
    (data,) = unpacked.glob("*.data")
    packed = {str(path.relative_to(data / "data")) for path in data.rglob("*") if path.is_file()}
    assert packed == tracked("share")
    assert "share/man/man1/fpr-harness.1" in packed


def test_sdist_is_the_repository(built: Path) -> None:
    (archive,) = built.glob("*.tar.gz")
    with tarfile.open(archive) as file:
        names = {name.partition("/")[2] for name in file.getnames()}
    assert tracked() - {".gitignore"} <= names


def test_installed_command_finds_its_own_files(unpacked: Path, tmp_path: Path) -> None:
    script = (
        "from harness.resources import *;"
        "print(SCENARIOS_DIR, IMAGES_DIR, INTERPOSER_SOURCE, sep='\\n')"
    )
    ended = subprocess.run(
        [sys.executable, "-P", "-c", script],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(unpacked)},
        capture_output=True,
        text=True,
        check=True,
        timeout=240.0,
    )
    assert all(Path(line).is_relative_to(unpacked) for line in ended.stdout.splitlines())


def test_installed_command_lists_the_catalogue_and_the_images(
    unpacked: Path, tmp_path: Path
) -> None:
    status, output = run_from(unpacked, tmp_path, ["list"])
    assert status == 0, output
    assert "reclaim-basic" in output
    status, output = run_from(unpacked, tmp_path, ["image", "list"])
    assert status == 0, output
    assert "bookworm" in output


def test_installed_command_puts_results_into_the_current_directory(
    unpacked: Path, tmp_path: Path
) -> None:
    here = tmp_path / "here"
    here.mkdir()
    words = ["run", "reclaim-basic", "--qemu", str(make_dead_qemu(tmp_path)), "--accel", "tcg"]
    status, output = run_from(unpacked, here, words)
    assert status == 69, output
    assert (here / "results" / "latest" / "results.jsonl").is_file()
    assert [path.name for path in here.iterdir()] == ["results"]
