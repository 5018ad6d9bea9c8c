# SPDX-License-Identifier: Apache-2.0
"""Describe what happened to a single page in a sentence, by the oracle's table."""

import errno
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from harness.kernel.losses import WAS_RESIDENT
from harness.kernel.pages import GuestState, Seen
from harness.record.page_life import CoveringDiscard, PageAtAudit


@dataclass(frozen=True)
class _Case:
    """The page at an audit, with what happened before."""

    look: PageAtAudit
    earlier: PageAtAudit | None
    """The page at the previous audit."""
    discards: Sequence[CoveringDiscard]
    """Discards that covered the page until the audit."""


Story = Callable[[_Case], str]


def conclude(looks: Sequence[PageAtAudit], discards: Sequence[CoveringDiscard]) -> str:
    """Describe the page at its last audit.

    `looks` are its states at all audits and `discards` all discards that covered it, in order.
    """
    look = looks[-1]
    before = [each for each in discards if each.at is None or each.at <= look.at]
    case = _Case(look, looks[-2] if len(looks) > 1 else None, before)
    return f"at audit {look.audit!r} {_SENTENCES[look.cell](case)}"


def _says(text: str) -> Story:
    return lambda _case: text


def _used_resident(case: _Case) -> str:
    if case.look.held_by:
        return f"{_holder(case.look)} holds it, and the host holds it too, as it must"
    return "the guest uses it, and the host holds it, as it must"


def _used_absent(case: _Case) -> str:
    look, written = case.look, GuestState.CONTENT
    if look.before is look.after is written:
        return f"it has content, but the host does not hold it: lost; {_discarded(case)}"
    if look.seen not in (*WAS_RESIDENT, Seen.RESIDENT_EARLIER):
        return "the guest uses it, but the host does not hold it: it was never touched"
    was = "the guest uses it, but the host does not hold it, although it did at an earlier look"
    if any(each.status == 0 for each in case.discards):
        return (
            f"{was}: it may have been freed, reported and allocated again without being touched; "
            f"{_discarded(case)}"
        )
    return f"{was}: lost, or removed by something other than a discard, of which there was none"


def _held_absent(case: _Case) -> str:
    return (
        f"{_holder(case.look)} holds it and has written it, but the host does not hold it: lost; "
        f"{_discarded(case)}"
    )


def _small_resident(case: _Case) -> str:
    look = case.look
    if look.block is not None and look.block.order < look.reporting_order:
        return (
            f"it is free in a block of order {look.block.order}, below the reporting order "
            f"{look.reporting_order}, so the guest keeps it by the kernel's rule"
        )
    return (
        "it is free in a zone below its watermark, which reporting passes skip, so the guest keeps "
        "it by the kernel's rule"
    )


def _reported_resident(case: _Case) -> str:
    held = "the guest had reported it, but the host still held it"
    last = case.discards[-1] if case.discards else None
    if last is None:
        return f"{held}: QEMU never discarded it"
    if last.status:
        return f"{held}: {_discarded(case)}"
    return (
        f"{held}, although {_discarded(case)}: the host's kernel did not drop the page, or "
        "something has touched it since"
    )


def _reported_absent(case: _Case) -> str:
    return f"the guest had reported it, and the host had got it back; {_discarded(case)}"


def _unstable(case: _Case) -> str:
    before, after = guest_word(case.look.before), guest_word(case.look.after)
    return f"it changed during the audit, from {before} to {after}, and cannot be judged"


_SENTENCES: dict[str, Story] = {
    "nothing": _says("the guest has no page there"),
    "used_resident": _used_resident,
    "used_absent": _used_absent,
    "held_absent": _held_absent,
    "free_small_resident": _small_resident,
    "free_small_absent": _says("it is free, and the host does not hold it"),
    "free_large_resident": _says(
        "it is free in a block of at least the reporting order, in a zone above its watermark, but "
        "was not reported, and the host still holds it"
    ),
    "free_large_absent": _says(
        "it is free and not reported, and the host does not hold it: it was given back earlier, or "
        "never touched"
    ),
    "free_new_resident": _says(
        "it is free in a block of at least the reporting order, in a zone above its watermark, but "
        "was not yet free at an audit less than two passes before: no pass may have had time for it"
    ),
    "free_new_absent": _says(
        "it is free since an audit less than two passes before, and the host does not hold it"
    ),
    "reported_resident": _reported_resident,
    "reported_absent": _reported_absent,
    "offline_resident": _says("it is in the balloon or unplugged, but the host still holds it"),
    "offline_absent": _says("it is in the balloon or unplugged, and the host has got it back"),
    "unstable": _unstable,
    "unknown": _says("its state on the host could not be read, so it cannot be judged"),
}
"""Sentences by the cell of the oracle's table."""


def guest_word(state: GuestState) -> str:
    """Format a guest state for a person: `no page`."""
    return state.name.lower().replace("_", " ")


def _holder(look: PageAtAudit) -> str:
    pids = ", ".join(map(str, look.held_by))
    return f"the churn tool (pid {pids})"


def _discarded(case: _Case) -> str:
    """Describe QEMU's discards of the page, and the last one's time."""
    if not case.discards:
        return "QEMU never discarded it"
    last, earlier = case.discards[-1], case.earlier
    when = "" if last.at is None else f" at {last.at:.1f} s"
    if earlier is not None and last.at is not None and last.at <= earlier.at:
        when += f", and not since audit {earlier.audit!r}"
    if last.status:
        name = errno.errorcode.get(-last.status, str(last.status))
        return f"QEMU's last discard of it{when} failed with {name}"
    times = sum(each.status == 0 for each in case.discards)
    return f"QEMU discarded it {'once,' if times == 1 else f'{times} times, last'}{when}"
