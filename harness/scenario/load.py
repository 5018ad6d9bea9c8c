# SPDX-License-Identifier: Apache-2.0
"""Load scenario files, make their variants, and apply `--set` to them."""

import copy
import itertools
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from harness.errors import ScenarioFileError, UsageError
from harness.scenario.model import Scenario
from harness.scenario.steps import unrolled
from harness.scenario.vocabulary import Verbs
from harness.yamlfile import (
    Document,
    Loc,
    Mistake,
    check,
    file_error,
    format_loc,
    node_locs,
    parse_value,
    read_document,
)
from harness.yamlwords import near_miss

PLAIN = "plain"
"""Label of the variant with all switches off."""

MAX_SWITCHES = 8
"""The most switches of a file; they make 256 variants."""

MOST_NODES = 50_000
"""The most values of a file times its variants, which take some seconds to check. The project's
largest file has 16 variants of 150 values."""

MOST_UNROLLED = 50_000
"""The most steps in all variants of a file together, with repetitions counted."""

_FIELD = re.compile(r"[A-Za-z_]\w*(\[\d{1,6}\])*(\.[A-Za-z_]\w*(\[\d{1,6}\])*)*")
_PART = re.compile(r"[A-Za-z_]\w*|\d+")


@dataclass(frozen=True)
class _Change:
    """A field that a variant changes, and the place in the file that says so."""

    loc: Loc
    field: str
    value: Any


def load_scenarios(
    path: Path,
    verbs: Verbs,
    overrides: Sequence[str] = (),
    only: Collection[str] | None = None,
) -> list[Scenario]:
    """Load the scenario of a file or all its variants; `only` limits the variants by name.

    `overrides` are those of `--set`, such as `steps[1].churn.size=25%`. `variants` in the file
    maps labels to the fields that each changes, and makes scenarios called `NAME-LABEL`.
    `switches` does the same for every combination of its labels: `NAME-A-B`, or `NAME-plain`
    with all of them off. Raises `ScenarioFileError` for the file's mistakes, and `UsageError` for
    mistakes that only the overrides make.
    """
    document = read_document(path)
    variants = _variants(document)
    if variants is None:
        return [_load(document, verbs, [], "", overrides)]
    if len(document.lines) * len(variants) > MOST_NODES:
        text = f"{len(document.lines)} values in {len(variants)} variants are too many"
        raise file_error(path, [Mistake(0, (), text)])
    found: list[Scenario] = []
    steps = 0
    for label, changes in variants.items():
        if only is None or f"{path.stem}-{label}" in only:
            found.append(_load(document, verbs, changes, label, overrides))
            steps += sum(1 for _ in unrolled(found[-1].steps))
            if steps > MOST_UNROLLED:
                text = f"its variants make more than {MOST_UNROLLED} steps"
                raise file_error(path, [Mistake(0, (), text)])
    return found


def _variants(document: Document) -> dict[str, list[_Change]] | None:
    """Remove the variants from the document and return their changes by label; None without any."""
    switches, variants = (_labelled(document, name) for name in ("switches", "variants"))
    if switches is None:
        return variants
    if len(switches) > MAX_SWITCHES:
        text = f"more than {MAX_SWITCHES} switches: {1 << len(switches)} variants"
        line = document.lines[("switches",)]
        raise file_error(document.path, [Mistake(line, ("switches",), text)])
    found: dict[str, list[_Change]] = {}
    for on in itertools.product((False, True), repeat=len(switches)):
        chosen = list(itertools.compress(switches.items(), on))
        label = "-".join(name for name, _changes in chosen) or PLAIN
        found[label] = [change for _name, changes in chosen for change in changes]
    for label, changes in (variants or {}).items():
        if label not in found:
            loc = ("variants", label)
            text = f"not a combination of the switches{near_miss(label, found)}"
            raise file_error(document.path, [Mistake(document.lines[loc], loc, text)])
        found[label] += changes
    return found


def _labelled(document: Document, name: str) -> dict[str, list[_Change]] | None:
    """Remove a mapping of labels to fields from the document, and return it with each place."""
    mapping = document.data.pop(name, None)
    if mapping is None:
        return None
    shape = "must be a mapping of labels to fields, as in `small: {guest.memory: 64MiB}`"

    def wrong(loc: Loc, text: str) -> ScenarioFileError:
        return file_error(document.path, [Mistake(document.locate(loc)[1], loc, text)])

    if not isinstance(mapping, dict) or not mapping:
        raise wrong((name,), shape)
    found: dict[str, list[_Change]] = {}
    for label, fields in mapping.items():
        if not isinstance(fields, dict):
            raise wrong((name, label), shape)
        if not re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", label):
            text = "a label is lower-case letters and digits, with single `-` between"
            raise wrong((name, label), text)
        found[label] = [
            _Change((name, label, field), field, value) for field, value in fields.items()
        ]
    return found


def _load(
    document: Document,
    verbs: Verbs,
    changes: Sequence[_Change],
    label: str,
    overrides: Sequence[str],
) -> Scenario:
    """Load one variant, or, without changes and label, the file as it stands."""
    path = document.path
    data = copy.deepcopy(document.data)
    lines = dict(document.lines)
    where = f" (variant {label})" if label else ""
    for change in changes:
        line = document.lines[change.loc]
        try:
            _put(data, change.field, copy.deepcopy(change.value), path)
        except UsageError as error:
            raise file_error(path, [Mistake(line, change.loc, error.message)]) from error
        # Fields that only the variant has are reported at the variant's line.
        for place in node_locs(data):
            lines.setdefault(place, line)
    scenario, mistakes = check(Document(path, data, lines, document.mistakes), verbs.scenario)
    if scenario is not None:
        mistakes += _mistaken_control(scenario, verbs, data, Document(path, data, lines))
    if mistakes or scenario is None:
        raise file_error(path, [replace(m, text=m.text + where) for m in mistakes])
    if overrides:
        for override in overrides:
            _apply(data, override, path)
        lines = dict.fromkeys(node_locs(data), 0)
        scenario, mistakes = check(Document(path, data, lines), verbs.scenario)
        if mistakes or scenario is None:
            told = "; ".join(str(mistake) for mistake in mistakes)
            raise UsageError(
                f"{' '.join(f'--set {text}' for text in overrides)}: {path.stem}: {told}"
            )
    name = f"{scenario.name}-{label}" if label else scenario.name
    named = scenario.model_copy(update={"name": name})
    named.remember(data | {"name": name})
    return named


def _mistaken_control(
    scenario: Scenario, verbs: Verbs, data: dict[str, Any], document: Document
) -> list[Mistake]:
    """Return mistakes in the negative control: unknown fields, and values they cannot have."""
    changed = copy.deepcopy(data)
    for field, value in scenario.red.items():
        try:
            _put(changed, field, copy.deepcopy(value), document.path)
        except UsageError as error:
            return [Mistake(document.locate(("red", field))[1], ("red", field), error.message)]
    line = document.lines.get(("red",), 0)
    _, mistakes = check(
        Document(document.path, changed, dict.fromkeys(node_locs(changed), line)), verbs.scenario
    )
    return [Mistake(line, ("red",), str(mistake)) for mistake in mistakes]


def _apply(data: dict[str, Any], override: str, path: Path) -> None:
    field, equals, text = override.partition("=")
    field = field.strip()
    if not equals or not _FIELD.fullmatch(field):
        raise UsageError(
            f"--set {override}: not FIELD=VALUE",
            hint="write it as in guest.memory=2GiB or steps[1].churn.size=25%",
        )
    try:
        value = parse_value(text)
    except ValueError as error:
        raise UsageError(f"--set {override}: {error}") from error
    try:
        _put(data, field, value, path)
    except UsageError as error:
        raise UsageError(f"--set {override}: {error.message}") from error


def _put(data: dict[str, Any], field: str, value: Any, path: Path) -> None:
    """Set a field such as `steps[1].churn.size` in plain data.

    Raises `UsageError` if the data has no such place.
    """
    if not _FIELD.fullmatch(field):
        raise UsageError(f"{field!r} is not the path of a field, such as steps[1].churn.size")
    loc: Loc = tuple(int(part) if part.isdigit() else part for part in _PART.findall(field))
    here: Any = data
    for depth, part in enumerate(loc):
        place = format_loc(loc[:depth]) or "the file"
        if isinstance(part, int) and not (isinstance(here, list) and part < len(here)):
            length = len(here) if isinstance(here, list) else 0
            raise UsageError(f"{place} of {path.stem} has {length} items")
        if isinstance(part, str) and not isinstance(here, dict):
            raise UsageError(f"{place} of {path.stem} has no fields")
        if depth == len(loc) - 1:
            here[part] = value
        elif isinstance(part, int):
            here = here[part]
        else:
            if here.get(part) is None:
                here[part] = {}
            here = here[part]


def load_all(
    paths: Sequence[Path],
    verbs: Verbs,
    overrides: Sequence[str] = (),
    only: Collection[str] | None = None,
) -> list[Scenario]:
    """Load the scenarios of all files, in order; `only` limits the variants by name.

    Raises one `ScenarioFileError` with the mistakes of all files.
    """
    scenarios: list[Scenario] = []
    told: list[str] = []
    for path in paths:
        try:
            scenarios += load_scenarios(path, verbs, overrides, only)
        except ScenarioFileError as error:
            told.append(error.message)
    if told:
        raise ScenarioFileError("\n".join(told))
    return scenarios
