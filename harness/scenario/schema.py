# SPDX-License-Identifier: Apache-2.0
"""Make the JSON Schema of scenario files, for editors and for scripts that write such files.

The schema comes from the models but checks less: only the loader checks the names of measures,
the order of steps, and whether sizes fit together.
"""

from typing import Any

from harness.scenario.vocabulary import Verbs

DIALECT = "https://json-schema.org/draft/2020-12/schema"

_LABELLED = {
    "type": "object",
    "minProperties": 1,
    "propertyNames": {"pattern": "^[a-z0-9]+(-[a-z0-9]+)*$"},
    "additionalProperties": {"type": "object"},
}


def scenario_schema(verbs: Verbs) -> dict[str, Any]:
    """Return the schema of a file whose steps use `verbs`."""
    schema = verbs.scenario.model_json_schema()
    schema["title"] = "fpr-harness scenario"
    schema["properties"] |= {
        "variants": _LABELLED
        | {"description": "Labels with the fields each changes; every label is a scenario."},
        "switches": _LABELLED
        | {"description": "Labels with the fields each changes; every combination is a scenario."},
    }
    return {"$schema": DIALECT, **schema}
