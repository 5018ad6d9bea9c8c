# SPDX-License-Identifier: Apache-2.0
"""The balloon device from both sides: statistics, features, order; and the host's own noise."""

import json
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.errors import ObserveError
from harness.machine.interfaces import CommandResult, GuestProcess
from harness.observe.balloon_stats import BalloonStatsReader, find_balloon, parse_stats
from harness.observe.features import parse_state, read_balloon_state
from harness.observe.host_noise import HostNoiseReader, parse_noise
from harness.record.facts import HostNoise
from harness.units import KIB

DATA = Path(__file__).parents[2] / "data" / "observe"
NEVER_SENT = json.loads((DATA / "balloon-stats-none.json").read_text())
PATH = "/machine/peripheral/balloon0"
NEGOTIATED = "0110010000000000000000000000110010000000000000000000000000000000"


class ObjectModel:
    """A QMP monitor with one balloon; `stats` is what `guest-stats` answers."""

    def __init__(self, *, reporting: bool = True) -> None:
        self.stats: Any = NEVER_SENT
        self.properties: dict[str, Any] = {"free-page-reporting": reporting}

    def execute(
        self, command: str, arguments: Mapping[str, Any] | None = None, *, timeout: float = 10.0
    ) -> Any:
        assert arguments is not None
        assert timeout > 0
        if command == "qom-list":
            children = {
                "/machine/peripheral": [("type", "string"), ("balloon0", "virtio-balloon-pci")]
            }
            return [
                {"name": name, "type": kind if name == "type" else f"child<{kind}>"}
                for name, kind in children.get(str(arguments["path"]), [])
            ]
        assert arguments["path"] == PATH
        if command == "qom-set":
            self.properties[str(arguments["property"])] = arguments["value"]
            return {}
        if arguments["property"] == "guest-stats":
            return self.stats
        return self.properties[str(arguments["property"])]

    def human(self, command: str, *, timeout: float = 10.0) -> str:
        raise NotImplementedError(command, timeout)


class Shell:
    """A guest that answers one text."""

    pace = 1.0

    def __init__(self, answer: str) -> None:
        self.answer = answer

    def run(
        self, command: str, *, timeout: float = 10.0, stdin: bytes = b"", check: bool = True
    ) -> CommandResult:
        assert (timeout, stdin, check) == (10.0, b"", True)
        return CommandResult(command, 0, self.answer.encode(), b"")

    def start(self, command: str) -> GuestProcess:
        raise NotImplementedError(command)


def sent(at: int, **values: int) -> dict[str, Any]:
    names = {f"stat-{name.replace('_', '-')}": value for name, value in values.items()}
    return {"last-update": at, "stats": {**NEVER_SENT["stats"], **names}}


def test_statistics_that_never_came_are_none_and_not_huge_numbers() -> None:
    assert parse_stats(NEVER_SENT) is None


def test_statistics_the_guest_left_out_are_none() -> None:
    stats = parse_stats(sent(1795447012, free_memory=734003200, total_memory=1020997632))
    assert stats is not None
    assert (stats.free, stats.total) == (734003200, 1020997632)
    assert (stats.available, stats.disk_caches, stats.swap_in) == (None, None, None)


def test_only_statistics_that_arrived_since_the_last_look_are_given() -> None:
    model = ObjectModel()
    reader = BalloonStatsReader(model, PATH, seconds=2)
    assert model.properties["guest-stats-polling-interval"] == 2
    assert reader.read() is None
    model.stats = sent(100, free_memory=1)
    first = reader.read()
    assert first is not None
    assert first.free == 1
    assert reader.read() is None, "the same stamp: old numbers"
    model.stats = sent(102, free_memory=2)
    assert reader.read() is not None


def test_the_balloon_is_found_by_its_type() -> None:
    assert find_balloon(ObjectModel()) == PATH


@settings(deadline=None)
@given(
    st.recursive(
        st.none() | st.integers() | st.text(),
        lambda inner: st.dictionaries(
            st.sampled_from(["last-update", "stats", "stat-free-memory"]), inner
        ),
        max_leaves=5,
    )
)
def test_no_answer_makes_the_parser_fail_in_another_way(answer: Any) -> None:
    with suppress(ObserveError):
        parse_stats(answer)


def test_a_bound_driver_that_took_bit_5_has_negotiated_reporting() -> None:
    answer = f"features={NEGOTIATED}\ndriver=virtio_balloon\norder=9\nblock_order=9\n"
    state = read_balloon_state(Shell(answer), ObjectModel(), PATH)
    assert (state.offered, state.negotiated, state.page_reporting_order) == (True, True, 9)
    assert state.features == NEGOTIATED


def test_bits_are_counted_from_the_left() -> None:
    """Bit 58 is where bit 5 would be if the string began with the highest bit."""
    only_58 = "".join("1" if bit == 58 else "0" for bit in range(64))
    state = parse_state(f"features={only_58}\ndriver=virtio_balloon\norder=9\n", offered=True)
    assert not state.negotiated


def test_an_unbound_driver_has_negotiated_nothing_whatever_bits_remain() -> None:
    state = parse_state(f"features={NEGOTIATED}\norder=9\nblock_order=9\n", offered=True)
    assert state.driver is None
    assert not state.negotiated


def test_a_machine_without_a_balloon_offers_nothing() -> None:
    state = read_balloon_state(Shell("order=9\n"), ObjectModel(), None)
    assert (state.offered, state.negotiated, state.features) == (False, False, "")


def test_a_device_without_the_property_set_does_not_offer_reporting() -> None:
    state = read_balloon_state(Shell("order=9\n"), ObjectModel(reporting=False), PATH)
    assert not state.offered


@pytest.mark.parametrize(
    ("order", "expected"),
    [
        ("order=5\n", 5),
        ("", 9),
        ("order=-1\n", 9),
        ("order=4294967295\n", 9),
        ("order=11\n", 9),
        (f"features={NEGOTIATED}\norder=11\n", 11),
    ],
    ids=[
        "set",
        "Linux 5.10 has no parameter",
        "not registered",
        "not registered, as unsigned",
        "not registered, 6.1",
        "set out of reach while reporting",
    ],
)
def test_the_order_is_the_parameters_or_else_the_page_block_order(
    order: str, expected: int
) -> None:
    state = parse_state(order + "block_order=9\n", offered=True)
    assert state.page_reporting_order == expected


@pytest.mark.parametrize(
    ("delay", "seconds"),
    [("delay=10000\n", 10.0), ("delay=100\n", 0.1), ("", 2.0), ("delay=\n", 2.0)],
    ids=["set", "short", "before 7.3", "unreadable"],
)
def test_the_time_between_passes_is_the_parameters_or_else_two_seconds(
    delay: str, seconds: float
) -> None:
    assert parse_state(delay + "block_order=9\n", offered=True).pass_seconds == seconds


@settings(deadline=None)
@given(
    st.lists(
        st.sampled_from(["features=01\n", "order=9\n", "order=", "driver=x\n"]) | st.text()
    ).map("".join)
)
def test_no_guest_answer_makes_the_parser_fail_in_another_way(text: str) -> None:
    with suppress(ObserveError):
        parse_state(text, offered=True)


def recorded(name: str) -> str:
    return (DATA / name).read_text()


def test_noise_of_a_real_host() -> None:
    noise = parse_noise(
        7.0, recorded("vmstat.txt"), recorded("meminfo.txt"), recorded("pressure-memory.txt")
    )
    assert (noise.at, noise.psi_memory_some_us) == (7.0, 0)
    assert (noise.pswpin, noise.pswpout, noise.pgsteal_kswapd, noise.thp_collapse) == (0, 0, 0, 0)
    assert noise.mem_available == 24164868 * KIB


def test_every_counter_has_its_place() -> None:
    vmstat = "pswpin 1\npswpout 2\npgsteal_kswapd 3\npgsteal_direct 8\nthp_collapse_alloc 4\n"
    vmstat += "pglazyfreed 7\n"
    pressure = "some avg10=0.00 avg60=0.20 avg300=0.35 total=5\nfull avg10=0.00 total=9\n"
    noise = parse_noise(0.0, vmstat, "MemFree: 9 kB\nMemAvailable: 6 kB\n", pressure)
    assert noise == HostNoise(0.0, 1, 2, 3, 4, 5, 6 * KIB, 7)


def test_what_the_host_lacks_is_none_and_not_zero() -> None:
    noise = parse_noise(0.0, "nr_free_pages 12\n", recorded("meminfo.txt"), None)
    assert (noise.pswpout, noise.thp_collapse, noise.psi_memory_some_us) == (None, None, None)


def test_this_host_can_be_read(tmp_path: Path) -> None:
    assert HostNoiseReader().read().mem_available > 0
    with pytest.raises(ObserveError, match="cannot read the host's memory counters"):
        HostNoiseReader(tmp_path).read()


@pytest.mark.parametrize("delay", ["60001", "4294967295", "999999999999"])
def test_passes_so_rare_that_a_wait_would_not_end_are_refused(delay: str) -> None:
    with pytest.raises(ObserveError, match="every"):
        parse_state(f"delay={delay}\nblock_order=9\n", offered=True)
