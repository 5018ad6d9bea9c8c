# SPDX-License-Identifier: Apache-2.0
"""Writes the section on broken guest kernels in docs/detection.md, and docs/detection-kernels.json,
from the outcomes that `make test-kernels` kept.

Ends with status 1 if a defect was not found, or was not run with the sources as they are.
"""

import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict

from kernel_defects import DEFECTS, Question
from kernel_trial import CLEAN, ROOT, Trial, clean_questions, load_trial, trial_key

DOCS = ROOT / "docs"
HEADING = "## Broken guest kernels"
"""The section ends the document; `tests/faults/detection.py` writes what stands before it."""

ABOUT = {defect.name: defect.about for defect in DEFECTS}


def _first_line(reason: str) -> str:
    """A cell has one line, whatever the guest's console has said."""
    return reason.partition("\n")[0].replace("|", "\\|")


def table(trials: Sequence[Trial]) -> Iterator[str]:
    """Defect, the scenario that asks, what was expected and what was seen."""
    yield "| defect | scenario | expected | seen | reason | s |"
    yield "|---|---|---|---|---|---:|"
    for one in trials:
        seen = one.seen if one.right else f"**{one.seen}**"
        reason = _first_line(one.reason)
        yield (
            f"| {one.defect}: {ABOUT[one.defect]} | {one.scenario} | {one.expected} | {seen} "
            f"| {reason} | {one.seconds:.0f} |"
        )


def clean(trials: Sequence[Trial]) -> Iterator[str]:
    """What the kernel without a defect was judged."""
    yield "| scenario | verdict | s |"
    yield "|---|---|---:|"
    for one in trials:
        seen = one.seen if one.right else f"**{one.seen}**: {_first_line(one.reason)}"
        yield f"| {one.scenario} | {seen} | {one.seconds:.0f} |"


def section(
    broken: Sequence[Trial], whole: Sequence[Trial], missing: Sequence[str], stale: Sequence[str]
) -> str:
    """The section, from its heading on."""
    on = ", ".join(sorted({f"{t.kernel} under {t.accel}, QEMU {t.qemu}" for t in broken}))
    found = sum(one.right for one in broken)
    lists = (("Not run", missing), ("Run before the latest change of the sources", stale))
    remarks = "".join(f"\n\n{words}: {', '.join(names)}." for words, names in lists if names)
    unseen = "".join(f"\n- {d.name}: {d.about}. {d.unseen}" for d in DEFECTS if d.unseen)
    unseen = f"\n\nNot to be seen from outside:\n{unseen}" if unseen else ""
    return f"""\
{HEADING}

Written by `make test-kernels`. Each kernel is Debian's source with one change
(`tests/kernels/defects/`), built and booted ({on}), and judged by the scenario whose question it
is. Of {len(broken)} runs {found} ended with the right verdict, cause and words; others are in
bold.{remarks}{unseen}

{chr(10).join(table(broken))}

The kernel of the same configuration without a defect, on the default scenarios:

{chr(10).join(clean(whole))}
"""


def main() -> int:
    wanted = [(defect.name, question) for defect in DEFECTS for question in defect.questions]
    broken, missing, stale = _kept(wanted)
    whole, *more = _kept([(CLEAN, question) for question in clean_questions()])
    missing, stale = missing + more[0], stale + more[1]
    kept = [asdict(one) for one in (*broken, *whole)]
    (DOCS / "detection-kernels.json").write_text(json.dumps(kept, indent=1) + "\n")
    document = DOCS / "detection.md"
    before = document.read_text().partition(HEADING)[0].rstrip()
    document.write_text(f"{before}\n\n{section(broken, whole, missing, stale)}")
    wrong = [one for one in (*broken, *whole) if not one.right]
    print(f"{sum(t.right for t in broken)} of {len(wanted)} kernels judged rightly; see {document}")
    for one in wrong:
        print(f"{one.defect} on {one.scenario}: {one.seen}, not {one.expected}")
    return 1 if wrong or missing or stale else 0


def _kept(wanted: Sequence[tuple[str, Question]]) -> tuple[list[Trial], list[str], list[str]]:
    """What is kept of these trials; those of which nothing is; those that the sources outdate."""
    found, missing, stale = [], [], []
    for defect, question in wanted:
        trial, name = load_trial(defect, question.scenario), f"{defect} on {question.scenario}"
        if trial is None:
            missing.append(name)
            continue
        found.append(trial)
        if trial.key != trial_key(defect, question):
            stale.append(name)
    return found, missing, stale


if __name__ == "__main__":
    sys.exit(main())
