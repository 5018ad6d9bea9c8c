# SPDX-License-Identifier: Apache-2.0
"""Write recorded runs as a report for KCIDB, the database of kernel test results.

Schema 5.3 of https://github.com/kernelci/kcidb-io; the verdict words of this harness are its own.
"""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from harness import __version__
from harness.measure.measures import unit_of
from harness.measure.terms import Unit
from harness.report.exported import ExportedRun
from harness.report.summary import plain_number
from harness.safe_text import safe_line, safe_text

VERSION = {"major": 5, "minor": 3}

MOST_EXCERPT = 16384
"""Characters of `log_excerpt`, of the schema."""

_NOT_IN_PATHS = re.compile(r"[^a-zA-Z0-9_-]")

_UNITS = {Unit.BYTES: ("B", "binary"), Unit.SECONDS: ("s", "metric")}


def as_kcidb(runs: Sequence[ExportedRun], origin: str) -> str:
    """Return the document. `origin` is the CI system's name in KCIDB."""
    checkouts: dict[str, dict[str, Any]] = {}
    builds: dict[str, dict[str, Any]] = {}
    tests = []
    for run in runs:
        # The same build of a kernel has the same ID in each report.
        kernel = _id(origin, run.summary.kernel or run.summary.image, run.build, run.commit)
        checkouts[kernel] = _checkout(run, kernel, origin)
        builds[kernel] = _build(run, kernel, origin)
        tests.append(_test(run, kernel, origin))
    document = {
        "version": VERSION,
        "checkouts": list(checkouts.values()),
        "builds": list(builds.values()),
        "tests": tests,
    }
    return json.dumps(document, indent=1) + "\n"


def _id(origin: str, *parts: str) -> str:
    digest = hashlib.sha256("\0".join(parts).encode("utf-8", "surrogatepass")).hexdigest()
    return f"{origin}:fpr-harness-{digest[:32]}"


def _checkout(run: ExportedRun, checkout: str, origin: str) -> dict[str, Any]:
    named = {"git_commit_name": safe_line(run.commit)} if run.commit else {}
    kernel = run.summary.kernel or f"the kernel of image {run.summary.image}"
    return {"id": checkout, "origin": origin, "comment": safe_line(kernel), "valid": True} | named


def _build(run: ExportedRun, build: str, origin: str) -> dict[str, Any]:
    return {
        "id": build,
        "checkout_id": build,
        "origin": origin,
        "architecture": "x86_64",
        "comment": safe_line(f"{run.summary.kernel or ''} {run.build}".strip()),
        "status": "PASS",
    }


def _test(run: ExportedRun, build: str, origin: str) -> dict[str, Any]:
    summary = run.summary
    facts = {name: safe_line(value) for name, value in run.facts.items()}
    test = {
        "id": _id(origin, run.began.isoformat(), run.name, build),
        "build_id": build,
        "origin": origin,
        "path": f"fpr-harness.{_NOT_IN_PATHS.sub('-', summary.scenario)}",
        "status": str(summary.verdict),
        "start_time": run.began.isoformat(),
        "duration": round(summary.seconds, 3),
        "comment": safe_line(f"{summary.cause or ''} {summary.reason}".strip()),
        "environment": {"comment": ", ".join(f"{k} {v}" for k, v in facts.items()), "misc": facts},
        "misc": {
            "fpr_harness": __version__,
            "run": safe_line(summary.run_id),
            "cause": summary.cause,
            "measures": {name: plain_number(name, v) for name, v in summary.measures.items()},
        },
    }
    number = _number(summary.answer)
    excerpt = safe_text("\n\n".join(f"{each.title}\n{each.text}" for each in run.findings))
    test |= {"number": number} if number else {}
    return test | ({"log_excerpt": excerpt[:MOST_EXCERPT]} if excerpt else {})


def _number(answer: Mapping[str, float]) -> dict[str, Any] | None:
    """Return the only measure that answers the scenario's question; None if there are several."""
    if len(answer) != 1:
        return None
    [(name, value)] = answer.items()
    unit = _UNITS.get(unit_of(name))
    named = {"unit": unit[0], "prefix": unit[1]} if unit is not None else {}
    return {"value": value, **named}
