# SPDX-License-Identifier: Apache-2.0
"""`python -m harness.cli.make_schemas DIRECTORY`: write the JSON Schemas (`make docs`)."""

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from harness.act.discover import VERBS
from harness.audit.audit_document import audit_schema
from harness.record.line_schema import line_schema
from harness.scenario.schema import scenario_schema


def schemas() -> dict[str, Mapping[str, Any]]:
    """Return every schema by the name of its file."""
    return {
        "scenario.schema.json": scenario_schema(VERBS),
        "results-line.schema.json": line_schema(),
        "audit.schema.json": audit_schema(),
    }


def as_text(schema: Mapping[str, Any]) -> str:
    """Format a schema as its file holds it."""
    return json.dumps(schema, indent=2, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    directory = Path(sys.argv[1])
    directory.mkdir(exist_ok=True)
    for name, schema in schemas().items():
        (directory / name).write_text(as_text(schema), encoding="utf-8")
