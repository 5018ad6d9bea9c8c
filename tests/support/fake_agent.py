# SPDX-License-Identifier: Apache-2.0
"""A guest agent on a Unix socket, for which this host plays the guest: what it is told, it does."""

import base64
import contextlib
import json
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

Answer = Callable[[dict[str, Any]], Any]


class FakeAgent:
    """Answers the commands that an audit uses, as qemu-ga does."""

    def __init__(self) -> None:
        self.seen: list[str] = []
        self.refuses: dict[str, str] = {}
        """What it says to commands that it refuses."""
        self.before = b""
        """What an earlier client left to be read."""
        self._files: dict[int, BinaryIO] = {}
        self._ended: dict[int, subprocess.CompletedProcess[bytes]] = {}

    def serve(self, listener: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = listener.accept()
                with connection, connection.makefile("rwb") as stream:
                    stream.write(self.before)
                    for line in stream:
                        stream.write(self._answer(json.loads(line.lstrip(b"\xff"))) + b"\n")
                        stream.flush()

    def _answer(self, message: dict[str, Any]) -> bytes:
        command, arguments = message["execute"], message.get("arguments", {})
        self.seen.append(command)
        if command in self.refuses:
            refusal = {"class": "GenericError", "desc": self.refuses[command]}
            return json.dumps({"error": refusal}).encode()
        if command == "guest-sync-delimited":
            return b"\xff" + json.dumps({"return": arguments["id"]}).encode()
        answer = getattr(self, command.replace("-", "_"))(arguments)
        return json.dumps({"return": answer}).encode()

    def guest_exec(self, arguments: dict[str, Any]) -> dict[str, int]:
        words = [arguments["path"], *arguments["arg"]]
        number = len(self._ended) + 1
        self._ended[number] = subprocess.run(words, capture_output=True, check=False)
        return {"pid": number}

    def guest_exec_status(self, arguments: dict[str, Any]) -> dict[str, Any]:
        done = self._ended[arguments["pid"]]
        end = "exitcode" if done.returncode >= 0 else "signal"
        return {
            "exited": True,
            end: abs(done.returncode),
            "out-data": base64.b64encode(done.stdout).decode(),
            "err-data": base64.b64encode(done.stderr).decode(),
        }

    def guest_file_open(self, arguments: dict[str, Any]) -> int:
        number = len(self._files) + 1000
        self._files[number] = open(arguments["path"], arguments["mode"] + "b")  # noqa: SIM115, PTH123
        return number

    def guest_file_write(self, arguments: dict[str, Any]) -> dict[str, int]:
        data = base64.b64decode(arguments["buf-b64"])
        return {"count": self._files[arguments["handle"]].write(data)}

    def guest_file_read(self, arguments: dict[str, Any]) -> dict[str, Any]:
        data = self._files[arguments["handle"]].read(arguments["count"])
        return {"count": len(data), "buf-b64": base64.b64encode(data).decode(), "eof": not data}

    def guest_file_close(self, arguments: dict[str, Any]) -> dict[str, Any]:
        self._files.pop(arguments["handle"]).close()
        return {}


@contextlib.contextmanager
def serving(path: Path) -> Iterator[FakeAgent]:
    """Serve a fake agent on a socket for the time of the block."""
    agent = FakeAgent()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen(1)
        thread = threading.Thread(target=agent.serve, args=(listener,), daemon=True)
        thread.start()
        yield agent
        listener.shutdown(socket.SHUT_RDWR)
        thread.join(10.0)
