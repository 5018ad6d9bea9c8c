# SPDX-License-Identifier: Apache-2.0
"""Reads which kernel build a guest runs; two builds of one release can differ."""

from harness.machine.interfaces import GuestShell

LENGTH = 64
"""Length of `version` in `struct new_utsname` (include/uapi/linux/utsname.h), without its NUL."""


def read_build(shell: GuestShell) -> str:
    """Read `uname -v`, as in `#1 SMP PREEMPT_DYNAMIC Debian 6.1.176-1 (2026-10-12)`.

    Raises what the shell raises.
    """
    answer = shell.run("uname -v").stdout[: LENGTH + 1].decode("utf-8", "replace")
    return "".join(char if char.isprintable() else "?" for char in answer.rstrip("\n"))
