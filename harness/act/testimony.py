# SPDX-License-Identifier: Apache-2.0
"""What a witness in a guest has seen of its used memory, as an event of the run."""

from harness.act.run_record import RunRecord
from harness.guest.witness_client import WitnessSession
from harness.record.events import Witnessed
from harness.units import MIB

CANARY = 2 * MIB
"""Little beside the smallest guest's memory, and pages enough to lie among those of others."""


def record_testimony(witness: WitnessSession, record: RunRecord, whose: str = "") -> None:
    """Have a witness look at everything, and record it; `whose`: prefix of its words.

    Raises `GuestError`, `SshError`, `DeadlineError`.
    """
    seen = witness.verify()
    record.add(
        Witnessed(
            record.now(),
            canary=seen.canary.checked_bytes,
            unchecked=seen.canary.held_bytes - seen.canary.checked_bytes,
            text_pages=seen.text_pages,
            files=seen.files,
            lost=seen.lost_pages,
            detail=tuple(whose + words for words in seen.details),
        )
    )
