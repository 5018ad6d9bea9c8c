# SPDX-License-Identifier: Apache-2.0
"""`make load` sees memory that is promised twice, and guests only of the invocations it started."""

import importlib.util
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from harness.deadline import Deadline, wait_for
from harness.units import GIB, MIB

PROGRAM = Path(__file__).parents[2] / "soak" / "load.py"
INVOCATION = """
import subprocess, sys
guests = [subprocess.Popen(["sh", "-c", "read line", "qemu", "-m", f"{size}M"], stdin=-1)
          for size in sys.argv[1:]]
sys.stdin.readline()
for guest in guests:
    guest.communicate()
"""


@pytest.fixture(scope="module")
def load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("load", PROGRAM)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["load"] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def invocation() -> Iterator[int]:
    """A process with two guests, of 1 GiB and 512 MiB, that have taken next to nothing."""
    words = [sys.executable, "-c", INVOCATION, "1024", "512"]
    with subprocess.Popen(words, stdin=subprocess.PIPE) as process:
        yield process.pid
        process.communicate()


@pytest.mark.parametrize(("available", "overcommitted"), [(2 * GIB, False), (GIB, True)])
def test_what_guests_may_still_take_is_held_against_what_is_available(
    load: ModuleType,
    invocation: int,
    monkeypatch: pytest.MonkeyPatch,
    available: int,
    overcommitted: bool,
) -> None:
    monkeypatch.setattr(load, "_available", lambda: available)
    seen = wait_for(
        lambda: look if (look := load.look([invocation])).guests == 2 else None,
        Deadline(10.0, "both guests"),
    )
    assert seen.memory == GIB + 512 * MIB
    assert seen.memory - 64 * MIB < seen.to_take < seen.memory
    assert seen.overcommitted is overcommitted
    assert load.look([1 << 22]).guests == 0
