# SPDX-License-Identifier: Apache-2.0
"""Connects to a Unix socket, however long its path is."""

import os
import socket
from pathlib import Path

_PATH_BYTES = 107
"""In an address (unix(7))."""


def connect_to(connection: socket.socket, path: Path) -> None:
    """Connect, also to a path that is too long for an address. Raises `OSError`."""
    if len(os.fsencode(path)) <= _PATH_BYTES:
        connection.connect(str(path))
        return
    directory = os.open(path.parent, os.O_PATH | os.O_DIRECTORY)
    try:
        connection.connect(f"/proc/self/fd/{directory}/{path.name}")
    finally:
        os.close(directory)
