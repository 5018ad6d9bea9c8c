# SPDX-License-Identifier: Apache-2.0
"""Reads the scenario of a run of schema 1 from its repro.sh; results.jsonl lacks it there."""

import re
from pathlib import Path
from typing import Any

import yaml

from harness.record.asked import Asked

MOST_BYTES = 1 << 20

_SCENARIO = re.compile(r"^if .*cat <<'END_OF_SCENARIO'\n(.*?)^END_OF_SCENARIO$", re.M | re.S)


def asked_of(directory: Path) -> Asked | None:
    """Find what the run in this directory is judged by; None if it cannot be found.

    The measures that its steps took are not recorded. The loader had checked every name, so every
    name that the scenario expects counts as measured.
    """
    try:
        with (directory / "repro.sh").open(encoding="utf-8") as file:
            found = _SCENARIO.search(file.read(MOST_BYTES))
        data = yaml.safe_load(found[1]) if found else None
    except (OSError, ValueError, yaml.YAMLError, RecursionError):
        return None
    if not isinstance(data, dict):
        return None
    expectations, answer, balloon = (
        data.get("expect") or {},
        data.get("answer") or [],
        data.get("balloon") or {},
    )
    if not (_texts(expectations) and _texts(answer) and isinstance(balloon, dict)):
        return None
    names = re.findall(r"[A-Za-z_]\w*", " ".join([*expectations, *expectations.values(), *answer]))
    return Asked(
        expect=dict(expectations),
        answer=tuple(answer),
        measured=frozenset(names),
        reporting_wanted=balloon.get("free_page_reporting", True) is True,
    )


def _texts(value: Any) -> bool:
    """Tell whether the value is a list of strings or a mapping of strings to strings."""
    if isinstance(value, dict):
        return all(isinstance(each, str) for pair in value.items() for each in pair)
    return isinstance(value, list) and all(isinstance(each, str) for each in value)
