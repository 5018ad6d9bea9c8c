# SPDX-License-Identifier: Apache-2.0
"""The JSON Schema of a line of results.jsonl, for other programs that read results."""

import inspect
from typing import Any, get_args

from pydantic import ConfigDict, TypeAdapter

from harness.record.events import Event

DIALECT = "https://json-schema.org/draft/2020-12/schema"

_EVENTS: TypeAdapter[Event] = TypeAdapter(Event, config=ConfigDict(use_attribute_docstrings=True))


def line_schema() -> dict[str, Any]:
    """Generate the schema of a line from the event types."""
    schema = _EVENTS.json_schema(mode="serialization")
    del schema["discriminator"]  # an OpenAPI keyword; each event's `kind` is a constant
    run = {"type": "string", "description": "The run that the event belongs to."}
    for event in get_args(get_args(Event)[0]):
        fields = schema["$defs"][event.__name__]
        words = inspect.getdoc(event) or ""
        if not words.startswith(f"{event.__name__}("):  # the default docstring of dataclass()
            fields["description"] = words
        fields["properties"] = {"run": run} | fields["properties"]
        # `kind` has a default in the records, but every line has it.
        fields["required"] = ["run", "kind", *fields["required"]]
    return {"$schema": DIALECT, "title": "A line of fpr-harness's results.jsonl", **schema}
