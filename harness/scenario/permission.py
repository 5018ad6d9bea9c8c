# SPDX-License-Identifier: Apache-2.0
"""Limit the QMP commands that a scenario may send without the user's permission.

A scenario may come from a stranger, and QMP can run programs (`migrate` to `exec:`), read and
write files and open sockets, all as the user of the harness. Commands that affect only the guest
are allowed; all others need `--allow-qmp`. QEMU's command line can do as much: further arguments
need `--allow-qemu-args`.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from harness.errors import UsageError
from harness.scenario.model import Scenario
from harness.scenario.steps import unrolled

ALLOWED = frozenset(
    "balloon cont inject-nmi qom-get qom-list qom-list-properties stop system_powerdown "
    "system_reset system_wakeup".split()
)
"""Allowed commands, in addition to all `query-...`."""

_QUERY = re.compile(r"query-[a-z0-9-]{1,60}")
_WORD = re.compile(r"[A-Za-z0-9_./\[\]-]{0,128}")
"""Names of QEMU's objects, without the blanks, colons and commas that QEMU would interpret."""


def needs_allowing(command: str, arguments: Mapping[str, Any]) -> str | None:
    """Say what in a QMP command needs the user's permission; None if nothing does."""
    if command not in ALLOWED and not _QUERY.fullmatch(command):
        return f"the QMP command {command!r}"
    for name, value in arguments.items():
        plain = isinstance(value, bool | int) or (isinstance(value, str) and _WORD.fullmatch(value))
        if not plain:
            return f"the QMP command {command!r} with the argument {name!r}"
    return None


def refuse_unallowed(
    scenarios: Iterable[Scenario], allowed: Sequence[str], *, qemu_args: bool = False
) -> None:
    """Raise `UsageError` for a scenario that needs a permission which the user did not give.

    `allowed` are the commands of `--allow-qmp`; `qemu_args` is `--allow-qemu-args`.
    """
    for scenario in scenarios:
        refuse_qemu_args(scenario.name, scenario.host.qemu_args, allowed=qemu_args)
        for _loc, step in unrolled(scenario.steps):
            for command, arguments in step.qmp_commands:
                why = needs_allowing(command, arguments)
                if why is not None and command not in allowed:
                    raise UsageError(
                        f"{scenario.name} asks for {why}, which can reach files, programs and "
                        "sockets of this host",
                        hint=f"if you trust the scenario, add --allow-qmp {command}",
                    )


def refuse_qemu_args(whose: str, words: Sequence[str], *, allowed: bool) -> None:
    """Raise `UsageError` for further words of QEMU's command line without `--allow-qemu-args`."""
    if words and not allowed:
        raise UsageError(
            f"{whose} gives QEMU further words ({' '.join(words):.200}), which can reach files, "
            "programs and sockets of this host",
            hint="if you trust it, add --allow-qemu-args",
        )
