# SPDX-License-Identifier: Apache-2.0
"""Field types of scenario files, which parse text with units into bytes and seconds."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, GetJsonSchemaHandler, PlainValidator, WithJsonSchema
from pydantic_core import CoreSchema

from harness.units import PAGE_SIZE, format_size, parse_duration, parse_size

T = TypeVar("T")

_PERCENT = re.compile(r"(\d+(?:\.\d+)?)\s*%")
_KEBAB = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")
_SNAKE = re.compile(r"[a-z][a-z0-9]*(_[a-z0-9]+)*")
_SIZE_PATTERN = r"\d+(\.\d+)?\s*(B|KiB|MiB|GiB)"
_DURATION_PATTERN = r"\d+(\.\d+)?\s*(ms|s|m|h)"
_SHARE_PATTERN = rf"\d+(\.\d+)?\s*%|{_SIZE_PATTERN}"
_SHARE_WORDS = "write a part of the guest's memory, 50%, or a number with a unit, 512MiB"


@dataclass(frozen=True)
class Share:
    """An amount of memory, in bytes or as a fraction of the guest's configured memory."""

    text: str
    bytes: int = 0
    fraction: float = 0.0

    def of(self, memory: int) -> int:
        """Bytes in a guest of `memory` bytes, rounded down to whole pages."""
        size = self.bytes or int(memory * self.fraction)
        return size // PAGE_SIZE * PAGE_SIZE

    def __str__(self) -> str:
        return self.text


def _text(value: Any, example: str) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{value!r} has no unit; write {example}")  # noqa: TRY004 - for pydantic
    return value


def _size(value: Any) -> int:
    return parse_size(_text(value, "a number and B, KiB, MiB or GiB: 512MiB"))


def _duration(value: Any) -> float:
    return parse_duration(_text(value, "a number and ms, s, m or h: 60s"))


def _share(value: Any) -> Share:
    text = _text(value, _SHARE_WORDS.removeprefix("write "))
    percent = _PERCENT.fullmatch(text.strip())
    if percent is None:
        try:
            share = Share(text, bytes=parse_size(text))
        except ValueError as error:
            raise ValueError(f"{text!r} is not a size; {_SHARE_WORDS}") from error
        if share.bytes < PAGE_SIZE:
            raise ValueError(f"{text!r} is less than a page of {format_size(PAGE_SIZE)}")
        return share
    fraction = float(percent[1]) / 100
    if not 0 < fraction < 1:
        raise ValueError(f"{text!r} must lie between 0% and 100%, both excluded")
    return Share(text, fraction=fraction)


def _share_or(*words: str) -> PlainValidator:
    """Accept a share, or one of the words for a size that only the running guest knows."""

    def validate(value: Any) -> Share | str:
        return str(value) if value in words else _share(value)

    return PlainValidator(validate)


def _kebab(value: str) -> str:
    if not _KEBAB.fullmatch(value) or len(value) > 64:
        raise ValueError(
            f"{value!r} must be small letters, digits and single hyphens, at most 64: reclaim-basic"
        )
    return value


def _snake(value: str) -> str:
    if not _SNAKE.fullmatch(value) or len(value) > 64:
        raise ValueError(
            f"{value!r} must be small letters, digits and single underscores, at most 64; the "
            "name of a size ends in _bytes, of a time in _seconds"
        )
    return value


def _not_empty(value: tuple[T, ...]) -> tuple[T, ...]:
    if not value:
        raise ValueError("must have at least one item")
    return value


def _kernel_words(value: str) -> str:
    if not value.isprintable():
        raise ValueError("the kernel command line must be one line of printable characters")
    return value


def list_of(item: Any) -> Any:
    """Return the type of a list of at least one `item`, a type that is only known at run time."""
    return Annotated[tuple[item, ...], NotEmpty, _AtLeastOne()]


def _pattern(pattern: str, example: str, *words: str) -> WithJsonSchema:
    """JSON Schema of text that matches the whole pattern, or of one of the words."""
    schema: dict[str, Any] = {"type": "string", "pattern": f"^({pattern})$", "examples": [example]}
    return WithJsonSchema({"anyOf": [{"enum": list(words)}, schema]} if words else schema)


class _AtLeastOne:
    """Adds `minItems: 1` to the JSON Schema of a list."""

    def __get_pydantic_json_schema__(
        self, core: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        return handler(core) | {"minItems": 1}


_SIZE = PlainValidator(_size)
_SECONDS = PlainValidator(_duration)


def has_unit(metadata: Sequence[Any]) -> bool:
    """Whether files write the field's value with a unit; `metadata` comes from its `FieldInfo`."""
    return _SIZE in metadata or _SECONDS in metadata


def shown(value: Any, metadata: Sequence[Any]) -> str:
    """Format a field's value as a file would hold it; `metadata` comes from its `FieldInfo`."""
    if _SIZE in metadata:
        return format_size(value)
    if _SECONDS in metadata:
        return f"{value:g}s" if value >= 1 else f"{value * 1000:g}ms"
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {condition}" for name, condition in value.items())
    return str(value).lower() if isinstance(value, bool) else str(value)


Size = Annotated[int, _SIZE, _pattern(_SIZE_PATTERN, "512MiB")]
"""`512MiB` in the file, bytes in the model."""
Seconds = Annotated[float, _SECONDS, _pattern(_DURATION_PATTERN, "60s")]
"""`60s` in the file, seconds in the model."""
MemoryShare = Annotated[Share, PlainValidator(_share), _pattern(_SHARE_PATTERN, "50%")]
"""`50%` or `512MiB` in the file."""
MemoryShareOrAll = Annotated[
    Share | Literal["all"], _share_or("all"), _pattern(_SHARE_PATTERN, "50%", "all")
]
BusySize = Annotated[
    Share | Literal["batch", "all-but-half-a-batch"],
    _share_or("batch", "all-but-half-a-batch"),
    _pattern(_SHARE_PATTERN, "50%", "batch", "all-but-half-a-batch"),
]
"""A share, or one of two words. `batch`: 32 blocks of the reporting order, the capacity of one
report. `all-but-half-a-batch`: the free memory above the minimum watermarks less half a batch,
which can be allocated unless a batch is isolated for reporting."""
Name = Annotated[str, AfterValidator(_kebab), _pattern(_KEBAB.pattern, "reclaim-basic")]
"""Name of a file or directory, in kebab-case."""
MeasureName = Annotated[str, AfterValidator(_snake), _pattern(_SNAKE.pattern, "boot_seconds")]
"""Name of what a step measures, in snake_case."""
NotEmpty = AfterValidator(_not_empty)
"""For tuples. Pydantic's `min_length` would also complain about a list whose items are all wrong.
"""
CommandLine = Annotated[str, AfterValidator(_kernel_words)]
