# SPDX-License-Identifier: Apache-2.0
"""Write recorded runs as the `results.yaml` of a tmt test with `result: custom`.

https://tmt.readthedocs.io/en/stable/spec/results.html
"""

from collections.abc import Sequence
from typing import Any

import yaml

from harness.record.facts import Verdict
from harness.report.exported import ExportedRun
from harness.safe_text import safe_line

_RESULTS = {
    Verdict.PASS: "pass",
    Verdict.DONE: "info",
    Verdict.FAIL: "fail",
    Verdict.ERROR: "error",
    Verdict.MISS: "error",
    Verdict.SKIP: "skip",
}


_BAD = ("fail", "error")


def as_tmt(runs: Sequence[ExportedRun]) -> str:
    """Return the document."""
    return yaml.safe_dump([_result(run) for run in runs], sort_keys=False, allow_unicode=True)


def _result(run: ExportedRun) -> dict[str, Any]:
    summary = run.summary
    seconds = round(summary.seconds)
    known = str(summary.quarantine) if summary.quarantine is not None else ""
    result = _RESULTS[summary.verdict]
    notes = (f"{summary.outcome}: {summary.reason}", known)
    return {
        "name": f"/{safe_line(run.name)}",
        "result": "warn" if known and result in _BAD else result,
        "note": [safe_line(note) for note in notes if note],
        "duration": f"{seconds // 3600:02d}:{seconds // 60 % 60:02d}:{seconds % 60:02d}",
        # Beside results.yaml, if the results are in the test's data directory.
        "log": [f"{run.results.name}/{name}" for name in ("report.html", "results.jsonl")],
    }
