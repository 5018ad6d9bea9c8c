# SPDX-License-Identifier: Apache-2.0
"""What `show` says of a scenario."""

from pathlib import Path

import pytest

from harness.cli.main import main

TEXT = """\
name: mine
title: Memory goes back
about: |
  Seen there.
reference: https://example.org/1
tags: [full, control]
guest: {memory: 2GiB}
steps:
  - churn: {size: 50%}
  - settle: {deadline: 9s}
  - audit: {name: after, expect: {lazyfree_bytes: "== 0"}}
expect: {reclaimed_bytes: ">= 0.9 * freed_bytes"}
answer: [settle_seconds]
red: {balloon.free_page_reporting: false}
"""


@pytest.fixture
def own(tmp_path: Path) -> list[str]:
    (tmp_path / "mine.yaml").write_text(TEXT)
    (tmp_path / "other.yaml").write_text("name: other\ntitle: t\nsteps: [settle: {}]\n")
    return ["--scenarios", str(tmp_path)]


def test_question_steps_and_expectations_are_told(
    own: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["show", "mine", *own]) == 0
    told = capsys.readouterr().out
    for words in (
        "mine: Memory goes back\n",
        "  Seen there.\n",
        "reference           https://example.org/1\n",
        "tags                full control\n",
        "guest               2GiB, 2 vCPUs\n",
        "1. churn size 50%\n",
        "                    3. audit after\n",
        "after: lazyfree_bytes == 0\n",
        "reclaimed_bytes >= 0.9 * freed_bytes\n",
        "always checked      ",
        "answers with        settle_seconds\n",
        "must not pass with  balloon.free_page_reporting: false\n",
    ):
        assert words in told, words


def test_several_are_shown_one_after_another(
    own: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["show", "*", *own]) == 0
    told = capsys.readouterr().out
    assert told.index("mine: ") < told.index("\n\nother: t\n")
    assert "expects             nothing; it only measures" in told


def test_an_unknown_name_is_bad_usage(own: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", "mime", *own]) == 2
    assert "did you mean 'mine'" in capsys.readouterr().err
