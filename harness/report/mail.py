# SPDX-License-Identifier: Apache-2.0
"""Write the report of a failed run for a kernel list: plain text of 75 columns.

What Documentation/admin-guide/reporting-issues.rst asks for: the kernel and its commit, the
configuration, what was done, what was expected, what was seen, and how to see it oneself. A word
longer than a line, such as a link, stays whole, and so does the subject; lines of the console are
continued on a next line.
"""

import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import yaml

from harness.measure.measures import unit_of
from harness.measure.terms import Unit
from harness.record.facts import Cause, Verdict
from harness.record.recorded_run import RecordedRun
from harness.record.run_plan import RunPlan
from harness.report.exported import ExportedRun
from harness.safe_text import safe_line, safe_text
from harness.verdict.expressions import format_measure

COLUMNS = 75
_MOST_CONSOLE = 150
"""Lines of a finding; more is in console.log, which can be attached. A report of KASAN has some
110, and who freed the memory stands near its end."""

_CONFIGURED = (
    "PAGE_REPORTING",
    "VIRTIO_BALLOON",
    "TRANSPARENT_HUGEPAGE",
    "MEMORY_HOTPLUG",
    "PREEMPT",
    "PREEMPT_RT",
    "KASAN",
    "KFENCE",
    "PROVE_LOCKING",
    "DEBUG_PAGEALLOC",
    "PAGE_POISONING",
    "INIT_ON_FREE_DEFAULT_ON",
)
"""Options that bear on free page reporting; a list reads no whole configuration."""

_ON_CONSOLE = (Cause.GUEST_CRASH, Cause.GUEST_HANG, Cause.KERNEL_WARNING)

_TOLD = (
    "freed_bytes",
    "reclaimed_bytes",
    "reported_bytes",
    "discarded_bytes",
    "reported_resident_bytes",
    "unreported_free_bytes",
    "held_absent_bytes",
    "integrity_mismatched_pages",
    "settle_seconds",
)


@dataclass(frozen=True)
class Case:
    """The run to report, and the others like it."""

    run: RecordedRun
    facts: ExportedRun
    steps: Sequence[str]
    """Its steps in words."""
    guest: str
    """Its guest in words."""
    failed: int
    """Runs that failed with the same cause, of `judged` of this scenario on this kernel."""
    judged: int


def compose(case: Case) -> str:
    """Return the whole mail, with its subject on the first line."""
    return "\n".join(line.rstrip() for line in _lines(case)) + "\n"


def _lines(case: Case) -> Iterator[str]:
    summary, facts = case.facts.summary, case.facts
    kernel = summary.kernel or "(its guest did not answer)"
    subject = f"{summary.scenario}: {_headline(case)} on Linux {kernel}"
    yield safe_line(f"Subject: free page reporting: {subject}")
    yield ""
    yield from _wrapped(
        f"{_title(case)}: that does not hold on Linux {kernel}, seen by comparing what the guest "
        "counts as free with what the host holds, page by page."
    )
    yield ""
    for name, value in _setting(case):
        yield from _wrapped(value, first=f"{name:9}", rest=" " * 9)
    for title, body in (
        ("What was done", list(_numbered(case.steps))),
        ("Expected", [f"- {each.measure} {each.condition}" for each in facts.expected]),
        ("Seen", list(_seen(case))),
        ("How often", [_how_often(case)]),
        ("How to see it", list(_reproduce(case))),
    ):
        yield from ("", title, "-" * len(title))
        for line in body:
            yield from _wrapped(line, rest="  " if line.startswith(("- ", *"123456789")) else "")
    for finding in facts.findings[:1]:
        yield from ("", "Console", "-------")
        yield from _console(finding.text)
    plan = case.run.started.plan
    if plan is not None:
        yield from ("", "Scenario", "--------")
        yield from yaml.safe_dump(_without_about(plan), sort_keys=False, width=70).splitlines()


def _headline(case: Case) -> str:
    """What kernel developers know it by: the first trouble on the console, if that is the cause."""
    summary, findings = case.facts.summary, case.facts.findings
    if findings and summary.cause in _ON_CONSOLE:
        return findings[0].title
    return str(summary.cause or summary.verdict)


def _title(case: Case) -> str:
    plan = case.run.started.plan
    title = plan.scenario.get("title") if plan is not None else None
    return str(title or case.facts.summary.scenario)


def _setting(case: Case) -> Iterator[tuple[str, str]]:
    run, summary, facts = case.run, case.facts.summary, case.facts
    plan = run.started.plan
    yield "Kernel:", f"{summary.kernel or 'did not answer'} {facts.build}"
    if facts.commit:
        yield "Commit:", facts.commit
    if plan is not None and plan.kernel_config:
        config = plan.kernel_config
        yield "Config:", " ".join(f"{n}={config[n]}" for n in _CONFIGURED if n in config)
    yield "Guest:", case.guest
    yield "QEMU:", f"{summary.qemu or 'none'}, {(summary.accel or 'not started').upper()}"
    host = run.started.host
    yield "Host:", f"Linux {host.get('kernel', '?')}, {host.get('machine', '?')}"
    yield "Seen by:", f"fpr-harness {run.started.harness}, {run.started.wall[:10]}"


def _numbered(steps: Sequence[str]) -> Iterator[str]:
    yield from (f"{number}. {step}" for number, step in enumerate(steps, 1))


def _seen(case: Case) -> Iterator[str]:
    summary = case.facts.summary
    yield f"{summary.verdict} {summary.cause or ''}: {summary.reason}."
    yield from (f"- {sentence}" for sentence in summary.failed if sentence not in summary.reason)
    measures = summary.measures
    bytes_too = [n for n in _TOLD if n in measures and unit_of(n) is not Unit.FRACTION]
    if bytes_too:
        yield ""
        yield from (f"- {name}: {format_measure(name, measures[name])}" for name in bytes_too)


def _how_often(case: Case) -> str:
    if case.judged == 1:
        return "Once, in the only run."
    return f"In {case.failed} of {case.judged} runs."


def _reproduce(case: Case) -> Iterator[str]:
    plan, summary = case.run.started.plan, case.facts.summary
    yield f"Save the scenario below as {summary.scenario}.yaml, then:"
    yield ""
    words = [f"fpr-harness run ./{summary.scenario}.yaml"]
    if plan is not None and plan.kernel:
        words.append("--kernel YOUR-TREE")
    else:
        words.append(f"--image {summary.image}")
    if summary.accel:
        words.append(f"--accel {summary.accel}")
    if summary.qemu_name and summary.qemu_name != "host":
        words.append(f"--qemu {summary.qemu_name}")
    yield "    " + " \\\n        ".join(words)


def _without_about(plan: RunPlan) -> dict[str, object]:
    """A list does not need the scenario's own explanation or its negative control."""
    return {name: value for name, value in plan.scenario.items() if name not in ("about", "red")}


def _console(text: str) -> Iterator[str]:
    lines = safe_text(text).splitlines()
    for line in lines[:_MOST_CONSOLE]:
        yield from textwrap.wrap(
            line,
            COLUMNS,
            subsequent_indent="    ",
            replace_whitespace=False,
            break_on_hyphens=False,
        ) or [""]
    if len(lines) > _MOST_CONSOLE:
        yield f"[{len(lines) - _MOST_CONSOLE} more lines in console.log]"


def _wrapped(text: str, first: str = "", rest: str = "") -> list[str]:
    text = safe_text(text)
    if text.startswith("    ") or not text:
        return text.splitlines() or [""]
    return textwrap.wrap(
        " ".join(text.split()),
        COLUMNS,
        initial_indent=first,
        subsequent_indent=rest,
        break_long_words=False,
        break_on_hyphens=False,
    )


def alike(runs: Sequence[ExportedRun], one: ExportedRun) -> tuple[int, int]:
    """Count the runs of the same scenario and kernel: those of the same cause, and all judged."""
    same = [
        run.summary
        for run in runs
        if (run.summary.scenario, run.summary.kernel) == (one.summary.scenario, one.summary.kernel)
        and run.summary.verdict in (Verdict.PASS, Verdict.FAIL, Verdict.DONE)
    ]
    failed = [run for run in same if run.verdict is Verdict.FAIL and run.cause == one.summary.cause]
    return len(failed), len(same)
