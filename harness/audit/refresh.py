# SPDX-License-Identifier: Apache-2.0
"""Takes audits again and again, and shows each with what has moved since the one before."""

import threading
from collections.abc import Callable

from rich.console import Group
from rich.live import Live
from rich.text import Text

from harness.audit.audit_text import audit_text
from harness.audit.audit_document import Audit
from harness.report.screen import make_console


def watch(take: Callable[[], Audit], seconds: float) -> None:
    """Show an audit every `seconds` until KeyboardInterrupt or an error of `take`."""
    console = make_console()
    pause = threading.Event()
    before: Audit | None = None
    with Live(console=console, auto_refresh=False, vertical_overflow="visible") as live:
        while True:
            audit = take()
            text = audit_text(audit, before)
            said = Text(f"{audit.at}, again every {seconds:g} s; Ctrl-C ends it", style="dim")
            live.update(Group(said, text), refresh=True)
            before = audit
            pause.wait(seconds)
