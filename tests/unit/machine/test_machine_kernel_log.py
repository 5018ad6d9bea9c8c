# SPDX-License-Identifier: Apache-2.0
"""What the guest's kernel has logged is read whether or not its console shows it."""

from typing import Any, cast

import pytest

from harness.errors import GuestError, ObserveError
from harness.machine.interfaces import CommandResult, GuestShell
from harness.machine.kernel_log import all_findings, read_kernel_log

BANNER = "[    0.000000] Linux version 6.1.0-50-cloud-amd64 (debian-kernel@lists.debian.org)\n"
TROUBLE = (
    "[   12.100000] ------------[ cut here ]------------\n"
    "[   12.100001] WARNING: CPU: 0 PID: 7 at mm/page_reporting.c:144 page_reporting_drain+0x1/2\n"
    "[   12.100002] ---[ end trace 0000000000000000 ]---\n"
)


class Saying:
    """A guest's shell that answers one thing."""

    def __init__(self, answer: str | Exception, status: int = 0) -> None:
        self.answer, self.status = answer, status

    def run(self, command: str, **_: Any) -> CommandResult:
        if isinstance(self.answer, Exception):
            raise self.answer
        return CommandResult(
            command, self.status, self.answer.encode(), b"dmesg: not found" if self.status else b""
        )


def saying(answer: str | Exception, status: int = 0) -> GuestShell:
    return cast(GuestShell, Saying(answer, status))


@pytest.mark.parametrize("level", [1, 4, 7])
def test_warning_is_found_at_any_console_log_level(level: int) -> None:
    log = read_kernel_log(saying(f"{level}\t4\t1\t7\n{BANNER}{TROUBLE}"))
    (found,) = all_findings(log)
    assert found.severity == "warning"
    assert found.title == "WARNING: mm/page_reporting.c:144 in page_reporting_drain"


def test_log_that_lost_its_beginning_proves_nothing_where_the_console_is_quiet() -> None:
    flood = "[   99.000000] usb 1-1: reset\n" * 40
    with pytest.raises(ObserveError, match=r"console log level 4.*lost its beginning") as raised:
        all_findings(read_kernel_log(saying(f"4 4 1 7\n{flood}")))
    assert "log_buf_len" in raised.value.hint
    assert all_findings(read_kernel_log(saying(f"7 4 1 7\n{flood}{TROUBLE}"))) != []


@pytest.mark.parametrize(
    "first", [BANNER, "Linux version 6.1.0 (x)\n", "[    0.000000][    T0] Linux version 5.10.0\n"]
)
def test_a_whole_log_begins_with_the_kernels_banner(first: str) -> None:
    assert read_kernel_log(saying(f"1 4 1 7\n{first}")).whole


@pytest.mark.parametrize(
    ("answer", "status", "words"),
    [
        ("4 4 1 7\n", 127, "dmesg: not found"),
        ("", 0, "it begins with b''"),
        ("cat: oops\n", 0, "it begins with b'cat: oops'"),
        (GuestError("over 8 MiB of output"), 0, "over 8 MiB"),
    ],
)
def test_log_that_cannot_be_read_is_said_to_be_unread(
    answer: str | Exception, status: int, words: str
) -> None:
    with pytest.raises(ObserveError, match=words):
        read_kernel_log(saying(answer, status))
