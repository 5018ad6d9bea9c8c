# SPDX-License-Identifier: Apache-2.0
"""`fpr-harness run` refuses what cannot be meant before it makes anything."""

from pathlib import Path

import pytest

from harness.cli.main import main


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--jobs", "0"], "at least 1"),
        (["--repeat", "-1"], "at least 1"),
        (["--modules", "/nonexistent"], "--modules goes with --kernel"),
        (["--image", "nosuch"], "no image is called nosuch"),
    ],
)
def test_bad_usage(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    results = tmp_path / "results"
    assert main(["run", "reclaim-basic", "--results", str(results), *arguments]) == 2
    assert message in capsys.readouterr().err
    assert not results.exists()
