# SPDX-License-Identifier: Apache-2.0
"""docs/detection.md says what was seen, where, and with which sources."""

import json
from dataclasses import replace
from pathlib import Path

import detection
import injection
import pytest
from detection import HOME, document, known_outcomes
from injection import Injection, keep, source_key

from harness.units import MIB

SEEN = Injection(
    name="swallow-half",
    layer="host",
    about="every second discard does nothing",
    scenario="reclaim-basic",
    expected="FAIL acked-not-discarded",
    seen="FAIL acked-not-discarded",
    reason="",
    seconds=30.0,
    exit_status=1,
    kernel="6.1.0",
    accel="tcg",
    qemu="7.2.22",
    injected_bytes=200 * MIB,
    measured_bytes=199 * MIB,
    key="earlier",
)
MISSED = replace(SEEN, seen="PASS", exit_status=0, qemu="5.2.0")


@pytest.fixture(autouse=True)
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(detection, "TABLE", tmp_path / "detection.json")
    monkeypatch.setattr(injection, "KEPT", tmp_path / "faults")
    return tmp_path


def written(*entries: Injection) -> None:
    rows = [{**vars(one), "found": one.found} for one in entries]
    detection.TABLE.write_text(json.dumps(rows))


def kept(one: Injection, elsewhere: str = "") -> None:
    keep(one)
    if elsewhere:
        target = injection.KEPT / "elsewhere" / elsewhere
        target.mkdir(parents=True, exist_ok=True)
        (injection.KEPT / f"{one.name}.json").rename(target / f"{one.name}.json")


def row(text: str, fault: str) -> str:
    """The fault's row in the last table."""
    return next(line for line in reversed(text.splitlines()) if line.startswith(f"| {fault}:"))


def test_what_was_seen_with_the_sources_as_they_are_replaces_what_stands_there() -> None:
    written(SEEN)
    assert known_outcomes()[HOME] == {"swallow-half": SEEN}
    kept(replace(MISSED, key="of some other day"))
    assert known_outcomes()[HOME] == {"swallow-half": SEEN}
    kept(replace(MISSED, key=source_key()))
    assert known_outcomes()[HOME]["swallow-half"].seen == "PASS"


def test_each_place_is_a_column_and_a_fault_that_was_not_found_there_is_in_bold() -> None:
    written(SEEN)
    kept(MISSED, "bullseye")
    kept(replace(SEEN, accel="kvm", qemu="11.1.3", measured_bytes=200 * MIB), "kvm")
    text = document(known_outcomes(), [], source_key())
    assert "| fault | expected | QEMU 7.2.22, tcg | QEMU 5.2.0, tcg | QEMU 11.1.3, kvm |" in text
    assert row(text, "swallow-half").endswith(
        "| FAIL acked-not-discarded, 200MiB within 0.50% | **PASS** "
        "| FAIL acked-not-discarded, 200MiB within 0.00% |"
    )
    assert row(text, "neighbour").endswith("| FAIL data-loss | - | - | - |")


def test_what_was_run_with_earlier_sources_is_named() -> None:
    written(SEEN)
    text = document(known_outcomes(), ["panic"], source_key())
    assert "Run with earlier sources of the harness, and not since: all." in text
    assert "Not run: panic." in text
    assert "earlier sources" not in document(known_outcomes(), [], SEEN.key)
