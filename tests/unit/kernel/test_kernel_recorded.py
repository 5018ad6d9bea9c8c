# SPDX-License-Identifier: Apache-2.0
"""The parsers on text recorded from guests of five kernels, whole and damaged."""

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.errors import HarnessError
from harness.guest.proc_text import parse_buddyinfo, parse_meminfo, parse_vmstat, parse_zones
from harness.kernel.zones import Zone
from harness.machine.console import ConsoleScanner, Finding
from harness.observe.ram_layout import parse_system_ram
from harness.units import MIB, PAGE_SIZE

DATA = Path(__file__).parents[2] / "data" / "kernels"
KERNELS = sorted(path for path in DATA.iterdir() if path.is_dir())
MEMORY = 512 * MIB

every_kernel = pytest.mark.parametrize("kernel", KERNELS, ids=lambda path: path.name)


def zones_of(kernel: Path) -> tuple[Zone, ...]:
    zoneinfo, buddyinfo = (kernel / f"{name}.txt" for name in ("zoneinfo", "buddyinfo"))
    return parse_zones(zoneinfo.read_text(), buddyinfo.read_text())


def findings(text: str) -> list[Finding]:
    scanner = ConsoleScanner()
    scanner.feed(text.encode(errors="replace"))
    scanner.finish()
    return scanner.findings


def test_there_are_five() -> None:
    assert [path.name.split("-")[0].split("+")[0] for path in KERNELS] == [
        "5.10.0",
        "6.1.0",
        "6.12.117",
        "7.2.13",
        "7.3",
    ]


@every_kernel
def test_zones_agree_with_their_free_lists(kernel: Path) -> None:
    """Both files were read within a moment; a zone's pages are those of its blocks."""
    zones = zones_of(kernel)
    assert [(zone.node, zone.name) for zone in zones] == [(0, "DMA"), (0, "DMA32")]
    for zone in zones:
        blocks = sum(count << order for order, count in enumerate(zone.free_blocks))
        assert blocks == pytest.approx(zone.free, abs=2048)
        assert 0 < zone.min < zone.low < zone.high < zone.managed <= zone.present <= zone.spanned
        assert zone.start_pfn == {"DMA": 1, "DMA32": 4096}[zone.name]
    assert sum(zone.present for zone in zones) * PAGE_SIZE == pytest.approx(MEMORY, rel=0.01)


@every_kernel
def test_counters_agree_with_each_other(kernel: Path) -> None:
    meminfo = parse_meminfo((kernel / "meminfo.txt").read_text())
    vmstat = parse_vmstat((kernel / "vmstat.txt").read_text())
    assert 0.7 * MEMORY < meminfo["MemTotal"] < MEMORY
    assert vmstat["nr_free_pages"] * PAGE_SIZE == pytest.approx(meminfo["MemFree"], abs=MEMORY / 10)
    for name in ("thp_deferred_split_page", "pgfault"):
        assert name in vmstat


@every_kernel
def test_memory_is_where_the_kernel_says(kernel: Path) -> None:
    ranges = parse_system_ram((kernel / "iomem.txt").read_text())
    assert sum(end - start for start, end in ranges) == pytest.approx(MEMORY, rel=0.01)


@every_kernel
def test_a_clean_boot_has_no_findings(kernel: Path) -> None:
    assert findings((kernel / "dmesg.txt").read_text()) == []


PARSERS: dict[str, Callable[[str], object]] = {
    "meminfo": parse_meminfo,
    "vmstat": parse_vmstat,
    "buddyinfo": parse_buddyinfo,
    "zoneinfo": lambda text: parse_zones(text, (KERNELS[0] / "buddyinfo.txt").read_text()),
    "iomem": parse_system_ram,
    "dmesg": findings,
}


@pytest.mark.parametrize("name", PARSERS)
@every_kernel
def test_damaged_text_brings_nothing_but_our_own_errors(kernel: Path, name: str) -> None:
    text = (kernel / f"{name}.txt").read_text()

    @settings(deadline=None, max_examples=50)
    @given(st.integers(0, len(text)), st.integers(0, len(text)), st.text(max_size=30))
    def run(first: int, second: int, garbage: str) -> None:
        start, end = sorted((first, second))
        try:
            PARSERS[name](text[:start] + garbage + text[end:])
        except HarnessError as error:
            assert error.message  # noqa: PT017 - either outcome is right

    run()
