# SPDX-License-Identifier: Apache-2.0
"""Write recorded runs as KTAP, version 1 (Documentation/dev-tools/ktap.rst of the kernel).

A run is a test; below it stand its verdict and each expectation. The verdict is a test of its own
because the kernel's parser (tools/testing/kunit/kunit_parser.py, 6.1) counts only the innermost
tests: a guest that crashed after it met every expectation would count as nothing failed.
"""

import re
from collections.abc import Iterator, Sequence

from harness import __version__
from harness.record.facts import Verdict
from harness.report.expected import Expected
from harness.report.exported import ExportedRun
from harness.report.summary import RunSummary
from harness.safe_text import safe_line, safe_text

MOST_FINDING_LINES = 40
"""Lines of a console finding; console.log has the rest."""

_ENDS = re.compile(
    r"(List of all partitions|Kernel panic - not syncing: VFS|reboot: System halted)"
)
"""Phrases of a guest's console at which kunit_parser.py stops reading, wherever they stand."""


def as_ktap(runs: Sequence[ExportedRun]) -> str:
    """Return the document."""
    return "".join(f"{line}\n" for line in _lines(runs))


def _lines(runs: Sequence[ExportedRun]) -> Iterator[str]:
    yield "KTAP version 1"
    yield f"1..{len(runs)}"
    yield f"# fpr-harness {__version__}"
    for number, run in enumerate(runs, 1):
        name = description(run.name)
        if run.summary.verdict is not Verdict.SKIP:
            yield from (f"  {line}" for line in _within(run, name))
        else:
            yield from _diagnostics(name, _about(run))
        yield _result(number, name, run.summary, run.summary.reason)


def _within(run: ExportedRun, name: str) -> Iterator[str]:
    """Yield the nested tests of a run."""
    yield "KTAP version 1"
    yield f"# Subtest: {name}"
    yield f"1..{1 + len(run.expected)}"
    yield from _diagnostics(name, _about(run))
    summary = run.summary
    why = f"{summary.cause or ''} {summary.reason}".strip()
    yield _result(1, "verdict", summary, why)
    for number, expected in enumerate(run.expected, 2):
        yield _expectation(number, expected)


def _about(run: ExportedRun) -> Iterator[str]:
    """Yield what the run ran on, what is wrong with it, and what the guest's console said."""
    yield ", ".join(f"{name} {value}" for name, value in run.facts.items())
    yield f"began {run.began:%Y-%m-%dT%H:%M:%SZ}, took {run.summary.seconds:.1f} s"
    yield from run.summary.failed
    if run.summary.hint:
        yield f"what to do: {run.summary.hint}"
    for finding in run.findings:
        yield f"console: {finding.severity}: {finding.title}"
        yield from safe_text(finding.text).splitlines()[:MOST_FINDING_LINES]


def _diagnostics(name: str, lines: Iterator[str]) -> Iterator[str]:
    """Yield diagnostic lines. The name before them keeps a guest's text from being a header."""
    for text in lines:
        for line in safe_text(text).splitlines():
            yield f"# {name}: {_harmless(line)}".rstrip()


def _harmless(line: str) -> str:
    return _ENDS.sub(lambda found: found[0].replace(" ", "_"), line)


def _result(number: int, name: str, run: RunSummary, reason: str) -> str:
    verdict = run.verdict
    if verdict in (Verdict.PASS, Verdict.DONE):
        return f"ok {number} {name}"
    if verdict is Verdict.SKIP:
        return f"ok {number} {name} # SKIP {_data(reason)}".rstrip()
    if run.quarantine is not None:
        return f"not ok {number} {name} # XFAIL {_data(f'{run.quarantine}: {reason}')}"
    if verdict is Verdict.FAIL:
        return f"not ok {number} {name} # {_data(reason)}".rstrip(" #")
    return f"not ok {number} {name} # ERROR {verdict}: {_data(reason)}"


def _expectation(number: int, expected: Expected) -> str:
    name = description(expected.measure)
    told = _data(f"{expected.value}, expected {expected.condition}".removeprefix(", "))
    if expected.failed:
        return f"not ok {number} {name} # {told}"
    if expected.held:
        return f"ok {number} {name} # {told}"
    return f"ok {number} {name} # SKIP not judged: {told}"


def description(name: str) -> str:
    """Return a name as a description, which cannot hold `#`: `reclaim-basic.2` of two runs."""
    return _harmless(safe_line(name)).replace("#", ".")


def _data(text: str) -> str:
    """Return diagnostic data; an escaped `#` begins no directive."""
    return _harmless(safe_line(text)).replace("#", "\\#")
