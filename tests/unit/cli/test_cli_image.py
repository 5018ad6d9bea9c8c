# SPDX-License-Identifier: Apache-2.0
"""`fpr-harness image`: what is built, and what else the archive holds."""

from pathlib import Path

import pytest
from recorded_archive import RecordedArchive

from harness.cli.main import main
from harness.errors import UNAVAILABLE, USAGE


@pytest.fixture(autouse=True)
def apt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RecordedArchive:
    return RecordedArchive.in_place_of_apt(tmp_path, monkeypatch)


def test_every_image_is_listed_whether_built_or_not(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["image", "list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines if line.endswith("not built")] == [
        line.split()[0] for line in lines
    ]
    assert any(line.startswith("trixie-backports ") for line in lines)


def test_builds_are_listed_as_image_calls_them(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["image", "list", "--builds", "--image", "trixie"]) == 0
    said = capsys.readouterr()
    lines = said.out.splitlines()
    assert lines[0].split() == [
        "trixie=6.12.90-1",
        "linux-image-6.12.90+deb13-cloud-amd64",
        "6.12.90-1",
        "trixie-security",
    ]
    assert lines[-1].startswith("trixie=7.3.4 ")
    assert not any("=7.1.7" in line for line in lines)
    assert "no longer has all packages of" in said.err
    assert "7.1.7" in said.err


@pytest.mark.parametrize(
    ("image", "status", "told"),
    [
        ("trixie=6.12.102", UNAVAILABLE, "it has 6.12.90, 6.12.94"),
        ("trixie=7.1.7", UNAVAILABLE, "no longer linux-base-7.1.7+deb13-cloud-amd64"),
        ("bookwrm=6.1.180", UNAVAILABLE, "does not serve the suite bookwrm"),
        ("bookworm=new", USAGE, "'new' is not the version of a kernel"),
        ("bookwrm", USAGE, "no image is called bookwrm"),
    ],
)
def test_what_cannot_be_had_is_one_message(
    capsys: pytest.CaptureFixture[str], image: str, status: int, told: str
) -> None:
    assert main(["image", "build", "--image", image]) == status
    said = capsys.readouterr().err
    assert told in said
    assert "What to do:" in said
