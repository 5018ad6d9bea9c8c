# SPDX-License-Identifier: Apache-2.0
"""Write the latest run of each scenario in Prometheus' text format, version 0.0.4.

Meant for the node exporter's textfile collector, or a push gateway.
"""

import re
from collections.abc import Iterator, Mapping, Sequence

from harness.measure.measures import registered
from harness.record.facts import Verdict
from harness.report.exported import ExportedRun
from harness.report.summary import plain_number
from harness.safe_text import safe_line

PREFIX = "fpr_"

_NOT_IN_NAMES = re.compile(r"[^a-zA-Z0-9_]")

Samples = dict[str, float]
"""Value by labels, as the format writes them."""


def as_prometheus(runs: Sequence[ExportedRun]) -> str:
    """Return the document; of several runs with the same labels, the latest counts."""
    latest: dict[str, ExportedRun] = {}
    for run in sorted(runs, key=lambda run: run.began):
        latest[_labels(_of(run))] = run
    families = {
        "run_verdict": ("Verdict of the run: 1 for the word that holds.", _verdicts(latest)),
        "run_duration_seconds": (
            "How long the run took.",
            {labels: run.summary.seconds for labels, run in latest.items()},
        ),
        "run_start_time_seconds": (
            "When the run began, in seconds since 1970.",
            {labels: run.began.timestamp() for labels, run in latest.items()},
        ),
        **_measures(latest),
    }
    return "".join(
        line
        for name, (meaning, samples) in families.items()
        for line in _family(PREFIX + name, meaning, samples)
    )


def _family(name: str, meaning: str, samples: Samples) -> Iterator[str]:
    yield f"# HELP {name} {_escaped(meaning, quoted=False)}\n"
    yield f"# TYPE {name} gauge\n"
    for labels, value in samples.items():
        yield f"{name}{{{labels}}} {plain_number(name, value)!r}\n"


def _of(run: ExportedRun) -> dict[str, str]:
    """Return the labels of a run."""
    return {"run": run.summary.run_id, "scenario": run.summary.scenario, **run.facts}


def _labels(values: Mapping[str, str]) -> str:
    return ",".join(f'{name}="{_escaped(value)}"' for name, value in values.items())


def _verdicts(latest: Mapping[str, ExportedRun]) -> Samples:
    return {
        f'{labels},verdict="{verdict}"': float(run.summary.verdict is verdict)
        for labels, run in latest.items()
        for verdict in Verdict
    }


def _measures(latest: Mapping[str, ExportedRun]) -> dict[str, tuple[str, Samples]]:
    """Return the families of measures. A measure that a run did not take has no sample."""
    found: dict[str, tuple[str, Samples]] = {}
    for name in sorted({name for run in latest.values() for name in run.summary.measures}):
        known = registered(name)
        meaning = known.meaning if known is not None else "A measure of the scenario's own steps."
        found[_NOT_IN_NAMES.sub("_", name)] = (
            meaning,
            {
                labels: run.summary.measures[name]
                for labels, run in latest.items()
                if name in run.summary.measures
            },
        )
    return found


def _escaped(text: str, *, quoted: bool = True) -> str:
    plain = safe_line(text).replace("\\", r"\\")
    return plain.replace('"', r"\"") if quoted else plain
