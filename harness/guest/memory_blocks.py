# SPDX-License-Identifier: Apache-2.0
"""Reads which memory the guest has put offline, by /sys/devices/system/memory.

The list of pages cannot tell: from 6.16 on such a page has no flags (kpage_read(), fs/proc/page.c),
like some that the kernel uses, and /proc/iomem still calls it System RAM.
"""

import re

import numpy as np

from harness.errors import ObserveError
from harness.kernel.blocks import BoolArray
from harness.machine.interfaces import GuestShell
from harness.units import PAGE_SIZE

# Documentation/admin-guide/mm/memory-hotplug.rst; a kernel without it has no such directory.
_COMMAND = (
    "cd /sys/devices/system/memory 2>/dev/null || exit 0; "
    "cat block_size_bytes; grep -lx offline memory*/state; true"
)
_SIZE = re.compile(r"[0-9a-f]{1,16}")
_BLOCK = re.compile(r"memory(\d{1,9})/state")


def offline_pages(shell: GuestShell, pages: int) -> BoolArray:
    """Find which of the guest's first `pages` page frames lie in memory blocks that are offline.

    Raises `ObserveError`, `SshError`, `GuestError`, `DeadlineError`.
    """
    found = np.zeros(pages, np.bool_)
    lines = shell.run(_COMMAND).stdout.decode("ascii", "replace").split()
    if not lines:
        return found
    blocks = [_BLOCK.fullmatch(line) for line in lines[1:]]
    if not _SIZE.fullmatch(lines[0]) or None in blocks:
        raise ObserveError(f"the guest's memory blocks cannot be read: {' '.join(lines)[:200]!r}")
    size = int(lines[0], 16) // PAGE_SIZE
    for block in blocks:
        assert block is not None
        first = int(block[1]) * size
        found[first : first + size] = True
    return found
