# SPDX-License-Identifier: Apache-2.0
"""Carry out steps several times."""

from collections.abc import Iterator
from typing import Annotated, Any, ClassVar

from pydantic import Field, StrictInt, create_model

from harness.act.guest import Guest
from harness.scenario.fields import NotEmpty, list_of
from harness.scenario.steps import Verb
from harness.yamlfile import Loc


class Repeat(Verb):
    """Carries out the inner steps several times."""

    verb: ClassVar[str] = "repeat"
    holds_steps: ClassVar[bool] = True
    times: Annotated[StrictInt, Field(ge=1, le=1000)]
    """Number of rounds, 1 to 1000."""
    steps: Annotated[tuple[Verb, ...], NotEmpty]
    """Steps of any verb except `repeat`."""

    @classmethod
    def over(cls, single: Any) -> type[Verb]:
        """Return the verb with inner steps of type `single`."""
        description = cls.model_fields["steps"].description
        steps = (list_of(single), Field(description=description))
        return create_model(
            cls.__name__, __base__=cls, __module__=__name__, __doc__=cls.__doc__, steps=steps
        )

    def unrolled(self) -> Iterator[tuple[Loc, Verb]]:
        """Yield the inner steps, once in each round."""
        for _round in range(self.times):
            for index, step in enumerate(self.steps):
                yield (self.verb, "steps", index), step

    def in_words(self) -> str:
        """Describe the inner steps and the number of rounds."""
        return f"{self.times} times ({'; '.join(step.in_words() for step in self.steps)})"

    def perform(self, guest: Guest) -> None:
        """Carry out all rounds. Raises what the inner steps raise."""
        for number in range(1, self.times + 1):
            guest.phase("repeat", f"round {number} of {self.times}")
            for step in self.steps:
                step.perform(guest)
            guest.read_console()
