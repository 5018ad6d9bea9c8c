# SPDX-License-Identifier: Apache-2.0
"""Encodes events as lines of results.jsonl, and decodes them."""

import json
import math
import re
from typing import Any

from pydantic import TypeAdapter, ValidationError

from harness import __version__
from harness.record.events import READABLE, Event

_EVENTS: TypeAdapter[Event] = TypeAdapter(Event)

RUN = re.compile(rb'\{"run": ("(?:[^"\\]|\\.)*"), "kind"')
"""The beginning of each line, as `encode` writes it."""


def encode(run_id: str, event: Event) -> bytes:
    """Encode an event as a line `{"run": ..., "kind": ..., "t": ..., ...}`."""
    fields: dict[str, Any] = _EVENTS.dump_python(event, mode="json")
    line = {"run": run_id, "kind": fields.pop("kind"), **fields}
    text = json.dumps(line, ensure_ascii=False, allow_nan=False, separators=(", ", ": "))
    # A console may print anything: replace what is not valid Unicode rather than lose the line.
    return text.encode("utf-8", "replace") + b"\n"


class SchemaError(ValueError):
    """The line is of a schema that this version does not read."""


def decode(line: bytes) -> tuple[str, Event] | None:
    """Decode a line into its run and event; None for a torn line, left by a killed writer.

    Raises `SchemaError` if the line starts a run of a schema that this version does not read, and
    `ValueError` for any other complete line that is not an event.
    """
    try:
        fields = json.loads(line, parse_float=_finite, parse_constant=_finite)
    except (ValueError, RecursionError):
        return None
    except OverflowError as error:
        raise ValueError(str(error)) from error
    if not isinstance(fields, dict) or not isinstance(fields.get("run"), str):
        raise ValueError("not an event of a run")  # noqa: TRY004 - one kind of wrong line
    if fields.get("kind") == "run-started":
        _check_schema(fields)
    try:
        return fields.pop("run"), _EVENTS.validate_python(fields)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        raise ValueError(f"{place}: {first['msg']}") from error


def _finite(text: str) -> float:
    """Read a number; NaN and infinities, which `encode` never writes, are no measurement."""
    value = float(text)
    if not math.isfinite(value):
        raise OverflowError(f"{text} is not a finite number")
    return value


def _check_schema(fields: dict[str, Any]) -> None:
    schema = fields.setdefault("schema", 1)
    if schema not in READABLE:
        raise SchemaError(
            f"schema {schema!r}, written by fpr-harness {fields.get('harness')!r}; "
            f"this version, {__version__}, reads {' and '.join(map(str, READABLE))}"
        )


def run_of_torn(line: bytes) -> str | None:
    """Find the run of a torn line; None if too little of the line is left."""
    found = RUN.match(line)
    try:
        return str(json.loads(found[1])) if found else None
    except ValueError:
        return None
