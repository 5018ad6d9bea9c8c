# SPDX-License-Identifier: Apache-2.0
"""Waiting for what the host holds, on a host that is told what to say."""

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from harness.act.await_host import await_host
from harness.errors import DeadlineError
from harness.record.events import GuestReady
from harness.record.facts import HostMapping
from harness.scenario.steps import AwaitStep
from harness.units import MIB

READY = GuestReady(
    t=1.0,
    kernel="6.1.0",
    accel="tcg",
    qemu="7.2.22",
    boot_seconds=3.0,
    page_reporting_order=9,
    memory=100 * MIB,
    offered=True,
    negotiated=True,
)


def session(merged: Iterator[int | None]) -> Any:
    def read() -> HostMapping:
        return HostMapping(0.0, MIB, MIB, 0, 0, 0, 0, merged=next(merged))

    return SimpleNamespace(
        record=SimpleNamespace(events=[READY]),
        mapping=SimpleNamespace(read=read),
        vm=SimpleNamespace(sleep_alive=lambda _seconds: None),
        phase=lambda _name, _detail: None,
    )


def step(condition: str, deadline: str = "10s") -> AwaitStep:
    return AwaitStep.model_validate({"until": {"merged_bytes": condition}, "deadline": deadline})


def test_it_looks_until_the_host_is_there() -> None:
    seen = iter([0, 49 * MIB, 50 * MIB, 60 * MIB])
    await_host(session(seen), step(">= 0.5 * memory_bytes"))
    assert next(seen) == 60 * MIB, "it went on looking"


@pytest.mark.parametrize(
    ("merged", "words"),
    [(3 * MIB, "merged_bytes 3MiB, expected >= 50MiB"), (None, "merged_bytes not measured")],
)
def test_a_host_that_never_comes_there_is_a_deadline_with_what_it_held(
    merged: int | None, words: str
) -> None:
    with pytest.raises(DeadlineError, match=words):
        await_host(session(iter(lambda: merged, "never")), step(">= 50MiB", "1ms"))
