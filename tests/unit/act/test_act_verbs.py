# SPDX-License-Identifier: Apache-2.0
"""The set of verbs, as a whole."""

import ast
from pathlib import Path

import pytest

import harness.act.verbs
from harness.act.discover import VERBS
from harness.scenario.steps import Verb

MODULES = sorted(
    path for path in Path(harness.act.verbs.__path__[0]).glob("*.py") if path.stem != "__init__"
)


def test_every_module_of_the_folder_brings_a_verb() -> None:
    assert {verb.__module__.rpartition(".")[2] for verb in VERBS} == {path.stem for path in MODULES}


@pytest.mark.parametrize("verb", list(VERBS), ids=lambda verb: verb.verb)
def test_every_verb_is_carried_out_by_a_test_of_its_own(verb: type[Verb]) -> None:
    """On the fake guest: its class is imported by a module beside this one."""
    imported = {
        name.name
        for path in Path(__file__).parent.glob("test_act_*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ImportFrom) and node.module == verb.__module__
        for name in node.names
    }
    assert verb.__name__ in imported


@pytest.mark.parametrize("verb", list(VERBS), ids=lambda verb: verb.verb)
def test_every_verb_and_field_says_what_it_is(verb: type[Verb]) -> None:
    assert verb.__doc__ != Verb.__doc__
    undescribed = [name for name, field in verb.model_fields.items() if not field.description]
    assert undescribed == []


def test_no_verb_knows_more_of_a_guest_than_the_protocol() -> None:
    """QEMU's process, its launch and the session are no business of a verb."""
    for path in MODULES:
        text = path.read_text(encoding="utf-8")
        for room in ("harness.act.session", "harness.machine.vm", "harness.run"):
            assert f"from {room}" not in text, path.name
