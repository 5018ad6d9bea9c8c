# SPDX-License-Identifier: Apache-2.0
"""Client of the guest tool's `pages` stream: the state of every page frame of the guest.

The head of guest-images/tool/pages.c describes the format.
"""

import functools
import struct
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from harness.closing import Closing
from harness.deadline import Deadline
from harness.errors import ObserveError, SshError
from harness.guest.tool_end import last_words
from harness.kernel.page_kinds import PageKind
from harness.kernel.pages import GuestState, StateArray
from harness.machine.interfaces import GuestProcess, GuestShell
from harness.units import GIB, PAGE_SIZE

VERSION = 2
VERSION_KINDS = 3

SLACK_PAGES = 16 * GIB // PAGE_SIZE
"""Page frames that the guest may list beyond the end of its memory: the hole below 4 GiB takes up
to 2 GiB, hot-plugged memory starts at a whole GiB, and the kernel rounds up to a section of 128 MiB
(fs/proc/page.c, get_max_dump_pfn())."""

READ_SECONDS = 30.0
"""Deadline of one reading: it takes 0.1 s per GiB under TCG, more on a loaded host."""

_HEADER = struct.Struct("<8sIIQQQQ")
_RUN_BYTES = 4
_MAGIC = b"FPRPAGES"
_STATE_BITS = {VERSION: 3, VERSION_KINDS: 4}


@dataclass(frozen=True)
class PageReading:
    """The guest's state of each page frame."""

    states: StateArray
    """GuestState, index = PFN; REPORTED on the heads of reported blocks only. PageKind of pages in
    use, if the reader was asked for kinds."""
    start_ns: int
    """The guest's monotonic clock at the start of the reading."""
    end_ns: int
    """The same at its end."""


@dataclass(frozen=True, eq=False)
class PageRuns:
    """The same as runs of page frames in the same state, for guests whose page frames are many."""

    values: StateArray
    """GuestState of each run, or with kinds, PageKind of pages in use."""
    lengths: npt.NDArray[np.uint32]
    """Page frames in each run."""
    start_ns: int
    end_ns: int

    @functools.cached_property
    def _ends(self) -> npt.NDArray[np.uint64]:
        return np.cumsum(self.lengths, dtype=np.uint64)

    def __len__(self) -> int:
        """Return the number of page frames."""
        return int(self._ends[-1]) if len(self._ends) else 0

    def part(self, start: int, end: int) -> StateArray:
        """Return the values of the page frames [start, end), by PFN; NO_PAGE beyond the last."""
        first = int(np.searchsorted(self._ends, start, side="right"))
        last = int(np.searchsorted(self._ends, end, side="left")) + 1
        ends = np.minimum(self._ends[first:last], end).astype(np.int64)
        lengths = np.diff(ends, prepend=start)
        found = np.repeat(self.values[first:last], lengths)
        return np.pad(found, (0, end - start - len(found)), constant_values=GuestState.NO_PAGE)


@dataclass(frozen=True)
class _Header:
    version: int
    pages: int
    start_ns: int
    end_ns: int
    runs: int


def _read_header(data: bytes, pfn_end: int, wanted: int) -> _Header:
    """Read the header, and check its sizes before anything is allocated by them."""
    magic, version, page_bytes, pages, start_ns, end_ns, runs = _HEADER.unpack(data)
    if (magic, version, page_bytes) != (_MAGIC, wanted, PAGE_SIZE):
        raise ObserveError(
            f"the guest's page states are in an unknown format: {magic!r} version {version}, "
            f"pages of {page_bytes} bytes",
            hint="if the guest tool is older than the harness, rebuild the image: "
            "fpr-harness image build",
        )
    if runs > pages or pages > pfn_end + SLACK_PAGES:
        raise ObserveError(
            f"the guest's page states are damaged: {runs} runs for {pages} page frames; the guest "
            f"has about {pfn_end}"
        )
    return _Header(version, pages, start_ns, end_ns, runs)


def _decode(header: _Header, runs: bytes) -> PageRuns:
    codes = np.frombuffer(runs, dtype="<u4")
    bits = _STATE_BITS[header.version]
    states = (codes & ((1 << bits) - 1)).astype(np.uint8)
    lengths = (codes >> bits).astype(np.uint32)
    pages = int(lengths.sum(dtype=np.uint64))
    if pages != header.pages:
        raise ObserveError(
            f"the guest's page states are damaged: the runs add up to {pages} page frames, "
            f"not {header.pages}"
        )
    with_kinds = header.version == VERSION_KINDS
    if len(states) and states.max() > (max(PageKind) if with_kinds else max(GuestState)):
        raise ObserveError(f"the guest's page states include the unknown state {states.max()}")
    return PageRuns(states, lengths, header.start_ns, header.end_ns)


class PageReader(Closing):
    """Reads the page states any number of times over one connection to one process.

    `pfn_end`: one past the guest's last PFN according to QEMU, the bound for what the guest may
    claim; `held_by`: guest process ids whose pages read HELD; `kinds`: read what pages are used
    for, which excludes `held_by`.
    """

    def __init__(
        self,
        shell: GuestShell,
        pfn_end: int,
        held_by: Sequence[int] = (),
        *,
        kinds: bool = False,
    ) -> None:
        self._pfn_end = pfn_end
        self._version = VERSION_KINDS if kinds else VERSION
        options = " --kinds" if kinds else "".join(f" --held-by {pid}" for pid in held_by)
        self._command = f"fpr-guest pages{options}"
        self._shell = shell
        self._process: GuestProcess | None = None

    def read(self) -> PageReading:
        """Read the states. Raises `ObserveError`, `SshError`, `DeadlineError`."""
        runs = self.read_runs()
        return PageReading(np.repeat(runs.values, runs.lengths), runs.start_ns, runs.end_ns)

    def read_runs(self) -> PageRuns:
        """Read the same, and leave it in runs. Raises like `read`."""
        try:
            return self._read()
        except SshError as error:
            if self._process is not None and (words := last_words(self._process, error)):
                raise ObserveError(
                    f"cannot read the guest's page states: {words}", hint=error.hint
                ) from error
            raise

    def _read(self) -> PageRuns:
        deadline = Deadline(READ_SECONDS * self._shell.pace, "the guest's page states")
        if self._process is None:
            self._process = self._shell.start(self._command)
        else:
            self._process.write(b"\n")
        with deadline.covering():
            data = self._process.read_exactly(_HEADER.size, deadline.remaining)
            header = _read_header(data, self._pfn_end, self._version)
            data = self._process.read_exactly(header.runs * _RUN_BYTES, deadline.remaining)
        return _decode(header, data)

    def close(self) -> None:
        """End the tool; the next reading starts another. Never raises."""
        if self._process is not None:
            self._process.close()
            self._process = None
