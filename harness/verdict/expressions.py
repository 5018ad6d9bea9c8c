# SPDX-License-Identifier: Apache-2.0
"""Parse and evaluate expectations, which scenarios write as `measure: OP EXPRESSION`.

OP is one of `>= <= == != > <`; EXPRESSION is arithmetic (`+ - * /` and parentheses) over numbers,
sizes (`64MiB`), percentages (`95%` is 0.95) and names of measures; `NAME.measure` is the value of
a measure at the audit NAME. An expectation holds, fails, or cannot be judged because a measure was
not taken.
"""

import difflib
import math
import operator
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum

from harness.measure.measures import FAMILIES, MEASURES, registered, unit_of
from harness.measure.terms import Unit
from harness.units import format_size, parse_size

_COMPARISONS: dict[str, Callable[[float, float], bool]] = {
    ">=": operator.ge,
    "<=": operator.le,
    "==": operator.eq,
    "!=": operator.ne,
    ">": operator.gt,
    "<": operator.lt,
}
_TOKEN = re.compile(
    r"\s*(?:(?P<size>\d+(?:\.\d+)?\s*(?:KiB|MiB|GiB|B)\b)|(?P<percent>\d+(?:\.\d+)?\s*%)"
    r"|(?P<number>\d+(?:\.\d+)?(?![\w.]))|(?P<name>[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)?)|(?P<sign>[-+*/()]))"
)
_MOST_TOKENS = 100
"""The most tokens of an expression, as each may nest deeper and Python allows 1000 nested calls."""

_ALLOWED = (
    "write a comparison (>= <= == != > <) and then numbers, sizes such as 64MiB, percentages and "
    "measures, joined by + - * / and parentheses: >= 0.95 * freed_bytes"
)


@dataclass(frozen=True)
class Number:
    value: float


@dataclass(frozen=True)
class Name:
    name: str


@dataclass(frozen=True)
class Operation:
    sign: str
    left: "Expression"
    right: "Expression"


Expression = Number | Name | Operation


@dataclass(frozen=True)
class Condition:
    """A parsed `OP EXPRESSION`."""

    text: str
    comparison: str
    expression: Expression


class Status(StrEnum):
    HOLDS = "holds"
    FAILS = "fails"
    UNKNOWN = "cannot be judged"


@dataclass(frozen=True)
class Outcome:
    """The result of evaluating one expectation."""

    measure: str
    condition: Condition
    status: Status
    sentence: str
    actual: float | None = None
    expected: float | None = None
    missing: tuple[str, ...] = ()
    """Measures that were not taken."""

    @property
    def too_low(self) -> bool:
        """Whether it fails because the measure is below what was expected."""
        return (
            self.status is Status.FAILS
            and self.actual is not None
            and self.expected is not None
            and (
                self.actual < self.expected
                or (self.actual == self.expected and self.condition.comparison == ">")
            )
        )

    @property
    def too_high(self) -> bool:
        """Whether it fails because the measure is above what was expected."""
        return self.status is Status.FAILS and not self.too_low


def check_name(name: str, measured: Collection[str] = ()) -> None:
    """Raise `ValueError` that suggests similar names if no measure has this name.

    `measured` are the names of what the steps measure.
    """
    if name in measured or registered(name) is not None:
        return
    every = sorted({*MEASURES, *measured, *(family.name for family in FAMILIES)})
    near = difflib.get_close_matches(name, every, n=2)
    names = f"did you mean {' or '.join(near)}?" if near else "known: " + ", ".join(every)
    raise ValueError(f"there is no measure {name!r}; {names}")


def parse_condition(text: str) -> Condition:
    """Parse `OP EXPRESSION`. Raises `ValueError` that says what is wrong and what is allowed.

    Names are not looked up; `check_name` does that once it is known what is measured.
    """
    match = re.match(r"\s*(>=|<=|==|!=|>|<)", text)
    if match is None:
        raise ValueError(f"{text!r} does not begin with a comparison; {_ALLOWED}")
    parser = _Parser(text, match.end())
    return Condition(text.strip(), match[1], parser.parse())


def parse_check(text: str) -> tuple[str, Condition]:
    """Parse `measure: OP EXPRESSION`. Raises `ValueError`."""
    name, colon, condition = text.partition(":")
    if not colon:
        raise ValueError(f"{text!r} is not of the form `measure: condition`")
    return name.strip(), parse_condition(condition)


class _Parser:
    """Recursive descent: sum = product {+|- product}, product = atom {*|/ atom}."""

    def __init__(self, text: str, start: int) -> None:
        self._text = text
        self._tokens = self._tokenize(start)
        self._kind, self._value = next(self._tokens)

    def _tokenize(self, at: int) -> Iterator[tuple[str, str]]:
        end, tokens = len(self._text.rstrip()), 0
        while at < end:
            tokens += 1
            if tokens > _MOST_TOKENS:
                raise self._error(f"there are more than {_MOST_TOKENS} numbers and signs")
            match = _TOKEN.match(self._text, at)
            if match is None:
                raise self._error(f"cannot read {self._text[at:].strip()!r}")
            assert match.lastgroup is not None
            yield match.lastgroup, match[match.lastgroup]
            at = match.end()
        yield "end", ""

    def _error(self, what: str) -> ValueError:
        return ValueError(f"{what} in {self._text.strip()!r}; {_ALLOWED}")

    def _next(self) -> str:
        value = self._value
        self._kind, self._value = next(self._tokens)
        return value

    def parse(self) -> Expression:
        result = self._sum()
        if self._kind != "end":
            raise self._error(f"did not expect {self._value!r}")
        return result

    def _sum(self) -> Expression:
        result = self._product()
        while self._value in ("+", "-"):
            result = Operation(self._next(), result, self._product())
        return result

    def _product(self) -> Expression:
        result = self._atom()
        while self._value in ("*", "/"):
            result = Operation(self._next(), result, self._atom())
        return result

    def _atom(self) -> Expression:
        match self._kind, self._value:
            case "size", _:
                return Number(parse_size(self._next()))
            case "percent", _:
                return Number(float(self._next().rstrip("% ")) / 100)
            case "number", _:
                return Number(float(self._next()))
            case "name", _:
                return Name(self._next())
            case _, "-":
                self._next()
                return Operation("-", Number(0), self._atom())
            case _, "(":
                self._next()
                result = self._sum()
                if self._kind == "end" or self._next() != ")":
                    raise self._error("a parenthesis is not closed")
                return result
            case "end", _:
                raise self._error("something is missing at the end")
            case _:
                raise self._error(f"did not expect {self._value!r}")


def names_in(expression: Expression) -> set[str]:
    """The measures an expression refers to."""
    match expression:
        case Number():
            return set()
        case Name(name):
            return {name}
        case Operation(_, left, right):
            return names_in(left) | names_in(right)


def _value(expression: Expression, values: Mapping[str, float]) -> float:
    match expression:
        case Number(value):
            return value
        case Name(name):
            return values[name]
        case Operation("+", left, right):
            return _value(left, values) + _value(right, values)
        case Operation("-", left, right):
            return _value(left, values) - _value(right, values)
        case Operation("*", left, right):
            return _value(left, values) * _value(right, values)
        case Operation(_, left, right):
            return _value(left, values) / _value(right, values)


def evaluate(measure: str, condition: Condition, values: Mapping[str, float]) -> Outcome:
    """Evaluate `measure: condition` over the measures that were taken."""
    missing = sorted(({measure} | names_in(condition.expression)) - set(values))
    if missing:
        sentence = f"{measure} {condition.text} cannot be judged: {', '.join(missing)} not measured"
        return Outcome(measure, condition, Status.UNKNOWN, sentence, missing=tuple(missing))
    actual = values[measure]
    try:
        expected = _value(condition.expression, values)
    except ZeroDivisionError:
        sentence = f"{measure} {condition.text} cannot be judged: it divides by zero"
        return Outcome(measure, condition, Status.UNKNOWN, sentence)
    except OverflowError:
        expected = math.inf
    if not math.isfinite(expected):
        sentence = f"{measure} {condition.text} cannot be judged: its numbers are too large"
        return Outcome(measure, condition, Status.UNKNOWN, sentence)
    holds = _COMPARISONS[condition.comparison](actual, expected)
    shown, wanted = format_measure(measure, actual), format_measure(measure, expected)
    if shown == wanted:
        shown, wanted = f"{actual:.10g}", f"{expected:.10g}"
    return Outcome(
        measure,
        condition,
        Status.HOLDS if holds else Status.FAILS,
        f"{measure} {shown}, expected {condition.comparison} {wanted}",
        actual,
        expected,
    )


def format_measure(measure: str, value: float) -> str:
    """Format a value in the measure's unit."""
    match unit_of(measure):
        case Unit.BYTES:
            return format_size(round(value))
        case Unit.SECONDS:
            return f"{value:.1f} s"
        case _:
            return f"{value:.4g}"


def in_words(values: Mapping[str, float]) -> str:
    """Format values on one line: `settle_seconds 4.5 s, freed_bytes 512MiB`."""
    return ", ".join(f"{name} {format_measure(name, value)}" for name, value in values.items())
