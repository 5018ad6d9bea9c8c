# SPDX-License-Identifier: Apache-2.0
"""A scenario's expectations: conditions by measure, checked when the file is loaded."""

from collections.abc import Collection, Iterator, Mapping
from typing import Annotated, Any, TypeVar

from pydantic import PlainValidator, ValidationError, WithJsonSchema
from pydantic_core import InitErrorDetails, PydanticCustomError

from harness.measure.measures import needs_audit
from harness.verdict.expressions import check_name, names_in, parse_condition

T = TypeVar("T")

Mistakes = list[tuple[tuple[str | int, ...], str]]
"""Places below the value being validated, and what is wrong there."""

MAX_CONDITION = 200
"""Characters; the limit keeps the recursive parser from deep nesting."""


def raise_mistakes(value: T, mistakes: Mistakes) -> T:
    """Return `value`, or raise pydantic's error if there are mistakes, each with its place."""
    if not mistakes:
        return value
    details = [
        InitErrorDetails(
            type=PydanticCustomError("scenario", "{text}", {"text": text}), loc=loc, input=None
        )
        for loc, text in mistakes
    ]
    raise ValidationError.from_exception_data("scenario", details)


def _check(value: Any) -> dict[str, str]:
    if not isinstance(value, dict):
        raise ValueError(  # noqa: TRY004 - for pydantic
            'must be a mapping of measures to conditions, as in `reclaimed_fraction: ">= 0.95"`'
        )
    mistakes: Mistakes = []
    for measure, condition in value.items():
        try:
            _check_condition(condition)
        except ValueError as error:
            mistakes.append(((measure,), str(error)))
    return raise_mistakes(dict(value), mistakes)


def _check_condition(condition: Any) -> None:
    if not isinstance(condition, str):
        raise ValueError(  # noqa: TRY004 - for pydantic
            f'must be a condition in quotes, as in "== {condition}", not {condition!r}'
        )
    if len(condition) > MAX_CONDITION:
        raise ValueError(f"is longer than {MAX_CONDITION} characters")
    parse_condition(condition)


_JSON_SCHEMA = {
    "type": "object",
    "additionalProperties": {
        "type": "string",
        "pattern": r"^\s*(>=|<=|==|!=|>|<)",
        "maxLength": MAX_CONDITION,
    },
}

Expectations = Annotated[dict[str, str], PlainValidator(_check), WithJsonSchema(_JSON_SCHEMA)]
"""`reclaimed_fraction: ">= 0.95"`: condition by measure, as written."""


def unknown_names(
    conditions: Mapping[str, str], measured: Collection[str], audits: Collection[str]
) -> Iterator[tuple[str, str]]:
    """Yield measures whose conditions use an unknown name, with what is wrong.

    `measured` are the names that the scenario's steps measure, `audits` those of its audits.
    """
    for measure, condition in conditions.items():
        for name in sorted({measure} | names_in(parse_condition(condition).expression)):
            audit, dot, rest = name.rpartition(".")
            if dot and audit not in audits:
                before = f"; audits before it: {', '.join(sorted(audits))}" if audits else ""
                yield measure, f"no audit called {audit!r} comes before{before}"
                continue
            try:
                check_name(rest, measured)
            except ValueError as error:
                yield measure, str(error)


def wants_audit(measure: str, condition: str) -> bool:
    """Whether the expectation uses a measure that only a page audit takes."""
    names = {measure} | names_in(parse_condition(condition).expression)
    return any(needs_audit(name) for name in names)
