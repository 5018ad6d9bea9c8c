# SPDX-License-Identifier: Apache-2.0
"""The verbs as a document."""

from typing import Any, ClassVar, Literal

from harness.act.discover import VERBS
from harness.report.catalogue import STEPS_DOCUMENT
from harness.report.steps_document import steps_document
from harness.resources import SCENARIOS_DIR
from harness.scenario.fields import Seconds, Size
from harness.scenario.steps import Verb
from harness.scenario.vocabulary import Verbs


class Wait(Verb):
    """Does nothing
    for a while.
    """

    verb: ClassVar[str] = "wait"
    size: Size
    """How much of it."""
    duration: Seconds = 0.5
    """How long."""
    who: Literal["guest", "host"] = "guest"
    """Who waits | does nothing."""
    note: str = ""
    """A word."""

    def perform(self, guest: Any) -> None: ...


def test_each_verb_is_told_with_fields_defaults_and_values() -> None:
    lines = steps_document(Verbs([Wait])).splitlines()
    assert lines[lines.index("## wait") :] == [
        "## wait",
        "",
        "Does nothing for a while.",
        "",
        "| field | default | what |",
        "|---|---|---|",
        "| `size` | required | How much of it. |",
        "| `duration` | `500ms` | How long. |",
        r"| `who` | `guest` | Who waits \| does nothing. One of: `guest`, `host`. |",
        "| `note` | none | A word. |",
        "",
    ]


def test_the_projects_document_is_up_to_date() -> None:
    written = SCENARIOS_DIR.parent / "docs" / STEPS_DOCUMENT
    assert written.read_text(encoding="utf-8") == steps_document(VERBS), "run `make docs`"
