# SPDX-License-Identifier: Apache-2.0
"""The JSON Schema of scenario files, for editors and for scripts that write such files.

It is made from the models, and says less than they check: names of measures, the order of steps
and whether sizes fit together are the loader's.
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
    """The schema of a file whose steps are of these verbs."""
    schema = verbs.scenario.model_json_schema()
    schema["title"] = "fpr-harness scenario"
    schema["properties"] |= {
        "variants": _LABELLED
        | {"description": "Labels, each with the fields it changes: a scenario of its own each."},
        "switches": _LABELLED
        | {"description": "Labels, each with the fields it changes; every combination is run."},
    }
    return {"$schema": DIALECT, **schema}
