# SPDX-License-Identifier: Apache-2.0
"""Carry out a scenario's steps."""

from collections.abc import Sequence

from harness.act.guest import Guest
from harness.scenario.steps import Verb


def perform(guest: Guest, steps: Sequence[Verb]) -> None:
    """Carry out the steps in order, and read the console. Raises what the verbs raise."""
    for step in steps:
        step.perform(guest)
    guest.read_console()
