# SPDX-License-Identifier: Apache-2.0
"""The parts of a VM's memory in words."""

from harness.audit.account import Group
from harness.audit.keepers import Sort

GROUP_WORDS: dict[Group, str] = {
    "used": "used by the guest",
    "free": "free in the guest, held by the host",
    "other": "guest RAM otherwise",
    "qemu": "QEMU's own",
    "host": "the host's",
}
"""In the order in which they are shown."""

PART_WORDS: dict[str, str] = {
    "anonymous": "processes (anonymous)",
    "page_cache": "page cache",
    "shmem": "tmpfs and shared memory",
    "slab": "slab",
    "page_tables": "page tables",
    "huge_pool": "huge-page pool",
    "kernel": "kernel, all else",
    "per_cpu": "on per-CPU lists (at most)",
    "below_order": "in blocks below the order",
    "below_watermark": "in zones below the watermark",
    "waiting": "in blocks that can be reported",
    "reported": "reported and still resident",
    "ballooned": "in the balloon or not online",
    "changing": "changed hands during the audit",
    "hidden": "not the guest's: firmware and the like",
    "guest_ram": "guest RAM, use unknown",
    "heap": "heap and stacks",
    "translated": "translated code (TCG)",
    "devices": "device memory",
    "files": "program and libraries",
    "shared": "shared memory",
    "host_page_tables": "page tables for QEMU",
    "unexplained": "unexplained",
}

KEEPER_WORDS: dict[Sort, str] = {
    "process": "process",
    "file": "file",
    "slab": "slab cache",
    "page_tables": "page tables",
    "kernel": "kernel, all else",
}
MOST_KEEPERS = 20
"""How many are shown; JSON has all."""
