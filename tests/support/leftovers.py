# SPDX-License-Identifier: Apache-2.0
"""Finds what a run must not leave on the machine, and lets tests harm a running VM.

A VM's directory holds a second QMP socket, by which a test reaches the guest past the harness.
"""

import contextlib
import json
import os
import socket
import tempfile
from pathlib import Path
from typing import Any

from harness.machine.owned import OWNER_FILE
from harness.machine.process import QEMU_DIRECTORY

BASES = tuple(Path(p) for p in (os.environ.get("XDG_RUNTIME_DIR"), tempfile.gettempdir()) if p)


def vm_directories(owner: int) -> list[Path]:
    """List the directories of the VMs that the process `owner` has made."""
    found = []
    for base in BASES:
        for file in base.glob("fpr-" + "[0-9a-f]" * 12 + f"/{OWNER_FILE}"):
            with contextlib.suppress(FileNotFoundError):  # removed in the meantime
                if file.read_text().strip() == f"{owner}":
                    found.append(file.parent)
    return found


def qmp(directory: Path, command: str, **arguments: Any) -> Any:
    """Send a QMP command to the QEMU of a VM's directory."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(10.0)
        connection.connect(str(directory / QEMU_DIRECTORY / "debug.sock"))
        lines = connection.makefile("rw")
        assert "QMP" in json.loads(lines.readline())
        answer: dict[str, Any] = {}
        for message in (
            {"execute": "qmp_capabilities"},
            {
                "execute": command,
                "arguments": {k.replace("_", "-"): v for k, v in arguments.items()},
            },
        ):
            lines.write(json.dumps(message) + "\n")
            lines.flush()
            while not answer.keys() & {"return", "error"}:
                answer = json.loads(lines.readline())
            assert "return" in answer, answer
            result, answer = answer["return"], {}
        return result


def is_gone(pid: int) -> bool | None:
    """For `wait_for`: a process has ended, be it not yet waited for by its new parent."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return True
    return True if stat.rpartition(")")[2].split()[0] == "Z" else None
