# SPDX-License-Identifier: Apache-2.0
"""Synchronous QMP with a timeout on every command; events are collected from QEMU's start."""

import asyncio
import concurrent.futures
import contextlib
import json
import logging
import threading
import time
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from qemu.qmp import (
    ConnectError,
    EventListener,
    ExecInterruptedError,
    ExecuteError,
    Message,
    QMPClient,
    QMPError,
    Runstate,
    StateError,
)

from harness.deadline import Deadline
from harness.errors import QmpError, QmpSilentError
from harness.limited_file import LimitedFile
from harness.machine.gone import Gone, gone_soon
from harness.machine.pace import slowness
from harness.run_log import RunThread

CLOSE_SECONDS = 5.0
SHUTDOWN_SECONDS = 10.0
"""From QEMU's end until its connection is read to its own end, on a machine of usual pace."""
LOOK_SECONDS = 0.05

LOG = logging.getLogger(__name__)


class _LoggedClient(QMPClient):
    """A QMP client that logs every message in both directions."""

    def __init__(self, name: str, log: Path) -> None:
        super().__init__(name)
        self._log = LimitedFile(log, "w")

    def close_log(self) -> None:
        self._log.close()

    def _cb_inbound(self, msg: Message) -> Message:
        self._write("<-", msg)
        return super()._cb_inbound(msg)

    def _cb_outbound(self, msg: Message) -> Message:
        self._write("->", msg)
        return super()._cb_outbound(msg)

    def _write(self, direction: str, msg: Message) -> None:
        text = json.dumps(dict(msg))
        LOG.debug("%s %s", direction, text)
        self._log.write(f"{time.monotonic():.6f} {direction} {text}\n")


class QmpMonitor:
    """The monitor of one QEMU, which connects to a socket that is made before it starts."""

    def __init__(self, socket: Path, log: Path, gone: Gone) -> None:
        """Listen on `socket`. Raises `OSError` for files and descriptors, `QmpError`."""
        self.pace = slowness()
        """How many times longer than usual QEMU may take to answer."""
        self._socket = socket
        self._gone = gone
        self._events: list[dict[str, Any]] = []
        self._waited_past = 0
        self._heard = threading.Condition()
        self._client = _LoggedClient("fpr-harness", log)
        try:
            self._loop = asyncio.new_event_loop()
        except OSError:
            self._client.close_log()
            raise
        self._thread = RunThread(target=self._loop.run_forever, name="qmp", daemon=True)
        self._thread.start()
        self._listener = EventListener()
        self._client.register_listener(self._listener)
        try:
            self._collector = self._call(self._start(), 10.0, "the monitor's socket")
        except BaseException:
            self._end_thread()
            raise

    async def _start(self) -> "asyncio.Task[None]":
        await self._client.start_server(str(self._socket))
        return asyncio.create_task(self._collect())

    async def _collect(self) -> None:
        async for message in self._listener:
            self._take(message)

    def _take(self, message: Message) -> None:
        with self._heard:
            self._events.append(dict(message))
            self._heard.notify_all()

    def accept(self, deadline: Deadline) -> None:
        """Wait for QEMU to connect and greet. Raises `QmpError`, `QemuGoneError`."""
        future = asyncio.run_coroutine_threadsafe(self._client.accept(), self._loop)
        while True:
            try:
                future.result(timeout=min(0.05, deadline.remaining or 0.001))
            except concurrent.futures.TimeoutError:
                gone = self._gone()
                if gone is None and not deadline.passed:
                    continue
                future.cancel()
                raise gone or QmpError(
                    str(deadline.error()), hint="check whether the host is overloaded"
                ) from None
            except (QMPError, OSError) as error:
                raise gone_soon(self._gone) or QmpError(
                    f"QMP's greeting failed: {error}"
                ) from error
            return

    def execute(
        self, command: str, arguments: Mapping[str, Any] | None = None, *, timeout: float = 10.0
    ) -> Any:
        """Execute a command, return its `return` member. `timeout` is for a usual pace.

        Raises `QmpError`, `QemuGoneError`.
        """
        args = dict(arguments) if arguments is not None else None
        seconds = timeout * self.pace
        return self._call(self._client.execute(command, args), seconds, f"QMP {command}")

    def human(self, command: str, *, timeout: float = 10.0) -> str:
        """Execute an HMP command, return its text with Unix line ends. Raises like `execute`."""
        text = self.execute("human-monitor-command", {"command-line": command}, timeout=timeout)
        return str(text).replace("\r\n", "\n")

    def events(self) -> list[dict[str, Any]]:
        """Return all events so far, oldest first."""
        with self._heard:
            return list(self._events)

    def shutdown_reason(self, seconds: float = SHUTDOWN_SECONDS) -> str:
        """Return the reason in QEMU's last SHUTDOWN event; empty if none arrives within `seconds`.

        Call it for a QEMU that has ended, whose last messages may still be unread.
        """

        def heard() -> str | None:
            for event in reversed(self.events()):
                if event["event"] == "SHUTDOWN":
                    return str(event.get("data", {}).get("reason", ""))
            return None

        connected = (Runstate.CONNECTING, Runstate.RUNNING)
        deadline = Deadline(seconds * self.pace, "QEMU's last event")
        while heard() is None and not deadline.passed:
            if self._client.runstate not in connected:
                self._collect_rest(deadline)
                break
            with self._heard:
                self._heard.wait(LOOK_SECONDS)
        return heard() or ""

    def _collect_rest(self, deadline: Deadline) -> None:
        """Collect what was read before the connection ended and still waits in the queue."""
        if not self._thread.is_alive():
            return  # closed: nothing more is read

        async def rest() -> None:
            # On the loop, where neither the reader nor the collector is half-way through an event.
            for message in self._listener.clear():
                self._take(message)

        future = asyncio.run_coroutine_threadsafe(rest(), self._loop)
        with contextlib.suppress(concurrent.futures.TimeoutError):
            future.result(deadline.remaining)

    def wait_event(self, names: Collection[str], deadline: Deadline) -> dict[str, Any]:
        """Wait for the next event with one of the names, after the last one returned here.

        An event that arrived before the call counts too. Raises `DeadlineError`, `QemuGoneError`.
        """
        with self._heard:
            while True:
                for number, event in enumerate(self._events[self._waited_past :]):
                    if event["event"] in names:
                        self._waited_past += number + 1
                        return event
                if gone := self._gone():
                    raise gone
                deadline.check(", ".join(event["event"] for event in self._events[-5:]))
                self._heard.wait(min(0.25, deadline.remaining))

    def _call(self, coroutine: Any, timeout: float, what: str) -> Any:
        future = asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        try:
            return future.result(timeout)
        except concurrent.futures.TimeoutError as error:
            future.cancel()
            raise self._gone() or QmpSilentError(
                f"{what}: no answer within {timeout:g} s",
                hint="QEMU hangs, or the host is overloaded",
            ) from error
        except ExecuteError as error:
            raise QmpError(f"{what} was refused: {error}") from error
        except (ConnectError, ExecInterruptedError, StateError, QMPError, OSError) as error:
            raise gone_soon(self._gone) or QmpError(
                f"{what}: the connection broke ({error})", hint="see qmp.log and qemu.log"
            ) from error

    def close(self) -> None:
        """Disconnect and end the thread; never raises."""

        async def shut() -> None:
            self._collector.cancel()
            with contextlib.suppress(Exception):
                await self._client.disconnect()

        future = asyncio.run_coroutine_threadsafe(shut(), self._loop)
        with contextlib.suppress(concurrent.futures.TimeoutError):
            future.result(CLOSE_SECONDS)
        self._end_thread()

    def _end_thread(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(CLOSE_SECONDS)
        self._loop.close()
        self._client.close_log()
