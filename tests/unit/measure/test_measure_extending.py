# SPDX-License-Identifier: Apache-2.0
"""What docs/extending.md says of a first measure is so: its code runs, and its test passes."""

import re
from typing import Any

from harness.measure import measures, reclaim
from harness.measure.measures import measure
from harness.record.events import ChurnHeld
from harness.record.folding import fold
from harness.resources import SCENARIOS_DIR
from harness.units import MIB


def test_the_first_measure_is_one_record_and_its_test() -> None:
    page = (SCENARIOS_DIR.parent / "docs" / "extending.md").read_text(encoding="utf-8")
    chapter = page.partition("## Your first measure")[2]
    record, its_test = re.findall(r"```python\n(.*?)```", chapter, re.DOTALL)
    made = eval(record, dict(vars(reclaim)))
    names: dict[str, Any] = {"ChurnHeld": ChurnHeld, "MIB": MIB, "fold": fold, "measure": measure}
    exec(its_test, names)
    measures.MEASURES[made.name] = made
    try:
        names["test_the_slowest_fill_counts"]()
    finally:
        del measures.MEASURES[made.name]
