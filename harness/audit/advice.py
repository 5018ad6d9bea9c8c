# SPDX-License-Identifier: Apache-2.0
"""What to do about a VM's memory, each with its bytes and a command. Pure."""

from collections.abc import Iterator, Sequence

from harness.audit.account import GuestAccount
from harness.audit.audit_document import Advice, Command, Guest
from harness.audit.host_side import HostSide
from harness.audit.qemu_facts import Backend, Balloon
from harness.kernel.zones import MAX_ORDER, REPORTING_CAPACITY, block_size
from harness.units import MIB, PAGE_SIZE, format_size

WORTH = 0.01
"""What is less than this share of the VM's memory is not worth a word: an audit's own precision."""

LEAST_TRANSLATED = 32 * MIB
"""A buffer of less makes QEMU translate the same code again and again."""

_ORDER_FILE = "/sys/module/page_reporting/parameters/page_reporting_order"
_FRACTION_FILE = "/proc/sys/vm/percpu_pagelist_high_fraction"
_LOW_FRACTION = 1000
"""Of a zone on all of its per-CPU lists: less takes the zone's lock too often. Compaction returns
none of these lists' pages, and adds to them (mm/compaction.c, Linux 6.1)."""
_SERVICE = "systemctl set-property NAME.service MemoryHigh=SIZE"


def advise(
    host: HostSide,
    backends: Sequence[Backend],
    balloon: Balloon | None,
    inhibitors: Sequence[str],
    guest: Guest | None,
) -> tuple[Advice, ...]:
    """Say what to do, the most bytes first; what has no size comes before all."""
    least = max(1, int(WORTH * host.total))
    account = guest.account if guest is not None else None
    found = [
        *_offer(balloon, account),
        *_negotiation(balloon, guest),
        *_emulator(host),
    ]
    if guest is not None and account is not None:
        found += _kept(host, backends, inhibitors, guest, account)
        found += _free(guest, account)
        found += _used(account)
    elif host.counters.locked > least or inhibitors:
        found.append(_pinned(host, backends, inhibitors, None))
    worth = [advice for advice in found if advice.size is None or advice.size >= least]
    return tuple(sorted(worth, key=lambda advice: (advice.size is not None, -(advice.size or 0))))


def _offer(balloon: Balloon | None, account: GuestAccount | None) -> Iterator[Advice]:
    """The device does not offer reporting."""
    if balloon is not None and balloon.offered:
        return
    size = account.waiting if account is not None else None
    if balloon is None:
        yield Advice(
            "no-balloon",
            size,
            "the VM has no balloon device, so that the guest cannot report what it frees",
            (
                Command("qemu", "device_add virtio-balloon-pci,id=balloon0,free-page-reporting=on"),
                Command("qemu", "-device virtio-balloon-pci,free-page-reporting=on"),
                Command("libvirt", "<memballoon model='virtio' freePageReporting='on'/>"),
            ),
        )
    else:
        yield Advice(
            "not-offered",
            size,
            "the balloon device does not offer free page reporting; the VM must be restarted with "
            "it",
            (
                Command("libvirt", "<memballoon model='virtio' freePageReporting='on'/>"),
                Command("qemu", "-device virtio-balloon-pci,free-page-reporting=on"),
            ),
        )


def _negotiation(balloon: Balloon | None, guest: Guest | None) -> Iterator[Advice]:
    """The device offers reporting, and the guest does not report."""
    if balloon is None or not balloon.offered:
        return
    accepted = guest.reporting if guest is not None else balloon.negotiated
    if accepted is not False:
        return
    size = guest.account.waiting if guest is not None and guest.account is not None else None
    commands: tuple[Command, ...] = ()
    if guest is None:
        why = "its driver is missing, or its kernel cannot report"
    elif guest.driver is None:
        why = "no driver is bound to its balloon device"
        commands = (
            Command("guest", "modprobe virtio_balloon"),
            Command("guest", "echo virtioN > /sys/bus/virtio/drivers/virtio_balloon/bind"),
        )
    elif guest.kernel_reports == "no":
        why = f"its kernel {guest.release} was built without CONFIG_PAGE_REPORTING"
        commands = (Command("guest", "install a kernel of 5.7 or later with it, and restart"),)
    elif guest.filled_by:
        why = "it fills freed pages, of which the device does not let it tell (page-poison=off)"
        commands = (
            Command("qemu", "-device virtio-balloon-pci,free-page-reporting=on,page-poison=on"),
            Command("guest", f"remove {guest.filled_by} from its command line, and restart"),
        )
    else:
        why = f"its kernel {guest.release} is older than 5.7, or cannot report"
        commands = (Command("guest", "install a kernel of 5.7 or later, and restart"),)
    words = f"the device offers free page reporting, but the guest has not accepted it: {why}"
    yield Advice("not-negotiated", size, words, commands)


def _kept(
    host: HostSide,
    backends: Sequence[Backend],
    inhibitors: Sequence[str],
    guest: Guest,
    account: GuestAccount,
) -> Iterator[Advice]:
    """What was reported and stayed on the host."""
    block = block_size(guest.order)
    if guest.poisons:
        yield Advice(
            "page-poison",
            account.reported,
            "the guest has reported it, but QEMU keeps it: the guest fills freed pages with a "
            "pattern (page_poison=1), which a discarded page would lack",
            (Command("guest", "remove page_poison=1 from its command line, and restart"),),
        )
    elif inhibitors or host.counters.locked or any(b.page_size > block for b in backends):
        yield _pinned(host, backends, inhibitors, guest, account.reported)
    else:
        yield Advice(
            "collapsed",
            account.collapsible,
            "the guest has reported it, and the host has filled it in again: khugepaged made whole "
            "huge pages of blocks that were partly returned",
            (
                Command(
                    "host", "echo 0 > /sys/kernel/mm/transparent_hugepage/khugepaged/max_ptes_none"
                ),
            ),
        )
        yield Advice(
            "acked-not-discarded",
            account.reported - account.collapsible,
            "the guest has reported it, but the host still holds it, and nothing that QEMU shows "
            "says why",
            (Command("host", "look for `Failed to discard` in QEMU's log"),),
        )


def _pinned(
    host: HostSide,
    backends: Sequence[Backend],
    inhibitors: Sequence[str],
    guest: Guest | None,
    size: int | None = None,
) -> Advice:
    """Something that QEMU or the host shows keeps guest RAM resident."""
    large = [b for b in backends if guest and b.page_size > block_size(guest.order)]
    commands: tuple[Command, ...]
    if inhibitors:
        why = f"the VM has {' and '.join(inhibitors)}, for which QEMU discards nothing"
        commands = (
            Command("qemu", "remove the device, or give the VM no more memory than needed"),
        )
    elif host.counters.locked:
        why = f"{format_size(host.counters.locked)} of QEMU's memory are locked (mlock)"
        commands = (
            Command("qemu", "leave out -overcommit mem-lock=on"),
            Command("libvirt", "remove <locked/> from <memoryBacking>"),
        )
    else:
        largest = max(b.page_size for b in large)
        why = (
            f"guest RAM lies in pages of {format_size(largest)}, larger than the blocks that the "
            "guest reports"
        )
        order = (largest // PAGE_SIZE).bit_length() - 1
        commands = (
            (Command("guest", f"echo {order} > {_ORDER_FILE}"),)
            if order <= MAX_ORDER
            else (Command("qemu", "use pages of 2 MiB: hugetlbsize=2M, or mem-path of such"),)
        )
    return Advice("pinned", size, f"reported memory stays on the host: {why}", commands)


def _free(guest: Guest, account: GuestAccount) -> Iterator[Advice]:
    """Free memory that is not, or not yet, reported."""
    order = guest.order
    if guest.reporting:
        yield Advice(
            "waiting",
            account.waiting,
            f"the next passes report it, one every {guest.pass_seconds:g} s: an idle guest needs "
            "about half a minute; on a busy one this is what it frees and takes again",
        )
    lower = _lower_order(account.below_order)
    compact = Command("guest", "echo 1 > /proc/sys/vm/compact_memory")
    lower_order = (
        (Command("guest", f"echo {lower} > {_ORDER_FILE}"),) if lower < min(order, 9) else ()
    )
    yield Advice(
        "fragmented",
        account.small,
        f"it is free in blocks of less than {format_size(block_size(order))}, the reporting order "
        f"{order}: the guest's memory is fragmented; compaction merges them, and a lower order "
        "reports smaller blocks, at the price of more calls",
        (compact, *lower_order),
    )
    reserve = (REPORTING_CAPACITY << order) * PAGE_SIZE
    enough = min(account.watermark_orders, default=None)
    yield Advice(
        "below-watermark",
        account.below_watermark,
        "it is free in zones below their watermark, from which the guest does not report: the low "
        f"watermark and {format_size(reserve)} stay free in each zone, less at a lower order",
        (Command("guest", f"echo {enough} > {_ORDER_FILE}"),) if enough is not None else (),
    )
    yield Advice(
        "per-cpu",
        account.per_cpu,
        "it is free on the guest's per-CPU lists, from which each processor takes its next pages; "
        "with a lower limit, a processor keeps no more once it frees again (0: the kernel's own "
        "choice again; from Linux 5.14)",
        (Command("guest", f"echo {_LOW_FRACTION} > {_FRACTION_FILE}"),),
    )


def _lower_order(below: dict[int, int]) -> int:
    """Return the highest order that would reach half of the fragmented bytes."""
    reached = 0
    for order in sorted(below, reverse=True):
        reached += below[order]
        if 2 * reached >= sum(below.values()):
            return order
    return 0


def _used(account: GuestAccount) -> Iterator[Advice]:
    """Memory in use that the guest could do without."""
    yield Advice(
        "page-cache",
        account.used["page_cache"],
        "the guest caches files in it, and gives it up only when it needs memory; dropping helps "
        "once, a limit or a balloon lasts",
        (
            Command("guest", "sync; echo 1 > /proc/sys/vm/drop_caches"),
            Command("guest", _SERVICE),
            Command("qemu", "balloon MIB (a size that leaves the guest what it needs)"),
            Command("libvirt", "virsh setmem NAME SIZE --live"),
        ),
    )
    yield Advice(
        "huge-pool",
        min(account.used["huge_pool"], account.huge_pool_unused),
        "it lies unused in the guest's pool of huge pages",
        (Command("guest", "echo 0 > /proc/sys/vm/nr_hugepages (or as many as are in use)"),),
    )
    yield Advice(
        "deferred-split",
        account.deferred_split,
        "about this much are the freed parts of transparent huge pages, whose split the guest "
        "defers until it needs memory",
        (Command("guest", "echo 2 > /proc/sys/vm/drop_caches"),),
    )
    yield Advice(
        "shmem",
        account.used["shmem"],
        "files on the guest's tmpfs and shared memory hold it",
        (Command("guest", "df -h -t tmpfs; ipcs -m"),),
    )
    yield Advice(
        "slab",
        account.used["slab"],
        "the guest's kernel holds it in slab caches, most of it for files that it remembers",
        (Command("guest", "echo 2 > /proc/sys/vm/drop_caches"),),
    )


def _emulator(host: HostSide) -> Iterator[Advice]:
    """QEMU's own memory that can be less."""
    if host.own.translated >= 2 * LEAST_TRANSLATED:
        yield Advice(
            "translation-buffer",
            host.own.translated,
            "QEMU emulates the processor, and keeps translated code in it",
            (Command("qemu", f"-accel tcg,tb-size={host.own.translated // 2 // MIB}"),),
        )
    yield Advice(
        "lazily-free",
        host.ram.lazily_free,
        "it was freed with MADV_FREE: the host takes it as soon as it needs memory",
    )
