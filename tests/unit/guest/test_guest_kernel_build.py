# SPDX-License-Identifier: Apache-2.0
"""What a guest says of its kernel's build, which is no more than a line of text."""

from types import SimpleNamespace
from typing import Any, cast

import pytest

from harness.guest.kernel_build import read_build
from harness.machine.interfaces import GuestShell

BUILD = "#1 SMP PREEMPT_DYNAMIC Debian 6.1.176-1 (2026-10-12)"


@pytest.mark.parametrize(
    ("said", "read"),
    [
        (f"{BUILD}\n".encode(), BUILD),
        (b"", ""),
        (b"#1\x1b[31m\n", "#1?[31m"),
        (b"#1 \xff\n", "#1 \ufffd"),
        (b"x" * 10**6, "x" * 65),
    ],
)
def test_it_is_one_printable_line(said: bytes, read: str) -> None:
    def run(command: str, **_options: Any) -> SimpleNamespace:
        assert command == "uname -v"
        return SimpleNamespace(stdout=said)

    assert read_build(cast(GuestShell, SimpleNamespace(run=run))) == read
