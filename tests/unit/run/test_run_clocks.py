# SPDX-License-Identifier: Apache-2.0
"""`make clocks`: what counts as compared, and what is still to be run."""

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from harness.act.discover import VERBS
from harness.scenario.selection import find_scenarios
from harness.units import MIB

PROGRAM = Path(__file__).parents[2] / "clocks" / "clocks.py"


@pytest.fixture(scope="module")
def clocks() -> ModuleType:
    spec = importlib.util.spec_from_file_location("clocks", PROGRAM)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["clocks"] = module
    spec.loader.exec_module(module)
    return module


def one(verdict: str = "PASS", cause: str | None = None, retained: int | None = None) -> Any:
    return {"verdict": verdict, "cause": cause, "retained": retained}


@pytest.mark.parametrize(
    ("real", "virtual", "words"),
    [
        (one(), one(), ""),
        (one("FAIL", "data-loss"), one("FAIL", "data-loss"), ""),
        (one("FAIL", "data-loss"), one("FAIL", "lazily-free"), "FAIL lazily-free under the vir"),
        (one(), one("FAIL", "data-loss"), "PASS under the real clock, FAIL data-loss"),
        (one(retained=5 * MIB), one(retained=45 * MIB), ""),
        (
            one(retained=0),
            one(retained=60 * MIB),
            "0B did not come back under the real clock, 60MiB",
        ),
        (one(retained=None), one(retained=60 * MIB), ""),
    ],
)
def test_the_verdict_the_cause_and_what_is_retained_are_compared(
    clocks: ModuleType, real: Any, virtual: Any, words: str
) -> None:
    found = clocks.difference({"real": real, "virtual": virtual})
    assert words in found
    assert bool(found) == bool(words)


@pytest.mark.parametrize("pair", [{"real": one()}, {"real": one(), "virtual": one("SKIP")}, {}])
def test_what_was_not_run_or_skipped_was_not_compared(clocks: ModuleType, pair: Any) -> None:
    assert clocks.difference(pair) is None


def test_a_run_that_says_nothing_is_run_again_and_the_default_set_comes_first(
    clocks: ModuleType, tmp_path: Path
) -> None:
    run = {"image": "trixie", "kernel": "6.12", "qemu": "7.2", "reason": "", "seconds": 9.0}
    runs = [
        {**run, "scenario": "reclaim-basic", "verdict": "PASS", "cause": None},
        {**run, "scenario": "reclaim-partial", "verdict": "MISS", "cause": None},
    ]
    ended = tmp_path / "batch-0000-trixie-virtual"
    ended.mkdir()
    (ended / "summary.json").write_text(json.dumps({"runs": runs}))
    known = clocks.from_results(tmp_path)
    assert known["reclaim-basic"]["trixie"]["virtual"]["seconds"] == 9.0
    names = ["small-guests-96m", "reclaim-basic", "reclaim-partial"]
    asked = find_scenarios(names, VERBS)
    left = clocks.to_run(asked, ["trixie"], known, "virtual")
    assert left == {"trixie": ["reclaim-partial", "small-guests-96m"]}
    assert clocks.to_run(asked, ["trixie"], known, "real") == {
        "trixie": ["reclaim-basic", "reclaim-partial", "small-guests-96m"]
    }
