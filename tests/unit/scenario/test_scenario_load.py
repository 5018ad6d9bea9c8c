# SPDX-License-Identifier: Apache-2.0
"""Finding scenarios, and changing them from the command line."""

from pathlib import Path

import pytest

from harness.errors import ScenarioFileError, UsageError
from harness.scenario.load import find_scenarios, load_all, load_scenarios
from harness.scenario.model import SCENARIOS_DIR
from harness.scenario.steps import ChurnStep, SettleStep
from harness.units import GIB

TEXT = """\
name: {name}
title: t
tags: [{tag}]
steps:
  - churn: {{size: 50%}}
  - settle:
expect: {{reclaimed_fraction: ">= 0.95"}}
"""


@pytest.fixture
def catalogue(tmp_path: Path) -> Path:
    for name, tag in (("alpha", "default"), ("beta", "slow"), ("gamma", "default")):
        (tmp_path / f"{name}.yaml").write_text(TEXT.format(name=name, tag=tag))
    return tmp_path


def test_every_scenario_of_the_project_loads_and_says_where_it_comes_from() -> None:
    paths = sorted(SCENARIOS_DIR.glob("*.yaml"))
    scenarios = load_all(paths)
    assert {"reclaim-basic", "control-reporting-off"} <= {each.name for each in scenarios}
    for scenario in scenarios:
        assert scenario.about, scenario.name
        assert scenario.reference.startswith("https://lore.kernel.org/"), scenario.name


def test_no_name_means_the_default_ones(catalogue: Path) -> None:
    assert [each.name for each in find_scenarios([], directory=catalogue)] == ["alpha", "gamma"]


def test_names_and_paths_are_found_in_the_order_given_and_once(catalogue: Path) -> None:
    elsewhere = str(catalogue / "alpha.yaml")
    found = find_scenarios(["beta", elsewhere, "beta", "alpha"], directory=catalogue)
    assert [each.name for each in found] == ["beta", "alpha"]


def test_unknown_names_are_told_together_with_near_ones(catalogue: Path) -> None:
    with pytest.raises(UsageError) as caught:
        find_scenarios(["alfa", "beta", "omicron"], directory=catalogue)
    assert caught.value.message == "no scenario is called 'alfa'; did you mean 'alpha', 'omicron'"
    assert "alpha, beta, gamma" in caught.value.hint


def test_all_broken_files_are_told_at_once(catalogue: Path) -> None:
    for name in ("alpha", "beta"):
        (catalogue / f"{name}.yaml").write_text("name: [\n")
    with pytest.raises(ScenarioFileError) as caught:
        find_scenarios([], directory=catalogue)
    assert "alpha.yaml:2: not YAML" in caught.value.message
    assert "beta.yaml:2: not YAML" in caught.value.message


def test_fields_are_changed_from_the_command_line(catalogue: Path) -> None:
    (scenario,) = load_scenarios(
        catalogue / "alpha.yaml",
        [
            "guest.memory=2GiB",
            "guest.vcpus=1",
            "balloon.free_page_reporting=false",
            "steps[0].churn.size=25%",
            "steps[1].settle.deadline=5s",
            "expect.reclaimed_fraction=>= 0.5",
        ],
    )
    churn, settle = scenario.steps
    assert scenario.guest.memory == 2 * GIB
    assert scenario.guest.vcpus == 1
    assert not scenario.balloon.free_page_reporting
    assert isinstance(churn, ChurnStep)
    assert churn.size.of(2 * GIB) == GIB // 2
    assert isinstance(settle, SettleStep)
    assert settle.deadline == 5.0
    assert scenario.expect == {"reclaimed_fraction": ">= 0.5"}


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("guest.memory=2GB", "alpha: guest.memory: '2GB' is not a size"),
        ("guest.memroy=2GiB", "alpha: guest.memroy: unknown field; did you mean 'memory'"),
        ("steps[0].churn.size=2GiB", "steps[0].churn.size: 2GiB is not less than the guest's 1GiB"),
        ("steps[2].churn.size=25%", "steps of alpha has 2 items"),
        ("title.x=1", "title of alpha has no fields"),
        ("guest.numa=[{memory: 1GiB", "is not YAML"),
        ("guest.numa=[{memory: 1GB}]", "guest.numa[0].memory: '1GB' is not a size"),
        ("guest.numa[0].memory=1GiB", "guest.numa of alpha has 0 items"),
        ("guest.memory", "not FIELD=VALUE"),
        ("=2GiB", "not FIELD=VALUE"),
        ("steps[x]=2GiB", "not FIELD=VALUE"),
        ("name=beta", "name: 'beta' must be the file's name"),
    ],
)
def test_a_wrong_override_is_bad_usage_and_names_the_field(
    catalogue: Path, override: str, message: str
) -> None:
    with pytest.raises(UsageError) as caught:
        load_scenarios(catalogue / "alpha.yaml", [override])
    assert message in caught.value.message
    assert override in caught.value.message


def test_a_broken_file_is_told_as_such_whatever_is_overridden(catalogue: Path) -> None:
    (catalogue / "alpha.yaml").write_text("name: alpha\n")
    with pytest.raises(ScenarioFileError, match="title: missing"):
        load_scenarios(catalogue / "alpha.yaml", ["title=x"])
