# SPDX-License-Identifier: Apache-2.0
"""`fpr-harness audit` of a VM that a plain QEMU command line started.

The rest is in tests/audit (make test-audit): refusals, each state and each advice.
"""

from pathlib import Path

import pytest
from plain_vm import part, plain_vm

from harness.units import MIB

pytestmark = pytest.mark.vm


def test_the_parts_of_both_sides_add_up(tmp_path: Path) -> None:
    with plain_vm(tmp_path) as vm:
        audit = vm.both()
        left = vm.run("ls /tmp /run | grep fpr-audit || true")
    assert sum(part["size"] for part in audit["parts"]) == audit["total"]
    assert abs(part(audit, "unexplained")) <= audit["total"] / 100
    assert audit["guest"]["reporting"] is True
    assert part(audit, "kernel") > MIB, "struct pages alone take 8 MiB of 512"
    assert audit["guest"]["account"]["absent_written"] == 0
    assert left == "", "the tool left its file in the guest"
