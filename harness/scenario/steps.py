# SPDX-License-Identifier: Apache-2.0
"""What every step of a scenario is, whatever its verb.

The verbs themselves are classes of `harness.act.verbs`, one module for each or for a close family;
`harness.scenario.vocabulary` is handed them. Nothing here knows one of them.
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
    """Base of everything in a scenario file. The string below a field is its documentation."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    @classmethod
    def __get_pydantic_json_schema__(
        cls, core: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        """With defaults as a file would have them: `60s`, not 60.0."""
        schema = handler.resolve_ref_schema(handler(core))
        for name, field in cls.model_fields.items():
            if isinstance(field.default, BaseModel):
                del schema["properties"][name]["default"]
            elif has_unit(field.metadata) and not field.is_required():
                schema["properties"][name]["default"] = shown(field.default, field.metadata)
        return schema


@dataclass(frozen=True)
class Situation:
    """What is known, from the file alone, to hold just before a step."""

    memory: int
    """Bytes the guest boots with."""
    hotplug: int
    """Bytes that can be plugged beside them."""
    measured: frozenset[str]
    """Names of all that the scenario's steps measure."""
    audits: frozenset[str] = frozenset()
    """Names of the audits taken so far."""
    facts: frozenset[str] = frozenset()
    """Words by which verbs tell later steps what they changed: `busy`, `driver unbound`."""

    def having(self, fact: str) -> Self:
        """With this fact."""
        return replace(self, facts=self.facts | {fact})

    def lacking(self, fact: str) -> Self:
        """Without it."""
        return replace(self, facts=self.facts - {fact})


class Verb(Part, ABC):
    """Base of the verbs; an instance is a step. In the file it is a mapping with one key, the verb,
    over its fields.

    The docstring of a verb says what it does, and is its documentation for writers of scenarios.
    """

    verb: ClassVar[str]
    """Its name in a scenario file."""
    breaks_connection: ClassVar[bool] = False
    """The connection to the guest does not survive it; processes started before must."""
    needs_memory_group: ClassVar[bool] = False
    """QEMU runs in a memory control group of its own, where the host allows one."""
    moves_memory: ClassVar[bool] = False
    """It takes, frees or moves memory of the guest: what an audit saw before it is out of date."""
    verifies: ClassVar[bool] = False
    """It compares what is held with what was written."""
    holds_steps: ClassVar[bool] = False
    """It carries out other steps, and cannot stand inside a verb of its kind."""

    @abstractmethod
    def perform(self, guest: Any) -> None:
        """Carry it out on `guest`, a `harness.act.guest.Guest`. Raises `HarnessError`."""

    def expected_seconds(self, _memory: int) -> float:
        """About how long it takes under TCG in a guest of `memory` bytes."""
        return 1.0

    def host_memory(self, _memory: int) -> int:
        """Bytes of guest memory that the host may have to hold while it is carried out on a guest
        of `memory` bytes; 0: no more than that guest's own."""
        return 0

    @property
    def measured(self) -> tuple[str, ...]:
        """The names under which it records what it measures, beside the harness's own measures."""
        return ()

    @property
    def qmp_commands(self) -> tuple[tuple[str, Mapping[str, Any]], ...]:
        """The QMP commands that the file's writer chose, each with its arguments."""
        return ()

    @property
    def audit_name(self) -> str | None:
        """The name of the page audit that it takes, if it takes one."""
        return None

    @property
    def checks(self) -> Mapping[str, str]:
        """Conditions by measure, judged at this very step."""
        return {}

    def mistakes(self, _before: Situation) -> Iterator[tuple[Loc, str]]:
        """What makes it meaningless in this situation: a place below the verb, and why."""
        return iter(())

    def after(self, before: Situation) -> Situation:
        """The situation it leaves."""
        return before

    def unrolled(self) -> Iterator[tuple[Loc, "Verb"]]:
        """The single steps it carries out, each with its place below this one."""
        yield (), self

    def in_words(self) -> str:
        """On one line: the verb and the fields that differ from their defaults."""
        words = [
            f"{name} {shown(getattr(self, name), field.metadata)}"
            for name, field in type(self).model_fields.items()
            if getattr(self, name) != field.default
        ]
        return f"{self.verb} {', '.join(words)}".strip()

    @classmethod
    def over(cls, _single: Any) -> type["Verb"]:
        """The verb with inner steps of the type `single`; one without inner steps is itself."""
        return cls

    @classmethod
    def __get_pydantic_json_schema__(
        cls, core: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        """A mapping with one key, the verb; where no field is required it may stand alone."""
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
    """Every single step as often as it is carried out, with its place in the scenario."""
    for index, step in enumerate(steps):
        for loc, single in step.unrolled():
            yield ("steps", index, *loc), single
