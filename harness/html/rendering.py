# SPDX-License-Identifier: Apache-2.0
"""Render the page's templates, `harness/html/templates/*.j2`, with autoescape."""

from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from harness.safe_text import safe_text


def _shown(value: Any) -> Any:
    """Replace control characters in text; markup, a subclass of `str`, stays unchanged."""
    return safe_text(value) if type(value) is str else value


_TEMPLATES = Environment(
    loader=PackageLoader("harness.html"),
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
    autoescape=True,
    finalize=_shown,
)


def render_page(template: str, **facts: Any) -> str:
    """Render a template. Raises `UndefinedError` if `facts` lack a name that it uses."""
    return _TEMPLATES.get_template(template).render(facts)
