# SPDX-License-Identifier: Apache-2.0
"""Recognise kernel trouble on a console by its first line, and give it a title.

The patterns are those of kernels 5.10 to 7.3: lib/bug.c, kernel/panic.c, arch/x86/mm/fault.c,
arch/x86/kernel/dumpstack.c and traps.c, kernel/watchdog.c, watchdog_perf.c, hung_task.c,
workqueue.c, rcu/tree_stall.h, locking/lockdep.c, sched/core.c, mm/oom_kill.c, page_alloc.c,
slub.c, page_poison.c, page_io.c, kasan/report.c, kfence/report.c, lib/list_debug.c, ubsan.c,
drivers/block/zram/zram_drv.c.
"""

import re
from dataclasses import dataclass
from typing import Literal

Severity = Literal["warning", "hang", "crash"]

RANK: tuple[Severity, ...] = ("warning", "hang", "crash")
"""Severities from the least to the most severe."""


@dataclass(frozen=True)
class Headline:
    """A finding's severity, and its title without numbers and addresses."""

    severity: Severity
    title: str


# The first match wins, from the start of a line without its time stamp. A guest may be hostile, so
# each pattern takes time linear in the line: no two repeats in it can match the same text.
_KINDS: tuple[tuple[Severity, str, str], ...] = (
    # The kernel, or a task in it, has crashed.
    ("crash", r"(Kernel panic - not syncing.*)", r"\1"),
    ("crash", r"BUG: kernel NULL pointer dereference", r"BUG: kernel NULL pointer dereference"),
    ("crash", r"BUG: unable to handle (?:kernel )?([a-z ]+?)(?: for address| at)", r"BUG: \1"),
    ("crash", r"BUG: (stack guard page was hit|TASK stack guard page)", r"BUG: \1"),
    ("crash", r"(kernel BUG at \S+:\d+)", r"\1"),
    ("crash", r"(kernel tried to execute [\w-]+ page)", r"\1"),
    ("crash", r"(PANIC: [a-z ]+)", r"\1"),
    # Every die() prints such a line: "divide error: 0000 [#1] PREEMPT SMP".
    (
        "crash",
        r"(?=.*: (?:0x)?[0-9a-f]{4} \[#[0-9]{1,9}\])(?:Oops: ){0,4}([A-Za-z][\w /-]*)",
        r"\1",
    ),
    # So has a program of the harness's own, for which only damaged memory is a reason
    # (show_signal_msg(), arch/x86/mm/fault.c; do_trap(), arch/x86/kernel/traps.c).
    (
        "crash",
        r"(?:traps: )?(fpr-guest|guest-shell|dropbear|init)\[\d{1,9}\](?:: (segfault) at"
        r"| (?:trap )?([a-z][a-z ]{3,30}) ip:)",
        r"\2\3 in \1",
    ),
    # It makes no progress.
    ("hang", r"(?:NMI )?(?:watchdog: )?BUG: soft lockup", r"BUG: soft lockup"),
    ("hang", r"(?:NMI )?(?:watchdog: )?(?:CPU\d+: )?Watchdog detected hard LOCKUP", r"hard LOCKUP"),
    ("hang", r"INFO: task (.+):\d+ (?:blocked|is blocked) ", r"INFO: task hung: \1"),
    (
        "hang",
        r"(?:rcu: )?INFO: (\w+) (self-detected stall|detected (?:expedited )?stalls)",
        r"INFO: \1 \2",
    ),
    ("hang", r"BUG: workqueue lockup", r"BUG: workqueue lockup"),
    # It continues, but something is wrong.
    ("warning", r"BUG: (KASAN|KFENCE|KCSAN|KMSAN): ([\w -]+? in [\w.]+)", r"BUG: \1: \2"),
    ("warning", r"BUG: (scheduling while atomic|Bad [a-z-]+ [a-z]+)", r"BUG: \1"),
    ("warning", r"BUG: ([^:\[]+?)(?: \[[0-9a-f]+\].*|:.*|$)", r"BUG: \1"),
    ("warning", r"\[ BUG: (.+?)[.!]? \]", r"BUG: \1"),
    # Of an object that is not as the slab allocator left it: slab_bug(), mm/slub.c; mm/slab.c.
    ("warning", r"BUG (\S{1,64}) \([^()]*\): ([A-Za-z ]+)", r"BUG \1: \2"),
    ("warning", r"(Slab corruption|slab error in \w+)", r"\1"),
    # Of a free page that is not as page_poison= left it: check_poison_mem().
    ("warning", r"(pagealloc: (?:memory corruption|single bit error))", r"\1"),
    # Of swapped pages that are not as they were: zram_read_page(), end_swap_bio_read().
    ("warning", r"(zram: Decompression failed|Read-error on swap-device)", r"\1"),
    (
        "warning",
        r"WARNING: (?:CPU: [0-9]{1,9} PID: [0-9]{1,9} at )?(\S+:[0-9]+) (?:at )?([\w.]+)\+0x",
        r"WARNING: \1 in \2",
    ),
    # Without CONFIG_DEBUG_BUGVERBOSE it names no line.
    (
        "warning",
        r"WARNING: (?:CPU: [0-9]{1,9} PID: [0-9]{1,9} )?at ([\w.]+)\+0x",
        r"WARNING in \1",
    ),
    ("warning", r"WARNING: (.+)", r"WARNING: \1"),
    ("warning", r"INFO: ((?:possible|inconsistent|trying|suspicious) .+)", r"INFO: \1"),
    ("warning", r"(UBSAN: .+)", r"\1"),
    ("warning", r"(list_(?:add|del)) (?:corruption|double add)", r"\1 corruption"),
    # pud_ERROR() and the others, mm/pgtable-generic.c; pmd_ERROR() of arch/x86 names its caller.
    ("warning", r"[\w./-]+:[0-9]{1,9}: (bad (?:pgd|p4d|pud|pmd|pte)) ", r"\1"),
    ("warning", r".*: (page allocation failure: order:\d+)", r"\1"),
    ("warning", r".* invoked oom-killer:", r"OOM kill"),
    (
        "warning",
        r"(?:Memory cgroup out|Out) of memory: Killed process \d+ \((.*)\)",
        r"OOM kill of \1",
    ),
)
_PATTERNS = tuple((severity, re.compile(words), title) for severity, words, title in _KINDS)

# A quick check of a whole piece of text, for a console that is flooded with harmless lines.
_SUSPICIOUS = re.compile(
    rb"BUG|WARNING|INFO:|UBSAN|panic|PANIC|\[#|LOCKUP|tried to execute|list_(?:add|del)"
    rb"|allocation failure|oom-killer|ut of memory|fpr-init|bad p[g4umt]"
    rb"|lab (?:corruption|error)|pagealloc: |Decompression failed|Read-error on swap"
    rb"|segfault at|traps: "
    # A kernel message that interrupts a program's line, which may be one of the init's.
    rb"|\[(?<=[^\r\n]\[) {0,4}\d{1,9}\.\d{6}\]"
)

_ADDRESS = re.compile(r"\+0x[0-9a-f]+/0x[0-9a-f]+|\b(?:0x)?[0-9a-f]{12,16}\b")
TITLE_LENGTH = 160


def looks_suspicious(text: bytes) -> bool:
    """Whether any line of `text` may be a headline, or (part of) a message of the guest's init."""
    return _SUSPICIOUS.search(text) is not None


def headline_of(line: str) -> Headline | None:
    """Return the headline in a line without time stamp; None for most lines."""
    for severity, pattern, title in _PATTERNS:
        if match := pattern.match(line):
            words = " ".join(_ADDRESS.sub("", match.expand(title)).split())
            return Headline(severity, words[:TITLE_LENGTH])
    return None


def with_place(title: str, function: str) -> str:
    """Add the function in which the trouble occurred to a title that names none."""
    return title if " in " in title else f"{title} in {function}"
