# SPDX-License-Identifier: Apache-2.0
"""A launch from beginning to end, against a fake QEMU: every way it goes wrong, and what is said.

After each test nothing of the VM may be left (see conftest.py).
"""

import errno
import os
import shutil
import signal
import threading
import time
from pathlib import Path

import paramiko
import pytest
from machine_fakes import Bench
from qemu.qmp import Message
from qemus import a_qemu

from harness.errors import (
    BootError,
    DeadlineError,
    GuestBootError,
    GuestCrashError,
    GuestError,
    InterruptedRunError,
    LaunchError,
    QemuGoneError,
    QmpError,
    SshError,
)
from harness.machine.accel import USUAL_BOOT_SECONDS
from harness.machine.pace import MOST
from harness.machine.qmp import _LoggedClient
from harness.machine.spec import Accelerator
from harness.machine.ssh_process import ERROR_BYTES

QUICK = 8.0
"""Seconds within which what needs no deadline must be over, on a loaded machine."""


# --- the accelerator ----------------------------------------------------------------------------


def test_auto_takes_kvm_if_the_guest_becomes_ready_under_it(bench: Bench) -> None:
    with bench.launch("auto", kvm="ready", tcg="abort") as vm:
        assert (vm.accel, vm.qemu_version, vm.kernel_release) == ("kvm", "9.1.2", "6.1.0-fake")
        assert vm.boot_seconds > 0
    assert "KVM" in bench.progress[-1]


@pytest.mark.parametrize(
    ("kvm", "why"),
    [
        ("abort", "failed to set MSR"),
        ("pause", "internal-error"),
        ("crawl", "waited 1.0 s"),
        ("liar", "query-kvm"),
    ],
)
def test_auto_takes_tcg_loudly_if_not(bench: Bench, kvm: str, why: str) -> None:
    bench.monkeypatch.setattr("harness.machine.accel.KVM_BOOT_SECONDS", 1.0)
    bench.monkeypatch.setattr("harness.machine.accel.TCG_BOOT_SECONDS", 20.0)
    with bench.launch("auto", kvm=kvm, boot_deadline=0.0) as vm:
        assert vm.accel == "tcg"
    assert "TCG" in bench.progress[-1]
    assert why in bench.progress[-1]


@pytest.mark.parametrize("kvm", ["panic", "oops", "failed", "stranger", "triple-fault"])
def test_guest_that_fails_by_itself_under_kvm_is_told_and_not_booted_under_tcg(
    bench: Bench, kvm: str
) -> None:
    with pytest.raises(GuestBootError, match="under kvm"):
        bench.launch("auto", kvm=kvm)
    assert (bench.artefacts / "console.log").read_text().startswith("[    0.000000] Linux")
    assert bench.progress == []
    with bench.launch("auto") as vm:
        assert vm.accel == "kvm"


@pytest.mark.parametrize(("kvm", "kept"), [("crawl", True), ("abort", False)])
def test_what_a_guest_said_under_kvm_is_kept_where_it_said_anything(
    bench: Bench, kvm: str, kept: bool
) -> None:
    bench.monkeypatch.setattr("harness.machine.accel.KVM_BOOT_SECONDS", 1.0)
    bench.monkeypatch.setattr("harness.machine.accel.TCG_BOOT_SECONDS", 20.0)
    with bench.launch("auto", kvm=kvm, boot_deadline=0.0):
        pass
    aside = bench.artefacts / "kvm"
    found = {path.name for path in aside.iterdir()} if aside.exists() else set()
    assert found == ({"console.log", "qemu.log", "qmp.log"} if kept else set())
    assert "fpr-init: ready" in (bench.artefacts / "console.log").read_text()


def test_qemu_that_ends_under_a_guest_that_ran_is_tried_again_next_time(bench: Bench) -> None:
    with bench.launch("auto", kvm="vanish") as vm:
        assert vm.accel == "tcg"
    assert (bench.artefacts / "kvm" / "console.log").exists()
    with bench.launch("auto") as vm:
        assert vm.accel == "kvm"


def test_cancelled_before_the_launch_no_qemu_is_started(bench: Bench) -> None:
    bench.cancelled.set()
    with pytest.raises(InterruptedRunError):
        bench.launch("tcg")
    assert not (bench.artefacts / "qemu.log").exists()


def test_failed_kvm_is_remembered_and_not_tried_again(bench: Bench) -> None:
    with bench.launch("auto", kvm="abort"):
        pass
    with bench.launch("auto", kvm="ready") as vm:
        assert vm.accel == "tcg"
    assert "failed to set MSR" in bench.progress[-1]
    assert "delete it to try again" in bench.progress[-1]


def test_kvm_is_not_blamed_for_what_fails_under_tcg_too(bench: Bench) -> None:
    with pytest.raises(LaunchError, match="Cannot allocate memory"):
        bench.launch("auto", kvm="no-memory", tcg="no-memory")
    with bench.launch("auto") as vm:
        assert vm.accel == "kvm"


def test_cancelling_the_kvm_try_is_not_a_failure_of_kvm(bench: Bench) -> None:
    threading.Timer(1.0, bench.cancelled.set).start()
    with pytest.raises(InterruptedRunError):
        bench.launch("auto", kvm="crawl")
    bench.cancelled.clear()
    with bench.launch("auto") as vm:
        assert vm.accel == "kvm"


def test_kvm_on_demand_never_falls_back(bench: Bench) -> None:
    with pytest.raises(LaunchError, match="failed to set MSR") as caught:
        bench.launch("kvm", kvm="abort")
    assert "--accel tcg" in caught.value.hint


@pytest.mark.parametrize("accel", ["kvm", "tcg"])
def test_qemu_that_took_the_other_accelerator_is_found_out(bench: Bench, accel: str) -> None:
    with pytest.raises(LaunchError, match="query-kvm"):
        bench.launch(accel, kvm="liar", tcg="liar")  # type: ignore[arg-type]


# --- a QEMU that does not start -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("behaviour", "words", "hint"),
    [
        ("no-memory", "Cannot allocate memory", "less memory"),
        ("no-kernel", "could not open kernel file", "--kernel"),
        ("no-option", "free-page-reporting' not found", "rejects an option"),
        ("no-lock", "mlockall", "ulimit -l"),
        ("bus-error", "SIGBUS", "dmesg"),
        ("reboot", "the guest rebooted by itself", "console.log"),
    ],
)
def test_instant_exit_tells_qemus_last_words(
    bench: Bench, behaviour: str, words: str, hint: str
) -> None:
    began = time.monotonic()
    with pytest.raises(LaunchError, match=words) as caught:
        bench.launch("tcg", tcg=behaviour)
    assert hint in caught.value.hint
    assert bench.artefacts / "qemu.log" in caught.value.evidence
    assert time.monotonic() - began < QUICK


@pytest.mark.parametrize(
    ("full", "advice"), [("run", "set TMPDIR"), ("artefacts", "--results DIR")]
)
def test_a_full_directory_is_told_from_the_other(bench: Bench, full: str, advice: str) -> None:
    def refuse(*_args: object, **_kwargs: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    usage, there = shutil.disk_usage(bench.directory), bench.directory / full
    bench.monkeypatch.setattr(
        "shutil.disk_usage",
        lambda path: usage._replace(free=0 if Path(path).is_relative_to(there) else 1 << 30),
    )
    bench.monkeypatch.setattr("harness.machine.qemu_files.write_keyed_initramfs", refuse)
    with pytest.raises(LaunchError, match=f"No space left on device, in {there}") as caught:
        bench.launch("tcg")
    assert advice in caught.value.hint
    assert not list(bench.runtime.iterdir())


@pytest.mark.parametrize("what", ["asyncio.new_event_loop", "subprocess.Popen"])
def test_launch_without_a_descriptor_left_is_told(bench: Bench, what: str) -> None:
    def refuse(*_args: object, **_kwargs: object) -> None:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    bench.monkeypatch.setattr("harness.machine.launch.find_qemu", lambda _: a_qemu(path=bench.qemu))
    bench.monkeypatch.setattr(what, refuse)
    with pytest.raises(LaunchError, match="Too many open files") as caught:
        bench.launch("tcg")
    assert "ulimit -n" in caught.value.hint


def test_qemu_that_never_opens_its_monitor_is_given_up(bench: Bench) -> None:
    bench.monkeypatch.setattr("harness.machine.vm.CONNECT_SECONDS", 1.0)
    bench.monkeypatch.setattr("harness.machine.vm.slowness", lambda: 1.0)
    with pytest.raises(QmpError, match=r"waited 1\.0 s for QEMU to open its monitor"):
        bench.launch("tcg", tcg="deaf")


# --- a guest that does not become ready ---------------------------------------------------------


@pytest.mark.parametrize(
    ("behaviour", "title"),
    [
        ("panic", "Kernel panic - not syncing: fake panic"),
        ("oops", "BUG: kernel NULL pointer dereference in fake_probe"),
        ("triple-fault", "the guest reset the machine without a message"),
        ("silent-reset", "the guest reset the machine without a message"),
    ],
)
@pytest.mark.parametrize("accel", ["kvm", "tcg"])
def test_guest_crash_is_told_at_once(
    bench: Bench, behaviour: str, title: str, accel: Accelerator
) -> None:
    if (behaviour, accel) == ("silent-reset", "kvm"):
        pytest.skip("see test_kvm_may_be_at_fault_where_a_guest_says_nothing")
    began = time.monotonic()
    with pytest.raises(GuestCrashError) as caught:
        bench.launch(accel, kvm=behaviour, tcg=behaviour)
    assert caught.value.title.startswith(title)
    assert caught.value.defect == ""
    assert time.monotonic() - began < QUICK


def test_why_qemu_ended_is_heard_however_long_that_takes(bench: Bench) -> None:
    """Under KVM in an emulated host it was MISS `QEMU exited (0)`, a second after QEMU's end."""
    heard = _LoggedClient._cb_inbound

    def slowly(client: _LoggedClient, message: Message) -> Message:
        if message.get("event") == "SHUTDOWN":
            time.sleep(2.0)
        return heard(client, message)

    bench.monkeypatch.setattr(_LoggedClient, "_cb_inbound", slowly)
    with pytest.raises(GuestCrashError, match="the guest reset the machine without a message"):
        bench.launch("tcg", tcg="triple-fault")


def test_what_was_read_and_not_yet_collected_is_heard(bench: Bench) -> None:
    """The collector may be behind when the connection ends: here it is not there at all."""
    with bench.launch("tcg") as vm:
        monitor = vm.monitor
        monitor._loop.call_soon_threadsafe(monitor._collector.cancel)
        monitor.execute("quit")
        assert monitor.shutdown_reason() == "host-qmp-quit"


def test_a_monitor_that_is_closed_has_nothing_more_to_say(bench: Bench) -> None:
    with bench.launch("tcg") as vm:
        pass
    began = time.monotonic()
    assert vm.monitor.shutdown_reason() in ("", "host-qmp-quit")
    assert time.monotonic() - began < 5.0


def test_kvm_may_be_at_fault_where_a_guest_says_nothing(bench: Bench) -> None:
    with bench.launch("auto", kvm="silent-reset") as vm:
        assert vm.accel == "tcg"
    assert "the guest reset the machine" in bench.progress[-1]


@pytest.mark.parametrize(("accel", "excused"), [("tcg", True), ("kvm", False)])
def test_known_defect_of_an_old_qemu_stands_beside_the_crash(
    bench: Bench, accel: Accelerator, excused: bool
) -> None:
    old = a_qemu(path=bench.qemu, version="7.2.22")
    bench.monkeypatch.setattr("harness.machine.launch.find_qemu", lambda _: old)
    with pytest.raises(GuestCrashError) as caught:
        bench.launch(accel, kvm="panic", tcg="panic")
    assert ("cmpxchg16b" in caught.value.defect) == excused


def test_failure_of_the_guests_init_is_told_in_its_words(bench: Bench) -> None:
    with pytest.raises(BootError, match=r"load virtio_net\.ko") as caught:
        bench.launch("tcg", tcg="failed")
    assert not isinstance(caught.value, GuestCrashError)


def test_boot_deadline_tells_the_last_lines_of_the_console(bench: Bench) -> None:
    with pytest.raises(BootError, match=r"(?s)waited 1\.0 s.*Linux version 6\.1\.0-fake") as caught:
        bench.launch("tcg", tcg="crawl", boot_deadline=1.0)
    assert bench.artefacts / "console.log" in caught.value.evidence


def test_a_boot_without_processor_time_does_not_blame_the_accelerator(bench: Bench) -> None:
    times = {1: (100_000_000, 900_000_000)}
    bench.monkeypatch.setattr("harness.machine.boot.thread_times", lambda _pid: times)
    with pytest.raises(BootError, match=r"ran for 0\.1 s and waited 0\.9 s") as caught:
        bench.launch("tcg", tcg="crawl", boot_deadline=1.0)
    assert "cpu.cfs_quota_us" in caught.value.hint


def test_stranger_on_the_guests_port_is_refused(bench: Bench) -> None:
    with pytest.raises(BootError, match="host key is not the one"):
        bench.launch("tcg", tcg="stranger")


def test_cancelled_before_and_during_the_boot(bench: Bench) -> None:
    began = time.monotonic()
    threading.Timer(0.5, bench.cancelled.set).start()
    for _ in range(2):
        with pytest.raises(InterruptedRunError):
            bench.launch("tcg", tcg="crawl")
    assert time.monotonic() - began < QUICK


# --- a ready guest ------------------------------------------------------------------------------


def test_warning_of_the_boot_is_still_told_after_it(bench: Bench) -> None:
    with bench.launch("tcg") as vm:
        assert [found.title for found in vm.console.new_findings()] == [
            "WARNING: mm/fake.c:7 in fake_init"
        ]


def test_command_in_the_guest(bench: Bench) -> None:
    with bench.launch("tcg") as vm:
        result = vm.shell.run("cat; echo oh >&2; exit 3", stdin=b"hello", check=False)
        assert (result.status, result.stdout, result.stderr) == (3, b"hello", b"oh\n")
        with pytest.raises(GuestError, match=r"failed \(status 3\): oh"):
            vm.shell.run("echo oh >&2; exit 3")


def test_a_guest_that_booted_slowly_gets_longer_for_its_answers(bench: Bench) -> None:
    bench.monkeypatch.setitem(USUAL_BOOT_SECONDS, "tcg", 1e-4)
    with bench.launch("tcg") as vm:
        assert vm.pace == vm.monitor.pace == vm.shell.pace == MOST
        assert vm.shell.run("sleep 1; echo done", timeout=0.1).stdout == b"done\n"
        with vm.shell.start("true") as process:
            assert process.pace == MOST


def test_outputs_larger_than_any_window_do_not_stand_still(bench: Bench) -> None:
    size = 6_000_000
    with bench.launch("tcg") as vm:
        result = vm.shell.run(f"head -c {size} /dev/zero >&2; echo done", timeout=30.0)
        assert (len(result.stderr), result.stdout) == (ERROR_BYTES, b"done\n")
        assert len(vm.shell.run("cat", stdin=bytes(size), timeout=30.0).stdout) == size


def test_conversation_with_a_running_command(bench: Bench) -> None:
    with bench.launch("tcg") as vm, vm.shell.start("read a; echo got $a; printf 1234; cat") as talk:
        talk.write(b"it\n")
        assert talk.read_line(5.0) == "got it"
        assert talk.read_exactly(4, 5.0) == b"1234"
        with pytest.raises(DeadlineError, match="a line of"):
            talk.read_line(0.3)
        talk.close_stdin()
        with pytest.raises(SshError, match="ended early"):
            talk.read_line(5.0)


def test_command_killed_by_a_signal_is_no_broken_connection(bench: Bench) -> None:
    with bench.launch("tcg") as vm:
        with pytest.raises(GuestError, match="killed by a signal"):
            vm.shell.run("kill -9 $$")
        with vm.shell.start("echo first; kill -9 $$") as talk:
            assert talk.read_line(5.0) == "first"
            with pytest.raises(SshError, match="killed by a signal"):
                talk.read_line(5.0)
        assert vm.shell.run("echo still here").stdout == b"still here\n"


def test_command_the_guest_never_accepts_is_given_up(bench: Bench) -> None:
    with bench.launch("tcg") as vm, pytest.raises((SshError, DeadlineError)):
        vm.shell.run("never-answers", timeout=1.0)


def test_giving_up_over_a_broken_connection_is_quiet(bench: Bench) -> None:
    """An exception in the watchdog's thread would fail this test (see `filterwarnings`)."""
    close = paramiko.Channel.close

    def broken(channel: paramiko.Channel) -> None:
        close(channel)
        raise EOFError

    with bench.launch("tcg") as vm:
        bench.monkeypatch.setattr(paramiko.Channel, "close", broken)
        with pytest.raises((SshError, DeadlineError)):
            vm.shell.run("never-answers", timeout=1.0)
        bench.monkeypatch.setattr(paramiko.Channel, "close", close)


def test_death_of_qemu_ends_every_wait_at_once(bench: Bench) -> None:
    with bench.launch("tcg") as vm:
        threading.Timer(0.5, os.kill, (vm.pid, signal.SIGKILL)).start()
        began = time.monotonic()
        with pytest.raises(QemuGoneError, match="SIGKILL"):
            vm.shell.run("sleep 60", timeout=60.0)
        assert time.monotonic() - began < 4.0
        assert not vm.alive
        with pytest.raises(QemuGoneError):
            vm.monitor.execute("query-status")
        with pytest.raises(QemuGoneError):
            vm.sleep_alive(60.0)


def test_qemu_that_ignores_quit_and_sigterm_is_killed(bench: Bench) -> None:
    bench.monkeypatch.setattr("harness.machine.process.QUIT_SECONDS", 0.5)
    bench.monkeypatch.setattr("harness.machine.process.TERM_SECONDS", 0.5)
    with bench.launch("tcg", tcg="stubborn") as vm:
        pid = vm.pid
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_stopped_qemu_is_ended(bench: Bench) -> None:
    with bench.launch("tcg") as vm:
        os.kill(vm.pid, signal.SIGSTOP)


def test_runtime_directory_is_the_users_alone(bench: Bench) -> None:
    with bench.launch("tcg") as vm:
        assert vm.directory.stat().st_mode & 0o777 == 0o700
        assert vm.directory.parent == bench.runtime
        assert (vm.directory / "ssh_key").stat().st_mode & 0o777 == 0o600


def test_every_monitor_message_is_kept(bench: Bench) -> None:
    with bench.launch("tcg"):
        pass
    lines = (bench.artefacts / "qmp.log").read_text().splitlines()
    assert any(' -> {"execute": "cont"' in line for line in lines)
    assert any('<- {"event": "RESUME"' in line for line in lines)


def test_nothing_is_printed_when_a_guest_dies(
    bench: Bench, capfd: pytest.CaptureFixture[str]
) -> None:
    with bench.launch("tcg") as vm:
        os.kill(vm.pid, signal.SIGKILL)
        with pytest.raises(QemuGoneError):
            vm.shell.run("true")
    assert capfd.readouterr() == ("", "")


def test_a_qemu_that_complains_without_end_is_ended(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("harness.machine.end_watch.LOG_BYTES", 1000)
    with bench.launch("tcg") as vm:
        vm.qemu_log.write_text("qemu-system-x86_64: warning: no\n" * 100)
        with pytest.raises(QemuGoneError, match="messages to its log"):
            vm.sleep_alive(10.0)
