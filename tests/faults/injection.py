# SPDX-License-Identifier: Apache-2.0
"""One fault carried out on a real run: what was injected, and what the harness made of it."""

import contextlib
import json
import os
import shlex
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from catalogue import HOLD_SECONDS, Fault
from deeds import DEEDS, addresses_of
from outcome_key import outcome_key
from rivals import rival_verdicts
from running import Running
from small_disk import small_disk

from harness.act.discover import VERBS
from harness.image.qemu_build import ensure_qemu
from harness.image.qemu_definition import load_qemus
from harness.machine.interposer import build_interposer
from harness.machine.pace import slowness
from harness.record.reader import read_events
from harness.scenario.selection import find_scenarios
from harness.units import MIB, PAGE_SIZE

ROOT = Path(__file__).parents[2]
KEPT = ROOT / "build" / "faults"
"""One JSON file for each fault: what `detection.py` writes the matrix from. In `elsewhere/NAME/`
those of other QEMUs and hosts."""

QEMU = os.environ.get("FPR_FAULTS_QEMU", "")
"""A build of `fpr-harness qemu list` to run on; empty: the QEMU installed here."""

CLOCK: Literal["real", "virtual"] = (
    "virtual" if os.environ.get("FPR_FAULTS_CLOCK") == "virtual" else "real"
)
"""The guests' clock."""

ELSEWHERE = "-".join(filter(None, [QEMU, "virtual-clock" if CLOCK == "virtual" else ""]))
"""Name of the place where this is run; empty: here, with the host's clock."""

GUEST_SECONDS = {"real": 1, "virtual": 3000}
"""Seconds of the guest that pass in one of ours, while a deed looks for memory to harm."""

EXIT_STATUS = {"PASS": 0, "FAIL": 1, "MISS": 69, "ERROR": 69}
WITHIN = 0.01
PHASE_SECONDS = 240.0
"""For a run to reach the phase a fault waits for, on a loaded host."""
RUN_SECONDS = 240.0
"""For it to end from there, or from its beginning."""
TAKEN_AGAIN = 3 * 2 * MIB
"""Blocks that the guest takes again after it has reported them are in the interposer's log and
rightly in no measure: so many are no error even where they are more than `WITHIN`. Under the
virtual clock twice as many: minutes of the guest may lie between last audit and end of a run."""


@dataclass(frozen=True)
class Injection:
    """A fault and its outcome. Sizes in bytes; None where there is nothing to compare."""

    name: str
    layer: str
    about: str
    scenario: str
    expected: str
    seen: str
    reason: str
    seconds: float
    exit_status: int
    kernel: str
    accel: str
    injected_bytes: int | None
    measured_bytes: int | None
    qemu: str = ""
    rivals: dict[str, bool | None] = field(default_factory=dict)
    key: str = ""
    """Of the sources: an outcome is good for as long as nothing changes."""

    @property
    def found(self) -> bool:
        """With the right verdict, cause, exit status and size."""
        right = self.seen == self.expected
        right &= self.exit_status == EXIT_STATUS[self.expected.split()[0]]
        if self.injected_bytes is not None:
            right &= self.injected_bytes > 0 and self.right_size
        return right

    @property
    def right_size(self) -> bool:
        """What was measured is what was injected; True where there is nothing to compare."""
        if self.injected_bytes is None:
            return True
        off = abs((self.measured_bytes or 0) - self.injected_bytes)
        again = TAKEN_AGAIN * (2 if "virtual" in self.accel else 1)
        return off <= max(WITHIN * self.injected_bytes, again)


def inject(fault: Fault, directory: Path) -> Injection:
    """Run the fault's scenario with the fault in it."""
    options = list(fault.options)
    options += ["--clock", CLOCK]
    if fault.churn is not None:
        hold = HOLD_SECONDS * slowness() * GUEST_SECONDS[CLOCK]
        options += ["--set", f"steps[{fault.churn}].churn.hold={hold:.0f}s"]
    if not fault.discard and QEMU:
        options += ["--qemu", QEMU]
    if fault.discard:
        options += ["--qemu", str(_broken_qemu(fault, directory))]
    scenario = _scenario(fault)
    with _place(fault, directory) as place:
        run = Running(place / "results", ["run", scenario, *options])
        try:
            _harm(fault, run, directory)
        finally:
            status, output = run.end(RUN_SECONDS)
        print(output)
        try:
            summary = run.summary()
        except FileNotFoundError:
            summary = _last_words(run)  # the disk was full
        events = [event for _run, event in read_events(run.results / "results.jsonl")]
    # Failures are counted by the call, all else is there or not.
    once = fault.measure != "failed_discard_bytes"
    touched = _touched(directory, once=once) if fault.discard else None
    assert touched != 0, "the fault was never reached"
    return Injection(
        name=fault.name,
        layer=fault.layer,
        about=fault.about,
        scenario=fault.scenario,
        expected=" ".join(filter(None, [fault.verdict, fault.cause])),
        seen=" ".join(filter(None, [summary["verdict"], summary.get("cause")])),
        reason=summary["reason"],
        seconds=round(summary.get("seconds", 0.0), 1),
        exit_status=status,
        kernel=summary.get("kernel", ""),
        accel=summary.get("accel", "") + (", virtual clock" if CLOCK == "virtual" else ""),
        qemu=summary.get("qemu", ""),
        injected_bytes=touched if fault.measure else None,
        measured_bytes=summary["measures"].get(fault.measure) if fault.measure else None,
        rivals={rival.rival: rival.passed for rival in rival_verdicts(events)},
        key=source_key(),
    )


def _scenario(fault: Fault) -> str:
    """Its scenario's name, or the path of a file of its own."""
    own = Path(__file__).parent / "broken" / f"{fault.scenario}.yaml"
    return str(own) if own.exists() else fault.scenario


def refused(fault: Fault) -> str:
    """Why the fault's scenario is not valid under `CLOCK`; empty if it is."""
    (scenario,) = find_scenarios([_scenario(fault)], VERBS)
    return scenario.not_under(CLOCK)


@contextlib.contextmanager
def _place(fault: Fault, directory: Path) -> Iterator[Path]:
    if fault.deed == "fill_the_disk":
        with small_disk(directory / "disk", "64m") as disk:
            yield disk
    else:
        yield directory


def _harm(fault: Fault, run: Running, directory: Path) -> None:
    if fault.deed:
        run.wait_for_phase(fault.at, PHASE_SECONDS)
        DEEDS[fault.deed](run)
    if fault.discard:
        text = ""
        if fault.where:
            run.wait_for_phase("hold", PHASE_SECONDS)
            low, high = addresses_of(run, fault.where)
            text = f"{low:x} {high:x}\n"
        (directory / "begin.new").write_text(text)
        run.wait_for_phase(fault.at, PHASE_SECONDS)
        (directory / "begin.new").rename(directory / "begin")


def _broken_qemu(fault: Fault, directory: Path) -> Path:
    """A QEMU that is broken once `directory/begin` exists, and logs to `directory/touched`."""
    real = str(ensure_qemu(load_qemus()[QEMU])) if QEMU else shutil.which("qemu-system-x86_64")
    assert real is not None
    settings = {
        "LD_PRELOAD": build_interposer(),
        "FPR_DISCARD": fault.discard,
        "FPR_DISCARD_LOG": directory / "touched",
        "FPR_DISCARD_FROM": directory / "begin",
    }
    words = " ".join(f"{key}={shlex.quote(str(value))}" for key, value in settings.items())
    wrapper = directory / "qemu-system-x86_64"
    wrapper.write_text(f'#!/bin/sh\n{words} exec {shlex.quote(real)} "$@"\n')
    wrapper.chmod(0o755)
    return wrapper


def _touched(directory: Path, *, once: bool) -> int:
    """Bytes of all the discards that the interposer changed.

    With `once` those of a block that the guest reported again count once: it is one block.
    """
    pages: set[int] = set()
    total = 0
    for line in (directory / "touched").read_text().splitlines():
        address, length = (int(word, 16) for word in line.split()[1:])
        pages.update(range(address // PAGE_SIZE, (address + length) // PAGE_SIZE))
        total += length
    return len(pages) * PAGE_SIZE if once else total


def _last_words(run: Running) -> dict[str, Any]:
    judged: list[dict[str, Any]] = [e for e in run.events() if e["kind"] == "judged"]
    return judged[-1]


def source_key() -> str:
    """Changes with whatever an outcome depends on in this tree."""
    return outcome_key([ROOT / "scenarios", ROOT / "tests" / "faults"])


def place(elsewhere: str = ELSEWHERE) -> Path:
    """Where outcomes are kept: `KEPT`, or a folder of it for another QEMU or host."""
    return KEPT / "elsewhere" / elsewhere if elsewhere else KEPT


def load_injection(name: str, elsewhere: str = ELSEWHERE) -> Injection | None:
    """What is kept of a fault, if anything."""
    path = place(elsewhere) / f"{name}.json"
    return Injection(**json.loads(path.read_text())) if path.exists() else None


def keep(injection: Injection) -> None:
    """Keep it for the matrix; whole or not at all."""
    place().mkdir(parents=True, exist_ok=True)
    path = place() / f"{injection.name}.json"
    path.with_suffix(".new").write_text(json.dumps(asdict(injection), indent=2) + "\n")
    path.with_suffix(".new").replace(path)
