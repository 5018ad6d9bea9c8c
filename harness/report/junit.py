# SPDX-License-Identifier: Apache-2.0
"""Write junit.xml, the verdicts for CI tools.

Text made safe to show (`harness.safe_text`) contains only characters of XML 1.0 (section 2.2).
"""

import xml.etree.ElementTree as ElementTree
from collections.abc import Iterable
from pathlib import Path

from harness.record.events import Event
from harness.record.facts import Verdict
from harness.record.results_directory import write_whole
from harness.report.summary import RunSummary, build_summary, plain_number
from harness.safe_text import safe_line, safe_text

_ELEMENTS = {
    Verdict.FAIL: "failure",
    Verdict.ERROR: "error",
    Verdict.MISS: "error",
    Verdict.SKIP: "skipped",
}


def write_junit(events: Iterable[tuple[str, Event]], path: Path) -> None:
    """Write junit.xml atomically, beside the runs' directories. Raises `RecordError`."""
    runs = build_summary(events).runs
    cases = [_case(run, path.parent) for run in runs]
    suite = ElementTree.Element("testsuite", name="fpr-harness")
    suite.extend(cases)
    for attribute, element in (
        ("failures", "failure"),
        ("errors", "error"),
        ("skipped", "skipped"),
    ):
        suite.set(attribute, str(sum(case.find(element) is not None for case in cases)))
    suite.set("tests", str(len(cases)))
    suite.set("time", f"{sum(float(case.attrib['time']) for case in cases):.3f}")
    if runs:
        # ISO 8601 without a time zone, as the schema of Jenkins' xUnit plugin has it.
        suite.set(
            "timestamp", safe_line(min(run.wall for run in runs)[: len("2026-01-02T03:04:05")])
        )
    suites = ElementTree.Element("testsuites")
    suites.append(suite)
    ElementTree.indent(suites)
    write_whole(path, ElementTree.tostring(suites, encoding="utf-8", xml_declaration=True))


def _case(run: RunSummary, results: Path) -> ElementTree.Element:
    case = ElementTree.Element(
        "testcase",
        classname=safe_line(f"{run.scenario}.{run.image}"),
        name=safe_line(run.run_id),
        time=f"{run.seconds:.3f}",
    )
    known = {
        "kernel": run.kernel,
        "accel": run.accel,
        "qemu": run.qemu,
        "image": run.image,
        "began": run.wall or None,
        "quarantine": str(run.quarantine) if run.quarantine is not None else None,
        "attempts": str(run.attempt) if run.attempt > 1 else None,
    }
    properties = ElementTree.SubElement(case, "properties")
    for name, value in known.items():
        if value is not None:
            ElementTree.SubElement(properties, "property", name=name, value=safe_line(value))
    element = _ELEMENTS.get(run.verdict)
    if element is not None:
        kind = run.cause or run.verdict
        message = run.reason
        if run.quarantine is not None:
            element, message = "skipped", f"{run.quarantine}: {run.outcome}: {run.reason}"
        outcome = ElementTree.SubElement(case, element, message=safe_line(message), type=kind)
        told = (run.reason, *run.failed, run.hint)
        outcome.text = safe_text("\n".join(line for line in told if line))
    lines = [f"verdict: {run.verdict}", f"evidence: {results / run.run_id}"]
    lines += [f"{name}: {plain_number(name, value)}" for name, value in run.measures.items()]
    ElementTree.SubElement(case, "system-out").text = safe_text("\n".join(lines))
    return case
