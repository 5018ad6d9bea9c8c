# SPDX-License-Identifier: Apache-2.0
"""The three ledgers: which pair disagrees first, by how much, and whose fault that is."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from run_builders import (
    FREED,
    HELD_BEFORE,
    a_run,
    freed,
    healthy,
    mapping,
    of_a_file,
    ready,
    started,
)

from harness.kernel.pages import GuestState, HostState
from harness.record.facts import Cause
from harness.record.folding import fold
from harness.units import MIB
from harness.verdict.reconcile import Ledgers, ledgers_of, reconcile

BLOCK = 2 * MIB

AGREE = Ledgers(
    reported_resident=0,
    reported_undiscarded=0,
    reported_resident_pfns=(),
    discarded=490 * MIB,
    discards_failed=0,
    discard_errno=0,
    file_rss_fall=480 * MIB,
    file_blocks_fall=None,
    lazyfree=0,
    swap_growth=0,
    skipped="a device inhibits discards",
    moved=False,
    hibernated=False,
)


def test_ledgers_that_agree() -> None:
    assert reconcile(AGREE, BLOCK) is None


def test_the_ledgers_of_a_healthy_run() -> None:
    assert ledgers_of(fold(a_run())) == Ledgers(
        reported_resident=0,
        reported_undiscarded=0,
        reported_resident_pfns=(),
        discarded=FREED,
        discards_failed=0,
        discard_errno=0,
        file_rss_fall=0,
        file_blocks_fall=None,
        lazyfree=0,
        swap_growth=0,
        skipped="discards inhibited by a device, or a poison value",
        moved=False,
        hibernated=False,
    )


@pytest.mark.parametrize(
    ("of_the_guest", "words"),
    [
        (
            {"host_page": 2 * MIB, "page_reporting_order": 5},
            "a block of order 5 has 128KiB, less than the pages of 2MiB behind guest memory",
        ),
        ({"host_page": 2 * MIB, "features": "011101"}, "a device inhibits discards"),
        ({"host_page": 4096, "features": "011111"}, "a value that its free pages hold"),
        ({}, "inhibited by a device, or a poison value"),
    ],
)
def test_what_is_known_of_a_report_that_qemu_skipped_is_said(
    of_the_guest: dict[str, Any], words: str
) -> None:
    found = ledgers_of(fold(a_run(ready_as=ready(**of_the_guest))))
    assert found is not None
    skipped = replace(found, reported_undiscarded=4 * MIB, reported_resident=4 * MIB)
    disagreement = reconcile(skipped, BLOCK)
    assert disagreement is not None
    assert words in disagreement.sentence


def test_blocks_smaller_than_the_hosts_pages_explain_what_an_older_discard_covers() -> None:
    """A guest of order 8 on pages of 2 MiB: one half of a page given back was used again."""
    guest = healthy().blocks(26, 1, GuestState.REPORTED, HostState.RESIDENT)
    ready_as = ready(host_page=2 * MIB, page_reporting_order=8)
    found = ledgers_of(fold(a_run(guest, ready_as=ready_as)))
    assert found is not None
    assert found.reported_undiscarded == 0
    disagreement = reconcile(found, MIB)
    assert disagreement is not None
    assert disagreement.cause is Cause.ACKED_NOT_DISCARDED
    assert "a block of order 8 has 1MiB, less than the pages of 2MiB" in disagreement.sentence
    assert "something has touched them" not in disagreement.sentence


def test_there_are_none_without_an_audit() -> None:
    assert ledgers_of(fold(a_run(audits=()))) is None


def test_without_a_free_nothing_fell() -> None:
    found = ledgers_of(fold([*started(), healthy().audited()]))
    assert found is not None
    assert (found.file_rss_fall, found.swap_growth, found.discarded) == (None, None, 204 * MIB)


def test_a_files_blocks_are_kept_apart() -> None:
    before = freed(before=of_a_file(HELD_BEFORE, blocks=HELD_BEFORE))
    after = healthy().audited(mapping=of_a_file(50 * MIB, blocks=210 * MIB))
    found = ledgers_of(fold(a_run(freed_as=before, audits=[after])))
    assert found is not None
    assert (found.file_rss_fall, found.file_blocks_fall) == (HELD_BEFORE - 50 * MIB, 6 * MIB)


def test_private_copies_that_go_leave_no_file_behind() -> None:
    """A guest on a private file with half of each discard swallowed: the file had no block."""
    before = freed(before=mapping(HELD_BEFORE, file_blocks=0))
    after = healthy().audited(mapping=mapping(50 * MIB, file_blocks=0))
    found = ledgers_of(fold(a_run(freed_as=before, audits=[after])))
    assert found is not None
    assert reconcile(found, BLOCK) is None


@pytest.mark.parametrize(
    ("changes", "cause", "size", "words"),
    [
        (
            {"moved": True, "reported_resident": 8192, "reported_undiscarded": 8192},
            Cause.STILL_CHARGED,
            8192,
            "populated by the move",
        ),
        (
            {"moved": True, "reported_resident": 8192},
            Cause.ACKED_NOT_DISCARDED,
            8192,
            "the host kept them, or something has touched them since",
        ),
        (
            {"hibernated": True, "reported_resident": 8192},
            Cause.ACKED_NOT_DISCARDED,
            8192,
            "the kernel that booted to bring the guest back from its disk may have used them",
        ),
        ({"discards_failed": 4096}, Cause.ACKED_NOT_DISCARDED, 4096, "failed to discard"),
        (
            {"reported_undiscarded": 6 * MIB, "reported_resident": 8 * MIB},
            Cause.ACKED_NOT_DISCARDED,
            6 * MIB,
            "shows no discard",
        ),
        (
            {"reported_resident": 490 * MIB, "reported_resident_pfns": (0x8000,)},
            Cause.ACKED_NOT_DISCARDED,
            490 * MIB,
            "490MiB the guest reported are still resident on "
            "the host: QEMU's trace shows the discards, so the host kept them, or something has "
            "touched them since (first at PFN 0x8000)",
        ),
        ({"reported_resident": 4096}, Cause.ACKED_NOT_DISCARDED, 4096, "4KiB the guest reported"),
        (
            {"reported_resident": 8 * MIB, "reported_undiscarded": None},
            Cause.ACKED_NOT_DISCARDED,
            8 * MIB,
            "without QEMU's trace",
        ),
        (
            {"reported_resident": 490 * MIB, "lazyfree": 480 * MIB},
            Cause.LAZILY_FREE,
            480 * MIB,
            "MADV_FREE",
        ),
        (
            {"reported_resident": 490 * MIB, "lazyfree": 4 * MIB},
            Cause.ACKED_NOT_DISCARDED,
            490 * MIB,
            "the host kept them, or something has touched them since",
        ),
        ({"file_blocks_fall": 0}, Cause.STILL_CHARGED, 480 * MIB, "file behind guest memory"),
        (
            {"reported_resident": 490 * MIB, "swap_growth": 470 * MIB},
            Cause.STILL_CHARGED,
            470 * MIB,
            "swap",
        ),
    ],
)
def test_the_first_pair_that_disagrees(
    changes: dict[str, Any], cause: Cause, size: int, words: str
) -> None:
    found = reconcile(replace(AGREE, **changes), BLOCK)
    assert found is not None
    assert (found.cause, found.size) == (cause, size)
    assert words in found.sentence


@pytest.mark.parametrize(
    "changes",
    [
        {"reported_undiscarded": 6 * MIB},  # reported, never discarded, but not held either
        {"swap_growth": 100 * MIB},  # used memory was swapped out: still charged, as it should
        {"file_blocks_fall": 480 * MIB},
        {"file_blocks_fall": 480 * MIB - 4096},
        {
            "file_blocks_fall": 0,
            "file_rss_fall": 0,
            "discarded": 0,
        },  # nothing was given back at all
        {"file_blocks_fall": 0, "discarded": 0},  # unmapped by the host's own reclaim
        {"lazyfree": 4096},
        {"file_rss_fall": None, "swap_growth": None, "discarded": None},
    ],
)
def test_what_is_no_disagreement(changes: dict[str, Any]) -> None:
    assert reconcile(replace(AGREE, **changes), BLOCK) is None


def test_from_pages_to_the_layer() -> None:
    """Every second block swallowed by QEMU: reported, in no discard, resident."""
    guest = healthy()
    assert guest.discarded is not None
    for block in range(26, 106, 2):
        guest.blocks(block, 1, GuestState.REPORTED, HostState.RESIDENT)
        guest.discarded[block * 512 : (block + 1) * 512] = False
    ledgers = ledgers_of(fold(a_run(guest)))
    assert ledgers is not None
    found = reconcile(ledgers, BLOCK)
    assert found is not None
    assert found.size == 80 * MIB
    assert f"PFN {26 * 512:#x}" in found.sentence
    assert np.count_nonzero(~guest.discarded) == 40 * 512
