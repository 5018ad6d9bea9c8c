# SPDX-License-Identifier: Apache-2.0
"""Write docs/steps.md: what each verb of scenario files does, its fields and their defaults."""

from typing import Literal, get_args, get_origin

from pydantic.fields import FieldInfo

from harness.report.documents import one_line, render
from harness.scenario.fields import shown
from harness.scenario.vocabulary import Verbs


def steps_document(verbs: Verbs) -> str:
    """Render docs/steps.md."""
    return render("steps.md.j2", verbs=verbs, default=_default, about=_about)


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    if field.default_factory is not None or field.default in (None, ""):
        return "none"
    return f"`{shown(field.default, field.metadata)}`"


def _about(field: FieldInfo) -> str:
    """Describe a field, with its values if they are an enumeration."""
    about = one_line(field.description or "")
    if get_origin(field.annotation) is Literal:
        values = ", ".join(f"`{value}`" for value in get_args(field.annotation))
        about = f"{about} One of: {values}."
    return about.replace("|", r"\|")
