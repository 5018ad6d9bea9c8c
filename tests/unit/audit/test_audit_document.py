# SPDX-License-Identifier: Apache-2.0
"""The document of an audit: JSON in and out, its schema, and how it is shown."""

import io
import json
from dataclasses import replace
from pathlib import Path

import jsonschema
import pytest
from audit_builders import DATA, recorded, with_account

from harness.audit.account import parts_of
from harness.audit.audit_document import Audit, as_json, audit_schema, from_json
from harness.audit.audit_text import audit_text
from harness.audit.unknowns import unknowns
from harness.errors import RecordError
from harness.report.screen import make_console
from harness.units import MIB

SCHEMAS = Path(__file__).parents[3] / "schemas"


def shown(audit: Audit, earlier: Audit | None = None) -> str:
    output = io.StringIO()
    console = make_console(output)
    console.width = 200
    console.print(audit_text(audit, earlier))
    return output.getvalue()


def test_the_schema_in_the_repository_describes_what_is_written() -> None:
    schema = json.loads((SCHEMAS / "audit.schema.json").read_text())
    assert schema == audit_schema()
    jsonschema.validate(json.loads(as_json(recorded())), schema)


def test_what_was_written_is_read_back() -> None:
    assert from_json(as_json(recorded()), "x") == recorded()


@pytest.mark.parametrize(
    "text", ["", "{}", "[1]", '{"schema": 2}', (DATA / "facts.txt").read_text()]
)
def test_another_file_is_refused_with_its_name(text: str) -> None:
    with pytest.raises(RecordError, match=r"old\.json is not an audit of this version"):
        from_json(text, "old.json")


def test_every_part_and_every_advice_is_shown() -> None:
    audit = recorded()
    text = shown(audit)
    assert "demo (process" in text
    assert "processes (anonymous)" in text
    assert "reported and still resident" in text
    assert "unexplained" in text
    for advice in audit.advice:
        assert advice.words.split(":")[0] in text
        for command in advice.commands:
            assert command.line in text


def test_a_comparison_shows_what_grew_and_what_went() -> None:
    audit = recorded()
    grown = with_account(audit, waiting=audit.part("waiting") + 100 * MIB)
    assert grown.guest is not None
    grown = replace(grown, parts=parts_of(grown.host, grown.guest.account))
    [line] = [row for row in shown(grown, audit).splitlines() if "can be reported" in row]
    assert "+100MiB" in line
    [line] = [row for row in shown(audit, grown).splitlines() if "can be reported" in row]
    assert "-100MiB" in line


def test_a_comparison_that_compares_little_says_so() -> None:
    audit = recorded()
    assert "ANOTHER" not in shown(audit, audit)
    assert "of ANOTHER VM (mail)" in shown(audit, replace(audit, vm=replace(audit.vm, name="mail")))
    alone = replace(audit, guest=None, parts=parts_of(audit.host, None))
    assert "only one of the two looked into the guest" in shown(audit, alone)


def test_the_hosts_side_alone_says_what_it_cannot_know() -> None:
    audit = recorded()
    assert audit.balloon is not None
    lines = "\n".join(unknowns(audit.host, audit.backends, audit.balloon, None))
    assert "only the guest knows" in lines
    old = replace(audit.balloon, stats_age=3600.0, polling=0)
    assert "3600 s old; QEMU does not ask" in "\n".join(
        unknowns(audit.host, audit.backends, old, None)
    )
    never = replace(audit.balloon, stats=None, stats_age=None)
    assert "never sent statistics" in "\n".join(unknowns(audit.host, audit.backends, never, None))


def test_a_guest_without_page_flags_shows_what_it_counts() -> None:
    audit = recorded()
    assert audit.guest is not None
    less = replace(audit.guest, account=None, why_not="no flags")
    text = shown(replace(audit, guest=less, parts=parts_of(audit.host, None)))
    assert "The guest counts (/proc/meminfo), held by the host or not: free " in text
    assert "slab" in text


def test_memory_that_a_known_guest_misses_is_told() -> None:
    audit = with_account(recorded(), absent_written=100 * MIB)
    lines = "\n".join(unknowns(audit.host, audit.backends, audit.balloon, audit.guest))
    assert "why the host lacks 100MiB that the guest has written" in lines


def test_text_of_a_guest_that_means_harm_reaches_no_terminal() -> None:
    audit = recorded()
    assert "\x1b" not in shown(replace(audit, vm=replace(audit.vm, name="a\x1b[2Jb")))
