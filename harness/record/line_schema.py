# SPDX-License-Identifier: Apache-2.0
"""The JSON Schema of a line of results.jsonl, for those who read results with other programs."""

import inspect
from typing import Any, get_args

from pydantic import ConfigDict, TypeAdapter

from harness.record.events import Event

DIALECT = "https://json-schema.org/draft/2020-12/schema"

_EVENTS: TypeAdapter[Event] = TypeAdapter(Event, config=ConfigDict(use_attribute_docstrings=True))


def line_schema() -> dict[str, Any]:
    """The schema of one whole line; made from the events, so that it says what is written."""
    schema = _EVENTS.json_schema(mode="serialization")
    del schema["discriminator"]  # OpenAPI's, and `kind` is a constant of each
    run = {"type": "string", "description": "The run that it belongs to."}
    for event in get_args(get_args(Event)[0]):
        fields = schema["$defs"][event.__name__]
        words = inspect.getdoc(event) or ""
        if not words.startswith(f"{event.__name__}("):  # what dataclass() makes up
            fields["description"] = words
        fields["properties"] = {"run": run} | fields["properties"]
        # The records fill in their kind by themselves, and every line has it.
        fields["required"] = ["run", "kind", *fields["required"]]
    return {"$schema": DIALECT, "title": "A line of fpr-harness's results.jsonl", **schema}
