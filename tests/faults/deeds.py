# SPDX-License-Identifier: Apache-2.0
"""Harm done from outside to a run in progress: to its QEMU, its guest, or the harness itself."""

import ctypes
import os
import signal
import socket
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from leftovers import qmp, vm_directories
from running import Running
from small_disk import fill

from harness.machine.process import QEMU_DIRECTORY
from harness.observe.ram_layout import RamLayout
from harness.units import GIB, MIB, PAGE_SIZE

SYS_PIDFD_GETFD = 438
CHUNK = 64 * MIB
HELD_PAGES = 512 * MIB // PAGE_SIZE
"""What the scenarios of 1 GiB hold."""
LEDGER_ENTRIES = PAGE_SIZE // 16
"""In a page of the churn tool's ledger."""


def _vm(running: Running) -> Path:
    (directory,) = vm_directories(running.process.pid)
    return directory


class _Monitor:
    """The VM's second QMP socket, past the harness."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def execute(
        self, command: str, arguments: Mapping[str, Any] | None = None, *, timeout: float = 10.0
    ) -> Any:
        del timeout
        return qmp(self._directory, command, **(arguments or {}))

    def human(self, command: str, *, timeout: float = 10.0) -> str:
        del timeout
        text = str(qmp(self._directory, "human-monitor-command", command_line=command))
        return text.replace("\r\n", "\n")


def ram_layout(running: Running) -> RamLayout:
    """Where the guest's memory lies in its QEMU."""
    return RamLayout.read(_Monitor(_vm(running)))


def addresses_of(running: Running, where: str) -> tuple[int, int]:
    """Host addresses [low, high) of a part of guest memory: `held`, `node1` or `above-4g`."""
    if where == "held":
        return held_stretch(running)
    layout = ram_layout(running)
    if where == "node1":
        (block,) = (block for block in layout.blocks if block.name.endswith("m1"))
        return block.hva, block.hva + block.size
    pieces = [piece for piece in layout.pieces if piece.pfn_start * PAGE_SIZE >= 4 * GIB]
    (piece,) = pieces
    return piece.hva, piece.hva + (piece.pfn_end - piece.pfn_start) * PAGE_SIZE


def _mix(x: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    x = (x ^ x >> np.uint64(30)) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ x >> np.uint64(27)) * np.uint64(0x94D049BB133111EB)
    return x ^ x >> np.uint64(31)


def _first_words(seed: int, pages: int) -> npt.NDArray[np.uint64]:
    """What the churn tool wrote at the start of each page (guest-images/tool/pattern.c)."""
    with np.errstate(over="ignore"):
        words = np.uint64(seed) * np.uint64(0x9E3779B97F4A7C15)
        return _mix(words + np.arange(pages, dtype=np.uint64))


def _ledger_proofs(seed: int, pages: int) -> npt.NDArray[np.uint64]:
    """The second word of each page of the tool's ledger, of both copies (ledger.c)."""
    first = np.arange(0, 2 * pages, 2 * LEDGER_ENTRIES, dtype=np.uint64)
    with np.errstate(over="ignore"):
        entries = np.concatenate([first, first + np.uint64(1)])
        return _mix(np.uint64(seed) ^ _mix(np.uint64(0xD1B54A32D192ED03) + entries))


def _held_addresses(
    running: Running, wanted: npt.NDArray[np.uint64], *, word: int = 0
) -> npt.NDArray[np.int64]:
    """Host addresses of the pages in which that word is one of these, ascending."""
    found = []
    with Path(f"/proc/{running.qemu_pid()}/mem").open("rb", buffering=0) as memory:
        for block in ram_layout(running).blocks:
            for at in range(block.hva, block.hva + block.size, CHUNK):
                memory.seek(at)
                words = np.frombuffer(memory.read(CHUNK), "<u8")[word :: PAGE_SIZE // 8]
                found.append(at + np.flatnonzero(np.isin(words, wanted)) * PAGE_SIZE)
    return np.sort(np.concatenate(found))


def held_stretch(running: Running) -> tuple[int, int]:
    """The longest stretch of memory that the churn tool holds, less its last block.

    What is lost behind a block of it is the tool's, and nobody's the guest could die of.
    """
    pages = _held_addresses(running, _first_words(1, HELD_PAGES))
    stretches = np.split(pages, np.flatnonzero(np.diff(pages) != PAGE_SIZE) + 1)
    longest = max(stretches, key=len)
    return int(longest[0]), int(longest[-1]) + PAGE_SIZE - 2 * MIB


def zero_a_held_page(running: Running) -> None:
    """Page 4711 of the churn tool's first pattern, found in QEMU's memory by its first word."""
    (address,) = _held_addresses(running, _first_words(1, HELD_PAGES)[4711:4712]).tolist()
    _zero(running, [address])


def zero_the_ledger(running: Running) -> None:
    """All that the churn tool knows of its pages, both copies."""
    addresses = _held_addresses(running, _ledger_proofs(1, HELD_PAGES), word=1)
    assert len(addresses) == 2 * HELD_PAGES // LEDGER_ENTRIES
    _zero(running, addresses.tolist())


def zero_half_the_ledger(running: Running) -> None:
    """One copy of it."""
    proofs = _ledger_proofs(1, HELD_PAGES)
    _zero(running, _held_addresses(running, proofs[: len(proofs) // 2], word=1).tolist())


def _zero(running: Running, addresses: Sequence[int]) -> None:
    with Path(f"/proc/{running.qemu_pid()}/mem").open("r+b", buffering=0) as memory:
        for address in addresses:
            memory.seek(address)
            memory.write(bytes(PAGE_SIZE))
    late = any(e["kind"] == "phase" and e["phase"] == "verify" for e in running.events())
    assert not late, "it was zeroed only after the check"


def stop_vcpus(running: Running) -> None:
    qmp(_vm(running), "stop")


def cut_ssh(running: Running) -> None:
    qmp(_vm(running), "set_link", name="net0", up=False)


def kill_qemu(running: Running) -> None:
    os.kill(running.qemu_pid(), signal.SIGKILL)


def stop_qemu(running: Running) -> None:
    os.kill(running.qemu_pid(), signal.SIGSTOP)


def close_qmp(running: Running) -> None:
    """Shut the harness's own end of the connection down, through a copy of its descriptor."""
    path = str(_vm(running) / QEMU_DIRECTORY / "qmp.sock")
    inodes = {
        words[6]
        for line in Path("/proc/net/unix").read_text().splitlines()
        if (words := line.split())[-1] == path
    }
    pid, closed = running.process.pid, 0
    pidfd = os.pidfd_open(pid)
    libc = ctypes.CDLL(None, use_errno=True)
    for link in Path(f"/proc/{pid}/fd").iterdir():
        if str(link.readlink()).removeprefix("socket:[").rstrip("]") in inodes:
            copy = libc.syscall(SYS_PIDFD_GETFD, pidfd, int(link.name), 0)
            assert copy >= 0, os.strerror(ctypes.get_errno())
            with socket.socket(fileno=copy) as ours:
                ours.shutdown(socket.SHUT_RDWR)
                closed += 1
    os.close(pidfd)
    assert closed, "the harness has no QMP connection"


def fill_the_disk(running: Running) -> None:
    fill(running.results.parent)


DEEDS: dict[str, Callable[[Running], None]] = {
    deed.__name__: deed
    for deed in (
        close_qmp,
        cut_ssh,
        fill_the_disk,
        kill_qemu,
        stop_qemu,
        stop_vcpus,
        zero_a_held_page,
        zero_half_the_ledger,
        zero_the_ledger,
    )
}
