# SPDX-License-Identifier: Apache-2.0
"""Which QMP commands an audit may send: those that only ask, and few that cost. Pure."""

from collections.abc import Mapping
from typing import Any

from harness.errors import QmpError

MOST_ADDRESSES = 64
"""How often an audit may ask for a host address (`gpa2hva`): once for each region of RAM."""

_QUERIES = ("query-", "x-query-", "qom-get", "qom-list")


class Questions:
    """Lets through what one audit may ask."""

    def __init__(self) -> None:
        self._addresses = 0

    def check(self, command: str, arguments: Mapping[str, Any] | None) -> None:
        """Raise `ValueError` for what might change something, `QmpError` for too many addresses."""
        self._addresses += check_harmless(command, arguments)
        if self._addresses > MOST_ADDRESSES:
            raise QmpError(
                f"guest RAM lies in more than {MOST_ADDRESSES} regions; an audit asks for no more"
            )


def check_harmless(command: str, arguments: Mapping[str, Any] | None) -> int:
    """Return how many host addresses a command asks for, if it only asks.

    Raises `ValueError` for anything else: an audit must not be able to change a VM.
    """
    if command == "human-monitor-command":
        line = str((arguments or {}).get("command-line", ""))
        if line.startswith("gpa2hva "):
            return 1
        if line.startswith("info "):
            return 0
    elif command.startswith(_QUERIES):
        return 0
    raise ValueError(f"an audit does not send QMP {command} {arguments}")
