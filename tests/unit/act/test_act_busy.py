# SPDX-License-Identifier: Apache-2.0
"""How much a busy process takes where only the running guest knows."""

from types import SimpleNamespace
from typing import Any, cast

import pytest

from harness.act import busy as verb
from harness.act.session import GuestSession
from harness.errors import ScenarioError
from harness.scenario.steps import BusyStep
from harness.units import MIB, PAGE_SIZE


def size_of(monkeypatch: pytest.MonkeyPatch, size: str, *free: int) -> int:
    """Bytes a guest is told to take whose zones have so much free, each 1 MiB at the least."""

    def start(command: str) -> Any:
        raise RuntimeError(command)

    shell = SimpleNamespace(start=start)
    zones = [SimpleNamespace(free=each // PAGE_SIZE, min=MIB // PAGE_SIZE) for each in free]
    monkeypatch.setattr(verb, "read_counters", lambda _shell: SimpleNamespace(zones=zones))
    session = SimpleNamespace(
        reporting_order=9,
        phase=lambda *_words: None,
        vm=SimpleNamespace(shell=shell, spec=SimpleNamespace(memory=1024 * MIB)),
    )
    step = BusyStep.model_validate({"size": size})
    with pytest.raises(RuntimeError, match="--bytes") as caught:
        verb.busy(cast(GuestSession, session), step)
    words = str(caught.value).split()
    return int(words[words.index("--bytes") + 1])


def test_a_batch_is_32_blocks_of_the_order(monkeypatch: pytest.MonkeyPatch) -> None:
    assert size_of(monkeypatch, "batch", 500 * MIB) == 64 * MIB


def test_a_share_is_of_the_guests_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    assert size_of(monkeypatch, "25%", 500 * MIB) == 256 * MIB


def test_to_the_brim_is_what_is_above_the_watermarks_less_half_a_batch(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert size_of(monkeypatch, "all-but-half-a-batch", 15 * MIB, 500 * MIB, 0) == 481 * MIB


def test_a_guest_without_so_much_is_the_scenarios_mistake(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ScenarioError, match="has not half a batch \\(32MiB\\) free"):
        size_of(monkeypatch, "all-but-half-a-batch", 30 * MIB)
