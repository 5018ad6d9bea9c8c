# SPDX-License-Identifier: Apache-2.0
"""Fixtures of the machine's tests: a fake QEMU, and a check that nothing of it is left."""

import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from machine_fakes import Bench


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    """Short paths, for sockets. KVM can be tried; every test must leave nothing behind."""
    before = {thread.name for thread in threading.enumerate()}
    with tempfile.TemporaryDirectory(prefix="fprt") as directory:
        made = Bench(Path(directory), monkeypatch)
        made.prepare()
        monkeypatch.setattr("harness.machine.launch.kvm_unusable", lambda: None)
        yield made
        assert made.leftovers() == []
        assert {t.name for t in threading.enumerate() if t.name == "qmp"} <= before
