# SPDX-License-Identifier: Apache-2.0
"""Takes audits again and again, and shows each with what has moved since the one before."""

import contextlib
import threading
from collections.abc import Callable

from rich.console import Group
from rich.live import Live
from rich.text import Text

from harness.audit.audit_document import Audit
from harness.audit.audit_text import audit_text
from harness.report.screen import make_console


def watch(take: Callable[[], Audit], seconds: float) -> None:
    """Show an audit every `seconds` until KeyboardInterrupt or an error of `take`."""
    console = make_console()
    pause = threading.Event()
    before: Audit | None = None
    screen = Live(console=console, auto_refresh=False, vertical_overflow="visible")
    with screen if console.is_terminal else contextlib.nullcontext():
        while True:
            audit = take()
            said = Text(f"{audit.at}, again every {seconds:g} s; Ctrl-C ends it", style="dim")
            shown = Group(said, audit_text(audit, before))
            if console.is_terminal:
                screen.update(shown, refresh=True)
            else:
                console.print(shown, Text())
            before = audit
            pause.wait(seconds)
