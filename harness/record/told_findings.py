# SPDX-License-Identifier: Apache-2.0
"""What a run's record tells of its guest's console, each text decoded where that was possible."""

from collections.abc import Iterable
from dataclasses import replace

from harness.record.events import AttemptCrashed, ConsoleFinding, Event, StackDecoded


def told_findings(events: Iterable[Event]) -> tuple[ConsoleFinding, ...]:
    """List the findings of a run; a crash before its first step is one, too."""
    found: dict[tuple[str, str], ConsoleFinding] = {}
    decoded: dict[str, str] = {}
    for event in events:
        if isinstance(event, AttemptCrashed):
            event = ConsoleFinding(event.t, "crash", event.title, event.text)
        if isinstance(event, ConsoleFinding):
            # A crash of the boot may be told as both.
            found.setdefault((event.title, event.text), event)
        elif isinstance(event, StackDecoded):
            decoded[event.title] = event.text
    return tuple(replace(each, text=decoded.get(each.title, each.text)) for each in found.values())
