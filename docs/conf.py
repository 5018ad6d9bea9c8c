# SPDX-License-Identifier: Apache-2.0
"""Sphinx builds the documentation as a site (`make docs`); the files are Markdown, read by MyST."""

import re
from typing import Any

project = "fpr-harness"
author = "the authors of fpr-harness"
extensions = ["myst_parser"]
exclude_patterns = ["*.json"]
suppress_warnings = ["myst.header"]
myst_heading_anchors = 4
html_theme = "furo"
html_title = "fpr-harness"
html_copy_source = False
html_show_sphinx = False
html_show_copyright = False

_OUTSIDE = re.compile(r"\[([^\[\]]*)\]\(\.\./([A-Z]+\.md)(#[^()]*)?\)")


def _name_what_is_not_here(_app: Any, _name: str, source: list[str]) -> None:
    """Name the project's own pages, which the site does not have, instead of linking to them."""
    source[0] = _OUTSIDE.sub(r"\1 (`\2`)", source[0])


def setup(app: Any) -> None:
    """Called by Sphinx."""
    app.connect("source-read", _name_what_is_not_here)
