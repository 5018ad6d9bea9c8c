# SPDX-License-Identifier: Apache-2.0
"""Writes docs/detection.md and docs/detection.json from the outcomes that `make test-faults` and
`make test-kvm` kept, and from those in docs/detection.json where a fault has not been run since.

Ends with status 1 if a fault was not found, or was not run with the sources as they are.
"""

import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

import injection
from catalogue import ELSEWHERE, FAULTS
from injection import ROOT, Injection, load_injection, source_key
from rivals import RULES

from harness.units import format_size

DOCS = ROOT / "docs"
TABLE = DOCS / "detection.json"
KERNELS = "## Broken guest kernels"
"""The heading of the section that `tests/kernels/kernel_detection.py` writes at the end."""
MARK = {True: "pass", False: "fail", None: "-"}
HOME = ""
"""The QEMU installed here, under the accelerator that `auto` takes; elsewhere has a name."""

Outcomes = dict[str, dict[str, Injection]]
"""By place, and there by the fault's name."""


def known_outcomes() -> Outcomes:
    """Of each fault at each place the outcome of the sources as they are, or else the last known.

    Places are the folders below `KEPT` and those that the table has.
    """
    written: list[dict[str, Any]] = json.loads(TABLE.read_text()) if TABLE.exists() else []
    found: Outcomes = {HOME: {}}
    for entry in written:
        place = entry.pop("place", HOME)
        del entry["found"]
        found.setdefault(place, {})[entry["name"]] = Injection(**entry)
    key = source_key()
    folders = [HOME, *sorted(path.name for path in injection.KEPT.glob("elsewhere/*"))]
    for place in folders:
        for fault in FAULTS:
            kept = load_injection(fault.name, place)
            if kept and (kept.key == key or fault.name not in found.get(place, {})):
                found.setdefault(place, {})[fault.name] = kept
    order = [fault.name for fault in FAULTS]
    return {
        place: {name: outcomes[name] for name in order if name in outcomes}
        for place, outcomes in sorted(found.items())
    }


def matrix(outcomes: Sequence[Injection]) -> Iterator[str]:
    """Fault, what was expected, what was seen, and its size."""
    yield "| layer | fault | scenario | expected | seen | injected | measured | off | s |"
    yield "|---|---|---|---|---|---:|---:|---:|---:|"
    for one in outcomes:
        sizes = "| | | "
        if one.injected_bytes is not None:
            measured = one.measured_bytes or 0
            off = abs(measured - one.injected_bytes) / one.injected_bytes
            sizes = f"| {format_size(one.injected_bytes)} | {format_size(measured)} | {off:.2%} "
        seen = one.seen if one.found else f"**{one.seen}**"
        yield (
            f"| {one.layer} | {one.name}: {one.about} | {one.scenario} | {one.expected} | {seen} "
            f"{sizes}| {one.seconds:.0f} |"
        )


def rivals(outcomes: Sequence[Injection]) -> Iterator[str]:
    """Fault, our verdict, and what each published rule would have said."""
    yield f"| fault | fpr-harness | {' | '.join(RULES)} |"
    yield "|---|---|" + "---|" * len(RULES)
    for one in outcomes:
        words = " | ".join(MARK[one.rivals.get(name)] for name in RULES)
        yield f"| {one.name}: {one.about} | {one.seen} | {words} |"


def places(outcomes: Outcomes) -> Iterator[str]:
    """Fault by QEMU and accelerator: what was seen, and how far its size was off."""
    titles = [_title(list(there.values())) for there in outcomes.values() if there]
    yield f"| fault | expected | {' | '.join(titles)} |"
    yield "|---|---|" + "---|" * len(titles)
    for fault in (fault for fault in FAULTS if fault.name in ELSEWHERE):
        expected = " ".join(filter(None, [fault.verdict, fault.cause]))
        cells = " | ".join(_cell(there.get(fault.name)) for there in outcomes.values() if there)
        yield f"| {fault.name}: {fault.about} | {expected} | {cells} |"


def _title(there: Sequence[Injection]) -> str:
    """`QEMU 5.2.0, tcg`."""
    qemus = sorted({one.qemu for one in there if one.name in ELSEWHERE and one.qemu})
    accels = sorted({one.accel for one in there if one.name in ELSEWHERE and one.accel})
    return f"QEMU {'/'.join(qemus) or 'installed'}, {'/'.join(accels)}"


def _cell(one: Injection | None) -> str:
    if one is None:
        return "-"
    if not one.found:
        return f"**{one.seen}**"
    if not one.injected_bytes:
        return one.seen
    off = abs((one.measured_bytes or 0) - one.injected_bytes) / one.injected_bytes
    return f"{one.seen}, {format_size(one.injected_bytes)} within {off:.2%}"


def document(everywhere: Outcomes, missing: Sequence[str], key: str) -> str:
    """docs/detection.md. `key`: of the sources as they are."""
    outcomes = list(everywhere[HOME].values())
    earlier = [one.name for one in outcomes if one.key != key]
    found = sum(one.found for one in outcomes)
    guests = ", ".join(sorted({f"{o.kernel} under {o.accel}" for o in outcomes if o.kernel}))
    rules = "\n".join(f"- {name}: {rule}." for name, rule in RULES.items())
    absent = f"\n\nNot run: {', '.join(missing)}." if missing else ""
    if earlier:
        which = "all" if len(earlier) == len(outcomes) else ", ".join(earlier)
        absent += f"\n\nRun with earlier sources of the harness, and not since: {which}."
    return f"""\
# What the harness was seen to find

Written by `make test-faults`. Every fault was injected into a real run ({guests}); nothing was
played back. Of {len(outcomes)} runs {found} ended with the verdict, cause, exit status and size
expected; others are in bold.{absent}

`injected` is the sum of what the preloaded object (`harness/machine/interposer.c`) logged,
`measured` the measure of the run that must equal it within 1 %, or within the three blocks that a
guest may have taken again in between.

{chr(10).join(matrix(outcomes))}

## What published checks would have said

Their rules on the samples of the same runs. They look at one number, so what is right of a fault
that they call a failure is chance: none of them names a layer or a size. `-`: the run has nothing
they could look at (it ended before memory was freed). tp-libvirt's file of settings gives its fall
and its drift as 800 MiB and 50 MiB in a guest of 4 GiB; the 80 % of the hog used here is stricter.
Our RSS is that of guest memory alone, theirs of all of QEMU: tp-qemu's 10 % is narrower here.

{rules}

{chr(10).join(rivals(outcomes))}

## On other QEMUs and under KVM

A clean run and one of every way in which a discard can go wrong between QEMU and the host's kernel,
on Debian's builds of QEMU (`make test-qemu-faults`) and under KVM in an emulated host (`make
test-kvm`); with the size of what was injected, and how far off it was measured. `-`: not run.

{chr(10).join(places(everywhere))}
"""


def main() -> int:
    everywhere, key = known_outcomes(), source_key()
    home = everywhere[HOME]
    missing = [fault.name for fault in FAULTS if fault.name not in home]
    table = [
        {**asdict(one), "found": one.found, **({"place": place} if place else {})}
        for place, there in everywhere.items()
        for one in there.values()
    ]
    TABLE.write_text(json.dumps(table, indent=1) + "\n")
    path = DOCS / "detection.md"
    _before, heading, kernels = path.read_text().partition(KERNELS)
    more = f"\n{heading}{kernels}" if heading else ""
    path.write_text(document(everywhere, missing, key) + more)
    lost = [
        f"{one.name} ({place or 'here'})"
        for place, there in everywhere.items()
        for one in there.values()
        if not one.found
    ]
    stale = [one.name for one in home.values() if one.key != key]
    found = sum(one.found for one in home.values())
    print(f"{found} of {len(FAULTS)} faults found here; see docs/detection.md")
    for word, names in (("not found as expected", lost), ("not run since a change", stale)):
        if names:
            print(f"{word}: {', '.join(names)}")
    return 1 if lost or missing or stale else 0


if __name__ == "__main__":
    sys.exit(main())
