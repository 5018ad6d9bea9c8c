# SPDX-License-Identifier: Apache-2.0
"""Say in words what a scenario does and expects, for the catalogue and for `show`.

Names and conditions are in backquotes, as Markdown has them.
"""

import json

from harness.scenario.model import Scenario
from harness.scenario.steps import unrolled
from harness.units import format_size


def guest_words(scenario: Scenario) -> str:
    """Format the guest, and how the host backs it where that is unusual."""
    guest, host, balloon = scenario.guest, scenario.host, scenario.balloon
    words = [guest.summary, guest.machine if guest.machine != "pc" else ""]
    words += [f"`{guest.cmdline}`" if guest.cmdline else ""]
    words += [host.backend if host.backend != "anonymous" else ""]
    words += [{"dontneed": "", "free": "MADV_FREE", "slow": "slow discards"}[host.discard]]
    words += [f"limit {format_size(host.memory_limit)}" if host.memory_limit else ""]
    words += ["" if balloon.free_page_reporting else "reporting off"]
    words += [name for name in ("free_page_hint", "deflate_on_oom") if getattr(balloon, name)]
    words += ["statistics"] if balloon.statistics else []
    return ", ".join(word for word in words if word)


def method_words(scenario: Scenario) -> str:
    """Format its steps on one line."""
    return "; ".join(step.in_words() for step in scenario.steps)


def red_words(scenario: Scenario) -> str:
    """Format the fields of its negative control."""
    return ", ".join(f"`{field}: {json.dumps(value)}`" for field, value in scenario.red.items())


def expected_words(scenario: Scenario) -> str:
    """Format its own expectations."""
    return ", ".join(expectations(scenario)) or "nothing; the run only measures"


def expectations(scenario: Scenario) -> list[str]:
    """List its own expectations, those at an audit first, each once."""
    found = [
        f"at *{step.audit_name}* `{measure} {condition}`"
        for _loc, step in unrolled(scenario.steps)
        for measure, condition in step.checks.items()
    ]
    found += [f"`{measure} {condition}`" for measure, condition in scenario.expect.items()]
    return list(dict.fromkeys(found))


def invariants_words(scenario: Scenario) -> str:
    """Format the invariants that it checks."""
    kept = scenario.asked.conditions.items() - scenario.expect.items()
    return ", ".join(f"`{measure} {condition}`" for measure, condition in sorted(kept))
