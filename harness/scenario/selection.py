# SPDX-License-Identifier: Apache-2.0
"""Choose scenarios of a directory by name, by pattern, by path or by tag."""

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path

from harness.errors import ScenarioFileError, UsageError
from harness.resources import SCENARIOS_DIR
from harness.scenario.load import load_all, load_scenarios
from harness.scenario.model import Scenario
from harness.scenario.vocabulary import Verbs
from harness.yamlwords import near_miss

DEFAULT_TAG = "default"
ALL_TAG = "all"
"""As a tag on the command line, it selects every scenario."""

_WILD = re.compile(r"[*?\[]")


@dataclass
class _Choice:
    """What the names of a command line have chosen, and what is wrong with them."""

    found: dict[str, tuple[Path, Scenario]] = field(default_factory=dict)
    """By name, in the order asked for."""
    unknown: list[str] = field(default_factory=list)
    broken: dict[str, None] = field(default_factory=dict)
    """The mistakes of broken files, each once."""

    def add(self, path: Path, scenarios: Iterable[Scenario]) -> None:
        """Raises `UsageError` if another file has a scenario of the same name."""
        for scenario in scenarios:
            other = self.found.setdefault(scenario.name, (path, scenario))[0]
            if other != path:
                raise UsageError(
                    f"{other} and {path} both have a scenario called {scenario.name}",
                    hint="run them one after the other, or rename one",
                )


def find_scenarios(
    names: Sequence[str],
    verbs: Verbs,
    overrides: Sequence[str] = (),
    directory: Path = SCENARIOS_DIR,
    *,
    tags: Sequence[str] = (),
) -> list[Scenario]:
    """Load the named scenarios, or without names those with one of the tags.

    A name is that of a scenario, of a variant, a pattern of either (`*`, `?`, `[...]` as in a
    shell), or a path. The tag `all` selects every scenario; without names and tags, `default` is
    used. Raises `UsageError` that lists all names and patterns that name nothing, and one
    `ScenarioFileError` with the mistakes of all broken files.
    """
    known = {path.stem: path for path in sorted(directory.glob("*.yaml"))}
    if not names:
        return _tagged(list(known.values()), verbs, tags or [DEFAULT_TAG], overrides)
    choice = _Choice()
    for name in dict.fromkeys(names):
        if _WILD.search(name) and not _is_path(name):
            _take_pattern(choice, name, known, verbs, overrides)
        else:
            _take_name(choice, name, known, verbs, overrides)
    if choice.broken:
        raise ScenarioFileError("\n".join(choice.broken))
    if choice.unknown:
        raise UsageError(
            f"no scenario is called {', '.join(choice.unknown)}",
            hint=f"scenarios are: {', '.join(known)} (`fpr-harness list`); or give a file's path",
        )
    return [scenario for _path, scenario in choice.found.values()]


def _take_name(
    choice: _Choice, name: str, known: Mapping[str, Path], verbs: Verbs, overrides: Sequence[str]
) -> None:
    path = _file_of(name, known)
    if path is None:
        choice.unknown.append(f"{name!r}{near_miss(name, known)}")
        return
    variant = name not in known and path in known.values() and "/" not in name
    try:
        scenarios = load_scenarios(path, verbs, overrides, [name] if variant else None)
        if not scenarios:
            labels = [scenario.name for scenario in load_scenarios(path, verbs)]
            choice.unknown.append(f"{name!r}{near_miss(name, [*labels, *known])}")
    except ScenarioFileError as error:
        choice.broken[error.message] = None
        return
    choice.add(path, scenarios)


def _take_pattern(
    choice: _Choice, pattern: str, known: Mapping[str, Path], verbs: Verbs, overrides: Sequence[str]
) -> None:
    """Take every scenario whose name, or whose file's name, matches the whole pattern."""
    names: list[str] = []
    matched = False
    for stem, path in known.items():
        try:
            labels = [scenario.name for scenario in load_scenarios(path, verbs)]
            wanted = [
                name for name in labels if fnmatchcase(name, pattern) or fnmatchcase(stem, pattern)
            ]
            if wanted:
                # Overrides apply to what matches only, since others may lack the field.
                choice.add(path, load_scenarios(path, verbs, overrides, wanted))
        except ScenarioFileError as error:
            choice.broken[error.message] = None
            continue
        names += labels
        matched = matched or bool(wanted)
    if not matched:
        near = near_miss(_WILD.sub("", pattern), [*names, *known])
        choice.unknown.append(f"{pattern!r} (a pattern){near}")


def _is_path(name: str) -> bool:
    return "/" in name or name.endswith((".yaml", ".yml"))


def _file_of(name: str, known: Mapping[str, Path]) -> Path | None:
    """Return the file of a scenario's name, a variant's name or a path."""
    if _is_path(name):
        return Path(name)
    if name in known:
        return known[name]
    files = [path for stem, path in known.items() if name.startswith(f"{stem}-")]
    # The longest stem: `numa-two-nodes.yaml` may exist besides `numa.yaml`.
    return max(files, key=lambda path: len(path.stem), default=None)


def _tagged(
    paths: Sequence[Path], verbs: Verbs, tags: Sequence[str], overrides: Sequence[str]
) -> list[Scenario]:
    scenarios = load_all(paths, verbs)
    check_tags(tags, scenarios)
    chosen = {each.name for each in scenarios if set(tags) & {ALL_TAG, *each.tags}}
    if not overrides:
        return [each for each in scenarios if each.name in chosen]
    # Overrides apply to the chosen scenarios only, since others may lack the field.
    files = [path for path in paths if any(name.startswith(path.stem) for name in chosen)]
    found = load_all(files, verbs, overrides, only=chosen)
    return [each for each in found if each.name in chosen]


def check_tags(tags: Collection[str], scenarios: Iterable[Scenario]) -> None:
    """Raise `UsageError` for a tag that no scenario has."""
    known = {tag for scenario in scenarios for tag in scenario.tags}
    for tag in tags:
        if tag not in {ALL_TAG, *known}:
            raise UsageError(
                f"no scenario has the tag {tag!r}{near_miss(tag, known)}",
                hint=f"tags are: {', '.join(sorted({ALL_TAG, *known}))}",
            )
