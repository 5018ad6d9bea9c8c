# SPDX-License-Identifier: Apache-2.0
"""What becomes of a run when something breaks: its boot, its guest, a look at it, the harness."""

import errno
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from run_fakes import KERNEL_LOG, FakeBench, FakeConsole, a_shell, fake_vm, planned

from harness.act.kernel_said import UNPRINTED
from harness.deadline import Deadline, wait_for
from harness.errors import (
    GuestCrashError,
    GuestStuckError,
    LaunchError,
    ObserveError,
    QemuGoneError,
    SshError,
)
from harness.machine.console import Finding
from harness.record.events import AttemptCrashed, Broke, ConsoleFinding, PhaseStarted, StepsDone
from harness.record.facts import Cause, Verdict
from harness.run import runner as subject
from harness.units import MIB

DEFECT = "TCG corrupts EFLAGS"
PANIC = Finding("crash", "Kernel panic - not syncing: Fatal exception", "...")


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeBench:
    made = FakeBench(tmp_path / "results", monkeypatch)
    made.prepare()
    return made


def failing(error: Exception) -> Callable[[], Any]:
    def fail() -> Any:
        raise error

    return fail


def crash(defect: str = DEFECT) -> Callable[[], Any]:
    return failing(
        GuestCrashError("it crashed", title="Oops in slub", text="...", accel="tcg", defect=defect)
    )


# --- boots that crash ----------------------------------------------------------------------------


def test_crash_that_no_defect_of_qemu_explains_is_the_guests(
    bench: FakeBench, tmp_path: Path
) -> None:
    bench.boots = [crash(defect="")]
    judged = bench.run(planned(tmp_path))
    assert (judged.verdict, judged.cause) == (Verdict.FAIL, Cause.GUEST_CRASH)
    assert "crashed during boot: Oops in slub" in judged.reason


def test_second_crash_is_the_guests_whatever_qemu_is_known_to_do(
    bench: FakeBench, tmp_path: Path
) -> None:
    bench.boots = [crash(), crash()]
    judged = bench.run(planned(tmp_path))
    assert (judged.verdict, judged.cause) == (Verdict.FAIL, Cause.GUEST_CRASH)
    assert "crashed in 2 of 2 boots: Oops in slub" in judged.reason
    assert judged.reason.count("Oops in slub") == 1
    crashes = [event for event in bench.events if isinstance(event, AttemptCrashed)]
    assert [(each.attempt, each.own) for each in crashes] == [(1, True), (1, False), (2, True)]
    assert (bench.results / "a-run" / "attempt-1" / "harness.log").exists()


def test_crash_before_a_good_run_is_told_with_its_verdict(bench: FakeBench, tmp_path: Path) -> None:
    bench.boots = [crash(), fake_vm]
    judged = bench.run(planned(tmp_path))
    assert judged.verdict is Verdict.DONE
    assert "1 earlier boot of the same guest crashed" in judged.reason
    assert "Oops in slub" in judged.reason


def test_crash_before_a_launch_that_fails_is_not_a_second_one(
    bench: FakeBench, tmp_path: Path
) -> None:
    bench.boots = [crash(), failing(LaunchError("no memory"))]
    judged = bench.run(planned(tmp_path))
    assert judged.verdict is Verdict.MISS
    assert judged.reason.startswith("no memory")
    assert "1 earlier boot" in judged.reason


def test_crash_of_a_run_that_was_stopped_is_not_tried_again(
    bench: FakeBench, tmp_path: Path
) -> None:
    def stopped_and_crashed() -> None:
        bench.cancelled.set()
        crash()()

    bench.boots = [stopped_and_crashed]
    bench.run(planned(tmp_path))
    assert bench.boots == []


def test_run_that_was_stopped_before_its_turn_has_a_verdict_and_no_directory(
    bench: FakeBench, tmp_path: Path
) -> None:
    bench.cancelled.set()
    judged = bench.run(planned(tmp_path))
    assert (judged.verdict, judged.reason) == (
        Verdict.MISS,
        "asked to stop while the run waited for its turn",
    )
    assert not bench.results.exists()


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("can't start new thread"),
        BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable"),
        OSError(errno.EMFILE, "Too many open files"),
    ],
)
def test_what_the_host_refuses_for_its_limits_is_a_miss_that_says_which(
    bench: FakeBench, tmp_path: Path, error: Exception
) -> None:
    bench.boots = [failing(error)]
    judged = bench.run(planned(tmp_path))
    assert judged.verdict is Verdict.MISS
    assert "the host refused what it takes to go on" in judged.reason
    assert "ulimit" in judged.reason
    assert not (bench.results / "a-run" / "bug-report.txt").exists()


def test_memory_that_a_limit_refuses_is_no_defect(
    bench: FakeBench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("resource.getrlimit", lambda _kind: (1 << 30, 1 << 30))
    bench.boots = [failing(MemoryError())]
    judged = bench.run(planned(tmp_path))
    assert judged.verdict is Verdict.MISS
    assert "ulimit -v" in judged.reason


def test_guest_too_small_to_unpack_its_kernel_is_told_so(bench: FakeBench, tmp_path: Path) -> None:
    bench.least_memory = 130 * MIB
    judged = bench.run(planned(tmp_path))
    assert judged.verdict is Verdict.ERROR
    assert "a guest of 128MiB is too small for this kernel, which needs 130MiB" in judged.reason


def test_guest_too_small_for_its_init_is_told_so(bench: FakeBench, tmp_path: Path) -> None:
    title = "Kernel panic - not syncing: System is deadlocked on memory"
    error = GuestCrashError("it crashed", title=title, text="...", accel="tcg")
    bench.boots = [failing(error)]
    judged = bench.run(planned(tmp_path))
    assert judged.verdict is Verdict.ERROR
    assert "a guest of 128MiB is too small to boot" in judged.reason


# --- the guest in the middle of its steps --------------------------------------------------------


def test_guest_that_resets_itself_has_crashed(bench: FakeBench, tmp_path: Path) -> None:
    bench.boots = [lambda: fake_vm(alive=False)]

    def reset() -> None:
        bench.emit("a-run", PhaseStarted(1.0, "settle"))
        raise QemuGoneError("the guest reset the machine", guest_reset=True)

    bench.work = reset
    judged = bench.run(planned(tmp_path))
    found = [event for event in bench.events if isinstance(event, ConsoleFinding)]
    assert [(each.severity, each.on_console) for each in found] == [("crash", False)]
    assert "the guest reset the machine" in judged.reason


def test_reset_after_a_panic_is_told_by_the_panic(bench: FakeBench, tmp_path: Path) -> None:
    bench.boots = [lambda: fake_vm(alive=False, console=FakeConsole(findings=[PANIC]))]
    bench.work = failing(QemuGoneError("the guest reset the machine", guest_reset=True))
    bench.run(planned(tmp_path))
    found = [event for event in bench.events if isinstance(event, ConsoleFinding)]
    assert [each.title for each in found] == [PANIC.title]


@pytest.mark.parametrize(("boots", "verdict"), [(1, Verdict.MISS), (2, Verdict.FAIL)])
def test_crash_between_the_boot_and_the_first_step_counts_like_one_of_the_boot(
    bench: FakeBench, tmp_path: Path, boots: int, verdict: Verdict
) -> None:
    """The guest reports from its boot on, so a defect of its own may show as early."""
    console = FakeConsole(findings=[PANIC])
    crashed = [lambda: fake_vm(alive=False, console=console, defects=DEFECT)] * boots
    bench.boots = [*crashed, failing(LaunchError("no memory"))]
    bench.work = failing(QemuGoneError("the guest reset the machine", guest_reset=True))
    judged = bench.run(planned(tmp_path))
    assert judged.verdict is verdict
    crashes = [event for event in bench.events if isinstance(event, AttemptCrashed)]
    assert len([each for each in crashes if each.own]) == boots


def test_what_was_known_survives_a_guest_that_dies_under_examination(
    bench: FakeBench, tmp_path: Path
) -> None:
    console = FakeConsole()

    class Monitor:
        """The guest panics when QEMU is asked for its registers."""

        def execute(self, *_a: Any, **_k: Any) -> dict[str, str]:
            return {"status": "running"}

        def human(self, *_a: Any, **_k: Any) -> str:
            console.findings.append(PANIC)
            raise QemuGoneError("QEMU exited (0)", guest_reset=True)

    bench.boots = [lambda: fake_vm(console=console, monitor=Monitor())]
    bench.work = failing(GuestStuckError("waited 60.0 s for the balloon"))
    bench.run(planned(tmp_path))
    (broke,) = [event for event in bench.events if isinstance(event, Broke)]
    assert broke.message == "waited 60.0 s for the balloon"
    found = [event for event in bench.events if isinstance(event, ConsoleFinding)]
    assert [each.title for each in found] == [PANIC.title]
    autopsy = (bench.results / "a-run" / "autopsy.txt").read_text(encoding="utf-8")
    assert "the examination itself broke: QEMU exited (0)" in autopsy


def test_trouble_printed_after_the_last_step_is_found(bench: FakeBench, tmp_path: Path) -> None:
    bug = Finding("warning", "BUG: Bad page state", "...")
    bench.boots = [lambda: fake_vm(console=FakeConsole(findings=[bug]))]
    bench.run(planned(tmp_path))
    kinds = bench.kinds()
    assert kinds.index("console-finding") < kinds.index("steps-done")


def test_trouble_that_a_quiet_console_hides_is_found_in_the_kernels_log(
    bench: FakeBench, tmp_path: Path
) -> None:
    shown = Finding("warning", "BUG: Bad page state", "...")
    between = "[    9.100000] usb 1-1: reset\n" * 5
    lines = (
        "[    9.000000] BUG: Bad page state in process sh\n",
        "[    9.500000] INFO: suspicious x\n",
    )
    log = KERNEL_LOG + between.join(lines)
    bench.boots = [
        lambda: fake_vm(
            console=FakeConsole(tmp_path / "console.log", [shown]), shell=a_shell(log, level=4)
        )
    ]
    bench.run(planned(tmp_path))
    titles = [event.title for event in bench.events if isinstance(event, ConsoleFinding)]
    assert titles == ["BUG: Bad page state", UNPRINTED + "INFO: suspicious x"]
    assert (tmp_path / "kernel.log").read_text(encoding="utf-8") == log


def test_quiet_console_and_a_log_without_its_beginning_are_a_miss(
    bench: FakeBench, tmp_path: Path
) -> None:
    bench.boots = [
        lambda: fake_vm(shell=a_shell("[   99.000000] usb 1-1: reset\n", level=1), alive=False)
    ]
    judged = bench.run(planned(tmp_path))
    assert judged.verdict is Verdict.MISS
    assert "off the console" in judged.reason


@pytest.mark.parametrize(
    ("cmdline", "verdict"),
    [("quiet", Verdict.MISS), ("loglevel=1", Verdict.MISS), ("loglevel=7", Verdict.PASS)],
)
def test_quiet_guest_that_cannot_be_reached_at_the_end_is_a_miss(
    bench: FakeBench, tmp_path: Path, cmdline: str, verdict: Verdict
) -> None:
    """Like one that a step has powered off: nobody has seen what its kernel logged."""

    def unreachable(*_words: object, **_options: object) -> None:
        raise SshError("the guest cannot be reached")

    bench.boots = [
        lambda: fake_vm(
            shell=SimpleNamespace(run=unreachable),
            spec=SimpleNamespace(cmdline=cmdline),
            alive=False,
        )
    ]
    judged = bench.run(planned(tmp_path))
    assert ("its kernel's log cannot be read" in judged.reason) is (verdict is Verdict.MISS)


def test_end_of_the_steps_counts_the_events_before_it(bench: FakeBench, tmp_path: Path) -> None:
    """So that a line which is missing from the record is noticed."""
    bench.boots = [fake_vm]
    bench.run(planned(tmp_path))
    (done,) = [event for event in bench.events if isinstance(event, StepsDone)]
    assert done.events == bench.events.index(done)
    assert done.events > 1


def test_console_that_does_not_show_what_is_printed_is_a_miss(
    bench: FakeBench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Deaf(FakeConsole):
        def count(self, _words: str) -> int:
            return 0

    monkeypatch.setattr("harness.run.console_end.MARK_SECONDS", 0.1)
    bench.boots = [lambda: fake_vm(console=Deaf(), alive=False)]
    judged = bench.run(planned(tmp_path))
    assert judged.verdict is Verdict.MISS
    assert "does not show what its kernel prints" in judged.reason


def test_console_that_was_deleted_is_a_miss(bench: FakeBench, tmp_path: Path) -> None:
    class Deleted(FakeConsole):
        def final_findings(self) -> list[Finding]:
            raise ObserveError("the guest's console (console.log) was deleted while it was read")

    bench.boots = [lambda: fake_vm(console=Deleted(), alive=False)]
    judged = bench.run(planned(tmp_path))
    assert judged.verdict is Verdict.MISS
    assert "was deleted" in judged.reason


# --- defects of the harness ----------------------------------------------------------------------


def is_a_defect(bench: FakeBench, judged: Any, words: str) -> None:
    """The run is an ERROR that can be reported, and its files are there."""
    assert judged.verdict is Verdict.ERROR, judged
    assert "fpr-harness hit a bug of its own" in judged.reason
    assert words in judged.reason
    report = (bench.results / "a-run" / "bug-report.txt").read_text(encoding="utf-8")
    for part in ("fpr-harness: ", "Python: ", "image: bookworm", "Traceback", words):
        assert part in report
    assert words in (bench.results / "a-run" / "harness.log").read_text(encoding="utf-8")
    assert bench.kinds()[-1] == "judged"


DEFECTS = [
    UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte"),
    KeyError("DMA32"),
    RecursionError("deep"),
    MemoryError("70,000 zones"),
]


@pytest.mark.parametrize("defect", DEFECTS, ids=lambda error: type(error).__name__)
def test_exception_in_a_step(bench: FakeBench, tmp_path: Path, defect: Exception) -> None:
    bench.boots = [fake_vm]
    bench.work = failing(defect)
    is_a_defect(bench, bench.run(planned(tmp_path)), type(defect).__name__)


@pytest.mark.parametrize("defect", DEFECTS, ids=lambda error: type(error).__name__)
def test_exception_in_the_boot(bench: FakeBench, tmp_path: Path, defect: Exception) -> None:
    bench.boots = [failing(defect)]
    is_a_defect(bench, bench.run(planned(tmp_path)), type(defect).__name__)


def test_exception_in_the_judge(bench: FakeBench, tmp_path: Path) -> None:
    bench.boots = [fake_vm]
    bench.monkeypatch.setattr(subject, "judge", lambda *_a, **_k: 1 // 0)
    is_a_defect(bench, bench.run(planned(tmp_path)), "ZeroDivisionError")


def test_crash_on_the_console_does_not_make_a_defect_the_guests(
    bench: FakeBench, tmp_path: Path
) -> None:
    bench.boots = [fake_vm]

    def work() -> None:
        raise KeyError("DMA32")

    bench.work = work
    bench.boots = [lambda: fake_vm(console=FakeConsole(findings=[PANIC]))]
    judged = bench.run(planned(tmp_path))
    assert judged.verdict is Verdict.ERROR


# --- a guest that is kept ------------------------------------------------------------------------


def test_kept_guest_says_how_to_log_in_and_is_released_by_removing_a_file(
    bench: FakeBench, tmp_path: Path
) -> None:
    bench.keep_failed = 600.0
    bench.boots = [lambda: fake_vm(monitor=None)]
    bench.work = failing(LaunchError("broke"))
    thread = threading.Thread(target=bench.run, args=(planned(tmp_path),))
    thread.start()
    kept = bench.results / "a-run" / "kept.txt"

    def said() -> list[str]:
        events = [each for each in bench.events if isinstance(each, PhaseStarted)]
        return [event.detail for event in events if event.phase == "kept"]

    told = wait_for(lambda: said() or None, Deadline(10.0, "the guest to be kept"))
    assert kept.read_text(encoding="utf-8") == "ssh -p 1 root@127.0.0.1\n"
    assert "ssh -p 1 root@127.0.0.1" in told[0]
    assert f"rm {kept}" in told[0]
    kept.unlink()
    thread.join(5.0)
    assert not thread.is_alive()


def test_guest_that_is_no_longer_kept_leaves_no_word_of_it(
    bench: FakeBench, tmp_path: Path
) -> None:
    bench.keep_failed = 0.2
    bench.boots = [lambda: fake_vm(monitor=None)]
    bench.work = failing(LaunchError("broke"))
    bench.run(planned(tmp_path))
    assert not (bench.results / "a-run" / "kept.txt").exists()
