# SPDX-License-Identifier: Apache-2.0
"""Every kind of broken reclaim is found on real guests, named by its layer, and measured.

`make test-faults` runs them all, keeps each outcome, and after an interruption goes on where it
stopped; `make test` runs one for each layer, `make test-qemu-faults` one of each kind on other
QEMUs. With FPR_FAULTS_CLOCK=virtual the guests have a virtual clock, and faults whose scenario is
not valid under it are skipped.
"""

import os
from pathlib import Path

import pytest
from catalogue import ELSEWHERE, FAULTS, Fault
from injection import inject, keep, load_injection, refused, source_key

pytestmark = pytest.mark.vm

RESUME = os.environ.get("FPR_FAULTS_RESUME") == "1"


def marks_of(fault: Fault) -> list[pytest.MarkDecorator]:
    marks = [] if fault.quick else [pytest.mark.more_faults]
    return [*marks, pytest.mark.elsewhere] if fault.name in ELSEWHERE else marks


@pytest.mark.parametrize(
    "fault", [pytest.param(fault, id=fault.name, marks=marks_of(fault)) for fault in FAULTS]
)
def test_fault_is_found_and_named(fault: Fault, tmp_path: Path) -> None:
    if why := refused(fault):
        pytest.skip(why)
    kept = load_injection(fault.name) if RESUME else None
    if kept is not None and kept.found and kept.key == source_key():
        return
    seen = inject(fault, tmp_path)
    keep(seen)
    assert seen.seen == seen.expected, seen.reason
    assert fault.says in seen.reason
    assert seen.right_size, (seen.injected_bytes, seen.measured_bytes)
    assert seen.found, f"exit status {seen.exit_status}"
