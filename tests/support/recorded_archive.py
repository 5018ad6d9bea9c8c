# SPDX-License-Identifier: Apache-2.0
"""apt, as it answered for Debian's suites in November 2026 (tests/data/image/archive)."""

from pathlib import Path
from typing import Self

import pytest

from harness.errors import ImageError
from harness.image import archive as archive_module
from harness.image.archive import Mirror

DATA = Path(__file__).parents[1] / "data" / "image" / "archive"


class RecordedArchive:
    """Called in place of the host's programs."""

    def __init__(self) -> None:
        self.updates: list[str] = []
        self.suites = {path.stem.removeprefix("madison-") for path in DATA.glob("madison-*")}

    def __call__(self, command: list[str], *, cwd: Path | None = None) -> str:
        del cwd
        root = Path(command[2]).parent
        suite, verb, names = root.name, command[3], command[4:]
        if verb == "update":
            self.updates.append(suite)
            if suite not in self.suites:
                raise ImageError(f"The repository '{suite}' does not have a Release file.")
            (root / "lists" / "archive_Packages").touch()
            return ""
        if verb == "autoclean":
            return ""
        if verb == "depends":
            return (DATA / f"depends-{suite}.txt").read_text()
        lines = (DATA / f"madison-{suite}.txt").read_text().splitlines()
        if verb == "pkgnames":
            return "\n".join(line.split()[0] for line in lines)
        assert verb == "madison"
        return "\n".join(line for line in lines if line.split()[0] in names)

    @classmethod
    def in_place_of_apt(cls, cache: Path, monkeypatch: pytest.MonkeyPatch) -> Self:
        """Put it in the place of apt, with a cache of its own."""
        fake = cls()
        monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
        monkeypatch.setattr(archive_module, "run_tool", fake)
        monkeypatch.setattr(archive_module, "host_mirror", lambda _suite: Mirror("http://a/", ""))
        return fake
