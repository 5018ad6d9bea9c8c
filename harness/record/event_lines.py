# SPDX-License-Identifier: Apache-2.0
"""Events as the lines of results.jsonl, and back."""

import json
import re
from typing import Any

from pydantic import TypeAdapter, ValidationError

from harness import __version__
from harness.record.events import READABLE, Event

_EVENTS: TypeAdapter[Event] = TypeAdapter(Event)

_RUN = re.compile(rb'\{"run": ("(?:[^"\\]|\\.)*"), "kind"')


def encode(run_id: str, event: Event) -> bytes:
    """`{"run": ..., "kind": ..., "t": ..., ...}` and a line end."""
    fields: dict[str, Any] = _EVENTS.dump_python(event, mode="json")
    line = {"run": run_id, "kind": fields.pop("kind"), **fields}
    text = json.dumps(line, ensure_ascii=False, allow_nan=False, separators=(", ", ": "))
    # A console may say anything; what is no Unicode becomes `?` rather than no line at all.
    return text.encode("utf-8", "replace") + b"\n"


class SchemaError(ValueError):
    """A line of results that this version does not read."""


def decode(line: bytes) -> tuple[str, Event] | None:
    """The run and its event; None for a torn line, left by a writer that was killed.

    Raises `SchemaError` where a run begins in a schema that this version does not read, and
    `ValueError` for any other whole line that is no event.
    """
    try:
        fields = json.loads(line)
    except (ValueError, RecursionError):
        return None
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


def _check_schema(fields: dict[str, Any]) -> None:
    schema = fields.setdefault("schema", 1)
    if schema not in READABLE:
        raise SchemaError(
            f"schema {schema!r}, written by fpr-harness {fields.get('harness')!r}; "
            f"this version, {__version__}, reads {' and '.join(map(str, READABLE))}"
        )


def run_of_torn(line: bytes) -> str | None:
    """The run that a torn line is of; None where too little of it is left to tell."""
    found = _RUN.match(line)
    try:
        return str(json.loads(found[1])) if found else None
    except ValueError:
        return None
