# SPDX-License-Identifier: Apache-2.0
"""Find scenario files, load them, and change fields of them from the command line."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from harness.errors import ScenarioFileError, UsageError
from harness.scenario.model import SCENARIOS_DIR, Scenario
from harness.yamlfile import (
    Document,
    Loc,
    check,
    file_error,
    format_loc,
    node_locs,
    parse_value,
    read_document,
)
from harness.yamlwords import near_miss

DEFAULT_TAG = "default"

_FIELD = re.compile(r"[A-Za-z_]\w*(\[\d+\])*(\.[A-Za-z_]\w*(\[\d+\])*)*")
_PART = re.compile(r"[A-Za-z_]\w*|\d+")


def load_scenario(path: Path, overrides: Sequence[str] = ()) -> Scenario:
    """The scenario of a file, with `--set` overrides such as `steps[1].churn.size=25%`.

    Raises `ScenarioFileError` for the file's mistakes, and `UsageError` for those that only the
    overrides make.
    """
    document = read_document(path)
    scenario, mistakes = check(document, Scenario)
    if mistakes or scenario is None:
        raise file_error(path, mistakes)
    if not overrides:
        return scenario
    for override in overrides:
        _apply(document.data, override, path)
    lines = dict.fromkeys(node_locs(document.data), 0)
    scenario, mistakes = check(Document(path, document.data, lines), Scenario)
    if mistakes or scenario is None:
        told = "; ".join(str(mistake) for mistake in mistakes)
        raise UsageError(f"{' '.join(f'--set {text}' for text in overrides)}: {path.stem}: {told}")
    return scenario


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
    loc: Loc = tuple(int(part) if part.isdigit() else part for part in _PART.findall(field))
    here: Any = data
    for depth, part in enumerate(loc):
        place = format_loc(loc[:depth]) or "the file"
        if isinstance(part, int) and not (isinstance(here, list) and part < len(here)):
            length = len(here) if isinstance(here, list) else 0
            raise UsageError(f"--set {override}: {place} of {path.stem} has {length} items")
        if isinstance(part, str) and not isinstance(here, dict):
            raise UsageError(f"--set {override}: {place} of {path.stem} has no fields")
        if depth == len(loc) - 1:
            here[part] = value
        elif isinstance(part, int):
            here = here[part]
        else:
            if here.get(part) is None:
                here[part] = {}
            here = here[part]


def find_scenarios(names: Sequence[str], directory: Path = SCENARIOS_DIR) -> list[Path]:
    """Files of the scenarios named (by name or path); none named: those tagged `default`.

    Raises `UsageError` for names nobody has, all of them at once, and for no names
    `ScenarioFileError` with the mistakes of every broken file.
    """
    known = {path.stem: path for path in sorted(directory.glob("*.yaml"))}
    if not names:
        scenarios = load_all(list(known.values()))
        return [known[scenario.name] for scenario in scenarios if DEFAULT_TAG in scenario.tags]
    found: list[Path] = []
    unknown: list[str] = []
    for name in names:
        if "/" in name or name.endswith((".yaml", ".yml")):
            found.append(Path(name))
        elif name in known:
            found.append(known[name])
        else:
            unknown.append(f"{name!r}{near_miss(name, known)}")
    if unknown:
        raise UsageError(
            f"no scenario is called {', '.join(unknown)}",
            hint=f"scenarios are: {', '.join(known)}; or give a file's path",
        )
    return list(dict.fromkeys(found))


def load_all(paths: Sequence[Path], overrides: Sequence[str] = ()) -> list[Scenario]:
    """Every scenario, in order. Raises one `ScenarioFileError` with the mistakes of all files."""
    scenarios: list[Scenario] = []
    told: list[str] = []
    for path in paths:
        try:
            scenarios.append(load_scenario(path, overrides))
        except ScenarioFileError as error:
            told.append(error.message)
    if told:
        raise ScenarioFileError("\n".join(told))
    return scenarios
