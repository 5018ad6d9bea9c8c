# SPDX-License-Identifier: Apache-2.0
"""What a scenario may say, and what its writer is told otherwise."""

from collections.abc import Callable
from pathlib import Path
from typing import get_args

import pytest

from harness.act.discover import VERBS
from harness.act.verbs.audit import Audit
from harness.act.verbs.churn import Churn, Verify
from harness.act.verbs.repeat import Repeat
from harness.act.verbs.settle import Settle
from harness.errors import ScenarioFileError
from harness.machine import needs as machine_needs
from harness.machine.spec import Backend
from harness.measure.measures import AUDIT_MEASURES, MEASURES
from harness.scenario.fields import Share
from harness.scenario.load import load_scenarios
from harness.scenario.model import NEEDS, Host, Scenario
from harness.units import GIB, MIB

Write = Callable[[str], Path]

HEAD = "name: x\ntitle: t\n"


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def put(text: str) -> Path:
        path = tmp_path / "x.yaml"
        path.write_text(text)
        return path

    return put


def loaded(path: Path) -> Scenario:
    """The one scenario of a file."""
    (scenario,) = load_scenarios(path, VERBS)
    return scenario


def said(path: Path) -> list[str]:
    """The error's lines without the directory."""
    with pytest.raises(ScenarioFileError) as caught:
        load_scenarios(path, VERBS)
    return caught.value.message.replace(f"{path.parent}/", "").splitlines()


def test_the_shortest_scenario_has_the_defaults(write: Write) -> None:
    scenario = loaded(write(HEAD + "steps: [settle: {}]\n"))
    assert scenario.guest.memory == GIB
    assert scenario.guest.vcpus == 2
    assert scenario.balloon.free_page_reporting
    assert scenario.host.backend == "anonymous"
    assert scenario.steps == (Settle(),)
    assert scenario.steps[0] == Settle.model_validate({"deadline": "60s"})
    assert scenario.expect == {}


def test_units_become_bytes_and_seconds(write: Write) -> None:
    text = """\
guest:
  memory: 2GiB
  vcpus: 3
  numa: [{memory: 512MiB, vcpus: [0, 2]}, {memory: 1.5GiB, vcpus: [1]}]
steps:
  - settle:
  - repeat:
      times: 3
      steps:
        - churn: {size: 25%, hold: 500ms, free: half-of-blocks, hugepages: never, seed: 7}
        - verify: {}
  - churn: {size: 300MiB}
  - audit: {name: last, expect: {reported_resident_bytes: "== 0"}}
"""
    scenario = loaded(write(HEAD + text))
    assert [node.memory for node in scenario.guest.numa] == [512 * MIB, 1536 * MIB]
    settle, repeat, churn, audit = scenario.steps
    assert isinstance(settle, Settle)
    assert isinstance(repeat, Repeat)
    assert repeat.times == 3
    first, second = repeat.steps
    assert isinstance(second, Verify)
    assert isinstance(first, Churn)
    assert first.size.of(scenario.guest.memory) == 512 * MIB
    assert (first.hold, first.free, first.hugepages, first.seed) == (
        0.5,
        "half-of-blocks",
        "never",
        7,
    )
    assert isinstance(churn, Churn)
    assert churn.size.of(scenario.guest.memory) == 300 * MIB
    assert isinstance(audit, Audit)
    assert (audit.name, audit.expect) == ("last", {"reported_resident_bytes": "== 0"})
    assert scenario.guest.summary == "2GiB, 3 vCPUs, 2 nodes"


def test_a_share_of_memory_is_whole_pages() -> None:
    assert Share("33.3%", fraction=0.333).of(GIB) % 4096 == 0
    assert Share("5000B", bytes=5000).of(GIB) == 4096


def test_steps_are_counted_as_often_as_they_happen(write: Write) -> None:
    one = loaded(write(HEAD + "steps: [settle: {}]\n")).expected_seconds
    text = "steps: [settle: {}, repeat: {times: 5, steps: [settle: {}, settle: {}]}]\n"
    assert loaded(write(HEAD + text)).expected_seconds == pytest.approx(11 * one)


def test_a_command_lasts_as_long_as_the_scenario_says(write: Write) -> None:
    steps = "steps: [run: {command: sleep 600, lasts: 10m, deadline: 11m}]\n"
    assert loaded(write(HEAD + steps)).expected_seconds == pytest.approx(600)


@pytest.mark.parametrize(
    ("step", "seconds"),
    [
        ("settle: {}", 6.0),
        ("settle: {deadline: 2s}", 2.0),
        ("churn: {size: 50%, hold: 3s}", 2.0 + 3.0 + 4.0),
        ("audit: {}", 1.0),
        ("watch: {name: seen, duration: 9s}", 9.0),
        ("fault_rate: {duration: 500ms}", 0.5),
        ("suspend: {state: mem}", 4.0),
        ("unplug: {device: balloon}", 4.0),
        ("migrate: {}", 20.0),
        ("snapshot: {}", 20.0),
        ("crowd: {limit: 2GiB, touch: 50%, most: 4}", 48.0),
    ],
)
def test_each_step_lasts_about_so_long(write: Write, step: str, seconds: float) -> None:
    assert loaded(write(HEAD + f"steps: [{step}]\n")).expected_seconds == pytest.approx(seconds)


@pytest.mark.parametrize(
    ("steps", "gib"),
    [
        ("settle: {}", 1.5),
        ("migrate: {}", 2.0),
        ("snapshot: {}", 2.0),
        ("crowd: {limit: 3GiB, touch: 50%}", 5.0),
        ("crowd: {limit: 3GiB, touch: 50%}, migrate: {}", 5.0),
    ],
)
def test_the_host_must_have_room_for_what_the_largest_step_fills(
    write: Write, steps: str, gib: float
) -> None:
    """A guest of 1 GiB with room for half as much again."""
    text = f"guest: {{memory: 1GiB, hotplug: 512MiB}}\nsteps: [{steps}]\n"
    assert loaded(write(HEAD + text)).host_memory == gib * GIB


def test_a_scenario_cannot_be_changed(write: Write) -> None:
    scenario = loaded(write(HEAD + "steps: [settle: {}]\n"))
    with pytest.raises(ValueError, match="frozen"):
        scenario.title = "other"  # type: ignore[misc]


def test_mistakes_of_a_file_are_all_told_with_their_lines(write: Write) -> None:
    text = """\
name: x
title: t
guest: {memory: 1024, vcpus: two}
ballon: {free_page_reporting: true}
host: {backend: memfd-sahred}
steps:
  - settle: {dealine: 60s}
  - settle: {deadline: 60}
  - churn: {size: 50 per cent}
  - chrun: {size: 50%}
  - churn: {size: 50%}
    audit: {}
  - audit
  - audit: []
  - repeat: {times: 2, steps: [repeat: {times: 2, steps: [settle: {}]}]}
expect:
  reclaimed_bytes: 0
  reported_bytes: "= 0"
"""
    seen = "\n".join(said(write(text)))
    for line in (
        "x.yaml:3: guest.memory: 1024 has no unit; write a number and B, KiB, MiB or GiB: 512MiB",
        "x.yaml:3: guest.vcpus: must be a whole number, not 'two'",
        "x.yaml:4: ballon: unknown field; did you mean 'balloon'; fields are: about, answer, ",
        "x.yaml:5: host.backend: 'memfd-sahred' is not one of ",
        "did you mean 'memfd-shared'",
        "x.yaml:7: steps[0].settle.dealine: unknown field; did you mean 'deadline'; "
        "fields are: deadline",
        "x.yaml:8: steps[1].settle.deadline: 60 has no unit; write a number and ms, s, m or h: 60s",
        "x.yaml:9: steps[2].churn.size: '50 per cent' is not a size; write a part of the guest's "
        "memory, 50%, or a number with a unit, 512MiB",
        "x.yaml:10: steps[3]: unknown step 'chrun'; did you mean 'churn'; steps are: audit, await,"
        " balloon, bind, busy, calm, churn, crowd, drain, fault_rate, ",
        "x.yaml:11: steps[4]: a step is a mapping with one key, as in `- settle: {}`; ",
        "x.yaml:13: steps[5]: a step is a mapping with one key, as in `- settle: {}`; ",
        "x.yaml:14: steps[6].audit: must be a mapping (`field: value`), not []",
        "x.yaml:15: steps[7].repeat.steps[0]: repeat cannot stand inside repeat",
        'x.yaml:17: expect.reclaimed_bytes: must be a condition in quotes, as in "== 0", not 0',
        "x.yaml:18: expect.reported_bytes: '= 0' does not begin with a comparison",
    ):
        assert line in seen
    assert len(seen.splitlines()) == 14


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("guest: {memory: 100.5KiB}", "guest.memory: must be whole MiB and at least 64MiB"),
        ("guest: {memory: 1MiB}", "guest.memory: must be whole MiB and at least 64MiB"),
        (
            "guest: {numa: [{memory: 512MiB, vcpus: [0, 1]}]}",
            "guest.numa: its nodes have 512MiB in all, but the guest has 1GiB",
        ),
        (
            "guest: {numa: [{memory: 1GiB, vcpus: [0, 0]}]}",
            "guest.numa: its nodes must have each vCPU from 0 to 1 once, not [0, 0]",
        ),
        (
            "guest: {memory: 1001MiB}\nhost: {backend: hugetlb}",
            "guest.memory: must be whole 2 MiB with `host.backend: hugetlb`, not 1001MiB",
        ),
        (
            "guest: {numa: [{memory: 511MiB, vcpus: [0]}, {memory: 513MiB, vcpus: [1]}]}\n"
            "host: {backend: hugetlb}",
            "guest.numa[1].memory: must be whole 2 MiB with `host.backend: hugetlb`, not 513MiB",
        ),
        ("guest: {vcpus: 0}", "guest.vcpus: must be greater than or equal to 1, not 0"),
        ('guest: {cmdline: "a\\nb"}', "guest.cmdline: the kernel command line must be one line"),
        ("balloon: {free_page_reporting: 1}", "must be true or false, not 1"),
        ("tags: [Default]", "tags[0]: 'Default' must be small letters, digits and single hyphens"),
        ("steps: []", "steps: must have at least one item"),
        ("steps: [churn: {size: 100%}]", "must lie between 0% and 100%"),
        ("steps: [churn: {size: 1B}]", "'1B' is less than a page"),
        (
            "steps: [churn: {size: 1GiB}]",
            "steps[0].churn.size: 1GiB is not less than the guest's 1GiB",
        ),
        ("steps: [churn: {size: 10%, seed: -1}]", "steps[0].churn.seed: "),
        ("steps: [verify: {}]", "steps[0].verify: no memory is held here"),
        ("steps: [churn: {size: 10%}, verify: {}]", "steps[1].verify: no memory is held here"),
        (
            "steps: [churn: {size: 10%, free: half-of-blocks}, release: {}, release: {}]",
            "steps[2].release: no memory is held here",
        ),
        ("steps: [bind: {}]", "steps[0].bind: the driver is already bound"),
        (
            "steps: [repeat: {times: 2, steps: [unbind: {}]}]",
            "steps[0].repeat.steps[0].unbind: the driver is already unbound",
        ),
        (
            'steps: [settle: {}]\nexpect: {reported_bytes: "== 0"}',
            "expect.reported_bytes: needs a page audit, and no step is an `audit`",
        ),
        (
            'steps: [settle: {}]\nexpect: {reclaimed_bytes: ">= reclaimable_bytes"}',
            "expect.reclaimed_bytes: needs a page audit, and no step is an `audit`",
        ),
        (
            'expect: {reclaimed_fractoin: ">= 0.95"}',
            "expect.reclaimed_fractoin: there is no measure 'reclaimed_fractoin'; "
            "did you mean reclaimed_fraction",
        ),
        (
            'expect: {rounds: "== rounsd"}',
            "expect.rounds: there is no measure 'rounsd'; did you mean rounds",
        ),
        (
            'expect: {rounds: ">= frist.rounds"}',
            "expect.rounds: no audit called 'frist' comes before",
        ),
        (
            "steps: [run: {command: a, measures: [x]}]\nexpect: {y: '== 1'}",
            "expect.y: there is no measure 'y'",
        ),
        (
            "steps: [await: {until: {reported_bytes: '> 0'}, deadline: 1s}]",
            "steps[0].await: until: must have conditions, on these measures only: charged_bytes, ",
        ),
        (
            "steps: [await: {until: {rss_bytes: '> frist.rss_bytes'}, deadline: 1s}]",
            "steps[0].await.until.rss_bytes: no audit called 'frist' comes before",
        ),
        ("answer: [frist.rounds]", "answer[0]: no audit called 'frist' comes before"),
        ("answer: [rounsd]", "answer[0]: there is no measure 'rounsd'; did you mean rounds"),
        ("steps: [calm: {}]", "steps[0].calm: nothing is busy here"),
        ("steps: [plug: {device: dimm}]", "`size` is required for memory"),
        (
            "steps: [plug: {device: dimm, size: 1GiB}]",
            "steps[0].plug: needs room to plug memory; set guest.hotplug",
        ),
        (
            "steps: [plug: {device: balloon}]",
            "steps[0].plug.device: balloon is already plugged here",
        ),
        (
            "steps: [plug: {device: balloon}, unplug: {device: virtio-mem}]",
            "steps[1].unplug: needs room to plug memory; set guest.hotplug",
        ),
        (
            "steps: [unplug: {device: dimm}]\nguest: {hotplug: 1GiB}",
            "steps[0].unplug.device: dimm is not plugged here",
        ),
        (
            "steps: [unplug: {device: balloon}, unplug: {device: balloon}]",
            "steps[1].unplug.device: balloon is not plugged here",
        ),
        (
            f"steps: [{5 * 'plug: {device: dimm, size: 1MiB}, '}]\nguest: {{hotplug: 5MiB}}",
            "steps[4].plug.device: all 4 slots for DIMMs are taken here",
        ),
        (
            "steps: [plug: {device: dimm, size: 1MiB}, plug: {device: dimm, size: 1MiB}, "
            f"{3 * 'unplug: {device: dimm}, '}]\nguest: {{hotplug: 2MiB}}",
            "steps[4].unplug.device: dimm is not plugged here",
        ),
        (
            "steps: [busy: {size: 10%}, calm: {}, calm: {}]",
            "steps[2].calm: nothing is busy here",
        ),
        (
            "guest: {machine: microvm, disk: 1MiB}",
            "guest.machine: microvm cannot be used with `numa`, `hotplug` or `disk`",
        ),
        ("tags: [full, needs-swp]", "tags[1]: no need is called 'needs-swp'; did you mean"),
        ("expect: {rounds: '>= 1'}\nexpect: {}", "expect: given twice; first at line 4"),
        ("red: {guest.memroy: 1GiB}", "red: guest.memroy: unknown field; did you mean 'memory'"),
        ("red: {guest.memory: 1GB}", "red: guest.memory: '1GB' is not a size"),
        ("red: {'steps[3].settle': {}}", "red.steps[3].settle: steps of x has 1 items"),
        (f'expect: {{rounds: "== {"(" * 5000}"}}', "expect.rounds: is longer than 200 characters"),
    ],
)
def test_what_cannot_be_meant_is_refused(write: Write, text: str, message: str) -> None:
    steps = "" if text.startswith("steps") else "steps: [settle: {}]\n"
    assert any(message in line for line in said(write(HEAD + steps + text + "\n")))


def test_a_file_is_called_after_its_scenario(write: Write) -> None:
    path = write("name: y\ntitle: t\nsteps: [settle: {}]\n")
    assert said(path) == ["x.yaml:1: name: 'y' must be the file's name without .yaml: 'x'"]


def test_what_was_undone_can_be_done_again(write: Write) -> None:
    text = """\
steps:
  - churn: {size: 10%, free: half-of-blocks}
  - verify: {}
  - churn: {size: 10%, free: half-of-blocks}
  - release: {}
  - repeat: {times: 2, steps: [unbind: {}, bind: {}]}
  - repeat: {times: 2, steps: [unplug: {device: balloon}, plug: {device: balloon}]}
  - plug: {device: dimm, size: 64MiB}
  - plug: {device: virtio-mem, size: 64MiB}
  - unplug: {device: dimm}
  - plug: {device: dimm, size: 64MiB}
guest: {hotplug: 128MiB}
"""
    assert isinstance(loaded(write(HEAD + text)), Scenario)


def test_only_anonymous_memory_can_be_freed_lazily(write: Write) -> None:
    path = write(HEAD + "host: {backend: memfd-shared, discard: free}\nsteps: [settle: {}]\n")
    (line,) = said(path)
    assert (
        "host.discard: `free` (MADV_FREE) needs the `anonymous` backend, not `memfd-shared`" in line
    )


def test_a_scenario_that_presses_says_so(write: Write) -> None:
    text = "steps: [repeat: {times: 2, steps: [pressure: {}]}]\n"
    assert loaded(write(HEAD + text)).presses
    assert not loaded(write(HEAD + "steps: [settle: {}]\n")).presses


def test_the_audits_measures_are_measures() -> None:
    assert set(MEASURES) >= AUDIT_MEASURES


def test_the_needs_are_those_a_host_is_asked_for() -> None:
    assert set(NEEDS) == set(machine_needs.NEEDS)


def test_the_backends_are_those_a_machine_has() -> None:
    assert get_args(Host.model_fields["backend"].annotation) == get_args(Backend)
