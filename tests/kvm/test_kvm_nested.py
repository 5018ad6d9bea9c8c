# SPDX-License-Identifier: Apache-2.0
"""The harness under real KVM, without a KVM host: in a host that a QEMU emulates, SVM and all.

Each test boots that host, has the harness work in it, brings the results out and judges them here.
"""

import json
import shutil
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from catalogue import ELSEWHERE
from injection import place
from l1_host import Job, run_job
from l1_image import QEMU, HostImage, ensure_host_image

from harness.act.discover import VERBS
from harness.image.qemu_build import ensure_qemu
from harness.image.qemu_definition import load_qemus
from harness.scenario.selection import find_scenarios

pytestmark = pytest.mark.vm

Run = Callable[..., Job]

CHUNKS = (
    "backends-memfd-shared balloon-and-reporting control-driver-unbound",
    "numa-two-nodes control-reporting-off poison-inhibits reclaim-partial",
    "order-boundaries-boot-2 feature-matrix-hint-oom-statistics "
    "feature-matrix-microvm-hint-oom-statistics small-guests-256m odd-sizes-1001m",
    "disable-races-unbind forward-progress-noisy huge-pages-kept",
    "memory-hotplug-dimm no-loss-isolated-plain page-cache-retains",
    "reclaim-repeat reused-at-once hotplug-behind-reported",
)
"""The default set without reclaim-basic, which has a test of its own; so many as end in some
minutes each. How many guests run at once is the harness's own to decide there."""

FAULTS = (ELSEWHERE[1:3], ELSEWHERE[3:5], ELSEWHERE[5:])
"""Without the clean run; so many as end in some minutes each."""

HOSTS = 3
"""A crash of the emulated host says nothing about the harness: it may be tried twice more."""

TRIPLE_FAULT = "reset the machine without a message"
"""Healthy guests die of it too under the SVM that TCG emulates, and may be tried as often."""

ENDINGS = ("qemu_killed", "guest_panic", "stops_answering", "second_ctrl_c", "killed_outright")


@pytest.fixture(scope="session")
def image() -> HostImage:
    return ensure_host_image(print)


@pytest.fixture
def run(image: HostImage, tmp_path: Path) -> Run:
    """Runs a script in the host; it must have ended by itself.

    If the host's kernel crashes, the script runs again on a new host: at most `HOSTS` in all.
    """

    def run(script: str, *, seconds: float) -> Job:
        qemu = ensure_qemu(load_qemus()[QEMU], progress=print)
        for _try in range(HOSTS):
            directory = tmp_path / f"host-{len(list(tmp_path.glob('host-*')))}"
            job = run_job(script, directory, image, qemu, seconds=seconds)
            print(job.console)
            print(f"{job.seconds:.0f} s from power-on to power-off")
            if job.crash is None:
                break
            warnings.warn(f"a host crashed: {job.crash}; see {directory}", stacklevel=2)
        assert job.status is not None, (
            f"the host has crashed {HOSTS} times: {job.crash}; see {tmp_path}"
            if job.crash
            else f"it did not end in {seconds:g} s; see {directory}/l1.log"
        )
        return job

    return run


def runs_of(job: Job) -> list[dict[str, Any]]:
    """What became of each run; all were under KVM."""
    runs = json.loads((job.results / "r" / "summary.json").read_text())["runs"]
    assert {run["accel"] for run in runs} == {"kvm"}, job.console
    found: list[dict[str, Any]] = runs
    return found


def test_the_chunks_are_the_default_set() -> None:
    named = [name for chunk in CHUNKS for name in chunk.split()]
    default = find_scenarios([], VERBS)
    assert sorted([*named, "reclaim-basic"]) == sorted(scenario.name for scenario in default)


def test_auto_takes_kvm_and_memory_comes_back(run: Run) -> None:
    """The part of this that CI runs at each change."""
    job = run("fpr-harness run reclaim-basic --results /results/r", seconds=480)
    (found,) = runs_of(job)
    assert (found["verdict"], job.status) == ("PASS", 0), found["reason"]
    events = (job.results / "r" / "results.jsonl").read_text()
    assert "accelerator KVM: the guest became ready under it" in events
    assert found["measures"]["reclaimed_fraction"] > 0.9


@pytest.mark.parametrize("scenarios", CHUNKS, ids=lambda names: names.split()[0])
def test_the_default_set_passes(run: Run, scenarios: str) -> None:
    found: dict[str, tuple[str, str]] = {}
    left = scenarios.split()
    for _host in range(HOSTS):
        job = run(
            f"fpr-harness run {' '.join(left)} --accel kvm --results /results/r", seconds=1500
        )
        found |= {run["scenario"]: (run["verdict"], run["reason"]) for run in runs_of(job)}
        left = [name for name in left if TRIPLE_FAULT in found[name][1]]
        if not left:
            break
        warnings.warn(f"triple faults in {left}; they run again", stacklevel=2)
    assert {name: words for name, words in found.items() if words[0] != "PASS"} == {}
    assert found.keys() == set(scenarios.split())


def passed(job: Job) -> set[str]:
    """The tests that pytest has passed there; there must be no other."""
    suite = ElementTree.parse(job.results / "junit.xml").getroot()[0]
    cases = {case.attrib["name"]: list(case) for case in suite.iter("testcase")}
    bad = [name for name, children in cases.items() if any(c.tag != "properties" for c in children)]
    assert bad == [], job.console
    return set(cases)


PYTEST = "python3 -m pytest -q -p no:cacheprovider --junitxml /results/junit.xml"


@pytest.mark.parametrize("faults", FAULTS, ids=lambda names: names[0])
def test_injected_faults_are_found(run: Run, faults: Sequence[str]) -> None:
    """Their outcomes are kept for docs/detection.md."""
    tests = " ".join(
        f"'tests/faults/test_faults_found.py::test_fault_is_found_and_named[{name}]'"
        for name in faults
    )
    # The shell's own status is the job's, and pytest's is read from its report.
    job = run(f"{PYTEST} {tests}; cp -r build/faults /results/", seconds=1500)
    shutil.copytree(job.results / "faults", place("kvm"), dirs_exist_ok=True)
    names = passed(job)
    assert {name for name in faults if not any(f"[{name}]" in test for test in names)} == set()


def test_whatever_ends_a_run_ends_it_cleanly(run: Run) -> None:
    files = "tests/vm/test_vm_bad_luck.py tests/vm/test_vm_endings.py"
    script = f'FPR_ACCEL=kvm {PYTEST} {files} -k "{" or ".join(ENDINGS)}"'
    job = run(script, seconds=1500)
    names = passed(job)
    assert {name for name in ENDINGS if not any(name in test for test in names)} == set()
