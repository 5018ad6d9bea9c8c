# SPDX-License-Identifier: Apache-2.0
"""Read a bundle that may come from anybody: all of it is checked before anything is used.

Nothing is unpacked by name except into a directory of the reader's own, and no member is read past
the size that the manifest gives it.
"""

import contextlib
import gzip
import hashlib
import json
import os
import tarfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Self

from pydantic import ValidationError

from harness import __version__
from harness.errors import RecordError, UsageError
from harness.file_kind import why_not
from harness.record.bundle_manifest import (
    KERNELS,
    MANIFEST,
    MANIFEST_BYTES,
    MOST_BYTES,
    MOST_FILES,
    SCENARIO_BYTES,
    SCENARIOS,
    BundleManifest,
    is_member_name,
)
from harness.regular_file import open_regular

_CHUNK = 1 << 20
_NAME_ONE = "name a bundle of `run --bundle`"
_HEADER_BYTES = 64 << 10
"""Of an extended header, which holds a long name."""


class _Header(tarfile.TarInfo):
    """A header that tarfile is not to read into memory whole, whatever size it claims."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        found = super().frombuf(buf, encoding, errors)
        if found.type not in tarfile.REGULAR_TYPES and found.size > _HEADER_BYTES:
            raise tarfile.ReadError(f"a header of {found.size} bytes")
        return found


class Bundle:
    """A bundle whose every member is what its manifest says."""

    def __init__(self, path: Path) -> None:
        """Check the whole file. Raises `UsageError` if there is none, and `RecordError` if it is
        truncated, was changed, or holds what no bundle holds."""
        self.path = path
        if not os.path.exists(path):  # noqa: PTH110 - Path.exists() raises for want of permission
            raise UsageError(f"{path}: {why_not(path, 'a bundle', 'no such file')}", hint=_NAME_ONE)
        self._scenarios: dict[str, bytes] = {}
        with self._members() as members:
            self.manifest = self._read_manifest(members)
            self._check_files(members)
        self._check_references()

    def scenario(self, member: str) -> bytes:
        """Return the text of a scenario."""
        return self._scenarios[member]

    def unpack_kernels(self, directory: Path) -> dict[str, Path]:
        """Write the kernels and initramfs into a directory; returns their paths by checksum.

        Raises `RecordError`.
        """
        found: dict[str, Path] = {}
        with self._members() as members:
            for member, content in members:
                room, _, digest = member.name.partition("/")
                if room == KERNELS:
                    found[digest] = directory / digest
                    with found[digest].open("xb") as file:
                        self._check_content(member, content, into=file)
        return found

    @contextlib.contextmanager
    def _members(self) -> Iterator[Iterator[tuple[tarfile.TarInfo, IO[bytes]]]]:
        """Open the file; what is wrong with its form is one `RecordError`."""
        try:
            with (
                open_regular(self.path) as file,
                gzip.GzipFile(fileobj=file, mode="rb") as plain,
                tarfile.open(fileobj=plain, mode="r|", tarinfo=_Header) as tar,
            ):
                yield self._each(tar)
                # To its end, whose checksum tells whether it is whole.
                if len(plain.read(tarfile.RECORDSIZE + 1)) > tarfile.RECORDSIZE:
                    raise self._refused("something follows its last member")
        except (EOFError, zlib.error, gzip.BadGzipFile, tarfile.TarError) as error:
            raise self._refused("it is truncated or no bundle", str(error)) from error
        except OSError as error:
            raise RecordError(
                f"cannot read the bundle {self.path}: {error.strerror or error}",
                hint="check its permissions" if isinstance(error, PermissionError) else _NAME_ONE,
            ) from error

    def _each(self, tar: tarfile.TarFile) -> Iterator[tuple[tarfile.TarInfo, IO[bytes]]]:
        met: set[str] = set()
        for member in tar:
            if not member.isreg() or member.issparse():
                raise self._refused(f"its member {member.name!r} is not a regular file")
            if member.name != MANIFEST and not is_member_name(member.name):
                raise self._refused(f"its member {member.name!r} has a name that no bundle holds")
            if member.name in met:
                raise self._refused(f"its member {member.name!r} is there twice")
            met.add(member.name)
            content = tar.extractfile(member)
            assert content is not None
            yield member, content

    def _read_manifest(
        self, members: Iterator[tuple[tarfile.TarInfo, IO[bytes]]]
    ) -> BundleManifest:
        first = next(members, None)
        if first is None or first[0].name != MANIFEST or first[0].size > MANIFEST_BYTES:
            raise self._refused(f"it does not begin with {MANIFEST}")
        text = first[1].read(MANIFEST_BYTES)
        try:
            manifest = BundleManifest.model_validate_json(text)
        except ValidationError as error:
            self._refuse_other_schema(text)
            found = error.errors()[0]
            place = ".".join(map(str, found["loc"]))
            raise self._refused(f"its manifest is wrong at {place or 'the start'}") from error
        if len(manifest.files) > MOST_FILES:
            raise self._refused(f"it holds more than {MOST_FILES} files")
        if sum(each.bytes for each in manifest.files.values()) > MOST_BYTES:
            raise self._refused(f"its files are larger than {MOST_BYTES >> 30} GiB together")
        return manifest

    def _refuse_other_schema(self, text: bytes) -> None:
        """Raise `RecordError` if another version made the bundle, as far as that can be told."""
        try:
            document = json.loads(text)
        except (ValueError, RecursionError):
            return
        schema = document.get("schema") if isinstance(document, dict) else None
        if isinstance(schema, int) and schema != 1:
            raise RecordError(
                f"{self.path} is a bundle of schema {schema}, made by fpr-harness "
                f"{document.get('harness')!r}; this version, {__version__}, reads 1",
                hint="replay it with the version that made it; nothing of it was run",
            )

    def _check_files(self, members: Iterator[tuple[tarfile.TarInfo, IO[bytes]]]) -> None:
        missing = set(self.manifest.files)
        for member, content in members:
            if member.name not in missing:
                raise self._refused(f"its manifest does not name its member {member.name!r}")
            missing.remove(member.name)
            kept = self._check_content(member, content)
            if kept is not None:
                self._scenarios[member.name] = kept
        if missing:
            raise self._refused(f"its member {min(missing)!r} is missing")

    def _check_content(
        self, member: tarfile.TarInfo, content: IO[bytes], into: IO[bytes] | None = None
    ) -> bytes | None:
        """Check size and checksum, writing it to `into`; returns the text of a scenario."""
        expected = self.manifest.files[member.name]
        if member.size != expected.bytes:
            raise self._refused(
                f"its member {member.name!r} has {member.size} bytes, and its manifest says "
                f"{expected.bytes}"
            )
        scenario = member.name.startswith(f"{SCENARIOS}/")
        if scenario and member.size > SCENARIO_BYTES:
            raise self._refused(f"its member {member.name!r} is too large for a scenario")
        hashed = hashlib.sha256()
        kept = bytearray()
        while chunk := content.read(_CHUNK):
            hashed.update(chunk)
            if scenario:
                kept += chunk
            if into is not None:
                into.write(chunk)
        if hashed.hexdigest() != expected.sha256:
            raise self._refused(f"its member {member.name!r} was changed")
        return bytes(kept) if scenario else None

    def _check_references(self) -> None:
        """Refuse a manifest that names what is not there."""
        names = [run.run for run in self.manifest.runs]
        if twice := sorted(name for name in set(names) if names.count(name) > 1):
            raise self._refused(f"it holds two runs called {twice[0]!r}")
        for run in self.manifest.runs:
            if run.scenario not in self._scenarios:
                raise self._refused(f"the scenario of run {run.run!r} is missing")
            if run.kernel is not None and run.kernel not in self.manifest.kernels:
                raise self._refused(f"the kernel of run {run.run!r} is missing")
        for kernel in self.manifest.kernels.values():
            for digest in (kernel.kernel, kernel.initramfs) if kernel.included else ():
                facts = self.manifest.files.get(f"{KERNELS}/{digest}")
                if facts is None or facts.sha256 != digest:
                    raise self._refused(f"the kernel {kernel.release!r} is missing")

    def _refused(self, what: str, more: str = "") -> RecordError:
        detail = f" ({more})" if more else ""
        return RecordError(
            f"{self.path} cannot be used: {what}{detail}",
            hint="fetch or ask for it again; nothing of it was run",
        )
