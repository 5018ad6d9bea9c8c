# SPDX-License-Identifier: Apache-2.0
"""Render the templates of generated documents, `harness/report/templates/*.j2`."""

from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from harness.safe_text import safe_text


def _is_html(template: str | None) -> bool:
    return template is not None and template.endswith(".html.j2")


def _shown(value: Any) -> Any:
    """Replace control characters in text; markup, a subclass of `str`, stays unchanged."""
    return safe_text(value) if type(value) is str else value


_TEMPLATES = Environment(
    loader=PackageLoader("harness.report"),
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
    autoescape=_is_html,
    finalize=_shown,
)


def one_line(text: str) -> str:
    """Replace each run of white space by one space, as lists and tables need it."""
    return " ".join(text.split())


_TEMPLATES.filters["one_line"] = one_line


def render(template: str, **facts: Any) -> str:
    """Render a template. Raises `UndefinedError` if `facts` lack a name that it uses."""
    return _TEMPLATES.get_template(template).render(facts)
