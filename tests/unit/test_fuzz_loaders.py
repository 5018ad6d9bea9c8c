# SPDX-License-Identifier: Apache-2.0
"""Whatever is fed to a parser or loader, nothing escapes but the project's own errors.

Parsers that have such a test in their own room are not here again.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scripted_guest import LineGuest

from harness.act.discover import VERBS
from harness.errors import HarnessError
from harness.guest.churn_client import ChurnSession
from harness.image.definition import load_definitions
from harness.image.modules import module_name, parse_builtin
from harness.machine.cgroup import candidates
from harness.observe.guest_vmas import parse_mappings
from harness.observe.host_noise import parse_noise
from harness.observe.mapping import parse_smaps
from harness.observe.ram_layout import (
    parse_flat_view,
    parse_host_address,
    parse_ram_blocks,
    parse_system_ram,
)
from harness.record.event_lines import decode
from harness.resources import IMAGES_DIR, SCENARIOS_DIR
from harness.scenario.load import load_scenarios
from harness.units import parse_duration, parse_size

DATA = Path(__file__).parents[1] / "data"
ENDLESS = "9" * 5000
"""Python refuses to read a number of so many digits."""

SMAPS = (DATA / "observe" / "smaps-split.txt").read_text()
SCENARIO = (SCENARIOS_DIR / "reclaim-partial.yaml").read_text()
IMAGE = (IMAGES_DIR / "bookworm.yaml").read_text()
EVENT = json.dumps({"run": "a", "kind": "driver-changed", "t": 1.0, "bound": True})
CHURN = """\
filling bytes=1
filled bytes=8388608 pid=12 seconds=0.5
freed bytes=4096 blocks=1 held_bytes=0
"""
CGROUP = (DATA / "host" / "cgroup-v1.txt").read_text()
LAYOUT = json.loads((DATA / "observe" / "layout-pc-6g.json").read_text())
MOUNT = "30 23 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n"


def _smaps(text: str) -> object:
    return parse_smaps(text.encode(errors="replace"), ((0x7F0000000000, 0x7F0040000000),))


def _mappings(text: str) -> object:
    return parse_mappings(text.encode(errors="replace"))


def _noise(text: str) -> object:
    return parse_noise(1.0, text, text, text)


def _cgroups(text: str) -> object:
    return candidates(text, MOUNT), candidates("0::/x\n", text)


def _event(text: str) -> object:
    """A line that is no event is a ValueError: its reader knows the file and says so."""
    try:
        return decode(text.encode(errors="replace"))
    except ValueError as error:
        return error


def _size(text: str) -> object:
    """Both are read inside a model, which turns a ValueError into a mistake with its line."""
    for parse in (parse_size, parse_duration):
        try:
            parse(text)
        except ValueError:
            continue
    return None


def _churn(text: str) -> object:
    guest = LineGuest(text.encode(errors="replace"))
    with ChurnSession.start(guest, size=1 << 23, seed=1, hugepages="never", timeout=1.0) as churn:
        return churn.free_all(), churn.verify(1.0)


PARSERS: dict[str, tuple[Callable[[str], object], str]] = {
    "smaps": (_smaps, SMAPS),
    "maps": (_mappings, SMAPS),
    "noise": (_noise, "pswpin 1\npswpout 2\nMemAvailable:  7 kB\nsome avg10=0.00 total=5\n"),
    "cgroups": (_cgroups, CGROUP + MOUNT),
    "events": (_event, EVENT),
    "sizes": (_size, "12.5 GiB"),
    "churn": (_churn, CHURN),
    "modules.builtin": (parse_builtin, "kernel/drivers/virtio/virtio.ko\n"),
    "module names": (module_name, "kernel/drivers/virtio/virtio-ring.ko.xz"),
    "flat view": (parse_flat_view, str(LAYOUT)),
    "RAM blocks": (parse_ram_blocks, str(LAYOUT)),
    "host address": (parse_host_address, "Host virtual address for 0x0 (m0) is 0x7f0000000000\n"),
    "system RAM": (parse_system_ram, "00001000-0009fbff : System RAM\n"),
}


def _try(parse: Callable[[Any], object], given_it: object) -> None:
    try:
        parse(given_it)
    except HarnessError as error:
        assert error.message  # noqa: PT017 - either outcome is right


def mutations(good: str) -> st.SearchStrategy[str]:
    """A good input with a part cut out, doubled, or replaced by something else."""
    places = st.tuples(st.integers(0, len(good)), st.integers(0, len(good))).map(sorted)
    fillers = st.text(max_size=20) | st.sampled_from([ENDLESS, "-1", "\0", "٣", "0x", "nan"])
    return st.one_of(
        st.text(max_size=200),
        st.builds(lambda p, new: good[: p[0]] + new + good[p[1] :], places, fillers),
        places.map(lambda p: good[: p[1]] + good[p[0] :]),
    )


@pytest.mark.parametrize("name", PARSERS)
def test_text_brings_nothing_but_our_own_errors(name: str) -> None:
    parse, good = PARSERS[name]

    @settings(deadline=None)
    @given(mutations(good))
    def run(text: str) -> None:
        _try(parse, text)

    run()
    _try(parse, good)


@pytest.mark.parametrize("name", PARSERS)
def test_every_number_may_be_endless(name: str) -> None:
    parse, good = PARSERS[name]
    for position, char in enumerate(good[:4000]):
        if char.isdigit():
            _try(parse, good[:position] + ENDLESS + good[position + 1 :])


@pytest.mark.parametrize(
    ("load", "name", "good"),
    [
        (lambda path: load_scenarios(path, VERBS), "reclaim-partial.yaml", SCENARIO),
        (lambda path: load_definitions(path.parent), "bookworm.yaml", IMAGE),
    ],
    ids=["scenario", "image definition"],
)
def test_files_bring_nothing_but_our_own_errors(
    load: Callable[[Path], object], name: str, good: str, tmp_path: Path
) -> None:
    path = tmp_path / name

    @settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
    @given(mutations(good) | st.binary(max_size=60))
    def run(content: str | bytes) -> None:
        data = content.encode(errors="replace") if isinstance(content, str) else content
        path.write_bytes(data)
        _try(load, path)

    run()
    for position, char in enumerate(good):
        if char.isdigit() and good[position - 1] in " .(":
            path.write_text(good[:position] + ENDLESS + good[position:])
            _try(load, path)


@settings(deadline=None)
@given(st.recursive(st.none() | st.integers() | st.text(), st.lists).map(json.dumps))
def test_any_json_may_stand_in_a_line_of_results(text: str) -> None:
    _event(text)
