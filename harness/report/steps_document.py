# SPDX-License-Identifier: Apache-2.0
"""Write docs/steps.md: what each verb of scenario files does, its fields and their defaults."""

from typing import Literal, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from harness.report.documents import one_line, render
from harness.scenario.fields import shown
from harness.scenario.vocabulary import Verbs


def steps_document(verbs: Verbs) -> str:
    """Render docs/steps.md."""
    return render("steps.md.j2", verbs=verbs, default=default_of, about=about_field)


def default_of(field: FieldInfo) -> str:
    """Return a field's default as a file would have it, or `required`."""
    if field.is_required():
        return "required"
    if field.default_factory is not None or field.default in (None, "", ()):
        return "none"
    if isinstance(field.default, BaseModel):
        return "its own"
    return f"`{shown(field.default, field.metadata)}`"


def about_field(field: FieldInfo) -> str:
    """Describe a field, with its values if they are an enumeration."""
    about = one_line(field.description or "")
    if get_origin(field.annotation) is Literal:
        values = ", ".join(f"`{value}`" for value in get_args(field.annotation))
        about = f"{about} One of: {values}."
    return about.replace("|", r"\|")
