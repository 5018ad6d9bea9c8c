# SPDX-License-Identifier: Apache-2.0
"""The steps of a scenario: one frozen model for each verb, and the union of them.

A new verb is a model here and a member of `Step` (and a function in `harness.act.steps`).
"""

import typing
from collections.abc import Iterator
from typing import Annotated, Any, ClassVar, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    StrictInt,
    Tag,
    model_validator,
)

from harness.scenario.expectations import Expectations
from harness.scenario.fields import MemoryShare, Name, NotEmpty, Seconds
from harness.yamlwords import near_miss


class Part(BaseModel):
    """Base of everything in a scenario file."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class _Verb(Part):
    """Base of the steps: in the file a mapping with one key, the verb, over its fields."""

    verb: ClassVar[str]

    @model_validator(mode="before")
    @classmethod
    def _unwrap(cls, data: Any) -> Any:
        if isinstance(data, dict) and set(data) == {cls.verb}:
            return {} if data[cls.verb] is None else data[cls.verb]
        return data


class SettleStep(_Verb):
    """Wait until the guest has reported all it can, or evidently will not."""

    verb: ClassVar[str] = "settle"
    deadline: Seconds = 60.0


class ChurnStep(_Verb):
    """Fill memory, hold it, verify it at the end of the hold, free it."""

    verb: ClassVar[str] = "churn"
    size: MemoryShare
    pattern: Literal["seeded"] = "seeded"
    hold: Seconds = 1.0
    hugepages: Literal["default", "never", "always"] = "default"
    free: Literal["all", "half-of-blocks", "half-of-pages"] = "all"
    """`half-of-blocks`: every second whole physical block of the reporting order, `half-of-pages`:
    every second page; the rest stays held until a `release` step, the next `churn`, or the end."""
    seed: Annotated[StrictInt, Field(ge=0, lt=1 << 64)] | None = None
    """None: one that the run derives."""


class VerifyStep(_Verb):
    """Compare all that is held with what was written."""

    verb: ClassVar[str] = "verify"


class ReleaseStep(_Verb):
    """Free all that is held."""

    verb: ClassVar[str] = "release"


class AuditStep(_Verb):
    """Look at every page, and check what is expected of this very audit."""

    verb: ClassVar[str] = "audit"
    name: Name = "audit"
    expect: Expectations = Field(default_factory=dict)


class UnbindStep(_Verb):
    """Take the balloon driver off its device in the guest."""

    verb: ClassVar[str] = "unbind"


class BindStep(_Verb):
    """Give the balloon device its driver again."""

    verb: ClassVar[str] = "bind"


class PressureStep(_Verb):
    """Make the host take what it can from this guest's QEMU; SKIP where the host cannot."""

    verb: ClassVar[str] = "pressure"
    by: Literal["any", "process-madvise", "cgroup-reclaim", "cgroup-limit"] = "any"
    """`any`: the first of them that this host can do."""


class RunStep(_Verb):
    """Run a shell command in the guest; what it starts with `&` goes on."""

    verb: ClassVar[str] = "run"
    command: Annotated[str, Field(min_length=1)]
    deadline: Seconds = 60.0


def _verb_of(data: Any) -> str:
    return data.verb if isinstance(data, _Verb) else str(next(iter(data)))


def _check_verb(known: tuple[str, ...]) -> BeforeValidator:
    """Refuses what is no step before pydantic looks for its model, in a writer's words."""

    def check(data: Any) -> Any:
        if isinstance(data, _Verb):
            return data
        words = f"steps are: {', '.join(known)}"
        if not isinstance(data, dict) or len(data) != 1:
            raise ValueError(f"a step is a mapping with one key, as in `- settle: {{}}`; {words}")
        verb = next(iter(data))
        if verb not in known:
            if verb == RepeatStep.verb:
                raise ValueError("repeat cannot stand inside repeat")
            raise ValueError(f"unknown step {verb!r}{near_miss(verb, known)}; {words}")
        return data

    return BeforeValidator(check)


_SingleStep = (
    Annotated[SettleStep, Tag("settle")]
    | Annotated[ChurnStep, Tag("churn")]
    | Annotated[VerifyStep, Tag("verify")]
    | Annotated[ReleaseStep, Tag("release")]
    | Annotated[AuditStep, Tag("audit")]
    | Annotated[UnbindStep, Tag("unbind")]
    | Annotated[BindStep, Tag("bind")]
    | Annotated[PressureStep, Tag("pressure")]
    | Annotated[RunStep, Tag("run")]
)
_SINGLE_VERBS = tuple(typing.get_args(member)[0].verb for member in typing.get_args(_SingleStep))

SingleStep = Annotated[_SingleStep, Discriminator(_verb_of), _check_verb(_SINGLE_VERBS)]
"""Any step but `repeat`."""


class RepeatStep(_Verb):
    """Carry out the inner steps several times."""

    verb: ClassVar[str] = "repeat"
    times: Annotated[StrictInt, Field(ge=1, le=1000)]
    steps: Annotated[tuple[SingleStep, ...], NotEmpty]


Step = Annotated[
    _SingleStep | Annotated[RepeatStep, Tag("repeat")],
    Discriminator(_verb_of),
    _check_verb((*_SINGLE_VERBS, "repeat")),
]
"""Any step."""


def unrolled(steps: tuple[Step, ...]) -> Iterator[tuple[tuple[str | int, ...], Step]]:
    """Every step as often as it is carried out, with its place in the scenario."""
    for index, step in enumerate(steps):
        if isinstance(step, RepeatStep):
            for _round in range(step.times):
                for inner, single in enumerate(step.steps):
                    yield ("steps", index, "repeat", "steps", inner), single
        else:
            yield ("steps", index), step
