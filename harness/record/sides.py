# SPDX-License-Identifier: Apache-2.0
"""Which runs of a results directory belong to which side of a comparison."""

import json
import re
from pathlib import Path

PLAN_NAME = "comparison.json"
"""In the results directory of a comparison: what its sides are."""

RUN_ID = re.compile(r"(?P<scenario>.+)\+(?P<label>[AB])#(?P<number>\d+)")
"""Names of the runs of a comparison."""


def side_of(run_id: str) -> str | None:
    """Return the side that a run belongs to; None for a run of no comparison."""
    match = RUN_ID.fullmatch(run_id)
    return match["label"] if match else None


def side_words(results: Path) -> dict[str, str]:
    """Return how the command line named each side; empty if the plan cannot be read."""
    try:
        sides = json.loads((results / PLAN_NAME).read_bytes())["sides"]
        return {str(label): str(side["named"]) for label, side in sides.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}
