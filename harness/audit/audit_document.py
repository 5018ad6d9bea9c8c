# SPDX-License-Identifier: Apache-2.0
"""What an audit has found, as it is shown, written as JSON and compared. Pure."""

import functools
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from pydantic import ConfigDict, TypeAdapter, ValidationError

from harness.audit.account import GuestAccount, Part
from harness.audit.host_side import HostSide
from harness.audit.keepers import Keeper
from harness.audit.qemu_facts import Backend, Balloon
from harness.errors import RecordError

Where = Literal["guest", "host", "qemu", "libvirt"]
"""Where a command is given: in the guest or on the host, as root; on QEMU's command line or over
its monitor; in the domain's definition."""


@dataclass(frozen=True)
class Command:
    """A line that a person can use as it is."""

    where: Where
    line: str


@dataclass(frozen=True)
class Advice:
    """One thing to do, or to know, about the VM's memory."""

    name: str
    size: int | None
    """Bytes that it is about; None if they cannot be known."""
    words: str
    commands: tuple[Command, ...] = ()
    """Alternatives, the mildest first; empty if there is nothing to do."""


@dataclass(frozen=True)
class Vm:
    """The VM that was looked at."""

    pid: int
    name: str
    uuid: str
    user: str
    """Whom QEMU runs as."""
    qemu: str
    """Its version."""
    memory: int
    """Bytes of guest RAM."""


@dataclass(frozen=True)
class Guest:
    """The guest that was looked into."""

    release: str
    reporting: bool
    """Its driver has accepted free page reporting."""
    driver: str | None
    """The driver bound to the balloon; None while unbound."""
    order: int
    """Smallest order of a free block that it reports, or would report."""
    pass_seconds: float
    """Time between two reporting passes."""
    kernel_reports: Literal["yes", "no", "unknown"]
    """Whether its kernel was built with CONFIG_PAGE_REPORTING."""
    poisons: bool
    """It fills freed pages with a pattern, and the device knows: QEMU keeps what is reported."""
    filled_by: str
    """The word of its command line that has freed pages filled (`page_poison=1`,
    `init_on_free=1`); else empty."""
    meminfo: dict[str, int]
    """/proc/meminfo in bytes; HugePages_* are counts."""
    account: GuestAccount | None
    """None if the guest does not show the state of its pages."""
    why_not: str
    """Why there is no account; else empty."""


@dataclass(frozen=True)
class Audit:
    """An audit: `parts` add up to `total`."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(use_attribute_docstrings=True)

    schema: Literal[1]
    at: str
    """UTC, ISO 8601."""
    seconds: float
    """That the audit took."""
    host_seconds: float
    """The share of it that was spent on the host's side."""
    vm: Vm
    total: int
    """Bytes that the VM costs the host."""
    parts: tuple[Part, ...]
    host: HostSide
    backends: tuple[Backend, ...]
    balloon: Balloon | None
    """None: the VM has no balloon device."""
    inhibitors: tuple[str, ...]
    """What keeps QEMU from discarding, as far as its devices tell."""
    guest: Guest | None
    """None if only the host's side was looked at."""
    unknown: tuple[str, ...]
    """What this audit cannot know, in sentences."""
    advice: tuple[Advice, ...]
    keepers: tuple[Keeper, ...] | None
    """Who in the guest keeps its memory, those who keep the most first; None unless asked for."""

    def part(self, name: str) -> int:
        """Return the bytes of a part; 0 if it was not looked at."""
        return sum(part.size for part in self.parts if part.name == name)


@functools.cache
def _adapter() -> TypeAdapter[Audit]:
    """Make it where it is needed: that takes longer than an audit's look at the host."""
    return TypeAdapter(Audit)


def as_json(audit: Audit) -> str:
    """Format an audit as the text of a JSON document."""
    return _adapter().dump_json(audit, indent=2).decode() + "\n"


def from_json(text: str | bytes, name: str) -> Audit:
    """Read what `as_json` wrote. `name`: of the file, for errors. Raises `RecordError`."""
    try:
        return _adapter().validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the document"
        raise RecordError(
            f"{name} is not an audit of this version: {where}: {first['msg']}",
            hint="compare with a file that `fpr-harness audit --json` wrote",
        ) from error


def audit_schema() -> dict[str, Any]:
    """Generate the JSON Schema of the document."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **_adapter().json_schema(mode="serialization"),
        "title": "What fpr-harness audit --json writes",
    }
