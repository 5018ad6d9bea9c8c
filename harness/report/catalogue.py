# SPDX-License-Identifier: Apache-2.0
"""Write the catalogue: every scenario's question, method, thresholds and latest results.

`main` merges results into DIRECTORY/scenarios.json, which holds the latest verdict and answer of
each scenario on each image, and writes DIRECTORY/scenarios.md from it. It also writes
DIRECTORY/measures.md and DIRECTORY/steps.md, the measures and steps of scenarios.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.record.events import RunStarted
from harness.record.facts import Verdict
from harness.record.reader import RESULTS_NAME, read_events
from harness.report.documents import render
from harness.report.matrix import oldest_first
from harness.report.measures_document import measures_document
from harness.report.scenario_words import (
    expected_words,
    guest_words,
    invariants_words,
    method_words,
    red_words,
)
from harness.report.steps_document import steps_document
from harness.report.summary import RunSummary, build_summary
from harness.resources import SCENARIOS_DIR
from harness.scenario.load import load_scenarios
from harness.scenario.model import Scenario
from harness.scenario.vocabulary import Verbs
from harness.verdict.expressions import format_measure

Last = dict[str, dict[str, dict[str, Any]]]
"""By scenario and image: verdict, cause, reason, answer, kernel, accel, seconds, date."""

STORE, DOCUMENT, MEASURES_DOCUMENT = "scenarios.json", "scenarios.md", "measures.md"
STEPS_DOCUMENT = "steps.md"


@dataclass(frozen=True)
class Chapter:
    """A file of scenarios, as the template shows it."""

    name: str
    scenarios: Sequence[Scenario]
    """The scenario of the file, or its variants."""
    told: Sequence["Line"]
    answers: Mapping[str, Sequence[str]]
    """Rows of cells by what was measured, one cell for each image."""
    not_green: Sequence[Mapping[str, Any]]
    """Results with a reason, each with its scenario and image."""

    @property
    def tags(self) -> list[str]:
        """Tags of all variants, each once."""
        return list(dict.fromkeys(tag for each in self.scenarios for tag in each.tags))


@dataclass(frozen=True)
class Line:
    """A statement about a chapter's scenarios, shared by those for which it is the same."""

    what: str
    of: Sequence[str]
    """The variants for which it holds; empty means all."""
    text: str


def merge(last: Last, runs: Iterable[RunSummary], date: str) -> Last:
    """Update the last results with these runs, except for interrupted ones."""
    merged = {scenario: dict(images) for scenario, images in last.items()}
    for run in (run for run in runs if not run.interrupted):
        merged.setdefault(run.scenario, {})[run.image] = {
            **{name: getattr(run, name) for name in ("verdict", "cause", "kernel", "accel")},
            "reason": "" if run.verdict in (Verdict.PASS, Verdict.DONE) else run.reason,
            "answer": {name: float(f"{value:.6g}") for name, value in run.answer.items()},
            "seconds": round(run.seconds),
            "date": date,
        }
    return merged


def images_of(last: Last) -> list[str]:
    """List the images with results, the oldest kernel first."""
    kernels: dict[str, str] = {}
    for runs in last.values():
        for image, result in runs.items():
            kernels[image] = result["kernel"] or kernels.get(image, "")
    return oldest_first(kernels)


def document(files: Sequence[Sequence[Scenario]], last: Last, images: Sequence[str]) -> str:
    """Render docs/scenarios.md; `files` holds the scenario of each file, or its variants."""
    return render(
        "scenarios.md.j2",
        images=[_with_kernel(image, last) for image in images],
        chapters=[_chapter(scenarios, last, images) for scenarios in files],
        cells=lambda name: [_cell(last.get(name, {}).get(image)) for image in images],
        cell=_cell,
    )


def _with_kernel(image: str, last: Last) -> str:
    kernels = [runs[image]["kernel"] for runs in last.values() if runs.get(image, {}).get("kernel")]
    return f"{image} {kernels[-1].partition('-')[0]}" if kernels else image


def _cell(result: Mapping[str, Any] | None) -> str:
    if result is None:
        return "-"
    verdict = result["verdict"]
    words = f"{verdict} {result['cause']}" if result["cause"] else verdict
    return words if verdict in (Verdict.PASS, Verdict.DONE, Verdict.SKIP) else f"**{words}**"


def _chapter(scenarios: Sequence[Scenario], last: Last, images: Sequence[str]) -> Chapter:
    stem = scenarios[0].name if len(scenarios) == 1 else _common(scenarios)
    told = [
        line
        for what, words in (
            ("Guest", guest_words),
            ("Method", method_words),
            ("Expected", expected_words),
            ("Invariants", invariants_words),
            ("Must not pass with", red_words),
        )
        for line in _told_once(what, stem, scenarios, words)
    ]
    not_green = [
        {"scenario": scenario.name, "image": image, **result}
        for scenario in scenarios
        for image in images
        if (result := last.get(scenario.name, {}).get(image)) and result["reason"]
    ]
    return Chapter(stem, scenarios, told, _answers(stem, scenarios, last, images), not_green)


def _answers(
    stem: str, scenarios: Sequence[Scenario], last: Last, images: Sequence[str]
) -> dict[str, list[str]]:
    """Return the measured answers, a row for each measure of each variant."""
    rows: dict[str, list[str]] = {}
    for scenario in scenarios:
        results = [last.get(scenario.name, {}).get(image, {}) for image in images]
        label = scenario.name.removeprefix(stem).removeprefix("-")
        taken = dict.fromkeys(name for each in results for name in each.get("answer", {}))
        for name in (name for name in scenario.answer or taken if name in taken):
            rows[f"{label} `{name}`".strip()] = [
                format_measure(name, each["answer"][name])
                if name in each.get("answer", {})
                else "-"
                for each in results
            ]
    return rows


def _told_once(
    what: str, stem: str, scenarios: Sequence[Scenario], words: Callable[[Scenario], str]
) -> Iterator[Line]:
    labels: dict[str, list[str]] = {}
    for scenario in scenarios:
        labels.setdefault(words(scenario), []).append(scenario.name.removeprefix(f"{stem}-"))
    for text, those in labels.items():
        if text:
            yield Line(what, those if len(labels) > 1 else (), text)


def _common(scenarios: Sequence[Scenario]) -> str:
    """Return the common part of the variants' names, which is the stem of their file."""
    stems = [path.stem for path in SCENARIOS_DIR.glob("*.yaml")]
    return max(
        (stem for stem in stems if scenarios[0].name.startswith(f"{stem}-")),
        key=len,
        default=scenarios[0].name,
    )


def catalogue(verbs: Verbs) -> list[list[Scenario]]:
    """Load the project's scenarios by file."""
    return [load_scenarios(path, verbs) for path in sorted(SCENARIOS_DIR.glob("*.yaml"))]


def main(arguments: Sequence[str], verbs: Verbs) -> None:
    """Merge results and write all files. Raises `ScenarioFileError`, `RecordError`, `OSError`."""
    directory, *results = map(Path, arguments)
    store = directory / STORE
    last: Last = json.loads(store.read_text()) if store.exists() else {}
    for result in results:
        events = list(read_events(result / RESULTS_NAME))
        walls = [event.wall for _run, event in events if isinstance(event, RunStarted)]
        last = merge(last, build_summary(events).runs, min(walls)[:10])
    files = catalogue(verbs)
    known = {scenario.name for scenarios in files for scenario in scenarios}
    last = {name: last[name] for name in sorted(known & set(last))}
    store.write_text(json.dumps(last, indent=1, sort_keys=True) + "\n")
    (directory / DOCUMENT).write_text(document(files, last, images_of(last)))
    (directory / MEASURES_DOCUMENT).write_text(measures_document())
    (directory / STEPS_DOCUMENT).write_text(steps_document(verbs))
