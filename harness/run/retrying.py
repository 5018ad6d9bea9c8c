# SPDX-License-Identifier: Apache-2.0
"""When a run that the infrastructure broke is tried again on a new VM. A failure never is."""

from collections.abc import Sequence

from harness.errors import ImageError, InterruptedRunError, RecordError
from harness.record.events import AttemptBroke, Broke, Event, Judged
from harness.record.facts import Verdict
from harness.record.folding import fold
from harness.verdict.judge import earlier_attempts

_NOT_AGAIN = {error.__name__ for error in (ImageError, InterruptedRunError, RecordError)}
"""What breaks the next attempt as well: no image, no place for results; or somebody asked to stop.
"""


def broken_attempt(
    events: Sequence[Event], judged: Judged, attempt: int, retries: int
) -> AttemptBroke | None:
    """Say how an attempt broke if the run is to be tried again, from its events and verdict.

    Only a MISS is: a FAIL is the guest's, an ERROR the scenario's or the harness's own. What was
    missed once and then passed is a PASS whose reason tells of the attempt that broke.
    """
    history = fold(events)
    errors = {event.error for event in events if isinstance(event, Broke)}
    spent = len(history.broken_attempts) >= retries
    if judged.verdict is not Verdict.MISS or spent or errors & _NOT_AGAIN:
        return None
    reason = judged.reason.removesuffix(earlier_attempts(history))
    return AttemptBroke(judged.t, attempt, reason)
