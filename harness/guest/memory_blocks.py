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

# Documentation/admin-guide/mm/memory-hotplug.rst; a kernel without it has no such directory. Only
# built-ins and cat: a guest's busybox may lack other applets.
OFFLINE_SCRIPT = """(
cd /sys/devices/system/memory 2>/dev/null || exit 0
cat block_size_bytes
for block in memory*; do
state=; read -r state 2>/dev/null < "$block/state"
[ "$state" = offline ] && echo "$block"
done; true)"""
"""Prints the size of a memory block, and the names of those that are offline."""

_SIZE = re.compile(r"[0-9a-f]{1,16}")
_BLOCK = re.compile(r"memory(\d{1,9})")


def offline_pages(shell: GuestShell, pages: int) -> BoolArray:
    """Find which of the guest's first `pages` page frames lie in memory blocks that are offline.

    Raises `ObserveError`, `SshError`, `GuestError`, `DeadlineError`.
    """
    found = np.zeros(pages, np.bool_)
    for block in parse_offline(shell.run(OFFLINE_SCRIPT).stdout.decode("ascii", "replace")):
        found[block.start : block.stop] = True
    return found


def parse_offline(text: str) -> tuple[range, ...]:
    """Parse what `OFFLINE_SCRIPT` printed: the PFNs of each block. Raises `ObserveError`."""
    lines = text.split()
    blocks = [_BLOCK.fullmatch(line) for line in lines[1:]]
    if lines and (not _SIZE.fullmatch(lines[0]) or None in blocks):
        raise ObserveError(f"the guest's memory blocks cannot be read: {' '.join(lines)[:200]!r}")
    size = int(lines[0], 16) // PAGE_SIZE if lines else 0
    numbers = [int(block[1]) for block in blocks if block is not None]
    return tuple(range(number * size, (number + 1) * size) for number in numbers)
