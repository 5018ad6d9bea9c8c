# SPDX-License-Identifier: Apache-2.0
"""`await`: wait for what the host holds."""

from collections.abc import Sequence

import pytest
from fake_guest import FakeGuest
from pydantic import ValidationError
from run_builders import mapping, ready

from harness.act.verbs.await_host import Await
from harness.errors import DeadlineError
from harness.units import MIB


def merged(guest: FakeGuest, sizes: Sequence[int | None]) -> None:
    guest.host.mappings = [mapping(MIB, merged=size) for size in sizes]


def step(condition: str) -> Await:
    return Await.model_validate({"until": {"merged_bytes": condition}, "deadline": "10s"})


def test_it_looks_until_the_host_is_there(guest: FakeGuest) -> None:
    guest.record.add(ready(memory=100 * MIB))
    merged(guest, [0, 49 * MIB, 50 * MIB, 60 * MIB])
    step(">= 0.5 * memory_bytes").perform(guest)
    assert guest.host.read().merged == 60 * MIB, "it looked no further"


@pytest.mark.parametrize(
    ("size", "words"),
    [(3 * MIB, "merged_bytes 3MiB, expected >= 50MiB"), (None, "merged_bytes not measured")],
)
def test_a_host_that_never_gets_there_is_a_deadline_with_what_it_held(
    guest: FakeGuest, size: int | None, words: str
) -> None:
    merged(guest, [size])
    with pytest.raises(DeadlineError, match=words):
        step(">= 50MiB").perform(guest)
    assert 10.0 <= guest.record.now() < 10.5


@pytest.mark.parametrize("until", [{}, {"reported_bytes": "> 0"}])
def test_only_what_the_host_alone_tells_can_be_awaited(until: dict[str, str]) -> None:
    with pytest.raises(ValidationError, match="on these measures only: charged_bytes, "):
        Await.model_validate({"until": until, "deadline": "1s"})
