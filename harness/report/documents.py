# SPDX-License-Identifier: Apache-2.0
"""Render the templates of generated documents, `harness/report/templates/*.j2`."""

from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

_TEMPLATES = Environment(
    loader=PackageLoader("harness.report"),
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
)


def one_line(text: str) -> str:
    """Replace each run of white space by one space, as lists and tables need it."""
    return " ".join(text.split())


_TEMPLATES.filters["one_line"] = one_line


def render(template: str, **facts: Any) -> str:
    """Render a template. Raises `UndefinedError` if `facts` lack a name that it uses."""
    return _TEMPLATES.get_template(template).render(facts)
