# SPDX-License-Identifier: Apache-2.0
"""Finding scenarios, and changing them from the command line."""

import json
from pathlib import Path

import pytest

from harness.act.discover import VERBS
from harness.act.verbs.churn import Churn
from harness.act.verbs.settle import Settle
from harness.errors import ScenarioFileError, UsageError
from harness.resources import SCENARIOS_DIR
from harness.scenario.load import load_all, load_scenarios
from harness.scenario.selection import find_scenarios
from harness.units import GIB, MIB

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
    scenarios = load_all(paths, VERBS)
    assert {"reclaim-basic", "control-reporting-off"} <= {each.name for each in scenarios}
    for scenario in scenarios:
        assert scenario.about, scenario.name
        assert scenario.reference.startswith("https://"), scenario.name


def test_no_name_means_the_default_ones(catalogue: Path) -> None:
    assert [each.name for each in find_scenarios([], VERBS, directory=catalogue)] == [
        "alpha",
        "gamma",
    ]


def test_names_and_paths_are_found_in_the_order_given_and_once(catalogue: Path) -> None:
    elsewhere = str(catalogue / "alpha.yaml")
    found = find_scenarios(["beta", elsewhere, "beta", "alpha"], VERBS, directory=catalogue)
    assert [each.name for each in found] == ["beta", "alpha"]


def test_unknown_names_are_told_together_with_near_ones(catalogue: Path) -> None:
    with pytest.raises(UsageError) as caught:
        find_scenarios(["alfa", "beta", "omicron"], VERBS, directory=catalogue)
    assert caught.value.message == "no scenario is called 'alfa'; did you mean 'alpha', 'omicron'"
    assert "alpha, beta, gamma" in caught.value.hint


def test_all_broken_files_are_told_at_once(catalogue: Path) -> None:
    for name in ("alpha", "beta"):
        (catalogue / f"{name}.yaml").write_text("name: [\n")
    with pytest.raises(ScenarioFileError) as caught:
        find_scenarios([], VERBS, directory=catalogue)
    assert "alpha.yaml:2: not YAML" in caught.value.message
    assert "beta.yaml:2: not YAML" in caught.value.message
    with pytest.raises(ScenarioFileError, match=r"alpha(.|\n)*beta"):
        find_scenarios(["alpha", "beta"], VERBS, directory=catalogue)


def test_fields_are_changed_from_the_command_line(catalogue: Path) -> None:
    (scenario,) = load_scenarios(
        catalogue / "alpha.yaml",
        VERBS,
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
    assert isinstance(churn, Churn)
    assert churn.size.of(2 * GIB) == GIB // 2
    assert isinstance(settle, Settle)
    assert settle.deadline == 5.0
    assert scenario.expect == {"reclaimed_fraction": ">= 0.5"}


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("guest.memory=2GB", "alpha: guest.memory: '2GB' is not a size"),
        ("guest.memroy=2GiB", "alpha: guest.memroy: unknown field; did you mean 'memory'"),
        ("steps[0].churn.size=2GiB", "steps[0].churn.size: 2GiB is not less than the guest's 1GiB"),
        ("steps[2].churn.size=25%", "steps of alpha has 2 items"),
        (f"steps[{'9' * 5000}].churn.size=25%", "not FIELD=VALUE"),
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
        load_scenarios(catalogue / "alpha.yaml", VERBS, [override])
    assert message in caught.value.message
    assert override in caught.value.message


def test_a_broken_file_is_told_as_such_whatever_is_overridden(catalogue: Path) -> None:
    (catalogue / "alpha.yaml").write_text("name: alpha\n")
    with pytest.raises(ScenarioFileError, match="title: missing"):
        load_scenarios(catalogue / "alpha.yaml", VERBS, ["title=x"])


def test_every_scenario_has_a_negative_control_that_can_be_run() -> None:
    """But for those that judge nothing, or are a control themselves."""
    for path in sorted(SCENARIOS_DIR.glob("*.yaml")):
        for scenario in load_scenarios(path, VERBS):
            judges = bool(scenario.expect)
            assert scenario.red or not judges or "control" in scenario.tags, scenario.name
            overrides = [f"{name}={json.dumps(value)}" for name, value in scenario.red.items()]
            (changed,) = load_scenarios(path, VERBS, overrides, only=[scenario.name])
            assert not overrides or changed != scenario, scenario.name


def test_a_scenario_can_be_written_as_the_file_of_what_was_run(tmp_path: Path) -> None:
    """Variants and overrides are in it: `repro.sh` names it."""
    for path in sorted(SCENARIOS_DIR.glob("*.yaml")):
        for scenario in load_scenarios(
            path, VERBS, ["guest.cmdline=quiet", "title='50%: \"new\"'"]
        ):
            written = tmp_path / f"{scenario.name}.yaml"
            written.write_text(scenario.as_yaml)
            assert load_scenarios(written, VERBS) == [scenario]


@pytest.fixture
def varied(catalogue: Path) -> Path:
    (catalogue / "delta.yaml").write_text(
        TEXT.format(name="delta", tag="full")
        + "variants:\n"
        + "  small: {guest.memory: 128MiB}\n"
        + "  fast: {'steps[0].churn.hold': 1ms, tags: [default]}\n"
    )
    return catalogue


def test_variants_are_scenarios_of_their_own(varied: Path) -> None:
    small, fast = load_scenarios(varied / "delta.yaml", VERBS)
    assert (small.name, small.guest.memory) == ("delta-small", 128 * MIB)
    assert (fast.name, fast.guest.memory, fast.tags) == ("delta-fast", GIB, ("default",))


def test_two_scenarios_of_one_name_are_not_run_as_one(catalogue: Path, tmp_path: Path) -> None:
    other = tmp_path / "mine" / "alpha.yaml"
    other.parent.mkdir()
    other.write_text(TEXT.format(name="alpha", tag="full"))
    with pytest.raises(UsageError, match="both have a scenario called alpha"):
        find_scenarios(["alpha", str(other)], VERBS, directory=catalogue)


def test_variants_are_found_by_file_name_and_tag(varied: Path) -> None:
    def names(*wanted: str, tags: tuple[str, ...] = ()) -> list[str]:
        return [each.name for each in find_scenarios(wanted, VERBS, directory=varied, tags=tags)]

    assert names("delta") == ["delta-small", "delta-fast"]
    assert names("delta-fast", "alpha") == ["delta-fast", "alpha"]
    assert names() == ["alpha", "delta-fast", "gamma"]
    assert names(tags=("full",)) == ["delta-small"]
    assert names(tags=("all",)) == ["alpha", "beta", "delta-small", "delta-fast", "gamma"]
    with pytest.raises(UsageError, match="'delta-slow'; did you mean 'delta-"):
        names("delta-slow")
    with pytest.raises(UsageError, match="no scenario has the tag 'ful'; did you mean 'full'"):
        names(tags=("ful",))


def test_a_pattern_takes_what_matches_whole_names(varied: Path) -> None:
    def names(*wanted: str) -> list[str]:
        return [each.name for each in find_scenarios(wanted, VERBS, directory=varied)]

    assert names("*a") == ["alpha", "beta", "delta-small", "delta-fast", "gamma"]
    assert names("delta-*") == ["delta-small", "delta-fast"]
    assert names("*-f?st", "alpha") == ["delta-fast", "alpha"]
    assert names("delt[a]") == ["delta-small", "delta-fast"], "the file's name matches"
    assert names("alpha", "al*") == ["alpha"]
    with pytest.raises(UsageError, match=r"'lph\*' \(a pattern\); did you mean 'alpha'"):
        names("lph*")
    with pytest.raises(UsageError, match=r"'alf\*' \(a pattern\).*, 'nothing'"):
        names("alf*", "alpha", "nothing")


def test_an_override_concerns_only_what_a_pattern_takes(varied: Path) -> None:
    (varied / "epsilon.yaml").write_text("name: epsilon\ntitle: t\nsteps: [settle: {}]\n")
    (alpha,) = find_scenarios(["al*"], VERBS, ["steps[0].churn.size=25%"], varied)
    assert alpha.plain["steps"][0]["churn"]["size"] == "25%"


def test_an_override_concerns_only_the_scenarios_that_are_run(varied: Path) -> None:
    (varied / "epsilon.yaml").write_text("name: epsilon\ntitle: t\nsteps: [settle: {}]\n")
    found = find_scenarios([], VERBS, ["steps[0].churn.size=25%"], varied)
    assert [each.name for each in found] == ["alpha", "delta-fast", "gamma"]


@pytest.mark.parametrize(
    ("variants", "message"),
    [
        ("[a]", "variants: must be a mapping of labels to fields"),
        ("{}", "variants: must be a mapping of labels to fields"),
        ("{A: {title: x}}", "variants.A: a label is lower-case letters and digits"),
        ("{a: 1}", "variants.a: must be a mapping of labels to fields"),
        ("{a: {guest.memory: 1GB}}", "guest.memory: '1GB' is not a size"),
        ("{a: {'steps[7].settle.deadline': 1s}}", "variants.a.steps[7].settle.deadline: steps of"),
        ("{a: {'title x': 1s}}", "'title x' is not the path of a field"),
    ],
)
def test_a_variants_mistake_is_told_with_its_place(
    catalogue: Path, variants: str, message: str
) -> None:
    path = catalogue / "alpha.yaml"
    path.write_text(path.read_text() + f"variants: {variants}\n")
    with pytest.raises(ScenarioFileError) as caught:
        load_scenarios(path, VERBS)
    assert message in caught.value.message


@pytest.fixture
def switched(catalogue: Path) -> Path:
    (catalogue / "zeta.yaml").write_text(
        TEXT.format(name="zeta", tag="full")
        + "switches:\n"
        + "  small: {guest.memory: 128MiB}\n"
        + "  fast: {'steps[0].churn.hold': 1ms}\n"
        + "variants:\n"
        + "  small-fast: {tags: [default]}\n"
    )
    return catalogue


def test_every_combination_of_switches_is_a_variant(switched: Path) -> None:
    plain, fast, small, both = load_scenarios(switched / "zeta.yaml", VERBS)
    assert [each.name for each in (plain, fast, small, both)] == [
        "zeta-plain",
        "zeta-fast",
        "zeta-small",
        "zeta-small-fast",
    ]
    assert [each.guest.memory for each in (fast, both)] == [GIB, 128 * MIB]
    assert both.steps == fast.steps != plain.steps
    assert (both.tags, small.tags) == (("default",), ("full",))


def test_a_combination_that_no_switches_make_is_told_with_its_line(switched: Path) -> None:
    path = switched / "zeta.yaml"
    path.write_text(path.read_text().replace("  small-fast: {tags", "  fast-small: {tags"))
    with pytest.raises(ScenarioFileError, match=r"zeta.yaml:12: variants.fast-small: not a comb"):
        load_scenarios(path, VERBS)


def test_a_switchs_mistake_is_told_with_its_place(switched: Path) -> None:
    path = switched / "zeta.yaml"
    path.write_text(path.read_text().replace("128MiB", "128MB"))
    with pytest.raises(ScenarioFileError, match=r"zeta.yaml:9: guest.memory: '128MB' is not a"):
        load_scenarios(path, VERBS)


def test_too_many_switches_are_refused(switched: Path) -> None:
    path = switched / "zeta.yaml"
    more = "".join(f"  s{number}: {{title: x}}\n" for number in range(7))
    path.write_text(path.read_text().replace("variants:", f"{more}variants:"))
    with pytest.raises(ScenarioFileError, match=r"zeta.yaml:8: switches: more than 8 .* 512 var"):
        load_scenarios(path, VERBS)
