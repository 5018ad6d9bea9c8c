# SPDX-License-Identifier: Apache-2.0
"""What results keep of the kernel that was given."""

from pathlib import Path

import pytest
from kernel_trees import build_tree, bzimage

from harness.act.discover import VERBS
from harness.errors import ImageError, PreconditionError, UsageError
from harness.image.definition import load_definitions
from harness.record.run_plan import RunPlan
from harness.run import plan as subject
from harness.run.guest_setup import guest_spec
from harness.run.plan import (
    RunOptions,
    plan_runs,
    recorded_plan,
    refuse_clock,
    wants_the_host,
)
from harness.scenario.selection import find_scenarios


def recorded(kernel: Path | None) -> RunPlan:
    (scenario,) = find_scenarios(["reclaim-basic"], VERBS)
    (run,) = plan_runs([scenario], [load_definitions()["bookworm"]], 1)
    return recorded_plan(run, RunOptions(kernel=kernel), ImageError("not built"), "real")


@pytest.mark.parametrize("place", ["", "arch/x86/boot/bzImage"])
def test_a_trees_commit_and_configuration_are_recorded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    monkeypatch.setattr(subject, "describe", lambda tree: f"v6.13 of {tree.name}")
    tree = build_tree(tmp_path / "linux", config={"X86_64": "y", "VIRTIO_BALLOON": "m"})
    plan = recorded(tree / place)
    assert plan.kernel_commit == "v6.13 of linux"
    assert plan.kernel_config == {"X86_64": "y", "VIRTIO_BALLOON": "m"}


def test_what_is_not_known_is_absent(tmp_path: Path) -> None:
    (tmp_path / "bzImage").write_bytes(bzimage())
    for kernel in (None, tmp_path / "bzImage", tmp_path / "absent"):
        plan = recorded(kernel)
        assert (plan.kernel_commit, plan.kernel_config) == (None, {})


def test_a_configuration_that_cannot_be_read_does_not_end_the_run(tmp_path: Path) -> None:
    tree = build_tree(tmp_path)
    (tree / ".config").write_bytes(b"CONFIG_A=y\n" * 200_000)
    assert recorded(tree).kernel_config == {}


def test_a_clock_that_no_scenario_is_valid_under_is_refused_and_else_told_of_each() -> None:
    basic, races = find_scenarios(["reclaim-basic", "no-loss-isolated-plain"], VERBS)
    refuse_clock([basic, races], "virtual")
    refuse_clock([races], "real")
    with pytest.raises(UsageError, match="--clock virtual: `busy` is not valid under a virtual"):
        refuse_clock([races], "virtual")


def test_one_vcpu_will_do_where_they_run_one_at_a_time() -> None:
    basic, nodes = find_scenarios(["reclaim-basic", "numa-two-nodes"], VERBS)
    assert (guest_spec(basic).vcpus, guest_spec(basic).clock) == (2, "real")
    assert (guest_spec(basic, "virtual").vcpus, guest_spec(basic, "virtual").clock) == (
        1,
        "virtual",
    )
    assert guest_spec(nodes, "virtual").vcpus == 2, "each node needs one"


def test_a_scenario_that_no_virtual_clock_suits_is_a_skip() -> None:
    (races,) = find_scenarios(["no-loss-isolated-plain"], VERBS)
    with pytest.raises(PreconditionError, match="`busy` is not valid under a virtual clock"):
        guest_spec(races, "virtual")


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("memory-hotplug-dimm", "`plug` changes the machine by QMP"),
        ("balloon-and-reporting", "`balloon` changes the machine by QMP"),
        ("reboot", "`reboot` changes the machine by QMP"),
        ("numa-two-nodes", "one vCPU only"),
        ("no-loss-isolated-plain", "`busy` is not valid under a virtual clock"),
    ],
)
def test_a_guest_whose_replay_would_lack_something_is_not_recorded(name: str, why: str) -> None:
    (scenario,) = find_scenarios([name], VERBS)
    with pytest.raises(PreconditionError, match=f"^--record: .*{why}"):
        guest_spec(scenario, "virtual", record=True)


def test_a_guest_with_a_disk_is_not_recorded() -> None:
    (basic,) = find_scenarios(["reclaim-basic"], VERBS, ["guest.disk=64MiB"])
    with pytest.raises(PreconditionError, match="its disk is in no recording"):
        guest_spec(basic, "virtual", record=True)


def test_a_recorded_guest_counts_its_instructions() -> None:
    (basic,) = find_scenarios(["reclaim-basic"], VERBS)
    assert guest_spec(basic, "virtual", record=True).rr == "record"
    assert guest_spec(basic, "virtual").rr == ""


def test_other_guests_disturb_times_and_no_instructions() -> None:
    basic, faults = find_scenarios(["reclaim-basic", "overhead-faults"], VERBS)
    assert wants_the_host(faults, "real")
    assert not wants_the_host(faults, "virtual")
    assert not wants_the_host(basic, "real")
