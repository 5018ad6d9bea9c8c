# SPDX-License-Identifier: Apache-2.0
"""The page of an audit: its figures, advice and map, and nothing that a guest could inject."""

import html
import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
from audit_builders import facts, reading, recorded, zone

from harness.audit.audit_html import audit_page
from harness.audit.part_words import PART_WORDS
from harness.audit.vm_audit import Taken
from harness.kernel.page_kinds import PageKind
from harness.kernel.pages import GuestState, HostState
from harness.record.address_map import RamPiece

PAGES = 1 << 16
BLOCK = 512
PIECES = (RamPiece(0, PAGES, "pc.ram", 0, 0x7F0000000000),)


def taken(*, guest: bool = True) -> Taken:
    """Eight blocks reported and given back, one of them resident nevertheless; all else used."""
    kinds = np.full(PAGES, PageKind.ANONYMOUS, np.uint8)
    kinds[: 8 * BLOCK] = GuestState.FREE
    kinds[: 8 * BLOCK : BLOCK] = GuestState.REPORTED
    host = np.full(PAGES, HostState.RESIDENT, np.uint8)
    host[: 7 * BLOCK] = HostState.ABSENT
    look, told = reading(kinds, host), facts([zone(spanned=PAGES, free=PAGES)])
    if not guest:
        return Taken(replace(recorded(), guest=None), host, PIECES, None, ())
    return Taken(recorded(), host, PIECES, look, told.counters.zones)


def cells(page: str, kind: str) -> int:
    found = re.search(rf'<path class="{kind}" d="(M[^"]*z)"/>\n', page)
    return found[1].count("M") if found else 0


def test_both_sides_are_drawn_block_by_block() -> None:
    page = audit_page(taken())
    assert cells(page, "reported-absent") == 7
    assert cells(page, "reported-resident") == 1
    assert cells(page, "used-resident") == PAGES // BLOCK - 8


def test_the_hosts_side_alone_is_drawn_too() -> None:
    page = audit_page(taken(guest=False))
    assert cells(page, "off-host") == 7
    assert cells(page, "on-host") == PAGES // BLOCK - 7
    assert re.search(r"pc\.ram <span[^>]*>PFN 0x0-0xffff<", page)
    assert "not held by the host" in page
    assert "reported and given back" not in page, "the host alone cannot know"


def test_every_part_and_every_advice_is_there() -> None:
    page, audit = html.unescape(audit_page(taken())), recorded()
    for part in audit.parts:
        assert not part.size or PART_WORDS[part.name] in page, part
    for advice in audit.advice:
        for command in advice.commands:
            assert command.line in page


class Tags(HTMLParser):
    """Collects the tags and attributes of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found += [tag, *(name for name, _ in attrs)]


@pytest.mark.parametrize("name", ["<script>alert(1)</script>", "<img onerror=x>", "\x1b[2J"])
def test_a_name_that_means_harm_is_only_text(name: str) -> None:
    plain = taken()
    hostile = replace(plain, audit=replace(plain.audit, vm=replace(plain.audit.vm, name=name)))
    page = audit_page(hostile)
    assert Tags(page).found == Tags(audit_page(plain)).found
    assert "\x1b" not in page
    assert "http" not in page.replace("http-equiv", ""), "it loads nothing"
