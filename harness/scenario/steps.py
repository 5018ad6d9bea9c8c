# SPDX-License-Identifier: Apache-2.0
"""The base class of verbs, whose instances are the steps of a scenario.

The verbs are classes of `harness.act.verbs`, one module for each verb or family of verbs. This
room imports none of them; `harness.scenario.vocabulary` is handed them.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict, GetJsonSchemaHandler, model_validator
from pydantic_core import CoreSchema

from harness.scenario.fields import has_unit, shown
from harness.yamlfile import Loc


class Part(BaseModel):
    """Base of all models in a scenario file; the docstring of a field is its documentation."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    @classmethod
    def __get_pydantic_json_schema__(
        cls, core: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        """Write defaults as a file would hold them: `60s`, not 60.0."""
        schema = handler.resolve_ref_schema(handler(core))
        for name, field in cls.model_fields.items():
            if isinstance(field.default, BaseModel):
                del schema["properties"][name]["default"]
            elif has_unit(field.metadata) and not field.is_required():
                schema["properties"][name]["default"] = shown(field.default, field.metadata)
        return schema


@dataclass(frozen=True)
class Situation:
    """What the file alone tells about the guest before a step."""

    memory: int
    """Bytes that the guest boots with."""
    hotplug: int
    """Bytes that can be plugged in addition."""
    measured: frozenset[str]
    """Names of everything that the scenario's steps measure."""
    audits: frozenset[str] = frozenset()
    """Names of the audits taken so far."""
    facts: frozenset[str] = frozenset()
    """What earlier steps changed, for later ones to check: `busy`, `driver unbound`."""

    def having(self, fact: str) -> Self:
        """Return the situation with this fact."""
        return replace(self, facts=self.facts | {fact})

    def lacking(self, fact: str) -> Self:
        """Return the situation without this fact."""
        return replace(self, facts=self.facts - {fact})


class Verb(Part, ABC):
    """Base of the verbs; an instance is a step.

    In a file, a step is a mapping with one key, the verb, whose value holds the fields. A verb's
    docstring is its documentation for writers of scenarios.
    """

    verb: ClassVar[str]
    """The verb's name in a scenario file."""
    breaks_connection: ClassVar[bool] = False
    """Whether it breaks the SSH connection, which processes started earlier must survive."""
    needs_memory_group: ClassVar[bool] = False
    """Whether QEMU must run in its own memory control group, if the host allows one."""
    moves_memory: ClassVar[bool] = False
    """Whether it allocates, frees or moves guest memory, which makes an earlier audit outdated."""
    times_the_guest: ClassVar[bool] = False
    """Whether it measures how fast the guest is, so that no other guest must run on the host."""
    verifies: ClassVar[bool] = False
    """Whether it compares held memory with what was written to it."""
    real_clock: ClassVar[str] = ""
    """Why its guest's clock must be the host's; empty: it may count instructions, too."""
    through_qmp: ClassVar[bool] = False
    """Whether it changes the guest's machine by QMP commands, which no recording contains."""
    holds_steps: ClassVar[bool] = False
    """Whether it carries out other steps; such verbs cannot be nested."""

    @abstractmethod
    def perform(self, guest: Any) -> None:
        """Carry out the step on `guest`, a `harness.act.guest.Guest`. Raises `HarnessError`."""

    def expected_seconds(self, _memory: int) -> float:
        """Estimate its duration under TCG in a guest of `memory` bytes."""
        return 1.0

    def host_memory(self, _memory: int) -> int:
        """Bytes of guest memory that the host may hold during this step; 0: only the guest's own.

        `memory` is the size of the guest in bytes.
        """
        return 0

    @property
    def measured(self) -> tuple[str, ...]:
        """Names of what it measures, besides the harness's own measures."""
        return ()

    @property
    def qmp_commands(self) -> tuple[tuple[str, Mapping[str, Any]], ...]:
        """The QMP commands that the scenario's author chose, each with its arguments."""
        return ()

    @property
    def audit_name(self) -> str | None:
        """The name of the page audit that it takes, if it takes one."""
        return None

    @property
    def checks(self) -> Mapping[str, str]:
        """Conditions by measure that are judged at this step."""
        return {}

    def mistakes(self, _before: Situation) -> Iterator[tuple[Loc, str]]:
        """Yield why it makes no sense in this situation, each time with a place below the verb."""
        return iter(())

    def after(self, before: Situation) -> Situation:
        """Return the situation after this step."""
        return before

    def unrolled(self) -> Iterator[tuple[Loc, "Verb"]]:
        """Yield the single steps that it carries out, each with its place below this one."""
        yield (), self

    def in_words(self) -> str:
        """Describe it on one line: the verb and the fields that differ from their defaults."""
        words = [
            f"{name} {shown(getattr(self, name), field.metadata)}"
            for name, field in type(self).model_fields.items()
            if getattr(self, name) != field.default
        ]
        return f"{self.verb} {', '.join(words)}".strip()

    @classmethod
    def over(cls, _single: Any) -> type["Verb"]:
        """Return the verb with inner steps of type `single`, or itself if it has none."""
        return cls

    @classmethod
    def __get_pydantic_json_schema__(
        cls, core: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        """Describe a mapping with the verb as its key; null will do if no field is required."""
        fields = super().__get_pydantic_json_schema__(core, handler)
        description = fields.pop("description", "")
        if not fields.get("required"):
            fields = {"anyOf": [fields, {"type": "null"}]}
        return {
            "type": "object",
            "description": description,
            "properties": {cls.verb: fields},
            "required": [cls.verb],
            "additionalProperties": False,
        }

    @model_validator(mode="before")
    @classmethod
    def _unwrap(cls, data: Any) -> Any:
        if isinstance(data, dict) and set(data) == {cls.verb}:
            return {} if data[cls.verb] is None else data[cls.verb]
        return data


def unrolled(steps: Iterable[Verb]) -> Iterator[tuple[Loc, Verb]]:
    """Yield every single step as often as it is carried out, with its place in the scenario."""
    for index, step in enumerate(steps):
        for loc, single in step.unrolled():
            yield ("steps", index, *loc), single
