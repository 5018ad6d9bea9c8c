# SPDX-License-Identifier: Apache-2.0
"""`fpr-harness audit` of a guest of another family: Alpine Linux with busybox, musl and OpenRC."""

from pathlib import Path

import pytest
from plain_vm import alpine_vm, part

from harness.units import MIB

pytestmark = pytest.mark.vm


def test_both_sides_of_alpine(tmp_path: Path) -> None:
    with alpine_vm(tmp_path) as vm:
        assert "Alpine" in vm.run("cat /etc/os-release")
        audit = vm.both()
        assert audit["guest"]["release"].endswith("-virt")
        assert audit["guest"]["reporting"] is True
        assert abs(part(audit, "unexplained")) <= audit["total"] / 100
        assert audit["guest"]["account"]["absent_written"] == 0
        assert part(audit, "kernel") > 10 * MIB
        assert part(audit, "page_cache") > MIB
        assert vm.run("ls /tmp /run | grep fpr-audit || true") == ""
