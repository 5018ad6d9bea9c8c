# SPDX-License-Identifier: Apache-2.0
"""What a scenario may have QEMU do without being asked for by the person who runs it.

A scenario is data that may come from a stranger, and QMP can run programs (`migrate` to `exec:`),
read and write files and open sockets, all as the user of the harness. So only commands that touch
nothing but the guest are allowed by name; any other needs `--allow-qmp`.
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
"""Beside all that only ask, `query-...`."""

_QUERY = re.compile(r"query-[a-z0-9-]{1,60}")
_WORD = re.compile(r"[A-Za-z0-9_./\[\]-]{0,128}")
"""What QEMU calls its objects; no blank, colon or comma, by which it would read more into it."""


def needs_allowing(command: str, arguments: Mapping[str, Any]) -> str | None:
    """Why a QMP command is not allowed to every scenario; None if it is."""
    if command not in ALLOWED and not _QUERY.fullmatch(command):
        return f"the QMP command {command!r}"
    for name, value in arguments.items():
        plain = isinstance(value, bool | int) or (isinstance(value, str) and _WORD.fullmatch(value))
        if not plain:
            return f"the QMP command {command!r} with the argument {name!r}"
    return None


def refuse_unallowed(scenarios: Iterable[Scenario], allowed: Sequence[str]) -> None:
    """Raise `UsageError` for a step that asks of QEMU what neither the harness allows nor the
    person by name."""
    for scenario in scenarios:
        for _loc, step in unrolled(scenario.steps):
            for command, arguments in step.qmp_commands:
                why = needs_allowing(command, arguments)
                if why is not None and command not in allowed:
                    raise UsageError(
                        f"{scenario.name} asks for {why}, which can reach files, programs and "
                        "sockets of this host",
                        hint=f"if you trust the scenario, add --allow-qmp {command}",
                    )
