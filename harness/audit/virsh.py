# SPDX-License-Identifier: Apache-2.0
"""Runs virsh(1) for one question about a running domain, and says what its refusals mean."""

import json
import subprocess
from collections.abc import Sequence
from typing import Any

from harness.errors import ObserveError, QmpError


def run_virsh(words: Sequence[str], domain: str, seconds: float) -> dict[str, Any]:
    """Run a command of virsh that prints JSON. Raises `ObserveError`, `QmpError`."""
    try:
        done = subprocess.run(
            ["virsh", "--quiet", *words],
            # It may want to ask for a password of the connection.
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=seconds,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise QmpError(
            f"virsh did not answer for the domain {domain!r} within {seconds:g} s",
            hint="check with `virsh list` whether libvirt answers",
        ) from error
    except OSError as error:
        raise ObserveError(
            f"cannot start virsh: {error}", hint="install libvirt's clients (libvirt-clients)"
        ) from error
    if done.returncode:
        raise refusal(domain, done.stderr.strip())
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
    if "agent is not configured" in said:
        return ObserveError(
            f"the domain {domain!r} has no port for a guest agent",
            hint="give it one (<channel type='unix'><target type='virtio' "
            "name='org.qemu.guest_agent.0'/></channel>), or use --ssh",
        )
    if "gent is not responding" in said or "agent is not connected" in said:
        return ObserveError(
            f"the guest agent of the domain {domain!r} does not answer: {said[-300:]}",
            hint="check in the guest that qemu-guest-agent is installed and runs",
        )
    return ObserveError(
        f"virsh cannot ask the QEMU of the domain {domain!r}: {said[-300:]}",
        hint="check with `virsh list` whether you may use this connection; "
        "LIBVIRT_DEFAULT_URI chooses another",
    )
