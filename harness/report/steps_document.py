# SPDX-License-Identifier: Apache-2.0
"""The verbs of scenario files as a document: what each does, its fields and their defaults."""

from collections.abc import Iterator
from typing import Literal, get_args, get_origin

from pydantic.fields import FieldInfo

from harness.scenario.fields import shown
from harness.scenario.steps import Verb
from harness.scenario.vocabulary import Verbs

HEAD = """\
# The steps

Written by `make docs` from the verbs in `harness/act/verbs`. A step is a mapping with one key, its
verb, over the verb's fields: `- settle: {deadline: 30s}`, or `- settle:` if no field is required.
Sizes have a unit, `512MiB`, and so have times, `60s`, `100ms`.
[How to write a scenario](writing-scenarios.md); [how to add a verb](extending.md).
"""


def steps_document(verbs: Verbs) -> str:
    """docs/steps.md."""
    return "\n".join([HEAD, *(line for verb in verbs for line in _chapter(verb))]) + "\n"


def _chapter(verb: type[Verb]) -> Iterator[str]:
    yield f"## {verb.verb}"
    yield ""
    yield " ".join((verb.__doc__ or "").split())
    yield ""
    if verb.model_fields:
        yield "| field | default | what |"
        yield "|---|---|---|"
        for name, field in verb.model_fields.items():
            yield f"| `{name}` | {_default(field)} | {_about(field)} |"
        yield ""


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    if field.default_factory is not None or field.default in (None, ""):
        return "none"
    return f"`{shown(field.default, field.metadata)}`"


def _about(field: FieldInfo) -> str:
    """What it is, and its values where they are a few words."""
    about = " ".join((field.description or "").split())
    if get_origin(field.annotation) is Literal:
        values = ", ".join(f"`{value}`" for value in get_args(field.annotation))
        about = f"{about} One of: {values}."
    return about.replace("|", r"\|")
