# SPDX-License-Identifier: Apache-2.0
"""What GitHub Actions is told of a pytest session that runs scenarios; nothing elsewhere."""

import sys
from contextlib import ExitStack

import pytest

from harness.report.github import commands_stopped, in_actions, tell_github
from harness.report.sink import LastingSink
from harness.report.summary import Summary


class GithubStep:
    """A session as a step of a workflow."""

    def __init__(self) -> None:
        self._stopped = ExitStack()

    def begin(self, config: pytest.Config) -> None:
        """Have the runner obey no line that is printed from here on."""
        if in_actions():
            config.pluginmanager.getplugin("terminalreporter").ensure_newline()
            self._stopped.enter_context(commands_stopped(LastingSink(sys.stdout)))

    def end(self, summary: Summary | None) -> None:
        """Annotate the job, once pytest has printed all that guests have said."""
        self._stopped.close()
        if summary is None:
            return
        try:
            tell_github(summary, LastingSink(sys.stdout))
        except OSError as error:
            print(f"fpr-harness: no summary of this step: {error}", file=sys.stderr)
