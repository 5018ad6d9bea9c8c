# SPDX-License-Identifier: Apache-2.0
"""What a guest keeps beside its free lists, by who keeps it."""

from harness.ledger.events import Audited
from harness.ledger.facts import GuestCounters
from harness.ledger.noise import HUGE_PAGE

RETENTION_MEASURES: dict[str, str] = {
    "page_cache_bytes": "bytes of files in the guest's page cache, more than at the last audit "
    "before the latest free (as the following; without one, all of them)",
    "shmem_bytes": "bytes of tmpfs files and shared memory in the guest",
    "slab_bytes": "bytes of slab in the guest's kernel",
    "huge_pool_bytes": "bytes unused in the guest's pool of huge pages",
    "deferred_split_bytes": "bytes freed inside huge pages whose split the guest defers, about",
}

_ACCOUNTED = (
    "MemFree",
    "Buffers",
    "Cached",
    "SwapCached",
    "AnonPages",
    "Slab",
    "KernelStack",
    "PageTables",
    "Percpu",
    "Hugetlb",
)
"""/proc/meminfo fields that together hold nearly all of MemTotal, none of it twice."""


def retention_measures(audit: Audited, earlier: Audited | None) -> dict[str, float]:
    """Growth since the earlier audit, 0 where it shrank; the whole without one."""
    now = audit.counters
    base = earlier.counters if earlier is not None else None
    return {
        "page_cache_bytes": max(0, page_cache(now) - (page_cache(base) if base else 0)),
        "shmem_bytes": max(0, grown(now, base, "Shmem")),
        "slab_bytes": max(0, grown(now, base, "Slab")),
        "huge_pool_bytes": huge_pool(now),
        "deferred_split_bytes": deferred_split(now, base),
    }


def grown(now: GuestCounters, base: GuestCounters | None, field: str) -> int:
    """A field of /proc/meminfo, less what it was."""
    return now.meminfo.get(field, 0) - (base.meminfo.get(field, 0) if base else 0)


def page_cache(counters: GuestCounters) -> int:
    """Pages of files; shared memory is in Cached but belongs to processes."""
    field = counters.meminfo.get
    return field("Cached", 0) + field("Buffers", 0) - field("Shmem", 0)


def huge_pool(counters: GuestCounters) -> int:
    """Unused bytes of the pool of the default huge page size."""
    return counters.meminfo.get("HugePages_Free", 0) * counters.meminfo.get("Hugepagesize", 0)


def deferred_split(now: GuestCounters, base: GuestCounters | None) -> int:
    """Memory used but in no account, as far as newly deferred splits can explain it.

    A huge page that is partly unmapped waits on the deferred split queue (mm/huge_memory.c,
    deferred_split_folio(), counted in vmstat's thp_deferred_split_page); its unmapped part is in
    neither AnonPages nor MemFree.
    """
    queued = now.vmstat.get("thp_deferred_split_page", 0)
    hidden = _unaccounted(now)
    if base is not None:
        queued -= base.vmstat.get("thp_deferred_split_page", 0)
        hidden -= _unaccounted(base)
    return max(0, min(queued * HUGE_PAGE, hidden))


def _unaccounted(counters: GuestCounters) -> int:
    return counters.meminfo.get("MemTotal", 0) - sum(
        counters.meminfo.get(field, 0) for field in _ACCOUNTED
    )
