# SPDX-License-Identifier: Apache-2.0
"""Why an SSH connection broke: in the words of whoever knows."""

from types import SimpleNamespace
from typing import Any

import paramiko
import pytest

from harness.errors import QemuGoneError
from harness.machine.ssh_process import broken


@pytest.mark.parametrize(
    ("error", "saved", "active", "words"),
    [
        (EOFError(), paramiko.SSHException("Mismatched MAC"), False, ": Mismatched MAC"),
        (EOFError("its words"), OSError("reset"), False, ": its words; reset"),
        (EOFError(), None, False, ": the guest closed it"),
        (EOFError(), None, True, ": EOFError"),
    ],
)
def test_the_reason_is_that_of_the_connection(
    error: Exception, saved: Exception | None, active: bool, words: str
) -> None:
    transport: Any = SimpleNamespace(saved_exception=saved, is_active=lambda: active)
    found = broken(lambda: None, "using `true`", error, transport)
    assert found.message == f"the SSH connection broke while using `true`{words}"


def test_the_end_of_qemu_explains_it_better() -> None:
    gone = QemuGoneError("QEMU was killed")
    transport: Any = SimpleNamespace(saved_exception=None, is_active=lambda: False)
    assert broken(lambda: gone, "using `true`", EOFError(), transport) is gone
