# SPDX-License-Identifier: Apache-2.0
"""The findings of a run are recorded with the lines of the sources, if those can be told."""

from pathlib import Path
from typing import Any

import pytest

from harness.act.run_record import RunRecord
from harness.errors import ImageError
from harness.image.build import BootFiles
from harness.image.kernel_stacks import DebugFiles
from harness.record.events import AttemptCrashed, ConsoleFinding, StackDecoded
from harness.record.told_findings import told_findings
from harness.run import decoding
from harness.run.decoding import MOST_DECODED, decode_stacks

BOOT = BootFiles("an-image", Path("k"), Path("i"), "6.13.0", "digest", Path("m"))
WARNING = ConsoleFinding(1.0, "warning", "WARNING in f", "WARNING\n f+0x1/0x2")
CRASH = AttemptCrashed(2.0, 1, "tcg", "BUG: g", " g+0x1/0x2")


def a_record(*events: Any) -> RunRecord:
    record = RunRecord(lambda _event: None)
    for event in events:
        record.add(event)
    return record


@pytest.fixture
def decoder(monkeypatch: pytest.MonkeyPatch) -> None:
    files = DebugFiles(Path("vmlinux"), None, None)
    monkeypatch.setattr(DebugFiles, "of", lambda *_: files)
    monkeypatch.setattr(
        decoding, "decode", lambda text, _files: text.replace("+0x1/0x2", " (mm/x.c:3)")
    )


@pytest.mark.usefixtures("decoder")
def test_what_the_run_tells_has_the_lines() -> None:
    record = a_record(WARNING, CRASH)
    decode_stacks(record, BOOT, Path("linux"))
    assert [(told.severity, told.text) for told in told_findings(record.events)] == [
        ("warning", "WARNING\n f (mm/x.c:3)"),
        ("crash", " g (mm/x.c:3)"),
    ]


def test_a_crash_of_the_boot_is_told_once() -> None:
    same = ConsoleFinding(2.0, "crash", CRASH.title, CRASH.text)
    assert told_findings([same, CRASH]) == (same,)


@pytest.mark.usefixtures("decoder")
def test_a_kernel_of_an_image_and_a_flood_of_findings_cost_little() -> None:
    record = a_record(WARNING)
    decode_stacks(record, BOOT, None)
    assert record.events == [WARNING]
    many = [ConsoleFinding(1.0, "warning", f"W {n}", " f+0x1/0x2") for n in range(50)]
    record = a_record(*many)
    decode_stacks(record, BOOT, Path("linux"))
    assert len([e for e in record.events if isinstance(e, StackDecoded)]) == MOST_DECODED


def test_without_debug_information_all_stays_as_it_was(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: object) -> DebugFiles:
        raise ImageError("there is no vmlinux beside linux/bzImage")

    monkeypatch.setattr(DebugFiles, "of", refuse)
    record = a_record(WARNING)
    decode_stacks(record, BOOT, Path("linux"))
    assert record.events == [WARNING]
    assert "not decoded: there is no vmlinux beside" in caplog.text


@pytest.mark.usefixtures("decoder")
def test_a_decoder_that_fails_costs_the_lines_alone(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object) -> str:
        raise UnicodeDecodeError("utf-8", b"\xff", 0, 1, "a file's name")

    monkeypatch.setattr(decoding, "decode", fail)
    record = a_record(WARNING)
    decode_stacks(record, BOOT, Path("linux"))
    assert record.events == [WARNING]
    assert "UnicodeDecodeError" in caplog.text
