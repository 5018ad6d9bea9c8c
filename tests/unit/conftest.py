# SPDX-License-Identifier: Apache-2.0
"""Fixtures that several modules of tests share."""

import os
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from fake_guest import FakeGuest
from filelock import FileLock
from local_guest import LocalShell
from machine_fakes import Bench

from harness.image.compile import compile_c, tool_sources

HERE = Path(__file__).parent
IMAGES = HERE.parents[1] / "guest-images"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the files with whole commands before the others: with `--dist loadfile` a worker takes a
    file whole, and a long one among the last keeps one worker busy for minutes."""
    whole = {item.path for item in items if item.get_closest_marker("whole_command")}
    items.sort(key=lambda item: (item.path.is_relative_to(HERE), item.path not in whole))


@pytest.fixture(autouse=True)
def own_user(monkeypatch: pytest.MonkeyPatch) -> None:
    """A fake QEMU runs as this process does, be it root: its sources may be where no other user
    reaches. The tests of other users choose their own."""
    if os.geteuid() == 0:
        monkeypatch.setenv("FPR_QEMU_USER", "root")


@pytest.fixture(autouse=True)
def no_job_of_github(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a command prints is the same in a job of GitHub Actions, unless a test is of that."""
    monkeypatch.delenv("GITHUB_ACTIONS", raising=False)


@pytest.fixture(autouse=True)
def no_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test waits for what else measures on this host, unless it is of that."""
    monkeypatch.setenv("FPR_HOST_TURN_HELD", "1")


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


@pytest.fixture
def one_visit(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Visits put their tool into /tmp, where a test looks for what is left of any: one at a time,
    among the workers of a run too."""
    with FileLock(tmp_path_factory.getbasetemp().parent / "visits.lock"):
        yield


@pytest.fixture
def guest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeGuest:
    """For verbs to be carried out on."""
    return FakeGuest(tmp_path, monkeypatch)


@pytest.fixture(scope="session")
def tool() -> Iterator[Path]:
    """The binary, where every user can run it."""
    with tempfile.TemporaryDirectory(prefix="fpr-test-") as directory:
        Path(directory).chmod(0o755)
        path = Path(directory) / "fpr-guest"
        compile_c(tool_sources(IMAGES), path)
        yield path


@pytest.fixture
def shell(tool: Path) -> LocalShell:
    return LocalShell(tool)
