# SPDX-License-Identifier: Apache-2.0
"""QMP to a domain of libvirt, through libvirt's own connection to its QEMU (virsh(1)).

libvirt notes for the domain that its monitor was used by others (`custom-monitor`), and changes
nothing else.
"""

import json
import subprocess
from collections.abc import Mapping
from typing import Any

from harness.audit.questions import Questions
from harness.errors import ObserveError, QmpError, UsageError
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
        answer = self._ask(json.dumps(message), timeout * slowness())
        if "error" in answer:
            raise QmpError(f"QMP {command} was refused: {answer['error'].get('desc', answer)}")
        return answer.get("return")

    def human(self, command: str, *, timeout: float = 10.0) -> str:
        """Execute an HMP command, return its text with Unix line ends. Raises like `execute`."""
        text = self.execute("human-monitor-command", {"command-line": command}, timeout=timeout)
        return str(text).replace("\r\n", "\n")

    def close(self) -> None:
        """There is no connection of its own to close."""

    def _ask(self, message: str, seconds: float) -> dict[str, Any]:
        words = ["virsh", "--quiet", "qemu-monitor-command", self._domain, message]
        try:
            done = subprocess.run(
                words,
                # It may want to ask for a password of the connection.
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=seconds,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise QmpError(
                f"virsh did not answer for the domain {self._domain!r} within {seconds:g} s",
                hint="check with `virsh list` whether libvirt answers",
            ) from error
        except OSError as error:
            raise ObserveError(
                f"cannot start virsh: {error}", hint="install libvirt's clients (libvirt-clients)"
            ) from error
        if done.returncode:
            raise refusal(self._domain, done.stderr.strip())
        try:
            answer = json.loads(done.stdout)
        except ValueError as error:
            raise QmpError(f"virsh answered no JSON: {done.stdout!r:.200}") from error
        return answer if isinstance(answer, dict) else {}


def refusal(domain: str, said: str) -> ObserveError:
    """Make the error for what virsh said on standard error."""
    if "failed to get domain" in said:
        return ObserveError(
            f"libvirt has no domain {domain!r}",
            hint="`virsh list --all` lists them; LIBVIRT_DEFAULT_URI chooses the connection",
        )
    if "not running" in said:
        return ObserveError(
            f"the domain {domain!r} does not run", hint=f"start it: virsh start {domain}"
        )
    return ObserveError(
        f"virsh cannot ask the QEMU of the domain {domain!r}: {said[-300:]}",
        hint="check with `virsh list` whether you may use this connection; "
        "LIBVIRT_DEFAULT_URI chooses another",
    )
