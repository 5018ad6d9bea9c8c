# SPDX-License-Identifier: Apache-2.0
"""Fill memory with a seeded pattern, hold it, verify every word, and free all or part of it."""

from collections.abc import Iterator
from typing import Annotated, ClassVar, Literal

from pydantic import Field, StrictInt

from harness.act.guest import Guest, Kept
from harness.act.picture import take_picture
from harness.errors import ScenarioError
from harness.guest.churn_client import ChurnSession
from harness.guest.counter_stream import read_counters
from harness.kernel.zones import MAX_ORDER
from harness.record.events import ChurnAsked, ChurnFreed, ChurnHeld, ChurnVerified
from harness.scenario.fields import MemoryShare, Seconds
from harness.scenario.steps import Situation, Verb
from harness.units import MIB, format_size
from harness.yamlfile import Loc

SLOWEST_RATE = 32 * MIB
"""Bytes per second that the tool writes or verifies on a loaded host under TCG; sets deadlines."""

USUAL_RATE = 128 * MIB
"""Bytes per second that the tool writes and verifies under TCG."""

SLACK_SECONDS = 10.0

PICTURE_SECONDS = 1.0
"""A hold of this length has room for reading a guest's pages twice, which takes 0.1 to 0.6 s under
TCG."""

FreeWhat = Literal["all", "half-of-blocks", "half-of-pages", "huge-page-tails"]

HOLDS = "memory is held"


class Churn(Verb):
    """Fills memory with a seeded pattern, holds it, verifies every word, and frees it.

    While the first churn of a run holds memory for 1 s or longer, a picture of all pages is taken
    for the report.
    """

    verb: ClassVar[str] = "churn"
    moves_memory: ClassVar[bool] = True
    verifies: ClassVar[bool] = True
    size: MemoryShare
    """How much memory it fills: a share of the guest's memory (`50%`), or a size (`512MiB`)."""
    pattern: Literal["seeded"] = "seeded"
    """The pattern written; `seeded` derives each word from the seed and its position."""
    hold: Seconds = 1.0
    """How long the memory is held before it is verified."""
    hugepages: Literal["default", "never", "always"] = "default"
    """Huge page use: `always` and `never` ask for it with madvise(), `default` leaves it to the
    guest's setting."""
    free: FreeWhat = "all"
    """What is freed: `all`; every second whole physical block of `order` (`half-of-blocks`); every
    second page (`half-of-pages`); or all but the first page of each huge page
    (`huge-page-tails`), which the kernel may split later. The rest stays held until `release`, the
    next `churn`, or the end of the run."""
    order: Annotated[StrictInt, Field(ge=0, le=MAX_ORDER)] | None = None
    """Order of the blocks of `half-of-blocks`; by default the reporting order."""
    seed: Annotated[StrictInt, Field(ge=0, lt=1 << 64)] | None = None
    """Seed of the pattern; by default the number of this churn in the run."""

    def expected_seconds(self, memory: int) -> float:
        """Estimate the time to write, hold and verify the memory."""
        return 2.0 + self.hold + self.size.of(memory) / USUAL_RATE

    def mistakes(self, before: Situation) -> Iterator[tuple[Loc, str]]:
        """Require that it fills less than the guest's memory."""
        most = before.memory + before.hotplug
        if self.size.of(before.memory) >= most:
            yield ("size",), f"{self.size} is not less than the guest's {format_size(most)}"

    def after(self, before: Situation) -> Situation:
        """Note whether memory stays held."""
        return before.lacking(HOLDS) if self.free == "all" else before.having(HOLDS)

    def perform(self, guest: Guest) -> None:
        """Release what is held; then fill, hold, verify and free.

        Raises `GuestError`, `SshError`, `DeadlineError`, and what the instruments raise.
        """
        size = self.size.of(guest.vm.spec.memory)
        held, record = guest.kept(Held), guest.record
        if held.tool is not None:
            Release().perform(guest)
        held.patterns += 1
        guest.phase("churn", f"writing {format_size(size)}")
        # A balloon that deflates makes room.
        if not guest.vm.spec.balloon.deflate_on_oom:
            memory = read_counters(guest.vm.shell).meminfo
            if (available := memory.get("MemAvailable")) is not None:
                available += memory.get("SwapFree", 0)
                record.add(ChurnAsked(record.now(), bytes=size, available=available))
        held.tool = tool = ChurnSession.start(
            guest.vm.shell,
            size=size,
            seed=self.seed or held.patterns,
            hugepages=self.hugepages,
            timeout=phase_seconds(size),
            detached=guest.detached,
        )
        record.add(ChurnHeld(record.now(), bytes=tool.held, seconds=tool.fill_seconds))
        guest.phase("hold", f"{format_size(size)} for {self.hold:g} s")
        until = record.now() + self.hold
        if self.hold >= PICTURE_SECONDS and not held.pictured:
            held.pictured = True
            take_picture(guest, "peak", (tool.pid,))
        guest.vm.pass_time(max(0.0, until - record.now()))
        Verify().perform(guest)
        _free(guest, self.free, self.order)


class Verify(Verb):
    """Compares every word still held with what was written."""

    verb: ClassVar[str] = "verify"
    verifies: ClassVar[bool] = True

    def mistakes(self, before: Situation) -> Iterator[tuple[Loc, str]]:
        """Require that memory is held."""
        return _nothing_held(before)

    def perform(self, guest: Guest) -> None:
        """Verify held memory; a mismatch is recorded, not raised.

        Raises `ScenarioError` if no memory is held, `GuestError`, `SshError`, `DeadlineError`.
        """
        tool = guest.kept(Held).by_a_churn()
        guest.phase("verify", format_size(tool.held))
        result = tool.verify(timeout=phase_seconds(tool.held))
        guest.record.add(
            ChurnVerified(
                guest.record.now(),
                bytes=result.checked_bytes,
                mismatched_pages=result.mismatched_pages,
                detail=result.details,
                unchecked=max(0, result.held_bytes - result.checked_bytes),
                damaged=result.damaged,
            )
        )


class Release(Verb):
    """Frees all memory that is still held."""

    verb: ClassVar[str] = "release"
    moves_memory: ClassVar[bool] = True

    def mistakes(self, before: Situation) -> Iterator[tuple[Loc, str]]:
        """Require that memory is held."""
        return _nothing_held(before)

    def after(self, before: Situation) -> Situation:
        """Note that no memory is held."""
        return before.lacking(HOLDS)

    def perform(self, guest: Guest) -> None:
        """Free all held memory.

        Raises `ScenarioError` if no memory is held, `GuestError`, `SshError`, `DeadlineError`, and
        what the instruments raise.
        """
        _free(guest, "all")


class Held(Kept):
    """The churn tool, while it holds memory."""

    def __init__(self) -> None:
        self.tool: ChurnSession | None = None
        self.pictured = False
        """Whether a picture of the pages was taken."""
        self.patterns = 0
        """Number of patterns written, each with its own seed."""

    def by_a_churn(self) -> ChurnSession:
        """Return the tool. Raises `ScenarioError` if no memory is held."""
        if self.tool is None:
            raise ScenarioError(
                "the guest holds no memory that this step could verify or free",
                hint="put a churn step with `free: half-of-blocks` before it",
            )
        return self.tool

    def close(self) -> None:
        """End the tool, which frees its memory."""
        if self.tool is not None:
            self.tool.close()


def phase_seconds(size: int) -> float:
    """Return the deadline for writing or verifying `size` bytes, in seconds at usual pace."""
    return SLACK_SECONDS + size / SLOWEST_RATE


def _nothing_held(before: Situation) -> Iterator[tuple[Loc, str]]:
    if HOLDS not in before.facts:
        yield (), "no memory is held here; put `churn: {free: half-of-blocks}` before it"


def _free(guest: Guest, what: FreeWhat, order: int | None = None) -> None:
    """Free memory, and record what the host held just before.

    `order` is that of `half-of-blocks`; None stands for the reporting order.
    """
    held = guest.kept(Held)
    tool = held.by_a_churn()
    guest.phase("free", what)
    zones = read_counters(guest.vm.shell).zones
    # In this order: what the host loses from now on has its discard after these.
    discards, before = guest.instruments.discards.read(), guest.instruments.mapping.read()
    if what == "all":
        freed = tool.free_all()
        tool.close()
        held.tool = None
    elif what == "huge-page-tails":
        freed = tool.free_tails()
    else:
        wanted = guest.reporting_order if order is None else order
        order = wanted if what == "half-of-blocks" else 0
        freed = tool.free_blocks(order=order, stride=2, offset=0)
    guest.record.add(
        ChurnFreed(
            guest.record.now(),
            bytes=freed.bytes,
            still_held=freed.held_bytes,
            before=before,
            discards_before=discards,
            zones_before=zones,
        )
    )
