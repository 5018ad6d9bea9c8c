# SPDX-License-Identifier: Apache-2.0
"""Verbs of the catalogue on a real guest: what each does, leaves in the record, and measures."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from leftovers import vm_directories
from running import Running, qemus_of

pytestmark = pytest.mark.vm

SCENARIO = """\
name: every-verb
title: t
guest: {memory: 512MiB, vcpus: 1, hotplug: 128MiB}
# At order 4 the guest gives back parts of huge pages, which khugepaged may fill up.
host: {thp: never}
steps:
  - require: {command: test -d /sys/power, missing: sleep states}
  - settle: {}
  - fault_rate: {duration: 100ms}
  - fault_rate: {pages: file, duration: 100ms}
  - fault_rate: {by: thread, pages: file, duration: 100ms}
  - plug: {device: dimm, size: 128MiB}
  - churn: {size: 20%, hold: 0s}
  - unplug: {device: dimm}
  - plug: {device: virtio-mem, size: 128MiB}
  - unplug: {device: virtio-mem}
  - unplug: {device: balloon}
  - fault_rate: {by: thread, duration: 100ms}
  - plug: {device: balloon}
  - balloon: {to: 60%}
  - balloon: {to: all}
  - drain: {}
  - order: {}
  - order: {set: 4}
  - await: {until: {held_bytes: "< memory_bytes"}, deadline: 20s}
  - busy: {size: 10%, hold: 200ms, idle: 2s}
  - watch: {name: seen, duration: 9s}
  - calm: {}
  - run: {command: "echo apples=7", measures: [apples]}
  - qmp: {command: query-status}
  # What is reported during an audit cannot be judged.
  - settle: {}
  - audit: {name: last}
expect:
  apples: "== 7"
  order_read: "== 4"
  plugged_bytes: "== 0"
  ballooned_bytes: "== memory_bytes"
  seen_discarded_bytes: ">= 0.05 * memory_bytes"
  seen_reused_5s_fraction: "> 0"
  busy_rounds: ">= 2"
  console_findings: "== 0"
answer: [apples, last.held_bytes]
"""

MOVED = """\
name: moved
title: t
guest: {memory: 512MiB, vcpus: 1}
# What a move copies arrives page by page, which khugepaged may fill up to huge pages.
host: {thp: never, qemu_args: [-device, virtio-rng-pci]}
steps:
  # The device's number, which it has on both sides of a move.
  - run: {command: grep -q 0x1005 /sys/bus/pci/devices/*/device}
  - churn: {size: 30%, hold: 0s, free: half-of-blocks}
  - settle: {}
  - audit: {name: before}
  - suspend: {state: mem}
  - suspend: {state: mem, wake: rtc}
  - migrate: {cancel: true}
  - migrate: {}
  - verify: {}
  - audit: {name: moved, expect: {held_bytes: "<= 1.1 * before.held_bytes"}}
  - snapshot: {}
  - verify: {}
  - audit: {name: restored}
  - run: {command: grep -q 0x1005 /sys/bus/pci/devices/*/device}
expect:
  sleeps: "== 2"
  unslept: "== 0"
  moves: "== 3"
  held_bytes: "<= 1.1 * before.held_bytes"
  integrity_mismatched_pages: "== 0"
  held_absent_bytes: "== 0"
  console_findings: "== 0"
"""

TICKING = """\
name: ticking
title: t
guest: {memory: 256MiB, vcpus: 1, machine: microvm}
steps:
  - run:
      command: |
        # tsc-early until it is trusted.
        while grep -q tsc-early /sys/devices/system/clocksource/clocksource0/current_clocksource; do
          sleep 0.2
        done
        read -r clock </sys/devices/system/clocksource/clocksource0/current_clocksource
        case $clock in tsc | kvm-clock) echo keeps_time=1 ;; *) echo keeps_time=0 ;; esac
      measures: [keeps_time]
expect: {keeps_time: "== 1"}
"""

LACKING = """\
name: lacking
title: t
tags: [needs-hugetlb]
guest: {memory: 900GiB}
host: {backend: hugetlb}
steps: [settle: {}]
"""


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """One invocation of all, and what it printed."""
    directory = tmp_path_factory.mktemp("verbs")
    texts = {"every-verb": SCENARIO, "moved": MOVED, "ticking": TICKING, "lacking": LACKING}
    paths = []
    for name, text in texts.items():
        path = directory / f"{name}.yaml"
        path.write_text(text)
        paths.append(str(path))
    run = Running(directory / "results", ["run", "--allow-qemu-args", *paths])
    code, output = run.end(240.0)
    assert code == 0, output
    assert qemus_of(run.results) == []
    assert vm_directories(run.process.pid) == []
    return run.results, output


def measures(results: Path, scenario: str) -> dict[str, Any]:
    document = json.loads((results / "summary.json").read_text(encoding="utf-8"))
    (run,) = [run for run in document["runs"] if run["scenario"] == scenario]
    assert run["verdict"] == "PASS", run["reason"]
    found: dict[str, Any] = run["measures"]
    return found


def test_every_verb_does_what_it_says(ended: tuple[Path, str]) -> None:
    found = measures(ended[0], "every-verb")
    assert found["faults_process_base_on_per_second"] > 1000
    assert found["faults_process_file_on_per_second"] > 1000
    assert found["faults_thread_file_on_per_second"] > 1000
    assert found["faults_thread_base_off_per_second"] > 1000
    assert found["slowest_plug_seconds"] > 0
    assert found["order_refused"] == 0


def test_what_answers_the_question_stands_beside_the_verdict(ended: tuple[Path, str]) -> None:
    _results, output = ended
    assert re.search(r"PASS +every-verb +apples 7, last.held_bytes [\d.]+MiB", output)


def test_a_guest_goes_on_where_it_moves_to(ended: tuple[Path, str]) -> None:
    results, _output = ended
    assert measures(results, "moved")["moves"] == 3
    lines = (results / "results.jsonl").read_text(encoding="utf-8").splitlines()
    found = [json.loads(line) for line in lines]
    moves = [event["how"] for event in found if event["kind"] == "guest-moved"]
    assert moves == ["cancelled", "migrated", "restored"]


def test_a_microvm_has_a_clock_that_loses_nothing_on_a_busy_host(ended: tuple[Path, str]) -> None:
    assert measures(ended[0], "ticking")["keeps_time"] == 1


def test_what_the_host_lacks_is_a_skip_that_says_so(ended: tuple[Path, str]) -> None:
    _results, output = ended
    assert "1 SKIP" in output
    assert "needs-hugetlb: the host's pool has" in " ".join(output.split())
