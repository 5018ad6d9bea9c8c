# SPDX-License-Identifier: Apache-2.0
"""The verbs that scenario files may use, and the model of a file that uses them.

The loader is handed a `Verbs`, so that nothing in this room imports a verb. The harness's own
verbs are `harness.act.discover.VERBS`.
"""

import importlib
import inspect
import pkgutil
from collections.abc import Iterable, Iterator
from functools import cached_property
from types import ModuleType
from typing import Annotated, Any, Union

from pydantic import BeforeValidator, Discriminator, Field, Tag, create_model

from harness.scenario.fields import list_of
from harness.scenario.model import Scenario
from harness.scenario.steps import Verb
from harness.yamlwords import near_miss


class Verbs:
    """A set of verbs, ordered by name."""

    def __init__(self, verbs: Iterable[type[Verb]]) -> None:
        """Raises `ValueError` if two verbs have the same name."""
        self._by_name: dict[str, type[Verb]] = {}
        for verb in sorted(verbs, key=lambda verb: verb.verb):
            other = self._by_name.setdefault(verb.verb, verb)
            if other is not verb:
                raise ValueError(f"{other} and {verb} are both called {verb.verb!r}")

    @classmethod
    def found_in(cls, package: ModuleType) -> "Verbs":
        """Collect the verbs that the modules of a package define."""
        found: list[type[Verb]] = []
        for info in pkgutil.iter_modules(package.__path__, f"{package.__name__}."):
            module = importlib.import_module(info.name)
            found += [
                member
                for member in vars(module).values()
                if isinstance(member, type)
                and issubclass(member, Verb)
                and member.__module__ == module.__name__
                and not inspect.isabstract(member)
            ]
        return cls(found)

    def __iter__(self) -> Iterator[type[Verb]]:
        return iter(self._by_name.values())

    @property
    def names(self) -> tuple[str, ...]:
        """The verbs as scenario files write them."""
        return tuple(self._by_name)

    @cached_property
    def scenario(self) -> type[Scenario]:
        """The model of a scenario file whose steps use these verbs."""
        single = [verb for verb in self if not verb.holds_steps]
        members = [
            verb.over(self._step(single, inside=verb.verb)) if verb.holds_steps else verb
            for verb in self
        ]
        steps = (
            list_of(self._step(members)),
            Field(description=Scenario.model_fields["steps"].description),
        )
        return create_model(
            Scenario.__name__,
            __base__=Scenario,
            __module__=__name__,
            __doc__=Scenario.__doc__,
            steps=steps,
        )

    def _step(self, members: Iterable[type[Verb]], inside: str = "") -> Any:
        """Return the type of a step that uses `members`; `inside` is the verb that holds it."""
        tagged = {verb.verb: Annotated[verb, Tag(verb.verb)] for verb in members}

        def check(data: Any) -> Any:
            """Refuse what is not a step before pydantic does, with a better message."""
            if isinstance(data, Verb):
                return data
            words = f"steps are: {', '.join(tagged)}"
            if not isinstance(data, dict) or len(data) != 1:
                raise ValueError(
                    f"a step is a mapping with one key, as in `- settle: {{}}`; {words}"
                )
            verb = next(iter(data))
            if verb in tagged:
                return data
            if verb in self._by_name:
                raise ValueError(f"{verb} cannot stand inside {inside}")
            raise ValueError(f"unknown step {verb!r}{near_miss(verb, tagged)}; {words}")

        union = Union[tuple(tagged.values())]  # type: ignore[valid-type] # noqa: UP007
        return Annotated[union, Discriminator(_name_of), BeforeValidator(check)]


def _name_of(data: Any) -> str:
    return data.verb if isinstance(data, Verb) else str(next(iter(data)))
