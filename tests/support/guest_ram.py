# SPDX-License-Identifier: Apache-2.0
"""A child process whose memory is laid out like guest RAM in QEMU, for tests to change."""

import select
import subprocess
import sys
from types import TracebackType
from typing import Self

from harness.observe.ram_layout import RamBlock, RamLayout
from harness.record.address_map import RamPiece
from harness.units import PAGE_SIZE

_CHILD = """
import ctypes, mmap, os, sys
PAGE = 4096
libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t] + [ctypes.c_int] * 3 + [ctypes.c_long]
pages, fd, flags = int(sys.argv[1]), -1, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
size = pages * PAGE
if sys.argv[2] in ("memfd", "private-memfd"):
    fd = os.memfd_create("ram")
    flags = mmap.MAP_SHARED if sys.argv[2] == "memfd" else mmap.MAP_PRIVATE
    os.ftruncate(fd, size)
if sys.argv[2] == "file":
    fd, flags = os.open("/var/tmp", os.O_TMPFILE | os.O_RDWR), mmap.MAP_SHARED
    os.ftruncate(fd, size)
if sys.argv[2] == "shared":
    flags = mmap.MAP_SHARED | mmap.MAP_ANONYMOUS
reserved = libc.mmap(None, size + (4 << 20), 0, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, -1, 0)
ram = (reserved + (4 << 20) - 1) // (2 << 20) * (2 << 20)
MAP_FIXED = 0x10
assert libc.mmap(ram, size, mmap.PROT_READ | mmap.PROT_WRITE, flags | MAP_FIXED, fd, 0) == ram

def advise(first, count, advice):
    start, size = ctypes.c_void_p(ram + first * PAGE), ctypes.c_size_t(count * PAGE)
    assert libc.madvise(start, size, advice) == 0, ctypes.get_errno()

def write(numbers):
    for number in numbers:
        ctypes.memset(ram + number * PAGE, 1, 1)

def read(numbers):
    return sum(ctypes.string_at(ram + number * PAGE, 1)[0] for number in numbers)

def become(user):
    os.setresgid(user, user, user)
    os.setresuid(user, user, user)
    libc.prctl(4, 1, 0, 0, 0)  # PR_SET_DUMPABLE, as after execve

def fill():
    ctypes.memset(ram, 1, size)

if sys.argv[2] == "small-pages":
    advise(0, pages, mmap.MADV_NOHUGEPAGE)
if sys.argv[2] == "huge-pages":
    advise(0, pages, mmap.MADV_HUGEPAGE)
if len(sys.argv) > 3:
    become(int(sys.argv[3]))
print(ram, flush=True)
for line in sys.stdin:
    exec(line)
    print("done", flush=True)
"""


class GuestRamProcess:
    """`kind`: `small-pages` or `huge-pages` (private, anonymous), `memfd`, `private-memfd`,
    `file` or `shared` (without a file).

    A child of root can become another `user`.
    """

    def __init__(self, pages: int, kind: str, user: int | None = None) -> None:
        self.pages = pages
        self._process = subprocess.Popen(
            [sys.executable, "-c", _CHILD, str(pages), kind, *([str(user)] if user else [])],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.pid = self._process.pid
        self.hva = int(self._answer())

    def do(self, statement: str) -> None:
        """Execute one line in the child, which can use `write`, `read`, `advise` and `fill`."""
        assert self._process.stdin is not None
        self._process.stdin.write(statement + "\n")
        self._process.stdin.flush()
        assert self._answer() == "done\n"

    def _answer(self) -> str:
        assert self._process.stdout is not None
        assert select.select([self._process.stdout], [], [], 30.0)[0], "the child does not answer"
        line = self._process.stdout.readline()
        assert line, "the child died; its error stands above"
        return line

    @property
    def layout(self) -> RamLayout:
        """Return one block; the guest sees it from page 16, behind a hole of 1000 page frames."""
        size = self.pages * PAGE_SIZE
        return RamLayout(
            pieces=(
                RamPiece(0, 16, "m0", 0, self.hva),
                RamPiece(1016, 1000 + self.pages, "m0", 16 * PAGE_SIZE, self.hva + 16 * PAGE_SIZE),
            ),
            blocks=(RamBlock("m0", size, PAGE_SIZE, self.hva),),
        )

    def end(self) -> None:
        """Kill the child and release everything."""
        self._process.kill()
        self._process.communicate(timeout=30.0)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.end()
