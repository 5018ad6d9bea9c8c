# SPDX-License-Identifier: Apache-2.0
"""Text of guests, files and names reaches no sink as it is."""

import io
import unicodedata
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from recorded_runs import READY, started

from harness.cli.main import main
from harness.record.events import Broke, Event, Judged
from harness.record.facts import Verdict
from harness.report.junit import write_junit
from harness.report.progress import ProgressView
from harness.report.summary import build_summary
from harness.report.terminal import print_table
from harness.safe_text import safe_line, safe_text

NASTY = "6.1\x1b[2J\x9b31m\u202egpj\r\n| PASS |\x07\x00\ud800\u2028end"


def is_harmless(text: str, *, ends: str = "\n") -> bool:
    return not [
        char for char in text if unicodedata.category(char)[0] in "CZ" and char not in f" {ends}"
    ]


@settings(deadline=None)
@given(st.text(st.characters(codec=None)) | st.just(NASTY))
def test_what_is_left_steers_nothing(text: str) -> None:
    assert is_harmless(safe_text(text))
    assert is_harmless(safe_line(text), ends="")


def test_plain_text_stays_as_it_is() -> None:
    for text in ("", "reclaim-basic[bookworm]", "Übung 2 µs – ½ · 漢字"):
        assert safe_text(text) == safe_line(text) == text
    assert safe_text("a\n\tb") == "a\n        b"
    assert safe_line(" a\n\tb ") == "a b"


def nasty_run() -> list[tuple[str, Event]]:
    return [
        ("nasty" + NASTY, replace(started(NASTY), image=NASTY)),
        ("nasty" + NASTY, replace(READY, kernel=NASTY, qemu=NASTY)),
        ("nasty" + NASTY, Broke(2.0, "GuestError", Verdict.ERROR, NASTY, NASTY)),
        ("nasty" + NASTY, Judged(3.0, Verdict.ERROR, None, NASTY, {})),
    ]


def test_table_and_progress(tmp_path: Path) -> None:
    out = io.StringIO()
    with ProgressView(file=out, live=False) as view:
        for run_id, event in nasty_run():
            view.feed(run_id, event)
        view.note(NASTY)
    print_table(build_summary(nasty_run()), tmp_path / "a\x1bb", out)
    assert is_harmless(out.getvalue()), repr(out.getvalue())
    assert "PASS" in out.getvalue()


def test_junit(tmp_path: Path) -> None:
    write_junit(nasty_run(), tmp_path / "junit.xml")
    (case,) = ElementTree.parse(tmp_path / "junit.xml").iter("testcase")
    for element in case.iter():
        for value in element.attrib.values():
            assert is_harmless(value, ends=""), value
        assert is_harmless(element.text or "")


@pytest.mark.parametrize("words", [["run", "a\x1b[2J"], ["run", "/tmp/a\x1b[2J.yaml"]])
def test_messages_of_errors(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 2
    assert is_harmless(capsys.readouterr().err)


def test_names_of_fields_in_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "a.yaml"
    path.write_text('name: a\ntitle: t\n"\\e[2Jfield": 1\nguest: {"\\e]0;x\\a": 1}\n')
    assert main(["run", str(path)]) == 2
    told = capsys.readouterr().err
    assert "field" in told
    assert is_harmless(told)
