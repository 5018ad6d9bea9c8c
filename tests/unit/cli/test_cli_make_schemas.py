# SPDX-License-Identifier: Apache-2.0
"""schemas/ is what `make docs` would write."""

import pytest

from harness.cli.make_schemas import as_text, schemas
from harness.resources import SCENARIOS_DIR

ROOT = SCENARIOS_DIR.parent


@pytest.mark.parametrize("name", list(schemas()))
def test_the_files_are_current(name: str) -> None:
    written = (ROOT / "schemas" / name).read_text(encoding="utf-8")
    assert written == as_text(schemas()[name]), "run `make docs`, or its line for schemas"
