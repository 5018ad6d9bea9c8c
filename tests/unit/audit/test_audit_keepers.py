# SPDX-License-Identifier: Apache-2.0
"""Whom a guest's kernel names as users of its memory, where the kernel is broken or hostile.

drgn is played: its helpers walk lists of the guest, and read its memory at each step.
"""

import contextlib
import itertools
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from harness.audit import keepers
from harness.audit.keepers import NOT_NAMED, find_keepers
from harness.audit.struct_pages import Kind
from harness.deadline import Deadline
from harness.observe.ram_layout import RamLayout
from harness.record.address_map import RamPiece
from harness.units import MIB

PAGES = 1 << 16
SECTION = 1 << 15
LAYOUT = RamLayout((RamPiece(0, PAGES, "ram", 0, 0),), ())
PROCESS = 0x1000 | Kind.ANONYMOUS
CACHE = 0x2000 | Kind.SLAB


class FaultError(Exception):
    """drgn's, for memory that is not there."""


class Memory:
    """Where drgn reads."""

    def __init__(self, deadline: Deadline) -> None:
        self.deadline = deadline
        self.pieces = LAYOUT.pieces

    def step(self) -> None:
        time.sleep(0.001)
        self.deadline.check()


class Played:
    """Plays drgn for `find_keepers`, which sees two sections of a process's and a cache's pages."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.memory: Memory | None = None
        self.tasks: Callable[[], Iterator[Any]] = lambda: iter(())
        self.look: Callable[[], None] = lambda: None
        self.cache_name = b"dentry"
        for name in ("", ".helpers", ".helpers.linux", ".helpers.linux.mm", ".helpers.linux.pid"):
            monkeypatch.setitem(sys.modules, f"drgn{name}", ModuleType(f"drgn{name}"))
        parts: dict[str, Any] = {
            "": {"FaultError": FaultError, "Object": lambda *_: self},
            ".helpers.linux.mm": {"for_each_vma": iter},
            ".helpers.linux.pid": {"for_each_task": lambda _: self.tasks()},
        }
        for name, content in parts.items():
            sys.modules[f"drgn{name}"].__dict__.update(content)
        monkeypatch.setattr(keepers, "guest_kernel", self.open)
        monkeypatch.setattr(keepers, "page_shape", lambda _: None)
        monkeypatch.setattr(keepers, "_all_owners", self.owners)

    @contextlib.contextmanager
    def open(self, *given: Any) -> Iterator[tuple[Any, Memory]]:
        self.memory = Memory(given[-1])
        self.look()
        yield self, self.memory

    def owners(self, *_: Any) -> Iterator[Any]:
        for owner in (PROCESS, CACHE):
            self.look()
            yield np.full(SECTION, owner, np.uint64)

    @property
    def name(self) -> Any:
        return SimpleNamespace(value_=lambda: 0)

    def read_c_string(self, _address: int, *, max_size: int) -> bytes:
        self.step()
        return self.cache_name[:max_size]

    def step(self) -> None:
        assert self.memory is not None
        self.memory.step()

    def task(self, number: int, areas: Any) -> Any:
        self.step()
        value = SimpleNamespace(value_=lambda: number)
        comm = SimpleNamespace(string_=lambda: b"postgres")
        return SimpleNamespace(mm=areas, pid=value, tgid=value, comm=comm)


@pytest.fixture
def guest(monkeypatch: pytest.MonkeyPatch) -> Played:
    for name in ("OPEN_SECONDS", "PAGES_SECONDS", "NAMES_SECONDS"):
        monkeypatch.setattr(keepers, name, 0.1)
    return Played(monkeypatch)


def found() -> tuple[dict[str, int], str]:
    """The size of each user by name, and all that there was no time for."""
    told = find_keepers(1, LAYOUT, np.zeros(PAGES, np.uint8), Path("vmlinux"))
    return {keeper.name: keeper.size for keeper in told.found}, "; ".join(told.unknown)


def area() -> Any:
    return SimpleNamespace(anon_vma=SimpleNamespace(value_=lambda: 0x1000))


def test_users_have_names(guest: Played) -> None:
    guest.tasks = lambda: iter([guest.task(7, [area()])])
    assert found() == ({"postgres (7)": 128 * MIB, "dentry": 128 * MIB}, "")


def test_a_list_of_processes_that_leads_in_a_circle_comes_to_an_end(guest: Played) -> None:
    guest.tasks = lambda: (guest.task(7, None) for _ in itertools.repeat(0))
    named, unknown = found()
    assert named == {NOT_NAMED: 128 * MIB}, "of the process, and of the cache"
    assert "the guest's processes: their list is broken, or longer than" in unknown
    assert "the names of 1 of the guest's files and slab caches" in unknown


def test_mappings_that_lead_in_a_circle_come_to_an_end(guest: Played) -> None:
    def forever() -> Iterator[Any]:
        while True:
            guest.step()
            yield area()

    guest.tasks = lambda: iter([guest.task(7, forever())])
    named, unknown = found()
    assert named["postgres (7)"] == 128 * MIB, "what was learnt by then is shown"
    assert "their list is broken" in unknown


def test_pages_that_take_too_long_leave_what_was_seen(guest: Played) -> None:
    turns = itertools.count()

    def slow() -> None:
        while next(turns) > 1:  # the kernel and the first section are quick
            guest.step()

    guest.look = slow
    named, unknown = found()
    assert named == {"shared after fork, or of a process that has ended": 128 * MIB}
    assert "who keeps the last 128MiB of the guest's memory: the look at its pages" in unknown


def test_a_kernel_that_is_not_found_in_time_spoils_no_audit(guest: Played) -> None:
    def slow() -> None:
        while True:
            guest.step()

    guest.look = slow
    assert found() == ({}, "who in the guest keeps its memory: waited 0.1 s for the guest's kernel")


@pytest.mark.parametrize("error", [FaultError, ValueError, KeyError, RecursionError, OverflowError])
def test_a_list_that_makes_no_sense_is_no_name(guest: Played, error: type[Exception]) -> None:
    def broken() -> Iterator[Any]:
        yield guest.task(7, [area()])
        raise error

    guest.tasks = broken
    named, unknown = found()
    assert named["postgres (7)"] == 128 * MIB
    assert "their list is broken" in unknown


def test_a_name_without_an_end_is_cut(guest: Played) -> None:
    guest.cache_name = b"x" * (1 << 20)
    assert "x" * keepers.MOST_NAME_BYTES in found()[0]
