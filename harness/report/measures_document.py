# SPDX-License-Identifier: Apache-2.0
"""docs/measures.md: every measure of the registry, a row each."""

from jinja2 import Environment, StrictUndefined

from harness.measure.measures import FAMILIES, MEASURES
from harness.measure.terms import Family, Measure, TakenBy

_TEMPLATE = """\
# The measures

Written by `make docs` from the registry in `harness/measure`: what a scenario can
expect of a run. [How to write an expectation](writing-scenarios.md#expectations).

- `audit`: only a page audit takes it. It is of the latest audit, and absent once `churn`,
  `release`, `pressure`, `balloon`, `plug`, `unplug`, `migrate` or `snapshot` moved memory after it.
  What is told page by page is also absent where more than 5 % of the pages changed while the audit
  looked.
- `await`: an `await` step can wait for it as well.
- The others come from what the run has done so far, with or without an audit.

Every measure can stand in `expect` of the scenario, in `expect` of an audit (what it is at that
moment), and with the name of an earlier audit before it: `before.held_bytes`. One that was not
taken is absent, never 0.

| measure | unit | what | taken by |
|---|---|---|---|
{% for each in measures -%}
| {{ each | cells | join(" | ") }} |
{% endfor %}
`N` is a number and `ZONE` a zone's name: `node0_DMA32_t90_seconds`. `(process|thread)` is one of
both.

Steps take measures of their own names beside these: `run` those that its `measures` lists; `watch`
`NAME_discarded_bytes` and `NAME_reused_1s_fraction`, `..._5s_...` and `..._30s_...`.
"""

_TAKEN = {
    TakenBy.RUN: "-",
    TakenBy.AUDIT: "audit",
    TakenBy.TRACED_AUDIT: "audit, trace",
    TakenBy.AUDIT_OR_HOST: "audit, await",
}


def measures_document() -> str:
    """docs/measures.md."""
    environment = Environment(
        undefined=StrictUndefined,
        autoescape=False,
        keep_trailing_newline=True,
    )
    environment.filters["cells"] = _cells
    return environment.from_string(_TEMPLATE).render(measures=[*MEASURES.values(), *FAMILIES])


def _cells(each: Measure | Family) -> list[str]:
    cells = (f"`{each.name}`", each.unit, each.meaning, _TAKEN[each.taken_by])
    return [cell.replace("|", r"\|") for cell in cells]
