# SPDX-License-Identifier: Apache-2.0
"""The schema of a line of results.jsonl holds for what real runs wrote, and refuses what is not."""

import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from harness.record.line_schema import line_schema

RUNS = Path(__file__).parents[2] / "data" / "runs"
SCHEMA = line_schema()
VALIDATOR = Draft202012Validator(SCHEMA)


def lines(name: str) -> Iterator[dict[str, Any]]:
    with gzip.open(RUNS / name, "rt", encoding="utf-8") as file:
        for line in file:
            yield json.loads(line)


def test_it_is_a_schema() -> None:
    Draft202012Validator.check_schema(line_schema())


@pytest.mark.parametrize("name", [path.name for path in sorted(RUNS.glob("*.jsonl.gz"))])
def test_every_line_of_recorded_runs_is_valid(name: str) -> None:
    # Each against its own event, for speed; and one of every kind against the whole.
    kinds = {
        event["properties"]["kind"]["const"]: {**SCHEMA, "oneOf": [event]}
        for event in SCHEMA["$defs"].values()
        if "kind" in event.get("properties", {})
    }
    seen: dict[str, Draft202012Validator] = {}
    for line in lines(name):
        if line["kind"] not in seen:
            VALIDATOR.validate(line)
            seen[line["kind"]] = Draft202012Validator(kinds[line["kind"]])
        seen[line["kind"]].validate(line)
    assert len(seen) > 10


def test_a_wrong_line_is_refused() -> None:
    settled = next(line for line in lines("default.jsonl.gz") if line["kind"] == "settled")
    for wrong in (
        {**settled, "outcome": "asleep"},
        {**settled, "kind": "unsettled"},
        {**settled, "held": "1GiB"},
        {name: value for name, value in settled.items() if name != "run"},
        {name: value for name, value in settled.items() if name != "held"},
    ):
        assert not VALIDATOR.is_valid(wrong), wrong


def test_events_and_fields_are_explained() -> None:
    settled = line_schema()["$defs"]["Settled"]
    assert "last movement" in settled["properties"]["seconds"]["description"]
    assert "description" in line_schema()["$defs"]["GuestReady"]
