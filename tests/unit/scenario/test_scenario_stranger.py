# SPDX-License-Identifier: Apache-2.0
"""A scenario from a stranger is data: it is loaded in bounded time, and asks QEMU for little."""

import contextlib
import time
from pathlib import Path

import pytest

from harness.act.discover import VERBS
from harness.errors import HarnessError, ScenarioFileError, UsageError
from harness.resources import SCENARIOS_DIR
from harness.scenario.load import load_all, load_scenarios
from harness.scenario.model import MOST_STEPS
from harness.scenario.permission import needs_allowing, refuse_unallowed
from harness.yamlfile import MAX_BYTES, MAX_MISTAKES, parse_value

SECONDS = 10.0
"""For any file of at most 64 KiB, on a loaded machine; they take at most a fifth of it alone."""


def load(tmp_path: Path, text: str, *overrides: str) -> float:
    """Seconds until it is loaded or refused with the project's own error."""
    path = tmp_path / "x.yaml"
    path.write_text(text)
    assert len(text) <= MAX_BYTES + 1
    began = time.thread_time()
    with contextlib.suppress(HarnessError):
        load_scenarios(path, VERBS, overrides)
    return time.thread_time() - began


def scenario(steps: str, more: str = "") -> str:
    return f"name: x\ntitle: t\nsteps:\n{steps}{more}"


# --- time ---------------------------------------------------------------------------------------


def test_repeats_that_make_too_many_steps_are_refused_with_their_place(tmp_path: Path) -> None:
    """13 KB of them once took 6.5 s, and the run would have taken weeks."""
    inner = "\n".join("      - drain: {}" for _ in range(11))
    block = f"  - repeat:\n     times: 1000\n     steps:\n{inner}\n"
    path = tmp_path / "x.yaml"
    path.write_text(scenario("  - audit: {}\n" + block * 20))
    with pytest.raises(ScenarioFileError, match=rf"x.yaml:5: steps\[1\].*more than {MOST_STEPS}"):
        load_scenarios(path, VERBS)


def test_as_many_steps_as_a_scenario_may_make(tmp_path: Path) -> None:
    inner = "\n".join("      - drain: {}" for _ in range(10))
    assert load(tmp_path, scenario(f"  - repeat:\n     times: 1000\n     steps:\n{inner}\n")) < 2.0


STEPS = "".join(f"  - run: {{command: 'echo {number}'}}\n" for number in range(1700))
SWITCHES = "switches:\n" + "".join(f"  s{n}: {{guest.vcpus: {n + 1}}}\n" for n in range(8))

FILES = {
    "many steps": scenario(STEPS),
    "many steps in many variants": scenario(STEPS, SWITCHES),
    "some steps in many variants": scenario("  - drain: {}\n" * 170, SWITCHES),
    "repeats in many variants": scenario(
        "  - repeat: {times: 1000, steps: [{drain: {}}, {drain: {}}]}\n" * 5, SWITCHES
    ),
    "unknown fields": scenario("  - drain: {}\n", "".join(f"memry{n}: 1\n" for n in range(5000))),
    "unknown verbs": scenario("".join(f"  - drian{n}: {{}}\n" for n in range(3600))),
    "long names": scenario(f"  - {'d' * 60000}: {{}}\n"),
    "long condition": scenario(
        "  - audit: {}\n", f"expect: {{freed_bytes: '>= {'1 + ' * 15000}1'}}"
    ),
    "nested condition": scenario("  - audit: {}\n", f"expect: {{freed_bytes: '>= {'(' * 30000}'}}"),
    "endless number": scenario("  - churn: {size: " + "9" * 60000 + "MiB}\n"),
    "sexagesimal": scenario("  - drain: {}\n", f"reference: {'1:' * 20000}1.5\n"),
    "deep": "a: " + "[" * 60000,
    "deep blocks": "? " * 30000,
    "many documents": "---\n" * 16000,
    "directives": "%YAML 1.1\n" * 6000,
    "tags": scenario("  - drain: !<tag:yaml.org,2002:python/object/apply:os.system> ['true']\n"),
    "quotes": "a: '" + "''" * 30000,
    "flow of keys": "{" + "a:," * 20000,
    "tabs": "\t" * 60000,
    "comments": "#\n" * 30000,
}


@pytest.mark.parametrize("name", FILES)
def test_no_file_takes_long_to_load_or_refuse(tmp_path: Path, name: str) -> None:
    assert load(tmp_path, FILES[name]) < SECONDS


def test_only_so_many_mistakes_are_told(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_text(FILES["unknown fields"])
    with pytest.raises(ScenarioFileError) as caught:
        load_scenarios(path, VERBS)
    assert len(caught.value.message.splitlines()) == MAX_MISTAKES + 1
    assert "more" in caught.value.message.splitlines()[-1]


LAUGHS = (
    "["
    + ", ".join(
        f"&{new} [{', '.join([f'*{old}'] * 9)}]" if old else f"&{new} [lol]"
        for old, new in zip(" abcdefgh", "abcdefghi", strict=True)
    ).replace("* ", "*")
    + "]"
)


@pytest.mark.parametrize("value", [LAUGHS, "[" * 2000, "[&a 1, *a]", "x" * 5000, '"' + "\\" * 99])
def test_no_value_of_set_takes_long(value: str) -> None:
    """Aliases in it once ran past a minute."""
    began = time.thread_time()
    with pytest.raises(ValueError, match=r"."):
        parse_value(value)
    assert time.thread_time() - began < 1.0


# --- what it may ask of QEMU --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("command", "arguments"),
    [
        ("query-status", {}),
        ("stop", {}),
        ("cont", {}),
        ("system_reset", {}),
        ("balloon", {"value": 512 << 20}),
        ("qom-get", {"path": "/machine/peripheral/balloon0", "property": "guest-stats"}),
    ],
)
def test_what_touches_only_the_guest_is_allowed(command: str, arguments: dict[str, object]) -> None:
    assert needs_allowing(command, arguments) is None


@pytest.mark.parametrize(
    ("command", "arguments"),
    [
        ("migrate", {"uri": "exec:touch /tmp/owned"}),
        ("human-monitor-command", {"command-line": "migrate exec:true"}),
        ("screendump", {"filename": "/etc/passwd"}),
        ("pmemsave", {"val": 0, "size": 1, "filename": "x"}),
        ("dump-guest-memory", {"paging": False, "protocol": "file:/x"}),
        ("object-add", {"qom-type": "filter-dump", "id": "x", "file": "/x"}),
        ("chardev-add", {"id": "x", "backend": {"type": "file", "data": {"out": "/x"}}}),
        ("blockdev-add", {"driver": "file", "node-name": "x", "filename": "/etc/shadow"}),
        ("netdev_add", {"type": "user", "id": "x", "guestfwd": "tcp:10.0.2.9:1-cmd:sh"}),
        ("qom-set", {"path": "/machine", "property": "x", "value": 1}),
        ("xen-save-devices-state", {"filename": "/x"}),
        ("trace-file", {"name": "/x"}),
        ("query-status", {"x": {"a": "b"}}),
        ("qom-get", {"path": "a,b=c:d"}),
        ("query-", {}),
        ("query-status; x", {}),
        ("quit", {}),
    ],
)
def test_anything_else_needs_the_persons_word(
    tmp_path: Path, command: str, arguments: dict[str, object]
) -> None:
    assert needs_allowing(command, arguments) is not None
    path = tmp_path / "x.yaml"
    path.write_text(scenario(f"  - qmp: {{command: '{command}', arguments: {arguments}}}\n"))
    try:
        loaded = load_scenarios(path, VERBS)
    except ScenarioFileError as error:
        assert "qmp.command" in error.message  # noqa: PT017 - no name of a command at all
        return
    with pytest.raises(UsageError) as caught:
        refuse_unallowed(loaded, [])
    assert f"--allow-qmp {command}" in caught.value.hint
    refuse_unallowed(loaded, [command])


def test_a_command_in_a_repeat_is_seen(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_text(
        scenario(
            "  - repeat: {times: 2, steps: [{qmp: {command: migrate, arguments: {uri: x}}}]}\n"
        )
    )
    with pytest.raises(UsageError, match="'migrate'"):
        refuse_unallowed(load_scenarios(path, VERBS), ["stop"])


def test_words_of_qemus_command_line_need_the_persons_permission(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    words = "host: {qemu_args: [-device, virtio-rng-pci]}\n"
    path.write_text(scenario("  - settle: {}\n") + words)
    loaded = load_scenarios(path, VERBS)
    with pytest.raises(UsageError, match=r"further words \(-device virtio-rng-pci\)") as caught:
        refuse_unallowed(loaded, ["stop"])
    assert "--allow-qemu-args" in caught.value.hint
    refuse_unallowed(loaded, [], qemu_args=True)


def test_no_scenario_of_the_project_needs_it() -> None:
    refuse_unallowed(load_all(sorted(SCENARIOS_DIR.glob("*.yaml")), VERBS), [])
