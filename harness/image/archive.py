# SPDX-License-Identifier: Apache-2.0
"""Fetches packages of any Debian suite through a private apt root.

It needs no privileges and leaves the host's apt alone. Mirror and keyring are the host's own; apt
verifies every signature and checksum.
"""

import contextlib
import hashlib
import re
import shutil
import urllib.parse
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from debian.deb822 import Deb822

from harness.errors import DeadlineError, ImageError, PreconditionError
from harness.host_refusal import refusal_hint
from harness.image.cache import is_intact, seal
from harness.image.host_program import run_program
from harness.image.kernel_builds import (
    KernelBuild,
    flavour,
    is_build,
    missing_parts,
    parse_madison,
)

APT_SECONDS = 300.0
_SECURITY = "-security"
_SIDE_SUITES = (_SECURITY, "-updates", "-backports", "-proposed", "-proposed-updates")
_RELEASE_ABSENT = "does not have a Release file"

# Clear the host's hooks, which would change its own apt, and its pins, which could hide packages;
# keep its proxy settings.
_CONFIGURATION = """\
#clear APT::Update;
#clear DPkg;
APT::Architecture "amd64";
APT::Architectures { "amd64"; };
APT::Sandbox::User "";
APT::Get::AllowUnauthenticated "false";
Acquire::AllowInsecureRepositories "false";
Acquire::AllowWeakRepositories "false";
Acquire::AllowDowngradeToInsecureRepositories "false";
Acquire::Languages "none";
Dir::State "%(root)s/state";
Dir::State::lists "%(root)s/lists";
Dir::State::status "%(root)s/status";
Dir::Cache "%(root)s/cache";
Dir::Cache::archives "%(root)s/packages";
Dir::Etc::sourcelist "%(root)s/sources.list";
Dir::Etc::sourceparts "/dev/null";
Dir::Etc::preferences "/dev/null";
Dir::Etc::preferencesparts "/dev/null";
"""


@dataclass(frozen=True)
class Mirror:
    """The archive from which the host gets Debian."""

    uri: str
    keyring: str
    """Value of `Signed-By`: paths or a key's text; empty: the host's trusted.gpg.d."""


@dataclass(frozen=True)
class Package:
    """A downloaded package, as the image's manifest records it."""

    name: str
    version: str
    suite: str
    file: str
    sha256: str


class AptRoot:
    """The private apt state of one suite, below a directory."""

    def __init__(self, directory: Path, suite: str, progress: Callable[[str], None]) -> None:
        self._directory = directory
        self._suite = suite
        self._progress = progress

    def update(self) -> None:
        """Fetch the suite's lists.

        Raises `PreconditionError` if the archive does not serve the suite, and `ImageError`.
        """
        mirror = host_mirror(self._suite)
        self._progress(f"reading the package lists of {self._suite}")
        root = self._directory
        with self._lists_anew():
            self._update(root, mirror)
            seal(root / "lists")
        self._apt("apt-get", "autoclean")

    @contextlib.contextmanager
    def _lists_anew(self) -> Iterator[None]:
        """Run the block without lists; if it fails, restore the old ones.

        apt does not fetch a list again while its signed description is unchanged, even if the list
        itself is damaged.
        """
        lists, known = self._directory / "lists", self._directory / "lists.known"
        try:
            shutil.rmtree(known, ignore_errors=True)
            if lists.exists():
                lists.rename(known)
            yield
        except BaseException:
            if known.exists():
                shutil.rmtree(lists, ignore_errors=True)
                known.rename(lists)
            raise
        shutil.rmtree(known, ignore_errors=True)

    def _update(self, root: Path, mirror: "Mirror") -> None:
        for name in ("lists/partial", "cache", "state", "packages/partial"):
            (root / name).mkdir(parents=True, exist_ok=True)
        (root / "status").touch()
        (root / "apt.conf").write_text(_CONFIGURATION % {"root": root}, encoding="utf-8")
        keyring = mirror.keyring
        if keyring.startswith("-----BEGIN"):
            (root / "keyring.asc").write_text(f"{keyring.strip()}\n", encoding="utf-8")
            keyring = f"{root}/keyring.asc"
        options = f"[signed-by={keyring}] " if keyring else ""
        line = f"deb {options}{mirror.uri} {self._suite} main\n"
        (root / "sources.list").write_text(line, encoding="utf-8")
        try:
            self._apt("apt-get", "update", "--error-on=any")
        except ImageError as error:
            if _RELEASE_ABSENT in error.message:
                raise PreconditionError(
                    f"this host's package archive does not serve the suite {self._suite}",
                    hint="use another image, or a mirror that has the suite",
                ) from error
            raise

    @property
    def is_ready(self) -> bool:
        """Whether the lists are present and intact."""
        lists = self._directory / "lists"
        return any(lists.glob("*_Packages*")) and is_intact(lists)

    def closure(self, names: Sequence[str]) -> list[str]:
        """List the packages and all their dependencies, without virtual packages."""
        text = self._apt(
            "apt-cache",
            "depends",
            "--recurse",
            "--no-recommends",
            "--no-suggests",
            "--no-conflicts",
            "--no-breaks",
            "--no-replaces",
            "--no-enhances",
            *names,
        )
        return sorted(set(re.findall(r"^([a-z0-9][a-z0-9+.-]*)(?::\S+)?$", text, re.MULTILINE)))

    def kernel_builds(self, package: str) -> list[KernelBuild]:
        """List the builds of a kernel package that the suite holds.

        Of a package that stands for the newest build of a flavour, all builds of that flavour.
        """
        wanted = flavour(package)
        names = [package]
        if wanted is not None:
            known = self._apt("apt-cache", "pkgnames", "linux-image-").split()
            names = sorted(name for name in known if is_build(name, wanted))
        builds = self._madison(names)
        if not builds:
            return []
        needed = self._apt("apt-cache", "depends", *(build.package for build in builds))
        missing = missing_parts(needed)
        return [replace(build, missing=missing.get(build.package, ())) for build in builds]

    def versions(self, package: str) -> list[KernelBuild]:
        """List the versions of one package that the suite holds."""
        return self._madison([package])

    def _madison(self, names: Sequence[str]) -> list[KernelBuild]:
        text = self._apt("apt-cache", "madison", *names) if names else ""
        return parse_madison(text, self._suite)

    def download(self, names: Sequence[str]) -> list[tuple[Package, Path]]:
        """Make sure the packages are on disk, as the signed lists describe them.

        Raises `ImageError`.
        """
        packages = self._directory / "packages"
        # Run outside `packages`: apt omits files that are already in the working directory.
        wanted = self._apt("apt-get", "download", "--print-uris", *names, cwd=self._directory)
        found = [
            (_package(self._suite, file, sha256), packages / file)
            for file, sha256 in re.findall(r"^'\S+' (\S+) \d+ SHA256:(\w+)", wanted, re.MULTILINE)
        ]
        if not found:
            raise ImageError(
                f"the archive lists no package for {', '.join(names) or 'this image'}",
                hint="check the package names in the image definition",
            )
        damaged = [(package, path) for package, path in found if not _is_intact(package, path)]
        if damaged:
            self._progress(f"fetching {len(damaged)} packages of {self._suite}")
            for _, path in damaged:
                path.unlink(missing_ok=True)
            self._apt(
                "apt-get", "download", *(package.name for package, _ in damaged), cwd=packages
            )
        for package, path in found:
            if not _is_intact(package, path):
                raise ImageError(
                    f"the package {path} does not match the checksum in the archive's signed list",
                    hint="check that the disk is not full, delete the file and try again",
                )
        return found

    def _apt(self, program: str, *arguments: str, cwd: Path | None = None) -> str:
        return run_tool([program, "-c", str(self._directory / "apt.conf"), *arguments], cwd=cwd)


def _package(suite: str, file: str, sha256: str) -> Package:
    """Parse a file name: `busybox_1%3a1.35.0-4_amd64.deb` has version `1:1.35.0-4`."""
    name, version, _architecture = file.split("_")
    return Package(name, urllib.parse.unquote(version), suite, file, sha256)


def _is_intact(package: Package, path: Path) -> bool:
    return path.exists() and hashlib.sha256(path.read_bytes()).hexdigest() == package.sha256


def run_tool(command: Sequence[str], *, cwd: Path | None = None) -> str:
    """Run a program of the host and return what it prints. Raises `ImageError`."""
    try:
        done = run_program(command, APT_SECONDS, cwd)
    except FileNotFoundError as error:
        raise ImageError(
            f"building guest images needs {command[0]}, which is not installed",
            hint=f"install it, or build the image on a Debian machine ({command[0]} is in `apt` "
            "or `dpkg` there)",
        ) from error
    except OSError as error:
        raise ImageError(f"cannot start {command[0]}: {error}", hint=refusal_hint(error)) from error
    except DeadlineError as error:
        raise ImageError(error.message, hint="check that the archive is reachable") from error
    if done.status:
        seen = "\n".join((done.stderr or done.stdout).strip().splitlines()[-6:])
        raise ImageError(
            f"{command[0]} failed with status {done.status}:\n{seen}",
            hint="see its output above; check that the archive is reachable and the disk not full"
            if command[0] == "apt-get"
            else "see its output above; check that the disk is not full",
        )
    return done.stdout


def host_mirror(suite: str) -> Mirror:
    """Find the archive of a Debian suite in the host's apt configuration.

    Debian serves security updates apart. Raises `ImageError` if there is no archive;
    `PreconditionError` if only that of security updates is missing.
    """
    text = run_tool(
        [
            "apt-get",
            "indextargets",
            "--format",
            "$(ORIGIN)|$(RELEASE)|$(SOURCESENTRY)|$(REPO_URI)",
            "Created-By: Packages",
        ]
    )
    security = suite.endswith(_SECURITY)
    chosen = choose_archive(text, security=security)
    if chosen is None and security:
        raise PreconditionError(
            "this host's apt has no archive of security updates configured",
            hint="add one to /etc/apt/sources.list.d and run `apt-get update` once",
        )
    if chosen is None:
        raise ImageError(
            "this host's apt has no package archive configured",
            hint="configure a Debian mirror in /etc/apt/sources.list.d (guest kernels are Debian "
            "packages) and run `apt-get update` once",
        )
    uri, sources = chosen
    try:
        text = sources.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise ImageError(
            f"cannot read {sources}, which names this host's archive: {error.strerror}",
            hint="make it readable, or build the image as a user who may read it",
        ) from error
    return Mirror(uri, signed_by(text, uri))


def choose_archive(index_targets: str, *, security: bool = False) -> tuple[str, Path] | None:
    """Choose the archive to use: its URI and sources file; None if there is none.

    `index_targets`: lines `ORIGIN|RELEASE|FILE:ENTRY|URI`. Prefers Debian's own archive, whose
    origin apt knows after its first update; otherwise takes the first. `security`: the archive of
    security updates instead.
    """
    known: list[tuple[bool, str, Path]] = []
    for line in index_targets.splitlines():
        origin, release, entry, uri = line.split("|", 3)
        if release.endswith(_SECURITY) if security else not release.endswith(_SIDE_SUITES):
            known.append((origin != "Debian", uri, Path(entry.rpartition(":")[0])))
    if not known:
        return None
    _other, uri, sources = min(known, key=lambda item: item[0])
    return uri, sources


def signed_by(sources: str, uri: str) -> str:
    """Find the `Signed-By` of an archive in the text of a sources file; empty if there is none.

    Reads both formats of sources.list(5); a key embedded in the file is returned as text.
    """
    wanted = uri.rstrip("/")
    # python-debian reads only the deb822 format.
    for line in sources.splitlines():
        match = re.match(r"deb\s+(?:\[([^]]*)\]\s*)?(\S+)", line.strip())
        if match and match[2].rstrip("/") == wanted:
            option = re.search(r"signed-by=(\S+)", match[1] or "", re.IGNORECASE)
            return option[1] if option else ""
    # As lines: a string without a line end it would take for the name of a file.
    for stanza in Deb822.iter_paragraphs(sources.splitlines(), use_apt_pkg=False):
        if wanted in (word.rstrip("/") for word in stanza.get("URIs", "").split()):
            value = stanza.get("Signed-By", "").strip()
            if not value.startswith("-----BEGIN"):
                return ",".join(value.split())
            lines = (line.strip() for line in value.splitlines())
            return "".join("\n" if line == "." else f"{line}\n" for line in lines)
    return ""
