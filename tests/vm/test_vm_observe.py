# SPDX-License-Identifier: Apache-2.0
"""Every instrument on one real guest that has come to rest."""

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from harness.deadline import Deadline, wait_for
from harness.image.build import ensure_image
from harness.image.definition import load_definitions
from harness.kernel.pages import GuestState, HostState
from harness.machine.launch import launch
from harness.machine.spec import Backend, GuestSpec
from harness.machine.vm import VirtualMachine
from harness.observe import residency as residency_module
from harness.observe.balloon_stats import BalloonStatsReader, find_balloon
from harness.observe.boot_residency import BootLooks, on_host
from harness.observe.discards import DiscardLog
from harness.observe.features import read_balloon_state
from harness.observe.instruments import Instruments
from harness.observe.mapping import HostMappingReader
from harness.observe.page_audit import take_audit
from harness.observe.page_walk import ScanSupport
from harness.observe.ram_layout import parse_system_ram
from harness.observe.residency import HostResidency
from harness.observe.sampler import Sampler
from harness.record.events import Sample
from harness.units import GIB, MIB

pytestmark = pytest.mark.vm

QUIET_SECONDS = 5.0
"""Longer than two reporting passes."""


@pytest.fixture
def looks() -> BootLooks:
    return BootLooks()


@pytest.fixture(params=["anonymous", "memfd-shared"])
def vm(
    request: pytest.FixtureRequest, tmp_path: Path, looks: BootLooks
) -> Iterator[VirtualMachine]:
    backend: Backend = request.param
    image = ensure_image(load_definitions()["bookworm"], progress=print)
    with launch(
        GuestSpec(memory=GIB, vcpus=2, backend=backend),
        image,
        accel="auto",
        qemu=None,
        artefacts=tmp_path,
        progress=print,
        cancelled=threading.Event(),
        while_booting=looks.watching,
    ) as machine:
        yield machine


def test_every_instrument_agrees_on_a_guest_at_rest(
    vm: VirtualMachine, looks: BootLooks, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    instruments = Instruments.open(vm)
    seen = looks.taken()
    assert seen is not None
    booted = seen.held_for(instruments)
    assert booted.any()
    assert on_host(instruments.residency.read())[booted].all(), "and no discard took it since"

    layout = instruments.layout
    assert layout.uncovered(parse_system_ram(vm.shell.run("cat /proc/iomem").stdout.decode())) == ()

    assert find_balloon(vm.monitor) == vm.balloon_path
    balloon = read_balloon_state(vm.shell, vm.monitor, vm.balloon_path)
    assert (balloon.offered, balloon.negotiated, balloon.driver) == (True, True, "virtio_balloon")

    mapping, discards = HostMappingReader(vm.pid, layout), DiscardLog(vm.discard_log, layout)
    statistics_reader = BalloonStatsReader(vm.monitor, vm.balloon_path)
    samples: list[Sample] = []
    sampler = Sampler(
        shell=vm.shell,
        mapping=mapping,
        discards=discards,
        hz=10.0,
        sink=samples.append,
        relative=lambda at: at,
        raw_path=tmp_path / "guest-counters.bin",
    )
    sampler.start()

    def at_rest() -> bool | None:
        last = discards.last_at
        quiet = last is not None and time.monotonic() - last > QUIET_SECONDS
        return True if quiet and mapping.read().held < GIB // 2 else None

    wait_for(at_rest, Deadline(120.0, "the guest to have reported its free memory"), interval=0.2)
    stats = wait_for(statistics_reader.read, Deadline(10.0, "balloon statistics"), interval=0.2)
    sampler.stop()
    assert sampler.failures == ()
    # A guest that is late leaves samples without its counters.
    told = [sample.guest_free for sample in samples if sample.guest_free is not None]
    assert told[-1] == pytest.approx(stats.free, abs=32 * MIB)

    residency = HostResidency(vm.pid, layout)
    reading, held = take_audit(vm.shell, residency, mapping.read)
    discards.read()
    heads = np.flatnonzero(
        (reading.before == reading.after) & (reading.after == GuestState.REPORTED)
    )
    assert len(heads) > 50
    assert not (reading.host[heads] == HostState.RESIDENT).any()
    assert discards.covered[heads].all()
    resident = np.count_nonzero(reading.host == HostState.RESIDENT) * 4096
    assert resident == pytest.approx(held.held, abs=4 * MIB)

    # Whoever reads what was given back is shown zero pages, which both ways to read pages know.
    dump = {"val": 0, "size": GIB // 2, "filename": str(vm.qemu_directory / "dump")}
    vm.monitor.execute("pmemsave", dump, timeout=60.0)
    by_scan = residency.read()
    monkeypatch.setattr(residency_module, "scan_support", lambda: ScanSupport.NONE)
    by_pagemap = HostResidency(vm.pid, layout).read()
    differing = np.count_nonzero(by_scan != by_pagemap)
    assert differing < 64, "pages of a guest at rest that change between two readings"
    zeros = np.count_nonzero(by_pagemap == HostState.ZERO) * 4096
    anonymous = vm.spec.backend == "anonymous"
    assert (zeros > 128 * MIB) if anonymous else (zeros == 0)
