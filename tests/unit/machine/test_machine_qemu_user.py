# SPDX-License-Identifier: Apache-2.0
"""Where the harness is root, QEMU is another user, who owns nothing but what the VM needs."""

import os
import pwd
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from leftovers import is_gone
from machine_fakes import SPEC, FakeBoot
from qemus import a_qemu

from harness.deadline import Deadline, wait_for
from harness.errors import LaunchError, UsageError
from harness.machine.accel import user_under
from harness.machine.keys import RunKeys
from harness.machine.process import QemuProcess, RuntimeDirectory
from harness.machine.qemu_files import QemuFiles
from harness.machine.qemu_probe import find_qemu
from harness.machine.qemu_user import AS_ROOT, VARIABLE, QemuUser, wanted_user
from harness.machine.spec import Launch
from harness.machine.user_trial import trouble_as

CAP_IPC_LOCK = 1 << 14
OTHER = QemuUser("other", 54321, 54322, (54322,))
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")


@pytest.fixture
def open_place(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A directory that every user reaches, where VMs have theirs."""
    with tempfile.TemporaryDirectory(prefix="fprt") as name:
        path = Path(name)
        path.chmod(0o755)
        monkeypatch.setenv("XDG_RUNTIME_DIR", name)
        monkeypatch.setattr("tempfile.gettempdir", lambda: name)
        yield path


def program(path: Path, script: str) -> Path:
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return path


def status_of(pid: int) -> dict[str, list[str]]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {name: words.split() for name, _, words in (line.partition(":") for line in lines)}


# --- who it is ----------------------------------------------------------------------------------


@pytest.mark.parametrize("uid", [0, 1000])
def test_only_root_has_another_user(monkeypatch: pytest.MonkeyPatch, uid: int) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.setattr("os.geteuid", lambda: uid)
    user = wanted_user()
    if uid:
        assert user == ""
    else:
        assert isinstance(user, QemuUser)
        nobody = pwd.getpwnam("nobody")
        assert (user.name, user.uid, user.gid) == ("nobody", nobody.pw_uid, nobody.pw_gid)
        assert not user.asked


def test_the_user_can_be_chosen_by_name_and_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 0)
    daemon = pwd.getpwnam("daemon")
    for word in ("daemon", str(daemon.pw_uid)):
        monkeypatch.setenv(VARIABLE, word)
        user = wanted_user()
        assert isinstance(user, QemuUser)
        assert (user.uid, user.gid, user.asked) == (daemon.pw_uid, daemon.pw_gid, True)
        assert daemon.pw_gid in user.groups
    monkeypatch.setenv(VARIABLE, "root")
    assert wanted_user() == AS_ROOT


def test_a_user_that_cannot_be_had_is_bad_usage(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "nobody-of-that-name")
    with pytest.raises(UsageError, match="no such user"):
        wanted_user()
    monkeypatch.setenv(VARIABLE, "99999999999999999999")
    with pytest.raises(UsageError, match="no such user"):
        wanted_user()
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    monkeypatch.setenv(VARIABLE, "daemon")
    with pytest.raises(UsageError, match="only root"):
        wanted_user()


def test_a_host_without_nobody_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(_name: str) -> None:
        raise KeyError

    monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.setattr("os.geteuid", lambda: 0)
    monkeypatch.setattr("pwd.getpwnam", unknown)
    assert wanted_user() == "this host has no user nobody"


def test_a_user_reaches_what_the_modes_of_all_directories_let_it(tmp_path: Path) -> None:
    deep = tmp_path / "outer" / "inner"
    deep.mkdir(parents=True)
    state = deep.stat()
    owner = QemuUser("owner", state.st_uid, 54322, (54322,))
    member = QemuUser("member", 54321, state.st_gid, (state.st_gid,))
    deep.chmod(0o610)
    assert [user._passes(deep.stat()) for user in (owner, member, OTHER)] == [False, True, False]
    deep.chmod(0o101)
    assert [user._passes(deep.stat()) for user in (owner, member, OTHER)] == [True, False, True]
    with tempfile.TemporaryDirectory(prefix="fprt") as name:
        inside = Path(name, "inside")
        inside.mkdir()
        assert not OTHER.reaches(inside), "its parent is its owner's alone"
        Path(name).chmod(0o711)
        assert OTHER.reaches(inside)


@pytest.mark.parametrize(
    ("mode", "group", "groups"),
    [
        (0o666, 54400, (54322,)),
        (0o660, 54400, (54322, 54400)),
        (0o660, 0, None),
        (0o640, 54400, None),
        (0o600, 54400, None),
    ],
)
@as_root
def test_kvm_is_had_through_the_devices_group(
    tmp_path: Path, mode: int, group: int, groups: tuple[int, ...] | None
) -> None:
    device = tmp_path / "kvm"
    device.touch()
    os.chown(device, 0, group)
    device.chmod(mode)
    user, why = user_under(OTHER, "kvm", device)
    if groups is None:
        assert user is None
        assert "for root only" in why
        with pytest.raises(LaunchError, match="cannot run as other"):
            user_under(replace(OTHER, asked=True), "kvm", device)
    else:
        assert user is not None
        assert (user.groups, why) == (groups, "")
    assert user_under(OTHER, "tcg", device) == (OTHER, "")


def test_a_device_that_is_gone_is_told(tmp_path: Path) -> None:
    assert user_under(OTHER, "kvm", tmp_path / "kvm")[1].endswith("No such file or directory")


# --- whether it works ---------------------------------------------------------------------------

GREETS = """echo '{"QMP": {}}'; exec cat"""


@as_root
def test_a_qemu_that_runs_as_another_user_is_tried_as_that(open_place: Path) -> None:
    who = open_place / "who"
    who.touch()
    who.chmod(0o666)
    qemu = program(open_place / "qemu", f"id -u >{who}; {GREETS}")
    assert trouble_as(OTHER, qemu) == ""
    assert who.read_text() == "54321\n"


@as_root
@pytest.mark.parametrize(
    ("mode", "script", "words"),
    [(0o700, GREETS, "Permission denied"), (0o755, "echo no libraries", "no libraries")],
)
def test_what_that_user_cannot_run_is_told(
    open_place: Path, mode: int, script: str, words: str
) -> None:
    qemu = program(open_place / "qemu", script)
    qemu.chmod(mode)
    assert words in trouble_as(OTHER, qemu)


@as_root
@pytest.mark.parametrize(
    ("lacking", "words"),
    [("sys_ptrace", "may not read /proc/"), ("setuid", "as other it says setpriv")],
)
def test_a_root_with_fewer_capabilities_says_what_it_may_not(
    open_place: Path, lacking: str, words: str
) -> None:
    """As in a container."""
    qemu = program(open_place / "qemu", GREETS)
    code = (
        "from pathlib import Path; from harness.machine.qemu_user import QemuUser;"
        "from harness.machine.user_trial import trouble_as;"
        f"print(trouble_as({OTHER!r}, Path({str(qemu)!r})))"
    )
    fewer = ["setpriv", "--bounding-set", f"-{lacking}", "--", sys.executable, "-c", code]
    done = subprocess.run(fewer, capture_output=True, text=True, check=False)
    assert words in done.stdout, done.stderr


@as_root
def test_a_qemu_out_of_reach_runs_as_root_and_says_so_unless_a_user_was_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.setattr("harness.machine.qemu_probe.probe", lambda path: a_qemu(path=path))
    with tempfile.TemporaryDirectory(prefix="fprt") as name:
        qemu = program(Path(name) / "qemu", GREETS)
        found = find_qemu(qemu)
        assert found.user is None
        assert "it runs as root: as nobody it says" in found.unconfined
        monkeypatch.setenv(VARIABLE, "nobody")
        with pytest.raises(LaunchError, match=r"QEMU cannot run as nobody \(FPR_QEMU_USER\)"):
            find_qemu(qemu)
        Path(name).chmod(0o711)
        assert find_qemu(program(Path(name) / "reached", GREETS)).user is not None


@as_root
def test_a_build_in_roots_cache_is_reached_and_any_other_program_there_is_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The build finds its files beside its script, as those of harness/image/qemu_build.py do."""
    with tempfile.TemporaryDirectory(prefix="fprt") as name:
        monkeypatch.setenv("XDG_CACHE_HOME", name)
        build = Path(name) / "fpr-harness" / "qemu" / "sid" / "0123"
        build.mkdir(parents=True)
        build.chmod(0o700)
        program(build / "binary", GREETS)
        script = program(build / "qemu", 'exec "${0%/*}/binary" "$@"')
        assert trouble_as(OTHER, script) == ""
        elsewhere = program(Path(name) / "qemu", f"exec {build}/binary")
        assert "Permission denied" in trouble_as(OTHER, elsewhere)


# --- what it gets -------------------------------------------------------------------------------


@as_root
def test_the_vms_directory_is_roots_and_the_one_in_it_qemus(open_place: Path) -> None:
    directory = RuntimeDirectory(user=OTHER)
    outer, inner = directory.path.stat(), directory.qemu.stat()
    assert (outer.st_uid, outer.st_gid, outer.st_mode & 0o777) == (0, OTHER.gid, 0o710)
    assert (inner.st_uid, inner.st_gid, inner.st_mode & 0o777) == (OTHER.uid, OTHER.gid, 0o700)
    directory.remove()
    assert list(open_place.iterdir()) == []


@as_root
def test_a_base_that_user_cannot_reach_is_passed_over(
    monkeypatch: pytest.MonkeyPatch, open_place: Path
) -> None:
    hidden = open_place / "hidden"
    hidden.mkdir(mode=0o700)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(hidden))
    directory = RuntimeDirectory(user=OTHER)
    assert (directory.path.parent, directory.as_root) == (open_place, "")
    directory.remove()
    open_place.chmod(0o700)
    directory = RuntimeDirectory(user=OTHER)
    assert directory.user is None
    assert "other may not enter it" in directory.as_root
    assert directory.path.stat().st_mode & 0o777 == 0o700
    directory.remove()
    with pytest.raises(LaunchError, match="other may not enter it"):
        RuntimeDirectory(user=replace(OTHER, asked=True))
    assert list(hidden.iterdir()) == []


@as_root
@pytest.mark.usefixtures("open_place")
def test_it_reads_copies_and_writes_logs_where_it_reaches_no_path(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    boot = FakeBoot(tmp_path / "kernel", tmp_path / "initramfs")
    boot.kernel.write_bytes(b"a kernel")
    boot.kernel.chmod(0o600)
    boot.initramfs.write_bytes(b"an initramfs!")
    runtime = RuntimeDirectory(user=OTHER)
    spec = replace(SPEC, disk=4096)
    given = Launch(spec, boot, a_qemu(), tmp_path / "results", threading.Event())
    files = QemuFiles(given, runtime, RunKeys.generate())
    made = files.launch
    script = (
        f"cat {made.kernel} && head -c 5 {made.initramfs} && echo said >{made.console_log} && "
        f"echo traced >{made.discard_log} && echo x >{made.disk} && touch {made.runtime}/m0.ram; "
        f"cat {runtime.path}/ssh_key; ls {runtime.path}; touch {runtime.path}/new; echo $LD_PRELOAD"
    )
    process = QemuProcess(
        ["sh", "-c", script], runtime, tmp_path / "log", files.environment, files.descriptors
    )
    wait_for(lambda: None if process.alive else True, Deadline(5.0, "its end"))
    said = (tmp_path / "log").read_text()
    assert said.startswith("a kernelan in")
    assert said.count("Permission denied") == 3, "the key, the directory to be listed, and changed"
    assert (tmp_path / "results" / "console.log").read_text() == "said\n"
    assert (tmp_path / "results" / "discards.log").read_text() == "traced\n"
    assert (runtime.qemu / "disk").read_bytes() == b"x\n"
    assert (runtime.qemu / "m0.ram").stat().st_uid == OTHER.uid
    process.end(None)
    files.close()
    assert {path.stat().st_uid for path in (tmp_path / "results").iterdir()} == {0}
    runtime.remove()


@as_root
@pytest.mark.parametrize(("locks", "capabilities"), [(False, 0), (True, CAP_IPC_LOCK)])
@pytest.mark.usefixtures("open_place")
def test_it_has_no_capabilities_but_that_to_lock_memory_where_it_is_to(
    tmp_path: Path, locks: bool, capabilities: int
) -> None:
    runtime, log = RuntimeDirectory(user=replace(OTHER, locks=locks)), tmp_path / "log"
    words = ["sh", "-c", "echo up; sleep 60; true", f"guest={runtime.vm_id}"]
    process = QemuProcess(words, runtime, log, {})
    wait_for(lambda: log.read_text() or None, Deadline(5.0, "setpriv to have become QEMU"))
    status = status_of(process.pid)
    assert (status["Uid"], status["Gid"]) == (["54321"] * 4, ["54322"] * 4)
    assert status["Groups"] == ["54322"]
    for kind in ("CapInh", "CapPrm", "CapEff", "CapAmb"):
        assert int(status[kind][0], 16) == capabilities, kind
    assert status["NoNewPrivs"] == ["1"]
    process.end(None)
    assert not process.alive
    runtime.remove()


HARNESS = f"""
import sys, time
from pathlib import Path
from harness.machine.process import QemuProcess, RuntimeDirectory
from harness.machine.qemu_user import QemuUser
directory = RuntimeDirectory(user={OTHER!r})
words = ["sh", "-c", "trap '' TERM; echo up; sleep 60; true", f"guest={{directory.vm_id}}"]
process = QemuProcess(words, directory, Path(sys.argv[1]), {{}})
while not Path(sys.argv[1]).read_text():
    time.sleep(0.01)
print(process.pid, directory.path, flush=True)
time.sleep(60)
"""


@as_root
@pytest.mark.usefixtures("open_place")
def test_it_dies_with_a_harness_that_is_killed_outright(tmp_path: Path) -> None:
    harness = subprocess.Popen(
        [sys.executable, "-c", HARNESS, str(tmp_path / "log")], stdout=subprocess.PIPE, text=True
    )
    assert harness.stdout is not None
    pid, path = harness.stdout.readline().split()
    harness.kill()
    harness.communicate()
    wait_for(lambda: is_gone(int(pid)), Deadline(5.0, "QEMU to die with its harness"))
    RuntimeDirectory().remove()  # the next launch clears up
    assert not Path(path).exists()


@as_root
@pytest.mark.usefixtures("open_place")
def test_one_that_did_not_die_ends_with_the_next_launch() -> None:
    runtime = RuntimeDirectory(user=OTHER)
    runtime._ownership.release()
    orphan = subprocess.Popen(
        ["setpriv", *OTHER.words, "sh", "-c", "echo up; read line", f"guest={runtime.vm_id}"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert orphan.stdout is not None
    assert orphan.stdout.readline() == b"up\n"
    RuntimeDirectory().remove()
    assert orphan.wait(5.0) == -signal.SIGKILL
    assert not runtime.path.exists()
