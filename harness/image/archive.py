# SPDX-License-Identifier: Apache-2.0
"""Packages of any Debian suite, through a private apt root: no root, the host's apt untouched.

Mirror and keyring are the host's own; apt verifies every signature and checksum.
"""

import hashlib
import re
import subprocess
import urllib.parse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.errors import ImageError, PreconditionError

APT_SECONDS = 300.0
_SIDE_SUITES = ("-security", "-updates", "-backports", "-proposed")
_RELEASE_ABSENT = ("does not have a Release file", "404  Not Found")


@dataclass(frozen=True)
class Mirror:
    """Where the host gets Debian from."""

    uri: str
    keyring: str
    """Value of `Signed-By`; empty: the host's trusted.gpg.d."""


@dataclass(frozen=True)
class Package:
    """A downloaded package, as the image's manifest records it."""

    name: str
    version: str
    suite: str
    file: str
    sha256: str


class AptRoot:
    """One suite's private apt state below a directory."""

    def __init__(self, directory: Path, suite: str, progress: Callable[[str], None]) -> None:
        self._directory = directory
        self._suite = suite
        self._progress = progress

    def update(self) -> None:
        """Fetch the suite's lists. Raises `PreconditionError` if it is not served, `ImageError`."""
        mirror = host_mirror()
        self._progress(f"reading the package lists of {self._suite}")
        for name in ("lists/partial", "cache/archives/partial", "state", "packages"):
            (self._directory / name).mkdir(parents=True, exist_ok=True)
        (self._directory / "status").touch()
        signed_by = f"[signed-by={mirror.keyring}] " if mirror.keyring else ""
        line = f"deb {signed_by}{mirror.uri} {self._suite} main\n"
        (self._directory / "sources.list").write_text(line, encoding="utf-8")
        try:
            self._apt("apt-get", "update", "--error-on=any")
        except ImageError as error:
            if any(words in error.message for words in _RELEASE_ABSENT):
                raise PreconditionError(
                    f"the archive this host uses does not serve the suite {self._suite}",
                    hint="use another image, or a mirror that has the suite",
                ) from error
            raise

    def closure(self, names: Sequence[str]) -> list[str]:
        """The packages and all they depend on, without virtual ones."""
        text = self._apt(
            "apt-cache",
            "depends",
            "--recurse",
            *(f"--no-{kind}" for kind in ("recommends", "suggests", "conflicts", "breaks")),
            *(f"--no-{kind}" for kind in ("replaces", "enhances")),
            *names,
        )
        return sorted(set(re.findall(r"^([a-z0-9][a-z0-9+.-]*)(?::\S+)?$", text, re.MULTILINE)))

    def download(self, names: Sequence[str]) -> list[tuple[Package, Path]]:
        """Have packages on disk, each as the signed lists describe it. Raises `ImageError`."""
        packages = self._directory / "packages"
        # Not in `packages`: apt names only what is not yet in the working directory.
        wanted = self._apt("apt-get", "download", "--print-uris", *names, cwd=self._directory)
        found = [
            (_package(self._suite, file, sha256), packages / file)
            for file, sha256 in re.findall(r"^'\S+' (\S+) \d+ SHA256:(\w+)", wanted, re.MULTILINE)
        ]
        if not found:
            raise ImageError(
                f"the archive lists no package for {', '.join(names) or 'the image'}",
                hint="check the package names in the image definition",
            )
        missing = [package.name for package, path in found if not _is_intact(path, package.sha256)]
        if missing:
            self._progress(f"fetching {len(missing)} packages of {self._suite}")
            self._apt("apt-get", "download", *missing, cwd=packages)
        for package, path in found:
            if not _is_intact(path, package.sha256):
                raise ImageError(
                    f"the package {path} is not what the archive's signed list says",
                    hint="delete it and try again; is the disk full?",
                )
        return found

    def _apt(self, program: str, *arguments: str, cwd: Path | None = None) -> str:
        root = self._directory
        settings = {
            "APT::Architecture": "amd64",
            "APT::Architectures": "amd64",
            "APT::Sandbox::User": "",
            "Acquire::Languages": "none",
            "Dir::State": f"{root}/state",
            "Dir::State::lists": f"{root}/lists",
            "Dir::State::status": f"{root}/status",
            "Dir::Cache": f"{root}/cache",
            "Dir::Etc::sourcelist": f"{root}/sources.list",
            "Dir::Etc::sourceparts": "/dev/null",
        }
        options = [word for key, value in settings.items() for word in ("-o", f"{key}={value}")]
        return run_tool([program, *options, *arguments], cwd=cwd)


def _package(suite: str, file: str, sha256: str) -> Package:
    """From a file name such as `busybox_1%3a1.35.0-4_amd64.deb`: version `1:1.35.0-4`."""
    name, version, _architecture = file.split("_")
    return Package(name, urllib.parse.unquote(version), suite, file, sha256)


def _is_intact(path: Path, sha256: str) -> bool:
    return path.exists() and hashlib.sha256(path.read_bytes()).hexdigest() == sha256


def run_tool(command: Sequence[str], *, cwd: Path | None = None) -> str:
    """Run a program of the host and return what it prints. Raises `ImageError`."""
    try:
        done = subprocess.run(
            command,
            cwd=cwd,
            capture_output=True,
            text=True,
            timeout=APT_SECONDS,
            stdin=subprocess.DEVNULL,
            check=False,
        )
    except FileNotFoundError as error:
        raise ImageError(
            f"{command[0]} is not installed, and guest images are made with it",
            hint=f"install it, or build the image on a Debian machine ({command[0]} is in `apt` "
            "or `dpkg` there)",
        ) from error
    except subprocess.TimeoutExpired as error:
        raise ImageError(
            f"{command[0]} {command[-1]} did not end in {APT_SECONDS:.0f} s",
            hint="is the archive reachable?",
        ) from error
    if done.returncode:
        seen = "\n".join((done.stderr or done.stdout).strip().splitlines()[-6:])
        raise ImageError(
            f"{command[0]} failed with status {done.returncode}:\n{seen}",
            hint="see what it says above; is the archive reachable, the disk full?",
        )
    return done.stdout


def host_mirror() -> Mirror:
    """The archive in the host's own apt configuration. Raises `ImageError` if there is none."""
    text = run_tool(
        [
            "apt-get",
            "indextargets",
            "--format",
            "$(REPO_URI) $(RELEASE) $(SOURCESENTRY)",
            "Created-By: Packages",
        ]
    )
    for line in text.splitlines():
        uri, release, entry = line.split(" ", 2)
        if not release.endswith(_SIDE_SUITES):
            path, _, number = entry.rpartition(":")
            return Mirror(uri, signed_by(Path(path).read_text(encoding="utf-8"), int(number)))
    raise ImageError(
        "this host's apt knows no package archive",
        hint="configure one in /etc/apt/sources.list.d (guest kernels are Debian packages)",
    )


def signed_by(sources: str, entry: int) -> str:
    """The `Signed-By` of a sources file: of stanza or line number `entry`, counted from 1.

    Understands both formats of sources.list(5); empty if it has none.
    """
    if re.search(r"^(deb|deb-src)\s", sources, re.MULTILINE):
        line = sources.splitlines()[entry - 1]
        match = re.search(r"\[[^]]*\bsigned-by=([^]\s]+)", line, re.IGNORECASE)
        return match[1] if match else ""
    stanzas = [s for s in re.split(r"\n\s*\n", sources) if re.search(r"^URIs:", s, re.M | re.I)]
    match = re.search(r"^Signed-By:[ \t]*(/\S+)", stanzas[entry - 1], re.M | re.I)
    return match[1] if match else ""
