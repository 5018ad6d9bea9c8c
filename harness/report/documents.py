# SPDX-License-Identifier: Apache-2.0
"""Renders the templates of generated documents, `harness/report/templates/*.j2`."""

from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

_TEMPLATES = Environment(
    loader=PackageLoader("harness.report"),
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
    autoescape=False,
)


def one_line(text: str) -> str:
    """The text with every run of white space as one space, as a list or a table needs it."""
    return " ".join(text.split())


_TEMPLATES.filters["one_line"] = one_line


def render(template: str, **facts: Any) -> str:
    """The document. A name that the template uses and `facts` lack raises `UndefinedError`."""
    return _TEMPLATES.get_template(template).render(facts)
