# SPDX-License-Identifier: Apache-2.0
"""The QEMUs that `--qemu` names, and the runs that follow from them."""

from pathlib import Path

import pytest
from dead_qemu import make_dead_qemu

from harness.act.discover import VERBS
from harness.errors import ImageError, LaunchError, UsageError
from harness.image.definition import load_definitions
from harness.image.qemu_definition import QemuDefinition, load_qemus
from harness.machine.qemu import Qemu
from harness.run import qemus as subject
from harness.run.plan import plan_runs
from harness.run.qemus import (
    QemuChoice,
    choose_one_qemu,
    choose_qemus,
    prepare_qemus,
    refuse_if_none,
)
from harness.scenario.selection import find_scenarios

BUILDS = {
    name: QemuDefinition(name=name, title=name, suite=name, package="qemu-system-x86")
    for name in ("bookworm", "sid")
}


def names(*words: str) -> list[str]:
    return [choice.name for choice in choose_qemus(BUILDS, words)]


def test_the_installed_one_is_meant_where_none_is_named() -> None:
    assert choose_qemus(BUILDS, []) == choose_qemus(BUILDS, ["host"]) == [QemuChoice()]


def test_builds_by_name_with_commas_or_all_each_once() -> None:
    assert names("sid,bookworm") == ["sid", "bookworm"]
    assert names("all") == ["bookworm", "sid"]
    assert names("sid", "all,host") == ["sid", "bookworm", "host"]


def test_a_path_may_hold_commas_and_is_named_after_itself(tmp_path: Path) -> None:
    odd = tmp_path / "a,b" / "qemu-system-x86_64"
    odd.parent.mkdir()
    odd.touch()
    (choice,) = choose_qemus(BUILDS, [str(odd)])
    assert choice.path == odd
    assert choice.name.endswith("-a-b-qemu-system-x86-64")
    assert "/" not in choice.name
    assert choice.word == str(odd)


def test_a_path_that_is_not_there_is_no_name() -> None:
    (choice,) = choose_qemus(BUILDS, ["/nonexistent/qemu"])
    assert choice.path == Path("/nonexistent/qemu")


def test_a_name_nobody_defined_is_bad_usage_and_the_names_are_told() -> None:
    with pytest.raises(UsageError, match="no QEMU is called woody") as caught:
        choose_qemus(BUILDS, ["woody"])
    assert "bookworm, sid" in caught.value.hint


def test_one_guest_takes_one_qemu() -> None:
    assert choose_one_qemu(BUILDS, ["sid"]).name == "sid"
    with pytest.raises(UsageError, match="takes one"):
        choose_one_qemu(BUILDS, ["all"])


def test_each_qemu_is_a_run_of_its_own_named_after_it() -> None:
    (scenario,) = find_scenarios(["reclaim-basic"], VERBS)
    images = list(load_definitions().values())[:1]
    (plain,) = plan_runs([scenario], images, 1)
    assert (plain.run_id, plain.test_name) == ("reclaim-basic", f"reclaim-basic[{images[0].name}]")
    runs = plan_runs([scenario], images, 2, choose_qemus(BUILDS, ["all"]))
    assert [run.run_id for run in runs] == [
        "reclaim-basic+qemu-bookworm#1",
        "reclaim-basic+qemu-sid#1",
        "reclaim-basic+qemu-bookworm#2",
        "reclaim-basic+qemu-sid#2",
    ]
    assert len({run.test_name for run in runs}) == 4


def test_one_that_cannot_be_had_leaves_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_args: object, **_kwargs: object) -> Path:
        raise ImageError("the archive is not reachable")

    monkeypatch.setattr(subject, "ensure_qemu", refuse)
    good = make_dead_qemu(tmp_path)
    choices = choose_qemus(BUILDS, ["sid", str(good), "/nonexistent/qemu"])
    found = prepare_qemus(choices, print)
    assert isinstance(found["sid"], ImageError)
    assert isinstance(found[choices[1].name], Qemu)
    assert isinstance(found[choices[2].name], LaunchError)
    refuse_if_none(found)
    del found[choices[1].name]
    with pytest.raises(ImageError, match="not reachable"):
        refuse_if_none(found)


def test_the_projects_own_definitions_are_read() -> None:
    assert {"bookworm", "trixie", "sid"} <= load_qemus().keys()
