# SPDX-License-Identifier: Apache-2.0
"""Every input that is kept, those that once escaped among them, brings only the project's errors.

`make fuzz` makes new ones from them.
"""

import pytest
from targets import SEEDS, TARGETS


@pytest.mark.parametrize("name", TARGETS)
def test_no_seed_escapes(name: str) -> None:
    for seed in TARGETS[name].seeds:
        TARGETS[name](seed)


def test_every_directory_of_seeds_is_of_a_target() -> None:
    assert {path.name for path in SEEDS.iterdir()} <= set(TARGETS)
