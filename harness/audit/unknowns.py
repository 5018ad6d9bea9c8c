# SPDX-License-Identifier: Apache-2.0
"""What an audit cannot know, said plainly. Pure."""

from collections.abc import Iterator, Sequence

from harness.audit.audit_document import Guest
from harness.audit.host_side import HostSide
from harness.audit.qemu_facts import Backend, Balloon
from harness.units import PAGE_SIZE, format_size

OLD_SECONDS = 60.0
"""Statistics of the balloon older than this say little about the present."""


def unknowns(
    host: HostSide, backends: Sequence[Backend], balloon: Balloon | None, guest: Guest | None
) -> tuple[str, ...]:
    """List it in sentences."""
    return tuple(_unknowns(host, backends, balloon, guest))


def _unknowns(
    host: HostSide, backends: Sequence[Backend], balloon: Balloon | None, guest: Guest | None
) -> Iterator[str]:
    if guest is None:
        yield (
            f"which of the {format_size(host.ram.held)} of guest RAM the guest uses, and which it "
            "has freed: only the guest knows (--ssh, --guest-agent)"
        )
        yield from _statistics(balloon)
    elif guest.account is None:
        yield f"the use of each page: {guest.why_not}"
    elif guest.account.missing:
        yield (
            f"why the host lacks {format_size(guest.account.missing)} that the guest has written: "
            "a VM that was migrated or restored has not got its pages of zeros again; in any other "
            "its memory is lost"
        )
    if balloon is not None and balloon.negotiated is None and guest is None:
        yield "whether the guest has accepted reporting: QEMU tells it from 7.2 on"
    if host.ram.merged is None:
        yield "how much KSM has merged: the host's kernel tells it from 5.19 on"
    if any(backend.page_size != PAGE_SIZE for backend in backends):
        yield "hugetlbfs has no smaller pages to tell apart: a page counts as held as a whole"


def _statistics(balloon: Balloon | None) -> Iterator[str]:
    if balloon is None:
        return
    if balloon.stats is None or balloon.stats_age is None:
        yield "what the guest counts as free: it never sent statistics to the balloon"
    elif balloon.stats_age > OLD_SECONDS:
        polled = (
            "QEMU does not ask for them (guest-stats-polling-interval is 0)"
            if not balloon.polling
            else f"QEMU asks every {balloon.polling} s"
        )
        yield (
            f"what the guest counts as free now: its statistics are {balloon.stats_age:.0f} s old; "
            f"{polled}"
        )
