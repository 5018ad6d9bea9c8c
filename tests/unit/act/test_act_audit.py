# SPDX-License-Identifier: Apache-2.0
"""When an audit looks again: blocks that merged after the settle are nobody's failure yet."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from harness.act import audit as verb
from harness.act.session import GuestSession
from harness.record.events import Audited
from harness.scenario.steps import AuditStep
from harness.units import MIB


class Session:
    """As much of a session as an audit needs beside its looks."""

    def __init__(self, directory: Path, drained_to: int | None) -> None:
        self.directory = directory
        self.reporting_order = 9
        self.audits = 0
        self.seen = None
        self.discards_mark = 0
        self.drained_to = drained_to
        self.recorded: list[Audited] = []
        self.record = SimpleNamespace(now=lambda: 1.0, add=self.recorded.append)
        self.phases: list[str] = []
        self.vm = self.mapping = self.discards = None

    def phase(self, name: str, _detail: str = "") -> None:
        self.phases.append(name)
        self.drained_to = None


def audited(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    unreported: list[int],
    drained_to: int | None,
    *,
    held_absent: int = 0,
    suspect: int = 0,
) -> tuple[int, list[str]]:
    """What the audit recorded as unreported, and its phases; one number a look."""
    looks = iter(unreported)

    def look(_session: Any) -> Any:
        total = SimpleNamespace(free_large_resident=next(looks), held_absent=held_absent)
        report = SimpleNamespace(total=total, suspect_bytes=suspect, lost_bytes=0)
        parts = ("reading", "seen", "counters", "mapping", "discards", "discards_mark")
        return SimpleNamespace(report=report, **dict.fromkeys(parts))

    wait = SimpleNamespace(tracker=SimpleNamespace(remaining=0))
    monkeypatch.setattr(verb, "_look", look)
    monkeypatch.setattr(verb, "save_audit", lambda _path, _reading: None)
    monkeypatch.setattr(verb, "wait_settled", lambda _guest, _seconds: wait)
    session = Session(tmp_path, drained_to)
    verb.audit(cast(GuestSession, session), AuditStep())
    (event,) = session.recorded
    return event.report.total.free_large_resident, session.phases


def test_blocks_merged_since_the_settle_are_waited_for(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    found = audited(monkeypatch, tmp_path, [140 * MIB, 0], drained_to=0)
    assert found == (0, ["audit", "settle"])


def test_what_is_never_reported_is_recorded_all_the_same(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    found = audited(monkeypatch, tmp_path, [140 * MIB] * 3, drained_to=0)
    assert found == (140 * MIB, ["audit", "settle", "settle"])


@pytest.mark.parametrize(("unreported", "drained_to"), [(2 * MIB, 0), (140 * MIB, None)])
def test_one_look_is_enough_for_a_block_or_without_such_a_settle(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, unreported: int, drained_to: int | None
) -> None:
    found = audited(monkeypatch, tmp_path, [unreported], drained_to)
    assert found == (unreported, ["audit"])


@pytest.mark.parametrize("seen", [{"held_absent": 4096}, {"suspect": 4096}], ids=str)
def test_a_look_that_saw_a_loss_is_the_one_recorded(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, seen: dict[str, int]
) -> None:
    found = audited(monkeypatch, tmp_path, [140 * MIB, 0], drained_to=0, **seen)
    assert found == (140 * MIB, ["audit"])
