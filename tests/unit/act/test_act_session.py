# SPDX-License-Identifier: Apache-2.0
"""The session that verbs are carried out on in a run: what it keeps, samples, and ends."""

import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from fake_instruments import FakeInstruments

from harness.act import session as module
from harness.act.guest import Kept
from harness.act.run_record import RunRecord
from harness.act.session import GuestSession
from harness.errors import GuestError, InterruptedRunError
from harness.machine.console import Finding
from harness.machine.spec import GuestSpec
from harness.observe.features import BalloonState
from harness.observe.instruments import Instruments
from harness.record.events import ConsoleFinding, GuestReady, NoiseRead, PhaseStarted, SamplingEnded
from harness.units import GIB


class Machine(SimpleNamespace):
    """A guest that has become ready, as far as opening a session on it asks."""

    def __init__(self, name: str) -> None:
        super().__init__(
            name=name,
            shell=f"shell of {name}",
            monitor=None,
            balloon_path="/balloon",
            kernel_release="6.1.0-test",
            accel="tcg",
            qemu_version="7.2.22",
            untraced="",
            unconfined="",
            boot_seconds=3.0,
            spec=GuestSpec(GIB, 1),
            console=SimpleNamespace(new_findings=list),
            twin=lambda start: Machine(f"{start} twin"),
            another=lambda number: Machine(f"guest {number}"),
        )


class Bench:
    """Opens sessions; keeps which machines instruments were opened on, and the samplers."""

    def __init__(self, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.opened: list[str] = []
        self.samplers: list[SimpleNamespace] = []
        self.cancelled = threading.Event()
        self.directory = directory
        state = BalloonState(
            offered=True,
            features="000001",
            driver="virtio_balloon",
            page_reporting_order=4,
            pass_seconds=0.5,
        )
        monkeypatch.setattr(module, "read_balloon_state", lambda *_asked: state)
        monkeypatch.setattr(module, "read_build", lambda _shell: "#1 SMP")
        monkeypatch.setattr(Instruments, "open", self._instruments)
        monkeypatch.setattr(module, "Sampler", self._sampler)

    def _instruments(self, vm: Any) -> Any:
        self.opened.append(vm.name)
        return FakeInstruments(1).opened()

    def _sampler(self, **given: Any) -> SimpleNamespace:
        sampler = SimpleNamespace(
            **given, lost=2, failures=(GuestError("no counters"),), blind=(), running=False
        )
        sampler.start = lambda: sampler.__dict__.update(running=True)
        sampler.stop = lambda: sampler.__dict__.update(running=False)
        self.samplers.append(sampler)
        return sampler

    def session(self) -> GuestSession:
        vm: Any = Machine("first")
        record = RunRecord(lambda _event: None)
        return GuestSession.open(vm, record, self.directory, self.cancelled, detached=False)


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    return Bench(tmp_path, monkeypatch)


def test_it_begins_with_who_the_guest_is_and_samples_until_it_ends(bench: Bench) -> None:
    with bench.session() as session:
        ready, noise = session.record.events
        assert isinstance(ready, GuestReady)
        assert (ready.page_reporting_order, ready.negotiated) == (4, True)
        assert ready.build == "#1 SMP"
        assert isinstance(noise, NoiseRead)
        assert (session.reporting_order, session.pass_seconds) == (4, 0.5)
        assert bench.samplers[0].running
    assert not bench.samplers[0].running
    ended = session.record.events[-1]
    assert isinstance(ended, SamplingEnded)
    assert (ended.lost, ended.failures) == (2, ("no counters",))


def test_what_verbs_keep_is_theirs_and_closed_at_the_end_the_last_first(bench: Bench) -> None:
    closed: list[str] = []

    class Held(Kept):
        def close(self) -> None:
            closed.append("held")

    class Busy(Kept):
        def close(self) -> None:
            closed.append("busy")

    def fail() -> None:
        with bench.session() as session:
            assert session.kept(Held) is session.kept(Held)
            assert isinstance(session.kept(Busy), Busy)
            raise GuestError("a step failed")

    with pytest.raises(GuestError):
        fail()
    assert closed == ["busy", "held"]
    assert not bench.samplers[0].running


def test_a_phase_is_recorded_after_what_the_console_said_before_it(bench: Bench) -> None:
    with bench.session() as session:
        finding = Finding("warning", "WARNING: at mm/x.c", "text")
        session.vm.console.new_findings = lambda: [finding]  # type: ignore[method-assign]
        session.phase("settle", "at most 60 s")
        said, begun = session.record.events[-2:]
    assert isinstance(said, ConsoleFinding)
    assert (said.severity, said.title) == ("warning", "WARNING: at mm/x.c")
    assert isinstance(begun, PhaseStarted)
    assert (begun.phase, begun.detail) == ("settle", "at most 60 s")
    assert session.phases == 1


def test_a_run_that_was_asked_to_stop_begins_no_phase(bench: Bench) -> None:
    with bench.session() as session:
        bench.cancelled.set()
        with pytest.raises(InterruptedRunError):
            session.phase("settle")
        assert session.phases == 0


def test_in_its_twin_the_guest_is_watched_anew(bench: Bench) -> None:
    with bench.session() as session:
        twin = session.twin("incoming")
        assert bench.opened == ["first"], "the guest is not there yet"
        session.move_to_twin()
        assert session.vm is twin
        assert bench.opened == ["first", "incoming twin"]
        first, second = bench.samplers
        assert (first.running, second.running) == (False, True)
        assert second.shell == "shell of incoming twin"


def test_another_layout_is_read_on_the_same_machine(bench: Bench) -> None:
    with bench.session() as session:
        before = session.instruments
        session.reopen_instruments()
        assert session.instruments is not before
        assert bench.opened == ["first", "first"]
        assert [sampler.running for sampler in bench.samplers] == [False, True]


def test_a_further_guest_is_watched_and_not_sampled(bench: Bench) -> None:
    with bench.session() as session:
        other = session.another(2)
        assert bench.opened == ["first", "guest 2"]
        assert (other.reporting_order, other.pass_seconds) == (4, 0.5)
        assert len(bench.samplers) == 1


def test_the_console_of_a_further_guest_is_read_like_the_first_ones(bench: Bench) -> None:
    with bench.session() as session:
        other: Any = session.another(2).vm
        finding = Finding("warning", "WARNING: at mm/page_reporting.c:1", "text")
        other.console.new_findings = lambda: [finding]
        session.phase("crowd", "guest 3 boots")
        said = session.record.events[-2]
    assert isinstance(said, ConsoleFinding)
    assert said.title == "guest 2: WARNING: at mm/page_reporting.c:1"
