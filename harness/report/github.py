# SPDX-License-Identifier: Apache-2.0
"""Tell GitHub Actions of a run: annotations, and the summary of a step.

https://docs.github.com/en/actions/reference/workflows-and-actions/workflow-commands
"""

import contextlib
import html
import os
import re
import secrets
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from harness.record.facts import Verdict
from harness.report.screen import TextSink
from harness.safe_text import safe_line
from harness.units import format_size

if TYPE_CHECKING:
    from harness.report.summary import RunSummary, Summary

MOST_ANNOTATIONS = 10
"""GitHub shows so many errors of a step, and so many warnings."""

MOST_SUMMARY_BYTES = 1 << 20
"""GitHub drops the whole summary of a step above this."""

_KINDS = {Verdict.FAIL: "error", Verdict.ERROR: "error", Verdict.MISS: "warning"}
_MARKS = re.compile(r"([\\`*_\[\]|~#])")

_KNOWN = "notice"
"""Of runs in quarantine, which do not make the exit status."""


def in_actions(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether this process is a step of a GitHub workflow."""
    return environment.get("GITHUB_ACTIONS") == "true"


@contextlib.contextmanager
def commands_stopped(
    output: TextSink, environment: Mapping[str, str] = os.environ
) -> Iterator[None]:
    """Within the block, nothing that is printed is a workflow command.

    The runner obeys any line of a step that begins with `::`, also one that a guest has made up.
    Nothing is written outside GitHub Actions.
    """
    if not in_actions(environment):
        yield
        return
    # A guest must not be able to guess it.
    token = secrets.token_hex(16)
    output.write(f"::stop-commands::{token}\n")
    output.flush()
    try:
        yield
    finally:
        output.write(f"\n::{token}::\n")
        output.flush()


def annotations(runs: "Sequence[RunSummary]") -> str:
    """Return workflow commands, a line each: the gravest first, as many of a kind as are shown."""
    lines: list[str] = []
    for kind in (*dict.fromkeys(_KINDS.values()), _KNOWN):
        found = [run for verdict in _KINDS for run in _with(runs, verdict) if _kind(run) == kind]
        shown = found if len(found) <= MOST_ANNOTATIONS else found[: MOST_ANNOTATIONS - 1]
        lines += [_annotation(kind, run) for run in shown]
        if len(found) > len(shown):
            more = f"{len(found) - len(shown)} more runs did not pass; see the summary of the step"
            lines.append(f"::{kind} title=fpr-harness::{more}\n")
    return "".join(lines)


def _kind(run: "RunSummary") -> str | None:
    return _KINDS.get(run.verdict) if run.quarantine is None else _KNOWN


def _with(runs: "Sequence[RunSummary]", verdict: Verdict) -> "list[RunSummary]":
    return [run for run in runs if run.verdict is verdict]


def _annotation(kind: str, run: "RunSummary") -> str:
    where = ", ".join(part for part in (run.kernel, run.accel) if part)
    title = f"{run.outcome} {run.run_id}" + (f" ({where})" if where else "")
    known = str(run.quarantine) if run.quarantine is not None else ""
    message = "\n".join(safe_line(line) for line in (run.reason, known, run.hint) if line)
    return f"::{kind} title={_property(safe_line(title))}::{_message(message)}\n"


def _message(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _message(text).replace(":", "%3A").replace(",", "%2C")


def step_summary(summary: "Summary") -> str:
    """Return the summary of a step in Markdown: what did not pass, and a table of all runs."""
    runs = summary.runs
    counts = [(verdict, len(_with(runs, verdict))) for verdict in Verdict]
    told = ", ".join(f"{count} {verdict}" for verdict, count in counts if count)
    text = f"### fpr-harness: {told or 'no run'}\n\n"
    for verdict in (Verdict.FAIL, Verdict.ERROR, Verdict.MISS, Verdict.SKIP):
        for run in _with(runs, verdict):
            text += f"- **{run.outcome}** {_cell(run.run_id)}: {_cell(run.reason)}"
            text += f" ({_cell(str(run.quarantine))})\n" if run.quarantine is not None else "\n"
    head = "| run | kernel | QEMU | accel | verdict | freed | reclaimed | took |\n"
    text += f"\n<details><summary>{len(runs)} runs</summary>\n\n{head}|{'---|' * 8}\n"
    rows = [_row(run) for run in runs]
    size = len(text.encode())
    end = "\n</details>\n"
    for number, row in enumerate(rows):
        size += len(row.encode())
        if size > MOST_SUMMARY_BYTES - 200:
            text += f"\n{len(rows) - number} more are in summary.json.\n"
            break
        text += row
    return text + end


def _row(run: "RunSummary") -> str:
    freed, back = (run.measures.get(name) for name in ("freed_bytes", "reclaimed_bytes"))
    cells = [run.run_id, run.kernel or "-", run.qemu or "-", run.accel or "-", str(run.verdict)]
    cells += ["-" if size is None else format_size(round(size)) for size in (freed, back)]
    return "".join(f"| {_cell(cell)} " for cell in (*cells, f"{run.seconds:.1f} s")) + "|\n"


def _cell(text: str) -> str:
    """Escape text for a table: no markup, no links of a guest's own."""
    plain = _MARKS.sub(r"\\\1", html.escape(safe_line(text), quote=False))
    return plain.replace("://", "&#58;//").replace("www.", "www&#46;").replace("@", "&#64;")


def tell_github(
    summary: "Summary", output: TextSink, environment: Mapping[str, str] = os.environ
) -> None:
    """Print annotations, and add to the step's summary; does nothing outside GitHub Actions.

    Raises `OSError` if the summary cannot be written.
    """
    if not in_actions(environment):
        return
    output.write(annotations(summary.runs))
    output.flush()
    if environment.get("GITHUB_STEP_SUMMARY"):
        with Path(environment["GITHUB_STEP_SUMMARY"]).open("a", encoding="utf-8") as file:
            file.write(step_summary(summary))
