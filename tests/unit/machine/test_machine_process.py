# SPDX-License-Identifier: Apache-2.0
"""QEMU's process and directory: they end with the harness, however that ends."""

import errno
import os
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from leftovers import is_gone
from machine_fakes import Bench

from harness.deadline import Deadline, wait_for
from harness.errors import InterruptedRunError, LaunchError
from harness.machine.huge_pages import HugePages, check_huge_pages, launcher
from harness.machine.owned import OWNER_FILE
from harness.machine.process import (
    QemuProcess,
    RuntimeDirectory,
    kill_all,
    processes_of,
    stop_all,
)


@pytest.fixture
def base(bench: Bench) -> Path:
    """Where runtime directories are made."""
    return bench.runtime


def sleeper(directory: RuntimeDirectory, log: Path, script: str = "sleep 60") -> QemuProcess:
    """A process that is told apart by the VM's name, as QEMU is."""
    return QemuProcess(
        ["sh", "-c", f"{script}; true", "-name", f"guest={directory.vm_id}"], directory, log, {}
    )


def test_a_directory_that_cannot_be_owned_is_not_left(
    base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some file systems have no locks; and what nobody owns, no later sweep would remove."""

    def refuse(_descriptor: int, _operation: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("harness.machine.owned.fcntl.flock", refuse)
    with pytest.raises(LaunchError, match="No locks available"):
        RuntimeDirectory()
    assert list(base.iterdir()) == []


@pytest.mark.usefixtures("base")
@pytest.mark.parametrize(("thp", "enabled"), [("never", 0), ("host", 1)])
def test_a_process_gets_no_huge_pages_if_the_host_must_give_it_none(
    thp: HugePages, enabled: int, tmp_path: Path
) -> None:
    """Not even those it asks for: the kernel says so of the program that the launcher executes."""
    directory, log = RuntimeDirectory(), tmp_path / "log"
    words = ["grep", "THP_enabled", "/proc/self/status"]
    process = QemuProcess(words, directory, log, {}, launcher=launcher(thp))
    wait_for(lambda: None if process.alive else True, Deadline(20.0, "grep to end"))
    process.end(None)
    directory.remove()
    assert log.read_text() == f"THP_enabled:\t{enabled}\n"


def test_huge_pages_that_cannot_be_kept_away_are_no_launch() -> None:
    check_huge_pages(os.getpid(), "host")
    with pytest.raises(LaunchError, match="THP_enabled: 0"):
        check_huge_pages(os.getpid(), "never")


# --- the harness dies ---------------------------------------------------------------------------

HARNESS = """
import sys, time
from pathlib import Path
from harness.machine.process import QemuProcess, RuntimeDirectory
directory = RuntimeDirectory()
words = ["sh", "-c", "trap '' TERM; sleep 60; true", "-name", f"guest={directory.vm_id}"]
process = QemuProcess(words, directory, Path(sys.argv[1]), {})
print(process.pid, directory.path, flush=True)
time.sleep(60)
"""


def wait_for_command_line(pid: int) -> None:
    """Wait until `pid` runs the shell: a program that has just begun has no command line yet."""
    wait_for(
        lambda: Path(f"/proc/{pid}/cmdline").read_bytes().startswith(b"sh\0") or None,
        Deadline(5.0, "the shell to have its command line"),
    )


def killed_harness(log: Path) -> tuple[int, Path]:
    """QEMU and directory of a harness that has been killed outright."""
    harness = subprocess.Popen(
        [sys.executable, "-c", HARNESS, str(log)], stdout=subprocess.PIPE, text=True
    )
    assert harness.stdout is not None
    pid, path = harness.stdout.readline().split()
    wait_for_command_line(int(pid))
    harness.kill()
    harness.communicate()
    return int(pid), Path(path)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else")
def test_a_process_of_another_user_by_the_name_of_a_vm_is_none_of_it() -> None:
    """Anybody can call a process so; it once ended the run with `Operation not permitted`."""
    name = "fpr-0123456789ab"
    # A builtin: the shell would become a program, which has other arguments.
    command = ["sh", "-c", "read line", f"guest={name}"]
    with (
        subprocess.Popen(command, stdin=subprocess.PIPE, user=65534) as other,
        subprocess.Popen(command, stdin=subprocess.PIPE) as own,
    ):
        try:
            for process in (other, own):
                wait_for_command_line(process.pid)
            assert processes_of(name) == [own.pid]
        finally:
            other.kill()
            own.kill()


def test_harness_killed_outright_leaves_no_qemu(base: Path, tmp_path: Path) -> None:
    pid, path = killed_harness(tmp_path / "log")
    wait_for(lambda: is_gone(pid), Deadline(5.0, "QEMU to die with its harness"))
    assert path.parent == base
    RuntimeDirectory().remove()  # the next launch clears up
    assert not path.exists()


def test_qemu_of_a_harness_killed_before_it_asked_for_the_signal_ends_with_the_next_launch(
    base: Path,
) -> None:
    directory = RuntimeDirectory()
    directory._ownership.release()
    orphan = subprocess.Popen(
        ["sh", "-c", "read line", f"guest={directory.vm_id}"], stdin=subprocess.PIPE
    )
    wait_for(lambda: processes_of(directory.vm_id) or None, Deadline(5.0, "the orphan"))
    RuntimeDirectory().remove()
    assert orphan.wait(5.0) == -signal.SIGKILL
    assert list(base.iterdir()) == []


def test_directory_of_a_living_harness_is_not_cleared_up(base: Path) -> None:
    first, second = RuntimeDirectory(), RuntimeDirectory()
    assert sorted(base.iterdir()) == sorted([first.path, second.path])
    first.remove()
    second.remove()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root makes a PID namespace with a /proc")
def test_a_harness_in_another_pid_namespace_clears_up_no_living_ones_directory(base: Path) -> None:
    """A container that shares /tmp; there this process has no number, or somebody else's."""
    directory = RuntimeDirectory()
    code = "import harness.machine.process as p; p.RuntimeDirectory().remove(); print('swept')"
    unshare = ["unshare", "--pid", "--fork", "--mount-proc"]
    done = subprocess.run([*unshare, sys.executable, "-c", code], capture_output=True, check=False)
    assert done.stdout == b"swept\n", done.stderr
    assert list(base.iterdir()) == [directory.path]
    directory.remove()


def test_an_owner_file_that_is_a_link_is_not_followed(base: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").touch()
    planted = base / "fpr-0123456789ab"
    planted.mkdir()
    (planted / OWNER_FILE).symlink_to(tmp_path / "elsewhere")
    RuntimeDirectory().remove()
    assert (planted / OWNER_FILE).is_symlink()
    shutil.rmtree(planted)


def test_foreign_directories_are_not_cleared_up(base: Path) -> None:
    for name in ("fpr-0123456789ab", "fpr-notes"):
        (base / name).mkdir()
    RuntimeDirectory().remove()
    assert len(list(base.iterdir())) == 2
    for path in base.iterdir():
        path.rmdir()


# --- where the directory lies -------------------------------------------------------------------


def test_base_too_long_for_a_socket_is_passed_over(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    long = tmp_path / ("x" * 100)
    long.mkdir()
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(long))
    directory = RuntimeDirectory()
    assert directory.path.parent != long
    directory.remove()


def test_no_usable_base_is_told_with_each_reason(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/absent")
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path / ("y" * 100)))
    with pytest.raises(LaunchError, match=r"No such file.*the path is too long"):
        RuntimeDirectory()


def test_ram_files_that_do_not_fit_are_refused_before_they_fill_the_disk(base: Path) -> None:
    with pytest.raises(LaunchError, match="no room for"):
        RuntimeDirectory(ram_files=1 << 60)
    assert list(base.iterdir()) == []


def test_directories_that_a_qemu_has_nested_without_end_go_too(base: Path) -> None:
    """Also one that a guest has taken over ends without a trace."""
    directory = RuntimeDirectory()
    here = os.open(directory.qemu, os.O_RDONLY)
    for _ in range(3000):
        os.mkdir("d", dir_fd=here)
        below = os.open("d", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(here)
    directory.remove()
    assert list(base.iterdir()) == []


# --- a host that refuses ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("number", "words"), [(errno.EMFILE, "ulimit -n"), (errno.ENOENT, "setpriv")]
)
def test_start_that_the_host_refuses_is_told_with_its_reason(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, words: str
) -> None:
    def refuse(*_args: object, **_kwargs: object) -> None:
        raise OSError(number, os.strerror(number))

    directory = RuntimeDirectory()
    monkeypatch.setattr("subprocess.Popen", refuse)
    with pytest.raises(LaunchError, match=os.strerror(number)) as caught:
        sleeper(directory, tmp_path / "log")
    assert words in caught.value.hint
    directory.remove()
    assert list(base.iterdir()) == []


# --- the end ------------------------------------------------------------------------------------


def test_end_by_request(base: Path, tmp_path: Path) -> None:
    directory = RuntimeDirectory()
    process = sleeper(directory, tmp_path / "log")
    # Not at once: setpriv has no VM's name yet, and sh's child has its parent's until it is sleep.
    wait_for(
        lambda: processes_of(directory.vm_id) == [process.pid] or None,
        Deadline(5.0, "the process alone to bear the VM's name"),
    )
    process.end(lambda: process.signal(signal.SIGINT))
    assert not process.alive
    assert processes_of(directory.vm_id) == []
    directory.remove()
    assert list(base.iterdir()) == []


@pytest.mark.usefixtures("base")
def test_end_leaves_no_other_process_of_the_vm(tmp_path: Path) -> None:
    """QEMU's helpers can be in a session of their own."""
    directory = RuntimeDirectory()
    name = f"guest={directory.vm_id}"
    process = sleeper(
        directory, tmp_path / "log", f"setsid sh -c 'sleep 60; true' {name} & sleep 60"
    )
    wait_for(
        lambda: True if len(processes_of(directory.vm_id)) >= 2 else None,
        Deadline(5.0, "the helper"),
    )
    process.end(None)
    assert processes_of(directory.vm_id) == []
    directory.remove()


@pytest.mark.usefixtures("base")
def test_ctrl_c_while_it_is_asked_to_end_kills_it(tmp_path: Path) -> None:
    directory = RuntimeDirectory()
    process = sleeper(directory, tmp_path / "log")

    def interrupted() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        process.end(interrupted)
    assert not process.alive
    directory.remove()


@pytest.mark.usefixtures("base")
def test_refusal_to_end_by_request_is_no_error(tmp_path: Path) -> None:
    directory = RuntimeDirectory()
    process = sleeper(directory, tmp_path / "log")

    def refuse() -> None:
        raise InterruptedRunError("no")

    process.end(refuse)
    assert not process.alive
    directory.remove()


@pytest.mark.usefixtures("base")
def test_status_and_last_words(tmp_path: Path) -> None:
    directory = RuntimeDirectory()
    process = sleeper(directory, tmp_path / "log", "echo first; echo last words >&2; exit 7")
    wait_for(lambda: None if process.alive else True, Deadline(5.0, "its end"))
    assert process.status == 7
    assert process.last_words() == "first / last words"
    process.end(None)
    directory.remove()


# --- all at once --------------------------------------------------------------------------------


@pytest.mark.usefixtures("base")
def test_stop_all_ends_every_wait_and_kill_all_the_stubborn(tmp_path: Path) -> None:
    directories = [RuntimeDirectory(), RuntimeDirectory()]
    mild = sleeper(directories[0], tmp_path / "mild")
    stubborn = sleeper(directories[1], tmp_path / "stubborn", "trap '' TERM; echo set; sleep 60")
    wait_for(
        lambda: True if (tmp_path / "stubborn").read_text() else None, Deadline(5.0, "the trap")
    )
    stop_all()
    wait_for(lambda: None if mild.alive else True, Deadline(5.0, "the mild one's end"))
    assert stubborn.alive
    kill_all()
    wait_for(lambda: None if stubborn.alive else True, Deadline(5.0, "the stubborn one's end"))
    assert not any(directory.path.exists() for directory in directories)
    for process in (mild, stubborn):
        process.end(None)


@pytest.mark.usefixtures("base")
def test_process_dies_with_the_thread_that_started_it(tmp_path: Path) -> None:
    """As prctl(2) has it; why one thread starts and uses a VM."""
    directory = RuntimeDirectory()
    made: list[QemuProcess] = []

    def start() -> None:
        made.append(sleeper(directory, tmp_path / "log"))
        wait_for(
            lambda: (
                True
                if Path(f"/proc/{made[0].pid}/cmdline").read_bytes().startswith(b"sh\0")
                else None
            ),
            Deadline(5.0, "setpriv to have become QEMU"),
        )

    thread = threading.Thread(target=start)
    thread.start()
    thread.join()
    wait_for(lambda: None if made[0].alive else True, Deadline(5.0, "its end"))
    made[0].end(None)
    directory.remove()


def test_every_process_is_the_leader_of_its_group(base: Path, tmp_path: Path) -> None:
    directory = RuntimeDirectory()
    process = sleeper(directory, tmp_path / "log")
    assert os.getpgid(process.pid) == process.pid
    process.end(None)
    directory.remove()
    assert list(base.iterdir()) == []
