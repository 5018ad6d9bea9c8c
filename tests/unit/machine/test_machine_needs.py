# SPDX-License-Identifier: Apache-2.0
"""What a host lacks for a scenario, on files as the kernel shows them."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from qemus import a_qemu

from harness.machine import needs
from harness.machine.needs import missing_in_qemu, missing_needs
from harness.machine.spec import GuestSpec
from harness.units import GIB, MIB

GUEST = GuestSpec(memory=5 * MIB, vcpus=1, backend="hugetlb")


def put(root: Path, path: str, text: str) -> None:
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / path).write_text(text)


@pytest.mark.parametrize(
    ("tag", "path", "enough", "lacking", "words"),
    [
        (
            "needs-hugetlb",
            needs._HUGE_POOL,
            "3\n",
            "2\n",
            "has 2 free huge pages of 2 MiB, but the guest of 5MiB needs 3",
        ),
        (
            "needs-swap",
            "proc/meminfo",
            "SwapTotal:  8 kB\nSwapFree:      4 kB\n",
            "SwapFree:      0 kB\n",
            "the host has no free swap",
        ),
        ("needs-ksm", needs._KSM, "1\n", "0\n", "is 0"),
        ("needs-thp", needs._THP, "always [madvise] never\n", "always madvise [never]\n", "never"),
    ],
)
def test_what_is_missing_is_told_exactly(
    tmp_path: Path, tag: str, path: str, enough: str, lacking: str, words: str
) -> None:
    guest = GUEST if tag == "needs-hugetlb" else replace(GUEST, backend="anonymous")
    put(tmp_path, path, enough)
    assert missing_needs([tag], guest, tmp_path) is None
    put(tmp_path, path, lacking)
    told = missing_needs(["default", tag], guest, tmp_path)
    assert told is not None
    assert told.startswith(f"{tag}: ")
    assert words in told


@pytest.mark.parametrize(
    ("files", "changes", "words"),
    [
        ({}, {}, None),
        ({needs._THP_2M: "always [inherit] madvise never\n"}, {}, None),
        ({needs._THP_2M: "always inherit madvise [never]\n"}, {}, "hugepages-2048kB/enabled is"),
        ({needs._THP: "always madvise [never]\n", needs._THP_2M: "[always] never\n"}, {}, None),
        ({"proc/self/status": "Name:\tx\nTHP_enabled:\t1\nThreads:\t1\n"}, {}, None),
        (
            {"proc/self/status": "Name:\tx\nTHP_enabled:\t0\nThreads:\t1\n"},
            {},
            "off for this process, and so for QEMU",
        ),
        ({}, {"thp": "never"}, "host.thp is never"),
        ({}, {"backend": "memfd-shared"}, "a guest on `memfd-shared` has no transparent huge"),
        ({}, {"backend": "file-private"}, "a guest on `file-private` has no transparent huge"),
    ],
)
def test_what_keeps_huge_pages_from_a_guest(
    tmp_path: Path, files: dict[str, str], changes: dict[str, Any], words: str | None
) -> None:
    """Nothing but a SKIP is due: no huge page was split where there was none."""
    for path, text in {needs._THP: "always [madvise] never\n", **files}.items():
        put(tmp_path, path, text)
    guest = replace(GUEST, **{"backend": "anonymous", **changes})
    told = missing_needs(["needs-thp"], guest, tmp_path)
    assert (told is None) == (words is None)
    assert (words or "") in (told or "")


def test_a_file_that_is_not_there_is_a_lack(tmp_path: Path) -> None:
    assert missing_needs(["needs-hugetlb"], GUEST, tmp_path)
    for tag in ("needs-ksm", "needs-thp"):
        assert missing_needs([tag], replace(GUEST, backend="anonymous"), tmp_path)


def test_a_control_group_is_looked_for(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(needs, "memory_file", lambda _pid: tmp_path)
    assert missing_needs(["needs-cgroup"], replace(GUEST, backend="anonymous")) is None
    monkeypatch.setattr(needs, "memory_file", lambda _pid: None)
    assert "no readable memory control group" in str(
        missing_needs(["needs-cgroup"], replace(GUEST, backend="anonymous"))
    )


def test_other_tags_need_nothing() -> None:
    assert missing_needs(["default", "long"], replace(GUEST, backend="anonymous")) is None


def test_huge_pages_are_needed_by_the_backend_whatever_the_tags_say(tmp_path: Path) -> None:
    put(tmp_path, needs._HUGE_POOL, "0\n")
    assert "0 free huge pages" in (missing_needs([], GUEST, tmp_path) or "")
    anonymous = replace(GUEST, backend="anonymous")
    assert missing_needs(["needs-hugetlb"], anonymous, tmp_path) is None


def test_limit_needs_a_control_group_whatever_the_tags_say(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(needs, "memory_file", lambda _pid: None)
    limited = replace(GUEST, backend="anonymous", memory_limit=MIB)
    assert "in no readable memory control group" in (missing_needs([], limited, tmp_path) or "")


def test_memory_that_is_to_be_locked_must_be_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Asked of the field, since `--set` changes it and no tag."""
    locked = replace(GUEST, backend="anonymous", memory=GIB, mem_lock=True)
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    monkeypatch.setattr("resource.getrlimit", lambda _which: (8 * MIB, 8 * MIB))
    lacking = missing_needs([], locked)
    assert lacking is not None
    assert lacking.startswith("needs-memlock: QEMU may lock 8MiB and the guest has 1GiB")
    monkeypatch.setattr("resource.getrlimit", lambda _which: (8 * MIB, 4 * GIB))
    assert missing_needs([], locked) is None
    monkeypatch.setattr("os.geteuid", lambda: 0)
    monkeypatch.setattr("resource.getrlimit", lambda _which: (8 * MIB, 8 * MIB))
    assert missing_needs([], locked) is None, "root has CAP_IPC_LOCK"


def test_a_guests_network_is_replayed_from_10_0_on() -> None:
    guest = GuestSpec(memory=GIB, vcpus=1, clock="virtual", rr="record")
    told = missing_in_qemu(guest, a_qemu(version="9.2.0"))
    assert told is not None
    assert told.startswith("QEMU 9.2.0 has no replay of a guest's network, which is from 10.0 on")
    assert missing_in_qemu(guest, a_qemu(version="10.0.0")) is None
    assert missing_in_qemu(replace(guest, rr=""), a_qemu(version="7.2.22")) is None


def test_several_vcpus_share_a_virtual_clock_from_8_1_on() -> None:
    guest = GuestSpec(memory=GIB, vcpus=2, clock="virtual")
    told = missing_in_qemu(guest, a_qemu(version="8.0.5"))
    assert told == "QEMU 8.0.5 has no virtual clock for 2 vCPUs, which is from 8.1 on"
    assert missing_in_qemu(guest, a_qemu(version="8.1.0")) is None
    assert missing_in_qemu(guest, a_qemu(version="10.0.13")) is None
    assert missing_in_qemu(replace(guest, vcpus=1), a_qemu(version="7.2.22")) is None
