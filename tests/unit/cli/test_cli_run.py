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
        (["--modules", "/nonexistent"], "--modules needs --kernel"),
        (["--clock", "virtual", "--accel", "kvm"], "which KVM does not do"),
        (["--image", "nosuch"], "no image is called nosuch"),
        (["--kernel", "/nonexistent"], "--kernel /nonexistent: no such file or directory"),
        (["--kernel", "/", "--modules", "/nonexistent"], "--modules /nonexistent: no such"),
        (["--kernel", "/", "--modules", "/dev/null"], "/dev/null: a character device, not a dir"),
        (["--kernel", "/", "--image", "all"], "all images would run the same kernel"),
        (["--kernel", "/", "--image", "bookworm,trixie"], "all images would run the same kernel"),
        (["--keep-failed", "-1"], "--keep-failed takes minutes"),
        (["--keep-failed", "nan"], "--keep-failed takes minutes"),
        (["--keep-failed", "inf"], "--keep-failed takes minutes"),
        (["--repeat", "99999999999"], "--repeat takes at most"),
    ],
)
def test_bad_usage(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    results = tmp_path / "results"
    assert main(["run", "reclaim-basic", "--results", str(results), *arguments]) == 2
    assert message in capsys.readouterr().err
    assert not results.exists()


def test_a_scenario_that_no_virtual_clock_suits_is_refused_before_anything_is_made(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results = tmp_path / "results"
    asked = ["run", "no-loss-isolated-plain", "--clock", "virtual", "--results", str(results)]
    assert main(asked) == 2
    assert "--clock virtual: `busy` is not valid under a virtual clock" in capsys.readouterr().err
    assert not results.exists()


def test_an_empty_word_is_no_results_directory(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["run", "reclaim-basic", "--results", ""])
    assert "names no directory" in capsys.readouterr().err


@pytest.mark.parametrize("option", ["--kernel", "--modules"])
def test_option_given_twice_is_not_the_last_one(
    capsys: pytest.CaptureFixture[str], option: str
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["run", option, "/one", option, "/two"])
    assert ended.value.code == 2
    assert "given twice, as /one and as /two" in capsys.readouterr().err
