# SPDX-License-Identifier: Apache-2.0
"""The steps of a scenario: one frozen model for each verb, and the union of them.

A new verb is a model here and a member of `Step` (and a function in `harness.act.perform`).
"""

import typing
from collections.abc import Iterator
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    StrictBool,
    StrictInt,
    Tag,
    model_validator,
)

from harness.kernel.reuse import REUSE_SECONDS
from harness.kernel.zones import MAX_ORDER
from harness.measure.measures import HOST_MEASURES
from harness.record.facts import Cause
from harness.scenario.expectations import Expectations
from harness.scenario.fields import (
    BusySize,
    MeasureName,
    MemoryShare,
    MemoryShareOrAll,
    Name,
    NotEmpty,
    Seconds,
    Size,
)
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
    leave_batches: Annotated[StrictInt, Field(ge=0, le=64)] = 0
    """Settled as soon as no more than so many batches remain: what a `busy` guest keeps moving."""


class ChurnStep(_Verb):
    """Fill memory, hold it, verify it at the end of the hold, free it."""

    verb: ClassVar[str] = "churn"
    size: MemoryShare
    pattern: Literal["seeded"] = "seeded"
    hold: Seconds = 1.0
    hugepages: Literal["default", "never", "always"] = "default"
    free: Literal["all", "half-of-blocks", "half-of-pages", "huge-page-tails"] = "all"
    """`half-of-blocks`: every second whole physical block of `order`, `half-of-pages`: every second
    page, `huge-page-tails`: all but the first page of every huge page, which the kernel splits in
    its own time; the rest stays held until a `release` step, the next `churn`, or the end."""
    order: Annotated[StrictInt, Field(ge=0, le=MAX_ORDER)] | None = None
    """Of the blocks of `half-of-blocks`. None: the reporting order."""
    seed: Annotated[StrictInt, Field(ge=0, lt=1 << 64)] | None = None
    """None: one that the run derives."""


class VerifyStep(_Verb):
    """Compare all that is held with what was written."""

    verb: ClassVar[str] = "verify"


class ReleaseStep(_Verb):
    """Free all that is held."""

    verb: ClassVar[str] = "release"


class AuditStep(_Verb):
    """Look at every page, and check what is expected of this very audit.

    Where its name is a plain word, `name.measure` is what the measure was at it.
    """

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


class DrainStep(_Verb):
    """Have the guest's per-CPU lists give their free pages to the buddy allocator."""

    verb: ClassVar[str] = "drain"


class AwaitStep(_Verb):
    """Wait until what the host holds of the guest is so."""

    verb: ClassVar[str] = "await"
    until: Expectations
    """Measures that the host alone tells: `merged_bytes: ">= 64MiB"`."""
    deadline: Seconds

    @model_validator(mode="after")
    def _host_tells(self) -> Self:
        if not self.until or not set(self.until) <= HOST_MEASURES:
            raise ValueError(f"until: can be awaited: {', '.join(sorted(HOST_MEASURES))}")
        return self


def _without_causes(measures: Any) -> Any:
    return dict.fromkeys(measures) if isinstance(measures, list) else measures


class RunStep(_Verb):
    """Run a shell command in the guest; what it starts with `&` goes on."""

    verb: ClassVar[str] = "run"
    command: Annotated[str, Field(min_length=1)]
    lasts: Seconds = 1.0
    """About how long it takes: for the length of the scenario as `list` tells it."""
    deadline: Seconds = 60.0
    measures: Annotated[dict[MeasureName, Cause | None], BeforeValidator(_without_causes)] = Field(
        default_factory=dict
    )
    """What it prints as `name=number`, a line each: a list, or a mapping to what is wrong where the
    number is out of its bounds."""


class RequireStep(_Verb):
    """SKIP unless a shell command in the guest succeeds."""

    verb: ClassVar[str] = "require"
    command: Annotated[str, Field(min_length=1)]
    missing: Annotated[str, Field(min_length=1)]
    """What the guest lacks then, in words for a person."""


class QmpStep(_Verb):
    """Give QEMU a QMP command."""

    verb: ClassVar[str] = "qmp"
    command: Annotated[str, Field(min_length=1)]
    arguments: dict[str, Any] = Field(default_factory=dict)
    event: str = ""
    """An event to wait for after it."""
    deadline: Seconds = 30.0


class BusyStep(_Verb):
    """Keep a process in the guest taking and freeing memory until `calm`."""

    verb: ClassVar[str] = "busy"
    size: BusySize
    hold: Seconds = 0.0
    idle: Seconds = 0.0
    """Between freeing and taking again."""


class CalmStep(_Verb):
    """End what `busy` began. A process that did not last so long breaks the scenario."""

    verb: ClassVar[str] = "calm"


class OrderStep(_Verb):
    """Read the guest's reporting order, after asking it for another where one is given.

    Measured as `order_read`, and where it was asked `order_refused` (1 or 0).
    """

    verb: ClassVar[str] = "order"
    set: Annotated[StrictInt, Field(ge=0, le=32)] | None = None


class SuspendStep(_Verb):
    """Suspend the guest and wake it."""

    verb: ClassVar[str] = "suspend"
    state: Literal["mem", "freeze"]
    """`mem`: S3, `freeze`: s2idle (Documentation/admin-guide/pm/sleep-states.rst)."""
    wake: Literal["qmp", "rtc"] = "qmp"
    deadline: Seconds = 60.0


class PlugStep(_Verb):
    """Plug memory or the balloon into the running guest, and wait until the guest has it."""

    verb: ClassVar[str] = "plug"
    device: Literal["dimm", "virtio-mem", "balloon"]
    size: Size = 0
    """Of the memory."""
    free_page_reporting: StrictBool = True
    """Of the balloon."""
    deadline: Seconds = 60.0

    @model_validator(mode="after")
    def _has_a_size(self) -> Self:
        if (self.device == "balloon") == bool(self.size):
            raise ValueError("memory has a size, the balloon has none")
        return self


class UnplugStep(_Verb):
    """Take a plugged device away from the running guest, and wait until it has let go."""

    verb: ClassVar[str] = "unplug"
    device: Literal["dimm", "virtio-mem", "balloon"]
    deadline: Seconds = 60.0


class BalloonStep(_Verb):
    """Ask the guest by the balloon to make do with so much memory, and wait until it does."""

    verb: ClassVar[str] = "balloon"
    to: MemoryShareOrAll
    deadline: Seconds = 60.0


class WatchStep(_Verb):
    """Follow every discard: how soon does the guest use again what it has reported?"""

    verb: ClassVar[str] = "watch"
    name: MeasureName
    """Measured as NAME_discarded_bytes and NAME_reused_1s_fraction, ..._5s_..., ..._30s_..."""
    duration: Seconds
    """A discard counts only for the horizons that it was watched for."""

    @property
    def measured(self) -> tuple[str, ...]:
        return tuple(
            f"{self.name}_{what}"
            for what in ("discarded_bytes", *(f"reused_{s}s_fraction" for s in REUSE_SECONDS))
        )


class FaultRateStep(_Verb):
    """Measure page faults a second, in the state reporting is in now."""

    verb: ClassVar[str] = "fault_rate"
    by: Literal["process", "thread"] = "process"
    pages: Literal["base", "huge"] = "base"
    duration: Seconds = 1.0


class MigrateStep(_Verb):
    """Move the guest to a second QEMU, or begin to and cancel."""

    verb: ClassVar[str] = "migrate"
    cancel: StrictBool = False
    deadline: Seconds = 120.0


class SnapshotStep(_Verb):
    """Save the guest as savevm does, and go on in a new QEMU with what was saved."""

    verb: ClassVar[str] = "snapshot"
    deadline: Seconds = 120.0


class CrowdStep(_Verb):
    """Start guests like this one, one after another, until they fill a limit; each works first."""

    verb: ClassVar[str] = "crowd"
    limit: Size
    """Bytes all guests together may hold."""
    touch: MemoryShare
    """What each fills and frees."""
    most: Annotated[StrictInt, Field(ge=1, le=64)] = 16
    boot_first: StrictBool = False
    """All `most` guests run before the first works."""


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
    | Annotated[DrainStep, Tag("drain")]
    | Annotated[AwaitStep, Tag("await")]
    | Annotated[RunStep, Tag("run")]
    | Annotated[RequireStep, Tag("require")]
    | Annotated[QmpStep, Tag("qmp")]
    | Annotated[BusyStep, Tag("busy")]
    | Annotated[CalmStep, Tag("calm")]
    | Annotated[OrderStep, Tag("order")]
    | Annotated[SuspendStep, Tag("suspend")]
    | Annotated[PlugStep, Tag("plug")]
    | Annotated[UnplugStep, Tag("unplug")]
    | Annotated[BalloonStep, Tag("balloon")]
    | Annotated[WatchStep, Tag("watch")]
    | Annotated[FaultRateStep, Tag("fault_rate")]
    | Annotated[MigrateStep, Tag("migrate")]
    | Annotated[SnapshotStep, Tag("snapshot")]
    | Annotated[CrowdStep, Tag("crowd")]
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


def measured_by(step: Step) -> tuple[str, ...]:
    """The names under which a step records what it measures."""
    match step:
        case RunStep():
            return tuple(step.measures)
        case WatchStep():
            return step.measured
        case OrderStep():
            return ("order_read", "order_refused")
    return ()
