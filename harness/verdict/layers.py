# SPDX-License-Identifier: Apache-2.0
"""Find the layer that keeps memory, from the guest's driver to the host, with its bytes."""

from dataclasses import dataclass

from harness.kernel.settling import SettleOutcome
from harness.kernel.zones import block_size
from harness.measure.usable import usable_audit
from harness.record.facts import Cause, Verdict
from harness.record.history import History
from harness.units import PAGE_SIZE, format_size
from harness.verdict.reconcile import ledgers_of, reconcile
from harness.verdict.retained import retained_reasons


@dataclass(frozen=True)
class Blame:
    """The cause of a failed expectation, and the sentence that explains it."""

    cause: Cause | None
    """None if the run says nothing about reporting."""
    sentence: str
    size: int = 0
    """Bytes that the cause accounts for."""
    verdict: Verdict = Verdict.FAIL
    """ERROR if a precondition was not met, MISS if too little could be seen."""
    explains: bool = False
    """It concerns the code that reports, and may have produced the other failures."""


def never_on(history: History) -> str | None:
    """Say why a boot of the guest was without free page reporting; None if no boot was."""
    for number, boot in enumerate(history.boots):
        again = f" at boot {number + 1}" if number else ""
        if not boot.offered:
            return f"the balloon device does not offer free page reporting (feature bit 5){again}"
        if not boot.negotiated:
            return f"the guest's driver ({boot.kernel}) did not accept free page reporting{again}"
    return None


def feature_off(history: History) -> Blame | None:
    """Say why reporting was off at this moment; None if it was on."""
    why, driver = never_on(history), history.driver
    if why is None and history.ready is not None and driver is not None:
        if not driver.bound:
            why = "the balloon driver was not bound to its device"
        elif not driver.reporting:
            why = "the balloon device that was plugged last does not offer free page reporting"
    return None if why is None else Blame(Cause.FEATURE_OFF, why)


def shortfall(history: History, missing: float) -> Blame:
    """Blame the first layer, from the host inwards, that accounts for half of `missing` bytes.

    If none does, blame the layer that accounts for most.
    """
    ways = [
        balloon_resident(history),
        disagreement(history),
        # An audit is more recent than what the settle left, which may have been given back since.
        not_reported(history, unreported(history) if usable_audit(history) else remaining(history)),
        retained(history),
    ]
    known = [way for way in ways if way is not None]
    enough = next((way for way in known if way.size >= missing / 2), None)
    if enough is not None:
        return enough
    most = max(known, key=lambda way: way.size)
    if not most.size:
        return most
    return Blame(
        most.cause,
        f"no account explains half of the {format_size(round(missing))} missing; the largest, of "
        f"{format_size(most.size)}: {most.sentence}",
        most.size,
    )


def balloon_resident(history: History) -> Blame | None:
    """Blame QEMU, or the guest's move to it, for memory of the balloon that the host holds; None if
    it holds none.
    """
    audit = usable_audit(history)
    size = 0 if audit is None else audit.report.total.offline_resident or 0
    if not size:
        return None
    if any(move.how != "cancelled" for move in history.moves):
        return Blame(
            Cause.STILL_CHARGED,
            f"populated by the move: {format_size(size)} in the balloon, or plugged and not in "
            "use, are resident in the QEMU that the guest came to, which was never asked to "
            "discard them",
            size,
        )
    return Blame(
        Cause.ACKED_NOT_DISCARDED,
        f"{format_size(size)} in the balloon, or plugged and not in use, are still resident on the "
        f"host: {_why_in_balloon(history)}",
        size,
    )


def _why_in_balloon(history: History) -> str:
    """Say why QEMU keeps what the balloon took, as far as the run knows.

    A page larger than the balloon's of 4 KiB is discarded if one element of the queue has all of it
    (hw/virtio/virtio-balloon.c, balloon_inflate_page() and virtio_balloon_handle_output(), QEMU 4.2
    to 11); an element of Linux's driver has at most 256 (VIRTIO_BALLOON_ARRAY_PFNS_MAX,
    drivers/virtio/virtio_balloon.c, 2.6.25 to 7.3).
    """
    page = history.boots[-1].host_page if history.boots else None
    if page is None or page <= _IN_ONE_REQUEST:
        return "QEMU did not discard them, or the discards had no effect"
    return (
        f"the balloon takes at most {format_size(_IN_ONE_REQUEST)} in one request, and QEMU "
        f"discards none of the pages of {format_size(page)} behind guest memory of which a request "
        "has only a part"
    )


_IN_ONE_REQUEST = 256 * PAGE_SIZE
"""Most bytes that Linux's driver puts into the balloon at once."""


def disagreement(history: History) -> Blame | None:
    """Blame the first pair of ledgers that disagrees; None if all agree, or without an audit."""
    ledgers = ledgers_of(history)
    found = reconcile(ledgers, block_size(history.order)) if ledgers else None
    return None if found is None else Blame(found.cause, found.sentence, found.size)


def not_reported(history: History, size: int) -> Blame | None:
    """Blame `size` reportable bytes that were not reported: no time, or a defect; None if 0."""
    if size <= 0:
        return None
    settle = history.settle
    if settle is not None and settle.outcome is SettleOutcome.MOVING:
        return Blame(Cause.NOT_SETTLED, settle_sentence(history), size)
    return Blame(
        Cause.NOT_REPORTED,
        f"{format_size(size)} are free in the guest in blocks of at least "
        f"{format_size(block_size(history.order))}, above the watermark, and were never reported",
        size,
    )


def unreported(history: History) -> int:
    """Return the bytes that the current audit saw free, reportable, unreported and held, else 0."""
    audit = usable_audit(history)
    return 0 if audit is None else audit.report.total.free_large_resident


def remaining(history: History) -> int:
    """Return the bytes that the latest settle left to report; 0 if that is unknown."""
    return 0 if history.settle is None else history.settle.remaining or 0


def reported_resident(history: History) -> int:
    """Return the bytes that the current audit saw reported and held by the host, else 0."""
    audit = usable_audit(history)
    return 0 if audit is None else audit.report.total.reported_resident


def not_discarded(history: History) -> Blame | None:
    """Blame the layer that keeps reported memory resident; None if no reported page is."""
    if not reported_resident(history):
        return None
    return disagreement(history)


def retained(history: History) -> Blame:
    """Blame the guest for keeping memory, for the reason with the most bytes."""
    reasons = retained_reasons(history)
    if reasons:
        return Blame(Cause.GUEST_RETAINED, reasons[0].sentence, reasons[0].size)
    return Blame(
        Cause.GUEST_RETAINED,
        "everything the guest can report has come back; it uses the rest"
        if usable_audit(history)
        else "no usable audit shows where the rest is",
    )


def settle_sentence(history: History) -> str:
    """Describe how the latest settle ended."""
    settle = history.settle
    if settle is None:
        return "memory had not settled"
    if settle.outcome is SettleOutcome.MOVING:
        rest = "" if settle.remaining is None else f", {format_size(settle.remaining)} remained"
        return f"memory was still coming back when the settle deadline passed{rest}"
    return f"memory kept coming back for {settle.seconds:.1f} s"
