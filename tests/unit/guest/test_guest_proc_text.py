# SPDX-License-Identifier: Apache-2.0
"""The guest's /proc texts."""

import contextlib
import re
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.errors import HarnessError, ObserveError
from harness.guest.proc_text import parse_buddyinfo, parse_meminfo, parse_vmstat, parse_zones
from harness.kernel.zones import Zone

DATA = Path(__file__).parents[2] / "data" / "observe"
MEMINFO = (DATA / "meminfo.txt").read_text()
VMSTAT = (DATA / "vmstat.txt").read_text()

BUDDYINFO = """\
Node 0, zone      DMA      0      0      0      0      0      0      0      0      1      1      3
Node 0, zone    DMA32      2      3      4      2      5      4      3      4      5      3    751
Node 1, zone   Normal    413   2351   2030   1741   1498   1020    419    289    246     81   3043
"""
ZONEINFO = """\
Node 0, zone      DMA
  per-node stats
      nr_inactive_anon 97986
      nr_free_cma  0
  pages free     3840
        boost    0
        min      14
        low      17
        high     20
        spanned  4095
        present  3998
        managed  3840
        cma      0
        protection: (0, 2983, 24085, 24085, 24085)
      nr_free_pages 3840
  pagesets
    cpu: 0
              count: 0
              high:  0
              batch: 1
  vm stats threshold: 4
  node_unreclaimable:  0
  start_pfn:           1
Node 0, zone    DMA32
  pages free     773110
        boost    0
        min      2092
        low      2855
        high     3618
        spanned  1044480
        present  782288
        managed  773648
      nr_free_pages 773110
  pagesets
    cpu: 0
              count: 41
              high:  376
              batch: 63
  vm stats threshold: 32
    cpu: 1
              count: 58
              high:  376
              batch: 63
  vm stats threshold: 32
  node_unreclaimable:  0
  start_pfn:           4096
Node 0, zone   Normal
  pages free     0
        boost    0
        min      0
        low      0
        high     0
        spanned  0
        present  0
        managed  0
Node 1, zone   Normal
  pages free     3271101
        boost    0
        min      14804
        low      20204
        high     25604
        spanned  5505024
        present  5505024
        managed  5402266
  pagesets
    cpu: 1
              count: 100
              high:  14000
              batch: 63
  start_pfn:           1048576
"""


def test_meminfo_is_in_bytes_but_for_what_has_no_unit() -> None:
    meminfo = parse_meminfo(MEMINFO)
    assert meminfo["MemTotal"] == 24684096 * 1024
    assert meminfo["HugePages_Total"] == 0
    assert meminfo["Active(anon)"] > 0
    assert len(meminfo) == len(MEMINFO.splitlines())


def test_vmstat_names_every_counter() -> None:
    vmstat = parse_vmstat(VMSTAT)
    assert vmstat["nr_free_pages"] > 0
    assert len(vmstat) == len(VMSTAT.splitlines())


def test_buddyinfo_counts_the_free_blocks_of_each_order() -> None:
    blocks = parse_buddyinfo(BUDDYINFO)
    assert blocks[0, "DMA"] == (0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 3)
    assert blocks[1, "Normal"][-1] == 3043
    assert len(blocks) == 3


def test_the_number_of_orders_is_the_kernels() -> None:
    """11 up to 6.7, fewer or more where it is configured so."""
    assert parse_buddyinfo("Node 0, zone Movable 1 2\n") == {(0, "Movable"): (1, 2)}


def test_zones_are_zoneinfo_and_buddyinfo_joined_and_empty_ones_left_out() -> None:
    dma, dma32, normal = parse_zones(ZONEINFO, BUDDYINFO)
    assert dma32 == Zone(
        node=0,
        name="DMA32",
        start_pfn=4096,
        spanned=1044480,
        present=782288,
        managed=773648,
        free=773110,
        min=2092,
        low=2855,
        high=3618,
        free_blocks=(2, 3, 4, 2, 5, 4, 3, 4, 5, 3, 751),
        per_cpu=99,
    )
    assert (dma.start_pfn, dma.high, dma.per_cpu) == (1, 20, 0)
    assert (normal.node, normal.high, normal.per_cpu) == (1, 25604, 100)


def _zones(text: str) -> tuple[Zone, ...]:
    return parse_zones(text, BUDDYINFO)


@pytest.mark.parametrize(
    "field", ["free", "min", "low", "high", "spanned", "managed", "start_pfn:"]
)
def test_a_zone_without_one_of_its_fields_is_told(field: str) -> None:
    """A per-CPU list's `high` does not stand in for the zone's."""
    lacking = re.sub(rf"^( *(pages )?){field} +\d+$", r"\1gone 0", ZONEINFO, flags=re.MULTILINE)
    lacking = lacking.replace("high:", "batch:") if field == "high" else lacking
    with pytest.raises(ObserveError, match=rf"lacks '{field.rstrip(':')}' for node 0, zone DMA$"):
        _zones(lacking)


def test_a_zone_that_buddyinfo_does_not_know_is_told() -> None:
    with pytest.raises(ObserveError, match="for node 1, zone Normal"):
        parse_zones(ZONEINFO, "".join(BUDDYINFO.splitlines(keepends=True)[:2]))


@pytest.mark.parametrize("text", ["", "MemFree: 5 kB\n", "MemTotal: much kB\n", "MemTotal"])
def test_a_meminfo_without_a_total_is_none(text: str) -> None:
    with pytest.raises(ObserveError, match="no MemTotal"):
        parse_meminfo(text)


def test_an_empty_vmstat_is_none() -> None:
    with pytest.raises(ObserveError, match="vmstat is empty"):
        parse_vmstat("pgfault\n")


def test_a_zoneinfo_without_pages_is_none() -> None:
    with pytest.raises(ObserveError, match="no zone with pages"):
        _zones("")


def test_a_number_of_no_counter_is_not_one() -> None:
    """Python refuses to read a number of thousands of digits; no counter has more than 20."""
    endless = "9" * 5000
    assert parse_meminfo(f"MemTotal: 1 kB\nMemFree: {endless} kB\n") == {"MemTotal": 1024}
    assert parse_vmstat(f"pgfault 1\npgalloc {endless}\n") == {"pgfault": 1}
    assert parse_buddyinfo(f"Node 0, zone DMA {endless}\n") == {}
    assert parse_buddyinfo(f"Node {endless}, zone DMA 1\n") == {}
    with pytest.raises(ObserveError):
        _zones(ZONEINFO.replace("3840", endless))
    with pytest.raises(ObserveError):
        _zones(f"Node {endless}, zone DMA\n")


parsers = st.sampled_from([parse_meminfo, parse_vmstat, parse_buddyinfo, _zones])
originals = st.sampled_from([MEMINFO, VMSTAT, BUDDYINFO, ZONEINFO])


def _try(parse: Callable[[str], object], text: str) -> None:
    try:
        parse(text)
    except HarnessError as error:
        assert error.message  # noqa: PT017 - either outcome is right


@settings(deadline=None)
@given(parsers, originals, st.data())
def test_a_text_cut_anywhere_raises_nothing_strange(
    parse: Callable[[str], object], text: str, data: st.DataObject
) -> None:
    start = data.draw(st.integers(0, len(text)))
    _try(parse, text[start : data.draw(st.integers(start, len(text)))])


@settings(deadline=None)
@given(parsers, originals, st.text(max_size=40), st.data())
def test_a_text_with_garbage_within_raises_nothing_strange(
    parse: Callable[[str], object], text: str, garbage: str, data: st.DataObject
) -> None:
    position = data.draw(st.integers(0, len(text)))
    _try(parse, text[:position] + garbage + text[position:])


@settings(deadline=None)
@given(parsers, st.text(alphabet="Node 019,zone DMA32\n:pagesfrhighcount٣²", max_size=200))
def test_nonsense_raises_nothing_strange(parse: Callable[[str], object], text: str) -> None:
    _try(parse, text)


def test_more_zones_than_a_kernel_can_have_are_none() -> None:
    lines = "".join(f"Node {node}, zone DMA\n" for node in range(70_000))
    with pytest.raises(ObserveError, match="70000 zones"):
        _zones(lines)


@pytest.mark.parametrize("number", [1 << 41, 1 << 63, 10**20 - 1])
def test_more_pages_than_an_address_has_bits_for_are_none(number: int) -> None:
    with pytest.raises(ObserveError, match="more pages than an x86_64 machine"):
        _zones(ZONEINFO.replace("3840", str(number)))


@pytest.mark.parametrize("head", ["", "MemTotal: ", "Node 0, zone DMA\n", "Node 0, zone ", "  "])
def test_the_parsers_take_a_time_proportional_to_the_text(head: str) -> None:
    """A square of 256 KiB would be minutes."""
    pieces = ["\n", " ", "\t", "a", "1", "a:", "a: ", " 1", "Node 0, zone ", "      count: 1"]
    pieces += ["  pages free ", "Node 0, zone a\n", "Node 0, zone  DMA 1 1 ", "free 1\n", "a 1\n"]
    for piece in pieces:
        text = (head + piece * (1 << 18))[: 1 << 18]
        for parse in (parse_meminfo, parse_vmstat, parse_buddyinfo, _zones):
            began = time.thread_time()
            with contextlib.suppress(ObserveError):
                parse(text)
            assert time.thread_time() - began < 1.0, (parse, piece)
