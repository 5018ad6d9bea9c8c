# SPDX-License-Identifier: Apache-2.0
"""Each way of pressing lazily freed memory out of a real QEMU takes it, or says why it cannot."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from running import Running

from harness.machine.cgroup import memory_file
from harness.resources import SCENARIOS_DIR

pytestmark = pytest.mark.vm


def scenario_by(way: str, directory: Path) -> Path:
    """The project's scenario, pressing by one way only."""
    text = (SCENARIOS_DIR / "madv-free-pressure.yaml").read_text()
    text = text.replace("pressure: {}", f"pressure: {{by: {way}}}")
    path = directory / "madv-free-pressure.yaml"
    path.write_text(text)
    return path


def can(way: str) -> bool:
    """Whether this host should be able to, by another look than the harness's own."""
    charge = memory_file(os.getpid())
    match way:
        case "process-madvise":
            return os.geteuid() == 0
        case "cgroup-reclaim":
            return charge is not None and os.access(charge.with_name("memory.reclaim"), os.W_OK)
        case _:
            return charge is not None and os.access(
                charge.parent / "memory.limit_in_bytes", os.W_OK
            )


@pytest.mark.parametrize("way", ["process-madvise", "cgroup-reclaim", "cgroup-limit"])
def test_what_is_lazily_free_goes_under_pressure(way: str, tmp_path: Path) -> None:
    run = Running(tmp_path / "results", ["run", str(scenario_by(way, tmp_path))])
    code, output = run.end()
    summary = run.summary()
    if not can(way):
        assert (code, summary["verdict"]) == (77, "SKIP"), output
        assert way in summary["reason"]
        return
    assert (code, summary["verdict"]) == (0, "PASS"), output
    pressed = next(event for event in run.events() if event["kind"] == "pressed")
    assert pressed["by"] == way
    lazy = pressed["before"]["lazyfree"]
    assert lazy > 64 << 20
    assert summary["measures"]["pressed_bytes"] == pytest.approx(lazy, rel=0.05)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has a capability to lose")
def test_without_the_right_to_press_it_is_a_skip_that_says_so(tmp_path: Path) -> None:
    without = ["setpriv", "--bounding-set=-sys_nice", "--inh-caps=-sys_nice", "--"]
    words = [*without, sys.executable, "-m", "harness", "run"]
    ended = subprocess.run(
        [*words, str(scenario_by("process-madvise", tmp_path)), "--results", f"{tmp_path}/results"],
        capture_output=True,
        text=True,
        timeout=90.0,
        check=False,
    )
    assert ended.returncode == 77, ended.stdout + ended.stderr
    output = " ".join(ended.stdout.split())
    assert "CAP_SYS_NICE" in output
    assert "run as root" in output
