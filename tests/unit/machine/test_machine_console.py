# SPDX-License-Identifier: Apache-2.0
"""What the console watcher finds in real consoles, and what it does not."""

import threading
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.errors import QemuGoneError
from harness.machine.console import (
    EXCERPT_LINES,
    LINE_BYTES,
    MAX_FINDINGS,
    ConsoleScanner,
    ConsoleWatcher,
    Finding,
)
from harness.machine.oops import headline_of, looks_suspicious

CONSOLES = Path(__file__).parents[2] / "data" / "console"


def scan(data: bytes) -> list[Finding]:
    scanner = ConsoleScanner()
    scanner.feed(data)
    scanner.finish()
    return scanner.findings


def recorded(name: str) -> bytes:
    return (CONSOLES / f"{name}.log").read_bytes()


# --- recorded consoles --------------------------------------------------------------------------

RECORDED = [
    ("null-dereference", "crash", "BUG: kernel NULL pointer dereference in null_write"),
    ("general-protection", "crash", "general protection fault in gpf"),
    ("bug-on", "crash", "kernel BUG at trouble.c:22 in trouble_init"),
    ("divide-error", "crash", "divide error in trouble_init"),
    ("list-corruption", "crash", "list_add corruption in __list_add_valid.cold"),
    ("double-free", "crash", "kernel BUG at mm/slub.c:419 in __kmem_cache_free"),
    ("panic", "crash", "Kernel panic - not syncing: trouble asked for it"),
    ("sysrq-crash", "crash", "Kernel panic - not syncing: sysrq triggered crash"),
    (
        "no-init",
        "crash",
        "Kernel panic - not syncing: VFS: Unable to mount root fs on unknown-block(0,0)",
    ),
    ("report-while-suspending", "crash", "BUG: page fault in virtqueue_add_split"),
    ("hung-task", "hang", "INFO: task hung: trouble_hung"),
    ("rcu-stall", "hang", "INFO: rcu_preempt self-detected stall in trouble_init"),
    ("soft-lockup", "hang", "BUG: soft lockup in trouble_init"),
    ("warn-on", "warning", "WARNING: trouble.c:23 in trouble_init"),
    ("warn-with-words", "warning", "WARNING: trouble.c:24 in trouble_init"),
    ("oom", "warning", "OOM kill of dd"),
]


@pytest.mark.parametrize(("name", "severity", "title"), RECORDED)
def test_recorded_trouble_is_one_finding(name: str, severity: str, title: str) -> None:
    assert [(found.severity, found.title) for found in scan(recorded(name))] == [(severity, title)]


@pytest.mark.parametrize(
    ("line", "title"),
    [
        (b"mm/pgtable-generic.c:39: bad pud 0000000064cf4a3a(481a75000007bc1f)", "bad pud"),
        (b"mm/pgtable-generic.c:51: bad pmd ffff888004c8e008(0000000000400063)", "bad pmd"),
        (b"arch/x86/mm/pgtable.c:7: bad pte 00000000c0ffee00(1)", "bad pte"),
    ],
)
def test_damaged_page_tables_are_trouble(line: bytes, title: str) -> None:
    found = list(scan(b"[   14.099154] " + line + b"\n"))
    assert [(each.severity, each.title) for each in found] == [("warning", title)]


@pytest.mark.parametrize(
    "where", ["CPU: 1 PID: 29 at f+0x38/0x120 [virtio_balloon]", "at f+0x38/0x120, CPU#1: kworker"]
)
def test_a_warning_without_a_line_is_titled_by_its_function_alone(where: str) -> None:
    """A kernel without CONFIG_DEBUG_BUGVERBOSE; another CPU or process is the same trouble."""
    found = headline_of(f"WARNING: {where}")
    assert found is not None
    assert (found.severity, found.title) == ("warning", "WARNING in f")


def test_two_warnings_one_after_the_other_are_two_findings() -> None:
    assert [found.title for found in scan(recorded("sleep-in-atomic"))] == [
        "BUG: scheduling while atomic",
        "WARNING: init/main.c:1322 in do_one_initcall",
    ]


def test_clean_boot_has_no_findings() -> None:
    scanner = ConsoleScanner()
    scanner.feed(recorded("clean"))
    scanner.finish()
    assert scanner.findings == []
    assert set(scanner.said) == {"start", "ready"}


def test_text_runs_from_the_headline_to_the_end_mark_without_time_stamps() -> None:
    (found,) = scan(recorded("null-dereference"))
    lines = found.text.splitlines()
    assert lines[0] == "BUG: kernel NULL pointer dereference, address: 0000000000000008"
    assert "RIP: 0010:null_write+0x5/0x15 [trouble]" in lines
    assert "Call Trace:" in lines
    assert lines[-1].startswith("---[ end trace ")


# --- pieces, floods, dirt -----------------------------------------------------------------------


@settings(deadline=None)
@given(
    name=st.sampled_from([name for name, _, _ in RECORDED] + ["clean", "sleep-in-atomic"]),
    sizes=st.lists(st.integers(1, 3000), min_size=1, max_size=50),
)
def test_where_the_pieces_are_cut_makes_no_difference(name: str, sizes: list[int]) -> None:
    data = recorded(name)
    scanner = ConsoleScanner()
    at, turn = 0, 0
    while at < len(data):
        size = sizes[turn % len(sizes)]
        scanner.feed(data[at : at + size])
        at, turn = at + size, turn + 1
    scanner.finish()
    assert scanner.findings == scan(data)


@settings(deadline=None)
@given(st.binary(max_size=5000))
def test_any_bytes_can_be_fed(data: bytes) -> None:
    scan(data)


def test_dirt_before_and_after_hides_nothing() -> None:
    dirt = bytes(range(128, 256)) + b"\r\n"
    (found,) = scan(dirt * 10 + recorded("panic") + dirt)
    assert found.title == "Kernel panic - not syncing: trouble asked for it"


def test_line_without_end_takes_bounded_memory_and_is_still_cut_off_right() -> None:
    scanner = ConsoleScanner()
    for _ in range(1000):
        scanner.feed(b"x" * 10_000)
    assert len(scanner._partial) <= LINE_BYTES
    scanner.feed(b"\nKernel panic - not syncing: at last\n")
    scanner.finish()
    assert [found.title for found in scanner.findings] == ["Kernel panic - not syncing: at last"]


def test_last_line_without_end_counts() -> None:
    assert [found.title for found in scan(b"[    1.000000] Kernel panic - not syncing: cut")] == [
        "Kernel panic - not syncing: cut"
    ]


def test_a_report_of_kasan_has_its_three_stacks_and_ends_where_kasan_ends_it() -> None:
    """What follows is told by itself: here the CPU that waits for the other."""
    kasan, lockup = scan(recorded("kasan-use-after-free"))
    assert (kasan.severity, kasan.title) == (
        "warning",
        "BUG: KASAN: use-after-free in virtqueue_add_inbuf",
    )
    stacks = kasan.text.partition("Allocated by task ")
    allocated, _, freed = stacks[2].partition("Freed by task ")
    assert "page_reporting_process" in stacks[0]
    assert "virtballoon_probe" in allocated
    assert "virtballoon_freeze" in freed
    assert kasan.text.endswith("=" * 66)
    assert "kernel taint" not in kasan.text
    assert lockup.title == "BUG: soft lockup in delay_tsc"


def test_same_trouble_again_is_told_once() -> None:
    assert len(scan(recorded("warn-on") * 5)) == 1


def test_flood_of_different_trouble_is_cut() -> None:
    flood = b"".join(
        b"WARNING: bad %s\n---[ end trace ]---\n" % (b"x" * number) for number in range(150)
    )
    assert len(scan(flood)) == MAX_FINDINGS


def test_text_without_end_mark_is_cut() -> None:
    (found,) = scan(b"INFO: task a:1 blocked for more than 120 seconds.\n" + b"more\n" * 1000)
    assert len(found.text.splitlines()) == EXCERPT_LINES


def test_crash_well_after_a_warning_is_not_hidden_in_its_text() -> None:
    unfinished = recorded("warn-on").partition(b"---[ end trace")[0]
    assert [found.severity for found in scan(unfinished + recorded("null-dereference"))] == [
        "warning",
        "crash",
    ]


def test_panic_after_an_oops_belongs_to_it() -> None:
    oops = recorded("null-dereference").partition(b"---[ end trace")[0]
    (found,) = scan(oops + b"Kernel panic - not syncing: Fatal exception\n")
    assert found.title == "BUG: kernel NULL pointer dereference in null_write"
    assert "Fatal exception" in found.text


def test_headline_behind_a_program_s_unfinished_line_is_found() -> None:
    (found,) = scan(b"# [   35.184476][    T1] Kernel panic - not syncing: after a prompt\n")
    assert found.title == "Kernel panic - not syncing: after a prompt"


# --- headlines no recorded console has ----------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "severity", "title"),
    [
        # Formats: mm/kasan/report.c, kernel/locking/lockdep.c, kernel/rcu/tree_stall.h,
        # kernel/watchdog.c, arch/x86/mm/fault.c, lib/ubsan.c, mm/page_alloc.c of Linux 6.12.
        (
            "BUG: KASAN: slab-use-after-free in foo+0x12/0x40",
            "warning",
            "BUG: KASAN: slab-use-after-free in foo",
        ),
        (
            "BUG: unable to handle page fault for address: ffffdead00000000",
            "crash",
            "BUG: page fault",
        ),
        (
            "WARNING: possible circular locking dependency detected",
            "warning",
            "WARNING: possible circular locking dependency detected",
        ),
        (
            "rcu: INFO: rcu_sched detected stalls on CPUs/tasks:",
            "hang",
            "INFO: rcu_sched detected stalls",
        ),
        ("watchdog: CPU3: Watchdog detected hard LOCKUP on cpu 3", "hang", "hard LOCKUP"),
        (
            "BUG: workqueue lockup - pool cpus=0 node=0 flags=0x0 nice=0 stuck for 33s!",
            "hang",
            "BUG: workqueue lockup",
        ),
        (
            "kswapd0: page allocation failure: order:0, mode:0x820(GFP_ATOMIC)",
            "warning",
            "page allocation failure: order:0",
        ),
        (
            "fpr-guest[123]: segfault at 308 ip 00000000004848c9 sp 00007ff265051168 error 4 in"
            " fpr-guest[401000+a8000] likely on CPU 1 (core 1, socket 0)",
            "crash",
            "segfault in fpr-guest",
        ),
        (
            "traps: dropbear[91] general protection fault ip:4848c9 sp:7ff265051168 error:0",
            "crash",
            "general protection fault in dropbear",
        ),
        (
            "traps: fpr-guest[7] trap invalid opcode ip:4848c9 sp:7ff265051168 error:0",
            "crash",
            "invalid opcode in fpr-guest",
        ),
        ("[ BUG: Invalid wait context ]", "warning", "BUG: Invalid wait context"),
        (
            "BUG: Bad page state in process swapper/0  pfn:12345",
            "warning",
            "BUG: Bad page state",
        ),
        (
            "BUG kmalloc-64 (Tainted: G    B             ): Poison overwritten",
            "warning",
            "BUG kmalloc-64: Poison overwritten",
        ),
        (
            "BUG :A-0000104 (Not tainted): Invalid object pointer 0x00000000a1b2c3d4",
            "warning",
            "BUG :A-0000104: Invalid object pointer",
        ),
        (
            "Slab corruption (Not tainted): size-64 start=c2f1a000, len=64",
            "warning",
            "Slab corruption",
        ),
        (
            "slab error in verify_redzone_free(): cache `size-64': double free detected",
            "warning",
            "slab error in verify_redzone_free",
        ),
        ("pagealloc: memory corruption", "warning", "pagealloc: memory corruption"),
        ("pagealloc: single bit error", "warning", "pagealloc: single bit error"),
        (
            "zram: Decompression failed! err=-22, page=1234",
            "warning",
            "zram: Decompression failed",
        ),
        ("Read-error on swap-device (254:0:12345)", "warning", "Read-error on swap-device"),
        (
            "Oops: general protection fault, probably for non-canonical address"
            " 0xdead000000000100: 0000 [#1] PREEMPT SMP",
            "crash",
            "general protection fault",
        ),
    ],
)
def test_headline(line: str, severity: str, title: str) -> None:
    headline = headline_of(line)
    assert headline is not None
    assert (headline.severity, headline.title) == (severity, title)
    assert looks_suspicious(line.encode()), "the quick check lets it through"


@pytest.mark.parametrize(
    "line",
    [
        "Command line: console=ttyS0 panic=-1",
        "PM: hibernation: Registered nosave memory: [mem 0x00000000-0x00000fff]",
        "x86/fpu: Supporting XSAVE feature 0x001: 'x87 floating point registers'",
        "rcu: \tRCU debug extended QS entry/exit.",
        "NMI watchdog: Perf NMI watchdog permanently disabled",
        "fpr-init: ready",
        "BUG is the first word of this line",
        "stress-ng[123]: segfault at 0 ip 00000000004848c9 sp 00007ff265051168 error 4",
        "SLUB: HWalign=64, Order=0-3, MinObjects=0, CPUs=2, Nodes=1",
        "Spectre V2 : WARNING is not at the start of this line",
    ],
)
def test_harmless_line(line: str) -> None:
    assert headline_of(line) is None


# --- the growing file ---------------------------------------------------------------------------


def never() -> None:
    return None


def ended() -> QemuGoneError:
    return QemuGoneError("QEMU exited (0)")


def test_watcher_waits_for_a_file_that_is_not_there(tmp_path: Path) -> None:
    watcher = ConsoleWatcher(tmp_path / "console.log", never)
    assert watcher.new_findings() == []
    assert watcher.tail() == ""


def test_watcher_tells_each_finding_once(tmp_path: Path) -> None:
    path = tmp_path / "console.log"
    watcher = ConsoleWatcher(path, never)
    path.write_bytes(recorded("warn-on"))
    assert len(watcher.new_findings()) == 1
    assert watcher.new_findings() == []
    with path.open("ab") as file:
        file.write(recorded("null-dereference"))
    assert [found.severity for found in watcher.new_findings()] == ["crash"]
    assert watcher.final_findings() == []


def test_watcher_hears_the_guest_s_init(tmp_path: Path) -> None:
    path = tmp_path / "console.log"
    watcher = ConsoleWatcher(path, never)
    path.write_bytes(b"fpr-init: start\nfpr-init: FAILED: load virtio_net.ko: ENOENT\n")
    assert not watcher.has_said("start")  # not before it looks
    watcher.poll()
    assert watcher.has_said("start")
    assert not watcher.has_said("ready")
    assert watcher.init_failure == "load virtio_net.ko: ENOENT"


@pytest.mark.parametrize(
    "text",
    [
        b"fpr-init: ready[    1.500000] virtio: late\r\n",
        b"fpr-init: ready\r[    1.500000] virtio: late\r\n\n",
        b"[    1.500000] virtio: probingfpr-init: ready\r\n done\r\n",
        b"fpr-init: re[    1.500000] virtio: late\r\nady\r\n",
        b"fp[    1.500000] virtio: late\r\n[    1.500001] again\r\nr-init: ready\r\n",
        b"words of a program fpr-init: ready\n",
    ],
)
def test_the_init_is_heard_though_the_kernel_speaks_at_the_same_time(text: bytes) -> None:
    whole = ConsoleScanner()
    whole.feed(b"[    1.400000] virtio: early\r\n" + text)
    assert "ready" in whole.said
    in_pieces = ConsoleScanner()
    for byte in text:
        in_pieces.feed(bytes([byte]))
    assert "ready" in in_pieces.said


def test_the_kernels_words_are_none_of_the_inits() -> None:
    scanner = ConsoleScanner()
    scanner.feed(b"fpr-init: FAILED: mount proc[    1.500000] virtio: late\r\n")
    assert scanner.said == {"FAILED": "mount proc"}


def test_final_findings_wait_for_the_end_of_the_text(tmp_path: Path) -> None:
    """An SSH connection breaks at an oops' first line; its last comes a second later."""
    path = tmp_path / "console.log"
    head, mark, tail = recorded("null-dereference").partition(b"Code: ")
    path.write_bytes(head)
    watcher = ConsoleWatcher(path, never)

    def rest() -> None:
        with path.open("ab") as file:
            file.write(mark + tail)

    timer = threading.Timer(0.3, rest)
    timer.start()
    (found,) = watcher.final_findings()
    timer.join()
    assert "---[ end trace" in found.text


def test_final_findings_do_not_wait_for_a_dead_qemu(tmp_path: Path) -> None:
    path = tmp_path / "console.log"
    path.write_bytes(b"Kernel panic - not syncing: sudden\n")
    (found,) = ConsoleWatcher(path, ended).final_findings()
    assert found.title == "Kernel panic - not syncing: sudden"


def test_tail_is_the_last_lines(tmp_path: Path) -> None:
    path = tmp_path / "console.log"
    path.write_bytes(b"".join(b"line %d\r\n" % number for number in range(20_000)))
    assert ConsoleWatcher(path, never).tail(2) == "line 19998\nline 19999"
