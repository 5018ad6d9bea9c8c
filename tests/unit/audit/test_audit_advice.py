# SPDX-License-Identifier: Apache-2.0
"""Each advice with its bytes and command, from a recorded audit with one thing changed."""

from dataclasses import replace

import pytest
from audit_builders import recorded, with_account

from harness.audit.advice import advise
from harness.audit.audit_document import Advice, Audit
from harness.units import MIB

BASE = recorded()


def advice(audit: Audit) -> dict[str, Advice]:
    found = advise(audit.host, audit.backends, audit.balloon, audit.inhibitors, audit.guest)
    return {item.name: item for item in found}


def commands(item: Advice) -> str:
    return "\n".join(f"{command.where}: {command.line}" for command in item.commands)


def used(**sizes: int) -> Audit:
    assert BASE.guest is not None
    assert BASE.guest.account is not None
    return with_account(BASE, used=BASE.guest.account.used | sizes)


def test_what_is_less_than_a_hundredth_is_not_worth_a_word() -> None:
    small = with_account(used(page_cache=BASE.total // 101), reported=100)
    assert not advice(small).keys() & {"page-cache", "acked-not-discarded", "huge-pool"}


def test_no_balloon_and_no_reporting_offered() -> None:
    waiting = with_account(BASE, waiting=100 * MIB)
    none = advice(replace(waiting, balloon=None))["no-balloon"]
    assert none.size == 100 * MIB
    assert "device_add virtio-balloon-pci" in commands(none)
    assert BASE.balloon is not None
    silent = advice(replace(waiting, balloon=replace(BASE.balloon, offered=False)))
    assert "freePageReporting='on'" in commands(silent["not-offered"])


@pytest.mark.parametrize(
    ("driver", "kernel_reports", "poisons", "words", "command"),
    [
        (None, "unknown", False, "no driver is bound", "modprobe virtio_balloon"),
        ("virtio_balloon", "no", False, "without CONFIG_PAGE_REPORTING", "5.7 or later"),
        ("virtio_balloon", "unknown", True, "page-poison=off", "remove page_poison=1"),
        ("virtio_balloon", "unknown", False, "older than 5.7", "install a kernel"),
    ],
)
def test_offered_and_not_accepted(
    driver: str | None, kernel_reports: str, poisons: bool, words: str, command: str
) -> None:
    audit = with_account(BASE, waiting=100 * MIB)
    assert audit.guest is not None
    guest = replace(
        audit.guest,
        reporting=False,
        driver=driver,
        kernel_reports=kernel_reports,  # type: ignore[arg-type]
        filled_by="page_poison=1" if poisons else "",
    )
    found = advice(replace(audit, guest=guest))
    assert "waiting" not in found, "nothing waits for a pass that never comes"
    assert found["not-negotiated"].size == 100 * MIB
    assert words in found["not-negotiated"].words
    assert command in commands(found["not-negotiated"])


def test_the_hosts_side_alone_knows_of_a_guest_that_does_not_accept() -> None:
    assert BASE.balloon is not None
    alone = replace(BASE, guest=None, balloon=replace(BASE.balloon, negotiated=False))
    assert advice(alone)["not-negotiated"].size is None


def test_reported_and_kept_by_a_device_by_locking_by_pages_too_large_or_by_nobody_known() -> None:
    kept = with_account(BASE, reported=100 * MIB)
    vfio = advice(replace(kept, inhibitors=("a VFIO device, which pins guest RAM",)))["pinned"]
    assert "VFIO" in vfio.words
    assert vfio.size == 100 * MIB
    counters = replace(kept.host.counters, locked=500 * MIB)
    locked = advice(replace(kept, host=replace(kept.host, counters=counters)))["pinned"]
    assert "mem-lock" in commands(locked)
    large = tuple(replace(backend, page_size=1 << 30) for backend in kept.backends)
    assert "larger than the blocks" in advice(replace(kept, backends=large))["pinned"].words
    assert advice(kept)["acked-not-discarded"].size == 100 * MIB
    collapsed = advice(with_account(kept, collapsible=60 * MIB))
    assert collapsed["collapsed"].size == 60 * MIB
    assert collapsed["acked-not-discarded"].size == 40 * MIB


def test_pages_that_fit_the_guests_blocks_at_a_higher_order_need_no_restart() -> None:
    kept = with_account(BASE, reported=100 * MIB)
    assert kept.guest is not None
    huge = tuple(replace(backend, page_size=2 * MIB) for backend in kept.backends)
    low = replace(kept, guest=replace(kept.guest, order=5), backends=huge)
    assert "echo 9 > /sys/module/page_reporting" in commands(advice(low)["pinned"])
    assert "pinned" not in advice(replace(kept, backends=huge)), "order 9 reports blocks of 2 MiB"


def test_a_poisoning_guest_is_named_before_all_else_that_could_keep() -> None:
    kept = with_account(BASE, reported=100 * MIB)
    assert kept.guest is not None
    found = advice(replace(kept, guest=replace(kept.guest, poisons=True)))
    assert "remove page_poison=1" in commands(found["page-poison"])
    assert "acked-not-discarded" not in found


def test_fragmented_memory_names_the_highest_order_that_reaches_half_of_it() -> None:
    audit = with_account(BASE, below_order={8: 10 * MIB, 5: 50 * MIB, 0: 30 * MIB})
    found = advice(audit)["fragmented"]
    assert found.size == 90 * MIB
    assert "echo 5 > /sys/module/page_reporting/parameters/page_reporting_order" in commands(found)
    assert "compact_memory" in commands(found)


def test_a_zone_below_its_watermark_names_an_order_that_is_low_enough_or_none() -> None:
    audit = with_account(BASE, below_watermark=20 * MIB, watermark_orders={6: 20 * MIB})
    assert "echo 6 >" in commands(advice(audit)["below-watermark"])
    audit = with_account(BASE, below_watermark=20 * MIB, watermark_orders={})
    assert advice(audit)["below-watermark"].commands == ()


@pytest.mark.parametrize(
    ("changes", "name", "command"),
    [
        ({"waiting": 50 * MIB}, "waiting", ""),
        ({"per_cpu": 50 * MIB}, "per-cpu", "percpu_pagelist_high_fraction"),
        ({"deferred_split": 50 * MIB}, "deferred-split", "echo 2 > /proc/sys/vm/drop_caches"),
    ],
)
def test_free_memory_on_its_way(changes: dict[str, int], name: str, command: str) -> None:
    found = advice(with_account(BASE, **changes))[name]
    assert found.size == 50 * MIB
    assert command in commands(found)


def test_memory_that_the_guest_could_do_without() -> None:
    found = advice(used(page_cache=50 * MIB, shmem=40 * MIB, slab=30 * MIB))
    assert "echo 1 > /proc/sys/vm/drop_caches" in commands(found["page-cache"])
    assert found["shmem"].size == 40 * MIB
    assert found["slab"].size == 30 * MIB
    pool = with_account(used(huge_pool=60 * MIB), huge_pool_unused=50 * MIB)
    assert advice(pool)["huge-pool"].size == 50 * MIB, "what is in use stays"


def test_the_most_bytes_come_first() -> None:
    sizes = [item.size for item in advice(used(page_cache=500 * MIB)).values()]
    assert sizes == sorted((size for size in sizes if size is not None), reverse=True)
    assert sizes[0] == 500 * MIB


def test_a_small_translation_buffer_is_no_advice() -> None:
    own = replace(BASE.host.own, translated=40 * MIB)
    assert "translation-buffer" not in advice(replace(BASE, host=replace(BASE.host, own=own)))
    own = replace(BASE.host.own, translated=400 * MIB)
    found = advice(replace(BASE, host=replace(BASE.host, own=own)))["translation-buffer"]
    assert "tb-size=200" in commands(found)
