# SPDX-License-Identifier: Apache-2.0
"""Say of each `function+0x1c/0x90 [module]` of a console which lines of the sources it is.

The text is a guest's, which may be hostile, and scripts/decode_stacktrace.sh builds awk programs
and shell arithmetic of the names it reads (5.10 to 7.3). So it gets no line of the console, but
only what has the form of a place, made anew. Where a tree has no script, or the script decodes
nothing, addr2line(1) is asked for the addresses that the symbol tables give.
"""

import contextlib
import filecmp
import mmap
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.errors import DeadlineError, ImageError
from harness.image.build_tree import tree_of
from harness.image.elf import function_addresses
from harness.image.host_program import run_program
from harness.image.kernel import find_kernel, kernel_release
from harness.image.modules import ModuleTree, tree_beside

MOST_PLACES = 160
"""Of one text; an oops with its call trace has some 30, a report of KASAN with three stacks 64."""

DECODE_SECONDS = 60.0
"""For each program; one with all the debug information of a distribution takes seconds a place."""

SCRIPT = Path("scripts/decode_stacktrace.sh")
LONGEST_LINES = 300
"""Characters of the lines of one place, of all functions that were inlined there."""

# Linear in the text: a name begins only where no other character of a name precedes it.
_PLACE = re.compile(
    r"(?<![\w.+])([A-Za-z_][\w.]{0,199})\+0x([0-9a-f]{1,8})/0x([0-9a-f]{1,8})(?![\w.])"
    r"(?: \[([A-Za-z_]\w{0,63})(?: [0-9a-f]{1,40})?\])?",
    re.ASCII,
)
_LINE = re.compile(r"(\S.*):(\d+)(?: \(discriminator \d+\))?")
_ANCHOR = ("kernel_init", "init/main.c")
"""A function of every kernel, and the file it is in: what precedes that is the sources' path."""


@dataclass(frozen=True, order=True)
class Place:
    """Where in a function the kernel was; `module` is empty for the kernel itself."""

    name: str
    offset: int
    size: int
    """Of the function, up to the next one: bytes."""
    module: str = ""

    def __str__(self) -> str:
        beside = f" [{self.module}]" if self.module else ""
        return f"{self.name}+{self.offset:#x}/{self.size:#x}{beside}"


@dataclass(frozen=True)
class DebugFiles:
    """What holds the debug information of a kernel."""

    vmlinux: Path
    modules: ModuleTree | None
    tree: Path | None
    """The tree it was built in."""

    @classmethod
    def of(cls, kernel: Path, booted: Path) -> "DebugFiles":
        """Find those of a kernel by path, of which `booted` is the copy that a guest ran.

        Raises `ImageError`, which says what is missing or does not belong to it.
        """
        path = find_kernel(kernel)
        try:
            if not filecmp.cmp(path, booted, shallow=False):
                raise ImageError(f"{path} was built again since the guest booted it")
            return cls._beside(path)
        except OSError as error:
            raise ImageError(f"cannot read {error.filename}: {error.strerror}") from error

    @classmethod
    def _beside(cls, path: Path) -> "DebugFiles":
        tree = tree_of(path)
        release = kernel_release(path)
        names = ("vmlinux", f"vmlinux-{release}")
        places = [
            directory / name for directory in (tree, path.parent) if directory for name in names
        ]
        places.append(Path("/usr/lib/debug/boot", names[1]))
        vmlinux = next((place for place in places if place.is_file()), None)
        if vmlinux is None:
            raise ImageError(f"there is no vmlinux beside {path}")
        # A build makes it first. One of the same release may still have other lines.
        if tree is not None and vmlinux.stat().st_mtime > path.stat().st_mtime:
            raise ImageError(f"{vmlinux} was built after {path}")
        if not _contains(vmlinux, f"Linux version {release} (".encode()):
            raise ImageError(f"{vmlinux} is of another kernel than {release}")
        return cls(vmlinux, tree_beside(path, release), tree)

    @property
    def script(self) -> Path | None:
        """The tree's own decoder."""
        if self.tree is None:
            return None
        places = (self.tree / SCRIPT, self.tree / "source" / SCRIPT)
        return next((path for path in places if path.is_file()), None)


def _contains(path: Path, words: bytes) -> bool:
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as content:
        return content.find(words) >= 0


def places_in(text: str) -> list[Place]:
    """List the different places in a text, in its order, `MOST_PLACES` at most."""
    found: dict[Place, None] = {}
    for match in _PLACE.finditer(text):
        found[_place(match)] = None
        if len(found) == MOST_PLACES:
            break
    return list(found)


def _place(match: re.Match[str]) -> Place:
    return Place(match[1], int(match[2], 16), int(match[3], 16), match[4] or "")


def with_lines(text: str, lines: Mapping[Place, str]) -> str:
    """Put the lines into a text as decode_stacktrace.sh does: `function (mm/page_alloc.c:12)`."""

    def told(match: re.Match[str]) -> str:
        place = _place(match)
        if (where := lines.get(place)) is None:
            return match[0]
        return f"{place.name} ({where})" + (f" [{place.module}]" if place.module else "")

    return _PLACE.sub(told, text)


def decode(text: str, files: DebugFiles) -> str:
    """Decode what can be decoded; the same text if nothing can.

    Raises `ImageError` where the programs for it are missing, and `InterruptedRunError`.
    """
    places = places_in(text)
    if not places:
        return text
    lines = _by_script(places, files)
    return with_lines(text, lines or _by_addresses(places, files))


def _by_script(places: Sequence[Place], files: DebugFiles) -> dict[Place, str]:
    """Ask the tree's script; nothing if there is none, or it does not answer as expected."""
    if files.script is None or files.tree is None:
        return {}
    asked = "".join(f" {place}\n" for place in places)
    command = ["bash", str(files.script), str(files.vmlinux), "auto", str(files.tree)]
    with tempfile.TemporaryFile() as given:
        given.write(asked.encode())
        given.seek(0)
        try:
            done = run_program(command, DECODE_SECONDS, stdin=given)
        except (OSError, DeadlineError):
            return {}
    answers = done.stdout.splitlines()
    if done.status or len(answers) != len(places):
        return {}
    found = {}
    for place, answer in zip(places, answers, strict=True):
        said = re.fullmatch(rf" *{re.escape(place.name)} \((.+)\)(?: \S+)? *", answer)
        if said and (where := _lines(said[1].split())):
            found[place] = where
    return found


def _lines(words: Sequence[str]) -> str:
    """Join `FILE:LINE` words; empty unless the innermost one is known."""
    known = [word for word in words if _LINE.fullmatch(word)]
    return " ".join(known)[:LONGEST_LINES] if known and known[0] == words[0] else ""


def _by_addresses(places: Sequence[Place], files: DebugFiles) -> dict[Place, str]:
    """Find the lines by the symbol tables and addr2line(1)."""
    anchor = Place(_ANCHOR[0], 0, 1 << 32)
    found: dict[Place, list[str]] = {}
    for module in sorted({place.module for place in places} | {""}):
        path = files.vmlinux if not module else _module_file(module, files)
        if path is not None:
            wanted = [place for place in places if place.module == module]
            found |= _lines_in(path, wanted if module else [*wanted, anchor])
    source = _before_anchor(found.pop(anchor, []))
    told = {place: _lines([w.removeprefix(source) for w in ws]) for place, ws in found.items()}
    return {place: where for place, where in told.items() if where}


def _module_file(module: str, files: DebugFiles) -> Path | None:
    """The module with its debug information; a compressed one is not read."""
    path = files.modules.files.get(module) if files.modules is not None else None
    return path if path is not None and path.suffix == ".ko" else None


def _before_anchor(words: Sequence[str]) -> str:
    """`/home/me/linux/` of `/home/me/linux/init/main.c:1500`; empty if it is not absolute."""
    path = words[-1].rpartition(":")[0] if words else ""
    return path.removesuffix(_ANCHOR[1]) if path.endswith("/" + _ANCHOR[1]) else ""


def _lines_in(path: Path, places: Sequence[Place]) -> dict[Place, list[str]]:
    """Ask for the lines of the places in one ELF file, the innermost function's first.

    Raises `ImageError`.
    """
    known = function_addresses(path, {place: (place.name, place.size) for place in places})
    found: dict[Place, list[str]] = {}
    for section in sorted({section for section, _address in known.values()}):
        here = {place: start for place, (name, start) in known.items() if name == section}
        inside = [] if section == "" else ["-j", section]
        addresses = [hex(start + place.offset) for place, start in here.items()]
        command = ["addr2line", "-a", "-i", *inside, "-e", str(path), *addresses]
        try:
            done = run_program(command, DECODE_SECONDS)
        except (OSError, DeadlineError) as error:
            raise ImageError(
                f"addr2line does not read {path}: {error}", hint="install binutils"
            ) from error
        with contextlib.suppress(ValueError):
            found |= dict(zip(here, _answers(done.stdout), strict=True))
    return found


def _answers(text: str) -> Iterator[list[str]]:
    """Split what `addr2line -a -i` printed: an address, then one line for each function."""
    for part in re.split(r"^0x[0-9a-f]+$", text, flags=re.M)[1:]:
        matches = (_LINE.fullmatch(line) for line in part.split("\n"))
        yield [f"{match[1]}:{match[2]}" for match in matches if match]
