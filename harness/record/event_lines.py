# SPDX-License-Identifier: Apache-2.0
"""Events as the lines of results.jsonl, and back."""

import json
from typing import Any

from pydantic import TypeAdapter, ValidationError

from harness.record.events import Event

_EVENTS: TypeAdapter[Event] = TypeAdapter(Event)


def encode(run_id: str, event: Event) -> bytes:
    """`{"run": ..., "kind": ..., "t": ..., ...}` and a line end."""
    fields: dict[str, Any] = _EVENTS.dump_python(event, mode="json")
    line = {"run": run_id, "kind": fields.pop("kind"), **fields}
    text = json.dumps(line, ensure_ascii=False, allow_nan=False, separators=(", ", ": "))
    # A console may say anything; what is no Unicode becomes `?` rather than no line at all.
    return text.encode("utf-8", "replace") + b"\n"


def decode(line: bytes) -> tuple[str, Event] | None:
    """The run and its event; None for a torn line, left by a writer that was killed.

    Raises `ValueError` for a whole line that is no event.
    """
    try:
        fields = json.loads(line)
    except ValueError:
        return None
    if not isinstance(fields, dict) or not isinstance(fields.get("run"), str):
        raise ValueError("not an event of a run")  # noqa: TRY004 - one kind of wrong line
    try:
        return fields.pop("run"), _EVENTS.validate_python(fields)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        raise ValueError(f"{place}: {first['msg']}") from error
