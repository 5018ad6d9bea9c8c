# SPDX-License-Identifier: Apache-2.0
"""What a guest tells of itself, recorded and changed."""

import subprocess

import pytest
from audit_builders import DATA

from harness.audit.guest_told import FACTS_SCRIPT, GuestFacts, parse_facts
from harness.errors import ObserveError
from harness.units import GIB, MIB

TEXT = (DATA / "facts.txt").read_text()


def parse(text: str) -> GuestFacts:
    return parse_facts(text, offered=True, at=0.0)


def test_the_recorded_guest() -> None:
    facts = parse(TEXT)
    assert facts.release.endswith("-cloud-amd64")
    assert 900 * MIB < facts.counters.meminfo["MemTotal"] < GIB
    assert [zone.name for zone in facts.counters.zones] == ["DMA", "DMA32"]
    assert facts.balloon.negotiated
    assert facts.balloon.page_reporting_order == 9
    assert facts.kernel_reports == "yes"
    assert facts.page_flags
    assert facts.lockdown == ""


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ("built=yes", "yes"),
        ("CONFIG_PAGE_REPORTING=y", "yes"),
        ("# CONFIG_PAGE_REPORTING is not set", "no"),
        ("", "unknown"),
    ],
)
def test_whether_its_kernel_can_report(lines: str, expected: str) -> None:
    head, _, rest = TEXT.partition("== fpr-audit: reporting\n")
    tail = rest[rest.index("== fpr-audit: ") :]
    assert parse(f"{head}== fpr-audit: reporting\n{lines}\n{tail}").kernel_reports == expected


def test_what_it_has_put_offline() -> None:
    assert parse(TEXT).offline == ()
    head, mark, rest = TEXT.partition("== fpr-audit: reporting\n")
    told = f"{head}== fpr-audit: blocks\n8000000\nmemory2\n{mark}{rest}"
    assert parse(told).offline == (range(65536, 98304),)


def test_without_page_flags_the_rest_is_read() -> None:
    assert not parse(TEXT.replace("readable\n", "")).page_flags


def test_a_guest_of_another_architecture_is_refused() -> None:
    with pytest.raises(ObserveError, match="aarch64, not x86_64"):
        parse(TEXT.replace(" x86_64\n", " aarch64\n"))


@pytest.mark.parametrize("text", ["", "Welcome!\n", "== fpr-audit: uname\n6.1 x86_64\n"])
def test_text_that_makes_no_sense_is_refused(text: str) -> None:
    with pytest.raises(ObserveError):
        parse(text)


def test_a_pass_only_every_few_minutes_is_no_reason_to_refuse() -> None:
    assert parse(TEXT.replace("delay=\n", "delay=300000\n")).balloon.pass_seconds == 300.0


@pytest.mark.whole_command
def test_the_script_runs_in_any_shell() -> None:
    """Here it is this host that tells of itself, to sh."""
    done = subprocess.run(["sh", "-uc", FACTS_SCRIPT], capture_output=True, text=True, check=False)
    assert done.stderr == ""
    names = [line.split(": ")[1] for line in done.stdout.splitlines() if "fpr-audit: " in line]
    assert names[:2] == ["uname", "meminfo"]
    assert names[-1] == "pageflags"
