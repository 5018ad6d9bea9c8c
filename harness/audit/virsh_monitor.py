# SPDX-License-Identifier: Apache-2.0
"""QMP to a domain of libvirt, through libvirt's own connection to its QEMU (virsh(1)).

libvirt notes for the domain that its monitor was used by others (`custom-monitor`), and changes
nothing else.
"""

import json
from collections.abc import Mapping
from typing import Any

from harness.audit.questions import Questions
from harness.audit.virsh import run_virsh
from harness.errors import QmpError, UsageError
from harness.machine.pace import slowness


class VirshMonitor:
    """A `Monitor` of a running domain; virsh's own settings choose the connection."""

    def __init__(self, domain: str) -> None:
        """Raises `UsageError` for a name that virsh would take for an option."""
        if domain.startswith("-") or not domain:
            raise UsageError(f"--domain {domain!r} is no name of a domain")
        self._domain = domain
        self._questions = Questions()

    def execute(
        self, command: str, arguments: Mapping[str, Any] | None = None, *, timeout: float = 10.0
    ) -> Any:
        """Execute a query, return its `return` member.

        Raises `QmpError`, `ObserveError` if there is no such domain, and `ValueError` for a command
        that might change something.
        """
        self._questions.check(command, arguments)
        message: dict[str, Any] = {"execute": command}
        if arguments is not None:
            message["arguments"] = dict(arguments)
        words = ("qemu-monitor-command", self._domain, json.dumps(message))
        answer = run_virsh(words, self._domain, timeout * slowness())
        if "error" in answer:
            raise QmpError(f"QMP {command} was refused: {answer['error'].get('desc', answer)}")
        return answer.get("return")

    def human(self, command: str, *, timeout: float = 10.0) -> str:
        """Execute an HMP command, return its text with Unix line ends. Raises like `execute`."""
        text = self.execute("human-monitor-command", {"command-line": command}, timeout=timeout)
        return str(text).replace("\r\n", "\n")

    def close(self) -> None:
        """There is no connection of its own to close."""
