# SPDX-License-Identifier: Apache-2.0
"""The directory of one run's files."""

from pathlib import Path

from harness.errors import RecordError

_PARTS = ("samples", "audits")


PICTURE_NUMBER = 0
"""Of the picture at the peak (`harness.record.events.Pictured`) among the audits' files."""


def audit_path(directory: Path, number: int, name: str) -> Path:
    """Return the path of an audit's file; `number` counts the run's audits from 1."""
    return directory / "audits" / f"{number:02}-{name}.npz"


class RunDirectory:
    """The directory of a run; a later attempt moves the previous one's files into `attempt-N`."""

    def __init__(self, path: Path, attempt: int) -> None:
        self.path = path
        self._attempt = attempt

    def create(self) -> None:
        """Make the directory, with `samples` and `audits` in it. Raises `RecordError`."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            earlier = self.path.with_name(self.path.name + ".earlier")
            if self._attempt > 1 and self.path.exists():
                self.path.rename(earlier)
            # Not one that is there, nor through a link: whoever made it could still change it.
            self.path.mkdir()
            if earlier.exists():
                # Beside each other, not the first within the second.
                for before in earlier.glob("attempt-*"):
                    before.rename(self.path / before.name)
                earlier.rename(self.path / f"attempt-{self._attempt - 1}")
            for name in _PARTS:
                (self.path / name).mkdir()
        except OSError as error:
            raise RecordError(
                f"cannot make the results directory {self.path}: {error.strerror}",
                hint="free space on the disk, or choose another directory with --results DIR",
            ) from error
