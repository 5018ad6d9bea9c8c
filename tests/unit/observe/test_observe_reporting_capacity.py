# SPDX-License-Identifier: Apache-2.0
"""How many blocks a guest reports in one call: by its version, or by the size of its queue."""

from collections.abc import Mapping
from typing import Any

import pytest

from harness.errors import ObserveError, QmpError
from harness.observe.reporting_capacity import Capacity, read_capacity

BALLOON = "/machine/peripheral/balloon0"


class Monitor:
    """A QEMU that tells the size of its queues, or refuses to."""

    def __init__(self, size: Any, *, hints: bool = False) -> None:
        self.size = size
        self.hints = hints
        self.asked: list[Mapping[str, Any]] = []

    def execute(
        self, command: str, arguments: Mapping[str, Any] | None = None, *, timeout: float = 10.0
    ) -> Any:
        del timeout
        assert arguments is not None
        if command == "qom-get":
            return self.hints
        assert command == "x-query-virtio-queue-status"
        self.asked.append(arguments)
        if isinstance(self.size, Exception):
            raise self.size
        return self.size

    def human(self, command: str, *, timeout: float = 10.0) -> str:
        raise NotImplementedError((command, timeout))


def capacity(monitor: Monitor, release: str) -> Capacity:
    return read_capacity(monitor, BALLOON, release)


@pytest.mark.parametrize("release", ["5.10.0-46-cloud-amd64", "6.1.0", "7.1.13+deb13-cloud-amd64"])
def test_up_to_7_1_it_is_the_kernels_constant(release: str) -> None:
    monitor = Monitor({"vring-num": 8})
    assert capacity(monitor, release) == Capacity(32, "kernel")
    assert not monitor.asked


@pytest.mark.parametrize("release", ["7.2.13+deb14-cloud-amd64", "7.3.0-rc7", "8.0.0", "mine"])
@pytest.mark.parametrize(("hints", "queue"), [(False, 3), (True, 4)])
def test_from_7_2_it_is_the_size_of_the_reporting_queue(
    release: str, hints: bool, queue: int
) -> None:
    monitor = Monitor({"vring-num": 128}, hints=hints)
    assert capacity(monitor, release) == Capacity(32, "queue")
    assert monitor.asked == [{"path": f"{BALLOON}/virtio-backend", "queue": queue}]


def test_a_guest_that_reports_less_at_once_is_not_judged_by_rules_for_more() -> None:
    with pytest.raises(ObserveError, match="reports 16 blocks in one call"):
        capacity(Monitor({"vring-num": 16}), "7.2.13")


@pytest.mark.parametrize("answer", [QmpError("unknown command"), None, {}, {"vring-num": 0}])
def test_where_qemu_cannot_tell_it_is_assumed_and_said_so(answer: Any) -> None:
    assert capacity(Monitor(answer), "7.2.13") == Capacity(32, "assumed")


def test_without_a_balloon_there_is_nothing_to_ask() -> None:
    assert read_capacity(Monitor({"vring-num": 16}), None, "7.2.13") == Capacity(32, "assumed")
