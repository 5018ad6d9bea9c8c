# SPDX-License-Identifier: Apache-2.0
"""Load YAML files into pydantic models, and report all mistakes at once with their line and field.

Refused are duplicate keys (the last one would silently win), and what a hand-written file does not
need but a hostile one may use: anchors, aliases, merge keys, tags, oversized and deeply nested
files.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from harness.errors import ScenarioFileError
from harness.regular_file import open_regular
from harness.yamlwords import describe

M = TypeVar("M", bound=BaseModel)

Loc = tuple[str | int, ...]
"""A place in a file: field names and list indices, as in pydantic's errors."""

MAX_BYTES = 64 * 1024
"""Far above any file written by hand."""
MAX_DEPTH = 20
MAX_VALUE = 4096
"""Characters of one value on a command line."""
MAX_MISTAKES = 50
"""Mistakes reported of one file."""

_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""libyaml's reads the catalogue ten times as fast; some builds of PyYAML have none."""

_SCALARS = frozenset(f"tag:yaml.org,2002:{name}" for name in ("null", "bool", "int", "float"))


@dataclass(frozen=True)
class Mistake:
    """One mistake at one place of a file."""

    line: int
    """From 1; 0 if the file could not be read at all."""
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
    """For an entry of a mapping the line of its key, for an item of a list its own line."""
    mistakes: tuple[Mistake, ...] = ()
    """Mistakes found before validation: duplicate keys, keys that are not text."""

    def locate(self, loc: Loc) -> tuple[Loc, int]:
        """Return the deepest node of the file on the path to `loc`, and its line.

        A missing field resolves to its parent. Parts that are not nodes of the file are skipped,
        such as the names that pydantic gives to members of unions.
        """
        node: Loc = ()
        for part in loc:
            if (*node, part) in self.lines:
                node = (*node, part)
        return node, self.lines.get(node, 1)


def format_loc(loc: Loc) -> str:
    """Format a place: `("steps", 2, "churn")` -> `steps[2].churn`."""
    text = ""
    for part in loc:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


def node_locs(data: Any, loc: Loc = ()) -> Iterator[Loc]:
    """Yield the place of every value in plain data."""
    yield loc
    if isinstance(data, dict | list):
        for part, value in data.items() if isinstance(data, dict) else enumerate(data):
            yield from node_locs(value, (*loc, part))


def load_model(path: Path, model: type[M]) -> M:
    """Load a YAML file as `model`. Validators find the file's path in `info.context["path"]`.

    Raises `ScenarioFileError` with one line for each mistake, sorted by line number.
    """
    document = read_document(path)
    value, mistakes = check(document, model)
    if mistakes or value is None:
        raise file_error(path, mistakes)
    return value


def file_error(path: Path, mistakes: Iterable[Mistake]) -> ScenarioFileError:
    """Make one error from a file's mistakes: `scenarios/x.yaml:12: steps[2].churn.size: ...`."""
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
    """Validate a document; return the model, or None and all mistakes."""
    try:
        value = model.model_validate(document.data, context={"path": document.path})
    except ValidationError as error:
        # Wording a mistake searches for near misses, so only those that are reported are worded.
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
        node = _LOADER(text).get_single_node()
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
        with open_regular(path) as file:
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
    """Refuse anchors, aliases and deep nesting before anything is built from them."""
    depth = 0
    mistakes: list[Mistake] = []
    for event in yaml.parse(text, Loader=_LOADER):
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
    """Builds plain data from YAML nodes, and collects lines and mistakes."""

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
        # Everything else (timestamps, binary, unknown tags) stays text.
        if node.tag not in _SCALARS:
            return node.value
        try:
            return yaml.constructor.SafeConstructor().construct_object(node)
        except (ValueError, KeyError, ArithmeticError, yaml.YAMLError):
            text = f"{str(node.value)[:40]!r} cannot be read as {node.tag.rpartition(':')[2]}"
            self.mistakes.append(Mistake(self.lines[loc], loc, text))
            return node.value


def parse_value(text: str) -> Any:
    """Parse one value as a file would hold it: `2`, `false`, `50%`, `[1, 2]`, `"quoted"`.

    Raises `ValueError` for a value that is too long, and for a list, mapping or quoted text that
    is not valid YAML.
    """
    if len(text) > MAX_VALUE:
        raise ValueError(f"a value of {len(text)} characters is longer than {MAX_VALUE}")
    structured = text[:1] in ("[", "{", '"', "'")
    try:
        if structured:
            _refuse_references(Path("value"), text)
        node = _LOADER(text).get_single_node()
    except (yaml.YAMLError, RecursionError) as error:
        if structured:
            raise ValueError(f"{text!r} is not YAML") from error
        return text
    except ScenarioFileError as error:
        raise ValueError(error.message) from error
    # Unquoted text that is not a plain scalar in YAML (`>= 0.95`) stays text.
    plain = isinstance(node, yaml.ScalarNode) and node.value == text
    if node is None or not (structured or plain):
        return text
    builder = _Builder()
    value = builder.build(node, ())
    if builder.mistakes:
        raise ValueError(str(builder.mistakes[0]))
    return value
