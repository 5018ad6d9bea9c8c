# SPDX-License-Identifier: Apache-2.0
"""Which build of its kernel a guest runs: two of one release can differ."""

from harness.machine.interfaces import GuestShell

LENGTH = 64
"""`version` of `struct new_utsname` (include/uapi/linux/utsname.h), without its final NUL."""


def read_build(shell: GuestShell) -> str:
    """`uname -v`, as in `#1 SMP PREEMPT_DYNAMIC Debian 6.1.176-1 (2026-10-12)`.

    Raises what the shell raises.
    """
    answer = shell.run("uname -v").stdout[: LENGTH + 1].decode("utf-8", "replace")
    return "".join(char if char.isprintable() else "?" for char in answer.rstrip("\n"))
