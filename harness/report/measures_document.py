# SPDX-License-Identifier: Apache-2.0
"""Write docs/measures.md: every measure of the registry, and what it means out of its bounds."""

from harness.measure.measures import FAMILIES, MEASURES
from harness.measure.terms import Family, Means, Measure, Rule, TakenBy
from harness.record.facts import Verdict
from harness.report.documents import render
from harness.verdict.causes import IN_ITS_WORDS

_TAKEN = {
    TakenBy.RUN: "-",
    TakenBy.AUDIT: "audit",
    TakenBy.TRACED_AUDIT: "audit, trace",
    TakenBy.AUDIT_OR_HOST: "audit, await",
}

_RULES = {
    Rule.SHORTFALL: (
        "too little came back, or too much is charged: the first layer, from the host inwards, "
        "that accounts for it",
        "`acked-not-discarded`, `still-charged`, `lazily-free`, `not-reported`, `not-settled`, "
        "`guest-retained`",
    ),
    Rule.CAME_BACK: ("memory came back that should have stayed", "`control-broken`"),
    Rule.CAME_BACK_SOON: ("memory came back sooner than it should have", "`control-broken`"),
    Rule.PLACE: (
        "a node or zone gave too little back: the first layer that keeps it",
        "`acked-not-discarded`, `still-charged`, `lazily-free`, `not-reported`, `not-settled`",
    ),
    Rule.UNREPORTED: (
        "the host still holds free memory that the guest could report",
        "`not-reported`, or `not-settled` if memory was still moving",
    ),
    Rule.REPORTED_RESIDENT: (
        "the host still holds memory that the guest reported",
        "`acked-not-discarded`, `still-charged`, `lazily-free`",
    ),
    Rule.IN_BALLOON: (
        "the host still holds memory in the balloon, or plugged and not in use",
        "`acked-not-discarded`, or `still-charged` if the guest has moved there since",
    ),
    Rule.DISCARD_FAILED: ("QEMU failed to discard", "`acked-not-discarded`"),
    Rule.LAZY: ("memory is lazily free that should be gone", "`lazily-free`"),
    Rule.NOT_LAZY: (
        "too little memory is lazily free: it is gone, or was never discarded",
        "`control-broken`, `acked-not-discarded`",
    ),
    Rule.SLOW: ("memory came back too slowly", "`not-settled`"),
    Rule.WATERMARK: (
        "the guest broke the watermark rule: it reported too little, or below the watermark",
        "`not-reported`, `not-settled`, `control-broken`",
    ),
    Rule.RETAINED: (
        "the guest keeps memory, for the reason that accounts for most of it",
        "`guest-retained`",
    ),
    Rule.LOST: ("memory that the guest uses is gone", "`data-loss`"),
    Rule.CONSOLE: (
        "the guest's console shows trouble",
        "`guest-crash`, `guest-hang`, `kernel-warning`",
    ),
    Rule.BLIND: ("too little could be seen to judge the run", str(Verdict.MISS)),
}
"""Meaning and causes of the rules for which a measure has no sentence of its own."""


def measures_document() -> str:
    """Render docs/measures.md."""
    rules = {_name(rule): words for rule, words in _RULES.items()}
    measures = [*MEASURES.values(), *FAMILIES]
    return render("measures.md.j2", measures=measures, cells=_cells, rules=rules)


def _cells(each: Measure | Family) -> list[str]:
    cells = (
        f"`{each.name}`",
        each.unit,
        each.meaning,
        _TAKEN[each.taken_by],
        _means(each.means_when_low),
        _means(each.means_when_high),
    )
    return [cell.replace("|", r"\|") for cell in cells]


def _means(means: Means) -> str:
    """Name the rule, or the cause with the measure's own sentence."""
    if means.rule in IN_ITS_WORDS:
        return f"`{IN_ITS_WORDS[means.rule]}`: {means.words}"
    if means.rule is Rule.NOT_AS_WRITTEN:
        return f"{Verdict.ERROR}: {means.words}"
    return f"*{_name(means.rule)}*"


def _name(rule: Rule) -> str:
    return rule.name.lower().replace("_", " ")
