# SPDX-License-Identifier: Apache-2.0
"""Every resident page is in one part, and the parts add up, on pages laid out by the test."""

from dataclasses import replace

import numpy as np
import pytest
from audit_builders import facts, host_side, reading, zone

from harness.audit import account
from harness.audit.account import (
    guest_account,
    parts_of,
    sum_of,
)
from harness.audit.vm_audit import check_written
from harness.errors import ObserveError
from harness.kernel.page_kinds import PageKind
from harness.kernel.pages import GuestState, HostState
from harness.units import KIB, MIB, PAGE_SIZE

PAGES = 1 << 16
BLOCK = 512


def test_pages_in_use_are_told_apart_by_kind() -> None:
    kinds = np.full(PAGES, PageKind.ANONYMOUS, np.uint8)
    for number, kind in enumerate(PageKind):
        kinds[100 * number : 100 * (number + 1)] = kind
    kinds[700:] = GuestState.NO_PAGE
    account = guest_account(reading(kinds), facts([zone(spanned=PAGES)]))
    assert account.used == dict.fromkeys(
        (
            *("anonymous", "page_cache", "shmem", "slab", "page_tables", "huge_pool"),
            "kernel",
        ),
        100 * PAGE_SIZE,
    )
    assert account.hidden == (PAGES - 700) * PAGE_SIZE


@pytest.mark.parametrize("kind", [PageKind.KERNEL, GuestState.NO_PAGE], ids=["6.16", "before"])
def test_memory_put_offline_is_not_the_kernels(kind: int) -> None:
    kinds = np.full(PAGES, PageKind.ANONYMOUS, np.uint8)
    kinds[100:300] = kind
    sides = replace(reading(kinds), offline=(range(100, 300),))
    account = guest_account(sides, facts([zone(spanned=PAGES)]))
    assert account.ballooned == 200 * PAGE_SIZE
    assert (account.used["kernel"], account.hidden) == (0, 0)


def test_free_pages_are_told_apart_by_order_watermark_and_mark() -> None:
    kinds = np.full(PAGES, PageKind.KERNEL, np.uint8)
    kinds[: 4 * BLOCK] = GuestState.FREE  # two blocks of order 10
    kinds[4 * BLOCK] = GuestState.REPORTED
    kinds[4 * BLOCK + 1 : 5 * BLOCK] = GuestState.FREE
    kinds[6 * BLOCK : 6 * BLOCK + 8] = GuestState.FREE  # a block of order 3
    kinds[7 * BLOCK] = GuestState.FREE
    account = guest_account(reading(kinds), facts([zone(spanned=PAGES, free=PAGES)]))
    assert account.waiting == 4 * BLOCK * PAGE_SIZE
    assert account.reported == BLOCK * PAGE_SIZE
    assert account.below_order == {0: PAGE_SIZE, 3: 8 * PAGE_SIZE}
    assert account.below_watermark == 0
    assert account.given_back == 0

    gone = np.full(PAGES, HostState.RESIDENT, np.uint8)
    gone[: 5 * BLOCK] = HostState.ABSENT
    account = guest_account(reading(kinds, gone), facts([zone(spanned=PAGES, free=PAGES)]))
    assert account.given_back == BLOCK * PAGE_SIZE
    assert account.absent_free == 4 * BLOCK * PAGE_SIZE
    assert account.waiting == account.reported == 0

    low = zone(spanned=PAGES, free=9000, low=100)  # 9000 < 100 + 32 << 9, > 100 + 32 << 8
    account = guest_account(reading(kinds), facts([low]))
    assert account.waiting == 0
    assert account.below_watermark == (4 * BLOCK + 9) * PAGE_SIZE
    assert account.watermark_orders == {8: account.below_watermark}


def test_pages_of_the_per_cpu_lists_are_not_the_kernels() -> None:
    kinds = np.full(PAGES, PageKind.KERNEL, np.uint8)
    account = guest_account(reading(kinds), facts([zone(spanned=PAGES, per_cpu=100)]))
    assert account.per_cpu == 100 * PAGE_SIZE
    assert account.used["kernel"] == (PAGES - 100) * PAGE_SIZE


def test_what_the_host_does_not_hold_is_counted_apart() -> None:
    kinds = np.full(PAGES, GuestState.FREE, np.uint8)
    kinds[:1000] = PageKind.SLAB
    kinds[1000:1010] = PageKind.ANONYMOUS
    host = np.full(PAGES, HostState.ABSENT, np.uint8)
    host[:10] = HostState.ZERO
    account = guest_account(reading(kinds, host), facts([zone(spanned=PAGES)]))
    assert account.absent_used == 1010 * PAGE_SIZE
    assert account.absent_written == 10 * PAGE_SIZE
    assert account.absent_free == (PAGES - 1010) * PAGE_SIZE
    assert sum(account.used.values()) == account.free == 0


def test_a_little_that_was_written_and_is_absent_is_normal_and_much_is_missing() -> None:
    kinds = np.full(PAGES, PageKind.ANONYMOUS, np.uint8)
    host = np.full(PAGES, HostState.RESIDENT, np.uint8)
    host[:2000] = HostState.ABSENT
    zones = facts([zone(spanned=PAGES)])
    assert guest_account(reading(kinds, host), zones).missing == 0
    host[:8000] = HostState.ABSENT
    account = guest_account(reading(kinds, host), zones)
    assert account.missing == 8000 * PAGE_SIZE
    with pytest.raises(ObserveError, match=r"the host lacks 31\.2MiB of 256MiB"):
        check_written(account, zones)


def test_pages_that_change_hands_are_in_no_other_part() -> None:
    before = np.full(PAGES, PageKind.ANONYMOUS, np.uint8)
    after = before.copy()
    after[:256] = GuestState.FREE
    account = guest_account(reading(after, before=before), facts([zone(spanned=PAGES)]))
    assert account.changing == MIB
    assert account.used["anonymous"] == (PAGES - 256) * PAGE_SIZE


@pytest.mark.parametrize("seed", range(5))
def test_all_parts_together_are_what_is_resident(seed: int) -> None:
    random = np.random.default_rng(seed)
    states = [*PageKind, GuestState.FREE, GuestState.REPORTED, GuestState.OFFLINE]
    kinds = np.repeat(random.choice(states, PAGES // 64), 64).astype(np.uint8)
    host = random.choice([HostState.ABSENT, HostState.RESIDENT, HostState.ZERO], PAGES)
    look = reading(kinds, host.astype(np.uint8))
    account = guest_account(look, facts([zone(spanned=PAGES, free=PAGES)]))
    held = int(np.count_nonzero(host == HostState.RESIDENT)) * PAGE_SIZE
    side = host_side(held=held)
    parts = parts_of(side, account)
    assert sum(sum_of(parts, group) for group in ("used", "free", "other")) == held
    assert sum(part.size for part in parts) == side.total
    assert parts[-1].name == "unexplained"
    assert parts[-1].size == 0


@pytest.mark.parametrize("nested", [False, True])
def test_memory_is_accounted_for_alike_in_parts_and_as_a_whole(
    monkeypatch: pytest.MonkeyPatch, nested: bool
) -> None:
    """Also where one zone lies within another, as those of interleaved nodes do."""
    random = np.random.default_rng(7)
    states = [*PageKind, GuestState.FREE, GuestState.REPORTED]
    kinds = np.repeat(random.choice(states, PAGES // 32), 32).astype(np.uint8)
    host = random.choice([HostState.ABSENT, HostState.RESIDENT], PAGES).astype(np.uint8)
    half = PAGES // 2
    zones = [
        zone(spanned=PAGES if nested else half, free=PAGES),
        zone(spanned=half - 3000, free=9000, start_pfn=half + (0 if nested else 3000)),
    ]
    monkeypatch.setattr(account, "PART_PAGES", 4 * 1024)
    parts = account.guest_account(reading(kinds, host), facts(zones))
    monkeypatch.setattr(account, "PART_PAGES", PAGES)
    assert account.guest_account(reading(kinds, host), facts(zones)) == parts
    assert parts.below_watermark > 0
    assert parts.given_back > 0


def test_what_is_unexplained_is_named() -> None:
    side = host_side(held=64 * MIB)
    off = replace(side, total=side.total + 40 * KIB)
    assert parts_of(off, None)[-1].size == 40 * KIB
    assert off.unexplained == 40 * KIB
