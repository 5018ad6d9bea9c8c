# SPDX-License-Identifier: Apache-2.0
"""YAML files into pydantic models, with file, line and field of every mistake at once.

What a hand-written file never needs and a hostile one might use is refused: duplicate keys (the
last one would win in silence), anchors, aliases and merge keys, tags, oversized and very deep
files.
"""

import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from harness.errors import ScenarioFileError
from harness.yamlwords import describe

M = TypeVar("M", bound=BaseModel)

Loc = tuple[str | int, ...]
"""Where in a file: field names and list indices, as in pydantic's errors."""

MAX_BYTES = 64 * 1024
"""Far above any file written by hand."""
MAX_DEPTH = 20
MAX_VALUE = 4096
"""Characters of one value on a command line."""
MAX_MISTAKES = 50
"""Told of one file: whoever has more has not read the first ones."""

_SCALARS = frozenset(f"tag:yaml.org,2002:{name}" for name in ("null", "bool", "int", "float"))


@dataclass(frozen=True)
class Mistake:
    """One thing wrong at one place."""

    line: int
    """From 1; 0 where the file could not be read at all."""
    loc: Loc
    text: str

    def __str__(self) -> str:
        place = format_loc(self.loc)
        return f"{place}: {self.text}" if place else self.text


@dataclass(frozen=True)
class Document:
    """A YAML file's plain data, with the line of every node."""

    path: Path
    data: dict[str, Any]
    lines: dict[Loc, int]
    """The line of the key for a mapping's entry, of the item itself in a list."""
    mistakes: tuple[Mistake, ...] = ()
    """What was wrong already as YAML: duplicate keys, keys that are not text."""

    def locate(self, loc: Loc) -> tuple[Loc, int]:
        """The deepest node of the file on the way to `loc`, and its line.

        A missing field is at its parent. Parts that are no node of the file (pydantic names the
        members of unions) are passed over.
        """
        node: Loc = ()
        for part in loc:
            if (*node, part) in self.lines:
                node = (*node, part)
        return node, self.lines.get(node, 1)


def format_loc(loc: Loc) -> str:
    """`("steps", 2, "churn")` -> `steps[2].churn`."""
    text = ""
    for part in loc:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


def node_locs(data: Any, loc: Loc = ()) -> Iterator[Loc]:
    """The place of every value inside plain data."""
    yield loc
    if isinstance(data, dict | list):
        for part, value in data.items() if isinstance(data, dict) else enumerate(data):
            yield from node_locs(value, (*loc, part))


def load_model(path: Path, model: type[M]) -> M:
    """The model a YAML file describes. Validators find the file's path in `info.context["path"]`.

    Raises `ScenarioFileError` with every mistake, a line each, sorted by line.
    """
    document = read_document(path)
    value, mistakes = check(document, model)
    if mistakes or value is None:
        raise file_error(path, mistakes)
    return value


def file_error(path: Path, mistakes: Iterable[Mistake]) -> ScenarioFileError:
    """The one error for a file's mistakes: `scenarios/x.yaml:12: steps[2].churn.size: ...`."""
    shown = path
    if path.is_absolute() and path.is_relative_to(Path.cwd()):
        shown = path.relative_to(Path.cwd())
    found = sorted(mistakes, key=lambda mistake: mistake.line)
    lines = [
        f"{shown}:{mistake.line}: {mistake}" if mistake.line else f"{shown}: {mistake}"
        for mistake in found[:MAX_MISTAKES]
    ]
    if len(found) > MAX_MISTAKES:
        lines.append(f"{shown}: and {len(found) - MAX_MISTAKES} more")
    return ScenarioFileError("\n".join(lines))


def check(document: Document, model: type[M]) -> tuple[M | None, list[Mistake]]:
    """Validate: the model, or None and every mistake."""
    try:
        value = model.model_validate(document.data, context={"path": document.path})
    except ValidationError as error:
        # To word a mistake takes a search for what was meant: no more of them than are told.
        told = error.errors(include_url=False)[: MAX_MISTAKES + 1]
        found = [_mistake(document, model, details) for details in told]
        return None, [*document.mistakes, *found]
    return (None if document.mistakes else value), list(document.mistakes)


def _mistake(document: Document, model: type[BaseModel], details: Any) -> Mistake:
    loc: Loc = details["loc"]
    node, line = document.locate(loc)
    if details["type"] == "missing":
        node = (*node, loc[-1])
    return Mistake(line, node, describe(model, details))


def read_document(path: Path) -> Document:
    """Read a YAML file whose top is a mapping. Raises `ScenarioFileError`."""
    text = _read_text(path)
    try:
        _refuse_references(path, text)
        node = yaml.SafeLoader(text).get_single_node()
    except yaml.YAMLError as error:
        raise file_error(path, [_syntax_mistake(text, error)]) from error
    if node is None:
        raise file_error(path, [Mistake(1, (), "the file is empty")])
    if not isinstance(node, yaml.MappingNode):
        wanted = "the file must be a mapping (`field: value`) at its top"
        raise file_error(path, [Mistake(_line(node), (), wanted)])
    builder = _Builder()
    data = builder.build(node, ())
    return Document(path, data, builder.lines, tuple(builder.mistakes))


def _read_text(path: Path) -> str:
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise file_error(path, [Mistake(0, (), "cannot be read: not a regular file")])
        with path.open("rb") as file:
            raw = file.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise file_error(path, [Mistake(0, (), f"cannot be read: {reason}")]) from error
    if len(raw) > MAX_BYTES:
        wanted = f"the file is larger than {MAX_BYTES // 1024} KiB"
        raise file_error(path, [Mistake(0, (), wanted)])
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        wanted = f"not UTF-8 text: byte 0x{raw[error.start]:02x}"
        raise file_error(path, [Mistake(line, (), wanted)]) from error


def _refuse_references(path: Path, text: str) -> None:
    """Raise for anchors, aliases and depth, before anything is built from them."""
    depth = 0
    mistakes: list[Mistake] = []
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        anchor = getattr(event, "anchor", None)
        if anchor is not None:
            what = "alias `*" if isinstance(event, yaml.AliasEvent) else "anchor `&"
            wanted = f"{what}{anchor}` is not allowed; write the value out"
            mistakes.append(Mistake(_line(event), (), wanted))
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
            if depth > MAX_DEPTH:
                wanted = f"nested more than {MAX_DEPTH} deep"
                raise file_error(path, [*mistakes, Mistake(_line(event), (), wanted)])
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
    if mistakes:
        raise file_error(path, mistakes)


def _syntax_mistake(text: str, error: yaml.YAMLError) -> Mistake:
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        words = ", ".join(part for part in (error.problem, error.context) if part)
        return Mistake(error.problem_mark.line + 1, (), f"not YAML: {words}")
    if isinstance(error, yaml.reader.ReaderError):
        line = text.count("\n", 0, error.position) + 1
        return Mistake(line, (), f"not YAML: {error.reason} (character {error.character!r})")
    return Mistake(1, (), f"not YAML: {error}")


def _line(marked: Any) -> int:
    return int(marked.start_mark.line) + 1


@dataclass
class _Builder:
    """Plain data from nodes, with lines and mistakes by the way."""

    lines: dict[Loc, int] = field(default_factory=dict)
    mistakes: list[Mistake] = field(default_factory=list)

    def build(self, node: yaml.Node, loc: Loc) -> Any:
        self.lines.setdefault(loc, _line(node))
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, loc)
        if isinstance(node, yaml.SequenceNode):
            return [self.build(item, (*loc, index)) for index, item in enumerate(node.value)]
        return self._scalar(node, loc)

    def _mapping(self, node: yaml.MappingNode, loc: Loc) -> dict[str, Any]:
        data: dict[str, Any] = {}
        for key_node, value_node in node.value:
            line = _line(key_node)
            key = key_node.value
            if key_node.tag == "tag:yaml.org,2002:merge":
                self.mistakes.append(Mistake(line, loc, "merge key `<<` is not allowed"))
            elif not isinstance(key, str):
                self.mistakes.append(Mistake(line, loc, "a field's name must be plain text"))
            elif key in data:
                first = self.lines[(*loc, key)]
                text = f"given twice; first at line {first}"
                self.mistakes.append(Mistake(line, (*loc, key), text))
            else:
                self.lines[(*loc, key)] = line
                data[key] = self.build(value_node, (*loc, key))
        return data

    def _scalar(self, node: yaml.Node, loc: Loc) -> Any:
        # Everything else (timestamps, binary, a tag of one's own) is its text.
        if node.tag not in _SCALARS:
            return node.value
        try:
            return yaml.constructor.SafeConstructor().construct_object(node)
        except (ValueError, KeyError, ArithmeticError, yaml.YAMLError):
            text = f"{str(node.value)[:40]!r} cannot be read as {node.tag.rpartition(':')[2]}"
            self.mistakes.append(Mistake(self.lines[loc], loc, text))
            return node.value


def parse_value(text: str) -> Any:
    """One value as a file would hold it: `2`, `false`, `50%`, `[1, 2]`, `"quoted"`.

    Raises `ValueError` for a list, mapping or quoted text that is not YAML.
    """
    if len(text) > MAX_VALUE:
        raise ValueError(f"a value of {len(text)} characters is longer than {MAX_VALUE}")
    structured = text[:1] in ("[", "{", '"', "'")
    try:
        if structured:
            _refuse_references(Path("value"), text)
        node = yaml.SafeLoader(text).get_single_node()
    except (yaml.YAMLError, RecursionError) as error:
        if structured:
            raise ValueError(f"{text!r} is not YAML") from error
        return text
    except ScenarioFileError as error:
        raise ValueError(error.message) from error
    # Unquoted, what YAML would read as more than a plain word (`>= 0.95`) is just text.
    plain = isinstance(node, yaml.ScalarNode) and node.value == text
    if node is None or not (structured or plain):
        return text
    builder = _Builder()
    value = builder.build(node, ())
    if builder.mistakes:
        raise ValueError(str(builder.mistakes[0]))
    return value
