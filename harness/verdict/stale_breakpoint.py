# SPDX-License-Identifier: Apache-2.0
"""Know a crash of TCG's making: a breakpoint that the kernel had already taken out of its code."""

import re

_EXECUTED = re.compile(r"^Code:.* ([0-9a-f]{2}) <[0-9a-f]{2}> ", re.MULTILINE)
"""The byte before RIP, in the dump of the code at RIP."""

INT3 = "cc"


def stale_breakpoint(title: str, text: str) -> bool:
    """Whether a kernel died of an int3 that is no longer where it was executed.

    To patch its code, the kernel puts a breakpoint there, changes the rest, replaces the breakpoint
    and makes every CPU serialize after each step (smp_text_poke_batch_finish() in
    arch/x86/kernel/alternative.c, 6.16 to 7.3), so that no CPU executes it later. A CPU that TCG
    emulates may: seen on QEMU 7.2, when a stall of the host had made the guest's TSC unstable. A
    kernel that runs into the padding between functions executes an int3 that is there.
    """
    if not title.startswith("int3 in "):
        return False
    executed = _EXECUTED.search(text)
    return executed is not None and executed[1] != INT3
