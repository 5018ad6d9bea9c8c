# SPDX-License-Identifier: Apache-2.0
"""`--shard I/N` divides the runs completely, once each, and evenly."""

import random
from typing import Any

import pytest

from harness.act.discover import VERBS
from harness.errors import UsageError
from harness.image.definition import load_definitions
from harness.run.plan import PlannedRun, plan_runs
from harness.run.shards import Shard, runs_of_shard
from harness.scenario.model import Scenario

IMAGE = load_definitions()["bookworm"]


def scenario(name: str, repeat: int, **more: Any) -> Scenario:
    """A scenario that takes about `repeat` times 20 s."""
    steps = [{"repeat": {"times": repeat, "steps": [{"churn": {"size": "50%"}}, {"settle": {}}]}}]
    return VERBS.scenario.model_validate({"name": name, "title": "t", "steps": steps} | more)


def runs(count: int = 30) -> list[PlannedRun]:
    lengths = random.Random(1)
    found = [
        scenario(f"s{number}", lengths.randint(1, 9), guest={"memory": f"{1 << number % 4}GiB"})
        for number in range(count)
    ]
    return plan_runs(found, [IMAGE], 1)


@pytest.mark.parametrize("count", [1, 2, 5, 30])
def test_every_run_is_in_exactly_one_shard(count: int) -> None:
    every = runs()
    shards = [runs_of_shard(every, Shard(number, count)) for number in range(1, count + 1)]
    assert sorted(run.run_id for shard in shards for run in shard) == sorted(
        run.run_id for run in every
    )
    assert all(shards)


def test_the_order_of_the_runs_does_not_change_who_runs_what() -> None:
    every = runs()
    mine = {run.run_id for run in runs_of_shard(every, Shard(2, 4))}
    assert {run.run_id for run in runs_of_shard(every[::-1], Shard(2, 4))} == mine


def test_shards_take_about_the_same_time_and_memory() -> None:
    every = runs()
    shards = [runs_of_shard(every, Shard(number, 4)) for number in range(1, 5)]
    seconds = [sum(run.scenario.expected_seconds for run in shard) for shard in shards]
    memory = [
        sum(run.scenario.expected_seconds * run.scenario.host_memory for run in shard)
        for shard in shards
    ]
    for loads in (seconds, memory):
        assert max(loads) <= 1.2 * sum(loads) / 4, loads


@pytest.mark.parametrize("text", ["", "0/4", "5/4", "1", "a/b", "-1/2", "1/0", "1/2/3", "1/5000"])
def test_what_is_no_shard_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="not I/N"):
        Shard.parse(text)


def test_an_empty_shard_is_refused() -> None:
    with pytest.raises(UsageError, match="too few runs to divide: 3"):
        runs_of_shard(runs(3), Shard(1, 4))
