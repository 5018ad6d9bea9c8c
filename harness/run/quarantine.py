# SPDX-License-Identifier: Apache-2.0
"""Read a quarantine file: whose runs go on and are shown, and do not make the exit status.

quarantine:
  - scenario: suspend-*            # a pattern, as everywhere a scenario is named
    image: trixie                  # a pattern; absent: every image
    kernel: 6.12.*                 # a pattern of `uname -r`; absent: every kernel
    owner: Ada Lovelace <ada@example.org>
    link: https://bugs.example.org/1
    expires: 2027-01-31            # from the next day on, the file is refused
"""

import datetime
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from harness.record.run_plan import Quarantined
from harness.yamlfile import Mistake, check, file_error, read_document


def _day(value: object) -> datetime.date:
    """Read a day; a number would pass for seconds since 1970."""
    try:
        if isinstance(value, str):
            return datetime.date.fromisoformat(value)
    except ValueError:
        pass
    raise ValueError(f"must be a day such as 2027-01-31, not {value!r}")


_Words = Annotated[str, Field(min_length=1, max_length=300)]


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class _Entry(_Strict):
    scenario: _Words
    image: _Words = "*"
    kernel: _Words = "*"
    owner: _Words
    link: Annotated[str, Field(pattern=r"^https?://\S+$", max_length=300)]
    expires: Annotated[datetime.date, BeforeValidator(_day)]

    def holds(self, scenario: str, image: str, kernel: str) -> bool:
        pairs = ((scenario, self.scenario), (image, self.image), (kernel, self.kernel))
        return all(fnmatchcase(name, pattern) for name, pattern in pairs)


class _File(_Strict):
    quarantine: list[_Entry]


@dataclass(frozen=True)
class Quarantine:
    """The entries of a file, none of which has expired."""

    entries: tuple[_Entry, ...] = ()

    def of(self, scenario: str, image: str, kernel: str | None) -> Quarantined | None:
        """The first entry that holds for a run; `kernel` is None where there is no kernel."""
        for entry in self.entries:
            if entry.holds(scenario, image, kernel or ""):
                return Quarantined(entry.owner, entry.link, entry.expires.isoformat())
        return None


def load_quarantine(path: Path, today: datetime.date) -> Quarantine:
    """Read a quarantine file.

    Raises `ScenarioFileError`, with a line for each mistake and for each entry that has expired.
    """
    document = read_document(path)
    found, mistakes = check(document, _File)
    for index, entry in enumerate(found.quarantine if found is not None else ()):
        if entry.expires < today:
            loc, line = document.locate(("quarantine", index, "expires"))
            mistakes.append(
                Mistake(
                    line,
                    loc,
                    f"expired on {entry.expires}: {entry.scenario} is {entry.owner}'s to mend "
                    f"({entry.link}), or to give a later date",
                )
            )
    if mistakes or found is None:
        raise file_error(path, mistakes)
    return Quarantine(tuple(found.quarantine))
