# SPDX-License-Identifier: Apache-2.0
"""Turn pydantic's errors into messages for the person who wrote the file."""

import difflib
from collections.abc import Collection, Iterator
from typing import Annotated, Any, get_args, get_origin

from pydantic import BaseModel, Tag

Candidates = list[tuple[str | None, type[BaseModel]]]
"""Models that a mapping may be, each with its tag in a discriminated union."""

_KINDS = {
    "string_type": "text",
    "int_type": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "list_type": "a list",
    "tuple_type": "a list",
    "dict_type": "a mapping (`field: value`)",
    "model_type": "a mapping (`field: value`)",
    "mapping_type": "a mapping (`field: value`)",
}


LONGEST_WORD = 64
"""Characters of the longest word for which a near miss is searched."""


def near_miss(word: str, known: Collection[str]) -> str:
    """Return `; did you mean 'memory'`, or "" if no known word is close."""
    if len(word) > LONGEST_WORD:
        return ""
    close = difflib.get_close_matches(word, list(known), n=1)
    return f"; did you mean {close[0]!r}" if close else ""


def describe(model: type[BaseModel], details: Any) -> str:
    """Say what is wrong and what was expected, from one of pydantic's `ErrorDetails`."""
    kind: str = details["type"]
    if kind == "missing":
        return "missing"
    if kind == "extra_forbidden":
        *parents, name = details["loc"]
        known = sorted(known_fields(model, tuple(parents)))
        return f"unknown field{near_miss(str(name), known)}; fields are: {', '.join(known)}"
    if kind == "value_error":
        return str(details["ctx"]["error"])
    shown = repr(details["input"])
    shown = shown if len(shown) <= 60 else shown[:57] + "..."
    if kind not in _KINDS and kind != "literal_error":
        said = str(details["msg"])
        wanted = said.removeprefix("Input should be ")
        return said if wanted == said else f"must be {wanted}, not {shown}"
    if kind == "literal_error":
        wanted = details["ctx"]["expected"]
        words = [word.strip("'") for word in wanted.replace(" or ", ", ").split(", ")]
        return f"{shown} is not one of {wanted}{near_miss(str(details['input']), words)}"
    return f"must be {_KINDS[kind]}, not {shown}"


def known_fields(model: type[BaseModel], loc: tuple[str | int, ...]) -> set[str]:
    """Return the field names that a mapping at `loc` may use, according to the annotations."""
    here: Candidates = [(None, model)]
    for part in loc:
        if isinstance(part, int):
            continue
        tagged: Candidates = [(None, member) for tag, member in here if tag == part]
        inside: Candidates = [
            found
            for _tag, member in here
            if part in member.model_fields
            for found in _models(member.model_fields[part].annotation)
        ]
        here = tagged or inside or here  # neither: a key of a plain mapping
    return {name for _tag, member in here for name in member.model_fields}


def _models(
    annotation: Any, tag: str | None = None
) -> Iterator[tuple[str | None, type[BaseModel]]]:
    """Yield every model in an annotation, with its tag in a discriminated union."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield tag, annotation
    for argument in get_args(annotation):
        if get_origin(annotation) is Annotated:
            tags = [meta.tag for meta in annotation.__metadata__ if isinstance(meta, Tag)]
            tag = tags[0] if tags else tag
        yield from _models(argument, tag)
