# SPDX-License-Identifier: Apache-2.0
"""Keeps a guest with a virtual clock from idling, so that its clock does not race.

What is read of a guest by several commands belongs together only if little of its time passes
between them. While the host has the word, an idle guest skips minutes, in which its per-CPU lists
drain and its reporting worker makes dozens of passes.
"""

import contextlib
from collections.abc import Iterator

from harness.act.guest import Machine

# The shell's end of file, when the channel closes, ends the loop.
_SPIN = "nice -n 19 sh -c 'while :; do :; done' & p=$!; echo awake; read -r _; kill $p"

START_SECONDS = 10.0


@contextlib.contextmanager
def awake(vm: Machine) -> Iterator[None]:
    """Let the guest's clock run no faster than it works; does nothing under the real clock.

    Raises `SshError`, `DeadlineError`.
    """
    if vm.spec.clock == "real":
        yield
        return
    with vm.shell.start(_SPIN) as process:
        process.read_line(START_SECONDS * vm.pace)
        yield
