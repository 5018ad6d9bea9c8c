# SPDX-License-Identifier: Apache-2.0
"""Discards broken on the real path are found on real guests, named by their layer, and measured.

A preloaded interposer breaks QEMU's discards once the scenario begins to free; what it logs is what
the harness must find.
"""

import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

sys.path.append(str(Path(__file__).parents[1] / "vm"))
from running import Running

from harness.units import KIB, MIB

pytestmark = pytest.mark.vm

SOURCE = Path(__file__).with_name("interposer.c")
BLOCK = 2 * MIB


@dataclass(frozen=True)
class Fault:
    """A fault of the catalogue, and what the harness must make of it."""

    name: str
    scenario: str
    cause: str | None
    measure: str = ""
    """The measure that must equal what the interposer logged."""


FAULTS = [
    Fault("swallow-one-of=2", "reclaim-basic", "acked-not-discarded", "reported_resident_bytes"),
    Fault(f"neighbour={4 * KIB}", "reclaim-partial", "data-loss"),
    Fault("lazily", "reclaim-basic", "lazily-free", "lazyfree_bytes"),
]
MORE_FAULTS = [
    Fault("swallow", "reclaim-basic", "acked-not-discarded", "reported_resident_bytes"),
    Fault("errno=12", "reclaim-basic", "acked-not-discarded", "failed_discard_bytes"),
    Fault("repopulate", "reclaim-basic", "acked-not-discarded", "reported_resident_bytes"),
    Fault("swallow-length=4194304", "reclaim-basic", "acked-not-discarded"),
    Fault("delay-ms=20", "reclaim-basic", None),
]


@pytest.fixture(scope="session")
def interposer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    library = tmp_path_factory.mktemp("interposer") / "interposer.so"
    flags = ["-shared", "-fPIC", "-O2", "-Wall", "-Wextra", "-Werror"]
    subprocess.run(["cc", *flags, "-o", str(library), str(SOURCE), "-ldl"], check=True)
    return library


def qemu_with(interposer: Path, fault: Fault, directory: Path) -> Path:
    """A QEMU that is broken once `directory/begin` exists, and logs to `directory/faults`."""
    real = shutil.which("qemu-system-x86_64")
    assert real is not None
    settings = {
        "LD_PRELOAD": interposer,
        "FPR_FAULT": fault.name,
        "FPR_FAULT_LOG": directory / "faults",
        "FPR_FAULT_AT": directory / "begin",
    }
    words = " ".join(f"{key}={shlex.quote(str(value))}" for key, value in settings.items())
    wrapper = directory / "qemu-system-x86_64"
    wrapper.write_text(f'#!/bin/sh\n{words} exec {shlex.quote(real)} "$@"\n')
    wrapper.chmod(0o755)
    return wrapper


def injected(interposer: Path, fault: Fault, directory: Path) -> tuple[dict[str, Any], list[int]]:
    """The run's summary, and the length of each discard the fault has touched."""
    qemu = qemu_with(interposer, fault, directory)
    run = Running(directory / "results", ["run", fault.scenario, "--qemu", str(qemu)])
    run.wait_for_phase("free")
    (directory / "begin").touch()
    code, output = run.end()
    summary = run.summary()
    print(output)
    assert code == (1 if fault.cause else 0), output
    lines = (directory / "faults").read_text().splitlines()
    return summary, [int(line.split()[2], 16) for line in lines]


@pytest.mark.parametrize(
    "fault",
    [*FAULTS, *(pytest.param(fault, marks=pytest.mark.more_faults) for fault in MORE_FAULTS)],
    ids=lambda fault: f"{fault.name}-{fault.scenario}",
)
def test_fault_is_found_and_named(interposer: Path, fault: Fault, tmp_path: Path) -> None:
    summary, touched = injected(interposer, fault, tmp_path)
    assert touched, "the fault was never reached"
    assert summary["cause"] == fault.cause, summary["reason"]
    if fault.measure:
        assert summary["measures"][fault.measure] == pytest.approx(sum(touched), rel=0.01)
