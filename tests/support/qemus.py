# SPDX-License-Identifier: Apache-2.0
"""Builds a `Qemu` that lacks nothing, with the fields a test changes."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from harness.machine.qemu import DENIED, Qemu

_WHOLE = Qemu(
    path=Path("/usr/bin/qemu-system-x86_64"),
    version="10.0.2",
    package="Debian 1:10.0.2+ds-2",
    architecture="x86_64",
    machines=frozenset({"none", "pc", "pc-i440fx-10.0", "q35", "pc-q35-10.0", "microvm"}),
    balloon=frozenset({"free-page-reporting", "free-page-hint", "deflate-on-oom", "iothread"}),
    user_network=True,
    sandbox=frozenset(DENIED),
    kvm=True,
    discard_event="ram_block_discard_range",
)


def a_qemu(**changes: Any) -> Qemu:
    return replace(_WHOLE, **changes)
