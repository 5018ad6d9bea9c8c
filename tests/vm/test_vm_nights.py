# SPDX-License-Identifier: Apache-2.0
"""A night's patience with real guests: tried again, and in quarantine."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
from holding import ACCEL, holding_scenario
from leftovers import vm_directories
from running import Running, qemus_of
from short_scenario import short_scenario

pytestmark = pytest.mark.vm

FAILING = """\
name: failing
title: Asks memory of a guest that is not to report any
guest: {memory: 256MiB, vcpus: 1}
balloon: {free_page_reporting: false}
steps: [churn: {size: 20%, hold: 0s}, settle: {}, audit: {}]
expect: {reclaimed_fraction: ">= 0.5"}
"""

QUARANTINE = """\
quarantine:
  - scenario: fail*
    kernel: "*-amd64"
    owner: Ada Lovelace <ada@example.org>
    link: https://bugs.example.org/1
    expires: 9999-12-31
"""


@pytest.fixture
def killed_once(tmp_path: Path) -> Iterator[Running]:
    """A run that may be tried again, and whose first QEMU is killed in the middle."""
    words = ["run", str(holding_scenario(tmp_path)), "--accel", ACCEL, "--retry", "1"]
    run = Running(tmp_path / "results", words)
    try:
        run.wait_for_phase("hold")
        os.kill(run.qemu_pid(), signal.SIGKILL)
        yield run
    finally:
        if run.process.poll() is None:
            os.killpg(run.process.pid, signal.SIGKILL)
            run.process.communicate()


def test_a_run_whose_qemu_was_killed_passes_on_a_new_vm_and_tells_of_it(
    killed_once: Running,
) -> None:
    code, output = killed_once.end(180.0)
    assert code == 0, output
    summary = killed_once.summary()
    assert (summary["verdict"], summary["attempts"]) == ("PASS", 2)
    assert "QEMU" in summary["reason"]
    (broke,) = [e for e in killed_once.events() if e["kind"] == "attempt-broke"]
    assert broke["attempt"] == 1
    first, last = killed_once.results / "holding" / "attempt-1", killed_once.results / "holding"
    for directory in (first, last):
        assert "Linux version" in (directory / "console.log").read_text(errors="replace")
    assert (first / "console.log").read_bytes() != (last / "console.log").read_bytes()
    assert qemus_of(killed_once.results) == []
    assert vm_directories(killed_once.process.pid) == []


def test_a_failure_is_not_tried_again_and_in_quarantine_does_not_fail_the_night(
    tmp_path: Path,
) -> None:
    (tmp_path / "failing.yaml").write_text(FAILING)
    (tmp_path / "quarantine.yaml").write_text(QUARANTINE)
    both = [short_scenario(tmp_path), str(tmp_path / "failing.yaml")]
    words = ["--accel", ACCEL, "--retry", "2", "--quarantine", str(tmp_path / "quarantine.yaml")]
    run = Running(tmp_path / "results", ["run", *both, *words])
    code, output = run.end(180.0)
    assert code == 0, output
    assert "Ada Lovelace" in output
    judged = {e["run"]: e["verdict"] for e in run.events() if e["kind"] == "judged"}
    assert judged == {"short": "PASS", "failing": "FAIL"}
    assert [e for e in run.events() if e["kind"] == "attempt-broke"] == []
    cases = {
        case.get("name"): case for case in ET.parse(run.results / "junit.xml").iter("testcase")
    }
    (known,) = (case for name, case in cases.items() if name and name.startswith("failing"))
    assert known.find("failure") is None
    skipped = known.find("skipped")
    assert skipped is not None
    assert "https://bugs.example.org/1" in skipped.get("message", "")
